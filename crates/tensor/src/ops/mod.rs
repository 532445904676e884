//! What users call, written in terms of the primitives.

mod activation;
mod attention;
mod conv;
mod creation;
mod elementwise;
mod index;
mod linalg;
mod movement;
mod norm;
mod pool;
mod random;
mod recurrent;
mod reduce;

pub use attention::Attention;
pub use conv::ConvSpec;
pub use norm::IGNORE_INDEX;
pub use random::{RngState, manual_seed, rng_state, set_rng_state};
pub use recurrent::Recurrence;
