//! What networks are on the host: made with the first pod, remembered in the run-root, undone when no pod is left.
//!
//! `networks/<name>.json` in the run-root says what was made and what the host was like before. Each attach holds the
//! networks' lock shared, whoever makes or undoes one exclusively; whether all is still there costs an attach some
//! microseconds and no process: boot id, network namespace, the bridge's index, and one question to netfilter.
//!
//! The names of bridges and link groups follow from run-root and network, so what a crash left is found without any file.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::{NetworkName, PodId};
use crate::net::cidr::{Cidr, Mac};
use crate::net::definition::{self, BUILT_IN, Definition, Driver};
use crate::net::forward::{self, Family, Former};
use crate::net::ipam::{self, Ends, Pool, Range};
use crate::net::link::{Ipv6, Link, Netlink, Reach, Stp};
use crate::net::lock::{Hold, directory, flock, gone, lock, replace};
use crate::net::names;
use crate::net::nft::{self, Part, Policy, Side};
use crate::net::overlay::{Overlay, Own};
use crate::net::ports;
use crate::net::ranges::{self, Facts, Size};
use crate::net::service;
use crate::roots::Roots;
use crate::sys;
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The name of the default network.
pub const NAME: &str = "bridge";

/// What was made on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    pub version: u32,
    pub name: String,
    #[serde(default)]
    pub driver: Driver,
    /// Where the driver has one.
    pub bridge: Option<String>,
    pub index: u32,
    pub subnet: Cidr,
    pub gateway: IpAddr,
    #[serde(default)]
    pub range: Option<Cidr>,
    /// Its IPv6 range, where it has one.
    #[serde(default)]
    pub six: Option<Six>,
    /// Whether the host does not forward IPv6 for it, since it could only do so for everybody.
    #[serde(default)]
    pub six_cut_off: bool,
    pub mtu: u32,
    pub ipv6: Ipv6,
    #[serde(default)]
    pub policy: Policy,
    /// Where it goes on, on other hosts.
    #[serde(default)]
    pub overlay: Option<Overlay>,
    #[serde(default)]
    pub names: definition::Names,
    pub outside: Outside,
    /// What to restore; absent where the host forwarded already.
    pub former: Option<Former>,
    place: Place,
}

/// The second family of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Six {
    pub subnet: Cidr,
    pub gateway: IpAddr,
    pub range: Option<Cidr>,
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

/// The network, ready for use, with its lock.
pub fn hold(roots: &Roots, name: &str, definition: &Definition) -> Result<(Flock<File>, Network)> {
    let held = lock(&lock_file(roots), Hold::Shared)?;
    if let Some(network) = ready(roots, name)? {
        return Ok((held, network));
    }
    drop(held);
    hold_alone(roots, name, definition)
}

/// The same with nobody beside: made where it is missing. Fifty pods may wait here for the one that makes it.
pub fn hold_alone(roots: &Roots, name: &str, definition: &Definition) -> Result<(Flock<File>, Network)> {
    let held = lock(&lock_file(roots), Hold::Exclusive)?;
    let network = match ready(roots, name)? {
        Some(network) => network,
        // Somebody may have removed it since its definition was read.
        None if !definition::is_built_in(name) => make(roots, name, &definition::find(roots, name)?)?,
        None => make(roots, name, definition)?,
    };
    Ok((held, network))
}

/// Makes again what is missing of the networks that were made here; nothing where all is there. For a monitor that has
/// heard of a flush, while somebody may just be undoing it all.
pub fn restore(roots: &Roots) -> Result<()> {
    if all_remembered(roots)?.is_empty() {
        return Ok(());
    }
    let file = lock_file(roots);
    let held = lock(&file, Hold::Exclusive)?;
    let mut all = all_remembered(roots)?;
    if all.is_empty() {
        // Undone meanwhile; nor is there to be a lock.
        gone(fs::remove_file(&file)).doing(|| format!("remove {}", file.display()))?;
        let _ = fs::remove_dir(networks(roots));
        return Ok(());
    }
    for network in &all {
        if ready(roots, &network.name)?.is_none() {
            drop(held);
            all = reload(roots)?;
            break;
        }
    }
    all.iter().try_for_each(refuse_closed)
}

