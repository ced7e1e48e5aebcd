//! `create pod`: the sandbox, its network, its keepers, its record.

#![forbid(unsafe_code)]

use super::find;
use crate::cgroup::{self, Cgroup, Layout};
use crate::container::planning::{self, Host};
use crate::error::{self, Doing, Error, Kind, Result};
use crate::fault;
use crate::id::{PodId, PodName};
use crate::monitor::{self, PodFacts, keep, key};
use crate::net::files::{self, Dns, HostEntry};
use crate::net::names::Names;
use crate::net::{self, Attachment, definition};
use crate::privilege::Privilege;
use crate::record::Stamp;
use crate::rootless;
use crate::roots::Roots;
use crate::sandbox::{self, Waiting, Wanted};
use crate::spec::{Network, Owner, Owners, PodSpec};
use crate::store::{self, Networks, PodDir, PodRecord};
use crate::sys::calls::{self, Need};
use crate::sys::clone::pidfd_send_signal;
use crate::sys::socket::{self, Traffic};
use crate::sys::{cred, fd, ns};
use crate::text::Text;
use std::ffi::CString;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// A pod that was made, and what its user should know.
#[derive(Debug)]
pub struct Created {
    pub record: PodRecord,
    pub attachments: Vec<Attachment>,
    pub warnings: Vec<String>,
}

/// What must be undone when a later step fails: everything that follows from the id.
struct Unmade<'a> {
    roots: &'a Roots,
    spec: &'a PodSpec,
    id: &'a PodId,
    layout: &'a Layout,
    pause: Option<Waiting>,
    netns: Option<OwnedFd>,
}

impl Drop for Unmade<'_> {
    fn drop(&mut self) {
        // Plugins first, while there is a network namespace for them to look into.
        let netns = self.netns.take();
        net::cni::detach(self.roots, self.id, netns.as_ref().map(AsFd::as_fd));
        if let Some(pause) = self.pause.take() {
            super::delete::kill_keepers(self.roots, self.id, &pause.child.pidfd);
        }
        let name = Some((&self.spec.namespace, &self.spec.name));
        let _ = super::delete::remove_from_host(self.roots, self.id, name, self.layout);
    }
}

pub fn create(roots: &Roots, spec: &PodSpec) -> Result<Created> {
    let doing = format!("create the pod {}", spec.name);
    let host = probe()?;
    store::make_private_dir(&roots.run, 0o711)?;
    store::make_private_dir(&roots.root, 0o700)?;
    if !roots.pods().exists() {
        // The first pod since a reboot: what those before it left on disk is nobody's.
        super::prune::reclaim(roots, &host.cgroups)?;
    }
    store::make_private_dir(&roots.pods(), 0o700)?;
    store::make_private_dir(&roots.names(), 0o700)?;
    let id = PodId::random(fd::random().doing(|| doing.clone())?);
    let dir = PodDir(roots.pod(&id));
    std::fs::DirBuilder::new().create(&dir.0).doing(|| format!("make {}", dir.0.display()))?;
    let lock = match begin(roots, spec, &id, &dir) {
        Ok(lock) => lock,
        Err(err) => {
            let _ = std::fs::remove_dir_all(&dir.0);
            return Err(err);
        }
    };
    let networks = net::made(roots)?;
    let mut unmade = Unmade { roots, spec, id: &id, layout: &host.cgroups, pause: None, netns: None };
    match make(New { roots, spec, id: &id, dir: &dir, host: &host }, &mut unmade) {
        Ok(created) => {
            std::mem::forget(unmade);
            drop(lock);
            catch_up(roots, created)
        }
        Err(err) => {
            drop(unmade);
            // What cannot be undone now, `prune` finds again; the first error is the one to tell.
            let _ = net::take_back(roots, &networks);
            Err(err.within(doing))
        }
    }
}

/// Whoever connects the pod whose network is joined sees this one only from now on.
fn catch_up(roots: &Roots, created: Created) -> Result<Created> {
    let Network::Pod(name) = &created.record.network else { return Ok(created) };
    let pod = find::pod(roots, &created.record.namespace, created.record.id.as_str())?;
    if let Ok(other) = find::pod(roots, &created.record.namespace, name.as_str()) {
        super::network::catch_up(&pod, &other)?;
    }
    Ok(Created { attachments: pod.attachments(), ..created })
}

