//! The life of a pod: made, found, shown, deleted; its name, and what is said about names.

use podrun_tests::{Host, Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

// design.md: "`create pod` and `run -d` say what was made, with the pod's address".
#[test]
fn create_pod_says_the_name_and_the_address() {
    let host = Host::new();
    let made = host.podrun("create pod web");
    let address = host.inspect("web")["network"]["ip"][0].as_str().unwrap().to_owned();
    made.ok().prints_something_like("web").prints_something_like(&address);
}

// design.md: "`-o name|json` for scripts".
#[test]
fn a_script_gets_the_name_or_json() {
    let host = Host::new();
    let named = host.podrun("create pod one -o name");
    assert!(["one\n", "pod/one\n"].contains(&named.ok().text().as_str()), "{:?}", named.text());
    let told = host.podrun("create pod two -o json").json();
    assert_eq!(told["id"], host.inspect("two")["id"]);
}

// design.md: "`podrun inspect POD` holds at least: …".
#[test]
fn inspect_tells_everything_about_a_pod() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 60");
    let pod = host.inspect("web");
    for path in [
        "/id",
        "/name",
        "/state",
        "/createdAt",
        "/hostname",
        "/network/mode",
        "/network/interface",
        "/network/ip/0",
        "/network/gateway",
        "/network/mac",
        "/namespaces/net",
        "/namespaces/uts",
        "/namespaces/ipc",
        "/pause/pid",
        "/monitor/pid",
        "/pump/pid",
        "/containers/0/name",
        "/containers/0/id",
        "/containers/0/pid",
        "/containers/0/state",
        "/containers/0/startedAt",
        "/containers/0/restarts",
        "/containers/0/logPath",
        "/containers/0/cgroup",
    ] {
        assert!(pod.pointer(path).is_some_and(|found| !found.is_null()), "{path} is missing in {pod:#}");
    }
    let expected = json!(["web", "Ready", "web", "bridge", "Running"]);
    let found =
        json!([pod["name"], pod["state"], pod["hostname"], pod["network"]["mode"], pod["containers"][0]["state"]]);
    assert_eq!(found, expected);
    assert_eq!(pod["id"].as_str().unwrap().len(), 32);
}

// design.md, inspect: "namespaces{net, uts, ipc, pid → "path"}"; they are the pod's own, and not the host's.
#[test]
fn the_namespaces_of_inspect_are_those_of_the_containers() {
    let host = Host::new();
    host.pod("web");
    let facts = host.run("web/a", "", "/probe").facts();
    let pod = host.inspect("web");
    for kind in ["net", "uts", "ipc"] {
        let path = pod["namespaces"][kind].as_str().unwrap();
        let link = std::fs::read_link(host.outside(path)).unwrap_or_else(|err| panic!("{path}: {err}"));
        assert_eq!(json!(link), facts["namespaces"][kind]);
    }
}

// design.md, inspect of a container: "exitCode, reason, startedAt, finishedAt".
#[test]
fn inspect_of_a_container_tells_how_it_ended() {
    let host = Host::new();
    host.pod("web");
    host.run("web/good", "", "/probe exit 0").ok();
    host.run("web/bad", "", "/probe exit 3").fails(3);
    let (good, bad) = (host.inspect("web/good"), host.inspect("web/bad"));
    assert_eq!(json!([good["state"], good["exitCode"], good["reason"]]), json!(["Exited", 0, "Completed"]));
    assert_eq!(json!([bad["state"], bad["exitCode"], bad["reason"]]), json!(["Exited", 3, "Error"]));
    assert!(bad["finishedAt"].as_str() >= bad["startedAt"].as_str(), "{bad:#}");
}

// pitfalls.md 33: pause is inside podrun: no image, no helper on PATH.
#[test]
fn a_pod_needs_no_image_and_no_path() {
    let host = Host::new();
    host.command("create pod web --network none").env("PATH", "/nonexistent").run().ok();
    assert_eq!(host.inspect("web")["state"], "Ready");
}

// CRI, StopPodSandbox and RemovePodSandbox: idempotent; invariant 5: "`delete` works after any crash, and twice".
#[test]
fn deleting_a_pod_twice_is_fine() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 60");
    host.podrun("delete pod web --force").ok();
    host.podrun("delete pod web --force").ok();
    host.podrun("inspect web").fails(1).with_one_line();
}

#[test]
fn several_pods_are_deleted_at_once() {
    let host = Host::new();
    ["one", "two", "three"].iter().for_each(|name| host.pod(name));
    host.podrun("delete pod one two --force").ok();
    host.podrun("inspect one").fails(1);
    host.podrun("inspect three").ok();
}

