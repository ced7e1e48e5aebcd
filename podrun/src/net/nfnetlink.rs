//! nfnetlink: how the kernel's netfilter is spoken to, by those who ask nf_tables (`nft`, `elements`) and connection tracking
//! (`conntrack`). Framing and sockets only; what the messages mean is theirs.

#![forbid(unsafe_code)]

use crate::net::netlink;
use crate::sys;
use crate::sys::clone::{Clone, clone3, exit};
use crate::sys::fd;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{recv, sendto, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

// linux/netlink.h and linux/netfilter/nfnetlink.h.

pub(super) const DONE: u16 = 3; // NLMSG_DONE
pub(super) const ERROR: u16 = 2; // NLMSG_ERROR
pub(super) const REQUEST: u16 = 1; // NLM_F_REQUEST
pub(super) const ACK: u16 = 4; // NLM_F_ACK
pub(super) const DUMP: u16 = 0x300; // NLM_F_ROOT | NLM_F_MATCH
pub(super) const NESTED: u16 = 0x8000; // NLA_F_NESTED
pub(super) const INET: u8 = 1; // NFPROTO_INET
pub(super) const UNSPEC: u8 = 0; // NFPROTO_UNSPEC

/// A socket to the kernel's netfilter; none where the kernel has no such thing.
pub(super) fn open() -> nix::Result<Option<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    match socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter) {
        Err(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT) => Ok(None),
        Err(errno) => Err(errno),
        Ok(socket) => {
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
            // The requests of thousands of elements, come back with their refusals, are more than a socket holds (ENOBUFS).
            sys::socket::cap_acknowledgements(socket.as_fd()).map_err(|_| Errno::last())?;
            Ok(Some(socket))
        }
    }
}

/// Sockets that are not closed yet. The kernel makes whoever closes one wait until all that was removed from the firewall
/// has outlived its RCU grace period (nft_rcv_nl_event), some 10 ms and more.
static LATER: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// Closes the socket later: by `let_go`, at the latest with the process.
pub(super) fn close_later(socket: OwnedFd) {
    let Ok(mut later) = LATER.lock() else { return };
    later.push(socket);
    if later.len() >= 64 {
        drop(later);
        let_go();
    }
}

/// Leaves the waiting to a child that does nothing else, and has nothing else open. For the end of a command.
pub fn let_go() {
    let sockets = LATER.lock().map(|mut later| std::mem::take(&mut *later)).unwrap_or_default();
    if sockets.is_empty() {
        return;
    }
    let child = clone3(&Clone::default(), || {
        let mut kept: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        let _ = fd::close_all_but(&mut kept);
        // Nor the caller's pipes: whoever reads them waits for their end.
        if let Ok(null) = fd::open(c"/dev/null", libc::O_RDWR) {
            let _ = (0..3).try_for_each(|number| fd::dup_to(null.as_fd(), number));
        }
        // So long that its parent, which closes first, does not wait.
        std::thread::sleep(Duration::from_millis(5));
        exit(0)
    });
    // Where there is no process to be had, we wait ourselves.
    drop(child);
}

