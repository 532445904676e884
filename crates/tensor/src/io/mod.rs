//! Tensors in files.

mod atomic;
pub mod npy;
pub mod safetensors;

pub use atomic::{is_leftover, remove_leftovers, write_atomic};
pub use npy::{load as load_npy, save as save_npy};
pub use safetensors::{load as load_safetensors, save as save_safetensors};
