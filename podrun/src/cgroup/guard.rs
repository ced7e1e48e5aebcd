//! v2's device rules in force: programs loaded into the kernel, and attached to cgroups.

#![forbid(unsafe_code)]

use super::devices;
use super::layout::Controller;
use super::layout::Home;
use super::layout::Layout;
use super::live::Cgroup;
use super::live::Open;
use super::live::cause;
use super::plan::CgroupPlan;
use super::plan::Leaf;
use super::program;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::bpf;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The kernel takes 0.2 ms to verify a program, so those last used stay loaded: the containers of a pod mostly have the
/// same rules.
#[derive(Debug, Default)]
pub struct Programs(Vec<(Vec<u64>, OwnedFd)>);

impl Programs {
    const KEPT: usize = 4;

    /// With that of a container which has no rules of its own, where rules are programs. A refusal is for whoever needs it.
    pub fn begin(layout: &Layout) -> Self {
        let mut programs = Self::default();
        if let (Home::V2(_), Ok(rules)) = (layout.home(Controller::Devices), devices::rules(&[])) {
            let _ = programs.loaded(&program::emit(&rules));
        }
        programs
    }

    fn loaded(&mut self, instructions: &[u64]) -> nix::Result<BorrowedFd<'_>> {
        let known = self.0.iter().position(|(known, _)| known == instructions);
        let program = match known {
            Some(at) => self.0.remove(at),
            None => (instructions.to_vec(), load(instructions)?),
        };
        self.0.truncate(Self::KEPT - 1);
        self.0.insert(0, program);
        Ok(self.0[0].1.as_fd())
    }
}

impl Cgroup {
    /// Puts the device rules of the plan in force, where they are a program. Not part of `create`, so that a newborn can
    /// set up its mounts meanwhile, on another processor.
    pub fn guard(&self, plan: &CgroupPlan, programs: &mut Programs) -> Result<()> {
        plan.leaves.iter().zip(&self.leaves).try_for_each(|(leaf, open)| open.guard(leaf, programs))
    }
}

impl Open {
    /// The new program first, then the old ones off: in between both must agree, so nothing is open that neither opens.
    pub(super) fn guard(&self, leaf: &Leaf, programs: &mut Programs) -> Result<()> {
        let Some(instructions) = &leaf.devices else { return Ok(()) };
        let doing =
            |what: &str| format!("{what} the device program of {} for linux.resources.devices", self.path.display());
        let program = programs.loaded(instructions).map_err(|errno| refused(doing("load"), errno))?;
        let old = bpf::query_cgroup_device(&self.fd).map_err(|errno| refused(doing("query"), errno))?;
        bpf::attach_cgroup_device(&self.fd, program).map_err(|errno| refused(doing("attach"), errno))?;
        for id in old {
            let old = bpf::program_by_id(id).doing(|| doing("open the old one of"))?;
            bpf::detach_cgroup_device(&self.fd, old).doing(|| doing("detach the old one of"))?;
        }
        Ok(())
    }
}

/// Before Linux 5.11 a program is charged to RLIMIT_MEMLOCK, 64 KiB by default: there the limit is lifted for the
/// moment, so that no container inherits it. Newer kernels charge the memory cgroup and need neither the limit nor
/// CAP_SYS_RESOURCE.
fn load(instructions: &[u64]) -> nix::Result<OwnedFd> {
    let load = || bpf::load_cgroup_device(instructions, "podrun_devices", &mut []);
    match load() {
        Err(Errno::EPERM) => {}
        other => return other,
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    setrlimit(Resource::RLIMIT_MEMLOCK, libc::RLIM_INFINITY, libc::RLIM_INFINITY)
        .or_else(|_| setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard))?;
    let loaded = load();
    setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)?;
    loaded
}

fn refused(doing: String, errno: Errno) -> Error {
    let err = Error::new(Kind::Kernel, doing, cause(errno));
    match errno {
        Errno::EPERM => {
            err.hint("it needs CAP_BPF or CAP_SYS_ADMIN and, before Linux 5.11, RLIMIT_MEMLOCK above 64 KiB")
        }
        Errno::EINVAL | Errno::ENOSYS => err.hint("the kernel needs CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF"),
        _ => err,
    }
}
