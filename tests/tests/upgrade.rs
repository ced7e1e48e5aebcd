//! Two builds with records of different formats, one after the other, in both directions. docs/decisions/0013.

use podrun_tests::{Host, Value, cri_lines, eventually, joined, json, later_binary, podrun_binary, skip};
use std::path::PathBuf;
use std::time::Duration;

/// The format of this build's records, and of the one that is built with the feature `later-format`.
const NOW: u32 = 4;
const LATER: u32 = 5;

/// What must not change, whoever serves the pod.
fn facts(host: &Host) -> Value {
    let pod = host.inspect("web");
    let containers = pod["containers"].as_array().unwrap().iter();
    let of = |one: &Value, keys: &[&str]| keys.iter().map(|key| one[*key].clone()).collect::<Vec<_>>();
    let kept = ["name", "id", "pid", "state", "exitCode", "reason", "restarts", "startedAt", "finishedAt", "logPath"];
    json!([containers.map(|one| of(one, &kept)).collect::<Vec<_>>(), pod["network"], pod["pause"], pod["state"]])
}

/// Replaces the monitor by one of this build.
fn upgrade(host: &Host, to: PathBuf, format: u32) {
    let before = facts(host);
    host.install(to);
    host.podrun("upgrade web").ok();
    eventually("the other build serves", Duration::from_secs(5), || {
        (record(host, "monitor")["version"] == format).then_some(())
    });
    assert_eq!(facts(host), before, "after the upgrade to format {format}");
}

fn path(host: &Host, name: &str) -> PathBuf {
    let pod = std::fs::read_link(host.run_root().join("names/default_web")).unwrap();
    pod.join(format!("{name}.json"))
}

fn record(host: &Host, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(host, name)).unwrap()).unwrap()
}

fn change(host: &Host, name: &str, change: impl FnOnce(&mut Value)) {
    let mut record = record(host, name);
    change(&mut record);
    std::fs::write(path(host, name), record.to_string()).unwrap();
}

/// Containers in every state that one may be in when its monitor is replaced.
fn fill(host: &Host) {
    host.pod("web");
    let counts = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";
    host.start("web/counts", "", &format!("sh -c '{counts}'"));
    host.start("web/terminal", "-t", "/probe sleep 600");
    host.start("web/paused", "", "/probe sleep 600");
    host.podrun("pause web -c paused").ok();
    host.podrun(format!("create container web/created --rootfs {} -- /probe sleep 600", host.rootfs())).ok();
    host.run("web/ended", "", "sh -c 'exit 3'").fails(3);
    host.start(
        "web/again",
        "--restart always --restart-backoff 50ms",
        "sh -c 'kill -0 1; [ -e /x ] && exec sleep 600; >/x'",
    );
    eventually("it has been restarted", Duration::from_secs(10), || {
        let again = host.container("web", "again");
        (again["restarts"] == 1 && again["state"] == "Running").then_some(())
    });
}

#[test]
fn an_upgrade_between_two_formats_and_back_keeps_every_container() {
    let Some(later) = later_binary() else { skip!("there is no cargo to make a build of another format with") };
    let host = Host::new();
    let now = podrun_binary();
    fill(&host);
    let mut exec = host.command("exec web/terminal -- sh -c 'echo here; sleep 4; exit 5'").start();
    exec.until_it_prints("here");
    upgrade(&host, later, LATER);
    host.start("web/new", "", "/probe sleep 600");
    let new = record(&host, "containers/new");
    assert_eq!((&new["version"], &new["ofALaterBuild"]), (&json!(LATER), &json!(1)), "{new:#}");
    upgrade(&host, now, NOW);
    host.kill(&host.inspect("web")["monitor"]["pid"], libc::SIGKILL);
    host.podrun("exec web/new -- /probe say fine").ok().prints("fine");
    assert_eq!(record(&host, "monitor")["version"], NOW);
    assert_eq!(exec.wait().code(), 5);
    host.podrun("resume web -c paused").ok();
    host.podrun("start web -c created").ok();
    for name in ["counts", "terminal", "paused", "created", "again", "new"] {
        host.podrun(format!("kill web -c {name}")).ok();
    }
    for name in ["counts", "terminal", "paused", "created", "new"] {
        let ended = host.until("web", name, "Exited");
        assert_eq!((&ended["exitCode"], &ended["restarts"]), (&json!(137), &json!(0)), "{ended:#}");
    }
    assert_eq!(record(&host, "containers/new")["version"], NOW);
    let log = std::fs::read(host.container("web", "counts")["logPath"].as_str().unwrap()).unwrap();
    let counted = String::from_utf8(joined(&cri_lines(&log), "stdout")).unwrap();
    assert!(
        counted.lines().zip(1..).all(|(line, n)| line == n.to_string()),
        "numbers are missing or doubled: {counted}"
    );
}

