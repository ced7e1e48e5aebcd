//! A pump is killed at every point of every step, and its successor is right.

#![forbid(unsafe_code)]

use super::*;
use crate::pump::log::FileId;
use crate::sys::pipe;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

const TEXT: &[u8] = b"one\ntwo\nrest";
const TAKEN: usize = 8;
const STAMP: Stamp = Stamp { secs: 1_795_271_580, nanos: 5 };
const EARLIER: &[u8] = b"2026-11-21T14:32:00.000000000Z stdout F earlier\n";

/// A container whose pump was killed, and the directory of its log.
struct Killed {
    dir: PathBuf,
    pipes: Pipes,
    state: State,
    records: Vec<u8>,
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Killed {
    /// `TEXT` is in the holding pipe, and its first lines were noted to be written after what was there earlier.
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("podrun-container-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("0.log"), EARLIER).unwrap();
        let meta = fs::metadata(dir.join("0.log")).unwrap();
        let (pipes, _) = Pipes::new().unwrap();
        nix::unistd::write(&pipes.stdout.into, TEXT).unwrap();
        let mut records = vec![0; 1000];
        let cut = record::compose(TEXT, Stream::Stdout, STAMP, false, Rest::Keep, &mut records);
        records.truncate(cut.written);
        let state = State {
            step: Step::Writing,
            file: FileId { device: meta.dev(), inode: meta.ino() },
            offset: EARLIER.len() as u64,
            held: TEXT.len() as u64,
            taken: cut.taken as u64,
            stamp: STAMP,
            rest: cut.rest,
            ..State::default()
        };
        assert_eq!(cut.taken, TAKEN);
        Self { dir, pipes, state, records }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("0.log")
    }

    /// The killed pump had written this much.
    fn wrote(&self, bytes: &[u8]) {
        fs::write(self.log(), [EARLIER, bytes].concat()).unwrap();
    }

    /// It had let this much leave the holding pipe.
    fn discarded(&self, len: usize) {
        Desk::new().unwrap().discard(&self.pipes.stdout.out, len).unwrap();
    }

    /// A successor comes, and does what is due: what it leaves in the log, and what is still held.
    fn recover(&self) -> (Vec<u8>, usize, State) {
        let copies = self.pipes.fds().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        let pipes = Pipes::from_fds(copies).unwrap();
        let mut ledger = Ledger::open(pipes.state.as_fd()).unwrap();
        ledger.set(self.state);
        let add = Add { key: 1, log: self.log(), max_size: None, max_files: 1, tty: false };
        let (mut desk, mut answers) = (Desk::new().unwrap(), VecDeque::new());
        let mut tools = Tools { desk: &mut desk, answers: &mut answers, now: Instant::now() };
        let mut container = Container::new(&add, ledger, pipes, &mut tools).unwrap();
        let now = container.deadline().filter(|at| *at <= tools.now);
        now.map_or(Ok(()), |_| container.tick(&mut tools)).unwrap();
        let held = pipe::bytes_in(self.pipes.stdout.out.as_fd()).unwrap();
        assert_eq!(container.streams[0].as_ref().unwrap().held, held);
        (fs::read(self.log()).unwrap(), held, container.ledger.state)
    }

    fn leaves_each_byte_once(&self, point: &str) {
        let (log, held, state) = self.recover();
        let want = [EARLIER, &self.records].concat();
        assert_eq!((String::from_utf8_lossy(&log), held), (String::from_utf8_lossy(&want), 4), "{point}");
        assert_eq!((state.step, state.open), (Step::Idle, [false; 2]), "{point}");
    }
}

#[test]
fn killed_while_writing() {
    let killed = Killed::new("writing");
    killed.leaves_each_byte_once("nothing was written");
    for len in 0..=killed.records.len() {
        let killed = Killed::new("writing");
        killed.wrote(&killed.records[..len]);
        killed.leaves_each_byte_once("some was written, and nothing discarded");
    }
    for len in 1..=TAKEN {
        let killed = Killed::new("writing");
        killed.wrote(&killed.records);
        killed.discarded(len);
        killed.leaves_each_byte_once("all was written, and some discarded");
    }
}

#[test]
fn killed_in_a_step_that_was_cut_short_by_a_full_disk() {
    let killed = Killed::new("short");
    let half = [killed.records.as_slice(), b"2026-11-21T14:33"].concat();
    killed.wrote(&half);
    killed.leaves_each_byte_once("half a record of the first try is beyond what stays");
}

#[test]
fn killed_after_its_log_was_renamed_or_removed() {
    let killed = Killed::new("renamed");
    killed.wrote(&killed.records[..10]);
    let old = killed.dir.join("0.log.20261121-143300");
    fs::rename(killed.log(), &old).unwrap();
    let (log, held, _) = killed.recover();
    assert_eq!((log, held), (Vec::new(), 4), "the new log is there, and is empty");
    assert_eq!(fs::read(old).unwrap(), [EARLIER, &killed.records].concat());
    let killed = Killed::new("removed");
    fs::remove_file(killed.log()).unwrap();
    // ext4 gives the next file the same inode.
    fs::write(killed.dir.join("other"), b"").unwrap();
    assert_eq!(killed.recover().0, killed.records);
    let killed = Killed::new("emptied");
    fs::write(killed.log(), b"").unwrap();
    assert_eq!(killed.recover().0, killed.records, "no hole before it");
}

#[test]
fn killed_while_ending_a_line() {
    let last = |at: &str| {
        let mut killed = Killed::new(at);
        killed.discarded(TEXT.len());
        let mut records = vec![0; 100];
        let cut = record::compose(b"", Stream::Stdout, STAMP, true, Rest::Final, &mut records);
        killed.records = records[..cut.written].to_vec();
        killed.state = State { held: 0, taken: 0, rest: cut.rest, open: [true, false], ..killed.state };
        killed
    };
    for len in 0..=last("end").records.len() {
        let killed = last("end");
        killed.wrote(&killed.records[..len]);
        let (log, held, state) = killed.recover();
        assert_eq!((log, held, state.open), ([EARLIER, &killed.records].concat(), 0, [false; 2]));
    }
}

#[test]
fn killed_while_dropping() {
    for gone in 0..=TEXT.len() {
        let mut killed = Killed::new("dropping");
        let state = State { step: Step::Dropping, taken: TEXT.len() as u64, errno: libc::EIO, ..killed.state };
        killed.state = State { lost: [1, 2], lost_in_all: 9, ..state };
        killed.discarded(gone);
        let (log, held, state) = killed.recover();
        let lines: Vec<&[u8]> = log.split(|b| *b == b'\n').collect();
        assert!(lines[1].ends_with(b" stderr F podrun: 15 bytes lost: I/O error"), "{gone} gone");
        assert_eq!((lines.len(), held, state.lost, state.lost_in_all), (3, 0, [0, 0], 21), "{gone} gone");
    }
}

#[test]
fn what_was_lost_is_said_before_what_comes_after() {
    let mut killed = Killed::new("lost");
    killed.state = State { step: Step::Idle, lost: [5, 0], lost_in_all: 5, errno: libc::ENOSPC, ..killed.state };
    let (log, held, state) = killed.recover();
    let log = String::from_utf8(log).unwrap();
    let ends: Vec<&str> = log.lines().map(|line| line.split_once('Z').unwrap().1).collect();
    let mark = " stderr F podrun: 5 bytes lost: No space left on device";
    assert_eq!(ends, [" stdout F earlier", mark, " stdout F one", " stdout F two"]);
    assert_eq!((held, state.lost), (4, [0, 0]));
}

#[test]
fn killed_while_marking() {
    let marking = State {
        step: Step::Marking,
        lost: [3, 0],
        lost_in_all: 3,
        errno: libc::EIO,
        open: [true, false],
        ..State::default()
    };
    let mark = record::mark(STAMP, [true, false], "podrun: 3 bytes lost: I/O error");
    for len in 0..=mark.len() {
        let mut killed = Killed::new("marking");
        let State { file, offset, stamp, .. } = killed.state;
        killed.state = State { file, offset, stamp, held: u64::MAX, ..marking };
        killed.wrote(&mark[..len]);
        let (log, _, state) = killed.recover();
        let want = [EARLIER, &mark].concat();
        assert!(log.starts_with(&want), "{}", String::from_utf8_lossy(&log));
        let rest = &log[want.len()..];
        assert_eq!(rest.iter().filter(|b| **b == b'\n').count(), 2, "then what was held, once");
        assert_eq!((state.lost, state.lost_in_all, state.open), ([0, 0], 3, [false; 2]));
    }
}

/// settimeofday(2) moves the clock of the whole host, so the ledger is given a record of tomorrow instead.
#[test]
fn a_clock_that_was_set_back_does_not_turn_the_times_of_a_log() {
    let mut killed = Killed::new("clock");
    let tomorrow = Stamp { secs: Stamp::now().secs + 86_400, nanos: 5 };
    killed.state = State { stamp: tomorrow, step: Step::Idle, ..killed.state };
    let (log, ..) = killed.recover();
    let times: Vec<Stamp> = log[EARLIER.len()..]
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| record::parse(line.strip_suffix(b"\n").unwrap()).unwrap().stamp)
        .collect();
    assert_eq!(times, [tomorrow, tomorrow]);
}
