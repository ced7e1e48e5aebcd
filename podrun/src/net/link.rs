//! rtnetlink(7): links, addresses and routes, as podrun wants them.
//!
//! A netlink socket belongs to the network namespace of the thread that opened it, so there is one for the host and
//! one for the pod, opened while the thread is in the pod's namespace.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::net::cidr::{Cidr, Mac};
use crate::net::netlink::{Request, Socket};
use crate::spec::network::{IpvlanMode, MacvlanMode};
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkIpVlan, LinkMacVlan, LinkMessageBuilder, LinkUnspec,
    LinkVeth, LinkVlan, LinkVxlan, RouteMessageBuilder,
};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// A connection to the kernel, in one network namespace.
#[derive(Debug)]
pub struct Netlink(Socket);

/// A link with less has no IPv6 (RFC 8200, 5): the kernel takes it away whole, with what was set for it, and gives it back with
/// the host's defaults when the link has more again.
pub const LEAST_OF_IPV6: u32 = 1280;

/// A pod's two ends, as they are to be born.
#[derive(Debug)]
pub struct Veth<'a> {
    pub name: &'a str,
    /// The second names that keep the addresses from being leased again.
    pub second_names: &'a [String],
    pub alias: &'a str,
    pub end: End,
    pub mac: Mac,
    pub mtu: u32,
    pub ipv6: Ipv6,
    pub peer: &'a str,
    pub peer_mac: Mac,
    pub netns: BorrowedFd<'a>,
}

/// The spanning tree protocol of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stp {
    Off,
    On,
}

/// Where the host's end of a pair leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// To the bridge with this index.
    Port { bridge: u32, reach: Reach },
    /// To the host's routes; the group tells whose they are.
    Routed { group: u32 },
}

/// Whether a bridge's port speaks to others that are as it is (bridge(8), `isolated`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    All,
    OnlyTheBridge,
}

/// An interface in the pod that hangs on a link of the host.
#[derive(Debug)]
pub struct Hanging<'a> {
    pub name: &'a str,
    pub parent: u32,
    pub mode: Mode,
    /// Its parent's, where there is none.
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub netns: BorrowedFd<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Macvlan(MacvlanMode),
    Ipvlan(IpvlanMode),
}

/// A VXLAN device of the host's (ip-link(8), vxlan).
#[derive(Debug)]
pub struct Tunnel<'a> {
    pub name: &'a str,
    pub vni: u32,
    pub port: u16,
    /// What its packets come from; the kernel's choice by default.
    pub local: Option<IpAddr>,
    pub mac: Mac,
    pub mtu: u32,
}

/// One family of an interface in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    pub address: Cidr,
    /// The way out.
    pub gateway: Option<IpAddr>,
    /// The whole network is behind this gateway, which the address's prefix does not say.
    pub via: Option<(Cidr, IpAddr)>,
}

/// Whether this kernel knows IPv6 at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ipv6 {
    Known,
    Unknown,
}

impl Ipv6 {
    pub fn of_this_kernel() -> Self {
        if std::path::Path::new("/proc/sys/net/ipv6").exists() { Self::Known } else { Self::Unknown }
    }
}

/// A link as the host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub second_names: Vec<String>,
    pub alias: Option<String>,
    pub bridge: Option<u32>,
    pub is_bridge: bool,
    pub up: bool,
    /// Whether there is something at the other end of it (netdevice(7), IFF_LOWER_UP).
    pub carrier: bool,
    pub mtu: u32,
    pub group: u32,
    pub mac: Option<Mac>,
    /// Of an 802.1Q link: below which link, and its number.
    pub vlan: Option<(u32, u16)>,
}

/// A route of any table: where to, and by which link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub to: Cidr,
    pub by: Option<u32>,
}

impl Netlink {
    /// In the calling thread's network namespace.
    pub fn here() -> Result<Self> {
        Socket::open().map(Self).doing(|| "open a netlink socket".to_owned())
    }

    /// In `netns`, where the calling thread goes for a moment: two system calls, where a thread of its own is 0.2 ms.
    /// `first` runs there before.
    pub fn inside(netns: BorrowedFd<'_>, first: impl FnOnce() -> Result<()>) -> Result<Self> {
        let home = File::open("/proc/thread-self/ns/net").doing(|| "open the network namespace".to_owned())?;
        setns(netns, CloneFlags::CLONE_NEWNET).doing(|| "enter the pod's network namespace".to_owned())?;
        let opened = first().and_then(|()| Self::here());
        setns(home, CloneFlags::CLONE_NEWNET).doing(|| "come back from the pod's network namespace".to_owned())?;
        opened
    }

