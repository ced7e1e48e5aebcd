//! flock(2) on a file in the run-root: it dies with its holder, so no crash leaves it behind.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Nobody holds one of these locks longer than `nft` takes; whoever waits longer is told so instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Shared,
    Exclusive,
}

/// The lock file, made with its directory where missing. Whoever removes the file while holding the lock retires it:
/// those who waited on the old one start again on a new one.
pub fn lock(path: &Path, hold: Hold) -> Result<Flock<File>> {
    let until = Instant::now() + PATIENCE;
    loop {
        let held = flock(open(path)?, hold, until, path)?;
        let links = held.metadata().doing(|| format!("look at {}", path.display()))?.nlink();
        if links > 0 {
            return Ok(held);
        }
    }
}

/// Waits for the lock on a file that is open already.
pub fn flock(mut file: File, hold: Hold, until: Instant, path: &Path) -> Result<Flock<File>> {
    let how = match hold {
        Hold::Shared => FlockArg::LockSharedNonblock,
        Hold::Exclusive => FlockArg::LockExclusiveNonblock,
    };
    let mut pause = Duration::from_micros(50);
    loop {
        file = match Flock::lock(file, how) {
            Ok(held) => return Ok(held),
            Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < until => file,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(Error::new(Kind::NotNow, format!("lock {}", path.display()), "another podrun holds it")
                    .hint(format!("`fuser {}` shows which", path.display())));
            }
            Err((_, errno)) => return Err(errno).doing(|| format!("lock {}", path.display())),
        };
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}

fn open(path: &Path) -> Result<File> {
    let attempt = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let opened = match attempt() {
        Err(err) if err.kind() == ErrorKind::NotFound => {
            directory(path.parent().unwrap_or(Path::new("/")))?;
            attempt()
        }
        other => other,
    };
    opened.doing(|| format!("open {}", path.display()))
}

/// A directory that only root may look into, with its parents.
pub fn directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.doing(|| format!("make the directory {}", path.display()))
}

/// Replaces a record whole: a reader sees the old one or the new one. For callers that hold the record's lock.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let staged = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&staged, path)
    };
    write().doing(|| format!("write {}", path.display()))
}

/// "Already gone" is what whoever removes wants.
pub fn gone(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("podrun-lock-{}-{name}", std::process::id())).join("lock")
    }

    fn forget(path: &Path) {
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn who_holds_it_keeps_others_waiting_and_then_they_are_told() {
        let path = file("waiting");
        let held = lock(&path, Hold::Exclusive).unwrap();
        for hold in [Hold::Shared, Hold::Exclusive] {
            let err = flock(open(&path).unwrap(), hold, Instant::now(), &path).unwrap_err();
            assert_eq!((err.kind, err.cause()), (Kind::NotNow, "another podrun holds it"));
        }
        drop(held);
        let shared = lock(&path, Hold::Shared).unwrap();
        drop(lock(&path, Hold::Shared).unwrap());
        drop(shared);
        forget(&path);
    }

    #[test]
    fn a_lock_that_was_retired_is_not_held_by_who_waited_for_it() {
        let path = file("retired");
        let held = lock(&path, Hold::Exclusive).unwrap();
        let (waiting, there) = (path.clone(), path.clone());
        let waiter = std::thread::spawn(move || lock(&waiting, Hold::Exclusive).unwrap().metadata().unwrap().ino());
        std::thread::sleep(Duration::from_millis(20));
        std::fs::remove_file(&path).unwrap();
        drop(held);
        let got = waiter.join().unwrap();
        assert_eq!(got, std::fs::metadata(there).unwrap().ino(), "the file that everybody sees");
        forget(&path);
    }
}
