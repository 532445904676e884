//! Recurrent layers as a fused op over a whole sequence: definition, shapes and derivative rule.
//!
//! The products with the inputs of all time steps are one large ordinary product outside; the op
//! takes its result. The weight's gradient is one large product outside as well.

use super::Fast;
use crate::grad::vjp_of;
use crate::precision::Precision;
use crate::prim::Prim;
use crate::shape::Shape;
use crate::tape::Binary;
use crate::tensor::Tensor;
use std::ops::Range;

/// What a recurrent layer computes at a time step, from the inputs' products `x`, the products
/// `u = W h` with the former state, and biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// `h' = tanh(x + u + b)` (Elman 1990).
    Tanh,
    /// `h' = relu(x + u + b)`.
    Relu,
    /// Gates `i, f, g, o` of `x + u + b`: `c' = sigmoid(f) c + sigmoid(i) tanh(g)` and
    /// `h' = sigmoid(o) tanh(c')` (Hochreiter and Schmidhuber 1997; Gers et al. 2000).
    Lstm,
    /// `r, z = sigmoid(x + u + b)`, `n = tanh(x + b + r (u + b'))` and `h' = (1 - z) n + z h`
    /// (Cho et al. 2014, in the form of PyTorch and cuDNN). The bias is `[b_r, b_z, b_n, b'_n]`.
    Gru,
}

impl Cell {
    /// Rows of the weights, and products that a step takes, in units of the hidden size.
    pub fn gates(self) -> usize {
        match self {
            Cell::Tanh | Cell::Relu => 1,
            Cell::Lstm => 4,
            Cell::Gru => 3,
        }
    }

    /// Biases, and gradients that a step leaves, in units of the hidden size: a GRU has one for
    /// each side of the sum that its reset gate divides.
    pub fn biases(self) -> usize {
        match self {
            Cell::Gru => 4,
            _ => self.gates(),
        }
    }

    /// What a step keeps for the gradient besides its output and cell, in units of the hidden
    /// size: an LSTM's `i, f, g, o`, a GRU's `r, z, u + b', n`.
    pub(crate) fn kept(self) -> usize {
        match self {
            Cell::Tanh | Cell::Relu => 0,
            Cell::Lstm | Cell::Gru => 4,
        }
    }

    pub(crate) fn has_memory(self) -> bool {
        self == Cell::Lstm
    }
}

/// The options of a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recur {
    /// What it computes.
    pub cell: Cell,
    /// Whether it walks from the last time step to the first.
    pub reverse: bool,
    /// Whether there is a further input `[t, b]`: where it is 0, the state stays as it is.
    pub masked: bool,
    /// Whether the result holds what the gradient needs.
    pub keeps: bool,
    /// How exactly `f32` is multiplied.
    pub precision: Precision,
}

/// Where the parts of the flat result lie.
pub(crate) struct Places {
    /// `[t, b, h]`: the state after each step.
    pub out: Range<usize>,
    /// `[b, h]`: an LSTM's last cell.
    pub cell: Range<usize>,
    /// `[b, h]`: the first state once more, before the states in the order of the walk.
    pub first: Range<usize>,
    /// `[t, b, h]`: the state before each step.
    pub before: Range<usize>,
    /// `[t, b, h]`: an LSTM's cell after each step.
    pub cells: Range<usize>,
    /// `[t, b, kept h]`.
    pub gates: Range<usize>,
    /// How many elements there are.
    pub len: usize,
}

impl Recur {
    pub(super) fn hash(&self, h: &mut impl FnMut(u64)) {
        h((self.precision as u64) << 8 | self.cell as u64);
        h((self.reverse as u64) << 2 | (self.masked as u64) << 1 | self.keeps as u64);
    }

    /// The number of inputs: products, weight, bias, state, cell, mask.
    fn inputs(&self) -> usize {
        4 + self.cell.has_memory() as usize + self.masked as usize
    }

