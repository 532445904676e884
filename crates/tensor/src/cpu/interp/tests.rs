use super::*;
use crate::cpu::simd::Level;
use crate::shape::Shape;
use crate::tape::Instr;
use half::{bf16, f16};

/// A small generator, so that a failing case is named by its seed.
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 ^ (self.0 >> 29)
    }
    fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 16) % n as u64) as usize
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
    fn float(&mut self) -> f64 {
        const SPECIAL: [f64; 10] = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            1e30,
            -2.5,
        ];
        if self.one_in(8) {
            return self.pick(&SPECIAL);
        }
        (self.below(2_000_001) as f64 / 1e6 - 1.0) * self.pick(&[1.0, 4.0, 100.0])
    }
}

fn put(dtype: DType, v: f64, out: &mut Vec<u8>) {
    match dtype {
        DType::Bool => out.push((v > 0.0) as u8),
        DType::U8 => out.push(v as u8),
        DType::I32 => out.extend((v as i32).to_ne_bytes()),
        DType::I64 => out.extend((v as i64).to_ne_bytes()),
        DType::F16 => out.extend(f16::from_f64(v).to_ne_bytes()),
        DType::BF16 => out.extend(bf16::from_f64(v).to_ne_bytes()),
        DType::F32 => out.extend((v as f32).to_ne_bytes()),
        DType::F64 => out.extend(v.to_ne_bytes()),
    }
}

/// Bytes at an address aligned for any type.
#[derive(Clone)]
struct Bytes(Vec<u64>, usize);
impl Bytes {
    fn zeroed(len: usize) -> Bytes {
        Bytes(vec![0; len.div_ceil(8) + 1], len)
    }
    fn new(b: &[u8]) -> Bytes {
        let mut out = Bytes::zeroed(b.len());
        bytemuck::cast_slice_mut(&mut out.0)[..b.len()].copy_from_slice(b);
        out
    }
    fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.0)[..self.1]
    }
}

/// Element `i` with every NaN made the same.
fn canonical(dtype: DType, bytes: &[u8], i: usize) -> u64 {
    let at = &bytes[i * dtype.size()..][..dtype.size()];
    let mut word = [0u8; 8];
    word[..at.len()].copy_from_slice(at);
    let bits = u64::from_ne_bytes(word);
    let nan = match dtype {
        DType::F16 => f16::from_bits(bits as u16).is_nan(),
        DType::BF16 => bf16::from_bits(bits as u16).is_nan(),
        DType::F32 => f32::from_bits(bits as u32).is_nan(),
        DType::F64 => f64::from_bits(bits).is_nan(),
        _ => false,
    };
    if nan { u64::MAX } else { bits }
}

#[track_caller]
fn assert_same(what: &str, tape: &Tape, dtypes: &[DType], a: &[Bytes], b: &[Bytes]) {
    for (k, &dtype) in dtypes.iter().enumerate() {
        let n = a[k].bytes().len() / dtype.size();
        for i in 0..n {
            let (x, y) = (
                canonical(dtype, a[k].bytes(), i),
                canonical(dtype, b[k].bytes(), i),
            );
            assert!(
                x == y,
                "{what}: output {k} ({dtype}) differs at {i}: {x:#x} or {y:#x}\n{tape}"
            );
        }
    }
}

struct Case {
    tape: Tape,
    shape: Shape,
    layouts: Vec<Layout>,
    data: Vec<Bytes>,
    scalars: Vec<Scalar>,
    keys: Vec<Key>,
}

const UNARY: [Unary; 21] = [
    Unary::Neg,
    Unary::Abs,
    Unary::Sign,
    Unary::Floor,
    Unary::Ceil,
    Unary::Round,
    Unary::Trunc,
    Unary::Sqrt,
    Unary::Rsqrt,
    Unary::Recip,
    Unary::Exp,
    Unary::Expm1,
    Unary::Log,
    Unary::Log1p,
    Unary::Sin,
    Unary::Cos,
    Unary::Tanh,
    Unary::Erf,
    Unary::Sigmoid,
    Unary::Relu,
    Unary::Not,
];
const BINARY: [Binary; 17] = [
    Binary::Add,
    Binary::Sub,
    Binary::Mul,
    Binary::Div,
    Binary::Rem,
    Binary::Pow,
    Binary::Max,
    Binary::Min,
    Binary::And,
    Binary::Or,
    Binary::Xor,
    Binary::Eq,
    Binary::Ne,
    Binary::Lt,
    Binary::Le,
    Binary::Gt,
    Binary::Ge,
];
const ARITHMETIC: [Binary; 4] = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div];

