//! Whether a port of the host is free for a pod: asked of the kernel by binding a socket to it for a moment, and, when it
//! is not, who has it.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::net::names;
use crate::spec::port::{Protocol, Wish};
use crate::sys::clone::pids;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockname, setsockopt, socket, sockopt,
};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// That no socket of the host has this port. A name server of podrun's is in nobody's way: it is bound to a bridge, and
/// the rules leave it what its own pods ask.
pub(super) fn probe(wish: &Wish, host: u16) -> Result<()> {
    for address in addresses(wish) {
        match patiently(wish.protocol, SocketAddr::new(address, host)) {
            Ok(_) => {}
            // Every address of the host: of those families that it has.
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) if wish.address.is_none() && address.is_ipv6() => {}
            Err(Errno::EADDRINUSE) if wish.address.is_none() && only_name_servers(wish.protocol, host) => {}
            Err(errno) => return Err(explain(doing(wish, host), wish.protocol, address, host, errno)),
        }
    }
    Ok(())
}

/// A process of podrun's that carried what came by `::1` to the pod that had the port before may be a moment behind.
fn patiently(protocol: Protocol, at: SocketAddr) -> nix::Result<OwnedFd> {
    for _ in 0..20 {
        match attempt(protocol, at) {
            Err(Errno::EADDRINUSE) if who(protocol, at.port()).is_none_or(|who| who.starts_with(INLET)) => {}
            other => return other,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    attempt(protocol, at)
}

/// What such a process is called.
const INLET: &str = "podrun-inlet";

/// A port that no socket of the host has.
pub(super) fn free(wish: &Wish) -> Result<u16> {
    let first = addresses(wish)[0];
    for _ in 0..100 {
        let held = attempt(wish.protocol, SocketAddr::new(first, 0))
            .map_err(|errno| explain(doing(wish, 0), wish.protocol, first, 0, errno))?;
        let port = getsockname::<SockaddrStorage>(held.as_raw_fd())
            .ok()
            .and_then(|name| name.as_sockaddr_in().map(|v4| v4.port()).or(name.as_sockaddr_in6().map(|v6| v6.port())));
        drop(held);
        if let Some(port) = port
            && probe(wish, port).is_ok()
        {
            return Ok(port);
        }
    }
    Err(Error::new(Kind::Exhausted, format!("find a free {} port", wish.protocol), "all tried ones are in use"))
}

fn doing(wish: &Wish, host: u16) -> String {
    format!("publish the port {host}/{}", wish.protocol)
}

fn addresses(wish: &Wish) -> Vec<IpAddr> {
    match wish.address {
        Some(address) => vec![address],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    }
}

/// Without SO_REUSEADDR a connection in TIME_WAIT, long closed, would be in the way of TCP; with it two UDP sockets could
/// share a port.
fn attempt(protocol: Protocol, at: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol_number) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol_number)?;
    if protocol == Protocol::Tcp {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(socket)
}

/// Why a socket could not have the port, and who has it.
pub fn explain(doing: String, protocol: Protocol, address: IpAddr, host: u16, errno: Errno) -> Error {
    match errno {
        Errno::EADDRINUSE => {
            let who = who(protocol, host).unwrap_or_else(|| "a socket of this host".to_owned());
            Error::new(Kind::AlreadyExists, doing, format!("{who} has it"))
                .hint("choose another port of the host, or 0 for any free one")
        }
        Errno::EADDRNOTAVAIL => Error::new(Kind::Invalid, doing, format!("this host has no address {address}"))
            .hint("`ip address` shows those that it has"),
        Errno::EACCES => {
            Error::new(Kind::Unsupported, doing, "ports this low need CAP_NET_BIND_SERVICE, which is withheld")
                .hint("choose one from 1024 up, or see /proc/sys/net/ipv4/ip_unprivileged_port_start")
        }
        Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT => {
            Error::new(Kind::Unsupported, doing, format!("this kernel has no {protocol}"))
                .hint(format!("`modprobe {protocol}` loads it, where the kernel was built with it"))
        }
        errno => Err::<(), _>(errno).doing(|| doing).expect_err("it is an error"),
    }
}

/// `nginx (pid 12)`: the process whose socket has the port.
pub fn who(protocol: Protocol, port: u16) -> Option<String> {
    sockets(protocol, port).find_map(owner)
}

fn only_name_servers(protocol: Protocol, port: u16) -> bool {
    let mut owners = sockets(protocol, port).map(owner).peekable();
    owners.peek().is_some() && owners.all(|owner| owner.is_some_and(|owner| owner.starts_with(names::ARGV0)))
}

/// The inodes of those that have the port, in both families.
fn sockets(protocol: Protocol, port: u16) -> impl Iterator<Item = u64> {
    let tables = ["", "6"].into_iter().map(move |family| format!("/proc/thread-self/net/{protocol}{family}"));
    let tables = tables.filter_map(|table| fs::read_to_string(table).ok());
    tables.flat_map(move |table| table.lines().filter_map(|line| inode_of(line, protocol, port)).collect::<Vec<_>>())
}

fn owner(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    pids().ok()?.find_map(|pid| {
        let mut open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        open.any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()))
            .then_some(())?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(format!("{} (pid {pid})", name.trim()))
    })
}

/// Pure: one line of /proc/net/tcp or udp, when it is a socket that has the port for itself.
fn inode_of(line: &str, protocol: Protocol, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let words: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = words.get(1)?.rsplit_once(':')?;
    let state = *words.get(3)?;
    let has_it = u16::from_str_radix(local, 16) == Ok(port) && (protocol != Protocol::Tcp || state == LISTEN);
    has_it.then(|| words.get(9)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_found_in_the_kernels_table() {
        let listens =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0";
        let talks = listens.replace(" 0A ", " 01 ");
        assert_eq!(inode_of(listens, Protocol::Tcp, 8080), Some(4711));
        assert_eq!(inode_of(listens, Protocol::Tcp, 8081), None);
        assert_eq!(inode_of(&talks, Protocol::Tcp, 8080), None, "a connection from that port");
        assert_eq!(inode_of(&listens.replace(" 0A ", " 07 "), Protocol::Udp, 8080), Some(4711));
        assert_eq!(inode_of("", Protocol::Tcp, 8080), None);
    }

    #[test]
    fn a_port_that_a_socket_has_is_not_free_and_its_owner_is_told() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let wish = |text: String| Wish::parse(&text).unwrap().remove(0);
        for text in [format!("{port}:80"), format!("0.0.0.0:{port}:80"), format!("127.0.0.1:{port}:80")] {
            let err = probe(&wish(text), port).unwrap_err();
            assert_eq!(err.kind, Kind::AlreadyExists);
            assert!(err.cause().contains(&format!("(pid {})", std::process::id())), "{err}");
        }
        probe(&wish(format!("127.0.0.2:{port}:80")), port).unwrap();
        probe(&wish(format!("{port}:80/udp")), port).unwrap();
        assert_ne!(free(&wish("80".to_owned())).unwrap(), port);
        let err = probe(&wish("203.0.113.77:1:80".to_owned()), 1).unwrap_err();
        assert!(err.cause().contains("no address 203.0.113.77"), "{err}");
    }
}
