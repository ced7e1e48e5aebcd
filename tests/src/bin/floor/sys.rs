//! clone3(2), fexecve and the old network ioctls: the few calls of the floor that nix lacks; its only `unsafe`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Born in a cgroup2 directory; libc declares the flag too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// clone3(2) without shared memory: `child` runs in the child, whose exit code is its answer where it returns.
pub(crate) fn clone3(
    namespaces: i32,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> io::Result<()>,
) -> io::Result<i32> {
    // SAFETY: clone_args is plain integers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(namespaces.cast_unsigned());
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: args is a clone_args of the size given; without CLONE_VM the child has its own copy of memory and stack, and
    // the floor has one thread, so the child goes on as fork(2)'s does.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        let code = match child() {
            Ok(()) => 0,
            Err(err) => err.raw_os_error().unwrap_or(255),
        };
        // SAFETY: _exit only ends this process.
        unsafe { libc::_exit(code) }
    }
    i32::try_from(pid).map_err(io::Error::other)
}

/// execve(2) with no arguments and no environment; returns only a failure.
pub(crate) fn execve(path: &CStr) -> io::Error {
    let argv = [path.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null()];
    // SAFETY: path is a C string, and both lists end with a null.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// pidfd_open(2), for setns(2).
pub(crate) fn pidfd_open(pid: i32) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: pidfd_open reads two integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

/// memchr(3), which is vectorised: where the first newline is.
pub(crate) fn newline(text: &[u8]) -> Option<usize> {
    // SAFETY: memchr reads the bytes of this slice only.
    let found = unsafe { libc::memchr(text.as_ptr().cast(), i32::from(b'\n'), text.len()) };
    (!found.is_null()).then(|| found.addr() - text.as_ptr().addr())
}

fn named(name: &CStr) -> libc::ifreq {
    // SAFETY: ifreq is integers and addresses, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.to_bytes().iter().take(15)) {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    request
}

fn ask(socket: BorrowedFd<'_>, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: each request used here reads and writes one ifreq (netdevice(7)).
    check(unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_mut(request)) }.into()).map(drop)
}

/// SIOCSIFFLAGS: up or down.
pub(crate) fn set_up(socket: BorrowedFd<'_>, name: &CStr, up: bool) -> io::Result<()> {
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = if up { 1 } else { 0 };
    ask(socket, libc::SIOCSIFFLAGS, &mut request)
}

/// SIOCGIFINDEX.
pub(crate) fn index(socket: BorrowedFd<'_>, name: &CStr) -> io::Result<i32> {
    let mut request = named(name);
    ask(socket, libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: SIOCGIFINDEX has filled this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

/// SIOCSIFADDR and SIOCSIFNETMASK.
pub(crate) fn set_address(socket: BorrowedFd<'_>, name: &CStr, address: [u8; 4], mask: [u8; 4]) -> io::Result<()> {
    for (what, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
        let mut request = named(name);
        request.ifr_ifru.ifru_addr = internet(value);
        ask(socket, what, &mut request)?;
    }
    Ok(())
}

fn internet(address: [u8; 4]) -> libc::sockaddr {
    // SAFETY: a sockaddr_in has the size of a sockaddr, and zero is a value of both.
    let mut whole: libc::sockaddr = unsafe { std::mem::zeroed() };
    whole.sa_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
    // Behind the port: sin_addr, in network order (ip(7)).
    for (place, byte) in whole.sa_data[2..6].iter_mut().zip(address) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    whole
}

/// SIOCADDRT: the default route.
pub(crate) fn default_route(socket: BorrowedFd<'_>, gateway: [u8; 4]) -> io::Result<()> {
    // SAFETY: rtentry is integers, addresses and a pointer, for which zero is a value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = internet([0; 4]);
    route.rt_genmask = internet([0; 4]);
    route.rt_gateway = internet(gateway);
    route.rt_flags = 3; // RTF_UP | RTF_GATEWAY
    // SAFETY: SIOCADDRT reads one rtentry.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) }.into()).map(drop)
}
