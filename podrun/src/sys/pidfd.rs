//! pidfd_open(2) and pidfd_send_signal(2): a process by a handle that is never given to another one.

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// pidfd_open(2); close-on-exec by nature.
pub fn pidfd_open(pid: nix::unistd::Pid) -> nix::Result<OwnedFd> {
    // SAFETY: the call reads two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = libc::c_int::try_from(fd).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pidfd_send_signal(2) with the signal's default siginfo, as kill(2) would send it.
pub fn pidfd_send_signal(process: impl AsFd, signal: Signal) -> nix::Result<()> {
    let (fd, signal) = (process.as_fd().as_raw_fd(), libc::c_int::from(signal as i32));
    // SAFETY: a null siginfo is what the call takes for "as kill(2)"; the descriptor stays open while we borrow it.
    let done =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0) };
    Errno::result(done).map(drop)
}
