//! Recurrent layers over sequences, and their single steps.

mod cells;

pub use cells::{GRUCell, LSTMCell, RNNCell};

use crate::module::{Entry, EntryMut, Path};
use crate::{Layer, Module, Param, init, note_output};
use fornax_tensor::{Cell, DType, Recurrence, Tensor};
use serde::{Deserialize, Serialize};

/// What a plain recurrent network bends its sums with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecurrentActivation {
    /// `tanh`.
    #[default]
    Tanh,
    /// `relu`.
    Relu,
}

impl RecurrentActivation {
    fn cell(self) -> Cell {
        match self {
            RecurrentActivation::Tanh => Cell::Tanh,
            RecurrentActivation::Relu => Cell::Relu,
        }
    }
}

/// The weights of one layer and direction.
#[derive(Module, Clone)]
struct Weights {
    weight_ih: Param,
    weight_hh: Param,
    bias_ih: Option<Param>,
    bias_hh: Option<Param>,
}

impl Weights {
    fn new(cell: Cell, inputs: usize, hidden: usize, bias: bool) -> Self {
        let rows = cell.gates() * hidden;
        let of = |shape: &[usize]| Param::new(init::fan_in_uniform(shape, hidden));
        Weights {
            weight_ih: of(&[rows, inputs]),
            weight_hh: of(&[rows, hidden]),
            bias_ih: bias.then(|| of(&[rows])),
            bias_hh: bias.then(|| of(&[rows])),
        }
    }

    fn hidden(&self) -> usize {
        self.weight_hh.dim(1)
    }

    fn inputs(&self) -> usize {
        self.weight_ih.dim(1)
    }

    /// The biases as [`Cell`] wants them: PyTorch keeps two, although most are only added up.
    fn bias(&self, cell: Cell) -> Tensor {
        let h = self.hidden();
        match (&self.bias_ih, &self.bias_hh, cell) {
            (Some(x), Some(u), Cell::Gru) => {
                let gates = x.narrow(0, 0, 2 * h) + u.narrow(0, 0, 2 * h);
                Tensor::cat(&[gates, x.narrow(0, 2 * h, h), u.narrow(0, 2 * h, h)], 0)
            }
            (Some(x), Some(u), _) => &**x + &**u,
            _ => Tensor::zeros([cell.biases() * h], self.weight_hh.dtype()),
        }
    }

    /// One direction over `x [time, batch, in]`.
    #[track_caller]
    fn run(
        &self,
        x: &Tensor,
        h0: &Tensor,
        c0: Option<&Tensor>,
        options: Recurrence<'_>,
    ) -> (Tensor, Tensor, Option<Tensor>) {
        let bias = self.bias(options.cell);
        let products = x.linear(&self.weight_ih, None);
        products.recurrent(&self.weight_hh, &bias, h0, c0, options)
    }
}

/// Layers and directions of one kind of cell.
#[derive(Clone)]
struct Stack {
    cell: Cell,
    inputs: usize,
    hidden: usize,
    bias: bool,
    batch_first: bool,
    dropout: f64,
    bidirectional: bool,
    /// Layer after layer, the reverse direction behind the other.
    weights: Vec<Weights>,
}

/// States `[layers * directions, batch, hidden]`: of all cells, and an LSTM's memory.
struct States {
    h: Tensor,
    c: Option<Tensor>,
}

impl Stack {
    fn new(cell: Cell, inputs: usize, hidden: usize) -> Self {
        let mut stack = Stack {
            cell,
            inputs,
            hidden,
            bias: true,
            batch_first: false,
            dropout: 0.0,
            bidirectional: false,
            weights: Vec::new(),
        };
        stack.build(1);
        stack
    }

    fn directions(&self) -> usize {
        1 + self.bidirectional as usize
    }

    fn layers(&self) -> usize {
        self.weights.len() / self.directions()
    }

