//! The plan of a container's birth: everything that `init` will do, decided and spelled out beforehand.
//!
//! Pure data, kept as JSON beside the container's record: `run --dry-run` prints it, and a restart by policy reads it
//! again. After it nobody chooses (invariant 3).

#![forbid(unsafe_code)]

use super::attributes::Attributes;
use super::labels::Labels;
use super::listener::Listener;
use crate::caps::CapabilitySets;
use crate::cgroup::CgroupPlan;
use crate::net::devices::NetDevice;
use crate::rootfs::{Device, Link, Mount, Place};
use crate::seccomp::Program;
use crate::sys::tty::Size;
use crate::text::Text;
use serde::{Deserialize, Serialize};

/// Where the container's processes are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PidNamespace {
    /// Its own: its first process is PID 1 and takes all others along.
    Private,
    /// The pod's, whose PID 1 is a pause.
    Pod,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CgroupNamespace {
    New,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    ReadWrite,
    ReadOnly,
}

/// How the rootfs becomes the root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    #[default]
    Pivot,
    /// It is moved onto the old one, which nobody can unmount: a ramdisk (pivot_root(2), "NOTES"). Whoever has
    /// CAP_SYS_CHROOT can leave it again.
    Cover,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// Whether the process may gain privileges by execve (prctl(2) PR_SET_NO_NEW_PRIVS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NewPrivileges {
    Allowed,
    Never,
}

/// What the process reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stdio {
    /// Pipes, or whatever was handed over.
    Pipes,
    /// A pty of the container's own devpts, of this size.
    Terminal { size: Option<Size> },
}

/// A program and what it is allowed: the same words for a container's first process and for an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub argv: Vec<Text>,
    pub env: Vec<Text>,
    /// Where the program may be, in the order of PATH.
    pub programs: Vec<Text>,
    pub cwd: Place,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    pub capabilities: CapabilitySets,
    pub new_privileges: NewPrivileges,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: Option<Text>,
    pub seccomp: Option<Program>,
    pub stdio: Stdio,
    #[serde(default)]
    pub attributes: Attributes,
    #[serde(default)]
    pub labels: Labels,
    /// Whom the filter asks.
    #[serde(default)]
    pub listener: Option<Listener>,
}

/// A container, from the mount table to execve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// A host path: the one directory that becomes `/`.
    pub rootfs: Text,
    pub rootfs_access: Access,
    #[serde(default)]
    pub entry: Entry,
    /// Where the host has procfs and sysfs, which a root that is only covered would leave to be had again: the kernel lets
    /// root of a user namespace mount what is in full view somewhere in its mount namespace (user_namespaces(7)).
    #[serde(default)]
    pub host_views: Vec<Text>,
    /// What mounts and unmounts of the host reach the container: `MS_SLAVE` or `MS_PRIVATE`, with `MS_REC`.
    pub host_propagation: u64,
    /// The propagation of `/` once it is the root (`linux.rootfsPropagation`), 0 to leave it.
    pub root_propagation: u64,
    pub pid: PidNamespace,
    pub cgroup_namespace: CgroupNamespace,
    pub cgroup: CgroupPlan,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub links: Vec<Link>,
    pub masked: Vec<Text>,
    pub read_only: Vec<Text>,
    /// Mounts that become read-only when all below them is made.
    #[serde(default)]
    pub sealed: Vec<Place>,
    /// A file below /proc/sys and its value.
    pub sysctl: Vec<(Text, Text)>,
    /// What of the host's interfaces comes into the network namespace.
    #[serde(default)]
    pub net_devices: Vec<NetDevice>,
    /// The NIS domain name, of all who share the UTS namespace.
    #[serde(default)]
    pub domain_name: Option<Text>,
    pub process: Process,
}
