//! System calls of x86_64, syscall(2): number in rax, arguments in rdi, rsi, rdx, r10, r8; rcx and r11 are lost.

use core::arch::global_asm;

pub(crate) const RT_SIGACTION: usize = 13;
pub(crate) const RT_SIGPROCMASK: usize = 14;
pub(crate) const RT_SIGTIMEDWAIT: usize = 128;
pub(crate) const WRITE: usize = 1;
pub(crate) const CLONE: usize = 56;
pub(crate) const WAIT4: usize = 61;
pub(crate) const CAPSET: usize = 126;
pub(crate) const PRCTL: usize = 157;
pub(crate) const CLOCK_GETTIME: usize = 228;
pub(crate) const EXIT_GROUP: usize = 231;
pub(crate) const EXECVEAT: usize = 322;

// The kernel leaves argc, argv and envp on the stack, which is aligned to 16 bytes; a call keeps the ABI's promise of
// 8 bytes more.
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "call {main}", main = sym crate::main);

/// One system call, with only the registers that it reads. Unsafe is what the kernel does with them.
macro_rules! syscall {
    ($number:expr, $a:expr $(, $b:expr $(, $c:expr $(, $d:expr $(, $e:expr)?)?)?)?) => {{
        let result: isize;
        core::arch::asm!("syscall", inlateout("rax") $number => result, in("rdi") $a,
            $(in("rsi") $b, $(in("rdx") $c, $(in("r10") $d, $(in("r8") $e,)?)?)?)?
            lateout("rcx") _, lateout("r11") _, options(nostack));
        result
    }};
}
pub(crate) use syscall;
