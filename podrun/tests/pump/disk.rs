//! Full disks and strange files: the container goes on, and what is lost is said.

use crate::world::Dir;
use crate::world::Monitor;
use crate::world::eventually;
use crate::world::said;
use crate::world::say;
use crate::world::tags;
use crate::world::whole;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use podrun::pump::Add;
use podrun::pump::Answer;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

/// A small disk that only this thread and the processes it starts can see.
fn small_disk(dir: &Path, size: &str) {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    nix::mount::mount(Some("podrun-test"), dir, Some("tmpfs"), MsFlags::empty(), Some(size)).unwrap();
}

/// Fills the disk to its last byte.
fn fill(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for size in [4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    path
}

fn lost_in(tags: &[String]) -> u64 {
    let marks =
        tags.iter().filter_map(|line| line.strip_prefix("err F podrun: ")?.split(' ').next()?.parse::<u64>().ok());
    marks.sum()
}

// containerd#12462: a log write error ended the copy, and the program hung for ever.
#[test]
fn a_full_disk_stops_nobody_and_the_log_says_what_is_missing() {
    let dir = Dir::new("full");
    small_disk(&dir.0, "size=1m");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    let line = |n: usize| format!("line {n:08} {}\n", "x".repeat(85)).into_bytes();
    let start = Instant::now();
    for n in 0..50_000 {
        say(&ends.stdout, &line(n));
    }
    assert!(start.elapsed() < Duration::from_secs(20), "the container waited for the disk");
    let answer = monitor.hear(Duration::from_secs(5));
    assert!(matches!(answer, Some(Answer::Trouble { key: 1, errno: libc::ENOSPC, .. })), "{answer:?}");
    // Whole records stay; what a full disk cut off is taken back.
    let full = fs::read(dir.log("a")).unwrap();
    assert!(full.ends_with(b"x\n") && full.len() > 900_000, "{}", full.len());
    said(&full);
    // Somebody makes room: a file of the same disk is not the log's, so the log is what is cut here.
    let kept = 1000 * full.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
    fs::OpenOptions::new().write(true).open(dir.log("a")).unwrap().set_len(kept as u64).unwrap();
    eventually("the mark", || lost_in(&tags(whole(&fs::read(dir.log("a")).unwrap()))) > 0);
    say(&ends.stdout, b"after\n");
    drop(ends);
    let (lost, _) = monitor.finish(1, 10_000);
    let log = tags(&fs::read(dir.log("a")).unwrap());
    assert_eq!((lost, log.last().unwrap().as_str()), (lost_in(&log), "out F after"));
    assert!(log.iter().any(|line| line.ends_with(" bytes lost: No space left on device")));
    let lines = full.iter().filter(|b| **b == b'\n').count() + log.len() - 1000;
    let written = lines - log.iter().filter(|line| line.contains("podrun: ")).count() - 1;
    assert_eq!(usize::try_from(lost).unwrap() + written * 100, 50_000 * 100, "every byte is in the log or counted");
}

#[test]
fn a_short_full_disk_loses_nothing_of_a_quiet_container() {
    let dir = Dir::new("short");
    small_disk(&dir.0, "size=256k");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Monitor::plain(1, &dir.log("a")));
    say(&ends.stdout, b"before\n");
    eventually("the log", || fs::read(dir.log("a")).is_ok_and(|log| !log.is_empty()));
    let filler = fill(&dir.0);
    // The rest of the log's last page is all the room there is.
    let text: Vec<u8> = (0..2000).flat_map(|n| format!("number {n}\n").into_bytes()).collect();
    say(&ends.stdout, &text);
    let answer = monitor.hear(Duration::from_secs(5));
    assert!(matches!(answer, Some(Answer::Trouble { lost_bytes: 0, .. })), "{answer:?}");
    monitor.kill_the_pump();
    say(&ends.stdout, b"while it is full\n");
    std::thread::sleep(Duration::from_millis(1200));
    fs::remove_file(filler).unwrap();
    let want = [b"before\n", text.as_slice(), b"while it is full\n"].concat();
    eventually("all of it", || said(whole(&fs::read(dir.log("a")).unwrap()))[0] == want);
    drop(ends);
    assert_eq!(monitor.finish(1, 10_000).0, 0);
}

#[test]
fn killed_pumps_on_a_full_disk_still_count_right() {
    let dir = Dir::new("fullkill");
    small_disk(&dir.0, "size=512k");
    let mut monitor = Monitor::new();
    let ends = monitor.add(Add { max_size: Some(100_000), max_files: 3, ..Monitor::plain(1, &dir.log("a")) });
    eventually("the log", || dir.log("a").exists());
    let filler = fill(&dir.0);
    let line = "y".repeat(99) + "\n";
    let mut out = crate::world::writer(&ends.stdout);
    let writer = std::thread::spawn(move || {
        for _ in 0..100_000 {
            out.write_all(line.as_bytes()).unwrap();
        }
    });
    while !writer.is_finished() {
        std::thread::sleep(Duration::from_millis(7));
        monitor.kill_the_pump();
    }
    drop(ends);
    monitor.say(&podrun::pump::Command::Finish { key: 1, grace_ms: 10_000 });
    let lost = loop {
        match monitor.hear(Duration::from_secs(20)) {
            Some(Answer::Finished { lost_bytes, .. }) => break lost_bytes,
            Some(Answer::Trouble { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    fs::remove_file(filler).unwrap();
    let log = || tags(&crate::world::all_logs(&dir.0.join("a")));
    eventually("the mark", || lost_in(&log()) == lost);
    let written: usize = said(&crate::world::all_logs(&dir.0.join("a")))[0].len();
    assert_eq!(written + usize::try_from(lost).unwrap(), 10_000_000, "every byte is in the log or counted");
}

// pitfalls 8: EIO, and a log that is not what it should be. CVE-2026-53492: a log that was a link was read.
#[test]
fn a_log_that_cannot_be_opened_is_said_and_does_not_stop_the_container() {
    let dir = Dir::new("link");
    fs::create_dir_all(dir.0.join("a")).unwrap();
    fs::write(dir.0.join("precious"), b"do not touch").unwrap();
    std::os::unix::fs::symlink(dir.0.join("precious"), dir.log("a")).unwrap();
    nix::unistd::mkfifo(&dir.0.join("b.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut monitor = Monitor::new();
    let link = monitor.add(Monitor::plain(1, &dir.log("a")));
    let fifo = monitor.add(Monitor::plain(2, &dir.0.join("b.log")));
    for _ in 0..100 {
        say(&link.stdout, &[b'x'; 10_000]);
        say(&fifo.stdout, &[b'x'; 10_000]);
    }
    let mut seen = Vec::new();
    eventually("both troubles", || {
        if let Some(Answer::Trouble { key, errno, .. }) = monitor.hear(Duration::from_millis(10)) {
            seen.push((key, errno));
        }
        seen.contains(&(1, libc::ELOOP)) && seen.iter().any(|(key, _)| *key == 2)
    });
    assert_eq!(fs::read(dir.0.join("precious")).unwrap(), b"do not touch");
    fs::remove_file(dir.log("a")).unwrap();
    eventually("the mark", || fs::read(dir.log("a")).is_ok_and(|log| lost_in(&tags(whole(&log))) > 700_000));
    drop((link, fifo));
    let (lost, _) = monitor.finish(1, 10_000);
    let log = fs::read(dir.log("a")).unwrap();
    assert_eq!(usize::try_from(lost).unwrap() + said(&log)[0].len(), 1_000_000);
}
