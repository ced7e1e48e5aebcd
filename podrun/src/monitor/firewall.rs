//! News of the firewall: who flushes it takes the rules of the pods' networks and every published port with it, and they
//! are put back.
//!
//! The kernel tells all listeners of each change (nfnetlink's multicast). Element changes, of which there is one for each
//! pod with a port, a socket filter keeps away. Of a table that is gone and not made anew within a moment, a forked child
//! sees to, since `nft` and the networks' locks take time, and a monitor never waits. Of many monitors that hear the same,
//! each waits a little longer than the next: what one has put back, the others hear of.

#![forbid(unsafe_code)]

use super::{Alarm, Monitor, Token};
use crate::error::{Doing, Result};
use crate::net;
use crate::net::nft::{self, News};
use crate::sys::clone::{Clone, Exit, Reap, clone3, exit, waitid};
use crate::sys::fd;
use nix::sys::epoll::EpollFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// What the monitor knows of the firewall.
#[derive(Debug, Default)]
pub(super) struct Firewall {
    news: Option<OwnedFd>,
    /// The child that puts the rules back.
    restorer: Option<OwnedFd>,
    failures: u32,
}

/// A transaction that replaces the table says so within this.
const SETTLED: Duration = Duration::from_millis(5);
/// Between the first and the last of those who hear of a flush.
const SPREAD: u64 = 64;

impl Monitor {
    /// A pod on the host's own network has nothing to lose. What happened while nobody listened shows by a look.
    pub(super) fn listen_to_firewall(&mut self) -> Result<()> {
        let of = |path: &str| std::fs::metadata(path).map(|namespace| namespace.ino()).ok();
        let pods = nix::sys::stat::fstat(&self.namespaces.net).ok().map(|namespace| namespace.st_ino);
        if pods == of("/proc/self/ns/net") {
            return Ok(());
        }
        let Some(news) = nft::listen().doing(|| "listen to the firewall".into())? else { return Ok(()) };
        self.watch(&news, Token::Firewall, EpollFlags::EPOLLIN)?;
        self.firewall.news = Some(news);
        if self.dir.keepers().exists() {
            self.alarm(self.turn(), Alarm::Firewall);
        }
        Ok(())
    }

    /// Its own place in the row of those who hear the same.
    fn turn(&self) -> Duration {
        let own = u64::from_str_radix(&self.facts.id.as_str()[..8], 16).unwrap_or(0);
        SETTLED + Duration::from_millis(own % SPREAD)
    }

    pub(super) fn firewall_changed(&mut self) {
        let Some(news) = &self.firewall.news else { return };
        let table = self.facts.roots().table();
        match nft::hear(news, &table) {
            News::Nothing => {}
            News::Made => self.cancel(&Alarm::Firewall),
            News::Gone | News::Missed => {
                self.cancel(&Alarm::Firewall);
                self.alarm(self.turn(), Alarm::Firewall);
            }
        }
    }

    /// Forked, not executed: it shares our pages, and needs no file.
    pub(super) fn restore_firewall(&mut self) {
        if self.firewall.restorer.is_some() || self.leaving.is_some() {
            return;
        }
        let roots = self.facts.roots();
        let child = clone3(&Clone::default(), || {
            let _ = fd::close_from(3);
            exit(i32::from(net::restore(&roots).is_err()))
        });
        let watched = child.doing(|| "put the rules back".into()).and_then(|child| {
            self.watch(&child.pidfd, Token::Restorer, EpollFlags::EPOLLIN)?;
            self.firewall.restorer = Some(child.pidfd);
            Ok(())
        });
        if watched.is_err() {
            self.try_again_later();
        }
    }

    pub(super) fn firewall_restored(&mut self) {
        let Some(restorer) = self.firewall.restorer.take() else { return };
        self.unwatch(&restorer);
        match waitid(restorer.as_fd(), Reap::Now) {
            Ok(Some(Exit::Code(0))) => self.firewall.failures = 0,
            _ => self.try_again_later(),
        }
    }

    /// Without `nft`, say: it may come back, and nobody else would notice.
    fn try_again_later(&mut self) {
        self.firewall.failures = (self.firewall.failures + 1).min(6);
        self.alarm(Duration::from_secs(1 << self.firewall.failures), Alarm::Firewall);
    }
}
