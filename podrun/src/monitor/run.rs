//! A run of a container: from its birth to its program. How it ends is in `ending`.

#![forbid(unsafe_code)]

use super::socket::{Reply, Until};
use super::{Alarm, Container, Count, Monitor, Token, Waiter, key};
use crate::cgroup::{Cgroup, CgroupPlan, OomNotifier};
use crate::container::birth::{self, Cradle, Numbering, Report};
use crate::container::init::{Alone, World};
use crate::container::listener::{self, Whose};
use crate::container::plan::{PidNamespace, Plan, Stdio};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::ContainerName;
use crate::pump::{Add, Command, Pipes};
use crate::record::Stamp;
use crate::rootfs::Source;
use crate::sandbox::SharedMemory;
use crate::spec::Stdin;
use crate::store::{self, ProcessRecord, State, Wanted};
use crate::sys::clone::{self, Exit, pidfd_send_signal};
use crate::sys::fd;
use nix::sys::epoll::EpollFlags;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long after the kernel's notice it is clear whom it killed.
const OOM_SETTLES: Duration = Duration::from_millis(30);

/// A container that has a process, or whose process has just ended.
#[derive(Debug)]
pub(super) struct Run {
    /// The monitor's and the pump's name for this run.
    pub(super) key: u64,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    /// Until execve.
    pub(super) report: Option<OwnedFd>,
    /// A pipe's write end or the pty's master.
    pub(super) stdin: Option<OwnedFd>,
    /// For a pump that has to be started anew. With a terminal they come with its report.
    pub(super) pipes: Option<Pipes>,
    pub(super) cgroup: Cgroup,
    pub(super) oom: Option<OomNotifier>,
    /// OOM kills that init has survived.
    pub(super) oom_baseline: u64,
    pub(super) gate: Gate,
    /// A predecessor of ours began it.
    pub(super) inherited: bool,
    pub(super) private_pid: bool,
    pub(super) terminal: bool,
    /// Why it never became its program.
    pub(super) failure: Option<Error>,
    pub(super) exit: Option<Exit>,
    /// Log bytes lost, once the pump has written all.
    pub(super) drained: Option<u64>,
    /// Clients that asked for the log to be opened anew.
    pub(super) reopening: Vec<u64>,
}

/// Whether init may go on to execve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Gate {
    /// `create`: it waits for `start`.
    Closed,
    /// `run`: it opens as soon as the store has what a successor needs.
    OpensSoon,
    Open,
}

/// What the store's entry of a run says; its descriptors are pidfd, report, stdin if any, then the pipes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept {
    pub(super) key: u64,
    pub(super) pid: i32,
    pub(super) has_report: bool,
    pub(super) has_stdin: bool,
    pub(super) gate: Gate,
    pub(super) oom_baseline: u64,
    #[cfg(feature = "later-format")]
    #[serde(default)]
    pub(super) of_a_later_build: u32,
}

impl Monitor {
    /// The birth of a container, as its plan says. What fails before the clone leaves nothing.
    pub(super) fn bear(&mut self, name: &ContainerName, plan: Plan, gate: Gate) -> Result<()> {
        if self.namespaces.init_died {
            return Err(Error::new(Kind::NotNow, "start the container", "the PID 1 of the pod has ended")
                .hint("delete the pod and create it again"));
        }
        if plan.mounts.iter().any(|mount| mount.source == Source::PodMemory) {
            self.ensure_memory()?;
        }
        // The directories of the run before may still wait to be removed; now they are this one's.
        self.emptied.retain(|cgroup| *cgroup.place() != plan.cgroup.place);
        let cgroup = Cgroup::create(&plan.cgroup)?;
        fault::point("birth.cgroup");
        let (born, stdin, pipes, oom) = match self.try_clone(name, &plan, &cgroup) {
            Ok(parts) => parts,
            Err(err) => {
                self.emptied.push(cgroup);
                return Err(err);
            }
        };
        let run = Run {
            key: self.id(),
            pid: born.child.pid,
            pidfd: born.child.pidfd,
            report: Some(born.report),
            stdin,
            pipes,
            // What earlier runs in a kept directory have counted is not this one's.
            oom_baseline: cgroup.oom_kills().ok().flatten().unwrap_or(0),
            cgroup,
            oom,
            gate,
            inherited: false,
            private_pid: plan.pid == PidNamespace::Private,
            terminal: plan.process.stdio != Stdio::Pipes,
            failure: None,
            exit: None,
            drained: None,
            reopening: Vec::new(),
        };
        self.adopt(name, run, &plan.cgroup)
    }

