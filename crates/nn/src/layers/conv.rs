//! Convolutions, channels first.

use crate::{Layer, Module, Param, init, note_output};
use fornax_tensor::{ConvSpec, Shape, Tensor};

/// One number for every spatial axis, or one per axis.
#[track_caller]
pub(crate) fn per_axis<const N: usize>(what: &str, value: Shape) -> [usize; N] {
    match value.len() {
        1 => [value[0]; N],
        n if n == N => std::array::from_fn(|i| value[i]),
        n => panic!("{what}: {n} values for {N} spatial axes"),
    }
}

macro_rules! convolution {
    ($(#[$doc:meta])* $name:ident, $spatial:literal, $op:ident) => {
        $(#[$doc])*
        #[derive(Module, Clone)]
        pub struct $name {
            /// `[out, in / groups, kernel..]`.
            pub weight: Param,
            /// `[out]`.
            pub bias: Option<Param>,
            #[module(skip)]
            inputs: usize,
            #[module(skip)]
            spec: ConvSpec,
            #[module(skip)]
            dilation: [usize; $spatial],
            #[module(skip)]
            same: bool,
        }

        impl $name {
            /// A layer from `inputs` to `outputs` channels with the given kernel size.
            #[track_caller]
            pub fn new(inputs: usize, outputs: usize, kernel: impl Into<Shape>) -> Self {
                let kernel = per_axis(stringify!($name), kernel.into());
                let (weight, bias) = Self::draw(inputs, outputs, kernel, 1);
                $name {
                    weight,
                    bias: Some(bias),
                    inputs,
                    spec: ConvSpec::new(),
                    dilation: [1; $spatial],
                    same: false,
                }
            }

            #[track_caller]
            fn draw(
                inputs: usize,
                outputs: usize,
                kernel: [usize; $spatial],
                groups: usize,
            ) -> (Param, Param) {
                if groups == 0 || !inputs.is_multiple_of(groups) || !outputs.is_multiple_of(groups) {
                    panic!(
                        "{}: {inputs} input and {outputs} output channels do not divide into {groups} groups",
                        stringify!($name)
                    );
                }
                let shape: Shape = [outputs, inputs / groups].into_iter().chain(kernel).collect();
                let fan_in = shape[1..].iter().product();
                (
                    Param::new(init::fan_in_uniform(shape, fan_in)),
                    Param::new(init::fan_in_uniform([outputs], fan_in)),
                )
            }

            fn kernel(&self) -> [usize; $spatial] {
                std::array::from_fn(|i| self.weight.shape()[2 + i])
            }

            /// Step of the kernel over the input; 1 by default.
            pub fn stride(mut self, stride: impl Into<Shape>) -> Self {
                self.spec = self.spec.stride(stride);
                self
            }

            /// Zeros added on both sides of each axis; 0 by default.
            pub fn padding(mut self, padding: impl Into<Shape>) -> Self {
                self.spec = self.spec.padding(padding);
                self.same = false;
                self
            }

            /// As many zeros as keep the size at stride 1, the odd one at the end: PyTorch's
            /// `padding="same"`.
            pub fn padding_same(mut self) -> Self {
                self.spec = self.spec.padding(0);
                self.same = true;
                self
            }

            /// Distance between the elements of the kernel; 1 by default.
            #[track_caller]
            pub fn dilation(mut self, dilation: impl Into<Shape>) -> Self {
                self.dilation = per_axis(stringify!($name), dilation.into());
                self.spec = self.spec.dilation(self.dilation);
                self
            }

            /// Channel groups; 1 by default, the number of input channels for a depthwise
            /// convolution. Draws the weights anew.
            ///
            /// # Panics
            /// If the channels do not divide into the groups.
            #[track_caller]
            pub fn groups(mut self, groups: usize) -> Self {
                let outputs = self.weight.dim(0);
                let (weight, bias) = Self::draw(self.inputs, outputs, self.kernel(), groups);
                self.weight = weight;
                self.bias = self.bias.is_some().then_some(bias);
                self.spec = self.spec.groups(groups);
                self
            }

            /// With a bias (the default) or without.
            pub fn bias(mut self, on: bool) -> Self {
                if on != self.bias.is_some() {
                    let fan_in = self.weight.shape()[1..].iter().product();
                    let outputs = self.weight.dim(0);
                    self.bias = on.then(|| Param::new(init::fan_in_uniform([outputs], fan_in)));
                }
                self
            }
        }

        impl Layer for $name {
            #[track_caller]
            fn forward(&self, x: &Tensor) -> Tensor {
                let padded = if self.same && x.rank() == $spatial + 2 {
                    let mut pads = vec![(0, 0); $spatial + 2];
                    for (i, kernel) in self.kernel().into_iter().enumerate() {
                        let total = self.dilation[i] * kernel.saturating_sub(1);
                        pads[2 + i] = (total / 2, total - total / 2);
                    }
                    &x.pad(&pads, 0.0)
                } else {
                    x
                };
                note_output(self, padded.$op(&self.weight, self.bias.as_deref(), &self.spec))
            }
        }
    };
}

convolution! {
    /// Cross-correlation along one axis:
    /// [`torch.nn.Conv1d`](https://pytorch.org/docs/stable/generated/torch.nn.Conv1d.html).
    ///
    /// - input `[batch, in, length]`, output `[batch, out, length']` with
    ///   `length' = (length + 2 padding - dilation (kernel - 1) - 1) / stride + 1`
    /// - `weight [out, in / groups, kernel]` and `bias [out]`, both uniform within
    ///   `1 / sqrt(in / groups * kernel)` of zero
    ///
    /// ```
    /// use fornax_nn::{Conv1d, Layer};
    /// use fornax_tensor::{DType, Tensor};
    /// let layer = Conv1d::new(16, 33, 3).stride(2);
    /// assert_eq!(layer.forward(&Tensor::zeros([20, 16, 50], DType::F32)).shape(), [20, 33, 24]);
    /// ```
    Conv1d, 1, conv1d
}

convolution! {
    /// Cross-correlation over an image:
    /// [`torch.nn.Conv2d`](https://pytorch.org/docs/stable/generated/torch.nn.Conv2d.html)
    /// (LeCun et al. 1989).
    ///
    /// - input `[batch, in, h, w]`, output `[batch, out, h', w']` with
    ///   `h' = (h + 2 padding - dilation (kernel - 1) - 1) / stride + 1`
    /// - `weight [out, in / groups, kh, kw]` and `bias [out]`, both uniform within
    ///   `1 / sqrt(in / groups * kh * kw)` of zero
    ///
    /// Kernel, stride, padding and dilation are one number for both axes or `[vertical,
    /// horizontal]`.
    ///
    /// ```
    /// use fornax_nn::{Conv2d, Layer};
    /// use fornax_tensor::{DType, Tensor};
    /// let layer = Conv2d::new(3, 8, 3).padding(1).stride([2, 1]);
    /// assert_eq!(layer.forward(&Tensor::zeros([2, 3, 32, 32], DType::F32)).shape(), [2, 8, 16, 32]);
    /// ```
    Conv2d, 2, conv2d
}

/// The transpose of a convolution, which enlarges an image:
/// [`torch.nn.ConvTranspose2d`](https://pytorch.org/docs/stable/generated/torch.nn.ConvTranspose2d.html)
/// (Zeiler et al. 2010).
///
/// - input `[batch, in, h, w]`, output `[batch, out, h', w']` with
///   `h' = (h - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1`
/// - `weight [in, out / groups, kh, kw]` and `bias [out]`, both uniform within
///   `1 / sqrt(out / groups * kh * kw)` of zero
///
/// ```
/// use fornax_nn::{ConvTranspose2d, Layer};
/// use fornax_tensor::{DType, Tensor};
/// let layer = ConvTranspose2d::new(16, 8, 4).stride(2).padding(1);
/// assert_eq!(layer.forward(&Tensor::zeros([1, 16, 7, 7], DType::F32)).shape(), [1, 8, 14, 14]);
/// ```
#[derive(Module, Clone)]
pub struct ConvTranspose2d {
    /// `[in, out / groups, kh, kw]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    #[module(skip)]
    outputs: usize,
    #[module(skip)]
    spec: ConvSpec,
}

impl ConvTranspose2d {
    /// A layer from `inputs` to `outputs` channels with the given kernel size.
    #[track_caller]
    pub fn new(inputs: usize, outputs: usize, kernel: impl Into<Shape>) -> Self {
        let kernel = per_axis("ConvTranspose2d", kernel.into());
        let (weight, bias) = Self::draw(inputs, outputs, kernel, 1);
        ConvTranspose2d {
            weight,
            bias: Some(bias),
            outputs,
            spec: ConvSpec::new(),
        }
    }

    #[track_caller]
    fn draw(inputs: usize, outputs: usize, [h, w]: [usize; 2], groups: usize) -> (Param, Param) {
        if groups == 0 || !inputs.is_multiple_of(groups) || !outputs.is_multiple_of(groups) {
            panic!(
                "ConvTranspose2d: {inputs} input and {outputs} output channels do not divide into {groups} groups"
            );
        }
        let fan_in = outputs / groups * h * w;
        (
            Param::new(init::fan_in_uniform(
                [inputs, outputs / groups, h, w],
                fan_in,
            )),
            Param::new(init::fan_in_uniform([outputs], fan_in)),
        )
    }

    /// How far apart the input's elements land in the output; 1 by default.
    pub fn stride(mut self, stride: impl Into<Shape>) -> Self {
        self.spec = self.spec.stride(stride);
        self
    }

    /// What is cut off on both sides of each axis; 0 by default.
    pub fn padding(mut self, padding: impl Into<Shape>) -> Self {
        self.spec = self.spec.padding(padding);
        self
    }

    /// What is added at the end of each axis; 0 by default.
    pub fn output_padding(mut self, padding: impl Into<Shape>) -> Self {
        self.spec = self.spec.output_padding(padding);
        self
    }

    /// Distance between the elements of the kernel; 1 by default.
    pub fn dilation(mut self, dilation: impl Into<Shape>) -> Self {
        self.spec = self.spec.dilation(dilation);
        self
    }

    /// Channel groups; 1 by default. Draws the weights anew.
    ///
    /// # Panics
    /// If the channels do not divide into the groups.
    #[track_caller]
    pub fn groups(mut self, groups: usize) -> Self {
        let &[inputs, _, h, w] = self.weight.shape() else {
            unreachable!("the weight has four dimensions")
        };
        let (weight, bias) = Self::draw(inputs, self.outputs, [h, w], groups);
        self.weight = weight;
        self.bias = self.bias.is_some().then_some(bias);
        self.spec = self.spec.groups(groups);
        self
    }

    /// With a bias (the default) or without.
    pub fn bias(mut self, on: bool) -> Self {
        if on != self.bias.is_some() {
            let fan_in = self.weight.shape()[1..].iter().product();
            self.bias = on.then(|| Param::new(init::fan_in_uniform([self.outputs], fan_in)));
        }
        self
    }
}

impl Layer for ConvTranspose2d {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let y = x.conv_transpose2d(&self.weight, self.bias.as_deref(), &self.spec);
        note_output(self, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::DType;

    fn ones(shape: &[usize]) -> Tensor {
        Tensor::ones(shape, DType::F32)
    }

    #[test]
    fn a_depthwise_convolution_sums_each_channel() {
        let mut layer = Conv2d::new(2, 2, [2, 3]).groups(2).bias(false);
        assert_eq!(layer.weight.shape(), [2, 1, 2, 3]);
        layer.weight.set(ones(&[2, 1, 2, 3]));
        let x = Tensor::cat(&[ones(&[1, 1, 3, 4]), ones(&[1, 1, 3, 4]) * 2.0], 1);
        let y = layer.forward(&x);
        assert_eq!(y.shape(), [1, 2, 2, 2]);
        assert_eq!(y.to_vec::<f32>(), [6., 6., 6., 6., 12., 12., 12., 12.]);
    }

    #[test]
    fn same_padding_keeps_the_size() {
        let layer = Conv1d::new(1, 1, 4).padding_same().dilation(2);
        assert_eq!(layer.forward(&ones(&[2, 1, 9])).shape(), [2, 1, 9]);
        let mut layer = Conv1d::new(1, 1, 2).padding_same().bias(false);
        layer.weight.set(ones(&[1, 1, 2]));
        // The odd zero is at the end.
        assert_eq!(
            layer.forward(&ones(&[1, 1, 3])).to_vec::<f32>(),
            [2., 2., 1.]
        );
    }

    #[test]
    fn a_transposed_convolution_spreads_its_kernel() {
        let mut layer = ConvTranspose2d::new(1, 1, 2).stride(2).bias(false);
        layer
            .weight
            .set(Tensor::from_vec(vec![1f32, 2., 3., 4.], [1, 1, 2, 2]));
        let x = Tensor::from_vec(vec![1f32, 10.], [1, 1, 1, 2]);
        assert_eq!(
            layer.forward(&x).to_vec::<f32>(),
            [1., 2., 10., 20., 3., 4., 30., 40.]
        );
        let layer = ConvTranspose2d::new(4, 6, 3)
            .groups(2)
            .stride(2)
            .output_padding(1)
            .padding(1);
        assert_eq!(layer.forward(&ones(&[1, 4, 5, 5])).shape(), [1, 6, 10, 10]);
    }

    #[test]
    #[should_panic(expected = "3 input and 4 output channels do not divide into 2 groups")]
    fn groups_must_divide_the_channels() {
        let _ = Conv2d::new(3, 4, 3).groups(2);
    }

    #[test]
    #[should_panic(expected = "3 values for 2 spatial axes")]
    fn kernels_have_one_size_per_axis() {
        let _ = Conv2d::new(3, 4, [3, 3, 3]);
    }
}
