//! Networks of other people's plugins: the Container Network Interface, 0.3.0 to 1.1.0.
//!
//! * [`conflist`] reads what a network is, [`result`] what plugins answer (both pure), [`exec`] runs one plugin once, [`kept`]
//!   remembers every attachment until DEL was run for it, over a reboot too.
//! * [`attach`] runs ADD, [`detach`] DEL for all that a pod holds, [`prune`] DEL for pods that are gone, and GC.
//! * [`check`] runs CHECK, [`doctor`] STATUS and VERSION.
//!
//! An attachment is found by its pod's id alone; nothing that may be gone by then (plugin, configuration, network namespace)
//! keeps a pod from being deleted. Plugins get the namespace by the path of a link that is there while they run, and leads to
//! a descriptor of podrun's: the same path each time, and never a stranger's process.

#![forbid(unsafe_code)]

pub mod conflist;
mod doctor;
mod exec;
mod kept;
pub mod result;

pub use doctor::findings;

use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::id::PodId;
use crate::net::Attachment;
use crate::net::cidr::Mac;
use crate::net::definition::Driver;
use crate::net::files;
use crate::net::link::Netlink;
use crate::net::lock::{Hold, directory, gone};
use crate::net::ports::Port;
use crate::net::prune::Prune;
use crate::net::wire::{Plan, Pod};
use crate::roots::Roots;
use crate::spec::Network;
use crate::spec::network::{Address, Attach, Bandwidth};
use crate::sys;
use conflist::{Chain, Version};
use exec::{Subject, Verb};
use kept::{Held, Kept, Left};
use result::{Answer, Dns};
use serde_json::{Map, Value, json};
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a pod has to tell its plugins, beside what each interface was wished to be.
#[derive(Debug, Clone, Default)]
pub struct Asks {
    /// The host's ports that lead to the pod, and the words of the network whose plugins make them do so.
    pub ports: Vec<Port>,
    pub ports_by: Option<String>,
    pub dns: files::Dns,
}

/// Where configurations and plugins are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub configurations: PathBuf,
    pub plugins: Vec<PathBuf>,
}

impl Places {
    /// podrun's own variables win over those that other tools of CNI have.
    pub fn of_this_host() -> Self {
        let said =
            |names: [&str; 2]| names.into_iter().find_map(|name| std::env::var_os(name).filter(|it| !it.is_empty()));
        let plugins = said(["PODRUN_CNI_PATH", "CNI_PATH"]).unwrap_or_else(|| "/opt/cni/bin:/usr/lib/cni".into());
        let configurations = said(["PODRUN_CNI_CONF_DIR", "NETCONFPATH"]).unwrap_or_else(|| "/etc/cni/net.d".into());
        let plugins = std::env::split_paths(&plugins).filter(|directory| directory.is_absolute()).collect();
        Self { configurations: configurations.into(), plugins }
    }
}

/// How long one chain may take; `PODRUN_CNI_TIMEOUT` says it in seconds.
fn patience() -> Duration {
    let said = std::env::var("PODRUN_CNI_TIMEOUT").ok().and_then(|text| text.parse().ok()).filter(|said| *said > 0);
    Duration::from_secs(said.unwrap_or(60))
}

/// All of a pod's DELs together: whoever deletes a pod waits for them, and a plugin may sleep for ever.
const FAREWELL: Duration = Duration::from_secs(7);

/// The name that records have for a network of plugins; no other's has a colon.
pub fn title(name: &str) -> String {
    format!("cni:{name}")
}

pub fn is_title(network: &str) -> bool {
    network.starts_with("cni:")
}

/// The chain that `cni:WHICH` means on this host.
pub fn find(which: &str) -> Result<Chain> {
    conflist::find(&Places::of_this_host().configurations, which)
}

/// Every configuration of this host that can be read: its file and chain.
pub fn all() -> Vec<(PathBuf, Chain)> {
    let files = conflist::files(&Places::of_this_host().configurations).unwrap_or_default();
    files.into_iter().filter_map(|file| Some((file.clone(), conflist::read(&file).ok()?))).collect()
}

