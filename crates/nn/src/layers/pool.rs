//! Pooling layers.

use super::conv::per_axis;
use crate::module::{Entry, EntryMut, Path};
use crate::{Layer, Module, note_output};
use fornax_tensor::{Shape, Tensor};

/// A layer of plain data has nothing to visit but is still a place in the tree.
macro_rules! no_parameters {
    ($($name:ident),* $(,)?) => {$(
        impl Module for $name {
            fn visit(&self, path: &mut Path, _: &mut dyn FnMut(Entry<'_>)) {
                path.enter(self);
            }
            fn visit_mut(&mut self, _: &mut Path, _: &mut dyn FnMut(&str, EntryMut<'_>)) {}
        }
    )*};
}
pub(crate) use no_parameters;

macro_rules! window {
    ($(#[$doc:meta])* $name:ident, $spatial:literal, { $($field:ident: $t:ty = $default:expr),* },
     |$x:ident, $s:ident| $call:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            kernel: [usize; $spatial],
            stride: [usize; $spatial],
            padding: [usize; $spatial],
            $($field: $t,)*
        }

        impl $name {
            /// Windows of this size, side by side.
            #[track_caller]
            pub fn new(kernel: impl Into<Shape>) -> Self {
                let kernel = per_axis(stringify!($name), kernel.into());
                $name { kernel, stride: kernel, padding: [0; $spatial], $($field: $default,)* }
            }

            /// Step of the window; its size by default.
            #[track_caller]
            pub fn stride(mut self, stride: impl Into<Shape>) -> Self {
                self.stride = per_axis(stringify!($name), stride.into());
                self
            }

            /// Padding on both sides of each axis, at most half the window; 0 by default.
            #[track_caller]
            pub fn padding(mut self, padding: impl Into<Shape>) -> Self {
                self.padding = per_axis(stringify!($name), padding.into());
                self
            }

            $(/// Whether the padding's zeros count in the mean; true by default.
            pub fn $field(mut self, on: $t) -> Self {
                self.$field = on;
                self
            })*
        }

        no_parameters!($name);

        impl Layer for $name {
            #[track_caller]
            fn forward(&self, $x: &Tensor) -> Tensor {
                let $s = self;
                note_output(self, $call)
            }
        }
    };
}

window! {
    /// The largest element of each window along the last axis:
    /// [`torch.nn.MaxPool1d`](https://pytorch.org/docs/stable/generated/torch.nn.MaxPool1d.html).
    ///
    /// `[batch, channels, length]` to `[batch, channels, length']` with
    /// `length' = (length + 2 padding - kernel) / stride + 1`.
    MaxPool1d, 1, {}, |x, s| x.max_pool1d(s.kernel[0], s.stride[0], s.padding[0])
}
window! {
    /// The largest element of each window of an image:
    /// [`torch.nn.MaxPool2d`](https://pytorch.org/docs/stable/generated/torch.nn.MaxPool2d.html).
    ///
    /// `[batch, channels, h, w]` to `[batch, channels, h', w']` with
    /// `h' = (h + 2 padding - kernel) / stride + 1`.
    ///
    /// ```
    /// use fornax_nn::{Layer, MaxPool2d};
    /// use fornax_tensor::Tensor;
    /// let x = Tensor::from_vec((0..16).map(|i| i as f32).collect(), [1, 1, 4, 4]);
    /// assert_eq!(MaxPool2d::new(2).forward(&x).to_vec::<f32>(), [5., 7., 13., 15.]);
    /// ```
    MaxPool2d, 2, {}, |x, s| x.max_pool2d(s.kernel, s.stride, s.padding)
}
window! {
    /// The mean of each window along the last axis:
    /// [`torch.nn.AvgPool1d`](https://pytorch.org/docs/stable/generated/torch.nn.AvgPool1d.html).
    ///
    /// Shapes as in [`MaxPool1d`].
    AvgPool1d, 1, { count_include_pad: bool = true },
    |x, s| x.avg_pool1d(s.kernel[0], s.stride[0], s.padding[0], s.count_include_pad)
}
window! {
    /// The mean of each window of an image:
    /// [`torch.nn.AvgPool2d`](https://pytorch.org/docs/stable/generated/torch.nn.AvgPool2d.html).
    ///
    /// Shapes as in [`MaxPool2d`].
    AvgPool2d, 2, { count_include_pad: bool = true },
    |x, s| x.avg_pool2d(s.kernel, s.stride, s.padding, s.count_include_pad)
}

macro_rules! adaptive {
    ($(#[$doc:meta])* $name:ident, $op:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            out: [usize; 2],
        }

        impl $name {
            /// A grid of `out` cells: one number for both axes, or `[vertical, horizontal]`.
            #[track_caller]
            pub fn new(out: impl Into<Shape>) -> Self {
                $name { out: per_axis(stringify!($name), out.into()) }
            }
        }

        no_parameters!($name);

        impl Layer for $name {
            #[track_caller]
            fn forward(&self, x: &Tensor) -> Tensor {
                note_output(self, x.$op(self.out))
            }
        }
    };
}

adaptive! {
    /// The mean of each cell of a grid laid over the image, whatever its size:
    /// [`torch.nn.AdaptiveAvgPool2d`](https://pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool2d.html).
    ///
    /// `[batch, channels, h, w]` to `[batch, channels, out, out]`. `AdaptiveAvgPool2d::new(1)` is
    /// global average pooling (Lin et al. 2014).
    AdaptiveAvgPool2d, adaptive_avg_pool2d
}
adaptive! {
    /// The largest element of each cell of a grid laid over the image, whatever its size:
    /// [`torch.nn.AdaptiveMaxPool2d`](https://pytorch.org/docs/stable/generated/torch.nn.AdaptiveMaxPool2d.html).
    ///
    /// `[batch, channels, h, w]` to `[batch, channels, out, out]`.
    AdaptiveMaxPool2d, adaptive_max_pool2d
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(h: usize, w: usize) -> Tensor {
        Tensor::from_vec((0..h * w).map(|i| i as f32).collect(), [1, 1, h, w])
    }

    #[test]
    fn windows_have_pytorchs_defaults() {
        let x = image(3, 4);
        assert_eq!(
            AvgPool2d::new([3, 2]).forward(&x).to_vec::<f32>(),
            [4.5, 6.5]
        );
        let padded = AvgPool2d::new(2).stride(2).padding(1);
        assert_eq!(padded.forward(&x).shape(), [1, 1, 2, 3]);
        assert_eq!(padded.forward(&x).to_vec::<f32>()[1], 0.75);
        let inside = padded.count_include_pad(false);
        assert_eq!(inside.forward(&x).to_vec::<f32>()[1], 1.5);
        assert_eq!(
            MaxPool2d::new(3)
                .stride(1)
                .padding(1)
                .forward(&x)
                .to_vec::<f32>()[0],
            5.0
        );
    }

    #[test]
    fn one_axis() {
        let x = Tensor::from_vec(vec![3f32, 1., 2., 5., 4.], [1, 1, 5]);
        assert_eq!(MaxPool1d::new(2).forward(&x).to_vec::<f32>(), [3., 5.]);
        assert_eq!(
            AvgPool1d::new(3).stride(1).forward(&x).to_vec::<f32>()[1],
            8. / 3.
        );
    }

    #[test]
    fn adaptive_pools_cover_any_size() {
        let x = image(3, 5);
        let y = AdaptiveAvgPool2d::new([2, 1]).forward(&x);
        assert_eq!(y.to_vec::<f32>(), [4.5, 9.5]);
        assert_eq!(AdaptiveMaxPool2d::new(1).forward(&x).to_vec::<f32>(), [14.]);
        assert_eq!(
            AdaptiveMaxPool2d::new([3, 2]).forward(&x).to_vec::<f32>()[..2],
            [2., 4.]
        );
    }
}
