//! Third pass: a kernel for every group.

use super::*;
use crate::prim::axis_list;

impl Lowering<'_> {
    pub(super) fn scratch(&mut self, size: Size) -> ValueId {
        self.next_value += 1;
        self.out.sizes.insert(self.next_value - 1, size);
        self.next_value - 1
    }

    pub(super) fn size(&self, i: usize) -> Size {
        Size::of(self.graph.nodes[i].shape(), self.graph.nodes[i].dtype())
    }

    pub(super) fn push(&mut self, spec: KernelSpec, reads: &[ValueId], writes: &[ValueId]) {
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

    pub(super) fn push_fill(&mut self, dtype: DType, numel: usize, slot: u32, value: ValueId) {
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
    pub(super) fn fill(&mut self, i: usize) -> ValueId {
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
    pub(super) fn operand(&mut self, i: u32) -> (ValueId, Operand) {
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
    pub(super) fn plain(&self, i: u32) -> Operand {
        let node = &self.graph.nodes[i as usize];
        Operand {
            dtype: node.dtype(),
            layout: Layout::contiguous(node.shape().clone()),
        }
    }

    /// Node `i` as a contiguous operand that begins where its value does.
    pub(super) fn contiguous(&mut self, i: u32) -> ValueId {
        let (value, x) = self.operand(i);
        if x.layout.is_contiguous() && x.layout.offset == 0 {
            return value;
        }
        let copy = self.scratch(Size::of(&x.layout.shape, x.dtype));
        let y = Layout::contiguous(x.layout.shape.clone());
        self.push(KernelSpec::Copy { x, y }, &[value], &[copy]);
        copy
    }

    pub(super) fn emit(&mut self) {
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

    pub(super) fn emit_map(&mut self, g: usize) {
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
    pub(super) fn tape(
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
            for &input in self.graph.inputs(m as usize) {
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

    pub(super) fn emit_anchored(&mut self, g: usize, i: usize) {
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
        let inputs = self.graph.inputs(i);
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
                    axes: axis_list(&axes),
                    prologue: spec,
                    epilogue,
                }
            }
            Prim::MatMul(precision) => {
                let (a, mut left) = self.operand(inputs[0]);
                let (b, right) = self.operand(inputs[1]);
                // The rows of a batch that all meet one matrix are the rows of one product, if
                // strides can say so.
                if let ([lead @ .., m, k], 2) = (&*left.layout.shape, right.layout.shape.len())
                    && let rows = lead.iter().product::<usize>() * m
                    && let Some(flat) = left.layout.reshape(&[rows, *k].into())
                {
                    left.layout = flat;
                }
                reads.extend([a, b]);
                KernelSpec::MatMul {
                    a: left,
                    b: right,
                    precision,
                    epilogue,
                    alone: !self.stored[i],
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
                slots.keys.extend(self.key_slots.get(&(i as u32)));
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
                    op: *op,
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
    pub(super) fn begin_with(&mut self, input: u32, result: ValueId) {
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
