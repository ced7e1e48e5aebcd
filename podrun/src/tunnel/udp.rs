//! Flows of UDP through one socket: each sender has a socket of its own towards the other side, so that answers find back.

#![forbid(unsafe_code)]

use super::tcp::PIECE;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A flow that is silent for so long has ended: what the kernel's connection tracking gives one that was answered.
const SILENCE: Duration = Duration::from_secs(120);
/// How often the silent ones are looked for.
const LOOK: Duration = Duration::from_secs(10);
/// A sender more costs the one that was silent longest its flow.
const MOST: usize = 1024;
/// So many datagrams, then others have their turn.
const DATAGRAMS: usize = 64;

#[derive(Debug)]
pub(super) struct Flows {
    socket: UdpSocket,
    to: SocketAddr,
    /// The socket is 0; flows are their numbers.
    epoll: Epoll,
    flows: BTreeMap<u64, Flow>,
    by_sender: HashMap<SocketAddr, u64>,
    next: u64,
    look: Instant,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Flow {
    sender: SocketAddr,
    socket: UdpSocket,
    last: Instant,
}

impl AsFd for Flows {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Flows {
    pub(super) fn new(socket: UdpSocket, to: SocketAddr) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self {
            socket,
            to,
            epoll,
            flows: BTreeMap::new(),
            by_sender: HashMap::new(),
            next: 1,
            look: Instant::now() + LOOK,
            scratch: vec![0; PIECE],
        })
    }

    /// A datagram that cannot be had or passed on is lost, as UDP's are.
    pub(super) fn carry(&mut self) {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in &events[..count] {
            match event.data() {
                0 => self.there(),
                number => self.back(number),
            }
        }
    }

    fn there(&mut self) {
        for _ in 0..DATAGRAMS {
            let Ok((length, sender)) = self.socket.recv_from(&mut self.scratch) else { return };
            let Ok(number) = self.flow(sender) else { continue };
            if let Some(flow) = self.flows.get_mut(&number) {
                flow.last = Instant::now();
                let _ = flow.socket.send(&self.scratch[..length]);
            }
        }
    }

    fn back(&mut self, number: u64) {
        let Some(flow) = self.flows.get_mut(&number) else { return };
        for _ in 0..DATAGRAMS {
            // Refused, where nobody listens: to be read once, and then over.
            let Ok(length) = flow.socket.recv(&mut self.scratch) else { return };
            flow.last = Instant::now();
            let _ = self.socket.send_to(&self.scratch[..length], flow.sender);
        }
    }

    fn flow(&mut self, sender: SocketAddr) -> io::Result<u64> {
        if let Some(number) = self.by_sender.get(&sender) {
            return Ok(*number);
        }
        if self.flows.len() >= MOST
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, flow)| flow.last).map(|(number, _)| *number)
        {
            self.forget(oldest);
        }
        let any: IpAddr = match self.to.is_ipv4() {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(self.to)?;
        socket.set_nonblocking(true)?;
        let number = self.next;
        self.next += 1;
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        self.flows.insert(number, Flow { sender, socket, last: Instant::now() });
        self.by_sender.insert(sender, number);
        Ok(number)
    }

    fn forget(&mut self, number: u64) {
        if let Some(flow) = self.flows.remove(&number) {
            self.by_sender.remove(&flow.sender);
        }
    }

    pub(super) fn next_look(&self) -> Option<Duration> {
        (!self.flows.is_empty()).then(|| self.look.saturating_duration_since(Instant::now()))
    }

    pub(super) fn forget_silent(&mut self) {
        let now = Instant::now();
        if now < self.look {
            return;
        }
        self.look = now + LOOK;
        let silent: Vec<u64> =
            self.flows.iter().filter(|(_, flow)| now - flow.last > SILENCE).map(|(number, _)| *number).collect();
        silent.into_iter().for_each(|number| self.forget(number));
    }
}
