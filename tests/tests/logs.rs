//! `podrun logs`: every byte that a container wrote, once, in order, in the format of CRI.

#![allow(clippy::print_stdout, reason = "what a long run measured is said on the test's own output")]

use podrun_tests::{HOUR, Host, LogLine, cri_lines, eventually, joined, many};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn log_path(host: &Host, container: &str) -> PathBuf {
    PathBuf::from(host.container("web", container)["logPath"].as_str().unwrap())
}

#[track_caller]
fn log(host: &Host, container: &str) -> Vec<LogLine> {
    cri_lines(&std::fs::read(log_path(host, container)).unwrap())
}

/// All files of a container's log, the oldest first.
fn log_files(host: &Host, container: &str) -> Vec<PathBuf> {
    let current = log_path(host, container);
    let dir = current.parent().unwrap();
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).collect();
    let age = |path: &Path| path.metadata().unwrap().modified().unwrap();
    files.sort_by_key(|path| (path == &current, age(path), path.clone()));
    files
}

fn pod() -> Host {
    let host = Host::new();
    host.pod("web");
    host
}

// CRI, "ContainerLogs": `<RFC3339Nano> <stream> <P|F> <text>`; design.md, on disk: kubelet's own layout.
#[test]
fn the_log_file_is_where_kubelet_has_it_and_in_its_format() {
    let host = pod();
    host.run("web/a", "", "/probe say to-stdout to-stderr").ok();
    let lines = log(&host, "a");
    let told: Vec<_> =
        lines.iter().map(|line| (line.stream.as_str(), line.tag.as_str(), line.text.as_slice())).collect();
    assert!(
        told.contains(&("stdout", "F", b"to-stdout")) && told.contains(&("stderr", "F", b"to-stderr")),
        "{lines:?}"
    );
    let id = host.inspect("web")["id"].as_str().unwrap().to_owned();
    let expected = host.root().join("log/pods").join(format!("default_web_{id}")).join("a/0.log");
    assert_eq!(log_path(&host, "a"), expected);
}

// pitfalls.md 21: "at EOF the last piece is written as F; NUL and invalid UTF-8 bytes preserved".
#[test]
fn bytes_of_every_kind_come_back_as_they_were() {
    let host = pod();
    let cases = [
        ("no-newline", r"printf 'end'", b"end".to_vec()),
        ("nul", r"printf 'a\000b\n'", b"a\0b\n".to_vec()),
        ("not-utf8", r"printf '\377\376\200\n'", b"\xff\xfe\x80\n".to_vec()),
        ("empty-lines", r"printf '\n\n\nx\n\n'", b"\n\n\nx\n\n".to_vec()),
        ("carriage", r"printf 'a\r\nb\r\n'", b"a\r\nb\r\n".to_vec()),
        ("nothing", "true", Vec::new()),
    ];
    for (name, script, expected) in cases {
        let script = host.rootfs().executable("go", format!("#!/bin/sh\n{script}\n"));
        host.podrun(format!("run web/{name} --rootfs {script} -- /go")).ok();
        let mut whole = joined(&log(&host, name), "stdout");
        // A last line without its newline is F too, so that shippers show it.
        if !expected.ends_with(b"\n") && whole.ends_with(b"\n") {
            whole.pop();
        }
        assert_eq!(whole, expected, "{name}");
    }
}

// Issue 3, 5: "lines over 16 KiB as P/F"; containerd's TestLongContainerLog.
#[test]
fn a_line_over_16_kib_is_cut_into_partial_ones_and_whole_again_when_joined() {
    let host = pod();
    for (name, length) in [("a", 16_383), ("b", 16_384), ("c", 16_385), ("d", 100_000)] {
        let script = format!("head -c {length} /dev/zero | tr '\\\\000' x; echo");
        host.run(&format!("web/{name}"), "", &format!("sh -c \"{script}\"")).ok();
        let lines = log(&host, name);
        assert!(lines.iter().all(|line| line.text.len() <= 16_384), "{name}");
        let tags: String = lines.iter().map(|line| line.tag.as_str()).collect();
        assert!(tags.trim_start_matches('P') == "F", "{name}: {tags}");
        assert_eq!(joined(&lines, "stdout").len(), length + 1, "{name}");
    }
}

// Short form of "a 200 MB log compared byte for byte".
#[test]
fn a_big_log_is_the_same_byte_for_byte() {
    let host = pod();
    host.start("web/a", "", "/probe out 20000000");
    host.until("web", "a", "Exited");
    let expected = host.program(format!("{} out 20000000", host.probe().display())).run().stdout;
    let mut found = joined(&log(&host, "a"), "stdout");
    found.truncate(expected.len().max(found.len().saturating_sub(1)));
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "the bytes differ");
}

