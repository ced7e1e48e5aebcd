//! Networks as objects: made, described, removed; and pods that are connected to them and disconnected while they run.
//!
//! Pods that joined each other's network namespace (`pod:NAME`) are connected together: what one is on, all are on.

#![forbid(unsafe_code)]

use super::client;
use super::create;
use super::find::Pod;
use super::heal::{self, Served};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::{NetworkName, PodId};
use crate::monitor::socket::Request;
use crate::net::bridge;
use crate::net::cidr::Cidr;
use crate::net::definition::{self, Definition};
use crate::net::{self, Attachment, Prune, cni, files, names};
use crate::roots::Roots;
use crate::spec::Network;
use crate::spec::network::Attach;
use crate::store::{self, Locked, Networks};
use crate::sys::fd;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Whether a network is to have an IPv6 range without being told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Six {
    AsSaid,
    Chosen,
}

/// Writes down what a network is to be; its first pod makes it.
pub fn create(roots: &Roots, name: &NetworkName, definition: Definition, six: Six) -> Result<Definition> {
    definition::check_name(name)?;
    let bad = |cause: String| Error::new(Kind::Usage, format!("create the network {name}"), cause);
    let mut definition = definition;
    if six == Six::Chosen && definition.subnet6.is_none() {
        if definition.driver.hangs_on_a_link() {
            let driver = definition.driver.word();
            return Err(bad(format!("ipv6: {driver} needs the IPv6 range of the network behind its link"))
                .hint("give it by one more --subnet"));
        }
        definition.subnet6 = Some(unique_local()?);
    }
    definition.check().map_err(bad)?;
    store::make_private_dir(&roots.run, 0o711)?;
    store::make_private_dir(&roots.root, 0o700)?;
    bridge::define(roots, name, definition)
}

/// A range that is nobody else's: 40 random bits below fd00::/8 (RFC 4193, 3.2).
fn unique_local() -> Result<Cidr> {
    let bits: [u8; 5] = fd::random().doing(|| "choose an IPv6 range".into())?;
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&bits);
    Ok(Cidr { address: Ipv6Addr::from(octets).into(), prefix: 64 })
}

/// The names of all networks, those that podrun has by itself first.
pub fn names(roots: &Roots) -> Result<Vec<String>> {
    let built_in = definition::BUILT_IN.iter().map(|(name, _)| (*name).to_owned());
    let by_plugins = cni::all().into_iter().map(|(_, chain)| cni::title(&chain.name));
    Ok(built_in.chain(definition::names(roots)?).chain(by_plugins).collect())
}

/// Every pod on a network, with its interface there.
pub fn pods_on(roots: &Roots, network: &str) -> Vec<(Pod, Attachment)> {
    let all = all_pods(roots).into_iter().filter_map(|pod| {
        let on = pod.attachments().into_iter().find(|one| one.network == network)?;
        Some((pod, on))
    });
    all.collect()
}

fn all_pods(roots: &Roots) -> Vec<Pod> {
    let whole = |(_, dir, record): (PodId, store::PodDir, Result<store::PodRecord>)| {
        Some(Pod { roots: roots.clone(), dir, record: record.ok()? })
    };
    store::pods(roots).into_iter().filter_map(whole).collect()
}

/// The ranges of a network: as they are, or as they will be.
fn ranges(roots: &Roots, name: &str, definition: &Definition) -> Vec<Value> {
    let made = bridge::all_remembered(roots).unwrap_or_default().into_iter().find(|network| network.name == name);
    if let Some(network) = made {
        let four = json!({"subnet": network.subnet, "gateway": network.gateway, "range": network.range});
        let six = network.six.map(|six| json!({"subnet": six.subnet, "gateway": six.gateway, "range": six.range}));
        return [four].into_iter().chain(six).collect();
    }
    let gateway = |wish: definition::Wish| wish.gateway.unwrap_or(wish.subnet.nth(*wish.subnet.hosts().start()));
    let said = |wish: definition::Wish| json!({"subnet": wish.subnet.network(), "gateway": gateway(wish), "range": wish.range});
    definition.wishes().map(said).collect()
}

/// A network of plugins: what its configuration says, and podrun's own pods on it.
fn inspect_plugins(roots: &Roots, name: &str, which: &str) -> Result<Value> {
    let (file, chain) = match cni::all().into_iter().find(|(_, chain)| chain.name == which) {
        Some((file, chain)) => (Some(file), chain),
        // A path, or the words of why there is none.
        None => (None, cni::find(which)?),
    };
    Ok(json!({
        "name": name,
        "driver": definition::Driver::Cni.word(),
        "file": file,
        "cniVersion": chain.version,
        "plugins": chain.plugins.iter().map(|plugin| &plugin.kind).collect::<Vec<_>>(),
        "subnets": [],
        "pods": shown_pods(roots, &cni::title(&chain.name)),
    }))
}