/// Whose plugins are to make the published ports lead to a pod on these networks; None where podrun does it itself.
pub fn port_mapper(networks: &[Attach]) -> Result<Option<String>> {
    let is_own = |one: &Attach| matches!(one.network, Network::Bridge | Network::Ptp | Network::Named(_));
    if networks.iter().any(is_own) {
        return Ok(None);
    }
    let mut refused = None;
    for one in networks {
        let Network::Cni(which) = &one.network else { continue };
        let chain = find(which)?;
        if chain.has("portMappings") {
            return Ok(Some(which.clone()));
        }
        let cause = format!("no plugin of the CNI network {} has the capability portMappings", chain.name);
        refused = refused.or(Some(Error::new(Kind::Invalid, "publish the pod's ports", cause).hint(
            "add {\"type\": \"portmap\", \"capabilities\": {\"portMappings\": true}} to its plugins, or give the pod one \
             more interface, --network bridge",
        )));
    }
    refused.map_or(Ok(None), Err)
}

/// Puts the pod on a network of plugins: ADD by each, the next one with what those before made.
pub(super) fn attach(roots: &Roots, pod: &Pod<'_>, chain: Chain, plan: &Plan<'_>) -> Result<(Attachment, Vec<String>)> {
    let places = Places::of_this_host();
    bury(roots)?;
    let (runtime, args) = words(&chain, pod, plan.wish)?;
    // Before anything is made, so that nothing is half made: every program is there.
    chain.programs().into_iter().try_for_each(|program| exec::find(program, &places.plugins).map(drop))?;
    let mut kept = Kept {
        version: 1,
        container: pod.id.clone(),
        title: pod.title.to_owned(),
        interface: plan.interface.clone(),
        order: pod.beside.len() + kept::of(roots, pod.id).len(),
        netns: roots.run.join("netns").join(format!("{}.{}", pod.id, plan.interface)),
        args,
        runtime,
        path: places.plugins,
        run_root: roots.run.clone(),
        boot: kept::boot(),
        result: None,
        chain,
    };
    let _beside_others = kept::hold_network(roots, &kept.chain.name, Hold::Shared)?;
    kept::note_use(roots, &kept.chain)?;
    kept::write(roots, &kept)?;
    fault::step("cni.noted").doing(|| "keep what the plugins will make".into())?;
    let made = add(roots, &mut kept, pod, plan);
    if made.is_err() {
        let netns = Some(pod.netns);
        // What could not be undone stays kept: `delete` and `prune` try again.
        if remove(roots, &kept, netns, Instant::now() + FAREWELL).is_ok() {
            let _ = kept::forget(roots, pod.id, &kept.interface);
        }
    }
    made.map(|made| (made, Vec::new()))
}

fn add(roots: &Roots, kept: &mut Kept, pod: &Pod<'_>, plan: &Plan<'_>) -> Result<Attachment> {
    let way = Way::open(roots, &kept.netns, Some(pod.netns))?;
    let until = Instant::now() + patience();
    let subject = subject(kept, &way);
    let mut former = None;
    for plugin in &kept.chain.plugins {
        let request = kept.chain.request(plugin, &kept.runtime, former.as_ref());
        let said = exec::ask(Verb::Add, &kept.chain, plugin, &request, &subject, &kept.path, until)?;
        let normal = result::normal(&said, kept.chain.version).map_err(|cause| {
            let said = String::from_utf8_lossy(&said[..said.len().min(512)]).trim().to_owned();
            let doing = format!("ADD {} by the CNI plugin {}", kept.chain.name, plugin.kind);
            Error::new(Kind::Invalid, doing, if said.is_empty() { cause } else { format!("{cause}: {said}") })
        })?;
        former = Some(normal);
    }
    fault::step("cni.added").doing(|| "keep what the plugins made".into())?;
    kept.result = former;
    let answer = kept.result.as_ref().map(result::read).transpose();
    let answer = answer.map_err(|cause| Error::new(Kind::Invalid, format!("ADD {}", kept.chain.name), cause))?;
    if !plan.leads_out {
        stay_inside(kept, pod)?;
    }
    kept::write(roots, kept)?;
    fault::step("cni.kept").doing(|| "attach the pod".into())?;
    attachment(kept, &answer.unwrap_or_default(), pod, plan)
}

/// Another interface leads out, and a plugin's default route, which the kernel would put before that one's, goes. CHECK is not
/// to miss it; should the other interface go, podrun makes it anew.
fn stay_inside(kept: &mut Kept, pod: &Pod<'_>) -> Result<()> {
    let routes = kept.result.as_mut().and_then(|result| result.get_mut("routes")).and_then(Value::as_array_mut);
    let Some(routes) = routes else { return Ok(()) };
    let all = routes.len();
    routes.retain(|route| !route["dst"].as_str().is_some_and(|to| to.ends_with("/0")));
    match routes.len() == all {
        true => Ok(()),
        false => Netlink::inside(pod.netns, || Ok(()))?.delete_default_routes(&kept.interface),
    }
}

