//! Staying with a program until it ends: signals are passed on to it, and its terminal takes the place of the user's own.

#![forbid(unsafe_code)]

use crate::error::{Doing, Result};
use crate::pod::relay::{Flow, Relay};
use crate::pod::terminal::{self, Raw};
use crate::signal;
use crate::sys::clone::{self, Exit, Reap, pidfd_send_signal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use std::os::fd::{AsFd, OwnedFd};

/// What a user's or a supervisor's signal to us means for the program; WINCH is for its terminal.
const PASSED_ON: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
];

/// Blocks the signals that [`Stay::until_end`] passes on. Before the program is let go, so that none gets lost; after it was
/// cloned, so that it inherits nothing of it.
#[derive(Debug)]
pub struct Stay {
    signals: SignalFd,
}

impl Stay {
    pub fn begin() -> Result<Self> {
        signal::catch(PASSED_ON).map(|signals| Self { signals })
    }

    /// How the program behind `pidfd` ended, a child of ours.
    pub fn until_end(&self, pidfd: &OwnedFd, master: Option<&OwnedFd>) -> Result<Exit> {
        let mut shown = master.map(Shown::new).transpose()?;
        loop {
            if let Some(exit) = clone::waitid(pidfd.as_fd(), Reap::Now).doing(|| "wait for the program".into())? {
                if let Some(shown) = &mut shown {
                    shown.drain();
                }
                return Ok(exit);
            }
            let mut fds = vec![
                PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(shown.iter().flat_map(Shown::interests));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(err) => return Err(err).doing(|| "wait for the program".into()),
            }
            drop(fds);
            self.pass_on(pidfd, shown.as_ref());
            if let Some(shown) = &mut shown {
                shown.advance();
            }
        }
    }

    fn pass_on(&self, pidfd: &OwnedFd, shown: Option<&Shown>) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = signal.ssi_signo.cast_signed();
            match shown {
                Some(shown) if number == libc::SIGWINCH => shown.resize(),
                // It may have ended in this moment.
                _ => drop(pidfd_send_signal(pidfd.as_fd(), number)),
            }
        }
    }
}

/// A container's terminal on the user's.
struct Shown {
    input: Relay,
    output: Relay,
    master: OwnedFd,
    _raw: Option<Raw>,
}

impl Shown {
    fn new(master: &OwnedFd) -> Result<Self> {
        let doing = || "show the terminal".to_owned();
        let (own_in, own_out) = (std::io::stdin(), std::io::stdout());
        let raw = match terminal::is_terminal(own_in.as_fd()) {
            true => Some(Raw::new(own_in.as_fd())?),
            false => None,
        };
        let copy = || master.try_clone().doing(doing);
        let shown = Self {
            input: Relay::new(own_in.as_fd().try_clone_to_owned().doing(doing)?, copy()?),
            output: Relay::new(copy()?, own_out.as_fd().try_clone_to_owned().doing(doing)?),
            master: copy()?,
            _raw: raw,
        };
        shown.resize();
        Ok(shown)
    }

    fn resize(&self) {
        terminal::fit(self.master.as_fd());
    }

    fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.input.interest().into_iter().chain(self.output.interest())
    }

    fn advance(&mut self) {
        self.input.advance_if_ready();
        self.output.advance_if_ready();
    }

    /// What the program wrote before it ended.
    fn drain(&mut self) {
        while poll(&mut [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
            .is_ok_and(|count| count > 0)
        {
            if self.output.advance() == Flow::Ended {
                return;
            }
        }
    }
}
