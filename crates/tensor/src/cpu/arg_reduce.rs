//! The place of the largest or smallest element along an axis.

use super::copy::SharedPtr;
use super::index::Strided;
use super::pool;
use crate::{DType, simd_dispatch};
use half::{bf16, f16};
use smallvec::SmallVec;

/// Elements with an order in which NaN is above (and, for a minimum, below) everything.
trait Ordered: Copy + Send + Sync {
    fn is_nan(self) -> bool;
    /// Whether `self` comes strictly before `best`.
    fn wins<const MAX: bool>(self, best: Self) -> bool;
}
macro_rules! ordered {
    ($($t:ty, |$v:ident| $nan:expr;)*) => {$(
        impl Ordered for $t {
            #[inline(always)]
            fn is_nan(self) -> bool { let $v = self; $nan }
            #[inline(always)]
            fn wins<const MAX: bool>(self, best: Self) -> bool {
                let greater = if MAX { self > best } else { self < best };
                greater | (Ordered::is_nan(self) & !Ordered::is_nan(best))
            }
        }
    )*};
}
ordered! {
    u8, |_v| false;
    i32, |_v| false;
    i64, |_v| false;
    f16, |v| v.is_nan();
    bf16, |v| v.is_nan();
    f32, |v| v.is_nan();
    f64, |v| v.is_nan();
}

/// The first index of the largest (or smallest) element along `axis`, as `torch.argmax` and
/// `torch.argmin`: NaN wins over any number, and of equals the first does.
///
/// `src` may have any strides; `out` is contiguous with the shape of `src` without `axis`.
///
/// # Safety
/// The source must be readable over its shape, aligned to its type, and `out` writable.
///
/// # Panics
/// If the axis has no elements while there are outputs to give.
pub unsafe fn arg_reduce(
    largest: bool,
    dtype: DType,
    axis: usize,
    src: Strided<'_, u8>,
    out: *mut i64,
) {
    macro_rules! typed {
        ($t:ty) => {{
            let ptr = src.ptr.cast::<$t>();
            let src = Strided {
                ptr,
                shape: src.shape,
                strides: src.strides,
            };
            // SAFETY: passed on to the caller.
            unsafe {
                if largest {
                    places::<$t, true>(axis, src, out)
                } else {
                    places::<$t, false>(axis, src, out)
                }
            }
        }};
    }
    match dtype {
        DType::Bool | DType::U8 => typed!(u8),
        DType::I32 => typed!(i32),
        DType::I64 => typed!(i64),
        DType::F16 => typed!(f16),
        DType::BF16 => typed!(bf16),
        DType::F32 => typed!(f32),
        DType::F64 => typed!(f64),
    }
}

/// The least number of elements that is worth a task of its own.
const TASK: usize = 1 << 15;
/// Columns that are searched side by side.
const STRIP: usize = 256;

unsafe fn places<T: Ordered, const MAX: bool>(axis: usize, src: Strided<'_, T>, out: *mut i64) {
    let (n, step) = (src.shape[axis], src.strides[axis]);
    // The kept dimensions; the last one is searched in strips, unless lines are contiguous.
    let kept: SmallVec<[usize; 6]> = (0..src.shape.len()).filter(|&d| d != axis).collect();
    let outputs: usize = kept.iter().map(|&d| src.shape[d]).product();
    if outputs == 0 {
        return;
    }
    assert!(n > 0, "the axis of an arg-reduction has no elements");
    let last = kept
        .last()
        .filter(|_| step != 1)
        .map_or((1, 0), |&d| (src.shape[d], src.strides[d]));
    let (width, width_step) = last;
    let outer = &kept[..kept.len() - (step != 1 && !kept.is_empty()) as usize];
    let strip = STRIP.min(width);
    let strips = width.div_ceil(strip);
    let units = outputs / width * strips;
    let per_task = (TASK / (n * strip)).max(1);
    let (base, out) = (SharedPtr(src.ptr.cast_mut()), SharedPtr(out));
    pool::run(units.div_ceil(per_task), |t| {
        let mut best: Vec<T> = Vec::new();
        for u in t * per_task..units.min((t + 1) * per_task) {
            let (mut line, from) = (u / strips, (u % strips) * strip);
            let len = strip.min(width - from);
            let to = out.at((line * width + from) as isize);
            // SAFETY: units have their own outputs.
            let to = unsafe { std::slice::from_raw_parts_mut(to, len) };
            let mut at = from as isize * width_step;
            for &d in outer.iter().rev() {
                at += (line % src.shape[d]) as isize * src.strides[d];
                line /= src.shape[d];
            }
            let first = base.at(at);
            // SAFETY: every element read below is inside the source's shape.
            unsafe {
                if step == 1 {
                    to[0] = place::<T, Flag<MAX>>(std::slice::from_raw_parts(first, n)) as i64;
                    continue;
                }
                best.clear();
                best.extend((0..len as isize).map(|c| *first.offset(c * width_step)));
                to.fill(0);
                for r in 1..n as isize {
                    let row = first.offset(r * step);
                    if width_step == 1 {
                        let row = std::slice::from_raw_parts(row, len);
                        update::<T, Flag<MAX>>(row, &mut best, to, r as i64);
                    } else {
                        for (c, (b, p)) in best.iter_mut().zip(&mut *to).enumerate() {
                            let x = *row.offset(c as isize * width_step);
                            if x.wins::<MAX>(*b) {
                                (*b, *p) = (x, r as i64);
                            }
                        }
                    }
                }
            }
        }
    });
}

