//! Shapes, strided layouts, and the arithmetic of both.

use smallvec::SmallVec;
use std::fmt;
use std::ops::Deref;

/// The wildcard size in [`Tensor::reshape`](crate::Tensor::reshape): "whatever is left".
pub const INFER: usize = usize::MAX;

/// The sizes of a tensor's dimensions, outermost first.
///
/// ```
/// use fornax_tensor::Shape;
/// let s = Shape::from([2, 3]);
/// assert_eq!((s.numel(), s.len()), (6, 2));
/// ```
#[derive(PartialEq, Eq, Hash, Default)]
pub struct Shape(SmallVec<[usize; 6]>);

/// By hand: `SmallVec`'s own goes element by element.
impl Clone for Shape {
    #[inline]
    fn clone(&self) -> Self {
        Shape(SmallVec::from_slice(&self.0))
    }
}

impl Shape {
    /// The number of elements (1 for a scalar, 0 if any size is 0).
    ///
    /// # Panics
    /// If there are more than can be counted.
    #[track_caller]
    pub fn numel(&self) -> usize {
        let product = self.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        match product.filter(|&n| n <= isize::MAX as usize) {
            Some(n) => n,
            None if self.contains(&0) => 0,
            None => panic!("a tensor of shape {self} has too many elements"),
        }
    }

    /// Row-major strides, in elements.
    pub fn contiguous_strides(&self) -> Strides {
        let mut strides: Strides = SmallVec::from_elem(1, self.len());
        let mut step = 1isize;
        for (stride, &size) in strides.iter_mut().zip(self.iter()).rev() {
            *stride = step;
            step = step.wrapping_mul(size.max(1) as isize);
        }
        strides
    }

    /// The sizes, to change in place.
    pub fn dims_mut(&mut self) -> &mut SmallVec<[usize; 6]> {
        &mut self.0
    }

    /// NumPy's broadcast of two shapes, or `None` if they do not fit.
    pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Shape> {
        let rank = a.len().max(b.len());
        let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
        let mut out = Shape::default();
        for i in 0..rank {
            out.0.push(match (at(a, i), at(b, i)) {
                (x, y) if x == y => x,
                (1, y) => y,
                (x, 1) => x,
                _ => return None,
            });
        }
        Some(out)
    }
}

/// Strides in elements; 0 repeats, negative walks backwards.
pub type Strides = SmallVec<[isize; 6]>;

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}
impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
impl<const N: usize> From<[usize; N]> for Shape {
    fn from(s: [usize; N]) -> Self {
        Shape(SmallVec::from_slice(&s))
    }
}
impl From<&[usize]> for Shape {
    fn from(s: &[usize]) -> Self {
        Shape(SmallVec::from_slice(s))
    }
}
impl From<Vec<usize>> for Shape {
    fn from(s: Vec<usize>) -> Self {
        Shape(SmallVec::from_vec(s))
    }
}
impl From<&Vec<usize>> for Shape {
    fn from(s: &Vec<usize>) -> Self {
        Shape(SmallVec::from_slice(s))
    }
}
impl From<&Shape> for Shape {
    fn from(s: &Shape) -> Self {
        s.clone()
    }
}
impl From<usize> for Shape {
    fn from(n: usize) -> Self {
        Shape::from([n])
    }
}
impl From<()> for Shape {
    fn from(_: ()) -> Self {
        Shape::default()
    }
}
impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(iter: I) -> Self {
        Shape(iter.into_iter().collect())
    }
}

/// Where the elements of a tensor lie in a storage: sizes, strides and first element, all counted
/// in elements.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct Layout {
    /// Sizes.
    pub shape: Shape,
    /// Step from one index to the next, per dimension.
    pub strides: Strides,
    /// The element with index 0 everywhere.
    pub offset: usize,
}

impl Clone for Layout {
    #[inline]
    fn clone(&self) -> Self {
        Layout {
            shape: self.shape.clone(),
            strides: SmallVec::from_slice(&self.strides),
            offset: self.offset,
        }
    }
}

impl Layout {
    /// The row-major layout of `shape` at offset 0.
    pub fn contiguous(shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        Layout {
            strides: shape.contiguous_strides(),
            shape,
            offset: 0,
        }
    }

