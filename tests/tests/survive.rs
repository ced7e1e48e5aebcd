//! Any one may die; the pod lives. design.md, processes 3 to 6; pitfalls.md 7 and 10.

#![allow(clippy::print_stdout, reason = "what a long run measured is said on the test's own output")]

use podrun_tests::{HOUR, Host, Value, cri_lines, eventually, joined, many};
use std::time::{Duration, Instant};

const PARTS: [&str; 3] = ["pause", "monitor", "pump"];

fn pid(host: &Host, part: &str) -> Value {
    host.inspect("web")[part]["pid"].clone()
}

/// Kills one of podrun's own processes with -9 and waits for its successor, without a podrun command that could help.
fn kill(host: &Host, part: &str) {
    let before = kill_only(host, part);
    eventually(&format!("a new {part}"), Duration::from_secs(5), || {
        let now = host.podrun("inspect web");
        let now = serde_json::from_slice::<Value>(&now.stdout).ok()?[part]["pid"].clone();
        (now != before && host.lives(&now)).then_some(())
    });
}

fn kill_only(host: &Host, part: &str) -> Value {
    let before = pid(host, part);
    host.kill(&before, libc::SIGKILL);
    eventually(&format!("{part} is dead"), Duration::from_secs(2), || (!host.lives(&before)).then_some(()));
    before
}

#[test]
fn each_part_may_be_killed_and_no_container_notices() {
    for part in PARTS {
        let host = Host::new();
        host.pod("web");
        host.start("web/a", "", &format!("/probe trap {} 7", libc::SIGUSR1));
        let before = host.inspect("web");
        kill(&host, part);
        let after = host.inspect("web");
        assert_eq!(after["containers"][0]["pid"], before["containers"][0]["pid"], "{part}");
        assert_eq!(after["network"], before["network"], "{part}");
        assert_eq!(after["state"], "Ready", "{part}");
        host.podrun("exec web/a -- /probe say fine").ok().prints("fine");
        host.podrun("kill web -c a -s USR1").ok();
        assert_eq!(host.until("web", "a", "Exited")["exitCode"], 7, "{part}");
        host.run("web/b", "", "/probe say new").ok().prints("new");
    }
}

// design.md, processes 4: after a death of pause "a death of the monitor is healed by the next podrun command".
#[test]
fn each_part_may_be_killed_again_and_again() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    let before = host.container("web", "a")["pid"].clone();
    for _ in 0..3 {
        for part in PARTS {
            let dead = kill_only(&host, part);
            host.podrun("exec web/a -- /probe say fine").ok().prints("fine");
            eventually(part, Duration::from_secs(5), || (pid(&host, part) != dead).then_some(()));
        }
    }
    assert_eq!(host.container("web", "a")["pid"], before);
    host.podrun("exec web/a -- /probe say fine").ok().prints("fine");
}

// The same, and what comes next is not a use but the end.
#[test]
fn a_pod_that_lost_pause_and_then_its_monitor_can_be_deleted() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    kill(&host, "pause");
    kill_only(&host, "monitor");
    host.podrun("delete pod web --force").ok().within(Duration::from_secs(10));
}

// "without a podrun command typed": the log shows that the pod went on by itself.
#[test]
fn a_monitor_comes_back_without_a_command() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "--restart always --restart-backoff 200ms", "sh -c 'echo run; sleep 0.3; exit 1'");
    let monitor = pid(&host, "monitor");
    let path = host.container("web", "a")["logPath"].as_str().unwrap().to_owned();
    let logs = std::path::Path::new(&path).parent().unwrap().to_owned();
    let count = || std::fs::read_dir(&logs).map_or(0, Iterator::count);
    host.kill(&monitor, libc::SIGKILL);
    eventually("runs go on", Duration::from_secs(10), || (count() >= 2).then_some(()));
}

// An exit while nobody watched: pause keeps the status, so it is neither lost nor guessed.
#[test]
fn an_exit_in_the_moment_of_the_monitors_death_keeps_its_code() {
    for round in 0..5 {
        let host = Host::new();
        host.pod("web");
        host.start("web/a", "", &format!("/probe trap {} 9", libc::SIGUSR1));
        eventually("it is ready", Duration::from_secs(5), || {
            host.podrun("logs web/a").text().contains("ready").then_some(())
        });
        let (monitor, a) = (pid(&host, "monitor"), host.container("web", "a")["pid"].clone());
        let line = format!("sh -c 'kill -STOP {monitor}; kill -USR1 {a}; sleep 0.05; kill -KILL {monitor}'");
        host.program(line).run().ok();
        let ended = host.until("web", "a", "Exited");
        assert_eq!(ended["exitCode"], 9, "round {round}: {ended:#}");
    }
}

