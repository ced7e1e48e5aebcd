//! One interface of a pod: its lease, its link, its addresses and routes; and the undoing of each.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::PodId;
use crate::net::Attachment;
use crate::net::bridge::{self, Network};
use crate::net::cidr::{Cidr, Mac, link_name};
use crate::net::cni;
use crate::net::definition::{self, Definition, Driver};
use crate::net::forward;
use crate::net::hanging;
use crate::net::ipam::{self, Lease, Pool, Range, Taken, Wanted};
use crate::net::link::{self, End, Family, Ipv6, LEAST_OF_IPV6, Netlink, Veth};
use crate::net::names::{self, Names};
use crate::net::prune::Leftover;
use crate::roots::Roots;
use crate::spec;
use crate::spec::network::{Attach, MOST};
use crate::sys;
use nix::fcntl::Flock;
use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Whose interfaces these are.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    pub id: &'a PodId,
    /// How people call it.
    pub title: &'a str,
    pub netns: BorrowedFd<'a>,
    /// The interfaces that it has.
    pub beside: &'a [Attachment],
    pub asks: &'a cni::Asks,
    /// What it is called on each network beside its own name, what it calls others, and whom it asks.
    pub names: &'a Names,
}

/// Who makes an interface, and by which description.
enum Maker {
    Podrun(Box<Definition>),
    Plugins(cni::conflist::Chain),
}

/// What an interface is to lead to: the name that records have for it, and its maker.
fn maker(roots: &Roots, wish: &Attach) -> Result<(String, Maker)> {
    match &wish.network {
        spec::Network::Cni(which) => {
            let chain = cni::find(which)?;
            Ok((cni::title(&chain.name), Maker::Plugins(chain)))
        }
        _ => definition::of(roots, wish).map(|(name, definition)| (name, Maker::Podrun(Box::new(definition)))),
    }
}

/// The name that records have for what an interface leads to.
pub fn name_of(roots: &Roots, wish: &Attach) -> Result<String> {
    maker(roots, wish).map(|(name, _)| name)
}

/// Puts the pod on these networks, beside those that it is on; also says what the user should know. All of them or none.
///
/// The pod's directory ([`Roots::pod`]) must be there before, and as long as the pod is: `prune` takes what has none
/// for a crash's.
pub fn attach(roots: &Roots, pod: &Pod<'_>, wishes: &[Attach]) -> Result<(Vec<Attachment>, Vec<String>)> {
    let mut made: Vec<Attachment> = Vec::new();
    let mut warnings = Vec::new();
    for wish in wishes {
        let all: Vec<&Attachment> = pod.beside.iter().chain(&made).collect();
        match attach_one(roots, pod, &all, wish) {
            Ok((attachment, more)) => {
                made.push(attachment);
                warnings.extend(more.into_iter().filter(|one| !warnings.contains(one)).collect::<Vec<_>>());
            }
            Err(err) => {
                // What cannot be undone now, `detach` or `prune` find again; the first error is the one to tell.
                for one in &made {
                    let _ = disconnect(roots, one, std::slice::from_ref(pod.id), Some(pod.netns));
                }
                return Err(err);
            }
        }
    }
    Ok((made, warnings))
}

/// What an interface is to be, before there is anything of it.
pub(super) struct Plan<'a> {
    pub(super) wish: &'a Attach,
    pub(super) interface: String,
    /// The host's end of it, for networks that have one.
    pub(super) link: String,
    /// Whether the pod's way out is to lead by it, should it have one.
    pub(super) leads_out: bool,
}

