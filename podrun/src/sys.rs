//! The kernel as safe functions under their man-page names, on nix and libc: the only `unsafe` of the crate.
//!
//! Decides nothing: no defaults, no retries except EINTR, no logging.

pub mod bpf;
pub mod net;
pub mod pidfd;
pub mod seccomp;
