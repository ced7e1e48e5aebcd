//! How a monitor comes up: the first one of a pod and every successor alike, from what the fd store has.

#![forbid(unsafe_code)]

use super::firewall::Firewall;
use super::keep::{Entry, Store};
use super::keepers::{Outlet, Pause, forget_the_caller};
use super::run::{Gate, Kept, Run};
use super::services::Serving;
use super::way_out::WayOut;
use super::{Alarm, Container, Monitor, Namespaces, PodFacts, Token, key};
use crate::cgroup::{self, Cgroup, Programs};
use crate::container::init::Groups;
use crate::container::plan::{PidNamespace, Plan, Stdio};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::ContainerName;
use crate::pause;
use crate::pump::{Command, Pipes};
use crate::sandbox::SharedMemory;
use crate::spec::SharePid;
use crate::store::format::understands;
use crate::store::{self, ContainerRecord, Keepers, PodDir, ProcessRecord, Reason, State};
use crate::sys::cred::{self, Pointers};
use crate::sys::{clone, fd, ns};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollFlags};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Said to the program of an upgrade, so that it does not look for itself in the store again.
const UPGRADED: &str = "--upgraded";

pub(super) fn come_up(argv: &[String]) -> Result<Monitor> {
    let fail = |cause: &str| Error::new(Kind::Usage, "start a monitor", cause);
    let Some([a, b, status, status_write, program]) = fd::inherited::<5>(pause::STORE_A) else {
        return Err(fail("only pause starts one").hint("`podrun create pod` makes a pod, with its monitor"));
    };
    // What whoever started us had open besides is not for us, nor for any container.
    fd::close_from(pause::MONITOR_PROGRAM + 1).doing(|| "close descriptors".into())?;
    let Some(dir) = argv.get(1) else { return Err(fail("no pod directory was given")) };
    fault::listen(std::path::Path::new(dir));
    let _ = nix::sys::prctl::set_name(c"podrun-monitor");
    let (mut store, mut entries) = Store::read(a, b).doing(|| "read the fd store".into())?;
    fault::point("recover.read");
    if !argv.iter().any(|word| word == UPGRADED)
        && let Some(newer) = entries.remove(key::PROGRAM)
        && let Some(program) = newer.fds.first()
    {
        become_newer(program, dir);
    }
    let dir_of_pod = PodDir(dir.into());
    if let Err(err) = entries.values().try_for_each(Entry::understood).and_then(|()| understands(&dir_of_pod)) {
        return Err(give_way(argv, &mut store, &program, err));
    }
    for held in store.ends().into_iter().chain([&status, &status_write, &program].map(AsFd::as_fd)) {
        fd::close_on_exec(held).doing(|| "mark descriptors".into())?;
    }
    forget_the_caller();
    let mut monitor = assemble(dir, store, &mut entries, (status, status_write, program))?;
    monitor.recover(entries)?;
    Ok(monitor)
}

/// Whoever takes the place of a build that knew more gives it back, before it has touched anything: to the program that
/// pause has, which made the pod.
fn give_way(argv: &[String], store: &mut Store, program: &OwnedFd, err: Error) -> Error {
    if argv.iter().any(|word| word == UPGRADED) {
        let _ = store.remove(key::PROGRAM);
        become_program(program, &argv[1], &[]);
    }
    err
}

/// The program of an upgrade takes our place, with the same descriptors. If it cannot, the old one serves on.
pub(super) fn become_newer(program: &OwnedFd, dir: &str) {
    become_program(program, dir, &[UPGRADED]);
}

fn become_program(program: &OwnedFd, dir: &str, more: &[&str]) {
    let words = [&[super::ARGV0, dir], more].concat();
    let words = words.into_iter().map(|word| CString::new(word).unwrap_or_default()).collect();
    let _ = cred::fexecve(program.as_fd(), &Pointers::new(words), &Pointers::new(Vec::new()));
}

