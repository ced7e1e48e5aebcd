//! Carrying connections through user space: listeners of one network namespace to addresses of another, where the kernel
//! cannot translate (`::1`), or nobody may write a firewall rule (`port-forward`).
//!
//! Promises: one thread, one epoll, no timer but for silent UDP; a side that does not read stops the other after 64 KiB; the
//! end of one direction is passed on and leaves the other open; memory is held only for what could not be passed on.
//! Does not: choose ports or addresses, enter namespaces, or read records.

#![forbid(unsafe_code)]

mod tcp;
mod udp;

use crate::error::{Doing, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use tcp::{Carried, PIECE, Pair};
use udp::Flows;

/// A listener and where it leads.
#[derive(Debug)]
pub enum Door {
    Tcp { listener: TcpListener, to: SocketAddr },
    Udp { socket: UdpSocket, to: SocketAddr },
}

impl Door {
    /// Listens. An IPv6 address is that alone, so that the same port of IPv4 stays who has it.
    pub fn tcp(at: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let listener = tcp::listen(at)?;
        Ok(Self::Tcp { listener, to })
    }

    pub fn udp(at: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Udp { socket, to })
    }
}

/// How a turn of the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Carried,
    /// The watched descriptor of this number has something.
    Told(u64),
}

/// All doors, and what goes through them.
#[derive(Debug)]
pub struct Tunnel {
    epoll: Epoll,
    doors: BTreeMap<u64, Opened>,
    pairs: BTreeMap<u64, Pair>,
    /// Pairs that had more than their share of a turn.
    unfinished: BTreeSet<u64>,
    scratch: Vec<u8>,
    next: u64,
    /// What could not be had: one word for whoever runs this.
    pub refused: Option<String>,
}

#[derive(Debug)]
enum Opened {
    Tcp { listener: TcpListener, to: SocketAddr, resting: bool },
    Udp(Flows),
}

/// What an event is about: bits 62 and 63 of its number say which kind.
const WATCHED: u64 = 0;
const DOOR: u64 = 1 << 62;
const PAIR: u64 = 2 << 62;
const KIND: u64 = 3 << 62;

/// When there is no descriptor left for another caller, they wait at the door for so long.
const REST: Duration = Duration::from_millis(100);