// design.md, processes 6: "The pump loses and doubles no byte, kill -9 or not".
#[test]
fn no_byte_is_lost_or_doubled_when_the_pump_is_killed_under_load() {
    killed_under_load("pump");
}

#[test]
fn no_byte_is_lost_or_doubled_when_the_monitor_is_killed_under_load() {
    killed_under_load("monitor");
}

#[test]
fn no_byte_is_lost_or_doubled_when_pause_is_killed_under_load() {
    killed_under_load("pause");
}

// Issue 3: "a 200 MB log compared byte for byte with what was written, across rotations, killed monitors and killed pumps".
#[test]
fn a_big_log_is_whole_across_rotations_and_killed_monitors_and_pumps() {
    const PIECE: usize = 2_000_000;
    let host = Host::new();
    host.pod("web");
    let pieces = many(5, 100);
    let script = format!("i=0; while [ $i -lt {pieces} ]; do /probe out {PIECE}; sleep 0.1; i=$((i+1)); done");
    host.start("web/a", "--log-max-size 1m --log-max-files 100000", &format!("sh -c '{script}'"));
    let follower = host.command("logs web/a -f").limit(HOUR).start();
    let (mut kills, mut last) = (0, Instant::now());
    while host.container("web", "a")["state"] != "Exited" {
        // A monitor that lived less than a second is started with a back-off, which would make this long.
        let part = if last.elapsed() < Duration::from_millis(1200) { "pump" } else { "monitor" };
        kill(&host, part);
        if part == "monitor" {
            last = Instant::now();
        }
        kills += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(host.container("web", "a")["exitCode"], 0);
    let once = host.program(format!("{} out {PIECE}", host.probe().display())).run().stdout;
    let is_whole = |what: &str, bytes: &[u8]| {
        assert_eq!(bytes.len(), pieces * PIECE, "{what}");
        assert!(bytes.chunks(PIECE).all(|piece| piece == once), "{what}: the bytes differ");
    };
    is_whole("logs -f", &follower.wait().ok().stdout);
    is_whole("logs", &host.command("logs web/a").limit(HOUR).run().ok().stdout);
    let path = host.container("web", "a")["logPath"].as_str().unwrap().to_owned();
    let files = std::fs::read_dir(std::path::Path::new(&path).parent().unwrap()).unwrap().flatten();
    let (mut bytes, mut count) = (0, 0);
    for file in files {
        let lines = cri_lines(&std::fs::read(file.path()).unwrap());
        assert!(lines.is_sorted_by_key(|line| line.time.clone()), "the times of {:?} run backwards", file.path());
        bytes += joined(&lines, "stdout").len();
        count += 1;
    }
    assert_eq!(bytes, pieces * PIECE);
    println!("{bytes} bytes in {count} files, {kills} kills");
}

fn killed_under_load(part: &str) {
    let host = Host::new();
    host.pod("web");
    let script = "i=0; while [ $i -lt 12 ]; do /probe out 2000000; sleep 0.1; i=$((i+1)); done";
    host.start("web/a", "", &format!("sh -c '{script}'"));
    for _ in 0..4 {
        kill(&host, part);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(host.until("web", "a", "Exited")["exitCode"], 0);
    let path = host.container("web", "a")["logPath"].as_str().unwrap().to_owned();
    let found = joined(&cri_lines(&std::fs::read(path).unwrap()), "stdout");
    let once = host.program(format!("{} out 2000000", host.probe().display())).run().stdout;
    assert_eq!(found.len(), once.len() * 12);
    assert!(found.chunks(once.len()).all(|chunk| chunk == once), "the bytes differ");
}

// The client of an exec sees the monitor go; it must end, with an error of podrun's or the right code, and never hang.
#[test]
fn an_exec_that_loses_its_monitor_ends() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    let mut running =
        host.command("exec web/a -- sh -c 'echo here; sleep 1; exit 4'").limit(Duration::from_secs(15)).start();
    running.until_it_prints("here");
    host.kill(&pid(&host, "monitor"), libc::SIGKILL);
    let code = running.wait().code();
    assert!([4, 125].contains(&code), "{code}");
}

// The same for run, whose exit code is still the workload's.
#[test]
fn a_run_that_loses_its_monitor_ends_with_the_right_code() {
    let host = Host::new();
    host.pod("web");
    let mut running =
        host.running("web/a", "", "sh -c 'echo here; sleep 1; exit 4'").limit(Duration::from_secs(15)).start();
    running.until_it_prints("here");
    host.kill(&pid(&host, "monitor"), libc::SIGKILL);
    let code = running.wait().code();
    assert!([4, 125].contains(&code), "{code}");
    assert_eq!(host.until("web", "a", "Exited")["exitCode"], 4);
}

// design.md, processes 4: "If both die at once … the pod is `Lost`, with the reason, and nothing is left."
#[test]
fn when_pause_and_monitor_die_at_once_the_pod_is_lost_and_can_be_deleted() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    let pod = host.inspect("web");
    let (pause, monitor, a) = (&pod["pause"]["pid"], &pod["monitor"]["pid"], &pod["containers"][0]["pid"]);
    host.program(format!("sh -c 'kill -STOP {monitor} {pause}; kill -KILL {monitor} {pause}'")).run().ok();
    eventually("it is said", Duration::from_secs(5), || (host.inspect("web")["state"] == "Lost").then_some(()));
    eventually("the container is gone", Duration::from_secs(5), || (!host.lives(a)).then_some(()));
    host.podrun("get pods").ok().prints_something_like("Lost");
    host.podrun("delete pod web").ok().within(Duration::from_secs(10));
}

