//! The parent's side of a birth: clone3 with everything prepared, and the sentence for what went wrong in the child.

#![forbid(unsafe_code)]

use super::attributes::Affinity;
use super::hooks::{self, Hooks};
use super::init::{self, Alone, Early, Failure, Ground, Step, Visit, World};
use super::plan::{PidNamespace, Plan, Process};
use crate::cgroup::Tasks;
use crate::error::{Doing, Error, Kind, Result};
use crate::rootfs::idmap::Namespaces;
use crate::rootfs::{Device, Mount, Source};
use crate::sys::clone::{self, Child, Clone, clone3, exit, wait};
use crate::sys::cred::Pointers;
use crate::sys::{fd, ns, socket};
use crate::text::Text;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A child on its way to execve, and the socket through which it reports and is let go (`init` draws the protocol).
#[derive(Debug)]
pub struct Born {
    pub child: Child,
    pub report: OwnedFd,
}

/// Where the child is put: its cgroup, and the descriptors that become its stdio.
#[derive(Debug)]
pub struct Cradle<'a> {
    /// The cgroup2 directory, where there is one.
    pub cgroup: Option<BorrowedFd<'a>>,
    pub tasks: &'a Tasks,
    pub stdio: [BorrowedFd<'a>; 3],
    pub alone: Alone<'a>,
}

/// The PID namespaces that a birth may need: the one to be born into, and the monitor's own to come back to.
#[derive(Debug)]
pub struct Numbering<'a> {
    pub target: BorrowedFd<'a>,
    pub own: BorrowedFd<'a>,
}

/// clone3 of a container's first process; `new` are `CLONE_NEW*` besides those that the plan has.
pub fn container(
    plan: &Plan,
    new: i32,
    world: &World<'_>,
    shared: Option<&Numbering<'_>>,
    cradle: &Cradle<'_>,
) -> Result<Born> {
    let private = if plan.pid == PidNamespace::Private { libc::CLONE_NEWPID } else { 0 };
    let shared = shared.filter(|_| plan.pid == PidNamespace::Pod);
    // execCPUAffinity "is not applicable to the container's init process" (config.md).
    let affinity = Affinity::default();
    let idmaps = Namespaces::new(&plan.mounts)?;
    let new = new | libc::CLONE_NEWNS | private;
    let cell = Cell { new, within: world.within, affinity: &affinity, idmaps: &idmaps };
    bear(&plan.process, &cell, shared, cradle, |ground| init::be_born(plan, world, ground))
}

/// clone3 of a program that joins the container whose first process is behind `first`.
pub fn exec(
    process: &Process,
    first: BorrowedFd<'_>,
    visit: Visit,
    own_pid: BorrowedFd<'_>,
    cradle: &Cradle<'_>,
) -> Result<Born> {
    let numbering = Some(Numbering { target: first, own: own_pid }).filter(|_| visit.between == 0);
    let between = [(first, visit.between)];
    let within = if visit.between == 0 { &[] } else { &between[..] };
    let (affinity, idmaps) = (&process.attributes.exec_affinity, Namespaces::default());
    let cell = Cell { new: 0, within, affinity, idmaps: &idmaps };
    bear(process, &cell, numbering.as_ref(), cradle, |ground| init::join(process, first, visit, ground))
}

/// What a process is cloned with besides its plan.
#[derive(Debug)]
struct Cell<'a> {
    /// `CLONE_NEW*` of the namespaces that are made.
    new: i32,
    /// Those to join first, by a process in between.
    within: &'a [(BorrowedFd<'a>, i32)],
    affinity: &'a Affinity,
    idmaps: &'a Namespaces,
}

