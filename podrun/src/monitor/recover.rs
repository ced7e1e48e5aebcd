//! How a monitor comes up: the first one of a pod and every successor alike, from what the fd store has.

#![forbid(unsafe_code)]

use super::keep::{Entry, Store};
use super::keepers::{Outlet, Pause, forget_the_caller};
use super::run::{Gate, Kept, Run};
use super::{Alarm, Container, Monitor, Namespaces, PodFacts, Token, key};
use crate::cgroup::Cgroup;
use crate::container::plan::{PidNamespace, Plan, Stdio};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerName;
use crate::pause;
use crate::pump::Pipes;
use crate::spec::SharePid;
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
    let Some(dir) = argv.get(1) else { return Err(fail("no pod directory was given")) };
    let _ = nix::sys::prctl::set_name(c"podrun-monitor");
    let (store, mut entries) = Store::read(a, b).doing(|| "read the fd store".into())?;
    if !argv.iter().any(|word| word == UPGRADED)
        && let Some(newer) = entries.remove(key::PROGRAM)
        && let Some(program) = newer.fds.first()
    {
        become_newer(program, dir);
    }
    fd::close_on_exec_from(3).doing(|| "mark descriptors".into())?;
    forget_the_caller();
    let mut monitor = assemble(dir, store, &mut entries, (status, status_write, program))?;
    monitor.recover(entries)?;
    Ok(monitor)
}

/// The program of an upgrade takes our place, with the same descriptors. If it cannot, the old one serves on.
pub(super) fn become_newer(program: &OwnedFd, dir: &str) {
    let words = [super::ARGV0, dir, UPGRADED].map(|word| CString::new(word).unwrap_or_default());
    let _ = cred::fexecve(program.as_fd(), &Pointers::new(words.to_vec()), &Pointers::new(Vec::new()));
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
    // pause is in the pod's namespaces, and we came from there; the monitor is the host's.
    let home = || "return to the host's namespaces".to_owned();
    ns::setns(host_net.as_fd(), libc::CLONE_NEWNET).doing(home)?;
    ns::setns(host_uts.as_fd(), libc::CLONE_NEWUTS).doing(home)?;
    ns::setns(host_ipc.as_fd(), libc::CLONE_NEWIPC).doing(home)?;
    let door = entries.remove(key::DOOR).and_then(|entry| entry.fds.into_iter().next()).ok_or_else(missing)?;
    let dir = PodDir(dir.into());
    let doing = || "set up the monitor".to_owned();
    let own_pid = ns::own("pid").doing(doing)?;
    let null = fd::open(c"/dev/null", libc::O_RDWR).doing(doing)?;
    nix::fcntl::fcntl(&door, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).doing(doing)?;
    nix::fcntl::fcntl(&status, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).doing(doing)?;
    let pause = find_pause(&dir)?;
    Ok(Monitor {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(doing)?,
        facts,
        dir,
        store,
        door,
        status,
        status_write,
        program,
        namespaces: Namespaces { net, uts, ipc, own_pid, init: None, init_died: false },
        pause,
        outlet: Outlet::default(),
        null,
        containers: BTreeMap::new(),
        execs: BTreeMap::new(),
        unheard: VecDeque::new(),
        clients: BTreeMap::new(),
        alarms: Vec::new(),
        emptied: Vec::new(),
        notes: VecDeque::new(),
        // Names of runs that a predecessor gave must not come again.
        next_id: u64::from_ne_bytes(fd::random().doing(doing)?) >> 16,
        leaving: None,
    })
}

/// Our parent, unless the record says that pause was made anew: then we were started by somebody who mended the pod.
fn find_pause(dir: &PodDir) -> Result<Pause> {
    let parent = cred::parent();
    let recorded: Option<Keepers> = store::read(&dir.keepers()).ok();
    let (record, restarts) = match recorded {
        Some(keepers) if keepers.pause.pid != parent => (keepers.pause, false),
        _ => (ProcessRecord::of(parent), true),
    };
    let pidfd = clone::pidfd_open(record.pid).doing(|| format!("open pause {}", record.pid))?;
    Ok(Pause { record, pidfd, restarts })
}

impl Monitor {
    fn recover(&mut self, mut entries: BTreeMap<String, Entry>) -> Result<()> {
        let input = EpollFlags::EPOLLIN;
        self.watch(&self.door, Token::Door, input)?;
        self.watch(&self.status, Token::Status, input)?;
        self.watch(&self.pause.pidfd, Token::PauseExit, input)?;
        self.namespaces.init_died = self.dir.lost().exists();
        match entries.remove(key::INIT) {
            Some(entry) => {
                if let Ok([pidfd, namespace]) = <[OwnedFd; 2]>::try_from(entry.fds) {
                    self.take_init(pidfd, namespace)?;
                }
            }
            None if self.facts.share_pid == SharePid::Pod => self.make_init()?,
            None => {}
        }
        let pump = entries.remove(key::PUMP);
        for record in store::containers(&self.dir) {
            let entry = entries.remove(&key::container(&record.name));
            self.recover_container(record, entry);
        }
        if let Some(entry) = pump {
            self.recover_pump(entry);
        }
        if self.containers.values().any(|container| container.run.is_some()) {
            self.ensure_pump();
        }
        for (key, entry) in entries {
            match key.split_once('/') {
                Some(("x", id)) => self.recover_exec(id, entry.body, entry.fds),
                // A birth that was never recorded: its init left at the closed gate.
                Some(("c", _)) => drop(self.store.remove(&key)),
                // The program of an upgrade, which the next monitor needs, too; and what a newer build may keep here.
                _ => {}
            }
        }
        let _ = std::fs::remove_file(self.dir.0.join("monitor.error"));
        self.save_keepers()
    }

    fn recover_pump(&mut self, entry: Entry) {
        let pid = entry.body.get("pid").and_then(serde_json::Value::as_i64).and_then(|pid| i32::try_from(pid).ok());
        if let (Some(pid), Ok([pidfd, control])) = (pid, <[OwnedFd; 2]>::try_from(entry.fds))
            && self.take_pump(pid, pidfd, control).is_ok()
        {
            // It ignores what it knows; what was being added when our predecessor died, it does not know.
            self.tell_pump_everything();
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
                if entry.is_some() {
                    let _ = self.store.remove(&key::container(&name));
                }
                self.recover_backoff(&name, &state);
            }
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
            private_pid: plan.pid == PidNamespace::Private,
            terminal: plan.process.stdio != Stdio::Pipes,
            failure: None,
            exit: None,
            drained: None,
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
