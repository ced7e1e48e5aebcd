//! clone3(2), pidfds and waiting: how a process is made, named and reaped.

use super::fd::{check, owned};
use super::proc::stat_field;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What clone3(2) is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clone<'a> {
    /// `CLONE_NEW*` flags, and `CLONE_PARENT` for a sibling.
    pub namespaces: i32,
    /// The cgroup2 directory to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A process: its number for people and records, its pidfd for everything that is done to it.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// clone3(2) without shared memory. In the child `child` runs and must not return.
///
/// The caller must have one thread: the child gets a copy of this memory, locks included. Every process of podrun that
/// clones has one thread (invariant 1), which the tests of the binary hold.
pub fn clone3(want: &Clone<'_>, child: impl FnOnce() -> std::convert::Infallible) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from((libc::CLONE_PIDFD | want.namespaces).cast_unsigned());
    args.pidfd = (&raw mut pidfd).expose_provenance() as u64;
    // A sibling's end is told as that of whoever clones it.
    let signal = if want.namespaces & libc::CLONE_PARENT == 0 { libc::SIGCHLD } else { 0 };
    args.exit_signal = u64::from(signal.cast_unsigned());
    if let Some(cgroup) = want.cgroup {
        args.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP, which libc declares too narrow
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: args is a clone_args of the size given, and pidfd a place for one int. Without CLONE_VM the child has its
    // own copy of memory and stack, so it may go on from here as fork(2)'s child does; we have one thread.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        child();
    }
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor here that only we know.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: i32::try_from(pid).map_err(io::Error::other)?, pidfd })
}

/// _exit(2): no destructor, no buffer of the parent's is flushed twice.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit only ends this process.
    unsafe { libc::_exit(code) }
}

/// Of all processes that /proc shows at this moment (proc(5)).
pub fn pids() -> io::Result<impl Iterator<Item = i32>> {
    Ok(std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Those of them that are the right ones. A number is made a handle first, and taken only if it is still one's own after that.
pub fn processes(is_one: impl Fn(i32) -> bool) -> impl Iterator<Item = (i32, OwnedFd)> {
    pids().into_iter().flatten().filter_map(move |pid| {
        let process = is_one(pid).then(|| pidfd_open(pid).ok())??;
        is_one(pid).then_some((pid, process))
    })
}

/// pidfd_open(2).
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open reads two integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// pidfd_send_signal(2): never reaches a stranger that got the number later.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: pidfd_send_signal reads integers; a null siginfo means the one that kill(2) makes.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    })
    .map(drop)
}

/// pidfd_getfd(2): a copy of another process's descriptor.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_getfd reads three integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })
}

/// How a process ended, as wait(2) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// From the status word of wait4(2).
    pub fn from_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Code(libc::WEXITSTATUS(status))
        }
    }

    /// The shell's habit: 128 and the signal's number.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Whether a look at an exit also reaps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reap {
    /// Leave the zombie: whoever comes after a crash can look again (waitid(2) WNOWAIT).
    Leave,
    Now,
}

/// waitid(2) on a pidfd of a child of ours, without blocking. `None` while it lives; ECHILD if it is not our child.
pub fn waitid(pidfd: BorrowedFd<'_>, reap: Reap) -> io::Result<Option<Exit>> {
    let flags = libc::WEXITED | libc::WNOHANG | if reap == Reap::Leave { libc::WNOWAIT } else { 0 };
    // SAFETY: siginfo_t is plain integers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = libc::id_t::from(pidfd.as_raw_fd().cast_unsigned());
    // SAFETY: info is a valid place for the kernel to write to.
    check(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, flags) }.into())?;
    // SAFETY: waitid has filled the SIGCHLD part of the union, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match (pid, info.si_code) {
        (0, _) => None,
        (_, libc::CLD_EXITED) => Some(Exit::Code(status)),
        _ => Some(Exit::Signal(status)),
    })
}

/// waitid(2) on a pidfd of a child of ours, blocking until it has ended, and reaping it.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Exit> {
    loop {
        match waitid(pidfd, Reap::Now)? {
            Some(exit) => return Ok(exit),
            None => poll_one(pidfd, libc::POLLIN, -1)?,
        };
    }
}

/// poll(2) of one descriptor: whether anything was to be had within `timeout` milliseconds (-1: for ever).
pub fn poll_one(fd: BorrowedFd<'_>, events: i16, timeout: i32) -> io::Result<bool> {
    let mut one = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    loop {
        // SAFETY: one is one pollfd, as the count says.
        match check(unsafe { libc::poll(&raw mut one, 1, timeout) }.into()) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
            Ok(count) => return Ok(count > 0),
        }
    }
}

