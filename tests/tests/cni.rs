//! Networks of CNI plugins: Debian's by real traffic, the newest ones for what is new in 1.1, and plugins that misbehave.

use podrun_tests::{Command, Host, Outcome, Running, Value, eventually, json, skip};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Where Debian has its plugins.
const DEBIAN: &str = "/usr/lib/cni";

/// A host with configurations and plugins of its own; what plugins leave on it by design goes at the end.
struct Cni {
    host: Host,
    dir: PathBuf,
    path: String,
}

impl Cni {
    fn new() -> Self {
        let host = Host::new();
        let dir = host.fresh("cni");
        for one in ["net.d", "bin", "log", "leases"] {
            fs::create_dir_all(dir.join(one)).unwrap();
        }
        let path = format!("{}:{DEBIAN}", dir.join("bin").display());
        Self { host, dir, path }
    }

    /// `podrun LINE` that finds these configurations and plugins.
    fn command(&self, line: impl AsRef<str>) -> Command<'_> {
        let command = self.host.command(line).env("PODRUN_CNI_CONF_DIR", self.dir.join("net.d"));
        command.env("PODRUN_CNI_PATH", &self.path).env("PODRUN_CNI_TIMEOUT", "20")
    }

    #[track_caller]
    fn podrun(&self, line: impl AsRef<str>) -> Outcome {
        self.command(line).run()
    }

    fn file(&self, name: &str, text: impl AsRef<str>) -> PathBuf {
        let path = self.dir.join("net.d").join(name);
        fs::write(&path, text.as_ref()).unwrap();
        path
    }

    /// A configuration of these plugins, of version 1.0.0.
    fn chain(&self, name: &str, plugins: &[Value]) -> PathBuf {
        self.chain_of("1.0.0", name, plugins)
    }

    fn chain_of(&self, version: &str, name: &str, plugins: &[Value]) -> PathBuf {
        let text = json!({"cniVersion": version, "name": name, "plugins": plugins});
        self.file(&format!("{name}.conflist"), serde_json::to_string_pretty(&text).unwrap())
    }

    /// host-local for one range, with leases that no other test sees.
    fn range(&self, subnet: &str) -> Value {
        let all = json!([[{"subnet": subnet}]]);
        json!({"type": "host-local", "dataDir": self.dir.join("leases"), "ranges": all, "routes": [{"dst": "0.0.0.0/0"}]})
    }

    fn bridge(&self, subnet: &str) -> Value {
        json!({"type": "bridge", "bridge": "cnitest0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": self.range(subnet)})
    }

    /// Addresses that host-local has given out on a network.
    fn leases(&self, network: &str) -> Vec<String> {
        let files = fs::read_dir(self.dir.join("leases").join(network)).into_iter().flatten().flatten();
        let names = files.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(|it: char| it.is_ascii_digit())).collect();
        names.sort();
        names
    }

    /// A plugin of the test's own: notes what it was asked, then does what the script says. `$in` is what it read.
    fn plugin(&self, name: &str, script: &str) -> PathBuf {
        let log = self.dir.join("log").display().to_string();
        let text = format!(
            "#!/bin/sh\nin=$(cat)\nn=$(ls {log} | wc -l)\n{{ env | grep -v -e ^PWD= -e ^SHLVL= -e ^_=; readlink -f \"$CNI_NETNS\"; \
             echo; printf '%s' \"$in\"; }} > {log}/$(printf %03d $n)-$CNI_COMMAND-{name}\n\
             if [ $CNI_COMMAND = VERSION ]; then\n\
             echo '{{\"cniVersion\": \"1.1.0\", \"supportedVersions\": [\"0.3.1\", \"0.4.0\", \"1.0.0\", \"1.1.0\"]}}'; exit; fi\n{script}\n"
        );
        let path = self.dir.join("bin").join(name);
        // Another thread's child may hold it open for writing at the moment: a new file each time.
        let _ = fs::remove_file(&path);
        self.host.program("sh -c").args([format!("cat > {0} && chmod 755 {0}", path.display())]).stdin(text).run().ok();
        path
    }

    /// One that gives an address, and makes nothing.
    fn giving(&self, name: &str, address: &str) -> PathBuf {
        self.plugin(name, &format!("if [ $CNI_COMMAND = ADD ]; then {}; fi", result(address)))
    }

    /// What plugins were asked, in order: `ADD-first`.
    fn asked(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.join("log"))
            .unwrap()
            .map(|one| one.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.iter().map(|name| name.split_once('-').unwrap().1.to_owned()).collect()
    }

    /// What a plugin was given the last time that it was asked this: its environment, and what it read.
    fn given(&self, what: &str) -> (String, Value) {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.dir.join("log")).unwrap().map(|one| one.unwrap().path()).collect();
        files.sort();
        let last = files.iter().rfind(|path| path.to_str().unwrap().ends_with(&format!("-{what}")));
        let text = fs::read_to_string(last.unwrap_or_else(|| panic!("no {what} in {files:?}"))).unwrap();
        let (environment, input) = text.split_once("\n\n").unwrap();
        (environment.to_owned(), serde_json::from_str(input).unwrap())
    }

    fn forget_asked(&self) {
        fs::read_dir(self.dir.join("log")).unwrap().for_each(|one| fs::remove_file(one.unwrap().path()).unwrap());
    }

    fn pod(&self, name: &str, flags: &str) {
        self.podrun(format!("create pod {name} {flags}")).ok();
    }

    /// A pod that listens on port 80 and says its own name.
    fn server(&self, name: &str, flags: &str) {
        self.pod(name, flags);
        self.host.start(&format!("{name}/server"), "", &format!("/probe listen [::]:80 {name}"));
        let log = format!("logs {name}/server");
        eventually("it listens", Duration::from_secs(10), || {
            self.host.podrun(&log).text().contains("listening").then_some(())
        });
    }

    fn address(&self, pod: &str) -> String {
        self.host.inspect(pod)["network"]["ip"][0].as_str().unwrap().to_owned()
    }

    fn inside(&self, pod: &str, script: &str) -> Outcome {
        self.host.command(format!("netns {pod} --")).args(["sh", "-ec", script]).run()
    }

    #[track_caller]
    fn hears(&self, from: Option<&str>, to: &str, answer: &str) {
        let ask = format!("exec timeout 5 {} ask {to}", self.host.probe().display());
        let said = match from {
            Some(pod) => self.inside(pod, &ask),
            None => self.host.program("sh -ec").args([ask]).run(),
        };
        assert_eq!(said.ok().text().trim().replace("::ffff:", ""), answer, "{from:?} asks {to}");
    }

    fn kill(&self, pod: &str, keeper: &str) {
        self.host.kill(&self.host.inspect(pod)[keeper]["pid"], 9);
    }

    /// What a reboot does: processes and run-root are gone, the disk is as it was.
    fn reboot(&self) {
        for name in fs::read_dir(self.host.run_root().join("names")).into_iter().flatten().flatten() {
            let pod = name.file_name().into_string().unwrap().split_once('_').unwrap().1.to_owned();
            let found = self.host.inspect(&pod);
            for keeper in ["pause", "monitor"] {
                let _ = self.host.program(format!("kill -STOP {}", found[keeper]["pid"])).run();
            }
            for keeper in ["pause", "monitor", "pump"].into_iter().filter(|one| found[one]["pid"].is_number()) {
                self.host.kill(&found[keeper]["pid"], 9);
            }
        }
        let cgroups =
            format!("find /sys/fs/cgroup -depth -type d -path '*/{}*' -exec rmdir {{}} +", self.host.cgroup_name());
        eventually("its cgroups are empty", Duration::from_secs(5), || {
            (self.host.program("sh -c").args([&cgroups]).run().code() == 0).then_some(())
        });
        fs::remove_dir_all(self.host.run_root()).unwrap();
        self.host.replace_file("/proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n");
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        // With plugins that do as they should.
        self.command("delete pod --all --force").run();
        self.command("prune --force").run();
        let clean = "nft flush ruleset; for link in cnitest0 uplink; do ip link del $link 2>/dev/null; done; \
                     sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0; true";
        self.host.program("sh -c").args([clean]).run();
    }
}

