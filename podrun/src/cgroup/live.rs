//! A cgroup that exists: made from a plan, found again, joined.
//!
//! Every tree is opened at its mount, proved to be a cgroup file system (so that a tree which somebody unmounted does
//! not leave us making plain directories), and walked from there.

#![forbid(unsafe_code)]

use super::guard::Programs;
use super::layout::Controller;
use super::layout::Layout;
use super::layout::Reach;
use super::layout::Tree;
use super::limit::Absent;
use super::limit::Current;
use super::limit::Setting;
use super::place::Place;
use super::plan::CgroupPlan;
use super::plan::Dialect;
use super::plan::Existing;
use super::plan::Leaf;
use crate::error::plain;
use crate::error::{Doing, Error, Kind, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// One cgroup, in all trees where it has a directory.
#[derive(Debug)]
pub struct Cgroup {
    pub(super) place: Place,
    pub(super) leaves: Vec<Open>,
}

/// Its directory in one tree.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) dialect: Dialect,
    pub(super) controllers: Vec<Controller>,
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
}

/// The v1 `tasks` files of a cgroup, opened before the clone.
#[derive(Debug)]
pub struct Tasks(Vec<OwnedFd>);

impl Tasks {
    /// For a child that is put where it belongs by somebody else.
    pub fn nowhere() -> Self {
        Self(Vec::new())
    }

    /// Moves the calling thread; for the child between clone3 and execve: no allocation, no lock. `tasks` and not
    /// `cgroup.procs`, which takes a lock that waits for an RCU grace period when the host has been at rest.
    pub fn join(&self) -> std::result::Result<(), Errno> {
        self.0.iter().try_for_each(|file| nix::unistd::write(file, b"0").map(drop))
    }

    /// These first, then those.
    #[must_use]
    pub fn and(mut self, those: Self) -> Self {
        self.0.extend(those.0);
        self
    }

    /// For a child that keeps its descriptors by number.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(OwnedFd::as_fd)
    }
}

impl Cgroup {
    /// Makes all that the plan says but v2's device program, which [`Cgroup::guard`] brings, or nothing: what was made before
    /// a failure is removed again.
    pub fn create(plan: &CgroupPlan) -> Result<Self> {
        let mut made = Vec::new();
        let created = Self::try_create(plan, &mut made);
        if created.is_err() {
            // Deepest last, so backwards; what another pod uses by now is not empty and stays.
            made.iter().rev().for_each(|path: &PathBuf| drop(std::fs::remove_dir(path)));
        }
        created
    }

    fn try_create(plan: &CgroupPlan, made: &mut Vec<PathBuf>) -> Result<Self> {
        let mut cgroup = Self { place: plan.place.clone(), leaves: Vec::with_capacity(plan.leaves.len()) };
        for leaf in &plan.leaves {
            let mount = open_tree(&leaf.tree, leaf.dialect)?;
            if plan.existing != Existing::Scope {
                make_directory(&mount, plan, leaf, made)?;
                prepare_parents(&mount, plan, leaf)?;
            }
            cgroup.leaves.push(Open::new(&mount, &plan.place, leaf.dialect, &leaf.tree)?);
        }
        if plan.existing == Existing::Vacant && !cgroup.is_empty() {
            return Err(occupied(&format!("make the cgroup {}", plan.place), cgroup.procs().len()));
        }
        if cgroup.is_frozen() {
            return Err(Error::new(Kind::NotNow, format!("make the cgroup {}", plan.place), "its parent is frozen")
                .hint("a process put there would never run; resume the pod first"));
        }
        plan.leaves.iter().zip(&cgroup.leaves).try_for_each(|(leaf, open)| open.write_all(&leaf.writes))?;
        if let (Some(uid), Some(open)) = (plan.owner, cgroup.unified()) {
            open.delegate(uid)?;
        }
        Ok(cgroup)
    }

    /// A cgroup of which only the place is known, as after a crash: whatever there is of it, in all trees. None of it
    /// is fine.
    pub fn find(layout: &Layout, place: &Place) -> Result<Self> {
        let v1 = layout.v1.iter().map(|tree| (Dialect::V1, tree));
        let v2 = layout.v2.iter().map(|tree| (Dialect::V2, tree));
        let mut leaves = Vec::new();
        for (dialect, tree) in v1.chain(v2) {
            match Open::new(&open_tree(tree, dialect)?, place, dialect, tree) {
                Ok(open) => leaves.push(open),
                Err(err) if err.kind == Kind::NotFound => {}
                Err(err) => return Err(err),
            }
        }
        Ok(Self { place: place.clone(), leaves })
    }

