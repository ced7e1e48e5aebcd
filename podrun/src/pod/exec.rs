//! `exec`: a program joins a container, with the caller's stdio or a terminal.

#![forbid(unsafe_code)]

use super::client::{self, Client, Heard};
use super::find::Pod;
use super::relay::{Flow, Relay, may_be_handed_over};
use super::terminal::{self, Raw};
use crate::container::plan::{Plan, Stdio};
use crate::container::planning::{self, ExecRequest};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerName;
use crate::monitor::socket::{Reply, Request};
use crate::signal;
use crate::store::{self, Ended};
use crate::sys::fd::{self, Resolve};
use crate::user::Files;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How `exec` treats the caller's stdin, and how long it waits for output that a background child holds open.
#[derive(Debug, Clone)]
pub struct Wish {
    pub request: ExecRequest,
    /// `-i`: pass stdin on.
    pub stdin: Stdin,
    /// After the program has ended (kubelet's drain_exec_sync_io).
    pub drain: Duration,
    /// When it is over, the program and all that it started are killed. Nor does then anybody outlive the program.
    pub limit: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    Null,
    Passed,
}

/// Runs a program in a container and answers with how it ended; `TimedOut` where that was by its limit.
pub fn exec(pod: &Pod, name: &ContainerName, wish: &Wish) -> Result<Ended> {
    let record = pod.container(name)?;
    let plan: Plan = store::read(&pod.dir.plan(name))?;
    let users = match (&wish.request.user, &record.process) {
        (Some(_), Some(process)) => read_users(process)?,
        _ => Files::default(),
    };
    let process = planning::plan_exec(&plan.process, &wish.request, &users)?;
    let terminal = process.stdio != Stdio::Pipes;
    let mut wires = if terminal { Wires::none() } else { Wires::new(wish.stdin)? };
    let id = client::fresh_id()?;
    let signals = signal::catch(signal::PROXIED.into_iter().chain([Signal::SIGWINCH]))?;
    let request =
        Request::Exec { id: id.clone(), container: name.clone(), process: Box::new(process), limit: wish.limit };
    let fds: Vec<BorrowedFd<'_>> = wires.theirs.iter().map(AsFd::as_fd).collect();
    let client = Client::connect(pod)?;
    client.ask(&request, &fds)?;
    drop(fds);
    // Ours now are only the far ends: a writer kept open here would hide the end of the output.
    wires.theirs.clear();
    let mut session = Session { pod, id, client, signals, raw: None, master: None, again: None };
    session.run(&mut wires, wish)
}

/// The user files of a container that runs, through its own root.
pub(super) fn read_users(process: &store::ProcessRecord) -> Result<Files> {
    let doing = || "read the container's /etc/passwd".to_owned();
    let held = process.open().ok_or_else(|| Error::new(Kind::NotNow, doing(), "it is not running"))?;
    let root = std::fs::File::open(format!("/proc/{}/root", process.pid)).doing(doing)?;
    let root = fd::openat2(root.as_fd(), c"/", libc::O_PATH | libc::O_DIRECTORY, 0, Resolve::InRoot).doing(doing)?;
    drop(held);
    Ok(Files::read(root.as_fd()))
}

/// The three descriptors that the program gets, and the relays for those that are not the caller's own.
struct Wires {
    theirs: Vec<OwnedFd>,
    input: Option<Relay>,
    output: Vec<Relay>,
}

impl Wires {
    fn none() -> Self {
        Self { theirs: Vec::new(), input: None, output: Vec::new() }
    }

    fn new(stdin: Stdin) -> Result<Self> {
        let doing = || "wire the program's stdio".to_owned();
        let (own_in, own_out, own_err) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let mut wires = Self::none();
        if stdin == Stdin::Null {
            wires.theirs.push(fd::open(c"/dev/null", libc::O_RDWR).doing(doing)?);
        } else if may_be_handed_over(own_in.as_fd()) {
            wires.theirs.push(own_in.as_fd().try_clone_to_owned().doing(doing)?);
        } else {
            let (reader, writer) = std::io::pipe().doing(doing)?;
            nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).doing(doing)?;
            wires.input = Some(Relay::new(own_in.as_fd().try_clone_to_owned().doing(doing)?, writer.into()));
            wires.theirs.push(reader.into());
        }
        for own in [own_out.as_fd(), own_err.as_fd()] {
            let copy = own.try_clone_to_owned().doing(doing)?;
            if may_be_handed_over(own) {
                wires.theirs.push(copy);
            } else {
                let (reader, writer) = std::io::pipe().doing(doing)?;
                wires.output.push(Relay::new(reader.into(), copy));
                wires.theirs.push(writer.into());
            }
        }
        Ok(wires)
    }
}

