//! `kill -9` at every step. design.md, "Any one may die; the pod lives"; pitfalls.md 7, 10, 12, 17.
//!
//! podrun's build with debug assertions dies at the points that podrun/src/fault.rs names: a command by its environment, a
//! monitor or pump by a file. Each point is tried three times. Beside what is tried a container counts lines into its log
//! and ends with a code of its own: both have to be right afterwards, and `delete` and `prune` leave nothing.

#![allow(clippy::print_stdout, reason = "the points, the tries and the kills are counted on the test's own output")]

use podrun::fault::POINTS;
use podrun_tests::{Host, Outcome, Rootfs, Value, cri_lines, eventually, joined, json};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const TRIES: usize = 3;

const CREATE: &[&str] = &["create-pod."];
const DELETE: &[&str] = &["delete-pod."];
const COMMAND: &[&str] = &["command.", "heal."];
const BIRTH: &[&str] = &["birth.", "record.", "start."];
const END: &[&str] = &["end.", "restart.", "erase."];
const VERBS: &[&str] = &["stop.", "freeze.", "thaw.", "exec."];
const KEEPERS: &[&str] = &["pump.", "pause.", "init.", "upgrade."];
const RECOVERY: &[&str] = &["recover."];
const NETWORK: &[&str] = &["network."];
const UPDATE: &[&str] = &["update."];
const NAMES: &[&str] = &["names."];
const PEERS: &[&str] = &["peers."];
const SERVICE: &[&str] = &["service."];
const PLUGINS: &[&str] = &["cni."];
const OCI: &[&str] = &["oci."];

/// The default bridge's own address.
const GATEWAY: &str = "10.88.0.1";

/// What the counting container prints, and how it ends.
const LINES: usize = 250;
const CODE: i64 = 7;

fn points(groups: &[&str]) -> Vec<&'static str> {
    POINTS.iter().copied().filter(|point| groups.iter().any(|group| point.starts_with(group))).collect()
}

#[test]
fn every_point_is_tried_by_one_test() {
    let tests = [
        CREATE, DELETE, COMMAND, BIRTH, END, VERBS, KEEPERS, RECOVERY, NETWORK, UPDATE, NAMES, PEERS, SERVICE, PLUGINS,
        OCI,
    ];
    for point in POINTS {
        let trying = tests.iter().filter(|groups| points(groups).contains(point)).count();
        assert_eq!(trying, 1, "{point}");
    }
    println!("{} points, {} pairs of (point, try)", POINTS.len(), POINTS.len() * TRIES);
}

/// Every point of these groups, three times, each on a pod of its own. A failure names the point.
fn try_each(groups: &[&str], attempt: impl Fn(&Fixture, &str, usize)) {
    let fixture = Fixture::new();
    let mut pairs = 0;
    for point in points(groups) {
        for n in 0..TRIES {
            let told = Telling(point, n);
            attempt(&fixture, point, n);
            std::mem::forget(told);
            pairs += 1;
        }
    }
    println!("{groups:?}: {pairs} pairs of (point, try)");
}

/// Says where it was when a try panics.
struct Telling<'a>(&'a str, usize);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        println!("--- it died at {} (try {})", self.0, self.1);
    }
}

struct Fixture {
    host: Host,
    root: Rootfs,
}

impl Fixture {
    fn new() -> Self {
        let host = Host::with_faults();
        let root = host.rootfs();
        Self { host, root }
    }

    fn run(&self, name: &str, flags: &str, command: &str) -> Outcome {
        self.host.podrun(format!("run {name} {flags} --rootfs {} -- {command}", self.root))
    }

    /// A pod with a container that counts and one that stays.
    fn pod(&self, flags: &str) {
        self.host.podrun(format!("create pod web {flags}")).ok();
        self.fill();
    }

    fn fill(&self) {
        self.run("web/k", "-d", "/probe sleep 600").ok();
        self.run("web/a", "-d", &format!("sh -c '/probe count 1 {LINES} 1000; exit {CODE}'")).ok();
    }

    fn file(&self) -> PathBuf {
        self.host.run_root().join("fault")
    }

    /// The next monitors or pumps to come by die there.
    fn wish(&self, points: &[&str]) {
        fs::create_dir_all(self.host.run_root()).unwrap();
        fs::write(self.file(), format!("{}\n", points.join("\n"))).unwrap();
    }

