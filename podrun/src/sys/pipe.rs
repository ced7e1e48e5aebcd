//! pipe(7): moving bytes between pipes in the kernel. splice(2), tee(2), FIONREAD, F_SETPIPE_SZ.

use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::SpliceFFlags;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

/// Both ends of a pipe.
#[derive(Debug)]
pub struct Pipe {
    pub out: OwnedFd,
    pub into: OwnedFd,
}

/// pipe2(2) with O_CLOEXEC. Both ends block until told otherwise.
pub fn pipe() -> io::Result<Pipe> {
    let (out, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok(Pipe { out, into })
}

/// F_SETPIPE_SZ: the kernel rounds up to a power of two of pages, and says no beyond /proc/sys/fs/pipe-max-size.
pub fn set_size(pipe: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    nix::fcntl::fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes))?;
    Ok(())
}

/// O_NONBLOCK belongs to the open file description: whoever has a copy of this fd gets it too.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let now = OFlag::from_bits_retain(nix::fcntl::fcntl(fd, FcntlArg::F_GETFL)?);
    nix::fcntl::fcntl(fd, FcntlArg::F_SETFL(now | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// splice(2) without waiting: moves up to `len` bytes; 0 is the end of the file.
pub fn splice(from: impl AsFd, to: impl AsFd, len: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    again(|| nix::fcntl::splice(from.as_fd(), None, to.as_fd(), None, len, flags))
}

/// tee(2) without waiting: up to `len` bytes of `from` appear in `to` and stay in `from`.
pub fn tee(from: impl AsFd, to: impl AsFd, len: usize) -> io::Result<usize> {
    again(|| nix::fcntl::tee(from.as_fd(), to.as_fd(), len, SpliceFFlags::SPLICE_F_NONBLOCK))
}

/// FIONREAD: how many bytes a read would find now.
pub fn bytes_in(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int to the address given, which is that of a live, aligned int of ours.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    match done {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(usize::try_from(count).unwrap_or(0)),
    }
}

fn again(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}
