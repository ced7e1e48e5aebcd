//! Which trees this host has: v1 hierarchies with their controllers, the unified tree, or both (hybrid).
//!
//! A controller lives in one tree only; the kernel decides at mount time (cgroups(7), "Cgroups v2: unified hierarchy").
//! So the question is never "which version" but "where is this controller", and a hybrid host is nothing special.

#![forbid(unsafe_code)]

use super::place::Place;
use super::plan::{CgroupPlan, Dialect};
use crate::error::{Doing, Error, Kind, Result};
use crate::privilege::Privilege;
use crate::sys::proc::{Mount, unescape};
use nix::fcntl::AtFlags;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, faccessat};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The controllers that podrun has a use for, and `name=systemd`, the tree by which systemd on v1 knows its services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    Memory,
    Pids,
    Cpu,
    Cpuacct,
    Devices,
    Cpuset,
    Io,
    Hugetlb,
    NetCls,
    NetPrio,
    Rdma,
    Misc,
    Freezer,
    Systemd,
}

impl Controller {
    pub const ALL: [Self; 14] = [
        Self::Memory,
        Self::Pids,
        Self::Cpu,
        Self::Cpuacct,
        Self::Devices,
        Self::Cpuset,
        Self::Io,
        Self::Hugetlb,
        Self::NetCls,
        Self::NetPrio,
        Self::Rdma,
        Self::Misc,
        Self::Freezer,
        Self::Systemd,
    ];

    /// The name in `/proc/self/cgroup` and in the mount options.
    pub fn v1_name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Devices => "devices",
            Self::Cpuset => "cpuset",
            Self::Io => "blkio",
            Self::Hugetlb => "hugetlb",
            Self::NetCls => "net_cls",
            Self::NetPrio => "net_prio",
            Self::Rdma => "rdma",
            Self::Misc => "misc",
            Self::Freezer => "freezer",
            Self::Systemd => "name=systemd",
        }
    }

    /// The name in `cgroup.controllers`, where v2 has such a controller.
    pub fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Io => Some("io"),
            Self::Memory | Self::Pids | Self::Cpu | Self::Cpuset | Self::Hugetlb | Self::Rdma | Self::Misc => {
                Some(self.v1_name())
            }
            Self::Cpuacct | Self::Devices | Self::NetCls | Self::NetPrio | Self::Freezer | Self::Systemd => None,
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.v1_name())
    }
}

/// One mounted tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    pub controllers: Vec<Controller>,
    pub mount: PathBuf,
    /// The part of the tree that is mounted there, as `/proc/PID/cgroup` would name it; `/` but for containers.
    pub top: PathBuf,
}

impl Tree {
    fn new(controllers: Vec<Controller>, mount: impl Into<PathBuf>, top: impl Into<PathBuf>) -> Self {
        Self { controllers, mount: mount.into(), top: top.into() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    V1,
    Hybrid,
    V2,
}

/// Where a controller can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home<'a> {
    V1(&'a Tree),
    V2(&'a Tree),
    Nowhere,
}

/// How far we reach in the trees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Root of the machine: all of them.
    #[default]
    Everything,
    /// The unified tree, from the directory on that was delegated to us (cgroups(7), "Cgroups delegation").
    Delegated,
    /// No tree lets us make anything: v1, or v2 without a delegation.
    Nothing,
}

/// What this host has; read once, plain data from there on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub v1: Vec<Tree>,
    pub v2: Option<Tree>,
    /// Bound to a v1 hierarchy that is mounted nowhere in sight, hence of no use to anybody here.
    pub unmounted: Vec<Controller>,
    #[serde(default)]
    pub reach: Reach,
}

impl Layout {
    /// Reads the three files of /proc and the unified tree that say it all.
    pub fn detect() -> Result<Self> {
        let cgroup = read(Path::new("/proc/self/cgroup"))?;
        let mut layout = Self::mounted(&cgroup)?;
        if Privilege::own() != Privilege::Host {
            layout = layout.delegated(&cgroup, is_delegated);
        }
        layout.ask_controllers()?;
        Ok(layout)
    }

    /// What a user's service manager has of this host, whose own cgroup is this one (`ControlGroup` of
    /// org.freedesktop.systemd1(5)): the unified tree from there on.
    pub fn of_manager(control_group: &Path) -> Result<Self> {
        let mut layout = Self::mounted(&read(Path::new("/proc/self/cgroup"))?)?.below(control_group)?;
        layout.ask_controllers()?;
        Ok(layout)
    }

