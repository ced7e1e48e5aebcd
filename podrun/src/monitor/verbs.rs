//! What a client may ask for, and whether this is the moment for it.

#![forbid(unsafe_code)]

use super::run::Gate;
use super::socket::{NewContainer, Reply, Request, Until};
use super::{Alarm, Container, Count, Monitor, Waiter, key};
use crate::container::plan::Plan;
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::ContainerName;
use crate::pause::SUCCESSOR;
use crate::pump::Command;
use crate::record::Stamp;
use crate::spec::Stdin;
use crate::store::{self, ContainerRecord, State, Wanted};
use crate::sys::clone::pidfd_send_signal;
use serde_json::json;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// How long freezing may take: a process in an uninterruptible sleep does not freeze.
const FREEZE: Duration = Duration::from_millis(500);

impl Monitor {
    pub(super) fn answer(&mut self, client: u64, request: Request, fds: Vec<OwnedFd>) {
        if let Err(err) = self.carry_out(client, request, fds) {
            self.fail(client, err);
        }
    }

    fn carry_out(&mut self, client: u64, request: Request, fds: Vec<OwnedFd>) -> Result<()> {
        match request {
            Request::Create { container, until } => self.create(client, *container, until),
            Request::Start { name, until } => self.start(client, &name, until),
            Request::Stop { names, grace_ms, signal } => {
                self.each(client, names, |monitor, name| monitor.stop(name, Duration::from_millis(grace_ms), signal))
            }
            Request::Kill { names, signal } => self.kill(client, names, signal),
            Request::Restart { names, grace_ms } => self.restart(client, names, Duration::from_millis(grace_ms)),
            Request::Pause { names } => self.at_once(client, names, Self::freeze),
            Request::Resume { names } => self.at_once(client, names, Self::thaw),
            Request::Exec { id, container, process, limit } => self.exec(client, id, &container, (process, limit), fds),
            Request::SignalExec { id, signal } => {
                self.signal_exec(&id, signal);
                self.reply(client, &Reply::Done, &[]);
                Ok(())
            }
            Request::WaitExec { id } => {
                self.wait_exec(client, &id);
                Ok(())
            }
            Request::Wait { name } => self.wait(client, &name),
            Request::Attach { name } => self.attach(client, &name),
            Request::CloseStdin { name } => self.close_stdin(client, &name),
            Request::ReopenLogs { name } => self.reopen(client, &name),
            Request::Delete { name, force, grace_ms } => {
                self.delete(client, &name, force, Duration::from_millis(grace_ms))
            }
            Request::Leave => self.leave(client),
            Request::Upgrade => self.upgrade(client, fds),
            Request::Ports => {
                // Nobody has to wait for the inlet's birth: it finds its ports by itself.
                let told = self.done(client);
                self.ensure_inlet();
                told
            }
            Request::Networks => {
                let told = self.done(client);
                self.keep_names();
                told
            }
            Request::Ping => self.done(client),
        }
    }

    fn done(&mut self, client: u64) -> Result<()> {
        self.reply(client, &Reply::Done, &[]);
        Ok(())
    }

    fn create(&mut self, client: u64, new: NewContainer, until: Until) -> Result<()> {
        let name = new.name.clone();
        if let Some(known) = self.containers.get_mut(&name) {
            if known.record.id == new.id {
                // The same request again, since our predecessor died: it joins what goes on.
                return self.join(client, &name, until);
            }
            return Err(Error::new(Kind::AlreadyExists, format!("create {name}"), "a container of this name is there")
                .hint(format!("`podrun delete container {}/{name}` removes it", self.facts.name)));
        }
        let doing = || format!("create {name}");
        let plan: Plan =
            serde_json::from_str(new.plan.get()).map_err(std::io::Error::from).doing(doing).map_err(|err| {
                err.hint(format!(
                    "a podrun of another build made this plan; `podrun upgrade {}` first",
                    self.facts.name
                ))
            })?;
        store::make_private_dir(&self.dir.containers(), 0o700)?;
        store::replace(&self.dir.plan(&name), new.plan.get().as_bytes()).doing(doing)?;
        fault::point("birth.plan-kept");
        let backoff = new.policy.restart_backoff;
        let record = ContainerRecord {
            version: store::VERSION,
            readable_since: store::READABLE_SINCE,
            name: name.clone(),
            id: new.id,
            created_at: Stamp::now().text(),
            command: new.command,
            rootfs: new.rootfs,
            terminal: new.terminal,
            policy: new.policy,
            cgroup: new.cgroup,
            log_path: new.log_dir.join("0.log"),
            state: State::Created,
            wanted: Wanted::Running,
            process: None,
            started_at: None,
            ended: None,
            restarts: 0,
            lost_log_bytes: 0,
            backoff,
            warnings: new.warnings,
            #[cfg(feature = "later-format")]
            of_a_later_build: 1,
        };
        let container = Container {
            record,
            run: None,
            waiters: vec![waiter(client, until)],
            restart_after_stop: false,
            delete_after_stop: false,
        };
        self.containers.insert(name.clone(), container);
        let gate = if until == Until::Created { Gate::Closed } else { Gate::OpensSoon };
        if let Err(err) = self.bear(&name, plan, gate) {
            if let Some(container) = self.containers.get_mut(&name) {
                container.waiters.clear();
            }
            self.erase(&name);
            return Err(err);
        }
        Ok(())
    }

