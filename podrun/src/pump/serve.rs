//! The pump's loop: one thread, one epoll(7), no state that a successor needs.

#![forbid(unsafe_code)]

use crate::pump::container::Container;
use crate::pump::container::Tools;
use crate::pump::desk::Desk;
use crate::pump::errno_of;
use crate::pump::ledger::Ledger;
use crate::pump::pipes::Pipes;
use crate::pump::wire;
use crate::pump::wire::Add;
use crate::pump::wire::Answer;
use crate::pump::wire::Command;
use crate::record::Stream;
use nix::sys::epoll::Epoll;
use nix::sys::epoll::EpollCreateFlags;
use nix::sys::epoll::EpollEvent;
use nix::sys::epoll::EpollFlags;
use nix::sys::epoll::EpollTimeout;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::time::Duration;
use std::time::Instant;

const CONTROL: u64 = u64::MAX;
/// How long nobody must have logged before the buffers are given back.
const IDLE: Duration = Duration::from_millis(300);
/// A container that writes line by line would have the pump run for each of them. So after a round that brought less than
/// this, and came within [`CHATTY`] of the one before, the pump lets some lines come together. The first line after a while is
/// never late, nobody waits for a full pipe, and line by line costs a fifth of what it would.
const LITTLE: usize = 16 * 1024;
const CHATTY: Duration = Duration::from_millis(1);
const NAP: Duration = Duration::from_micros(300);
/// How soon to ask again for a container that another pump still has.
const WAITING: Duration = Duration::from_millis(50);

pub(super) struct Pump {
    epoll: Epoll,
    control: OwnedFd,
    /// Nobody is at the other end of the control socket, and nobody will be.
    alone: bool,
    /// By a number that is never used twice, so that an event of one that is gone finds nobody.
    containers: BTreeMap<u64, Served>,
    next: u64,
    desk: Desk,
    answers: VecDeque<Answer>,
    /// Containers that another pump still has, which cannot die yet.
    waiting: Vec<(Instant, Add, Pipes)>,
    /// Epoll tells when the monitor listens again.
    stalled: bool,
    last_work: Instant,
    /// The last round that brought little.
    last_little: Instant,
}

struct Served {
    container: Container,
    /// Which of its streams epoll watches.
    watched: [bool; 2],
}

