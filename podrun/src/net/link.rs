//! rtnetlink(7): links, addresses and routes. Everything that is async stays in this file: outward it blocks.
//!
//! A netlink socket belongs to the network namespace of the thread that opened it, so there is one for the host and
//! one for the pod, opened while the thread is in the pod's namespace. Messages that do not need each
//! other's answers are sent one after the other and waited for together.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::net::cidr::{Cidr, Mac};
use crate::spec::network::{IpvlanMode, MacvlanMode};
use futures_util::future::{try_join, try_join3};
use futures_util::stream::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop,
};
use rtnetlink::packet_route::neighbour::NeighbourFlags;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkIpVlan, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVlan,
    LinkVxlan, RouteMessageBuilder,
};
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use tokio::runtime::{Builder, Runtime};

/// A connection to the kernel, in one network namespace.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

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
        Self::open().doing(|| "open a netlink socket".to_owned())
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

    fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = {
            let _context = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, rtnetlink::Error>>,
        doing: impl FnOnce() -> String,
    ) -> Result<T> {
        self.runtime.block_on(answer).map_err(errno).doing(doing)
    }

    /// The pair, the host's end on the bridge and up, the peer born in the pod's namespace (not up: veth(4) has no
    /// carrier to give before both ends exist). RTM_NEWLINK ignores an alias, so that comes with a second message.
    pub fn add_veth(&self, veth: &Veth<'_>) -> Result<()> {
        let links = self.handle.link();
        let names: Vec<&str> = veth.second_names.iter().map(String::as_str).collect();
        let mut naming = links.property_add(0).alt_ifname(&names);
        naming.message_mut().attributes.push(LinkAttribute::IfName(veth.name.to_owned()));
        let all = try_join3(links.add(pair(veth)).execute(), naming.execute(), links.set(finish(veth)).execute());
        self.wait(all, || format!("make the link {}", veth.name))?;
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
        self.wait(self.handle.link().set_port(message).execute(), || "isolate a port of the bridge".to_owned())?;
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
        self.wait(self.handle.link().add(message).execute(), || format!("make the interface {}", wanted.name))
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
        self.wait(self.handle.route().add(route).execute(), || format!("route {to} to the pod"))
    }

    /// The pod's side: the interface up, its addresses, and the way out. No duplicate address detection: podrun leased
    /// the addresses, so nobody else has them.
    pub fn configure(&self, interface: &str, families: &[Family]) -> Result<()> {
        let links = self.handle.link();
        let configured = async {
            let up = links.set(LinkUnspec::new_with_name(interface).up().build()).execute();
            let found = links.get().match_name(interface.to_owned()).execute().try_collect::<Vec<_>>();
            let ((), found) = try_join(up, found).await?;
            let index = found.first().map_or(0, |link| link.header.index);
            for family in families {
                let address = self.add_address_request(index, family.address);
                try_join(address, self.add_routes(index, family)).await?;
            }
            Ok(())
        };
        let said = families.first().map(|family| family.address.to_string()).unwrap_or_default();
        self.wait(configured, || format!("give {interface} the address {said}"))
    }

    async fn add_routes(&self, index: u32, family: &Family) -> Result<(), rtnetlink::Error> {
        if let Some((network, gateway)) = family.via {
            self.handle.route().add(onlink(Some(network), gateway, index)).execute().await?;
        }
        match (family.gateway, family.via) {
            (Some(gateway), None) => self.handle.route().add(default_route(gateway)).execute().await,
            (Some(gateway), Some(_)) => self.handle.route().add(onlink(None, gateway, index)).execute().await,
            (None, _) => Ok(()),
        }
    }

    /// The way out, by an interface that is there, in the place of any other: at no moment is there none.
    pub fn set_default_routes(&self, interface: &str, gateways: &[IpAddr]) -> Result<()> {
        let links = self.handle.link();
        let added = async {
            let found = links.get().match_name(interface.to_owned()).execute().try_collect::<Vec<_>>().await?;
            let index = found.first().map_or(0, |link| link.header.index);
            for gateway in gateways {
                self.handle.route().add(onlink(None, *gateway, index)).replace().execute().await?;
            }
            Ok(())
        };
        self.wait(added, || format!("route by {interface}"))
    }

    /// Takes away every default route by an interface, which is there; none is fine.
    pub fn delete_default_routes(&self, interface: &str) -> Result<()> {
        let index = self.links()?.into_iter().find(|link| link.name == interface).map_or(0, |link| link.index);
        let by_it = |route: &RouteMessage| {
            let by = route.attributes.iter().any(|one| matches!(one, RouteAttribute::Oif(oif) if *oif == index));
            by && route.header.destination_prefix_length == 0
        };
        let deleted = async {
            let four = RouteMessageBuilder::<Ipv4Addr>::new().build();
            let six = RouteMessageBuilder::<Ipv6Addr>::new().build();
            for family in [four, six] {
                // A kernel without IPv6 has no routes of it.
                let all: Vec<RouteMessage> =
                    self.handle.route().get(family).execute().try_collect().await.unwrap_or_default();
                for route in all.into_iter().filter(by_it) {
                    self.handle.route().del(route).execute().await?;
                }
            }
            Ok(())
        };
        self.wait(deleted, || format!("take the default route from {interface}"))
    }

    async fn add_address_request(&self, index: u32, address: Cidr) -> Result<(), rtnetlink::Error> {
        let mut request = self.handle.address().add(index, address.address, address.prefix);
        if address.address.is_ipv6() {
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await
    }

    pub fn add_address(&self, index: u32, address: Cidr) -> Result<()> {
        self.wait(self.add_address_request(index, address), || format!("add the address {address}"))
    }

    /// A bridge, not up yet. Its hardware address is set, so it does not change with the ports that come and go.
    pub fn add_bridge(&self, name: &str, mac: Mac, mtu: u32, stp: Stp) -> Result<()> {
        let message = LinkMessageBuilder::<LinkBridge>::new(name).address(mac.0.to_vec()).mtu(mtu);
        let message = match stp {
            Stp::Off => message,
            Stp::On => message.stp_state(BridgeStpState::KernelStp),
        };
        let message = message.build();
        self.wait(self.handle.link().add(message).execute(), || format!("make the bridge {name}"))
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
        self.wait(self.handle.link().add(message).execute(), || format!("make the tunnel {}", wanted.name))
    }

    /// Where a peer's part of an overlay is: a route to it, who answers there, and behind which host that is.
    pub fn set_peer(&self, tunnel: u32, peer: IpAddr, part: Cidr, source: IpAddr) -> Result<()> {
        let (mac, gate) = (Mac::vxlan(part), gate_of(part));
        let neighbours = self.handle.neighbours();
        let forwarding = neighbours.add_bridge(tunnel, &mac.0).destination(peer).flags(NeighbourFlags::Own).replace();
        let neighbour = neighbours.add(tunnel, gate).link_layer_address(&mac.0).replace();
        let route = self.handle.route().add(part_route(tunnel, part, Some(source))).replace();
        let all = try_join3(forwarding.execute(), neighbour.execute(), route.execute());
        self.wait(all, || format!("tell the way to {part} by {peer}")).map(drop)
    }

    /// The undoing of that. Gone is fine.
    pub fn remove_peer(&self, tunnel: u32, peer: IpAddr, part: Cidr) -> Result<()> {
        let neighbours = self.handle.neighbours();
        let forwarding = neighbours
            .add_bridge(tunnel, &Mac::vxlan(part).0)
            .destination(peer)
            .flags(NeighbourFlags::Own)
            .message_mut()
            .clone();
        let neighbour = neighbours.add(tunnel, gate_of(part)).message_mut().clone();
        let removed = [
            self.runtime.block_on(self.handle.route().del(part_route(tunnel, part, None)).execute()),
            self.runtime.block_on(neighbours.del(neighbour).execute()),
            self.runtime.block_on(neighbours.del(forwarding).execute()),
        ];
        for one in removed.into_iter().filter_map(|one| one.map_err(errno).err()) {
            if !matches!(one.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) {
                return Err(one).doing(|| format!("forget the way to {part} by {peer}"));
            }
        }
        Ok(())
    }

    /// An 802.1Q link below another, not up yet.
    pub fn add_vlan(&self, name: &str, parent: u32, id: u16, group: u32) -> Result<()> {
        let message = LinkVlan::new(name, parent, id).link_group(group).build();
        self.wait(self.handle.link().add(message).execute(), || format!("make the link {name}"))
    }

    pub fn set_up(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.wait(self.handle.link().set(message).execute(), || "turn a link on".to_owned())
    }

    /// Makes a link a port of the bridge again, as it was born, and turns it on.
    pub fn set_bridge(&self, index: u32, bridge: u32, reach: Reach) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).controller(bridge).build();
        self.wait(self.handle.link().set(message).execute(), || "put a link on the bridge".to_owned())?;
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
        self.wait(self.handle.link().set_port(message).execute(), || format!("set the hairpin mode of {name}"))
    }

    /// Deletes a link and waits for it: tens of milliseconds of RCU, so never on a pod's way out. Gone is fine.
    pub fn delete(&self, name: &str) -> Result<()> {
        let Ok(index) = crate::sys::net::link_index(name) else { return Ok(()) };
        match self.runtime.block_on(self.handle.link().del(index).execute()).map_err(errno) {
            Err(err) if err.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other.doing(|| format!("delete the link {name}")),
        }
    }

    /// The same by the name that it has in this connection's network namespace.
    pub fn delete_named(&self, name: &str) -> Result<()> {
        let links = self.handle.link();
        let deleted = async {
            let found = links.get().match_name(name.to_owned()).execute().try_collect::<Vec<_>>().await?;
            match found.first() {
                Some(link) => links.del(link.header.index).execute().await,
                None => Ok(()),
            }
        };
        match self.runtime.block_on(deleted).map_err(errno) {
            Err(err) if err.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other.doing(|| format!("delete the link {name}")),
        }
    }

    /// A link by its name in this connection's network namespace.
    pub fn find(&self, name: &str) -> Result<Option<Link>> {
        let found = self.handle.link().get().match_name(name.to_owned()).execute().map_ok(link).try_collect::<Vec<_>>();
        match self.runtime.block_on(found).map_err(errno) {
            Err(err) if err.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            found => found.doing(|| format!("find the link {name}")).map(|found| found.into_iter().next()),
        }
    }

    /// Moves a link to another network namespace, and names it there, in one step.
    pub fn give(&self, index: u32, netns: BorrowedFd<'_>, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).setns_by_fd(netns.as_raw_fd()).name(name).build();
        self.wait(self.handle.link().set(message).execute(), || format!("give the link away as {name}"))
    }

    /// A link's addresses that somebody set and that mean something elsewhere: neither a lease's nor a neighbourhood's.
    pub fn lasting_addresses(&self, index: u32) -> Result<Vec<Cidr>> {
        let all: Vec<_> =
            self.wait(self.handle.address().get().execute().try_collect(), || "list the host's addresses".to_owned())?;
        let lasts = |message: &&AddressMessage| {
            let flags = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Permanent));
            message.header.index == index
                && message.header.scope == AddressScope::Universe
                && message.attributes.iter().any(flags)
        };
        Ok(all.iter().filter(lasts).filter_map(address).collect())
    }

    pub fn links(&self) -> Result<Vec<Link>> {
        let all = self.handle.link().get().execute().map_ok(link).try_collect();
        self.wait(all, || "list the host's links".to_owned())
    }

    /// (link, address) of all addresses; IPv6's link-local ones are every link's.
    pub fn addresses(&self) -> Result<Vec<(u32, Cidr)>> {
        let all: Vec<_> =
            self.wait(self.handle.address().get().execute().try_collect(), || "list the host's addresses".to_owned())?;
        Ok(all.iter().filter_map(|message| Some((message.header.index, address(message)?))).collect())
    }

    /// All routes, of all tables.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let doing = || "list the host's routes".to_owned();
        let four = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let four: Vec<_> = self.wait(self.handle.route().get(four).execute().try_collect(), doing)?;
        let six = RouteMessageBuilder::<Ipv6Addr>::new().build();
        // A kernel without IPv6 has no routes of it.
        let six: Vec<_> = self.wait(self.handle.route().get(six).execute().try_collect(), doing).unwrap_or_default();
        Ok(four.iter().chain(&six).filter_map(route).collect())
    }
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

/// The host's end is a port and nobody's address: without a link-local one it is silent, too.
fn finish(veth: &Veth<'_>) -> LinkMessage {
    let message = LinkUnspec::new_with_name(veth.name).alias(veth.alias);
    let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    match veth.ipv6 {
        Ipv6::Known => message.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_address])),
        Ipv6::Unknown => message,
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

fn route(message: &RouteMessage) -> Option<Route> {
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

fn errno(err: rtnetlink::Error) -> io::Error {
    match err {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Netlink")
    }
}

/// What a full bridge answers: it has room for 1023 ports (BR_MAX_PORTS).
pub fn is_full(err: &Error) -> bool {
    err.kind == Kind::Kernel && err.cause() == nix::errno::Errno::EXFULL.desc()
}
