//! IEEE 802.1Q: a link below one of the host's that carries only frames with a number, `eth0.42`, as ip-link(8) makes it.
//!
//! Networks of one run-root that name the same parent and number share it. It is made with the first pod of any of them, and
//! goes with `network rm` or `prune` once none has a pod. A link of that name that somebody else made is used, never removed:
//! podrun's own are known by their link group, which, unlike an alias, is set in the very message that makes them.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use crate::net::definition;
use crate::net::ipam;
use crate::net::link::{Link, Netlink};
use crate::roots::Roots;
use std::collections::BTreeSet;

/// No network has a name with a dot, so no network has this group.
const GROUP: &str = "802.1q";

pub fn name(parent: &str, id: u16) -> String {
    format!("{parent}.{id}")
}

/// The link, made where it is missing; for callers that hold the networks' lock and a lease.
pub(super) fn ensure(roots: &Roots, host: &Netlink, parent: &Link, id: u16) -> Result<Link> {
    let name = name(&parent.name, id);
    if let Some(there) = find(host, &name)? {
        return usable(host, parent, id, there);
    }
    let made = host.add_vlan(&name, parent.index, id, roots.link_group_of(GROUP));
    match find(host, &name)? {
        // Made by us, or by another pod's maker a moment before.
        Some(link) => usable(host, parent, id, link),
        None => Err(made
            .err()
            .map_or_else(|| Error::new(Kind::NotNow, format!("make the link {name}"), "it went at once"), explain)),
    }
}

fn find(host: &Netlink, name: &str) -> Result<Option<Link>> {
    Ok(host.links()?.into_iter().find(|link| link.name == name))
}

/// Whoever made it, it must lead where the name says.
fn usable(host: &Netlink, parent: &Link, id: u16, link: Link) -> Result<Link> {
    if link.vlan != Some((parent.index, id)) {
        let cause = format!("there is one that is not number {id} of {}", parent.name);
        return Err(Error::new(Kind::AlreadyExists, format!("make the link {}", link.name), cause)
            .hint(format!("ip -d link show {}", link.name)));
    }
    host.set_up(link.index)?;
    Ok(Link { up: true, ..link })
}

fn explain(err: Error) -> Error {
    // What rtnl_newlink answers where no module knows the kind.
    if err.cause() != nix::errno::Errno::EOPNOTSUPP.desc() {
        return err;
    }
    let doing = err.what_was_being_done().to_owned();
    Error::new(Kind::Unsupported, doing, format!("this kernel has no VLAN devices: {}", err.cause()))
        .hint("modprobe 8021q, where it is a module")
}

/// Links that podrun made and of which no network with a pod has a use.
pub(super) fn unused(roots: &Roots, host: &Netlink) -> Result<Vec<Link>> {
    let group = roots.link_group_of(GROUP);
    let ours: Vec<Link> = host.links()?.into_iter().filter(|link| link.group == group && link.vlan.is_some()).collect();
    if ours.is_empty() {
        return Ok(ours);
    }
    // A definition that cannot be read any more may be of one that is needed: then all stay.
    let Ok(needed) = needed(roots) else { return Ok(Vec::new()) };
    Ok(ours.into_iter().filter(|link| !needed.contains(&link.name)).collect())
}

fn needed(roots: &Roots) -> Result<BTreeSet<String>> {
    let mut needed = BTreeSet::new();
    for network in definition::names(roots)?.into_iter().filter(|name| ipam::is_used(&roots.leases().join(name))) {
        let definition = definition::find(roots, &network)?;
        needed.extend(definition.vlan.zip(definition.parent).map(|(id, parent)| name(&parent, id)));
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Doing;

    #[test]
    fn a_kernel_without_vlan_devices_is_told_with_its_own_word() {
        let err =
            |errno| Err::<(), _>(std::io::Error::from_raw_os_error(errno)).doing(|| "make the link eth0.4".to_owned());
        let word = nix::errno::Errno::EOPNOTSUPP.desc();
        let told = explain(err(libc::EOPNOTSUPP).unwrap_err());
        assert_eq!(
            (told.kind, told.cause()),
            (Kind::Unsupported, &*format!("this kernel has no VLAN devices: {word}"))
        );
        assert_eq!(explain(err(libc::EPERM).unwrap_err()).cause(), "Operation not permitted");
    }
}