// pitfalls.md 1: "for each of {kill -9 pause, …}: stop && rm exit 0 in < 10 s, second call exit 0, no residue".
#[test]
fn a_pod_whose_every_process_was_killed_can_be_deleted() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    let pod = host.inspect("web");
    let pids: Vec<String> = PARTS
        .iter()
        .map(|part| pod[part]["pid"].to_string())
        .chain([pod["containers"][0]["pid"].to_string()])
        .collect();
    host.program(format!("sh -c 'kill -STOP {0}; kill -KILL {0}'", pids.join(" "))).run().ok();
    host.podrun("stop web --time 0").ok();
    host.podrun("delete pod web").ok().within(Duration::from_secs(10));
    host.podrun("delete pod web").ok();
}

// pitfalls.md 3: records that are damaged do not stop the others, and are removed.
#[test]
fn a_damaged_record_harms_no_other_pod_and_can_be_deleted() {
    let host = Host::new();
    host.pod("web");
    host.pod("other");
    let id = host.inspect("web")["id"].as_str().unwrap().to_owned();
    std::fs::write(host.run_root().join("pods").join(id).join("pod.json"), "{\"half").unwrap();
    host.podrun("get pods").ok().prints_something_like("other");
    host.podrun("ps").ok();
    host.podrun("delete pod web --force").ok();
    host.podrun("get pods").ok().does_not_print("web");
    assert_eq!(host.inspect("other")["state"], "Ready");
}

// A monitor that dies whenever it comes up: its door is open, and nobody answers.
#[test]
fn a_pod_whose_monitors_keep_dying_says_so_and_can_be_deleted() {
    let host = Host::with_faults();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    std::fs::write(host.run_root().join("fault"), "recover.home\n".repeat(100)).unwrap();
    kill_only(&host, "monitor");
    let running = [
        host.command("exec web/a -- /probe").start(),
        host.running("web/b", "", "/probe").start(),
        host.command("stop web --time 0").start(),
    ];
    for one in running {
        one.wait().says("it keeps dying").with_one_line();
    }
    host.podrun("delete pod web --force").ok().within(Duration::from_secs(5));
    std::fs::remove_file(host.run_root().join("fault")).unwrap();
}

// Issue 3, 5: "`podrun upgrade` replaces a monitor live".
#[test]
fn upgrade_replaces_the_monitor_live() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", &format!("/probe trap {} 7", libc::SIGUSR1));
    let before = host.inspect("web");
    host.podrun("upgrade web").ok();
    let after = eventually("a new monitor", Duration::from_secs(5), || {
        let now = host.inspect("web");
        (now["monitor"]["pid"] != before["monitor"]["pid"]).then_some(now)
    });
    assert_eq!(after["containers"][0]["pid"], before["containers"][0]["pid"]);
    assert_eq!(after["pause"], before["pause"]);
    host.podrun("exec web/a -- /probe say fine").ok().prints("fine");
    host.podrun("kill web -c a -s USR1").ok();
    assert_eq!(host.until("web", "a", "Exited")["exitCode"], 7);
}

