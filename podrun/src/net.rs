//! Networks of a pod: which address it has, how it is wired, and what that leaves on the host.
//!
//! * `bridge`: a veth pair whose peer is born in the pod's network namespace, a lease, the host's bridge and rules
//!   ([`attach_bridge`]).
//! * `none` and `host`: nothing is attached, so there is nothing here to do.
//! * `pod:NAME`: the member shares what the other pod holds ([`share`]), and gives it back by its own [`detach`]; the
//!   address lives until the last of them.
//!
//! [`detach`] needs nothing but the pod's id, does not wait for the kernel, and may be called twice. [`prune`] removes
//! what belongs to no pod, and, when no pod is left, every change to the host.

#![forbid(unsafe_code)]

pub mod bridge;
pub mod cidr;
pub mod conntrack;
pub mod elements;
pub mod files;
pub mod forward;
pub mod ipam;
pub mod link;
pub mod lock;
pub mod nft;
pub mod ports;

use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::PodId;
use crate::net::bridge::Network;
use crate::net::cidr::{Cidr, Mac, link_name};
use crate::net::ipam::{Lease, Pool, Taken};
use crate::net::link::{Ipv6, Link, Netlink, Veth};
use crate::net::lock::{Hold, lock};
use crate::roots::Roots;
use crate::sys;
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// A pod on a network: what its record says about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The interface inside the pod.
    pub interface: String,
    /// Its other end on the host, where it has one.
    pub host_interface: Option<String>,
    pub addresses: Vec<Cidr>,
    pub gateway: Option<IpAddr>,
    pub mac: String,
    pub mtu: u32,
    pub bridge: Option<String>,
}

/// The pod's first interface.
const INTERFACE: &str = "eth0";

/// Puts the pod whose network namespace is `netns` on the default bridge; also says what the user should know.
///
/// The pod's directory ([`Roots::pod`]) must be there before, and as long as the pod is: `prune` takes what has none
/// for a crash's.
pub fn attach_bridge(roots: &Roots, pod: &PodId, netns: BorrowedFd<'_>) -> Result<(Attachment, Vec<String>)> {
    let host = Netlink::here()?;
    let (_held, network, lease) = lease(roots, pod, &host)?;
    fault::step("create-pod.leased").doing(|| "make the pod".into())?;
    match wire(&network, &lease, &host, netns) {
        Ok(attachment) => Ok((attachment, network.warnings())),
        Err(err) => {
            // What cannot be undone now, `detach` or `prune` find again; the first error is the one to tell.
            let _ = host.delete(&lease.link);
            let _ = ipam::release(roots, pod);
            Err(err)
        }
    }
}

/// An address for the pod, and the network with its lock.
fn lease(roots: &Roots, pod: &PodId, host: &Netlink) -> Result<(Flock<File>, Network, Lease)> {
    let (held, network) = bridge::hold(roots)?;
    if let Taken::Lease(lease) = network.pool(roots).take(pod)? {
        return Ok((held, network, lease));
    }
    drop(held);
    // Alone with the network, no other pod is between its lease and its link: what has no link is a crash's.
    let (held, network) = bridge::hold_alone(roots)?;
    let pool = network.pool(roots);
    let until = Instant::now() + GRACE;
    loop {
        pool.reclaim()?;
        match pool.take(pod)? {
            Taken::Lease(lease) => return Ok((held, network, lease)),
            Taken::Full { leases } => {
                match Leftover::look(roots, host, &|pod| roots.pod(pod).exists())?.links.first() {
                    // It would go by itself, some milliseconds later; here somebody waits for its address.
                    Some(link) => host.delete(&link.name)?,
                    None if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                    None => return Err(exhausted(&pool, leases)),
                }
            }
        }
    }
}

/// How long a range may be full only because the links of pods that were just killed are on their way out.
const GRACE: Duration = Duration::from_secs(2);

fn exhausted(pool: &Pool, leases: usize) -> Error {
    let doing = format!("take an address of {}", pool.subnet);
    Error::new(Kind::Exhausted, doing, format!("none is free, {leases} pods have one")).hint(
        "delete pods that are not needed, run `podrun prune`, or name a larger range in networks/bridge.json under \
         podrun's root",
    )
}

