//! Those who keep a pod alive beside the monitor: pause, the pump, and the PID 1 of a shared PID namespace.

#![forbid(unsafe_code)]

use super::{Alarm, Monitor, Token, key, recover};
use crate::cgroup::{self, Cgroup};
use crate::error::{Doing, Error, Result};
use crate::fault;
use crate::pause::{NOTE, STORE_A, read_note};
use crate::pump::{self, Answer, Command};
use crate::sandbox::{self, Wanted};
use crate::store::{self, Keepers, ProcessRecord};
use crate::sys::clone::{Clone, clone3, exit};
use crate::sys::{cred, fd, ns, sched, socket};
use nix::sys::epoll::EpollFlags;
use serde_json::json;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The keeper of the store.
#[derive(Debug)]
pub(super) struct Pause {
    pub(super) record: ProcessRecord,
    pub(super) pidfd: OwnedFd,
    /// The first pause is our parent and starts our successor; one that we made does not.
    pub(super) restarts: bool,
}

/// The pump, as far as we know it.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    pub(super) process: Option<(ProcessRecord, OwnedFd)>,
    pub(super) control: Option<OwnedFd>,
    /// What a pump that hangs on its disk had no room for.
    unsaid: VecDeque<(Command, Vec<OwnedFd>)>,
}

/// How often a pump that hangs is tried again.
const TELL_AGAIN: Duration = Duration::from_millis(50);

