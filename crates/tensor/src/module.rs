//! What a model is to the rest of Fornax: a tree of named parameters and buffers.
//!
//! Optimizers, checkpoints, autodiff and summaries see a model only through [`Module`], which
//! walks that tree. `#[derive(Module)]` writes the walk for a plain struct; nobody writes it by
//! hand except for the few leaves in this file.
//!
//! Names are those of PyTorch's `state_dict`: field names and indices joined by dots, such as
//! `layers.0.weight`.

use crate::Tensor;
use std::fmt;
use std::fmt::Write as _;
use std::ops::Deref;
use std::sync::RwLock;

/// What an [`Entry`] is: trained by an optimizer, or only carried along and saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tensor that an optimizer may change.
    Param,
    /// State that the forward pass itself keeps, such as a running mean.
    Buffer,
}

/// One tensor of a module, as [`Module::visit`] shows it.
pub struct Entry<'a> {
    /// The full name, such as `fc1.weight`.
    pub path: &'a str,
    /// Parameter or buffer.
    pub kind: Kind,
    /// The tensor (a cheap handle).
    pub tensor: Tensor,
    /// Whether a gradient is wanted: false for buffers and frozen parameters.
    pub trainable: bool,
}

/// One tensor of a module, to be replaced, as [`Module::visit_mut`] shows it.
pub enum EntryMut<'a> {
    /// A parameter. `trainable` is `None` where the parameter is a plain [`Tensor`], which cannot
    /// be frozen.
    Param {
        /// The parameter's place.
        tensor: &'a mut Tensor,
        /// Its trainable flag, if it has one.
        trainable: Option<&'a mut bool>,
    },
    /// A buffer.
    Buffer(&'a Buffer),
}

impl EntryMut<'_> {
    /// The tensor that lies there now.
    pub fn tensor(&self) -> Tensor {
        match self {
            EntryMut::Param { tensor, .. } => (**tensor).clone(),
            EntryMut::Buffer(b) => b.get(),
        }
    }

    /// Puts another tensor there.
    pub fn set(self, new: Tensor) {
        match self {
            EntryMut::Param { tensor, .. } => *tensor = new,
            EntryMut::Buffer(b) => b.set(new),
        }
    }

    /// Whether an optimizer should change it.
    pub fn is_trainable(&self) -> bool {
        match self {
            EntryMut::Param { tensor, trainable } => {
                trainable.as_deref().copied().unwrap_or(true) && tensor.dtype().is_float()
            }
            EntryMut::Buffer(_) => false,
        }
    }
}

/// The name of the place a walk has reached, such as `encoder.layers.0`.
#[derive(Default)]
pub struct Path {
    name: String,
    record: Option<Vec<Visited>>,
}

/// A module met by a recording walk ([`Path::recording`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visited {
    /// Where it lies in the tree; empty for the root.
    pub path: String,
    /// Its type's name without module path and type parameters, such as `Conv2d`.
    pub type_name: &'static str,
    /// Its address while it is borrowed: tells which module reported something.
    pub address: usize,
}

impl Path {
    /// The root.
    pub fn new() -> Self {
        Path::default()
    }

    /// The root of a walk that also notes every module it enters; see [`Path::visited`].
    pub fn recording() -> Self {
        Path {
            name: String::new(),
            record: Some(Vec::new()),
        }
    }

    /// The name so far: empty at the root.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Runs `f` one level deeper, at `name` (a field's name or an index).
    pub fn scope<R>(&mut self, name: impl fmt::Display, f: impl FnOnce(&mut Path) -> R) -> R {
        let len = self.name.len();
        if len > 0 {
            self.name.push('.');
        }
        write!(self.name, "{name}").expect("writing to a String does not fail");
        let out = f(self);
        self.name.truncate(len);
        out
    }

    /// Notes that the walk stands at `module`. `#[derive(Module)]` calls this first.
    pub fn enter<M: Module>(&mut self, module: &M) {
        if let Some(record) = &mut self.record {
            record.push(Visited {
                path: self.name.clone(),
                type_name: short_type_name::<M>(),
                address: std::ptr::from_ref(module) as usize,
            });
        }
    }

    /// The modules entered so far, in order, parents first; empty unless recording.
    pub fn visited(&self) -> &[Visited] {
        self.record.as_deref().unwrap_or_default()
    }
}

