//! Which address range a network gets: never one that the host or another network uses already.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind, Result};
use crate::net::cidr::{Cidr, candidates, overlapped};
use crate::net::link::{LEAST_OF_IPV6, Link, Netlink, Route};
use std::net::IpAddr;

/// Where nothing else is known, Ethernet's.
const MTU: u32 = 1500;

/// The host's side of the choice.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The link that has our bridge's name.
    pub ours: Option<Link>,
    /// The group that our links have where there is no bridge.
    pub group: Option<u32>,
    /// The name of our overlay's device.
    pub tunnel: Option<String>,
    pub links: Vec<Link>,
    pub addresses: Vec<(u32, Cidr)>,
    pub routes: Vec<Route>,
    /// Other networks of podrun's, made or only described.
    pub others: Vec<(String, Cidr)>,
}

impl Facts {
    /// Of the host, where a network has a bridge of this name or links of this group, and perhaps a tunnel.
    pub fn look(
        host: &Netlink,
        bridge: Option<&str>,
        group: u32,
        tunnel: Option<String>,
        others: Vec<(String, Cidr)>,
    ) -> Result<Self> {
        let links = host.links()?;
        let ours = links.iter().find(|link| Some(link.name.as_str()) == bridge).cloned();
        let group = bridge.is_none().then_some(group);
        Ok(Self { ours, group, tunnel, links, addresses: host.addresses()?, routes: host.routes()?, others })
    }

    /// The IPv4 address of a link.
    pub fn address_of(&self, link: u32) -> Option<Cidr> {
        let four = self.addresses.iter().filter(|(_, address)| address.address.is_ipv4());
        four.into_iter().find(|(of, _)| *of == link).map(|(_, address)| *address)
    }

    pub fn has_address(&self, link: u32, address: Cidr) -> bool {
        self.addresses.contains(&(link, address))
    }

    fn is_ours(&self, index: u32) -> bool {
        let is_ours = |link: &Link| Some(link.group) == self.group || self.tunnel.as_ref() == Some(&link.name);
        let other = || self.links.iter().any(|link| link.index == index && is_ours(link));
        self.ours.as_ref().is_some_and(|link| link.index == index) || other()
    }

    /// What the host already uses, our own links aside.
    fn taken_by_host(&self) -> Vec<Cidr> {
        let routes = self.routes.iter().filter(|route| route.by.is_none_or(|by| !self.is_ours(by)));
        let addresses = self.addresses.iter().filter(|(of, _)| !self.is_ours(*of)).map(|(_, address)| *address);
        addresses.chain(routes.map(|route| route.to)).collect()
    }

    fn taken(&self) -> Vec<Cidr> {
        self.others.iter().map(|(_, range)| *range).chain(self.taken_by_host()).collect()
    }

    /// Refuses a range that is in use, with what uses it.
    pub fn refuse_taken(&self, range: Cidr, doing: &str) -> Result<()> {
        let other = self.others.iter().find(|(_, other)| range.overlaps(*other));
        let by = match (other, overlapped(range, &self.taken_by_host())) {
            (Some((name, other)), _) => format!("{other} of the network {name}"),
            (None, Some(other)) => format!("{other} of this host"),
            (None, None) => return Ok(()),
        };
        Err(Error::new(Kind::Invalid, doing, format!("{range} overlaps {by}"))
            .hint("give a range that the host has no address in and no route to"))
    }

    /// A host that is its own peer would send its pods' packets to itself.
    pub fn refuse_own(&self, peer: IpAddr, doing: &str) -> Result<()> {
        match self.addresses.iter().any(|(_, own)| own.address == peer) {
            true => Err(Error::new(Kind::Invalid, doing, format!("the peer {peer} is this host itself"))),
            false => Ok(()),
        }
    }

    /// The MTU of the link that has this address.
    pub fn mtu_of(&self, address: IpAddr) -> Option<u32> {
        let (index, _) = self.addresses.iter().find(|(_, own)| own.address == address)?;
        self.links.iter().find(|link| link.index == *index).map(|link| link.mtu)
    }

    /// The MTU of the way out, so that what a pod sends fits (a cloud's overlay has less than 1500).
    pub fn mtu_outwards(&self) -> u32 {
        let mut ways = self.routes.iter().filter(|route| route.to.prefix == 0 && route.by.is_some());
        let out = ways.next().and_then(|route| route.by);
        let link = self.links.iter().find(|link| Some(link.index) == out);
        link.map_or(MTU, |link| link.mtu.clamp(LEAST_OF_IPV6, 65_535))
    }
}

/// How large a range is that podrun chooses by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The default bridge's, for all pods that wish for nothing else.
    Large,
    /// 254 addresses, for a network among others.
    Small,
}

/// The first range that overlaps nothing that is taken.
pub fn choose(size: Size, facts: &Facts) -> Result<Cidr> {
    let taken = facts.taken();
    let free = |range: &Cidr| overlapped(*range, &taken).is_none();
    let found = match size {
        Size::Large => candidates().find(free),
        // The first one is the default bridge's own, should it still be to come.
        Size::Small => candidates().skip(1).flat_map(parts).find(free),
    };
    found.ok_or_else(|| {
        let cause = "the host has routes to every private range that podrun tries";
        Error::new(Kind::Exhausted, "choose the network's address range", cause).hint(
            "name a free range as `{\"subnet\": \"…\"}` in networks/bridge.json under podrun's root, or by --subnet",
        )
    })
}

