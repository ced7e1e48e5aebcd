//! The way out of a user's pod: pasta, which the command that made the pod has started, and the monitor starts again should
//! it die.
//!
//! By a child that is forked for it, since pasta's start takes some 20 ms and a monitor never waits. pasta is nobody's child in
//! particular, so it outlives the monitor, and a successor finds it as this one did.

#![forbid(unsafe_code)]

use super::{Alarm, Monitor, Token};
use crate::error::{Doing, Result};
use crate::net::pasta;
use crate::sys::clone::{Clone, Exit, Reap, clone3, exit, waitid};
use crate::sys::fd;
use nix::sys::epoll::EpollFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// What the monitor knows of it.
#[derive(Debug, Default)]
pub(super) struct WayOut {
    process: Option<(OwnedFd, Instant)>,
    /// The child that starts it again.
    maker: Option<OwnedFd>,
    /// How often it died young, or could not be started.
    failures: u32,
}

/// While the pod is being made, by somebody who starts pasta himself.
const SOON: Duration = Duration::from_millis(50);
/// One that lived so long did not die of what it was started with.
const OLD: Duration = Duration::from_secs(10);

impl Monitor {
    /// Watches the pod's pasta; one that is not there is started.
    pub(super) fn keep_way_out(&mut self) {
        self.cancel(&Alarm::WayOut);
        if !self.facts.rootless
            || self.leaving.is_some()
            || self.way_out.process.is_some()
            || self.way_out.maker.is_some()
        {
            return;
        }
        let roots = self.facts.roots();
        // Whoever makes the pod starts the first one, and whoever removes it, none.
        if !self.dir.record().exists() {
            if self.dir.0.exists() {
                self.alarm(SOON, Alarm::WayOut);
            }
            return;
        }
        if !pasta::is_of(&roots, &self.facts.id) {
            return;
        }
        let done = match pasta::find(&roots, &self.facts.id) {
            Some(process) => self.watch_way_out(process),
            None => self.make_way_out(),
        };
        if done.is_err() {
            self.way_out_later();
        }
    }

    fn watch_way_out(&mut self, process: OwnedFd) -> Result<()> {
        self.watch(&process, Token::WayOutExit, EpollFlags::EPOLLIN)?;
        self.way_out.process = Some((process, Instant::now()));
        Ok(())
    }

    fn make_way_out(&mut self) -> Result<()> {
        let (roots, id) = (self.facts.roots(), self.facts.id.clone());
        let child = clone3(&Clone::default(), || {
            let netns = fd::keep_only(self.namespaces.net.as_fd());
            let home = pasta::Home::default();
            let made = netns.doing(|| "keep the pod's network".to_owned());
            exit(i32::from(made.and_then(|netns| pasta::ensure(&roots, &id, netns.as_fd(), home)).is_err()))
        })
        .doing(|| "start pasta again".into())?;
        self.watch(&child.pidfd, Token::WayMaker, EpollFlags::EPOLLIN)?;
        self.way_out.maker = Some(child.pidfd);
        Ok(())
    }

    pub(super) fn way_out_made(&mut self) {
        let Some(maker) = self.way_out.maker.take() else { return };
        self.unwatch(&maker);
        match waitid(maker.as_fd(), Reap::Now) {
            Ok(Some(Exit::Code(0))) => self.keep_way_out(),
            _ => self.way_out_later(),
        }
    }

    pub(super) fn way_out_ended(&mut self) {
        let Some((process, since)) = self.way_out.process.take() else { return };
        self.unwatch(&process);
        // Where it was ours.
        let _ = waitid(process.as_fd(), Reap::Now);
        match since.elapsed() > OLD {
            true => {
                self.way_out.failures = 0;
                self.keep_way_out();
            }
            false => self.way_out_later(),
        }
    }

    /// 10 ms, 20 ms … 10 s: the host may have lost its own way out, and get it back.
    fn way_out_later(&mut self) {
        self.way_out.failures = (self.way_out.failures + 1).min(11);
        let wait = Duration::from_millis(5) * 2_u32.pow(self.way_out.failures);
        self.cancel(&Alarm::WayOut);
        self.alarm(wait.min(OLD), Alarm::WayOut);
    }
}
