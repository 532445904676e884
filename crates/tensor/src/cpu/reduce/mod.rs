//! Reductions over any axes, with an elementwise prologue and epilogue.
//!
//! A [`ReducePlan`] reorders the dimensions once so that memory is read in order, and picks one of
//! two loops. *Rows*: the innermost dimension is reduced; every output is the fold of one run.
//! *Columns*: the innermost dimension is kept; rows are added to a row of accumulators. How the
//! work is cut depends on the shape alone, so the bits are the same at any thread count.

pub(super) mod kernel;
mod order;
#[cfg(test)]
mod tests;

use super::After;
use super::copy::SharedPtr;
use super::interp::Program;
use super::pool;
use crate::tape::{Instr, Slots, Tape};
use crate::{DType, Layout, ReduceOp};
use half::{bf16, f16};
use kernel::*;
use order::Order;
use smallvec::SmallVec;
use std::ops::Range;

/// A reduction made ready to run any number of times.
pub struct ReducePlan {
    op: ReduceOp,
    /// The type that is folded: `f32` for the half types, `i64` for sums of integers.
    fold: DType,
    /// The type of the output: that of the tape's result.
    out: DType,
    /// Number of output elements, and of elements folded into each.
    kept: usize,
    reduced: usize,
    /// In column mode, the size of the innermost kept part; 0 in row mode.
    columns: usize,
    source: Source,
}

/// Where the elements come from.
enum Source {
    /// A tape that computes them in the order of the plan.
    Program(Program),
    /// An input as it lies in memory, in runs worth reading in place (whose last stride is 1).
    Direct {
        input: usize,
        offset: usize,
        shape: SmallVec<[usize; 6]>,
        strides: SmallVec<[isize; 6]>,
    },
    /// Random numbers are functions of the logical index, which reordering would change: compute
    /// all elements first, then reduce them.
    Staged {
        program: Program,
        elements: usize,
        dtype: DType,
        then: Box<ReducePlan>,
    },
}

/// The least number of elements that is worth a task of its own.
const TASK: usize = 1 << 15;
/// Long folds are cut in at most this many parts, each of at least [`TASK`] elements...
const PARTS: usize = 256;
/// ...when there are fewer independent folds than this.
const ENOUGH: usize = 16;
/// The widest row of accumulators: with `f32` lanes it takes a third of a 48 KiB L1.
const STRIP: usize = 4096;
/// Rows of accumulators narrower than this take several rows of input side by side.
const NARROW: usize = 128;

impl ReducePlan {
    /// Plans the reduction `op` of `tape` (with one output) over `axes` (sorted, distinct) of the
    /// iteration `shape`. `layouts` are those of the tape's inputs, broadcast to `shape`.
    ///
    /// The output is contiguous, its shape is `shape` without `axes`, and its type is the tape's.
    pub fn new(
        op: ReduceOp,
        tape: &Tape,
        shape: &[usize],
        layouts: &[Layout],
        axes: &[usize],
    ) -> ReducePlan {
        let result = tape.outputs[0];
        let out = tape.dtypes[result as usize];
        let fold = match (out, op) {
            (DType::F16 | DType::BF16, _) => DType::F32,
            (d, ReduceOp::Sum | ReduceOp::Prod) if !d.is_float() => DType::I64,
            (DType::Bool, _) => DType::U8,
            (d, _) => d,
        };
        let mut tape = tape.clone();
        if fold != out {
            tape.outputs[0] = tape.cast(result, fold);
        }
        let order = Order::new(shape, layouts, axes, &tape.inputs);
        let random = tape.instrs.iter().any(|i| matches!(i, Instr::Uniform(_)));
        let source = if random && !order.is_identity {
            let all: Layout = Layout::contiguous(shape);
            let mut plain = Tape::default();
            let r = plain.input(fold);
            plain.outputs.push(r);
            Source::Staged {
                program: Program::new(&tape, shape, layouts),
                elements: all.numel(),
                dtype: fold,
                then: Box::new(ReducePlan::new(op, &plain, shape, &[all], axes)),
            }
        } else {
            let direct = match tape.instrs[..] {
                [Instr::Load(k)] => {
                    let layout = &order.layouts[k as usize];
                    let (shape, mut strides) = Layout::coalesce(&[layout]);
                    let strides = strides.remove(0);
                    (strides.last() == Some(&1) && shape[shape.len() - 1] >= 16).then_some(
                        Source::Direct {
                            input: k as usize,
                            offset: layout.offset,
                            shape,
                            strides,
                        },
                    )
                }
                _ => None,
            };
            direct.unwrap_or_else(|| {
                Source::Program(Program::new(&tape, &order.shape, &order.layouts))
            })
        };
        ReducePlan {
            op,
            fold,
            out,
            kept: order.kept,
            reduced: order.reduced,
            columns: order.columns,
            source,
        }
    }

