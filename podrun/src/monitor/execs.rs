//! Programs that were exec'd into a container: children of the monitor like the container's own.

#![forbid(unsafe_code)]

use super::keep::Store;
use super::limited::{Limit, Limited};
use super::run::Run;
use super::socket::{Reply, unknown_end};
use super::{Alarm, Monitor, Token, key};
use crate::cgroup::{Cgroup, Tasks};
use crate::container::birth::{self, Cradle, Report};
use crate::container::init::{Alone, Visit};
use crate::container::listener::{self, Whose};
use crate::container::plan::{Process, Stdio};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::ContainerName;
use crate::record::Stamp;
use crate::store::{Ended, State};
use crate::sys::clone::{self, Exit, Reap};
use crate::sys::ns;
use nix::sys::epoll::EpollFlags;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How many ends are kept for clients that have not come back yet.
const UNHEARD: usize = 64;

#[derive(Debug)]
pub(super) struct Exec {
    /// The client's own name for it.
    pub(super) id: String,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) report: Option<OwnedFd>,
    /// The pid of its container's own.
    first: i32,
    /// For the sentence, should it fail; gone once it runs.
    process: Option<Box<Process>>,
    pub(super) failure: Option<Error>,
    pub(super) limited: Option<Limited>,
    client: Option<u64>,
    /// A terminal that came while the client was looking for us.
    master: Option<OwnedFd>,
}

/// The store's entry: with the pidfd, the report socket, at whose gate the program may still wait, and what a time limit needs.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    pid: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<Limit>,
}

pub(super) fn keep(store: &mut Store, exec: &Exec) -> Result<()> {
    let doing = || "keep the exec's descriptors".to_owned();
    let kept = Kept { pid: exec.pid, limit: exec.limited.as_ref().map(|limited| limited.limit.clone()) };
    let body = serde_json::to_value(kept).map_err(std::io::Error::from).doing(doing)?;
    let own = [&exec.pidfd].into_iter().chain(&exec.report).map(AsFd::as_fd);
    let fds: Vec<BorrowedFd<'_>> = own.chain(exec.limited.as_ref().and_then(Limited::held)).collect();
    store.put(&key::exec(&exec.id), &body, &fds).doing(doing)
}

impl Monitor {
    pub(super) fn exec(
        &mut self,
        client: u64,
        id: String,
        name: &ContainerName,
        (process, time): (Box<Process>, Option<Duration>),
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        if self.known_exec(client, &id) {
            return Ok(());
        }
        let run = self.joinable(name)?;
        let first = run.pid;
        let limited = time.map(|time| Limited::new(Limit::new(name, time), run, &id, None)).transpose()?;
        let born = match self.bear_exec(run, &process, fds, limited.as_ref()) {
            Ok(born) => born,
            Err(err) => {
                limited.into_iter().for_each(|limited| self.let_go(limited));
                return Err(err);
            }
        };
        fault::point("exec.cloned");
        let number = self.id();
        let exec = Exec {
            id,
            pid: born.child.pid,
            pidfd: born.child.pidfd,
            report: Some(born.report),
            first,
            process: Some(process),
            failure: None,
            limited,
            client: Some(client),
            master: None,
        };
        keep(&mut self.store, &exec)?;
        fault::point("exec.kept");
        self.watch(&exec.pidfd, Token::ExecExit(number), EpollFlags::EPOLLIN)?;
        if let Some(report) = &exec.report {
            self.watch(report, Token::ExecReport(number), EpollFlags::EPOLLIN)?;
            if !exec.limited.as_ref().is_some_and(Limited::waits) {
                birth::open_gate(report.as_fd()).doing(|| "let the program start".into())?;
                fault::point("exec.opened");
            }
        }
        if let Some(limited) = &exec.limited {
            self.time_exec(number, limited);
        }
        self.execs.insert(number, exec);
        Ok(())
    }

    /// The run of a container that lives and is not frozen.
    fn joinable(&self, name: &ContainerName) -> Result<&Run> {
        let container = self.container(name)?;
        let doing = || format!("exec in {name}");
        let Some(run) = container.run.as_ref().filter(|run| run.exit.is_none()) else {
            return Err(Error::new(Kind::NotNow, doing(), format!("it is {}", container.record.state.word()))
                .hint("`podrun start` starts it"));
        };
        match container.record.state {
            State::Paused => Err(Error::new(Kind::NotNow, doing(), "it is paused").hint("`podrun resume` thaws it")),
            State::Created => {
                Err(Error::new(Kind::NotNow, doing(), "it is created, not started").hint("`podrun start` starts it"))
            }
            _ => Ok(run),
        }
    }