struct Session<'a> {
    pod: &'a Pod,
    id: String,
    client: Client,
    signals: SignalFd,
    raw: Option<Raw>,
    master: Option<OwnedFd>,
    /// When the monitor died, and this client began to look for its successor.
    again: Option<Instant>,
}

impl Session<'_> {
    fn run(&mut self, wires: &mut Wires, wish: &Wish) -> Result<Ended> {
        let mut ended: Option<(Result<Ended>, Instant)> = None;
        loop {
            if let Some((result, at)) = &ended {
                let drained = wires.output.iter().all(Relay::is_over);
                if drained || at.elapsed() >= wish.drain {
                    return result.clone();
                }
            }
            self.wait(wires, ended.as_ref().map(|(_, at)| wish.drain.saturating_sub(at.elapsed())))?;
            if let Some(Flow::Ended) = wires.input.as_mut().map(Relay::advance_if_ready) {
                wires.input = None;
            }
            for relay in &mut wires.output {
                relay.advance_if_ready();
            }
            self.pass_signals()?;
            if ended.is_none()
                && let Some(result) = self.hear(wires, wish)?
            {
                // Its end is told: what is in the pipes now is all that it wrote itself.
                wires.input = None;
                ended = Some((result, Instant::now()));
            }
        }
    }

    fn wait(&self, wires: &Wires, limit: Option<Duration>) -> Result<()> {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(5);
        if limit.is_none() {
            fds.push(PollFd::new(self.client.fd(), PollFlags::POLLIN));
        }
        fds.extend(wires.input.iter().chain(&wires.output).filter_map(Relay::interest));
        fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        let timeout = match limit {
            Some(limit) => PollTimeout::try_from(limit + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        match nix::poll::poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(err) => Err(err).doing(|| "wait for the program".into()),
        }
    }

    /// All that the monitor has to say at this moment; the end, if it is among it.
    fn hear(&mut self, wires: &mut Wires, wish: &Wish) -> Result<Option<Result<Ended>>> {
        while self.client.has_reply().doing(|| "hear the monitor".into())? {
            match self.client.hear()? {
                Heard::Reply(Reply::Exited { ended, .. }, _) => return Ok(Some(Ok(ended))),
                // What it wrote before is shown first.
                Heard::Reply(Reply::Failed(failure), _) => return Ok(Some(Err(failure.into()))),
                Heard::Reply(Reply::Terminal, fds) => {
                    if let Some(master) = fds.into_iter().next() {
                        self.take_terminal(master, wires, wish)?;
                    }
                }
                Heard::Reply(..) => {}
                Heard::Gone => self.look_for_successor()?,
            }
        }
        Ok(None)
    }

    /// The program lives on; the next monitor will know how it ended.
    fn look_for_successor(&mut self) -> Result<()> {
        let since = *self.again.get_or_insert_with(Instant::now);
        if since.elapsed() > Duration::from_secs(15) {
            return Err(client::no_monitor(self.pod));
        }
        std::thread::sleep(Duration::from_millis(2));
        self.client = Client::connect(self.pod)?;
        self.client.ask(&Request::WaitExec { id: self.id.clone() }, &[])
    }

    fn take_terminal(&mut self, master: OwnedFd, wires: &mut Wires, wish: &Wish) -> Result<()> {
        let doing = || "take the terminal".to_owned();
        let (own_in, own_out) = (std::io::stdin(), std::io::stdout());
        if terminal::is_terminal(own_in.as_fd()) {
            self.raw = Some(Raw::new(own_in.as_fd())?);
        }
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().doing(doing);
        if wish.stdin == Stdin::Passed {
            wires.input = Some(Relay::new(copy(own_in.as_fd())?, copy(master.as_fd())?));
        }
        wires.output.push(Relay::new(copy(master.as_fd())?, copy(own_out.as_fd())?));
        self.master = Some(master);
        Ok(())
    }

    /// Ctrl-C and its kin go to the program, as they do where no container is between; the window's size to its terminal.
    fn pass_signals(&mut self) -> Result<()> {
        while let Some(info) = self.signals.read_signal().doing(|| "read a signal".into())? {
            let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
            match (&self.master, signal == Signal::SIGWINCH as i32) {
                (Some(master), true) => terminal::fit(master.as_fd()),
                (None, true) => {}
                (_, false) => client::command(self.pod, &Request::SignalExec { id: self.id.clone(), signal })?,
            }
        }
        Ok(())
    }
}
