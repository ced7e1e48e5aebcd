//! Names on networks, by real questions of real pods: who hears of whom, what is asked elsewhere, and who answers.

use podrun_tests::{Host, Outcome, Running, Value, eventually, json, later_binary, many, skip};
use std::time::{Duration, Instant};

/// Makes networks, then pods.
fn host(networks: &[&str], pods: &[&str]) -> Host {
    let host = Host::new();
    host.program("ip link set lo up").run().ok();
    for line in networks {
        host.podrun(format!("network create {line}")).ok();
    }
    pods.iter().for_each(|line| host.pod(line));
    host
}

fn addresses(host: &Host, pod: &str, network: &str) -> Vec<String> {
    let all = host.inspect(pod)["networks"].clone();
    let one = all.as_array().into_iter().flatten().find(|one| one["network"] == network).cloned();
    let one = one.unwrap_or_else(|| panic!("{pod} is not on {network}"));
    let bare = |cidr: &Value| cidr.as_str().unwrap().split('/').next().unwrap().to_owned();
    one["addresses"].as_array().unwrap().iter().map(bare).collect()
}

fn address(host: &Host, pod: &str, network: &str) -> String {
    addresses(host, pod, network).remove(0)
}

/// Where a pod asks: what its resolv.conf says.
fn server(host: &Host, pod: &str) -> String {
    let text = resolv_conf(host, pod);
    let mut servers = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
    servers.next().unwrap_or_else(|| panic!("no server in {text}")).to_owned()
}

fn resolv_conf(host: &Host, pod: &str) -> String {
    let id = host.inspect(pod)["id"].as_str().unwrap().to_owned();
    host.read(host.run_root().join("pods").join(id).join("resolv.conf"))
}

/// The probe in a pod's network.
fn probe(host: &Host, pod: &str, words: &str) -> Outcome {
    host.podrun(format!("netns {pod} -- {} {words}", host.probe().display()))
}

/// What a pod hears of these questions, one line each: code, then addresses in order.
#[track_caller]
fn hears(host: &Host, pod: &str, answers: &[(&str, &str)]) {
    let questions: Vec<&str> = answers.iter().map(|(question, _)| *question).collect();
    let at = server(host, pod);
    for way in ["udp", "tcp"] {
        let said = probe(host, pod, &format!("dns {way} {at}:53 {}", questions.join(" "))).ok().text();
        let wanted: Vec<String> = answers.iter().map(|(question, answer)| format!("{question} {answer}")).collect();
        assert_eq!(said.lines().collect::<Vec<_>>(), wanted, "{pod} asks {at} by {way}");
    }
}

fn found(addresses: &[&str]) -> String {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    format!("NOERROR {}", sorted.join(" "))
}

/// A server of the host's world, which says what it was asked.
fn upstream<'h>(host: &'h Host, at: &str) -> Running<'h> {
    let mut running =
        host.program(format!("{} dns-serve {at}", host.probe().display())).limit(Duration::from_secs(120)).start();
    running.until_it_prints("listening");
    running
}

fn end(running: Running<'_>) {
    running.signal(libc::SIGKILL);
    running.wait();
}

fn name_server(host: &Host, network: &str) -> Value {
    host.podrun(format!("network inspect {network}")).json()["nameServer"]["pid"].clone()
}

fn name_servers(host: &Host) -> usize {
    host.processes().lines().filter(|line| line.contains("podrun-names")).count()
}

#[test]
fn pods_find_each_other_by_name_alias_and_hostname() {
    let host = host(&[], &["web --alias shop --hostname Shop-1.example.org", "db --alias sql", "cat"]);
    let (web, db) = (address(&host, "web", "bridge"), address(&host, "db", "bridge"));
    let (web, db) = (found(&[&web]), found(&[&db]));
    for (question, answer) in [
        ("web", &web),
        ("WEB", &web),
        ("web.bridge", &web),
        ("shop", &web),
        ("shop-1", &web),
        ("shop-1.bridge", &web),
        ("shop-1.example.org", &web),
        ("shop-1.example.org.bridge", &web),
        ("db", &db),
        ("sql.bridge", &db),
    ] {
        hears(&host, "cat", &[(question, answer)]);
    }
    // A family that it has not, and what no pod has.
    hears(&host, "cat", &[("web/AAAA", "NOERROR"), ("web/MX", "NOERROR"), ("nosuch", "NXDOMAIN")]);
    hears(&host, "cat", &[("nosuch.bridge", "NXDOMAIN"), ("nosuch/AAAA", "NXDOMAIN"), ("com/NS", "NXDOMAIN")]);
    // By a resolver, as programs in containers ask.
    let said = host.run("cat/ask", "", "busybox nslookup web").ok().text();
    assert!(said.contains(&address(&host, "web", "bridge")), "{said}");
    // And as the C library does.
    let said = host.run("cat/ping", "", "busybox ping -c 1 -W 1 shop").text();
    assert!(said.contains(&format!("PING shop ({})", address(&host, "web", "bridge"))), "{said}");
}

