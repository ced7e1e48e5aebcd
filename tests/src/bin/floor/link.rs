//! rtnetlink(7), as far as the floor needs it: a bridge, a veth whose peer is born elsewhere, a link's master.

#![forbid(unsafe_code)]

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const HEADER: usize = 16;

#[derive(Debug)]
pub(crate) struct Links(OwnedFd);

impl Links {
    pub(crate) fn open() -> io::Result<Self> {
        let route = SockProtocol::NetlinkRoute;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, route)?))
    }

    pub(crate) fn add_bridge(&mut self, name: &CStr) -> io::Result<()> {
        let kind = attribute(IFLA_INFO_KIND, b"bridge");
        let body =
            [blank(), attribute(IFLA_IFNAME, name.to_bytes_with_nul()), attribute(IFLA_LINKINFO, &kind)].concat();
        self.ask(&body, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
    }

    /// One end here and on the bridge, the other as eth0 in the network namespace of `pid`.
    pub(crate) fn add_veth(&mut self, name: &CStr, pid: i32, bridge: i32) -> io::Result<()> {
        let peer =
            [blank(), attribute(IFLA_IFNAME, b"eth0\0"), attribute(IFLA_NET_NS_PID, &pid.to_ne_bytes())].concat();
        let data = attribute(VETH_INFO_PEER, &peer);
        let info = [attribute(IFLA_INFO_KIND, b"veth"), attribute(IFLA_INFO_DATA, &data)].concat();
        let body = [
            blank(),
            attribute(IFLA_IFNAME, name.to_bytes_with_nul()),
            attribute(IFLA_MASTER, &bridge.to_ne_bytes()),
            attribute(IFLA_LINKINFO, &info),
        ]
        .concat();
        self.ask(&body, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
    }

    /// 0 takes it off its bridge.
    pub(crate) fn set_master(&mut self, name: &CStr, master: i32) -> io::Result<()> {
        let body =
            [blank(), attribute(IFLA_IFNAME, name.to_bytes_with_nul()), attribute(IFLA_MASTER, &master.to_ne_bytes())]
                .concat();
        self.ask(&body, 0)
    }

    fn ask(&mut self, body: &[u8], flags: i32) -> io::Result<()> {
        let too_long = |_| io::Error::other("a message too long");
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(u32::try_from(HEADER + body.len()).map_err(too_long)?.to_ne_bytes());
        message.extend(libc::RTM_NEWLINK.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = [0; 1024];
        let len = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        // NLMSG_ERROR: behind the header a negative errno, or 0 for "done".
        match answer.get(HEADER..HEADER + 4).filter(|_| len >= HEADER + 4) {
            Some(code) => match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
                0 => Ok(()),
                errno => Err(io::Error::from_raw_os_error(-errno)),
            },
            None => Err(io::Error::other("a short answer of the kernel")),
        }
    }
}

/// An ifinfomsg that names no link.
fn blank() -> Vec<u8> {
    vec![0; 16]
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut all = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    all.extend(value);
    all.resize(all.len().next_multiple_of(4), 0);
    all
}
