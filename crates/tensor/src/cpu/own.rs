//! Memory that a task needs for itself: always the same of its thread, so that it is in that processor's
//! cache, and not in the one of the thread that had it before.

use super::storage::{ALIGN, Storage};
use std::cell::{Cell, OnceCell};

/// What a thread keeps for its tasks until it ends, not counting as idle memory: as much as a second-level cache
/// holds.
const KEPT: usize = 2 << 20;

/// A thread's memory. Pieces are cut off one behind the other.
struct Kept {
    block: OnceCell<Storage>,
    /// Where the last piece ends.
    used: Cell<usize>,
    /// How many there are.
    pieces: Cell<usize>,
}

thread_local! {
    static KEPT_BLOCK: Kept = const {
        Kept {
            block: OnceCell::new(),
            used: Cell::new(0),
            pieces: Cell::new(0),
        }
    };
}

/// Uninitialised room for some `T`, made and dropped by one thread. (Others may use it in between, if
/// that thread waits for them.)
pub struct Own<T> {
    ptr: *mut T,
    of: Of,
}

enum Of {
    /// A piece of the thread's memory: where it begins and ends.
    Kept { at: usize, end: usize },
    /// A block that holds what the thread's memory has no room for.
    Other { _block: Storage },
}

impl<T: Copy> Own<T> {
    pub fn new(len: usize) -> Self {
        const { assert!(align_of::<T>() <= ALIGN) };
        let bytes = (len * size_of::<T>()).next_multiple_of(ALIGN);
        let piece = KEPT_BLOCK.with(|kept| {
            let at = kept.used.get();
            (bytes > 0 && bytes <= KEPT - at).then(|| {
                let end = at + bytes;
                kept.used.set(end);
                kept.pieces.set(kept.pieces.get() + 1);
                let block = kept.block.get_or_init(|| Storage::alloc(KEPT));
                (block.as_ptr().wrapping_add(at), Of::Kept { at, end })
            })
        });
        let (ptr, of) = piece.unwrap_or_else(|| {
            let block = Storage::scratch(bytes);
            (block.as_ptr(), Of::Other { _block: block })
        });
        let ptr = ptr.cast();
        Own { ptr, of }
    }

    pub fn ptr(&self) -> *mut T {
        self.ptr
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        let Of::Kept { at, end } = self.of else {
            return;
        };
        KEPT_BLOCK.with(|kept| {
            kept.pieces.set(kept.pieces.get() - 1);
            // Pieces may end in any order; one below another waits until there is none.
            if kept.pieces.get() == 0 {
                kept.used.set(0);
            } else if end == kept.used.get() {
                kept.used.set(at);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used() -> usize {
        KEPT_BLOCK.with(|kept| kept.used.get())
    }

    #[test]
    fn pieces_are_apart_and_come_again() {
        let first = Own::<u32>::new(10);
        let start = first.ptr();
        let second = Own::<u8>::new(1);
        assert_eq!(second.ptr() as usize - start as usize, ALIGN);
        let third = Own::<f64>::new(100);
        assert_eq!(used(), 2 * ALIGN + 832);
        drop(third);
        assert_eq!(used(), 2 * ALIGN);
        // In another order.
        drop(first);
        assert_eq!(used(), 2 * ALIGN);
        assert_eq!(Own::<u8>::new(5).ptr() as usize - start as usize, 2 * ALIGN);
        drop(second);
        assert_eq!(used(), 0);
        assert_eq!(Own::<u32>::new(7).ptr(), start);
    }

    #[test]
    fn what_is_too_large_has_a_block_of_its_own() {
        let small = Own::<u8>::new(100);
        let large = Own::<u8>::new(KEPT);
        assert_eq!(used(), 2 * ALIGN);
        // SAFETY: both are ours, and as long as that.
        unsafe {
            small.ptr().write_bytes(1, 100);
            large.ptr().write_bytes(2, KEPT);
            assert_eq!(*small.ptr().add(99), 1);
        }
        drop(large);
        assert_eq!(used(), 2 * ALIGN);
        let nothing = Own::<u8>::new(0);
        drop(small);
        assert_eq!(used(), 0);
        drop(nothing);
    }

    #[test]
    fn a_panic_gives_pieces_back() {
        let broken = || {
            let _pieces = (Own::<u8>::new(10), Own::<u8>::new(3000));
            panic!("on purpose");
        };
        assert!(std::panic::catch_unwind(broken).is_err());
        assert_eq!(used(), 0);
    }

    #[test]
    fn every_thread_has_its_own() {
        let here = Own::<u8>::new(64);
        let at = here.ptr() as usize;
        std::thread::spawn(move || assert_ne!(Own::<u8>::new(64).ptr() as usize, at))
            .join()
            .unwrap();
    }
}
