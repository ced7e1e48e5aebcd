//! Ports of the host that lead to pods: who has which, and what the firewall and the kernel have to know of it.
//!
//! A port is taken by a link in the run-root ([`claims`]). `ports.json` in the pod's directory says all of a pod's ports, so
//! `release` finds them by the pod's id alone, and costs a pod without ports one failed open.
//!
//! A pod gets its ports in two steps: [`claim`] before anything of it is made, so that a conflict is told at once, and
//! [`open`] once it has an address.

#![forbid(unsafe_code)]

mod claims;
mod follow;
mod taken;

pub use follow::follow;
pub use taken::{explain, who};

use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::PodId;
use crate::net::Attachment;
use crate::net::bridge;
use crate::net::conntrack;
use crate::net::definition::Driver;
use crate::net::elements::{self, Change, Changed, Mapping};
use crate::net::forward;
use crate::net::link::Netlink;
use crate::net::lock::{Hold, gone, lock, replace};
use crate::roots::Roots;
use crate::spec::port::{HostPort, Protocol, Wish};
use claims::Claim;
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// One port of the host that leads to one of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    pub protocol: Protocol,
    /// None: every address of the host.
    pub address: Option<IpAddr>,
    pub host: u16,
    pub port: u16,
}

/// `ports.json` of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    pub version: u32,
    pub ports: Vec<Port>,
    /// The pod's; none until it is attached.
    pub addresses: Vec<IpAddr>,
    /// The link of the host's that leads to the pod: its bridge, or its own.
    pub bridge: Option<String>,
}

impl fmt::Display for Port {
    /// As docker shows it: `127.0.0.1:8080->80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => write!(f, "{}->{}/{}", self.host, self.port, self.protocol),
            Some(address) => {
                write!(f, "{}->{}/{}", SocketAddr::new(address, self.host), self.port, self.protocol)
            }
        }
    }
}

impl Port {
    fn key(&self) -> (Protocol, u16) {
        (self.protocol, self.host)
    }

    /// Where packets go: one mapping for each family that both ends have.
    fn mappings(&self, pod: &[IpAddr]) -> Vec<Mapping> {
        let fits = |to: &&IpAddr| self.address.is_none_or(|address| address.is_ipv4() == to.is_ipv4());
        let address = self.address.filter(|address| !address.is_unspecified());
        let to = |to: &IpAddr| SocketAddr::new(*to, self.port);
        let one = |pod| Mapping { protocol: self.protocol, address, host: self.host, to: to(pod) };
        pod.iter().filter(fits).map(one).collect()
    }

    /// What of it the kernel cannot translate: `::1` always, which is one of all addresses, and any IPv6 address when the pod
    /// has none.
    fn detour(&self, pod: &[IpAddr]) -> Option<Detour> {
        let loopback = IpAddr::from(Ipv6Addr::LOCALHOST);
        let has_six = pod.iter().any(IpAddr::is_ipv6);
        let at = match self.address {
            None => loopback,
            Some(address) if address.is_ipv6() && (address == loopback || !has_six) => address,
            Some(IpAddr::V6(all)) if all.is_unspecified() => loopback,
            Some(_) => return None,
        };
        let (at, to) = (SocketAddr::new(at, self.host), SocketAddr::new(*pod.first()?, self.port));
        (self.protocol != Protocol::Sctp).then_some(Detour { protocol: self.protocol, at, to })
    }

    fn leads_to(&self, pod: &[IpAddr]) -> bool {
        !self.mappings(pod).is_empty() || self.detour(pod).is_some()
    }

    /// Whether 127.0.0.1 is one of its addresses.
    fn is_on_loopback(&self) -> bool {
        match self.address {
            None => true,
            Some(IpAddr::V4(four)) => four.is_unspecified() || four.is_loopback(),
            Some(IpAddr::V6(_)) => false,
        }
    }
}

/// A way through user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Detour {
    pub protocol: Protocol,
    pub at: SocketAddr,
    pub to: SocketAddr,
}

