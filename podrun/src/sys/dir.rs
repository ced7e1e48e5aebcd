//! getdents64(2) and the calls that copying a directory takes, all by descriptors, without allocating.

use super::fd::check;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for some entries of a directory, aligned as the kernel's `struct linux_dirent64` is.
#[repr(C, align(8))]
#[derive(Debug)]
pub struct Entries {
    bytes: [u8; Self::ROOM],
    length: usize,
}

impl Entries {
    /// Some dozen names, and each name there may be: a directory within a directory takes as much of the stack again.
    const ROOM: usize = 1024;

    pub fn new() -> Self {
        Self { bytes: [0; Self::ROOM], length: 0 }
    }

    /// The next ones of an open directory; whether there are any.
    pub fn read(&mut self, dir: BorrowedFd<'_>) -> io::Result<bool> {
        let room = self.bytes.as_mut_ptr();
        // SAFETY: the kernel writes at most the length given, which is that of the buffer.
        let count = check(unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), room, Self::ROOM) })?;
        self.length = usize::try_from(count).map_err(io::Error::other)?;
        Ok(self.length > 0)
    }

    /// Their names, but `.` and `..`.
    pub fn names(&self) -> impl Iterator<Item = &CStr> {
        /// d_ino, d_off and d_reclen, d_type come before the name.
        const LENGTH: usize = 16;
        const NAME: usize = 19;
        let mut rest = self.bytes.get(..self.length).unwrap_or_default();
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes([*rest.get(LENGTH)?, *rest.get(LENGTH + 1)?]));
            let name = CStr::from_bytes_until_nul(rest.get(NAME..length)?).ok()?;
            rest = rest.get(length..)?;
            Some(name)
        })
        .filter(|name| *name != c"." && *name != c"..")
    }
}

impl Default for Entries {
    fn default() -> Self {
        Self::new()
    }
}

/// fchmod(2).
pub fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: fchmod reads two integers.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }.into()).map(drop)
}

/// futimens(3): the times of another file.
pub fn set_times(fd: BorrowedFd<'_>, like: &libc::stat) -> io::Result<()> {
    let times = [
        libc::timespec { tv_sec: like.st_atime, tv_nsec: like.st_atime_nsec },
        libc::timespec { tv_sec: like.st_mtime, tv_nsec: like.st_mtime_nsec },
    ];
    // SAFETY: the call reads two timespecs, which live through it.
    check(unsafe { libc::futimens(fd.as_raw_fd(), times.as_ptr()) }.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd;
    use std::os::fd::AsFd;

    #[test]
    fn a_directory_of_any_length_is_read_whole() {
        let dir = std::env::temp_dir().join(format!("podrun-entries-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let mut names: Vec<String> = (0..40).map(|number| format!("{number:0>200}")).collect();
        names.extend(["x".to_owned(), "y".repeat(255)]);
        names.iter().for_each(|name| std::fs::write(dir.join(name), "").unwrap());
        let path = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes()).unwrap();
        let opened = fd::open(&path, libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
        let (mut entries, mut found) = (Entries::new(), Vec::new());
        while entries.read(opened.as_fd()).unwrap() {
            found.extend(entries.names().map(|name| name.to_string_lossy().into_owned()));
        }
        names.sort();
        found.sort();
        assert_eq!(found, names);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