    /// The pod's /dev/shm, made for the first container that has it; in the store before anybody can write to it.
    fn ensure_memory(&mut self) -> Result<()> {
        if self.namespaces.memory.is_some() {
            return Ok(());
        }
        let made = SharedMemory::new()?;
        let doing = || "keep the pod's /dev/shm".to_owned();
        let body = serde_json::to_value(made.holder).map_err(std::io::Error::from).doing(doing)?;
        self.store.put(key::MEMORY, &body, &[made.fd.as_fd()]).doing(doing)?;
        fault::point("birth.memory-kept");
        self.namespaces.memory = Some(made);
        Ok(())
    }

    fn try_clone(&self, name: &ContainerName, plan: &Plan, cgroup: &Cgroup) -> Result<Parts> {
        let doing = || "make the container's pipes".to_owned();
        let policy = self.container(name)?.record.policy.clone();
        let terminal = plan.process.stdio != Stdio::Pipes;
        let (input, stdin) = match policy.stdin {
            Stdin::Open if !terminal => {
                let (reader, writer) = std::io::pipe().doing(doing)?;
                (OwnedFd::from(reader), Some(OwnedFd::from(writer)))
            }
            _ => (self.null.try_clone().doing(doing)?, None),
        };
        let (pipes, output, errors) = if terminal {
            (None, self.null.try_clone().doing(doing)?, self.null.try_clone().doing(doing)?)
        } else {
            let (pipes, ends) = Pipes::new().doing(doing)?;
            (Some(pipes), ends.stdout, ends.stderr)
        };
        if !terminal && plan.process.uid != 0 {
            // So that /dev/stdout can be opened by the container's user, as nginx does.
            for pipe in [&output, &errors] {
                fd::fchown(pipe.as_fd(), plan.process.uid, plan.process.gid).doing(doing)?;
            }
        }
        let oom = cgroup.oom_notifier().unwrap_or(None);
        let tasks = cgroup.tasks()?;
        let cradle = Cradle {
            cgroup: cgroup.unified_fd(),
            tasks: &tasks,
            stdio: [input.as_fd(), output.as_fd(), errors.as_fd()],
            alone: Alone { groups: self.namespaces.groups, ..Alone::default() },
        };
        let numbering = self
            .namespaces
            .init
            .as_ref()
            .map(|(_, namespace)| Numbering { target: namespace.as_fd(), own: self.namespaces.own_pid.as_fd() });
        let of = &self.namespaces;
        let joined = of.of_the_pod();
        // A user's monitor does not come back from a PID namespace: there somebody goes in between.
        let shared = numbering.filter(|_| plan.pid == PidNamespace::Pod);
        let [between, numbering] = if self.facts.rootless { [shared, None] } else { [None, shared] };
        let within: Vec<_> = between.iter().map(|one| (one.target, libc::CLONE_NEWPID)).collect();
        let world = World { within: &within, joined: &joined, memory: of.memory.as_ref(), own: None };
        let born = birth::container(plan, 0, &world, numbering.as_ref(), &cradle)?;
        Ok((born, stdin, pipes, oom))
    }