    fn expect_it_died(&self) {
        eventually("it comes by the point and dies", Duration::from_secs(10), || (!self.file().exists()).then_some(()));
    }

    /// A command that dies at the point.
    fn dies(&self, point: &str, line: &str) {
        self.host.command(line).env("PODRUN_FAULT", point).pipes_may_stay_held().run().fails(137);
    }

    /// Waits until nobody lives whom the pod's record names, without a command, which would mend what it can: of who
    /// made the pod anew and died, the child may hold it for a moment longer.
    fn expect_dead_keepers(&self, id: &str) {
        let record = self.host.run_root().join("pods").join(id).join("monitor.json");
        eventually("pause and monitor are dead", Duration::from_secs(10), || {
            let record: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
            ["pause", "monitor"].iter().all(|part| !self.host.lives(&record[part]["pid"])).then_some(())
        });
    }

    fn part(&self, part: &str) -> Value {
        self.host.inspect("web")[part]["pid"].clone()
    }

    /// Kills one and waits for the next, but asks nobody to help.
    fn replace(&self, part: &str) {
        let before = self.part(part);
        self.host.kill(&before, libc::SIGKILL);
        eventually(&format!("a new {part}"), Duration::from_secs(10), || {
            let now = self.part(part);
            (now != before && self.host.lives(&now)).then_some(())
        });
    }

    fn expect_end(&self, name: &str, code: i64) {
        assert_eq!(self.host.until("web", name, "Exited")["exitCode"], code, "{:#}", self.host.container("web", name));
    }

    /// The pod goes on as if nothing had happened: a program can be executed, the log has every line once, the code is right.
    fn expect_life(&self) {
        self.host.podrun("exec web/k -- /probe say fine").ok().prints("fine");
        self.expect_end("a", CODE);
        let path = self.host.container("web", "a")["logPath"].as_str().unwrap().to_owned();
        let text = String::from_utf8(joined(&cri_lines(&fs::read(path).unwrap()), "stdout")).unwrap();
        let right: String = (1..=LINES).map(|n| format!("line {n}\n")).collect();
        assert!(text == right, "the log is wrong: {} bytes, not {}", text.len(), right.len());
    }

    fn expect_nothing_after_delete(&self) {
        let _ = fs::remove_file(self.file());
        self.host.podrun("delete pod web --force").ok().within(Duration::from_secs(20));
        self.host.podrun("delete pod web --force").ok();
        self.expect_nothing_after_prune();
    }

    fn expect_nothing_after_prune(&self) {
        self.host.podrun("prune --force").ok();
        self.host.expect_nothing_left("delete and prune");
        let left = fs::read_dir(self.host.run_root()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("pause")).collect();
        assert!(left.is_empty(), "in the run-root: {left:?}");
        self.host.podrun("prune").ok().prints("");
    }
}

#[test]
fn create_pod_may_be_killed_at_every_step() {
    try_each(CREATE, |fixture, point, n| {
        let host = &fixture.host;
        let create = "create pod web --volume data --publish 8080:80";
        match point {
            // The child that is to become pause.
            "create-pod.pause-ready" => {
                host.command(create).env("PODRUN_FAULT", point).run().fails(1);
            }
            _ => fixture.dies(point, create),
        }
        let whole = point == "create-pod.recorded";
        match n {
            0 => fixture.expect_nothing_after_delete(),
            1 if whole => drop(host.podrun("delete pod web").ok()),
            // Nobody says the name: what was begun is found all the same.
            1 => fixture.expect_nothing_after_prune(),
            _ => {}
        }
        if n < 2 || !whole {
            host.podrun(create).ok();
        }
        fixture.run("web/b", "-v data:/data", "/probe say new").ok().prints("new");
        fixture.expect_nothing_after_delete();
    });
}

#[test]
fn delete_pod_may_be_killed_at_every_step() {
    try_each(DELETE, |fixture, point, n| {
        let host = &fixture.host;
        fixture.pod("--volume data --publish 8080:80");
        fixture.dies(point, "delete pod web --time 0");
        if n == 1 {
            // Another pod beside the remains is well.
            host.podrun("create pod other").ok();
            fixture.run("other/b", "", "/probe say new").ok().prints("new");
            host.podrun("delete pod other").ok();
        }
        let once_more = ["delete pod web", "delete pod web --force", "delete pod web --time 0"][n];
        host.podrun(once_more).ok();
        fixture.expect_nothing_after_prune();
    });
}

