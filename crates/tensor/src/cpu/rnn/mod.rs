//! Recurrent layers over a whole sequence, and their gradients.
//!
//! Tasks take rows of the batch and walk through all time steps, so that threads never wait for
//! each other. The recurrent weights are packed once and stay in the second-level cache. Work is
//! cut by shape alone, and every sum has one order.

mod cells;

use super::matmul::{Block, Matrix, Right};
use super::pool;
use super::rows::{RowFloat, Shared};
use crate::fast::rnn::grad_places;
use crate::fast::{Cell, Recur};
use std::ops::Range;

/// The most rows of a task: the more, the less often the weights are read again.
const ROWS: usize = 16;

/// Options and sizes.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    pub recur: Recur,
    pub steps: usize,
    pub batch: usize,
    pub hidden: usize,
}

/// What the layer is computed from; the shapes are those of [`Fast`](crate::Fast).
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, T> {
    pub x: &'a [T],
    pub weight: &'a [T],
    pub bias: &'a [T],
    pub h0: &'a [T],
    /// Empty if there is no cell.
    pub c0: &'a [T],
    pub mask: Option<&'a [T]>,
}

/// What the gradient is computed from, besides.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a, T> {
    /// The flat result.
    pub flat: &'a [T],
    pub dout: &'a [T],
    /// Empty if there is no cell.
    pub dcell: &'a [T],
}

impl Walk {
    /// Rows of a task: at least two tasks, of about the same size.
    fn rows(&self) -> usize {
        let tasks = self.batch.div_ceil(ROWS).next_multiple_of(2).max(2);
        self.batch.div_ceil(tasks).max(1)
    }

    /// Products with the recurrent weights, and rows of each.
    fn products(&self) -> (usize, usize) {
        (self.steps, self.rows())
    }

    /// Some rows at a time step of an array `[t, b, width]` that begins at `start`.
    fn at(&self, start: usize, step: usize, rows: &Range<usize>, width: usize) -> Range<usize> {
        let from = step * self.batch;
        start + (from + rows.start) * width..start + (from + rows.end) * width
    }

    /// The time steps in order, each with the one before it.
    fn walk(&self) -> impl DoubleEndedIterator<Item = (usize, Option<usize>)> + use<> {
        let (steps, reverse) = (self.steps, self.recur.reverse);
        (self.recur.walk(steps)).map(move |step| {
            let before = match reverse {
                true => (step + 1 < steps).then_some(step + 1),
                false => step.checked_sub(1),
            };
            (step, before)
        })
    }

    /// Whether the state of a row stays as it is at this step.
    fn stays<T: RowFloat>(&self, mask: Option<&[T]>, step: usize, row: usize) -> bool {
        mask.is_some_and(|mask| mask[step * self.batch + row].to_f64() == 0.0)
    }
}

/// Rows of `width` elements.
fn matrix<T>(x: &[T], width: usize) -> Matrix<T> {
    Matrix::new(x.as_ptr(), width as isize, 1)
}

fn scratch<T: RowFloat>(len: usize) -> Vec<T> {
    vec![T::default(); len]
}

