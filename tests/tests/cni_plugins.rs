//! Networks of CNI plugins by real traffic: Debian's, and the newest ones for what is new in 1.1.

use podrun_tests::cni::{Cni, NO_DEBIANS, has_debians, result};
use podrun_tests::{Running, eventually, json, skip};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

#[test]
fn pods_on_a_chain_of_debians_plugins_reach_each_other_and_are_reached_by_published_ports() {
    if !has_debians() {
        skip!("{NO_DEBIANS}");
    }
    let cni = Cni::new();
    let chain = [
        cni.bridge("10.61.0.0/24"),
        json!({"type": "portmap", "capabilities": {"portMappings": true}}),
        json!({"type": "firewall"}),
        json!({"type": "tuning", "sysctl": {"net.ipv4.conf.all.log_martians": "1"}}),
    ];
    cni.chain("net", &chain);
    cni.server("web", "--network cni:net --publish 8080:80");
    cni.server("db", "--network cni:");
    let found = cni.host.inspect("web");
    assert_eq!(found["network"]["ip"], json!(["10.61.0.2"]));
    assert_eq!((&found["network"]["interface"], &found["network"]["mtu"]), (&json!("eth0"), &json!(1500)));
    assert_eq!(found["networks"][0]["network"], "cni:net");
    assert_eq!(found["networks"][0]["gateway"], "10.61.0.1");
    let seen = cni.inside("web", "ip -o link show eth0; cat /proc/sys/net/ipv4/conf/all/log_martians").ok().text();
    assert!(seen.contains(found["network"]["mac"].as_str().unwrap()) && seen.trim().ends_with('1'), "{seen}");
    cni.hears(Some("db"), "10.61.0.2:80", "web to 10.61.0.3");
    cni.hears(Some("web"), "10.61.0.3:80", "db to 10.61.0.2");
    cni.hears(None, "10.61.0.2:80", "web to 10.61.0.1");
    // portmap gives a neighbour of the same range the gateway's address, so that answers come back by it.
    cni.hears(Some("db"), "10.61.0.1:8080", "web to 10.61.0.1");
    cni.hears(None, "127.0.0.1:8080", "web to 10.61.0.1");
    cni.podrun("port web").ok().prints("80/tcp -> 0.0.0.0:8080");
    let hosts = cni.host.run("web/hosts", "", "cat /etc/hosts").ok().text();
    assert!(hosts.contains("10.61.0.2\tweb"), "{hosts}");
    cni.podrun("create pod other --network cni:net --publish 8080:80")
        .fails(1)
        .with_one_line()
        .says("the pod web has it");
    assert_eq!(cni.leases("net"), ["10.61.0.2", "10.61.0.3"]);
    cni.podrun("delete pod web db --force").ok().says_nothing();
    assert_eq!(cni.leases("net"), Vec::<String>::new());
    let rules = cni.host.program("iptables-save").run().ok().text();
    assert!(!rules.contains("10.61.0.2") && !rules.contains("8080"), "{rules}");
    cni.pod("web", "--network cni:net --publish 8080:80");
}

#[test]
fn ptp_and_macvlan_of_plugins_carry_traffic() {
    if !has_debians() {
        skip!("{NO_DEBIANS}");
    }
    let cni = Cni::new();
    cni.chain("routed", &[json!({"type": "ptp", "ipMasq": true, "ipam": cni.range("10.62.0.0/24")})]);
    cni.server("a", "--network cni:routed");
    cni.server("b", "--network cni:routed");
    cni.hears(Some("a"), &format!("{}:80", cni.address("b")), &format!("b to {}", cni.address("a")));
    cni.hears(None, &format!("{}:80", cni.address("a")), "a to 10.62.0.1");
    cni.podrun("delete pod a b --force").ok().says_nothing();
    let script = "ip link add name uplink type veth peer name world; ip link set uplink up; ip link set world up";
    cni.host.program("sh -ec").args([script]).run().ok();
    cni.chain("wire", &[json!({"type": "macvlan", "master": "uplink", "ipam": cni.range("192.0.2.0/24")})]);
    cni.server("a", "--network cni:wire");
    cni.server("b", "--network cni:wire,interface=net0");
    assert_eq!(cni.host.inspect("b")["network"]["interface"], "net0");
    cni.hears(Some("a"), "192.0.2.3:80", "b to 192.0.2.2");
    cni.hears(Some("b"), "192.0.2.2:80", "a to 192.0.2.3");
}

