//! Copies between strided arrays of one element size, and fills.
//!
//! Everything that only moves elements ends here: `contiguous()`, padding, concatenation and
//! slice updates. Elements are opaque; changing their type is the tape's job.

use super::pool;
use smallvec::SmallVec;

/// A pointer that tasks may share; who uses it answers for disjoint writes.
pub(crate) struct SharedPtr<T>(pub *mut T);
// SAFETY: only an address; every dereference is in an unsafe block with its own reason.
unsafe impl<T> Send for SharedPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SharedPtr<T> {}
impl<T> Clone for SharedPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for SharedPtr<T> {}
impl<T> SharedPtr<T> {
    /// The address (a method, so that closures capture the whole `SharedPtr`).
    #[inline(always)]
    pub fn get(self) -> *mut T {
        self.0
    }
    /// The address `n` elements further, where `n` may be negative.
    #[inline(always)]
    pub fn at(self, n: isize) -> *mut T {
        self.0.wrapping_offset(n)
    }
}

/// The least number of bytes that is worth a task of its own.
const TASK_BYTES: usize = 1 << 16;

/// One dimension of a copy: its size and the two strides, in elements.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Dim {
    size: usize,
    src: isize,
    dst: isize,
}

/// How the innermost part of a copy runs; see [`Plan::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Inner {
    /// Both sides step by one: `memcpy`.
    Run,
    /// The source stands still: fill.
    Repeat,
    /// The destination steps by one along the last dimension, the source along the last but one.
    Transpose,
    /// Any strides.
    Strided,
}

/// The dimensions in the best order to walk, merged where both sides allow it.
struct Plan {
    dims: SmallVec<[Dim; 6]>,
    src_offset: isize,
    dst_offset: isize,
    inner: Inner,
}

impl Plan {
    fn new(shape: &[usize], src: &[isize], dst: &[isize]) -> Plan {
        let (mut src_offset, mut dst_offset) = (0, 0);
        let mut dims: SmallVec<[Dim; 6]> = SmallVec::new();
        for (d, &size) in shape.iter().enumerate() {
            if size == 1 {
                continue;
            }
            let mut dim = Dim {
                size,
                src: src[d],
                dst: dst[d],
            };
            // Walk the destination forwards: a flip of both sides changes nothing.
            if dim.dst < 0 {
                let last = size as isize - 1;
                dst_offset += dim.dst * last;
                src_offset += dim.src * last;
                dim.dst = -dim.dst;
                dim.src = -dim.src;
            }
            dims.push(dim);
        }
        // Writes in address order; among equals (only a destination written twice) keep the order.
        dims.sort_by_key(|d| std::cmp::Reverse(d.dst));
        let mut merged: SmallVec<[Dim; 6]> = SmallVec::new();
        for d in dims {
            match merged.last_mut() {
                Some(p) if p.src == d.src * d.size as isize && p.dst == d.dst * d.size as isize => {
                    *p = Dim {
                        size: p.size * d.size,
                        ..d
                    };
                }
                _ => merged.push(d),
            }
        }
        let mut dims = merged;
        if dims.is_empty() {
            dims.push(Dim {
                size: 1,
                src: 1,
                dst: 1,
            });
        }
        let last = dims[dims.len() - 1];
        let mut inner = match (last.src, last.dst) {
            (1, 1) => Inner::Run,
            (0, 1) => Inner::Repeat,
            _ => Inner::Strided,
        };
        if inner == Inner::Strided && last.dst == 1 && last.size >= 4 {
            let along = (0..dims.len() - 1)
                .rev()
                .find(|&i| dims[i].src == 1 && dims[i].size >= 4);
            if let Some(i) = along {
                let d = dims.remove(i);
                dims.insert(dims.len() - 1, d);
                inner = Inner::Transpose;
            }
        }
        Plan {
            dims,
            src_offset,
            dst_offset,
            inner,
        }
    }
}

/// Walks the outer dimensions of a plan in row-major order, from any start.
struct Walk<'a> {
    dims: &'a [Dim],
    index: SmallVec<[usize; 6]>,
    src: isize,
    dst: isize,
}

