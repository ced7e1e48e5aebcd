//! inotify(7) on everything that the picture is read from, so that nobody has to ask again and again.
//!
//! What no file tells (a cable that is pulled out, keepers that were killed) is seen when the picture is drawn next.

#![forbid(unsafe_code)]

use crate::error::{Doing, Result};
use crate::roots::Roots;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    roots: Roots,
}

impl Watch {
    pub fn new(roots: &Roots) -> Result<Self> {
        let made = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        Ok(Self { inotify: made.doing(|| "watch the records".to_owned())?, roots: roots.clone() })
    }

    /// Watches what there is now; what is watched already stays so. To be called before the records are read: what
    /// changes after that is heard.
    pub fn extend(&self) {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for directory in directories(&self.roots) {
            // Gone meanwhile, or more than fs.inotify.max_user_watches: then the next drawing shows it.
            let _ = self.inotify.add_watch(&directory, flags);
        }
    }

    /// Forgets what was heard.
    pub fn drain(&self) {
        while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn directories(roots: &Roots) -> Vec<PathBuf> {
    let mut all = vec![there(&roots.pods()), there(&roots.run.join("networks")), there(&roots.networks())];
    for entry in std::fs::read_dir(roots.pods()).into_iter().flatten().flatten() {
        all.push(entry.path().join("containers"));
        all.push(entry.path());
    }
    all
}

/// The directory, or where it will be made.
fn there(directory: &Path) -> PathBuf {
    let mut path = directory;
    while let (false, Some(parent)) = (path.is_dir(), path.parent()) {
        path = parent;
    }
    path.to_owned()
}