    fn ask<const N: usize>(&self, requests: [Request; N], doing: impl FnOnce() -> String) -> Result<()> {
        self.0.ask(requests).map(drop).doing(doing)
    }

    /// The pair, the host's end on the bridge and up, the peer born in the pod's namespace (not up: veth(4) has no
    /// carrier to give before both ends exist). RTM_NEWLINK ignores an alias, so that comes with a second message.
    pub fn add_veth(&self, veth: &Veth<'_>) -> Result<()> {
        let made = Request::make(Message::NewLink(pair(veth)));
        let named = Request::append(Message::NewLinkProp(second_names(veth)));
        let finished = Request::of(Message::SetLink(finish(veth)));
        self.ask([made, named, finished], || format!("make the link {}", veth.name))?;
        match veth.end {
            End::Port { reach: Reach::OnlyTheBridge, .. } => {
                let index = crate::sys::net::link_index(veth.name);
                self.isolate(index.doing(|| format!("find the link {}", veth.name))?)
            }
            End::Port { reach: Reach::All, .. } | End::Routed { .. } => Ok(()),
        }
    }

    /// The port does not speak to other ports that do not.
    fn isolate(&self, index: u32) -> Result<()> {
        let message = LinkBridgePort::new(index).isolated(true).build();
        self.ask([Request::of(Message::NewLink(message))], || "isolate a port of the bridge".to_owned())?;
        self.set_up(index)
    }

    /// An interface of the pod's on a link of the host's, born in the pod.
    pub fn add_hanging(&self, wanted: &Hanging<'_>) -> Result<()> {
        let netns = wanted.netns.as_raw_fd();
        let message = match wanted.mode {
            Mode::Macvlan(mode) => {
                let made = LinkMacVlan::new(wanted.name, wanted.parent, macvlan_mode(mode)).setns_by_fd(netns);
                let made = wanted.mac.iter().fold(made, |made, mac| made.address(mac.0.to_vec()));
                wanted.mtu.iter().fold(made, |made, mtu| made.mtu(*mtu)).build()
            }
            Mode::Ipvlan(mode) => {
                let made = LinkIpVlan::new(wanted.name, wanted.parent, ipvlan_mode(mode)).setns_by_fd(netns);
                wanted.mtu.iter().fold(made, |made, mtu| made.mtu(*mtu)).build()
            }
        };
        self.ask([Request::make(Message::NewLink(message))], || format!("make the interface {}", wanted.name))
    }

