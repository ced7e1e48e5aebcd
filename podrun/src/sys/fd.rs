//! File descriptors: openat2(2), close_range(2), pidfd_getfd(2), dup3(2) and their kin.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The result of a system call that answers -1 and errno.
pub(crate) fn check(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// The same for calls that answer with a new descriptor, which the caller then owns.
pub(crate) fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(check(answer)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How openat2(2) may walk a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// As if `root` were `/`: no link, `..` or magic link leads out.
    InRoot,
    /// The same, and no symbolic link is followed at all.
    InRootNoSymlinks,
    /// Beneath `root`, or an error.
    Beneath,
}

/// openat2(2) below `root`. `O_CLOEXEC` is always set.
pub fn openat2(root: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32, resolve: Resolve) -> io::Result<OwnedFd> {
    const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: open_how is plain integers, for which zero is a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    how.mode = u64::from(mode);
    how.resolve = match resolve {
        Resolve::InRoot => IN_ROOT,
        Resolve::InRootNoSymlinks => IN_ROOT | libc::RESOLVE_NO_SYMLINKS,
        Resolve::Beneath => libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS,
    };
    loop {
        // SAFETY: path is a C string and how an open_how of the size given; both live through the call.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        match owned(answer) {
            // EAGAIN: somebody renamed a directory on the way (openat2(2)); the walk could not be proven safe.
            Err(err) if matches!(err.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
            other => return other,
        }
    }
}

/// open(2) of a path of the host, without allocating.
pub fn open(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: path is a C string that lives through the call.
    owned(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into())
}

/// openat(2) of one name in `dir`, without allocating.
pub fn openat(dir: BorrowedFd<'_>, name: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: name is a C string that lives through the call.
    owned(unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC, mode) }.into())
}

/// mkdirat(2).
pub fn mkdirat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: name is a C string that lives through the call.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }.into()).map(drop)
}

/// mknodat(2).
pub fn mknodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32, device: u64) -> io::Result<()> {
    // SAFETY: name is a C string that lives through the call.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) }.into()).map(drop)
}

/// symlinkat(2).
pub fn symlinkat(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: both are C strings that live through the call.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }.into()).map(drop)
}

/// readlinkat(2): the target of the link `name` in `dir`, as long as `buffer` has room for.
pub fn readlinkat(dir: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
    let room = buffer.as_mut_ptr().cast();
    // SAFETY: name is a C string, and the kernel writes at most the length given.
    let count = unsafe { libc::readlinkat(dir.as_raw_fd(), name.as_ptr(), room, buffer.len()) };
    usize::try_from(check(count as libc::c_long)?).map_err(io::Error::other)
}

/// fchownat(2) of one name in `dir`, not following a link.
pub fn fchownat(dir: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: name is a C string that lives through the call.
    check(unsafe { libc::fchownat(dir.as_raw_fd(), name.as_ptr(), uid, gid, libc::AT_SYMLINK_NOFOLLOW) }.into())
        .map(drop)
}

/// fchown(2).
pub fn fchown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: fchown reads three integers.
    check(unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) }.into()).map(drop)
}

/// fstat(2).
pub fn fstat(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    // SAFETY: stat is plain integers, for which zero is a value, and the kernel fills it.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: stat is a valid place for the kernel to write to.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) }.into())?;
    Ok(stat)
}

/// fstatfs(2): the magic number of the filesystem behind `fd`.
pub fn filesystem(fd: BorrowedFd<'_>) -> io::Result<i64> {
    // SAFETY: statfs is plain integers, for which zero is a value, and the kernel fills it.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: stat is a valid place for the kernel to write to.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut stat) }.into())?;
    Ok(stat.f_type)
}

/// fstatvfs(3): the `ST_*` flags of the mount behind `fd`.
pub fn mount_flags_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: statvfs is plain integers, for which zero is a value, and the call fills it.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: stat is a valid place to write to.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), &raw mut stat) }.into())?;
    Ok(stat.f_flag)
}

/// FD_CLOEXEC, fcntl(2).
pub fn close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fcntl F_SETFD reads integers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }.into()).map(drop)
}

/// close_range(2) with CLOSE_RANGE_CLOEXEC: what this process was started with does not reach the programs that it starts.
/// Before Linux 5.11 the kernel knows no such flag, and they do.
pub fn close_on_exec_from(first: RawFd) {
    // SAFETY: close_range reads integers, and with this flag it closes nothing.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// dup2(2) onto a number that the next program will find: the copy is not close-on-exec.
pub fn dup_to(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // SAFETY: fcntl F_SETFD reads integers.
        return check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }.into()).map(drop);
    }
    // SAFETY: dup2 reads two integers; what `number` named before is closed, which is what the caller asks for:
    // it is only called in a child on its way to execve, with numbers that no owned descriptor there has.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

