//! The long runs: each test has a short form for `make test` and a full one for `make stress`, PODRUN_STRESS=full.

use crate::Running;
use crate::host::Host;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Whether this is `make stress`.
pub fn full() -> bool {
    std::env::var_os("PODRUN_STRESS").is_some_and(|form| form == "full")
}

/// How many, how long, how much: the short form's number or the full one's.
pub fn many<T>(short: T, whole: T) -> T {
    if full() { whole } else { short }
}

impl Host {
    /// What a process has for itself, in KiB (proc_pid_smaps_rollup).
    #[track_caller]
    pub fn private_kib(&self, pid: &Value) -> u64 {
        self.rollup(pid, "Private_")
    }

    /// The same without the pages of its program's file, which become its own whenever another pod ends.
    #[track_caller]
    pub fn written_kib(&self, pid: &Value) -> u64 {
        // A page of a program that was linked a moment ago is not yet on disk, and counts as written, too.
        std::fs::File::open(crate::binaries::podrun_binary())
            .and_then(|program| program.sync_all())
            .expect("sync podrun");
        self.rollup(pid, "Private_Dirty")
    }

    #[track_caller]
    fn rollup(&self, pid: &Value, key: &str) -> u64 {
        let rollup = self.read(format!("/proc/{pid}/smaps_rollup"));
        let lines = rollup.lines().filter(|line| line.starts_with(key));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    }

    /// How many descriptors and threads it has.
    #[track_caller]
    pub fn descriptors_and_threads(&self, pid: &Value) -> (usize, usize) {
        let count = |what: &str| std::fs::read_dir(self.outside(format!("/proc/{pid}/{what}"))).unwrap().count();
        (count("fd"), count("task"))
    }

    /// Panics when it has more of either than it had; what it still holds of clients that are gone it may have for ten seconds.
    #[track_caller]
    pub fn expect_no_more_than(&self, kept: (usize, usize), pid: &Value) {
        let (end, mut now) = (Instant::now() + crate::patience(Duration::from_secs(10)), (usize::MAX, 0));
        while (now.0 > kept.0 || now.1 > kept.1) && Instant::now() < end {
            now = self.descriptors_and_threads(pid);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(now.0 <= kept.0 && now.1 <= kept.1, "(descriptors, threads) were {kept:?} and are {now:?}");
    }

    /// Programs that do nothing but take the processors' time, so many for each, until they are dropped.
    pub fn load(&self, times: usize) -> Vec<Running<'_>> {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        (0..times * processors).map(|_| self.program("sh -c 'while :; do :; done'").limit(HOUR).start()).collect()
    }
}

/// For what is meant to take long.
pub const HOUR: Duration = Duration::from_secs(3600);
