//! The mount API by descriptors: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2),
//! pivot_root(2).
//!
//! Everything is mounted from a descriptor onto a descriptor, so that no path inside a rootfs is ever walked by the
//! host's rules (CVE-2025-31133 and its kin). All of it may be called between clone3 and execve.

use super::fd::{check, mount_flags_of, open, owned, read};
use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::null;

/// One setting of a filesystem that is being made (fsconfig(2)).
#[derive(Debug, Clone, Copy)]
pub enum Setting<'a> {
    Flag(&'a CStr),
    Text(&'a CStr, &'a CStr),
}

/// fsopen(2).
pub fn fsopen(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: kind is a C string that lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })
}

/// fsconfig(2) `FSCONFIG_SET_FLAG` and `FSCONFIG_SET_STRING`.
pub fn fsconfig(context: BorrowedFd<'_>, setting: Setting<'_>) -> io::Result<()> {
    let (command, key, value) = match setting {
        Setting::Flag(key) => (libc::FSCONFIG_SET_FLAG, key.as_ptr(), null()),
        Setting::Text(key, value) => (libc::FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr()),
    };
    // SAFETY: key and value are C strings, or null where the command takes none; they live through the call.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) }).map(drop)
}

/// fsconfig(2) `FSCONFIG_CMD_CREATE`, then fsmount(2): the filesystem as a detached mount.
pub fn fsmount(context: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    let (none, command) = (null::<libc::c_char>(), libc::FSCONFIG_CMD_CREATE);
    // SAFETY: FSCONFIG_CMD_CREATE takes neither key nor value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, none, none, 0) })?;
    // SAFETY: fsmount reads three integers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes) })
}

/// open_tree(2) `OPEN_TREE_CLONE`: a detached copy of the mount at `path`, with what is mounted below it if `recursive`.
/// An empty path means `dir` itself.
pub fn open_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH.cast_unsigned();
    if recursive {
        flags |= libc::AT_RECURSIVE.cast_unsigned();
    }
    // SAFETY: path is a C string that lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// The calling process's current directory, as `*at` calls name it.
pub fn here() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is no descriptor that could be closed, and not the -1 that BorrowedFd forbids.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

/// move_mount(2) of a detached mount onto what `target` names.
pub fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    const BY_FD: libc::c_uint = 0x04 | 0x40; // MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    // SAFETY: both paths are empty C strings.
    check(unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), BY_FD)
    })
    .map(drop)
}

/// What mount_setattr(2) changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u64,
}

/// mount_setattr(2) of what `mount` names, and of all below it if `recursive`.
pub fn mount_setattr(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    setattr(mount, &attr, recursive)
}

fn setattr(mount: BorrowedFd<'_>, attr: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and attr a mount_attr of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// mount(2) with only flags: propagation changes and bind remounts.
pub fn mount_flags(target: &CStr, flags: u64) -> io::Result<()> {
    // SAFETY: target is a C string; source, type and data may be null for these flags (mount(2)).
    check(unsafe { libc::mount(null(), target.as_ptr(), null(), flags, null()) }.into()).map(drop)
}

/// pivot_root(2) onto the current directory, stacking the old root on it, which is then unmounted lazily: so no
/// `put_old` directory is needed (the trick of pivot_root(2), "NOTES").
pub fn pivot_root_here() -> io::Result<()> {
    // SAFETY: both are C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: the path is a C string.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into()).map(drop)
}

/// umount2(2), lazily; what may not be unmounted, as what came from a user namespace above, is covered by an empty directory.
pub fn take_away(place: &CStr) -> io::Result<()> {
    // SAFETY: the path is a C string.
    if check(unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) }.into()).is_ok() {
        return Ok(());
    }
    let (tmpfs, flags) = (c"tmpfs".as_ptr(), libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC);
    // SAFETY: all are C strings that live through the call, and tmpfs needs no data.
    check(unsafe { libc::mount(tmpfs, place.as_ptr(), tmpfs, flags, null()) }.into()).map(drop)
}

/// Moves the mount that is the current directory onto the root, and makes it the root of this process (chroot(2)).
pub fn cover_root_here() -> io::Result<()> {
    // SAFETY: both are C strings; MS_MOVE reads no type and no data.
    check(unsafe { libc::mount(c".".as_ptr(), c"/".as_ptr(), null(), libc::MS_MOVE, null()) }.into())?;
    // SAFETY: the path is a C string.
    check(unsafe { libc::chroot(c".".as_ptr()) }.into()).map(drop)
}

/// fchdir(2).
pub fn fchdir(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fchdir reads one integer.
    check(unsafe { libc::fchdir(dir.as_raw_fd()) }.into()).map(drop)
}

/// chdir(2).
pub fn chdir(path: &CStr) -> io::Result<()> {
    // SAFETY: path is a C string that lives through the call.
    check(unsafe { libc::chdir(path.as_ptr()) }.into()).map(drop)
}

/// getcwd(2): whether the current directory lies below the root. The kernel says "(unreachable)" where it does not
/// (CVE-2024-21626).
pub fn cwd_is_inside_root() -> io::Result<bool> {
    let mut path = [0u8; 4096];
    // SAFETY: the kernel writes at most the length given. The raw call, since glibc's wrapper allocates and guesses.
    check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path[0] == b'/')
}

