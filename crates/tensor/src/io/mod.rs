//! Tensors in files.

mod atomic;
pub mod gguf;
mod map;
pub mod npy;
pub mod safetensors;
mod sharded;

pub use atomic::{is_leftover, remove_leftovers, write_atomic};
pub use gguf::Gguf;
pub use map::Map;
pub use npy::{load as load_npy, save as save_npy};
pub use safetensors::{load as load_safetensors, save as save_safetensors};
pub use sharded::{Sharded, read_index};