/// Without its rules a network's ports lead nowhere.
pub fn refuse_closed(network: &Network) -> Result<()> {
    const DOING: &str = "write the firewall rules";
    match &network.outside {
        Outside::Open => Ok(()),
        Outside::NoNft => Err(Error::new(Kind::Unsupported, DOING, "nft is not on PATH")
            .hint("install nftables: without it no port can be published")),
        Outside::Failed { why } => Err(Error::new(Kind::Kernel, DOING, why)),
    }
}

/// The table as it has to be, with every published port in it.
fn write_rules(roots: &Roots, nft: &Path, parts: &[Part]) -> Result<()> {
    let (_held, mappings) = ports::hold_all(roots)?;
    nft::apply(nft, &nft::rules(&roots.table(), parts, &mappings, &service::current(roots)))?;
    ports::forget_misled(&mappings)?;
    ports::reopen_loopback(roots)
}

/// The same for what has changed beside networks and ports; for callers that hold the lock alone.
pub fn rewrite(roots: &Roots) -> Result<()> {
    let all = all_remembered(roots)?;
    all.iter().try_for_each(refuse_closed)?;
    let parts: Vec<Part> = all.iter().map(|one| one.part(roots)).collect();
    match nft::find() {
        Some(nft) => write_rules(roots, &nft, &parts),
        None => Err(Error::new(Kind::Unsupported, "write the firewall rules", "nft is not on PATH")),
    }
}

/// What is remembered, when all of it is still there.
fn ready(roots: &Roots, name: &str) -> Result<Option<Network>> {
    let Some(network) = remembered(roots, name) else { return Ok(None) };
    let bridge = || network.bridge.as_ref().is_none_or(|bridge| sys::net::link_index(bridge) == Ok(network.index));
    let tunnel = || network.overlay.as_ref().is_none_or(|overlay| sys::net::link_index(&overlay.device).is_ok());
    let here = network.place == Place::here()? && bridge() && tunnel();
    let open = match network.outside {
        Outside::Open => here && nft::table_exists(&roots.table())?,
        Outside::NoNft => here && nft::find().is_none(),
        Outside::Failed { .. } => false,
    };
    Ok(open.then_some(network))
}

/// What was made, whether or not it is still there.
pub fn remembered(roots: &Roots, name: &str) -> Option<Network> {
    serde_json::from_slice(&fs::read(state_file(roots, name)).ok()?).ok()
}

/// All that were made here and since the boot.
pub fn all_remembered(roots: &Roots) -> Result<Vec<Network>> {
    let place = Place::here()?;
    let made = names_in(&networks(roots)).into_iter().filter_map(|name| remembered(roots, &name));
    Ok(made.filter(|network| network.place == place).collect())
}

/// Every network of which something may be on the host.
pub fn known(roots: &Roots) -> Result<BTreeSet<String>> {
    let built_in = BUILT_IN.iter().map(|(name, _)| (*name).to_owned());
    let leased = ipam::networks(roots)?;
    let leased = leased.iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    let all = built_in.chain(definition::names(roots)?).chain(names_in(&networks(roots))).chain(leased);
    Ok(all.filter(|name| NetworkName::parse(name).is_ok()).collect())
}

/// The names of those of which there is a record, whatever that is worth: one listing, for who only compares.
pub fn recorded(roots: &Roots) -> Vec<String> {
    names_in(&networks(roots))
}

fn names_in(directory: &Path) -> Vec<String> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = files.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = files.filter_map(|file| Some(file.strip_suffix(".json")?.to_owned())).collect();
    names.sort();
    names
}

