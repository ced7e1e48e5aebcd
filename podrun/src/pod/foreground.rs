//! `run` in the foreground, `start -a` and `attach`: a container's output as it comes, the user's input, the end.
//!
//! What is shown is read from the log, so that a slow screen never keeps a container waiting and loses nothing; the input
//! goes straight into the container's pipe or terminal.

#![forbid(unsafe_code)]

use super::client::{self, Client, Heard};
use super::find::Pod;
use super::relay::{Flow, Relay};
use super::terminal::{self, Raw};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerName;
use crate::logs::{self, Logs, Options, Piece, Progress, Watch};
use crate::monitor::socket::{Reply, Request, Until};
use crate::record::{End, Stamp, Stream};
use crate::signal;
use crate::store::Ended;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// What the user wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    None,
    /// `-i`
    Stdin,
}

/// How it came to an end for the user.
#[derive(Debug)]
pub enum Outcome {
    Ended(Ended),
    /// The container runs on.
    Detached,
    /// So it does here, but nobody reads what is shown of it: `| head -1`.
    Unread,
}

/// A program that ends sooner is not followed, its log is only read: the kernel takes some 10 ms to let go of an inotify(7)
/// descriptor (it waits for SRCU), which would be most of a short run.
const SHORT_RUN: Duration = Duration::from_millis(20);

/// A screen: where stdout and stderr of the container go.
struct Screen<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    broken: bool,
}

impl Screen<'_> {
    fn show(&mut self, piece: &Piece<'_>) -> ControlFlow<()> {
        let sink = if piece.stream == Stream::Stderr { &mut *self.err } else { &mut *self.out };
        let mut shown = sink.write_all(piece.text);
        if piece.end == End::Newline {
            shown = shown.and_then(|()| sink.write_all(b"\n"));
        }
        match shown.and_then(|()| sink.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => {
                self.broken = true;
                ControlFlow::Break(())
            }
        }
    }
}

/// One container in the foreground.
#[derive(Debug)]
pub struct Foreground<'a> {
    pod: &'a Pod,
    name: ContainerName,
    input: Input,
    client: Client,
    /// To be asked again of a successor, should the monitor die.
    again: Request,
    lost_since: Option<Instant>,
    logs: Option<Logs>,
    /// When it is to be followed, if it still runs then.
    follow_at: Option<Instant>,
    log_dir: std::path::PathBuf,
    since: Option<Stamp>,
    stdin: Option<Relay>,
    terminal: Option<OwnedFd>,
    raw: Option<Raw>,
    signals: SignalFd,
    told_lost: bool,
    pub pid: Option<i32>,
}

impl<'a> Foreground<'a> {
    /// `first` makes, starts or only waits for the container; what it writes from `since` on is shown.
    pub fn new(
        pod: &'a Pod,
        name: &ContainerName,
        log_dir: &Path,
        first: Request,
        input: Input,
        since: Option<Stamp>,
    ) -> Result<Self> {
        let signals = signal::catch(signal::PROXIED.into_iter().chain([Signal::SIGWINCH]))?;
        let client = Client::connect(pod)?;
        client.ask(&first, &[])?;
        Ok(Self {
            pod,
            name: name.clone(),
            input,
            client,
            again: first,
            lost_since: None,
            logs: None,
            follow_at: None,
            log_dir: log_dir.to_owned(),
            since,
            stdin: None,
            terminal: None,
            raw: None,
            signals,
            told_lost: false,
            pid: None,
        })
    }

    pub fn run(&mut self, out: &mut dyn Write, err: &mut dyn Write) -> Result<Outcome> {
        let mut screen = Screen { out, err, broken: false };
        loop {
            if let Some(ended) = self.hear()? {
                self.open_logs(Watch::Not);
                if let Some(logs) = &mut self.logs {
                    logs::show_all(logs, &mut |piece| screen.show(piece))?;
                }
                return Ok(Outcome::Ended(ended));
            }
            if self.follow_at.is_some_and(|at| at <= Instant::now()) {
                self.open_logs(Watch::Follow);
            }
            let more = match &mut self.logs {
                Some(logs) if !screen.broken => logs.show(&mut |piece| screen.show(piece))? == Progress::More,
                _ => false,
            };
            if screen.broken {
                return Ok(Outcome::Unread);
            }
            match self.stdin.as_mut().map(Relay::advance_if_ready) {
                Some(Flow::Detached) => return Ok(Outcome::Detached),
                Some(Flow::Ended) => self.stdin_ended()?,
                _ => {}
            }
            self.pass_signals(&mut screen)?;
            self.wait(more)?;
        }
    }

    fn wait(&self, more: bool) -> Result<()> {
        let mut fds = vec![
            PollFd::new(self.client.fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.logs.as_ref().and_then(Logs::fd).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        fds.extend(self.stdin.as_ref().and_then(Relay::interest));
        let timeout = match self.follow_at {
            _ if more => PollTimeout::ZERO,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
            }
            None => PollTimeout::NONE,
        };
        match nix::poll::poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(err) => Err(err).doing(|| "wait for the container".into()),
        }
    }

