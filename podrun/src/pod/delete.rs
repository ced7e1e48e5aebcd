//! `delete pod`: everything that follows from the id goes, in an order that a crash cannot spoil, and twice is fine.

#![forbid(unsafe_code)]

use super::client;
use super::create;
use super::find::{self, Pod};
use super::heal::{self, Served};
use super::without_cgroup;
use crate::cgroup::{self, Layout};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::{NamespaceName, PodId, PodName};
use crate::monitor::services;
use crate::monitor::socket::Request;
use crate::net::{self, service};
use crate::roots::Roots;
use crate::store::{self, PodDir, PodRecord, gone};
use crate::sys::clone::{pidfd_send_signal, poll_one};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// How long killed processes may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// How a pod is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    WithGrace(Duration),
    /// At once, and whatever its records say.
    ByForce,
}

/// Stops the containers with grace, then removes the pod. Without its record the pod is removed by its id alone. Says what
/// the plugins of its networks may have left.
pub fn delete(roots: &Roots, namespace: &NamespaceName, text: &str, manner: Manner) -> Result<Vec<String>> {
    let (id, dir) = find::directory(roots, namespace, text)?;
    if manner != Manner::ByForce {
        store::format::understands(&dir)?;
    }
    let record: Option<PodRecord> = store::read(&dir.record()).ok();
    let layout = match &record {
        Some(record) => record.host.cgroups.clone(),
        None => Layout::detect()?,
    };
    let _lock = if dir.0.is_dir() { store::lock(&dir).ok() } else { None };
    fault::point("delete-pod.locked");
    leave_services(roots, &dir);
    if let Some(record) = &record {
        let pod = Pod { roots: roots.clone(), dir: dir.clone(), record: record.clone() };
        stop(&pod, manner);
    }
    fault::point("delete-pod.stopped");
    let name = match &record {
        Some(record) => Some((record.namespace.clone(), record.name.clone())),
        None => PodName::parse(text).ok().map(|name| (namespace.clone(), name)),
    };
    let warnings = dismiss_plugins(roots, &id);
    remove_from_host(roots, &id, name.as_ref().map(|(namespace, name)| (namespace, name)), &layout)
        .map_err(|err| err.within(format!("delete the pod {text}")))?;
    Ok(warnings)
}

/// Stops the containers of several pods in one grace, before each of them is deleted.
pub fn stop_together(pods: &[Pod], grace: Duration) {
    if let [_, _, ..] = pods {
        pods.iter().for_each(|pod| leave_services(&pod.roots, &pod.dir));
        let asked: Vec<(Pod, Request)> = pods
            .iter()
            .filter(|pod| matches!(heal::look(pod), Served::Yes))
            .map(|pod| (pod.clone(), stop_request(grace)))
            .collect();
        // Whoever deletes it asks again, and kills what cannot be asked.
        let _ = client::commands(&asked);
    }
}

fn stop_request(grace: Duration) -> Request {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    Request::Stop { names: Vec::new(), grace_ms, signal: None }
}

/// CNI plugins go first, while there is a network namespace for them to look into. Says what they may have left.
pub(super) fn dismiss_plugins(roots: &Roots, id: &PodId) -> Vec<String> {
    let netns = create::network_namespace_now(&PodDir(roots.pod(id)));
    net::cni::detach(roots, id, netns.as_ref().map(AsFd::as_fd))
}

/// Nobody new is led to a pod that is on its way out; who is being served is served while it lives.
fn leave_services(roots: &Roots, dir: &PodDir) {
    if service::is_in_use(roots) && std::fs::write(dir.leaving(), "").is_ok() {
        // Who serves is worked out anew each time, so what fails now is mended by the next change.
        let _ = services::sync(roots);
    }
}

/// The monitor knows how to stop; where there is none to ask, killing is all that is left. Frozen containers are thawed by
/// the stop.
fn stop(pod: &Pod, manner: Manner) {
    let worth_asking = match heal::look(pod) {
        Served::Lost => false,
        Served::Soon => manner != Manner::ByForce,
        Served::Yes | Served::NoMonitor { .. } => true,
    };
    if worth_asking {
        let grace = match manner {
            Manner::WithGrace(grace) => grace,
            Manner::ByForce => Duration::ZERO,
        };
        let _ = client::command(pod, &stop_request(grace));
    }
}

/// Kills pause, monitor and pump: at once, so that none of them makes the others anew.
pub(super) fn kill_keepers(roots: &Roots, id: &PodId, pause: &OwnedFd) {
    let place = cgroup::Place::pod(&roots.cgroup(), id).own();
    if let Ok(layout) = Layout::detect() {
        let _ = without_cgroup::kill_in(&layout, &place, &PodDir(roots.pod(id)), GONE);
    }
    let _ = pidfd_send_signal(pause.as_fd(), libc::SIGKILL);
    let _ = poll_one(pause.as_fd(), libc::POLLIN, 1000);
}

/// Everything of the pod that is on the host, but what its plugins made. Each step stands alone; what fails is said at the end, all of it.
pub(super) fn remove_from_host(
    roots: &Roots,
    id: &PodId,
    name: Option<(&NamespaceName, &PodName)>,
    layout: &Layout,
) -> Result<()> {
    let place = cgroup::Place::pod(&roots.cgroup(), id);
    let mut left = Vec::new();
    let mut step = |what: &str, done: Result<()>| left.extend(done.err().map(|err| format!("{what}: {err}")));
    // The link first: it is silenced, and goes with the namespaces. Removing it by itself would wait for RCU.
    // Where it has ports they come after: who dies with a netfilter socket, as the monitor does, waits for what has just been
    // removed from the firewall.
    let has_ports = net::ports::file(roots, id).exists();
    if !has_ports {
        step("network", net::detach(roots, id));
    }
    fault::point("delete-pod.network");
    step("processes", without_cgroup::kill_in(layout, &place, &PodDir(roots.pod(id)), GONE));
    fault::point("delete-pod.processes");
    if has_ports {
        step("network", net::detach(roots, id));
    }
    step("cgroups", cgroup::remove_tree(layout, &place, GONE));
    fault::point("delete-pod.cgroups");
    step("volumes", gone(std::fs::remove_dir_all(roots.volumes(id))).doing(|| "remove the volumes".into()));
    fault::point("delete-pod.volumes");
    if let Some((namespace, name)) = name {
        let logs = roots.pod_logs(namespace, name, id);
        step("logs", gone(std::fs::remove_dir_all(logs)).doing(|| "remove the logs".into()));
        fault::point("delete-pod.logs");
        let link = roots.name(namespace, name);
        if std::fs::read_link(&link).is_ok_and(|target| target == roots.pod(id)) {
            step("name", gone(std::fs::remove_file(link)).doing(|| "free the name".into()));
        }
        fault::point("delete-pod.name");
    }
    match left.is_empty() {
        // The record goes last: until here the pod could be found again.
        true => remove_records(&PodDir(roots.pod(id))),
        false => Err(Error::new(Kind::Kernel, "remove it from the host", left.join("; "))
            .hint("run the same command again; `podrun prune` finds what is left")),
    }
}

fn remove_records(dir: &PodDir) -> Result<()> {
    let doing = || format!("remove {}", dir.0.display());
    let _ = std::fs::remove_file(dir.record());
    fault::point("delete-pod.record");
    gone(std::fs::remove_dir_all(&dir.0)).doing(doing)?;
    fault::point("delete-pod.directory");
    Ok(())
}
