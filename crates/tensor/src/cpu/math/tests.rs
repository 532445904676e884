use super::lanes::Lanes;
use super::{Real, round_bf16, round_f16};
use crate::cpu::pool;
use crate::cpu::simd::{self, Level};
use half::{bf16, f16};

/// Applies a function to a slice at a given level. (The interpreter's kernels do this in earnest.)
trait Op<T: Real> {
    fn call<V: Lanes<E = T>>(x: V, y: V) -> V;
}

#[inline(always)]
fn run<T: Real, V: Lanes<E = T>, O: Op<T>>(x: &[T], y: &[T], out: &mut [T]) {
    assert!(x.len().is_multiple_of(16) && x.len() == y.len() && x.len() == out.len());
    for i in (0..x.len()).step_by(V::N) {
        // SAFETY: the lengths are equal and multiples of V::N.
        unsafe {
            let (a, b) = (V::load(x.as_ptr().add(i)), V::load(y.as_ptr().add(i)));
            O::call(a, b).store(out.as_mut_ptr().add(i));
        }
    }
}

trait Registers: Real {
    type Avx2: Lanes<E = Self>;
    type Avx512: Lanes<E = Self>;
    type Plain: Lanes<E = Self>;
}
#[cfg(target_arch = "x86_64")]
impl Registers for f32 {
    type Avx2 = super::lanes::F32x8;
    type Avx512 = super::lanes::F32x16;
    type Plain = f32;
}
#[cfg(target_arch = "x86_64")]
impl Registers for f64 {
    type Avx2 = super::lanes::F64x4;
    type Avx512 = super::lanes::F64x8;
    type Plain = f64;
}
#[cfg(not(target_arch = "x86_64"))]
impl Registers for f32 {
    type Avx2 = f32;
    type Avx512 = f32;
    type Plain = f32;
}
#[cfg(not(target_arch = "x86_64"))]
impl Registers for f64 {
    type Avx2 = f64;
    type Avx512 = f64;
    type Plain = f64;
}

fn run_at<T: Registers, O: Op<T>>(level: Level, x: &[T], y: &[T], out: &mut [T]) {
    #[cfg_attr(
        target_arch = "x86_64",
        target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
    )]
    fn avx512<T: Registers, O: Op<T>>(x: &[T], y: &[T], out: &mut [T]) {
        run::<T, T::Avx512, O>(x, y, out)
    }
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    fn avx2<T: Registers, O: Op<T>>(x: &[T], y: &[T], out: &mut [T]) {
        run::<T, T::Avx2, O>(x, y, out)
    }
    let _flush = pool::flush_denormals();
    match level {
        // SAFETY: callers stay at or below `detect()`.
        Level::Avx512 => unsafe { avx512::<T, O>(x, y, out) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { avx2::<T, O>(x, y, out) },
        Level::Baseline => run::<T, T::Plain, O>(x, y, out),
    }
}

fn levels() -> Vec<Level> {
    let all = [Level::Baseline, Level::Avx2, Level::Avx512];
    all.into_iter().filter(|&l| l <= simd::detect()).collect()
}

macro_rules! ops {
    ($($Op:ident $f:ident;)*) => {$(
        struct $Op;
        impl<T: Real> Op<T> for $Op {
            #[inline(always)]
            fn call<V: Lanes<E = T>>(x: V, _: V) -> V {
                T::$f(x)
            }
        }
    )*};
}
ops! { Exp exp; Expm1 expm1; Log log; Log1p log1p; Sin sin; Cos cos; Tanh tanh; Sigmoid sigmoid; Erf erf; }
struct Pow;
impl<T: Real> Op<T> for Pow {
    #[inline(always)]
    fn call<V: Lanes<E = T>>(x: V, y: V) -> V {
        T::pow(x, y)
    }
}

unsafe extern "C" {
    #[link_name = "erf"]
    safe fn libm_erf(x: f64) -> f64;
}

/// Distance in units of the last place of the exact value's `f32` binade; 0 if both are NaN, the
/// same infinity, or below the normal range.
fn ulps32(got: f32, exact: f64) -> f64 {
    if got.is_nan() || exact.is_nan() {
        return if got.is_nan() && exact.is_nan() {
            0.0
        } else {
            f64::INFINITY
        };
    }
    let rounded = exact as f32;
    if got == rounded || (rounded.abs() < 1.1754945e-38 && got == 0.0) {
        return 0.0;
    }
    if got.is_infinite() || rounded.is_infinite() {
        // The last half unit before overflow may go either way.
        return if (got as f64 / exact - 1.0).abs() < 2e-7 {
            1.0
        } else {
            f64::INFINITY
        };
    }
    let exponent = (exact.abs().log2().floor() as i32).clamp(-126, 127);
    (got as f64 - exact).abs() / 2f64.powi(exponent - 23)
}

