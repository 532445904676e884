//! Several cheap instructions in one pass.
//!
//! A chain is a value followed by links, each of which turns the value so far (the accumulator)
//! into the next: `acc + x`, `x / acc`, `acc - x * y`, `sqrt(acc)`. A tile of accumulators stays in
//! SIMD registers from the first link to the last, so a chain costs one load per operand and one
//! store in all, and the choice of the link's code is shared by the tile. A value that is read again
//! later is kept on the way. Every link rounds as the instruction it stands for: fusing changes no
//! bit.

#![allow(
    clippy::needless_range_loop,
    reason = "the index also steps pointers and registers"
)]

use super::kernels::{Exact, Float, Kernel, Post, Registers, ToBf16, ToF16};
use crate::DType;
use crate::cpu::math::Lanes;
use crate::cpu::simd::Level;
use std::marker::PhantomData;

/// What a link does with the accumulator `a`. `V` operands are blocks, `S` operands scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Do {
    Neg,
    Abs,
    Sqrt,
    Recip,
    Relu,
    /// a * a
    Square,
    /// x = a, for whoever else reads this value
    Keep,
    /// A function with a kernel of its own, on the tile in memory
    Map,
    AddV,
    AddS,
    /// a - x
    SubV,
    SubS,
    /// x - a
    FromV,
    FromS,
    MulV,
    MulS,
    DivV,
    DivS,
    /// x / a
    IntoV,
    IntoS,
    /// max(a, x), min(a, x)
    MaxV,
    MaxS,
    MinV,
    MinS,
    /// a + x * y, rounded twice
    AddVV,
    AddVS,
    /// a - x * y
    SubVV,
    SubVS,
    /// x * y - a
    FromVV,
    FromVS,
    /// a * (x * y)
    MulVV,
    MulVS,
}

impl Do {
    /// Whether it reads a first operand.
    pub(super) fn has_x(self) -> bool {
        !matches!(
            self,
            Do::Neg | Do::Abs | Do::Sqrt | Do::Recip | Do::Relu | Do::Square | Do::Map
        )
    }
    /// Whether it reads a second operand.
    pub(super) fn has_y(self) -> bool {
        use Do::*;
        matches!(
            self,
            AddVV | AddVS | SubVV | SubVS | FromVV | FromVS | MulVV | MulVS
        )
    }
}

/// One link; its operands are values of the program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub does: Do,
    pub x: u16,
    pub y: u16,
    /// What [`Do::Map`] does.
    pub map: Option<Kernel>,
}

/// `(n, d, a, links, at)`: the chain on `a[i]` for `i < n` into `d[i]`; value `v` lies at `at[v]`.
/// `d` may be `a` or an operand, but may not overlap one otherwise.
pub(super) type ChainKernel = unsafe fn(usize, *mut u8, *const u8, &[Link], &[*mut u8]);

/// Groups of lanes in a tile.
const TILE: usize = 8;

trait Run {
    /// # Safety
    /// As for a [`ChainKernel`].
    unsafe fn run<R: Registers>(n: usize, d: *mut u8, a: *const u8, links: &[Link], at: &[*mut u8]);
}

struct Chain<E, P>(PhantomData<(E, P)>);

impl<E: Float, P: Post<E>> Run for Chain<E, P> {
    #[inline(always)]
    unsafe fn run<R: Registers>(
        n: usize,
        d: *mut u8,
        a: *const u8,
        links: &[Link],
        at: &[*mut u8],
    ) {
        // SAFETY: the caller's promise; all indices stay below n.
        unsafe {
            let lanes = E::In::<R>::N;
            let mut i = 0;
            while i + TILE * lanes <= n {
                tile::<E::In<R>, E, P, TILE>(lanes, i, d.cast(), a.cast(), links, at);
                i += TILE * lanes;
            }
            while i < n {
                tile::<E::In<R>, E, P, 1>((n - i).min(lanes), i, d.cast(), a.cast(), links, at);
                i += lanes;
            }
        }
    }
}

