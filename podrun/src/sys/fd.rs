//! File descriptors: openat2(2), close_range(2), pidfd_getfd(2), dup3(2) and their kin.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// Whether both are the same file or namespace. Neither of those that cannot be asked is.
pub fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let key = |fd| fstat(fd).map(|found| (found.st_dev, found.st_ino));
    matches!((key(one), key(other)), (Ok(one), Ok(other)) if one == other)
}

/// getxattr(2): whether a file has an extended attribute.
pub fn has_attribute(path: &std::path::Path, name: &CStr) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()) else { return false };
    // SAFETY: both names are C strings; with a size of 0 nothing is written to the null pointer.
    let size = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
    size >= 0
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

/// Whether nobody can write to a memfd any more (memfd_create(2), F_GET_SEALS). A file of any other kind has no seals.
pub fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: fcntl F_GET_SEALS reads integers.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_WRITE != 0
}

/// Whether a descriptor's number is below another.
pub fn is_below(fd: BorrowedFd<'_>, number: RawFd) -> bool {
    fd.as_raw_fd() < number
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

/// dup3(2) in a child on its way to execve: `fd` takes the place of another descriptor, which is closed by that. The new
/// one is close-on-exec, as the other was; whoever owns the number owns the new one.
pub fn take_place(fd: BorrowedFd<'_>, of: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: dup3 reads integers; what `of` named is closed, and its number stays open, so that no owner is left without.
    check(unsafe { libc::dup3(fd.as_raw_fd(), of.as_raw_fd(), libc::O_CLOEXEC) }.into()).map(drop)
}

/// faccessat(2) with the effective ids: whether a path of this process may be executed. A directory may be searched, which
/// is not the same: EACCES, as execve(2) has it.
pub fn may_execute(path: &CStr) -> io::Result<()> {
    let file = open(path, libc::O_PATH)?;
    let stat = fstat(file.as_fd())?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    // SAFETY: path is a C string that lives through the call.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) }.into()).map(drop)
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
    close_from_but(3, kept)
}

/// The same from number `first` on.
pub fn close_from_but(mut first: RawFd, kept: &mut [BorrowedFd<'_>]) -> io::Result<()> {
    kept.sort_unstable_by_key(|fd| fd.as_raw_fd());
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

#[cfg(test)]
mod tests {
    use super::super::clone::{Child, Clone, Exit, clone3, exit, pidfd_send_signal, wait};
    use super::*;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::mem::ManuallyDrop;
    use std::os::fd::{AsFd, IntoRawFd};
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A directory of one test's own.
    struct Dir(PathBuf);

    impl Dir {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("podrun-fd-{test}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn open(&self) -> OwnedFd {
            std::fs::File::open(&self.0).unwrap().into()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn errno<T>(result: io::Result<T>) -> Option<i32> {
        result.err().and_then(|err| err.raw_os_error())
    }

    fn text(fd: OwnedFd) -> String {
        let mut text = String::new();
        std::fs::File::from(fd).read_to_string(&mut text).unwrap();
        text
    }

    fn is_closed_on_exec(fd: &OwnedFd) -> bool {
        fcntl(fd, FcntlArg::F_GETFD).unwrap() == libc::FD_CLOEXEC
    }

    /// A root with a file, and links out of it; beside it a file of the host's with the same name.
    fn tree(test: &str) -> (Dir, OwnedFd) {
        let dir = Dir::new(test);
        std::fs::create_dir_all(dir.0.join("root/etc")).unwrap();
        std::fs::write(dir.0.join("root/name"), "inside").unwrap();
        std::fs::write(dir.0.join("name"), "outside").unwrap();
        symlink(dir.0.join("name"), dir.0.join("root/to-the-host")).unwrap();
        symlink("/name", dir.0.join("root/absolute")).unwrap();
        symlink("../../../name", dir.0.join("root/etc/up")).unwrap();
        symlink("../name", dir.0.join("root/etc/within")).unwrap();
        let root = std::fs::File::open(dir.0.join("root")).unwrap().into();
        (dir, root)
    }

    /// openat2(2), RESOLVE_IN_ROOT: absolute links and `..` are as after chroot(2).
    #[test]
    fn in_a_root_nothing_leads_out() {
        let (_dir, root) = tree("in-root");
        let open = |path: &CStr, resolve| openat2(root.as_fd(), path, libc::O_RDONLY, 0, resolve);
        for path in [c"name", c"/name", c"../name", c"etc/../../name", c"absolute", c"etc/up", c"etc/within"] {
            assert_eq!(text(open(path, Resolve::InRoot).unwrap()), "inside", "{path:?}");
        }
        assert_eq!(errno(open(c"to-the-host", Resolve::InRoot)), Some(libc::ENOENT));
        for path in [c"name", c"/name", c"etc/../../name"] {
            assert_eq!(text(open(path, Resolve::InRootNoSymlinks).unwrap()), "inside", "{path:?}");
        }
        for path in [c"absolute", c"etc/up", c"etc/within"] {
            assert_eq!(errno(open(path, Resolve::InRootNoSymlinks)), Some(libc::ELOOP), "{path:?}");
        }
    }

    /// openat2(2), RESOLVE_BENEATH: what would lead out is an error.
    #[test]
    fn beneath_a_root_what_leads_out_is_refused() {
        let (_dir, root) = tree("beneath");
        let open = |path: &CStr| openat2(root.as_fd(), path, libc::O_RDONLY, 0, Resolve::Beneath);
        for path in [c"name", c"etc/../name", c"etc/within"] {
            assert_eq!(text(open(path).unwrap()), "inside", "{path:?}");
        }
        for path in [c"/name", c"../name", c"absolute", c"etc/up", c"to-the-host"] {
            assert_eq!(errno(open(path)), Some(libc::EXDEV), "{path:?}");
        }
    }

    /// openat2(2), RESOLVE_NO_MAGICLINKS: a link of /proc jumps wherever its descriptor is (CVE-2024-21626).
    #[test]
    fn no_magic_link_is_followed() {
        let proc = open(c"/proc", libc::O_PATH).unwrap();
        for resolve in [Resolve::InRoot, Resolve::InRootNoSymlinks, Resolve::Beneath] {
            let found = openat2(proc.as_fd(), c"self/cwd", libc::O_RDONLY, 0, resolve);
            assert!(matches!(errno(found), Some(libc::ELOOP | libc::EXDEV)), "{resolve:?}");
        }
    }

    #[test]
    fn what_is_opened_is_close_on_exec_whatever_the_flags() {
        let dir = Dir::new("flags");
        let root = dir.open();
        for flags in [libc::O_RDONLY, libc::O_RDONLY | libc::O_CLOEXEC] {
            let opened = [
                open(c"/dev/null", flags).unwrap(),
                openat(root.as_fd(), c".", flags, 0).unwrap(),
                openat2(root.as_fd(), c".", flags, 0, Resolve::InRoot).unwrap(),
            ];
            assert!(opened.iter().all(is_closed_on_exec), "{flags:#x}");
        }
        assert_eq!(errno(open(c"/dev/null", libc::O_DIRECTORY)), Some(libc::ENOTDIR));
        assert_eq!(errno(openat(root.as_fd(), c"none", libc::O_RDONLY, 0)), Some(libc::ENOENT));
    }

    /// openat2(2), EAGAIN: with a rename anywhere on the machine, a `..` cannot be proven to stay inside, and is tried again.
    #[test]
    fn a_walk_that_meets_a_rename_is_repeated() {
        let (dir, root) = tree("rename");
        let done = AtomicBool::new(false);
        let path = std::ffi::CString::new(format!("{}name", "etc/../".repeat(100))).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let names = [dir.0.join("a"), dir.0.join("b")];
                std::fs::write(&names[0], "").unwrap();
                for at in 0..2000 {
                    std::fs::rename(&names[at % 2], &names[(at + 1) % 2]).unwrap();
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut walks = 0;
            while !done.load(Ordering::Relaxed) || walks < 1000 {
                openat2(root.as_fd(), &path, libc::O_RDONLY, 0, Resolve::InRoot).unwrap();
                walks += 1;
            }
        });
    }

    #[test]
    fn what_is_made_in_a_directory_is_there_as_asked_for() {
        let dir = Dir::new("made");
        let root = dir.open();
        let facts = |name: &str| std::fs::symlink_metadata(dir.0.join(name)).unwrap();
        mkdirat(root.as_fd(), c"directory", 0o700).unwrap();
        assert!(facts("directory").is_dir() && facts("directory").permissions().mode() & 0o777 == 0o700);
        assert_eq!(errno(mkdirat(root.as_fd(), c"directory", 0o700)), Some(libc::EEXIST));
        mknodat(root.as_fd(), c"fifo", libc::S_IFIFO | 0o600, 0).unwrap();
        assert!(facts("fifo").file_type().is_fifo() && facts("fifo").permissions().mode() & 0o777 == 0o600);
        assert_eq!(errno(mknodat(root.as_fd(), c"fifo", libc::S_IFIFO | 0o600, 0)), Some(libc::EEXIST));
        drop(openat(root.as_fd(), c"file", libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o640).unwrap());
        assert!(facts("file").is_file() && facts("file").permissions().mode() & 0o777 == 0o640);
        symlinkat(c"directory/target", root.as_fd(), c"link").unwrap();
        assert_eq!(std::fs::read_link(dir.0.join("link")).unwrap(), Path::new("directory/target"));
        assert_eq!(errno(symlinkat(c"x", root.as_fd(), c"link")), Some(libc::EEXIST));
    }

    /// readlink(2): it truncates silently, and adds no null byte.
    #[test]
    fn a_link_is_read_as_far_as_there_is_room() {
        let dir = Dir::new("link");
        symlink("target", dir.0.join("link")).unwrap();
        let root = dir.open();
        let mut buffer = [b'.'; 8];
        assert_eq!(readlinkat(root.as_fd(), c"link", &mut buffer).unwrap(), 6);
        assert_eq!(&buffer, b"target..");
        assert_eq!(readlinkat(root.as_fd(), c"link", &mut buffer[..4]).unwrap(), 4);
        assert_eq!(errno(readlinkat(root.as_fd(), c"none", &mut buffer)), Some(libc::ENOENT));
    }

    /// A link that an image has laid must not give its target away.
    #[test]
    fn an_owner_is_set_on_the_link_and_not_behind_it() {
        let dir = Dir::new("owner");
        std::fs::write(dir.0.join("file"), "").unwrap();
        symlink("file", dir.0.join("link")).unwrap();
        let owner = |name: &str| {
            let facts = std::fs::symlink_metadata(dir.0.join(name)).unwrap();
            (facts.uid(), facts.gid())
        };
        let before = owner("file");
        fchownat(dir.open().as_fd(), c"link", 7, 8).unwrap();
        assert_eq!((owner("link"), owner("file")), ((7, 8), before));
        fchown(std::fs::File::open(dir.0.join("file")).unwrap().as_fd(), 9, 10).unwrap();
        assert_eq!(owner("file"), (9, 10));
    }

    /// statfs(2) and linux/magic.h; statvfs(3).
    #[test]
    fn a_descriptor_tells_its_file_its_filesystem_and_its_mount() {
        let proc = open(c"/proc", libc::O_RDONLY).unwrap();
        let facts = std::fs::metadata("/proc").unwrap();
        let stat = fstat(proc.as_fd()).unwrap();
        assert_eq!((stat.st_dev, stat.st_ino, stat.st_mode), (facts.dev(), facts.ino(), facts.mode()));
        assert_eq!(filesystem(proc.as_fd()).unwrap(), 0x9fa0);
        let flags = nix::sys::statvfs::fstatvfs(&proc).unwrap().flags();
        assert_eq!(mount_flags_of(proc.as_fd()).unwrap(), flags.bits());
        assert!(flags.bits() > 1, "a /proc without any flag says nothing here");
    }

    /// flock(2): it belongs to the open file, and ends with its last descriptor.
    #[test]
    fn a_lock_keeps_others_out_until_its_descriptor_is_closed() {
        let dir = Dir::new("lock");
        let (first, second) = (dir.open(), dir.open());
        flock(first.as_fd(), libc::LOCK_EX | libc::LOCK_NB).unwrap();
        assert_eq!(errno(flock(second.as_fd(), libc::LOCK_EX | libc::LOCK_NB)), Some(libc::EWOULDBLOCK));
        drop(first);
        flock(second.as_fd(), libc::LOCK_EX | libc::LOCK_NB).unwrap();
    }

    #[test]
    fn bytes_are_written_and_read_and_counted() {
        let (out, into) = io::pipe().unwrap();
        assert_eq!(write(into.as_fd(), b"hello").unwrap(), 5);
        let mut buffer = [0; 8];
        assert_eq!(read(out.as_fd(), &mut buffer[..3]).unwrap(), 3);
        assert_eq!(read(out.as_fd(), &mut buffer[3..]).unwrap(), 2);
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(errno(read(into.as_fd(), &mut buffer)), Some(libc::EBADF));
        assert_eq!(errno(write(out.as_fd(), b"x")), Some(libc::EBADF));
    }

    #[test]
    fn random_bytes_are_all_made_anew() {
        let (one, other) = (random::<32>().unwrap(), random::<32>().unwrap());
        assert_ne!(one, other);
        assert!(one.iter().any(|byte| *byte != one[0]));
    }

    extern "C" fn nothing(_: i32) {}

    fn state(child: &Child) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Signals a child each time that it sleeps, some times; then has `release` end its wait; how it ended.
    fn interrupt(child: Child, release: impl FnOnce()) -> Exit {
        for _ in 0..5 {
            while state(&child) == Some('R') {
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
            pidfd_send_signal(child.pidfd.as_fd(), libc::SIGUSR1).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        release();
        wait(child.pidfd.as_fd()).unwrap()
    }

    /// signal(7): a handler without SA_RESTART makes them fail with EINTR.
    #[test]
    fn a_read_and_a_lock_go_on_waiting_after_a_signal() {
        let handler = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, so it may run at any instruction; nobody else here uses this signal.
        unsafe { nix::sys::signal::sigaction(Signal::SIGUSR1, &handler) }.unwrap();
        let (out, mut into) = io::pipe().unwrap();
        let reader = clone3(&Clone::default(), || {
            let _ = close_all_but(&mut [out.as_fd()]);
            let count = read(out.as_fd(), &mut [0; 4]);
            exit(i32::from(!count.is_ok_and(|count| count == 1)))
        });
        assert_eq!(interrupt(reader.unwrap(), || into.write_all(b"x").unwrap()), Exit::Code(0));
        let dir = Dir::new("interrupted");
        let (held, wanted) = (dir.open(), dir.open());
        flock(held.as_fd(), libc::LOCK_EX).unwrap();
        let locker = clone3(&Clone::default(), || {
            let _ = close_all_but(&mut [wanted.as_fd()]);
            exit(i32::from(flock(wanted.as_fd(), libc::LOCK_EX).is_err()))
        });
        assert_eq!(interrupt(locker.unwrap(), || flock(held.as_fd(), libc::LOCK_UN).unwrap()), Exit::Code(0));
    }

    /// What a child has open after `act`: what each number from 3 on names, and whether execve closes it.
    ///
    /// The child stops itself, and is looked at from here: whatever it closed, it needs no descriptor to be asked. An `act`
    /// that closes little begins with what it needs: a copy of another test's file would keep its lock, or have it busy.
    fn left_in_a_child<T>(act: impl FnOnce() -> io::Result<T>) -> BTreeMap<RawFd, (PathBuf, bool)> {
        let child = clone3(&Clone::default(), || {
            let kept = act();
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), kept.is_ok().then_some(Signal::SIGSTOP));
            exit(1)
        })
        .unwrap();
        let stopped = waitpid(nix::unistd::Pid::from_raw(child.pid), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "the call failed in the child: {stopped:?}");
        let mut open = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fd", child.pid)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let facts = std::fs::read_to_string(format!("/proc/{}/fdinfo/{name}", child.pid)).unwrap();
            let flags = facts.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            let closes = i32::from_str_radix(flags, 8).unwrap() & libc::O_CLOEXEC != 0;
            let what = std::fs::read_link(format!("/proc/{}/fd/{name}", child.pid)).unwrap();
            open.insert(name.parse().unwrap(), (what, closes));
        }
        pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
        assert_eq!(wait(child.pidfd.as_fd()).unwrap(), Exit::Signal(9));
        open.split_off(&3)
    }

    /// Numbers that no test reaches by itself.
    const HIGH: RawFd = 600;

    fn numbers(open: &BTreeMap<RawFd, (PathBuf, bool)>) -> Vec<RawFd> {
        open.keys().copied().collect()
    }

    /// CVE-2024-21626: one directory of the host that gets past execve is a way out.
    #[test]
    fn all_is_closed_but_what_is_kept() {
        let null = open(c"/dev/null", libc::O_RDONLY).unwrap();
        let open = left_in_a_child(|| {
            let copy = |at| dup_above(null.as_fd(), HIGH + at).map(ManuallyDrop::new);
            let (_before, a, b, _between, c, _after) = (copy(-1)?, copy(0)?, copy(1)?, copy(2)?, copy(3)?, copy(4)?);
            // In no order, two neighbours, and one of them twice.
            close_all_but(&mut [c.as_fd(), a.as_fd(), b.as_fd(), a.as_fd()])
        });
        assert_eq!(numbers(&open), [HIGH, HIGH + 1, HIGH + 3]);
        assert!(open.values().all(|(what, _)| what == Path::new("/dev/null")));
        assert!(left_in_a_child(|| close_all_but(&mut [])).is_empty());
    }

    #[test]
    fn from_a_number_on_all_is_closed_and_what_is_below_stays() {
        let null = open(c"/dev/null", libc::O_RDONLY).unwrap();
        let open = left_in_a_child(|| {
            let copy = |at| dup_above(null.as_fd(), HIGH + at).map(ManuallyDrop::new);
            close_all_but(&mut [null.as_fd()])?;
            let _copies = (copy(0)?, copy(1)?, copy(2)?);
            close_from(HIGH + 1)
        });
        assert!(open.contains_key(&null.as_raw_fd()));
        assert_eq!(open.last_key_value().map(|(number, _)| *number), Some(HIGH));
    }

    #[test]
    fn one_is_closed_in_the_child_and_stays_in_the_parent() {
        let null = open(c"/dev/null", libc::O_RDONLY).unwrap();
        let open = left_in_a_child(|| {
            close_all_but(&mut [null.as_fd()])?;
            close_inherited(null.as_fd());
            Ok(())
        });
        assert!(!open.contains_key(&null.as_raw_fd()));
        assert!(fstat(null.as_fd()).is_ok());
    }

    #[test]
    fn the_one_that_is_kept_becomes_number_3() {
        let zero = open(c"/dev/zero", libc::O_RDONLY).unwrap();
        let zero = dup_above(zero.as_fd(), HIGH).unwrap();
        let only = BTreeMap::from([(3, (PathBuf::from("/dev/zero"), true))]);
        assert_eq!(left_in_a_child(|| keep_only(zero.as_fd())), only);
        // One that has the number already.
        let twice = left_in_a_child(|| {
            let kept = ManuallyDrop::new(keep_only(zero.as_fd())?);
            keep_only(kept.as_fd())
        });
        assert_eq!(twice, only);
    }

    /// dup(2): FD_CLOEXEC is off for the copy; onto its own number dup2 would do nothing.
    #[test]
    fn a_copy_for_the_next_program_is_not_close_on_exec() {
        let zero = open(c"/dev/zero", libc::O_RDONLY).unwrap();
        let own = zero.as_raw_fd();
        let alone = || close_all_but(&mut [zero.as_fd()]);
        let open = left_in_a_child(|| alone().and_then(|()| dup_to(zero.as_fd(), HIGH)));
        let what = PathBuf::from("/dev/zero");
        assert_eq!((open.get(&own), open.get(&HIGH)), (Some(&(what.clone(), true)), Some(&(what.clone(), false))));
        assert_eq!(
            left_in_a_child(|| alone().and_then(|()| dup_to(zero.as_fd(), own))).get(&own),
            Some(&(what.clone(), false))
        );
        let open = left_in_a_child(|| {
            alone()?;
            dup_to(zero.as_fd(), HIGH)?;
            dup_to(zero.as_fd(), HIGH + 1)?;
            close_on_exec_from(HIGH + 1);
            Ok(())
        });
        assert_eq!((open[&HIGH].1, open[&(HIGH + 1)].1), (false, true));
    }

    #[test]
    fn a_copy_above_a_number_is_close_on_exec_and_the_mark_can_be_set_again() {
        let null = open(c"/dev/null", libc::O_RDONLY).unwrap();
        let copy = dup_above(null.as_fd(), HIGH + 100).unwrap();
        assert!(copy.as_raw_fd() >= HIGH + 100 && is_closed_on_exec(&copy));
        fcntl(&copy, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        close_on_exec(copy.as_fd()).unwrap();
        assert!(is_closed_on_exec(&copy));
    }

    #[test]
    fn what_a_process_was_started_with_is_owned_if_all_of_it_is_open() {
        let null = open(c"/dev/null", libc::O_RDONLY).unwrap();
        let child = clone3(&Clone::default(), || {
            for number in HIGH..HIGH + 3 {
                let _ = dup_to(null.as_fd(), number);
            }
            let too_many = inherited::<4>(HIGH).is_none();
            let owned = inherited::<3>(HIGH).map(|all| all.map(IntoRawFd::into_raw_fd));
            exit(i32::from(!(too_many && owned == Some([HIGH, HIGH + 1, HIGH + 2]))))
        });
        assert_eq!(wait(child.unwrap().pidfd.as_fd()).unwrap(), Exit::Code(0));
    }
}
