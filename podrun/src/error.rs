//! One error type: what was being done, why it failed, and the way out when we know it.
//!
//! An error is logged or returned, never both. `doing` names the object (path, name, address); `kind` is only what
//! a caller could do differently: the command line maps it to an exit code, a CRI server to a gRPC code.

#![forbid(unsafe_code)]

use crate::sys::calls::{self, Call, Need};
use std::fmt;

/// What a caller could do differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// The command line itself is wrong (exit code 2).
    Usage,
    /// There is no such pod, container, file.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The input is wrong: config.json, a flag's value.
    Invalid,
    /// Right request, wrong moment: it is running, paused, not started.
    NotNow,
    /// This host, kernel or user cannot do it.
    Unsupported,
    /// A range, disk or limit is used up.
    Exhausted,
    /// It took longer than it may (exit code 124, as of timeout(1)).
    TimedOut,
    /// The workload's program does not exist in the container (exit code 127).
    ProgramNotFound,
    /// The workload's program cannot be executed (exit code 126).
    ProgramNotExecutable,
    /// A system call failed.
    Kernel,
}

/// `podrun: <doing>: <cause>`, and `  hint: <hint>` where a cure is known.
#[derive(Clone)]
pub struct Error {
    pub kind: Kind,
    doing: String,
    cause: String,
    hint: Option<String>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, doing: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self { kind, doing: doing.into(), cause: cause.to_string(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Not an error at all: the help was asked for, and has been shown.
    #[must_use]
    pub fn help_was_shown(mut self) -> Self {
        self.doing.clear();
        self.cause.clear();
        self
    }

    pub fn is_help(&self) -> bool {
        self.doing.is_empty() && self.cause.is_empty()
    }

    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Puts the larger task before what was being done.
    #[must_use]
    pub fn within(mut self, task: impl fmt::Display) -> Self {
        self.doing = format!("{task}: {}", self.doing);
        self
    }

    pub fn what_was_being_done(&self) -> &str {
        &self.doing
    }

    pub fn cause(&self) -> &str {
        &self.cause
    }

    pub fn cure(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Line(&self.doing), Line(&self.cause))?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {}", Line(hint)),
            None => Ok(()),
        }
    }
}

/// One line whatever is in it: a config.json or a name must not write to the terminal of whoever reads of it.
struct Line<'a>(&'a str);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(char::is_control) {
            match part.chars().next_back().filter(|last| last.is_control()) {
                Some(last) => write!(f, "{}{}", &part[..part.len() - last.len_utf8()], last.escape_default())?,
                None => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {}

/// Turns a cause into an [`Error`] by saying what was being done.
pub trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|err| match err.raw_os_error() {
            Some(libc::ENOSYS) => without_a_call(what(), &err),
            _ => Error::new(kind_of(&err), what(), plain(&err)),
        })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(std::io::Error::from).doing(what)
    }
}

/// The kernel's own sentence, without Rust's "(os error 2)".
pub fn plain(err: &std::io::Error) -> String {
    match err.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_owned(),
        None => err.to_string(),
    }
}

/// The kernel does not say which call it has not; so they are asked, one by one.
fn without_a_call(doing: String, err: &std::io::Error) -> Error {
    let (optional, needed): (Vec<&Call>, Vec<&Call>) = calls::missing().partition(|call| call.need == Need::Never);
    match (needed.is_empty(), optional.is_empty()) {
        (false, _) => without(&needed, doing),
        // What has an older way is to blame where that way does not lead far enough.
        (true, false) => without(&optional, doing),
        (true, true) => Error::new(Kind::Unsupported, doing, plain(err)),
    }
}

/// What cannot be done on a kernel without these calls.
pub fn without(missing: &[&Call], doing: impl Into<String>) -> Error {
    let names: Vec<String> = missing.iter().map(|call| format!("{} (Linux {})", call.name, call.since)).collect();
    let hint = match missing.iter().all(|call| call.need == Need::Never) {
        true => "the rest of podrun does without it",
        false => "podrun needs Linux 5.10; where that runs, a seccomp filter around podrun withholds the call",
    };
    Error::new(Kind::Unsupported, doing, format!("this kernel has no {}", names.join(", "))).hint(hint)
}

/// The exit code of `run` and `exec` when it is not the workload's: docker's, the shell's and timeout(1)'s habit.
pub fn exit_code(kind: Kind) -> i32 {
    match kind {
        Kind::Usage => 2,
        Kind::ProgramNotFound => 127,
        Kind::ProgramNotExecutable => 126,
        Kind::TimedOut => 124,
        _ => 125,
    }
}

fn kind_of(err: &std::io::Error) -> Kind {
    use std::io::ErrorKind;
    match err.kind() {
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::AlreadyExists => Kind::AlreadyExists,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Kind::Exhausted,
        ErrorKind::InvalidData | ErrorKind::InvalidInput => Kind::Invalid,
        ErrorKind::Unsupported => Kind::Unsupported,
        _ => Kind::Kernel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_a_hint() {
        let missing = std::io::Error::from_raw_os_error(libc::ENOENT);
        let err = Err::<(), _>(missing).doing(|| "read /etc/x".into()).unwrap_err().hint("make it");
        assert_eq!(err.to_string(), "read /etc/x: No such file or directory\n  hint: make it");
        assert_eq!(err.kind, Kind::NotFound);
    }

    #[test]
    fn what_is_in_it_makes_no_second_line_and_no_colour() {
        let err = Error::new(Kind::Invalid, "read a\nb", "\u{1b}[31mé\u{9b}").hint("x\ty");
        assert_eq!(err.to_string(), "read a\\nb: \\u{1b}[31mé\\u{9b}\n  hint: x\\ty");
    }
}
