//! From tensors to a numbered graph, and its structural hash.

use crate::dtype::DType;
use crate::node::Node;
use crate::prim::Prim;
use crate::shape::{Layout, Shape};
use crate::tape::{Key, Scalar};
use crate::tensor::Tensor;
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The part of the lazy graph that one evaluation computes, in order of creation (inputs first).
pub(crate) struct Graph {
    pub nodes: Vec<Entry>,
    /// The scalar constants, in order; run-time slots.
    pub scalars: Vec<Scalar>,
    /// The random keys, in order; run-time slots.
    pub keys: Vec<Key>,
    /// 128 bits: two graphs with the same hash run the same plan.
    pub hash: u128,
}

/// One node of a [`Graph`].
pub(crate) struct Entry {
    pub tensor: Tensor,
    pub inputs: SmallVec<[u32; 3]>,
    /// For nodes that have a value already.
    pub leaf: Option<Leaf>,
    /// Whether the value is wanted after the evaluation.
    pub output: bool,
}

/// A node that has a value already.
pub(crate) struct Leaf {
    /// The value's layout, counted from its lowest element; where that lies is given at run time.
    pub layout: Layout,
    /// Nobody but this graph holds the memory: it may be overwritten.
    pub expendable: bool,
}

impl Entry {
    pub fn prim(&self) -> &Prim {
        &self.tensor.0.prim
    }
    pub fn shape(&self) -> &Shape {
        &self.tensor.0.shape
    }
    pub fn dtype(&self) -> DType {
        self.tensor.0.dtype
    }
}

/// Distinguishes the marks of one collection from those of earlier ones.
static EPOCH: AtomicU64 = AtomicU64::new(0);

impl Graph {
    /// Collects what `roots` need. The caller holds the evaluation lock: marks are shared.
    ///
    /// Besides the roots, these become outputs: results of the same recording that somebody
    /// still holds, and intermediate values that somebody still holds (they would be computed
    /// again later).
    pub fn collect(roots: &[Tensor]) -> Graph {
        let epoch = EPOCH.fetch_add(1, Ordering::Relaxed) + 1;
        let mut found: Vec<Entry> = Vec::new();
        // How often each is referred to from within the graph, and how often by us here.
        let mut uses: Vec<u32> = Vec::new();
        let mut stack: Vec<Tensor> = Vec::with_capacity(roots.len());
        stack.extend(roots.iter().rev().cloned());
        while let Some(tensor) = stack.pop() {
            if index_of(&tensor.0, epoch).is_some() {
                continue;
            }
            set_index(&tensor.0, epoch, found.len());
            let state = tensor.0.state();
            let leaf = state.value.as_ref().map(|v| Leaf {
                layout: Layout {
                    offset: v.layout.below(),
                    ..v.layout.clone()
                },
                expendable: Arc::strong_count(&v.storage) == 1 && v.layout.is_contiguous(),
            });
            if leaf.is_none() {
                if let Some(group) = &state.group {
                    stack.extend(group.0.iter().filter_map(|w| w.upgrade()).map(Tensor));
                }
                stack.extend(state.inputs.iter().rev().cloned());
            }
            drop(state);
            uses.push(0);
            found.push(Entry {
                tensor,
                inputs: SmallVec::new(),
                leaf,
                output: false,
            });
        }

        // Creation order: every input before what reads it, forward before backward.
        found.sort_unstable_by_key(|e| e.tensor.0.id);
        for (i, e) in found.iter().enumerate() {
            set_index(&e.tensor.0, epoch, i);
        }
        for e in &mut found {
            if e.leaf.is_none() {
                let state = e.tensor.0.state();
                e.inputs = state
                    .inputs
                    .iter()
                    .map(|t| index_of(&t.0, epoch).expect("inputs were collected") as u32)
                    .collect();
            }
        }
        for i in 0..found.len() {
            for k in 0..found[i].inputs.len() {
                uses[found[i].inputs[k] as usize] += 1;
            }
        }
        let mut ours: Vec<u32> = vec![1; found.len()];
        for root in roots {
            let i = index_of(&root.0, epoch).expect("roots were collected");
            ours[i] += 1;
            found[i].output = true;
        }
        for (i, e) in found.iter_mut().enumerate() {
            let held = Arc::strong_count(&e.tensor.0) > (uses[i] + ours[i]) as usize;
            match &mut e.leaf {
                Some(leaf) => {
                    leaf.expendable &= !held && !e.output;
                    e.output = false;
                }
                None => {
                    let constant = matches!(e.prim(), Prim::Const(_));
                    e.output |= held && !constant;
                }
            }
        }
        // A node that will still remember its inputs must find them unharmed.
        // So must those that get no value, and are computed again when it asks for them.
        let mut lasting = vec![false; found.len()];
        for i in (0..found.len()).rev() {
            if found[i].leaf.is_some() || !(lasting[i] || remembers(&found[i].tensor.0)) {
                continue;
            }
            for k in 0..found[i].inputs.len() {
                let input = found[i].inputs[k] as usize;
                lasting[input] = !found[input].output;
                if let Some(leaf) = &mut found[input].leaf {
                    leaf.expendable = false;
                }
            }
        }

        let mut graph = Graph {
            nodes: found,
            scalars: Vec::new(),
            keys: Vec::new(),
            hash: 0,
        };
        for e in &graph.nodes {
            match (&e.leaf, e.prim()) {
                (None, Prim::Const(s)) => graph.scalars.push(*s),
                (None, Prim::Uniform(k)) => graph.keys.push(*k),
                _ => {}
            }
        }
        graph.hash = graph.structural_hash();
        graph
    }

