//! The pod's network: one address, one loopback, one port space; and what it takes on the host, and gives back.

use podrun_tests::{Host, Value, eventually, json, many};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

fn pod() -> Host {
    let host = Host::new();
    host.pod("web");
    host
}

fn address(host: &Host, pod: &str) -> String {
    let ip = host.inspect(pod)["network"]["ip"][0].as_str().unwrap().to_owned();
    ip.split('/').next().unwrap().to_owned()
}

fn listen(host: &Host, container: &str, at: &str, text: &str) {
    host.start(container, "-u 1000", &format!("/probe listen {at} {text}"));
    let log = format!("logs {container}");
    eventually("it listens", Duration::from_secs(5), || host.podrun(&log).text().contains("listening").then_some(()));
}

// Issue 3, 7: "bridge (default: own bridge, 10.88.0.0/16 or the next free range)".
#[test]
fn a_pod_has_one_address_from_the_range() {
    let host = pod();
    let ip: Ipv4Addr = address(&host, "web").parse().unwrap();
    assert_eq!(ip.octets()[..2], [10, 88]);
    let facts = host.run("web/a", "", "/probe").facts();
    let links: BTreeSet<_> = facts["links"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let interface = host.inspect("web")["network"]["interface"].as_str().unwrap().to_owned();
    assert_eq!(links, BTreeSet::from(["lo", interface.as_str()]));
    assert_eq!(interface, "eth0");
}

#[test]
fn containers_of_a_pod_meet_on_localhost() {
    let host = pod();
    listen(&host, "web/server", "127.0.0.1:80", "hello");
    host.run("web/client", "", "/probe ask 127.0.0.1:80").ok().prints("hello to 127.0.0.1");
}

#[test]
fn a_port_is_taken_once_in_a_pod_and_again_in_another() {
    let host = pod();
    listen(&host, "web/one", "0.0.0.0:8080", "one");
    host.run("web/two", "", "/probe try bind 8080").ok().prints("EADDRINUSE");
    host.pod("other");
    host.run("other/two", "", "/probe try bind 8080").ok().prints("ok");
}

#[test]
fn a_pod_reaches_its_gateway_and_other_pods_and_the_host_reaches_it() {
    let host = pod();
    host.pod("other");
    let gateway = host.inspect("web")["network"]["gateway"].as_str().unwrap().to_owned();
    host.run("web/a", "-u 1000", &format!("/probe ping {gateway}")).ok().prints("pong");
    let (web, other) = (address(&host, "web"), address(&host, "other"));
    host.run("other/ping", "-u 1000", &format!("/probe ping {web}")).ok().prints("pong");
    listen(&host, "web/server", "0.0.0.0:80", "hello");
    host.run("other/ask", "", &format!("/probe ask {web}:80")).ok().prints(&format!("hello to {other}"));
    let probe = host.probe().display().to_string();
    host.program(format!("{probe} ask {web}:80")).run().ok().prints_something_like("hello to ");
}

// The host of the test has no way out, so a second link plays the world: traffic from the pod has the host's address there.
#[test]
fn traffic_to_the_world_is_masqueraded() {
    let host = pod();
    host.program("ip link add name uplink type veth peer name world").run().ok();
    host.podrun("create pod elsewhere --network none").ok();
    let pause = host.inspect("elsewhere")["pause"]["pid"].to_string();
    for line in [
        format!("ip link set world netns {pause}"),
        "ip addr add 192.0.2.1/24 dev uplink".into(),
        "ip link set dev uplink up".into(),
        format!("{} netns elsewhere -- ip addr add 192.0.2.2/24 dev world", host.podrun_path().display()),
        format!("{} netns elsewhere -- ip link set world up", host.podrun_path().display()),
    ] {
        host.program(line).run().ok();
    }
    listen(&host, "elsewhere/server", "192.0.2.2:80", "hello");
    host.run("web/a", "", "/probe ask 192.0.2.2:80").ok().prints("hello to 192.0.2.1");
}

// Issue 3, 7: "MAC derived from the address".
#[test]
fn the_mac_is_derived_from_the_address() {
    let host = pod();
    let mac = host.inspect("web")["network"]["mac"].as_str().unwrap().to_owned();
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let ip: Ipv4Addr = address(&host, "web").parse().unwrap();
    assert_eq!(bytes[2..], ip.octets());
    assert_eq!(bytes[0] & 3, 2, "locally administered, unicast");
}

// pitfalls.md 31: "generated per pod from data, never copied from host".
#[test]
fn hosts_hostname_and_resolv_conf_are_made_from_data() {
    let host = Host::new();
    host.replace_file("/etc/hosts", "127.0.0.1 localhost\n192.0.2.9 secret-of-the-host\n");
    host.replace_file("/etc/resolv.conf", "nameserver 192.0.2.53\nsearch example.org\noptions ndots:2\n");
    host.podrun("create pod web --hostname box").ok();
    let ip = address(&host, "web");
    let hosts = host.run("web/a", "", "cat /etc/hosts").ok().text();
    let has = |words: &[&str]| {
        hosts.lines().any(|line| words.iter().all(|word| line.split_whitespace().any(|found| found == *word)))
    };
    assert!(has(&["127.0.0.1", "localhost"]) && has(&["::1", "localhost"]) && has(&[&ip, "box"]), "{hosts}");
    assert!(!hosts.contains("secret"), "{hosts}");
    host.run("web/b", "", "cat /etc/hostname").ok().prints("box");
    // The bridge's name server, which asks the host's; a network without one gives the host's.
    let gateway = host.inspect("web")["network"]["gateway"].as_str().unwrap().to_owned();
    let resolv = host.run("web/c", "", "cat /etc/resolv.conf").ok().text();
    assert_eq!(resolv, format!("search example.org\nnameserver {gateway}\noptions ndots:0\n"));
    host.podrun("create pod other --network ptp").ok();
    let resolv = host.run("other/c", "", "cat /etc/resolv.conf").ok().text();
    assert_eq!(resolv, "search example.org\nnameserver 192.0.2.53\noptions ndots:2\n");
}

// pitfalls.md, more: "/etc/resolv.conf of the host points to 127.0.0.53".
#[test]
fn a_resolver_on_the_hosts_loopback_is_not_given_to_the_pod() {
    let host = Host::new();
    host.replace_file("/etc/resolv.conf", "nameserver 127.0.0.53\nnameserver 192.0.2.53\n");
    host.pod("web");
    let resolv = host.run("web/a", "", "cat /etc/resolv.conf").ok().text();
    assert!(!resolv.contains("127.0.0.53"), "{resolv}");
    host.pod("other --network ptp");
    let resolv = host.run("other/a", "", "cat /etc/resolv.conf").ok().text();
    assert!(!resolv.contains("127.0.0.53") && resolv.contains("192.0.2.53"), "{resolv}");
}

// CVE-2020-8557: a container filled the node's disk through its hosts file; "mounted read-only unless asked".
#[test]
fn hosts_and_resolv_conf_cannot_be_written_from_inside() {
    let host = pod();
    let out = host.run("web/a", "", "/probe try-all write,/etc/hosts write,/etc/resolv.conf write,/etc/hostname");
    assert_eq!(out.ok().text().matches("EROFS").count(), 3, "{}", out.text());
}

#[test]
fn a_bundle_gets_the_pods_hosts_file_too_unless_it_brings_its_own() {
    let host = pod();
    let bundle = host.bundle(|config| config["process"]["args"] = json!(["/bin/cat", "/etc/hosts"]));
    host.podrun(format!("run web/a --bundle {bundle}")).ok().prints_something_like(&address(&host, "web"));
    let own = host.fresh("hosts");
    std::fs::write(&own, "192.0.2.1 mine\n").unwrap();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["/bin/cat", "/etc/hosts"]);
        let mount = json!({ "destination": "/etc/hosts", "type": "bind", "source": own, "options": ["bind", "ro"] });
        config["mounts"].as_array_mut().unwrap().push(mount);
    });
    host.podrun(format!("run web/b --bundle {bundle}")).ok().prints("192.0.2.1 mine");
}