/// Reads a whole group of lanes, or the `count` lanes that are left.
#[inline(always)]
unsafe fn fetch<V: Lanes, const T: usize>(p: *const V::E, count: usize) -> V {
    // SAFETY: the caller's promise: `count` elements, or a whole group in tiles.
    unsafe {
        if T > 1 || count == V::N {
            return V::load(p);
        }
        let mut buffer = [V::E::default(); 16];
        std::ptr::copy_nonoverlapping(p, buffer.as_mut_ptr(), count);
        V::load(buffer.as_ptr())
    }
}

/// Writes a whole group of lanes, or the `count` lanes that are left.
#[inline(always)]
unsafe fn put<V: Lanes, const T: usize>(v: V, p: *mut V::E, count: usize) {
    // SAFETY: the caller's promise: `count` elements, or a whole group in tiles.
    unsafe {
        if T > 1 || count == V::N {
            return v.store(p);
        }
        let mut buffer = [V::E::default(); 16];
        v.store(buffer.as_mut_ptr());
        std::ptr::copy_nonoverlapping(buffer.as_ptr(), p, count);
    }
}

/// `T` groups at index `i`. With `T == 1`, only the first `count` lanes exist.
#[inline(always)]
unsafe fn tile<V: Lanes<E = E>, E: Float, P: Post<E>, const T: usize>(
    count: usize,
    i: usize,
    d: *mut E,
    a: *const E,
    links: &[Link],
    at: &[*mut u8],
) {
    // SAFETY: the caller's promise. Operands are read before `d` is written.
    unsafe {
        let mut acc = [V::c(0.0); T];
        for u in 0..T {
            acc[u] = fetch::<V, T>(a.add(i + u * V::N), count);
        }
        for link in links {
            let x = at.get_unchecked(link.x as usize).cast::<E>().cast_const();
            let y = at.get_unchecked(link.y as usize).cast::<E>().cast_const();
            /// For each group: `$a` is the accumulator, `$x` and `$y` the operands.
            macro_rules! each {
                (|$a:ident| $e:expr) => {
                    for u in 0..T {
                        let $a = acc[u];
                        acc[u] = P::post($e);
                    }
                };
                (V |$a:ident, $x:ident| $e:expr) => {
                    for u in 0..T {
                        let ($a, $x) = (acc[u], fetch::<V, T>(x.add(i + u * V::N), count));
                        acc[u] = P::post($e);
                    }
                };
                (S |$a:ident, $x:ident| $e:expr) => {{
                    let $x = V::splat(x.read_unaligned());
                    for u in 0..T {
                        let $a = acc[u];
                        acc[u] = P::post($e);
                    }
                }};
                (VV |$a:ident, $xy:ident| $e:expr) => {
                    for u in 0..T {
                        let (p, q) = (x.add(i + u * V::N), y.add(i + u * V::N));
                        let $xy = P::post(fetch::<V, T>(p, count).mul(fetch::<V, T>(q, count)));
                        let $a = acc[u];
                        acc[u] = P::post($e);
                    }
                };
                (VS |$a:ident, $xy:ident| $e:expr) => {{
                    let y = V::splat(y.read_unaligned());
                    for u in 0..T {
                        let $xy = P::post(fetch::<V, T>(x.add(i + u * V::N), count).mul(y));
                        let $a = acc[u];
                        acc[u] = P::post($e);
                    }
                }};
            }
            match link.does {
                Do::Neg => each!(|a| a.neg()),
                Do::Abs => each!(|a| a.abs()),
                Do::Sqrt => each!(|a| a.sqrt()),
                Do::Recip => each!(|a| V::c(1.0).div(a)),
                Do::Relu => each!(|a| V::select(a.lt(V::c(0.0)), V::c(0.0), a)),
                Do::Square => each!(|a| a.mul(a)),
                Do::Keep => {
                    for u in 0..T {
                        put::<V, T>(acc[u], x.cast_mut().add(i + u * V::N), count);
                    }
                }
                Do::Map => {
                    if let Some(kernel) = link.map {
                        let mut tile = Tile([E::default(); TILE * 16]);
                        let p = tile.0.as_mut_ptr();
                        for u in 0..T {
                            acc[u].store(p.add(u * V::N));
                        }
                        let n = if T > 1 { T * V::N } else { count };
                        kernel(n, p.cast(), p.cast(), p.cast(), p.cast());
                        for u in 0..T {
                            acc[u] = V::load(p.add(u * V::N));
                        }
                    }
                }
                Do::AddV => each!(V | a, x | a.add(x)),
                Do::AddS => each!(S | a, x | a.add(x)),
                Do::SubV => each!(V | a, x | a.sub(x)),
                Do::SubS => each!(S | a, x | a.sub(x)),
                Do::FromV => each!(V | a, x | x.sub(a)),
                Do::FromS => each!(S | a, x | x.sub(a)),
                Do::MulV => each!(V | a, x | a.mul(x)),
                Do::MulS => each!(S | a, x | a.mul(x)),
                Do::DivV => each!(V | a, x | a.div(x)),
                Do::DivS => each!(S | a, x | a.div(x)),
                Do::IntoV => each!(V | a, x | x.div(a)),
                Do::IntoS => each!(S | a, x | x.div(a)),
                Do::MaxV => each!(V | a, x | V::select(a.ne(a), a, a.greater(x))),
                Do::MaxS => each!(S | a, x | V::select(a.ne(a), a, a.greater(x))),
                Do::MinV => each!(V | a, x | V::select(a.ne(a), a, a.lesser(x))),
                Do::MinS => each!(S | a, x | V::select(a.ne(a), a, a.lesser(x))),
                Do::AddVV => each!(VV | a, xy | a.add(xy)),
                Do::AddVS => each!(VS | a, xy | a.add(xy)),
                Do::SubVV => each!(VV | a, xy | a.sub(xy)),
                Do::SubVS => each!(VS | a, xy | a.sub(xy)),
                Do::FromVV => each!(VV | a, xy | xy.sub(a)),
                Do::FromVS => each!(VS | a, xy | xy.sub(a)),
                Do::MulVV => each!(VV | a, xy | a.mul(xy)),
                Do::MulVS => each!(VS | a, xy | a.mul(xy)),
            }
        }
        for u in 0..T {
            put::<V, T>(acc[u], d.add(i + u * V::N), count);
        }
    }
}

