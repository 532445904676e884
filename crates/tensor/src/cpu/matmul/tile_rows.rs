//! How rows of the output are shared out to tiles.

use std::ops::Range;

/// Rows that are cut into tiles.
#[derive(Clone, Copy)]
pub struct TileRows {
    pub first: usize,
    end: usize,
    /// Rows of each of the first `tall` tiles; the others have one less.
    height: usize,
    tall: usize,
}

impl TileRows {
    /// As few tiles of at most so many rows as it takes, as even as can be: low tiles keep the
    /// multipliers waiting.
    pub fn shared_out(rows: Range<usize>, most: usize) -> Self {
        let count = rows.len().div_ceil(most).max(1);
        let height = rows.len().div_ceil(count);
        TileRows {
            first: rows.start,
            end: rows.end,
            height,
            tall: count - (count * height - rows.len()),
        }
    }

    /// Tiles of so many rows, but for the last.
    pub fn of_height(rows: Range<usize>, height: usize) -> Self {
        TileRows {
            first: rows.start,
            end: rows.end,
            height,
            tall: usize::MAX,
        }
    }

    pub fn each(self) -> impl Iterator<Item = Range<usize>> {
        let (mut i, mut tall) = (self.first, self.tall);
        std::iter::from_fn(move || {
            let height = self.height - (tall == 0) as usize;
            let tile = i..self.end.min(i + height);
            (i, tall) = (tile.end, tall.saturating_sub(1));
            (!tile.is_empty()).then_some(tile)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_their_rows_and_are_even() {
        for rows in (0..70).map(|len| 5..5 + len) {
            for most in [1, 2, 6, 14] {
                let (even, of_height) = (
                    TileRows::shared_out(rows.clone(), most),
                    TileRows::of_height(rows.clone(), most),
                );
                let heights = || even.each().map(|tile| tile.len());
                let (low, high) = (heights().min(), heights().max());
                assert!(high <= Some(most) && high.unwrap_or(0) - low.unwrap_or(0) <= 1);
                for tiles in [even, of_height] {
                    assert!(tiles.each().flatten().eq(rows.clone()));
                    assert_eq!(tiles.each().count(), rows.len().div_ceil(most));
                }
            }
        }
    }
}