/// The number of the process behind a pidfd in our own PID namespace (proc_pid_fdinfo(5)). ESRCH once it has been reaped.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    number.filter(|pid| *pid > 0).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// Whether a SIGKILL is on its way to a process, or has reached it, by proc_pid_stat(5): its flags and pending signals. The
/// caller holds its pidfd.
pub fn is_dying(pid: i32) -> bool {
    const FLAGS: usize = 9;
    const PENDING: usize = 31;
    const EXITING_OR_SIGNALED: u64 = 0x4 | 0x400;
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let bits = |number| stat_field(&text, number).and_then(|field| field.parse::<u64>().ok());
    let Some(flags) = bits(FLAGS) else { return true };
    flags & EXITING_OR_SIGNALED != 0 || bits(PENDING).unwrap_or(0) & (1 << (libc::SIGKILL - 1)) != 0
}

/// The status of a zombie that is not our child, by the last field but few of proc_pid_stat(5). The caller holds its pidfd,
/// so that the number is its own until it is reaped.
pub fn exit_of_zombie(pid: i32) -> Option<Exit> {
    const STATE: usize = 3;
    const EXIT_CODE: usize = 52;
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let is_zombie = stat_field(&text, STATE)? == "Z";
    is_zombie.then(|| stat_field(&text, EXIT_CODE)?.parse().ok().map(Exit::from_status)).flatten()
}

/// `PIDFD_GET_INFO` (Linux 6.15): how a process ended that somebody else has reaped. `None` where the kernel keeps nothing.
pub fn exit_by_pidfd(pidfd: BorrowedFd<'_>) -> Option<Exit> {
    /// `struct pidfd_info` of linux/pidfd.h, first published size and the exit code after it.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroupid: u64,
        ids: [u32; 11],
        exit_code: i32,
        coredump: [u32; 2],
    }
    const EXIT: u64 = 1 << 3;
    // _IOWR(0xFF, 11, struct pidfd_info): the size is part of the number, and the kernel takes any that it knows less or more of.
    let request = (3u64 << 30) | ((size_of::<Info>() as u64) << 16) | (0xFF << 8) | 11;
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: info has the size that the request's number states, and lives through the call.
    let answer = unsafe { libc::ioctl(pidfd.as_raw_fd(), request, &raw mut info) };
    (answer == 0 && info.mask & EXIT != 0).then(|| Exit::from_status(info.exit_code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn an_exit_is_seen_twice_when_left_and_then_reaped() {
        let child = clone3(&Clone::default(), || exit(7)).unwrap();
        poll_one(child.pidfd.as_fd(), libc::POLLIN, 5000).unwrap();
        assert_eq!(waitid(child.pidfd.as_fd(), Reap::Leave).unwrap(), Some(Exit::Code(7)));
        assert_eq!(wait(child.pidfd.as_fd()).unwrap(), Exit::Code(7));
        assert_eq!(waitid(child.pidfd.as_fd(), Reap::Now).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn a_signal_is_told_apart_from_a_code() {
        let child = clone3(&Clone::default(), || {
            loop {
                std::thread::park();
            }
        })
        .unwrap();
        assert_eq!(waitid(child.pidfd.as_fd(), Reap::Now).unwrap(), None);
        pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
        assert_eq!(wait(child.pidfd.as_fd()).unwrap(), Exit::Signal(9));
        assert_eq!(Exit::Signal(9).code(), 137);
    }

    #[test]
    fn a_zombie_still_says_how_it_ended() {
        let child = clone3(&Clone::default(), || exit(5)).unwrap();
        poll_one(child.pidfd.as_fd(), libc::POLLIN, 5000).unwrap();
        assert_eq!(exit_of_zombie(child.pid), Some(Exit::Code(5)));
        wait(child.pidfd.as_fd()).unwrap();
        assert_eq!(exit_of_zombie(child.pid), None);
    }

    #[test]
    fn the_kernel_remembers_an_exit_that_somebody_else_reaped() {
        let child = clone3(&Clone::default(), || exit(5)).unwrap();
        wait(child.pidfd.as_fd()).unwrap();
        // Linux 6.15 and later; before, nothing is known and nothing is invented.
        assert!(matches!(exit_by_pidfd(child.pidfd.as_fd()), Some(Exit::Code(5)) | None));
    }

    #[test]
    fn the_status_word_of_wait4_is_read_right() {
        assert_eq!(Exit::from_status(3 << 8), Exit::Code(3));
        assert_eq!(Exit::from_status(9), Exit::Signal(9));
        assert_eq!(Exit::from_status(0x80 | 11), Exit::Signal(11));
    }
}
