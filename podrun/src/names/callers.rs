//! Connections of those who ask by a stream (RFC 7766): several questions each, answered as the answers come.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Nobody holds a connection for nothing longer than this.
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// What a client may leave unread, and unanswered.
const UNREAD: usize = 1 << 18;
const WAITING: usize = 64;

/// One client's connection.
#[derive(Debug)]
pub(super) struct Caller {
    stream: TcpStream,
    pub(super) from: IpAddr,
    pub(super) until: Instant,
    heard: Vec<u8>,
    to_send: Vec<u8>,
    waiting: usize,
    ended: bool,
}

impl Caller {
    pub(super) fn new(stream: TcpStream, from: IpAddr) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let until = Instant::now() + IDLE;
        Ok(Self { stream, from, until, heard: Vec::new(), to_send: Vec::new(), waiting: 0, ended: false })
    }

    /// The questions that are whole by now. An error: it asks for more than it takes, or is gone.
    pub(super) fn hear(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut buffer = [0; 4096];
        let mut questions = Vec::new();
        while !self.ended {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(read) => self.heard.extend_from_slice(&buffer[..read]),
                Err(err) if err.kind() == ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
            while let Some(question) = unframed(&mut self.heard) {
                questions.push(question);
                self.waiting += 1;
            }
            if self.waiting > WAITING {
                return Err(ErrorKind::QuotaExceeded.into());
            }
        }
        if !questions.is_empty() {
            self.until = Instant::now() + IDLE;
        }
        Ok(questions)
    }

    /// One question less that waits.
    pub(super) fn answer(&mut self, answer: &[u8]) -> io::Result<()> {
        self.waiting = self.waiting.saturating_sub(1);
        if !answer.is_empty() {
            self.to_send.extend(framed(answer));
        }
        self.until = Instant::now() + IDLE;
        self.send()
    }

    pub(super) fn send(&mut self) -> io::Result<()> {
        while !self.to_send.is_empty() {
            match self.stream.write(&self.to_send) {
                Ok(sent) => drop(self.to_send.drain(..sent)),
                Err(err) if err.kind() == ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        if self.to_send.len() > UNREAD {
            return Err(ErrorKind::QuotaExceeded.into());
        }
        Ok(())
    }

    /// It has said its last word, and has heard all.
    pub(super) fn is_over(&self) -> bool {
        self.ended && self.waiting == 0 && self.to_send.is_empty()
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A message as a stream carries it: two bytes of length before it (RFC 1035, 4.2.2).
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&message[..usize::from(length)]);
    bytes
}

/// Takes the first message, when all of it is there.
fn unframed(heard: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(*heard.first_chunk::<2>()?));
    let message = heard.get(2..2 + length)?.to_vec();
    heard.drain(..2 + length);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_of_a_stream_as_they_went_in() {
        let mut heard = [framed(b"one"), framed(b""), framed(b"three")].concat();
        let rest = heard.split_off(8);
        assert_eq!(unframed(&mut heard).as_deref(), Some(&b"one"[..]));
        assert_eq!(unframed(&mut heard).as_deref(), Some(&b""[..]));
        assert_eq!(unframed(&mut heard), None);
        heard.extend(rest);
        assert_eq!(unframed(&mut heard).as_deref(), Some(&b"three"[..]));
        assert_eq!((unframed(&mut heard), heard.len()), (None, 0));
    }
}
