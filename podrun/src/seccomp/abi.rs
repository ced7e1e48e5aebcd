//! The ABIs that a kernel speaks: what seccomp(2) sees of their calls.

#![forbid(unsafe_code)]

use super::tables::CALLS;
use super::tables::NONE;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use oci_spec::runtime::Arch;

/// In the order of the columns of `tables.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

/// __X32_SYSCALL_BIT of asm/unistd.h.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// __ARM_NR_BASE of asm/unistd.h: arm's own calls, far above the others.
const ARM_BASE: u32 = 0xf_0000;

/// The architecture that this program was built for, as profiles call it.
pub fn native() -> Result<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Arch::ScmpArchX86_64),
        "x86" => Ok(Arch::ScmpArchX86),
        "aarch64" => Ok(Arch::ScmpArchAarch64),
        "arm" => Ok(Arch::ScmpArchArm),
        other => Err(Error::new(Kind::Unsupported, "choose the seccomp architecture", format!("{other} has no table"))),
    }
}

/// The ABIs of a kernel, its own first.
pub(super) fn spoken_by(host: Arch) -> Result<&'static [Abi]> {
    match host {
        Arch::ScmpArchX86_64 => Ok(&[Abi::X86_64, Abi::X86, Abi::X32]),
        Arch::ScmpArchX86 => Ok(&[Abi::X86]),
        Arch::ScmpArchAarch64 => Ok(&[Abi::Aarch64, Abi::Arm]),
        Arch::ScmpArchArm => Ok(&[Abi::Arm]),
        other => Err(Error::new(Kind::Unsupported, "compile linux.seccomp", format!("{other} has no table"))),
    }
}

impl Abi {
    pub(super) fn of(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchX86_64 => Some(Self::X86_64),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            _ => None,
        }
    }

    /// AUDIT_ARCH_ of linux/audit.h.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The largest value of an argument that counts.
    pub(super) fn widest(self) -> u64 {
        match self {
            Self::X86_64 | Self::Aarch64 => u64::MAX,
            Self::X86 | Self::X32 | Self::Arm => u32::MAX.into(),
        }
    }

    pub(super) fn number(self, call: &Row) -> Option<u32> {
        let number = call.1[self as usize];
        (number != NONE).then_some(number)
    }

    /// The last number of the stretch that `number` belongs to: a call that is new gets a number within it.
    pub(super) fn end_of_stretch(self, number: u32) -> u32 {
        match self {
            Self::X86_64 => X32_BIT - 1,
            Self::Arm if number < ARM_BASE => ARM_BASE - 1,
            _ => u32::MAX,
        }
    }

    /// x86 has calls that are many calls, told apart by their first argument: socketcall(2), ipc(2). A rule for one of
    /// the many is a rule for both. Answers with the number of the whole and the first argument.
    pub(super) fn multiplexed(self, call: &Row) -> Option<(u32, u64)> {
        let part = |names: &[(u64, &str)]| names.iter().find(|(_, name)| *name == call.0).map(|(part, _)| *part);
        match self {
            Self::X86 => part(SOCKETCALL).map(|part| (102, part)).or_else(|| part(IPC).map(|part| (117, part))),
            _ => None,
        }
    }
}

/// A call: its name, and its number on each ABI.
pub(super) type Row = (&'static str, [u32; 5]);

/// None where no ABI has a call of this name.
pub(super) fn call(name: &str) -> Option<&'static Row> {
    CALLS.binary_search_by_key(&name, |(name, _)| name).ok().map(|row| &CALLS[row])
}

/// SYS_ of linux/net.h.
const SOCKETCALL: &[(u64, &str)] = &[
    (1, "socket"),
    (2, "bind"),
    (3, "connect"),
    (4, "listen"),
    (5, "accept"),
    (6, "getsockname"),
    (7, "getpeername"),
    (8, "socketpair"),
    (9, "send"),
    (10, "recv"),
    (11, "sendto"),
    (12, "recvfrom"),
    (13, "shutdown"),
    (14, "setsockopt"),
    (15, "getsockopt"),
    (16, "sendmsg"),
    (17, "recvmsg"),
    (18, "accept4"),
    (19, "recvmmsg"),
    (20, "sendmmsg"),
];

/// linux/ipc.h.
const IPC: &[(u64, &str)] = &[
    (1, "semop"),
    (2, "semget"),
    (3, "semctl"),
    (4, "semtimedop"),
    (11, "msgsnd"),
    (12, "msgrcv"),
    (13, "msgget"),
    (14, "msgctl"),
    (21, "shmat"),
    (22, "shmdt"),
    (23, "shmget"),
    (24, "shmctl"),
];
