//! Tensors, automatic differentiation, planning and the CPU engine of Fornax.

pub mod cpu;
mod dtype;
mod shape;
pub mod tape;

pub use dtype::{DType, Element};
pub use half::{bf16, f16};
pub use shape::{Axes, INFER, Layout, Shape, Strides};
