//! The loop: whoever asks is answered, or what they ask is passed on.

#![forbid(unsafe_code)]

use super::Door;
use super::answer::{self, Heard, Question, STREAM, Told};
use super::ask::{Asked, Client, Progress};
use super::book::Asker;
use super::callers::Caller;
use crate::error::{Doing, Result};
use crate::net::bridge::Network;
use crate::net::cidr::Cidr;
use crate::net::{files, ipam};
use crate::roots::Roots;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Questions that were passed on: all, and of one pod.
const MOST: usize = 1024;
const MOST_OF_ONE: usize = 256;
/// Connections: the one that has been silent longest makes room.
const CALLERS: usize = 128;
/// Datagrams at one door before the next one's turn.
const TURN: usize = 64;

/// Port 53, unless a server says another.
const PORT: u16 = 53;
/// How long a server stays where the last pod has gone.
const LINGER: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Server {
    roots: Roots,
    network: String,
    /// Its own addresses, which it does not ask.
    own: Vec<IpAddr>,
    /// Where its pods are.
    subnets: Vec<Cidr>,
    /// Whether it passes questions on: what has no way out has none for them.
    passes_on: bool,
    /// What it says of itself while it stays.
    pub(super) record: Vec<u8>,
    leases: PathBuf,
    epoll: Epoll,
    news: Inotify,
    /// The leases' directory is gone.
    cut_off: bool,
    doors: Vec<Door>,
    asked: BTreeMap<u64, Asked>,
    callers: BTreeMap<u64, Caller>,
    next: u64,
}

/// What an event is about: the two highest bits of its number.
const NEWS: u64 = 0;
const DOOR: u64 = 1 << 62;
const ASKED: u64 = 2 << 62;
const CALLER: u64 = 3 << 62;
const KIND: u64 = 3 << 62;