#[test]
fn logs_shows_what_was_written() {
    let host = pod();
    host.run("web/a", "", "/probe count 1 5").ok();
    host.podrun("logs web -c a").ok().prints("line 1\nline 2\nline 3\nline 4\nline 5");
    host.podrun("logs web/a").ok().prints("line 1\nline 2\nline 3\nline 4\nline 5");
}

#[test]
fn tail_shows_the_last_lines() {
    let host = pod();
    host.run("web/a", "", "/probe count 1 5000").ok();
    host.podrun("logs web/a --tail 2").ok().prints("line 4999\nline 5000");
    host.podrun("logs web/a --tail 0").ok().prints("");
    assert_eq!(host.podrun("logs web/a --tail 9999").ok().text().lines().count(), 5000);
    for all in ["-1", "all"] {
        assert_eq!(host.podrun(format!("logs web/a --tail {all}")).ok().text().lines().count(), 5000);
    }
    host.podrun("logs web/a --tail x").fails(2).with_one_line();
}

// design.md: "--since T", "--until T", "--timestamps": a duration or an RFC 3339 time, as kubectl and docker have it.
#[test]
fn since_and_until_choose_by_time() {
    let host = pod();
    host.run("web/a", "", "sh -c 'echo early; sleep 1.2; echo late'").ok();
    host.podrun("logs web/a --since 1h").ok().prints("early\nlate");
    let stamped = host.podrun("logs web/a --timestamps").ok().text();
    let times: Vec<_> = stamped.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!((times[0].1, times[1].1), ("early", "late"));
    host.podrun(format!("logs web/a --since {}", times[1].0)).ok().prints("late");
    host.podrun(format!("logs web/a --until {}", times[0].0)).ok().prints("early");
    std::thread::sleep(Duration::from_millis(1100));
    host.podrun("logs web/a --since 1s").ok().prints("");
    host.podrun("logs web/a --since yesterday-ish").fails(2).with_one_line();
}

// design.md: "without -c: all, prefixed".
#[test]
fn without_a_name_all_containers_are_shown_with_theirs() {
    let host = pod();
    host.run("web/one", "", "/probe say hello").ok();
    host.run("web/two", "", "/probe say world").ok();
    let text = host.podrun("logs web").ok().text();
    let line =
        |word: &str| text.lines().find(|line| line.ends_with(word)).unwrap_or_else(|| panic!("{text}")).to_owned();
    assert!(line("hello").contains("one") && line("world").contains("two"), "{text}");
}

// pitfalls.md 22: "follow ends when the container has ended for good and is drained".
#[test]
fn follow_ends_with_the_container() {
    let host = pod();
    host.start("web/a", "", "/probe count 1 300 2000");
    let out = host.podrun("logs web/a -f");
    let lines: Vec<_> = (1..=300).map(|n| format!("line {n}")).collect();
    out.ok().prints(&lines.join("\n"));
}

#[test]
fn follow_of_what_has_ended_shows_all_and_ends() {
    let host = pod();
    host.run("web/a", "", "/probe count 1 3").ok();
    host.podrun("logs web/a -f").ok().prints("line 1\nline 2\nline 3").within(Duration::from_secs(3));
    host.podrun("logs web/a -f --tail 1").ok().prints("line 3");
}

#[test]
fn a_line_is_followed_while_its_container_runs() {
    let host = pod();
    host.start("web/a", "-i", "/probe sleep 60");
    let mut following = host.command("logs web/a -f").start();
    host.podrun("exec web/a -- sh -c 'echo through > /proc/1/fd/1'").ok();
    following.until_it_prints("through");
    host.podrun("kill web -c a").ok();
    following.wait().ok();
}

// podman#13267: `pod logs -f` misses containers that come later.
#[test]
fn follow_of_a_pod_shows_later_containers_too() {
    let host = pod();
    host.start("web/a", "", "sh -c 'echo first; exec sleep 60'");
    let mut following = host.command("logs web -f").start();
    following.until_it_prints("first");
    host.start("web/b", "", "sh -c 'echo second; exec sleep 60'");
    following.until_it_prints("second");
    host.podrun("delete pod web --force").ok();
    following.wait();
}

// pitfalls.md, more: "`podrun logs -f` or `exec` ends with \"broken pipe\" noise".
#[test]
fn a_reader_that_leaves_makes_no_noise() {
    let host = pod();
    host.run("web/a", "", "/probe count 1 100000").ok();
    let line = format!("{} logs web/a | head -n 1", host.podrun_path().display());
    host.program(format!("sh -c '{line}'")).run().ok().prints("line 1").says_nothing();
}

