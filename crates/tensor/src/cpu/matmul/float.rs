//! Products of `f32` and `f64`: our kernels where there is AVX2 or AVX-512, the `gemm` crates elsewhere.

#[cfg(target_arch = "x86_64")]
use super::kernels::Lanes;
use super::{Matrix, Problem, Scalar};
#[cfg(target_arch = "x86_64")]
use super::{engine, unit};
use crate::Precision;
use crate::cpu::pool;
use crate::cpu::{After, Runs};
use gemm_common::Parallelism;
use std::ops::Range;

/// Batches of products with fewer multiply-adds than this are shared out whole.
const WHOLE: usize = 4_000_000;

macro_rules! floats {
    ($($t:ty: $gemm:path),*) => {$(
        impl Scalar for $t {
            unsafe fn product(p: &Problem<Self>, after: After<'_>) {
                let (batches, size, work) = (p.batches(), p.m * p.n, p.m * p.n * p.k);
                if batches == 1 || (work >= WHOLE && batches < 64) {
                    for i in 0..batches {
                        let (a, b) = p.at(i);
                        // SAFETY: the caller vouches for the operands and the output.
                        unsafe {
                            let out = p.out.add(i * size);
                            let (m, n, k) = (p.m, p.n, p.k);
                            Self::parallel(m, n, k, p.precision, a, b, out, i * size, after);
                        }
                    }
                    return;
                }
                pool::run_chunks(batches, (200_000 / work).max(1), |r| {
                    for i in r.clone() {
                        let (a, b) = p.at(i);
                        // SAFETY: as above; each batch is written by one task.
                        unsafe {
                            let (out, precision) = (p.out.add(i * size), p.precision);
                            if !Self::by_tiles(p.m, p.n, p.k, precision, a, b, out, 0, After::none()) {
                                Self::block(p.m, p.n, p.k, a, b, out, p.n as isize, false);
                            }
                        }
                    }
                    after((r.start * size..r.end * size).into());
                });
            }
        }

        impl Block for $t {
            unsafe fn block(
                m: usize,
                n: usize,
                k: usize,
                a: Matrix<Self>,
                b: Matrix<Self>,
                c: *mut Self,
                c_row: isize,
                accumulate: bool,
            ) {
                #[cfg(target_arch = "x86_64")]
                if let Some(set) = Self::kernels() {
                    // SAFETY: passed on from the caller.
                    return unsafe { engine::block(set, m, n, k, a, b, c, c_row, accumulate) };
                }
                // The crate likes outputs by columns, so it is given everything transposed.
                // SAFETY: as above.
                unsafe {
                    $gemm()(
                        n, m, k, c, c_row, 1, accumulate, b.ptr, b.row, b.col, a.ptr, a.row, a.col,
                        1.0, 1.0, false, false, false, Parallelism::None,
                    );
                }
            }

            unsafe fn parallel(
                m: usize,
                n: usize,
                k: usize,
                precision: Precision,
                a: Matrix<Self>,
                b: Matrix<Self>,
                out: *mut Self,
                base: usize,
                after: After<'_>,
            ) {
                // SAFETY: passed on from the caller.
                if unsafe { Self::by_tiles(m, n, k, precision, a, b, out, base, after) } {
                    return;
                }
                #[cfg(target_arch = "x86_64")]
                if let Some(set) = Self::kernels() {
                    // SAFETY: passed on from the caller.
                    return unsafe { engine::parallel(set, m, n, k, a, b, out, base, after) };
                }
                // Blocks of the longer side, by shape alone. Each packs its part of one operand and
                // all of the other, so that they should be few; but there must be some for every
                // thread.
                let (long, short) = (m.max(n), m.min(n));
                let each = (1_000_000 / (short * k)).clamp((long / 8).clamp(16, 256), 256);
                let out = Out(out);
                pool::run_chunks(long, each.min(long), |r| {
                    let (a, b, out) = (&a, &b, &out);
                    let (first, count) = (r.start as isize, r.len());
                    // SAFETY: each element of the output is written by one task.
                    unsafe {
                        if m >= n {
                            let a = Matrix { ptr: a.ptr.wrapping_offset(first * a.row), ..*a };
                            let c = out.0.add(r.start * n);
                            Self::block(count, n, k, a, *b, c, n as isize, false);
                        } else {
                            let b = Matrix { ptr: b.ptr.wrapping_offset(first * b.col), ..*b };
                            let c = out.0.add(r.start);
                            Self::block(m, count, k, *a, b, c, n as isize, false);
                        }
                    }
                    let (rows, cols) = if m >= n { (r, 0..n) } else { (0..m, r) };
                    after(Runs::block(base, n, rows, cols));
                });
            }
        }
    )*};
}