impl Published {
    pub fn detours(&self) -> Vec<Detour> {
        self.ports.iter().filter_map(|port| port.detour(&self.addresses)).collect()
    }

    pub fn mappings(&self) -> Vec<Mapping> {
        self.ports.iter().flat_map(|port| port.mappings(&self.addresses)).collect()
    }
}

/// Whether one socket could not be bound beside the other.
fn overlap(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    match (one, other) {
        (None, _) | (_, None) => true,
        (Some(one), Some(other)) => {
            one.is_ipv4() == other.is_ipv4() && (one == other || one.is_unspecified() || other.is_unspecified())
        }
    }
}

/// What is chosen for a pod and not taken yet, by protocol and port.
#[derive(Debug, Default)]
struct Chosen(BTreeMap<(Protocol, u16), Vec<Port>>);

impl Chosen {
    fn add(&mut self, port: Port) {
        self.0.entry(port.key()).or_default().push(port);
    }

    fn meets(&self, wish: &Wish, host: u16) -> bool {
        let beside = self.0.get(&(wish.protocol, host));
        beside.is_some_and(|ports| ports.iter().any(|port| overlap(wish.address, port.address)))
    }
}

/// What others have that is in the way of a wish.
fn in_the_way(roots: &Roots, wish: &Wish, host: u16) -> Result<impl Iterator<Item = Claim>> {
    let beside = claims::at(roots, wish.protocol, host)?.into_iter();
    Ok(beside.filter(|claim| overlap(wish.address, claim.port.address)))
}

/// The same wishes, at the host's address that the network has for those without one.
pub fn at_binding(wishes: &[Wish], binding: Option<IpAddr>) -> Vec<Wish> {
    wishes.iter().map(|wish| Wish { address: wish.address.or(binding), ..wish.clone() }).collect()
}

/// Chooses and takes a port of the host for each wish: all, or none. What is chosen is in `ports.json` before it is taken,
/// so that a crash leaves nothing that [`release`] would not find.
pub fn claim(roots: &Roots, pod: &PodId, wishes: &[Wish]) -> Result<Vec<Port>> {
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    let _held = hold(roots)?;
    let (mut chosen, mut so_far) = (Vec::new(), Chosen::default());
    for wish in wishes {
        let port = choose(roots, wish, &so_far)?;
        so_far.add(port);
        chosen.push(port);
    }
    let mut published = read(roots, pod).unwrap_or_default();
    published.version = 1;
    published.ports.extend(&chosen);
    write(roots, pod, &published)?;
    fault::step("create-pod.chosen").doing(|| "take the ports".to_owned())?;
    chosen.iter().try_for_each(|port| Claim::of(roots, port).take(roots, pod))?;
    Ok(chosen)
}

fn choose(roots: &Roots, wish: &Wish, chosen: &Chosen) -> Result<Port> {
    let port = |host| Port { protocol: wish.protocol, address: wish.address, host, port: wish.port };
    match &wish.host {
        HostPort::Any => {
            // The kernel gives out what no socket has; a pod's port it does not know of.
            for _ in 0..1000 {
                let free = taken::free(wish)?;
                if !chosen.meets(wish, free) && in_the_way(roots, wish, free)?.next().is_none() {
                    return Ok(port(free));
                }
            }
            Err(Error::new(Kind::Exhausted, format!("find a free {} port", wish.protocol), "all tried ones are taken"))
        }
        HostPort::OneOf(range) => {
            let mut first = None;
            for host in range.clone() {
                match refuse(roots, wish, host, chosen) {
                    Ok(()) => return Ok(port(host)),
                    Err(err) if err.kind == Kind::AlreadyExists => first = first.or(Some(err)),
                    Err(err) => return Err(err),
                }
            }
            Err(first.unwrap_or_else(|| Error::new(Kind::Usage, "publish a port", "an empty range")))
        }
    }
}

