//! A container's rootfs, filled by its init: mounts, devices, links, then masks and what is read-only. By descriptors below
//! the rootfs's own, never by a path that the host resolves (invariant 6).

#![forbid(unsafe_code)]

use super::{Failure, Step, Trees, World, at, at_index};
use crate::container::copy_up::{copy_up, look_alike};
use crate::container::plan::{Access, Plan};
use crate::rootfs::idmap::{Namespaces, Reach};
use crate::rootfs::{Component, Device, Follow, Looks, Mount, Place, PointKind, Source};
use crate::sandbox::SharedMemory;
use crate::sys::cred;
use crate::sys::fd::{self, Resolve};
use crate::sys::mount::{self, Attributes, Setting};
use crate::text::Text;
use std::cell::OnceCell;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// For what was opened in the host's mount namespace, as a peer of what is there: what is mounted in the container would be
/// mounted on the host, too, and pivot_root(2) refuses it. Whatever was opened later is as `/` was made by then, a slave mostly.
pub(super) fn no_peer(plan: &Plan) -> Attributes {
    Attributes { propagation: plan.host_propagation & !libc::MS_REC, ..Attributes::default() }
}

/// A copy of the rootfs's mounts, stacked on itself: pivot_root(2) wants a mount point. One that is given becomes so first.
pub fn open_rootfs(path: &Text, given: Option<(BorrowedFd<'_>, Attributes)>) -> io::Result<OwnedFd> {
    if let Some((given, first)) = given {
        // Any mount point will do, and `/` is in everybody's reach.
        let root = fd::dup_above(given, 3)?;
        let top = fd::open(c"/", libc::O_PATH | libc::O_DIRECTORY)?;
        attach(root.as_fd(), top.as_fd(), &[(first, true)])?;
        return Ok(root);
    }
    let root = mount::open_tree(mount::here(), path.c(), true)?;
    let below = fd::open(path.c(), libc::O_PATH | libc::O_DIRECTORY)?;
    mount::move_mount(root.as_fd(), below.as_fd())?;
    Ok(root)
}

/// The mounts on which masks and read-only paths lie. Their descriptors are kept since they were made: a procfs is masked
/// wherever it is by then, and whoever swaps the way there hides nothing from the masks (CVE-2025-31133).
pub(super) struct Bases<'p> {
    mounts: [Option<(&'p Text, OwnedFd)>; 32],
}

impl<'p> Bases<'p> {
    fn new() -> Self {
        Self { mounts: [const { None }; 32] }
    }

    fn keep(&mut self, at: &'p Text, mount: OwnedFd) -> io::Result<()> {
        let place = self.mounts.iter_mut().find(|place| place.is_none()).ok_or(io::ErrorKind::ArgumentListTooLong)?;
        *place = Some((at, mount));
        Ok(())
    }

    /// The mount that was made last of those that a path lies on, and the path from there.
    fn below<'k>(&'k self, path: &'k Text) -> Option<(BorrowedFd<'k>, &'k CStr)> {
        self.mounts.iter().rev().flatten().find_map(|(at, mount)| Some((mount.as_fd(), path.below(at)?)))
    }
}

/// Nothing is there yet, so nothing is replaced.
pub(super) fn open_trees(plan: &Plan, trees: &Trees) -> Result<(), Failure> {
    for (index, (one, place)) in plan.mounts.iter().zip(&trees.sources).enumerate() {
        if let Source::Bind { path, recursive } = &one.source {
            let tree = mount::open_tree(mount::here(), path.c(), *recursive).map_err(at_index(Step::Mount, index))?;
            let _ = place.set(tree);
        }
    }
    let rootfs = mount::open_tree(mount::here(), plan.rootfs.c(), true).map_err(at(Step::OpenRootfs))?;
    let _ = trees.rootfs.set(rootfs);
    Ok(())
}

pub(super) fn fill_rootfs<'p>(
    plan: &'p Plan,
    root: BorrowedFd<'_>,
    world: &World<'_>,
    idmaps: &Namespaces,
) -> Result<Bases<'p>, Failure> {
    let mut bases = Bases::new();
    let trees = world.own.map_or(&[][..], |own| &own.trees.sources);
    for (index, one) in plan.mounts.iter().enumerate() {
        let tree = trees.get(index).and_then(OnceCell::get);
        let detached = make_mount(root, one, world.memory, tree).map_err(at_index(Step::Mount, index))?;
        // A tree that was opened for us has them mapped already.
        if let (Some(map), Some(namespace), None) = (&one.idmap, idmaps.of(index), tree) {
            let all = map.reach == Reach::Below;
            mount::map_ids(detached.as_fd(), namespace, all).map_err(at_index(Step::Idmap, index))?;
        }
        let first = if tree.is_some() { no_peer(plan) } else { Attributes::default() };
        place_mount(root, one, detached.as_fd(), first).map_err(at_index(Step::Mount, index))?;
        if plan.masked.iter().chain(&plan.read_only).any(|path| path.below(&one.at.path).is_some()) {
            bases.keep(&one.at.path, detached).map_err(at_index(Step::Mount, index))?;
        }
    }
    if plan.devices.is_empty() && plan.links.is_empty() {
        return Ok(bases);
    }
    cred::umask(0);
    // Mostly all are in /dev, which is then opened once.
    let mut last: Option<(&Text, OwnedFd)> = None;
    for (index, device) in plan.devices.iter().enumerate() {
        let open = || make_place(root, &device.at, Follow::NoLinks);
        let parent = kept(&mut last, &device.name.parent, open).map_err(at_index(Step::Device, index))?;
        make_device(parent, device).map_err(at_index(Step::Device, index))?;
    }
    for (index, link) in plan.links.iter().enumerate() {
        let open = || open_directory(root, &link.at.parent, Resolve::InRootNoSymlinks);
        let parent = kept(&mut last, &link.at.parent, open).map_err(at_index(Step::Link, index))?;
        make_link(parent, &link.at.name, &link.target).map_err(at_index(Step::Link, index))?;
    }
    cred::umask(0o022);
    Ok(bases)
}

