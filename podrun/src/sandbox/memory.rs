//! shm_overview(7): the tmpfs that the containers of a pod share on /dev/shm, as they share its IPC namespace.
//!
//! Promises: no mount of the host's, no path; whoever holds the descriptor holds the filesystem, and when nobody does it is
//! gone with all that is in it. What is written is charged to the cgroup of the container that wrote it, hence to the pod.

#![forbid(unsafe_code)]

use crate::error::{Doing, Result};
use crate::sys::clone::{self, Clone, clone3, exit};
use crate::sys::mount::{self, Setting};
use crate::sys::{fd, ns, socket};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What docker, podman and kubelet give a pod.
const SETTINGS: [Setting<'_>; 3] =
    [Setting::Text(c"source", c"shm"), Setting::Text(c"mode", c"1777"), Setting::Text(c"size", c"65536k")];

const ATTRIBUTES: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// What the descriptor is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Holder {
    /// A detached mount, of which each container gets a copy.
    Mount,
    /// A mount namespace with this one mount: before Linux 6.15 only attached mounts can be copied.
    Namespace,
}

#[derive(Debug)]
pub struct SharedMemory {
    pub holder: Holder,
    pub fd: OwnedFd,
}

impl SharedMemory {
    pub fn new() -> Result<Self> {
        let doing = || "make the pod's /dev/shm".to_owned();
        let mount = filesystem().doing(doing)?;
        match mount::open_tree(mount.as_fd(), c"", false) {
            Ok(_) => Ok(Self { holder: Holder::Mount, fd: mount }),
            Err(_) => hold(mount.as_fd()).doing(doing),
        }
    }

    /// A detached mount of it, for a container that is being born. Between clone3 and execve: no allocation, no lock.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        match self.holder {
            Holder::Mount => mount::open_tree(self.fd.as_fd(), c"", false),
            Holder::Namespace => {
                let own = fd::open(c"/proc/self/ns/mnt", libc::O_RDONLY)?;
                ns::setns(self.fd.as_fd(), libc::CLONE_NEWNS)?;
                let copied = mount::open_tree(mount::here(), c"/", false);
                ns::setns(own.as_fd(), libc::CLONE_NEWNS)?;
                copied
            }
        }
    }
}

fn filesystem() -> io::Result<OwnedFd> {
    let context = mount::fsopen(c"tmpfs")?;
    for setting in SETTINGS {
        mount::fsconfig(context.as_fd(), setting)?;
    }
    mount::fsmount(context.as_fd(), ATTRIBUTES)
}

/// A mount namespace that holds `mount` and nothing else, so that it keeps none of the host's mounts busy.
fn hold(mount: BorrowedFd<'_>) -> io::Result<SharedMemory> {
    let (ours, theirs) = socket::seqpacket_pair()?;
    let wanted = Clone { namespaces: libc::CLONE_NEWNS, cgroup: None };
    let child = clone3(&wanted, || {
        let sent = settle(mount).and_then(|own| socket::send(theirs.as_fd(), b"N", &[own.as_fd()], 0));
        exit(sent.map_or_else(|err| err.raw_os_error().unwrap_or(libc::EIO), |_| 0))
    })?;
    drop(theirs);
    let received = socket::receive(ours.as_fd(), &mut [0; 4], 0);
    let exit = clone::wait(child.pidfd.as_fd())?;
    match received?.1.into_iter().next() {
        Some(fd) => Ok(SharedMemory { holder: Holder::Namespace, fd }),
        None => Err(io::Error::from_raw_os_error(exit.code())),
    }
}

/// Leaves `mount` as the only one of this process's mount namespace, and gives the namespace.
fn settle(mount: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let own = fd::open(c"/proc/self/ns/mnt", libc::O_RDONLY)?;
    mount::mount_flags(c"/", libc::MS_REC | libc::MS_PRIVATE)?;
    let below = fd::open(c"/", libc::O_PATH | libc::O_DIRECTORY)?;
    mount::move_mount(mount, below.as_fd())?;
    mount::fchdir(mount)?;
    mount::pivot_root_here()?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// A container on its way, as far as it matters here: a mount namespace of its own, and a copy in it.
    fn in_a_namespace(memory: &SharedMemory, work: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>) -> i32 {
        let wanted = Clone { namespaces: libc::CLONE_NEWNS, cgroup: None };
        let child = clone3(&wanted, || {
            let done = memory.copy().and_then(|copy| work(copy.as_fd()));
            exit(done.map_or_else(|err| err.raw_os_error().unwrap_or(libc::EIO), |()| 0))
        });
        clone::wait(child.unwrap().pidfd.as_fd()).unwrap().code()
    }

    fn one_writes_and_another_reads(memory: &SharedMemory) {
        let create = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
        let write = |copy: BorrowedFd<'_>| fd::openat(copy, c"jobs", create, 0o600).map(drop);
        let read = |copy: BorrowedFd<'_>| fd::openat(copy, c"jobs", libc::O_RDONLY, 0).map(drop);
        assert_eq!(in_a_namespace(memory, read), libc::ENOENT);
        assert_eq!(in_a_namespace(memory, write), 0);
        assert_eq!(in_a_namespace(memory, read), 0);
        assert_eq!(in_a_namespace(&SharedMemory::new().unwrap(), read), libc::ENOENT, "another pod's");
    }

    // Mounting needs root; cargo test of the whole project is run as root.
    #[test]
    fn what_one_writes_another_reads() {
        one_writes_and_another_reads(&SharedMemory::new().unwrap());
    }

    #[test]
    fn the_same_on_kernels_that_copy_no_detached_mount() {
        let held = hold(filesystem().unwrap().as_fd()).unwrap();
        assert_eq!(held.holder, Holder::Namespace);
        one_writes_and_another_reads(&held);
    }

    #[test]
    fn the_namespace_that_holds_it_holds_nothing_else() {
        let held = hold(filesystem().unwrap().as_fd()).unwrap();
        let number = held.fd.as_raw_fd();
        let seen = std::process::Command::new("nsenter")
            .args([&format!("--mount=/proc/{}/fd/{number}", std::process::id()), "true"])
            .output()
            .unwrap();
        // There is no program in it to be executed, hence no file of the host's.
        assert_eq!(seen.status.code(), Some(127), "{}", String::from_utf8_lossy(&seen.stderr));
    }
}
