//! What is known of each CNI attachment: a file below the root, which a reboot leaves, so that DEL is run with what ADD was.
//!
//! ```text
//!   <root>/cni/lock
//!             /<pod>/<interface>.json    Kept; a hard link for each pod that shares the network, the last to leave runs DEL
//!             /used/<network>.json, .lock    the chain as it was used last, for GC
//! ```
//! Not in the place of libcni's cache (/var/lib/cni): whose GC runs DEL for what its own runtime does not know.

#![forbid(unsafe_code)]

use super::conflist::Chain;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::PodId;
use crate::net::lock::{Hold, directory, gone, lock, replace};
use crate::roots::Roots;
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One interface of one pod, as ADD was asked for it, and the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept {
    pub version: u32,
    pub chain: Chain,
    pub container: PodId,
    pub title: String,
    pub interface: String,
    /// How many CNI interfaces the pod had before.
    pub order: usize,
    pub netns: PathBuf,
    pub args: String,
    pub runtime: Map<String, Value>,
    pub path: Vec<PathBuf>,
    pub run_root: PathBuf,
    pub boot: String,
    /// None: ADD was begun and never ended.
    pub result: Option<Value>,
}

impl Kept {
    /// As the pod's record calls the network.
    pub(super) fn network(&self) -> String {
        super::title(&self.chain.name)
    }

    /// Its addresses, for people.
    pub(super) fn addresses(&self) -> Vec<String> {
        let answer = self.result.as_ref().and_then(|result| super::result::read(result).ok()).unwrap_or_default();
        answer.addresses(&self.interface).iter().map(|one| one.address.to_string()).collect()
    }
}

fn top(roots: &Roots) -> PathBuf {
    roots.root.join("cni")
}

fn of_pod(roots: &Roots, pod: &PodId) -> PathBuf {
    top(roots).join(pod.as_str())
}

fn file(roots: &Roots, pod: &PodId, interface: &str) -> PathBuf {
    of_pod(roots, pod).join(format!("{interface}.json"))
}

fn hold(roots: &Roots) -> Result<Flock<File>> {
    lock(&top(roots).join("lock"), Hold::Exclusive)
}

/// Of the host, since it was started.
pub(super) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

pub(super) fn write(roots: &Roots, kept: &Kept) -> Result<()> {
    directory(&of_pod(roots, &kept.container))?;
    let bytes = serde_json::to_vec(kept).map_err(std::io::Error::from).doing(|| "keep the result".to_owned())?;
    replace(&file(roots, &kept.container, &kept.interface), &bytes)
}

fn read(path: &Path) -> Result<Kept> {
    let doing = || format!("read {}", path.display());
    let text = fs::read(path).doing(doing)?;
    serde_json::from_slice(&text).map_err(|err| {
        Error::new(Kind::Invalid, doing(), err).hint("remove the file to give up what the plugins hold for it")
    })
}

/// What a pod holds, alone or with others: the youngest first, since what was added last is removed first.
pub(super) fn of(roots: &Roots, pod: &PodId) -> Vec<Kept> {
    let files = fs::read_dir(of_pod(roots, pod)).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let mut all: Vec<Kept> = files.filter_map(|path| read(&path).ok()).collect();
    all.sort_by_key(|kept| std::cmp::Reverse(kept.order));
    all
}

/// `member` holds what `pod` holds, of one network or of all.
pub(super) fn share(roots: &Roots, pod: &PodId, member: &PodId, network: Option<&str>) -> Result<()> {
    let all: Vec<Kept> =
        of(roots, pod).into_iter().filter(|kept| network.is_none_or(|one| kept.network() == one)).collect();
    if all.is_empty() {
        return Ok(());
    }
    let _held = hold(roots)?;
    directory(&of_pod(roots, member))?;
    for kept in all {
        let (from, to) = (file(roots, pod, &kept.interface), file(roots, member, &kept.interface));
        // In the place of one that was linked while its ADD had not ended.
        let staged = to.with_extension("new");
        let linked = gone(fs::remove_file(&staged)).and_then(|()| fs::hard_link(&from, &staged));
        linked
            .and_then(|()| fs::rename(&staged, &to))
            // rename(2) leaves both names where they are one file already.
            .and_then(|()| gone(fs::remove_file(&staged)))
            .doing(|| format!("share the CNI network {} with {}", kept.chain.name, member.short()))?;
    }
    Ok(())
}