/// The directory of `path`: the one that was opened last, or else what `open` gives.
fn kept<'k, 'p>(
    last: &'k mut Option<(&'p Text, OwnedFd)>,
    path: &'p Text,
    open: impl FnOnce() -> io::Result<OwnedFd>,
) -> io::Result<BorrowedFd<'k>> {
    let fd = match last.take() {
        Some((known, fd)) if known == path => fd,
        _ => open()?,
    };
    Ok(last.insert((path, fd)).1.as_fd())
}

/// The mount, detached; one that is there already is opened where it is.
fn make_mount(
    root: BorrowedFd<'_>,
    one: &Mount,
    memory: Option<&SharedMemory>,
    tree: Option<&OwnedFd>,
) -> io::Result<OwnedFd> {
    match &one.source {
        Source::New { kind, settings } => {
            let says_mode = || settings.iter().any(|(key, _)| key.c() == c"mode");
            let mode = if kind.c() == c"tmpfs" && !says_mode() { mode_of(root, one)? } else { None };
            new_filesystem(kind.c(), settings, mode.as_ref(), one.set)
        }
        Source::CopyUp { settings, looks } => {
            // Before it can be read-only: attach makes it so.
            let made = new_filesystem(c"tmpfs", settings, None, 0)?;
            let covered = make_place(root, &one.at, one.follow)?;
            copy_up(covered.as_fd(), made.as_fd())?;
            if *looks == Looks::OfTheCovered {
                look_alike(covered.as_fd(), made.as_fd())?;
            }
            Ok(made)
        }
        Source::Mounted { .. } => open_place(root, &one.at, one.follow),
        Source::Bind { path, recursive } => match tree {
            Some(tree) => fd::dup_above(tree.as_fd(), 3),
            None => mount::open_tree(mount::here(), path.c(), *recursive),
        },
        Source::Inside { path, recursive } => {
            let there = fd::openat2(root, path.c(), libc::O_PATH, 0, Resolve::InRoot)?;
            mount::open_tree(there.as_fd(), c"", *recursive)
        }
        Source::PodMemory => match memory {
            Some(memory) => memory.copy(),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        },
    }
}

/// The permissions that a tmpfs of no others has: those of the directory that it covers, as with runc. Of one that is made for
/// it the kernel's, 1777.
fn mode_of(root: BorrowedFd<'_>, one: &Mount) -> io::Result<Option<[u8; 5]>> {
    let covered = match open_place(root, &one.at, one.follow) {
        Err(err) if err.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        other => other?,
    };
    let mode = fd::fstat(covered.as_fd())?.st_mode;
    let digit = |shift: u32| b'0' + u8::try_from(mode >> shift & 7).unwrap_or(0);
    Ok(Some([digit(9), digit(6), digit(3), digit(0), 0]))
}

fn new_filesystem(
    kind: &CStr,
    settings: &[(Text, Option<Text>)],
    mode: Option<&[u8; 5]>,
    attributes: u64,
) -> io::Result<OwnedFd> {
    let context = mount::fsopen(kind)?;
    if let Some(mode) = mode.and_then(|mode| CStr::from_bytes_with_nul(mode).ok()) {
        mount::fsconfig(context.as_fd(), Setting::Text(c"mode", mode))?;
    }
    each_setting(settings).try_for_each(|setting| mount::fsconfig(context.as_fd(), setting))?;
    mount::fsmount(context.as_fd(), attributes)
}

