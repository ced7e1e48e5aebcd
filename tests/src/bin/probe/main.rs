//! Inside a container: tells its world as JSON, or does as it is told. Static, so that a root filesystem may hold
//! nothing else.
//!
//! Exit codes are the caller's to choose; 99 is the probe's own trouble.

#![forbid(unsafe_code)]

mod acts;
mod dns;
mod facts;
mod network;
mod with;

use std::io::Write;
use std::process::ExitCode;

/// What an act ends with: a code, or the sentence of what went wrong.
pub(crate) type Act = Result<u8, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match act(&words) {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            let _ = writeln!(std::io::stderr(), "probe: {}: {err}", args.join(" "));
            ExitCode::from(99)
        }
    }
}

fn act(words: &[&str]) -> Act {
    match words {
        [] | ["facts"] => facts::print(),
        ["anchor"] => acts::anchor(),
        ["with", rest @ ..] => with::run(rest),
        [
            "listen" | "answer" | "call" | "echo" | "talk" | "ask" | "udp-listen" | "udp-ask" | "udp-stream"
            | "sctp-listen" | "sctp-ask" | "ping" | "advertise" | "abstract-sockets",
            ..,
        ] => network::act(words),
        ["dns" | "dns-noise" | "dns-loop" | "dns-serve", ..] => dns::act(words),
        _ => acts::act(words),
    }
}

/// Prints a line at once, to stdout whatever it is.
pub(crate) fn say(line: impl std::fmt::Display) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
