//! namespaces(7): a machine of its own for one test, so that tests run side by side and never touch the real one.
//!
//! One thread lives in the new namespaces and starts every command there; a probe is PID 1 of the new PID namespace,
//! so that ending it ends whatever podrun left running.

use crate::binaries::{BASE, PREFIX, copies, faulty_binary, no_fork, podrun_binary};
use crate::bundle::{Bundle, Rootfs};
use crate::command::{Command, Outcome};
use crate::leftovers::{Leftovers, Snapshot};
use crate::words;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Which cgroup hierarchies the fake host has mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cgroups {
    AsTheyAre,
    OnlyVersion2,
}

/// See the module.
#[derive(Debug)]
pub struct Host {
    dir: PathBuf,
    podrun: RefCell<PathBuf>,
    probe: PathBuf,
    worker: Worker,
    anchor: Child,
    before: Option<Snapshot>,
    counter: Cell<u32>,
    allowed: Cell<bool>,
}

/// The thread that lives on the fake host.
struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Worker")
    }
}

impl Worker {
    fn start() -> Self {
        let (jobs, queue) = channel::<Job>();
        let thread = std::thread::spawn(move || queue.into_iter().for_each(|job| job()));
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    #[track_caller]
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, answer) = channel();
        let jobs = self.jobs.as_ref().expect("the thread lives as long as its host");
        let _ = jobs.send(Box::new(move || drop(reply.send(job()))));
        answer.recv().expect("the job did not panic on the fake host")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Host {
    /// A host with the cgroup hierarchies of the real one.
    #[expect(clippy::new_without_default, reason = "a host is made, not assumed")]
    pub fn new() -> Self {
        Self::with(Cgroups::AsTheyAre)
    }

    /// A host that sees cgroup v2 only, at /sys/fs/cgroup.
    pub fn on_cgroup2() -> Self {
        Self::with(Cgroups::OnlyVersion2)
    }

    /// A host whose podrun can be told to die at a named point.
    pub fn with_faults() -> Self {
        let host = Self::new();
        host.install(faulty_binary());
        host
    }

    /// Another build in the place of podrun, from the next command on.
    pub fn install(&self, podrun: PathBuf) {
        self.podrun.replace(podrun);
    }

    /// Panics when anything of podrun's is there; asks until nothing is, for two seconds.
    #[track_caller]
    pub fn expect_nothing_left(&self, after: &str) {
        let left = self.before.as_ref().expect("taken in new").compare(self).0;
        assert!(left.is_empty(), "left on the host after {after}:\n  {}", left.join("\n  "));
    }

    fn with(cgroups: Cgroups) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the system tests make namespaces: run them as root");
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let dir = new_directory();
        let probe = dir.join("probe");
        fs::hard_link(copies().join("probe"), &probe).expect("link the probe");
        let worker = Worker::start();
        let program = probe.clone();
        let held = no_fork();
        let anchor = worker.run(move || become_a_host(cgroups, &program));
        drop(held);
        let mut host = Self {
            podrun: RefCell::new(podrun_binary()),
            probe,
            worker,
            anchor,
            before: None,
            dir,
            counter: Cell::new(0),
            allowed: Cell::new(false),
        };
        wait_until_ready(&mut host.anchor);
        host.before = Some(Snapshot::take(&host));
        host
    }

    /// `podrun <line>`, waited for.
    #[track_caller]
    pub fn podrun(&self, line: impl AsRef<str>) -> Outcome {
        self.command(line).run()
    }