#[test]
fn a_bandwidth_that_was_asked_for_is_kept() {
    if !has_debians() {
        skip!("{NO_DEBIANS}");
    }
    let cni = Cni::new();
    let limits = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
    cni.chain("net", &[cni.bridge("10.63.0.0/24"), limits]);
    let made = cni.podrun("create pod slow --network cni:net,ingress=8M");
    if made.errors().contains("operation not supported") || made.errors().contains("no such file or directory") {
        skip!("the kernel has no token bucket filter: {}", made.errors().trim());
    }
    made.ok();
    cni.pod("fast", "--network cni:net");
    let takes = |pod: &str| {
        let to = cni.address(pod);
        let listen = "exec busybox nc -l -p 81 -e /usr/bin/wc -c";
        let listener: Running<'_> = cni.host.command(format!("netns {pod} --")).args(["sh", "-c", listen]).start();
        eventually("it listens", Duration::from_secs(5), || {
            cni.inside(pod, "cat /proc/net/tcp /proc/net/tcp6").text().contains(":0051 ").then_some(())
        });
        let start = Instant::now();
        let send = format!("head -c 2000000 /dev/zero | exec busybox nc {to} 81");
        cni.host.program("sh -c").args([send]).run().ok().prints("2000000");
        let took = start.elapsed();
        listener.wait();
        took
    };
    // 16 Mbit at 8 Mbit a second, of which 2 come at once.
    let (slow, fast) = (takes("slow"), takes("fast"));
    assert!(slow > Duration::from_millis(1200) && fast < Duration::from_secs(1), "slow {slow:?}, fast {fast:?}");
    cni.chain("bare", &[cni.bridge("10.64.0.0/24")]);
    cni.podrun("create pod other --network cni:bare,ingress=8M")
        .fails(1)
        .with_one_line()
        .says("the capability bandwidth");
}

// pitfalls.md 1: "podrun stop && podrun rm exit 0 in < 10 s, second call exit 0, no residue".
#[test]
fn a_pod_is_deleted_whatever_is_gone_of_its_plugins() {
    if !has_debians() {
        skip!("{NO_DEBIANS}");
    }
    let cni = Cni::new();
    let bin = cni.dir.join("bin");
    // Debian's plugins by names that may be taken away.
    let restore = || {
        let _ = fs::remove_file(bin.join("bridge"));
        std::os::unix::fs::symlink("/usr/lib/cni/bridge", bin.join("bridge")).unwrap();
        cni.plugin(
            "second",
            "[ $CNI_COMMAND = ADD ] && printf '%s' \"$in\" | sed 's/.*\"prevResult\":\\({.*}\\),\"type.*/\\1/' || true",
        );
        cni.chain("net", &[cni.bridge("10.65.0.0/24"), json!({"type": "second"})]);
    };
    let hang = || drop(cni.plugin("second", "[ $CNI_COMMAND = DEL ] && sleep 3600 || true"));
    type Harm<'a> = (&'a str, &'a dyn Fn(), bool);
    let harms: [Harm<'_>; 7] = [
        ("pause is killed", &|| cni.kill("web", "pause"), false),
        (
            "pause and monitor are killed",
            &|| {
                let found = cni.host.inspect("web");
                cni.host.program(format!("kill -STOP {}", found["pause"]["pid"])).run().ok();
                cni.host.kill(&found["monitor"]["pid"], 9);
                cni.host.kill(&found["pause"]["pid"], 9);
            },
            false,
        ),
        ("the plugin is gone", &|| fs::remove_file(bin.join("second")).unwrap(), true),
        ("the configuration is gone", &|| fs::remove_file(cni.dir.join("net.d/net.conflist")).unwrap(), false),
        (
            "the plugin is not executable",
            &|| {
                fs::set_permissions(bin.join("second"), fs::Permissions::from_mode(0o000)).unwrap();
            },
            true,
        ),
        ("the plugin hangs", &hang, true),
        (
            "the plugin says no",
            &|| drop(cni.plugin("second", "echo '{\"code\": 7, \"msg\": \"never\"}'; exit 1")),
            true,
        ),
    ];
    for (what, harm, leaks) in harms {
        restore();
        cni.pod("web", "--network cni:net");
        assert_eq!(cni.leases("net").len(), 1, "{what}");
        harm();
        cni.podrun("stop web").within(Duration::from_secs(5));
        let deleted = cni.podrun("delete pod web");
        deleted.ok().within(Duration::from_secs(10));
        match leaks {
            true => drop(deleted.says("may keep 10.65.0.").says("`podrun prune --force` tries again")),
            false => drop(deleted.says_nothing()),
        }
        // The other plugins have done their part, whatever became of this one.
        assert_eq!(cni.leases("net"), Vec::<String>::new(), "{what}");
        cni.podrun("delete pod web").ok();
        let left = cni.podrun("prune --dry-run").ok().text();
        assert_eq!(left.contains("the CNI attachment of web to net"), leaks, "{what}: {left}");
        restore();
        cni.podrun("prune --force").ok().says_nothing();
        cni.podrun("prune --dry-run").ok().prints("");
    }
}

