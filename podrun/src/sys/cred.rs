//! credentials(7), capabilities(7) and prctl(2): what a process may do.
//!
//! The raw calls, not glibc's: those send signals to threads, and a child on its way to execve has none.

use super::fd::check;
use std::io;

/// One prctl(2) with an integer.
pub fn prctl(option: i32, argument: u64) -> io::Result<i32> {
    // SAFETY: the options used here (subreaper, dumpable, keepcaps, no_new_privs, capability sets) read integers only.
    let answer = check(unsafe { libc::prctl(option, argument, 0, 0, 0) }.into())?;
    i32::try_from(answer).map_err(io::Error::other)
}

/// prctl(2) `PR_CAP_AMBIENT`.
pub fn ambient(operation: i32, capability: u64) -> io::Result<()> {
    let operation = u64::from(operation.cast_unsigned());
    // SAFETY: PR_CAP_AMBIENT reads integers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, operation, capability, 0, 0) }.into()).map(drop)
}

/// setresgid(2).
pub fn setgid(gid: u32) -> io::Result<()> {
    // SAFETY: setresgid reads three integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// setresuid(2).
pub fn setuid(uid: u32) -> io::Result<()> {
    // SAFETY: setresuid reads three integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// setgroups(2).
pub fn setgroups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads groups.len() ids at groups.as_ptr(), which the slice guarantees.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// capset(2) of the calling thread, each set as a mask of capability numbers.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let half = |mask: u64, shift: u32| u32::try_from((mask >> shift) & 0xffff_ffff).unwrap_or(0);
    let part = |shift| Data {
        effective: half(effective, shift),
        permitted: half(permitted, shift),
        inheritable: half(inheritable, shift),
    };
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [part(0), part(32)];
    // SAFETY: version 3 reads a header and two data structs, which live through the call (capset(2)).
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// umask(2).
pub fn umask(mask: u32) {
    // SAFETY: umask reads one integer and cannot fail.
    unsafe { libc::umask(mask) };
}

/// prlimit(2): sets one limit of this process.
pub fn setrlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: limit is an rlimit64 that lives through the call; the old one is not asked for.
    check(unsafe { libc::prlimit64(0, resource, &raw const limit, std::ptr::null_mut()) }.into()).map(drop)
}

/// prlimit(2): the (soft, hard) limit of process `pid`, 0 being this one.
pub fn getrlimit(pid: i32, resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: limit is a valid place for the kernel to write to; no new one is given.
    check(unsafe { libc::prlimit64(pid, resource, std::ptr::null(), &raw mut limit) }.into())?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Every signal as a new program expects it: default disposition, none blocked (sigaction(2), sigprocmask(2)).
pub fn reset_signals() {
    (1..=64).for_each(reset_signal);
    unblock_signals();
}

/// One signal at its default disposition.
pub fn reset_signal(signal: i32) {
    // The kernel's own struct sigaction, all zeroes: SIG_DFL, no flags, an empty mask. Not glibc's call, which keeps two
    // real-time signals for itself and would leave them ignored where the caller had them so.
    let default = [0u64; 4];
    // SAFETY: the kernel reads a sigaction of four words and a mask of eight bytes; KILL and STOP answer EINVAL.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8) };
}

/// sigprocmask(2): none is blocked.
pub fn unblock_signals() {
    // SAFETY: sigset_t is plain data, and an empty mask is a value of it.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// kill(2) of the calling process, by its own number: glibc's raise(3) knows that of whoever cloned it.
pub fn raise(signal: i32) {
    // SAFETY: both calls take integers; a refusal changes nothing.
    unsafe { libc::syscall(libc::SYS_kill, libc::syscall(libc::SYS_getpid), signal) };
}

/// setsid(2).
pub fn setsid() -> io::Result<()> {
    // SAFETY: setsid takes nothing.
    check(unsafe { libc::setsid() }.into()).map(drop)
}

/// getppid(2).
pub fn parent() -> i32 {
    // SAFETY: getppid takes nothing and cannot fail.
    unsafe { libc::getppid() }
}

/// geteuid(2).
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// getegid(2).
pub fn effective_gid() -> u32 {
    // SAFETY: getegid takes nothing and cannot fail.
    unsafe { libc::getegid() }
}

/// execve(2). Comes back only with an error. Each of `argv` and `envp` ends with a null pointer.
pub fn execve(program: &std::ffi::CStr, argv: &Pointers, envp: &Pointers) -> io::Error {
    // SAFETY: Pointers keeps its strings alive and ends with a null pointer.
    unsafe { libc::execve(program.as_ptr(), argv.0.as_ptr(), envp.0.as_ptr()) };
    io::Error::last_os_error()
}

/// execveat(2) of the file behind `program` itself.
pub fn fexecve(program: std::os::fd::BorrowedFd<'_>, argv: &Pointers, envp: &Pointers) -> io::Error {
    use std::os::fd::AsRawFd;
    // SAFETY: as above; the path is an empty C string, so AT_EMPTY_PATH means the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.0.as_ptr(),
            envp.0.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// The argument vector of execve(2), made beforehand: a child may not allocate.
pub struct Pointers(
    Vec<*const libc::c_char>,
    #[allow(dead_code, reason = "owns what the pointers point to")] Vec<std::ffi::CString>,
);

impl Pointers {
    pub fn new(strings: Vec<std::ffi::CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self(pointers, strings)
    }
}

impl std::fmt::Debug for Pointers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.1.fmt(f)
    }
}
