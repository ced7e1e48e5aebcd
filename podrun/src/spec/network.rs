//! How a pod is wired, as its user says it: `NET[,key=value]…`, one for each interface.
//!
//! Pure: the words are taken apart and checked for what they say alone. Whether there is such a network, link or free
//! address is for `net` to find out.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use crate::id::{Alias, NetworkName, PodName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// What a pod's interface leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// podrun's own bridge.
    Bridge,
    /// The host's own stack.
    Host,
    /// Loopback and nothing else.
    None,
    /// Another pod's.
    Pod(PodName),
    /// Somebody else's network namespace, by its path.
    Netns(PathBuf),
    /// A routed pair of links, without a bridge.
    Ptp,
    /// A second hardware address on a link of the host.
    Macvlan(Below<MacvlanMode>),
    /// A second address on a link of the host, which keeps its hardware address.
    Ipvlan(Below<IpvlanMode>),
    /// A network that was made by `network create`.
    Named(NetworkName),
    /// A way out through the sockets of a program of the user's, passt's pasta(1), for pods of whoever is not root.
    Pasta,
    /// One that plugins make, by the name or path of its configuration; without a word, this host's first.
    Cni(String),
}

/// The link of the host that an interface hangs on, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below<Mode> {
    pub parent: String,
    pub mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MacvlanMode {
    #[default]
    Bridge,
    Private,
    Vepa,
    Passthru,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IpvlanMode {
    #[default]
    L2,
    L3,
    L3s,
}

impl MacvlanMode {
    pub const ALL: [(&'static str, Self); 4] =
        [("bridge", Self::Bridge), ("private", Self::Private), ("vepa", Self::Vepa), ("passthru", Self::Passthru)];
}

impl IpvlanMode {
    pub const ALL: [(&'static str, Self); 3] = [("l2", Self::L2), ("l3", Self::L3), ("l3s", Self::L3s)];
}

/// A mode by its word; without one, the default.
pub fn mode<Mode: Copy + Default>(all: &[(&'static str, Mode)], word: Option<&str>) -> Result<Mode> {
    let Some(word) = word else { return Ok(Mode::default()) };
    all.iter().find(|(known, _)| *known == word).map(|(_, mode)| *mode).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|(known, _)| *known).collect();
        Error::new(Kind::Usage, format!("read the mode {word:?}"), "there is none of this name").hint(known.join(", "))
    })
}

/// An address that was asked for, and its prefix where the network does not know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub address: IpAddr,
    pub prefix: Option<u8>,
}

/// One interface as asked for. What is absent podrun chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    pub network: Network,
    pub interface: Option<String>,
    /// At the most one of each family.
    pub ip: Vec<Address>,
    /// The way out, on a link of the host.
    pub gateway: Option<IpAddr>,
    pub mac: Option<[u8; 6]>,
    pub mtu: Option<u32>,
    /// What a CNI plugin is to limit.
    pub bandwidth: Option<Bandwidth>,
    /// More names of the pod there.
    pub aliases: Vec<Alias>,
}

/// Bits a second, towards the pod and from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bandwidth {
    pub ingress: Option<u64>,
    pub egress: Option<u64>,
}

const WORDS: &str = "bridge, host, none, ptp, pasta, pod:NAME, netns:PATH, macvlan:parent=IF, ipvlan:parent=IF, cni:CONFLIST, or a network's \
                     name";
const KEYS: &str = "ip=, mac=, mtu=, interface=, alias=";

impl From<Network> for Attach {
    /// Without any wish.
    fn from(network: Network) -> Self {
        let (ip, aliases) = (Vec::new(), Vec::new());
        Self { network, interface: None, ip, gateway: None, mac: None, mtu: None, bandwidth: None, aliases }
    }
}

impl Attach {
    /// `NET[,key=value]…`
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split(',');
        let head = parts.next().unwrap_or_default();
        let (word, first) = match head.split_once(':') {
            Some((word @ ("macvlan" | "ipvlan"), first)) => (word, (!first.is_empty()).then_some(first)),
            _ => (head, None),
        };
        let mut keys = Keys { text, given: Vec::new() };
        first.into_iter().chain(parts).try_for_each(|part| keys.add(part))?;
        let network = match word {
            "macvlan" => Network::Macvlan(keys.below(&MacvlanMode::ALL)?),
            "ipvlan" => Network::Ipvlan(keys.below(&IpvlanMode::ALL)?),
            word => Network::parse(word)?,
        };
        keys.finish(network)
    }

    /// Whether it is all of a pod's network, so that nothing stands beside it.
    pub fn is_alone(&self) -> bool {
        matches!(self.network, Network::Host | Network::None | Network::Pasta | Network::Pod(_) | Network::Netns(_))
    }

    /// Whether there may be a name server, as far as the word says.
    pub fn may_have_names(&self) -> bool {
        matches!(self.network, Network::Bridge | Network::Named(_))
    }

    /// Whether ports of the host may lead to it by podrun's rules, as far as the word says.
    pub fn may_have_ports(&self) -> bool {
        matches!(self.network, Network::Bridge | Network::Ptp | Network::Named(_))
    }

    fn has_wishes(&self) -> bool {
        *self != Self::from(self.network.clone())
    }
}

