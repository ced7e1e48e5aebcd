//! The bridge of the default network: made on first use, remembered in the run-root, undone when no pod is left.
//!
//! `networks/bridge.json` in the run-root says what was made and what the host was like before. Each attach holds the
//! network's lock shared, whoever makes or undoes it exclusively; whether all is still there costs an attach some
//! microseconds and no process: boot id, network namespace, the bridge's index, and one question to netfilter.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::PodId;
use crate::net::cidr::{Cidr, Mac, choose, overlapped};
use crate::net::forward::{self, Former};
use crate::net::ipam::{self, Pool};
use crate::net::link::{Ipv6, Link, Netlink, Route};
use crate::net::lock::{Hold, directory, flock, gone, lock, replace};
use crate::net::nft;
use crate::net::ports::{self, Loopback};
use crate::roots::Roots;
use crate::sys;
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The name of the default network.
pub const NAME: &str = "bridge";

/// Where nothing else is known, Ethernet's.
const MTU: u32 = 1500;
/// RFC 8200: the least that IPv6 works with, and enough for anybody's IPv4.
const LEAST_MTU: u32 = 1280;

/// What was made on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    pub version: u32,
    pub name: String,
    pub bridge: String,
    pub index: u32,
    pub subnet: Cidr,
    pub gateway: IpAddr,
    pub mtu: u32,
    pub ipv6: Ipv6,
    pub outside: Outside,
    /// What to restore; absent where the host forwarded already.
    pub former: Option<Former>,
    place: Place,
}

/// Whether pods reach what is beyond the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Outside {
    Open,
    NoNft,
    Failed { why: String },
}

/// An index or a namespace's number means something only there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    boot: String,
    netns: u64,
}

/// `networks/bridge.json` under the root: what an administrator wishes for. Absent means: podrun chooses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub subnet: Option<Cidr>,
    pub mtu: Option<u32>,
}

/// The network, ready for use, with its lock.
pub fn hold(roots: &Roots) -> Result<(Flock<File>, Network)> {
    let held = lock(&lock_file(roots), Hold::Shared)?;
    if let Some(network) = ready(roots)? {
        return Ok((held, network));
    }
    drop(held);
    hold_alone(roots)
}

/// The same with nobody beside: made where it is missing. Fifty pods may wait here for the one that makes it.
pub fn hold_alone(roots: &Roots) -> Result<(Flock<File>, Network)> {
    let held = lock(&lock_file(roots), Hold::Exclusive)?;
    let network = match ready(roots)? {
        Some(network) => network,
        None => make(roots)?,
    };
    Ok((held, network))
}

/// All of it anew: the rules are not those that this podrun wrote.
pub fn reload(roots: &Roots) -> Result<()> {
    let _held = lock(&lock_file(roots), Hold::Exclusive)?;
    match make(roots)?.outside {
        Outside::Open => Ok(()),
        Outside::NoNft => Err(no_nft()),
        Outside::Failed { why } => Err(Error::new(Kind::Kernel, RULES, why)),
    }
}

/// The same, where anything was made and not all of it is there any more.
pub fn restore(roots: &Roots) -> Result<()> {
    if remembered(roots).is_none() {
        return Ok(());
    }
    let file = lock_file(roots);
    let _held = lock(&file, Hold::Exclusive)?;
    match (remembered(roots), ready(roots)?) {
        (Some(_), Some(_)) => Ok(()),
        (Some(_), None) => match make(roots)?.outside {
            Outside::Open => Ok(()),
            Outside::NoNft => Err(no_nft()),
            Outside::Failed { why } => Err(Error::new(Kind::Kernel, RULES, why)),
        },
        // Somebody has just undone it all; nor is there to be a lock.
        (None, _) => {
            gone(fs::remove_file(&file)).doing(|| format!("remove {}", file.display()))?;
            let _ = fs::remove_dir(networks(roots));
            Ok(())
        }
    }
}

const RULES: &str = "write the firewall rules";

fn no_nft() -> Error {
    Error::new(Kind::Unsupported, RULES, "nft is not on PATH")
        .hint("install nftables: without it no port can be published")
}

/// What is remembered, when all of it is still there.
fn ready(roots: &Roots) -> Result<Option<Network>> {
    let Some(network) = remembered(roots) else { return Ok(None) };
    let here = network.place == Place::here()? && sys::net::link_index(&network.bridge) == Ok(network.index);
    let open = match network.outside {
        Outside::Open => here && nft::table_exists(&roots.table())?,
        Outside::NoNft => here && nft::find().is_none(),
        Outside::Failed { .. } => false,
    };
    Ok(open.then_some(network))
}

