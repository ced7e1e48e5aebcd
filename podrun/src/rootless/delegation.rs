//! A cgroup for a user's pods, where none is his yet: a login's session is a scope of root's, but the user's own service manager
//! has a part of the tree, and takes a process in there (systemd.scope(5), `Delegate=`).
//!
//! For the command that makes a pod, since what it starts is born where it is. The scope goes with the command; the pods'
//! directories lie beside it, in what was delegated to the manager's user.

#![forbid(unsafe_code)]

use crate::cgroup::{Layout, Manager, Reach, Scope};
use crate::error::Result;
use crate::roots::Login;
use std::path::PathBuf;

/// Has the user's manager take this process in. Nothing where that is not needed, or there is none. Before the user's
/// namespace is entered: the manager knows its user by his uid.
pub(super) fn seek(login: &Login) -> Result<()> {
    let Some(manager) = manager(login) else { return Ok(()) };
    match Layout::detect()?.reach {
        Reach::Delegated => Ok(()),
        _ => Scope::around_this_process(manager),
    }
}

/// The user's own, where it runs.
pub(super) fn manager(login: &Login) -> Option<Manager> {
    let usual = || login.has_run_user.then(|| PathBuf::from(format!("/run/user/{}", login.uid)));
    Manager::listening_in(&login.runtime.clone().or_else(usual)?)
}
