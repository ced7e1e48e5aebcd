//! cgroups(7): one directory in each of the kernel's trees that counts and limits a set of processes.
//!
//! Three moments, in three processes. The command line *plans* ([`plan`], pure: what was asked and what the host has go
//! in, directories and writes come out). The monitor *acts* ([`Cgroup`]). The child between clone3 and execve *joins*
//! ([`Tasks`]), since a pid that somebody else writes into a v1 `cgroup.procs` waits for an RCU grace period.
//!
//! Promises: what was asked is set or is an error with its JSON path; what `create` made, `remove` removes, after a
//! crash too, since every path follows from the pod's id. Does not: choose limits, or move a process that somebody else
//! started, but out of the way inside what was delegated to both. systemd makes the directory where a caller wants that
//! ([`Scope`]). Who is not root of the machine has what was delegated to him, or none ([`Reach`]).

#![forbid(unsafe_code)]

mod below;
mod counted;
mod devices;
mod guard;
mod kill;
mod late;
mod layout;
mod limit;
mod live;
mod oom;
mod place;
pub mod plan;
mod program;
mod remove;
mod stats;
mod systemd;
mod v1;
mod v2;

pub use below::Below;
pub use guard::Programs;
pub use kill::NO_CGROUP;
pub use layout::{Controller, Home, Layout, Reach, Tree, Version};
pub use limit::{Absent, Current, Setting};
pub use live::{Cgroup, Tasks};
pub use oom::OomNotifier;
pub use place::Place;
pub use plan::{CgroupPlan, Existing};
pub use remove::remove_tree;
pub use stats::Stats;
pub use systemd::{Manager, Scope};
