//! `prune` and `doctor`: what is on the host and belongs to no pod, and what is wrong with what does.

#![forbid(unsafe_code)]

use super::delete;
use super::find::Pod;
use super::heal::{self, Served};
use crate::cgroup::{self, Layout};
use crate::error::{Error, Kind, Result};
use crate::id::PodId;
use crate::net::{self, Prune};
use crate::rootless;
use crate::roots::Roots;
use crate::store::{self, PodDir};
use crate::sys::calls::{self, Need};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// What belongs to no live pod, in the user's words; with `Prune::Now` it is removed as well.
pub fn prune(roots: &Roots, how: Prune, lost_too: bool) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let layout = Layout::detect()?;
    let mut live: Vec<PodId> = Vec::new();
    for (id, dir, record) in store::pods(roots) {
        let half_made = record.is_err() && store::is_half_made(&dir);
        let lost = record.as_ref().is_ok_and(|record| {
            let pod = Pod { roots: roots.clone(), dir: dir.clone(), record: record.clone() };
            lost_too && matches!(heal::look(&pod), Served::Lost)
        });
        if !half_made && !lost {
            live.push(id);
            continue;
        }
        let what = if lost { "a lost pod" } else { "a pod whose making was cut short" };
        said.push(format!("{what}, {}", id.short()));
        if how == Prune::Now {
            let name = record.ok().map(|record| (record.namespace, record.name));
            let name = name.as_ref().map(|(namespace, name)| (namespace, name));
            // What plugins could not do is tried again below, and told there.
            delete::dismiss_plugins(roots, &id);
            delete::remove_from_host(roots, &id, name, &layout)?;
        }
    }
    said.extend(prune_names(roots, how)?);
    said.extend(prune_cgroups(roots, &layout, &live, how)?);
    said.extend(prune_dirs(roots, &layout, &live, how)?);
    said.extend(super::network::mend(roots, how)?);
    said.extend(net::prune(roots, &live, how)?);
    if how == Prune::Now && live.is_empty() {
        forget_empty(roots, &layout);
    }
    Ok(said)
}

/// Links of names that lead nowhere.
fn prune_names(roots: &Roots, how: Prune) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for entry in std::fs::read_dir(roots.names()).into_iter().flatten().flatten() {
        if !entry.path().exists() {
            said.push(format!("the name {}", entry.file_name().to_string_lossy()));
            if how == Prune::Now {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
    Ok(said)
}

/// Cgroups of pods that are gone.
fn prune_cgroups(roots: &Roots, layout: &Layout, live: &[PodId], how: Prune) -> Result<Vec<String>> {
    let mut dead: BTreeSet<String> = BTreeSet::new();
    for tree in layout.trees() {
        let top = tree.mount.join(roots.cgroup());
        for entry in std::fs::read_dir(top).into_iter().flatten().flatten() {
            if let Some(id) = entry.file_name().to_str().and_then(|name| PodId::parse(name).ok())
                && !live.contains(&id)
                && !roots.pod(&id).exists()
            {
                dead.insert(id.to_string());
            }
        }
    }
    for id in dead.iter().filter_map(|id| PodId::parse(id).ok()) {
        if how == Prune::Now {
            let place = cgroup::Place::pod(&roots.cgroup(), &id);
            cgroup::Cgroup::find(layout, &place)?.kill_all(Duration::from_secs(5))?;
            cgroup::remove_tree(layout, &place, Duration::from_secs(5))?;
        }
    }
    Ok(dead.into_iter().map(|id| format!("the cgroups of {id}")).collect())
}

/// After a reboot the run-root is empty, and what older pods have on disk goes.
pub(super) fn reclaim(roots: &Roots, layout: &Layout) -> Result<()> {
    prune_dirs(roots, layout, &[], Prune::Now).map(drop)
}

/// Logs and volumes of pods that are gone: after a reboot, say, when the run-root is empty.
fn prune_dirs(roots: &Roots, layout: &Layout, live: &[PodId], how: Prune) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let mut remove = |path: PathBuf| {
        said.push(path.display().to_string());
        if how == Prune::Now {
            let _ = std::fs::remove_dir_all(path);
        }
    };
    let is_dead = |id: &PodId| !live.contains(id) && !roots.pod(id).exists() && !lives_elsewhere(roots, layout, id);
    for entry in std::fs::read_dir(roots.root.join("volumes")).into_iter().flatten().flatten() {
        if entry.file_name().to_str().and_then(|name| PodId::parse(name).ok()).is_some_and(|id| is_dead(&id)) {
            remove(entry.path());
        }
    }
    for entry in std::fs::read_dir(roots.logs()).into_iter().flatten().flatten() {
        // /var/log/pods is kubelet's too: only what ends with an id of ours is ours.
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| PodId::parse(name.rsplit('_').next()?).ok());
        if id.is_some_and(|id| is_dead(&id)) {
            remove(entry.path());
        }
    }
    Ok(said)
}

/// Whether another run-root, which may share our root, has a pod of this id: its cgroup says so.
fn lives_elsewhere(roots: &Roots, layout: &Layout, id: &PodId) -> bool {
    layout.trees().any(|tree| {
        let tops = std::fs::read_dir(&tree.mount).into_iter().flatten().flatten();
        let others = tops.filter(|top| {
            let name = top.file_name();
            name.to_str().is_some_and(|name| name.starts_with("podrun") && *name != roots.cgroup())
        });
        others.into_iter().any(|top| top.path().join(id.as_str()).exists())
    })
}

