//! Published ports, by real traffic: from where they are reached, with which source address, and from where they are not.

use podrun_tests::traffic::inside;
use podrun_tests::{Host, Outcome, Value, eventually, json, patience};
use std::time::Duration;

/// A host with an address in a network, and a neighbour there who routes through it.
fn host_with_a_neighbour() -> Host {
    let host = Host::new();
    host.program("ip link set dev lo up").run().ok();
    host.program("ip link add name uplink type veth peer name world").run().ok();
    host.podrun("create pod neighbour --network none").ok();
    let pause = host.inspect("neighbour")["pause"]["pid"].to_string();
    host.program(format!("ip link set dev world netns {pause}")).run().ok();
    host.program("ip addr add 192.0.2.1/24 dev uplink").run().ok();
    host.program("ip link set dev uplink up").run().ok();
    let route = "ip addr add 192.0.2.2/24 dev world; ip link set dev world up; ip route add default via 192.0.2.1";
    inside(&host, "neighbour", route).ok();
    host
}

/// A pod with a TCP and a UDP server on port 80, at all its addresses.
fn server(host: &Host, pod: &str, publish: &str) {
    host.podrun(format!("create pod {pod} {publish}")).ok();
    serve(host, pod, 80);
}

fn serve(host: &Host, pod: &str, port: u16) {
    for (name, act) in [("tcp", "listen"), ("udp", "udp-listen")] {
        host.start(&format!("{pod}/{name}-{port}"), "", &format!("/probe {act} 0.0.0.0:{port} {pod}"));
        let log = format!("logs {pod} -c {name}-{port}");
        eventually("it listens", Duration::from_secs(5), || {
            host.podrun(&log).text().contains("listening").then_some(())
        });
    }
}

/// Who asks: the host itself, or somebody in a pod's network.
fn ask(host: &Host, from: &str, act: &str, whom: &str) -> Outcome {
    let probe = host.probe().display();
    match from {
        "host" => host.program(format!("{probe} {act} {whom}")).run(),
        pod => inside(host, pod, &format!("{probe} {act} {whom}")),
    }
}

const GATEWAY: &str = "10.88.0.1";

// pitfalls.md 29, the matrix of who asks and where; podman#16831, #6401, plugins#68: hairpin, localhost, the wrong source.
#[test]
fn a_published_port_is_reached_from_everywhere_with_the_right_source() {
    let host = host_with_a_neighbour();
    server(&host, "web", "--publish 8080:80 -p 8080:80/udp");
    host.pod("sibling");
    for (from, whom, source) in [
        ("host", "127.0.0.1", GATEWAY),
        ("host", "192.0.2.1", "192.0.2.1"),
        ("host", GATEWAY, GATEWAY),
        ("neighbour", "192.0.2.1", "192.0.2.2"),
        ("sibling", "192.0.2.1", GATEWAY),
        ("sibling", GATEWAY, GATEWAY),
        ("web", "192.0.2.1", GATEWAY),
        ("web", GATEWAY, GATEWAY),
    ] {
        for act in ["ask", "udp-ask"] {
            let out = ask(&host, from, act, &format!("{whom}:8080"));
            out.ok().prints(&format!("web to {source}"));
        }
    }
}

// The same where bridges are not filtered (br_netfilter absent or off) and the packet is routed back.
#[test]
fn a_pod_reaches_its_own_port_whether_or_not_bridges_are_filtered() {
    let host = host_with_a_neighbour();
    let file = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if host.program(format!("cat {file}")).run().code() != 0 {
        podrun_tests::skip!("this kernel has no br_netfilter: only one way to try");
    }
    for value in ["0", "1"] {
        host.program(format!("sh -c 'echo {value} > {file}'")).run().ok();
        server(&host, "web", "-p 8080:80");
        host.pod("sibling");
        for from in ["web", "sibling"] {
            ask(&host, from, "ask", "192.0.2.1:8080").ok().prints(&format!("web to {GATEWAY}"));
        }
        host.podrun("delete pod web sibling --force").ok();
    }
}

