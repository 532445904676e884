//! `f64`. The coefficients come from `scripts/fit-math.py`.

#![allow(clippy::excessive_precision)] // as the fit prints them

use super::lanes::Lanes;
use super::{Real, horner};

/// Adding this puts the nearest integer into the low bits of the sum (for |x| < 2^51).
const MAGIC: f64 = 6755399441055744.0;
/// ln 2 in two parts, of which the first has trailing zeros: n * LN2_HI is exact.
const LN2_HI: f64 = 6.931471803691238e-1;
const LN2_LO: f64 = 1.9082149292705877e-10;
/// The last `x` with a finite exp, and the first with a normal one.
const EXP_MAX: f64 = 709.782712893384;
const EXP_MIN: f64 = -708.3964185322641;
const HALF_SQRT2_BITS: u64 = 0x3fe6a09e667f3bcd;

// (exp(r) - 1 - r) / r^2
const EXP: [f64; 11] = [
    0.5,
    0.16666666666666677,
    0.041666666666666509,
    0.0083333333333216915,
    0.001388888888896234,
    0.00019841269885966201,
    2.4801587172592847e-5,
    2.7557244373776222e-6,
    2.7557402599128546e-7,
    2.510897904634522e-8,
    2.0875342864900364e-9,
];
// (log(1 + f) / s - 2) / s^2 with s = f / (2 + f), in s^2
const LOG: [f64; 7] = [
    0.66666666666667344,
    0.39999999999414682,
    0.28571428742387078,
    0.2222219857321465,
    0.18183564325286157,
    0.15314050568459088,
    0.14795949488475887,
];
// erf(x) / x - 1, in x^2, for |x| < 1
const ERF_SMALL: [f64; 13] = [
    0.12837916709551257,
    -0.37612638903183748,
    0.11283791670954857,
    -0.026866170645072895,
    0.0052239776247808668,
    -0.00085483269787423124,
    0.00012055331036905454,
    -1.4925593507050893e-5,
    1.6460972819719147e-6,
    -1.635002525139848e-7,
    1.4657880034063603e-8,
    -1.1365666695869013e-9,
    5.9452629825890148e-11,
];
// -log(1 - erf(x)), in x - 3.5, for 1 < x < 6
const ERF_LARGE: [f64; 20] = [
    14.112437402148366,
    7.2660995883679749,
    0.96675305474702653,
    0.0052256581750866263,
    -0.00087368754219871245,
    0.00014729749793074317,
    -2.4386058377544436e-5,
    3.8909415562640405e-6,
    -5.8402242732419257e-7,
    8.0902580697347858e-8,
    -1.09965235523241e-8,
    -1.0098333411663506e-9,
    -8.3392414097639458e-10,
    4.3341660200683424e-11,
    3.7606321183033998e-10,
    2.4775110911563169e-10,
    9.4582943133672054e-11,
    2.1689951874140753e-11,
    2.9341356885601821e-12,
    1.7839701571963085e-13,
];
// (sin(r) / r - 1) / r^2 and (cos(r) - 1 + r^2/2) / r^4, in r^2
const SIN: [f64; 6] = [
    -0.1666666666666663,
    0.0083333333333220063,
    -0.00019841269829496067,
    2.755731358780748e-6,
    -2.5050742336230392e-8,
    1.589590632873957e-10,
];
const COS: [f64; 6] = [
    0.041666666666666592,
    -0.0013888888888872896,
    2.4801587288748675e-5,
    -2.7557314148755764e-7,
    2.0875696589649991e-9,
    -1.1358311335024974e-11,
];

/// x + low = n ln 2 + r: returns exp(r) - 1 and n in the low bits of a float.
#[inline(always)]
fn reduce_exp<V: Lanes<E = f64>>(x: V, low: V) -> (V, V) {
    let t = x.fma(V::c(std::f64::consts::LOG2_E), V::c(MAGIC));
    let n = t.sub(V::c(MAGIC));
    let r = n.fma(V::c(-LN2_LO), n.fma(V::c(-LN2_HI), x)).add(low);
    (r.mul(r).fma(horner(r, &EXP), r), t)
}

