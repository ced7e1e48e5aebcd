//! The name servers of the pod's networks: each monitor of a network holds a pidfd of its server, and when that ends one of
//! them starts the next.
//!
//! Whoever gets the server's lock first starts it; the others, a moment later, find the new one and hold that. The server is
//! nobody's child in particular: it is not in the pod's cgroup, so it outlives pod and monitor, and whoever starts it sees
//! no more of it than the others do. While it lives nobody wakes.

#![forbid(unsafe_code)]

use super::{Alarm, Monitor, Token};
use crate::error::Result;
use crate::net::ipam;
use crate::net::names::{self, Look};
use crate::store::{self, Networks};
use crate::sys::clone::{Reap, waitid};
use nix::sys::epoll::EpollFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// One network whose names this pod hears.
#[derive(Debug)]
pub(super) struct Kept {
    network: String,
    id: u64,
    /// The server's, while there is one.
    pidfd: Option<OwnedFd>,
    since: Instant,
    /// How often it died young.
    failures: u32,
}

/// While a pod is being made, or a server comes up.
const SOON: Duration = Duration::from_millis(20);
/// A server that lived so long did not die of what it was started with.
const OLD: Duration = Duration::from_secs(10);

impl Monitor {
    /// What the pod is on now is what is kept. While the pod is being made nobody knows that yet.
    pub(super) fn keep_names(&mut self) {
        self.cancel(&Alarm::Names);
        if self.leaving.is_some() {
            return;
        }
        let Ok(networks) = store::read::<Networks>(&self.dir.networks()) else {
            if self.dir.0.exists() && !self.dir.record().exists() {
                self.alarm(SOON, Alarm::Names);
            }
            return;
        };
        let on: Vec<String> =
            networks.attachments.into_iter().filter(|one| one.names.is_some()).map(|one| one.network).collect();
        for gone in self.names.extract_if(.., |kept| !on.contains(&kept.network)).collect::<Vec<_>>() {
            gone.pidfd.iter().for_each(|pidfd| self.unwatch(pidfd));
        }
        for network in on {
            if !self.names.iter().any(|kept| kept.network == network) {
                let id = self.id();
                self.names.push(Kept { network, id, pidfd: None, since: Instant::now(), failures: 0 });
            }
        }
        let missing: Vec<u64> = self.names.iter().filter(|kept| kept.pidfd.is_none()).map(|kept| kept.id).collect();
        for id in missing {
            if !self.keep_one(id).unwrap_or(false) {
                self.alarm(SOON, Alarm::Names);
            }
        }
    }

    /// Whether there is nothing more to be done for it, for now.
    fn keep_one(&mut self, id: u64) -> Result<bool> {
        let roots = self.facts.roots();
        let Some(at) = self.names.iter().position(|kept| kept.id == id) else { return Ok(true) };
        let network = self.names[at].network.clone();
        let pidfd = match names::look(&roots, &network)? {
            Look::There { pidfd, .. } => pidfd,
            Look::Soon => return Ok(false),
            // A pod that is on its way out needs no names any more.
            Look::Gone if ipam::held(&roots, &network, &self.facts.id).is_none() => return Ok(true),
            Look::Gone => match names::claim(&roots, &network)? {
                Some(lock) => names::start(&roots, &network, lock)?.child.pidfd,
                None => return Ok(false),
            },
        };
        self.watch(&pidfd, Token::NamesExit(id), EpollFlags::EPOLLIN)?;
        self.names[at].pidfd = Some(pidfd);
        self.names[at].since = Instant::now();
        Ok(true)
    }

    pub(super) fn names_ended(&mut self, id: u64) {
        let Some(kept) = self.names.iter_mut().find(|kept| kept.id == id) else { return };
        let Some(pidfd) = kept.pidfd.take() else { return };
        kept.failures = if kept.since.elapsed() > OLD { 0 } else { (kept.failures + 1).min(10) };
        // At once, unless it never stays: 80 ms, 160 ms … 10 s.
        let wait = match kept.failures {
            0..=2 => Duration::ZERO,
            failures => Duration::from_millis(5) * 2_u32.pow(failures + 1),
        };
        self.unwatch(&pidfd);
        // Where it was ours.
        let _ = waitid(pidfd.as_fd(), Reap::Now);
        if wait.is_zero() {
            self.keep_names();
        } else {
            self.cancel(&Alarm::Names);
            self.alarm(wait, Alarm::Names);
        }
    }
}