    /// Whether walking the elements in row-major order walks memory one by one.
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1isize;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size == 0 {
                return true;
            }
            if size != 1 && stride != step {
                return false;
            }
            step *= size as isize;
        }
        true
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// How many elements the first one lies above the lowest one: strides may be negative.
    pub fn below(&self) -> usize {
        if self.shape.contains(&0) {
            return 0;
        }
        let reach = |(&size, &stride): (&usize, &isize)| (size - 1) * (-stride).max(0) as usize;
        self.shape.iter().zip(&self.strides).map(reach).sum()
    }

    /// The dimensions reordered.
    pub fn permute(&self, axes: &[usize]) -> Layout {
        Layout {
            shape: axes.iter().map(|&a| self.shape[a]).collect(),
            strides: axes.iter().map(|&a| self.strides[a]).collect(),
            offset: self.offset,
        }
    }

    /// Sizes of 1 (and missing leading dimensions) stretched to `shape` with stride 0.
    pub fn broadcast_to(&self, shape: &Shape) -> Layout {
        let lead = shape.len() - self.shape.len();
        let strides = (0..shape.len())
            .map(|i| match i.checked_sub(lead) {
                Some(j) if self.shape[j] == shape[i] => self.strides[j],
                _ => 0,
            })
            .collect();
        Layout {
            shape: shape.clone(),
            strides,
            offset: self.offset,
        }
    }

    /// One dimension restricted to `len` elements from `start` (an index) with `step`.
    pub fn slice(&self, axis: usize, start: usize, len: usize, step: isize) -> Layout {
        let mut out = self.clone();
        if len > 0 {
            out.offset = (out.offset as isize + start as isize * self.strides[axis]) as usize;
        }
        out.shape.dims_mut()[axis] = len;
        out.strides[axis] = self.strides[axis] * step;
        out
    }

    /// The same elements in the same row-major order under another shape, if that can be said
    /// with strides alone; otherwise `None` and the caller copies.
    pub fn reshape(&self, shape: &Shape) -> Option<Layout> {
        if self.is_contiguous() {
            let mut out = Layout::contiguous(shape.clone());
            out.offset = self.offset;
            return Some(out);
        }
        // Match groups of old dimensions with groups of new ones of the same product.
        let old: SmallVec<[(usize, isize); 6]> = (self.shape.iter().copied())
            .zip(self.strides.iter().copied())
            .filter(|&(size, _)| size != 1)
            .collect();
        let mut strides: Strides = SmallVec::from_elem(0, shape.len());
        let (mut o, mut n) = (0, 0);
        while n < shape.len() {
            if shape[n] == 1 {
                n += 1;
                continue;
            }
            let (o0, n0) = (o, n);
            let (mut op, mut np) = (old.get(o)?.0, shape[n]);
            o += 1;
            n += 1;
            while op != np {
                if op < np {
                    op *= old.get(o)?.0;
                    o += 1;
                } else {
                    np *= *shape.get(n)?;
                    n += 1;
                }
            }
            // The old group must itself be one run.
            for i in o0..o - 1 {
                if old[i].1 != old[i + 1].1 * old[i + 1].0 as isize {
                    return None;
                }
            }
            let mut step = old[o - 1].1;
            for i in (n0..n).rev() {
                strides[i] = step;
                step *= shape[i] as isize;
            }
        }
        Some(Layout {
            shape: shape.clone(),
            strides,
            offset: self.offset,
        })
    }

    /// Layouts in one storage one behind the other along an axis, if strides can say so.
    pub fn joined(parts: &[&Layout], axis: usize) -> Option<Layout> {
        let [first, second, ..] = parts else {
            return None;
        };
        let along = match parts.iter().find(|l| l.shape[axis] > 1) {
            Some(long) => long.strides[axis],
            None => second.offset as isize - first.offset as isize,
        };
        let mut joined = (*first).clone();
        joined.strides[axis] = along;
        joined.shape.dims_mut()[axis] = 0;
        for part in parts {
            let behind = first.offset as isize + joined.shape[axis] as isize * along;
            let alike = (0..joined.shape.len())
                .all(|d| part.shape[d] == 1 || part.strides[d] == joined.strides[d]);
            if part.numel() == 0 || part.offset as isize != behind || !alike {
                return None;
            }
            joined.shape.dims_mut()[axis] += part.shape[axis];
        }
        Some(joined)
    }

    /// Drops dimensions of size 1 and merges neighbours that are one run in every one of
    /// `layouts` (all of the same shape). Returns the merged sizes and each layout's strides.
    pub fn coalesce(layouts: &[&Layout]) -> (SmallVec<[usize; 6]>, Vec<Strides>) {
        let shape = &layouts[0].shape;
        let mut sizes: SmallVec<[usize; 6]> = SmallVec::new();
        let mut strides: Vec<Strides> = vec![SmallVec::new(); layouts.len()];
        for d in 0..shape.len() {
            if shape[d] == 1 {
                continue;
            }
            let joins = !sizes.is_empty()
                && layouts
                    .iter()
                    .zip(&strides)
                    .all(|(l, s)| s[s.len() - 1] == l.strides[d] * shape[d] as isize);
            if joins {
                *sizes.last_mut().unwrap() *= shape[d];
            } else {
                sizes.push(shape[d]);
            }
            for (l, s) in layouts.iter().zip(&mut strides) {
                if joins {
                    *s.last_mut().unwrap() = l.strides[d];
                } else {
                    s.push(l.strides[d]);
                }
            }
        }
        (sizes, strides)
    }
}