/// What the record says of it: the plugins' words, and of the interface itself what the kernel says.
fn attachment(kept: &Kept, answer: &Answer, pod: &Pod<'_>, plan: &Plan<'_>) -> Result<Attachment> {
    let name = plan.interface.as_str();
    let addresses = answer.addresses(name);
    let refuse = |cause: String| Err(Error::new(Kind::Invalid, format!("ADD {}", kept.chain.name), cause));
    for wish in &plan.wish.ip {
        if !addresses.iter().any(|one| one.address == wish.address) {
            let given: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            return refuse(format!("its plugins did not give ip={}, but {}", wish.address, given.join(", ")));
        }
    }
    let link = Netlink::inside(pod.netns, || Ok(()))?.links()?.into_iter().find(|link| link.name == name);
    let inside = answer.inside(name);
    let mac = inside.map(|one| one.mac.to_ascii_lowercase()).unwrap_or_default();
    if let Some(wish) = plan.wish.mac.map(|mac| Mac(mac).to_string()).filter(|wish| *wish != mac) {
        return refuse(format!("its plugins did not give mac={wish}, but {mac}"));
    }
    let outside = answer.outside(name).map(str::to_owned);
    if let Some(outside) = &outside {
        // As `settle` of our own links: the first packet is not to wait for the kernel's link watch.
        let _ = sys::net::has_carrier(outside);
    }
    let (gateway, gateway6) = (answer.gateway(name, false), answer.gateway(name, true));
    Ok(Attachment {
        network: kept.network(),
        driver: Driver::Cni,
        interface: name.to_owned(),
        host_interface: outside,
        addresses,
        gateway,
        gateway6,
        default_route: plan.leads_out && answer.leads_out(),
        mac,
        mtu: link.map(|link| link.mtu).or(inside.and_then(|one| one.mtu)).unwrap_or_default(),
        bridge: None,
        dns: Some(answer.dns.clone()).filter(|dns| !dns.is_empty()),
        names: None,
    })
}

/// `runtimeConfig` of all plugins, and CNI_ARGS: what was asked for by the capability that CNI's conventions have for it.
fn words(chain: &Chain, pod: &Pod<'_>, wish: &Attach) -> Result<(Map<String, Value>, String)> {
    let mut runtime = Map::new();
    let mut args = vec!["IgnoreUnknown=1".to_owned()];
    let (namespace, name) = pod.title.split_once('/').unwrap_or(("default", pod.title));
    args.push(format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"));
    args.push(format!("K8S_POD_INFRA_CONTAINER_ID={0};K8S_POD_UID={0}", pod.id));
    let mut put = |key: &str, value: Value| drop(runtime.insert(key.to_owned(), value));
    if !wish.ip.is_empty() {
        let text = |one: &Address| match one.prefix {
            Some(prefix) => format!("{}/{prefix}", one.address),
            None => one.address.to_string(),
        };
        match chain.has("ips") {
            true => put("ips", wish.ip.iter().map(text).collect()),
            // The older convention, which knows one address; whether it was heeded the result tells.
            false => args.extend(wish.ip.first().map(|one| format!("IP={}", text(one)))),
        }
    }
    if let Some(mac) = wish.mac.map(|mac| Mac(mac).to_string()) {
        match chain.has("mac") {
            true => put("mac", mac.into()),
            false => args.push(format!("MAC={mac}")),
        }
    }
    if let Some(bandwidth) = &wish.bandwidth {
        if !chain.has("bandwidth") {
            let cause = format!("no plugin of {} has the capability bandwidth", chain.name);
            return Err(Error::new(Kind::Invalid, "limit the pod's bandwidth", cause)
                .hint("add {\"type\": \"bandwidth\", \"capabilities\": {\"bandwidth\": true}} to its plugins"));
        }
        put("bandwidth", limits(bandwidth));
    }
    let Asks { ports, ports_by, dns } = pod.asks;
    let maps_ports = matches!(&wish.network, Network::Cni(which) if Some(which) == ports_by.as_ref());
    if maps_ports && !ports.is_empty() {
        put("portMappings", ports.iter().map(mapping).collect());
    }
    if *dns != files::Dns::default() {
        put("dns", json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options}));
    }
    Ok((runtime, args.join(";")))
}