/// A type's name without its module path and type parameters: `Linear`, `Sequential`.
pub fn short_type_name<T: ?Sized>() -> &'static str {
    let full = std::any::type_name::<T>();
    let head = full.split('<').next().unwrap_or(full);
    head.rsplit("::").next().unwrap_or(head)
}

/// A model or a part of one: a tree of named tensors.
///
/// Derive it: every field is visited in order under its own name, so a struct of layers is a
/// model. A field that holds no tensors is marked `#[module(skip)]`.
///
/// ```ignore
/// #[derive(Module)]
/// struct Net {
///     fc1: Linear,
///     fc2: Linear,
///     #[module(skip)]
///     dropout: f64,
/// }
/// ```
///
/// Implemented for [`Tensor`] (a parameter that cannot be frozen), [`Param`], [`Buffer`], and for
/// options, vectors, arrays, boxes and tuples of modules. The names inside a vector, array or
/// tuple are the indices.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Module`",
    label = "holds no parameters that Fornax can visit",
    note = "mark a field of plain data with `#[module(skip)]`, or derive `Module` for its type"
)]
pub trait Module {
    /// Shows every parameter and buffer to `f`, in a fixed order.
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>));

    /// Shows every parameter and buffer to `f` to be replaced, in the order of
    /// [`visit`](Module::visit). The first argument of `f` is the full name.
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>));

    /// The parameters with their full names, in order (frozen ones too).
    fn named_parameters(&self) -> Vec<(String, Tensor)> {
        self.named(Some(Kind::Param))
    }

    /// The buffers with their full names, in order.
    fn named_buffers(&self) -> Vec<(String, Tensor)> {
        self.named(Some(Kind::Buffer))
    }

    /// Everything that is saved: parameters and buffers with their full names, in order.
    fn state_dict(&self) -> Vec<(String, Tensor)> {
        self.named(None)
    }

    /// The entries of one kind, or of both, with their full names.
    #[doc(hidden)]
    fn named(&self, kind: Option<Kind>) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        self.visit(&mut Path::new(), &mut |e| {
            if kind.is_none_or(|k| k == e.kind) {
                out.push((e.path.to_owned(), e.tensor));
            }
        });
        out
    }

    /// The number of parameter elements, frozen ones included.
    fn num_parameters(&self) -> usize {
        let mut n = 0;
        self.visit(&mut Path::new(), &mut |e| {
            if e.kind == Kind::Param {
                n += e.tensor.numel();
            }
        });
        n
    }

    /// The number of parameter elements that train.
    fn num_trainable(&self) -> usize {
        let mut n = 0;
        self.visit(&mut Path::new(), &mut |e| {
            if e.trainable {
                n += e.tensor.numel();
            }
        });
        n
    }

    /// Stops the training of every parameter at or below `prefix` (`""` for all); returns how
    /// many parameters that is.
    ///
    /// # Panics
    /// If no parameter lies there, or if one is a plain [`Tensor`] (only a [`Param`] has a flag).
    #[track_caller]
    fn freeze(&mut self, prefix: &str) -> usize {
        self.set_trainable(prefix, false)
    }

    /// Lets every parameter at or below `prefix` train again; the reverse of
    /// [`freeze`](Module::freeze), with the same panics.
    #[track_caller]
    fn unfreeze(&mut self, prefix: &str) -> usize {
        self.set_trainable(prefix, true)
    }

    /// Sets the trainable flag of every parameter at or below `prefix`; see
    /// [`freeze`](Module::freeze).
    #[doc(hidden)]
    #[track_caller]
    fn set_trainable(&mut self, prefix: &str, on: bool) -> usize {
        // Looks before it changes anything, so that a refusal leaves the flags as they were.
        let mut count = 0;
        let mut fixed = None;
        self.visit_mut(&mut Path::new(), &mut |path, e| match e {
            EntryMut::Param { trainable, .. } if is_under(path, prefix) => {
                count += 1;
                if trainable.is_none() {
                    fixed.get_or_insert(path.to_owned());
                }
            }
            _ => {}
        });
        if let Some(path) = fixed {
            panic!("freeze: `{path}` is a plain Tensor, which always trains; make it a Param");
        }
        self.visit_mut(&mut Path::new(), &mut |path, e| match e {
            EntryMut::Param {
                trainable: Some(flag),
                ..
            } if is_under(path, prefix) => *flag = on,
            _ => {}
        });
        if count == 0 {
            let names: Vec<String> = self.named_parameters().into_iter().map(|p| p.0).collect();
            panic!(
                "freeze: no parameter lies under `{prefix}`; there are {}",
                names.join(", ")
            );
        }
        count
    }
}

