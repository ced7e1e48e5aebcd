//! Podrun for a user who is not root: a user namespace in which he is, entered before anything else is done.
//!
//! The first command of a user makes it ([`keeper`]), with all ids that he has ([`ids`]); later ones join it, and are from
//! there on the same program as for root. A process keeps it, pause without a pod, and whoever leaves last lets that one go
//! when there is no pod any more. Each command holds `user.lock` shared while it is inside, so nobody is left outside of a
//! namespace that somebody else still uses.
//!
//! Does not: give what the kernel withholds. What belongs to the host's own namespaces (its links, its firewall, its cgroups
//! but for what was delegated) stays out of reach, and whoever asks for it is told so where he asks.

#![forbid(unsafe_code)]

mod delegation;
pub mod doctor;
pub mod ids;
mod keeper;

use crate::error::{Doing, Error, Kind, Result};
use crate::net::lock::{Hold, lock};
use crate::roots::{Login, Roots};
use crate::store;
use crate::sys::{cred, fd};
use nix::fcntl::Flock;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where this process has gone, if it was a user's.
static INSIDE: OnceLock<Inside> = OnceLock::new();
/// Whose this process was before it became root of his namespace.
static WHO: OnceLock<u32> = OnceLock::new();

#[derive(Debug)]
struct Inside {
    roots: Roots,
    used: Flock<File>,
}

/// Where this user's pods lie, unless he says otherwise: root's are the host's.
pub fn default_roots() -> Result<Roots> {
    match login() {
        None => Ok(Roots::default()),
        Some(login) => Roots::of_user(&login).ok_or_else(|| {
            Error::new(Kind::Invalid, "find where pods lie", "neither HOME nor XDG_DATA_HOME says where your files are")
                .hint("set HOME, or give --root and --run-root")
        }),
    }
}

/// Whether whoever called is a user and not root, inside his namespace or not yet.
pub fn is_user() -> bool {
    cred::effective_uid() != 0 || WHO.get().is_some()
}

/// Whether a container may have this group: of a user's, those that are mapped (user_namespaces(7), gid_map).
pub fn has_group(group: u32) -> bool {
    !is_user()
        || ids::mapped_groups().iter().any(|extent| extent.inside <= group && group - extent.inside < extent.count)
}

/// The last of those.
pub fn last_group() -> u32 {
    ids::mapped_groups().iter().filter_map(|one| (one.inside + one.count).checked_sub(1)).max().unwrap_or(0)
}

/// Of a user who is not root.
pub fn login() -> Option<Login> {
    let uid = WHO.get().copied().unwrap_or_else(cred::effective_uid);
    if uid == 0 {
        return None;
    }
    let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = path("HOME").or_else(|| ids::Account::of(uid)?.home);
    let has_run_user = std::fs::metadata(format!("/run/user/{uid}")).is_ok_and(|found| found.uid() == uid);
    Some(Login { uid, home, data: path("XDG_DATA_HOME"), runtime: path("XDG_RUNTIME_DIR"), has_run_user })
}

/// Whether there is nothing that a command could find: no pod, and nobody who keeps the namespace of one.
pub fn is_idle(roots: &Roots) -> bool {
    cred::effective_uid() != 0 && store::pods(roots).is_empty() && keeper::recorded(roots).is_none()
}

/// Before a pod is made, and before [`enter`]: into a cgroup that is the user's, if his service manager has one. Whoever has
/// none makes pods all the same; a limit that is asked for says then what is missing.
pub fn seek_cgroup() {
    if INSIDE.get().is_none()
        && let Some(login) = login()
    {
        let _ = delegation::seek(&login);
    }
}

/// Takes this process into the user's namespace, if it is a user's; a second time is nothing. Says what he should know. Before
/// any other thread exists: setns(2) refuses those who have some.
pub fn enter(roots: &Roots) -> Result<Vec<String>> {
    let uid = cred::effective_uid();
    if uid == 0 || INSIDE.get().is_some() {
        return Ok(Vec::new());
    }
    let within = |err: Error| err.within("enter your user namespace");
    make_run_root(&roots.run, uid).map_err(within)?;
    let used = lock(&roots.run.join("user.lock"), Hold::Shared).map_err(within)?;
    let _ = WHO.set(uid);
    let here = std::env::current_dir();
    let warnings = keeper::join(roots).map_err(within)?;
    // setns(2) has put us into the root directory.
    if let Ok(here) = here {
        let _ = std::env::set_current_dir(here);
    }
    // As after execve(2) of a program that was not changed: /proc/self is ours to read. Nobody gains by it who could not
    // join the namespace by himself.
    let _ = cred::prctl(libc::PR_SET_DUMPABLE, 1);
    let _ = INSIDE.set(Inside { roots: roots.clone(), used });
    Ok(warnings)
}

/// Below a directory that belongs to the user alone, as his run-root holds sockets that lead to his pods.
fn make_run_root(run: &Path, uid: u32) -> Result<()> {
    if !run.is_dir() {
        std::fs::create_dir_all(run.parent().unwrap_or(run)).doing(|| format!("make {}", run.display()))?;
        store::make_private_dir(run, 0o700)?;
    }
    let owner = std::fs::symlink_metadata(run).doing(|| format!("look at {}", run.display()))?;
    if owner.uid() != uid || !owner.is_dir() {
        let cause = format!("it belongs to uid {}, not to you", owner.uid());
        return Err(Error::new(Kind::Invalid, format!("use the directory {}", run.display()), cause)
            .hint("give --run-root a directory of your own, or set XDG_RUNTIME_DIR"));
    }
    Ok(())
}

/// At the end of a command. Where nobody is inside any more and there is no pod, whoever keeps the namespace is let go.
pub fn leave() {
    let Some(Inside { roots, used }) = INSIDE.get() else { return };
    // Whoever finds it held leaves it to the last one.
    if fd::flock(used.as_fd(), libc::LOCK_EX | libc::LOCK_NB).is_ok() && has_no_pod(roots) {
        keeper::let_go(roots);
    }
}

/// A directory of a pod that is half made or half gone counts: `prune` needs the namespace to see to it.
fn has_no_pod(roots: &Roots) -> bool {
    std::fs::read_dir(roots.pods()).map_or(true, |mut pods| pods.next().is_none())
}