#[test]
fn addresses_are_found_backwards_and_only_those_that_one_may_know() {
    let host = host(&["front --subnet 10.77.0.0/24", "back --subnet 10.78.0.0/24"], &[]);
    host.pod("web --network front");
    host.pod("db --network back");
    hears(
        &host,
        "web",
        &[
            ("2.0.77.10.in-addr.arpa/PTR", "NOERROR web.front"),
            ("9.0.77.10.in-addr.arpa/PTR", "NXDOMAIN"),
            ("2.0.78.10.in-addr.arpa/PTR", "NXDOMAIN"),
        ],
    );
    let said = host.run("web/ask", "", "busybox nslookup 10.77.0.2").ok().text();
    assert!(said.contains("web.front"), "{said}");
}

#[test]
fn a_pod_hears_only_of_networks_that_it_is_on() {
    let host =
        host(&["front", "back"], &["web --network front --network back", "db --network back", "cat --network front"]);
    let (front, back) = (address(&host, "web", "front"), address(&host, "web", "back"));
    let db = found(&[&address(&host, "db", "back")]);
    hears(&host, "cat", &[("web", &found(&[&front])), ("db", "NXDOMAIN"), ("db.back", "NXDOMAIN")]);
    hears(&host, "cat", &[("web.back", "NXDOMAIN"), ("web.front", &found(&[&front]))]);
    hears(&host, "db", &[("web", &found(&[&back])), ("cat", "NXDOMAIN")]);
    hears(&host, "web", &[("db", &db), ("db.back", &db), ("web.back", &found(&[&back])), ("db.front", "NXDOMAIN")]);
    // Each network has one of its own.
    assert_eq!(name_servers(&host), 2);
}

#[test]
fn pods_of_one_name_in_two_namespaces_are_each_their_own() {
    let host = host(&[], &["web", "cat", "web -n team", "cat -n team"]);
    let of = |namespace: &str| {
        let web = host.podrun(format!("-n {namespace} inspect web")).json();
        web["network"]["ip"][0].as_str().unwrap().to_owned()
    };
    let at = server(&host, "cat");
    for namespace in ["default", "team"] {
        let ask = format!("-n {namespace} netns cat -- {} dns udp {at}:53 web", host.probe().display());
        host.podrun(ask).ok().prints(&format!("web NOERROR {}", of(namespace)));
    }
    host.podrun("-n team delete pod web --force").ok();
    host.podrun("-n team delete pod cat --force").ok();
}