#[test]
fn a_command_may_be_killed_whatever_it_asks() {
    try_each(COMMAND, |fixture, point, n| {
        let host = &fixture.host;
        fixture.pod("");
        let run = format!("run web/b -d --rootfs {} -- /probe sleep 600", fixture.root);
        if point.starts_with("heal.") {
            // A monitor that nobody starts anew.
            fixture.replace("pause");
            let monitor = fixture.part("monitor");
            host.kill(&monitor, libc::SIGKILL);
            eventually("it is dead", Duration::from_secs(5), || (!host.lives(&monitor)).then_some(()));
        }
        match (point, n) {
            ("heal.child", _) => drop(host.command(&run).env("PODRUN_FAULT", point).run()),
            ("command.log-made", _) | (_, 0) => fixture.dies(point, &run),
            (_, 1) => fixture.dies(point, "exec web/k -- /probe sleep 600"),
            _ => fixture.dies(point, "stop web -c k --time 0"),
        }
        if point == "command.asked" && n == 2 {
            fixture.expect_end("k", 137);
            host.podrun("start web -c k").ok();
        }
        fixture.expect_life();
        fixture.expect_nothing_after_delete();
    });
}

#[test]
fn whoever_starts_a_name_server_may_be_killed() {
    try_each(NAMES, |fixture, point, n| {
        let host = &fixture.host;
        let server = || host.podrun("network inspect bridge").json()["nameServer"]["pid"].clone();
        if n < 2 {
            // The first pod's command; another pod of the name takes its place.
            fixture.dies(point, "create pod web");
            if n == 1 {
                fixture.expect_nothing_after_prune();
            }
            fixture.pod("");
        } else {
            // A monitor whose server was killed: the next one looks for it, as it does for all else.
            fixture.pod("");
            let (before, monitor) = (server(), fixture.part("monitor"));
            fixture.wish(&[point]);
            host.kill(&before, libc::SIGKILL);
            fixture.expect_it_died();
            eventually("another monitor", Duration::from_secs(5), || {
                (fixture.part("monitor") != monitor).then_some(())
            });
            eventually("another server", Duration::from_secs(5), || {
                (server().is_i64() && server() != before).then_some(())
            });
        }
        fixture.run("web/b", "", "busybox nslookup web").ok();
        fixture.expect_life();
        fixture.expect_nothing_after_delete();
    });
}

#[test]
fn a_command_may_be_killed_while_it_connects_or_disconnects() {
    try_each(NETWORK, |fixture, point, n| {
        let host = &fixture.host;
        host.podrun("network create back").ok();
        fixture.pod(if point == "network.ports-moved" { "--publish 8080:80" } else { "" });
        // The last point is on both ways.
        if point == "network.ports-moved" {
            host.podrun("network connect back web").ok();
            fixture.dies(point, "network disconnect bridge web");
        } else if point == "network.disconnected" || (point == "network.recorded" && n == 1) {
            host.podrun("network connect back web").ok();
            fixture.dies(point, "network disconnect back web");
        } else {
            fixture.dies(point, "network connect back web");
        }
        match n {
            // The same once more, whatever was left.
            0 => {
                let on = host.inspect("web")["networks"].as_array().map_or(0, Vec::len);
                let verb = if on == 2 { "disconnect" } else { "connect" };
                host.podrun(format!("network {verb} back web")).ok();
            }
            1 => drop(host.podrun("network rm --force back").ok()),
            // Nobody says a name: what was begun is found all the same.
            _ => {
                let found = host.podrun("prune --force").ok().text().contains("half connection of web to back");
                assert_eq!(found, point == "network.connected");
            }
        }
        fixture.expect_life();
        fixture.expect_nothing_after_delete();
        let _ = host.podrun("network rm back");
    });
}