// Issue 3, 7: "`host`, `none`, `pod:NAME`".
#[test]
fn a_pod_without_network_has_a_loopback_and_nothing_else() {
    let host = Host::new();
    host.podrun("create pod web --network none").ok();
    let facts = host.run("web/a", "", "/probe").facts();
    assert_eq!(facts["links"], json!(["lo"]));
    host.run("web/b", "-u 1000", "/probe ping 127.0.0.1").ok().prints("pong");
    assert_eq!(host.inspect("web")["network"]["mode"], "none");
}

#[test]
fn a_pod_on_the_hosts_network_keeps_its_own_hostname() {
    let host = Host::new();
    host.podrun("create pod web --network host").ok();
    let facts = host.run("web/a", "", "/probe").facts();
    assert_eq!(facts["hostname"], "web");
    assert_eq!(host.program("hostname").run().text(), "fakehost\n");
}

#[test]
fn a_pod_may_join_the_network_of_another() {
    let host = pod();
    host.podrun("create pod guest --network pod:web").ok();
    listen(&host, "web/server", "127.0.0.1:80", "hello");
    host.run("guest/a", "", "/probe ask 127.0.0.1:80").ok().prints("hello to 127.0.0.1");
    let (web, guest) = (host.run("web/f", "", "/probe").facts(), host.run("guest/f", "", "/probe").facts());
    assert_eq!(web["namespaces"]["net"], guest["namespaces"]["net"]);
    assert_ne!(web["namespaces"]["uts"], guest["namespaces"]["uts"]);
    host.podrun("create pod lost --network pod:wbe").fails(1).with_one_line().says("web");
    host.podrun("create pod odd --network nosuch").fails(1).with_one_line().says("find the network nosuch");
}