    /// A route to one address by one of the host's links.
    pub fn add_host_route(&self, to: IpAddr, link: u32) -> Result<()> {
        let route = match to {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, 32)
                .scope(RouteScope::Link)
                .output_interface(link)
                .build(),
            IpAddr::V6(to) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128).output_interface(link).build()
            }
        };
        self.ask([Request::make(Message::NewRoute(route))], || format!("route {to} to the pod"))
    }

    /// The pod's side: the interface up, its addresses, and the way out. No duplicate address detection: podrun leased
    /// the addresses, so nobody else has them.
    pub fn configure(&self, interface: &str, families: &[Family]) -> Result<()> {
        let up = LinkUnspec::new_with_name(interface).up().build();
        let up_and_found = [Request::of(Message::SetLink(up)), Request::of(Message::GetLink(called(interface)))];
        let configured = self.0.ask(up_and_found).and_then(|told| {
            let index = links_in(told).next().map_or(0, |link| link.index);
            // The address before the routes, whose gateway is there by it.
            self.0.ask(families.iter().flat_map(|family| family_of(index, family)).map(Request::make))
        });
        let said = families.first().map(|family| family.address.to_string()).unwrap_or_default();
        configured.map(drop).doing(|| format!("give {interface} the address {said}"))
    }

    /// The way out, by an interface that is there, in the place of any other: at no moment is there none.
    pub fn set_default_routes(&self, interface: &str, gateways: &[IpAddr]) -> Result<()> {
        let doing = || format!("route by {interface}");
        let index = self.find(interface)?.map_or(0, |link| link.index);
        let routes = gateways.iter().map(|gateway| Request::replace(Message::NewRoute(onlink(None, *gateway, index))));
        self.0.ask(routes).map(drop).doing(doing)
    }

    /// Takes away every default route by an interface, which is there; none is fine.
    pub fn delete_default_routes(&self, interface: &str) -> Result<()> {
        let index = self.links()?.into_iter().find(|link| link.name == interface).map_or(0, |link| link.index);
        let by_it = |route: &RouteMessage| {
            let by = route.attributes.iter().any(|one| matches!(one, RouteAttribute::Oif(oif) if *oif == index));
            by && route.header.destination_prefix_length == 0
        };
        // A kernel without IPv6 has no routes of it.
        let all = FAMILIES.map(|family| self.0.ask([family()]).unwrap_or_default());
        let found = all.into_iter().flatten().filter_map(|message| match message {
            Message::NewRoute(route) => Some(route).filter(by_it),
            _ => None,
        });
        let deleted = self.0.ask(found.map(|route| Request::of(Message::DelRoute(route))));
        deleted.map(drop).doing(|| format!("take the default route from {interface}"))
    }

    pub fn add_address(&self, index: u32, address: Cidr) -> Result<()> {
        let message = Message::NewAddress(address_message(index, address));
        self.ask([Request::make(message)], || format!("add the address {address}"))
    }

    /// A bridge, not up yet. Its hardware address is set, so it does not change with the ports that come and go. Its MTU does
    /// (`br_mtu_auto_adjust`), and without a port it is 1500; one below that of IPv6 would bring IPv6 with it then, and so is
    /// set by a change, which the kernel takes for the user's own and keeps.
    pub fn add_bridge(&self, name: &str, mac: Mac, mtu: u32, stp: Stp) -> Result<()> {
        let stays = mtu < LEAST_OF_IPV6;
        let first = if stays { mtu + 1 } else { mtu };
        let message = LinkMessageBuilder::<LinkBridge>::new(name).address(mac.0.to_vec()).mtu(first);
        let message = match stp {
            Stp::Off => message,
            Stp::On => message.stp_state(BridgeStpState::KernelStp),
        };
        let made = Request::make(Message::NewLink(message.build()));
        let changed = stays.then(|| LinkUnspec::new_with_name(name).mtu(mtu).build());
        let changed = changed.map(|message| Request::of(Message::SetLink(message)));
        let all = std::iter::once(made).chain(changed);
        self.0.ask(all).map(drop).doing(|| format!("make the bridge {name}"))
    }

    /// A tunnel that learns nothing from what comes in, so that nobody makes himself a peer.
    pub fn add_vxlan(&self, wanted: &Tunnel<'_>) -> Result<()> {
        let made = LinkVxlan::new(wanted.name, wanted.vni).port(wanted.port).learning(false);
        let made = match wanted.local {
            Some(IpAddr::V4(four)) => made.local(four),
            Some(IpAddr::V6(six)) => made.local6(six),
            None => made,
        };
        let message = made.address(wanted.mac.0.to_vec()).mtu(wanted.mtu).build();
        self.ask([Request::make(Message::NewLink(message))], || format!("make the tunnel {}", wanted.name))
    }

    /// Where a peer's part of an overlay is: a route to it, who answers there, and behind which host that is.
    pub fn set_peer(&self, tunnel: u32, peer: IpAddr, part: Cidr, source: IpAddr) -> Result<()> {
        let route = part_route(tunnel, part, Some(source));
        let [forwarding, neighbour] = entries(tunnel, peer, part).map(Message::NewNeighbour);
        let all = [forwarding, neighbour, Message::NewRoute(route)].map(Request::replace);
        self.ask(all, || format!("tell the way to {part} by {peer}"))
    }

    /// The undoing of that. Gone is fine.
    pub fn remove_peer(&self, tunnel: u32, peer: IpAddr, part: Cidr) -> Result<()> {
        let route = part_route(tunnel, part, None);
        let [forwarding, neighbour] = entries(tunnel, peer, part).map(Message::DelNeighbour);
        for one in [Message::DelRoute(route), neighbour, forwarding] {
            match self.0.ask([Request::of(one)]) {
                Err(err) if !matches!(err.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => {
                    return Err(err).doing(|| format!("forget the way to {part} by {peer}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// An 802.1Q link below another, not up yet.
    pub fn add_vlan(&self, name: &str, parent: u32, id: u16, group: u32) -> Result<()> {
        let message = LinkVlan::new(name, parent, id).link_group(group).build();
        self.ask([Request::make(Message::NewLink(message))], || format!("make the link {name}"))
    }

    pub fn set_up(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.ask([Request::of(Message::SetLink(message))], || "turn a link on".to_owned())
    }

    /// Makes a link a port of the bridge again, as it was born, and turns it on.
    pub fn set_bridge(&self, index: u32, bridge: u32, reach: Reach) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).controller(bridge).build();
        self.ask([Request::of(Message::SetLink(message))], || "put a link on the bridge".to_owned())?;
        match reach {
            Reach::All => self.set_up(index),
            Reach::OnlyTheBridge => self.isolate(index),
        }
    }

    /// Lets the bridge send a packet back out of the port that it came in by: what a pod sends to its own published port
    /// comes back so where the firewall translates within the bridge (br_netfilter).
    pub fn set_hairpin(&self, name: &str) -> Result<()> {
        let hairpin = InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]);
        let info = vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(hairpin)];
        let message = LinkUnspec::new_with_name(name).append_extra_attribute(LinkAttribute::LinkInfo(info)).build();
        self.ask([Request::of(Message::NewLink(message))], || format!("set the hairpin mode of {name}"))
    }

    /// Deletes a link and waits for it: tens of milliseconds of RCU, so never on a pod's way out. Gone is fine.
    pub fn delete(&self, name: &str) -> Result<()> {
        let Ok(index) = crate::sys::net::link_index(name) else { return Ok(()) };
        self.delete_link(index, name)
    }

    fn delete_link(&self, index: u32, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.0.ask([Request::of(Message::DelLink(message))]) {
            Err(err) if err.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other.map(drop).doing(|| format!("delete the link {name}")),
        }
    }

    /// The same by the name that it has in this connection's network namespace.
    pub fn delete_named(&self, name: &str) -> Result<()> {
        self.find(name)?.map_or(Ok(()), |link| self.delete_link(link.index, name))
    }

    /// A link by its name in this connection's network namespace.
    pub fn find(&self, name: &str) -> Result<Option<Link>> {
        match self.0.ask([Request::of(Message::GetLink(called(name)))]) {
            Err(err) if err.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            found => found.doing(|| format!("find the link {name}")).map(|found| links_in(found).next()),
        }
    }

    /// Moves a link to another network namespace, and names it there, in one step.
    pub fn give(&self, index: u32, netns: BorrowedFd<'_>, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).setns_by_fd(netns.as_raw_fd()).name(name).build();
        self.ask([Request::of(Message::SetLink(message))], || format!("give the link away as {name}"))
    }

    /// A link's addresses that somebody set and that mean something elsewhere: neither a lease's nor a neighbourhood's.
    pub fn lasting_addresses(&self, index: u32) -> Result<Vec<Cidr>> {
        let all = self.all_addresses()?;
        let lasts = |message: &&AddressMessage| {
            let flags = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Permanent));
            message.header.index == index
                && message.header.scope == AddressScope::Universe
                && message.attributes.iter().any(flags)
        };
        Ok(all.iter().filter(lasts).filter_map(address).collect())
    }

    pub fn links(&self) -> Result<Vec<Link>> {
        let all = Request::all(Message::GetLink(LinkMessage::default()));
        self.0.ask([all]).doing(|| "list the host's links".to_owned()).map(|all| links_in(all).collect())
    }

    fn all_addresses(&self) -> Result<Vec<AddressMessage>> {
        let all = Request::all(Message::GetAddress(AddressMessage::default()));
        let all = self.0.ask([all]).doing(|| "list the host's addresses".to_owned())?;
        let address = |message| match message {
            Message::NewAddress(address) => Some(address),
            _ => None,
        };
        Ok(all.into_iter().filter_map(address).collect())
    }

    /// (link, address) of all addresses; IPv6's link-local ones are every link's.
    pub fn addresses(&self) -> Result<Vec<(u32, Cidr)>> {
        let all = self.all_addresses()?;
        Ok(all.iter().filter_map(|message| Some((message.header.index, address(message)?))).collect())
    }

    /// All routes, of all tables.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let [four, six] = FAMILIES.map(|family| self.0.ask([family()]).doing(|| "list the host's routes".to_owned()));
        // A kernel without IPv6 has no routes of it.
        Ok(four?.iter().chain(&six.unwrap_or_default()).filter_map(route).collect())
    }
}

