//! One container's log files, read one after another.

#![forbid(unsafe_code)]

use crate::error::Doing;
use crate::error::Result;
use crate::logs;
use crate::logs::Options;
use crate::logs::Piece;
use crate::logs::Progress;
use crate::logs::Run;
use crate::logs::Sink;
use crate::logs::Watch;
use crate::logs::name::Age;
use crate::logs::name::LogName;
use crate::logs::tail::Tail;
use crate::record;
use crate::record::End;
use crate::record::Stream;
use crate::sys::map::memchr;
use crate::sys::map::memrchr;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

/// How much is read at once. No record is longer; what is, was not written by podrun, and is shown in pieces.
pub(super) const BLOCK: usize = 64 * 1024;
const _: () = assert!(BLOCK > record::LONGEST_RECORD);

/// A log file that is being read.
#[derive(Debug)]
struct Current {
    file: File,
    inode: u64,
    /// What it was called when last looked at.
    name: LogName,
    /// The newest rotated file of its run when it was opened as the live one: its own name will come after that.
    before: Option<LogName>,
    /// Always where a record begins. Half of one is read again when the rest is there: a pump on a full disk takes it back.
    at: u64,
}

#[derive(Debug)]
pub(super) struct Reader {
    name: String,
    dir: PathBuf,
    /// Which directory it is: another may get its name.
    inode: Option<u64>,
    options: Options,
    current: Option<Current>,
    /// The file after it, open, so that it stays though the oldest are removed meanwhile.
    next: Option<Current>,
    /// The directory has changed since it was last listed.
    listing_due: bool,
    /// Something was written since the end was last reached.
    awake: bool,
    /// Which file was the newest at first, and how long it was: who does not follow stops there, however fast it grows.
    stop: Option<(u64, u64)>,
    /// For each stream, whether the line that goes on is shown.
    showing: [Option<bool>; 2],
}