/// Why this port of the host cannot be had.
fn refuse(roots: &Roots, wish: &Wish, host: u16, chosen: &Chosen) -> Result<()> {
    let doing = || format!("publish the port {host}/{}", wish.protocol);
    if chosen.meets(wish, host) {
        return Err(Error::new(Kind::AlreadyExists, doing(), "it is asked for twice"));
    }
    for claim in in_the_way(roots, wish, host)? {
        if let Some(owner) = claim.owner().filter(|owner| roots.pod(owner).exists()) {
            let name = name_of(roots, &owner);
            return Err(Error::new(Kind::AlreadyExists, doing(), format!("the pod {name} has it"))
                .hint("`podrun get pods -o wide` shows the ports of all pods, `podrun prune` what a crash left"));
        }
        // Its pod is gone without a trace: a crash, and somebody's rm.
        claim.remove()?;
    }
    taken::probe(wish, host)
}

/// The name under which people know a pod.
pub(super) fn name_of(roots: &Roots, pod: &PodId) -> String {
    let leads_there = |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|target| target == roots.pod(pod));
    let link = fs::read_dir(roots.names()).ok().and_then(|names| names.flatten().find(leads_there));
    let name = link.and_then(|link| link.file_name().into_string().ok());
    match name.as_deref().and_then(|name| name.split_once('_')) {
        Some(("default", name)) => name.to_owned(),
        Some((namespace, name)) => format!("{namespace}/{name}"),
        None => pod.short().to_owned(),
    }
}

/// Lets traffic in: the pod is attached.
pub fn open(roots: &Roots, pod: &PodId, attachments: &[Attachment]) -> Result<()> {
    let Some(mut published) = read(roots, pod) else { return Ok(()) };
    let doing = || "publish the pod's ports".to_owned();
    let Some(attachment) = way_in(roots, attachments) else {
        return Err(Error::new(
            Kind::Invalid,
            doing(),
            "the pod is on no network that anybody comes in to from outside",
        )
        .hint("give it one more interface, --network bridge"));
    };
    let known = published.clone();
    published.addresses = addresses_of(attachment);
    published.bridge = attachment.bridge.clone().or(attachment.host_interface.clone());
    let mappings = published.mappings();
    if let Some(port) = published.ports.iter().find(|port| !port.leads_to(&published.addresses)) {
        return Err(Error::new(
            Kind::Invalid,
            doing(),
            format!("{port} is of a family that the pod has no address of"),
        ));
    }
    // Known already, it has been told; the record comes after it.
    if let Some(link) = attachment.host_interface.as_ref().filter(|_| attachment.bridge.is_some())
        && published.bridge != known.bridge
        && bridges_are_filtered()
    {
        Netlink::here()?.set_hairpin(link)?;
    }
    let changed = {
        let _held = hold(roots)?;
        if published != known {
            write(roots, pod, &published)?;
        }
        elements::change(&roots.table(), Change::Add, &mappings)?
    };
    if changed == Changed::Stranger {
        bridge::reload(roots)?.iter().try_for_each(bridge::refuse_closed)?;
    }
    if let Some(bridge) = published.bridge.as_ref().filter(|_| published.ports.iter().any(Port::is_on_loopback)) {
        let_loopback_out(bridge, Loopback::Out)?;
    }
    forget_udp(&published.ports, &published.addresses)
}

/// The pod's link has just become a port of `bridge` again.
pub fn lead_back(roots: &Roots, host: &Netlink, pod: &PodId, bridge: &str, link: &str) -> Result<()> {
    match read(roots, pod).is_some_and(|published| published.bridge.as_deref() == Some(bridge)) {
        true if bridges_are_filtered() => host.set_hairpin(link),
        _ => Ok(()),
    }
}

/// The interface that ports lead by.
fn way_in<'a>(roots: &Roots, attachments: &'a [Attachment]) -> Option<&'a Attachment> {
    let is_ours = |one: &&Attachment| one.host_interface.is_some() && one.driver != Driver::Cni;
    attachments.iter().filter(is_ours).find(|one| !is_internal(roots, one))
}

