//! unix(7): one message with file descriptors (SCM_RIGHTS).

use nix::sys::socket::ControlMessage;
use nix::sys::socket::ControlMessageOwned;
use nix::sys::socket::MsgFlags;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;

/// SCM_MAX_FD of the kernel: the most that one message carries.
const MOST: usize = 253;

/// sendmsg(2) of one message, whole; never SIGPIPE. `flags` says whether to wait.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: MsgFlags) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    let iov = [io::IoSlice::new(bytes)];
    loop {
        match nix::sys::socket::sendmsg::<()>(socket.as_raw_fd(), &iov, control, flags, None) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other.map(|_| ()).map_err(io::Error::from),
        }
    }
}

/// recvmsg(2) of one message into `bytes`: how many bytes (0 at the end), and its fds, close-on-exec. A message that was
/// cut short, for want of room or of fd numbers, is an error, and what came of its fds is closed.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8], flags: MsgFlags) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut room = nix::cmsg_space!([RawFd; MOST]);
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut iov = [io::IoSliceMut::new(bytes)];
    let message = loop {
        match nix::sys::socket::recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut room), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just opened these numbers for us, each once, and nobody else knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_CTRUNC | MsgFlags::MSG_TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::AddressFamily;
    use nix::sys::socket::SockFlag;
    use nix::sys::socket::SockType;
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn a_message_arrives_whole_with_its_fds() {
        let (a, b) = pair();
        let pipe = crate::sys::pipe::pipe().unwrap();
        send(a.as_fd(), b"hi", &[pipe.into.as_fd()], MsgFlags::empty()).unwrap();
        let mut bytes = [0; 8];
        let (n, fds) = receive(b.as_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        assert_eq!((&bytes[..n], fds.len()), (&b"hi"[..], 1));
        nix::unistd::write(&fds[0], b"x").unwrap();
        assert_eq!(crate::sys::pipe::bytes_in(pipe.out.as_fd()).unwrap(), 1);
    }

    #[test]
    fn a_message_too_long_is_an_error_and_the_end_is_zero() {
        let (a, b) = pair();
        send(a.as_fd(), b"too long", &[], MsgFlags::empty()).unwrap();
        assert!(receive(b.as_fd(), &mut [0; 2], MsgFlags::empty()).is_err());
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut [0; 2], MsgFlags::empty()).unwrap().0, 0);
    }
}