/// `podrun network inspect NAME`.
pub fn inspect(roots: &Roots, name: &str) -> Result<Value> {
    if let Some(which) = name.strip_prefix("cni:") {
        return inspect_plugins(roots, name, which);
    }
    let definition = definition::find(roots, name)?;
    let bridge = roots.bridge_of(name);
    Ok(json!({
        "name": name,
        "driver": definition.driver,
        "bridge": definition.driver.has_a_bridge().then_some(bridge),
        "subnets": ranges(roots, name, &definition),
        "mtu": bridge::remembered(roots, name).map(|network| network.mtu).or(definition.mtu),
        "internal": definition.internal,
        "isolate": definition.isolate,
        "masquerade": definition.masquerade && !definition.internal,
        "icc": definition.icc,
        "stp": definition.stp,
        "overlay": net::overlay::Overlay::of(roots, name, &definition),
        "nameServer": name_server(roots, name),
        "parent": definition.parent,
        "mode": definition.mode,
        "vlan": definition.vlan,
        "hostBinding": definition.host_binding,
        "labels": definition.labels,
        "createdAt": definition.created_at,
        "pods": shown_pods(roots, name),
    }))
}

/// Changes the peers of an overlay, at once where it is made already. Says what it is from now on.
pub fn change_peers(
    roots: &Roots,
    name: &str,
    change: impl FnOnce(&mut BTreeMap<IpAddr, Cidr>) -> Result<(), String>,
) -> Result<()> {
    bridge::redefine(roots, name, |definition| match definition.driver {
        definition::Driver::Vxlan => change(&mut definition.peers),
        other => Err(format!("only an overlay has peers, its driver is {}, not vxlan", other.word())),
    })
}

fn shown_pods(roots: &Roots, network: &str) -> Vec<Value> {
    let pods = pods_on(roots, network).into_iter().map(|(pod, on)| {
        json!({
            "name": pod.record.name,
            "namespace": pod.record.namespace,
            "id": pod.record.id,
            "interface": on.interface,
            "hostInterface": on.host_interface,
            "mac": on.mac,
            "addresses": on.addresses,
        })
    });
    pods.collect()
}

fn name_server(roots: &Roots, network: &str) -> Option<Value> {
    match names::look(roots, network) {
        Ok(names::Look::There { record, .. }) => Some(json!({"pid": record.pid, "addresses": record.addresses})),
        _ => None,
    }
}

/// What is to happen to the pods of a network that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    Keep,
    Disconnect,
}

/// Removes a network that nobody made last: its definition, and what is on the host for it. Says what went with it.
pub fn remove(roots: &Roots, name: &str, users: Users) -> Result<Vec<String>> {
    let doing = format!("remove the network {name}");
    if cni::is_title(name) {
        return Err(
            Error::new(Kind::Usage, doing, "it is of CNI plugins").hint("its configuration is an administrator's file")
        );
    }
    if definition::is_built_in(name) {
        return Err(Error::new(Kind::Usage, doing, "it is podrun's own")
            .hint("`podrun prune --force` removes what it has on the host when no pod uses it"));
    }
    if !definition::file(roots, name).exists() {
        // The same words as everywhere.
        definition::find(roots, name)?;
    }
    mend(roots, Prune::Now)?;
    let mut said = Vec::new();
    let on_it = pods_on(roots, name);
    if users == Users::Keep && !on_it.is_empty() {
        let titles: Vec<String> = on_it.iter().map(|(pod, _)| pod.record.title()).collect();
        return Err(Error::new(Kind::NotNow, doing, format!("in use by {}", titles.join(", ")))
            .hint(format!("delete those pods, or `podrun network rm --force {name}` disconnects them")));
    }
    for (pod, on) in on_it {
        // One that joined another's network went with it.
        if pod.attachments().iter().any(|one| one.network == name) {
            let (_, warnings) = disconnect(&pod, name)?;
            said.extend(warnings);
        }
        let addresses: Vec<String> = on.addresses.iter().map(|one| one.address.to_string()).collect();
        said.push(format!("pod/{} disconnected, {}", pod.record.title(), addresses.join(", ")));
    }
    net::remove_network(roots, name, &|pod| roots.pod(pod).exists()).map_err(|err| err.within(doing))?;
    Ok(said)
}

