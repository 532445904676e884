//! Runs a [`Tape`] on the CPU.
//!
//! [`Program::new`] compiles a tape for one shape and one set of input layouts; the program is
//! then run any number of times. It works in blocks of a few hundred consecutive linear indices:
//! each step is a SIMD loop over the block ([`kernels`]), and between steps values live in
//! registers of one block each, allocated by liveness so that everything stays in L1. To keep
//! steps few and cheap:
//!
//! - runs of cheap float instructions become one step ([`chain`]);
//! - contiguous inputs are read where they lie, and the last instruction of an output writes
//!   straight into it, also if it overwrites an input of the same tape;
//! - values that are the same at every index (constants, inputs broadcast from one element, and
//!   what is computed from those) are computed once per run and enter the loops as scalars.

mod chain;
mod kernels;
mod load;
mod random;

pub use random::{philox, uniform};

use super::own::Own;
use super::{Runs, pool, simd};
use crate::tape::{Binary, Instr, Key, Reg, Scalar, Slots, Tape, Unary};
use crate::{DType, Layout, with_dtype};
use kernels::Kernel;
use load::Walk;
use smallvec::SmallVec;
use std::ops::Range;

/// A compiled tape.
pub struct Program {
    numel: usize,
    /// Indices per block.
    lanes: usize,
    /// Where each value lives; steps name values by their place in this list.
    values: Vec<Value>,
    /// Computed once per run, one element each.
    consts: Vec<(u16, DType, u16)>,
    first_elements: Vec<(u16, DType, usize, u16)>,
    prologue: Vec<Step>,
    /// One-element values repeated over a block, once per run.
    splats: Vec<(Kernel, u16, u16)>,
    /// Computed for every block.
    body: Vec<Step>,
    /// Further stores into outputs, only where outputs are written to memory.
    tail: Vec<Step>,
    walks: Vec<(u16, Walk)>,
    links: Vec<chain::Link>,
    /// Per output: its value, the value that holds a block of it in register form, and the inputs
    /// that are still read after it is written.
    outputs: Vec<Output>,
    scratch: usize,
    /// Element operations per index, roughly.
    cost: usize,
}

struct Value {
    home: Home,
    /// Bytes of an element.
    size: usize,
    /// Of its block (or cell) in the scratch memory.
    offset: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    /// A block in the scratch memory.
    Slot,
    /// One element in the scratch memory.
    Cell,
    /// Contiguous memory of input `k`, from this element on.
    Input(u16, usize),
    /// Memory of output `k`; a block in the scratch memory if that cannot be written yet.
    Output(u16),
}

struct Output {
    value: u16,
    block: u16,
    size: usize,
    conflicts: SmallVec<[u16; 4]>,
}

struct Step {
    kind: Kind,
    d: u16,
    args: [u16; 3],
}

enum Kind {
    Op(Kernel),
    /// With the links at these places of `links`.
    Chain(chain::ChainKernel, Range<u32>),
    /// By `walks[k]`.
    Load(u16),
    /// From key `k`.
    Uniform(u16, DType),
}

/// Bytes of an element as registers hold it.
fn register_size(dtype: DType) -> usize {
    match dtype {
        DType::F16 | DType::BF16 => 4,
        _ => dtype.size(),
    }
}

/// Bytes that the values of a block together may fill: half the smallest L1 in use.
const BLOCK_BYTES: usize = 16 << 10;
/// Blocks are multiples of this, and so of every kernel's stride.
const MIN_LANES: usize = 128;
const MAX_LANES: usize = 512;
/// Element operations below which waking other threads costs more than it saves.
const PARALLEL_OPS: usize = 1 << 17;
/// Element operations that make a task.
const TASK_OPS: usize = 1 << 19;

impl Program {
    /// Compiles `tape` for iteration over `shape`. `inputs[k]` is the layout of input `k`,
    /// broadcast to `shape`.
    ///
    /// # Panics
    /// If the tape is malformed or the layouts do not fit.
    pub fn new(tape: &Tape, shape: &[usize], inputs: &[Layout]) -> Program {
        Program::at_level(tape, shape, inputs, simd::level())
    }