    /// `podrun <line>`, to be changed before it runs.
    pub fn command(&self, line: impl AsRef<str>) -> Command<'_> {
        Command::new(self, self.podrun_path().into()).args(words(line.as_ref()))
    }

    /// Another program of the host: `ip`, `nft`, the probe.
    pub fn program(&self, line: impl AsRef<str>) -> Command<'_> {
        let mut words = words(line.as_ref());
        let program = words.remove(0);
        Command::new(self, program.into()).args(words)
    }

    /// Makes a pod.
    #[track_caller]
    pub fn pod(&self, name: &str) {
        self.podrun(format!("create pod {name}")).ok();
    }

    /// `podrun run NAME FLAGS --rootfs <a fresh one> -- COMMAND`.
    #[track_caller]
    pub fn run(&self, name: &str, flags: &str, command: &str) -> Outcome {
        self.running(name, flags, command).run()
    }

    /// The same, to be changed before it runs.
    pub fn running(&self, name: &str, flags: &str, command: &str) -> Command<'_> {
        self.command(format!("run {name} {flags} --rootfs {} -- {command}", self.rootfs()))
    }

    /// `podrun run -d`, which has to succeed.
    #[track_caller]
    pub fn start(&self, name: &str, flags: &str, command: &str) {
        self.run(name, &format!("-d {flags}"), command).ok();
    }

    /// `podrun inspect WHAT`.
    #[track_caller]
    pub fn inspect(&self, what: &str) -> Value {
        self.podrun(format!("inspect {what}")).json()
    }

    /// One container of `podrun inspect POD`; null when there is none.
    #[track_caller]
    pub fn container(&self, pod: &str, container: &str) -> Value {
        let all = self.inspect(pod)["containers"].clone();
        let mut all = all.as_array().into_iter().flatten();
        all.find(|one| one["name"] == container).cloned().unwrap_or_default()
    }

    /// Waits until a container is in this state.
    #[track_caller]
    pub fn until(&self, pod: &str, container: &str, state: &str) -> Value {
        let what = format!("{pod}/{container} {state}");
        crate::eventually(&what, std::time::Duration::from_secs(20), || {
            Some(self.container(pod, container)).filter(|one| one["state"] == state)
        })
    }

    /// Does something as a thread of the fake host: its network, its mounts.
    #[track_caller]
    pub fn inside<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.worker.run(job)
    }

    /// kill(2), with a pid as the fake host counts them: those of `inspect`.
    #[track_caller]
    pub fn kill(&self, pid: &Value, signal: i32) {
        let pid = pid.as_i64().filter(|&pid| pid > 1).unwrap_or_else(|| panic!("not a pid to kill: {pid}"));
        Command::new(self, self.probe.clone().into()).args(["kill", &pid.to_string(), &signal.to_string()]).run().ok();
    }

    /// Whether a process of the fake host lives: it is there, and no zombie.
    pub fn lives(&self, pid: &Value) -> bool {
        let Some(pid) = pid.as_i64() else { return false };
        fs::read_to_string(self.outside(format!("/proc/{pid}/stat")))
            .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("").starts_with(['Z', 'X']))
    }

    /// Where a path of the fake host is for the test program.
    pub fn outside(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        Path::new("/proc").join(self.anchor.id().to_string()).join("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file of the fake host.
    #[track_caller]
    pub fn read(&self, path: impl AsRef<Path>) -> String {
        let path = path.as_ref();
        fs::read_to_string(self.outside(path)).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
    }

    /// A tmpfs of this size on the fake host; gone with it.
    pub fn small_disk(&self, at: &Path, options: &'static str) {
        let at = at.to_owned();
        self.inside(move || {
            fs::create_dir_all(&at).expect("make a mount point");
            mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("mount a tmpfs");
        });
        self.before.as_ref().expect("taken in new").expect_the_mounts_of(self);
    }

    /// Shows the fake host another file in the place of its own.
    pub fn replace_file(&self, path: &'static str, content: &str) {
        let with = self.fresh("file");
        fs::write(&with, content).expect("write a file");
        self.replace_by(path, &with);
    }

    /// The same by a file that is there.
    pub fn replace_by(&self, path: &'static str, with: &Path) {
        let with = with.to_owned();
        self.inside(move || {
            mount(Some(&with), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind a file over another");
        });
        self.before.as_ref().expect("taken in new").expect_the_mounts_of(self);
    }

    /// Shows the fake host a file at another place, whoever may reach it at its own.
    pub fn bind(&self, from: &Path, at: &Path) {
        fs::write(at, "").expect("make a mount point");
        let (from, at) = (from.to_owned(), at.to_owned());
        self.inside(move || {
            mount(Some(&from), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind a file");
        });
        self.before.as_ref().expect("taken in new").expect_the_mounts_of(self);
    }

    /// A wire between two fake hosts: `ours` is its end here, `theirs` the one there.
    #[track_caller]
    pub fn wire(&self, ours: &str, other: &Host, theirs: &str) {
        let [here, there] = [self, other].map(|host| host.anchor.id().to_string());
        let made = std::process::Command::new("nsenter")
            .args(["--net", "--target", &here, "ip", "link", "add", "name", ours])
            .args(["type", "veth", "peer", "name", theirs, "netns", &there])
            .status();
        assert!(made.expect("run nsenter").success(), "no wire from {ours} to {theirs}");
    }

    /// A path that no other call gets, in this host's own directory.
    pub fn fresh(&self, what: &str) -> PathBuf {
        let n = self.counter.get();
        self.counter.set(n + 1);
        self.dir.join(format!("{what}-{n}"))
    }

    /// A new root filesystem with the probe and busybox.
    pub fn rootfs(&self) -> Rootfs {
        Rootfs::new(self.fresh("rootfs"), &self.probe)
    }

    /// A new bundle: what `runc spec` writes, changed, and a root filesystem.
    pub fn bundle(&self, change: impl FnOnce(&mut Value)) -> Bundle {
        Bundle::new(&self.fresh("bundle"), &self.probe, change)
    }

    pub fn probe(&self) -> &Path {
        &self.probe
    }

    pub fn podrun_path(&self) -> PathBuf {
        self.podrun.borrow().clone()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    pub fn run_root(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// What podrun calls its directory in each cgroup hierarchy, for this run-root.
    pub fn cgroup_name(&self) -> String {
        cgroup_name(&self.run_root())
    }

    pub(crate) fn anchor_pid(&self) -> u32 {
        self.anchor.id()
    }

    pub(crate) fn environment(&self) -> Vec<(OsString, OsString)> {
        let plain = |text: &str| OsString::from(text);
        vec![
            (plain("PATH"), plain("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
            (plain("HOME"), plain("/root")),
            (plain("PODRUN_ROOT"), self.root().into()),
            (plain("PODRUN_RUN_ROOT"), self.run_root().into()),
        ]
    }

    /// All processes of the fake host, one a line, as far as they can be read.
    pub fn processes(&self) -> String {
        crate::leftovers::processes(&self.outside("/proc")).join("\n")
    }

    /// What monitors wrote down when they could not go on.
    fn last_words(&self) -> String {
        let pods = fs::read_dir(self.outside(self.run_root().join("pods"))).into_iter().flatten().flatten();
        let words = pods.filter_map(|pod| fs::read_to_string(pod.path().join("monitor.error")).ok());
        words.map(|words| format!("a monitor's last words: {words}")).collect::<Vec<_>>().join("\n")
    }

    /// For a test of the harness itself, and for one that leaves something on purpose: what is there is removed and
    /// returned, and does not fail the test.
    pub fn leftovers(&self) -> Leftovers {
        self.allowed.set(true);
        self.delete_everything();
        self.before.as_ref().expect("taken in new").compare(self)
    }

    /// For a test that changes the fake host by its own hands: what is there at the end says nothing of podrun.
    pub fn leave_a_mess(&self) {
        self.allowed.set(true);
    }

    fn delete_everything(&self) -> Vec<String> {
        let names = fs::read_dir(self.outside(self.run_root().join("names"))).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let mut said = Vec::new();
        for name in names.filter(|name| name.contains('_')) {
            let (namespace, pod) = name.split_once('_').expect("it has one");
            let gone = self.podrun(format!("-n {namespace} delete pod {pod} --force"));
            said.extend((gone.code() != 0).then(|| format!("delete pod {pod} --force: {}", gone.errors())));
        }
        let pruned = self.podrun("prune --force");
        said.extend((pruned.code() != 0).then(|| format!("prune --force: {}", pruned.errors())));
        said
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Some(before) = self.before.take() else {
            let _ = self.anchor.kill();
            return;
        };
        let panicking = std::thread::panicking();
        if panicking {
            let _ = writeln!(std::io::stderr(), "{}", self.last_words());
        }
        // A second panic would abort the whole test program, and with it the tests beside this one.
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut found = self.delete_everything();
            if !self.allowed.get() {
                found.extend(before.compare(self).0);
            }
            found
        }));
        let found = found.unwrap_or_else(|_| vec!["looking for leftovers failed".to_owned()]);
        let _ = self.anchor.kill();
        let _ = self.anchor.wait();
        remove_cgroups(&self.run_root());
        let _ = fs::remove_dir_all(&self.dir);
        if found.is_empty() || self.allowed.get() {
            return;
        }
        let found = format!("left on the host after delete and prune:\n  {}", found.join("\n  "));
        match panicking {
            true => drop(writeln!(std::io::stderr(), "{found}")),
            false => panic!("{found}"),
        }
    }
}

/// What the worker does first. The anchor is the first process of the new PID namespace, and so its PID 1.
fn become_a_host(cgroups: Cgroups, probe: &Path) -> Child {
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID;
    unshare(all).expect("unshare namespaces");
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("make the mounts private");
    // As systemd has them: what leaks out of a container is seen here.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SHARED, nothing).expect("make the mounts shared");
    for dir in OWN {
        mount(Some("tmpfs"), *dir, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).expect("mount a tmpfs");
    }
    if cgroups == Cgroups::OnlyVersion2 {
        umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH).expect("unmount the cgroup hierarchies");
        mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), nothing).expect("mount cgroup2");
    }
    nix::unistd::sethostname("fakehost").expect("set the hostname");
    std::process::Command::new(probe)
        .arg("anchor")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the anchor")
}

/// Directories of the real host that the fake one has empty ones for: what podrun writes there, it should not.
pub(crate) const OWN: &[&str] = &["/run", "/var/log", "/var/lib/misc"];

fn wait_until_ready(anchor: &mut Child) {
    let mut line = String::new();
    let stdout = anchor.stdout.as_mut().expect("stdout is a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("read from the anchor");
    assert_eq!(line, "ready\n", "the anchor of the fake host did not come up");
}

fn new_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = Path::new(BASE).join(format!("{PREFIX}{}-{n}", std::process::id()));
    fs::DirBuilder::new().mode(0o755).create(&dir).expect("make a directory on tmpfs");
    dir
}

/// Removes what an interrupted test program left: its processes went with it, files and cgroups did not.
fn sweep() {
    for entry in fs::read_dir(BASE).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !owner.is_empty() && !Path::new("/proc").join(owner).exists()) {
            remove_cgroups(&entry.path().join("run"));
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The directory of this run-root under each hierarchy, as design.md names it: FNV-1a of the path, folded to 32 bits.
pub(crate) fn cgroup_name(run_root: &Path) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in run_root.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("podrun-{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

/// Every cgroup directory of this run-root, in whatever hierarchy is mounted: the pods', that of containers in no pod, and
/// whatever else begins with that name.
pub(crate) fn cgroups(run_root: &Path) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let name = cgroup_name(run_root);
    let ours = |dir: &PathBuf| {
        let rest = dir.file_name().and_then(|file| file.to_str()?.strip_prefix(name.as_str()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    below(top).chain(below(top).flat_map(|dir| below(&dir).collect::<Vec<_>>())).filter(ours).collect()
}

fn remove_cgroups(run_root: &Path) {
    fn remove(dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(dir);
    }
    for _ in 0..20 {
        let left = cgroups(run_root);
        left.iter().for_each(|dir| remove(dir));
        if left.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
