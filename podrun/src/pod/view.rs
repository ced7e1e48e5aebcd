//! What a pod looks like from outside: podrun's own view, and Kubernetes' words for it.

#![forbid(unsafe_code)]

use super::create;
use super::find::Pod;
use super::heal::{self, Served};
use crate::net::cidr::Cidr;
use crate::net::{self, Attachment, Seen};
use crate::spec::{Network, Restart, SharePid};
use crate::store::{self, ContainerRecord, Keepers, State};
use serde_json::{Value, json};
use std::os::fd::AsFd;

/// A pod's state, worked out anew each time from facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    Ready,
    NotReady(String),
    Lost(String),
}

impl PodState {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::NotReady(_) => "NotReady",
            Self::Lost(_) => "Lost",
        }
    }

    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Ready => None,
            Self::NotReady(why) | Self::Lost(why) => Some(why),
        }
    }
}

pub fn state(pod: &Pod) -> PodState {
    // Whoever looks next mends what can be mended, and ends what nobody keeps any more.
    if !matches!(heal::look(pod), Served::Yes | Served::Soon) {
        let _ = heal::ensure_served(pod);
    }
    let told = std::fs::read_to_string(pod.dir.lost()).ok().map(|why| why.trim().to_owned());
    match (heal::look(pod), told) {
        (Served::Lost, why) => PodState::Lost(why.unwrap_or_else(|| "pause and monitor died together".into())),
        (_, Some(why)) => PodState::NotReady(why),
        (Served::NoMonitor { .. }, None) => {
            PodState::NotReady("its monitor died after its pause; the next command to it starts one".into())
        }
        (Served::Yes | Served::Soon, None) => PodState::Ready,
    }
}

/// A container's record with what only the kernel knows at this moment: a process that is gone does not run.
pub fn containers(pod: &Pod) -> Vec<ContainerRecord> {
    let mut records = pod.containers();
    let lost = matches!(heal::look(pod), Served::Lost);
    for record in &mut records {
        if lost && record.state.lives() && record.process.is_none_or(|process| process.open().is_none()) {
            record.state = State::Exited;
            record.ended.get_or_insert_with(|| crate::monitor::socket::unknown_end(String::new()));
        }
    }
    records
}