fn ulps64(got: f64, want: f64) -> f64 {
    if got.is_nan() || want.is_nan() {
        return if got.is_nan() && want.is_nan() {
            0.0
        } else {
            f64::INFINITY
        };
    }
    if got == want || (want.abs() <= f64::MIN_POSITIVE && got == 0.0) {
        return 0.0;
    }
    (got - want).abs() / (want.abs() * f64::EPSILON)
}

/// Every 97th bit pattern, and the special values, in a multiple of 16.
fn samples32() -> Vec<f32> {
    let mut x: Vec<f32> = (0..=u32::MAX).step_by(97).map(f32::from_bits).collect();
    for v in [
        0.0,
        f32::INFINITY,
        f32::NAN,
        f32::MIN_POSITIVE,
        f32::MAX,
        1.0,
        88.72283,
        1e-40,
    ] {
        x.extend([v, -v]);
    }
    x.resize(x.len().next_multiple_of(16), 0.0);
    x
}

fn check32<O: Op<f32>>(name: &str, limit: f64, exact: fn(f64) -> f64) {
    let x = samples32();
    let mut outs = Vec::new();
    for level in levels() {
        let mut out = vec![0f32; x.len()];
        run_at::<f32, O>(level, &x, &x, &mut out);
        outs.push(out);
    }
    let mut worst = (0.0, 0.0);
    for (i, &x) in x.iter().enumerate() {
        let got = outs[0][i];
        for out in &outs[1..] {
            assert!(
                out[i].to_bits() == got.to_bits() || (got.is_nan() && out[i].is_nan()),
                "{name}({x:e}): {got:e} or {:e}, depending on the level",
                out[i]
            );
        }
        let arg = if x.abs() < f32::MIN_POSITIVE {
            0.0f64.copysign(x as f64)
        } else {
            x as f64
        };
        let u = ulps32(got, exact(arg)).min(ulps32(got, exact(x as f64)));
        if u > worst.0 {
            worst = (u, x);
        }
        if x == 0.0 {
            let zero = exact(arg) as f32;
            assert!(got.to_bits() == zero.to_bits(), "{name}({x:?}) = {got:?}");
        }
    }
    println!("{name}: {:.3} ulp at {:e}", worst.0, worst.1);
    assert!(worst.0 <= limit, "{name}: {} ulp at {:e}", worst.0, worst.1);
}

#[test]
fn f32_exp() {
    check32::<Exp>("exp", 1.1, f64::exp);
}
#[test]
fn f32_expm1() {
    check32::<Expm1>("expm1", 2.0, f64::exp_m1);
}
#[test]
fn f32_log() {
    check32::<Log>("log", 1.0, f64::ln);
}
#[test]
fn f32_log1p() {
    check32::<Log1p>("log1p", 2.0, f64::ln_1p);
}
#[test]
fn f32_sin() {
    check32::<Sin>("sin", 1.0, f64::sin);
}
#[test]
fn f32_cos() {
    check32::<Cos>("cos", 1.0, f64::cos);
}
#[test]
fn f32_tanh() {
    check32::<Tanh>("tanh", 2.0, f64::tanh);
}
#[test]
fn f32_sigmoid() {
    check32::<Sigmoid>("sigmoid", 2.0, |x| 1.0 / (1.0 + (-x).exp()));
}
#[test]
fn f32_erf() {
    check32::<Erf>("erf", 2.0, |x| libm_erf(x));
}

fn check_pow<T: Registers + PartialOrd + std::fmt::LowerExp>(
    x: &[T],
    y: &[T],
    limit: f64,
    ulps: impl Fn(T, T, T) -> f64,
    bits: impl Fn(T) -> u64,
) {
    let nan = |v: T| v.partial_cmp(&v).is_none();
    let mut first: Option<Vec<T>> = None;
    for level in levels() {
        let mut out = vec![T::default(); x.len()];
        run_at::<T, Pow>(level, x, y, &mut out);
        let mut worst = 0.0;
        for i in 0..x.len() {
            let u = ulps(x[i], y[i], out[i]);
            assert!(
                u <= limit,
                "pow({:e}, {:e}) = {:e}: {u} ulp",
                x[i],
                y[i],
                out[i]
            );
            worst = f64::max(worst, u);
            if let Some(first) = &first {
                let same = bits(out[i]) == bits(first[i]) || (nan(out[i]) && nan(first[i]));
                assert!(same, "pow({:e}, {:e}) depends on the level", x[i], y[i]);
            }
        }
        println!("pow: {worst:.3} ulp");
        first.get_or_insert(out);
    }
}

const SPECIAL: [f64; 18] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.0,
    -2.0,
    3.0,
    -3.0,
    0.5,
    -0.5,
    1e30,
    -1e30,
    2.5,
    -2.5,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    1e-30,
];