// Issue 3, 3: "sysctls that belong to its own namespaces, set once"; pitfalls.md 32.
#[test]
fn sysctls_of_the_pod_are_set_in_the_pod_and_not_on_the_host() {
    let host = Host::new();
    let before = host.program("cat /proc/sys/net/core/somaxconn").run().text();
    host.podrun(
        "create pod web --sysctl net.core.somaxconn=1234 --sysctl kernel.shmmni=99 --sysctl net.ipv4.ip_default_ttl=77",
    )
    .ok();
    let values = host.run(
        "web/a",
        "",
        "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_default_ttl",
    );
    values.ok().prints("1234\n99\n77");
    assert_eq!(host.program("cat /proc/sys/net/core/somaxconn").run().text(), before);
}

// Issue 3, 7: "Without `nft` on the host a pod still gets its address, and podrun says what is missing."
#[test]
fn without_nft_a_pod_has_its_address_and_it_is_said() {
    let host = Host::new();
    let out = host.command("create pod web").env("PATH", "/nonexistent").run();
    out.ok().says("nft");
    let gateway = host.inspect("web")["network"]["gateway"].as_str().unwrap().to_owned();
    host.run("web/a", "-u 1000", &format!("/probe ping {gateway}")).ok().prints("pong");
}

// Issue 3, 7: "The host's ip_forward and firewall are changed only as far as needed …, undone by `prune` when the last pod is
// gone"; the harness compares every switch of every link too.
#[test]
fn prune_undoes_what_was_changed_on_the_host() {
    let host = Host::new();
    let switches = "sh -c 'cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/default/forwarding'";
    let before = host.program(switches).run().ok().text();
    host.pod("web");
    host.program("nft list tables").run().ok().prints_something_like("podrun");
    host.podrun("delete pod web").ok();
    host.podrun("prune --force").ok();
    assert_eq!(host.program(switches).run().ok().text(), before);
    host.program("nft list tables").run().ok().prints("");
    let links = host.program("ip -o link").run().ok().text();
    assert_eq!(links.lines().count(), 1, "{links}");
}

// An ip_forward that was on stays on.
#[test]
fn prune_leaves_forwarding_on_where_it_was_on() {
    let host = Host::new();
    host.program("sysctl -qw net.ipv4.ip_forward=1").run().ok();
    host.pod("web");
    host.podrun("delete pod web").ok();
    host.podrun("prune --force").ok();
    host.program("cat /proc/sys/net/ipv4/ip_forward").run().ok().prints("1");
    host.program("sysctl -qw net.ipv4.ip_forward=0").run().ok();
}

// Somebody else's firewall is not touched.
#[test]
fn another_table_of_the_firewall_stays_as_it_is() {
    let host = Host::new();
    host.program("nft add table inet mine").run().ok();
    host.program("nft add chain inet mine input").run().ok();
    let before = host.program("nft list table inet mine").run().text();
    host.pod("web");
    host.podrun("delete pod web").ok();
    host.podrun("prune --force").ok();
    assert_eq!(host.program("nft list table inet mine").run().text(), before);
    host.program("nft delete table inet mine").run().ok();
}

// pitfalls.md 2: addresses leak after crashes until the range is used up.
#[test]
fn an_address_comes_back_after_everything_of_its_pod_was_killed() {
    let host = Host::new();
    for _ in 0..3 {
        host.pod("web");
        let pod = host.inspect("web");
        let pids: Vec<_> = ["pause", "monitor"].iter().map(|part| pod[part]["pid"].to_string()).collect();
        host.program(format!("sh -c 'kill -STOP {0}; kill -KILL {0}'", pids.join(" "))).run().ok();
        host.podrun("delete pod web --force").ok();
    }
    host.podrun("prune --force").ok();
    let leases = host.run_root().join("leases");
    let left: Vec<_> =
        std::fs::read_dir(leases).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("10.")), "{left:?}");
}