/// A quarter of a second's worth may come at once, and never less than some packets.
fn limits(bandwidth: &Bandwidth) -> Value {
    let burst = |rate: u64| (rate / 4).clamp(1 << 19, 1 << 31);
    let mut words = Map::new();
    for (way, rate) in [("ingress", bandwidth.ingress), ("egress", bandwidth.egress)] {
        if let Some(rate) = rate {
            words.insert(format!("{way}Rate"), rate.into());
            words.insert(format!("{way}Burst"), burst(rate).into());
        }
    }
    words.into()
}

fn mapping(port: &Port) -> Value {
    let mut words = json!({
        "hostPort": port.host, "containerPort": port.port, "protocol": port.protocol.to_string(),
    });
    if let Some(address) = port.address {
        words["hostIP"] = address.to_string().into();
    }
    words
}

/// The link by which plugins find a network namespace, there while this value is.
struct Way {
    link: Option<PathBuf>,
}

impl Way {
    fn open(roots: &Roots, link: &Path, netns: Option<BorrowedFd<'_>>) -> Result<Self> {
        let doing = || format!("make the link {}", link.display());
        // Of somebody who was killed.
        gone(fs::remove_file(link)).doing(doing)?;
        let Some(netns) = netns else { return Ok(Self { link: None }) };
        let target = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
        directory(&roots.run.join("netns"))?;
        if symlink(&target, link).is_err() {
            // `prune` takes the directory away where it is empty.
            directory(&roots.run.join("netns"))?;
            symlink(&target, link).doing(doing)?;
        }
        Ok(Self { link: Some(link.to_owned()) })
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _ = fs::remove_file(link);
        }
    }
}

fn subject(kept: &Kept, way: &Way) -> Subject {
    Subject {
        container: kept.container.to_string(),
        netns: way.link.clone(),
        interface: kept.interface.clone(),
        args: kept.args.clone(),
    }
}

/// DEL by every plugin, the last one first, each whatever the others say: an address is given back even where the firewall's
/// plugin is gone.
fn remove(roots: &Roots, kept: &Kept, netns: Option<BorrowedFd<'_>>, until: Instant) -> Result<()> {
    let way = Way::open(roots, &kept.netns, netns)?;
    let subject = subject(kept, &way);
    let mut path = Places::of_this_host().plugins;
    path.extend(kept.path.iter().filter(|one| !path.contains(one)).cloned().collect::<Vec<_>>());
    // Before 0.4.0 DEL had no result.
    let former = kept.result.as_ref().filter(|_| kept.chain.version >= Version(0, 4, 0));
    let mut failed = Vec::new();
    for (left, plugin) in kept.chain.plugins.iter().enumerate().rev() {
        let request = kept.chain.request(plugin, &kept.runtime, former);
        // One that hangs leaves the others their time.
        let share = if left == 0 { 1 } else { 2 };
        let until = Instant::now() + until.saturating_duration_since(Instant::now()) / share;
        failed.extend(exec::ask(Verb::Del, &kept.chain, plugin, &request, &subject, &path, until).err());
    }
    let Some(first) = failed.first() else { return Ok(()) };
    let all: Vec<String> = failed.iter().map(|err| format!("{}: {}", err.what_was_being_done(), err.cause())).collect();
    Err(Error::new(first.kind, format!("take {} off the CNI network {}", kept.title, kept.chain.name), all.join("; ")))
}

/// DEL for everything that a pod holds and nobody else does. Never an error: what plugins could not do is told, kept, and
/// tried again by `prune`. From the id alone, and twice is fine.
pub fn detach(roots: &Roots, pod: &PodId, netns: Option<BorrowedFd<'_>>) -> Vec<String> {
    let until = Instant::now() + FAREWELL.min(patience());
    let mut told = Vec::new();
    for kept in kept::of(roots, pod) {
        match kept::leave(roots, pod, &kept.interface) {
            Ok(Left::Others) => {}
            Ok(Left::Nobody) => told.extend(end(roots, pod, &kept, netns, until).err().map(|err| leaked(&kept, &err))),
            Err(err) => told.push(err.to_string()),
        }
    }
    told
}

fn end(roots: &Roots, pod: &PodId, kept: &Kept, netns: Option<BorrowedFd<'_>>, until: Instant) -> Result<()> {
    remove(roots, kept, netns, until)?;
    fault::point("cni.removed");
    kept::forget(roots, pod, &kept.interface)
}