    /// [`new`](Self::new) with the kernels of a given level, which this CPU must have.
    fn at_level(tape: &Tape, shape: &[usize], inputs: &[Layout], level: simd::Level) -> Program {
        assert!(level <= simd::detect(), "this CPU does not have {level:?}");
        if let Err(why) = tape.check() {
            panic!("malformed tape: {why}\n{tape}");
        }
        assert_eq!(
            inputs.len(),
            tape.inputs.len(),
            "one layout per input of the tape"
        );
        for (k, layout) in inputs.iter().enumerate() {
            assert_eq!(
                &layout.shape[..],
                shape,
                "input {k} is not broadcast to the shape"
            );
        }
        Compiler::new(tape, shape, inputs, level).compile()
    }

    /// Whether input `k` is only read at the index that is computed, from contiguous memory.
    pub fn reads_in_step(&self, k: u16) -> bool {
        let walked = self.walks.iter().any(|(i, _)| *i == k);
        !walked && !self.first_elements.iter().any(|&(i, ..)| i == k)
    }

    /// The number of indices iterated over.
    pub fn numel(&self) -> usize {
        self.numel
    }

    /// Computes the outputs at the linear indices of `runs`, on this thread.
    ///
    /// # Safety
    /// - `inputs[k]` points to the storage that layout `k` describes (the layout's offset is added
    ///   here), aligned for its type and readable wherever the layout reaches.
    /// - `outputs[k]` points to the memory of linear index 0 of a contiguous output, aligned and
    ///   writable over `runs`. It may be the very memory of a contiguous input of the same element
    ///   size (index 0 on index 0); otherwise no output overlaps an input or another output.
    /// - `slots` has every slot that the tape names.
    /// - If `runs` lie [apart](Runs::apart), that is input 0, which is [read in step](Self::reads_in_step),
    ///   wherever its pointer and layout say it begins.
    pub unsafe fn run_map(
        &self,
        runs: impl Into<Runs>,
        inputs: &[*const u8],
        outputs: &[*mut u8],
        slots: &Slots<'_>,
    ) {
        // SAFETY: the caller's promise.
        unsafe { self.execute(runs.into(), inputs, Some(outputs), slots, |_, _, _| {}) }
    }

    /// [`run_map`](Self::run_map) over all indices, on the threads of the pool if that pays.
    ///
    /// # Safety
    /// As for `run_map`.
    pub unsafe fn run_map_parallel(
        &self,
        inputs: &[*const u8],
        outputs: &[*mut u8],
        slots: &Slots<'_>,
    ) {
        if self.numel * self.cost <= PARALLEL_OPS {
            // SAFETY: the caller's promise.
            return unsafe { self.run_map(0..self.numel, inputs, outputs, slots) };
        }
        struct Shared<'a>(&'a [*const u8], &'a [*mut u8]);
        // SAFETY: inputs are only read (or written at the indices of one task), and tasks write
        // disjoint ranges of the outputs.
        unsafe impl Sync for Shared<'_> {}
        let shared = &Shared(inputs, outputs);
        let chunk = (TASK_OPS / self.cost).clamp(4 * self.lanes, 1 << 16);
        let chunk = chunk.next_multiple_of(self.lanes);
        pool::run_chunks(self.numel, chunk, |range| {
            let Shared(inputs, outputs) = shared;
            // SAFETY: the caller's promise.
            unsafe { self.run_map(range, inputs, outputs, slots) }
        });
    }

