//! The limits of this machine, measured: what kernels are held against.

use super::simd::{self, Level};
use super::storage::Storage;
#[cfg(target_arch = "x86_64")]
use super::unit::{Kind, Tiles};
use super::{copy, pool};
use std::hint::black_box;
use std::time::Instant;

/// Independent accumulators: enough to hide the latency of a multiply-add on two ports.
const CHAINS: usize = 8;
/// The widest vector, in floats.
const LANES: usize = 16;
/// Multiply-adds of each chain in one task: some hundred microseconds.
const ROUNDS: usize = 1 << 16;
/// Bytes copied: far more than caches hold.
const COPIED: usize = 256 << 20;

/// Billions of `f32` additions and multiplications a second, on all threads of the pool, that do
/// nothing but compute in registers.
pub fn multiply_add() -> f64 {
    let tasks = 4 * pool::threads();
    let seconds = best(10, || {
        pool::run(tasks, |_| {
            black_box(spin(black_box(0.5), ROUNDS));
        });
    });
    (2 * tasks * ROUNDS * CHAINS * LANES) as f64 / seconds / 1e9
}

/// The same of products of `bf16`, if there is a unit for them.
pub fn matrix_unit() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        let kind = super::unit::kind()?;
        let tasks = 4 * pool::threads();
        // Four products a round, of 16x32 by 32x16 numbers.
        let rounds = match kind {
            Kind::Amx => ROUNDS / 4,
            Kind::Dots => ROUNDS / 32,
        };
        let seconds = best(10, || {
            // SAFETY: the unit is there, and no task has tiles already.
            pool::run(tasks, |_| unsafe {
                match kind {
                    Kind::Amx => spin_tiles(rounds),
                    Kind::Dots => spin_dots(black_box(1.0), rounds),
                }
            });
        });
        let operations = tasks * rounds * 4 * 2 * 16 * 32 * 16;
        Some(operations as f64 / seconds / 1e9)
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Products of tiles, four sums at a time. The tiles hold numbers of many digits: with zeros, which take less
/// power, the processor runs faster than it ever does with data.
///
/// # Safety
/// As for [`Tiles::new`]; it must be AMX.
#[cfg(target_arch = "x86_64")]
unsafe fn spin_tiles(rounds: usize) {
    #[repr(align(64))]
    struct Numbers([u16; 4 * 512]);
    let mut numbers = Numbers([0; 4 * 512]);
    let mut state = 1u32;
    for x in &mut numbers.0 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Between 0.5 and 2, of either sign.
        *x = 0x3F00 | (state >> 16) as u16 & 0x80FF;
    }
    // SAFETY: the caller's promise.
    let _tiles = unsafe { Tiles::new() };
    // SAFETY: touches nothing but tiles, which are configured, the counter, and four tiles of numbers.
    unsafe {
        std::arch::asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tileloadd tmm4, [{numbers} + 1*{row}]",
            "tileloadd tmm5, [{numbers} + 1*{row} + 1024]",
            "tileloadd tmm6, [{numbers} + 1*{row} + 2048]",
            "tileloadd tmm7, [{numbers} + 1*{row} + 3072]",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            numbers = in(reg) numbers.0.as_ptr(),
            row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack),
        );
    }
}

/// As many products of `bf16` as [`spin_tiles`] makes, by dot products of pairs.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn spin_dots(x: f32, rounds: usize) {
    use std::arch::x86_64::*;
    let x = _mm512_set1_ps(x);
    let pairs = _mm512_cvtne2ps_pbh(x, x);
    let mut sums = [x; 2 * CHAINS];
    // A product of tiles is 256 instructions, each of a vector of sums and its pairs.
    for _ in 0..4 * 256 * rounds / sums.len() {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
        }
    }
    black_box(sums);
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

/// So many multiply-adds of each of the chains' lanes; returns the mean of their ends. Below AVX2
/// what the compiler makes of a plain loop, a lower bound.
fn spin(x: f32, rounds: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    match simd::level() {
        // SAFETY: the level says that the processor has these instructions.
        Level::Avx512 => return unsafe { spin_avx512(x, rounds) },
        // Half as wide, so twice as often.
        // SAFETY: as above.
        Level::Avx2 => return unsafe { spin_avx2(x, 2 * rounds) },
        _ => {}
    }
    let mut chains = [x; CHAINS * LANES];
    for _ in 0..rounds {
        chains.iter_mut().for_each(|a| *a = *a * x + x);
    }
    chains.iter().sum::<f32>() / chains.len() as f32
}

/// Multiply-adds of vectors, which are held by name and not in an array, so that they stay in
/// registers.
#[cfg(target_arch = "x86_64")]
macro_rules! spin {
    ($name:ident, $feature:literal, $lanes:literal, $set:ident, $multiply_add:ident, $store:ident) => {
        #[target_feature(enable = $feature)]
        fn $name(x: f32, rounds: usize) -> f32 {
            use std::arch::x86_64::*;
            let x = $set(x);
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = [x; CHAINS];
            for _ in 0..rounds {
                a = $multiply_add(a, x, x);
                b = $multiply_add(b, x, x);
                c = $multiply_add(c, x, x);
                d = $multiply_add(d, x, x);
                e = $multiply_add(e, x, x);
                f = $multiply_add(f, x, x);
                g = $multiply_add(g, x, x);
                h = $multiply_add(h, x, x);
            }
            let mut ends = [0f32; CHAINS * $lanes];
            for (lanes, v) in ends.chunks_mut($lanes).zip([a, b, c, d, e, f, g, h]) {
                // SAFETY: the chunk has as many numbers as the vector.
                unsafe { $store(lanes.as_mut_ptr(), v) };
            }
            ends.iter().sum::<f32>() / ends.len() as f32
        }
    };
}
#[cfg(target_arch = "x86_64")]
spin!(
    spin_avx512,
    "avx512f",
    16,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
spin!(
    spin_avx2,
    "avx2,fma",
    8,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_storeu_ps
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_computes_what_it_is_timed_for() {
        // a -> a/2 + 1/2 goes to 1 from anywhere.
        assert_eq!(spin(0.5, 100), 1.0);
    }
}
