//! The monitor: one process a pod, one thread, one epoll loop; the parent of every container and every exec'd program.
//!
//! Promises: an exit is never lost, guessed or told before it is on disk; what a successor needs is in the fd store before
//! a container runs. Never waits: not for a container, a client, a disk or the network. Does not plan: it carries out
//! plans that a podrun command made.

#![forbid(unsafe_code)]

mod clients;
mod ending;
mod execs;
mod firewall;
mod inlet;
pub mod keep;
mod keepers;
mod limited;
mod names;
mod recover;
mod run;
pub mod services;
pub mod socket;
mod verbs;
mod way_out;

use crate::cgroup::{Cgroup, Layout, Programs};
use crate::container::init::Groups;
use crate::error::{Doing, Result};
use crate::id::{ContainerName, NamespaceName, PodId, PodName};
use crate::roots::Roots;
use crate::sandbox::SharedMemory;
use crate::spec::SharePid;
use crate::store::{ContainerRecord, PodDir};
use crate::sys::clone;
use clients::Client;
use execs::Exec;
use firewall::Firewall;
use inlet::Inlet;
use keep::Store;
use keepers::{Outlet, Pause};
use names::Kept;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use run::Run;
use serde::{Deserialize, Serialize};
use services::Serving;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use way_out::WayOut;

/// The name under which main finds itself to be a monitor.
pub const ARGV0: &str = "podrun-monitor";

/// What a monitor has to know of its pod; the first entry of the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFacts {
    pub id: PodId,
    pub name: PodName,
    pub namespace: NamespaceName,
    pub root: PathBuf,
    pub run_root: PathBuf,
    pub share_pid: SharePid,
    pub cgroups: Layout,
    /// In a user's own namespace: pause is in the host's net, uts and ipc namespaces, as the monitor is.
    #[serde(default)]
    pub rootless: bool,
}

impl PodFacts {
    pub fn roots(&self) -> Roots {
        Roots { root: self.root.clone(), run: self.run_root.clone() }
    }
}

/// Keys of the store.
pub mod key {
    /// Host net, uts, ipc; pod net, uts, ipc. The body is `PodFacts`.
    pub const POD: &str = "pod";
    /// The listening socket.
    pub const DOOR: &str = "door";
    /// The program of an upgraded monitor.
    pub const PROGRAM: &str = "program";
    /// The pump's pidfd and its control socket.
    pub const PUMP: &str = "pump";
    /// What the containers share on /dev/shm. The body says what the descriptor is of.
    pub const MEMORY: &str = "memory";
    /// The PID 1 of a shared PID namespace: its pidfd and the namespace.
    pub const INIT: &str = "init";

    pub fn container(name: &crate::id::ContainerName) -> String {
        format!("c/{name}")
    }

    pub fn exec(id: &str) -> String {
        format!("x/{id}")
    }
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Door,
    Client(u64),
    Report(u64),
    Exit(u64),
    Oom(u64),
    ExecReport(u64),
    ExecExit(u64),
    Pump,
    PumpExit,
    PauseExit,
    InitExit,
    Status,
    Firewall,
    Restorer,
    InletExit,
    Services,
    NamesExit(u64),
    WayOutExit,
    WayMaker,
}

impl Token {
    const KIND: u32 = 56;

    fn pack(self) -> u64 {
        let (kind, id): (u64, u64) = match self {
            Self::Door => (0, 0),
            Self::Client(id) => (1, id),
            Self::Report(id) => (2, id),
            Self::Exit(id) => (3, id),
            Self::Oom(id) => (4, id),
            Self::ExecReport(id) => (5, id),
            Self::ExecExit(id) => (6, id),
            Self::Pump => (7, 0),
            Self::PumpExit => (8, 0),
            Self::PauseExit => (9, 0),
            Self::InitExit => (10, 0),
            Self::Status => (11, 0),
            Self::Firewall => (12, 0),
            Self::Restorer => (13, 0),
            Self::InletExit => (14, 0),
            Self::Services => (16, 0),
            Self::NamesExit(id) => (15, id),
            Self::WayOutExit => (17, 0),
            Self::WayMaker => (18, 0),
        };
        kind << Self::KIND | id
    }

    fn unpack(packed: u64) -> Option<Self> {
        let id = packed & ((1 << Self::KIND) - 1);
        Some(match packed >> Self::KIND {
            0 => Self::Door,
            1 => Self::Client(id),
            2 => Self::Report(id),
            3 => Self::Exit(id),
            4 => Self::Oom(id),
            5 => Self::ExecReport(id),
            6 => Self::ExecExit(id),
            7 => Self::Pump,
            8 => Self::PumpExit,
            9 => Self::PauseExit,
            10 => Self::InitExit,
            11 => Self::Status,
            12 => Self::Firewall,
            13 => Self::Restorer,
            14 => Self::InletExit,
            16 => Self::Services,
            15 => Self::NamesExit(id),
            17 => Self::WayOutExit,
            18 => Self::WayMaker,
            _ => return None,
        })
    }
}

