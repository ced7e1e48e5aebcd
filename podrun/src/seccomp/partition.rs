//! A range of numbers cut into stretches, each with what becomes of it: system call numbers, values of an argument.

#![forbid(unsafe_code)]

/// Covers 0 to `last` without gaps; neighbours always differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition<T> {
    starts: Vec<(u64, T)>,
    last: u64,
}

impl<T: Copy + PartialEq> Partition<T> {
    pub(super) fn new(last: u64, all: T) -> Self {
        Self { starts: vec![(0, all)], last }
    }

    /// `from` to `to`, both included, become `new`.
    pub(super) fn paint(&mut self, from: u64, to: u64, new: T) {
        let first = self.starts.partition_point(|(start, _)| *start < from);
        let before = first.checked_sub(1).map(|i| self.starts[i].1);
        let after = self.starts.partition_point(|(start, _)| *start <= to);
        let next = match to < self.last && self.starts.get(after).is_none_or(|(start, _)| *start != to + 1) {
            true => Some((to + 1, self.starts[after - 1].1)),
            false => None,
        };
        let middle = (before != Some(new)).then_some((from, new));
        // What follows the stretch begins anew, unless it is the same.
        let resumed = next.filter(|(_, old)| *old != new);
        let swallowed = usize::from(next.is_none() && self.starts.get(after).is_some_and(|(_, old)| *old == new));
        self.starts.splice(first..after + swallowed, middle.into_iter().chain(resumed));
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Each stretch's first number, in order.
    pub(super) fn starts(&self) -> &[(u64, T)] {
        &self.starts
    }

    /// The stretches between `from` and `to`, counted from `from`.
    pub(super) fn window(&self, from: u64, to: u64) -> Self {
        let first = self.starts.partition_point(|(start, _)| *start <= from) - 1;
        let inside = self.starts[first..].iter().take_while(|(start, _)| *start <= to);
        Self { starts: inside.map(|(start, what)| (start.saturating_sub(from), *what)).collect(), last: to - from }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn painting_is_what_painting_each_number_would_be() {
        // Every stretch over ten numbers, on top of every other one, in three colours.
        let stretches: Vec<(u64, u64)> = (0..10).flat_map(|from| (from..10).map(move |to| (from, to))).collect();
        for &(a, b) in &stretches {
            for &(c, d) in &stretches {
                for colours in [[1, 1], [1, 2], [1, 0]] {
                    let mut plain = [0; 10];
                    plain[usize::try_from(a).unwrap()..=usize::try_from(b).unwrap()].fill(colours[0]);
                    plain[usize::try_from(c).unwrap()..=usize::try_from(d).unwrap()].fill(colours[1]);
                    let mut cut = Partition::new(9, 0);
                    cut.paint(a, b, colours[0]);
                    cut.paint(c, d, colours[1]);
                    assert_eq!(cut.starts, runs(&plain), "{a}..={b} then {c}..={d} in {colours:?}");
                    assert_eq!(cut.window(c, d).starts, runs(&plain[c.try_into().unwrap()..=d.try_into().unwrap()]));
                }
            }
        }
    }

    fn runs(plain: &[i32]) -> Vec<(u64, i32)> {
        let mut runs: Vec<(u64, i32)> = Vec::new();
        for (at, what) in (0..).zip(plain) {
            if runs.last().is_none_or(|(_, last)| last != what) {
                runs.push((at, *what));
            }
        }
        runs
    }

    #[test]
    fn the_last_number_of_all_is_no_special_case() {
        let mut cut = Partition::new(u64::MAX, 'a');
        cut.paint(u64::MAX, u64::MAX, 'b');
        cut.paint(0, 0, 'b');
        assert_eq!(cut.starts(), [(0, 'b'), (1, 'a'), (u64::MAX, 'b')]);
    }
}
