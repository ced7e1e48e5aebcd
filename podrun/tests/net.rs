//! A pod's network on the real kernel. Each case runs in network and mount namespaces of its own, with its own roots
//! on a tmpfs there, so that nothing is seen or left on the host.

#![allow(clippy::print_stdout, clippy::print_stderr)] // to the parent process, and the measured times

use nix::sched::{CloneFlags, setns, unshare};
use podrun::error::{Kind, Result};
use podrun::id::PodId;
use podrun::net::ipam::survey;
use podrun::net::names::Names;
use podrun::net::{Attachment, Finding, Prune, State, attach, detach, findings, prune, share};
use podrun::roots::Roots;
use podrun::spec::{Attach, Network};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Names the case that a child is to run.
const CASE: &str = "PODRUN_NET_CASE";
/// Tells a child to make one pod, `<id>@<run-root>`, and to hold it until it is killed; or, `doctor@<run-root>`, to
/// say what is bad.
const HOLD: &str = "PODRUN_NET_HOLD";

/// Runs `case`, the test called `name`, in a child with namespaces of its own.
fn isolated(name: &str, case: fn(Host)) {
    if let Ok(pod) = std::env::var(HOLD) {
        return hold(&pod);
    }
    if std::env::var(CASE).is_ok_and(|running| running == name) {
        return case(Host::new());
    }
    let child = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .output()
        .unwrap();
    let said = [child.stdout, child.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    said.lines().filter(|line| line.starts_with("measured")).for_each(|line| eprintln!("{name}: {line}"));
}

macro_rules! cases {
    ($($(#[$doc:meta])* fn $name:ident($host:ident) $body:block)*) => {
        $($(#[$doc])* #[test] fn $name() {
            fn case($host: Host) $body
            isolated(stringify!($name), case);
        })*
    };
}

/// A host of its own: empty network namespace, roots on a tmpfs.
struct Host {
    roots: Roots,
}

struct Pod {
    id: PodId,
    netns: OwnedFd,
    attachment: Attachment,
    warnings: Vec<String>,
}

impl Host {
    fn new() -> Self {
        sh("mount -t tmpfs tmpfs /mnt && ip link set lo up");
        Self::with_run_root("/mnt/run")
    }

    fn with_run_root(run: &str) -> Self {
        let roots = Roots { root: "/mnt/root".into(), run: run.into() };
        fs::create_dir_all(roots.networks()).unwrap();
        // Name servers are podrun's own program, which this is not.
        let definition = roots.networks().join("bridge.json");
        if !definition.exists() {
            fs::write(definition, r#"{"disableDns": true}"#).unwrap();
        }
        Self { roots }
    }

    fn subnet(self, subnet: &str) -> Self {
        let definition = format!("{{\"subnet\": {subnet:?}, \"disableDns\": true}}");
        fs::write(self.roots.networks().join("bridge.json"), definition).unwrap();
        self
    }

    fn id(&self) -> PodId {
        let mut random = [0; 16];
        File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
        let id = PodId::random(random);
        fs::create_dir_all(self.roots.pod(&id)).unwrap();
        id
    }

    fn attach(&self, netns: OwnedFd) -> Result<Pod> {
        let id = self.id();
        match attach_bridge(&self.roots, &id, &netns) {
            Ok((attachment, warnings)) => Ok(Pod { id, netns, attachment, warnings }),
            Err(err) => {
                self.forget(&id);
                Err(err)
            }
        }
    }

    fn refused(&self, netns: OwnedFd) -> podrun::error::Error {
        self.attach(netns).map(|pod| pod.attachment).unwrap_err()
    }

    fn pod(&self) -> Pod {
        self.attach(netns()).unwrap()
    }

    fn forget(&self, id: &PodId) {
        fs::remove_dir(self.roots.pod(id)).unwrap();
    }

    /// As `podrun delete pod` does it: detach, let the namespace go, forget.
    fn delete(&self, pod: Pod) {
        detach(&self.roots, &pod.id).unwrap();
        self.forget(&pod.id);
        drop(pod.netns);
    }

    fn leases(&self) -> usize {
        survey(&self.roots.leases().join("bridge")).unwrap().len()
    }

    fn prune(&self) -> Vec<String> {
        prune(&self.roots, &[], Prune::Now).unwrap()
    }

    fn would_prune(&self, live: &[PodId]) -> Vec<String> {
        prune(&self.roots, live, Prune::DryRun).unwrap()
    }

    fn bad(&self, live: &[PodId]) -> Vec<Finding> {
        findings(&self.roots, live).into_iter().filter(|finding| finding.state == State::Bad).collect()
    }
}

impl Pod {
    fn ip(&self) -> IpAddr {
        self.attachment.addresses[0].address
    }

    fn run(&self, command: &str) -> String {
        within(&self.netns, command)
    }
}

/// Another podrun, with one pod, until it is killed.
struct Other {
    id: PodId,
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Other {
    fn start(host: &Host) -> Self {
        Self::start_with_path(host, &std::env::var("PATH").unwrap())
    }

    fn start_with_path(host: &Host, path: &str) -> Self {
        let id = host.id();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &std::env::var(CASE).unwrap(), "--nocapture"])
            .env(HOLD, format!("{id}@{}", host.roots.run.display()))
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        Self { id, process, said }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        while self.said.read_line(&mut line).unwrap() > 0 {
            if let Some(said) = line.trim_end().strip_prefix("said ") {
                return said.to_owned();
            }
            line.clear();
        }
        panic!("it said no more")
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One interface on the default bridge.
fn attach_bridge(roots: &Roots, id: &PodId, netns: &OwnedFd) -> Result<(Attachment, Vec<String>)> {
    let (asks, names) = (podrun::net::cni::Asks::default(), Names::default());
    let pod = podrun::net::Pod { id, title: "web", netns: netns.as_fd(), beside: &[], asks: &asks, names: &names };
    let (attachments, warnings) = attach(roots, &pod, &[Attach::from(Network::Bridge)])?;
    Ok((attachments.into_iter().next().unwrap(), warnings))
}

/// What `Other` does.
fn hold(pod: &str) {
    let (id, run) = pod.split_once('@').unwrap();
    let roots = Roots { root: "/mnt/root".into(), run: run.into() };
    if id == "doctor" {
        let told = findings(&roots, &[]);
        let bad = told.into_iter().filter(|finding| finding.state == State::Bad);
        return bad.for_each(|finding| println!("\nsaid {} {}", finding.what, finding.cure.unwrap_or_default()));
    }
    let netns = bare_netns();
    match attach_bridge(&roots, &PodId::parse(id).unwrap(), &netns) {
        Ok((attachment, warnings)) => {
            println!("\nsaid {}", attachment.addresses[0].address);
            warnings.iter().for_each(|warning| println!("said {warning}"));
        }
        Err(err) => println!("\nsaid {err}"),
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn bare_netns() -> OwnedFd {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        here()
    });
    made.join().unwrap()
}

/// A network namespace that lives as long as the descriptor, with loopback up.
fn netns() -> OwnedFd {
    let netns = bare_netns();
    inside(&netns, || sh("ip link set lo up"));
    netns
}

/// The calling thread's network namespace.
fn here() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").unwrap().into()
}

/// Does `work` on a thread inside the namespace.
fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        there.join().unwrap()
    })
}

fn try_sh(command: &str) -> std::result::Result<String, String> {
    let done = Command::new("sh").args(["-c", command]).output().unwrap();
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    if done.status.success() { Ok(said) } else { Err(said) }
}

fn sh(command: &str) -> String {
    try_sh(command).unwrap_or_else(|said| panic!("{command}: {said}"))
}

/// The names of the host's links.
fn links() -> String {
    sh("ip -br link | cut -d' ' -f1")
}

fn path_of(netns: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd())
}

