//! How a run ends: exit, last bytes, record, answers, and what the restart policy makes of it, in this order.

#![forbid(unsafe_code)]

use super::run::{Gate, Run};
use super::socket::{Reply, Until, unknown_end};
use super::{Alarm, Container, Count, Monitor, key};
use crate::fault;
use crate::id::ContainerName;
use crate::pump::Command;
use crate::record::Stamp;
use crate::spec::{Remove, Restart};
use crate::store::{self, Ended, Reason, State, Wanted};
use crate::sys::clone::{self, Exit, Reap, pidfd_send_signal};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the pump may wait for children that hold the container's pipes open, once its first process has ended.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// How long it may take in all, should the log's disk be stalled.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// How long pause's note of an exit may take before the kernel is asked itself.
const NOTE_GRACE: Duration = Duration::from_millis(500);

/// kubelet's back-off: doubling to five minutes, forgotten after ten minutes of running.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
const GOOD_RUN: Duration = Duration::from_secs(600);

/// What `ended` says when nobody knows how.
enum Known {
    Exit(Exit),
    Nothing,
}

impl Monitor {
    /// The process of a run has ended.
    pub(super) fn exited(&mut self, key: u64) {
        // What it reported comes first, whatever order the events have.
        self.report(key);
        let Ok(run) = self.run(key) else { return };
        self.unwatch(&run.pidfd);
        // Seen, not reaped: should we die before the record is written, pause finds the zombie and notes it.
        match clone::waitid(run.pidfd.as_fd(), Reap::Leave) {
            Ok(Some(exit)) => self.exit_known(key, exit),
            Ok(None) => {}
            // A child of pause, since our predecessor made it: its note says how it ended.
            Err(_) => match self.take_note(key) {
                Some(exit) => self.exit_known(key, exit),
                None => self.alarm(NOTE_GRACE, Alarm::StatusUnknown(key)),
            },
        }
    }

    fn take_note(&mut self, key: u64) -> Option<Exit> {
        let pid = self.run(key).ok()?.pid;
        let at = self.notes.iter().position(|(noted, _)| *noted == pid)?;
        self.notes.remove(at).map(|(_, status)| Exit::from_status(status))
    }

    /// A note of pause's has come: of a run, an exec, or of an orphan of no interest.
    pub(super) fn noted(&mut self, pid: i32, status: i32) {
        let waiting = self.containers.values().filter_map(|container| container.run.as_ref());
        let key = waiting.into_iter().find(|run| run.pid == pid && run.exit.is_none()).map(|run| run.key);
        if let Some(key) = key {
            self.report(key);
            self.cancel(&Alarm::StatusUnknown(key));
            if let Ok(run) = self.run(key) {
                self.unwatch(&run.pidfd);
            }
            return self.exit_known(key, Exit::from_status(status));
        }
        if !self.exec_noted(pid, status) {
            self.notes.push_back((pid, status));
            self.notes.truncate(4096);
        }
    }

    pub(super) fn status_unknown(&mut self, key: u64) {
        let Ok(run) = self.run(key) else { return };
        if run.exit.is_some() {
            return;
        }
        match clone::exit_by_pidfd(run.pidfd.as_fd()).or_else(|| clone::exit_of_zombie(run.pid)) {
            Some(exit) => self.exit_known(key, exit),
            None => self.finish(key, &Known::Nothing),
        }
    }

    fn exit_known(&mut self, key: u64, exit: Exit) {
        let Ok(run) = self.run_mut(key) else { return };
        fault::point("end.seen");
        run.exit = Some(exit);
        let never_ran = run.failure.is_some() || run.gate != Gate::Open;
        if !run.private_pid {
            // Its PID namespace does not take the others along.
            let _ = run.cgroup.kill_all(Duration::ZERO);
        }
        fault::point("end.killed");
        if never_ran || run.pipes.is_none() || run.drained.is_some() {
            return self.finish(key, &Known::Exit(exit));
        }
        self.ask_for_the_rest(key);
    }

    /// All that it wrote must be in the log before its end is told.
    pub(super) fn ask_for_the_rest(&mut self, key: u64) {
        let grace_ms = u64::try_from(DRAIN_GRACE.as_millis()).unwrap_or(u64::MAX);
        self.tell_pump(Command::Finish { key, grace_ms }, &[]);
        fault::point("end.asked");
        self.alarm(DRAIN_DEADLINE, Alarm::Drained(key));
    }

    /// Its end is told though its last bytes are still on their way: they are in the fd store, and the log will have them.
    pub(super) fn drain_overdue(&mut self, key: u64) {
        let exit = self.run(key).ok().filter(|run| run.drained.is_none()).and_then(|run| run.exit);
        if let Some(exit) = exit {
            self.finish(key, &Known::Exit(exit));
        }
    }

    /// The pump has written everything.
    pub(super) fn drained(&mut self, key: u64, lost: u64) {
        let Ok(run) = self.run_mut(key) else { return };
        fault::point("end.drained");
        run.drained = Some(lost);
        let exit = run.exit;
        self.cancel(&Alarm::Drained(key));
        if let Some(exit) = exit {
            self.finish(key, &Known::Exit(exit));
        }
    }