impl Pump {
    pub(super) fn new(control: OwnedFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&control, EpollEvent::new(EpollFlags::EPOLLIN, CONTROL))?;
        Ok(Self {
            epoll,
            control,
            alone: false,
            containers: BTreeMap::new(),
            next: 0,
            desk: Desk::new()?,
            answers: VecDeque::new(),
            waiting: Vec::new(),
            stalled: false,
            last_work: Instant::now(),
            last_little: Instant::now(),
        })
    }

    /// Until the monitor and the fd store are gone and every container has ended.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        while !(self.alone && self.containers.values().all(|served| served.container.is_over())) {
            self.nap();
            let count = match self.epoll.wait(&mut events, self.timeout(Instant::now())) {
                Err(nix::errno::Errno::EINTR) => 0,
                count => count?,
            };
            let now = Instant::now();
            for event in &events[..count] {
                match event.data() {
                    CONTROL => self.listen(event.events(), now)?,
                    data => self.turn(data, now),
                }
            }
            self.tick(now);
            self.answer()?;
        }
        Ok(())
    }

    fn nap(&mut self) {
        let moved = std::mem::take(&mut self.desk.moved);
        if (1..LITTLE).contains(&moved) {
            let before = std::mem::replace(&mut self.last_little, self.last_work);
            if self.last_work.saturating_duration_since(before) < CHATTY {
                std::thread::sleep(NAP);
            }
        }
    }

    fn timeout(&self, now: Instant) -> EpollTimeout {
        let containers = self.containers.values().filter_map(|served| served.container.deadline());
        let waiting = self.waiting.iter().map(|(again, ..)| *again);
        let idle = self.desk.used.then(|| self.last_work + IDLE);
        match containers.chain(waiting).chain(idle).min() {
            None => EpollTimeout::NONE,
            // Rounded up, or the loop would spin through the last part of a millisecond.
            Some(at) => {
                let millis = at.saturating_duration_since(now).as_micros().div_ceil(1000);
                EpollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
            }
        }
    }

    /// `data` is the container's number and, in the last bit, the stream.
    fn turn(&mut self, data: u64, now: Instant) {
        self.last_work = now;
        let stream = if data & 1 == 0 { Stream::Stdout } else { Stream::Stderr };
        self.with(data >> 1, now, |container, tools| container.turn(stream, tools));
    }

    /// Lets a container do something. One that fails at what cannot fail is served no longer; the others are.
    fn with(&mut self, at: u64, now: Instant, act: impl FnOnce(&mut Container, &mut Tools<'_>) -> io::Result<()>) {
        let Some(served) = self.containers.get_mut(&at) else { return };
        let mut tools = Tools { desk: &mut self.desk, answers: &mut self.answers, now };
        let done = act(&mut served.container, &mut tools).and_then(|()| served.watch(at, &self.epoll));
        if let Err(err) = done {
            let errno = errno_of(&err);
            self.answers.push_back(Answer::Refused { key: served.container.key, errno });
            self.forget(at);
        }
    }

    fn tick(&mut self, now: Instant) {
        let due: Vec<u64> = self
            .containers
            .iter()
            .filter(|(_, served)| served.container.deadline().is_some_and(|at| at <= now))
            .map(|(at, _)| *at)
            .collect();
        for at in due {
            self.with(at, now, Container::tick);
        }
        let (due, later) = std::mem::take(&mut self.waiting).into_iter().partition(|(again, ..)| *again <= now);
        self.waiting = later;
        for (_, add, pipes) in due {
            self.add(add, Ok(pipes), now);
        }
        if self.desk.used && self.last_work + IDLE <= now {
            // A failure only means that the pages stay.
            let _ = self.desk.give_back();
        }
    }

    fn listen(&mut self, events: EpollFlags, now: Instant) -> io::Result<()> {
        if !events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return Ok(());
        }
        match wire::receive_command(self.control.as_fd()) {
            Ok((command, fds)) => self.obey(command, fds, now),
            Err(err) => match err.kind() {
                io::ErrorKind::WouldBlock => {}
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                    self.alone = true;
                    self.epoll.delete(&self.control)?;
                }
                // A word that only newer monitors know.
                _ => self.answers.push_back(Answer::Refused { key: 0, errno: libc::EBADMSG }),
            },
        }
        Ok(())
    }

    fn obey(&mut self, command: Command, fds: Vec<OwnedFd>, now: Instant) {
        match command {
            Command::Add(add) => match self.find(add.key) {
                Some(_) => {}
                None => self.add(add, Pipes::from_fds(fds), now),
            },
            Command::Reopen { key } => match self.find(key) {
                Some(at) => self.with(at, now, |container, tools| {
                    container.reopen(tools);
                    Ok(())
                }),
                None => {
                    // One that another pump still has is opened by its path once it is ours.
                    let waits = self.waiting.iter().any(|(_, add, _)| add.key == key);
                    self.answers.push_back(Answer::Reopened { key, errno: if waits { 0 } else { libc::ENOENT } });
                }
            },
            Command::Finish { key, grace_ms } => match self.find(key) {
                Some(at) => {
                    self.with(at, now, |container, tools| container.finish(Duration::from_millis(grace_ms), tools));
                }
                None => self.answers.push_back(Answer::Finished { key, lost_bytes: 0, end: 0 }),
            },
            Command::Forget { key } => {
                self.waiting.retain(|(_, add, _)| add.key != key);
                if let Some(at) = self.find(key) {
                    self.with(at, now, Container::part);
                    self.forget(at);
                }
            }
        }
    }

    fn find(&self, key: u64) -> Option<u64> {
        self.containers.iter().find(|(_, served)| served.container.key == key).map(|(at, _)| *at)
    }

    fn add(&mut self, add: Add, pipes: io::Result<Pipes>, now: Instant) {
        let mut tools = Tools { desk: &mut self.desk, answers: &mut self.answers, now };
        let made = pipes.and_then(|pipes| match Ledger::open(pipes.state.as_fd()) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(Err(pipes)),
            ledger => Container::new(&add, ledger?, pipes, &mut tools).map(Ok),
        });
        match made {
            Ok(Ok(container)) => {
                let at = self.next;
                self.next += 1;
                self.containers.insert(at, Served { container, watched: [false; 2] });
                self.with(at, now, |_, _| Ok(()));
            }
            Ok(Err(pipes)) => {
                self.waiting.retain(|(_, other, _)| other.key != add.key);
                self.waiting.push((now + WAITING, add, pipes));
            }
            Err(err) => {
                let errno = errno_of(&err);
                self.answers.push_back(Answer::Refused { key: add.key, errno });
            }
        }
    }

    fn forget(&mut self, at: u64) {
        let Some(served) = self.containers.remove(&at) else { return };
        // Others have copies of these fds, so closing ours would not take them off the epoll.
        for stream in Stream::BOTH.into_iter().filter(|stream| served.watched[stream.index()]) {
            let _ = served.container.any_source(stream).map(|source| self.epoll.delete(source));
        }
    }

    /// Says what there is to say, without waiting for a monitor that is busy.
    fn answer(&mut self) -> io::Result<()> {
        let mut stalled = false;
        while let Some(answer) = self.answers.front().filter(|_| !stalled) {
            match wire::send_answer(self.control.as_fd(), answer) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => stalled = true,
                // On any other error there is nobody to tell.
                Ok(()) | Err(_) => drop(self.answers.pop_front()),
            }
        }
        if stalled != self.stalled && !self.alone {
            let wanted = if stalled { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            self.epoll.modify(&self.control, &mut EpollEvent::new(wanted, CONTROL))?;
        }
        self.stalled = stalled;
        Ok(())
    }
}

impl Served {
    /// Has epoll watch just the streams from which something may come.
    fn watch(&mut self, at: u64, epoll: &Epoll) -> io::Result<()> {
        for stream in Stream::BOTH {
            let (n, open) = (stream.index(), self.container.source(stream));
            let data = at << 1 | u64::from(stream == Stream::Stderr);
            match (self.watched[n], open) {
                (false, Some(source)) => epoll.add(source, EpollEvent::new(EpollFlags::EPOLLIN, data))?,
                (true, None) => self.container.any_source(stream).map_or(Ok(()), |source| epoll.delete(source))?,
                _ => {}
            }
            self.watched[n] = open.is_some();
        }
        Ok(())
    }
}
