//! One container's output on its way into its log.
//!
//! What the pump does with bytes is a step with a beginning and an end, both noted in the ledger:
//!
//! 1. splice(2) moves bytes from the container's pipe to the holding pipe; tee(2) and a read show what they are.
//! 2. The ledger says: so many of them will be records with this time at this offset of this file.
//! 3. The records are written there.
//! 4. splice(2) moves just those bytes from the holding pipe to /dev/null.
//! 5. The ledger says: done.
//!
//! A successor finds out how far a killed pump came by counting the bytes in the holding pipe. All there: write the same
//! records again, over what may be there already (a reader cannot tell). Some gone: the records were complete, the rest of
//! the bytes goes too; the kernel leaves a splice half done when it is killed.

#![forbid(unsafe_code)]

use crate::fault;
use crate::pump::desk::Desk;
use crate::pump::desk::OUTPUT;
use crate::pump::desk::Shape;
use crate::pump::errno_of;
use crate::pump::ledger::Ledger;
use crate::pump::ledger::State;
use crate::pump::ledger::Step;
use crate::pump::log::Log;
use crate::pump::log::Place;
use crate::pump::pipes::Pipes;
use crate::pump::stream::Flow;
use crate::pump::stream::HUNG_UP;
use crate::pump::stream::Held;
use crate::pump::stream::Intake;
use crate::pump::stream::PATIENCE;
use crate::pump::wire::Add;
use crate::pump::wire::Answer;
use crate::record;
use crate::record::Cut;
use crate::record::Rest;
use crate::record::Stamp;
use crate::record::Stream;
use crate::sys::map::memrchr;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::Instant;

/// How soon to try again to write a log that could not be written.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a log that was renamed may still get the rest of a line.
const LINE_ENDS: Duration = Duration::from_millis(200);

/// What a container needs of the pump to do its work.
pub(super) struct Tools<'a> {
    pub(super) desk: &'a mut Desk,
    pub(super) answers: &'a mut VecDeque<Answer>,
    pub(super) now: Instant,
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) key: u64,
    tty: bool,
    log: Log,
    ledger: Ledger,
    streams: [Option<Held>; 2],
    /// The log cannot be written; when to try again.
    trouble: Option<Instant>,
    finish: Option<Instant>,
    /// That all has come, and is in the log, was said.
    told: bool,
    reopen: Option<Instant>,
}

/// Whether the container's log took what it was given. `Failed` is [`Container::trouble`]; it is no error of the pump.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    /// `unseen`: there were more bytes than were looked at.
    Done {
        cut: Cut,
        unseen: bool,
    },
    Failed,
}

impl Container {
    /// Takes a container over from the monitor, or from a pump that was killed.
    pub(super) fn new(add: &Add, ledger: Ledger, pipes: Pipes, tools: &mut Tools<'_>) -> io::Result<Self> {
        let streams = [Some(Held::new(pipes.stdout)?), pipes.stderr.map(Held::new).transpose()?];
        let log = Log::new(add.log.clone(), add.max_size, add.max_files);
        let (key, tty) = (add.key, add.tty);
        let mut this = Self { key, tty, log, ledger, streams, trouble: None, finish: None, told: false, reopen: None };
        this.recover(tools)?;
        // The file is there as soon as the container is, so that those who follow it find it.
        if let Err(err) = this.log.place() {
            this.fail(&err, tools);
        }
        if this.ledger.state.lost != [0; 2] {
            // What is missing is said first, at the next tick.
            this.trouble = this.trouble.or(Some(tools.now));
        }
        for stream in Stream::BOTH {
            this.write_out(stream, this.rest(stream), tools)?;
        }
        Ok(this)
    }

    /// Where something may still come from.
    pub(super) fn source(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        self.streams[stream.index()]
            .as_ref()
            .filter(|held| held.flow == Flow::Open)
            .map(|held| held.channel.source.as_fd())
    }

    pub(super) fn any_source(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        self.streams[stream.index()].as_ref().map(|held| held.channel.source.as_fd())
    }