/// What is to be done later.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Alarm {
    /// The grace of a stop is over.
    Kill(u64),
    /// A back-off is over.
    Restart(ContainerName),
    /// An OOM kill that the container has survived is not to colour its end.
    OomSurvived(u64),
    /// Nobody has told how the process ended.
    StatusUnknown(u64),
    /// The same for an exec.
    ExecStatusUnknown(u64),
    /// An exec's time is over, or those that it left behind are still dying.
    ExecLimit(u64),
    /// The pump could not be started.
    Pump,
    /// What the pump had no room for is said again.
    TellPump,
    /// The pump has not said that all is written: its disk may be stalled.
    Drained(u64),
    /// A cgroup still held a process in its last moments.
    Emptied,
    /// The rules may be gone.
    Firewall,
    /// The inlet could not be started, or died.
    Inlet,
    /// Who serves may have changed.
    Services,
    /// A name server is on its way, or could not be started.
    Names,
    /// pasta is on its way, or could not be started.
    WayOut,
}

/// One container: its record and, while it has a process, the run.
#[derive(Debug)]
struct Container {
    record: ContainerRecord,
    run: Option<Run>,
    waiters: Vec<Waiter>,
    /// To be started again as soon as the stop is through.
    restart_after_stop: bool,
    /// To be deleted as soon as the stop is through.
    delete_after_stop: bool,
}

/// A client that waits for something of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiter {
    client: u64,
    until: socket::Until,
    count: Count,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    /// It is told of this container.
    One,
    /// It waits for several and is told `Done` after the last.
    Several,
}

/// The namespaces of the pod, and the way back to the host's.
#[derive(Debug)]
struct Namespaces {
    net: OwnedFd,
    uts: OwnedFd,
    ipc: OwnedFd,
    own_pid: OwnedFd,
    /// `CLONE_NEW*` of those that are to be joined. In a user namespace that may not be those that we are in ourselves, as the
    /// host's are: setns(2) refuses even that.
    not_ours: i32,
    /// The pod's /dev/shm, from the first container on that has it.
    memory: Option<SharedMemory>,
    /// The PID 1 of the pod's shared PID namespace, and that namespace.
    init: Option<(OwnedFd, OwnedFd)>,
    init_record: Option<crate::store::ProcessRecord>,
    init_died: bool,
    /// Whether the user namespace that all of them belong to lets a container have supplementary groups.
    groups: Groups,
}

impl Namespaces {
    /// Whether the PID 1 of the shared PID namespace has ended, or is about to: the kernel lets it end after all others, whose
    /// ends are so the first that is heard of it (pid_namespaces(7)).
    fn init_is_over(&self) -> bool {
        self.init_died || self.init_record.is_some_and(|init| clone::is_dying(init.pid))
    }

    /// Those that whoever belongs to the pod joins, each with its `CLONE_NEW*`.
    fn of_the_pod(&self) -> Vec<(BorrowedFd<'_>, i32)> {
        let all = [
            (self.net.as_fd(), libc::CLONE_NEWNET),
            (self.uts.as_fd(), libc::CLONE_NEWUTS),
            (self.ipc.as_fd(), libc::CLONE_NEWIPC),
        ];
        all.into_iter().filter(|(_, kind)| self.not_ours & kind != 0).collect()
    }
}

#[derive(Debug)]
struct Monitor {
    facts: PodFacts,
    dir: PodDir,
    epoll: Epoll,
    store: Store,
    door: OwnedFd,
    status: OwnedFd,
    status_write: OwnedFd,
    program: OwnedFd,
    namespaces: Namespaces,
    pause: Pause,
    outlet: Outlet,
    null: OwnedFd,
    containers: BTreeMap<ContainerName, Container>,
    /// Device programs that the next container may need again.
    programs: Programs,
    execs: BTreeMap<u64, Exec>,
    /// Ends of execs that nobody was there to hear; the oldest go first.
    unheard: VecDeque<(String, socket::Reply)>,
    clients: BTreeMap<u64, Client>,
    firewall: Firewall,
    serving: Serving,
    inlet: Option<Inlet>,
    names: Vec<Kept>,
    way_out: WayOut,
    alarms: Vec<(Instant, Alarm)>,
    /// Cgroups to be removed once everybody has been answered.
    emptied: Vec<Cgroup>,
    /// Notes of pause about children that were ours and are not yet asked for: (pid, status).
    notes: VecDeque<(i32, i32)>,
    next_id: u64,
    leaving: Option<i32>,
}