fn assemble(
    dir: &str,
    store: Store,
    entries: &mut BTreeMap<String, Entry>,
    (status, status_write, program): (OwnedFd, OwnedFd, OwnedFd),
) -> Result<Monitor> {
    let missing = || Error::new(Kind::Invalid, "read the fd store", "it holds no pod");
    let pod = entries.remove(key::POD).ok_or_else(missing)?;
    let facts: PodFacts =
        serde_json::from_value(pod.body).map_err(std::io::Error::from).doing(|| "read the pod's facts".into())?;
    let [host_net, host_uts, host_ipc, net, uts, ipc] = <[OwnedFd; 6]>::try_from(pod.fds).map_err(|_| missing())?;
    // pause is in the pod's namespaces, and we came from there; the monitor is the host's. A user's pause is the host's, too.
    let mut not_ours = libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    let pairs = [
        (&host_net, &net, libc::CLONE_NEWNET),
        (&host_uts, &uts, libc::CLONE_NEWUTS),
        (&host_ipc, &ipc, libc::CLONE_NEWIPC),
    ];
    for (host, pods, kind) in pairs {
        match facts.rootless {
            false => ns::setns(host.as_fd(), kind).doing(|| "return to the host's namespaces".to_owned())?,
            true if fd::is_same(host.as_fd(), pods.as_fd()) => not_ours &= !kind,
            true => {}
        }
    }
    fault::point("recover.home");
    let door = entries.remove(key::DOOR).and_then(|entry| entry.fds.into_iter().next()).ok_or_else(missing)?;
    let dir = PodDir(dir.into());
    let doing = || "set up the monitor".to_owned();
    let groups = if facts.rootless { Groups::of("self").unwrap_or_default() } else { Groups::Set };
    let own_pid = ns::own("pid").doing(doing)?;
    let null = fd::open(c"/dev/null", libc::O_RDWR).doing(doing)?;
    nix::fcntl::fcntl(&door, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).doing(doing)?;
    nix::fcntl::fcntl(&status, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).doing(doing)?;
    let pause = find_pause(&dir)?;
    let memory = entries.remove(key::MEMORY).and_then(recover_memory);
    Ok(Monitor {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(doing)?,
        facts,
        dir,
        store,
        door,
        status,
        status_write,
        program,
        namespaces: Namespaces {
            net,
            uts,
            ipc,
            own_pid,
            not_ours,
            memory,
            init: None,
            init_record: None,
            init_died: false,
            groups,
        },
        pause,
        outlet: Outlet::default(),
        null,
        containers: BTreeMap::new(),
        programs: Programs::default(),
        execs: BTreeMap::new(),
        unheard: VecDeque::new(),
        clients: BTreeMap::new(),
        firewall: Firewall::default(),
        serving: Serving::default(),
        inlet: None,
        names: Vec::new(),
        way_out: WayOut::default(),
        alarms: Vec::new(),
        emptied: Vec::new(),
        notes: VecDeque::new(),
        // Names of runs that a predecessor gave must not come again.
        next_id: u64::from_ne_bytes(fd::random().doing(doing)?) >> 16,
        leaving: None,
    })
}

fn pid_of(body: &serde_json::Value) -> Option<i32> {
    body.get("pid").and_then(serde_json::Value::as_i64).and_then(|pid| i32::try_from(pid).ok())
}

fn recover_memory(entry: Entry) -> Option<SharedMemory> {
    Some(SharedMemory { holder: serde_json::from_value(entry.body).ok()?, fd: entry.fds.into_iter().next()? })
}

/// Our parent, unless the record says that pause was made anew: then we were started by somebody who mended the pod.
fn find_pause(dir: &PodDir) -> Result<Pause> {
    let parent = cred::parent();
    let recorded: Option<Keepers> = store::read(&dir.keepers()).ok();
    let (record, restarts) = match recorded {
        Some(keepers) if keepers.pause.pid != parent => (keepers.pause, false),
        // Whose parent dies gets the host's first process for one, which is no pause.
        None if parent <= 1 => (ProcessRecord { pid: parent, start_time: u64::MAX }, false),
        _ => (ProcessRecord::of(parent), true),
    };
    // Dead while we were on our way up? `recover` makes another; until then we stand for it.
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let pidfd = record.open().map_or_else(|| clone::pidfd_open(own), Ok).doing(|| "open pause".into())?;
    Ok(Pause { record, pidfd, restarts })
}

