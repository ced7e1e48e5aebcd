//! One TCP connection on each side, and what is on its way between them.

#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

/// As much as is read at once, and as much as can be held back for a side that does not read.
pub(super) const PIECE: usize = 64 << 10;
/// So many pieces, then others have their turn.
const PIECES: usize = 8;

pub(super) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = make(at)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    nix::sys::socket::listen(&socket, Backlog::MAXCONN)?;
    Ok(socket.into())
}

fn make(at: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

/// Who called, and whom they are led to.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) caller: TcpStream,
    pub(super) called: TcpStream,
    pub(super) to: SocketAddr,
    connected: bool,
    there: Way,
    back: Way,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// Read, and not taken by the other side yet.
    held: Vec<u8>,
    ended: bool,
    end_passed_on: bool,
}

/// How far it went.
#[derive(Debug)]
pub(super) enum Carried {
    /// Until the kernel tells of more.
    All,
    /// Others are to have their turn.
    NotAll,
    Over,
    /// Nobody is there, or not any more.
    Failed(io::Error),
}

impl Pair {
    /// Does not wait for the connection.
    pub(super) fn new(caller: TcpStream, to: SocketAddr) -> io::Result<Self> {
        // Who is let in and led nowhere hears of a reset, not of an end that looks like an empty answer.
        setsockopt(&caller, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        let called = make(to)?;
        match connect(called.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        caller.set_nonblocking(true)?;
        let called = TcpStream::from(called);
        // Whoever gathers small pieces has done so already.
        caller.set_nodelay(true)?;
        called.set_nodelay(true)?;
        Ok(Self { caller, called, to, connected: false, there: Way::default(), back: Way::default() })
    }

    /// Everything that can be had without waiting, both ways, but not without end.
    pub(super) fn carry(&mut self, scratch: &mut [u8]) -> Carried {
        match self.pass(scratch) {
            Ok(_) if self.there.end_passed_on && self.back.end_passed_on => {
                let _ = setsockopt(&self.caller, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
                Carried::Over
            }
            Ok(true) => Carried::NotAll,
            Ok(false) => Carried::All,
            Err(err) => Carried::Failed(err),
        }
    }

    fn pass(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        if !self.connected {
            if let Some(err) = self.called.take_error()? {
                return Err(err);
            }
            match self.called.peer_addr() {
                Ok(_) => self.connected = true,
                Err(err) if err.kind() == ErrorKind::NotConnected => return Ok(false),
                Err(err) => return Err(err),
            }
        }
        let more = self.there.pass(&self.caller, &self.called, scratch)?;
        Ok(self.back.pass(&self.called, &self.caller, scratch)? || more)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }
}

impl Way {
    /// Whether there may be more.
    fn pass(&mut self, mut from: &TcpStream, mut to: &TcpStream, scratch: &mut [u8]) -> io::Result<bool> {
        for _ in 0..PIECES {
            if !self.held.is_empty() {
                let Some(sent) = now(to.write(&self.held))? else { return Ok(false) };
                self.held.drain(..sent);
                continue;
            }
            self.held.shrink_to(0);
            if self.ended {
                return self.pass_the_end_on(to).map(|()| false);
            }
            let Some(read) = now(from.read(scratch))? else { return Ok(false) };
            self.ended = read == 0;
            let sent = if read == 0 { 0 } else { now(to.write(&scratch[..read]))?.unwrap_or(0) };
            self.held.extend_from_slice(&scratch[sent..read]);
        }
        Ok(true)
    }

    fn pass_the_end_on(&mut self, to: &TcpStream) -> io::Result<()> {
        if !self.end_passed_on {
            self.end_passed_on = true;
            match to.shutdown(Shutdown::Write) {
                Err(err) if err.kind() != ErrorKind::NotConnected => return Err(err),
                _ => {}
            }
        }
        Ok(())
    }
}

/// None: not now.
fn now(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(err) => Err(err),
    }
}