    /// Which input is the mask.
    pub(crate) fn mask(&self) -> Option<usize> {
        self.masked.then(|| self.inputs() - 1)
    }

    /// The parts of the result for states `[b, h]` over `t` steps.
    pub(crate) fn places(&self, t: usize, b: usize, h: usize) -> Places {
        let (state, all) = (b * h, t * b * h);
        let mut end = 0;
        let mut next = |len: usize| {
            end += len;
            end - len..end
        };
        // The first state stands where the walk begins.
        let first = next(if self.keeps && !self.reverse {
            state
        } else {
            0
        });
        let out = next(all);
        let first = match self.keeps && self.reverse {
            true => next(state),
            false => first,
        };
        let memory = self.cell.has_memory() as usize;
        let cell = next(state * memory);
        let keeps = self.keeps as usize;
        let cells = next(all * memory * keeps);
        let gates = next(all * self.cell.kept() * keeps);
        let before = match self.reverse {
            true => state..state + all * keeps,
            false => 0..all * keeps,
        };
        Places {
            out,
            cell,
            first,
            before,
            cells,
            gates,
            len: end,
        }
    }

    /// The time steps in the order of the walk.
    pub(crate) fn walk(&self, steps: usize) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let reverse = self.reverse;
        (0..steps).map(move |s| if reverse { steps - 1 - s } else { s })
    }
}

/// Time steps, batch and hidden size of an op with these inputs.
fn sizes(pre: &[usize], state: &[usize]) -> [usize; 3] {
    [pre[0], pre[1], state[1]]
}

/// The shapes that the inputs must have, given those that they have.
pub(super) fn input_shapes(r: &Recur, given: &[&Shape]) -> Option<Vec<Shape>> {
    let &[t, b, _] = &given[0][..] else {
        return None;
    };
    let &[_, h] = &given.get(3)?[..] else {
        return None;
    };
    if t == 0 || h == 0 {
        return None;
    }
    let gates = r.cell.gates() * h;
    let mut shapes = vec![
        Shape::from([t, b, gates]),
        Shape::from([gates, h]),
        Shape::from([r.cell.biases() * h]),
        Shape::from([b, h]),
    ];
    shapes.extend(r.cell.has_memory().then(|| Shape::from([b, h])));
    shapes.extend(r.masked.then(|| Shape::from([t, b])));
    Some(shapes)
}

/// The same for the gradient: the inputs, the result, and the gradients of output and last cell.
pub(super) fn grad_input_shapes(r: &Recur, given: &[&Shape]) -> Option<Vec<Shape>> {
    let mut shapes = input_shapes(r, given)?;
    let [t, b, h] = sizes(&shapes[0], &shapes[3]);
    shapes.push(Shape::from([r.places(t, b, h).len]));
    shapes.push(Shape::from([t, b, h]));
    shapes.extend(r.cell.has_memory().then(|| Shape::from([b, h])));
    Some(shapes)
}

pub(super) fn infer(r: &Recur, pre: &Shape, state: &Shape) -> Shape {
    let [t, b, h] = sizes(pre, state);
    Shape::from([r.places(t, b, h).len])
}

/// Where the parts of the gradient lie: of the gates `[t, b, biases h]`, the bias `[biases h]`,
/// the first state and the first cell.
pub(crate) fn grad_places(cell: Cell, t: usize, b: usize, h: usize) -> [Range<usize>; 4] {
    let (width, state) = (cell.biases() * h, b * h);
    let sizes = [
        t * b * width,
        width,
        state,
        state * cell.has_memory() as usize,
    ];
    let mut end = 0;
    sizes.map(|len| {
        end += len;
        end - len..end
    })
}

pub(super) fn infer_grad(r: &Recur, pre: &Shape, state: &Shape) -> Shape {
    let [t, b, h] = sizes(pre, state);
    Shape::from([grad_places(r.cell, t, b, h)[3].end])
}

