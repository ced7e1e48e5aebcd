//! Network definitions: what an administrator wishes a network to be, one JSON file each under the root.
//!
//! A definition says nothing of what is on the host now (`bridge` remembers that), so it outlives a reboot, and may be
//! written by hand. `bridge` and `ptp` are there without a file; theirs, where there is one, says what is to be different.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::id::NetworkName;
use crate::net::cidr::Cidr;
use crate::net::link::LEAST_OF_IPV6;
use crate::net::lock::{directory, replace};
use crate::net::vlan;
use crate::roots::Roots;
use crate::spec::network::{self, Attach, Below, IpvlanMode, MacvlanMode, Network};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

/// What joins the pods of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Driver {
    #[default]
    Bridge,
    Ptp,
    Macvlan,
    Ipvlan,
    /// A bridge on each of several hosts, with VXLAN between them.
    Vxlan,
    /// Plugins; described by a configuration of theirs, and by no definition of ours.
    Cni,
    /// A process of the user's, and no definition either.
    Pasta,
}

impl Driver {
    pub const ALL: [(&'static str, Self); 5] = [
        ("bridge", Self::Bridge),
        ("macvlan", Self::Macvlan),
        ("ipvlan", Self::Ipvlan),
        ("ptp", Self::Ptp),
        ("vxlan", Self::Vxlan),
    ];

    pub fn word(self) -> &'static str {
        let other = if self == Self::Pasta { "pasta" } else { "cni" };
        Self::ALL.iter().find(|(_, driver)| *driver == self).map_or(other, |(word, _)| word)
    }

    pub fn has_a_bridge(self) -> bool {
        matches!(self, Self::Bridge | Self::Vxlan)
    }

    /// Whether its pods hang on a link of the host's, so that podrun makes nothing but their interfaces.
    pub fn hangs_on_a_link(self) -> bool {
        matches!(self, Self::Macvlan | Self::Ipvlan)
    }
}

