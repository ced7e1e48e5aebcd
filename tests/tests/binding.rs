//! By which of a pod's interfaces published ports lead, and at which of the host's addresses.

use podrun_tests::traffic::{address, inside};
use podrun_tests::{Host, Outcome, eventually, json};
use std::time::Duration;

/// Another machine on the host's wire, 192.0.2.2 beside the host's 192.0.2.1.
fn host_with_a_neighbour() -> Host {
    let host = Host::new();
    host.program("ip link set dev lo up").run().ok();
    host.podrun("create pod neighbour --network none").ok();
    let pause = host.inspect("neighbour")["pause"]["pid"].to_string();
    let script = format!(
        "ip link add name wire type veth peer name far netns {pause} && ip addr add 192.0.2.1/24 dev wire && ip link set wire up"
    );
    host.program("sh -ec").args([script]).run().ok();
    inside(&host, "neighbour", "ip addr add 192.0.2.2/24 dev far; ip link set far up").ok();
    host
}

/// Says its name on port 80 of all the pod's addresses, TCP and UDP.
fn serve(host: &Host, pod: &str) {
    for act in ["listen", "udp-listen"] {
        host.start(&format!("{pod}/{act}"), "", &format!("/probe {act} 0.0.0.0:80 {pod}"));
        let log = format!("logs {pod}/{act}");
        eventually("it listens", Duration::from_secs(10), || {
            host.podrun(&log).text().contains("listening").then_some(())
        });
    }
}

fn ask(host: &Host, from: &str, act: &str, whom: &str) -> Outcome {
    let probe = host.probe().display();
    match from {
        "host" => host.program(format!("{probe} {act} {whom}")).run(),
        pod => inside(host, pod, &format!("exec timeout 1 {probe} {act} {whom}")),
    }
}

fn is_lost(asked: &Outcome) -> bool {
    [124, 99].contains(&asked.code())
}

// docker's com.docker.network.bridge.host_binding_ipv4.
#[test]
fn ports_without_an_address_are_at_the_networks_binding() {
    let host = host_with_a_neighbour();
    host.podrun("network create near --host-binding 127.0.0.1").ok();
    assert_eq!(host.podrun("network inspect near").json()["hostBinding"], "127.0.0.1");
    host.podrun("create pod web --network near -p 8080:80 -p 192.0.2.1:8081:80 -p 0.0.0.0:8082:80")
        .ok()
        .prints_something_like("127.0.0.1:8080->80/tcp");
    serve(&host, "web");
    host.podrun("update pod web -p 8083:80").ok();
    assert_eq!(host.inspect("web")["ports"][3]["hostIP"], "127.0.0.1");
    for port in [8080, 8083] {
        ask(&host, "host", "ask", &format!("127.0.0.1:{port}")).ok().prints_something_like("web to ");
        assert!(is_lost(&ask(&host, "neighbour", "ask", &format!("192.0.2.1:{port}"))), "{port}");
    }
    for port in [8081, 8082] {
        ask(&host, "neighbour", "ask", &format!("192.0.2.1:{port}")).ok().prints("web to 192.0.2.2");
    }
    // It is the network's that carries the ports, not the first of all.
    host.podrun("network create inner --internal").ok();
    host.podrun("create pod db --network inner --network near -p 8090:80")
        .ok()
        .prints_something_like("127.0.0.1:8090->");
    host.podrun("create pod other -p 8091:80").ok();
    assert_eq!(host.inspect("other")["ports"][0]["hostIP"], json!(null));
    for (words, why) in [
        ("odd --host-binding localhost", "invalid IP address"),
        ("odd --host-binding 127.0.0.1 --internal", "nobody comes into an internal network"),
        (
            "odd --driver macvlan --parent wire --subnet 192.0.2.0/24 --host-binding 127.0.0.1",
            "not for the driver macvlan",
        ),
    ] {
        host.podrun(format!("network create {words}")).fails(2).with_one_line().says(why);
    }
    host.podrun("network create far --host-binding 203.0.113.9").ok();
    host.podrun("create pod odd --network far -p 8099:80")
        .fails(1)
        .says("this host has no address 203.0.113.9")
        .with_one_line();
    host.podrun("delete pod neighbour --force").ok();
}

