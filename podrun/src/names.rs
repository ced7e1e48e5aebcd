//! The name server of a network: who is called how there, asked by its pods over DNS.
//!
//! Promises: an answer is what is on disk at that moment, so no change has to be told to it; a pod hears only of networks
//! that it is on; a single word that is no pod's is nobody's, at once, and never asked elsewhere; what is not podrun's
//! to know is asked of the servers that the pod was given, or the host's; nothing that a packet holds can end it; while
//! nobody asks it sleeps. It leaves half a second after the network's last lease.
//! Does not: keep what it heard (those that it asks do), check DNSSEC (it passes all of it on), or know containers.

#![forbid(unsafe_code)]

pub mod answer;
mod ask;
mod book;
mod callers;
mod confine;
mod serve;

use crate::error::{Doing, Error, Kind, Result};
use crate::net::bridge::{self, Network};
use crate::net::names::{LOCK, REPORT, Record, own_build};
use crate::roots::Roots;
use crate::sys::fd;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use serve::Server;
use std::ffi::OsString;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Domain, of /etc/services.
const PORT: u16 = 53;

/// The whole life of a name server; the answer is its exit code.
pub fn run(argv: &[String]) -> i32 {
    let Some([report, lock]) = fd::inherited::<2>(REPORT) else { return 2 };
    let _ = fd::close_from(LOCK + 1);
    let _ = nix::sys::prctl::set_name(c"podrun-names");
    let [_, run, root, network] = argv else { return 2 };
    let roots = Roots { run: run.into(), root: root.into() };
    let lock = File::from(lock);
    match come_up(&roots, network, &lock) {
        Ok(mut server) => {
            let _ = fd::write(report.as_fd(), b"+");
            drop(report);
            i32::from(serve(&mut server, &lock).is_err())
        }
        Err(err) => {
            let _ = fd::write(report.as_fd(), err.cause().as_bytes());
            1
        }
    }
}

/// Whoever finds the record finds a server that stays: it is taken back first, and then looked once more whether a pod has
/// come that may have read it.
fn serve(server: &mut Server, lock: &File) -> std::io::Result<()> {
    loop {
        let served = server.serve();
        lock.set_len(0)?;
        if served.is_err() || !server.has_pods() {
            return served.map_err(std::io::Error::other);
        }
        lock.write_all_at(&server.record, 0)?;
    }
}

fn come_up(roots: &Roots, name: &str, lock: &File) -> Result<Server> {
    fd::close_on_exec(lock.as_fd()).doing(|| "mark descriptors".into())?;
    confine::forget_the_caller();
    let doing = || format!("resolve names on {name}");
    let network = bridge::remembered(roots, name)
        .ok_or_else(|| Error::new(Kind::NotFound, doing(), "the network is not there"))?;
    let doors = network.gateways().map(|at| doors(&network, at)).collect::<Result<Vec<_>>>()?;
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    let record = Record { version: 1, pid, addresses: network.gateways().collect(), build: own_build() };
    let record = serde_json::to_vec(&record).expect("a record is plain data");
    let server = Server::new(roots.clone(), &network, doors.into_iter().flatten().collect(), record)?;
    confine::give_up_power()?;
    lock.write_all_at(&server.record, 0).doing(doing)?;
    Ok(server)
}

/// A way in. Each is bound to the bridge: what comes by any other link finds nobody there.
#[derive(Debug)]
enum Door {
    Udp(UdpSocket),
    Tcp(TcpListener),
}

/// Both at an address of the bridge's.
fn doors(network: &Network, at: IpAddr) -> Result<[Door; 2]> {
    let bridge = OsString::from(network.bridge.clone().unwrap_or_default());
    let open = |kind: SockType| -> Result<OwnedFd> {
        patiently(|| door(kind, SocketAddr::new(at, PORT), &bridge)).map_err(|errno| explain(network, at, errno))
    };
    Ok([Door::Udp(open(SockType::Datagram)?.into()), Door::Tcp(open(SockType::Stream)?.into())])
}

fn door(kind: SockType, at: SocketAddr, bridge: &OsString) -> nix::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&made, sockopt::BindToDevice, bridge)?;
    if at.is_ipv6() {
        setsockopt(&made, sockopt::Ipv6V6Only, &true)?;
    }
    if kind == SockType::Stream {
        // Connections of the one before, long closed, are in nobody's way.
        setsockopt(&made, sockopt::ReuseAddr, &true)?;
    }
    bind(made.as_raw_fd(), &SockaddrStorage::from(at))?;
    if kind == SockType::Stream {
        listen(&made, Backlog::new(128).unwrap_or(Backlog::MAXCONN))?;
    }
    Ok(made)
}

/// The one before may be on its way out, and a bridge that was just made anew may get its address in this moment.
fn patiently(open: impl Fn() -> nix::Result<OwnedFd>) -> nix::Result<OwnedFd> {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        let again = match open() {
            Err(Errno::EADDRINUSE) => who().is_some_and(|who| who.starts_with("podrun-names")),
            Err(Errno::EADDRNOTAVAIL | Errno::ENODEV) => true,
            other => return other,
        };
        if !again || Instant::now() > until {
            return open();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn who() -> Option<String> {
    use crate::spec::port::Protocol;
    [Protocol::Udp, Protocol::Tcp].into_iter().find_map(|protocol| crate::net::ports::who(protocol, PORT))
}

fn explain(network: &Network, at: IpAddr, errno: Errno) -> Error {
    let doing = format!("listen on {at} port {PORT}");
    let cause = match errno {
        Errno::EADDRINUSE => {
            let who = who().unwrap_or_else(|| "a socket of this host".to_owned());
            format!(
                "{who} has port {PORT} of all addresses, {at} included; let it listen on its own only, or \
                 `podrun network create --disable-dns`"
            )
        }
        errno => format!("{} at {at} of {}", errno.desc(), network.seen_as()),
    };
    Error::new(Kind::NotNow, doing, cause)
}
