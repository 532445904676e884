//! The CPU engine.

pub mod copy;
pub mod index;
pub mod math;
pub mod matmul;
pub mod pool;
pub mod simd;
pub mod sort;
pub mod storage;