/// The direction, as a type (`simd_dispatch!` takes no const parameters).
struct Flag<const MAX: bool>;
trait Direction {
    const MAX: bool;
}
impl<const M: bool> Direction for Flag<M> {
    const MAX: bool = M;
}

#[inline(always)]
fn wins<T: Ordered, D: Direction>(x: T, best: T) -> bool {
    if D::MAX {
        x.wins::<true>(best)
    } else {
        x.wins::<false>(best)
    }
}

const LANES: usize = 64;

simd_dispatch! {
    /// The first place of the winner of a contiguous line: the winner first, then its place.
    fn place<T: Ordered, D: Direction>(x: &[T]) -> usize {
        let mut best = x[0];
        let (full, rest) = x.as_chunks::<LANES>();
        if !full.is_empty() {
            let mut lanes = full[0];
            for chunk in full {
                for i in 0..LANES {
                    lanes[i] = if wins::<T, D>(chunk[i], lanes[i]) { chunk[i] } else { lanes[i] };
                }
            }
            for v in lanes {
                best = if wins::<T, D>(v, best) { v } else { best };
            }
        }
        for &v in rest {
            best = if wins::<T, D>(v, best) { v } else { best };
        }
        // Nothing beats the winner: its first equal is the first that it does not beat.
        let mut base = 0;
        for chunk in full {
            let mut any = false;
            for &v in chunk {
                any |= !wins::<T, D>(best, v);
            }
            if any {
                break;
            }
            base += LANES;
        }
        base + x[base..].iter().position(|&v| !wins::<T, D>(best, v)).unwrap_or(0)
    }

    /// One more row of a column search.
    fn update<T: Ordered, D: Direction>(row: &[T], best: &mut [T], places: &mut [i64], r: i64) {
        for ((&x, b), p) in row.iter().zip(best).zip(places) {
            let w = wins::<T, D>(x, *b);
            *b = if w { x } else { *b };
            *p = if w { r } else { *p };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Element, Layout};

    fn check<T: Element>(l: &Layout, data: &[f64]) {
        let x: Vec<T> = data.iter().map(|&v| T::from_f64(v)).collect();
        for axis in 0..l.shape.len() {
            let kept: Vec<usize> = (0..l.shape.len()).filter(|&d| d != axis).collect();
            let outputs: usize = kept.iter().map(|&d| l.shape[d]).product();
            for largest in [true, false] {
                let mut want = Vec::new();
                for o in 0..outputs {
                    let (mut line, mut at) = (o, l.offset as isize);
                    for &d in kept.iter().rev() {
                        at += (line % l.shape[d]) as isize * l.strides[d];
                        line /= l.shape[d];
                    }
                    let mut best = 0;
                    let get = |r: usize| x[(at + r as isize * l.strides[axis]) as usize].to_f64();
                    for r in 1..l.shape[axis] {
                        let (v, b) = (get(r), get(best));
                        let wins = if largest { v > b } else { v < b };
                        if wins || v.is_nan() && !b.is_nan() {
                            best = r;
                        }
                    }
                    want.push(best as i64);
                }
                for threads in [1, 2] {
                    pool::set_threads(threads);
                    let mut out = vec![-1i64; outputs];
                    let src = Strided {
                        ptr: x[l.offset..].as_ptr().cast(),
                        shape: &l.shape,
                        strides: &l.strides,
                    };
                    // SAFETY: buffers and layouts match.
                    unsafe { arg_reduce(largest, T::DTYPE, axis, src, out.as_mut_ptr()) };
                    assert_eq!(
                        out,
                        want,
                        "{} {l:?} axis {axis} largest {largest}",
                        T::DTYPE
                    );
                }
            }
        }
    }

    #[test]
    fn agrees_with_a_plain_search() {
        let c = |s: &[usize]| Layout::contiguous(s);
        let layouts = [
            c(&[1]),
            c(&[5]),
            c(&[1000]),
            c(&[100_003]),
            c(&[40, 10]),
            c(&[7, 300]),
            c(&[5, 6, 7]),
            c(&[5, 6, 70]).permute(&[2, 0, 1]),
            c(&[30, 40]).slice(1, 39, 20, -2),
            c(&[6, 1]).broadcast_to(&crate::Shape::from([6, 9])),
            c(&[0, 3]).permute(&[1, 0]).slice(0, 0, 0, 1),
        ];
        let mut s = 7u64;
        for l in layouts {
            for with_nan in [false, true] {
                let reach = l
                    .shape
                    .iter()
                    .zip(&l.strides)
                    .map(|(&n, &s)| n * s.max(0) as usize);
                let data: Vec<f64> = (0..l.offset + reach.sum::<usize>() + 1)
                    .map(|_| {
                        s = s
                            .wrapping_mul(6364136223846793005)
                            .wrapping_add(1442695040888963407);
                        let v = ((s >> 40) % 200) as f64 / 2.0;
                        if with_nan && s >> 58 == 0 {
                            f64::NAN
                        } else {
                            v
                        }
                    })
                    .collect();
                check::<f32>(&l, &data);
                check::<f64>(&l, &data);
                check::<bf16>(&l, &data);
                check::<f16>(&l, &data);
                check::<i64>(&l, &data);
                check::<i32>(&l, &data);
                check::<u8>(&l, &data);
                check::<bool>(&l, &data);
            }
        }
    }
}
