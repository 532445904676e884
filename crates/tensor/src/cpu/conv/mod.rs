//! Convolution over `[batch, channels, height, width]`, in three faces: the output and the
//! gradients of both operands.
//!
//! A convolution is a matrix product with the matrix of columns, in which column `p` lists the
//! inputs that output position `p` sees. That matrix is never made whole: each task lays out the
//! panels that it is about to multiply, so that they stay in its cache. One-dimensional convolution
//! has height 1. For `f32` there are other ways, of which an estimate chooses the fastest: by the
//! matrix unit, and by minimal filtering for 3x3 (`winograd`).

mod columns;
#[cfg(target_arch = "x86_64")]
mod depthwise;
#[cfg(target_arch = "x86_64")]
mod direct;
mod faces;
#[cfg(target_arch = "x86_64")]
mod lines;
#[cfg(target_arch = "x86_64")]
mod planes;
#[cfg(target_arch = "x86_64")]
mod tile_sums;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod winograd;

use super::constant::Constant;
use super::pool;
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};
use super::storage::Storage;
#[cfg(target_arch = "x86_64")]
use super::unit;
use super::{After, Runs};
use crate::{DType, Face, Precision};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::ops::Range;

/// The sizes of a convolution of `[batch, in_channels, h, w]` with weights
/// `[out_channels, in_channels / groups, kh, kw]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Number of images.
    pub batch: usize,
    /// Channels of the input; a multiple of `groups`.
    pub in_channels: usize,
    /// Channels of the output; a multiple of `groups`.
    pub out_channels: usize,
    /// The channels are cut into so many groups that do not see each other.
    pub groups: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Step of the kernel, at least 1.
    pub stride: [usize; 2],
    /// Zeros before and after, per dimension.
    pub padding: [(usize, usize); 2],
    /// Distance between the kernel's elements, at least 1.
    pub dilation: [usize; 2],
    /// How exactly `f32` is multiplied.
    pub precision: Precision,
}

impl ConvShape {
    /// Height and width of the output (0 where the kernel does not fit).
    pub fn output(&self) -> [usize; 2] {
        std::array::from_fn(|d| {
            let (lo, hi) = self.padding[d];
            let span = self.dilation[d] * self.kernel[d].saturating_sub(1) + 1;
            let padded = self.input[d] + lo + hi;
            padded
                .checked_sub(span)
                .map_or(0, |x| x / self.stride[d] + 1)
        })
    }

