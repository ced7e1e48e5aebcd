//! Who is called how: read from leases and names on disk, each time anew.

#![forbid(unsafe_code)]

use super::answer::{About, Told};
use crate::id::{NamespaceName, PodId, PodName, ServiceName};
use crate::net::bridge;
use crate::net::definition;
use crate::net::ipam::{self, Lease};
use crate::net::names::{Names, index, parts};
use crate::net::service::{self, Service};
use crate::roots::Roots;
use crate::sys::fd;
use std::fs;
use std::net::IpAddr;

/// The pod that asks, by the address that it asks from.
#[derive(Debug)]
pub(super) struct Asker {
    namespace: String,
    /// Where it hears of others; first the network that it asks on.
    networks: Vec<String>,
    names: Names,
}

impl Asker {
    /// None: an address that is no pod's, of which nobody can know what it may hear.
    pub(super) fn find(roots: &Roots, network: &str, from: IpAddr) -> Option<Self> {
        let lease = ipam::at(roots, network, from)?;
        let pod = ipam::holder_of(roots, network, &lease)?;
        let mut networks = ipam::held_by(roots, &pod).ok()?;
        let resolves = |name: &String| bridge::remembered(roots, name).is_some_and(|one| one.resolves_names());
        networks.retain(|name| name != network && resolves(name));
        networks.insert(0, network.to_owned());
        Some(Self { namespace: parts(&lease.title).0.to_owned(), networks, names: lease.names })
    }

    /// The servers that it was given.
    pub(super) fn servers(&self) -> &[IpAddr] {
        &self.names.servers
    }

    /// None: somebody else may know.
    pub(super) fn look(&self, roots: &Roots, about: &About) -> Option<Told> {
        match about {
            About::Name(name) => self.name(roots, name),
            About::Address(address) => self.address(roots, *address),
            // A word alone is nobody's outside.
            About::Foreign { labels: 1 } => Some(Told::Nobody),
            About::Foreign { .. } => None,
        }
    }

    fn name(&self, roots: &Roots, name: &str) -> Option<Told> {
        let meant = self.names.links.get(name).map_or(name, String::as_str);
        // A service's name is as stable as its address, whichever pods are called alike.
        if let Some(service) = self.service(roots, meant) {
            return Some(Told::Addresses(vec![service.ip.into()]));
        }
        let found = self.addresses(roots, &self.networks, meant);
        if !found.is_empty() {
            return Some(Told::Addresses(found));
        }
        let Some((host, network)) = name.rsplit_once('.') else { return Some(Told::Nobody) };
        if !is_network(roots, network) {
            return None;
        }
        let there: Vec<String> = self.networks.iter().filter(|one| *one == network).cloned().collect();
        let found = self.addresses(roots, &there, host);
        Some(if found.is_empty() { Told::Nobody } else { Told::Addresses(found) })
    }

    fn service(&self, roots: &Roots, name: &str) -> Option<Service> {
        let (namespace, name) = (NamespaceName::parse(&self.namespace).ok()?, ServiceName::parse(name).ok()?);
        service::find(roots, &namespace, &name).ok()
    }

    /// Of all pods of this name, beginning with another one each time.
    fn addresses(&self, roots: &Roots, networks: &[String], name: &str) -> Vec<IpAddr> {
        let mut found: Vec<IpAddr> = Vec::new();
        for network in networks {
            for lease in self.leases(roots, network, name) {
                let all = lease.addresses.iter().map(|one| one.address);
                found.extend(all.filter(|address| !found.contains(address)).collect::<Vec<_>>());
            }
        }
        if found.len() > 1 {
            let random = fd::random::<2>().map(u16::from_ne_bytes).unwrap_or_default();
            let first = usize::from(random) % found.len();
            found.rotate_left(first);
        }
        found
    }

    fn leases(&self, roots: &Roots, network: &str, name: &str) -> Vec<Lease> {
        let named = pod_of_name(roots, &self.namespace, name);
        let also = index::pods(&roots.leases().join(network), &self.namespace, name);
        let held = named.into_iter().chain(also).filter_map(|pod| ipam::held(roots, network, &pod));
        held.collect()
    }

    fn address(&self, roots: &Roots, address: IpAddr) -> Option<Told> {
        for network in &self.networks {
            if let Some(lease) = ipam::at(roots, network, address)
                && let Some(name) = name_of(roots, network, &lease)
            {
                return Some(Told::Pointer(format!("{name}.{network}")));
            }
        }
        if let Some(service) = service::at(roots, address) {
            let own = service.namespace.as_str() == self.namespace;
            return Some(if own { Told::Pointer(service.name.to_string()) } else { Told::Nobody });
        }
        let made = bridge::all_remembered(roots).unwrap_or_default();
        made.iter().any(|network| network.subnets().any(|subnet| subnet.contains(address))).then_some(Told::Nobody)
    }
}

/// The reservation of a pod's name is a link to its directory.
fn pod_of_name(roots: &Roots, namespace: &str, name: &str) -> Option<PodId> {
    let link = roots.name(&NamespaceName::parse(namespace).ok()?, &PodName::parse(name).ok()?);
    PodId::parse(fs::read_link(link).ok()?.file_name()?.to_str()?).ok()
}

/// The pod that a lease was made for, or one that joined it and has outlived it.
fn name_of(roots: &Roots, network: &str, lease: &Lease) -> Option<String> {
    let pod = ipam::holder_of(roots, network, lease)?;
    if pod == lease.pod {
        return Some(parts(&lease.title).1.to_owned());
    }
    let record: serde_json::Value = serde_json::from_slice(&fs::read(roots.pod(&pod).join("pod.json")).ok()?).ok()?;
    record["name"].as_str().map(str::to_owned)
}

/// Whether a name's last part is a network's, so that nobody outside is asked for it.
fn is_network(roots: &Roots, name: &str) -> bool {
    definition::is_built_in(name) || definition::file(roots, name).exists() || roots.leases().join(name).is_dir()
}
