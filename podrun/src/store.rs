//! Records on disk: what is known of a pod and its containers, one small JSON file each, replaced whole and never edited.
//!
//! ```text
//!   <run-root>/names/<namespace>_<name>   a link to the pod's directory: the reservation of the name
//!   <run-root>/pods/<id>/lock             flock: whoever makes or deletes the pod
//!                        pod.json         PodRecord, written last when the pod is made, never changed
//!                        networks.json    Networks: the pod's interfaces, replaced by connect and disconnect
//!                        monitor.json     Keepers: who serves the pod now
//!                        monitor.sock     the monitor's door
//!                        hosts, hostname, resolv.conf
//!                        containers/<name>.json       ContainerRecord
//!                                   <name>.plan.json  container::plan::Plan
//! ```
//! State is facts and intent, never something on its way: whoever reads it works out the rest from the kernel.

#![forbid(unsafe_code)]

pub mod format;

use crate::container::planning::Host;
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::{ContainerName, NamespaceName, PodId, PodName};
use crate::net::Attachment;
use crate::net::definition::Driver;
use crate::net::names::Names;
use crate::pause;
use crate::roots::Roots;
use crate::spec::{Network, Owners, Policy, SharePid};
use crate::sys::clone::{Exit, pidfd_open};
use crate::sys::fd::flock;
use crate::sys::proc::stat_field;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use format::{READABLE_SINCE, VERSION};

/// What a pod is; written once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    pub version: u32,
    #[serde(default = "format::first")]
    pub readable_since: u32,
    pub id: PodId,
    pub name: PodName,
    pub namespace: NamespaceName,
    pub created_at: String,
    pub hostname: String,
    /// What the first interface was to lead to.
    pub network: Network,
    /// What it became; `networks.json` has all of them, as they are now.
    pub attachment: Option<Attachment>,
    /// The pod whose network this one joined.
    pub network_of: Option<PodId>,
    pub share_pid: SharePid,
    #[serde(default)]
    pub owners: Owners,
    pub labels: BTreeMap<String, String>,
    pub volumes: Vec<String>,
    pub sysctl: Vec<(String, String)>,
    /// What name servers are to know of it, on whatever network it is.
    #[serde(default)]
    pub names: Names,
    pub host: Host,
    pub root: PathBuf,
    pub run_root: PathBuf,
    /// What could not be had, said once more by `inspect`.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The interfaces of a pod, the first one first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Networks {
    pub version: u32,
    #[serde(default = "format::first")]
    pub readable_since: u32,
    pub attachments: Vec<Attachment>,
}

impl Networks {
    pub fn new(attachments: Vec<Attachment>) -> Self {
        Self { version: VERSION, readable_since: wiring_known_since(&attachments), attachments }
    }
}

/// The oldest format whose builds know every driver of these: others cannot read what is wired by it.
pub fn wiring_known_since(attachments: &[Attachment]) -> u32 {
    let since = |one: &Attachment| match one.driver {
        Driver::Pasta => 4,
        Driver::Vxlan | Driver::Cni => 3,
        Driver::Bridge | Driver::Ptp | Driver::Macvlan | Driver::Ipvlan => READABLE_SINCE,
    };
    attachments.iter().map(since).max().unwrap_or(READABLE_SINCE)
}

/// A pod's interfaces as they are now. A pod of the first builds has one at most, and its record says it.
pub fn attachments(dir: &PodDir, record: &PodRecord) -> Vec<Attachment> {
    match read::<Networks>(&dir.networks()) {
        Ok(networks) => networks.attachments,
        Err(_) => record.attachment.iter().cloned().collect(),
    }
}

impl PodRecord {
    pub fn roots(&self) -> Roots {
        Roots { root: self.root.clone(), run: self.run_root.clone() }
    }

    /// `name`, or `namespace/name` outside the default namespace, for messages.
    pub fn title(&self) -> String {
        title(&self.namespace, &self.name)
    }
}

/// The same before there is a record.
pub fn title(namespace: &NamespaceName, name: &PodName) -> String {
    match *namespace == NamespaceName::default() {
        true => name.to_string(),
        false => format!("{namespace}/{name}"),
    }
}

