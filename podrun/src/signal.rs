//! Signals by name and number, as kill(1) and docker read them; and as something to wait for among other things.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The first and the last real-time signal as glibc numbers them (signal(7)).
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// `TERM`, `SIGTERM`, `15`, `RTMIN+3`, `SIGRTMAX-1`.
pub fn parse(text: &str) -> Result<i32> {
    let fail = || {
        Error::new(Kind::Usage, format!("read the signal {text:?}"), "there is none of this name")
            .hint("a name like TERM or RTMIN+3, or a number from 1 to 64")
    };
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RT_MAX).contains(&number) { Ok(number) } else { Err(fail()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = real_time(name) {
        return Ok(number);
    }
    format!("SIG{name}").parse::<Signal>().map(|signal| signal as i32).map_err(|_| fail())
}

fn real_time(name: &str) -> Option<i32> {
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest[1..].parse::<i32>().ok() };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) if rest.is_empty() || rest.starts_with('+') => RT_MIN.checked_add(offset(rest)?)?,
        (_, Some(rest)) if rest.is_empty() || rest.starts_with('-') => RT_MAX.checked_sub(offset(rest)?)?,
        _ => return None,
    };
    (RT_MIN..=RT_MAX).contains(&number).then_some(number)
}

/// `SIGTERM` for 15; real-time signals by their distance from SIGRTMIN.
pub fn name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) if number == RT_MIN => "SIGRTMIN".to_owned(),
        Err(_) if (RT_MIN..=RT_MAX).contains(&number) => format!("SIGRTMIN+{}", number - RT_MIN),
        Err(_) => format!("signal {number}"),
    }
}

/// Those that are meant for the workload, where somebody sits before it (docker's --sig-proxy).
pub const PROXIED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Whether a signal does nothing to a process: it ignores it, or is the first of its PID namespace, which no signal ends that it
/// neither handles nor keeps for later (pid_namespaces(7)). By proc_pid_status(5); the caller holds its pidfd.
pub fn is_lost_on(pid: i32, signal: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/status")).is_ok_and(|status| is_lost(&String::from_utf8_lossy(&status), signal))
}

fn is_lost(status: &str, signal: i32) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default();
    let has = |name: &str| u64::from_str_radix(field(name), 16).is_ok_and(|set| set >> (signal - 1) & 1 == 1);
    let ends = [Signal::SIGKILL as i32, Signal::SIGSTOP as i32].contains(&signal);
    let first = field("NSpid:").split_whitespace().last() == Some("1");
    !ends && (has("SigIgn:") || first && !has("SigCgt:") && !has("SigBlk:"))
}

/// Blocks these signals for this thread, and reads them from a descriptor from now on (signalfd(2)).
pub fn catch(signals: impl IntoIterator<Item = Signal>) -> Result<SignalFd> {
    let doing = || "wait for signals".to_owned();
    let mask: SigSet = signals.into_iter().collect();
    mask.thread_block().doing(doing)?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_first_of_its_namespace_does_not_handle_is_lost_on_it() {
        let of = |pids: &str, ignored: u64, caught: u64, blocked: u64| {
            format!("NSpid:\t{pids}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n")
        };
        let term = 1 << (libc::SIGTERM - 1);
        assert!(is_lost(&of("70\t1", 0, 0, 0), libc::SIGTERM));
        assert!(!is_lost(&of("70\t1", 0, term, 0), libc::SIGTERM));
        assert!(!is_lost(&of("70\t1", 0, 0, term), libc::SIGTERM), "it waits for it by sigwait or signalfd");
        assert!(!is_lost(&of("70\t2", 0, 0, 0), libc::SIGTERM), "not the first of a shared namespace");
        assert!(is_lost(&of("70\t2", term, 0, 0), libc::SIGTERM));
        assert!(!is_lost(&of("70\t1", 0, 0, 0), libc::SIGKILL));
        assert!(!is_lost("", libc::SIGTERM), "it has ended");
    }

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("RTMIN+3", 37),
            ("SIGRTMIN", 34),
            ("SIGRTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "-1", "TERMX", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMIN+99999999999"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for (number, text) in
            [(15, "SIGTERM"), (34, "SIGRTMIN"), (37, "SIGRTMIN+3"), (64, "SIGRTMIN+30"), (65, "signal 65")]
        {
            assert_eq!(name(number), text);
        }
        // glibc keeps two for itself, below those that it gives out.
        assert_eq!(name(33), "signal 33");
    }
}
