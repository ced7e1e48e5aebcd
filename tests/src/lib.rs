//! A fake host, and podrun driven on it as a stranger would drive it.
//!
//! [`Host`] is a machine of its own for one test: namespaces for network, mounts, processes, hostname and IPC, and its own
//! `--root` and `--run-root`. When it is dropped it deletes all pods and then looks for anything that podrun left:
//! a process, a mount, a link, a firewall table, a cgroup, a lease, a file. What it finds fails the test.

#![deny(unsafe_code)]

mod binaries;
mod bundle;
pub mod bus;
pub mod cni;
mod command;
mod host;
mod leftovers;
mod logs;
pub mod lone;
mod skip;
mod stress;
#[allow(unsafe_code)]
pub mod sys;
mod terminal;
pub mod traffic;
mod user;
mod wait;
mod words;

pub use binaries::{faulty_binary, later_binary, podrun_binary, probe_binary};
pub use bundle::{Bundle, Rootfs};
pub use command::{Command, Outcome, Running};
pub use host::Host;
pub use leftovers::Leftovers;
pub use logs::{LogLine, cri_lines, joined};
pub use serde_json::{Value, json};
pub use skip::note_skip;
pub use stress::{HOUR, full, many};
pub use terminal::Terminal;
pub use user::{User, give, make_rootless};
pub use wait::{eventually, patience};
pub use words::words;

/// Ends the test here, said on stderr and counted in the closing line of the test program.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        $crate::note_skip(&format!($($why)*));
        return;
    }};
}