/// The part of a flat array that lies at `range`.
fn part(flat: &Tensor, range: &Range<usize>, shape: impl Into<Shape>) -> Tensor {
    flat.narrow(0, range.start, range.len()).reshape(shape)
}

/// States `[t, b, h]` and an LSTM's last cell `[b, h]` out of the flat result.
pub(crate) fn results(
    r: &Recur,
    flat: &Tensor,
    t: usize,
    state: &[usize],
) -> (Tensor, Option<Tensor>) {
    let [b, h] = [state[0], state[1]];
    let places = r.places(t, b, h);
    let memory = r.cell.has_memory();
    (
        part(flat, &places.out, [t, b, h]),
        memory.then(|| part(flat, &places.cell, [b, h])),
    )
}

/// What each step leaves behind.
struct Steps {
    out: Vec<Tensor>,
    cells: Vec<Tensor>,
    gates: Vec<Tensor>,
}

/// The steps one by one, in ops. `inner [t, b, h]` is added within a GRU's reset gate.
fn unroll(r: &Recur, inputs: &[Tensor], inner: Option<&Tensor>) -> Steps {
    let [pre, weight, bias, h0] = [&inputs[0], &inputs[1], &inputs[2], &inputs[3]];
    let [t, b, h] = sizes(pre.shape(), h0.shape());
    let at = |x: &Tensor, step: usize| x.narrow(0, step, 1).squeeze(0);
    let gate = |x: &Tensor, k: usize| x.narrow(1, k * h, h);
    let biases = |from: usize, count: usize| bias.narrow(0, from * h, count * h);
    let mut state = h0.clone();
    let mut cell = r.cell.has_memory().then(|| inputs[4].clone());
    let mut steps = Steps {
        out: vec![state.clone(); t],
        cells: vec![state.clone(); if cell.is_some() { t } else { 0 }],
        gates: vec![state.clone(); if r.cell.kept() > 0 { t } else { 0 }],
    };
    for step in r.walk(t) {
        let x = at(pre, step);
        let u = state.matmul_with(&weight.t(), r.precision);
        let stays = r
            .mask()
            .map(|i| at(&inputs[i], step).unsqueeze(1).eq_scalar(0));
        let unless_hidden = |new: Tensor, old: &Tensor| match &stays {
            Some(stays) => stays.where_(old, &new),
            None => new,
        };
        let new = match r.cell {
            Cell::Tanh => (x + u + bias).tanh(),
            Cell::Relu => (x + u + bias).relu(),
            Cell::Lstm => {
                let x = x + u + bias;
                let old = cell.as_ref().expect("an LSTM has a cell");
                let [i, f, g, o] = [
                    gate(&x, 0).sigmoid(),
                    gate(&x, 1).sigmoid(),
                    gate(&x, 2).tanh(),
                    gate(&x, 3).sigmoid(),
                ];
                let new = unless_hidden(&f * old + &i * &g, old);
                let out = &o * new.tanh();
                steps.gates[step] = Tensor::cat(&[i, f, g, o], 1);
                steps.cells[step] = new.clone();
                cell = Some(new);
                out
            }
            Cell::Gru => {
                let rz = x.narrow(1, 0, 2 * h) + u.narrow(1, 0, 2 * h) + biases(0, 2);
                let rz = rz.sigmoid();
                let (reset, z) = (gate(&rz, 0), gate(&rz, 1));
                let mut within = gate(&u, 2) + biases(3, 1);
                if let Some(inner) = inner {
                    within = within + at(inner, step);
                }
                let n = (gate(&x, 2) + biases(2, 1) + reset * &within).tanh();
                let out = &n + z * (&state - &n);
                steps.gates[step] = Tensor::cat(&[rz, within, n], 1);
                out
            }
        };
        state = unless_hidden(new, &state).reshape([b, h]);
        steps.out[step] = state.clone();
    }
    steps
}