/// Whether `path` is `prefix` itself or lies below it; everything lies below `""`.
pub fn is_under(path: &str, prefix: &str) -> bool {
    prefix.is_empty()
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A trainable tensor of a layer, with a flag that can freeze it.
///
/// Dereferences to its [`Tensor`], so `x.matmul(&self.weight)` works.
#[derive(Clone)]
pub struct Param {
    tensor: Tensor,
    trainable: bool,
}

impl Param {
    /// A parameter that trains, starting at `tensor`.
    ///
    /// # Panics
    /// If `tensor` is not of a floating-point type.
    #[track_caller]
    pub fn new(tensor: Tensor) -> Self {
        if !tensor.dtype().is_float() {
            panic!(
                "Param::new: a parameter must be of a float type, not {}; hold {} data in a Buffer",
                tensor.dtype(),
                tensor.dtype()
            );
        }
        Param {
            tensor,
            trainable: true,
        }
    }

    /// Puts another tensor in its place; the flag stays.
    pub fn set(&mut self, tensor: Tensor) {
        self.tensor = tensor;
    }

    /// Stops its training: it gets no gradient, and optimizers leave it alone.
    pub fn freeze(&mut self) {
        self.trainable = false;
    }

    /// Lets it train again.
    pub fn unfreeze(&mut self) {
        self.trainable = true;
    }

    /// Whether it trains.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }
}

impl Deref for Param {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

impl AsRef<Tensor> for Param {
    fn as_ref(&self) -> &Tensor {
        &self.tensor
    }
}

impl From<Tensor> for Param {
    #[track_caller]
    fn from(tensor: Tensor) -> Self {
        Param::new(tensor)
    }
}

/// A cell for state that a forward pass through `&self` updates, such as a running mean.
///
/// Saved with the parameters, never trained. A clone is a cell of its own.
pub struct Buffer(RwLock<Tensor>);

impl Buffer {
    /// A buffer that holds `tensor`.
    pub fn new(tensor: Tensor) -> Self {
        Buffer(RwLock::new(tensor))
    }

    /// What it holds now.
    pub fn get(&self) -> Tensor {
        // A panic while the lock is held cannot leave the handle half-written.
        self.0.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Replaces what it holds.
    pub fn set(&self, tensor: Tensor) {
        // The old handle is dropped after the lock is released: a drop may free a long graph.
        let old = {
            let mut cell = self.0.write().unwrap_or_else(|e| e.into_inner());
            std::mem::replace(&mut *cell, tensor)
        };
        drop(old);
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Buffer::new(self.get())
    }
}

impl Module for Tensor {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>)) {
        f(Entry {
            path: path.as_str(),
            kind: Kind::Param,
            tensor: self.clone(),
            trainable: self.dtype().is_float(),
        });
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>)) {
        f(
            path.as_str(),
            EntryMut::Param {
                tensor: self,
                trainable: None,
            },
        );
    }
}

impl Module for Param {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>)) {
        f(Entry {
            path: path.as_str(),
            kind: Kind::Param,
            tensor: self.tensor.clone(),
            trainable: self.trainable,
        });
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>)) {
        f(
            path.as_str(),
            EntryMut::Param {
                tensor: &mut self.tensor,
                trainable: Some(&mut self.trainable),
            },
        );
    }
}

impl Module for Buffer {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>)) {
        f(Entry {
            path: path.as_str(),
            kind: Kind::Buffer,
            tensor: self.get(),
            trainable: false,
        });
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>)) {
        f(path.as_str(), EntryMut::Buffer(self));
    }
}

impl Module for () {
    fn visit(&self, _: &mut Path, _: &mut dyn FnMut(Entry<'_>)) {}
    fn visit_mut(&mut self, _: &mut Path, _: &mut dyn FnMut(&str, EntryMut<'_>)) {}
}

impl<M: Module + ?Sized> Module for Box<M> {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>)) {
        (**self).visit(path, f);
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>)) {
        (**self).visit_mut(path, f);
    }
}

impl<M: Module> Module for Option<M> {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>)) {
        if let Some(m) = self {
            m.visit(path, f);
        }
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>)) {
        if let Some(m) = self {
            m.visit_mut(path, f);
        }
    }
}