// Issue 4: "from outside only published ports are reached, as docker has it: a neighbour who routes to a pod's address gets
// nothing"; CVE-2020-8558 for the host's loopback.
#[test]
fn what_is_not_published_is_not_reached_from_outside() {
    let host = host_with_a_neighbour();
    server(&host, "web", "-p 8080:80 -p 127.0.0.1:8081:80 -p 192.0.2.1:8082:80");
    serve(&host, "web", 81);
    let pod = host.inspect("web")["network"]["ip"][0].as_str().unwrap().to_owned();
    for (whom, reached) in [
        ("192.0.2.1:8080".to_owned(), true),
        ("192.0.2.1:8082".to_owned(), true),
        (format!("{pod}:80"), false),
        (format!("{pod}:81"), false),
        ("192.0.2.1:80".to_owned(), false),
        ("192.0.2.1:8081".to_owned(), false),
    ] {
        let out = ask(&host, "neighbour", "ask", &whom);
        assert_eq!(out.code() == 0, reached, "{whom}: {}", out.errors());
    }
    // Neither by a packet that says 127.0.0.1 and comes over the wire.
    let conf = "/proc/sys/net/ipv4/conf";
    let hostile =
        format!("echo 1 > {conf}/all/route_localnet; ip addr flush dev lo; ip route add 127.0.0.1 via 192.0.2.1");
    inside(&host, "neighbour", &hostile).ok();
    for port in [8080, 8081] {
        ask(&host, "neighbour", "ask", &format!("127.0.0.1:{port}")).fails(99);
        ask(&host, "host", "ask", &format!("127.0.0.1:{port}")).ok().prints(&format!("web to {GATEWAY}"));
    }
    ask(&host, "host", "ask", "127.0.0.1:8082").fails(99);
}

// CVE-2020-8558: for 127.0.0.1 podrun turns route_localnet on, on its bridge, and off again.
#[test]
fn published_ports_do_not_open_the_hosts_loopback_to_pods() {
    let host = host_with_a_neighbour();
    server(&host, "web", "-p 8080:80");
    let mut secret = host.program(format!("{} listen 127.0.0.1:9000 secret", host.probe().display())).start();
    secret.until_it_prints("listening");
    let bridge = host.inspect("web")["network"]["bridge"].as_str().unwrap().to_owned();
    let route_localnet = || host.program(format!("cat /proc/sys/net/ipv4/conf/{bridge}/route_localnet")).run().text();
    assert_eq!(route_localnet(), "1\n");
    host.pod("evil");
    let hostile = format!(
        "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr flush dev lo; ip route add 127.0.0.1 via {GATEWAY}"
    );
    inside(&host, "evil", &hostile).ok();
    ask(&host, "evil", "ask", "127.0.0.1:9000").fails(99).says("timed out");
    ask(&host, "host", "ask", "127.0.0.1:9000").ok().prints("secret to 127.0.0.1");
    host.podrun("delete pod web --force").ok();
    assert_eq!(route_localnet(), "0\n");
}

// Issue 4, 3: "host port 0 = any free one (shown)".
#[test]
fn any_free_port_is_chosen_and_shown() {
    let host = Host::new();
    host.program("ip link set dev lo up").run().ok();
    let said = host.podrun("create pod web -p 80 -p 0:80/udp -p 8000-8001:90-91 -p 127.0.0.1::70").ok().text();
    let ports = host.inspect("web")["ports"].clone();
    let ports = ports.as_array().unwrap();
    assert_eq!(ports.len(), 5, "{ports:?}");
    for port in ports {
        let host_port = port["hostPort"].as_u64().unwrap();
        assert!((1..=65535).contains(&host_port), "{port}");
        assert!(
            said.contains(&format!("{host_port}->{}/{}", port["port"], port["protocol"].as_str().unwrap())),
            "{said}"
        );
    }
    let of = |index: usize| ports[index]["hostPort"].as_u64().unwrap();
    assert_eq!((of(2), of(3), ports[4]["hostIP"].as_str()), (8000, 8001, Some("127.0.0.1")));
    host.podrun("port web").ok().prints_something_like(&format!("80/tcp -> 0.0.0.0:{}", of(0)));
    host.podrun("port web 80/udp").ok().prints(&format!("0.0.0.0:{}", of(1)));
    host.podrun("port web 70").ok().prints(&format!("127.0.0.1:{}", of(4)));
    host.podrun("port web 71").fails(1).with_one_line().says("71/tcp is not published");
    host.podrun("get pods -o wide").ok().prints_something_like("8000->90/tcp,8001->91/tcp");
    serve(&host, "web", 80);
    ask(&host, "host", "ask", &format!("127.0.0.1:{}", of(0))).ok().prints(&format!("web to {GATEWAY}"));
    host.podrun("create pod range -p 8000-8003:80").ok().prints_something_like("8002->80/tcp");
}