/// What may be left, and who tries again.
fn leaked(kept: &Kept, err: &Error) -> String {
    let addresses = kept.addresses();
    let what = if addresses.is_empty() { "what it made".to_owned() } else { addresses.join(", ") };
    format!(
        "{}: {}; the CNI network {} may keep {what}: `podrun prune --force` tries again",
        err.what_was_being_done(),
        err.cause(),
        kept.chain.name
    )
}

/// `member` holds what `pod` holds, of one network or of all.
pub fn share(roots: &Roots, pod: &PodId, member: &PodId, network: Option<&str>) -> Result<()> {
    kept::share(roots, pod, member, network)
}

/// Takes an interface from those who share it. Unlike [`detach`] it tells a failure: the pod lives on, with the interface.
pub fn leave(roots: &Roots, network: &str, holders: &[PodId], netns: Option<BorrowedFd<'_>>) -> Result<()> {
    for pod in holders {
        for kept in kept::of(roots, pod).into_iter().filter(|kept| kept.network() == network) {
            if kept::leave(roots, pod, &kept.interface)? == Left::Nobody {
                end(roots, pod, &kept, netns, Instant::now() + patience())?;
            }
        }
    }
    Ok(())
}

/// The networks of which a pod holds something.
pub fn held_by(roots: &Roots, pod: &PodId) -> Vec<String> {
    kept::of(roots, pod).iter().map(Kept::network).collect()
}

/// CHECK of what a pod holds: each network with what its plugins say.
pub fn check(roots: &Roots, pod: &PodId, netns: BorrowedFd<'_>) -> Vec<(String, Result<()>)> {
    let all = kept::of(roots, pod).into_iter().rev();
    // CHECK came with 0.4.0.
    let all = all.filter(|kept| kept.chain.version >= Version(0, 4, 0) && !kept.chain.disable_check);
    all.map(|kept| (kept.network(), check_one(roots, &kept, netns))).collect()
}

fn check_one(roots: &Roots, kept: &Kept, netns: BorrowedFd<'_>) -> Result<()> {
    let way = Way::open(roots, &kept.netns, Some(netns))?;
    let (subject, until) = (subject(kept, &way), Instant::now() + patience());
    for plugin in &kept.chain.plugins {
        let request = kept.chain.request(plugin, &kept.runtime, kept.result.as_ref());
        exec::ask(Verb::Check, &kept.chain, plugin, &request, &subject, &kept.path, until)?;
    }
    Ok(())
}

/// Whether an attachment's pods are gone: of this run-root by its directories, of any other by the boot.
fn is_dead(roots: &Roots, held: &Held, lives: &impl Fn(&PodId) -> bool) -> bool {
    match held.kept.run_root == roots.run {
        true => !held.holders.iter().any(lives),
        false => held.kept.boot != kept::boot(),
    }
}

/// What belongs to no live pod: DEL by what is kept, then GC of the networks that podrun has used.
pub(super) fn prune(roots: &Roots, lives: &impl Fn(&PodId) -> bool, how: Prune) -> Vec<String> {
    let (all, broken) = kept::all(roots);
    let mut said: Vec<String> = broken.iter().map(ToString::to_string).collect();
    let until = Instant::now() + patience();
    for held in all.into_iter().filter(|held| is_dead(roots, held, lives)) {
        match how {
            Prune::DryRun => said.push(say(&held.kept)),
            Prune::Now => match bury_one(roots, &held, until) {
                Ok(()) => said.push(say(&held.kept)),
                Err(err) => said.push(format!("nothing of {}: {}", say(&held.kept), leaked(&held.kept, &err))),
            },
        }
    }
    if how == Prune::Now {
        said.extend(collect(roots));
        kept::forget_empty(roots);
        let _ = fs::remove_dir(roots.run.join("netns"));
    }
    said
}

fn say(kept: &Kept) -> String {
    let addresses = kept.addresses();
    let with = if addresses.is_empty() { String::new() } else { format!(" with {}", addresses.join(", ")) };
    format!("the CNI attachment of {} to {}{with}", kept.title, kept.chain.name)
}

fn bury_one(roots: &Roots, held: &Held, until: Instant) -> Result<()> {
    remove(roots, &held.kept, None, until)?;
    held.holders.iter().try_for_each(|pod| kept::forget(roots, pod, &held.kept.interface))
}