impl<M: Module> Module for [M] {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>)) {
        for (i, m) in self.iter().enumerate() {
            path.scope(i, |path| m.visit(path, f));
        }
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>)) {
        for (i, m) in self.iter_mut().enumerate() {
            path.scope(i, |path| m.visit_mut(path, f));
        }
    }
}

macro_rules! module_via_slice {
    ($([$($g:tt)*] $t:ty;)*) => {$(
        impl<M: Module, $($g)*> Module for $t {
            fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>)) {
                self.as_slice().visit(path, f);
            }
            fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>)) {
                self.as_mut_slice().visit_mut(path, f);
            }
        }
    )*};
}
module_via_slice! {
    [] Vec<M>;
    [const N: usize] [M; N];
}

macro_rules! module_tuple {
    ($($M:ident $i:tt),*) => {
        impl<$($M: Module),*> Module for ($($M,)*) {
            fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>)) {
                $(path.scope($i, |path| self.$i.visit(path, f));)*
            }
            fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>)) {
                $(path.scope($i, |path| self.$i.visit_mut(path, f));)*
            }
        }
    };
}
module_tuple!(A 0);
module_tuple!(A 0, B 1);
module_tuple!(A 0, B 1, C 2);
module_tuple!(A 0, B 1, C 2, D 3);
module_tuple!(A 0, B 1, C 2, D 3, E 4);
module_tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

#[cfg(test)]
mod tests {
    use super::*;

    fn t(n: usize) -> Tensor {
        Tensor::from_vec(vec![0f32; n], [n])
    }

    #[test]
    fn names_join_fields_and_indices() {
        let m = (
            vec![Param::new(t(2)), Param::new(t(3))],
            Some(Buffer::new(t(1))),
            [t(4)],
        );
        let names: Vec<String> = m.state_dict().into_iter().map(|e| e.0).collect();
        assert_eq!(names, ["0.0", "0.1", "1", "2.0"]);
        assert_eq!(m.num_parameters(), 9);
        assert_eq!(m.named_buffers().len(), 1);
        let none: Option<Param> = None;
        assert_eq!(none.state_dict().len(), 0);
    }

    #[test]
    fn freezing_goes_by_whole_segments() {
        let mut m: Vec<Param> = (0..12).map(|_| Param::new(t(1))).collect();
        assert_eq!(m.freeze("1"), 1);
        assert!(!m[1].is_trainable() && m[10].is_trainable());
        assert_eq!(m.num_trainable(), 11);
        assert_eq!(m.unfreeze(""), 12);
    }

    #[test]
    #[should_panic(expected = "no parameter lies under `2`; there are 0, 1")]
    fn freezing_nothing_is_an_error() {
        (Param::new(t(1)), Param::new(t(1))).freeze("2");
    }

    #[test]
    #[should_panic(expected = "`0` is a plain Tensor")]
    fn freezing_a_plain_tensor_is_an_error() {
        (t(1),).freeze("");
    }

    #[test]
    fn a_refused_freeze_changes_no_flag() {
        let mut m = (Param::new(t(1)), t(1));
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| m.freeze("")));
        assert!(refused.is_err());
        assert!(m.0.is_trainable());
    }

    #[test]
    fn a_cloned_buffer_is_a_cell_of_its_own() {
        let a = Buffer::new(t(1));
        let b = a.clone();
        a.set(t(5));
        assert_eq!((a.get().numel(), b.get().numel()), (5, 1));
    }

    #[test]
    fn a_recording_walk_notes_modules() {
        struct Leaf;
        impl Module for Leaf {
            fn visit(&self, path: &mut Path, _: &mut dyn FnMut(Entry<'_>)) {
                path.enter(self);
            }
            fn visit_mut(&mut self, _: &mut Path, _: &mut dyn FnMut(&str, EntryMut<'_>)) {}
        }
        let m = vec![Leaf, Leaf];
        let mut path = Path::recording();
        m.visit(&mut path, &mut |_| {});
        let seen: Vec<_> = path
            .visited()
            .iter()
            .map(|v| (v.path.as_str(), v.type_name))
            .collect();
        assert_eq!(seen, [("0", "Leaf"), ("1", "Leaf")]);
    }
}
