//! From a graph to kernels: views are resolved, elementwise work is gathered into tapes around
//! at most one anchor.
//!
//! The walk goes through the nodes in order and keeps *open* groups. A map joins the group that
//! made one of its inputs, if that group is still open; a group closes as soon as anything outside
//! reads from it, since from then on it must have run. So no group can come to depend on itself,
//! and running groups in the order of their last members is right.

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
        self.graph.nodes[i].leaf.is_some()
    }

    /// Whether node `i` computes into memory of its own.
    fn is_kernel(&self, i: usize) -> bool {
        !self.is_leaf(i) && matches!(&self.res[i], Res::View { base, .. } if *base as usize == i)
    }

    // ---- pass 1: views

    fn resolve_views(&mut self) {
        let mut scalars = 0;
        for i in 0..self.graph.nodes.len() {
            let node = &self.graph.nodes[i];
            let own = |layout| Res::View {
                base: i as u32,
                layout,
                direct: true,
            };
            let fresh = || own(Layout::contiguous(node.shape().clone()));
            let res = if let Some(leaf) = &node.leaf {
                own(leaf.layout.clone())
            } else {
                match node.prim() {
                    Prim::Const(_) => {
                        scalars += 1;
                        Res::Const(scalars - 1)
                    }
                    Prim::Uniform(_) => {
                        self.key_slots.insert(i as u32, self.key_slots.len() as u32);
                        fresh()
                    }
                    Prim::StopGradient => self.res[node.inputs[0] as usize].clone(),
                    Prim::Barrier => match self.res[node.inputs[0] as usize].clone() {
                        Res::View { base, layout, .. } => Res::View {
                            base,
                            layout,
                            direct: false,
                        },
                        constant => constant,
                    },
                    Prim::Reshape | Prim::Permute(_) | Prim::Broadcast | Prim::Slice(_) => {
                        match self.moved(i) {
                            Some(res) => res,
                            None => fresh(),
                        }
                    }
                    _ => fresh(),
                }
            };
            self.res.push(res);
        }
        for i in 0..self.graph.nodes.len() {
            if self.is_kernel(i) {
                for &input in &self.graph.nodes[i].inputs {
                    if let Res::View { base, .. } = self.res[input as usize] {
                        self.uses[base as usize] += 1;
                    }
                }
            }
        }
    }

    /// A movement as a view, or `None` if it needs a copy.
    fn moved(&self, i: usize) -> Option<Res> {
        let node = &self.graph.nodes[i];
        let Res::View {
            base,
            layout,
            direct,
        } = &self.res[node.inputs[0] as usize]
        else {
            return Some(self.res[node.inputs[0] as usize].clone());
        };
        let layout = match node.prim() {
            Prim::Reshape => layout.reshape(node.shape())?,
            Prim::Permute(axes) => layout.permute(axes),
            Prim::Broadcast => layout.broadcast_to(node.shape()),
            Prim::Slice(s) => (0..node.shape().len()).fold(layout.clone(), |l, d| {
                l.slice(d, s.starts[d], node.shape()[d], s.steps[d])
            }),
            _ => unreachable!("not a movement"),
        };
        let whole = matches!(node.prim(), Prim::Reshape) && *direct;
        Some(Res::View {
            base: *base,
            layout,
            direct: whole,
        })
    }

    fn mark_outputs(&mut self) {
        for (i, node) in self.graph.nodes.iter().enumerate() {
            if !node.output {
                continue;
            }
            match self.res[i].clone() {
                Res::View { base, layout, .. } => {
                    self.stored[base as usize] |= !self.is_leaf(base as usize);
                    self.out.outputs.push((i as u32, base, layout));
                }
                Res::Const(_) => {
                    let value = self.fill(i);
                    let layout = Layout::contiguous(node.shape().clone());
                    self.out.outputs.push((i as u32, value, layout));
                }
            }
        }
    }

    // ---- pass 2: groups

    fn assign(&mut self, i: usize) {
        let node = &self.graph.nodes[i];
        match node.prim() {
            p if p.is_map() => self.assign_map(i),
            Prim::Reduce(..) => {
                let prologue = self.absorbable(i);
                if prologue.is_none() {
                    self.read_all(i);
                }
                let members = prologue.map(|g| {
                    self.groups[g].open = false;
                    std::mem::take(&mut self.groups[g].members)
                });
                let group = Group {
                    prologue: members.unwrap_or_default(),
                    ..Group::default()
                };
                self.open_anchored(i, group);
            }
            Prim::MatMul => {
                self.read_all(i);
                self.open_anchored(i, Group::default());
            }
            Prim::Conv(c) => {
                self.read_all(i);
                self.open_anchored(i, Group::default());
                if c.face != Face::Output {
                    self.close_group_of(i);
                }
            }
            _ => {
                self.read_all(i);
                self.open_anchored(i, Group::default());
                self.close_group_of(i);
            }
        }
    }

    fn open_anchored(&mut self, i: usize, group: Group) {
        self.group_of[i] = self.groups.len() as u32;
        self.groups.push(Group {
            anchor: Some(i as u32),
            open: self.fusion,
            ..group
        });
        if !self.fusion {
            self.stored[i] = true;
        }
    }

    fn close_group_of(&mut self, i: usize) {
        self.groups[self.group_of[i] as usize].open = false;
        self.stored[i] = true;
    }

    /// The value of `base` is read from memory by somebody outside its group.
    fn read(&mut self, base: ValueId) {
        let base = base as usize;
        if self.is_leaf(base) {
            return;
        }
        self.stored[base] = true;
        self.groups[self.group_of[base] as usize].open = false;
    }

    fn read_all(&mut self, i: usize) {
        for k in 0..self.graph.nodes[i].inputs.len() {
            if let Res::View { base, .. } = self.res[self.graph.nodes[i].inputs[k] as usize] {
                self.read(base);
            }
        }
    }

    /// Whether the strided inputs of map `i` can be seen under the frame of group `g`.
    fn fits_frame(&self, i: usize, g: u32) -> bool {
        let Some(frame) = &self.groups[g as usize].frame else {
            return true;
        };
        self.strided(i)
            .all(|layout| under_shape(layout, frame).is_some())
    }

    /// The layouts of the inputs of map `i` that are not simply in order.
    fn strided(&self, i: usize) -> impl Iterator<Item = &Layout> {
        self.graph.nodes[i]
            .inputs
            .iter()
            .filter_map(|&k| match &self.res[k as usize] {
                Res::View { layout, .. } if !layout.is_contiguous() => Some(layout),
                _ => None,
            })
    }

    fn assign_map(&mut self, i: usize) {
        let inputs = self.graph.nodes[i].inputs.clone();
        // Strided reads first: they close groups that could otherwise be joined.
        for &input in &inputs {
            if let Res::View {
                base,
                direct: false,
                ..
            } = self.res[input as usize]
            {
                self.read(base);
            }
        }
        let mut home: Option<u32> = None;
        for &input in &inputs {
            let Res::View {
                base, direct: true, ..
            } = self.res[input as usize]
            else {
                continue;
            };
            if self.is_leaf(base as usize) {
                continue;
            }
            let g = self.group_of[base as usize];
            let joinable = self.fusion && self.groups[g as usize].open && self.fits_frame(i, g);
            if home == Some(g) || !joinable {
                continue;
            }
            home = match home {
                None if self.groups[g as usize].members.len() < MAX_TAPE => Some(g),
                None => None,
                Some(h) => Some(self.try_merge(h, g)),
            };
        }
        let home = home.unwrap_or_else(|| {
            self.groups.push(Group {
                open: true,
                ..Group::default()
            });
            self.groups.len() as u32 - 1
        });
        self.group_of[i] = home;
        if self.groups[home as usize].frame.is_none() && self.strided(i).next().is_some() {
            self.groups[home as usize].frame = Some(self.graph.nodes[i].shape().clone());
        }
        self.groups[home as usize].members.push(i as u32);
        for &input in &inputs {
            let Res::View { base, direct, .. } = self.res[input as usize] else {
                continue;
            };
            if self.is_leaf(base as usize) {
                continue;
            }
            if direct && self.group_of[base as usize] == home {
                self.inner[base as usize] += 1;
            } else {
                self.read(base);
            }
        }
    }

    /// Two open groups as one, if they may be; else the first, and the second is left alone.
    fn try_merge(&mut self, a: u32, b: u32) -> u32 {
        let (ga, gb) = (&self.groups[a as usize], &self.groups[b as usize]);
        let too_long = ga.members.len() + gb.members.len() >= MAX_TAPE;
        let frames = ga.frame.is_some() && gb.frame.is_some() && ga.frame != gb.frame;
        if too_long || frames || (ga.anchor.is_some() && gb.anchor.is_some()) {
            return a;
        }
        // The anchored one, or else the longer one, takes in the other.
        let keep_b =
            gb.anchor.is_some() || (ga.anchor.is_none() && gb.members.len() > ga.members.len());
        let (keep, gone) = if keep_b { (b, a) } else { (a, b) };
        let moved = std::mem::take(&mut self.groups[gone as usize].members);
        let frame = self.groups[gone as usize].frame.take();
        self.groups[gone as usize].open = false;
        for &m in &moved {
            self.group_of[m as usize] = keep;
        }
        let group = &mut self.groups[keep as usize];
        group.members.extend(moved);
        group.frame = group.frame.take().or(frame);
        keep
    }

    /// The group that computes the reduction's input, if it can run inside the reduction: it has
    /// no anchor, nothing else reads it, and its inputs can be seen under the reduction's shape.
    fn absorbable(&self, i: usize) -> Option<usize> {
        let input = self.graph.nodes[i].inputs[0] as usize;
        let Res::View {
            base, direct: true, ..
        } = &self.res[input]
        else {
            return None;
        };
        let base = *base as usize;
        if self.is_leaf(base) || !self.fusion {
            return None;
        }
        let g = self.group_of[base] as usize;
        let group = &self.groups[g];
        if !group.open || group.anchor.is_some() || self.stored[base] || self.uses[base] != 1 {
            return None;
        }
        let shape = self.graph.nodes[input].shape();
        for &m in &group.members {
            let m = m as usize;
            if m != base && (self.stored[m] || self.uses[m] != self.inner[m]) {
                return None;
            }
            let node = &self.graph.nodes[m];
            if matches!(node.prim(), Prim::Uniform(_)) {
                return None;
            }
            for &k in &node.inputs {
                if let Res::View {
                    base: b,
                    layout,
                    direct,
                } = &self.res[k as usize]
                {
                    let inside = *direct
                        && self.group_of[*b as usize] == g as u32
                        && !self.is_leaf(*b as usize);
                    if !inside && under_shape(layout, shape).is_none() {
                        return None;
                    }
                }
            }
        }
        Some(g)
    }

    // ---- pass 3: kernels

    fn scratch(&mut self, size: Size) -> ValueId {
        self.next_value += 1;
        self.out.sizes.insert(self.next_value - 1, size);
        self.next_value - 1
    }

    fn size(&self, i: usize) -> Size {
        Size::of(self.graph.nodes[i].shape(), self.graph.nodes[i].dtype())
    }

    fn push(&mut self, spec: KernelSpec, reads: &[ValueId], writes: &[ValueId]) {
        let slots = SlotList::default();
        self.out.kernels.push(Lower {
            spec,
            slots,
            reads: SmallVec::from_slice(reads),
            writes: SmallVec::from_slice(writes),
            in_step: SmallVec::from_elem(false, reads.len()),
            is_copy: false,
        });
    }

    fn push_fill(&mut self, dtype: DType, numel: usize, slot: u32, value: ValueId) {
        self.push(KernelSpec::Fill { dtype, numel }, &[], &[value]);
        self.out
            .kernels
            .last_mut()
            .expect("just pushed")
            .slots
            .scalars
            .push(slot);
    }

    /// A constant node written out.
    fn fill(&mut self, i: usize) -> ValueId {
        let Res::Const(slot) = self.res[i] else {
            unreachable!("only constants are filled")
        };
        let node = &self.graph.nodes[i];
        let (dtype, numel) = (node.dtype(), node.shape().numel());
        let value = self.scratch(self.size(i));
        self.push_fill(dtype, numel, slot, value);
        value
    }

    /// Node `i` as an operand in memory, under any layout.
    fn operand(&mut self, i: u32) -> (ValueId, Operand) {
        let node = &self.graph.nodes[i as usize];
        match self.res[i as usize].clone() {
            Res::View { base, layout, .. } => (
                base,
                Operand {
                    dtype: node.dtype(),
                    layout,
                },
            ),
            Res::Const(_) => {
                let layout = Layout::contiguous(node.shape().clone());
                let dtype = node.dtype();
                (self.fill(i as usize), Operand { dtype, layout })
            }
        }
    }

    /// What [`contiguous`](Self::contiguous) makes of node `i`.
    fn plain(&self, i: u32) -> Operand {
        let node = &self.graph.nodes[i as usize];
        Operand {
            dtype: node.dtype(),
            layout: Layout::contiguous(node.shape().clone()),
        }
    }

    /// Node `i` as a contiguous operand that begins where its value does.
    fn contiguous(&mut self, i: u32) -> ValueId {
        let (value, x) = self.operand(i);
        if x.layout.is_contiguous() && x.layout.offset == 0 {
            return value;
        }
        let copy = self.scratch(Size::of(&x.layout.shape, x.dtype));
        let y = Layout::contiguous(x.layout.shape.clone());
        self.push(KernelSpec::Copy { x, y }, &[value], &[copy]);
        copy
    }

    fn emit(&mut self) {
        for i in 0..self.graph.nodes.len() {
            if self.stored[i] {
                let size = self.size(i);
                self.out.sizes.insert(i as u32, size);
            }
        }
        let mut order: Vec<(u32, usize)> = Vec::new();
        for (g, group) in self.groups.iter_mut().enumerate() {
            group.members.sort_unstable();
            group.prologue.sort_unstable();
            if let Some(last) = group.members.last().copied().max(group.anchor) {
                order.push((last, g));
            }
        }
        order.sort_unstable();
        for (_, g) in order {
            match self.groups[g].anchor {
                None => self.emit_map(g),
                Some(anchor) => self.emit_anchored(g, anchor as usize),
            }
        }
    }

    fn emit_map(&mut self, g: usize) {
        let members = std::mem::take(&mut self.groups[g].members);
        let mut slots = SlotList::default();
        let frame = self.groups[g].frame.take();
        let Some((spec, loads, writes)) = self.tape(&members, None, frame, &mut slots) else {
            return;
        };
        if spec.shape.numel() == 0 {
            return;
        }
        let in_step = in_step(&spec, 0);
        self.out.kernels.push(Lower {
            spec: KernelSpec::Map(spec),
            reads: loads,
            writes,
            in_step,
            is_copy: false,
            slots,
        });
    }

    /// The tape of `members`, with the values it loads and those it writes. If `first` is a
    /// node, its value is the tape's input 0 (and not among the loads).
    #[allow(clippy::type_complexity)]
    fn tape(
        &self,
        members: &[u32],
        first: Option<usize>,
        frame: Option<Shape>,
        slots: &mut SlotList,
    ) -> Option<(MapSpec, SmallVec<[ValueId; 6]>, SmallVec<[ValueId; 4]>)> {
        let numel = self.graph.nodes[*members.first()? as usize].shape().numel();
        let shape = frame.unwrap_or_else(|| Shape::from([numel]));
        let mut tape = Tape::default();
        let mut inputs: SmallVec<[Layout; 8]> = SmallVec::new();
        let mut loads: SmallVec<[ValueId; 6]> = SmallVec::new();
        let mut regs: HashMap<u32, Reg> = HashMap::new();
        let mut consts: HashMap<(u32, DType), Reg> = HashMap::new();
        let mut seen: Vec<(ValueId, Layout, Reg)> = Vec::new();
        if let Some(first) = first {
            let node = &self.graph.nodes[first];
            inputs.push(Layout::contiguous(shape.clone()));
            regs.insert(first as u32, tape.input(node.dtype()));
        }
        let mut writes = SmallVec::new();
        for &m in members {
            let node = &self.graph.nodes[m as usize];
            let mut args: SmallVec<[Reg; 3]> = SmallVec::new();
            for &input in &node.inputs {
                let dtype = self.graph.nodes[input as usize].dtype();
                args.push(match &self.res[input as usize] {
                    Res::Const(slot) => *consts.entry((*slot, dtype)).or_insert_with(|| {
                        tape.constant(SlotList::local(&mut slots.scalars, *slot), dtype)
                    }),
                    Res::View {
                        base, direct: true, ..
                    } if regs.contains_key(base) => regs[base],
                    Res::View { base, layout, .. } => {
                        match seen.iter().find(|(b, l, _)| b == base && l == layout) {
                            Some((_, _, reg)) => *reg,
                            None => {
                                let reg = tape.input(dtype);
                                let seen_under = under_shape(layout, &shape);
                                inputs.push(seen_under.expect("checked when joined"));
                                loads.push(*base);
                                seen.push((*base, layout.clone(), reg));
                                reg
                            }
                        }
                    }
                });
            }
            let instr = match node.prim() {
                Prim::Unary(op) => Instr::Unary(*op, args[0]),
                Prim::Binary(op) => Instr::Binary(*op, args[0], args[1]),
                Prim::Where => Instr::Where(args[0], args[1], args[2]),
                Prim::Cast => Instr::Cast(args[0]),
                Prim::Uniform(_) => {
                    Instr::Uniform(SlotList::local(&mut slots.keys, self.key_slots[&m]))
                }
                other => unreachable!("{} is not a map", other.name()),
            };
            let reg = tape.push(instr, node.dtype());
            regs.insert(m, reg);
            if self.stored[m as usize] {
                tape.outputs.push(reg);
                writes.push(m);
            }
        }
        Some((
            MapSpec {
                tape,
                shape,
                inputs,
            },
            loads,
            writes,
        ))
    }

    fn emit_anchored(&mut self, g: usize, i: usize) {
        let members = std::mem::take(&mut self.groups[g].members);
        let mut slots = SlotList::default();
        let frame = self.groups[g].frame.take();
        let epilogue = self.tape(&members, Some(i), frame, &mut slots);
        let (epilogue, loads, outs) = match epilogue {
            Some((spec, loads, outs)) => (Some(spec), loads, outs),
            None => (None, SmallVec::new(), SmallVec::new()),
        };
        let node = &self.graph.nodes[i];
        let numel = node.shape().numel();
        let result = if self.stored[i] {
            i as u32
        } else {
            self.scratch(self.size(i))
        };
        let dtype = node.dtype();
        let inputs = node.inputs.clone();
        let shapes: SmallVec<[Shape; 5]> = inputs
            .iter()
            .map(|&k| self.graph.nodes[k as usize].shape().clone())
            .collect();
        let out_shape = node.shape().clone();
        if numel == 0 {
            return;
        }
        let mut reads: SmallVec<[ValueId; 6]> = SmallVec::new();
        let mut in_place: SmallVec<[bool; 6]> = SmallVec::new();
        let spec = match node.prim().clone() {
            Prim::Reduce(op, axes) => {
                let prologue = std::mem::take(&mut self.groups[g].prologue);
                let shape = shapes[0].clone();
                let spec = if prologue.is_empty() {
                    let (value, x) = self.operand(inputs[0]);
                    reads.push(value);
                    let mut tape = Tape::default();
                    let reg = tape.input(x.dtype);
                    tape.outputs.push(reg);
                    MapSpec {
                        tape,
                        shape,
                        inputs: smallvec![x.layout],
                    }
                } else {
                    let Res::View { base, .. } = self.res[inputs[0] as usize] else {
                        unreachable!()
                    };
                    self.stored[base as usize] = true;
                    let (spec, loads, _) = self
                        .tape(&prologue, None, Some(shape), &mut slots)
                        .expect("not empty");
                    self.stored[base as usize] = false;
                    reads.extend(loads);
                    spec
                };
                KernelSpec::Reduce {
                    op,
                    axes,
                    prologue: spec,
                    epilogue,
                }
            }
            Prim::MatMul => {
                let (a, left) = self.operand(inputs[0]);
                let (b, right) = self.operand(inputs[1]);
                reads.extend([a, b]);
                KernelSpec::MatMul {
                    a: left,
                    b: right,
                    epilogue,
                }
            }
            Prim::Conv(conv) => {
                let a = self.contiguous(inputs[0]);
                let b = self.contiguous(inputs[1]);
                reads.extend([a, b]);
                let [sa, sb] = [shapes[0].clone(), shapes[1].clone()];
                KernelSpec::Conv {
                    conv,
                    dtype,
                    a: sa,
                    b: sb,
                    out: out_shape,
                    epilogue,
                }
            }
            Prim::ArgReduce(op, axis) => {
                let (value, x) = self.operand(inputs[0]);
                reads.push(value);
                KernelSpec::ArgReduce { op, axis, x }
            }
            Prim::CumSum { axis, reverse } => {
                let (value, x) = self.operand(inputs[0]);
                reads.push(value);
                KernelSpec::CumSum { axis, reverse, x }
            }
            Prim::ArgSort { axis, descending } => {
                let (value, x) = self.operand(inputs[0]);
                reads.push(value);
                KernelSpec::ArgSort {
                    axis,
                    descending,
                    x,
                }
            }
            Prim::Gather(axis) => {
                let (a, x) = self.operand(inputs[0]);
                let (b, index) = self.operand(inputs[1]);
                reads.extend([a, b]);
                KernelSpec::Gather { axis, x, index }
            }
            Prim::ScatterAdd(axis) => {
                self.begin_with(inputs[0], result);
                let (a, index) = self.operand(inputs[1]);
                let (b, src) = self.operand(inputs[2]);
                reads.extend([a, b]);
                KernelSpec::ScatterAdd {
                    axis,
                    index,
                    src,
                    y: out_shape,
                }
            }
            Prim::SliceUpdate(s) => {
                self.begin_with(inputs[0], result);
                let (value, x) = self.operand(inputs[1]);
                reads.push(value);
                let whole = Layout::contiguous(out_shape);
                let y = (0..whole.shape.len()).fold(whole, |l, d| {
                    l.slice(d, s.starts[d], shapes[1][d], s.steps[d])
                });
                KernelSpec::Copy { x, y }
            }
            Prim::Concat(axis) => {
                let mut start = 0;
                for (k, &input) in inputs.iter().enumerate() {
                    let len = shapes[k][axis];
                    let y = Layout::contiguous(out_shape.clone()).slice(axis, start, len, 1);
                    start += len;
                    if y.numel() > 0 {
                        let (value, x) = self.operand(input);
                        self.push(KernelSpec::Copy { x, y }, &[value], &[result]);
                    }
                }
                return;
            }
            Prim::Reshape | Prim::Permute(_) | Prim::Broadcast | Prim::Slice(_) => {
                // A movement that strides cannot express.
                let (value, x) = self.operand(inputs[0]);
                reads.push(value);
                KernelSpec::Copy {
                    y: Layout::contiguous(x.layout.shape.clone()),
                    x,
                }
            }
            Prim::Iota => KernelSpec::Iota { dtype, numel },
            Prim::Fast(op) => {
                let mut operands = SmallVec::new();
                for (k, &input) in inputs.iter().enumerate() {
                    let (value, operand) = match k < op.strided_inputs() {
                        true => self.operand(input),
                        // Index inputs have types of their own.
                        false => (self.contiguous(input), self.plain(input)),
                    };
                    reads.push(value);
                    operands.push(operand);
                }
                KernelSpec::Fast {
                    op,
                    dtype,
                    inputs: operands,
                    out: out_shape,
                }
            }
            Prim::Data
            | Prim::Const(_)
            | Prim::Uniform(_)
            | Prim::Unary(_)
            | Prim::Binary(_)
            | Prim::Where
            | Prim::Cast
            | Prim::StopGradient
            | Prim::Barrier => unreachable!("not an anchor"),
        };
        in_place.resize(reads.len(), false);
        if let KernelSpec::Reduce {
            epilogue: Some(e), ..
        }
        | KernelSpec::MatMul {
            epilogue: Some(e), ..
        }
        | KernelSpec::Conv {
            epilogue: Some(e), ..
        } = &spec
        {
            in_place.extend(in_step(e, 1));
        }
        reads.extend(loads);
        let mut writes: SmallVec<[ValueId; 4]> = smallvec![result];
        writes.extend(outs);
        self.out.kernels.push(Lower {
            spec,
            reads,
            writes,
            in_step: in_place,
            is_copy: false,
            slots,
        });
    }

    /// Brings `result` into the state of node `input`, to be changed there.
    fn begin_with(&mut self, input: u32, result: ValueId) {
        let node = &self.graph.nodes[input as usize];
        match self.res[input as usize].clone() {
            Res::Const(slot) => {
                let (dtype, numel) = (node.dtype(), node.shape().numel());
                self.push_fill(dtype, numel, slot, result);
            }
            Res::View { base, layout, .. } => {
                let y = Layout::contiguous(layout.shape.clone());
                let whole = layout.is_contiguous() && layout.offset == 0;
                let x = Operand {
                    dtype: node.dtype(),
                    layout,
                };
                self.push(KernelSpec::Copy { x, y }, &[base], &[result]);
                let last = self.out.kernels.last_mut().expect("just pushed");
                last.is_copy = whole;
                last.in_step[0] = whole;
            }
        }
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