/// A process as a record may hold it: the number is only worth something with the time that its process was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRecord {
    pub pid: i32,
    /// Field 22 of proc_pid_stat(5), in clock ticks after boot.
    pub start_time: u64,
}

impl Keepers {
    /// Where a namespace of the pod's can be opened, by its man-page name: as long as pause lives.
    pub fn namespace(&self, kind: &str) -> PathBuf {
        let pid = self.pause.pid;
        let held = pause::NAMESPACES.iter().find(|(_, known)| *known == kind);
        match held.filter(|_| self.namespaces_by_descriptor) {
            Some((number, _)) => format!("/proc/{pid}/fd/{number}").into(),
            None => format!("/proc/{pid}/ns/{kind}").into(),
        }
    }
}

impl ProcessRecord {
    /// Of a process that is held by a pidfd or is this one.
    pub fn of(pid: i32) -> Self {
        Self { pid, start_time: Stat::read(pid).map_or(0, |stat| stat.start_time) }
    }

    /// A pidfd of that very process, if it lives: opened first, compared then, so that the number cannot change hands.
    pub fn open(&self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(self.pid).ok()?;
        let now = Stat::read(self.pid)?;
        (now.start_time == self.start_time && !now.is_dead).then_some(pidfd)
    }
}

/// What of proc_pid_stat(5) tells one process from another.
struct Stat {
    is_dead: bool,
    start_time: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let is_dead = matches!(stat_field(&text, 3)?, "Z" | "X");
        Some(Self { is_dead, start_time: stat_field(&text, 22)?.parse().ok()? })
    }
}

/// Who serves a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keepers {
    pub version: u32,
    #[serde(default = "format::first")]
    pub readable_since: u32,
    pub pause: ProcessRecord,
    pub monitor: ProcessRecord,
    pub pump: Option<ProcessRecord>,
    /// The PID 1 of a shared PID namespace.
    #[serde(default)]
    pub init: Option<ProcessRecord>,
    /// Whether pause starts a monitor's successor, or (made anew by a monitor) only holds.
    pub pause_restarts: bool,
    /// Whether pause holds the pod's namespaces as descriptors and stays in the host's ([`crate::pause::NAMESPACES`]).
    #[serde(default)]
    pub namespaces_by_descriptor: bool,
}

/// Why a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    Completed,
    Error,
    /// By the kernel's own counter.
    OOMKilled,
    Signal,
    /// It never became its program.
    StartError,
    /// The PID 1 of the pod's shared namespace ended, and the kernel with it all others.
    PodInitDied,
    /// Both that could have known died.
    ContainerStatusUnknown,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub reason: Reason,
    pub finished_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Log bytes that no disk took.
    #[serde(default)]
    pub lost_log_bytes: u64,
}

impl Ended {
    pub fn new(exit: Exit, oom_killed: bool, finished_at: String) -> Self {
        let (signal, reason) = match exit {
            Exit::Signal(signal) if oom_killed => (Some(signal), Reason::OOMKilled),
            Exit::Signal(signal) => (Some(signal), Reason::Signal),
            Exit::Code(0) => (None, Reason::Completed),
            Exit::Code(_) => (None, Reason::Error),
        };
        Self { exit_code: exit.code(), signal, reason, finished_at, message: None, lost_log_bytes: 0 }
    }

    pub fn failed(&self) -> bool {
        self.exit_code != 0
    }
}

/// What a container is doing, as facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    Created,
    Running,
    /// Frozen by `pause`.
    Paused,
    /// It ended; its policy starts it again at this time (seconds and nanoseconds since the epoch).
    Restarting {
        at: Duration,
    },
    Exited,
}

impl State {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Restarting { .. } => "Restarting",
            Self::Exited => "Exited",
        }
    }

    /// Whether it has a process.
    pub fn lives(&self) -> bool {
        matches!(self, Self::Created | Self::Running | Self::Paused)
    }
}

