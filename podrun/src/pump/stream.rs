//! One stream of a container: from its pipe or terminal into its holding pipe.

#![forbid(unsafe_code)]

use crate::pump::desk::TURN;
use crate::pump::pipes::Channel;
use crate::sys::pipe;
use nix::errno::Errno;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;
use std::time::Instant;

/// How long a piece without its newline waits for the rest of its line.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);
/// How soon to look again at a terminal that nobody in the container has open.
pub(super) const HUNG_UP: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    /// Nobody has the terminal open just now; somebody may open it again.
    HungUp(Instant),
    Ended,
}

/// What a look at the source gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intake {
    Took,
    Nothing,
    /// There is more, and the holding pipe has no room for it.
    Full,
    Ended,
    HungUp,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) channel: Channel,
    pub(super) flow: Flow,
    /// How many bytes are in the holding pipe.
    pub(super) held: usize,
    /// When what is held goes out as it is.
    pub(super) due: Option<Instant>,
}

impl Held {
    pub(super) fn new(channel: Channel) -> io::Result<Self> {
        let held = pipe::bytes_in(channel.out.as_fd())?;
        Ok(Self { channel, flow: Flow::Open, held, due: None })
    }

    /// Moves what there is, a turn's worth at the most, from the source into the holding pipe. The kernel moves it whole:
    /// whoever is killed now, each byte is in one pipe or the other.
    pub(super) fn take_in(&mut self) -> io::Result<Intake> {
        let moved = match pipe::splice(&self.channel.source, &self.channel.into, TURN) {
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => self.copy_in(),
            moved => moved,
        };
        match moved {
            Ok(0) => Ok(Intake::Ended),
            Ok(n) => {
                self.held += n;
                Ok(Intake::Took)
            }
            Err(err) => match err.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) => self.nothing_or_full(),
                // pty(7): the master's answer when the last slave is closed.
                Some(Errno::EIO) => Ok(Intake::HungUp),
                _ => Err(err),
            },
        }
    }

    fn nothing_or_full(&self) -> io::Result<Intake> {
        let waiting = self.held > 0 && pipe::bytes_in(self.channel.source.as_fd())? > 0;
        Ok(if waiting { Intake::Full } else { Intake::Nothing })
    }

    /// Before Linux 5.11 a terminal cannot be spliced. What is read by a pump that is killed before it has written it is
    /// lost: one read of at most 4 KiB.
    fn copy_in(&self) -> io::Result<usize> {
        let mut bytes = [0; 4096];
        if self.held > bytes.len() {
            return Err(Errno::EAGAIN.into());
        }
        let n = nix::unistd::read(&self.channel.source, &mut bytes)?;
        let mut rest = &bytes[..n];
        while !rest.is_empty() {
            rest = &rest[nix::unistd::write(&self.channel.into, rest)?..];
        }
        Ok(n)
    }

    /// How many bytes wait in the source.
    pub(super) fn waiting(&self) -> usize {
        pipe::bytes_in(self.channel.source.as_fd()).unwrap_or(0)
    }

    pub(super) fn ended(&self) -> bool {
        self.flow == Flow::Ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pump::pipes::Pipes;

    #[test]
    fn an_intake_says_what_it_found() {
        let (pipes, ends) = Pipes::new().unwrap();
        let mut held = Held::new(pipes.stdout).unwrap();
        assert_eq!(held.take_in().unwrap(), Intake::Nothing);
        nix::unistd::write(&ends.stdout, b"abc").unwrap();
        assert_eq!((held.take_in().unwrap(), held.held), (Intake::Took, 3));
        pipe::set_nonblocking(ends.stdout.as_fd()).unwrap();
        let mut seen = Intake::Took;
        while seen == Intake::Took {
            while nix::unistd::write(&ends.stdout, &[0; 4096]).is_ok() {}
            seen = held.take_in().unwrap();
        }
        assert_eq!(seen, Intake::Full);
        drop(ends);
        let mut other = Held::new(Pipes::new().unwrap().0.stdout).unwrap();
        assert_eq!(other.take_in().unwrap(), Intake::Ended);
    }

    #[test]
    fn a_source_that_cannot_be_spliced_is_copied() {
        let (pipes, ends) = Pipes::new().unwrap();
        let held = Held::new(pipes.stdout).unwrap();
        nix::unistd::write(&ends.stdout, b"abc").unwrap();
        assert_eq!(held.copy_in().unwrap(), 3);
        assert_eq!(pipe::bytes_in(held.channel.out.as_fd()).unwrap(), 3);
    }
}
