//! Reading the logs of containers: from a time, the last lines, and following what is still written.
//!
//! Promises: each record once and in the order of its file, though the log is rotated, renamed by somebody else, goes on in
//! the next run's file, or its reader was stopped for a while; memory does not grow with the log (I5). What is no record is
//! shown as it is. Does not: know whether a container will run again; the caller says when it is over.

#![forbid(unsafe_code)]

pub mod layout;
pub mod name;
mod reader;
mod tail;

use crate::error::Doing;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::logs::name::LogName;
use crate::logs::reader::BLOCK;
use crate::logs::reader::Reader;
use crate::record::End;
use crate::record::Stamp;
use crate::record::Stream;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::sys::inotify::AddWatchFlags;
use nix::sys::inotify::InitFlags;
use nix::sys::inotify::Inotify;
use nix::sys::inotify::WatchDescriptor;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// Which of a log to show.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The last lines only. Not for containers that appear later.
    pub tail: Option<u64>,
    /// Lines from this moment on.
    pub since: Option<Stamp>,
    /// Lines up to this moment.
    pub until: Option<Stamp>,
    pub run: Run,
    pub watch: Watch,
}

/// Which run of a container that was restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Run {
    #[default]
    Last,
    /// The one before the last.
    Previous,
}

/// Whether to go on with what is written later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Watch {
    #[default]
    Not,
    Follow,
}

/// A piece of a line. All pieces of one stream, each with a newline where `end` says so, are what was written to it.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    pub container: &'a str,
    /// None for what is no record.
    pub stamp: Option<Stamp>,
    pub stream: Stream,
    pub text: &'a [u8],
    pub end: End,
}

/// Takes the pieces; `Break` when it wants no more.
pub type Sink<'a> = dyn FnMut(&Piece<'_>) -> ControlFlow<()> + 'a;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There may be more now.
    More,
    /// All is shown that there is.
    CaughtUp,
    /// The sink wanted no more.
    Stopped,
}

/// The logs of one container or of all of a pod.
#[derive(Debug)]
pub struct Logs {
    options: Options,
    inotify: Option<Inotify>,
    /// The directory of the containers' directories, when later containers are to be shown too.
    pod: Option<(PathBuf, Option<WatchDescriptor>)>,
    readers: Vec<(Reader, Option<WatchDescriptor>)>,
    block: Vec<u8>,
}

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

impl Logs {
    /// One container's, from its directory of log files, which must exist; the files may come later.
    pub fn of_container(name: &str, dir: &Path, options: Options) -> Result<Self> {
        let mut logs = Self::new(options)?;
        let reader = Reader::new(name, dir, &logs.options);
        logs.watch(reader)?;
        Ok(logs)
    }

    /// All containers', from the pod's log directory; those that appear later too, when following.
    pub fn of_pod(dir: &Path, options: Options) -> Result<Self> {
        let mut logs = Self::new(options)?;
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        let watch = logs.inotify.as_ref().map(|inotify| inotify.add_watch(dir, flags)).transpose();
        logs.pod = Some((dir.to_owned(), watch.doing(|| format!("watch {}", dir.display())).map_err(too_many)?));
        let options = logs.options.clone();
        logs.find_containers(&options)?;
        Ok(logs)
    }

    fn new(options: Options) -> Result<Self> {
        let inotify = match options.watch {
            Watch::Not => None,
            Watch::Follow => {
                let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
                Some(Inotify::init(flags).doing(|| "watch for log lines".to_owned()).map_err(too_many)?)
            }
        };
        Ok(Self { options, inotify, pod: None, readers: Vec::new(), block: vec![0; BLOCK] })
    }

    /// Readable when there may be more to show. None when not following.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// The watch comes before the first look, so that nothing falls between the two.
    fn watch(&mut self, reader: Reader) -> Result<()> {
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        let watch = self.inotify.as_ref().map(|inotify| inotify.add_watch(reader.dir(), flags)).transpose();
        let watch = watch.doing(|| format!("watch {}", reader.dir().display())).map_err(too_many)?;
        self.readers.push((reader, watch));
        Ok(())
    }