/// A first operand (`p x k`) that is used for many products with `q` columns. Their second operand
/// comes in panels of [`width`](Self::width) columns, each panel row-major.
pub(in crate::cpu) struct Left<T: 'static> {
    p: usize,
    q: usize,
    k: usize,
    a: Matrix<T>,
    #[cfg(target_arch = "x86_64")]
    packed: Option<engine::Packed<T>>,
}

impl<T: Block> Left<T> {
    /// Prepares `a`.
    ///
    /// # Safety
    /// `a` must be readable, now and while the result is used.
    pub unsafe fn new(p: usize, q: usize, k: usize, a: Matrix<T>) -> Self {
        Left {
            p,
            q,
            k,
            a,
            #[cfg(target_arch = "x86_64")]
            // SAFETY: passed on from the caller.
            packed: T::kernels().map(|set| unsafe { engine::Packed::new(set, p, q, k, a) }),
        }
    }

    /// Columns of a panel of the second operand.
    pub fn width(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if let Some(packed) = &self.packed {
            return packed.width();
        }
        self.q.min(256)
    }

    /// Tasks may split the rows at multiples of this.
    pub fn height(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if let Some(packed) = &self.packed {
            return packed.height();
        }
        self.p.min(16)
    }

    /// Writes the given rows and panels of the product; `b` holds the panels named.
    ///
    /// # Safety
    /// `b` must be readable for `k * width` elements a panel; `c`, the output's element (0, 0),
    /// writable at the rows and columns named, rows `c_row` apart.
    pub unsafe fn multiply(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        b: *const T,
        c: *mut T,
        c_row: isize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Some(packed) = &self.packed {
            // SAFETY: passed on from the caller.
            return unsafe { packed.multiply(rows, panels, b, c, c_row) };
        }
        let width = self.width();
        for (i, panel) in panels.enumerate() {
            let cols = width.min(self.q - panel * width);
            let a = Matrix {
                ptr: self.a.ptr.wrapping_offset(rows.start as isize * self.a.row),
                ..self.a
            };
            let b = Matrix::new(b.wrapping_add(i * width * self.k), width as isize, 1);
            let c = c
                .wrapping_offset(rows.start as isize * c_row)
                .wrapping_add(panel * width);
            // SAFETY: passed on from the caller.
            unsafe { T::block(rows.len(), cols, self.k, a, b, c, c_row, false) };
        }
    }
}

/// The matrix unit, for types that it has products of.
pub(in crate::cpu) trait Tiled: Sized {
    /// As [`Block::parallel`] where the matrix unit pays; whether it does.
    ///
    /// # Safety
    /// As for [`Block::parallel`].
    #[allow(clippy::too_many_arguments, unused_variables)]
    unsafe fn by_tiles(
        m: usize,
        n: usize,
        k: usize,
        precision: Precision,
        a: Matrix<Self>,
        b: Matrix<Self>,
        out: *mut Self,
        base: usize,
        after: After<'_>,
    ) -> bool {
        false
    }

    /// As [`Block::block`] where the matrix unit pays and numbers have one part; whether it does.
    ///
    /// # Safety
    /// As for [`Block::block`].
    #[allow(clippy::too_many_arguments, unused_variables)]
    unsafe fn block_by_tiles(
        m: usize,
        n: usize,
        k: usize,
        precision: Precision,
        a: Matrix<Self>,
        b: Matrix<Self>,
        c: *mut Self,
        c_row: isize,
        accumulate: bool,
    ) -> bool {
        false
    }

