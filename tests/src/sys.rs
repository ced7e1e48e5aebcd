//! The system calls that neither std nor nix gives safely: the only `unsafe` of the tests.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// TIOCGWINSZ, ioctl_tty(2): rows and columns.
pub fn window_size(fd: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one struct winsize through the pointer, which is valid for the whole call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok((size.ws_row, size.ws_col))
}

/// TIOCSWINSZ, ioctl_tty(2).
pub fn set_window_size(fd: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one struct winsize through the pointer, which is valid for the whole call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
}

/// TIOCSCTTY, ioctl_tty(2): makes a terminal the controlling one of this session.
pub fn take_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is an integer; the kernel touches no memory of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) })
}

/// signal(2) with SIG_IGN.
pub fn ignore(signal: libc::c_int) {
    // SAFETY: SIG_IGN is not a function, so no code of ours runs in signal context.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// signal(2) with SIG_DFL.
pub fn default(signal: libc::c_int) {
    // SAFETY: SIG_DFL is not a function, so no code of ours runs in signal context.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// raise(3) with any number, real-time signals too, which nix's enum has no word for.
pub fn raise(signal: libc::c_int) {
    // SAFETY: raise takes an integer; an unknown signal is an error, not undefined.
    unsafe { libc::raise(signal) };
}

/// kill(2) with any number.
pub fn kill(pid: i32, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: two integers; the kernel touches no memory of ours.
    check(unsafe { libc::kill(pid, signal) })
}

/// syscall(2) with six zeros or small integers: only good for seeing whether the call is let through.
pub fn raw(number: libc::c_long, args: [libc::c_long; 6]) -> io::Result<libc::c_long> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the probe passes null pointers and integers only, so the kernel has no memory of ours to write to.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// SIOCSIFFLAGS on `lo`, netdevice(7): a new network namespace is born with its loopback down.
pub fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: ifreq is plain data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    // SAFETY: the kernel reads one struct ifreq through the pointer, which is valid for the whole call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

/// atexit(3).
pub fn at_exit(last: extern "C" fn()) {
    // SAFETY: `last` is a plain function that lives as long as the program and does not unwind out of C.
    unsafe { libc::atexit(last) };
}

/// A fault that even a PID 1 dies of: the kernel forces the signal.
pub fn fault() -> ! {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: ud2 raises SIGILL and does not return, as the options say.
    unsafe {
        std::arch::asm!("ud2", options(noreturn))
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: udf raises SIGILL and does not return, as the options say.
    unsafe {
        std::arch::asm!("udf #0", options(noreturn))
    }
}

/// seccomp(2): these system calls answer ENOSYS from now on, here and in everything that comes of us, as on a kernel that
/// has not got them. Other architectures' numbers are let through.
pub fn without(numbers: &[u32]) -> io::Result<()> {
    const NUMBER: u32 = 0; // offsetof(struct seccomp_data, nr)
    let code = |code: u32| u16::try_from(code).unwrap_or(0);
    let step = |code: u16, k: u32| libc::sock_filter { code, jt: 0, jf: 0, k };
    let answer = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    let mut program = vec![step(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), NUMBER)];
    for number in numbers {
        let equal = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
        program.push(libc::sock_filter { code: equal, jt: 0, jf: 1, k: *number });
        program.push(step(code(libc::BPF_RET | libc::BPF_K), answer));
    }
    program.push(step(code(libc::BPF_RET | libc::BPF_K), libc::SECCOMP_RET_ALLOW));
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads `len` steps at `filter`, which the vector holds until the call is over.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) })
}

/// seccomp_unotify(2): takes one question off a listener and answers it with this errno; the number of the call.
pub fn answer_with(listener: BorrowedFd<'_>, errno: i32) -> io::Result<i32> {
    const SECCOMP_IOCTL_NOTIF_RECV: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
    const SECCOMP_IOCTL_NOTIF_SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
    // struct seccomp_notif: id, pid and flags, seccomp_data, whose first word is the number of the call.
    let mut question = [0u64; 10];
    // SAFETY: the kernel writes a struct seccomp_notif of 80 bytes, for which there is room.
    if unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, question.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // struct seccomp_notif_resp: id, val, error and flags.
    let mut response = [question[0], 0, u64::from((-errno).cast_unsigned())];
    // SAFETY: the kernel reads a struct seccomp_notif_resp of 24 bytes.
    if unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, response.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let [a, b, c, d, ..] = question[2].to_ne_bytes();
    Ok(i32::from_ne_bytes([a, b, c, d]))
}

/// listen(2), once more: with another backlog.
pub fn listen(socket: BorrowedFd<'_>, backlog: libc::c_int) -> io::Result<()> {
    // SAFETY: listen reads two integers.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })
}

/// A descriptor that just arrived in a message, and that nobody owns yet.
pub fn adopt(number: std::os::fd::RawFd) -> std::os::fd::OwnedFd {
    // SAFETY: the kernel made it for the caller, who knows its number from the message and uses it for nothing else.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(number) }
}

/// wait4(2): the end of a child, and what it used.
pub fn wait_with_usage(pid: i32) -> io::Result<libc::rusage> {
    // SAFETY: rusage is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: usage is a valid place for the kernel to write to; the status is not asked for.
    match unsafe { libc::wait4(pid, std::ptr::null_mut(), 0, &raw mut usage) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(usage),
    }
}
