//! Whether the kernel killed a member for memory: its own counter, never a guess from exit code 137.
//!
//! Only this cgroup's counter is read, so that a kill which the pod's limit caused counts for the container whose
//! process died. It counts children that init survived as well: who asks must remember the count, take it anew at each
//! notice, and say OOMKilled only when init died of SIGKILL and the count rose since.

#![forbid(unsafe_code)]

use super::layout::Controller;
use super::live::Cgroup;
use super::live::Open;
use super::live::read_all;
use super::plan::Dialect;
use super::plan::oom_file;
use crate::error::{Doing, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::epoll::EpollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A descriptor for an epoll loop that becomes ready when the kernel ran out of a cgroup's memory.
#[derive(Debug)]
pub enum OomNotifier {
    /// v1: an eventfd, registered in cgroup.event_control. It is also signalled when the cgroup is removed.
    Event(EventFd),
    /// v2: memory.events itself, which has exceptional data after each change.
    Counter(OwnedFd),
}

impl OomNotifier {
    pub fn interest(&self) -> EpollFlags {
        match self {
            Self::Event(_) => EpollFlags::EPOLLIN,
            Self::Counter(_) => EpollFlags::EPOLLPRI,
        }
    }

    /// Makes it unready until the next event. Then read the counter: a notice is no kill.
    pub fn acknowledge(&self) -> nix::Result<()> {
        let done = match self {
            Self::Event(event) => event.read().map(drop),
            Self::Counter(file) => read_all(file).map(drop),
        };
        match done {
            // The cgroup is gone, or there was no event.
            Err(Errno::ENODEV | Errno::EAGAIN) => Ok(()),
            other => other,
        }
    }
}

impl AsFd for OomNotifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Event(event) => event.as_fd(),
            Self::Counter(file) => file.as_fd(),
        }
    }
}

impl Cgroup {
    /// Members that the kernel killed for memory since the cgroup was made; None where nothing counts them (no memory
    /// controller, or v1 before Linux 4.13). Read it after the process was reaped and before the cgroup is removed.
    pub fn oom_kills(&self) -> Result<Option<u64>> {
        match self.controller(Controller::Memory) {
            None => Ok(None),
            Some(open) => Ok(open.counter(oom_file(open.dialect))?.and_then(|text| field(&text, "oom_kill"))),
        }
    }

    /// None where nothing can be waited for; the counter then tells at the end.
    pub fn oom_notifier(&self) -> Result<Option<OomNotifier>> {
        let Some(open) = self.controller(Controller::Memory) else { return Ok(None) };
        match open.dialect {
            Dialect::V1 => open.register_event().map(|event| event.map(OomNotifier::Event)),
            Dialect::V2 => match open.counter(oom_file(Dialect::V2))? {
                None => Ok(None),
                Some(_) => {
                    open.file(oom_file(Dialect::V2), OFlag::O_RDONLY).map(|file| Some(OomNotifier::Counter(file)))
                }
            },
        }
    }
}

impl Open {
    /// None when the file is not there: on v2 its controller may not be handed down this far.
    pub(super) fn counter(&self, file: &str) -> Result<Option<String>> {
        match self.read(file) {
            Ok(text) => Ok(Some(text)),
            Err(err) if err.kind == crate::error::Kind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    fn register_event(&self) -> Result<Option<EventFd>> {
        let doing = || format!("watch {} for OOM", self.path.display());
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).doing(doing)?;
        let control = self.file("memory.oom_control", OFlag::O_RDONLY)?;
        let value = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
        match self.write("cgroup.event_control", &value) {
            Ok(()) => Ok(Some(event)),
            Err(err) if err.kind == crate::error::Kind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }
}

/// `name value` on a line of its own.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kills_count() {
        assert_eq!(field("oom_kill_disable 0\nunder_oom 1\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(field("low 0\nhigh 0\nmax 9\noom 5\noom_kill 2\noom_group_kill 1\n", "oom_kill"), Some(2));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\n", "oom_kill"), None);
        assert_eq!(field("", "oom_kill"), None);
    }
}