impl Server {
    pub(super) fn new(roots: Roots, network: &Network, doors: Vec<Door>, record: Vec<u8>) -> Result<Self> {
        let doing = || format!("serve names on {}", network.name);
        let leases = roots.leases().join(&network.name);
        let news = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).doing(doing)?;
        let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_ONLYDIR;
        news.add_watch(&leases, gone).doing(doing)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(doing)?;
        epoll.add(&news, EpollEvent::new(EpollFlags::EPOLLIN, NEWS)).doing(doing)?;
        for (number, door) in (0..).zip(&doors) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, DOOR | number);
            match door {
                Door::Udp(socket) => epoll.add(socket, event),
                Door::Tcp(listener) => epoll.add(listener, event),
            }
            .doing(doing)?;
        }
        Ok(Self {
            own: network.gateways().collect(),
            subnets: network.subnets().collect(),
            passes_on: !network.policy.internal,
            network: network.name.clone(),
            roots,
            record,
            leases,
            epoll,
            news,
            cut_off: false,
            doors,
            asked: BTreeMap::new(),
            callers: BTreeMap::new(),
            next: 0,
        })
    }

    /// Until no pod is left on the network, and none has come for a moment: where one pod follows the other, each would start
    /// a server of its own, which is more work than the pod.
    pub(super) fn serve(&mut self) -> Result<()> {
        let mut leaves = None;
        loop {
            leaves = match self.has_pods() {
                true => None,
                false => leaves.or(Some(Instant::now() + LINGER)),
            };
            if self.cut_off || leaves.is_some_and(|at| at <= Instant::now()) {
                return Ok(());
            }
            self.answer_until(leaves)?;
        }
    }

    /// Until a lease is gone, or this time has come.
    fn answer_until(&mut self, leaves: Option<Instant>) -> Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        while leaves.is_none_or(|at| at > Instant::now()) {
            let count = match self.epoll.wait(&mut events, self.timeout(leaves)) {
                Err(Errno::EINTR) => 0,
                other => other.doing(|| "wait for questions".into())?,
            };
            let mut news = false;
            for event in &events[..count] {
                let number = event.data() & !KIND;
                match event.data() & KIND {
                    DOOR => self.knock(usize::try_from(number).unwrap_or(usize::MAX)),
                    ASKED => self.progress(number),
                    CALLER => self.listen_to(number),
                    _ => news = true,
                }
            }
            self.give_up_waiting();
            if news {
                self.look_at_news();
                break;
            }
        }
        Ok(())
    }

    /// A directory that was removed tells no more: what has its name later is another one's, with a server of its own.
    fn look_at_news(&mut self) {
        let events = self.news.read_events().unwrap_or_default();
        self.cut_off |= events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_IGNORED));
    }

    pub(super) fn has_pods(&self) -> bool {
        !self.cut_off && ipam::is_used(&self.leases)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn timeout(&self, leaves: Option<Instant>) -> EpollTimeout {
        let asked = self.asked.values().map(|asked| asked.until);
        let Some(first) = asked.chain(self.callers.values().map(|caller| caller.until)).chain(leaves).min() else {
            return EpollTimeout::NONE;
        };
        let wait = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }

    fn knock(&mut self, number: usize) {
        match self.doors.get(number) {
            Some(Door::Udp(_)) => self.datagrams(number),
            Some(Door::Tcp(_)) => self.let_in(number),
            None => {}
        }
    }

    fn datagrams(&mut self, door: usize) {
        let mut buffer = [0; 4096];
        for _ in 0..TURN {
            let Some(Door::Udp(socket)) = self.doors.get(door) else { return };
            match socket.recv_from(&mut buffer) {
                Ok((length, at)) if self.may_ask(at.ip()) => {
                    self.hear(&buffer[..length], Client::Datagram { door, at });
                }
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                // What an earlier answer met, say a port that nobody has any more.
                Err(_) => {}
            }
        }
    }

    /// A packet of the host's own to this address counts as one that came by the bridge (`ip_route_output_key_hash_rcu`), so
    /// that being bound to that keeps all others away, but not the host.
    fn may_ask(&self, from: IpAddr) -> bool {
        let from = from.to_canonical();
        self.subnets.iter().any(|subnet| subnet.contains(from)) && !self.own.contains(&from)
    }

    fn let_in(&mut self, door: usize) {
        for _ in 0..TURN {
            let Some(Door::Tcp(listener)) = self.doors.get(door) else { return };
            match listener.accept() {
                Ok((_, from)) if !self.may_ask(from.ip()) => {}
                Ok((stream, from)) => {
                    if let Ok(caller) = Caller::new(stream, from.ip().to_canonical()) {
                        self.welcome(caller);
                    }
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                // Without a descriptor for it, it would wait there and wake us for ever.
                Err(err) if matches!(err.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    if !self.turn_somebody_out() {
                        self.asked.pop_first();
                    }
                }
                Err(_) => {}
            }
        }
    }

    /// Told once of each change (EPOLLET): what is there is read to its end each time.
    fn welcome(&mut self, caller: Caller) {
        if self.callers.len() >= CALLERS {
            self.turn_somebody_out();
        }
        let number = self.number();
        let changes = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        if self.epoll.add(&caller, EpollEvent::new(changes, CALLER | number)).is_ok() {
            self.callers.insert(number, caller);
        }
    }

    fn turn_somebody_out(&mut self) -> bool {
        let silent = self.callers.iter().min_by_key(|(_, caller)| caller.until).map(|(number, _)| *number);
        silent.is_some_and(|number| self.callers.remove(&number).is_some())
    }

    fn listen_to(&mut self, number: u64) {
        let Some(caller) = self.callers.get_mut(&number) else { return };
        let from = caller.from;
        let heard = caller.send().and_then(|()| caller.hear());
        let Ok(questions) = heard else { return drop(self.callers.remove(&number)) };
        for question in questions {
            self.hear(&question, Client::Stream { caller: number, from });
        }
        if self.callers.get(&number).is_some_and(Caller::is_over) {
            self.callers.remove(&number);
        }
    }

    fn hear(&mut self, packet: &[u8], client: Client) {
        match answer::read(packet) {
            Heard::Question(question) => self.ask(packet, client, &question),
            Heard::Refused(answer) => self.reply(client, &answer),
            Heard::Noise => self.reply(client, &[]),
        }
    }

    fn ask(&mut self, packet: &[u8], client: Client, question: &Question) {
        let Some(asker) = Asker::find(&self.roots, &self.network, client.address()) else {
            return self.reply(client, &question.stranger());
        };
        match asker.look(&self.roots, &question.about) {
            Some(told) => self.tell(client, question, &told),
            // Refused or failed, musl's resolver would wait for a better answer until its time is over.
            None if !self.passes_on => self.tell(client, question, &Told::Nobody),
            None if self.asked.values().any(|asked| asked.is(client, packet)) => {}
            None => match self.pass_on(packet, client, &asker) {
                Some(asked) => self.keep(asked),
                None => self.tell(client, question, &Told::Failed),
            },
        }
    }

    fn pass_on(&self, packet: &[u8], client: Client, asker: &Asker) -> Option<Asked> {
        let of_this_one = self.asked.values().filter(|asked| asked.client.address() == client.address());
        if self.asked.len() >= MOST || of_this_one.count() >= MOST_OF_ONE {
            return None;
        }
        let mut servers: Vec<SocketAddr> = asker.servers().iter().map(|ip| SocketAddr::new(*ip, PORT)).collect();
        if servers.is_empty() {
            let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            servers = files::host_servers(&host, PORT);
        }
        servers.retain(|server| !self.own.contains(&server.ip()));
        Asked::begin(client, packet, servers)
    }

    fn keep(&mut self, asked: Asked) {
        let number = self.number();
        if self.watch(&asked, number) {
            self.asked.insert(number, asked);
        } else {
            self.fail(asked);
        }
    }

    fn watch(&self, asked: &Asked, number: u64) -> bool {
        let changes = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(asked, EpollEvent::new(changes, ASKED | number)).is_ok()
    }

    fn progress(&mut self, number: u64) {
        let Some(asked) = self.asked.get_mut(&number) else { return };
        match asked.progress() {
            Progress::Waits => {}
            Progress::Failed => self.ask_again(number),
            Progress::Answer(answer) => {
                let client = asked.client;
                self.asked.remove(&number);
                self.reply(client, &answer);
            }
        }
    }

    fn ask_again(&mut self, number: u64) {
        let Some(mut asked) = self.asked.remove(&number) else { return };
        // The old socket is gone, and with it its watch.
        match asked.again() && self.watch(&asked, number) {
            true => drop(self.asked.insert(number, asked)),
            false => self.fail(asked),
        }
    }

    fn fail(&mut self, asked: Asked) {
        let client = asked.client;
        if let Heard::Question(question) = answer::read(&asked.into_query()) {
            self.tell(client, &question, &Told::Failed);
        }
    }

    fn give_up_waiting(&mut self) {
        let now = Instant::now();
        self.callers.retain(|_, caller| caller.until > now);
        let over: Vec<u64> =
            self.asked.iter().filter(|(_, asked)| asked.until <= now).map(|(number, _)| *number).collect();
        over.into_iter().for_each(|number| self.ask_again(number));
    }

    fn tell(&mut self, client: Client, question: &Question, told: &Told) {
        let answer = match client {
            Client::Datagram { .. } => question.datagram(told),
            Client::Stream { .. } => question.answer(told, STREAM),
        };
        self.reply(client, &answer);
    }

    /// Nothing is sent where there is nothing to say. A datagram that the kernel does not take is a lost one.
    fn reply(&mut self, client: Client, answer: &[u8]) {
        match client {
            Client::Datagram { door, at } => {
                if let Some(Door::Udp(socket)) = self.doors.get(door)
                    && !answer.is_empty()
                {
                    let _ = socket.send_to(answer, at);
                }
            }
            Client::Stream { caller, .. } => {
                let Some(one) = self.callers.get_mut(&caller) else { return };
                if one.answer(answer).is_err() || one.is_over() {
                    self.callers.remove(&caller);
                }
            }
        }
    }
}
