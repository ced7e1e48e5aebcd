//! nftables: podrun's own table, written whole by one `nft -f -`, and what can be asked of the kernel without `nft`.
//!
//! Only the own table is ever written. Asking is done by nfnetlink itself: it takes some microseconds where spawning
//! `nft` takes milliseconds, so that each pod's birth can see whether the rules are still there, and its output, which
//! changes between versions, is never parsed.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::net::cidr::Cidr;
use crate::net::elements::{self, DELETE_ELEMENTS, Mapping, NEW_ELEMENTS};
use crate::net::nfnetlink::{
    DONE, DUMP, ERROR, INET, REQUEST, UNSPEC, attribute, attributes, error_of, messages, open, receive, request, send,
    string,
};
use crate::net::service::{self, Spread};
use crate::programs;
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, NetlinkAddr, bind, recv};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long `nft` may take. The kernel's own lock can make it wait for another program's large transaction.
const PATIENCE: Duration = Duration::from_secs(10);

/// One network's part of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub side: Side,
    pub subnets: Vec<Cidr>,
    pub policy: Policy,
    /// Where its name server answers its pods, whoever has port 53 of the host.
    pub names: Vec<IpAddr>,
    /// Where it goes on, on other hosts.
    pub tunnel: Option<Tunnel>,
}

/// An overlay's tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    pub device: String,
    pub vni: u32,
    pub port: u16,
    /// What is at its two ends.
    pub cluster: Cidr,
    pub peers: Vec<IpAddr>,
}

/// How a network's links are told from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    Bridge(String),
    /// Links without a bridge, by their group.
    Group(u32),
}

/// What may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// Nothing goes out of it.
    pub internal: bool,
    /// No other network comes in.
    pub isolate: bool,
    pub masquerade: bool,
    /// Its pods reach each other.
    pub icc: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { internal: false, isolate: true, masquerade: true, icc: true }
    }
}

impl Side {
    /// `iifname "b"`, `oifgroup != 7`: a match of the link that a packet comes in by (`i`) or goes out by (`o`).
    fn is(&self, end: char, how: &str) -> String {
        match self {
            Self::Bridge(name) => format!("{end}ifname {how}\"{name}\""),
            Self::Group(group) => format!("{end}ifgroup {how}{group}"),
        }
    }
}

/// The table's whole text: replaced in one transaction, so no packet ever meets half of it.
///
/// Out of a network goes what is answered to the host's own address (masquerade), save to the network itself and to
/// multicast. Into a network goes only what answers a pod, or came to a published port: forwarding is on for the pods'
/// sake, and must not open them to a neighbour who routes to their addresses, nor to another network. Two networks that
/// are not isolated see each other, with the addresses that their pods have. What came from the network itself by a
/// published port has the host's address, too (hairpin), else the answer would take the short way and be nobody's; so has
/// what came from the host's loopback. All other callers of a published port keep their own. No pod speaks to the host's
/// loopback, even where `route_localnet` is on, as for a port there, or as kube-proxy sets it (CVE-2020-8558). `accept`
/// here would not overrule another table's `drop`, so there is none; `foreign_drops` finds those.
///
/// VXLAN has no keys: whoever sends the right number is believed (RFC 7348, 7). So its packets are taken from the peers
/// only, and never from a pod, which could write their addresses; what comes out of the tunnel is of the overlay and for this host's part of it, and
/// what goes in is from there.
pub fn rules(table: &str, networks: &[Part], mappings: &[Mapping], services: &[Spread]) -> String {
    let mut text = format!("table inet {table} {{}}\ndelete table inet {table}\ntable inet {table} {{\n");
    let asked: String = networks.iter().map(for_its_server).collect();
    text.push_str(&elements::text(mappings, &asked));
    serve(&mut text, networks, services);
    text.push_str("\tchain postrouting {\n\t\ttype nat hook postrouting priority 100; policy accept;\n");
    networks.iter().for_each(|part| hairpin(&mut text, part));
    networks.iter().for_each(|part| masquerade(&mut text, part, networks));
    text.push_str("\t}\n\tchain forward {\n\t\ttype filter hook forward priority 0; policy accept;\n");
    networks.iter().for_each(|part| forward(&mut text, part, networks));
    text.push_str("\t}\n\tchain input {\n\t\ttype filter hook input priority 0; policy accept;\n");
    for Part { side, .. } in networks {
        let from = side.is('i', "");
        let _ = writeln!(text, "\t\t{from} ip daddr 127.0.0.0/8 ct state != {{ established, related }} drop");
    }
    networks.iter().for_each(|part| from_the_tunnel(&mut text, part, networks));
    text.push_str("\t}\n}\n");
    text
}

