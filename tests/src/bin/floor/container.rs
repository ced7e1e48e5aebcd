//! The bare system calls of one container: the namespaces, mounts and execve that a bundle like `runc spec`'s asks for,
//! without devices, masks, limits, capabilities, logs or records.

#![forbid(unsafe_code)]

use crate::sys;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, mkdir, pivot_root};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The namespaces of a pod.
#[derive(Debug)]
pub(crate) struct Pod([(File, CloneFlags); 3]);

impl Pod {
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}"));
        Ok(Self([
            (open("net")?, CloneFlags::CLONE_NEWNET),
            (open("uts")?, CloneFlags::CLONE_NEWUTS),
            (open("ipc")?, CloneFlags::CLONE_NEWIPC),
        ]))
    }
}

const OWN: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWCGROUP;

/// Makes a container whose program is `/empty`, and waits for its end.
pub(crate) fn run(pod: &Pod, rootfs: &CStr, cgroup: Option<&OwnedFd>) -> io::Result<()> {
    let pid = sys::clone3(OWN, cgroup.map(AsFd::as_fd), || live(pod, rootfs))?;
    wait(pid)
}

fn live(pod: &Pod, rootfs: &CStr) -> io::Result<()> {
    for (namespace, kind) in &pod.0 {
        setns(namespace, *kind)?;
    }
    fill(rootfs)?;
    Err(sys::execve(c"/empty"))
}

fn fill(rootfs: &CStr) -> io::Result<()> {
    let (none, plain) = (None::<&CStr>, MsFlags::empty());
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount(none, c"/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    mount(Some(rootfs), rootfs, none, MsFlags::MS_BIND, none)?;
    chdir(rootfs)?;
    mount(Some(c"proc"), c"proc", Some(c"proc"), plain, none)?;
    mount(Some(c"tmpfs"), c"dev", Some(c"tmpfs"), MsFlags::MS_NOSUID, Some(c"mode=755,size=65536k"))?;
    for name in [c"dev/pts", c"dev/mqueue", c"dev/shm"] {
        mkdir(name, nix::sys::stat::Mode::from_bits_truncate(0o755))?;
    }
    let devpts = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount(Some(c"devpts"), c"dev/pts", Some(c"devpts"), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, Some(devpts))?;
    mount(Some(c"mqueue"), c"dev/mqueue", Some(c"mqueue"), safe, none)?;
    mount(Some(c"shm"), c"dev/shm", Some(c"tmpfs"), safe, Some(c"mode=1777,size=65536k"))?;
    mount(Some(c"sysfs"), c"sys", Some(c"sysfs"), safe | MsFlags::MS_RDONLY, none)?;
    mount(Some(c"cgroup2"), c"sys/fs/cgroup", Some(c"cgroup2"), safe | MsFlags::MS_RDONLY, none)?;
    pivot_root(c".", c".")?;
    umount2(c".", MntFlags::MNT_DETACH)?;
    Ok(())
}

/// Joins the namespaces of the process `pid`, and runs `/empty` there.
#[derive(Debug)]
pub(crate) struct Visit(OwnedFd);

impl Visit {
    /// From here on all children are born in that process's PID namespace, as setns(2) has it.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let target = sys::pidfd_open(pid)?;
        setns(&target, CloneFlags::CLONE_NEWPID)?;
        Ok(Self(target))
    }

    pub(crate) fn run(&self, cgroup: Option<&OwnedFd>) -> io::Result<()> {
        let all = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWCGROUP;
        let pid = sys::clone3(0, cgroup.map(AsFd::as_fd), || {
            setns(&self.0, all)?;
            Err(sys::execve(c"/empty"))
        })?;
        wait(pid)
    }
}

pub(crate) fn wait(pid: i32) -> io::Result<()> {
    match waitpid(Pid::from_raw(pid), None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

pub(crate) fn text(path: &str) -> io::Result<CString> {
    CString::new(path).map_err(io::Error::other)
}