/// The words of a shell that print a result with one address.
fn result(address: &str) -> String {
    format!(
        r#"echo '{{"cniVersion": "1.0.0", "interfaces": [{{"name": "'$CNI_IFNAME'", "mac": "02:00:00:00:00:01", "sandbox": "'$CNI_NETNS'"}}], "ips": [{{"address": "{address}", "interface": 0}}]}}'"#
    )
}

fn has_debians() -> bool {
    Path::new(DEBIAN).join("bridge").exists() && Path::new("/usr/sbin/iptables").exists()
}

const NO_DEBIANS: &str = "Debian's containernetworking-plugins and iptables are not installed";

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

// CNI specification 1.1, sections 2 and 3; its conventions for runtimeConfig.
#[test]
fn plugins_are_asked_as_the_specification_says() {
    let cni = Cni::new();
    cni.giving("first", "10.7.0.9/24");
    cni.plugin("second", "if [ $CNI_COMMAND = ADD ]; then printf '%s' \"$in\" | sed 's/.*\"prevResult\":\\({.*}\\),\"runtimeConfig.*/\\1/'; fi");
    let chain = [
        json!({"type": "first", "mine": {"x": [1, "a"]}, "capabilities": {"ips": true, "mac": true, "dns": true}}),
        json!({"type": "second", "capabilities": {"portMappings": true, "bandwidth": true, "mac": false}}),
    ];
    cni.chain("net", &chain);
    cni.podrun(
        "create pod web -n team --network cni:net,ip=10.7.0.9/24,mac=02:00:00:00:00:01,egress=1M --dns 10.7.0.1 \
         --dns-search team.local --publish 127.0.0.1:8080:80/udp",
    )
    .ok();
    let pod = cni.podrun("-n team inspect web").json();
    let id = pod["id"].as_str().unwrap();
    let (environment, input) = cni.given("ADD-first");
    let link = cni.host.run_root().join("netns").join(format!("{id}.eth0"));
    let netns = pod["namespaces"]["net"].as_str().unwrap();
    let inode = cni.host.program(format!("readlink {netns}")).run().ok().text();
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=team;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={id}"
    );
    let mut lines: Vec<&str> = environment.lines().collect();
    assert!(lines.pop().unwrap().ends_with(inode.trim()), "{environment} and {inode}");
    lines.sort_unstable();
    let wanted = [
        format!("CNI_ARGS={args}"),
        "CNI_COMMAND=ADD".to_owned(),
        format!("CNI_CONTAINERID={id}"),
        "CNI_IFNAME=eth0".to_owned(),
        format!("CNI_NETNS={}", link.display()),
        format!("CNI_PATH={}", cni.path),
    ];
    assert_eq!(lines[..6], wanted.each_ref().map(String::as_str)[..]);
    assert!(lines.len() == 7 && lines[6].starts_with("PATH="), "{lines:?}");
    let first = json!({"type": "first", "mine": {"x": [1, "a"]}, "name": "net", "cniVersion": "1.0.0", "runtimeConfig": {
        "ips": ["10.7.0.9/24"], "mac": "02:00:00:00:00:01",
        "dns": {"servers": ["10.7.0.1"], "searches": ["team.local"], "options": []}}});
    assert_eq!(input, first);
    let (_, second) = cni.given("ADD-second");
    assert_eq!(second["prevResult"]["ips"][0]["address"], "10.7.0.9/24");
    assert_eq!(
        second["runtimeConfig"],
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "127.0.0.1"}],
            "bandwidth": {"egressRate": 1_000_000, "egressBurst": 524_288}})
    );
    cni.forget_asked();
    cni.podrun("-n team delete pod web").ok().says_nothing();
    // In reverse, with what ADD was given and what it answered, and the namespace at the same path.
    assert_eq!(cni.asked(), ["DEL-second", "DEL-first"]);
    let (again, input) = cni.given("DEL-first");
    assert_eq!(again.replace("=DEL", "=ADD").lines().take(7).collect::<Vec<_>>().len(), 7);
    assert!(
        again.contains(&format!("CNI_NETNS={}", link.display())) && again.trim_end().ends_with(inode.trim()),
        "{again}"
    );
    assert_eq!(input["prevResult"], second["prevResult"]);
    assert_eq!(input["runtimeConfig"], first["runtimeConfig"]);
    assert!(!link.exists() && !cni.host.root().join("cni").join(id).exists());
}