/// exp(x + low) for a `low` below the rounding of `x`.
#[inline(always)]
fn exp_two<V: Lanes<E = f64>>(x: V, low: V) -> V {
    let (p, t) = reduce_exp(x, low);
    // Adding n to the exponent multiplies by 2^n exactly, over the whole range kept below.
    let y = V::c(1.0).add(p).iadd(t.shl::<52>());
    let y = V::select(x.lt(V::c(EXP_MIN)), V::c(0.0), y);
    V::select(x.le(V::c(EXP_MAX)), y, x.add(V::c(f64::INFINITY)))
}

impl Real for f64 {
    #[inline(always)]
    fn exp<V: Lanes<E = f64>>(x: V) -> V {
        exp_two(x, V::c(0.0))
    }

    #[inline(always)]
    fn expm1<V: Lanes<E = f64>>(x: V) -> V {
        let (p, t) = reduce_exp(V::c(-40.0).greater(x), V::c(0.0));
        // 2^(n-1), since 2^1024 does not exist.
        let s = t.shl::<52>().iadd(V::bits(1022 << 52));
        let y = s.fma(p, s.sub(V::c(0.5)));
        let y = V::select(x.abs().lt(V::c(1e-16)), x, y.add(y));
        V::select(x.le(V::c(EXP_MAX)), y, x.add(V::c(f64::INFINITY)))
    }

    #[inline(always)]
    fn log<V: Lanes<E = f64>>(x: V) -> V {
        let (e, m) = split(x);
        let y = log_tail(e, m.sub(V::c(1.0)));
        let tiny = f64::MIN_POSITIVE;
        let special = V::select(x.le(V::c(-tiny)), V::c(f64::NAN), V::c(f64::NEG_INFINITY));
        let y = V::select(x.lt(V::c(tiny)), special, y);
        V::select(x.lt(V::c(f64::INFINITY)), y, x)
    }

    #[inline(always)]
    fn log1p<V: Lanes<E = f64>>(x: V) -> V {
        let (e, _) = split(V::c(1.0).add(x));
        // f = (1 + x) / 2^e - 1 with one rounding, and f = x for e = 0. The scale is 4 / 2^e,
        // which is normal for every e.
        let biased = e.add(V::c(MAGIC)); // e in the low bits
        let s = V::bits(1025 << 52).isub(biased.shl::<52>());
        let f = x.mul(V::c(0.25)).fma(s, s.fma(V::c(0.25), V::c(-1.0)));
        let y = log_tail(e, f);
        let y = V::select(x.abs().lt(V::c(1.1e-16)), x, y);
        let special = V::select(x.lt(V::c(-1.0)), V::c(f64::NAN), V::c(f64::NEG_INFINITY));
        let y = V::select(x.le(V::c(-1.0)), special, y);
        V::select(x.lt(V::c(f64::INFINITY)), y, x)
    }

    #[inline(always)]
    fn sin<V: Lanes<E = f64>>(x: V) -> V {
        patch_huge(x, sin_cos(x, 0), f64::sin)
    }

    #[inline(always)]
    fn cos<V: Lanes<E = f64>>(x: V) -> V {
        patch_huge(x, sin_cos(x, 1), f64::cos)
    }

    #[inline(always)]
    fn tanh<V: Lanes<E = f64>>(x: V) -> V {
        // With u = exp(2a): (u - 1) / (u + 1) for small a, where u - 1 comes without cancellation
        // from exp(r) - 1, written as a + (u - 1 - a (u + 1)) / (u + 1); else 1 - 2 / (u + 1).
        let a = V::c(20.0).lesser(x.abs());
        let (p, t) = reduce_exp(a.add(a), V::c(0.0));
        let s = t.shl::<52>().iadd(V::bits(1023 << 52));
        let small = a.lt(V::c(0.55));
        let (top, bottom) = (s.fma(p, s.sub(V::c(1.0))), s.fma(p, s.add(V::c(1.0))));
        let top = V::select(small, a.neg().fma(bottom, top), V::c(-2.0));
        x.sign_onto(V::select(small, a, V::c(1.0)).add(top.div(bottom)))
    }

    #[inline(always)]
    fn sigmoid<V: Lanes<E = f64>>(x: V) -> V {
        V::c(1.0).div(V::c(1.0).add(<Self as Real>::exp(x.neg())))
    }