/// All routes of one family.
const FAMILIES: [fn() -> Request; 2] = [
    || Request::all(Message::GetRoute(RouteMessageBuilder::<Ipv4Addr>::new().build())),
    || Request::all(Message::GetRoute(RouteMessageBuilder::<Ipv6Addr>::new().build())),
];

/// A question for the link of this name.
fn called(name: &str) -> LinkMessage {
    LinkUnspec::new_with_name(name).build()
}

fn links_in(messages: Vec<Message>) -> impl Iterator<Item = Link> {
    messages.into_iter().filter_map(|message| match message {
        Message::NewLink(message) => Some(link(message)),
        _ => None,
    })
}

fn address_message(index: u32, address: Cidr) -> AddressMessage {
    match address.address {
        IpAddr::V4(four) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(four, address.prefix).build(),
        IpAddr::V6(six) => {
            let built = AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(six, address.prefix);
            let mut message = built.build();
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    }
}

/// An address of the pod's, then the way to the others.
fn family_of(index: u32, family: &Family) -> impl Iterator<Item = Message> + use<> {
    let way = family.via.map(|(network, gateway)| onlink(Some(network), gateway, index));
    let out = family.gateway.map(|gateway| match family.via {
        None => default_route(gateway),
        Some(_) => onlink(None, gateway, index),
    });
    let address = Message::NewAddress(address_message(index, family.address));
    std::iter::once(address).chain(way.into_iter().chain(out).map(Message::NewRoute))
}

/// Behind which host a peer's part of an overlay is, and who answers there.
fn entries(tunnel: u32, peer: IpAddr, part: Cidr) -> [NeighbourMessage; 2] {
    let entry = |family, to: IpAddr, flags| {
        let mut message = NeighbourMessage::default();
        (message.header.family, message.header.ifindex) = (family, tunnel);
        (message.header.state, message.header.flags) = (NeighbourState::Permanent, flags);
        let to = match to {
            IpAddr::V4(four) => NeighbourAddress::Inet(four),
            IpAddr::V6(six) => NeighbourAddress::Inet6(six),
        };
        let mac = NeighbourAttribute::LinkLayerAddress(Mac::vxlan(part).0.to_vec());
        message.attributes = vec![NeighbourAttribute::Destination(to), mac];
        message
    };
    let gate = gate_of(part);
    let family = if gate.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    [entry(AddressFamily::Bridge, peer, NeighbourFlags::Own), entry(family, gate, NeighbourFlags::empty())]
}

/// One queue each: a veth hands a packet over without a lock and without a queue's wait, so more of them, one for each
/// CPU by default, only cost time at its birth and death (8 % with two CPUs).
fn pair(veth: &Veth<'_>) -> LinkMessage {
    let peer = LinkMessageBuilder::<LinkUnspec>::default()
        .name(veth.peer)
        .address(veth.peer_mac.0.to_vec())
        .mtu(veth.mtu)
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
        .setns_by_fd(veth.netns.as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new(veth.name, veth.peer)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .address(veth.mac.0.to_vec())
        .mtu(veth.mtu)
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1));
    match veth.end {
        // Up only when it is isolated: before, it would reach others for a moment.
        End::Port { bridge, reach: Reach::OnlyTheBridge } => pair.controller(bridge),
        End::Port { bridge, reach: Reach::All } => pair.controller(bridge).up(),
        End::Routed { group } => pair.link_group(group).up(),
    }
    .build()
}

