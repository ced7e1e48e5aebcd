//! The log pump: a process that carries the output of a pod's containers from their pipes into their logs.
//!
//! Promises: no byte is lost or doubled while the disk works, whenever a pump is killed; a container never waits for a disk,
//! a reader or a monitor; one that writes without end starves no other. Knows no readers: whoever wants to see output
//! follows the log (`logs`). Does not: make containers, choose names, restart itself (the monitor does).

#![forbid(unsafe_code)]

mod container;
mod desk;
mod ledger;
mod log;
mod pipes;
mod serve;
mod stream;
mod wire;

pub use pipes::Ends;
pub use pipes::Pipes;
pub use wire::Add;
pub use wire::Answer;
pub use wire::Command;
pub use wire::receive;
pub use wire::send;

use crate::error::Doing;
use crate::error::Result;
use nix::sys::resource::Resource;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Serves until the other end of `control`, a SOCK_SEQPACKET socket, is closed everywhere and all containers have ended.
/// The caller is a process that was forked for this, with nothing else open, and leaves with its answer. Dying of an error
/// costs nothing: the next pump goes on where this one was.
pub fn run(control: OwnedFd) -> u8 {
    // ps(1) tells the story.
    let _ = nix::sys::prctl::set_name(c"podrun-pump");
    // A monitor reads its signals from a signalfd; here they do what they always do.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
    // Seven fds a container: 110 containers are more than the usual soft limit.
    if let Ok((_, hard)) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    match serve::Pump::new(control).and_then(|mut pump| pump.serve()) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Makes a container's log, 0640, and its directories, 0750, so that the path leads somewhere before the pump has heard of
/// it.
pub fn make_log(path: &Path) -> Result<()> {
    log::open(path).map(drop).doing(|| format!("make the log {}", path.display()))
}

fn errno_of(err: &io::Error) -> i32 {
    match err.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => libc::EINVAL,
        _ => err.raw_os_error().unwrap_or(libc::EIO),
    }
}