fn each_setting(settings: &[(Text, Option<Text>)]) -> impl Iterator<Item = Setting<'_>> {
    settings.iter().map(|(key, value)| match value {
        Some(value) => Setting::Text(key.c(), value.c()),
        None => Setting::Flag(key.c()),
    })
}

/// Sets what is to be set, `first` of it all the way down, and moves the mount to its place.
fn place_mount(root: BorrowedFd<'_>, one: &Mount, detached: BorrowedFd<'_>, first: Attributes) -> io::Result<()> {
    let own = match &one.source {
        // fsmount(2) has set them.
        Source::New { .. } => Attributes::default(),
        _ => Attributes { set: one.set, clear: one.clear, propagation: 0 },
    };
    let below = Attributes { set: one.set_below, clear: one.clear_below, propagation: 0 };
    let propagation = Attributes { propagation: one.propagation & !libc::MS_REC, ..Attributes::default() };
    let changes = [(first, true), (own, false), (below, true), (propagation, one.propagation & libc::MS_REC != 0)];
    if let Source::Mounted { settings } = &one.source {
        if !settings.is_empty() {
            mount::reconfigure(detached, each_setting(settings))?;
        }
        return changes.into_iter().try_for_each(|(one, recursive)| change(detached, one, recursive));
    }
    let kind = match &one.source {
        Source::Inside { .. } => kind_of(detached)?,
        _ => one.at.kind,
    };
    let target = make_place_for(kind, root, &one.at, one.follow)?;
    refuse_procfs(target.as_fd(), one)?;
    attach(detached, target.as_fd(), &changes)
}

fn kind_of(there: BorrowedFd<'_>) -> io::Result<PointKind> {
    let is_directory = fd::fstat(there)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    Ok(if is_directory { PointKind::Directory } else { PointKind::File })
}

