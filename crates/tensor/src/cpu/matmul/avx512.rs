//! Micro-kernels for AVX-512: a tile of the output stays in registers while `k` runs.
//!
//! Along a row of the tile lie [`Lanes::LANES`]-wide vectors of the second operand, and every
//! element of the first operand is broadcast. A tile of 14 rows by two vectors fills 28 of the 32
//! registers and needs 16 loads for 28 multiply-adds, so that the multipliers are the limit.

use std::arch::x86_64::*;

/// Most rows of a tile, for each number of vectors per row.
pub const MAX_ROWS: [usize; 4] = [0, 14, 14, 9];
/// The same where the first operand is read along its rows: one pointer per row must fit in the
/// general registers.
pub const MAX_ROWS_BY_ROW: [usize; 4] = [0, 8, 8, 8];

/// Most output positions of a convolution's tile.
pub const MAX_POSITIONS: usize = 14;

/// What a micro-kernel works on.
pub struct Tile<T> {
    /// Length of the sums.
    pub k: usize,
    /// First operand: element `(i, l)` at `a + i + l * a_step`, or, "by row", at
    /// `a + i * a_step + l`.
    pub a: *const T,
    pub a_step: isize,
    /// Second operand: row `l` at `b + l * b_step`.
    pub b: *const T,
    pub b_step: isize,
    /// Output: row `i` at `c + i * c_step`.
    pub c: *mut T,
    pub c_step: isize,
    /// Lanes of the last vector that may be read from `b`, and written to `c`.
    pub b_mask: u16,
    pub c_mask: u16,
    /// Add to `c` instead of overwriting it.
    pub accumulate: bool,
}

/// A micro-kernel for one size of tile.
///
/// # Safety
/// All elements that the tile reaches must be readable (`a`, `b`) and writable (`c`), and the
/// processor must have AVX-512F.
pub type Kernel<T> = unsafe fn(&Tile<T>);

/// What a kernel of dot products works on: four rows times one to four vectors, all contiguous.
pub struct Dots<T> {
    pub k: usize,
    /// Row `i` at `rows + i * row`.
    pub rows: *const T,
    pub row: isize,
    /// Vector `j` at `vectors + j * k`.
    pub vectors: *const T,
    /// The product of row `i` and vector `j` goes to `c + i * c_row + j * c_vector`.
    pub c: *mut T,
    pub c_row: isize,
    pub c_vector: isize,
}
/// A kernel of dot products, under the same conditions as [`Kernel`].
pub type DotKernel<T> = unsafe fn(&Dots<T>);

/// What a convolution's kernel works on: rows are neighbouring output positions, columns are
/// output channels, and the first operand is the padded image itself.
pub struct ImageTile<T> {
    /// Length of the sums.
    pub k: usize,
    /// First operand: element `(i, l)` at `a + i * STEP + offsets[l]`.
    pub a: *const T,
    pub offsets: *const usize,
    /// Second operand: row `l` at `b + l * b_step`.
    pub b: *const T,
    pub b_step: usize,
    /// Output: row `i` at `c + i * c_step`.
    pub c: *mut T,
    pub c_step: usize,
}

/// What a convolution's kernel works on where there are few channels: rows are output channels,
/// vectors are runs of output positions.
pub struct PlaneTile<T> {
    /// Length of the sums.
    pub k: usize,
    /// Weights: of channel `i` at `w + l * ROWS + i`.
    pub w: *const T,
    /// The padded image: under weight `l`, vector `j` is at `image + runs[j].from + offsets[l]`.
    pub image: *const T,
    pub offsets: *const usize,
    pub runs: *const Run,
    /// Output: channel `i`, vector `j` at `c + i * c_step + runs[j].to`.
    pub c: *mut T,
    pub c_step: usize,
}

/// A vector of output positions.
#[derive(Clone, Copy)]
pub struct Run {
    pub from: usize,
    pub to: usize,
    /// The lanes that exist.
    pub mask: u16,
}

/// A kernel of a convolution with few channels, under the same conditions as [`Kernel`]; the image
/// must be readable for whole vectors.
pub type PlaneKernel<T> = unsafe fn(&PlaneTile<T>);