fn addresses_of(attachment: &Attachment) -> Vec<IpAddr> {
    attachment.addresses.iter().map(|cidr| cidr.address).collect()
}

fn is_internal(roots: &Roots, attachment: &Attachment) -> bool {
    bridge::remembered(roots, &attachment.network).is_some_and(|network| network.policy.internal)
}

/// Ends some of a pod's ports, while it lives.
pub fn close(roots: &Roots, pod: &PodId, ports: &[Port]) -> Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let _held = hold(roots)?;
    let Some(mut published) = read(roots, pod) else { return Ok(()) };
    published.ports.retain(|port| !ports.contains(port));
    end(roots, pod, ports, &published)?;
    match published.ports.is_empty() {
        true => remove_record(roots, pod),
        false => write(roots, pod, &published),
    }
}

/// Ends all of a pod's ports. From the id alone, whatever a crash left; twice is fine.
pub fn release(roots: &Roots, pod: &PodId) -> Result<()> {
    if !file(roots, pod).exists() {
        return Ok(());
    }
    let _held = hold(roots)?;
    let published = match read(roots, pod) {
        Some(published) => published,
        // Unreadable, which only a hand can make: then the claims say which ports it had.
        None => Published { ports: claimed(roots, pod)?, ..Published::default() },
    };
    end(roots, pod, &published.ports, &published)?;
    remove_record(roots, pod)
}

/// Elements first: nobody else gets the port while it still leads here.
fn end(roots: &Roots, pod: &PodId, ports: &[Port], published: &Published) -> Result<()> {
    let mappings: Vec<_> = ports.iter().flat_map(|port| port.mappings(&published.addresses)).collect();
    if !mappings.is_empty() {
        elements::change(&roots.table(), Change::Remove, &mappings)?;
    }
    fault::point("delete-pod.ports");
    for port in ports {
        let claim = Claim::of(roots, port);
        if claim.owner().as_ref() == Some(pod) {
            claim.remove()?;
        }
    }
    if let Some(bridge) = &published.bridge
        && claims::all(roots)?.iter().all(|claim| !claim.port.is_on_loopback())
    {
        let_loopback_out(bridge, Loopback::In)?;
    }
    forget_udp(ports, &published.addresses)
}

fn claimed(roots: &Roots, pod: &PodId) -> Result<Vec<Port>> {
    let mine = |claim: &Claim| claim.owner().as_ref() == Some(pod);
    Ok(claims::all(roots)?.into_iter().filter(mine).map(|claim| claim.port).collect())
}

fn forget_udp(ports: &[Port], pods: &[IpAddr]) -> Result<()> {
    // Nothing was led there, as where pasta has the ports, whose user could not ask either.
    if pods.is_empty() {
        return Ok(());
    }
    let udp: BTreeSet<u16> = ports.iter().filter(|port| port.protocol == Protocol::Udp).map(|port| port.host).collect();
    conntrack::forget_udp(&udp.into_iter().collect::<Vec<_>>(), pods)
}

/// Whether packets of 127.0.0.1 may leave by a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    Out,
    In,
}

/// A connection of the host's to 127.0.0.1 is led to a pod by the bridge, with the bridge's address as its source; that the
/// answers may come back takes `route_localnet`, on the bridge alone. What a pod sends there by itself, the input chain of
/// podrun's table drops (CVE-2020-8558).
pub fn let_loopback_out(bridge: &str, how: Loopback) -> Result<()> {
    let file = format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet");
    let wanted = if how == Loopback::Out { "1" } else { "0" };
    match fs::read_to_string(&file) {
        Ok(now) if now.trim() == wanted => Ok(()),
        // A bridge that is gone lets nothing out.
        Err(err) if err.kind() == ErrorKind::NotFound && how == Loopback::In => Ok(()),
        _ => forward::write(Path::new(&file), wanted).doing(|| format!("write {wanted} to {file}")),
    }
}

/// Whether the firewall sees, and translates, what only crosses a bridge (br_netfilter, as Kubernetes wants it).
fn bridges_are_filtered() -> bool {
    fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|value| value.trim() != "0")
}

