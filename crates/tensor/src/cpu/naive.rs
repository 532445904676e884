//! Temporary reference kernels, element by element in f64.
use crate::dtype::{DType, Element};
use crate::shape::Layout;
use crate::tape::*;
use crate::with_dtype;

pub fn load(dtype: DType, p: *const u8, i: isize) -> f64 {
    with_dtype!(dtype, T => unsafe { (*(p as *const T).offset(i)).to_f64() })
}
pub fn store(dtype: DType, p: *mut u8, i: usize, v: f64) {
    with_dtype!(dtype, T => unsafe { *(p as *mut T).add(i) = T::from_f64(v) })
}
fn round(dtype: DType, v: f64) -> f64 {
    with_dtype!(dtype, T => T::from_f64(v).to_f64())
}
pub fn element(layout: &Layout, mut linear: usize) -> isize {
    let mut at = layout.offset as isize;
    for d in (0..layout.shape.len()).rev() {
        at += (linear % layout.shape[d]) as isize * layout.strides[d];
        linear /= layout.shape[d];
    }
    at
}
pub fn run(
    tape: &Tape,
    layouts: &[Layout],
    inputs: &[*const u8],
    slots: &Slots<'_>,
    linear: usize,
) -> Vec<f64> {
    let mut r: Vec<f64> = Vec::new();
    for (i, (instr, &d)) in tape.instrs.iter().zip(&tape.dtypes).enumerate() {
        let _ = i;
        let v = match *instr {
            Instr::Load(k) => load(d, inputs[k as usize], element(&layouts[k as usize], linear)),
            Instr::Const(k) => slots.scalars[k as usize].to_f64(),
            Instr::Uniform(k) => {
                let key = slots.keys[k as usize];
                let mut x = key.seed.wrapping_mul(0x9e3779b97f4a7c15)
                    ^ key.stream.wrapping_mul(0xd1342543de82ef95)
                    ^ linear as u64;
                for _ in 0..3 {
                    x = (x ^ (x >> 31)).wrapping_mul(0xbf58476d1ce4e5b9);
                }
                (x >> 40) as f64 / (1u64 << 24) as f64
            }
            Instr::Unary(op, a) => unary(op, r[a as usize]),
            Instr::Binary(op, a, b) => binary(op, r[a as usize], r[b as usize]),
            Instr::Where(c, a, b) => {
                if r[c as usize] != 0.0 {
                    r[a as usize]
                } else {
                    r[b as usize]
                }
            }
            Instr::Cast(a) => r[a as usize],
        };
        r.push(round(d, v));
    }
    tape.outputs.iter().map(|&o| r[o as usize]).collect()
}
fn unary(op: Unary, x: f64) -> f64 {
    match op {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign => {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        }
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Trunc => x.trunc(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Recip => 1.0 / x,
        Unary::Exp => x.exp(),
        Unary::Expm1 => x.exp_m1(),
        Unary::Log => x.ln(),
        Unary::Log1p => x.ln_1p(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tanh => x.tanh(),
        Unary::Erf => {
            let mut s = 0.0;
            let n = 2000;
            let h = x / n as f64;
            for i in 0..n {
                let m = (i as f64 + 0.5) * h;
                s += (-m * m).exp() * h;
            }
            s * std::f64::consts::FRAC_2_SQRT_PI
        }
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Unary::Not => (x == 0.0) as u8 as f64,
    }
}
fn binary(op: Binary, a: f64, b: f64) -> f64 {
    let t = |c: bool| c as u8 as f64;
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Rem => a - b * (a / b).floor(),
        Binary::Pow => a.powf(b),
        Binary::Max => {
            if a.is_nan() || a > b {
                a
            } else {
                b
            }
        }
        Binary::Min => {
            if a.is_nan() || a < b {
                a
            } else {
                b
            }
        }
        Binary::And => t(a != 0.0 && b != 0.0),
        Binary::Or => t(a != 0.0 || b != 0.0),
        Binary::Xor => t((a != 0.0) != (b != 0.0)),
        Binary::Eq => t(a == b),
        Binary::Ne => t(a != b),
        Binary::Lt => t(a < b),
        Binary::Le => t(a <= b),
        Binary::Gt => t(a > b),
        Binary::Ge => t(a >= b),
    }
}