/// Locks the pod's directory and takes its name.
fn begin(roots: &Roots, spec: &PodSpec, id: &PodId, dir: &PodDir) -> Result<store::Locked> {
    fault::step("create-pod.directory").doing(|| "make the pod".into())?;
    let lock = store::lock(dir)?;
    fault::step("create-pod.locked").doing(|| "make the pod".into())?;
    reserve(roots, spec, id)?;
    Ok(lock)
}

/// The facts about this machine that plans need.
pub fn probe() -> Result<Host> {
    let needed = caps::Capability::CAP_SYS_ADMIN.bitmask();
    let capabilities = own_capabilities();
    if cred::effective_uid() != 0 || capabilities & needed == 0 {
        return Err(Error::new(Kind::Unsupported, "make a pod", "podrun needs CAP_SYS_ADMIN, and it is withheld")
            .hint("run it as root with that, or as a user in whose namespace it may have it"));
    }
    facts("make a pod", capabilities, || {
        let (soft, hard) = cred::getrlimit(1, libc::RLIMIT_NOFILE).unwrap_or((1024, 4096));
        let (_, own) = cred::getrlimit(0, libc::RLIMIT_NOFILE).unwrap_or((soft, hard));
        Ok((soft.min(own), hard.min(own)))
    })
}

pub(super) fn own_capabilities() -> u64 {
    crate::caps::mask(caps::read(None, caps::CapSet::Permitted).unwrap_or_default())
}

/// Those that do not depend on who asks; `doing` is what they are asked for.
pub(super) fn facts(doing: &str, capabilities: u64, open_files: impl FnOnce() -> Result<(u64, u64)>) -> Result<Host> {
    if let Some(call) = calls::missing().find(|call| call.need == Need::Always) {
        return Err(error::without(&[call], doing));
    }
    let score = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
    Ok(Host { cgroups: Layout::detect()?, open_files: open_files()?, capabilities, oom_score_adj: score.unwrap_or(0) })
}

/// Takes the name. One that belongs to a pod whose making was cut short is taken over.
fn reserve(roots: &Roots, spec: &PodSpec, id: &PodId) -> Result<()> {
    let link = roots.name(&spec.namespace, &spec.name);
    for _ in 0..3 {
        match std::os::unix::fs::symlink(roots.pod(id), &link) {
            Ok(()) => return Ok(()),
            Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(err).doing(|| format!("reserve the name {}", spec.name)),
        }
        match find::directory(roots, &spec.namespace, spec.name.as_str()) {
            Ok((_, other)) if !store::is_half_made(&other) => return Err(taken(&spec.name)),
            Ok((old, _)) => {
                let name = Some((&spec.namespace, &spec.name));
                super::delete::dismiss_plugins(roots, &old);
                super::delete::remove_from_host(roots, &old, name, &Layout::detect()?)?;
            }
            // Gone in this moment.
            Err(_) => {}
        }
    }
    Err(taken(&spec.name))
}

fn taken(name: &PodName) -> Error {
    Error::new(Kind::AlreadyExists, format!("create the pod {name}"), "a pod of this name is there")
        .hint(format!("`podrun delete pod {name}` removes it"))
}

/// What is known of a pod before anything of it is made.
#[derive(Debug, Clone, Copy)]
struct New<'a> {
    roots: &'a Roots,
    spec: &'a PodSpec,
    id: &'a PodId,
    dir: &'a PodDir,
    host: &'a Host,
}

