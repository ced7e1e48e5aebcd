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

mod gate;
mod program;
mod rootfs;
mod terminal;

use super::alone::CLONE_NEWTIME;
use super::attributes;
use super::hooks::Round;
use super::plan::{CgroupNamespace, Entry, Plan, Process};
use crate::cgroup::Tasks;
use crate::rootfs::Follow;
use crate::rootfs::idmap::Namespaces;
use crate::sandbox::SharedMemory;
use crate::sys::clone::exit;
use crate::sys::cred::{self, Pointers};
use crate::sys::{fd, mount, ns, socket};
use crate::text::Text;
use program::become_program;
pub use rootfs::open_rootfs;
use rootfs::{fill_rootfs, make_place, no_peer, open_trees, protect_rootfs};
use std::cell::{Cell, OnceCell};
use std::convert::Infallible;
use std::ffi::CStr;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use terminal::{mount_console, open_terminal};

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
        Sealed,
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
        Clocks,
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
    /// It was hidden from those whose PID namespace it is born into, and [`hide`] has set what it could not set any more.
    pub hidden: bool,
    /// What failed there.
    pub early: Early,
}

pub type Early = Cell<Option<Failure>>;

impl Ground<'_> {
    /// Sets the OOM score, unless [`hide`] has, or has failed at it.
    fn score(&self, process: &Process) -> Result<(), Failure> {
        match (self.hidden, self.early.get()) {
            (_, Some(failure)) => Err(failure),
            (true, None) => Ok(()),
            (false, None) => set_oom_score(process.oom_score_adj.as_ref()),
        }
    }
}

/// What only a process that no monitor keeps has: with nothing in it, it is one of a pod's.
#[derive(Debug, Default)]
pub struct Alone<'a> {
    /// A listening socket: `start` connects to it, and is told how the start went.
    pub door: Option<BorrowedFd<'a>>,
    pub groups: Groups,
    /// `--preserve-fds`: numbers from 3 on that the program finds as the caller left them.
    pub preserved: i32,
    pub start_container: Option<&'a Round>,
}

/// Whether supplementary groups can be set: not in a user namespace that denies setgroups(2), as one of a user without
/// subordinate gids has to (user_namespaces(7)). There a process keeps those of its maker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Groups {
    #[default]
    Set,
    Denied,
}

impl Groups {
    /// Of the user namespace that a process is in, by the word that its /proc/PID/setgroups begins with.
    pub fn of(process: &str) -> io::Result<Self> {
        std::fs::read(format!("/proc/{process}/setgroups")).map(|word| Self::read(&word))
    }

    fn read(word: &[u8]) -> Self {
        if word.starts_with(b"deny") { Self::Denied } else { Self::Set }
    }
}

/// The namespaces that a container is born into besides those that clone3 makes.
#[derive(Debug)]
pub struct World<'a> {
    /// Those to join before the others are made: a user namespace, so that it owns them, and what only its root may join.
    pub within: &'a [(BorrowedFd<'a>, i32)],
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
    /// Where init has to make its time namespace itself: the lines of timens_offsets.
    pub clocks: Option<&'a Text>,
    pub trees: &'a Trees,
    pub create_container: &'a Round,
}

