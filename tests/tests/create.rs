//! Creates that fail at any of their steps, creates that are stuck, and many creates beside each other.

use podrun::fault::POINTS;
use podrun_tests::{Host, Running, Value, eventually};
use std::path::Path;
use std::time::{Duration, Instant};

fn points() -> impl Iterator<Item = &'static str> {
    POINTS.iter().copied().filter(|point| point.starts_with("create-pod."))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect()
}

/// All of a pod's that can be anywhere; the bridge and what else belongs to no single pod aside.
fn residue(host: &Host) -> Vec<String> {
    let run = host.run_root();
    let mut found: Vec<String> =
        ["pods", "names", "leases/bridge", "ports"].iter().flat_map(|dir| names(&run.join(dir))).collect();
    found.extend(names(&run).into_iter().filter(|name| name.starts_with("pause.")));
    found.extend(names(&host.root().join("volumes")));
    let trees = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|tree| tree.path());
    let tops = trees.map(|tree| tree.join(host.cgroup_name()));
    let pods = tops.flat_map(|top| std::fs::read_dir(top).into_iter().flatten().flatten());
    // That of name servers is of all pods.
    let pods = pods.filter(|entry| entry.path().is_dir() && entry.file_name() != "_names");
    found.extend(pods.map(|entry| entry.path().display().to_string()));
    let links = host.program("ip -o link show type veth").run().ok().text();
    found.extend(links.lines().map(str::to_owned));
    found.extend(
        host.processes().lines().filter(|line| line.contains(" pause ") || line.contains("monitor")).map(str::to_owned),
    );
    found
}

// pitfalls.md 12: "fail at step k for every k; before/after snapshot identical".
#[test]
fn a_create_that_fails_at_any_step_leaves_nothing() {
    let host = Host::with_faults();
    let create = "create pod web --volume data --publish 8080:80";
    for point in points() {
        // Each makes the network and the program of pause anew.
        host.podrun("prune --force").ok();
        let failed = host.command(create).env("PODRUN_FAULT", format!("fail:{point}")).run();
        failed.fails(1).with_one_line();
        eventually(&format!("nothing is left after {point}: {:?}", residue(&host)), Duration::from_secs(2), || {
            residue(&host).is_empty().then_some(())
        });
        host.podrun(create).ok();
        host.podrun("delete pod web").ok();
    }
    host.podrun("prune --force").ok();
    host.expect_nothing_left("creates that failed");
}

fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

fn stuck<'h>(host: &'h Host, point: &str) -> Running<'h> {
    let one = host.command("create pod stuck --publish 8080:80").env("PODRUN_FAULT", format!("stop:{point}")).start();
    eventually(&format!("it is stuck at {point}"), Duration::from_secs(5), || is_stopped(one.pid()).then_some(()));
    one
}

/// The quickest of a few: a machine that does something else must not fail the test.
fn quickest(host: &Host, line: &str) -> Duration {
    (0..9).map(|_| host.podrun(line).ok().took).min().expect("there are some")
}

/// 20 ms, or what a busy machine takes anyway, and some more.
fn expect_quick(host: &Host, idle: Duration, point: &str) {
    let limit = Duration::from_millis(20).max(idle * 3);
    for line in ["ps", "get pods"] {
        let took = quickest(host, line);
        assert!(took < limit, "{line} took {took:?}, not {idle:?}, while a create was stuck at {point}");
    }
}

// pitfalls.md 37: one create that hangs must not make a whole host hang.
#[test]
fn while_a_create_is_stuck_everything_else_goes_on() {
    // Its own child stops there, and the network's first pod alone makes the network, for which all others wait.
    let alone = ["create-pod.pause-ready", "create-pod.bridged", "create-pod.opened-outside"];
    let host = Host::with_faults();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    let idle = quickest(&host, "ps");
    for point in points().filter(|point| !alone.contains(point)) {
        if point == "create-pod.pause-staged" {
            std::fs::remove_file(host.run_root().join("pause")).expect("the program of pause is there");
        }
        let one = stuck(&host, point);
        expect_quick(&host, idle, point);
        host.podrun("exec web/a -- /probe say fine").ok().prints("fine");
        host.podrun("create pod other").ok();
        host.podrun("delete pod other").ok();
        one.signal(libc::SIGCONT);
        one.wait().ok();
        host.podrun("delete pod stuck").ok();
    }
}

// The same for the one who makes the network: what needs none of it goes on.
#[test]
fn while_the_network_is_being_made_lists_are_answered() {
    for point in ["create-pod.bridged", "create-pod.opened-outside"] {
        let host = Host::with_faults();
        host.podrun("create pod web --network none").ok();
        host.start("web/a", "", "/probe sleep 600");
        let idle = quickest(&host, "ps");
        let one = stuck(&host, point);
        expect_quick(&host, idle, point);
        host.podrun("create pod other --network none").ok();
        one.signal(libc::SIGCONT);
        one.wait().ok();
    }
}

// pitfalls.md 37 asks for less than five times one, which takes more processors than a test may count on. What holds on any
// number of them: nobody waits for another one's wait, and the crowd itself costs little.
#[test]
fn sixty_four_creates_beside_each_other_cost_no_more_than_one_after_another() {
    let host = Host::new();
    host.pod("first");
    let create = |name: String| host.command(format!("create pod {name}")).limit(Duration::from_secs(60)).start();
    let after_another = Instant::now();
    for n in 0..16 {
        create(format!("one{n}")).wait().ok();
    }
    let after_another = after_another.elapsed() * 4;
    let beside = Instant::now();
    let all: Vec<_> = (0..64).map(|n| create(format!("all{n}"))).collect();
    for one in all {
        one.wait().ok();
    }
    let beside = beside.elapsed();
    assert!(beside < after_another * 2, "64 beside each other: {beside:?}, one after another: {after_another:?}");
    let pods = host.podrun("get pods -o json").json();
    let count = pods["items"].as_array().map_or(0, Vec::len);
    assert_eq!((count, &pods["kind"]), (81, &Value::from("PodList")));
}
