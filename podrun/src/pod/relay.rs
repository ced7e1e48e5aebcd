//! Carrying bytes between a user's descriptors and a container's, where the user's own must not be handed over.

#![forbid(unsafe_code)]

use super::terminal::DetachKeys;
use crate::sys::fd;
use nix::poll::{PollFd, PollFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a relay has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Going,
    /// The source has ended and all of it has arrived; or the sink wants no more.
    Ended,
    /// The user pressed the detach keys.
    Detached,
}

/// One direction. The sink may be one that does not wait (O_NONBLOCK): then what it does not take is kept here.
#[derive(Debug)]
pub(super) struct Relay {
    source: OwnedFd,
    sink: Option<OwnedFd>,
    pending: Vec<u8>,
    source_ended: bool,
    keys: Option<DetachKeys>,
}

impl Relay {
    pub(super) fn new(source: OwnedFd, sink: OwnedFd) -> Self {
        Self { source, sink: Some(sink), pending: Vec::new(), source_ended: false, keys: None }
    }

    pub(super) fn with_detach_keys(mut self) -> Self {
        self.keys = Some(DetachKeys::default());
        self
    }

    pub(super) fn is_over(&self) -> bool {
        self.sink.is_none()
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        let sink = self.sink.as_ref()?;
        match (self.pending.is_empty(), self.source_ended) {
            (false, _) => Some(PollFd::new(sink.as_fd(), PollFlags::POLLOUT)),
            (true, false) => Some(PollFd::new(self.source.as_fd(), PollFlags::POLLIN)),
            (true, true) => None,
        }
    }

    /// Carries what can be carried without waiting (longer than the sink itself makes us wait).
    pub(super) fn advance(&mut self) -> Flow {
        if self.sink.is_none() {
            return Flow::Ended;
        }
        let mut buffer = [0; 32 << 10];
        if self.pending.is_empty() && !self.source_ended {
            match fd::read(self.source.as_fd(), &mut buffer) {
                Ok(0) => self.source_ended = true,
                Ok(count) => {
                    let (passed, detached) = match &mut self.keys {
                        Some(keys) => keys.filter(&buffer[..count]),
                        None => (buffer[..count].to_vec(), false),
                    };
                    self.pending = passed;
                    if detached {
                        return Flow::Detached;
                    }
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                // A pty whose other end closed says EIO: its way to say the end.
                Err(_) => self.source_ended = true,
            }
        }
        self.push();
        if self.source_ended && self.pending.is_empty() {
            self.sink = None;
        }
        if self.sink.is_none() { Flow::Ended } else { Flow::Going }
    }

    /// The same, if there is anything to be had at this moment: a source may be one that waits.
    pub(super) fn advance_if_ready(&mut self) -> Flow {
        let ready = match self.interest() {
            Some(one) => nix::poll::poll(&mut [one], nix::poll::PollTimeout::ZERO).is_ok_and(|count| count > 0),
            None => true,
        };
        match (ready, self.is_over()) {
            (true, _) => self.advance(),
            (false, true) => Flow::Ended,
            (false, false) => Flow::Going,
        }
    }

    fn push(&mut self) {
        while let Some(sink) = self.sink.as_ref().filter(|_| !self.pending.is_empty()) {
            match fd::write(sink.as_fd(), &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody reads any more: EPIPE, or a terminal that is gone.
                Err(_) => {
                    self.pending.clear();
                    self.sink = None;
                }
            }
        }
    }
}

/// Whether a descriptor may go into a container as it is: pipes, sockets and /dev/null. Anything else could be opened
/// again from inside through /proc/self/fd, with other rights.
pub(super) fn may_be_handed_over(one: BorrowedFd<'_>) -> bool {
    let Ok(stat) = fd::fstat(one) else { return false };
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFIFO => is_anonymous_pipe(one),
        libc::S_IFSOCK => true,
        libc::S_IFCHR => stat.st_rdev == libc::makedev(1, 3),
        _ => false,
    }
}

/// A named FIFO is a path of the host; a pipe lives on pipefs.
fn is_anonymous_pipe(one: BorrowedFd<'_>) -> bool {
    const PIPEFS_MAGIC: i64 = 0x5049_5045;
    fd::filesystem(one).is_ok_and(|magic| magic == PIPEFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pipes_sockets_and_null_are_handed_over() {
        let (reader, _writer) = io::pipe().unwrap();
        let (socket, _other) = crate::sys::socket::stream_pair().unwrap();
        assert!(may_be_handed_over(reader.as_fd()));
        assert!(may_be_handed_over(socket.as_fd()));
        assert!(may_be_handed_over(std::fs::File::open("/dev/null").unwrap().as_fd()));
        for bad in ["/dev/zero", "/proc/self/status", "/", "/etc/passwd"] {
            assert!(!may_be_handed_over(std::fs::File::open(bad).unwrap().as_fd()), "{bad}");
        }
    }

    #[test]
    fn a_relay_carries_all_and_then_ends() {
        let (reader, writer) = io::pipe().unwrap();
        let (arrived, sink) = io::pipe().unwrap();
        let mut relay = Relay::new(reader.into(), sink.into());
        fd::write(writer.as_fd(), b"abc").unwrap();
        assert_eq!(relay.advance(), Flow::Going);
        drop(writer);
        assert_eq!(relay.advance(), Flow::Ended);
        assert!(relay.is_over() && relay.interest().is_none());
        let mut buffer = [0; 8];
        assert_eq!(fd::read(arrived.as_fd(), &mut buffer).unwrap(), 3);
        assert_eq!(fd::read(arrived.as_fd(), &mut buffer).unwrap(), 0, "the sink was not closed");
    }
}
