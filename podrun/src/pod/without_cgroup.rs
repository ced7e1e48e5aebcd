//! The end of a pod that has no cgroup, as a user's has none where none was delegated: its processes are found one by one, by
//! its records and by its directory on their command lines.
//!
//! A process of a container's is in the container's PID namespace, or in the pod's shared one, and ends with that one's first,
//! which the records know. Stopped all together before they are killed, so that none of them makes the others anew.

#![forbid(unsafe_code)]

use crate::cgroup::{Cgroup, Layout, Place, Reach};
use crate::error::{Error, Kind, Result};
use crate::monitor;
use crate::store::{self, Keepers, PodDir};
use crate::sys::clone::{pidfd_send_signal, poll_one, processes};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Whether a pod of this layout is to be looked for so.
pub(super) fn is_it(layout: &Layout) -> bool {
    layout.reach == Reach::Nothing
}

/// Kills whoever is in the cgroup, or, where there is none, whoever belongs to the pod. On v2 and hybrid hosts one write
/// reaches everybody below a directory; on v1 each leaf is killed by itself.
pub(super) fn kill_in(layout: &Layout, place: &Place, dir: &PodDir, within: Duration) -> Result<()> {
    match is_it(layout) {
        true => kill_all(dir, within),
        false => Cgroup::find(layout, place)?.kill_all(within),
    }
}

/// Kills whoever belongs to the pod, until nobody does.
fn kill_all(dir: &PodDir, within: Duration) -> Result<()> {
    let until = Instant::now() + within;
    loop {
        let found = everybody(dir);
        if found.is_empty() {
            return Ok(());
        }
        for signal in [libc::SIGSTOP, libc::SIGKILL] {
            found.iter().for_each(|process| drop(pidfd_send_signal(process.as_fd(), signal)));
        }
        for process in &found {
            let left = i32::try_from(until.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(i32::MAX);
            let _ = poll_one(process.as_fd(), libc::POLLIN, left);
        }
        if Instant::now() >= until {
            let cause = format!("{} of its processes do not end", everybody(dir).len());
            return Err(Error::new(Kind::NotNow, format!("kill the processes of {}", dir.0.display()), cause));
        }
    }
}

/// Those that live.
fn everybody(dir: &PodDir) -> Vec<OwnedFd> {
    let keepers = store::read::<Keepers>(&dir.keepers()).ok();
    let keepers = keepers.map(|all| [Some(all.pause), Some(all.monitor), all.pump, all.init]).into_iter().flatten();
    let containers = store::containers(dir).into_iter().map(|container| container.process);
    let recorded = keepers.chain(containers).flatten().filter_map(|process| process.open());
    recorded.chain(named(&dir.0)).collect()
}

/// Keepers that no record tells of: those of a pod that is half made, or that have just come up.
fn named(dir: &Path) -> Vec<OwnedFd> {
    let its = |pid| is_keepers(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(), dir);
    processes(its).map(|(_, process)| process).filter(|process| !is_over(process)).collect()
}

/// A zombie that its parent is still to reap.
fn is_over(process: &OwnedFd) -> bool {
    poll_one(process.as_fd(), libc::POLLIN, 0).unwrap_or(false)
}

/// Pure: pause with a monitor to start, the monitor itself, and its pump, which has its name; pasta goes with the network.
fn is_keepers(line: &[u8], dir: &Path) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let names = [b"pause".as_slice(), monitor::ARGV0.as_bytes()];
    names.contains(&words[0]) && words.contains(&dir.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_keeps_a_pod_is_taken_for_its_keeper() {
        let dir = Path::new("/run/p/pods/1");
        for (line, its) in [
            (b"pause\0podrun-monitor\0/run/p/pods/1\0".as_slice(), true),
            (b"podrun-monitor\0/run/p/pods/1\0", true),
            (b"podrun-monitor\0/run/p/pods/1\0--upgraded\0", true),
            (b"podrun-monitor\0/run/p/pods/12\0", false),
            (b"pause\0", false),
            (b"ls\0/run/p/pods/1\0", false),
            (b"", false),
        ] {
            assert_eq!(is_keepers(line, dir), its, "{}", String::from_utf8_lossy(line));
        }
    }
}
