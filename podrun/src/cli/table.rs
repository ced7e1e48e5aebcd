//! Text on stdout: columns that fit what is in them.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "this is the door")]

use crate::error::{Doing, Result};
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

/// Why something could not be written, the first time.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Writes to stdout. A reader that has left (`| head`) is none of our business; what else goes wrong is told by [`shown`].
pub(super) fn print(text: &str) {
    match io::stdout().write_all(text.as_bytes()) {
        Err(err) if err.kind() != ErrorKind::BrokenPipe => drop(FAILED.set(err)),
        _ => {}
    }
}

/// The exit code of a verb that went well, unless what it said has got nowhere: a script must not take half a list for the whole.
pub(super) fn shown(code: i32) -> Result<i32> {
    let failed = FAILED.get().and_then(io::Error::raw_os_error).map(io::Error::from_raw_os_error);
    failed.map_or(Ok(code), Err).doing(|| "write to stdout".into())
}

pub(super) fn line(text: &str) {
    print(&format!("{text}\n"));
}

pub(super) fn json(value: &serde_json::Value) {
    line(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Of one that was asked for the object, of several a list.
pub(super) fn json_of_all(all: Vec<serde_json::Value>) {
    match <[serde_json::Value; 1]>::try_from(all) {
        Ok([one]) => json(&one),
        Err(all) => json(&serde_json::Value::Array(all)),
    }
}

/// A heading and rows, each column as wide as its widest cell.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) {
    print(&lay_out(heading, rows));
}

fn lay_out(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = String::new();
    let head: Vec<String> = heading.iter().map(|&word| word.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let joined: Vec<String> = cells.collect();
        text.push_str(joined.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// `3m`, `2h`, `5d`: an age as kubectl has it.
pub(super) fn age(since: std::time::Duration) -> String {
    match since.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must() {
        let rows = [vec!["web".to_owned(), "Ready".to_owned()], vec!["a-long-name".to_owned(), "Lost".to_owned()]];
        assert_eq!(
            lay_out(&["NAME", "STATE"], &rows),
            "NAME          STATE\nweb           Ready\na-long-name   Lost\n"
        );
    }
}
