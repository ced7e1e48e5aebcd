//! `create container` and `run`: from a spec to a plan to a birth.

#![forbid(unsafe_code)]

use super::client;
use super::create;
use super::find::Pod;
use crate::cgroup;
use crate::container::labels::Module;
use crate::container::plan::{Plan, Stdio};
use crate::container::planning::{self, Facts, Home};
use crate::error::{Doing, Result};
use crate::fault;
use crate::monitor::socket::{NewContainer, Request, Until};
use crate::net;
use crate::oci;
use crate::pump;
use crate::rootfs::PointKind;
use crate::spec::ContainerSpec;
use crate::sys::fd;
use crate::user::Files;
use serde_json::value::RawValue;
use std::os::fd::AsFd;
use std::path::Path;

/// What a container will be, decided; nothing is done yet.
#[derive(Debug)]
pub struct Planned {
    pub plan: Plan,
    pub warnings: Vec<String>,
}

pub fn plan(pod: &Pod, spec: &ContainerSpec) -> Result<Planned> {
    oci::check_rootfs(&spec.rootfs)?;
    let host = &pod.record.host;
    let place = cgroup::Place::pod(&pod.roots.cgroup(), &pod.record.id).container(&spec.name);
    let resources = spec.oci.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let users = read_users(&spec.rootfs)?;
    let id = format!("{}-{}", pod.record.id, spec.name);
    let facts = Facts {
        host,
        id: &id,
        home: Home::Pod { share_pid: pod.record.share_pid, owners: pod.record.owners, files: &pod.dir.0 },
        cgroup: cgroup::plan::container(&host.cgroups, &place, resources, None)?,
        users: &users,
        kind_of: &kind_of,
        has_module: &Module::is_here,
    };
    let plan = planning::plan(spec, &facts)?;
    let warnings = plan.process.seccomp.as_ref().map(|program| program.warnings.clone()).unwrap_or_default();
    Ok(Planned { plan, warnings })
}

pub(super) fn read_users(rootfs: &Path) -> Result<Files> {
    let path = std::ffi::CString::new(rootfs.as_os_str().as_encoded_bytes()).unwrap_or_default();
    let root =
        fd::open(&path, libc::O_PATH | libc::O_DIRECTORY).doing(|| format!("open the rootfs {}", rootfs.display()))?;
    Ok(Files::read(root.as_fd()))
}

pub(super) fn kind_of(path: &Path) -> std::io::Result<PointKind> {
    let facts = std::fs::metadata(path)?;
    Ok(if facts.is_dir() { PointKind::Directory } else { PointKind::File })
}

/// The request that makes the container; the same one may be asked twice.
pub fn request(pod: &Pod, spec: &ContainerSpec, planned: &Planned, until: Until) -> Result<Request> {
    let doing = || format!("write the plan of {}", spec.name);
    let plan = serde_json::to_string(&planned.plan).map_err(std::io::Error::from).doing(doing)?;
    let process = &planned.plan.process;
    let record = &pod.record;
    let log_dir = pod.roots.container_logs(&record.namespace, &record.name, &record.id, &spec.name);
    // Here and not in the monitor, which waits for no disk. One that is full now may not be later: the pump tries again.
    let _ = pump::make_log(&log_dir.join("0.log"));
    fault::point("command.log-made");
    let container = NewContainer {
        name: spec.name.clone(),
        id: client::fresh_id()?,
        command: process.argv.iter().map(|text| text.lossy().into_owned()).collect(),
        rootfs: spec.rootfs.clone(),
        terminal: process.stdio != Stdio::Pipes,
        policy: spec.policy.clone(),
        cgroup: planned.plan.cgroup.place.to_string(),
        log_dir,
        warnings: planned.warnings.clone(),
        plan: RawValue::from_string(plan).map_err(std::io::Error::from).doing(doing)?,
    };
    Ok(Request::Create { container: Box::new(container), until })
}

/// Does what makes the container with the interfaces in the pod that it asks for; they go back if it was not made.
pub fn with_devices<T>(
    pod: &Pod,
    spec: &ContainerSpec,
    planned: &Planned,
    make: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if planned.plan.net_devices.is_empty() {
        return make();
    }
    let netns = create::network_namespace(pod)?;
    let carried = net::devices::carry(&planned.plan.net_devices, netns.as_fd())?;
    make().inspect_err(|_| {
        if pod.container(&spec.name).is_err() {
            carried.give_back(netns.as_fd());
        }
    })
}

/// Makes a container and answers as soon as it has come that far: the pid, or how it ended meanwhile.
pub fn launch(pod: &Pod, spec: &ContainerSpec, until: Until) -> Result<Planned> {
    let planned = plan(pod, spec)?;
    let request = request(pod, spec, &planned, until)?;
    with_devices(pod, spec, &planned, || {
        client::converse(pod, &request, &[], |reply, _| Ok(reply.is_last(until).then_some(())))
    })?;
    Ok(planned)
}