// pitfalls.md 25: "pause-only pod stops in < 50 ms" (here with the start of the program and a busy machine on top).
#[test]
fn an_empty_pod_is_deleted_at_once() {
    let host = Host::new();
    host.pod("web");
    host.podrun("delete pod web").ok().within(Duration::from_millis(800));
}

#[test]
fn a_name_is_free_again_after_delete() {
    let host = Host::new();
    host.pod("web");
    let first = host.inspect("web")["id"].clone();
    host.podrun("delete pod web").ok();
    host.pod("web");
    assert_ne!(host.inspect("web")["id"], first);
}

// Issue 3, bad input: "a name in use".
#[test]
fn a_name_in_use_is_refused_and_the_pod_stays() {
    let host = Host::new();
    host.pod("web");
    let before = host.inspect("web");
    host.podrun("create pod web").fails(1).with_one_line().says("web");
    assert_eq!(host.inspect("web")["id"], before["id"]);
    assert_eq!(host.inspect("web")["pause"], before["pause"]);
}

// pitfalls.md 11: one of many that ask at once gets the name; the others are told, and nothing of theirs stays.
#[test]
fn a_name_asked_for_by_ten_at_once_goes_to_one() {
    let host = Host::new();
    let all: Vec<_> = (0..10).map(|_| host.command("create pod web").start()).collect();
    let codes: Vec<_> = all.into_iter().map(|one| one.wait().code()).collect();
    assert_eq!(codes.iter().filter(|&&code| code == 0).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| [0, 1].contains(code)), "{codes:?}");
    assert_eq!(std::fs::read_dir(host.run_root().join("pods")).unwrap().count(), 1);
}

// Issue 3, bad input: "a name that is not an RFC 1123 label".
#[test]
fn a_name_that_is_no_label_is_a_usage_error() {
    let host = Host::new();
    for name in ["Web", "we_b", "web.", "-web", "web-", "a/b/c", "..", "ä", &"x".repeat(64), "''"] {
        let said = host.podrun(format!("create pod -- {name}"));
        said.fails(2).with_one_line();
    }
    host.podrun(format!("create pod {}", "x".repeat(63))).ok();
}

// Issue 3, bad input: "a pod or container that does not exist (with the names that do, when close)".
#[test]
fn a_pod_that_does_not_exist_is_told_with_the_names_that_are_near() {
    let host = Host::new();
    host.pod("frontend");
    host.start("frontend/nginx", "", "/probe sleep 60");
    host.podrun("inspect fronted").fails(1).with_one_line().says("frontend");
    host.podrun("logs frontend -c ngins").fails(1).with_one_line().says("nginx");
    host.podrun("exec fronted -- /probe").fails(125).with_one_line().says("frontend");
    host.podrun("stop zzz").fails(1).with_one_line().does_not_say("frontend");
}

// design.md: "`-n NAMESPACE` (default `default`) names Kubernetes' kind of namespace".
#[test]
fn two_namespaces_may_have_a_pod_of_the_same_name() {
    let host = Host::new();
    host.pod("web");
    host.podrun("-n other create pod web").ok();
    let (here, there) = (host.inspect("web"), host.podrun("inspect -n other web").json());
    assert_ne!(here["id"], there["id"]);
    host.podrun("-n other delete pod web").ok();
    assert_eq!(host.inspect("web")["id"], here["id"]);
}

// design.md: "Flags may stand before and after names; `POD/NAME` and `POD -c NAME` are the same everywhere".
#[test]
fn flags_stand_before_and_after_names() {
    let host = Host::new();
    host.podrun("create pod --hostname h1 one").ok();
    host.podrun("create pod two --hostname h2").ok();
    assert_eq!(json!([host.inspect("one")["hostname"], host.inspect("two")["hostname"]]), json!(["h1", "h2"]));
    host.start("one/a", "", "/probe sleep 60");
    for line in ["exec one -c a -- /probe say hi", "exec one/a -- /probe say hi", "exec -c a one -- /probe say hi"] {
        host.podrun(line).ok().prints("hi");
    }
    host.podrun("exec one/a /probe say hi").ok().prints("hi");
}