/// What was made, whether or not it is still there.
pub fn remembered(roots: &Roots) -> Option<Network> {
    serde_json::from_slice(&fs::read(state_file(roots)).ok()?).ok()
}

fn make(roots: &Roots) -> Result<Network> {
    let definition = definition(roots)?;
    let place = Place::here()?;
    // Another run-root could be choosing its range at this moment; the namespace itself is the lock between them.
    let netns = File::open(NETNS).doing(|| format!("open {NETNS}"))?;
    let _choosing = flock(netns, Hold::Exclusive, Instant::now() + Duration::from_secs(30), Path::new(NETNS))?;

    let host = Netlink::here()?;
    let facts = Facts::look(&host, &roots.bridge())?;
    let known = remembered(roots).filter(|known| known.place == place);
    let subnet = plan(definition.subnet, known.as_ref().map(|known| known.subnet), &facts)?;
    let gateway = subnet.nth(*subnet.hosts().start());
    let mtu = definition.mtu.unwrap_or_else(|| facts.mtu_outwards());
    let ipv6 = if Path::new("/proc/sys/net/ipv6").exists() { Ipv6::Known } else { Ipv6::Unknown };
    let mut network = Network {
        version: 1,
        name: NAME.to_owned(),
        bridge: roots.bridge(),
        index: 0,
        subnet,
        gateway,
        mtu,
        ipv6,
        outside: Outside::NoNft,
        former: known.and_then(|known| known.former),
        place,
    };
    network.index = make_bridge(roots, &host, &network, &facts)?;
    fault::step("create-pod.bridged").doing(|| "make the pod".into())?;
    open_outside(roots, &mut network)?;
    fault::step("create-pod.opened-outside").doing(|| "make the pod".into())?;
    remember(roots, &network)?;
    Ok(network)
}

const NETNS: &str = "/proc/thread-self/ns/net";

fn make_bridge(roots: &Roots, host: &Netlink, network: &Network, facts: &Facts) -> Result<u32> {
    if facts.ours.is_none() {
        host.add_bridge(&network.bridge, Mac::pod(network.gateway), network.mtu)?;
    }
    let index = sys::net::link_index(&network.bridge).doing(|| format!("find the bridge {}", network.bridge))?;
    if network.ipv6 == Ipv6::Known {
        quiet(&network.bridge)?;
    }
    if facts.address_of(index).is_none() {
        host.add_address(index, Cidr { address: network.gateway, prefix: network.subnet.prefix })?;
    }
    host.set_up(index)?;
    if facts.ours.is_none() {
        take_back_ports(roots, host, index)?;
    }
    Ok(index)
}

/// A bridge without IPv6 addresses has no use for IPv6: no pod can move the host's routes by a router advertisement
/// (CVE-2020-13597), nor reach the host's services by a link-local address.
fn quiet(bridge: &str) -> Result<()> {
    for (key, value) in [("accept_ra", "0"), ("disable_ipv6", "1")] {
        let file = format!("/proc/sys/net/ipv6/conf/{bridge}/{key}");
        forward::write(Path::new(&file), value).doing(|| format!("write {value} to {file}"))?;
    }
    Ok(())
}

/// Somebody deleted the bridge under living pods: their links come back to the new one.
fn take_back_ports(roots: &Roots, host: &Netlink, bridge: u32) -> Result<()> {
    let directory = roots.leases().join(NAME);
    for entry in ipam::survey(&directory)?.values() {
        for link in entry.links(&directory).iter().filter_map(|name| sys::net::link_index(name).ok()) {
            host.set_bridge(link, bridge)?;
        }
    }
    Ok(())
}

/// Rules first, then forwarding: the host never forwards for pods what the rules would not.
fn open_outside(roots: &Roots, network: &mut Network) -> Result<()> {
    let Some(nft) = nft::find() else { return Ok(()) };
    let now = forward::now()?;
    network.former = network.former.take().or_else(|| forward::to_remember(&now));
    // Remembered before it is changed, so that a crash in between can be undone.
    remember(roots, network)?;
    let networks = [nft::Masquerade { bridge: &network.bridge, subnet: network.subnet }];
    let (held, mappings) = ports::hold_all(roots)?;
    let rules = nft::rules(&roots.table(), &networks, &mappings);
    let opened = nft::apply(&nft, &rules).and_then(|()| forward::turn_on(&now));
    drop(held);
    if opened.is_ok() && !mappings.is_empty() {
        ports::let_loopback_out(&network.bridge, Loopback::Out)?;
    }
    network.outside = match opened {
        Ok(()) => Outside::Open,
        Err(err) => Outside::Failed { why: format!("{}: {}", err.what_was_being_done(), err.cause()) },
    };
    Ok(())
}

