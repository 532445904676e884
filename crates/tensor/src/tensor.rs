//! `Tensor`: the handle that users hold, and reading values out of it.

use crate::dtype::{DType, Element};
use crate::engine::Storage;
use crate::error::Result;
use crate::eval;
use crate::node::{Inputs, Node, Value};
use crate::prim::Prim;
use crate::shape::{Layout, Shape, axis_index};
use crate::with_dtype;
use std::fmt;
use std::sync::{Arc, Weak};

/// An n-dimensional array: a cheap handle on a node of a lazy graph.
///
/// Calling an op only notes it down; reading a value ([`item`](Tensor::item),
/// [`to_vec`](Tensor::to_vec), [`eval`](Tensor::eval)) plans and runs what is needed, fused.
/// Element type, shape and rank are values, not type parameters. Names, defaults, broadcasting
/// and promotion follow PyTorch. Mistakes in shapes or types panic at the caller's line.
///
/// ```
/// use fornax_tensor::Tensor;
/// let a = Tensor::from_vec(vec![1f32, 2., 3., 4.], [2, 2]);
/// let b = (a.matmul(&a.t()) + 1.0).relu();
/// assert_eq!(b.to_vec::<f32>(), [6., 12., 12., 26.]);
/// ```
#[derive(Clone)]
pub struct Tensor(pub(crate) Arc<Node>);

impl Tensor {
    // ---- building

    pub(crate) fn from_node(prim: Prim, inputs: Inputs, shape: Shape, dtype: DType) -> Tensor {
        Tensor(Node::new(prim, inputs, shape, dtype))
    }

    /// A node whose shape and type follow from its inputs.
    pub(crate) fn op<const N: usize>(prim: Prim, inputs: [&Tensor; N]) -> Tensor {
        let described = inputs.map(|t| (&t.0.shape, t.0.dtype));
        let (shape, dtype) = prim.infer(&described);
        let mut list = Inputs::new();
        inputs.iter().for_each(|&t| list.push(t.clone()));
        Tensor::from_node(prim, list, shape, dtype)
    }

    /// A node whose shape is given.
    pub(crate) fn op_shaped<const N: usize>(
        prim: Prim,
        inputs: [&Tensor; N],
        shape: Shape,
    ) -> Tensor {
        let dtype = inputs[0].dtype();
        Tensor::from_node(prim, inputs.into_iter().cloned().collect(), shape, dtype)
    }

    pub(crate) fn leaf(storage: Storage, shape: Shape, dtype: DType) -> Tensor {
        let value = Value {
            storage: Arc::new(storage),
            layout: Layout::contiguous(shape.clone()),
        };
        Tensor(Node::with_value(shape, dtype, value))
    }

    // ---- describing

    /// The sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// The size of one dimension; a negative axis counts from the end.
    #[track_caller]
    pub fn dim(&self, axis: isize) -> usize {
        self.0.shape[axis_index("dim", axis, self.rank())]
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.shape.len()
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.0.shape.numel()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Whether two handles stand for the same node.
    pub fn same(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A handle that does not keep the tensor: it neither stops an evaluation from forgetting
    /// the value nor from writing another in its place.
    pub fn downgrade(&self) -> WeakTensor {
        WeakTensor(Arc::downgrade(&self.0))
    }

    // ---- reading

    /// Computes the value now and keeps it.
    ///
    /// # Panics
    /// If an index read from data is out of range; [`try_eval`](Tensor::try_eval) returns that as
    /// an error instead.
    #[track_caller]
    pub fn eval(&self) -> &Tensor {
        if let Err(e) = self.try_eval() {
            panic!("{e}");
        }
        self
    }

    /// Computes the value now and keeps it, or says which index of the data was out of range.
    pub fn try_eval(&self) -> Result<()> {
        eval::eval(std::slice::from_ref(self))
    }

    /// Whether the value has been computed.
    pub fn is_evaluated(&self) -> bool {
        self.0.state().value.is_some()
    }

    pub(crate) fn value(&self) -> Result<Value> {
        if let Some(value) = &self.0.state().value {
            return Ok(Value::clone(value));
        }
        self.try_eval()?;
        let state = self.0.state();
        let value = state.value.as_ref();
        Ok(Value::clone(value.expect("an evaluated node has a value")))
    }

    /// The elements in row-major order.
    ///
    /// # Panics
    /// If `T` is not the element type.
    #[track_caller]
    pub fn to_vec<T: Element>(&self) -> Vec<T> {
        if T::DTYPE != self.dtype() {
            panic!(
                "to_vec: the tensor holds {}, not {}",
                self.dtype(),
                T::DTYPE
            );
        }
        match self.value() {
            Ok(value) => value.storage.read(&value.layout),
            Err(e) => panic!("{e}"),
        }
    }

    /// The elements in row-major order as `f64`, whatever their type.
    #[track_caller]
    pub fn to_f64_vec(&self) -> Vec<f64> {
        with_dtype!(self.dtype(), T => self.to_vec::<T>().into_iter().map(|v| v.to_f64()).collect())
    }

    /// The one element of a tensor of one element, as `f64`.
    ///
    /// # Panics
    /// If there is not exactly one element.
    #[track_caller]
    pub fn item(&self) -> f64 {
        if self.numel() != 1 {
            panic!(
                "item: a tensor of shape {:?} has {} elements, not 1",
                self.shape(),
                self.numel()
            );
        }
        self.to_f64_vec()[0]
    }
}

/// See [`Tensor::downgrade`].
#[derive(Clone)]
pub struct WeakTensor(Weak<Node>);

impl WeakTensor {
    /// The tensor, while something else still holds it and its memory.
    pub fn upgrade(&self) -> Option<Tensor> {
        // An evaluation relies on nobody taking hold of what it may overwrite.
        let _pause = eval::pause();
        let tensor = Tensor(self.0.upgrade()?);
        let overwritten = matches!(tensor.0.prim, Prim::Data) && tensor.0.state().value.is_none();
        (!overwritten).then_some(tensor)
    }
}

/// Computes several tensors in one plan, so that what they share is computed once.
///
/// ```
/// use fornax_tensor::{eval_all, Tensor};
/// let x = Tensor::ones([3], fornax_tensor::DType::F32);
/// let (a, b) = (&x + 1.0, &x * 3.0);
/// eval_all(&[&a, &b]).unwrap();
/// assert!(a.is_evaluated() && b.is_evaluated());
/// ```
pub fn eval_all(tensors: &[&Tensor]) -> Result<()> {
    let roots: Vec<Tensor> = tensors.iter().map(|&t| t.clone()).collect();
    eval::eval(&roots)
}

impl fmt::Debug for Tensor {
    /// Shape, type and the first few values (which are computed for it).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}, {:?}", self.dtype(), self.shape())?;
        let Ok(value) = self.value() else {
            return write!(f, ", failed)");
        };
        const SHOWN: usize = 8;
        let all = self.numel();
        let flat: Vec<f64> = with_dtype!(self.dtype(), T => {
            value.storage.read::<T>(&value.layout).iter().take(SHOWN).map(|v| v.to_f64()).collect()
        });
        let list: Vec<String> = flat.iter().map(|v| format!("{v}")).collect();
        write!(
            f,
            ", [{}{}])",
            list.join(", "),
            if all > SHOWN { ", .." } else { "" }
        )
    }
}
