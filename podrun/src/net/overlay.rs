//! VXLAN (RFC 7348): one flat network over several hosts, each of which has a part of its range.
//!
//! ```text
//!   pod 10.90.1.2 ─ bridge 10.90.1.1 ─ host's routes ─ vxlan ═══ UDP ═══ vxlan ─ host's routes ─ bridge ─ pod 10.90.2.2
//! ```
//! The hosts route between their parts, so that each needs to know of each other just one thing: which part it has. The
//! hardware address of a peer's device follows from that part; route, neighbour and forwarding entry are said once and for
//! ever. Nothing is asked by broadcast, nothing is learned from what comes in, and a packet for nobody is not sent to all.
//!
//! VXLAN itself believes everybody (RFC 7348, 7): the firewall's part of this is [`crate::net::nft::Tunnel`]'s.

#![forbid(unsafe_code)]

use crate::error::{Doing, Result};
use crate::net::cidr::{Cidr, Mac};
use crate::net::definition::Definition;
use crate::net::forward;
use crate::net::link::{Link, Netlink, Tunnel};
use crate::net::nft;
use crate::net::ranges::Facts;
use crate::roots::Roots;
use crate::sys;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

/// RFC 7348, 4: assigned by IANA.
pub const PORT: u16 = 4789;

/// What an overlay is on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overlay {
    pub device: String,
    pub vni: u32,
    pub port: u16,
    /// What peers know this host by, where the kernel is not to choose.
    pub local: Option<IpAddr>,
    /// The range of all hosts together.
    pub cluster: Cidr,
    pub peers: BTreeMap<IpAddr, Cidr>,
}

impl Overlay {
    pub fn of(roots: &Roots, name: &str, definition: &Definition) -> Option<Self> {
        Some(Self {
            device: roots.vxlan_of(name),
            vni: definition.vni?,
            port: definition.port.unwrap_or(PORT),
            local: definition.local,
            cluster: definition.cluster_cidr?.network(),
            peers: definition.peers.clone(),
        })
    }

    /// What a frame, UDP, the header of VXLAN and the inner frame's own header take of each packet: RFC 7348, 5.
    fn overhead(&self) -> u32 {
        let six = self.peers.keys().chain(&self.local).any(IpAddr::is_ipv6);
        if six { 70 } else { 50 }
    }

    /// What fits through the narrowest of the links towards the peers.
    pub fn mtu(&self, facts: &Facts) -> u32 {
        let ways = self.peers.keys().filter_map(|peer| facts.mtu_of(source_towards(*peer, self.port)?));
        ways.min().unwrap_or_else(|| facts.mtu_outwards()).saturating_sub(self.overhead())
    }

    pub fn part(&self) -> nft::Tunnel {
        let Self { device, vni, port, cluster, .. } = self.clone();
        nft::Tunnel { device, vni, port, cluster, peers: self.peers.keys().copied().collect() }
    }

    /// The device with one entry of each kind for each peer, and none for those of `before` that are peers no more.
    pub fn make(&self, host: &Netlink, own: Own, before: Option<&Self>, links: &[Link]) -> Result<()> {
        let there = links.iter().any(|link| link.name == self.device);
        let same = before
            .is_some_and(|before| before.vni == self.vni && before.port == self.port && before.local == self.local);
        if there && !same {
            host.delete(&self.device)?;
        }
        if !(there && same) {
            host.add_vxlan(&Tunnel {
                name: &self.device,
                vni: self.vni,
                port: self.port,
                local: self.local,
                mac: Mac::vxlan(own.subnet),
                mtu: own.mtu,
            })?;
        }
        let index = sys::net::link_index(&self.device).doing(|| format!("find the link {}", self.device))?;
        quiet(&self.device)?;
        host.set_up(index)?;
        let gone = before
            .into_iter()
            .flat_map(|before| &before.peers)
            .filter(|(peer, part)| self.peers.get(peer) != Some(part));
        gone.filter(|_| same).try_for_each(|(peer, part)| host.remove_peer(index, *peer, *part))?;
        self.peers.iter().try_for_each(|(peer, part)| host.set_peer(index, *peer, *part, own.gateway))
    }
}

/// This host's own part.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    pub subnet: Cidr,
    pub gateway: IpAddr,
    pub mtu: u32,
}

/// Nobody on the other side is asked for IPv6 addresses, nor believed.
fn quiet(device: &str) -> Result<()> {
    let file = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
    if !Path::new(&file).exists() {
        return Ok(());
    }
    forward::write(Path::new(&file), "1").doing(|| format!("write 1 to {file}"))
}

/// The address that the host would send from; nothing is sent. None while there is no route.
fn source_towards(peer: IpAddr, port: u16) -> Option<IpAddr> {
    let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((peer, port)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
