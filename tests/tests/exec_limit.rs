//! `podrun exec --timeout`: the program and all that it started end together. pitfalls.md 6.

use nix::mount::{MntFlags, umount2};
use podrun_tests::{Host, Outcome, eventually, patience};
use std::time::Duration;

/// A program with a child in its own session, one that has lost its parent, and their children.
const CROWD: &str = "(setsid sh -c \"sleep 300 & sleep 301\" &); setsid setsid sleep 302 & echo begun; ";

/// More of them than can be killed one after the other while the rest goes on: each round makes two that outlive it.
const FORKS: &str = "while :; do (setsid sleep 300 &); setsid sleep 301 & done";

fn with_a(host: Host) -> Host {
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    host
}

fn is_killed(outcome: &Outcome) {
    outcome.fails(124).with_one_line().says("exec in a: not over within").within(Duration::from_secs(5));
}

/// `podrun` asks whoever the pod belongs to.
fn nobody_outlives_an_exec(podrun: &dyn Fn(&str) -> Outcome) {
    let alone = |after: &str| {
        let left = podrun("top web -o json").ok().json();
        assert_eq!(left.as_array().expect("a list").len(), 1, "after {after}: {left}");
    };
    let brief = format!("exec --timeout {}ms", patience(Duration::from_millis(300)).as_millis());
    is_killed(podrun(&format!("{brief} web/a -- sh -c '{CROWD} sleep 303'")).prints("begun"));
    alone("a limit that was too short");
    podrun(&format!("exec --timeout 60s web/a -- sh -c '{CROWD} exit 3'")).fails(3).prints("begun").says_nothing();
    alone("its own end");
    is_killed(&podrun(&format!("{brief} web/a -- sh -c '{FORKS}'")));
    alone("a program that starts others without end");
    is_killed(&podrun(&format!("{brief} -t web/a -- sleep 303")));
    alone("a terminal");
    podrun("exec --timeout 60s web/a -- nosuch").fails(127);
    alone("what never ran");
    podrun("exec web/a -- sh -c 'sleep 303 > /dev/null 2>&1 & exit 0'").ok();
    podrun("top web").ok().prints_something_like("sleep 303");
}

// cri.md, ExecSync: "timeout => DeadlineExceeded and process gone *and reaped* before return".
#[test]
fn nobody_outlives_an_exec_with_a_time_limit() {
    let host = with_a(Host::new());
    nobody_outlives_an_exec(&|line| host.podrun(line));
}

#[test]
fn nobody_outlives_it_where_cgroup_v2_is_all_there_is() {
    let host = with_a(Host::on_cgroup2());
    nobody_outlives_an_exec(&|line| host.podrun(line));
}

#[test]
fn nobody_outlives_it_where_there_is_cgroup_v1_alone() {
    let host = Host::new();
    if host.inside(|| umount2("/sys/fs/cgroup/unified", MntFlags::MNT_DETACH)).is_err() {
        podrun_tests::skip!("this host's cgroups are not hybrid");
    }
    let host = with_a(host);
    nobody_outlives_an_exec(&|line| host.podrun(line));
}

// A cgroup namespace is what tells them from the others there.
#[test]
fn nobody_outlives_it_where_a_user_has_no_cgroup() {
    let host = Host::new();
    let [alice] = host.users(["alice"]);
    alice.podrun("create pod web --network none").ok();
    alice.start("web/a", "", "/probe sleep 600");
    nobody_outlives_an_exec(&|line| alice.podrun(line));
    alice.podrun("delete pod web --force").ok();
    eventually("nobody is left", Duration::from_secs(10), || alice.processes().is_empty().then_some(()));
}

#[test]
fn a_limit_holds_whoever_is_killed_meanwhile() {
    let host = with_a(Host::new());
    for parts in [&["monitor"][..], &["pause"], &["pump", "monitor"]] {
        let line = format!("exec --timeout 2s web/a -- sh -c '{CROWD} sleep 303'");
        let mut running = host.command(line).start();
        running.until_it_prints("begun");
        let pod = host.inspect("web");
        parts.iter().for_each(|part| host.kill(&pod[part]["pid"], libc::SIGKILL));
        is_killed(&running.wait());
        host.podrun("top web").ok().does_not_print("sleep 30");
    }
    let mut client = host.command(format!("exec --timeout 2s web/a -- sh -c '{CROWD} sleep 303'")).start();
    client.until_it_prints("begun");
    client.signal(libc::SIGKILL);
    client.wait();
    eventually("they are killed", Duration::from_secs(5), || {
        (!host.podrun("top web").text().contains("sleep 30")).then_some(())
    });
}

#[test]
fn a_limit_ends_an_exec_of_a_paused_container_and_0_is_none() {
    let host = with_a(Host::new());
    let running = host
        .command(format!("exec --timeout {}ms web/a -- sleep 303", patience(Duration::from_secs(1)).as_millis()))
        .start();
    eventually("it runs", Duration::from_secs(5), || host.podrun("top web").text().contains("sleep 303").then_some(()));
    host.podrun("pause web/a").ok();
    is_killed(&running.wait());
    host.podrun("resume web/a").ok();
    host.podrun("exec --timeout 0 web/a -- sleep 0.2").ok();
    host.podrun("exec --timeout -1 web/a -- true").fails(2);
}