/// Undoes all that `make` did, as far as it can; what is left is remembered, and the first reason told. For callers
/// that hold the lock; twice is fine.
pub fn unmake(roots: &Roots, host: &Netlink) -> Result<()> {
    let undone = [host.delete(&roots.bridge()), remove_table(roots), restore_forwarding(roots)];
    undone.into_iter().collect::<Result<()>>()?;
    for file in [state_file(roots), lock_file(roots)] {
        gone(fs::remove_file(&file)).doing(|| format!("remove {}", file.display()))?;
    }
    ports::forget(roots)?;
    for empty in [networks(roots), roots.leases()] {
        let _ = fs::remove_dir(empty); // stays where another network still has something in it
    }
    Ok(())
}

fn remove_table(roots: &Roots) -> Result<()> {
    let table = roots.table();
    if !nft::table_exists(&table)? {
        return Ok(());
    }
    let missing = || {
        Error::new(Kind::Unsupported, format!("remove the nftables table {table}"), "nft is not on PATH")
            .hint("install nftables, then run `podrun prune` again")
    };
    nft::apply(&nft::find().ok_or_else(missing)?, &nft::removal(&table))
}

fn restore_forwarding(roots: &Roots) -> Result<()> {
    let here = Place::here()?;
    let former = remembered(roots).filter(|known| known.place == here).and_then(|known| known.former);
    former.as_ref().map_or(Ok(()), forward::restore)
}

/// What `unmake` would undo.
pub fn remains(roots: &Roots) -> Result<Vec<String>> {
    let mut found = Vec::new();
    if sys::net::link_index(&roots.bridge()).is_ok() {
        found.push(format!("bridge {}", roots.bridge()));
    }
    if nft::table_exists(&roots.table())? {
        found.push(format!("nftables table inet {}", roots.table()));
    }
    if let Some(network) = remembered(roots) {
        let changed = network.turned_on(&forward::now()?);
        if !changed.is_empty() {
            found.push(format!("forwarding of {}", changed.join(", ")));
        }
    }
    Ok(found)
}

impl Network {
    pub fn pool(&self, roots: &Roots) -> Pool {
        Pool::new(roots, &self.name, self.subnet, self.gateway)
    }

    /// The host's own interfaces whose forwarding podrun turned on; not what goes with its network anyway.
    pub fn turned_on(&self, now: &forward::Now) -> Vec<String> {
        let ours = |name: &str| {
            let pods = |end: &str| end.len() == 11 && end.bytes().all(|b| b.is_ascii_hexdigit());
            name == self.bridge || name.strip_prefix("veth").is_some_and(pods)
        };
        let changed = self.former.iter().flat_map(|former| forward::to_turn_off(former, now));
        changed.filter(|name| !ours(name)).cloned().collect()
    }

    /// What the user of a new pod should know.
    pub fn warnings(&self) -> Vec<String> {
        let bridge = &self.bridge;
        let cut_off = format!("pods on {bridge} reach each other and this host, but nothing beyond it");
        match &self.outside {
            Outside::Open => Vec::new(),
            Outside::NoNft => vec![format!("nft is not on PATH: {cut_off}; install nftables")],
            Outside::Failed { why } => vec![format!("{why}: {cut_off}")],
        }
    }
}

/// The host's side of the choice.
#[derive(Debug, Clone, Default)]
struct Facts {
    /// The link that has our bridge's name.
    ours: Option<Link>,
    links: Vec<Link>,
    addresses: Vec<(u32, Cidr)>,
    routes: Vec<Route>,
}

impl Facts {
    fn look(host: &Netlink, bridge: &str) -> Result<Self> {
        let links = host.links()?;
        let ours = links.iter().find(|link| link.name == bridge).cloned();
        Ok(Self { ours, links, addresses: host.addresses()?, routes: host.routes()? })
    }

    fn address_of(&self, link: u32) -> Option<Cidr> {
        self.addresses.iter().find(|(of, _)| *of == link).map(|(_, address)| *address)
    }

    /// What the host already uses, our own bridge aside.
    fn taken(&self) -> Vec<Cidr> {
        let ours = self.ours.as_ref().map(|link| link.index);
        let routes = self.routes.iter().filter(|route| route.by.is_none() || route.by != ours).map(|route| route.to);
        let addresses = self.addresses.iter().filter(|(of, _)| Some(*of) != ours).map(|(_, address)| *address);
        addresses.chain(routes).collect()
    }

