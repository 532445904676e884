//! Collecting what an evaluation has to compute, and hashing its structure.

use crate::dtype::DType;
use crate::engine::Storage;
use crate::node::{Node, sort_by_id};
use crate::prim::Prim;
use crate::shape::{Layout, Shape};
use crate::tape::{Key, Scalar};
use crate::tensor::Tensor;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The part of the lazy graph that one evaluation computes, in order of creation (inputs first).
pub(crate) struct Graph {
    pub nodes: Vec<Entry>,
    /// The places of all nodes' inputs.
    edges: Vec<u32>,
    /// Those nodes that have a value already, as they were met.
    leaves: Vec<Leaf>,
    /// The scalar constants, in order; run-time slots.
    pub scalars: Vec<Scalar>,
    /// The random keys, in order; run-time slots.
    pub keys: Vec<Key>,
    /// 128 bits: two graphs with the same hash run the same plan.
    pub hash: u128,
}

/// What reads before what is read: then a node goes while something still holds its inputs, and no
/// chain has to be followed.
impl Drop for Graph {
    fn drop(&mut self) {
        while self.nodes.pop().is_some() {}
    }
}

/// One node of a [`Graph`].
pub(crate) struct Entry {
    pub tensor: Tensor,
    /// Which edges are its own.
    inputs: (u32, u32),
    /// Whether the value is wanted after the evaluation.
    pub output: bool,
    /// Its place among the leaves, for a node that has a value already.
    leaf: u32,
}

/// A node that has a value already.
pub(crate) struct Leaf {
    /// The value's layout, counted from its lowest element.
    pub layout: Layout,
    pub storage: Arc<Storage>,
    /// Where the lowest element lies in the storage, in bytes.
    pub start: usize,
    /// Nobody but this graph holds the memory: it may be overwritten.
    pub expendable: bool,
}

const NONE: u32 = u32::MAX;

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
    fn inputs_among<'e>(&self, edges: &'e [u32]) -> &'e [u32] {
        &edges[self.inputs.0 as usize..self.inputs.1 as usize]
    }
    pub fn is_leaf(&self) -> bool {
        self.leaf != NONE
    }
}

