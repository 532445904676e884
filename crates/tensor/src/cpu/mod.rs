//! The CPU engine.

pub mod pool;
pub mod storage;
