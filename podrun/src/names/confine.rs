//! What a name server gives up before it hears its first packet: it talks to pods, so it should be able to do little.
//!
//! It stays uid 0, since only root enters the directories that it reads (CVE-2024-25621), but without any capability, and
//! can get none back.

#![forbid(unsafe_code)]

use crate::sys::cred;
use std::io;

/// A question under way has a descriptor, and so has a connection.
const FILES: u64 = 4096;

/// What whoever started it had tuned for itself is not the server's.
pub(super) fn forget_the_caller() {
    cred::reset_scheduling();
    cred::umask(0o077);
    if let Ok((_, hard)) = cred::getrlimit(0, libc::RLIMIT_NOFILE) {
        let _ = cred::setrlimit(libc::RLIMIT_NOFILE, hard.min(FILES), hard.min(FILES));
    }
    let _ = cred::setrlimit(libc::RLIMIT_CORE, 0, 0);
    // Workloads first, as with a pod's keepers; where the host does not grant it, it stays as it is.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
}

pub(super) fn give_up_power() -> io::Result<()> {
    cred::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    cred::capset(0, 0, 0)
}
