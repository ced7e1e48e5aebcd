//! What all containers share: one scratch pipe, one buffer for their bytes, one for records.

#![forbid(unsafe_code)]

use crate::record;
use crate::record::Cut;
use crate::record::Rest;
use crate::record::Stamp;
use crate::record::Stream;
use crate::sys::map::Pages;
use crate::sys::pipe;
use crate::sys::pipe::Pipe;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

/// The most that one turn takes from a container, so that a storm in one starves no other.
pub(super) const TURN: usize = 64 * 1024;
/// A turn, and a piece of a line that was left over from the one before.
const INPUT: usize = TURN + record::LONGEST + 4096;
/// Enough for a turn of lines of 60 bytes and longer; shorter lines take more than one write.
pub(super) const OUTPUT: usize = 128 * 1024;

#[derive(Debug)]
pub(super) struct Desk {
    scratch_out: File,
    scratch_into: OwnedFd,
    void: OwnedFd,
    input: Pages,
    pub(super) output: Pages,
    pub(super) used: bool,
    /// Bytes that came from containers in this round.
    pub(super) moved: usize,
}

impl Desk {
    pub(super) fn new() -> io::Result<Self> {
        let Pipe { out, into } = pipe::pipe()?;
        // As many pages as a holding pipe has, since tee(2) copies page by page; with fewer it just takes more rounds.
        let _ = pipe::set_size(into.as_fd(), crate::pump::pipes::HOLDING);
        let void = File::options().write(true).open("/dev/null")?.into();
        let (input, output) = (Pages::new(INPUT)?, Pages::new(OUTPUT)?);
        Ok(Self { scratch_out: out.into(), scratch_into: into, void, input, output, used: false, moved: 0 })
    }

    /// Brings the first bytes of a holding pipe into the input buffer, `most` at the most; they stay in the pipe.
    pub(super) fn peek(&mut self, holding: &OwnedFd, most: usize) -> io::Result<usize> {
        self.used = true;
        if most == 0 {
            return Ok(0);
        }
        let len = pipe::tee(holding, &self.scratch_into, most.min(INPUT))?;
        // The scratch pipe was empty, so this is all that is in it.
        self.scratch_out.read_exact(&mut self.input[..len])?;
        Ok(len)
    }

    /// The first `len` peeked bytes as records, into the first `room` bytes of the output.
    pub(super) fn compose(&mut self, len: usize, shape: Shape, room: usize) -> Cut {
        let Shape { stream, stamp, open, rest } = shape;
        record::compose(&self.input[..len], stream, stamp, open, rest, &mut self.output[..room])
    }

    /// Lets `len` bytes leave a holding pipe for ever.
    pub(super) fn discard(&self, holding: &OwnedFd, len: usize) -> io::Result<()> {
        let mut left = len;
        while left > 0 {
            match pipe::splice(holding, &self.void, left)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => left -= n,
            }
        }
        Ok(())
    }

    /// Buffers cost nothing while nobody logs.
    pub(super) fn give_back(&mut self) -> io::Result<()> {
        self.used = false;
        self.input.give_back()?;
        self.output.give_back()
    }
}

/// How bytes become records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) stream: Stream,
    pub(super) stamp: Stamp,
    pub(super) open: bool,
    pub(super) rest: Rest,
}
