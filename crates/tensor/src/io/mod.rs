//! Tensors in files.

mod atomic;
pub mod safetensors;

pub use atomic::{is_leftover, remove_leftovers, write_atomic};
pub use safetensors::{load as load_safetensors, save as save_safetensors};