impl Outlet {
    /// Never waits. Nothing is to be done about a pump that is gone: its pidfd tells, and the next one is told everything.
    fn say(&mut self, command: Command, fds: &[BorrowedFd<'_>]) {
        let Some(control) = &self.control else { return };
        let full = match self.unsaid.is_empty() {
            true => {
                matches!(pump::send(control.as_fd(), &command, fds), Err(err) if err.kind() == ErrorKind::WouldBlock)
            }
            false => true,
        };
        if full {
            let copies = fds.iter().filter_map(|fd| fd.try_clone_to_owned().ok()).collect();
            self.unsaid.push_back((command, copies));
        }
    }

    /// Whether all is said.
    fn say_the_rest(&mut self) -> bool {
        for (command, fds) in std::mem::take(&mut self.unsaid) {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            self.say(command, &borrowed);
        }
        self.unsaid.is_empty()
    }
}

impl Monitor {
    pub(super) fn tell_pump(&mut self, command: Command, fds: &[BorrowedFd<'_>]) {
        self.outlet.say(command, fds);
        if !self.outlet.unsaid.is_empty() && !self.alarms.iter().any(|(_, alarm)| *alarm == Alarm::TellPump) {
            self.alarm(TELL_AGAIN, Alarm::TellPump);
        }
    }

    pub(super) fn tell_pump_the_rest(&mut self) {
        if !self.outlet.say_the_rest() {
            self.alarm(TELL_AGAIN, Alarm::TellPump);
        }
    }

    pub(super) fn ensure_pump(&mut self) {
        if self.outlet.process.is_some() {
            return;
        }
        if self.start_pump().is_err() {
            self.alarm(Duration::from_millis(200), Alarm::Pump);
        }
    }

    /// Forked, not executed: it shares our pages, and needs no file.
    fn start_pump(&mut self) -> Result<()> {
        let doing = || "start the pump".to_owned();
        let (ours, theirs) = socket::seqpacket_pair().doing(doing)?;
        let child = clone3(&Clone::default(), || {
            fault::point("pump.born");
            let control = fd::keep_only(theirs.as_fd());
            exit(control.map_or(1, |control| i32::from(pump::run(control))))
        })
        .doing(doing)?;
        fault::point("pump.forked");
        self.store.put(key::PUMP, &json!({"pid": child.pid}), &[child.pidfd.as_fd(), ours.as_fd()]).doing(doing)?;
        fault::point("pump.kept");
        self.take_pump(child.pid, child.pidfd, ours)?;
        self.tell_pump_everything();
        fault::point("pump.told");
        self.save_keepers()
    }

    pub(super) fn take_pump(&mut self, pid: i32, pidfd: OwnedFd, control: OwnedFd) -> Result<()> {
        self.watch(&pidfd, Token::PumpExit, EpollFlags::EPOLLIN)?;
        self.watch(&control, Token::Pump, EpollFlags::EPOLLIN)?;
        // A pump that hangs on a stalled disk delays no birth, stop or kill.
        crate::sys::pipe::set_nonblocking(control.as_fd()).doing(|| "take the pump".into())?;
        self.outlet =
            Outlet { process: Some((ProcessRecord::of(pid), pidfd)), control: Some(control), unsaid: VecDeque::new() };
        Ok(())
    }

    /// A new pump is given all containers, and asked for the rest of those that have ended. One that knows a container
    /// already ignores it.
    pub(super) fn tell_pump_everything(&mut self) {
        let names: Vec<_> = self.containers.keys().cloned().collect();
        for name in names {
            let _ = self.pump_add(&name);
            let Some(run) = self.containers.get(&name).and_then(|container| container.run.as_ref()) else { continue };
            let (key, reopens, ended) =
                (run.key, !run.reopening.is_empty(), run.exit.is_some() && run.drained.is_none());
            if reopens {
                self.tell_pump(Command::Reopen { key }, &[]);
            }
            if ended {
                self.ask_for_the_rest(key);
            }
        }
    }

    pub(super) fn pump_says(&mut self) {
        while let Some(control) = &self.outlet.control {
            match pump::receive(control.as_fd()) {
                Ok(Answer::Finished { key, lost_bytes, .. }) => self.drained(key, lost_bytes),
                // The container goes on without a log, and ends without one.
                Ok(Answer::Refused { key, .. }) => self.drained(key, 0),
                Ok(Answer::Reopened { key, errno }) => self.reopened(key, errno),
                Ok(Answer::Trouble { key, lost_bytes, errno }) => self.log_trouble(key, lost_bytes, errno),
                Err(err) if err.kind() == ErrorKind::InvalidData => {}
                // Nothing more for now, or its pidfd tells the rest.
                Err(_) => return,
            }
        }
    }

    fn log_trouble(&mut self, key: u64, lost: u64, errno: i32) {
        let Ok(name) = self.name_of(key) else { return };
        if let Some(container) = self.containers.get_mut(&name) {
            let cause = crate::error::plain(&std::io::Error::from_raw_os_error(errno));
            const WORDS: &str = "the log could not be written";
            container.record.warnings.retain(|warning| !warning.starts_with(WORDS));
            container.record.warnings.push(format!("{WORDS}: {cause}"));
            container.record.lost_log_bytes = lost;
            let _ = self.save(&name);
        }
    }

    pub(super) fn pump_died(&mut self) {
        // Answers that it sent before are still in the socket.
        self.pump_says();
        let old = std::mem::take(&mut self.outlet);
        if let Some((_, pidfd)) = &old.process {
            self.unwatch(pidfd);
            let _ = crate::sys::clone::waitid(pidfd.as_fd(), crate::sys::clone::Reap::Now);
        }
        if let Some(control) = &old.control {
            self.unwatch(control);
        }
        let _ = self.store.remove(key::PUMP);
        if self.leaving.is_none() {
            self.ensure_pump();
        }
    }

    /// The first pause was our parent; whoever it was, another one is made in the same namespaces, and holds the same
    /// store. No container notices.
    pub(super) fn pause_died(&mut self) {
        self.unwatch(&self.pause.pidfd);
        let _ = crate::sys::clone::waitid(self.pause.pidfd.as_fd(), crate::sys::clone::Reap::Now);
        fault::point("pause.gone");
        match self.make_pause() {
            Ok(pause) => self.pause = pause,
            Err(_) => {
                // Nothing else can be done now; the pod lives as long as we do.
                self.pause.restarts = false;
            }
        }
        let _ = self.save_keepers();
    }

    fn make_pause(&mut self) -> Result<Pause> {
        let roots = self.facts.roots();
        let program = sandbox::pause_program(&roots)?;
        let place = cgroup::Place::pod(&roots.cgroup(), &self.facts.id).own();
        let home = Cgroup::find(&self.facts.cgroups, &place)?;
        let tasks = home.tasks()?;
        let [tail, head] = self.store.ends();
        let mut held = vec![tail, head, self.status.as_fd(), self.status_write.as_fd(), self.program.as_fd()];
        let mut joined = self.namespaces.of_the_pod();
        if self.facts.rootless {
            let of = &self.namespaces;
            held.extend([&of.net, &of.uts, &of.ipc].map(AsFd::as_fd));
            joined.clear();
        }
        let wanted = Wanted {
            new: 0,
            joined,
            hostname: None,
            sysctl: &[],
            cgroup: home.unified_fd(),
            tasks: Some(&tasks),
            held: &held,
            argv: Vec::new(),
            program: program.as_fd(),
        };
        let waiting = sandbox::start(&wanted)?;
        fault::point("pause.waits");
        // Should we die now, the next command finds the pod by this record; and by the old one it would be lost.
        self.record_keepers(ProcessRecord::of(waiting.child.pid), false)?;
        fault::point("pause.recorded");
        let child = waiting.run()?;
        fault::point("pause.runs");
        self.watch(&child.pidfd, Token::PauseExit, EpollFlags::EPOLLIN)?;
        Ok(Pause { record: ProcessRecord::of(child.pid), pidfd: child.pidfd, restarts: false })
    }

    /// The PID 1 of the shared PID namespace: a second pause, without a store, born with the pod.
    pub(super) fn make_init(&mut self) -> Result<()> {
        let roots = self.facts.roots();
        let program = sandbox::pause_program(&roots)?;
        let wanted = Wanted {
            new: libc::CLONE_NEWPID,
            joined: self.namespaces.of_the_pod(),
            hostname: None,
            sysctl: &[],
            cgroup: None,
            tasks: None,
            held: &[],
            argv: Vec::new(),
            program: program.as_fd(),
        };
        let waiting = sandbox::start(&wanted)?;
        fault::point("init.waits");
        let child = &waiting.child;
        let namespace = ns::of(child.pid, "pid").doing(|| "open the pod's PID namespace".into())?;
        let fds = [child.pidfd.as_fd(), namespace.as_fd()];
        let doing = || "keep the pod's PID 1".to_owned();
        // Before it runs: until then it dies with us, and a successor makes another.
        self.store.put(key::INIT, &json!({"pid": child.pid, "waits": true}), &fds).doing(doing)?;
        fault::point("init.kept");
        let child = waiting.run()?;
        let fds = [child.pidfd.as_fd(), namespace.as_fd()];
        self.store.put(key::INIT, &json!({"pid": child.pid}), &fds).doing(doing)?;
        self.take_init(child.pid, child.pidfd, namespace)
    }

    pub(super) fn take_init(&mut self, pid: i32, pidfd: OwnedFd, namespace: OwnedFd) -> Result<()> {
        self.watch(&pidfd, Token::InitExit, EpollFlags::EPOLLIN)?;
        self.namespaces.init_record = Some(ProcessRecord::of(pid));
        self.namespaces.init = Some((pidfd, namespace));
        Ok(())
    }

    /// The kernel has killed everybody in the namespace: the pod is over, and says so.
    pub(super) fn init_died(&mut self) {
        if let Some((pidfd, _)) = &self.namespaces.init {
            self.unwatch(pidfd);
            let _ = crate::sys::clone::waitid(pidfd.as_fd(), crate::sys::clone::Reap::Now);
        }
        self.namespaces.init_died = true;
        let why = "the PID 1 of the pod's shared PID namespace ended, and the kernel ended the containers with it\n";
        let _ = std::fs::write(self.dir.lost(), why);
    }

    /// The new program in our place, on the descriptors that a monitor is started with.
    pub(super) fn become_successor(&self, program: &OwnedFd) {
        let [tail, head] = self.store.ends();
        let held = [tail, head, self.status.as_fd(), self.status_write.as_fd(), program.as_fd()];
        // They are where pause put them, but for the program.
        fault::point("upgrade.newer");
        let handed = (STORE_A..).zip(held).try_for_each(|(number, one)| fd::dup_to(one, number));
        if handed.is_ok() {
            recover::become_newer(program, &self.dir.0.to_string_lossy());
        }
    }

    /// What pause has reaped: ours, once our predecessor had died.
    pub(super) fn read_notes(&mut self) {
        let mut bytes = [0; NOTE * 256];
        while let Ok(count) = fd::read(self.status.as_fd(), &mut bytes) {
            for note in bytes[..count].as_chunks::<NOTE>().0 {
                let (pid, status) = read_note(*note);
                if let Ok(pid) = i32::try_from(pid) {
                    self.noted(pid, status);
                }
            }
            if count < bytes.len() {
                return;
            }
        }
    }

    pub(super) fn save_keepers(&self) -> Result<()> {
        self.record_keepers(self.pause.record, self.pause.restarts)
    }

    fn record_keepers(&self, pause: ProcessRecord, pause_restarts: bool) -> Result<()> {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let record = Keepers {
            version: store::VERSION,
            readable_since: store::READABLE_SINCE,
            pause,
            monitor: ProcessRecord::of(own),
            pump: self.outlet.process.as_ref().map(|(record, _)| *record),
            init: self.namespaces.init_record,
            pause_restarts,
            namespaces_by_descriptor: self.facts.rootless,
        };
        store::write(&self.dir.keepers(), &record)
    }
}

/// What the process was started with that nobody shall inherit through it: the caller's nice, affinity, umask, limits.
pub(super) fn forget_the_caller() {
    sched::reset();
    cred::umask(0o022);
    // The limits of the host's own PID 1, as far as they may be had; a container of a service manager's would have those.
    for resource in 0..16 {
        if let Ok((soft, hard)) = cred::getrlimit(1, resource)
            && cred::setrlimit(resource, soft, hard).is_err()
            && let Ok((_, own)) = cred::getrlimit(0, resource)
        {
            let _ = cred::setrlimit(resource, soft.min(own), own);
        }
    }
    // Some twenty descriptors a container; each plan sets its own container's limit.
    if let Ok((_, hard)) = cred::getrlimit(0, libc::RLIMIT_NOFILE) {
        let _ = cred::setrlimit(libc::RLIMIT_NOFILE, hard, hard);
    }
}

/// A monitor that cannot come up has nobody to tell but the pod's directory; the next command shows it.
pub(super) fn last_words(err: &Error) {
    if let Some(dir) = std::env::args().nth(1) {
        let _ = std::fs::write(std::path::Path::new(&dir).join("monitor.error"), format!("{err}\n"));
    }
}
