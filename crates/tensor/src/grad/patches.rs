//! Cotangents that come back through slices: each is zero but for the stretch that was read.
//!
//! Several slices of one tensor (queries, keys and values of one projection; the steps of a
//! sequence) would each fill the whole tensor with zeros, and adding them would read it again for
//! each. Stretches that do not overlap are put side by side instead.

use crate::prim::{Prim, SliceSpec};
use crate::shape::Shape;
use crate::tensor::Tensor;
use std::sync::Arc;

/// Stretches that do not overlap.
#[derive(Default)]
pub(super) struct Patches(Vec<Patch>);

struct Patch {
    spec: Arc<SliceSpec>,
    stretch: Tensor,
    /// The stretch within zeros.
    whole: Tensor,
}

impl Patch {
    /// What `g` is, if it is a stretch of neighbours within zeros.
    fn of(g: &Tensor) -> Option<Patch> {
        let Prim::SliceUpdate(spec) = &g.0.prim else {
            return None;
        };
        let state = g.0.state();
        let [around, stretch] = state.inputs.as_slice() else {
            return None;
        };
        let zeros = matches!(around.0.prim, Prim::Const(s) if s.to_f64() == 0.0);
        let neighbours = spec.steps.iter().all(|&step| step == 1);
        (zeros && neighbours).then(|| Patch {
            spec: spec.clone(),
            stretch: stretch.clone(),
            whole: g.clone(),
        })
    }

    /// First index and the one behind the last along an axis.
    fn range(&self, axis: usize) -> (usize, usize) {
        let start = self.spec.starts[axis];
        (start, start + self.stretch.shape()[axis])
    }

    fn is_apart(&self, other: &Patch) -> bool {
        (0..self.stretch.rank()).any(|axis| {
            let (a, b) = (self.range(axis), other.range(axis));
            a.1 <= b.0 || b.1 <= a.0
        })
    }
}

impl Patches {
    /// Takes `g` in, if it is a stretch that overlaps none of the others.
    pub fn take(&mut self, g: &Tensor) -> bool {
        match Patch::of(g) {
            Some(patch) if self.0.iter().all(|other| other.is_apart(&patch)) => {
                self.0.push(patch);
                true
            }
            _ => false,
        }
    }

    /// The stretches within zeros; `None` if there are none.
    pub fn whole(&self) -> Option<Tensor> {
        let (first, rest) = self.0.split_first()?;
        if let Some(joined) = self.joined(first.whole.shape()) {
            return Some(joined);
        }
        let put = |whole: Tensor, patch: &Patch| {
            Tensor::op(
                Prim::SliceUpdate(patch.spec.clone()),
                [&whole, &patch.stretch],
            )
        };
        Some(rest.iter().fold(first.whole.clone(), put))
    }

    /// The stretches one behind the other along an axis, if that leaves few gaps.
    fn joined(&self, shape: &[usize]) -> Option<Tensor> {
        let full = |axis: usize| self.0.iter().all(|p| p.range(axis) == (0, shape[axis]));
        let mut partial = (0..shape.len()).filter(|&axis| !full(axis));
        let axis = partial.next()?;
        let covered: usize = self.0.iter().map(|p| p.stretch.shape()[axis]).sum();
        if partial.next().is_some() || 2 * covered <= shape[axis] {
            return None;
        }
        let mut order: Vec<&Patch> = self.0.iter().collect();
        order.sort_unstable_by_key(|p| p.range(axis));
        let mut parts = Vec::with_capacity(order.len() + 1);
        let mut at = 0;
        let dtype = order[0].stretch.dtype();
        let gap = |from: usize, to: usize| {
            let mut size = Shape::from(shape);
            size.dims_mut()[axis] = to - from;
            (to > from).then(|| Tensor::zeros(size, dtype))
        };
        for patch in order {
            let (start, end) = patch.range(axis);
            parts.extend(gap(at, start));
            parts.push(patch.stretch.clone());
            at = end;
        }
        parts.extend(gap(at, shape[axis]));
        Some(Tensor::cat(&parts, axis as isize))
    }
}