impl<'a> Walk<'a> {
    fn new(dims: &'a [Dim], mut start: usize) -> Self {
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, dims.len());
        let (mut src, mut dst) = (0, 0);
        for (i, d) in dims.iter().enumerate().rev() {
            index[i] = start % d.size;
            start /= d.size;
            src += index[i] as isize * d.src;
            dst += index[i] as isize * d.dst;
        }
        Walk {
            dims,
            index,
            src,
            dst,
        }
    }

    #[inline]
    fn step(&mut self) {
        for (i, d) in self.dims.iter().enumerate().rev() {
            self.index[i] += 1;
            self.src += d.src;
            self.dst += d.dst;
            if self.index[i] < d.size {
                return;
            }
            self.index[i] = 0;
            self.src -= d.src * d.size as isize;
            self.dst -= d.dst * d.size as isize;
        }
    }
}

/// Copies the elements of one strided array to another of the same `shape`, in parallel.
///
/// `size` is the bytes of one element (1, 2, 4 or 8); strides count elements and may be zero (on
/// the source) or negative; the pointers are those of the element with index 0 everywhere.
///
/// # Safety
/// All elements that the shape and strides reach must be valid to read (source) and write
/// (destination), aligned to `size`; the destination must reach no element twice and overlap the
/// source nowhere.
pub unsafe fn copy(
    size: usize,
    shape: &[usize],
    src: *const u8,
    src_strides: &[isize],
    dst: *mut u8,
    dst_strides: &[isize],
) {
    if shape.contains(&0) {
        return;
    }
    let plan = Plan::new(shape, src_strides, dst_strides);
    // SAFETY: passed on to the caller.
    unsafe {
        match size {
            1 => copy_typed::<u8>(&plan, src, dst),
            2 => copy_typed::<u16>(&plan, src.cast(), dst.cast()),
            4 => copy_typed::<u32>(&plan, src.cast(), dst.cast()),
            8 => copy_typed::<u64>(&plan, src.cast(), dst.cast()),
            _ => unreachable!("an element has 1, 2, 4 or 8 bytes, not {size}"),
        }
    }
}

/// Writes `value` (the bytes of one element, 1, 2, 4 or 8 of them) to every element of a strided
/// array, in parallel.
///
/// # Safety
/// As for the destination of [`copy`].
pub unsafe fn fill(value: &[u8], shape: &[usize], dst: *mut u8, dst_strides: &[isize]) {
    // The value is a source whose strides are all zero; the buffer aligns it.
    let mut aligned = [0u64; 1];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut aligned);
    bytes[..value.len()].copy_from_slice(value);
    let zero: SmallVec<[isize; 6]> = SmallVec::from_elem(0, shape.len());
    // SAFETY: the source is `aligned` at every index; the rest is the caller's promise.
    unsafe {
        copy(
            value.len(),
            shape,
            aligned.as_ptr().cast(),
            &zero,
            dst,
            dst_strides,
        )
    }
}

unsafe fn copy_typed<T: Copy>(plan: &Plan, src: *const T, dst: *mut T) {
    let rank = plan.dims.len();
    let src = SharedPtr(src.wrapping_offset(plan.src_offset).cast_mut());
    let dst = SharedPtr(dst.wrapping_offset(plan.dst_offset));
    // Units are what the walk steps over: one innermost run (or tile row band), cut into pieces
    // when it is long.
    let (outer, unit_dims) = match plan.inner {
        Inner::Transpose => plan.dims.split_at(rank - 2),
        _ => plan.dims.split_at(rank - 1),
    };
    let cut = unit_dims[0];
    let below: usize = unit_dims[1..].iter().map(|d| d.size).product();
    let task = (TASK_BYTES / size_of::<T>()).max(1);
    let piece = (task / below).next_multiple_of(TILE).min(cut.size).max(1);
    let pieces = cut.size.div_ceil(piece);
    let runs: usize = outer.iter().map(|d| d.size).product();
    let units = runs * pieces;
    let per_task = (task / (piece * below)).max(1);
    let inner = plan.inner;
    let one_task = |t: usize| {
        let units = t * per_task..((t + 1) * per_task).min(units);
        let mut walk = Walk::new(outer, units.start / pieces);
        let mut p = units.start % pieces;
        for _ in units {
            let from = p * piece;
            let len = piece.min(cut.size - from);
            let s = src.at(walk.src + from as isize * cut.src);
            let d = dst.at(walk.dst + from as isize * cut.dst);
            // SAFETY: index (walk, from..from+len, ..) is inside the shape, so the caller vouches
            // for every address; different units write different elements.
            unsafe {
                match inner {
                    Inner::Run => run(s, d, len),
                    Inner::Repeat => std::slice::from_raw_parts_mut(d, len).fill(*s),
                    Inner::Strided => strided(s, cut.src, d, cut.dst, len),
                    Inner::Transpose => {
                        transpose(s, unit_dims[1].src, d, cut.dst, len, unit_dims[1].size)
                    }
                }
            }
            p += 1;
            if p == pieces {
                p = 0;
                walk.step();
            }
        }
    };
    match units.div_ceil(per_task) {
        1 => one_task(0),
        tasks => pool::run(tasks, one_task),
    }
}

