//! Taking a cgroup away, in all trees, with what its processes made below it.

#![forbid(unsafe_code)]

use super::kill::Wait;
use super::kill::below;
use super::kill::still_there;
use super::layout::Layout;
use super::live::Cgroup;
use super::place::Place;
use crate::error::plain;
use crate::error::{Error, Kind, Result};
use std::io;
use std::path::Path;
use std::time::Duration;

impl Cgroup {
    /// Removes every directory of it; what is gone already is fine, so it may be called twice. A directory stays busy
    /// for a moment after its last process died; after `within` what is left is reported, all of it.
    pub fn remove(&self, within: Duration) -> Result<()> {
        let mut wait = Wait::until(within);
        loop {
            let left: Vec<(&Path, io::Error)> = self
                .leaves
                .iter()
                .filter_map(|open| remove_directory(&open.path).err().map(|err| (open.path.as_path(), err)))
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            let busy = left.iter().all(|(_, err)| err.kind() == io::ErrorKind::ResourceBusy);
            if !busy || !wait.again() {
                return Err(self.left_over(&left));
            }
        }
    }

    /// Takes the directory above away, in each tree where nothing is left in it: the last one out of a directory that is
    /// podrun's own.
    pub fn remove_parent_if_empty(&self) {
        for open in &self.leaves {
            if let Some(parent) = open.path.parent() {
                // EBUSY: somebody is there.
                let _ = std::fs::remove_dir(parent);
            }
        }
    }

    fn left_over(&self, left: &[(&Path, io::Error)]) -> Error {
        let each: Vec<String> = left.iter().map(|(path, err)| format!("{}: {}", path.display(), plain(err))).collect();
        Error::new(Kind::NotNow, format!("remove the cgroup {}", self.place), each.join("; "))
            .hint(format!("{}; kill its processes, then delete once more", still_there(&self.procs())))
    }
}

/// Removes whatever there is of a place in all trees: for `delete` after a crash, from the pod's id alone.
pub fn remove_tree(layout: &Layout, place: &Place, within: Duration) -> Result<()> {
    Cgroup::find(layout, place)?.remove(within)
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match gone(std::fs::remove_dir(path)) {
        Err(err) if err.kind() == io::ErrorKind::ResourceBusy => {}
        other => return other,
    }
    for child in below(path).iter().rev() {
        gone(std::fs::remove_dir(child))?;
    }
    gone(std::fs::remove_dir(path))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