/// With the last pod gone, what podrun made for itself goes, too.
fn forget_empty(roots: &Roots, layout: &Layout) {
    // Name servers have left with the last leases, a moment ago.
    if let Ok(place) = net::names::place(roots) {
        let _ = cgroup::remove_tree(layout, &place, Duration::from_secs(1));
    }
    for tree in layout.trees() {
        let _ = std::fs::remove_dir(tree.mount.join(roots.cgroup()));
    }
    // With what a podrun that was killed had not yet put in its place.
    for entry in std::fs::read_dir(&roots.run).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name == "pause" || name.to_str().is_some_and(|name| name.starts_with("pause.")) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    for dir in [roots.pods(), roots.names(), roots.leases(), roots.root.join("volumes")] {
        let _ = std::fs::remove_dir(dir);
    }
}

/// One thing that `doctor` has looked at.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Finding {
    pub what: String,
    pub state: &'static str,
    pub said: String,
    /// The command that mends it.
    pub cure: Option<String>,
}

fn finding(what: &str, state: &'static str, said: impl Into<String>, cure: Option<&str>) -> Finding {
    Finding { what: what.to_owned(), state, said: said.into(), cure: cure.map(str::to_owned) }
}

pub fn doctor(roots: &Roots) -> Vec<Finding> {
    let login = rootless::login();
    let mut findings = login.iter().flat_map(rootless::doctor::findings).map(of_a_user).collect::<Vec<_>>();
    if let Err(err) = rootless::enter(roots) {
        findings.push(of_a_user(rootless::doctor::not_entered(&err)));
        return findings;
    }
    findings.extend(look_at_host());
    let mut live = Vec::new();
    for (id, dir, record) in store::pods(roots) {
        findings.extend(look_at_pod(roots, &id, &dir, record));
        live.push(id);
    }
    let leftovers = prune(roots, Prune::DryRun, false).unwrap_or_default();
    findings.push(match leftovers.len() {
        0 => finding("leftovers", "ok", "nothing on this host belongs to no pod", None),
        _ => finding("leftovers", "wrong", leftovers.join("; "), Some("podrun prune --force")),
    });
    if login.is_some() {
        // The host's links and firewall are root's affair.
        return findings;
    }
    findings.extend(net::findings(roots, &live).into_iter().map(|found| {
        let state = match found.state {
            net::State::Good => "ok",
            net::State::Note => "info",
            net::State::Bad => "wrong",
        };
        Finding { what: "network".to_owned(), state, said: found.what, cure: found.cure }
    }));
    findings
}

fn of_a_user(found: rootless::doctor::Found) -> Finding {
    Finding { what: found.what.to_owned(), state: found.state, said: found.said, cure: found.cure }
}

fn look_at_host() -> Vec<Finding> {
    let mut findings = Vec::new();
    match super::create::probe() {
        Ok(host) => {
            let missing = crate::caps::names(crate::caps::mask(caps::all()) & !host.capabilities);
            findings.push(match missing.is_empty() {
                true => finding("capabilities", "ok", "podrun has all", None),
                false => {
                    let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
                    let said = format!("withheld: {}; what needs them is refused", names.join(", "));
                    finding("capabilities", "info", said, None)
                }
            });
            let version = format!("{:?}", host.cgroups.version()).to_lowercase();
            findings.push(finding("cgroups", "ok", version, None));
        }
        Err(err) => findings.push(finding("privileges", "wrong", err.cause(), err.cure())),
    }
    let release =
        nix::sys::utsname::uname().map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(['.', '-']).filter_map(|part| part.parse::<u32>().ok());
    let old = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (5, 10);
    findings.push(match old {
        false => finding("kernel", "ok", release, None),
        true => finding("kernel", "wrong", format!("{release} is older than 5.10"), Some("install a newer kernel")),
    });
    findings.extend(calls::missing().map(|call| {
        let (state, price) = match call.need {
            Need::Always => ("wrong", "no pod can be made"),
            Need::Sometimes => ("info", "a pod that lost pause and then its monitor cannot be mended"),
            Need::Never => ("info", "the older way is taken"),
        };
        finding("kernel", state, format!("it has no {} (Linux {}): {price}", call.name, call.since), None)
    }));
    findings
}

fn look_at_pod(roots: &Roots, id: &PodId, dir: &PodDir, record: Result<store::PodRecord>) -> Option<Finding> {
    match record {
        Ok(record) => {
            let pod = Pod { roots: roots.clone(), dir: dir.clone(), record };
            let what = format!("pod {}", pod.record.title());
            let delete = format!("podrun delete pod {}", pod.record.name);
            if let Err(err) = store::format::understands(dir) {
                return Some(not_understood(&what, &err));
            }
            match heal::look(&pod) {
                Served::Yes | Served::Soon => None,
                Served::NoMonitor { .. } => {
                    let cure = format!("podrun wait {}; any command to the pod starts one", pod.record.name);
                    Some(finding(&what, "wrong", "its monitor died after its pause", Some(&cure)))
                }
                Served::Lost => Some(finding(&what, "wrong", "pause and monitor died together", Some(&delete))),
            }
        }
        Err(_) if store::is_locked(dir) || !dir.record().exists() => None,
        Err(err) if err.kind == Kind::Unsupported => Some(not_understood(&format!("pod {}", id.short()), &err)),
        Err(err) => {
            let cure = format!("podrun delete pod {id} --force");
            Some(finding(&format!("pod {}", id.short()), "wrong", err.to_string(), Some(&cure)))
        }
    }
}

fn not_understood(what: &str, err: &Error) -> Finding {
    finding(what, "wrong", format!("{}: {}", err.what_was_being_done(), err.cause()), err.cure())
}
