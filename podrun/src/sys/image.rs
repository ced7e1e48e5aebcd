//! What this process executes, exchanged while it runs: execve(2) of its own file by another way, without a second start.

use super::fd::{self, check};
use super::proc::stat_field;
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::slice;

/// `struct prctl_mm_map` of linux/prctl.h.
#[repr(C)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Runs on from `file`, which must be this program's own file, opened for reading through another mount: each of its
/// segments is mapped from there, and /proc/self/exe is `file` from now on (`PR_SET_MM_MAP`, prctl(2), which needs
/// `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN` and a kernel with `CONFIG_CHECKPOINT_RESTORE`).
///
/// # Errors
///
/// `InvalidInput` where `file` is another one, there are threads, or the program was not linked to fixed addresses; `EBUSY`
/// where it is the same by the same mount; else the kernel's. The process is as good as before: it may still execute it anew.
pub fn run_on_from(file: BorrowedFd<'_>) -> io::Result<()> {
    let own = fd::open(c"/proc/self/exe", libc::O_PATH)?;
    let mut buffer = [0; 1024];
    let read = fd::read(fd::open(c"/proc/self/stat", libc::O_RDONLY)?.as_fd(), &mut buffer)?;
    // From the end of the name on, which may be of any bytes.
    let end = buffer[..read].iter().rposition(|&byte| byte == b')').unwrap_or(0);
    let stat = std::str::from_utf8(&buffer[end..read]).map_err(io::Error::other)?;
    const THREADS: usize = 20;
    if !fd::is_same(own.as_fd(), file) || number_of(stat, THREADS)? != 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let segments = segments()?;
    for segment in segments.iter().filter(|one| one.p_type == libc::PT_LOAD) {
        load(segment, file)?;
    }
    // What the linker's relocations filled in, and nobody writes to any more.
    for segment in segments.iter().filter(|one| one.p_type == libc::PT_GNU_RELRO) {
        let pages = pages(segment.p_vaddr, segment.p_memsz);
        // SAFETY: the linker says of these pages of ours that they are only read from once a program runs.
        check(unsafe { libc::mprotect(address(pages.start), length(&pages), libc::PROT_READ) }.into())?;
    }
    let (map, size) = (map_with(stat, file)?, size_of::<MemoryMap>());
    // SAFETY: the structure is the kernel's, of the size told; all but the file is as the kernel has it already.
    let answer = unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, &raw const map, size, 0) };
    check(answer.into()).map(drop)
}