/// The file's words. Absent means: podrun chooses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Definition {
    pub driver: Driver,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Cidr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The part of the subnet that is handed out; the rest can be asked for by `ip=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Cidr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<Cidr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range6: Option<Cidr>,
    /// No way out of it.
    pub internal: bool,
    /// Whether other networks of podrun's are kept away.
    pub isolate: bool,
    pub masquerade: bool,
    /// Whether its pods reach each other ("inter-container communication").
    pub icc: bool,
    /// The spanning tree protocol of IEEE 802.1D.
    pub stp: bool,
    /// No name server.
    pub disable_dns: bool,
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The link that macvlan and ipvlan hang on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The IEEE 802.1Q number of a link below the parent, which they hang on instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The host's address that published ports are at where none is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_binding: Option<IpAddr>,
    /// An overlay's number, the VXLAN network identifier: 24 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// The range of all hosts of an overlay together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_cidr: Option<Cidr>,
    /// The other hosts of an overlay, and the part of its range that each has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: BTreeMap<IpAddr, Cidr>,
    /// What the peers know this host by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// An overlay's UDP port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

impl Default for Definition {
    fn default() -> Self {
        Self {
            driver: Driver::Bridge,
            subnet: None,
            gateway: None,
            range: None,
            subnet6: None,
            gateway6: None,
            range6: None,
            internal: false,
            isolate: true,
            masquerade: true,
            icc: true,
            stp: false,
            disable_dns: false,
            labels: BTreeMap::new(),
            mtu: None,
            parent: None,
            mode: None,
            vlan: None,
            host_binding: None,
            vni: None,
            cluster_cidr: None,
            peers: BTreeMap::new(),
            local: None,
            port: None,
            created_at: None,
        }
    }
}

/// Whether a network's pods learn each other's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Names {
    #[default]
    Told,
    Untold,
}

/// One family's part of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    pub subnet: Cidr,
    pub gateway: Option<IpAddr>,
    pub range: Option<Cidr>,
}

impl Definition {
    /// The ranges that it names, IPv4's first.
    pub fn wishes(&self) -> impl Iterator<Item = Wish> {
        let four = self.subnet.map(|subnet| Wish { subnet, gateway: self.gateway, range: self.range });
        let six = self.subnet6.map(|subnet| Wish { subnet, gateway: self.gateway6, range: self.range6 });
        four.into_iter().chain(six)
    }

    /// The range that no other network may use a part of: all of an overlay's, not only this host's.
    pub fn claims(&self) -> impl Iterator<Item = Cidr> {
        let whole = move |range: &Cidr| self.cluster_cidr.is_some_and(|cluster| cluster.contains(range.address));
        let own = self.wishes().map(|wish| wish.subnet).filter(move |range| !whole(range));
        self.cluster_cidr.into_iter().chain(own)
    }

    /// Whether somebody outside can be let in to its pods by the host.
    pub fn has_a_way_in(&self) -> bool {
        !self.internal && !self.driver.hangs_on_a_link() && !matches!(self.driver, Driver::Cni | Driver::Pasta)
    }

    pub fn names(&self) -> Names {
        if self.disable_dns { Names::Untold } else { Names::Told }
    }

    /// Whether the network has a name server, which answers at a bridge's own address.
    pub fn resolves_names(&self) -> bool {
        self.driver.has_a_bridge() && self.names() == Names::Told
    }

    /// What is wrong with it by itself.
    pub fn check(&self) -> Result<(), String> {
        check_family(4, self.subnet, self.gateway, self.range)?;
        check_family(6, self.subnet6, self.gateway6, self.range6)?;
        if let Some(mtu) = self.mtu.filter(|mtu| !(68..=65_535).contains(mtu)) {
            return Err(format!("mtu: {mtu} is not within 68 and 65535"));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < LEAST_OF_IPV6 && self.subnet6.is_some()) {
            return Err(format!("mtu: {mtu} is less than the {LEAST_OF_IPV6} that IPv6 needs"));
        }
        if self.internal && !self.isolate {
            return Err("internal: a network that is not isolated is not internal".to_owned());
        }
        if self.internal && self.host_binding.is_some() {
            return Err("hostBinding: nobody comes into an internal network".to_owned());
        }
        self.check_driver()
    }

    fn check_driver(&self) -> Result<(), String> {
        let driver = self.driver.word();
        let (stp, icc) = (("stp", self.stp), ("icc", !self.icc));
        let (isolate, masquerade) = (("isolate", !self.isolate), ("masquerade", !self.masquerade));
        let binding = ("hostBinding", self.host_binding.is_some());
        let refused = match self.driver {
            Driver::Bridge => vec![],
            Driver::Ptp => vec![stp, icc],
            // What one host keeps its pods from, another would not.
            Driver::Vxlan if self.subnet6.is_some() => return Err(OVERLAYS_ARE_FOUR.to_owned()),
            Driver::Vxlan => vec![icc],
            // Their traffic does not pass through this host's rules.
            Driver::Macvlan | Driver::Ipvlan => vec![stp, icc, isolate, masquerade, binding],
            Driver::Pasta => return Err("driver: pasta is for one pod, and is not described".to_owned()),
            Driver::Cni => return Err("driver: a network of plugins is described below /etc/cni/net.d".to_owned()),
        };
        if let Some((key, _)) = refused.into_iter().find(|(_, set)| *set) {
            return Err(format!("{key}: not for the driver {driver}"));
        }
        self.check_overlay()?;
        if !self.driver.hangs_on_a_link() {
            return match (&self.parent, &self.mode, self.vlan) {
                (None, None, None) => Ok(()),
                _ => Err(format!("parent, mode and vlan: only macvlan and ipvlan hang on a link, {driver} does not")),
            };
        }
        let parent = self.parent.as_deref().ok_or(format!("parent: {driver} needs a link of the host"))?;
        network::link_name(parent).map_err(|cause| format!("parent: {cause}"))?;
        if let Some(id) = self.vlan {
            // IEEE 802.1Q, 9.6: twelve bits, of which 0 is for nobody and 4095 reserved.
            if !(1..=4094).contains(&id) {
                return Err(format!("vlan: {id} is not within 1 and 4094"));
            }
            network::link_name(&vlan::name(parent, id)).map_err(|cause| format!("vlan: {cause}"))?;
        }
        let modes = match self.driver {
            Driver::Macvlan => network::mode(&MacvlanMode::ALL, self.mode.as_deref()).map(drop),
            _ => network::mode(&IpvlanMode::ALL, self.mode.as_deref()).map(drop),
        };
        modes.map_err(|err| format!("mode: {}", err.cause()))?;
        match self.wishes().next() {
            Some(_) => Ok(()),
            None => Err(format!("subnet: {driver} needs the range of the network behind its link")),
        }
    }

    fn check_overlay(&self) -> Result<(), String> {
        if self.driver != Driver::Vxlan {
            let set = [
                self.vni.is_some(),
                self.cluster_cidr.is_some(),
                !self.peers.is_empty(),
                self.local.is_some(),
                self.port.is_some(),
            ];
            return match set.contains(&true) {
                true => Err(format!(
                    "vni, clusterCidr, peers, local and port: only for vxlan, not for {}",
                    self.driver.word()
                )),
                false => Ok(()),
            };
        }
        match self.vni {
            None => return Err("vni: vxlan needs the number of the overlay, the same on all its hosts".to_owned()),
            // RFC 7348, 5: 24 bits; 0 is for nobody.
            Some(vni @ (0 | 0x100_0000..)) => return Err(format!("vni: {vni} is not within 1 and 16777215")),
            Some(_) => {}
        }
        let cluster = self.cluster_cidr.ok_or("clusterCidr: vxlan needs the range of all its hosts together")?;
        let own = self.subnet.ok_or("subnet: vxlan needs the part of the cluster's range that this host has")?;
        check_family(4, Some(cluster), None, None).map_err(|cause| cause.replacen("subnet", "clusterCidr", 1))?;
        let within = |part: Cidr| part.prefix >= cluster.prefix && cluster.contains(part.address);
        if !within(own) {
            return Err(format!("subnet: {own} is not within {cluster}"));
        }
        let mut parts = vec![own];
        for (peer, part) in &self.peers {
            if !within(*part) {
                return Err(format!("peers: {part} of {peer} is not within {cluster}"));
            }
            if let Some(other) = parts.iter().find(|other| other.overlaps(*part)) {
                return Err(format!(
                    "peers: {part} of {peer} overlaps {other}: no two hosts may have the same addresses"
                ));
            }
            if *part != part.network() {
                return Err(format!(
                    "peers: {part} of {peer} has bits beyond its prefix, {} is the range",
                    part.network()
                ));
            }
            parts.push(*part);
        }
        if let Some(end) = self.peers.keys().chain(&self.local).find(|end| Cidr::alone(**end).is_no_hosts().is_some()) {
            return Err(format!("peers: {end} is no host's address"));
        }
        let mut ends = self.peers.keys().chain(&self.local);
        match ends.next().is_none_or(|first| ends.all(|one| one.is_ipv4() == first.is_ipv4())) {
            true => Ok(()),
            false => Err("peers: one tunnel is of IPv4 or of IPv6, not of both".to_owned()),
        }
    }

    pub fn macvlan(&self) -> Below<MacvlanMode> {
        let mode = network::mode(&MacvlanMode::ALL, self.mode.as_deref()).unwrap_or_default();
        Below { parent: self.parent.clone().unwrap_or_default(), mode }
    }

    pub fn ipvlan(&self) -> Below<IpvlanMode> {
        let mode = network::mode(&IpvlanMode::ALL, self.mode.as_deref()).unwrap_or_default();
        Below { parent: self.parent.clone().unwrap_or_default(), mode }
    }
}

const OVERLAYS_ARE_FOUR: &str = "subnet6: the pods of an overlay speak IPv4 alone";

fn check_family(family: u8, subnet: Option<Cidr>, gateway: Option<IpAddr>, range: Option<Cidr>) -> Result<(), String> {
    let Some(subnet) = subnet else {
        return match gateway.map(|ip| ip.to_string()).or(range.map(|range| range.to_string())) {
            Some(lonely) => Err(format!("{lonely} was given without the subnet that it is of")),
            None => Ok(()),
        };
    };
    let four = family == 4;
    if subnet.address.is_ipv4() != four {
        return Err(format!("subnet: {subnet} is not an IPv{family} range"));
    }
    let (least, most) = if four { (8, 31) } else { (16, 126) };
    if subnet.prefix < least {
        return Err(format!("subnet: {subnet} is more than any network"));
    }
    if subnet.prefix > most {
        return Err(format!("subnet: {subnet} has no room for a gateway and a pod"));
    }
    if let Some(what) = subnet.is_no_hosts() {
        return Err(format!("subnet: {subnet} has {what} addresses, which are no host's"));
    }
    let is_host = |ip: IpAddr| subnet.offset(ip).is_some_and(|offset| subnet.hosts().contains(&offset));
    if let Some(gateway) = gateway.filter(|gateway| !is_host(*gateway)) {
        return Err(format!("gateway: {gateway} is no host's address of {subnet}"));
    }
    match range {
        Some(range) if !subnet.contains(range.network().address) || range.prefix < subnet.prefix => {
            Err(format!("range: {range} is not within {subnet}"))
        }
        _ => Ok(()),
    }
}

/// What podrun itself means by these words; no network of a user's may have one of them.
const RESERVED: [&str; 10] =
    ["bridge", "ptp", "host", "none", "pasta", "macvlan", "ipvlan", "vxlan", "default", "podrun"];

/// Networks that are there without a definition.
pub const BUILT_IN: [(&str, Driver); 2] = [("bridge", Driver::Bridge), ("ptp", Driver::Ptp)];

/// The name that leases and records have for what an interface leads to, and its definition.
pub fn of(roots: &Roots, attach: &Attach) -> Result<(String, Definition)> {
    match &attach.network {
        Network::Named(name) => Ok((name.to_string(), find(roots, name.as_str())?)),
        Network::Macvlan(Below { parent, mode }) => {
            let word = MacvlanMode::ALL.iter().find(|(_, known)| known == mode).map(|(word, _)| (*word).to_owned());
            on_a_link(Driver::Macvlan, parent, word, attach)
        }
        Network::Ipvlan(Below { parent, mode }) => {
            let word = IpvlanMode::ALL.iter().find(|(_, known)| known == mode).map(|(word, _)| (*word).to_owned());
            on_a_link(Driver::Ipvlan, parent, word, attach)
        }
        built_in => Ok((built_in.to_string(), find(roots, &built_in.to_string())?)),
    }
}

/// A network of one address: that which was asked for. Its name has a dot, which no network's has.
fn on_a_link(driver: Driver, parent: &str, mode: Option<String>, attach: &Attach) -> Result<(String, Definition)> {
    let name = format!("{}.{parent}", driver.word());
    let bad = |cause: String| Error::new(Kind::Usage, format!("attach the pod to {}", attach.network), cause);
    let mut definition = Definition { driver, mode, parent: Some(parent.to_owned()), ..Definition::default() };
    for one in &attach.ip {
        let Some(prefix) = one.prefix else {
            return Err(bad(format!("ip={} has no prefix", one.address)).hint(format!("as in ip={}/24", one.address)));
        };
        let subnet = Some(Cidr { address: one.address, prefix }.network());
        let gateway = attach.gateway.filter(|gateway| gateway.is_ipv4() == one.address.is_ipv4());
        match one.address.is_ipv4() {
            true => (definition.subnet, definition.gateway) = (subnet, gateway),
            false => (definition.subnet6, definition.gateway6) = (subnet, gateway),
        }
    }
    definition.check().map_err(bad)?;
    Ok((name, definition))
}

/// A definition by its network's name.
pub fn find(roots: &Roots, name: &str) -> Result<Definition> {
    let file = file(roots, name);
    let doing = || format!("read {}", file.display());
    let built_in = BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, driver)| *driver);
    let text = match (fs::read(&file), built_in) {
        (Err(err), Some(driver)) if err.kind() == ErrorKind::NotFound => {
            return Ok(Definition { driver, ..Definition::default() });
        }
        (Err(err), None) if err.kind() == ErrorKind::NotFound => return Err(missing(roots, name)),
        (read, _) => read.doing(doing)?,
    };
    let bad = |cause: String| Error::new(Kind::Invalid, doing(), cause);
    let mut definition: Definition = serde_json::from_slice(&text).map_err(|err| bad(err.to_string()))?;
    if let Some(driver) = built_in {
        definition.driver = driver;
    }
    definition.check().map_err(bad)?;
    Ok(definition)
}

fn missing(roots: &Roots, name: &str) -> Error {
    let built_in = BUILT_IN.iter().map(|(name, _)| (*name).to_owned());
    let known: Vec<String> = built_in.chain(names(roots).unwrap_or_default()).collect();
    let there = format!("there are {}", known.join(", "));
    let hint = match (RESERVED.contains(&name), known.len() > BUILT_IN.len()) {
        (true, _) => there,
        (false, true) => format!("{there}; `podrun network create {name}` makes it"),
        (false, false) => format!("podrun network create {name}"),
    };
    Error::new(Kind::NotFound, format!("find the network {name}"), "there is none of this name").hint(hint)
}

/// The networks that somebody made, by name.
pub fn names(roots: &Roots) -> Result<Vec<String>> {
    let listing = match fs::read_dir(roots.networks()) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(|| format!("read {}", roots.networks().display()))?,
    };
    let files = listing.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let named = files.filter_map(|file| Some(file.strip_suffix(".json")?.to_owned()));
    let mut names: Vec<String> = named.filter(|name| NetworkName::parse(name).is_ok() && !is_built_in(name)).collect();
    names.sort();
    Ok(names)
}

pub fn is_built_in(name: &str) -> bool {
    BUILT_IN.iter().any(|(known, _)| *known == name)
}

/// Whether somebody may give a network this name.
pub fn check_name(name: &NetworkName) -> Result<()> {
    match RESERVED.contains(&name.as_str()) {
        false => Ok(()),
        true => Err(Error::new(Kind::Usage, format!("create the network {name}"), "the name means something already")
            .hint("the default bridge is described by networks/bridge.json under podrun's root")),
    }
}

/// That there is none of this name; for callers that hold the networks' lock until theirs is written.
pub fn check_new(roots: &Roots, name: &NetworkName) -> Result<()> {
    match file(roots, name.as_str()).exists() {
        false => Ok(()),
        true => Err(Error::new(Kind::AlreadyExists, format!("create the network {name}"), "it is there")
            .hint(format!("podrun network inspect {name}"))),
    }
}

/// Writes one, over the one that may be there.
pub fn rewrite(roots: &Roots, name: &NetworkName, definition: &Definition) -> Result<()> {
    directory(&roots.networks())?;
    let text = serde_json::to_vec_pretty(definition).expect("a definition is plain data");
    replace(&file(roots, name.as_str()), &text)
}

pub fn file(roots: &Roots, name: &str) -> PathBuf {
    roots.networks().join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Definition, String> {
        let definition: Definition = serde_json::from_str(text).map_err(|err| err.to_string())?;
        definition.check().map(|()| definition)
    }

    #[test]
    fn a_definition_is_checked() {
        assert_eq!(read("{}"), Ok(Definition::default()));
        assert_eq!(read(r#"{"subnet": "10.1.0.0/24", "mtu": 1400}"#).unwrap().mtu, Some(1400));
        for right in [
            r#"{"subnet": "10.1.0.0/24", "gateway": "10.1.0.254", "range": "10.1.0.128/25"}"#,
            r#"{"subnet6": "fd00::/64", "gateway6": "fd00::1"}"#,
            r#"{"driver": "macvlan", "parent": "eth0", "subnet": "192.0.2.0/24", "mode": "vepa"}"#,
            r#"{"driver": "ptp", "subnet": "10.1.0.0/24", "subnet6": "fd00::/64"}"#,
            r#"{"hostBinding": "127.0.0.1"}"#,
            r#"{"driver": "ipvlan", "parent": "eth0", "subnet": "192.0.2.0/24", "vlan": 4094}"#,
        ] {
            assert_eq!(read(right).map(drop), Ok(()), "{right}");
        }
        for (bad, why) in [
            (r#"{"subnet": "10.1.0.0/32"}"#, "no room"),
            (r#"{"subnet": "0.0.0.0/0"}"#, "more than any network"),
            (r#"{"subnet": "fd00::/64"}"#, "not an IPv4 range"),
            (r#"{"subnet6": "10.1.0.0/24"}"#, "not an IPv6 range"),
            (r#"{"subnet": "x"}"#, "no /prefix"),
            (r#"{"mtu": 67}"#, "not within"),
            (r#"{"mtu": 1279, "subnet6": "fd00::/64"}"#, "1280"),
            (r#"{"subnets": []}"#, "unknown field"),
            (r#"{"subnet": "10.1.0.0/24", "gateway": "10.2.0.1"}"#, "no host's address"),
            (r#"{"subnet": "10.1.0.0/24", "gateway": "10.1.0.255"}"#, "no host's address"),
            (r#"{"subnet": "10.1.0.0/24", "range": "10.1.0.0/23"}"#, "not within"),
            (r#"{"subnet": "10.1.0.0/24", "range": "10.2.0.0/25"}"#, "not within"),
            (r#"{"gateway": "10.1.0.1"}"#, "without the subnet"),
            (r#"{"internal": true, "isolate": false}"#, "not internal"),
            (r#"{"driver": "macvlan", "subnet": "192.0.2.0/24"}"#, "needs a link"),
            (r#"{"driver": "macvlan", "parent": "eth0"}"#, "needs the range"),
            (r#"{"driver": "macvlan", "parent": "eth0", "subnet": "192.0.2.0/24", "mode": "l3"}"#, "none of this name"),
            (
                r#"{"driver": "macvlan", "parent": "eth0", "subnet": "192.0.2.0/24", "icc": false}"#,
                "not for the driver macvlan",
            ),
            (r#"{"driver": "ptp", "stp": true}"#, "not for the driver ptp"),
            (r#"{"parent": "eth0"}"#, "bridge does not"),
            (r#"{"vlan": 42}"#, "bridge does not"),
            (
                r#"{"driver": "macvlan", "parent": "eth0", "subnet": "192.0.2.0/24", "vlan": 0}"#,
                "not within 1 and 4094",
            ),
            (r#"{"driver": "ipvlan", "parent": "eth0", "subnet": "192.0.2.0/24", "vlan": 4095}"#, "not within 1"),
            (r#"{"driver": "macvlan", "parent": "enp0s31f6np0", "subnet": "192.0.2.0/24", "vlan": 4094}"#, "vlan: "),
            (
                r#"{"driver": "macvlan", "parent": "eth0", "subnet": "192.0.2.0/24", "hostBinding": "::1"}"#,
                "not for the driver",
            ),
            (r#"{"internal": true, "hostBinding": "127.0.0.1"}"#, "nobody comes into"),
            (r#"{"hostBinding": "localhost"}"#, "invalid IP address"),
            (r#"{"vni": 42}"#, "only for vxlan"),
            (r#"{"driver": "vxlan"}"#, "needs the number"),
            (r#"{"driver": "vxlan", "vni": 0}"#, "not within 1"),
            (r#"{"driver": "vxlan", "vni": 16777216}"#, "not within 1"),
            (r#"{"driver": "vxlan", "vni": 1}"#, "clusterCidr: vxlan needs"),
            (r#"{"driver": "vxlan", "vni": 1, "clusterCidr": "10.90.0.0/16"}"#, "subnet: vxlan needs"),
            (
                r#"{"driver": "vxlan", "vni": 1, "clusterCidr": "fd00::/48", "subnet": "10.90.1.0/24"}"#,
                "clusterCidr: fd00::/48",
            ),
            (r#"{"driver": "vxlan", "vni": 1, "clusterCidr": "10.90.0.0/16", "subnet": "10.91.1.0/24"}"#, "not within"),
            (
                r#"{"driver": "vxlan", "vni": 1, "clusterCidr": "10.90.0.0/16", "subnet": "10.90.1.0/24", "icc": false}"#,
                "icc",
            ),
            (
                r#"{"driver": "vxlan", "vni": 1, "clusterCidr": "10.90.0.0/16", "subnet": "10.90.1.0/24", "subnet6": "fd00::/64"}"#,
                "subnet6: the pods of an overlay speak IPv4 alone",
            ),
            (
                r#"{"driver": "vxlan", "vni": 1, "clusterCidr": "10.90.0.0/16", "subnet": "10.90.1.0/24", "local": "127.0.0.1"}"#,
                "127.0.0.1 is no host's",
            ),
            (r#"{"subnet": "224.0.0.0/16"}"#, "multicast"),
            (r#"{"subnet": "0.0.0.0/8"}"#, "unspecified"),
            (r#"{"subnet": "127.5.0.0/16"}"#, "loopback"),
            (r#"{"subnet": "255.255.255.0/24"}"#, "broadcast"),
            (r#"{"subnet6": "fe80::/64"}"#, "link-local"),
            (r#"{"subnet6": "ff02::/64"}"#, "multicast"),
            (r#"{"subnet6": "::ffff:10.0.0.0/104"}"#, "IPv4"),
            (r#"{"subnet6": "::/64"}"#, "loopback"),
            ("{\n", "line 2"),
        ] {
            let err = read(bad).unwrap_err();
            assert!(err.contains(why), "{bad}: {err}");
        }
    }

    #[test]
    fn each_host_of_an_overlay_has_a_part_of_its_own() {
        let overlay = |peers: &str| {
            read(&format!(
                r#"{{"driver": "vxlan", "vni": 42, "clusterCidr": "10.90.0.0/16", "subnet": "10.90.1.0/24", "peers": {{{peers}}}}}"#
            ))
        };
        let made = overlay(r#""198.51.100.2": "10.90.2.0/24", "198.51.100.3": "10.90.3.0/24""#).unwrap();
        assert_eq!(made.claims().map(|range| range.to_string()).collect::<Vec<_>>(), ["10.90.0.0/16"]);
        for (peers, why) in [
            (r#""198.51.100.2": "10.91.2.0/24""#, "not within"),
            (r#""198.51.100.2": "10.90.1.128/25""#, "overlaps 10.90.1.0/24"),
            (r#""198.51.100.2": "10.90.2.0/24", "198.51.100.3": "10.90.2.0/23""#, "overlaps 10.90.2.0/24"),
            (r#""198.51.100.2": "10.90.2.1/24""#, "10.90.2.0/24 is the range"),
            (r#""198.51.100.2": "10.90.2.0/24", "2001:db8::2": "10.90.3.0/24""#, "not of both"),
            (r#""host": "10.90.2.0/24""#, "invalid IP address"),
        ] {
            let err = overlay(peers).unwrap_err();
            assert!(err.contains(why), "{peers}: {err}");
        }
    }

    #[test]
    fn a_network_of_one_address_has_the_range_of_its_prefix() {
        let attach = Attach::parse("macvlan:parent=eth0,ip=192.0.2.7/24,gateway=192.0.2.1").unwrap();
        let (name, definition) = of(&Roots::default(), &attach).unwrap();
        assert_eq!(name, "macvlan.eth0");
        assert_eq!(definition.subnet.unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(definition.gateway.unwrap().to_string(), "192.0.2.1");
        let bare = Attach::parse("macvlan:parent=eth0,ip=192.0.2.7").unwrap();
        assert_eq!(of(&Roots::default(), &bare).unwrap_err().cause(), "ip=192.0.2.7 has no prefix");
    }
}
