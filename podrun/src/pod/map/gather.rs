//! Reads what the picture is of: records, definitions, and the kernel's answer about the host's links. No program is
//! started, and nothing is written.

#![forbid(unsafe_code)]

use super::model;
use super::model::{Container, Device, Interface, Link, Map, Network, Sandbox, State, Whose};
use crate::error::{Error, Kind, Result};
use crate::id::PodId;
use crate::net::definition::{self, Definition};
use crate::net::link::Netlink;
use crate::net::overlay::Overlay;
use crate::net::ranges::Facts;
use crate::net::{self, Attachment, bridge, cidr::Cidr, ports};
use crate::pod::find::Pod;
use crate::pod::view;
use crate::roots::Roots;
use crate::spec;
use crate::spec::network::{IpvlanMode, MacvlanMode};
use crate::store::{self, ContainerRecord, Keepers};

/// The picture, and what could not be read for it.
#[derive(Debug)]
pub struct Seen {
    pub map: Map,
    pub unread: Vec<Error>,
}

/// Everything of this run-root, whatever namespace (Kubernetes' kind) a pod is in: they share the wires.
pub fn look(roots: &Roots) -> Result<Seen> {
    let facts = Facts::look(&Netlink::here()?, None, 0, None, Vec::new())?;
    let (pods, mut unread) = whole_pods(roots);
    let described = descriptions(roots, &mut unread)?;
    let sandboxes = sandboxes(&facts, &pods);
    let networks = networks(&facts, &bridge::all_remembered(roots)?, &described, &sandboxes);
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Seen { map: Map { host, links: links(&facts, &networks), networks, sandboxes }, unread })
}

fn whole_pods(roots: &Roots) -> (Vec<Pod>, Vec<Error>) {
    let (mut pods, mut unread) = (Vec::new(), Vec::new());
    for (id, dir, record) in store::pods(roots) {
        match record {
            Ok(record) => pods.push(Pod { roots: roots.clone(), dir, record }),
            // Being made or deleted at this moment.
            Err(err) if err.kind == Kind::NotFound => {}
            Err(err) => unread.push(err.within(format!("pod {}", id.short()))),
        }
    }
    (pods, unread)
}

/// What users described, by name; one that is broken hides no other.
fn descriptions(roots: &Roots, unread: &mut Vec<Error>) -> Result<Vec<(String, Definition)>> {
    let mut found = Vec::new();
    for name in definition::names(roots)? {
        match definition::find(roots, &name) {
            Ok(definition) => found.push((name, definition)),
            Err(err) => unread.push(err),
        }
    }
    Ok(found)
}

/// Whoever joined another's network is drawn with it, though that one be gone.
fn sandboxes(facts: &Facts, pods: &[Pod]) -> Vec<Sandbox> {
    let mut all: Vec<(Shared, Sandbox)> = Vec::new();
    for pod in pods {
        let shared = Shared::by(pod);
        match all.iter_mut().find(|(other, _)| *other == shared) {
            Some((_, sandbox)) => sandbox.pods.push(shown(pod)),
            None => all.push((shared, sandbox(facts, pod, pods))),
        }
    }
    all.into_iter().map(|(_, sandbox)| sandbox).collect()
}

/// What tells one network namespace from another, by records alone.
#[derive(Debug, PartialEq, Eq)]
enum Shared {
    By(PodId),
    At(std::path::PathBuf),
    Host,
}

impl Shared {
    fn by(pod: &Pod) -> Self {
        match &pod.record.network {
            spec::Network::Host => Self::Host,
            spec::Network::Netns(path) => Self::At(path.clone()),
            _ => Self::By(pod.record.network_of.clone().unwrap_or_else(|| pod.record.id.clone())),
        }
    }
}

fn sandbox(facts: &Facts, pod: &Pod, all: &[Pod]) -> Sandbox {
    let owner = pod.record.network_of.as_ref().and_then(|id| all.iter().find(|other| other.record.id == *id));
    let interfaces: Vec<Interface> = pod.attachments().iter().map(|one| interface(facts, one)).collect();
    let network = match &owner.unwrap_or(pod).record.network {
        spec::Network::Host => Whose::Host,
        spec::Network::Netns(path) => Whose::Netns(path.to_string_lossy().into_owned()),
        spec::Network::Pod(name) if interfaces.is_empty() => Whose::Left(name.to_string()),
        _ => Whose::Own,
    };
    Sandbox { network, interfaces, pods: vec![shown(pod)] }
}

fn interface(facts: &Facts, on: &Attachment) -> Interface {
    Interface {
        network: on.network.clone(),
        driver: on.driver,
        name: on.interface.clone(),
        host_end: on.host_interface.as_deref().map(|name| device(facts, name)),
        addresses: on.addresses.clone(),
        mac: Some(on.mac.clone()).filter(|mac| !mac.is_empty()),
        mtu: on.mtu,
        gateways: if on.default_route { on.gateways() } else { Vec::new() },
    }
}

fn device(facts: &Facts, name: &str) -> Device {
    Device { name: name.to_owned(), state: state(facts, name) }
}

fn state(facts: &Facts, name: &str) -> State {
    match facts.links.iter().find(|link| link.name == name) {
        None => State::Missing,
        Some(link) if !link.up => State::Down,
        Some(link) if !link.carrier => State::NoCarrier,
        Some(_) => State::Up,
    }
}