    /// Takes a newborn into record, store, pump and loop, in the order in which a death of ours does the least harm, and
    /// only then opens the gate.
    fn adopt(&mut self, name: &ContainerName, run: Run, limits: &CgroupPlan) -> Result<()> {
        fault::point("birth.cloned");
        let key = run.key;
        let container = self.container_mut(name)?;
        let record = &mut container.record;
        record.process = Some(ProcessRecord::of(run.pid));
        record.started_at = Some(Stamp::now().text());
        record.lost_log_bytes = 0;
        record.wanted = Wanted::Running;
        record.state = if run.gate == Gate::Closed { State::Created } else { State::Running };
        container.run = Some(run);
        let taken = self.take_in(name, key, limits);
        if taken.is_err() {
            // Nobody but us knows of it: it goes as it came.
            if let Ok(container) = self.container_mut(name)
                && let Some(run) = container.run.take()
            {
                let _ = pidfd_send_signal(run.pidfd.as_fd(), libc::SIGKILL);
                let _ = clone::wait(run.pidfd.as_fd());
                self.discard(name, run);
            }
        }
        taken
    }

    fn take_in(&mut self, name: &ContainerName, key: u64, limits: &CgroupPlan) -> Result<()> {
        // Before it is kept, since a successor opens the gate of whatever is in the store.
        let mut programs = std::mem::take(&mut self.programs);
        let guarded = self.run(key)?.cgroup.guard(limits, &mut programs);
        self.programs = programs;
        guarded?;
        fault::point("birth.guarded");
        self.keep_run(name)?;
        fault::point("birth.kept");
        self.save(name)?;
        fault::point("birth.recorded");
        self.pump_add(name)?;
        fault::point("birth.piped");
        let run = self.run(key)?;
        let (pidfd, report) = (run.pidfd.as_fd(), run.report.as_ref());
        self.watch(pidfd, Token::Exit(key), EpollFlags::EPOLLIN)?;
        if let Some(report) = report {
            self.watch(report, Token::Report(key), EpollFlags::EPOLLIN)?;
        }
        if let Some(oom) = &run.oom {
            self.watch(oom, Token::Oom(key), oom.interest())?;
        }
        // With a terminal the gate waits for the master, which the store must have first.
        if run.gate == Gate::OpensSoon && !run.terminal {
            self.open_gate(name, key)?;
            fault::point("birth.opened");
        }
        Ok(())
    }

    pub(super) fn open_gate(&mut self, name: &ContainerName, key: u64) -> Result<()> {
        let run = self.run_mut(key)?;
        run.gate = Gate::Open;
        if let Some(report) = &run.report {
            birth::open_gate(report.as_fd()).doing(|| format!("start {name}"))?;
        }
        Ok(())
    }

    /// Writes a run into the fd store, in place of what was there of this container.
    pub(super) fn keep_run(&mut self, name: &ContainerName) -> Result<()> {
        let Some(run) = self.containers.get(name).and_then(|container| container.run.as_ref()) else { return Ok(()) };
        let kept = Kept {
            key: run.key,
            pid: run.pid,
            has_report: run.report.is_some(),
            has_stdin: run.stdin.is_some(),
            gate: run.gate,
            oom_baseline: run.oom_baseline,
            #[cfg(feature = "later-format")]
            of_a_later_build: 1,
        };
        let mut fds: Vec<BorrowedFd<'_>> = vec![run.pidfd.as_fd()];
        fds.extend(run.report.as_ref().map(AsFd::as_fd));
        fds.extend(run.stdin.as_ref().map(AsFd::as_fd));
        fds.extend(run.pipes.iter().flat_map(Pipes::fds));
        let doing = || "keep the container's descriptors".to_owned();
        let body = serde_json::to_value(&kept).map_err(std::io::Error::from).doing(doing)?;
        self.store.put(&key::container(name), &body, &fds).doing(doing)
    }