    /// All that the monitor has to say at this moment; the end, if it is among it.
    fn hear(&mut self) -> Result<Option<Ended>> {
        while self.client.has_reply().doing(|| "hear the monitor".into())? {
            match self.client.hear()? {
                Heard::Reply(Reply::Exited { ended, .. }, _) => return Ok(Some(ended)),
                Heard::Reply(Reply::Failed(failure), _) => return Err(failure.into()),
                Heard::Reply(Reply::Started { pid }, _) => {
                    self.pid = Some(pid);
                    self.started()?;
                }
                Heard::Reply(..) => {}
                Heard::Gone => self.look_for_successor()?,
            }
        }
        Ok(None)
    }

    /// The program runs: show its log, and connect the user's input.
    fn started(&mut self) -> Result<()> {
        if self.input == Input::None && self.logs.is_none() {
            self.follow_at = Some(Instant::now() + SHORT_RUN);
            return Ok(());
        }
        // Somebody sits before it.
        self.open_logs(Watch::Follow);
        if self.stdin.is_none() {
            self.connect_stdin()?;
        }
        Ok(())
    }

    fn open_logs(&mut self, watch: Watch) {
        self.follow_at = None;
        if self.logs.is_none() {
            let options = Options { since: self.since, watch, ..Options::default() };
            // No directory: no log could be made, and there is nothing to show.
            self.logs = Logs::of_container(self.name.as_str(), &self.log_dir, options).ok();
        }
    }

    fn connect_stdin(&mut self) -> Result<()> {
        let doing = || "connect stdin".to_owned();
        let answer = client::converse(self.pod, &Request::Attach { name: self.name.clone() }, &[], |reply, fds| {
            Ok(match reply {
                Reply::Stdin { terminal } => Some((terminal, fds.into_iter().next())),
                _ => None,
            })
        });
        let (terminal, sink) = match answer {
            // It has ended already.
            Err(err) if err.kind == Kind::NotNow => return Ok(()),
            other => other?,
        };
        let Some(sink) = sink else { return Ok(()) };
        let own = std::io::stdin();
        let source = own.as_fd().try_clone_to_owned().doing(doing)?;
        if terminal {
            self.terminal = Some(sink.try_clone().doing(doing)?);
            if terminal::is_terminal(own.as_fd()) {
                self.raw = Some(Raw::new(own.as_fd())?);
            }
            self.resize();
            self.stdin = Some(Relay::new(source, sink).with_detach_keys());
        } else {
            nix::fcntl::fcntl(&sink, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).doing(doing)?;
            self.stdin = Some(Relay::new(source, sink));
        }
        Ok(())
    }

    /// Our stdin has ended, and so does the container's: nobody else will write to it.
    fn stdin_ended(&mut self) -> Result<()> {
        self.stdin = None;
        if self.terminal.is_none() {
            match client::command(self.pod, &Request::CloseStdin { name: self.name.clone() }) {
                Err(err) if err.kind == Kind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn resize(&self) {
        if let Some(terminal) = &self.terminal {
            terminal::fit(terminal.as_fd());
        }
    }

    /// Ctrl-C and its kin go to the workload; the window's size to its terminal.
    fn pass_signals(&mut self, screen: &mut Screen<'_>) -> Result<()> {
        while let Some(info) = self.signals.read_signal().doing(|| "read a signal".into())? {
            let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
            if signal == Signal::SIGWINCH as i32 {
                self.resize();
                continue;
            }
            let request = Request::Kill { names: vec![self.name.clone()], signal };
            match client::command(self.pod, &request) {
                // Gone already, which is what such a signal is for.
                Err(err) if matches!(err.kind, Kind::NotNow | Kind::NotFound) => {}
                other => other?,
            }
            self.tell_if_lost(signal, screen);
        }
        Ok(())
    }

    /// Nothing follows, and nobody would know why.
    fn tell_if_lost(&mut self, signal: i32, screen: &mut Screen<'_>) {
        let first = self.pod.container(&self.name).ok().and_then(|record| record.process);
        let lost =
            first.filter(|first| first.open().is_some()).is_some_and(|first| signal::is_lost_on(first.pid, signal));
        if lost && !std::mem::replace(&mut self.told_lost, true) {
            let (pod, name, signal) = (&self.pod.record.name, &self.name, signal::name(signal));
            let _ = writeln!(
                screen.err,
                "podrun: warning: {name} ignores {signal} (a PID 1 needs a handler); `podrun kill {pod}/{name}` ends it"
            );
        }
    }

    fn look_for_successor(&mut self) -> Result<()> {
        let since = *self.lost_since.get_or_insert_with(Instant::now);
        if since.elapsed() > Duration::from_secs(15) {
            return Err(client::no_monitor(self.pod));
        }
        std::thread::sleep(Duration::from_millis(2));
        self.client = Client::connect(self.pod)?;
        self.client.ask(&self.again, &[])
    }
}

/// The request by which `attach` hears of the end.
pub fn wait_request(name: &ContainerName) -> Request {
    Request::Wait { name: name.clone() }
}

/// Until when a foreground run waits.
pub const UNTIL: Until = Until::Exited;

/// An error for a container that is not running.
pub fn not_running(name: &ContainerName, state: &str) -> Error {
    Error::new(Kind::NotNow, format!("attach to {name}"), format!("it is {state}"))
}
