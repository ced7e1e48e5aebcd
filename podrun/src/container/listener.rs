//! seccomp_unotify(2): whom the kernel asks about a container's calls. The descriptor on which it asks is made by loading the
//! filter; init hands it to its parent, who sends it on to `listenerPath`, with the container process state of
//! config-linux.md, over a connection of its own.
//!
//! Does not wait: an agent that takes neither connection nor message is an error, and the program never runs.

#![forbid(unsafe_code)]

use super::birth::{self, Listens};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::seccomp::Program;
use crate::sys::socket;
use crate::text::Text;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where a plan's listener goes, and what is said of it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    path: Text,
    metadata: Option<String>,
    oci_version: String,
    id: String,
    bundle: PathBuf,
    annotations: BTreeMap<String, String>,
}

/// Of a document whose profile, compiled, asks somebody.
pub fn plan(document: &Spec, program: Option<&Program>, bundle: &Path, id: &str) -> Result<Option<Listener>> {
    let profile = document.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let (Some(profile), true) = (profile, program.is_some_and(|program| program.notify)) else { return Ok(None) };
    let path = bundle.join(profile.listener_path().as_deref().unwrap_or(Path::new("")));
    Ok(Some(Listener {
        path: Text::new("linux.seccomp.listenerPath", path.to_string_lossy())?,
        metadata: profile.listener_metadata().clone(),
        oci_version: document.version().clone(),
        id: id.to_owned(),
        bundle: bundle.to_owned(),
        annotations: document.annotations().clone().unwrap_or_default().into_iter().collect(),
    }))
}

/// Of which process the listener is.
#[derive(Debug, Clone, Copy)]
pub enum Whose {
    /// The container's first.
    First(i32),
    Execd {
        pid: i32,
        first: i32,
    },
}

impl Listener {
    /// Sends it on. The connection is closed afterwards, as the specification wants.
    pub fn deliver(&self, whose: Whose, listener: BorrowedFd<'_>) -> Result<()> {
        let path = self.path.lossy().into_owned();
        let doing = || format!("send the seccomp listener to linux.seccomp.listenerPath {path:?}");
        let state = self.state(whose).to_string();
        let agent = socket::connect_at_once(Path::new(&path)).doing(doing)?;
        // Mostly annotations; the usual room is 200 KiB, and more needs CAP_NET_ADMIN.
        const ROOMY: usize = 64 << 10;
        if state.len() > ROOMY {
            let room = i32::try_from(state.len().saturating_mul(2)).unwrap_or(i32::MAX);
            socket::set_send_buffer(agent.as_fd(), room).doing(doing)?;
        }
        let (mut rest, mut fds) = (state.as_bytes(), &[listener][..]);
        while !rest.is_empty() {
            let sent = socket::send(agent.as_fd(), rest, fds, libc::MSG_DONTWAIT).doing(doing)?;
            (rest, fds) = (&rest[sent..], &[]);
        }
        Ok(())
    }

    fn state(&self, whose: Whose) -> serde_json::Value {
        let (pid, first, status) = match whose {
            Whose::First(pid) => (pid, pid, "created"),
            Whose::Execd { pid, first } => (pid, first, "running"),
        };
        let mut state = serde_json::json!({
            "ociVersion": self.oci_version,
            "fds": ["seccompFd"],
            "pid": pid,
            "state": {
                "ociVersion": self.oci_version, "id": self.id, "status": status, "pid": first,
                "bundle": self.bundle, "annotations": self.annotations,
            },
        });
        if let Some(metadata) = &self.metadata {
            state["metadata"] = metadata.as_str().into();
        }
        state
    }
}

/// Answers a report of a listener: it is sent on, and the child told; or else the child waits for ever, and is to be killed.
pub fn pass_on(to: Option<&Listener>, whose: Whose, fd: &OwnedFd, report: BorrowedFd<'_>) -> Result<()> {
    let delivered = match to {
        Some(to) => to.deliver(whose, fd.as_fd()),
        // An exec whose monitor died, and with it what was to be said.
        None => Err(Error::new(Kind::NotNow, "send the seccomp listener", "nobody knows where to")),
    };
    fault::point("birth.listener");
    let listens = if delivered.is_ok() { Listens::Delivered } else { Listens::Nowhere };
    birth::listener_is(report, listens).doing(|| "let the program start".into())?;
    delivered
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn planned(seccomp: serde_json::Value) -> Option<Listener> {
        let document = json!({"ociVersion": "1.3.0", "annotations": {"a": "b"}, "linux": {"seccomp": seccomp}});
        let document: Spec = serde_json::from_value(document).unwrap();
        let profile = document.linux().as_ref().unwrap().seccomp().as_ref().unwrap();
        let program = crate::seccomp::compile(profile, crate::seccomp::native().unwrap()).unwrap();
        plan(&document, Some(&program), Path::new("/b"), "pod-a").unwrap()
    }

    #[test]
    fn the_state_is_the_specifications() {
        let rule = json!([{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]);
        let listener = planned(json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "agent.sock",
            "listenerMetadata": "m", "syscalls": rule}))
        .unwrap();
        assert_eq!(listener.path.lossy(), "/b/agent.sock");
        let first = json!({"ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": 7, "metadata": "m", "state": {
            "ociVersion": "1.3.0", "id": "pod-a", "status": "created", "pid": 7, "bundle": "/b", "annotations": {"a": "b"}}});
        assert_eq!(listener.state(Whose::First(7)), first);
        let execd = listener.state(Whose::Execd { pid: 9, first: 7 });
        assert_eq!(
            (&execd["pid"], &execd["state"]["pid"], &execd["state"]["status"]),
            (&json!(9), &json!(7), &json!("running"))
        );
    }

    /// config-linux.md: "If the SCMP_ACT_NOTIFY action is not used this value is ignored."
    #[test]
    fn without_a_rule_that_asks_nobody_is_told() {
        assert_eq!(planned(json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/none"})), None);
    }
}