/// # Safety
/// `len` elements at `s` can be read and at `d` written; they do not overlap.
#[inline(always)]
unsafe fn run<T: Copy>(s: *const T, d: *mut T, len: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        // A call to memcpy costs more than a short run.
        if len * size_of::<T>() <= 32 {
            for i in 0..len {
                *d.add(i) = *s.add(i);
            }
        } else {
            std::ptr::copy_nonoverlapping(s, d, len);
        }
    }
}

/// # Safety
/// `len` elements from `s` by `ss` can be read and from `d` by `ds` written.
#[inline(always)]
unsafe fn strided<T: Copy>(s: *const T, ss: isize, d: *mut T, ds: isize, len: usize) {
    for i in 0..len as isize {
        // SAFETY: the caller's promise.
        unsafe { *d.offset(i * ds) = *s.offset(i * ss) };
    }
}

/// The side of the square blocks of a transpose: 16 four-byte elements are a cache line.
const TILE: usize = 16;

/// `d[i * ds + j] = s[i + j * ss]` for `i < rows`, `j < cols`.
///
/// # Safety
/// These elements can be read and written.
#[allow(clippy::needless_range_loop)] // the two indices change places
unsafe fn transpose<T: Copy>(
    s: *const T,
    ss: isize,
    d: *mut T,
    ds: isize,
    rows: usize,
    cols: usize,
) {
    let mut i0 = 0;
    while i0 < rows {
        let ni = TILE.min(rows - i0);
        let mut j0 = 0;
        while j0 < cols {
            let nj = TILE.min(cols - j0);
            // SAFETY: every index below is under `rows` and `cols`.
            unsafe {
                let s = s.offset(i0 as isize + j0 as isize * ss);
                let d = d.offset(i0 as isize * ds + j0 as isize);
                if ni == TILE && nj == TILE {
                    // Through a block on the stack: whole lines in, whole lines out.
                    let mut block = [[std::mem::MaybeUninit::<T>::uninit(); TILE]; TILE];
                    for j in 0..TILE {
                        let line = &*s.offset(j as isize * ss).cast::<[T; TILE]>();
                        for i in 0..TILE {
                            block[i][j].write(line[i]);
                        }
                    }
                    for (i, line) in block.iter().enumerate() {
                        let to = d.offset(i as isize * ds).cast();
                        std::ptr::copy_nonoverlapping(line, to, 1);
                    }
                } else {
                    for i in 0..ni as isize {
                        for j in 0..nj as isize {
                            *d.offset(i * ds + j) = *s.offset(i + j * ss);
                        }
                    }
                }
            }
            j0 += nj;
        }
        i0 += ni;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every index of `shape` in row-major order.
    fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
        let n: usize = shape.iter().product();
        (0..n)
            .map(|mut l| {
                let mut ix = vec![0; shape.len()];
                for d in (0..shape.len()).rev() {
                    ix[d] = l % shape[d];
                    l /= shape[d];
                }
                ix
            })
            .collect()
    }

    fn dot(ix: &[usize], strides: &[isize]) -> isize {
        ix.iter().zip(strides).map(|(&i, &s)| i as isize * s).sum()
    }

    fn span(shape: &[usize], strides: &[isize]) -> (isize, usize) {
        let (mut lo, mut hi) = (0, 0);
        for (&n, &s) in shape.iter().zip(strides) {
            let reach = s * (n as isize - 1).max(0);
            lo += reach.min(0);
            hi += reach.max(0);
        }
        (-lo, (hi - lo + 1) as usize)
    }

    fn check<T: Copy + PartialEq + std::fmt::Debug>(
        shape: &[usize],
        ss: &[isize],
        ds: &[isize],
        make: impl Fn(usize) -> T,
    ) {
        let (so, sn) = span(shape, ss);
        let (d0, dn) = span(shape, ds);
        let src: Vec<T> = (0..sn).map(|i| make(i + 1)).collect();
        let mut dst = vec![make(0); dn];
        let mut want = dst.clone();
        for ix in indices(shape) {
            want[(d0 + dot(&ix, ds)) as usize] = src[(so + dot(&ix, ss)) as usize];
        }
        // SAFETY: `span` sized both buffers for these strides.
        unsafe {
            copy(
                size_of::<T>(),
                shape,
                src.as_ptr().offset(so).cast(),
                ss,
                dst.as_mut_ptr().offset(d0).cast(),
                ds,
            )
        };
        assert_eq!(dst, want, "shape {shape:?} src {ss:?} dst {ds:?}");
    }

    #[test]
    fn copies_agree_with_a_plain_walk() {
        let cases: &[(&[usize], &[isize], &[isize])] = &[
            (&[], &[], &[]),
            (&[0, 3], &[3, 1], &[3, 1]),
            (&[1, 1], &[7, 9], &[1, 1]),
            (&[5, 7], &[7, 1], &[7, 1]),
            (&[5, 7], &[1, 5], &[7, 1]),
            (&[37, 53], &[1, 37], &[53, 1]),
            (&[37, 53], &[1, 40], &[60, 1]),
            (&[53, 3], &[3, 1], &[1, 53]),
            (&[4, 6], &[0, 1], &[6, 1]),
            (&[4, 6], &[1, 0], &[6, 1]),
            (&[4, 6], &[0, 0], &[6, 1]),
            (&[4, 6], &[-6, -1], &[6, 1]),
            (&[4, 6], &[6, 1], &[-12, -2]),
            (&[4, 6], &[6, 1], &[12, 2]),
            (&[2, 3, 20, 30], &[1800, 1, 90, 3], &[1800, 600, 30, 1]),
            (&[2, 20, 30, 3], &[1800, 30, 1, 600], &[1800, 90, 3, 1]),
            (&[3, 200, 300], &[1, 3, 600], &[60000, 300, 1]),
            (&[3, 100_000], &[100_000, 1], &[100_001, 1]),
            (&[200_000, 2], &[1, 200_000], &[2, 1]),
            (&[2, 200_000], &[1, 2], &[200_000, 1]),
            (&[70_000, 3], &[3, 1], &[4, 1]),
        ];
        for (shape, ss, ds) in cases {
            check::<u8>(shape, ss, ds, |i| i as u8);
            check::<u16>(shape, ss, ds, |i| i as u16);
            check::<u32>(shape, ss, ds, |i| i as u32);
            check::<u64>(shape, ss, ds, |i| i as u64);
        }
    }

    #[test]
    fn fill_touches_only_its_elements() {
        let mut dst = [0f32; 24];
        // SAFETY: the last element reached is 1 + 3 * 6 + 4 = 23.
        unsafe {
            let at = dst.as_mut_ptr().add(1).cast();
            fill(&2.5f32.to_ne_bytes(), &[4, 3], at, &[6, 2]);
        }
        for (i, v) in dst.iter().enumerate() {
            let inside = i >= 1 && (i - 1) % 6 % 2 == 0;
            assert_eq!(*v, if inside { 2.5 } else { 0.0 }, "element {i}");
        }
    }
}