fn wire(network: &Network, lease: &Lease, host: &Netlink, netns: BorrowedFd<'_>) -> Result<Attachment> {
    let address = *lease.addresses.first().ok_or_else(|| Error::new(Kind::Kernel, "attach the pod", "no address"))?;
    let mac = Mac::pod(address.address);
    // The pod's socket first: where the namespace cannot be entered, nothing has been made yet.
    let pod = Netlink::inside(netns, || ipv4_only(network.ipv6))?;
    host.add_veth(&Veth {
        name: &lease.link,
        second_name: &link_name(address.address),
        alias: lease.pod.as_str(),
        bridge: network.index,
        mac: Mac::host(address.address),
        mtu: network.mtu,
        ipv6: network.ipv6,
        peer: INTERFACE,
        peer_mac: mac,
        netns,
    })
    .map_err(|err| explain(err, network))?;
    fault::step("create-pod.linked").doing(|| "make the pod".into())?;
    pod.configure(INTERFACE, address, Some(network.gateway))?;
    settle(&[&lease.link, &network.bridge]);
    Ok(Attachment {
        network: network.name.clone(),
        interface: INTERFACE.to_owned(),
        host_interface: Some(lease.link.clone()),
        addresses: lease.addresses.clone(),
        gateway: Some(network.gateway),
        mac: mac.to_string(),
        mtu: network.mtu,
        bridge: Some(network.bridge.clone()),
    })
}

/// A port forwards, and a queue sends, only once the kernel's link watch has seen the carrier, some time after the
/// pod's end went up. A packet before that is lost, and with it a second, until ARP or TCP tries again (measured: one
/// first connection of six on a busy host). To ask for the carrier makes the kernel look at once (Linux 6.8; an older one
/// looks when it gets to it, mostly within a millisecond).
fn settle(links: &[&str]) {
    for link in links {
        // The answer is of no use, nor is it a reason to give up a pod that is wired.
        let _ = sys::net::has_carrier(link);
    }
}

/// On a network without IPv6 the pod's interface has none: no neighbour's router advertisement is heard
/// (CVE-2020-10749), and 300 pods do not tell each other of addresses that nobody uses. Loopback keeps `::1`.
fn ipv4_only(ipv6: Ipv6) -> Result<()> {
    // That of the calling thread's network namespace.
    let file = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    match ipv6 {
        Ipv6::Known => forward::write(Path::new(file), "1").doing(|| format!("write 1 to {file} inside the pod")),
        Ipv6::Unknown => Ok(()),
    }
}

fn explain(err: Error, network: &Network) -> Error {
    if !link::is_full(&err) {
        return err;
    }
    let doing = err.what_was_being_done().to_owned();
    Error::new(Kind::Exhausted, doing, format!("the bridge {} has no port left", network.bridge))
        .hint("a Linux bridge has room for 1023 pods; delete some, or `podrun prune` where they are gone already")
}

/// `member` joins the network namespace of `pod`: both hold its leases from now on, and the last to leave ends them.
pub fn share(roots: &Roots, pod: &PodId, member: &PodId) -> Result<()> {
    ipam::share(roots, pod, member)
}

/// Ends what the pod holds: its link is silenced at once and goes with its network namespace, unless another pod has
/// joined that. Its ports are free before its address is. From the id alone, whatever a crash left; twice is fine.
pub fn detach(roots: &Roots, pod: &PodId) -> Result<()> {
    let closed = ports::release(roots, pod);
    ipam::release(roots, pod).and(closed)
}

/// Puts back what is missing of the host's side: bridge, rules, published ports. Nothing where nothing was made, or nothing
/// is missing.
pub fn restore(roots: &Roots) -> Result<()> {
    bridge::restore(roots)
}

/// Whether to prune, or only to tell what would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    DryRun,
    Now,
}

/// Removes what belongs to no live pod: links, leases, and, where none is left, the bridge, the rules and the change
/// of forwarding. Says what went.
///
/// A pod whose directory is there counts as live when it is not on the list: it may have been made since. So remove
/// dead pods' directories first.
pub fn prune(roots: &Roots, live: &[PodId], how: Prune) -> Result<Vec<String>> {
    let in_use = |pod: &PodId| live.contains(pod) || roots.pod(pod).exists();
    let mut said = ports::prune(roots, in_use, how == Prune::Now)?;
    let nothing = ipam::networks(roots)?.is_empty() && bridge::remembered(roots).is_none();
    if nothing && bridge::remains(roots)?.is_empty() {
        return Ok(said);
    }
    let _held = match how {
        Prune::Now => Some(lock(&bridge::lock_file(roots), Hold::Exclusive)?),
        Prune::DryRun => None,
    };
    let lives = |pod: &PodId| live.contains(pod) || (how == Prune::Now && roots.pod(pod).exists());
    let host = Netlink::here()?;
    let leftover = Leftover::look(roots, &host, &lives)?;
    said.extend(leftover.say());
    if how == Prune::Now {
        leftover.remove(roots, &host, &lives)?;
    }
    if leftover.kept == 0 {
        said.extend(bridge::remains(roots)?);
        if how == Prune::Now {
            bridge::unmake(roots, &host)?;
        }
    }
    Ok(said)
}