    /// Where a plan of [`Reach::Delegated`] was made: whoever looks after it later may stand elsewhere in the tree.
    pub fn of_plan(plan: &CgroupPlan) -> Self {
        let v2 = plan.leaves.iter().find(|leaf| leaf.dialect == Dialect::V2).map(|leaf| leaf.tree.clone());
        Self { v2, reach: plan.reach, ..Self::default() }
    }

    fn mounted(self_cgroup: &str) -> Result<Self> {
        Ok(match is_plain_v2(self_cgroup) {
            true => Self { v2: Some(Tree::new(Vec::new(), USUAL_PLACE, "/")), ..Self::default() },
            false => Self::parse(&read(Path::new("/proc/self/mountinfo"))?, self_cgroup),
        })
    }

    fn ask_controllers(&mut self) -> Result<()> {
        if let Some(tree) = &mut self.v2 {
            tree.controllers = unified_controllers(&read(&tree.mount.join("cgroup.controllers"))?);
        }
        Ok(())
    }

    /// Pure.
    fn below(mut self, control_group: &Path) -> Result<Self> {
        let doing = || format!("use the cgroup {control_group:?} of the user's service manager");
        if self.version() != Version::V2 {
            return Err(Error::new(Kind::Unsupported, doing(), "this host has cgroup v1 hierarchies"));
        }
        let is_plain = control_group.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let tree = self.v2.take().filter(|_| is_plain);
        let found = tree.and_then(|tree| {
            let mount = tree.mount.join(control_group.strip_prefix(&tree.top).ok()?);
            // Joined with nothing, a path has a slash at its end.
            Some(Tree::new(tree.controllers, mount.components().collect::<PathBuf>(), control_group))
        });
        match found {
            Some(tree) => Ok(Self { v2: Some(tree), reach: Reach::Delegated, ..Self::default() }),
            None => Err(Error::new(Kind::Unsupported, doing(), "it is not in the tree that is mounted here")),
        }
    }

    /// Pure: the texts of proc_pid_mountinfo(5) and of cgroups(7), "/proc/PID/cgroup". The unified tree's controllers
    /// stand in neither; [`Layout::with_unified_controllers`] adds them.
    pub fn parse(mountinfo: &str, self_cgroup: &str) -> Self {
        let bound = bound_controllers(self_cgroup);
        let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(Mount::parse).collect();
        let mut layout = Self::default();
        for mount in mounts.iter().filter(|mount| mount.is_cgroup() && !mount.is_hidden(&mounts)) {
            layout.add(mount, &bound);
        }
        layout.unmounted = bound.into_iter().filter(|&it| layout.v1_tree(it).is_none()).collect();
        layout
    }

    /// What of it somebody else than root of the machine reaches: the unified tree from the highest directory on, above
    /// our own, that is delegated to us. So processes never move but below it, wherever in it we are, and two commands of
    /// one user find the same place. Pure but for the question whether a directory `is_delegated`.
    fn delegated(mut self, self_cgroup: &str, is_delegated: impl Fn(&Path) -> bool) -> Self {
        (self.v1, self.unmounted, self.reach) = (Vec::new(), Vec::new(), Reach::Nothing);
        let own = super::plan::cgroup_of(self_cgroup, "").map(Path::new);
        if let (Some(tree), Some(own)) = (&mut self.v2, own)
            && let Ok(way) = own.strip_prefix(&tree.top)
        {
            let above = way.ancestors().map(|way| (tree.mount.join(way), tree.top.join(way)));
            if let Some((mount, top)) = above.take_while(|(mount, _)| is_delegated(mount)).last() {
                // Joined with nothing, a path has a slash at its end.
                (tree.mount, tree.top) = (mount.components().collect(), top.components().collect());
                self.reach = Reach::Delegated;
            }
        }
        self
    }

    #[must_use]
    pub fn with_unified_controllers(mut self, cgroup_controllers: &str) -> Self {
        if let Some(tree) = &mut self.v2 {
            tree.controllers = unified_controllers(cgroup_controllers);
        }
        self
    }

    /// The place of a path as config.json has it. In a delegated directory it may begin with that one's own name, as
    /// /proc/self/cgroup has it.
    pub fn place(&self, path: &str) -> Result<Place> {
        let top = self.v2.as_ref().filter(|_| self.reach == Reach::Delegated).and_then(|tree| tree.top.to_str());
        let below = top.and_then(|top| path.strip_prefix(top)).filter(|rest| rest.starts_with('/'));
        Place::parse(below.unwrap_or(path))
    }