// kernel-costs.md: "handed out again as late as possible (next fit, not first fit)".
#[test]
fn an_address_is_not_given_to_the_next_pod_at_once() {
    let host = pod();
    let first = address(&host, "web");
    host.podrun("delete pod web").ok();
    host.pod("web");
    assert_ne!(address(&host, "web"), first);
}

// Issue 3: "Removal never waits for RCU": 20 to 30 ms by RTM_DELLINK; with room here for a busy machine.
#[test]
fn the_link_of_a_deleted_pod_goes_by_itself() {
    let host = pod();
    host.podrun("delete pod web").ok();
    eventually("the veth is gone", Duration::from_secs(2), || {
        (!host.program("ip -o link").run().text().contains("veth")).then_some(())
    });
}

// The range in use on the host already: the next one.
#[test]
fn a_range_that_the_host_uses_is_not_taken() {
    let host = Host::new();
    host.program("ip link add name taken type veth peer name taken2").run().ok();
    host.program("ip addr add 10.88.5.1/16 dev taken").run().ok();
    host.program("ip link set taken up").run().ok();
    host.pod("web");
    let ip: Ipv4Addr = address(&host, "web").parse().unwrap();
    assert_ne!(ip.octets()[..2], [10, 88], "{ip}");
    host.podrun("delete pod web").ok();
    host.program("ip link del taken").run().ok();
}

// Issue 3, what must be proven: "50 creates and deletes at once".
#[test]
fn fifty_pods_at_once_have_fifty_addresses_and_go_at_once() {
    let host = Host::new();
    let all: Vec<_> = (0..50).map(|n| host.command(format!("create pod p{n}")).start()).collect();
    for one in all {
        one.wait().ok();
    }
    let list = host.podrun("get pods -o json").json();
    let ips: BTreeSet<_> =
        list["items"].as_array().unwrap().iter().map(|pod| pod["status"]["podIP"].to_string()).collect();
    assert_eq!(ips.len(), 50, "{ips:?}");
    let all: Vec<_> = (0..50).map(|n| host.command(format!("delete pod p{n} --force")).start()).collect();
    for one in all {
        one.wait().ok();
    }
    assert_eq!(host.podrun("get pods -o json").json()["items"], json!([]));
}

#[test]
fn udp_works_between_pods() {
    let host = pod();
    host.pod("other");
    host.start("web/server", "", "/probe udp-listen 0.0.0.0:53 hello");
    eventually("it listens", Duration::from_secs(5), || {
        host.podrun("logs web/server").text().contains("listening").then_some(())
    });
    let out: Value =
        json!(host.run("other/a", "", &format!("/probe udp-ask {}:53", address(&host, "web"))).ok().text());
    assert!(out.as_str().unwrap().starts_with("hello to "), "{out}");
}

/// A program of the host's in a pod's network, with all that root may do there.
fn in_network_of(host: &Host, pod: &str, script: &str) -> podrun_tests::Outcome {
    host.command(format!("netns {pod} --")).args(["sh", "-ec", script]).run()
}

// pitfalls.md 2: the range and what to do; and the address of one that goes is the next one's.
#[test]
fn a_range_that_is_used_up_is_told_with_the_range() {
    let host = Host::new();
    let networks = host.root().join("networks");
    std::fs::create_dir_all(&networks).unwrap();
    std::fs::write(networks.join("bridge.json"), "{\"subnet\": \"10.77.0.8/29\"}").unwrap();
    for n in 1..=5 {
        host.pod(&format!("web{n}"));
    }
    let full = host.podrun("create pod more");
    full.fails(1).says("take an address of 10.77.0.8/29: none is free, 5 pods have one").says("hint: delete pods");
    full.with_one_line();
    host.podrun("inspect more").fails(1);
    let free = address(&host, "web3");
    host.podrun("delete pod web3").ok();
    host.pod("more");
    assert_eq!(address(&host, "more"), free);
    std::fs::remove_dir_all(networks).unwrap();
}

