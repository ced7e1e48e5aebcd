//! Pumps that are killed, logs that rotate, containers that shout.

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
use podrun::pump::Add;
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
    let mut dice = Dice(99);
    for _ in 0..many(250, 3000) {
        thread::sleep(Duration::from_micros(dice.below(12_000) as u64));
        monitor.kill_the_pump();
    }
    stop.store(true, Ordering::Relaxed);
    let texts: Vec<Vec<u8>> = shouters.into_iter().map(|shouter| shouter.join().unwrap()).collect();
    for (key, name) in [(0_u64, "a"), (1, "b")] {
        assert_eq!(monitor.finish(key, 60_000).0, 0, "bytes lost");
        let said = said(&all_logs(&dir.0.join(name)));
        for stream in 0..2 {
            let want = &texts[key as usize * 2 + stream];
            let same = want.iter().zip(&said[stream]).take_while(|(a, b)| a == b).count();
            assert!(
                said[stream] == *want,
                "{name}/{stream}: of {} bytes came {}, the first {same} right",
                want.len(),
                said[stream].len()
            );
        }
        well_rotated(&dir.0.join(name), max);
    }
    println!("{} bytes", texts.iter().map(Vec::len).sum::<usize>());
}
