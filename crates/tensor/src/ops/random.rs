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

/// Where the thread's generator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RngState {
    /// What [`manual_seed`] was given.
    pub seed: u64,
    /// How many streams have been drawn.
    pub stream: u64,
}

thread_local! {
    static STATE: Cell<RngState> = const { Cell::new(RngState { seed: 0, stream: 0 }) };
}

/// Starts this thread's generator anew. It starts at seed 0, so that programs repeat by default.
///
/// ```
/// use fornax_tensor::{manual_seed, DType, Tensor};
/// manual_seed(7);
/// let a = Tensor::rand([4], DType::F32).to_vec::<f32>();
/// manual_seed(7);
/// assert_eq!(a, Tensor::rand([4], DType::F32).to_vec::<f32>());
/// ```
pub fn manual_seed(seed: u64) {
    STATE.set(RngState { seed, stream: 0 });
}

/// The generator's state, for checkpoints.
pub fn rng_state() -> RngState {
    STATE.get()
}

/// Puts the generator where it was.
pub fn set_rng_state(state: RngState) {
    STATE.set(state);
}

fn next_key() -> Key {
    let state = STATE.get();
    STATE.set(RngState {
        stream: state.stream.wrapping_add(1),
        ..state
    });
    Key {
        seed: state.seed,
        stream: state.stream,
    }
}

impl Tensor {
    /// Uniform in `[0, 1)`, with 24 random bits (53 for `f64`).
    ///
    /// # Panics
    /// If `dtype` is not a float.
    #[track_caller]
    pub fn rand(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        if !dtype.is_float() {
            panic!("rand: {dtype} is not a floating-point type");
        }
        let drawn = if dtype == DType::F64 {
            DType::F64
        } else {
            DType::F32
        };
        let prim = Prim::Uniform(next_key());
        Tensor::from_node(prim, Inputs::new(), shape.into(), drawn).to_dtype(dtype)
    }

    /// Normal with mean 0 and variance 1, by the transform of Box and Muller (1958).
    ///
    /// # Panics
    /// If `dtype` is not a float.
    #[track_caller]
    pub fn randn(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        let wide = if dtype == DType::F64 {
            DType::F64
        } else {
            DType::F32
        };
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
        let span = (high as i128 - low as i128) as f64;
        let u = Tensor::rand(shape, DType::F64);
        (u * span)
            .floor()
            .clamp(0.0, span - 1.0)
            .to_dtype(DType::I64)
            + low
    }

    /// A random order of `0..n`, as `i64`.
    pub fn randperm(n: usize) -> Tensor {
        Tensor::rand([n], DType::F64).argsort(0, false)
    }
}
