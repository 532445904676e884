//! Which elements a task has finished.

use std::ops::Range;

/// Runs of consecutive linear indices, evenly spaced: a block of a matrix, or just a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs {
    /// The first index of the first run.
    pub first: usize,
    /// Indices of a run.
    pub len: usize,
    /// How many runs there are.
    pub count: usize,
    /// From the first index of one run to that of the next, not less than `len`.
    pub step: usize,
    /// Where the elements lie, run after run without gaps, if not at their places in the output.
    pub apart: Option<*const u8>,
}

impl Runs {
    /// The given rows and columns of a matrix with rows of `width`, whose first index is `base`.
    pub fn block(base: usize, width: usize, rows: Range<usize>, cols: Range<usize>) -> Self {
        debug_assert!(cols.end <= width, "{cols:?} of rows of {width}");
        let first = base + rows.start * width;
        if cols.len() == width {
            return (first..first + rows.len() * width).into();
        }
        Runs {
            first: first + cols.start,
            len: cols.len(),
            count: rows.len(),
            step: width,
            apart: None,
        }
    }

    /// The same runs of something that begins at `base`.
    pub fn from_base(self, base: usize) -> Self {
        Runs {
            first: base + self.first,
            ..self
        }
    }

    /// Whether there is no index.
    pub fn is_empty(&self) -> bool {
        self.len == 0 || self.count == 0
    }

    /// Behind the last index; there must be one.
    pub fn end(&self) -> usize {
        self.first + (self.count - 1) * self.step + self.len
    }

    /// Run after run.
    pub fn each(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.count)
            .map(move |i| self.first + i * self.step)
            .map(move |first| first..first + self.len)
    }
}

impl From<Range<usize>> for Runs {
    fn from(range: Range<usize>) -> Self {
        Runs {
            first: range.start,
            len: range.len(),
            count: 1,
            step: range.len(),
            apart: None,
        }
    }
}

/// What is called with each finished part of an output.
#[derive(Clone, Copy)]
pub struct After<'a> {
    call: &'a (dyn Fn(Runs) + Sync),
    /// Whether nobody else reads the output, so that finished elements may also lie [apart](Runs::apart).
    pub alone: bool,
}

impl<'a> After<'a> {
    /// Elements lie at their places in the output.
    pub fn new(call: &'a (dyn Fn(Runs) + Sync)) -> Self {
        After { call, alone: false }
    }

    /// There is nothing to be done.
    pub fn none() -> Self {
        After::new(&|_| {})
    }

    /// The same with a word about who reads the output.
    pub fn alone(self, alone: bool) -> Self {
        After { alone, ..self }
    }
}

impl<'a> std::ops::Deref for After<'a> {
    type Target = dyn Fn(Runs) + Sync + 'a;
    fn deref(&self) -> &Self::Target {
        self.call
    }
}

/// Calls `f` with what it is to tell of finished parts, and asserts that they cover the indices from 0 on
/// once. Returns what `f` returns, and where they end.
#[cfg(test)]
pub fn told_once<R>(f: impl FnOnce(After<'_>) -> R) -> (R, usize) {
    let ranges = std::sync::Mutex::new(Vec::new());
    let result = f(After::new(&|runs| {
        let mut ranges = ranges.lock().unwrap();
        ranges.extend(runs.each().map(|r| (r.start, r.end)));
    }));
    let mut ranges = ranges.into_inner().unwrap();
    ranges.sort_unstable();
    let end = ranges.iter().fold(0, |next, &(start, end)| {
        assert!(start == next && end > start, "{start} after {next}");
        end
    });
    (result, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_their_rows_and_columns() {
        let all = |runs: Runs| runs.each().flatten().collect::<Vec<_>>();
        assert_eq!(all(Runs::block(100, 10, 1..3, 2..4)), [112, 113, 122, 123]);
        assert_eq!(Runs::block(100, 10, 1..3, 2..4).end(), 124);
        // Whole rows are one run.
        assert_eq!(Runs::block(5, 3, 1..3, 0..3), Runs::from(8..14));
        assert_eq!(Runs::from(8..14).from_base(2), Runs::from(10..16));
        assert!(Runs::block(0, 3, 1..1, 0..2).is_empty());
        assert!(Runs::block(0, 3, 0..2, 1..1).is_empty());
        assert!(Runs::from(4..4).is_empty());
    }
}
