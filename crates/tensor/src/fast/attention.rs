//! Scaled dot-product attention as a fused op: its definition, shapes and derivative rule.

use super::Fast;
use crate::dtype::DType;
use crate::grad::vjp_of;
use crate::precision::Precision;
use crate::prim::Prim;
use crate::shape::Shape;
use crate::tape::Key;
use crate::tensor::Tensor;

/// Whether the gradients of queries, keys and values lie side by side, `[b, time, heads, size]` with the heads
/// of queries, then of keys, then of values, and not one behind the other: so they are what goes back through a
/// projection that makes all three. Takes how many queries and keys there are, and the sizes of a key and of a value.
pub fn side_by_side(queries: usize, keys: usize, size: usize, width: usize) -> bool {
    queries == keys && size == width
}

/// The options of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// What products of queries and keys are multiplied with.
    pub scale: f64,
    /// Whether query `i` sees keys `0..=i` alone.
    pub causal: bool,
    /// Whether there is a further input after the values: numbers `[b, h, t, s]` added to the
    /// scaled products.
    pub masked: bool,
    /// Which weights become 0.
    pub dropped: Option<Dropped>,
    /// How exactly `f32` is multiplied.
    pub precision: Precision,
}

/// Weights that become 0 at random, while the others grow by `1 / (1 - p)`: those whose uniform
/// number under `key`, counted through `[b, h, t, s]`, is less than `p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropped {
    /// Their share.
    pub p: f64,
    /// Which they are, anew in every step.
    pub key: Key,
}

impl Attend {
    pub(super) fn hash(&self, h: &mut impl FnMut(u64)) {
        h(self.scale.to_bits());
        // The key is a run-time slot.
        h(self.dropped.map_or(0.0, |d| d.p).to_bits());
        let flags = [self.dropped.is_some(), self.causal, self.masked];
        let bits = flags.iter().fold(0, |bits, &flag| bits << 1 | flag as u64);
        h((self.precision as u64) << 3 | bits);
    }
}

/// One of the arrays that lie one behind the other in a flat result.
struct Part {
    start: usize,
    shape: [usize; 4],
}

impl Part {
    fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The part of `flat`, from `[b, time, heads, size]` to `[b, heads, time, size]`.
    fn of(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.start, self.numel())
            .reshape(self.shape)
            .transpose(1, 2)
    }
}

fn shape(t: &[usize]) -> [usize; 4] {
    t.try_into().expect("attention's inputs have four axes")
}

/// `[b, heads, time, size]` arrays as parts with time before heads.
fn parts<const N: usize>(arrays: [&[usize]; N]) -> [Part; N] {
    let mut start = 0;
    arrays.map(|a| {
        let [b, h, t, d] = shape(a);
        let part = Part {
            start,
            shape: [b, t, h, d],
        };
        start += part.numel();
        part
    })
}

/// The parts of an attention's flat result: the output, then the logarithm of each row's sum of
/// exponentials (as an array with rows of one).
fn result_parts(q: &[usize], v: &[usize]) -> [Part; 2] {
    let [b, h, t, _] = shape(q);
    parts([&[b, h, t, v[3]], &[b, 1, h * t, 1]])
}

/// The shapes that queries, keys, values and mask must have, given those that they have.
pub(super) fn input_shapes(a: &Attend, given: &[&Shape]) -> Option<Vec<Shape>> {
    let of = |i: usize| -> Option<[usize; 4]> { given.get(i)?[..].try_into().ok() };
    let ([b, h, t, d], [_, g, s, _], [.., e]) = (of(0)?, of(1)?, of(2)?);
    if s == 0 || g == 0 || !h.is_multiple_of(g) {
        return None;
    }
    let mut shapes = vec![[b, h, t, d], [b, g, s, d], [b, g, s, e]];
    shapes.extend(a.masked.then_some([b, h, t, s]));
    Some(shapes.into_iter().map(Shape::from).collect())
}

pub(super) fn infer(q: &Shape, v: &Shape) -> Shape {
    Shape::from([result_parts(q, v).iter().map(Part::numel).sum()])
}

pub(super) fn infer_grad(q: &Shape, k: &Shape, v: &Shape, mask: bool) -> Shape {
    let weights = q[0] * q[1] * q[2] * k[2];
    Shape::from([q.numel() + k.numel() + v.numel() + if mask { weights } else { 0 }])
}

/// Output and row-wise logarithm out of the flat result.
pub(crate) fn output(flat: &Tensor, q: &[usize], v: &[usize]) -> Tensor {
    result_parts(q, v)[0].of(flat)
}

fn pack(arrays: &[Tensor]) -> Tensor {
    let flat = |t: &Tensor| t.transpose(1, 2).reshape([t.numel()]);
    Tensor::cat(&arrays.iter().map(flat).collect::<Vec<_>>(), 0)
}

