//! Waiting for something that takes as long as it takes, with an end.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Asks until there is an answer; panics with `what` when there is none after `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
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