#[test]
fn a_command_may_be_killed_while_it_changes_ports() {
    try_each(UPDATE, |fixture, point, n| {
        let host = &fixture.host;
        fixture.pod("--publish 8080:80");
        fixture.run("web/server", "-d", "/probe listen 0.0.0.0:81 web").ok();
        let answers = || {
            let asked = host.program(format!("{} ask {}:8081", host.probe().display(), GATEWAY)).run();
            (asked.code() == 0).then_some(())
        };
        fixture.dies(point, "update pod web --unpublish 8080 --publish 8081:81");
        match n {
            // What is still to be done is asked for again, whether or not it was begun.
            0 => {
                host.podrun("update pod web --publish 8081:81").ok().prints("pod/web updated, 8081->81/tcp");
                eventually("the port leads there", Duration::from_secs(5), answers);
            }
            // A reload opens what was taken, and what was given up can be had by others.
            1 => {
                host.podrun("network reload").ok();
                host.podrun("create pod other --publish 8080:80").ok();
                host.podrun("delete pod other").ok();
                if point != "update.closed" {
                    eventually("the port leads there", Duration::from_secs(5), answers);
                }
            }
            _ => {}
        }
        fixture.expect_life();
        fixture.expect_nothing_after_delete();
        // Nobody has them any more.
        host.podrun("create pod other --publish 8080:80 --publish 8081:81").ok();
        host.podrun("delete pod other").ok();
        fixture.expect_nothing_after_prune();
    });
}

// A plugin holds something from ADD to DEL; whoever dies in between, DEL comes.
#[test]
fn a_command_may_be_killed_while_it_asks_plugins() {
    try_each(PLUGINS, |fixture, point, n| {
        let host = &fixture.host;
        let dir = host.fresh("cni");
        let held = dir.join("held");
        fs::create_dir_all(&held).unwrap();
        let script = format!(
            "#!/bin/sh\nfile={}/$CNI_CONTAINERID.$CNI_IFNAME\ncase $CNI_COMMAND in\nADD) [ -e $file ] && exit 9; touch $file\n\
             echo '{{\"ips\": [{{\"address\": \"10.7.0.9/24\"}}]}}' ;;\nDEL) rm -f $file ;;\nesac\n",
            held.display()
        );
        let plugin = dir.join("one");
        host.program("sh -c").args([format!("cat > {0} && chmod 755 {0}", plugin.display())]).stdin(script).run().ok();
        let chain = dir.join("net.conflist");
        fs::write(&chain, r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "one"}]}"#).unwrap();
        let podrun = |line: String| host.command(line).env("PODRUN_CNI_PATH", &dir);
        let dies = |line: String| {
            podrun(line).env("PODRUN_FAULT", point).run().fails(137);
        };
        let create = format!("create pod web --network cni:{}", chain.display());
        let connect = format!("network connect cni:{} web", chain.display());
        match (point, n) {
            ("cni.removed", 1) => {
                podrun(create).run().ok();
                dies("network disconnect cni:net web".to_owned());
                podrun("network disconnect cni:net web".to_owned()).run().ok();
            }
            ("cni.removed", _) => {
                podrun(create).run().ok();
                dies("delete pod web".to_owned());
            }
            (_, 0) => {
                dies(create.clone());
                // Whoever wants the name takes over, and gives back what was held.
                podrun(create).run().ok();
                assert_eq!(fs::read_dir(&held).unwrap().count(), 1);
            }
            (_, 1) => {
                podrun("create pod web --network none".to_owned()).run().ok();
                dies(connect.clone());
                podrun(connect).run().ok();
                assert_eq!(fs::read_dir(&held).unwrap().count(), 1);
            }
            _ => {
                dies(create);
                host.podrun("prune --force").ok();
                assert_eq!(fs::read_dir(&held).unwrap().count(), 0);
            }
        }
        host.podrun("delete pod web").ok();
        host.podrun("prune --force").ok();
        assert_eq!(fs::read_dir(&held).unwrap().count(), 0);
        assert!(!host.root().join("cni").exists());
    });
}

#[test]
fn a_command_may_be_killed_while_it_changes_peers() {
    try_each(PEERS, |fixture, point, n| {
        let host = &fixture.host;
        host.podrun("network create flat --driver vxlan --vni 7 --cluster-cidr 10.90.0.0/16 --subnet 10.90.1.0/24")
            .ok();
        fixture.pod("--network flat");
        let change = "network peer add flat 198.51.100.2=10.90.2.0/24";
        fixture.dies(point, change);
        // Asked for again, or told to look after itself.
        host.podrun(if n == 0 { change } else { "network reload" }).ok();
        let routes = host.program("ip route show 10.90.2.0/24").run().ok().text();
        assert!(routes.contains("dev vxlan-"), "{routes}");
        fixture.expect_life();
        fixture.expect_nothing_after_delete();
        host.podrun("network rm flat").ok();
    });
}