    #[inline(always)]
    fn erf<V: Lanes<E = f64>>(x: V) -> V {
        let a = x.abs();
        let small = x.fma(horner(x.mul(x), &ERF_SMALL), x);
        let q = horner(V::c(6.0).lesser(a).sub(V::c(3.5)), &ERF_LARGE);
        let (p, t) = reduce_exp(q.neg(), V::c(0.0));
        let s = t.shl::<52>().iadd(V::bits(1023 << 52));
        let large = s.neg().fma(p, V::c(1.0).sub(s));
        V::select(a.lt(V::c(1.0)), small, x.sign_onto(large))
    }

    #[inline(always)]
    fn pow<V: Lanes<E = f64>>(x: V, y: V) -> V {
        pow_any::<V, true>(x, y)
    }
}

/// x = 2^e m with m in [sqrt(1/2), sqrt(2)), for normal positive x.
#[inline(always)]
fn split<V: Lanes<E = f64>>(x: V) -> (V, V) {
    let i = x.iadd(V::bits(0x3ff0000000000000 - HALF_SQRT2_BITS));
    let e = i
        .shr::<52>()
        .or(V::bits(0x4330000000000000))
        .sub(V::c(4503599627370496.0 + 1023.0));
    (
        e,
        i.and(V::bits(0x000fffffffffffff))
            .iadd(V::bits(HALF_SQRT2_BITS)),
    )
}

/// e ln 2 + log(1 + f).
#[inline(always)]
fn log_tail<V: Lanes<E = f64>>(e: V, f: V) -> V {
    let s = f.div(f.add(V::c(2.0)));
    let z = s.mul(s);
    let half = f.mul(f).mul(V::c(0.5));
    // log(1 + f) = f - (half - s (half + z R))
    let y = s.mul(z.fma(horner(z, &LOG), half));
    let y = e.fma(V::c(LN2_LO), y).sub(half);
    e.fma(V::c(LN2_HI), f.add(y))
}

/// log(x) for normal positive x, as a sum of two numbers (some 65 bits).
#[inline(always)]
fn log_two<V: Lanes<E = f64>>(x: V) -> (V, V) {
    let (e, m) = split(x);
    let f = m.sub(V::c(1.0));
    let d = f.add(V::c(2.0));
    let d_low = f.sub(d.sub(V::c(2.0)));
    let s = f.div(d);
    // The remainder f - s (d + d_low), exact up to the last product.
    let rest = s.neg().fma(d, f).sub(s.mul(d_low));
    let s_low = rest.div(d);
    let z = s.mul(s);
    let tail = s.mul(z).fma(horner(z, &LOG), s_low.add(s_low));
    let big = e.mul(V::c(LN2_HI)); // exact
    let two_s = s.add(s);
    let high = big.add(two_s);
    // The rounding of that sum, whichever is larger.
    let b = high.sub(big);
    let err = big.sub(high.sub(b)).add(two_s.sub(b));
    let low = e.fma(V::c(LN2_LO), tail).add(err);
    (high, low)
}

/// C's `pow`. `EXACT` carries the logarithm in two parts; without it the relative error is
/// about 1e-13, enough for `f32`.
#[inline(always)]
pub(super) fn pow_any<V: Lanes<E = f64>, const EXACT: bool>(x: V, y: V) -> V {
    let (zero, one, inf) = (V::c(0.0), V::c(1.0), V::c(f64::INFINITY));
    let a = x.abs();
    let p = if EXACT {
        let (h, l) = log_two(a);
        let p = y.mul(h);
        let low = y.fma(l, y.fma(h, p.neg()));
        // Past the ends `low` is inf - inf.
        exp_two(p, V::select(p.abs().lt(V::c(800.0)), low, zero))
    } else {
        let (e, m) = split(a);
        exp_two(y.mul(log_tail(e, m.sub(one))), zero)
    };
    // Zero (subnormals count as zero) and infinite bases.
    let is_zero = a.lt(V::c(f64::MIN_POSITIVE));
    let down = y.lt(zero);
    let p = V::select(is_zero, V::select(down, inf, zero), p);
    let p = V::select(a.eq(inf), V::select(down, zero, inf), p);
    // Negative bases: odd integers keep the sign, even ones drop it, others have no value.
    let whole = y.trunc().eq(y);
    let half = y.mul(V::c(0.5));
    let odd = V::mand(whole, half.trunc().ne(half));
    let p = V::select(odd, x.sign_onto(p), p);
    let p = V::select(V::mand(x.lt(zero), y.trunc().ne(y)), V::c(f64::NAN), p);
    // A negative zero or infinity has a value for every exponent.
    let p = V::select(
        V::mand(x.eq(inf.neg()), y.trunc().ne(y)),
        V::select(down, zero, inf),
        p,
    );
    let p = V::select(V::mand(a.eq(one), y.abs().eq(inf)), one, p);
    let p = V::select(V::mor(x.ne(x), y.ne(y)), x.add(y), p);
    V::select(V::mor(y.eq(zero), x.eq(one)), one, p)
}

