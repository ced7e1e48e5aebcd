//! sched(7), ioprio_set(2), set_mempolicy(2), personality(2), session-keyring(7): how a process runs, whatever it may do.
//!
//! Each call is of the calling thread, and may be made between clone3 and execve.

use super::fd::check;
use std::io;
use std::mem::size_of;

/// `struct sched_attr` of linux/sched/types.h, with the clamps of Linux 5.3.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attr {
    /// Filled in by the call.
    #[serde(skip)]
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    #[serde(skip)]
    pub clamps: [u32; 2],
}

/// sched_setattr(2).
pub fn sched_setattr(attr: &Attr) -> io::Result<()> {
    let attr = Attr { size: u32::try_from(size_of::<Attr>()).unwrap_or(0), ..*attr };
    // SAFETY: attr is a sched_attr of the size that it states, and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// sched_setaffinity(2): one bit a CPU.
pub fn sched_setaffinity(cpus: &[u64]) -> io::Result<()> {
    // SAFETY: the kernel reads the bytes of the slice, whose count is given.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) }).map(drop)
}

/// Every CPU that the cgroup leaves.
pub fn every_cpu() -> io::Result<()> {
    sched_setaffinity(&[u64::MAX; 128])
}

/// ioprio_set(2): the class and the level within it, as the kernel packs them.
pub fn ioprio_set(priority: u16) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: ioprio_set reads three integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, u64::from(priority)) }).map(drop)
}

/// set_mempolicy(2): a mode with its flags, and one bit a node.
pub fn set_mempolicy(mode: i32, nodes: &[u64]) -> io::Result<()> {
    // The kernel reads one bit less than it is told of.
    let (mask, bits) = match nodes {
        [] => (std::ptr::null(), 0),
        nodes => (nodes.as_ptr(), size_of_val(nodes) * 8 + 1),
    };
    // SAFETY: the kernel reads as many bits as it is told of, less one, from a slice that has them, or none from null.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

/// personality(2).
pub fn personality(persona: u32) -> io::Result<()> {
    // SAFETY: personality reads one integer.
    check(unsafe { libc::personality(persona.into()) }.into()).map(drop)
}

/// keyctl(2) KEYCTL_JOIN_SESSION_KEYRING: a new one without a name, which nobody else can join.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring; nothing is read.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) }).map(drop)
}

/// Back to what a process has that nobody has tuned. Each is asked for once; where the host withholds it, what the caller
/// had stays.
pub fn reset() {
    let _ = sched_setattr(&Attr::default());
    let _ = every_cpu();
    let _ = ioprio_set(0);
    let _ = new_session_keyring();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// linux/sched/types.h: SCHED_ATTR_SIZE_VER1.
    #[test]
    fn the_kernels_struct_has_this_size() {
        assert_eq!(size_of::<Attr>(), 56);
    }
}