/// The names that keep its addresses from being leased again.
fn second_names(veth: &Veth<'_>) -> LinkMessage {
    let names = veth.second_names.iter().cloned().map(Prop::AltIfName).collect();
    let mut message = called(veth.name);
    message.attributes.push(LinkAttribute::PropList(names));
    message
}

/// The host's end is a port and nobody's address: without a link-local one it is silent, too.
fn finish(veth: &Veth<'_>) -> LinkMessage {
    let message = LinkUnspec::new_with_name(veth.name).alias(veth.alias);
    let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    match veth.ipv6 {
        Ipv6::Known if veth.mtu >= LEAST_OF_IPV6 => {
            message.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_address]))
        }
        Ipv6::Known | Ipv6::Unknown => message,
    }
    .build()
}

/// The next hop towards a part of an overlay: any of its addresses would do, since who has it is said, never asked.
fn gate_of(part: Cidr) -> IpAddr {
    part.nth(*part.hosts().start())
}

fn part_route(tunnel: u32, part: Cidr, source: Option<IpAddr>) -> RouteMessage {
    let mut route = onlink(Some(part), gate_of(part), tunnel);
    // What the host itself says to a pod comes from its own part, not from the tunnel, which has no address.
    if let Some(IpAddr::V4(source)) = source {
        route.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
    }
    route
}

