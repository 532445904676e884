use super::*;
use crate::Element;
use crate::Shape;
use crate::cpu::runs::told_once;
use crate::tape::Binary;

fn noise(n: usize) -> Vec<f64> {
    let mut s = 12345u64;
    (0..n)
        .map(|_| {
            s = s
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (s >> 40) as f64 / 16777216.0 - 0.5
        })
        .collect()
}

fn load(dtype: DType) -> Tape {
    let mut t = Tape::default();
    let r = t.input(dtype);
    t.outputs.push(r);
    t
}

/// The plain fold of `values` (given for each linear index of `shape`) over `axes`.
fn naive(op: ReduceOp, shape: &[usize], axes: &[usize], values: &[f64]) -> Vec<f64> {
    let kept: Vec<usize> = (0..shape.len()).filter(|d| !axes.contains(d)).collect();
    let n: usize = kept.iter().map(|&d| shape[d]).product();
    let start = match op {
        ReduceOp::Sum => 0.0,
        ReduceOp::Prod => 1.0,
        ReduceOp::Max => f64::NEG_INFINITY,
        ReduceOp::Min => f64::INFINITY,
    };
    let mut out = vec![start; n];
    for (l, &v) in values.iter().enumerate() {
        let (mut l, mut at, mut step) = (l, 0, 1);
        let mut index = vec![0; shape.len()];
        for d in (0..shape.len()).rev() {
            index[d] = l % shape[d];
            l /= shape[d];
        }
        for &d in kept.iter().rev() {
            at += index[d] * step;
            step *= shape[d];
        }
        let o = &mut out[at];
        *o = match op {
            ReduceOp::Sum => *o + v,
            ReduceOp::Prod => *o * v,
            ReduceOp::Max if v.is_nan() || v > *o => v,
            ReduceOp::Min if v.is_nan() || v < *o => v,
            _ => *o,
        };
    }
    out
}

/// The elements of a layout in row-major order.
fn read<T: Element>(data: &[T], l: &Layout) -> Vec<f64> {
    (0..l.numel())
        .map(|mut i| {
            let mut at = l.offset as isize;
            for d in (0..l.shape.len()).rev() {
                at += (i % l.shape[d]) as isize * l.strides[d];
                i /= l.shape[d];
            }
            data[at as usize].to_f64()
        })
        .collect()
}

/// A buffer length that holds every element a layout reaches.
fn span(l: &Layout) -> usize {
    let reach = l
        .shape
        .iter()
        .zip(&l.strides)
        .map(|(&n, &s)| s.max(0) as usize * n.max(1));
    l.offset + reach.sum::<usize>() + 1
}

/// Runs a plan with 1 and 2 threads; asserts equal bits and that `after` covers all outputs once.
fn run<T: Element>(plan: &ReducePlan, inputs: &[*const u8]) -> Vec<f64> {
    let mut all = Vec::new();
    let before = pool::threads();
    for threads in [1, 2] {
        pool::set_threads(threads);
        let mut out = vec![T::from_f64(77.0); plan.outputs()];
        let (_, end) = told_once(|after| {
            // SAFETY: the callers' buffers match their layouts.
            unsafe { plan.run(inputs, out.as_mut_ptr().cast(), &Slots::default(), after) }
        });
        assert_eq!(end, plan.outputs());
        all.push(out.iter().map(|v| v.to_f64()).collect::<Vec<f64>>());
    }
    pool::set_threads(before);
    let bits = |v: &[f64]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&all[0]), bits(&all[1]), "thread counts disagree");
    all.remove(0)
}

fn close(got: &[f64], want: &[f64], tol: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let ok = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tol * (1.0 + w.abs());
        assert!(ok, "{what}: output {i} is {g}, not {w}");
    }
}

const OPS: [ReduceOp; 4] = [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min];