    /// The number of output elements.
    pub fn outputs(&self) -> usize {
        self.kept
    }

    /// The type of the output.
    pub fn dtype(&self) -> DType {
        self.out
    }

    /// Runs the reduction: `inputs` are the tape's, as for [`Program`]; `out` takes
    /// [`ReducePlan::outputs`] elements. `after` is called once for each finished range of the
    /// output, on the thread that finished it while its cache is warm; the ranges cover the output
    /// and do not overlap.
    ///
    /// # Safety
    /// The inputs must be readable over their layouts and `out` writable, all aligned; `out`
    /// overlaps no input.
    pub unsafe fn run(
        &self,
        inputs: &[*const u8],
        out: *mut u8,
        slots: &Slots<'_>,
        after: After<'_>,
    ) {
        if self.kept == 0 {
            return;
        }
        if let Source::Staged {
            program,
            elements,
            dtype,
            then,
        } = &self.source
        {
            let size = dtype.size();
            let all = super::storage::Storage::scratch(elements * size);
            let shared = SharedPtr(all.as_ptr());
            let ins: SmallVec<[SharedPtr<u8>; 8]> =
                inputs.iter().map(|p| SharedPtr(p.cast_mut())).collect();
            pool::run(elements.div_ceil(TASK), |t| {
                let range = t * TASK..((t + 1) * TASK).min(*elements);
                let ins: SmallVec<[*const u8; 8]> = ins.iter().map(|p| p.get() as _).collect();
                let to = shared.get();
                // SAFETY: tasks write disjoint ranges of the temporary.
                unsafe { program.run_map(range, &ins, &[to], slots) };
            });
            // SAFETY: the temporary holds every element; `out` is the caller's promise.
            return unsafe { then.run(&[all.as_ptr()], out, slots, after) };
        }
        macro_rules! pick {
            ($($op:ident $dtype:ident => $k:ident),* $(,)?) => {
                match (self.op, self.fold) {
                    $((ReduceOp::$op, DType::$dtype) => {
                        let run = Run::<$k> {
                            plan: self,
                            inputs: inputs.iter().map(|p| SharedPtr(p.cast_mut())).collect(),
                            out: SharedPtr(out),
                            slots,
                            after,
                            kernel: std::marker::PhantomData,
                        };
                        // SAFETY: passed on to the caller; the kernel's type is `self.fold`.
                        unsafe { run.run() }
                    })*
                    (op, d) => unreachable!("{op:?} folds no {d}"),
                }
            };
        }
        pick! {
            Sum F32 => SumF32, Sum F64 => SumF64, Sum I64 => SumI64,
            Prod F32 => ProdF32, Prod F64 => ProdF64, Prod I64 => ProdI64,
            Max F32 => MaxF32, Max F64 => MaxF64, Max I64 => MaxI64, Max I32 => MaxI32,
            Max U8 => MaxU8,
            Min F32 => MinF32, Min F64 => MinF64, Min I64 => MinI64, Min I32 => MinI32,
            Min U8 => MinU8,
        }
    }
}

/// Folded elements, which can be written as any output type that is folded in theirs.
trait Store: Copy {
    /// # Safety
    /// Element `i` of `out`, of type `dtype`, can be written.
    unsafe fn store(self, out: *mut u8, i: usize, dtype: DType);
}

macro_rules! store {
    ($($t:ty, |$v:ident| $($d:ident: $o:ty = $e:expr),*;)*) => {$(
        impl Store for $t {
            #[inline(always)]
            unsafe fn store(self, out: *mut u8, i: usize, dtype: DType) {
                let $v = self;
                match dtype {
                    // SAFETY: the caller's promise.
                    $(DType::$d => unsafe { out.cast::<$o>().add(i).write($e) },)*
                    d => unreachable!("{d} is not folded in {}", stringify!($t)),
                }
            }
        }
    )*};
}
store! {
    f32, |v| F32: f32 = v, BF16: bf16 = bf16::from_f32(v), F16: f16 = f16::from_f32(v);
    f64, |v| F64: f64 = v;
    i64, |v| I64: i64 = v, I32: i32 = v as i32, U8: u8 = v as u8, Bool: u8 = (v != 0) as u8;
    i32, |v| I32: i32 = v;
    u8, |v| U8: u8 = v, Bool: u8 = (v != 0) as u8;
}

/// One run of a plan.
struct Run<'a, K: Kernel> {
    plan: &'a ReducePlan,
    inputs: SmallVec<[SharedPtr<u8>; 8]>,
    out: SharedPtr<u8>,
    slots: &'a Slots<'a>,
    after: After<'a>,
    kernel: std::marker::PhantomData<K>,
}

