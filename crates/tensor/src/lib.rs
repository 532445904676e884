//! Tensors, automatic differentiation, planning and the CPU engine of Fornax.
//!
//! A [`Tensor`] is a handle on a node of a lazy graph. `ops/` builds nodes out of a closed set of
//! primitives (`prim.rs`); `grad.rs` walks the graph backwards and builds more of it; reading a
//! value makes `eval.rs` collect what is needed, find or make a plan for it (`plan/`), and run the
//! plan's kernels on an engine (`engine.rs`, `cpu/`). `fast.rs` names the fused ops that the
//! engine knows better than their definitions.
//!
//! ```
//! use fornax_tensor::{value_and_grad, Tensor};
//! let x = Tensor::from_vec(vec![1f32, 2., 3.], [3, 1]);
//! let w = Tensor::from_vec(vec![0.5f32], [1, 1]);
//! let (loss, grads) = value_and_grad(&w, |w| (x.matmul(w) - 1.0).square().mean(..));
//! assert!(loss.item() < 1.0 && grads.len() == 1);
//! ```

pub mod cpu;
mod dtype;
pub mod engine;
mod error;
mod eval;
mod fast;
mod grad;
pub mod io;
pub mod module;
mod node;
mod ops;
mod plan;
mod precision;
mod prim;
mod shape;
pub mod tape;
mod tensor;
pub mod testing;
pub mod trace;

pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use fast::{Attend, Cell, Dropped, Fast, Recur, Window};
pub use grad::{Grads, grad, grad_of, jvp, value_and_grad};
pub use half::{bf16, f16};
pub use module::*;
pub use node::{checkpoint, is_recording, record, with_training};
pub use ops::{
    Attention, ConvSpec, IGNORE_INDEX, Recurrence, RngState, manual_seed, rng_state, set_rng_state,
};
pub use plan::{Options, options, plans_made, with_options};
pub use precision::{Precision, set_precision, with_precision};
pub use prim::{Conv, Face, ReduceOp};
pub use shape::{Axes, INFER, Layout, Shape, Strides};
pub use tensor::{Tensor, WeakTensor, eval_all};