/// The whole life of a monitor process; the answer is its exit code, which pause understands.
pub fn run(argv: &[String]) -> i32 {
    match recover::come_up(argv).and_then(|mut monitor| monitor.serve()) {
        Ok(code) => code,
        Err(err) => {
            keepers::last_words(&err);
            1
        }
    }
}

impl Monitor {
    fn serve(&mut self) -> Result<i32> {
        let mut events = [EpollEvent::empty(); 64];
        // While the command that made the pod has its own work to finish.
        self.programs = Programs::begin(&self.facts.cgroups);
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Err(nix::errno::Errno::EINTR) => 0,
                other => other.doing(|| "wait for events".into())?,
            };
            for event in &events[..count] {
                if let Some(token) = Token::unpack(event.data()) {
                    self.happen(token);
                }
            }
            self.ring_alarms();
            // After the answers: nobody waits for an rmdir.
            self.remove_emptied();
            if let Some(code) = self.leaving {
                return Ok(code);
            }
        }
    }

    fn happen(&mut self, token: Token) {
        match token {
            Token::Door => self.let_in(),
            Token::Client(id) => self.hear(id),
            Token::Report(key) => self.report(key),
            Token::Exit(key) => self.exited(key),
            Token::Oom(key) => self.out_of_memory(key),
            Token::ExecReport(id) => self.exec_report(id),
            Token::ExecExit(id) => self.exec_exited(id),
            Token::Pump => self.pump_says(),
            Token::PumpExit => self.pump_died(),
            Token::PauseExit => self.pause_died(),
            Token::InitExit => self.init_died(),
            Token::Status => self.read_notes(),
            Token::Firewall => self.firewall_changed(),
            Token::Restorer => self.firewall_restored(),
            Token::Services => self.services_synced(),
            Token::InletExit => self.inlet_ended(),
            Token::NamesExit(id) => self.names_ended(id),
            Token::WayOutExit => self.way_out_ended(),
            Token::WayMaker => self.way_out_made(),
        }
    }

    fn watch(&self, fd: impl AsFd, token: Token, flags: EpollFlags) -> Result<()> {
        self.epoll.add(fd, EpollEvent::new(flags, token.pack())).doing(|| "watch a descriptor".into())
    }

    /// Before a descriptor is dropped: a copy in the store would keep the watch alive.
    fn unwatch(&self, fd: impl AsFd) {
        let _ = self.epoll.delete(fd);
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn timeout(&self) -> EpollTimeout {
        let Some(first) = self.alarms.iter().map(|(at, _)| *at).min() else { return EpollTimeout::NONE };
        let wait = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }

    fn alarm(&mut self, after: Duration, alarm: Alarm) {
        self.alarms.push((Instant::now() + after, alarm));
    }

    fn cancel(&mut self, alarm: &Alarm) {
        self.alarms.retain(|(_, one)| one != alarm);
    }

    fn ring_alarms(&mut self) {
        let now = Instant::now();
        while let Some(at) = self.alarms.iter().position(|(at, _)| *at <= now) {
            let (_, alarm) = self.alarms.swap_remove(at);
            match alarm {
                Alarm::Kill(key) => self.grace_over(key),
                Alarm::Restart(name) => self.restart_now(&name),
                Alarm::OomSurvived(key) => self.oom_survived(key),
                Alarm::StatusUnknown(key) => self.status_unknown(key),
                Alarm::ExecStatusUnknown(id) => self.exec_status_unknown(id),
                Alarm::ExecLimit(id) => self.exec_limit(id),
                Alarm::Pump => self.ensure_pump(),
                Alarm::TellPump => self.tell_pump_the_rest(),
                Alarm::Drained(key) => self.drain_overdue(key),
                // The cgroups are looked at after every event.
                Alarm::Emptied => {}
                Alarm::Firewall => self.restore_firewall(),
                Alarm::Inlet => self.ensure_inlet(),
                Alarm::Services => self.sync_services(),
                Alarm::Names => self.keep_names(),
                Alarm::WayOut => self.keep_way_out(),
            }
        }
    }

    fn remove_emptied(&mut self) {
        for cgroup in std::mem::take(&mut self.emptied) {
            if cgroup.remove(Duration::ZERO).is_err() {
                // A process in its last moments; the next round tries again, `prune` finds what stays.
                self.emptied.push(cgroup);
            }
        }
        if !self.emptied.is_empty() {
            self.alarm(Duration::from_millis(20), Alarm::Emptied);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        for token in [
            Token::Door,
            Token::Client(7),
            Token::ExecExit((1 << 56) - 1),
            Token::Status,
            Token::InletExit,
            Token::NamesExit(3),
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
