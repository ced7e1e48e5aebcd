//! How lines look when they are shown with the time or with the container's name.

#![forbid(unsafe_code)]

use crate::logs::Piece;
use crate::record::End;
use crate::record::Stream;

/// What stands before each line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    pub name: Name,
    pub time: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Hidden,
    Shown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    Hidden,
    Shown,
}

/// Pieces become lines. Where the pieces of two lines come in turn, each begins a line of its own: a screen has but one.
#[derive(Debug)]
pub struct Layout {
    before: Before,
    /// Whose line has not ended yet.
    open: Option<(String, Stream)>,
}

impl Layout {
    pub fn new(before: Before) -> Self {
        Self { before, open: None }
    }

    /// Adds to `out` what is to be written for a piece. With nothing before the lines these are just the bytes that the
    /// program wrote, if each stream has an `out` of its own.
    pub fn print(&mut self, piece: &Piece<'_>, out: &mut Vec<u8>) {
        if self.before != (Before { name: Name::Hidden, time: Time::Hidden }) {
            self.begin(piece, out);
        }
        out.extend_from_slice(piece.text);
        if piece.end == End::Newline || (piece.end == End::Nothing && self.open.take().is_some()) {
            out.push(b'\n');
            self.open = None;
        }
    }

    fn begin(&mut self, piece: &Piece<'_>, out: &mut Vec<u8>) {
        let own = |(name, stream): &(String, Stream)| name == piece.container && *stream == piece.stream;
        match &self.open {
            Some(open) if own(open) => return,
            Some(_) => out.push(b'\n'),
            None => {}
        }
        self.open = Some((piece.container.to_owned(), piece.stream));
        if self.before.name == Name::Shown {
            out.extend_from_slice(format!("[{}] ", piece.container).as_bytes());
        }
        if let (Time::Shown, Some(stamp)) = (self.before.time, piece.stamp) {
            out.extend_from_slice(stamp.text().as_bytes());
            out.push(b' ');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stamp;

    fn printed(before: Before) -> String {
        let piece =
            |container, stream, text, end| Piece { container, stamp: Some(Stamp::default()), stream, text, end };
        let mut layout = Layout::new(before);
        let mut out = Vec::new();
        for piece in [
            piece("a", Stream::Stdout, &b"one"[..], End::Partial),
            piece("a", Stream::Stdout, b" line", End::Newline),
            piece("a", Stream::Stdout, b"cut", End::Partial),
            piece("b", Stream::Stdout, b"in", End::Newline),
            piece("a", Stream::Stdout, b"two", End::Nothing),
            Piece { stamp: None, ..piece("a", Stream::Stdout, b"?", End::Newline) },
        ] {
            layout.print(&piece, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_begin_with_what_was_asked_for() {
        let (name, time) = (Name::Shown, Time::Hidden);
        assert_eq!(printed(Before { name, time }), "[a] one line\n[a] cut\n[b] in\n[a] two\n[a] ?\n");
        let (name, time) = (Name::Hidden, Time::Shown);
        let z = "1970-01-01T00:00:00.000000000Z";
        assert_eq!(printed(Before { name, time }), format!("{z} one line\n{z} cut\n{z} in\n{z} two\n?\n"));
    }

    #[test]
    fn with_nothing_before_lines_the_bytes_are_the_programs() {
        assert_eq!(printed(Before { name: Name::Hidden, time: Time::Hidden }), "one line\ncutin\ntwo?\n");
    }
}
