//! System calls of aarch64, syscall(2): number in x8, arguments in x0 to x4; all registers but x0 are kept.

use core::arch::global_asm;

pub(crate) const RT_SIGACTION: usize = 134;
pub(crate) const RT_SIGPROCMASK: usize = 135;
pub(crate) const RT_SIGTIMEDWAIT: usize = 137;
pub(crate) const WRITE: usize = 64;
pub(crate) const CLONE: usize = 220;
pub(crate) const WAIT4: usize = 260;
pub(crate) const CAPSET: usize = 91;
pub(crate) const PRCTL: usize = 167;
pub(crate) const CLOCK_GETTIME: usize = 113;
pub(crate) const EXIT_GROUP: usize = 94;
pub(crate) const EXECVEAT: usize = 281;

// The kernel leaves argc, argv and envp on the stack, which is aligned to 16 bytes, as the ABI wants it.
global_asm!(".globl _start", "_start:", "mov x0, sp", "b {main}", main = sym crate::main);

/// One system call, with only the registers that it reads. Unsafe is what the kernel does with them.
macro_rules! syscall {
    ($number:expr, $a:expr $(, $b:expr $(, $c:expr $(, $d:expr $(, $e:expr)?)?)?)?) => {{
        let result: isize;
        core::arch::asm!("svc 0", in("x8") $number, inlateout("x0") $a => result,
            $(in("x1") $b, $(in("x2") $c, $(in("x3") $d, $(in("x4") $e,)?)?)?)?
            options(nostack));
        result
    }};
}
pub(crate) use syscall;
