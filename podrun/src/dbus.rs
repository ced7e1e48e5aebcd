//! A caller's side of D-Bus (D-Bus Specification 0.42), as far as systemd's manager is spoken to: one connection, one call
//! after the other, and the signals that come in between. Every wait has a deadline.

#![forbid(unsafe_code)]

pub mod wire;

use crate::error::{Doing, Error, Kind, Result};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use wire::{Message, Type, Value};

/// Whom to call, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
}

#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    deadline: Instant,
    serial: u32,
    /// Signals that came while a reply was awaited.
    signals: Vec<Message>,
}

impl Connection {
    /// A peer's own socket, as systemd's manager has it: there is no bus in between, and so no Hello. Nothing that is asked
    /// here takes longer than `within`, all together.
    pub fn open(socket: &Path, within: Duration) -> Result<Self> {
        let doing = || format!("speak to {}", socket.display());
        let stream = UnixStream::connect(socket).doing(doing)?;
        let mut connection = Self { stream, deadline: Instant::now() + within, serial: 0, signals: Vec::new() };
        connection.authenticate().doing(doing)?;
        Ok(connection)
    }

    /// SASL EXTERNAL without a name: the kernel tells the peer who we are (SO_PEERCRED), by the number that we have there, which
    /// in a user namespace is none that we know for sure. It asks for the name all the same, and gets an empty one. BEGIN goes
    /// along, as sd-bus sends it: a call that came in one read with it would lie in systemd's buffer until the next one comes.
    fn authenticate(&mut self) -> io::Result<()> {
        self.stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let asked = self.line()?;
        if asked.starts_with(b"DATA") && self.line()?.starts_with(b"OK ") {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "it does not take us in"))
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 1024 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it answers with something endless"));
            }
        }
        Ok(line)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer in time"));
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read_exact(buffer).map_err(|err| match err.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it does not answer in time"),
            io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up"),
            _ => err,
        })
    }

    fn next(&mut self) -> io::Result<Message> {
        let mut head = [0; wire::HEAD];
        self.read(&mut head)?;
        let mut rest = vec![0; wire::rest_of(&head)?];
        self.read(&mut rest)?;
        wire::read(&head, &rest)
    }

    /// The reply's body, or the peer's own sentence.
    pub fn call(&mut self, call: Call<'_>, body: &[Value]) -> Result<Vec<Value>> {
        let doing = || format!("ask systemd for {}", call.member);
        self.serial += 1;
        let serial = self.serial;
        self.stream.write_all(&wire::call(serial, &call, body)).doing(doing)?;
        loop {
            let message = self.next().doing(doing)?;
            match message.kind {
                Type::Signal => self.signals.push(message),
                _ if message.reply_to != Some(serial) => {}
                Type::Error => {
                    let name = message.error.clone().unwrap_or_default();
                    let said = message.body.first().and_then(Value::text).unwrap_or_default();
                    let kind = if name.ends_with("NoSuchUnit") { Kind::NotFound } else { Kind::Kernel };
                    let kind = if name.ends_with("UnitExists") { Kind::AlreadyExists } else { kind };
                    return Err(Error::new(kind, doing(), format!("{said} ({name})")));
                }
                _ => return Ok(message.body),
            }
        }
    }

    /// Waits for a signal of this name that `wanted` takes; its body.
    pub fn signal(&mut self, member: &str, wanted: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        let fits = |message: &Message| message.member.as_deref() == Some(member) && wanted(&message.body);
        if let Some(at) = self.signals.iter().position(fits) {
            return Ok(self.signals.remove(at).body);
        }
        loop {
            let message = self.next().doing(|| format!("wait for systemd's {member}"))?;
            if message.kind == Type::Signal && fits(&message) {
                return Ok(message.body);
            }
        }
    }
}
