//! The embedding table.

use crate::{Layer, Module, Param, init, note_output};
use fornax_tensor::{DType, Tensor};

/// A table of vectors looked up by index:
/// [`torch.nn.Embedding`](https://pytorch.org/docs/stable/generated/torch.nn.Embedding.html).
///
/// - input: integers of any shape `[..]` below `count`, output `[.., dim]`
/// - `weight [count, dim]`, standard normal
///
/// An index out of range is an error when the output is evaluated.
///
/// ```
/// use fornax_nn::{Embedding, Layer};
/// use fornax_tensor::Tensor;
/// let table = Embedding::new(10, 3);
/// let y = table.forward(&Tensor::from_vec(vec![1i64, 2, 4, 5], [2, 2]));
/// assert_eq!(y.shape(), [2, 2, 3]);
/// ```
#[derive(Module, Clone)]
pub struct Embedding {
    /// `[count, dim]`.
    pub weight: Param,
    #[module(skip)]
    padding_idx: Option<usize>,
}

impl Embedding {
    /// A table of `count` vectors of size `dim`.
    pub fn new(count: usize, dim: usize) -> Self {
        Embedding {
            weight: Param::new(init::normal([count, dim], 0.0, 1.0)),
            padding_idx: None,
        }
    }

    /// A table of given vectors `[count, dim]`.
    #[track_caller]
    pub fn from_pretrained(weight: Tensor) -> Self {
        if weight.rank() != 2 {
            panic!(
                "Embedding: a table is [count, dim], not {:?}",
                weight.shape()
            );
        }
        Embedding {
            weight: Param::new(weight),
            padding_idx: None,
        }
    }

    /// Makes the vector at `index` zero and keeps it from training.
    ///
    /// # Panics
    /// If there is no such row.
    #[track_caller]
    pub fn padding_idx(mut self, index: usize) -> Self {
        let count = self.weight.dim(0);
        if index >= count {
            panic!("Embedding: padding_idx {index} of a table of {count}");
        }
        let row = Tensor::arange(count, DType::I64)
            .eq_scalar(index as i64)
            .unsqueeze(1);
        let weight = self.weight.masked_fill(&row, 0.0);
        self.weight.set(init::ready(weight));
        self.padding_idx = Some(index);
        self
    }
}

impl Layer for Embedding {
    #[track_caller]
    fn forward(&self, index: &Tensor) -> Tensor {
        let mut y = self.weight.embedding(index);
        if let Some(padding) = self.padding_idx {
            // The same value, but the padding row gets no gradient through it.
            let is_padding = index.eq_scalar(padding as i64).unsqueeze(-1);
            y = is_padding.where_(&y.detach(), &y);
        }
        note_output(self, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::value_and_grad;

    #[test]
    fn the_padding_row_is_zero_and_stays() {
        let table = Embedding::new(3, 2).padding_idx(1);
        let index = Tensor::from_vec(vec![1i64, 2, 2], [3]);
        let (_, grads) = value_and_grad(&table, |t| (t.forward(&index) * 3.0).sum(..));
        assert_eq!(
            grads.get("weight").unwrap().to_vec::<f32>(),
            [0., 0., 0., 0., 6., 6.]
        );
        assert_eq!(table.weight.to_vec::<f32>()[2..4], [0., 0.]);
    }

    #[test]
    fn an_index_out_of_range_is_an_error() {
        let table = Embedding::from_pretrained(Tensor::ones([3, 2], DType::F32));
        let y = table.forward(&Tensor::from_vec(vec![3i64], [1]));
        assert!(y.try_eval().unwrap_err().to_string().contains('3'));
    }
}
