//! seccomp(2): what the kernel runs before each system call of a thread, and asking what it knows.
//!
//! `set_mode_filter` may be called between clone3 and execve: it allocates nothing and takes no lock.

use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use serde::Deserialize;
use serde::Serialize;

/// One instruction of classic BPF: the kernel's `struct sock_filter`. In JSON it is one number, the same eight bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

impl From<u64> for Instruction {
    fn from(packed: u64) -> Self {
        let [a, b, jt, jf, k @ ..] = packed.to_le_bytes();
        Self { code: u16::from_le_bytes([a, b]), jt, jf, k: u32::from_le_bytes(k) }
    }
}

impl From<Instruction> for u64 {
    fn from(it: Instruction) -> Self {
        let ([a, b], [c, d, e, f]) = (it.code.to_le_bytes(), it.k.to_le_bytes());
        Self::from_le_bytes([a, b, it.jt, it.jf, c, d, e, f])
    }
}

/// The kernel logs every action but ALLOW that its sysctl permits.
pub const FILTER_FLAG_LOG: u32 = 1 << 1;
/// No speculative store bypass mitigation for the sake of the filter.
pub const FILTER_FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// The call returns a descriptor on which a supervisor hears of SECCOMP_RET_USER_NOTIF.
pub const FILTER_FLAG_NEW_LISTENER: u32 = 1 << 3;
/// Once the supervisor has read a notification, only a deadly signal interrupts the call (Linux 5.19).
pub const FILTER_FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

const SET_MODE_FILTER: libc::c_uint = 1;
const GET_ACTION_AVAIL: libc::c_uint = 2;

/// SECCOMP_SET_MODE_FILTER, for the calling thread: needs no_new_privs or CAP_SYS_ADMIN. Answers with the listener
/// when `flags` ask for one.
pub fn set_mode_filter(flags: u32, filter: &[Instruction]) -> nix::Result<Option<OwnedFd>> {
    let Ok(len) = u16::try_from(filter.len()) else { return Err(Errno::EINVAL) };
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: the kernel copies `len` instructions of 8 bytes from `filter`, and writes nothing: `program` and the
    // slice live until the call returns, and `Instruction` has sock_filter's layout (checked below).
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    let fd = Errno::result(answer)?;
    if flags & FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    let Ok(fd) = i32::try_from(fd) else { return Err(Errno::EBADF) };
    // SAFETY: with NEW_LISTENER the answer is a new descriptor (seccomp(2)), which nobody else has yet.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

const _: () = assert!(
    size_of::<Instruction>() == size_of::<libc::sock_filter>()
        && align_of::<Instruction>() >= align_of::<libc::sock_filter>()
        && std::mem::offset_of!(Instruction, code) == std::mem::offset_of!(libc::sock_filter, code)
        && std::mem::offset_of!(Instruction, jt) == std::mem::offset_of!(libc::sock_filter, jt)
        && std::mem::offset_of!(Instruction, jf) == std::mem::offset_of!(libc::sock_filter, jf)
        && std::mem::offset_of!(Instruction, k) == std::mem::offset_of!(libc::sock_filter, k)
);

/// SECCOMP_GET_ACTION_AVAIL: does this kernel know the action (SECCOMP_RET_…, without data)?
pub fn get_action_avail(action: u32) -> bool {
    // SAFETY: the kernel reads the four bytes of `action`, which lives until the call returns.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) };
    answer == 0
}

/// Does this kernel know all of these flags? Asked without a program: a kernel that knows them misses the program
/// (EFAULT), another refuses the flags first (EINVAL). Nothing is loaded either way.
pub fn flags_known(flags: u32) -> bool {
    // SAFETY: a null program is the question itself; the kernel answers EFAULT or EINVAL and touches no memory of ours.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, std::ptr::null::<libc::sock_fprog>()) };
    answer == -1 && Errno::last() == Errno::EFAULT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_one_number_in_json() {
        let jump = Instruction { code: 0x15, jt: 1, jf: 2, k: 0xc000_003e };
        assert_eq!(serde_json::to_string(&jump).unwrap(), 0xc000_003e_0201_0015_u64.to_string());
        assert_eq!(serde_json::from_str::<Instruction>("13835058321603756053").unwrap(), jump);
    }

    #[test]
    fn the_kernel_says_which_actions_and_flags_it_knows() {
        assert!(get_action_avail(libc::SECCOMP_RET_ERRNO) && get_action_avail(libc::SECCOMP_RET_KILL_PROCESS));
        assert!(!get_action_avail(0x1234_0000));
        assert!(flags_known(0) && flags_known(FILTER_FLAG_LOG | FILTER_FLAG_SPEC_ALLOW));
        assert!(!flags_known(1 << 31));
    }

    /// linux/seccomp.h
    #[test]
    fn the_flags_are_the_kernels() {
        let flags = [FILTER_FLAG_LOG, FILTER_FLAG_SPEC_ALLOW, FILTER_FLAG_NEW_LISTENER, FILTER_FLAG_WAIT_KILLABLE_RECV];
        assert_eq!(flags, [2, 4, 8, 32]);
    }

    #[test]
    fn a_program_that_the_kernel_refuses_is_an_error() {
        assert_eq!(set_mode_filter(0, &[]).unwrap_err(), Errno::EINVAL);
        let nothing = Instruction { code: 0, jt: 0, jf: 0, k: 0 };
        assert_eq!(set_mode_filter(0, &vec![nothing; 0x1_0001]).unwrap_err(), Errno::EINVAL);
    }
}
