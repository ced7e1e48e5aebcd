//! unix(7) sockets and the descriptors that travel through them.

use super::fd::{check, owned};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// SCM_MAX_FD: more descriptors than this do not fit one message (unix(7)).
pub const MOST_FDS: usize = 253;

/// socketpair(2) of SOCK_SEQPACKET: messages with borders, and an end.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(libc::SOCK_SEQPACKET)
}

/// socketpair(2) of SOCK_STREAM.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(libc::SOCK_STREAM)
}

fn pair(kind: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: ends is a place for the two descriptors that the kernel makes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) }.into())?;
    // SAFETY: the kernel has just made both and only we know them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// SO_SNDBUFFORCE: room for `bytes` of messages in flight, past the host's usual most (needs CAP_NET_ADMIN).
pub fn set_send_buffer(socket: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    let (level, option) = (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE);
    // SAFETY: the option's value is one int of four bytes, which lives through the call.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const bytes).cast(), 4) };
    check(answer.into()).map(drop)
}

/// NETLINK_CAP_ACK (netlink(7)): a refusal says which request it is of, and does not have it all within.
pub fn cap_acknowledgements(socket: BorrowedFd<'_>) -> io::Result<()> {
    let (level, option, on) = (libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1i32);
    // SAFETY: the option's value is one int of four bytes, which lives through the call.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), 4) };
    check(answer.into()).map(drop)
}

/// SO_ATTACH_FILTER (socket(7)): only what the classic BPF program lets through is queued.
pub fn attach_filter(socket: BorrowedFd<'_>, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let all = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let size = u32::try_from(size_of::<libc::sock_fprog>()).map_err(io::Error::other)?;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    // SAFETY: the option's value is a sock_fprog of the size given, which points to `len` instructions; the kernel copies and
    // checks them within the call.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const all).cast(), size) };
    check(answer.into()).map(drop)
}

/// A cmsghdr is aligned like a usize, and this is room for the header and MOST_FDS descriptors.
type Control = [usize; 2 + MOST_FDS / 2 + 2];

/// sendmsg(2) with descriptors (SCM_RIGHTS). Allocates nothing, so a child may call it. MSG_NOSIGNAL is always set.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: i32) -> io::Result<usize> {
    let mut control: Control = [0; _];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is plain data, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        if fds.len() > MOST_FDS {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let size = u32::try_from(size_of_val(fds)).map_err(io::Error::other)?;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN are arithmetic; control has room for one header with MOST_FDS descriptors, as
        // checked above, so CMSG_FIRSTHDR is not null and CMSG_DATA has room for all of them.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as usize;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (at, fd) in fds.iter().enumerate() {
                data.add(at).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: message points to one iovec over `bytes` and to `control`, which all live through the call.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags | libc::MSG_NOSIGNAL) };
        match check(sent as libc::c_long) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
            Ok(count) => return usize::try_from(count).map_err(io::Error::other),
        }
    }
}

/// recvmsg(2): the bytes, and the descriptors that came along (close-on-exec). Zero bytes and no descriptor: the end.
/// With `MSG_PEEK` the message stays, and the descriptors are copies.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: i32) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control: Control = [0; _];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>();
    let count = loop {
        // SAFETY: message points to one iovec over `buffer` and to `control`, which live through the call.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags | libc::MSG_CMSG_CLOEXEC) };
        match check(got as libc::c_long) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    let fds = received(&message);
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message larger than any that podrun sends"));
    }
    Ok((usize::try_from(count).map_err(io::Error::other)?, fds))
}

/// Takes the descriptors out of a received message.
fn received(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the control buffer with whole headers; CMSG_* walk it within msg_controllen. Each
    // descriptor in an SCM_RIGHTS message is new and ours alone.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(one) = header.as_ref() {
            if one.cmsg_level == libc::SOL_SOCKET && one.cmsg_type == libc::SCM_RIGHTS {
                let bytes = one.cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(one).cast::<RawFd>();
                for at in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, one);
        }
    }
    fds
}

/// What travels through a socket: bytes, or messages with borders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    Stream,
    Messages,
}

fn new(traffic: Traffic) -> io::Result<OwnedFd> {
    let kind = match traffic {
        Traffic::Stream => libc::SOCK_STREAM,
        Traffic::Messages => libc::SOCK_SEQPACKET,
    };
    // SAFETY: socket reads three integers.
    owned(unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) }.into())
}