#[test]
fn published_ports_follow_a_pod_that_is_disconnected() {
    let host = host_with_a_neighbour();
    host.podrun("network create front").ok();
    host.podrun("network create back").ok();
    host.podrun("create pod web --network front --network back -p 8080:80 -p 8080:80/udp -p 127.0.0.1:8081:80").ok();
    serve(&host, "web");
    let bridge =
        |network: &str| host.podrun(format!("network inspect {network}")).json()["bridge"].as_str().unwrap().to_owned();
    let loopback = |network: &str| {
        host.program(format!("cat /proc/sys/net/ipv4/conf/{}/route_localnet", bridge(network))).run().ok().text()
    };
    let all_are_reached = || {
        ask(&host, "neighbour", "ask", "192.0.2.1:8080").ok().prints("web to 192.0.2.2");
        ask(&host, "neighbour", "udp-ask", "192.0.2.1:8080").ok().prints("web to 192.0.2.2");
        ask(&host, "host", "ask", "127.0.0.1:8081").ok().prints_something_like("web to ");
        if std::path::Path::new("/proc/sys/net/ipv6").exists() {
            eventually("the way by ::1 leads there", Duration::from_secs(5), || {
                (ask(&host, "host", "ask", "[::1]:8080").code() == 0).then_some(())
            });
        }
    };
    all_are_reached();
    let before = host.inspect("web")["ports"].clone();
    // A stream of one socket goes on: the kernel has forgotten where it led.
    let loops = format!("{} udp-stream 192.0.2.1:8080 200 20", host.probe().display());
    let stream = host.command("netns neighbour --").args(["sh", "-ec", &loops]).start();
    std::thread::sleep(Duration::from_millis(300));
    host.podrun("network disconnect front web").ok().prints_something_like("pod/web disconnected from front");
    let heard = stream.wait().ok().text();
    let silence = heard.lines().find_map(|line| line.strip_prefix("longest silence ")).unwrap().parse::<u32>().unwrap();
    assert!(silence < 500, "{heard}");
    assert_eq!(host.inspect("web")["ports"], before);
    all_are_reached();
    assert_eq!((loopback("front").trim(), loopback("back").trim()), ("0", "1"));
    // Another network that comes and goes beside them changes nothing.
    host.podrun("network connect front web").ok();
    let rules = || host.program("nft list ruleset").run().ok().text();
    let was = rules();
    assert!(was.contains(&address(&host, "web", "back")), "{was}");
    host.podrun("network disconnect front web").ok();
    assert_eq!(rules(), was);
    all_are_reached();
    // None is left that could lead there: they are closed, it is said, and others may have them.
    host.podrun("network create inner --internal").ok();
    host.podrun("network connect inner web").ok();
    let said = host.podrun("network disconnect back web");
    let told = said.ok().errors();
    for port in ["8080->80/tcp", "8080->80/udp", "127.0.0.1:8081->80/tcp"] {
        assert!(told.contains(&format!("the port {port} of web is closed")), "{told}");
    }
    assert_eq!(host.inspect("web")["ports"], json!([]));
    host.podrun("network disconnect inner web").ok();
    let row = host.podrun("get pod web").ok().text();
    assert!(row.trim_end().ends_with(" none"), "{row}");
    assert!(is_lost(&ask(&host, "neighbour", "ask", "192.0.2.1:8080")));
    assert_eq!((loopback("front").trim(), loopback("back").trim()), ("0", "0"));
    host.podrun("create pod other -p 8080:80 -p 8081:80").ok();
    // The same when the network is taken away by force.
    host.podrun("delete pod web --force").ok();
    host.podrun("create pod web --network front --network back -p 8090:80").ok();
    serve(&host, "web");
    host.podrun("network rm --force front").ok();
    ask(&host, "neighbour", "ask", "192.0.2.1:8090").ok().prints("web to 192.0.2.2");
    host.podrun("network rm --force back").ok().prints_something_like("the port 8090->80/tcp of web is closed");
    host.podrun("delete pod neighbour --force").ok();
}
