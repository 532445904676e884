//! Layers that only rearrange.

use super::pool::no_parameters;
use crate::module::{Entry, EntryMut, Path};
use crate::{Layer, Module, note_output};
use fornax_tensor::Tensor;

/// Merges neighbouring axes into one:
/// [`torch.nn.Flatten`](https://pytorch.org/docs/stable/generated/torch.nn.Flatten.html).
///
/// By default all but the first, `[batch, c, h, w]` to `[batch, c * h * w]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Flatten {
    start: isize,
    end: isize,
}

impl Flatten {
    /// Merges the axes from `start` to `end`, both included.
    pub fn new(start: isize, end: isize) -> Self {
        Flatten { start, end }
    }
}

impl Default for Flatten {
    fn default() -> Self {
        Flatten::new(1, -1)
    }
}

impl Layer for Flatten {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        note_output(self, x.flatten(self.start, self.end))
    }
}

/// Passes its input on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Identity;

impl Layer for Identity {
    fn forward(&self, x: &Tensor) -> Tensor {
        note_output(self, x.clone())
    }
}

no_parameters!(Flatten, Identity);

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::DType;

    #[test]
    fn flatten_keeps_the_batch() {
        let x = Tensor::zeros([0, 2, 3], DType::F32);
        assert_eq!(Flatten::default().forward(&x).shape(), [0, 6]);
        assert_eq!(Flatten::new(0, 1).forward(&x).shape(), [0, 3]);
        assert_eq!(Identity.forward(&x).shape(), [0, 2, 3]);
    }
}