    /// Draws all weights anew.
    fn build(&mut self, layers: usize) {
        let directions = self.directions();
        let inputs = |layer: usize| match layer {
            0 => self.inputs,
            _ => self.hidden * directions,
        };
        self.weights = (0..layers * directions)
            .map(|i| Weights::new(self.cell, inputs(i / directions), self.hidden, self.bias))
            .collect();
    }

    #[track_caller]
    fn set_layers(&mut self, name: &str, layers: usize) {
        if layers == 0 {
            panic!("{name}: num_layers must be at least 1");
        }
        self.build(layers);
    }

    fn set_bidirectional(&mut self, on: bool) {
        let layers = self.layers();
        self.bidirectional = on;
        self.build(layers);
    }

    fn set_bias(&mut self, on: bool) {
        self.bias = on;
        self.build(self.layers());
    }

    #[track_caller]
    fn set_dropout(&mut self, name: &str, p: f64) {
        if !(0.0..=1.0).contains(&p) {
            panic!("{name}: the probability must be between 0 and 1, not {p}");
        }
        self.dropout = p;
    }

    /// Checks shapes, and brings the arguments into the order `[time, batch, ..]`.
    #[track_caller]
    fn run(
        &self,
        name: &str,
        x: &Tensor,
        states: Option<States>,
        lengths: Option<&Tensor>,
    ) -> (Tensor, States) {
        let batched = match x.rank() {
            2 => false,
            3 => true,
            _ => panic!(
                "{name}: expected [time, batch, {0}] or [time, {0}], got {1:?}",
                self.inputs,
                x.shape()
            ),
        };
        if x.dim(-1) != self.inputs {
            panic!(
                "{name}: inputs of size {} for a layer of {} ({:?})",
                x.dim(-1),
                self.inputs,
                x.shape()
            );
        }
        let turned = batched && self.batch_first;
        let x = match (batched, turned) {
            (false, _) => x.unsqueeze(1),
            (_, true) => x.transpose(0, 1),
            _ => x.clone(),
        };
        let (steps, batch) = (x.dim(0), x.dim(1));
        if steps == 0 {
            panic!("{name}: a sequence has at least one time step");
        }
        let count = self.weights.len();
        let given = |s: &Tensor| {
            let s = if batched { s.clone() } else { s.unsqueeze(1) };
            if s.shape() != [count, batch, self.hidden] {
                panic!(
                    "{name}: a state of {:?}, expected [{count}, {batch}, {}]",
                    s.shape(),
                    self.hidden
                );
            }
            s
        };
        let zeros = || Tensor::zeros([count, batch, self.hidden], x.dtype());
        let states = match states {
            Some(s) => States {
                h: given(&s.h),
                c: s.c.as_ref().map(given),
            },
            None => States {
                h: zeros(),
                c: (self.cell == Cell::Lstm).then(zeros),
            },
        };
        let seen = lengths.map(|lengths| {
            if lengths.shape() != [batch] || lengths.dtype().is_float() {
                panic!(
                    "{name}: lengths are integers [{batch}], not {} {:?}",
                    lengths.dtype(),
                    lengths.shape()
                );
            }
            let time = Tensor::arange(steps, DType::I64).unsqueeze(1);
            time.lt(&lengths.to_dtype(DType::I64))
        });
        let (y, states) = self.walk(x, &states, seen.as_ref());
        let y = match &seen {
            Some(seen) => y.masked_fill(&seen.logical_not().unsqueeze(-1), 0.0),
            None => y,
        };
        match (batched, turned) {
            (false, _) => {
                let states = States {
                    h: states.h.squeeze(1),
                    c: states.c.map(|c| c.squeeze(1)),
                };
                (y.squeeze(1), states)
            }
            (_, true) => (y.transpose(0, 1), states),
            _ => (y, states),
        }
    }

