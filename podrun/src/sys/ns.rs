//! namespaces(7): joining and making them, and the few facts that live in one.

use super::fd::{check, owned};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// setns(2). Moves the calling thread; `kinds` are `CLONE_NEW*` flags: one for a namespace's descriptor, several for a
/// pidfd. With `CLONE_NEWPID` only children to come are in it.
pub fn setns(fd: BorrowedFd<'_>, kinds: i32) -> io::Result<()> {
    // SAFETY: setns reads two integers; `fd` is open for the whole call since we hold a borrow of it.
    check(unsafe { libc::setns(fd.as_raw_fd(), kinds) }.into()).map(drop)
}

/// unshare(2).
pub fn unshare(kinds: i32) -> io::Result<()> {
    // SAFETY: unshare reads one integer and touches no memory of ours.
    check(unsafe { libc::unshare(kinds) }.into()).map(drop)
}

/// NS_GET_NSTYPE of ioctl_ns(2): the `CLONE_NEW*` of a namespace's descriptor; ENOTTY where it is of something else.
pub fn kind(fd: BorrowedFd<'_>) -> io::Result<i32> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703; // _IO(0xb7, 0x3)
    // SAFETY: this ioctl takes no argument; `fd` is open for the whole call since we hold a borrow of it.
    let kind = check(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) }.into())?;
    i32::try_from(kind).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// NS_GET_PARENT of ioctl_ns(2): the user namespace that a user namespace was made in; EPERM above our own.
pub fn parent(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_PARENT: libc::c_ulong = 0xb702; // _IO(0xb7, 0x2)
    // SAFETY: this ioctl takes no argument; `fd` is open for the whole call since we hold a borrow of it.
    owned(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_PARENT as _) }.into())
}

/// A namespace of this process, by its man-page name (`net`, `uts`, …).
pub fn own(kind: &str) -> io::Result<OwnedFd> {
    open(&format!("/proc/self/ns/{kind}"))
}

/// Whether the calling process is in the user namespace that the kernel began with, whose number is fixed
/// (`USER_NS_INIT_INO` of linux/nsfs.h). Where no /proc tells, it counts as that one.
pub fn is_initial_user() -> bool {
    use std::os::unix::fs::MetadataExt;
    const USER_NS_INIT_INO: u64 = 0xEFFF_FFFD;
    std::fs::metadata("/proc/self/ns/user").map_or(true, |own| own.ino() == USER_NS_INIT_INO)
}

/// A namespace of another process. The caller holds the process's pidfd and has seen it alive, so that the number
/// is no stranger's.
pub fn of(pid: i32, kind: &str) -> io::Result<OwnedFd> {
    open(&format!("/proc/{pid}/ns/{kind}"))
}

/// Whether another process is in this one's namespace of a kind; the caller holds its pidfd.
pub fn is_shared_with(pid: i32, kind: &str) -> io::Result<bool> {
    Ok(number(&pid.to_string(), kind)? == number("self", kind)?)
}

/// The same of two others.
pub fn are_together(pid: i32, other: i32, kind: &str) -> io::Result<bool> {
    Ok(number(&pid.to_string(), kind)? == number(&other.to_string(), kind)?)
}

/// Whether a process is in a namespace that we hold.
pub fn is_in(pid: i32, namespace: BorrowedFd<'_>, kind: &str) -> io::Result<bool> {
    let held = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    Ok(number(&pid.to_string(), kind)? == identity(&held)?)
}

/// What tells a namespace from others (namespaces(7), "The /proc/PID/ns/ directory").
fn number(process: &str, kind: &str) -> io::Result<(u64, u64)> {
    identity(&format!("/proc/{process}/ns/{kind}"))
}

fn identity(path: &str) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map(|one| (one.dev(), one.ino()))
}

fn open(path: &str) -> io::Result<OwnedFd> {
    std::fs::File::open(path).map(OwnedFd::from)
}

/// sethostname(2).
pub fn sethostname(name: &CStr) -> io::Result<()> {
    // SAFETY: the kernel reads count_bytes() bytes of a C string.
    check(unsafe { libc::sethostname(name.as_ptr(), name.count_bytes()) }.into()).map(drop)
}

/// setdomainname(2).
pub fn setdomainname(name: &CStr) -> io::Result<()> {
    // SAFETY: the kernel reads count_bytes() bytes of a C string.
    check(unsafe { libc::setdomainname(name.as_ptr(), name.count_bytes()) }.into()).map(drop)
}

/// Brings `lo` up in the network namespace of the calling thread (netdevice(7), SIOCSIFFLAGS).
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: socket reads three integers.
    let socket = owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: ifreq is plain data, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = 1; // IFF_UP; all its other settable flags are off in a new namespace.
    // SAFETY: request is an ifreq that lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}
