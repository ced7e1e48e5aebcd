//! The least that a log pump can do: read, copy each line behind a CRI prefix, write.

#![forbid(unsafe_code)]

use crate::sys::newline;
use std::fs::File;
use std::io::{self, Read, Write};

/// As long as a real one.
const PREFIX: &[u8] = b"2026-11-21T14:33:00.123456789Z stdout F ";

pub(crate) fn pump(log: &str) -> io::Result<()> {
    let (mut from, mut log) = (io::stdin().lock(), File::create(log)?);
    let (mut input, mut held) = (vec![0; 80 * 1024], 0);
    let mut output = Vec::with_capacity(160 * 1024);
    loop {
        let len = from.read(&mut input[held..])?;
        if len == 0 {
            return Ok(());
        }
        let (all, mut at) = (held + len, 0);
        output.clear();
        while let Some(end) = newline(&input[at..all]) {
            output.extend_from_slice(PREFIX);
            output.extend_from_slice(&input[at..=at + end]);
            at += end + 1;
        }
        log.write_all(&output)?;
        input.copy_within(at..all, 0);
        held = all - at;
    }
}