    pub(super) fn pump_add(&mut self, name: &ContainerName) -> Result<()> {
        self.ensure_pump();
        let container = self.container(name)?;
        let Some(run) = &container.run else { return Ok(()) };
        let Some(pipes) = &run.pipes else { return Ok(()) };
        let record = &container.record;
        let add = Add {
            key: run.key,
            log: record.log_path.clone(),
            max_size: record.policy.log_max_size,
            max_files: record.policy.log_max_files,
            tty: run.terminal,
        };
        let copies: Vec<OwnedFd> = pipes.fds().iter().filter_map(|fd| fd.try_clone_to_owned().ok()).collect();
        let fds: Vec<BorrowedFd<'_>> = copies.iter().map(AsFd::as_fd).collect();
        self.tell_pump(Command::Add(add), &fds);
        Ok(())
    }

    /// init has something to say, or has become its program.
    pub(super) fn report(&mut self, key: u64) {
        loop {
            let Ok(run) = self.run(key) else { return };
            let Some(socket) = &run.report else { return };
            match birth::next_report(socket.as_fd()) {
                Ok(None) => return,
                Ok(Some(Report::Terminal(master))) => self.terminal_opened(key, master),
                Ok(Some(Report::Namespaces)) => {}
                Ok(Some(Report::Ready)) => self.tell(key, Until::Created),
                Ok(Some(Report::Listener(listener))) => {
                    if let Err(err) = self.pass_on(key, &listener) {
                        return self.give_up(key, err);
                    }
                }
                Ok(Some(Report::Failed(failure))) => {
                    // It stays in the socket, for a successor; we have seen it.
                    self.unwatch(socket);
                    return self.birth_failed(key, failure);
                }
                Ok(Some(Report::End)) | Err(_) => return self.became_program(key),
            }
        }
    }

    fn terminal_opened(&mut self, key: u64, master: OwnedFd) {
        let taken = (|| {
            let doing = || "take the terminal".to_owned();
            let run = self.run_mut(key)?;
            run.stdin = Some(master.try_clone().doing(doing)?);
            run.pipes = Some(Pipes::terminal(master).doing(doing)?);
            let (opens, name) = (run.gate == Gate::OpensSoon, self.name_of(key)?);
            self.keep_run(&name)?;
            fault::point("birth.terminal");
            self.pump_add(&name)?;
            if opens { self.open_gate(&name, key) } else { Ok(()) }
        })();
        if let Err(err) = taken {
            self.give_up(key, err);
        }
    }

    /// The listener of a container's filter, to where its document says.
    fn pass_on(&mut self, key: u64, fd: &OwnedFd) -> Result<()> {
        let plan = store::read::<Plan>(&self.dir.plan(&self.name_of(key)?))?;
        let run = self.run(key)?;
        let Some(report) = &run.report else { return Ok(()) };
        listener::pass_on(plan.process.listener.as_ref(), Whose::First(run.pid), fd, report.as_fd())
    }

    fn birth_failed(&mut self, key: u64, failure: crate::container::init::Failure) {
        let Ok(name) = self.name_of(key) else { return };
        fault::point("birth.failed");
        let err = match store::read::<Plan>(&self.dir.plan(&name)) {
            Ok(plan) => birth::container_error(&plan, failure),
            Err(err) => err,
        };
        self.give_up(key, err);
    }

    /// The run will not become its program; its end is dealt with when the process has ended.
    fn give_up(&mut self, key: u64, err: Error) {
        if let Ok(run) = self.run_mut(key) {
            run.failure.get_or_insert(err);
            let _ = pidfd_send_signal(run.pidfd.as_fd(), libc::SIGKILL);
        }
    }

    /// The report socket is closed: by execve, or with the process, which its pidfd will tell.
    fn became_program(&mut self, key: u64) {
        let Ok(run) = self.run_mut(key) else { return };
        let report = run.report.take();
        let started = run.failure.is_none() && run.gate == Gate::Open;
        if let Some(report) = report {
            self.unwatch(&report);
        }
        fault::point("birth.became");
        if started {
            self.tell(key, Until::Started);
            fault::point("birth.told");
        }
    }

