//! Formats of records: which build may read what another one wrote. docs/decisions/0014 has the rules.
//!
//! Promises: a record of a format that this build does not know is left as it is, and so is the pod that it belongs to.

#![forbid(unsafe_code)]

use super::PodDir;
use crate::error::{Error, Kind, Result};
use serde::Deserialize;
use std::fs;

/// The format that this build writes, of the records on disk and of what a monitor keeps in the fd store. The second has a
/// pod's interfaces as a list, and more words for what they lead to; the third overlays and networks of CNI plugins, the fourth
/// pods of users.
pub const VERSION: u32 = if cfg!(feature = "later-format") { 5 } else { 4 };

/// The oldest format whose builds may read what this one writes. A field more, which they may pass over, leaves it as it is.
pub const READABLE_SINCE: u32 = 1;

/// What the way out of a refusal is.
const CURE: &str = "use the podrun that wrote it, or a later one; `podrun delete pod NAME --force` gives the pod up";

/// What every record says of itself. The first ones did not say who may read them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Format {
    #[serde(default = "first")]
    version: u32,
    readable_since: Option<u32>,
}

/// Of what does not say.
pub fn first() -> u32 {
    1
}

/// Asked before anything else of a record is looked at: in a format that is not ours a field may mean something else.
pub(super) fn refuse_unknown(bytes: &[u8], doing: impl FnOnce() -> String) -> Result<()> {
    // What is no record at all is told by whoever reads it.
    let Ok(format) = serde_json::from_slice::<Format>(bytes) else { return Ok(()) };
    refuse(format.readable_since.unwrap_or(format.version), doing)
}

/// The same for what says by itself which format its readers need to know.
pub fn refuse(needed: u32, doing: impl FnOnce() -> String) -> Result<()> {
    if needed <= VERSION {
        return Ok(());
    }
    let cause = format!("it is of a later podrun: format {needed}, where this one knows those up to {VERSION}");
    Err(Error::new(Kind::Unsupported, doing(), cause).hint(CURE))
}

/// Whether this build understands every record of a pod: asked before it takes the place of one that does.
pub fn understands(dir: &PodDir) -> Result<()> {
    let entries = fs::read_dir(dir.containers()).into_iter().flatten().flatten().map(|entry| entry.path());
    let records = entries.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    for path in [dir.record(), dir.networks(), dir.keepers()].into_iter().chain(records) {
        if let Ok(bytes) = fs::read(&path) {
            refuse_unknown(&bytes, || format!("read {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_says_of_its_readers_decides() {
        let next = VERSION + 1;
        for (record, read) in [
            (format!(r#"{{"version":{VERSION}}}"#), true),
            (format!(r#"{{"version":{next}}}"#), false),
            (format!(r#"{{"version":{next},"readableSince":{VERSION}}}"#), true),
            (format!(r#"{{"version":99,"readableSince":{next}}}"#), false),
            // Those that are no records, or have no format, are not refused for it.
            ("{}".to_owned(), true),
            ("{\"half".to_owned(), true),
        ] {
            assert_eq!(refuse_unknown(record.as_bytes(), String::new).is_ok(), read, "{record}");
        }
    }
}