/// Mends what a change of ports that was killed has left: ports that were taken and lead nowhere yet, and, since nobody was told,
/// something that holds `::1` for ports that were given up. A monitor that does not answer now does so later; nobody waits for it.
pub fn mend_ports(roots: &Roots) -> Result<()> {
    let mut asked = Vec::new();
    for pod in all_pods(roots).into_iter().filter(|pod| pod.record.network.is_own()) {
        if !matches!(heal::look(&pod), Served::Yes) || heal::is_fragile(&pod) {
            continue;
        }
        open_taken(&pod)?;
        // One of an earlier build knows no such request, and one that goes away needs none.
        if let Ok(client) = client::Client::connect(&pod)
            && client.ask(&Request::Ports, &[]).is_ok()
        {
            asked.push(client);
        }
    }
    let until = Instant::now() + Duration::from_millis(500);
    while !asked.is_empty() && Instant::now() < until {
        asked.retain(|client| !client.has_reply().unwrap_or(true));
        std::thread::sleep(Duration::from_millis(if asked.is_empty() { 0 } else { 1 }));
    }
    Ok(())
}

fn open_taken(pod: &Pod) -> Result<()> {
    let is_shut = || net::ports::read(&pod.roots, &pod.record.id).is_some_and(|published| published.bridge.is_none());
    if !is_shut() || pod.attachments().iter().any(|one| one.driver == definition::Driver::Cni) {
        return Ok(());
    }
    let _lock = store::lock(&pod.dir)?;
    match is_shut() && pod.dir.record().exists() {
        true => net::ports::open(&pod.roots, &pod.record.id, &pod.attachments()),
        false => Ok(()),
    }
}

/// CHECK of every pod on networks of plugins: whose, on which network, and what its plugins say.
pub fn check_plugins(roots: &Roots) -> Vec<(String, String, Result<()>)> {
    let mut said = Vec::new();
    for pod in all_pods(roots) {
        // One that shares another's network is looked at with that, while it is there.
        let other = pod.record.network_of.as_ref().filter(|other| roots.pod(other).exists());
        if other.is_some() || cni::held_by(roots, &pod.record.id).is_empty() {
            continue;
        }
        let title = pod.record.title();
        let looked = Together::with(&pod).and_then(|together| Ok((create::network_namespace(&pod)?, together)));
        match looked {
            Ok((netns, _together)) => {
                let all = cni::check(roots, &pod.record.id, netns.as_fd()).into_iter();
                said.extend(all.map(|(network, done)| (title.clone(), network, done)));
            }
            Err(err) => said.push((title, "its CNI networks".to_owned(), Err(err))),
        }
    }
    said
}

/// What a connect or disconnect that was killed has left: a pod's lease of a network that its record does not say. Says
/// what went, or would go.
pub fn mend(roots: &Roots, how: Prune) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for pod in all_pods(roots) {
        for network in half_connected(&pod)? {
            said.push(format!("the half connection of {} to {network}", pod.record.title()));
            if how == Prune::Now {
                let _together = Together::with(&pod)?;
                // Whoever held the lock before may have been about to write it down.
                if !pod.attachments().iter().any(|one| one.network == network) {
                    let netns = create::network_namespace(&pod)?;
                    net::detach_from(roots, &network, &pod.record.id, netns.as_fd())?;
                }
            }
        }
    }
    Ok(said)
}

/// Networks that the pod has a lease of, and no interface by its record.
fn half_connected(pod: &Pod) -> Result<Vec<String>> {
    let mut leased = net::held_by(&pod.roots, &pod.record.id)?;
    if leased.is_empty() || store::is_locked(&pod.dir) || matches!(heal::look(pod), Served::Lost) {
        return Ok(Vec::new());
    }
    let on = pod.attachments();
    leased.retain(|network| !on.iter().any(|one| one.network == *network));
    Ok(leased)
}

/// The pods in one network namespace, with their locks: nobody makes, deletes or connects one of them meanwhile.
struct Together {
    pods: Vec<Pod>,
    _locks: Vec<Locked>,
}

impl Together {
    fn with(pod: &Pod) -> Result<Self> {
        loop {
            let pods = Self::members(pod);
            let locks = pods.iter().map(|pod| store::lock(&pod.dir)).collect::<Result<Vec<_>>>();
            // One that joined before the locks were ours would be left out, and one that went could not be locked.
            let now = Self::members(pod);
            if now.iter().map(|pod| &pod.record.id).eq(pods.iter().map(|pod| &pod.record.id)) {
                return Ok(Self { pods, _locks: locks? });
            }
        }
    }