    /// What is left of the cgroup that a plan made or would have made. None of it is fine.
    pub fn left_of(plan: &CgroupPlan) -> Result<Self> {
        let mut leaves = Vec::with_capacity(plan.leaves.len());
        for leaf in &plan.leaves {
            match Open::new(&open_tree(&leaf.tree, leaf.dialect)?, &plan.place, leaf.dialect, &leaf.tree) {
                Ok(open) => leaves.push(open),
                Err(err) if err.kind == Kind::NotFound => {}
                Err(err) => return Err(err),
            }
        }
        Ok(Self { place: plan.place.clone(), leaves })
    }

    /// The cgroup that a plan made, opened again: by a new monitor, or for a program that is to join it.
    pub fn open(plan: &CgroupPlan) -> Result<Self> {
        let open =
            |leaf: &Leaf| Open::new(&open_tree(&leaf.tree, leaf.dialect)?, &plan.place, leaf.dialect, &leaf.tree);
        Ok(Self { place: plan.place.clone(), leaves: plan.leaves.iter().map(open).collect::<Result<_>>()? })
    }

    /// Carries out a plan of [`super::plan::update`]. What a limit before the refused one changed stays changed.
    pub fn update(plan: &CgroupPlan) -> Result<()> {
        for leaf in &plan.leaves {
            let mount = open_tree(&leaf.tree, leaf.dialect)?;
            let open = match Open::new(&mount, &plan.place, leaf.dialect, &leaf.tree) {
                Err(err) if err.kind == Kind::NotFound => return Err(not_a_member(plan, leaf)),
                other => other?,
            };
            if leaf.dialect == Dialect::V2 {
                prepare_parents(&mount, plan, leaf)?;
            }
            open.write_all(&leaf.writes)?;
            open.guard(leaf, &mut Programs::default())?;
        }
        Ok(())
    }

    /// For CLONE_INTO_CGROUP.
    pub fn unified_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified().map(|open| open.fd.as_fd())
    }

    /// For [`Tasks::join`]; empty on a host with cgroup v2 alone.
    pub fn tasks(&self) -> Result<Tasks> {
        let v1 = self.leaves.iter().filter(|open| open.dialect == Dialect::V1);
        v1.map(|open| open.file("tasks", OFlag::O_WRONLY)).collect::<Result<_>>().map(Tasks)
    }

    /// What the order of an update's writes depends on.
    pub fn current(&self) -> Current {
        let number = |controller, v1: &str, v2: &str| {
            let open = self.controller(controller)?;
            let text = open.read(if open.dialect == Dialect::V1 { v1 } else { v2 }).ok()?;
            text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok())
        };
        // v1 writes "no limit" as the largest page-aligned number.
        let limit = |value: Option<u64>| value.filter(|&value| value < u64::MAX >> 1 & !0xf_ffff);
        Current {
            memory_usage: number(Controller::Memory, "memory.usage_in_bytes", "memory.current"),
            memory_and_swap: limit(number(Controller::Memory, "memory.memsw.limit_in_bytes", "-")),
            memory_limit: limit(number(Controller::Memory, "memory.limit_in_bytes", "memory.max")),
            cpu_quota: number(Controller::Cpu, "cpu.cfs_quota_us", "cpu.max"),
        }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// There is no directory of it in any tree.
    pub fn is_nowhere(&self) -> bool {
        self.leaves.is_empty()
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = &Open> {
        self.leaves.iter()
    }

    pub(super) fn unified(&self) -> Option<&Open> {
        self.leaves.iter().find(|open| open.dialect == Dialect::V2)
    }

    pub(super) fn controller(&self, it: Controller) -> Option<&Open> {
        self.leaves.iter().find(|open| open.controllers.contains(&it))
    }
}

impl Open {
    pub(super) fn new(mount: &OwnedFd, place: &Place, dialect: Dialect, tree: &Tree) -> Result<Self> {
        let path = tree.mount.join(place.as_str());
        let fd = open_directory(mount, place.as_str()).doing(|| format!("open {}", path.display()))?;
        Ok(Self { dialect, controllers: tree.controllers.clone(), path, fd })
    }

    /// A directory of this one.
    pub(super) fn below(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        let fd = open_directory(&self.fd, name).doing(|| format!("open {}", path.display()))?;
        Ok(Self { dialect: self.dialect, controllers: self.controllers.clone(), path, fd })
    }