fn shown(pod: &Pod) -> model::Pod {
    // The state first: looking may mend, and then others keep the pod.
    let state = view::state(pod);
    model::Pod {
        id: pod.record.id.clone(),
        name: pod.record.title(),
        state: state.word(),
        reason: state.why().map(str::to_owned),
        pause: store::read::<Keepers>(&pod.dir.keepers()).ok().map(|keepers| keepers.pause.pid),
        ports: ports::of(&pod.roots, &pod.record.id),
        containers: view::containers(pod).iter().map(container).collect(),
    }
}

fn container(record: &ContainerRecord) -> Container {
    let ended = record.ended.as_ref().filter(|_| !record.state.lives());
    Container {
        name: record.name.to_string(),
        state: record.state.word(),
        pid: record.process.filter(|_| record.state.lives()).map(|process| process.pid),
        exit_code: ended.map(|ended| ended.exit_code),
        reason: ended.map(|ended| ended.reason),
    }
}

/// Those that were made, those that somebody described, and those that only an interface tells of.
fn networks(
    facts: &Facts,
    made: &[bridge::Network],
    described: &[(String, Definition)],
    sandboxes: &[Sandbox],
) -> Vec<Network> {
    let mut all: Vec<Network> = made.iter().map(|network| network_made(facts, network)).collect();
    for (name, definition) in described {
        if all.iter().all(|network| network.name != *name) {
            all.push(network_described(name, definition));
        }
    }
    for interface in sandboxes.iter().flat_map(|sandbox| &sandbox.interfaces) {
        if all.iter().all(|network| network.name != interface.network) {
            all.push(network_told(interface));
        }
    }
    // The default one first, then as they are listed.
    all.sort_by_key(|network| (network.name != bridge::NAME, network.name.clone()));
    all
}

fn network_made(facts: &Facts, network: &bridge::Network) -> Network {
    let four = Cidr { address: network.gateway, prefix: network.subnet.prefix };
    let six = network.six.map(|six| Cidr { address: six.gateway, prefix: six.subnet.prefix });
    Network {
        name: network.name.clone(),
        driver: network.driver,
        parent: None,
        mode: None,
        bridge: network.bridge.as_deref().map(|name| device(facts, name)),
        addresses: [four].into_iter().chain(six).collect(),
        internal: network.policy.internal,
        masquerade: network.policy.masquerade && !network.policy.internal,
        made: true,
        tunnel: network.overlay.as_ref().map(|overlay| device(facts, &overlay.device)),
        overlay: network.overlay.clone(),
        others: 0,
    }
}

fn network_described(name: &str, definition: &Definition) -> Network {
    Network {
        name: name.to_owned(),
        driver: definition.driver,
        parent: definition.parent.clone(),
        mode: mode(definition).map(str::to_owned),
        bridge: None,
        addresses: definition.wishes().map(|wish| wish.subnet.network()).collect(),
        internal: definition.internal,
        masquerade: definition.masquerade && !definition.internal && !definition.driver.hangs_on_a_link(),
        // Of one that hangs on a link there is nothing to be made but the pods' interfaces.
        made: definition.driver.hangs_on_a_link(),
        tunnel: None,
        overlay: None::<Overlay>,
        others: 0,
    }
}

fn mode(definition: &Definition) -> Option<&'static str> {
    match definition.driver {
        definition::Driver::Macvlan => word(&MacvlanMode::ALL, definition.macvlan().mode),
        definition::Driver::Ipvlan => word(&IpvlanMode::ALL, definition.ipvlan().mode),
        _ => None,
    }
}

fn word<Mode: PartialEq>(all: &[(&'static str, Mode)], mode: Mode) -> Option<&'static str> {
    all.iter().find(|(_, known)| *known == mode).map(|(word, _)| *word)
}

/// Of `macvlan:parent=IF` there is no definition, and its name says the link: `macvlan.IF`.
fn network_told(interface: &Interface) -> Network {
    let parent = interface.network.split_once('.').map(|(_, parent)| parent.to_owned());
    Network {
        name: interface.network.clone(),
        driver: interface.driver,
        parent: parent.filter(|_| interface.driver.hangs_on_a_link()),
        mode: None,
        bridge: None,
        addresses: Vec::new(),
        internal: false,
        masquerade: false,
        made: true,
        tunnel: None,
        overlay: None,
        others: 0,
    }
}

/// Those that a route without a prefix leads out by, and those that something hangs on.
fn links(facts: &Facts, networks: &[Network]) -> Vec<Link> {
    let ways: Vec<u32> =
        facts.routes.iter().filter(|route| route.to.prefix == 0).filter_map(|route| route.by).collect();
    let is_parent = |name: &str| networks.iter().any(|network| network.parent.as_deref() == Some(name));
    let mut found: Vec<Link> = Vec::new();
    // The kernel's own route for what IPv6 has no way to is by lo.
    let leads_out = |link: &net::link::Link| ways.contains(&link.index) && link.name != "lo";
    for link in facts.links.iter().filter(|link| leads_out(link) || is_parent(&link.name)) {
        let own = facts.addresses.iter().filter(|(of, _)| *of == link.index);
        found.push(Link {
            name: link.name.clone(),
            state: state(facts, &link.name),
            leads_out: leads_out(link),
            mtu: link.mtu,
            addresses: own.map(|(_, address)| *address).collect(),
        });
    }
    for parent in networks.iter().filter_map(|network| network.parent.as_ref()) {
        if found.iter().all(|link| link.name != *parent) {
            let (name, addresses) = (parent.clone(), Vec::new());
            found.push(Link { name, state: State::Missing, leads_out: false, mtu: 0, addresses });
        }
    }
    found
}
