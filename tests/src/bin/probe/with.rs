//! Runs a program from a caller who is not tidy: open descriptors, a umask, ignored signals, a terminal of its own.

#![forbid(unsafe_code)]

use crate::Act;
use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use podrun_tests::sys;
use std::os::fd::{AsFd, IntoRawFd};
use std::os::unix::process::CommandExt;

/// Changes, `--`, program and arguments.
pub(crate) fn run(words: &[&str]) -> Act {
    let mut words = words.iter().copied();
    while let Some(change) = words.next().filter(|&word| word != "--") {
        match change {
            "terminal" => {
                nix::unistd::setsid()?;
                sys::take_terminal(std::io::stdin().as_fd())?;
            }
            _ => apply(change, words.next().ok_or("a change needs its value")?)?,
        }
    }
    let program = words.next().ok_or("no program after --")?;
    Err(std::process::Command::new(program).args(words).exec().into())
}

fn apply(change: &str, value: &str) -> Result<(), Box<dyn std::error::Error>> {
    match change {
        "fds" => leak(value.parse()?)?,
        "umask" => drop(umask(Mode::from_bits_truncate(libc::mode_t::from_str_radix(value, 8)?))),
        "ignore" => sys::ignore(value.parse()?),
        "block" => {
            let mut set = SigSet::empty();
            set.add(Signal::try_from(value.parse::<i32>()?)?);
            set.thread_block()?;
        }
        "nofile" => setrlimit(Resource::RLIMIT_NOFILE, value.parse()?, value.parse()?)?,
        "core" => setrlimit(Resource::RLIMIT_CORE, value.parse()?, value.parse()?)?,
        "nice" => {
            sys::raw(libc::SYS_setpriority, [0, 0, value.parse()?, 0, 0, 0])?;
        }
        "oom" => std::fs::write("/proc/self/oom_score_adj", value)?,
        "cpu" => {
            let mut cpus = nix::sched::CpuSet::new();
            cpus.set(value.parse()?)?;
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)?;
        }
        "without" => sys::without(&value.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?)?,
        "close" => nix::unistd::close(value.parse::<i32>()?)?,
        _ => return Err(format!("the probe cannot change {change}").into()),
    }
    Ok(())
}

/// Directories of the host, open and without close-on-exec: what CVE-2024-21626 climbed out on.
fn leak(number: u32) -> nix::Result<()> {
    for _ in 0..number {
        let _ = open("/etc", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?.into_raw_fd();
    }
    Ok(())
}
