//! pause: holds what a pod must not lose, and outlives everything else of it.
//!
//! Promises: every orphan is reaped, as PID 1 and as a subreaper; the monitor is started anew when it dies; no signal
//! but KILL, TERM and INT ends it; it uses no capability, has no writable data, and is at most 1 KiB long.
//! Does not: close or open a file, allocate, or look at what it holds. `podrun/src/pause.rs` draws the contract.

#![no_std]
#![no_main]

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod machine;

use machine::syscall;

/// The write end of the status pipe; O_NONBLOCK, so that nobody can make pause wait.
const STATUS: usize = 6;
/// What the monitor is executed from, an O_PATH fd.
const MONITOR_PROGRAM: usize = 7;

/// How wait4(2) shows exit code 75, EX_TEMPFAIL of sysexits.h: a monitor that asks for its successor.
const SUCCESSOR: i32 = 75 << 8;
/// A monitor that lived this long, in nanoseconds, was well: the next one starts at once.
const WELL: i64 = 1_000_000_000;
const FIRST_DELAY: i64 = 10_000_000;
const LONGEST_DELAY: i64 = 10_000_000_000;

const SIGINT: isize = 2;
const SIGTERM: isize = 15;
const SIGCHLD: usize = 17;
/// Bytes of the kernel's sigset_t.
const SET: usize = 8;
static EVERY_SIGNAL: u64 = !0;

/// Whatever the kernel shall read as zeros: SIG_DFL, no capability, no signal, an empty path.
static NOTHING: [u64; 4] = [0; 4];
/// _LINUX_CAPABILITY_VERSION_3, and ourselves.
static CAPABILITIES: [u32; 2] = [0x2008_0522, 0];

struct Keeper {
    /// The monitor's argv is ours without our own name.
    argv: *const usize,
    envp: *const usize,
    /// The monitor's pid, or NOBODY.
    monitor: isize,
    /// When the monitor was started.
    started: i64,
    /// When the next monitor is to be started, or NEVER.
    due: i64,
    /// How long the monitor after the next death has to wait.
    delay: i64,
}

const NOBODY: isize = 0;
const NEVER: i64 = i64::MAX;

unsafe extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: execve(2) puts argc, argv, its null, envp and its null at the stack pointer, which _start passes on; argv
    // has at least its null.
    let (argc, name) = unsafe { (*stack, *stack.add(1)) };
    let argv = stack.wrapping_add(2);
    let envp = argv.wrapping_add(argc);
    let due = if argc < 2 { NEVER } else { 0 };
    let mut keeper = Keeper { argv, envp, monitor: NOBODY, started: 0, due, delay: 0 };
    retire(name);
    loop {
        // Before the first sleep too: a SIGCHLD may have come, and be lost, before execve.
        keeper.reap();
        if now() >= keeper.due {
            keeper.start_monitor();
        }
        keeper.sleep();
    }
}

/// Gives up whatever pause does not need. The bounding set stays, and so does the right to gain: execve(2) by uid 0
/// must give the monitor its capabilities again.
fn retire(name: usize) {
    const PR_SET_DUMPABLE: usize = 4;
    const PR_SET_NAME: usize = 15;
    const PR_SET_CHILD_SUBREAPER: usize = 36;
    block(&EVERY_SIGNAL);
    // SAFETY: each reads at most 32 bytes of zeros, the 8 of the header, or a string of execve's, and writes nothing.
    unsafe {
        // Executed through a descriptor we would be called by its number.
        syscall!(machine::PRCTL, PR_SET_NAME, name);
        // With an inherited SIG_IGN the kernel would reap for us, and forget the status.
        syscall!(machine::RT_SIGACTION, SIGCHLD, &NOTHING, 0, SET);
        syscall!(machine::PRCTL, PR_SET_CHILD_SUBREAPER, 1);
        // Nobody without CAP_SYS_PTRACE takes the store out of our hands.
        syscall!(machine::PRCTL, PR_SET_DUMPABLE, 0);
        syscall!(machine::CAPSET, &CAPABILITIES, &NOTHING);
    }
}