/// What belongs to no live pod.
struct Leftover {
    links: Vec<Link>,
    leases: Vec<String>,
    /// How many leases and links live pods have.
    kept: usize,
}

impl Leftover {
    fn look(roots: &Roots, host: &Netlink, lives: &impl Fn(&PodId) -> bool) -> Result<Self> {
        let mut found = Self { links: Vec::new(), leases: Vec::new(), kept: 0 };
        let mut needed = BTreeSet::new();
        for network in ipam::networks(roots)? {
            for entry in ipam::survey(&network)?.values() {
                if entry.holders.iter().any(lives) {
                    found.kept += 1;
                    needed.extend(entry.links(&network));
                } else {
                    found.leases.push(entry.say());
                }
            }
        }
        let links = host.links()?;
        let ours = links.iter().find(|link| link.name == roots.bridge()).map(|link| link.index);
        for link in links.into_iter().filter(|link| link.bridge.is_some() && link.bridge == ours) {
            match bridge::owner(&link) {
                Some(pod) if !lives(&pod) && !needed.contains(&link.name) => found.links.push(link),
                _ => found.kept += 1,
            }
        }
        Ok(found)
    }

    fn say(&self) -> impl Iterator<Item = String> {
        let links = self.links.iter().map(|link| format!("link {}", link.name));
        links.chain(self.leases.iter().cloned())
    }

    /// Links first: an address is free only when its link is gone.
    fn remove(&self, roots: &Roots, host: &Netlink, lives: &impl Fn(&PodId) -> bool) -> Result<()> {
        self.links.iter().try_for_each(|link| host.delete(&link.name))?;
        for network in ipam::networks(roots)? {
            ipam::prune(&network, lives)?;
            ipam::forget(&network)?;
        }
        Ok(())
    }
}

/// One thing that `podrun doctor` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub what: String,
    pub state: State,
    pub cure: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// As it should be.
    Good,
    /// Worth knowing: podrun changed it, or will not clean it up by itself.
    Note,
    /// Pods suffer from it.
    Bad,
}

type Look = fn(&Roots, &[PodId]) -> Result<Vec<Finding>>;

/// The state of forwarding, firewall, bridge, links and leases.
pub fn findings(roots: &Roots, live: &[PodId]) -> Vec<Finding> {
    let mut found = Vec::new();
    let looks: [Look; 4] = [find_nft, find_network, find_foreign, find_leftover];
    for look in looks {
        match look(roots, live) {
            Ok(some) => found.extend(some),
            Err(err) => found.push(finding(State::Bad, err.to_string(), None)),
        }
    }
    found
}

fn finding(state: State, what: impl Into<String>, cure: Option<&str>) -> Finding {
    Finding { what: what.into(), state, cure: cure.map(str::to_owned) }
}

fn find_nft(roots: &Roots, _: &[PodId]) -> Result<Vec<Finding>> {
    Ok(vec![match nft::find() {
        Some(path) => finding(State::Good, format!("nft is {}", path.display()), None),
        None => finding(
            State::Bad,
            format!("nft is not on PATH: pods on {} do not reach beyond this host", roots.bridge()),
            Some("install nftables; the next pod writes the rules"),
        ),
    }])
}

/// What cures a missing piece: whoever attaches next makes it again.
const NEXT_POD: &str = "`podrun create pod` makes it again with the next pod";

fn find_network(roots: &Roots, _: &[PodId]) -> Result<Vec<Finding>> {
    let Some(network) = bridge::remembered(roots) else {
        return Ok(vec![finding(State::Good, "no bridge network has been made", None)]);
    };
    let bridge = &network.bridge;
    let mut found = Vec::new();
    found.push(match Netlink::here()?.links()?.iter().find(|link| link.name == *bridge) {
        Some(link) if link.up => {
            finding(State::Good, format!("bridge {bridge} is up with {} via {}", network.subnet, network.gateway), None)
        }
        Some(_) => finding(State::Bad, format!("bridge {bridge} is down"), Some(&format!("ip link set {bridge} up"))),
        None => finding(State::Bad, format!("bridge {bridge} is gone"), Some(NEXT_POD)),
    });
    let table = roots.table();
    found.push(match nft::table_exists(&table)? {
        true => finding(State::Good, format!("nftables table inet {table} is there"), None),
        false => finding(
            State::Bad,
            format!("nftables table inet {table} is gone: no pod reaches beyond this host"),
            Some(NEXT_POD),
        ),
    });
    found.extend(network.warnings().into_iter().map(|warning| finding(State::Bad, warning, None)));
    found.push(find_forwarding(&network)?);
    Ok(found)
}

