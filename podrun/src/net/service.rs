//! Services: one stable address in front of those who serve, spread by the firewall.
//!
//! `services/<namespace>_<name>.json` under the root says what a service is to be. Who serves it now changes with pods and
//! containers; [`sync`] works that out anew each time and writes it into the table where it has changed: the state, never
//! the event, so that nothing is lost when somebody dies or many change at once. `services.json` in the run-root has what
//! the table was last given, for whoever writes the table for another reason.
//!
//! A connection keeps the backend that it was given (connection tracking does that), whatever changes later, until that
//! backend is gone. UDP has no connections that end: what the kernel remembers of a backend that is gone is forgotten.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::{NamespaceName, ServiceName};
use crate::net::bridge;
use crate::net::cidr::Cidr;
use crate::net::conntrack;
use crate::net::lock::{Hold, directory, flock, gone, lock, replace};
use crate::roots::Roots;
use crate::spec::port::Protocol;
use crate::spec::service::{Affinity, Endpoint, ServicePort};
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where addresses of services come from: the first part of what Kubernetes takes by default.
pub const RANGE: Cidr = Cidr::v4(10, 96, 0, 0, 16);

/// A service as somebody made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    pub namespace: NamespaceName,
    pub name: ServiceName,
    pub ip: Ipv4Addr,
    pub ports: Vec<ServicePort>,
    /// Pods of the namespace that have all these labels; nobody where it is empty.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    #[serde(default)]
    pub session_affinity: Affinity,
    #[serde(default)]
    pub created_at: String,
}

impl Service {
    /// `name`, or `namespace/name` outside the default namespace.
    pub fn title(&self) -> String {
        match self.namespace == NamespaceName::default() {
            true => self.name.to_string(),
            false => format!("{}/{}", self.namespace, self.name),
        }
    }

    pub fn selects(&self, namespace: &NamespaceName, labels: &BTreeMap<String, String>) -> bool {
        let all = || self.selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        *namespace == self.namespace && !self.selector.is_empty() && all()
    }

    /// Each port with those who serve it: these pods, and those elsewhere.
    pub fn spread(&self, pods: &[Ipv4Addr]) -> Vec<Spread> {
        let of = |port: &ServicePort| {
            let here = pods.iter().map(|ip| SocketAddrV4::new(*ip, port.target));
            let there = self.endpoints.iter().map(|one| SocketAddrV4::new(one.ip, one.port.unwrap_or(port.target)));
            let backends: BTreeSet<SocketAddrV4> = here.chain(there).collect();
            let ServicePort { port, protocol, .. } = *port;
            Spread { ip: self.ip, port, protocol, backends, affinity: self.session_affinity }
        };
        self.ports.iter().map(of).collect()
    }
}

/// One port of a service and who serves it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    pub ip: Ipv4Addr,
    pub port: u16,
    pub protocol: Protocol,
    pub backends: BTreeSet<SocketAddrV4>,
    pub affinity: Affinity,
}

/// `services.json` of the run-root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Current {
    spread: Vec<Spread>,
    /// Whether the table is known to have it.
    applied: bool,
}

/// How many places there are for clients that stay with one backend.
const PLACES: u64 = 64;

impl Spread {
    fn chain(&self) -> String {
        format!("service-{}-{}-{}", self.ip, self.protocol, self.port)
    }

    fn key(&self) -> String {
        format!("{} . {} . {}", self.ip, self.protocol, self.port)
    }

    /// The rule that chooses: by chance, or by the client's address. There each place goes to the backend that draws the
    /// highest lot for it (rendezvous hashing), so that one backend more or less moves only the clients that it must.
    fn choice(&self) -> String {
        let backends: Vec<&SocketAddrV4> = self.backends.iter().collect();
        let count = backends.len() as u64;
        let (by, chosen): (String, Vec<&SocketAddrV4>) = match self.affinity {
            Affinity::None => (format!("numgen random mod {count}"), backends),
            Affinity::ClientIp => {
                let winner = |place| backends.iter().max_by_key(|backend| lot(place, backend)).copied();
                (format!("jhash ip saddr mod {PLACES} seed 0x1"), (0..PLACES).filter_map(winner).collect())
            }
        };
        let places = chosen.iter().enumerate();
        let places: Vec<String> = places.map(|(n, to)| format!("{n} : {} . {}", to.ip(), to.port())).collect();
        format!("meta l4proto {} dnat ip to {by} map {{ {} }}", self.protocol, places.join(", "))
    }
}

