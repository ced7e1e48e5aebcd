//! The fuzz targets of fuzz/, for a moment each: dice throw bytes, the same in every run.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "how often was thrown is said on the test's own output")]

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "there it is a library of its own")]
mod targets;

use std::time::Duration;
use std::time::Instant;

/// xorshift64*: a failure comes back.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % limit
    }

    /// Bytes that are mostly small, printable, or taken from a word.
    fn bytes(&mut self, most: usize, words: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.below(most) {
            match self.below(4) {
                0 if !words.is_empty() => bytes.extend_from_slice(words[self.below(words.len())].as_bytes()),
                1 => bytes.push(u8::try_from(self.below(8)).unwrap()),
                2 => bytes.push(u8::try_from(32 + self.below(95)).unwrap()),
                _ => bytes.push(u8::try_from(self.below(256)).unwrap()),
            }
        }
        bytes
    }
}

/// As many throws as asked for; `make stress` asks for a minute of them. What made it panic is said.
fn throw(least: usize, most: usize, words: &[&str], target: fn(&[u8])) {
    let full = std::env::var_os("PODRUN_STRESS").is_some_and(|form| form == "full");
    let (mut dice, start, mut thrown) = (Dice(0x9e37_79b9), Instant::now(), 0);
    while thrown < least || (full && start.elapsed() < Duration::from_secs(60)) {
        let bytes = dice.bytes(most, words);
        let held = std::panic::catch_unwind(|| target(&bytes));
        assert!(held.is_ok(), "throw {thrown}: {:?}", String::from_utf8_lossy(&bytes));
        thrown += 1;
    }
}

#[test]
fn whatever_config_json_says_there_is_a_plan_within_the_container_or_one_line() {
    throw(1500, 40, &[], targets::config::try_it);
    let words =
        ["{\"", "\":", ",\"", "}", "[", "]", "ociVersion\":\"1.0.2\"", "process", "args", "null", "1e999", "\\u0000"];
    throw(3000, 30, &words, |bytes| targets::config::try_it(&[b"{\"ociVersion\":\"1.0.2\",", bytes].concat()));
}

#[test]
fn a_word_is_what_it_says_or_is_refused() {
    let words = [
        "web",
        "-",
        "/",
        "..",
        ".",
        ":",
        "10.88.0.0",
        "::1",
        "0",
        "65536",
        "4294967296",
        ".log",
        "20261121-143300",
        "T14:33:00",
        "Z",
        "pod:",
        "macvlan:parent=",
        ",mac=",
        ",ip=",
        ",interface=",
    ];
    throw(30_000, 8, &words, targets::names::try_it);
}

#[test]
fn a_log_that_says_anything_is_shown_whole() {
    throw(1500, 60, &["\u{0}", "\u{1}", "\u{2}", "\u{5}", "\u{7}", "\n", "stdout F"], targets::log::try_it);
}

#[test]
fn whatever_a_pod_asks_its_name_server_answers() {
    let words = ["\u{3}web", "\u{5}front", "\u{0}", "\u{0}\u{1}\u{0}\u{1}", "\u{0}\u{0}\u{29}\u{4}\u{0}", "\u{4}arpa"];
    throw(20_000, 20, &words, targets::dns::try_it);
}

#[test]
fn whatever_the_profile_the_compiler_answers() {
    throw(3000, 60, &[], targets::seccomp::try_it);
}