/// Of UDP that came while the rules were not there, the kernel remembers that it leads nowhere.
pub fn forget_misled(mappings: &[Mapping]) -> Result<()> {
    let udp = mappings.iter().filter(|mapping| mapping.protocol == Protocol::Udp);
    let (ports, pods): (BTreeSet<u16>, BTreeSet<IpAddr>) = udp.map(|one| (one.host, one.to.ip())).unzip();
    conntrack::forget_udp(&ports.into_iter().collect::<Vec<_>>(), &pods.into_iter().collect::<Vec<_>>())
}

/// Loopback as it has to be for all pods, after bridges were made anew.
pub fn reopen_loopback(roots: &Roots) -> Result<()> {
    let on_loopback = claims::all(roots)?.into_iter().filter(|claim| claim.port.is_on_loopback());
    for pod in on_loopback.filter_map(|claim| claim.owner()) {
        if let Some(link) = read(roots, &pod).and_then(|published| published.bridge)
            && Path::new("/proc/sys/net/ipv4/conf").join(&link).exists()
        {
            let_loopback_out(&link, Loopback::Out)?;
        }
    }
    Ok(())
}

/// The ports of all pods, as the firewall has to have them, with the lock that keeps them so: for whoever writes the whole
/// table, until it is written.
pub fn hold_all(roots: &Roots) -> Result<(Flock<File>, Vec<Mapping>)> {
    let held = hold(roots)?;
    let pods: BTreeSet<PodId> = claims::all(roots)?.iter().filter_map(Claim::owner).collect();
    let published = pods.iter().filter_map(|pod| read(roots, pod));
    Ok((held, published.flat_map(|published| published.mappings()).collect()))
}

/// What a pod has published.
pub fn of(roots: &Roots, pod: &PodId) -> Vec<Port> {
    read(roots, pod).map(|published| published.ports).unwrap_or_default()
}

/// The same with the pod's addresses.
pub fn read(roots: &Roots, pod: &PodId) -> Option<Published> {
    serde_json::from_slice(&fs::read(file(roots, pod)).ok()?).ok()
}

fn write(roots: &Roots, pod: &PodId, published: &Published) -> Result<()> {
    replace(&file(roots, pod), &serde_json::to_vec(published).expect("ports are plain data"))
}

fn remove_record(roots: &Roots, pod: &PodId) -> Result<()> {
    let file = file(roots, pod);
    gone(fs::remove_file(&file)).doing(|| format!("remove {}", file.display()))
}

/// In the pod's own directory, beside its record.
pub fn file(roots: &Roots, pod: &PodId) -> PathBuf {
    roots.pod(pod).join("ports.json")
}

fn hold(roots: &Roots) -> Result<Flock<File>> {
    lock(&lock_file(roots), Hold::Exclusive)
}

fn lock_file(roots: &Roots) -> PathBuf {
    roots.ports().join(".lock")
}

/// Claims of pods that are gone; `remove` them, or only say which.
pub fn prune(roots: &Roots, lives: impl Fn(&PodId) -> bool, remove: bool) -> Result<Vec<String>> {
    if !roots.ports().exists() {
        return Ok(Vec::new());
    }
    let _held = if remove { Some(hold(roots)?) } else { None };
    let mut said = Vec::new();
    for claim in claims::all(roots)? {
        if claim.owner().is_some_and(|pod| lives(&pod)) {
            continue;
        }
        let port = claim.port;
        said.push(format!("the port {}/{} of the host", port.host, port.protocol));
        if remove {
            // Where it led to, nobody knows any more; an element is found by its key.
            let somewhere = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
            elements::change(&roots.table(), Change::Remove, &port.mappings(&somewhere))?;
            claim.remove()?;
        }
    }
    Ok(said)
}

