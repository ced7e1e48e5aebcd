//! What a name server gives up before it hears its first packet: it talks to pods, so it should be able to do little.
//!
//! It stays uid 0, since only root enters the directories that it reads (CVE-2024-25621), but without any capability, and
//! can get none back. A filter leaves it the calls of its loop: it can execute nothing, signal nobody, and open files to read.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::seccomp;
use crate::sys::seccomp::set_mode_filter;
use crate::sys::{cred, sched};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::json;

/// A question under way has a descriptor, and so has a connection.
const FILES: u64 = 4096;

/// What whoever started it had tuned for itself is not the server's.
pub(super) fn forget_the_caller() {
    sched::reset();
    cred::umask(0o077);
    if let Ok((_, hard)) = cred::getrlimit(0, libc::RLIMIT_NOFILE) {
        let _ = cred::setrlimit(libc::RLIMIT_NOFILE, hard.min(FILES), hard.min(FILES));
    }
    let _ = cred::setrlimit(libc::RLIMIT_CORE, 0, 0);
    // Workloads first, as with a pod's keepers; where the host does not grant it, it stays as it is.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
}

pub(super) fn give_up_power() -> Result<()> {
    let doing = || "give up capabilities".to_owned();
    cred::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).doing(doing)?;
    cred::capset(0, 0, 0).doing(doing)?;
    let program = seccomp::compile(&profile()?, seccomp::native()?)?;
    match set_mode_filter(program.flags, &program.filter) {
        // A kernel without seccomp has no filter for anybody.
        Err(nix::errno::Errno::ENOSYS | nix::errno::Errno::EINVAL) => Ok(()),
        other => other.map(drop).doing(|| "load the filter of system calls".into()),
    }
}

/// What the loop, its allocator and the standard library ask of the kernel; all else is refused.
const CALLS: &[&str] = &[
    "accept4",
    "bind",
    "brk",
    "clock_gettime",
    "close",
    "connect",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "exit",
    "exit_group",
    "fcntl",
    "fstat",
    "ftruncate",
    "futex",
    "getdents64",
    "getpeername",
    "getrandom",
    "getsockname",
    "getsockopt",
    "ioctl",
    "lseek",
    "madvise",
    "mmap",
    "mremap",
    "munmap",
    "newfstatat",
    "poll",
    "ppoll",
    "pwrite64",
    "read",
    "readlink",
    "readlinkat",
    "recvfrom",
    "recvmsg",
    "restart_syscall",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "sigaltstack",
    "socket",
    "stat",
    "statx",
    "write",
    "writev",
];

/// Flags of open(2) that do more than read.
const MORE_THAN_READING: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;

fn profile() -> Result<LinuxSeccomp> {
    let reads = json!([{"index": 2, "value": MORE_THAN_READING, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "syscalls": [
            {"names": CALLS, "action": "SCMP_ACT_ALLOW"},
            {"names": ["openat"], "action": "SCMP_ACT_ALLOW", "args": reads},
        ],
    });
    serde_json::from_value(profile).map_err(|err| Error::new(Kind::Invalid, "write the filter of system calls", err))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_can_be_made() {
        let program = seccomp::compile(&profile().unwrap(), seccomp::native().unwrap()).unwrap();
        // `stat` is a call of some architectures only.
        assert!(program.filter.len() > 10 && program.warnings.len() <= 1, "{:?}", program.warnings);
    }
}