/// A layout of `shape` with random order, gaps, directions and repeats, and the elements it needs.
fn random_layout(rng: &mut Rng, shape: &[usize]) -> (Layout, usize) {
    if rng.one_in(2) {
        let l = Layout::contiguous(shape);
        let n = l.numel();
        let offset = rng.below(3);
        return (Layout { offset, ..l }, n + offset);
    }
    let mut order: Vec<usize> = (0..shape.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let mut l = Layout::contiguous(shape);
    let (mut step, mut first) = (1isize, 0isize);
    for &d in &order {
        match rng.below(5) {
            0 => l.strides[d] = 0,
            1 => {
                l.strides[d] = -step;
                first += step * (shape[d] as isize - 1).max(0);
                step *= shape[d].max(1) as isize;
            }
            2 => {
                l.strides[d] = 2 * step;
                step *= 2 * shape[d].max(1) as isize;
            }
            _ => {
                l.strides[d] = step;
                step *= shape[d].max(1) as isize;
            }
        }
    }
    l.offset = first as usize;
    (l, step as usize)
}

fn random_case(rng: &mut Rng) -> Case {
    let rank = rng.below(5);
    let mut shape: Vec<usize> = (0..rank)
        .map(|_| rng.pick(&[1, 2, 3, 5, 7, 16, 0]))
        .collect();
    if rank == 0 || !rng.one_in(20) {
        shape.iter_mut().for_each(|s| *s = (*s).max(1));
    }
    if rng.one_in(3) {
        shape.push(rng.pick(&[17, 100, 1023, 2048, 3001]));
        shape.drain(..shape.len().saturating_sub(2));
    }
    let main = rng.pick(&DType::ALL);
    let mut tape = Tape::default();
    let (mut layouts, mut data) = (Vec::new(), Vec::new());
    for _ in 0..1 + rng.below(4) {
        let dtype = if rng.one_in(4) {
            rng.pick(&DType::ALL)
        } else {
            main
        };
        tape.input(dtype);
        let (layout, n) = random_layout(rng, &shape);
        let mut bytes = Vec::new();
        (0..n).for_each(|_| put(dtype, rng.float(), &mut bytes));
        layouts.push(layout);
        data.push(Bytes::new(&bytes));
    }
    let scalars = vec![
        Scalar::F64(rng.float()),
        Scalar::I64(rng.below(7) as i64 - 3),
        Scalar::Bool(true),
    ];
    let keys = vec![Key {
        seed: rng.next(),
        stream: rng.next(),
    }];
    for _ in 0..rng.below(24) {
        let n = tape.instrs.len();
        let a = rng.below(n) as Reg;
        let dtype = tape.dtypes[a as usize];
        // Another register of the same type, often a recent one.
        let same: Vec<Reg> = (0..n as Reg)
            .filter(|&r| tape.dtypes[r as usize] == dtype)
            .collect();
        let b = rng.pick(&same);
        let before = tape.clone();
        match rng.below(12) {
            0 => drop(tape.push(Instr::Const(rng.below(3) as u16), rng.pick(&[main, dtype]))),
            1 if main.is_float() => drop(tape.push(Instr::Uniform(0), main)),
            2 | 3 => drop(tape.unary(rng.pick(&UNARY), a)),
            4 => drop(tape.cast(a, rng.pick(&DType::ALL))),
            5 => {
                let bools: Vec<Reg> = (0..n as Reg)
                    .filter(|&r| tape.dtypes[r as usize] == DType::Bool)
                    .collect();
                if !bools.is_empty() {
                    tape.select(rng.pick(&bools), a, b);
                }
            }
            6 => drop(tape.binary(rng.pick(&BINARY), a, b)),
            _ => drop(tape.binary(rng.pick(&ARITHMETIC), a, b)),
        }
        if tape.check().is_err() {
            tape = before;
        }
    }
    let n = tape.instrs.len();
    for _ in 0..1 + rng.below(3) {
        let r = if rng.one_in(2) { n - 1 } else { rng.below(n) };
        tape.outputs.push(r as Reg);
    }
    Case {
        tape,
        shape: Shape::from(shape),
        layouts,
        data,
        scalars,
        keys,
    }
}

impl Case {
    fn output_dtypes(&self) -> Vec<DType> {
        self.tape.output_dtypes().collect()
    }

    fn program(&self, level: Level) -> Program {
        Program::at_level(&self.tape, &self.shape, &self.layouts, level)
    }

    fn run(&self, program: &Program, parts: &[Runs]) -> Vec<Bytes> {
        let slots = Slots {
            scalars: &self.scalars,
            keys: &self.keys,
        };
        let inputs: Vec<*const u8> = self.data.iter().map(Bytes::as_ptr).collect();
        let n = self.shape.numel();
        let mut out: Vec<Bytes> = self
            .output_dtypes()
            .iter()
            .map(|d| Bytes::zeroed(n * d.size()))
            .collect();
        let ptrs: Vec<*mut u8> = out.iter_mut().map(Bytes::as_mut_ptr).collect();
        for &runs in parts {
            // SAFETY: the layouts were made for the data, the outputs for the shape.
            unsafe { program.run_map(runs, &inputs, &ptrs, &slots) };
        }
        out
    }

    /// Every register by a tape of its own, with its operands stored in between.
    fn unfused(&self, level: Level) -> Vec<Bytes> {
        let n = self.shape.numel();
        let mut stored: Vec<Bytes> = Vec::new();
        for (i, instr) in self.tape.instrs.iter().enumerate() {
            let mut one = Case {
                tape: Tape::default(),
                shape: self.shape.clone(),
                layouts: Vec::new(),
                data: Vec::new(),
                scalars: self.scalars.clone(),
                keys: self.keys.clone(),
            };
            let mut map = Vec::new();
            for r in instr.operands() {
                map.push(one.tape.input(self.tape.dtypes[r as usize]));
                one.layouts.push(Layout::contiguous(self.shape.clone()));
                one.data.push(stored[r as usize].clone());
            }
            let dtype = self.tape.dtypes[i];
            let out = match *instr {
                Instr::Load(k) => {
                    one.layouts.push(self.layouts[k as usize].clone());
                    one.data.push(self.data[k as usize].clone());
                    one.tape.input(dtype)
                }
                Instr::Const(_) | Instr::Uniform(_) => one.tape.push(*instr, dtype),
                Instr::Unary(op, _) => one.tape.unary(op, map[0]),
                Instr::Binary(op, ..) => one.tape.binary(op, map[0], map[1]),
                Instr::Where(..) => one.tape.select(map[0], map[1], map[2]),
                Instr::Cast(_) => one.tape.cast(map[0], dtype),
            };
            one.tape.outputs.push(out);
            let program = one.program(level);
            stored.push(one.run(&program, &[(0..n).into()]).remove(0));
        }
        self.tape
            .outputs
            .iter()
            .map(|&r| stored[r as usize].clone())
            .collect()
    }
}

fn levels() -> Vec<Level> {
    let all = [Level::Baseline, Level::Avx2, Level::Avx512];
    all.into_iter().filter(|&l| l <= simd::detect()).collect()
}

#[test]
fn fused_is_unfused_bit_for_bit_on_every_level() {
    let mut apart_seen = 0;
    for seed in 0..3000 {
        let mut rng = Rng(seed);
        let case = random_case(&mut rng);
        let (n, dtypes) = (case.shape.numel(), case.output_dtypes());
        let program = case.program(simd::detect());
        let whole = case.run(&program, &[(0..n).into()]);
        let unfused = case.unfused(simd::detect());
        assert_same(
            &format!("seed {seed}, unfused"),
            &case.tape,
            &dtypes,
            &whole,
            &unfused,
        );
        // In pieces.
        let cut = rng.below(n + 1);
        let parts = case.run(&program, &[(cut..n).into(), (0..cut).into()]);
        assert_same(
            &format!("seed {seed}, cut at {cut}"),
            &case.tape,
            &dtypes,
            &whole,
            &parts,
        );
        // In blocks of columns, and what is left.
        let width = 1 + rng.below(n.max(1));
        let (rows, col) = (n / width, rng.below(width + 1));
        let block = |cols| Runs::block(0, width, 0..rows, cols);
        let blocks = [block(col..width), (rows * width..n).into(), block(0..col)];
        let parts = case.run(&program, &blocks);
        assert_same(
            &format!("seed {seed}, blocks of {col} of {width} columns"),
            &case.tape,
            &dtypes,
            &whole,
            &parts,
        );
        // The same blocks with input 0 apart.
        if case.layouts.first().is_some_and(Layout::is_contiguous) && program.reads_in_step(0) {
            let size = case.tape.inputs[0].size();
            let from = case.layouts[0].offset;
            let all = case.data[0].bytes();
            let elements = |r: Range<usize>| &all[(from + r.start) * size..(from + r.end) * size];
            let together = blocks.map(|b| {
                let runs: Vec<&[u8]> = b.each().map(elements).collect();
                Bytes::new(&runs.concat())
            });
            let mut apart = blocks;
            for (runs, bytes) in apart.iter_mut().zip(&together) {
                runs.apart = Some(bytes.as_ptr());
            }
            let parts = case.run(&program, &apart);
            let what = format!("seed {seed}, input 0 apart");
            assert_same(&what, &case.tape, &dtypes, &whole, &parts);
            apart_seen += 1;
        }
        for level in levels() {
            let out = case.run(&case.program(level), &[(0..n).into()]);
            assert_same(
                &format!("seed {seed}, {level:?}"),
                &case.tape,
                &dtypes,
                &whole,
                &out,
            );
        }
    }
    assert!(apart_seen > 100, "{apart_seen}");
}

#[test]
fn an_output_may_overwrite_an_input() {
    for seed in 0..3000 {
        let mut rng = Rng(seed ^ 0xabcdef);
        let case = random_case(&mut rng);
        let (n, dtypes) = (case.shape.numel(), case.output_dtypes());
        let program = case.program(simd::detect());
        let expected = case.run(&program, &[(0..n).into()]);
        // Each output onto a contiguous input of its size, while there are any.
        let mut data = case.data.clone();
        let inputs: Vec<*const u8> = data
            .iter_mut()
            .map(|b| b.as_mut_ptr().cast_const())
            .collect();
        let mut outputs: Vec<Bytes> = dtypes.iter().map(|d| Bytes::zeroed(n * d.size())).collect();
        let mut ptrs: Vec<*mut u8> = outputs.iter_mut().map(Bytes::as_mut_ptr).collect();
        let mut taken = vec![usize::MAX; dtypes.len()];
        for k in 0..dtypes.len() {
            let fits = |&j: &usize| {
                case.layouts[j].is_contiguous()
                    && case.tape.inputs[j].size() == dtypes[k].size()
                    && !taken.contains(&j)
            };
            if let Some(j) = (0..data.len()).filter(fits).nth(rng.below(2)) {
                taken[k] = j;
                ptrs[k] = inputs[j]
                    .cast_mut()
                    .wrapping_add(case.layouts[j].offset * dtypes[k].size());
            }
        }
        let slots = Slots {
            scalars: &case.scalars,
            keys: &case.keys,
        };
        // SAFETY: as promised by `run_map` for outputs in place of contiguous inputs.
        unsafe { program.run_map(0..n, &inputs, &ptrs, &slots) };
        for k in 0..dtypes.len() {
            if taken[k] != usize::MAX {
                let from = case.layouts[taken[k]].offset * dtypes[k].size();
                outputs[k] = Bytes::new(&data[taken[k]].bytes()[from..from + n * dtypes[k].size()]);
            }
        }
        assert_same(
            &format!("seed {seed}, in place {taken:?}"),
            &case.tape,
            &dtypes,
            &expected,
            &outputs,
        );
    }
}

#[test]
fn blocks_hold_what_a_map_stores() {
    for seed in 0..1000 {
        let mut rng = Rng(seed ^ 0x55555);
        let case = random_case(&mut rng);
        let (n, dtypes) = (case.shape.numel(), case.output_dtypes());
        let program = case.program(simd::detect());
        let expected = case.run(&program, &[(0..n).into()]);
        let mut got: Vec<Vec<u8>> = vec![Vec::new(); dtypes.len()];
        let inputs: Vec<*const u8> = case.data.iter().map(Bytes::as_ptr).collect();
        let slots = Slots {
            scalars: &case.scalars,
            keys: &case.keys,
        };
        let mut next = 0;
        // SAFETY: the layouts were made for the data.
        unsafe {
            program.for_each_block(0..n, &inputs, &slots, |start, len, blocks| {
                assert_eq!(start, next);
                next += len;
                for (k, &dtype) in dtypes.iter().enumerate() {
                    for i in 0..len {
                        if register_size(dtype) == dtype.size() {
                            let at = blocks[k].add(i * dtype.size());
                            got[k].extend(std::slice::from_raw_parts(at, dtype.size()));
                        } else {
                            put(dtype, *blocks[k].cast::<f32>().add(i) as f64, &mut got[k]);
                        }
                    }
                }
            });
        }
        assert_eq!(next, n);
        let got: Vec<Bytes> = got.iter().map(|b| Bytes::new(b)).collect();
        assert_same(
            &format!("seed {seed}, blocks"),
            &case.tape,
            &dtypes,
            &expected,
            &got,
        );
    }
}

fn one<const N: usize>(
    build: impl Fn(&mut Tape, [Reg; N]) -> Reg,
    dtype: DType,
    args: [&[f64]; N],
) -> Vec<u64> {
    let mut tape = Tape::default();
    let regs = args.map(|_| tape.input(dtype));
    let out = build(&mut tape, regs);
    tape.outputs.push(out);
    let n = args[0].len();
    let data = args
        .iter()
        .map(|a| {
            let mut b = Vec::new();
            a.iter().for_each(|&v| put(dtype, v, &mut b));
            Bytes::new(&b)
        })
        .collect();
    let layouts = args.map(|_| Layout::contiguous([n])).to_vec();
    let case = Case {
        tape,
        shape: Shape::from([n]),
        layouts,
        data,
        scalars: vec![],
        keys: vec![],
    };
    let got = case
        .run(&case.program(simd::detect()), &[(0..n).into()])
        .remove(0);
    (0..n)
        .map(|i| canonical(case.output_dtypes()[0], got.bytes(), i))
        .collect()
}

#[test]
fn remainder_has_the_sign_of_the_divisor() {
    let (x, y): ([f64; 6], [f64; 6]) = (
        [7.0, -7.0, 7.0, -7.0, 5.5, 0.0],
        [3.0, 3.0, -3.0, -3.0, -2.0, 2.0],
    );
    let rem = |t: &mut Tape, [a, b]: [Reg; 2]| t.binary(Binary::Rem, a, b);
    let want = [1.0f32, 2.0, -2.0, -1.0, -0.5, 0.0];
    assert_eq!(
        one(rem, DType::F32, [&x, &y]),
        want.map(|v| v.to_bits() as u64)
    );
    let got: Vec<i32> = one(rem, DType::I32, [&x[..4], &y[..4]])
        .iter()
        .map(|&v| v as i32)
        .collect();
    assert_eq!(got, [1, 2, -2, -1]);
}

#[test]
fn integers_divide_by_zero_to_zero_and_wrap() {
    let div = |t: &mut Tape, [a, b]: [Reg; 2]| t.binary(Binary::Div, a, b);
    assert_eq!(
        one(
            div,
            DType::I64,
            [&[7.0, -7.0, i64::MIN as f64], &[0.0, 2.0, -1.0]]
        ),
        [0, -3i64 as u64, i64::MIN as u64]
    );
    let pow = |t: &mut Tape, [a, b]: [Reg; 2]| t.binary(Binary::Pow, a, b);
    let got = one(
        pow,
        DType::I32,
        [&[2.0, 2.0, -1.0, 1.0, 3.0], &[10.0, -1.0, -3.0, -5.0, 0.0]],
    );
    assert_eq!(
        got.iter().map(|&v| v as i32).collect::<Vec<_>>(),
        [1024, 0, -1, 1, 1]
    );
    let add = |t: &mut Tape, [a, b]: [Reg; 2]| t.binary(Binary::Add, a, b);
    assert_eq!(one(add, DType::U8, [&[250.0], &[10.0]]), [4]);
    assert_eq!(one(add, DType::Bool, [&[1.0, 0.0], &[1.0, 0.0]]), [1, 0]);
}

#[test]
fn maxima_and_minima_propagate_nan() {
    let (x, y) = ([1.0, f64::NAN, 2.0], [f64::NAN, 1.0, 3.0]);
    for (op, last) in [(Binary::Max, 3.0f32), (Binary::Min, 2.0)] {
        let got = one(|t, [a, b]| t.binary(op, a, b), DType::F32, [&x, &y]);
        assert_eq!(got, [u64::MAX, u64::MAX, last.to_bits() as u64]);
    }
}

#[test]
fn casts_truncate_and_saturate() {
    let x = [3.9, -3.9, 1e30, -1e30, f64::NAN, 300.0];
    let got = one(|t, [a]| t.cast(a, DType::I32), DType::F32, [&x]);
    let got: Vec<i32> = got.iter().map(|&v| v as i32).collect();
    assert_eq!(got, [3, -3, i32::MAX, i32::MIN, 0, 300]);
    assert_eq!(
        one(|t, [a]| t.cast(a, DType::U8), DType::F64, [&x]),
        [3, 0, 255, 0, 0, 255]
    );
    assert_eq!(
        one(
            |t, [a]| t.cast(a, DType::Bool),
            DType::F32,
            [&[0.0, -0.0, 2.0, f64::NAN]]
        ),
        [0, 0, 1, 1]
    );
}

#[test]
fn half_codecs_are_exact() {
    use super::kernels::{decode_bf16, decode_f16, encode_bf16, encode_f16};
    let _flush = pool::flush_denormals();
    for h in 0..=u16::MAX {
        let (f, b) = (f16::from_bits(h), bf16::from_bits(h));
        assert_eq!(decode_f16(h).is_nan(), f.is_nan());
        assert!(encode_f16(decode_f16(h)) == h || f.is_nan(), "{h:#x}");
        assert!(
            f.is_nan() || decode_f16(h).to_bits() == f.to_f32().to_bits(),
            "{h:#x}"
        );
        assert_eq!(encode_bf16(decode_bf16(h)), h);
        assert!(b.is_nan() || decode_bf16(h).to_bits() == b.to_f32().to_bits());
    }
}

#[test]
fn a_long_chain_and_many_values() {
    let mut tape = Tape::default();
    let x = tape.input(DType::F32);
    let one = tape.constant(0, DType::F32);
    let (mut y, mut c) = (x, one);
    for _ in 0..5000 {
        y = tape.binary(Binary::Add, y, one);
        c = tape.binary(Binary::Add, c, one);
    }
    y = tape.binary(Binary::Add, y, c);
    tape.outputs.push(y);
    let program = Program::new(&tape, &[3], &[Layout::contiguous([3])]);
    let (x, mut out) = ([1.0f32, 2.0, 3.0], [0f32; 3]);
    let slots = Slots {
        scalars: &[Scalar::F64(1.0)],
        keys: &[],
    };
    // SAFETY: one input and one output of three elements.
    unsafe {
        program.run_map(
            0..3,
            &[x.as_ptr().cast()],
            &[out.as_mut_ptr().cast()],
            &slots,
        )
    };
    assert_eq!(out, [10002.0, 10003.0, 10004.0]);
}

#[test]
fn parallel_runs_give_the_same_bits() {
    let n = 1_000_003;
    let mut tape = Tape::default();
    let x = tape.input(DType::F32);
    let u = tape.push(Instr::Uniform(0), DType::F32);
    let y = tape.unary(Unary::Tanh, x);
    let y = tape.binary(Binary::Mul, y, u);
    tape.outputs.push(y);
    let program = Program::new(&tape, &[n], &[Layout::contiguous([n])]);
    let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
    let (mut a, mut b) = (vec![0f32; n], vec![0f32; n]);
    let slots = Slots {
        scalars: &[],
        keys: &[Key { seed: 1, stream: 2 }],
    };
    // SAFETY: one input and one output of n elements.
    unsafe {
        program.run_map(0..n, &[x.as_ptr().cast()], &[a.as_mut_ptr().cast()], &slots);
        program.run_map_parallel(&[x.as_ptr().cast()], &[b.as_mut_ptr().cast()], &slots);
    }
    assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn a_half_product_is_rounded_before_it_is_widened() {
    let mut tape = Tape::default();
    let (x, y) = (tape.input(DType::BF16), tape.input(DType::F32));
    let p = tape.binary(Binary::Mul, x, x);
    let p = tape.cast(p, DType::F32);
    let out = tape.binary(Binary::Add, y, p);
    tape.outputs.push(out);
    let program = Program::new(&tape, &[1], &[0, 1].map(|_| Layout::contiguous([1])));
    let (x, y, mut out) = ([bf16::from_f32(1.0078125)], [0f32], [0f32]);
    let inputs = [x.as_ptr().cast(), y.as_ptr().cast()];
    // SAFETY: two inputs and one output of one element.
    unsafe { program.run_map(0..1, &inputs, &[out.as_mut_ptr().cast()], &Slots::default()) };
    assert_eq!(out[0], bf16::from_f32(1.0078125 * 1.0078125).to_f32());
}
