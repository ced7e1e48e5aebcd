//! What is to be made: for each tree the directory, what to write there, and what the child joins. Pure.
//!
//! A plan is plain data that the monitor carries out to the letter; it can be shown, recorded and compared.

#![forbid(unsafe_code)]

use super::devices;
use super::layout::Controller;
use super::layout::Home;
use super::layout::Layout;
use super::layout::Reach;
use super::layout::Tree;
use super::layout::Version;
use super::limit::Current;
use super::limit::Setting;
use super::limit::{asked, unsupported};
use super::place::Place;
use super::program;
use super::v1;
use super::v2;
use crate::error::{Error, Kind, Result};
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A cgroup to be: one directory in each tree that matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    pub place: Place,
    pub existing: Existing,
    pub leaves: Vec<Leaf>,
    #[serde(default)]
    pub reach: Reach,
    /// Whom it is delegated to (config-linux.md, "Cgroup ownership"): a uid of the host.
    #[serde(default)]
    pub owner: Option<u32>,
}

/// What to do with a directory that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existing {
    /// A pod's own directory: keep it, its containers are below.
    Kept,
    /// A leaf: make it anew, so that no limit of an earlier life holds; refuse when processes are in it.
    Replaced,
    /// A place that somebody else has chosen, and may have prepared: keep it, but refuse when processes are in it.
    Vacant,
    /// systemd has made it, with its controllers and with our process in it.
    Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialect {
    V1,
    V2,
}

/// The cgroup's directory in one tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    pub dialect: Dialect,
    pub tree: Tree,
    /// v2: controllers that the directories above must hand down first.
    pub enable: Vec<Enable>,
    pub writes: Vec<Setting>,
    /// v2: the device program, instruction by instruction.
    pub devices: Option<Vec<u64>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enable {
    pub controller: Controller,
    /// None: for counting only, so that a refusal does no harm.
    pub asked: Option<String>,
}

/// A container's leaf. `pod` is what was asked of the pod: in a tree where only the pod has a limit, the container
/// must be as well, or the limit would not reach it.
pub fn container(
    layout: &Layout,
    place: &Place,
    own: Option<&LinuxResources>,
    pod: Option<&LinuxResources>,
) -> Result<CgroupPlan> {
    let nothing = LinuxResources::default();
    let own = own.unwrap_or(&nothing);
    let mut asked = ask(layout, own, None)?;
    ask_devices(layout, own, &mut asked)?;
    let inherited = pod.map(|pod| ask(layout, pod, None)).transpose()?.unwrap_or_default();
    let counted = |it| COUNTED.contains(&it) || it == Controller::Devices || inherited.wants(it);
    assemble(layout, place, Existing::Replaced, asked, counted)
}

/// The pod's own directory, which holds no process but limits all that are below.
pub fn pod(layout: &Layout, place: &Place, limits: Option<&LinuxResources>) -> Result<CgroupPlan> {
    let nothing = LinuxResources::default();
    let limits = limits.unwrap_or(&nothing);
    if limits.devices().as_deref().is_some_and(|rules| !rules.is_empty()) {
        return Err(unsupported(&asked("devices"), "device rules belong to a container, not to a pod"));
    }
    let mut asked = ask(layout, limits, None)?;
    // Before 5.11 a v1 memory limit reaches the children only on request, and only if made before them.
    if let Some((_, settings)) =
        asked.v1.iter_mut().find(|(it, settings)| *it == Controller::Memory && !settings.is_empty())
    {
        let hierarchy = Setting::new("memory.use_hierarchy", 1, "linux.resources.memory").harmless_if(true);
        settings.insert(0, hierarchy);
    }
    assemble(layout, place, Existing::Kept, asked, |it| COUNTED.contains(&it))
}

/// The leaf of pause, monitor and pump: counted with the pod, limited by nothing of its own.
pub fn own(layout: &Layout, place: &Place, pod: Option<&LinuxResources>) -> Result<CgroupPlan> {
    let inherited = pod.map(|pod| ask(layout, pod, None)).transpose()?.unwrap_or_default();
    let counted = |it| COUNTED.contains(&it) || inherited.wants(it);
    assemble(layout, place, Existing::Replaced, Asked::default(), counted)
}

/// New limits for a live cgroup; `current` is what [`super::Cgroup::current`] read there.
pub fn update(layout: &Layout, place: &Place, limits: &LinuxResources, current: &Current) -> Result<CgroupPlan> {
    let mut asked = ask(layout, limits, Some(current))?;
    if limits.devices().as_deref().is_some_and(|rules| !rules.is_empty()) {
        ask_devices(layout, limits, &mut asked)?;
    }
    let mut plan = assemble(layout, place, Existing::Kept, asked, |_| false)?;
    plan.leaves.retain(|leaf| !leaf.writes.is_empty() || leaf.devices.is_some());
    Ok(plan)
}

