//! Recurrent layers over a whole sequence.

use crate::fast::{Cell, Fast, Recur, rnn};
use crate::node::current_scope;
use crate::precision::Precision;
use crate::tensor::Tensor;

/// The options of [`Tensor::recurrent`].
#[derive(Clone, Copy, Debug)]
pub struct Recurrence<'a> {
    /// What a time step computes.
    pub cell: Cell,
    /// Whether to walk from the last time step to the first.
    pub reverse: bool,
    /// Numbers or booleans `[time, batch]`: where it is 0 or false, the state stays as it is.
    pub mask: Option<&'a Tensor>,
}

impl Recurrence<'_> {
    /// From the first time step to the last, without a mask.
    pub fn new(cell: Cell) -> Self {
        Recurrence {
            cell,
            reverse: false,
            mask: None,
        }
    }
}

impl Tensor {
    /// One layer and direction of a recurrent network: the states `[time, batch, hidden]` after
    /// each step, the last state and, for an LSTM, the last cell `[batch, hidden]`.
    ///
    /// - `self [time, batch, gates * hidden]`: the products of the inputs with the input weights
    /// - `weight [gates * hidden, hidden]`: what states are multiplied with
    /// - `bias [biases * hidden]`: see [`Cell`]
    /// - `h0 [batch, hidden]`, and `c0` alike for an LSTM: the states before the first step
    ///
    /// `f32` is multiplied with the [`Precision`] in force.
    ///
    /// It computes what `torch.nn.RNN`, `LSTM` and `GRU` do with PyTorch's order of gates, all time
    /// steps in one kernel.
    ///
    /// ```
    /// use fornax_tensor::{Cell, DType, Recurrence, Tensor};
    /// let x = Tensor::randn([7, 2, 4 * 5], DType::F32);
    /// let weight = Tensor::randn([4 * 5, 5], DType::F32) * 0.3;
    /// let (bias, zeros) = (Tensor::zeros([20], DType::F32), Tensor::zeros([2, 5], DType::F32));
    /// let options = Recurrence::new(Cell::Lstm);
    /// let (y, h, c) = x.recurrent(&weight, &bias, &zeros, Some(&zeros), options);
    /// assert_eq!((y.shape(), h.shape()), (&[7, 2, 5][..], &[2, 5][..]));
    /// assert_eq!(c.unwrap().shape(), [2, 5]);
    /// ```
    ///
    /// # Panics
    /// If shapes or types do not fit, there is no time step, or `c0` is missing or one too many.
    #[track_caller]
    pub fn recurrent(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        h0: &Tensor,
        c0: Option<&Tensor>,
        options: Recurrence<'_>,
    ) -> (Tensor, Tensor, Option<Tensor>) {
        let recur = Recur {
            cell: options.cell,
            reverse: options.reverse,
            masked: options.mask.is_some(),
            keeps: current_scope().is_some(),
            precision: Precision::current(),
        };
        if c0.is_some() != recur.cell.has_memory() {
            panic!(
                "recurrent: {:?} takes {} first cell",
                recur.cell,
                if c0.is_some() { "no" } else { "a" }
            );
        }
        let mask = options.mask.map(|mask| mask.to_dtype(self.dtype()));
        let inputs = [self, weight, bias, h0].into_iter().chain(c0).chain(&mask);
        let flat = Fast::Recurrent(recur).call(&inputs.collect::<Vec<_>>());
        let steps = self.dim(0);
        let (y, cell) = rnn::results(&recur, &flat, steps, h0.shape());
        let last = if recur.reverse { 0 } else { steps - 1 };
        let state = y.narrow(0, last, 1).squeeze(0);
        (y, state, cell)
    }
}