impl Monitor {
    fn recover(&mut self, mut entries: BTreeMap<String, Entry>) -> Result<()> {
        let input = EpollFlags::EPOLLIN;
        self.watch(&self.door, Token::Door, input)?;
        self.watch(&self.status, Token::Status, input)?;
        match self.pause.record.open() {
            Some(_) => self.watch(&self.pause.pidfd, Token::PauseExit, input)?,
            None => self.pause_died(),
        }
        self.namespaces.init_died = self.dir.lost().exists();
        match entries.remove(key::INIT) {
            // Our predecessor died before it let it go: whether it runs nobody knows, and nobody is in its namespace.
            Some(entry) if entry.body.get("waits").is_some() => {
                let _ = entry.fds.first().map(|pidfd| clone::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL));
                self.make_init()?;
            }
            Some(entry) => {
                let pid = pid_of(&entry.body).unwrap_or(0);
                if let Ok([pidfd, namespace]) = <[OwnedFd; 2]>::try_from(entry.fds) {
                    self.take_init(pid, pidfd, namespace)?;
                }
            }
            None if self.facts.share_pid == SharePid::Pod => self.make_init()?,
            None => {}
        }
        if let Some(entry) = entries.remove(key::PUMP) {
            self.recover_pump(entry);
        }
        for record in store::containers(&self.dir) {
            let entry = entries.remove(&key::container(&record.name));
            self.recover_container(record, entry);
            fault::point("recover.container");
        }
        // It ignores what it knows; what was being added when our predecessor died, it does not know.
        if self.outlet.process.is_some() {
            self.tell_pump_everything();
        }
        fault::point("recover.pump");
        if self.containers.values().any(|container| container.run.is_some()) {
            self.ensure_pump();
        }
        for (key, entry) in entries {
            match key.split_once('/') {
                Some(("x", id)) => self.recover_exec(id, entry.body, entry.fds),
                // A birth that was never recorded: its init left at the closed gate.
                Some(("c", _)) => self.abandon(&key, &entry),
                // The program of an upgrade, which the next monitor needs, too; and what a newer build may keep here.
                _ => {}
            }
        }
        // What was dropped goes now and not in its time: an init that waits at the gate would, while the store has its socket.
        self.store.forget_old().doing(|| "tidy the fd store".into())?;
        fault::point("recover.execs");
        // A pod whose rules nobody watches is a pod all the same.
        match self.facts.rootless {
            false => drop(self.listen_to_firewall()),
            true => self.keep_way_out(),
        }
        self.ensure_inlet();
        self.keep_names();
        let _ = std::fs::remove_file(self.dir.0.join("monitor.error"));
        self.save_keepers()?;
        fault::point("recover.recorded");
        Ok(())
    }

    fn recover_pump(&mut self, entry: Entry) {
        let pid = pid_of(&entry.body);
        if let (Some(pid), Ok([pidfd, control])) = (pid, <[OwnedFd; 2]>::try_from(entry.fds)) {
            // If it cannot be watched there is none, and the next one takes its place.
            let _ = self.take_pump(pid, pidfd, control);
        }
    }

    fn recover_container(&mut self, record: ContainerRecord, entry: Option<Entry>) {
        let name = record.name.clone();
        let lives = record.state.lives();
        let state = record.state.clone();
        let container =
            Container { record, run: None, waiters: Vec::new(), restart_after_stop: false, delete_after_stop: false };
        self.containers.insert(name.clone(), container);
        match (lives, entry) {
            (true, Some(entry)) => {
                if let Err(err) = self.recover_run(&name, entry) {
                    self.lost(&name, &err.to_string());
                }
            }
            // Its init waited at a gate that nobody opened, or was gone already.
            (true, None) => self.lost(&name, "its monitor died while it was being started"),
            (false, entry) => {
                if let Some(entry) = entry {
                    self.abandon(&key::container(&name), &entry);
                }
                match state {
                    State::Restarting { .. } => self.recover_backoff(&name, &state),
                    _ => self.recover_end(&name),
                }
            }
        }
    }

    /// A run that the records do not have, or not any more: born, and we died before it was recorded, or over, and we died
    /// before it was tidied away.
    fn abandon(&mut self, key: &str, entry: &Entry) {
        if let Some(pidfd) = entry.fds.first() {
            let _ = clone::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            // It sleeps at its gate, or is dead: this takes no time, and its cgroup is free for the next of its name.
            let _ = clone::poll_one(pidfd.as_fd(), libc::POLLIN, 500);
        }
        let _ = self.store.remove(key);
        if let Ok(kept) = serde_json::from_value::<Kept>(entry.body.clone()) {
            self.tell_pump(Command::Forget { key: kept.key }, &[]);
        }
        let name = key.split_once('/').and_then(|(_, name)| ContainerName::parse(name).ok());
        let place = cgroup::Place::pod(&self.facts.roots().cgroup(), &self.facts.id);
        if let Some(name) = name
            && let Ok(cgroup) = Cgroup::find(&self.facts.cgroups, &place.container(&name))
        {
            self.emptied.push(cgroup);
        }
    }

    /// An end that was recorded, and our predecessor died before it drew the conclusions: another run, or the removal.
    fn recover_end(&mut self, name: &ContainerName) {
        let Some(container) = self.containers.get(name) else { return };
        if let (State::Exited, Some(ended)) = (&container.record.state, container.record.ended.clone()) {
            self.after_end(name, &ended, false);
        }
    }

    fn recover_backoff(&mut self, name: &ContainerName, state: &State) {
        if let State::Restarting { at } = state {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // A clock that was set back must not keep it waiting for ever.
            let wait = at.saturating_sub(now).min(Duration::from_secs(300));
            self.alarm(wait, Alarm::Restart(name.clone()));
        }
    }

    fn recover_run(&mut self, name: &ContainerName, entry: Entry) -> Result<()> {
        let doing = || format!("take over {name}");
        let kept: Kept = serde_json::from_value(entry.body).map_err(std::io::Error::from).doing(doing)?;
        let plan: Plan = store::read(&self.dir.plan(name))?;
        let short = || Error::new(Kind::Invalid, doing(), "descriptors are missing in the store");
        let mut fds = entry.fds.into_iter();
        let pidfd = fds.next().ok_or_else(short)?;
        let report = if kept.has_report { Some(fds.next().ok_or_else(short)?) } else { None };
        let stdin = if kept.has_stdin { Some(fds.next().ok_or_else(short)?) } else { None };
        let rest: Vec<OwnedFd> = fds.collect();
        let pipes = if rest.is_empty() { None } else { Some(Pipes::from_fds(rest).doing(doing)?) };
        let cgroup = Cgroup::open(&plan.cgroup)?;
        let run = Run {
            key: kept.key,
            pid: kept.pid,
            pidfd,
            report,
            stdin,
            pipes,
            oom: cgroup.oom_notifier().unwrap_or(None),
            cgroup,
            oom_baseline: kept.oom_baseline,
            // A gate that stood open is told as such by the record, written after the entry.
            gate: kept.gate,
            inherited: true,
            private_pid: plan.pid == PidNamespace::Private,
            terminal: plan.process.stdio != Stdio::Pipes,
            failure: None,
            exit: None,
            drained: None,
            reopening: Vec::new(),
        };
        self.take_over(name, run)
    }

    fn take_over(&mut self, name: &ContainerName, run: Run) -> Result<()> {
        let (key, opens, terminal) = (run.key, run.gate == Gate::OpensSoon, run.terminal && run.pipes.is_none());
        self.watch(&run.pidfd, Token::Exit(key), EpollFlags::EPOLLIN)?;
        if let Some(report) = &run.report {
            self.watch(report, Token::Report(key), EpollFlags::EPOLLIN)?;
        }
        if let Some(oom) = &run.oom {
            self.watch(oom, Token::Oom(key), oom.interest())?;
        }
        self.container_mut(name)?.run = Some(run);
        // A second opening is a byte that nobody reads.
        if opens && !terminal {
            let _ = self.open_gate(name, key);
        }
        Ok(())
    }

    /// A container whose process cannot be found again.
    fn lost(&mut self, name: &ContainerName, why: &str) {
        let Ok(plan) = store::read::<Plan>(&self.dir.plan(name)) else { return };
        if let Ok(cgroup) = Cgroup::open(&plan.cgroup) {
            let _ = cgroup.kill_all(Duration::from_millis(500));
            self.emptied.push(cgroup);
        }
        if let Some(container) = self.containers.get_mut(name) {
            let mut ended = super::socket::unknown_end(crate::record::Stamp::now().text());
            ended.reason = Reason::ContainerStatusUnknown;
            ended.message = Some(why.to_owned());
            container.record.state = State::Exited;
            container.record.process = None;
            container.record.ended = Some(ended);
        }
        let _ = self.save(name);
    }
}