impl Reader {
    pub(super) fn new(name: &str, dir: &Path, options: &Options) -> Self {
        Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            inode: inode(dir),
            options: options.clone(),
            current: None,
            next: None,
            listing_due: true,
            awake: true,
            stop: None,
            showing: [None; 2],
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the path still leads to the directory that is read.
    pub(super) fn is_there(&self) -> bool {
        self.inode.is_some() && self.inode == inode(&self.dir)
    }

    /// Something happened in the directory; `names` when files came or went.
    pub(super) fn wake(&mut self, names: bool) {
        self.awake = true;
        self.listing_due |= names;
    }

    /// Shows a block's worth.
    pub(super) fn show(&mut self, block: &mut [u8], sink: &mut Sink<'_>) -> Result<Progress> {
        if !self.awake {
            return Ok(Progress::CaughtUp);
        }
        if self.current.is_none() {
            self.current = self.start().doing(|| format!("open the log in {}", self.dir.display()))?;
        }
        let Some(current) = self.current.take() else {
            self.awake = false;
            return Ok(Progress::CaughtUp);
        };
        self.show_block(current, block, sink)
    }

    fn show_block(&mut self, mut current: Current, block: &mut [u8], sink: &mut Sink<'_>) -> Result<Progress> {
        let doing = format!("read the log {}", self.dir.join(current.name.to_string()).display());
        // Looked for before the read: once there is a next file this one gets no more, so that its end is the end.
        if self.next.is_none() {
            self.next = self.find_next(&mut current).doing(|| doing.clone())?;
        }
        let len = read(&current, block).doing(|| doing.clone())?;
        let most = self.left_of(&current, len);
        let shown = whole_lines(&block[..most]);
        if shown > 0 {
            current.at += u64::try_from(shown).unwrap_or(0);
            self.current = Some(current);
            return Ok(self.pass_on(&block[..shown], sink));
        }
        let next = self.next.take().filter(|_| self.stop.is_none_or(|(inode, _)| inode != current.inode));
        if let Some(next) = next {
            self.current = Some(next);
            return Ok(self.pass_on(&block[..most], sink));
        }
        let progress = self.come_to_rest(&mut current, len).doing(|| doing)?;
        self.current = Some(current);
        Ok(progress)
    }

    /// How much of a block is to be shown, when not following.
    fn left_of(&self, current: &Current, len: usize) -> usize {
        match self.stop {
            Some((inode, end)) if inode == current.inode => {
                usize::try_from(end.saturating_sub(current.at)).map_or(len, |left| left.min(len))
            }
            _ => len,
        }
    }

    /// At the end of the newest file.
    fn come_to_rest(&mut self, current: &mut Current, len: usize) -> io::Result<Progress> {
        if len == 0 && current.file.metadata()?.len() < current.at {
            // Somebody emptied it (`> 0.log`). A pump takes back no more than half a record, and that was not shown.
            current.at = 0;
            return Ok(Progress::More);
        }
        self.awake = self.listing_due;
        Ok(if self.awake { Progress::More } else { Progress::CaughtUp })
    }

    /// Gives whole lines to the sink.
    fn pass_on(&mut self, mut lines: &[u8], sink: &mut Sink<'_>) -> Progress {
        while !lines.is_empty() {
            let (line, end) = memchr(b'\n', lines).map_or((lines, lines.len()), |at| (&lines[..at], at + 1));
            let piece = self.piece(line, end > line.len());
            lines = &lines[end..];
            if self.wanted(&piece) && sink(&Piece { container: &self.name, ..piece }).is_break() {
                return Progress::Stopped;
            }
        }
        Progress::More
    }

    fn piece<'a>(&self, line: &'a [u8], ended: bool) -> Piece<'a> {
        match record::parse(line).filter(|_| ended) {
            Some(record) => Piece {
                container: "",
                stamp: Some(record.stamp),
                stream: record.stream,
                text: record.text,
                end: record.end,
            },
            None => {
                let end = if ended { End::Newline } else { End::Partial };
                Piece { container: "", stamp: None, stream: Stream::Stdout, text: line, end }
            }
        }
    }

    /// Whether the times asked for include this line: its first piece decides.
    fn wanted(&mut self, piece: &Piece<'_>) -> bool {
        let Some(stamp) = piece.stamp else { return true };
        let showing = &mut self.showing[piece.stream.index()];
        let Options { since, until, .. } = &self.options;
        let inside = since.is_none_or(|since| stamp >= since) && until.is_none_or(|until| stamp <= until);
        let wanted = showing.unwrap_or(inside);
        *showing = (piece.end == End::Partial).then_some(wanted);
        wanted
    }

    /// A directory that was removed has no files; what is open of it is still shown.
    fn list(&self) -> io::Result<Vec<(LogName, PathBuf)>> {
        match logs::files(&self.dir) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            files => files,
        }
    }

    /// The file and the place to begin with. None when there is no log yet.
    fn start(&mut self) -> io::Result<Option<Current>> {
        loop {
            let mut files = self.list()?;
            let last = files.last().map(|(name, _)| name.run);
            let run = match self.options.run {
                Run::Last => last,
                Run::Previous => files.iter().map(|(name, _)| name.run).rfind(|run| Some(*run) < last),
            };
            files.retain(|(name, _)| Some(name.run) == run);
            let Some((_, newest)) = files.last() else { return Ok(None) };
            if self.options.watch == Watch::Not {
                self.stop = fs::symlink_metadata(newest).ok().map(|meta| (meta.ino(), meta.len()));
            }
            if let Some(start) = self.start_in(&files)? {
                return Ok(Some(start));
            }
        }
    }

    /// The same, among these files of one run. None when they have changed since they were listed.
    fn start_in(&self, files: &[(LogName, PathBuf)]) -> io::Result<Option<Current>> {
        let Some(wanted) = self.options.tail else {
            let first = files.iter().find(|(name, path)| *name == LogName::live(name.run) || self.reaches(path));
            return first.map_or(Ok(None), |(name, _)| self.open(name, newest_rotated(files)));
        };
        let mut tail = Tail::new(wanted);
        let mut start = None;
        for (name, _) in files.iter().rev() {
            let Some(mut current) = self.open(name, newest_rotated(files))? else { break };
            let found = tail.find(&current.file)?;
            current.at = found.unwrap_or(0);
            start = Some(current);
            if found.is_some() {
                break;
            }
        }
        Ok(start)
    }

    /// Whether a rotated file may hold lines of the times asked for: its last was written when it was last changed.
    fn reaches(&self, path: &Path) -> bool {
        let changed = |meta: fs::Metadata| u64::try_from(meta.mtime()).unwrap_or(0);
        let since = self.options.since.unwrap_or_default();
        fs::metadata(path).map_or(true, |meta| changed(meta) >= since.secs)
    }

    /// The file after `current`, if there is one yet. Finds out what has become of `current`, too.
    fn find_next(&mut self, current: &mut Current) -> io::Result<Option<Current>> {
        while std::mem::take(&mut self.listing_due) {
            let files = self.list()?;
            if !self.is_still_live(current)? {
                current.name = self.find_again(current, &files)?.unwrap_or_else(|| current.name.clone());
            }
            let after = match (&current.name.age, self.is_still_live(current)?) {
                (Age::Live, false) => current.before.clone(),
                _ => Some(current.name.clone()),
            };
            let Some((name, _)) = files.iter().find(|(name, _)| Self::comes_after(name, after.as_ref(), current))
            else {
                return Ok(None);
            };
            if self.options.watch == Watch::Not && name.run != current.name.run {
                return Ok(None);
            }
            match self.open(name, after.as_ref().filter(|after| after.run == name.run).cloned())? {
                // A rotation came between the listing and the opening.
                None => self.listing_due = true,
                next => {
                    self.listing_due = true;
                    return Ok(next);
                }
            }
        }
        Ok(None)
    }

    fn comes_after(name: &LogName, after: Option<&LogName>, current: &Current) -> bool {
        after.map_or(name.run >= current.name.run, |after| name > after)
    }

    fn is_still_live(&self, current: &Current) -> io::Result<bool> {
        Ok(current.name.age == Age::Live && self.is(current, &self.dir.join(current.name.to_string()))?)
    }

    /// Whether a path leads to the file that is being read.
    fn is(&self, current: &Current, path: &Path) -> io::Result<bool> {
        let own = current.file.metadata()?;
        match fs::symlink_metadata(path) {
            Ok(meta) => Ok((meta.dev(), meta.ino()) == (own.dev(), own.ino())),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// The name that a live file got when it was rotated. None when it was removed since.
    fn find_again(&self, current: &Current, files: &[(LogName, PathBuf)]) -> io::Result<Option<LogName>> {
        for (name, path) in files.iter().filter(|(name, _)| name.run == current.name.run) {
            if self.is(current, path)? {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    /// Opens a file by its name. A live one must still be what it was when the directory was listed, when `before` was the
    /// newest rotated one; otherwise, or when it is gone, None.
    fn open(&self, name: &LogName, before: Option<LogName>) -> io::Result<Option<Current>> {
        let mut options = OpenOptions::new();
        // What is no plain file is no log: no links are followed, no FIFO is waited for.
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = match options.open(self.dir.join(name.to_string())) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if name.age == Age::Live {
            let mut now = self.list()?;
            now.retain(|(other, _)| other.run == name.run);
            if newest_rotated(&now) > before {
                return Ok(None);
            }
        }
        Ok(Some(Current { file, inode: meta.ino(), name: name.clone(), before, at: 0 }))
    }
}

fn inode(dir: &Path) -> Option<u64> {
    fs::symlink_metadata(dir).ok().map(|meta| meta.ino())
}

fn newest_rotated(files: &[(LogName, PathBuf)]) -> Option<LogName> {
    files.iter().map(|(name, _)| name).rfind(|name| name.age != Age::Live).cloned()
}

/// How many bytes of a block are whole lines. A block without any newline counts as one, since no record is that long.
fn whole_lines(block: &[u8]) -> usize {
    match memrchr(b'\n', block) {
        Some(at) => at + 1,
        None if block.len() == BLOCK => BLOCK,
        None => 0,
    }
}

fn read(current: &Current, block: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < block.len() {
        match current.file.read_at(&mut block[len..], current.at + u64::try_from(len).unwrap_or(0)) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(len)
}