/// What a network's pods ask its name server, which is at an address of the host's and so of every published port 53.
fn for_its_server(Part { side, names, .. }: &Part) -> String {
    let from = side.is('i', "");
    let rule = |server: &IpAddr| {
        let family = if server.is_ipv4() { "ip" } else { "ip6" };
        format!("\t\t{from} {family} daddr {server} meta l4proto {{ tcp, udp }} th dport 53 accept\n")
    };
    names.iter().map(rule).collect()
}

/// Services are for pods and for the host itself, not for its neighbours.
fn serve(text: &mut String, networks: &[Part], services: &[Spread]) {
    if services.is_empty() {
        return;
    }
    text.push_str(&service::chains(services));
    text.push_str("\tchain pods {\n\t\ttype nat hook prerouting priority -100; policy accept;\n");
    for Part { side, .. } in networks {
        let _ = writeln!(text, "\t\t{} {}", side.is('i', ""), service::LOOK);
    }
    text.push_str("\t}\n\tchain host {\n\t\ttype nat hook output priority -100; policy accept;\n");
    let _ = writeln!(text, "\t\t{}\n\t}}", service::LOOK);
    // What nobody serves still has the service's address here. Refused before it is routed, since no route leads there.
    for (chain, hook) in [("unserved", "prerouting"), ("unserved_host", "output")] {
        let refusal = service::refusal(services);
        let _ = writeln!(
            text,
            "\tchain {chain} {{\n\t\ttype filter hook {hook} priority -90; policy accept;\n\t\t{refusal}\n\t}}"
        );
    }
}

/// The networks that this one sees, and that see it.
fn friends<'a>(part: &'a Part, networks: &'a [Part]) -> impl Iterator<Item = &'a Part> {
    let open = !part.policy.isolate;
    networks.iter().filter(move |other| open && !other.policy.isolate && other.side != part.side)
}

fn hairpin(text: &mut String, part: &Part) {
    for subnet in part.subnets.iter().filter(|_| !part.policy.internal) {
        let from = subnet.network();
        let near = match subnet.address.is_ipv4() {
            true => format!("ip saddr {{ {from}, 127.0.0.0/8 }}"),
            false => format!("ip6 saddr {from}"),
        };
        let _ = writeln!(text, "\t\t{} {near} ct status & dnat == dnat masquerade", part.side.is('o', ""));
    }
}

fn masquerade(text: &mut String, part: &Part, networks: &[Part]) {
    if !part.policy.masquerade || part.policy.internal {
        return;
    }
    for subnet in &part.subnets {
        let four = subnet.address.is_ipv4();
        let (family, multicast) = if four { ("ip", "224.0.0.0/4") } else { ("ip6", "ff00::/8") };
        let seen = friends(part, networks).flat_map(|friend| &friend.subnets);
        let seen = seen.filter(|other| other.address.is_ipv4() == four).map(|other| other.network());
        let from = subnet.network();
        let cluster = part.tunnel.as_ref().map_or(from, |tunnel| tunnel.cluster);
        let kept: Vec<String> = [cluster].into_iter().chain(seen).map(|range| range.to_string()).collect();
        let (kept, out) = (kept.join(", "), part.side.is('o', "!= "));
        let _ =
            writeln!(text, "\t\t{family} saddr {from} {out} {family} daddr != {{ {kept}, {multicast} }} masquerade");
    }
}

fn forward(text: &mut String, part: &Part, networks: &[Part]) {
    let Part { side, policy, .. } = part;
    let mut others: String = friends(part, networks).map(|friend| format!("{} ", friend.side.is('i', "!= "))).collect();
    if let Some(tunnel) = &part.tunnel {
        others = format!("iifname != \"{}\" {others}", tunnel.device);
        through_the_tunnel(text, part, tunnel);
    }
    let (into, not_from) = (side.is('o', ""), side.is('i', "!= "));
    let _ = writeln!(
        text,
        "\t\t{into} {not_from} {others}ct state != {{ established, related }} ct status & dnat == 0 drop"
    );
    let from = side.is('i', "");
    if policy.internal {
        let further = part.tunnel.as_ref().map(|tunnel| format!("oifname != \"{}\" ", tunnel.device));
        let _ = writeln!(text, "\t\t{from} {} {}drop", side.is('o', "!= "), further.unwrap_or_default());
    }
    // What a port's isolation keeps from the neighbour could go by the gateway.
    if !policy.icc {
        let _ = writeln!(text, "\t\t{from} {into} ct status & dnat == 0 drop");
    }
}

