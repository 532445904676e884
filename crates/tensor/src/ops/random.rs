//! Counter-based random numbers: value = f(seed, stream, index).
//!
//! Each random op draws the next stream of the thread's generator; the numbers themselves are
//! computed where they are used, on any number of threads, always the same. To repeat a stretch
//! of a program exactly, restore the generator with [`set_rng_state`].

use crate::dtype::DType;
use crate::node::Inputs;
use crate::prim::Prim;
use crate::shape::Shape;
use crate::tape::Key;
use crate::tensor::Tensor;
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the thread's generator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RngState {
    /// What [`manual_seed`] was given.
    pub seed: u64,
    /// How many streams have been drawn; in a thread that follows another's seed, counted from
    /// the start of a range of its own.
    pub stream: u64,
}

/// What threads follow that have not been seeded themselves.
struct Process {
    seed: u64,
    /// How many times it was seeded.
    seedings: u64,
    /// Threads that have drawn without a seed of their own.
    followers: u64,
}

static PROCESS: Mutex<Process> = Mutex::new(Process {
    seed: 0,
    seedings: 0,
    followers: 0,
});

/// A follower's streams begin at its number shifted by this.
const RANGE_BITS: u32 = 48;

#[derive(Clone, Copy)]
struct Generator {
    state: RngState,
    follower: Option<Follower>,
}

#[derive(Clone, Copy)]
struct Follower {
    number: u64,
    /// The value of [`Process::seedings`] that the state belongs to.
    seeding: u64,
}

thread_local! {
    static GENERATOR: Cell<Option<Generator>> = const { Cell::new(None) };
}

fn process() -> MutexGuard<'static, Process> {
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seeds this thread's generator, and those of all threads that have not called `manual_seed` or
/// [`set_rng_state`] themselves. Without any call the seed is 0, so that programs repeat by
/// default.
///
/// This thread draws the streams from 0 on; the others have ranges of their own, given out in the
/// order in which they first draw. A program whose threads race for that order repeats exactly if
/// each of them is seeded by itself.
///
/// ```
/// use fornax_tensor::{manual_seed, DType, Tensor};
/// manual_seed(7);
/// let a = Tensor::rand([4], DType::F32).to_vec::<f32>();
/// manual_seed(7);
/// assert_eq!(a, Tensor::rand([4], DType::F32).to_vec::<f32>());
/// ```
pub fn manual_seed(seed: u64) {
    let mut process = process();
    process.seed = seed;
    process.seedings += 1;
    set_rng_state(RngState { seed, stream: 0 });
}

/// The state of this thread's generator, for checkpoints.
pub fn rng_state() -> RngState {
    generator().state
}

/// Puts this thread's generator where it was.
pub fn set_rng_state(state: RngState) {
    GENERATOR.set(Some(Generator {
        state,
        follower: None,
    }));
}

/// The thread's generator as it stands now, after all seedings.
fn generator() -> Generator {
    let mut process = process();
    let number = match GENERATOR.get() {
        None => {
            process.followers += 1;
            process.followers - 1
        }
        Some(generator) => match generator.follower {
            Some(f) if f.seeding != process.seedings => f.number,
            _ => return generator,
        },
    };
    // The streams from 0 on are those of the thread that seeded, or else of the first to draw.
    let range = number + (process.seedings > 0) as u64;
    let generator = Generator {
        state: RngState {
            seed: process.seed,
            stream: range << RANGE_BITS,
        },
        follower: Some(Follower {
            number,
            seeding: process.seedings,
        }),
    };
    GENERATOR.set(Some(generator));
    generator
}

pub(super) fn next_key() -> Key {
    let mut generator = generator();
    let RngState { seed, stream } = generator.state;
    generator.state.stream = stream.wrapping_add(1);
    GENERATOR.set(Some(generator));
    Key { seed, stream }
}

impl Tensor {
    /// Uniform in `[0, 1)`, with 24 random bits (53 for `f64`, 11 for `f16`, 8 for `bf16`: as many
    /// as are exact, so that none rounds to 1).
    ///
    /// # Panics
    /// If `dtype` is not a float.
    #[track_caller]
    pub fn rand(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        if !dtype.is_float() {
            panic!("rand: {dtype} is not a floating-point type");
        }
        let prim = Prim::Uniform(next_key());
        Tensor::from_node(prim, Inputs::new(), shape.into(), dtype)
    }

    /// Normal with mean 0 and variance 1, by the transform of Box and Muller (1958).
    ///
    /// # Panics
    /// If `dtype` is not a float.
    #[track_caller]
    pub fn randn(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        let wide = dtype.widened();
        let u = Tensor::rand(shape.clone(), wide);
        let angle = Tensor::rand(shape, wide) * std::f64::consts::TAU;
        // 1 - u lies in (0, 1]: its logarithm is finite.
        (((-u).log1p() * -2.0).sqrt() * angle.cos()).to_dtype(dtype)
    }

    /// `true` with probability `p`.
    pub fn bernoulli(p: f64, shape: impl Into<Shape>) -> Tensor {
        Tensor::rand(shape, DType::F32).lt_scalar(p)
    }

    /// Uniform integers in `[low, high)`, as `i64`.
    ///
    /// # Panics
    /// If the range is empty.
    #[track_caller]
    pub fn randint(low: i64, high: i64, shape: impl Into<Shape>) -> Tensor {
        if low >= high {
            panic!("randint: the range {low}..{high} is empty");
        }
        // One of `n` numbers, `n` at most 2^32: the 53 bits of the draw leave no bias to speak of.
        let digit = |u: Tensor, n: f64| (u * n).floor().clamp(0.0, n - 1.0).to_dtype(DType::I64);
        let shape = shape.into();
        let u = Tensor::rand(shape.clone(), DType::F64);
        let span = high.wrapping_sub(low) as u64;
        const BLOCK: u64 = 1 << 32;
        if span <= BLOCK {
            return digit(u, span as f64) + low;
        }
        // A wider range is blocks of 2^32 and a rest: first which block, the rest being drawn as
        // seldom as it is short, then which number of it. Integers wrap, so no range is too wide.
        let (blocks, rest) = ((span / BLOCK) as f64, (span % BLOCK) as f64);
        let block = (u * (span as f64 / BLOCK as f64)).floor();
        let block = block.clamp(0.0, if rest > 0.0 { blocks } else { blocks - 1.0 });
        let size = block
            .lt_scalar(blocks)
            .where_(&block.full_like(BLOCK as f64), &block.full_like(rest));
        let within = (Tensor::rand(shape, DType::F64) * size).floor();
        block.to_dtype(DType::I64) * BLOCK as i64 + within.to_dtype(DType::I64) + low
    }

    /// A random order of `0..n`, as `i64`.
    pub fn randperm(n: usize) -> Tensor {
        Tensor::rand([n], DType::F64).argsort(0, false)
    }
}
