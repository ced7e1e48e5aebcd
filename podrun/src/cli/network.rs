//! Verbs about networks: create, ls, inspect, rm, connect, disconnect, reload.

#![forbid(unsafe_code)]

use super::args::{Global, Words, pair};
use super::create::Format;
use super::table;
use crate::error::{Error, Kind, Result};
use crate::id::NetworkName;
use crate::net::Attachment;
use crate::net::bridge;
use crate::net::cidr::Cidr;
use crate::net::definition::{Definition, Driver};
use crate::pod::network::{self as networks, Six, Users};
use crate::record::Stamp;
use crate::roots::Roots;
use crate::spec::network::{self, Attach};
use clap::Args;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

#[derive(Debug, Args)]
struct Create {
    #[command(flatten)]
    global: Global,
    /// The network's name
    name: String,
    /// bridge, macvlan, ipvlan, ptp or vxlan
    #[arg(short = 'd', long, default_value = "bridge")]
    driver: String,
    /// Its address range, one of each family; a free one by default
    #[arg(long, value_name = "RANGE")]
    subnet: Vec<String>,
    /// The gateway; the first address of the range by default
    #[arg(long, value_name = "IP")]
    gateway: Vec<String>,
    /// The part of the range that is handed out
    #[arg(long, value_name = "RANGE", alias = "ip-range")]
    range: Vec<String>,
    /// IPv6 as well
    #[arg(long)]
    ipv6: bool,
    /// No way out
    #[arg(long)]
    internal: bool,
    /// Other networks that are made so, and their pods, are reached and reach it
    #[arg(long)]
    no_isolate: bool,
    /// Pods keep their own address outside
    #[arg(long)]
    no_masquerade: bool,
    /// Its pods do not reach each other
    #[arg(long)]
    no_icc: bool,
    /// No name server: its pods do not learn each other's names
    #[arg(long)]
    disable_dns: bool,
    /// Spanning tree: a new pod is heard after some seconds
    #[arg(long)]
    stp: bool,
    /// A label, for people and their tools
    #[arg(short = 'l', long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    #[arg(long, value_name = "BYTES")]
    mtu: Option<String>,
    /// The host's link that macvlan and ipvlan hang on
    #[arg(long, value_name = "IF")]
    parent: Option<String>,
    /// macvlan and ipvlan: the number of an 802.1Q link below the parent, to hang on instead
    #[arg(long, value_name = "ID")]
    vlan: Option<u16>,
    /// The host's address that --publish without one is at; all of them by default
    #[arg(long, value_name = "IP")]
    host_binding: Option<IpAddr>,
    /// macvlan: bridge, private, vepa, passthru; ipvlan: l2, l3, l3s
    #[arg(long)]
    mode: Option<String>,
    /// vxlan: the overlay's number, the same on all its hosts
    #[arg(long, value_name = "NUMBER")]
    vni: Option<u32>,
    /// vxlan: the range of all its hosts together; --subnet is this host's part
    #[arg(long, value_name = "RANGE")]
    cluster_cidr: Option<String>,
    /// vxlan: the other hosts and their parts
    #[arg(long, value_name = "IP=RANGE,…", value_delimiter = ',')]
    peers: Vec<String>,
    /// vxlan: this host's address, as the peers know it
    #[arg(long, value_name = "IP")]
    local: Option<IpAddr>,
    /// vxlan: its UDP port, 4789 by default
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Say it as: name, json
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(super) fn create(words: &Words) -> Result<i32> {
    let asked: Create = words.parse(
        "  podrun network create front\n  podrun network create back --internal --subnet 10.9.0.0/24 --label tier=back\n  \
         podrun network create lan --driver macvlan --parent eth0 --subnet 192.168.1.0/24 --range 192.168.1.192/28\n  \
         podrun network create flat --driver vxlan --vni 42 --cluster-cidr 10.90.0.0/16 --subnet 10.90.1.0/24 \
         --peers 198.51.100.2=10.90.2.0/24",
    )?;
    let format = Format::parse(asked.output.as_deref())?;
    let name = NetworkName::parse(&asked.name)?;
    let six = if asked.ipv6 { Six::Chosen } else { Six::AsSaid };
    let roots = asked.global.roots()?;
    let made = networks::create(&roots, &name, definition(&asked)?, six)?;
    match format {
        Format::Name => table::line(&format!("network/{name}")),
        Format::Json => table::json(&networks::inspect(&roots, name.as_str())?),
        Format::Plain => {
            let ranges: Vec<String> = made.wishes().map(|wish| wish.subnet.to_string()).collect();
            table::line(&format!("network/{name} created, {}", ranges.join(", ")));
        }
    }
    Ok(0)
}

fn definition(asked: &Create) -> Result<Definition> {
    let wrong = |what: &str, cause: String| Error::new(Kind::Usage, format!("read {what}"), cause);
    let driver = Driver::ALL.iter().find(|(word, _)| *word == asked.driver).map(|(_, driver)| *driver);
    let Some(driver) = driver else {
        let err = wrong("--driver", format!("there is no driver {:?}", asked.driver));
        return Err(err.hint(Driver::ALL.map(|(word, _)| word).join(", ")));
    };
    let mtu = asked.mtu.as_deref().map(network::mtu).transpose().map_err(|cause| wrong("--mtu", cause))?;
    let [subnet, subnet6] = families("--subnet", &asked.subnet, Cidr::parse, |range| range.address)?;
    let [range, range6] = families("--range", &asked.range, Cidr::parse, |range| range.address)?;
    let address = |text: &str| -> Result<IpAddr> {
        text.parse().map_err(|_| wrong("--gateway", format!("{text:?} is not an address")))
    };
    let [gateway, gateway6] = families("--gateway", &asked.gateway, address, |address| address)?;
    Ok(Definition {
        driver,
        subnet: subnet.map(Cidr::network),
        gateway,
        range: range.map(Cidr::network),
        subnet6: subnet6.map(Cidr::network),
        gateway6,
        range6: range6.map(Cidr::network),
        internal: asked.internal,
        isolate: !asked.no_isolate,
        masquerade: !asked.no_masquerade,
        icc: !asked.no_icc,
        stp: asked.stp,
        disable_dns: asked.disable_dns,
        labels: asked.label.iter().map(|text| pair("label", text)).collect::<Result<_>>()?,
        mtu,
        parent: asked.parent.clone(),
        mode: asked.mode.clone(),
        vlan: asked.vlan,
        host_binding: asked.host_binding,
        vni: asked.vni,
        cluster_cidr: asked
            .cluster_cidr
            .as_deref()
            .map(Cidr::parse)
            .transpose()
            .map_err(|err| err.kind(Kind::Usage))?
            .map(Cidr::network),
        peers: peers(&asked.peers)?,
        local: asked.local,
        port: asked.port,
        created_at: Some(Stamp::now().text()),
    })
}

/// Each host once.
fn peers(texts: &[String]) -> Result<BTreeMap<IpAddr, Cidr>> {
    let mut all = BTreeMap::new();
    for text in texts {
        let (host, part) = peer(text)?;
        if all.insert(host, part).is_some() {
            return Err(Error::new(Kind::Usage, "read --peers", format!("{host} is given twice")));
        }
    }
    Ok(all)
}

/// `198.51.100.2=10.90.2.0/24`
fn peer(text: &str) -> Result<(IpAddr, Cidr)> {
    let bad = |cause: &str| {
        Error::new(Kind::Usage, format!("read the peer {text:?}"), cause).hint("as in 198.51.100.2=10.90.2.0/24")
    };
    let (host, part) = text.split_once('=').ok_or_else(|| bad("there is no ="))?;
    let host = host.parse().map_err(|_| bad("what stands before the = is not an address"))?;
    Ok((host, Cidr::parse(part).map_err(|err| err.kind(Kind::Usage))?.network()))
}

/// What was given of IPv4 and of IPv6, each once at the most.
fn families<T: Copy>(
    flag: &str,
    texts: &[String],
    read: impl Fn(&str) -> Result<T>,
    address: impl Fn(T) -> IpAddr,
) -> Result<[Option<T>; 2]> {
    let mut found = [None, None];
    for text in texts {
        let one = read(text).map_err(|err| err.kind(Kind::Usage))?;
        let slot = &mut found[usize::from(address(one).is_ipv6())];
        if slot.replace(one).is_some() {
            return Err(Error::new(Kind::Usage, format!("read {flag}"), "given twice for one family"));
        }
    }
    Ok(found)
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    global: Global,
    /// json or name
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(super) fn list(words: &Words) -> Result<i32> {
    let asked: List = words.parse("  podrun network ls\n  podrun network ls -o json")?;
    let roots = asked.global.readable()?;
    let names = networks::names(&roots)?;
    match Format::parse(asked.output.as_deref())? {
        Format::Name => names.iter().for_each(|name| table::line(name)),
        Format::Json => {
            table::json(&Value::Array(readable(&roots, &names)));
        }
        Format::Plain => {
            let rows: Vec<Vec<String>> = readable(&roots, &names).iter().map(row).collect();
            table::table(&["NETWORK", "DRIVER", "SUBNET", "PODS"], &rows);
        }
    }
    Ok(0)
}

/// One definition that is broken hides no other.
fn readable(roots: &Roots, names: &[String]) -> Vec<Value> {
    let shown = names.iter().map(|name| networks::inspect(roots, name));
    shown.filter_map(|network| network.map_err(|err| super::warn(&err.to_string())).ok()).collect()
}

fn row(network: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let subnets: Vec<String> =
        network["subnets"].as_array().into_iter().flatten().map(|range| text(&range["subnet"])).collect();
    let subnets = if subnets.is_empty() { "-".to_owned() } else { subnets.join(", ") };
    let pods = network["pods"].as_array().map_or(0, Vec::len);
    vec![text(&network["name"]), text(&network["driver"]), subnets, pods.to_string()]
}

#[derive(Debug, Args)]
struct Named {
    #[command(flatten)]
    global: Global,
    #[arg(required = true)]
    name: Vec<String>,
}

pub(super) fn inspect(words: &Words) -> Result<i32> {
    let asked: Named = words.parse("  podrun network inspect front")?;
    let roots = asked.global.readable()?;
    let all = asked.name.iter().map(|name| networks::inspect(&roots, name)).collect::<Result<Vec<_>>>()?;
    table::json_of_all(all);
    Ok(0)
}

#[derive(Debug, Args)]
struct Remove {
    #[command(flatten)]
    global: Global,
    #[arg(required = true)]
    name: Vec<String>,
    /// Disconnect the pods that are on it
    #[arg(short = 'f', long)]
    force: bool,
}

pub(super) fn remove(words: &Words) -> Result<i32> {
    let asked: Remove = words.parse("  podrun network rm front\n  podrun network rm --force front")?;
    let users = if asked.force { Users::Disconnect } else { Users::Keep };
    let roots = asked.global.readable()?;
    super::all(asked.name.iter().map(|name| {
        networks::remove(&roots, name, users)?.iter().for_each(|said| table::line(said));
        table::line(&format!("network/{name} removed"));
        Ok(())
    }))
}

#[derive(Debug, Args)]
struct Connect {
    #[command(flatten)]
    global: Global,
    /// As with `create pod --network`
    #[arg(value_name = "NET[,KEY=VALUE]…")]
    network: String,
    pod: String,
    /// Its address there; of each family one
    #[arg(long, value_name = "IP")]
    ip: Vec<String>,
    /// One more name of it there
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
}

pub(super) fn connect(words: &Words) -> Result<i32> {
    let asked: Connect = words
        .parse("  podrun network connect back web\n  podrun network connect back web --ip 10.89.1.7 --alias shop")?;
    let text = asked.ip.iter().fold(asked.network.clone(), |text, ip| format!("{text},ip={ip}"));
    let text = asked.alias.iter().fold(text, |text, alias| format!("{text},alias={alias}"));
    let wish = Attach::parse(&text)?;
    let pod = asked.global.pod(&asked.pod)?;
    let (made, warnings) = networks::connect(&pod, &wish)?;
    warnings.iter().for_each(|warning| super::warn(warning));
    table::line(&said(&pod.record.title(), "connected to", &made));
    Ok(0)
}

fn said(pod: &str, done: &str, on: &Attachment) -> String {
    let addresses: Vec<String> = on.addresses.iter().map(|one| one.address.to_string()).collect();
    format!("pod/{pod} {done} {}: {}, {}", on.network, on.interface, addresses.join(", "))
}

#[derive(Debug, Args)]
struct Disconnect {
    #[command(flatten)]
    global: Global,
    network: String,
    pod: String,
}

pub(super) fn disconnect(words: &Words) -> Result<i32> {
    let asked: Disconnect = words.parse("  podrun network disconnect back web")?;
    let pod = asked.global.pod(&asked.pod)?;
    let (gone, warnings) = networks::disconnect(&pod, &asked.network)?;
    warnings.iter().for_each(|warning| super::warn(warning));
    table::line(&said(&pod.record.title(), "disconnected from", &gone));
    Ok(0)
}

#[derive(Debug, Args)]
struct Reload {
    #[command(flatten)]
    global: Global,
}

pub(super) fn reload(words: &Words) -> Result<i32> {
    let asked: Reload = words.parse("  podrun network reload")?;
    let roots = asked.global.readable()?;
    for network in bridge::reload(&roots)? {
        network.warnings().iter().for_each(|warning| super::warn(warning));
        table::line(&format!("network/{} reloaded", network.name));
    }
    networks::mend_ports(&roots)?;
    // Plugins only tell what is missing: CNI has no word for mending it.
    let mut failed = false;
    for (pod, network, said) in networks::check_plugins(&roots) {
        failed |= said.is_err();
        match said {
            Ok(()) => table::line(&format!("network/{network} checked for pod/{pod}")),
            Err(err) => super::warn(&format!("pod {pod} on {network}: {err}")),
        }
    }
    Ok(i32::from(failed))
}

#[derive(Debug, Args)]
struct PeerAdd {
    #[command(flatten)]
    global: Global,
    network: String,
    #[arg(required = true, value_name = "IP=RANGE", value_delimiter = ',')]
    peer: Vec<String>,
}

pub(super) fn peer_add(words: &Words) -> Result<i32> {
    let asked: PeerAdd = words.parse("  podrun network peer add flat 198.51.100.4=10.90.4.0/24")?;
    let peers = asked.peer.iter().map(|text| peer(text)).collect::<Result<Vec<_>>>()?;
    let network = &asked.network;
    networks::change_peers(&asked.global.roots()?, network, |known| {
        known.extend(peers.iter().copied());
        Ok(())
    })?;
    peers.iter().for_each(|(host, part)| table::line(&format!("network/{network} peer {host} added, {part}")));
    Ok(0)
}

#[derive(Debug, Args)]
struct PeerRemove {
    #[command(flatten)]
    global: Global,
    network: String,
    #[arg(required = true, value_name = "IP")]
    peer: Vec<IpAddr>,
}

pub(super) fn peer_remove(words: &Words) -> Result<i32> {
    let asked: PeerRemove = words.parse("  podrun network peer rm flat 198.51.100.4")?;
    let network = &asked.network;
    networks::change_peers(&asked.global.roots()?, network, |known| {
        asked.peer.iter().try_for_each(|host| match known.remove(host) {
            Some(_) => Ok(()),
            None => Err(format!("{host} is none of its peers")),
        })
    })?;
    asked.peer.iter().for_each(|host| table::line(&format!("network/{network} peer {host} removed")));
    Ok(0)
}