pub(super) fn send(socket: &OwnedFd, message: &[u8]) -> nix::Result<()> {
    sendto(socket.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map(drop)
}

pub(super) fn receive(socket: &OwnedFd) -> nix::Result<Vec<u8>> {
    let mut buffer = vec![0; 1 << 16]; // netlink(7): a dump's messages never exceed 32 KiB
    let read = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    buffer.truncate(read);
    Ok(buffer)
}

pub(super) fn request(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(20 + attributes.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence number and port: the kernel fills in what matters
    message.extend([family, 0, 0, 0]); // nfgenmsg: family, version, resource
    message.extend(attributes);
    message
}

pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

pub(super) fn string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// (type, what follows the netlink header) of each message.
pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    netlink::messages(bytes).map(|message| (u16::from_ne_bytes([message[4], message[5]]), &message[16..]))
}

/// (type without its flag bits, value) of each attribute.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff; // NLA_TYPE_MASK
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(super) fn error_of(body: &[u8]) -> Errno {
    let code = body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
    Errno::from_raw(code.wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cut_short_is_no_message() {
        let whole = request(1, REQUEST, INET, &attribute(1, b"t\0"));
        assert_eq!(messages(&whole).count(), 1);
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0, "{length}");
        }
        let zero_length = [0; 32];
        assert_eq!(messages(&zero_length).count(), 0, "a length of 0 must not loop for ever");
        assert_eq!(attributes(&zero_length).count(), 0);
    }

    #[test]
    fn the_kernels_refusal_is_an_errno() {
        assert_eq!(error_of(&(-libc::ENOENT).to_ne_bytes()), Errno::ENOENT);
        assert_eq!(error_of(&i32::MIN.to_ne_bytes()), Errno::UnknownErrno);
    }

    /// netlink(7): length, type, flags, sequence number and port; then nfnetlink.h's family, version and resource. Attributes
    /// begin at multiples of four, and their length says nothing of what fills them up.
    #[test]
    fn a_message_lies_in_memory_as_the_kernel_reads_it() {
        let of = |numbers: &[u16]| -> Vec<u8> { numbers.iter().flat_map(|number| number.to_ne_bytes()).collect() };
        let attributes_here = [attribute(7, b"12345"), attribute(NESTED | 8, &[9; 4])].concat();
        let expected = [of(&[9, 7]), b"12345\0\0\0".to_vec(), of(&[8, NESTED | 8]), vec![9; 4]].concat();
        assert_eq!(attributes_here, expected);
        let message = request(0x0a0c, REQUEST | ACK, INET, &attributes_here);
        let length = u32::try_from(20 + expected.len()).unwrap().to_ne_bytes().to_vec();
        assert_eq!(message, [length, of(&[0x0a0c, 5]), vec![0; 8], vec![1, 0, 0, 0], expected].concat());
        assert_eq!(string("t"), b"t\0");
        let two = [message.clone(), message.clone()].concat();
        assert_eq!(messages(&two).collect::<Vec<_>>(), [(0x0a0c, &message[16..]), (0x0a0c, &message[16..])]);
        let read: Vec<_> = attributes(&attributes_here).collect();
        assert_eq!(read, [(7, &b"12345"[..]), (8, &[9; 4][..])]);
    }

    /// NFT_MSG_GETGEN changes nothing; its answer names the thread that asked (NFTA_GEN_PROC_PID).
    #[test]
    fn the_kernel_answers_who_asks() {
        const GET_GENERATION: u16 = crate::net::nft::SUBSYSTEM | 16;
        let socket = open().unwrap().expect("a kernel with netfilter");
        assert_eq!(nix::sys::socket::getsockopt(&socket, sockopt::ReceiveTimeout).unwrap(), TimeVal::seconds(5));
        send(&socket, &request(GET_GENERATION, REQUEST, UNSPEC, &[])).unwrap();
        let answer = receive(&socket).unwrap();
        let (kind, body) = messages(&answer).next().unwrap();
        assert_eq!(kind, crate::net::nft::SUBSYSTEM | 15);
        let asker = attributes(&body[4..]).find(|(kind, _)| *kind == 2).unwrap().1;
        assert_eq!(asker, nix::unistd::gettid().as_raw().to_be_bytes());
    }

    /// What is closed later is held until it is let go, or until there are many.
    #[test]
    fn sockets_are_held_until_they_are_let_go_or_many() {
        use crate::sys::clone::poll_one;
        let ended = |reader: &std::io::PipeReader, wait| poll_one(reader.as_fd(), libc::POLLIN, wait).unwrap();
        let later = || {
            let (reader, writer) = std::io::pipe().unwrap();
            close_later(writer.into());
            reader
        };
        let first = later();
        assert!(!ended(&first, 0));
        let_go();
        assert!(ended(&first, 5000));
        let most: Vec<_> = (0..63).map(|_| later()).collect();
        assert!(!ended(&most[0], 50));
        let last = later();
        assert!(ended(&last, 5000) && most.iter().all(|reader| ended(reader, 5000)));
    }
}
