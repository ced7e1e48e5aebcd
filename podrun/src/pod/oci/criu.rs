//! checkpoint and restore: a container's processes as files and back, by criu(8), found by PATH.
//!
//! What criu cannot know is podrun's to say. The container's stdio is its caller's, at both times: `descriptors.json` beside
//! the images keeps under which keys. Namespaces that were joined by path stay their owner's. The cgroup is made from the
//! bundle as at a creation, and criu begins in it.

#![forbid(unsafe_code)]

use super::birth::{self, Made};
use super::record::{Container, Status};
use super::verbs::{self, Manner};
use crate::cgroup::{Cgroup, Programs, Tasks};
use crate::container::alone::{self, Joined};
use crate::container::init::open_rootfs;
use crate::container::plan::{Plan, Stdio};
use crate::error::{Doing, Error, Kind, Result};
use crate::store::{self, ProcessRecord};
use crate::sys::clone::{self, Child, Clone, Exit, clone3, exit};
use crate::sys::{cred, fd, mount, ns};
use crate::text::Text;
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a caller says of both.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Where the images are.
    pub images: PathBuf,
    /// Where criu's log goes.
    pub work: PathBuf,
    /// criu's own flags, passed on.
    pub flags: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    Gone,
    Running,
}

/// The key of each of stdin, stdout and stderr that is not the container's own.
type Keys = [Option<String>; 3];

/// Where the caller's stdin, stdout and stderr are for criu.
const STDIO_FROM: i32 = 10;
/// The namespaces that criu knows as somebody else's.
const EXTERNAL: [i32; 2] = [libc::CLONE_NEWNET, libc::CLONE_NEWPID];

/// Writes the images; afterwards the container is gone, unless told otherwise. What went wrong with `poststop` hooks is for
/// the log.
pub fn checkpoint(root: &Path, id: &str, wish: &Wish, afterwards: Afterwards) -> Result<Vec<String>> {
    let container = Container::find(root, id)?;
    let doing = || format!("checkpoint {id}");
    let locked = container.dir.lock()?;
    let status = container.status();
    let (Status::Running, Some(process), Some(held)) = (status, container.record.process, container.process()) else {
        return Err(Error::new(Kind::NotNow, doing(), format!("container not running: it is {}", status.word())));
    };
    check(&container.plan()?, &container.record.alone.joined).map_err(|err| err.within(doing()))?;
    std::fs::create_dir_all(&wish.images).doing(|| format!("make {}", wish.images.display()))?;
    let keys = keys(process.pid)?;
    store::write(&wish.images.join(DESCRIPTORS), &keys)?;
    let mut criu = command("dump", wish);
    criu.arg("--tree").arg(process.pid.to_string()).arg("--root").arg(&container.record.rootfs);
    for key in keys.iter().flatten().filter(|key| key.starts_with("file[")) {
        criu.args(["--external", key]);
    }
    for (kind, file) in external(&container.record.alone.joined) {
        let of = ns::of(process.pid, file).and_then(|namespace| fd::fstat(namespace.as_fd()));
        let inode = of.doing(|| format!("look at its {} namespace", alone::word(kind)))?.st_ino;
        criu.args(["--external", &format!("{file}[{inode}]:{}", key_of(file))]);
    }
    if afterwards == Afterwards::Running {
        criu.arg("--leave-running");
    }
    let status = criu.status().map_err(no_criu)?;
    judge(Exit::Code(status.code().unwrap_or(1)), "dump", wish).map_err(|err| err.within(doing()))?;
    drop((locked, held));
    match afterwards {
        Afterwards::Running => Ok(Vec::new()),
        Afterwards::Gone => verbs::delete(root, id, Manner::Force),
    }
}

/// A new container of these images, running.
pub fn restore(root: &Path, id: &str, of: &birth::Wish, wish: &Wish) -> Result<Made> {
    let path = wish.images.join(DESCRIPTORS);
    let keys: Keys = store::read(&path).map_err(|err| err.hint("`podrun oci checkpoint` writes it"))?;
    birth::create_by(root, id, of, |container, plan, cgroup| {
        let Some(cgroup) = cgroup else {
            let cause = "criu moves no processes into a scope of systemd's";
            return Err(Error::new(Kind::Unsupported, "use --systemd-cgroup", cause));
        };
        check(plan, &container.record.alone.joined)?;
        let born = revive(container, plan, &cgroup, &keys, wish)?;
        let known = settle(container, plan, &cgroup, &born, of);
        if known.is_err() {
            let _ = clone::pidfd_send_signal(born.pidfd.as_fd(), libc::SIGKILL);
            let _ = clone::wait(born.pidfd.as_fd());
        }
        known.map(|()| (born.pidfd, None))
    })
}

