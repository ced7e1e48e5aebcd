//! An address with the length of its network's prefix, as in `10.88.0.5/16`, and the ranges that podrun takes.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// `10.88.0.5/16`. Offsets are counted from the network's first address, so that v4 and v6 share the arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    pub const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(words: [u16; 8], prefix: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = words;
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix }
    }

    /// The range of a single address.
    pub fn alone(address: IpAddr) -> Self {
        Self { address, prefix: width(address) }
    }

    pub fn parse(text: &str) -> Result<Self> {
        let bad = |cause: &str| {
            Error::new(Kind::Invalid, format!("read the address range {text:?}"), cause)
                .hint("write it as in 10.88.0.0/16")
        };
        let (address, prefix) = text.split_once('/').ok_or_else(|| bad("it has no /prefix"))?;
        let address: IpAddr = address.parse().map_err(|_| bad("not an address before the slash"))?;
        match prefix.parse() {
            Ok(prefix) if prefix <= width(address) && !text.contains('+') => Ok(Self { address, prefix }),
            _ => Err(bad("not a prefix length after the slash")),
        }
    }

    /// The same prefix with the host's bits cleared.
    pub fn network(self) -> Self {
        Self { address: address(bits(self.address) & !self.host_mask(), self.address), prefix: self.prefix }
    }

    pub fn contains(self, other: IpAddr) -> bool {
        self.address.is_ipv4() == other.is_ipv4()
            && bits(self.address) & !self.host_mask() == bits(other) & !self.host_mask()
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }

    /// The address `offset` places after the network's first.
    pub fn nth(self, offset: u128) -> IpAddr {
        address(bits(self.network().address) | (offset & self.host_mask()), self.address)
    }

    /// Where `other` stands in this network.
    pub fn offset(self, other: IpAddr) -> Option<u128> {
        self.contains(other).then(|| bits(other) & self.host_mask())
    }

    /// The offsets that an interface may have: not the network's own address, nor IPv4's broadcast address, save in
    /// the point-to-point prefixes of RFC 3021 and single addresses.
    pub fn hosts(self) -> RangeInclusive<u128> {
        let last = self.host_mask();
        match self.address {
            _ if last < 2 => 0..=last,
            IpAddr::V4(_) => 1..=last - 1,
            IpAddr::V6(_) => 1..=last,
        }
    }

    /// What stands in the way of giving these addresses to hosts, by the kinds of RFC 6890 and RFC 4291 (2.4): a whole range
    /// may overlap no such kind.
    pub fn is_no_hosts(self) -> Option<&'static str> {
        const KINDS: [(Cidr, &str); 8] = [
            (Cidr::v4(0, 0, 0, 0, 8), "unspecified"),
            (Cidr::v4(127, 0, 0, 0, 8), "loopback"),
            (Cidr::v4(224, 0, 0, 0, 4), "multicast"),
            (Cidr::v4(255, 255, 255, 255, 32), "broadcast"),
            (Cidr::v6([0, 0, 0, 0, 0, 0, 0, 0], 127), "loopback"),
            (Cidr::v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), "IPv4"),
            (Cidr::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
            (Cidr::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
        ];
        KINDS.iter().find(|(kind, _)| kind.overlaps(self)).map(|(_, what)| *what)
    }

    fn host_mask(self) -> u128 {
        match width(self.address) - self.prefix {
            128 => u128::MAX,
            host => (1 << host) - 1,
        }
    }
}

/// The ranges that the default bridge may take, best first: 10.88.0.0/16 as podman has it, then what is private
/// (RFC 1918) and least used by others. Kubernetes' defaults are left out: its services have 10.96.0.0/12, the pods of
/// many clusters 10.244.0.0/16; docker starts at 172.17.0.0/16.
pub fn candidates() -> impl Iterator<Item = Cidr> {
    let ten = (88..=95).chain(112..=243).chain(245..=255).chain(1..=87).map(|second| Cidr::v4(10, second, 0, 0, 16));
    let twelve = (16..=31).rev().map(|second| Cidr::v4(172, second, 0, 0, 16));
    let sixteen = (0..=240).rev().step_by(16).map(|third| Cidr::v4(192, 168, third, 0, 20));
    ten.chain(twelve).chain(sixteen)
}

