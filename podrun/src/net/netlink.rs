//! netlink(7) towards the kernel's links, addresses and routes: what does not need another's answer goes out together, and
//! each is answered. The messages are the crate rtnetlink's, without its runtime.

#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// A connection to the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

/// One thing that is asked.
#[derive(Debug)]
pub(super) struct Request {
    message: Message,
    flags: u16,
}

impl Request {
    /// What is not to be there yet.
    pub(super) fn make(message: Message) -> Self {
        Self { message, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL }
    }

    /// In the place of what is there, or new.
    pub(super) fn replace(message: Message) -> Self {
        Self { message, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE }
    }

    /// One more of what may be there many times.
    pub(super) fn append(message: Message) -> Self {
        Self { message, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND }
    }

    /// Of what is there: change it, take it away, or tell of it.
    pub(super) fn of(message: Message) -> Self {
        Self { message, flags: NLM_F_ACK }
    }

    /// All that there are.
    pub(super) fn all(message: Message) -> Self {
        Self { message, flags: NLM_F_DUMP }
    }

    fn write(self, packet: &mut Vec<u8>) {
        let mut message = NetlinkMessage::from(self.message);
        message.header.flags = NLM_F_REQUEST | self.flags;
        message.finalize();
        let start = packet.len();
        packet.resize(start + message.buffer_len(), 0);
        message.serialize(&mut packet[start..]);
        packet.resize(packet.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// NLMSG_ALIGNTO.
const ALIGNMENT: usize = 4;

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let route = SockProtocol::NetlinkRoute;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, route)?))
    }

    /// In one packet: the kernel does one after the other, whatever became of those before. What it told; or its first
    /// refusal, when all are answered.
    pub(super) fn ask(&self, requests: impl IntoIterator<Item = Request>) -> io::Result<Vec<Message>> {
        let (mut packet, mut unanswered) = (Vec::new(), 0);
        for request in requests {
            request.write(&mut packet);
            unanswered += 1;
        }
        if unanswered > 0 {
            sendto(self.0.as_raw_fd(), &packet, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        }
        let (mut told, mut refused) = (Vec::new(), None);
        let mut buffer = vec![0; 1 << 15]; // netlink(7): a dump's messages never exceed 32 KiB
        while unanswered > 0 {
            let read = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                read => read?,
            };
            for payload in payloads(&buffer[..read]) {
                match payload {
                    NetlinkPayload::InnerMessage(message) => told.push(message),
                    NetlinkPayload::Error(ErrorMessage { code: None, .. }) | NetlinkPayload::Done(_) => unanswered -= 1,
                    NetlinkPayload::Error(error) => {
                        refused.get_or_insert(error.to_io());
                        unanswered -= 1;
                    }
                    _ => {}
                }
            }
        }
        refused.map_or(Ok(told), Err)
    }
}

/// Those that the crate can read; what is new to it is nothing that was asked for.
fn payloads(bytes: &[u8]) -> impl Iterator<Item = NetlinkPayload<Message>> {
    let read = |message| NetlinkMessage::<Message>::deserialize(message).ok();
    messages(bytes).filter_map(read).map(|message| message.payload)
}

/// Each message of a packet, with its header. One that is cut short is none, nor is what follows it.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    const HEADER: usize = 16;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

    fn named(name: &str) -> Message {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        Message::GetLink(message)
    }

    #[test]
    fn what_is_asked_together_is_answered_together() {
        let socket = Socket::open().unwrap();
        let told = socket.ask([Request::of(named("lo")), Request::of(named("lo"))]).unwrap();
        assert!(matches!(told[..], [Message::NewLink(_), Message::NewLink(_)]), "{told:?}");
        let all = socket.ask([Request::all(Message::GetLink(LinkMessage::default()))]).unwrap();
        assert!(all.iter().all(|message| matches!(message, Message::NewLink(_))) && !all.is_empty());
        assert!(socket.ask([]).unwrap().is_empty());
    }

    /// The next conversation hears nothing of the one before.
    #[test]
    fn the_first_refusal_is_told_when_all_are_answered() {
        let socket = Socket::open().unwrap();
        let asked = [named("lo"), named("nosuch"), Message::DelLink(LinkMessage::default())];
        let refused = socket.ask(asked.map(Request::of)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENODEV), "{refused}");
        assert_eq!(socket.ask([Request::of(named("lo"))]).unwrap().len(), 1);
    }

    #[test]
    fn whatever_comes_is_read_to_its_end() {
        for bytes in
            [&[][..], &[0; 3], &[0; 40], &[255; 40], &[16, 0, 0, 0], &[20, 0, 0, 0, 16, 0, 0, 0, 9, 9, 9, 9, 9]]
        {
            assert_eq!(payloads(bytes).count(), 0, "{bytes:?}");
        }
    }
}