/// What is forwarded between a network's part of this host and those of the others.
fn through_the_tunnel(text: &mut String, Part { side, subnets, .. }: &Part, tunnel: &Tunnel) {
    let Tunnel { device, cluster, .. } = tunnel;
    for own in subnets.iter().map(|subnet| subnet.network()) {
        let (comes, goes) = (format!("iifname \"{device}\""), format!("oifname \"{device}\""));
        let _ = writeln!(text, "\t\t{comes} ip saddr != {cluster} drop");
        let _ = writeln!(text, "\t\t{comes} ip saddr {own} drop");
        let _ = writeln!(text, "\t\t{comes} {} drop", side.is('o', "!= "));
        let _ = writeln!(text, "\t\t{goes} {} drop", side.is('i', "!= "));
        let _ = writeln!(text, "\t\t{goes} ip saddr != {own} drop");
        // An address of a host that is none of the peers is nobody's, rather than somebody's on the way out.
        let beyond = format!("{} ip daddr {cluster} oifname != \"{device}\" {}", side.is('i', ""), side.is('o', "!= "));
        let _ = writeln!(text, "\t\t{beyond} reject with icmp type host-unreachable");
    }
}

/// What comes to this host itself by a tunnel, or calls itself one.
fn from_the_tunnel(text: &mut String, part: &Part, networks: &[Part]) {
    let Some(Tunnel { device, vni, port, cluster, peers }) = &part.tunnel else { return };
    // The number is in the fifth to seventh byte of VXLAN's header, after the eight of UDP's.
    let packet = format!("udp dport {port} @th,96,24 {vni}");
    for Part { side, .. } in networks {
        let _ = writeln!(text, "\t\t{} {packet} drop", side.is('i', ""));
    }
    let family = if peers.first().is_some_and(IpAddr::is_ipv6) { "ip6" } else { "ip" };
    let known: Vec<String> = peers.iter().map(IpAddr::to_string).collect();
    let _ = match known.is_empty() {
        true => writeln!(text, "\t\t{packet} drop"),
        false => writeln!(text, "\t\t{packet} {family} saddr != {{ {} }} drop", known.join(", ")),
    };
    for own in part.subnets.iter().map(|subnet| subnet.network()) {
        let _ = writeln!(text, "\t\tiifname \"{device}\" ip daddr != {own} drop");
        let _ = writeln!(text, "\t\tiifname \"{device}\" ip saddr != {cluster} drop");
        let _ = writeln!(text, "\t\tiifname \"{device}\" ip saddr {own} drop");
    }
}

/// The text that removes the table, whether it is there or not.
pub fn removal(table: &str) -> String {
    format!("table inet {table} {{}}\ndelete table inet {table}\n")
}

/// `nft` on PATH.
pub fn find() -> Option<PathBuf> {
    programs::on_path("nft")
}

/// Gives `text` to `nft -f -`: all of it holds, or nothing.
pub fn apply(nft: &Path, text: &str) -> Result<()> {
    let doing = || "write the firewall rules with nft".to_owned();
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| format!("start {}", nft.display()))?;
    let said = converse(&mut child, text);
    if said.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().doing(doing)?;
    let said = said.doing(doing)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(Kind::Kernel, doing(), first_line(&said))),
    }
}

/// Writes all of stdin, then reads stderr to its end, which is nft's end, but not for ever.
fn converse(child: &mut Child, text: &str) -> std::io::Result<String> {
    let until = Instant::now() + PATIENCE;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes())?; // nft reads all of it before it says a word
    }
    let mut said = Vec::new();
    let Some(mut stderr) = child.stderr.take() else { return Ok(String::new()) };
    let mut buffer = [0; 4096];
    loop {
        let left = PollTimeout::try_from(until.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::ZERO);
        if poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLIN)], left)? == 0 {
            return Err(Errno::ETIMEDOUT.into());
        }
        match stderr.read(&mut buffer)? {
            0 => return Ok(String::from_utf8_lossy(&said).into_owned()),
            read if said.len() < 1 << 16 => said.extend_from_slice(&buffer[..read]),
            _ => {}
        }
    }
}

