//! The fds of one container's output. They live in the fd store, so that they outlive monitor and pump.

#![forbid(unsafe_code)]

use crate::pump::ledger;
use crate::sys::pipe;
use crate::sys::pipe::Pipe;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

/// The size of a holding pipe. Each piece that comes takes at least one of its pages, so that many small pieces of a line
/// need room; while the disk is full it is all that a container can say before something is lost.
pub(super) const HOLDING: i32 = 256 * 1024;

/// Where one stream comes from, and the pipe that holds what is on its way into the log.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) source: OwnedFd,
    pub(super) out: OwnedFd,
    pub(super) into: OwnedFd,
}

impl Channel {
    fn new(source: OwnedFd) -> io::Result<Self> {
        let Pipe { out, into } = pipe::pipe()?;
        // A refusal (fs.pipe-user-pages-soft) leaves the pipe smaller, and everything still works.
        let _ = pipe::set_size(into.as_fd(), HOLDING);
        Ok(Self { source, out, into })
    }

    fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.source.as_fd(), self.out.as_fd(), self.into.as_fd()]
    }
}

/// Everything that `Add` needs, for one container.
#[derive(Debug)]
pub struct Pipes {
    pub(super) state: OwnedFd,
    pub(super) stdout: Channel,
    pub(super) stderr: Option<Channel>,
}

/// The container's ends of the pipes: its fds 1 and 2. They wait when the pipe is full, as programs expect.
#[derive(Debug)]
pub struct Ends {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl Pipes {
    /// For a container without a terminal.
    pub fn new() -> io::Result<(Self, Ends)> {
        let (stdout, stderr) = (pipe::pipe()?, pipe::pipe()?);
        let ends = Ends { stdout: stdout.into, stderr: stderr.into };
        let stderr = Some(Channel::new(stderr.out)?);
        Ok((Self { state: ledger::create()?, stdout: Channel::new(stdout.out)?, stderr }, ends))
    }

    /// For a container with a terminal, whose `master` becomes O_NONBLOCK, for all who have a copy of it.
    pub fn terminal(master: OwnedFd) -> io::Result<Self> {
        pipe::set_nonblocking(master.as_fd())?;
        Ok(Self { state: ledger::create()?, stdout: Channel::new(master)?, stderr: None })
    }

    /// In the order of the messages: state, then source, holding out and holding into of stdout, then those of stderr.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let stderr = self.stderr.as_ref().map(Channel::fds);
        [self.state.as_fd()].into_iter().chain(self.stdout.fds()).chain(stderr.into_iter().flatten()).collect()
    }

    /// The way back from [`Pipes::fds`]: four or seven of them.
    pub fn from_fds(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next();
        let state = next();
        let mut channel = || Some(Channel { source: next()?, out: next()?, into: next()? });
        let (stdout, stderr) = (channel(), channel());
        match (state, stdout, fds.next()) {
            (Some(state), Some(stdout), None) => Ok(Self { state, stdout, stderr }),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(pipes: &Pipes, count: usize) -> io::Result<Pipes> {
        Pipes::from_fds(pipes.fds().iter().take(count).map(|fd| fd.try_clone_to_owned().unwrap()).collect())
    }

    #[test]
    fn the_fds_have_one_order() {
        let (pipes, ends) = Pipes::new().unwrap();
        nix::unistd::write(&ends.stderr, b"abc").unwrap();
        let again = back(&pipes, 7).unwrap();
        let found = pipe::bytes_in(again.stderr.as_ref().unwrap().source.as_fd()).unwrap();
        assert_eq!((pipes.fds().len(), found), (7, 3));
        assert!(back(&pipes, 4).unwrap().stderr.is_none());
        assert!(back(&pipes, 3).is_err());
        assert!(Pipes::from_fds(Vec::new()).is_err());
    }
}