/// The ranges of all networks but this one, made or only described.
fn other_ranges(roots: &Roots, name: &str) -> Result<Vec<(String, Cidr)>> {
    let mut ranges = Vec::new();
    for network in all_remembered(roots)?.into_iter().filter(|other| other.name != name) {
        ranges.extend(network.claims().map(|range| (network.name.clone(), range)));
    }
    for other in definition::names(roots)?.into_iter().filter(|other| other != name) {
        // A definition that cannot be read is told to whoever uses it.
        let Ok(definition) = definition::find(roots, &other) else { continue };
        let claims = definition.claims().filter(|_| !definition.driver.hangs_on_a_link());
        ranges.extend(claims.map(|range| (other.clone(), range)));
    }
    Ok(ranges)
}

/// Another run-root could be choosing its range at this moment; the namespace itself is the lock between them.
fn choosing() -> Result<Flock<File>> {
    let netns = File::open(NETNS).doing(|| format!("open {NETNS}"))?;
    flock(netns, Hold::Exclusive, Instant::now() + Duration::from_secs(30), Path::new(NETNS))
}

/// Refuses a range that the host or a network uses.
pub fn refuse_taken(roots: &Roots, range: Cidr, doing: &str) -> Result<()> {
    let facts = Facts::look(&Netlink::here()?, None, roots.link_group_of(""), None, other_ranges(roots, "")?)?;
    facts.refuse_taken(range, doing)
}

/// Writes the definition of a new network, with the ranges that it will have.
pub fn define(roots: &Roots, name: &NetworkName, mut definition: Definition) -> Result<Definition> {
    let doing = format!("create the network {name}");
    let _held = lock(&lock_file(roots), Hold::Exclusive)?;
    definition::check_new(roots, name)?;
    let _choosing = choosing()?;
    if !definition.driver.hangs_on_a_link() {
        let group = roots.link_group_of(name.as_str());
        let facts = Facts::look(&Netlink::here()?, None, group, None, other_ranges(roots, name.as_str())?)?;
        definition.claims().try_for_each(|range| facts.refuse_taken(range, &doing))?;
        definition.peers.keys().try_for_each(|peer| facts.refuse_own(*peer, &doing))?;
        if definition.subnet.is_none() {
            definition.subnet = Some(ranges::choose(Size::Small, &facts)?);
        }
    }
    definition.check().map_err(|cause| Error::new(Kind::Invalid, doing, cause))?;
    definition::rewrite(roots, name, &definition)?;
    Ok(definition)
}

/// Changes a network's definition, and with it what is on the host, where it is made.
pub fn redefine(roots: &Roots, name: &str, change: impl FnOnce(&mut Definition) -> Result<(), String>) -> Result<()> {
    let bad = |cause: String| Error::new(Kind::Invalid, format!("change the network {name}"), cause);
    let _held = lock(&lock_file(roots), Hold::Exclusive)?;
    let mut definition = definition::find(roots, name)?;
    change(&mut definition).and_then(|()| definition.check()).map_err(bad)?;
    let facts = Facts::look(&Netlink::here()?, None, roots.link_group_of(name), None, Vec::new())?;
    definition.peers.keys().try_for_each(|peer| facts.refuse_own(*peer, &format!("change the network {name}")))?;
    definition::rewrite(roots, &NetworkName::parse(name)?, &definition)?;
    fault::step("peers.written").doing(|| format!("change the network {name}"))?;
    match remembered(roots, name).filter(|made| Place::here().is_ok_and(|here| made.place == here)) {
        Some(_) => make(roots, name, &definition).map(drop),
        None => Ok(()),
    }
}

