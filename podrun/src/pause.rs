//! The pause program that podrun carries, and what it and podrun agree on.
//!
//! ```text
//!   execve("…/pause", ["pause", MONITOR_ARGV0, …])         execve("…/pause", ["pause"])
//!   the keeper: starts the monitor, and its successors      holds and reaps only: PID 1 of a shared PID namespace,
//!                                                           and the keeper that a monitor makes when its own died
//!
//!   fd 0, 1, 2  /dev/null
//!      3 ══════════════╗ the fd store: both ends of a SOCK_SEQPACKET pair. Held, never read.
//!      4 ══════════════╝
//!      5 ◀─────────────╗ the status pipe: pause writes to 6 (O_NONBLOCK); whoever is the monitor reads 5.
//!      6 ══════════════╝   one note of 8 bytes a reaped child: pid u32, status of wait4(2) i32, as the machine has them
//!      7  the monitor's program, O_PATH: execveat(7, "", [MONITOR_ARGV0, …], environment of pause, AT_EMPTY_PATH)
//!      8, 9, 10  of a user's pod: its net, uts and ipc namespaces; pause is in the host's own
//!
//!   the monitor leaves with    pause
//!     0                        leaves with 0: the pod is over
//!     75 (SUCCESSOR)           starts the next one at once
//!     anything else            starts the next one at once; after one that lived less than a second, and each that
//!                              follows it, 10 ms, 20 ms … 10 s later
//! ```
//!
//! No fd has CLOEXEC, and pause closes none, so that each monitor inherits all of them. Neither the monitor's own status nor, on a
//! full pipe, anybody else's is noted; a holder without a status pipe has no fd 6. The monitor begins with an empty
//! signal mask and, as uid 0, with the capabilities of pause's bounding set; pause itself has none, is not dumpable,
//! and lets go on TERM and INT only. The monitor finds itself not dumpable too, since execve(2) gave it capabilities.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

/// The whole program, an ELF file.
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause.image"));
const _: () = assert!(IMAGE.len() <= 1024, "a pod may cost 1 KiB on disk");

/// One end of the fd store.
pub const STORE_A: RawFd = 3;
/// The other end of the fd store.
pub const STORE_B: RawFd = 4;
/// Where the monitor reads who died without a parent.
pub const STATUS_READ: RawFd = 5;
/// Where pause writes it.
pub const STATUS_WRITE: RawFd = 6;
/// What the monitor is executed from.
pub const MONITOR_PROGRAM: RawFd = 7;

/// Of a user's pod: the namespaces that the pod's containers share, which pause holds without being in them. A monitor has to
/// be in the host's, from where pasta reaches out, and in a user namespace nobody who left those may come back (setns(2)).
pub const NAMESPACES: [(RawFd, &str); 3] = [(8, "net"), (9, "uts"), (10, "ipc")];

/// Bytes of one note in the status pipe.
pub const NOTE: usize = 8;

/// The exit code of a monitor that asks for its successor: EX_TEMPFAIL of sysexits.h.
pub const SUCCESSOR: u8 = 75;

/// The pid and the wait4(2) status of one reaped child.
pub fn read_note(note: [u8; NOTE]) -> (u32, i32) {
    let [a, b, c, d, e, f, g, h] = note;
    (u32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_a_pid_and_a_status() {
        let mut note = [0; NOTE];
        note[..4].copy_from_slice(&4242_u32.to_ne_bytes());
        note[4..].copy_from_slice(&0x700_i32.to_ne_bytes());
        assert_eq!(read_note(note), (4242, 0x700));
    }
}
