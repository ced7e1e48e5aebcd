//! What belongs to no live pod: links, leases, and with the last pod of a network what was made for it.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::id::PodId;
use crate::net::bridge;
use crate::net::cni;
use crate::net::definition;
use crate::net::ipam;
use crate::net::link::{Link, Netlink};
use crate::net::lock::{Hold, gone, lock};
use crate::net::ports;
use crate::net::vlan;
use crate::privilege::Privilege;
use crate::roots::Roots;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Whether to prune, or only to tell what would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    DryRun,
    Now,
}

/// Removes what belongs to no live pod: links, leases, the bridges of networks without a pod, and, where none is left, the
/// rules and the change of forwarding. Says what went.
///
/// A pod whose directory is there counts as live when it is not on the list: it may have been made since. So remove
/// dead pods' directories first.
pub fn prune(roots: &Roots, live: &[PodId], how: Prune) -> Result<Vec<String>> {
    let in_use = |pod: &PodId| live.contains(pod) || roots.pod(pod).exists();
    let mut said = ports::prune(roots, in_use, how == Prune::Now)?;
    if Privilege::own() != Privilege::Host {
        // A user has changed nothing else of the host's network.
        return Ok(said);
    }
    said.extend(cni::prune(roots, &in_use, how));
    let known = bridge::known(roots)?;
    let made = |name: &String| bridge::remembered(roots, name).is_some() || bridge::remains_of(roots, name).is_some();
    let vlans = vlan::unused(roots, &Netlink::here()?)?;
    let nothing = ipam::networks(roots)?.is_empty() && !known.iter().any(made) && vlans.is_empty();
    if nothing && bridge::remains(roots)?.is_empty() {
        return Ok(said);
    }
    let _held = match how {
        Prune::Now => Some(lock(&bridge::lock_file(roots), Hold::Exclusive)?),
        Prune::DryRun => None,
    };
    let lives = |pod: &PodId| live.contains(pod) || (how == Prune::Now && roots.pod(pod).exists());
    let host = Netlink::here()?;
    let leftover = Leftover::look(roots, &host, &lives)?;
    said.extend(leftover.say());
    if how == Prune::Now {
        leftover.remove(roots, &host, &lives)?;
    }
    // With their last lease just now, perhaps.
    for link in vlan::unused(roots, &host)? {
        said.push(format!("link {}", link.name));
        if how == Prune::Now {
            host.delete(&link.name)?;
        }
    }
    let (used, unused): (Vec<String>, Vec<String>) =
        known.into_iter().partition(|name| leftover.kept.get(name).is_some_and(|kept| *kept > 0));
    said.extend(unused.iter().filter_map(|name| bridge::remains_of(roots, name)));
    let last = !used.iter().any(|name| bridge::remembered(roots, name).is_some());
    if last {
        said.extend(bridge::remains(roots)?);
    }
    if how == Prune::Now && (last || unused.iter().any(made)) {
        bridge::unmake(roots, &host, &unused)?;
    }
    Ok(said)
}

/// The networks of which something is in the run-root, whether or not a pod uses them.
pub fn made(roots: &Roots) -> Result<BTreeSet<String>> {
    let leased = ipam::networks(roots)?;
    Ok(bridge::recorded(roots).into_iter().chain(leased.iter().map(|directory| name_of(directory))).collect())
}

/// Takes away those that were not there `before` and that no pod uses, for a command that made them and then failed.
pub fn take_back(roots: &Roots, before: &BTreeSet<String>) -> Result<()> {
    if made(roots)?.is_subset(before) {
        return Ok(());
    }
    let _held = lock(&bridge::lock_file(roots), Hold::Exclusive)?;
    let mut new = made(roots)?;
    new.retain(|name| !before.contains(name) && !ipam::is_used(&roots.leases().join(name)));
    let leased = new.iter().map(|name| roots.leases().join(name)).filter(|directory| directory.is_dir());
    leased.collect::<Vec<_>>().iter().try_for_each(|directory| ipam::forget(directory))?;
    bridge::unmake(roots, &Netlink::here()?, &new.into_iter().collect::<Vec<_>>())
}