    /// All layers over `x [time, batch, in]`.
    #[track_caller]
    fn walk(&self, mut x: Tensor, states: &States, seen: Option<&Tensor>) -> (Tensor, States) {
        let (mut h, mut c) = (Vec::new(), Vec::new());
        let directions = self.directions();
        let at = |s: &Tensor, i: usize| s.narrow(0, i, 1).squeeze(0);
        for (layer, weights) in self.weights.chunks(directions).enumerate() {
            if layer > 0 {
                x = x.dropout(self.dropout);
            }
            let mut outputs = Vec::new();
            for (direction, weights) in weights.iter().enumerate() {
                let i = layer * directions + direction;
                let options = Recurrence {
                    cell: self.cell,
                    reverse: direction == 1,
                    mask: seen,
                };
                let c0 = states.c.as_ref().map(|c| at(c, i));
                let (y, state, cell) = weights.run(&x, &at(&states.h, i), c0.as_ref(), options);
                outputs.push(y);
                h.push(state);
                c.extend(cell);
            }
            x = match outputs.len() {
                1 => outputs.remove(0),
                _ => Tensor::cat(&outputs, -1),
            };
        }
        let states = States {
            h: Tensor::stack(&h, 0),
            c: (!c.is_empty()).then(|| Tensor::stack(&c, 0)),
        };
        (x, states)
    }
}

/// PyTorch's names: `weight_ih_l0`, .. `bias_hh_l1_reverse`.
impl Module for Stack {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>)) {
        for (i, w) in self.weights.iter().enumerate() {
            let suffix = suffix(i, self.directions());
            path.scope(format_args!("weight_ih{suffix}"), |p| {
                w.weight_ih.visit(p, f)
            });
            path.scope(format_args!("weight_hh{suffix}"), |p| {
                w.weight_hh.visit(p, f)
            });
            path.scope(format_args!("bias_ih{suffix}"), |p| w.bias_ih.visit(p, f));
            path.scope(format_args!("bias_hh{suffix}"), |p| w.bias_hh.visit(p, f));
        }
    }

    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>)) {
        let directions = self.directions();
        for (i, w) in self.weights.iter_mut().enumerate() {
            let suffix = suffix(i, directions);
            path.scope(format_args!("weight_ih{suffix}"), |p| {
                w.weight_ih.visit_mut(p, f)
            });
            path.scope(format_args!("weight_hh{suffix}"), |p| {
                w.weight_hh.visit_mut(p, f)
            });
            path.scope(format_args!("bias_ih{suffix}"), |p| {
                w.bias_ih.visit_mut(p, f)
            });
            path.scope(format_args!("bias_hh{suffix}"), |p| {
                w.bias_hh.visit_mut(p, f)
            });
        }
    }
}

fn suffix(i: usize, directions: usize) -> String {
    let reverse = if i % directions == 1 { "_reverse" } else { "" };
    format!("_l{}{reverse}", i / directions)
}

