//! `port-forward`: ports of the host that lead to a pod's own 127.0.0.1, through this very process and while it lives.
//!
//! No rule is written and no address needed, so it works for every pod, and for what listens on the pod's loopback alone.

#![forbid(unsafe_code)]

use super::create::network_namespace;
use super::find::Pod;
use crate::error::{Doing, Error, Kind, Result};
use crate::net::ports;
use crate::spec::port::{HostPort, Protocol, Wish};
use crate::store::{self, Keepers};
use crate::sys::ns;
use crate::tunnel::{Door, Tunnel, Turn};
use nix::errno::Errno;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// What the user is told on the way.
#[derive(Debug)]
pub enum Told {
    Open { at: SocketAddr, port: u16, protocol: Protocol },
    Refused(String),
}

const PAUSE: u64 = 1;

/// Until the pod is gone, or this process.
pub fn forward(pod: &Pod, wishes: &[Wish], mut tell: impl FnMut(Told)) -> Result<Infallible> {
    let inside = network_namespace(pod)?;
    let mut tunnel = Tunnel::new()?;
    for wish in wishes {
        for (door, at) in doors(wish)? {
            tunnel.open(door)?;
            tell(Told::Open { at, port: wish.port, protocol: wish.protocol });
        }
    }
    // The listeners are the host's; every socket from here on is the pod's.
    let doing = || format!("enter the network of {}", pod.record.title());
    ns::setns(inside.as_fd(), libc::CLONE_NEWNET).doing(doing)?;
    drop(inside);
    loop {
        let pause = pause(pod)?;
        tunnel.watch(pause.as_fd(), PAUSE)?;
        while tunnel.turn(None)? == Turn::Carried {
            if let Some(why) = tunnel.refused.take() {
                tell(Told::Refused(why));
            }
        }
    }
}

/// The pause that holds the pod now: one that died is followed by another, unless the pod is over.
fn pause(pod: &Pod) -> Result<OwnedFd> {
    for _ in 0..100 {
        if !pod.dir.record().exists() {
            break;
        }
        if let Some(pause) = store::read::<Keepers>(&pod.dir.keepers()).ok().and_then(|keepers| keepers.pause.open()) {
            return Ok(pause);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(Error::new(Kind::NotFound, format!("forward to {}", pod.record.title()), "the pod is gone"))
}

/// kubectl's habit: on 127.0.0.1 and, where there is one, ::1, unless an address is given.
fn doors(wish: &Wish) -> Result<Vec<(Door, SocketAddr)>> {
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), wish.port);
    let candidates = match &wish.host {
        HostPort::Any => 0..=0,
        HostPort::OneOf(range) => range.clone(),
    };
    let first = wish.address.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let mut refused = None;
    for port in candidates {
        match listen(wish.protocol, SocketAddr::new(first, port), to) {
            Ok((door, at)) => {
                let mut all = vec![(door, at)];
                let second = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), at.port());
                if wish.address.is_none()
                    && let Ok(other) = listen(wish.protocol, second, to)
                {
                    all.push(other);
                }
                return Ok(all);
            }
            Err(err) => refused = refused.or(Some(explain(wish.protocol, first, port, &err))),
        }
    }
    Err(refused.unwrap_or_else(|| Error::new(Kind::Usage, "forward a port", "an empty range")))
}

fn explain(protocol: Protocol, address: IpAddr, port: u16, err: &io::Error) -> Error {
    let doing = format!("listen on {}/{protocol}", SocketAddr::new(address, port));
    ports::explain(doing, protocol, address, port, err.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw))
}

fn listen(protocol: Protocol, at: SocketAddr, to: SocketAddr) -> io::Result<(Door, SocketAddr)> {
    let door = match protocol {
        Protocol::Tcp => Door::tcp(at, to)?,
        Protocol::Udp => Door::udp(at, to)?,
        Protocol::Sctp => return Err(Errno::EPROTONOSUPPORT.into()),
    };
    let at = match &door {
        Door::Tcp { listener, .. } => listener.local_addr()?,
        Door::Udp { socket, .. } => socket.local_addr()?,
    };
    Ok((door, at))
}