/// Removes a network that nobody uses: what is on the host for it, what dead pods left in it, its definition.
pub fn remove_network(roots: &Roots, name: &str, lives: &impl Fn(&PodId) -> bool) -> Result<()> {
    let _held = lock(&bridge::lock_file(roots), Hold::Exclusive)?;
    let directory = roots.leases().join(name);
    if directory.is_dir() {
        ipam::prune(&directory, lives)?;
        if !ipam::survey(&directory)?.is_empty() {
            return Err(Error::new(
                Kind::NotNow,
                "take it down",
                "a pod on it is being made or deleted at this moment",
            ));
        }
        ipam::forget(&directory)?;
    }
    let host = Netlink::here()?;
    vlan::unused(roots, &host)?.iter().try_for_each(|link| host.delete(&link.name))?;
    // Of dead pods whose namespace somebody else still holds; without their bridge nobody would know whose they are.
    let links = host.links()?;
    let dead = |link: &&Link| bridge::owner(link).is_some_and(|pod| !lives(&pod));
    links_of(roots, name, &links).filter(dead).try_for_each(|link| host.delete(&link.name))?;
    if bridge::remains_of(roots, name).is_some() || bridge::remembered(roots, name).is_some() {
        bridge::unmake(roots, &host, &[name.to_owned()])?;
    }
    let file = definition::file(roots, name);
    gone(fs::remove_file(&file)).doing(|| format!("remove {}", file.display()))
}

/// What belongs to no live pod.
pub(super) struct Leftover {
    pub(super) links: Vec<Link>,
    leases: Vec<String>,
    /// How many leases and links live pods have, by network.
    kept: BTreeMap<String, usize>,
}

impl Leftover {
    pub(super) fn look(roots: &Roots, host: &Netlink, lives: &impl Fn(&PodId) -> bool) -> Result<Self> {
        let mut found = Self { links: Vec::new(), leases: Vec::new(), kept: BTreeMap::new() };
        let mut needed = BTreeSet::new();
        for network in ipam::networks(roots)? {
            for entry in ipam::survey(&network)?.values() {
                if entry.holders.iter().any(lives) {
                    *found.kept.entry(name_of(&network)).or_default() += 1;
                    needed.extend(entry.links(&network));
                } else {
                    found.leases.push(entry.say());
                }
            }
        }
        let links = host.links()?;
        for name in bridge::known(roots)? {
            for link in links_of(roots, &name, &links) {
                match bridge::owner(link) {
                    Some(pod) if !lives(&pod) && !needed.contains(&link.name) => found.links.push(link.clone()),
                    _ => *found.kept.entry(name.clone()).or_default() += 1,
                }
            }
        }
        Ok(found)
    }

    fn say(&self) -> impl Iterator<Item = String> {
        let links = self.links.iter().map(|link| format!("link {}", link.name));
        links.chain(self.leases.iter().cloned())
    }

    /// Links first: an address is free only when its link is gone.
    fn remove(&self, roots: &Roots, host: &Netlink, lives: &impl Fn(&PodId) -> bool) -> Result<()> {
        self.links.iter().try_for_each(|link| host.delete(&link.name))?;
        for network in ipam::networks(roots)? {
            ipam::prune(&network, lives)?;
            ipam::forget(&network)?;
        }
        Ok(())
    }
}

fn name_of(directory: &Path) -> String {
    directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The host's ends of a network: the ports of its bridge, or its group.
fn links_of<'a>(roots: &Roots, name: &str, links: &'a [Link]) -> impl Iterator<Item = &'a Link> {
    let bridge = roots.bridge_of(name);
    let bridge = links.iter().find(|link| link.name == bridge).map(|link| link.index);
    let group = roots.link_group_of(name);
    links.iter().filter(move |link| (bridge.is_some() && link.bridge == bridge) || link.group == group)
}
