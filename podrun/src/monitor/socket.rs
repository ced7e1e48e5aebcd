//! What is said at the monitor's door: one request, then replies, each a length and a JSON document on a stream socket;
//! descriptors travel with the first byte.
//!
//! ```text
//!   client                                   monitor
//!     │ u32 length, Request (+ fds) ───────▶ │
//!     │ ◀── u32 length, Reply (+ fds) ────── │  Started, Terminal …: on the way
//!     │ ◀── u32 length, Reply ────────────── │  Done, Exited, Failed: the last one
//! ```
//! A client whose monitor died before the last reply connects again: the listening socket lives in the fd store, so the
//! successor answers. Every request can be asked twice: a name is made once, and an exec has an id.

#![forbid(unsafe_code)]

use crate::container::plan::Process;
use crate::error::{Error, Kind};
use crate::id::ContainerName;
use crate::spec::Policy;
use crate::store::{Ended, Reason};
use crate::sys::socket;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// More than this is no request of podrun's (a bound per request).
const LONGEST: usize = 16 << 20;

/// A container to be made: what its record says, and the plan as it is to be kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewContainer {
    pub name: ContainerName,
    pub id: String,
    pub command: Vec<String>,
    pub rootfs: PathBuf,
    pub terminal: bool,
    pub policy: Policy,
    pub cgroup: String,
    pub log_dir: PathBuf,
    pub warnings: Vec<String>,
    pub plan: Box<RawValue>,
}

/// How far `create` goes before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    Created,
    Started,
    Exited,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Create {
        container: Box<NewContainer>,
        until: Until,
    },
    Start {
        name: ContainerName,
        until: Until,
    },
    /// Empty: all of them.
    Stop {
        names: Vec<ContainerName>,
        grace_ms: u64,
        signal: Option<i32>,
    },
    Kill {
        names: Vec<ContainerName>,
        signal: i32,
    },
    Restart {
        names: Vec<ContainerName>,
        grace_ms: u64,
    },
    Pause {
        names: Vec<ContainerName>,
    },
    Resume {
        names: Vec<ContainerName>,
    },
    /// `id` is the client's own, so that it may ask again. With stdin, stdout, stderr, unless there is a terminal.
    Exec {
        id: String,
        container: ContainerName,
        process: Box<Process>,
        /// When it is over, the program and all that it started are killed; what it has left behind by its own end, too.
        #[serde(default)]
        limit: Option<Duration>,
    },
    /// To the program of an exec.
    SignalExec {
        id: String,
        signal: i32,
    },
    /// The end of an exec whose monitor died meanwhile.
    WaitExec {
        id: String,
    },
    /// The end of the run that goes on now, or of the last one.
    Wait {
        name: ContainerName,
    },
    /// The container's stdin: a pipe's write end, or the pty's master.
    Attach {
        name: ContainerName,
    },
    /// The client's stdin has ended: close the container's (docker's StdinOnce).
    CloseStdin {
        name: ContainerName,
    },
    ReopenLogs {
        name: ContainerName,
    },
    Delete {
        name: ContainerName,
        force: bool,
        grace_ms: u64,
    },
    /// The pod is over: the containers are dead, leave and let pause leave. The last reply comes before.
    Leave,
    /// With the new program.
    Upgrade,
    /// The pod's published ports have changed.
    Ports,
    /// The networks that the pod is on have changed.
    Networks,
    /// Somebody is there.
    Ping,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Created {
        pid: i32,
    },
    Started {
        pid: i32,
    },
    /// With the pty's master.
    Terminal,
    /// With the descriptor, if stdin is open.
    Stdin {
        terminal: bool,
    },
    Exited {
        ended: Ended,
        log: Option<PathBuf>,
    },
    Failed(Failure),
}

impl Reply {
    /// Whether nothing comes after it.
    pub fn is_last(&self, until: Until) -> bool {
        match self {
            Self::Done | Self::Exited { .. } | Self::Failed(_) | Self::Stdin { .. } => true,
            Self::Created { .. } => until == Until::Created,
            Self::Started { .. } => until == Until::Started,
            Self::Terminal => false,
        }
    }
}

