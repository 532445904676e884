//! One thread pool for the process.
//!
//! [`run`] calls a function for every task number; the calling thread takes part and returns when
//! all tasks are done. A thread begins with its own share of the tasks, the first with the first, and
//! then goes on with what others have left. So which thread runs which task is left to chance, and whoever
//! splits work must do so by the shape of the data alone: then no bit of a result depends on the
//! number of threads.
//!
//! Subnormal floats are flushed to zero (as inputs and as results) on every thread while it runs
//! tasks, because they slow arithmetic down a hundredfold; see [`flush_denormals`].

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps.
const SPIN: Duration = Duration::from_micros(40);
/// The same while more work is about to come ([`keep_awake`]), and for a caller that waits for the
/// last tasks: waking a thread costs some 50 microseconds.
const LONG_SPIN: Duration = Duration::from_millis(1);
/// An upper bound on the number of threads, far beyond any sensible use.
const MAX_THREADS: usize = 1024;

/// Shares that a region's tasks are cut into at most; with more threads some have one in common.
const SHARES: usize = 64;

/// A value that shares no cache line with others, nor the pair of lines that some processors fetch.
#[repr(align(128))]
struct Apart<T>(T);

/// A region's function with its type erased: `call(data, i)` runs task `i`.
type Call = unsafe fn(*const (), usize);

struct Pool {
    /// Number of the current region (high half) and how many of its tasks nobody has taken yet
    /// (low half). Taking a task is a compare-exchange on both at once, so that a thread that
    /// looked at an older region can never take a task of a newer one.
    state: AtomicU64,
    /// The current region. Written only between regions, by the thread that holds `region`.
    call: AtomicPtr<()>,
    data: AtomicPtr<()>,
    tasks: AtomicUsize,
    /// Into how many shares they are cut, and how many tasks of each have been taken. A thread begins with
    /// its own share: what it wrote in the region before or updated the step before is in its cache.
    shares: AtomicUsize,
    taken: [Apart<AtomicUsize>; SHARES],
    /// Tasks of the current region that have been finished.
    done: AtomicUsize,
    /// Held by the thread that has a region under way.
    region: AtomicBool,
    /// The number of threads that take part, the caller included.
    active: AtomicUsize,
    spawning: Mutex<()>,
    /// Changed only by the holder of `spawning`.
    spawned: AtomicUsize,
    /// Guards of [`keep_awake`].
    awake: AtomicUsize,
    /// Workers asleep on `wake`; a caller asleep on `finished`.
    sleepers: AtomicUsize,
    caller_sleeps: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
    finished: Condvar,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

thread_local! {
    /// Whether this thread is inside a task, where a nested region runs serially.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let threads = std::env::var("FORNAX_THREADS")
            .ok()
            .and_then(|v| v.parse().ok())
            .filter(|&n| n > 0)
            .or_else(|| std::thread::available_parallelism().ok().map(|n| n.get()))
            .unwrap_or(1);
        Pool::new(threads)
    })
}

/// The number of threads that share work, the calling thread included.
///
/// At the start `FORNAX_THREADS` if set, else as many as the system offers.
pub fn threads() -> usize {
    pool().active.load(Ordering::Relaxed)
}

/// Changes the number of threads that share work (at least 1). Results do not depend on it.
pub fn set_threads(n: usize) {
    pool()
        .active
        .store(n.clamp(1, MAX_THREADS), Ordering::Relaxed);
}

/// Runs `f(i)` for every `i` in `0..tasks` on the threads of the pool, and returns when all are done.
///
/// Called inside a task, or while another thread has a region under way, it runs serially on the
/// calling thread. A panic in a task is raised again here, after the other tasks have ended.
pub fn run(tasks: usize, f: impl Fn(usize) + Sync) {
    if tasks == 0 {
        return;
    }
    let _flush = flush_denormals();
    let pool = pool();
    let threads = pool.active.load(Ordering::Relaxed);
    // A region counts its tasks in 32 bits.
    if tasks == 1 || threads == 1 || tasks > u32::MAX as usize || INSIDE.get() || !pool.acquire() {
        (0..tasks).for_each(f);
        return;
    }
    pool.region(tasks, threads, &f);
}

/// Until the guard is dropped, threads of the pool that run out of work expect more of it soon and
/// stay awake somewhat longer.
#[must_use]
pub fn keep_awake() -> AwakeGuard {
    pool().awake.fetch_add(1, Ordering::Relaxed);
    AwakeGuard(())
}

/// See [`keep_awake`].
pub struct AwakeGuard(());