/// Who serves the pod. A pod that was made this moment has a monitor that is still coming up.
fn keepers(pod: &Pod) -> Option<Keepers> {
    for _ in 0..500 {
        if let Ok(keepers) = store::read(&pod.dir.keepers()) {
            return Some(keepers);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    None
}

/// podrun's own view: `podrun inspect POD`.
pub fn inspect(pod: &Pod) -> Value {
    let record = &pod.record;
    // The state first: looking may mend, and then others keep the pod.
    let state = state(pod);
    let keepers = keepers(pod);
    let pid = |process: Option<i32>| process.map_or(Value::Null, |pid| json!({"pid": pid}));
    let pause = keepers.as_ref().map(|keepers| keepers.pause.pid);
    let namespace = |kind: &str| keepers.as_ref().map(|keepers| keepers.namespace(kind));
    let mut namespaces = json!({"net": namespace("net"), "uts": namespace("uts"), "ipc": namespace("ipc")});
    if record.share_pid == SharePid::Pod
        && let Some(member) = pod.containers().iter().find_map(|container| container.process)
    {
        namespaces["pid"] = json!(format!("/proc/{}/ns/pid", member.pid));
    }
    json!({
        "id": record.id,
        "name": record.name,
        "namespace": record.namespace,
        "state": state.word(),
        "reason": state.why(),
        "createdAt": record.created_at,
        "hostname": record.hostname,
        "labels": record.labels,
        "network": network(pod),
        "networks": interfaces(pod),
        "ports": ports(pod),
        "sharePid": record.share_pid == SharePid::Pod,
        "volumes": record.volumes,
        "sysctls": record.sysctl.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "namespaces": namespaces,
        "pause": pid(pause),
        "monitor": pid(keepers.as_ref().map(|keepers| keepers.monitor.pid)),
        "pump": pid(keepers.as_ref().and_then(|keepers| keepers.pump.map(|pump| pump.pid))),
        "cgroup": crate::cgroup::Place::pod(&pod.roots.cgroup(), &record.id).to_string(),
        "logDir": pod.roots.pod_logs(&record.namespace, &record.name, &record.id),
        "warnings": record.warnings,
        "containers": containers(pod).iter().map(container).collect::<Vec<_>>(),
    })
}

/// The first interface.
fn network(pod: &Pod) -> Value {
    let all = pod.attachments();
    let first = all.first();
    if let Some(one) = first.is_none().then(|| foreign(pod)).and_then(|seen| seen.into_iter().next()) {
        return json!({
            "mode": pod.record.network.to_string(),
            "interface": one.interface,
            "hostInterface": null,
            "ip": bare(&one.addresses),
            "gateway": null,
            "mac": one.mac,
            "mtu": one.mtu,
            "bridge": null,
        });
    }
    json!({
        "mode": pod.record.network.to_string(),
        "interface": first.map(|attachment| &attachment.interface),
        "hostInterface": first.and_then(|attachment| attachment.host_interface.as_ref()),
        "ip": addresses(pod),
        "gateway": first.and_then(|attachment| attachment.gateway),
        "mac": first.and_then(mac),
        "mtu": first.map(|attachment| attachment.mtu),
        "bridge": first.and_then(|attachment| attachment.bridge.as_ref()),
    })
}

/// The interfaces of a network namespace that somebody else made: podrun has no record of them, and asks.
fn foreign(pod: &Pod) -> Vec<Seen> {
    if !matches!(pod.record.network, Network::Netns(_)) {
        return Vec::new();
    }
    let netns = create::network_namespace_now(&pod.dir);
    netns.and_then(|netns| net::look(netns.as_fd()).ok()).unwrap_or_default()
}

fn foreign_interface(one: &Seen) -> Value {
    json!({"interface": one.interface, "addresses": one.addresses, "mac": one.mac, "mtu": one.mtu})
}

fn bare(addresses: &[Cidr]) -> Vec<String> {
    addresses.iter().map(|cidr| cidr.address.to_string()).collect()
}

/// What of the host leads to it.
fn ports(pod: &Pod) -> Value {
    let one = |port: &net::ports::Port| json!({"hostIP": port.address, "hostPort": port.host, "port": port.port, "protocol": port.protocol});
    net::ports::of(&pod.roots, &pod.record.id).iter().map(one).collect()
}

fn interfaces(pod: &Pod) -> Vec<Value> {
    let ours = pod.attachments();
    ours.iter().map(interface).chain(foreign(pod).iter().map(foreign_interface)).collect()
}

/// One of all interfaces.
fn interface(attachment: &Attachment) -> Value {
    json!({
        "network": attachment.network,
        "driver": attachment.driver.word(),
        "interface": attachment.interface,
        "hostInterface": attachment.host_interface,
        "addresses": attachment.addresses,
        "gateway": attachment.gateway,
        "gateway6": attachment.gateway6,
        "defaultRoute": attachment.default_route,
        "mac": mac(attachment),
        "mtu": attachment.mtu,
        "bridge": attachment.bridge,
        "nameServer": attachment.names,
    })
}

/// Plugins need not say it, nor did earlier builds of an ipvlan interface, which has its parent's.
fn mac(attachment: &Attachment) -> Option<&String> {
    Some(&attachment.mac).filter(|mac| !mac.is_empty())
}

/// The addresses of the pod's first interface, without their prefix.
pub fn addresses(pod: &Pod) -> Vec<String> {
    match pod.attachments().first() {
        Some(first) => bare(&first.addresses),
        None => foreign(pod).first().map(|one| bare(&one.addresses)).unwrap_or_default(),
    }
}

/// podrun's own view of a container: `podrun inspect POD/NAME`.
pub fn container(record: &ContainerRecord) -> Value {
    let ended = record.ended.as_ref().filter(|_| !record.state.lives());
    json!({
        "name": record.name,
        "id": record.id,
        "pid": record.process.map(|process| process.pid),
        "state": record.state.word(),
        "exitCode": ended.map(|ended| ended.exit_code),
        "signal": ended.and_then(|ended| ended.signal),
        "reason": ended.map(|ended| ended.reason),
        "message": ended.and_then(|ended| ended.message.as_ref()),
        "createdAt": record.created_at,
        "startedAt": record.started_at,
        "finishedAt": ended.map(|ended| &ended.finished_at),
        "restarts": record.restarts,
        "restartPolicy": record.policy.restart,
        "stopSignal": crate::signal::name(record.policy.stop_signal),
        "command": record.command,
        "rootfs": record.rootfs,
        "terminal": record.terminal,
        "logPath": record.log_path,
        "lostLogBytes": match &record.ended {
            Some(ended) if !record.state.lives() => ended.lost_log_bytes,
            _ => record.lost_log_bytes,
        },
        "cgroup": record.cgroup,
        "warnings": record.warnings,
    })
}

/// A Kubernetes Pod object (v1), for tools that read those.
pub fn kubernetes(pod: &Pod) -> Value {
    let record = &pod.record;
    let all = containers(pod);
    let ready = state(pod);
    let addresses = addresses(pod);
    let running = all.iter().any(|container| container.state.lives());
    let failed = all.iter().any(|container| container.ended.as_ref().is_some_and(store::Ended::failed));
    let phase = match (&ready, all.is_empty(), running) {
        (PodState::Lost(_), ..) => "Failed",
        (_, true, _) => "Pending",
        (_, _, true) => "Running",
        _ if all.iter().any(|container| matches!(container.state, State::Restarting { .. })) => "Running",
        _ if failed => "Failed",
        _ => "Succeeded",
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": record.name,
            "namespace": record.namespace,
            "uid": record.id,
            "labels": record.labels,
            "creationTimestamp": record.created_at,
        },
        "spec": {
            "hostname": record.hostname,
            "hostNetwork": record.network == Network::Host,
            "shareProcessNamespace": record.share_pid == SharePid::Pod,
            "restartPolicy": policy(&all),
            "containers": all.iter().map(|container| json!({
                "name": container.name,
                "command": container.command,
                "tty": container.terminal,
            })).collect::<Vec<_>>(),
        },
        "status": {
            "phase": phase,
            "podIP": addresses.first(),
            "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
            "startTime": record.created_at,
            "reason": ready.why(),
            "conditions": [{"type": "Ready", "status": if ready == PodState::Ready { "True" } else { "False" }}],
            "containerStatuses": all.iter().map(kubernetes_status).collect::<Vec<_>>(),
        },
    })
}

