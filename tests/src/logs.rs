//! CRI log lines, read as strictly as a log shipper would.

/// `<RFC3339Nano> <stream> <P|F> <text>\n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub time: String,
    pub stream: String,
    pub tag: String,
    pub text: Vec<u8>,
}

/// All lines of a log file. Panics with the line's number at anything that is not the format.
#[track_caller]
pub fn cri_lines(file: &[u8]) -> Vec<LogLine> {
    assert!(file.is_empty() || file.ends_with(b"\n"), "the file does not end with a newline");
    file.split_inclusive(|&byte| byte == b'\n').enumerate().map(|(at, line)| line_of(at + 1, line)).collect()
}

#[track_caller]
fn line_of(number: usize, line: &[u8]) -> LogLine {
    let shown = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
    let mut parts = line[..line.len() - 1].splitn(4, |&byte| byte == b' ');
    let mut word = |what: &str| -> Vec<u8> {
        parts.next().unwrap_or_else(|| panic!("line {number} has no {what}: {shown}")).to_vec()
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_else(|_| panic!("line {number}: {shown}"));
    let (time, stream, tag) = (text(word("time")), text(word("stream")), text(word("tag")));
    assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "line {number} has no RFC 3339 time: {shown}");
    assert!(["stdout", "stderr"].contains(&stream.as_str()), "line {number} has no stream: {shown}");
    assert!(["P", "F"].contains(&tag.as_str()), "line {number} has no tag: {shown}");
    LogLine { time, stream, tag, text: word("text") }
}

/// What the program wrote to one stream: a full line gets its newline back, a partial one has none.
pub fn joined(lines: &[LogLine], stream: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines.iter().filter(|line| line.stream == stream) {
        out.extend_from_slice(&line.text);
        if line.tag == "F" {
            out.push(b'\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_lines_are_joined() {
        let file = b"2026-01-01T00:00:00.1Z stdout P a \n2026-01-01T00:00:00.1Z stderr F x\n2026-01-01T00:00:00.1Z stdout F b\n";
        assert_eq!(joined(&cri_lines(file), "stdout"), b"a b\n");
    }

    #[test]
    #[should_panic(expected = "no tag")]
    fn a_line_without_its_tag_is_not_the_format() {
        cri_lines(b"2026-01-01T00:00:00.1Z stdout hello\n");
    }
}
