//! What `podrun doctor` tells of networks: forwarding, firewall, bridges, links and leases, each with its cure.

#![forbid(unsafe_code)]

use crate::error::Result;
use crate::id::PodId;
use crate::net::bridge::{self, Network, Outside};
use crate::net::cidr::Cidr;
use crate::net::cni;
use crate::net::forward::{self, Family};
use crate::net::ipam;
use crate::net::link::{Link, Netlink};
use crate::net::names::{self, Look};
use crate::net::nft;
use crate::net::prune::{Prune, prune};
use crate::roots::Roots;
use serde::Serialize;
use std::fs;

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

type Looking = fn(&Roots, &[PodId]) -> Result<Vec<Finding>>;

/// The state of forwarding, firewall, bridge, links and leases.
pub fn findings(roots: &Roots, live: &[PodId]) -> Vec<Finding> {
    let mut found = Vec::new();
    let looks: [Looking; 6] =
        [find_nft, find_network, find_names, find_foreign, |roots, _| Ok(cni::findings(roots)), find_leftover];
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

fn find_nft(_: &Roots, _: &[PodId]) -> Result<Vec<Finding>> {
    Ok(vec![match nft::find() {
        Some(path) => finding(State::Good, format!("nft is {}", path.display()), None),
        None => finding(
            State::Bad,
            "nft is not on PATH: pods on bridges do not reach beyond this host",
            Some("install nftables; the next pod writes the rules"),
        ),
    }])
}

/// What cures a missing piece. Whoever attaches next makes it again, too.
const RELOAD: &str = "podrun network reload";

fn find_network(roots: &Roots, _: &[PodId]) -> Result<Vec<Finding>> {
    let made = bridge::all_remembered(roots)?;
    if made.is_empty() {
        return Ok(vec![finding(State::Good, "no bridge network has been made", None)]);
    }
    let host = Netlink::here()?;
    let (links, addresses) = (host.links()?, host.addresses()?);
    let mut found: Vec<Finding> = made.iter().filter_map(|network| find_bridge(network, &links, &addresses)).collect();
    for network in &made {
        found.extend(find_strays(roots, network, &links)?);
    }
    found.extend(made.iter().filter_map(|network| find_tunnel(network, &links)));
    let table = roots.table();
    found.push(match nft::table_exists(&table)? {
        true => finding(State::Good, format!("nftables table inet {table} is there"), None),
        false => finding(
            State::Bad,
            format!("nftables table inet {table} is gone: no pod reaches beyond this host"),
            Some(RELOAD),
        ),
    });
    for warning in made.iter().flat_map(Network::warnings) {
        found.push(finding(State::Bad, warning, None));
    }
    for family in Family::BOTH {
        found.extend(find_forwarding(roots, family, &made)?);
    }
    Ok(found)
}

/// A server for each network that has pods and resolves names.
fn find_names(roots: &Roots, _: &[PodId]) -> Result<Vec<Finding>> {
    let used = |network: &Network| ipam::is_used(&roots.leases().join(&network.name));
    let made = bridge::all_remembered(roots)?.into_iter().filter(|network| network.resolves_names() && used(network));
    made.map(|network| find_name_server(roots, &network)).collect()
}

fn find_name_server(roots: &Roots, network: &Network) -> Result<Finding> {
    let name = &network.name;
    Ok(match names::look(roots, name)? {
        Look::There { record, .. } => {
            let what = format!("names on {name} are resolved at {} by process {}", network.gateway, record.pid);
            finding(State::Good, what, None)
        }
        _ => finding(State::Bad, format!("names on {name} are not resolved: its server is not there"), Some(RELOAD)),
    })
}

fn find_bridge(network: &Network, links: &[Link], addresses: &[(u32, Cidr)]) -> Option<Finding> {
    let bridge = network.bridge.as_ref()?;
    let has = |link: &Link, own| addresses.iter().any(|(of, one)| *of == link.index && one.address == own);
    Some(match links.iter().find(|link| link.name == *bridge) {
        Some(link) if link.up => match network.gateways().find(|own| !has(link, *own)) {
            Some(own) => finding(State::Bad, format!("bridge {bridge} has lost its address {own}"), Some(RELOAD)),
            None => {
                let what = format!("bridge {bridge} is up with {} via {}", network.subnet, network.gateway);
                finding(State::Good, what, None)
            }
        },
        Some(_) => finding(State::Bad, format!("bridge {bridge} is down"), Some(&format!("ip link set {bridge} up"))),
        None => finding(State::Bad, format!("bridge {bridge} is gone"), Some(RELOAD)),
    })
}

fn find_strays(roots: &Roots, network: &Network, links: &[Link]) -> Result<Vec<Finding>> {
    let Some(bridge) = links.iter().find(|link| network.bridge.as_ref() == Some(&link.name)) else {
        return Ok(Vec::new());
    };
    let told = |link: &Link| {
        let what = format!("link {} is off, or off the bridge {}: its pod reaches nobody", link.name, bridge.name);
        finding(State::Bad, what, Some(RELOAD))
    };
    Ok(bridge::strays(roots, network, bridge.index, links)?.map(told).collect())
}

fn find_tunnel(network: &Network, links: &[Link]) -> Option<Finding> {
    let overlay = network.overlay.as_ref()?;
    let device = &overlay.device;
    Some(match links.iter().find(|link| link.name == *device) {
        Some(link) if link.up => {
            let peers = match overlay.peers.len() {
                1 => "1 peer".to_owned(),
                count => format!("{count} peers"),
            };
            let what = format!("tunnel {device} leads to {peers}, VNI {}", overlay.vni);
            finding(State::Good, what, None)
        }
        Some(_) => finding(State::Bad, format!("tunnel {device} is down"), Some(RELOAD)),
        None => finding(State::Bad, format!("tunnel {device} is gone"), Some(RELOAD)),
    })
}

fn find_forwarding(roots: &Roots, family: Family, made: &[Network]) -> Result<Option<Finding>> {
    let open = |network: &Network| network.outside == Outside::Open && network.families().any(|one| one == family);
    if !made.iter().any(open) && family == Family::Six {
        return Ok(None);
    }
    let now = forward::now(family)?;
    let (tree, key) = (family.tree(), family.key());
    if made.iter().any(open) && !now.off.is_empty() {
        let off: Vec<_> = now.off.iter().map(String::as_str).collect();
        let what = format!("no forwarding of what comes in by {}: answers to pods get lost there", off.join(", "));
        let cure: Vec<_> = off.iter().map(|name| format!("{tree}/{name}/{key}=1")).collect();
        return Ok(Some(finding(State::Bad, what, Some(&format!("sysctl -w {}", cure.join(" "))))));
    }
    let ours = bridge::turned_on(roots, family)?;
    Ok(Some(match ours.is_empty() {
        true => finding(State::Good, format!("podrun did not need to change {}.*.{key}", tree.replace('/', ".")), None),
        false => finding(
            State::Note,
            format!("podrun turned on {}.*.{key} of {}", tree.replace('/', "."), ours.join(", ")),
            Some("`podrun prune` turns it off again when no pod is left"),
        ),
    }))
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
}