fn make(new: New<'_>, unmade: &mut Unmade<'_>) -> Result<Created> {
    let New { roots, spec, id, dir, host } = new;
    fault::step("create-pod.named").doing(|| "make the pod".into())?;
    let hostname = Text::new("the hostname", spec.hostname.clone())?;
    let neighbour = neighbour(roots, spec)?;
    check_links(roots, spec)?;
    let names = names(spec);
    refuse_out_of_reach(spec)?;
    let asks = asks(roots, spec, id)?;
    net::pasta::refuse(if *spec.network() == Network::Pasta { &asks.ports } else { &[] })?;
    fault::step("create-pod.claimed").doing(|| "make the pod".into())?;
    let sysctl = sysctls(spec)?;
    let place = cgroup::Place::pod(&roots.cgroup(), id);
    Cgroup::create(&cgroup::plan::pod(&host.cgroups, &place, None)?)?;
    fault::step("create-pod.cgroup").doing(|| "make the pod".into())?;
    let home = Cgroup::create(&cgroup::plan::own(&host.cgroups, &place.own(), None)?)?;
    fault::step("create-pod.own-cgroup").doing(|| "make the pod".into())?;
    let (pause, sandbox) = start_pause(new, &hostname, &sysctl, neighbour.as_ref(), &home)?;
    let pause = unmade.pause.insert(pause);
    let netns = unmade.netns.insert(sandbox.net);
    let (attachments, mut warnings) = match (spec.network(), &neighbour) {
        (Network::Pod(_), Some(other)) => {
            net::share(roots, &other.record.id, id)?;
            (other.attachments(), Vec::new())
        }
        (Network::Host | Network::None | Network::Pod(_) | Network::Netns(_), _) => (Vec::new(), Vec::new()),
        (Network::Pasta, _) => {
            let tasks = home.tasks()?;
            let home = net::pasta::Home { unified: home.unified_fd(), tasks: Some(&tasks) };
            (vec![net::pasta::attach(roots, id, netns.as_fd(), home)?], Vec::new())
        }
        _ => {
            let title = store::title(&spec.namespace, &spec.name);
            let pod = net::Pod { id, title: &title, netns: netns.as_fd(), beside: &[], asks: &asks, names: &names };
            let (attachments, warnings) = net::attach(roots, &pod, &spec.networks)?;
            if asks.ports_by.is_none() {
                net::ports::open(roots, id, &attachments)?;
            }
            fault::step("create-pod.published").doing(|| "make the pod".into())?;
            (attachments, warnings)
        }
    };
    fault::step("create-pod.attached").doing(|| "make the pod".into())?;
    pause.confirm(&sysctl)?;
    fault::step("create-pod.pause-runs").doing(|| "make the pod".into())?;
    warnings.extend(write_files(dir, spec, &attachments)?);
    fault::step("create-pod.files").doing(|| "make the pod".into())?;
    make_volumes(roots, spec, id)?;
    fault::step("create-pod.volumes").doing(|| "make the pod".into())?;
    store::write(&dir.networks(), &Networks::new(attachments.clone()))?;
    let words = spec.networks.iter().map(|one| one.network.known_since());
    let record = PodRecord {
        version: store::VERSION,
        // A build that does not know the word cannot read the record.
        readable_since: words.max().unwrap_or_default().max(store::wiring_known_since(&attachments)),
        id: id.clone(),
        name: spec.name.clone(),
        namespace: spec.namespace.clone(),
        created_at: Stamp::now().text(),
        hostname: hostname.lossy().into_owned(),
        network: spec.network().clone(),
        attachment: attachments.first().cloned(),
        network_of: neighbour.map(|other| other.record.network_of.unwrap_or(other.record.id)),
        share_pid: spec.pid,
        owners: owners(spec),
        labels: spec.labels.clone(),
        volumes: spec.volumes.iter().map(ToString::to_string).collect(),
        sysctl: spec.sysctl.clone(),
        names,
        host: host.clone(),
        root: roots.root.clone(),
        run_root: roots.run.clone(),
        warnings: warnings.clone(),
    };
    store::write(&dir.record(), &record)?;
    fault::step("create-pod.recorded").doing(|| "make the pod".into())?;
    Ok(Created { record, attachments, warnings })
}

/// What belongs to the host's own network is root's, and pasta is for those who are not.
fn refuse_out_of_reach(spec: &PodSpec) -> Result<()> {
    let is_user = Privilege::own() != Privilege::Host;
    let reachable = |network: &Network| match network {
        Network::Pasta => is_user,
        Network::Host | Network::None | Network::Pod(_) | Network::Netns(_) => true,
        _ => !is_user,
    };
    let Some(one) = spec.networks.iter().find(|one| !reachable(&one.network)) else { return Ok(()) };
    let doing = format!("attach it to {}", one.network);
    Err(match is_user {
        true => Error::new(Kind::Unsupported, doing, "the host's links and firewall are for root to change")
            .hint("without root there are --network pasta, none, host and pod:NAME"),
        false => Error::new(Kind::Unsupported, doing, "pasta is the way out of users who are not root")
            .hint("root has --network bridge, which is faster"),
    })
}

/// Takes the host's ports, and says what plugins are to be told of them and of names.
fn asks(roots: &Roots, spec: &PodSpec, id: &PodId) -> Result<net::cni::Asks> {
    let ports_by = match spec.publish.is_empty() {
        true => None,
        false => net::cni::port_mapper(&spec.networks)?,
    };
    let binding = match spec.publish.is_empty() || ports_by.is_some() {
        true => None,
        false => host_binding(roots, spec)?,
    };
    let ports = net::ports::claim(roots, id, &net::ports::at_binding(&spec.publish, binding))?;
    Ok(net::cni::Asks { ports, ports_by, dns: wished_dns(spec) })
}