const DESCRIPTORS: &str = "descriptors.json";

/// What neither criu nor podrun can carry over.
fn check(plan: &Plan, joined: &[Joined]) -> Result<()> {
    if plan.process.stdio != Stdio::Pipes {
        let cause = "the other end of its terminal is not the container's";
        return Err(Error::new(Kind::Unsupported, "read process.terminal", cause));
    }
    match joined.iter().find(|one| !EXTERNAL.contains(&one.kind)) {
        Some(one) => Err(Error::new(
            Kind::Unsupported,
            format!("read {}", one.place),
            "criu knows only a network or a PID namespace as somebody else's",
        )),
        None => Ok(()),
    }
}

fn external(joined: &[Joined]) -> impl Iterator<Item = (i32, &'static str)> {
    EXTERNAL.into_iter().filter(|kind| joined.iter().any(|one| one.kind == *kind)).map(|kind| (kind, alone::file(kind)))
}

fn key_of(file: &str) -> String {
    format!("podrun-{file}")
}

fn command(verb: &'static str, wish: &Wish) -> Command {
    let mut criu = Command::new("criu");
    criu.args([verb, "--images-dir"]).arg(&wish.images).arg("--work-dir").arg(&wish.work);
    criu.args(["--log-file", &format!("{verb}.log"), "-v2"]);
    // The sources of binds are where they were; and cgroups are podrun's own to make.
    criu.args(["--external", "mnt[]:ms", "--manage-cgroups=ignore"]).args(&wish.flags);
    criu
}

fn no_criu(err: std::io::Error) -> Error {
    let missing = err.kind() == std::io::ErrorKind::NotFound;
    let failed = Err::<(), _>(err).doing(|| "run criu".into()).unwrap_err();
    if missing { failed.hint("there is no criu on PATH; Debian has it in the package of that name") } else { failed }
}

/// criu says why in its log.
fn judge(ended: Exit, verb: &str, wish: &Wish) -> Result<()> {
    if ended == Exit::Code(0) {
        return Ok(());
    }
    let log = wish.work.join(format!("{verb}.log"));
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let said = text.lines().find_map(|line| line.split_once("Error (").map(|(_, said)| format!("({said}")));
    let cause = said.unwrap_or_else(|| format!("it ended with exit code {}", ended.code()));
    Err(Error::new(Kind::Kernel, format!("criu {verb}"), cause)
        .hint(format!("the whole is in {}; `criu check` says whether it can work on this kernel", log.display())))
}

/// What the first process has on 0 to 2 from outside of its own mounts: a pipe, or a file.
fn keys(pid: i32) -> Result<Keys> {
    let doing = || "look at the container's stdio".to_owned();
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).doing(doing)?;
    let mut keys = Keys::default();
    for (number, key) in keys.iter_mut().enumerate() {
        let Ok(link) = std::fs::read_link(format!("/proc/{pid}/fd/{number}")) else { continue };
        let link = link.to_string_lossy();
        if link.starts_with("pipe:[") {
            *key = Some(link.into_owned());
            continue;
        }
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).doing(doing)?;
        let Some(mount) = mount_of(&info).filter(|mount| !has_mount(&mounts, *mount)) else { continue };
        let file = std::fs::metadata(format!("/proc/{pid}/fd/{number}")).doing(doing)?;
        let inode = std::os::unix::fs::MetadataExt::ino(&file);
        *key = Some(format!("file[{mount:x}:{inode:x}]"));
    }
    Ok(keys)
}

