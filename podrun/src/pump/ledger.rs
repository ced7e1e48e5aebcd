//! What the pump is doing with one container's output, in memory that outlives it.
//!
//! Every change is a whole new [`State`]: it is written beside the old one and then one word is turned, so that a pump that
//! is killed at any instruction leaves the old state or the new one, never a mixture.

#![forbid(unsafe_code)]

use crate::pump::log::FileId;
use crate::record::Rest;
use crate::record::Stamp;
use crate::record::Stream;
use crate::sys::map;
use crate::sys::map::Words;
use nix::fcntl::Flock;
use nix::fcntl::FlockArg;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

/// "podrun" and the number of this layout. Another layout needs another number: a pump outlives an upgrade.
const MAGIC: u64 = 0x706f_6472_756e_0001;
const WHICH: usize = 1;
const SLOTS: [usize; 2] = [8, 32];
const LENGTH: usize = 15;
const WORDS: usize = 64;

/// What is under way. All of it can be done again from the start without harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Step {
    #[default]
    Idle,
    /// `taken` of the `held` bytes become records at `offset` of `file`, and then leave the holding pipe.
    Writing,
    /// A line about what was lost goes to `offset` of `file`.
    Marking,
    /// `taken` of the `held` bytes leave the holding pipe unwritten.
    Dropping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) step: Step,
    pub(super) stream: Stream,
    pub(super) file: FileId,
    pub(super) offset: u64,
    pub(super) held: u64,
    pub(super) taken: u64,
    pub(super) stamp: Stamp,
    pub(super) rest: Rest,
    /// For each stream, whether its last record is a `P`.
    pub(super) open: [bool; 2],
    /// The same for `stream` when the step is done.
    pub(super) open_then: bool,
    /// Bytes that could not be written and that no line of the log tells of yet.
    pub(super) lost: [u64; 2],
    /// Bytes that could not be written, ever.
    pub(super) lost_in_all: u64,
    /// Why.
    pub(super) errno: i32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            step: Step::Idle,
            stream: Stream::Stdout,
            file: FileId::default(),
            offset: 0,
            held: 0,
            taken: 0,
            stamp: Stamp::default(),
            rest: Rest::Partial,
            open: [false; 2],
            open_then: false,
            lost: [0; 2],
            lost_in_all: 0,
            errno: 0,
        }
    }
}

impl State {
    /// The state after the step.
    pub(super) fn done(mut self) -> Self {
        let at = self.stream.index();
        match self.step {
            Step::Idle => {}
            Step::Writing => self.open[at] = self.open_then,
            Step::Marking => {
                let ended = self.ended_by_mark();
                self.open = [self.open[0] && !ended[0], self.open[1] && !ended[1]];
                self.lost = [0; 2];
            }
            Step::Dropping => {
                self.lost[at] += self.taken;
                self.lost_in_all += self.taken;
            }
        }
        Self { step: Step::Idle, ..self }
    }

    /// The open lines that a mark ends: those that lost something, and stderr's, where the mark itself goes.
    pub(super) fn ended_by_mark(&self) -> [bool; 2] {
        [self.open[0] && self.lost[0] > 0, self.open[1]]
    }

    pub(super) fn words_of_mark(&self) -> String {
        let why = nix::errno::Errno::from_raw(self.errno).desc();
        format!("podrun: {} bytes lost: {why}", self.lost[0] + self.lost[1])
    }

    pub(super) fn any_open(&self) -> bool {
        self.open[0] || self.open[1]
    }

    fn to_words(self) -> [u64; LENGTH] {
        let step = match self.step {
            Step::Idle => 0,
            Step::Writing => 1,
            Step::Marking => 2,
            Step::Dropping => 3,
        };
        let open = u64::from(self.open[0]) | u64::from(self.open[1]) << 1 | u64::from(self.open_then) << 2;
        [
            step,
            u64::from(self.stream == Stream::Stderr),
            self.file.device,
            self.file.inode,
            self.offset,
            self.held,
            self.taken,
            self.stamp.secs,
            u64::from(self.stamp.nanos),
            u64::from(self.rest == Rest::Final),
            open,
            self.lost[0],
            self.lost[1],
            self.lost_in_all,
            u64::from(self.errno.unsigned_abs()),
        ]
    }

