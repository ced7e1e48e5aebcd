//! What is in a network namespace that somebody else wired, asked of the kernel each time: podrun keeps no record of it.

#![forbid(unsafe_code)]

use crate::error::Result;
use crate::net::cidr::Cidr;
use crate::net::link::Netlink;
use std::os::fd::BorrowedFd;

/// An interface as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub interface: String,
    pub mac: Option<String>,
    pub mtu: u32,
    /// Loopback's and link-local ones are every namespace's.
    pub addresses: Vec<Cidr>,
}

/// The interfaces of a network namespace, those with an address first; without a loopback that has no more than its own.
pub fn look(netns: BorrowedFd<'_>) -> Result<Vec<Seen>> {
    seen(&Netlink::inside(netns, || Ok(()))?)
}

/// The same of the network namespace that this thread is in.
pub(super) fn here() -> Result<Vec<Seen>> {
    seen(&Netlink::here()?)
}

fn seen(inside: &Netlink) -> Result<Vec<Seen>> {
    let addresses = inside.addresses()?;
    let mut seen: Vec<Seen> = inside
        .links()?
        .into_iter()
        .map(|link| {
            let own = addresses.iter().filter(|(index, one)| *index == link.index && !one.address.is_loopback());
            Seen {
                interface: link.name,
                mac: link.mac.map(|mac| mac.to_string()),
                mtu: link.mtu,
                addresses: own.map(|(_, one)| *one).collect(),
            }
        })
        .collect();
    seen.retain(|one| one.interface != "lo" || !one.addresses.is_empty());
    seen.sort_by_key(|one| (one.addresses.is_empty(), one.interface == "lo"));
    Ok(seen)
}
