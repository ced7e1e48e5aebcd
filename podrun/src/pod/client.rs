//! A podrun command's side of the monitor's door.

#![forbid(unsafe_code)]

use super::find::Pod;
use super::heal::{self, Served};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::monitor::socket::{Arrival, Inbox, Reply, Request, send};
use crate::sys::clone::poll_one;
use crate::sys::fd;
use crate::sys::socket::{self, Traffic};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a monitor may be away: pause starts the next one within milliseconds, unless they keep dying.
const PATIENCE: Duration = Duration::from_secs(15);

/// One conversation.
#[derive(Debug)]
pub struct Client {
    pod: Pod,
    socket: OwnedFd,
    inbox: Inbox,
}

/// What came, or that the monitor died.
#[derive(Debug)]
pub enum Heard {
    Reply(Reply, Vec<OwnedFd>),
    Gone,
}

impl Client {
    /// Connects to the pod's monitor. A pod whose keepers died is mended first, where it can be.
    pub fn connect(pod: &Pod) -> Result<Self> {
        heal::ensure_served(pod)?;
        let doing = || format!("reach the monitor of {}", pod.record.title());
        let socket = socket::connect(&pod.dir.socket(), Traffic::Stream).doing(doing)?;
        let mut client = Self { pod: pod.clone(), socket, inbox: Inbox::default() };
        if matches!(heal::look(pod), Served::Soon) || heal::is_fragile(pod) {
            client.wait_to_be_let_in()?;
        }
        Ok(client)
    }

    /// A monitor that dies with us before its door leaves us there: the store has the door, so nobody hangs up. Where pause
    /// starts no other, or none comes up, that would be for ever.
    fn wait_to_be_let_in(&mut self) -> Result<()> {
        self.ask(&Request::Ping, &[])?;
        // An end is found again when the answer is heard.
        self.hear().map(drop)
    }

    pub fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        // A monitor that died in this moment will show as gone.
        match send(self.socket.as_fd(), request, fds) {
            Ok(_) => {}
            Err(err) if matches!(err.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {}
            Err(err) => return Err(err).doing(|| "ask the monitor".into()),
        }
        fault::point("command.asked");
        Ok(())
    }

    /// The next reply, however long it takes, while there is somebody to give it: the door outlives the monitor, so nobody
    /// hangs up where one monitor after the other fails to come up.
    pub fn hear(&mut self) -> Result<Heard> {
        let (mut served, mut look_after) = (Instant::now(), 100);
        loop {
            let came = self.inbox.has_message()
                || poll_one(self.socket.as_fd(), libc::POLLIN, look_after).doing(|| "wait for the monitor".into())?;
            if came {
                match self.inbox.receive::<Reply>(self.socket.as_fd()) {
                    Ok(Arrival::Message(reply, fds)) => return Ok(Heard::Reply(reply, fds)),
                    Ok(Arrival::End) => return Ok(Heard::Gone),
                    Ok(Arrival::Incomplete) => continue,
                    Err(err) => return Err(err).doing(|| "hear the monitor".into()),
                }
            }
            match heal::look(&self.pod) {
                Served::Soon if served.elapsed() > PATIENCE => return Err(no_monitor(&self.pod)),
                Served::Soon => {}
                Served::Yes => (served, look_after) = (Instant::now(), 2000),
                Served::NoMonitor { .. } | Served::Lost => heal::ensure_served(&self.pod)?,
            }
        }
    }

    /// Replies, until `each` has one that ends it; `None` where the monitor died before.
    fn listen<T>(&mut self, each: &mut impl FnMut(Reply, Vec<OwnedFd>) -> Result<Option<T>>) -> Result<Option<T>> {
        loop {
            match self.hear()? {
                Heard::Reply(Reply::Failed(failure), _) => return Err(failure.into()),
                Heard::Reply(reply, fds) => {
                    if let Some(result) = each(reply, fds)? {
                        return Ok(Some(result));
                    }
                }
                Heard::Gone => return Ok(None),
            }
        }
    }

    /// Whether `hear` has an answer without waiting: the socket's, or one that came together with the one before.
    pub fn has_reply(&self) -> std::io::Result<bool> {
        Ok(self.inbox.has_message() || poll_one(self.socket.as_fd(), libc::POLLIN, 0)?)
    }

    /// For a poll loop of the caller's, who asks `has_reply` before each wait.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks, and hears replies until `last` has one that ends it. A monitor that dies meanwhile is asked again, up to a point:
/// each request may be asked twice.
pub fn converse<T>(
    pod: &Pod,
    request: &Request,
    fds: &[BorrowedFd<'_>],
    mut each: impl FnMut(Reply, Vec<OwnedFd>) -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = Client::connect(pod)?;
        client.ask(request, fds)?;
        match client.listen(&mut each)? {
            Some(result) => return Ok(result),
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            None => return Err(no_monitor(pod)),
        }
    }
}

/// For requests that end with `Done`.
pub fn command(pod: &Pod, request: &Request) -> Result<()> {
    converse(pod, request, &[], is_done)
}

/// The same of several, which are all asked before the first is waited for: what takes its time takes it once.
pub fn commands(asked: &[(Pod, Request)]) -> Vec<Result<()>> {
    let ask = |(pod, request): &(Pod, Request)| {
        let client = Client::connect(pod)?;
        client.ask(request, &[])?;
        Ok(client)
    };
    let begun: Vec<Result<Client>> = asked.iter().map(ask).collect();
    let finish = |(client, (pod, request)): (Result<Client>, &(Pod, Request))| match client?.listen(&mut is_done)? {
        Some(()) => Ok(()),
        None => command(pod, request),
    };
    begun.into_iter().zip(asked).map(finish).collect()
}

fn is_done(reply: Reply, _: Vec<OwnedFd>) -> Result<Option<()>> {
    Ok(matches!(reply, Reply::Done).then_some(()))
}

pub fn no_monitor(pod: &Pod) -> Error {
    let err = Error::new(Kind::Kernel, format!("reach the monitor of {}", pod.record.title()), "it keeps dying");
    match std::fs::read_to_string(pod.dir.0.join("monitor.error")) {
        Ok(words) => err.hint(format!("its last words: {}", words.trim())),
        Err(_) => err,
    }
}

/// A random name for what may be asked twice.
pub fn fresh_id() -> Result<String> {
    let bytes: [u8; 32] = fd::random().doing(|| "make an id".into())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