// Issue 4, 3: "a conflict detected before anything is made"; bad input: "a port in use (by what)".
#[test]
fn a_port_in_use_is_refused_before_anything_is_made_and_it_is_said_by_what() {
    let host = host_with_a_neighbour();
    host.podrun("create pod web -p 8080:80 -p 127.0.0.1:8081:80 -p 8082:80/udp").ok();
    let probe = host.probe().display();
    let mut tcp = host.program(format!("{probe} listen 127.0.0.1:9000 x")).start();
    tcp.until_it_prints("listening");
    let mut udp = host.program(format!("{probe} udp-listen 0.0.0.0:9001 x")).start();
    udp.until_it_prints("listening");
    let links = || host.program("ip -o link").run().ok().text();
    let before = (links(), host.processes().lines().count());
    for (publish, why) in [
        ("-p 8080:81", "publish the port 8080/tcp: the pod web has it"),
        ("-p 127.0.0.1:8080:81", "publish the port 8080/tcp: the pod web has it"),
        ("-p 8081:81", "publish the port 8081/tcp: the pod web has it"),
        ("-p 8079-8080:79-80", "publish the port 8080/tcp: the pod web has it"),
        ("-p 8082:80/udp", "publish the port 8082/udp: the pod web has it"),
        ("-p 9000:80", "publish the port 9000/tcp: probe (pid "),
        ("-p 9001:80/udp", "publish the port 9001/udp: probe (pid "),
        ("-p 9002:80 -p 9002:81", "publish the port 9002/tcp: it is asked for twice"),
        ("-p 203.0.113.9:9002:80", "publish the port 9002/tcp: this host has no address 203.0.113.9"),
    ] {
        host.podrun(format!("create pod other {publish}")).fails(1).says(why).with_one_line();
        host.podrun("inspect other").fails(1);
    }
    assert_eq!((links(), host.processes().lines().count()), before);
    // What is no conflict.
    host.podrun("create pod other -p 8080:80/udp -p 192.0.2.1:8081:80 -p 192.0.2.1:9000:80 -p 9001:80").ok();
    host.podrun("delete pod web").ok();
    host.podrun("create pod again -p 8080:80").ok();
}

#[test]
fn a_wish_for_a_port_that_makes_no_sense_is_a_usage_error() {
    let host = Host::new();
    for (flags, why) in [
        ("-p 65536:80", "\"65536\" is not a port"),
        ("-p 8009-8000:80", "ends before it begins"),
        ("-p 8000-8009:80-81", "10 ports of the host for 2 of the pod"),
        ("-p 8080:80/icmp", "none of tcp, udp and sctp"),
        ("-p web:80", "is not a port"),
        ("-p ::1:8080:80", "stands in brackets"),
        ("-p 8080:80 --network host", "has the host's ports as they are"),
        ("-p 8080:80 --network none", "has no address"),
        ("-p 8080:80 --network pod:web", "another pod's"),
    ] {
        host.podrun(format!("create pod web {flags}")).fails(2).says(why).with_one_line();
    }
    let sctp = host.podrun("create pod web -p 8080:80/sctp");
    if std::path::Path::new("/proc/sys/net/sctp").exists() {
        sctp.ok();
    } else {
        sctp.fails(1).says("this kernel has no sctp").with_one_line();
    }
}

