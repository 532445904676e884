//! Memory for tensors and scratch, kept and reused.
//!
//! A page that was never touched costs a microsecond or more, so freed blocks go to a cache rather
//! than to the system. Sizes are rounded up to a few classes per power of two. What lives for one
//! evaluation also takes blocks of up to twice its size, so that batches of varying length reuse the
//! same blocks; what may live on (parameters, an optimizer's state) takes those of its class alone.
//! Two bounds keep the cache from hoarding: the cap `FORNAX_CACHE_MB` (default 4096), and, whenever
//! fresh memory is needed, twice the most that was ever in use at once; beyond them the blocks that
//! have been idle the longest are returned.

use super::constant::Forms;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Every block is aligned to a cache line, which is also the widest vector.
pub const ALIGN: usize = 64;
/// Blocks from this size on are aligned to and rounded up to huge pages.
const HUGE: usize = 2 << 20;
/// What the cache may hold without regard to what was ever in use.
const FREE_RIDE: usize = 64 << 20;
const CLASSES: usize = 64 * 8;

/// A block of raw memory, aligned to 64 bytes; it returns to the cache when dropped.
///
/// It may be read and written by any thread through [`as_ptr`](Storage::as_ptr); whoever does so
/// keeps reads and writes apart.
pub struct Storage {
    ptr: NonNull<u8>,
    len: usize,
    /// Of the block.
    size: usize,
    /// What kernels have prepared out of the content.
    pub(super) forms: Forms,
}

// SAFETY: a block is plain memory without ties to a thread; access goes through raw pointers, whose
// users are responsible for ordering.
unsafe impl Send for Storage {}
// SAFETY: as above; the methods of `&Storage` only read its fields.
unsafe impl Sync for Storage {}

/// How much memory the allocator holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Bytes in live blocks, rounding included.
    pub in_use: usize,
    /// Bytes in idle blocks, ready for reuse.
    pub cached: usize,
    /// The most bytes that were ever in use at once.
    pub peak: usize,
}

impl Storage {
    /// A block of `bytes` bytes with unspecified content.
    pub fn alloc(bytes: usize) -> Storage {
        Storage::new(bytes, 1)
    }

    /// As [`alloc`](Storage::alloc), for content that is dropped when an evaluation ends.
    pub fn scratch(bytes: usize) -> Storage {
        Storage::new(bytes, 2)
    }

    /// A block of `bytes` bytes and at most `slack` times as many, rounding aside.
    fn new(bytes: usize, slack: usize) -> Storage {
        if bytes == 0 {
            return Storage {
                ptr: NonNull::without_provenance(std::num::NonZero::new(ALIGN).unwrap()),
                len: 0,
                size: 0,
                forms: Forms::default(),
            };
        }
        let size = round_up(bytes);
        let idle = cache().take(size, slack);
        let (ptr, size) = idle.unwrap_or_else(|| (fresh(size), size));
        Storage {
            ptr,
            len: bytes,
            size,
            forms: Forms::default(),
        }
    }

    /// A block of `bytes` zero bytes.
    pub fn zeroed(bytes: usize) -> Storage {
        let block = Storage::alloc(bytes);
        // SAFETY: the block is ours alone and `bytes` long.
        unsafe { block.as_ptr().write_bytes(0, bytes) };
        block
    }

    /// A block holding a copy of `data`.
    pub fn from_slice<T: Copy>(data: &[T]) -> Storage {
        let block = Storage::alloc(size_of_val(data));
        // SAFETY: the block is ours alone, as long as `data`, and aligned for any primitive.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr().cast::<u8>(), block.as_ptr(), block.len);
        }
        block
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// To be called before what has been read as a constant is written to.
    pub(crate) fn forget_forms(&self) {
        self.forms.clear();
    }

    /// The size that was asked for, in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the block has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if self.len > 0 {
            let excess = cache().give(self.ptr, self.size);
            excess.into_iter().for_each(release);
        }
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Storage({} bytes at {:p})", self.len, self.ptr)
    }
}

/// What is in use and in the cache now.
pub fn stats() -> Stats {
    let cache = cache();
    Stats {
        in_use: cache.in_use,
        cached: cache.cached,
        peak: cache.peak,
    }
}

/// Returns all idle blocks to the system.
pub fn clear_cache() {
    let idle = cache().shrink_to(0);
    idle.into_iter().for_each(release);
}

/// An idle block: where, how large, and when it became idle.
struct Idle {
    ptr: NonNull<u8>,
    size: usize,
    since: u64,
}
// SAFETY: an idle block belongs to the cache alone.
unsafe impl Send for Idle {}

