//! `exec`: a program joins a container.

#![forbid(unsafe_code)]

use super::birth::write_pid;
use super::foreground::Stay;
use super::host;
use super::program;
use super::record::{Container, Status};
use crate::cgroup::{Below, Cgroup};
use crate::container::alone;
use crate::container::birth::{self, Born, Cradle, Report};
use crate::container::init::{self, Groups, Ids, Visit};
use crate::container::labels::{Labels, Module};
use crate::container::listener::{self, Whose};
use crate::container::plan::{NewPrivileges, Process, Stdio};
use crate::container::planning::{self, ExecRequest};
use crate::error::{Doing, Error, Kind, Result};
use crate::pod::exec as pods;
use crate::privilege::Privilege;
use crate::sys::clone::{self, pidfd_send_signal, poll_one};
use crate::sys::cred;
use crate::sys::ns;
use crate::user::Files;
use oci_spec::runtime;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// What is to run: in words, or as a `process` object of the specification.
#[derive(Debug, Clone)]
pub enum Program {
    Words(ExecRequest),
    Document(Box<runtime::Process>),
}

#[derive(Debug, Clone)]
pub struct Wish {
    pub program: Program,
    pub more_groups: Vec<u32>,
    /// Where it is another than the container's.
    pub new_privileges: Option<NewPrivileges>,
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
    /// A terminal, whatever the program's own words are.
    pub terminal: bool,
    pub console: Option<PathBuf>,
    pub pidfd: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub preserved: i32,
    pub detached: bool,
    /// `--ignore-paused`.
    pub even_paused: bool,
    pub cgroup: Below,
}

/// Runs a program in a container, once podrun is unwritable; the answer is its exit code, or 0 where the caller does not stay.
pub fn exec(container: &Container, wish: &Wish) -> Result<i32> {
    let _holes = program::hold_preserved(wish.preserved)?;
    let first = check(container, wish)?;
    let process = plan(container, wish)?;
    if process.stdio != Stdio::Pipes && wish.detached && wish.console.is_none() {
        let cause = "a terminal was asked for, and nobody is there to take it";
        return Err(Error::new(Kind::Usage, "make a terminal", cause).hint("--console-socket PATH names somebody"));
    }
    if let (Stdio::Pipes, Some(path)) = (process.stdio, &wish.console) {
        let doing = format!("use the console socket {}", path.display());
        return Err(Error::new(Kind::Usage, doing, "no terminal was asked for: there is none to hand over"));
    }
    let born = bear(container, &process, first.as_fd(), wish)?;
    let stay = match wish.detached {
        true => None,
        false => Some(Stay::begin()?),
    };
    let mut master = None;
    let pid = container.record.process.as_ref().map_or(0, |process| process.pid);
    let attended = attend(&born, &process, pid, wish, &mut master);
    if attended.is_err() {
        let _ = pidfd_send_signal(born.child.pidfd.as_fd(), libc::SIGKILL);
        let _ = clone::wait(born.child.pidfd.as_fd());
    }
    attended?;
    match stay {
        None => Ok(0),
        Some(stay) => stay.until_end(&born.child.pidfd, master.as_ref()).map(clone::Exit::code),
    }
}

fn check(container: &Container, wish: &Wish) -> Result<OwnedFd> {
    let doing = || format!("exec in {}", container.record.id);
    match container.status() {
        Status::Stopped => Err(Error::new(Kind::NotNow, doing(), "cannot exec in a stopped container")),
        // It would not run before somebody resumes the container, and hang until then.
        Status::Paused if !wish.even_paused => {
            Err(Error::new(Kind::NotNow, doing(), "cannot exec in a paused container").hint("--ignore-paused waits"))
        }
        _ => container.running("exec in"),
    }
}

fn plan(container: &Container, wish: &Wish) -> Result<Process> {
    let own = container.plan()?.process;
    let mut process = match &wish.program {
        Program::Document(asked) => planning::plan_joining(&own, asked, &users(container, true)?, &host::probe()?)?,
        Program::Words(request) => planning::plan_exec(&own, request, &users(container, request.user.is_some())?)?,
    };
    if wish.terminal && process.stdio == Stdio::Pipes {
        process.stdio = Stdio::Terminal { size: None };
    }
    process.groups.extend(&wish.more_groups);
    process.new_privileges = wish.new_privileges.unwrap_or(process.new_privileges);
    if wish.apparmor.is_some() || wish.selinux.is_some() {
        process.labels = Labels::named(wish.apparmor.as_deref(), wish.selinux.as_deref(), &Module::is_here)?;
    }
    Ok(process)
}