/// Key or value heads repeated so that there is one for every query head.
pub(crate) fn repeated(x: &Tensor, heads: usize) -> Tensor {
    let [b, g, s, d] = shape(x.shape());
    if g == heads {
        return x.clone();
    }
    let wide = x.unsqueeze(2).broadcast_to([b, g, heads / g, s, d]);
    wide.reshape([b, heads, s, d])
}

/// What [`Fast::Attention`] computes.
pub(super) fn define(a: &Attend, inputs: &[Tensor]) -> Tensor {
    let [q, k, v] = [&inputs[0], &inputs[1], &inputs[2]];
    let heads = q.dim(1);
    let (k, v) = (repeated(k, heads), repeated(v, heads));
    let mut scores = q.matmul_with(&k.t(), a.precision) * a.scale;
    if a.masked {
        scores = scores + &inputs[3];
    }
    let infinity = Tensor::full((), f64::NEG_INFINITY, scores.dtype());
    if a.causal {
        let (rows, cols) = (q.dim(2), k.dim(2));
        let row = Tensor::arange(rows, DType::I64).unsqueeze(-1);
        let hidden = Tensor::arange(cols, DType::I64).gt(&row);
        scores = scores.masked_fill(&hidden, f64::NEG_INFINITY);
    }
    // A row that sees nothing has no largest element, and gives zeros.
    let largest = scores.detach().max_keepdim(-1);
    let shift = largest.masked_fill(&largest.eq(&infinity), 0.0);
    let weights = (scores - &shift).exp();
    let sum = weights.sum_keepdim(-1);
    let blind = sum.eq_scalar(0);
    let sum = sum.masked_fill(&blind, 1.0);
    let log = (sum.log() + shift).masked_fill(&blind, f64::NEG_INFINITY);
    let weights = match a.dropped {
        None => weights,
        Some(Dropped { p, key }) => {
            let shape = Shape::from(weights.shape());
            let uniform =
                Tensor::from_node(Prim::Uniform(key), Default::default(), shape, DType::F32);
            let grown = &weights * if p < 1.0 { 1.0 / (1.0 - p) } else { 0.0 };
            uniform.lt_scalar(p).where_(&weights.zeros_like(), &grown)
        }
    };
    let y = weights.matmul_with(&v, a.precision) / sum;
    let [b, h, t, _] = shape(q.shape());
    pack(&[y, log.reshape([b, 1, h * t, 1])])
}

/// What [`Fast::AttentionGrad`] computes.
pub(super) fn define_grad(a: &Attend, mask: bool, inputs: &[Tensor]) -> Tensor {
    let (given, rest) = inputs.split_at(3 + a.masked as usize);
    let grads = vjp_of(|x| define(a, x), given, &rest[1]);
    let asked = grads.into_iter().take(3 + mask as usize);
    let asked: Vec<Tensor> = asked
        .map(|g| g.expect("attention depends on its inputs"))
        .collect();
    if !are_side_by_side(given[0].shape(), given[1].shape(), given[2].shape()) {
        return pack(&asked);
    }
    let (three, of_mask) = asked.split_at(3);
    pack(&[&[Tensor::cat(three, 1)], of_mask].concat())
}

fn are_side_by_side(q: &[usize], k: &[usize], v: &[usize]) -> bool {
    side_by_side(q[2], k[2], q[3], v[3])
}

/// The cotangents of [`Fast::Attention`]'s inputs.
pub(super) fn vjp(
    a: &Attend,
    inputs: &[Tensor],
    y: &Tensor,
    g: &Tensor,
    wanted: &[bool],
) -> Vec<Option<Tensor>> {
    let all: Vec<&Tensor> = inputs.iter().chain([y, g]).collect();
    // Most masks are given, but some are learnt: relative positions.
    let mask = a.masked && wanted[3];
    let flat = Fast::AttentionGrad { of: *a, mask }.call(&all);
    let (q, k, v) = (inputs[0].shape(), inputs[1].shape(), inputs[2].shape());
    let weights = [q[0], q[1], q[2], k[2]];
    let [dq, dk, dv, dmask] = parts([q, k, v, &weights]);
    let mut grads = if are_side_by_side(q, k, v) {
        let (heads, groups) = (q[1], k[1]);
        let shape = [q[0], q[2], heads + 2 * groups, q[3]];
        let joined = Part { start: 0, shape }.of(&flat);
        let of = [(0, heads), (heads, groups), (heads + groups, groups)];
        of.map(|(start, n)| joined.narrow(1, start, n)).to_vec()
    } else {
        [dq, dk, dv].map(|p| p.of(&flat)).to_vec()
    };
    grads.extend(mask.then(|| dmask.of(&flat)));
    grads.into_iter().map(Some).collect()
}