#[test]
fn whoever_changes_a_service_may_be_killed() {
    try_each(SERVICE, |fixture, point, n| {
        let host = &fixture.host;
        fixture.pod("");
        let rules = || host.program("nft list ruleset").run().ok().text();
        fixture.dies(point, "service create one --endpoint 192.0.2.7 --port 80");
        // The next change mends what is half done.
        match n {
            0 => drop(host.podrun("service create two --endpoint 192.0.2.8 --port 80").ok()),
            // The rules are put back, with what was to be in them.
            1 => drop(host.program("nft flush ruleset").run().ok()),
            _ => drop(host.podrun("service rm one").ok()),
        }
        eventually("the rules are as they should be", Duration::from_secs(5), || {
            (rules().contains("192.0.2.7") == (n < 2)).then_some(())
        });
        for name in ["one", "two"] {
            host.podrun(format!("service rm {name}"));
        }
        assert!(!rules().contains("10.96.0."), "{point}");
        fixture.expect_life();
        fixture.expect_nothing_after_delete();
    });
}

#[test]
fn a_monitor_may_be_killed_at_every_step_of_a_birth() {
    try_each(BIRTH, |fixture, point, _| {
        let host = &fixture.host;
        // The pod's /dev/shm is made for its first container.
        let first = point == "birth.memory-kept";
        match first {
            true => drop(host.podrun("create pod web").ok()),
            false => fixture.pod(""),
        }
        let program = "sh -c 'echo new; exit 3'";
        if point.starts_with("start.") {
            host.podrun(format!("create container web/b --rootfs {} {program}", fixture.root)).ok();
        }
        fixture.wish(&[point]);
        match point {
            "birth.terminal" => fixture.run("web/b", "-d -t", program).ok(),
            "birth.failed" => fixture.run("web/b", "", "/missing").fails(127),
            "birth.listener" => run_with_an_agent(host).fails(3).prints("new"),
            _ if point.starts_with("start.") => host.podrun("start web -c b").ok(),
            _ => fixture.run("web/b", "", program).fails(3).prints("new"),
        };
        fixture.expect_it_died();
        match point {
            "birth.failed" => assert_eq!(host.container("web", "b"), Value::Null),
            _ => fixture.expect_end("b", 3),
        }
        if first {
            fixture.fill();
        }
        fixture.expect_life();
        fixture.expect_nothing_after_delete();
    });
}

/// A bundle whose profile asks an agent. Whoever comes after the monitor does not know what that one told, and tells it again.
fn run_with_an_agent(host: &Host) -> Outcome {
    let path = host.fresh("agent");
    let agent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let bundle = host.bundle(|config| {
        let asks = json!([{ "names": ["swapon"], "action": "SCMP_ACT_NOTIFY" }]);
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "syscalls": asks});
        config["process"]["args"] = json!(["/bin/sh", "-c", "echo new; exit 3"]);
    });
    let told = std::thread::spawn(move || agent.incoming().take(2).collect::<Vec<_>>());
    let done = host.podrun(format!("run web/b --bundle {bundle}"));
    assert_eq!(told.join().unwrap().len(), 2);
    done
}

#[test]
fn a_monitor_may_be_killed_at_every_step_of_an_end() {
    try_each(END, |fixture, point, n| {
        let host = &fixture.host;
        fixture.pod("");
        fixture.wish(&[point]);
        let program = "sh -c 'echo new; exit 3'";
        let gone = || (host.container("web", "b") == Value::Null).then_some(());
        match (point.split_once('.').unwrap().0, n) {
            ("restart", _) => {
                fixture.run("web/b", "-d --restart on-failure --restart-backoff 50ms", program).ok();
                fixture.expect_it_died();
                let runs = || host.container("web", "b")["restarts"].as_i64().filter(|restarts| *restarts >= 2);
                eventually("it is started again", Duration::from_secs(10), runs);
                host.podrun("stop web -c b").ok();
            }
            // An end that was recorded is one that the policy must hear of.
            ("end", 1) => {
                fixture.run("web/b", "-d --restart on-failure --restart-backoff 50ms", program).ok();
                fixture.expect_it_died();
                let runs = || host.container("web", "b")["restarts"].as_i64().filter(|restarts| *restarts >= 1);
                eventually("it is started again", Duration::from_secs(10), runs);
                host.podrun("stop web -c b").ok();
            }
            ("end", 2) | ("erase", 1) => {
                fixture.run("web/b", "-d --rm", program).ok();
                eventually("it is removed", Duration::from_secs(10), gone);
            }
            ("erase", 2) => {
                fixture.run("web/b", "-d", "/probe sleep 600").ok();
                host.podrun("delete container web/b --force").ok();
                eventually("it is removed", Duration::from_secs(10), gone);
            }
            ("erase", _) => {
                fixture.run("web/b", "--rm", program).fails(3).prints("new");
                eventually("it is removed", Duration::from_secs(10), gone);
            }
            _ => {
                fixture.run("web/b", "", program).fails(3).prints("new");
                fixture.expect_end("b", 3);
            }
        }
        fixture.expect_it_died();
        fixture.expect_life();
        fixture.expect_nothing_after_delete();
    });
}

