//! Waiting for something that takes as long as it takes, with an end.

use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A limit of a test, for a machine that is so many times slower: PODRUN_TEST_SLOWER (an emulated one, tests/vm).
#[must_use]
pub fn patience(limit: Duration) -> Duration {
    static TIMES: OnceLock<u32> = OnceLock::new();
    limit
        * *TIMES
            .get_or_init(|| std::env::var("PODRUN_TEST_SLOWER").ok().and_then(|times| times.parse().ok()).unwrap_or(1))
}

/// Asks until there is an answer; panics with `what` when there is none after `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let (start, limit) = (Instant::now(), patience(limit));
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for: {what}");
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
