//! Pictures for the tests of those who draw them.

#![forbid(unsafe_code)]

use super::*;
use crate::spec::port::Protocol;

pub(in crate::pod::map) fn id(number: u8) -> PodId {
    PodId::random([number; 16])
}

pub(in crate::pod::map) fn cidr(text: &str) -> Cidr {
    Cidr::parse(text).unwrap()
}

pub(in crate::pod::map) fn device(name: &str) -> Device {
    Device { name: name.to_owned(), state: State::Up }
}

pub(in crate::pod::map) fn network(name: &str, driver: Driver, address: &str) -> Network {
    Network {
        name: name.to_owned(),
        driver,
        parent: None,
        mode: None,
        bridge: driver.has_a_bridge().then(|| device(&format!("podrun-{name}"))),
        addresses: vec![cidr(address)],
        internal: false,
        masquerade: true,
        made: true,
        tunnel: None,
        overlay: None,
        others: 0,
    }
}

pub(in crate::pod::map) fn interface(network: &str, name: &str, address: &str) -> Interface {
    Interface {
        network: network.to_owned(),
        driver: Driver::Bridge,
        name: name.to_owned(),
        host_end: Some(device(&format!("veth-{name}"))),
        addresses: vec![cidr(address)],
        mac: Some("02:42:0a:58:00:02".to_owned()),
        mtu: 1500,
        gateways: Vec::new(),
    }
}

pub(in crate::pod::map) fn pod(number: u8, name: &str) -> Pod {
    Pod {
        id: id(number),
        name: name.to_owned(),
        state: "Ready",
        reason: None,
        pause: Some(100 + i32::from(number)),
        ports: Vec::new(),
        containers: Vec::new(),
    }
}

fn container(name: &str, state: &'static str, pid: Option<i32>) -> Container {
    let ended = pid.is_none();
    Container {
        name: name.to_owned(),
        state,
        pid,
        exit_code: ended.then_some(0),
        reason: ended.then_some(crate::store::Reason::Completed),
    }
}

/// Two pods on the default bridge, one of which shares its network with a third and is on a second network; one without
/// a network, one on the host's.
pub(in crate::pod::map) fn small() -> Map {
    let published = Port { protocol: Protocol::Tcp, address: None, host: 8080, port: 80 };
    let local = Port { protocol: Protocol::Udp, address: Some([127, 0, 0, 1].into()), host: 5353, port: 53 };
    let web = Pod {
        ports: vec![published, local],
        containers: vec![container("server", "Running", Some(204)), container("once", "Exited", None)],
        ..pod(1, "web")
    };
    let bare = |network, pod| Sandbox { network, interfaces: Vec::new(), pods: vec![pod] };
    Map {
        host: "shelf".to_owned(),
        links: vec![Link {
            name: "eth0".to_owned(),
            state: State::Up,
            leads_out: true,
            mtu: 1500,
            addresses: vec![cidr("192.0.2.7/24")],
        }],
        networks: vec![
            network("bridge", Driver::Bridge, "10.88.0.1/16"),
            Network { internal: true, masquerade: false, ..network("back", Driver::Bridge, "10.89.0.1/24") },
        ],
        sandboxes: vec![
            Sandbox {
                network: Whose::Own,
                interfaces: vec![
                    Interface { gateways: vec![[10, 88, 0, 1].into()], ..interface("bridge", "eth0", "10.88.0.2/16") },
                    interface("back", "eth1", "10.89.0.2/24"),
                ],
                pods: vec![web, pod(2, "side")],
            },
            Sandbox {
                network: Whose::Own,
                interfaces: vec![interface("bridge", "eth0", "10.88.0.3/16")],
                pods: vec![Pod {
                    state: "Lost",
                    reason: Some("pause and monitor died together".into()),
                    ..pod(3, "db")
                }],
            },
            bare(Whose::Own, pod(4, "lone")),
            bare(Whose::Host, pod(9, "kube-system/agent")),
        ],
    }
}

/// Each kind of network once.
pub(in crate::pod::map) fn every_kind() -> Map {
    let mut map = small();
    let overlay = Overlay {
        device: "vxlan-42".to_owned(),
        vni: 42,
        port: 4789,
        local: None,
        cluster: cidr("10.90.0.0/16"),
        peers: [([198, 51, 100, 2].into(), cidr("10.90.2.0/24")), ([198, 51, 100, 3].into(), cidr("10.90.3.0/24"))]
            .into(),
    };
    map.networks.push(Network {
        tunnel: Some(Device { name: "vxlan-42".to_owned(), state: State::Missing }),
        overlay: Some(overlay),
        ..network("flat", Driver::Vxlan, "10.90.1.1/24")
    });
    map.networks.push(network("ptp", Driver::Ptp, "10.91.0.1/24"));
    map.networks.push(Network {
        parent: Some("eth0".to_owned()),
        mode: Some("vepa".to_owned()),
        ..network("lan", Driver::Macvlan, "192.0.2.0/24")
    });
    map.networks.push(Network { made: false, ..network("later", Driver::Bridge, "10.92.0.0/24") });
    let hanging = Interface { driver: Driver::Macvlan, host_end: None, ..interface("lan", "eth0", "192.0.2.200/24") };
    for (number, name, interface) in [
        (5, "far", interface("flat", "eth0", "10.90.1.2/24")),
        (6, "routed", interface("ptp", "eth0", "10.91.0.2/32")),
        (7, "wired", hanging),
    ] {
        map.sandboxes.push(Sandbox { network: Whose::Own, interfaces: vec![interface], pods: vec![pod(number, name)] });
    }
    map.sandboxes.push(Sandbox {
        network: Whose::Netns("/run/netns/blue".to_owned()),
        interfaces: Vec::new(),
        pods: vec![pod(8, "guest")],
    });
    map
}

/// So many pods on one bridge.
pub(in crate::pod::map) fn crowd(many: u8) -> Map {
    let mut map = small();
    map.networks.truncate(1);
    let one = |number| Sandbox {
        network: Whose::Own,
        interfaces: vec![interface("bridge", "eth0", &format!("10.88.1.{number}/16"))],
        pods: vec![pod(number, &format!("pod{number}"))],
    };
    map.sandboxes = (0..many).map(one).collect();
    map
}

/// Every name is as bad as it could be, though most of them podrun would never take.
pub(in crate::pod::map) fn hostile() -> Map {
    const BAD: &str = "]]>\"><script>alert('x')</script>&\\\"}\\N\u{1b}[2J\n\u{202e}\u{0}é";
    let mut map = every_kind();
    map.host = BAD.to_owned();
    map.links[0].name = BAD.to_owned();
    for network in &mut map.networks {
        let old = network.name.clone();
        network.name.push_str(BAD);
        network.mode = network.mode.as_ref().map(|_| BAD.to_owned());
        network.parent = network.parent.as_ref().map(|_| BAD.to_owned());
        let all = map.sandboxes.iter_mut().flat_map(|sandbox| &mut sandbox.interfaces);
        all.filter(|interface| interface.network == old).for_each(|interface| interface.network = network.name.clone());
    }
    for sandbox in &mut map.sandboxes {
        if matches!(sandbox.network, Whose::Netns(_)) {
            sandbox.network = Whose::Netns(BAD.to_owned());
        }
        for pod in &mut sandbox.pods {
            pod.name.push_str(BAD);
            pod.reason = Some(BAD.to_owned());
            pod.containers.iter_mut().for_each(|container| container.name.push_str(BAD));
        }
    }
    map
}
