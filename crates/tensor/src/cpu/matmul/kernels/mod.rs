//! Micro-kernels: a tile of the output stays in registers while the sums run.
//!
//! Along a row of the tile lie vectors of the second operand, and every element of the first operand
//! is broadcast. With AVX-512 a tile of 14 rows by two vectors fills 28 of the 32 registers and needs
//! 16 loads for 28 multiply-adds; with AVX2 one of 6 by two fills 12 of 16 and needs 8 loads for 12:
//! the multipliers are the limit. There is one set of kernels for each instruction set and element
//! type, with the same bodies, of which [`Lanes::kernels`] chooses at run time.

mod avx2;
pub mod avx512;
mod bodies;

use crate::cpu::simd::{Level, level, prefetch};

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
    pub b_lanes: usize,
    pub c_lanes: usize,
    /// Add to `c` instead of overwriting it.
    pub accumulate: bool,
}

/// A micro-kernel for one size of tile.
///
/// # Safety
/// All elements that the tile reaches must be readable (`a`, `b`) and writable (`c`), and the
/// processor must have the instructions of the set.
pub type Kernel<T> = unsafe fn(&Tile<T>);

/// What a kernel of dot products works on: a few rows times one to four vectors, all contiguous.
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
    pub lanes: usize,
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

/// A kernel of a convolution, under the same conditions as [`Kernel`].
pub type ImageKernel<T> = unsafe fn(&ImageTile<T>);
/// A kernel of a weight gradient, under the same conditions as [`Kernel`].
pub type WeightKernel<T> = unsafe fn(&WeightTile<T>);

/// Transposes up to 16 `lines` of `len` contiguous elements, `src_step` apart: element `l` of line
/// `i` lands at `dst + l * dst_step + i`. Under the same conditions as [`Kernel`].
pub type Transpose<T> = unsafe fn(
    src: *const T,
    src_step: isize,
    lines: usize,
    len: usize,
    dst: *mut T,
    dst_step: isize,
);

/// The kernels of one instruction set for one element type. In each list the first is for one row
/// (or vector) and so on; how long the lists are says how large tiles may be.
pub struct Kernels<T: 'static> {
    /// Elements per vector.
    pub lanes: usize,
    /// For one to three vectors: tiles, and tiles that read the first operand along its rows (whose
    /// pointers must fit in the general registers).
    pub tile: [&'static [Kernel<T>]; 3],
    pub tile_by_row: [&'static [Kernel<T>]; 3],
    /// For one to four vectors.
    pub dots: [&'static [DotKernel<T>]; 4],
    /// For a step of one and two between neighbouring positions, one and two vectors.
    pub image: [[&'static [ImageKernel<T>]; 2]; 2],
    /// For each number of channels, by the number of vectors.
    pub plane: &'static [&'static [PlaneKernel<T>]],
    /// For one and two vectors.
    pub weight: [&'static [WeightKernel<T>]; 2],
    pub transpose: Transpose<T>,
}

/// An element type with kernels.
pub trait Lanes: Copy + Send + Sync + 'static {
    /// The set for this processor; `None` if it has neither AVX2 nor AVX-512.
    fn kernels() -> Option<&'static Kernels<Self>>;
}

macro_rules! lanes {
    ($($t:ty: $name:ident)*) => {$(
        impl Lanes for $t {
            fn kernels() -> Option<&'static Kernels<Self>> {
                match level() {
                    Level::Avx512 => Some(&avx512::$name),
                    Level::Avx2 => Some(&avx2::$name),
                    Level::Baseline => None,
                }
            }
        }
    )*};
}
lanes! { f32: SINGLE f64: DOUBLE }

impl<T: Copy> Kernels<T> {
    /// Packs a panel: element `(i, l)`, at `src + i * line + l * step`, goes to
    /// `dst[l * width + i]`, for `i` in `0..lines` and `l` in `0..len`; the rest of each group of
    /// `width` becomes zero.
    ///
    /// # Safety
    /// The source must be readable at these indices, `dst` writable for `len * width` elements, and
    /// the processor must have the instructions of the set.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn pack_panel(
        &self,
        src: *const T,
        line: isize,
        step: isize,
        lines: usize,
        len: usize,
        dst: *mut T,
        width: usize,
    ) {
        // SAFETY: all indices stay within `lines x len` of the source and `len x width` of the
        // panel; the all-zero pattern is the number zero in both float types.
        unsafe {
            if lines < width {
                for l in 0..len {
                    dst.add(l * width + lines).write_bytes(0, width - lines);
                }
            }
            if line == 1 {
                for i in (0..lines).step_by(16) {
                    let from = src.wrapping_add(i);
                    copy_lines((lines - i).min(16), len, from, step, dst.add(i), width);
                }
            } else if step == 1 {
                self.turn(src, line, lines, len, dst, width as isize);
            } else {
                for l in 0..len {
                    for i in 0..lines {
                        let from = i as isize * line + l as isize * step;
                        *dst.add(l * width + i) = *src.wrapping_offset(from);
                    }
                }
            }
        }
    }

    /// Transposes `p x q` from `src` into `dst`.
    ///
    /// # Safety
    /// Both must have room for the matrix at their row strides; the processor must have the
    /// instructions of the set.
    pub unsafe fn turn(
        &self,
        src: *const T,
        src_row: isize,
        p: usize,
        q: usize,
        dst: *mut T,
        dst_row: isize,
    ) {
        for i in (0..p).step_by(16) {
            let from = src.wrapping_offset(i as isize * src_row);
            let lines = (p - i).min(16);
            // SAFETY: up to 16 rows of the source, as many columns of the destination.
            unsafe { (self.transpose)(from, src_row, lines, q, dst.add(i), dst_row) };
        }
    }
}

/// Copies `len` runs of up to 16 elements, each by as many instructions as it takes and no call.
///
/// # Safety
/// The runs must be readable, `step` apart, and writable, `width` apart.
unsafe fn copy_lines<T: Copy>(
    lines: usize,
    len: usize,
    src: *const T,
    step: isize,
    dst: *mut T,
    width: usize,
) {
    macro_rules! copy {
        ($($n:literal)*) => {
            match lines {
                $($n => {
                    for l in 0..len {
                        let from = src.wrapping_offset(l as isize * step).cast::<[T; $n]>();
                        // SAFETY: run `l`.
                        unsafe {
                            let run = from.read_unaligned();
                            dst.add(l * width).cast::<[T; $n]>().write_unaligned(run);
                        }
                    }
                })*
                n => unreachable!("{n} lines"),
            }
        };
    }
    copy!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
}

/// A transposition with plain loads and stores.
///
/// # Safety
/// As for [`Transpose`].
unsafe fn transpose_plain<T: Copy>(
    src: *const T,
    src_step: isize,
    lines: usize,
    len: usize,
    dst: *mut T,
    dst_step: isize,
) {
    for l in 0..len as isize {
        for i in 0..lines as isize {
            // SAFETY: the caller vouches for these indices.
            unsafe {
                *dst.wrapping_offset(l * dst_step + i) = *src.wrapping_offset(i * src_step + l);
            }
        }
    }
}

#[cfg(test)]
mod tests;