fn within(netns: &OwnedFd, command: &str) -> String {
    sh(&format!("nsenter --net={} -- {command}", path_of(netns)))
}

/// One answer within some seconds, since the machine may be busy.
fn pings(netns: &OwnedFd, to: &str) -> bool {
    pings_within(netns, to, 5)
}

fn pings_within(netns: &OwnedFd, to: &str, seconds: u32) -> bool {
    try_sh(&format!("nsenter --net={} -- ping -c 1 -W {seconds} {to}", path_of(netns))).is_ok()
}

/// What answers nothing answers nothing for a second.
fn silent(netns: &OwnedFd, to: &str) -> bool {
    !pings_within(netns, to, 1)
}

/// Whether the pod answers its host.
fn answers(pod: &Pod) -> bool {
    pings(&here(), &pod.ip().to_string())
}

/// A listener in one place, a connection from another: the address that the listener saw.
fn seen(server: &OwnedFd, at: &str, client: &OwnedFd) -> std::io::Result<String> {
    let at: IpAddr = at.parse().unwrap();
    let listener = inside(server, || TcpListener::bind((at, 0)).unwrap());
    let to: SocketAddr = listener.local_addr().unwrap();
    let mut stream = inside(client, || TcpStream::connect_timeout(&to, Duration::from_secs(3)))?;
    let (mut accepted, from) = listener.accept()?;
    accepted.write_all(b"hello")?;
    drop(accepted);
    let mut word = String::new();
    stream.read_to_string(&mut word)?;
    assert_eq!(word, "hello");
    Ok(from.ip().to_string())
}

