//! Products of `f32` and `f64`.

use super::{After, Problem, Scalar};
use crate::cpu::pool;

macro_rules! floats {
    ($($t:ty)*) => {$(
        impl Scalar for $t {
            unsafe fn product(p: &Problem<Self>, after: After<'_>) {
                // Blocks of rows, by shape alone: two per core at least where it pays.
                let work = p.n * p.k;
                let rows = (1_000_000 / work.max(1)).clamp(16, 256).min(p.m);
                let blocks = p.m.div_ceil(rows);
                pool::run(p.batches() * blocks, |i| {
                    let (batch, row) = (i / blocks, i % blocks * rows);
                    let (a, b) = p.at(batch);
                    let m = rows.min(p.m - row);
                    let start = (batch * p.m + row) * p.n;
                    // SAFETY: the caller vouches for the operands; the rows of the output are
                    // this task's own.
                    unsafe {
                        gemm::gemm(
                            m,
                            p.n,
                            p.k,
                            p.out.add(start),
                            1,
                            p.n as isize,
                            false,
                            a.ptr.wrapping_offset(row as isize * a.row),
                            a.col,
                            a.row,
                            b.ptr,
                            b.col,
                            b.row,
                            0.0,
                            1.0,
                            false,
                            false,
                            false,
                            gemm::Parallelism::None,
                        );
                    }
                    after(start..start + m * p.n);
                });
            }
        }
    )*};
}
floats! { f32 f64 }