fn find_forwarding(network: &Network) -> Result<Finding> {
    let now = forward::now()?;
    if network.outside == bridge::Outside::Open && !now.off.is_empty() {
        let off: Vec<_> = now.off.iter().map(String::as_str).collect();
        let what = format!("no forwarding of what comes in by {}: answers to pods get lost there", off.join(", "));
        let cure: Vec<_> = off.iter().map(|name| format!("net/ipv4/conf/{name}/forwarding=1")).collect();
        return Ok(finding(State::Bad, what, Some(&format!("sysctl -w {}", cure.join(" ")))));
    }
    let ours = network.turned_on(&now);
    Ok(match ours.is_empty() {
        true => finding(State::Good, "podrun did not need to change forwarding", None),
        false => finding(
            State::Note,
            format!("podrun turned on net.ipv4.conf.*.forwarding of {}", ours.join(", ")),
            Some("`podrun prune` turns it off again when no pod is left"),
        ),
    })
}

/// Other people's firewalls, which podrun never touches: a drop there wins over any accept of ours.
fn find_foreign(roots: &Roots, _: &[PodId]) -> Result<Vec<Finding>> {
    let bridge = roots.bridge();
    let table = roots.table();
    let others = nft::forward_chains()?.into_iter().filter(|chain| chain.table != table);
    // iptables before nf_tables, whose rules cannot be asked for without its own program.
    let legacy = fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    let legacy = legacy.lines().any(|name| name == "filter").then(|| {
        let what = format!("iptables-legacy has a filter table, which may drop what {bridge} forwards");
        finding(State::Note, what, Some("look for `-P FORWARD DROP` in `iptables-legacy -S FORWARD`"))
    });
    Ok(others.filter_map(|chain| foreign(&chain, &bridge)).chain(legacy).collect())
}

/// Pure: what to say about a chain at the forward hook that is not ours.
fn foreign(chain: &nft::Chain, bridge: &str) -> Option<Finding> {
    let nft::Chain { table, name, .. } = chain;
    if table == "firewalld" {
        let cure = format!("firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload");
        return Some(finding(
            State::Note,
            format!("firewalld is active and may drop what {bridge} forwards"),
            Some(&cure),
        ));
    }
    if !chain.drops {
        return None;
    }
    let what = format!("chain {name} of the nftables table {table} drops what it does not know, {bridge} included");
    let family = if chain.family == 1 { "inet" } else { "ip" };
    let cure = match name.as_str() {
        // The name that iptables gives it, over nf_tables, too; nft would warn of a table that is not its own.
        "FORWARD" => format!(
            "iptables -I FORWARD -i {bridge} -j ACCEPT && \
             iptables -I FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        ),
        _ => format!(
            "nft insert rule {family} {table} {name} iifname {bridge} accept && \
             nft insert rule {family} {table} {name} oifname {bridge} ct state established,related accept"
        ),
    };
    Some(finding(State::Bad, what, Some(&cure)))
}

fn find_leftover(roots: &Roots, live: &[PodId]) -> Result<Vec<Finding>> {
    let said = prune(roots, live, Prune::DryRun)?;
    Ok(said
        .into_iter()
        .map(|what| finding(State::Note, format!("{what} belongs to no pod"), Some("podrun prune")))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::nft::Chain;

    fn chain(table: &str, name: &str, drops: bool) -> Chain {
        Chain { family: 2, table: table.to_owned(), name: name.to_owned(), drops }
    }

    #[test]
    fn a_foreign_drop_is_told_with_its_cure() {
        for (chain, state, cure) in [
            (chain("filter", "FORWARD", true), Some(State::Bad), "iptables -I FORWARD -i podrun0 -j ACCEPT && "),
            (chain("mine", "fwd", true), Some(State::Bad), "nft insert rule ip mine fwd iifname podrun0 accept && "),
            (chain("firewalld", "filter_FORWARD", false), Some(State::Note), "--add-interface=podrun0"),
            (chain("filter", "FORWARD", false), None, ""),
        ] {
            let found = foreign(&chain, "podrun0");
            assert_eq!(found.as_ref().map(|found| found.state), state, "{chain:?}");
            let told = found.and_then(|found| found.cure).unwrap_or_default();
            assert!(told.contains(cure), "{told}");
        }
    }

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