// Issue 4, 3: "tcp|udp|sctp".
#[test]
fn an_sctp_port_is_reached_from_outside_and_from_the_host() {
    let host = host_with_a_neighbour();
    if host.podrun("create pod web -p 8080:80/sctp -p 8080:81").code() != 0 {
        podrun_tests::skip!("this kernel has no sctp");
    }
    host.start("web/sctp", "", "/probe sctp-listen 0.0.0.0:80 web");
    eventually("it listens", Duration::from_secs(5), || {
        host.podrun("logs web -c sctp").text().contains("listening").then_some(())
    });
    ask(&host, "neighbour", "sctp-ask", "192.0.2.1:8080").ok().prints("web to 192.0.2.2");
    ask(&host, "host", "sctp-ask", "192.0.2.1:8080").ok().prints("web to 192.0.2.1");
    // TCP on the same number is another port, and somebody else's while it is taken.
    ask(&host, "neighbour", "ask", "192.0.2.1:8080").fails(99);
    host.podrun("create pod other -p 8080:80/sctp").fails(1).says("pod web has it").with_one_line();
    host.podrun("update pod web --unpublish 8080:80/sctp").ok();
    ask(&host, "neighbour", "sctp-ask", "192.0.2.1:8080").fails(99);
    host.podrun("update pod web --publish 8090:80/sctp").ok();
    ask(&host, "neighbour", "sctp-ask", "192.0.2.1:8090").ok().prints("web to 192.0.2.2");
}

fn has_no_ipv6() -> bool {
    !std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// The process that carries what comes by ::1.
fn inlet(host: &Host) -> Option<Value> {
    let all = host.processes();
    let line = all.lines().find(|line| line.contains(" podrun-inlet "))?;
    line.split_whitespace().next()?.parse::<i64>().ok().map(Value::from)
}

fn reached(host: &Host, act: &str, whom: &str) -> Option<()> {
    (ask(host, "host", act, whom).text() == format!("web to {GATEWAY}\n")).then_some(())
}

// Issue 4, 3: "from 127.0.0.1 and ::1 (where nftables cannot, as for ::1, by a small forwarder)".
#[test]
fn a_published_port_is_reached_by_the_ipv6_loopback_whoever_dies() {
    if has_no_ipv6() {
        podrun_tests::skip!("this kernel has no IPv6");
    }
    let host = host_with_a_neighbour();
    server(&host, "web", "-p 8080:80 -p 8080:80/udp -p [::1]:8082:80");
    let patience = Duration::from_secs(5);
    let all_reached = |after: &str| {
        for (act, port) in [("ask", 8080), ("udp-ask", 8080), ("ask", 8082)] {
            eventually(&format!("{port} answers {act} after {after}"), patience, || {
                reached(&host, act, &format!("[::1]:{port}"))
            });
        }
    };
    all_reached("create");
    ask(&host, "host", "ask", "127.0.0.1:8082").fails(99);
    let first = inlet(&host).unwrap();
    host.kill(&first, libc::SIGKILL);
    all_reached("the death of the inlet");
    assert_ne!(inlet(&host).unwrap(), first);
    for part in ["monitor", "pause", "monitor"] {
        let pid = host.inspect("web")[part]["pid"].clone();
        host.kill(&pid, libc::SIGKILL);
        eventually("it is dead", patience, || (!host.lives(&pid)).then_some(()));
        // After a death of pause the next command starts a monitor.
        host.podrun("get pod web").ok();
        all_reached(&format!("the death of {part}"));
    }
    host.podrun("delete pod web --force").ok();
    ask(&host, "host", "ask", "[::1]:8080").fails(99);
    assert_eq!(inlet(&host), None);
}

// The same on a pod that runs: a connection by ::1 goes on while other ports come and go; no idle turning of the loop.
#[test]
fn what_goes_by_the_ipv6_loopback_is_whole_and_other_ports_changes_do_not_break_it() {
    if has_no_ipv6() {
        podrun_tests::skip!("this kernel has no IPv6");
    }
    let host = host_with_a_neighbour();
    host.pod("web");
    host.start("web/echo", "", "/probe echo 0.0.0.0:90");
    host.podrun("update pod web -p 8090:90").ok();
    let talk = || host.program(format!("{} talk [::1]:8090", host.probe().display()));
    eventually("the inlet listens", Duration::from_secs(5), || (talk().run().code() == 0).then_some(()));
    let much: String = (0..400_000).map(|n| format!("line {n}\n")).collect();
    let out = talk().stdin(much.clone()).run();
    assert!(out.ok().text() == much, "{} bytes came back", out.text().len());
    let mut one = talk().open_stdin().start();
    one.write("one\n");
    one.until_it_prints("one");
    host.podrun("update pod web -p 8091:91 -p 8092:92/udp").ok();
    host.podrun("update pod web --unpublish 8091").ok();
    one.write("two\n");
    one.until_it_prints("two");
    let inlet = inlet(&host).unwrap();
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(host.outside(format!("/proc/{inlet}/stat"))).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(1));
    assert!(ticks() - before <= 2, "it turned without a reason");
    host.podrun("update pod web --unpublish 8090").ok();
    one.write("three\n");
    one.until_it_prints("three");
    eventually("nobody is let in any more", Duration::from_secs(5), || (talk().run().code() != 0).then_some(()));
    one.close_stdin();
    one.wait().ok();
}

