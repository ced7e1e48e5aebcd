//! The kernel as safe functions under their man-page names, on nix and libc: the only `unsafe` of the crate.
//!
//! Decides nothing: no defaults, no retries except EINTR, no logging.

pub mod bpf;
pub mod calls;
pub mod clone;
pub mod cred;
pub mod dir;
pub mod fd;
pub mod image;
pub mod map;
pub mod mount;
pub mod net;
pub mod ns;
pub mod pipe;
pub mod proc;
pub mod sched;
pub mod seccomp;
pub mod socket;
pub mod tty;