/// Up to here three parts of pi/2 suffice.
const TRIG_MAX: f64 = 1e9;

/// An argument reduced to |r| <= pi/4.
pub(super) struct TwoOverPi<V> {
    pub r: V,
    /// The quadrant in the low two bits.
    pub quadrant: V,
}

/// Subtracts the nearest multiple of pi/2, held in `PARTS` parts, and adds `turn` quadrants.
#[inline(always)]
pub(super) fn reduce_trig<V: Lanes<E = f64>, const PARTS: usize>(x: V, turn: u64) -> TwoOverPi<V> {
    const PI_2: [f64; 3] = [
        std::f64::consts::FRAC_PI_2,
        6.123233995736766e-17,
        -1.4973849048591833e-33,
    ];
    let t = x.fma(V::c(std::f64::consts::FRAC_2_PI), V::c(MAGIC));
    let n = t.sub(V::c(MAGIC));
    let mut r = x;
    for part in &PI_2[..PARTS] {
        r = n.fma(V::c(-part), r);
    }
    TwoOverPi {
        r,
        quadrant: t.iadd(V::bits(turn)),
    }
}

/// The sine of the original argument, given those of the reduced one.
#[inline(always)]
pub(super) fn pick_quadrant<V: Lanes<E = f64>>(quadrant: V, sin: V, cos: V) -> V {
    // Bit 0 as the sign of 1.0, since a comparison of bare bits would see subnormals.
    let odd = quadrant.shl::<63>().or(V::c(1.0)).lt(V::c(0.0));
    V::select(odd, cos, sin).xor(quadrant.shl::<62>().sign_bit())
}

#[inline(always)]
fn sin_cos<V: Lanes<E = f64>>(x: V, turn: u64) -> V {
    let TwoOverPi { r, quadrant } = reduce_trig::<V, 3>(x, turn);
    let z = r.mul(r);
    let sin = r.mul(z).fma(horner(z, &SIN), r);
    let sin = V::select(x.abs().lt(V::c(1e-9)), x, sin); // keeps -0
    // 1 - z/2 with the part that its rounding loses.
    let half = z.mul(V::c(0.5));
    let w = V::c(1.0).sub(half);
    let lost = V::c(1.0).sub(w).sub(half);
    let cos = w.add(z.mul(z).fma(horner(z, &COS), lost));
    pick_quadrant(quadrant, sin, cos)
}

/// Replaces the lanes of `y` whose argument is huge by the standard library's values.
#[cold]
#[inline(never)]
fn huge_slice(x: &[f64], y: &mut [f64], f: fn(f64) -> f64) {
    for (x, y) in x.iter().zip(y) {
        if x.abs() > TRIG_MAX {
            *y = f(*x);
        }
    }
}

#[inline(always)]
fn patch_huge<V: Lanes<E = f64>>(x: V, y: V, f: fn(f64) -> f64) -> V {
    if !V::any(V::c(TRIG_MAX).lt(x.abs())) {
        return y;
    }
    let (mut xs, mut ys) = ([0f64; 8], [0f64; 8]);
    // SAFETY: no register has more than 8 lanes.
    unsafe {
        x.store(xs.as_mut_ptr());
        y.store(ys.as_mut_ptr());
        huge_slice(&xs[..V::N], &mut ys[..V::N], f);
        V::load(ys.as_ptr())
    }
}