// Issue 4, 3: "`podrun port-forward POD HOST:PORT` (userland, no rules needed; several at once; stays up through container
// restarts)".
#[test]
fn port_forward_leads_to_the_pods_loopback_through_restarts_until_the_pod_is_gone() {
    let host = Host::new();
    host.program("ip link set dev lo up").run().ok();
    host.podrun("create pod lone --network none").ok();
    for (name, act, port) in [("tcp", "listen", 80), ("more", "listen", 81), ("udp", "udp-listen", 53)] {
        host.start(&format!("lone/{name}"), "", &format!("/probe {act} 127.0.0.1:{port} lone"));
    }
    let mut forward = host.command("port-forward lone 8080:80 :81 5353:53/udp").limit(Duration::from_secs(60)).start();
    forward.until_it_prints("127.0.0.1:8080 leads to port 80/tcp of lone");
    forward.until_it_prints("127.0.0.1:5353 leads to port 53/udp of lone");
    let patience = Duration::from_secs(5);
    let answers = |act: &str, whom: &str| ask(&host, "host", act, whom).text() == "lone to 127.0.0.1\n";
    for (act, port) in [("ask", 8080), ("udp-ask", 5353)] {
        eventually("it answers", patience, || answers(act, &format!("127.0.0.1:{port}")).then_some(()));
        if !has_no_ipv6() {
            assert!(answers(act, &format!("[::1]:{port}")), "{act} by ::1");
        }
    }
    host.podrun("stop lone -c tcp --time 0").ok();
    // A reset, and not an end that looks like an empty answer.
    ask(&host, "host", "ask", "127.0.0.1:8080").fails(99);
    eventually("it says why", patience, || {
        forward.stderr().contains("in lone, 127.0.0.1:80: Connection refused").then_some(())
    });
    host.podrun("start lone -c tcp").ok();
    eventually("it answers again", patience, || answers("ask", "127.0.0.1:8080").then_some(()));
    host.podrun("port-forward lone 8080:80").fails(1).says("(pid ").with_one_line();
    host.podrun("port-forward lone 0:80/sctp").fails(1).says("no sctp").with_one_line();
    host.podrun("port-forward lone x:80").fails(2).with_one_line();
    let other = host.command("port-forward lone 8082:80").start();
    eventually("the other one answers", patience, || answers("ask", "127.0.0.1:8082").then_some(()));
    other.signal(libc::SIGINT);
    other.wait().fails(130);
    for part in ["monitor", "pause"] {
        host.kill(&host.inspect("lone")[part]["pid"], libc::SIGKILL);
        host.podrun("ps lone").ok();
        assert!(answers("ask", "127.0.0.1:8080"), "after the death of {part}");
    }
    host.podrun("delete pod lone --force").ok();
    forward.wait().fails(1).says("the pod is gone");
}

// pitfalls.md 28: plugins#123, moby#53384: a flow of UDP that outlives the pod it went to must reach the next one.
#[test]
fn a_stream_of_udp_finds_the_next_pod_of_its_port() {
    let host = host_with_a_neighbour();
    let rounds = if std::env::var("PODRUN_STRESS").is_ok_and(|form| form == "full") { 20 } else { 2 };
    let probe = host.probe().display();
    let moment = patience(Duration::from_secs(1));
    let questions = (40 + rounds * 40) * moment.as_secs();
    let stream = host
        .command("netns neighbour --")
        .args(["sh", "-ec", &format!("{probe} udp-stream 192.0.2.1:5353 {questions} 50")])
        .limit(Duration::from_secs(120))
        .start();
    for round in 0..rounds {
        let pod = format!("web{round}");
        host.podrun(format!("create pod {pod} -p 5353:80/udp")).ok();
        host.start(&format!("{pod}/udp"), "", &format!("/probe udp-listen 0.0.0.0:80 {pod}"));
        std::thread::sleep(moment);
        host.podrun(format!("delete pod {pod} --force")).ok();
    }
    let heard = stream.wait().ok().text();
    for round in 0..rounds {
        assert!(heard.contains(&format!("web{round} to 192.0.2.2")), "{round} was never reached:\n{heard}");
    }
}