    /// A second operand for products of so many rows, if the matrix unit pays.
    ///
    /// # Safety
    /// As for [`Right::new`].
    #[cfg(target_arch = "x86_64")]
    #[allow(unused_variables)]
    unsafe fn right(
        rows: usize,
        n: usize,
        k: usize,
        precision: Precision,
        b: Matrix<Self>,
    ) -> Option<unit::PackedRight> {
        None
    }

    /// As [`Right::multiply`].
    ///
    /// # Safety
    /// As for [`Right::multiply`].
    #[cfg(target_arch = "x86_64")]
    #[allow(unused_variables)]
    unsafe fn times(
        right: &unit::PackedRight,
        size: [usize; 3],
        a: Matrix<Self>,
        c: *mut Self,
        c_row: isize,
        accumulate: bool,
    ) {
        unreachable!("only types with a packed operand multiply by it")
    }
}
impl Tiled for f64 {}
impl Tiled for f32 {
    #[cfg(target_arch = "x86_64")]
    unsafe fn by_tiles(
        m: usize,
        n: usize,
        k: usize,
        precision: Precision,
        a: Matrix<f32>,
        b: Matrix<f32>,
        out: *mut f32,
        base: usize,
        after: After<'_>,
    ) -> bool {
        let constant = [a, b].map(|x| x.constant.is_some());
        let pays = unit::pays(m, n, k, precision, constant);
        if pays {
            // SAFETY: passed on from the caller.
            unsafe { unit::parallel(m, n, k, a, b, precision, out, base, after) }
        }
        pays
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn block_by_tiles(
        m: usize,
        n: usize,
        k: usize,
        precision: Precision,
        a: Matrix<f32>,
        b: Matrix<f32>,
        c: *mut f32,
        c_row: isize,
        accumulate: bool,
    ) -> bool {
        let pays = unit::block_pays(m, n, k, precision);
        if pays {
            // SAFETY: passed on from the caller.
            unsafe { unit::block(m, n, k, a, b, c, c_row, accumulate) }
        }
        pays
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn right(
        rows: usize,
        n: usize,
        k: usize,
        precision: Precision,
        b: Matrix<f32>,
    ) -> Option<unit::PackedRight> {
        unit::PackedRight::pays(rows, n, k, precision)
            // SAFETY: passed on from the caller; the matrix unit was looked for.
            .then(|| unsafe { unit::PackedRight::new(n, k, b, precision) })
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn times(
        right: &unit::PackedRight,
        size: [usize; 3],
        a: Matrix<f32>,
        c: *mut f32,
        c_row: isize,
        accumulate: bool,
    ) {
        // SAFETY: passed on from the caller.
        unsafe { right.multiply(size, a, c, c_row, accumulate) }
    }
}

/// A second operand (`k x n`) that is used for many products with few rows.
pub(in crate::cpu) struct Right<T: 'static> {
    b: Matrix<T>,
    /// Of products by the matrix unit, if it may be used.
    precision: Option<Precision>,
    #[cfg(target_arch = "x86_64")]
    tiles: Option<unit::PackedRight>,
    #[cfg(target_arch = "x86_64")]
    packed: Option<engine::PackedRight<T>>,
}

impl<T: Block> Right<T> {
    /// Prepares `b` for about so many products with about so many rows.
    ///
    /// # Safety
    /// `b` must be readable, now and while the result is used.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub unsafe fn new(
        n: usize,
        k: usize,
        b: Matrix<T>,
        (products, rows): (usize, usize),
        precision: Precision,
    ) -> Self {
        #[cfg(target_arch = "x86_64")]
        if products > 1
            // SAFETY: passed on from the caller.
            && let Some(tiles) = unsafe { T::right(rows, n, k, precision, b) }
        {
            let (tiles, packed, precision) = (Some(tiles), None, Some(precision));
            return Right {
                b,
                precision,
                tiles,
                packed,
            };
        }
        // SAFETY: as above.
        let by_vectors = unsafe { Self::by_vectors(n, k, b, products) };
        Right {
            precision: Some(precision),
            ..by_vectors
        }
    }

    /// As [`new`](Self::new), without the matrix unit.
    ///
    /// # Safety
    /// As for `new`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub unsafe fn by_vectors(n: usize, k: usize, b: Matrix<T>, products: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        let set = T::kernels().filter(|_| products > 1 && n * k > 0);
        Right {
            b,
            precision: None,
            #[cfg(target_arch = "x86_64")]
            tiles: None,
            #[cfg(target_arch = "x86_64")]
            // SAFETY: passed on from the caller.
            packed: set.map(|set| unsafe { engine::PackedRight::new(set, n, k, b) }),
        }
    }