/// What somebody wants of a container; it wins over any policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wanted {
    Running,
    Stopped,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecord {
    pub version: u32,
    #[serde(default = "format::first")]
    pub readable_since: u32,
    pub name: ContainerName,
    pub id: String,
    pub created_at: String,
    pub command: Vec<String>,
    pub rootfs: PathBuf,
    pub terminal: bool,
    pub policy: Policy,
    pub cgroup: String,
    pub log_path: PathBuf,
    pub state: State,
    pub wanted: Wanted,
    pub process: Option<ProcessRecord>,
    pub started_at: Option<String>,
    /// How the last run ended.
    pub ended: Option<Ended>,
    /// Runs before this one; also the number of the log.
    pub restarts: u32,
    /// The wait before the next restart by policy.
    pub backoff: Duration,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Log bytes of the run that goes on that no disk took, as far as is known by now.
    #[serde(default)]
    pub lost_log_bytes: u64,
    /// What only a later build knows, which tests stand in for.
    #[cfg(feature = "later-format")]
    #[serde(default)]
    pub of_a_later_build: u32,
}

/// Replaces a file whole: readers see the old record or the new one, across power loss too.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let staged = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fault::point("record.staged");
    fs::rename(&staged, path)?;
    fault::point("record.replaced");
    match path.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

pub fn write<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let bytes = serde_json::to_vec(record).map_err(io::Error::from).doing(doing)?;
    replace(path, &bytes).doing(doing)
}

pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let doing = || format!("read {}", path.display());
    let bytes = fs::read(path).doing(doing)?;
    format::refuse_unknown(&bytes, doing)?;
    serde_json::from_slice(&bytes).map_err(|err| {
        Error::new(Kind::Invalid, doing(), err)
            .hint("written by another podrun, or damaged; `podrun delete pod --force` removes the pod")
    })
}

/// Makes a directory that only root enters; one that is there with a wider mode is closed (CVE-2024-25621).
pub fn make_private_dir(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let doing = || format!("make {}", path.display());
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).doing(doing)?;
    let now = fs::metadata(path).doing(doing)?.permissions().mode() & 0o7777;
    if now & !mode != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(now & mode)).doing(doing)?;
    }
    Ok(())
}

/// "Already gone" is success.
pub fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Names in a pod's directory.
#[derive(Debug, Clone)]
pub struct PodDir(pub PathBuf);

impl PodDir {
    pub fn record(&self) -> PathBuf {
        self.0.join("pod.json")
    }

    pub fn keepers(&self) -> PathBuf {
        self.0.join("monitor.json")
    }

    pub fn networks(&self) -> PathBuf {
        self.0.join("networks.json")
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("monitor.sock")
    }

    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Why the pod is lost, when it is.
    pub fn lost(&self) -> PathBuf {
        self.0.join("lost")
    }

    pub fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    pub fn container(&self, name: &ContainerName) -> PathBuf {
        self.containers().join(format!("{name}.json"))
    }

    /// There while the pod is being deleted: nobody new is to be led to it.
    pub fn leaving(&self) -> PathBuf {
        self.0.join("leaving")
    }

    pub fn plan(&self, name: &ContainerName) -> PathBuf {
        self.containers().join(format!("{name}.plan.json"))
    }
}

/// Holds a pod's lock until dropped, or until this process dies.
#[derive(Debug)]
pub struct Locked(#[allow(dead_code, reason = "the lock is the open file")] fs::File);

pub fn lock(dir: &PodDir) -> Result<Locked> {
    lock_file(&dir.lock())
}

/// Held by whoever starts a monitor where pause starts none: another lock, since `delete` may have to, and holds the first.
pub fn lock_healing(dir: &PodDir) -> Result<Locked> {
    lock_file(&dir.0.join("healing"))
}

pub fn lock_file(path: &Path) -> Result<Locked> {
    let doing = || format!("lock {}", path.display());
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).doing(doing)?;
    flock(file.as_fd(), libc::LOCK_EX).doing(doing)?;
    Ok(Locked(file))
}

/// Whether somebody is making or deleting the pod at this moment.
pub fn is_locked(dir: &PodDir) -> bool {
    is_file_locked(&dir.lock())
}

pub fn is_file_locked(path: &Path) -> bool {
    fs::File::open(path).is_ok_and(|file| flock(file.as_fd(), libc::LOCK_EX | libc::LOCK_NB).is_err())
}