fn users(container: &Container, needed: bool) -> Result<Files> {
    match &container.record.process {
        Some(process) if needed => pods::read_users(process),
        _ => Ok(Files::default()),
    }
}

fn bear(container: &Container, process: &Process, first: BorrowedFd<'_>, wish: &Wish) -> Result<Born> {
    if let Some(scope) = &container.record.scope
        && Privilege::own() != Privilege::Host
    {
        scope.approach(&container.record.cgroup)?;
    }
    let opened = wish.cgroup.open(&container.record.cgroup);
    let born = opened.and_then(|cgroup| bear_in(&cgroup, container, process, first, wish));
    match born {
        // Its own is there no more, or may hold no process.
        Err(err) if wish.cgroup == Below::Own && matches!(err.kind, Kind::NotFound | Kind::NotNow) => {
            let pid = container.record.process.map_or(0, |process| process.pid);
            Cgroup::or_where_it_went(err, pid, |cgroup| bear_in(cgroup, container, process, first, wish))
        }
        born => born,
    }
}

fn bear_in(
    cgroup: &Cgroup,
    container: &Container,
    process: &Process,
    first: BorrowedFd<'_>,
    wish: &Wish,
) -> Result<Born> {
    let stdio = program::stdio(wish.preserved)?;
    let tasks = cgroup.tasks()?;
    let visit = visit(container);
    let groups = match (visit.ids, Privilege::own()) {
        (Ids::Host, Privilege::Host) => Groups::Set,
        _ => host::groups_of(&container.record.process.map_or(0, |process| process.pid).to_string())?,
    };
    let own_pid = ns::own("pid").doing(|| "open podrun's own namespaces".into())?;
    let cradle = Cradle {
        cgroup: cgroup.unified_fd(),
        tasks: &tasks,
        stdio: [stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()],
        alone: init::Alone { door: None, groups, preserved: wish.preserved, start_container: None },
    };
    cred::reset_signals();
    birth::exec(process, first, visit, own_pid.as_fd(), &cradle)
}

/// Root of the machine joins all that the container is in. Anybody else is let into what is not his already by being root of
/// the container's user namespace, or of his own.
fn visit(container: &Container) -> Visit {
    let more = container.record.alone.beyond();
    let ids = if more & libc::CLONE_NEWUSER == 0 { Ids::Host } else { Ids::Mapped };
    let privilege = Privilege::own();
    if privilege == Privilege::Host {
        return Visit { kinds: Visit::USUAL.kinds | more, ids, ..Visit::USUAL };
    }
    let pid = container.record.process.map_or(0, |process| process.pid);
    let is_shared = |kind| ns::is_shared_with(pid, alone::file(kind)).unwrap_or(false);
    let others = alone::each(Visit::USUAL.kinds | libc::CLONE_NEWPID).filter(|kind| !is_shared(*kind));
    let all = others.fold(more, |all, kind| all | kind);
    // A user has a right to none of them before he is root of the container's.
    let user = if privilege == Privilege::User { libc::CLONE_NEWUSER } else { 0 };
    let between = all & (libc::CLONE_NEWPID | user);
    Visit { kinds: all & !between & !libc::CLONE_NEWPID, ids, between, ..Visit::USUAL }
}

/// Answers the newborn until it has become its program.
fn attend(born: &Born, process: &Process, first: i32, wish: &Wish, master: &mut Option<OwnedFd>) -> Result<()> {
    let doing = || "hear of the program's init".to_owned();
    if let Some(path) = &wish.pid_file {
        write_pid(path, born.child.pid)?;
    }
    if let Some(path) = &wish.pidfd {
        super::birth::hand_over(path, b"pidfd", born.child.pidfd.as_fd())?;
    }
    if process.stdio == Stdio::Pipes {
        birth::open_gate(born.report.as_fd()).doing(doing)?;
    }
    loop {
        poll_one(born.report.as_fd(), libc::POLLIN, -1).doing(doing)?;
        match birth::next_report(born.report.as_fd()).doing(doing)? {
            Some(Report::Terminal(its)) => {
                match &wish.console {
                    Some(path) => super::birth::hand_over(path, b"/dev/ptmx", its.as_fd())?,
                    None => *master = Some(its),
                }
                birth::open_gate(born.report.as_fd()).doing(doing)?;
            }
            Some(Report::Listener(fd)) => {
                let whose = Whose::Execd { pid: born.child.pid, first };
                listener::pass_on(process.listener.as_ref(), whose, &fd, born.report.as_fd())?;
            }
            Some(Report::Failed(failure)) => return Err(birth::process_error(process, failure)),
            Some(Report::End) => return Ok(()),
            _ => {}
        }
    }
}