    fn from_words(words: [u64; LENGTH]) -> Option<Self> {
        let [step, stream, device, inode, offset, held, taken, secs, nanos, last, open, out, err, in_all, errno] =
            words;
        let step = match step {
            0 => Step::Idle,
            1 => Step::Writing,
            2 => Step::Marking,
            3 => Step::Dropping,
            _ => return None,
        };
        Some(Self {
            step,
            stream: if stream == 1 { Stream::Stderr } else { Stream::Stdout },
            file: FileId { device, inode },
            offset,
            held,
            taken,
            stamp: Stamp { secs, nanos: u32::try_from(nanos).ok()? },
            rest: if last == 1 { Rest::Final } else { Rest::Partial },
            open: [open & 1 != 0, open & 2 != 0],
            open_then: open & 4 != 0,
            lost: [out, err],
            lost_in_all: in_all,
            errno: i32::try_from(errno).ok()?,
        })
    }
}

/// A new ledger: a sealed memfd of one page, all zero.
pub(super) fn create() -> io::Result<OwnedFd> {
    map::sealed_memfd(c"podrun-log-state", 4096)
}

/// The state of one container, and the right to change it.
#[derive(Debug)]
pub(super) struct Ledger {
    words: Words,
    /// A lock of our own on the memfd: an old pump that hangs in a write to a stalled disk still has it, and while it does
    /// nobody else touches these pipes.
    _lock: Flock<File>,
    pub(super) state: State,
}

impl Ledger {
    /// Takes the ledger over; WouldBlock when another pump lives that has it.
    pub(super) fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // The lock belongs to an open file description, and that of `fd` is shared with the fd store; this one is not.
        let own = File::options().read(true).write(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        let lock = Flock::lock(own, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| io::Error::from(errno))?;
        let words = Words::map(lock.as_fd(), WORDS)?;
        let state = match words.load(0) {
            0 => Some(State::default()),
            MAGIC => State::from_words(Self::read(&words, words.load(WHICH))),
            _ => None,
        };
        let state = state.ok_or(io::ErrorKind::InvalidData)?;
        let mut ledger = Self { words, _lock: lock, state };
        ledger.set(state);
        Ok(ledger)
    }

    fn read(words: &Words, which: u64) -> [u64; LENGTH] {
        let start = SLOTS[usize::from(which == 1)];
        std::array::from_fn(|at| words.load(start + at))
    }

    pub(super) fn set(&mut self, state: State) {
        let other = u64::from(self.words.load(WHICH) == 0);
        let start = SLOTS[usize::from(other == 1)];
        for (at, word) in state.to_words().into_iter().enumerate() {
            self.words.store(start + at, word);
        }
        self.words.store(WHICH, other);
        self.words.store(0, MAGIC);
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> State {
        State {
            step: Step::Writing,
            stream: Stream::Stderr,
            file: FileId { device: 1, inode: 2 },
            offset: 3,
            held: 4,
            taken: 5,
            stamp: Stamp { secs: 6, nanos: 7 },
            rest: Rest::Final,
            open: [true, false],
            open_then: true,
            lost: [8, 9],
            lost_in_all: 10,
            errno: 28,
        }
    }

    #[test]
    fn the_next_owner_finds_the_state_and_two_owners_are_impossible() {
        let fd = create().unwrap();
        let mut first = Ledger::open(fd.as_fd()).unwrap();
        assert_eq!(first.state, State::default());
        first.set(busy());
        assert_eq!(Ledger::open(fd.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert_eq!(Ledger::open(fd.as_fd()).unwrap().state, busy());
    }

    #[test]
    fn half_a_change_is_no_change() {
        let fd = create().unwrap();
        let mut ledger = Ledger::open(fd.as_fd()).unwrap();
        ledger.set(busy());
        let spare = SLOTS[usize::from(ledger.words.load(WHICH) == 0)];
        for at in 0..LENGTH {
            ledger.words.store(spare + at, u64::MAX);
        }
        drop(ledger);
        assert_eq!(Ledger::open(fd.as_fd()).unwrap().state, busy());
    }

    #[test]
    fn a_layout_of_another_build_is_refused() {
        let fd = create().unwrap();
        Words::map(fd.as_fd(), 1).unwrap().store(0, MAGIC + 1);
        assert_eq!(Ledger::open(fd.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_a_step_leaves_behind() {
        let done = busy().done();
        assert_eq!((done.step, done.open, done.lost), (Step::Idle, [true, true], [8, 9]));
        let dropped = State { step: Step::Dropping, ..busy() }.done();
        assert_eq!((dropped.lost, dropped.lost_in_all), ([8, 14], 15));
        let marked = State { step: Step::Marking, open: [true, true], lost: [0, 9], ..busy() };
        assert_eq!(marked.words_of_mark(), "podrun: 9 bytes lost: No space left on device");
        // stdout lost nothing, so its open line goes on after the mark.
        assert_eq!((marked.done().open, marked.done().lost), ([true, false], [0, 0]));
    }
}