/// Whether the pod's making was cut short. The lock is asked first: its holder writes the record and only then lets go.
pub fn is_half_made(dir: &PodDir) -> bool {
    !is_locked(dir) && !dir.record().exists()
}

/// All containers of a pod, by creation; a record that cannot be read is passed over (and shows in `doctor`).
pub fn containers(dir: &PodDir) -> Vec<ContainerRecord> {
    let Ok(entries) = fs::read_dir(dir.containers()) else { return Vec::new() };
    let is_record =
        |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with(".json") && !path.ends_with(".plan.json"));
    let mut records: Vec<ContainerRecord> =
        entries.flatten().map(|entry| entry.path()).filter(is_record).filter_map(|path| read(&path).ok()).collect();
    records.sort_by(|a, b| (&a.created_at, &a.name).cmp(&(&b.created_at, &b.name)));
    records
}

/// Every pod of a run-root, whole or not: its directory and, when the record can be read, what it says.
pub fn pods(roots: &Roots) -> Vec<(PodId, PodDir, Result<PodRecord>)> {
    let Ok(entries) = fs::read_dir(roots.pods()) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| PodId::parse(entry.file_name().to_str()?).ok())
        .map(|id| {
            let dir = PodDir(roots.pod(&id));
            let record = read(&dir.record());
            (id, dir, record)
        })
        .collect();
    found.sort_by(|(.., a), (.., b)| {
        let key =
            |record: &Result<PodRecord>| record.as_ref().map(|record| record.created_at.clone()).unwrap_or_default();
        key(a).cmp(&key(b))
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_its_number_and_its_start() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let this = ProcessRecord::of(pid);
        assert!(this.start_time > 0 && this.open().is_some());
        let other = ProcessRecord { start_time: this.start_time + 1, ..this };
        assert!(other.open().is_none(), "a stranger with our number was taken for us");
    }

    #[test]
    fn an_end_has_the_reason_that_kubernetes_shows() {
        let reason = |exit, oom| Ended::new(exit, oom, String::new()).reason;
        assert_eq!(reason(Exit::Code(0), false), Reason::Completed);
        assert_eq!(reason(Exit::Code(137), true), Reason::Error);
        assert_eq!(reason(Exit::Signal(9), true), Reason::OOMKilled);
        assert_eq!(reason(Exit::Signal(9), false), Reason::Signal);
    }

    #[test]
    fn a_directory_that_is_too_open_is_closed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("podrun-store-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        make_private_dir(&dir, 0o711).unwrap();
        let mode = fs::metadata(&dir).unwrap().permissions().mode() & 0o777;
        fs::remove_dir(&dir).unwrap();
        assert_eq!(mode, 0o711);
    }

    /// What the first build wrote, and what a later one may: a field more is passed over, and no field may become a must.
    #[test]
    fn records_of_other_builds_are_read() {
        const POD: &str = include_str!("../tests/fixtures/format-1/pod.json");
        const KEEPERS: &str = include_str!("../tests/fixtures/format-1/monitor.json");
        const CONTAINER: &str = include_str!("../tests/fixtures/format-1/container.json");
        const PLAN: &str = include_str!("../tests/fixtures/format-1/container.plan.json");
        fn both<T: DeserializeOwned>(text: &str) -> T {
            let mut later: serde_json::Value = serde_json::from_str(text).unwrap();
            later["ofALaterBuild"] = serde_json::json!({"more": [1, 2]});
            serde_json::from_value::<T>(later).unwrap();
            serde_json::from_str(text).unwrap()
        }
        let pod = both::<PodRecord>(POD);
        assert_eq!(pod.hostname, "web");
        let nowhere = PodDir("/nonexistent".into());
        let [one] = &attachments(&nowhere, &pod)[..] else { panic!("it has one interface") };
        assert_eq!((one.interface.as_str(), one.default_route, one.gateways().len()), ("eth0", true, 1));
        assert!(both::<Keepers>(KEEPERS).pause_restarts);
        assert_eq!(both::<ContainerRecord>(CONTAINER).state, State::Running);
        assert_eq!(both::<crate::container::plan::Plan>(PLAN).process.uid, 0);
    }
}