struct Cache {
    /// Idle blocks by class, each oldest first.
    classes: Vec<VecDeque<Idle>>,
    clock: u64,
    in_use: usize,
    cached: usize,
    peak: usize,
    cap: usize,
}

/// The most bytes that are held for speed's sake alone: `FORNAX_CACHE_MB`, 4096 by default.
pub fn cache_cap() -> usize {
    static CAP: OnceLock<usize> = OnceLock::new();
    *CAP.get_or_init(|| {
        let mb = std::env::var("FORNAX_CACHE_MB").ok();
        let mb = mb.and_then(|v| v.parse::<usize>().ok()).unwrap_or(4096);
        mb.saturating_mul(1 << 20)
    })
}

fn cache() -> MutexGuard<'static, Cache> {
    static CACHE: OnceLock<Mutex<Cache>> = OnceLock::new();
    let cache = CACHE.get_or_init(|| Mutex::new(Cache::new(cache_cap())));
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    fn new(cap: usize) -> Cache {
        Cache {
            classes: (0..CLASSES).map(|_| VecDeque::new()).collect(),
            clock: 0,
            in_use: 0,
            cached: 0,
            peak: 0,
            cap,
        }
    }

    /// Finds an idle block of at least `size` bytes and at most `slack` times as many, and its own
    /// size, and counts it as in use; without one, `size` bytes to come. Of the smallest blocks that
    /// do, the one that became idle last: it may still be in the processor's cache.
    fn take(&mut self, size: usize, slack: usize) -> Option<(NonNull<u8>, usize)> {
        let [least, most] = [size, size.saturating_mul(slack)].map(class_of);
        let idle = self.classes[least..=most]
            .iter_mut()
            .find_map(VecDeque::pop_back);
        let taken = idle.as_ref().map_or(size, |idle| idle.size);
        self.in_use += taken;
        self.peak = self.peak.max(self.in_use);
        let idle = idle?;
        self.cached -= taken;
        Some((idle.ptr, taken))
    }

    /// Takes a block back; returns the blocks to be released because the cap is exceeded.
    fn give(&mut self, ptr: NonNull<u8>, size: usize) -> Vec<Idle> {
        self.in_use -= size;
        self.cached += size;
        self.clock += 1;
        let since = self.clock;
        self.classes[class_of(size)].push_back(Idle { ptr, size, since });
        if self.cached > self.cap {
            self.shrink_to(self.cap)
        } else {
            Vec::new()
        }
    }

    /// Removes the blocks that have been idle longest until no more than `limit` bytes are cached.
    fn shrink_to(&mut self, limit: usize) -> Vec<Idle> {
        let mut out = Vec::new();
        while self.cached > limit {
            let oldest = self
                .classes
                .iter_mut()
                .filter(|c| !c.is_empty())
                .min_by_key(|c| c[0].since)
                .and_then(VecDeque::pop_front);
            let Some(idle) = oldest else { break };
            self.cached -= idle.size;
            out.push(idle);
        }
        out
    }
}

/// A block from the system, after idle ones of other sizes have made room for it.
fn fresh(size: usize) -> NonNull<u8> {
    let excess = {
        let mut cache = cache();
        // `in_use` already includes this block.
        let bound = (2 * cache.peak).max(FREE_RIDE) - cache.in_use;
        cache.shrink_to(bound)
    };
    excess.into_iter().for_each(release);
    let layout = layout(size);
    for attempt in 0..2 {
        // SAFETY: the size is not zero.
        if let Some(ptr) = NonNull::new(unsafe { alloc(layout) }) {
            advise_huge(ptr, size);
            return ptr;
        }
        if attempt == 0 {
            clear_cache();
        }
    }
    handle_alloc_error(layout)
}

fn release(idle: Idle) {
    // SAFETY: the block came from `fresh` with the same size, and nobody else knows it any more.
    unsafe { dealloc(idle.ptr.as_ptr(), layout(idle.size)) };
}

fn layout(size: usize) -> Layout {
    let align = if size >= HUGE { HUGE } else { ALIGN };
    match Layout::from_size_align(size, align) {
        Ok(layout) => layout,
        Err(_) => panic!("a tensor of {size} bytes is larger than the address space"),
    }
}

