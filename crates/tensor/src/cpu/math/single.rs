//! `f32`. The coefficients come from `scripts/fit-math.py`.

use super::double::TwoOverPi;
use super::lanes::{Lanes, WideFn, WideFn2};
use super::{Real, double, horner};

/// Adding this puts the nearest integer into the low bits of the sum (for |x| < 2^22).
const MAGIC: f64 = 12582912.0;
/// ln 2 in two parts, of which the first has trailing zeros: n * LN2_HI is exact.
const LN2_HI: f64 = 0.693359375;
const LN2_LO: f64 = -2.121944400546906e-4;
/// The last `x` with a finite exp, and the first with a normal one.
const EXP_MAX: f64 = 88.72283172607422;
const EXP_MIN: f64 = -87.33654022216797;
const HALF_SQRT2_BITS: u64 = 0x3f3504f3;

// (exp(r) - 1 - r) / r^2
const EXP: [f64; 5] = [
    0.499999982,
    0.166665436,
    0.0416671995,
    0.00836651997,
    0.00138825439,
];
// (log(1 + f) - f + f^2/2) / f^3
const LOG: [f64; 9] = [
    0.333333126,
    -0.250000096,
    0.200021186,
    -0.166679957,
    0.14219553,
    -0.124055915,
    0.118881592,
    -0.11675634,
    0.0674662697,
];
// erf(x) / x - 1, in x^2, for |x| < 1
const ERF_SMALL: [f64; 7] = [
    0.128379166,
    -0.376126258,
    0.112835851,
    -0.026853812,
    0.00518832777,
    -0.000801019469,
    7.85386573e-5,
];
// -log(1 - erf(x)), in x - 1, for 1 < x < 4
const ERF_LARGE: [f64; 8] = [
    1.84960551,
    2.63896752,
    0.843107065,
    0.0415635515,
    -0.010046589,
    0.00201209841,
    -0.000289589158,
    2.16975728e-5,
];
// (tanh(x) / x - 1) / x^2, in x^2, for |x| < 0.55
const TANH: [f64; 5] = [
    -0.333333176,
    0.133325861,
    -0.0538523081,
    0.0210716734,
    -0.00627423337,
];
// (sin(r) / r - 1) / r^2 and (cos(r) - 1 + r^2/2) / r^4, in r^2
const SIN: [f64; 4] = [-0.166666666, 0.00833332928, -0.000198393045, 2.71804687e-6];
const COS: [f64; 4] = [0.0416666666, -0.00138888835, 2.47994516e-5, -2.72050514e-7];

/// x = n ln 2 + r: returns exp(r) - 1 and n in the low bits of a float.
#[inline(always)]
fn reduce_exp<V: Lanes<E = f32>>(x: V) -> (V, V) {
    let t = x.fma(V::c(std::f64::consts::LOG2_E), V::c(MAGIC));
    let n = t.sub(V::c(MAGIC));
    let r = n.fma(V::c(-LN2_LO), n.fma(V::c(-LN2_HI), x));
    (r.mul(r).fma(horner(r, &EXP), r), t)
}

impl Real for f32 {
    #[inline(always)]
    fn exp<V: Lanes<E = f32>>(x: V) -> V {
        let (p, t) = reduce_exp(x);
        // Adding n to the exponent multiplies by 2^n exactly, over the whole range kept below.
        let y = V::c(1.0).add(p).iadd(t.shl::<23>());
        let y = V::select(x.lt(V::c(EXP_MIN)), V::c(0.0), y);
        V::select(x.le(V::c(EXP_MAX)), y, x.add(V::c(f64::INFINITY)))
    }

    #[inline(always)]
    fn expm1<V: Lanes<E = f32>>(x: V) -> V {
        let (p, t) = reduce_exp(V::c(-20.0).greater(x));
        // 2^(n-1), since 2^128 does not exist.
        let s = t.shl::<23>().iadd(V::bits(126 << 23));
        let y = s.fma(p, s.sub(V::c(0.5)));
        let y = V::select(x.abs().lt(V::c(1e-8)), x, y.add(y));
        V::select(x.le(V::c(EXP_MAX)), y, x.add(V::c(f64::INFINITY)))
    }

    #[inline(always)]
    fn log<V: Lanes<E = f32>>(x: V) -> V {
        let (e, m) = split(x);
        let y = log_tail(e, m.sub(V::c(1.0)));
        let tiny = f32::MIN_POSITIVE as f64;
        let special = V::select(x.le(V::c(-tiny)), V::c(f64::NAN), V::c(f64::NEG_INFINITY));
        let y = V::select(x.lt(V::c(tiny)), special, y);
        V::select(x.lt(V::c(f64::INFINITY)), y, x)
    }

    #[inline(always)]
    fn log1p<V: Lanes<E = f32>>(x: V) -> V {
        let (e, _) = split(V::c(1.0).add(x));
        // f = (1 + x) / 2^e - 1 with one rounding, and f = x for e = 0. The scale is 4 / 2^e,
        // which is normal for every e.
        let biased = e.add(V::c(MAGIC)); // e in the low bits
        let s = V::bits(129 << 23).isub(biased.shl::<23>());
        let f = x.mul(V::c(0.25)).fma(s, s.fma(V::c(0.25), V::c(-1.0)));
        let y = log_tail(e, f);
        let y = V::select(x.abs().lt(V::c(5.9e-8)), x, y);
        let special = V::select(x.lt(V::c(-1.0)), V::c(f64::NAN), V::c(f64::NEG_INFINITY));
        let y = V::select(x.le(V::c(-1.0)), special, y);
        V::select(x.lt(V::c(f64::INFINITY)), y, x)
    }

