//! An overlay over three hosts: one flat network, by real traffic between real pods.

use podrun_tests::traffic::{address, hears, hears_nothing, inside, on, serve};
use podrun_tests::{Host, json};

/// Hosts on one wire, 198.51.100.1 and so on, with a switch between them.
struct Lan {
    switch: Host,
    hosts: Vec<Host>,
}

impl Lan {
    fn new(hosts: usize, mtu: u32) -> Self {
        let lan = Self { switch: Host::new(), hosts: (0..hosts).map(|_| Host::new()).collect() };
        lan.switch.program("ip link add name lan type bridge").run().ok();
        lan.switch.program("ip link set lan up").run().ok();
        for (host, number) in lan.hosts.iter().zip(1..) {
            lan.switch.wire(&format!("port{number}"), host, "uplink");
            lan.switch.program(format!("ip link set port{number} mtu {mtu} master lan up")).run().ok();
            host.program(format!("ip addr add 198.51.100.{number}/24 dev uplink")).run().ok();
            host.program(format!("ip link set uplink mtu {mtu} up")).run().ok();
        }
        lan
    }

    /// Each with a pod that is called by its number and says so.
    fn with_pods(hosts: usize, mtu: u32, flags: &str) -> Self {
        let lan = Self::new(hosts, mtu);
        (1..=hosts).for_each(|number| lan.join(number, hosts, flags));
        lan
    }

    fn join(&self, number: usize, hosts: usize, flags: &str) {
        let host = self.host(number);
        let peers = (1..=hosts).filter(|other| *other != number);
        let peers: Vec<String> = peers.map(|other| format!("198.51.100.{other}=10.90.{other}.0/24")).collect();
        host.podrun(format!("network create flat {} --peers {} {flags}", part(number), peers.join(","))).ok();
        host.podrun(format!("create pod pod{number} --network flat")).ok();
        serve(host, &format!("pod{number}"));
    }

    fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// The pod of one host asks the pod of another, which sees its very address.
    #[track_caller]
    fn meet(&self, from: usize, to: usize) {
        hears(self.host(from), &format!("pod{from}"), &pod(to), &format!("pod{to} to {}", pod(from)));
    }

    #[track_caller]
    fn do_not_meet(&self, from: usize, to: usize) {
        hears_nothing(self.host(from), &format!("pod{from}"), &pod(to));
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // A wire goes with either of its ends; what podrun left is to be seen for itself.
        for number in 1..=self.hosts.len() {
            self.switch.program(format!("ip link del port{number}")).run();
        }
        self.switch.program("ip link del lan").run();
    }
}

fn part(number: usize) -> String {
    format!("--driver vxlan --vni 42 --cluster-cidr 10.90.0.0/16 --subnet 10.90.{number}.0/24")
}

/// The address of a host's first pod.
fn pod(number: usize) -> String {
    format!("10.90.{number}.2")
}

// Issue 4, 5: "pod to pod across hosts by address without NAT (the pod's own address is seen)".
#[test]
fn pods_of_three_hosts_are_on_one_flat_network() {
    let lan = Lan::with_pods(3, 1500, "");
    for (from, to) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
        lan.meet(from, to);
    }
    let one = lan.host(1);
    inside(one, "pod1", "ping -c 1 -W 2 10.90.3.2").ok();
    lan.host(3).start("pod3/udp", "", "/probe udp-listen 0.0.0.0:53 pod3");
    let ask = format!(
        "for try in 1 2 3 4 5; do timeout 1 {} udp-ask 10.90.3.2:53 && exit; done; exit 1",
        one.probe().display()
    );
    inside(one, "pod1", &ask).ok().prints("pod3 to 10.90.1.2");
    // The host itself reaches them, too, with an address of its part.
    one.program(format!("{} ask 10.90.2.2:80", one.probe().display())).run().ok().prints("pod2 to ::ffff:10.90.1.1");
    let shown = one.podrun("network inspect flat").json();
    assert_eq!(shown["overlay"]["peers"], json!({"198.51.100.2": "10.90.2.0/24", "198.51.100.3": "10.90.3.0/24"}));
    assert_eq!((&shown["overlay"]["vni"], &shown["driver"]), (&json!(42), &json!("vxlan")));
    let listed = one.podrun("network ls").ok().text();
    let row = listed.lines().find(|line| line.starts_with("flat ")).unwrap_or_default();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["flat", "vxlan", "10.90.1.0/24", "1"], "{listed}");
}