fn make(roots: &Roots, name: &str, definition: &Definition) -> Result<Network> {
    let place = Place::here()?;
    let _choosing = choosing()?;
    let host = Netlink::here()?;
    let bridge = definition.driver.has_a_bridge().then(|| roots.bridge_of(name));
    let overlay = Overlay::of(roots, name, definition);
    let tunnel = overlay.as_ref().map(|overlay| overlay.device.clone());
    let others = other_ranges(roots, name)?;
    let facts = Facts::look(&host, bridge.as_deref(), roots.link_group_of(name), tunnel, others)?;
    let known = remembered(roots, name).filter(|known| known.place == place);
    let size = if name == NAME { Size::Large } else { Size::Small };
    let subnet = ranges::plan(definition.subnet, known.as_ref().map(|known| known.subnet), size, &facts)?;
    let first = |subnet: Cidr| subnet.nth(*subnet.hosts().start());
    // A definition may have changed under pods that live in what it was.
    let gateway = definition.gateway.filter(|gateway| subnet.contains(*gateway)).unwrap_or(first(subnet));
    let six = definition.subnet6.map(|subnet| Six {
        subnet: subnet.network(),
        gateway: definition.gateway6.unwrap_or(first(subnet)),
        range: definition.range6,
    });
    let mut network = Network {
        version: 1,
        name: name.to_owned(),
        driver: definition.driver,
        bridge,
        index: 0,
        subnet,
        gateway,
        range: definition.range.filter(|range| subnet.contains(range.address)),
        six,
        six_cut_off: false,
        mtu: definition.mtu.unwrap_or_else(|| match &overlay {
            Some(overlay) => overlay.mtu(&facts),
            None => facts.mtu_outwards(),
        }),
        ipv6: Ipv6::of_this_kernel(),
        policy: Policy {
            internal: definition.internal,
            isolate: definition.isolate,
            masquerade: definition.masquerade,
            icc: definition.icc,
        },
        overlay,
        names: definition.names(),
        outside: Outside::NoNft,
        former: known.as_ref().and_then(|known| known.former.clone()),
        place,
    };
    let stp = if definition.stp { Stp::On } else { Stp::Off };
    match make_links(roots, &host, &network, stp, known.as_ref(), &facts) {
        Ok(index) => network.index = index,
        Err(err) => {
            let tunnel = network.overlay.as_ref().map(|overlay| &overlay.device);
            let new = tunnel.into_iter().chain(&network.bridge);
            let new = new.filter(|name| !facts.links.iter().any(|link| link.name == **name));
            // What cannot be undone now, `prune` finds by its name; the first error is the one to tell.
            new.for_each(|name| drop(host.delete(name)));
            return Err(err);
        }
    }
    fault::step("create-pod.bridged").doing(|| "make the pod".into())?;
    open_outside(roots, &mut network)?;
    fault::step("create-pod.opened-outside").doing(|| "make the pod".into())?;
    remember(roots, &network)?;
    Ok(network)
}

/// What the host was like before any of these changed it.
fn remembered_by<'a>(networks: impl IntoIterator<Item = &'a Network>) -> Option<Former> {
    networks.into_iter().filter_map(|network| network.former.clone()).reduce(|all, one| all.with(&one))
}

const NETNS: &str = "/proc/thread-self/ns/net";

/// The network's own links; says the bridge's index, where there is one.
fn make_links(
    roots: &Roots,
    host: &Netlink,
    network: &Network,
    stp: Stp,
    known: Option<&Network>,
    facts: &Facts,
) -> Result<u32> {
    let index = match &network.bridge {
        Some(bridge) => make_bridge(roots, host, network, bridge, stp, facts)?,
        None => 0,
    };
    if let Some(overlay) = &network.overlay {
        let own = Own { subnet: network.subnet, gateway: network.gateway, mtu: network.mtu };
        overlay.make(host, own, known.and_then(|known| known.overlay.as_ref()), &facts.links)?;
    }
    Ok(index)
}