/// Where the network that ports are published on has those that name no address of the host's.
fn host_binding(roots: &Roots, spec: &PodSpec) -> Result<Option<IpAddr>> {
    for one in spec.networks.iter().filter(|one| one.may_have_ports()) {
        let (_, definition) = definition::of(roots, one)?;
        if definition.has_a_way_in() {
            return Ok(definition.host_binding);
        }
    }
    Ok(None)
}

fn wished_dns(spec: &PodSpec) -> Dns {
    Dns { servers: spec.dns.clone(), searches: spec.dns_search.clone(), options: spec.dns_options.clone() }
}

/// What name servers are to know. The host's own hostname is no pod's.
fn names(spec: &PodSpec) -> Names {
    let links = spec.links.iter().map(|link| (link.alias.to_string(), link.pod.to_string())).collect();
    let mut names = Names { more: Vec::new(), links, servers: spec.dns.clone() };
    if spec.uts == Owner::Pod {
        names.add_hostname(&spec.hostname, spec.name.as_str());
    }
    names
}

/// Each pod that is linked is there, on a network of the new one's that resolves names.
fn check_links(roots: &Roots, spec: &PodSpec) -> Result<()> {
    if spec.links.is_empty() {
        return Ok(());
    }
    let named = spec.networks.iter().filter(|one| one.may_have_names()).map(|one| definition::of(roots, one));
    let named = named.collect::<Result<Vec<_>>>()?;
    for link in &spec.links {
        let other = find::pod(roots, &spec.namespace, link.pod.as_str())?;
        let on = other.attachments();
        let shared = |(name, definition): &(String, definition::Definition)| {
            definition.resolves_names() && on.iter().any(|one| one.network == *name)
        };
        if !named.iter().any(shared) {
            let on: Vec<&str> = on.iter().map(|one| one.network.as_str()).collect();
            let cause = "they have no network in common that resolves names";
            let err = Error::new(Kind::Invalid, format!("link the pod {}", link.pod), cause);
            return Err(if on.is_empty() { err } else { err.hint(format!("{} is on {}", link.pod, on.join(", "))) });
        }
    }
    Ok(())
}

/// Which server of podrun's a pod asks. One that was given a server on its own loopback asks that; so does one that joined
/// another's network and was given any, since the network's servers are the other's.
pub fn name_server(network: &Network, asks: &[IpAddr], attachments: &[Attachment]) -> Option<IpAddr> {
    let own = asks.iter().any(IpAddr::is_loopback) || (matches!(network, Network::Pod(_)) && !asks.is_empty());
    net::name_server(attachments).filter(|_| !own)
}

/// The pod whose network is joined.
fn neighbour(roots: &Roots, spec: &PodSpec) -> Result<Option<find::Pod>> {
    match spec.network() {
        Network::Pod(name) => {
            let other = find::pod(roots, &spec.namespace, name.as_str())?;
            super::heal::ensure_served(&other)?;
            Ok(Some(other))
        }
        _ => Ok(None),
    }
}

fn owners(spec: &PodSpec) -> Owners {
    Owners { net: if spec.network().is_own() { Owner::Pod } else { Owner::Host }, uts: spec.uts, ipc: spec.ipc }
}

/// By default everybody in a pod may ping and take low ports: both are its own netns's business.
fn sysctls(spec: &PodSpec) -> Result<Vec<(Text, Text)>> {
    let owners = owners(spec);
    let mut planned = Vec::new();
    if owners.net == Owner::Pod {
        let everybody = format!("0 {}", last_group());
        for (key, value) in
            [("net.ipv4.ping_group_range", everybody.as_str()), ("net.ipv4.ip_unprivileged_port_start", "0")]
        {
            if !spec.sysctl.iter().any(|(asked, _)| asked == key) {
                planned.push(planning::sysctl("the sysctl", key, value, owners)?);
            }
        }
    }
    if *spec.network() == Network::Pasta && Path::new("/proc/net/if_inet6").exists() {
        // Nobody else is on the link who could have its address, or who should be believed. Without it a caller by IPv6 would
        // wait in the pod's first seconds.
        for key in ["net.ipv6.conf.default.accept_dad", "net.ipv6.conf.default.accept_ra"] {
            planned.push(planning::sysctl("the sysctl", key, "0", owners)?);
        }
    }
    for (key, value) in &spec.sysctl {
        planned.push(planning::sysctl("the sysctl", key, value, owners)?);
    }
    Ok(planned)
}

