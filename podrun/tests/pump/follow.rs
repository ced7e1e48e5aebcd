//! Readers of logs that are written, rotated and renamed meanwhile.

use crate::world::Dir;
use crate::world::Monitor;
use crate::world::eventually;
use crate::world::many;
use crate::world::say;
use crate::world::writer;
use podrun::logs;
use podrun::logs::Logs;
use podrun::logs::Options;
use podrun::logs::Piece;
use podrun::logs::Run;
use podrun::logs::Watch;
use podrun::pump::Add;
use podrun::pump::Command;
use podrun::record::End;
use podrun::record::Stamp;
use podrun::record::Stream;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

fn following() -> Options {
    Options { watch: Watch::Follow, ..Options::default() }
}

// Who does not follow is not kept by a container that writes without end.
#[test]
fn without_following_the_end_is_where_it_was_at_first() {
    let dir = Dir::new("still");
    write_log(&dir.log("a"), &[(1, "F a"), (2, "F b")]);
    let mut logs = Logs::of_container("a", &dir.0.join("a"), Options::default()).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(dir.log("a")).unwrap();
    let mut lines = 0;
    logs::show_all(&mut logs, &mut |_| {
        lines += 1;
        file.write_all(b"1970-01-01T00:00:03Z stdout F more\n").unwrap();
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(lines, 2);
}

/// The bytes of both streams, as they were written.
fn raw(out: &mut [Vec<u8>; 2], piece: &Piece<'_>) {
    let stream = &mut out[piece.stream.index()];
    stream.extend_from_slice(piece.text);
    stream.extend_from_slice(if piece.end == End::Newline { b"\n" } else { b"" });
}

/// `name:text` for each piece of stdout.
fn shown(logs: &mut Logs) -> Vec<String> {
    let mut lines = Vec::new();
    logs::show_all(logs, &mut |piece| {
        lines.push(format!("{}:{}", piece.container, String::from_utf8_lossy(piece.text)));
        ControlFlow::Continue(())
    })
    .unwrap();
    lines
}

fn of(dir: &Path, options: Options) -> Vec<String> {
    shown(&mut Logs::of_container("a", dir, options).unwrap())
}

/// A follower in a thread of its own, and what it has seen so far.
pub(crate) struct Follower {
    pub(crate) thread: JoinHandle<()>,
    pub(crate) seen: Arc<Mutex<[Vec<u8>; 2]>>,
}

pub(crate) fn follow(dir: PathBuf, over: &Arc<AtomicBool>) -> Follower {
    let seen = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
    let (over, into) = (over.clone(), seen.clone());
    let mut logs = Logs::of_container("a", &dir, following()).unwrap();
    let thread = thread::spawn(move || {
        // A pipe that is written every so often stands for the monitor's socket.
        let (out, wake) = std::io::pipe().unwrap();
        let ask = over.clone();
        thread::spawn(move || {
            while !ask.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = (&wake).write_all(b"x");
        });
        let fd = std::os::fd::AsFd::as_fd(&out);
        let over = &mut || Ok(over.load(Ordering::SeqCst));
        logs::follow(&mut logs, Some(fd), over, &mut |piece| {
            raw(&mut into.lock().unwrap(), piece);
            ControlFlow::Continue(())
        })
        .unwrap();
    });
    Follower { thread, seen }
}

fn numbers(from: u64, count: u64) -> Vec<u8> {
    (from..from + count).flat_map(|n| format!("line number {n} of a log that is long\n").into_bytes()).collect()
}

// pitfalls 20: each follower sees every number exactly once, with rotation by size and by rename and reopen.
#[test]
fn followers_see_every_line_once_whoever_rotates() {
    let dir = Dir::new("follow");
    let logs = dir.0.join("a");
    let mut monitor = Monitor::new();
    let add = Add { max_size: Some(300_000), max_files: 10_000, ..Monitor::plain(1, &dir.log("a")) };
    let ends = monitor.add(add);
    eventually("the log", || dir.log("a").exists());
    let over = Arc::new(AtomicBool::new(false));
    let followers: Vec<Follower> = (0..3).map(|_| follow(logs.clone(), &over)).collect();
    let mut out = writer(&ends.stdout);
    let talker = thread::spawn(move || {
        let start = Instant::now();
        let (mut text, mut n) = (Vec::new(), 0);
        while start.elapsed() < Duration::from_millis(many(2500, 30_000)) {
            let more = numbers(n, 500);
            n += 500;
            out.write_all(&more).unwrap();
            text.extend(more);
            thread::sleep(Duration::from_micros(300));
        }
        text
    });
    let mut renamed = 0;
    while !talker.is_finished() {
        thread::sleep(Duration::from_millis(100));
        let to = logs.join(format!("0.log.20990101-0{:05}", renamed));
        // Between the two the pump may have rotated by itself, and the file is not there for a moment.
        if fs::rename(dir.log("a"), to).is_ok() {
            assert_eq!(monitor.reopen(1), 0);
            assert!(dir.log("a").exists());
            renamed += 1;
        }
    }
    drop(ends);
    let text = talker.join().unwrap();
    assert_eq!(monitor.finish(1, 60_000).0, 0);
    over.store(true, Ordering::SeqCst);
    let files = logs::files(&logs).unwrap().len();
    assert!(renamed >= 10 && files > renamed + 10, "{renamed} renamed, {files} files");
    for Follower { thread, seen } in followers {
        thread.join().unwrap();
        let seen = seen.lock().unwrap();
        let same = seen[0].iter().zip(&text).take_while(|(a, b)| a == b).count();
        assert!(seen[0] == text, "of {} bytes came {}, the first {same} right", text.len(), seen[0].len());
    }
}

#[test]
fn a_follower_goes_on_with_the_next_run_and_ends_when_told() {
    let dir = Dir::new("runs");
    let mut monitor = Monitor::new();
    let first = monitor.add(Monitor::plain(1, &dir.log("a")));
    eventually("the log", || dir.log("a").exists());
    let over = Arc::new(AtomicBool::new(false));
    let follower = follow(dir.0.join("a"), &over);
    say(&first.stdout, b"one\nno newline");
    drop(first);
    monitor.finish(1, 10_000);
    monitor.say(&Command::Forget { key: 1 });
    thread::sleep(Duration::from_millis(30));
    assert!(!follower.thread.is_finished(), "the container may be restarted");
    let second = monitor.add(Monitor::plain(2, &dir.0.join("a/1.log")));
    say(&second.stderr, b"two");
    let seen = |want: [&[u8]; 2]| follower.seen.lock().unwrap().iter().map(Vec::as_slice).eq(want);
    eventually("both runs", || seen([b"one\nno newline", b"two"]));
    say(&second.stdout, b"last words\n");
    drop(second);
    monitor.finish(2, 10_000);
    over.store(true, Ordering::SeqCst);
    follower.thread.join().unwrap();
    assert_eq!(*follower.seen.lock().unwrap(), [b"one\nno newlinelast words\n".to_vec(), b"two".to_vec()]);
    let previous = Options { run: Run::Previous, ..Options::default() };
    assert_eq!(of(&dir.0.join("a"), previous), ["a:one", "a:no newline"]);
    assert_eq!(of(&dir.0.join("a"), Options::default()), ["a:two", "a:last words", "a:"]);
}

/// A log as the pump writes it, of these lines at these seconds.
fn write_log(path: &Path, lines: &[(u64, &str)]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut text = Vec::new();
    for (secs, line) in lines {
        text.extend_from_slice(format!("{} stdout {line}\n", Stamp { secs: *secs, nanos: 0 }.text()).as_bytes());
    }
    fs::write(path, text).unwrap();
}

#[test]
fn tail_since_until_and_previous_choose_lines() {
    let dir = Dir::new("choose");
    let a = dir.0.join("a");
    write_log(&a.join("0.log"), &[(100, "F old")]);
    write_log(&a.join("1.log.20260101-000000"), &[(200, "F a"), (201, "F b")]);
    write_log(&a.join("1.log.20260101-000000.0001"), &[(202, "P c"), (203, "F d")]);
    write_log(&a.join("1.log"), &[(204, "F e"), (205, "P open")]);
    let at = |secs| Some(Stamp { secs, nanos: 0 });
    let table: [(Options, &str); 9] = [
        (Options::default(), "a b c d e open"),
        (Options { run: Run::Previous, ..Options::default() }, "old"),
        (Options { tail: Some(0), ..Options::default() }, ""),
        (Options { tail: Some(1), ..Options::default() }, "open"),
        (Options { tail: Some(3), ..Options::default() }, "c d e open"),
        (Options { tail: Some(99), ..Options::default() }, "a b c d e open"),
        (Options { since: at(201), until: at(204), ..Options::default() }, "b c d e"),
        // The first piece decides for the line, so that no half of one is shown.
        (Options { since: at(203), ..Options::default() }, "e open"),
        (Options { tail: Some(2), until: at(204), ..Options::default() }, "e"),
    ];
    for (options, want) in table {
        let got: Vec<String> = of(&a, options.clone()).iter().map(|line| line[2..].to_owned()).collect();
        assert_eq!(got.join(" "), want, "{options:?}");
    }
    assert!(Logs::of_container("a", &dir.0.join("none"), following()).is_err());
}

#[test]
fn what_is_no_record_is_shown_as_it_is() {
    let dir = Dir::new("odd");
    let a = dir.0.join("a");
    write_log(&a.join("0.log"), &[(100, "F fine")]);
    let mut log = fs::OpenOptions::new().append(true).open(a.join("0.log")).unwrap();
    log.write_all(b"what?\n\xff\0\n2026-01-01T00:00:00Z stdin F x\n").unwrap();
    log.write_all(&vec![b'z'; 200_000]).unwrap();
    log.write_all(b"\n").unwrap();
    let lines = of(&a, Options::default());
    assert_eq!(lines[..4], ["a:fine", "a:what?", "a:\u{fffd}\0", "a:2026-01-01T00:00:00Z stdin F x"]);
    let long: String = lines[4..].iter().map(|line| &line[2..]).collect();
    assert_eq!(long, "z".repeat(200_000));
    let odd = dir.0.join("odd");
    fs::create_dir_all(&odd).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", odd.join("0.log")).unwrap();
    let mut logs = Logs::of_container("odd", &odd, Options::default()).unwrap();
    // CVE-2026-53492: a log that was a link was read.
    assert!(logs.show(&mut |_| ControlFlow::Continue(())).is_err());
}

#[test]
fn an_emptied_log_is_read_from_its_start() {
    let dir = Dir::new("emptied");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    say(&ends.stdout, b"before\n");
    let mut logs = Logs::of_container(
        "a",
        &{
            eventually("it", || dir.log("a").exists());
            dir.0.join("a")
        },
        following(),
    )
    .unwrap();
    let mut lines = Vec::new();
    eventually("before", || {
        lines.extend(shown(&mut logs));
        lines == ["a:before"]
    });
    fs::OpenOptions::new().write(true).truncate(true).open(dir.log("a")).unwrap();
    lines.extend(shown(&mut logs));
    say(&ends.stdout, b"after\n");
    eventually("after", || {
        lines.extend(shown(&mut logs));
        lines == ["a:before", "a:after"]
    });
    assert_eq!(fs::read(dir.log("a")).unwrap().len(), 46, "no hole where the old lines were");
    fs::remove_file(dir.log("a")).unwrap();
    say(&ends.stdout, b"again\n");
    eventually("again", || {
        lines.extend(shown(&mut logs));
        lines == ["a:before", "a:after", "a:again"]
    });
}

// podman#13267: pod logs -f misses new containers.
#[test]
fn a_pods_logs_show_later_containers_too() {
    let dir = Dir::new("pod");
    let mut monitor = Monitor::new();
    let a = monitor.add(Monitor::plain(1, &dir.log("a")));
    say(&a.stdout, b"1\n2\n");
    eventually("a", || dir.log("a").exists() && fs::read(dir.log("a")).unwrap().len() > 50);
    let mut logs = Logs::of_pod(&dir.0, Options { tail: Some(1), ..following() }).unwrap();
    assert_eq!(shown(&mut logs), ["a:2"]);
    assert!(shown(&mut logs).is_empty());
    let b = monitor.add(Monitor::plain(2, &dir.log("b")));
    say(&b.stdout, b"3\n4\n");
    let mut lines = Vec::new();
    eventually("b", || {
        lines.extend(shown(&mut logs));
        lines == ["b:3", "b:4"]
    });
    monitor.say(&Command::Forget { key: 2 });
    assert_eq!(monitor.reopen(2), libc::ENOENT);
    fs::remove_dir_all(dir.0.join("b")).unwrap();
    assert!(shown(&mut logs).is_empty());
    write_log(&dir.log("b"), &[(1, "F new")]);
    eventually("the new b", || {
        lines.extend(shown(&mut logs));
        lines == ["b:3", "b:4", "b:new"]
    });
    say(&a.stdout, b"5\n");
    eventually("a again", || {
        lines.extend(shown(&mut logs));
        lines.last().unwrap() == "a:5"
    });
}

#[test]
fn a_sink_that_wants_no_more_ends_it() {
    let dir = Dir::new("sink");
    write_log(&dir.log("a"), &[(1, "F a"), (2, "F b")]);
    let mut logs = Logs::of_container("a", &dir.0.join("a"), following()).unwrap();
    let mut seen = 0;
    logs::follow(&mut logs, None, &mut || Ok(false), &mut |piece| {
        assert_eq!((piece.stream, piece.end), (Stream::Stdout, End::Newline));
        seen += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(seen, 1);
    let until = Some(Stamp { secs: 5, nanos: 0 });
    let mut logs = Logs::of_container("a", &dir.0.join("a"), Options { until, ..following() }).unwrap();
    let sink = &mut |_: &Piece<'_>| {
        seen += 1;
        ControlFlow::Continue(())
    };
    logs::follow(&mut logs, None, &mut || Ok(false), sink).unwrap();
    assert_eq!(seen, 3, "what is past ends by itself");
}
