//! `logs` and `rotate`.

#![forbid(unsafe_code)]

use super::args::{Global, Words, duration};
use crate::error::{Error, Kind, Result};
use crate::id::ContainerName;
use crate::logs::layout::{Before, Layout, Name, Time};
use crate::logs::{self, Logs, Options, Piece, Run, Watch};
use crate::monitor::socket::{Reply, Request};
use crate::pod::client::{self, Client, Heard};
use crate::pod::find::Pod;
use crate::record::{Stamp, Stream};
use crate::store::State;
use crate::sys::clone::poll_one;
use clap::Args;
use std::io::Write;
use std::ops::ControlFlow;

#[derive(Debug, Args)]
struct LogsVerb {
    #[command(flatten)]
    global: Global,
    /// POD, or POD/NAME
    target: String,
    /// Only this container; all, with their names, by default
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// Go on with what is written later
    #[arg(short = 'f', long)]
    follow: bool,
    /// The last N lines
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    tail: Option<String>,
    /// From this moment on: a time, or how long ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this moment
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// With the time of each line
    #[arg(long)]
    timestamps: bool,
    /// Of the run before the last
    #[arg(short = 'p', long)]
    previous: bool,
    /// With the container's name before each line
    #[arg(long)]
    prefix: bool,
}

const EXAMPLES: &str = "  podrun logs web
  podrun logs web/nginx -f --tail 20
  podrun logs web -c nginx --since 10m --timestamps";

pub(super) fn logs(words: &Words) -> Result<i32> {
    let asked: LogsVerb = words.parse(EXAMPLES)?;
    let (pod, names) = asked.global.split(&asked.target, asked.container.as_slice())?;
    let pod = asked.global.pod(&pod)?;
    let options = Options {
        tail: asked.tail.as_deref().map(tail).transpose()?.flatten(),
        since: asked.since.as_deref().map(moment).transpose()?,
        until: asked.until.as_deref().map(moment).transpose()?,
        run: if asked.previous { Run::Previous } else { Run::Last },
        watch: if asked.follow { Watch::Follow } else { Watch::Not },
    };
    let record = &pod.record;
    let (mut source, container) = match &names[..] {
        [name] => {
            let known = pod.container(name)?;
            if asked.previous && known.restarts == 0 {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("show the previous log of {name}"),
                    "it has run only once",
                ));
            }
            let dir = pod.roots.container_logs(&record.namespace, &record.name, &record.id, name);
            (Logs::of_container(name.as_str(), &dir, options)?, Some(name.clone()))
        }
        [] => {
            let dir = pod.roots.pod_logs(&record.namespace, &record.name, &record.id);
            if !dir.is_dir() {
                if !asked.follow {
                    return Ok(0);
                }
                crate::store::make_private_dir(&dir, 0o750)?;
            }
            (Logs::of_pod(&dir, options)?, None)
        }
        _ => return Err(Error::new(Kind::Usage, format!("read {:?}", asked.target), "one container, or all")),
    };
    let before = Before {
        name: if container.is_none() || asked.prefix { Name::Shown } else { Name::Hidden },
        time: if asked.timestamps { Time::Shown } else { Time::Hidden },
    };
    let mut screen = Screen::new(before);
    match asked.follow {
        false => logs::show_all(&mut source, &mut |piece| screen.show(piece))?,
        true => follow(&pod, container.as_ref(), &mut source, &mut screen)?,
    }
    Ok(screen.code())
}

/// Where lines go: both streams with one layout each, so that bytes stay what they were.
struct Screen {
    layouts: [Layout; 2],
    mixed: bool,
    buffer: Vec<u8>,
    broken: bool,
}

impl Screen {
    fn new(before: Before) -> Self {
        let mixed = before.name == Name::Shown || before.time == Time::Shown;
        Self { layouts: [Layout::new(before), Layout::new(before)], mixed, buffer: Vec::new(), broken: false }
    }