#[test]
fn pow_follows_c() {
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for a in SPECIAL {
        for b in SPECIAL {
            x.push(a);
            y.push(b);
        }
    }
    let mut s = 1u64;
    let mut uniform = || {
        s = s
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (s >> 11) as f64 / (1u64 << 53) as f64
    };
    for _ in 0..200_000 {
        x.push((uniform() * 20.0 - 10.0).exp());
        y.push((uniform() - 0.5) * 60.0);
        x.push(1.0 + (uniform() - 0.5) * 1e-3);
        y.push((uniform() - 0.5) * 1e5);
        x.push(-(uniform() * 40.0).floor());
        y.push((uniform() * 20.0).floor() - 10.0);
    }
    x.resize(x.len().next_multiple_of(16), 1.0);
    y.resize(x.len(), 1.0);
    let sign_ok =
        |got: f64, want: f64| got.is_nan() || got.is_sign_negative() == want.is_sign_negative();
    check_pow::<f64>(
        &x,
        &y,
        4.0,
        |a, b, got| {
            let want = a.powf(b);
            if sign_ok(got, want) {
                ulps64(got, want)
            } else {
                f64::INFINITY
            }
        },
        f64::to_bits,
    );
    let x: Vec<f32> = x.iter().map(|&v| v as f32).collect();
    let y: Vec<f32> = y.iter().map(|&v| v as f32).collect();
    check_pow::<f32>(
        &x,
        &y,
        1.0,
        |a, b, got| {
            let want = (a as f64).powf(b as f64);
            if sign_ok(got as f64, want) {
                ulps32(got, want)
            } else {
                f64::INFINITY
            }
        },
        |v| v.to_bits() as u64,
    );
}

fn check64<O: Op<f64>>(name: &str, limit: f64, exact: fn(f64) -> f64) {
    // A stride through the bit patterns, denser where the functions do something.
    let mut x: Vec<f64> = (0..=u64::MAX)
        .step_by(0x0000_1357_9bdf_0135)
        .map(f64::from_bits)
        .collect();
    x.extend((-800_000..800_000).map(|i| i as f64 * 1.0009e-3));
    x.extend((-300_000..300_000).map(|i| i as f64 * 1.0007e-5));
    x.extend([
        0.0,
        -0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        709.782712893384,
        1e300,
        -1.0,
    ]);
    x.resize(x.len().next_multiple_of(16), 0.0);
    let mut first: Option<Vec<f64>> = None;
    for level in levels() {
        let mut out = vec![0.0; x.len()];
        run_at::<f64, O>(level, &x, &x, &mut out);
        let mut worst = (0.0, 0.0);
        for (&x, &got) in x.iter().zip(&out) {
            let arg = if x.abs() < f64::MIN_POSITIVE {
                0.0f64.copysign(x)
            } else {
                x
            };
            let u = ulps64(got, exact(x)).min(ulps64(got, exact(arg)));
            if u > worst.0 {
                worst = (u, x);
            }
            if x == 0.0 {
                assert_eq!(got.to_bits(), exact(x).to_bits(), "{name}({x:?})");
            }
        }
        println!("{name} {level:?}: {:.3} ulp at {:e}", worst.0, worst.1);
        assert!(worst.0 <= limit, "{name}: {} ulp at {:e}", worst.0, worst.1);
        match &first {
            None => first = Some(out),
            Some(f) => assert!(
                f.iter()
                    .zip(&out)
                    .all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())),
                "{name} depends on the level"
            ),
        }
    }
}

#[test]
fn f64_functions() {
    check64::<Exp>("exp", 2.0, f64::exp);
    check64::<Expm1>("expm1", 4.0, f64::exp_m1);
    check64::<Log>("log", 2.0, f64::ln);
    check64::<Log1p>("log1p", 4.0, f64::ln_1p);
    check64::<Sin>("sin", 4.0, f64::sin);
    check64::<Cos>("cos", 4.0, f64::cos);
    check64::<Tanh>("tanh", 4.0, f64::tanh);
    check64::<Sigmoid>("sigmoid", 4.0, |x| 1.0 / (1.0 + (-x).exp()));
    check64::<Erf>("erf", 4.0, |x| libm_erf(x));
}

struct RoundBf16;
impl Op<f32> for RoundBf16 {
    #[inline(always)]
    fn call<V: Lanes<E = f32>>(x: V, _: V) -> V {
        round_bf16(x)
    }
}
struct RoundF16;
impl Op<f32> for RoundF16 {
    #[inline(always)]
    fn call<V: Lanes<E = f32>>(x: V, _: V) -> V {
        round_f16(x)
    }
}

#[test]
fn half_rounding_is_exact() {
    let x = samples32();
    let mut out = vec![0f32; x.len()];
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    for level in levels() {
        run_at::<f32, RoundBf16>(level, &x, &x, &mut out);
        for (&x, &got) in x.iter().zip(&out) {
            assert!(
                same(got, bf16::from_f32(x).to_f32()),
                "bf16 {x:e} -> {got:e}"
            );
        }
        run_at::<f32, RoundF16>(level, &x, &x, &mut out);
        for (&x, &got) in x.iter().zip(&out) {
            assert!(same(got, f16::from_f32(x).to_f32()), "f16 {x:e} -> {got:e}");
        }
    }
}
