//! What of the host a container in no pod depends on, for root of the machine and for everybody else.

#![forbid(unsafe_code)]

use crate::container::init::Groups;
use crate::container::planning::Host;
use crate::error::{Doing, Result};
use crate::pod::create;
use crate::privilege::Privilege;
use crate::sys::cred;

pub fn probe() -> Result<Host> {
    if Privilege::own() == Privilege::Host {
        return create::probe();
    }
    create::facts("make a container", create::own_capabilities(), || {
        cred::getrlimit(0, libc::RLIMIT_NOFILE).doing(|| "read the limit of open files".into())
    })
}

/// Of podrun's own user namespace; one that a container gets is asked by its init.
pub fn groups(privilege: Privilege) -> Result<Groups> {
    match privilege {
        Privilege::Host => Ok(Groups::Set),
        _ => groups_of("self"),
    }
}

/// Of the user namespace that a process is in.
pub fn groups_of(process: &str) -> Result<Groups> {
    Groups::of(process).doing(|| format!("read /proc/{process}/setgroups"))
}
