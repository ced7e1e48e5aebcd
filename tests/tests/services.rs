//! Services: one stable address in front of pods that come and go, by real traffic.

use podrun_tests::traffic::inside;
use podrun_tests::{Host, eventually, json};
use std::collections::BTreeMap;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

/// A pod with this label that answers on TCP and UDP port 8080 with its name.
fn server(host: &Host, name: &str, label: &str) {
    host.podrun(format!("create pod {name} --label {label}")).ok();
    serve(host, name);
}

fn serve(host: &Host, name: &str) {
    for (container, act) in [("tcp", "listen"), ("udp", "udp-listen")] {
        host.start(&format!("{name}/{container}"), "", &format!("/probe {act} 0.0.0.0:8080 {name}"));
        let log = format!("logs {name} -c {container}");
        eventually("it listens", SOON, || host.podrun(&log).text().contains("listening").then_some(()));
    }
}

/// A client, and a service `web` with its address for the pods app=web.
fn host_with(service: &str, servers: &[&str]) -> Host {
    let host = Host::new();
    host.pod("client");
    servers.iter().for_each(|name| server(&host, name, "app=web"));
    host.podrun(format!("service create web --selector app=web {service}"))
        .ok()
        .prints("service/web created, 10.96.0.1");
    host
}

fn served_by(host: &Host) -> Vec<String> {
    let said = host.podrun("service inspect web").json();
    let pods = said["pods"].as_array().unwrap();
    pods.iter().map(|pod| pod["pod"].as_str().unwrap().to_owned()).collect()
}

/// How often each pod answered, of `times` new connections.
fn answers(host: &Host, from: &str, act: &str, times: usize) -> BTreeMap<String, usize> {
    let probe = host.probe().display();
    // Who is not answered is told on stderr, and counted by what is missing.
    let script = format!("for n in $(seq {times}); do {probe} {act} 10.96.0.1:80 || true; done");
    let mut count = BTreeMap::new();
    for line in inside(host, from, &script).ok().text().lines() {
        *count.entry(line.split(' ').next().unwrap().to_owned()).or_default() += 1;
    }
    count
}

/// Waits until just these answer: the firewall follows the pods a moment later.
fn until_served_by(host: &Host, names: &[&str]) {
    eventually(&format!("served by {names:?}"), SOON, || {
        let heard = answers(host, "client", "ask", 16);
        let all = heard.values().sum::<usize>() == 16;
        (all && heard.keys().map(String::as_str).eq(names.iter().copied())).then_some(())
    });
}

// Issue 4, 7: "one stable address … in front of the host's pods that match, spread by nftables".
#[test]
fn a_service_spreads_over_the_pods_that_match() {
    let host = host_with("--port 80:8080,80:8080/udp", &["a", "b", "c"]);
    server(&host, "other", "app=other");
    host.podrun("create pod team -n team --label app=web").ok();
    assert_eq!(served_by(&host), ["a", "b", "c"]);
    for act in ["ask", "udp-ask"] {
        let heard = answers(&host, "client", act, 90);
        assert_eq!(heard.values().sum::<usize>(), 90, "{act}: {heard:?}");
        assert_eq!(heard.keys().collect::<Vec<_>>(), ["a", "b", "c"], "{act}");
        // By chance each has 30; fewer than 8 of 90 happens less than once in a million runs.
        assert!(heard.values().all(|&count| count >= 8), "{act}: {heard:?}");
    }
    // One that serves asks itself, too, and is answered.
    assert_eq!(answers(&host, "a", "ask", 30).values().sum::<usize>(), 30);
    host.podrun("service ls")
        .ok()
        .prints_something_like("web       10.96.0.1   80:8080/tcp,80:8080/udp   app=web    a,b,c");
}

