//! The last stretch, from the gate to execve: the user, the rights, the filter, in the one order that works.

#![forbid(unsafe_code)]

use super::gate::{hand_over, wait_at_gate};
use super::terminal::KEEP;
use super::{Failure, Ground, Groups, Lived, Step, at, at_index, hook_failed};
use crate::caps::CapabilitySets;
use crate::container::plan::{NewPrivileges, Process, Rlimit};
use crate::sys::fd::{self, Resolve};
use crate::sys::{cred, mount, seccomp, tty};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The last stretch, the same for a first process and for an exec: waits at the gate, then takes on the user, the
/// capabilities and the filter, in the one order in which each step may still be done (style: the order of the last steps).
pub(super) fn become_program(
    process: &Process,
    root: BorrowedFd<'_>,
    terminal: Option<&OwnedFd>,
    groups: Groups,
    ground: &Ground<'_>,
) -> Lived {
    cred::setsid().map_err(at(Step::Session))?;
    take_stdio(terminal, ground.stdio).map_err(at(Step::Stdio))?;
    if terminal.is_none() && process.uid != 0 {
        ground.stdio.into_iter().for_each(|one| give_pipe(one, process.uid));
    }
    enter_directory(root, process).map_err(at(Step::WorkingDirectory))?;
    set_limits(process, |limit| !is_below_our_own(limit))?;
    process.attributes.take_on()?;
    if ground.alone.door.is_some() {
        // Whoever makes a container now and starts it later wants to know now.
        find_program(process)?;
    }
    wait_at_gate(ground).map_err(at(Step::Gate))?;
    if let Some(hooks) = ground.alone.start_container {
        hooks.run().map_err(hook_failed(Step::StartContainerHook))?;
    }
    set_limits(process, is_below_our_own)?;
    cred::umask(process.umask);
    let sets = process.capabilities;
    drop_bounding_set(sets).map_err(at(Step::BoundingSet))?;
    // Groups before user: after setuid we may no longer change groups.
    if groups == Groups::Set || !process.groups.is_empty() {
        cred::setgroups(&process.groups).map_err(at(Step::Groups))?;
    }
    cred::setgid(process.gid).map_err(at(Step::Groups))?;
    cred::prctl(libc::PR_SET_KEEPCAPS, 1).map_err(at(Step::User))?;
    cred::setuid(process.uid).map_err(at(Step::User))?;
    cred::prctl(libc::PR_SET_KEEPCAPS, 0).map_err(at(Step::User))?;
    // Whether the gate stood open or not; the report itself closes at exec.
    fd::close_from_but(3 + ground.alone.preserved, &mut [ground.report]).map_err(at(Step::CloseFds))?;
    if process.new_privileges == NewPrivileges::Never {
        cred::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(at(Step::NoNewPrivileges))?;
    }
    // A filter without no_new_privs needs CAP_SYS_ADMIN, so that one goes only after it. All our own work but two calls
    // is done by now: the profile need not allow it.
    const SYS_ADMIN: u64 = 1 << 21;
    let permitted = sets.permitted | SYS_ADMIN;
    cred::capset(sets.effective | SYS_ADMIN, permitted, sets.inheritable).map_err(at(Step::Capabilities))?;
    raise_ambient(sets.ambient).map_err(at(Step::Capabilities))?;
    if let Some(program) = &process.seccomp {
        let listener = seccomp::set_mode_filter(program.flags, &program.filter).map_err(at(Step::Seccomp))?;
        // Never closed by us, which would be a call that the filter judges: execve closes it.
        if let Some(listener) = &*ManuallyDrop::new(listener) {
            hand_over(ground.report, listener.as_fd()).map_err(at(Step::Listener))?;
        }
    }
    cred::capset(sets.effective, sets.permitted, sets.inheritable).map_err(at(Step::Capabilities))?;
    execute(process, ground)
}

