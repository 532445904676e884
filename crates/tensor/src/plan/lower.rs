//! From a graph to kernels: views are resolved, elementwise work is gathered into tapes around
//! at most one anchor.
//!
//! The walk goes through the nodes in order and keeps *open* groups. A map joins the group that
//! made one of its inputs, if that group is still open; a group closes as soon as anything outside
//! reads from it, since from then on it must have run. So no group can come to depend on itself,
//! and running groups in the order of their last members is right.

mod groups;
mod kernels;
mod views;

use super::graph::Graph;
use crate::dtype::DType;
use crate::engine::{KernelSpec, MapSpec, Operand};
use crate::prim::{Face, Prim};
use crate::shape::{Layout, Shape};
use crate::tape::{Instr, Reg, Tape};
use smallvec::{SmallVec, smallvec};
use std::collections::HashMap;

/// A piece of memory: `0..nodes` are nodes, later ones are scratch values of the lowering.
pub(super) type ValueId = u32;

/// What lowering yields: kernels over values, still without addresses.
pub(super) struct Lowered {
    pub kernels: Vec<Lower>,
    /// Bytes of each value that gets memory, by id.
    pub sizes: HashMap<ValueId, Size>,
    /// Node, the value it lies in, its layout there.
    pub outputs: Vec<(u32, ValueId, Layout)>,
}

/// The memory that a value needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Size {
    pub numel: usize,
    /// Bytes of an element.
    pub element: usize,
}

impl Size {
    pub fn of(shape: &Shape, dtype: DType) -> Size {
        Size {
            numel: shape.numel(),
            element: dtype.size(),
        }
    }

    pub fn bytes(self) -> usize {
        self.numel * self.element
    }
}

/// One kernel over values.
pub(super) struct Lower {
    pub spec: KernelSpec,
    pub reads: SmallVec<[ValueId; 6]>,
    pub writes: SmallVec<[ValueId; 4]>,
    /// Whether read `i` is elementwise in step with the writes, so that a write of the same size
    /// may take over its memory.
    pub in_step: SmallVec<[bool; 6]>,
    /// Only there to bring the write into the state of read 0: needless if they share memory.
    pub is_copy: bool,
    pub slots: SlotList,
}

/// The run-time slots that a kernel uses; its tapes count within these lists.
#[derive(Default, Clone)]
pub(crate) struct SlotList {
    pub scalars: Vec<u32>,
    pub keys: Vec<u32>,
}

impl SlotList {
    fn local(list: &mut Vec<u32>, slot: u32) -> u16 {
        let at = list.iter().position(|&s| s == slot).unwrap_or_else(|| {
            list.push(slot);
            list.len() - 1
        });
        at as u16
    }
}

/// Longest tape: bounds the planner's and the interpreter's state for endless chains.
const MAX_TAPE: usize = 128;

/// Where a node's elements are.
#[derive(Clone)]
enum Res {
    /// A scalar slot, the same everywhere.
    Const(u32),
    /// In the memory of a value; `direct` if in the value's own order of elements.
    View {
        base: ValueId,
        layout: Layout,
        direct: bool,
    },
}

#[derive(Default)]
struct Group {
    anchor: Option<u32>,
    /// Maps in the anchor's prologue (reductions only).
    prologue: Vec<u32>,
    /// Maps, unordered until the end.
    members: Vec<u32>,
    /// The shape under which the members' strided inputs are seen, once there is one.
    frame: Option<Shape>,
    open: bool,
}

struct Lowering<'g> {
    graph: &'g Graph,
    fusion: bool,
    res: Vec<Res>,
    /// Reads of each node's value by kernels, and by members of its own group.
    uses: Vec<u32>,
    inner: Vec<u32>,
    /// Whether the node's value needs memory.
    stored: Vec<bool>,
    group_of: Vec<u32>,
    groups: Vec<Group>,
    next_value: ValueId,
    /// The rank of each random node among the random nodes.
    key_slots: HashMap<u32, u32>,
    out: Lowered,
}

const NONE: u32 = u32::MAX;

pub(super) fn lower(graph: &Graph, fusion: bool) -> Lowered {
    let n = graph.nodes.len();
    let mut l = Lowering {
        graph,
        fusion,
        res: Vec::with_capacity(n),
        uses: vec![0; n],
        inner: vec![0; n],
        stored: vec![false; n],
        group_of: vec![NONE; n],
        groups: Vec::new(),
        next_value: n as u32,
        key_slots: HashMap::new(),
        out: Lowered {
            kernels: Vec::new(),
            sizes: HashMap::new(),
            outputs: Vec::new(),
        },
    };
    l.resolve_views();
    l.mark_outputs();
    for i in 0..n {
        if l.is_kernel(i) {
            l.assign(i);
        }
    }
    l.emit();
    l.out
}

impl Lowering<'_> {
    fn is_leaf(&self, i: usize) -> bool {
        self.graph.nodes[i].is_leaf()
    }

    /// Whether node `i` computes into memory of its own.
    fn is_kernel(&self, i: usize) -> bool {
        !self.is_leaf(i) && matches!(&self.res[i], Res::View { base, .. } if *base as usize == i)
    }
}

/// Which of a tape's inputs (from `skip` on) are read in plain order.
fn in_step(spec: &MapSpec, skip: usize) -> SmallVec<[bool; 6]> {
    spec.inputs[skip..]
        .iter()
        .map(|l| l.is_contiguous() && l.offset == 0)
        .collect()
}

/// A layout with the same elements in the same order under `shape`.
fn under_shape(layout: &Layout, shape: &Shape) -> Option<Layout> {
    if layout.shape == *shape {
        Some(layout.clone())
    } else {
        layout.reshape(shape)
    }
}