/// A listening socket at `path`, mode 0600.
pub fn listen(path: &Path, traffic: Traffic) -> io::Result<OwnedFd> {
    at_short_path(path, |path| listen_at(path, traffic))
}

/// connect(2) to the socket at `path`.
pub fn connect(path: &Path, traffic: Traffic) -> io::Result<OwnedFd> {
    at_short_path(path, |path| connect_by(new(traffic)?, path))
}

/// connect(2) to a SOCK_STREAM socket, now or not at all: EAGAIN where as many wait already as the listener lets (unix(7)).
pub fn connect_at_once(path: &Path) -> io::Result<OwnedFd> {
    at_short_path(path, |path| {
        let socket = new(Traffic::Stream)?;
        super::pipe::set_nonblocking(socket.as_fd())?;
        connect_by(socket, path)
    })
}

/// A path may be too long for sockaddr_un (108 bytes, unix(7)); then it is named through a descriptor of its directory.
fn at_short_path<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) if path.as_os_str().len() >= 100 => {
            let dir = std::fs::File::open(dir)?;
            act(&Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))
        }
        _ => act(path),
    }
}

fn listen_at(path: &Path, traffic: Traffic) -> io::Result<OwnedFd> {
    let socket = new(traffic)?;
    let (address, length) = address(path)?;
    // SAFETY: fchmod reads two integers; on an unbound socket it sets the mode that bind(2) gives the file.
    check(unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) }.into())?;
    // SAFETY: address is a sockaddr_un of which `length` bytes are set.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) }.into())?;
    // SAFETY: listen reads two integers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 1024) }.into())?;
    Ok(socket)
}

fn connect_by(socket: OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let (address, length) = address(path)?;
    // SAFETY: address is a sockaddr_un of which `length` bytes are set.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }.into())?;
    Ok(socket)
}

fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: sockaddr_un is plain data, for which zero is a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).map_err(io::Error::other)?;
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    Ok((address, u32::try_from(size_of::<libc::sockaddr_un>()).map_err(io::Error::other)?))
}

/// accept4(2), non-blocking on both ends of the wait: `None` when nobody is there.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no address is asked for, so both pointers may be null.
    let answer = unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    match owned(answer.into()) {
        Ok(socket) => Ok(Some(socket)),
        Err(err) if matches!(err.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::ECONNABORTED)) => Ok(None),
        Err(err) => Err(err),
    }
}

/// accept4(2) of a blocking socket: waits for whoever comes.
pub fn accept_one(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    loop {
        let (none, flags) = (std::ptr::null_mut(), libc::SOCK_CLOEXEC);
        // SAFETY: no address is asked for, so both pointers may be null.
        let answer = unsafe { libc::accept4(listener.as_raw_fd(), none, std::ptr::null_mut(), flags) };
        match owned(answer.into()) {
            Err(err) if matches!(err.raw_os_error(), Some(libc::EINTR | libc::ECONNABORTED)) => {}
            other => return other,
        }
    }
}

/// The effective uid of whoever connected (SO_PEERCRED, unix(7)).
pub fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = u32::try_from(size_of::<libc::ucred>()).map_err(io::Error::other)?;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: peer is a ucred of the length given.
    let answer =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut peer).cast(), &raw mut length) };
    check(answer.into())?;
    Ok(peer.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn a_descriptor_travels_and_a_peek_leaves_the_message() {
        let (a, b) = seqpacket_pair().unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        send(a.as_fd(), b"hello", &[writer.as_fd(), reader.as_fd()], 0).unwrap();
        let mut buffer = [0; 64];
        let (count, peeked) = receive(b.as_fd(), &mut buffer, libc::MSG_PEEK).unwrap();
        assert_eq!((&buffer[..count], peeked.len()), (&b"hello"[..], 2));
        let (count, fds) = receive(b.as_fd(), &mut buffer, 0).unwrap();
        assert_eq!((count, fds.len()), (5, 2));
        drop(peeked);
        std::fs::File::from(fds.into_iter().next().unwrap()).write_all(b"x").unwrap();
        writer.write_all(b"y").unwrap();
        let mut got = [0; 2];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"xy");
    }

    #[test]
    fn the_end_is_zero_bytes() {
        let (a, b) = seqpacket_pair().unwrap();
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut [0; 8], 0).unwrap().0, 0);
    }
}
