//! Network interfaces of the host's that a container asks for (config-linux.md, "Network Devices"): they move into its network
//! namespace, which in a pod is the pod's, with their MTU, their hardware address and their lasting addresses.
//!
//! Does not bring them back from a container that ended: they are the namespace's, and what becomes of them when that ends is
//! the kernel's to say: a card is the host's again, an interface that is none goes with it.

#![forbid(unsafe_code)]

use super::cidr::Cidr;
use super::link::{Link, Netlink};
use crate::error::{Doing, Error, Kind, Result};
use crate::spec::Owner;
use oci_spec::runtime::LinuxNetDevice;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

/// One that is asked for: what the host calls it, and the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetDevice {
    pub on_the_host: String,
    pub inside: String,
}

/// What a document asks for, in the order of their names.
pub fn plan(asked: Option<&HashMap<String, LinuxNetDevice>>, owner: Owner) -> Result<Vec<NetDevice>> {
    let mut planned: Vec<NetDevice> = Vec::new();
    let asked: BTreeMap<_, _> = asked.into_iter().flatten().collect();
    for (name, device) in asked {
        let fail = |path: String, cause: &str| Err(Error::new(Kind::Invalid, format!("read {path}"), cause));
        let path = format!("linux.netDevices[{name:?}]");
        let inside = device.name().clone().filter(|inside| !inside.is_empty()).unwrap_or_else(|| name.clone());
        if owner == Owner::Host {
            return fail(path, "there is no network namespace of its own");
        }
        if !is_name(name) {
            return fail(path, NO_NAME);
        }
        if !is_name(&inside) && !is_pattern(&inside) {
            return fail(format!("{path}.name {inside:?}"), NO_NAME);
        }
        if !is_pattern(&inside) && planned.iter().any(|one| one.inside == inside) {
            return fail(format!("{path}.name {inside:?}"), "two devices cannot have one name");
        }
        planned.push(NetDevice { on_the_host: name.clone(), inside });
    }
    Ok(planned)
}

const NO_NAME: &str = "not the name of an interface";

/// dev_valid_name of the kernel: 15 bytes, no slash, no colon, no space; and no pattern.
fn is_name(name: &str) -> bool {
    let plain = |c: char| !matches!(c, '/' | ':' | '%') && !c.is_whitespace() && !c.is_control();
    (1..=15).contains(&name.len()) && !matches!(name, "." | "..") && name.chars().all(plain)
}

/// dev_alloc_name of the kernel: it puts a number that is free in the place of `%d`.
fn is_pattern(name: &str) -> bool {
    name.len() <= 15 && name.strip_suffix("%d").is_some_and(is_name)
}

/// Devices that were moved, and what they were on the host: for a way back, while nobody uses them yet.
#[derive(Debug, Default)]
pub struct Carried(Vec<(NetDevice, Link, Vec<Cidr>)>);

/// Moves all or none into `netns`, and turns them on there.
pub fn carry(devices: &[NetDevice], netns: BorrowedFd<'_>) -> Result<Carried> {
    let mut carried = Carried::default();
    if devices.is_empty() {
        return Ok(carried);
    }
    let (host, inside) = (Netlink::here()?, Netlink::inside(netns, || Ok(()))?);
    for device in devices {
        let moved = carry_one(device, &host, &inside, netns, &mut carried);
        if let Err(err) = moved {
            carried.give_back(netns);
            return Err(err.within(format!("move linux.netDevices[{:?}]", device.on_the_host)));
        }
    }
    Ok(carried)
}

fn carry_one(
    device: &NetDevice,
    host: &Netlink,
    inside: &Netlink,
    netns: BorrowedFd<'_>,
    carried: &mut Carried,
) -> Result<()> {
    let Some(link) = host.find(&device.on_the_host)? else {
        let err = Error::new(Kind::NotFound, "find it on the host", "there is no such interface");
        return Err(err.hint("a pod that had it keeps it until it is deleted"));
    };
    let addresses = host.lasting_addresses(link.index)?;
    if inside.find(&device.inside)?.is_some() {
        let doing = format!("name it {}", device.inside);
        return Err(Error::new(Kind::AlreadyExists, doing, "the pod has an interface of this name"));
    }
    let before = if is_pattern(&device.inside) { inside.links()? } else { Vec::new() };
    // A name that somebody takes in this moment: the kernel moves first, and then fails to rename.
    let stranded = |inside: &Netlink| inside.find(&device.on_the_host).ok().flatten();
    let another = stranded(inside);
    host.give(link.index, netns, &device.inside).inspect_err(|_| {
        if let (None, Some(there), Ok(home)) = (&another, stranded(inside), File::open(OWN_NETNS)) {
            let _ = inside.give(there.index, home.as_fd(), &device.on_the_host);
        }
    })?;
    let device = &match is_pattern(&device.inside) {
        true => NetDevice { inside: newcomer(inside, &before)?, ..device.clone() },
        false => device.clone(),
    };
    carried.0.push((device.clone(), link, addresses.clone()));
    if addresses.iter().any(|one| one.address.is_ipv6()) {
        Netlink::inside(netns, || speak_ipv6(&device.inside))?;
    }
    settle(inside, &device.inside, &addresses)
}