/// Another machine, the host's way out, which knows nothing of pods.
fn lan() -> OwnedFd {
    let lan = netns();
    sh(&format!("ip link add lan0 type veth peer name eth0 netns {}", path_of(&lan)));
    sh("ip addr add 198.51.100.1/24 dev lan0 && ip link set lan0 up");
    within(&lan, "ip addr add 198.51.100.2/24 dev eth0");
    within(&lan, "ip link set eth0 up");
    sh("ip route add default via 198.51.100.2");
    lan
}

const LAN: &str = "198.51.100.2";

/// Everything on the host that podrun could have changed, line by line.
fn state_of_the_host() -> BTreeSet<String> {
    let parts = [
        links(),
        sh("ip -4 -o addr; ip -4 route show table all | sed 's/ *linkdown *//; s/ *$//'; ip -6 route; ip rule"),
        sh("nft list ruleset"),
        sh(
            "grep -rH . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf 2>/dev/null || true",
        ),
        sh("find /mnt/run -mindepth 1 2>/dev/null || true"),
    ];
    parts.join("\n").lines().map(str::to_owned).collect()
}

fn assert_same(now: &BTreeSet<String>, before: &BTreeSet<String>) {
    let changed: Vec<_> = now.symmetric_difference(before).collect();
    assert!(changed.is_empty(), "{changed:#?}");
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn median(some: &[Duration]) -> Duration {
    let mut some = some.to_vec();
    some.sort();
    some[some.len() / 2]
}

cases! {
    fn a_pod_has_an_address_a_gateway_and_a_name_on_the_host(host) {
        let pod = host.pod();
        let said = &pod.attachment;
        assert_eq!(said.addresses[0].to_string(), "10.88.0.2/16");
        assert_eq!(said.gateway.unwrap().to_string(), "10.88.0.1");
        assert_eq!(said.mac, "02:70:0a:58:00:02");
        let interface = pod.run("ip -d addr show eth0");
        assert!(interface.contains("inet 10.88.0.2/16") && interface.contains("02:70:0a:58:00:02"), "{interface}");
        assert!(interface.contains("UP,LOWER_UP") && !interface.contains("inet6"), "{interface}");
        assert!(pod.run("ip route").starts_with("default via 10.88.0.1 dev eth0"));
        let link = sh(&format!("ip -d link show {}", pod.id.veth(0)));
        let master = format!("master {}", host.roots.bridge());
        for part in [&format!("alias {}", pod.id), "altname lease-0a580002", "fe:70:0a:58:00:02", &master] {
            assert!(link.contains(part), "{part} in {link}");
        }
        assert!(!sh(&format!("ip addr show {}", pod.id.veth(0))).contains("inet"), "the host's end has no address");
        let record = serde_json::to_string(said).unwrap();
        assert_eq!(&serde_json::from_str::<Attachment>(&record).unwrap(), said);
        assert_eq!(pod.warnings, Vec::<String>::new());
    }

    fn pods_and_the_host_reach_each_other_by_their_own_addresses(host) {
        let (one, other) = (host.pod(), host.pod());
        let (first, second) = (one.ip().to_string(), other.ip().to_string());
        assert!(pings(&one.netns, &second) && pings(&other.netns, &first));
        assert!(pings(&one.netns, "10.88.0.1") && pings(&here(), &first));
        assert_eq!(seen(&one.netns, &first, &other.netns).unwrap(), second);
        assert_eq!(seen(&here(), "10.88.0.1", &one.netns).unwrap(), first);
        assert_eq!(seen(&one.netns, &first, &here()).unwrap(), "10.88.0.1");
        assert!(pings(&one.netns, &first), "its own address");
    }

    fn what_leaves_the_host_has_the_hosts_address(host) {
        let lan = lan();
        let pod = host.pod();
        assert!(pings(&pod.netns, LAN));
        assert_eq!(seen(&lan, LAN, &pod.netns).unwrap(), "198.51.100.1");
        assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "0", "the whole host's switch is left alone");
        assert_eq!(host.bad(&[pod.id]), []);
    }

    /// Forwarding is on for the pods' sake only; docker had to learn it (a neighbour reached unpublished ports).
    fn a_neighbour_who_routes_to_a_pod_gets_nothing(host) {
        let lan = lan();
        let pod = host.pod();
        within(&lan, "ip route add 10.88.0.0/16 via 198.51.100.1");
        assert!(silent(&lan, "10.88.0.2"));
        assert!(seen(&pod.netns, "10.88.0.2", &lan).is_err());
        assert!(pings(&pod.netns, LAN), "while the pod reaches the neighbour");
    }

    /// A laptop goes from cable to radio while pods live: the answers come in by an interface that was not there.
    fn an_interface_that_comes_later_forwards_too(host) {
        let pod = host.pod();
        let lan = lan();
        assert_eq!(seen(&lan, LAN, &pod.netns).unwrap(), "198.51.100.1");
        assert_eq!(host.prune(), Vec::<String>::new(), "the pod lives");
        host.delete(pod);
        host.prune();
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/lan0/forwarding").trim(), "0");
    }

    fn prune_leaves_the_host_as_it_was(host) {
        let _lan = lan();
        sh("echo 0 > /proc/sys/net/ipv4/conf/all/accept_redirects");
        sh("ip link add own0 type veth peer name far0 && echo 1 > /proc/sys/net/ipv4/conf/own0/forwarding");
        sh("nft add table inet mine && nft add chain inet mine c '{ type filter hook forward priority 5; }'");
        let before = state_of_the_host();
        let (one, other) = (host.pod(), host.pod());
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/lan0/forwarding").trim(), "1");
        host.delete(one);
        until("the first link is gone", || sh("ip -br link").matches("veth").count() == 1);
        let only = [other.id.clone()];
        assert_eq!(prune(&host.roots, &only, Prune::Now).unwrap(), Vec::<String>::new(), "one pod is left");
        assert!(pings(&other.netns, LAN));
        host.delete(other);
        fs::remove_dir(host.roots.pods()).unwrap();
        until("the other link is gone", || !sh("ip -br link").contains("veth"));
        let (with, said) = (state_of_the_host(), host.would_prune(&[]));
        assert!(said.contains(&"forwarding of default, far0, lan0".to_owned()), "{said:?}");
        assert_same(&state_of_the_host(), &with); // a dry run changes nothing
        assert_eq!(host.prune(), said);
        assert_same(&state_of_the_host(), &before);
        assert_eq!(host.prune(), Vec::<String>::new(), "twice is fine");
        assert_same(&state_of_the_host(), &before);
    }

    /// Docker came later and turned the whole host's forwarding on: it is no longer podrun's to turn off.
    fn forwarding_that_others_want_stays_on(host) {
        let _lan = lan();
        let pod = host.pod();
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        host.delete(pod);
        host.prune();
        assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/lan0/forwarding"), "1\n1\n");
    }

    fn forwarding_that_was_on_is_left_alone(host) {
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        let before = sh("grep -H . /proc/sys/net/ipv4/conf/*/forwarding");
        let pod = host.pod();
        let told = findings(&host.roots, std::slice::from_ref(&pod.id));
        assert!(told.iter().any(|finding| finding.what.contains("did not need to change net.ipv4.conf.*.forwarding")), "{told:?}");
        host.delete(pod);
        host.prune();
        assert_eq!(sh("grep -H . /proc/sys/net/ipv4/conf/*/forwarding"), before);
    }

    fn a_deleted_pod_is_silent_at_once_and_its_link_goes_with_its_namespace(host) {
        let (pod, peer) = (host.pod(), host.pod());
        let link = pod.id.veth(0);
        detach(&host.roots, &pod.id).unwrap();
        assert!(silent(&peer.netns, &pod.ip().to_string()), "its namespace still lives, and says nothing");
        detach(&host.roots, &pod.id).unwrap();
        assert_eq!(host.leases(), 1);
        assert!(sh(&format!("ip link show {link}")).contains("state DOWN"), "nobody waited for it");
        host.forget(&pod.id);
        drop(pod.netns);
        until("the link is gone", || try_sh(&format!("ip link show {link}")).is_err());
        detach(&host.roots, &pod.id).unwrap();
        assert!(answers(&peer));
    }

    fn what_was_never_attached_is_detached_without_ado(host) {
        detach(&host.roots, &host.id()).unwrap();
        assert!(!host.roots.leases().exists());
    }

    fn attaching_twice_is_refused_and_harmless(host) {
        let pod = host.pod();
        let err = attach_bridge(&host.roots, &pod.id, &pod.netns).unwrap_err();
        assert_eq!(err.kind, Kind::AlreadyExists, "{err}");
        assert!(answers(&pod));
    }

    /// `pod:NAME`: the address lives until the last member goes, whoever that is.
    fn a_joined_network_outlives_the_pod_that_made_it(host) {
        let (pod, peer) = (host.pod(), host.pod());
        let (member, third) = (host.id(), host.id());
        for (from, to) in [(&pod.id, &member), (&pod.id, &member), (&member, &third)] {
            share(&host.roots, from, to).unwrap();
        }
        assert_eq!(host.leases(), 2);
        for gone in [&pod.id, &pod.id, &third] {
            detach(&host.roots, gone).unwrap();
            assert!(pings(&peer.netns, "10.88.0.2"), "a member still lives there");
        }
        host.forget(&pod.id);
        host.forget(&third);
        assert_eq!(host.prune(), Vec::<String>::new(), "nor does prune take it");
        assert_eq!(host.would_prune(&[member.clone(), peer.id.clone()]), Vec::<String>::new());
        assert!(pings(&peer.netns, "10.88.0.2"));
        detach(&host.roots, &member).unwrap();
        assert!(silent(&peer.netns, "10.88.0.2"));
        assert_eq!(host.leases(), 1);
    }

    fn a_range_that_is_used_up_says_so_and_leaves_nothing(host) {
        let host = host.subnet("10.99.0.0/29");
        let pods: Vec<_> = (0..5).map(|_| host.pod()).collect();
        let before = links();
        let err = host.refused(netns());
        assert_eq!((err.kind, err.cause()), (Kind::Exhausted, "none is free, 5 pods have one"));
        assert!(err.cure().unwrap().contains("podrun prune"), "{err}");
        assert_eq!((host.leases(), links()), (5, before));
        assert!(pods.iter().all(answers));
    }

    /// The link of a pod that is gone lingers while somebody holds its namespace: its address is nobody else's before.
    fn an_address_is_free_only_when_its_link_is_gone(host) {
        let host = host.subnet("10.99.0.0/30");
        let pod = host.pod();
        detach(&host.roots, &pod.id).unwrap();
        assert_eq!(host.refused(netns()).kind, Kind::Exhausted, "the pod's directory is still there");
        host.forget(&pod.id);
        let next = host.pod();
        assert_eq!(next.ip(), pod.ip());
        assert!(!sh("ip -br link").contains(&pod.id.veth(0)), "the old link had to go first");
        assert!(answers(&next));
    }

    /// Next fit: an address is handed out again as late as possible.
    fn an_address_is_not_given_to_the_next_pod(host) {
        let host = host.subnet("10.99.0.0/29");
        let mut had = Vec::new();
        for _ in 0..7 {
            let pod = host.pod();
            had.push(pod.ip().to_string());
            let link = pod.id.veth(0);
            host.delete(pod);
            until("the link is gone", || try_sh(&format!("ip link show {link}")).is_err());
        }
        assert_eq!(had, [2, 3, 4, 5, 6, 2, 3].map(|last| format!("10.99.0.{last}")));
    }

    /// containernetworking/plugins#252: leases outlive crashes until no address is left.
    fn a_small_range_survives_any_number_of_crashes(host) {
        let host = host.subnet("10.99.0.0/29");
        for round in 0..100 {
            let mut pod = Other::start(&host);
            // Killed anywhere on its way, and every third time with its pod made.
            match round % 3 {
                0 => {
                    let said = pod.line();
                    assert!(said.starts_with("10.99.0."), "round {round}: {said}");
                }
                _ => std::thread::sleep(Duration::from_micros(round * 150)),
            }
            pod.kill();
            if round % 2 == 0 {
                host.forget(&pod.id);
            }
        }
        let mut last = Other::start(&host);
        assert!(last.line().starts_with("10.99.0."));
        last.kill();
        fs::remove_dir_all(host.roots.pods()).unwrap();
        host.prune();
        assert!(!host.roots.leases().exists());
        assert_eq!(sh("ip -br link").lines().count(), 1, "only loopback");
        assert_eq!(host.would_prune(&[]), Vec::<String>::new());
    }

    fn fifty_at_once_have_fifty_addresses_and_one_bridge(host) {
        let mut pods: Vec<_> = (0..50).map(|_| Other::start(&host)).collect();
        let mut addresses: Vec<_> = pods.iter_mut().map(Other::line).collect();
        assert!(addresses.iter().all(|address| pings(&here(), address)), "{addresses:?}");
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 50, "{addresses:?}");
        assert_eq!(sh("ip -br link show type bridge").lines().count(), 1);
        assert_eq!(sh("nft list ruleset").matches("saddr 10.88.0.0/16 oifname").count(), 1);
        assert_eq!(host.leases(), 50);
        let ids: Vec<_> = pods.iter().map(|pod| pod.id.clone()).collect();
        assert_eq!(host.bad(&ids), []);
        pods.iter_mut().for_each(Other::kill);
        ids.iter().for_each(|id| detach(&host.roots, id).unwrap());
        ids.iter().for_each(|id| host.forget(id));
        host.prune();
        assert_eq!(sh("ip -br link").lines().count(), 1, "only loopback");
    }

    /// Two run-roots on one host choose different ranges, at the same moment, too.
    fn two_run_roots_do_not_overlap(host) {
        let other = Host::with_run_root("/mnt/run2");
        let (mut one, mut two) = (Other::start(&host), Other::start(&other));
        let mut addresses = [one.line(), two.line()];
        addresses.sort();
        assert_eq!(addresses, ["10.88.0.2", "10.89.0.2"]);
        assert!(addresses.iter().all(|address| pings(&here(), address)));
        one.kill();
        host.forget(&one.id);
        host.prune();
        let left = sh("ip -br link show type bridge");
        assert_eq!(left.split_whitespace().next(), Some(other.roots.bridge().as_str()), "what another made is not touched");
        two.kill();
    }

    fn three_hundred_pods_share_a_bridge(host) {
        let mut times = Vec::new();
        let mut timed = || {
            let netns = netns();
            let start = Instant::now();
            let pod = host.attach(netns).unwrap();
            times.push(start.elapsed());
            pod
        };
        let pods: Vec<_> = (0..300).map(|_| timed()).collect();
        let (first, early, late) = (times[0], median(&times[1..51]), median(&times[250..]));
        let least = times.iter().min().unwrap();
        println!("\nmeasured: attach, the first {first:?}, the median of the next 50 {early:?}, of the last 50 {late:?}, the least {least:?}");
        assert!(pings(&pods[299].netns, "10.88.0.2") && pings(&pods[150].netns, &pods[299].ip().to_string()));
        assert_eq!(host.leases(), 300);
        let start = Instant::now();
        pods.iter().for_each(|pod| detach(&host.roots, &pod.id).unwrap());
        println!("\nmeasured: detach {:?} each", start.elapsed() / 300);
        assert_eq!(host.leases(), 0);
    }

    fn without_nft_a_pod_has_its_address_and_a_warning(host) {
        let lan = lan();
        let before = sh("grep -H . /proc/sys/net/ipv4/conf/*/forwarding");
        let mut pod = Other::start_with_path(&host, "/nonexistent");
        assert_eq!(pod.line(), "10.88.0.2");
        let warning = pod.line();
        assert!(warning.starts_with("nft is not on PATH") && warning.contains("install nftables"), "{warning}");
        assert!(pings(&here(), "10.88.0.2"));
        assert_eq!(sh("nft list ruleset"), "");
        let after = sh(&format!("grep -H . /proc/sys/net/ipv4/conf/*/forwarding | grep -v -e veth -e {}", host.roots.bridge()));
        assert_eq!(after, before, "nor is forwarding of use");
        assert!(host.bad(std::slice::from_ref(&pod.id)).iter().any(|finding| finding.what.contains("nftables table")));
        let next = host.pod();
        assert_eq!(next.warnings, Vec::<String>::new(), "nft has been installed since");
        assert_eq!(seen(&lan, LAN, &next.netns).unwrap(), "198.51.100.1");
    }

    /// `nft flush ruleset`, as a firewall's restart does it: doctor tells, and the next pod brings the rules back.
    fn a_flushed_firewall_is_noticed_and_mended(host) {
        let lan = lan();
        let pod = host.pod();
        let live = [pod.id.clone()];
        assert_eq!(host.bad(&live), []);
        sh("nft flush ruleset");
        let told = host.bad(&live);
        assert!(told.len() == 1 && told[0].what.contains("is gone") && told[0].cure.is_some(), "{told:?}");
        let next = host.pod();
        assert_eq!(host.bad(&[pod.id.clone(), next.id.clone()]), []);
        assert_eq!(seen(&lan, LAN, &pod.netns).unwrap(), "198.51.100.1");
        assert_eq!(sh("nft list ruleset").matches("saddr 10.88.0.0/16 oifname").count(), 1);
    }

    fn a_deleted_bridge_is_noticed_and_mended(host) {
        let pod = host.pod();
        sh(&format!("ip link del {}", host.roots.bridge()));
        assert!(host.bad(std::slice::from_ref(&pod.id)).iter().any(|finding| finding.what.contains("is gone")));
        assert!(silent(&here(), &pod.ip().to_string()));
        let next = host.pod();
        assert_eq!(host.bad(&[pod.id.clone(), next.id.clone()]), []);
        assert!(answers(&pod) && answers(&next), "the old pod is back on it");
        assert!(pings(&next.netns, &pod.ip().to_string()));
    }

    fn doctor_tells_what_others_do_to_pods(host) {
        let pod = host.pod();
        let live = [pod.id.clone()];
        sh("nft add table ip filter && nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'");
        let told = host.bad(&live);
        assert!(told.len() == 1 && told[0].what.contains("chain FORWARD"), "{told:?}");
        sh("nft delete table ip filter");
        sh("ip link add eth9 type veth peer name far0 && echo 0 > /proc/sys/net/ipv4/conf/eth9/forwarding");
        let told = host.bad(&live);
        assert!(told.len() == 1 && told[0].what.contains("eth9"), "{told:?}");
        sh(told[0].cure.as_ref().unwrap());
        assert_eq!(host.bad(&live), []);
        sh(&format!("ip link set {} down", host.roots.bridge()));
        sh(host.bad(&live)[0].cure.as_ref().unwrap());
        assert!(answers(&pod));
        let told = findings(&host.roots, &[]);
        let leaked = told.iter().filter(|finding| finding.what.contains("belongs to no pod"));
        assert!(leaked.clone().count() >= 2 && leaked.clone().all(|f| f.cure.as_deref() == Some("podrun prune")), "{told:?}");
    }

    fn the_hosts_own_ranges_are_avoided(host) {
        sh("ip link add d0 type veth peer name far0 && ip addr add 10.88.7.1/24 dev d0 && ip link set d0 up");
        sh("ip route add blackhole 10.89.0.0/16 table 77");
        assert_eq!(host.pod().ip().to_string(), "10.90.0.2");
    }

    fn a_wished_range_that_overlaps_is_refused_with_what_it_overlaps(host) {
        let _lan = lan();
        let host = host.subnet("198.51.100.128/25");
        let before = links();
        let err = host.refused(netns());
        assert_eq!(err.kind, Kind::Invalid);
        assert!(err.cause().starts_with("198.51.100.128/25 overlaps 198.51.100."), "{err}");
        assert_eq!(links(), before);
    }

    fn a_broken_definition_is_told_with_its_line(host) {
        fs::write(host.roots.networks().join("bridge.json"), "{\n  \"subnet\": 5\n}").unwrap();
        let err = host.refused(netns());
        assert_eq!(err.kind, Kind::Invalid);
        assert!(err.to_string().starts_with("read /mnt/root/networks/bridge.json: ") && err.cause().contains("line 2"), "{err}");
    }

    fn a_stranger_with_the_bridges_name_is_left_alone(host) {
        sh(&format!("ip link add {} type veth peer name far0", host.roots.bridge()));
        let before = links();
        assert_eq!(host.refused(netns()).kind, Kind::AlreadyExists);
        assert_eq!(links(), before);
    }

    fn the_mtu_is_that_of_the_way_out(host) {
        let _lan = lan();
        sh("ip link set lan0 mtu 1400");
        let pod = host.pod();
        assert_eq!(pod.attachment.mtu, 1400);
        assert!(pod.run("ip link show eth0").contains("mtu 1400"));
    }

    fn a_failed_attach_leaves_nothing(host) {
        let pod = host.pod();
        let before = (links(), host.leases());
        // Not a network namespace.
        let err = host.refused(File::open("/proc/self/ns/mnt").unwrap().into());
        assert_eq!(err.what_was_being_done(), "attach it to bridge: enter the pod's network namespace");
        // An interface of that name is there already.
        let taken = netns();
        within(&taken, "ip link add eth0 type veth peer name far0");
        let err = host.refused(taken);
        assert!(err.to_string().starts_with("attach it to bridge: make the link veth"), "{err}");
        assert_eq!((links(), host.leases()), before);
        assert!(answers(&pod));
    }

    /// CVE-2020-10749, CVE-2020-13597: a router advertisement of a pod moves nobody's routes.
    fn no_router_advertisement_is_heard(host) {
        let pod = host.pod();
        let read = |file: &str| fs::read_to_string(Path::new("/proc/sys/net/ipv6/conf").join(file)).unwrap();
        let bridge = host.roots.bridge();
        assert_eq!(read(&format!("{bridge}/accept_ra")), "0\n");
        assert_eq!(read(&format!("{bridge}/disable_ipv6")), "1\n");
        assert_eq!(inside(&pod.netns, || read("eth0/disable_ipv6")), "1\n");
        assert_eq!(inside(&pod.netns, || read("lo/disable_ipv6")), "0\n");
        assert!(pings(&pod.netns, "::1"));
    }

    /// A full run-root: one line that says so, and nothing left.
    fn a_full_disk_is_told(host) {
        host.delete(host.pod());
        sh("mount -t tmpfs -o size=64k tmpfs /mnt/run/leases && mkdir /mnt/run/leases/bridge");
        sh("cat /dev/zero > /mnt/run/leases/fill 2>/dev/null || true");
        let err = host.refused(netns());
        assert_eq!(err.kind, Kind::Exhausted, "{err}");
        assert_eq!(host.leases(), 0);
        sh("rm /mnt/run/leases/fill");
        assert!(answers(&host.pod()));
    }

    /// The first packet of a pod is not lost: a lost ARP question costs its first connection a second.
    fn the_first_packet_gets_through(host) {
        let listener = {
            drop(host.pod());
            TcpListener::bind("10.88.0.1:0").unwrap()
        };
        let to = listener.local_addr().unwrap();
        let mut times = Vec::new();
        for _ in 0..100 {
            let pod = host.pod();
            let start = Instant::now();
            inside(&pod.netns, || TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap());
            times.push(start.elapsed());
            host.delete(pod);
        }
        times.sort();
        println!("\nmeasured: first connection, median {:?}, worst {:?}", median(&times), times[99]);
        assert!(times[99] < Duration::from_millis(900), "{:?}", &times[90..]);
    }

    /// A range of 65,000 leases is as quick as an empty one, and when it is full the one free address is found.
    fn a_large_range_stays_quick(host) {
        drop(host.pod());
        let leases = host.roots.leases().join("bridge");
        let held = leases.join(format!("pod-{}", PodId::random([9; 16])));
        fs::write(&held, "{}").unwrap();
        let all = (3..=65_533_u32).map(|n| format!("10.88.{}.{}", n / 256, n % 256));
        all.filter(|address| address != "10.88.99.99").for_each(|address| fs::hard_link(&held, leases.join(address)).unwrap());
        let timed = |expected: &str| {
            let netns = netns();
            let start = Instant::now();
            assert_eq!(host.attach(netns).unwrap().ip().to_string(), expected);
            start.elapsed()
        };
        fs::write(leases.join(".last"), "10.88.255.253").unwrap();
        let next = timed("10.88.255.254");
        let farthest = timed("10.88.99.99");
        println!("\nmeasured: beside 65,000 leases the next address {next:?}, the only one left {farthest:?}");
        assert!(next < Duration::from_secs(1) && farthest < Duration::from_secs(5), "{next:?} {farthest:?}");
    }

    fn doctor_tells_that_nft_is_missing(host) {
        let pod = host.pod();
        let told = host.bad(std::slice::from_ref(&pod.id));
        assert_eq!(told, []);
        let told = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &std::env::var(CASE).unwrap(), "--nocapture"])
            .env(HOLD, format!("doctor@{}", host.roots.run.display()))
            .env("PATH", "/nonexistent")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains("said nft is not on PATH") && told.contains("install nftables"), "{told}");
    }

    /// A prune that began before a pod was made does not take its bridge, its rules or its address.
    fn a_prune_beside_births_takes_nothing_that_lives(host) {
        let mut pods: Vec<_> = (0..20).map(|_| Other::start(&host)).collect();
        let mut prunes = 0;
        let addresses: Vec<_> = pods.iter_mut().map(|pod| {
            prunes += 1;
            assert_eq!(host.prune(), Vec::<String>::new(), "prune {prunes}");
            pod.line()
        }).collect();
        assert!(addresses.iter().all(|address| pings(&here(), address)), "{addresses:?}");
        let ids: Vec<_> = pods.iter().map(|pod| pod.id.clone()).collect();
        assert_eq!(host.bad(&ids), []);
        // And with nothing but births and deaths, each prune may take all or nothing, but the next pod always lives.
        drop(pods);
        for _ in 0..20 {
            let pod = host.pod();
            std::thread::scope(|scope| {
                let pruning = scope.spawn(|| prune(&host.roots, &[], Prune::Now));
                host.delete(pod);
                let next = host.pod();
                pruning.join().unwrap().unwrap();
                assert!(answers(&next));
                host.delete(next);
            });
        }
    }
}