#[test]
fn versions_from_0_3_0_to_1_1_0_are_spoken() {
    let cni = Cni::new();
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let family = if version < "1" { r#""version": "4", "# } else { "" };
        cni.plugin(
            "one",
            &format!(r#"[ $CNI_COMMAND = ADD ] && echo '{{"cniVersion": "{version}", "ips": [{{{family}"address": "10.7.0.9/24"}}]}}' || true"#),
        );
        cni.chain_of(version, "net", &[json!({"type": "one"}), json!({"type": "one"})]);
        cni.forget_asked();
        cni.podrun("create pod web --network cni:net").ok().prints("pod/web created, 10.7.0.9");
        cni.podrun("delete pod web").ok().says_nothing();
        let (_, last) = cni.given("ADD-one");
        let family = if version < "1" { json!("4") } else { Value::Null };
        assert_eq!((&last["cniVersion"], &last["prevResult"]["ips"][0]["version"]), (&json!(version), &family));
        // DEL has had a result since 0.4.0.
        assert_eq!(cni.given("DEL-one").1["prevResult"].is_null(), version < "0.4");
    }
    // A result of another version is handed on as the chain's.
    cni.plugin("one", r#"[ $CNI_COMMAND = ADD ] && echo '{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.7.0.9/24"}]}' || true"#);
    cni.pod("web", "--network cni:net");
    assert_eq!(
        cni.given("ADD-one").1["prevResult"],
        json!({"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.9/24"}]})
    );
}