/// Writes the flat result, whose parts [`Recur::places`] names.
pub fn forward<T: Block + RowFloat>(w: &Walk, x: &Inputs<'_, T>, out: &mut [T]) {
    let (h, cell, keeps) = (w.hidden, w.recur.cell, w.recur.keeps);
    let (gates, kept) = (cell.gates() * h, cell.kept() * h);
    let places = w.recur.places(w.steps, w.batch, h);
    out[places.first.clone()].copy_from_slice(&x.h0[..places.first.len()]);
    let weight = matrix(x.weight, h).transpose();
    // SAFETY: the weight is `[gates, h]`, and outlives its packed form.
    let weight = unsafe { Right::new(gates, h, weight, w.products(), w.recur.precision) };
    let out = Shared::new(out);
    pool::run_chunks(w.batch, w.rows(), |rows| {
        // SAFETY: every task takes its own rows, each part at most once at a time: a step writes
        // its own parts and reads those of the step before.
        let part = |place: &Range<usize>, step: usize, width: usize| unsafe {
            out.part(w.at(place.start, step, &rows, width))
        };
        let given = w.at(0, 0, &rows, h);
        let n = rows.len();
        let mut loose_gates = scratch::<T>(if keeps { 0 } else { n * kept });
        // Cells that nobody keeps: those of the last two steps.
        let loose = cell.has_memory() && !keeps;
        let mut loose_cells = [scratch::<T>(n * h * loose as usize), Vec::new()];
        if loose {
            loose_cells[0].copy_from_slice(&x.c0[given.clone()]);
            loose_cells[1] = loose_cells[0].clone();
        }
        for (step, before) in w.walk() {
            let state: &[T] = match before {
                Some(before) => part(&places.out, before, h),
                None => &x.h0[given.clone()],
            };
            let inputs = &x.x[w.at(0, step, &rows, gates)];
            let sums: &mut [T] = match keeps {
                _ if kept == 0 => part(&places.out, step, h),
                true => part(&places.gates, step, kept),
                false => &mut loose_gates,
            };
            let width = sums.len() / n;
            for (sums, x_row) in sums.chunks_exact_mut(width).zip(inputs.chunks_exact(gates)) {
                cells::begin(cell, x_row, x.bias, sums);
            }
            // SAFETY: rows of the state and of the sums, which do not overlap.
            unsafe {
                let (state, sums) = (matrix(state, h), sums.as_mut_ptr());
                weight.multiply([n, gates, h], state, sums, width as isize, true);
            }
            match cell {
                Cell::Tanh => cells::tanh(sums),
                Cell::Relu => cells::relu(sums),
                Cell::Gru => {
                    let new = part(&places.out, step, h);
                    let lines = sums.chunks_exact_mut(kept).zip(state.chunks_exact(h));
                    for ((sums, old), new) in lines.zip(new.chunks_exact_mut(h)) {
                        let [r, z, u, n] = cells::quarters_mut(sums);
                        cells::gru(r, z, u, n, old, new);
                    }
                }
                Cell::Lstm => {
                    let new = part(&places.out, step, h);
                    let [a, b] = &mut loose_cells;
                    let (old_cell, new_cell): (&[T], &mut [T]) = match (keeps, before) {
                        (false, _) => (a, b),
                        (true, Some(before)) => {
                            let old = part(&places.cells, before, h);
                            (old, part(&places.cells, step, h))
                        }
                        (true, None) => (&x.c0[given.clone()], part(&places.cells, step, h)),
                    };
                    for row in 0..n {
                        let line = row * h..(row + 1) * h;
                        let [i, f, g, o] =
                            cells::quarters_mut(&mut sums[row * kept..(row + 1) * kept]);
                        let old = &old_cell[line.clone()];
                        let (new_cell, new) = (&mut new_cell[line.clone()], &mut new[line]);
                        cells::lstm(i, f, g, o, old, new_cell, new);
                        if w.stays(x.mask, step, rows.start + row) {
                            new_cell.copy_from_slice(old);
                        }
                    }
                    loose_cells.swap(0, 1);
                }
            }
            for row in 0..n {
                if w.stays(x.mask, step, rows.start + row) {
                    let new = part(&places.out, step, h);
                    let line = row * h..(row + 1) * h;
                    new[line.clone()].copy_from_slice(&state[line]);
                }
            }
        }
        if cell.has_memory() {
            let (last, _) = w.walk().next_back().expect("at least one step");
            let last: &[T] = match keeps {
                true => part(&places.cells, last, h),
                false => &loose_cells[0],
            };
            part(&places.cell, 0, h).copy_from_slice(last);
        }
    });
}

