//! A few floats that are computed together: one `f32`/`f64`, or an AVX2 or AVX-512 register.
//!
//! The functions of [`super`] are written once over [`Lanes`]. With a register they are the
//! interpreter's kernels; with a plain float they are branch-free scalar functions that the
//! compiler can vectorise inside other loops. All instances give the same bits.

#![allow(missing_docs)] // most methods say what they do by their names
#![allow(clippy::needless_range_loop)] // plain loops over registers

/// A group of floats and the operations on it, lane by lane.
///
/// The x86 registers implement this with their own instructions, so code over them must be
/// inlined into a function compiled for that instruction set: everything here and everything
/// generic over `Lanes` is `#[inline(always)]`, and the kernels at the top enable the features.
pub trait Lanes: Copy {
    /// `f32` or `f64`.
    type E: super::Real;
    /// One truth value per lane.
    type M: Copy;
    /// The `f64` lanes that [`via_f64`](Lanes::via_f64) computes with.
    type Wide: Lanes<E = f64>;
    /// The number of lanes.
    const N: usize;

    /// All lanes equal.
    fn splat(x: Self::E) -> Self;
    /// All lanes equal to a constant of the source code (for `f32`, the low half of the bits
    /// given to [`bits`](Lanes::bits)).
    fn c(x: f64) -> Self;
    /// All lanes with this bit pattern.
    fn bits(b: u64) -> Self;
    /// Reads `N` elements; any alignment.
    ///
    /// # Safety
    /// `p` must be readable for `N` elements.
    unsafe fn load(p: *const Self::E) -> Self;
    /// Writes `N` elements; any alignment.
    ///
    /// # Safety
    /// `p` must be writable for `N` elements.
    unsafe fn store(self, p: *mut Self::E);

