//! `linux.netDevices`: interfaces of the host's that a container asks for.

#![forbid(unsafe_code)]

use podrun_tests::{Bundle, Host, Value, json};

/// Takes the pair away, wherever its ends are.
fn remove(host: &Host) {
    host.program("ip link delete other").run().ok();
}

/// A pair of interfaces on the host, of which `mine` has addresses, and a pod.
fn host() -> Host {
    let host = Host::new();
    host.pod("web");
    for words in [
        "link add mine type veth peer name other",
        "link set mine address 02:00:00:00:00:77 mtu 1400 up",
        "link set other up",
        "address add 192.0.2.5/24 dev mine",
        "address add 2001:db8::5/64 dev mine nodad",
    ] {
        host.program(format!("ip {words}")).run().ok();
    }
    host
}

fn asks(host: &Host, devices: Value, script: &str) -> Bundle {
    host.bundle(|config| {
        config["linux"]["netDevices"] = devices;
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
    })
}

fn on_the_host(host: &Host, name: &str) -> Option<String> {
    let shown = host.program(format!("ip -o address show dev {name}")).run();
    (shown.code() == 0).then(|| shown.text())
}

// config-linux.md, "Network Devices": the name inside, and "The runtime MUST preserve existing network device attributes".
#[test]
fn an_interface_of_the_host_comes_into_the_pod_with_what_it_has() {
    let host = host();
    let script = "ip link show eth9; ip -o address show dev eth9";
    let bundle = asks(&host, json!({"mine": {"name": "eth9"}}), script);
    let out = host.podrun(format!("run web/a --bundle {bundle}"));
    let text = out.ok().text();
    for words in ["mtu 1400", "02:00:00:00:00:77", "UP", "192.0.2.5/24", "2001:db8::5/64"] {
        assert!(text.contains(words), "{words} is missing: {text}");
    }
    assert_eq!(on_the_host(&host, "mine"), None);
    // It is the pod's now: its neighbour sees it, and nobody finds it on the host.
    let neighbour = asks(&host, json!({}), "ip link show eth9");
    host.podrun(format!("run web/b --bundle {neighbour}")).ok();
    let again = asks(&host, json!({"mine": {}}), "true");
    let words = "move linux.netDevices[\"mine\"]: find it on the host: there is no such interface";
    host.podrun(format!("run web/c --bundle {again}")).fails(125).says(words);
    remove(&host);
}

// A container that is not made leaves the host as it was.
#[test]
fn an_interface_goes_back_if_the_container_is_not_made() {
    let host = host();
    let before = on_the_host(&host, "mine").unwrap();
    let addresses = |shown: &str| shown.matches("192.0.2.5/24").count() + shown.matches("2001:db8::5/64").count();
    assert_eq!(addresses(&before), 2, "{before}");
    let unchanged = |what: &str| {
        let now = on_the_host(&host, "mine").unwrap_or_else(|| panic!("{what}: it is gone"));
        assert_eq!(addresses(&now), 2, "{what}: {now}");
        host.program("ip link show mine").run().ok().prints_something_like("mtu 1400");
    };
    for verb in ["run", "run -d"] {
        let bundle = host.bundle(|config| {
            config["linux"]["netDevices"] = json!({"mine": {"name": "eth9"}});
            config["process"]["args"] = json!(["/missing"]);
        });
        host.podrun(format!("{verb} web/a --bundle {bundle}")).fails(127);
        unchanged(verb);
    }
    let second_missing = asks(&host, json!({"mine": {}, "none": {}}), "true");
    let words = "move linux.netDevices[\"none\"]: find it on the host: there is no such interface";
    host.podrun(format!("run web/a --bundle {second_missing}")).fails(125).says(words);
    unchanged("one of two");
    // eth0 is the pod's own.
    let taken = asks(&host, json!({"mine": {"name": "eth0"}}), "true");
    host.podrun(format!("run web/a --bundle {taken}"))
        .fails(125)
        .says("name it eth0: the pod has an interface of this name");
    unchanged("taken");
    remove(&host);
}

#[test]
fn interfaces_that_cannot_be_had_are_told_with_their_path() {
    let host = host();
    let refused = |devices: Value, words: &str| {
        let bundle = asks(&host, devices, "true");
        host.podrun(format!("run web/a --bundle {bundle}")).fails(125).with_one_line().says(words);
    };
    refused(json!({"mine": {"name": "a/b"}}), "linux.netDevices[\"mine\"].name \"a/b\": not the name of an interface");
    refused(json!({"mine": [7]}), "linux.netDevices.mine: invalid type: sequence, expected an object");
    refused(json!({"mine": {"name": 7}}), "linux.netDevices.mine.name: invalid type: integer `7`, expected a string");
    refused(
        json!({"mine": {"name": "x"}, "other": {"name": "x"}}),
        "linux.netDevices[\"other\"].name \"x\": two devices",
    );
    host.podrun("create pod on-host --network host").ok();
    let bundle = asks(&host, json!({"mine": {}}), "true");
    let words = "linux.netDevices[\"mine\"]: there is no network namespace of its own";
    host.podrun(format!("run on-host/a --bundle {bundle}")).fails(125).says(words);
    assert!(on_the_host(&host, "mine").is_some());
    remove(&host);
}

#[test]
fn a_container_in_no_pod_gets_interfaces_too() {
    let host = host();
    let bundle = asks(&host, json!({"mine": {"name": "eth9"}}), "ip -o address show dev eth9");
    let out = host.podrun(format!("oci run --bundle {bundle} one"));
    let text = out.ok().text();
    assert!(text.contains("192.0.2.5/24") && text.contains("2001:db8::5/64"), "{text}");
    // A pair's end goes with the last namespace that has it: there is nothing to remove.
    assert_eq!(on_the_host(&host, "mine"), None);
}

// "unless the user has provided a template by appending %d to the new name. In that case, the runtime MUST allow the move".
#[test]
fn the_kernel_numbers_an_interface_whose_name_is_a_template() {
    let host = host();
    host.program("ip link add third type veth peer name fourth").run().ok();
    let devices = json!({"mine": {"name": "eth%d"}, "third": {"name": "eth%d"}});
    let bundle = asks(&host, devices, "ip -o link; ip -o address");
    let text = host.podrun(format!("oci run --bundle {bundle} one")).ok().text();
    assert!(text.contains("eth0") && text.contains("eth1") && text.contains("192.0.2.5/24"), "{text}");
}

#[test]
fn an_interface_goes_back_if_a_container_in_no_pod_is_not_made() {
    let host = host();
    let bundle = host.bundle(|config| {
        config["linux"]["netDevices"] = json!({"mine": {"name": "eth9"}});
        config["process"]["args"] = json!(["/missing"]);
    });
    assert_ne!(host.podrun(format!("oci run --bundle {bundle} one")).code(), 0);
    assert!(on_the_host(&host, "mine").is_some_and(|shown| shown.contains("192.0.2.5/24")));
    remove(&host);
}
