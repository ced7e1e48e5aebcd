//! One line of a container's log as the CRI has it: `<RFC3339Nano> <stdout|stderr> <P|F> <text>`.
//!
//! Pure: bytes in, records out, and back. `P` says that the line goes on in the next record of the same stream, `F` that
//! it ends here. The last line of a program may lack its newline; CRI has no word for that, so such a record is `F` for
//! everybody, and its time ends in `-00:00` where others end in `Z`. RFC 3339 (4.3) means the same moment by both, so that
//! readers who know nothing of it see nothing odd, and podrun can give back the very bytes that were written.

#![forbid(unsafe_code)]

use crate::sys::map::memchr;
use std::time::Duration;
use std::time::SystemTime;

/// The most text of one record; longer lines become several. The limit of containerd, which other readers expect.
pub const LONGEST: usize = 16 * 1024;

/// No record that [`compose`] makes is longer than this, newline included.
pub const LONGEST_RECORD: usize = LONGEST + 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub const BOTH: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

    pub fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }

    fn word(self) -> &'static [u8; 6] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }
}

/// A moment since 1970, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp {
    pub secs: u64,
    pub nanos: u32,
}

impl Stamp {
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { secs: since.as_secs(), nanos: since.subsec_nanos() }
    }

    /// `2026-11-21T14:33:00.123456789`: always as wide, so that records sort as text.
    fn digits(self) -> [u8; 29] {
        let (year, month, day) = date(self.secs / 86_400);
        let mut text = *b"0000-00-00T00:00:00.000000000";
        write_number(&mut text[0..4], year);
        write_number(&mut text[5..7], month);
        write_number(&mut text[8..10], day);
        write_number(&mut text[11..13], self.secs / 3600 % 24);
        write_number(&mut text[14..16], self.secs / 60 % 60);
        write_number(&mut text[17..19], self.secs % 60);
        write_number(&mut text[20..29], u64::from(self.nanos));
        text
    }

    /// RFC 3339 with nanoseconds, in UTC.
    pub fn text(self) -> String {
        format!("{}Z", String::from_utf8_lossy(&self.digits()))
    }

    /// How long ago it was; nothing where the clock was set back.
    pub fn elapsed(self) -> Duration {
        let since = |stamp: Self| Duration::new(stamp.secs, stamp.nanos);
        since(Self::now()).saturating_sub(since(self))
    }

    /// `YYYYMMDD-HHMMSS`, kubelet's ending for a log that was rotated.
    pub fn file_ending(self) -> String {
        let (year, month, day) = date(self.secs / 86_400);
        let (hour, minute, second) = (self.secs / 3600 % 24, self.secs / 60 % 60, self.secs % 60);
        format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
    }

    /// RFC 3339 with any offset and none to nine digits of a second.
    pub fn parse(text: &[u8]) -> Option<Self> {
        parse_time(text).map(|(stamp, _)| stamp)
    }
}

/// Whether the newline of a full record was in the program's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `P`: the line goes on.
    Partial,
    /// `F`: the line ended with a newline.
    Newline,
    /// `F`, and no newline ever came.
    Nothing,
}

/// A line of the log, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub stamp: Stamp,
    pub stream: Stream,
    pub end: End,
    pub text: &'a [u8],
}

/// Takes one line of a log apart; `line` is without its newline. None when it is no record. Never panics.
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let (time, rest) = word(line)?;
    let (stream, rest) = word(rest)?;
    let (tags, text) = word(rest)?;
    let (stamp, offset) = parse_time(time)?;
    let stream = Stream::BOTH.into_iter().find(|each| each.word() == stream)?;
    // Further tags may follow after a colon; only the first says how the record ends (CRI, constants.go).
    let end = match (tags.split(|b| *b == b':').next()?, offset) {
        (b"P", _) => End::Partial,
        (b"F", Offset::Unknown) => End::Nothing,
        (b"F", Offset::Known) => End::Newline,
        _ => return None,
    };
    Some(Record { stamp, stream, end, text })
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().position(|b| *b == b' ')?;
    Some((&text[..space], &text[space + 1..]))
}