    fn add(self, o: Self) -> Self;
    fn sub(self, o: Self) -> Self;
    fn mul(self, o: Self) -> Self;
    fn div(self, o: Self) -> Self;
    /// `self * a + b`, rounded once.
    fn fma(self, a: Self, b: Self) -> Self;
    fn sqrt(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn trunc(self) -> Self;
    /// Halves to even.
    fn round(self) -> Self;
    /// `self` if it is less, else `o` (so `o` if either is NaN).
    fn lesser(self, o: Self) -> Self;
    /// `self` if it is greater, else `o` (so `o` if either is NaN).
    fn greater(self, o: Self) -> Self;

    fn and(self, o: Self) -> Self;
    fn or(self, o: Self) -> Self;
    fn xor(self, o: Self) -> Self;
    /// Sum of the bit patterns as integers, wrapping.
    fn iadd(self, o: Self) -> Self;
    fn isub(self, o: Self) -> Self;
    fn shl<const K: u32>(self) -> Self;
    /// Logical shift right of the bit patterns.
    fn shr<const K: u32>(self) -> Self;

    fn lt(self, o: Self) -> Self::M;
    fn le(self, o: Self) -> Self::M;
    fn eq(self, o: Self) -> Self::M;
    /// True also if either is NaN.
    fn ne(self, o: Self) -> Self::M;
    /// `a` where true, else `b`.
    fn select(m: Self::M, a: Self, b: Self) -> Self;
    fn mand(a: Self::M, b: Self::M) -> Self::M;
    fn mor(a: Self::M, b: Self::M) -> Self::M;
    fn any(m: Self::M) -> bool;
    /// Writes `N` bytes of 0 or 1.
    ///
    /// # Safety
    /// `p` must be writable for `N` bytes.
    unsafe fn store_mask(m: Self::M, p: *mut u8);
    /// Reads `N` bytes, 0 being false.
    ///
    /// # Safety
    /// `p` must be readable for `N` bytes.
    unsafe fn load_mask(p: *const u8) -> Self::M;

    /// Computes a function in `f64` and rounds the result to this type.
    fn via_f64<F: WideFn>(self) -> Self;
    /// The same for two arguments.
    fn via_f64_2<F: WideFn2>(self, o: Self) -> Self;

    /// `-self`, also of NaN and zero.
    #[inline(always)]
    fn neg(self) -> Self {
        self.xor(Self::c(-0.0))
    }
    /// Without the sign bit.
    #[inline(always)]
    fn abs(self) -> Self {
        Self::select_bits(Self::c(-0.0), Self::bits(0), self)
    }
    /// The sign bit alone.
    #[inline(always)]
    fn sign_bit(self) -> Self {
        self.and(Self::c(-0.0))
    }
    /// Bits of `a` where `mask` has ones, of `b` elsewhere.
    #[inline(always)]
    fn select_bits(mask: Self, a: Self, b: Self) -> Self {
        b.xor(b.xor(a).and(mask))
    }
    /// 0 or -0 with the sign of `self`, or'ed into `magnitude`.
    #[inline(always)]
    fn sign_onto(self, magnitude: Self) -> Self {
        magnitude.or(self.sign_bit())
    }
}

/// A function on `f64` lanes, as a type (a closure would not be compiled for the caller's
/// instruction set).
pub trait WideFn {
    fn call<W: Lanes<E = f64>>(x: W) -> W;
}

/// The same with two arguments.
pub trait WideFn2 {
    fn call<W: Lanes<E = f64>>(x: W, y: W) -> W;
}

macro_rules! scalar_lanes {
    ($t:ty, $bits:ty, |$x:ident| $c:expr) => {
        impl Lanes for $t {
            type E = $t;
            type M = bool;
            type Wide = f64;
            const N: usize = 1;
            #[inline(always)]
            fn splat(x: $t) -> Self {
                x
            }
            #[inline(always)]
            fn c($x: f64) -> Self {
                $c
            }
            #[inline(always)]
            fn bits(b: u64) -> Self {
                <$t>::from_bits(b as $bits)
            }
            #[inline(always)]
            unsafe fn load(p: *const $t) -> Self {
                // SAFETY: the caller's promise.
                unsafe { p.read_unaligned() }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $t) {
                // SAFETY: the caller's promise.
                unsafe { p.write_unaligned(self) }
            }
            #[inline(always)]
            fn add(self, o: Self) -> Self {
                self + o
            }
            #[inline(always)]
            fn sub(self, o: Self) -> Self {
                self - o
            }
            #[inline(always)]
            fn mul(self, o: Self) -> Self {
                self * o
            }
            #[inline(always)]
            fn div(self, o: Self) -> Self {
                self / o
            }
            #[inline(always)]
            fn fma(self, a: Self, b: Self) -> Self {
                self.mul_add(a, b)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            #[inline(always)]
            fn floor(self) -> Self {
                <$t>::floor(self)
            }
            #[inline(always)]
            fn ceil(self) -> Self {
                <$t>::ceil(self)
            }
            #[inline(always)]
            fn trunc(self) -> Self {
                <$t>::trunc(self)
            }
            #[inline(always)]
            fn round(self) -> Self {
                <$t>::round_ties_even(self)
            }
            #[inline(always)]
            fn lesser(self, o: Self) -> Self {
                if self < o { self } else { o }
            }
            #[inline(always)]
            fn greater(self, o: Self) -> Self {
                if self > o { self } else { o }
            }
            #[inline(always)]
            fn and(self, o: Self) -> Self {
                <$t>::from_bits(self.to_bits() & o.to_bits())
            }
            #[inline(always)]
            fn or(self, o: Self) -> Self {
                <$t>::from_bits(self.to_bits() | o.to_bits())
            }
            #[inline(always)]
            fn xor(self, o: Self) -> Self {
                <$t>::from_bits(self.to_bits() ^ o.to_bits())
            }
            #[inline(always)]
            fn iadd(self, o: Self) -> Self {
                <$t>::from_bits(self.to_bits().wrapping_add(o.to_bits()))
            }
            #[inline(always)]
            fn isub(self, o: Self) -> Self {
                <$t>::from_bits(self.to_bits().wrapping_sub(o.to_bits()))
            }
            #[inline(always)]
            fn shl<const K: u32>(self) -> Self {
                <$t>::from_bits(self.to_bits() << K)
            }
            #[inline(always)]
            fn shr<const K: u32>(self) -> Self {
                <$t>::from_bits(self.to_bits() >> K)
            }
            #[inline(always)]
            fn lt(self, o: Self) -> bool {
                self < o
            }
            #[inline(always)]
            fn le(self, o: Self) -> bool {
                self <= o
            }
            #[inline(always)]
            fn eq(self, o: Self) -> bool {
                self == o
            }
            #[inline(always)]
            fn ne(self, o: Self) -> bool {
                self != o
            }
            #[inline(always)]
            fn select(m: bool, a: Self, b: Self) -> Self {
                if m { a } else { b }
            }
            #[inline(always)]
            fn mand(a: bool, b: bool) -> bool {
                a & b
            }
            #[inline(always)]
            fn mor(a: bool, b: bool) -> bool {
                a | b
            }
            #[inline(always)]
            fn any(m: bool) -> bool {
                m
            }
            #[inline(always)]
            unsafe fn store_mask(m: bool, p: *mut u8) {
                // SAFETY: the caller's promise.
                unsafe { *p = m as u8 }
            }
            #[inline(always)]
            unsafe fn load_mask(p: *const u8) -> bool {
                // SAFETY: the caller's promise.
                unsafe { *p != 0 }
            }
            #[inline(always)]
            fn via_f64<F: WideFn>(self) -> Self {
                F::call(self as f64) as $t
            }
            #[inline(always)]
            fn via_f64_2<F: WideFn2>(self, o: Self) -> Self {
                F::call(self as f64, o as f64) as $t
            }
        }
    };
}
scalar_lanes!(f32, u32, |x| x as f32);
scalar_lanes!(f64, u64, |x| x);

/// Several groups as one. Each operation is done with all of them before the next, so that the
/// processor has independent work at hand while it waits for a result.
#[derive(Clone, Copy)]
pub struct Several<V, const K: usize>([V; K]);

impl<V: Lanes, const K: usize> Several<V, K> {
    #[inline(always)]
    fn each(mut self, f: impl Fn(V) -> V) -> Self {
        for i in 0..K {
            self.0[i] = f(self.0[i]);
        }
        self
    }
    #[inline(always)]
    fn zip(mut self, o: Self, f: impl Fn(V, V) -> V) -> Self {
        for i in 0..K {
            self.0[i] = f(self.0[i], o.0[i]);
        }
        self
    }
}

/// Operations that are those of each group.
macro_rules! by_group {
    (one $($one:ident)*; two $($two:ident)*; test $($test:ident)*; masks $($masks:ident)*;
     shift $($shift:ident)*; from $($from:ident: $x:ty,)*) => {
        $(#[inline(always)]
        fn $one(self) -> Self {
            self.each(|x| x.$one())
        })*
        $(#[inline(always)]
        fn $two(self, o: Self) -> Self {
            self.zip(o, |x, y| x.$two(y))
        })*
        $(#[inline(always)]
        fn $test(self, o: Self) -> Self::M {
            std::array::from_fn(|i| self.0[i].$test(o.0[i]))
        })*
        $(#[inline(always)]
        fn $masks(a: Self::M, b: Self::M) -> Self::M {
            std::array::from_fn(|i| V::$masks(a[i], b[i]))
        })*
        $(#[inline(always)]
        fn $shift<const BITS: u32>(self) -> Self {
            self.each(|x| x.$shift::<BITS>())
        })*
        $(#[inline(always)]
        fn $from(x: $x) -> Self {
            Several([V::$from(x); K])
        })*
    };
}

impl<V: Lanes, const K: usize> Lanes for Several<V, K> {
    type E = V::E;
    type M = [V::M; K];
    type Wide = V::Wide;
    const N: usize = K * V::N;

    by_group! {
        one sqrt floor ceil trunc round;
        two add sub mul div lesser greater and or xor iadd isub;
        test lt le eq ne;
        masks mand mor;
        shift shl shr;
        from splat: V::E, c: f64, bits: u64,
    }
    #[inline(always)]
    fn fma(mut self, a: Self, b: Self) -> Self {
        for i in 0..K {
            self.0[i] = self.0[i].fma(a.0[i], b.0[i]);
        }
        self
    }
    #[inline(always)]
    fn select(m: Self::M, a: Self, b: Self) -> Self {
        Several(std::array::from_fn(|i| V::select(m[i], a.0[i], b.0[i])))
    }
    #[inline(always)]
    fn any(m: Self::M) -> bool {
        m.into_iter().any(V::any)
    }
    #[inline(always)]
    unsafe fn load(p: *const V::E) -> Self {
        // SAFETY: the caller's promise.
        Several(std::array::from_fn(|i| unsafe { V::load(p.add(i * V::N)) }))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut V::E) {
        for i in 0..K {
            // SAFETY: the caller's promise.
            unsafe { self.0[i].store(p.add(i * V::N)) };
        }
    }
    #[inline(always)]
    unsafe fn load_mask(p: *const u8) -> Self::M {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| unsafe { V::load_mask(p.add(i * V::N)) })
    }
    #[inline(always)]
    unsafe fn store_mask(m: Self::M, p: *mut u8) {
        for i in 0..K {
            // SAFETY: the caller's promise.
            unsafe { V::store_mask(m[i], p.add(i * V::N)) };
        }
    }
    #[inline(always)]
    fn via_f64<F: WideFn>(self) -> Self {
        self.each(|x| x.via_f64::<F>())
    }
    #[inline(always)]
    fn via_f64_2<F: WideFn2>(self, o: Self) -> Self {
        self.zip(o, |x, y| x.via_f64_2::<F>(y))
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::*;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, WideFn, WideFn2};
    use std::arch::x86_64::*;

    /// 16 `f32` in an AVX-512 register.
    #[derive(Clone, Copy)]
    pub struct F32x16(__m512);
    /// 8 `f64` in an AVX-512 register.
    #[derive(Clone, Copy)]
    pub struct F64x8(__m512d);
    /// 8 `f32` in an AVX2 register.
    #[derive(Clone, Copy)]
    pub struct F32x8(__m256);
    /// 4 `f64` in an AVX2 register.
    #[derive(Clone, Copy)]
    pub struct F64x4(__m256d);

    /// Methods that are one intrinsic.
    macro_rules! direct {
        ($V:ident; $($name:ident($($arg:ident),*) = $f:ident $(::<$k:literal>)?;)*) => {$(
            #[inline(always)]
            fn $name(self $(, $arg: Self)*) -> Self {
                // SAFETY: only kernels compiled for this instruction set use this type.
                $V(unsafe { $f $(::<$k>)? (self.0 $(, $arg.0)*) })
            }
        )*};
    }
    /// Comparisons.
    macro_rules! compare {
        ($($name:ident = $f:ident::<$op:ident>;)*) => {$(
            #[inline(always)]
            fn $name(self, o: Self) -> Self::M {
                // SAFETY: only kernels compiled for this instruction set use this type.
                unsafe { $f::<$op>(self.0, o.0) }
            }
        )*};
    }
    /// Operations on the bit pattern as integers.
    macro_rules! integer {
        ($V:ident, $to:ident, $from:ident; $add:ident $sub:ident $shl:ident $shr:ident) => {
            #[inline(always)]
            fn iadd(self, o: Self) -> Self {
                // SAFETY: only kernels compiled for this instruction set use this type.
                $V(unsafe { $from($add($to(self.0), $to(o.0))) })
            }
            #[inline(always)]
            fn isub(self, o: Self) -> Self {
                // SAFETY: as above.
                $V(unsafe { $from($sub($to(self.0), $to(o.0))) })
            }
            #[inline(always)]
            fn shl<const K: u32>(self) -> Self {
                // SAFETY: as above.
                $V(unsafe { $from($shl($to(self.0), _mm_cvtsi32_si128(K as i32))) })
            }
            #[inline(always)]
            fn shr<const K: u32>(self) -> Self {
                // SAFETY: as above.
                $V(unsafe { $from($shr($to(self.0), _mm_cvtsi32_si128(K as i32))) })
            }
        };
    }
    /// Splats, loads and stores.
    macro_rules! memory {
        ($V:ident, $E:ty, $bits:ty, $set:ident, $load:ident, $store:ident) => {
            #[inline(always)]
            fn splat(x: $E) -> Self {
                // SAFETY: only kernels compiled for this instruction set use this type.
                $V(unsafe { $set(x) })
            }
            #[inline(always)]
            fn c(x: f64) -> Self {
                Self::splat(x as $E)
            }
            #[inline(always)]
            fn bits(b: u64) -> Self {
                Self::splat(<$E>::from_bits(b as $bits))
            }
            #[inline(always)]
            unsafe fn load(p: *const $E) -> Self {
                // SAFETY: as above, and the caller's promise.
                $V(unsafe { $load(p) })
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $E) {
                // SAFETY: as above, and the caller's promise.
                unsafe { $store(p, self.0) }
            }
        };
    }

    // The rounding modes of vrndscale/vround, exceptions suppressed: 8 nearest even, 9 down,
    // 10 up, 11 towards zero.
    impl Lanes for F32x16 {
        type E = f32;
        type M = __mmask16;
        type Wide = F64x8;
        const N: usize = 16;
        memory!(
            F32x16,
            f32,
            u32,
            _mm512_set1_ps,
            _mm512_loadu_ps,
            _mm512_storeu_ps
        );
        direct! { F32x16;
            add(o) = _mm512_add_ps; sub(o) = _mm512_sub_ps; mul(o) = _mm512_mul_ps; div(o) = _mm512_div_ps;
            fma(a, b) = _mm512_fmadd_ps; sqrt() = _mm512_sqrt_ps;
            round() = _mm512_roundscale_ps::<8>; floor() = _mm512_roundscale_ps::<9>;
            ceil() = _mm512_roundscale_ps::<10>; trunc() = _mm512_roundscale_ps::<11>;
            lesser(o) = _mm512_min_ps; greater(o) = _mm512_max_ps;
            and(o) = _mm512_and_ps; or(o) = _mm512_or_ps; xor(o) = _mm512_xor_ps;
        }
        integer!(F32x16, _mm512_castps_si512, _mm512_castsi512_ps;
            _mm512_add_epi32 _mm512_sub_epi32 _mm512_sll_epi32 _mm512_srl_epi32);
        compare! {
            lt = _mm512_cmp_ps_mask::<_CMP_LT_OQ>; le = _mm512_cmp_ps_mask::<_CMP_LE_OQ>;
            eq = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>; ne = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>;
        }
        #[inline(always)]
        fn select(m: __mmask16, a: Self, b: Self) -> Self {
            // SAFETY: only kernels compiled for this instruction set use this type.
            F32x16(unsafe { _mm512_mask_blend_ps(m, b.0, a.0) })
        }
        #[inline(always)]
        fn mand(a: __mmask16, b: __mmask16) -> __mmask16 {
            a & b
        }
        #[inline(always)]
        fn mor(a: __mmask16, b: __mmask16) -> __mmask16 {
            a | b
        }
        #[inline(always)]
        fn any(m: __mmask16) -> bool {
            m != 0
        }
        #[inline(always)]
        unsafe fn store_mask(m: __mmask16, p: *mut u8) {
            // SAFETY: as above, and the caller's promise.
            unsafe { _mm_storeu_si128(p.cast(), _mm_maskz_set1_epi8(m, 1)) }
        }
        #[inline(always)]
        unsafe fn load_mask(p: *const u8) -> __mmask16 {
            // SAFETY: as above, and the caller's promise.
            unsafe {
                let b = _mm_loadu_si128(p.cast());
                _mm_test_epi8_mask(b, b)
            }
        }
        #[inline(always)]
        fn via_f64<F: WideFn>(self) -> Self {
            let (a, b) = self.widen();
            Self::narrow(F::call(a), F::call(b))
        }
        #[inline(always)]
        fn via_f64_2<F: WideFn2>(self, o: Self) -> Self {
            let ((a, b), (c, d)) = (self.widen(), o.widen());
            Self::narrow(F::call(a, c), F::call(b, d))
        }
    }

    impl F32x16 {
        #[inline(always)]
        fn widen(self) -> (F64x8, F64x8) {
            // SAFETY: only kernels compiled for this instruction set use this type.
            unsafe {
                let low = _mm512_castps512_ps256(self.0);
                let high = _mm512_extractf32x8_ps::<1>(self.0);
                (F64x8(_mm512_cvtps_pd(low)), F64x8(_mm512_cvtps_pd(high)))
            }
        }
        #[inline(always)]
        fn narrow(a: F64x8, b: F64x8) -> Self {
            // SAFETY: as above.
            unsafe {
                let low = _mm512_castps256_ps512(_mm512_cvtpd_ps(a.0));
                F32x16(_mm512_insertf32x8::<1>(low, _mm512_cvtpd_ps(b.0)))
            }
        }
    }

    impl Lanes for F64x8 {
        type E = f64;
        type M = __mmask8;
        type Wide = Self;
        const N: usize = 8;
        memory!(
            F64x8,
            f64,
            u64,
            _mm512_set1_pd,
            _mm512_loadu_pd,
            _mm512_storeu_pd
        );
        direct! { F64x8;
            add(o) = _mm512_add_pd; sub(o) = _mm512_sub_pd; mul(o) = _mm512_mul_pd; div(o) = _mm512_div_pd;
            fma(a, b) = _mm512_fmadd_pd; sqrt() = _mm512_sqrt_pd;
            round() = _mm512_roundscale_pd::<8>; floor() = _mm512_roundscale_pd::<9>;
            ceil() = _mm512_roundscale_pd::<10>; trunc() = _mm512_roundscale_pd::<11>;
            lesser(o) = _mm512_min_pd; greater(o) = _mm512_max_pd;
            and(o) = _mm512_and_pd; or(o) = _mm512_or_pd; xor(o) = _mm512_xor_pd;
        }
        integer!(F64x8, _mm512_castpd_si512, _mm512_castsi512_pd;
            _mm512_add_epi64 _mm512_sub_epi64 _mm512_sll_epi64 _mm512_srl_epi64);
        compare! {
            lt = _mm512_cmp_pd_mask::<_CMP_LT_OQ>; le = _mm512_cmp_pd_mask::<_CMP_LE_OQ>;
            eq = _mm512_cmp_pd_mask::<_CMP_EQ_OQ>; ne = _mm512_cmp_pd_mask::<_CMP_NEQ_UQ>;
        }
        #[inline(always)]
        fn select(m: __mmask8, a: Self, b: Self) -> Self {
            // SAFETY: only kernels compiled for this instruction set use this type.
            F64x8(unsafe { _mm512_mask_blend_pd(m, b.0, a.0) })
        }
        #[inline(always)]
        fn mand(a: __mmask8, b: __mmask8) -> __mmask8 {
            a & b
        }
        #[inline(always)]
        fn mor(a: __mmask8, b: __mmask8) -> __mmask8 {
            a | b
        }
        #[inline(always)]
        fn any(m: __mmask8) -> bool {
            m != 0
        }
        #[inline(always)]
        unsafe fn store_mask(m: __mmask8, p: *mut u8) {
            // SAFETY: as above, and the caller's promise.
            unsafe { _mm_storel_epi64(p.cast(), _mm_maskz_set1_epi8(m as u16, 1)) }
        }
        #[inline(always)]
        unsafe fn load_mask(p: *const u8) -> __mmask8 {
            // SAFETY: as above, and the caller's promise.
            unsafe {
                let b = _mm_loadl_epi64(p.cast());
                _mm_test_epi8_mask(b, b) as u8
            }
        }
        #[inline(always)]
        fn via_f64<F: WideFn>(self) -> Self {
            F::call(self)
        }
        #[inline(always)]
        fn via_f64_2<F: WideFn2>(self, o: Self) -> Self {
            F::call(self, o)
        }
    }

    impl Lanes for F32x8 {
        type E = f32;
        type M = __m256;
        type Wide = F64x4;
        const N: usize = 8;
        memory!(
            F32x8,
            f32,
            u32,
            _mm256_set1_ps,
            _mm256_loadu_ps,
            _mm256_storeu_ps
        );
        direct! { F32x8;
            add(o) = _mm256_add_ps; sub(o) = _mm256_sub_ps; mul(o) = _mm256_mul_ps; div(o) = _mm256_div_ps;
            fma(a, b) = _mm256_fmadd_ps; sqrt() = _mm256_sqrt_ps;
            round() = _mm256_round_ps::<8>; floor() = _mm256_round_ps::<9>;
            ceil() = _mm256_round_ps::<10>; trunc() = _mm256_round_ps::<11>;
            lesser(o) = _mm256_min_ps; greater(o) = _mm256_max_ps;
            and(o) = _mm256_and_ps; or(o) = _mm256_or_ps; xor(o) = _mm256_xor_ps;
        }
        integer!(F32x8, _mm256_castps_si256, _mm256_castsi256_ps;
            _mm256_add_epi32 _mm256_sub_epi32 _mm256_sll_epi32 _mm256_srl_epi32);
        compare! {
            lt = _mm256_cmp_ps::<_CMP_LT_OQ>; le = _mm256_cmp_ps::<_CMP_LE_OQ>;
            eq = _mm256_cmp_ps::<_CMP_EQ_OQ>; ne = _mm256_cmp_ps::<_CMP_NEQ_UQ>;
        }
        #[inline(always)]
        fn select(m: __m256, a: Self, b: Self) -> Self {
            // SAFETY: only kernels compiled for this instruction set use this type.
            F32x8(unsafe { _mm256_blendv_ps(b.0, a.0, m) })
        }
        #[inline(always)]
        fn mand(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_and_ps(a, b) }
        }
        #[inline(always)]
        fn mor(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_or_ps(a, b) }
        }
        #[inline(always)]
        fn any(m: __m256) -> bool {
            // SAFETY: as above.
            unsafe { _mm256_movemask_ps(m) != 0 }
        }
        #[inline(always)]
        unsafe fn store_mask(m: __m256, p: *mut u8) {
            // SAFETY: as above, and the caller's promise.
            unsafe {
                let m = _mm256_castps_si256(m);
                let (low, high) = (_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
                let words = _mm_packs_epi32(low, high);
                let bytes = _mm_packs_epi16(words, words);
                _mm_storel_epi64(p.cast(), _mm_and_si128(bytes, _mm_set1_epi8(1)));
            }
        }
        #[inline(always)]
        unsafe fn load_mask(p: *const u8) -> __m256 {
            // SAFETY: as above, and the caller's promise.
            unsafe {
                let wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
                _mm256_castsi256_ps(_mm256_cmpgt_epi32(wide, _mm256_setzero_si256()))
            }
        }
        #[inline(always)]
        fn via_f64<F: WideFn>(self) -> Self {
            let (a, b) = self.widen();
            Self::narrow(F::call(a), F::call(b))
        }
        #[inline(always)]
        fn via_f64_2<F: WideFn2>(self, o: Self) -> Self {
            let ((a, b), (c, d)) = (self.widen(), o.widen());
            Self::narrow(F::call(a, c), F::call(b, d))
        }
    }

