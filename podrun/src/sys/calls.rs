//! syscalls(2): which of the newer system calls this kernel has, and since when others have had them.
//!
//! A call that is not there answers ENOSYS before it looks at anything; one that is there refuses what it is given here.

use super::fd::check;

/// A system call that not every kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub name: &'static str,
    number: libc::c_long,
    /// The Linux that it came with.
    pub since: &'static str,
    pub need: Need,
}

/// What becomes of podrun without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing works.
    Always,
    /// Something that few ask for does not work.
    Sometimes,
    /// The older way is taken.
    Never,
}

const fn call(name: &'static str, number: libc::c_long, since: &'static str, need: Need) -> Call {
    Call { name, number, since, need }
}

/// Those that podrun uses and Linux 4.0 had not.
#[rustfmt::skip]
pub const NEWER: &[Call] = &[
    call("clone3", libc::SYS_clone3, "5.3", Need::Always),
    call("close_range", libc::SYS_close_range, "5.9", Need::Always),
    call("fsconfig", libc::SYS_fsconfig, "5.2", Need::Always),
    call("fsmount", libc::SYS_fsmount, "5.2", Need::Always),
    call("fsopen", libc::SYS_fsopen, "5.2", Need::Always),
    call("fspick", libc::SYS_fspick, "5.2", Need::Sometimes),
    call("mount_setattr", libc::SYS_mount_setattr, "5.12", Need::Never),
    call("move_mount", libc::SYS_move_mount, "5.2", Need::Always),
    call("open_tree", libc::SYS_open_tree, "5.2", Need::Always),
    call("openat2", libc::SYS_openat2, "5.6", Need::Always),
    call("pidfd_getfd", libc::SYS_pidfd_getfd, "5.6", Need::Sometimes),
    call("pidfd_open", libc::SYS_pidfd_open, "5.3", Need::Always),
    call("pidfd_send_signal", libc::SYS_pidfd_send_signal, "5.1", Need::Always),
];

impl Call {
    pub fn is_missing(&self) -> bool {
        const NONE: libc::c_long = -1;
        let (first, second, rest) = if self.number == libc::SYS_close_range { (1, 0, 0) } else { (NONE, 0, NONE) };
        // SAFETY: every one of these calls refuses such arguments and carries nothing out. clone3 finds a size of 0 and openat2
        // one of 2^64 - 1, close_range a last number before its first, fsopen a name at an address that is nobody's, and the
        // others flags that no kernel knows, or a descriptor or pid of -1. None is given memory of ours.
        let answer = unsafe { libc::syscall(self.number, first, second, rest, rest, rest) };
        check(answer).is_err_and(|err| err.raw_os_error() == Some(libc::ENOSYS))
    }
}

/// Those that this kernel, or a filter around this process, does not have.
pub fn missing() -> impl Iterator<Item = &'static Call> {
    NEWER.iter().filter(|call| call.is_missing())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asked with nonsense, each call refuses and none is carried out: the suite itself runs on, with its descriptors.
    #[test]
    fn asking_is_harmless() {
        let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(missing().all(|call| call.need == Need::Never), "{:?}", missing().collect::<Vec<_>>());
        assert_eq!(std::fs::read_dir("/proc/self/fd").unwrap().count(), before);
    }

    #[test]
    fn a_number_that_no_kernel_knows_is_missing() {
        assert!(call("nothing", 5000, "9.9", Need::Never).is_missing());
    }
}