/// Another pod, by what this one calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub pod: PodName,
    pub alias: Alias,
}

impl Link {
    /// `OTHER` or `OTHER:ALIAS`, as docker has it.
    pub fn parse(text: &str) -> Result<Self> {
        let (pod, alias) = text.split_once(':').unwrap_or((text, text));
        Ok(Self { pod: PodName::parse(pod)?, alias: Alias::parse(alias)? })
    }
}

/// All interfaces of a pod: what stands alone stands alone, and nothing is there twice.
pub fn check(all: &[Attach]) -> Result<()> {
    let refuse = |cause: String| Err(Error::new(Kind::Usage, "read --network", cause));
    if let Some(alone) = all.iter().find(|one| one.is_alone() && all.len() > 1) {
        return refuse(format!("{} is all of a pod's network, and was given beside others", alone.network));
    }
    for (n, one) in all.iter().enumerate() {
        if all[..n].iter().any(|other| other.network == one.network) {
            return refuse(format!("{} was given twice; a pod has one interface on a network", one.network));
        }
        if one.interface.is_some() && all[..n].iter().any(|other| other.interface == one.interface) {
            return refuse(format!("two interfaces of the name {}", one.interface.as_deref().unwrap_or_default()));
        }
    }
    match all.len() {
        0..=MOST => Ok(()),
        more => refuse(format!("{more} interfaces, where {MOST} is the most")),
    }
}

/// Interfaces of one pod: each has a hexadecimal digit in the name of its other end.
pub const MOST: usize = 16;

/// `key=value` as they were given.
struct Keys<'a> {
    text: &'a str,
    given: Vec<(&'a str, &'a str)>,
}

impl<'a> Keys<'a> {
    fn bad(&self, cause: impl fmt::Display) -> Error {
        Error::new(Kind::Usage, format!("read the network {:?}", self.text), cause)
    }

    fn add(&mut self, part: &'a str) -> Result<()> {
        let Some((key, value)) = part.split_once('=').filter(|(_, value)| !value.is_empty()) else {
            return Err(self.bad(format!("{part:?} is not key=value")).hint(KEYS));
        };
        if !["ip", "alias"].contains(&key) && self.given.iter().any(|(known, _)| *known == key) {
            return Err(self.bad(format!("{key} is given twice")));
        }
        self.given.push((key, value));
        Ok(())
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let at = self.given.iter().position(|(known, _)| *known == key)?;
        Some(self.given.remove(at).1)
    }