// "static FDB and neighbour entries, no flooding": what came in has taught the host nothing, and there is no default entry.
#[test]
fn each_peer_has_its_entries_and_nothing_is_learned() {
    let lan = Lan::with_pods(3, 1500, "");
    lan.meet(1, 2);
    lan.meet(3, 1);
    let one = lan.host(1);
    let device = one.podrun("network inspect flat").json()["overlay"]["device"].as_str().unwrap().to_owned();
    let entries = one.program(format!("bridge fdb show dev {device}")).run().ok().text();
    let mut entries: Vec<&str> = entries.lines().map(str::trim).collect();
    entries.sort_unstable();
    let expected = [2, 3].map(|n| format!("06:70:0a:5a:0{n}:00 dst 198.51.100.{n} self permanent"));
    assert_eq!(entries, expected);
    let neighbours = one.program(format!("ip neigh show dev {device}")).run().ok().text();
    assert!(
        neighbours.lines().count() == 2 && neighbours.lines().all(|line| line.contains("PERMANENT")),
        "{neighbours}"
    );
    assert!(one.program(format!("ip -d link show {device}")).run().text().contains("nolearning"));
}

// RFC 7348, 5: 50 bytes before each packet; what is larger would be lost or cut in pieces.
#[test]
fn the_mtu_leaves_room_for_the_tunnel() {
    for (wire, inner) in [(1500, 1450), (1400, 1350)] {
        let lan = Lan::with_pods(2, wire, "");
        let one = lan.host(1);
        assert_eq!(on(one, "pod1", "flat")["mtu"], inner);
        let fits = inner - 28;
        inside(one, "pod1", &format!("ping -M do -c 1 -W 2 -s {fits} 10.90.2.2")).ok();
        inside(one, "pod1", &format!("ping -M do -c 1 -W 2 -s {} 10.90.2.2", fits + 1)).fails(1);
        // And nothing was cut in pieces on its way.
        let counters = one.program("cat /proc/self/net/snmp").run().ok().text();
        let words =
            |n: usize| counters.lines().filter(|line| line.starts_with("Ip:")).nth(n).unwrap().split_whitespace();
        let at = words(0).position(|word| word == "FragCreates").unwrap();
        assert_eq!(words(1).nth(at), Some("0"));
    }
}

// "a host leaving and coming back"
#[test]
fn a_host_leaves_and_comes_back() {
    let lan = Lan::with_pods(3, 1500, "");
    lan.meet(1, 3);
    // It goes down as a whole, its network with it.
    let three = lan.host(3);
    three.podrun("delete pod pod3 --force").ok();
    three.podrun("network rm flat").ok();
    lan.do_not_meet(1, 3);
    lan.meet(1, 2);
    // Its peers are told: from now on nobody waits for an answer.
    let one = lan.host(1);
    one.podrun("network peer rm flat 198.51.100.3").ok().prints("network/flat peer 198.51.100.3 removed");
    let told = inside(one, "pod1", "ping -c 1 -W 2 10.90.3.2 || true").ok().text();
    assert!(told.contains("Unreachable"), "{told}");
    one.podrun("network peer rm flat 198.51.100.3").fails(1).with_one_line().says("none of its peers");
    lan.join(3, 3, "");
    lan.meet(2, 3);
    lan.do_not_meet(3, 1);
    one.podrun("network peer add flat 198.51.100.3=10.90.3.0/24").ok();
    lan.meet(3, 1);
    lan.meet(1, 3);
}