macro_rules! recurrent {
    ($(#[$doc:meta])* $name:ident, $cell:expr) => {
        $(#[$doc])*
        #[derive(Module, Clone)]
        pub struct $name {
            #[module(flatten)]
            inner: Stack,
        }

        impl $name {
            /// One layer and direction from `inputs` to `hidden` features.
            ///
            /// # Panics
            /// If `hidden` is 0.
            #[track_caller]
            pub fn new(inputs: usize, hidden: usize) -> Self {
                if hidden == 0 {
                    panic!("{}: the hidden size must be at least 1", stringify!($name));
                }
                $name { inner: Stack::new($cell, inputs, hidden) }
            }

            /// How many layers stand on each other, each reading the outputs of the one below; 1
            /// by default. Like every option that changes their shapes, it draws the weights anew.
            ///
            /// # Panics
            /// If there is none.
            #[track_caller]
            pub fn num_layers(mut self, layers: usize) -> Self {
                self.inner.set_layers(stringify!($name), layers);
                self
            }

            /// With biases (the default) or without.
            pub fn bias(mut self, on: bool) -> Self {
                self.inner.set_bias(on);
                self
            }

            /// Whether inputs and outputs are `[batch, time, ..]` and not `[time, batch, ..]`, the
            /// default. States have the layers first in any case.
            pub fn batch_first(mut self, on: bool) -> Self {
                self.inner.batch_first = on;
                self
            }

            /// The probability that an element of a layer's output, the last layer's aside, is
            /// dropped while a gradient is being recorded; 0 by default.
            ///
            /// # Panics
            /// If it is not between 0 and 1.
            #[track_caller]
            pub fn dropout(mut self, p: f64) -> Self {
                self.inner.set_dropout(stringify!($name), p);
                self
            }

            /// Whether every layer also walks backwards in time, its outputs beside the others.
            pub fn bidirectional(mut self, on: bool) -> Self {
                self.inner.set_bidirectional(on);
                self
            }
        }

        /// The outputs alone, from states of zero.
        impl Layer for $name {
            #[track_caller]
            fn forward(&self, x: &Tensor) -> Tensor {
                let (y, _) = self.inner.run(stringify!($name), x, None, None);
                note_output(self, y)
            }
        }
    };
}

recurrent! {
    /// Layers of `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)` over a sequence:
    /// [`torch.nn.RNN`](https://pytorch.org/docs/stable/generated/torch.nn.RNN.html)
    /// (Elman 1990).
    ///
    /// - input `[time, batch, in]`, output `[time, batch, directions * hidden]`: the states of the
    ///   last layer after every step (see [`batch_first`](RNN::batch_first)); without a batch,
    ///   `[time, ..]`
    /// - `weight_ih_l0 [hidden, in]`, `weight_hh_l0 [hidden, hidden]`, `bias_ih_l0` and
    ///   `bias_hh_l0 [hidden]`, then those of the reverse direction and of further layers, all
    ///   uniform within `1 / sqrt(hidden)` of zero
    ///
    /// ```
    /// use fornax_nn::RNN;
    /// use fornax_tensor::{DType, Tensor};
    /// let layer = RNN::new(10, 20).num_layers(2);
    /// let x = Tensor::randn([5, 3, 10], DType::F32);
    /// let (y, h) = layer.run(&x, None, None);
    /// assert_eq!((y.shape(), h.shape()), (&[5, 3, 20][..], &[2, 3, 20][..]));
    /// ```
    RNN, Cell::Tanh
}

recurrent! {
    /// Long short-term memory over a sequence:
    /// [`torch.nn.LSTM`](https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html)
    /// (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).
    ///
    /// `i, f, g, o` of `W_ih x + b_ih + W_hh h + b_hh`; `c' = sigmoid(f) c + sigmoid(i) tanh(g)`;
    /// `h' = sigmoid(o) tanh(c')`.
    ///
    /// - input `[time, batch, in]`, output `[time, batch, directions * hidden]`: the states of the
    ///   last layer after every step (see [`batch_first`](LSTM::batch_first)); without a batch,
    ///   `[time, ..]`
    /// - `weight_ih_l0 [4 * hidden, in]`, `weight_hh_l0 [4 * hidden, hidden]`, `bias_ih_l0` and
    ///   `bias_hh_l0 [4 * hidden]`, then those of the reverse direction and of further layers, all
    ///   uniform within `1 / sqrt(hidden)` of zero
    ///
    /// ```
    /// use fornax_nn::LSTM;
    /// use fornax_tensor::{DType, Tensor};
    /// let layer = LSTM::new(10, 20).num_layers(2).bidirectional(true).batch_first(true);
    /// let x = Tensor::randn([3, 5, 10], DType::F32);
    /// let (y, (h, c)) = layer.run(&x, None, None);
    /// assert_eq!(y.shape(), [3, 5, 40]);
    /// assert_eq!((h.shape(), c.shape()), (&[4, 3, 20][..], &[4, 3, 20][..]));
    /// let (_, _) = layer.run(&x, Some((&h, &c)), None); // goes on from there
    /// ```
    LSTM, Cell::Lstm
}

recurrent! {
    /// Gated recurrent units over a sequence:
    /// [`torch.nn.GRU`](https://pytorch.org/docs/stable/generated/torch.nn.GRU.html)
    /// (Cho et al. 2014, the reset gate behind the product).
    ///
    /// `r, z = sigmoid(W_ih x + b_ih + W_hh h + b_hh)`;
    /// `n = tanh(W_in x + b_in + r (W_hn h + b_hn))`; `h' = (1 - z) n + z h`.
    ///
    /// - input `[time, batch, in]`, output `[time, batch, directions * hidden]`: the states of the
    ///   last layer after every step (see [`batch_first`](GRU::batch_first)); without a batch,
    ///   `[time, ..]`
    /// - `weight_ih_l0 [3 * hidden, in]`, `weight_hh_l0 [3 * hidden, hidden]`, `bias_ih_l0` and
    ///   `bias_hh_l0 [3 * hidden]`, then those of the reverse direction and of further layers, all
    ///   uniform within `1 / sqrt(hidden)` of zero
    ///
    /// ```
    /// use fornax_nn::GRU;
    /// use fornax_tensor::{DType, Tensor};
    /// let layer = GRU::new(10, 20);
    /// let x = Tensor::randn([5, 3, 10], DType::F32);
    /// let lengths = Tensor::from_vec(vec![5i64, 2, 4], [3]);
    /// let (y, h) = layer.run(&x, None, Some(&lengths));
    /// assert_eq!((y.shape(), h.shape()), (&[5, 3, 20][..], &[1, 3, 20][..]));
    /// assert_eq!(y.narrow(0, 4, 1).narrow(1, 1, 1).abs().sum(..).item(), 0.0); // past its end
    /// ```
    GRU, Cell::Gru
}

impl RNN {
    /// `tanh` (the default) or `relu`.
    pub fn nonlinearity(mut self, f: RecurrentActivation) -> Self {
        self.inner.cell = f.cell();
        self
    }
}

macro_rules! run_with_one_state {
    ($($name:ident)*) => {$(
        impl $name {
            /// The outputs, and the states `[layers * directions, batch, hidden]` after the last
            /// step. `state` is where they begin, zero if not given.
            ///
            /// With `lengths` (integers `[batch]`) sequence `i` ends after `lengths[i]` steps: the
            /// outputs behind are 0, the last state is that of its own last step, and the reverse
            /// direction begins there (PyTorch's packed sequences).
            ///
            /// # Panics
            /// If shapes do not fit, or there is no time step.
            #[track_caller]
            pub fn run(
                &self,
                x: &Tensor,
                state: Option<&Tensor>,
                lengths: Option<&Tensor>,
            ) -> (Tensor, Tensor) {
                let states = state.map(|h| States { h: h.clone(), c: None });
                let (y, states) = self.inner.run(stringify!($name), x, states, lengths);
                (note_output(self, y), states.h)
            }
        }
    )*};
}
run_with_one_state! { RNN GRU }

impl LSTM {
    /// The outputs, and the states and cells `[layers * directions, batch, hidden]` after the last
    /// step. `state` is where they begin, zero if not given.
    ///
    /// With `lengths` (integers `[batch]`) sequence `i` ends after `lengths[i]` steps: the outputs
    /// behind are 0, the last state is that of its own last step, and the reverse direction begins
    /// there (PyTorch's packed sequences).
    ///
    /// # Panics
    /// If shapes do not fit, or there is no time step.
    #[track_caller]
    pub fn run(
        &self,
        x: &Tensor,
        state: Option<(&Tensor, &Tensor)>,
        lengths: Option<&Tensor>,
    ) -> (Tensor, (Tensor, Tensor)) {
        let states = state.map(|(h, c)| States {
            h: h.clone(),
            c: Some(c.clone()),
        });
        let (y, states) = self.inner.run("LSTM", x, states, lengths);
        let c = states.c.expect("an LSTM has cells");
        (note_output(self, y), (states.h, c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::{manual_seed, value_and_grad, with_training};

    #[test]
    fn names_and_starting_weights_are_pytorchs() {
        manual_seed(1);
        let layer = LSTM::new(3, 16).num_layers(2).bidirectional(true);
        let names: Vec<String> = layer.named_parameters().into_iter().map(|p| p.0).collect();
        assert_eq!(
            names[..5],
            [
                "weight_ih_l0",
                "weight_hh_l0",
                "bias_ih_l0",
                "bias_hh_l0",
                "weight_ih_l0_reverse"
            ]
        );
        assert_eq!(names[15], "bias_hh_l1_reverse");
        let shapes: Vec<Vec<usize>> = layer
            .named_parameters()
            .iter()
            .map(|p| p.1.shape().to_vec())
            .collect();
        assert_eq!(shapes[0], [64, 3]);
        assert_eq!(shapes[8], [64, 32]);
        let largest = layer.named_parameters()[9].1.abs().max(..).item();
        assert!(largest <= 0.25 && largest > 0.24, "{largest}");
        assert_eq!(GRU::new(3, 4).bias(false).num_parameters(), 12 * 7);
    }

    #[test]
    fn a_sequence_in_parts_is_the_whole() {
        manual_seed(2);
        let layer = LSTM::new(3, 5).num_layers(2);
        let x = Tensor::randn([7, 2, 3], DType::F32);
        let (y, (h, c)) = layer.run(&x, None, None);
        let (y1, (h1, c1)) = layer.run(&x.narrow(0, 0, 4), None, None);
        let (y2, (h2, c2)) = layer.run(&x.narrow(0, 4, 3), Some((&h1, &c1)), None);
        // Products of other sizes may round otherwise, so the last bits may differ.
        for (part, whole) in [(Tensor::cat(&[y1, y2], 0), y), (h2, h), (c2, c)] {
            let apart = (part - whole).abs().max(..).item();
            assert!(apart < 1e-6, "{apart}");
        }
    }

    #[test]
    fn dropout_stands_between_layers_and_drops_in_training() {
        manual_seed(3);
        let x = Tensor::randn([4, 2, 3], DType::F32);
        let one = GRU::new(3, 5).dropout(1.0);
        let same = |a: &Tensor, b: &Tensor| a.to_vec::<f32>() == b.to_vec::<f32>();
        let trained = with_training(true, || one.forward(&x));
        assert!(same(&trained, &one.forward(&x)), "the last layer keeps all");
        let two = GRU::new(3, 5).num_layers(2).dropout(1.0);
        let trained = with_training(true, || two.forward(&x));
        assert!(!same(&trained, &two.forward(&x)));
    }

    #[test]
    fn half_precision_goes_through() {
        manual_seed(4);
        let mut layer = GRU::new(3, 5);
        crate::to_dtype(&mut layer, DType::BF16);
        let x = Tensor::randn([4, 2, 3], DType::BF16);
        let (loss, grads) = value_and_grad(&layer, |l| l.forward(&x).square().sum(..));
        assert_eq!(loss.dtype(), DType::BF16);
        assert!(grads.iter().all(|(_, g)| g.dtype() == DType::BF16));
    }

    #[test]
    #[should_panic(expected = "LSTM: a state of [2, 3, 5], expected [1, 2, 5]")]
    fn a_state_that_does_not_fit() {
        let (h, x) = (
            Tensor::zeros([2, 3, 5], DType::F32),
            Tensor::zeros([4, 2, 3], DType::F32),
        );
        LSTM::new(3, 5).run(&x, Some((&h, &h)), None);
    }

    #[test]
    #[should_panic(expected = "RNN: inputs of size 2 for a layer of 3")]
    fn inputs_that_do_not_fit() {
        RNN::new(3, 5).forward(&Tensor::zeros([4, 2, 2], DType::F32));
    }
}