    pub(super) fn file(&self, name: &str, flags: OFlag) -> Result<OwnedFd> {
        let fd = openat(&self.fd, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
        fd.doing(|| format!("open {}", self.path.join(name).display()))
    }

    /// The directory, and of its files those with which its owner moves processes and makes directories, never limits
    /// (cgroups(7), "Cgroup delegation").
    fn delegate(&self, uid: u32) -> Result<()> {
        let doing = |path: &Path| format!("delegate {} to user {uid}", path.display());
        let listed = std::fs::read_to_string("/sys/kernel/cgroup/delegate");
        let listed = listed.unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".into());
        for path in listed.lines().map(|name| self.path.join(name)).chain([self.path.clone()]) {
            match std::os::unix::fs::lchown(&path, Some(uid), None) {
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
                other => other.doing(|| doing(&path))?,
            }
        }
        Ok(())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        std::fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
    }

    pub(super) fn read(&self, name: &str) -> Result<String> {
        read_all(&self.file(name, OFlag::O_RDONLY)?).doing(|| format!("read {}", self.path.join(name).display()))
    }

    pub(super) fn write(&self, name: &str, value: &str) -> Result<()> {
        let file = self.file(name, OFlag::O_WRONLY)?;
        let written = nix::unistd::write(&file, value.as_bytes());
        written.map(drop).doing(|| format!("write {value:?} to {}", self.path.join(name).display()))
    }

    /// Device rules come a dozen to a file: neighbours share the descriptor.
    fn write_all(&self, settings: &[Setting]) -> Result<()> {
        for run in settings.chunk_by(|a, b| a.file == b.file && a.absent == Absent::Fails && b.absent == Absent::Fails)
        {
            let file = match self.open_setting(&run[0]) {
                Ok(file) => file,
                Err(Errno::ENOENT) => {
                    self.write_absent(&run[0])?;
                    continue;
                }
                Err(errno) => return Err(self.refused(&run[0], errno)),
            };
            for setting in run {
                let written = nix::unistd::write(&file, setting.value.as_bytes());
                written.map_err(|errno| self.refused(setting, errno))?;
            }
        }
        Ok(())
    }

    fn write_absent(&self, setting: &Setting) -> Result<()> {
        match &setting.absent {
            Absent::Fails => Err(self.refused(setting, Errno::ENOENT)),
            Absent::Holds => Ok(()),
            Absent::Otherwise { file, value } => {
                let other = Setting::new(file, value, setting.asked.clone());
                let file = self.open_setting(&other).map_err(|errno| self.refused(&other, errno))?;
                let written = nix::unistd::write(&file, value.as_bytes());
                written.map(drop).map_err(|errno| self.refused(&other, errno))
            }
        }
    }

    fn open_setting(&self, setting: &Setting) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.fd, setting.file.as_str(), flags, Mode::empty())
    }

    fn refused(&self, setting: &Setting, errno: Errno) -> Error {
        let Setting { file, value, asked, .. } = setting;
        let doing = format!("write {value:?} to {} for {asked}", self.path.join(file).display());
        let kind = match errno {
            Errno::ENOENT | Errno::EOPNOTSUPP => Kind::Unsupported,
            Errno::EINVAL | Errno::ERANGE => Kind::Invalid,
            _ => Kind::Kernel,
        };
        let err = Error::new(kind, doing, cause(errno));
        match hint(file, errno) {
            Some(hint) => err.hint(hint),
            None => err,
        }
    }
}

/// A container there would share its limits and its end with whoever it is (runc refuses it since 1.2, too).
fn occupied(doing: &str, count: usize) -> Error {
    Error::new(Kind::NotNow, doing, format!("it holds {count} processes already"))
        .hint("give the container one of its own")
}