#[test]
fn a_plugin_that_fails_is_told_whole_and_leaves_nothing() {
    let cni = Cni::new();
    cni.giving("good", "10.7.0.9/24");
    cni.chain("net", &[json!({"type": "good"}), json!({"type": "bad"})]);
    for (script, why) in [
        (
            r#"echo '{"cniVersion": "1.0.0", "code": 103, "msg": "no bridge", "details": "it is painted red"}'; exit 1"#,
            "ADD net by the CNI plugin bad: no bridge (code 103): it is painted red",
        ),
        ("echo broken pipe; echo and a word >&2; exit 4", "it ended with 4: and a word; broken pipe"),
        ("kill -SEGV $$", "it was killed by signal 11"),
        ("exit 0", "its result is not JSON"),
        ("echo hello", "its result is not JSON: expected value at line 1 column 1: hello"),
        (r#"echo '{"cniVersion": "7.0.0"}'"#, "its result is of cniVersion \"7.0.0\", and was asked for as 1.0.0"),
        (r#"echo '{"ips": [{"address": "10.7.0.9"}]}'"#, "no /prefix"),
        ("head -c 3000000 /dev/zero", "it wrote more than 1048576 bytes and was killed"),
        ("head -c 3000000 /dev/zero >&2", "it wrote more than 1048576 bytes and was killed"),
    ] {
        cni.plugin("bad", &format!("[ $CNI_COMMAND != ADD ] && exit 0\n{script}"));
        cni.forget_asked();
        let told = cni.podrun("create pod web --network cni:net");
        told.fails(1).with_one_line().says(why).says("create the pod web");
        assert_eq!(cni.asked(), ["ADD-good", "ADD-bad", "DEL-bad", "DEL-good"], "{script}");
        cni.podrun("inspect web").fails(1);
        assert!(cni.podrun("prune --dry-run").ok().text().is_empty(), "{script}");
    }
    // What was given is not what was asked for.
    cni.giving("bad", "10.7.0.9/24");
    for (wish, why) in [
        ("ip=10.7.0.8", "its plugins did not give ip=10.7.0.8, but 10.7.0.9/24"),
        ("mac=02:00:00:00:00:02", "did not give mac=02:00:00:00:00:02, but 02:00:00:00:00:01"),
    ] {
        cni.podrun(format!("create pod web --network cni:net,{wish}")).fails(1).with_one_line().says(why);
    }
    // A later network that fails takes the earlier one's plugins back.
    cni.forget_asked();
    cni.podrun("create pod web --network cni:net --network nosuch").fails(1).with_one_line();
    assert_eq!(cni.asked(), ["ADD-good", "ADD-bad", "DEL-bad", "DEL-good"]);
    // Never a second ADD for one network, whatever it is called.
    cni.forget_asked();
    let twice = cni.podrun("create pod web --network cni:net --network cni:");
    twice.fails(1).with_one_line().says("the pod is on this network already");
    assert_eq!(cni.asked(), ["ADD-good", "ADD-bad", "DEL-bad", "DEL-good"]);
    cni.pod("web", "--network cni:net");
    cni.podrun("network connect cni: web").fails(1).with_one_line().says("the pod is on this network already");
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    let cni = Cni::new();
    cni.plugin("bad", "[ $CNI_COMMAND = DEL ] && exit 0\nsleep 3456 & setsid sleep 3456 & sleep 3456");
    cni.chain("net", &[json!({"type": "bad"})]);
    let told = cni.command("create pod web --network cni:net").env("PODRUN_CNI_TIMEOUT", "1").run();
    told.fails(1).with_one_line().says("it did not end within 1.").within(Duration::from_secs(6));
    assert_eq!(cni.asked(), ["ADD-bad", "DEL-bad"]);
    eventually("its children are gone", Duration::from_secs(2), || {
        (!cni.host.processes().contains("3456")).then_some(())
    });
}

#[test]
fn configurations_that_cannot_be_are_told_with_file_and_line() {
    let cni = Cni::new();
    cni.giving("good", "10.7.0.9/24");
    cni.host
        .program("sh -c")
        .args([format!("cp {0}/good {0}/lame; chmod 644 {0}/lame", cni.dir.join("bin").display())])
        .run()
        .ok();
    let list =
        |plugin: &str| format!("{{\n\"cniVersion\": \"1.0.0\",\n\"name\": \"net\",\n\"plugins\": [\n{plugin}\n]\n}}");
    let path = cni.dir.join("net.d/net.conflist");
    for (text, why) in [
        ("{\n\"name\": \"net\",\n".to_owned(), "EOF while parsing a value at line 3"),
        (list("{\"type\": \"good\",}"), "trailing comma at line 5"),
        (list("{\"kind\": \"good\"}"), "missing field `type` at line 5"),
        (list("{\"type\": \"../bin/good\"}"), "has no slash at line 5"),
        (list("{\"type\": \"good\", \"ipam\": {\"type\": \"/bin/sh\"}}"), "has no slash at line 5"),
        (list(""), "it has no plugins"),
        (list("{\"type\": \"good\"}").replace("\"net\"", "\"a\\nb\""), "is not the name of a network"),
        (list("{\"type\": \"good\"}").replace("1.0.0", "0.2.0"), "cniVersion 0.2.0: podrun speaks 0.3.0 to 1.1.0"),
        (list("{\"type\": \"good\"}").replace("1.0.0", "3.0.0"), "cniVersion 3.0.0: podrun speaks 0.3.0 to 1.1.0"),
    ] {
        fs::write(&path, &text).unwrap();
        for which in ["", path.to_str().unwrap()] {
            let told = cni.podrun(format!("create pod web --network cni:{which}"));
            told.fails(1).with_one_line().says(why).says("net.d/net.conflist");
        }
        // By its name it is not found, and the broken file is named.
        cni.podrun("create pod web --network cni:net").fails(1).says("no configuration in").says(why);
    }
    let looked = format!("it is not in {}, {DEBIAN}", cni.dir.join("bin").display());
    for (plugin, why) in [
        ("{\"type\": \"nosuch\"}", looked.as_str()),
        ("{\"type\": \"good\", \"ipam\": {\"type\": \"nosuch\"}}", looked.as_str()),
        ("{\"type\": \"lame\"}", "lame is not executable"),
    ] {
        fs::write(&path, list(plugin)).unwrap();
        cni.forget_asked();
        cni.podrun("create pod web --network cni:net").fails(1).with_one_line().says(why);
        assert_eq!(cni.asked(), Vec::<String>::new(), "nobody was asked in vain");
    }
    fs::remove_file(&path).unwrap();
    cni.podrun("create pod web --network cni:").fails(1).with_one_line().says("there is no configuration in");
    cni.podrun("create pod web --network cni:../net").fails(2).with_one_line();
    cni.podrun("create pod web --network cni:/nonexistent.conflist")
        .fails(1)
        .with_one_line()
        .says("/nonexistent.conflist");
    cni.podrun("create pod web --network cni:net,mtu=1400").fails(2).with_one_line().says("own configuration");
}

#[test]
fn configurations_are_found_as_libcni_finds_them() {
    let cni = Cni::new();
    for (name, address) in
        [("one", "10.7.0.1/24"), ("two", "10.7.0.2/24"), ("three", "10.7.0.3/24"), ("more", "10.7.0.4/24")]
    {
        cni.giving(name, address);
    }
    let made = |which: &str, address: &str| {
        cni.podrun(format!("create pod web --network cni:{which}")).ok().prints(&format!("pod/web created, {address}"));
        cni.podrun("delete pod web").ok();
    };
    cni.file("20-b.conflist", r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "two"}]}"#);
    cni.file("10-a.conf", r#"{"cniVersion": "1.0.0", "name": "net", "type": "one"}"#);
    cni.file("30-c.json", r#"{"cniVersion": "1.0.0", "name": "single", "type": "three"}"#);
    cni.file("00-not.txt", "nothing");
    // The first by its file's name is the default; by the network's name a list wins.
    made("", "10.7.0.1");
    made("net", "10.7.0.2");
    made("single", "10.7.0.3");
    // By its path, wherever it is and whatever its ending.
    let elsewhere = cni.dir.join("elsewhere");
    fs::write(&elsewhere, r#"{"cniVersion": "1.0.0", "name": "far", "plugins": [{"type": "one"}]}"#).unwrap();
    made(elsewhere.to_str().unwrap(), "10.7.0.1");
    // Plugins in a directory of the network's name follow those of the list.
    fs::create_dir(cni.dir.join("net.d/net")).unwrap();
    cni.file("net/50-more.conf", r#"{"type": "more"}"#);
    made("net", "10.7.0.4");
    cni.file(
        "20-b.conflist",
        r#"{"cniVersion": "1.0.0", "name": "net", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "two"}]}"#,
    );
    made("net", "10.7.0.2");
    // The variables of other tools are heard, too.
    let command = cni.host.command("create pod web --network cni:single").env("NETCONFPATH", cni.dir.join("net.d"));
    command.env("CNI_PATH", cni.dir.join("bin")).run().ok();
    let list = cni.podrun("network ls").ok().text();
    let row = |name: &str| {
        list.lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(row("cni:single"), ["cni:single", "cni", "-", "1"]);
    let shown = cni.podrun("network inspect cni:single").json();
    assert_eq!((&shown["plugins"], &shown["cniVersion"]), (&json!(["three"]), &json!("1.0.0")));
    assert_eq!((&shown["pods"][0]["name"], &shown["pods"][0]["addresses"]), (&json!("web"), &json!(["10.7.0.3/24"])));
    cni.podrun("network rm cni:net").fails(2).with_one_line().says("it is of CNI plugins");
    cni.podrun("network inspect cni:nosuch").fails(1).with_one_line().says("there are net");
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
fn prune_ends_what_pods_of_an_earlier_boot_have_left() {
    let cni = Cni::new();
    cni.giving("one", "10.7.0.9/24");
    let file = cni.chain("net", &[json!({"type": "one"})]);
    cni.pod("web", "--network cni:net");
    cni.reboot();
    fs::remove_file(file).unwrap();
    cni.forget_asked();
    cni.podrun("prune").ok().prints_something_like("would remove the CNI attachment of web to net with 10.7.0.9");
    assert_eq!(cni.asked(), Vec::<String>::new());
    cni.podrun("prune --force").ok().prints("removed the CNI attachment of web to net with 10.7.0.9");
    // DEL with what ADD was, and no namespace.
    assert_eq!(cni.asked(), ["DEL-one"]);
    let (environment, input) = cni.given("DEL-one");
    assert!(environment.contains("CNI_NETNS=\n") && environment.contains("K8S_POD_NAME=web"), "{environment}");
    assert_eq!(input["prevResult"]["ips"][0]["address"], "10.7.0.9/24");
    cni.podrun("prune").ok().prints("");
    assert!(!cni.host.root().join("cni").exists());
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
fn pods_that_share_a_network_of_plugins_leave_it_with_the_last_of_them() {
    let cni = Cni::new();
    cni.giving("one", "10.7.0.9/24");
    cni.chain("net", &[json!({"type": "one"})]);
    cni.pod("web", "--network cni:net");
    cni.pod("side", "--network pod:web");
    assert_eq!(cni.address("side"), "10.7.0.9");
    let id = cni.host.inspect("web")["id"].as_str().unwrap().to_owned();
    cni.forget_asked();
    cni.podrun("delete pod web").ok();
    assert_eq!(cni.asked(), Vec::<String>::new());
    cni.podrun("network reload").ok().prints("network/cni:net checked for pod/side");
    cni.podrun("delete pod side").ok().says_nothing();
    assert_eq!(cni.asked(), ["CHECK-one", "DEL-one"]);
    assert!(cni.given("DEL-one").0.contains(&format!("CNI_CONTAINERID={id}\n")), "as it was added");
}

#[test]
fn a_port_that_no_plugin_maps_is_refused() {
    let cni = Cni::new();
    cni.giving("one", "10.7.0.9/24");
    cni.giving("mapper", "10.7.0.8/24");
    cni.chain("bare", &[json!({"type": "one"})]);
    let told = cni.podrun("create pod web --network cni:bare --publish 8080:80");
    told.fails(1).with_one_line().says("no plugin of the CNI network bare has the capability portMappings");
    assert_eq!(cni.asked(), Vec::<String>::new());
    cni.chain("net", &[json!({"type": "mapper", "capabilities": {"portMappings": true}})]);
    // The first that can, and only that.
    cni.pod("web", "--network cni:bare --network cni:net --publish :80");
    let port = cni.given("ADD-mapper").1["runtimeConfig"]["portMappings"][0]["hostPort"].clone();
    assert!(port.as_u64().is_some_and(|port| port > 0), "any free one is chosen by podrun");
    assert!(cni.given("ADD-one").1.get("runtimeConfig").is_none());
    cni.podrun("port web").ok().prints(&format!("80/tcp -> 0.0.0.0:{port}"));
    for change in ["--publish 8081:81", &format!("--unpublish {port}")] {
        cni.podrun(format!("update pod web {change}")).fails(1).with_one_line().says("make ports when the pod is made");
    }
}

#[test]
fn the_names_that_plugins_say_are_in_resolv_conf() {
    let cni = Cni::new();
    let dns = r#"echo '{"ips": [{"address": "10.7.0.9/24"}], "dns": {"nameservers": ["10.7.0.1"], "domain": "net.local", "search": ["a.local"], "options": ["ndots:2"]}}'"#;
    cni.plugin("one", &format!("[ $CNI_COMMAND = ADD ] && {dns} || true"));
    cni.chain("net", &[json!({"type": "one"})]);
    cni.pod("web", "--network cni:net");
    cni.pod("own", "--network cni:net --dns 192.0.2.53 --dns-search own.local");
    for (pod, lines) in [
        ("web", ["nameserver 10.7.0.1", "search net.local a.local", "options ndots:2"]),
        ("own", ["nameserver 192.0.2.53", "search own.local", "options ndots:2"]),
    ] {
        let text = cni.host.run(&format!("{pod}/cat"), "", "cat /etc/resolv.conf").ok().text();
        assert!(lines.iter().all(|line| text.lines().any(|one| one == *line)), "{pod}: {text}");
    }
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

#[test]
fn gc_is_told_whose_attachments_are_there() {
    let cni = Cni::new();
    cni.giving("one", "10.7.0.9/24");
    cni.chain_of("1.1.0", "net", &[json!({"type": "one"})]);
    cni.pod("web", "--network cni:net");
    cni.pod("db", "--network cni:net,interface=net0");
    cni.forget_asked();
    cni.podrun("prune --dry-run").ok();
    assert_eq!(cni.asked(), Vec::<String>::new());
    cni.podrun("prune --force").ok();
    assert_eq!(cni.asked(), ["GC-one"]);
    let (environment, input) = cni.given("GC-one");
    assert!(!environment.contains("CNI_CONTAINERID") && !environment.contains("CNI_NETNS"), "{environment}");
    let all = |key: &str| {
        let mut all: Vec<(String, String)> = input[key]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["containerID"].as_str().unwrap().to_owned(), one["ifname"].as_str().unwrap().to_owned()))
            .collect();
        all.sort();
        all
    };
    let id = |pod: &str| cni.host.inspect(pod)["id"].as_str().unwrap().to_owned();
    let mut wanted = vec![(id("web"), "eth0".to_owned()), (id("db"), "net0".to_owned())];
    wanted.sort();
    assert_eq!((all("cni.dev/valid-attachments"), all("cni.dev/attachments")), (wanted.clone(), wanted));
    cni.podrun("delete pod web db").ok();
    // Once more with nobody, and then never again: podrun has nothing there any more.
    cni.podrun("prune --force").ok();
    assert_eq!(cni.given("GC-one").1["cni.dev/valid-attachments"], json!([]));
    cni.forget_asked();
    cni.podrun("prune --force").ok();
    assert_eq!(cni.asked(), Vec::<String>::new());
    // Before 1.1 there is none, and it may be turned off.
    for words in [
        json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "one"}]}),
        json!({"cniVersion": "1.1.0", "name": "net", "disableGC": true, "plugins": [{"type": "one"}]}),
    ] {
        cni.file("net.conflist", words.to_string());
        cni.pod("web", "--network cni:net");
        cni.podrun("prune --force").ok();
        assert!(!cni.asked().iter().any(|one| one.starts_with("GC")));
        cni.podrun("delete pod web").ok();
    }
}

#[test]
fn doctor_tells_what_is_wrong_with_networks_of_plugins() {
    let cni = Cni::new();
    cni.giving("good", "10.7.0.9/24");
    cni.plugin(
        "tired",
        "[ $CNI_COMMAND = STATUS ] && { echo '{\"code\": 50, \"msg\": \"the daemon sleeps\"}'; exit 1; } || true",
    );
    let old = cni.plugin("old", "true");
    let text = fs::read_to_string(&old)
        .unwrap()
        .replace(", \"1.1.0\"]", "]")
        .replace("\"cniVersion\": \"1.1.0\"", "\"cniVersion\": \"1.0.0\"");
    fs::remove_file(&old).unwrap();
    cni.host.program("sh -c").args([format!("cat > {0} && chmod 755 {0}", old.display())]).stdin(text).run().ok();
    let found = || {
        let all = cni.podrun("doctor -o json");
        let all: Value = serde_json::from_slice(&all.stdout).unwrap();
        let texts = all.as_array().unwrap().iter().filter(|one| one["said"].as_str().unwrap().contains("CNI network"));
        texts
            .map(|one| {
                format!("{}: {} | {}", one["state"].as_str().unwrap(), one["said"].as_str().unwrap(), one["cure"])
            })
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(found(), "");
    for (text, says) in [
        (
            r#"{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "good"}]}"#,
            vec!["ok: the CNI network net is ready"],
        ),
        ("{\n\"name\": 7}", vec!["info: no CNI network by", "net.conflist: ", "at line 2", "mend the file"]),
        (
            r#"{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "nosuch", "ipam": {"type": "neither"}}]}"#,
            vec![
                "info: the CNI network net: find the CNI plugin nosuch: it is not in",
                "find the CNI plugin neither",
                "containernetworking-plugins",
            ],
        ),
        (
            r#"{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "tired"}]}"#,
            vec![
                "info: the CNI network net is not ready: STATUS net by the CNI plugin tired: the daemon sleeps (code 50)",
            ],
        ),
        (
            r#"{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "good"}, {"type": "old"}]}"#,
            vec![
                "info: the CNI network net is of cniVersion 1.1.0, and its plugin old speaks 0.3.1, 0.4.0, 1.0.0",
                "lower cniVersion",
            ],
        ),
    ] {
        cni.file("net.conflist", text);
        let told = found();
        says.iter().for_each(|part| assert!(told.contains(part), "{part} in {told}"));
    }
    // With a pod on it, it is wrong, and no longer only worth knowing.
    cni.chain_of("1.1.0", "net", &[json!({"type": "good"})]);
    cni.pod("web", "--network cni:net");
    fs::rename(cni.dir.join("bin/good"), cni.dir.join("bin/away")).unwrap();
    cni.podrun("doctor").fails(1);
    assert!(found().contains("wrong: the CNI network net: find the CNI plugin good"), "{}", found());
    fs::rename(cni.dir.join("bin/away"), cni.dir.join("bin/good")).unwrap();
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
