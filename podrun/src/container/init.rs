//! What runs between clone3 and execve: a container's first process, and every exec'd program, told as one list.
//!
//! A straight line of system calls: no allocation, no lock, no logging, no choice. A failure is (step, index, errno) in
//! a few bytes through the report socket; the parent, which may allocate, makes the sentence (`birth`).
//!
//! ```text
//!   monitor                         init
//!      │  clone3, fd store             │  joins, mounts, pivots …
//!      │                               │
//!      │  ◀── N ─────────────────────  │  (alone only) the namespaces are there: ids are to be mapped, hooks to be run
//!      │  ─── C ─────────────────────▶ │  go on
//!      │  ◀── T + pty master ────────  │  (terminal only)
//!      │  ◀── R ─────────────────────  │  ready, unless the gate is open already
//!      │  ─── G ─────────────────────▶ │  the gate; EOF instead: the monitor died, leave
//!      │  ◀── L + listener ──────────  │  the filter is loaded (SCMP_ACT_NOTIFY only)
//!      │  ─── A ─────────────────────▶ │  the listener is with who asked for it
//!      │  ◀── F step index errno ────  │  a failure, and its end
//!      │  ◀── EOF ───────────────────  │  execve has closed the socket: the workload runs
//! ```
//!
//! A container that is in no pod has no monitor, and whoever makes it does not wait for its start: behind R its init waits
//! for a connection at its door, which takes the socket's place.

#![forbid(unsafe_code)]

use super::copy_up::{copy_up, look_alike};
use super::hooks::Round;
use super::plan::{Access, CgroupNamespace, NewPrivileges, Plan, Process, Stdio};
use crate::caps::CapabilitySets;
use crate::cgroup::Tasks;
use crate::rootfs::idmap::{Namespaces, Reach};
use crate::rootfs::{Component, Device, Follow, Looks, Mount, Place, PointKind, Source};
use crate::sandbox::SharedMemory;
use crate::sys::clone::{exit, poll_one};
use crate::sys::cred::{self, Pointers};
use crate::sys::fd::{self, Resolve};
use crate::sys::mount::{self, Attributes, Setting};
use crate::sys::{ns, seccomp, socket, tty};
use crate::text::Text;
use std::convert::Infallible;
use std::ffi::CStr;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The enum and its list, which so cannot differ.
macro_rules! steps {
    ($(#[$about:meta])* $name:ident { $($step:ident),* $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($step),* }

        impl $name {
            const ALL: &[Self] = &[$(Self::$step),*];

            pub fn from_byte(byte: u8) -> Option<Self> {
                Self::ALL.get(usize::from(byte)).copied()
            }
        }
    };
}

steps! {
    /// Where a birth may fail. The number travels through the report socket; `birth` has the words.
    Step {
        JoinCgroup,
        JoinNamespaces,
        NewCgroupNamespace,
        DomainName,
        OomScoreAdj,
        AppArmor,
        Selinux,
        Affinity,
        Sysctl,
        HostPropagation,
        OpenRootfs,
        Mount,
        Idmap,
        Device,
        Link,
        Terminal,
        WorkingDirectory,
        MaskedPath,
        ReadOnlyPath,
        ReadOnlyRootfs,
        PivotRoot,
        Gate,
        Keyring,
        MemoryPolicy,
        Personality,
        IoPriority,
        Scheduler,
        Rlimit,
        Session,
        Stdio,
        BoundingSet,
        Groups,
        User,
        Capabilities,
        NoNewPrivileges,
        Seccomp,
        Listener,
        CloseFds,
        Exec,
        Parent,
        UserNamespace,
        Hostname,
        Loopback,
        CreateContainerHook,
        StartContainerHook,
    }
}

/// A failure as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    pub step: Step,
    pub index: u16,
    pub errno: i32,
}

impl Failure {
    pub fn to_bytes(self) -> [u8; 8] {
        let ([i, j], [a, b, c, d]) = (self.index.to_ne_bytes(), self.errno.to_ne_bytes());
        [b'F', self.step as u8, i, j, a, b, c, d]
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [b'F', step, i, j, a, b, c, d] => Some(Self {
                step: Step::from_byte(step)?,
                index: u16::from_ne_bytes([i, j]),
                errno: i32::from_ne_bytes([a, b, c, d]),
            }),
            _ => None,
        }
    }
}