    fn below<Mode: Copy + Default>(&mut self, all: &[(&'static str, Mode)]) -> Result<Below<Mode>> {
        let parent = self.take("parent").ok_or_else(|| self.bad("it needs parent=IF, a link of the host"))?;
        let mode = mode(all, self.take("mode"))?;
        Ok(Below { parent: link_name(parent).map_err(|cause| self.bad(cause))?, mode })
    }

    fn bandwidth(&mut self) -> Result<Option<Bandwidth>> {
        let mut rate = |key: &str| self.take(key).map(|text| rate(text).map_err(|cause| self.bad(cause))).transpose();
        let bandwidth = Bandwidth { ingress: rate("ingress")?, egress: rate("egress")? };
        Ok(Some(bandwidth).filter(|bandwidth| *bandwidth != Bandwidth::default()))
    }

    fn finish(mut self, network: Network) -> Result<Attach> {
        let mut attach = Attach::from(network);
        attach.interface = self.take("interface").map(link_name).transpose().map_err(|cause| self.bad(cause))?;
        attach.mac = self.take("mac").map(mac).transpose().map_err(|cause| self.bad(cause))?;
        attach.mtu = self.take("mtu").map(mtu).transpose().map_err(|cause| self.bad(cause))?;
        while let Some(text) = self.take("ip") {
            let one = Address::parse(text)?;
            if attach.ip.iter().any(|other| other.address.is_ipv4() == one.address.is_ipv4()) {
                return Err(self.bad("two addresses of one family"));
            }
            attach.ip.push(one);
        }
        let by_plugins = matches!(attach.network, Network::Cni(_));
        if by_plugins && attach.mtu.is_some() {
            return Err(self.bad("mtu is for the network's own configuration to say"));
        }
        if by_plugins {
            attach.bandwidth = self.bandwidth()?;
        }
        while let Some(text) = self.take("alias") {
            attach.aliases.push(Alias::parse(text)?);
        }
        let hangs_on_a_link = matches!(attach.network, Network::Macvlan(_) | Network::Ipvlan(_));
        if hangs_on_a_link && let Some(text) = self.take("gateway") {
            attach.gateway = Some(text.parse().map_err(|_| self.bad(format!("{text:?} is not an address")))?);
        }
        if let Some((key, _)) = self.given.first() {
            return Err(self.bad(format!("{key} is no key of it")).hint(KEYS));
        }
        match (attach.is_alone() && attach.has_wishes(), hangs_on_a_link && attach.ip.is_empty()) {
            (true, _) => Err(self.bad("podrun makes no interface there, so there is nothing to choose")),
            (_, true) => Err(self
                .bad("it needs ip=ADDRESS/PREFIX, since nobody hands out addresses there")
                .hint("or a network with a range: podrun network create NAME --driver macvlan --parent IF --subnet …")),
            _ => Ok(attach),
        }
    }
}

impl Address {
    /// `10.89.0.7` or `10.89.0.7/24`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |cause: &str| Error::new(Kind::Usage, format!("read the address {text:?}"), cause);
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad("not an IPv4 or IPv6 address"))?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map(|text| text.parse().ok().filter(|prefix| *prefix <= width && !text.starts_with('+')));
        match prefix {
            Some(None) => Err(bad("not a prefix length after the slash")),
            _ => Ok(Self { address, prefix: prefix.flatten() }),
        }
    }
}

/// What the kernel takes for an interface's name (`dev_valid_name`), less what no terminal should show and the pattern that
/// it would put a number into; and not `lo`, which every pod has, nor what /proc/sys/net has beside the interfaces.
pub fn link_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%');
    let means_another = matches!(text, "." | ".." | "lo" | "all" | "default");
    match (1..=15).contains(&text.len()) && text.bytes().all(plain) && !means_another {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} cannot be an interface's name")),
    }
}

/// `02:42:0a:59:00:07`; one of an interface, so neither a group's nor none (IEEE 802, 8.2).
fn mac(text: &str) -> Result<[u8; 6], String> {
    // from_str_radix takes a sign.
    let hex = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let octet = |part: &str| hex(part).then(|| u8::from_str_radix(part, 16).ok()).flatten();
    let octets: Option<Vec<u8>> = text.split([':', '-']).map(octet).collect();
    match octets.and_then(|octets| <[u8; 6]>::try_from(octets).ok()) {
        Some(mac) if mac[0] & 1 == 0 && mac != [0; 6] => Ok(mac),
        _ => Err(format!("{text:?} is not the hardware address of an interface")),
    }
}

/// From what IPv4 needs (RFC 791) to the most that a link takes.
pub fn mtu(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|mtu| (68..=65_535).contains(mtu))
        .ok_or(format!("{text:?} is not an MTU within 68 and 65535"))
}

/// `10M`: bits a second, in powers of ten.
fn rate(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1_u64),
    };
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let number = plain.then(|| digits.parse::<u64>().ok()?.checked_mul(unit)).flatten();
    number.filter(|rate| *rate >= 8).ok_or(format!("{text:?} is not a number of bits a second, as in 10M"))
}

/// The name of a CNI network, the path of its configuration, or nothing.
fn configuration(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let is_name = text.bytes().all(plain) && !text.starts_with(['.', '-', '_']);
    let is_path = text.starts_with('/') && !text.chars().any(char::is_control);
    (is_name || is_path).then(|| text.to_owned())
}

impl Network {
    /// A word without keys.
    pub fn parse(text: &str) -> Result<Self> {
        match (text, text.split_once(':')) {
            ("bridge", _) => Ok(Self::Bridge),
            ("host", _) => Ok(Self::Host),
            ("none", _) => Ok(Self::None),
            ("ptp", _) => Ok(Self::Ptp),
            ("pasta", _) => Ok(Self::Pasta),
            (_, Some(("pod", name))) => Ok(Self::Pod(PodName::parse(name)?)),
            (_, Some(("netns", path))) if path.starts_with('/') && !path.contains('\0') => Ok(Self::Netns(path.into())),
            (_, Some(("netns", _))) => Err(unknown(text, "the path of a network namespace begins with a slash")),
            (_, Some(("cni", which))) => configuration(which).map(Self::Cni).ok_or_else(|| {
                unknown(text, "neither the name of a CNI network nor the path of its configuration, from the slash on")
            }),
            (_, None) => NetworkName::parse(text).map(Self::Named).map_err(|err| err.hint(WORDS)),
            _ => Err(unknown(text, "podrun knows no such network")),
        }
    }