/// What the kernel of a convolution's weight gradient works on: rows are weights, columns are
/// output channels, and the sums run over the output positions.
pub struct WeightTile<T> {
    /// The padded image; row `i` of the tile begins at `a + offsets[i]`.
    pub a: *const T,
    pub offsets: *const usize,
    /// Output height and width; steps of `a` from one output row, and position, to the next.
    pub size: [usize; 2],
    pub steps: [usize; 2],
    /// Second operand: position `p` at `b + p * b_step`.
    pub b: *const T,
    pub b_step: usize,
    /// Output: row `i` at `c + i * c_step`.
    pub c: *mut T,
    pub c_step: usize,
    /// Add to `c` instead of overwriting it.
    pub accumulate: bool,
}

/// Most vectors of a [`PlaneTile`] with that many rows: enough to keep the multipliers busy.
pub fn plane_vectors(rows: usize) -> usize {
    if rows <= 3 { 8 } else { 3 }
}

/// A kernel of a convolution, under the same conditions as [`Kernel`].
pub type ImageKernel<T> = unsafe fn(&ImageTile<T>);
/// A kernel of a weight gradient, under the same conditions as [`Kernel`].
pub type WeightKernel<T> = unsafe fn(&WeightTile<T>);

/// An element type with kernels.
pub trait Lanes: Copy + Send + Sync + 'static {
    /// Elements per vector.
    const LANES: usize;
    /// The kernel for `rows` (1 to `MAX_ROWS[vectors]`) by `vectors` (1 to 3).
    fn kernel(rows: usize, vectors: usize) -> Kernel<Self>;
    /// The kernel that reads the first operand by row, up to `MAX_ROWS_BY_ROW[vectors]`.
    fn kernel_by_row(rows: usize, vectors: usize) -> Kernel<Self>;
    /// The kernel of dot products for `rows` (1 to 4) by `vectors` (1 to 4).
    fn dot_kernel(rows: usize, vectors: usize) -> DotKernel<Self>;
    /// The convolution kernel for `rows` (1 to 14) by `vectors` (1 or 2) and `step` (1 or 2).
    fn image_kernel(rows: usize, vectors: usize, step: usize) -> ImageKernel<Self>;
    /// The kernel for `rows` channels (1 to 8) by `vectors` (1 to [`plane_vectors`] of `rows`).
    fn plane_kernel(rows: usize, vectors: usize) -> PlaneKernel<Self>;
    /// The kernel of weight gradients for `rows` (1 to 8) by `vectors` (1 or 2).
    fn weight_kernel(rows: usize, vectors: usize) -> WeightKernel<Self>;
}