/// The program headers, as the kernel has left them for us (getauxval(3)).
fn segments() -> io::Result<&'static [libc::Elf64_Phdr]> {
    // SAFETY: getauxval has no preconditions; the kernel's answer is the table's address and length, and the table is in a
    // segment that stays mapped as long as the program runs, with the same bytes.
    let table = unsafe {
        let at = libc::getauxval(libc::AT_PHDR) as *const libc::Elf64_Phdr;
        slice::from_raw_parts(at, usize::try_from(libc::getauxval(libc::AT_PHNUM)).unwrap_or(0))
    };
    let says = table.iter().find(|one| one.p_type == libc::PT_PHDR).map(|one| one.p_vaddr);
    match says == Some(table.as_ptr().addr() as u64) {
        true => Ok(table),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// One segment, from the file; or, where it has been written to, as it is, from no file.
fn load(segment: &libc::Elf64_Phdr, file: BorrowedFd<'_>) -> io::Result<()> {
    let pages = pages(segment.p_vaddr, segment.p_filesz);
    let (at, len) = (address(pages.start), length(&pages));
    let readable = libc::PROT_READ;
    if segment.p_flags & libc::PF_W == 0 {
        let protection = if segment.p_flags & libc::PF_X == 0 { readable } else { readable | libc::PROT_EXEC };
        let offset = i64::try_from(segment.p_offset - (segment.p_vaddr - pages.start)).unwrap_or(-1);
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
        // SAFETY: the very bytes that are there, of the same file (checked), take their own place in one step.
        return mapped(unsafe { libc::mmap(at, len, protection, flags, file.as_raw_fd(), offset) }).map(|_| ());
    }
    let (writable, flags) = (readable | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, where nothing is.
    let copy = mapped(unsafe { libc::mmap(std::ptr::null_mut(), len, writable, flags, -1, 0) })?;
    // SAFETY: both are `len` bytes of ours and apart; and between the copy and its taking the place no thread (there is but
    // this one, checked) and no line writes to the program's data.
    mapped(unsafe {
        std::ptr::copy_nonoverlapping(at.cast::<u8>(), copy.cast::<u8>(), len);
        libc::mremap(copy, len, len, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, at)
    })
    .map(|_| ())
}

/// What the kernel has of this process already (proc_pid_stat(5)), and the file.
fn map_with(stat: &str, file: BorrowedFd<'_>) -> io::Result<MemoryMap> {
    let field = |number| number_of(stat, number);
    // SAFETY: an increment of nothing only asks where the heap ends.
    let brk = unsafe { libc::sbrk(0) }.addr() as u64;
    Ok(MemoryMap {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk,
        start_stack: field(28)?,
        arg_start: field(48)?,
        arg_end: field(49)?,
        env_start: field(50)?,
        env_end: field(51)?,
        auxv: 0,
        auxv_size: 0,
        exe_fd: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
    })
}

fn number_of(stat: &str, field: usize) -> io::Result<u64> {
    stat_field(stat, field).and_then(|text| text.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// The whole pages that hold these bytes.
fn pages(at: u64, len: u64) -> Range<u64> {
    const PAGE: u64 = 4096;
    at & !(PAGE - 1)..(at + len).next_multiple_of(PAGE)
}

fn address(at: u64) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(usize::try_from(at).unwrap_or(0))
}

fn length(pages: &Range<u64>) -> usize {
    usize::try_from(pages.end - pages.start).unwrap_or(0)
}

fn mapped(at: *mut c_void) -> io::Result<*mut c_void> {
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clone::{Clone, Exit, clone3, exit, wait};
    use std::fs::File;
    use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

    /// What becomes of a child with a single thread, told by its exit code.
    fn tried(child: impl FnOnce() -> i32) -> i32 {
        let child = clone3(&Clone { namespaces: 0, cgroup: None }, || exit(child())).unwrap();
        match wait(child.pidfd.as_fd()).unwrap() {
            Exit::Code(code) => code,
            Exit::Signal(signal) => -signal,
        }
    }

    // What the kernel says last: by the same mount it is no other file. All was mapped anew by then.
    #[test]
    fn a_program_mapped_anew_has_its_data_as_it_was() {
        static WRITTEN: AtomicI32 = AtomicI32::new(1);
        let own = File::open("/proc/self/exe").unwrap();
        let code = tried(|| {
            WRITTEN.store(42, Relaxed);
            let errno = run_on_from(own.as_fd()).map_or_else(|err| err.raw_os_error(), |()| None);
            if errno == Some(libc::EBUSY) { WRITTEN.load(Relaxed) } else { errno.unwrap_or(2) }
        });
        assert_eq!(code, 42);
    }

    #[test]
    fn a_program_runs_on_from_no_other_file() {
        let other = File::open("/bin/sh").unwrap();
        let errno = tried(|| {
            run_on_from(other.as_fd()).map_or_else(|err| i32::from(err.kind() == io::ErrorKind::InvalidInput), |()| 2)
        });
        assert_eq!(errno, 1);
    }

    #[test]
    fn pages_are_whole() {
        assert_eq!(pages(0x1000, 1), 0x1000..0x2000);
        assert_eq!(pages(0x1fff, 2), 0x1000..0x3000);
        assert_eq!(pages(0x1001, 0xfff), 0x1000..0x2000);
    }
}