/// What pods of an earlier boot have left, before the first address is asked for: a plugin's range is not to run out
/// because nobody ever runs `prune`.
fn bury(roots: &Roots) -> Result<()> {
    let boot = kept::boot();
    let (all, _) = kept::all(roots);
    let until = Instant::now() + FAREWELL;
    for held in all.iter().filter(|held| held.kept.boot != boot) {
        // What fails is `prune`'s to tell.
        let _ = bury_one(roots, held, until);
    }
    Ok(())
}

/// GC with everybody's attachments that are known: podrun's, and those of other runtimes on the same network, which libcni
/// keeps at a place of its own.
fn collect(roots: &Roots) -> Vec<String> {
    let done = kept::used(roots).into_iter().map(|chain| (collect_in(roots, &chain), chain));
    let failed = done.filter_map(|(done, chain)| Some((done.err()?, chain)));
    let told = failed.map(|(err, chain)| {
        format!("nothing of the CNI network {} by GC: {}: {}", chain.name, err.what_was_being_done(), err.cause())
    });
    told.collect()
}

fn collect_in(roots: &Roots, chain: &Chain) -> Result<()> {
    let _alone = kept::hold_network(roots, &chain.name, Hold::Exclusive)?;
    let own = kept::all(roots).0.into_iter().map(|held| held.kept).filter(|kept| kept.chain.name == chain.name);
    let mut valid: Vec<Value> =
        own.map(|kept| json!({"containerID": kept.container, "ifname": kept.interface})).collect();
    let is_last = valid.is_empty();
    valid.extend(strangers(Path::new(LIBCNI), &chain.name));
    if chain.version >= Version(1, 1, 0) && !chain.disable_gc {
        collect_one(chain, &valid)?;
    }
    if is_last {
        kept::forget_use(roots, &chain.name);
    }
    Ok(())
}

fn collect_one(chain: &Chain, valid: &[Value]) -> Result<()> {
    let (path, until) = (Places::of_this_host().plugins, Instant::now() + FAREWELL);
    let mut first = Ok(());
    for plugin in &chain.plugins {
        let mut request = chain.request(plugin, &Map::new(), None);
        // The specification's key, and the one that libcni 1.2 first had.
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            request.insert(key.to_owned(), valid.into());
        }
        let done = exec::ask(Verb::Gc, chain, plugin, &request, &Subject::default(), &path, until);
        first = first.and(done.map(drop));
    }
    first
}

/// libcni's cache: containerd, CRI-O and podman keep their attachments there.
const LIBCNI: &str = "/var/lib/cni/results";

fn strangers(directory: &Path, network: &str) -> Vec<Value> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let all = files.filter_map(|entry| serde_json::from_slice::<Value>(&fs::read(entry.path()).ok()?).ok());
    let of_it = all.filter(|one| one["networkName"] == network);
    of_it.map(|one| json!({"containerID": one["containerId"], "ifname": one["ifName"]})).collect()
}

/// What pods' resolv.conf is to have from their chains, where their user said nothing.
pub fn dns(attachments: &[Attachment]) -> files::Dns {
    let all: Vec<&Dns> = attachments.iter().filter_map(|one| one.dns.as_ref()).collect();
    files::Dns {
        servers: all.iter().flat_map(|dns| &dns.nameservers).copied().collect(),
        searches: all.iter().flat_map(|dns| dns.searches()).collect(),
        options: all.iter().flat_map(|dns| &dns.options).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_of_other_runtimes_are_known_to_gc() {
        let dir = std::env::temp_dir().join(format!("podrun-libcni-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let kept = r#"{"kind": "cniCacheV1", "containerId": "abc", "ifName": "eth0", "networkName": "net"}"#;
        fs::write(dir.join("net-abc-eth0"), kept).unwrap();
        fs::write(dir.join("broken"), "{").unwrap();
        let found = (strangers(&dir, "net"), strangers(&dir, "other"));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found, (vec![json!({"containerID": "abc", "ifname": "eth0"})], vec![]));
        assert_eq!(strangers(Path::new("/nonexistent"), "net"), Vec::<Value>::new());
    }

    #[test]
    fn a_rate_comes_with_a_burst_that_is_neither_nothing_nor_everything() {
        let rate = |ingress, egress| limits(&Bandwidth { ingress, egress });
        assert_eq!(rate(Some(8_000_000), None), json!({"ingressRate": 8_000_000, "ingressBurst": 2_000_000}));
        assert_eq!(rate(None, Some(1000)), json!({"egressRate": 1000, "egressBurst": 524_288}));
    }
}