fn bear(
    process: &Process,
    cell: &Cell<'_>,
    numbering: Option<&Numbering<'_>>,
    cradle: &Cradle<'_>,
    live: impl FnOnce(&Ground<'_>) -> std::convert::Infallible,
) -> Result<Born> {
    let strings = |texts: &[Text]| Pointers::new(texts.iter().map(|text| CString::from(text.c())).collect());
    let (argv, envp) = (strings(&process.argv), strings(&process.env));
    let (ours, theirs) = socket::seqpacket_pair().doing(|| "make the report socket".into())?;
    let (report, tasks, stdio, alone) = (theirs.as_fd(), cradle.tasks, cradle.stdio, &cradle.alone);
    // In a PID namespace that others are in. Of a new user namespace the parent has to write the maps, in procfs.
    let joins_others = cell.within.iter().any(|(_, kinds)| kinds & libc::CLONE_NEWPID != 0);
    let hidden = joins_others && cell.new & libc::CLONE_NEWUSER == 0;
    let ground = Ground {
        report,
        tasks,
        idmaps: cell.idmaps,
        stdio,
        argv: &argv,
        envp: &envp,
        alone,
        hidden,
        early: Early::new(None),
    };
    let request = Clone { namespaces: cell.new, cgroup: cradle.cgroup };
    let born = || {
        // With a copy of the parent's end in its own hands it would never hear that the parent died.
        fd::close_inherited(ours.as_fd());
        live(&ground)
    };
    let clone = || match cell.within {
        [] => clone3(&request, born),
        within => {
            // What is born has a copy of the ground as it is then, and tells.
            let hide = || ground.early.set(if hidden { init::hide(process).err() } else { None });
            clone_within(within, &request, hide, born)
        }
    };
    let child = cell.affinity.begin(|| numbered(numbering, clone).map_err(explain_clone))?;
    Ok(Born { child, report: ours })
}

/// clone3 by a process that joins a user namespace first, and so has it own the new ones: what is born is a sibling of
/// that one, a child of ours. Joining by ourselves would be for good.
fn clone_within(
    within: &[(BorrowedFd<'_>, i32)],
    request: &Clone<'_>,
    hide: impl FnOnce(),
    born: impl FnOnce() -> std::convert::Infallible,
) -> io::Result<Child> {
    // Not the report socket: there the newborn may speak first.
    let (ours, theirs) = socket::seqpacket_pair()?;
    let between = clone3(&Clone::default(), || {
        let sibling = Clone { namespaces: request.namespaces | libc::CLONE_PARENT, cgroup: request.cgroup };
        hide();
        let joined = within.iter().try_for_each(|(namespace, kinds)| ns::setns(*namespace, *kinds));
        let made = joined.and_then(|()| clone3(&sibling, born));
        let _ = match made {
            Ok(child) => socket::send(theirs.as_fd(), &child.pid.to_ne_bytes(), &[child.pidfd.as_fd()], 0),
            Err(err) => socket::send(theirs.as_fd(), &(-err.raw_os_error().unwrap_or(libc::EIO)).to_ne_bytes(), &[], 0),
        };
        exit(0)
    })?;
    wait(between.pidfd.as_fd())?;
    let mut number = [0; 4];
    let (count, fds) = socket::receive(ours.as_fd(), &mut number, libc::MSG_DONTWAIT)?;
    match (count, i32::from_ne_bytes(number), fds.into_iter().next()) {
        // The number that it was told may be another PID namespace's: one that the process in between was cloned into.
        (4, _, Some(pidfd)) => Ok(Child { pid: clone::pid_of(pidfd.as_fd())?, pidfd }),
        (4, errno, None) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}

/// Children of this process are born into the PID namespace given, for this one clone (setns(2): only children move).
fn numbered<T>(numbering: Option<&Numbering<'_>>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(numbering) = numbering else { return work() };
    ns::setns(numbering.target, libc::CLONE_NEWPID)?;
    let done = work();
    ns::setns(numbering.own, libc::CLONE_NEWPID)?;
    done
}

fn explain_clone(err: io::Error) -> Error {
    let errno = err.raw_os_error();
    let failed = Err::<(), _>(err).doing(|| "clone the process".into()).unwrap_err();
    match errno {
        Some(libc::EAGAIN) => failed.hint("the cgroup's pids.max, or the host's limit of processes, is reached"),
        // ENOMEM is also the kernel's answer for a PID namespace whose first process has ended (pid_namespaces(7)).
        Some(libc::ENOMEM | libc::ESRCH) => failed.hint("the container's first process may have ended meanwhile"),
        Some(libc::ENOSPC) => failed.hint("user.max_user_namespaces, or its like for another kind, is reached"),
        Some(libc::EPERM) => failed.hint("this host may let only root make user namespaces, or join these"),
        Some(libc::EBUSY) => {
            let hint = "the cgroup has controllers enabled for children, so it may hold no process";
            failed.kind(Kind::NotNow).hint(hint)
        }
        _ => failed,
    }
}

/// Opens the gate: the child goes on to execve.
pub fn open_gate(report: BorrowedFd<'_>) -> io::Result<()> {
    match socket::send(report, b"G", &[], 0) {
        // It died on the way; its last words wait on this socket, and say more than a broken pipe.
        Err(err) if matches!(err.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => Ok(()),
        sent => sent.map(drop),
    }
}

/// Lets a child that has its namespaces go on.
pub fn go_on(report: BorrowedFd<'_>) -> io::Result<()> {
    socket::send(report, b"C", &[], 0).map(drop)
}

/// What arrives on the report socket.
#[derive(Debug)]
pub enum Report {
    /// It has its namespaces, and waits for what its parent has to do in them.
    Namespaces,
    /// The pty's master.
    Terminal(OwnedFd),
    /// All is set up; the child waits at the gate.
    Ready,
    /// The descriptor on which the kernel asks about the child's calls; [`Report`]s end here until [`listener_is`] was said.
    Listener(OwnedFd),
    Failed(Failure),
    /// The socket closed by execve, or with the child.
    End,
}

/// One message of the report socket; `None` when there is none yet (the socket is read without blocking). A failure is left
/// there: whoever comes after us, should we die of something else before it is told, reads it again.
pub fn next_report(socket: BorrowedFd<'_>) -> io::Result<Option<Report>> {
    let mut buffer = [0; 16];
    let reset = |err: &io::Error| err.raw_os_error() == Some(libc::ECONNRESET);
    let mut receive = || socket::receive(socket, &mut buffer, libc::MSG_DONTWAIT | libc::MSG_PEEK);
    // A reset says that the child died before it read what we had sent; its last words lie behind it.
    let (count, fds) = match receive().or_else(|err| if reset(&err) { receive() } else { Err(err) }) {
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(err) if reset(&err) => return Ok(Some(Report::End)),
        other => other?,
    };
    let take = || socket::receive(socket, &mut [0; 16], libc::MSG_DONTWAIT).map(drop);
    let report = match (&buffer[..count], fds.into_iter().next()) {
        (b"T", Some(master)) => take().map(|()| Report::Terminal(master))?,
        // Left there as a failure is, until it has been sent on.
        (b"L", Some(listener)) => Report::Listener(listener),
        (b"N", _) => take().map(|()| Report::Namespaces)?,
        (b"R", _) => take().map(|()| Report::Ready)?,
        (b"", _) => Report::End,
        (bytes, _) => match Failure::from_bytes(bytes) {
            Some(failure) => Report::Failed(failure),
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, "init said something unknown")),
        },
    };
    Ok(Some(report))
}

/// What became of the listener that was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listens {
    /// The child may go on.
    Delivered,
    Nowhere,
}

/// Takes the report of a listener, after it has been sent on or could not be.
pub fn listener_is(socket: BorrowedFd<'_>, listens: Listens) -> io::Result<()> {
    socket::receive(socket, &mut [0; 16], libc::MSG_DONTWAIT)?;
    match listens {
        Listens::Delivered => socket::send(socket, b"A", &[], 0).map(drop),
        Listens::Nowhere => Ok(()),
    }
}

/// The sentence for a failure of a container's first process.
pub fn container_error(plan: &Plan, failure: Failure) -> Error {
    let index = usize::from(failure.index);
    let quoted = |text: Option<&Text>| text.map(|text| text.lossy().into_owned()).unwrap_or_default();
    let doing = match failure.step {
        Step::JoinCgroup => "join the cgroup".into(),
        Step::Sysctl => match plan.sysctl.get(index) {
            Some((file, value)) => format!("write {:?} to {}", value.lossy(), file.lossy()),
            None => "write a sysctl".into(),
        },
        Step::DomainName => "set domainname".into(),
        Step::OpenRootfs => format!("open the rootfs {}", plan.rootfs.lossy()),
        Step::Idmap => plan.mounts.get(index).map_or_else(|| "map IDs".into(), describe_idmap),
        Step::Mount => plan.mounts.get(index).map_or_else(|| "mount".into(), describe_mount),
        Step::Device => format!("make the device {}", plan.devices.get(index).map(path_of).unwrap_or_default()),
        Step::Link => format!("make the link /{}", quoted(plan.links.get(index).map(|link| &link.at.name))),
        Step::MaskedPath => format!("mask {}", quoted(plan.masked.get(index))),
        Step::Sealed => format!("make {} read-only", quoted(plan.sealed.get(index).map(|place| &place.path))),
        Step::ReadOnlyPath => format!("make {} read-only", quoted(plan.read_only.get(index))),
        _ => return process_error(&plan.process, failure),
    };
    let err = finish(doing, failure);
    let mount = plan.mounts.get(index).filter(|_| failure.step == Step::Mount);
    let in_procfs = mount.is_some_and(|mount| Path::new(&*mount.at.path.lossy()).starts_with("/proc"));
    match (failure.errno, mount.and_then(refusal), mount.map(|mount| &mount.source)) {
        (libc::EPERM, _, Some(Source::Bind { .. })) if in_procfs => {
            err.hint("nothing but procfs itself is mounted in /proc")
        }
        (libc::EPERM, Some(hint), _) => err.hint(hint),
        (libc::EINVAL, _, Some(Source::New { kind, settings })) => match words(settings) {
            words if words.is_empty() => err,
            words => err.hint(format!("{} does not take one of its options: {words}", kind.lossy())),
        },
        (libc::EINVAL, _, Some(Source::Bind { recursive: false, .. })) => {
            err.hint("in a user namespace what the host has mounted below cannot be left out: bind it with rbind")
        }
        _ => err,
    }
}

/// Options of a filesystem's own, as mount(8) has them.
fn words(settings: &[(Text, Option<Text>)]) -> String {
    let own = settings.iter().filter(|(key, _)| key.c() != c"source");
    let word = |(key, value): &(Text, Option<Text>)| match value {
        Some(value) => format!("{}={}", key.lossy(), value.lossy()),
        None => key.lossy().into_owned(),
    };
    own.map(word).collect::<Vec<_>>().join(",")
}

/// Why the kernel does not let everybody's root mount this.
fn refusal(mount: &Mount) -> Option<&'static str> {
    let Source::New { kind, .. } = &mount.source else {
        let locked = mount.clear | mount.clear_below != 0;
        return locked.then_some("in a user namespace what the host has mounted ro, nosuid, nodev or noexec stays so");
    };
    match &*kind.lossy() {
        "sysfs" => Some(
            "in a user namespace it needs a network namespace of its own; or bind the host's /sys, as `podrun oci spec --rootless` does",
        ),
        "proc" => Some(
            "in a user namespace it needs a PID namespace of its own, and a host whose /proc has nothing mounted over it; or bind the host's",
        ),
        _ => None,
    }
}

/// The same where hooks of its own may have failed.
pub fn lone_error(plan: &Plan, hooks: &Hooks, failure: Failure) -> Error {
    let failed = hooks::Failed { index: usize::from(failure.index), errno: failure.errno };
    match failure.step {
        Step::CreateContainerHook => hooks::error("createContainer", &hooks.create_container, failed),
        Step::StartContainerHook => hooks::error("startContainer", &hooks.start_container, failed),
        _ => container_error(plan, failure),
    }
}

fn path_of(device: &Device) -> String {
    format!("{}/{}", device.name.parent.lossy().trim_end_matches('/'), device.name.name.lossy())
}

/// The same where the parent has mapped the IDs itself.
pub fn idmap_error(mount: &Mount, err: &io::Error) -> Error {
    let failure = Failure { step: Step::Idmap, index: 0, errno: err.raw_os_error().unwrap_or(libc::EIO) };
    finish(describe_idmap(mount), failure)
}

fn describe_idmap(mount: &Mount) -> String {
    format!("map the IDs of the mount on {}", mount.at.path.lossy())
}

fn describe_mount(mount: &Mount) -> String {
    match &mount.source {
        Source::New { kind, .. } => format!("mount {} on {}", kind.lossy(), mount.at.path.lossy()),
        Source::Bind { path, .. } => format!("bind {} to {}", path.lossy(), mount.at.path.lossy()),
        Source::Inside { path, .. } => {
            format!("bind {}, as earlier mounts have it, to {}", path.lossy(), mount.at.path.lossy())
        }
        Source::CopyUp { .. } => format!("mount tmpfs on {} with what it covers", mount.at.path.lossy()),
        Source::Mounted { .. } => format!("remount {}", mount.at.path.lossy()),
        Source::PodMemory => format!("mount the pod's shared memory on {}", mount.at.path.lossy()),
    }
}

/// The sentence for a failure of any program, exec'd ones included.
pub fn process_error(process: &Process, failure: Failure) -> Error {
    let doing = match failure.step {
        Step::JoinCgroup => "join the cgroup".into(),
        Step::JoinNamespaces => "join the namespaces".into(),
        Step::Parent => "hear of the parent".into(),
        Step::UserNamespace => "become root of the user namespace".into(),
        Step::Clocks => "make a time namespace for linux.timeOffsets".into(),
        Step::Hostname => "set the hostname".into(),
        Step::Loopback => "bring the loopback up".into(),
        Step::NewCgroupNamespace => "make a cgroup namespace".into(),
        Step::OomScoreAdj => "set oom_score_adj".into(),
        Step::AppArmor => format!("set process.apparmorProfile to {}", label(process.labels.apparmor.as_ref())),
        Step::Selinux => format!("set process.selinuxLabel to {}", label(process.labels.selinux.as_ref())),
        Step::Affinity => "set process.execCPUAffinity.final".into(),
        Step::Keyring => "make a session keyring".into(),
        Step::MemoryPolicy => "set linux.memoryPolicy".into(),
        Step::Personality => "set linux.personality".into(),
        Step::IoPriority => "set process.ioPriority".into(),
        Step::Scheduler => "set process.scheduler".into(),
        Step::HostPropagation => "set the propagation of /".into(),
        Step::Terminal => "open a terminal on /dev/pts".into(),
        Step::WorkingDirectory => format!("enter the working directory {}", process.cwd.path.lossy()),
        Step::ReadOnlyRootfs => "make the rootfs read-only".into(),
        Step::PivotRoot => "pivot_root".into(),
        Step::Gate => "wait for the start".into(),
        Step::Rlimit => describe_rlimit(process, failure.index),
        Step::Session => "start a session".into(),
        Step::Stdio => "set up stdin, stdout and stderr".into(),
        Step::BoundingSet => "drop the bounding set".into(),
        Step::Groups => format!("set the groups {} {:?}", process.gid, process.groups),
        Step::User => format!("become user {}", process.uid),
        Step::Capabilities => "set the capabilities".into(),
        Step::NoNewPrivileges => "set no_new_privs".into(),
        Step::Seccomp => "load the seccomp filter".into(),
        Step::Listener => "hand the seccomp listener over".into(),
        Step::CloseFds => "close descriptors".into(),
        Step::Exec => return exec_error(process, failure),
        _ => format!("do step {:?}", failure.step),
    };
    finish(doing, failure)
}

/// The same where nobody knows any more what was to be executed.
pub fn error_without_plan(failure: Failure) -> Error {
    let err = finish("execute the program".into(), failure);
    match (failure.step, failure.errno) {
        (Step::Exec, libc::ENOENT | libc::ENOTDIR) => err.kind(Kind::ProgramNotFound),
        (Step::Exec, _) => err.kind(Kind::ProgramNotExecutable),
        _ => err,
    }
}

fn label(text: Option<&Text>) -> String {
    let text = text.map(|text| text.lossy().into_owned()).unwrap_or_default();
    text.trim_start_matches("exec ").to_owned()
}

fn describe_rlimit(process: &Process, index: u16) -> String {
    match process.rlimits.get(usize::from(index)) {
        Some(limit) => {
            format!("set {} to {} (hard {})", crate::oci::rlimit_name(limit.resource), limit.soft, limit.hard)
        }
        None => "set an rlimit".into(),
    }
}

fn exec_error(process: &Process, failure: Failure) -> Error {
    let program = process.argv.first().map(|text| text.lossy().into_owned()).unwrap_or_default();
    let err = finish(format!("execute {program}"), failure);
    match failure.errno {
        libc::ENOENT | libc::ENOTDIR => {
            err.kind(Kind::ProgramNotFound).hint("not in the container's PATH, or its interpreter is missing")
        }
        _ => err.kind(Kind::ProgramNotExecutable),
    }
}

fn finish(doing: String, failure: Failure) -> Error {
    let err = Err::<(), _>(io::Error::from_raw_os_error(failure.errno)).doing(|| doing).unwrap_err();
    match (failure.step, failure.errno) {
        (Step::Rlimit, libc::EPERM) => err.hint("above the host's hard limit; podrun lacks CAP_SYS_RESOURCE"),
        (Step::AppArmor, libc::ENOENT) => err.hint("no such profile is loaded"),
        (Step::Selinux, libc::EINVAL) => err.hint("the policy has no such context"),
        (Step::Affinity, libc::EINVAL) => err.hint("the container may use none of these CPUs"),
        (Step::MemoryPolicy, libc::EINVAL) => err.hint("this host lacks the mode, or the container may use none of these nodes"),
        (Step::Keyring, libc::EDQUOT) => err.hint("kernel.keys.root_maxkeys and kernel.keys.maxkeys are the limits"),
        (Step::IoPriority, libc::EPERM) => err.hint("IOPRIO_CLASS_RT needs CAP_SYS_NICE on the host"),
        (Step::Scheduler, libc::EPERM) => err.hint(
            "it needs CAP_SYS_NICE on the host; SCHED_DEADLINE also every CPU, and a real-time policy time of the cgroup's",
        ),
        (Step::Scheduler, libc::EBUSY) => err.hint("other deadlines leave too little time"),
        (Step::Scheduler, libc::EOPNOTSUPP) => err.hint("this kernel knows no utilization clamps"),
        (Step::OomScoreAdj, libc::EACCES | libc::EPERM) => err.hint("lowering it needs CAP_SYS_RESOURCE"),
        (Step::Groups, libc::EPERM) => err.hint("a user namespace of one mapped id denies setgroups(2)"),
        (Step::Mount, libc::EPERM) => err.hint("a mount inside /proc is refused, and so is what this host withholds"),
        (Step::Mount | Step::Device, libc::ELOOP) => {
            err.hint("the image has a symbolic link there, which is not followed")
        }
        (Step::Idmap, libc::EPERM) => {
            err.hint("in a user namespace what an earlier mount has of the host keeps its IDs: map them there")
        }
        (Step::Idmap, libc::EINVAL) => err.hint("its filesystem cannot have IDs mapped"),
        (Step::Idmap, libc::ENOSYS) => err.hint("it needs Linux 5.12"),
        (Step::Terminal, libc::ENOENT) => err.hint("a terminal needs a devpts mount on /dev/pts"),
        (Step::WorkingDirectory, libc::ELOOP | libc::EXDEV) => err.hint("it leads out of the container"),
        (Step::UserNamespace, libc::EINVAL) => err.hint("its mappings have no id 0"),
        (Step::Capabilities, libc::EPERM) => err.hint("this host withholds one of them"),
        _ => err,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_travels_as_eight_bytes() {
        let failure = Failure { step: Step::Mount, index: 517, errno: libc::EPERM };
        assert_eq!(Failure::from_bytes(&failure.to_bytes()), Some(failure));
        assert_eq!(Failure::from_bytes(b"F\xffaaaaaa"), None);
        for byte in 0..=u8::MAX {
            assert!(Step::from_byte(byte).is_none_or(|step| step as u8 == byte));
        }
        assert_eq!(Step::from_byte(Step::Exec as u8), Some(Step::Exec));
    }
}
