//! The limits of this machine, measured: what kernels are held against.

use super::simd::{self, Level};
use super::storage::Storage;
use super::{copy, pool};
use std::hint::black_box;
use std::time::Instant;

/// Independent accumulators: enough to hide the latency of a multiply-add on two ports.
const CHAINS: usize = 12;
/// The widest vector, in floats.
const LANES: usize = 16;
/// Multiply-adds of each chain in one task: some hundred microseconds.
const ROUNDS: usize = 1 << 16;
/// Bytes copied: far more than caches hold.
const COPIED: usize = 256 << 20;

/// Billions of `f32` additions and multiplications a second, on all threads of the pool, that do
/// nothing but compute in registers.
pub fn multiply_add() -> f64 {
    let fused = simd::level() > Level::Baseline || cfg!(target_arch = "aarch64");
    let tasks = 4 * pool::threads();
    let seconds = best(10, || {
        pool::run(tasks, |_| {
            let x = black_box(0.5f32);
            match fused {
                true => black_box(spin_fused(x, ROUNDS)),
                false => black_box(spin_apart(x, ROUNDS)),
            };
        });
    });
    (2 * tasks * ROUNDS * CHAINS * LANES) as f64 / seconds / 1e9
}

/// The same of the matrix unit's products of `bf16`, if it may be used.
pub fn matrix_unit() -> Option<f64> {
    if !simd::amx() {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    {
        let tasks = 4 * pool::threads();
        let seconds = best(10, || {
            // SAFETY: the unit is there, and no task has tiles already.
            pool::run(tasks, |_| unsafe { spin_tiles(ROUNDS / 4) });
        });
        // Four products a round, of 16x32 by 32x16 numbers.
        let operations = tasks * (ROUNDS / 4) * 4 * 2 * 16 * 32 * 16;
        Some(operations as f64 / seconds / 1e9)
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Products of tiles of zeros, four sums at a time.
///
/// # Safety
/// As for [`Tiles::new`](super::amx::Tiles::new).
#[cfg(target_arch = "x86_64")]
unsafe fn spin_tiles(rounds: usize) {
    // SAFETY: the caller's promise.
    let _tiles = unsafe { super::amx::Tiles::new() };
    // SAFETY: touches nothing but tiles, which are configured, and the counter.
    unsafe {
        std::arch::asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nomem, nostack),
        );
    }
}

/// Billions of bytes a second, read and written counted both, on all threads of the pool, of a
/// large copy.
pub fn copy_speed() -> f64 {
    let (from, to) = (Storage::zeroed(COPIED), Storage::zeroed(COPIED));
    let words = COPIED / 4;
    let seconds = best(5, || {
        // SAFETY: both blocks have so many bytes, and they are two.
        unsafe { copy::copy(4, &[words], from.as_ptr(), &[1], to.as_ptr(), &[1]) };
    });
    2.0 * COPIED as f64 / seconds / 1e9
}

/// The least time of some runs, in seconds.
fn best(runs: usize, mut f: impl FnMut()) -> f64 {
    let mut least = f64::MAX;
    for _ in 0..runs {
        let start = Instant::now();
        f();
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}

macro_rules! spin {
    ($name:ident, |$a:ident, $x:ident| $step:expr) => {
        crate::simd_dispatch! {
            fn $name(x: f32, rounds: usize) -> f32 {
                let mut chains = [[x; LANES]; CHAINS];
                let $x = x;
                for _ in 0..rounds {
                    for chain in &mut chains {
                        for lane in chain {
                            let $a = *lane;
                            *lane = $step;
                        }
                    }
                }
                chains.iter().flatten().sum()
            }
        }
    };
}
spin!(spin_fused, |a, x| a.mul_add(x, x));
spin!(spin_apart, |a, x| a * x + x);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loops_compute_what_they_are_timed_for() {
        // a -> a/2 + 1/2 goes to 1 from anywhere.
        let all = (LANES * CHAINS) as f32;
        assert_eq!(spin_apart(0.5, 100), all);
        assert_eq!(spin_fused(0.5, 100), all);
    }
}