    fn held(&mut self, stream: Stream) -> io::Result<&mut Held> {
        self.streams[stream.index()].as_mut().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Something can be read: one bounded turn.
    pub(super) fn turn(&mut self, stream: Stream, tools: &mut Tools<'_>) -> io::Result<()> {
        let (now, finishing, failing) = (tools.now, self.finish.is_some(), self.trouble.is_some());
        let held = self.held(stream)?;
        let before = held.held;
        let intake = held.take_in()?;
        fault::point("pump.taken");
        tools.desk.moved += held.held - before;
        match intake {
            Intake::Nothing => return Ok(()),
            Intake::Took if failing => return Ok(()),
            Intake::Took => {}
            Intake::Full if failing => return self.drop_held(stream, tools),
            Intake::Full => return self.write_out(stream, Rest::Partial, tools),
            Intake::Ended => held.flow = Flow::Ended,
            Intake::HungUp if finishing => held.flow = Flow::Ended,
            Intake::HungUp => held.flow = Flow::HungUp(now + HUNG_UP),
        }
        self.write_out(stream, self.rest(stream), tools)?;
        self.try_finish(tools)
    }

    /// What to do with a piece of a line that has come so far.
    fn rest(&self, stream: Stream) -> Rest {
        match &self.streams[stream.index()] {
            Some(held) if held.ended() => Rest::Final,
            // Somebody may be waiting for this prompt.
            _ if self.tty => Rest::Partial,
            _ => Rest::Keep,
        }
    }

    /// Writes what is held of a stream; `rest` says what becomes of a piece without a newline.
    fn write_out(&mut self, stream: Stream, rest: Rest, tools: &mut Tools<'_>) -> io::Result<()> {
        let mut stuck = false;
        while self.trouble.is_none() && self.streams[stream.index()].is_some() {
            // A line that lies in more pages than the scratch pipe has goes out in pieces.
            let this = if stuck { Rest::Partial } else { rest };
            let Written::Done { cut, unseen } = self.record(stream, this, tools)? else { break };
            if !cut.full && !unseen {
                break;
            }
            stuck = cut.taken == 0;
        }
        self.note_what_waits(stream, tools.now);
        self.try_reopen(tools);
        Ok(())
    }

    fn note_what_waits(&mut self, stream: Stream, now: Instant) {
        if let Some(held) = &mut self.streams[stream.index()] {
            held.due = match held.held {
                0 => None,
                _ => held.due.or(Some(now + PATIENCE)),
            };
        }
    }

    /// Now, or the time of the last record where the clock was set back: who reads a log by its times relies on their order.
    fn stamp(&self) -> Stamp {
        Stamp::now().max(self.ledger.state.stamp)
    }

    /// One step: as much as fits of what is held becomes records.
    fn record(&mut self, stream: Stream, rest: Rest, tools: &mut Tools<'_>) -> io::Result<Written> {
        let mut place = match self.log.place() {
            Ok(place) => place,
            Err(err) => {
                self.fail(&err, tools);
                return Ok(Written::Failed);
            }
        };
        let held = self.held(stream)?;
        let (all, seen) = (held.held, tools.desk.peek(&held.channel.out, held.held)?);
        // Only what is seen to the end can be final.
        let rest = if seen < all && rest == Rest::Final { Rest::Keep } else { rest };
        let open = self.ledger.state.open[stream.index()];
        let shape = Shape { stream, stamp: self.stamp(), open, rest };
        let mut cut = tools.desk.compose(seen, shape, self.log.room(place.offset, OUTPUT));
        if cut.written == 0 && cut.full {
            place = self.rotate(place, tools);
            let room = self.log.room(place.offset, OUTPUT).max(record::LONGEST_RECORD);
            cut = tools.desk.compose(seen, shape, room);
        }
        if cut.written == 0 {
            return Ok(Written::Done { cut, unseen: seen < all });
        }
        self.begin(place, shape, cut)?;
        fault::point("pump.noted");
        self.write(seen, shape, cut, tools)
    }

    /// Notes what is about to be done, so that a successor can do it again.
    fn begin(&mut self, place: Place, shape: Shape, cut: Cut) -> io::Result<()> {
        let held = self.held(shape.stream)?.held;
        self.ledger.set(State {
            step: Step::Writing,
            stream: shape.stream,
            file: place.file,
            offset: place.offset,
            held: held.try_into().unwrap_or(u64::MAX),
            taken: cut.taken.try_into().unwrap_or(u64::MAX),
            stamp: shape.stamp,
            rest: cut.rest,
            open_then: cut.open,
            ..self.ledger.state
        });
        Ok(())
    }

    /// Writes the composed records of a step that was noted, and ends it.
    fn write(&mut self, seen: usize, shape: Shape, cut: Cut, tools: &mut Tools<'_>) -> io::Result<Written> {
        let offset = self.ledger.state.offset;
        match self.log.write_at(&tools.desk.output[..cut.written], offset) {
            Ok(()) => {
                fault::point("pump.written");
                let all = self.held(shape.stream)?.held;
                self.settle(cut.taken, tools)?;
                Ok(Written::Done { cut, unseen: seen < all })
            }
            Err((written, err)) => {
                self.keep_what_fits(written, seen, shape, tools)?;
                self.fail(&err, tools);
                Ok(Written::Failed)
            }
        }
    }

    /// The disk took the first `written` bytes only: whole records stay, half of one goes.
    fn keep_what_fits(&mut self, written: usize, seen: usize, shape: Shape, tools: &mut Tools<'_>) -> io::Result<()> {
        let whole = memrchr(b'\n', &tools.desk.output[..written]).map_or(0, |at| at + 1);
        let cut = tools.desk.compose(seen, shape, whole);
        let state = self.ledger.state;
        let end = state.offset + u64::try_from(cut.written).unwrap_or(0);
        if cut.written == 0 {
            // Where even this fails, the disk keeps half a record, and readers show it as it is.
            let _ = self.log.cut(end);
            self.ledger.set(State { step: Step::Idle, ..state });
            return Ok(());
        }
        let taken = u64::try_from(cut.taken).unwrap_or(u64::MAX);
        self.ledger.set(State { taken, rest: cut.rest, open_then: cut.open, ..state });
        let _ = self.log.cut(end);
        self.settle(cut.taken, tools)
    }

    /// The records are in the log: `taken` bytes leave the holding pipe, and the step is done.
    fn settle(&mut self, taken: usize, tools: &mut Tools<'_>) -> io::Result<()> {
        let state = self.ledger.state;
        let held = self.held(state.stream)?;
        tools.desk.discard(&held.channel.out, taken)?;
        fault::point("pump.moved");
        held.held = held.held.saturating_sub(taken);
        if taken > 0 {
            held.due = None;
        }
        self.ledger.set(state.done());
        Ok(())
    }

    fn rotate(&mut self, place: Place, tools: &mut Tools<'_>) -> Place {
        if !self.log.may_rotate(place.offset, self.ledger.state.any_open()) {
            return place;
        }
        if let Err(err) = self.log.rotate(Stamp::now()) {
            self.report(errno_of(&err), tools);
        }
        self.log.place().unwrap_or(place)
    }

    /// What a pump that was killed had begun.
    fn recover(&mut self, tools: &mut Tools<'_>) -> io::Result<()> {
        let state = self.ledger.state;
        let held = self.held(state.stream)?.held;
        let taken = usize::try_from(state.taken).unwrap_or(usize::MAX);
        let gone = usize::try_from(state.held).unwrap_or(usize::MAX).saturating_sub(held);
        match state.step {
            Step::Idle => Ok(()),
            Step::Writing if gone == 0 => self.write_again(tools),
            Step::Writing | Step::Dropping => self.settle(taken.saturating_sub(gone), tools),
            Step::Marking => match self.find_place(state) {
                Ok(()) => self.write_mark(tools),
                Err(err) => self.give_up(&err, tools),
            },
        }
    }

    /// Writes the records of a step again, at the same offset of the same file, with the same time: the same bytes.
    fn write_again(&mut self, tools: &mut Tools<'_>) -> io::Result<()> {
        let state = self.ledger.state;
        if let Err(err) = self.find_place(state) {
            return self.give_up(&err, tools);
        }
        let state = self.ledger.state;
        let stream = state.stream;
        let taken = usize::try_from(state.taken).unwrap_or(usize::MAX);
        let seen = tools.desk.peek(&self.held(stream)?.channel.out, taken)?;
        let shape = Shape { stream, stamp: state.stamp, open: state.open[stream.index()], rest: state.rest };
        let cut = tools.desk.compose(seen, shape, OUTPUT);
        if let Written::Done { cut, .. } = self.write(seen, shape, cut, tools)? {
            let _ = self.log.cut(state.offset + u64::try_from(cut.written).unwrap_or(0));
        }
        // The next record goes to whatever file now has the name.
        self.log.close();
        Ok(())
    }

    /// Where a step is done again: in its own file, if that still exists; it may have been renamed, or cut by somebody.
    fn find_place(&mut self, state: State) -> io::Result<()> {
        let known = self.log.adopt(state.file)?;
        let now = self.log.place()?;
        let offset = if known { state.offset.min(now.offset) } else { now.offset };
        self.ledger.set(State { file: now.file, offset, ..state });
        Ok(())
    }

    /// The step cannot be done now: its bytes stay in the holding pipe, and it is begun anew some other time.
    fn give_up(&mut self, err: &io::Error, tools: &mut Tools<'_>) -> io::Result<()> {
        self.ledger.set(State { step: Step::Idle, ..self.ledger.state });
        self.fail(err, tools);
        Ok(())
    }

    /// The log cannot be written. The container must not wait for that (pitfalls: containerd#12462): its output is kept while
    /// there is room, and then dropped and counted.
    fn fail(&mut self, err: &io::Error, tools: &mut Tools<'_>) {
        let errno = errno_of(err);
        self.log.close();
        self.ledger.set(State { errno, ..self.ledger.state });
        self.trouble = Some(tools.now + AGAIN);
        self.report(errno, tools);
    }

    fn report(&self, errno: i32, tools: &mut Tools<'_>) {
        // Only the newest counts: a monitor that does not listen must not make this list long.
        tools.answers.retain(|answer| !matches!(answer, Answer::Trouble { key, .. } if *key == self.key));
        tools.answers.push_back(Answer::Trouble { key: self.key, lost_bytes: self.ledger.state.lost_in_all, errno });
    }

    fn drop_held(&mut self, stream: Stream, tools: &mut Tools<'_>) -> io::Result<()> {
        let state = self.ledger.state;
        let held = self.held(stream)?.held;
        let taken = u64::try_from(held).unwrap_or(u64::MAX);
        self.ledger.set(State { step: Step::Dropping, stream, held: taken, taken, ..state });
        self.settle(held, tools)
    }

    /// The container is about to be forgotten: one last try to say what its log lacks.
    pub(super) fn part(&mut self, tools: &mut Tools<'_>) -> io::Result<()> {
        match self.trouble {
            Some(_) => self.retry(tools),
            None => Ok(()),
        }
    }

    /// Tries to write again: first a line that says what is missing, then what was kept.
    fn retry(&mut self, tools: &mut Tools<'_>) -> io::Result<()> {
        self.trouble = None;
        let place = match self.log.place() {
            Ok(place) => place,
            Err(err) => {
                self.fail(&err, tools);
                return Ok(());
            }
        };
        let state = self.ledger.state;
        if state.lost != [0; 2] {
            let Place { file, offset } = place;
            let stamp = self.stamp();
            let (held, taken) = (u64::MAX, 0);
            self.ledger.set(State { step: Step::Marking, file, offset, stamp, held, taken, ..state });
            self.write_mark(tools)?;
        }
        for stream in Stream::BOTH {
            self.write_out(stream, self.rest(stream), tools)?;
        }
        Ok(())
    }

    /// The line of a marking step that was noted.
    fn write_mark(&mut self, tools: &mut Tools<'_>) -> io::Result<()> {
        let state = self.ledger.state;
        let mark = record::mark(state.stamp, state.ended_by_mark(), &state.words_of_mark());
        match self.log.write_at(&mark, state.offset) {
            Ok(()) => self.ledger.set(state.done()),
            Err((_, err)) => {
                let _ = self.log.cut(state.offset);
                self.give_up(&err, tools)?;
            }
        }
        Ok(())
    }

    /// The container's init has exited.
    pub(super) fn finish(&mut self, grace: Duration, tools: &mut Tools<'_>) -> io::Result<()> {
        self.finish = Some(tools.now + grace);
        for stream in Stream::BOTH {
            // With init gone nobody opens this terminal again.
            if let Some(held) = &mut self.streams[stream.index()]
                && matches!(held.flow, Flow::HungUp(_))
            {
                held.flow = Flow::Ended;
                self.write_out(stream, Rest::Final, tools)?;
            }
        }
        self.try_finish(tools)
    }

    /// The log was renamed by somebody else.
    pub(super) fn reopen(&mut self, tools: &mut Tools<'_>) {
        self.reopen = Some(tools.now + LINE_ENDS);
        self.try_reopen(tools);
    }

    /// Not between the pieces of a line, if its end comes soon.
    fn try_reopen(&mut self, tools: &mut Tools<'_>) {
        let Some(deadline) = self.reopen else { return };
        if self.ledger.state.any_open() && self.trouble.is_none() && tools.now < deadline {
            return;
        }
        self.reopen = None;
        let errno = self.log.reopen().err().map_or(0, |err| errno_of(&err));
        tools.answers.push_back(Answer::Reopened { key: self.key, errno });
    }

    /// When to call [`Container::tick`] next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let streams = self.streams.iter().flatten().flat_map(|held| {
            let hung_up = if let Flow::HungUp(until) = held.flow { Some(until) } else { None };
            [held.due.filter(|_| self.trouble.is_none()), hung_up]
        });
        streams.chain([self.trouble, self.finish, self.reopen]).flatten().min()
    }

    /// Does what is due by now.
    pub(super) fn tick(&mut self, tools: &mut Tools<'_>) -> io::Result<()> {
        let now = tools.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.trouble) {
            self.retry(tools)?;
        }
        for stream in Stream::BOTH {
            let Some(held) = &mut self.streams[stream.index()] else { continue };
            if matches!(held.flow, Flow::HungUp(until) if until <= now) {
                held.flow = Flow::Open;
            }
            if due(held.due) {
                let rest = if held.ended() { Rest::Final } else { Rest::Partial };
                self.write_out(stream, rest, tools)?;
            }
        }
        self.try_reopen(tools);
        self.try_finish(tools)
    }

    fn try_finish(&mut self, tools: &mut Tools<'_>) -> io::Result<()> {
        let ended = self.streams.iter().flatten().all(Held::ended);
        let due = self.finish.is_some_and(|deadline| ended || deadline <= tools.now);
        // Unasked, too: mostly the pipes end with the container, and the monitor need not ask and wait. While the disk
        // refuses there is still time to get it all written.
        let all_written = ended && !self.told && self.trouble.is_none();
        if !due && !all_written {
            return Ok(());
        }
        (self.finish, self.told) = (None, ended);
        for stream in Stream::BOTH {
            self.conclude(stream, tools)?;
        }
        fault::point("pump.finished");
        let end = self.log.place().map_or(0, |place| place.offset);
        let lost_bytes = self.ledger.state.lost_in_all;
        tools.answers.push_back(Answer::Finished { key: self.key, lost_bytes, end });
        Ok(())
    }

    /// Everything that is in a stream by now is written, or counted as lost. A child of init that still has it open may go on
    /// writing, so no more is taken than was there at first.
    fn conclude(&mut self, stream: Stream, tools: &mut Tools<'_>) -> io::Result<()> {
        let Some(held) = &mut self.streams[stream.index()] else { return Ok(()) };
        let mut left = if held.ended() { 0 } else { held.waiting() };
        while left > 0 {
            let before = self.held(stream)?.held;
            let intake = self.held(stream)?.take_in()?;
            left = left.saturating_sub(self.held(stream)?.held - before);
            match intake {
                Intake::Took => self.write_out(stream, Rest::Keep, tools)?,
                Intake::Full if self.trouble.is_some() => self.drop_held(stream, tools)?,
                Intake::Full => self.write_out(stream, Rest::Partial, tools)?,
                Intake::Nothing | Intake::Ended | Intake::HungUp => break,
            }
        }
        self.write_out(stream, Rest::Final, tools)?;
        match self.trouble {
            Some(_) => self.drop_held(stream, tools),
            None => Ok(()),
        }
    }

    /// Nothing more will come, and nobody is there to say so.
    pub(super) fn is_over(&self) -> bool {
        self.streams.iter().flatten().all(|held| held.flow != Flow::Open)
    }
}

#[cfg(test)]
mod tests;
