//! One container's log file: where its end is, rotation, and finding it again after a crash.

#![forbid(unsafe_code)]

use crate::logs;
use crate::logs::name::LogName;
use crate::record::Stamp;
use std::ffi::OsStr;
use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

/// Which file it is, whatever its name has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// The end of the log: where the next record goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) file: FileId,
    pub(super) offset: u64,
}

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    max_size: Option<u64>,
    max_files: u32,
    file: Option<File>,
    /// Raised when a rotation failed, so that it is not tried again with every record.
    limit: u64,
}

/// Makes the directories of a log, 0750, and the file, 0640. No link is followed at its end, nothing but a plain file is
/// opened (CVE-2026-53492: a log that was a link was read).
pub(super) fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o640);
    // O_NONBLOCK, since opening a FIFO would wait for a reader.
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

impl Log {
    pub(super) fn new(path: PathBuf, max_size: Option<u64>, max_files: u32) -> Self {
        let limit = max_size.unwrap_or(u64::MAX);
        Self { path, max_size, max_files, file: None, limit }
    }

    /// Opens the log where need be. The end is asked for each time: somebody may have cut the file (`> 0.log`), and a file
    /// that was removed is made anew.
    pub(super) fn place(&mut self) -> io::Result<Place> {
        if let Some(file) = &self.file {
            let meta = file.metadata()?;
            if meta.nlink() > 0 {
                return Ok(place_of(&meta));
            }
        }
        let file = self.file.insert(open(&self.path)?);
        Ok(place_of(&file.metadata()?))
    }

    /// How many bytes fit at `offset` before the log must be rotated, `most` at the most.
    pub(super) fn room(&self, offset: u64, most: usize) -> usize {
        usize::try_from(self.limit.saturating_sub(offset)).map_or(most, |room| room.min(most))
    }

    /// Whether a record that does not fit may begin a new file. Not between the pieces of a line, unless the file has become
    /// twice as long as it should be: a line that never ends must not fill the disk.
    pub(super) fn may_rotate(&self, offset: u64, between_pieces: bool) -> bool {
        offset > 0 && (!between_pieces || offset >= self.limit.saturating_mul(2))
    }

    /// Writes all of it at `offset`, or says how much of it was written.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), (usize, io::Error)> {
        let Some(file) = &self.file else { return Err((0, io::ErrorKind::NotFound.into())) };
        let (mut done, mut at) = (0, offset);
        while done < bytes.len() {
            match file.write_at(&bytes[done..], at) {
                Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
                Ok(n) => (done, at) = (done + n, at + u64::try_from(n).unwrap_or(0)),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err((done, err)),
            }
        }
        Ok(())
    }

    /// Takes away what is beyond `end`: half a record of a full disk.
    pub(super) fn cut(&self, end: u64) -> io::Result<()> {
        match &self.file {
            Some(file) if file.metadata()?.len() > end => file.set_len(end),
            _ => Ok(()),
        }
    }

    /// The next `place` opens the path anew.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// Opens the path anew, at once; on an error everything stays as it was.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file = Some(open(&self.path)?);
        Ok(())
    }

    /// Goes on with the file that a step was under way in, whether it still has its name or was renamed since.
    pub(super) fn adopt(&mut self, id: FileId) -> io::Result<bool> {
        for path in [self.path.clone()].into_iter().chain(self.rotated()?.into_iter().map(|(_, path)| path)) {
            let meta = match fs::symlink_metadata(&path) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                meta => meta?,
            };
            if meta.is_file() && place_of(&meta).file == id {
                self.file = Some(open(&path)?);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Renames the file to `<n>.log.<YYYYMMDD-HHMMSS>`, opens a new one, and removes the oldest.
    pub(super) fn rotate(&mut self, now: Stamp) -> io::Result<()> {
        let done = self.try_rotate(now);
        if let Some(size) = self.max_size {
            let end = self.place().map_or(0, |place| place.offset);
            self.limit = if done.is_ok() { size } else { end.saturating_add(size) };
        }
        done
    }

    fn try_rotate(&mut self, now: Stamp) -> io::Result<()> {
        let mut old = self.rotated()?;
        let name = self.name()?.rotated(now, old.last().map(|(name, _)| name));
        let to = self.path.with_file_name(name.to_string());
        match fs::rename(&self.path, &to) {
            Ok(()) => old.push((name, to)),
            // Somebody else has just renamed it.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
        self.close();
        let reopened = self.place();
        let kept = usize::try_from(self.max_files.saturating_sub(1)).unwrap_or(usize::MAX);
        for (_, path) in old.iter().take(old.len().saturating_sub(kept)) {
            fs::remove_file(path)?;
        }
        reopened.map(|_| ())
    }

    fn name(&self) -> io::Result<LogName> {
        let name = self.path.file_name().and_then(OsStr::to_str).and_then(LogName::parse);
        name.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The rotated files of this log, the oldest first.
    fn rotated(&self) -> io::Result<Vec<(LogName, PathBuf)>> {
        let own = self.name()?;
        let mut found = logs::files(self.path.parent().unwrap_or(Path::new("/")))?;
        found.retain(|(name, _)| name.run == own.run && *name != own);
        Ok(found)
    }
}

fn place_of(meta: &fs::Metadata) -> Place {
    Place { file: FileId { device: meta.dev(), inode: meta.ino() }, offset: meta.len() }
}