// RFC 7348, 7: nothing in the protocol tells a peer from a stranger.
#[test]
fn a_stranger_on_the_wire_is_not_taken_for_a_peer() {
    let lan = Lan::new(3, 1500);
    lan.join(1, 2, "");
    lan.join(2, 2, "");
    let stranger = lan.host(3);
    let script = "ip link add tunnel type vxlan id 42 remote 198.51.100.1 dstport 4789 dev uplink; \
        ip link set tunnel address 06:70:0a:5a:09:00 up; ip addr add 10.90.9.9/32 dev tunnel; \
        ip route add 10.90.1.0/24 dev tunnel; ip neigh add 10.90.1.2 lladdr 06:70:0a:5a:01:00 dev tunnel nud permanent; \
        ip neigh add 10.90.1.1 lladdr 06:70:0a:5a:01:00 dev tunnel nud permanent";
    stranger.program("sh -ec").args([script]).run().ok();
    let ask = || stranger.program(format!("timeout 1 {} ask 10.90.1.2:80", stranger.probe().display())).run();
    ask().fails(124);
    // The very same packets are heard from a peer, so the test would see them.
    let one = lan.host(1);
    one.podrun("network peer add flat 198.51.100.3=10.90.9.0/24").ok();
    ask().ok().prints("pod1 to ::ffff:10.90.9.9");
    // Even a peer speaks for the overlay alone, and to the pods alone.
    stranger.program("ip addr add 203.0.113.9/32 dev tunnel").run().ok();
    stranger.program("ip route add 198.51.100.1/32 dev tunnel src 10.90.9.9 table 7").run().ok();
    for from in ["203.0.113.9", "10.90.1.77"] {
        stranger.program(format!("ip addr replace {from}/32 dev tunnel")).run().ok();
        stranger.program(format!("ip route replace 10.90.1.0/24 dev tunnel src {from}")).run().ok();
        ask().fails(124);
    }
    stranger.program("ip link del tunnel").run().ok();
}

#[test]
fn a_pod_cannot_speak_as_a_peer() {
    let lan = Lan::with_pods(2, 1500, "");
    let one = lan.host(1);
    one.podrun("create pod bad --network bridge").ok();
    // With all that root may do there, it sends from the address of the peer what a peer would.
    let script = "ip addr add 198.51.100.2/32 dev lo; \
        ip link add tunnel type vxlan id 42 local 198.51.100.2 remote 10.88.0.1 dstport 4789 dev eth0; \
        ip link set tunnel address 06:70:0a:5a:02:00 up; ip addr add 10.90.2.99/32 dev tunnel; \
        ip route add 10.90.1.0/24 dev tunnel; ip neigh add 10.90.1.2 lladdr 06:70:0a:5a:01:00 dev tunnel nud permanent";
    inside(one, "bad", script).ok();
    let counted = |nft: &str| one.program(format!("nft {nft}")).run();
    counted("add table inet seen").ok();
    counted("add chain inet seen pods { type filter hook forward priority -10 ; }").ok();
    counted("add rule inet seen pods ip saddr 10.90.2.99 counter").ok();
    inside(one, "bad", &format!("timeout 1 {} ask 10.90.1.2:80 || true", one.probe().display())).ok();
    let seen = counted("list table inet seen").ok().text();
    assert!(seen.contains("packets 0 "), "it came out of the tunnel: {seen}");
    lan.meet(2, 1);
    counted("delete table inet seen").ok();
    one.podrun("delete pod bad --force").ok();
}

// Issue 4, 2: "Bridges are isolated from each other unless asked otherwise", and so is what is behind them.
#[test]
fn other_networks_and_neighbours_do_not_reach_the_overlay() {
    let lan = Lan::with_pods(2, 1500, "");
    let one = lan.host(1);
    one.podrun("create pod other --network bridge").ok();
    serve(one, "other");
    for to in [pod(1), pod(2)] {
        hears_nothing(one, "other", &to);
    }
    // Out of the overlay, in neither direction: not to another network of that host, nor through it from outside.
    let other = address(one, "other", "bridge");
    hears_nothing(one, "pod1", &other);
    let neighbour = &lan.switch;
    neighbour.program("ip addr add 198.51.100.9/24 dev lan").run().ok();
    neighbour.program("ip route add 10.90.0.0/16 via 198.51.100.1").run().ok();
    for to in [pod(1), pod(2)] {
        neighbour.program(format!("timeout 1 {} ask {to}:80", neighbour.probe().display())).run().fails(124);
    }
    one.podrun("delete pod other --force").ok();
}

#[test]
fn an_internal_overlay_leads_to_its_hosts_and_nowhere_else() {
    let lan = Lan::with_pods(2, 1500, "--internal");
    lan.meet(1, 2);
    lan.meet(2, 1);
    let routes = inside(lan.host(1), "pod1", "ip route").ok().text();
    assert!(!routes.contains("default") && routes.contains("10.90.0.0/16 via 10.90.1.1"), "{routes}");
    inside(lan.host(1), "pod1", "ip route add default via 10.90.1.1").ok();
    inside(lan.host(1), "pod1", "ping -c 1 -W 1 198.51.100.2").fails(1);
}