fn policy(all: &[ContainerRecord]) -> &'static str {
    match all.first().map(|container| container.policy.restart) {
        Some(Restart::Always) => "Always",
        Some(Restart::OnFailure) => "OnFailure",
        _ => "Never",
    }
}

fn kubernetes_status(record: &ContainerRecord) -> Value {
    let terminated = record.ended.as_ref().map(|ended| {
        json!({"terminated": {
            "exitCode": ended.exit_code,
            "signal": ended.signal,
            // Kubernetes knows no reason of its own for a signal.
            "reason": if ended.reason == store::Reason::Signal { json!("Error") } else { json!(ended.reason) },
            "message": ended.message,
            "finishedAt": ended.finished_at,
            "startedAt": record.started_at,
            "containerID": format!("podrun://{}", record.id),
        }})
    });
    let now = match record.state {
        State::Running | State::Paused => json!({"running": {"startedAt": record.started_at}}),
        State::Created => json!({"waiting": {"reason": "ContainerCreating"}}),
        State::Restarting { .. } => json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        State::Exited => terminated.clone().unwrap_or_else(|| json!({})),
    };
    let last = if record.state == State::Exited { None } else { terminated };
    json!({
        "name": record.name,
        "containerID": format!("podrun://{}", record.id),
        "ready": record.state == State::Running,
        "started": record.state == State::Running,
        "restartCount": record.restarts,
        "state": now,
        "lastState": last.unwrap_or_else(|| json!({})),
    })
}

/// JSON as YAML, block style: enough for what podrun prints itself.
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write_yaml(value, 0, &mut text);
    text
}

fn write_yaml(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, one) in map {
                text.push_str(&format!("{}{}:", "  ".repeat(indent), scalar(&Value::String(key.clone()))));
                write_below(one, indent, text);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for one in list {
                let mut item = String::new();
                write_yaml(one, indent + 1, &mut item);
                let body = item.trim_start().to_owned();
                let body = if nested(one) { body } else { format!("{}\n", scalar(one)) };
                text.push_str(&format!("{}- {body}", "  ".repeat(indent)));
            }
        }
        other => text.push_str(&format!("{}\n", scalar(other))),
    }
}

fn write_below(value: &Value, indent: usize, text: &mut String) {
    if nested(value) {
        text.push('\n');
        let deeper = if value.is_array() { indent } else { indent + 1 };
        write_yaml(value, deeper, text);
    } else {
        text.push_str(&format!(" {}\n", scalar(value)));
    }
}

fn nested(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    }
}

/// A plain word where YAML reads it as the same string; quoted as JSON, which is YAML too, anywhere else.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(word) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
            let safe = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
                && word.chars().all(plain)
                && !matches!(
                    word.to_ascii_lowercase().as_str(),
                    "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
                );
            if safe { word.clone() } else { value.to_string() }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_says_the_same_as_json() {
        let value = json!({"a": {"b": [1, "x", {"c": "yes", "d": []}]}, "e": null, "f": "2026-11-21T00:00:00Z"});
        let want = "a:\n  b:\n  - 1\n  - x\n  - c: \"yes\"\n    d: []\ne: null\nf: \"2026-11-21T00:00:00Z\"\n";
        assert_eq!(yaml(&value), want);
    }
}
