//! podrun: a minimal pod sandbox runtime. `docs/architecture.md` has the floors that these modules stand on.

#![deny(unsafe_code)]

// Floor 0
pub mod pause;
#[allow(unsafe_code)]
pub mod sys;
// Floor 1
pub mod error;
pub mod fault;
// Floor 2
pub mod id;
pub mod list;
pub mod programs;
pub mod signal;
pub mod text;
// Floor 3
pub mod caps;
pub mod dbus;
pub mod privilege;
pub mod roots;
pub mod user;
// Floor 4
pub mod oci;
pub mod spec;
// Floor 5
pub mod cgroup;
pub mod record;
pub mod seccomp;
// Floor 6
pub mod logs;
pub mod net;
pub mod rootfs;
pub mod sandbox;
pub mod tunnel;
// Floor 7
pub mod container;
pub mod names;
pub mod pump;
// Floor 8
pub mod store;
// Floor 9
pub mod monitor;
pub mod rootless;
// Floor 10
pub mod pod;
// Floor 11
pub mod cli;