/// In these trees every container is, asked or not: for statistics, the OOM counter, and limits set later.
const COUNTED: [Controller; 4] = [Controller::Memory, Controller::Pids, Controller::Cpu, Controller::Cpuacct];

/// What was asked, sorted by where it goes.
#[derive(Default)]
struct Asked {
    v1: Vec<(Controller, Vec<Setting>)>,
    v2: Vec<(Option<Controller>, Setting)>,
    devices: Option<Vec<u64>>,
}

impl Asked {
    fn wants(&self, it: Controller) -> bool {
        self.v1.iter().any(|(controller, settings)| *controller == it && !settings.is_empty())
    }
}

fn ask(layout: &Layout, resources: &LinuxResources, current: Option<&Current>) -> Result<Asked> {
    let mut asked = Asked::default();
    for it in Controller::ALL {
        match layout.home(it) {
            Home::V1(_) => asked.v1.push((it, v1::settings(it, resources, current)?)),
            Home::V2(_) => {
                let settings = v2::settings(it, resources, current)?;
                asked.v2.extend(settings.into_iter().map(|setting| (Some(it), setting)));
            }
            Home::Nowhere => refuse_without_controller(layout, it, resources)?,
        }
    }
    for (controller, setting) in v2::unified(resources)? {
        refuse_without_unified(layout, controller, &setting)?;
        asked.v2.push((controller, setting));
    }
    Ok(asked)
}

/// A limit that the host cannot set is an error that names it, unless it only says "no limit".
fn refuse_without_controller(layout: &Layout, it: Controller, resources: &LinuxResources) -> Result<()> {
    let limits = v1::settings(it, resources, None)?;
    let is_limit = |setting: &&Setting| setting.value != "-1" && setting.value != "max";
    let Some(setting) = limits.iter().find(is_limit) else { return Ok(()) };
    if layout.reach == Reach::Nothing {
        return Err(not_delegated(&setting.asked));
    }
    let err = match layout.version() {
        _ if layout.reach == Reach::Delegated => {
            return Err(unsupported(&setting.asked, format!("the {it} controller was not delegated to this user"))
                .hint("see cgroup.controllers of the directory that was"));
        }
        Version::V2 if it.v2_name().is_none() => {
            unsupported(&setting.asked, format!("cgroup v2 has no {it} controller"))
        }
        _ => unsupported(&setting.asked, format!("the {it} controller is nowhere on this host")),
    };
    match layout.unmounted.contains(&it) {
        true => {
            Err(err
                .hint(format!("it is bound to a cgroup v1 hierarchy that is not mounted: mount -t cgroup -o {it} …")))
        }
        false => Err(err.hint("see /proc/cgroups, and cgroup_disable= on the kernel's command line")),
    }
}

/// As runc and crun: what is asked for is set or told, and what is not asked for is not missed.
fn not_delegated(asked: &str) -> Error {
    unsupported(asked, "no cgroup was delegated to this user")
        .hint("on a host with cgroup v2: systemd-run --user --scope -p Delegate=yes podrun …")
}

fn refuse_without_unified(layout: &Layout, controller: Option<Controller>, setting: &Setting) -> Result<()> {
    match (&layout.v2, controller) {
        _ if layout.reach == Reach::Nothing => Err(not_delegated(&setting.asked)),
        (None, _) => Err(unsupported(&setting.asked, "this host has cgroup v1 only")),
        (Some(tree), Some(it)) if !tree.controllers.contains(&it) => {
            Err(unsupported(&setting.asked, format!("the {it} controller is not in the cgroup v2 tree of this host")))
        }
        _ => Ok(()),
    }
}

/// A container without rules gets the default devices and no others.
fn ask_devices(layout: &Layout, resources: &LinuxResources, asked: &mut Asked) -> Result<()> {
    let rules = devices::rules(resources.devices().as_deref().unwrap_or_default())?;
    match layout.home(Controller::Devices) {
        Home::V1(_) => {
            asked.v1.retain(|(it, _)| *it != Controller::Devices);
            asked.v1.push((Controller::Devices, devices::v1_settings(&rules)?));
        }
        Home::V2(_) if devices::allow_all(&rules) => {}
        Home::V2(_) => asked.devices = Some(program::emit(&rules)),
        Home::Nowhere if devices::allow_all(&rules) || layout.reach != Reach::Everything => {}
        Home::Nowhere => {
            let path = self::asked("devices");
            return Err(unsupported(&path, "neither the devices controller nor a cgroup v2 tree is mounted"));
        }
    }
    Ok(())
}

