//! What the monitor and the pump say to each other: one JSON message each, over SOCK_SEQPACKET, with fds where said.
//!
//! ```text
//!  monitor                                             pump
//!     │ Add + [state, stdout's source, holding out, into   │
//!     │        (, stderr's source, holding out, into)] ──▶ │   no answer, unless it cannot be: Refused
//!     │ Reopen ──────────────────────────────────────────▶ │
//!     │ ◀───────────────────────────────────────── Reopened │
//!     │ ◀───────────────────────────────────────── Finished │   the pipes have ended: all it wrote is in the log
//!     │ Finish ──────────────────────────────────────────▶ │   when init has exited and they have not
//!     │ ◀───────────────────────────────────────── Finished │
//!     │ Forget ──────────────────────────────────────────▶ │   no answer
//!     │ ◀────────────────────────────────────────── Trouble │   at any time, once a second at the most
//! ```
//! Unknown fields are ignored, since a monitor may be newer than its pump.

#![forbid(unsafe_code)]

use crate::sys::socket;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Paths are of 4,096 bytes at the most, and JSON may double them.
const LONGEST: usize = 12 * 1024;

/// A container's log and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// The monitor's name for this container's run. It comes back in every answer.
    pub key: u64,
    /// `…/<container>/<n>.log`
    pub log: PathBuf,
    /// Rotate before the file becomes longer than this.
    pub max_size: Option<u64>,
    /// How many files there may be, the live one included. At least one.
    pub max_files: u32,
    /// The source is a pty's master.
    pub tty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// Known keys are ignored, and the fds dropped: a new monitor just adds all that it finds in the fd store.
    Add(Add),
    /// Somebody renamed the log: open its path anew.
    Reopen { key: u64 },
    /// The container's init has exited: answer when everything is written, at the end of all streams, or after this many
    /// milliseconds with what is there by then, when a child of it still holds them open.
    #[serde(rename_all = "camelCase")]
    Finish { key: u64, grace_ms: u64 },
    /// Close the container's fds. What was not asked for with `Finish` before may be left unread.
    Forget { key: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// `end` is the length of the live log; `lost_bytes` counts from the container's start.
    #[serde(rename_all = "camelCase")]
    Finished { key: u64, lost_bytes: u64, end: u64 },
    /// `errno` is 0 when the path leads to the log again.
    Reopened { key: u64, errno: i32 },
    /// The log cannot be written. Output is kept while there is room, then lost; the container goes on.
    #[serde(rename_all = "camelCase")]
    Trouble { key: u64, lost_bytes: u64, errno: i32 },
    /// The pump does not, or no longer, serve this container: its fds or its ledger are not what they should be.
    Refused { key: u64, errno: i32 },
}

/// The monitor's side: sends one command. The fds are those of [`crate::pump::Pipes::fds`], for `Add` only.
pub fn send(control: BorrowedFd<'_>, command: &Command, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_any(control, command, fds, 0)
}

/// The monitor's side: the next answer, without waiting. WouldBlock when there is none yet, UnexpectedEof when the pump
/// is gone.
pub fn receive(control: BorrowedFd<'_>) -> io::Result<Answer> {
    receive_any(control).map(|(answer, _)| answer)
}

pub(super) fn send_answer(control: BorrowedFd<'_>, answer: &Answer) -> io::Result<()> {
    send_any(control, answer, &[], libc::MSG_DONTWAIT)
}

pub(super) fn receive_command(control: BorrowedFd<'_>) -> io::Result<(Command, Vec<OwnedFd>)> {
    receive_any(control)
}

fn send_any<T: Serialize>(to: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>], flags: i32) -> io::Result<()> {
    socket::send(to, &serde_json::to_vec(message)?, fds, flags).map(drop)
}

fn receive_any<T: DeserializeOwned>(from: BorrowedFd<'_>) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut bytes = [0; LONGEST];
    let (len, fds) = socket::receive(from, &mut bytes, libc::MSG_DONTWAIT)?;
    match len {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok((serde_json::from_slice(&bytes[..len])?, fds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_monitor_may_say_more() {
        let text = r#"{"finish":{"key":18446744073709551615,"graceMs":5,"reason":"new"}}"#;
        let want = Command::Finish { key: u64::MAX, grace_ms: 5 };
        assert_eq!(serde_json::from_str::<Command>(text).unwrap(), want);
    }
}
