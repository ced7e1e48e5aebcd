//! flock(2) on a file in the run-root: it dies with its holder, so no crash leaves it behind.

#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Kind, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
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

/// A directory that only root may look into.
pub fn directory(path: &Path) -> Result<()> {
    let make = || format!("make the directory {}", path.display());
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).doing(make)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).doing(make)
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