/// An error as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    pub kind: Kind,
    pub doing: String,
    pub cause: String,
    pub hint: Option<String>,
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        Self {
            kind: err.kind,
            doing: err.what_was_being_done().to_owned(),
            cause: err.cause().to_owned(),
            hint: err.cure().map(str::to_owned),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let err = Self::new(failure.kind, failure.doing, failure.cause);
        match failure.hint {
            Some(hint) => err.hint(hint),
            None => err,
        }
    }
}

/// The end that nobody knows: never 0.
pub fn unknown_end(finished_at: String) -> Ended {
    Ended {
        exit_code: 255,
        signal: None,
        reason: Reason::ContainerStatusUnknown,
        finished_at,
        message: None,
        lost_log_bytes: 0,
    }
}

/// Sends one message on a blocking socket, or as much as a non-blocking one takes: the rest comes back.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    let mut sent = socket::send(socket, &bytes, fds, 0)?;
    while sent < bytes.len() {
        match socket::send(socket, &bytes[sent..], &[], 0) {
            Ok(more) => sent += more,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
            Err(err) => return Err(err),
        }
    }
    bytes.drain(..sent);
    Ok(bytes)
}

/// Puts messages together from what a stream socket gives.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// What one look at the socket brought.
#[derive(Debug)]
pub enum Arrival<T> {
    Message(T, Vec<OwnedFd>),
    /// Not all of it is there yet.
    Incomplete,
    /// The other side has left.
    End,
}

impl Inbox {
    /// Reads once (blocking or not, as the socket is) and takes out a message if one is whole.
    pub fn receive<T: DeserializeOwned>(&mut self, socket: BorrowedFd<'_>) -> io::Result<Arrival<T>> {
        if let Some(message) = self.take()? {
            return Ok(message);
        }
        let mut buffer = [0; 16 << 10];
        let (count, fds) = match socket::receive(socket, &mut buffer, 0) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(Arrival::Incomplete),
            Err(err) if err.raw_os_error() == Some(libc::ECONNRESET) => return Ok(Arrival::End),
            other => other?,
        };
        if count == 0 {
            return Ok(Arrival::End);
        }
        self.bytes.extend_from_slice(&buffer[..count]);
        self.fds.extend(fds);
        Ok(self.take()?.unwrap_or(Arrival::Incomplete))
    }

    /// Whether a whole message is here already, of which poll(2) on the socket says nothing.
    pub fn has_message(&self) -> bool {
        let Some((head, rest)) = self.bytes.split_first_chunk::<4>() else { return false };
        usize::try_from(u32::from_le_bytes(*head)).is_ok_and(|length| rest.len() >= length)
    }

    fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<Arrival<T>>> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*head)).map_err(io::Error::other)?;
        if length > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message larger than any that podrun sends"));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(body).map_err(io::Error::from)?;
        self.bytes.drain(..4 + length);
        Ok(Some(Arrival::Message(message, std::mem::take(&mut self.fds))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_message_may_come_in_pieces_and_two_at_once() {
        let (a, b) = socket::stream_pair().unwrap();
        let mut inbox = Inbox::default();
        let bytes = |request: &Request| {
            let body = serde_json::to_vec(request).unwrap();
            [u32::try_from(body.len()).unwrap().to_le_bytes().to_vec(), body].concat()
        };
        let both = [bytes(&Request::Ping), bytes(&Request::Leave)].concat();
        socket::send(a.as_fd(), &both[..3], &[a.as_fd()], 0).unwrap();
        assert!(matches!(inbox.receive::<Request>(b.as_fd()).unwrap(), Arrival::Incomplete));
        socket::send(a.as_fd(), &both[3..], &[], 0).unwrap();
        let Arrival::Message(Request::Ping, fds) = inbox.receive(b.as_fd()).unwrap() else { panic!("no ping") };
        assert_eq!(fds.len(), 1);
        assert!(inbox.has_message(), "the second one has left the socket with the first");
        assert!(matches!(inbox.receive::<Request>(b.as_fd()).unwrap(), Arrival::Message(Request::Leave, _)));
        assert!(!inbox.has_message());
        drop((a, fds));
        assert!(matches!(inbox.receive::<Request>(b.as_fd()).unwrap(), Arrival::End));
    }

    #[test]
    fn a_length_without_end_is_refused() {
        let (a, b) = socket::stream_pair().unwrap();
        socket::send(a.as_fd(), &[0xff; 8], &[], 0).unwrap();
        assert!(Inbox::default().receive::<Request>(b.as_fd()).is_err());
    }
}
