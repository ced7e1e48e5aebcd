//! The processes of a pod, as `top` lists them: found by cgroup, read from proc(5).

#![forbid(unsafe_code)]

use super::find::Pod;
use super::without_cgroup;
use crate::cgroup::{self, Cgroup};
use crate::error::Result;
use crate::id::ContainerName;
use crate::sys::proc::stat_field;
use crate::sys::{clone, ns};
use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    pub container: String,
    pub pid: i32,
    /// The number that it has in its own PID namespace.
    pub inner_pid: i32,
    pub uid: u32,
    pub rss_kib: u64,
    pub cpu_seconds: f64,
    pub command: String,
}

/// Of the containers named, or of all.
pub fn of(pod: &Pod, names: &[ContainerName]) -> Result<Vec<Process>> {
    let place = cgroup::Place::pod(&pod.roots.cgroup(), &pod.record.id);
    let mut found = Vec::new();
    for record in pod.containers() {
        if !names.is_empty() && !names.contains(&record.name) {
            continue;
        }
        let members = match (without_cgroup::is_it(&pod.record.host.cgroups), &record.process) {
            (false, _) => Cgroup::find(&pod.record.host.cgroups, &place.container(&record.name))?.procs(),
            (true, Some(first)) => beside(first.pid).into_iter().map(nix::unistd::Pid::from_raw).collect(),
            (true, None) => Vec::new(),
        };
        found.extend(members.into_iter().filter_map(|pid| read(record.name.as_str(), pid.as_raw())));
    }
    Ok(found)
}

/// Without a cgroup: those that have the container's mounts, as each has that was born in it or joined it.
fn beside(first: i32) -> Vec<i32> {
    clone::pids().into_iter().flatten().filter(|pid| ns::are_together(*pid, first, "mnt").unwrap_or(false)).collect()
}

/// `None` for one that has ended meanwhile.
fn read(container: &str, pid: i32) -> Option<Process> {
    let file = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).ok();
    let status = String::from_utf8_lossy(&file("status")?).into_owned();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let stat = String::from_utf8_lossy(&file("stat")?).into_owned();
    // In user mode and in the kernel.
    let times =
        [14, 15].map(|number| stat_field(&stat, number).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0));
    let words = file("cmdline")?;
    let command = String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ");
    Some(Process {
        container: container.to_owned(),
        pid,
        inner_pid: field("NSpid:")?.split_whitespace().last()?.parse().ok()?,
        uid: field("Uid:")?.split_whitespace().next()?.parse().ok()?,
        rss_kib: field("VmRSS:").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0),
        // USER_HZ is 100 on every architecture that Linux runs containers on.
        cpu_seconds: times.iter().sum::<f64>() / 100.0,
        command: if command.is_empty() { format!("[{}]", field("Name:")?) } else { command },
    })
}