    /// Always in the same order, so that two who connect do not wait for each other.
    fn members(pod: &Pod) -> Vec<Pod> {
        let owner = |record: &store::PodRecord| record.network_of.clone().unwrap_or(record.id.clone());
        let mut pods: Vec<Pod> = all_pods(&pod.roots);
        pods.retain(|other| owner(&other.record) == owner(&pod.record));
        pods.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        pods
    }

    fn ids(&self) -> Vec<PodId> {
        self.pods.iter().map(|pod| pod.record.id.clone()).collect()
    }

    /// All of them hold what one of them holds.
    fn join(&self, roots: &Roots, network: &str, pod: &PodId) -> Result<()> {
        fault::step("network.connected").doing(|| "share the lease".into())?;
        self.ids().iter().filter(|id| *id != pod).try_for_each(|id| net::join(roots, network, pod, id))
    }

    /// Published ports lead by the interfaces that there will be.
    fn lead_ports(&self, roots: &Roots, after: &[Attachment]) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for pod in &self.pods {
            if net::ports::of(roots, &pod.record.id).is_empty() {
                continue;
            }
            let closed = net::ports::follow(roots, &pod.record.id, after)?;
            let title = pod.record.title();
            let say =
                |port| format!("the port {port} of {title} is closed: it is on no other network that it could lead by");
            warnings.extend(closed.iter().map(say));
            // For `::1`. One of an earlier build knows no such request.
            let _ = client::command(pod, &Request::Ports);
        }
        Ok(warnings)
    }

    /// Records and /etc/hosts say what there is now.
    fn write(&self, before: &[Attachment], after: &[Attachment]) -> Result<()> {
        let addresses = |all: &[Attachment]| -> Vec<IpAddr> {
            all.iter().flat_map(|one| &one.addresses).map(|cidr| cidr.address).collect()
        };
        let (old, new) = (addresses(before), addresses(after));
        for pod in &self.pods {
            store::write(&pod.dir.networks(), &Networks::new(after.to_vec()))?;
            rewrite(&pod.dir.0.join("hosts"), |text| files::hosts_with(text, &old, &new, &pod.record.hostname))?;
            rewrite_resolv_conf(pod, before, after)?;
            // Its monitor keeps the name servers of its networks. One of an earlier build knows no such request.
            let _ = client::command(pod, &Request::Networks);
        }
        fault::step("network.recorded").doing(|| "write the pod's networks".into())
    }
}

/// In place: containers have this very file mounted, so another one in its place would be nobody's.
fn rewrite(path: &Path, change: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let text = change(&std::fs::read_to_string(path).doing(doing)?)?;
    let mut file = OpenOptions::new().write(true).open(path).doing(doing)?;
    file.write_all(text.as_bytes()).and_then(|()| file.set_len(text.len() as u64)).doing(doing)
}

/// Whom the pod asks for names follows its networks.
fn rewrite_resolv_conf(pod: &Pod, before: &[Attachment], after: &[Attachment]) -> Result<()> {
    let asks = &pod.record.names.servers;
    let server = |all: &[Attachment]| create::name_server(&pod.record.network, asks, all);
    if server(before) == server(after) {
        return Ok(());
    }
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let systemd = || std::fs::read_to_string(files::SYSTEMD).ok();
    rewrite(&pod.dir.0.join("resolv.conf"), |text| {
        Ok(files::resolv_conf_with(text, &host, systemd, asks, server(after)))
    })
}

/// What podrun does not wire it does not change.
fn refuse_foreign(pod: &Pod, doing: &str) -> Result<()> {
    let cause = match pod.record.network {
        Network::Host => "its network is the host's",
        Network::Netns(_) => "its network namespace is somebody else's",
        _ => return Ok(()),
    };
    Err(Error::new(Kind::Invalid, doing, cause))
}

/// A pod that joined another's network is on what that one was connected to while it was being made.
pub fn catch_up(pod: &Pod, neighbour: &Pod) -> Result<()> {
    // Under the locks: who connects the neighbour now has not seen this pod, and writes down at the end what there is.
    let together = Together::with(pod)?;
    let (before, now) = (pod.attachments(), neighbour.attachments());
    if before == now {
        return Ok(());
    }
    for on in now.iter().filter(|on| !before.contains(on)) {
        net::join(&pod.roots, &on.network, &neighbour.record.id, &pod.record.id)?;
    }
    for off in before.iter().filter(|off| !now.contains(off)) {
        net::leave(&pod.roots, &off.network, &pod.record.id)?;
    }
    together.write(&before, &now)
}

