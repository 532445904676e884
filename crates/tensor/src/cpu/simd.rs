//! The instruction set, chosen once at run time; and the rule for subnormal numbers.
//!
//! **One rule for subnormals.** Kernels run with the CPU's flush-to-zero and
//! denormals-are-zero modes on ([`pool::flush_denormals`](super::pool::flush_denormals)): arithmetic on `f32`, `bf16` and `f64`
//! reads a subnormal operand as zero of the same sign and gives zero for a subnormal result.
//! So tiny numbers never slow a step down. Moves (load, select, cast between float and bool or
//! `f16`, sign changes) keep their bits. `f16` keeps its subnormals, since it is computed in `f32`.

use std::sync::OnceLock;

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the compile target guarantees (SSE2 on x86-64, NEON on 64-bit ARM).
    Baseline,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL, on top of AVX2.
    Avx512,
}

/// The best level this CPU has, or a lower one asked for by `FORNAX_SIMD=avx512|avx2|scalar`. What
/// goes beyond the levels is the business of `unit`.
#[inline]
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let best = detect();
        match std::env::var("FORNAX_SIMD").as_deref() {
            Ok("scalar") => Level::Baseline,
            Ok("avx2") => best.min(Level::Avx2),
            _ => best,
        }
    })
}

/// The best level this CPU has, whatever the environment says.
#[cfg(target_arch = "x86_64")]
pub fn detect() -> Level {
    macro_rules! has {
        ($($f:tt)*) => { $(std::arch::is_x86_feature_detected!($f))&&* };
    }
    match has!("avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt" "popcnt") {
        true if has!("avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512cd") => Level::Avx512,
        true => Level::Avx2,
        false => Level::Baseline,
    }
}

/// The best level this CPU has, whatever the environment says.
#[cfg(not(target_arch = "x86_64"))]
pub fn detect() -> Level {
    Level::Baseline
}

/// Asks for the cache line at `p`, which need not be readable, before it is needed.
#[inline(always)]
pub fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults; SSE is part of every x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Declares a function whose body is compiled once per [`Level`]; each call runs the version for
/// this CPU. Functions that the body calls are compiled for that level only if they are
/// `#[inline(always)]`.
///
/// ```
/// fornax_tensor::simd_dispatch! {
///     /// Sum of products.
///     pub fn dot(a: &[f32], b: &[f32]) -> f32 {
///         a.iter().zip(b).map(|(x, y)| x * y).sum()
///     }
/// }
/// assert_eq!(dot(&[1.0, 2.0], &[3.0, 4.0]), 11.0);
/// ```
///
/// Generic parameters take one bound each: `fn f<T: Bound, U: Other>(..)`.
#[macro_export]
macro_rules! simd_dispatch {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(< $($g:ident : $bound:path),+ $(,)? >)? (
            $($arg:ident : $ty:ty),* $(,)?
        ) $(-> $ret:ty)? $body:block
    )*) => {$(
        $(#[$meta])*
        #[inline]
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(< $($g: $bound),+ >)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body $(< $($g: $bound),+ >)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                #[allow(clippy::too_many_arguments)]
                fn avx512 $(< $($g: $bound),+ >)? ($($arg: $ty),*) $(-> $ret)? {
                    body $(::< $($g),+ >)? ($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                #[allow(clippy::too_many_arguments)]
                fn avx2 $(< $($g: $bound),+ >)? ($($arg: $ty),*) $(-> $ret)? {
                    body $(::< $($g),+ >)? ($($arg),*)
                }
                match $crate::cpu::simd::level() {
                    // SAFETY: `level` has found these features on this CPU.
                    $crate::cpu::simd::Level::Avx512 => unsafe {
                        avx512 $(::< $($g),+ >)? ($($arg),*)
                    },
                    // SAFETY: as above.
                    $crate::cpu::simd::Level::Avx2 => unsafe {
                        avx2 $(::< $($g),+ >)? ($($arg),*)
                    },
                    $crate::cpu::simd::Level::Baseline => body $(::< $($g),+ >)? ($($arg),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            body $(::< $($g),+ >)? ($($arg),*)
        }
    )*};
}

#[cfg(test)]
mod tests {
    crate::simd_dispatch! {
        fn add_all<T: num>(a: &mut [T], b: &[T]) {
            for (x, y) in a.iter_mut().zip(b) {
                *x = x.plus(*y);
            }
        }
    }
    #[allow(non_camel_case_types)]
    trait num: Copy {
        fn plus(self, o: Self) -> Self;
    }
    impl num for f32 {
        #[inline(always)]
        fn plus(self, o: Self) -> Self {
            self + o
        }
    }

    #[test]
    fn dispatch_takes_generics() {
        let mut a = vec![1.0f32; 100];
        add_all(&mut a, &[2.0; 100]);
        assert!(a.iter().all(|&x| x == 3.0));
    }
}
