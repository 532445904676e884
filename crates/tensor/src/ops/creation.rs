//! Tensors from data, and tensors full of one thing.

use super::elementwise::integer_range;
use crate::dtype::{DType, Element};
use crate::engine::Storage;
use crate::node::Inputs;
use crate::prim::Prim;
use crate::shape::Shape;
use crate::tape::Scalar;
use crate::tensor::Tensor;

impl Tensor {
    /// A tensor of `data` in row-major order.
    ///
    /// # Panics
    /// If the shape does not hold exactly that many elements.
    #[track_caller]
    pub fn from_vec<T: Element>(data: Vec<T>, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_slice(&data, shape)
    }

    /// A tensor of a copy of `data` in row-major order.
    ///
    /// # Panics
    /// If the shape does not hold exactly that many elements.
    #[track_caller]
    pub fn from_slice<T: Element>(data: &[T], shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        if shape.numel() != data.len() {
            panic!(
                "from_slice: {} elements do not fill the shape {shape:?}",
                data.len()
            );
        }
        Tensor::leaf(Storage::from_slice(data), shape, T::DTYPE)
    }

    /// A tensor without dimensions.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor::from_slice(&[value], ())
    }

    /// `value` everywhere. Costs no memory until it is read as such. Integers get the whole part.
    ///
    /// # Panics
    /// If an integer type cannot hold the value. As in PyTorch, `U8` takes -255 to -1 modulo 256.
    #[track_caller]
    pub fn full(shape: impl Into<Shape>, value: f64, dtype: DType) -> Tensor {
        let scalar = match integer_range(dtype) {
            None if dtype == DType::Bool => Scalar::Bool(value != 0.0),
            None => Scalar::F64(value),
            Some((low, high)) => {
                let low = if dtype == DType::U8 { -high } else { low };
                // The float next to `i64::MAX` lies above it, where `as` saturates.
                let whole = value.trunc();
                let fits = (low as f64..=high as f64).contains(&whole) && whole != i64::MAX as f64;
                if !fits {
                    panic!("full: {value} is not within {dtype}");
                }
                Scalar::I64(whole as i64)
            }
        };
        Tensor::constant(scalar, shape.into(), dtype)
    }

    pub(crate) fn constant(scalar: Scalar, shape: Shape, dtype: DType) -> Tensor {
        Tensor::from_node(Prim::Const(scalar), Inputs::new(), shape, dtype)
    }

    /// 0 everywhere.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        Tensor::full(shape, 0.0, dtype)
    }

    /// 1 everywhere.
    pub fn ones(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        Tensor::full(shape, 1.0, dtype)
    }

    /// 0 everywhere, of this tensor's shape and type.
    pub fn zeros_like(&self) -> Tensor {
        self.full_like(0.0)
    }

    /// 1 everywhere, of this tensor's shape and type.
    pub fn ones_like(&self) -> Tensor {
        self.full_like(1.0)
    }

    /// `value` everywhere, of this tensor's shape and type.
    #[track_caller]
    pub fn full_like(&self, value: f64) -> Tensor {
        Tensor::full(self.shape(), value, self.dtype())
    }

    /// `0, 1, .. n-1`.
    ///
    /// # Panics
    /// For `Bool`.
    #[track_caller]
    pub fn arange(n: usize, dtype: DType) -> Tensor {
        if dtype == DType::Bool {
            panic!("arange: there is no range of bool");
        }
        if matches!(dtype, DType::F16 | DType::BF16 | DType::U8) {
            return Tensor::arange(n, DType::I64).to_dtype(dtype);
        }
        Tensor::from_node(Prim::Iota, Inputs::new(), Shape::from([n]), dtype)
    }

    /// `n` evenly spaced values from `start` to `end`, both included.
    pub fn linspace(start: f64, end: f64, n: usize, dtype: DType) -> Tensor {
        let step = if n > 1 {
            (end - start) / (n - 1) as f64
        } else {
            0.0
        };
        let values: Vec<f64> = (0..n)
            .map(|i| {
                if i + 1 == n && n > 1 {
                    end
                } else {
                    start + step * i as f64
                }
            })
            .collect();
        Tensor::from_vec(values, [n]).to_dtype(dtype)
    }

    /// The identity matrix.
    pub fn eye(n: usize, dtype: DType) -> Tensor {
        let i = Tensor::arange(n, DType::I64);
        i.unsqueeze(1).eq(&i.unsqueeze(0)).to_dtype(dtype)
    }
}