impl Keeper {
    /// Takes in all who died.
    fn reap(&mut self) {
        const ANYBODY: isize = -1;
        const WNOHANG: usize = 1;
        loop {
            // (pid, status), as the monitor reads it.
            let mut note = [0_i32; 2];
            // SAFETY: wait4 writes one int, the second of the two.
            let pid = unsafe { syscall!(machine::WAIT4, ANYBODY, &raw mut note[1], WNOHANG, 0) };
            if pid <= 0 {
                return;
            }
            if pid == self.monitor {
                self.monitor_died(note[1]);
                continue;
            }
            #[allow(clippy::cast_possible_truncation)] // PID_MAX_LIMIT is 2^22.
            {
                note[0] = pid as i32;
            }
            // A full or missing pipe is no reason to stop.
            // SAFETY: write reads the 8 bytes of the note.
            unsafe { syscall!(machine::WRITE, STATUS, &note, 8) };
        }
    }

    fn monitor_died(&mut self, status: i32) {
        if status == 0 {
            exit(0); // The pod is over.
        }
        self.monitor = NOBODY;
        self.due = now();
        if status == SUCCESSOR {
            self.delay = 0;
            return;
        }
        if self.due - self.started < WELL {
            self.due += self.delay;
        } else {
            self.delay = 0;
        }
        self.delay = (self.delay * 2).clamp(FIRST_DELAY, LONGEST_DELAY);
    }

    fn start_monitor(&mut self) {
        const AT_EMPTY_PATH: usize = 0x1000;
        self.started = now();
        self.due = NEVER;
        // SAFETY: with no flag but the signal clone is fork(2): the child has a stack of its own.
        self.monitor = unsafe { syscall!(machine::CLONE, SIGCHLD, 0) };
        if self.monitor == 0 {
            block(&NOTHING[0]);
            // SAFETY: argv and envp are the arrays that the kernel made for us, each with its null; the path is "".
            unsafe { syscall!(machine::EXECVEAT, MONITOR_PROGRAM, &NOTHING, self.argv, self.envp, AT_EMPTY_PATH) };
            exit(127);
        }
        if self.monitor < 0 {
            self.monitor_died(1); // EAGAIN: no process to be had. Wait as if it had died.
        }
    }

    /// Until a signal comes or the monitor is due, but no longer than a second.
    fn sleep(&self) {
        let time = [0, (self.due - now()).clamp(0, WELL - 1)];
        let timeout = if self.due == NEVER { core::ptr::null() } else { &raw const time };
        // For all signals, not only those that mean something: one that stays pending is charged to its sender's user.
        // SAFETY: reads 8 bytes of the set and at most one timespec, and writes nothing.
        let signal = unsafe { syscall!(machine::RT_SIGTIMEDWAIT, &EVERY_SIGNAL, 0, timeout, SET) };
        if signal == SIGTERM || signal == SIGINT {
            exit(0);
        }
    }
}

/// Nanoseconds that never run backwards.
fn now() -> i64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0_i64; 2];
    // SAFETY: writes one timespec, which is two 64-bit numbers.
    unsafe { syscall!(machine::CLOCK_GETTIME, CLOCK_MONOTONIC, &raw mut time) };
    time[0] * 1_000_000_000 + time[1]
}

/// Replaces the signal mask.
fn block(signals: &u64) {
    const SIG_SETMASK: usize = 2;
    // SAFETY: reads 8 bytes and writes nothing.
    unsafe { syscall!(machine::RT_SIGPROCMASK, SIG_SETMASK, signals, 0, SET) };
}

fn exit(code: usize) -> ! {
    loop {
        // SAFETY: touches no memory.
        unsafe { syscall!(machine::EXIT_GROUP, code) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(70) // EX_SOFTWARE, never reached: nothing above can panic.
}
