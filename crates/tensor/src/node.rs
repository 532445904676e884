//! Nodes of the lazy graph, and the scopes in which they are recorded.

use crate::dtype::DType;
use crate::engine::Storage;
use crate::prim::Prim;
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// A map from nodes' ids. They are counted up: one multiplication spreads them well enough.
pub(crate) type IdMap<V> = HashMap<u64, V, BuildHasherDefault<IdHasher>>;

/// See [`IdMap`].
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("ids are u64")
    }
    #[inline]
    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Brings nodes into the order of their creation; each is given once, by its id and a number that
/// goes with it. Most were made shortly before the last one: these find their places by counting.
pub(crate) fn sort_by_id(nodes: &mut Vec<(u64, u32)>) {
    const NONE: u32 = u32::MAX;
    let last = nodes.iter().map(|&(id, _)| id).max().unwrap_or(0);
    let first = (last + 1).saturating_sub(4 * nodes.len() as u64);
    let mut places = vec![NONE; (last + 1 - first) as usize];
    nodes.retain(|&(id, number)| {
        if id >= first {
            places[(id - first) as usize] = number;
        }
        id < first
    });
    nodes.sort_unstable();
    let near = (first..).zip(places);
    nodes.extend(near.filter(|&(_, number)| number != NONE));
}

/// The inputs of a node.
pub(crate) type Inputs = SmallVec<[Tensor; 3]>;

/// One op of the graph: what it is, what it reads, and its value once it has one.
pub(crate) struct Node {
    /// Grows with creation, so that inputs always have smaller ids than what reads them.
    pub id: u64,
    pub prim: Prim,
    pub shape: Shape,
    pub dtype: DType,
    /// The recording in which the node was made, if any: while it lasts, inputs are kept.
    pub scope: Option<Arc<Scope>>,
    /// The checkpointed stretch of the forward pass that the node belongs to.
    pub segment: Option<Arc<Segment>>,
    pub mark: Mark,
    state: Mutex<State>,
}

/// Scratch of the evaluator, under its lock: the place of the node in the graph of an epoch.
#[derive(Default)]
pub(crate) struct Mark {
    pub epoch: AtomicU64,
    pub index: AtomicUsize,
}

/// The part of a node that evaluation changes.
#[derive(Default)]
pub(crate) struct State {
    pub inputs: Inputs,
    /// Boxed: most nodes of a step never have one.
    pub value: Option<Box<Value>>,
    /// The other results of the recording that yielded this node.
    pub group: Option<Arc<Group>>,
}

/// Elements in memory.
#[derive(Clone)]
pub(crate) struct Value {
    pub storage: Arc<Storage>,
    pub layout: Layout,
}

/// The results of one recording; asking for one evaluates all that are still wanted.
pub(crate) struct Group {
    pub results: Vec<Weak<Node>>,
    /// The last evaluation that has met the group: scratch, as [`Mark`].
    pub met: AtomicU64,
}