#[test]
fn a_record_of_an_unknown_format_is_refused_and_nothing_is_lost() {
    for name in ["pod", "monitor"] {
        let host = Host::new();
        host.pod("web");
        host.start("web/a", "", "/probe sleep 600");
        let (before, was) = (facts(&host), record(&host, name)["version"].clone());
        let pid = host.container("web", "a")["pid"].clone();
        change(&host, name, |record| (record["version"], record["readableSince"]) = (json!(99), json!(99)));
        let lines = ["inspect web", "exec web/a -- /probe", "stop web", "logs web", "upgrade web", "delete pod web"];
        for line in lines {
            let told = host.podrun(line);
            assert_ne!(told.code(), 0, "{name}: {line}");
            told.says("it is of a later podrun: format 99").says("hint: use the podrun that wrote it").with_one_line();
        }
        host.podrun("prune --force").ok();
        host.podrun("get pods").ok();
        host.podrun("create pod web").fails(1).says("a pod of this name is there");
        host.pod("other");
        assert!(host.lives(&pid), "{name}");
        change(&host, name, |record| (record["version"], record["readableSince"]) = (was.clone(), was));
        assert_eq!(facts(&host), before, "{name}");
        host.podrun("exec web/a -- /probe say fine").ok().prints("fine");
        change(&host, name, |record| (record["version"], record["readableSince"]) = (json!(99), json!(99)));
        host.podrun("delete pod web --force").ok();
        assert!(!host.lives(&pid), "{name}");
    }
}

// Killing what it does not know would be the easy thing for a monitor that comes up.
#[test]
fn a_monitor_that_does_not_know_a_record_touches_no_container() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    let (pid, monitor) = (host.container("web", "a")["pid"].clone(), host.inspect("web")["monitor"]["pid"].clone());
    change(&host, "containers/a", |record| (record["version"], record["readableSince"]) = (json!(99), json!(99)));
    host.kill(&monitor, libc::SIGKILL);
    let words = path(&host, "monitor").with_file_name("monitor.error");
    let words = eventually("it says why", Duration::from_secs(5), || std::fs::read_to_string(&words).ok());
    assert!(words.contains("containers/a.json: it is of a later podrun"), "{words}");
    assert!(host.lives(&pid));
    for line in ["exec web/a -- /probe", "stop web", "upgrade web"] {
        host.podrun(line).says("it is of a later podrun: format 99").with_one_line().within(Duration::from_secs(5));
    }
    host.podrun("doctor").fails(1).prints_something_like("it is of a later podrun: format 99");
    change(&host, "containers/a", |record| (record["version"], record["readableSince"]) = (json!(1), json!(1)));
    host.podrun("exec web/a -- /probe say fine").ok().prints("fine").within(Duration::from_secs(15));
    assert_eq!(host.container("web", "a")["pid"], pid);
}

// A build that was put in the place of one that knew more gives it back.
#[test]
fn a_build_that_knows_less_gives_way_to_the_one_that_made_the_pod() {
    let Some(later) = later_binary() else { skip!("there is no cargo to make a build of another format with") };
    let host = Host::new();
    host.install(later.clone());
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    let pid = host.container("web", "a")["pid"].clone();
    upgrade(&host, podrun_binary(), NOW);
    change(&host, "containers/a", |record| (record["version"], record["readableSince"]) = (json!(LATER), json!(LATER)));
    host.kill(&host.inspect("web")["monitor"]["pid"], libc::SIGKILL);
    eventually("the maker serves again", Duration::from_secs(5), || {
        (record(&host, "monitor")["version"] == LATER).then_some(())
    });
    host.podrun("exec web/a -- /probe").fails(125).says(&format!("it is of a later podrun: format {LATER}"));
    host.install(later);
    assert_eq!(host.container("web", "a")["pid"], pid);
    host.podrun("exec web/a -- /probe say fine").ok().prints("fine");
}
