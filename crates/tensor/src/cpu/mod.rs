//! The CPU engine.

pub mod copy;
pub mod index;
pub mod matmul;
pub mod pool;
pub mod sort;
pub mod storage;