/// Puts a running pod on one more network.
pub fn connect(pod: &Pod, wish: &Attach) -> Result<(Attachment, Vec<String>)> {
    let doing = format!("connect the pod {} to {}", pod.record.title(), wish.network);
    refuse_foreign(pod, &doing)?;
    if wish.is_alone() {
        return Err(Error::new(Kind::Usage, doing, "that is all of a pod's network, and chosen when the pod is made"));
    }
    heal::ensure_served(pod)?;
    let together = Together::with(pod)?;
    let before = net::made(&pod.roots)?;
    connect_all(pod, &together, wish).map_err(|err| {
        let _ = net::take_back(&pod.roots, &before);
        err.within(doing)
    })
}

fn connect_all(pod: &Pod, together: &Together, wish: &Attach) -> Result<(Attachment, Vec<String>)> {
    let netns = create::network_namespace(pod)?;
    let before = pod.attachments();
    let network = net::name_of(&pod.roots, wish)?;
    if !before.iter().any(|one| one.network == network) {
        // What a connect that was killed has left.
        together.ids().iter().try_for_each(|id| net::detach_from(&pod.roots, &network, id, netns.as_fd()))?;
    }
    let title = pod.record.title();
    let asks = cni::Asks::default();
    let who = net::Pod {
        id: &pod.record.id,
        title: &title,
        netns: netns.as_fd(),
        beside: &before,
        asks: &asks,
        names: &pod.record.names,
    };
    let (made, warnings) = net::attach(&pod.roots, &who, std::slice::from_ref(wish))?;
    let after: Vec<Attachment> = before.iter().chain(&made).cloned().collect();
    let told = together.join(&pod.roots, &network, &pod.record.id).and_then(|()| together.write(&before, &after));
    if let Err(err) = told {
        let _ = together.write(&after, &before);
        for one in &made {
            let _ = net::disconnect(&pod.roots, one, &together.ids(), Some(netns.as_fd()));
        }
        return Err(err);
    }
    let made = made.into_iter().next().ok_or_else(|| Error::new(Kind::Kernel, "attach the pod", "nothing was made"))?;
    Ok((made, warnings))
}

/// Takes a running pod off a network: the whole interface, with addresses, routes and names. Published ports that led by it
/// lead by another from now on; which do not, the warnings say.
pub fn disconnect(pod: &Pod, network: &str) -> Result<(Attachment, Vec<String>)> {
    let doing = format!("disconnect the pod {} from {network}", pod.record.title());
    refuse_foreign(pod, &doing)?;
    let together = Together::with(pod)?;
    let before = pod.attachments();
    let Some(gone) = before.iter().find(|one| one.network == network).cloned() else {
        let on: Vec<&str> = before.iter().map(|one| one.network.as_str()).collect();
        let err = Error::new(Kind::NotFound, doing, "the pod is not on this network");
        return Err(match on.is_empty() {
            true => err,
            false => err.hint(format!("it is on {}", on.join(", "))),
        });
    };
    let after: Vec<Attachment> = before.iter().filter(|one| one.network != network).cloned().collect();
    let warnings = disconnect_all(pod, &together, &gone, &before, after).map_err(|err| err.within(doing))?;
    Ok((gone, warnings))
}

fn disconnect_all(
    pod: &Pod,
    together: &Together,
    gone: &Attachment,
    before: &[Attachment],
    mut after: Vec<Attachment>,
) -> Result<Vec<String>> {
    let netns: Option<OwnedFd> = match heal::look(pod) {
        // Its namespaces are gone, and what was in them.
        Served::Lost => None,
        _ => Some(create::network_namespace(pod)?),
    };
    // First what others are to find there, so that at no moment is it nowhere.
    if gone.default_route
        && let Some(next) = after.iter_mut().find(|one| !one.gateways().is_empty())
    {
        if let Some(netns) = &netns {
            net::give_way_out(netns.as_fd(), next)?;
        }
        next.default_route = true;
    }
    let warnings = together.lead_ports(&pod.roots, &after)?;
    fault::point("network.ports-moved");
    net::disconnect(&pod.roots, gone, &together.ids(), netns.as_ref().map(AsFd::as_fd))?;
    fault::point("network.disconnected");
    together.write(before, &after)?;
    Ok(warnings)
}