fn attach_one(
    roots: &Roots,
    pod: &Pod<'_>,
    beside: &[&Attachment],
    wish: &Attach,
) -> Result<(Attachment, Vec<String>)> {
    let (name, maker) = maker(roots, wish)?;
    let within = |err: Error| err.within(format!("attach it to {name}"));
    let refuse = |cause: String| Err(within(Error::new(Kind::AlreadyExists, "choose the interface", cause)));
    if beside.iter().any(|other| other.network == name) {
        return refuse("the pod is on this network already".to_owned());
    }
    let resolves = matches!(&maker, Maker::Podrun(definition) if definition.resolves_names());
    if let Some(alias) = wish.aliases.first().filter(|_| !resolves) {
        return Err(within(Error::new(Kind::Invalid, format!("call it {alias}"), "the network resolves no names")));
    }
    let used = |interface: &str| beside.iter().any(|other| other.interface == interface);
    let interface = match &wish.interface {
        Some(asked) if used(asked) => return refuse(format!("the pod has an interface {asked}")),
        Some(asked) => asked.clone(),
        None => (0..).map(|n| format!("eth{n}")).find(|name| !used(name)).unwrap_or_default(),
    };
    let ended = |link: &String| beside.iter().any(|other| other.host_interface.as_ref() == Some(link));
    let Some(link) = (0..MOST).map(|n| pod.id.veth(n)).find(|link| !ended(link)) else {
        return refuse(format!("{MOST} interfaces are the most"));
    };
    let leads_out = !beside.iter().any(|other| other.default_route);
    let plan = Plan { wish, interface, link, leads_out };
    match maker {
        Maker::Plugins(chain) => cni::attach(roots, pod, chain, &plan),
        Maker::Podrun(definition) if definition.driver.hangs_on_a_link() => {
            hanging::attach(roots, pod, &name, &definition, &plan)
        }
        Maker::Podrun(definition) => on_host(roots, pod, &name, &definition, &plan),
    }
    .map_err(within)
}

/// A network whose pods have an end on the host.
fn on_host(
    roots: &Roots,
    pod: &Pod<'_>,
    name: &str,
    definition: &Definition,
    plan: &Plan<'_>,
) -> Result<(Attachment, Vec<String>)> {
    let host = Netlink::here()?;
    let (held, network, lease) = lease(roots, pod, name, definition, plan, &host)?;
    match wire(roots, &network, &lease, &host, pod, plan) {
        Ok(attachment) => {
            drop(held);
            Ok(resolve_names(roots, &network, attachment))
        }
        Err(err) => {
            let _ = host.delete(&plan.link);
            let _ = ipam::leave(roots, name, std::slice::from_ref(pod.id));
            Err(err)
        }
    }
}

/// A pod whose network has no name server is a pod all the same, and its user is told.
fn resolve_names(roots: &Roots, network: &Network, attachment: Attachment) -> (Attachment, Vec<String>) {
    let mut warnings = network.warnings();
    let names = match network.resolves_names().then(|| names::ensure(roots, &network.name)) {
        Some(Ok(())) => Some(network.gateway),
        Some(Err(err)) => {
            warnings.push(format!("{}: {}", err.what_was_being_done(), err.cause()));
            None
        }
        None => None,
    };
    (Attachment { names, ..attachment }, warnings)
}

/// The addresses that were asked for; one with a prefix says the network's own.
pub(super) fn addresses(wish: &Attach, pool: &Pool) -> Result<Vec<IpAddr>> {
    for one in &wish.ip {
        let same = |range: &&Range| range.subnet.address.is_ipv4() == one.address.is_ipv4();
        let prefix = pool.ranges.iter().find(same).map(|range| range.subnet.prefix);
        if let (Some(asked), Some(prefix)) = (one.prefix, prefix)
            && asked != prefix
        {
            let cause = format!("the network's prefix is /{prefix}");
            return Err(Error::new(Kind::Invalid, format!("take the address {}/{asked}", one.address), cause));
        }
    }
    Ok(wish.ip.iter().map(|one| one.address).collect())
}