/// Who is left when a pod lets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Others,
    /// The file stays, until [`forget`].
    Nobody,
}

pub(super) fn leave(roots: &Roots, pod: &PodId, interface: &str) -> Result<Left> {
    let _held = hold(roots)?;
    let path = file(roots, pod, interface);
    let doing = || format!("let go of {}", path.display());
    if fs::metadata(&path).doing(doing)?.nlink() < 2 {
        return Ok(Left::Nobody);
    }
    fs::remove_file(&path).doing(doing)?;
    let _ = fs::remove_dir(of_pod(roots, pod));
    Ok(Left::Others)
}

/// DEL was run.
pub(super) fn forget(roots: &Roots, pod: &PodId, interface: &str) -> Result<()> {
    let path = file(roots, pod, interface);
    gone(fs::remove_file(&path)).doing(|| format!("remove {}", path.display()))?;
    let _ = fs::remove_dir(of_pod(roots, pod));
    Ok(())
}

/// An attachment with all that hold it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub kept: Kept,
    pub holders: Vec<PodId>,
}

/// Every attachment, by the file that it is; and what cannot be read.
pub(super) fn all(roots: &Roots) -> (Vec<Held>, Vec<Error>) {
    let mut found: BTreeMap<u64, Held> = BTreeMap::new();
    let mut broken = Vec::new();
    let pods = fs::read_dir(top(roots)).into_iter().flatten().flatten();
    for pod in pods.filter_map(|entry| PodId::parse(entry.file_name().to_str()?).ok()) {
        let files = fs::read_dir(of_pod(roots, &pod)).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in files.filter(|path| path.extension().is_some_and(|ending| ending == "json")) {
            let Ok(number) = fs::metadata(&path).map(|meta| meta.ino()) else { continue };
            match (found.get_mut(&number), read(&path)) {
                (Some(held), _) => held.holders.push(pod.clone()),
                (None, Ok(kept)) => drop(found.insert(number, Held { kept, holders: vec![pod.clone()] })),
                (None, Err(err)) => broken.push(err),
            }
        }
    }
    (found.into_values().collect(), broken)
}

fn used_file(roots: &Roots, network: &str, ending: &str) -> PathBuf {
    top(roots).join("used").join(format!("{network}.{ending}"))
}

/// A network, for as long as this is held: ADDs beside each other, GC alone. A plugin that is asked to collect must not take
/// for garbage what another one is just making.
pub(super) fn hold_network(roots: &Roots, network: &str, hold: Hold) -> Result<Flock<File>> {
    lock(&used_file(roots, network, "lock"), hold)
}

/// GC is for networks that podrun has used. For callers that hold the network.
pub(super) fn note_use(roots: &Roots, chain: &Chain) -> Result<()> {
    let path = used_file(roots, &chain.name, "json");
    let bytes = serde_json::to_vec(chain).map_err(std::io::Error::from).doing(|| "keep the chain".to_owned())?;
    match fs::read(&path).is_ok_and(|there| there == bytes) {
        true => Ok(()),
        false => replace(&path, &bytes),
    }
}

pub(super) fn used(roots: &Roots) -> Vec<Chain> {
    let files = fs::read_dir(top(roots).join("used")).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    files.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect()
}

/// For callers that hold the network alone: the lock's file goes, too.
pub(super) fn forget_use(roots: &Roots, network: &str) {
    for ending in ["json", "lock"] {
        let _ = fs::remove_file(used_file(roots, network, ending));
    }
}

/// With the last attachment gone, the directories go.
pub(super) fn forget_empty(roots: &Roots) {
    let top = top(roots);
    if !top.exists() {
        return;
    }
    let Ok(_held) = hold(roots) else { return };
    let _ = fs::remove_dir(top.join("used"));
    let only_lock = fs::read_dir(&top).into_iter().flatten().flatten().all(|entry| entry.file_name() == "lock");
    if only_lock {
        let _ = fs::remove_file(top.join("lock"));
        let _ = fs::remove_dir(&top);
    }
}
