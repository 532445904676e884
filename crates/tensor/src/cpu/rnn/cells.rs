//! One row of one time step: gates and states, forward and backward.

use crate::cpu::math;
use crate::cpu::rows::RowFloat;
use crate::fast::Cell;
use crate::simd_dispatch;

/// A row of four gates as four rows.
pub fn quarters_mut<T>(row: &mut [T]) -> [&mut [T]; 4] {
    let h = row.len() / 4;
    let (ab, cd) = row.split_at_mut(2 * h);
    let ((a, b), (c, d)) = (ab.split_at_mut(h), cd.split_at_mut(h));
    [a, b, c, d]
}

/// What the products with the state are added to: the inputs' products and the bias, in the order
/// of [`Cell::kept`].
pub fn begin<T: RowFloat>(cell: Cell, x: &[T], bias: &[T], sums: &mut [T]) {
    match cell {
        Cell::Tanh | Cell::Relu | Cell::Lstm => sum(x, bias, sums),
        Cell::Gru => {
            let h = x.len() / 3;
            let (rz, rest) = sums.split_at_mut(2 * h);
            let (u, n) = rest.split_at_mut(h);
            sum(&x[..2 * h], &bias[..2 * h], rz);
            u.copy_from_slice(&bias[3 * h..]);
            sum(&x[2 * h..], &bias[2 * h..3 * h], n);
        }
    }
}

simd_dispatch! {
    fn sum<T: RowFloat>(a: &[T], b: &[T], out: &mut [T]) {
        for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *o = a + b;
        }
    }

    /// Adds `x` to `to`.
    pub fn add<T: RowFloat>(x: &[T], to: &mut [T]) {
        for (to, &x) in to.iter_mut().zip(x) {
            *to = *to + x;
        }
    }

    pub fn tanh<T: RowFloat>(x: &mut [T]) {
        for x in x {
            *x = math::tanh(*x);
        }
    }

    pub fn relu<T: RowFloat>(x: &mut [T]) {
        let zero = T::default();
        for x in x {
            // NaN stays.
            *x = if *x <= zero { zero } else { *x };
        }
    }

    /// Turns sums into gates; `new` becomes the cell, `out` the state.
    pub fn lstm<T: RowFloat>(
        i: &mut [T],
        f: &mut [T],
        g: &mut [T],
        o: &mut [T],
        old: &[T],
        new: &mut [T],
        out: &mut [T],
    ) {
        let h = out.len();
        let (i, f, g, o) = (&mut i[..h], &mut f[..h], &mut g[..h], &mut o[..h]);
        let (old, new) = (&old[..h], &mut new[..h]);
        for k in 0..h {
            i[k] = math::sigmoid(i[k]);
            f[k] = math::sigmoid(f[k]);
        }
        for k in 0..h {
            g[k] = math::tanh(g[k]);
            o[k] = math::sigmoid(o[k]);
        }
        for k in 0..h {
            let cell = f[k] * old[k] + i[k] * g[k];
            new[k] = cell;
            out[k] = o[k] * math::tanh(cell);
        }
    }

    /// Turns sums into gates; `out` becomes the state.
    pub fn gru<T: RowFloat>(
        r: &mut [T],
        z: &mut [T],
        u: &[T],
        n: &mut [T],
        old: &[T],
        out: &mut [T],
    ) {
        let h = out.len();
        let (r, z, u, n) = (&mut r[..h], &mut z[..h], &u[..h], &mut n[..h]);
        let old = &old[..h];
        for k in 0..h {
            r[k] = math::sigmoid(r[k]);
            z[k] = math::sigmoid(z[k]);
        }
        for k in 0..h {
            n[k] = math::tanh(n[k] + r[k] * u[k]);
            out[k] = n[k] + z[k] * (old[k] - n[k]);
        }
    }

    /// `state` is the gradient that came from the steps behind; what is left of it, besides what
    /// goes through the products, is nothing.
    pub fn tanh_grad<T: RowFloat>(out: &[T], dout: &[T], state: &mut [T], sums: &mut [T]) {
        let h = out.len();
        let (dout, state, sums) = (&dout[..h], &mut state[..h], &mut sums[..h]);
        for k in 0..h {
            sums[k] = (dout[k] + state[k]) * (T::from_f64(1.0) - out[k] * out[k]);
            state[k] = T::default();
        }
    }

    pub fn relu_grad<T: RowFloat>(out: &[T], dout: &[T], state: &mut [T], sums: &mut [T]) {
        let h = out.len();
        let (dout, state, sums) = (&dout[..h], &mut state[..h], &mut sums[..h]);
        let zero = T::default();
        for k in 0..h {
            let d = dout[k] + state[k];
            sums[k] = if out[k] <= zero { zero } else { d };
            state[k] = zero;
        }
    }

    /// Gradients of the gates' sums; `memory` goes from the cell's gradient after the step to that
    /// before it.
    pub fn lstm_grad<T: RowFloat>(
        gates: &[T],
        old: &[T],
        new: &[T],
        dout: &[T],
        state: &mut [T],
        memory: &mut [T],
        di: &mut [T],
        df: &mut [T],
        dg: &mut [T],
        d_o: &mut [T],
    ) {
        let one = T::from_f64(1.0);
        let h = old.len();
        let (i, f) = (&gates[..h], &gates[h..2 * h]);
        let (g, o) = (&gates[2 * h..3 * h], &gates[3 * h..4 * h]);
        let (new, dout, state) = (&new[..h], &dout[..h], &mut state[..h]);
        let (di, df, dg, d_o) = (&mut di[..h], &mut df[..h], &mut dg[..h], &mut d_o[..h]);
        let memory = &mut memory[..h];
        for k in 0..h {
            let d = dout[k] + state[k];
            let t = math::tanh(new[k]);
            let c = memory[k] + d * o[k] * (one - t * t);
            d_o[k] = d * t * o[k] * (one - o[k]);
            di[k] = c * g[k] * i[k] * (one - i[k]);
            df[k] = c * old[k] * f[k] * (one - f[k]);
            dg[k] = c * i[k] * (one - g[k] * g[k]);
            memory[k] = c * f[k];
            state[k] = T::default();
        }
    }

    /// Gradients of the sums of `r`, `z`, `n`, and of what the reset gate multiplies.
    pub fn gru_grad<T: RowFloat>(
        gates: &[T],
        old: &[T],
        dout: &[T],
        state: &mut [T],
        dr: &mut [T],
        dz: &mut [T],
        dn: &mut [T],
        du: &mut [T],
    ) {
        let one = T::from_f64(1.0);
        let h = old.len();
        let (r, z) = (&gates[..h], &gates[h..2 * h]);
        let (u, n) = (&gates[2 * h..3 * h], &gates[3 * h..4 * h]);
        let (dout, state) = (&dout[..h], &mut state[..h]);
        let (dr, dz, dn, du) = (&mut dr[..h], &mut dz[..h], &mut dn[..h], &mut du[..h]);
        for k in 0..h {
            let d = dout[k] + state[k];
            let inner = d * (one - z[k]) * (one - n[k] * n[k]);
            dn[k] = inner;
            du[k] = inner * r[k];
            dr[k] = inner * u[k] * r[k] * (one - r[k]);
            dz[k] = d * (old[k] - n[k]) * z[k] * (one - z[k]);
            state[k] = d * z[k];
        }
    }
}