    /// Computes the outputs block by block over `range` and hands each block to `f` as
    /// `(first index, length, pointers)`, without storing it anywhere.
    ///
    /// `pointers[k]` has a block of output `k` as registers hold it: `f16` and `bf16` come as
    /// `f32` rounded to them, bools as bytes 0 and 1, all others as themselves. It may point into
    /// an input, and is valid during the call only.
    ///
    /// # Safety
    /// As for [`run_map`](Self::run_map), less the outputs.
    pub unsafe fn for_each_block(
        &self,
        range: Range<usize>,
        inputs: &[*const u8],
        slots: &Slots<'_>,
        f: impl FnMut(usize, usize, &[*const u8]),
    ) {
        // SAFETY: the caller's promise.
        unsafe { self.execute(range.into(), inputs, None, slots, f) }
    }

    unsafe fn execute(
        &self,
        runs: Runs,
        inputs: &[*const u8],
        outputs: Option<&[*mut u8]>,
        slots: &Slots<'_>,
        mut f: impl FnMut(usize, usize, &[*const u8]),
    ) {
        if runs.is_empty() {
            return;
        }
        let numel = self.numel;
        assert!(runs.end() <= numel, "{runs:?} of {numel} indices");
        let _flush = pool::flush_denormals();
        let scratch = Own::<u8>::new(self.scratch);
        let base = scratch.ptr();
        // Where each value is in the current block, and by how much some move on.
        let mut at: SmallVec<[*mut u8; 48]> = SmallVec::with_capacity(self.values.len());
        let mut moving: SmallVec<[(u16, usize); 16]> = SmallVec::new();
        // The same for what lies apart, without gaps between runs.
        let mut apart: SmallVec<[(u16, usize); 2]> = SmallVec::new();
        let mut held_back: SmallVec<[u16; 4]> = SmallVec::new();
        for (i, value) in self.values.iter().enumerate() {
            let p = match value.home {
                Home::Input(0, _) if let Some(p) = runs.apart => {
                    apart.push((i as u16, value.size));
                    p.cast_mut()
                }
                Home::Input(k, first) => {
                    moving.push((i as u16, value.size));
                    inputs[k as usize]
                        .wrapping_add((first + runs.first) * value.size)
                        .cast_mut()
                }
                Home::Output(k) => match outputs {
                    Some(out) if !self.conflicts(k, inputs, out) => {
                        moving.push((i as u16, value.size));
                        out[k as usize].wrapping_add(runs.first * value.size)
                    }
                    _ => {
                        held_back.push(k);
                        base.wrapping_add(value.offset)
                    }
                },
                Home::Slot | Home::Cell => base.wrapping_add(value.offset),
            };
            at.push(p);
        }
        // SAFETY: the offsets lie within the scratch memory, the rest is the caller's promise.
        unsafe {
            for &(slot, dtype, d) in &self.consts {
                write_scalar(slots.scalars[slot as usize], dtype, at[d as usize]);
            }
            for &(k, dtype, offset, d) in &self.first_elements {
                let src = inputs[k as usize].add(offset * dtype.size());
                let kernel = match dtype {
                    DType::F16 | DType::BF16 => kernels::decode(simd::Level::Baseline, dtype),
                    _ => kernels::copy(dtype.size()),
                };
                kernel(1, at[d as usize], src, src, src);
            }
            for step in &self.prologue {
                self.step(step, &at, 0, 1, inputs, slots);
            }
            let lanes = self.lanes.min(runs.len);
            for &(fill, d, a) in &self.splats {
                let a = at[a as usize];
                fill(lanes, at[d as usize], a, a, a);
            }
            let end = runs.end();
            // What is left of the present run.
            let mut run = runs.first..runs.first + runs.len;
            while run.start < end {
                let (start, n) = (run.start, lanes.min(run.len()));
                run.start += n;
                if run.is_empty() {
                    let first = run.end - runs.len + runs.step;
                    run = first..first + runs.len;
                }
                let distance = run.start - start;
                let ahead = if run.start < end {
                    lanes.min(run.len())
                } else {
                    0
                };
                for (i, step) in self.body.iter().enumerate() {
                    self.prefetch(i, &moving, &at, distance, ahead);
                    self.step(step, &at, start, n, inputs, slots);
                }
                match outputs {
                    Some(outputs) => {
                        for step in &self.tail {
                            self.step(step, &at, start, n, inputs, slots);
                        }
                        for &k in &held_back {
                            let out = &self.outputs[k as usize];
                            let d = outputs[k as usize].add(start * out.size);
                            let block = at[out.value as usize];
                            std::ptr::copy_nonoverlapping(block, d, n * out.size);
                        }
                    }
                    None => {
                        let blocks: SmallVec<[*const u8; 8]> = self
                            .outputs
                            .iter()
                            .map(|o| at[o.block as usize].cast_const())
                            .collect();
                        f(start, n, &blocks);
                    }
                }
                for (values, distance) in [(&moving[..], distance), (&apart, n)] {
                    for &(i, size) in values {
                        let p = &mut at[i as usize];
                        *p = p.wrapping_add(distance * size);
                    }
                }
            }
        }
    }