    /// Input channels of a group.
    fn group_in(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels of a group.
    fn group_out(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Weights of one output channel.
    fn window(&self) -> usize {
        self.group_in() * self.kernel[0] * self.kernel[1]
    }

    /// One group of one image by itself.
    #[cfg(target_arch = "x86_64")]
    fn one_group(&self) -> ConvShape {
        ConvShape {
            batch: 1,
            groups: 1,
            in_channels: self.group_in(),
            out_channels: self.group_out(),
            ..*self
        }
    }

    /// Elements of the input, of the weights and of the output.
    fn sizes(&self) -> [usize; 3] {
        let [oh, ow] = self.output();
        [
            self.batch * self.in_channels * self.input[0] * self.input[1],
            self.out_channels * self.window(),
            self.batch * self.out_channels * oh * ow,
        ]
    }
}

/// Elements of the two operands and of the result.
fn sizes(face: Face, s: &ConvShape) -> [usize; 3] {
    let [x, w, y] = s.sizes();
    match face {
        Face::Output => [x, w, y],
        Face::InputGrad => [y, w, x],
        Face::WeightGrad => [x, y, w],
    }
}

/// A face of a convolution of given sizes, planned once and run any number of times.
pub struct Planned {
    face: Face,
    s: ConvShape,
    #[cfg(target_arch = "x86_64")]
    unit: Option<Unit>,
}

/// Ways of `f32` alone.
#[cfg(target_arch = "x86_64")]
enum Unit {
    Depthwise(depthwise::Job),
    Filtered(winograd::Job),
    FilteredSums(winograd::SumsJob),
    Tiles(tiles::Job),
    Sums(tile_sums::Job),
}

/// Roughly how many cycles the sums take as they are written.
#[cfg(target_arch = "x86_64")]
fn cycles_by_sums(face: Face, s: &ConvShape) -> usize {
    let [oh, ow] = s.output();
    // With few positions the vector unit waits for the weights, too.
    let sixteenths = match (face, oh * ow < 64) {
        (Face::WeightGrad, true) => 6,
        (Face::WeightGrad, false) => 12,
        (_, true) => 8,
        (_, false) => 15,
    };
    let lanes = if level() >= Level::Avx512 { 16 } else { 8 };
    s.sizes()[1] * oh * ow * s.batch * 8 / (lanes * sixteenths)
}

impl Planned {
    /// Plans a face for operands of `dtype`.
    pub fn new(dtype: DType, face: Face, s: &ConvShape) -> Planned {
        // A product of numbers with 8 significant bits is exact on the matrix unit.
        let precision = match dtype {
            DType::BF16 => Precision::Medium,
            DType::F16 => s.precision.min(Precision::High),
            _ => s.precision,
        };
        let s = ConvShape { precision, ..*s };
        Planned {
            face,
            s,
            #[cfg(target_arch = "x86_64")]
            unit: match dtype != DType::F64 && sizes(face, &s).iter().all(|&n| n > 0) {
                true => Unit::choose(face, &s),
                false => None,
            },
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Unit {
    /// All ways that can compute a face.
    fn all(face: Face, s: &ConvShape) -> impl Iterator<Item = Unit> {
        let (vectors, tiles) = (
            level() >= Level::Avx512,
            unit::serving(s.precision).is_some(),
        );
        let (depthwise, filtered, unit) = match face {
            Face::WeightGrad => (
                vectors
                    .then(|| depthwise::Job::new(s))
                    .flatten()
                    .map(Unit::Depthwise),
                winograd::SumsJob::new(s).map(Unit::FilteredSums),
                tiles.then(|| Unit::Sums(tile_sums::Job::new(s))),
            ),
            _ => (
                None,
                winograd::Job::new(face, s).map(Unit::Filtered),
                tiles
                    .then(|| tiles::Job::new(face, s))
                    .flatten()
                    .map(Unit::Tiles),
            ),
        };
        depthwise.into_iter().chain(filtered).chain(unit)
    }

    /// The fastest way, if it is faster than the sums as they are written.
    fn choose(face: Face, s: &ConvShape) -> Option<Unit> {
        let fastest = Unit::all(face, s).min_by_key(Unit::cycles)?;
        (fastest.cycles() < cycles_by_sums(face, s)).then_some(fastest)
    }

    /// Roughly how many cycles it takes.
    fn cycles(&self) -> usize {
        match self {
            Unit::Depthwise(_) => 0,
            Unit::Filtered(job) => job.cycles(),
            Unit::FilteredSums(job) => job.cycles(),
            Unit::Tiles(job) => job.cycles(),
            Unit::Sums(job) => job.cycles(),
        }
    }

    /// Whether it has been computed, which it is not if some numbers do not suit the way.
    ///
    /// # Safety
    /// As for [`conv`].
    unsafe fn run(
        &self,
        a: *const f32,
        b: *const f32,
        constant: Option<Constant>,
        out: *mut f32,
        after: After<'_>,
    ) -> bool {
        // SAFETY: passed on from the caller; the processor has what the way needs.
        unsafe {
            match self {
                Unit::Depthwise(job) => {
                    job.run(a, b, out, after);
                    true
                }
                Unit::Filtered(job) => job.run(a, b, constant, out, after),
                Unit::FilteredSums(job) => job.run(a, b, out, after),
                Unit::Tiles(job) => job.run(a, b, constant, out, after),
                Unit::Sums(job) => job.run(a, b, out, after),
            }
        }
    }
}

/// An element type that has convolutions: the floats.
pub trait ConvScalar: crate::Element {
    #[doc(hidden)]
    /// # Safety
    /// As [`conv`].
    unsafe fn run(
        p: &Planned,
        a: *const Self,
        b: *const Self,
        constant: Option<Constant>,
        out: *mut Self,
        after: After<'_>,
    );
}

/// Computes one face of a convolution; see [`Face`] for what `a`, `b` and `out` are.
///
/// All three are contiguous. `after` is called for disjoint runs of linear output indices that
/// cover the output, each once it is final. Half-precision operands are accumulated in `f32` and
/// rounded once.
///
/// # Safety
/// `a` and `b` must be readable and `out` writable for the sizes in `s`, and `out` must overlap
/// neither.
pub unsafe fn conv<T: ConvScalar>(
    face: Face,
    s: &ConvShape,
    a: *const T,
    b: *const T,
    out: *mut T,
    after: After<'_>,
) {
    // SAFETY: passed on from the caller.
    unsafe { planned(&Planned::new(T::DTYPE, face, s), a, b, None, out, after) }
}

unsafe fn planned<T: ConvScalar>(
    p: &Planned,
    a: *const T,
    b: *const T,
    constant: Option<Constant>,
    out: *mut T,
    after: After<'_>,
) {
    let [a_len, b_len, len] = sizes(p.face, &p.s);
    if len == 0 {
        return;
    }
    if a_len == 0 || b_len == 0 {
        let zero = T::from_f64(0.0);
        // SAFETY: `out` has `len` elements.
        (0..len).for_each(|i| unsafe { out.add(i).write(zero) });
        return after((0..len).into());
    }
    // SAFETY: passed on from the caller.
    unsafe { T::run(p, a, b, constant, out, after) }
}

/// A planned [`conv`] on untyped pointers, all of `dtype`; `constant` is the memory of `b` if nothing
/// writes to it. Panics if it is not a float type.
///
/// # Safety
/// As for [`conv`], with all pointers aligned for `dtype`.
pub unsafe fn conv_dyn(
    dtype: DType,
    p: &Planned,
    a: *const u8,
    b: *const u8,
    constant: Option<Constant>,
    out: *mut u8,
    after: After<'_>,
) {
    macro_rules! go {
        ($t:ty) => {
            // SAFETY: passed on from the caller.
            unsafe { planned::<$t>(p, a.cast(), b.cast(), constant, out.cast(), after) }
        };
    }
    match dtype {
        DType::F16 => go!(f16),
        DType::BF16 => go!(bf16),
        DType::F32 => go!(f32),
        DType::F64 => go!(f64),
        other => panic!("convolution: not defined for {other}"),
    }
}

impl ConvScalar for f64 {
    unsafe fn run(
        p: &Planned,
        a: *const f64,
        b: *const f64,
        constant: Option<Constant>,
        out: *mut f64,
        after: After<'_>,
    ) {
        // SAFETY: passed on from the caller.
        unsafe { faces::run(p.face, &p.s, a, b, constant, out, after) }
    }
}

impl ConvScalar for f32 {
    unsafe fn run(
        p: &Planned,
        a: *const f32,
        b: *const f32,
        constant: Option<Constant>,
        out: *mut f32,
        after: After<'_>,
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if let Some(unit) = &p.unit
                && unit.run(a, b, constant, out, after)
            {
                return;
            }
            faces::run(p.face, &p.s, a, b, constant, out, after)
        }
    }
}

macro_rules! halves {
    ($($t:ty)*) => {$(
        impl ConvScalar for $t {
            unsafe fn run(
                p: &Planned,
                a: *const Self,
                b: *const Self,
                _: Option<Constant>,
                out: *mut Self,
                after: After<'_>,
            ) {
                let widen = |src: *const Self, len: usize| {
                    let wide = Storage::scratch(len * 4);
                    let (from, to) = (Ptr(src.cast_mut()), Ptr(wide.as_ptr().cast::<f32>()));
                    pool::run_chunks(len, 1 << 15, |r| {
                        let (from, to) = (&from, &to);
                        // SAFETY: each range of the copy is written by one task.
                        unsafe { from.slice(&r).convert_to_f32_slice(to.slice_mut(&r)) };
                    });
                    wide
                };
                let [a_len, b_len, len] = sizes(p.face, &p.s);
                let (a, b) = (widen(a, a_len), widen(b, b_len));
                let wide = Storage::scratch(len * 4);
                let (from, to) = (Ptr(wide.as_ptr().cast::<f32>()), Ptr(out));
                let round = |runs: Runs| {
                    let (from, to) = (&from, &to);
                    for r in runs.each() {
                        // SAFETY: the range is final and this task's own.
                        unsafe { to.slice_mut(&r).convert_from_f32_slice(from.slice(&r)) };
                    }
                    after(runs);
                };
                let (a, b) = (a.as_ptr().cast::<f32>(), b.as_ptr().cast::<f32>());
                // SAFETY: the blocks have the sizes of the operands and of the result.
                unsafe { f32::run(p, a, b, None, from.0, After::new(&round)) }
            }
        }
    )*};
}
halves! { f16 bf16 }

/// A pointer that tasks share.
struct Ptr<T>(*mut T);
// SAFETY: tasks write disjoint parts of what it points to.
unsafe impl<T> Sync for Ptr<T> {}

impl<T> Ptr<T> {
    /// # Safety
    /// The range must be readable, and not written meanwhile.
    unsafe fn slice(&self, r: &Range<usize>) -> &[T] {
        // SAFETY: passed on from the caller.
        unsafe { std::slice::from_raw_parts(self.0.add(r.start), r.len()) }
    }
    /// # Safety
    /// The range must be the caller's alone.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice_mut(&self, r: &Range<usize>) -> &mut [T] {
        // SAFETY: passed on from the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(r.start), r.len()) }
    }
}

#[cfg(test)]
mod tests;
