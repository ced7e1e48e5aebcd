//! What the picture is of: links, networks, and network namespaces with the pods in them.

#![forbid(unsafe_code)]

use crate::id::PodId;
use crate::net::cidr::Cidr;
use crate::net::definition::Driver;
use crate::net::overlay::Overlay;
use crate::net::ports::Port;
use serde::Serialize;
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Map {
    /// The host's name.
    pub host: String,
    /// The host's own links: those that lead out, and those that a pod's interface hangs on.
    pub links: Vec<Link>,
    pub networks: Vec<Network>,
    pub sandboxes: Vec<Sandbox>,
}

/// A link as the kernel has it at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    Up,
    /// Up, with nothing at its other end.
    NoCarrier,
    Down,
    /// Somebody took it away.
    Missing,
}

impl State {
    pub fn words(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::NoCarrier => "no carrier",
            Self::Down => "down",
            Self::Missing => "missing",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    pub name: String,
    pub state: State,
    pub leads_out: bool,
    pub mtu: u32,
    pub addresses: Vec<Cidr>,
}

/// What joins pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    pub name: String,
    pub driver: Driver,
    /// The host's link that its pods' interfaces hang on, and how.
    pub parent: Option<String>,
    pub mode: Option<String>,
    pub bridge: Option<Device>,
    /// The host's own addresses in it, the pods' gateways, where there are any; else its ranges.
    pub addresses: Vec<Cidr>,
    pub internal: bool,
    /// Whether pods have the host's address outside.
    pub masquerade: bool,
    /// Whether it is on the host; its first pod makes it.
    pub made: bool,
    pub tunnel: Option<Device>,
    pub overlay: Option<Overlay>,
    /// Pods on it that this picture leaves out.
    pub others: usize,
}

/// A link that podrun made on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    pub name: String,
    pub state: State,
}

/// One network namespace, and the pods that share it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    pub network: Whose,
    pub interfaces: Vec<Interface>,
    pub pods: Vec<Pod>,
}

/// Whose a pod's network is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Whose {
    /// Wired by podrun, or not at all.
    Own,
    Host,
    /// Somebody else's, at this path.
    Netns(String),
    /// That of a pod that is gone, and podrun did not wire it.
    Left(String),
}

/// An interface in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    pub network: String,
    pub driver: Driver,
    pub name: String,
    /// The other end of its veth pair.
    pub host_end: Option<Device>,
    pub addresses: Vec<Cidr>,
    /// An ipvlan interface has its parent's.
    pub mac: Option<String>,
    pub mtu: u32,
    /// The way out, where it leads there.
    pub gateways: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    pub id: PodId,
    /// With its namespace, where that is not the default one.
    pub name: String,
    pub state: &'static str,
    pub reason: Option<String>,
    /// Its pid.
    pub pause: Option<i32>,
    pub ports: Vec<Port>,
    pub containers: Vec<Container>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    pub name: String,
    pub state: &'static str,
    pub pid: Option<i32>,
    pub exit_code: Option<i32>,
    pub reason: Option<crate::store::Reason>,
}

impl Container {
    /// `Running`, `Exited (1, Error)`.
    pub fn status(&self) -> String {
        match (self.exit_code, self.reason) {
            (Some(code), Some(reason)) => format!("{} ({code}, {reason:?})", self.state),
            _ => self.state.to_owned(),
        }
    }
}

impl Sandbox {
    /// What it is called where it stands on no network.
    pub fn ground(&self) -> String {
        match &self.network {
            Whose::Own => "no network".to_owned(),
            Whose::Host => "the host's own network".to_owned(),
            Whose::Netns(path) => format!("netns:{path}"),
            Whose::Left(pod) => format!("the network of {pod}, which is gone"),
        }
    }

    pub fn has(&self, pod: &PodId) -> bool {
        self.pods.iter().any(|one| one.id == *pod)
    }

    fn is_on(&self, network: &Network) -> bool {
        self.interfaces.iter().any(|interface| interface.network == network.name)
    }
}

