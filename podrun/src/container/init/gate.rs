//! The gate: where a process that is ready waits to be let go, and what reaches it there.

#![forbid(unsafe_code)]

use super::Ground;
use crate::container::hooks::Round;
use crate::sys::clone::{exit, poll_one};
use crate::sys::{cred, fd, socket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Says that all is ready, unless the gate stands open already, and waits for it. No byte but the end: the monitor died.
pub(super) fn wait_at_gate(ground: &Ground<'_>) -> io::Result<()> {
    let report = ground.report;
    let first = 3 + ground.alone.preserved;
    match (ground.alone.door, ground.alone.start_container) {
        (Some(door), hooks) => {
            let state = hooks.and_then(Round::state).unwrap_or(report);
            fd::close_from_but(first, &mut [report, door, state])?;
            let signals = DeadlySignals::catch()?;
            socket::send(report, b"R", &[], 0)?;
            signals.or_ready(door)?;
            // The maker sees the end of its own socket by this; `start` speaks through the one that takes its number.
            let caller = socket::accept_one(door)?;
            fd::take_place(caller.as_fd(), report)?;
            signals.or_ready(report)?;
        }
        (None, None) if !poll_one(report, libc::POLLIN, 0)? => {
            fd::close_from_but(first, &mut [report])?;
            let signals = DeadlySignals::catch()?;
            socket::send(report, b"R", &[], 0)?;
            signals.or_ready(report)?;
        }
        _ => {}
    }
    let mut byte = [0];
    match fd::read(report, &mut byte)? {
        0 => exit(1),
        _ => Ok(()),
    }
}

/// The listener goes to whoever can send it on, and only when that is done may the program ask (the profile lets both calls
/// pass: `seccomp` sees to it). No byte but the end: the monitor died.
pub(super) fn hand_over(report: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> io::Result<()> {
    socket::send(report, b"L", &[listener], 0)?;
    let mut byte = [0];
    // A monitor that came meanwhile has opened the gate once more: that is not yet the answer.
    while byte != *b"A" {
        if fd::read(report, &mut byte)? == 0 {
            exit(1);
        }
    }
    Ok(())
}

/// Those that end a process by default (signal(7)), kept from it while it waits. The kernel drops them on the first of a PID
/// namespace that has no handler, but a container that was created and never started is to end of them all the same: runc's
/// init does, and whoever sends TERM to an id knows nothing of gates.
struct DeadlySignals(SignalFd);

impl DeadlySignals {
    fn catch() -> io::Result<Self> {
        let mut mask = SigSet::all();
        for other in [
            Signal::SIGCHLD,
            Signal::SIGCONT,
            Signal::SIGURG,
            Signal::SIGWINCH,
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ] {
            mask.remove(other);
        }
        mask.thread_block()?;
        Ok(Self(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// Comes back when `other` has something to say, and never where a signal is first.
    fn or_ready(&self, other: BorrowedFd<'_>) -> io::Result<()> {
        loop {
            let mut both = [self.0.as_fd(), other].map(|one| PollFd::new(one, PollFlags::POLLIN));
            match poll(&mut both, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                done => done?,
            };
            if let Some(signal) = self.0.read_signal()? {
                die_of(signal.ssi_signo.cast_signed());
            }
            if both[1].any() == Some(true) {
                return Ok(());
            }
        }
    }
}

impl Drop for DeadlySignals {
    fn drop(&mut self) {
        cred::unblock_signals();
    }
}

/// By the signal itself where the kernel lets it, else with the code that a shell has for it.
fn die_of(signal: i32) -> ! {
    cred::unblock_signals();
    cred::raise(signal);
    exit(128 + signal)
}