// A crash may leave a claim of a pod that is gone; the port is free all the same.
#[test]
fn the_ports_of_a_pod_that_vanished_are_free_again() {
    let host = Host::new();
    host.podrun("create pod web -p 8080:80").ok();
    let pod = host.inspect("web");
    for part in ["pause", "monitor"] {
        host.kill(&pod[part]["pid"], libc::SIGSTOP);
    }
    for part in ["pause", "monitor"] {
        host.kill(&pod[part]["pid"], libc::SIGKILL);
    }
    let dir = host.run_root().join("pods").join(pod["id"].as_str().unwrap());
    std::fs::remove_dir_all(&dir).unwrap();
    host.podrun("create pod next -p 8080:80").ok();
    serve(&host, "next", 80);
    host.program("ip link set dev lo up").run().ok();
    ask(&host, "host", "ask", "127.0.0.1:8080").ok().prints(&format!("next to {GATEWAY}"));
    assert_eq!(
        host.inspect("next")["ports"],
        json!([{"hostIP": null, "hostPort": 8080, "port": 80, "protocol": "tcp"}])
    );
}

/// podrun's table as text, with its elements in order.
fn rules(host: &Host) -> Vec<String> {
    let table = host.program(format!("nft list table inet {}", host.cgroup_name().replace('-', "_"))).run().text();
    let mut lines: Vec<_> = table.lines().map(|line| line.trim().trim_end_matches(',').to_owned()).collect();
    lines.sort();
    lines
}

