//! The order in which a reduction walks its dimensions.

use crate::{DType, Layout, Shape};
use smallvec::SmallVec;

/// The iteration of a reduction, reordered and merged.
pub(super) struct Order {
    /// The sizes in the new order.
    pub shape: Shape,
    /// The inputs' layouts in the new order.
    pub layouts: Vec<Layout>,
    /// Number of outputs, and of elements folded into each.
    pub kept: usize,
    pub reduced: usize,
    /// The product of the kept dimensions that are innermost; 0 if a reduced one is.
    pub columns: usize,
    /// Whether the new order walks the elements as the old one does.
    pub is_identity: bool,
}

/// Kept dimensions are gathered at the inside until a row has this many elements...
const WIDE_ENOUGH: usize = 64;
/// ...or until one outer index has this many: narrow rows that follow one another in memory are
/// folded side by side, which beats jumping between outer indices.
const MANY_ENOUGH: usize = 256;

struct Dim {
    size: usize,
    reduced: bool,
    /// One for each input.
    strides: SmallVec<[isize; 6]>,
}

impl Order {
    pub fn new(shape: &[usize], layouts: &[Layout], axes: &[usize], dtypes: &[DType]) -> Order {
        // Merge neighbours of one kind that every input walks as one.
        let mut dims: Vec<Dim> = Vec::new();
        for d in (0..shape.len()).filter(|&d| shape[d] != 1) {
            let (size, reduced) = (shape[d], axes.contains(&d));
            let strides: SmallVec<[isize; 6]> = layouts.iter().map(|l| l.strides[d]).collect();
            match dims.last_mut() {
                Some(p)
                    if p.reduced == reduced
                        && p.strides
                            .iter()
                            .zip(&strides)
                            .all(|(&a, &b)| a == b * size as isize) =>
                {
                    p.size *= size;
                    p.strides = strides;
                }
                _ => dims.push(Dim {
                    size,
                    reduced,
                    strides,
                }),
            }
        }
        let product = |reduced: bool| -> usize {
            dims.iter()
                .filter(|d| d.reduced == reduced)
                .map(|d| d.size)
                .product()
        };
        let (kept, folded) = (product(false), product(true));

        // How many bytes would be read in order if a dimension were the innermost.
        let mut score = vec![0usize; dims.len()];
        for (k, dtype) in dtypes.iter().enumerate().take(layouts.len()) {
            let moving = || (0..dims.len()).filter(|&d| dims[d].strides[k] != 0);
            let bytes: usize = moving().map(|d| dims[d].size).product::<usize>() * dtype.size();
            if let Some(d) = moving().min_by_key(|&d| dims[d].strides[k].unsigned_abs()) {
                score[d] += bytes;
            }
        }
        let last_kept = (0..dims.len()).rev().find(|&d| !dims[d].reduced);
        let best_reduced = (0..dims.len())
            .rev()
            .filter(|&d| dims[d].reduced)
            .max_by_key(|&d| score[d]);
        let mut by_columns = match (best_reduced, last_kept) {
            (Some(r), Some(k)) => (score[k], k) > (score[r], r),
            (None, _) => false,
            (_, None) => false,
        };
        by_columns &= kept > 0 && folded > 0;

        let (mut front, mut middle, mut back) = (vec![], vec![], vec![]);
        let mut columns = 1;
        for d in (0..dims.len()).rev() {
            if dims[d].reduced {
                middle.push(d);
            } else if by_columns
                && (columns == 1 || columns < WIDE_ENOUGH && columns * folded < MANY_ENOUGH)
            {
                columns *= dims[d].size;
                back.push(d);
            } else {
                front.push(d);
            }
        }
        if let Some(r) = best_reduced
            && !by_columns
        {
            // The reduced dimension that memory walks fastest goes innermost.
            middle.retain(|&d| d != r);
            middle.insert(0, r);
        }
        let order: Vec<usize> = back.into_iter().chain(middle).chain(front).rev().collect();
        let pick = |k: usize| -> SmallVec<[isize; 6]> {
            order.iter().map(|&d| dims[d].strides[k]).collect()
        };
        let new_shape: Shape = order.iter().map(|&d| dims[d].size).collect();
        Order {
            layouts: (layouts.iter().enumerate())
                .map(|(k, l)| Layout {
                    shape: new_shape.clone(),
                    strides: pick(k),
                    offset: l.offset,
                })
                .collect(),
            shape: new_shape,
            kept,
            reduced: folded,
            columns: if by_columns { columns } else { 0 },
            is_identity: order.is_sorted(),
        }
    }
}