impl<K: Kernel> Run<'_, K>
where
    K::In: Store,
{
    /// # Safety
    /// As for [`ReducePlan::run`], and `K` folds the plan's type.
    unsafe fn run(&self) {
        let plan = self.plan;
        if plan.reduced == 0 {
            self.finish(0, &vec![K::WIDE; plan.kept]);
        } else if plan.columns == 0 {
            self.rows();
        } else {
            self.columns();
        }
    }

    /// Writes finished results from output `from` on and runs the epilogue on them.
    fn finish(&self, from: usize, results: &[K::Wide]) {
        for (i, &w) in results.iter().enumerate() {
            // SAFETY: results are those of outputs below `kept`; `out` is the caller's promise.
            unsafe { K::narrow(w).store(self.out.get(), from + i, self.plan.out) };
        }
        (self.after)((from..from + results.len()).into());
    }

    /// Calls `f` with the elements of a range of the plan's linear index, in order, piece by
    /// piece.
    fn elements(&self, range: Range<usize>, mut f: impl FnMut(&[K::In])) {
        match &self.plan.source {
            Source::Program(program) => {
                let inputs: SmallVec<[*const u8; 8]> =
                    self.inputs.iter().map(|p| p.get().cast_const()).collect();
                // SAFETY: the inputs are the caller's promise; a block holds `len` elements of
                // the output register, whose type is the kernel's.
                unsafe {
                    program.for_each_block(range, &inputs, self.slots, |_, len, outs| {
                        f(std::slice::from_raw_parts(outs[0].cast(), len))
                    })
                }
            }
            Source::Direct {
                input,
                offset,
                shape,
                strides,
            } => {
                let base = self.inputs[*input]
                    .get()
                    .cast::<K::In>()
                    .wrapping_add(*offset);
                let (run, outer) = (shape[shape.len() - 1], &shape[..shape.len() - 1]);
                let mut at = range.start;
                while at < range.end {
                    let (mut line, from) = (at / run, at % run);
                    let len = (run - from).min(range.end - at);
                    let mut p = base;
                    for (&n, &s) in outer.iter().zip(strides).rev() {
                        p = p.wrapping_offset((line % n) as isize * s);
                        line /= n;
                    }
                    // SAFETY: these elements are inside the input's layout.
                    f(unsafe { std::slice::from_raw_parts(p.wrapping_add(from), len) });
                    at += len;
                }
            }
            Source::Staged { .. } => unreachable!("staged plans run in two steps"),
        }
    }

    /// Row mode: outputs are folds of consecutive runs of `reduced` elements.
    fn rows(&self) {
        let (kept, n) = (self.plan.kept, self.plan.reduced);
        if kept < ENOUGH && n >= 2 * TASK {
            // Few long rows: cut each in parts.
            let part = n.div_ceil(PARTS).next_multiple_of(TASK);
            let parts = n.div_ceil(part);
            let mut sums = vec![K::WIDE; kept * parts];
            let to = SharedPtr(sums.as_mut_ptr());
            pool::run(kept * parts, |t| {
                let (row, p) = (t / parts, t % parts);
                let range = row * n + p * part..row * n + n.min((p + 1) * part);
                let mut sum = K::WIDE;
                self.elements(range, |x| sum = K::merge(sum, fold::<K>(x)));
                // SAFETY: each task has its own element of `sums`.
                unsafe { *to.at(t as isize) = sum };
            });
            let results: SmallVec<[K::Wide; ENOUGH]> =
                sums.chunks(parts).map(merge_all::<K>).collect();
            return self.finish(0, &results);
        }
        let per_task = (TASK / n).max(1);
        pool::run(kept.div_ceil(per_task), |t| {
            let rows = t * per_task..kept.min((t + 1) * per_task);
            let mut results = vec![K::WIDE; rows.len()];
            // Pieces need not end where rows end.
            let (mut row, mut filled) = (0, 0);
            self.elements(rows.start * n..rows.end * n, |mut x| {
                if filled == 0 && x.len() >= n {
                    let whole = x.len() / n;
                    fold_rows::<K>(&x[..whole * n], n, &mut results[row..row + whole]);
                    row += whole;
                    x = &x[whole * n..];
                }
                while !x.is_empty() {
                    let (head, tail) = x.split_at(x.len().min(n - filled));
                    results[row] = K::merge(results[row], fold::<K>(head));
                    filled += head.len();
                    if filled == n {
                        (row, filled) = (row + 1, 0);
                    }
                    x = tail;
                }
            });
            self.finish(rows.start, &results);
        });
    }

    /// Column mode: the linear index is `[outer, reduced, columns]`.
    fn columns(&self) {
        let (n, width) = (self.plan.reduced, self.plan.columns);
        let outer = self.plan.kept / width;
        let strips = width.div_ceil(STRIP);
        let strip = width.div_ceil(strips).next_multiple_of(64).min(width);
        let strips = width.div_ceil(strip);
        // Parts of the rows, where outer and strips alone are too few tasks.
        let mut part = n;
        if outer * strips < ENOUGH {
            let least = (TASK / strip).max(FLUSH);
            part = n.div_ceil(PARTS / 4).max(least).next_multiple_of(FLUSH);
        }
        let parts = n.div_ceil(part);
        let one = |o: usize, s: usize, p: usize, wide: &mut [K::Wide], lanes: &mut Vec<K::Lane>| {
            let columns = s * strip..width.min((s + 1) * strip);
            let rows = p * part..n.min((p + 1) * part);
            self.strip(o, columns, rows, wide, lanes);
        };
        if parts == 1 {
            let per_task = (TASK / (n * strip)).max(1);
            let units = outer * strips;
            pool::run(units.div_ceil(per_task), |t| {
                let mut wide = vec![K::WIDE; strip];
                let mut lanes = Vec::new();
                for u in t * per_task..units.min((t + 1) * per_task) {
                    let (o, s) = (u / strips, u % strips);
                    let len = strip.min(width - s * strip);
                    wide.fill(K::WIDE);
                    one(o, s, 0, &mut wide[..len], &mut lanes);
                    self.finish(o * width + s * strip, &wide[..len]);
                }
            });
            return;
        }
        let kept = self.plan.kept;
        let mut sums = vec![K::WIDE; parts * kept];
        let to = SharedPtr(sums.as_mut_ptr());
        pool::run(outer * strips * parts, |t| {
            let (p, u) = (t % parts, t / parts);
            let (o, s) = (u / strips, u % strips);
            let len = strip.min(width - s * strip);
            let at = p * kept + o * width + s * strip;
            // SAFETY: each task has its own range of `sums`.
            let wide = unsafe { std::slice::from_raw_parts_mut(to.at(at as isize), len) };
            one(o, s, p, wide, &mut Vec::new());
        });
        let (total, rest) = sums.split_at_mut(kept);
        for other in rest.chunks(kept) {
            merge_row::<K>(total, other);
        }
        self.finish(0, total);
    }

    /// Folds `rows` of the given `columns` of one outer index into `wide`.
    fn strip(
        &self,
        o: usize,
        columns: Range<usize>,
        rows: Range<usize>,
        wide: &mut [K::Wide],
        lanes: &mut Vec<K::Lane>,
    ) {
        let (n, width) = (self.plan.reduced, self.plan.columns);
        let len = columns.len();
        lanes.clear();
        let start = |r: usize| (o * n + r) * width + columns.start;
        if len == width {
            // The rows follow one another: narrow ones are taken in several at a time.
            let side = NARROW.div_ceil(len).min(rows.len());
            let lane_row = side * len;
            lanes.resize(lane_row, K::LANE);
            let mut side_wide: Vec<K::Wide> = Vec::new();
            if side > 1 {
                side_wide.resize(lane_row, K::WIDE);
            }
            let (mut filled, mut taken) = (0, 0);
            let target = |w: &mut [K::Wide], side_wide: &mut [K::Wide], lanes: &mut [K::Lane]| {
                flush::<K>(if side > 1 { side_wide } else { w }, lanes)
            };
            self.elements(start(rows.start)..start(rows.end), |mut x| {
                while !x.is_empty() {
                    if filled == 0 && x.len() >= 4 * lane_row && taken + 4 <= FLUSH {
                        let (four, rest) = x.split_at(4 * lane_row);
                        let row = |k: usize| &four[k * lane_row..][..lane_row];
                        push_4_rows::<K>(lanes, [row(0), row(1), row(2), row(3)]);
                        x = rest;
                        taken += 4;
                    } else {
                        let (head, rest) = x.split_at(x.len().min(lane_row - filled));
                        push_row::<K>(&mut lanes[filled..filled + head.len()], head);
                        filled += head.len();
                        x = rest;
                        if filled == lane_row {
                            (filled, taken) = (0, taken + 1);
                        }
                    }
                    if taken == FLUSH {
                        target(wide, &mut side_wide, lanes);
                        taken = 0;
                    }
                }
            });
            target(wide, &mut side_wide, lanes);
            for part in side_wide.chunks(len) {
                merge_row::<K>(wide, part);
            }
            return;
        }
        lanes.resize(len, K::LANE);
        let mut taken = 0;
        for r in rows {
            let mut at = 0;
            self.elements(start(r)..start(r) + len, |x| {
                push_row::<K>(&mut lanes[at..at + x.len()], x);
                at += x.len();
            });
            taken += 1;
            if taken == FLUSH {
                flush::<K>(wide, lanes);
                taken = 0;
            }
        }
        flush::<K>(wide, lanes);
    }
}
