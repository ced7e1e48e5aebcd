//! Networks on an 802.1Q link below a link of the host's.

use podrun_tests::traffic::{hears, hears_nothing, inside, serve};
use podrun_tests::{Host, skip};

const NETWORK: &str = "--driver macvlan --parent uplink --subnet 198.51.100.0/24 --range 198.51.100.64/29";

/// Another machine on the host's wire.
fn host_with_a_lan() -> Host {
    let host = Host::new();
    host.podrun("create pod lan --network none").ok();
    let pause = host.inspect("lan")["pause"]["pid"].to_string();
    let script = format!("ip link add name uplink type veth peer name world netns {pause} && ip link set uplink up");
    host.program("sh -ec").args([script]).run().ok();
    inside(&host, "lan", "ip link set world up").ok();
    host
}

fn links(host: &Host) -> String {
    host.program("ip -o link").run().ok().text()
}

#[test]
fn a_network_on_a_vlan_has_a_link_below_its_parent_as_long_as_it_is_used() {
    let host = host_with_a_lan();
    for (words, why) in [
        (format!("odd {NETWORK} --vlan 4095"), "vlan: 4095 is not within 1 and 4094"),
        (format!("odd {NETWORK} --vlan x"), "invalid value"),
        ("odd --vlan 42".to_owned(), "only macvlan and ipvlan hang on a link, bridge does not"),
    ] {
        host.podrun(format!("network create {words}")).fails(2).with_one_line().says(why);
    }
    host.podrun(format!("network create wire {NETWORK} --vlan 42")).ok();
    assert_eq!(host.podrun("network inspect wire").json()["vlan"], 42);
    let before = links(&host);
    let made = host.podrun("create pod a --network wire");
    if made.code() != 0 {
        made.fails(1)
            .with_one_line()
            .says("make the link uplink.42: this kernel has no VLAN devices: Operation not supported");
        host.podrun("inspect a").fails(1);
        assert_eq!(links(&host), before);
        host.podrun("network rm wire").ok();
        host.podrun("delete pod lan --force").ok();
        skip!("this kernel has no VLAN devices (8021q)");
    }
    // On the wire it is number 42 and nobody else's.
    inside(&host, "lan", "ip link add link world name world.42 type vlan id 42; ip link set world.42 up").ok();
    inside(&host, "lan", "ip addr add 198.51.100.2/24 dev world.42").ok();
    serve(&host, "a");
    hears(&host, "lan", "198.51.100.64", "a to 198.51.100.2");
    inside(&host, "lan", "ip addr del 198.51.100.2/24 dev world.42; ip addr add 198.51.100.2/24 dev world").ok();
    hears_nothing(&host, "lan", "198.51.100.64");
    // Two networks of one number share the link, which stays until neither has a pod.
    host.podrun(format!("network create more {} --vlan 42", NETWORK.replace(".64/29", ".72/29"))).ok();
    host.podrun("create pod b --network more").ok();
    host.podrun("network rm --force wire").ok();
    assert!(links(&host).contains("uplink.42@uplink"));
    host.podrun("delete pod b --force").ok();
    host.podrun("prune --force").ok().prints_something_like("link uplink.42");
    assert!(!links(&host).contains("uplink.42"));
    // One that somebody else made is used and stays, and one that is something else is told.
    host.program("ip link add link uplink name uplink.42 type vlan id 42").run().ok();
    host.podrun("create pod b --network more").ok();
    host.podrun("network rm --force more").ok();
    assert!(links(&host).contains("uplink.42@uplink"));
    host.program("ip link del uplink.42").run().ok();
    host.program("ip link add link uplink name uplink.42 type vlan id 43").run().ok();
    host.podrun(format!("network create odd {NETWORK} --vlan 42")).ok();
    host.podrun("create pod c --network odd")
        .fails(1)
        .with_one_line()
        .says("there is one that is not number 42 of uplink");
    host.program("ip link del uplink.42").run().ok();
    host.podrun("delete pod lan --force").ok();
}