fn make_bridge(roots: &Roots, host: &Netlink, network: &Network, bridge: &str, stp: Stp, facts: &Facts) -> Result<u32> {
    if facts.ours.is_none() {
        host.add_bridge(bridge, Mac::pod(network.gateway), network.mtu, stp)?;
    }
    let index = sys::net::link_index(bridge).doing(|| format!("find the bridge {bridge}"))?;
    set_ipv6(bridge, network)?;
    if facts.address_of(index).is_none() {
        host.add_address(index, Cidr { address: network.gateway, prefix: network.subnet.prefix })?;
    }
    if let Some(six) = network.six {
        let own = Cidr { address: six.gateway, prefix: six.subnet.prefix };
        if !facts.has_address(index, own) {
            host.add_address(index, own)?;
        }
    }
    host.set_up(index)?;
    strays(roots, network, index, &facts.links)?.try_for_each(|link| {
        host.set_bridge(link.index, index, network.reach())?;
        owner(link).map_or(Ok(()), |pod| ports::lead_back(roots, host, &pod, bridge, &link.name))
    })?;
    if facts.ours.is_none() {
        // It is bound to the bridge that was there before; whoever keeps it starts another.
        names::stop(roots, &network.name)?;
    }
    Ok(index)
}

/// No bridge, and no host's end of a pair without one, believes a router advertisement, so no pod can move the host's routes
/// by one (CVE-2020-13597). One without IPv6 addresses has no use for IPv6, and no pod reaches the host's services there by
/// a link-local address; one with them has its own at once, since nobody else can have it.
pub(super) fn set_ipv6(link: &str, network: &Network) -> Result<()> {
    let of_link = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{link}"));
    // A link with an MTU below that of IPv6 has none.
    if network.ipv6 == Ipv6::Unknown || !of_link.exists() {
        return Ok(());
    }
    let disable = if network.six.is_some() { "0" } else { "1" };
    for (key, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", disable)] {
        let file = of_link.join(key);
        forward::write(&file, value).doing(|| format!("write {value} to {}", file.display()))?;
    }
    Ok(())
}

/// The links of pods that somebody took off their bridge or turned off, or whose bridge is another one by now.
pub fn strays<'a>(
    roots: &Roots,
    network: &Network,
    bridge: u32,
    links: &'a [Link],
) -> Result<impl Iterator<Item = &'a Link> + use<'a>> {
    let directory = roots.leases().join(&network.name);
    let leased: BTreeSet<String> = ipam::survey(&directory)?.values().flat_map(|one| one.links(&directory)).collect();
    let is_stray = move |link: &&Link| (link.bridge != Some(bridge) || !link.up) && leased.contains(&link.name);
    Ok(links.iter().filter(is_stray))
}

/// Rules first, then forwarding: the host never forwards for pods what the rules would not.
fn open_outside(roots: &Roots, network: &mut Network) -> Result<()> {
    let Some(nft) = nft::find() else { return remember(roots, network) };
    let others: Vec<Network> = all_remembered(roots)?.into_iter().filter(|other| other.name != network.name).collect();
    let mut former = remembered_by([&*network].into_iter().chain(&others));
    let families = network.families().map(|family| forward::now(family).map(|now| (family, now)));
    let families = families.collect::<Result<Vec<_>>>()?;
    for (family, now) in &families {
        former.get_or_insert_default().note(*family, now);
    }
    network.former = former.filter(|former| !former.is_empty());
    // Remembered before it is changed, so that a crash in between can be undone.
    remember(roots, network)?;
    let parts: Vec<Part> = others.iter().chain([&*network]).map(|one| one.part(roots)).collect();
    let opened = write_rules(roots, &nft, &parts)
        .and_then(|()| families.iter().try_for_each(|(family, now)| forward::turn_on(*family, now)));
    network.outside = match opened {
        Ok(()) => Outside::Open,
        Err(err) => Outside::Failed { why: format!("{}: {}", err.what_was_being_done(), err.cause()) },
    };
    let cut_off = families.iter().any(|(family, now)| *family == Family::Six && !now.is_possible());
    network.six_cut_off = cut_off;
    Ok(())
}