fn layouts() -> Vec<(Layout, Vec<usize>)> {
    let c = |s: &[usize]| Layout::contiguous(s);
    let s = |s: &[usize]| Shape::from(s);
    vec![
        (c(&[]), vec![]),
        (c(&[1]), vec![0]),
        (c(&[7]), vec![0]),
        (c(&[300_001]), vec![0]),
        (c(&[0]), vec![0]),
        (c(&[3, 0]), vec![1]),
        (c(&[0, 3]), vec![1]),
        (c(&[5, 7]), vec![]),
        (c(&[5, 7]), vec![0]),
        (c(&[5, 7]), vec![1]),
        (c(&[5, 7]), vec![0, 1]),
        (c(&[3000, 10]), vec![0]),
        (c(&[3000, 10]), vec![1]),
        (c(&[4000, 130]), vec![0]),
        (c(&[70, 9000]), vec![0]),
        (c(&[3, 100_000]), vec![1]),
        (c(&[9, 16, 11, 13]), vec![0, 2, 3]),
        (c(&[9, 16, 11, 13]), vec![0, 2]),
        (c(&[9, 16, 11, 13]), vec![1, 3]),
        (c(&[9, 16, 11, 13]), vec![1]),
        (c(&[2, 40, 3, 1, 50]), vec![1, 3]),
        (c(&[50, 128, 32]), vec![1]),
        (c(&[3000, 3, 2]), vec![1]),
        (c(&[40, 90, 1, 5]), vec![1, 2]),
        (c(&[60, 70]).permute(&[1, 0]), vec![0]),
        (c(&[60, 70]).permute(&[1, 0]), vec![1]),
        (c(&[16, 9, 13, 11]).permute(&[1, 0, 3, 2]), vec![0, 2, 3]),
        (c(&[60, 70]).slice(1, 69, 35, -2), vec![1]),
        (c(&[60, 70]).slice(0, 59, 60, -1), vec![0]),
        (c(&[60, 1]).broadcast_to(&s(&[60, 70])), vec![1]),
        (c(&[60, 1]).broadcast_to(&s(&[60, 70])), vec![0]),
        (c(&[70]).broadcast_to(&s(&[600, 70])), vec![0, 1]),
    ]
}

fn check_all<T: Element>(tol: f64, scale: impl Fn(f64) -> f64) {
    for (l, axes) in layouts() {
        let data: Vec<T> = noise(span(&l))
            .into_iter()
            .map(|v| T::from_f64(scale(v)))
            .collect();
        let values = read(&data, &l);
        for op in OPS {
            let plan = ReducePlan::new(
                op,
                &load(T::DTYPE),
                &l.shape,
                std::slice::from_ref(&l),
                &axes,
            );
            let values: Vec<f64> = values.clone();
            let want = naive(op, &l.shape, &axes, &values);
            let got = run::<T>(&plan, &[data.as_ptr().cast()]);
            if want.iter().any(|v| v.is_finite() && v.abs() > 1e15) {
                continue; // beyond what f64 says exactly about integers
            }
            let empty = l.numel() == 0 && matches!(op, ReduceOp::Max | ReduceOp::Min);
            if empty && !T::DTYPE.is_float() {
                continue;
            }
            let what = format!("{op:?} of {} over {axes:?} of {l:?}", T::DTYPE);
            close(&got, &want, tol, &what);
        }
    }
}

#[test]
fn floats_agree_with_f64() {
    check_all::<f32>(2e-6, |v| v);
    check_all::<f64>(1e-12, |v| v);
    check_all::<bf16>(4e-3, |v| v);
    check_all::<f16>(6e-4, |v| v);
}

#[test]
fn integers_agree() {
    check_all::<i64>(0.0, |v| (v * 5.0).round());
    check_all::<i32>(0.0, |v| (v * 5.0).round());
}

#[test]
fn bools_and_bytes_have_max_and_min() {
    for (l, axes) in layouts().into_iter().filter(|(l, _)| l.numel() > 0) {
        let data: Vec<u8> = noise(span(&l))
            .iter()
            .map(|v| (v * 300.0) as i64 as u8)
            .collect();
        let bools: Vec<bool> = data.iter().map(|&v| v > 3).collect();
        for op in [ReduceOp::Max, ReduceOp::Min] {
            let plan = ReducePlan::new(
                op,
                &load(DType::U8),
                &l.shape,
                std::slice::from_ref(&l),
                &axes,
            );
            let want = naive(op, &l.shape, &axes, &read(&data, &l));
            assert_eq!(run::<u8>(&plan, &[data.as_ptr()]), want);
            let plan = ReducePlan::new(
                op,
                &load(DType::Bool),
                &l.shape,
                std::slice::from_ref(&l),
                &axes,
            );
            let want = naive(op, &l.shape, &axes, &read(&bools, &l));
            assert_eq!(run::<bool>(&plan, &[bools.as_ptr().cast()]), want);
        }
    }
}