    /// Writes, or adds, `a x b` to rows of `c` that are `c_row` apart, on the calling thread: so
    /// many rows, with the first `n` columns of `b` and the first `k` elements of the sums; if those
    /// are not all, a multiple of 32 (a step of the matrix unit).
    ///
    /// # Safety
    /// As for [`matmul`](super::matmul), for `c` too; `b` has at least that size.
    pub unsafe fn multiply(
        &self,
        [rows, n, k]: [usize; 3],
        a: Matrix<T>,
        c: *mut T,
        c_row: isize,
        accumulate: bool,
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = &self.tiles {
            // SAFETY: passed on from the caller.
            return unsafe { T::times(tiles, [rows, n, k], a, c, c_row, accumulate) };
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(packed) = &self.packed {
            // SAFETY: passed on from the caller.
            return unsafe { packed.multiply([rows, n, k], a, c, c_row, accumulate) };
        }
        // SAFETY: passed on from the caller.
        unsafe {
            let (b, by_tiles) = (self.b, self.precision);
            if !by_tiles
                .is_some_and(|p| T::block_by_tiles(rows, n, k, p, a, b, c, c_row, accumulate))
            {
                T::block(rows, n, k, a, b, c, c_row, accumulate);
            }
        }
    }
}

struct Out<T>(*mut T);
// SAFETY: tasks write disjoint rows.
unsafe impl<T> Sync for Out<T> {}

/// What the element types of [`Block`] can do.
#[cfg(target_arch = "x86_64")]
pub(in crate::cpu) trait Base:
    Scalar + engine::Float + std::ops::Add<Output = Self>
{
}
#[cfg(target_arch = "x86_64")]
impl<T: Scalar + engine::Float + std::ops::Add<Output = Self>> Base for T {}
#[cfg(not(target_arch = "x86_64"))]
pub(in crate::cpu) trait Base: Scalar + std::ops::Add<Output = Self> {}
#[cfg(not(target_arch = "x86_64"))]
impl<T: Scalar + std::ops::Add<Output = Self>> Base for T {}

/// The product of one pair of matrices.
pub(in crate::cpu) trait Block: Base + Tiled {
    /// Writes, or adds, `a x b` to rows of `c` that are `c_row` apart, on the calling thread.
    ///
    /// # Safety
    /// As for [`matmul`](super::matmul), for `c` too.
    #[allow(clippy::too_many_arguments)]
    unsafe fn block(
        m: usize,
        n: usize,
        k: usize,
        a: Matrix<Self>,
        b: Matrix<Self>,
        c: *mut Self,
        c_row: isize,
        accumulate: bool,
    );

    /// Writes `a x b` to the contiguous `out` on all threads; runs count from `base`.
    ///
    /// # Safety
    /// As for [`matmul`](super::matmul).
    #[allow(clippy::too_many_arguments)]
    unsafe fn parallel(
        m: usize,
        n: usize,
        k: usize,
        precision: Precision,
        a: Matrix<Self>,
        b: Matrix<Self>,
        out: *mut Self,
        base: usize,
        after: After<'_>,
    );
}
floats! { f32: gemm_f32::gemm::f32::get_gemm_fn, f64: gemm_f64::gemm::f64::get_gemm_fn }