fn first_line(said: &str) -> &str {
    said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed without a word")
}

// linux/netfilter/nf_tables.h.

pub(super) const SUBSYSTEM: u16 = 10 << 8; // NFNL_SUBSYS_NFTABLES
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const TABLE_NAME: u16 = 1; // NFTA_TABLE_NAME
const CHAIN_TABLE: u16 = 1; // NFTA_CHAIN_TABLE
const CHAIN_NAME: u16 = 3; // NFTA_CHAIN_NAME
const CHAIN_HOOK: u16 = 4; // NFTA_CHAIN_HOOK
const CHAIN_POLICY: u16 = 5; // NFTA_CHAIN_POLICY
const HOOK_NUMBER: u16 = 1; // NFTA_HOOK_HOOKNUM
const FORWARD: u32 = 2; // NF_INET_FORWARD
const DROP: u32 = 0; // NF_DROP

/// Whether the inet table `name` is there, in the calling thread's network namespace.
pub fn table_exists(name: &str) -> Result<bool> {
    let doing = || format!("look for the nftables table {name}");
    let Some(socket) = open().doing(doing)? else { return Ok(false) };
    send(&socket, &request(GET_TABLE, REQUEST, INET, &attribute(TABLE_NAME, &string(name)))).doing(doing)?;
    let answer = receive(&socket).doing(doing)?;
    match messages(&answer).next() {
        Some((NEW_TABLE, _)) => Ok(true),
        Some((ERROR, body)) => match error_of(body) {
            Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EINVAL => Ok(false),
            errno => Err(errno).doing(doing),
        },
        _ => Ok(false),
    }
}

/// What was heard of the own table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    Nothing,
    Made,
    Gone,
    /// There was more than the socket has room for.
    Missed,
}

/// A socket on which the kernel tells of changes of the firewall, in the calling thread's network namespace: not of
/// elements that come and go, nor of the number that each change has.
pub fn listen() -> nix::Result<Option<OwnedFd>> {
    const TABLES: u32 = 1 << 6; // NFNLGRP_NFTABLES is the seventh group
    let Some(socket) = open()? else { return Ok(None) };
    sys::socket::attach_filter(socket.as_fd(), &mut without_elements()).map_err(|_| Errno::EINVAL)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, TABLES))?;
    Ok(Some(socket))
}

/// Pure: classic BPF on a message's first header, whose type is in the host's order where BPF reads the network's.
fn without_elements() -> [libc::sock_filter; 6] {
    let code = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let unless = |kind: u16, jt| code(0x15, jt, u32::from(u16::from_be_bytes(kind.to_ne_bytes()))); // BPF_JMP | BPF_JEQ
    const NEW_GENERATION: u16 = SUBSYSTEM | 15; // NFT_MSG_NEWGEN
    [
        code(0x28, 0, 4), // BPF_LD | BPF_H | BPF_ABS: nlmsg_type
        unless(NEW_ELEMENTS, 3),
        unless(DELETE_ELEMENTS, 2),
        unless(NEW_GENERATION, 1),
        code(0x06, 0, u32::MAX), // BPF_RET: all of it
        code(0x06, 0, 0),
    ]
}

/// What the socket has to tell of `table`, without waiting: the last word holds.
pub fn hear(socket: &OwnedFd, table: &str) -> News {
    let mut buffer = vec![0; 1 << 16];
    let mut news = News::Nothing;
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(read) => news = last_word(&buffer[..read], table).unwrap_or(news),
            Err(Errno::ENOBUFS) => news = News::Missed,
            Err(Errno::EINTR) => {}
            Err(_) => return news,
        }
    }
}

/// Pure.
fn last_word(bytes: &[u8], table: &str) -> Option<News> {
    const DELETE_TABLE: u16 = SUBSYSTEM | 2;
    let about = |(kind, body): (u16, &[u8])| {
        let news = match kind {
            NEW_TABLE => News::Made,
            DELETE_TABLE => News::Gone,
            _ => return None,
        };
        let name = attributes(body.get(4..)?).find(|(kind, _)| *kind == TABLE_NAME)?.1;
        (body.first() == Some(&INET) && name == string(table)).then_some(news)
    };
    messages(bytes).filter_map(about).last()
}

