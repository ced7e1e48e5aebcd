//! `tmpcopyup`: a new tmpfs begins with what the directory holds that it covers.
//!
//! Promises: what is read lies in the image, whatever somebody does to it meanwhile: each entry is opened once, as a name in
//! a directory that is open, following nothing, and is then what it was seen to be. Contents, owners, permissions and times
//! are copied; extended attributes are not, and a file with two names becomes two files. It allocates nothing, for it runs
//! between clone3 and execve.

#![forbid(unsafe_code)]

use crate::sys::dir::{self, Entries};
use crate::sys::{cred, fd, mount};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Deeper is no image's directory; each level takes two descriptors and two KiB of stack.
const DEEPEST: usize = 64;

/// Copies what is in one directory into another, which is empty.
pub(super) fn copy_up(covered: BorrowedFd<'_>, into: BorrowedFd<'_>) -> io::Result<()> {
    cred::umask(0);
    let done = copy_directory(covered, into, DEEPEST);
    cred::umask(0o022);
    done
}

/// Makes a directory look like another: owner, permissions, times.
pub(super) fn look_alike(covered: BorrowedFd<'_>, into: BorrowedFd<'_>) -> io::Result<()> {
    let into = fd::openat(into, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    dress(into.as_fd(), &fd::fstat(covered)?)
}

fn copy_directory(from: BorrowedFd<'_>, into: BorrowedFd<'_>, deeper: usize) -> io::Result<()> {
    let readable = fd::openat(from, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let mut entries = Entries::new();
    while entries.read(readable.as_fd())? {
        for name in entries.names() {
            copy_entry(readable.as_fd(), into, name, deeper)?;
        }
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &CStr, deeper: usize) -> io::Result<()> {
    let entry = fd::openat(from, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let stat = fd::fstat(entry.as_fd())?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            let deeper = deeper.checked_sub(1).ok_or_else(|| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?;
            fd::mkdirat(into, name, 0o700)?;
            let made = fd::openat(into, name, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
            copy_directory(entry.as_fd(), made.as_fd(), deeper)?;
            dress(made.as_fd(), &stat)
        }
        libc::S_IFREG => copy_file(&entry, into, name, &stat),
        libc::S_IFLNK => copy_link(entry.as_fd(), into, name, &stat),
        _ => {
            fd::mknodat(into, name, stat.st_mode, stat.st_rdev)?;
            given(fd::fchownat(into, name, stat.st_uid, stat.st_gid)).map(|_| ())
        }
    }
}

fn copy_file(entry: &OwnedFd, into: BorrowedFd<'_>, name: &CStr, stat: &libc::stat) -> io::Result<()> {
    let source = mount::reopen(entry.as_fd(), libc::O_RDONLY)?;
    let create = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
    let copy = fd::openat(into, name, create, 0o600)?;
    pour(source.as_fd(), copy.as_fd())?;
    dress(copy.as_fd(), stat)
}

#[inline(never)]
fn pour(from: BorrowedFd<'_>, into: BorrowedFd<'_>) -> io::Result<()> {
    let mut buffer = [0; 16384];
    loop {
        let count = fd::read(from, &mut buffer)?;
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            rest = &rest[fd::write(into, rest)?..];
        }
        if count == 0 {
            return Ok(());
        }
    }
}

#[inline(never)]
fn copy_link(entry: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &CStr, stat: &libc::stat) -> io::Result<()> {
    let mut target = [0; 4097];
    let length = fd::readlinkat(entry, c"", &mut target[..4096])?;
    let target = CStr::from_bytes_until_nul(&target[..=length]).map_err(|_| io::ErrorKind::InvalidData)?;
    fd::symlinkat(target, into, name)?;
    given(fd::fchownat(into, name, stat.st_uid, stat.st_gid)).map(|_| ())
}

/// chown(2) takes set-user-ID away, so the owner comes first. Of a file that is not its owner's any more nobody gets the rights.
fn dress(copy: BorrowedFd<'_>, stat: &libc::stat) -> io::Result<()> {
    let bits = match given(fd::fchown(copy, stat.st_uid, stat.st_gid))? {
        Given::ToItsOwner => 0o7777,
        Given::ToNobody => 0o1777,
    };
    dir::fchmod(copy, stat.st_mode & bits)?;
    dir::set_times(copy, stat)
}

enum Given {
    ToItsOwner,
    ToNobody,
}

/// EINVAL of chown(2): the user namespace has no such id, and the copy stays its root's.
fn given(chown: io::Result<()>) -> io::Result<Given> {
    match chown {
        Err(err) if err.raw_os_error() == Some(libc::EINVAL) => Ok(Given::ToNobody),
        other => other.map(|()| Given::ToItsOwner),
    }
}
