//! `#[derive(Module)]`: the walk over a model's parameters, written by the compiler.
//!
//! See the derive itself, [`macro@Module`]; the trait lives in `fornax-tensor`.

mod expand;
mod facade;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Makes a struct or an enum a `Module`: its parameters and buffers become visible to optimizers,
/// checkpoints and summaries.
///
/// Every field is visited in order and must itself be a `Module`: a layer, a `Tensor`, a `Param`,
/// a `Buffer`, or an `Option`, `Vec`, `Box`, array or tuple of those. A field's name becomes one
/// segment of the parameter's name (`fc1.weight`); the fields of a tuple struct are `0`, `1`, ...
/// as in PyTorch's `Sequential`.
///
/// An enum is the variant it holds: the variant's name is not part of parameter names, and the
/// field of a one-field tuple variant stands for the whole.
///
/// Attributes of a field:
/// - `#[module(skip)]`: plain data, not visited (and needs not be a `Module`);
/// - `#[module(rename = "LayerNorm")]`: another name than the field's;
/// - `#[module(flatten)]`: no segment of its own; the field's parameters appear at this level.
///
/// Attribute of the type:
/// - `#[module(crate = path)]`: where `module::{Module, ...}` is found, if neither `fornax`,
///   `fornax-nn` nor `fornax-tensor` is a dependency under its own name.
///
/// ```ignore
/// #[derive(Module)]
/// struct Net {
///     fc1: Linear,
///     fc2: Option<Linear>,
///     #[module(skip)]
///     classes: usize,
/// }
/// ```
#[proc_macro_derive(Module, attributes(module))]
pub fn derive_module(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::module(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
