//! A log that says anything, cut anywhere: its reader shows every byte of it once, and the last lines are the last lines.

#![forbid(unsafe_code)]

use podrun::logs;
use podrun::logs::Logs;
use podrun::logs::Options;
use podrun::record;
use podrun::record::End;
use podrun::record::Rest;
use podrun::record::Stamp;
use podrun::record::Stream;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;

pub fn try_it(input: &[u8]) {
    composed(input);
    let dir = Dir::new();
    for (name, bytes) in files(input) {
        fs::write(dir.0.join(name), bytes).unwrap();
    }
    let all = read(&dir.0, None);
    assert_eq!(shown(&all), expected(&dir.0), "what is shown is not what is in the files");
    let lines = ends_of_lines(&all);
    for wanted in [0, 1, 2, 3, 7, lines, lines + 1] {
        let last = read(&dir.0, u64::try_from(wanted).ok());
        assert!(all.ends_with(&last), "the last {wanted} lines are no end of the whole");
        // A line of each stream may have no end yet, and counts.
        let ends = ends_of_lines(&last);
        assert!(ends <= wanted || wanted > lines, "{wanted} lines: {ends}");
        assert!(last.len() == all.len() || ends + 2 >= wanted, "{wanted} lines: {ends}");
    }
}

/// What a program writes comes back from its records, wherever they are cut.
fn composed(input: &[u8]) {
    let stamp = Stamp { secs: 1_795_271_580, nanos: 7 };
    let (mut out, mut text, mut open, mut back) = (vec![0; 40_000], input, false, Vec::new());
    loop {
        let cut = record::compose(text, Stream::Stderr, stamp, open, Rest::Final, &mut out);
        for line in out[..cut.written].split_inclusive(|b| *b == b'\n') {
            assert!(line.len() <= record::LONGEST_RECORD);
            let record = record::parse(line.strip_suffix(b"\n").unwrap()).unwrap();
            assert_eq!((record.stamp, record.stream), (stamp, Stream::Stderr));
            back.extend_from_slice(record.text);
            back.extend((record.end == End::Newline).then_some(b'\n'));
        }
        let again = &mut vec![0; 40_000];
        let twice = record::compose(&text[..cut.taken], Stream::Stderr, stamp, open, cut.rest, again);
        assert_eq!((twice.written, &again[..cut.written]), (cut.written, &out[..cut.written]), "not the same twice");
        (text, open) = (&text[cut.taken..], cut.open);
        if !cut.full {
            break;
        }
    }
    assert_eq!(back, input);
}

/// The bytes as log files: 0xff ends a file, bytes below 8 stand for the beginnings of records.
fn files(input: &[u8]) -> Vec<(String, Vec<u8>)> {
    const WORDS: [&[u8]; 8] = [
        b"2026-11-21T14:33:00.123456789Z stdout F ",
        b"2026-11-21T14:33:00.123456789Z stdout P ",
        b"2026-11-21T14:33:01Z stderr F ",
        b"2026-11-21T14:33:01.5+02:00 stderr P:x ",
        b"2026-11-21T14:33:02.000000000-00:00 stdout F ",
        b"\n",
        b"2026-11-21T14:33:00.123456789Z stdout ",
        b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ];
    let mut parts: Vec<Vec<u8>> = input
        .split(|byte| *byte == 0xff)
        .take(6)
        .map(|part| {
            part.iter()
                .flat_map(|byte| WORDS.get(usize::from(*byte)).map_or(vec![*byte], |word| word.to_vec()))
                .collect()
        })
        .collect();
    let live = parts.pop().unwrap_or_default();
    let rotated = parts.into_iter().enumerate().map(|(n, part)| (format!("0.log.20261121-14330{n}"), part));
    rotated.chain([("0.log".to_owned(), live)]).collect()
}

/// One piece as it was shown: the stream, whether a newline belongs to it, the text.
type Shown = (usize, End, Vec<u8>);

fn read(dir: &Path, tail: Option<u64>) -> Vec<Shown> {
    let mut pieces = Vec::new();
    let mut logs = Logs::of_container("a", dir, Options { tail, ..Options::default() }).unwrap();
    logs::show_all(&mut logs, &mut |piece| {
        pieces.push((piece.stream.index(), piece.end, piece.text.to_vec()));
        ControlFlow::Continue(())
    })
    .unwrap();
    pieces
}

/// The text of each stream.
fn shown(pieces: &[Shown]) -> [Vec<u8>; 2] {
    let mut text = [Vec::new(), Vec::new()];
    for (stream, end, bytes) in pieces {
        text[*stream].extend_from_slice(bytes);
        text[*stream].extend((*end == End::Newline).then_some(b'\n'));
    }
    text
}

/// The same, by the plainest way there is: whole lines, and what follows the last one in a file that will not grow.
fn expected(dir: &Path) -> [Vec<u8>; 2] {
    let mut text = [Vec::new(), Vec::new()];
    let files = logs::files(dir).unwrap();
    for (at, (_, path)) in files.iter().enumerate() {
        let bytes = fs::read(path).unwrap();
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let (body, ended) = line.strip_suffix(b"\n").map_or((line, false), |body| (body, true));
            match record::parse(body).filter(|_| ended) {
                Some(record) => {
                    text[record.stream.index()].extend_from_slice(record.text);
                    text[record.stream.index()].extend((record.end == End::Newline).then_some(b'\n'));
                }
                // Half a record at the end of the newest file may still become a whole one.
                None if !ended && at + 1 == files.len() => {}
                None => {
                    text[0].extend_from_slice(body);
                    text[0].extend(ended.then_some(b'\n'));
                }
            }
        }
    }
    text
}

fn ends_of_lines(pieces: &[Shown]) -> usize {
    pieces.iter().filter(|(_, end, _)| *end != End::Partial).count()
}

/// A directory in memory, gone with its owner.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let path =
            PathBuf::from(format!("/dev/shm/podrun-fuzz-{}-{:?}", std::process::id(), std::thread::current().id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn records_and_rubbish_pass() {
    try_it(b"");
    try_it(b"\x00one\n\x01two\n\x00three\nrubbish\n\xff\x02four\nhalf");
    try_it(b"no record at all\xff\xff\n\n\n");
}
