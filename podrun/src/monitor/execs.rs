//! Programs that were exec'd into a container: children of the monitor like the container's own.

#![forbid(unsafe_code)]

use super::socket::{Reply, unknown_end};
use super::{Alarm, Monitor, Token, key};
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
    failure: Option<Error>,
    client: Option<u64>,
    /// A terminal that came while the client was looking for us.
    master: Option<OwnedFd>,
}

/// The store's entry: with the pidfd and the report socket, at whose gate the program may still wait.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    pid: i32,
}

impl Monitor {
    pub(super) fn exec(
        &mut self,
        client: u64,
        id: String,
        name: &ContainerName,
        process: Box<Process>,
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        if self.known_exec(client, &id) {
            return Ok(());
        }
        let born = self.bear_exec(name, &process, fds)?;
        let first = self.container(name)?.run.as_ref().map_or(0, |run| run.pid);
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
            client: Some(client),
            master: None,
        };
        let doing = || "keep the exec's descriptors".to_owned();
        let body = serde_json::to_value(Kept { pid: exec.pid }).map_err(std::io::Error::from).doing(doing)?;
        let fds: Vec<BorrowedFd<'_>> = [&exec.pidfd].into_iter().chain(&exec.report).map(AsFd::as_fd).collect();
        self.store.put(&key::exec(&exec.id), &body, &fds).doing(doing)?;
        fault::point("exec.kept");
        self.watch(&exec.pidfd, Token::ExecExit(number), EpollFlags::EPOLLIN)?;
        if let Some(report) = &exec.report {
            self.watch(report, Token::ExecReport(number), EpollFlags::EPOLLIN)?;
            birth::open_gate(report.as_fd()).doing(|| "let the program start".into())?;
            fault::point("exec.opened");
        }
        self.execs.insert(number, exec);
        Ok(())
    }

    fn bear_exec(&mut self, name: &ContainerName, process: &Process, fds: Vec<OwnedFd>) -> Result<birth::Born> {
        let container = self.container(name)?;
        let doing = || format!("exec in {name}");
        let Some(run) = container.run.as_ref().filter(|run| run.exit.is_none()) else {
            return Err(Error::new(Kind::NotNow, doing(), format!("it is {}", container.record.state.word()))
                .hint("`podrun start` starts it"));
        };
        match container.record.state {
            State::Paused => {
                return Err(Error::new(Kind::NotNow, doing(), "it is paused").hint("`podrun resume` thaws it"));
            }
            State::Created => {
                return Err(
                    Error::new(Kind::NotNow, doing(), "it is created, not started").hint("`podrun start` starts it")
                );
            }
            _ => {}
        }
        let stdio: [OwnedFd; 3] = match (process.stdio, <[OwnedFd; 3]>::try_from(fds)) {
            (Stdio::Pipes, Ok(stdio)) => stdio,
            (Stdio::Terminal { .. }, _) => [self.spare()?, self.spare()?, self.spare()?],
            (Stdio::Pipes, Err(_)) => return Err(Error::new(Kind::Invalid, doing(), "three descriptors are needed")),
        };
        let tasks = run.cgroup.tasks()?;
        let cradle = Cradle {
            cgroup: run.cgroup.unified_fd(),
            tasks: &tasks,
            stdio: [stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()],
            alone: Alone { groups: self.namespaces.groups, ..Alone::default() },
        };
        birth::exec(process, run.pidfd.as_fd(), self.visit(run.pid), self.namespaces.own_pid.as_fd(), &cradle)
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
        if let Some((_, ended)) = self.unheard.remove(at) {
            self.reply(client, &Reply::Exited { ended, log: None }, &[]);
        }
        true
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
                Ok(Some(Report::Namespaces | Report::Ready)) => {}
                Ok(Some(Report::Listener(fd))) => {
                    let to = exec.process.as_deref().and_then(|process| process.listener.as_ref());
                    let whose = Whose::Execd { pid: exec.pid, first: exec.first };
                    if let Err(err) = listener::pass_on(to, whose, &fd, socket.as_fd()) {
                        exec.failure.get_or_insert(err);
                        let _ = clone::pidfd_send_signal(exec.pidfd.as_fd(), libc::SIGKILL);
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

    fn exec_over(&mut self, number: u64, exit: Option<Exit>) {
        let Some(exec) = self.execs.remove(&number) else { return };
        if let Some(report) = &exec.report {
            self.unwatch(report);
        }
        fault::point("exec.over");
        let now = Stamp::now().text();
        let ended = exit.map_or_else(|| unknown_end(now.clone()), |exit| Ended::new(exit, false, now.clone()));
        match (exec.client.filter(|client| self.clients.contains_key(client)), exec.failure) {
            (Some(client), Some(err)) => self.fail(client, err),
            (Some(client), None) => self.reply(client, &Reply::Exited { ended, log: None }, &[]),
            (None, _) => {
                self.unheard.push_back((exec.id.clone(), ended));
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
    pub(super) fn recover_exec(&mut self, id: &str, body: serde_json::Value, mut fds: Vec<OwnedFd>) {
        let (Ok(kept), false) = (serde_json::from_value::<Kept>(body), fds.is_empty()) else { return };
        let number = self.id();
        let exec = Exec {
            id: id.to_owned(),
            pid: kept.pid,
            pidfd: fds.remove(0),
            // A monitor of an older build kept none.
            report: fds.pop(),
            first: 0,
            process: None,
            failure: None,
            client: None,
            master: None,
        };
        let mut watched = self.watch(&exec.pidfd, Token::ExecExit(number), EpollFlags::EPOLLIN);
        if let Some(report) = &exec.report {
            watched = watched.and(self.watch(report, Token::ExecReport(number), EpollFlags::EPOLLIN));
            // It may still wait there. A second opening is a byte that nobody reads.
            let _ = birth::open_gate(report.as_fd());
        }
        if watched.is_ok() {
            self.execs.insert(number, exec);
        }
    }
}
