//! Classic BPF, written from its end: jumps only go forward, so what a jump leads to is always written before it.

#![forbid(unsafe_code)]

use super::abi::Abi;
use super::partition::Partition;
use super::rules::Alternative;
use super::rules::Condition;
use super::rules::Test;
use crate::sys::seccomp::Instruction;
use std::collections::BTreeMap;

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    /// The filter's answer: SECCOMP_RET_ with its data.
    Return(u32),
    /// On to the instruction with this place, counted from the end.
    To(usize),
}

#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    /// The nearest return of each answer.
    returns: BTreeMap<u32, usize>,
    /// The nearest jump that leads to each place.
    leaps: BTreeMap<usize, usize>,
    /// What several calls have in common is written once: alternatives, the widest argument, where they are.
    written: Vec<(Vec<Alternative>, u64, Go)>,
}

// linux/bpf_common.h
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// A conditional jump counts in 8 bits; some are left for what is written between a target and its jump.
const REACH: usize = 250;

impl Assembler {
    fn push(&mut self, code: u16, k: u32) -> Go {
        self.reversed.push(Instruction { code, jt: 0, jf: 0, k });
        Go::To(self.reversed.len() - 1)
    }

    /// Instructions between the next one to be written and `place`.
    fn distance(&self, place: usize) -> usize {
        self.reversed.len() - 1 - place
    }

    /// A place within reach of a conditional jump that comes to the same.
    fn near(&mut self, go: Go) -> usize {
        let known = match go {
            Go::Return(answer) => self.returns.get(&answer),
            Go::To(place) if self.distance(place) <= REACH => return place,
            Go::To(place) => self.leaps.get(&place),
        };
        if let Some(place) = known.copied().filter(|place| self.distance(*place) <= REACH) {
            return place;
        }
        let here = self.reversed.len();
        match go {
            Go::Return(answer) => {
                self.push(RETURN, answer);
                self.returns.insert(answer, here);
            }
            Go::To(place) => {
                self.push(JUMP, u32::try_from(self.distance(place)).expect("a program has fewer instructions"));
                self.leaps.insert(place, here);
            }
        }
        here
    }

    /// A conditional jump on what was loaded.
    fn branch(&mut self, code: u16, k: u32, then: Go, otherwise: Go) -> Go {
        let (then, otherwise) = (self.near(then), self.near(otherwise));
        let offset = |place| u8::try_from(self.distance(place)).expect("REACH leaves room for two instructions");
        let (jt, jf) = (offset(then), offset(otherwise));
        self.reversed.push(Instruction { code, jt, jf, k });
        Go::To(self.reversed.len() - 1)
    }

    pub(super) fn equal(&mut self, k: u32, then: Go, otherwise: Go) -> Go {
        self.branch(JUMP_EQUAL, k, then, otherwise)
    }

    /// Loads a word of seccomp_data and goes by it.
    pub(super) fn switch(&mut self, offset: u32, by: &Partition<Go>) -> Go {
        let low = |start: u64| u32::try_from(start).expect("a word's partition holds words");
        let words: Vec<(u32, Go)> = by.starts().iter().map(|(start, go)| (low(*start), *go)).collect();
        match words.as_slice() {
            [(_, only)] => *only,
            several => {
                self.search(several);
                self.push(LOAD, offset)
            }
        }
    }

    /// A binary search; one comparison where a single word is the exception.
    fn search(&mut self, words: &[(u32, Go)]) -> Go {
        match words {
            [(_, only)] => *only,
            [(_, usual), (start, exception), (next, other)] if usual == other && *next == start + 1 => {
                self.equal(*start, *exception, *usual)
            }
            several => {
                let (below, above) = several.split_at(several.len() / 2);
                let then = self.search(above);
                let otherwise = self.search(below);
                self.branch(JUMP_AT_LEAST, above[0].0, then, otherwise)
            }
        }
    }