    /// The MTU of the way out, so that what a pod sends fits (a cloud's overlay has less than 1500).
    fn mtu_outwards(&self) -> u32 {
        let out =
            self.routes.iter().find(|route| route.to.prefix == 0 && route.by.is_some()).and_then(|route| route.by);
        let link = self.links.iter().find(|link| Some(link.index) == out);
        link.map_or(MTU, |link| link.mtu.clamp(LEAST_MTU, 65_535))
    }
}

/// Which range the bridge gets: the one that its pods already live in, the one that is wished for, the next free one.
fn plan(wished: Option<Cidr>, known: Option<Cidr>, facts: &Facts) -> Result<Cidr> {
    let doing = || "choose the bridge's address range".to_owned();
    if let Some(link) = &facts.ours {
        if !link.is_bridge {
            return Err(Error::new(Kind::AlreadyExists, doing(), format!("{} is there and is no bridge", link.name))
                .hint(format!("rename it, or `ip link del {}`", link.name)));
        }
        if let Some(address) = facts.address_of(link.index) {
            return Ok(address.network());
        }
    }
    let taken = facts.taken();
    if let Some(known) = known.filter(|known| overlapped(*known, &taken).is_none()) {
        return Ok(known.network());
    }
    match wished {
        Some(wished) => match overlapped(wished, &taken) {
            None => Ok(wished.network()),
            Some(other) => Err(Error::new(Kind::Invalid, doing(), format!("{wished} overlaps {other} of this host"))
                .hint("give a range that the host has no address in and no route to")),
        },
        None => choose(&taken).ok_or_else(|| {
            Error::new(Kind::Exhausted, doing(), "the host has routes to every private range that podrun tries")
                .hint("name a free range as `{\"subnet\": \"…\"}` in networks/bridge.json under podrun's root")
        }),
    }
}

fn definition(roots: &Roots) -> Result<Definition> {
    let file = roots.networks().join(format!("{NAME}.json"));
    let doing = || format!("read {}", file.display());
    let text = match fs::read(&file) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Definition::default()),
        other => other.doing(doing)?,
    };
    let definition: Definition =
        serde_json::from_slice(&text).map_err(|err| Error::new(Kind::Invalid, doing(), err))?;
    check(definition).map_err(|cause| Error::new(Kind::Invalid, doing(), cause))
}

fn check(definition: Definition) -> Result<Definition, String> {
    match definition.subnet {
        Some(subnet) if !subnet.address.is_ipv4() => Err(format!("subnet: {subnet} is not an IPv4 range")),
        Some(subnet) if subnet.prefix < 8 => Err(format!("subnet: {subnet} is more than any network")),
        Some(subnet) if subnet.prefix > 31 => Err(format!("subnet: {subnet} has no room for a gateway and a pod")),
        _ => match definition.mtu {
            Some(mtu) if !(68..=65_535).contains(&mtu) => Err(format!("mtu: {mtu} is not within 68 and 65535")),
            _ => Ok(definition),
        },
    }
}

impl Place {
    fn here() -> Result<Self> {
        let boot = "/proc/sys/kernel/random/boot_id";
        let boot = fs::read_to_string(boot).doing(|| format!("read {boot}"))?.trim().to_owned();
        let netns = fs::metadata(NETNS).doing(|| format!("look at {NETNS}"))?.ino();
        Ok(Self { boot, netns })
    }
}

fn remember(roots: &Roots, network: &Network) -> Result<()> {
    directory(&networks(roots))?;
    let text = serde_json::to_vec_pretty(network).expect("a network is plain data");
    replace(&state_file(roots), &text)
}

fn networks(roots: &Roots) -> PathBuf {
    roots.run.join("networks")
}

fn state_file(roots: &Roots) -> PathBuf {
    networks(roots).join(format!("{NAME}.json"))
}

pub fn lock_file(roots: &Roots) -> PathBuf {
    networks(roots).join(format!("{NAME}.lock"))
}