impl Drop for AwakeGuard {
    fn drop(&mut self) {
        pool().awake.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Splits `0..len` into chunks of `chunk` (the last one shorter) and runs `f` on each, as [`run`].
pub fn run_chunks(len: usize, chunk: usize, f: impl Fn(Range<usize>) + Sync) {
    let chunk = chunk.max(1);
    run(len.div_ceil(chunk), |i| {
        f(i * chunk..len.min((i + 1) * chunk))
    });
}

impl Pool {
    fn new(threads: usize) -> Pool {
        Pool {
            state: AtomicU64::new(0),
            call: AtomicPtr::new(std::ptr::null_mut()),
            data: AtomicPtr::new(std::ptr::null_mut()),
            tasks: AtomicUsize::new(0),
            shares: AtomicUsize::new(1),
            taken: [const { Apart(AtomicUsize::new(0)) }; SHARES],
            done: AtomicUsize::new(0),
            region: AtomicBool::new(false),
            active: AtomicUsize::new(threads.min(MAX_THREADS)),
            spawning: Mutex::new(()),
            spawned: AtomicUsize::new(0),
            awake: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            finished: Condvar::new(),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    fn acquire(&self) -> bool {
        !self.region.swap(true, Ordering::Acquire)
    }

    fn region<F: Fn(usize) + Sync>(&'static self, tasks: usize, threads: usize, f: &F) {
        unsafe fn call<F: Fn(usize)>(data: *const (), i: usize) {
            // SAFETY: `data` is the `f` of the region that this task belongs to, and `region`
            // does not return before every task that was taken has been counted in `done`.
            unsafe { (*data.cast::<F>())(i) }
        }
        let helpers = (threads - 1).min(tasks - 1);
        self.spawn(threads - 1);
        let call: Call = call::<F>;
        self.call.store(call as *mut (), Ordering::Relaxed);
        self.data
            .store((f as *const F as *mut F).cast(), Ordering::Relaxed);
        self.share_out(tasks, threads);
        self.done.store(0, Ordering::Relaxed);
        let epoch = (self.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        self.state
            .store((epoch << 32) | tasks as u64, Ordering::Release);
        // Pairs with the fence of a worker going to sleep: it sees the tasks, or we see it.
        fence(Ordering::SeqCst);
        let sleepers = self.sleepers.load(Ordering::Relaxed);
        if sleepers > 0 {
            drop(self.lock.lock().unwrap());
            if sleepers <= helpers {
                self.wake.notify_all();
            } else {
                (0..helpers).for_each(|_| self.wake.notify_one());
            }
        }

        self.work(0);
        self.wait(tasks);
        let panicked = self.panicked.swap(false, Ordering::Relaxed);
        let panic = panicked.then(|| self.panic.lock().unwrap().take());
        self.region.store(false, Ordering::Release);
        if let Some(payload) = panic.flatten() {
            resume_unwind(payload);
        }
    }

    /// Cuts so many tasks into shares.
    fn share_out(&self, tasks: usize, threads: usize) {
        self.tasks.store(tasks, Ordering::Relaxed);
        let shares = threads.min(SHARES).min(tasks);
        self.shares.store(shares, Ordering::Relaxed);
        for taken in &self.taken[..shares] {
            taken.0.store(0, Ordering::Relaxed);
        }
    }

    /// Takes a task for thread `thread`, which has the right to one.
    fn take(&self, thread: usize, tasks: usize) -> usize {
        let shares = self.shares.load(Ordering::Relaxed);
        let begin = |share: usize| share * tasks / shares;
        // There are as many tasks as rights, and no share is refilled: one that is left lies ahead.
        for share in (thread..thread + shares).map(|i| i % shares) {
            let (begin, end) = (begin(share), begin(share + 1));
            let taken = &self.taken[share].0;
            // To look is cheaper than to take where there is nothing left.
            if begin + taken.load(Ordering::Relaxed) < end {
                let i = begin + taken.fetch_add(1, Ordering::Relaxed);
                if i < end {
                    return i;
                }
            }
        }
        unreachable!()
    }

    /// Takes and runs tasks until none is left to take.
    fn work(&self, thread: usize) {
        INSIDE.set(true);
        let mut finished = 0;
        let mut state = self.state.load(Ordering::Acquire);
        while state as u32 > 0 {
            let call = self.call.load(Ordering::Relaxed);
            let data = self.data.load(Ordering::Relaxed);
            let tasks = self.tasks.load(Ordering::Relaxed);
            match self.state.compare_exchange_weak(
                state,
                state - 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Err(now) => state = now,
                Ok(_) => {
                    let i = self.take(thread, tasks);
                    // SAFETY: `call` was stored from a `Call`; and it belongs, with `data`, to this
                    // region, since the exchange proves that a task was still to be taken, hence
                    // that nobody could have begun to write the next region's fields.
                    let run = || unsafe { std::mem::transmute::<*mut (), Call>(call)(data, i) };
                    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
                        self.panic.lock().unwrap().get_or_insert(payload);
                        // Seen by the caller through `done`.
                        self.panicked.store(true, Ordering::Relaxed);
                    }
                    finished += 1;
                    state = self.state.load(Ordering::Acquire);
                    if state as u32 == 0 {
                        break;
                    }
                    // Another region cannot begin before this thread has reported its tasks, so
                    // what is left belongs to the same one.
                }
            }
        }
        INSIDE.set(false);
        if finished > 0 {
            // `tasks` cannot change before the sum below is complete.
            let tasks = self.tasks.load(Ordering::Relaxed);
            let before = self.done.fetch_add(finished, Ordering::SeqCst);
            if before + finished == tasks && self.caller_sleeps.load(Ordering::SeqCst) {
                drop(self.lock.lock().unwrap());
                self.finished.notify_all();
            }
        }
    }

    /// Waits until all tasks are done: spins for a while, then sleeps.
    fn wait(&self, tasks: usize) {
        let all_done = || self.done.load(Ordering::SeqCst) == tasks;
        if spin_until(all_done, || LONG_SPIN) {
            return;
        }
        let mut guard = self.lock.lock().unwrap();
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while !all_done() {
            guard = self.finished.wait(guard).unwrap();
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    fn spawn(&'static self, workers: usize) {
        if self.spawned.load(Ordering::Relaxed) >= workers {
            return;
        }
        let _one_at_a_time = self.spawning.lock().unwrap();
        for id in self.spawned.load(Ordering::Relaxed)..workers {
            let thread = std::thread::Builder::new().name(format!("fornax-{}", id + 1));
            // With fewer workers than wished for, the others do the work.
            if thread.spawn(move || self.worker(id)).is_err() {
                break;
            }
            self.spawned.store(id + 1, Ordering::Relaxed);
        }
    }

    fn worker(&self, id: usize) {
        std::mem::forget(flush_denormals());
        let wanted = || self.state.load(Ordering::Acquire) as u32 > 0;
        loop {
            if id + 1 < self.active.load(Ordering::Relaxed) {
                self.work(id + 1);
                let patience = || match self.awake.load(Ordering::Relaxed) {
                    0 => SPIN,
                    _ => LONG_SPIN,
                };
                if spin_until(wanted, patience) {
                    continue;
                }
            }
            let mut guard = self.lock.lock().unwrap();
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if !(wanted() && id + 1 < self.active.load(Ordering::Relaxed)) {
                guard = self.wake.wait(guard).unwrap();
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            drop(guard);
        }
    }
}

/// Spins until `ready` or until `patience` is over; returns whether it is ready.
fn spin_until(ready: impl Fn() -> bool, patience: impl Fn() -> Duration) -> bool {
    let mut start = None;
    loop {
        for _ in 0..64 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        let start = *start.get_or_insert_with(Instant::now);
        if start.elapsed() > patience() {
            return ready();
        }
    }
}

/// Makes this thread flush subnormal floats to zero until the guard is dropped.
///
/// [`run`] does so by itself; whoever computes outside of a region holds a guard, so that results
/// do not depend on which thread computed them. Costs a few nanoseconds, less if already set.
#[must_use]
pub fn flush_denormals() -> FlushGuard {
    let old = float_mode::get();
    let changed = old & float_mode::FLUSH != float_mode::FLUSH;
    if changed {
        float_mode::set(old | float_mode::FLUSH);
    }
    FlushGuard {
        old: changed.then_some(old),
        _same_thread: std::marker::PhantomData,
    }
}

/// Restores the thread's floating-point mode when dropped; see [`flush_denormals`].
pub struct FlushGuard {
    old: Option<float_mode::Bits>,
    _same_thread: std::marker::PhantomData<*mut ()>,
}

impl Drop for FlushGuard {
    fn drop(&mut self) {
        if let Some(old) = self.old {
            float_mode::set(old);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod float_mode {
    use std::arch::asm;
    pub type Bits = u32;
    /// Flush-to-zero and denormals-are-zero in MXCSR.
    pub const FLUSH: Bits = 1 << 15 | 1 << 6;
    pub fn get() -> Bits {
        let mut bits: Bits = 0;
        // SAFETY: stores the control register into a local.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut bits, options(nostack, preserves_flags)) };
        bits
    }
    pub fn set(bits: Bits) {
        // SAFETY: `bits` come from `get` with only the two flush bits changed.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &bits, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod float_mode {
    use std::arch::asm;
    pub type Bits = u64;
    /// Flush-to-zero in FPCR (inputs and results).
    pub const FLUSH: Bits = 1 << 24;
    pub fn get() -> Bits {
        let bits: Bits;
        // SAFETY: reads the control register.
        unsafe { asm!("mrs {}, fpcr", out(reg) bits, options(nomem, nostack, preserves_flags)) };
        bits
    }
    pub fn set(bits: Bits) {
        // SAFETY: `bits` come from `get` with only the flush bit changed.
        unsafe { asm!("msr fpcr, {}", in(reg) bits, options(nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod float_mode {
    pub type Bits = u32;
    pub const FLUSH: Bits = 0;
    pub fn get() -> Bits {
        0
    }
    pub fn set(_: Bits) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_task_runs_once_from_many_threads() {
        std::thread::scope(|s| {
            for t in 0..4 {
                s.spawn(move || {
                    for round in 0..2000 {
                        let n = (round * 7 + t) % 40;
                        let hits: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
                        run(n, |i| {
                            hits[i].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn a_thread_takes_its_share_and_then_what_others_have_left() {
        let pool = Pool::new(1);
        let order = |threads: usize, tasks: usize, takers: &[usize]| {
            pool.share_out(tasks, threads);
            let takers = takers.iter().cycle().take(tasks);
            takers.map(|&t| pool.take(t, tasks)).collect::<Vec<_>>()
        };
        assert_eq!(order(3, 7, &[1]), [2, 3, 4, 5, 6, 0, 1]);
        assert_eq!(order(2, 6, &[0, 1]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(order(2, 5, &[0, 0, 1]), [0, 1, 2, 3, 4]);
        // More threads than tasks, and than shares.
        assert_eq!(order(8, 2, &[5]), [1, 0]);
        assert_eq!(order(1000, 64, &[999])[..2], [39, 40]);
    }

    /// The first task lasts until all others are done, or (while another test holds the pool, and this
    /// thread is alone) for some time.
    #[test]
    fn shares_of_busy_threads_are_taken_over() {
        for tasks in [2, 3, 7, 100] {
            let done = AtomicU32::new(0);
            run(tasks, |i| {
                let since = Instant::now();
                let others = || done.load(Ordering::Relaxed) == tasks as u32 - 1;
                while i == 0 && !others() && since.elapsed() < Duration::from_millis(20) {
                    std::hint::spin_loop();
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.load(Ordering::Relaxed), tasks as u32);
        }
    }

    #[test]
    fn nested_regions_and_panics() {
        let sum = AtomicUsize::new(0);
        run(8, |i| {
            run(8, |j| {
                sum.fetch_add(i * j, Ordering::Relaxed);
            })
        });
        assert_eq!(sum.into_inner(), 28 * 28);
        let caught = catch_unwind(|| run(16, |i| assert!(i != 11, "task eleven")));
        let text = caught.unwrap_err();
        assert!(text.downcast_ref::<&str>().unwrap().contains("eleven"));
        run(16, |_| ());
    }

    #[test]
    fn wakes_after_sleep_and_changes_of_thread_count() {
        for n in [1, 3, 2, 5, 2] {
            set_threads(n);
            std::thread::sleep(Duration::from_millis(2));
            let sum = AtomicUsize::new(0);
            run(1000, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 499_500);
        }
    }

    #[test]
    fn subnormals_are_flushed_in_tasks_only() {
        let tiny = std::hint::black_box(f32::MIN_POSITIVE);
        let flushed = AtomicU32::new(0);
        run(64, |_| {
            if std::hint::black_box(tiny) * std::hint::black_box(0.25) == 0.0 {
                flushed.fetch_add(1, Ordering::Relaxed);
            }
        });
        if float_mode::FLUSH != 0 {
            assert_eq!(flushed.into_inner(), 64);
        }
        assert!(std::hint::black_box(tiny) * std::hint::black_box(0.25) > 0.0);
    }

    #[test]
    fn chunks_cover_the_range() {
        let seen: Vec<AtomicU32> = (0..103).map(|_| AtomicU32::new(0)).collect();
        run_chunks(103, 10, |r| {
            for i in r {
                seen[i].fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(seen.iter().all(|h| h.load(Ordering::Relaxed) == 1));
        run_chunks(0, 10, |_| unreachable!());
    }

    /// Not an assertion (machines differ): `cargo test -- --nocapture dispatch_cost` prints it.
    #[test]
    fn dispatch_cost() {
        set_threads(2);
        let mut best = f64::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            (0..1000).for_each(|_| run(2, |_| ()));
            best = best.min(start.elapsed().as_secs_f64() / 1000.0);
        }
        println!("empty region on two threads: {:.2} us", best * 1e6);
    }
}
