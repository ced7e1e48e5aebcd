//! Pumps that are killed, logs that rotate, containers that shout.

use crate::follow::Follower;
use crate::follow::follow;
use crate::world::Dice;
use crate::world::Dir;
use crate::world::Monitor;
use crate::world::all_logs;
use crate::world::eventually;
use crate::world::many;
use crate::world::said;
use crate::world::say;
use crate::world::tags;
use podrun::logs;
use podrun::logs::Logs;
use podrun::logs::Options;
use podrun::logs::Watch;
use podrun::pump::Add;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// One line: of any length, some very long, some empty, some with NULs.
fn line(dice: &mut Dice, text: &mut Vec<u8>) {
    let len = match dice.below(200) {
        0 => dice.below(70_000),
        1..10 => 0,
        _ => dice.below(200),
    };
    let seed = dice.below(256);
    text.extend((0..len).map(|at| u8::try_from((seed + at) % 256).unwrap()).filter(|b| *b != b'\n'));
    text.push(b'\n');
}

/// Writes lines in pieces of all sizes, now and then after a while, until told to stop; the last line lacks its end.
/// Gives back what it wrote.
fn shout(end: OwnedFd, mut dice: Dice, stop: Arc<AtomicBool>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let (mut text, mut at) = (Vec::new(), 0);
        while !stop.load(Ordering::Relaxed) {
            let size = if dice.below(20) == 0 { 1 + dice.below(60) } else { 1 + dice.below(100_000) };
            while text.len() < at + size {
                line(&mut dice, &mut text);
            }
            if dice.below(300) == 0 {
                thread::sleep(Duration::from_millis(25));
            }
            at += nix::unistd::write(&end, &text[at..at + size]).unwrap();
        }
        text.truncate(at);
        text.extend_from_slice(b"and the rest");
        say(&end, &text[at..]);
        text
    })
}

fn rotating(key: u64, log: &Path, max_size: u64) -> Add {
    Add { max_size: Some(max_size), max_files: 100_000, ..Monitor::plain(key, log) }
}

/// No file is longer than it should be, and none ends within a line; unless there was no moment without an open line on
/// one of the streams until it was twice as long.
fn well_rotated(dir: &Path, max_size: u64) {
    let files = logs::files(dir).unwrap();
    for (name, path) in &files {
        let log = std::fs::read(path).unwrap();
        assert!(log.len() as u64 <= 2 * max_size + 20_000, "{name}: {} bytes", log.len());
        let last = log[..log.len().saturating_sub(1)].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let last = tags(&log[last..]);
        let whole = !last.iter().any(|line| line.contains(" P "));
        assert!(whole || log.len() as u64 >= 2 * max_size, "{name} ends within a line");
    }
}

// design: "The pump loses and doubles no byte, kill -9 or not."
#[test]
fn killed_pumps_lose_and_double_nothing() {
    let dir = Dir::new("kill");
    let mut monitor = Monitor::new();
    let max = 400_000;
    let stop = Arc::new(AtomicBool::new(false));
    let mut shouters = Vec::new();
    for (key, name) in [(0, "a"), (1, "b")] {
        let ends = monitor.add(rotating(key, &dir.log(name), max));
        for (at, end) in [(0, ends.stdout), (1, ends.stderr)] {
            shouters.push(shout(end, Dice(1 + key * 2 + at), stop.clone()));
        }
    }
    let over = Arc::new(AtomicBool::new(false));
    let followers = ["a", "b"].map(|name| {
        eventually("the log", || dir.log(name).exists());
        follow(dir.0.join(name), &over)
    });
    let seen =
        || followers.iter().map(|one| one.seen.lock().unwrap().iter().map(Vec::len).sum::<usize>()).sum::<usize>();
    let (mut dice, mut kill) = (Dice(99), 0);
    while kill < many(250, 2000) || seen() < many(10_000_000, 200_000_000) {
        kill += 1;
        thread::sleep(Duration::from_micros(dice.below(12_000) as u64));
        if kill % 8 == 0 {
            // Somebody rotates and does not come to say so: the next pump finds its file again, whatever it is called.
            let _ = std::fs::rename(dir.log("a"), dir.0.join(format!("a/0.log.20990101-{kill:06}")));
        }
        monitor.kill_the_pump();
    }
    stop.store(true, Ordering::Relaxed);
    let texts: Vec<Vec<u8>> = shouters.into_iter().map(|shouter| shouter.join().unwrap()).collect();
    for (at, (key, name)) in [(0, "a"), (1, "b")].into_iter().enumerate() {
        assert_eq!(monitor.finish(key, 60_000).0, 0, "bytes lost");
        let said = said(&all_logs(&dir.0.join(name)));
        for stream in 0..2 {
            let want = &texts[at * 2 + stream];
            let same = want.iter().zip(&said[stream]).take_while(|(a, b)| a == b).count();
            assert!(
                said[stream] == *want,
                "{name}/{stream}: of {} bytes came {}, the first {same} right",
                want.len(),
                said[stream].len()
            );
        }
        if name == "b" {
            well_rotated(&dir.0.join(name), max);
        }
    }
    over.store(true, Ordering::SeqCst);
    for (at, Follower { thread, seen }) in followers.into_iter().enumerate() {
        thread.join().unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen[0] == texts[at * 2] && seen[1] == texts[at * 2 + 1], "follower {at} saw something else");
    }
}