impl Tunnel {
    pub fn new() -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(|| "set up the tunnel".into())?;
        Ok(Self {
            epoll,
            doors: BTreeMap::new(),
            pairs: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            scratch: vec![0; PIECE],
            next: 1,
            refused: None,
        })
    }

    /// A descriptor of the caller's; `number` comes back as [`Turn::Told`].
    pub fn watch(&self, fd: BorrowedFd<'_>, number: u64) -> Result<()> {
        self.add(fd, WATCHED | number).doing(|| "watch a descriptor".into())
    }

    fn add(&self, fd: impl AsFd, number: u64) -> nix::Result<()> {
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number))
    }

    /// Lets callers in; the number closes the door again.
    pub fn open(&mut self, door: Door) -> Result<u64> {
        let number = self.number();
        let opened = match door {
            Door::Tcp { listener, to } => {
                self.add(&listener, DOOR | number).doing(|| "watch a listener".into())?;
                Opened::Tcp { listener, to, resting: false }
            }
            Door::Udp { socket, to } => {
                let flows = Flows::new(socket, to).doing(|| "watch a socket".into())?;
                self.add(&flows, DOOR | number).doing(|| "watch a socket".into())?;
                Opened::Udp(flows)
            }
        };
        self.doors.insert(number, opened);
        Ok(number)
    }

    /// Nobody else is let in; connections go on, flows of UDP end.
    pub fn close(&mut self, number: u64) {
        self.doors.remove(&number);
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Waits, at most so long, and carries what there is.
    pub fn turn(&mut self, most: Option<Duration>) -> Result<Turn> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, self.timeout(most)) {
            Err(Errno::EINTR) => 0,
            other => other.doing(|| "wait for events".into())?,
        };
        let mut told = Turn::Carried;
        for event in &events[..count] {
            let number = event.data() & !KIND;
            match event.data() & KIND {
                WATCHED => told = Turn::Told(number),
                DOOR => self.knock(number),
                _ => self.carry(number),
            }
        }
        for number in std::mem::take(&mut self.unfinished) {
            self.carry(number);
        }
        self.wake_the_resting();
        for opened in self.doors.values_mut() {
            if let Opened::Udp(flows) = opened {
                flows.forget_silent();
            }
        }
        Ok(told)
    }

    fn timeout(&self, most: Option<Duration>) -> EpollTimeout {
        if !self.unfinished.is_empty() {
            return EpollTimeout::ZERO;
        }
        let own = self.doors.values().filter_map(|opened| match opened {
            Opened::Tcp { resting: true, .. } => Some(REST),
            Opened::Udp(flows) => flows.next_look(),
            Opened::Tcp { .. } => None,
        });
        match own.chain(most).min() {
            Some(wait) => EpollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX),
            None => EpollTimeout::NONE,
        }
    }

    fn knock(&mut self, number: u64) {
        match self.doors.get_mut(&number) {
            Some(Opened::Udp(flows)) => flows.carry(),
            Some(Opened::Tcp { .. }) => self.let_in(number),
            None => {}
        }
    }

    /// A bounded number at once, so that those inside are not kept waiting.
    fn let_in(&mut self, number: u64) {
        for _ in 0..16 {
            let Some(Opened::Tcp { listener, to, resting }) = self.doors.get_mut(&number) else { return };
            let caller = match listener.accept() {
                Ok((caller, _)) => caller,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(err) if matches!(err.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                    // Left in the queue, it would wake us again and again.
                    *resting = true;
                    let _ = self.epoll.delete(&*listener);
                    return;
                }
                // Gone before it was let in.
                Err(_) => continue,
            };
            let to = *to;
            let own = self.number();
            match Pair::new(caller, to).and_then(|pair| Ok((self.watch_pair(&pair, own)?, pair))) {
                Ok(((), pair)) => {
                    self.pairs.insert(own, pair);
                }
                // Dropped, the caller hears that nobody is there.
                Err(err) => self.refused = Some(format!("{to}: {}", crate::error::plain(&err))),
            }
        }
    }

    /// Told once of each change (EPOLLET): an end on one side with the other one blocked would be told for ever.
    fn watch_pair(&self, pair: &Pair, number: u64) -> io::Result<()> {
        let changes = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(&pair.caller, EpollEvent::new(changes, PAIR | number))?;
        self.epoll.add(&pair.called, EpollEvent::new(changes, PAIR | number))?;
        Ok(())
    }

    fn carry(&mut self, number: u64) {
        let Some(pair) = self.pairs.get_mut(&number) else { return };
        match pair.carry(&mut self.scratch) {
            Carried::All => {}
            Carried::NotAll => {
                self.unfinished.insert(number);
            }
            Carried::Over => drop(self.pairs.remove(&number)),
            Carried::Failed(err) => {
                if !pair.is_connected() {
                    self.refused = Some(format!("{}: {}", pair.to, crate::error::plain(&err)));
                }
                drop(self.pairs.remove(&number));
            }
        }
    }

    fn wake_the_resting(&mut self) {
        for (number, opened) in &mut self.doors {
            if let Opened::Tcp { listener, resting, .. } = opened
                && *resting
            {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, DOOR | number);
                *resting = self.epoll.add(&*listener, event).is_err();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Shutdown, TcpStream};
    use std::thread;

    fn any() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    /// A tunnel to `to` that turns for ever in a thread; where it listens.
    fn leads_to(to: SocketAddr) -> SocketAddr {
        let door = Door::tcp(any(), to).unwrap();
        let Door::Tcp { listener, .. } = &door else { panic!("it is TCP") };
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut tunnel = Tunnel::new().unwrap();
            tunnel.open(door).unwrap();
            while tunnel.turn(None).is_ok() {}
        });
        at
    }

    fn pattern(length: u32) -> Vec<u8> {
        (0..length).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect()
    }

    #[test]
    fn each_direction_is_whole_and_ends_by_itself() {
        let far = TcpListener::bind(any()).unwrap();
        let at = leads_to(far.local_addr().unwrap());
        let (asked, answered) = (pattern(3_000_000), pattern(2_000_001));
        let answer = answered.clone();
        let other = thread::spawn(move || {
            let (mut caller, _) = far.accept().unwrap();
            let mut heard = Vec::new();
            // To its end before a word of the answer.
            caller.read_to_end(&mut heard).unwrap();
            caller.write_all(&answer).unwrap();
            heard
        });
        let mut caller = TcpStream::connect(at).unwrap();
        caller.write_all(&asked).unwrap();
        caller.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        caller.read_to_end(&mut heard).unwrap();
        assert!(heard == answered && other.join().unwrap() == asked);
    }

    #[test]
    fn who_does_not_read_stops_the_other_and_nobody_else() {
        let far = TcpListener::bind(any()).unwrap();
        let at = leads_to(far.local_addr().unwrap());
        let mut pushy = TcpStream::connect(at).unwrap();
        let (mut deaf, _) = far.accept().unwrap();
        pushy.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let piece = vec![7; 1 << 20];
        let mut sent = 0;
        while let Ok(count) = pushy.write(&piece) {
            sent += count;
            assert!(sent < 64 << 20, "it is taken without end");
        }
        let mut other = TcpStream::connect(at).unwrap();
        let (mut listens, _) = far.accept().unwrap();
        other.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        listens.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        // What was taken arrives all the same.
        drop(pushy);
        let mut late = Vec::new();
        deaf.read_to_end(&mut late).unwrap();
        assert_eq!(late.len(), sent);
    }

    #[test]
    fn where_nobody_listens_the_caller_hears_of_a_reset() {
        let gone = TcpListener::bind(any()).unwrap().local_addr().unwrap();
        let mut caller = TcpStream::connect(leads_to(gone)).unwrap();
        let err = caller.read(&mut [0; 8]).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn answers_of_udp_find_their_sender() {
        let far = UdpSocket::bind(any()).unwrap();
        let door = Door::udp(any(), far.local_addr().unwrap()).unwrap();
        let Door::Udp { socket, .. } = &door else { panic!("it is UDP") };
        let at = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut tunnel = Tunnel::new().unwrap();
            tunnel.open(door).unwrap();
            while tunnel.turn(None).is_ok() {}
        });
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = far.recv_from(&mut buffer) {
                far.send_to(&buffer[..length], from).unwrap();
            }
        });
        let senders: Vec<UdpSocket> = (0..20).map(|_| UdpSocket::bind(any()).unwrap()).collect();
        for (n, sender) in senders.iter().enumerate() {
            sender.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            sender.send_to(format!("hello {n}").as_bytes(), at).unwrap();
        }
        for (n, sender) in senders.iter().enumerate() {
            let mut buffer = [0; 64];
            let (length, from) = sender.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (format!("hello {n}").as_bytes(), at));
        }
    }
}
