//! Random numbers that are a function of what they are for, so that any batch
//! of any epoch can be made again without the ones before it.
//!
//! The generator is that of the tensors, Philox4x32-10 (Salmon et al., "Parallel random
//! numbers: as easy as 1, 2, 3", 2011): ten rounds turn a 128-bit counter and a 64-bit key
//! into 128 random bits. The key is the user's seed; the counter's four words
//! are `[block, index, epoch, purpose]`, so a stream is named by what it
//! serves and holds 2^34 numbers.

use fornax_tensor::cpu::interp::philox;
use fornax_tensor::tape::Key;

/// What a stream of random numbers is for; streams of different purposes never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The order of the samples in an epoch.
    Shuffle = 1,
    /// The augmentation of one sample in one epoch.
    Augment = 2,
    /// Cutting a dataset into training, validation and test parts.
    Split = 3,
    /// The place of a window in a text.
    Window = 4,
    /// What of a window is hidden.
    Mask = 5,
    /// The choice of the next token of a generated text.
    Sample = 6,
    /// The order of the batches in an epoch, where they are made before they are put in order.
    Batches = 7,
}

/// A stream of random numbers, fixed by `(seed, purpose, epoch, index)`.
///
/// ```
/// use fornax_data::rng::{Philox, Purpose};
/// let mut a = Philox::new(7, Purpose::Shuffle, 3, 0);
/// let mut b = Philox::new(7, Purpose::Shuffle, 3, 0);
/// assert_eq!(a.next_u32(), b.next_u32());
/// ```
#[derive(Debug, Clone)]
pub struct Philox {
    key: Key,
    index: u32,
    /// The number of the block that comes next.
    next: u32,
    block: [u32; 4],
    used: usize,
}

impl Philox {
    /// The stream for `purpose` in `epoch`, for the sample `index` (0 where there is none).
    /// Epochs and indices beyond 2^32 wrap around.
    pub fn new(seed: u64, purpose: Purpose, epoch: u64, index: usize) -> Self {
        Philox {
            key: Key {
                seed,
                stream: u64::from(epoch as u32) | (purpose as u64) << 32,
            },
            index: index as u32,
            next: 0,
            block: [0; 4],
            used: 4,
        }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.key, u64::from(self.index) << 32 | u64::from(self.next));
            self.next = self.next.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// A whole number in `0..n`, each equally likely (Lemire's multiplication with rejection) as far
    /// as `n` fits 32 bits; beyond, to one part in `2^64 / n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "no number lies below 0");
        let Ok(n) = u32::try_from(n) else {
            let wide = u64::from(self.next_u32()) << 32 | u64::from(self.next_u32());
            return ((u128::from(wide) * n as u128) >> 64) as usize;
        };
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            let low = product as u32;
            // Only the first 2^32 mod n low parts are over-represented.
            if low >= n || low >= n.wrapping_neg() % n {
                return (product >> 32) as usize;
            }
        }
    }

    /// A number in `[0, 1)` with 24 random bits.
    pub fn unit(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// A number between `low` and `high`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Puts a slice into random order (Fisher-Yates), each order as likely as
    /// [`below`](Self::below) is even.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// The order in which epoch `epoch` visits `n` samples: a function of `(seed, epoch)` only.
///
/// ```
/// let order = fornax_data::rng::permutation(5, 42, 0);
/// let mut sorted = order.clone();
/// sorted.sort();
/// assert_eq!(sorted, [0, 1, 2, 3, 4]);
/// ```
pub fn permutation(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    Philox::new(seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_philox_with_the_counter_that_the_module_says() {
        // The published answer for counter 243f6a88 85a308d3 13198a2e 03707344.
        let mut rng = Philox {
            key: Key {
                seed: 0x299f_31d0_a409_3822,
                stream: 0x0370_7344_1319_8a2e,
            },
            index: 0x85a3_08d3,
            next: 0x243f_6a88,
            block: [0; 4],
            used: 4,
        };
        assert_eq!(rng.next_u32(), 0xd16c_fe09);
        assert_eq!(rng.next_u32(), 0x94fd_cceb);
        let rng = Philox::new(7, Purpose::Split, 5, 9);
        assert_eq!((rng.key.stream, rng.index), (3 << 32 | 5, 9));
    }

    #[test]
    fn below_is_even_handed_and_in_range() {
        let mut rng = Philox::new(1, Purpose::Augment, 0, 0);
        let mut counts = [0usize; 7];
        for _ in 0..70_000 {
            counts[rng.below(7)] += 1;
        }
        assert!(
            counts.iter().all(|&c| (9_500..10_500).contains(&c)),
            "{counts:?}"
        );
        assert_eq!(rng.below(1), 0);
        let wide = [0; 100].map(|_| rng.below(1 << 40));
        assert!(wide.iter().all(|&n| n < 1 << 40));
        assert!(wide.iter().filter(|&&n| n >= 1 << 39).count().abs_diff(50) < 20);
    }

    #[test]
    fn unit_stays_in_its_range() {
        let mut rng = Philox::new(1, Purpose::Augment, 0, 0);
        let xs: Vec<f32> = (0..10_000).map(|_| rng.unit()).collect();
        assert!(xs.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = xs.iter().sum::<f32>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }

    #[test]
    fn every_order_of_three_is_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..6_000 {
            *counts.entry(permutation(3, 9, epoch)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(
            counts.values().all(|c| (850..1150).contains(c)),
            "{counts:?}"
        );
    }

    #[test]
    fn orders_differ_by_seed_and_by_epoch_and_repeat() {
        let order = permutation(100, 1, 0);
        assert_eq!(order, permutation(100, 1, 0));
        assert_ne!(order, permutation(100, 1, 1));
        assert_ne!(order, permutation(100, 2, 0));
        assert_eq!(permutation(0, 1, 0), Vec::<usize>::new());
        assert_eq!(permutation(1, 1, 0), vec![0]);
    }
}