fn default_route(gateway: IpAddr) -> RouteMessage {
    match gateway {
        IpAddr::V4(four) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(four).build(),
        IpAddr::V6(six) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(six).build(),
    }
}

/// By an interface whose prefix does not tell that the gateway is there.
fn onlink(to: Option<Cidr>, gateway: IpAddr, link: u32) -> RouteMessage {
    let to = to.map(Cidr::network);
    match gateway {
        IpAddr::V4(four) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(four).output_interface(link).onlink();
            match to {
                Some(Cidr { address: IpAddr::V4(address), prefix }) => route.destination_prefix(address, prefix),
                _ => route,
            }
            .build()
        }
        IpAddr::V6(six) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(six).output_interface(link).onlink();
            match to {
                Some(Cidr { address: IpAddr::V6(address), prefix }) => route.destination_prefix(address, prefix),
                _ => route,
            }
            .build()
        }
    }
}

fn macvlan_mode(mode: MacvlanMode) -> rtnetlink::packet_route::link::MacVlanMode {
    use rtnetlink::packet_route::link::MacVlanMode;
    match mode {
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Private => MacVlanMode::Private,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
    }
}

fn ipvlan_mode(mode: IpvlanMode) -> rtnetlink::packet_route::link::IpVlanMode {
    use rtnetlink::packet_route::link::IpVlanMode;
    match mode {
        IpvlanMode::L2 => IpVlanMode::L2,
        IpvlanMode::L3 => IpVlanMode::L3,
        IpvlanMode::L3s => IpVlanMode::L3S,
    }
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        second_names: Vec::new(),
        alias: None,
        bridge: None,
        is_bridge: false,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        group: 0,
        mac: None,
        vlan: None,
    };
    let (mut below, mut number) = (None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(index) => link.bridge = Some(index),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::PropList(names) => link.second_names.extend(names.into_iter().filter_map(second_name)),
            LinkAttribute::Address(octets) => link.mac = octets.try_into().ok().map(Mac),
            LinkAttribute::Link(index) => below = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
                number = infos.iter().find_map(vlan_number);
            }
            _ => {}
        }
    }
    link.vlan = below.zip(number);
    link
}

fn vlan_number(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(all)) = info else { return None };
    all.iter().find_map(|one| match one {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

fn second_name(property: Prop) -> Option<String> {
    match property {
        Prop::AltIfName(name) => Some(name),
        _ => None,
    }
}

fn address(message: &AddressMessage) -> Option<Cidr> {
    let prefix = message.header.prefix_len;
    let of = |address: &IpAddr| Some(Cidr { address: *address, prefix }).filter(|cidr| !is_every_links(*cidr));
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(address),
        _ => None,
    });
    // IPv6 says IFA_LOCAL only where there is a peer.
    let own = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address @ IpAddr::V6(_)) => Some(address),
        _ => None,
    });
    local.or(own).and_then(of)
}

/// Link-local and multicast ranges of IPv6 are on every link, and nobody's.
fn is_every_links(cidr: Cidr) -> bool {
    match cidr.address {
        IpAddr::V6(six) => six.is_unicast_link_local() || six.is_multicast(),
        IpAddr::V4(_) => false,
    }
}

fn route(message: &Message) -> Option<Route> {
    let Message::NewRoute(message) = message else { return None };
    let anywhere = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut route =
        Route { to: Cidr { address: anywhere, prefix: message.header.destination_prefix_length }, by: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => route.to.address = (*to).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(to)) => route.to.address = (*to).into(),
            RouteAttribute::Oif(link) => route.by = Some(*link),
            _ => {}
        }
    }
    Some(route).filter(|route| !is_every_links(route.to))
}

/// What a full bridge answers: it has room for 1023 ports (BR_MAX_PORTS).
pub fn is_full(err: &Error) -> bool {
    err.kind == Kind::Kernel && err.cause() == nix::errno::Errno::EXFULL.desc()
}