/// The rootfs and the source of each bind mount as trees of their own, opened by who has the maker's uid: in a user namespace
/// the way there may be closed to whom root is mapped to.
#[derive(Debug)]
pub struct Trees {
    pub rootfs: OnceCell<OwnedFd>,
    /// One for each mount.
    pub sources: Vec<OnceCell<OwnedFd>>,
    pub by: Opener,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opener {
    /// Init where it needs them, by path: without a user namespace nothing stands in its way.
    InitInPlace,
    Parent,
    /// Init, before it becomes root: who is not root may open trees in a mount namespace of his own alone.
    InitAsMaker,
}

impl Trees {
    pub fn new(plan: &Plan, by: Opener) -> Self {
        Self { rootfs: OnceCell::new(), sources: plan.mounts.iter().map(|_| OnceCell::new()).collect(), by }
    }
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

/// Where an exec'd program goes.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    /// `CLONE_NEW*` of the namespaces that it joins, but for the PID namespace.
    pub kinds: i32,
    pub ids: Ids,
    /// `CLONE_NEW*` of those that it makes for itself and all that it starts.
    pub new: i32,
    /// `CLONE_NEW*` of what a process in between joins for it, one that need not come back: to its own PID namespace only root
    /// of the machine may.
    pub between: i32,
}

impl Visit {
    /// Of a container that shares neither user nor time namespace with nobody: what every container has.
    pub const USUAL: Self = Self {
        kinds: libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP,
        ids: Ids::Host,
        new: 0,
        between: 0,
    };
}

/// Becomes a program in a container that lives already, whose first process is behind `init`.
pub fn join(process: &Process, init: BorrowedFd<'_>, visit: Visit, ground: &Ground<'_>) -> Infallible {
    let Err(failure) = arrive(process, init, visit, ground);
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
    ground.score(process)?;
    process.labels.take_on()?;
    // Those of the pod are held open by pause.
    for (namespace, kind) in world.joined {
        ns::setns(*namespace, *kind).map_err(at(Step::JoinNamespaces))?;
    }
    let mut groups = ground.alone.groups;
    if let Some(own) = world.own {
        attributes::leave_callers_cpus();
        settle(plan, own, ground.report, &mut groups)?;
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
    let given = world.own.and_then(|own| own.trees.rootfs.get()).map(|root| (root.as_fd(), no_peer(plan)));
    let root = ManuallyDrop::new(open_rootfs(&plan.rootfs, given).map_err(at(Step::OpenRootfs))?);
    let bases = fill_rootfs(plan, root.as_fd(), world, ground.idmaps)?;
    let terminal = ManuallyDrop::new(open_terminal(process, root.as_fd(), ground.report)?);
    if let Some(terminal) = &*terminal {
        mount_console(terminal.as_fd(), root.as_fd()).map_err(at(Step::Terminal))?;
    }
    make_place(root.as_fd(), &process.cwd, Follow::LinksInside).map_err(at(Step::WorkingDirectory))?;
    protect_rootfs(plan, root.as_fd(), bases)?;
    mount::fchdir(root.as_fd()).map_err(at(Step::PivotRoot))?;
    if let Some(own) = world.own {
        own.create_container.run().map_err(hook_failed(Step::CreateContainerHook))?;
    }
    // From here on the host's files are out of reach: no path below is a host path.
    match plan.entry {
        Entry::Pivot => mount::pivot_root_here(),
        Entry::Cover => {
            for (index, place) in plan.host_views.iter().enumerate() {
                mount::take_away(place.c()).map_err(at_index(Step::PivotRoot, index))?;
            }
            mount::cover_root_here()
        }
    }
    .map_err(at(Step::PivotRoot))?;
    if plan.root_propagation != 0 {
        mount::mount_flags(c"/", plan.root_propagation).map_err(at(Step::PivotRoot))?;
    }
    become_program(process, root.as_fd(), terminal.as_ref(), groups, ground)
}

/// What a pod has done for its containers before they are born.
fn settle(plan: &Plan, own: &Own<'_>, report: BorrowedFd<'_>, groups: &mut Groups) -> Result<(), Failure> {
    socket::send(report, b"N", &[], 0).map_err(at(Step::Parent))?;
    let mut byte = [0];
    if fd::read(report, &mut byte).map_err(at(Step::Parent))? == 0 {
        exit(1);
    }
    if own.trees.by == Opener::InitAsMaker {
        open_trees(plan, own.trees)?;
    }
    if own.ids == Ids::Mapped {
        become_root()?;
        *groups = of_this_namespace().map_err(at(Step::UserNamespace))?;
    }
    if let Some(clocks) = own.clocks {
        new_clocks(clocks).map_err(at(Step::Clocks))?;
    }
    if let Some(name) = own.hostname {
        ns::sethostname(name.c()).map_err(at(Step::Hostname))?;
    }
    match own.loopback {
        Loopback::Up => ns::loopback_up().map_err(at(Step::Loopback)),
        Loopback::Leave => Ok(()),
    }
}

/// Of the user namespace that it is in.
fn become_root() -> Result<(), Failure> {
    cred::setgid(0).map_err(at(Step::UserNamespace))?;
    cred::setuid(0).map_err(at(Step::UserNamespace))
}

/// While the host's procfs is in reach.
fn of_this_namespace() -> io::Result<Groups> {
    let (file, mut word) = (fd::open(c"/proc/self/setgroups", libc::O_RDONLY)?, [0; 8]);
    let count = fd::read(file.as_fd(), &mut word)?;
    Ok(Groups::read(&word[..count]))
}

/// A time namespace whose clocks are set before anybody is in it (time_namespaces(7)), and then itself.
fn new_clocks(clocks: &Text) -> io::Result<()> {
    ns::unshare(CLONE_NEWTIME)?;
    if !clocks.c().is_empty() {
        write_file(c"/proc/self/timens_offsets", clocks.c().to_bytes())?;
    }
    ns::setns(fd::open(c"/proc/self/ns/time_for_children", libc::O_RDONLY)?.as_fd(), CLONE_NEWTIME)
}

fn hook_failed(step: Step) -> impl Fn(super::hooks::Failed) -> Failure {
    move |failed| Failure { step, index: u16::try_from(failed.index).unwrap_or(u16::MAX), errno: failed.errno }
}

fn arrive(process: &Process, init: BorrowedFd<'_>, visit: Visit, ground: &Ground<'_>) -> Lived {
    accept_signals();
    ground.tasks.join().map_err(at(Step::JoinCgroup))?;
    ground.score(process)?;
    process.labels.take_on()?;
    process.attributes.exec_affinity.settle()?;
    // Root and current directory become those of the container's mount namespace (setns(2)). Its PID namespace was
    // joined by the parent, for this child.
    ns::setns(init, visit.kinds).map_err(at(Step::JoinNamespaces))?;
    if visit.new != 0 {
        ns::unshare(visit.new).map_err(at(Step::NewCgroupNamespace))?;
    }
    if visit.ids == Ids::Mapped {
        become_root()?;
    }
    let root = fd::open(c"/", libc::O_PATH | libc::O_DIRECTORY).map_err(at(Step::JoinNamespaces))?;
    let root = ManuallyDrop::new(root);
    let terminal = ManuallyDrop::new(open_terminal(process, root.as_fd(), ground.report)?);
    become_program(process, root.as_fd(), terminal.as_ref(), ground.alone.groups, ground)
}

/// The monitor began with every signal at its default, ignores SIGPIPE since then, as all of Rust does, and blocks those that
/// it reads. Handlers end with execve; all 64 at this place would be a thirtieth of the birth.
fn accept_signals() {
    cred::reset_signal(libc::SIGPIPE);
    cred::unblock_signals();
}

/// Makes this process and its children not dumpable until they execute something: whoever is root of the user namespace that
/// they join could else trace them, and take what podrun has of the host's (CVE-2016-9962). procfs gives them to root of the
/// machine then, so what they write about themselves is written before.
pub(super) fn hide(process: &Process) -> Result<(), Failure> {
    set_oom_score(process.oom_score_adj.as_ref())?;
    cred::prctl(libc::PR_SET_DUMPABLE, 0).map(drop).map_err(at(Step::JoinNamespaces))
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
