//! Philox4x32-10: random numbers as a function of (seed, stream, index).
//!
//! Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

use crate::DType;
use crate::tape::Key;

const M: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const W: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// Four random words for one 128-bit counter: `(counter, stream)` under key `seed`.
pub fn philox(key: Key, counter: u64) -> [u32; 4] {
    let words = lanes::<1>(key, counter);
    words.map(|w| w[0])
}

/// The words for `N` consecutive counters; `[w][lane]`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // plain loops over lanes vectorise
fn lanes<const N: usize>(key: Key, counter: u64) -> [[u32; N]; 4] {
    let mut c = [[0u32; N]; 4];
    for i in 0..N {
        let at = counter.wrapping_add(i as u64);
        c[0][i] = at as u32;
        c[1][i] = (at >> 32) as u32;
        c[2][i] = key.stream as u32;
        c[3][i] = (key.stream >> 32) as u32;
    }
    let mut k = [key.seed as u32, (key.seed >> 32) as u32];
    for _ in 0..10 {
        for i in 0..N {
            let p = M[0] as u64 * c[0][i] as u64;
            let q = M[1] as u64 * c[2][i] as u64;
            let (x, y) = (c[1][i] ^ k[0], c[3][i] ^ k[1]);
            c[0][i] = (q >> 32) as u32 ^ x;
            c[1][i] = q as u32;
            c[2][i] = (p >> 32) as u32 ^ y;
            c[3][i] = p as u32;
        }
        k = [k[0].wrapping_add(W[0]), k[1].wrapping_add(W[1])];
    }
    c
}

/// Counters computed together.
const GROUP: usize = 16;

/// Numbers made from one counter's four words.
trait FromWords: Copy + Default {
    /// How many.
    const PER: usize;
    /// Number `i` of them.
    fn from_words(w: [u32; 4], i: usize) -> Self;
}

/// An `f32` made of this many random bits, so that it is exact in the target type.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Bits<const N: u32>(f32);

impl<const N: u32> FromWords for Bits<N> {
    const PER: usize = 4;
    #[inline(always)]
    fn from_words(w: [u32; 4], i: usize) -> Self {
        Bits((w[i] >> (32 - N)) as i32 as f32 * (1.0 / (1u32 << N) as f32))
    }
}
impl FromWords for f64 {
    const PER: usize = 2;
    #[inline(always)]
    fn from_words(w: [u32; 4], i: usize) -> Self {
        let bits = (w[2 * i + 1] as u64) << 32 | w[2 * i] as u64;
        (bits >> 11) as i64 as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

crate::simd_dispatch! {
    /// Number `start + i` of the sequence into `out[i]`.
    fn fill<T: FromWords>(key: Key, start: u64, out: &mut [T]) {
        let per = T::PER as u64;
        let mut i = 0;
        while i < out.len() {
            let at = start + i as u64;
            let words = lanes::<GROUP>(key, at / per);
            let skip = (at % per) as usize;
            let mut made = [T::default(); 4 * GROUP];
            for lane in 0..GROUP {
                let w = [words[0][lane], words[1][lane], words[2][lane], words[3][lane]];
                for j in 0..T::PER {
                    made[lane * T::PER + j] = T::from_words(w, j);
                }
            }
            let n = (GROUP * T::PER - skip).min(out.len() - i);
            out[i..i + n].copy_from_slice(&made[skip..skip + n]);
            i += n;
        }
    }
}

/// Uniform numbers in [0, 1) for linear indices `start..start + n`, as registers hold `dtype`.
///
/// # Safety
/// `d` must be writable for `n` elements, and aligned.
pub unsafe fn uniform(dtype: DType, key: Key, start: usize, n: usize, d: *mut u8) {
    use std::slice::from_raw_parts_mut as slice;
    let start = start as u64;
    // SAFETY: the caller's promise; `Bits` is an `f32`.
    unsafe {
        match dtype {
            DType::F64 => fill::<f64>(key, start, slice(d.cast(), n)),
            DType::BF16 => fill::<Bits<8>>(key, start, slice(d.cast(), n)),
            DType::F16 => fill::<Bits<11>>(key, start, slice(d.cast(), n)),
            _ => fill::<Bits<24>>(key, start, slice(d.cast(), n)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // From the reference implementation's test vectors.
        let zero = philox(Key { seed: 0, stream: 0 }, 0);
        assert_eq!(zero, [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        let key = Key {
            seed: 0x299f31d0_a4093822,
            stream: 0x03707344_13198a2e,
        };
        let pi = philox(key, 0x85a308d3_243f6a88);
        assert_eq!(pi, [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
    }

    #[test]
    fn a_value_depends_on_its_index_alone() {
        let key = Key { seed: 7, stream: 9 };
        let mut all = vec![Bits::<24>(0.0); 1000];
        fill(key, 0, &mut all);
        for (start, len) in [(0, 1), (1, 5), (3, 200), (997, 3), (64, 64)] {
            let mut some = vec![Bits::<24>(0.0); len];
            fill(key, start as u64, &mut some);
            assert!(some.iter().zip(&all[start..]).all(|(a, b)| a.0 == b.0));
        }
        let mean = all.iter().map(|x| x.0 as f64).sum::<f64>() / 1000.0;
        assert!((mean - 0.5).abs() < 0.05 && all.iter().all(|x| (0.0..1.0).contains(&x.0)));
    }
}
