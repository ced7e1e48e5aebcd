//! The names of log files, as kubelet has them: `<n>.log` for the n-th run of a container, and
//! `<n>.log.<YYYYMMDD-HHMMSS>[.<count>]` for what was rotated.

#![forbid(unsafe_code)]

use crate::record::Stamp;
use std::fmt;

/// Sorted, they are in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogName {
    pub run: u64,
    pub age: Age,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Age {
    /// When it was rotated, to the second, and which of that second.
    Rotated(String, u64),
    /// Where the records go now.
    Live,
}

impl LogName {
    pub fn live(run: u64) -> Self {
        Self { run, age: Age::Live }
    }

    /// None for any other file: kubelet's `.gz` and `.tmp`, notes of people.
    pub fn parse(text: &str) -> Option<Self> {
        let (run, rest) = text.split_once(".log")?;
        let run = plain_number(run)?;
        if rest.is_empty() {
            return Some(Self::live(run));
        }
        let rest = rest.strip_prefix('.')?;
        let (time, count) = rest.split_once('.').map_or(Some((rest, 0)), |(time, n)| Some((time, plain_number(n)?)))?;
        let shaped = |(at, byte): (usize, u8)| if at == 8 { byte == b'-' } else { byte.is_ascii_digit() };
        let right = time.len() == 15 && time.bytes().enumerate().all(shaped);
        right.then(|| Self { run, age: Age::Rotated(time.to_owned(), count) })
    }

    /// What this live log is called once rotated. Always after the `newest` of before, though a second holds many rotations
    /// and a clock may be set back.
    pub fn rotated(&self, now: Stamp, newest: Option<&LogName>) -> Self {
        let time = now.file_ending();
        let age = match newest.map(|name| &name.age) {
            Some(Age::Rotated(last, count)) if *last >= time => Age::Rotated(last.clone(), count + 1),
            _ => Age::Rotated(time, 0),
        };
        Self { run: self.run, age }
    }
}

fn plain_number(text: &str) -> Option<u64> {
    let right = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    right.then(|| text.parse().ok())?
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.age {
            Age::Live => write!(f, "{}.log", self.run),
            Age::Rotated(time, 0) => write!(f, "{}.log.{time}", self.run),
            // Padded, so that kubelet, which sorts names as text, has them in order too.
            Age::Rotated(time, count) => write!(f, "{}.log.{time}.{count:04}", self.run),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_they_were_written() {
        let in_order = [
            "0.log.20261121-143300",
            "0.log.20261121-143300.0001",
            "0.log.20261121-143300.0010",
            "0.log.20261121-143301",
            "0.log",
            "1.log.20200101-000000",
            "1.log",
            "10.log",
        ];
        let names: Vec<LogName> = in_order.iter().map(|name| LogName::parse(name).unwrap()).collect();
        assert!(names.is_sorted());
        assert_eq!(names.iter().map(LogName::to_string).collect::<Vec<_>>(), in_order);
    }

    #[test]
    fn other_files_are_no_logs() {
        for other in [
            "",
            ".log",
            "a.log",
            "0.log.gz",
            "0.log.20261121-143300.gz",
            "0.log.20261121-143300.tmp",
            "-1.log",
            "+1.log",
            "0.log.20261121-143300.+1",
        ] {
            assert_eq!(LogName::parse(other), None, "{other}");
        }
        assert_eq!(LogName::parse("0.log.20261121_143300"), None);
        assert_eq!(LogName::parse("99999999999999999999999.log"), None);
    }

    #[test]
    fn a_rotated_name_comes_after_all_before_it() {
        let live = LogName::live(0);
        let now = Stamp { secs: 1_795_271_580, nanos: 0 };
        let first = live.rotated(now, None);
        let second = live.rotated(now, Some(&first));
        let back = live.rotated(Stamp { secs: now.secs - 3600, nanos: 0 }, Some(&second));
        assert!(first < second && second < back && back < live);
        assert_eq!(second.to_string(), "0.log.20261121-143300.0001");
        let later = live.rotated(Stamp { secs: now.secs + 1, nanos: 0 }, Some(&back));
        assert_eq!(later.to_string(), "0.log.20261121-143301", "another second counts anew");
    }
}