// "running pods only": Kubernetes' endpoints.
#[test]
fn only_pods_that_run_serve() {
    let host = host_with("--port 80:8080", &["a", "b"]);
    host.podrun("create pod idle --label app=web").ok();
    assert_eq!(served_by(&host), ["a", "b"]);
    until_served_by(&host, &["a", "b"]);
    host.podrun("stop a --time 0").ok();
    until_served_by(&host, &["b"]);
    serve(&host, "idle");
    until_served_by(&host, &["b", "idle"]);
    host.podrun("start a").ok();
    until_served_by(&host, &["a", "b", "idle"]);
    host.podrun("kill b -s KILL").ok();
    until_served_by(&host, &["a", "idle"]);
    for name in ["a", "idle"] {
        host.podrun(format!("delete pod {name} --force")).ok();
    }
    assert_eq!(served_by(&host), [""; 0]);
    let ask = format!("{} ask 10.96.0.1:80 || true", host.probe().display());
    inside(&host, "client", &ask).ok().within(Duration::from_secs(1)).says("Connection refused");
}

#[test]
fn nobody_is_led_to_a_pod_that_is_being_deleted() {
    let host = host_with("--port 80:8080", &["a", "b"]);
    host.start("a/stubborn", "", "/probe stubborn");
    let leaving = host.command("delete pod a --time 3").start();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(answers(&host, "client", "ask", 40).keys().collect::<Vec<_>>(), ["b"]);
    leaving.wait().ok();
    assert_eq!(served_by(&host), ["b"]);
}

// "changes without a broken connection"
#[test]
fn a_connection_outlives_changes_of_those_who_serve() {
    let host = Host::new();
    host.pod("client");
    let echo = |name: &str| {
        host.podrun(format!("create pod {name} --label app=echo")).ok();
        host.start(&format!("{name}/echo"), "", "/probe echo 0.0.0.0:7");
        let log = format!("logs {name}/echo");
        eventually("it listens", SOON, || host.podrun(&log).text().contains("listening").then_some(()));
    };
    echo("a");
    host.podrun("service create web --selector app=echo --port 7").ok();
    let words = [host.probe().as_os_str(), "talk".as_ref(), "10.96.0.1:7".as_ref()];
    let mut talk = host.command("netns client --").args(words).open_stdin().start();
    talk.write("one\n");
    talk.until_it_prints("one");
    for name in ["b", "c", "d"] {
        echo(name);
    }
    host.podrun("delete pod c --force").ok();
    host.podrun("service create second --selector app=echo --port 70:7").ok();
    host.podrun("service rm web").ok();
    talk.write("two\n");
    talk.until_it_prints("two");
    talk.close_stdin();
    talk.wait().ok().prints("one\ntwo");
}

// pitfalls.md 28: a UDP flow that goes on for ever keeps going to a pod that is gone.
#[test]
fn udp_of_a_pod_that_is_gone_goes_to_another() {
    let host = host_with("--port 80:8080/udp", &["a", "b"]);
    let stream = format!("exec {} udp-stream 10.96.0.1:80 150 20", host.probe().display());
    let mut stream = host.command("netns client --").args(["sh", "-ec", &stream]).start();
    let first = eventually("somebody answers", SOON, || {
        stream.stdout().split(' ').next().filter(|name| !name.is_empty()).map(str::to_owned)
    });
    let other = if first == "a" { "b" } else { "a" };
    host.podrun(format!("delete pod {first} --force")).ok();
    stream.until_it_prints(&format!("{other} to "));
    let said = stream.wait().ok().text();
    let silence: u64 = said.lines().last().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(silence < 1500, "{said}");
}