    pub fn version(&self) -> Version {
        match (&self.v2, self.v1.iter().any(|tree| tree.controllers != [Controller::Systemd])) {
            (None, _) => Version::V1,
            (Some(_), true) => Version::Hybrid,
            (Some(_), false) => Version::V2,
        }
    }

    /// Device rules on v2 are a program attached to a directory, and freezing is part of the core: both need only the
    /// tree, no controller.
    pub fn home(&self, controller: Controller) -> Home<'_> {
        let core = match self.reach {
            Reach::Everything => matches!(controller, Controller::Devices | Controller::Freezer),
            // A device program needs CAP_BPF in the initial user namespace. Without one nothing is lost: mknod(2) makes no
            // device there, and what is bound from the host can be opened by whom the host lets.
            Reach::Delegated => controller == Controller::Freezer,
            Reach::Nothing => return Home::Nowhere,
        };
        match (self.v1_tree(controller), &self.v2) {
            (_, Some(tree)) if controller == Controller::Freezer => Home::V2(tree),
            (Some(tree), _) => Home::V1(tree),
            (None, Some(tree)) if core || tree.controllers.contains(&controller) => Home::V2(tree),
            (None, _) => Home::Nowhere,
        }
    }

    /// All trees, whatever their version.
    pub fn trees(&self) -> impl Iterator<Item = &Tree> {
        self.v1.iter().chain(&self.v2)
    }

    fn v1_tree(&self, controller: Controller) -> Option<&Tree> {
        self.v1.iter().find(|tree| tree.controllers.contains(&controller))
    }

    /// A tree that is mounted twice is one tree: the first mount counts.
    fn add(&mut self, mount: &Mount<'_>, bound: &[Controller]) {
        let tree = |controllers| Tree::new(controllers, unescape(mount.point), unescape(mount.root));
        if mount.kind == "cgroup2" {
            self.v2.get_or_insert_with(|| tree(Vec::new()));
            return;
        }
        let has = |it: &&Controller| mount.options.split(',').any(|option| option == it.v1_name());
        let controllers: Vec<_> = bound.iter().filter(has).copied().collect();
        if controllers.first().is_some_and(|&first| self.v1_tree(first).is_none()) {
            self.v1.push(tree(controllers));
        }
    }
}