/// One leaf a tree: v1 trees in which something is counted or asked, and the unified tree always, for its cgroup.kill
/// and cgroup.freeze need no controller.
fn assemble(
    layout: &Layout,
    place: &Place,
    existing: Existing,
    asked: Asked,
    counted: impl Fn(Controller) -> bool,
) -> Result<CgroupPlan> {
    if layout.reach == Reach::Nothing {
        return Ok(CgroupPlan { place: place.clone(), existing, leaves: Vec::new(), reach: layout.reach, owner: None });
    }
    let needed = |it| match it {
        Controller::Freezer | Controller::Systemd => layout.v2.is_none(),
        it => counted(it) || asked.wants(it),
    };
    let mut leaves = Vec::new();
    for tree in &layout.v1 {
        if tree.controllers.iter().any(|&it| needed(it)) {
            leaves.push(Leaf::v1(tree, &asked));
        }
    }
    leaves.extend(layout.v2.as_ref().map(|tree| Leaf::v2(tree, asked, counted)));
    match leaves.is_empty() {
        false => Ok(CgroupPlan { place: place.clone(), existing, leaves, reach: layout.reach, owner: None }),
        true => Err(Error::new(Kind::Unsupported, format!("plan the cgroup {place}"), "no cgroup tree is mounted")
            .hint("mount -t cgroup2 none /sys/fs/cgroup")),
    }
}

impl Leaf {
    fn v1(tree: &Tree, asked: &Asked) -> Self {
        let here = |(it, _): &&(Controller, Vec<Setting>)| tree.controllers.contains(it);
        let writes = asked.v1.iter().filter(here).flat_map(|(_, settings)| settings.clone()).collect();
        Self { dialect: Dialect::V1, tree: tree.clone(), enable: Vec::new(), writes, devices: None }
    }

    fn v2(tree: &Tree, asked: Asked, counted: impl Fn(Controller) -> bool) -> Self {
        let mut enable: Vec<Enable> = Vec::new();
        for (it, setting) in &asked.v2 {
            if let Some(it) = it.filter(|it| !enable.iter().any(|known| known.controller == *it)) {
                enable.push(Enable { controller: it, asked: Some(setting.asked.clone()) });
            }
        }
        for &it in
            [Controller::Memory, Controller::Pids].iter().filter(|it| tree.controllers.contains(it) && counted(**it))
        {
            if !enable.iter().any(|known| known.controller == it) {
                enable.push(Enable { controller: it, asked: None });
            }
        }
        let writes = asked.v2.into_iter().map(|(_, setting)| setting).collect();
        Self { dialect: Dialect::V2, tree: tree.clone(), enable, writes, devices: asked.devices }
    }

    pub(super) fn holds(&self, controller: Controller) -> bool {
        self.tree.controllers.contains(&controller)
    }
}

impl CgroupPlan {
    /// The directory of one leaf.
    pub fn directory(&self, leaf: &Leaf) -> PathBuf {
        leaf.tree.mount.join(self.place.as_str())
    }

    /// The cgroup2 directory for CLONE_INTO_CGROUP.
    pub fn unified_directory(&self) -> Option<PathBuf> {
        let unified = self.leaves.iter().find(|leaf| leaf.dialect == Dialect::V2);
        unified.map(|leaf| self.directory(leaf))
    }

    /// The v1 files that the child writes `0` to.
    pub fn tasks(&self) -> Vec<PathBuf> {
        let v1 = self.leaves.iter().filter(|leaf| leaf.dialect == Dialect::V1);
        v1.map(|leaf| self.directory(leaf).join("tasks")).collect()
    }

    /// The file with the kernel's own count of OOM kills.
    pub fn oom_counter(&self) -> Option<PathBuf> {
        let leaf = self.leaves.iter().find(|leaf| leaf.holds(Controller::Memory))?;
        Some(self.directory(leaf).join(oom_file(leaf.dialect)))
    }

    /// Whether a process is where it was put, from its `/proc/PID/cgroup`; a limit that does not hold its process is
    /// no limit (CVE-2025-47291).
    pub fn confirm(&self, proc_pid_cgroup: &str) -> Result<()> {
        for leaf in &self.leaves {
            let wanted = leaf.tree.top.join(self.place.as_str());
            let name = |it: &Controller| it.v1_name();
            let controller = match leaf.dialect {
                Dialect::V1 => leaf.tree.controllers.first().map(name).unwrap_or_default(),
                Dialect::V2 => "",
            };
            let found = cgroup_of(proc_pid_cgroup, controller);
            if found.map(PathBuf::from) != Some(wanted) {
                let cause =
                    format!("the process is in {:?} of {}", found.unwrap_or("nothing"), leaf.tree.mount.display());
                return Err(Error::new(Kind::Kernel, format!("join the cgroup {}", self.place), cause));
            }
        }
        Ok(())
    }
}

/// The path in the line `7:cpu,cpuacct:/path`; the unified tree's line has no controllers.
pub(super) fn cgroup_of<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let same = names.split(',').any(|name| name == controller) && (number == "0") == controller.is_empty();
        same.then_some(path)
    })
}

/// v1 counts the kills of this directory, v2 also those of what a container made below it.
pub(super) fn oom_file(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::V1 => "memory.oom_control",
        Dialect::V2 => "memory.events",
    }
}

#[cfg(test)]
mod tests;