/// A chain of the forward hook that podrun did not make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub family: u8,
    pub table: String,
    pub name: String,
    pub drops: bool,
}

/// All chains at the forward hook.
pub fn forward_chains() -> Result<Vec<Chain>> {
    let doing = || "list the firewall's chains".to_owned();
    let Some(socket) = open().doing(doing)? else { return Ok(Vec::new()) };
    send(&socket, &request(GET_CHAIN, REQUEST | DUMP, UNSPEC, &[])).doing(doing)?;
    let mut chains = Vec::new();
    loop {
        let answer = receive(&socket).doing(doing)?;
        for (kind, body) in messages(&answer) {
            match kind {
                NEW_CHAIN => chains.extend(chain(body)),
                DONE => return Ok(chains),
                ERROR => return Err(error_of(body)).doing(doing),
                _ => {}
            }
        }
    }
}

/// Pure: one NEWCHAIN message, when it is a base chain at the forward hook.
fn chain(body: &[u8]) -> Option<Chain> {
    let family = *body.first()?;
    let attributes: Vec<(u16, &[u8])> = attributes(body.get(4..)?).collect();
    let find = |wanted: u16| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let hook = self::attributes(find(CHAIN_HOOK)?).find(|(kind, _)| *kind == HOOK_NUMBER)?.1;
    let bridge_or_inet = matches!(family, 1 | 2); // NFPROTO_INET, NFPROTO_IPV4
    (bridge_or_inet && big_endian(hook)? == FORWARD).then_some(())?;
    let text = |value: &[u8]| String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
    Some(Chain {
        family,
        table: text(find(CHAIN_TABLE)?),
        name: text(find(CHAIN_NAME)?),
        drops: find(CHAIN_POLICY).and_then(big_endian) == Some(DROP),
    })
}