    fn structural_hash(&self) -> u128 {
        let mut state = Hasher::new();
        for e in &self.nodes {
            let h = &mut |v: u64| state.add(v);
            h(e.shape().len() as u64);
            match &e.leaf {
                Some(leaf) => {
                    h(0x1eaf << 8 | leaf.expendable as u64);
                    leaf.layout.strides.iter().for_each(|&s| h(s as u64));
                }
                None => e.prim().hash(h),
            }
            h((e.inputs.len() as u64) << 32 | (e.dtype() as u64) << 8 | e.output as u64);
            e.inputs.iter().for_each(|&i| h(i as u64));
            e.shape().iter().for_each(|&s| h(s as u64));
        }
        state.finish()
    }
}

/// Whether a node keeps its inputs when it gets its value (it is part of a recording that lasts).
fn remembers(node: &Node) -> bool {
    node.scope.as_ref().is_some_and(|s| !s.is_finished())
}

fn index_of(node: &Node, epoch: u64) -> Option<usize> {
    let marked = node.mark.epoch.load(Ordering::Relaxed) == epoch;
    marked.then(|| node.mark.index.load(Ordering::Relaxed))
}

fn set_index(node: &Node, epoch: u64, index: usize) {
    node.mark.epoch.store(epoch, Ordering::Relaxed);
    node.mark.index.store(index, Ordering::Relaxed);
}

/// Two lanes of multiply-and-fold (as in wyhash), 64 bits each.
struct Hasher(u64, u64);

impl Hasher {
    fn new() -> Self {
        Hasher(0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f)
    }
    #[inline]
    fn add(&mut self, v: u64) {
        let fold = |a: u64, b: u64| {
            let p = a as u128 * b as u128;
            (p >> 64) as u64 ^ p as u64
        };
        self.0 = fold(self.0 ^ v, 0xa076_1d64_78bd_642f).wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.1 = fold(self.1 ^ v.rotate_left(32), 0xe703_7ed1_a0b4_28db)
            .wrapping_add(0xd6e8_feb8_6659_fd93);
    }
    fn finish(&self) -> u128 {
        (self.0 as u128) << 64 | self.1 as u128
    }
}