/// The axes that a reduction works on; negative ones count from the end.
///
/// Implemented for one `isize`, arrays and slices of them, and `..` for all axes.
pub trait Axes {
    /// The axes as sorted, distinct indices below `rank`.
    #[track_caller]
    fn resolve(&self, op: &str, rank: usize) -> SmallVec<[usize; 6]>;
}

/// One axis, possibly negative, as an index below `rank`.
#[track_caller]
pub fn axis_index(op: &str, axis: isize, rank: usize) -> usize {
    let i = if axis < 0 { axis + rank as isize } else { axis };
    if i < 0 || i >= rank as isize {
        panic!("{op}: axis {axis} is out of range for a tensor of {rank} dimensions");
    }
    i as usize
}

impl Axes for [isize] {
    #[track_caller]
    fn resolve(&self, op: &str, rank: usize) -> SmallVec<[usize; 6]> {
        let mut out = SmallVec::new();
        for &a in self {
            let a = axis_index(op, a, rank);
            if out.contains(&a) {
                panic!("{op}: axis {a} is given twice in {self:?}");
            }
            out.push(a);
        }
        out.sort_unstable();
        out
    }
}
macro_rules! axes_via_slice {
    ($($(#[$g:ident $n:ident])? $t:ty => |$s:ident| $e:expr;)*) => {$(
        impl $(<const $n: usize>)? Axes for $t {
            #[track_caller]
            fn resolve(&self, op: &str, rank: usize) -> SmallVec<[usize; 6]> {
                let $s = self;
                let axes: &[isize] = $e;
                axes.resolve(op, rank)
            }
        }
    )*};
}
axes_via_slice! {
    isize => |s| std::slice::from_ref(s);
    #[const N] [isize; N] => |s| s;
    &[isize] => |s| s;
    Vec<isize> => |s| s;
}
impl Axes for std::ops::RangeFull {
    fn resolve(&self, _: &str, rank: usize) -> SmallVec<[usize; 6]> {
        (0..rank).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_that_follow_each_other_are_one() {
        let whole = Layout::contiguous([4, 6, 5]).permute(&[1, 0, 2]);
        for axis in 0..3 {
            let n = whole.shape[axis];
            let cut = |cuts: &[usize]| -> Vec<Layout> {
                let part = |w: &[usize]| whole.slice(axis, w[0], w[1] - w[0], 1);
                cuts.windows(2).map(part).collect()
            };
            let joined = |parts: &[Layout]| {
                let parts: Vec<&Layout> = parts.iter().collect();
                Layout::joined(&parts, axis)
            };
            assert_eq!(joined(&cut(&[0, 1, 3, n])).as_ref(), Some(&whole));
            let single = cut(&(0..=n).collect::<Vec<_>>());
            assert_eq!(joined(&single).as_ref(), Some(&whole));
            let tail = joined(&cut(&[1, 2, n])).unwrap();
            assert_eq!(tail, whole.slice(axis, 1, n - 1, 1));
            // Not in order, not whole, or not alike.
            let mut parts = cut(&[0, 2, 3]);
            parts.reverse();
            assert_eq!(joined(&parts), None);
            assert_eq!(joined(&[parts[1].clone(), parts[1].clone()]), None);
            assert_eq!(joined(&cut(&[0, 0, 2])), None);
            let mut parts = cut(&[0, 2, 3]);
            parts[1].strides[(axis + 1) % 3] += 1;
            assert_eq!(joined(&parts), None);
            assert_eq!(joined(&parts[..1]), None);
        }
    }

    #[test]
    fn reshape_of_a_transposed_layout_needs_a_copy_unless_groups_match() {
        let t = Layout::contiguous([4, 6]).permute(&[1, 0]);
        assert!(t.reshape(&Shape::from([24])).is_none());
        let split = t.reshape(&Shape::from([2, 3, 4])).unwrap();
        assert_eq!(split.strides.as_slice(), &[3, 1, 6]);
    }

    #[test]
    fn reshape_keeps_broadcast_dimensions_apart() {
        let b = Layout::contiguous([1, 3]).broadcast_to(&Shape::from([5, 3]));
        assert!(b.reshape(&Shape::from([15])).is_none());
        assert_eq!(b.reshape(&Shape::from([5, 1, 3])).unwrap().strides[0], 0);
    }

    #[test]
    fn coalesce_merges_runs() {
        let a = Layout::contiguous([2, 3, 4]);
        assert_eq!(Layout::coalesce(&[&a]).0.as_slice(), &[24]);
        let b = Layout::contiguous([4]).broadcast_to(&Shape::from([2, 3, 4]));
        let (sizes, strides) = Layout::coalesce(&[&a, &b]);
        assert_eq!(sizes.as_slice(), &[6, 4]);
        assert_eq!(strides[1].as_slice(), &[0, 1]);
    }
}
