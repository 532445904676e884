//! The interpreted tape against loops fused by hand (docs/decisions/0001-tape.md).
//!
//! `cargo run --release -p fornax-tensor --example tape_bet`
//!
//! Runs of the two alternate, and the least time of each counts, so that other load on the machine
//! falls on both. On one thread it is that thread's CPU time, which does not count the time that
//! other programs have the core; on several it is wall time.

use fornax_tensor::cpu::interp::Program;
use fornax_tensor::cpu::storage::Storage;
use fornax_tensor::cpu::{math, pool};
use fornax_tensor::tape::{Binary::*, Reg, Scalar, Slots, Tape, Unary};
use fornax_tensor::{DType::F32, Layout, simd_dispatch};
use std::time::Instant;

/// A shorter way to write tapes.
struct Build(Tape, u16);
impl Build {
    fn input(&mut self) -> Reg {
        self.0.input(F32)
    }
    fn scalar(&mut self) -> Reg {
        self.1 += 1;
        self.0.constant(self.1 - 1, F32)
    }
    fn op(&mut self, op: fornax_tensor::tape::Binary, a: Reg, b: Reg) -> Reg {
        self.0.binary(op, a, b)
    }
}

/// p, m, v, g -> p, m, v as `torch.optim.AdamW`; scalars: see [`ADAMW`].
fn adamw_tape() -> Tape {
    let mut t = Build(Tape::default(), 0);
    let [p, m, v, g] = [t.input(), t.input(), t.input(), t.input()];
    let [decay, b1, one_b1, b2, one_b2, root, eps, step] = std::array::from_fn(|_| t.scalar());
    let p = t.op(Mul, p, decay);
    let (a, b) = (t.op(Mul, m, b1), t.op(Mul, g, one_b1));
    let m = t.op(Add, a, b);
    let gg = t.op(Mul, g, g);
    let (a, b) = (t.op(Mul, v, b2), t.op(Mul, gg, one_b2));
    let v = t.op(Add, a, b);
    let s = t.0.unary(Unary::Sqrt, v);
    let s = t.op(Div, s, root);
    let s = t.op(Add, s, eps);
    let u = t.op(Div, m, s);
    let u = t.op(Mul, u, step);
    let p = t.op(Sub, p, u);
    t.0.outputs = vec![p, m, v];
    t.0
}

/// decay, b1, 1 - b1, b2, 1 - b2, sqrt(1 - b2^t), eps, lr / (1 - b1^t)
const ADAMW: [f32; 8] = [1.0 - 1e-5, 0.9, 0.1, 0.999, 0.001, 0.8, 1e-8, 1e-3];

simd_dispatch! {
    fn adamw_hand(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        let [decay, b1, one_b1, b2, one_b2, root, eps, step] = ADAMW;
        let n = g.len();
        let (p, m, v) = (&mut p[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            m[i] = m[i] * b1 + g[i] * one_b1;
            v[i] = v[i] * b2 + g[i] * g[i] * one_b2;
            p[i] = p[i] * decay - m[i] / (v[i].sqrt() / root + eps) * step;
        }
    }
}

/// x, dy -> dx of 0.5 x (1 + tanh(k (x + c x^3))), as its gradient rule builds it.
fn gelu_tape() -> Tape {
    let mut t = Build(Tape::default(), 0);
    let [x, dy] = [t.input(), t.input()];
    let [c, k, c3, half, one] = std::array::from_fn(|_| t.scalar());
    let x2 = t.op(Mul, x, x);
    let u = t.op(Mul, x2, c);
    let u = t.op(Mul, u, x);
    let u = t.op(Add, x, u);
    let u = t.op(Mul, u, k);
    let h = t.0.unary(Unary::Tanh, u);
    let left = t.op(Add, h, one);
    let left = t.op(Mul, left, half);
    let hh = t.op(Mul, h, h);
    let sech = t.op(Sub, one, hh);
    let du = t.op(Mul, x2, c3);
    let du = t.op(Add, du, one);
    let du = t.op(Mul, du, k);
    let right = t.op(Mul, sech, du);
    let hx = t.op(Mul, x, half);
    let right = t.op(Mul, right, hx);
    let d = t.op(Add, left, right);
    let dx = t.op(Mul, dy, d);
    t.0.outputs = vec![dx];
    t.0
}

/// c, k, 3c, 1/2, 1
const GELU: [f32; 5] = [0.044715, 0.797_884_6, 3.0 * 0.044715, 0.5, 1.0];

simd_dispatch! {
    fn gelu_hand(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let [c, k, c3, half, one] = GELU;
        let n = dx.len();
        let (x, dy) = (&x[..n], &dy[..n]);
        for i in 0..n {
            let x2 = x[i] * x[i];
            let h = math::tanh((x[i] + x2 * c * x[i]) * k);
            let left = (h + one) * half;
            let right = (one - h * h) * ((x2 * c3 + one) * k) * (x[i] * half);
            dx[i] = dy[i] * (left + right);
        }
    }
}

/// Random numbers in [-2, 2), in memory as tensors have it.
fn filled(len: usize, seed: u32) -> Storage {
    let mut s = seed;
    let data: Vec<f32> = (0..len)
        .map(|_| {
            s = s.wrapping_mul(1664525).wrapping_add(1013904223);
            (s >> 8) as f32 / (1 << 22) as f32 - 2.0
        })
        .collect();
    Storage::from_slice(&data)
}

fn shared(s: &Storage) -> Shared {
    Shared(s.as_ptr().cast())
}

/// A pointer that tasks may share.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: tasks use disjoint ranges.
unsafe impl Sync for Shared {}
impl Shared {
    /// # Safety
    /// The range must lie within the memory, and no other task may use it.
    unsafe fn slice<'a>(&self, r: &std::ops::Range<usize>) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(r.start), r.len()) }
    }
}