    fn finish(&mut self, key: u64, known: &Known) {
        let Ok(name) = self.name_of(key) else { return };
        let Some(container) = self.containers.get_mut(&name) else { return };
        let Some(run) = container.run.take() else { return };
        let init_died = !run.private_pid && self.namespaces.init_is_over();
        let failure = run.failure.clone();
        let never_started = run.gate != Gate::Open && failure.is_none();
        let mut ended = ended(&run, known);
        if init_died && ended.signal == Some(libc::SIGKILL) {
            ended.reason = Reason::PodInitDied;
        }
        if let Some(err) = &failure {
            ended.exit_code = crate::error::exit_code(err.kind);
            ended.reason = Reason::StartError;
            ended.message = Some(err.to_string());
        }
        let first = container.record.ended.is_none() && container.record.restarts == 0;
        container.record.ended = Some(ended.clone());
        container.record.process = None;
        container.record.state = State::Exited;
        self.cancel(&Alarm::Kill(key));
        // Durable before anybody is told, and before the zombie goes. A full run-root does not keep the container.
        if failure.is_none() || !first {
            let _ = self.save(&name);
        }
        fault::point("end.recorded");
        let _ = clone::waitid(run.pidfd.as_fd(), Reap::Now);
        fault::point("end.reaped");
        self.discard(&name, run);
        fault::point("end.discarded");
        match failure {
            Some(err) if first => self.never_born(&name, &err),
            Some(err) => self.start_failed(&name, err),
            None => self.after_end(&name, &ended, never_started),
        }
    }

    /// What is left of a run in store, pump, loop and cgroup tree.
    pub(super) fn discard(&mut self, name: &ContainerName, run: Run) {
        self.unwatch(&run.pidfd);
        if let Some(report) = &run.report {
            self.unwatch(report);
        }
        if let Some(oom) = &run.oom {
            self.unwatch(oom);
        }
        let _ = self.store.remove(&key::container(name));
        self.tell_pump(Command::Forget { key: run.key }, &[]);
        // The next run opens its log by its path.
        for client in run.reopening {
            self.reply(client, &Reply::Done, &[]);
        }
        self.emptied.push(run.cgroup);
    }

    /// The first birth failed: the container does not exist, by the time that anybody is told.
    fn never_born(&mut self, name: &ContainerName, err: &crate::error::Error) {
        let waiters = self.containers.get_mut(name).map(|container| std::mem::take(&mut container.waiters));
        self.erase(name);
        self.tell_each(waiters.unwrap_or_default(), &Reply::Failed(err.clone().into()));
    }

    /// A later birth failed: the container stays as it was, with what went wrong.
    fn start_failed(&mut self, name: &ContainerName, err: crate::error::Error) {
        self.tell_waiters(name, |until| until != Until::Exited, &Reply::Failed(err.into()));
        let ended = self.containers.get(name).and_then(|container| container.record.ended.clone());
        if let Some(ended) = ended {
            self.after_end(name, &ended, false);
        }
    }

    pub(super) fn after_end(&mut self, name: &ContainerName, ended: &Ended, never_started: bool) {
        let Some(container) = self.containers.get_mut(name) else { return };
        let deleted = container.delete_after_stop;
        let again = std::mem::take(&mut container.restart_after_stop);
        if again && !deleted {
            self.start_again(name);
            return;
        }
        if !never_started && !deleted && self.policy_restarts(name, ended) {
            return;
        }
        let Some(container) = self.containers.get_mut(name) else { return };
        let removed_at_exit = container.record.policy.remove == Remove::AtExit && !is_attended(container);
        if !deleted && !removed_at_exit {
            return self.tell_the_end(name, ended);
        }
        // Gone first, told then: should we die between, whoever was told would find it still there.
        let waiters = std::mem::take(&mut container.waiters);
        let reply = exited(container, ended);
        self.erase(name);
        self.tell_each(waiters, &reply);
        fault::point("end.told");
    }

    /// Whoever waits hears of an end that is one for good. A client that removes the container itself has it kept: it
    /// reads the log first, then asks for the deletion.
    pub(super) fn tell_the_end(&mut self, name: &ContainerName, ended: &Ended) {
        let Some(container) = self.containers.get_mut(name) else { return };
        let reply = exited(container, ended);
        if is_attended(container)
            && std::mem::replace(&mut container.record.policy.remove, Remove::ByHand) == Remove::AtExit
        {
            let _ = self.save(name);
        }
        self.tell_waiters(name, |_| true, &reply);
        fault::point("end.told");
    }