    fn show(&mut self, piece: &Piece<'_>) -> ControlFlow<()> {
        self.buffer.clear();
        // With something before each line there is one screen; without, each stream's bytes are its own.
        let layout = if self.mixed { 0 } else { piece.stream.index() };
        self.layouts[layout].print(piece, &mut self.buffer);
        let shown = match piece.stream {
            Stream::Stderr => std::io::stderr().write_all(&self.buffer),
            Stream::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(&self.buffer).and_then(|()| out.flush())
            }
        };
        self.broken = shown.is_err();
        if self.broken { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// A reader that left: what a shell shows for SIGPIPE, without noise.
    fn code(&self) -> i32 {
        if self.broken { 141 } else { 0 }
    }
}

/// `--tail -1` and `--tail all` mean all (kubectl, docker).
fn tail(text: &str) -> Result<Option<u64>> {
    match text {
        "-1" | "all" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| Error::new(Kind::Usage, format!("read --tail {text:?}"), "not a number of lines")),
    }
}

/// RFC 3339, seconds since the epoch, or how long ago: `10m`.
fn moment(text: &str) -> Result<Stamp> {
    if let Some(stamp) = Stamp::parse(text.as_bytes()) {
        return Ok(stamp);
    }
    if text.len() >= 9
        && let Ok(seconds) = text.parse::<u64>()
    {
        return Ok(Stamp { secs: seconds, nanos: 0 });
    }
    let ago = duration(text).map_err(|_| {
        Error::new(Kind::Usage, format!("read the time {text:?}"), "not a time")
            .hint("2026-11-21T10:00:00Z, or how long ago: 10m")
    })?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let then = now.saturating_sub(ago);
    Ok(Stamp { secs: then.as_secs(), nanos: then.subsec_nanos() })
}

/// Ends when the container has ended for good; without a container, when the pod is gone or has none that will write.
fn follow(pod: &Pod, container: Option<&ContainerName>, source: &mut Logs, screen: &mut Screen) -> Result<()> {
    match container {
        Some(name) => {
            let mut waiting = Waiting::new(pod, name)?;
            let wake = waiting
                .client
                .fd()
                .try_clone_to_owned()
                .map_err(|err| Error::new(Kind::Kernel, "follow the log", err))?;
            use std::os::fd::AsFd;
            logs::follow(source, Some(wake.as_fd()), &mut || waiting.over(pod, name), &mut |piece| screen.show(piece))
        }
        None => {
            let name_gone = || !pod.dir.record().exists();
            while !name_gone() && !screen.broken {
                let over =
                    pod.containers().iter().all(|record| record.state == State::Exited) && !pod.containers().is_empty();
                logs::show_all(source, &mut |piece| screen.show(piece))?;
                if over {
                    // What they wrote last came before their records.
                    logs::show_all(source, &mut |piece| screen.show(piece))?;
                    return Ok(());
                }
                if let Some(fd) = source.fd() {
                    let _ = poll_one(fd, libc::POLLIN, 250);
                }
            }
            Ok(())
        }
    }
}

/// The monitor's word on whether a container is over.
struct Waiting {
    client: Client,
    over: bool,
}

impl Waiting {
    fn new(pod: &Pod, name: &ContainerName) -> Result<Self> {
        let client = Client::connect(pod)?;
        client.ask(&Request::Wait { name: name.clone() }, &[])?;
        Ok(Self { client, over: false })
    }

    fn over(&mut self, pod: &Pod, name: &ContainerName) -> Result<bool> {
        while !self.over && self.client.has_reply().map_err(|err| Error::new(Kind::Kernel, "follow the log", err))? {
            match self.client.hear()? {
                Heard::Reply(Reply::Exited { .. } | Reply::Done, _) => self.over = true,
                Heard::Reply(Reply::Failed(_), _) => self.over = true,
                Heard::Reply(..) => {}
                Heard::Gone if !pod.dir.record().exists() => self.over = true,
                Heard::Gone => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    *self = Self::new(pod, name)?;
                }
            }
        }
        Ok(self.over)
    }
}

#[derive(Debug, Args)]
struct Rotate {
    #[command(flatten)]
    global: Global,
    /// POD/NAME
    target: String,
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
}

pub(super) fn rotate(words: &Words) -> Result<i32> {
    let asked: Rotate = words.parse("  mv …/0.log …/0.log.old && podrun rotate web/nginx")?;
    let (pod, name) = asked.global.one(&asked.target, asked.container.as_ref())?;
    let pod = asked.global.pod(&pod)?;
    client::command(&pod, &Request::ReopenLogs { name })?;
    Ok(0)
}