/// The last one that the kernel takes here: in a user namespace, that has one (user_namespaces(7), gid_map).
fn last_group() -> u32 {
    /// Of icmp(7)'s own range.
    const LAST: u32 = i32::MAX.cast_unsigned();
    if Privilege::own() == Privilege::Host {
        return LAST;
    }
    rootless::last_group().min(LAST)
}

/// Descriptors of a sandbox that was just made.
struct Made {
    net: OwnedFd,
}

fn start_pause(
    New { roots, spec, id, dir, host }: New<'_>,
    hostname: &Text,
    sysctl: &[(Text, Text)],
    neighbour: Option<&find::Pod>,
    home: &Cgroup,
) -> Result<(Waiting, Made)> {
    let doing = || "make the sandbox".to_owned();
    let program = sandbox::pause_program(roots)?;
    let own = sandbox::own_program()?;
    let (a, b) = keep::pair().doing(doing)?;
    let (status, status_write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK).doing(doing)?;
    let door = socket::listen(&dir.socket(), Traffic::Stream).doing(|| format!("make {}", dir.socket().display()))?;
    let joined_net = match (spec.network(), neighbour) {
        (Network::Netns(path), _) => Some(open_network_namespace(path)?),
        (_, neighbour) => neighbour.map(network_namespace).transpose()?,
    };
    let tasks = home.tasks()?;
    let own_if = |owner: Owner, flag: i32| if owner == Owner::Pod { flag } else { 0 };
    let new = own_if(spec.uts, libc::CLONE_NEWUTS)
        | own_if(spec.ipc, libc::CLONE_NEWIPC)
        | if spec.network().is_own() { libc::CLONE_NEWNET } else { 0 };
    let mut held = vec![a.as_fd(), b.as_fd(), status.as_fd(), status_write.as_fd(), own.as_fd()];
    let argv = [monitor::ARGV0.to_owned(), dir.0.to_string_lossy().into_owned()];
    let argv: std::result::Result<Vec<CString>, _> = argv.into_iter().map(CString::new).collect();
    let mut wanted = Wanted {
        new,
        joined: joined_net.iter().map(|net| (net.as_fd(), libc::CLONE_NEWNET)).collect(),
        hostname: (spec.uts == Owner::Pod).then_some(hostname),
        sysctl,
        cgroup: home.unified_fd(),
        tasks: Some(&tasks),
        held: &[],
        argv: argv.map_err(|_| Error::new(Kind::Invalid, doing(), "the run-root holds a NUL byte"))?,
        program: program.as_fd(),
    };
    // Of a user's pod pause holds the namespaces, and is in none of them.
    let rootless = Privilege::own() != Privilege::Host;
    let apart = if rootless { Some(sandbox::namespaces(&wanted)?) } else { None };
    if let Some(apart) = &apart {
        held.extend(apart.iter().map(AsFd::as_fd));
        (wanted.new, wanted.joined, wanted.hostname, wanted.sysctl) = (0, Vec::new(), None, &[]);
    }
    wanted.held = &held;
    let waiting = sandbox::start(&wanted)?;
    fault::step("create-pod.pause-waits").doing(|| "make the pod".into())?;
    // It waits at its gate, so its namespaces are what it was born with.
    let of = |kind: &str| ns::of(waiting.child.pid, kind).doing(doing);
    let copy = |fd: &OwnedFd| fd.try_clone().doing(doing);
    let (net, uts, ipc) = match (&apart, joined_net) {
        (Some([net, uts, ipc]), _) => (copy(net)?, copy(uts)?, copy(ipc)?),
        (None, Some(net)) => (net, of("uts")?, of("ipc")?),
        (None, None) => (of("net")?, of("uts")?, of("ipc")?),
    };
    let mine = |kind: &str| ns::own(kind).doing(doing);
    let (host_net, host_uts, host_ipc) = (mine("net")?, mine("uts")?, mine("ipc")?);
    let facts = PodFacts {
        id: id.clone(),
        name: spec.name.clone(),
        namespace: spec.namespace.clone(),
        root: roots.root.clone(),
        run_root: roots.run.clone(),
        share_pid: spec.pid,
        cgroups: host.cgroups.clone(),
        rootless,
    };
    let body = serde_json::to_value(&facts).map_err(std::io::Error::from).doing(doing)?;
    let mut first = keep::Store::new(copy(&a)?, copy(&b)?);
    let six = [&host_net, &host_uts, &host_ipc, &net, &uts, &ipc].map(AsFd::as_fd);
    first.put(key::POD, &body, &six).doing(doing)?;
    first.put(key::DOOR, &serde_json::Value::Null, &[door.as_fd()]).doing(doing)?;
    fault::step("create-pod.stored").doing(|| "make the pod".into())?;
    waiting.release();
    Ok((waiting, Made { net }))
}

