//! Copies strided inputs into registers, block by block.

use super::kernels::{decode_bf16, decode_f16};
use crate::{DType, Layout};
use smallvec::SmallVec;

/// How to walk one strided input in linear order.
pub(super) struct Walk {
    /// Sizes and strides (in elements), innermost first, with runs merged.
    dims: SmallVec<[(usize, isize); 6]>,
    /// The first element, counted from the input's pointer.
    offset: usize,
    dtype: DType,
}

/// An element as it lies in memory and as a register holds it.
trait Item: Copy {
    type Register: Copy;
    fn get(self) -> Self::Register;
    /// # Safety
    /// As for `copy_nonoverlapping`.
    unsafe fn run(src: *const Self, dst: *mut Self::Register, n: usize);
}
macro_rules! same_item {
    ($($t:ty)*) => {$(
        impl Item for $t {
            type Register = $t;
            #[inline(always)]
            fn get(self) -> $t {
                self
            }
            #[inline(always)]
            unsafe fn run(src: *const $t, dst: *mut $t, n: usize) {
                // SAFETY: the caller's promise.
                unsafe { std::ptr::copy_nonoverlapping(src, dst, n) }
            }
        }
    )*};
}
same_item!(u8 u32 u64);
macro_rules! half_item {
    ($Item:ident $decode:ident) => {
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        struct $Item(u16);
        impl Item for $Item {
            type Register = f32;
            #[inline(always)]
            fn get(self) -> f32 {
                $decode(self.0)
            }
            #[inline(always)]
            unsafe fn run(src: *const Self, dst: *mut f32, n: usize) {
                for i in 0..n {
                    // SAFETY: the caller's promise.
                    unsafe { *dst.add(i) = $decode((*src.add(i)).0) }
                }
            }
        }
    };
}
half_item!(Bf16 decode_bf16);
half_item!(F16 decode_f16);

impl Walk {
    pub(super) fn new(layout: &Layout, dtype: DType) -> Walk {
        let mut dims: SmallVec<[(usize, isize); 6]> = SmallVec::new();
        for (&size, &stride) in layout.shape.iter().zip(&layout.strides).rev() {
            match dims.last_mut() {
                _ if size == 1 => {}
                Some((inner, step)) if stride == *step * *inner as isize => *inner *= size,
                _ => dims.push((size, stride)),
            }
        }
        if dims.is_empty() {
            dims.push((1, 0));
        }
        Walk {
            dims,
            offset: layout.offset,
            dtype,
        }
    }

    /// Elements `start..start + n` in linear order, as registers hold them, into `dst`.
    ///
    /// # Safety
    /// `base` must point to memory that holds the layout; `dst` must be writable for `n` elements
    /// and aligned.
    pub(super) unsafe fn load(&self, base: *const u8, start: usize, n: usize, dst: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.dtype, self.dtype.size()) {
                (DType::BF16, _) => self.load_as::<Bf16>(base, start, n, dst),
                (DType::F16, _) => self.load_as::<F16>(base, start, n, dst),
                (_, 1) => self.load_as::<u8>(base, start, n, dst),
                (_, 4) => self.load_as::<u32>(base, start, n, dst),
                _ => self.load_as::<u64>(base, start, n, dst),
            }
        }
    }

    unsafe fn load_as<T: Item>(&self, base: *const u8, start: usize, n: usize, dst: *mut u8) {
        let (base, dst) = (
            base.cast::<T>().wrapping_add(self.offset),
            dst.cast::<T::Register>(),
        );
        let (size, stride) = self.dims[0];
        // Where `start` is.
        let mut index: SmallVec<[usize; 6]> = SmallVec::new();
        let (mut rest, mut at) = (start, 0isize);
        for &(size, stride) in &self.dims {
            index.push(rest % size);
            at += (rest % size) as isize * stride;
            rest /= size;
        }
        // Rows that repeat for ever are read once and then copied from the block itself.
        let repeats = self.dims.len() == 2 && self.dims[1].1 == 0;
        let wanted = if repeats { n.min(size) } else { n };
        let mut done = 0;
        // SAFETY: `at` stays inside the layout, `done` below n. Items are aligned in their
        // storage, registers by the caller's promise.
        unsafe {
            loop {
                let run = (size - index[0]).min(wanted - done);
                let (src, out) = (base.wrapping_offset(at), dst.add(done));
                match stride {
                    1 => T::run(src, out, run),
                    0 => {
                        let x = (*src).get();
                        for i in 0..run {
                            *out.add(i) = x;
                        }
                    }
                    _ => {
                        for i in 0..run {
                            *out.add(i) = (*src.wrapping_offset(i as isize * stride)).get();
                        }
                    }
                }
                done += run;
                if done >= wanted {
                    break;
                }
                // The run ended a row: on to the next.
                at -= index[0] as isize * stride;
                index[0] = 0;
                for d in 1..self.dims.len() {
                    let (size, stride) = self.dims[d];
                    index[d] += 1;
                    at += stride;
                    if index[d] < size {
                        break;
                    }
                    at -= size as isize * stride;
                    index[d] = 0;
                }
            }
            while done < n {
                let more = done.min(n - done);
                // `done` is a multiple of the row length, or the last step.
                std::ptr::copy_nonoverlapping(dst, dst.add(done), more);
                done += more;
            }
        }
    }
}