    #[inline(always)]
    fn sin<V: Lanes<E = f32>>(x: V) -> V {
        patch_huge(x, x.via_f64::<Sin<0>>(), f64::sin)
    }

    #[inline(always)]
    fn cos<V: Lanes<E = f32>>(x: V) -> V {
        patch_huge(x, x.via_f64::<Sin<1>>(), f64::cos)
    }

    #[inline(always)]
    fn tanh<V: Lanes<E = f32>>(x: V) -> V {
        // A polynomial near 0, elsewhere 1 - 2 / (exp(2a) + 1).
        let a = V::c(10.0).lesser(x.abs());
        let z = a.mul(a);
        let small = a.mul(z).fma(horner(z, &TANH), a);
        let (p, t) = reduce_exp(a.add(a));
        let s = t.shl::<23>().iadd(V::bits(127 << 23));
        let large = V::c(1.0).sub(V::c(2.0).div(s.fma(p, s.add(V::c(1.0)))));
        x.sign_onto(V::select(a.lt(V::c(0.55)), small, large))
    }

    #[inline(always)]
    fn sigmoid<V: Lanes<E = f32>>(x: V) -> V {
        // d = 1 + exp(-x) = 1 + s + s p, and what rounding takes from it.
        let one = V::c(1.0);
        let (p, t) = reduce_exp(V::c(-30.0).greater(V::c(88.0).lesser(x.neg())));
        let s = t.shl::<23>().iadd(V::bits(127 << 23));
        let s1 = s.add(one);
        let d = s.fma(p, s1);
        let lost = s.fma(p, s1.sub(d)).add(one.sub(s1.sub(s)));
        // One Newton step gives it back.
        let y = one.div(d);
        let y = y.mul(lost).neg().fma(y, y);
        V::select(x.lt(V::c(EXP_MIN)), V::c(0.0), y)
    }

    #[inline(always)]
    fn erf<V: Lanes<E = f32>>(x: V) -> V {
        let a = x.abs();
        let small = x.fma(horner(x.mul(x), &ERF_SMALL), x);
        let q = horner(V::c(4.0).lesser(a).sub(V::c(1.0)), &ERF_LARGE);
        let (p, t) = reduce_exp(q.neg());
        let s = t.shl::<23>().iadd(V::bits(127 << 23));
        let large = s.neg().fma(p, V::c(1.0).sub(s));
        V::select(a.lt(V::c(1.0)), small, x.sign_onto(large))
    }

    #[inline(always)]
    fn pow<V: Lanes<E = f32>>(x: V, y: V) -> V {
        x.via_f64_2::<Pow>(y)
    }
}

/// x = 2^e m with m in [sqrt(1/2), sqrt(2)), for normal positive x.
#[inline(always)]
fn split<V: Lanes<E = f32>>(x: V) -> (V, V) {
    let i = x.iadd(V::bits(0x3f800000 - HALF_SQRT2_BITS));
    let e = i
        .shr::<23>()
        .or(V::bits(0x4b000000))
        .sub(V::c(8388608.0 + 127.0));
    (e, i.and(V::bits(0x007fffff)).iadd(V::bits(HALF_SQRT2_BITS)))
}

/// e ln 2 + log(1 + f).
#[inline(always)]
fn log_tail<V: Lanes<E = f32>>(e: V, f: V) -> V {
    let z = f.mul(f);
    let y = z.mul(f).mul(horner(f, &LOG));
    let y = z.fma(V::c(-0.5), e.fma(V::c(LN2_LO), y));
    e.fma(V::c(LN2_HI), f.add(y))
}

/// Up to here two parts of pi/2 in `f64` reduce the argument to below an `f32` rounding.
const TRIG_MAX: f64 = 1073741824.0;

/// sin(x + Q pi/2).
struct Sin<const Q: u64>;

impl<const Q: u64> WideFn for Sin<Q> {
    #[inline(always)]
    fn call<W: Lanes<E = f64>>(x: W) -> W {
        let TwoOverPi { r, quadrant } = double::reduce_trig::<W, 2>(x, Q);
        let z = r.mul(r);
        let sin = z.fma(horner(z, &SIN), W::c(1.0)).mul(r);
        let cos = z.mul(z).fma(horner(z, &COS), z.fma(W::c(-0.5), W::c(1.0)));
        double::pick_quadrant(quadrant, sin, cos)
    }
}

/// Replaces the lanes of `y` whose argument is huge by the standard library's values.
#[cold]
#[inline(never)]
fn huge_slice(x: &[f32], y: &mut [f32], f: fn(f64) -> f64) {
    for (x, y) in x.iter().zip(y) {
        if x.abs() > TRIG_MAX as f32 {
            *y = f(*x as f64) as f32;
        }
    }
}

#[inline(always)]
fn patch_huge<V: Lanes<E = f32>>(x: V, y: V, f: fn(f64) -> f64) -> V {
    if !V::any(V::c(TRIG_MAX).lt(x.abs())) {
        return y;
    }
    let (mut xs, mut ys) = ([0f32; 16], [0f32; 16]);
    // SAFETY: no register has more than 16 lanes.
    unsafe {
        x.store(xs.as_mut_ptr());
        y.store(ys.as_mut_ptr());
        huge_slice(&xs[..V::N], &mut ys[..V::N], f);
        V::load(ys.as_ptr())
    }
}

struct Pow;

impl WideFn2 for Pow {
    #[inline(always)]
    fn call<W: Lanes<E = f64>>(x: W, y: W) -> W {
        double::pow_any::<W, false>(x, y)
    }
}