/// proc_pid_fdinfo(5).
fn mount_of(info: &str) -> Option<u32> {
    info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

fn has_mount(mountinfo: &str, id: u32) -> bool {
    mountinfo.lines().any(|line| line.split(' ').next().and_then(|word| word.parse().ok()) == Some(id))
}

/// Runs criu in the container's cgroup, and in a mount namespace where the rootfs is a mount point. The first process is a
/// child of ours then.
fn revive(container: &Container, plan: &Plan, cgroup: &Cgroup, keys: &Keys, wish: &Wish) -> Result<Child> {
    let pid_file = container.dir.0.join("criu.pid");
    let mut criu = command("restore", wish);
    criu.arg("--root").arg(&container.record.rootfs).arg("--pidfile").arg(&pid_file);
    criu.args(["--restore-detached", "--restore-sibling"]);
    for (key, number) in inherited(keys) {
        criu.args(["--inherit-fd", &format!("fd[{number}]:{key}")]);
    }
    let mut given: Vec<(OwnedFd, i32)> = Vec::new();
    let (own_in, own_out, own_err) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for (own, number) in [own_in.as_fd(), own_out.as_fd(), own_err.as_fd()].into_iter().zip(STDIO_FROM..) {
        given.push((fd::dup_above(own, 64).doing(|| "copy stdin, stdout and stderr".into())?, number));
    }
    for ((kind, file), number) in external(&container.record.alone.joined).zip(STDIO_FROM + 3..) {
        let joined = container.record.alone.joined.iter().filter(|one| one.kind == kind);
        for (namespace, _) in birth::open_namespaces(joined)? {
            criu.args(["--inherit-fd", &format!("fd[{number}]:{}", key_of(file))]);
            given.push((fd::dup_above(namespace.as_fd(), 64).doing(|| "hold a namespace".into())?, number));
        }
    }
    let tasks = cgroup.tasks()?;
    let within = Clone { namespaces: libc::CLONE_NEWNS, cgroup: cgroup.unified_fd() };
    let child = clone3(&within, || become_criu(&mut criu, &plan.rootfs, &tasks, &given));
    let child = child.doing(|| "clone criu".into())?;
    let ended = clone::wait(child.pidfd.as_fd()).doing(|| "wait for criu".into())?;
    if ended == Exit::Code(NO_CRIU) {
        return Err(no_criu(std::io::ErrorKind::NotFound.into()));
    }
    judge(ended, "restore", wish)?;
    let pid = std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
    let pid = pid.ok_or_else(|| Error::new(Kind::Kernel, format!("read {}", pid_file.display()), "no number"))?;
    let _ = std::fs::remove_file(&pid_file);
    let pidfd = clone::pidfd_open(pid).doing(|| "hold the first process".into())?;
    Ok(Child { pid, pidfd })
}

/// Each key once, with the number of the last that has it: where stdin and stdout were one file, what is written matters more.
fn inherited(keys: &Keys) -> Vec<(&str, i32)> {
    let numbered = keys.iter().zip(STDIO_FROM..).filter_map(|(key, number)| Some((key.as_deref()?, number)));
    let all: Vec<(&str, i32)> = numbered.collect();
    let is_last = |(index, (key, _)): &(usize, &(&str, i32))| all[index + 1..].iter().all(|(other, _)| other != key);
    all.iter().enumerate().filter(is_last).map(|(_, one)| *one).collect()
}

/// As a shell has it for a program that is not there.
const NO_CRIU: i32 = 127;

/// A fork of a process with one thread may allocate.
fn become_criu(criu: &mut Command, rootfs: &Text, tasks: &Tasks, given: &[(OwnedFd, i32)]) -> Infallible {
    let ready = || -> std::io::Result<()> {
        tasks.join()?;
        cred::reset_signals();
        mount::mount_flags(c"/", libc::MS_REC | libc::MS_SLAVE)?;
        // As a mount it goes with the namespace.
        drop(open_rootfs(rootfs, None)?);
        given.iter().try_for_each(|(one, number)| fd::dup_to(one.as_fd(), *number))
    };
    let failed = match ready() {
        Ok(()) => criu.exec(),
        Err(err) => err,
    };
    exit(if failed.kind() == std::io::ErrorKind::NotFound { NO_CRIU } else { 126 })
}

/// What a newborn gets that criu does not know of.
fn settle(container: &mut Container, plan: &Plan, cgroup: &Cgroup, born: &Child, of: &birth::Wish) -> Result<()> {
    container.record.process = Some(ProcessRecord::of(born.pid));
    cgroup.guard(&plan.cgroup, &mut Programs::default())?;
    if let Some(resctrl) = &container.record.resctrl {
        let all: Vec<i32> = cgroup.procs().into_iter().map(nix::unistd::Pid::as_raw).collect();
        resctrl.take_in(&all)?;
    }
    store::write(&container.dir.state(), &container.record)?;
    birth::announce(of, born)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_callers_is_told_from_the_containers_own() {
        let info = "pos:\t0\nflags:\t0100002\nmnt_id:\t24\nino:\t4\n";
        assert_eq!((mount_of(info), mount_of("pos:\t0\n")), (Some(24), None));
        let mounts = "105 75 0:21 / / rw - tmpfs tmpfs rw\n124 105 0:42 / /proc rw - proc proc rw\n";
        assert!(has_mount(mounts, 105) && has_mount(mounts, 124) && !has_mount(mounts, 24));
    }

    #[test]
    fn each_key_is_given_once_and_output_goes_before_input() {
        let key = |text: &str| Some(text.to_owned());
        let one = [key("file[18:4]"), key("file[18:4]"), key("pipe:[7]")];
        assert_eq!(inherited(&one), [("file[18:4]", 11), ("pipe:[7]", 12)]);
        assert_eq!(inherited(&[None, key("pipe:[1]"), key("pipe:[1]")]), [("pipe:[1]", 12)]);
        assert!(inherited(&Keys::default()).is_empty());
    }
}