    /// The answer of the first alternative that holds; else `otherwise`, which is the same for a whole program.
    pub(super) fn first_of(&mut self, alternatives: &[Alternative], abi: Abi, otherwise: Go) -> Go {
        let same = |(other, widest, _): &&(Vec<_>, u64, Go)| *widest == abi.widest() && other == alternatives;
        if let Some((_, _, go)) = self.written.iter().find(same) {
            return *go;
        }
        let mut go = otherwise;
        let mut left = alternatives;
        while let Some((last, before)) = left.split_last() {
            if let Some(arg) = last.switchable() {
                let together = left.iter().rev().take_while(|other| other.switchable() == Some(arg)).count();
                let (rest, alike) = left.split_at(left.len() - together);
                go = self.values(arg, &painted(alike, abi, go), abi);
                left = rest;
            } else {
                go = self.all(&last.when, abi, Go::Return(last.action), go);
                left = before;
            }
        }
        self.written.push((alternatives.to_vec(), abi.widest(), go));
        go
    }

    /// `then` if all conditions hold.
    fn all(&mut self, conditions: &[Condition], abi: Abi, then: Go, otherwise: Go) -> Go {
        conditions.iter().rev().fold(then, |then, condition| match condition.test {
            Test::Bits(mask, bits) => self.bits(condition.arg, mask, bits, then, otherwise),
            test => {
                let mut values = Partition::new(abi.widest(), otherwise);
                paint(&mut values, test, then);
                self.values(condition.arg, &values, abi)
            }
        })
    }

    /// Goes by the value of an argument: by its high half, then, where that does not settle it, by its low half.
    fn values(&mut self, arg: u32, by: &Partition<Go>, abi: Abi) -> Go {
        if abi.widest() == u64::from(u32::MAX) {
            return self.switch(low_half(arg), by);
        }
        const WORD: u64 = u32::MAX as u64;
        let mut high = Partition::new(WORD, by.starts()[0].1);
        let mut unsettled = None;
        for (start, go) in by.starts() {
            let half = start >> 32;
            if start & WORD == 0 {
                high.paint(half, WORD, *go);
                continue;
            }
            if unsettled != Some(half) {
                let low = self.switch(low_half(arg), &by.window(half << 32, half << 32 | WORD));
                high.paint(half, half, low);
                unsettled = Some(half);
            }
            if half < WORD {
                high.paint(half + 1, WORD, *go);
            }
        }
        self.switch(low_half(arg) + 4, &high)
    }

    /// `then` if the argument has just these `bits` of the mask.
    fn bits(&mut self, arg: u32, mask: u64, bits: u64, then: Go, otherwise: Go) -> Go {
        let half = |value: u64, shift: u32| u32::try_from(value >> shift & u64::from(u32::MAX)).expect("32 bits");
        let mut go = then;
        for (shift, offset) in [(0, low_half(arg)), (32, low_half(arg) + 4)] {
            let (mask, bits) = (half(mask, shift), half(bits, shift));
            if mask == 0 {
                continue;
            }
            if bits == 0 {
                self.branch(JUMP_ANY_BIT, mask, otherwise, go);
            } else {
                self.equal(bits, go, otherwise);
                self.push(AND, mask);
            }
            go = self.push(LOAD, offset);
        }
        go
    }

    pub(super) fn finish(mut self, offset: u32, start: Go) -> Vec<Instruction> {
        debug_assert_eq!(start, Go::To(self.reversed.len() - 1));
        self.push(LOAD, offset);
        self.reversed.reverse();
        self.reversed
    }
}

/// Where `args[arg]` is in seccomp_data; its high half comes after, on all machines that podrun knows.
fn low_half(arg: u32) -> u32 {
    16 + 8 * arg
}

impl Alternative {
    /// The argument that alone decides, if the values that pass form stretches.
    fn switchable(&self) -> Option<u32> {
        match self.when.as_slice() {
            [Condition { test: Test::Bits(..), .. }] => None,
            [Condition { arg, .. }] => Some(*arg),
            _ => None,
        }
    }
}

/// Alternatives on one argument as one partition of its values; the first is painted last.
fn painted(alternatives: &[Alternative], abi: Abi, otherwise: Go) -> Partition<Go> {
    let mut values = Partition::new(abi.widest(), otherwise);
    for alternative in alternatives.iter().rev() {
        for condition in &alternative.when {
            paint(&mut values, condition.test, Go::Return(alternative.action));
        }
    }
    values
}

fn paint(values: &mut Partition<Go>, test: Test, go: Go) {
    let last = values.last();
    match test {
        Test::Within(from, to) => values.paint(from, to, go),
        Test::Not(value) => {
            if value > 0 {
                values.paint(0, value - 1, go);
            }
            if value < last {
                values.paint(value + 1, last, go);
            }
        }
        Test::Never | Test::Bits(..) => {}
    }
}
