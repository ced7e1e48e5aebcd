//! What holds for the network as a whole: every way of wiring by TCP, UDP and ICMP, many pods, and whose rules are whose.

use podrun_tests::traffic::{address, hears, inside, serve};
use podrun_tests::{Host, eventually, many, skip};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Another machine on the host's wire, 192.0.2.2 beside the host's 192.0.2.1.
fn host_with_a_lan() -> Host {
    let host = Host::new();
    host.program("ip link set dev lo up").run().ok();
    host.podrun("create pod lan --network none").ok();
    let pause = host.inspect("lan")["pause"]["pid"].to_string();
    let script = format!(
        "ip link add name uplink type veth peer name world netns {pause} && ip addr add 192.0.2.1/24 dev uplink && \
         ip link set uplink up && ip route add default via 192.0.2.2"
    );
    host.program("sh -ec").args([script]).run().ok();
    inside(&host, "lan", "ip addr add 192.0.2.2/24 dev world; ip link set world up").ok();
    both(&host, "lan");
    host
}

/// Answers by TCP and UDP on port 80.
fn both(host: &Host, pod: &str) {
    serve(host, pod);
    host.start(&format!("{pod}/udp"), "", &format!("/probe udp-listen [::]:80 {pod}"));
    let log = format!("logs {pod}/udp");
    eventually("it listens", Duration::from_secs(10), || host.podrun(&log).text().contains("listening").then_some(()));
}

/// By TCP, UDP and ICMP, and whom the other side saw.
#[track_caller]
fn hears_all(host: &Host, from: &str, to: &str, answer: &str) {
    hears(host, from, to, answer);
    let probe = host.probe().display();
    let said = inside(host, from, &format!("exec {probe} udp-ask {to}:80")).ok().text();
    assert_eq!(said.trim().replace("::ffff:", ""), answer, "{from} asks {to} by UDP");
    inside(host, from, &format!("exec {probe} ping {to}")).ok().prints("pong");
}

// Issue 4, what must be proven: "every mode by real traffic between real pods (TCP, UDP, ICMP where allowed, source
// addresses checked)". Overlays and CNI have their own files; ipvlan is tried where a kernel has it.
#[test]
fn tcp_udp_and_icmp_pass_in_every_mode_and_show_the_right_source() {
    let host = host_with_a_lan();
    host.podrun("network create open --no-masquerade").ok();
    for (network, outside) in [
        ("bridge", Some("192.0.2.1")),
        ("open", None),
        ("ptp", Some("192.0.2.1")),
        ("macvlan:parent=uplink,ip=192.0.2.N/24", None),
    ] {
        for (pod, last) in [("a", "11"), ("b", "12")] {
            host.podrun(format!("create pod {pod} --network {}", network.replace('N', last))).ok();
            both(&host, pod);
        }
        let ip = |pod: &str| host.inspect(pod)["network"]["ip"][0].as_str().unwrap().to_owned();
        let (a, b) = (ip("a"), ip("b"));
        hears_all(&host, "a", &b, &format!("b to {a}"));
        hears_all(&host, "b", &a, &format!("a to {b}"));
        if network == "open" {
            inside(&host, "lan", &format!("ip route add {a}/32 via 192.0.2.1")).ok();
        }
        hears_all(&host, "a", "192.0.2.2", &format!("lan to {}", outside.unwrap_or(&a)));
        // A pod that joins another's network speaks from the same address, and to it by 127.0.0.1.
        host.podrun("create pod side --network pod:a").ok();
        hears_all(&host, "side", &b, &format!("b to {a}"));
        hears_all(&host, "side", "127.0.0.1", "a to 127.0.0.1");
        for pod in ["side", "a", "b"] {
            host.podrun(format!("delete pod {pod} --force")).ok();
        }
    }
    host.podrun("create pod own --network host").ok();
    both(&host, "own");
    hears_all(&host, "lan", "192.0.2.1", "own to 192.0.2.2");
    host.podrun("delete pod own --force").ok();
    host.podrun("delete pod lan --force").ok();
}

// "isolation both ways: a pod to the host's 127.0.0.1 services", whatever wires it (CVE-2020-8558).
#[test]
fn no_kind_of_network_reaches_the_hosts_loopback() {
    let host = host_with_a_lan();
    let mut server = host.program(format!("{} listen 127.0.0.1:9000 secret", host.probe().display())).start();
    server.until_it_prints("listening");
    host.podrun("network create open --no-isolate --no-masquerade").ok();
    host.podrun("network create inner --internal").ok();
    host.program("sh -c 'echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet'").run().ok();
    for network in ["ptp -p 8080:80", "open -p 8080:80", "inner"] {
        host.podrun(format!("create pod evil --network {network}")).ok();
        let name = network.split(' ').next().unwrap();
        let gateway = host.podrun(format!("network inspect {name}")).json()["subnets"][0]["gateway"].clone();
        let hostile = format!(
            "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr flush dev lo; \
             ip route add {0} dev eth0 2>/dev/null || true; ip route add 127.0.0.1 via {0} dev eth0 onlink",
            gateway.as_str().unwrap()
        );
        inside(&host, "evil", &hostile).ok();
        let asked = inside(&host, "evil", &format!("exec {} ask 127.0.0.1:9000", host.probe().display()));
        asked.fails(99).says("timed out");
        host.podrun("delete pod evil --force").ok();
    }
    host.program(format!("{} ask 127.0.0.1:9000", host.probe().display())).run().ok().prints("secret to 127.0.0.1");
    host.podrun("delete pod lan --force").ok();
}

