//! An exec with a time limit: it and all that it started end together, when the time is over or the program itself is.
//!
//! Those that it started, sessions of their own and orphans among them, are told from the rest of the container by a cgroup
//! below the container's. Without cgroups it is by a cgroup namespace, in which all of them are born, and which nobody leaves
//! without CAP_SYS_ADMIN (cgroup_namespaces(7)).

#![forbid(unsafe_code)]

use super::execs::Exec;
use super::run::Run;
use super::{Alarm, Monitor, execs};
use crate::cgroup::{Cgroup, Tasks};
use crate::container::birth;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerName;
use crate::sys::clone::{Exit, pidfd_send_signal, processes};
use crate::sys::ns;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long those that were killed may take; whoever waits is told then.
const GONE: Duration = Duration::from_secs(10);

/// When to look again whether they are gone.
const LOOK: Duration = Duration::from_millis(1);

/// What the fd store has of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Limit {
    container: ContainerName,
    time: Duration,
    /// Since the epoch.
    until: Duration,
}

#[derive(Debug)]
pub(super) struct Limited {
    pub(super) limit: Limit,
    members: Members,
    /// It was not over in time.
    late: bool,
    /// How the program itself ended, and when that was seen.
    ended: Option<(Option<Exit>, Instant)>,
}

/// How those that it started are found.
#[derive(Debug)]
enum Members {
    Cgroup(Cgroup),
    /// None until the program is in it, at its gate.
    Namespace(Option<OwnedFd>),
}

impl Limit {
    pub(super) fn new(container: &ContainerName, time: Duration) -> Self {
        Self { container: container.clone(), time, until: now() + time }
    }

    pub(super) fn container(&self) -> &ContainerName {
        &self.container
    }

    fn doing(&self) -> String {
        format!("exec in {}", self.container)
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Limited {
    /// `namespace` is what a predecessor had of it.
    pub(super) fn new(limit: Limit, run: &Run, id: &str, namespace: Option<OwnedFd>) -> Result<Self> {
        let members = match run.cgroup.nested(&format!("_exec-{id}"))? {
            Some(cgroup) => Members::Cgroup(cgroup),
            None => Members::Namespace(namespace),
        };
        Ok(Self { late: false, limit, members, ended: None })
    }

    /// Where the program is born.
    pub(super) fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        match &self.members {
            Members::Cgroup(cgroup) => cgroup.unified_fd(),
            Members::Namespace(_) => None,
        }
    }

    /// What it joins besides the container's.
    pub(super) fn tasks(&self) -> Result<Tasks> {
        match &self.members {
            Members::Cgroup(cgroup) => cgroup.tasks(),
            Members::Namespace(_) => Ok(Tasks::nowhere()),
        }
    }

    /// `CLONE_NEW*` of the namespace by which those that it starts are found.
    pub(super) fn namespace(&self) -> i32 {
        match self.members {
            Members::Cgroup(_) => 0,
            Members::Namespace(_) => libc::CLONE_NEWCGROUP,
        }
    }

    /// Whether the program must not go on before it is looked at.
    pub(super) fn waits(&self) -> bool {
        matches!(self.members, Members::Namespace(None))
    }

    /// For the fd store.
    pub(super) fn held(&self) -> Option<BorrowedFd<'_>> {
        match &self.members {
            Members::Namespace(namespace) => namespace.as_ref().map(AsFd::as_fd),
            Members::Cgroup(_) => None,
        }
    }

    /// What whoever waits for it is told instead of an exit code.
    pub(super) fn failure(&self) -> Option<Error> {
        if !self.members.are_gone() {
            let cause = "what it started was killed, and does not end";
            return Some(Error::new(Kind::NotNow, self.limit.doing(), cause).hint(
                "a process that waits for a disk or a network file system dies when that answers, a paused one by `podrun resume`",
            ));
        }
        let cause = format!("not over within {:?}: killed, with all that it started", self.limit.time);
        self.late.then(|| Error::new(Kind::TimedOut, self.limit.doing(), cause))
    }
}

