//! The inlet: a forked child of the monitor that carries what comes to a pod's published ports by `::1`, which the kernel
//! cannot translate, and by IPv6 addresses of the host when the pod has none.
//!
//! It reads the pod's `ports.json` itself, whenever the monitor says so, and a change breaks no connection. It ends with the
//! monitor, and another comes up with the monitor's successor: only the connections through it notice.
//! Not by inotify(7): closing that waits for an SRCU grace period, and every delete of such a pod with it, some 15 ms.

#![forbid(unsafe_code)]

use super::{Alarm, Monitor, Token};
use crate::error::{Doing, Result};
use crate::id::PodId;
use crate::net::ports::{self, Detour};
use crate::roots::Roots;
use crate::spec::port::Protocol;
use crate::sys::clone::{Clone, Exit, Reap, clone3, exit, waitid};
use crate::sys::{fd, socket};
use crate::tunnel::{Door, Tunnel, Turn};
use nix::sys::epoll::EpollFlags;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// The child, and an end of a pair: a byte tells it of news, its end to leave.
#[derive(Debug)]
pub(super) struct Inlet {
    pidfd: OwnedFd,
    leash: OwnedFd,
}

const AGAIN: Duration = Duration::from_millis(200);
/// A port whose last holder is on its way out.
const RETRY: Duration = Duration::from_millis(100);

impl Monitor {
    /// Where the pod has published something, and the host knows IPv6. One that is there looks what there is now.
    pub(super) fn ensure_inlet(&mut self) {
        if let Some(inlet) = &self.inlet {
            // A full one has enough to look for.
            let _ = socket::send(inlet.leash.as_fd(), b"!", &[], libc::MSG_DONTWAIT);
        }
        // pasta listens on all addresses by itself.
        let published = !self.facts.rootless && ports::file(&self.facts.roots(), &self.facts.id).exists();
        if self.inlet.is_some() || self.leaving.is_some() || !published || !Path::new("/proc/net/if_inet6").exists() {
            return;
        }
        if self.start_inlet().is_err() {
            self.alarm(AGAIN, Alarm::Inlet);
        }
    }

    fn start_inlet(&mut self) -> Result<()> {
        let doing = || "start the inlet".to_owned();
        let (ours, theirs) = socket::stream_pair().doing(doing)?;
        let (roots, id) = (self.facts.roots(), self.facts.id.clone());
        let child = clone3(&Clone::default(), || {
            let leash = fd::keep_only(theirs.as_fd());
            let _ = nix::sys::prctl::set_name(c"podrun-inlet");
            let served = leash.doing(doing).and_then(|leash| serve(&leash, &roots, &id));
            exit(i32::from(served.is_err()))
        })
        .doing(doing)?;
        self.watch(&child.pidfd, Token::InletExit, EpollFlags::EPOLLIN)?;
        self.inlet = Some(Inlet { pidfd: child.pidfd, leash: ours });
        Ok(())
    }

    pub(super) fn inlet_ended(&mut self) {
        let Some(inlet) = self.inlet.take() else { return };
        self.unwatch(&inlet.pidfd);
        // It leaves with 0 when nothing is published any more.
        if !matches!(waitid(inlet.pidfd.as_fd(), Reap::Now), Ok(Some(Exit::Code(0)))) {
            self.alarm(AGAIN, Alarm::Inlet);
        }
    }
}

const LEASH: u64 = 1;
/// While the pod is still being made, its address is not there yet.
const SOON: Duration = Duration::from_millis(20);

/// The whole life of an inlet.
fn serve(leash: &OwnedFd, roots: &Roots, id: &PodId) -> Result<()> {
    let mut tunnel = Tunnel::new()?;
    tunnel.watch(leash.as_fd(), LEASH)?;
    let mut open = BTreeMap::new();
    loop {
        let Some(published) = ports::read(roots, id) else { return Ok(()) };
        let missing = reconcile(&mut tunnel, &mut open, &published.detours());
        let again = if published.addresses.is_empty() { Some(SOON) } else { missing.then_some(RETRY) };
        loop {
            match tunnel.turn(again)? {
                Turn::Told(_) => match fd::read(leash.as_fd(), &mut [0; 64]) {
                    Ok(1..) => break,
                    _ => return Ok(()),
                },
                Turn::Carried if again.is_some() => break,
                Turn::Carried => {}
            }
        }
    }
}

/// Opens what is new, closes what is no more; whether something could not be opened.
fn reconcile(tunnel: &mut Tunnel, open: &mut BTreeMap<Detour, u64>, wanted: &[Detour]) -> bool {
    open.retain(|detour, number| {
        let stays = wanted.contains(detour);
        if !stays {
            tunnel.close(*number);
        }
        stays
    });
    let mut missing = false;
    for detour in wanted {
        if open.contains_key(detour) {
            continue;
        }
        let door = match detour.protocol {
            Protocol::Udp => Door::udp(detour.at, detour.to),
            _ => Door::tcp(detour.at, detour.to),
        };
        match door.doing(|| format!("listen on {}", detour.at)).and_then(|door| tunnel.open(door)) {
            Ok(number) => drop(open.insert(*detour, number)),
            Err(_) => missing = true,
        }
    }
    missing
}