/// What whoever delegates has to hand over (cgroup-v2.rst, "Model of Delegation"), but for cgroup.threads, which has no use
/// here.
fn is_delegated(directory: &Path) -> bool {
    ["", "cgroup.procs", "cgroup.subtree_control"].iter().all(|file| {
        faccessat(nix::fcntl::AT_FDCWD, &directory.join(file), AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok()
    })
}

const USUAL_PLACE: &str = "/sys/fs/cgroup";

/// The host of today, known without the mount table, which costs the kernel 2 µs a line: nothing is bound to v1, and
/// the usual place is the unified tree from its root on (inode 1).
fn is_plain_v2(self_cgroup: &str) -> bool {
    self_cgroup.lines().all(|line| line.starts_with("0::"))
        && statfs(USUAL_PLACE).is_ok_and(|tree| tree.filesystem_type() == CGROUP2_SUPER_MAGIC)
        && metadata(USUAL_PLACE).is_ok_and(|root| root.ino() == 1)
}

/// One large read. The kernel gives such files no size, and the standard library would feel its way from 32 bytes on,
/// while the kernel renders line after line anew.
fn read(path: &Path) -> Result<String> {
    let mut text = String::with_capacity(16 * 1024);
    let whole = File::open(path).and_then(|file| file.take(u64::MAX).read_to_string(&mut text));
    whole.doing(|| format!("read {}", path.display()))?;
    Ok(text)
}

/// What the kernel has bound to v1 hierarchies: the lines `4:memory:/…`. The unified tree's line begins with `0::`.
fn bound_controllers(self_cgroup: &str) -> Vec<Controller> {
    let names = |line: &str| line.split(':').nth(1).unwrap_or_default().to_owned();
    let bound: Vec<String> = self_cgroup.lines().map(names).collect();
    let has = |it: &Controller| bound.iter().any(|names| names.split(',').any(|name| name == it.v1_name()));
    Controller::ALL.into_iter().filter(has).collect()
}

fn unified_controllers(text: &str) -> Vec<Controller> {
    let has = |it: &Controller| it.v2_name().is_some_and(|name| text.split_whitespace().any(|word| word == name));
    Controller::ALL.into_iter().filter(has).collect()
}

impl Mount<'_> {
    fn is_cgroup(&self) -> bool {
        matches!(self.kind, "cgroup" | "cgroup2")
    }

    fn lies_over(&self, point: &str) -> bool {
        let rest = point.strip_prefix(self.point.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Something was mounted over this mount, or over a directory on the way to it: a mount on the way that is not one
    /// of our ancestors, but hangs on one of them. The order of lines says nothing, since mounts can be moved.
    fn is_hidden(&self, all: &[Mount<'_>]) -> bool {
        let on_the_way: Vec<_> = all.iter().filter(|mount| mount.lies_over(self.point)).collect();
        let mut line = vec![self.id];
        while let Some(mount) = on_the_way.iter().find(|mount| Some(&mount.id) == line.last()) {
            if line.contains(&mount.parent) {
                break;
            }
            line.push(mount.parent);
        }
        on_the_way.iter().any(|mount| !line.contains(&mount.id) && line.contains(&mount.parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Controller::*;

    const HYBRID: &str = "\
23 28 0:22 / /sys rw - sysfs sysfs rw
28 1 8:1 / / rw - ext4 /dev/sda1 rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";
    const BOUND: &str = "9:name=systemd:/\n8:pids:/\n4:memory:/process/x\n2:cpu,cpuacct:/\n0::/\n";

    #[test]
    fn a_hybrid_host_is_asked_controller_by_controller() {
        let layout = Layout::parse(HYBRID, BOUND).with_unified_controllers("hugetlb misc\n");
        assert_eq!(layout.version(), Version::Hybrid);
        let Home::V1(cpu) = layout.home(Cpuacct) else { panic!("{layout:?}") };
        assert_eq!(
            (cpu.mount.as_path(), &cpu.controllers),
            (Path::new("/sys/fs/cgroup/cpu,cpuacct"), &vec![Cpu, Cpuacct])
        );
        assert!(matches!(layout.home(Memory), Home::V1(_)));
        assert!(matches!(layout.home(Hugetlb), Home::V2(_)));
        assert!(matches!(layout.home(Devices), Home::V2(_)));
        assert!(matches!(layout.home(Freezer), Home::V2(_)));
        assert_eq!(layout.home(Io), Home::Nowhere);
        assert_eq!(layout.unmounted, [Pids]);
    }

    #[test]
    fn v1_alone_and_v2_alone() {
        let v1: String =
            HYBRID.lines().filter(|line| !line.contains("cgroup2")).map(|line| format!("{line}\n")).collect();
        assert_eq!(Layout::parse(&v1, BOUND).version(), Version::V1);
        let v2 = "28 1 8:1 / / rw - ext4 d rw\n30 28 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(v2, "0::/user.slice\n").with_unified_controllers("cpuset cpu io memory pids");
        assert_eq!(layout.version(), Version::V2);
        assert_eq!(layout.v2.unwrap().controllers, [Memory, Pids, Cpu, Cpuset, Io]);
    }

    #[test]
    fn systemds_named_tree_beside_v2_is_v2() {
        let text = "30 1 0:28 / /c rw - cgroup2 c rw\n31 1 0:29 / /s rw - cgroup c rw,name=systemd\n";
        assert_eq!(Layout::parse(text, "1:name=systemd:/\n0::/\n").version(), Version::V2);
    }

    #[test]
    fn what_was_mounted_over_is_not_there() {
        let covered = [
            "50 31 0:40 / /sys/fs/cgroup/memory rw - tmpfs t rw", // beside it, on the same parent
            "50 35 0:40 / /sys/fs/cgroup/memory rw - tmpfs t rw", // on top of it
            "50 23 0:40 / /sys/fs/cgroup rw - tmpfs t rw",        // beside its parent
            "50 31 0:40 / /sys/fs/cgroup rw - cgroup2 c rw",      // on top of its parent
        ];
        for line in covered {
            let layout = Layout::parse(&format!("{HYBRID}{line}\n"), BOUND);
            assert_eq!(layout.home(Memory), Home::Nowhere, "{line}");
        }
        let harmless = [
            "50 31 0:40 / /sys/fs/cgroup/memory2 rw - tmpfs t rw",
            "50 35 0:40 / /sys/fs/cgroup/memory/a rw - tmpfs t rw",
        ];
        for line in harmless {
            assert!(matches!(Layout::parse(&format!("{HYBRID}{line}\n"), BOUND).home(Memory), Home::V1(_)), "{line}");
        }
    }

    #[test]
    fn a_part_of_a_tree_may_be_mounted_and_twice() {
        let text =
            "35 1 0:32 /docker/abc /m\\040x rw - cgroup c rw,memory\n36 1 0:32 / /other rw - cgroup c rw,memory\n";
        let layout = Layout::parse(text, "4:memory:/\n");
        assert_eq!(layout.v1, [Tree { controllers: vec![Memory], mount: "/m x".into(), top: "/docker/abc".into() }]);
    }

    #[test]
    fn a_user_has_the_highest_directory_that_was_delegated_to_him() {
        let v2 = "30 1 0:28 / /sys/fs/cgroup rw - cgroup2 c rw\n";
        let found = |mountinfo: &str, own: &str, delegated: &[&str]| {
            let layout = Layout::parse(mountinfo, own);
            let layout = layout.delegated(own, |dir| delegated.iter().any(|one| dir == Path::new(one)));
            assert!(layout.v1.is_empty() && layout.unmounted.is_empty());
            (layout.reach, layout.v2.map(|tree| (tree.mount, tree.top)))
        };
        let tree = |mount: &str, top: &str| Some((mount.into(), top.into()));
        let whole = tree("/sys/fs/cgroup", "/");
        let two = ["/sys/fs/cgroup/u", "/sys/fs/cgroup/u/s"];
        assert_eq!(found(v2, "0::/u/s\n", &two), (Reach::Delegated, tree("/sys/fs/cgroup/u", "/u")));
        // What lies above somebody else's directory is out of reach: nobody could be moved there (cgroups(7)).
        let gap = ["/sys/fs/cgroup", "/sys/fs/cgroup/u/s"];
        assert_eq!(found(v2, "0::/u/s\n", &gap), (Reach::Delegated, tree("/sys/fs/cgroup/u/s", "/u/s")));
        assert_eq!(found(v2, "0::/x\n", &two), (Reach::Nothing, whole.clone()));
        assert_eq!(found(v2, "0::/../x\n", &two), (Reach::Nothing, whole.clone()));
        // A cgroup namespace's root, as in a container.
        assert_eq!(found(v2, "0::/\n", &["/sys/fs/cgroup"]), (Reach::Delegated, whole));
        assert_eq!(found(HYBRID, BOUND, &[]), (Reach::Nothing, tree("/sys/fs/cgroup/unified", "/")));
        assert_eq!(found("", "1:memory:/\n", &[]), (Reach::Nothing, None));
        let part = "30 1 0:28 /docker/a /sys/fs/cgroup rw - cgroup2 c rw\n";
        assert_eq!(
            found(part, "0::/docker/a/u\n", &["/sys/fs/cgroup/u"]),
            (Reach::Delegated, tree("/sys/fs/cgroup/u", "/docker/a/u"))
        );
    }

    #[test]
    fn a_service_manager_has_the_tree_from_its_own_cgroup_on() {
        let v2 = "30 1 0:28 / /sys/fs/cgroup rw - cgroup2 c rw\n";
        let part = "30 1 0:28 /docker/a /sys/fs/cgroup rw - cgroup2 c rw\n";
        let found = |mountinfo: &str, own: &str| {
            Layout::parse(mountinfo, "0::/x\n").below(Path::new(own)).map(|layout| {
                assert!(layout.reach == Reach::Delegated && layout.v1.is_empty());
                layout.v2.map(|tree| (tree.mount, tree.top))
            })
        };
        let tree = |mount: &str, top: &str| Some((mount.into(), top.into()));
        let manager = "/user.slice/user-1.slice/user@1.service";
        assert_eq!(found(v2, manager).unwrap(), tree(&format!("/sys/fs/cgroup{manager}"), manager));
        assert_eq!(found(v2, "/").unwrap(), tree("/sys/fs/cgroup", "/"));
        assert_eq!(found(part, "/docker/a/u").unwrap(), tree("/sys/fs/cgroup/u", "/docker/a/u"));
        for (mountinfo, own) in [(part, "/user.slice"), (v2, ""), (v2, "u"), (v2, "/u/../.."), ("", "/u")] {
            assert!(found(mountinfo, own).is_err(), "{own}");
        }
        let hybrid = Layout::parse(HYBRID, BOUND).below(Path::new("/u"));
        assert!(hybrid.unwrap_err().to_string().contains("this host has cgroup v1 hierarchies"));
    }

    #[test]
    fn nonsense_is_no_cgroup() {
        for text in ["", "\n", "a b c\n", "1 2 3 - cgroup\n", "1 1 0:1 / / rw - cgroup c\n"] {
            assert_eq!(Layout::parse(text, ":::\n\n").trees().count(), 0, "{text:?}");
        }
    }

    #[test]
    fn this_hosts_own_trees_are_found() {
        let layout = Layout::detect().unwrap();
        for tree in layout.trees() {
            assert!(tree.mount.join("cgroup.procs").exists(), "{tree:?}");
        }
    }
}