/// The first candidate that overlaps nothing that is taken.
pub fn choose(taken: &[Cidr]) -> Option<Cidr> {
    candidates().find(|range| overlapped(*range, taken).is_none())
}

/// What of `taken` stands in the way of `range`. Prefixes shorter than /8 are no networks but "everywhere else": the
/// default route, and the 0.0.0.0/1 with 128.0.0.0/1 by which VPN clients override it.
pub fn overlapped(range: Cidr, taken: &[Cidr]) -> Option<Cidr> {
    taken.iter().copied().find(|other| other.prefix >= 8 && range.overlaps(*other))
}

/// An interface's hardware address, made from its IP address: whoever gets the address again gets the same one, so no
/// neighbour's ARP entry goes stale. The first octet has the local bit (IEEE 802: x2) and not the group bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The pod's end: `02:70:` and the four bytes of the address.
    pub fn pod(address: IpAddr) -> Self {
        Self::with(0x02, address)
    }

    /// The host's end: `fe:70:`, above every other, since a bridge without an address of its own takes the lowest.
    pub fn host(address: IpAddr) -> Self {
        Self::with(0xfe, address)
    }

    /// The IPv4 address that one end or the other has it from.
    pub fn made_from(self) -> Option<IpAddr> {
        let [.., a, b, c, d] = self.0;
        let address = IpAddr::from([a, b, c, d]);
        [Self::pod(address), Self::host(address)].contains(&self).then_some(address)
    }

    /// The device of the host that has this part of an overlay: so each peer knows it without asking.
    pub fn vxlan(part: Cidr) -> Self {
        Self::with(0x06, part.network().address)
    }

    fn with(first: u8, address: IpAddr) -> Self {
        let [a, b, c, d] = four_bytes(address);
        Self([first, 0x70, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The second name (IFLA_ALT_IFNAME) of the link whose pod has `address`. The kernel keeps it exactly as long as the
/// link lives, and never twice, so "is the link of this address gone?" is one question to the kernel.
pub fn link_name(address: IpAddr) -> String {
    let [a, b, c, d] = four_bytes(address);
    let family = if address.is_ipv4() { "lease" } else { "lease6" };
    format!("{family}-{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// An IPv4 address, or IPv6's 16 bytes folded into four: two that fold alike are never handed out together.
fn four_bytes(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(four) => four.octets(),
        IpAddr::V6(six) => {
            let mut folded = [0; 4];
            for (at, byte) in six.octets().into_iter().enumerate() {
                folded[at % 4] ^= byte;
            }
            folded
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u128::from(u32::from(four)),
        IpAddr::V6(six) => u128::from(six),
    }
}

fn address(bits: u128, like: IpAddr) -> IpAddr {
    match (like, u32::try_from(bits)) {
        (IpAddr::V4(_), Ok(four)) => Ipv4Addr::from(four).into(),
        _ => Ipv6Addr::from(bits).into(),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Cidr {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        Cidr::parse(text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for good in ["10.88.0.0/16", "0.0.0.0/0", "10.0.0.1/32", "fd00::/64", "::/0", "::1/128"] {
            assert_eq!(cidr(good).to_string(), good);
        }
        for bad in [
            "",
            "10.88.0.0",
            "10.88.0.0/",
            "10.88.0.0/33",
            "10.88.0/16",
            "fd00::/129",
            "a/8",
            "1.2.3.4/+8",
            "1.2.3.4/-1",
            "1.2.3.4/8\n",
        ] {
            assert_eq!(Cidr::parse(bad).unwrap_err().kind, Kind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn offsets_count_from_the_first_address() {
        for (range, offset, address) in [
            ("10.88.0.0/16", 1, "10.88.0.1"),
            ("10.88.7.9/16", 65_534, "10.88.255.254"),
            ("192.168.1.128/25", 127, "192.168.1.255"),
            ("fd00::/64", 0x1_0000, "fd00::1:0"),
        ] {
            assert_eq!(cidr(range).nth(offset), ip(address));
            assert_eq!(cidr(range).offset(ip(address)), Some(offset));
        }
        assert_eq!(cidr("10.88.0.0/16").offset(ip("10.89.0.0")), None);
        assert_eq!(cidr("10.88.0.0/16").offset(ip("fd00::1")), None);
    }

    #[test]
    fn network_and_broadcast_are_no_hosts() {
        for (range, hosts) in [
            ("10.0.0.0/29", 1..=6),
            ("10.0.0.0/30", 1..=2),
            ("10.0.0.0/31", 0..=1), // RFC 3021
            ("10.0.0.0/32", 0..=0),
            ("fd00::/126", 1..=3), // no broadcast; the first is the routers' anycast address (RFC 4291, 2.6.1)
        ] {
            assert_eq!(cidr(range).hosts(), hosts, "{range}");
        }
        assert_eq!(*cidr("::/0").hosts().end(), u128::MAX);
    }

    #[test]
    fn overlapping_is_mutual() {
        for (one, other, overlap) in [
            ("10.88.0.0/16", "10.88.3.0/24", true),
            ("10.88.0.0/16", "10.0.0.0/8", true),
            ("10.88.0.0/16", "10.89.0.0/16", false),
            ("10.88.0.0/16", "10.88.255.255/32", true),
            ("0.0.0.0/0", "fd00::/8", false),
        ] {
            assert_eq!(cidr(one).overlaps(cidr(other)), overlap, "{one} {other}");
            assert_eq!(cidr(other).overlaps(cidr(one)), overlap, "{other} {one}");
        }
    }

    #[test]
    fn the_next_free_range_is_taken() {
        for (taken, chosen) in [
            (&[][..], Some("10.88.0.0/16")),
            (&["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"], Some("10.88.0.0/16")),
            (&["10.88.0.0/16"], Some("10.89.0.0/16")),
            (&["10.88.4.0/24", "10.89.0.1/32"], Some("10.90.0.0/16")),
            (&["10.88.0.0/13"], Some("10.112.0.0/16")), // past Kubernetes' services
            (&["10.0.0.0/8"], Some("172.31.0.0/16")),
            (&["10.0.0.0/8", "172.16.0.0/12"], Some("192.168.240.0/20")),
            (&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], None),
        ] {
            let taken: Vec<_> = taken.iter().map(|text| cidr(text)).collect();
            assert_eq!(choose(&taken), chosen.map(cidr), "{taken:?}");
        }
    }

    #[test]
    fn every_candidate_is_private_and_none_is_kubernetes() {
        let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"].map(cidr);
        let kubernetes = ["10.96.0.0/12", "10.244.0.0/16"].map(cidr);
        assert_eq!(candidates().count(), 238 + 16 + 16);
        for range in candidates() {
            assert_eq!(range, range.network());
            assert!(
                private.iter().any(|p| p.overlaps(range)) && !kubernetes.iter().any(|k| k.overlaps(range)),
                "{range}"
            );
        }
    }

    #[test]
    fn hardware_addresses_and_link_names_come_from_the_address() {
        for (address, pod, host, link) in [
            ("10.88.0.5", "02:70:0a:58:00:05", "fe:70:0a:58:00:05", "lease-0a580005"),
            ("255.255.255.255", "02:70:ff:ff:ff:ff", "fe:70:ff:ff:ff:ff", "lease-ffffffff"),
            ("fd00::5", "02:70:fd:00:00:05", "fe:70:fd:00:00:05", "lease6-fd000005"),
            ("fd00::ff05:ff05", "02:70:02:05:ff:05", "fe:70:02:05:ff:05", "lease6-0205ff05"),
        ] {
            let address = ip(address);
            assert_eq!(Mac::pod(address).to_string(), pod);
            assert_eq!(Mac::host(address).to_string(), host);
            assert_eq!(link_name(address), link);
            assert!(link.len() <= 15, "an ioctl takes no longer name");
            assert_eq!(Mac::pod(address).0[0] & 3, 2, "local, and not a group");
            if address.is_ipv4() {
                assert_eq!([Mac::pod(address), Mac::host(address)].map(Mac::made_from), [Some(address); 2]);
            }
        }
    }

    #[test]
    fn a_record_cannot_smuggle_a_bad_range_in() {
        assert!(serde_json::from_str::<Cidr>(r#""10.0.0.0/40""#).is_err());
        assert_eq!(serde_json::to_string(&cidr("10.0.0.1/8")).unwrap(), r#""10.0.0.1/8""#);
    }
}