/// Arrays one behind the other.
fn pack(arrays: &[Tensor]) -> Tensor {
    let flat = |t: &Tensor| t.reshape([t.numel()]);
    Tensor::cat(&arrays.iter().map(flat).collect::<Vec<_>>(), 0)
}

/// What [`Fast::Recurrent`] computes.
pub(super) fn define(r: &Recur, inputs: &[Tensor]) -> Tensor {
    let h0 = &inputs[3];
    let steps = unroll(r, inputs, None);
    let mut parts = vec![Tensor::stack(&steps.out, 0)];
    if r.keeps {
        parts.insert(r.reverse as usize, h0.clone());
    }
    if r.cell.has_memory() {
        let last = r.walk(steps.cells.len()).next_back();
        parts.push(steps.cells[last.expect("at least one step")].clone());
        parts.extend(r.keeps.then(|| Tensor::stack(&steps.cells, 0)));
    }
    if r.keeps && r.cell.kept() > 0 {
        parts.push(Tensor::stack(&steps.gates, 0));
    }
    pack(&parts)
}

/// What [`Fast::RecurrentGrad`] computes.
pub(super) fn define_grad(r: &Recur, inputs: &[Tensor]) -> Tensor {
    let (given, rest) = inputs.split_at(r.inputs());
    let [t, b, h] = sizes(given[0].shape(), given[3].shape());
    let gru = r.cell == Cell::Gru;
    let mut varied = given.to_vec();
    if gru {
        varied.push(Tensor::zeros([t, b, h], given[0].dtype()));
    }
    let shown = Recur { keeps: false, ..*r };
    let forward = |x: &[Tensor]| {
        let (x, inner) = x.split_at(r.inputs());
        let steps = unroll(&shown, x, inner.first());
        let mut parts = vec![Tensor::stack(&steps.out, 0)];
        if r.cell.has_memory() {
            let last = r.walk(t).next_back().expect("at least one step");
            parts.push(steps.cells[last].clone());
        }
        pack(&parts)
    };
    let mut grads = vjp_of(forward, &varied, &pack(&rest[1..]));
    let mut take = |i: usize| {
        let like = &varied[i];
        grads[i].take().unwrap_or_else(|| like.zeros_like())
    };
    let gates = take(0);
    let gates = match gru {
        true => Tensor::cat(&[gates, take(varied.len() - 1)], 2),
        false => gates,
    };
    let mut parts = vec![gates, take(2), take(3)];
    parts.extend(r.cell.has_memory().then(|| take(4)));
    pack(&parts)
}

/// The cotangents of [`Fast::Recurrent`]'s inputs.
pub(super) fn vjp(r: &Recur, inputs: &[Tensor], y: &Tensor, g: &Tensor) -> Vec<Option<Tensor>> {
    if !r.keeps {
        // Computed once more, with what the gradient needs.
        let keeping = Recur { keeps: true, ..*r };
        let y = Fast::Recurrent(keeping).apply(inputs);
        let (old, new) = (places(r, inputs), places(&keeping, inputs));
        let [out, cell] = [cotangent(g, &old.out), cotangent(g, &old.cell)];
        return vjp_of_parts(&keeping, &new, inputs, &y, out, cell);
    }
    let places = places(r, inputs);
    // What is only kept for the gradient is not for others to read; if somebody does, the
    // definition has the answer.
    let hidden = [&places.first, &places.cells, &places.gates];
    if hidden.into_iter().any(|p| cotangent(g, p).is_some()) {
        return vjp_of(|x| define(r, x), inputs, g);
    }
    let [out, cell] = [cotangent(g, &places.out), cotangent(g, &places.cell)];
    vjp_of_parts(r, &places, inputs, y, out, cell)
}

fn places(r: &Recur, inputs: &[Tensor]) -> Places {
    let [t, b, h] = sizes(inputs[0].shape(), inputs[3].shape());
    r.places(t, b, h)
}