#[test]
fn a_pod_may_have_the_overlay_beside_its_way_out() {
    let lan = Lan::with_pods(2, 1500, "");
    let one = lan.host(1);
    one.podrun("create pod both --network bridge --network flat").ok();
    let (mine, answer) = (address(one, "both", "flat"), |mine: &str| format!("pod2 to {mine}"));
    hears(one, "both", &pod(2), &answer(&mine));
    one.podrun("create pod late").ok();
    one.podrun("network connect flat late").ok();
    hears(one, "late", &pod(2), &answer(&address(one, "late", "flat")));
    one.podrun("network disconnect flat late").ok();
    hears_nothing(one, "late", &pod(2));
    for pod in ["both", "late"] {
        one.podrun(format!("delete pod {pod} --force")).ok();
    }
}

// pitfalls.md 14, for the tunnel as for the bridge.
#[test]
fn a_tunnel_that_somebody_took_away_comes_back() {
    let lan = Lan::with_pods(2, 1500, "");
    let one = lan.host(1);
    let device = one.podrun("network inspect flat").json()["overlay"]["device"].as_str().unwrap().to_owned();
    one.program(format!("ip link del {device}")).run().ok();
    lan.do_not_meet(1, 2);
    let told = one.podrun("doctor").text();
    assert!(told.contains(&format!("tunnel {device} is gone")), "{told}");
    one.podrun("network reload").ok().prints("network/flat reloaded");
    lan.meet(1, 2);
    one.program(format!("ip link del {device}")).run().ok();
    one.podrun("create pod next --network flat").ok();
    lan.meet(1, 2);
    one.podrun("delete pod next --force").ok();
}

#[test]
fn overlays_that_cannot_be_are_told_and_leave_nothing() {
    let lan = Lan::new(1, 1500);
    let host = lan.host(1);
    for (words, code, why) in [
        ("--driver vxlan", 2, "needs the number"),
        ("--driver vxlan --vni 42", 2, "needs the range of all its hosts"),
        (
            "--driver vxlan --vni 42 --cluster-cidr 10.90.0.0/16",
            2,
            "the part of the cluster's range that this host has",
        ),
        ("--driver vxlan --vni 0 --cluster-cidr 10.90.0.0/16 --subnet 10.90.1.0/24", 2, "not within 1 and 16777215"),
        ("--driver vxlan --vni 42 --cluster-cidr 10.90.0.0/16 --subnet 10.91.1.0/24", 2, "not within 10.90.0.0/16"),
        ("--vni 42", 2, "only for vxlan"),
        (&format!("{} --peers 198.51.100.2=10.90.1.0/25", part(1)), 2, "overlaps 10.90.1.0/24"),
        (&format!("{} --peers 198.51.100.2", part(1)), 2, "there is no ="),
        (&format!("{} --peers two=10.90.2.0/24", part(1)), 2, "is not an address"),
        (&format!("{} --peers 198.51.100.1=10.90.2.0/24", part(1)), 1, "is this host itself"),
        (&format!("{} --peers 198.51.100.2=10.90.2.0/24,198.51.100.2=10.90.3.0/24", part(1)), 2, "is given twice"),
        (&format!("{} --peers 224.0.0.1=10.90.2.0/24", part(1)), 2, "224.0.0.1 is no host's address"),
        (
            "--driver vxlan --vni 1 --cluster-cidr 198.51.100.0/24 --subnet 198.51.100.128/25",
            1,
            "overlaps 198.51.100.1/24",
        ),
    ] {
        host.podrun(format!("network create flat {words}")).fails(code).with_one_line().says(why);
        host.podrun("network inspect flat").fails(1);
    }
    host.podrun(format!("network create flat {}", part(1))).ok();
    host.podrun("network create second --subnet 10.90.77.0/24")
        .fails(1)
        .with_one_line()
        .says("10.90.0.0/16 of the network flat");
    host.podrun("network peer add flat 198.51.100.2=10.91.0.0/24").fails(1).with_one_line().says("not within");
    host.podrun("network peer add flat 127.0.0.1=10.90.2.0/24").fails(1).with_one_line().says("is no host's address");
    host.podrun("network peer add flat 198.51.100.1=10.90.2.0/24").fails(1).with_one_line().says("is this host itself");
    host.podrun("network peer add bridge 198.51.100.2=10.90.2.0/24")
        .fails(1)
        .with_one_line()
        .says("only an overlay has peers");
    host.podrun("network rm flat").ok();
}
