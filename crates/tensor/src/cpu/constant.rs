//! What kernels prepare out of operands that stay the same from one evaluation to the next, kept with
//! these: weights in the order in which a product reads them, for instance.
//!
//! The first evaluation that needs a form makes it and drops it, the second one keeps it, so that a
//! model that is used once costs no memory for it. A form goes when its operand goes or is written
//! to (a step of training writes to the parameters). All forms together take no more than
//! `FORNAX_CACHE_MB` (default 4096).

use super::storage::{Storage, cache_cap};
use smallvec::SmallVec;
use std::any::{Any, TypeId};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Forms of one block of memory that are remembered; beyond them the one that was not used for
/// longest is forgotten.
const MOST: usize = 4;

/// Bytes of all forms that are kept.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// The memory of an operand that nothing writes to.
#[derive(Clone, Copy, Debug)]
pub struct Constant(NonNull<Storage>);
// SAFETY: whoever makes one vouches for the storage, which may be used by any thread.
unsafe impl Send for Constant {}
// SAFETY: as above.
unsafe impl Sync for Constant {}

impl Constant {
    /// # Safety
    /// While the result is used, the storage must live, and nothing may write to it.
    pub unsafe fn new(storage: &Storage) -> Constant {
        Constant(NonNull::from(storage))
    }
}

/// What a form is of: who made it, the operand's first byte, and all numbers that it depends on.
type Key = (TypeId, usize, SmallVec<[usize; 20]>);

struct Form {
    key: Key,
    /// Unless it was asked for only once; with its bytes.
    made: Option<(Arc<dyn Any + Send + Sync>, usize)>,
}

impl Drop for Form {
    fn drop(&mut self) {
        if let Some((_, bytes)) = &self.made {
            KEPT.fetch_sub(*bytes, Ordering::Relaxed);
        }
    }
}

/// The forms of one block of memory.
#[derive(Default)]
pub struct Forms(Mutex<Vec<Form>>);

impl Forms {
    /// Drops all of them: their operand is about to change.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Form>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The form that `make` makes of the operand at `ptr`, of so many bytes; kept if the operand is
/// constant. `shape` must tell apart all forms of one type.
pub fn prepared<T: Send + Sync + 'static>(
    constant: Option<Constant>,
    ptr: *const u8,
    shape: &[usize],
    bytes: usize,
    make: impl FnOnce() -> T,
) -> Arc<T> {
    let Some(Constant(storage)) = constant else {
        return Arc::new(make());
    };
    // SAFETY: whoever made the constant vouches for it.
    let forms = &unsafe { storage.as_ref() }.forms;
    let key = (TypeId::of::<T>(), ptr.addr(), SmallVec::from_slice(shape));
    let seen = {
        let mut all = forms.lock();
        let found = all.iter().position(|form| form.key == key);
        if let Some(at) = found {
            // The oldest is the one that was not used for longest.
            all[at..].rotate_left(1);
        }
        if let Some((form, _)) = found.and_then(|_| all.last()?.made.as_ref()) {
            return Arc::clone(form).downcast().expect("the key tells the type");
        }
        let seen = found.is_some();
        if !seen {
            if all.len() == MOST {
                all.remove(0);
            }
            let key = key.clone();
            all.push(Form { key, made: None });
        }
        seen
    };
    let form = Arc::new(make());
    if seen {
        let before = KEPT.fetch_add(bytes, Ordering::Relaxed);
        let mut all = forms.lock();
        let place = all.iter_mut().find(|form| form.key == key);
        match place.filter(|place| place.made.is_none() && before + bytes <= cache_cap()) {
            Some(place) => place.made = Some((form.clone(), bytes)),
            None => {
                KEPT.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
    }
    form
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn forms_are_kept_from_the_second_use_until_the_operand_changes() {
        let storage = Storage::zeroed(64);
        // SAFETY: the storage outlives the constant; nothing writes to it.
        let constant = Some(unsafe { Constant::new(&storage) });
        let made = Cell::new(0);
        let ask = |constant, shape: &[usize]| {
            let make = || made.set(made.get() + 1);
            prepared(constant, storage.as_ptr(), shape, 64, || {
                make();
                shape[0]
            })
        };
        for (uses, times) in [(1, 1), (2, 2), (3, 2), (4, 2)] {
            assert_eq!(*ask(constant, &[1]), 1);
            assert_eq!(made.get(), times, "{uses} uses");
        }
        // Another form, and an operand that is none.
        assert_eq!((*ask(constant, &[2]), made.get()), (2, 3));
        assert_eq!((*ask(constant, &[2]), made.get()), (2, 4));
        assert_eq!((*ask(None, &[1]), made.get()), (1, 5));
        assert_eq!((*ask(constant, &[1]), made.get()), (1, 5));
        storage.forms.clear();
        assert_eq!((*ask(constant, &[1]), made.get()), (1, 6));
    }

    #[test]
    fn few_forms_are_remembered() {
        let storage = Storage::zeroed(64);
        // SAFETY: as above.
        let constant = Some(unsafe { Constant::new(&storage) });
        for i in (0..100).chain(0..100) {
            prepared(constant, storage.as_ptr(), &[i], 64, || ());
        }
        assert_eq!(storage.forms.lock().len(), MOST);
    }
}