// The pause that a monitor made starts nobody: the successor takes the monitor's place, as the same process.
#[test]
fn upgrade_works_where_the_monitor_has_made_a_new_pause() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    kill(&host, "pause");
    let before = host.inspect("web");
    for _ in 0..2 {
        host.podrun("upgrade web")
            .ok()
            .prints(&format!("pod/web upgraded: monitor {} goes on as the new program", before["monitor"]["pid"]));
        host.podrun("exec web/a -- /probe say fine").ok().prints("fine");
    }
    assert_eq!(host.inspect("web")["containers"][0]["pid"], before["containers"][0]["pid"]);
}

#[test]
fn upgrade_all_takes_every_pod() {
    let host = Host::new();
    host.pod("one");
    host.pod("two");
    let before = ["one", "two"].map(|name| host.inspect(name)["monitor"]["pid"].clone());
    host.podrun("upgrade --all").ok();
    for (name, old) in ["one", "two"].into_iter().zip(before) {
        eventually("a new monitor", Duration::from_secs(5), || {
            (host.inspect(name)["monitor"]["pid"] != old).then_some(())
        });
    }
}

// A monitor that is replaced forgets neither policy nor back-off nor what it was asked.
#[test]
fn a_new_monitor_knows_what_the_old_one_was_asked() {
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "--restart always --restart-backoff 100ms", "/probe sleep 600");
    host.start("web/b", "--restart always --restart-backoff 100ms", "/probe sleep 600");
    host.podrun("stop web -c b --time 0").ok();
    kill(&host, "monitor");
    host.kill(&host.container("web", "a")["pid"], libc::SIGKILL);
    eventually("a is back", Duration::from_secs(5), || (host.container("web", "a")["restarts"] == 1).then_some(()));
    assert_eq!(host.container("web", "b")["state"], "Exited");
}

// pitfalls.md 19 and R4: a process is (pid, start time, pidfd), never a pid: runc PR#1934, and many after it.
#[test]
fn a_pid_that_is_somebody_elses_now_gets_no_signal_and_no_exec() {
    const LAST: &str = "/proc/sys/kernel/ns_last_pid";
    if !std::path::Path::new(LAST).exists() {
        podrun_tests::skip!("this kernel does not let a pid be chosen");
    }
    let host = Host::new();
    host.pod("web");
    host.start("web/a", "", "/probe sleep 600");
    let pod = host.inspect("web");
    let pids: Vec<i64> = PARTS
        .iter()
        .map(|part| &pod[part]["pid"])
        .chain([&pod["containers"][0]["pid"]])
        .map(|pid| pid.as_i64().unwrap())
        .collect();
    let list = pids.iter().map(i64::to_string).collect::<Vec<_>>().join(" ");
    host.program(format!("sh -c 'kill -STOP {list}; kill -KILL {list}'")).run().ok();
    eventually("all are gone", Duration::from_secs(5), || {
        (!pids.iter().any(|pid| host.lives(&Value::from(*pid)))).then_some(())
    });
    // A number stays taken while it is somebody's session or group; so whichever can be had.
    let stranger = |pid: &i64| {
        let line = format!("sh -c 'echo {} > {LAST}; sleep 100 & echo $!'", pid - 1);
        host.program(line).pipes_may_stay_held().run().ok().text().trim().parse::<i64>().unwrap()
    };
    let strangers: Vec<_> = pids.iter().map(stranger).collect();
    let list = strangers.iter().map(i64::to_string).collect::<Vec<_>>().join(" ");
    let pids: Vec<_> = pids.into_iter().filter(|pid| strangers.contains(pid)).collect();
    assert!(!pids.is_empty(), "no pid could be had again");
    for line in [
        "kill web -c a",
        "exec web/a -- /probe",
        "stop web --time 0",
        "inspect web",
        "delete pod web --force",
        "prune --force",
    ] {
        host.podrun(line);
        let dead = pids.iter().find(|pid| !host.lives(&Value::from(**pid)));
        assert_eq!(dead, None, "a stranger was killed by: podrun {line}");
    }
    host.program(format!("sh -c 'kill -KILL {list}'")).run().ok();
}