/// What init stands on besides its plan: descriptors that the parent opened.
#[derive(Debug)]
pub struct Ground<'a> {
    pub report: BorrowedFd<'a>,
    pub tasks: &'a Tasks,
    pub idmaps: &'a Namespaces,
    /// stdin, stdout, stderr; ignored where the plan says terminal.
    pub stdio: [BorrowedFd<'a>; 3],
    pub argv: &'a Pointers,
    pub envp: &'a Pointers,
    pub alone: &'a Alone<'a>,
}

/// What only a process that no monitor keeps has: with nothing in it, it is one of a pod's.
#[derive(Debug, Default)]
pub struct Alone<'a> {
    /// A listening socket: `start` connects to it, and is told how the start went.
    pub door: Option<BorrowedFd<'a>>,
    /// `--preserve-fds`: numbers from 3 on that the program finds as the caller left them.
    pub preserved: i32,
    pub start_container: Option<&'a Round>,
}

/// The namespaces that a container is born into besides those that clone3 makes.
#[derive(Debug)]
pub struct World<'a> {
    /// A user namespace to join before the others are made, so that it owns them.
    pub user: Option<BorrowedFd<'a>>,
    /// Those that it joins, each with its `CLONE_NEW*`.
    pub joined: &'a [(BorrowedFd<'a>, i32)],
    /// The pod's, there if a mount of the plan asks for it.
    pub memory: Option<&'a SharedMemory>,
    /// There for a container that is in no pod.
    pub own: Option<&'a Own<'a>>,
}

/// What a pod does once for all its containers, and one that is in none does itself.
#[derive(Debug)]
pub struct Own<'a> {
    pub hostname: Option<&'a Text>,
    pub loopback: Loopback,
    pub ids: Ids,
    /// The rootfs and the source of each mount, where the parent has opened them: in a user namespace the way there may be
    /// closed to whom root is mapped to.
    pub rootfs: Option<BorrowedFd<'a>>,
    pub trees: &'a [Option<OwnedFd>],
    pub create_container: &'a Round,
}

/// Whether the network namespace is new, and its loopback still down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    Leave,
    Up,
}

/// Whose user and group ids the container's are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    Host,
    /// Of a user namespace, in which init becomes root before it makes anything.
    Mapped,
}

type Lived = Result<Infallible, Failure>;

pub(super) fn at<E: Into<io::Error>>(step: Step) -> impl Fn(E) -> Failure {
    at_index(step, 0)
}