/// Puts back what somebody took away from under the networks that are in use: bridges, rules, forwarding. Says which
/// networks those are.
pub fn reload(roots: &Roots) -> Result<Vec<Network>> {
    let held = lock(&lock_file(roots), Hold::Exclusive)?;
    let mut made = Vec::new();
    for network in all_remembered(roots)? {
        // As it was made, should its definition be gone or be broken by now.
        let definition = definition::find(roots, &network.name).unwrap_or_else(|_| network.as_defined());
        made.push(make(roots, &network.name, &definition)?);
    }
    drop(held);
    for network in made.iter().filter(|one| one.resolves_names()) {
        if ipam::is_used(&roots.leases().join(&network.name)) {
            names::ensure(roots, &network.name)?;
        }
    }
    Ok(made)
}

/// Undoes all that `make` did for these networks, as far as it can; what is left is remembered, and the first reason
/// told. With the last network the rules and the change of forwarding go. For callers that hold the lock; twice is fine.
pub fn unmake(roots: &Roots, host: &Netlink, names: &[String]) -> Result<()> {
    let here = all_remembered(roots)?;
    let (gone_ones, kept): (Vec<Network>, Vec<Network>) =
        here.into_iter().partition(|network| names.contains(&network.name));
    let links = names.iter().flat_map(|name| [roots.vxlan_of(name), roots.bridge_of(name)]);
    let deleted = links.map(|link| host.delete(&link));
    deleted.collect::<Vec<_>>().into_iter().collect::<Result<()>>()?;
    let former = remembered_by(kept.iter().chain(&gone_ones));
    if let Some(first) = kept.first() {
        let first = Network { former, ..first.clone() };
        remember(roots, &first)?;
        forget(roots, names)?;
        return match nft::find().filter(|_| first.outside == Outside::Open) {
            Some(nft) => {
                let parts: Vec<Part> = kept.iter().map(|one| one.part(roots)).collect();
                write_rules(roots, &nft, &parts)
            }
            // What the rules say of links that are gone holds for nobody.
            None => Ok(()),
        };
    }
    let undone = [remove_table(roots), former.as_ref().map_or(Ok(()), forward::restore)];
    undone.into_iter().collect::<Result<()>>()?;
    forget(roots, names)?;
    forget(roots, &names_in(&networks(roots)))?;
    gone(fs::remove_file(lock_file(roots))).doing(|| format!("remove {}", lock_file(roots).display()))?;
    ports::forget(roots)?;
    service::forget(roots)?;
    for empty in [networks(roots), roots.leases()] {
        let _ = fs::remove_dir(empty); // stays where another network still has something in it
    }
    Ok(())
}