/// Asks for huge pages under a large block; a refusal costs speed only.
fn advise_huge(ptr: NonNull<u8>, size: usize) {
    #[cfg(target_os = "linux")]
    if size >= HUGE {
        // SAFETY: the range is one live allocation; the advice does not change its content.
        unsafe { libc::madvise(ptr.as_ptr().cast(), size, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (ptr, size);
}

/// The size of the block that serves `bytes` bytes: four classes per power of two (eight for large
/// blocks), in whole cache lines (huge pages for large blocks).
fn round_up(bytes: usize) -> usize {
    let (steps, unit) = if bytes > HUGE / 2 {
        (8, HUGE)
    } else {
        (4, ALIGN)
    };
    let power = 1usize << bytes.max(1).ilog2();
    let step = (power / steps).max(unit);
    match bytes.checked_next_multiple_of(step) {
        Some(size) => size,
        None => panic!("a tensor of {bytes} bytes is larger than the address space"),
    }
}

/// The number of a rounded size's class: its power of two and the three bits below it.
fn class_of(size: usize) -> usize {
    let log = size.ilog2();
    (log as usize) * 8 + ((size >> (log - 3)) & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_distinct_and_rounding_is_bounded() {
        let mut last = (0, 0);
        for bytes in (1..300_000).chain((1..4000).map(|i| i * 70_001)) {
            let size = round_up(bytes);
            assert_eq!(round_up(size), size);
            assert!(size >= bytes && (size <= bytes * 5 / 4 + 64 || size - bytes < HUGE));
            if size > last.0 {
                assert!(class_of(size) > last.1);
                last = (size, class_of(size));
            }
        }
    }

    #[test]
    fn blocks_are_aligned_and_reused() {
        let a = Storage::alloc(5000);
        assert_eq!(a.as_ptr() as usize % ALIGN, 0);
        assert_eq!(a.len(), 5000);
        let big = Storage::alloc(3 << 20);
        assert_eq!(big.as_ptr() as usize % HUGE, 0);
        let z = Storage::zeroed(100);
        // SAFETY: ours, 100 bytes long.
        let bytes = unsafe { std::slice::from_raw_parts(z.as_ptr(), 100) };
        assert!(bytes.iter().all(|&b| b == 0));
        assert!(Storage::alloc(0).is_empty());
    }

    #[test]
    fn scratch_takes_blocks_of_up_to_twice_its_size() {
        let mut cache = Cache::new(usize::MAX);
        let ptr = NonNull::<u8>::dangling();
        for size in [1000, 1600, 6000].map(round_up) {
            assert!(cache.take(size, 2).is_none());
        }
        for size in [1000, 1600, 6000].map(round_up) {
            cache.give(ptr, size);
        }
        // What may live on takes a block of its class.
        assert!(cache.take(round_up(700), 1).is_none());
        cache.in_use -= round_up(700);
        // The smallest that is large enough, and none that is more than twice as large.
        for (asked, given) in [(700, 1000), (1000, 1600), (1000, 0), (3500, 6000)] {
            let taken = cache.take(round_up(asked), 2).map_or(0, |(_, size)| size);
            assert_eq!(taken, if given > 0 { round_up(given) } else { 0 });
        }
        let missing = round_up(1000);
        let all = [1000, 1600, 6000].map(round_up).iter().sum::<usize>();
        assert_eq!((cache.in_use, cache.cached), (all + missing, 0));
    }

    #[test]
    fn memory_stays_flat_over_changing_sizes() {
        let mut live: VecDeque<Storage> = VecDeque::new();
        let mut held_after_warmup = 0;
        for i in 0..10_000usize {
            let bytes = (i * 2_654_435_761) % 3_000_000;
            live.push_back(Storage::alloc(bytes));
            if live.len() > 20 {
                live.pop_front();
            }
            let s = stats();
            if i == 2000 {
                held_after_warmup = s.in_use + s.cached;
            }
            assert!(s.in_use + s.cached <= (2 * s.peak).max(FREE_RIDE) + (8 << 20));
        }
        let s = stats();
        // Other tests allocate at the same time; this one holds some 40 MiB.
        assert!(s.in_use + s.cached < held_after_warmup + (200 << 20));
    }

    #[test]
    fn threads_share_the_cache() {
        std::thread::scope(|scope| {
            for t in 0..4usize {
                scope.spawn(move || {
                    for i in 0..2000usize {
                        let s = Storage::alloc(64 + (i * 37 + t) % 9000);
                        // SAFETY: the block is ours alone.
                        unsafe { s.as_ptr().write_bytes(t as u8, s.len()) };
                        // SAFETY: as above.
                        assert_eq!(unsafe { *s.as_ptr().add(s.len() - 1) }, t as u8);
                    }
                });
            }
        });
    }
}