    /// Plans the next run if the policy wants one; a wish of somebody's wins over it.
    fn policy_restarts(&mut self, name: &ContainerName, ended: &Ended) -> bool {
        let pod_is_over = self.namespaces.init_is_over();
        let Some(container) = self.containers.get_mut(name) else { return false };
        let record = &mut container.record;
        let wants = match record.policy.restart {
            Restart::Never => false,
            Restart::OnFailure => ended.failed(),
            Restart::Always => true,
        };
        if !wants || record.wanted == Wanted::Stopped || pod_is_over {
            return false;
        }
        let ran = record.started_at.as_deref().and_then(|text| Stamp::parse(text.as_bytes())).map(Stamp::elapsed);
        let (wait, next) = back_off(record.backoff, record.policy.restart_backoff, ran.unwrap_or_default());
        record.backoff = next;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        record.state = State::Restarting { at: now + wait };
        let _ = self.save(name);
        fault::point("restart.recorded");
        self.alarm(wait, Alarm::Restart(name.clone()));
        true
    }

    /// A restart by policy.
    pub(super) fn restart_now(&mut self, name: &ContainerName) {
        let due = self.containers.get(name).is_some_and(|container| {
            container.run.is_none() && matches!(container.record.state, State::Restarting { .. })
        });
        if due {
            self.start_again(name);
        }
    }

    /// The next run of a container that has run before: a new log, the same plan.
    pub(super) fn start_again(&mut self, name: &ContainerName) {
        if let Err(err) = self.next_run(name, Gate::OpensSoon) {
            let Some(container) = self.containers.get_mut(name) else { return };
            let mut ended = unknown_end(Stamp::now().text());
            ended.exit_code = crate::error::exit_code(err.kind);
            ended.reason = Reason::StartError;
            ended.message = Some(err.to_string());
            container.record.state = State::Exited;
            container.record.ended = Some(ended);
            let _ = self.save(name);
            self.start_failed(name, err);
        }
    }

    pub(super) fn next_run(&mut self, name: &ContainerName, gate: Gate) -> crate::error::Result<()> {
        let container = self.container_mut(name)?;
        let record = &mut container.record;
        record.restarts += 1;
        record.log_path.set_file_name(format!("{}.log", record.restarts));
        fault::point("restart.numbered");
        let plan = store::read(&self.dir.plan(name))?;
        self.bear(name, plan, gate)
    }

    /// Nothing of the container stays: logs, plan, record. The record is the last, so that whoever finds what a death of ours
    /// left can ask again.
    pub(super) fn erase(&mut self, name: &ContainerName) {
        let Some(container) = self.containers.remove(name) else { return };
        if let Some(logs) = container.record.log_path.parent() {
            let _ = store::gone(std::fs::remove_dir_all(logs));
        }
        fault::point("erase.logs");
        let _ = store::gone(std::fs::remove_file(self.dir.plan(name)));
        fault::point("erase.plan");
        let _ = store::gone(std::fs::remove_file(self.dir.container(name)));
        fault::point("erase.record");
        for waiter in container.waiters {
            self.done_if_last(waiter.client);
        }
    }

    /// The grace of a stop is over.
    pub(super) fn grace_over(&mut self, key: u64) {
        self.kill_hard(key);
    }

    /// SIGKILL to all of a container; a frozen one is thawed by the kernel (v2) or by `kill_all` (v1).
    pub(super) fn kill_hard(&mut self, key: u64) {
        let Ok(run) = self.run(key) else { return };
        let _ = pidfd_send_signal(run.pidfd.as_fd(), libc::SIGKILL);
        let _ = run.cgroup.kill_all(Duration::ZERO);
        let _ = run.cgroup.thaw();
        fault::point("stop.killed");
    }
}

/// Whether somebody in the foreground waits for the end.
fn is_attended(container: &Container) -> bool {
    container.waiters.iter().any(|waiter| waiter.until == Until::Exited && waiter.count == Count::One)
}

fn exited(container: &Container, ended: &Ended) -> Reply {
    Reply::Exited { ended: ended.clone(), log: Some(container.record.log_path.clone()) }
}

fn ended(run: &Run, known: &Known) -> Ended {
    let now = Stamp::now().text();
    let Known::Exit(exit) = known else { return unknown_end(now) };
    let kills = run.cgroup.oom_kills().ok().flatten().unwrap_or(0);
    let oom_killed = *exit == Exit::Signal(libc::SIGKILL) && kills > run.oom_baseline;
    Ended { lost_log_bytes: run.drained.unwrap_or(0), ..Ended::new(*exit, oom_killed, now) }
}

/// How long to wait before the next run, and before the one after it.
fn back_off(due: Duration, first: Duration, ran: Duration) -> (Duration, Duration) {
    let wait = if ran >= GOOD_RUN { first } else { due };
    (wait, (wait * 2).min(LONGEST_BACKOFF.max(first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_ten_minutes_of_running_the_back_off_starts_anew() {
        let seconds = Duration::from_secs;
        let mut due = seconds(10);
        let mut waits = Vec::new();
        for ran in [0, 1, 2, 3, 599, 4, 600, 0, 86_400] {
            let (wait, next) = back_off(due, seconds(10), seconds(ran));
            waits.push(wait.as_secs());
            due = next;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 10, 20, 10]);
        // Who asked for a longer first wait than kubelet's longest keeps it.
        assert_eq!(back_off(seconds(900), seconds(900), seconds(0)), (seconds(900), seconds(900)));
    }
}