fn big_endian(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bridge: &str, subnet: &str, policy: Policy) -> Part {
        Part {
            side: Side::Bridge(bridge.to_owned()),
            subnets: vec![Cidr::parse(subnet).unwrap()],
            policy,
            names: vec![],
            tunnel: None,
        }
    }

    #[test]
    fn each_network_has_its_own_policy() {
        let open = Policy { isolate: false, ..Policy::default() };
        let routed = Part { side: Side::Group(7), ..part("", "10.3.0.0/24", open) };
        let text = rules(
            "t",
            &[
                part("one", "10.1.0.0/24", open),
                part("two", "10.2.0.0/24", Policy { internal: true, icc: false, ..Policy::default() }),
                routed,
                part("four", "10.4.0.0/24", Policy { masquerade: false, ..Policy::default() }),
            ],
            &[],
            &[],
        );
        for line in [
            "ip saddr 10.1.0.0/24 oifname != \"one\" ip daddr != { 10.1.0.0/24, 10.3.0.0/24, 224.0.0.0/4 } masquerade",
            "ip saddr 10.3.0.0/24 oifgroup != 7 ip daddr != { 10.3.0.0/24, 10.1.0.0/24, 224.0.0.0/4 } masquerade",
            "oifname \"one\" iifname != \"one\" iifgroup != 7 ct state != { established, related } ct status & dnat == 0 drop",
            "oifgroup 7 iifgroup != 7 iifname != \"one\" ct state != { established, related } ct status & dnat == 0 drop",
            "oifname \"two\" iifname != \"two\" ct state != { established, related } ct status & dnat == 0 drop",
            "iifname \"two\" oifname != \"two\" drop",
            "iifname \"two\" oifname \"two\" ct status & dnat == 0 drop",
            "oifgroup 7 ip saddr { 10.3.0.0/24, 127.0.0.0/8 } ct status & dnat == dnat masquerade",
            "iifgroup 7 ip daddr 127.0.0.0/8 ct state != { established, related } drop",
        ] {
            assert!(text.contains(&format!("\t\t{line}\n")), "{line}\nin {text}");
        }
        assert_eq!(text.matches("masquerade\n").count(), 2 + 3, "{text}");
    }

    #[test]
    fn what_a_networks_pods_ask_its_server_is_not_published() {
        let names = vec!["10.1.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let told = Part { names, ..part("one", "10.1.0.0/24", Policy::default()) };
        let text = rules("t", &[told, part("two", "10.2.0.0/24", Policy::default())], &[], &[]);
        let (chain, _) = text.split_once("jump published").unwrap();
        for address in ["ip daddr 10.1.0.1", "ip6 daddr fd00::1"] {
            let line = format!("\t\tiifname \"one\" {address} meta l4proto {{ tcp, udp }} th dport 53 accept\n");
            assert!(chain.contains(&line), "{line}\nin {text}");
        }
        assert_eq!(text.matches("dport 53").count(), 2, "{text}");
    }

    #[test]
    fn a_tunnel_is_of_its_peers_and_for_its_network() {
        let range = |text: &str| Cidr::parse(text).unwrap();
        let peers = vec!["198.51.100.2".parse().unwrap(), "198.51.100.3".parse().unwrap()];
        let tunnel = Tunnel { device: "vx".into(), vni: 42, port: 4789, cluster: range("10.90.0.0/16"), peers };
        let flat = Part { tunnel: Some(tunnel.clone()), ..part("flat", "10.90.1.0/24", Policy::default()) };
        let text = rules("t", &[flat.clone(), part("other", "10.1.0.0/24", Policy::default())], &[], &[]);
        for line in [
            "ip saddr 10.90.1.0/24 oifname != \"flat\" ip daddr != { 10.90.0.0/16, 224.0.0.0/4 } masquerade",
            "oifname \"flat\" iifname != \"flat\" iifname != \"vx\" ct state != { established, related } ct status & dnat == 0 drop",
            "iifname \"vx\" ip saddr != 10.90.0.0/16 drop",
            "iifname \"vx\" ip saddr 10.90.1.0/24 drop",
            "iifname \"vx\" oifname != \"flat\" drop",
            "oifname \"vx\" iifname != \"flat\" drop",
            "oifname \"vx\" ip saddr != 10.90.1.0/24 drop",
            "iifname \"vx\" ip daddr != 10.90.1.0/24 drop",
            "iifname \"flat\" udp dport 4789 @th,96,24 42 drop",
            "iifname \"other\" udp dport 4789 @th,96,24 42 drop",
            "udp dport 4789 @th,96,24 42 ip saddr != { 198.51.100.2, 198.51.100.3 } drop",
        ] {
            assert!(text.contains(&format!("\t\t{line}\n")), "{line}\nin {text}");
        }
        let policy = Policy { internal: true, ..Policy::default() };
        let alone = Part { tunnel: Some(Tunnel { peers: vec![], ..tunnel }), policy, ..flat };
        let text = rules("t", &[alone], &[], &[]);
        assert!(text.contains("iifname \"flat\" oifname != \"flat\" oifname != \"vx\" drop\n"), "{text}");
        assert!(text.contains("udp dport 4789 @th,96,24 42 drop\n"), "nobody is a peer: {text}");
    }

    #[test]
    fn services_are_for_pods_and_for_the_host() {
        let ip = "10.96.0.1".parse().unwrap();
        let affinity = crate::spec::service::Affinity::None;
        let protocol = crate::spec::port::Protocol::Tcp;
        let web = Spread { ip, port: 80, protocol, backends: ["10.1.0.2:8080".parse().unwrap()].into(), affinity };
        let text = rules("t", &[part("one", "10.1.0.0/24", Policy::default())], &[], &[web]);
        for lines in [
            "prerouting priority -100; policy accept;\n\t\tiifname \"one\" ip daddr . meta l4proto . th dport vmap @services\n\t}\n",
            "output priority -100; policy accept;\n\t\tip daddr . meta l4proto . th dport vmap @services\n\t}\n",
            "prerouting priority -90; policy accept;\n\t\tip daddr { 10.96.0.1 } reject with icmp type port-unreachable\n",
        ] {
            assert!(text.contains(lines), "{lines}\nin {text}");
        }
        assert!(!rules("t", &[], &[], &[]).contains("services"));
    }

    #[test]
    fn the_table_is_replaced_whole() {
        let text = rules("podrun_ab", &[part("podrun-ab", "10.88.0.1/16", Policy::default())], &[], &[]);
        let expected = r#"table inet podrun_ab {}
delete table inet podrun_ab
table inet podrun_ab {
	map at4 {
		type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
	}
	map any4 {
		type inet_proto . inet_service : ipv4_addr . inet_service
	}
	map at6 {
		type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service
	}
	map any6 {
		type inet_proto . inet_service : ipv6_addr . inet_service
	}
	chain published {
		dnat ip to ip daddr . meta l4proto . th dport map @at4
		dnat ip to meta l4proto . th dport map @any4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6
		dnat ip6 to meta l4proto . th dport map @any6
	}
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		ip daddr != 127.0.0.0/8 fib daddr type local jump published
		ip6 daddr != ::1 fib daddr type local jump published
	}
	chain output {
		type nat hook output priority -100; policy accept;
		meta nfproto ipv4 fib daddr type local jump published
		ip6 daddr != ::1 fib daddr type local jump published
	}
	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		oifname "podrun-ab" ip saddr { 10.88.0.0/16, 127.0.0.0/8 } ct status & dnat == dnat masquerade
		ip saddr 10.88.0.0/16 oifname != "podrun-ab" ip daddr != { 10.88.0.0/16, 224.0.0.0/4 } masquerade
	}
	chain forward {
		type filter hook forward priority 0; policy accept;
		oifname "podrun-ab" iifname != "podrun-ab" ct state != { established, related } ct status & dnat == 0 drop
	}
	chain input {
		type filter hook input priority 0; policy accept;
		iifname "podrun-ab" ip daddr 127.0.0.0/8 ct state != { established, related } drop
	}
}
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn each_family_has_its_own_words() {
        let text = rules("t", &[part("b", "fd00:1::/64", Policy::default())], &[], &[]);
        assert!(
            text.contains("ip6 saddr fd00:1::/64 oifname != \"b\" ip6 daddr != { fd00:1::/64, ff00::/8 } masquerade"),
            "{text}"
        );
    }

    fn base_chain(family: u8, hook: u32, policy: u32) -> Vec<u8> {
        let hook = [attribute(HOOK_NUMBER, &hook.to_be_bytes()), attribute(2, &[0; 4])].concat();
        let nested = 0x8000; // NLA_F_NESTED
        let parts = [
            vec![family, 0, 0, 0],
            attribute(CHAIN_TABLE, b"filter\0"),
            attribute(CHAIN_NAME, b"FORWARD\0"),
            attribute(CHAIN_HOOK | nested, &hook),
            attribute(CHAIN_POLICY, &policy.to_be_bytes()),
        ];
        parts.concat()
    }

    #[test]
    fn forward_chains_are_told_from_others() {
        let found = |drops| Some(Chain { family: 2, table: "filter".into(), name: "FORWARD".into(), drops });
        assert_eq!(chain(&base_chain(2, FORWARD, DROP)), found(true));
        assert_eq!(chain(&base_chain(2, FORWARD, 1)), found(false));
        assert_eq!(chain(&base_chain(2, 1, DROP)), None, "the input hook");
        assert_eq!(chain(&base_chain(10, FORWARD, DROP)), None, "IPv6 alone");
        assert_eq!(chain(&base_chain(7, FORWARD, DROP)), None, "the bridge family");
        assert_eq!(chain(&[2, 0, 0, 0]), None, "not a base chain");
        assert_eq!(chain(&[]), None);
    }

    #[test]
    fn the_last_word_on_the_own_table_holds() {
        let told = |kind: u16, family: u8, name: &str| {
            request(SUBSYSTEM | kind, 0, family, &attribute(TABLE_NAME, &string(name)))
        };
        let (made, gone) = (told(0, INET, "podrun"), told(2, INET, "podrun"));
        for (all, news) in [
            (vec![], None),
            (vec![&made], Some(News::Made)),
            (vec![&gone], Some(News::Gone)),
            (vec![&made, &gone, &made], Some(News::Made)),
            (vec![&told(8, INET, "podrun"), &gone, &told(2, INET, "podrun_ab")], Some(News::Gone)),
            (vec![&told(2, INET, "podru"), &told(2, 2, "podrun")], None),
        ] {
            let bytes: Vec<u8> = all.into_iter().flatten().copied().collect();
            assert_eq!(last_word(&bytes, "podrun"), news);
        }
    }

    #[test]
    fn nft_says_its_first_line() {
        assert_eq!(first_line("\n/dev/stdin:1:1: Error: x\nmore"), "/dev/stdin:1:1: Error: x");
        assert_eq!(first_line(""), "it failed without a word");
    }
}
