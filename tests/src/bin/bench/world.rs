//! A machine of its own for the bench: mount, network, PID, UTS and IPC namespaces, so that whatever happens nothing of it
//! runs on or stays behind; and the two views of cgroups in it.
//!
//! ```text
//!   bench ── inside, PID 1: reaps what others leave behind
//!              └── at work: a thread a view, each with mounts of its own, starts all commands
//! ```

#![forbid(unsafe_code)]

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};

/// On tmpfs, and short: a unix socket's path has 108 bytes.
const BASE: &str = "/dev/shm";
const PREFIX: &str = "podrun-bench-";

const CGROUPS: &str = "/sys/fs/cgroup";

/// The words under which the bench starts itself again.
pub(crate) const INSIDE: &str = "--inside";
pub(crate) const AT_WORK: &str = "--at-work";

/// Signals by which a user ends the bench.
fn ending() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
}

/// Runs the bench inside, waits for it, and takes away what no namespace takes with it: cgroups and a directory.
pub(crate) fn outside(words: &[String]) -> io::Result<ExitStatus> {
    // A Ctrl-C ends the bench at work; this process stays to clean up.
    ending().thread_block()?;
    let dir = PathBuf::from(format!("{BASE}/{PREFIX}{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    unshare(CloneFlags::CLONE_NEWPID)?;
    let status = Command::new(std::env::current_exe()?).arg(INSIDE).arg(&dir).args(words).status();
    let cleaned = clean(&dir);
    let status = status?;
    cleaned.map(|()| status)
}

/// The directories of cgroups that this bench's own run-roots and runtimes made; all their processes are dead by now.
fn clean(dir: &Path) -> io::Result<()> {
    let mine: Vec<String> =
        fs::read_to_string(dir.join("cgroups")).unwrap_or_default().lines().map(str::to_owned).collect();
    for name in &mine {
        for hierarchy in hierarchies() {
            remove_cgroup(&hierarchy.join(name));
        }
    }
    fs::remove_dir_all(dir)
}

fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(CGROUPS);
    let below = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(root.clone()).chain(below).collect()
}

fn remove_cgroup(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&child.path());
        }
    }
    // Those that hold a zombie's last moments are empty soon.
    for _ in 0..100 {
        match fs::remove_dir(dir) {
            Err(err) if err.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(10))
            }
            _ => return,
        }
    }
}

/// PID 1 of the bench's own PID namespace. When it ends, all of the namespace ends.
pub(crate) fn inside(words: &[String]) -> io::Result<i32> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    ending().thread_unblock()?;
    let others =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(others)?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), nothing)?;
    for dir in ["/run", "/var/log", "/var/lib/misc", "/var/tmp"] {
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    }
    hide_shared_memory(words.first().ok_or_else(|| io::Error::other("no directory was given"))?)?;
    let worker = Command::new(std::env::current_exe()?).arg(AT_WORK).args(words).spawn()?;
    let worker = Pid::from_raw(i32::try_from(worker.id()).map_err(io::Error::other)?);
    loop {
        waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        match waitpid(None, None)? {
            WaitStatus::Exited(pid, code) if pid == worker => return Ok(code),
            WaitStatus::Signaled(pid, ..) if pid == worker => return Ok(1),
            _ => {}
        }
    }
}

/// A /dev/shm of its own, where podman leaves its locks; only the bench's directory is still the real one.
fn hide_shared_memory(dir: &str) -> io::Result<()> {
    let (nothing, aside) = (None::<&str>, "/run/bench");
    fs::create_dir(aside)?;
    mount(Some(dir), aside, nothing, MsFlags::MS_BIND, nothing)?;
    mount(Some("tmpfs"), BASE, Some("tmpfs"), MsFlags::empty(), nothing)?;
    fs::create_dir(dir)?;
    mount(Some(aside), dir, nothing, MsFlags::MS_MOVE, nothing)?;
    Ok(())
}

/// How cgroups are mounted where a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// As this machine has them.
    Host,
    /// cgroup2 alone, at /sys/fs/cgroup.
    Version2,
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread with mounts of its own. Ends with the process.
#[derive(Debug)]
pub(crate) struct View {
    jobs: Sender<Job>,
}

impl View {
    pub(crate) fn open(cgroups: Cgroups) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        std::thread::spawn(move || queue.into_iter().for_each(|job| job()));
        let view = Self { jobs };
        view.run(move || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
            match cgroups {
                Cgroups::Host => keep_to_hierarchies(),
                Cgroups::Version2 => {
                    umount2(CGROUPS, MntFlags::MNT_DETACH)?;
                    mount(Some("cgroup2"), CGROUPS, Some("cgroup2"), MsFlags::empty(), None::<&str>).map_err(Into::into)
                }
            }
        })?;
        Ok(view)
    }

    /// Does something as the thread of this view.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let (reply, answer) = channel();
        let sent = self.jobs.send(Box::new(move || drop(reply.send(job()))));
        sent.map_err(|_| io::Error::other("the view's thread is gone"))?;
        answer.recv().map_err(io::Error::other)?
    }
}

/// Where version 1's hierarchies lie in a tmpfs of the machine, one of this view's own with the same ones in it: podman makes
/// directories for controllers that this machine does not have, and those would be files of that tmpfs for ever.
fn keep_to_hierarchies() -> io::Result<()> {
    let nothing = None::<&str>;
    let tmpfs = fs::metadata(CGROUPS)?.dev();
    let aside = Path::new("/run/cgroups");
    fs::create_dir(aside)?;
    mount(Some("tmpfs"), aside, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    let mut hierarchies = 0;
    for entry in fs::read_dir(CGROUPS)? {
        let entry = entry?;
        let (here, there) = (entry.path(), aside.join(entry.file_name()));
        if entry.file_type()?.is_symlink() {
            symlink(fs::read_link(here)?, there)?;
        } else if entry.file_type()?.is_dir() && fs::metadata(&here)?.dev() != tmpfs {
            fs::create_dir(&there)?;
            mount(Some(&here), &there, nothing, MsFlags::MS_MOVE, nothing)?;
            hierarchies += 1;
        }
    }
    if hierarchies == 0 {
        // Version 2 alone: nobody can make anything there that is not a cgroup.
        umount2(aside, MntFlags::empty())?;
    } else {
        umount2(CGROUPS, MntFlags::MNT_DETACH)?;
        mount(Some(aside), CGROUPS, nothing, MsFlags::MS_MOVE, nothing)?;
    }
    fs::remove_dir(aside)
}

/// A command that starts with none of the bench's environment.
pub(crate) fn command(argv: &[String]) -> Command {
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", "/root").arg0(&argv[0]);
    command
}
