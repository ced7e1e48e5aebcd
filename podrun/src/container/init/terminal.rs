//! A container's terminal: a pty of its own devpts, and the same on /dev/console.

#![forbid(unsafe_code)]

use super::{Failure, Step, at};
use crate::container::plan::{Process, Stdio};
use crate::sys::fd::{self, Resolve};
use crate::sys::{mount, socket, tty};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A pty of the container's own devpts: its other end is opened by the descriptor, never by /dev/pts/N, which somebody
/// may have replaced (CVE-2025-52565). The master goes to the parent.
pub(super) fn open_terminal(
    process: &Process,
    root: BorrowedFd<'_>,
    report: BorrowedFd<'_>,
) -> Result<Option<OwnedFd>, Failure> {
    let Stdio::Terminal { size } = process.stdio else { return Ok(None) };
    let opened = open_pty(root, report, size).and_then(|terminal| {
        if process.uid != 0 {
            // Its user may open it anew, by its name or as /dev/stdout. The group, devpts's own, stays.
            fd::fchown(terminal.as_fd(), process.uid, KEEP)?;
        }
        Ok(terminal)
    });
    opened.map(Some).map_err(at(Step::Terminal))
}

/// chown(2): "If the owner or group is specified as -1, then that ID is not changed."
pub(super) const KEEP: u32 = u32::MAX;

fn open_pty(root: BorrowedFd<'_>, report: BorrowedFd<'_>, size: Option<tty::Size>) -> io::Result<OwnedFd> {
    const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = fd::openat2(root, c"dev/pts/ptmx", flags, 0, Resolve::InRootNoSymlinks)?;
    let stat = fd::fstat(master.as_fd())?;
    let is_ptmx = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(5, 2);
    if !is_ptmx || fd::filesystem(master.as_fd())? != DEVPTS_SUPER_MAGIC {
        return Err(io::Error::from_raw_os_error(libc::ENOTTY));
    }
    let slave = tty::open_peer(master.as_fd())?;
    if let Some(size) = size {
        tty::set_size(slave.as_fd(), size)?;
    }
    socket::send(report, b"T", &[master.as_fd()], 0)?;
    Ok(slave)
}

/// The terminal itself on /dev/console, mounted from its descriptor.
pub(super) fn mount_console(terminal: BorrowedFd<'_>, root: BorrowedFd<'_>) -> io::Result<()> {
    let tree = mount::open_tree(terminal, c"", false)?;
    let dev = fd::openat2(root, c"dev", libc::O_PATH | libc::O_DIRECTORY, 0, Resolve::InRootNoSymlinks)?;
    let create = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
    match fd::openat(dev.as_fd(), c"console", create, 0o600).map(drop) {
        Err(err) if err.raw_os_error() == Some(libc::EEXIST) => {}
        other => other?,
    }
    let console = fd::openat(dev.as_fd(), c"console", libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    mount::move_mount(tree.as_fd(), console.as_fd())
}