/// The micro-kernel of a type: `R` rows by `V` vectors.
macro_rules! kernels {
    ($module:ident, $t:ty, $lanes:literal, $mask:ty, $zero:ident, $set1:ident, $fma:ident, $add:ident,
     $load:ident, $loadz:ident, $stores:ident, $sum:ident) => {
        mod $module {
            use super::*;

            #[target_feature(enable = "avx512f")]
            unsafe fn tile<const R: usize, const V: usize, const BY_ROW: bool>(t: &Tile<$t>) {
                let mut acc = [[$zero(); V]; R];
                let mut b = t.b;
                let mut a = t.a;
                let (a_step, b_step) = (t.a_step, t.b_step);
                let b_mask = t.b_mask as $mask;
                let mut rows = [a; R];
                for i in 0..R {
                    rows[i] = a.wrapping_offset(i as isize * a_step);
                }
                for l in 0..t.k {
                    let mut bv = [$zero(); V];
                    for j in 0..V {
                        // SAFETY: row `l` of the second operand, with the lanes that exist.
                        bv[j] = unsafe {
                            if j + 1 < V {
                                $load(b.add(j * $lanes))
                            } else {
                                $loadz(b_mask, b.add(j * $lanes))
                            }
                        };
                    }
                    for i in 0..R {
                        // SAFETY: element `(i, l)` of the first operand.
                        let x = $set1(unsafe { if BY_ROW { *rows[i].add(l) } else { *a.add(i) } });
                        for j in 0..V {
                            acc[i][j] = $fma(x, bv[j], acc[i][j]);
                        }
                    }
                    b = b.wrapping_offset(b_step);
                    if !BY_ROW {
                        a = a.wrapping_offset(a_step);
                    }
                }
                let c_mask = t.c_mask as $mask;
                for i in 0..R {
                    let c = t.c.wrapping_offset(i as isize * t.c_step);
                    for j in 0..V {
                        // SAFETY: the lanes of row `i` that exist.
                        unsafe {
                            let c = c.add(j * $lanes);
                            let mask = if j + 1 < V { <$mask>::MAX } else { c_mask };
                            let mut x = acc[i][j];
                            if t.accumulate {
                                x = $add(x, $loadz(mask, c));
                            }
                            $stores(c, mask, x);
                        }
                    }
                }
            }

            #[target_feature(enable = "avx512f")]
            unsafe fn dots<const R: usize, const V: usize>(t: &Dots<$t>) {
                let mut acc = [[$zero(); V]; R];
                let mut l = 0;
                while l < t.k {
                    let mask = match t.k - l {
                        n if n >= $lanes => <$mask>::MAX,
                        n => <$mask>::MAX >> ($lanes - n),
                    };
                    // SAFETY: the lanes of each row and vector that exist.
                    unsafe {
                        let mut v = [$zero(); V];
                        for j in 0..V {
                            v[j] = $loadz(mask, t.vectors.add(j * t.k + l));
                        }
                        for i in 0..R {
                            let x = t.rows.offset(i as isize * t.row).add(l);
                            let x = $loadz(mask, x);
                            for j in 0..V {
                                acc[i][j] = $fma(x, v[j], acc[i][j]);
                            }
                        }
                    }
                    l += $lanes;
                }
                for i in 0..R {
                    for j in 0..V {
                        let at = i as isize * t.c_row + j as isize * t.c_vector;
                        // SAFETY: an element of the output.
                        unsafe { *t.c.offset(at) = $sum(acc[i][j]) };
                    }
                }
            }

            #[target_feature(enable = "avx512f")]
            unsafe fn image<const R: usize, const V: usize, const STEP: usize>(t: &ImageTile<$t>) {
                let mut acc = [[$zero(); V]; R];
                let mut b = t.b;
                for l in 0..t.k {
                    // SAFETY: row `l` of the second operand; the elements of the image under the
                    // tile.
                    unsafe {
                        let a = t.a.add(*t.offsets.add(l));
                        let mut bv = [$zero(); V];
                        for j in 0..V {
                            bv[j] = $load(b.add(j * $lanes));
                        }
                        for i in 0..R {
                            let x = $set1(*a.add(i * STEP));
                            for j in 0..V {
                                acc[i][j] = $fma(x, bv[j], acc[i][j]);
                            }
                        }
                        b = b.add(t.b_step);
                    }
                }
                for i in 0..R {
                    for j in 0..V {
                        // SAFETY: row `i` of the output.
                        unsafe {
                            let c = t.c.add(i * t.c_step + j * $lanes);
                            $stores(c, <$mask>::MAX, acc[i][j]);
                        }
                    }
                }
            }

            #[target_feature(enable = "avx512f")]
            unsafe fn plane<const R: usize, const V: usize>(t: &PlaneTile<$t>) {
                let mut acc = [[$zero(); V]; R];
                let mut from = [t.image; V];
                let mut w = t.w;
                // SAFETY: the runs of the tile, the image under them, the weights of its channels
                // and the output's lanes that exist.
                unsafe {
                    for j in 0..V {
                        from[j] = t.image.add((*t.runs.add(j)).from);
                    }
                    for l in 0..t.k {
                        let at = *t.offsets.add(l);
                        let mut v = [$zero(); V];
                        for j in 0..V {
                            v[j] = $load(from[j].add(at));
                        }
                        for i in 0..R {
                            let x = $set1(*w.add(i));
                            for j in 0..V {
                                acc[i][j] = $fma(x, v[j], acc[i][j]);
                            }
                        }
                        w = w.add(R);
                    }
                    for j in 0..V {
                        let run = *t.runs.add(j);
                        for i in 0..R {
                            let c = t.c.add(i * t.c_step + run.to);
                            $stores(c, run.mask as $mask, acc[i][j]);
                        }
                    }
                }
            }

            #[target_feature(enable = "avx512f")]
            unsafe fn weight<const R: usize, const V: usize>(t: &WeightTile<$t>) {
                let mut acc = [[$zero(); V]; R];
                let mut rows = [t.a; R];
                for i in 0..R {
                    // SAFETY: the offsets of the tile's rows.
                    rows[i] = unsafe { t.a.add(*t.offsets.add(i)) };
                }
                let mut b = t.b;
                for y in 0..t.size[0] {
                    let mut at = y * t.steps[0];
                    for _ in 0..t.size[1] {
                        // SAFETY: a position of the second operand, and of the image.
                        unsafe {
                            let mut bv = [$zero(); V];
                            for j in 0..V {
                                bv[j] = $load(b.add(j * $lanes));
                            }
                            for i in 0..R {
                                let x = $set1(*rows[i].add(at));
                                for j in 0..V {
                                    acc[i][j] = $fma(x, bv[j], acc[i][j]);
                                }
                            }
                            b = b.add(t.b_step);
                        }
                        at += t.steps[1];
                    }
                }
                for i in 0..R {
                    for j in 0..V {
                        // SAFETY: row `i` of the output.
                        unsafe {
                            let c = t.c.add(i * t.c_step + j * $lanes);
                            let mut x = acc[i][j];
                            if t.accumulate {
                                x = $add(x, $load(c));
                            }
                            $stores(c, <$mask>::MAX, x);
                        }
                    }
                }
            }

            // Sizes that are never asked for stand in for each other.
            #[rustfmt::skip]
            static TABLE: [[Kernel<$t>; 14]; 3] = [
                [tile::<1, 1, false>, tile::<2, 1, false>, tile::<3, 1, false>, tile::<4, 1, false>, tile::<5, 1, false>, tile::<6, 1, false>, tile::<7, 1, false>, tile::<8, 1, false>, tile::<9, 1, false>, tile::<10, 1, false>, tile::<11, 1, false>, tile::<12, 1, false>, tile::<13, 1, false>, tile::<14, 1, false>],
                [tile::<1, 2, false>, tile::<2, 2, false>, tile::<3, 2, false>, tile::<4, 2, false>, tile::<5, 2, false>, tile::<6, 2, false>, tile::<7, 2, false>, tile::<8, 2, false>, tile::<9, 2, false>, tile::<10, 2, false>, tile::<11, 2, false>, tile::<12, 2, false>, tile::<13, 2, false>, tile::<14, 2, false>],
                [tile::<1, 3, false>, tile::<2, 3, false>, tile::<3, 3, false>, tile::<4, 3, false>, tile::<5, 3, false>, tile::<6, 3, false>, tile::<7, 3, false>, tile::<8, 3, false>, tile::<9, 3, false>, tile::<9, 3, false>, tile::<9, 3, false>, tile::<9, 3, false>, tile::<9, 3, false>, tile::<9, 3, false>],
            ];
            #[rustfmt::skip]
            static BY_ROW: [[Kernel<$t>; 8]; 3] = [
                [tile::<1, 1, true>, tile::<2, 1, true>, tile::<3, 1, true>, tile::<4, 1, true>, tile::<5, 1, true>, tile::<6, 1, true>, tile::<7, 1, true>, tile::<8, 1, true>],
                [tile::<1, 2, true>, tile::<2, 2, true>, tile::<3, 2, true>, tile::<4, 2, true>, tile::<5, 2, true>, tile::<6, 2, true>, tile::<7, 2, true>, tile::<8, 2, true>],
                [tile::<1, 3, true>, tile::<2, 3, true>, tile::<3, 3, true>, tile::<4, 3, true>, tile::<5, 3, true>, tile::<6, 3, true>, tile::<7, 3, true>, tile::<8, 3, true>],
            ];

            #[rustfmt::skip]
            static IMAGE: [[[ImageKernel<$t>; 14]; 2]; 2] = [
                [
                    [image::<1, 1, 1>, image::<2, 1, 1>, image::<3, 1, 1>, image::<4, 1, 1>, image::<5, 1, 1>, image::<6, 1, 1>, image::<7, 1, 1>, image::<8, 1, 1>, image::<9, 1, 1>, image::<10, 1, 1>, image::<11, 1, 1>, image::<12, 1, 1>, image::<13, 1, 1>, image::<14, 1, 1>],
                    [image::<1, 2, 1>, image::<2, 2, 1>, image::<3, 2, 1>, image::<4, 2, 1>, image::<5, 2, 1>, image::<6, 2, 1>, image::<7, 2, 1>, image::<8, 2, 1>, image::<9, 2, 1>, image::<10, 2, 1>, image::<11, 2, 1>, image::<12, 2, 1>, image::<13, 2, 1>, image::<14, 2, 1>],
                ],
                [
                    [image::<1, 1, 2>, image::<2, 1, 2>, image::<3, 1, 2>, image::<4, 1, 2>, image::<5, 1, 2>, image::<6, 1, 2>, image::<7, 1, 2>, image::<8, 1, 2>, image::<9, 1, 2>, image::<10, 1, 2>, image::<11, 1, 2>, image::<12, 1, 2>, image::<13, 1, 2>, image::<14, 1, 2>],
                    [image::<1, 2, 2>, image::<2, 2, 2>, image::<3, 2, 2>, image::<4, 2, 2>, image::<5, 2, 2>, image::<6, 2, 2>, image::<7, 2, 2>, image::<8, 2, 2>, image::<9, 2, 2>, image::<10, 2, 2>, image::<11, 2, 2>, image::<12, 2, 2>, image::<13, 2, 2>, image::<14, 2, 2>],
                ],
            ];
            #[rustfmt::skip]
            static PLANE: [[PlaneKernel<$t>; 8]; 8] = [
                [plane::<1, 1>, plane::<1, 2>, plane::<1, 3>, plane::<1, 4>, plane::<1, 5>, plane::<1, 6>, plane::<1, 7>, plane::<1, 8>],
                [plane::<2, 1>, plane::<2, 2>, plane::<2, 3>, plane::<2, 4>, plane::<2, 5>, plane::<2, 6>, plane::<2, 7>, plane::<2, 8>],
                [plane::<3, 1>, plane::<3, 2>, plane::<3, 3>, plane::<3, 4>, plane::<3, 5>, plane::<3, 6>, plane::<3, 7>, plane::<3, 8>],
                [plane::<4, 1>, plane::<4, 2>, plane::<4, 3>, plane::<4, 3>, plane::<4, 3>, plane::<4, 3>, plane::<4, 3>, plane::<4, 3>],
                [plane::<5, 1>, plane::<5, 2>, plane::<5, 3>, plane::<5, 3>, plane::<5, 3>, plane::<5, 3>, plane::<5, 3>, plane::<5, 3>],
                [plane::<6, 1>, plane::<6, 2>, plane::<6, 3>, plane::<6, 3>, plane::<6, 3>, plane::<6, 3>, plane::<6, 3>, plane::<6, 3>],
                [plane::<7, 1>, plane::<7, 2>, plane::<7, 3>, plane::<7, 3>, plane::<7, 3>, plane::<7, 3>, plane::<7, 3>, plane::<7, 3>],
                [plane::<8, 1>, plane::<8, 2>, plane::<8, 3>, plane::<8, 3>, plane::<8, 3>, plane::<8, 3>, plane::<8, 3>, plane::<8, 3>],
            ];
            #[rustfmt::skip]
            static WEIGHT: [[WeightKernel<$t>; 8]; 2] = [
                [weight::<1, 1>, weight::<2, 1>, weight::<3, 1>, weight::<4, 1>, weight::<5, 1>, weight::<6, 1>, weight::<7, 1>, weight::<8, 1>],
                [weight::<1, 2>, weight::<2, 2>, weight::<3, 2>, weight::<4, 2>, weight::<5, 2>, weight::<6, 2>, weight::<7, 2>, weight::<8, 2>],
            ];

            #[rustfmt::skip]
            static DOTS: [[DotKernel<$t>; 4]; 4] = [
                [dots::<1, 1>, dots::<2, 1>, dots::<3, 1>, dots::<4, 1>],
                [dots::<1, 2>, dots::<2, 2>, dots::<3, 2>, dots::<4, 2>],
                [dots::<1, 3>, dots::<2, 3>, dots::<3, 3>, dots::<4, 3>],
                [dots::<1, 4>, dots::<2, 4>, dots::<3, 4>, dots::<4, 4>],
            ];

            impl Lanes for $t {
                const LANES: usize = $lanes;
                fn kernel(rows: usize, vectors: usize) -> Kernel<Self> {
                    debug_assert!(rows <= MAX_ROWS[vectors]);
                    TABLE[vectors - 1][rows - 1]
                }
                fn kernel_by_row(rows: usize, vectors: usize) -> Kernel<Self> {
                    debug_assert!(rows <= MAX_ROWS_BY_ROW[vectors]);
                    BY_ROW[vectors - 1][rows - 1]
                }
                fn dot_kernel(rows: usize, vectors: usize) -> DotKernel<Self> {
                    DOTS[vectors - 1][rows - 1]
                }
                fn image_kernel(rows: usize, vectors: usize, step: usize) -> ImageKernel<Self> {
                    IMAGE[step - 1][vectors - 1][rows - 1]
                }
                fn plane_kernel(rows: usize, vectors: usize) -> PlaneKernel<Self> {
                    debug_assert!(vectors <= plane_vectors(rows));
                    PLANE[rows - 1][vectors - 1]
                }
                fn weight_kernel(rows: usize, vectors: usize) -> WeightKernel<Self> {
                    WEIGHT[vectors - 1][rows - 1]
                }
            }
        }
    };
}

