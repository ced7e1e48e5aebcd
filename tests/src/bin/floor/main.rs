//! What the kernel charges: the bare system calls of a container, an exec, a pod and a log pump, for `make bench`.
//!
//! ```text
//!   floor run ROOTFS PAUSE-PID [CGROUP]     each line on stdin: one container in that process's pod
//!   floor exec PID [CGROUP]                 each line: one program in that process's namespaces
//!   floor pod HOLDER ROOTFS N [CGROUP]      each line: a pod of N containers, up, run and gone
//!   floor wire PID                          each line: an interface of a bridge in that process's network
//!   floor pump LOG                          stdin to a log
//! ```
//! The answer to each line is how many nanoseconds it took.

#![deny(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a door")]

mod container;
mod link;
mod pod;
mod pump;
#[allow(unsafe_code, reason = "what nix lacks")]
mod sys;

use container::{Pod, Visit, text};
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match obey(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("floor: {err}");
            ExitCode::FAILURE
        }
    }
}

fn obey(words: &[&str]) -> io::Result<()> {
    match words {
        ["run", rootfs, pid, cgroup @ ..] => {
            let (pod, rootfs, cgroup) = (Pod::of(number(pid)?)?, text(rootfs)?, open(cgroup)?);
            each_line(|| container::run(&pod, &rootfs, cgroup.as_ref()))
        }
        ["exec", pid, cgroup @ ..] => {
            let (visit, cgroup) = (Visit::of(number(pid)?)?, open(cgroup)?);
            each_line(|| visit.run(cgroup.as_ref()))
        }
        ["pod", holder, rootfs, containers, cgroup @ ..] => {
            let (holder, rootfs, cgroup) = (text(holder)?, text(rootfs)?, open(cgroup)?);
            let (mut maker, containers) = (pod::Maker::new()?, number(containers)?);
            each_line(|| maker.once(&holder, &rootfs, containers, cgroup.as_ref()))
        }
        ["wire", pid] => {
            let (mut maker, pid) = (pod::Maker::new()?, number(pid)?);
            // The undoing waits for the kernel, and is not timed.
            each_line_and_undone(|n| maker.wire(pid, n), pod::unwire)
        }
        ["pump", log] => pump::pump(log),
        _ => Err(io::Error::other("run, exec, pod or pump: see the source")),
    }
}

fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(word: &str) -> io::Result<T> {
    word.parse().map_err(io::Error::other)
}

/// CLONE_INTO_CGROUP takes an O_RDONLY descriptor of the directory.
fn open(cgroup: &[&str]) -> io::Result<Option<OwnedFd>> {
    cgroup.first().map(|path| File::open(path).map(OwnedFd::from)).transpose()
}

fn each_line_and_undone(
    mut once: impl FnMut(u32) -> io::Result<()>,
    undo: impl Fn(u32) -> io::Result<()>,
) -> io::Result<()> {
    for (line, n) in io::stdin().lock().lines().zip(1..) {
        line?;
        let start = Instant::now();
        once(n)?;
        let took = start.elapsed();
        undo(n)?;
        println!("{}", took.as_nanos());
        io::stdout().flush()?;
    }
    Ok(())
}

fn each_line(mut once: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        once()?;
        println!("{}", start.elapsed().as_nanos());
        io::stdout().flush()?;
    }
    Ok(())
}