#[test]
fn a_monitor_may_be_killed_at_every_step_of_a_verb() {
    try_each(VERBS, |fixture, point, n| {
        let host = &fixture.host;
        fixture.pod("");
        fixture.run("web/b", "-d", "/probe stubborn").ok();
        fixture.wish(&[point]);
        match point.split_once('.').unwrap().0 {
            "stop" => {
                host.podrun("stop web -c b --time 1").ok();
                fixture.expect_end("b", 137);
            }
            "exec" => {
                // A limit has its own way to the end.
                let flag = ["", "--timeout 60s "][n % 2];
                let outcome = host.podrun(format!("exec {flag}web/k -- sh -c 'echo hi; exit 5'"));
                match outcome.code() {
                    // Born, and never let go: it has not run, and that is what is said.
                    125 if point == "exec.cloned" => outcome.prints("").says("never started"),
                    _ => outcome.fails(5).prints("hi"),
                };
            }
            _ => {
                host.podrun("pause web -c b").ok();
                assert_eq!(host.container("web", "b")["state"], "Paused");
                host.podrun("resume web -c b").ok();
                assert_eq!(host.container("web", "b")["state"], "Running");
            }
        }
        fixture.expect_it_died();
        fixture.expect_life();
        fixture.expect_nothing_after_delete();
    });
}

#[test]
fn those_who_keep_a_pod_may_be_killed_while_they_are_made() {
    try_each(KEEPERS, |fixture, point, _| {
        let host = &fixture.host;
        let before = if point.starts_with("init.") { "--share pid" } else { "" };
        if point.starts_with("init.") {
            fixture.wish(&[point]);
        }
        fixture.pod(before);
        let id = host.inspect("web")["id"].as_str().unwrap().to_owned();
        match point {
            "pump.forked" | "pump.kept" | "pump.told" | "pump.born" => {
                fixture.wish(&[point]);
                host.kill(&fixture.part("pump"), libc::SIGKILL);
            }
            "pause.gone" | "pause.waits" | "pause.recorded" | "pause.runs" => {
                fixture.wish(&[point]);
                host.kill(&fixture.part("pause"), libc::SIGKILL);
            }
            "upgrade.asked" => fixture.dies(point, "upgrade web"),
            "upgrade.newer" => {
                fixture.replace("pause");
                fixture.wish(&[point]);
                host.podrun("upgrade web");
            }
            "upgrade.kept" | "upgrade.told" => {
                fixture.wish(&[point]);
                host.podrun("upgrade web").ok();
            }
            _ if point.starts_with("init.") => {}
            _ => fixture.wish(&[point]),
        }
        fixture.expect_it_died();
        match point {
            // Both are dead, and nobody holds the pod: that it is lost is said, and nobody of it lives.
            "pause.gone" | "pause.waits" | "pause.recorded" => {
                fixture.expect_dead_keepers(&id);
                assert_eq!(host.inspect("web")["state"], "Lost");
            }
            _ => fixture.expect_life(),
        }
        fixture.expect_nothing_after_delete();
    });
}

#[test]
fn a_successor_may_be_killed_at_every_step_of_coming_up() {
    try_each(RECOVERY, |fixture, point, n| {
        let host = &fixture.host;
        fixture.pod("");
        match n {
            // One after the other dies at every point there is.
            2 => fixture.wish(&points(RECOVERY)),
            1 => fixture.wish(&[point, point]),
            _ => fixture.wish(&[point]),
        }
        if point == "recover.execs" || n == 1 {
            let mut running = host.command("exec web/k -- sh -c 'echo here; sleep 0.5; exit 4'").start();
            running.until_it_prints("here");
            host.kill(&fixture.part("monitor"), libc::SIGKILL);
            running.wait().fails(4);
        } else {
            host.kill(&fixture.part("monitor"), libc::SIGKILL);
        }
        fixture.expect_it_died();
        fixture.expect_life();
        fixture.expect_nothing_after_delete();
    });
}