fn vjp_of_parts(
    r: &Recur,
    places: &Places,
    inputs: &[Tensor],
    y: &Tensor,
    dout: Option<Tensor>,
    dcell: Option<Tensor>,
) -> Vec<Option<Tensor>> {
    let (pre, h0) = (&inputs[0], &inputs[3]);
    let [t, b, h] = sizes(pre.shape(), h0.shape());
    let or_zeros = |d: Option<Tensor>, shape: Shape| match d {
        Some(d) => d.reshape(shape),
        None => Tensor::zeros(shape, pre.dtype()),
    };
    let mut all = inputs.to_vec();
    all.push(y.clone());
    all.push(or_zeros(dout, Shape::from([t, b, h])));
    if r.cell.has_memory() {
        all.push(or_zeros(dcell, Shape::from([b, h])));
    }
    let flat = Fast::RecurrentGrad(*r).apply(&all);
    let [gates, bias, state, cell] = grad_places(r.cell, t, b, h);
    let width = r.cell.biases() * h;
    let gates = part(&flat, &gates, [t * b, width]);
    let before = part(y, &places.before, [t * b, h]);
    let along = |from: usize, len: usize| {
        let gates = gates.narrow(1, from, len).t();
        gates.matmul_with(&before, r.precision)
    };
    let weight = match r.cell {
        Cell::Gru => Tensor::cat(&[along(0, 2 * h), along(3 * h, h)], 0),
        _ => along(0, width),
    };
    let pre = gates.narrow(1, 0, r.cell.gates() * h).reshape(pre.shape());
    let mut grads = vec![
        Some(pre),
        Some(weight),
        Some(part(&flat, &bias, [width])),
        Some(part(&flat, &state, [b, h])),
    ];
    grads.extend(
        r.cell
            .has_memory()
            .then(|| Some(part(&flat, &cell, [b, h]))),
    );
    grads.extend(r.masked.then_some(None));
    grads
}

/// The elements at `range` of a flat cotangent; `None` if they are zero. Put together from the
/// cotangents of views (zeros with parts filled in, parts side by side, sums of both), it is taken
/// apart here, so that it is never laid out.
fn cotangent(g: &Tensor, range: &Range<usize>) -> Option<Tensor> {
    /// Sums of more parts than anybody has use for are laid out.
    const DEPTH: usize = 8;
    fn of(g: &Tensor, range: &Range<usize>, depth: usize) -> Option<Tensor> {
        let zero = |t: &Tensor| matches!(&t.0.prim, Prim::Const(c) if c.to_f64() == 0.0);
        let inputs = g.0.state().inputs.clone();
        match (&g.0.prim, &inputs[..]) {
            _ if range.is_empty() || zero(g) => None,
            _ if range.len() == g.numel() => Some(g.clone()),
            (Prim::Binary(Binary::Add), [a, b]) if depth < DEPTH => {
                match (of(a, range, depth + 1), of(b, range, depth + 1)) {
                    (Some(a), Some(b)) => Some(a + b),
                    (a, b) => a.or(b),
                }
            }
            (Prim::SliceUpdate(s), [base, filled]) if s.steps[..] == [1] && depth < DEPTH => {
                let start = s.starts[0];
                let end = start + filled.numel();
                match (start, end) == (range.start, range.end) {
                    true => Some(filled.clone()),
                    false if end <= range.start || range.end <= start => of(base, range, depth + 1),
                    false => Some(g.narrow(0, range.start, range.len())),
                }
            }
            (Prim::Concat(0), parts) => {
                let mut end = 0;
                let touched = parts.iter().filter(|part| {
                    end += part.numel();
                    end > range.start && end - part.numel() < range.end
                });
                match &touched.collect::<Vec<_>>()[..] {
                    touched if touched.iter().all(|part| zero(part)) => None,
                    [one] if one.numel() == range.len() => Some((*one).clone()),
                    _ => Some(g.narrow(0, range.start, range.len())),
                }
            }
            _ => Some(g.narrow(0, range.start, range.len())),
        }
    }
    of(g, range, 0)
}