/// The pod that a link was made for, by what the link itself says.
pub fn owner(link: &Link) -> Option<PodId> {
    let pod = PodId::parse(link.alias.as_deref()?).ok()?;
    (pod.veth() == link.name).then_some(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        Cidr::parse(text).unwrap()
    }

    fn link(index: u32, name: &str, is_bridge: bool, mtu: u32) -> Link {
        let name = name.to_owned();
        Link { index, name, second_names: vec![], alias: None, bridge: None, is_bridge, up: true, mtu }
    }

    fn facts(ours: Option<&str>, routes: &[(&str, u32)]) -> Facts {
        let ours = ours.map(|address| (link(9, "podrun0", true, 1500), cidr(address)));
        Facts {
            addresses: ours.iter().map(|(link, address)| (link.index, *address)).collect(),
            links: vec![link(2, "eth0", false, 1450)],
            ours: ours.map(|(link, _)| link),
            routes: routes.iter().map(|(to, by)| Route { to: cidr(to), by: Some(*by) }).collect(),
        }
    }

    #[test]
    fn the_range_is_kept_then_wished_then_free() {
        let bare: &[(&str, u32)] = &[("0.0.0.0/0", 2)];
        let busy: &[(&str, u32)] = &[("10.88.0.0/16", 2), ("10.77.0.0/16", 2)];
        for (wished, known, ours, routes, chosen) in [
            (None, None, None, bare, Ok("10.88.0.0/16")),
            (None, None, None, busy, Ok("10.89.0.0/16")),
            (Some("10.99.0.0/29"), None, None, busy, Ok("10.99.0.0/29")),
            (Some("10.99.0.9/29"), None, None, busy, Ok("10.99.0.8/29")),
            (Some("10.77.8.0/24"), None, None, busy, Err("10.77.8.0/24 overlaps 10.77.0.0/16 of this host")),
            (Some("10.99.0.0/29"), Some("10.90.0.0/16"), None, busy, Ok("10.90.0.0/16")),
            (None, Some("10.88.0.0/16"), None, busy, Ok("10.89.0.0/16")),
            (Some("10.99.0.0/29"), None, Some("10.88.0.1/16"), bare, Ok("10.88.0.0/16")),
            (None, None, Some("10.88.0.1/16"), &[("10.88.0.0/16", 9)], Ok("10.88.0.0/16")),
        ] {
            let planned = plan(wished.map(cidr), known.map(cidr), &facts(ours, routes));
            assert_eq!(planned.map_err(|err| err.cause().to_owned()), chosen.map(cidr).map_err(str::to_owned));
        }
    }

    #[test]
    fn a_stranger_with_our_name_is_not_taken_for_the_bridge() {
        let facts = Facts { ours: Some(link(3, "podrun0", false, 1500)), ..Facts::default() };
        assert_eq!(plan(None, None, &facts).unwrap_err().kind, Kind::AlreadyExists);
    }

    #[test]
    fn the_mtu_is_the_way_outs() {
        assert_eq!(facts(None, &[("0.0.0.0/0", 2)]).mtu_outwards(), 1450);
        assert_eq!(facts(None, &[("10.0.0.0/8", 2)]).mtu_outwards(), 1500);
        let tiny = Facts { links: vec![link(2, "tun0", false, 576)], ..facts(None, &[("0.0.0.0/0", 2)]) };
        assert_eq!(tiny.mtu_outwards(), 1280);
    }

    #[test]
    fn a_definition_is_checked() {
        let read = |text: &str| serde_json::from_str(text).map_err(|err| err.to_string()).and_then(check);
        assert_eq!(read("{}"), Ok(Definition::default()));
        assert_eq!(read(r#"{"subnet": "10.1.0.0/24", "mtu": 1400}"#).unwrap().mtu, Some(1400));
        for (bad, why) in [
            (r#"{"subnet": "10.1.0.0/32"}"#, "no room"),
            (r#"{"subnet": "0.0.0.0/0"}"#, "more than any network"),
            (r#"{"subnet": "fd00::/64"}"#, "not an IPv4 range"),
            (r#"{"subnet": "x"}"#, "no /prefix"),
            (r#"{"mtu": 67}"#, "not within"),
            (r#"{"subnets": []}"#, "unknown field"),
            ("{\n", "line 2"),
        ] {
            let err = read(bad).unwrap_err();
            assert!(err.contains(why), "{bad}: {err}");
        }
    }

    #[test]
    fn a_link_belongs_to_the_pod_that_both_its_names_tell() {
        let pod = PodId::random([7; 16]);
        let named =
            |name: &str, alias: Option<&str>| Link { alias: alias.map(str::to_owned), ..link(5, name, false, 1500) };
        assert_eq!(owner(&named(&pod.veth(), Some(pod.as_str()))), Some(pod.clone()));
        assert_eq!(owner(&named("eth0", Some(pod.as_str()))), None);
        assert_eq!(owner(&named(&pod.veth(), None)), None);
        assert_eq!(owner(&named(&pod.veth(), Some("uplink"))), None);
    }
}
