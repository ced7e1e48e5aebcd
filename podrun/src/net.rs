//! Networks of a pod: which addresses it has, how it is wired, and what that leaves on the host.
//!
//! * a bridge: a veth pair whose peer is born in the pod's network namespace, a lease, the host's bridge and rules.
//! * `vxlan`: a bridge, and a tunnel to the other hosts of the network, which route to each other's pods.
//! * `ptp`: the same without a bridge; the host routes each address to its link.
//! * `macvlan`, `ipvlan`: an interface in the pod that hangs on a link of the host, and a lease.
//! * `cni:CONFLIST`: whatever its plugins make ([`cni`]).
//! * `pasta`: a process of the user's that turns packets into sockets ([`pasta`]).
//! * `none`, `host`, `netns:PATH`: nothing is attached, so there is nothing here to do.
//! * `pod:NAME`: the member shares what the other pod holds ([`share`]), and gives it back by its own [`detach`]; the
//!   addresses live until the last of them.
//!
//! [`attach`] wires, [`detach`] needs nothing but the pod's id, does not wait for the kernel, and may be called twice.
//! [`prune()`] removes what belongs to no pod, and, when no pod is left, every change to the host.

#![forbid(unsafe_code)]

pub mod bridge;
pub mod cidr;
pub mod cni;
pub mod conntrack;
pub mod definition;
pub mod devices;
mod doctor;
pub mod elements;
pub mod files;
pub mod forward;
mod hanging;
pub mod ipam;
pub mod link;
pub mod lock;
pub mod names;
mod netlink;
pub mod nfnetlink;
pub mod nft;
pub mod overlay;
pub mod pasta;
pub mod ports;
mod prune;
pub mod ranges;
mod seen;
pub mod service;
pub mod vlan;
mod wire;

use crate::error::Result;
use crate::id::PodId;
use crate::net::cidr::Cidr;
use crate::net::definition::Driver;
use crate::roots::Roots;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

pub use doctor::{Finding, State, findings};
pub use prune::{Prune, made, prune, remove_network, take_back};
pub use seen::{Seen, look};
pub use wire::{Pod, attach, detach_from, disconnect, give_way_out, name_of};

/// A pod on a network: what its record says about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    #[serde(default)]
    pub driver: Driver,
    /// The interface inside the pod.
    pub interface: String,
    /// Its other end on the host, where it has one.
    pub host_interface: Option<String>,
    pub addresses: Vec<Cidr>,
    /// The way out by this interface, where there is one; IPv6's stands beside it.
    pub gateway: Option<IpAddr>,
    #[serde(default)]
    pub gateway6: Option<IpAddr>,
    /// Whether that is the pod's way out. Of the first builds' one interface it was.
    #[serde(default = "yes")]
    pub default_route: bool,
    pub mac: String,
    pub mtu: u32,
    pub bridge: Option<String>,
    /// What the network's plugins say of names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<cni::result::Dns>,
    /// Where the pod asks for names, when the network resolves them.
    #[serde(default)]
    pub names: Option<IpAddr>,
}

fn yes() -> bool {
    true
}

impl Attachment {
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.gateway.into_iter().chain(self.gateway6).collect()
    }
}

/// Where a pod with these interfaces asks for names: on the network that leads out, since what podrun does not know is asked
/// from there. One server is enough, since each tells of all networks that the pod is on.
pub fn name_server(attachments: &[Attachment]) -> Option<IpAddr> {
    let leads_out = attachments.iter().filter(|one| one.default_route);
    leads_out.chain(attachments).find_map(|one| one.names)
}

/// `member` joins the network namespace of `pod`: both hold its leases from now on, and the last to leave ends them.
pub fn share(roots: &Roots, pod: &PodId, member: &PodId) -> Result<()> {
    ipam::share(roots, pod, member)?;
    cni::share(roots, pod, member, None)
}

/// The same of one network.
pub fn join(roots: &Roots, network: &str, pod: &PodId, member: &PodId) -> Result<()> {
    match cni::is_title(network) {
        true => cni::share(roots, pod, member, Some(network)),
        false => ipam::join(roots, network, pod, member),
    }
}

/// `pod` lets go of what it shares with others on a network.
pub fn leave(roots: &Roots, network: &str, pod: &PodId) -> Result<()> {
    match cni::is_title(network) {
        true => cni::leave(roots, network, std::slice::from_ref(pod), None),
        false => ipam::leave(roots, network, std::slice::from_ref(pod)),
    }
}

/// The networks of which the pod holds something.
pub fn held_by(roots: &Roots, pod: &PodId) -> Result<Vec<String>> {
    let mut held = ipam::held_by(roots, pod)?;
    held.extend(cni::held_by(roots, pod));
    Ok(held)
}

/// Ends what the pod holds: its links are silenced at once and go with its network namespace, unless another pod has
/// joined that. Its ports are free before its addresses are. From the id alone, whatever a crash left; twice is fine.
pub fn detach(roots: &Roots, pod: &PodId) -> Result<()> {
    // Before its ports are anybody's.
    let led_out = pasta::detach(roots, pod);
    let closed = ports::release(roots, pod);
    ipam::release(roots, pod).and(closed).and(led_out)
}

/// Puts back what is missing of the host's side: bridge, rules, published ports. Nothing where nothing was made, or nothing
/// is missing.
pub fn restore(roots: &Roots) -> Result<()> {
    bridge::restore(roots)
}
