//! What a command of `podrun oci` does to itself before it clones: it runs from a copy of its own file that nobody can write
//! to, and knows which of its descriptors are the caller's gifts to the container.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::privilege::Privilege;
use crate::sandbox;
use crate::sys::cred::{self, Pointers};
use crate::sys::{fd, image};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// Makes this command run from a file that the container cannot overwrite through /proc/PID/exe (CVE-2019-5736), unless it
/// does so already: it runs on from there, or, where the kernel does not let it, starts again.
pub fn be_unwritable() -> Result<()> {
    let doing = || "look at podrun's own program".to_owned();
    let own = fd::open(c"/proc/self/exe", libc::O_RDONLY).doing(doing)?;
    let read_only = fd::mount_flags_of(own.as_fd()).doing(doing)? & libc::ST_RDONLY != 0;
    if read_only || fd::is_sealed(own.as_fd()) || is_roots_alone(own.as_fd()).doing(doing)? {
        return Ok(());
    }
    let program = sandbox::own_program()?;
    let readable = File::open(format!("/proc/self/fd/{}", program.as_raw_fd()));
    if readable.and_then(|file| image::run_on_from(file.as_fd())).is_ok() {
        return Ok(());
    }
    let words = |all: Vec<std::ffi::OsString>| {
        Pointers::new(all.into_iter().filter_map(|word| CString::new(word.into_vec()).ok()).collect())
    };
    let variable = |(mut name, value): (std::ffi::OsString, std::ffi::OsString)| {
        name.push("=");
        name.push(value);
        name
    };
    let (argv, envp) = (words(std::env::args_os().collect()), words(std::env::vars_os().map(variable).collect()));
    Err(cred::fexecve(program.as_fd(), &argv, &envp)).doing(|| "run podrun from a copy of itself".into())
}

/// No user's container has an id that may write to what is root's: there the kernel sees to it already.
fn is_roots_alone(own: BorrowedFd<'_>) -> std::io::Result<bool> {
    if Privilege::own() != Privilege::User {
        return Ok(false);
    }
    let stat = fd::fstat(own)?;
    Ok(stat.st_uid == 0 && stat.st_mode & 0o022 == 0)
}

/// Numbers 3 to 2 + `count` are the container's. One that is not open is held, so that none of podrun's own takes its place
/// and gets into the container with it.
pub fn hold_preserved(count: i32) -> Result<Vec<OwnedFd>> {
    let doing = || "hold the preserved descriptors".to_owned();
    if !(0..=4096).contains(&count) {
        return Err(Error::new(Kind::Usage, "read --preserve-fds", format!("{count} is not within 0 and 4096")));
    }
    let mut holes = Vec::new();
    loop {
        let held = fd::open(c"/dev/null", libc::O_PATH).doing(doing)?;
        if !fd::is_below(held.as_fd(), 3 + count) {
            return Ok(holes);
        }
        holes.push(held);
    }
}

/// The caller's stdio, above what is preserved.
pub fn stdio(preserved: i32) -> Result<[OwnedFd; 3]> {
    let doing = || "copy stdin, stdout and stderr".to_owned();
    let (own_in, own_out, own_err) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let copy = |one: BorrowedFd<'_>| fd::dup_above(one, 3 + preserved).doing(doing);
    Ok([copy(own_in.as_fd())?, copy(own_out.as_fd())?, copy(own_err.as_fd())?])
}