/// What becomes of a piece at the end of the text that has no newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It is left over for the next time.
    Keep,
    /// It becomes a `P` record.
    Partial,
    /// Nothing will follow: it becomes the last `F` record, and a `P` before it gets an empty one.
    Final,
}

/// What [`compose`] did: `taken` bytes of text became `written` bytes of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub taken: usize,
    pub written: usize,
    /// With this, the same call with only the `taken` bytes gives the same records again.
    pub rest: Rest,
    /// Whether the last record was a `P`.
    pub open: bool,
    /// Whether `out` was too small for all that could have been written.
    pub full: bool,
}

/// Writes `text` as records to `out`, as many as fit. `open` says whether a `P` of this stream came before.
///
/// It has to give the same bytes for the same arguments, always: a pump that was killed writes its last records again, over
/// the first ones.
pub fn compose(text: &[u8], stream: Stream, stamp: Stamp, open: bool, rest: Rest, out: &mut [u8]) -> Cut {
    let mut cut = Cut { taken: 0, written: 0, rest: Rest::Partial, open, full: true };
    let full = prefix(stamp, stream, b'F');
    while cut.taken < text.len() {
        let left = &text[cut.taken..];
        let window = &left[..left.len().min(LONGEST + 1)];
        let Some(end) = memchr(b'\n', window) else {
            if window.len() <= LONGEST {
                break;
            }
            if !cut.record(&prefix(stamp, stream, b'P'), &left[..LONGEST], 0, out) {
                return cut;
            }
            cut.open = true;
            continue;
        };
        if !cut.record(&full, &left[..end], 1, out) {
            return cut;
        }
        cut.open = false;
    }
    cut.finish(&text[cut.taken..], stream, stamp, rest, out)
}

impl Cut {
    /// Adds one record, if it fits; `newline` is how many bytes of the text's own newline it takes.
    #[inline]
    fn record(&mut self, prefix: &[u8], text: &[u8], newline: usize, out: &mut [u8]) -> bool {
        let end = self.written + prefix.len() + text.len() + 1;
        let Some(room) = out.get_mut(self.written..end) else { return false };
        let (head, tail) = room.split_at_mut(prefix.len());
        head.copy_from_slice(prefix);
        tail[..text.len()].copy_from_slice(text);
        tail[text.len()] = b'\n';
        self.written = end;
        self.taken += text.len() + newline;
        true
    }

    fn finish(mut self, left: &[u8], stream: Stream, stamp: Stamp, rest: Rest, out: &mut [u8]) -> Self {
        let fits = match rest {
            Rest::Partial if !left.is_empty() => {
                let fits = self.record(&prefix(stamp, stream, b'P'), left, 0, out);
                self.open |= fits;
                fits
            }
            Rest::Final if !left.is_empty() || self.open => {
                let fits = self.record(&last_prefix(stamp, stream), left, 0, out);
                self.open &= !fits;
                self.rest = if fits { Rest::Final } else { Rest::Partial };
                fits
            }
            Rest::Keep | Rest::Partial | Rest::Final => true,
        };
        Self { full: !fits, ..self }
    }
}

const PREFIX: usize = 40;

/// `<time> <stream> <tag> `: 40 bytes, the same for every record of one call.
fn prefix(stamp: Stamp, stream: Stream, tag: u8) -> [u8; PREFIX] {
    let mut text = *b"0000-00-00T00:00:00.000000000Z stdout F ";
    text[..29].copy_from_slice(&stamp.digits());
    text[31..37].copy_from_slice(stream.word());
    text[38] = tag;
    text
}

fn last_prefix(stamp: Stamp, stream: Stream) -> [u8; PREFIX + 5] {
    let mut text = *b"0000-00-00T00:00:00.000000000-00:00 stdout F ";
    text[..29].copy_from_slice(&stamp.digits());
    text[36..42].copy_from_slice(stream.word());
    text
}

