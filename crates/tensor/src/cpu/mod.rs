//! The CPU engine.

pub mod matmul;
pub mod pool;
pub mod storage;