fn open_directory(at: &OwnedFd, path: &str) -> nix::Result<OwnedFd> {
    openat(at, path, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

pub(super) fn open_tree(tree: &Tree, dialect: Dialect) -> Result<OwnedFd> {
    let path = tree.mount.as_path();
    let fd = open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let fd = fd.doing(|| format!("open {}", path.display()))?;
    let kind = fstatfs(&fd).doing(|| format!("look at {}", path.display()))?.filesystem_type();
    let wanted = match dialect {
        Dialect::V1 => CGROUP_SUPER_MAGIC,
        Dialect::V2 => CGROUP2_SUPER_MAGIC,
    };
    match kind == wanted {
        true => Ok(fd),
        false => {
            Err(Error::new(Kind::Unsupported, format!("look at {}", path.display()), "it is no cgroup file system"))
        }
    }
}

/// mkdir of the leaf and, when they are missing, of its parents. Another pod's removal may take an empty parent away
/// in between; then once more.
pub(super) fn make_directory(mount: &OwnedFd, plan: &CgroupPlan, leaf: &Leaf, made: &mut Vec<PathBuf>) -> Result<()> {
    let path = plan.directory(leaf);
    let mode = Mode::from_bits_truncate(0o755);
    let mut outcome = mkdirat(mount, plan.place.as_str(), mode);
    for _ in 0..8 {
        match outcome {
            Err(Errno::ENOENT) => make_parents(mount, plan, leaf, mode, made)?,
            Err(Errno::EEXIST) if plan.existing != Existing::Replaced => return Ok(()),
            Err(Errno::EEXIST) => clear(mount, plan, &path)?,
            _ => break,
        }
        outcome = mkdirat(mount, plan.place.as_str(), mode);
    }
    outcome.map_err(|errno| refused_directory(&path, errno))?;
    made.push(path);
    Ok(())
}

fn make_parents(mount: &OwnedFd, plan: &CgroupPlan, leaf: &Leaf, mode: Mode, made: &mut Vec<PathBuf>) -> Result<()> {
    for parent in plan.place.parents() {
        match mkdirat(mount, parent, mode) {
            Ok(()) => made.push(leaf.tree.mount.join(parent)),
            Err(Errno::EEXIST | Errno::ENOENT) => {}
            Err(errno) => return Err(refused_directory(&leaf.tree.mount.join(parent), errno)),
        }
    }
    Ok(())
}

fn refused_directory(path: &Path, errno: Errno) -> Error {
    let err = Error::new(Kind::Kernel, format!("make the cgroup {}", path.display()), cause(errno));
    match errno {
        Errno::EACCES | Errno::EPERM => err.hint("run podrun as root, or in a cgroup that was delegated to you"),
        Errno::EROFS => err.hint("this tree is mounted read-only, as it is in most containers"),
        Errno::EAGAIN => err.hint("see cgroup.max.descendants and cgroup.max.depth of the directories above"),
        _ => err,
    }
}

/// An empty leaf is left over from an earlier life: away with it and its limits. One with processes is somebody's.
fn clear(mount: &OwnedFd, plan: &CgroupPlan, path: &Path) -> Result<()> {
    let doing = || format!("make the cgroup {}", path.display());
    match unlinkat(mount, plan.place.as_str(), UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EBUSY) => Err(Error::new(Kind::NotNow, doing(), "it exists and is in use")
            .hint(format!("see {}/cgroup.procs; its processes may be frozen", path.display()))),
        Err(errno) => Err(Error::new(Kind::Kernel, doing(), cause(errno))),
    }
}

pub(super) fn prepare_parents(mount: &OwnedFd, plan: &CgroupPlan, leaf: &Leaf) -> Result<()> {
    let place = &plan.place;
    if leaf.dialect == Dialect::V1 {
        return match leaf.holds(Controller::Cpuset) {
            true => inherit_cpuset(mount, place, &leaf.tree),
            false => Ok(()),
        };
    }
    let asked = leaf.enable.iter().any(|enable| enable.asked.is_some());
    if plan.reach == Reach::Delegated && !leaf.enable.is_empty() && is_populated(mount) {
        match asked {
            true => make_room(mount).doing(|| format!("move processes aside in {}", leaf.tree.mount.display()))?,
            // To count is not worth it. Nor would the kernel refuse all of it: pids alone would make the directory the
            // root of a threaded subtree, in which nobody can be born (cgroup-v2.rst, "Threads").
            false => return Ok(()),
        }
    }
    for enable in &leaf.enable {
        let name = enable.controller.v2_name().unwrap_or_default();
        for parent in std::iter::once(".").chain(place.parents()) {
            let file = format!("{parent}/cgroup.subtree_control");
            let written = write_at(mount, &file, &format!("+{name}"));
            if let (Err(errno), Some(asked)) = (written, &enable.asked) {
                return Err(refused_controller(&leaf.tree.mount.join(file), name, asked, errno));
            }
        }
    }
    Ok(())
}

/// Whether processes stand in a tree's top itself.
fn is_populated(mount: &OwnedFd) -> bool {
    read_at(mount, "cgroup.procs").is_ok_and(|pids| !pids.is_empty())
}

/// A directory that hands controllers down holds no process (cgroup-v2.rst, "No Internal Process Constraint"), and whoever
/// was put into a delegated one mostly stands in it: they go into a leaf of it. Only where somebody asks for a limit that
/// cannot be had otherwise, and only processes that their owner lets us move.
fn make_room(mount: &OwnedFd) -> nix::Result<()> {
    const ASIDE: &str = "podrun-aside";
    match mkdirat(mount, ASIDE, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let target = format!("{ASIDE}/cgroup.procs");
    // Once more for those that were born meanwhile; who forks faster than we look keeps the constraint in force.
    for _ in 0..8 {
        let here = read_at(mount, "cgroup.procs")?;
        if here.is_empty() {
            break;
        }
        // ESRCH: it went by itself.
        here.lines().filter_map(|pid| write_at(mount, &target, pid).err()).try_for_each(|errno| match errno {
            Errno::ESRCH => Ok(()),
            errno => Err(errno),
        })?;
    }
    Ok(())
}

fn refused_controller(file: &Path, name: &str, asked: &str, errno: Errno) -> Error {
    let err = Error::new(Kind::Kernel, format!("write \"+{name}\" to {} for {asked}", file.display()), cause(errno));
    match errno {
        Errno::EBUSY => err.hint("that cgroup holds processes itself; move them into a child of it first"),
        Errno::ENOENT => err.hint("the controller was not handed down to this part of the tree (delegation)"),
        _ => err,
    }
}

/// A new v1 cpuset has no CPUs and no memory nodes, and no process can join it: it gets its parent's, from the top.
fn inherit_cpuset(mount: &OwnedFd, place: &Place, tree: &Tree) -> Result<()> {
    let mut above = ".";
    for directory in place.parents().chain([place.as_str()]) {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let doing = || format!("hand down {file} to {}", tree.mount.join(directory).display());
            let own = read_at(mount, &format!("{directory}/{file}")).doing(doing)?;
            if own.trim().is_empty() {
                let inherited = read_at(mount, &format!("{above}/{file}")).doing(doing)?;
                write_at(mount, &format!("{directory}/{file}"), inherited.trim()).doing(doing)?;
            }
        }
        above = directory;
    }
    Ok(())
}

fn write_at(mount: &OwnedFd, path: &str, value: &str) -> nix::Result<()> {
    let file = openat(mount, path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::write(&file, value.as_bytes()).map(drop)
}

fn read_at(mount: &OwnedFd, path: &str) -> nix::Result<String> {
    read_all(&openat(mount, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Reads from the beginning, also a second time.
pub(super) fn read_all(file: &OwnedFd) -> nix::Result<String> {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let offset = i64::try_from(text.len()).map_err(|_| Errno::EOVERFLOW)?;
        match nix::sys::uio::pread(file, &mut buffer, offset) {
            Ok(0) => return String::from_utf8(text).map_err(|_| Errno::EILSEQ),
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn not_a_member(plan: &CgroupPlan, leaf: &Leaf) -> Error {
    let asked = leaf.writes.first().map_or("linux.resources.devices", |setting| &setting.asked);
    let doing = format!("honour {asked} for {}", plan.place);
    Error::new(Kind::NotNow, doing, format!("it is not in {}", leaf.tree.mount.display()))
        .hint("on cgroup v1 this limit can be changed later only when it was given at creation")
}

/// ENOTSUPP (524) is the kernel's own word for a setting that it gave up, and has no name outside it.
pub(super) fn cause(errno: Errno) -> String {
    match errno {
        Errno::UnknownErrno => "the kernel no longer supports it".to_owned(),
        errno => plain(&errno.into()),
    }
}

fn hint(file: &str, errno: Errno) -> Option<&'static str> {
    match (file, errno) {
        ("memory.memsw.limit_in_bytes", Errno::ENOENT) => Some("boot the host with swapaccount=1"),
        ("memory.limit_in_bytes" | "memory.max", Errno::EBUSY) => Some("more than that is in use already"),
        ("memory.limit_in_bytes", Errno::EINVAL) => Some("it may not be above memory.swap, which counts both"),
        ("memory.memsw.limit_in_bytes", Errno::EINVAL) => Some("it may not be below memory.limit, which it includes"),
        ("cpu.rt_runtime_us", Errno::EINVAL) => Some("the cgroups above need a realtime budget first"),
        ("cpuset.cpus" | "cpuset.mems", Errno::EINVAL | Errno::EACCES | Errno::ERANGE | Errno::ENODEV) => {
            Some("name only what the host has and the pod may use")
        }
        ("devices.allow", Errno::EPERM) => {
            Some("a cgroup above, or the container that podrun runs in, denies this device")
        }
        (_, Errno::ENOENT) => Some("this kernel was built without that setting"),
        (_, Errno::EINVAL) => Some("the kernel does not take this value"),
        _ => None,
    }
}
