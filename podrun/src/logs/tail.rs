//! Finding the last lines of a log by reading it backwards.

#![forbid(unsafe_code)]

use crate::record;
use crate::record::End;
use crate::sys::map::memrchr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const BLOCK: usize = 64 * 1024;
/// Enough of a record to know how it ends: its time may have up to 35 bytes, and tags may follow the first.
const HEAD: usize = 96;

/// Counts lines from the end, through one file after another, the newest first.
#[derive(Debug)]
pub(super) struct Tail {
    wanted: u64,
    counted: u64,
    /// For each stream, whether one of its records was met.
    met: [bool; 2],
}

impl Tail {
    pub(super) fn new(wanted: u64) -> Self {
        Self { wanted, counted: 0, met: [false; 2] }
    }

    /// Where the last lines begin, if they all are in this file.
    pub(super) fn find(&mut self, file: &File) -> io::Result<Option<u64>> {
        let mut block = vec![0; BLOCK];
        let end = file.metadata()?.len();
        // Where the line that was met last begins. Half a record at the end does not count, and is not passed over.
        let (mut top, mut below) = (end, None);
        while top > 0 {
            let len = usize::try_from(top).map_or(BLOCK, |top| top.min(BLOCK));
            let bottom = top - u64::try_from(len).unwrap_or(0);
            file.read_exact_at(&mut block[..len], bottom)?;
            let mut left = &block[..len];
            while let Some(at) = memrchr(b'\n', left) {
                left = &left[..at];
                let start = bottom + u64::try_from(at).unwrap_or(0) + 1;
                if let Some(next) = below.replace(start)
                    && self.is_beyond(file, start, next)?
                {
                    return Ok(Some(next));
                }
            }
            top = bottom;
        }
        match below.replace(0) {
            Some(next) if self.is_beyond(file, 0, next)? => Ok(Some(next)),
            _ => Ok(None),
        }
    }

    /// Whether the record from `start` to `next` is before the lines that are wanted.
    fn is_beyond(&mut self, file: &File, start: u64, next: u64) -> io::Result<bool> {
        let len = usize::try_from(next - 1 - start).map_or(HEAD, |len| len.min(HEAD));
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head[..len], start)?;
        let (ends_a_line, stream) = match record::parse(&head[..len]) {
            Some(record) => (record.end != End::Partial, Some(record.stream.index())),
            None => (true, None),
        };
        // A line that has not ended yet is one too.
        let open = stream.is_some_and(|stream| !std::mem::replace(&mut self.met[stream], true));
        if !ends_a_line && !open {
            return Ok(false);
        }
        if self.counted == self.wanted {
            return Ok(true);
        }
        self.counted += 1;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn log(lines: &[&str]) -> File {
        let fd = nix::sys::memfd::memfd_create(c"log", nix::sys::memfd::MFdFlags::empty()).unwrap();
        let mut file = File::from(fd);
        for line in lines {
            file.write_all(line.replacen('@', "2026-11-21T14:33:00.123456789Z", 1).as_bytes()).unwrap();
        }
        file
    }

    fn last(file: &File, wanted: u64) -> Vec<String> {
        let start = Tail::new(wanted).find(file).unwrap().unwrap_or(0);
        let mut text = vec![0; usize::try_from(file.metadata().unwrap().len() - start).unwrap()];
        file.read_exact_at(&mut text, start).unwrap();
        let text = String::from_utf8(text).unwrap();
        text.split_terminator('\n').map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_last_lines_are_counted_as_lines_not_as_records() {
        let file =
            log(&["@ stdout F a\n", "@ stdout P b\n", "@ stdout P c\n", "@ stdout F d\n", "@ stderr P e\n", "?f\n"]);
        assert_eq!(last(&file, 0), [""; 0]);
        assert_eq!(last(&file, 1), ["?f"]);
        assert_eq!(last(&file, 2), ["e", "?f"]);
        assert_eq!(last(&file, 3), ["b", "c", "d", "e", "?f"]);
        assert_eq!(last(&file, 4).len(), 6);
        assert_eq!(last(&file, 400).len(), 6);
        assert_eq!(Tail::new(5).find(&file).unwrap(), None, "an older file may hold the fifth");
        assert_eq!(Tail::new(1).find(&log(&[])).unwrap(), None);
        assert_eq!(last(&log(&["@ stdout F a\n", "@ stdout F half"]), 1), ["a", "half"]);
    }

    #[test]
    fn blocks_and_long_lines_make_no_difference() {
        let mut lines: Vec<String> = (0..5000).map(|n| format!("@ stdout F {}{n}\n", "x".repeat(n % 300))).collect();
        lines.insert(4000, format!("{}\n", "y".repeat(3 * BLOCK)));
        let file = log(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        for wanted in [1, 7, 999, 1000, 1001, 1002, 4999, 5000] {
            assert_eq!(last(&file, wanted).len(), usize::try_from(wanted).unwrap());
        }
    }
}