    fn bear_exec(
        &self,
        run: &Run,
        process: &Process,
        fds: Vec<OwnedFd>,
        limited: Option<&Limited>,
    ) -> Result<birth::Born> {
        let stdio: [OwnedFd; 3] = match (process.stdio, <[OwnedFd; 3]>::try_from(fds)) {
            (Stdio::Pipes, Ok(stdio)) => stdio,
            (Stdio::Terminal { .. }, _) => [self.spare()?, self.spare()?, self.spare()?],
            (Stdio::Pipes, Err(_)) => {
                return Err(Error::new(Kind::Invalid, "wire the program's stdio", "three descriptors are needed"));
            }
        };
        let tasks = run.cgroup.tasks()?.and(limited.map_or_else(|| Ok(Tasks::nowhere()), Limited::tasks)?);
        let visit = Visit { new: limited.map_or(0, Limited::namespace), ..self.visit(run.pid) };
        let bear = |cgroup: &Cgroup| {
            let cradle = Cradle {
                cgroup: limited.and_then(Limited::cgroup).or(cgroup.unified_fd()),
                tasks: &tasks,
                stdio: [stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()],
                alone: Alone { groups: self.namespaces.groups, ..Alone::default() },
            };
            birth::exec(process, run.pidfd.as_fd(), visit, self.namespaces.own_pid.as_fd(), &cradle)
        };
        match bear(&run.cgroup) {
            // It may hold no process any more.
            Err(err) if err.kind == Kind::NotNow && limited.is_none() => Cgroup::or_where_it_went(err, run.pid, bear),
            born => born,
        }
    }

    /// In a user namespace nobody may join what is the host's, not even where he is there already (setns(2)); so nor do we
    /// come back from a PID namespace.
    fn visit(&self, pid: i32) -> Visit {
        const OF_THE_HOST: [(&str, i32); 4] = [
            ("net", libc::CLONE_NEWNET),
            ("uts", libc::CLONE_NEWUTS),
            ("ipc", libc::CLONE_NEWIPC),
            ("cgroup", libc::CLONE_NEWCGROUP),
        ];
        let mut visit = Visit::USUAL;
        if self.facts.rootless {
            let shared = OF_THE_HOST.iter().filter(|(kind, _)| ns::is_shared_with(pid, kind).unwrap_or(false));
            shared.for_each(|(_, kind)| visit.kinds &= !kind);
            visit.between = libc::CLONE_NEWPID;
        }
        visit
    }

    fn spare(&self) -> Result<OwnedFd> {
        self.null.try_clone().doing(|| "copy a descriptor".into())
    }

    /// A client that asks again after its monitor died: the exec may live, or be over.
    fn known_exec(&mut self, client: u64, id: &str) -> bool {
        if let Some(exec) = self.execs.values_mut().find(|exec| exec.id == id) {
            exec.client = Some(client);
            if let Some(master) = exec.master.take() {
                self.reply(client, &Reply::Terminal, &[master.as_fd()]);
            }
            return true;
        }
        let Some(at) = self.unheard.iter().position(|(known, _)| known == id) else { return false };
        if let Some((_, reply)) = self.unheard.remove(at) {
            self.reply(client, &reply, &[]);
        }
        true
    }

    /// One that is over is past all signals.
    pub(super) fn signal_exec(&self, id: &str, signal: i32) {
        if let Some(exec) = self.execs.values().find(|exec| exec.id == id) {
            let _ = clone::pidfd_send_signal(exec.pidfd.as_fd(), signal);
        }
    }

    pub(super) fn wait_exec(&mut self, client: u64, id: &str) {
        if !self.known_exec(client, id) {
            let err = Error::new(Kind::NotFound, "wait for the program", "it was never started");
            self.fail(client, err.hint("its monitor died before; try again"));
        }
    }

    pub(super) fn exec_report(&mut self, number: u64) {
        loop {
            let Some(exec) = self.execs.get_mut(&number) else { return };
            let Some(socket) = &exec.report else { return };
            match birth::next_report(socket.as_fd()) {
                Ok(None) => return,
                Ok(Some(Report::Terminal(master))) => match exec.client {
                    Some(client) => self.reply(client, &Reply::Terminal, &[master.as_fd()]),
                    None => exec.master = Some(master),
                },
                Ok(Some(Report::Namespaces)) => {}
                Ok(Some(Report::Ready)) => self.exec_ready(number),
                Ok(Some(Report::Listener(fd))) => {
                    let to = exec.process.as_deref().and_then(|process| process.listener.as_ref());
                    let whose = Whose::Execd { pid: exec.pid, first: exec.first };
                    if let Err(err) = listener::pass_on(to, whose, &fd, socket.as_fd()) {
                        exec.give_up(err);
                    }
                }
                Ok(Some(Report::Failed(failure))) => {
                    exec.failure = Some(match exec.process.as_deref() {
                        Some(process) => birth::process_error(process, failure),
                        None => birth::error_without_plan(failure),
                    });
                    let Some(report) = exec.report.take() else { return };
                    return self.unwatch(&report);
                }
                Ok(Some(Report::End)) | Err(_) => {
                    fault::point("exec.became");
                    exec.process = None;
                    if let Some(report) = exec.report.take() {
                        self.unwatch(&report);
                    }
                    return;
                }
            }
        }
    }