fn at_index<E: Into<io::Error>>(step: Step, index: usize) -> impl Fn(E) -> Failure {
    move |err| Failure {
        step,
        index: u16::try_from(index).unwrap_or(u16::MAX),
        errno: err.into().raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Becomes a container's first process, or reports and leaves.
pub fn be_born(plan: &Plan, world: &World<'_>, ground: &Ground<'_>) -> Infallible {
    let Err(failure) = live(plan, world, ground);
    report(ground.report, failure)
}

/// Becomes a program in a container that lives already, whose first process is behind `init`; `more` are `CLONE_NEW*` of
/// namespaces that not every container has.
pub fn join(process: &Process, init: BorrowedFd<'_>, more: i32, ground: &Ground<'_>) -> Infallible {
    let Err(failure) = visit(process, init, more, ground);
    report(ground.report, failure)
}

fn report(socket: BorrowedFd<'_>, failure: Failure) -> Infallible {
    // If the parent is gone nobody is left to be told.
    let _ = socket::send(socket, &failure.to_bytes(), &[], 0);
    exit(1)
}

fn live(plan: &Plan, world: &World<'_>, ground: &Ground<'_>) -> Lived {
    let process = &plan.process;
    accept_signals();
    ground.tasks.join().map_err(at(Step::JoinCgroup))?;
    // While the host's /proc is still in reach: the score before anything of the container runs, so that none
    // inherits the monitor's, which is the lowest that the host grants.
    set_oom_score(process.oom_score_adj.as_ref())?;
    process.labels.take_on()?;
    // Those of the pod are held open by pause.
    for (namespace, kind) in world.joined {
        ns::setns(*namespace, *kind).map_err(at(Step::JoinNamespaces))?;
    }
    if let Some(own) = world.own {
        settle(own, ground.report)?;
    }
    if plan.cgroup_namespace == CgroupNamespace::New {
        // After the joining: the namespace's root is where we are now.
        ns::unshare(libc::CLONE_NEWCGROUP).map_err(at(Step::NewCgroupNamespace))?;
    }
    if let Some(name) = &plan.domain_name {
        ns::setdomainname(name.c()).map_err(at(Step::DomainName))?;
    }
    // /proc/sys shows the namespaces of whoever opens it, and this is still the host's own procfs.
    for (index, (file, value)) in plan.sysctl.iter().enumerate() {
        write_file(file.c(), value.c().to_bytes()).map_err(at_index(Step::Sysctl, index))?;
    }
    mount::mount_flags(c"/", plan.host_propagation).map_err(at(Step::HostPropagation))?;
    // Never dropped: what is inherited is closed below by number, and a second close could only do harm.
    let given = world.own.and_then(|own| own.rootfs);
    let root = ManuallyDrop::new(open_rootfs(&plan.rootfs, given).map_err(at(Step::OpenRootfs))?);
    fill_rootfs(plan, root.as_fd(), world, ground.idmaps)?;
    let terminal = ManuallyDrop::new(open_terminal(process.stdio, root.as_fd(), ground.report)?);
    if let Some(terminal) = &*terminal {
        mount_console(terminal.as_fd(), root.as_fd()).map_err(at(Step::Terminal))?;
    }
    make_place(root.as_fd(), &process.cwd, Follow::LinksInside).map_err(at(Step::WorkingDirectory))?;
    protect_rootfs(plan, root.as_fd())?;
    if let Some(own) = world.own {
        own.create_container.run().map_err(hook_failed(Step::CreateContainerHook))?;
    }
    // From here on the host's files are out of reach: no path below is a host path.
    mount::fchdir(root.as_fd()).map_err(at(Step::PivotRoot))?;
    mount::pivot_root_here().map_err(at(Step::PivotRoot))?;
    if plan.root_propagation != 0 {
        mount::mount_flags(c"/", plan.root_propagation).map_err(at(Step::PivotRoot))?;
    }
    become_program(process, root.as_fd(), terminal.as_ref(), ground)
}

/// What a pod has done for its containers before they are born.
fn settle(own: &Own<'_>, report: BorrowedFd<'_>) -> Result<(), Failure> {
    socket::send(report, b"N", &[], 0).map_err(at(Step::Parent))?;
    let mut byte = [0];
    if fd::read(report, &mut byte).map_err(at(Step::Parent))? == 0 {
        exit(1);
    }
    if own.ids == Ids::Mapped {
        cred::setgid(0).map_err(at(Step::UserNamespace))?;
        cred::setuid(0).map_err(at(Step::UserNamespace))?;
    }
    if let Some(name) = own.hostname {
        ns::sethostname(name.c()).map_err(at(Step::Hostname))?;
    }
    match own.loopback {
        Loopback::Up => ns::loopback_up().map_err(at(Step::Loopback)),
        Loopback::Leave => Ok(()),
    }
}

fn hook_failed(step: Step) -> impl Fn(super::hooks::Failed) -> Failure {
    move |failed| Failure { step, index: u16::try_from(failed.index).unwrap_or(u16::MAX), errno: failed.errno }
}

fn visit(process: &Process, init: BorrowedFd<'_>, more: i32, ground: &Ground<'_>) -> Lived {
    const ALL: i32 =
        libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;
    accept_signals();
    ground.tasks.join().map_err(at(Step::JoinCgroup))?;
    set_oom_score(process.oom_score_adj.as_ref())?;
    process.labels.take_on()?;
    process.attributes.exec_affinity.settle()?;
    // Root and current directory become those of the container's mount namespace (setns(2)). Its PID namespace was
    // joined by the parent, for this child.
    ns::setns(init, ALL | more).map_err(at(Step::JoinNamespaces))?;
    if more & libc::CLONE_NEWUSER != 0 {
        cred::setgid(0).map_err(at(Step::UserNamespace))?;
        cred::setuid(0).map_err(at(Step::UserNamespace))?;
    }
    let root = fd::open(c"/", libc::O_PATH | libc::O_DIRECTORY).map_err(at(Step::JoinNamespaces))?;
    let root = ManuallyDrop::new(root);
    let terminal = ManuallyDrop::new(open_terminal(process.stdio, root.as_fd(), ground.report)?);
    become_program(process, root.as_fd(), terminal.as_ref(), ground)
}

/// The monitor began with every signal at its default, ignores SIGPIPE since then, as all of Rust does, and blocks those that
/// it reads. Handlers end with execve; all 64 at this place would be a thirtieth of the birth.
fn accept_signals() {
    cred::reset_signal(libc::SIGPIPE);
    cred::unblock_signals();
}

fn set_oom_score(score: Option<&Text>) -> Result<(), Failure> {
    match score {
        Some(score) => write_file(c"/proc/self/oom_score_adj", score.c().to_bytes()).map_err(at(Step::OomScoreAdj)),
        None => Ok(()),
    }
}

/// One value, one write, to a file of procfs and of nothing else (CVE-2025-52881).
pub(super) fn write_file(path: &CStr, value: &[u8]) -> io::Result<()> {
    let file = fd::open(path, libc::O_WRONLY)?;
    if fd::filesystem(file.as_fd())? != libc::PROC_SUPER_MAGIC {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let written = fd::write(file.as_fd(), value)?;
    if written == value.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
}

/// A copy of the rootfs's mounts, stacked on itself: pivot_root(2) wants a mount point.
fn open_rootfs(path: &Text, given: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    if let Some(given) = given {
        // Any mount point will do, and `/` is in everybody's reach.
        let root = fd::dup_above(given, 3)?;
        mount::move_mount(root.as_fd(), fd::open(c"/", libc::O_PATH | libc::O_DIRECTORY)?.as_fd())?;
        return Ok(root);
    }
    let root = mount::open_tree(mount::here(), path.c(), true)?;
    let below = fd::open(path.c(), libc::O_PATH | libc::O_DIRECTORY)?;
    mount::move_mount(root.as_fd(), below.as_fd())?;
    Ok(root)
}

fn fill_rootfs(plan: &Plan, root: BorrowedFd<'_>, world: &World<'_>, idmaps: &Namespaces) -> Result<(), Failure> {
    let trees = world.own.map_or(&[][..], |own| own.trees);
    for (index, one) in plan.mounts.iter().enumerate() {
        let tree = trees.get(index).and_then(Option::as_ref);
        let detached = make_mount(root, one, world.memory, tree).map_err(at_index(Step::Mount, index))?;
        // A tree that was opened for us has them mapped already.
        if let (Some(map), Some(namespace), None) = (&one.idmap, idmaps.of(index), tree) {
            let all = map.reach == Reach::Below;
            mount::map_ids(detached.as_fd(), namespace, all).map_err(at_index(Step::Idmap, index))?;
        }
        place_mount(root, one, detached.as_fd()).map_err(at_index(Step::Mount, index))?;
    }
    if plan.devices.is_empty() && plan.links.is_empty() {
        return Ok(());
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
    Ok(())
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
        Source::New { kind, settings } => new_filesystem(kind.c(), settings, one.set),
        Source::CopyUp { settings, looks } => {
            // Before it can be read-only: attach makes it so.
            let made = new_filesystem(c"tmpfs", settings, 0)?;
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
        Source::PodMemory => match memory {
            Some(memory) => memory.copy(),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        },
    }
}

fn new_filesystem(kind: &CStr, settings: &[(Text, Option<Text>)], attributes: u64) -> io::Result<OwnedFd> {
    let context = mount::fsopen(kind)?;
    each_setting(settings).try_for_each(|setting| mount::fsconfig(context.as_fd(), setting))?;
    mount::fsmount(context.as_fd(), attributes)
}

fn each_setting(settings: &[(Text, Option<Text>)]) -> impl Iterator<Item = Setting<'_>> {
    settings.iter().map(|(key, value)| match value {
        Some(value) => Setting::Text(key.c(), value.c()),
        None => Setting::Flag(key.c()),
    })
}

/// Sets what is to be set, and moves the mount to its place.
fn place_mount(root: BorrowedFd<'_>, one: &Mount, detached: BorrowedFd<'_>) -> io::Result<()> {
    let own = match &one.source {
        // fsmount(2) has set them.
        Source::New { .. } => Attributes::default(),
        _ => Attributes { set: one.set, clear: one.clear, propagation: 0 },
    };
    let below = Attributes { set: one.set_below, clear: one.clear_below, propagation: 0 };
    let propagation = Attributes { propagation: one.propagation & !libc::MS_REC, ..Attributes::default() };
    let changes = [(own, false), (below, true), (propagation, one.propagation & libc::MS_REC != 0)];
    if let Source::Mounted { settings } = &one.source {
        if !settings.is_empty() {
            mount::reconfigure(detached, each_setting(settings))?;
        }
        return changes.into_iter().try_for_each(|(one, recursive)| change(detached, one, recursive));
    }
    let target = make_place(root, &one.at, one.follow)?;
    refuse_procfs(target.as_fd(), one)?;
    attach(detached, target.as_fd(), &changes)
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
fn make_place(root: BorrowedFd<'_>, place: &Place, follow: Follow) -> io::Result<OwnedFd> {
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
            parent = open_directory(root, &component.parent, resolve)?;
        }
        let made = match place.kind {
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
        // A link of the image that leads nowhere yet, as Debian's /etc/resolv.conf does: the file is made where it leads to.
        (Err(err), Some(link))
            if err.raw_os_error() == Some(libc::ENOENT)
                && follow == Follow::LinksInside
                && place.kind == PointKind::File =>
        {
            make_link_target(root, link)?;
            fd::openat2(root, place.path.c(), flags, 0, resolve)
        }
        (opened, _) => opened,
    }
}

fn open_directory(root: BorrowedFd<'_>, path: &Text, resolve: Resolve) -> io::Result<OwnedFd> {
    fd::openat2(root, path.c(), libc::O_PATH | libc::O_DIRECTORY, 0, resolve)
}

/// Makes the file that a dangling link leads to, and the directories on its way, all within the root: each prefix of the
/// way is opened by openat2, so that neither `..` nor another link leads out.
fn make_link_target(root: BorrowedFd<'_>, link: &Component) -> io::Result<()> {
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
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) && at < end => {
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

/// A pty of the container's own devpts: its other end is opened by the descriptor, never by /dev/pts/N, which somebody
/// may have replaced (CVE-2025-52565). The master goes to the parent.
fn open_terminal(stdio: Stdio, root: BorrowedFd<'_>, report: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Failure> {
    match stdio {
        Stdio::Pipes => Ok(None),
        Stdio::Terminal { size } => open_pty(root, report, size).map(Some).map_err(at(Step::Terminal)),
    }
}

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
fn mount_console(terminal: BorrowedFd<'_>, root: BorrowedFd<'_>) -> io::Result<()> {
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

/// Masks, read-only paths, and the read-only root, in this order: nothing is made in the rootfs afterwards.
fn protect_rootfs(plan: &Plan, root: BorrowedFd<'_>) -> Result<(), Failure> {
    if !plan.masked.is_empty() {
        // The host's own, opened before the rootfs could matter, and looked at (CVE-2025-31133).
        let null = open_null().map_err(at(Step::MaskedPath))?;
        let mut empty = None;
        for (index, path) in plan.masked.iter().enumerate() {
            mask(root, path, null.as_fd(), &mut empty).map_err(at_index(Step::MaskedPath, index))?;
        }
    }
    for (index, path) in plan.read_only.iter().enumerate() {
        make_read_only(root, path).map_err(at_index(Step::ReadOnlyPath, index))?;
    }
    if plan.rootfs_access == Access::ReadOnly {
        let read_only = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
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
fn open_existing(root: BorrowedFd<'_>, path: &Text) -> io::Result<Option<OwnedFd>> {
    match fd::openat2(root, path.c(), libc::O_PATH, 0, Resolve::InRoot) {
        Ok(fd) => Ok(Some(fd)),
        Err(err) if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(err) => Err(err),
    }
}

/// A file is covered by `null`, a directory by an `empty` one: the first makes it, the others are covered by copies.
fn mask(root: BorrowedFd<'_>, path: &Text, null: BorrowedFd<'_>, empty: &mut Option<OwnedFd>) -> io::Result<()> {
    let Some(target) = open_existing(root, path)? else { return Ok(()) };
    let is_directory = fd::fstat(target.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFDIR;
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

fn make_read_only(root: BorrowedFd<'_>, path: &Text) -> io::Result<()> {
    let Some(target) = open_existing(root, path)? else { return Ok(()) };
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

/// The last stretch, the same for a first process and for an exec: waits at the gate, then takes on the user, the
/// capabilities and the filter, in the one order in which each step may still be done (style: the order of the last steps).
fn become_program(process: &Process, root: BorrowedFd<'_>, terminal: Option<&OwnedFd>, ground: &Ground<'_>) -> Lived {
    cred::setsid().map_err(at(Step::Session))?;
    take_stdio(terminal, ground.stdio).map_err(at(Step::Stdio))?;
    enter_directory(root, process).map_err(at(Step::WorkingDirectory))?;
    for (index, limit) in process.rlimits.iter().enumerate() {
        cred::setrlimit(limit.resource, limit.soft, limit.hard).map_err(at_index(Step::Rlimit, index))?;
    }
    process.attributes.take_on()?;
    if ground.alone.door.is_some() {
        // Whoever makes a container now and starts it later wants to know now.
        find_program(process)?;
    }
    wait_at_gate(ground).map_err(at(Step::Gate))?;
    if let Some(hooks) = ground.alone.start_container {
        hooks.run().map_err(hook_failed(Step::StartContainerHook))?;
    }
    cred::umask(process.umask);
    let sets = process.capabilities;
    drop_bounding_set(sets).map_err(at(Step::BoundingSet))?;
    // Groups before user: after setuid we may no longer change groups.
    cred::setgroups(&process.groups).map_err(at(Step::Groups))?;
    cred::setgid(process.gid).map_err(at(Step::Groups))?;
    cred::prctl(libc::PR_SET_KEEPCAPS, 1).map_err(at(Step::User))?;
    cred::setuid(process.uid).map_err(at(Step::User))?;
    cred::prctl(libc::PR_SET_KEEPCAPS, 0).map_err(at(Step::User))?;
    // Whether the gate stood open or not; the report itself closes at exec.
    fd::close_from_but(3 + ground.alone.preserved, &mut [ground.report]).map_err(at(Step::CloseFds))?;
    if process.new_privileges == NewPrivileges::Never {
        cred::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(at(Step::NoNewPrivileges))?;
    }
    // A filter without no_new_privs needs CAP_SYS_ADMIN, so that one goes only after it. All our own work but two calls
    // is done by now: the profile need not allow it.
    const SYS_ADMIN: u64 = 1 << 21;
    let permitted = sets.permitted | SYS_ADMIN;
    cred::capset(sets.effective | SYS_ADMIN, permitted, sets.inheritable).map_err(at(Step::Capabilities))?;
    raise_ambient(sets.ambient).map_err(at(Step::Capabilities))?;
    if let Some(program) = &process.seccomp {
        let listener = seccomp::set_mode_filter(program.flags, &program.filter).map_err(at(Step::Seccomp))?;
        // Never closed by us, which would be a call that the filter judges: execve closes it.
        if let Some(listener) = &*ManuallyDrop::new(listener) {
            hand_over(ground.report, listener.as_fd()).map_err(at(Step::Listener))?;
        }
    }
    cred::capset(sets.effective, sets.permitted, sets.inheritable).map_err(at(Step::Capabilities))?;
    execute(process, ground)
}

fn take_stdio(terminal: Option<&OwnedFd>, handed: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    if let Some(terminal) = terminal {
        tty::make_controlling(terminal.as_fd())?;
        return (0..3).try_for_each(|number| fd::dup_to(terminal.as_fd(), number));
    }
    // All three are above 2 (the parent saw to it), so none is overwritten before its turn.
    (0..3).zip(handed).try_for_each(|(number, one)| fd::dup_to(one, number))
}

/// chdir by the root's rules, then the kernel's own word that the place is inside (CVE-2024-21626): both before the filter.
fn enter_directory(root: BorrowedFd<'_>, process: &Process) -> io::Result<()> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let directory = fd::openat2(root, process.cwd.path.c(), flags, 0, Resolve::InRoot)?;
    mount::fchdir(directory.as_fd())?;
    if mount::cwd_is_inside_root()? { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EXDEV)) }
}

/// Says that all is ready, unless the gate stands open already, and waits for it. No byte but the end: the monitor died.
fn wait_at_gate(ground: &Ground<'_>) -> io::Result<()> {
    let report = ground.report;
    let first = 3 + ground.alone.preserved;
    match (ground.alone.door, ground.alone.start_container) {
        (Some(door), hooks) => {
            let state = hooks.map_or(report, Round::state);
            fd::close_from_but(first, &mut [report, door, state])?;
            socket::send(report, b"R", &[], 0)?;
            // The maker sees the end of its own socket by this; `start` speaks through the one that takes its number.
            let caller = socket::accept_one(door)?;
            fd::take_place(caller.as_fd(), report)?;
        }
        (None, None) if !poll_one(report, libc::POLLIN, 0)? => {
            fd::close_from_but(first, &mut [report])?;
            socket::send(report, b"R", &[], 0)?;
        }
        _ => {}
    }
    let mut byte = [0];
    match fd::read(report, &mut byte)? {
        0 => exit(1),
        _ => Ok(()),
    }
}

/// The listener goes to whoever can send it on, and only when that is done may the program ask (the profile lets both calls
/// pass: `seccomp` sees to it). No byte but the end: the monitor died.
fn hand_over(report: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> io::Result<()> {
    socket::send(report, b"L", &[listener], 0)?;
    let mut byte = [0];
    // A monitor that came meanwhile has opened the gate once more: that is not yet the answer.
    while byte != *b"A" {
        if fd::read(report, &mut byte)? == 0 {
            exit(1);
        }
    }
    Ok(())
}

fn drop_bounding_set(sets: CapabilitySets) -> io::Result<()> {
    for capability in 0..64 {
        if sets.bounding & (1 << capability) != 0 {
            continue;
        }
        match cred::prctl(libc::PR_CAPBSET_DROP, capability) {
            // The first number that the kernel does not know: there is no more.
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => break,
            other => other.map(drop)?,
        }
    }
    Ok(())
}

fn raise_ambient(ambient: u64) -> io::Result<()> {
    (0..64)
        .filter(|capability| ambient & (1 << capability) != 0)
        .try_for_each(|capability| cred::ambient(libc::PR_CAP_AMBIENT_RAISE, capability))
}

/// Whether there is a candidate that execve(2) may take, without a look at what is in it.
fn find_program(process: &Process) -> Result<(), Failure> {
    let mut worst = libc::ENOENT;
    for program in &process.programs {
        match fd::may_execute(program.c()).map_err(|err| err.raw_os_error().unwrap_or(libc::EIO)) {
            Ok(()) => return Ok(()),
            Err(libc::ENOENT | libc::ENOTDIR) => {}
            Err(errno) => worst = errno,
        }
    }
    match process.programs.is_empty() {
        // A container without `process`, which nobody can start.
        true => Ok(()),
        false => Err(Failure { step: Step::Exec, index: 0, errno: worst }),
    }
}

/// execve(2) of the first candidate that is there; one that is there and may not be run is the better answer than none.
fn execute(process: &Process, ground: &Ground<'_>) -> Lived {
    let mut worst = libc::ENOENT;
    for program in &process.programs {
        let err = cred::execve(program.c(), ground.argv, ground.envp).raw_os_error().unwrap_or(libc::EIO);
        match err {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = err,
            _ => return Err(Failure { step: Step::Exec, index: 0, errno: err }),
        }
    }
    Err(Failure { step: Step::Exec, index: 0, errno: worst })
}