    /// Tells those who wait for this much.
    fn tell(&mut self, key: u64, reached: Until) {
        let (Ok(name), Ok(run)) = (self.name_of(key), self.run(key)) else { return };
        let pid = run.pid;
        let reply = match reached {
            Until::Created => Reply::Created { pid },
            _ => Reply::Started { pid },
        };
        // Whoever waits for the end wants to know that it has begun, too.
        if reached == Until::Started {
            let rest: Vec<u64> = self.containers.get(&name).map_or(Vec::new(), |container| {
                let for_the_end = |waiter: &&Waiter| waiter.until == Until::Exited && waiter.count == Count::One;
                container.waiters.iter().filter(for_the_end).map(|waiter| waiter.client).collect()
            });
            for client in rest {
                self.reply(client, &reply, &[]);
            }
        }
        self.tell_waiters(&name, |until| until == reached, &reply);
    }

    /// The kernel killed something in this cgroup for memory. If init lives on, that kill is not its end.
    pub(super) fn out_of_memory(&mut self, key: u64) {
        let Ok(run) = self.run(key) else { return };
        if let Some(oom) = &run.oom {
            let _ = oom.acknowledge();
        }
        self.cancel(&Alarm::OomSurvived(key));
        self.alarm(OOM_SETTLES, Alarm::OomSurvived(key));
    }

    pub(super) fn oom_survived(&mut self, key: u64) {
        let Ok(run) = self.run_mut(key) else { return };
        if run.exit.is_none()
            && !clone::is_dying(run.pid)
            && let Ok(Some(kills)) = run.cgroup.oom_kills()
            && kills != run.oom_baseline
        {
            run.oom_baseline = kills;
            if let Ok(name) = self.name_of(key) {
                let _ = self.keep_run(&name);
            }
        }
    }

    pub(super) fn container(&self, name: &ContainerName) -> Result<&Container> {
        self.containers.get(name).ok_or_else(|| self.no_such(name))
    }

    pub(super) fn container_mut(&mut self, name: &ContainerName) -> Result<&mut Container> {
        let missing = self.no_such(name);
        self.containers.get_mut(name).ok_or(missing)
    }

    fn no_such(&self, name: &ContainerName) -> Error {
        let doing = format!("find the container {name}");
        let err = Error::new(Kind::NotFound, doing, format!("the pod {} has none of this name", self.facts.name));
        match self.containers.keys().map(ContainerName::as_str).collect::<Vec<_>>() {
            names if names.is_empty() => err,
            names => err.hint(format!("it has {}", names.join(", "))),
        }
    }

    pub(super) fn name_of(&self, key: u64) -> Result<ContainerName> {
        self.containers
            .iter()
            .find(|(_, container)| container.run.as_ref().is_some_and(|run| run.key == key))
            .map(|(name, _)| name.clone())
            .ok_or_else(|| Error::new(Kind::NotFound, "find the run", "it is over"))
    }

    pub(super) fn run(&self, key: u64) -> Result<&Run> {
        let runs = self.containers.values().filter_map(|container| container.run.as_ref());
        runs.into_iter()
            .find(|run| run.key == key)
            .ok_or_else(|| Error::new(Kind::NotFound, "find the run", "it is over"))
    }

    pub(super) fn run_mut(&mut self, key: u64) -> Result<&mut Run> {
        let runs = self.containers.values_mut().filter_map(|container| container.run.as_mut());
        runs.into_iter()
            .find(|run| run.key == key)
            .ok_or_else(|| Error::new(Kind::NotFound, "find the run", "it is over"))
    }

    pub(super) fn save(&mut self, name: &ContainerName) -> Result<()> {
        let path = self.dir.container(name);
        let record = &mut self.container_mut(name)?.record;
        // One that another build wrote becomes one of ours.
        (record.version, record.readable_since) = (store::VERSION, store::READABLE_SINCE);
        store::write(&path, record)?;
        self.tell_services();
        Ok(())
    }
}

type Parts = (birth::Born, Option<OwnedFd>, Option<Pipes>, Option<OomNotifier>);