/// Steele and Vigna's splitmix64, so that a failure can be had again by its seed.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

// Whoever makes, starts or deletes a container that is in no pod dies: it is whole, or `delete --force` finds all of it.
#[test]
fn podrun_oci_may_be_killed_at_every_step() {
    let fixture_bundle = |host: &Host| host.bundle(|config| config["process"]["args"] = json!(["sleep", "600"]));
    try_each(OCI, |fixture, point, _| {
        let host = &fixture.host;
        let bundle = fixture_bundle(host);
        let quiet = |line: String, point: &str| host.command(line).env("PODRUN_FAULT", point).without_stdio().run();
        match point {
            "oci.opened" | "oci.emptied" => {
                quiet(format!("oci create --bundle {bundle} one"), "").ok();
                let line = if point == "oci.opened" { "oci start one" } else { "oci delete --force one" };
                quiet(line.into(), point).fails(137);
            }
            _ => drop(quiet(format!("oci create --bundle {bundle} one"), point).fails(137)),
        }
        host.podrun("oci delete --force one").ok();
        host.expect_nothing_left(point);
    });
}

// issue 3: "the pod lives where the design says so", under load.
#[test]
fn pause_monitor_and_pump_may_be_killed_at_random_under_load() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = podrun_tests::many(10, 120);
    let mut seed = number("PODRUN_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("PODRUN_SEED={seed}");
    let fixture = Fixture::new();
    let host = &fixture.host;
    host.podrun("create pod web").ok();
    fixture.run("web/k", "-d", "/probe sleep 100000").ok();
    let script = format!("/probe count 1 {} 100; exit {CODE}", seconds * 4000);
    fixture.run("web/a", "-d", &format!("sh -c '{script}'")).ok();
    let storm = format!("i=0; while [ $i -lt {seconds} ]; do /probe out 2000000; sleep 0.4; i=$((i+1)); done; exit 9");
    fixture.run("web/s", "-d", &format!("sh -c '{storm}'")).ok();
    let start = Instant::now();
    let mut kills = [0; 3];
    while start.elapsed() < Duration::from_secs(seconds) {
        let which = usize::try_from(random(&mut seed) % 3).unwrap();
        let part = ["pause", "monitor", "pump"][which];
        let before = fixture.part(part);
        // One that was killed a moment ago may still be the one on record.
        let killed = host.program(format!("{} kill {before} {}", host.probe().display(), libc::SIGKILL)).run();
        if killed.code() != 0 {
            continue;
        }
        kills[which] += 1;
        // A second death beside the first is another promise: of pause and monitor at once the pod is lost. Whoever has
        // no pause that starts it anew is healed by a command.
        if part != "pump" {
            let well = || {
                let code = host.podrun("exec web/k -- /probe exit 5").code();
                let now = fixture.part(part);
                (code == 5 && now != before && host.lives(&now)).then_some(())
            };
            eventually(&format!("a new {part}"), Duration::from_secs(20), well);
        }
        std::thread::sleep(Duration::from_millis(random(&mut seed) % 60));
    }
    println!("{kills:?} kills of pause, monitor and pump in {seconds} s");
    for (name, code) in [("a", CODE), ("s", 9)] {
        let ended = eventually("it ends", Duration::from_secs(60 + seconds * 10), || {
            Some(host.container("web", name)).filter(|one| one["state"] == "Exited")
        });
        assert_eq!(ended["exitCode"], code, "{ended:#}");
        let path = PathBuf::from(ended["logPath"].as_str().unwrap());
        let found = joined(&cri_lines(&fs::read(path).unwrap()), "stdout");
        let once = host.program(format!("{} out 2000000", host.probe().display())).run().stdout;
        let right: Vec<u8> = match name {
            "a" => (1..=seconds * 4000).flat_map(|n| format!("line {n}\n").into_bytes()).collect(),
            _ => once.repeat(usize::try_from(seconds).unwrap()),
        };
        assert!(found == right, "the log of {name}: {} bytes, not {}", found.len(), right.len());
    }
    fixture.expect_nothing_after_delete();
}
