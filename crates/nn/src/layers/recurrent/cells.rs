//! Single steps, for loops that feed outputs back.

use super::{RecurrentActivation, Weights};
use crate::Module;
use fornax_tensor::{Cell, Recurrence, Tensor};

impl Weights {
    /// One step for `x [batch, in]` or `[in]`, with states alike.
    #[track_caller]
    fn step(
        &self,
        name: &str,
        cell: Cell,
        x: &Tensor,
        h: Option<&Tensor>,
        c: Option<&Tensor>,
    ) -> (Tensor, Option<Tensor>) {
        let batched = x.rank() == 2;
        if !matches!(x.rank(), 1 | 2) || x.dim(-1) != self.inputs() {
            panic!(
                "{name}: expected [batch, {0}] or [{0}], got {1:?}",
                self.inputs(),
                x.shape()
            );
        }
        let wide = |t: &Tensor| if batched { t.clone() } else { t.unsqueeze(0) };
        let x = wide(x);
        let expected = [x.dim(0), self.hidden()];
        let state = |s: Option<&Tensor>| match s.map(wide) {
            Some(s) if s.shape() != expected => {
                panic!("{name}: a state of {:?}, expected {expected:?}", s.shape())
            }
            Some(s) => s,
            None => Tensor::zeros(expected, x.dtype()),
        };
        let h0 = state(h);
        let c0 = (cell == Cell::Lstm).then(|| state(c));
        let options = Recurrence::new(cell);
        let (_, h, c) = self.run(&x.unsqueeze(0), &h0, c0.as_ref(), options);
        let narrow = |t: Tensor| if batched { t } else { t.squeeze(0) };
        (narrow(h), c.map(narrow))
    }
}

macro_rules! cell {
    ($(#[$doc:meta])* $name:ident, $cell:expr) => {
        $(#[$doc])*
        #[derive(Module, Clone)]
        pub struct $name {
            #[module(flatten)]
            weights: Weights,
            #[module(skip)]
            cell: Cell,
        }

        impl $name {
            /// A cell from `inputs` to `hidden` features.
            ///
            /// # Panics
            /// If `hidden` is 0.
            #[track_caller]
            pub fn new(inputs: usize, hidden: usize) -> Self {
                if hidden == 0 {
                    panic!("{}: the hidden size must be at least 1", stringify!($name));
                }
                let weights = Weights::new($cell, inputs, hidden, true);
                $name { weights, cell: $cell }
            }

            /// With biases (the default) or without; draws the weights anew.
            pub fn bias(mut self, on: bool) -> Self {
                let (inputs, hidden) = (self.weights.inputs(), self.weights.hidden());
                self.weights = Weights::new(self.cell, inputs, hidden, on);
                self
            }
        }
    };
}

cell! {
    /// One step of an [`RNN`](crate::RNN):
    /// [`torch.nn.RNNCell`](https://pytorch.org/docs/stable/generated/torch.nn.RNNCell.html).
    ///
    /// - input `[batch, in]`, state `[batch, hidden]` (zero if not given), or both without a batch
    /// - `weight_ih [hidden, in]`, `weight_hh [hidden, hidden]`, `bias_ih` and `bias_hh [hidden]`
    ///
    /// ```
    /// use fornax_nn::RNNCell;
    /// use fornax_tensor::{DType, Tensor};
    /// let cell = RNNCell::new(10, 20);
    /// let mut h = Tensor::zeros([3, 20], DType::F32);
    /// for _ in 0..6 {
    ///     h = cell.forward(&Tensor::randn([3, 10], DType::F32), Some(&h));
    /// }
    /// assert_eq!(h.shape(), [3, 20]);
    /// ```
    RNNCell, Cell::Tanh
}

cell! {
    /// One step of an [`LSTM`](crate::LSTM):
    /// [`torch.nn.LSTMCell`](https://pytorch.org/docs/stable/generated/torch.nn.LSTMCell.html).
    ///
    /// - input `[batch, in]`, state and cell `[batch, hidden]` (zero if not given), or all without
    ///   a batch
    /// - `weight_ih [4 * hidden, in]`, `weight_hh [4 * hidden, hidden]`, `bias_ih` and
    ///   `bias_hh [4 * hidden]`
    ///
    /// ```
    /// use fornax_nn::LSTMCell;
    /// use fornax_tensor::{DType, Tensor};
    /// let (cell, x) = (LSTMCell::new(10, 20), Tensor::randn([3, 10], DType::F32));
    /// let (h, c) = cell.forward(&x, None);
    /// let (h, _) = cell.forward(&x, Some((&h, &c)));
    /// assert_eq!(h.shape(), [3, 20]);
    /// ```
    LSTMCell, Cell::Lstm
}

cell! {
    /// One step of a [`GRU`](crate::GRU):
    /// [`torch.nn.GRUCell`](https://pytorch.org/docs/stable/generated/torch.nn.GRUCell.html).
    ///
    /// - input `[batch, in]`, state `[batch, hidden]` (zero if not given), or both without a batch
    /// - `weight_ih [3 * hidden, in]`, `weight_hh [3 * hidden, hidden]`, `bias_ih` and
    ///   `bias_hh [3 * hidden]`
    ///
    /// ```
    /// use fornax_nn::GRUCell;
    /// use fornax_tensor::{DType, Tensor};
    /// let h = GRUCell::new(10, 20).forward(&Tensor::randn([10], DType::F32), None);
    /// assert_eq!(h.shape(), [20]);
    /// ```
    GRUCell, Cell::Gru
}

impl RNNCell {
    /// `tanh` (the default) or `relu`.
    pub fn nonlinearity(mut self, f: RecurrentActivation) -> Self {
        self.cell = f.cell();
        self
    }
}

macro_rules! step_with_one_state {
    ($($name:ident)*) => {$(
        impl $name {
            /// The state after one step.
            ///
            /// # Panics
            /// If shapes do not fit.
            #[track_caller]
            pub fn forward(&self, x: &Tensor, state: Option<&Tensor>) -> Tensor {
                self.weights.step(stringify!($name), self.cell, x, state, None).0
            }
        }
    )*};
}
step_with_one_state! { RNNCell GRUCell }

impl LSTMCell {
    /// State and cell after one step.
    ///
    /// # Panics
    /// If shapes do not fit.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, state: Option<(&Tensor, &Tensor)>) -> (Tensor, Tensor) {
        let (h, c) = state.unzip();
        let (h, c) = self.weights.step("LSTMCell", self.cell, x, h, c);
        (h, c.expect("an LSTM has a cell"))
    }
}