// "rogue IPv6 router advertisements" (CVE-2020-10749, CVE-2020-13597), where the host's end of a pod's wire is not the port
// of a bridge, and where the bridge or that end speaks IPv6.
#[test]
fn router_advertisements_are_heard_on_no_kind_of_network() {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        skip!("this kernel has no IPv6");
    }
    let host = Host::new();
    host.podrun("network create six --ipv6").ok();
    host.podrun("network create routed --driver ptp --ipv6").ok();
    host.podrun("create pod stays --network six --network ptp --network routed").ok();
    for network in ["six", "ptp", "routed"] {
        host.podrun(format!("create pod evil --network {network}")).ok();
        let routes = || {
            let victim = inside(&host, "stays", "ip -6 route; ip -6 addr").ok().text();
            (host.program("ip -6 route").run().ok().text(), victim)
        };
        let before = routes();
        let hostile = format!(
            "echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6; ip addr replace fe80::bad/64 dev eth0 nodad; \
             {} advertise eth0",
            host.probe().display()
        );
        for _ in 0..3 {
            inside(&host, "evil", &hostile).ok();
            std::thread::sleep(Duration::from_millis(100));
        }
        let after = routes();
        assert!(!after.0.contains("bad") && !after.1.contains("bad"), "{network}: {after:?}");
        assert_eq!(after, before, "{network}");
        host.podrun("delete pod evil --force").ok();
    }
}

// "300 pods on one bridge".
#[test]
fn hundreds_of_pods_are_on_one_bridge() {
    let host = Host::new();
    let count = many(60, 300);
    for first in (0..count).step_by(10) {
        let some: Vec<_> = (first..count.min(first + 10))
            .map(|n| host.command(format!("create pod p{n}")).limit(Duration::from_secs(120)).start())
            .collect();
        for one in some {
            one.wait().ok();
        }
    }
    let pods = host.podrun("network inspect bridge").json()["pods"].clone();
    let ips: BTreeSet<String> = pods.as_array().unwrap().iter().map(|pod| pod["addresses"][0].to_string()).collect();
    let macs: BTreeSet<String> = pods.as_array().unwrap().iter().map(|pod| pod["mac"].to_string()).collect();
    assert_eq!((ips.len(), macs.len()), (count, count));
    let (first, last) = ("p0".to_owned(), format!("p{}", count - 1));
    let ip = |pod: &str| address(&host, pod, "bridge");
    both(&host, &first);
    both(&host, &last);
    hears_all(&host, &first, &ip(&last), &format!("{last} to {}", ip(&first)));
    hears_all(&host, &last, &ip(&first), &format!("{first} to {}", ip(&last)));
    host.run(&format!("{first}/names"), "", &format!("busybox nslookup {last}")).ok().prints_something_like(&ip(&last));
    host.podrun("delete pod --all --force").ok();
}

/// What nft says, without the order of the elements of a map, which is the kernel's.
fn rules(host: &Host) -> Vec<String> {
    let all = host.program("nft list ruleset").run().ok().text();
    let mut lines: Vec<_> = all.lines().map(|line| line.trim().trim_end_matches(',').to_owned()).collect();
    lines.sort();
    lines
}