/// mount_setattr(2) MOUNT_ATTR_IDMAP of a detached mount, and of all below it if `recursive`, by a user namespace's mappings.
pub fn map_ids(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let userns_fd = u64::from(namespace.as_raw_fd().unsigned_abs());
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    setattr(mount, &attr, recursive)
}

/// fspick(2), fsconfig(2) `FSCONFIG_CMD_RECONFIGURE`: new settings for the filesystem of a mount.
pub fn reconfigure<'a>(mount: BorrowedFd<'_>, settings: impl Iterator<Item = Setting<'a>>) -> io::Result<()> {
    const CLOEXEC_AND_EMPTY_PATH: libc::c_uint = 1 | 8;
    const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;
    // SAFETY: the path is an empty C string.
    let context =
        owned(unsafe { libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), c"".as_ptr(), CLOEXEC_AND_EMPTY_PATH) })?;
    for setting in settings {
        fsconfig(context.as_fd(), setting)?;
    }
    let none = null::<libc::c_char>();
    // SAFETY: FSCONFIG_CMD_RECONFIGURE takes neither key nor value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_RECONFIGURE, none, none, 0) })
        .map(drop)
}

/// open(2) of what a descriptor names, by the host's /proc/self/fd: never by a path that somebody may have replaced.
pub fn reopen(fd: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
    open(fd_path(fd.as_raw_fd(), &mut [0; 32]), flags)
}

/// What mount_setattr does, on kernels before 5.12, by mount(2) on /proc/self/fd: for a mount that is attached.
/// Allocates nothing. Recursion is there for propagation, and where there is nothing below: ENOSYS otherwise.
pub fn set_attributes_by_path(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> io::Result<()> {
    let mut path = [0u8; 32];
    let path = fd_path(mount.as_raw_fd(), &mut path);
    if attributes.propagation != 0 {
        mount_flags(path, attributes.propagation | if recursive { libc::MS_REC } else { 0 })?;
    }
    if attributes.set == 0 && attributes.clear == 0 {
        return Ok(());
    }
    if recursive && has_mounts_below(mount)? {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    // A remount says all flags anew; fstatvfs(3) has them under mount(2)'s numbers.
    let known = OLD_FLAGS.iter().fold(0, |flags, (_, old)| flags | old);
    let flags = mount_flags_of(mount)? & known & !old_flags(attributes.clear) | old_flags(attributes.set);
    mount_flags(path, flags | libc::MS_REMOUNT | libc::MS_BIND)
}

/// Whether anything is mounted on what lies in an attached mount, by proc_pid_mountinfo(5).
fn has_mounts_below(mount: BorrowedFd<'_>) -> io::Result<bool> {
    let own = mount_id(mount)?;
    let list = open(c"/proc/self/mountinfo", libc::O_RDONLY)?;
    let mut buffer = [0; 4096];
    // The first two fields of a line are the mount's id and its parent's; a line may be cut anywhere.
    let (mut field, mut number) = (0, 0u64);
    loop {
        let count = read(list.as_fd(), &mut buffer)?;
        for byte in &buffer[..count] {
            match byte {
                b'\n' => (field, number) = (0, 0),
                b' ' if field == 1 && number == own => return Ok(true),
                b' ' => (field, number) = (field + 1, 0),
                b'0'..=b'9' if field < 2 => number = number.wrapping_mul(10) + u64::from(byte - b'0'),
                _ => {}
            }
        }
        if count == 0 {
            return Ok(false);
        }
    }
}

/// statx(2) `STATX_MNT_ID`, Linux 5.8.
fn mount_id(mount: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: statx is plain integers, for which zero is a value, and the kernel fills it.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let place = &raw mut stat;
    // SAFETY: the path is an empty C string, and place one struct statx.
    let answer =
        unsafe { libc::statx(mount.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_MNT_ID, place) };
    check(answer.into())?;
    match stat.stx_mask & libc::STATX_MNT_ID {
        0 => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        _ => Ok(stat.stx_mnt_id),
    }
}

fn old_flags(attributes: u64) -> u64 {
    OLD_FLAGS.iter().filter(|(new, _)| attributes & new != 0).fold(0, |flags, (_, old)| flags | old)
}

/// mount_setattr(2)'s words beside mount(2)'s.
const OLD_FLAGS: [(u64, u64); 6] = [
    (libc::MOUNT_ATTR_RDONLY, libc::MS_RDONLY),
    (libc::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
    (libc::MOUNT_ATTR_NODEV, libc::MS_NODEV),
    (libc::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
    (libc::MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
    (libc::MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME),
];

/// `/proc/self/fd/<number>` as a C string in `buffer`.
fn fd_path(number: i32, buffer: &mut [u8; 32]) -> &CStr {
    const PREFIX: &[u8] = b"/proc/self/fd/";
    buffer[..PREFIX.len()].copy_from_slice(PREFIX);
    let mut rest = number.unsigned_abs();
    let digits = rest.checked_ilog10().unwrap_or(0) as usize + 1;
    for at in (PREFIX.len()..PREFIX.len() + digits).rev() {
        buffer[at] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
    }
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_descriptor() {
        for number in [0, 9, 10, 123, i32::MAX] {
            assert_eq!(fd_path(number, &mut [0; 32]).to_str().unwrap(), format!("/proc/self/fd/{number}"));
        }
    }
}
