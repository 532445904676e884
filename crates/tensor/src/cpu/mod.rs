//! The CPU engine.

mod access;
pub mod arg_reduce;
mod attention;
pub mod ceiling;
mod constant;
pub mod conv;
pub mod copy;
mod engine;
pub mod index;
pub mod interp;
pub mod math;
pub mod matmul;
mod own;
pub mod pool;
pub mod pool2d;
pub mod reduce;
mod rnn;
pub mod rows;
mod runs;
pub mod scan;
pub mod simd;
pub mod sort;
pub mod storage;
#[cfg(target_arch = "x86_64")]
mod unit;

pub use engine::Cpu;
pub use runs::{After, Runs};