/// A stretch of the forward pass whose intermediate values are computed again in the backward
/// pass instead of being kept. Its address is all it is.
pub(crate) struct Segment(#[expect(dead_code, reason = "gives the segment an address")] u8);

/// One run of [`record`].
pub(crate) struct Scope {
    /// The first id that a node of the recording may have.
    pub first: u64,
    finished: AtomicBool,
    /// Nodes that got their value while the scope lasted and therefore still hold their inputs.
    evaluated: Mutex<Vec<Weak<Node>>>,
}

impl Scope {
    /// Whether the recording is over.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static SCOPE: RefCell<Option<Arc<Scope>>> = const { RefCell::new(None) };
    static SEGMENT: RefCell<Option<Arc<Segment>>> = const { RefCell::new(None) };
    static TRAINING: Cell<Option<bool>> = const { Cell::new(None) };
}

/// The recording that the thread is in.
pub(crate) fn current_scope() -> Option<Arc<Scope>> {
    SCOPE.with_borrow(Option::clone)
}

/// The id that the next node will get.
pub(crate) fn next_id() -> u64 {
    NEXT_ID.load(Ordering::Relaxed)
}

impl Node {
    pub fn new(prim: Prim, inputs: Inputs, shape: Shape, dtype: DType) -> Arc<Node> {
        Node::build(prim, inputs, shape, dtype, None)
    }

    pub fn with_value(shape: Shape, dtype: DType, value: Value) -> Arc<Node> {
        Node::build(
            Prim::Data,
            Inputs::new(),
            shape,
            dtype,
            Some(Box::new(value)),
        )
    }

    // A node is some hundred bytes: built where it will lie, not moved there.
    #[inline]
    fn build(
        prim: Prim,
        inputs: Inputs,
        shape: Shape,
        dtype: DType,
        value: Option<Box<Value>>,
    ) -> Arc<Node> {
        // What another thread makes of a recording's nodes belongs to the recording.
        let scope = SCOPE.with_borrow(Option::clone).or_else(|| {
            let mut scopes = inputs.iter().filter_map(|t| t.0.scope.as_ref());
            scopes.find(|s| !s.is_finished()).cloned()
        });
        Arc::new(Node {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            prim,
            shape,
            dtype,
            scope,
            segment: SEGMENT.with_borrow(Option::clone),
            mark: Mark::default(),
            state: Mutex::new(State {
                inputs,
                value,
                group: None,
            }),
        })
    }

    /// The changing part; a panic elsewhere while it was held left it consistent.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Stores the value. Outside a recording the inputs are forgotten; they are returned so that
    /// the caller can drop them after releasing its locks.
    pub fn set_value(self: &Arc<Node>, value: Value) -> Inputs {
        let mut state = self.state();
        state.value = Some(Box::new(value));
        state.group = None;
        if let Some(scope) = &self.scope
            && !scope.is_finished()
        {
            let mut evaluated = scope.evaluated.lock().unwrap_or_else(|e| e.into_inner());
            evaluated.push(Arc::downgrade(self));
            return Inputs::new();
        }
        std::mem::take(&mut state.inputs)
    }
}

/// Long chains are taken apart with a list, not with recursion.
impl Drop for Node {
    fn drop(&mut self) {
        let mut list: SmallVec<[Tensor; 16]> = SmallVec::new();
        // What others hold goes at once.
        let release = |node: &mut Node, list: &mut SmallVec<[Tensor; 16]>| {
            let state = node.state.get_mut().unwrap_or_else(|e| e.into_inner());
            for input in state.inputs.drain(..) {
                if Arc::strong_count(&input.0) == 1 {
                    list.push(input);
                } else if let Some(node) = Arc::into_inner(input.0) {
                    // Another thread has let go of it in the meantime.
                    list.push(Tensor(Arc::new(node)));
                }
            }
        };
        release(self, &mut list);
        while let Some(mut tensor) = list.pop() {
            // In place if nobody knows the node any more, else after moving it out.
            match Arc::get_mut(&mut tensor.0) {
                Some(node) => release(node, &mut list),
                None => {
                    if let Some(mut node) = Arc::into_inner(tensor.0) {
                        release(&mut node, &mut list);
                    }
                }
            }
        }
    }
}

/// Restores a thread-local on the way out, panics included.
struct Restore<F: FnMut()>(F);
impl<F: FnMut()> Drop for Restore<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs `f` as a recording: nodes keep their inputs, dropout drops and batch norm learns.
///
/// [`value_and_grad`](crate::value_and_grad) does this for you; use it directly together with
/// [`grad_of`](crate::grad_of), PyTorch's `torch.autograd.grad`.
///
/// ```
/// use fornax_tensor::{grad_of, record, Tensor};
/// let x = Tensor::from_vec(vec![1f32, 2., 3.], [3]);
/// let g = record(|| {
///     let y = (&x * &x).sum(..);
///     grad_of(&y, &[&x]).remove(0)
/// });
/// assert_eq!(g.to_vec::<f32>(), [2., 4., 6.]);
/// ```
pub fn record<R>(f: impl FnOnce() -> R) -> R {
    // Whoever has said otherwise has the last word.
    let training = TRAINING.get().unwrap_or(true);
    let outer = SCOPE.with_borrow(Option::clone);
    if outer.is_some() {
        return with_training(training, f);
    }
    let scope = Arc::new(Scope {
        first: next_id(),
        finished: AtomicBool::new(false),
        evaluated: Mutex::default(),
    });
    SCOPE.set(Some(scope.clone()));
    let _restore = Restore(|| {
        SCOPE.set(None);
        scope.finished.store(true, Ordering::Relaxed);
        let evaluated =
            std::mem::take(&mut *scope.evaluated.lock().unwrap_or_else(|e| e.into_inner()));
        for node in evaluated.iter().filter_map(Weak::upgrade) {
            let inputs = std::mem::take(&mut node.state().inputs);
            drop(inputs);
        }
    });
    with_training(training, f)
}

/// Whether layers behave as in training: a gradient is being recorded, or
/// [`with_training`] says so.
pub fn is_recording() -> bool {
    TRAINING.get().unwrap_or(false)
}

/// Runs `f` with training behaviour on or off whatever is being recorded: `true` for Monte-Carlo
/// dropout, `false` for gradients of a model that evaluates.
pub fn with_training<R>(on: bool, f: impl FnOnce() -> R) -> R {
    let before = TRAINING.replace(Some(on));
    let _restore = Restore(|| TRAINING.set(before));
    f()
}

/// Gradient checkpointing: the intermediate values made inside `f` are not kept for the backward
/// pass but computed a second time when it needs them (Chen et al. 2016, "Training Deep Nets with
/// Sublinear Memory Cost").
///
/// Values, gradients and random numbers are the same with and without.
///
/// ```
/// use fornax_tensor::{checkpoint, grad, Tensor};
/// let x = Tensor::from_vec(vec![0.5f32], [1]);
/// let plain = grad(&x, |x| x.sin().exp().sum(..));
/// let saved = grad(&x, |x| checkpoint(|| x.sin().exp()).sum(..));
/// assert_eq!(plain.item(), saved.item());
/// ```
pub fn checkpoint<R>(f: impl FnOnce() -> R) -> R {
    // An inner checkpoint lies within the outer one's recomputation already.
    let inner = SEGMENT.with_borrow(|s| s.is_some());
    if inner {
        return f();
    }
    SEGMENT.set(Some(Arc::new(Segment(0))));
    let _restore = Restore(|| SEGMENT.set(None));
    f()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Ids that lie close together, far apart, and both.
        #[test]
        fn by_id_is_by_id(
            near in prop::collection::hash_set(0u64..300, 0..200),
            far in prop::collection::hash_set(any::<u64>().prop_map(|id| id >> 1), 0..20),
            base in 0u64..1 << 62,
        ) {
            let ids: std::collections::HashSet<u64> = near.iter().map(|id| base + id).chain(far).collect();
            let mut nodes: Vec<(u64, u32)> = ids.into_iter().zip(0..).collect();
            let mut sorted = nodes.clone();
            sorted.sort();
            sort_by_id(&mut nodes);
            prop_assert_eq!(nodes, sorted);
        }
    }

    /// A training step makes thousands of them.
    #[test]
    fn nodes_are_small() {
        assert!(size_of::<Node>() <= 192, "{} bytes", size_of::<Node>());
    }
}