// pitfalls.md 2: "IP addresses leak after reboot, crash or failed start".
#[test]
fn after_a_reboot_plugins_give_addresses_back() {
    if !has_debians() {
        skip!("{NO_DEBIANS}");
    }
    let cni = Cni::new();
    // Room for a gateway and five pods.
    cni.chain("net", &[cni.bridge("10.66.0.0/29")]);
    for n in 0..5 {
        cni.pod(&format!("p{n}"), "--network cni:net");
    }
    cni.podrun("create pod more --network cni:net").fails(1).with_one_line().says("no IP addresses available");
    cni.reboot();
    assert_eq!(cni.leases("net").len(), 5);
    // The first pod that needs an address brings those of the dead back, by what is kept below the root.
    cni.pod("web", "--network cni:net");
    assert_eq!(cni.leases("net").len(), 1);
    cni.podrun("delete pod web").ok();
}

#[test]
fn a_pod_may_be_on_networks_of_podrun_and_of_plugins() {
    if !has_debians() {
        skip!("{NO_DEBIANS}");
    }
    let cni = Cni::new();
    cni.chain("net", &[cni.bridge("10.67.0.0/24")]);
    cni.server("web", "--network bridge --network cni:net --publish 8080:80");
    cni.server("other", "--network cni:net --network bridge");
    let found = cni.host.inspect("web");
    let on = |n: usize| (found["networks"][n]["network"].clone(), found["networks"][n]["interface"].clone());
    assert_eq!((on(0), on(1)), ((json!("bridge"), json!("eth0")), (json!("cni:net"), json!("eth1"))));
    assert_eq!(
        (&found["networks"][0]["defaultRoute"], &found["networks"][1]["defaultRoute"]),
        (&json!(true), &json!(false))
    );
    for (pod, out) in [("web", "eth0"), ("other", "eth0")] {
        let routes = cni.inside(pod, "ip route show default").ok().text();
        assert!(routes.lines().next().unwrap().contains(&format!("dev {out}")), "{pod}: {routes}");
    }
    cni.hears(Some("other"), "10.67.0.2:80", "web to 10.67.0.3");
    cni.hears(None, "127.0.0.1:8080", &format!("web to {}", found["networks"][0]["gateway"].as_str().unwrap()));
    assert_eq!(cni.host.program("nft list tables").run().ok().text().matches("podrun").count(), 1);
}

#[test]
fn a_running_pod_is_connected_to_plugins_and_disconnected() {
    if !has_debians() {
        skip!("{NO_DEBIANS}");
    }
    let cni = Cni::new();
    cni.chain("net", &[cni.bridge("10.68.0.0/24")]);
    cni.server("web", "--network none");
    cni.podrun("network connect cni:net web").ok().prints("pod/web connected to cni:net: eth0, 10.68.0.2");
    cni.podrun("network connect cni: web").fails(1).with_one_line().says("the pod is on this network already");
    cni.hears(None, "10.68.0.2:80", "web to 10.68.0.1");
    let hosts = cni.host.run("web/hosts", "", "cat /etc/hosts").ok().text();
    assert!(hosts.contains("10.68.0.2\tweb"), "{hosts}");
    cni.podrun("network disconnect cni:net web").ok().prints("pod/web disconnected from cni:net: eth0, 10.68.0.2");
    assert_eq!(cni.inside("web", "ip -o link").ok().text().lines().count(), 1);
    assert_eq!((cni.leases("net"), cni.host.inspect("web")["networks"].clone()), (vec![], json!([])));
    // What could not be undone is told, and the pod stays where it is.
    cni.podrun("network connect cni:net web").ok();
    cni.plugin("bridge", "echo '{\"code\": 7, \"msg\": \"never\"}'; exit 1");
    cni.podrun("network disconnect cni:net web").fails(1).with_one_line().says("never (code 7)");
    assert_eq!(cni.host.inspect("web")["networks"][0]["network"], "cni:net");
    fs::remove_file(cni.dir.join("bin/bridge")).unwrap();
    cni.podrun("network disconnect cni:net web").ok();
}