/// Distinguishes the marks of one collection from those of earlier ones.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// Lists that every collection needs, kept from one to the next.
#[derive(Default)]
struct Scratch {
    /// Nodes as they are met, before they are brought into order.
    found: Vec<Option<Tensor>>,
    /// Which edges are each one's own, and its place among the leaves.
    inputs: Vec<(u32, u32)>,
    leaf: Vec<u32>,
    /// How often each of them is read from within the graph, or asked for.
    uses: Vec<u32>,
    /// Id and place in `found`.
    order: Vec<(u64, u32)>,
    /// The place in order of each place in `found`.
    place: Vec<u32>,
    lasting: Vec<bool>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Graph {
    /// Collects what `roots` need. The caller holds the evaluation lock: marks are shared.
    ///
    /// Besides the roots, these become outputs: results of the same recording that somebody
    /// still holds, and intermediate values that somebody still holds (they would be computed
    /// again later).
    pub fn collect(roots: &[Tensor]) -> Graph {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut graph = Graph {
                nodes: Vec::new(),
                edges: Vec::new(),
                leaves: Vec::new(),
                scalars: Vec::new(),
                keys: Vec::new(),
                hash: 0,
            };
            let remembers = graph.discover(roots, scratch);
            graph.bring_into_order(scratch);
            graph.mark_outputs(roots, scratch);
            if remembers {
                graph.spare_what_is_remembered(scratch);
            }
            graph.hash = graph.structural_hash();
            graph
        })
    }

    /// The places of node `i`'s inputs.
    pub fn inputs(&self, i: usize) -> &[u32] {
        self.nodes[i].inputs_among(&self.edges)
    }

    /// What is known of node `i` if it has a value already.
    pub fn leaf(&self, i: usize) -> Option<&Leaf> {
        self.leaves.get(self.nodes[i].leaf as usize)
    }

    /// Meets every node once, reading its state once. Returns whether some node will still
    /// remember its inputs after it gets its value.
    fn discover(&mut self, roots: &[Tensor], scratch: &mut Scratch) -> bool {
        let epoch = EPOCH.fetch_add(1, Ordering::Relaxed) + 1;
        let Scratch {
            found,
            uses,
            order,
            inputs,
            leaf,
            ..
        } = scratch;
        found.clear();
        uses.clear();
        order.clear();
        inputs.clear();
        leaf.clear();
        let mut remembers = false;
        // Notes that a node is there if it was not met yet, and returns its place.
        let mut meet = |tensor: &Tensor, found: &mut Vec<Option<Tensor>>, uses: &mut Vec<u32>| {
            index_of(&tensor.0, epoch).unwrap_or_else(|| {
                let place = found.len();
                set_index(&tensor.0, epoch, place);
                order.push((tensor.0.id, place as u32));
                uses.push(0);
                found.push(Some(tensor.clone()));
                place
            })
        };
        for root in roots {
            meet(root, found, uses);
        }
        let mut next = 0;
        while next < found.len() {
            // Taken out, so that more can be found meanwhile.
            let tensor = found[next].take().expect("met once");
            let node = &tensor.0;
            let state = node.state();
            let start = self.edges.len() as u32;
            leaf.push(match state.value {
                Some(_) => self.leaves.len() as u32,
                None => NONE,
            });
            if let Some(v) = &state.value {
                let below = v.layout.below();
                self.leaves.push(Leaf {
                    start: (v.layout.offset - below) * node.dtype.size(),
                    layout: Layout {
                        offset: below,
                        ..v.layout.clone()
                    },
                    expendable: Arc::strong_count(&v.storage) == 1 && v.layout.is_contiguous(),
                    storage: v.storage.clone(),
                });
            } else {
                remembers |= self::remembers(node);
                for t in &state.inputs {
                    let i = meet(t, found, uses);
                    uses[i] += 1;
                    self.edges.push(i as u32);
                }
                // The results of a recording all know of each other: once is enough.
                if let Some(group) = &state.group
                    && group.met.swap(epoch, Ordering::Relaxed) != epoch
                {
                    for t in group.results.iter().filter_map(|w| w.upgrade()).map(Tensor) {
                        meet(&t, found, uses);
                    }
                }
            }
            drop(state);
            inputs.push((start, self.edges.len() as u32));
            found[next] = Some(tensor);
            next += 1;
        }
        remembers
    }

    /// Creation order: every input before what reads it, forward before backward.
    fn bring_into_order(&mut self, scratch: &mut Scratch) {
        let Scratch {
            found,
            order,
            place,
            inputs,
            leaf,
            ..
        } = scratch;
        sort_by_id(order);
        place.resize(found.len(), 0);
        for (i, &(_, at)) in order.iter().enumerate() {
            place[at as usize] = i as u32;
        }
        for i in &mut self.edges {
            *i = place[*i as usize];
        }
        self.nodes.reserve_exact(found.len());
        for &(_, at) in order.iter() {
            let at = at as usize;
            self.nodes.push(Entry {
                tensor: found[at].take().expect("each has one place"),
                inputs: inputs[at],
                output: false,
                leaf: leaf[at],
            });
        }
    }

    fn mark_outputs(&mut self, roots: &[Tensor], scratch: &mut Scratch) {
        let Scratch {
            uses, order, place, ..
        } = scratch;
        for root in roots {
            let at = root.0.mark.index.load(Ordering::Relaxed);
            uses[at] += 1;
            self.nodes[place[at] as usize].output = true;
        }
        for (e, &(_, at)) in self.nodes.iter_mut().zip(order.iter()) {
            // The graph itself holds each node once.
            let held = Arc::strong_count(&e.tensor.0) > uses[at as usize] as usize + 1;
            if e.is_leaf() {
                let leaf = &mut self.leaves[e.leaf as usize];
                leaf.expendable &= !held && !e.output;
                e.output = false;
                continue;
            }
            match e.prim() {
                Prim::Const(s) => self.scalars.push(*s),
                prim => {
                    self.keys.extend(prim.key());
                    e.output |= held;
                }
            }
        }
    }

    /// A node that will still remember its inputs must find them unharmed. So must those that get
    /// no value, and are computed again when it asks for them.
    fn spare_what_is_remembered(&mut self, scratch: &mut Scratch) {
        let lasting = &mut scratch.lasting;
        lasting.clear();
        lasting.resize(self.nodes.len(), false);
        for (i, e) in self.nodes.iter().enumerate().rev() {
            if e.is_leaf() || !(lasting[i] || remembers(&e.tensor.0)) {
                continue;
            }
            for &input in e.inputs_among(&self.edges) {
                let read = &self.nodes[input as usize];
                lasting[input as usize] |= !read.output;
                if let Some(leaf) = self.leaves.get_mut(read.leaf as usize) {
                    leaf.expendable = false;
                }
            }
        }
    }

    fn structural_hash(&self) -> u128 {
        let mut state = Hasher::new();
        for e in &self.nodes {
            let h = &mut |v: u64| state.add(v);
            let inputs = e.inputs_among(&self.edges);
            let counts = (e.shape().len() as u64) << 40 | (inputs.len() as u64) << 16;
            h(counts | (e.dtype() as u64) << 8 | (e.output as u64) << 1 | e.is_leaf() as u64);
            match self.leaves.get(e.leaf as usize) {
                Some(leaf) => {
                    let plain = leaf.layout.is_contiguous();
                    h((leaf.expendable as u64) << 1 | plain as u64);
                    if !plain {
                        leaf.layout.strides.iter().for_each(|&s| h(s as u64));
                    }
                }
                None => e.prim().hash(h),
            }
            for pair in inputs.chunks(2) {
                h((pair[0] as u64) << 32 | pair.get(1).map_or(0, |&i| i as u64));
            }
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