/// Writes the flat gradient, whose parts [`grad_places`] names.
pub fn backward<T: Block + RowFloat>(
    w: &Walk,
    x: &Inputs<'_, T>,
    given: &Given<'_, T>,
    out: &mut [T],
) {
    let (h, cell) = (w.hidden, w.recur.cell);
    let (gates, kept, width) = (cell.gates() * h, cell.kept() * h, cell.biases() * h);
    let places = w.recur.places(w.steps, w.batch, h);
    let [to_gates, to_bias, to_state, to_cell] = grad_places(cell, w.steps, w.batch, h);
    // SAFETY: the weight is `[gates, h]`, and outlives its packed form.
    let weight = unsafe {
        let weight = matrix(x.weight, h);
        Right::new(h, gates, weight, w.products(), w.recur.precision)
    };
    // The bias's gradient, a part for every task.
    let tasks = w.batch.div_ceil(w.rows());
    let mut partial = scratch::<T>(tasks * width);
    let (partial_parts, shared) = (Shared::new(&mut partial), Shared::new(&mut *out));
    pool::run_chunks(w.batch, w.rows(), |rows| {
        // SAFETY: every task takes its own rows, each part at most once at a time.
        let part = |place: &Range<usize>, step: usize, width: usize| unsafe {
            shared.part(w.at(place.start, step, &rows, width))
        };
        let read = |place: &Range<usize>, step: usize, width: usize| {
            &given.flat[w.at(place.start, step, &rows, width)]
        };
        let n = rows.len();
        let first = w.at(0, 0, &rows, h);
        let task = rows.start / w.rows();
        // SAFETY: one part for every task.
        let bias = unsafe { partial_parts.part(task * width..(task + 1) * width) };
        let mut at_step = scratch::<T>(width);
        // Gradients of the state and the cell after the step at hand, the output's aside.
        let mut state = scratch::<T>(n * h);
        let mut memory = given.dcell.get(first.clone()).unwrap_or_default().to_vec();
        // A GRU's gradients on the side of the state: those of `r`, `z`, and `u + b'`.
        let mut side = scratch::<T>(if cell == Cell::Gru { n * gates } else { 0 });
        for (step, before) in w.walk().rev() {
            let dgates = part(&to_gates, step, width);
            let dout = &given.dout[w.at(0, step, &rows, h)];
            let old = match before {
                Some(before) => read(&places.out, before, h),
                None => &x.h0[first.clone()],
            };
            let new = read(&places.out, step, h);
            let kept_gates = read(&places.gates, step, kept);
            for row in 0..n {
                let line = row * h..(row + 1) * h;
                let dgates = &mut dgates[row * width..(row + 1) * width];
                let (dout, state) = (&dout[line.clone()], &mut state[line.clone()]);
                let kept_gates = &kept_gates[row * kept..(row + 1) * kept];
                let side = &mut side[..]
                    .chunks_exact_mut(gates)
                    .nth(row)
                    .unwrap_or_default();
                if w.stays(x.mask, step, rows.start + row) {
                    dgates.fill(T::default());
                    side.fill(T::default());
                    state.iter_mut().zip(dout).for_each(|(s, &d)| *s = *s + d);
                    continue;
                }
                match cell {
                    Cell::Tanh => cells::tanh_grad(&new[line], dout, state, dgates),
                    Cell::Relu => cells::relu_grad(&new[line], dout, state, dgates),
                    Cell::Lstm => {
                        let old = match before {
                            Some(before) => read(&places.cells, before, h),
                            None => &x.c0[first.clone()],
                        };
                        let cells = &read(&places.cells, step, h)[line.clone()];
                        let (old, memory) = (&old[line.clone()], &mut memory[line]);
                        let [di, df, dg, d_o] = cells::quarters_mut(dgates);
                        cells::lstm_grad(
                            kept_gates, old, cells, dout, state, memory, di, df, dg, d_o,
                        );
                    }
                    Cell::Gru => {
                        let [dr, dz, dn, du] = cells::quarters_mut(dgates);
                        cells::gru_grad(kept_gates, &old[line], dout, state, dr, dz, dn, du);
                        for (to, from) in side.chunks_exact_mut(h).zip([dr, dz, du]) {
                            to.copy_from_slice(from);
                        }
                    }
                }
            }
            at_step.fill(T::default());
            dgates
                .chunks_exact(width)
                .for_each(|row| cells::add(row, &mut at_step));
            cells::add(&at_step, bias);
            let sums = match cell {
                Cell::Gru => &side,
                _ => &*dgates,
            };
            // SAFETY: rows of the gradients and of the state's, which do not overlap.
            unsafe {
                let sums = matrix(sums, gates);
                weight.multiply([n, h, gates], sums, state.as_mut_ptr(), h as isize, true);
            }
        }
        part(&to_state, 0, h).copy_from_slice(&state);
        if cell.has_memory() {
            part(&to_cell, 0, h).copy_from_slice(&memory);
        }
    });
    let bias = &mut out[to_bias];
    bias.fill(T::default());
    partial
        .chunks_exact(width)
        .for_each(|part| cells::add(part, bias));
}