/// Pure: 64 bits that look like chance, the same in every build (FNV-1a, finished as splitmix64 does).
fn lot(place: u64, backend: &SocketAddrV4) -> u64 {
    let bytes = place.to_be_bytes().into_iter().chain(backend.ip().octets()).chain(backend.port().to_be_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The table's part that spreads: a map from address and port to the chain of each, none of which leads anywhere else.
pub fn chains(all: &[Spread]) -> String {
    let served = || all.iter().filter(|one| !one.backends.is_empty());
    let mut text = String::new();
    for one in served() {
        let _ = writeln!(text, "\tchain {} {{\n\t\t{}\n\t}}", one.chain(), one.choice());
    }
    text.push_str("\tmap services {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n");
    let elements: Vec<String> = served().map(|one| format!("{} : goto {}", one.key(), one.chain())).collect();
    if !elements.is_empty() {
        let _ = writeln!(text, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t"));
    }
    text.push_str("\t}\n");
    text
}

/// The rule that looks there.
pub const LOOK: &str = "ip daddr . meta l4proto . th dport vmap @services";

/// What to tell whoever asks for a port that nobody serves: refused, at once, as by a host without a listener there.
pub fn refusal(all: &[Spread]) -> String {
    let addresses: BTreeSet<Ipv4Addr> = all.iter().map(|one| one.ip).collect();
    let addresses: Vec<String> = addresses.iter().map(Ipv4Addr::to_string).collect();
    format!("ip daddr {{ {} }} reject with icmp type port-unreachable", addresses.join(", "))
}

/// What the table has, or is about to have.
pub fn current(roots: &Roots) -> Vec<Spread> {
    read_current(roots).spread
}

fn read_current(roots: &Roots) -> Current {
    fs::read(state_file(roots)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn write_current(roots: &Roots, current: &Current) -> Result<()> {
    match current.spread.is_empty() && current.applied {
        true => forget(roots),
        false => replace(&state_file(roots), &serde_json::to_vec(current).expect("plain data")),
    }
}

/// With the last network.
pub fn forget(roots: &Roots) -> Result<()> {
    let file = state_file(roots);
    gone(fs::remove_file(&file)).doing(|| format!("remove {}", file.display()))
}

fn state_file(roots: &Roots) -> PathBuf {
    roots.run.join("services.json")
}

/// Has the table spread to those whom `find` knows now. Costs one look where there are no services; nothing is written where
/// nothing has changed, or where no network is made, since nobody could ask.
pub fn sync(roots: &Roots, find: impl FnOnce(&[Service]) -> Vec<Spread>) -> Result<()> {
    if !is_in_use(roots) || bridge::all_remembered(roots)?.is_empty() {
        return Ok(());
    }
    let _held = lock(&bridge::lock_file(roots), Hold::Exclusive)?;
    let (before, services) = (read_current(roots), all(roots)?);
    let spread = find(&services);
    if before.spread == spread && (before.applied || spread.is_empty()) {
        return Ok(());
    }
    // First what is to be: whoever writes the table meanwhile for another reason writes this.
    write_current(roots, &Current { spread: spread.clone(), applied: false })?;
    fault::point("service.noted");
    bridge::rewrite(roots)?;
    fault::point("service.applied");
    forget_misled(&before.spread, &spread)?;
    write_current(roots, &Current { spread, applied: true })
}

/// UDP of those who were served by somebody who serves no longer.
fn forget_misled(before: &[Spread], now: &[Spread]) -> Result<()> {
    for old in before.iter().filter(|old| old.protocol == Protocol::Udp) {
        let same = now.iter().find(|new| (new.ip, new.port, new.protocol) == (old.ip, old.port, old.protocol));
        let left = old.backends.iter().filter(|backend| same.is_none_or(|same| !same.backends.contains(backend)));
        let left: Vec<IpAddr> = left.map(|backend| IpAddr::V4(*backend.ip())).collect();
        if !left.is_empty() {
            conntrack::forget_udp(&[old.port], &left)?;
        }
    }
    Ok(())
}

/// Whether there is a service, or was when the table was written.
pub fn is_in_use(roots: &Roots) -> bool {
    let made = |mut entries: fs::ReadDir| entries.next().is_some();
    fs::read_dir(roots.services()).is_ok_and(made) || state_file(roots).exists()
}

pub fn file(roots: &Roots, namespace: &NamespaceName, name: &ServiceName) -> PathBuf {
    roots.services().join(format!("{namespace}_{name}.json"))
}

/// All services, by namespace and name. One whose file is broken is told, and hides no other.
pub fn all(roots: &Roots) -> Result<Vec<Service>> {
    Ok(list(roots)?.into_iter().filter_map(Result::ok).collect())
}

/// The same with what is wrong.
pub fn list(roots: &Roots) -> Result<Vec<Result<Service>>> {
    let directory = roots.services();
    let entries = match fs::read_dir(&directory) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing(|| format!("read {}", directory.display()))?,
    };
    let files = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.sort();
    Ok(files.into_iter().map(|file| read(&file)).collect())
}

fn read(file: &PathBuf) -> Result<Service> {
    let doing = || format!("read {}", file.display());
    let text = fs::read(file).doing(doing)?;
    serde_json::from_slice(&text).map_err(|err| Error::new(Kind::Invalid, doing(), err))
}

pub fn find(roots: &Roots, namespace: &NamespaceName, name: &ServiceName) -> Result<Service> {
    let file = file(roots, namespace, name);
    match file.exists() {
        true => read(&file),
        false => {
            let err = Error::new(Kind::NotFound, format!("find the service {name}"), "there is none of this name");
            let known: Vec<String> = all(roots)?.iter().map(Service::title).collect();
            Err(if known.is_empty() { err } else { err.hint(format!("there are {}", known.join(", "))) })
        }
    }
}

/// The service that has this address.
pub fn at(roots: &Roots, address: IpAddr) -> Option<Service> {
    all(roots).ok()?.into_iter().find(|service| IpAddr::from(service.ip) == address)
}

/// Writes down a new service with an address: `wished`, or the next one of `range` that is free.
pub fn create(roots: &Roots, mut service: Service, wished: Option<Ipv4Addr>, range: Cidr) -> Result<Service> {
    let doing = format!("create the service {}", service.title());
    directory(&roots.services())?;
    let _held = alone(roots)?;
    let file = file(roots, &service.namespace, &service.name);
    if file.exists() {
        return Err(Error::new(Kind::AlreadyExists, doing, "it is there")
            .hint(format!("podrun service inspect {}", service.name)));
    }
    let others = all(roots)?;
    service.ip = choose(&others, wished, range).map_err(|err| err.within(doing.clone()))?;
    bridge::refuse_taken(roots, Cidr::alone(service.ip.into()), &doing)?;
    replace(&file, &serde_json::to_vec_pretty(&service).expect("a service is plain data"))?;
    Ok(service)
}

/// The directory itself is the lock between those who choose addresses.
fn alone(roots: &Roots) -> Result<Flock<File>> {
    let directory = roots.services();
    let opened = File::open(&directory).doing(|| format!("open {}", directory.display()))?;
    flock(opened, Hold::Exclusive, Instant::now() + PATIENCE, &directory)
}

/// How long others may take to choose.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pure.
fn choose(others: &[Service], wished: Option<Ipv4Addr>, range: Cidr) -> Result<Ipv4Addr> {
    let holder = |ip: Ipv4Addr| others.iter().find(|other| other.ip == ip);
    let hosts = range.hosts().map(|offset| range.nth(offset));
    let mut hosts = hosts.filter_map(|address| if let IpAddr::V4(four) = address { Some(four) } else { None });
    let Some(ip) = wished else {
        return hosts.find(|ip| holder(*ip).is_none()).ok_or_else(|| {
            Error::new(Kind::Exhausted, format!("take an address of {range}"), "none is free")
                .hint("remove services that are not needed, or name another range by --service-cidr")
        });
    };
    let taking = format!("take the address {ip}");
    if !range.offset(ip.into()).is_some_and(|offset| range.hosts().contains(&offset)) {
        return Err(Error::new(Kind::Invalid, taking, format!("it is no host's address of {range}"))
            .hint("--service-cidr names another range"));
    }
    match holder(ip) {
        Some(other) => Err(Error::new(Kind::AlreadyExists, taking, format!("the service {} has it", other.title()))),
        None => Ok(ip),
    }
}

pub fn remove(roots: &Roots, namespace: &NamespaceName, name: &ServiceName) -> Result<()> {
    find(roots, namespace, name)?;
    let _held = alone(roots)?;
    let file = file(roots, namespace, name);
    gone(fs::remove_file(&file)).doing(|| format!("remove {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ip: &str, ports: &[&str]) -> Service {
        Service {
            namespace: NamespaceName::default(),
            name: ServiceName::parse("web").unwrap(),
            ip: ip.parse().unwrap(),
            ports: ports.iter().map(|text| ServicePort::parse(text).unwrap()).collect(),
            selector: [("app".to_owned(), "web".to_owned())].into(),
            endpoints: Vec::new(),
            session_affinity: Affinity::None,
            created_at: String::new(),
        }
    }

    fn ips(last: std::ops::Range<u8>) -> Vec<Ipv4Addr> {
        last.map(|n| Ipv4Addr::new(10, 88, 0, n)).collect()
    }

    #[test]
    fn pods_are_selected_by_all_labels_in_the_namespace() {
        let service = service("10.96.0.1", &["80"]);
        let labels = |text: &str| {
            text.split_whitespace().filter_map(|one| one.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
        };
        let team = NamespaceName::parse("team").unwrap();
        for (namespace, text, selected) in [
            (NamespaceName::default(), "app=web", true),
            (NamespaceName::default(), "app=web tier=front", true),
            (NamespaceName::default(), "app=db", false),
            (NamespaceName::default(), "", false),
            (team, "app=web", false),
        ] {
            assert_eq!(service.selects(&namespace, &labels(text)), selected, "{text}");
        }
        let empty = Service { selector: BTreeMap::new(), ..service };
        assert!(!empty.selects(&NamespaceName::default(), &labels("app=web")), "nobody, not everybody");
    }

    #[test]
    fn each_port_has_a_chain_and_those_without_backends_are_refused() {
        let mut made = service("10.96.0.1", &["80:8080", "53/udp"]);
        made.endpoints = vec![Endpoint::parse("192.0.2.7:9").unwrap()];
        let none = service("10.96.0.2", &["80"]).spread(&[]);
        let all = [made.spread(&ips(2..4)), none].concat();
        let text = chains(&all);
        for line in [
            "\tchain service-10.96.0.1-tcp-80 {\n\t\tmeta l4proto tcp dnat ip to numgen random mod 3 map { 0 : 10.88.0.2 . 8080, 1 : 10.88.0.3 . 8080, 2 : 192.0.2.7 . 9 }\n\t}\n",
            "\t\tmeta l4proto udp dnat ip to numgen random mod 3 map { 0 : 10.88.0.2 . 53, 1 : 10.88.0.3 . 53, 2 : 192.0.2.7 . 9 }\n",
            "10.96.0.1 . tcp . 80 : goto service-10.96.0.1-tcp-80",
        ] {
            assert!(text.contains(line), "{line}\nin {text}");
        }
        assert!(!text.contains("10.96.0.2"), "{text}");
        assert_eq!(refusal(&all), "ip daddr { 10.96.0.1, 10.96.0.2 } reject with icmp type port-unreachable");
        assert_eq!(chains(&[]), "\tmap services {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\t}\n");
    }

    /// Which backend each place has.
    fn places(pods: &[Ipv4Addr]) -> Vec<String> {
        let made = Service { session_affinity: Affinity::ClientIp, ..service("10.96.0.1", &["80"]) };
        let rule = made.spread(pods)[0].choice();
        let (_, map) = rule.split_once("map { ").unwrap();
        map.trim_end_matches(" }").split(", ").map(|one| one.split_once(" : ").unwrap().1.to_owned()).collect()
    }

    #[test]
    fn a_backend_that_leaves_moves_nobody_elses_clients() {
        let (four, three) = (places(&ips(2..6)), places(&ips(2..5)));
        assert_eq!((four.len(), three.len()), (64, 64));
        for pod in ips(2..6) {
            let share = four.iter().filter(|one| one.starts_with(&format!("{pod} "))).count();
            assert!((6..30).contains(&share), "{pod} has {share} of 64");
        }
        let moved = four.iter().zip(&three).filter(|(before, after)| before != after);
        assert!(moved.clone().all(|(before, _)| before.starts_with("10.88.0.5 ")), "only its own clients");
        assert!(moved.count() > 0);
    }

    #[test]
    fn addresses_are_chosen_one_after_the_other() {
        let others = [service("10.96.0.1", &["80"]), service("10.96.0.3", &["80"])];
        let chosen = |wished: Option<&str>, range: &str| {
            choose(&others, wished.map(|text| text.parse().unwrap()), Cidr::parse(range).unwrap())
        };
        assert_eq!(chosen(None, "10.96.0.0/16").unwrap(), Ipv4Addr::new(10, 96, 0, 2));
        assert_eq!(chosen(Some("10.96.7.7"), "10.96.0.0/16").unwrap(), Ipv4Addr::new(10, 96, 7, 7));
        assert!(chosen(Some("10.96.0.3"), "10.96.0.0/16").unwrap_err().cause().contains("the service web has it"));
        assert!(chosen(Some("10.97.0.3"), "10.96.0.0/16").unwrap_err().cause().contains("no host's address"));
        assert!(chosen(Some("10.96.255.255"), "10.96.0.0/16").is_err(), "the broadcast address");
        let full = [service("10.97.0.1", &["80"]), service("10.97.0.2", &["80"])];
        assert_eq!(choose(&full, None, Cidr::parse("10.97.0.0/30").unwrap()).unwrap_err().kind, Kind::Exhausted);
    }
}