fn forget(roots: &Roots, names: &[String]) -> Result<()> {
    for file in names.iter().map(|name| state_file(roots, name)) {
        gone(fs::remove_file(&file)).doing(|| format!("remove {}", file.display()))?;
    }
    names.iter().try_for_each(|name| names::stop(roots, name))
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

/// What `unmake` would undo for one network.
pub fn remains_of(roots: &Roots, name: &str) -> Option<String> {
    let there = |link: &String| sys::net::link_index(link).is_ok();
    let tunnel = || Some(roots.vxlan_of(name)).filter(there).map(|tunnel| format!("tunnel {tunnel}"));
    Some(roots.bridge_of(name)).filter(there).map(|bridge| format!("bridge {bridge}")).or_else(tunnel)
}

/// What `unmake` would undo with the last of them.
pub fn remains(roots: &Roots) -> Result<Vec<String>> {
    let mut found = Vec::new();
    if nft::table_exists(&roots.table())? {
        found.push(format!("nftables table inet {}", roots.table()));
    }
    for (family, what) in [(Family::Four, "forwarding"), (Family::Six, "IPv6 forwarding")] {
        let changed = turned_on(roots, family)?;
        if !changed.is_empty() {
            found.push(format!("{what} of {}", changed.join(", ")));
        }
    }
    Ok(found)
}

/// The host's own interfaces whose forwarding podrun turned on; not what goes with its networks anyway.
pub fn turned_on(roots: &Roots, family: Family) -> Result<Vec<String>> {
    let own = known(roots)?.into_iter().flat_map(|name| [roots.bridge_of(&name), roots.vxlan_of(&name)]);
    let own: Vec<String> = own.collect();
    let former = remembered_by(&all_remembered(roots)?);
    let mut changed = former.map_or(Ok(Vec::new()), |former| forward::turned_on(&former, family))?;
    changed.retain(|name| !own.contains(name) && !PodId::could_be_veth(name));
    Ok(changed)
}

impl Network {
    pub fn pool(&self, roots: &Roots) -> Pool {
        let four = Range { subnet: self.subnet, gateway: Some(self.gateway), only: self.range };
        let six = self.six.map(|six| Range { subnet: six.subnet, gateway: Some(six.gateway), only: six.range });
        Pool::new(roots, &self.name, [four].into_iter().chain(six).collect(), Ends::OnHost)
    }

    pub fn subnets(&self) -> impl Iterator<Item = Cidr> + use<> {
        [self.subnet].into_iter().chain(self.six.map(|six| six.subnet))
    }

    /// What is of this network and behind an address's gateway: all of it where there is no bridge, the other hosts' parts
    /// of an overlay.
    pub fn beyond(&self, address: IpAddr) -> Option<Cidr> {
        match &self.overlay {
            Some(overlay) => Some(overlay.cluster),
            None => self.subnets().find(|subnet| self.bridge.is_none() && subnet.contains(address)),
        }
    }

    /// The gateway of an address's family.
    pub fn gateway_of(&self, address: IpAddr) -> Option<IpAddr> {
        self.gateways().find(|gateway| gateway.is_ipv4() == address.is_ipv4())
    }

    /// The ranges that no other network may use a part of.
    fn claims(&self) -> impl Iterator<Item = Cidr> {
        self.overlay.as_ref().map(|overlay| overlay.cluster).into_iter().chain(self.subnets())
    }

    /// Whether it has a name server: at its bridge's own address, since a pair of links has none to itself.
    pub fn resolves_names(&self) -> bool {
        self.bridge.is_some() && self.names == definition::Names::Told
    }

    /// Where that answers.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [self.gateway].into_iter().chain(self.six.map(|six| six.gateway))
    }

    /// Whom a port of its bridge speaks to.
    pub fn reach(&self) -> Reach {
        if self.policy.icc { Reach::All } else { Reach::OnlyTheBridge }
    }

    /// The families that the host is to forward for it.
    pub fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let six = self.six.is_some() && !self.policy.internal;
        [Family::Four].into_iter().chain(six.then_some(Family::Six))
    }

    /// Its part of the firewall's table.
    pub fn part(&self, roots: &Roots) -> Part {
        let side = match &self.bridge {
            Some(bridge) => Side::Bridge(bridge.clone()),
            None => Side::Group(roots.link_group_of(&self.name)),
        };
        let tunnel = self.overlay.as_ref().map(Overlay::part);
        let names = self.gateways().filter(|_| self.resolves_names()).collect();
        Part { side, subnets: self.subnets().collect(), policy: self.policy, names, tunnel }
    }

    /// What its definition must have said.
    fn as_defined(&self) -> Definition {
        Definition {
            driver: self.driver,
            subnet: Some(self.subnet),
            gateway: Some(self.gateway),
            range: self.range,
            subnet6: self.six.map(|six| six.subnet),
            gateway6: self.six.map(|six| six.gateway),
            range6: self.six.and_then(|six| six.range),
            internal: self.policy.internal,
            isolate: self.policy.isolate,
            masquerade: self.policy.masquerade,
            icc: self.policy.icc,
            mtu: Some(self.mtu),
            vni: self.overlay.as_ref().map(|overlay| overlay.vni),
            cluster_cidr: self.overlay.as_ref().map(|overlay| overlay.cluster),
            peers: self.overlay.as_ref().map(|overlay| overlay.peers.clone()).unwrap_or_default(),
            local: self.overlay.as_ref().and_then(|overlay| overlay.local),
            port: self.overlay.as_ref().map(|overlay| overlay.port),
            disable_dns: self.names == definition::Names::Untold,
            ..Definition::default()
        }
    }

    /// How people call it: by the link that they see.
    pub fn seen_as(&self) -> &str {
        self.bridge.as_deref().unwrap_or(&self.name)
    }

    /// What the user of a new pod should know.
    pub fn warnings(&self) -> Vec<String> {
        // Without a bridge the host forwards between them, too.
        let whom = match self.bridge {
            Some(_) => "each other and this host, but nothing",
            None => "this host, but neither each other nor anything",
        };
        let cut_off = format!("pods on {} reach {whom} beyond it", self.seen_as());
        match &self.outside {
            Outside::Open if self.six_cut_off => vec![format!(
                "this kernel forwards IPv6 for all or for none (before Linux 6.17), and podrun leaves that as it is: by IPv6 \
                 {cut_off}; sysctl -w net/ipv6/conf/all/forwarding=1"
            )],
            Outside::Open => Vec::new(),
            Outside::NoNft if self.policy.internal => Vec::new(),
            Outside::NoNft => vec![format!("nft is not on PATH: {cut_off}; install nftables")],
            Outside::Failed { why } => vec![format!("{why}: {cut_off}")],
        }
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
    replace(&state_file(roots, &network.name), &text)
}