fn set_limits(process: &Process, which: impl Fn(&Rlimit) -> bool) -> Result<(), Failure> {
    for (index, limit) in process.rlimits.iter().enumerate().filter(|(_, limit)| which(limit)) {
        cred::setrlimit(limit.resource, limit.soft, limit.hard).map_err(at_index(Step::Rlimit, index))?;
    }
    Ok(())
}

/// So few open files that our own work, a descriptor for each mount, would not get by with them. To lower a limit cannot fail.
fn is_below_our_own(limit: &Rlimit) -> bool {
    limit.resource == libc::RLIMIT_NOFILE && limit.soft < 1024
}

fn take_stdio(terminal: Option<&OwnedFd>, handed: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    if let Some(terminal) = terminal {
        tty::make_controlling(terminal.as_fd())?;
        return (0..3).try_for_each(|number| fd::dup_to(terminal.as_fd(), number));
    }
    // All three are above 2 (the parent saw to it), so none is overwritten before its turn.
    (0..3).zip(handed).try_for_each(|(number, one)| fd::dup_to(one, number))
}

/// Who opens /dev/stdout anew has to be the pipe's owner. Nothing else changes hands: a file, or a FIFO with a name, is the
/// host's (CVE-2026-88265). One of a user who is not there in this user namespace stays his.
fn give_pipe(one: BorrowedFd<'_>, uid: u32) {
    const PIPEFS_MAGIC: i64 = 0x5049_5045;
    if fd::filesystem(one).is_ok_and(|magic| magic == PIPEFS_MAGIC) {
        let _ = fd::fchown(one, uid, KEEP);
    }
}

/// chdir by the root's rules, then the kernel's own word that the place is inside (CVE-2024-21626): both before the filter.
fn enter_directory(root: BorrowedFd<'_>, process: &Process) -> io::Result<()> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let directory = fd::openat2(root, process.cwd.path.c(), flags, 0, Resolve::InRoot)?;
    mount::fchdir(directory.as_fd())?;
    if mount::cwd_is_inside_root()? { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EXDEV)) }
}

fn drop_bounding_set(sets: CapabilitySets) -> io::Result<()> {
    for capability in 0..64 {
        if sets.bounding & (1 << capability) != 0 {
            continue;
        }
        match cred::prctl(libc::PR_CAPBSET_DROP, capability) {
            // The first number that the kernel does not know: there is no more.
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => break,
            other => other.map(drop)?,
        }
    }
    Ok(())
}

fn raise_ambient(ambient: u64) -> io::Result<()> {
    (0..64)
        .filter(|capability| ambient & (1 << capability) != 0)
        .try_for_each(|capability| cred::ambient(libc::PR_CAP_AMBIENT_RAISE, capability))
}

/// Whether there is a candidate that execve(2) may take, without a look at what is in it.
fn find_program(process: &Process) -> Result<(), Failure> {
    let mut worst = libc::ENOENT;
    for program in &process.programs {
        match fd::may_execute(program.c()).map_err(|err| err.raw_os_error().unwrap_or(libc::EIO)) {
            Ok(()) => return Ok(()),
            Err(libc::ENOENT | libc::ENOTDIR) => {}
            Err(errno) => worst = errno,
        }
    }
    match process.programs.is_empty() {
        // A container without `process`, which nobody can start.
        true => Ok(()),
        false => Err(Failure { step: Step::Exec, index: 0, errno: worst }),
    }
}

/// execve(2) of the first candidate that is there; one that is there and may not be run is the better answer than none.
fn execute(process: &Process, ground: &Ground<'_>) -> Lived {
    let mut worst = libc::ENOENT;
    for program in &process.programs {
        let err = cred::execve(program.c(), ground.argv, ground.envp).raw_os_error().unwrap_or(libc::EIO);
        match err {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = err,
            _ => return Err(Failure { step: Step::Exec, index: 0, errno: err }),
        }
    }
    Err(Failure { step: Step::Exec, index: 0, errno: worst })
}
