//! Layers, initialisers, losses, optimizers, schedules and metrics of Fornax.
//!
//! Names, defaults, formulas and weight layouts are those of `torch.nn` and `torch.optim`, so a
//! saved model moves between the two without an adapter.
//!
//! A model is a plain struct that derives [`Module`]; its forward pass is a plain function:
//!
//! ```
//! use fornax_nn::{AdamW, CrossEntropyLoss, Layer, Linear, Loss, Module, Optimizer};
//! use fornax_tensor::{DType, Tensor, value_and_grad};
//!
//! #[derive(Module)]
//! struct Net {
//!     fc1: Linear,
//!     fc2: Linear,
//! }
//!
//! impl Net {
//!     fn forward(&self, x: &Tensor) -> Tensor {
//!         self.fc2.forward(&self.fc1.forward(x).relu())
//!     }
//! }
//!
//! let mut net = Net { fc1: Linear::new(4, 16), fc2: Linear::new(16, 3) };
//! let mut optimizer = AdamW::new(1e-2);
//! let (x, y) = (Tensor::randn([8, 4], DType::F32), Tensor::randint(0, 3, [8]));
//! for _ in 0..3 {
//!     let (loss, grads) =
//!         value_and_grad(&net, |net| CrossEntropyLoss::default().forward(&net.forward(&x), &y));
//!     optimizer.step(&mut net, grads)?;
//!     println!("{}", loss.item());
//! }
//! # Ok::<(), fornax_nn::Error>(())
//! ```
//!
//! Where to look: a layer in [`layers`], its starting weights in [`init`], what is minimised in
//! [`loss`], how in [`optim`], at which rate in [`schedule`], how well it went in [`metrics`].

// `#[derive(Module)]` names this crate by its own name, here too.
extern crate self as fornax_nn;

mod clip;
mod error;
pub mod functional;
pub mod init;
mod layer;
pub mod layers;
mod lora;
pub mod loss;
pub mod metrics;
pub mod optim;
mod penalty;
pub mod schedule;
mod sequential;
mod state;
mod summary;

pub use fornax_derive::Module;
pub use fornax_tensor::module;

pub use clip::{clip_grad_norm, clip_grad_value, grad_norm};
pub use error::{Error, Result};
pub use layer::{Lambda, Layer};
pub use layers::*;
pub use lora::Lora;
pub use loss::{
    BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, KLDivLoss, L1Loss, Loss, MSELoss,
    NLLLoss, Reduction, SmoothL1Loss,
};
pub use module::{Buffer, Entry, EntryMut, Kind, Module, Param, Path};
pub use optim::{Adafactor, Adagrad, Adam, AdamW, Group, Optimizer, OptimizerState, RMSprop, SGD};
pub use penalty::{l1_penalty, l2_penalty};
pub use schedule::Schedule;
pub use sequential::Sequential;
pub use state::{load, load_state_dict, save, to_dtype};
pub use summary::{Row, Summary, note_output, summary, summary_of, thousands};