    fn find_containers(&mut self, options: &Options) -> Result<()> {
        let Some((dir, _)) = &self.pod else { return Ok(()) };
        let doing = || format!("list the logs in {}", dir.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).doing(doing)? {
            let entry = entry.doing(doing)?;
            // Without its watch a reader is of a directory that was removed; this is another one.
            let own = |(reader, watch): &(Reader, Option<WatchDescriptor>)| {
                reader.dir() == entry.path() && (watch.is_some() || self.inotify.is_none())
            };
            let known = self.readers.iter().any(own);
            if !known && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
            }
        }
        found.sort();
        for (name, dir) in found {
            self.watch(Reader::new(&name, &dir, options))?;
        }
        Ok(())
    }

    /// Watches no longer what was removed. The kernel says nothing of it while a file in it is open.
    fn leave_removed(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        for (reader, watch) in self.readers.iter_mut().filter(|(reader, _)| !reader.is_there()) {
            reader.wake(true);
            // It may be gone already.
            let _ = watch.take().map(|watch| inotify.rm_watch(watch));
        }
    }

    /// Shows what there is: a bounded part of it, so that the caller can look at other things in between.
    pub fn show(&mut self, sink: &mut Sink<'_>) -> Result<Progress> {
        self.look_at_events()?;
        let mut progress = Progress::CaughtUp;
        let mut at = 0;
        while let Some((reader, watch)) = self.readers.get_mut(at) {
            match reader.show(&mut self.block, sink)? {
                Progress::Stopped => return Ok(Progress::Stopped),
                Progress::CaughtUp if watch.is_none() && self.inotify.is_some() => {
                    // All is shown of a container whose logs were removed.
                    self.readers.remove(at);
                    continue;
                }
                Progress::More => progress = Progress::More,
                Progress::CaughtUp => {}
            }
            at += 1;
        }
        Ok(progress)
    }

    /// Learns from inotify(7) which directories changed; what changed in them is looked up, not believed.
    fn look_at_events(&mut self) -> Result<()> {
        let Some(inotify) = &self.inotify else { return Ok(()) };
        let (mut lost, mut pod_changed) = (false, false);
        loop {
            let events = match inotify.read_events() {
                Err(Errno::EAGAIN) => break,
                events => events.doing(|| "watch for log lines".to_owned())?,
            };
            for event in events {
                lost |= event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                pod_changed |= self.pod.as_ref().is_some_and(|(_, watch)| *watch == Some(event.wd));
                let mut readers = self.readers.iter_mut();
                if let Some((reader, watch)) = readers.find(|(_, watch)| *watch == Some(event.wd)) {
                    reader.wake(event.mask != AddWatchFlags::IN_MODIFY);
                    if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                        *watch = None;
                        pod_changed = true;
                    }
                }
            }
        }
        if lost {
            self.readers.iter_mut().for_each(|(reader, _)| reader.wake(true));
        }
        if lost || pod_changed {
            self.leave_removed();
            self.find_containers(&Options { tail: None, ..self.options.clone() })?;
        }
        Ok(())
    }
}

/// inotify(7) answers ENOSPC and EMFILE when a user has too many watches or instances, which says little.
fn too_many(err: Error) -> Error {
    match err.kind {
        Kind::NotFound => err,
        _ => err.hint("raise fs.inotify.max_user_watches and fs.inotify.max_user_instances with sysctl"),
    }
}

/// Shows all there is.
pub fn show_all(logs: &mut Logs, sink: &mut Sink<'_>) -> Result<()> {
    while logs.show(sink)? == Progress::More {}
    Ok(())
}

/// Shows what there is and what comes, until `over` says that nothing will come any more and all of it is shown, or the sink
/// wants no more, or the `until` of the options has passed. `over` is asked again whenever `wake` can be read, which it must
/// empty; it must not wait.
pub fn follow(
    logs: &mut Logs,
    wake: Option<BorrowedFd<'_>>,
    over: &mut dyn FnMut() -> Result<bool>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    loop {
        // Asked before the last look: what was written before it was over is shown.
        let last = over()? || logs.options.until.is_some_and(|until| until < Stamp::now());
        match logs.show(sink)? {
            Progress::Stopped => return Ok(()),
            Progress::More if last => return show_all(logs, sink),
            Progress::More => {}
            Progress::CaughtUp if last => return Ok(()),
            Progress::CaughtUp => wait(logs, wake)?,
        }
    }
}

fn wait(logs: &Logs, wake: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut fds: Vec<PollFd<'_>> =
        logs.fd().into_iter().chain(wake).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let timeout = logs.options.until.map_or(PollTimeout::NONE, |until| {
        let (now, nanos) = (Stamp::now(), |stamp: Stamp| Duration::new(stamp.secs, stamp.nanos));
        let left = nanos(until).saturating_sub(nanos(now)) + Duration::from_millis(1);
        PollTimeout::from(u16::try_from(left.as_millis()).unwrap_or(u16::MAX))
    });
    match nix::poll::poll(&mut fds, timeout) {
        Err(Errno::EINTR) => Ok(()),
        done => done.map(|_| ()).doing(|| "wait for log lines".to_owned()),
    }
}