/// Room for a tile of any type.
#[repr(align(64))]
struct Tile<E>([E; TILE * 16]);

unsafe fn plain<C: Run>(n: usize, d: *mut u8, a: *const u8, links: &[Link], at: &[*mut u8]) {
    // SAFETY: the caller's promise.
    unsafe { C::run::<super::kernels::Plain>(n, d, a, links, at) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::kernels::x86::{Avx2, Avx512};
    use super::{Link, Run};

    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    pub unsafe fn avx2<C: Run>(n: usize, d: *mut u8, a: *const u8, l: &[Link], at: &[*mut u8]) {
        // SAFETY: the caller's promise.
        unsafe { C::run::<Avx2>(n, d, a, l, at) }
    }
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt"
    )]
    pub unsafe fn avx512<C: Run>(n: usize, d: *mut u8, a: *const u8, l: &[Link], at: &[*mut u8]) {
        // SAFETY: the caller's promise.
        unsafe { C::run::<Avx512>(n, d, a, l, at) }
    }
}

fn pick<C: Run>(level: Level) -> ChainKernel {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => x86::avx512::<C>,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => x86::avx2::<C>,
        _ => plain::<C>,
    }
}

/// The chain kernel of a float type.
pub(super) fn kernel(level: Level, dtype: DType) -> ChainKernel {
    match dtype {
        DType::F32 => pick::<Chain<f32, Exact>>(level),
        DType::F64 => pick::<Chain<f64, Exact>>(level),
        DType::BF16 => pick::<Chain<f32, ToBf16>>(level),
        DType::F16 => pick::<Chain<f32, ToF16>>(level),
        other => unreachable!("not a float: {other}"),
    }
}
