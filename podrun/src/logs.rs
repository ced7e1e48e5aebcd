//! Reading the logs of containers.

#![forbid(unsafe_code)]

pub mod name;

use crate::logs::name::LogName;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

/// The log files in a container's directory, in the order in which they were written.
pub fn files(dir: &Path) -> io::Result<Vec<(LogName, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().and_then(LogName::parse) {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}
