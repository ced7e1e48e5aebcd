//! What is done to a container that was made: start, kill, delete, pause and resume, update, and what it uses.

#![forbid(unsafe_code)]

use super::birth;
use super::record::{Container, Dir, Id, Status};
use crate::cgroup::{self, Cgroup, Layout, NO_CGROUP};
use crate::container::birth::{self as newborn, Report, lone_error};
use crate::container::listener::{self, Whose};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::store;
use crate::sys::clone::{self, pidfd_send_signal, poll_one};
use crate::sys::ns;
use crate::sys::socket::{self, Traffic};
use oci_spec::runtime::LinuxResources;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// How long what was killed with KILL may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Opens the door.
pub fn start(container: &Container) -> Result<()> {
    let id = &container.record.id;
    let doing = || format!("start {id}");
    let locked = container.dir.lock()?;
    let cannot = |cause: &str| Err(Error::new(Kind::NotNow, doing(), cause));
    let process = match (container.status(), container.process()) {
        (Status::Created, Some(process)) => process,
        (Status::Creating, _) => return cannot("it is being created"),
        (Status::Stopped, _) | (_, None) => return cannot("cannot start a container that has stopped"),
        (Status::Paused, _) => return cannot("cannot start a container that is paused"),
        _ => return cannot("cannot start an already running container"),
    };
    if !container.record.startable {
        return Err(Error::new(Kind::Invalid, doing(), "its config.json has no `process`"));
    }
    let door = socket::connect(&container.dir.door(), Traffic::Messages).doing(doing)?;
    newborn::open_gate(door.as_fd()).doing(doing)?;
    fault::point("oci.opened");
    hear_of_start(container, door.as_fd())?;
    let _ = std::fs::remove_file(container.dir.door());
    let running = container.record.state(Status::Running).to_string();
    // runtime.md, "Lifecycle": "If any poststart hook fails, the runtime MUST generate an error, stop the container". Its
    // deletion is its caller's to ask for, as with runc.
    let hooks = ("poststart", container.record.alone.hooks.poststart.as_slice());
    birth::run_hooks(hooks, &container.record.bundle, &running)
        .inspect_err(|_| drop(end(container, process.as_fd())))?;
    drop(locked);
    Ok(())
}

/// Ends all of it that runs.
fn end(container: &Container, first: BorrowedFd<'_>) -> Result<()> {
    let _ = pidfd_send_signal(first, libc::SIGKILL);
    container.cgroup()?.kill_all(GONE_WITHIN)
}

fn hear_of_start(container: &Container, door: BorrowedFd<'_>) -> Result<()> {
    let doing = || format!("start {}", container.record.id);
    loop {
        poll_one(door, libc::POLLIN, -1).doing(doing)?;
        match newborn::next_report(door).doing(doing)? {
            Some(Report::Failed(failure)) => {
                return Err(lone_error(&container.plan()?, &container.record.alone.hooks, failure));
            }
            Some(Report::Listener(fd)) => {
                let plan = container.plan()?;
                let pid = container.record.process.map_or(0, |process| process.pid);
                listener::pass_on(plan.process.listener.as_ref(), Whose::First(pid), &fd, door)?;
            }
            Some(Report::End) => return Ok(()),
            _ => {}
        }
    }
}

/// Whom a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    First,
    All,
}

pub fn kill(container: &Container, signal: i32, reach: Reach) -> Result<()> {
    let doing = || format!("kill {}", container.record.id);
    // Without a PID namespace of its own nothing else ends with its first process, and may outlive it.
    let shares_pids = !container.record.alone.makes(libc::CLONE_NEWPID);
    if reach == Reach::All || (signal == libc::SIGKILL && shares_pids && has_members(container)) {
        return kill_all(container, signal);
    }
    let process = container.running("kill")?;
    pidfd_send_signal(process.as_fd(), signal).doing(doing)?;
    // A frozen process of cgroup v1 dies when it is thawed.
    if signal == libc::SIGKILL && container.status() == Status::Paused {
        container.cgroup()?.thaw()?;
    }
    Ok(())
}

fn has_members(container: &Container) -> bool {
    container.cgroup().is_ok_and(|cgroup| !cgroup.is_nowhere() && !cgroup.procs().is_empty())
}

/// What is left in the cgroup of a container that has stopped is reached, too: that is what the flag is for. Nobody left is
/// fine.
fn kill_all(container: &Container, signal: i32) -> Result<()> {
    let Ok(cgroup) = container.cgroup() else { return Ok(()) };
    match signal {
        _ if cgroup.is_nowhere() => kill_numbered(container, signal),
        libc::SIGKILL => cgroup.kill_all(Duration::ZERO),
        signal => cgroup.signal(signal),
    }
}

/// Without a cgroup: the end of a PID namespace's first process is that of all in it (pid_namespaces(7)).
fn kill_numbered(container: &Container, signal: i32) -> Result<()> {
    let doing = || format!("kill {}", container.record.id);
    let first = container.running("kill")?;
    if signal == libc::SIGKILL {
        return pidfd_send_signal(first.as_fd(), signal).doing(doing);
    }
    for pid in processes(container)? {
        // One that is gone meanwhile needs no signal; a number that was given anew is of another namespace.
        if let Ok(process) = clone::pidfd_open(pid)
            && ns::are_together(pid, container.record.process.map_or(0, |process| process.pid), "pid").unwrap_or(false)
        {
            let _ = pidfd_send_signal(process.as_fd(), signal);
        }
    }
    Ok(())
}