    /// Before step `i` of a block: asks for that step's share of the next one, of length `ahead` and at
    /// that distance, so that memory is read while the steps compute. It pays for small operands too:
    /// what another core wrote, or an output's lines, are far away.
    #[inline(always)]
    fn prefetch(
        &self,
        i: usize,
        moving: &[(u16, usize)],
        at: &[*mut u8],
        distance: usize,
        ahead: usize,
    ) {
        if ahead == 0 {
            return;
        }
        for &(v, size) in moving {
            let next = at[v as usize].wrapping_add(distance * size);
            let lines = (ahead * size).div_ceil(64);
            let steps = self.body.len();
            for line in i * lines / steps..(i + 1) * lines / steps {
                simd::prefetch(next.wrapping_add(line * 64));
            }
        }
    }

    #[inline(always)]
    unsafe fn step(
        &self,
        step: &Step,
        at: &[*mut u8],
        start: usize,
        n: usize,
        inputs: &[*const u8],
        slots: &Slots<'_>,
    ) {
        let d = at[step.d as usize];
        // SAFETY: the values have room for n elements; the rest is the caller's promise.
        unsafe {
            match &step.kind {
                Kind::Op(kernel) => {
                    let [a, b, c] = step.args.map(|v| at[v as usize].cast_const());
                    kernel(n, d, a, b, c)
                }
                Kind::Chain(kernel, links) => {
                    let links = &self.links[links.start as usize..links.end as usize];
                    kernel(n, d, at[step.args[0] as usize], links, at)
                }
                Kind::Load(w) => {
                    let (k, walk) = &self.walks[*w as usize];
                    walk.load(inputs[*k as usize], start, n, d)
                }
                Kind::Uniform(k, dtype) => {
                    let key: Key = slots.keys[*k as usize];
                    random::uniform(*dtype, key, start, n, d)
                }
            }
        }
    }

    /// Whether output `k` is the memory of an input that is still read after `k` is written.
    fn conflicts(&self, k: u16, inputs: &[*const u8], outputs: &[*mut u8]) -> bool {
        let out = &self.outputs[k as usize];
        out.conflicts.iter().any(|&v| {
            let Home::Input(j, first) = self.values[v as usize].home else {
                unreachable!()
            };
            let size = self.values[v as usize].size;
            let input = inputs[j as usize].wrapping_add(first * size);
            std::ptr::eq(input, outputs[k as usize])
        })
    }
}

/// Writes a scalar as registers hold `dtype`.
///
/// # Safety
/// `d` must be writable for it, and aligned.
unsafe fn write_scalar(s: Scalar, dtype: DType, d: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        match dtype {
            DType::F16 => *d.cast::<f32>() = s.to::<half::f16>().to_f32(),
            DType::BF16 => *d.cast::<f32>() = s.to::<half::bf16>().to_f32(),
            other => with_dtype!(other, T => *d.cast::<T>() = s.to::<T>()),
        }
    }
}

mod compile;
mod fuse;
use compile::Compiler;

#[cfg(test)]
mod tests;