/// A volume over a part of /proc would let an image lie to whoever writes there (CVE-2019-16884): only procfs itself, and
/// what the plan knows to be harmless, may be mounted on procfs.
fn refuse_procfs(target: BorrowedFd<'_>, one: &Mount) -> io::Result<()> {
    if one.follow == Follow::LinksInside && fd::filesystem(target)? == libc::PROC_SUPER_MAGIC {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}

/// Moves a detached mount to its place, with its attributes set before anybody can see it.
fn attach(detached: BorrowedFd<'_>, target: BorrowedFd<'_>, changes: &[(Attributes, bool)]) -> io::Result<()> {
    let wanted = || changes.iter().filter(|(change, _)| *change != Attributes::default());
    for (change, recursive) in wanted() {
        match mount::mount_setattr(detached, *change, *recursive) {
            Err(err) if err.raw_os_error() == Some(libc::ENOSYS) => {
                // Before Linux 5.12: the old calls, once the mount is attached.
                mount::move_mount(detached, target)?;
                return wanted()
                    .try_for_each(|(change, recursive)| mount::set_attributes_by_path(detached, *change, *recursive));
            }
            other => other?,
        }
    }
    mount::move_mount(detached, target)
}

fn resolve(follow: Follow) -> Resolve {
    match follow {
        Follow::LinksInside => Resolve::InRoot,
        Follow::NoLinks => Resolve::InRootNoSymlinks,
    }
}

fn open_place(root: BorrowedFd<'_>, place: &Place, follow: Follow) -> io::Result<OwnedFd> {
    fd::openat2(root, place.path.c(), libc::O_PATH, 0, resolve(follow))
}

/// Opens a place below the root, making what is missing of the way there. Each component is opened in the root by
/// openat2 and made in the directory that was opened, so that a racing rename leads nowhere outside (CVE-2021-30465).
pub(super) fn make_place(root: BorrowedFd<'_>, place: &Place, follow: Follow) -> io::Result<OwnedFd> {
    make_place_for(place.kind, root, place, follow)
}

fn make_place_for(kind: PointKind, root: BorrowedFd<'_>, place: &Place, follow: Follow) -> io::Result<OwnedFd> {
    let (resolve, flags) = (resolve(follow), libc::O_PATH);
    match open_place(root, place, follow) {
        Err(err) if err.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    // Mostly the last component alone is missing, so the search for what is there begins at the end.
    let mut missing = place.way.len();
    let mut parent = loop {
        missing = missing.saturating_sub(1);
        let above = place.way.get(missing).map_or(&place.path, |component| &component.parent);
        match open_directory(root, above, resolve) {
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) && missing > 0 => {}
            other => break other?,
        }
    };
    for (index, component) in place.way.iter().enumerate().skip(missing) {
        if index > missing {
            parent = match open_directory(root, &component.parent, resolve) {
                // What was there already is a link of the image that leads nowhere yet, as /var/run is where there is no /run.
                Err(err) if err.raw_os_error() == Some(libc::ENOENT) && follow == Follow::LinksInside => {
                    make_link_target(root, &place.way[index - 1], PointKind::Directory)?;
                    open_directory(root, &component.parent, resolve)?
                }
                other => other?,
            };
        }
        let made = match kind {
            PointKind::File if index + 1 == place.way.len() => {
                let create = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
                fd::openat(parent.as_fd(), component.name.c(), create, 0o644).map(drop)
            }
            _ => fd::mkdirat(parent.as_fd(), component.name.c(), 0o755),
        };
        match made {
            Err(err) if err.raw_os_error() == Some(libc::EEXIST) => {}
            other => other?,
        }
    }
    match (fd::openat2(root, place.path.c(), flags, 0, resolve), place.last()) {
        // The same with the last one, as Debian's /etc/resolv.conf is: the place is made where it leads to.
        (Err(err), Some(link)) if err.raw_os_error() == Some(libc::ENOENT) && follow == Follow::LinksInside => {
            make_link_target(root, link, kind)?;
            fd::openat2(root, place.path.c(), flags, 0, resolve)
        }
        (opened, _) => opened,
    }
}

fn open_directory(root: BorrowedFd<'_>, path: &Text, resolve: Resolve) -> io::Result<OwnedFd> {
    fd::openat2(root, path.c(), libc::O_PATH | libc::O_DIRECTORY, 0, resolve)
}

/// Makes the file or directory that a dangling link leads to, and the directories on its way, all within the root: each
/// prefix of the way is opened by openat2, so that neither `..` nor another link leads out.
fn make_link_target(root: BorrowedFd<'_>, link: &Component, kind: PointKind) -> io::Result<()> {
    const LONGEST: usize = 4096;
    let mut path = [0u8; 2 * LONGEST];
    let mut target = [0u8; LONGEST];
    let holder = open_directory(root, &link.parent, Resolve::InRoot)?;
    let target_length = fd::readlinkat(holder.as_fd(), link.name.c(), &mut target)?;
    let base = if target[0] == b'/' { &[][..] } else { link.parent.c().to_bytes() };
    if base.len() + 1 + target_length >= path.len() || target_length == LONGEST {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    path[..base.len()].copy_from_slice(base);
    path[base.len()] = b'/';
    path[base.len() + 1..][..target_length].copy_from_slice(&target[..target_length]);
    let end = base.len() + 1 + target_length;
    let mut directory = fd::openat2(root, c"/", libc::O_PATH | libc::O_DIRECTORY, 0, Resolve::InRoot)?;
    let mut begin = 0;
    for at in 1..=end {
        if at < end && path[at] != b'/' {
            continue;
        }
        let after = std::mem::replace(&mut path[at], 0);
        let prefix = CStr::from_bytes_until_nul(&path).unwrap_or(c"/");
        let name = CStr::from_bytes_until_nul(&path[begin..]).unwrap_or(c"");
        match fd::openat2(root, prefix, libc::O_PATH, 0, Resolve::InRoot) {
            Ok(there) => directory = there,
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) && (at < end || kind == PointKind::Directory) => {
                fd::mkdirat(directory.as_fd(), name, 0o755)?;
                directory = fd::openat2(root, prefix, libc::O_PATH | libc::O_DIRECTORY, 0, Resolve::InRoot)?;
            }
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => {
                let create = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
                fd::openat(directory.as_fd(), name, create, 0o644)?;
            }
            Err(err) => return Err(err),
        }
        path[at] = after;
        begin = at + 1;
    }
    Ok(())
}

/// mknod(2), or the very device that is there already. A link or another node at its place is an image's trick.
fn make_device(parent: BorrowedFd<'_>, device: &Device) -> io::Result<()> {
    let name = device.name.name.c();
    match fd::mknodat(parent, name, device.mode, device.device) {
        Ok(()) if (device.uid, device.gid) == (0, 0) => Ok(()),
        Ok(()) => fd::fchownat(parent, name, device.uid, device.gid),
        Err(err) if err.raw_os_error() == Some(libc::EEXIST) => {
            let there = fd::openat(parent, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
            let stat = fd::fstat(there.as_fd())?;
            let same = stat.st_mode & libc::S_IFMT == device.mode & libc::S_IFMT && stat.st_rdev == device.device;
            if same { Ok(()) } else { Err(err) }
        }
        Err(err) => Err(err),
    }
}

/// symlink(2); one that is there already stays.
fn make_link(parent: BorrowedFd<'_>, name: &Text, target: &Text) -> io::Result<()> {
    match fd::symlinkat(target.c(), parent, name.c()) {
        Err(err) if err.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Masks, read-only paths, and the read-only root, in this order: nothing is made in the rootfs afterwards. The bases are
/// closed at its end, before everything is closed by number.
pub(super) fn protect_rootfs(plan: &Plan, root: BorrowedFd<'_>, bases: Bases<'_>) -> Result<(), Failure> {
    if !plan.masked.is_empty() {
        // The host's own, opened before the rootfs could matter, and looked at (CVE-2025-31133).
        let null = open_null().map_err(at(Step::MaskedPath))?;
        let mut empty = None;
        for (index, path) in plan.masked.iter().enumerate() {
            mask(bases.below(path).unwrap_or((root, path.c())), null.as_fd(), &mut empty)
                .map_err(at_index(Step::MaskedPath, index))?;
        }
    }
    for (index, path) in plan.read_only.iter().enumerate() {
        make_read_only(bases.below(path).unwrap_or((root, path.c()))).map_err(at_index(Step::ReadOnlyPath, index))?;
    }
    let read_only = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    for (index, place) in plan.sealed.iter().enumerate() {
        let mount = open_place(root, place, Follow::LinksInside).map_err(at_index(Step::Sealed, index))?;
        change(mount.as_fd(), read_only, false).map_err(at_index(Step::Sealed, index))?;
    }
    if plan.rootfs_access == Access::ReadOnly {
        change(root, read_only, false).map_err(at(Step::ReadOnlyRootfs))?;
    }
    Ok(())
}

fn open_null() -> io::Result<OwnedFd> {
    let null = fd::open(c"/dev/null", libc::O_PATH | libc::O_NOFOLLOW)?;
    let stat = fd::fstat(null.as_fd())?;
    let right = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3);
    if right { Ok(null) } else { Err(io::Error::from_raw_os_error(libc::ENODEV)) }
}

/// A path that is not there needs no mask.
fn open_existing((root, path): (BorrowedFd<'_>, &CStr)) -> io::Result<Option<OwnedFd>> {
    match fd::openat2(root, path, libc::O_PATH, 0, Resolve::InRoot) {
        Ok(fd) => Ok(Some(fd)),
        Err(err) if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(err) => Err(err),
    }
}

/// A file is covered by `null`, a directory by an `empty` one: the first makes it, the others are covered by copies.
fn mask(at: (BorrowedFd<'_>, &CStr), null: BorrowedFd<'_>, empty: &mut Option<OwnedFd>) -> io::Result<()> {
    let Some(target) = open_existing(at)? else { return Ok(()) };
    let is_directory = kind_of(target.as_fd())? == PointKind::Directory;
    let cover = match empty {
        _ if !is_directory => mount::open_tree(null, c"", false)?,
        Some(empty) => mount::open_tree(empty.as_fd(), c"", false)?,
        None => {
            let context = mount::fsopen(c"tmpfs")?;
            mount::fsconfig(context.as_fd(), Setting::Text(c"nr_blocks", c"1"))?;
            mount::fsmount(context.as_fd(), libc::MOUNT_ATTR_RDONLY)?
        }
    };
    mount::move_mount(cover.as_fd(), target.as_fd())?;
    if is_directory {
        empty.get_or_insert(cover);
    }
    Ok(())
}

fn make_read_only(at: (BorrowedFd<'_>, &CStr)) -> io::Result<()> {
    let Some(target) = open_existing(at)? else { return Ok(()) };
    let read_only = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    let tree = mount::open_tree(target.as_fd(), c"", true)?;
    match mount::mount_setattr(tree.as_fd(), read_only, true) {
        Err(err) if err.raw_os_error() == Some(libc::ENOSYS) => {
            // Before Linux 5.12 one mount at a time: what is mounted below is left out, rather than left writable.
            let tree = mount::open_tree(target.as_fd(), c"", false)?;
            attach(tree.as_fd(), target.as_fd(), &[(read_only, false)])
        }
        done => done.and_then(|()| mount::move_mount(tree.as_fd(), target.as_fd())),
    }
}

fn change(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> io::Result<()> {
    match mount::mount_setattr(mount, attributes, recursive) {
        Err(err) if err.raw_os_error() == Some(libc::ENOSYS) => {
            mount::set_attributes_by_path(mount, attributes, recursive)
        }
        other => other,
    }
}
