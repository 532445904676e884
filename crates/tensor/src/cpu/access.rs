//! Reading a storage's elements out.

use super::copy;
use super::storage::Storage;
use crate::dtype::Element;
use crate::shape::Layout;

impl Storage {
    /// The elements that `layout` names, in row-major order.
    ///
    /// # Panics
    /// If the layout reaches beyond the storage.
    pub fn read<T: Element>(&self, layout: &Layout) -> Vec<T> {
        let n = layout.numel();
        if n == 0 {
            return Vec::new();
        }
        let (mut low, mut high) = (layout.offset as isize, layout.offset as isize);
        for (&size, &stride) in layout.shape.iter().zip(&layout.strides) {
            let reach = (size as isize - 1) * stride;
            if reach < 0 {
                low += reach
            } else {
                high += reach
            }
        }
        assert!(
            low >= 0 && (high as usize + 1) * size_of::<T>() <= self.len(),
            "a layout {layout:?} does not fit into {} bytes",
            self.len()
        );
        let mut out: Vec<T> = Vec::with_capacity(n);
        let strides = layout.shape.contiguous_strides();
        // SAFETY: every address lies within the storage as just checked; `out` has room for `n`
        // elements, and all of them are written.
        unsafe {
            let src = self.as_ptr().cast::<T>().add(layout.offset) as *const u8;
            let dst = out.as_mut_ptr().cast::<u8>();
            copy::copy(
                size_of::<T>(),
                &layout.shape,
                src,
                &layout.strides,
                dst,
                &strides,
            );
            out.set_len(n);
        }
        out
    }
}