// design.md: "podrun [--root DIR] [--run-root DIR] … (also PODRUN_ROOT, PODRUN_RUN_ROOT)".
#[test]
fn roots_are_given_by_flag_or_by_environment() {
    let host = Host::new();
    let (root, run) = (host.root(), host.run_root());
    let flags = format!("--root {} --run-root {} create pod web", root.display(), run.display());
    host.command(flags).env("PODRUN_ROOT", "/nonexistent").env("PODRUN_RUN_ROOT", "/nonexistent").run().ok();
    assert_eq!(host.inspect("web")["name"], "web");
}

// design.md: "What another run-root made is never touched".
#[test]
fn another_run_root_is_another_world() {
    let host = Host::new();
    host.pod("web");
    let elsewhere = host.fresh("elsewhere");
    let there = |line: &str| {
        let run = elsewhere.join("run");
        host.command(line).env("PODRUN_RUN_ROOT", run).env("PODRUN_ROOT", elsewhere.join("root")).run()
    };
    there("inspect web").fails(1);
    there("create pod web").ok();
    assert_ne!(there("inspect web").json()["id"], host.inspect("web")["id"]);
    there("delete pod web --force").ok();
    there("prune --force").ok();
    assert_eq!(host.inspect("web")["state"], "Ready");
    assert_eq!(host.run("web/a", "", "/probe say alive").ok().text(), "alive\n");
}

// CVE-2024-25621: state directories of containerd could be entered by everybody.
#[test]
fn nobody_else_can_read_what_podrun_keeps() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe say hello");
    let listed = host.program(format!("find {0}/run {0}/root -perm /o+w ! -type l", host.dir().display())).run();
    listed.ok().prints("");
    // Sockets, records and logs: behind a directory that others cannot enter.
    let reachable = format!("find {0}/run/pods {0}/root -maxdepth 0 -perm /o+rx", host.dir().display());
    host.program(reachable).run().ok().prints("");
}

// The same, "also when dirs pre-exist with wrong mode".
#[test]
fn a_state_directory_that_is_open_to_all_is_closed() {
    let host = Host::new();
    host.program(format!("mkdir -p -m 777 {0}/run {0}/run/pods {0}/root", host.dir().display())).run().ok();
    host.pod("web");
    host.program(format!("find {0}/run/pods {0}/root -maxdepth 0 -perm /o+rwx", host.dir().display()))
        .run()
        .ok()
        .prints("");
}

#[test]
fn ids_addresses_and_macs_are_unique() {
    let host = Host::new();
    ["a", "b", "c"].iter().for_each(|name| host.pod(name));
    let pods = ["a", "b", "c"].map(|name| host.inspect(name));
    for path in ["/id", "/network/ip/0", "/network/mac"] {
        let values: BTreeSet<_> = pods.iter().map(|pod| pod.pointer(path).map(Value::to_string)).collect();
        assert_eq!(values.len(), 3, "{path}: {values:?}");
    }
}

// pitfalls.md 18: no bind mount of a namespace anywhere; the harness compares the host's mounts at the end.
#[test]
fn a_pod_adds_no_mount_to_the_host() {
    let host = Host::new();
    let before = host.read("/proc/1/mountinfo");
    host.pod("web");
    host.start("web/a", "-v /mnt:/mnt", "/probe sleep 60");
    assert_eq!(host.read("/proc/1/mountinfo"), before);
}

// pitfalls.md 19 and R4: a record from before a reboot names pids that are somebody else's now.
#[test]
fn after_a_reboot_nothing_of_the_old_pods_is_in_the_way() {
    let host = Host::new();
    host.podrun("create pod web --volume data").ok();
    host.start("web/a", "-v data:/data", "sh -c 'echo hello > /data/x; echo hello'");
    let pod = host.inspect("web");
    let pids: Vec<_> = ["pause", "monitor", "pump"].iter().map(|part| pod[part]["pid"].to_string()).collect();
    // All at once, or one of them would heal the others.
    host.program(format!("sh -c 'kill -STOP {0}; kill -KILL {0}'", pids.join(" "))).run().ok();
    // A reboot empties the run-root and leaves the root.
    std::fs::remove_dir_all(host.run_root()).unwrap();
    // … and the kernel forgets what podrun had set.
    host.program("sysctl -qw net.ipv4.conf.default.forwarding=0").run().ok();
    host.pod("web");
    assert_ne!(host.inspect("web")["id"], pod["id"]);
    host.run("web/b", "", "/probe say again").ok().prints("again");
    let id = pod["id"].as_str().unwrap();
    for dir in ["log/pods", "volumes"] {
        let left = std::fs::read_dir(host.root().join(dir)).into_iter().flatten().flatten();
        let old: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().contains(id)).collect();
        assert!(old.is_empty(), "{old:?}");
    }
}