#[test]
fn with_affinity_a_client_stays_with_whom_it_met_first() {
    let host = host_with("--port 80:8080 --session-affinity ClientIP", &["a", "b", "c"]);
    let clients: Vec<String> = (0..8).map(|n| format!("client{n}")).collect();
    let mut met = BTreeMap::new();
    for client in &clients {
        host.pod(client);
        let heard = answers(&host, client, "ask", 8);
        assert_eq!(heard.len(), 1, "{client}: {heard:?}");
        met.insert(client, heard.into_keys().next().unwrap());
    }
    let several = met.values().collect::<std::collections::BTreeSet<_>>().len() > 1;
    assert!(several, "eight clients, one pod: {met:?}");
    // One more: most stay, and who moves moves to it.
    server(&host, "d", "app=web");
    eventually("d serves", SOON, || (served_by(&host).len() == 4).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    for client in &clients {
        let now = answers(&host, client, "ask", 2).into_keys().next().unwrap();
        assert!(now == met[client] || now == "d", "{client} met {}, now {now}", met[client]);
    }
}

#[test]
fn endpoints_elsewhere_serve_as_well() {
    let host = Host::new();
    host.podrun("network create far --no-isolate").ok();
    host.podrun("create pod elsewhere --network far,ip=10.89.0.77").ok();
    serve(&host, "elsewhere");
    host.pod("client");
    host.podrun("service create web --endpoint 10.89.0.77:8080 --port 80").ok();
    assert_eq!(answers(&host, "client", "ask", 3), BTreeMap::from([("elsewhere".to_owned(), 3)]));
    host.podrun("service rm web").ok();
}

// "one stable address … and name"
#[test]
fn a_service_has_a_name_that_pods_know() {
    let host = host_with("--port 80:8080", &["a"]);
    let ask = |what: &str| host.run(&format!("client/q{}", what.len()), "", &format!("busybox nslookup {what}")).text();
    let said = ask("web");
    assert!(said.contains("10.96.0.1"), "{said}");
    let said = ask("10.96.0.1");
    assert!(said.contains("name = web"), "{said}");
    // Whoever is called alike does not take it.
    host.podrun("create pod web").ok();
    host.run("client/again", "", "busybox nslookup web").ok().prints_something_like("10.96.0.1");
    host.podrun("service rm web").ok();
    host.run("client/pods", "", "busybox nslookup web").ok().does_not_print("10.96.0.1");
}

// Kubernetes: a ClusterIP is for those inside.
#[test]
fn neighbours_do_not_reach_a_service() {
    let host = host_with("--port 80:8080", &["a"]);
    host.podrun("create pod neighbour --network none").ok();
    let pause = host.inspect("neighbour")["pause"]["pid"].to_string();
    let script = format!(
        "ip link add name uplink type veth peer name world && ip link set world netns {pause} && \
         ip addr add 192.0.2.1/24 dev uplink && ip link set uplink up && ip route add default via 192.0.2.2"
    );
    host.program("sh -ec").args([script]).run().ok();
    inside(
        &host,
        "neighbour",
        "ip addr add 192.0.2.2/24 dev world; ip link set world up; ip route add default via 192.0.2.1",
    )
    .ok();
    let probe = host.probe().display().to_string();
    inside(&host, "neighbour", &format!("timeout 2 {probe} ask 10.96.0.1:80 || true")).ok().does_not_say("a to");
    // The host itself does, with the address that it has.
    host.program(format!("{probe} ask 10.96.0.1:80")).run().ok().prints_something_like("a to ");
    host.podrun("delete pod neighbour --force").ok();
    host.program("sh -c 'ip link del uplink 2>/dev/null; true'").run();
}

// pitfalls.md 14, for services as for published ports.
#[test]
fn services_come_back_after_a_flush() {
    let host = host_with("--port 80:8080", &["a"]);
    until_served_by(&host, &["a"]);
    host.program("nft flush ruleset").run().ok();
    until_served_by(&host, &["a"]);
    host.podrun("service rm web").ok();
    let rules = host.program("nft list ruleset").run().ok().text();
    assert!(!rules.contains("10.96.0.1"), "{rules}");
}

// A service without a pod that it knows costs pods nothing, and leaves nothing.
#[test]
fn services_outlive_their_pods_and_networks() {
    let host = host_with("--port 80:8080", &["a"]);
    for pod in ["a", "client"] {
        host.podrun(format!("delete pod {pod} --force")).ok();
    }
    host.podrun("prune --force").ok();
    host.podrun("service ls").ok().prints_something_like("web       10.96.0.1");
    host.pod("client");
    server(&host, "b", "app=web");
    until_served_by(&host, &["b"]);
    host.podrun("service rm web").ok();
    host.podrun("service ls").ok().does_not_print("web");
}

#[test]
fn services_that_cannot_be_are_told_and_leave_nothing() {
    let host = Host::new();
    host.program("ip addr add 10.97.0.1/24 dev lo").run().ok();
    for (words, code, why) in [
        ("web --selector app=web", 2, "it needs a --port"),
        ("web --port 80", 2, "it leads to nobody"),
        ("web --selector app --port 80", 2, "not KEY=VALUE"),
        ("web --selector app=web --port 0", 2, "within 1 and 65535"),
        ("web --selector app=web --port 80/sctp", 2, "none of tcp and udp"),
        ("web --selector app=web --port 80,80:8080", 2, "a port is given twice"),
        ("web --endpoint host --port 80", 2, "not an IPv4 address"),
        ("web --endpoint 192.0.2.1:80 --port 80,81", 2, "an endpoint has no port of its own"),
        ("web --selector app=web --port 80 --session-affinity always", 2, "there is none of this name"),
        ("web --selector app=web --port 80 --ip 10.1.0.1", 1, "no host's address of 10.96.0.0/16"),
        ("web --selector app=web --port 80 --service-cidr 10.97.0.0/24", 1, "overlaps 10.97.0.1/24 of this host"),
        ("Web --selector app=web --port 80", 2, "read the service name \"Web\""),
        ("web --endpoint 127.0.0.1 --port 80", 2, "loopback is nobody's outside of a host"),
        ("web --endpoint 10.96.0.7 --port 80", 2, "the endpoint 10.96.0.7 is a service's address"),
        ("web --selector app=web --port 80 --service-cidr 224.0.0.0/16", 2, "has multicast addresses"),
    ] {
        host.podrun(format!("service create {words}")).fails(code).with_one_line().says(why);
    }
    host.podrun("service ls -o json").ok().prints("[]");
    host.podrun("service create web --selector app=web --port 80").ok();
    host.podrun("service create web --selector app=web --port 80").fails(1).with_one_line().says("it is there");
    host.podrun("service create two --ip 10.96.0.1 --selector app=web --port 80")
        .fails(1)
        .with_one_line()
        .says("the service web has it");
    host.podrun("service rm wep").fails(1).with_one_line().says("there are web");
    host.podrun("service create two --selector app=web --port 80").ok();
    host.podrun("service rm wep two").fails(1).says("find the service wep").prints("service/two removed");
    let said = host.podrun("service inspect web").json();
    assert_eq!((&said["ip"], &said["sessionAffinity"]), (&json!("10.96.0.1"), &json!("None")));
    // One that is broken hides no other.
    std::fs::write(host.root().join("services/default_bad.json"), "{\n").unwrap();
    host.podrun("service ls").ok().says("default_bad.json: EOF").prints_something_like("web       10.96.0.1");
    std::fs::remove_file(host.root().join("services/default_bad.json")).unwrap();
    host.podrun("service rm web").ok().prints("service/web removed");
    host.program("ip addr del 10.97.0.1/24 dev lo").run().ok();
}

// Issue 4, 7 and 5: services and overlays are of IPv4; whoever asks for more is told so, at once.
#[test]
fn a_service_or_an_overlay_of_ipv6_is_refused_in_one_line() {
    let host = Host::new();
    for (words, why) in [
        ("--endpoint fd00::7 --port 80", "read the endpoint \"fd00::7\": services speak IPv4 alone"),
        ("--endpoint [fd00::7]:80 --port 80", "services speak IPv4 alone"),
        ("--selector a=b --port 80 --ip fd00::7", "invalid IPv4 address"),
        // A range of which nobody lives to see the end.
        ("--selector a=b --port 80 --service-cidr fd00::/64", "services speak IPv4 alone, and fd00::/64 is of IPv6"),
    ] {
        host.podrun(format!("service create web {words}")).fails(2).with_one_line().says(why);
    }
    let part = "--driver vxlan --vni 42 --cluster-cidr 10.90.0.0/16 --subnet 10.90.1.0/24";
    for (words, why) in [
        (format!("{part} --ipv6"), "the pods of an overlay speak IPv4 alone"),
        (format!("{part} --subnet fd00:1::/64"), "the pods of an overlay speak IPv4 alone"),
        (format!("{part} --peers 198.51.100.2=fd00:1::/64"), "fd00:1::/64 of 198.51.100.2 is not within 10.90.0.0/16"),
        (
            "--driver vxlan --vni 42 --cluster-cidr fd00:1::/48 --subnet 10.90.1.0/24".to_owned(),
            "clusterCidr: fd00:1::/48 is not an IPv4 range",
        ),
    ] {
        host.podrun(format!("network create flat {words}")).fails(2).with_one_line().says(why);
    }
    host.podrun("service ls -o json").ok().prints("[]");
    host.podrun("network ls -o name").ok().does_not_print("flat");
}
