//! Who keeps a user's namespaces while no command is there: pause without a pod, in a user namespace and a mount namespace of
//! the user's.
//!
//! `keeper.json` in the run-root says which process it is, and is made under a lock, so that two first commands make one. It
//! is kept by name only: should it be killed, any process of any pod leads to the same user namespace. Another one would be of
//! no use, since nobody there could signal or join what lives in the first.

#![forbid(unsafe_code)]

use super::ids::{self, Maps};
use crate::error::{Doing, Error, Kind, Result};
use crate::net::lock::{Hold, lock};
use crate::roots::Roots;
use crate::sandbox;
use crate::store::{self, Keepers, PodDir, ProcessRecord};
use crate::sys::clone::{Child, Clone, clone3, exit, pidfd_send_signal, poll_one};
use crate::sys::cred::{self, Pointers};
use crate::sys::{fd, mount, ns, socket};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

const BOTH: i32 = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    version: u32,
    keeper: ProcessRecord,
}

fn file(roots: &Roots) -> PathBuf {
    roots.run.join("keeper.json")
}

/// The keeper's process, while it lives.
pub(super) fn recorded(roots: &Roots) -> Option<OwnedFd> {
    store::read::<Record>(&file(roots)).ok()?.keeper.open()
}

/// Joins the user's namespaces, made or mended where they have to be.
pub(super) fn join(roots: &Roots) -> Result<Vec<String>> {
    let doing = || "join it".to_owned();
    if let Some(keeper) = recorded(roots) {
        ns::setns(keeper.as_fd(), BOTH).doing(doing)?;
        return Ok(Vec::new());
    }
    let _making = lock(&roots.run.join("keeper.lock"), Hold::Exclusive)?;
    // Somebody else may have been faster.
    if let Some(keeper) = recorded(roots) {
        ns::setns(keeper.as_fd(), BOTH).doing(doing)?;
        return Ok(Vec::new());
    }
    match any_process_of_a_pod(roots)? {
        Some(found) => {
            rejoin(&found)?;
            let keeper = start(roots, 0, |_| Ok(()))?;
            note(roots, &keeper)?;
            Ok(Vec::new())
        }
        None => {
            let (keeper, warnings) = make(roots)?;
            note(roots, &keeper)?;
            ns::setns(keeper.pidfd.as_fd(), BOTH).doing(doing)?;
            Ok(warnings)
        }
    }
}

fn note(roots: &Roots, keeper: &Child) -> Result<()> {
    let record = Record { version: store::VERSION, keeper: ProcessRecord::of(keeper.pid) };
    store::write(&file(roots), &record)
}

/// Nobody is inside: the last of his processes goes.
pub(super) fn let_go(roots: &Roots) {
    if let Some(keeper) = recorded(roots) {
        let _ = pidfd_send_signal(keeper.as_fd(), libc::SIGKILL);
        let _ = poll_one(keeper.as_fd(), libc::POLLIN, 1000);
    }
    let _ = std::fs::remove_file(file(roots));
}

/// With all ids of the user's; where they cannot be had, with his own, and a word about it.
fn make(roots: &Roots) -> Result<(Child, Vec<String>)> {
    let (uid, gid) = (cred::effective_uid(), cred::effective_gid());
    let (maps, missing) = ids::whole(uid, gid);
    let only_one = |why: &str| {
        format!(
            "{why}: containers have the one id 0, so images with other users do not work; `podrun doctor` says how to mend it"
        )
    };
    let made = start(roots, libc::CLONE_NEWUSER, |pid| ids::apply(pid, &maps));
    match (made, missing) {
        (Ok(keeper), missing) => Ok((keeper, missing.iter().map(|why| only_one(why)).collect())),
        (Err(err), None) if err.kind == Kind::Unsupported => {
            let keeper = start(roots, libc::CLONE_NEWUSER, |pid| ids::apply(pid, &Maps::single(uid, gid)))?;
            Ok((keeper, vec![only_one(&err.to_string())]))
        }
        (Err(err), _) => Err(err),
    }
}

/// A pause without a pod; in a new user namespace it waits for its ids.
fn start(roots: &Roots, new: i32, give_ids: impl FnOnce(i32) -> Result<()>) -> Result<Child> {
    let program = sandbox::pause_program(roots)?;
    let (argv, envp) = (Pointers::new(vec![c"pause".to_owned()]), Pointers::new(Vec::new()));
    let (ours, theirs) = socket::seqpacket_pair().doing(|| "make the report socket".into())?;
    let born = || {
        fd::close_inherited(ours.as_fd());
        let Err(err) = live(new, theirs.as_fd(), program.as_fd(), &argv, &envp);
        let _ = socket::send(theirs.as_fd(), &err.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes(), &[], 0);
        exit(1)
    };
    let child = clone3(&Clone { namespaces: new, cgroup: None }, born).map_err(explain)?;
    drop(theirs);
    let ready = give_ids(child.pid).and_then(|()| released(&ours));
    if ready.is_err() {
        let _ = pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
        let _ = crate::sys::clone::wait(child.pidfd.as_fd());
    }
    ready.map(|()| child)
}