const CHUNK: usize = 1 << 16;

/// What this thread has computed for, where the system tells.
fn cpu_seconds() -> Option<f64> {
    #[cfg(target_os = "linux")]
    {
        let mut t = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: writes the struct.
        let ok = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) } == 0;
        return ok.then_some(t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9);
    }
    #[allow(unreachable_code)]
    None
}

/// Alternates the two, and returns the least seconds of each.
fn race(
    rounds: usize,
    repeat: usize,
    mut tape: impl FnMut(),
    mut hand: impl FnMut(),
) -> (f64, f64) {
    let mut least = (f64::MAX, f64::MAX);
    let time = |f: &mut dyn FnMut()| {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        (0..repeat).for_each(|_| f());
        let seconds = match (pool::threads(), cpu) {
            (1, Some(cpu)) => cpu_seconds().unwrap_or(f64::NAN) - cpu,
            _ => start.elapsed().as_secs_f64(),
        };
        seconds / repeat as f64
    };
    for _ in 0..rounds {
        least.0 = least.0.min(time(&mut tape));
        least.1 = least.1.min(time(&mut hand));
    }
    least
}

fn report(name: &str, bytes: usize, (tape, hand): (f64, f64)) {
    println!(
        "{name:<34} tape {:>9.3} ms ({:>5.1} GB/s)   hand {:>9.3} ms   ratio {:.2}",
        tape * 1e3,
        bytes as f64 / tape / 1e9,
        hand * 1e3,
        tape / hand
    );
}

fn adamw(n: usize, rounds: usize, repeat: usize) {
    let program = Program::new(
        &adamw_tape(),
        &[n],
        &[0; 4].map(|_| Layout::contiguous([n])),
    );
    let scalars = ADAMW.map(|v| Scalar::F64(v as f64));
    let slots = Slots {
        scalars: &scalars,
        keys: &[],
    };
    let make = || {
        let v = filled(n, 3);
        // SAFETY: n elements; second moments are not negative.
        unsafe { shared(&v).slice(&(0..n)) }
            .iter_mut()
            .for_each(|v| *v *= *v);
        [filled(n, 1), filled(n, 2), v, filled(n, 4)]
    };
    let (a, b) = (make(), make());
    let pa = a.each_ref().map(|s| s.as_ptr());
    let run_tape = || {
        let inputs = pa.map(|p| p.cast_const());
        // SAFETY: four arrays of n elements, three of them overwritten in place.
        unsafe { program.run_map_parallel(&inputs, &pa[..3], &slots) };
    };
    let pb = b.each_ref().map(shared);
    let run_hand = || {
        let pb = &pb;
        pool::run_chunks(n, CHUNK, |r| {
            // SAFETY: chunks do not overlap.
            let [p, m, v, g] = unsafe { [0, 1, 2, 3].map(|k| pb[k].slice(&r)) };
            adamw_hand(p, m, v, g);
        });
    };
    run_tape();
    run_hand();
    let least = race(rounds, repeat, run_tape, run_hand);
    for (a, b) in a.iter().zip(&b) {
        // SAFETY: n elements each; nothing else uses them now.
        let equal = unsafe { shared(a).slice(&(0..n)) == shared(b).slice(&(0..n)) };
        assert!(equal, "the two differ");
    }
    report(&format!("AdamW, {n} parameters"), n * 28, least);
}

fn gelu(n: usize, rounds: usize, repeat: usize) {
    let program = Program::new(&gelu_tape(), &[n], &[0; 2].map(|_| Layout::contiguous([n])));
    let scalars = GELU.map(|v| Scalar::F64(v as f64));
    let slots = Slots {
        scalars: &scalars,
        keys: &[],
    };
    let [x, dy, a, b] = [1, 2, 3, 4].map(|seed| filled(n, seed));
    let inputs = [x.as_ptr().cast_const(), dy.as_ptr().cast_const()];
    let (pa, pb) = (a.as_ptr(), shared(&b));
    // SAFETY: n elements each, which nobody writes.
    let [x, dy] = [&x, &dy].map(|s| unsafe { &*shared(s).slice(&(0..n)) });
    let run_tape = || {
        // SAFETY: two inputs and one output of n elements.
        unsafe { program.run_map_parallel(&inputs, &[pa], &slots) };
    };
    let run_hand = || {
        let pb = &pb;
        if n <= CHUNK {
            // SAFETY: the whole array.
            gelu_hand(x, dy, unsafe { pb.slice(&(0..n)) });
            return;
        }
        pool::run_chunks(n, CHUNK, |r| {
            // SAFETY: chunks do not overlap.
            gelu_hand(&x[r.clone()], &dy[r.clone()], unsafe { pb.slice(&r) });
        });
    };
    let least = race(rounds, repeat, run_tape, run_hand);
    // SAFETY: n elements each; nothing else uses them now.
    let equal = unsafe { shared(&a).slice(&(0..n)) == shared(&b).slice(&(0..n)) };
    assert!(equal, "the two differ");
    report(&format!("GELU backward, {n} elements"), n * 12, least);
}

fn main() {
    let mut threads = vec![1];
    if pool::threads() > 1 {
        threads.push(pool::threads());
    }
    for t in threads {
        pool::set_threads(t);
        println!("{t} thread(s), {:?}", fornax_tensor::cpu::simd::level());
        adamw(10_000_000, 100, 1);
        gelu(16_000_000, 100, 1);
        gelu(16_384, 40, 50);
        adamw(16_384, 40, 50);
    }
}