/// Somebody else's. It may be a pipe or a terminal by mistake, which must not hold us up.
fn open_network_namespace(path: &Path) -> Result<OwnedFd> {
    let doing = || format!("join the network namespace {}", path.display());
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let found = OwnedFd::from(file.doing(doing)?);
    match ns::kind(found.as_fd()) {
        Ok(libc::CLONE_NEWNET) => Ok(found),
        _ => Err(Error::new(Kind::Invalid, doing(), "it is no network namespace")
            .hint("`ip netns add NAME` makes /run/netns/NAME; a process has /proc/PID/ns/net")),
    }
}

/// The network namespace of a pod that lives, by its pause or its monitor's word.
pub fn network_namespace(pod: &find::Pod) -> Result<OwnedFd> {
    let doing = || format!("join the network of {}", pod.record.title());
    // The record may be a moment away while the first monitor comes up.
    for _ in 0..500 {
        if let Some(net) = network_namespace_now(&pod.dir) {
            return Ok(net);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(Error::new(Kind::NotNow, doing(), "its pause is not there"))
}

/// The same without waiting, for whoever does without.
pub(super) fn network_namespace_now(dir: &PodDir) -> Option<OwnedFd> {
    let keepers = store::read::<store::Keepers>(&dir.keepers()).ok()?;
    let held = keepers.pause.open()?;
    let net = OwnedFd::from(std::fs::File::open(keepers.namespace("net")).ok()?);
    // Still alive after the open: the number was pause's all the time.
    pidfd_send_signal(held.as_fd(), 0).is_ok().then_some(net)
}

/// /etc/hosts, /etc/hostname and /etc/resolv.conf for the pod's containers.
fn write_files(dir: &PodDir, spec: &PodSpec, attachments: &[Attachment]) -> Result<Vec<String>> {
    let addresses: Vec<IpAddr> =
        attachments.iter().flat_map(|attachment| &attachment.addresses).map(|cidr| cidr.address).collect();
    let gateway = attachments.iter().find_map(|attachment| attachment.gateway);
    let extra: Result<Vec<HostEntry>> = spec.add_hosts.iter().map(|text| HostEntry::parse(text, gateway)).collect();
    let host_resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let systemd = || std::fs::read_to_string(files::SYSTEMD).ok();
    // What the user said, then what the network's plugins say, then the host.
    let (wish, said) = (wished_dns(spec), net::cni::dns(attachments));
    fn or<T>(wish: Vec<T>, said: Vec<T>) -> Vec<T> {
        if wish.is_empty() { said } else { wish }
    }
    let dns = Dns {
        servers: or(wish.servers, said.servers),
        searches: or(wish.searches, said.searches),
        options: or(wish.options, said.options),
    };
    let loopback = match spec.network() {
        Network::Host => files::Loopback::Host,
        _ => files::Loopback::Own,
    };
    let names = name_server(spec.network(), &spec.dns, attachments);
    let (resolv, warnings) = files::resolv_conf(&host_resolv, systemd, &dns, loopback, names)?;
    let write = |name: &str, text: String| {
        let path = dir.0.join(name);
        std::fs::write(&path, text)
            .and_then(|()| {
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
            })
            .doing(|| format!("write {}", path.display()))
    };
    write("hosts", files::hosts(&addresses, &spec.hostname, &extra?)?)?;
    write("hostname", files::hostname(&spec.hostname)?)?;
    write("resolv.conf", resolv)?;
    Ok(warnings)
}

fn make_volumes(roots: &Roots, spec: &PodSpec, id: &PodId) -> Result<()> {
    if spec.volumes.is_empty() {
        return Ok(());
    }
    store::make_private_dir(&roots.root, 0o711)?;
    store::make_private_dir(&roots.root.join("volumes"), 0o700)?;
    for volume in &spec.volumes {
        let path = roots.volumes(id).join(volume.as_str());
        std::fs::create_dir_all(&path).doing(|| format!("make the volume {}", path.display()))?;
    }
    Ok(())
}