impl Members {
    fn are_gone(&self) -> bool {
        match self {
            Self::Cgroup(cgroup) => cgroup.is_empty(),
            Self::Namespace(Some(namespace)) => residents(namespace.as_fd()).next().is_none(),
            Self::Namespace(None) => true,
        }
    }

    fn kill(&self) {
        match self {
            Self::Cgroup(cgroup) => drop(cgroup.kill_all(Duration::ZERO)),
            Self::Namespace(Some(namespace)) => kill_residents(namespace.as_fd()),
            Self::Namespace(None) => {}
        }
    }
}

/// Those that live in a cgroup namespace.
fn residents(namespace: BorrowedFd<'_>) -> impl Iterator<Item = (i32, OwnedFd)> {
    processes(move |pid| ns::is_in(pid, namespace, "cgroup").unwrap_or(false))
}

/// They are stopped until no new one is found, so that none of them makes others while they are killed.
fn kill_residents(namespace: BorrowedFd<'_>) {
    const ROUNDS: usize = 16;
    let mut stopped = BTreeMap::new();
    for _ in 0..ROUNDS {
        let before = stopped.len();
        for (pid, process) in residents(namespace) {
            stopped.entry(pid).or_insert_with(|| {
                let _ = pidfd_send_signal(process.as_fd(), libc::SIGSTOP);
                process
            });
        }
        if stopped.len() == before {
            break;
        }
    }
    for process in stopped.values() {
        let _ = pidfd_send_signal(process.as_fd(), libc::SIGKILL);
    }
}

impl Monitor {
    /// The clock of an exec begins, or goes on.
    pub(super) fn time_exec(&mut self, number: u64, limited: &Limited) {
        // A clock that was set back must not give it more than it was given.
        self.alarm(limited.limit.until.saturating_sub(now()).min(limited.limit.time), Alarm::ExecLimit(number));
    }

    /// The program is in its cgroup namespace and waits at the gate: whoever is in there from now on is its own.
    pub(super) fn exec_ready(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        let Some(limited) = exec.limited.as_mut().filter(|limited| limited.waits()) else { return };
        let known = ns::of(exec.pid, "cgroup").doing(|| limited.limit.doing()).map(|namespace| {
            limited.members = Members::Namespace(Some(namespace));
        });
        let open = || exec.report.as_ref().map_or(Ok(()), |report| birth::open_gate(report.as_fd()));
        let opened = known
            .and_then(|()| execs::keep(&mut self.store, exec))
            .and_then(|()| open().doing(|| "let the program start".into()));
        if let Err(err) = opened {
            exec.give_up(err);
        }
    }

    pub(super) fn exec_limit(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        let Some(limited) = &mut exec.limited else { return };
        match limited.ended {
            Some((exit, _)) => self.exec_over(number, exit),
            None if limited.late => self.exec_does_not_end(number),
            None => {
                limited.late = true;
                limited.members.kill();
                // On its way it may not be there yet.
                let _ = pidfd_send_signal(exec.pidfd.as_fd(), libc::SIGKILL);
                self.alarm(GONE, Alarm::ExecLimit(number));
            }
        }
    }

    /// Whether the program and those that it started are gone. If not they are killed, and the same is asked soon.
    pub(super) fn is_alone(&mut self, number: u64, exit: Option<Exit>) -> bool {
        let Some(limited) = self.execs.get_mut(&number).and_then(|exec| exec.limited.as_mut()) else { return true };
        let (_, since) = *limited.ended.get_or_insert((exit, Instant::now()));
        if limited.members.are_gone() || since.elapsed() >= GONE {
            self.cancel(&Alarm::ExecLimit(number));
            return true;
        }
        limited.members.kill();
        self.alarm(LOOK, Alarm::ExecLimit(number));
        false
    }

    /// Nobody knows them any more.
    pub(super) fn let_go(&mut self, limited: Limited) {
        if let Members::Cgroup(cgroup) = limited.members {
            self.emptied.push(cgroup);
        }
    }
}

impl Exec {
    /// It will not run, or not any longer.
    pub(super) fn give_up(&mut self, err: Error) {
        self.failure.get_or_insert(err);
        let _ = pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }
}