/// What `delete` does with one that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Stopped,
    Force,
}

/// Removes all of it; what went wrong with `poststop` hooks is for the log.
pub fn delete(root: &Path, id: &str, manner: Manner) -> Result<Vec<String>> {
    let container = match Container::find(root, id) {
        Err(err) if err.kind == Kind::NotFound && manner == Manner::Force => return sweep(root, id),
        other => other?,
    };
    let locked = container.dir.lock()?;
    let status = container.status();
    match (manner, status) {
        (Manner::Force, _) | (_, Status::Stopped) => {}
        // Nothing of the bundle has run yet.
        (_, Status::Created) => {}
        _ => {
            let cause = format!("cannot delete container that is not stopped: it is {}", status.word());
            return Err(Error::new(Kind::NotNow, format!("delete {id}"), cause).hint("kill it first, or use --force"));
        }
    }
    if let Some(process) = container.process() {
        let _ = pidfd_send_signal(process.as_fd(), libc::SIGKILL);
        if status == Status::Paused {
            let _ = container.cgroup().and_then(|cgroup| cgroup.thaw());
        }
        poll_one(process.as_fd(), libc::POLLIN, 10_000).doing(|| format!("wait for the end of {id}"))?;
    }
    container.remove_cgroup(GONE_WITHIN)?;
    fault::point("oci.emptied");
    let warnings = birth::after_the_end(&container);
    remove_dir(&container.dir)?;
    drop(locked);
    Ok(warnings)
}

/// A creation that was cut short in its first moment has a directory and no record. Whatever has no lock was made by others:
/// with `--root /var` an id of `lib` is none of ours.
fn sweep(root: &Path, id: &str) -> Result<Vec<String>> {
    let dir = Dir::of(root, &Id::parse(id)?);
    match dir.lock_path().exists() {
        true => remove_dir(&dir),
        false => match std::fs::remove_dir(&dir.0) {
            Err(err) if err.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => store::gone(other).doing(|| format!("remove {}", dir.0.display())),
        },
    }
    .map(|()| Vec::new())
}

fn remove_dir(dir: &Dir) -> Result<()> {
    // The record first: who looks in between finds none.
    let removed = store::gone(std::fs::remove_file(dir.state())).and_then(|()| std::fs::remove_dir_all(&dir.0));
    store::gone(removed).doing(|| format!("remove {}", dir.0.display()))
}

pub fn pause(container: &Container) -> Result<()> {
    match container.status() {
        Status::Running | Status::Created => container.cgroup()?.freeze(Duration::from_secs(2)),
        status => {
            let cause = format!("container not running: it is {}", status.word());
            Err(Error::new(Kind::NotNow, format!("pause {}", container.record.id), cause))
        }
    }
}

pub fn resume(container: &Container) -> Result<()> {
    match container.status() {
        Status::Paused => container.cgroup()?.thaw(),
        status => {
            let cause = format!("container not paused: it is {}", status.word());
            Err(Error::new(Kind::NotNow, format!("resume {}", container.record.id), cause))
        }
    }
}

/// New limits. A container that has stopped has none.
pub fn update(container: &Container, limits: &LinuxResources) -> Result<()> {
    container.running("update")?;
    let cgroup = container.cgroup()?;
    let layout = match container.record.cgroup.reach {
        cgroup::Reach::Delegated => Layout::of_plan(&container.record.cgroup),
        cgroup::Reach::Everything | cgroup::Reach::Nothing => Layout::detect()?,
    };
    let plan = cgroup::plan::update(&layout, &container.record.cgroup.place, limits, &cgroup.current())?;
    if container.record.scope.is_none() {
        let joined = cgroup.join_late(&plan)?;
        if !joined.is_empty() {
            let _locked = container.dir.lock()?;
            let mut record = container.record.clone();
            record.cgroup.leaves.extend(joined);
            store::write(&container.dir.state(), &record)?;
        }
    }
    if let Some(scope) = &container.record.scope {
        scope.update(&plan)?;
    }
    Cgroup::update(&plan)
}

/// The processes in its cgroup, or, where it has none, those of its PID namespace. One that has stopped has none.
pub fn processes(container: &Container) -> Result<Vec<i32>> {
    let (Some(first), Ok(cgroup)) = (container.process(), container.cgroup()) else { return Ok(Vec::new()) };
    match cgroup.is_nowhere() {
        false => Ok(cgroup.procs().into_iter().map(nix::unistd::Pid::as_raw).collect()),
        true => numbered_with(container, first.as_fd()),
    }
}

/// All whose PID namespace is that of the first process, which is held so that its number stays its own.
fn numbered_with(container: &Container, _first: BorrowedFd<'_>) -> Result<Vec<i32>> {
    let doing = || format!("list the processes of {}", container.record.id);
    let first = container.record.process.map_or(0, |process| process.pid);
    if ns::is_shared_with(first, "pid").doing(doing)? {
        let cause = format!("its cgroup would tell, and {NO_CGROUP}; its PID namespace is podrun's own");
        return Err(Error::new(Kind::Unsupported, doing(), cause));
    }
    Ok(clone::pids().doing(doing)?.filter(|pid| ns::are_together(*pid, first, "pid").unwrap_or(false)).collect())
}