// "rules idempotent under reload", with everything in them that podrun writes.
#[test]
fn a_reload_changes_nothing_whatever_is_published_served_and_overlaid() {
    let host = host_with_a_lan();
    host.podrun(
        "network create flat --driver vxlan --vni 42 --cluster-cidr 10.90.0.0/16 --subnet 10.90.1.0/24 --peers 192.0.2.2=10.90.2.0/24",
    )
    .ok();
    for line in [
        "open --no-isolate --no-masquerade",
        "inner --internal",
        "alone --no-icc",
        "six --ipv6",
        "near --host-binding 127.0.0.1",
    ] {
        host.podrun(format!("network create {line}")).ok();
    }
    host.podrun("create pod web --network bridge --network flat --network ptp --label app=web -p 8080:80 -p 127.0.0.1:8081:80/udp").ok();
    host.podrun(
        "create pod more --network six --network open --network inner --network alone -p 8082:80 -p [::1]:8083:80",
    )
    .ok();
    host.podrun("create pod near --network near -p 8084:80").ok();
    both(&host, "web");
    host.podrun("service create web --selector app=web --port 80 --session-affinity ClientIP").ok();
    host.podrun("service create far --endpoint 192.0.2.2 --port 80").ok();
    let links = || host.program("ip -o -d link").run().ok().text().lines().count();
    let (before, links_before) = (rules(&host), links());
    for part in ["services", "8080", "8084", "vxlan"] {
        assert!(before.iter().any(|line| line.contains(part)), "{part} in {before:#?}");
    }
    for _ in 0..2 {
        host.podrun("network reload").ok();
        assert_eq!(rules(&host), before);
        assert_eq!(links(), links_before);
    }
    // And from nothing.
    host.program("nft flush ruleset").run().ok();
    host.podrun("network reload").ok();
    assert_eq!(rules(&host), before);
    host.podrun("service rm web far").ok();
    host.podrun("delete pod lan --force").ok();
}

// "the host's own rules untouched before and after (a dump compared)".
#[test]
fn the_hosts_own_rules_routes_and_settings_are_as_they_were() {
    let host = Host::new();
    let own = "table inet filter {\n set known { type ipv4_addr; flags interval; elements = { 198.51.100.0/24 } }\n\
        chain input { type filter hook input priority 0; policy accept; ip saddr @known counter accept; }\n\
        chain forward { type filter hook forward priority 10; policy accept; }\n }\n\
        table ip nat {\n chain POSTROUTING { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 masquerade; }\n\
        chain PREROUTING { type nat hook prerouting priority -100; tcp dport 2222 redirect to :22; }\n }\n\
        table ip6 filter {\n chain INPUT { type filter hook input priority 0; tcp dport 23 drop; }\n }\n";
    host.program("nft -f -").stdin(own).run().ok();
    host.program("ip link add name uplink type veth peer name peer").run().ok();
    host.program("sh -ec 'for one in uplink peer; do ip link set $one addrgenmode none || true; ip link set $one up; done; ip addr add 192.0.2.1/24 dev uplink; ip route add 198.51.100.0/24 via 192.0.2.9'").run().ok();
    let tables = || {
        ["inet filter", "ip nat", "ip6 filter"]
            .map(|table| host.program(format!("nft list table {table}")).run().ok().text())
    };
    let settings = || {
        let script = "cd /proc/sys/net; grep -r . ipv4/ip_forward ipv4/conf/*/forwarding ipv4/conf/*/route_localnet \
            ipv4/conf/*/rp_filter ipv4/conf/*/accept_local ipv6/conf/*/forwarding ipv6/conf/*/force_forwarding \
            ipv6/conf/*/accept_ra bridge 2>/dev/null | sort";
        let state = host.program("sh -c").args([script]).run().text();
        let links = host.program("ip -o link").run().ok().text();
        let routes = host.program("sh -c 'ip rule; ip route show table all; ip -6 rule; ip -o addr'").run().ok().text();
        (state, links.lines().count(), routes)
    };
    let ruleset = || host.program("nft list ruleset").run().ok().text();
    let (own, before, all) = (tables(), settings(), ruleset());
    assert!(own[1].contains("redirect") && before.0.contains("ip_forward:0"), "{own:?} {before:?}");
    host.podrun("network create six --ipv6").ok();
    host.podrun("network create open --no-isolate").ok();
    host.podrun("network create flat --driver vxlan --vni 42 --cluster-cidr 10.90.0.0/16 --subnet 10.90.1.0/24").ok();
    host.podrun("network create wire --driver macvlan --parent uplink --subnet 192.0.2.0/24 --range 192.0.2.64/29")
        .ok();
    host.podrun("create pod web --network bridge --network six --label app=web -p 8080:80 -p 8080:80/udp").ok();
    host.podrun("create pod db --network ptp --network flat --network open --network wire").ok();
    host.podrun("service create web --selector app=web --port 80").ok();
    serve(&host, "web");
    host.podrun("update pod web --unpublish 8080/udp --publish 8081:80").ok();
    host.podrun("network disconnect six web").ok();
    host.podrun("network reload").ok();
    assert_eq!(tables(), own, "while pods live");
    host.podrun("service rm web").ok();
    host.podrun("delete pod web db --force").ok();
    assert_eq!(tables(), own);
    host.podrun("network rm six open flat wire").ok();
    host.podrun("prune --force").ok();
    eventually("the last links are gone", Duration::from_secs(3), || (settings().1 == before.1).then_some(()));
    assert_eq!((settings(), ruleset()), (before, all));
    take_away_the_hosts_own(&host);
}

/// The fake host had an empty firewall before its own tables.
fn take_away_the_hosts_own(host: &Host) {
    host.program("nft flush ruleset").run().ok();
    host.program("ip link del uplink").run().ok();
}