/// A copy with a number of at least `least`, close-on-exec (fcntl(2) F_DUPFD_CLOEXEC).
pub fn dup_above(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl F_DUPFD_CLOEXEC reads integers.
    owned(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) }.into())
}

/// write(2) once; a short or failed write is the caller's to judge.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads bytes.len() bytes at bytes.as_ptr(), which the slice guarantees.
    let answer = check(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) } as libc::c_long)?;
    usize::try_from(answer).map_err(io::Error::other)
}

/// read(2) once, retried on EINTR.
pub fn read(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel writes at most bytes.len() bytes at bytes.as_mut_ptr(), which the slice guarantees.
        let answer = unsafe { libc::read(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
        match check(answer as libc::c_long) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
            Ok(count) => return usize::try_from(count).map_err(io::Error::other),
        }
    }
}

/// getrandom(2).
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the kernel writes at most N bytes into the array. Up to 256 bytes come whole (getrandom(2)).
    check(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) } as libc::c_long)?;
    Ok(bytes)
}

/// flock(2): held until the descriptor and its copies are closed, so it dies with its process.
pub fn flock(fd: BorrowedFd<'_>, operation: i32) -> io::Result<()> {
    loop {
        // SAFETY: flock reads two integers.
        match check(unsafe { libc::flock(fd.as_raw_fd(), operation) }.into()) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}

/// close(2) in a child that was just cloned, of a descriptor whose owner is in the parent: an end of a pipe or socket that
/// the child would otherwise hold itself, and wait for ever for its closing.
///
/// The child's table is a copy, so the parent's descriptor stays; the child must not use its own any more, and ends by
/// `_exit` or execve, so that no destructor closes the number a second time.
pub fn close_inherited(fd: BorrowedFd<'_>) {
    // SAFETY: close reads an integer; see the contract above.
    let _ = unsafe { libc::close(fd.as_raw_fd()) };
}

/// close_range(2) of everything from number 3 on but what is `kept`: what a child inherited would keep other people's pipes
/// open while it waits, and one directory of the host that gets past execve is a way out, through /proc/self/fd
/// (CVE-2024-21626). Closed, not marked: CLOSE_RANGE_CLOEXEC is younger (Linux 5.11) than the call (5.9).
///
/// The same contract as for `close_inherited`, of all of them.
pub fn close_all_but(kept: &mut [BorrowedFd<'_>]) -> io::Result<()> {
    kept.sort_unstable_by_key(|fd| fd.as_raw_fd());
    let mut first = 3;
    for number in kept.iter().map(|fd| fd.as_raw_fd()) {
        if number > first {
            // SAFETY: close_range reads integers; see the contract above.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, number - 1, 0) })?;
        }
        first = first.max(number + 1);
    }
    close_from(first)
}

/// close_range(2) of everything from `first` on, for a process that has just begun and has opened nothing yet, or under the
/// contract of `close_inherited`.
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: close_range reads integers, and what it closes is nobody's, as the contract above says.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// For a child that goes on without execve: `fd` becomes number 3, and everything above it is closed for good.
///
/// Descriptors that the parent's memory still names are closed under it: the caller must be a freshly cloned process that
/// uses nothing of what it inherited but `fd`, and ends by `_exit`, so that no destructor closes a number a second time.
pub fn keep_only(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const KEPT: RawFd = 3;
    if fd.as_raw_fd() != KEPT {
        // SAFETY: dup3 reads integers; what number 3 named is closed, as the contract above says.
        check(unsafe { libc::dup3(fd.as_raw_fd(), KEPT, libc::O_CLOEXEC) }.into())?;
    }
    close_from(KEPT + 1)?;
    // SAFETY: number 3 is open, made just now, and nothing else in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(KEPT) })
}

/// The descriptors from `first` on that this process was started with, `count` of them, each to be owned once.
/// `None` if one of them is not open.
pub fn inherited<const N: usize>(first: RawFd) -> Option<[OwnedFd; N]> {
    let numbers: [RawFd; N] = std::array::from_fn(|at| first + RawFd::try_from(at).unwrap_or(0));
    // SAFETY: fcntl F_GETFD reads integers and tells whether the number is open.
    let open = numbers.iter().all(|number| unsafe { libc::fcntl(*number, libc::F_GETFD) } >= 0);
    // SAFETY: they are open, as asked just now, and main calls this once, before it opens anything.
    open.then(|| numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }))
}
