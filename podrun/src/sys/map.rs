//! mmap(2): words shared with whoever holds the same memfd, buffers that can be given back, and memchr(3) on bytes.

use nix::fcntl::FcntlArg;
use nix::fcntl::SealFlag;
use nix::sys::memfd::MFdFlags;
use std::ffi::CStr;
use std::io;
use std::ops::Deref;
use std::ops::DerefMut;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// memfd_create(2) of a fixed size: sealed, so that nobody can shrink it below a mapping (SIGBUS).
pub fn sealed_memfd(name: &CStr, bytes: i64) -> io::Result<OwnedFd> {
    let fd = nix::sys::memfd::memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    nix::unistd::ftruncate(&fd, bytes)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    nix::fcntl::fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}

/// 64-bit words in memory that outlives this process, because the memfd does.
#[derive(Debug)]
pub struct Words {
    at: NonNull<AtomicU64>,
    count: usize,
}

impl Words {
    /// Maps the first `count` words of `fd`, which must be a memfd sealed against shrinking.
    pub fn map(fd: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let seals = SealFlag::from_bits_retain(nix::fcntl::fcntl(fd, FcntlArg::F_GET_SEALS)?);
        let size = nix::sys::stat::fstat(fd)?.st_size;
        if !seals.contains(SealFlag::F_SEAL_SHRINK) || usize::try_from(size).unwrap_or(0) < bytes_of(count) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let at = mmap(bytes_of(count), libc::MAP_SHARED, fd.as_raw_fd())?;
        Ok(Self { at: at.cast(), count })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "word {index} of {}", self.count);
        // SAFETY: the mapping holds `count` aligned words, is readable and writable, cannot shrink (checked when it was
        // made), and lives as long as `self`; other processes change it only as atomics do.
        unsafe { self.at.add(index).as_ref() }
    }

    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::SeqCst)
    }

    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::SeqCst);
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        unmap(self.at.cast(), bytes_of(self.count));
    }
}

/// Private zeroed memory that costs nothing until touched and can be given back to the kernel at once. malloc(3) does
/// neither for certain: its threshold for mmap(2) rises with use.
#[derive(Debug)]
pub struct Pages {
    at: NonNull<u8>,
    len: usize,
}

impl Pages {
    pub fn new(len: usize) -> io::Result<Self> {
        let at = mmap(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        Ok(Self { at: at.cast(), len })
    }

    /// madvise(2) MADV_DONTNEED: the bytes are zero from now on.
    pub fn give_back(&mut self) -> io::Result<()> {
        // SAFETY: the range is exactly our own private anonymous mapping, and the exclusive borrow says that nobody
        // looks at its bytes while they turn to zero.
        match unsafe { libc::madvise(self.at.as_ptr().cast(), self.len, libc::MADV_DONTNEED) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Deref for Pages {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped readable at `at` for as long as `self` lives, and zeroed by the kernel.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the exclusive borrow of `self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        unmap(self.at.cast(), self.len);
    }
}

fn bytes_of(words: usize) -> usize {
    words * size_of::<AtomicU64>()
}

fn mmap(len: usize, flags: libc::c_int, fd: libc::c_int) -> io::Result<NonNull<libc::c_void>> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    match at == libc::MAP_FAILED {
        true => Err(io::Error::last_os_error()),
        false => NonNull::new(at).ok_or_else(|| io::ErrorKind::OutOfMemory.into()),
    }
}

fn unmap(at: NonNull<libc::c_void>, len: usize) {
    // SAFETY: called once, from the Drop of the only owner of this mapping, so no reference into it is left.
    unsafe { libc::munmap(at.as_ptr(), len) };
}

/// memchr(3): the first place of `byte`.
pub fn memchr(byte: u8, bytes: &[u8]) -> Option<usize> {
    // SAFETY: memchr reads at most `len` bytes from the start of a slice of that length.
    let found = unsafe { libc::memchr(bytes.as_ptr().cast(), libc::c_int::from(byte), bytes.len()) };
    place(found, bytes)
}

/// memrchr(3): the last place of `byte`.
pub fn memrchr(byte: u8, bytes: &[u8]) -> Option<usize> {
    // SAFETY: memrchr reads at most `len` bytes from the start of a slice of that length.
    let found = unsafe { libc::memrchr(bytes.as_ptr().cast(), libc::c_int::from(byte), bytes.len()) };
    place(found, bytes)
}

fn place(found: *mut libc::c_void, bytes: &[u8]) -> Option<usize> {
    (!found.is_null()).then(|| found.addr() - bytes.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn bytes_are_found_from_both_ends() {
        assert_eq!((memchr(b'x', b"axbxc"), memrchr(b'x', b"axbxc")), (Some(1), Some(3)));
        assert_eq!((memchr(b'x', b"abc"), memrchr(b'x', b"")), (None, None));
    }

    #[test]
    fn words_are_shared_by_every_mapping_and_cannot_be_cut_off() {
        let fd = sealed_memfd(c"test", 4096).unwrap();
        let (one, two) = (Words::map(fd.as_fd(), 4).unwrap(), Words::map(fd.as_fd(), 4).unwrap());
        one.store(3, 42);
        assert_eq!(two.load(3), 42);
        assert!(nix::unistd::ftruncate(&fd, 0).is_err());
        assert!(Words::map(fd.as_fd(), 4096).is_err(), "more words than the file has");
        let plain = nix::sys::memfd::memfd_create(c"plain", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&plain, 4096).unwrap();
        assert!(Words::map(plain.as_fd(), 4).is_err(), "not sealed");
    }

    #[test]
    fn pages_given_back_are_zero() {
        let mut pages = Pages::new(8192).unwrap();
        pages[5000] = 7;
        pages.give_back().unwrap();
        assert_eq!(pages[5000], 0);
    }
}
