//! What of the host a container in no pod depends on, for root of the machine and for everybody else.

#![forbid(unsafe_code)]

use crate::caps;
use crate::cgroup::Layout;
use crate::container::init::Groups;
use crate::container::planning::Host;
use crate::error::{self, Doing, Result};
use crate::pod::create;
use crate::privilege::Privilege;
use crate::sys::calls::{self, Need};
use crate::sys::cred;

pub fn probe() -> Result<Host> {
    if Privilege::own() == Privilege::Host {
        return create::probe();
    }
    if let Some(call) = calls::missing().find(|call| call.need == Need::Always) {
        return Err(error::without(&[call], "make a container"));
    }
    let score = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
    Ok(Host {
        cgroups: Layout::detect()?,
        open_files: cred::getrlimit(0, libc::RLIMIT_NOFILE).doing(|| "read the limit of open files".into())?,
        capabilities: caps::mask(::caps::read(None, ::caps::CapSet::Permitted).unwrap_or_default()),
        oom_score_adj: score.unwrap_or(0),
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
    let path = format!("/proc/{process}/setgroups");
    let word = std::fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    Ok(if word.starts_with("deny") { Groups::Denied } else { Groups::Set })
}