// CVE-2020-8558: "Nodes with services bound to 127.0.0.1 are reachable by neighbours", worse where route_localnet is on.
#[test]
fn a_pod_cannot_reach_services_on_the_hosts_loopback() {
    let host = pod();
    let mut server = host.program(format!("{} listen 127.0.0.1:8080 secret", host.probe().display())).start();
    server.until_it_prints("listening");
    let gateway = host.inspect("web")["network"]["gateway"].as_str().unwrap().to_owned();
    let conf = "/proc/sys/net/ipv4/conf";
    // The pod's own 127.0.0.1 is out of its way, and the host's beyond the gateway, as a hostile pod would have it.
    let hostile =
        format!("echo 1 > {conf}/all/route_localnet; ip addr flush dev lo; ip route add 127.0.0.1 via {gateway}");
    in_network_of(&host, "web", &hostile).ok();
    let ask = format!("{} ask 127.0.0.1:8080", host.probe().display());
    in_network_of(&host, "web", &ask).fails(99).says("timed out");
    host.program(format!("sh -c 'echo 1 > {conf}/all/route_localnet'")).run().ok();
    in_network_of(&host, "web", &ask).fails(99).says("timed out");
    // Without podrun's rules it would be reached: the test does see something. The monitor would put them back.
    let monitor = host.inspect("web")["monitor"]["pid"].clone();
    host.kill(&monitor, libc::SIGSTOP);
    host.program(format!("nft delete table inet {}", host.cgroup_name().replace('-', "_"))).run().ok();
    in_network_of(&host, "web", &ask).ok().prints_something_like("secret to ");
    host.kill(&monitor, libc::SIGCONT);
    host.program(&ask).run().ok().prints("secret to 127.0.0.1");
}

// CVE-2020-10749, CVE-2020-13597: a pod plays the router.
#[test]
fn a_pods_router_advertisements_change_nobodys_routes() {
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        podrun_tests::skip!("this kernel has no IPv6");
    }
    let host = pod();
    host.pod("victim");
    let routes = || {
        let here = host.program("ip -6 route").run().ok().text();
        (here, in_network_of(&host, "victim", "ip -6 route; ip -6 address").ok().text())
    };
    let before = routes();
    let up =
        "echo 0 > /proc/sys/net/ipv6/conf/IF/disable_ipv6; ip addr add fe80::bad/64 dev IF nodad; PROBE advertise IF";
    let hostile = |interface: &str| up.replace("IF", interface).replace("PROBE", &host.probe().display().to_string());
    for _ in 0..3 {
        in_network_of(&host, "web", &hostile("eth0").replace("addr add", "addr replace")).ok();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(routes(), before);
    // On a link that listens the same advertisement is believed: the test does see something.
    let link = "ip link add near type veth peer name far; ip link set far netns PID; \
                echo 2 > /proc/sys/net/ipv6/conf/near/accept_ra; ip link set near up";
    let pause = host.inspect("web")["pause"]["pid"].to_string();
    host.program(format!("sh -ec '{}'", link.replace("PID", &pause))).run().ok();
    in_network_of(&host, "web", "ip link set far up").ok();
    eventually("the near end has believed it", Duration::from_secs(10), || {
        in_network_of(&host, "web", &hostile("far").replace("addr add", "addr replace")).ok();
        host.program("ip -6 route").run().ok().text().contains("2001:db8:bad::/64").then_some(())
    });
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

// pitfalls.md 2: "1,000 creates killed at random points": in a range of five, so that a single lost address shows.
#[test]
fn creates_that_are_killed_at_random_leave_no_address_taken() {
    let host = Host::new();
    let networks = host.root().join("networks");
    std::fs::create_dir_all(&networks).unwrap();
    std::fs::write(networks.join("bridge.json"), "{\"subnet\": \"10.77.0.8/29\"}").unwrap();
    host.pod("stays");
    let usual = host.podrun("create pod usual").ok().took;
    let mut seed = u64::from(std::process::id());
    for round in 0..many(30, 1000) {
        let victim = host.command(format!("create pod web{round}")).pipes_may_stay_held().start();
        let wait = u64::try_from(usual.as_micros()).unwrap() * 3 / 2;
        std::thread::sleep(Duration::from_micros(random(&mut seed) % wait));
        victim.signal(libc::SIGKILL);
        victim.wait();
        host.podrun(format!("delete pod web{round} --force"));
    }
    host.podrun("prune --force").ok();
    for n in 0..3 {
        host.pod(&format!("after{n}"));
    }
    host.podrun("create pod more").fails(1).says("none is free, 5 pods have one");
    std::fs::remove_dir_all(networks).unwrap();
}