// Issue 3, 5: "rotation by size at record boundaries (`--log-max-size`, `--log-max-files`)"; pitfalls.md 20.
#[test]
fn rotation_keeps_whole_records_and_no_more_files_than_asked() {
    let host = pod();
    host.start("web/a", "--log-max-size 20k --log-max-files 3", "/probe count 1 5000");
    host.until("web", "a", "Exited");
    let files = log_files(&host, "a");
    assert!((2..=3).contains(&files.len()), "{files:?}");
    let mut all = Vec::new();
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        assert!(bytes.len() <= 20 * 1024 + 200, "{}: {}", file.display(), bytes.len());
        let lines = cri_lines(&bytes);
        assert!(lines.last().is_none_or(|line| line.tag == "F"), "{}", file.display());
        all.extend(lines);
    }
    let numbers: Vec<u32> = all.iter().map(|line| String::from_utf8_lossy(&line.text)[5..].parse().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&5000));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "a line is lost or doubled");
}

#[test]
fn with_files_enough_rotation_loses_nothing_and_logs_shows_all() {
    let host = pod();
    host.start("web/a", "--log-max-size 50k --log-max-files 100", "/probe count 1 20000");
    host.until("web", "a", "Exited");
    assert!(log_files(&host, "a").len() > 5);
    let expected: String = (1..=20000).map(|n| format!("line {n}\n")).collect();
    assert!(host.podrun("logs web/a").ok().text() == expected, "logs is not what was written");
    host.podrun("logs web/a --tail 3000").ok().prints_something_like("line 17001\nline 17002\n");
}

// k8s#126564: `logs -f` stops after rotation.
#[test]
fn following_survives_rotation_and_sees_each_line_once() {
    let host = pod();
    host.start("web/a", "--log-max-size 10k --log-max-files 50", "sh -c 'sleep 0.3; exec /probe count 1 8000 50'");
    let following: Vec<_> = (0..3).map(|_| host.command("logs web/a -f").start()).collect();
    let expected: String = (1..=8000).map(|n| format!("line {n}\n")).collect();
    for follower in following {
        let out = follower.wait();
        assert!(out.ok().text() == expected, "{} lines", out.text().lines().count());
    }
}

// design.md: "--previous"; kubectl's word.
#[test]
fn previous_shows_the_run_before_the_restart() {
    let host = pod();
    host.start("web/a", "", "sh -c 'echo run $(cat /proc/uptime); exec sleep 60'");
    eventually("the first line", Duration::from_secs(5), || {
        (!host.podrun("logs web/a").stdout.is_empty()).then_some(())
    });
    let first = host.podrun("logs web/a").ok().text();
    host.podrun("restart web -c a --time 0").ok();
    eventually("the second run", Duration::from_secs(5), || {
        let now = host.podrun("logs web/a").text();
        (!now.is_empty() && now != first).then_some(())
    });
    assert_eq!(host.podrun("logs web/a --previous").ok().text(), first);
    assert!(!host.podrun("logs web/a").ok().text().contains(&first));
}

#[test]
fn previous_of_what_never_ran_before_is_told() {
    let host = pod();
    host.run("web/a", "", "/probe say hi").ok();
    host.podrun("logs web/a --previous").fails(1).with_one_line();
}

// containerd#12462, R7: "on a full disk or an I/O error the workload goes on".
#[test]
fn on_a_full_disk_the_workload_goes_on_and_the_loss_is_told() {
    let host = Host::new();
    host.small_disk(&host.root(), "size=2m");
    host.pod("web");
    let shared = host.fresh("shared");
    std::fs::create_dir(&shared).unwrap();
    host.start("web/a", &format!("-v {}:/beat", shared.display()), "/probe heartbeat /beat/now");
    let beat = || std::fs::read_to_string(shared.join("now")).ok().and_then(|text| text.parse::<u64>().ok());
    let log = log_path(&host, "a");
    eventually("the disk is full", Duration::from_secs(60), || {
        let filler = host.outside(host.root().join("filler"));
        (std::fs::write(&filler, vec![0; 1 << 20]).is_err() || std::fs::write(filler, vec![0; 2 << 20]).is_err())
            .then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    let then = beat().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(beat().unwrap() > then + 20, "the workload stands still");
    // list, stop, logs and exec work without a free byte.
    host.podrun("ps").ok();
    host.podrun("exec web/a -- /probe say hi").ok().prints("hi");
    eventually("the loss is told of the container", Duration::from_secs(60), || {
        let told = host.container("web", "a");
        let why = told["warnings"].to_string().contains("the log could not be written: No space left on device");
        (why && told["lostLogBytes"].as_u64()? > 0).then_some(())
    });
    std::fs::remove_file(host.outside(host.root().join("filler"))).unwrap();
    eventually("the loss is told in one line of the log", Duration::from_secs(10), || {
        let text = std::fs::read_to_string(host.outside(&log)).ok()?;
        text.contains("lost").then_some(())
    });
    host.podrun("stop web --time 0").ok();
}

// pitfalls.md 8: a slow follower never blocks the container.
#[test]
fn a_follower_that_stands_still_does_not_block_the_container() {
    let host = pod();
    let shared = host.fresh("shared");
    std::fs::create_dir(&shared).unwrap();
    host.start("web/a", &format!("-v {}:/beat", shared.display()), "/probe heartbeat /beat/now");
    let beat = || std::fs::read_to_string(shared.join("now")).ok().and_then(|text| text.parse::<u64>().ok());
    eventually("the first beat", Duration::from_secs(5), beat);
    let mut follower = host.command("logs web/a -f").start();
    follower.until_it_prints("beat");
    follower.signal(libc::SIGSTOP);
    let then = beat().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let now = beat().unwrap();
    follower.signal(libc::SIGCONT);
    assert!(now > then + 50, "{then} → {now}");
}

// CVE-2025-0750: log paths: a container cannot lead the log elsewhere, since its names are labels.
#[test]
fn the_log_of_a_container_is_not_a_link_it_made() {
    let host = pod();
    host.run("web/a", "", "/probe say hi").ok();
    let meta = log_path(&host, "a").symlink_metadata().unwrap();
    assert!(meta.is_file());
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&meta) & 0o137, 0, "0640 at the most");
}