impl Map {
    /// One pod with those that share its network namespace, and what leads from there to the world.
    #[must_use]
    pub fn around(mut self, pod: &PodId) -> Self {
        let (kept, others): (Vec<_>, Vec<_>) = self.sandboxes.into_iter().partition(|sandbox| sandbox.has(pod));
        self.networks.retain(|network| kept.iter().any(|sandbox| sandbox.is_on(network)));
        for network in &mut self.networks {
            let beside = others.iter().filter(|sandbox| sandbox.is_on(network));
            network.others = beside.map(|sandbox| sandbox.pods.len()).sum();
        }
        let is_parent = |link: &Link| self.networks.iter().any(|network| network.parent.as_ref() == Some(&link.name));
        self.links.retain(|link| link.leads_out || is_parent(link));
        self.sandboxes = kept;
        self
    }

    /// The sandboxes on a network with their interface there; whether it is their first says where they are drawn.
    pub fn on<'a>(&'a self, network: &'a Network) -> impl Iterator<Item = (&'a Sandbox, &'a Interface, bool)> {
        self.sandboxes.iter().filter_map(move |sandbox| {
            let at = sandbox.interfaces.iter().position(|interface| interface.network == network.name)?;
            Some((sandbox, &sandbox.interfaces[at], at == 0))
        })
    }

    /// Those that stand on no network of podrun's, by what they stand on.
    pub fn elsewhere(&self) -> Vec<(String, Vec<&Sandbox>)> {
        let mut groups: Vec<(String, Vec<&Sandbox>)> = Vec::new();
        let mut bare: Vec<&Sandbox> = self.sandboxes.iter().filter(|sandbox| sandbox.interfaces.is_empty()).collect();
        bare.sort_by(|a, b| a.network.cmp(&b.network));
        for sandbox in bare {
            match groups.last_mut().filter(|(ground, _)| *ground == sandbox.ground()) {
                Some((_, group)) => group.push(sandbox),
                None => groups.push((sandbox.ground(), vec![sandbox])),
            }
        }
        groups
    }
}

/// A name as any terminal or browser may show it: what is not plain ASCII is written as Rust writes it, so that one letter
/// is one column, and nothing turns the line round or moves the cursor. Paths, hosts and links may have any name.
pub fn plain(text: &str) -> String {
    let one = |letter: char| match letter {
        ' '..='~' => letter.to_string(),
        other => other.escape_default().to_string(),
    };
    text.chars().map(one).collect()
}

#[cfg(test)]
pub(super) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::{hostile, id, small};
    use super::*;

    #[test]
    fn one_pod_is_shown_with_what_leads_to_it() {
        let map = small().around(&id(1));
        let names = |map: &Map| map.networks.iter().map(|one| (one.name.clone(), one.others)).collect::<Vec<_>>();
        assert_eq!(names(&map), [("bridge".to_owned(), 1), ("back".to_owned(), 0)]);
        assert_eq!(map.sandboxes.len(), 1);
        assert_eq!(map.sandboxes[0].pods.len(), 2, "who shares its network is shown with it");
        assert_eq!(map.links.len(), 1);
        let alone = small().around(&id(9));
        assert!(alone.networks.is_empty() && alone.links.len() == 1);
    }

    #[test]
    fn a_sandbox_is_drawn_where_its_first_interface_is() {
        let map = small();
        let drawn: Vec<bool> = map.on(&map.networks[0]).map(|(.., first)| first).collect();
        assert_eq!(drawn, [true, true]);
        let drawn: Vec<bool> = map.on(&map.networks[1]).map(|(.., first)| first).collect();
        assert_eq!(drawn, [false]);
        let grounds: Vec<String> = map.elsewhere().into_iter().map(|(ground, _)| ground).collect();
        assert_eq!(grounds, ["no network", "the host's own network"]);
    }

    #[test]
    fn a_name_is_shown_letter_by_letter() {
        assert_eq!(plain("eth0"), "eth0");
        assert_eq!(plain("a\u{1b}[2J\u{202e}é"), "a\\u{1b}[2J\\u{202e}\\u{e9}");
        assert!(plain(&hostile().host).is_ascii());
    }
}