/// What an interface's MTU would spoil: a bridge passes nothing on that is too long for the port, and tells nobody.
fn refuse_mtu(asked: Option<u32>, network: &Network) -> Result<()> {
    let Some(asked) = asked else { return Ok(()) };
    let err = |cause: String| Error::new(Kind::Invalid, format!("give it the MTU {asked}"), cause);
    let another = format!("podrun network create NAME --mtu {asked}");
    let tiny = asked < LEAST_OF_IPV6;
    match network.bridge {
        Some(_) if asked > network.mtu => Err(err(format!("the network's is {}", network.mtu)).hint(another)),
        // It takes on its ports' least.
        Some(_) if tiny && network.mtu >= LEAST_OF_IPV6 => {
            Err(err(format!("with a port below {LEAST_OF_IPV6} the bridge loses what is set for its IPv6"))
                .hint(another))
        }
        None if tiny && network.six.is_some() => Err(err(format!("IPv6 needs {LEAST_OF_IPV6}"))),
        Some(_) | None => Ok(()),
    }
}

/// Addresses for the pod, and the network with its lock.
fn lease(
    roots: &Roots,
    pod: &Pod<'_>,
    name: &str,
    definition: &Definition,
    plan: &Plan<'_>,
    host: &Netlink,
) -> Result<(Flock<File>, Network, Lease)> {
    let (held, network) = bridge::hold(roots, name, definition)?;
    let asked = addresses(plan.wish, &network.pool(roots))?;
    refuse_mtu(plan.wish.mtu, &network)?;
    let mut names = pod.names.clone();
    plan.wish.aliases.iter().for_each(|alias| names.add(alias.as_str(), names::parts(pod.title).1));
    let wanted = Wanted {
        pod: pod.id,
        title: pod.title,
        link: Some(&plan.link),
        interface: &plan.interface,
        names: &names,
        addresses: &asked,
        mac: plan.wish.mac.map(Mac),
    };
    if let Taken::Lease(lease) = network.pool(roots).take(&wanted)? {
        return Ok((held, network, lease));
    }
    drop(held);
    // Alone with the networks, no other pod is between its lease and its link: what has no link is a crash's.
    let (held, network) = bridge::hold_alone(roots, name, definition)?;
    let pool = network.pool(roots);
    let until = Instant::now() + GRACE;
    loop {
        pool.reclaim()?;
        let taken = pool.take(&wanted)?;
        let err = match taken {
            Taken::Lease(lease) => return Ok((held, network, lease)),
            // It would go by itself, some milliseconds later; here somebody waits for its address.
            Taken::Lingers { address } => {
                host.delete(&link_name(address))?;
                lingers(address)
            }
            Taken::Full { range, leases } => {
                let left = Leftover::look(roots, host, &|pod| roots.pod(pod).exists())?;
                if let Some(link) = left.links.first() {
                    host.delete(&link.name)?;
                    continue;
                }
                exhausted(name, range, leases)
            }
        };
        if Instant::now() > until {
            return Err(err);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How long a range may be full only because the links of pods that were just killed are on their way out.
pub(super) const GRACE: Duration = Duration::from_secs(2);

pub(super) fn exhausted(network: &str, range: Cidr, leases: usize) -> Error {
    let doing = format!("take an address of {range}");
    Error::new(Kind::Exhausted, doing, format!("none is free, {leases} pods have one")).hint(format!(
        "delete pods that are not needed, run `podrun prune`, or name a larger range in networks/{network}.json under \
         podrun's root",
    ))
}

pub(super) fn lingers(address: IpAddr) -> Error {
    let doing = format!("take the address {address}");
    Error::new(Kind::NotNow, doing, "the link of the pod that had it does not go").hint("podrun prune --force")
}

pub(super) fn no_address() -> Error {
    Error::new(Kind::Kernel, "attach the pod", "no address")
}

fn wire(
    roots: &Roots,
    network: &Network,
    lease: &Lease,
    host: &Netlink,
    pod: &Pod<'_>,
    plan: &Plan<'_>,
) -> Result<Attachment> {
    fault::step("create-pod.leased").doing(|| "make the pod".into())?;
    let first = *lease.addresses.first().ok_or_else(no_address)?;
    let mac = plan.wish.mac.map_or_else(|| Mac::pod(first.address), Mac);
    let mtu = plan.wish.mtu.unwrap_or(network.mtu);
    let end = match network.bridge {
        Some(_) => End::Port { bridge: network.index, reach: network.reach() },
        None => End::Routed { group: roots.link_group_of(&network.name) },
    };
    let second_names: Vec<String> = lease.addresses.iter().map(|one| link_name(one.address)).collect();
    // The pod's socket first: where the namespace cannot be entered, nothing has been made yet.
    let inside = Netlink::inside(pod.netns, || families(network.ipv6, &lease.addresses))?;
    host.add_veth(&Veth {
        name: &plan.link,
        second_names: &second_names,
        alias: pod.id.as_str(),
        end,
        mac: Mac::host(first.address),
        mtu,
        ipv6: network.ipv6,
        peer: &plan.interface,
        peer_mac: mac,
        netns: pod.netns,
    })
    .map_err(|err| explain(err, network))?;
    fault::step("create-pod.linked").doing(|| "make the pod".into())?;
    if network.bridge.is_none() {
        route_to(host, &plan.link, network, &lease.addresses)?;
    }
    let out = plan.leads_out && !network.policy.internal;
    let gateway = |one: &Cidr| network.gateway_of(one.address);
    let families = lease.addresses.iter().map(|one| Family {
        address: if network.bridge.is_some() { *one } else { Cidr::alone(one.address) },
        gateway: gateway(one).filter(|_| out),
        via: network.beyond(one.address).filter(|_| network.bridge.is_none() || !out).zip(gateway(one)),
    });
    inside.configure(&plan.interface, &families.collect::<Vec<_>>())?;
    settle([Some(plan.link.as_str()), network.bridge.as_deref()]);
    let way = |six: bool| lease.addresses.iter().find(|one| one.address.is_ipv6() == six).and_then(gateway);
    let open = !network.policy.internal;
    Ok(Attachment {
        network: network.name.clone(),
        driver: network.driver,
        interface: plan.interface.clone(),
        host_interface: Some(plan.link.clone()),
        addresses: lease.addresses.clone(),
        gateway: way(false).filter(|_| open),
        gateway6: way(true).filter(|_| open),
        default_route: out,
        mac: mac.to_string(),
        mtu,
        bridge: network.bridge.clone(),
        dns: None,
        names: None,
    })
}

/// For what it forwards, a host asks for the neighbour from a link-local address, or not at all (RFC 4861, 7.2.2).
const ASKS_FROM: Cidr = Cidr { address: IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)), prefix: 64 };

/// The host's side of a pair without a bridge: the gateways answer there, and each address is routed there. Both go with
/// the link. It is an interface of the host's like any other, and would believe a pod that plays the router; there is no
/// carrier yet, so nothing has been heard.
fn route_to(host: &Netlink, link: &str, network: &Network, addresses: &[Cidr]) -> Result<()> {
    bridge::set_ipv6(link, network)?;
    let index = sys::net::link_index(link).doing(|| format!("find the link {link}"))?;
    let mut own = network.gateways().map(Cidr::alone).chain(network.six.map(|_| ASKS_FROM));
    own.try_for_each(|one| host.add_address(index, one))?;
    addresses.iter().try_for_each(|one| host.add_host_route(one.address, index))
}

/// A port forwards, and a queue sends, only once the kernel's link watch has seen the carrier, some time after the
/// pod's end went up. A packet before that is lost, and with it a second, until ARP or TCP tries again (measured: one
/// first connection of six on a busy host). To ask for the carrier makes the kernel look at once (Linux 6.8; an older one
/// looks when it gets to it, mostly within a millisecond).
fn settle(links: [Option<&str>; 2]) {
    for link in links.into_iter().flatten() {
        // The answer is of no use, nor is it a reason to give up a pod that is wired.
        let _ = sys::net::has_carrier(link);
    }
}

/// What the next interface of the calling thread's network namespace is born with. On a network without IPv6 it has
/// none: no neighbour's router advertisement is heard (CVE-2020-10749), and 300 pods do not tell each other of addresses
/// that nobody uses. Loopback keeps `::1`. With IPv6 no advertisement is heard either, since podrun says the routes.
pub(super) fn families(ipv6: Ipv6, addresses: &[Cidr]) -> Result<()> {
    if ipv6 == Ipv6::Unknown {
        return Ok(());
    }
    let six = addresses.iter().any(|one| one.address.is_ipv6());
    let write = |key: &str, value: &str| {
        let file = format!("/proc/sys/net/ipv6/conf/default/{key}");
        forward::write(Path::new(&file), value).doing(|| format!("write {value} to {file} inside the pod"))
    };
    if !six {
        return write("disable_ipv6", "1");
    }
    [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", "0")].into_iter().try_for_each(|(k, v)| write(k, v))
}

fn explain(err: Error, network: &Network) -> Error {
    if !link::is_full(&err) {
        return err;
    }
    let doing = err.what_was_being_done().to_owned();
    Error::new(Kind::Exhausted, doing, format!("the bridge {} has no port left", network.seen_as()))
        .hint("a Linux bridge has room for 1023 pods; delete some, or `podrun prune` where they are gone already")
}

/// Takes one interface from those who share it: the link with its routes, then the lease. Gone is fine. Unlike a pod's end
/// this waits for the kernel: the network namespace lives on, and nothing else would take the link from it.
pub fn disconnect(
    roots: &Roots,
    attachment: &Attachment,
    holders: &[PodId],
    netns: Option<BorrowedFd<'_>>,
) -> Result<()> {
    if attachment.driver == Driver::Cni {
        return cni::leave(roots, &attachment.network, holders, netns);
    }
    match (&attachment.host_interface, netns) {
        (Some(link), _) => Netlink::here()?.delete(link)?,
        (None, Some(netns)) => delete_inside(netns, &attachment.interface)?,
        (None, None) => {}
    }
    ipam::leave(roots, &attachment.network, holders)
}

/// The same for what a crash left between a lease and the record of it.
pub fn detach_from(roots: &Roots, network: &str, pod: &PodId, netns: BorrowedFd<'_>) -> Result<()> {
    if cni::is_title(network) {
        return cni::leave(roots, network, std::slice::from_ref(pod), Some(netns));
    }
    let Some(lease) = ipam::held(roots, network, pod) else { return Ok(()) };
    match (lease.link, lease.interface) {
        (Some(link), _) => Netlink::here()?.delete(&link)?,
        (None, interface) if !interface.is_empty() => delete_inside(netns, &interface)?,
        (None, _) => {}
    }
    ipam::leave(roots, network, std::slice::from_ref(pod))
}

pub(super) fn delete_inside(netns: BorrowedFd<'_>, interface: &str) -> Result<()> {
    Netlink::inside(netns, || Ok(()))?.delete_named(interface)
}

/// The pod's way out leads by this interface from now on.
pub fn give_way_out(netns: BorrowedFd<'_>, attachment: &Attachment) -> Result<()> {
    Netlink::inside(netns, || Ok(()))?.set_default_routes(&attachment.interface, &attachment.gateways())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bridge_is_no_riddle() {
        let network: Network = serde_json::from_str(
            r#"{"version": 1, "name": "bridge", "bridge": "podrun0", "index": 3, "subnet": "10.88.0.0/16",
                "gateway": "10.88.0.1", "mtu": 1500, "ipv6": "known", "outside": {"is": "open"}, "former": null,
                "place": {"boot": "x", "netns": 1}}"#,
        )
        .unwrap();
        let full = Err::<(), _>(std::io::Error::from_raw_os_error(libc::EXFULL)).doing(|| "make the link".to_owned());
        let told = explain(full.unwrap_err(), &network);
        assert_eq!((told.kind, told.cause()), (Kind::Exhausted, "the bridge podrun0 has no port left"));
        let other = explain(Error::new(Kind::Kernel, "make the link", "Operation not permitted"), &network);
        assert_eq!((other.kind, other.cause()), (Kind::Kernel, "Operation not permitted"));
    }
}