fn networks(roots: &Roots) -> PathBuf {
    roots.run.join("networks")
}

fn state_file(roots: &Roots, name: &str) -> PathBuf {
    networks(roots).join(format!("{name}.json"))
}

/// One lock for all networks: their rules are one table.
pub fn lock_file(roots: &Roots) -> PathBuf {
    networks(roots).join(format!("{NAME}.lock"))
}

/// The pod that a link was made for, by what the link itself says.
pub fn owner(link: &Link) -> Option<PodId> {
    let pod = PodId::parse(link.alias.as_deref()?).ok()?;
    let digits = link.name.get(4..)?;
    (PodId::could_be_veth(&link.name) && pod.as_str().starts_with(digits)).then_some(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, alias: Option<&str>) -> Link {
        let (name, alias) = (name.to_owned(), alias.map(str::to_owned));
        let (second_names, bridge) = (vec![], None);
        Link {
            index: 5,
            name,
            second_names,
            alias,
            bridge,
            is_bridge: false,
            up: true,
            carrier: true,
            mtu: 1500,
            group: 0,
            mac: None,
            vlan: None,
        }
    }

    #[test]
    fn a_link_belongs_to_the_pod_that_both_its_names_tell() {
        let (pod, other) = (PodId::random([7; 16]), PodId::random([8; 16]));
        assert_eq!(owner(&link(&pod.veth(0), Some(pod.as_str()))), Some(pod.clone()));
        assert_eq!(owner(&link(&pod.veth(3), Some(pod.as_str()))), Some(pod.clone()));
        assert_eq!(owner(&link("eth0", Some(pod.as_str()))), None);
        assert_eq!(owner(&link(&pod.veth(0), Some(other.as_str()))), None);
        assert_eq!(owner(&link(&pod.veth(0), None)), None);
        assert_eq!(owner(&link(&pod.veth(0), Some("uplink"))), None);
    }

    /// What the build before networks had names wrote.
    #[test]
    fn what_an_earlier_build_remembered_is_read() {
        let text = r#"{"version": 1, "name": "bridge", "bridge": "podrun0", "index": 3, "subnet": "10.88.0.0/16",
            "gateway": "10.88.0.1", "mtu": 1500, "ipv6": "known", "outside": {"is": "open"}, "former": null,
            "place": {"boot": "x", "netns": 1}}"#;
        let network: Network = serde_json::from_str(text).unwrap();
        assert_eq!((network.seen_as(), network.driver, network.policy), ("podrun0", Driver::Bridge, Policy::default()));
        let part = network.part(&Roots::default());
        assert_eq!(
            part,
            Part {
                side: Side::Bridge("podrun0".into()),
                subnets: vec![network.subnet],
                policy: network.policy,
                names: vec![network.gateway],
                tunnel: None
            }
        );
    }
}
