//! From a [`Tape`] to the steps of a [`Program`].

use super::chain::Do;
use super::fuse::Pending;
use super::*;
use crate::cpu::simd::Level;

pub(super) struct Compiler<'a> {
    pub(super) tape: &'a Tape,
    pub(super) layouts: &'a [Layout],
    pub(super) level: Level,
    /// The register that a register is a copy of (casts that change nothing in registers).
    pub(super) same_as: Vec<Reg>,
    /// Registers that some output needs.
    pub(super) live: Vec<bool>,
    /// Registers with one value for all indices.
    pub(super) uniform: Vec<bool>,
    /// The value that holds a register's block, or its one element.
    pub(super) block_of: Vec<Option<u16>>,
    pub(super) cell_of: Vec<Option<u16>>,
    /// A uniform register repeated over a block.
    pub(super) splat_of: Vec<Option<u16>>,
    /// The output that a register is computed straight into.
    pub(super) direct: Vec<Option<u16>>,
    /// How many operands name a register.
    pub(super) uses: Vec<u32>,
    /// Chains that end in a register and may go on.
    pub(super) pending: Vec<Option<Pending>>,
    /// The end of the pending chain that keeps a register on the way.
    pub(super) kept_by: Vec<Option<Reg>>,
    pub(super) values: Vec<Value>,
    pub(super) steps: Vec<Step>,
    pub(super) program: Program,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(
        tape: &'a Tape,
        shape: &[usize],
        layouts: &'a [Layout],
        level: Level,
    ) -> Compiler<'a> {
        let n = tape.instrs.len();
        Compiler {
            tape,
            layouts,
            level,
            same_as: (0..n as Reg).collect(),
            live: vec![false; n],
            uniform: vec![false; n],
            block_of: vec![None; n],
            cell_of: vec![None; n],
            splat_of: vec![None; n],
            direct: vec![None; n],
            uses: vec![0; n],
            pending: vec![None; n],
            kept_by: vec![None; n],
            values: Vec::new(),
            steps: Vec::new(),
            program: Program {
                numel: shape.iter().product(),
                lanes: 0,
                values: Vec::new(),
                consts: Vec::new(),
                first_elements: Vec::new(),
                prologue: Vec::new(),
                splats: Vec::new(),
                body: Vec::new(),
                tail: Vec::new(),
                walks: Vec::new(),
                links: Vec::new(),
                outputs: Vec::new(),
                scratch: 0,
                cost: 1,
            },
        }
    }

    pub(super) fn compile(mut self) -> Program {
        self.analyse();
        for r in 0..self.tape.instrs.len() as Reg {
            let i = r as usize;
            if !self.live[i] || self.same_as[i] != r {
                continue;
            }
            // Loads and random numbers wait for their first use.
            match self.tape.instrs[i] {
                Instr::Load(_) | Instr::Const(_) | Instr::Uniform(_) => {}
                _ if self.uniform[i] => {
                    self.cell(r);
                }
                _ => self.instruction(r),
            }
        }
        self.outputs();
        self.place();
        self.program.values = self.values;
        self.program.body = self.steps;
        self.program
    }

    pub(super) fn dtype(&self, r: Reg) -> DType {
        self.tape.dtypes[r as usize]
    }

    fn analyse(&mut self) {
        for (i, instr) in self.tape.instrs.iter().enumerate() {
            let dtype = self.tape.dtypes[i];
            if let Instr::Cast(a) = *instr {
                let from = self.dtype(a);
                // A half type is held as the f32 that it widens to; a bool as a 0 or 1.
                let widens = matches!(from, DType::F16 | DType::BF16) && dtype == DType::F32;
                if from == dtype || widens || (from, dtype) == (DType::Bool, DType::U8) {
                    self.same_as[i] = self.same_as[a as usize];
                }
            }
            self.uniform[i] = match *instr {
                Instr::Const(_) => true,
                Instr::Uniform(_) => false,
                Instr::Load(k) => {
                    let l = &self.layouts[k as usize];
                    l.shape
                        .iter()
                        .zip(&l.strides)
                        .all(|(&size, &stride)| size == 1 || stride == 0)
                }
                _ => instr.operands().all(|r| self.uniform[r as usize]),
            };
        }
        for &r in &self.tape.outputs {
            self.live[self.same_as[r as usize] as usize] = true;
        }
        for i in (0..self.tape.instrs.len()).rev() {
            if self.live[i] {
                for r in self.tape.instrs[i].operands() {
                    let r = self.same_as[r as usize] as usize;
                    self.live[r] = true;
                    self.uses[r] += (self.same_as[i] == i as Reg) as u32;
                }
            }
        }
        for (k, &r) in self.tape.outputs.iter().enumerate() {
            let r = self.same_as[r as usize] as usize;
            self.uses[r] += 1;
            let loaded = matches!(self.tape.instrs[r], Instr::Load(_));
            let half = matches!(self.dtype(self.tape.outputs[k]), DType::F16 | DType::BF16);
            if !half && !loaded && !self.uniform[r] && self.direct[r].is_none() {
                self.direct[r] = Some(k as u16);
            }
        }
    }

    fn value(&mut self, home: Home, size: usize) -> u16 {
        self.values.push(Value {
            home,
            size,
            offset: 0,
        });
        u16::try_from(self.values.len() - 1).expect("a tape of at most some 30,000 values")
    }

    pub(super) fn step(&mut self, kind: Kind, d: u16, args: [u16; 3], cost: usize) {
        self.program.cost += cost;
        self.steps.push(Step { kind, d, args });
    }

    /// A new block for what register `r` holds.
    pub(super) fn new_block(&mut self, r: Reg) -> u16 {
        let home = self.direct[r as usize].map_or(Home::Slot, Home::Output);
        self.value(home, register_size(self.dtype(r)))
    }

    /// The value that holds a block of register `r`.
    pub(super) fn block(&mut self, r: Reg) -> u16 {
        let r = self.same_as[r as usize];
        let i = r as usize;
        if self.uniform[i] {
            return self.splat(r);
        }
        if let Some(v) = self.block_of[i] {
            return v;
        }
        let dtype = self.dtype(r);
        if let Some(end) = self.kept_by[i] {
            self.block(end);
            return self.block_of[i].expect("kept by the chain");
        }
        if let Some(chain) = self.pending[i].take() {
            return self.finish(r, chain);
        }
        let v = match self.tape.instrs[i] {
            Instr::Load(k) => {
                let layout = &self.layouts[k as usize];
                let half = matches!(dtype, DType::F16 | DType::BF16);
                if layout.is_contiguous() {
                    let input = self.value(Home::Input(k, layout.offset), dtype.size());
                    if !half {
                        input
                    } else {
                        let v = self.new_block(r);
                        let kernel = kernels::decode(self.level, dtype);
                        self.step(Kind::Op(kernel), v, [input, v, v], 1);
                        v
                    }
                } else {
                    let v = self.new_block(r);
                    self.program.walks.push((k, Walk::new(layout, dtype)));
                    let w = self.program.walks.len() - 1;
                    self.step(Kind::Load(w as u16), v, [v; 3], 4);
                    v
                }
            }
            Instr::Uniform(k) => {
                let v = self.new_block(r);
                self.step(Kind::Uniform(k, dtype), v, [v; 3], 16);
                v
            }
            _ => unreachable!("instructions are compiled in order"),
        };
        self.block_of[i] = Some(v);
        v
    }

    /// The cell that holds uniform register `r`, computed in the prologue.
    pub(super) fn cell(&mut self, r: Reg) -> u16 {
        let r = self.same_as[r as usize];
        let i = r as usize;
        if let Some(v) = self.cell_of[i] {
            return v;
        }
        let dtype = self.dtype(r);
        let v = self.value(Home::Cell, register_size(dtype));
        self.cell_of[i] = Some(v);
        match self.tape.instrs[i] {
            Instr::Const(slot) => self.program.consts.push((slot, dtype, v)),
            Instr::Load(k) => {
                let offset = self.layouts[k as usize].offset;
                self.program.first_elements.push((k, dtype, offset, v));
            }
            instr => {
                // Operands first: an explicit stack, since a chain of them may be long.
                let mut args = [v; 3];
                for (arg, r) in args.iter_mut().zip(instr.operands()) {
                    *arg = self.cell_of[self.same_as[r as usize] as usize]
                        .unwrap_or_else(|| self.cell(r));
                }
                let kernel = self
                    .kernel(r, [false; 3])
                    .expect("every operation takes vectors");
                self.program.prologue.push(Step {
                    kind: Kind::Op(kernel),
                    d: v,
                    args,
                });
            }
        }
        v
    }

    /// A block full of uniform register `r`.
    fn splat(&mut self, r: Reg) -> u16 {
        let i = r as usize;
        if let Some(v) = self.splat_of[i] {
            return v;
        }
        let cell = self.cell(r);
        let size = register_size(self.dtype(r));
        let v = self.value(Home::Slot, size);
        self.program.splats.push((kernels::fill(size), v, cell));
        self.splat_of[i] = Some(v);
        v
    }

    /// The kernel of an instruction with operands, some of which are scalars.
    pub(super) fn kernel(&self, r: Reg, scalar: [bool; 3]) -> Option<Kernel> {
        let dtype = self.dtype(r);
        match self.tape.instrs[r as usize] {
            Instr::Unary(op, _) => Some(kernels::unary(self.level, op, dtype)),
            Instr::Binary(op, a, _) => {
                kernels::binary(self.level, op, self.dtype(a), [scalar[0], scalar[1]])
            }
            Instr::Where(..) if scalar[0] => None,
            Instr::Where(..) => {
                kernels::select(self.level, register_size(dtype), [scalar[1], scalar[2]])
            }
            Instr::Cast(a) => Some(kernels::cast(self.level, self.dtype(a), dtype)),
            Instr::Load(_) | Instr::Const(_) | Instr::Uniform(_) => unreachable!("no operands"),
        }
    }

    /// Compiles an instruction to a step of its own.
    pub(super) fn plain(&mut self, r: Reg) {
        let instr = self.tape.instrs[r as usize];
        let operands: SmallVec<[Reg; 3]> =
            instr.operands().map(|r| self.same_as[r as usize]).collect();
        let mut scalar = [false; 3];
        for (s, &r) in scalar.iter_mut().zip(&operands) {
            *s = self.uniform[r as usize];
        }
        let kernel = self.kernel(r, scalar).unwrap_or_else(|| {
            scalar = [false; 3];
            self.kernel(r, scalar)
                .expect("every operation takes vectors")
        });
        let mut args: SmallVec<[u16; 3]> = SmallVec::new();
        for (&operand, &scalar) in operands.iter().zip(&scalar) {
            args.push(if scalar {
                self.cell(operand)
            } else {
                self.block(operand)
            });
        }
        let d = self.new_block(r);
        args.resize(3, d);
        self.step(
            Kind::Op(kernel),
            d,
            [args[0], args[1], args[2]],
            cost(instr),
        );
        self.block_of[r as usize] = Some(d);
    }

    /// Places each output; those not computed straight into their memory are stored by `tail`.
    fn outputs(&mut self) {
        for (k, &r) in self.tape.outputs.iter().enumerate() {
            let (dtype, root) = (self.dtype(r), self.same_as[r as usize]);
            let block = self.block(r);
            let value = if self.direct[root as usize] == Some(k as u16) {
                block
            } else {
                let value = self.value(Home::Output(k as u16), dtype.size());
                let kernel = match dtype {
                    DType::F16 | DType::BF16 => kernels::encode(self.level, dtype),
                    _ => kernels::copy(dtype.size()),
                };
                let args = [block, value, value];
                self.program.tail.push(Step {
                    kind: Kind::Op(kernel),
                    d: value,
                    args,
                });
                value
            };
            let (size, conflicts) = (dtype.size(), SmallVec::new());
            self.program.outputs.push(Output {
                value,
                block,
                size,
                conflicts,
            });
        }
    }

    /// Allocates the blocks by liveness and chooses the block length.
    fn place(&mut self) {
        // What is read, and then written, in order. Within a step the links of a chain follow one
        // another: a kept value must not take the memory of what a later link reads.
        let mut events: Vec<(SmallVec<[u16; 3]>, Option<u16>)> = Vec::new();
        for step in self.steps.iter().chain(&self.program.tail) {
            let mut reads = SmallVec::from(step.args);
            for link in self.program.links_of(step) {
                events.push((std::mem::take(&mut reads), None));
                match link.does {
                    Do::Keep => events.push((reads.clone(), Some(link.x))),
                    _ => reads.extend([link.x, link.y]),
                }
            }
            events.push((reads, Some(step.d)));
        }
        let end = events.len();
        // The first write and the last read of each value. The blocks of outputs stay to the end.
        let mut last = vec![0usize; self.values.len()];
        let mut first = vec![usize::MAX; self.values.len()];
        for (e, (reads, write)) in events.iter().enumerate() {
            reads.iter().for_each(|&v| last[v as usize] = e);
            if let Some(v) = *write {
                last[v as usize] = e;
                first[v as usize] = first[v as usize].min(e);
            }
        }
        for out in &self.program.outputs {
            last[out.block as usize] = end;
        }
        for &(_, d, _) in &self.program.splats {
            first[d as usize] = 0;
            last[d as usize] = end;
        }
        // Slots: (bytes of an element, free).
        let mut slots: Vec<(usize, bool)> = Vec::new();
        let mut slot_of = vec![usize::MAX; self.values.len()];
        let allocate = |slots: &mut Vec<(usize, bool)>, size: usize| {
            let found = slots
                .iter()
                .position(|&(bytes, free)| free && bytes == size);
            let i = found.unwrap_or_else(|| {
                slots.push((size, true));
                slots.len() - 1
            });
            slots[i].1 = false;
            i
        };
        for &(_, d, _) in &self.program.splats {
            slot_of[d as usize] = allocate(&mut slots, self.values[d as usize].size);
        }
        for (e, (reads, write)) in events.iter().enumerate() {
            // An operand that dies here may give its slot to the result, which kernels allow.
            for &v in reads {
                let slot = slot_of[v as usize];
                if last[v as usize] == e && slot != usize::MAX {
                    slots[slot].1 = true;
                }
            }
            let Some(d) = write.map(usize::from) else {
                continue;
            };
            if self.values[d].home == Home::Slot && slot_of[d] == usize::MAX {
                slot_of[d] = allocate(&mut slots, self.values[d].size);
                slots[slot_of[d]].1 = last[d] == e;
            }
        }
        // What competes for L1: the slots and the streams.
        let streams = |v: &&Value| matches!(v.home, Home::Input(..) | Home::Output(_));
        let per_lane = slots.iter().map(|s| s.0).sum::<usize>()
            + self
                .values
                .iter()
                .filter(streams)
                .map(|v| v.size)
                .sum::<usize>();
        let lanes = (BLOCK_BYTES / per_lane.max(1)).clamp(MIN_LANES, MAX_LANES);
        let lanes = lanes / MIN_LANES * MIN_LANES;
        self.program.lanes = lanes;
        // The scratch memory: cells, slots, and a place for each output that is held back.
        let mut top = 0;
        let mut reserve = |bytes: usize| {
            let at = top;
            top += bytes.next_multiple_of(64);
            at
        };
        let cells = self.values.iter().filter(|v| v.home == Home::Cell).count();
        let cell_base = reserve(8 * cells);
        let slot_base: Vec<usize> = slots.iter().map(|s| reserve(s.0 * lanes)).collect();
        let mut cell = cell_base;
        for (v, value) in self.values.iter_mut().enumerate() {
            match value.home {
                Home::Slot => value.offset = slot_base[slot_of[v]],
                Home::Cell => {
                    value.offset = cell;
                    cell += 8;
                }
                Home::Output(_) => value.offset = reserve(value.size * lanes),
                Home::Input(..) => {}
            }
        }
        self.program.scratch = top;
        for out in &mut self.program.outputs {
            let written = first[out.value as usize];
            for (v, value) in self.values.iter().enumerate() {
                if matches!(value.home, Home::Input(..)) && last[v] > written {
                    out.conflicts.push(v as u16);
                }
            }
        }
    }
}

impl Program {
    fn links_of(&self, step: &Step) -> &[chain::Link] {
        match &step.kind {
            Kind::Chain(_, links) => &self.links[links.start as usize..links.end as usize],
            _ => &[],
        }
    }
}

/// Rough cost per index, in additions.
pub(super) fn cost(instr: Instr) -> usize {
    match instr {
        Instr::Unary(op, _) => match op {
            Unary::Exp | Unary::Log | Unary::Expm1 | Unary::Log1p => 8,
            Unary::Tanh | Unary::Erf | Unary::Sigmoid => 12,
            Unary::Sin | Unary::Cos => 16,
            Unary::Sqrt | Unary::Rsqrt | Unary::Recip => 4,
            _ => 1,
        },
        Instr::Binary(op, ..) => match op {
            Binary::Pow => 40,
            Binary::Rem => 40,
            Binary::Div => 4,
            _ => 1,
        },
        _ => 1,
    }
}