/// With the last pod gone.
pub fn forget(roots: &Roots) -> Result<()> {
    if !roots.ports().exists() {
        return Ok(());
    }
    let _held = hold(roots)?;
    if claims::all(roots)?.is_empty() {
        claims::sweep(roots)?;
        gone(fs::remove_file(lock_file(roots))).doing(|| "remove the lock of the ports".to_owned())?;
        let _ = fs::remove_dir(roots.ports());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(text: &str) -> Port {
        let wish = Wish::parse(text).unwrap().remove(0);
        let host = match wish.host {
            HostPort::Any => 0,
            HostPort::OneOf(range) => *range.start(),
        };
        Port { protocol: wish.protocol, address: wish.address, host, port: wish.port }
    }

    #[test]
    fn two_that_could_not_both_be_bound_overlap() {
        for (one, other, meets) in [
            ("80:80", "80:80", true),
            ("80:80", "127.0.0.1:80:80", true),
            ("80:80", "[::1]:80:80", true),
            ("0.0.0.0:80:80", "127.0.0.1:80:80", true),
            ("0.0.0.0:80:80", "[::]:80:80", false),
            ("127.0.0.1:80:80", "127.0.0.2:80:80", false),
            ("127.0.0.1:80:80", "127.0.0.1:80:80", true),
            ("[::]:80:80", "[::1]:80:80", true),
            ("[fd00::1]:80:80", "[fd00::2]:80:80", false),
        ] {
            for (a, b) in [(one, other), (other, one)] {
                assert_eq!(overlap(port(a).address, port(b).address), meets, "{a} {b}");
            }
        }
    }

    #[test]
    fn a_port_leads_to_each_address_of_its_family() {
        let pod: Vec<IpAddr> = ["10.88.0.5", "fd00::5"].map(|text| text.parse().unwrap()).into();
        for (text, at, to) in [
            ("80:8", None, &["10.88.0.5:8", "[fd00::5]:8"][..]),
            ("0.0.0.0:80:8", None, &["10.88.0.5:8"]),
            ("[::]:80:8", None, &["[fd00::5]:8"]),
            ("192.0.2.1:80:8", Some("192.0.2.1"), &["10.88.0.5:8"]),
            ("[fd01::1]:80:8", Some("fd01::1"), &["[fd00::5]:8"]),
        ] {
            let mappings = port(text).mappings(&pod);
            assert_eq!(mappings.iter().map(|one| one.to.to_string()).collect::<Vec<_>>(), to, "{text}");
            assert!(mappings.iter().all(|one| one.address == at.map(|at| at.parse().unwrap())), "{text}");
        }
    }

    #[test]
    fn what_the_kernel_cannot_translate_makes_a_detour() {
        let (four, both) =
            (vec!["10.88.0.5".parse().unwrap()], vec!["10.88.0.5".parse().unwrap(), "fd00::5".parse().unwrap()]);
        for (text, pod, at) in [
            ("80:8", &four, Some("[::1]:80")),
            ("80:8/udp", &both, Some("[::1]:80")),
            ("80:8/sctp", &four, None),
            ("127.0.0.1:80:8", &four, None),
            ("[::1]:80:8", &both, Some("[::1]:80")),
            ("[::]:80:8", &four, Some("[::]:80")),
            ("[::]:80:8", &both, Some("[::1]:80")),
            ("[fd01::1]:80:8", &four, Some("[fd01::1]:80")),
            ("[fd01::1]:80:8", &both, None),
        ] {
            let detour = port(text).detour(pod);
            assert_eq!(detour.map(|detour| detour.at.to_string()).as_deref(), at, "{text}");
            assert!(detour.is_none_or(|detour| detour.to.to_string() == "10.88.0.5:8"), "{text}");
        }
    }

    #[test]
    fn a_port_is_shown_as_docker_shows_it() {
        for (text, shown) in [
            ("8080:80", "8080->80/tcp"),
            ("127.0.0.1:8080:80/udp", "127.0.0.1:8080->80/udp"),
            ("[::1]:8080:80", "[::1]:8080->80/tcp"),
        ] {
            assert_eq!(port(text).to_string(), shown);
        }
    }
}