/// What the kernel called the one that was not there before.
fn newcomer(inside: &Netlink, before: &[Link]) -> Result<String> {
    let links = inside.links()?;
    let new = links.into_iter().find(|link| before.iter().all(|known| known.index != link.index));
    new.map(|link| link.name).ok_or_else(|| Error::new(Kind::Kernel, "find it inside", "it did not arrive"))
}

/// In a pod without IPv6 an interface begins without it, and would take no such address.
fn speak_ipv6(name: &str) -> Result<()> {
    let file = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    std::fs::write(&file, "0").doing(|| format!("write {file}"))
}

const OWN_NETNS: &str = "/proc/self/ns/net";

/// Up first: an IPv6 address of one that is down would not be tried.
fn settle(inside: &Netlink, name: &str, addresses: &[Cidr]) -> Result<()> {
    let Some(link) = inside.find(name)? else {
        return Err(Error::new(Kind::Kernel, "find it inside", "it did not arrive"));
    };
    inside.set_up(link.index)?;
    addresses.iter().try_for_each(|address| inside.add_address(link.index, *address))
}

impl Carried {
    /// To the host, as they were there. One that cannot go back stays where it is, to be seen there.
    pub fn give_back(&self, netns: BorrowedFd<'_>) {
        for (device, link, addresses) in &self.0 {
            let _ = Self::give_one_back(device, link, addresses, netns);
        }
    }

    fn give_one_back(device: &NetDevice, link: &Link, addresses: &[Cidr], netns: BorrowedFd<'_>) -> Result<()> {
        let home = File::open(OWN_NETNS).doing(|| "open the network namespace".to_owned())?;
        let (host, inside) = (Netlink::here()?, Netlink::inside(netns, || Ok(()))?);
        let Some(there) = inside.find(&device.inside)? else { return Ok(()) };
        inside.give(there.index, home.as_fd(), &device.on_the_host)?;
        let Some(back) = host.find(&device.on_the_host)? else { return Ok(()) };
        if link.up {
            host.set_up(back.index)?;
        }
        addresses.iter().try_for_each(|address| host.add_address(back.index, *address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: &str, owner: Owner) -> Result<Vec<NetDevice>> {
        plan(Some(&serde_json::from_str(json).unwrap()), owner)
    }

    #[test]
    fn a_device_has_its_name_or_another() {
        let found = planned(r#"{"b": {"name": "eth1"}, "a": {}, "c": {"name": ""}}"#, Owner::Pod).unwrap();
        let names: Vec<_> = found.iter().map(|one| (one.on_the_host.as_str(), one.inside.as_str())).collect();
        assert_eq!(names, [("a", "a"), ("b", "eth1"), ("c", "c")]);
        let found = planned(r#"{"a": {"name": "eth%d"}, "b": {"name": "eth%d"}}"#, Owner::Pod).unwrap();
        assert!(found.iter().all(|one| one.inside == "eth%d"));
        assert_eq!(plan(None, Owner::Host).unwrap(), []);
    }

    #[test]
    fn a_device_that_cannot_be_is_named_by_its_path() {
        for (json, owner, words) in [
            (r#"{"a": {}}"#, Owner::Host, "read linux.netDevices[\"a\"]: there is no network namespace of its own"),
            (r#"{"a/b": {}}"#, Owner::Pod, "read linux.netDevices[\"a/b\"]: not the name"),
            (r#"{"": {}}"#, Owner::Pod, "read linux.netDevices[\"\"]: not the name"),
            (
                r#"{"a": {"name": "a234567890123456"}}"#,
                Owner::Pod,
                "linux.netDevices[\"a\"].name \"a234567890123456\": not the name",
            ),
            (r#"{"a": {"name": ".."}}"#, Owner::Pod, "linux.netDevices[\"a\"].name \"..\": not the name"),
            (r#"{"a": {"name": "%d"}}"#, Owner::Pod, "linux.netDevices[\"a\"].name \"%d\": not the name"),
            (r#"{"a": {"name": "x y"}}"#, Owner::Pod, "linux.netDevices[\"a\"].name \"x y\": not the name"),
            (r#"{"a": {}, "b": {"name": "a"}}"#, Owner::Pod, "linux.netDevices[\"b\"].name \"a\": two devices"),
        ] {
            let err = planned(json, owner).unwrap_err().to_string();
            assert!(err.contains(words), "{err} has no {words}");
        }
    }
}