fn parts(range: Cidr) -> impl Iterator<Item = Cidr> {
    let count = 1_u128 << 24_u8.saturating_sub(range.prefix);
    (0..count).map(move |n| Cidr { address: range.nth(n << 8), prefix: 24 })
}

/// Which range a network gets: the one that its pods already live in, the one that is wished for, the next free one.
pub fn plan(wished: Option<Cidr>, known: Option<Cidr>, size: Size, facts: &Facts) -> Result<Cidr> {
    let doing = "choose the bridge's address range";
    if let Some(link) = &facts.ours {
        if !link.is_bridge {
            return Err(Error::new(Kind::AlreadyExists, doing, format!("{} is there and is no bridge", link.name))
                .hint(format!("rename it, or `ip link del {}`", link.name)));
        }
        if let Some(address) = facts.address_of(link.index) {
            return Ok(address.network());
        }
    }
    if let Some(known) = known.filter(|known| overlapped(*known, &facts.taken()).is_none()) {
        return Ok(known.network());
    }
    match wished {
        Some(wished) => facts.refuse_taken(wished, doing).map(|()| wished.network()),
        None => choose(size, facts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        Cidr::parse(text).unwrap()
    }

    fn link(index: u32, name: &str, is_bridge: bool, mtu: u32) -> Link {
        let name = name.to_owned();
        Link {
            index,
            name,
            second_names: vec![],
            alias: None,
            bridge: None,
            is_bridge,
            up: true,
            carrier: true,
            mtu,
            group: 0,
            mac: None,
            vlan: None,
        }
    }

    fn facts(ours: Option<&str>, routes: &[(&str, u32)]) -> Facts {
        let ours = ours.map(|address| (link(9, "podrun0", true, 1500), cidr(address)));
        Facts {
            addresses: ours.iter().map(|(link, address)| (link.index, *address)).collect(),
            links: vec![link(2, "eth0", false, 1450)],
            ours: ours.map(|(link, _)| link),
            routes: routes.iter().map(|(to, by)| Route { to: cidr(to), by: Some(*by) }).collect(),
            ..Facts::default()
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
            let planned = plan(wished.map(cidr), known.map(cidr), Size::Large, &facts(ours, routes));
            assert_eq!(planned.map_err(|err| err.cause().to_owned()), chosen.map(cidr).map_err(str::to_owned));
        }
    }

    #[test]
    fn networks_do_not_overlap_each_other() {
        let others = |ranges: &[&str]| Facts {
            others: ranges.iter().map(|range| ("front".to_owned(), cidr(range))).collect(),
            ..facts(None, &[("10.89.1.0/24", 2)])
        };
        for (taken, chosen) in [
            (&[][..], "10.89.0.0/24"),
            (&["10.89.0.0/24"], "10.89.2.0/24"),
            (&["10.88.0.0/16", "10.89.0.0/16"], "10.90.0.0/24"),
        ] {
            assert_eq!(choose(Size::Small, &others(taken)).unwrap(), cidr(chosen), "{taken:?}");
        }
        let refused = others(&["10.89.0.0/24"]).refuse_taken(cidr("10.89.0.128/25"), "x").unwrap_err();
        assert_eq!(refused.cause(), "10.89.0.128/25 overlaps 10.89.0.0/24 of the network front");
        let six = others(&["fd00::/64"]).refuse_taken(cidr("fd00::/48"), "x").unwrap_err();
        assert_eq!(six.cause(), "fd00::/48 overlaps fd00::/64 of the network front");
    }

    #[test]
    fn our_own_links_take_nothing_from_us() {
        let routed = Link { group: 7, ..link(5, "veth0", false, 1500) };
        let facts = Facts { group: Some(7), links: vec![routed], ..facts(None, &[("10.89.0.2/32", 5)]) };
        assert_eq!(facts.refuse_taken(cidr("10.89.0.0/24"), "x").map_err(|err| err.to_string()), Ok(()));
    }

    #[test]
    fn a_stranger_with_our_name_is_not_taken_for_the_bridge() {
        let facts = Facts { ours: Some(link(3, "podrun0", false, 1500)), ..Facts::default() };
        assert_eq!(plan(None, None, Size::Large, &facts).unwrap_err().kind, Kind::AlreadyExists);
    }

    #[test]
    fn the_mtu_is_the_way_outs() {
        assert_eq!(facts(None, &[("0.0.0.0/0", 2)]).mtu_outwards(), 1450);
        assert_eq!(facts(None, &[("10.0.0.0/8", 2)]).mtu_outwards(), 1500);
        let tiny = Facts { links: vec![link(2, "tun0", false, 576)], ..facts(None, &[("0.0.0.0/0", 2)]) };
        assert_eq!(tiny.mtu_outwards(), 1280);
    }
}