#[test]
fn several_pods_of_one_alias_are_all_told_in_turn() {
    let host = host(&[], &["cat"]);
    let pods = many(12, 120);
    for n in 0..pods {
        host.pod(&format!("web-{n} --alias web"));
    }
    let all: Vec<String> = (0..pods).map(|n| address(&host, &format!("web-{n}"), "bridge")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let at = server(&host, "cat");
    let by = |way: &str| probe(&host, "cat", &format!("dns {way} {at}:53 web")).ok().text().trim().to_owned();
    assert_eq!(by("tcp"), format!("web {}", found(&all)));
    assert_eq!(by("udp"), if pods > 29 { "web NOERROR cut".to_owned() } else { by("tcp") });
    // Who takes the first one takes another each time.
    let first = |_| {
        let said = host.run("cat/ask", "--rm", "busybox nslookup web").ok().text();
        said.lines().filter_map(|line| line.strip_prefix("Address: ")).next().map(str::to_owned)
    };
    let firsts: std::collections::BTreeSet<_> = (0..8).map(first).collect();
    assert!(firsts.len() > 1, "always {firsts:?}");
    host.podrun("delete pod web-0 --force").ok();
    assert_eq!(by("tcp"), format!("web {}", found(&all[1..])));
}

#[test]
fn a_name_is_gone_with_its_pod_and_right_when_it_is_back() {
    let host = host(&[], &["web", "cat --link web:shop"]);
    let before = address(&host, "web", "bridge");
    hears(&host, "cat", &[("web", &found(&[&before])), ("shop", &found(&[&before]))]);
    host.podrun("delete pod web --force").ok();
    hears(&host, "cat", &[("web", "NXDOMAIN"), ("shop", "NXDOMAIN")]);
    host.pod("web");
    let after = address(&host, "web", "bridge");
    assert_ne!(before, after, "it is the next address");
    hears(&host, "cat", &[("web", &found(&[&after])), ("shop", &found(&[&after]))]);
    // The link is that pod's word alone.
    hears(&host, "web", &[("shop", "NXDOMAIN")]);
}

#[test]
fn a_link_or_alias_that_leads_nowhere_is_told_and_leaves_nothing() {
    let host = host(&["front", "quiet --disable-dns"], &["web", "far --network front"]);
    for (words, code, why) in [
        ("--link wbe", 1, "find the pod wbe"),
        ("--link far", 1, "they have no network in common that resolves names"),
        ("--link web:a.b", 2, "not an RFC 1123 label"),
        ("--alias A_b", 2, "not an RFC 1123 label"),
        ("--alias db --network none", 2, "podrun resolves no names on none"),
        ("--link web --network pod:web", 2, "podrun resolves no names on pod:web"),
        ("--network quiet,alias=db", 1, "the network resolves no names"),
        ("--network host,alias=db", 2, "nothing to choose"),
    ] {
        host.podrun(format!("create pod other {words}")).fails(code).with_one_line().says(why);
        host.podrun("inspect other").fails(1);
    }
}

#[test]
fn connect_and_disconnect_change_names_at_once() {
    let host = host(&["back"], &["web", "db --network back", "none --network none"]);
    hears(&host, "web", &[("db", "NXDOMAIN")]);
    host.podrun("network connect back web --alias shop").ok();
    let (web, db) = (found(&[&address(&host, "web", "back")]), found(&[&address(&host, "db", "back")]));
    hears(&host, "web", &[("db", &db)]);
    hears(&host, "db", &[("web", &web), ("shop", &web), ("shop.back", &web)]);
    host.podrun("network disconnect back web").ok();
    hears(&host, "web", &[("db", "NXDOMAIN")]);
    hears(&host, "db", &[("web", "NXDOMAIN"), ("shop", "NXDOMAIN")]);
    // A pod's servers follow its networks, in the file that its containers have.
    host.start("none/a", "", "/probe sleep 600");
    let file = || host.podrun("exec none/a -- cat /etc/resolv.conf").ok().text();
    let before = file();
    host.podrun("network connect back none").ok();
    assert!(file().contains(&format!("nameserver {}\n", server(&host, "db"))), "{}", file());
    host.podrun("exec none/a -- busybox nslookup db").ok();
    host.podrun("network disconnect back none").ok();
    let servers =
        |text: &str| text.lines().filter(|line| line.starts_with("nameserver")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(servers(&file()), servers(&before));
}

#[test]
fn a_pod_that_joined_anothers_network_has_names_there() {
    let host = host(&[], &["web --alias shop", "side --network pod:web", "cat"]);
    let web = found(&[&address(&host, "web", "bridge")]);
    hears(&host, "cat", &[("side", &web), ("web", &web), ("shop", &web)]);
    host.run("side/ask", "", "busybox nslookup cat").ok();
    let back = address(&host, "web", "bridge").split('.').rev().collect::<Vec<_>>().join(".");
    // It outlives the one whose network it was.
    host.podrun("delete pod web --force").ok();
    let back = format!("{back}.in-addr.arpa/PTR");
    hears(&host, "cat", &[("side", &web), ("web", "NXDOMAIN"), ("shop", "NXDOMAIN"), (&back, "NOERROR side.bridge")]);
    hears(&host, "side", &[("side", &web)]);
}

#[test]
fn a_network_of_two_families_tells_both() {
    let host = host(&["two --ipv6"], &["web --network two", "cat --network two"]);
    let all = addresses(&host, "web", "two");
    assert_eq!(all.len(), 2);
    hears(
        &host,
        "cat",
        &[("web", &found(&[&all[0]])), ("web/AAAA", &found(&[&all[1]])), ("web/ANY", &found(&[&all[0], &all[1]]))],
    );
    // It answers by IPv6 as well, and backwards.
    let shown = host.podrun("network inspect two").json();
    let six = shown["nameServer"]["addresses"][1].as_str().unwrap().to_owned();
    probe(&host, "cat", &format!("dns udp [{six}]:53 web/AAAA")).ok().prints(&format!("web/AAAA NOERROR {}", all[1]));
    let octets = all[1].parse::<std::net::Ipv6Addr>().unwrap().octets();
    let nibbles: Vec<String> = octets.iter().rev().map(|octet| format!("{:x}.{:x}", octet & 0xf, octet >> 4)).collect();
    hears(&host, "cat", &[(&format!("{}.ip6.arpa/PTR", nibbles.join(".")), "NOERROR web.two")]);
}

#[test]
fn what_podrun_does_not_know_is_asked_of_the_hosts_servers() {
    let host = host(&[], &[]);
    host.replace_file("/etc/resolv.conf", "nameserver 127.0.0.1\nsearch lan.example\n");
    let mut asked = upstream(&host, "127.0.0.1:53");
    host.pod("web");
    assert_eq!(
        resolv_conf(&host, "web"),
        format!("search lan.example\nnameserver {}\noptions ndots:0\n", server(&host, "web"))
    );
    let at = server(&host, "web");
    hears(&host, "web", &[("example.org", "NOERROR 203.0.113.7"), ("4.3.2.1.in-addr.arpa/PTR", "NOERROR 203.0.113.7")]);
    // What does not fit a datagram is cut, and whole by a stream, where several go at once.
    probe(&host, "web", &format!("dns udp {at}:53 big.example.org")).ok().prints("big.example.org NOERROR cut");
    let said = probe(&host, "web", &format!("dns tcp {at}:53 web big.example.org nosuch a.example.org")).ok().text();
    let counts: Vec<usize> = said.lines().map(|line| line.split(' ').count()).collect();
    assert_eq!(counts, [3, 62, 2, 3], "{said}");
    // Answers with another number, to another question or from another port are none.
    probe(&host, "web", &format!("dns udp {at}:53 liar.example.org"))
        .ok()
        .prints("liar.example.org NOERROR 203.0.113.7");
    // No word alone is asked elsewhere, nor a name of a network.
    hears(&host, "web", &[("nosuch", "NXDOMAIN"), ("nosuch.bridge", "NXDOMAIN")]);
    asked.until_it_prints("asked for liar.example.org by udp");
    let heard = asked.stdout();
    assert!(
        heard.contains("asked for example.org by udp") && heard.contains("asked for example.org by tcp"),
        "{heard}"
    );
    let lines = |name: &str| heard.lines().filter(|line| line.starts_with(&format!("asked for {name} "))).count();
    assert_eq!((lines("nosuch"), lines("nosuch.bridge"), lines("web")), (0, 0, 0), "{heard}");
    // A server that says nothing is asked again, and it is not for ever.
    probe(&host, "web", &format!("dns udp {at}:53 deaf.example.org")).ok().prints("deaf.example.org SERVFAIL");
    end(asked);
    let start = Instant::now();
    hears(&host, "web", &[("example.org", "SERVFAIL")]);
    assert!(start.elapsed() < Duration::from_secs(2), "nobody listens there, which is known at once");
}

#[test]
fn a_pods_own_servers_are_asked_for_that_pod_alone() {
    let host = host(&[], &[]);
    host.replace_file("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    host.program("ip link add own type veth peer name far").run().ok();
    host.program("sh -ec 'ip addr add 192.0.2.53/32 dev own; ip link set own up; ip link set far up'").run().ok();
    let (mut hosts, mut own) = (upstream(&host, "127.0.0.1:53"), upstream(&host, "192.0.2.53:53"));
    host.pod("web --dns 192.0.2.53 --dns-search example.net --dns-option attempts:3");
    host.pod("cat");
    assert_eq!(
        resolv_conf(&host, "web"),
        format!("search example.net\nnameserver {}\noptions attempts:3 ndots:0\n", server(&host, "cat"))
    );
    hears(&host, "web", &[("one.example.org", "NOERROR 203.0.113.7")]);
    hears(&host, "cat", &[("two.example.org", "NOERROR 203.0.113.7")]);
    own.until_it_prints("asked for one.example.org by tcp");
    hosts.until_it_prints("asked for two.example.org by tcp");
    assert!(own.stdout().contains("one.example.org") && !own.stdout().contains("two.example.org"), "{}", own.stdout());
    assert!(!hosts.stdout().contains("one.example.org") && hosts.stdout().contains("two.example.org"));
    // One that asks its own loopback means it.
    host.pod("self --dns 127.0.0.1");
    assert_eq!(server(&host, "self"), "127.0.0.1");
    // Two servers: the second one, where nobody is at the first.
    host.pod("two --dns 192.0.2.1 --dns 192.0.2.53");
    host.program("ip addr add 192.0.2.1/32 dev own").run().ok();
    hears(&host, "two", &[("three.example.org", "NOERROR 203.0.113.7")]);
    end(hosts);
    end(own);
    host.program("ip link del own").run().ok();
}

#[test]
fn an_internal_network_asks_nobody() {
    let host = host(&["back --internal"], &[]);
    host.replace_file("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    let mut asked = upstream(&host, "127.0.0.1:53");
    host.pod("web --network back");
    host.pod("db --network back");
    hears(&host, "web", &[("db", &found(&[&address(&host, "db", "back")])), ("example.org", "NXDOMAIN")]);
    host.podrun("network connect bridge web").ok();
    hears(&host, "web", &[("example.org", "NOERROR 203.0.113.7")]);
    asked.until_it_prints("by tcp");
    assert_eq!(asked.stdout().matches("asked for example.org").count(), 2, "{}", asked.stdout());
    end(asked);
}

#[test]
fn nobody_outside_a_network_reaches_its_server() {
    let host = host(&["front", "back"], &["web --network front", "db --network back", "lan --network none"]);
    let at = server(&host, "web");
    let ask = |way: &str| format!("timeout 2 {} dns {way} {at}:53 web", host.probe().display());
    for way in ["udp", "tcp"] {
        let refused = |code: i32, who: &str| assert!([99, 124].contains(&code), "{who} heard by {way}");
        refused(host.program(ask(way)).run().code(), "the host");
        refused(host.podrun(format!("netns db -- {}", ask(way))).code(), "a pod of another network");
    }
    // A neighbour on the host's wire, who routes to the bridge's address.
    let pause = host.inspect("lan")["pause"]["pid"].to_string();
    let script = format!(
        "ip link add name uplink type veth peer name world; ip link set world netns {pause}; \
         ip addr add 192.0.2.1/24 dev uplink; ip link set uplink up"
    );
    host.program("sh -ec").args([script]).run().ok();
    let script =
        format!("ip addr add 192.0.2.2/24 dev world; ip link set world up; ip route add {at}/32 via 192.0.2.1");
    host.command("netns lan --").args(["sh", "-ec", &script]).run().ok();
    for way in ["udp", "tcp"] {
        let outcome = host.podrun(format!("netns lan -- {}", ask(way)));
        assert!([99, 124].contains(&outcome.code()), "the neighbour heard {}", outcome.text());
    }
    // An address on the bridge that is no pod's is told nothing.
    host.command("netns web --")
        .args([
            "sh",
            "-ec",
            "ip addr add $(ip -4 -o addr show eth0 | sed 's/.*inet \\([0-9.]*\\)\\.[0-9]*\\/.*/\\1.99/')/24 dev eth0",
        ])
        .run()
        .ok();
    let outside = format!("{}.99", at.rsplit_once('.').unwrap().0);
    let script =
        format!("ip route replace {at}/32 dev eth0 src {outside}; exec {} dns udp {at}:53 web", host.probe().display());
    host.command("netns web --").args(["sh", "-ec", &script]).run().ok().prints("web REFUSED");
    host.program("ip link del uplink").run();
}

#[test]
fn a_server_that_is_killed_is_back_within_a_second() {
    let host = host(&[], &["web", "db", "cat"]);
    let at = server(&host, "cat");
    let ask = host.command(format!("netns cat -- {} dns-loop {at}:53 web 4", host.probe().display())).start();
    let mut before = name_server(&host, "bridge");
    for _ in 0..3 {
        host.kill(&before, libc::SIGKILL);
        let now = eventually("another server", Duration::from_secs(1), || {
            Some(name_server(&host, "bridge")).filter(|now| now.is_i64() && *now != before)
        });
        before = now;
    }
    let said = ask.wait().ok().text();
    let silence: u64 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(silence < 1000, "{said}");
    assert_eq!(name_servers(&host), 1, "{}", host.processes());
    // Whoever started it may go; it stays, and others keep it.
    host.podrun("delete pod web --force").ok();
    host.podrun("delete pod db --force").ok();
    let now = name_server(&host, "bridge");
    assert_eq!(now, before);
    host.kill(&now, libc::SIGKILL);
    eventually("another server", Duration::from_secs(1), || (name_server(&host, "bridge") != now).then_some(()));
}

#[test]
fn a_server_lives_as_long_as_its_network_has_pods() {
    let host = host(&["front"], &[]);
    assert_eq!(name_servers(&host), 0);
    host.pod("web --network front");
    assert_eq!(name_servers(&host), 1, "the first pod's create comes back when it is there");
    host.pod("db --network front");
    host.podrun("delete pod web --force").ok();
    assert_eq!(name_servers(&host), 1);
    // No part of a pod: it has no capability, and is in no pod's cgroup.
    let pid = name_server(&host, "front");
    let status = host.read(format!("/proc/{pid}/status"));
    for line in ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    host.podrun("delete pod db --force").ok();
    eventually("it leaves", Duration::from_secs(1), || (name_servers(&host) == 0).then_some(()));
    host.podrun("prune --force").ok();
    host.expect_nothing_left("delete and prune");
    // So it does when all the rest was killed, and `delete` or `prune` find what is left.
    host.pod("web --network front");
    let pod = host.inspect("web");
    let pids: Vec<String> = ["pause", "monitor"].iter().map(|part| pod[*part]["pid"].to_string()).collect();
    host.program(format!("sh -c 'kill -STOP {0}; kill -KILL {0}'", pids.join(" "))).run().ok();
    host.podrun("delete pod web --force").ok();
    eventually("it leaves", Duration::from_secs(1), || (name_servers(&host) == 0).then_some(()));
}

#[test]
fn fifty_pods_that_are_made_at_once_find_each_other() {
    let host = host(&["front"], &[]);
    let all: Vec<String> = (0..50).map(|n| format!("web-{n}")).collect();
    let making: Vec<Running<'_>> = all
        .iter()
        .map(|name| {
            host.command(format!("create pod {name} --network front --alias all"))
                .limit(Duration::from_secs(90))
                .start()
        })
        .collect();
    making.into_iter().for_each(|one| {
        one.wait().ok();
    });
    assert_eq!(name_servers(&host), 1);
    let at = server(&host, "web-0");
    let said = probe(&host, "web-0", &format!("dns udp {at}:53 {}", all.join(" "))).ok().text();
    for (name, line) in all.iter().zip(said.lines()) {
        assert_eq!(line, format!("{name} {}", found(&[&address(&host, name, "front")])));
    }
    let said = probe(&host, "web-0", &format!("dns tcp {at}:53 all")).ok().text();
    assert_eq!(said.trim().split(' ').count(), 52, "{said}");
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    host.command(format!("delete pod {} --force", names.join(" "))).limit(Duration::from_secs(90)).run().ok();
    eventually("it leaves", Duration::from_secs(1), || (name_servers(&host) == 0).then_some(()));
}

#[test]
fn where_port_53_is_taken_a_pod_is_made_all_the_same() {
    let host = host(&["front"], &[]);
    let other = upstream(&host, "0.0.0.0:53");
    host.replace_file("/etc/resolv.conf", "nameserver 192.0.2.53\n");
    let made = host.podrun("create pod web --network front");
    made.ok().says("resolve names on front: probe (pid ").says("has port 53 of all addresses");
    assert_eq!(server(&host, "web"), "192.0.2.53");
    host.podrun("doctor").says_nothing();
    let told = host.podrun("doctor").text();
    assert!(told.contains("names on front are not resolved: its server is not there"), "{told}");
    end(other);
    // The next pod has it, and so does whoever asks for it.
    host.podrun("create pod db --network front").ok().says_nothing();
    hears(&host, "db", &[("web", &found(&[&address(&host, "web", "front")]))]);
    assert!(host.podrun("doctor").text().contains("names on front are resolved at "));
}

/// A pod that is a name server for the host's neighbours, as pi-hole is.
#[test]
fn a_pod_that_has_port_53_of_the_host_is_not_in_the_way_of_names() {
    let host = host(&["front"], &["web --network front", "db"]);
    let at_the_gateway = format!("create pod other --publish {}:53:53/udp", server(&host, "web"));
    host.podrun(at_the_gateway).fails(1).says("podrun-names (pid ").says("has it");
    host.pod("ads --network front --publish 53:53/udp --publish 53:53");
    let serve = format!("netns ads -- {} dns-serve 0.0.0.0:53", host.probe().display());
    let mut ads = host.command(serve).limit(Duration::from_secs(120)).start();
    ads.until_it_prints("listening");
    hears(&host, "web", &[("ads", &found(&[&address(&host, "ads", "front")]))]);
    hears(&host, "db", &[("db", &found(&[&address(&host, "db", "bridge")]))]);
    for way in ["udp", "tcp"] {
        let asked = format!("{} dns {way} 127.0.0.1:53 web", host.probe().display());
        assert!(host.program(asked).run().ok().text().starts_with("web NOERROR "), "the host asks the pod");
    }
    end(ads);
}

#[test]
fn a_network_without_names_has_no_server() {
    let host = host(&["quiet --disable-dns"], &[]);
    host.replace_file("/etc/resolv.conf", "nameserver 192.0.2.53\n");
    host.pod("web --network quiet");
    host.pod("cat --network quiet --network bridge");
    assert_eq!(server(&host, "web"), "192.0.2.53");
    assert_eq!(host.podrun("network inspect quiet").json()["nameServer"], json!(null));
    hears(&host, "cat", &[("web", "NXDOMAIN"), ("web.quiet", "NXDOMAIN")]);
    // Those that podrun resolves no names for have what the host has.
    for network in ["host", "none", "ptp"] {
        host.pod(&format!("other --network {network}"));
        assert_eq!(server(&host, "other"), "192.0.2.53", "{network}");
        host.podrun("delete pod other --force").ok();
    }
}

#[test]
fn noise_does_not_end_a_server() {
    let host = host(&[], &["web", "cat"]);
    let (at, before) = (server(&host, "cat"), name_server(&host, "bridge"));
    probe(&host, "cat", &format!("dns-noise {at}:53 {}", many(3000, 300_000))).ok();
    hears(&host, "cat", &[("web", &found(&[&address(&host, "web", "bridge")]))]);
    assert_eq!(name_server(&host, "bridge"), before);
}

#[test]
fn reload_and_a_new_bridge_bring_a_server_with_them() {
    let host = host(&["front"], &["web --network front", "cat --network front"]);
    let bridge = host.podrun("network inspect front").json()["bridge"].as_str().unwrap().to_owned();
    host.program(format!("ip link del {bridge}")).run().ok();
    host.podrun("network reload").ok();
    eventually("it answers again", Duration::from_secs(3), || {
        let said = probe(&host, "cat", &format!("dns udp {}:53 web", server(&host, "cat")));
        (said.code() == 0).then_some(())
    });
    hears(&host, "cat", &[("web", &found(&[&address(&host, "web", "front")]))]);
}

#[test]
fn an_upgrade_keeps_names_and_replaces_a_server_of_another_build() {
    let Some(later) = later_binary() else { skip!("there is no cargo to make a build of another format with") };
    let host = host(&[], &["web", "cat"]);
    let before = name_server(&host, "bridge");
    host.podrun("upgrade --all").ok();
    assert_eq!(name_server(&host, "bridge"), before, "of the same build");
    host.install(later);
    host.podrun("upgrade --all").ok();
    let after = name_server(&host, "bridge");
    assert_ne!(after, before);
    hears(&host, "cat", &[("web", &found(&[&address(&host, "web", "bridge")]))]);
    // Those that keep it are the new ones, and start what they are.
    host.kill(&after, libc::SIGKILL);
    eventually("another server", Duration::from_secs(1), || {
        (name_server(&host, "bridge") != after && name_server(&host, "bridge").is_i64()).then_some(())
    });
    host.podrun("upgrade --all").ok();
    assert_eq!(name_servers(&host), 1);
}
