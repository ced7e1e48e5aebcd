//! The user's own terminal: raw while a container's takes its place, and as it was afterwards, however that ends.

#![forbid(unsafe_code)]

use crate::error::{Doing, Result};
use crate::sys::tty::{self, Size};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A terminal in raw mode until dropped.
#[derive(Debug)]
pub struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    pub fn new(terminal: BorrowedFd<'_>) -> Result<Self> {
        let doing = || "put the terminal into raw mode".to_owned();
        let terminal = terminal.try_clone_to_owned().doing(doing)?;
        let before = tcgetattr(&terminal).doing(doing)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSADRAIN, &raw).doing(doing)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

/// The size of the terminal behind any of our standard descriptors.
pub fn own_size() -> Option<Size> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let sizes = [tty::size(stdin.as_fd()), tty::size(stdout.as_fd()), tty::size(stderr.as_fd())];
    sizes.into_iter().flatten().find(|size| size.rows > 0 && size.columns > 0)
}

/// Gives a container's terminal the size of ours.
pub fn fit(master: BorrowedFd<'_>) {
    if let Some(size) = own_size() {
        // It may be gone.
        let _ = tty::set_size(master, size);
    }
}

pub fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    tty::size(fd).is_ok()
}

/// docker's and podman's way to leave a container's terminal alone: Ctrl-P, Ctrl-Q.
#[derive(Debug, Default)]
pub struct DetachKeys {
    /// Ctrl-P came last, and was held back.
    half: bool,
}

impl DetachKeys {
    const FIRST: u8 = 0x10;
    const SECOND: u8 = 0x11;

    /// What of the input is for the container, and whether the keys were pressed.
    pub fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(input.len() + 1);
        for &byte in input {
            match (self.half, byte) {
                (true, Self::SECOND) => return (passed, true),
                (true, _) => {
                    passed.push(Self::FIRST);
                    self.half = byte == Self::FIRST;
                    if !self.half {
                        passed.push(byte);
                    }
                }
                (false, Self::FIRST) => self.half = true,
                (false, _) => passed.push(byte),
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detach_keys_are_held_back_and_nothing_else() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10\x11z"), (b"\x10".to_vec(), true));
    }
}
