//! What proc(5) says of processes and mounts, as text: pure, so that each is read in one way.

use std::path::{Path, PathBuf};

/// A field of /proc/PID/stat by its number in proc_pid_stat(5), from the third on: the second, the name, may hold spaces and
/// parentheses, and the last one ends it.
pub fn stat_field(text: &str, number: usize) -> Option<&str> {
    let (_, rest) = text.rsplit_once(") ")?;
    rest.trim_end().split(' ').nth(number.checked_sub(3)?)
}

/// One line of proc_pid_mountinfo(5): `36 35 98:0 /root /point rw,noatime shared:1 - type source rw,memory`.
#[derive(Debug)]
pub struct Mount<'a> {
    pub id: &'a str,
    pub parent: &'a str,
    pub root: &'a str,
    /// As the kernel writes it ([`unescape`]).
    pub point: &'a str,
    pub kind: &'a str,
    pub options: &'a str,
}

impl<'a> Mount<'a> {
    pub fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ');
        let (id, parent) = (fields.next()?, fields.next()?);
        let (root, point) = (fields.nth(1)?, fields.next()?);
        let mut fields = after.split(' ');
        Some(Self { id, parent, root, point, kind: fields.next()?, options: fields.nth(1)? })
    }
}

/// Space, tab, newline and backslash are written as three octal digits.
pub fn unescape(text: &str) -> PathBuf {
    if !text.contains('\\') {
        return PathBuf::from(text);
    }
    let mut plain = text.to_owned();
    for (code, letter) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(code, letter);
    }
    Path::new(&plain).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_stat_are_found_behind_any_name() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let text = format!("1 (a) b) S) {}\n", fields.join(" "));
        for number in [3, 20, 52] {
            assert_eq!(stat_field(&text, number), Some(number.to_string().as_str()));
        }
        assert_eq!((stat_field(&text, 53), stat_field(&text, 2), stat_field("1 (cut", 3)), (None, None, None));
    }
}
