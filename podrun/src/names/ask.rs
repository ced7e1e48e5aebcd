//! Asking those who know more: a question on its way to the host's servers, or the pod's own, and back.
//!
//! Each attempt has a socket and a number of its own, both from the kernel's randomness, so that nobody else can guess what
//! an answer must look like (RFC 5452); what comes from another address the kernel drops, and what answers another
//! question is not looked at. A question that came by a stream goes by a stream.

#![forbid(unsafe_code)]

use super::answer::{answers, is_evasive, renumber};
use super::callers::framed;
use crate::sys::fd;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Three attempts are over before a resolver that asked us gives up: resolv.conf(5) says 5 seconds.
const PATIENCE: Duration = Duration::from_millis(1500);
const ATTEMPTS: usize = 3;

/// Who is to hear the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// By which door, and where.
    Datagram {
        door: usize,
        at: SocketAddr,
    },
    Stream {
        caller: u64,
        from: IpAddr,
    },
}

impl Client {
    pub(super) fn address(self) -> IpAddr {
        match self {
            Self::Datagram { at, .. } => at.ip().to_canonical(),
            Self::Stream { from, .. } => from,
        }
    }
}

/// A question that was passed on.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) client: Client,
    pub(super) until: Instant,
    /// The client's own number for it.
    number: [u8; 2],
    query: Vec<u8>,
    servers: Vec<SocketAddr>,
    attempts: usize,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Datagram(UdpSocket),
    Stream { stream: TcpStream, to_send: Vec<u8>, heard: Vec<u8> },
}

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum Progress {
    Waits,
    Answer(Vec<u8>),
    /// Not from there.
    Failed,
}

impl Asked {
    /// None: nobody can be asked.
    pub(super) fn begin(client: Client, query: &[u8], servers: Vec<SocketAddr>) -> Option<Self> {
        let number = [*query.first()?, *query.get(1)?];
        let mut query = query.to_vec();
        for attempts in 1..=servers.len() {
            if let Ok(way) = Way::open(client, servers[attempts - 1], &mut query) {
                let until = Instant::now() + PATIENCE;
                return Some(Self { client, until, number, query, servers, attempts, way });
            }
        }
        None
    }

    /// The next server's turn, or the first one's again; false when it is over.
    pub(super) fn again(&mut self) -> bool {
        while self.attempts < ATTEMPTS.max(self.servers.len()) {
            let server = self.servers[self.attempts % self.servers.len()];
            self.attempts += 1;
            if let Ok(way) = Way::open(self.client, server, &mut self.query) {
                self.way = way;
                self.until = Instant::now() + PATIENCE;
                return true;
            }
        }
        false
    }

    /// Whether it is the same question of the same client: who hears nothing for a while asks again.
    pub(super) fn is(&self, client: Client, query: &[u8]) -> bool {
        self.client == client && query.get(..2) == Some(&self.number) && query.get(2..) == self.query.get(2..)
    }

    pub(super) fn progress(&mut self) -> Progress {
        let progress = match &mut self.way {
            Way::Datagram(socket) => hear(socket, &self.query),
            Way::Stream { stream, to_send, heard } => converse(stream, to_send, heard, &self.query),
        };
        match progress {
            Ok(Progress::Answer(answer)) if is_evasive(&answer) && self.attempts < self.servers.len() => {
                Progress::Failed
            }
            Ok(Progress::Answer(mut answer)) => {
                renumber(&mut answer, self.number);
                Progress::Answer(answer)
            }
            Ok(other) => other,
            Err(_) => Progress::Failed,
        }
    }

    /// The client's own question, as it came.
    pub(super) fn into_query(mut self) -> Vec<u8> {
        renumber(&mut self.query, self.number);
        self.query
    }
}

impl AsFd for Asked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Datagram(socket) => socket.as_fd(),
            Way::Stream { stream, .. } => stream.as_fd(),
        }
    }
}

impl Way {
    fn open(client: Client, server: SocketAddr, query: &mut [u8]) -> io::Result<Self> {
        renumber(query, fd::random()?);
        match client {
            Client::Datagram { .. } => {
                let any: IpAddr =
                    if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind((any, 0))?;
                socket.set_nonblocking(true)?;
                socket.connect(server)?;
                socket.send(query)?;
                Ok(Self::Datagram(socket))
            }
            Client::Stream { .. } => {
                Ok(Self::Stream { stream: call(server)?, to_send: framed(query), heard: Vec::new() })
            }
        }
    }
}

/// connect(2) that does not wait.
fn call(server: SocketAddr) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made: OwnedFd = socket(family, SockType::Stream, flags, None)?;
    match connect(made.as_raw_fd(), &SockaddrStorage::from(server)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(made.into()),
        Err(errno) => Err(errno.into()),
    }
}

fn hear(socket: &UdpSocket, query: &[u8]) -> io::Result<Progress> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) if answers(query, &buffer[..length]) => return Ok(Progress::Answer(buffer[..length].to_vec())),
            Ok(_) => {}
            Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(Progress::Waits),
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

fn converse(stream: &mut TcpStream, to_send: &mut Vec<u8>, heard: &mut Vec<u8>, query: &[u8]) -> io::Result<Progress> {
    while !to_send.is_empty() {
        match stream.write(to_send) {
            Ok(sent) => drop(to_send.drain(..sent)),
            // Not connected yet is told so, too.
            Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(Progress::Waits),
            Err(err) => return Err(err),
        }
    }
    let mut buffer = [0; 4096];
    loop {
        if let Some(length) = heard.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length)))
            && let Some(answer) = heard.get(2..2 + length)
        {
            return Ok(match answers(query, answer) {
                true => Progress::Answer(answer.to_vec()),
                false => Progress::Failed,
            });
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(Progress::Failed),
            Ok(read) => heard.extend_from_slice(&buffer[..read]),
            Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(Progress::Waits),
            Err(err) => return Err(err),
        }
    }
}