// pitfalls.md 20, and kubelet's way: it renames the file, and asks the runtime to open it anew (CRI, ReopenContainerLog).
#[test]
fn rotation_by_somebody_else_and_a_reopen_on_request_lose_nothing() {
    let host = pod();
    let lines = many(20_000, 500_000);
    host.start("web/a", "", &format!("/probe count 1 {lines} 20"));
    let live = log_path(&host, "a");
    let mut rotations = 0;
    while host.container("web", "a")["state"] == "Running" {
        std::fs::rename(&live, live.with_extension(format!("log.20261121-{rotations:06}"))).unwrap();
        let asked = host.podrun("rotate web/a");
        // It may have ended in between, and then there is nothing to be opened.
        assert!(asked.code() == 0 || host.container("web", "a")["state"] == "Exited", "{}", asked.errors());
        rotations += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{rotations} rotations");
    assert!(rotations >= 5, "{rotations}");
    let expected: String = (1..=lines).map(|n| format!("line {n}\n")).collect();
    assert!(
        host.command("logs web/a").limit(HOUR).run().ok().text() == expected,
        "a line is lost, doubled or out of order"
    );
}

/// The pump waits a little for the end of a line before it opens the log anew; so long a request is on its way.
fn in_the_middle_of_a_line(host: &Host) {
    host.start("web/a", "", "sh -c 'head -c 17000 /dev/zero; exec sleep 600'");
    let live = log_path(host, "a");
    eventually("a part of the line is written", Duration::from_secs(5), || {
        (live.metadata().ok()?.len() > 16_384).then_some(())
    });
    std::fs::rename(&live, live.with_extension("log.1")).unwrap();
}

#[test]
fn a_reopen_is_answered_when_its_container_ends_meanwhile() {
    let host = pod();
    host.start("web/a", "", "/probe sleep 600");
    let pump = host.inspect("web")["pump"]["pid"].clone();
    // As a pump is that hangs on its disk.
    host.kill(&pump, libc::SIGSTOP);
    let asked = host.command("rotate web/a").start();
    std::thread::sleep(Duration::from_millis(50));
    host.podrun("kill web -c a -s KILL").ok();
    asked.wait().ok();
    host.kill(&pump, libc::SIGCONT);
}

#[test]
fn a_reopen_is_answered_when_the_pump_dies_meanwhile() {
    let host = pod();
    in_the_middle_of_a_line(&host);
    let pump = host.inspect("web")["pump"]["pid"].clone();
    let asked = host.command("rotate web/a").start();
    std::thread::sleep(Duration::from_millis(50));
    host.kill(&pump, libc::SIGKILL);
    asked.wait().ok();
    assert!(log_path(&host, "a").exists(), "the new pump opened the log where it belongs");
}

#[test]
fn the_times_of_a_log_never_run_backwards() {
    let host = pod();
    let script = "i=0; while [ $i -lt 300 ]; do echo out; echo err >&2; printf part; i=$((i+1)); done";
    host.start("web/a", "--log-max-size 10k --log-max-files 50", &format!("sh -c '{script}'"));
    host.until("web", "a", "Exited");
    let files = log_files(&host, "a");
    assert!(files.len() > 2, "{files:?}");
    let all: Vec<_> = files.iter().flat_map(|file| cri_lines(&std::fs::read(file).unwrap())).collect();
    assert!(all.len() >= 600 && all.is_sorted_by_key(|line| line.time.clone()));
}