#[test]
fn a_prologue_of_two_inputs_is_fused() {
    let shapes: [(&[usize], &[usize]); 5] = [
        (&[500, 300], &[1]),
        (&[500, 300], &[0]),
        (&[8, 6, 30, 30], &[0, 2, 3]),
        (&[200_000], &[0]),
        (&[20_000, 10], &[0]),
    ];
    for (shape, axes) in shapes {
        let full = Layout::contiguous(shape);
        let mut row_shape = vec![1; shape.len()];
        row_shape[shape.len() - 1] = shape[shape.len() - 1];
        let row = Layout::contiguous(row_shape).broadcast_to(&full.shape);
        let mut t = Tape::default();
        let (x, y) = (t.input(DType::F32), t.input(DType::F32));
        let p = t.binary(Binary::Mul, x, y);
        t.outputs.push(p);
        let x: Vec<f32> = noise(full.numel()).iter().map(|&v| v as f32).collect();
        let y: Vec<f32> = noise(full.numel())
            .iter()
            .rev()
            .map(|&v| v as f32)
            .collect();
        let values: Vec<f64> = (read(&x, &full).iter().zip(read(&y, &row)))
            .map(|(a, b)| (*a as f32 * b as f32) as f64)
            .collect();
        for op in [ReduceOp::Sum, ReduceOp::Max] {
            let plan = ReducePlan::new(op, &t, shape, &[full.clone(), row.clone()], axes);
            let got = run::<f32>(&plan, &[x.as_ptr().cast(), y.as_ptr().cast()]);
            close(&got, &naive(op, shape, axes, &values), 2e-6, "fused");
        }
    }
}

#[test]
fn random_numbers_keep_their_index() {
    let shape = [40, 50];
    let mut t = Tape::default();
    let u = t.push(Instr::Uniform(0), DType::F32);
    t.outputs.push(u);
    let keys = [crate::tape::Key { seed: 1, stream: 2 }];
    let slots = Slots {
        keys: &keys,
        ..Default::default()
    };
    let mut all = vec![0f32; 2000];
    // SAFETY: the output holds the whole range.
    unsafe {
        Program::new(&t, &shape, &[]).run_map(0..2000, &[], &[all.as_mut_ptr().cast()], &slots)
    };
    let values: Vec<f64> = all.iter().map(|&v| v as f64).collect();
    for axes in [&[0][..], &[1], &[0, 1]] {
        let plan = ReducePlan::new(ReduceOp::Sum, &t, &shape, &[], axes);
        let mut out = vec![0f32; plan.outputs()];
        // SAFETY: the output holds the plan's outputs.
        unsafe { plan.run(&[], out.as_mut_ptr().cast(), &slots, After::none()) };
        let got: Vec<f64> = out.iter().map(|&v| v as f64).collect();
        close(
            &got,
            &naive(ReduceOp::Sum, &shape, axes, &values),
            2e-6,
            "random",
        );
    }
}

#[test]
fn nan_and_infinities() {
    let mut x = vec![1f32; 1000];
    for (at, special) in [(3, f32::NAN), (999, f32::NAN), (500, f32::INFINITY)] {
        x[at] = special;
        for (shape, axes) in [
            (vec![1000], vec![0]),
            (vec![100, 10], vec![0]),
            (vec![10, 100], vec![1]),
        ] {
            let l = Layout::contiguous(shape);
            for op in OPS {
                let plan = ReducePlan::new(
                    op,
                    &load(DType::F32),
                    &l.shape,
                    std::slice::from_ref(&l),
                    &axes,
                );
                let want = naive(op, &l.shape, &axes, &read(&x, &l));
                close(
                    &run::<f32>(&plan, &[x.as_ptr().cast()]),
                    &want,
                    0.0,
                    "special",
                );
            }
        }
        x[at] = 1.0;
    }
}

#[test]
fn long_sums_are_accurate() {
    // 3 million times 0.1 and a column sum of the same: plain f32 additions lose three digits.
    let x = vec![0.1f32; 3_000_000];
    let want = 0.1f32 as f64 * 3e6;
    for (shape, axes, parts) in [
        (vec![3_000_000], vec![0], 1.0),
        (vec![300_000, 10], vec![0], 10.0),
    ] {
        let l = Layout::contiguous(shape);
        let plan = ReducePlan::new(
            ReduceOp::Sum,
            &load(DType::F32),
            &l.shape,
            std::slice::from_ref(&l),
            &axes,
        );
        for got in run::<f32>(&plan, &[x.as_ptr().cast()]) {
            assert!((got * parts / want - 1.0).abs() < 1.5e-7, "{got}");
        }
    }
}