/// A line of podrun's own in the log, which says what is missing. The lines that were open are ended first, so that no
/// reader joins the words of one to those of another.
pub fn mark(stamp: Stamp, open: [bool; 2], words: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for stream in Stream::BOTH.into_iter().filter(|stream| open[stream.index()]) {
        out.extend_from_slice(&prefix(stamp, stream, b'F'));
        out.push(b'\n');
    }
    out.extend_from_slice(&prefix(stamp, Stream::Stderr, b'F'));
    out.extend_from_slice(words.as_bytes());
    out.push(b'\n');
    out
}

fn write_number(room: &mut [u8], mut value: u64) {
    for digit in room.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

/// Year, month and day of a day since 1970. The year is counted from March, so that the leap day is its last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01 to 1970-01-01
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

/// The day since 1970 of a date; the other way round.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * if month > 2 { month - 3 } else { month + 9 } + 2) / 5 + day - 1;
    (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offset {
    Known,
    /// `-00:00`
    Unknown,
}

fn parse_time(text: &[u8]) -> Option<(Stamp, Offset)> {
    let (clock, rest) = text.split_at_checked(19)?;
    let shaped = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')].into_iter().all(|(at, byte)| clock[at] == byte);
    if !shaped || !matches!(clock[10], b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (number(&clock[0..4])?, number(&clock[5..7])?, number(&clock[8..10])?);
    let (hour, minute, second) = (number(&clock[11..13])?, number(&clock[14..16])?, number(&clock[17..19])?);
    let right = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let secs = right.then(|| days(year, month, day))?? * 86_400 + hour * 3600 + minute * 60 + second;
    let (nanos, zone) = fraction(rest)?;
    let (secs, offset) = shift(secs, zone)?;
    Some((Stamp { secs, nanos }, offset))
}

/// `.123` as nanoseconds, and what follows.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else { return Some((0, text)) };
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    let value = (1..=9).contains(&count).then(|| number(&digits[..count]))??;
    let scale = 10_u64.pow(9 - u32::try_from(count).ok()?);
    Some((u32::try_from(value * scale).ok()?, &digits[count..]))
}

/// Local seconds to UTC.
fn shift(secs: u64, zone: &[u8]) -> Option<(u64, Offset)> {
    match zone {
        b"Z" | b"z" => Some((secs, Offset::Known)),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let away = number(&[*h1, *h2])? * 3600 + number(&[*m1, *m2])? * 60;
            match (*sign, away) {
                (b'-', 0) => Some((secs, Offset::Unknown)),
                (b'-', _) => Some((secs + away, Offset::Known)),
                _ => Some((secs.checked_sub(away)?, Offset::Known)),
            }
        }
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Stamp = Stamp { secs: 1_795_271_580, nanos: 123_456_789 };

    /// xorshift64*: the same numbers in every run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % limit
        }

        /// Bytes with newlines, NULs and broken UTF-8, and now and then a line far over the limit.
        fn text(&mut self) -> Vec<u8> {
            let mut text = Vec::new();
            for _ in 0..self.below(8) {
                let len = match self.below(10) {
                    0 => self.below(5 * LONGEST),
                    1 => LONGEST - 2 + self.below(5),
                    _ => self.below(120),
                };
                text.extend((0..len).map(|_| [0, b'a', 0xff, b' ', b'\r'][self.below(5)]));
                text.resize(text.len() + self.below(3), b'\n');
            }
            text
        }
    }

    fn whole(text: &[u8], open: bool, rest: Rest) -> (Vec<u8>, Cut) {
        let mut out = vec![0; text.len() * 50 + 100];
        let cut = compose(text, Stream::Stdout, AT, open, rest, &mut out);
        out.truncate(cut.written);
        (out, cut)
    }

    fn reassembled(log: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for line in log.strip_suffix(b"\n").unwrap_or(log).split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let record = parse(line).unwrap_or_else(|| panic!("no record: {:?}", String::from_utf8_lossy(line)));
            assert!(record.text.len() <= LONGEST && line.len() < LONGEST_RECORD);
            text.extend_from_slice(record.text);
            text.extend_from_slice(if record.end == End::Newline { b"\n" } else { b"" });
        }
        text
    }

    #[test]
    fn a_record_is_what_the_cri_says() {
        let (log, _) = whole(b"a\n\nb c\0\xff\nend", false, Rest::Final);
        let want: &[&[u8]] = &[
            b"2026-11-21T14:33:00.123456789Z stdout F a\n",
            b"2026-11-21T14:33:00.123456789Z stdout F \n",
            b"2026-11-21T14:33:00.123456789Z stdout F b c\0\xff\n",
            b"2026-11-21T14:33:00.123456789-00:00 stdout F end\n",
        ];
        assert_eq!(log, want.concat());
    }

    #[test]
    fn a_piece_without_a_newline_waits_goes_out_or_ends() {
        let (log, cut) = whole(b"a\nbc", false, Rest::Keep);
        assert_eq!((cut.taken, cut.open, cut.full, log.len()), (2, false, false, 42));
        let (log, cut) = whole(b"bc", false, Rest::Partial);
        assert_eq!((cut.taken, cut.open), (2, true));
        assert!(log.ends_with(b" stdout P bc\n"), "{}", String::from_utf8_lossy(&log));
        // A P is never the last: readers would wait for ever for its F (containerd#4813).
        let (log, cut) = whole(b"", true, Rest::Final);
        assert_eq!((cut.taken, cut.open), (0, false));
        assert!(log.ends_with(b"-00:00 stdout F \n"));
        assert_eq!(whole(b"", false, Rest::Final).0, b"", "nothing was open, nothing is ended");
    }

    #[test]
    fn lines_over_16_kib_are_cut_in_pieces() {
        for (len, pieces) in [(LONGEST, 1), (LONGEST + 1, 2), (2 * LONGEST, 2), (2 * LONGEST + 1, 3)] {
            let mut text = vec![b'x'; len];
            text.push(b'\n');
            let (log, cut) = whole(&text, false, Rest::Keep);
            let tags: Vec<End> = log.split(|b| *b == b'\n').filter_map(parse).map(|record| record.end).collect();
            assert_eq!((tags.len(), cut.taken), (pieces, len + 1));
            assert!(tags[..pieces - 1].iter().all(|end| *end == End::Partial));
            assert_eq!((tags[pieces - 1], reassembled(&log)), (End::Newline, text));
        }
    }

    #[test]
    fn whatever_the_pieces_the_text_comes_back() {
        let mut dice = Dice(7);
        for _ in 0..600 {
            let text = dice.text();
            let (mut log, mut open, mut held, mut at) = (Vec::new(), false, Vec::new(), 0);
            while at < text.len() {
                let size = (1 + dice.below(40_000)).min(text.len() - at);
                held.extend_from_slice(&text[at..at + size]);
                at += size;
                let rest = [Rest::Keep, Rest::Keep, Rest::Partial][dice.below(3)];
                let (part, cut) = whole(&held, open, rest);
                log.extend(part);
                held.drain(..cut.taken);
                assert!(held.len() <= LONGEST, "what waits is bounded");
                open = cut.open;
            }
            let (part, cut) = whole(&held, open, Rest::Final);
            log.extend(part);
            assert_eq!((cut.taken, cut.open), (held.len(), false));
            assert!(reassembled(&log) == text, "{} bytes changed", text.len());
        }
    }

    #[test]
    fn what_was_taken_gives_the_same_records_again() {
        let mut dice = Dice(11);
        for _ in 0..600 {
            let (text, open) = (dice.text(), dice.below(2) == 0);
            let rest = [Rest::Keep, Rest::Partial, Rest::Final][dice.below(3)];
            let mut out = vec![0; dice.below(60_000)];
            let first = compose(&text, Stream::Stderr, AT, open, rest, &mut out);
            let mut again = vec![0; out.len()];
            let second = compose(&text[..first.taken], Stream::Stderr, AT, open, first.rest, &mut again);
            assert_eq!((second.taken, second.written, second.open), (first.taken, first.written, first.open));
            assert!(again[..second.written] == out[..first.written]);
            // What fits before a full disk's end is cut at a record; the same text with that much room gives just that.
            let fits = out[..first.written].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let half = out[..fits / 2].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let cut = compose(&text, Stream::Stderr, AT, open, rest, &mut again[..half]);
            assert_eq!(cut.written, half);
        }
    }

    #[test]
    fn times_are_read_and_written_alike() {
        let table = [
            ("1970-01-01T00:00:00.000000000Z", 0),
            ("2000-02-29T23:59:59.000000000Z", 951_868_799),
            ("2000-03-01T00:00:00.000000000Z", 951_868_800),
            ("2024-12-31T12:00:00.000000000Z", 1_735_646_400),
            ("2100-03-01T00:00:00.000000000Z", 4_107_542_400),
        ];
        for (text, secs) in table {
            assert_eq!(Stamp { secs, nanos: 0 }.text(), text);
            assert_eq!(Stamp::parse(text.as_bytes()), Some(Stamp { secs, nanos: 0 }));
        }
        for day in (0..80_000).step_by(7) {
            let stamp = Stamp { secs: day * 86_400 + 3723, nanos: 5 };
            assert_eq!(Stamp::parse(stamp.text().as_bytes()), Some(stamp));
        }
        assert_eq!(AT.file_ending(), "20261121-143300");
    }

    #[test]
    fn times_of_other_writers_are_read() {
        let at = |secs, nanos| Some(Stamp { secs, nanos });
        assert_eq!(Stamp::parse(b"2000-03-01T01:30:00+01:30"), at(951_868_800, 0));
        assert_eq!(Stamp::parse(b"2000-02-29T22:00:00.5-02:00"), at(951_868_800, 500_000_000));
        for bad in ["", "2000-03-01", "2000-03-01T00:00:00", "2000-13-01T00:00:00Z", "2000-03-01T00:00:00.Z"] {
            assert_eq!(Stamp::parse(bad.as_bytes()), None, "{bad}");
        }
        for bad in ["1969-12-31T23:59:59Z", "2000-03-01T00:00:00.0000000001Z", "0000-01-01T00:00:00+23:00"] {
            assert_eq!(Stamp::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused_not_feared() {
        let good = "2000-03-01T00:00:00Z stdout P:x:y text";
        assert_eq!(parse(good.as_bytes()).map(|record| (record.end, record.text)), Some((End::Partial, &b"text"[..])));
        for bad in
            ["", " ", "x", "2000-03-01T00:00:00Z", "2000-03-01T00:00:00Z stdin F x", "2000-03-01T00:00:00Z stdout F"]
        {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        let mut dice = Dice(3);
        for _ in 0..20_000 {
            let mut line = good.as_bytes().to_vec();
            for _ in 0..=dice.below(4) {
                let at = dice.below(line.len());
                line[at] = u8::try_from(dice.below(256)).unwrap();
            }
            line.truncate(1 + dice.below(line.len()));
            if let Some(record) = parse(&line) {
                assert!(line.ends_with(record.text));
            }
        }
    }

    #[test]
    fn a_mark_first_ends_the_lines_that_are_open() {
        let text = String::from_utf8(mark(AT, [true, false], "podrun: 3 bytes lost: no")).unwrap();
        let want = "2026-11-21T14:33:00.123456789Z stdout F \n\
                    2026-11-21T14:33:00.123456789Z stderr F podrun: 3 bytes lost: no\n";
        assert_eq!(text, want);
    }
}
