//! What is known of a container that is in no pod, and what of it only the kernel knows.
//!
//! ```text
//!   <root>/<id>/state.json    Record, replaced whole
//!               plan.json     container::plan::Plan, for programs that join it
//!               door          its init listens there, until it is started; `door.new` until it is made
//!               lock          flock: whoever starts or deletes it
//! ```

#![forbid(unsafe_code)]

use crate::cgroup::{Cgroup, CgroupPlan, Scope};
use crate::container::alone::Alone;
use crate::container::plan::Plan;
use crate::container::resctrl::Resctrl;
use crate::error::{Doing, Error, Kind, Result};
use crate::store::{self, ProcessRecord};
use crate::sys::fd;
use crate::user::Files;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A container's name below one root. runc's alphabet, so that callers need no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Id(String);

impl Id {
    pub fn parse(text: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        let fail = |cause| Err(Error::new(Kind::Usage, format!("read the container id {text:?}"), cause));
        match text {
            "" => fail("empty"),
            "." | ".." => fail("no name of a directory of its own"),
            _ if text.len() > 200 => fail("longer than 200 bytes"),
            _ if !text.chars().all(plain) => fail("letters, digits and _+-. are what it may hold"),
            _ => Ok(Self(text.to_owned())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Id {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory of one container.
#[derive(Debug, Clone)]
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn of(root: &Path, id: &Id) -> Self {
        Self(root.join(id.as_str()))
    }

    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    pub fn plan(&self) -> PathBuf {
        self.0.join("plan.json")
    }

    pub fn door(&self) -> PathBuf {
        self.0.join("door")
    }

    pub fn new_door(&self) -> PathBuf {
        self.0.join("door.new")
    }

    pub fn lock_path(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Held by whoever makes, starts or deletes it.
    pub fn lock(&self) -> Result<store::Locked> {
        store::lock_file(&self.lock_path())
    }

    pub fn is_locked(&self) -> bool {
        store::is_file_locked(&self.lock_path())
    }
}

/// Written before anything is made, so that `delete` finds what a creation that was cut short has left, and again when the
/// process is there, before anything of the bundle has run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub version: u32,
    #[serde(default = "store::format::first")]
    pub readable_since: u32,
    pub oci_version: String,
    pub id: Id,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    /// The uid that made it; a name in records of before.
    pub owner: String,
    pub annotations: BTreeMap<String, String>,
    pub process: Option<ProcessRecord>,
    pub cgroup: CgroupPlan,
    /// Where systemd made that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Whether the place of its cgroup is podrun's choice, and the directory above podrun's own.
    pub chosen_place: bool,
    pub alone: Alone,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resctrl: Option<Resctrl>,
    /// Whether its document has a `process`.
    pub startable: bool,
}

/// The words of the specification (runtime.md, "State"), and `paused`, which runc adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container that was found.
#[derive(Debug)]
pub struct Container {
    pub dir: Dir,
    pub record: Record,
}

impl Container {
    pub fn find(root: &Path, id: &str) -> Result<Self> {
        let id = Id::parse(id)?;
        let dir = Dir::of(root, &id);
        match store::read(&dir.state()) {
            Ok(record) => Ok(Self { dir, record }),
            Err(err) if err.kind == Kind::NotFound => {
                // go-runc and podman know this sentence.
                Err(Error::new(Kind::NotFound, format!("find {id}"), "container does not exist"))
            }
            Err(err) => Err(err),
        }
    }

    /// All of them; one that is being made or deleted at this moment is passed over.
    pub fn all(root: &Path) -> Result<Vec<Self>> {
        let entries = match std::fs::read_dir(root) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.doing(|| format!("list {}", root.display()))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<Self> = names.filter_map(|name| Self::find(root, &name).ok()).collect();
        all.sort_by(|a, b| a.record.id.as_str().cmp(b.record.id.as_str()));
        Ok(all)
    }

    pub fn plan(&self) -> Result<Plan> {
        store::read(&self.dir.plan())
    }

    pub fn cgroup(&self) -> Result<Cgroup> {
        Cgroup::open(&self.record.cgroup)
    }

    /// Ends whatever is left in its cgroup, and removes that, and its class of service.
    pub fn remove_cgroup(&self, within: Duration) -> Result<()> {
        let cgroup = Cgroup::left_of(&self.record.cgroup)?;
        // Without a PID namespace of its own its children live on.
        cgroup.kill_all(within)?;
        if let Some(scope) = &self.record.scope {
            scope.stop()?;
        }
        cgroup.remove(within)?;
        if let Some(resctrl) = &self.record.resctrl {
            resctrl.leave()?;
        }
        // A slice is systemd's.
        if self.record.chosen_place && self.record.scope.is_none() {
            cgroup.remove_parent_if_empty();
        }
        Ok(())
    }

    /// Its first process, if that lives. A zombie does not: its parent has not looked yet.
    pub fn process(&self) -> Option<OwnedFd> {
        self.record.process.as_ref().and_then(ProcessRecord::open)
    }

    /// The same, or the sentence that runc's callers know.
    pub fn running(&self, doing: &str) -> Result<OwnedFd> {
        let not = || Error::new(Kind::NotNow, format!("{doing} {}", self.record.id), "container not running");
        self.process().ok_or_else(not)
    }

    pub fn status(&self) -> Status {
        match self.process() {
            None if self.record.process.is_none() && self.dir.is_locked() => Status::Creating,
            None => Status::Stopped,
            Some(_) if self.dir.new_door().exists() => Status::Creating,
            // Before it was started, too: who starts it would wait for ever.
            Some(_) if self.cgroup().is_ok_and(|cgroup| cgroup.is_frozen()) => Status::Paused,
            Some(_) if self.dir.door().exists() => Status::Created,
            Some(_) => Status::Running,
        }
    }

    /// As runc shows it.
    pub fn shown(&self) -> Value {
        let status = self.status();
        let mut state = self.record.state(status);
        state["rootfs"] = json!(self.record.rootfs);
        state["created"] = json!(self.record.created);
        state["owner"] = json!(self.record.owner());
        state
    }
}

impl Record {
    /// Of its first process, 0 where there is none.
    pub fn pid(&self, status: Status) -> i32 {
        match (status, self.process) {
            (Status::Stopped, _) | (_, None) => 0,
            (_, Some(process)) => process.pid,
        }
    }

    /// The name behind the uid that made it, as far as the host's own file knows it.
    pub fn owner(&self) -> String {
        let name = self.owner.parse().ok().and_then(|uid: u32| {
            let host = fd::open(c"/", libc::O_PATH | libc::O_DIRECTORY).ok()?;
            Files::read(host.as_fd()).name(uid).map(str::to_owned)
        });
        name.unwrap_or_else(|| self.owner.clone())
    }

    /// As the specification has it, for hooks.
    pub fn state(&self, status: Status) -> Value {
        let mut state = json!({
            "ociVersion": self.oci_version,
            "id": self.id.as_str(),
            "pid": self.pid(status),
            "status": status.word(),
            "bundle": self.bundle,
        });
        if !self.annotations.is_empty() {
            state["annotations"] = json!(self.annotations);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_a_directory_of_its_own() {
        for good in ["a", "A.b_c+d-e", "0", "...", &"x".repeat(200)] {
            assert!(Id::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", "a\n", &"x".repeat(201)] {
            assert!(Id::parse(bad).is_err(), "{bad:?}");
        }
    }
}