    /// Waits for what is going on already, or hears that it is over.
    fn join(&mut self, client: u64, name: &ContainerName, until: Until) -> Result<()> {
        let container = self.container_mut(name)?;
        let pid = container.run.as_ref().map_or(0, |run| run.pid);
        let ran = container.run.as_ref().is_some_and(|run| run.report.is_none() && run.gate == Gate::Open);
        match (&container.record.ended, until) {
            (Some(ended), _) if container.run.is_none() && container.record.state == State::Exited => {
                let reply = Reply::Exited { ended: ended.clone(), log: Some(container.record.log_path.clone()) };
                self.reply(client, &reply, &[]);
            }
            (_, Until::Started) if ran => self.reply(client, &Reply::Started { pid }, &[]),
            _ => {
                container.waiters.push(waiter(client, until));
                // Whoever waits for the end shows it from here on, and passes input: attach, and a run that lost its monitor.
                if ran {
                    self.reply(client, &Reply::Started { pid }, &[]);
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, client: u64, name: &ContainerName, until: Until) -> Result<()> {
        let doing = || format!("start {name}");
        let container = self.container_mut(name)?;
        container.record.wanted = Wanted::Running;
        match &container.run {
            Some(run) if run.gate == Gate::Closed => {
                let key = run.key;
                container.waiters.push(waiter(client, until));
                container.record.state = State::Running;
                container.record.started_at = Some(Stamp::now().text());
                // The store first: a successor must know that the gate was to open.
                self.run_mut(key)?.gate = Gate::OpensSoon;
                self.keep_run(name)?;
                fault::point("start.kept");
                self.save(name)?;
                fault::point("start.recorded");
                self.open_gate(name, key)?;
                fault::point("start.opened");
                Ok(())
            }
            // Perhaps asked twice, since the one who heard it first died before it could answer.
            Some(run) if run.inherited => self.join(client, name, until),
            Some(_) => Err(Error::new(Kind::NotNow, doing(), "it is running already")),
            None => {
                self.begin(name)?;
                self.container_mut(name)?.waiters.push(waiter(client, until));
                Ok(())
            }
        }
    }

    /// The next run of a container that has ended, by somebody's wish.
    fn begin(&mut self, name: &ContainerName) -> Result<()> {
        self.cancel(&Alarm::Restart(name.clone()));
        let container = self.container_mut(name)?;
        container.record.wanted = Wanted::Running;
        container.record.backoff = container.record.policy.restart_backoff;
        self.next_run(name, Gate::OpensSoon)
    }

    /// Names as given, or all; each must be there before anything is done to any.
    fn chosen(&self, names: Vec<ContainerName>) -> Result<Vec<ContainerName>> {
        if names.is_empty() {
            return Ok(self.containers.keys().cloned().collect());
        }
        for name in &names {
            self.container(name)?;
        }
        Ok(names)
    }

    /// Asks each to end, and answers when all have: one grace for all of them, not one after the other.
    fn each(
        &mut self,
        client: u64,
        names: Vec<ContainerName>,
        mut act: impl FnMut(&mut Self, &ContainerName) -> Result<()>,
    ) -> Result<()> {
        let names = self.chosen(names)?;
        for name in &names {
            act(self, name)?;
        }
        for name in names {
            if let Some(container) = self.containers.get_mut(&name)
                && container.run.is_some()
            {
                container.waiters.push(Waiter { client, until: Until::Exited, count: Count::Several });
            }
        }
        self.done_if_last(client);
        Ok(())
    }

    fn at_once(
        &mut self,
        client: u64,
        names: Vec<ContainerName>,
        act: impl Fn(&mut Self, &ContainerName) -> Result<()>,
    ) -> Result<()> {
        let all = names.is_empty();
        for name in self.chosen(names)? {
            // "All" means those for which it makes sense.
            if all && self.container(&name)?.run.is_none() {
                continue;
            }
            act(self, &name)?;
        }
        self.done(client)
    }

    pub(super) fn stop(&mut self, name: &ContainerName, grace: Duration, signal: Option<i32>) -> Result<()> {
        self.cancel(&Alarm::Restart(name.clone()));
        let container = self.container_mut(name)?;
        container.record.wanted = Wanted::Stopped;
        container.restart_after_stop = false;
        let signal = signal.unwrap_or(container.record.policy.stop_signal);
        if container.run.is_none() {
            if matches!(container.record.state, State::Restarting { .. }) {
                container.record.state = State::Exited;
                let ended = container.record.ended.clone();
                self.save(name)?;
                if let Some(ended) = ended {
                    self.tell_the_end(name, &ended);
                }
            }
            return Ok(());
        }
        // Intent first: whoever finds the pod after a crash knows what was wanted. A full disk does not keep it alive.
        let _ = self.save(name);
        fault::point("stop.recorded");
        let container = self.container(name)?;
        let Some(run) = &container.run else { return Ok(()) };
        let key = run.key;
        if run.gate == Gate::Closed || grace.is_zero() {
            self.kill_hard(key);
            return Ok(());
        }
        let _ = pidfd_send_signal(run.pidfd.as_fd(), signal);
        fault::point("stop.signalled");
        if container.record.state == State::Paused {
            // A frozen process hears the signal once it is thawed.
            self.thaw(name)?;
        }
        self.cancel(&Alarm::Kill(key));
        self.alarm(grace, Alarm::Kill(key));
        Ok(())
    }

    fn kill(&mut self, client: u64, names: Vec<ContainerName>, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            return self.each(client, names, |monitor, name| monitor.stop(name, Duration::ZERO, None));
        }
        self.at_once(client, names, |monitor, name| {
            let doing = || format!("kill {name}");
            let container = monitor.container(name)?;
            let Some(run) = &container.run else {
                return Err(Error::new(Kind::NotNow, doing(), format!("it is {}", container.record.state.word())));
            };
            pidfd_send_signal(run.pidfd.as_fd(), signal).doing(doing)
        })
    }

    fn restart(&mut self, client: u64, names: Vec<ContainerName>, grace: Duration) -> Result<()> {
        for name in self.chosen(names)? {
            let lives = self.container(&name)?.run.is_some();
            if lives {
                self.stop(&name, grace, None)?;
                let container = self.container_mut(&name)?;
                container.record.wanted = Wanted::Running;
                container.record.backoff = container.record.policy.restart_backoff;
                container.restart_after_stop = true;
                container.waiters.push(Waiter { client, until: Until::Started, count: Count::Several });
            } else {
                self.begin(&name)?;
                let container = self.container_mut(&name)?;
                container.waiters.push(Waiter { client, until: Until::Started, count: Count::Several });
            }
        }
        self.done_if_last(client);
        Ok(())
    }

    fn freeze(&mut self, name: &ContainerName) -> Result<()> {
        let doing = || format!("pause {name}");
        let container = self.container(name)?;
        if container.record.state == State::Paused {
            // Asked twice, since our predecessor died before it could answer.
            return Ok(());
        }
        let Some(run) = container.run.as_ref().filter(|_| container.record.state == State::Running) else {
            return Err(Error::new(Kind::NotNow, doing(), format!("it is {}", container.record.state.word())));
        };
        if let Err(err) = run.cgroup.freeze(FREEZE) {
            let _ = run.cgroup.thaw();
            return Err(err);
        }
        fault::point("freeze.frozen");
        self.container_mut(name)?.record.state = State::Paused;
        self.save(name)?;
        fault::point("freeze.recorded");
        Ok(())
    }

    fn thaw(&mut self, name: &ContainerName) -> Result<()> {
        let doing = || format!("resume {name}");
        let container = self.container(name)?;
        let Some(run) = container.run.as_ref().filter(|_| container.record.state == State::Paused) else {
            return Err(Error::new(Kind::NotNow, doing(), "it is not paused"));
        };
        run.cgroup.thaw()?;
        fault::point("thaw.thawed");
        self.container_mut(name)?.record.state = State::Running;
        self.save(name)
    }

    fn wait(&mut self, client: u64, name: &ContainerName) -> Result<()> {
        self.join(client, name, Until::Exited)
    }

    fn attach(&mut self, client: u64, name: &ContainerName) -> Result<()> {
        let container = self.container(name)?;
        let Some(run) = &container.run else {
            let doing = format!("attach to {name}");
            return Err(Error::new(Kind::NotNow, doing, format!("it is {}", container.record.state.word())));
        };
        let reply = Reply::Stdin { terminal: run.terminal };
        let copy = run.stdin.as_ref().map(OwnedFd::try_clone).transpose().doing(|| "copy stdin".into())?;
        let fds: Vec<_> = copy.iter().map(AsFd::as_fd).collect();
        self.reply(client, &reply, &fds);
        Ok(())
    }

    fn close_stdin(&mut self, client: u64, name: &ContainerName) -> Result<()> {
        let container = self.container_mut(name)?;
        if let Some(run) = &mut container.run
            && !run.terminal
            && container.record.policy.stdin == Stdin::Open
        {
            run.stdin = None;
            // The store's copy goes with the entry that this one replaces, at the next rounding; now, so that EOF comes now.
            self.keep_run(name)?;
            self.store.forget_old().doing(|| format!("close the stdin of {name}"))?;
        }
        self.done(client)
    }

    fn reopen(&mut self, client: u64, name: &ContainerName) -> Result<()> {
        match &mut self.container_mut(name)?.run {
            // A terminal that is not there yet has no log either.
            Some(run) if run.pipes.is_some() => {
                run.reopening.push(client);
                let key = run.key;
                self.tell_pump(Command::Reopen { key }, &[]);
                Ok(())
            }
            _ => self.done(client),
        }
    }

    pub(super) fn reopened(&mut self, key: u64, errno: i32) {
        let Ok(name) = self.name_of(key) else { return };
        let Some(container) = self.containers.get_mut(&name) else { return };
        let path = container.record.log_path.clone();
        let clients = container.run.as_mut().map(|run| std::mem::take(&mut run.reopening));
        let opened = match errno {
            0 => Ok(()),
            errno => Err(std::io::Error::from_raw_os_error(errno)),
        };
        let reply = match opened.doing(|| format!("open {}", path.display())) {
            Ok(()) => Reply::Done,
            Err(err) => Reply::Failed(err.into()),
        };
        for client in clients.unwrap_or_default() {
            self.reply(client, &reply, &[]);
        }
    }

    fn delete(&mut self, client: u64, name: &ContainerName, force: bool, grace: Duration) -> Result<()> {
        let container = self.container(name)?;
        let lives = container.run.is_some();
        let waits = matches!(container.record.state, State::Restarting { .. });
        if (lives && container.record.state != State::Created || waits) && !force {
            let doing = format!("delete {name}");
            return Err(Error::new(Kind::NotNow, doing, format!("it is {}", container.record.state.word()))
                .hint("stop it first, or use --force"));
        }
        if !lives {
            self.cancel(&Alarm::Restart(name.clone()));
            self.erase(name);
            return self.done(client);
        }
        self.stop(name, grace, None)?;
        let container = self.container_mut(name)?;
        container.delete_after_stop = true;
        container.waiters.push(Waiter { client, until: Until::Exited, count: Count::Several });
        Ok(())
    }

    /// The pod is over. Whatever still lives dies now; the caller removes what is on the host.
    fn leave(&mut self, client: u64) -> Result<()> {
        let runs = self.containers.values().filter_map(|container| container.run.as_ref());
        for run in runs {
            let _ = pidfd_send_signal(run.pidfd.as_fd(), libc::SIGKILL);
            let _ = run.cgroup.kill_all(Duration::ZERO);
        }
        if let Some((init, _)) = &self.namespaces.init {
            let _ = pidfd_send_signal(init.as_fd(), libc::SIGKILL);
        }
        if let Some((_, pump)) = &self.outlet.process {
            let _ = pidfd_send_signal(pump.as_fd(), libc::SIGKILL);
        }
        self.leaving = Some(0);
        if !self.pause.restarts {
            // One that we made ourselves does not hear of our exit code.
            let _ = pidfd_send_signal(self.pause.pidfd.as_fd(), libc::SIGTERM);
        }
        self.done(client)
    }

    /// Leaves for a successor of another build, which takes over by the store. Nothing is stopped.
    fn upgrade(&mut self, client: u64, fds: Vec<OwnedFd>) -> Result<()> {
        let doing = || "take the new program".to_owned();
        let Some(program) = fds.into_iter().next() else {
            return Err(Error::new(Kind::Invalid, doing(), "none came along"));
        };
        self.store.put(key::PROGRAM, &json!(null), &[program.as_fd()]).doing(doing)?;
        fault::point("upgrade.kept");
        self.done(client)?;
        fault::point("upgrade.told");
        if self.pause.restarts {
            self.leaving = Some(i32::from(SUCCESSOR));
        } else {
            // A pause that we made starts nobody: we become the successor ourselves.
            self.become_successor(&program);
        }
        Ok(())
    }
}

fn waiter(client: u64, until: Until) -> Waiter {
    Waiter { client, until, count: Count::One }
}