// pitfalls.md 14: rke2#10469, firewalld#779, netavark#230: "nft flush ruleset while a client loops: back in < 2 s".
#[test]
fn published_ports_come_back_by_themselves_after_the_firewall_was_flushed() {
    let host = host_with_a_neighbour();
    server(&host, "web", "-p 8080:80 -p 8080:80/udp");
    host.pod("plain");
    let before = rules(&host);
    assert!(before.iter().any(|line| line.contains("tcp . 8080 : 10.88.0.")), "{before:?}");
    let loops = format!("{} udp-stream 192.0.2.1:8080 200 20", host.probe().display());
    let stream = host.command("netns neighbour --").args(["sh", "-ec", &loops]).start();
    for _ in 0..5 {
        host.program("nft flush ruleset").run().ok();
        eventually("the rules are back", Duration::from_secs(2), || (rules(&host) == before).then_some(()));
        ask(&host, "neighbour", "ask", "192.0.2.1:8080").ok().prints("web to 192.0.2.2");
        ask(&host, "host", "ask", "127.0.0.1:8080").ok().prints(&format!("web to {GATEWAY}"));
    }
    let heard = stream.wait().ok().text();
    let silence = heard.lines().find_map(|line| line.strip_prefix("longest silence ")).unwrap().parse::<u32>().unwrap();
    assert!(silence < 2000, "{heard}");
    // Ten times at once, and what is there already is not written again.
    for _ in 0..10 {
        host.program("nft flush ruleset").run().ok();
    }
    eventually("the rules are back", Duration::from_secs(2), || (rules(&host) == before).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(rules(&host), before);
}

// The same where nobody was there to hear of it: the monitor's successor looks.
#[test]
fn a_flush_that_the_monitor_missed_is_mended_by_its_successor() {
    let host = host_with_a_neighbour();
    server(&host, "web", "-p 8080:80");
    host.podrun("delete pod neighbour --force").ok();
    let before = rules(&host);
    let monitor = host.inspect("web")["monitor"]["pid"].clone();
    host.kill(&monitor, libc::SIGSTOP);
    host.program("nft flush ruleset").run().ok();
    std::thread::sleep(Duration::from_millis(200));
    assert_ne!(rules(&host), before, "somebody else has seen to it");
    host.kill(&monitor, libc::SIGKILL);
    eventually("the rules are back", Duration::from_secs(2), || (rules(&host) == before).then_some(()));
    ask(&host, "host", "ask", "127.0.0.1:8080").ok().prints(&format!("web to {GATEWAY}"));
}

// After the last pod of a bridge the rules go, and no monitor of a pod without one puts them back.
#[test]
fn rules_that_prune_removed_stay_away() {
    let host = Host::new();
    host.podrun("create pod lone --network none").ok();
    for _ in 0..3 {
        host.podrun("create pod web -p 8080:80").ok();
        host.podrun("delete pod web --force").ok();
        host.podrun("prune --force").ok();
        std::thread::sleep(Duration::from_millis(200));
        host.program("nft list tables").run().ok().prints("");
        assert!(!host.run_root().join("networks").exists() && !host.run_root().join("ports").exists());
    }
}

// pitfalls.md 34: "add a port to a running pod: reachable, other connections unbroken"; podman PR#2779, compose#10263.
#[test]
fn ports_of_a_pod_that_runs_come_and_go_and_no_other_connection_breaks() {
    let host = host_with_a_neighbour();
    server(&host, "web", "-p 8080:80");
    serve(&host, "web", 81);
    host.podrun("create pod other -p 9000:80").ok();
    host.start("web/echo", "", "/probe echo 0.0.0.0:90");
    host.podrun("update pod web -p 8090:90").ok().prints("pod/web updated, 8080->80/tcp, 8090->90/tcp");
    let words = [host.probe().as_os_str(), "talk".as_ref(), "192.0.2.1:8090".as_ref()];
    let mut talk = host.command("netns neighbour --").args(words).open_stdin().start();
    talk.write("one\n");
    talk.until_it_prints("one");
    host.podrun("update pod web --publish 8081:81 --publish 8081:81/udp").ok();
    for act in ["ask", "udp-ask"] {
        ask(&host, "neighbour", act, "192.0.2.1:8081").ok().prints("web to 192.0.2.2");
    }
    // A swap in one go, and one that fails and changes nothing.
    host.podrun("update pod web --unpublish 8080 --publish 8080:81").ok();
    host.podrun("update pod web --unpublish 8080:81 --publish 9000:81")
        .fails(1)
        .says("the pod other has it")
        .with_one_line();
    ask(&host, "neighbour", "ask", "192.0.2.1:8080").ok().prints("web to 192.0.2.2");
    host.podrun("update pod web --unpublish 8080 --unpublish 8081 --unpublish 8081/udp").ok();
    for port in [8080, 8081] {
        ask(&host, "neighbour", "ask", &format!("192.0.2.1:{port}")).fails(99);
        ask(&host, "host", "ask", &format!("127.0.0.1:{port}")).fails(99);
    }
    ask(&host, "neighbour", "udp-ask", "192.0.2.1:8081").fails(99);
    talk.write("two\n");
    talk.until_it_prints("two");
    host.podrun("update pod web --unpublish 8080").fails(1).says("has no such port").with_one_line();
    host.podrun("update pod web").fails(2).with_one_line();
    host.podrun("port web").ok().prints("90/tcp -> 0.0.0.0:8090");
    host.podrun("create pod lone --network none").ok();
    host.podrun("update pod lone -p 8080:80").fails(2).says("has no address").with_one_line();
}

// Every network that has a way in from the host, and both families.
#[test]
fn ports_are_published_on_every_network_that_has_a_way_in() {
    let host = host_with_a_neighbour();
    host.podrun("network create front --subnet 10.97.0.0/24").ok();
    host.podrun("network create quiet --subnet 10.98.0.0/24 --no-icc").ok();
    host.podrun("network create back --internal").ok();
    for (pod, networks, port) in [
        ("named", "--network front", 8081),
        ("routed", "--network ptp", 8082),
        ("apart", "--network quiet", 8083),
        ("two", "--network back --network front", 8084),
    ] {
        server(&host, pod, &format!("{networks} -p {port}:80 -p {port}:80/udp"));
        for act in ["ask", "udp-ask"] {
            let at = |whom: &str| format!("{whom}:{port}");
            ask(&host, "neighbour", act, &at("192.0.2.1")).ok().prints(&format!("{pod} to 192.0.2.2"));
            ask(&host, "host", act, &at("127.0.0.1")).ok();
            // Without ICC the bridge takes nothing back to the port that it came from, where it is filtered.
            if pod != "apart" {
                ask(&host, pod, act, &at("192.0.2.1")).ok();
            }
        }
    }
    // From pod to pod across networks that do not see each other, by the host's address. Its own one a server on both would
    // answer past the host, so it is the gateway's.
    ask(&host, "named", "ask", "192.0.2.1:8083").ok().prints("apart to 10.98.0.1");
    ask(&host, "routed", "ask", "192.0.2.1:8081").ok().prints("named to 10.97.0.1");
    ask(&host, "routed", "ask", "192.0.2.1:8084").ok().prints("two to 10.97.0.1");
    host.podrun("network connect quiet two").ok();
    ask(&host, "apart", "ask", "192.0.2.1:8084").ok().prints("two to 10.97.0.1");
    host.podrun("network disconnect quiet two").ok();
    let inner = host.inspect("named")["network"]["ip"][0].as_str().unwrap().to_owned();
    ask(&host, "apart", "ask", &format!("{inner}:80")).fails(99);
    host.podrun("create pod hidden --network back -p 8085:80")
        .fails(1)
        .says("no network that anybody comes in to")
        .with_one_line();
    // What is rewritten for one network keeps the ports of all.
    host.podrun("network create more").ok();
    host.podrun("create pod new --network more").ok();
    host.podrun("delete pod new --force").ok();
    host.podrun("network rm more").ok();
    for port in 8081..=8084 {
        ask(&host, "neighbour", "ask", &format!("192.0.2.1:{port}")).ok();
    }
    host.podrun("delete pod named routed apart two --force").ok();
    host.podrun("network rm front quiet back").ok();
}

#[test]
fn a_published_port_is_reached_by_ipv6() {
    if has_no_ipv6() {
        podrun_tests::skip!("this kernel has no IPv6");
    }
    let host = host_with_a_neighbour();
    host.program("ip -6 addr add fd77::1/64 dev uplink nodad").run().ok();
    inside(&host, "neighbour", "ip -6 addr add fd77::2/64 dev world nodad; ip -6 route add default via fd77::1").ok();
    host.program("sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'").run().ok();
    for driver in ["bridge", "ptp"] {
        host.podrun(format!("network create six --driver {driver} --subnet 10.97.0.0/24 --subnet fd97::/64")).ok();
        host.podrun("create pod web --network six -p 8080:80 -p [fd77::1]:8081:80 -p [::]:8082:80").ok();
        host.start("web/tcp", "", "/probe listen [::]:80 web");
        host.podrun("create pod sibling --network six").ok();
        for (from, whom, source) in [
            ("neighbour", "[fd77::1]:8080", "fd77::2"),
            ("neighbour", "[fd77::1]:8081", "fd77::2"),
            ("neighbour", "192.0.2.1:8080", "::ffff:192.0.2.2"),
            ("neighbour", "[fd77::1]:8082", "fd77::2"),
            ("host", "[fd77::1]:8080", "fd77::1"),
            ("sibling", "[fd77::1]:8080", "fd97::1"),
            ("web", "[fd77::1]:8080", "fd97::1"),
        ] {
            eventually("it listens", Duration::from_secs(5), || {
                (ask(&host, from, "ask", whom).code() == 0).then_some(())
            });
            ask(&host, from, "ask", whom).ok().prints(&format!("web to {source}"));
        }
        for all in ["[::1]:8080", "[::1]:8082"] {
            eventually("::1 answers", Duration::from_secs(5), || {
                (ask(&host, "host", "ask", all).code() == 0).then_some(())
            });
        }
        ask(&host, "neighbour", "ask", "192.0.2.1:8081").fails(99);
        ask(&host, "neighbour", "ask", "192.0.2.1:8082").fails(99);
        host.podrun("delete pod web sibling --force").ok();
        host.podrun("network rm six").ok();
    }
    host.program("sh -c 'echo 0 > /proc/sys/net/ipv6/conf/all/forwarding'").run().ok();
}