// pitfalls 8 and the design: "a storm or a stalled disk delays no birth", nor another container's line.
#[test]
fn thirty_that_shout_do_not_drown_one_that_whispers() {
    let dir = Dir::new("storm");
    let mut monitor = Monitor::new();
    let stop = Arc::new(AtomicBool::new(false));
    let mut shouters = Vec::new();
    for key in 0..30 {
        let add = Add { max_files: 2, ..rotating(key, &dir.log(&key.to_string()), 1_000_000) };
        let (ends, stop) = (monitor.add(add), stop.clone());
        shouters.push(thread::spawn(move || {
            let block = [b"z".repeat(99), b"\n".to_vec()].concat().repeat(300);
            while !stop.load(Ordering::Relaxed) {
                say(&ends.stdout, &block);
            }
        }));
    }
    let whisper = monitor.add(Monitor::plain(99, &dir.log("whisper")));
    eventually("the log", || dir.log("whisper").exists());
    let mut waits = Vec::new();
    for n in 0..20 {
        let start = Instant::now();
        say(&whisper.stdout, format!("{n}\n").as_bytes());
        eventually("a whisper", || tags(&std::fs::read(dir.log("whisper")).unwrap()).len() == n + 1);
        waits.push(start.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    shouters.into_iter().for_each(|shouter| shouter.join().unwrap());
    waits.sort();
    assert!(waits[10] < Duration::from_millis(500), "{waits:?}");
    for key in 0..30 {
        let files = logs::files(&dir.0.join(key.to_string())).unwrap();
        assert!(files.len() <= 2, "{files:?}");
    }
}

// containerd#9342: a log that nobody reads must not stop the program; here the reader is stopped.
#[test]
fn a_reader_that_is_stopped_stops_nobody() {
    let dir = Dir::new("stopped");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    eventually("the log", || dir.log("a").exists());
    let mut logs =
        Logs::of_container("a", &dir.0.join("a"), Options { watch: Watch::Follow, ..Options::default() }).unwrap();
    let mut text = Vec::new();
    for n in 0..200_000 {
        text.extend_from_slice(format!("line {n}\n").as_bytes());
    }
    // The follower has its watch, and does not look while all of it is written.
    say(&ends.stdout, &text);
    drop(ends);
    monitor.finish(1, 10_000);
    let mut seen = Vec::new();
    logs::show_all(&mut logs, &mut |piece| {
        seen.extend_from_slice(piece.text);
        seen.push(b'\n');
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(seen == text, "{} of {} bytes", seen.len(), text.len());
}

// kubelet renames the log, then calls ReopenContainerLog (cri.md): the path leads somewhere when that returns, and nothing
// more goes to the renamed file, though a line is open; but an end that comes soon is waited for.
#[test]
fn reopening_waits_a_little_for_the_end_of_a_line() {
    let dir = Dir::new("reopen");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    say(&ends.stdout, b"open");
    eventually("a P", || std::fs::read(dir.log("a")).is_ok_and(|log| tags(&log) == ["out P open"]));
    let old = dir.0.join("a/0.log.20260101-000000");
    std::fs::rename(dir.log("a"), &old).unwrap();
    let end = ends.stdout.try_clone().unwrap();
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(40));
        say(&end, b"ed\nnew");
    });
    assert_eq!(monitor.reopen(1), 0);
    later.join().unwrap();
    assert_eq!(tags(&std::fs::read(&old).unwrap()), ["out P open", "out F ed"]);
    eventually("the rest", || tags(&std::fs::read(dir.log("a")).unwrap()) == ["out P new"]);
    let start = Instant::now();
    std::fs::rename(dir.log("a"), dir.0.join("a/0.log.20260101-000001")).unwrap();
    assert_eq!(monitor.reopen(1), 0);
    assert!(dir.log("a").exists() && start.elapsed() < Duration::from_secs(2));
    say(&ends.stdout, b"er\n");
    eventually("the end", || said(&all_logs(&dir.0.join("a")))[0] == b"opened\nnewer\n");
    assert_eq!(tags(&std::fs::read(dir.log("a")).unwrap()), ["out F er"]);
}