    impl F32x8 {
        #[inline(always)]
        fn widen(self) -> (F64x4, F64x4) {
            // SAFETY: only kernels compiled for this instruction set use this type.
            unsafe {
                let (low, high) = (
                    _mm256_castps256_ps128(self.0),
                    _mm256_extractf128_ps::<1>(self.0),
                );
                (F64x4(_mm256_cvtps_pd(low)), F64x4(_mm256_cvtps_pd(high)))
            }
        }
        #[inline(always)]
        fn narrow(a: F64x4, b: F64x4) -> Self {
            // SAFETY: as above.
            unsafe {
                let low = _mm256_castps128_ps256(_mm256_cvtpd_ps(a.0));
                F32x8(_mm256_insertf128_ps::<1>(low, _mm256_cvtpd_ps(b.0)))
            }
        }
    }

    impl Lanes for F64x4 {
        type E = f64;
        type M = __m256d;
        type Wide = Self;
        const N: usize = 4;
        memory!(
            F64x4,
            f64,
            u64,
            _mm256_set1_pd,
            _mm256_loadu_pd,
            _mm256_storeu_pd
        );
        direct! { F64x4;
            add(o) = _mm256_add_pd; sub(o) = _mm256_sub_pd; mul(o) = _mm256_mul_pd; div(o) = _mm256_div_pd;
            fma(a, b) = _mm256_fmadd_pd; sqrt() = _mm256_sqrt_pd;
            round() = _mm256_round_pd::<8>; floor() = _mm256_round_pd::<9>;
            ceil() = _mm256_round_pd::<10>; trunc() = _mm256_round_pd::<11>;
            lesser(o) = _mm256_min_pd; greater(o) = _mm256_max_pd;
            and(o) = _mm256_and_pd; or(o) = _mm256_or_pd; xor(o) = _mm256_xor_pd;
        }
        integer!(F64x4, _mm256_castpd_si256, _mm256_castsi256_pd;
            _mm256_add_epi64 _mm256_sub_epi64 _mm256_sll_epi64 _mm256_srl_epi64);
        compare! {
            lt = _mm256_cmp_pd::<_CMP_LT_OQ>; le = _mm256_cmp_pd::<_CMP_LE_OQ>;
            eq = _mm256_cmp_pd::<_CMP_EQ_OQ>; ne = _mm256_cmp_pd::<_CMP_NEQ_UQ>;
        }
        #[inline(always)]
        fn select(m: __m256d, a: Self, b: Self) -> Self {
            // SAFETY: only kernels compiled for this instruction set use this type.
            F64x4(unsafe { _mm256_blendv_pd(b.0, a.0, m) })
        }
        #[inline(always)]
        fn mand(a: __m256d, b: __m256d) -> __m256d {
            // SAFETY: as above.
            unsafe { _mm256_and_pd(a, b) }
        }
        #[inline(always)]
        fn mor(a: __m256d, b: __m256d) -> __m256d {
            // SAFETY: as above.
            unsafe { _mm256_or_pd(a, b) }
        }
        #[inline(always)]
        fn any(m: __m256d) -> bool {
            // SAFETY: as above.
            unsafe { _mm256_movemask_pd(m) != 0 }
        }
        #[inline(always)]
        unsafe fn store_mask(m: __m256d, p: *mut u8) {
            // SAFETY: as above, and the caller's promise. One bit per lane spread to one byte.
            unsafe {
                let bits = _mm256_movemask_pd(m) as u32;
                let bytes = bits.wrapping_mul(0x0020_4081) & 0x0101_0101;
                p.cast::<u32>().write_unaligned(bytes);
            }
        }
        #[inline(always)]
        unsafe fn load_mask(p: *const u8) -> __m256d {
            // SAFETY: as above, and the caller's promise.
            unsafe {
                let four = _mm_cvtsi32_si128(p.cast::<i32>().read_unaligned());
                let wide = _mm256_cvtepu8_epi64(four);
                _mm256_castsi256_pd(_mm256_cmpgt_epi64(wide, _mm256_setzero_si256()))
            }
        }
        #[inline(always)]
        fn via_f64<F: WideFn>(self) -> Self {
            F::call(self)
        }
        #[inline(always)]
        fn via_f64_2<F: WideFn2>(self, o: Self) -> Self {
            F::call(self, o)
        }
    }
}