    /// Whether the pod has a network namespace of its own.
    pub fn is_own(&self) -> bool {
        !matches!(self, Self::Host | Self::Pod(_) | Self::Netns(_))
    }

    /// The format of records that first had this word.
    pub fn known_since(&self) -> u32 {
        match self {
            Self::Bridge | Self::Host | Self::None | Self::Pod(_) => 1,
            Self::Netns(_) | Self::Ptp | Self::Macvlan(_) | Self::Ipvlan(_) | Self::Named(_) => 2,
            Self::Cni(_) => 3,
            Self::Pasta => 4,
        }
    }
}

fn unknown(text: &str, cause: &str) -> Error {
    Error::new(Kind::Usage, format!("read the network {text:?}"), cause).hint(WORDS)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge => f.write_str("bridge"),
            Self::Host => f.write_str("host"),
            Self::None => f.write_str("none"),
            Self::Ptp => f.write_str("ptp"),
            Self::Pasta => f.write_str("pasta"),
            Self::Pod(name) => write!(f, "pod:{name}"),
            Self::Netns(path) => write!(f, "netns:{}", path.display()),
            Self::Macvlan(below) => write!(f, "macvlan:parent={}", below.parent),
            Self::Ipvlan(below) => write!(f, "ipvlan:parent={}", below.parent),
            Self::Named(name) => f.write_str(name.as_str()),
            Self::Cni(which) => write!(f, "cni:{which}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_word_and_what_is_wished_of_it() {
        for (text, network) in [
            ("bridge", Network::Bridge),
            ("ptp", Network::Ptp),
            ("pasta", Network::Pasta),
            ("pod:web", Network::Pod(PodName::parse("web").unwrap())),
            ("netns:/run/netns/x", Network::Netns("/run/netns/x".into())),
            ("front", Network::Named(NetworkName::parse("front").unwrap())),
            ("cni:", Network::Cni(String::new())),
            ("cni:k8s-pod.network_1", Network::Cni("k8s-pod.network_1".into())),
            ("cni:/srv/net.conflist", Network::Cni("/srv/net.conflist".into())),
        ] {
            assert_eq!(Attach::parse(text).unwrap(), Attach::from(network.clone()), "{text}");
            assert_eq!(network.to_string(), text);
        }
        let all = Attach::parse("front,ip=10.89.0.7,ip=fd00::7,mac=02:42:0a:59:00:07,mtu=1400,interface=net0").unwrap();
        assert_eq!(all.ip.len(), 2);
        assert_eq!((all.mac, all.mtu), (Some([2, 0x42, 0x0a, 0x59, 0, 7]), Some(1400)));
        assert_eq!(all.interface.as_deref(), Some("net0"));
        let aliases = Attach::parse("bridge,alias=db,alias=sql").unwrap().aliases;
        assert_eq!(aliases.iter().map(Alias::as_str).collect::<Vec<_>>(), ["db", "sql"]);
    }

    #[test]
    fn a_link_says_what_the_other_pod_is_called_here() {
        for (text, pod, alias) in [("db", "db", "db"), ("db-1:db", "db-1", "db")] {
            let link = Link::parse(text).unwrap();
            assert_eq!((link.pod.as_str(), link.alias.as_str()), (pod, alias), "{text}");
        }
        for bad in ["", "db:", ":db", "db:a:b", "db:a.b", "DB"] {
            assert!(Link::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_hangs_on_a_link_says_which_and_how() {
        let one = Attach::parse("macvlan:parent=eth0,mode=vepa,ip=192.0.2.7/24,gateway=192.0.2.1").unwrap();
        assert_eq!(one.network, Network::Macvlan(Below { parent: "eth0".into(), mode: MacvlanMode::Vepa }));
        assert_eq!(one.ip, [Address { address: [192, 0, 2, 7].into(), prefix: Some(24) }]);
        assert_eq!(one.gateway, Some([192, 0, 2, 1].into()));
        let one = Attach::parse("ipvlan:parent=eth0,ip=192.0.2.7/24").unwrap();
        assert_eq!(one.network, Network::Ipvlan(Below { parent: "eth0".into(), mode: IpvlanMode::L2 }));
    }

    #[test]
    fn what_plugins_are_to_limit_is_bits_a_second() {
        let read = |text: &str| Attach::parse(text).unwrap().bandwidth;
        assert_eq!(
            read("cni:a,ingress=10M,egress=800k"),
            Some(Bandwidth { ingress: Some(10_000_000), egress: Some(800_000) })
        );
        assert_eq!(read("cni:a,egress=1G").unwrap().egress, Some(1_000_000_000));
        assert_eq!(read("cni:a,ip=10.0.0.3"), None);
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error_that_says_why() {
        for (text, why) in [
            ("", "RFC 1123"),
            ("Front", "RFC 1123"),
            ("../x", "RFC 1123"),
            ("tap:x", "no such network"),
            ("netns:x", "begins with a slash"),
            ("pod:", "RFC 1123"),
            ("bridge,ip", "is not key=value"),
            ("bridge,ip=", "is not key=value"),
            ("bridge,vlan=4", "vlan is no key"),
            ("bridge,gateway=10.0.0.1", "gateway is no key"),
            ("bridge,parent=eth0", "parent is no key"),
            ("bridge,ip=10.0.0.300", "not an IPv4 or IPv6 address"),
            ("bridge,ip=10.0.0.3/33", "not a prefix length"),
            ("bridge,ip=10.0.0.3/+8", "not a prefix length"),
            ("bridge,ip=10.0.0.3,ip=10.0.0.4", "two addresses of one family"),
            ("bridge,alias=Db", "RFC 1123"),
            ("bridge,alias=a.b", "RFC 1123"),
            ("host,alias=db", "nothing to choose"),
            ("bridge,mtu=67", "not an MTU"),
            ("bridge,mtu=1500,mtu=1400", "given twice"),
            ("bridge,mac=02:42:0a:59:00", "hardware address"),
            ("bridge,mac=03:42:0a:59:00:07", "hardware address"),
            ("bridge,mac=00:00:00:00:00:00", "hardware address"),
            ("bridge,mac=+2:42:0a:59:00:07", "hardware address"),
            ("bridge,interface=lo", "cannot be an interface"),
            ("bridge,interface=a/b", "cannot be an interface"),
            ("bridge,interface=sixteen-bytes-xx", "cannot be an interface"),
            ("bridge,interface=eth%d", "cannot be an interface"),
            ("bridge,interface=all", "cannot be an interface"),
            ("bridge,interface=default", "cannot be an interface"),
            ("host,mtu=1400", "nothing to choose"),
            ("pasta,ip=10.0.0.3", "nothing to choose"),
            ("pod:web,ip=10.0.0.3", "nothing to choose"),
            ("cni:../x", "neither the name of a CNI network"),
            ("cni:a b", "neither the name of a CNI network"),
            ("cni:/a\nb", "neither the name of a CNI network"),
            ("cni:a,mtu=1400", "own configuration"),
            ("cni:a,ingress=fast", "not a number of bits"),
            ("cni:a,egress=99999999999999999999", "not a number of bits"),
            ("bridge,ingress=1M", "ingress is no key"),
            ("macvlan", "needs parent="),
            ("macvlan:parent=eth0", "needs ip="),
            ("macvlan:parent=eth0,mode=x,ip=192.0.2.7/24", "none of this name"),
            ("macvlan:parent=a/b,ip=192.0.2.7/24", "cannot be an interface"),
        ] {
            let err = Attach::parse(text).unwrap_err();
            assert_eq!(err.kind, Kind::Usage, "{text}");
            assert!(err.cause().contains(why), "{text}: {err}");
        }
    }

    #[test]
    fn what_stands_alone_is_not_given_beside_others_and_nothing_twice() {
        let read = |texts: &[&str]| {
            let all: Vec<_> = texts.iter().map(|text| Attach::parse(text).unwrap()).collect();
            check(&all).map_err(|err| err.cause().to_owned())
        };
        for right in [&["host"][..], &["bridge", "front", "ptp"], &["bridge,interface=a", "front,interface=b"]] {
            assert_eq!(read(right), Ok(()), "{right:?}");
        }
        for (wrong, why) in [
            (&["bridge", "host"][..], "host is all"),
            (&["none", "bridge"], "none is all"),
            (&["front", "front,mtu=1400"], "front was given twice"),
            (&["bridge,interface=a", "front,interface=a"], "of the name a"),
        ] {
            let cause = read(wrong).unwrap_err();
            assert!(cause.contains(why), "{wrong:?}: {cause}");
        }
    }
}