fn released(report: &OwnedFd) -> Result<()> {
    let doing = || "start the keeper of your namespaces".to_owned();
    socket::send(report.as_fd(), b"G", &[], 0).doing(doing)?;
    let mut errno = [0; 4];
    match socket::receive(report.as_fd(), &mut errno, 0).doing(doing)? {
        // Closed by execve(2).
        (0, _) => Ok(()),
        _ => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))).doing(doing),
    }
}

fn explain(err: io::Error) -> Error {
    let errno = err.raw_os_error();
    let failed = Err::<(), _>(err).doing(|| "make a user namespace".into()).unwrap_err();
    match errno {
        Some(libc::EPERM | libc::EACCES) => failed.kind(Kind::Unsupported).hint(
            "this host keeps users from making one: `podrun doctor` says which setting does, or run podrun with sudo",
        ),
        Some(libc::ENOSPC | libc::EUSERS) => {
            failed.kind(Kind::Unsupported).hint("as root: sysctl -w user.max_user_namespaces=15000")
        }
        _ => failed,
    }
}

/// Between clone3 and execve: no allocation, no lock.
fn live(
    new: i32,
    report: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    argv: &Pointers,
    envp: &Pointers,
) -> io::Result<Infallible> {
    cred::reset_signals();
    let mut byte = [0];
    // Whoever makes us gives us ids first, and dies with us until then.
    if fd::read(report, &mut byte)? != 1 {
        exit(1);
    }
    if new & libc::CLONE_NEWUSER != 0 {
        cred::setgid(0)?;
        cred::setuid(0)?;
        make_mounts_our_own()?;
    }
    // Out of the caller's session: a Ctrl-C or a closed terminal there is not meant for the pods.
    cred::setsid()?;
    // Should the rest of the memory go, pods outlive it: they lead back to the namespace.
    let program = fd::dup_above(program, 64)?;
    let null = fd::open(c"/dev/null", libc::O_RDWR)?;
    (0..3).try_for_each(|number| fd::dup_to(null.as_fd(), number))?;
    mount::chdir(c"/")?;
    fd::close_on_exec_from(3);
    Err(cred::fexecve(program.as_fd(), argv, envp))
}

/// What is mounted on the host later is seen here, too, and nothing that is mounted here is seen there.
fn make_mounts_our_own() -> io::Result<()> {
    ns::unshare(libc::CLONE_NEWNS)?;
    mount::mount_flags(c"/", libc::MS_REC | libc::MS_SLAVE)
}

/// The way back into namespaces whose keeper was killed.
struct Found {
    user: OwnedFd,
    /// Of a process that is in the keeper's mount namespace, too.
    beside: Option<OwnedFd>,
}

fn rejoin(found: &Found) -> Result<()> {
    let doing = || "join the namespace that your pods are in".to_owned();
    match &found.beside {
        Some(process) => ns::setns(process.as_fd(), BOTH).doing(doing),
        None => ns::setns(found.user.as_fd(), libc::CLONE_NEWUSER).and_then(|()| make_mounts_our_own()).doing(doing),
    }
}

/// pause, monitor or pump of any pod are in the keeper's mount namespace, containers in their own. Any of them will do.
fn any_process_of_a_pod(roots: &Roots) -> Result<Option<Found>> {
    let own = std::fs::metadata("/proc/self/ns/user").doing(|| "look at the own user namespace".into())?.ino();
    for (_, dir, _) in store::pods(roots) {
        for process in keepers(&dir) {
            if let Some(found) = look(&process, own, true) {
                return Ok(Some(found));
            }
        }
        for process in store::containers(&dir).into_iter().filter_map(|container| container.process) {
            if let Some(found) = look(&process, own, false) {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

fn keepers(dir: &PodDir) -> Vec<ProcessRecord> {
    let Ok(keepers) = store::read::<Keepers>(&dir.keepers()) else { return Vec::new() };
    [Some(keepers.pause), Some(keepers.monitor), keepers.pump].into_iter().flatten().collect()
}

/// The namespace right below ours that the process is in, or in one below of.
fn look(process: &ProcessRecord, own: u64, is_beside: bool) -> Option<Found> {
    let pidfd = process.open()?;
    let mut user = ns::of(process.pid, "user").ok()?;
    for _ in 0..32 {
        let parent = ns::parent(user.as_fd()).ok()?;
        if fd::fstat(parent.as_fd()).ok()?.st_ino == own {
            // Still alive after the open: the number was its own all the time.
            pidfd_send_signal(pidfd.as_fd(), 0).ok()?;
            return Some(Found { user, beside: is_beside.then_some(pidfd) });
        }
        user = parent;
    }
    None
}
