//! What layers have in common.

use crate::module::{Entry, EntryMut, Module, Path};
use fornax_tensor::Tensor;

/// A [`Module`] that maps one tensor to another.
///
/// Layers are used behind `&self`; whether they train (dropout, batch norm) is known from the
/// recording, see [`fornax_tensor::is_recording`].
pub trait Layer: Module + Send + Sync {
    /// The layer's output for `x`.
    ///
    /// # Panics
    /// If the shape of `x` does not fit the layer.
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor;
}

impl<L: Layer + ?Sized> Layer for Box<L> {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        (**self).forward(x)
    }
}

/// `None` passes its input on.
impl<L: Layer> Layer for Option<L> {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Some(layer) => layer.forward(x),
            None => x.clone(),
        }
    }
}

/// A function as a layer without parameters.
///
/// ```
/// use fornax_nn::{Lambda, Layer};
/// use fornax_tensor::Tensor;
/// let double = Lambda(|x: &Tensor| x * 2.0);
/// assert_eq!(double.forward(&Tensor::from_vec(vec![1f32, 2.], [2])).to_vec::<f32>(), [2., 4.]);
/// ```
#[derive(Clone)]
pub struct Lambda<F>(pub F);

impl<F> Module for Lambda<F> {
    fn visit(&self, path: &mut Path, _: &mut dyn FnMut(Entry<'_>)) {
        path.enter(self);
    }
    fn visit_mut(&mut self, _: &mut Path, _: &mut dyn FnMut(&str, EntryMut<'_>)) {}
}

impl<F: Fn(&Tensor) -> Tensor + Send + Sync> Layer for Lambda<F> {
    fn forward(&self, x: &Tensor) -> Tensor {
        crate::note_output(self, (self.0)(x))
    }
}