    pub(super) fn exec_exited(&mut self, number: u64) {
        // What it reported comes first, whatever order the events have.
        self.exec_report(number);
        let Some(exec) = self.execs.get(&number) else { return };
        self.unwatch(&exec.pidfd);
        match clone::waitid(exec.pidfd.as_fd(), Reap::Leave) {
            Ok(Some(exit)) => self.exec_over(number, Some(exit)),
            Ok(None) => {}
            Err(_) => {
                let pid = exec.pid;
                match self.notes.iter().position(|(noted, _)| *noted == pid).and_then(|at| self.notes.remove(at)) {
                    Some((_, status)) => self.exec_over(number, Some(Exit::from_status(status))),
                    None => self.alarm(Duration::from_millis(500), Alarm::ExecStatusUnknown(number)),
                }
            }
        }
    }

    pub(super) fn exec_noted(&mut self, pid: i32, status: i32) -> bool {
        let Some((&number, exec)) = self.execs.iter().find(|(_, exec)| exec.pid == pid) else { return false };
        self.unwatch(&exec.pidfd);
        self.cancel(&Alarm::ExecStatusUnknown(number));
        self.exec_over(number, Some(Exit::from_status(status)));
        true
    }

    pub(super) fn exec_status_unknown(&mut self, number: u64) {
        let Some(exec) = self.execs.get(&number) else { return };
        let exit = clone::exit_by_pidfd(exec.pidfd.as_fd()).or_else(|| clone::exit_of_zombie(exec.pid));
        self.exec_over(number, exit);
    }

    /// It was killed, and nothing is heard of it.
    pub(super) fn exec_does_not_end(&mut self, number: u64) {
        if let Some(exec) = self.execs.get(&number) {
            self.unwatch(&exec.pidfd);
            self.exec_over(number, None);
        }
    }

    pub(super) fn exec_over(&mut self, number: u64, exit: Option<Exit>) {
        if !self.is_alone(number, exit) {
            return;
        }
        let Some(exec) = self.execs.remove(&number) else { return };
        if let Some(report) = &exec.report {
            self.unwatch(report);
        }
        fault::point("exec.over");
        let now = Stamp::now().text();
        let ended = exit.map_or_else(|| unknown_end(now.clone()), |exit| Ended::new(exit, false, now.clone()));
        let failure = exec.failure.or_else(|| exec.limited.as_ref().and_then(Limited::failure));
        let reply = match failure {
            Some(err) => Reply::Failed(err.into()),
            None => Reply::Exited { ended, log: None },
        };
        if let Some(limited) = exec.limited {
            // Whoever is told may look at once, and nothing is to be left.
            let _ = clone::waitid(exec.pidfd.as_fd(), Reap::Now);
            self.let_go(limited);
        }
        match exec.client.filter(|client| self.clients.contains_key(client)) {
            Some(client) => self.reply(client, &reply, &[]),
            None => {
                self.unheard.push_back((exec.id.clone(), reply));
                if self.unheard.len() > UNHEARD {
                    self.unheard.pop_front();
                }
            }
        }
        fault::point("exec.told");
        // Told, then reaped: a successor would find the zombie's status in pause's note.
        let _ = clone::waitid(exec.pidfd.as_fd(), Reap::Now);
        fault::point("exec.reaped");
        let _ = self.store.remove(&key::exec(&exec.id));
    }

    /// An exec that a predecessor made.
    pub(super) fn recover_exec(&mut self, id: &str, body: serde_json::Value, fds: Vec<OwnedFd>) {
        let Ok(kept) = serde_json::from_value::<Kept>(body) else { return };
        let number = self.id();
        let mut fds = fds.into_iter();
        let Some(pidfd) = fds.next() else { return };
        // A monitor of an older build kept none.
        let report = fds.next();
        let limited = kept.limit.and_then(|limit| {
            let run = self.containers.get(limit.container())?.run.as_ref()?;
            Limited::new(limit, run, id, fds.next()).ok()
        });
        let mut exec = Exec {
            id: id.to_owned(),
            pid: kept.pid,
            pidfd,
            report,
            limited,
            first: 0,
            process: None,
            failure: None,
            client: None,
            master: None,
        };
        let mut watched = self.watch(&exec.pidfd, Token::ExecExit(number), EpollFlags::EPOLLIN);
        if let Some(report) = &exec.report {
            watched = watched.and(self.watch(report, Token::ExecReport(number), EpollFlags::EPOLLIN));
            match exec.limited.as_ref().is_some_and(Limited::waits) {
                // It may still wait there. A second opening is a byte that nobody reads.
                false => drop(birth::open_gate(report.as_fd())),
                true => exec.give_up(
                    Error::new(Kind::NotNow, "start the program", "its monitor died meanwhile").hint("try again"),
                ),
            }
        }
        if let Some(limited) = &exec.limited {
            self.time_exec(number, limited);
        }
        if watched.is_ok() {
            self.execs.insert(number, exec);
        }
    }
}
