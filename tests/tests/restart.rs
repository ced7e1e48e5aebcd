//! Restart policies: who comes back, when, and who does not.

use podrun_tests::{Host, eventually};
use std::time::{Duration, Instant};

/// The start of the back-off, made short.
const QUICK: &str = "--restart-backoff 50ms";

fn pod() -> Host {
    let host = Host::new();
    host.pod("web");
    host
}

fn restarts(host: &Host) -> u64 {
    host.container("web", "a")["restarts"].as_u64().unwrap()
}

#[track_caller]
fn until_restarted(host: &Host, times: u64) {
    eventually(&format!("{times} restarts"), Duration::from_secs(20), || (restarts(host) >= times).then_some(()));
}

// design.md: "Restart policy: `never` on the command line".
#[test]
fn by_default_nothing_comes_back() {
    let host = pod();
    host.start("web/a", "", "/probe exit 1");
    host.until("web", "a", "Exited");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(restarts(&host), 0);
    assert_eq!(host.container("web", "a")["state"], "Exited");
}

#[test]
fn always_comes_back_whatever_the_code() {
    let host = pod();
    host.start("web/a", &format!("--restart always {QUICK}"), "/probe exit 0");
    until_restarted(&host, 3);
}

#[test]
fn on_failure_comes_back_after_a_failure_only() {
    let host = pod();
    host.start("web/a", &format!("--restart on-failure {QUICK}"), "/probe exit 3");
    until_restarted(&host, 2);
    host.podrun("delete pod web --force").ok();
    host.pod("web");
    host.start("web/a", &format!("--restart on-failure {QUICK}"), "/probe exit 0");
    host.until("web", "a", "Exited");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(restarts(&host), 0);
}

// pitfalls.md 26: "crash loop for 60 s -> <= 4 starts with default backoff"; kubelet: 10 s, doubling.
#[test]
fn the_default_back_off_starts_at_ten_seconds() {
    let host = pod();
    host.start("web/a", "--restart always", "/probe exit 1");
    host.until("web", "a", "Restarting");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(restarts(&host), 0);
    assert_eq!(host.container("web", "a")["state"], "Restarting");
}

#[test]
fn the_back_off_doubles() {
    let host = pod();
    let start = Instant::now();
    host.start("web/a", "--restart always --restart-backoff 200ms", "/probe exit 1");
    // 200 + 400 + 800 ms at the least.
    until_restarted(&host, 3);
    assert!(start.elapsed() >= Duration::from_millis(1300), "{:?}", start.elapsed());
}

// pitfalls.md 26: "intent=stopped wins over policy"; "`stop` during backoff ends it".
#[test]
fn stop_wins_over_the_policy() {
    let host = pod();
    host.start("web/a", &format!("--restart always {QUICK}"), "/probe sleep 60");
    host.podrun("stop web -c a --time 0").ok();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(host.container("web", "a")["state"], "Exited");
    assert_eq!(restarts(&host), 0);
}

#[test]
fn stop_during_the_back_off_ends_it() {
    let host = pod();
    host.start("web/a", "--restart always --restart-backoff 1s", "/probe exit 1");
    host.until("web", "a", "Restarting");
    host.podrun("stop web -c a").ok().within(Duration::from_secs(3));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(host.container("web", "a")["state"], "Exited");
    assert_eq!(restarts(&host), 0);
}

// k8s: a container that is killed from outside comes back too; and as OOM, by the code.
#[test]
fn what_was_killed_from_outside_comes_back() {
    let host = pod();
    host.start("web/a", &format!("--restart on-failure {QUICK}"), "/probe sleep 60");
    let first = host.container("web", "a")["pid"].clone();
    host.kill(&first, libc::SIGKILL);
    until_restarted(&host, 1);
    let second = host.until("web", "a", "Running")["pid"].clone();
    assert_ne!(first, second);
}

// pitfalls.md 9: "any member restarts in the same netns", and nobody else notices.
#[test]
fn a_restart_keeps_the_namespaces_and_the_address_and_the_others() {
    let host = pod();
    host.start("web/a", &format!("--restart always {QUICK}"), "/probe exit 1");
    host.start("web/b", "", "/probe sleep 60");
    let before = host.inspect("web");
    until_restarted(&host, 3);
    let after = host.inspect("web");
    assert_eq!(after["network"], before["network"]);
    let inode =
        |pod: &podrun_tests::Value| host.outside(pod["namespaces"]["net"].as_str().unwrap()).read_link().unwrap();
    assert_eq!(inode(&after), inode(&before));
    assert_eq!(host.container("web", "b")["restarts"], 0);
}

// Kubernetes: each run has its own log, numbered by the restart.
#[test]
fn each_run_has_its_own_log() {
    let host = pod();
    host.start("web/a", &format!("--restart always {QUICK}"), "sh -c 'echo here; exit 1'");
    until_restarted(&host, 2);
    let path = host.container("web", "a")["logPath"].as_str().unwrap().to_owned();
    assert!(!path.ends_with("/0.log"), "{path}");
    host.podrun("logs web/a --previous").ok().prints("here");
}

// pitfalls.md 22: following survives restarts by policy, and ends when none is to come.
#[test]
fn following_survives_restarts() {
    let host = pod();
    let shared = host.fresh("shared");
    std::fs::create_dir(&shared).unwrap();
    // Fails twice, then succeeds.
    let script = "sh -c 'echo x >> /s/n; echo run $(wc -l < /s/n); sleep 0.2; test $(wc -l < /s/n) -ge 3'";
    host.start("web/a", &format!("--restart on-failure {QUICK} -v {}:/s", shared.display()), script);
    host.podrun("logs web/a -f").ok().prints("run 1\nrun 2\nrun 3");
    assert_eq!(host.container("web", "a")["exitCode"], 0);
}

#[test]
fn a_policy_that_does_not_exist_is_a_usage_error() {
    let host = pod();
    host.run("web/a", "--restart sometimes", "/probe").fails(2).says("sometimes");
}
