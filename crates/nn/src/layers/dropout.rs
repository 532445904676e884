//! Dropout.

use super::pool::no_parameters;
use crate::module::{Entry, EntryMut, Path};
use crate::{Layer, Module, note_output};
use fornax_tensor::Tensor;

/// Zeroes elements at random while a gradient is being recorded and scales the rest by
/// `1 / (1 - p)`; passes its input on otherwise:
/// [`torch.nn.Dropout`](https://pytorch.org/docs/stable/generated/torch.nn.Dropout.html)
/// (Srivastava et al. 2014).
///
/// Which elements is a function of the thread's generator, see [`fornax_tensor::manual_seed`].
/// For Monte-Carlo dropout, wrap the forward pass in
/// [`with_training(true, ..)`](fornax_tensor::with_training).
///
/// ```
/// use fornax_nn::{Dropout, Layer};
/// use fornax_tensor::{DType, Tensor, with_training};
/// let (layer, x) = (Dropout::new(0.5), Tensor::ones([1000], DType::F32));
/// assert_eq!(layer.forward(&x).sum(..).item(), 1000.0);
/// let kept = with_training(true, || layer.forward(&x));
/// assert!(kept.to_vec::<f32>().iter().all(|&v| v == 0.0 || v == 2.0));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    p: f64,
}

impl Dropout {
    /// Zeroes an element with probability `p` (PyTorch's default is 0.5).
    ///
    /// # Panics
    /// If `p` is not between 0 and 1.
    #[track_caller]
    pub fn new(p: f64) -> Self {
        if !(0.0..=1.0).contains(&p) {
            panic!("Dropout: the probability must be between 0 and 1, not {p}");
        }
        Dropout { p }
    }
}

no_parameters!(Dropout);

impl Layer for Dropout {
    fn forward(&self, x: &Tensor) -> Tensor {
        note_output(self, x.dropout(self.p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::{DType, manual_seed, with_training};

    #[test]
    fn the_share_and_the_mean_are_kept() {
        manual_seed(5);
        let x = Tensor::ones([20_000], DType::F32);
        let y = with_training(true, || Dropout::new(0.25).forward(&x)).to_vec::<f32>();
        let zeros = y.iter().filter(|&&v| v == 0.0).count() as f64 / 20_000.0;
        assert!((zeros - 0.25).abs() < 0.01, "{zeros}");
        assert!(y.iter().all(|&v| v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-6));
    }

    #[test]
    fn extremes() {
        let x = Tensor::ones([8], DType::F32);
        with_training(true, || {
            assert_eq!(Dropout::new(0.0).forward(&x).to_vec::<f32>(), [1.0; 8]);
            assert_eq!(Dropout::new(1.0).forward(&x).to_vec::<f32>(), [0.0; 8]);
        });
    }

    #[test]
    #[should_panic(expected = "between 0 and 1, not 1.5")]
    fn a_probability_is_a_probability() {
        Dropout::new(1.5);
    }
}