#[test]
fn reload_checks_what_plugins_have_made() {
    if !has_debians() {
        skip!("{NO_DEBIANS}");
    }
    let cni = Cni::new();
    cni.chain("net", &[cni.bridge("10.69.0.0/24"), json!({"type": "firewall"})]);
    cni.pod("web", "--network cni:net");
    cni.podrun("network reload").ok().prints("network/cni:net checked for pod/web");
    cni.inside("web", "ip addr flush dev eth0").ok();
    let told = cni.podrun("network reload");
    told.fails(1).says("pod web on cni:net: CHECK net by the CNI plugin bridge: ");
    cni.podrun("delete pod web").ok();
    // CHECK came with 0.4.0, and may be turned off.
    cni.plugin("one", &format!("case $CNI_COMMAND in ADD) {} ;; CHECK) exit 1 ;; esac", result("10.7.0.9/24")));
    let plugins = json!([{"type": "one"}]);
    for words in [
        json!({"cniVersion": "0.3.1", "name": "net", "plugins": plugins}),
        json!({"cniVersion": "1.0.0", "name": "net", "disableCheck": true, "plugins": plugins}),
    ] {
        cni.file("net.conflist", words.to_string());
        cni.pod("web", "--network cni:net");
        cni.podrun("network reload").ok().prints("");
        cni.podrun("delete pod web").ok();
    }
}

/// The newest plugins, as tests/oracles/cni-plugins/go.mod names them, built once.
fn newest() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(build_newest).clone()
}

fn build_newest() -> Result<PathBuf, String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let module = top.join("tests/oracles/cni-plugins");
    let text = fs::read_to_string(module.join("go.mod")).map_err(|err| err.to_string())?;
    let version = text.lines().find_map(|line| line.split_once("containernetworking/plugins ")).unwrap().1;
    let target = top.join("target").join(format!("cni-plugins-{version}"));
    let all = ["main/bridge", "ipam/host-local", "meta/portmap", "meta/firewall"];
    if all.iter().all(|one| target.join(one.rsplit('/').next().unwrap()).exists()) {
        return Ok(target);
    }
    let staged = target.with_extension(std::process::id().to_string());
    fs::create_dir_all(&staged).unwrap();
    let mut go = std::process::Command::new("go");
    go.args(["build", "-mod=readonly", "-buildvcs=false", "-o"]).arg(format!("{}/", staged.display()));
    go.args(all.map(|one| format!("github.com/containernetworking/plugins/plugins/{one}")));
    let done = go.current_dir(module).env("CGO_ENABLED", "0").env_remove("GOFLAGS").stdin(Stdio::null()).output();
    let done = done.map_err(|err| format!("go cannot be run: {err}"))?;
    if !done.status.success() {
        let _ = fs::remove_dir_all(&staged);
        return Err(format!("go build: {}", String::from_utf8_lossy(&done.stderr).trim().replace('\n', "; ")));
    }
    // Whoever was faster has made the same.
    if fs::rename(&staged, &target).is_err() {
        let _ = fs::remove_dir_all(&staged);
    }
    Ok(target)
}

#[test]
fn the_newest_plugins_are_asked_in_1_1() {
    if !has_debians() {
        skip!("{NO_DEBIANS}");
    }
    let newest = match newest() {
        Ok(newest) => newest,
        Err(why) => skip!("the newest plugins cannot be built: {why}"),
    };
    let mut cni = Cni::new();
    cni.path = newest.display().to_string();
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    cni.chain_of("1.1.0", "net", &[cni.bridge("10.70.0.0/24"), portmap, json!({"type": "firewall"})]);
    cni.server("web", "--network cni:net --publish 8080:80");
    cni.server("db", "--network cni:net");
    cni.hears(Some("db"), "10.70.0.2:80", "web to 10.70.0.3");
    cni.hears(Some("db"), "10.70.0.1:8080", "web to 10.70.0.1");
    let told = cni.podrun("doctor").text();
    assert!(told.contains("the CNI network net is ready"), "{told}");
    cni.podrun("network reload").ok();
    // None of them frees anything by GC yet; that they answer, and take nothing from live pods, is what can be seen.
    cni.podrun("prune --force").ok().prints("");
    assert_eq!(cni.leases("net"), ["10.70.0.2", "10.70.0.3"]);
    cni.hears(Some("db"), "10.70.0.1:8080", "web to 10.70.0.1");
    cni.podrun("delete pod web db --force").ok().says_nothing();
    assert_eq!(cni.leases("net"), Vec::<String>::new());
    // STATUS goes on to the plugin that hands out addresses.
    cni.path = format!("{}:{}", cni.dir.join("bin").display(), newest.display());
    cni.plugin("tired", r#"echo '{"code": 50, "msg": "no database"}'; exit 1"#);
    cni.chain_of("1.1.0", "net", &[json!({"type": "bridge", "ipam": {"type": "tired"}})]);
    let told = cni.podrun("doctor").text();
    assert!(
        told.contains("not ready: STATUS net by the CNI plugin bridge: ") && told.contains("no database"),
        "{told}"
    );
    let old = Cni::new();
    old.chain_of("1.1.0", "net", &[old.bridge("10.71.0.0/24")]);
    old.podrun("create pod web --network cni:net").fails(1).with_one_line().says("incompatible CNI versions");
    assert!(old.podrun("doctor").text().contains("its plugin bridge speaks 0.1.0"));
}