kernels!(
    single,
    f32,
    16,
    __mmask16,
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_loadu_ps,
    _mm512_maskz_loadu_ps,
    _mm512_mask_storeu_ps,
    _mm512_reduce_add_ps
);
kernels!(
    double,
    f64,
    8,
    __mmask8,
    _mm512_setzero_pd,
    _mm512_set1_pd,
    _mm512_fmadd_pd,
    _mm512_add_pd,
    _mm512_loadu_pd,
    _mm512_maskz_loadu_pd,
    _mm512_mask_storeu_pd,
    _mm512_reduce_add_pd
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn peak() {
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        let k = 256;
        let a = vec![1.0f32; 14 * k + 64];
        let b = vec![1.0f32; 64 * k + 64];
        let mut c = vec![0.0f32; 14 * 64];
        for by_row in [false, true] {
            for v in 1..=3 {
                let r = if by_row {
                    MAX_ROWS_BY_ROW[v]
                } else {
                    MAX_ROWS[v]
                };
                let f = if by_row {
                    f32::kernel_by_row(r, v)
                } else {
                    f32::kernel(r, v)
                };
                let t = Tile {
                    k,
                    a: a.as_ptr(),
                    a_step: if by_row { k as isize } else { r as isize },
                    b: b.as_ptr(),
                    b_step: 16 * v as isize,
                    c: c.as_mut_ptr(),
                    c_step: 64,
                    b_mask: !0,
                    c_mask: !0,
                    accumulate: false,
                };
                let mut best = f64::MAX;
                for _ in 0..200 {
                    let s = Instant::now();
                    for _ in 0..100 {
                        // SAFETY: buffers are large enough.
                        unsafe { f(&t) };
                    }
                    best = best.min(s.elapsed().as_secs_f64() / 100.0);
                }
                assert_eq!(c[0], k as f32);
                println!(
                    "by_row {by_row} {r}x{v}: {:.1} GFLOP/s",
                    2.0 * (k * r * v * 16) as f64 / best / 1e9
                );
            }
        }
    }
}
