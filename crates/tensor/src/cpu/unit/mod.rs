//! Products of `f32` by a unit that multiplies `bf16` and adds up in `f32`: AMX, 16 times as fast as
//! multiply-adds of `f32`, or the dot products of pairs that AVX-512 has (`avx512bf16`), twice as fast.
//!
//! A number with 24 significant bits is the sum of three with 8: `x = x0 + x1 + x2`. One product of
//! leading parts is `bf16` arithmetic ([`Precision::Medium`]); three products out of two parts
//! leave an error of some 2^-16 ([`Precision::High`]); six out of three parts leave 2^-24 or less
//! ([`Precision::Highest`]), which is no more than what adding up in `f32` costs anyway (Henry et
//! al. 2019, "Leveraging the bfloat16 artificial intelligence datatype").
//!
//! Operands are packed into tiles of 16 lines by 32 (`pack.rs`), and multiplied two by two tiles at a
//! time (`kernel.rs`; by dot products, `dots.rs`). Whoever multiplies more than one part must look at the operands' [`Extent`]:
//! infinities have no parts, and the smaller parts of tiny numbers vanish.

#[macro_use]
mod pieces;

mod dots;
mod kernel;
mod pack;
mod sliding;
mod wide;

pub use kernel::{Product, multiply};
pub use pack::{Extent, Format, Lines, magnitude, pack, rounded};
pub use sliding::{Side, Sliding, slide};
pub use wide::{Wide, multiply_wide};

use super::simd::{Level, level};
use crate::precision::Precision;
use std::arch::asm;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Lines (rows of the first operand, columns of the second) of a tile.
pub const LINES: usize = 16;
/// Elements of the sums in a tile.
pub const STEP: usize = 32;
/// Bytes of a packed tile.
pub const TILE: usize = 1024;

/// Parts of `bf16` into which a number is split.
pub fn parts(precision: Precision) -> usize {
    match precision {
        Precision::Medium => 1,
        Precision::High => 2,
        Precision::Highest => 3,
    }
}

/// What multiplies `bf16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// AVX-512's dot products.
    Dots,
    /// The AMX matrix unit.
    Amx,
}

/// The faster kind that this processor has, or what `FORNAX_SIMD` leaves: none if it names a level, dot
/// products alone if it is `avx512bf16`.
pub fn kind() -> Option<Kind> {
    static KIND: OnceLock<Option<Kind>> = OnceLock::new();
    *KIND.get_or_init(|| {
        let dots = level() == Level::Avx512 && std::arch::is_x86_feature_detected!("avx512bf16");
        match std::env::var("FORNAX_SIMD").as_deref() {
            Ok("scalar" | "avx2" | "avx512") => None,
            Ok("avx512bf16") => dots.then_some(Kind::Dots),
            _ if dots && has_amx() => Some(Kind::Amx),
            _ => dots.then_some(Kind::Dots),
        }
    })
}

/// The kind for products of that precision, if they can be faster than those of `f32`: three
/// products of parts at twice the speed are not.
pub fn serving(precision: Precision) -> Option<Kind> {
    kind().filter(|&kind| kind == Kind::Amx || precision == Precision::Medium)
}

/// Cycles of a product of two tiles.
pub fn cycles() -> usize {
    match kind() {
        Some(Kind::Amx) => 16,
        _ => 136,
    }
}

/// Whether this processor has AMX with `bf16`, and the system lets the process use it.
fn has_amx() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    // The AMX and bf16 bits lie in leaf 7; the system must save the tiles' state (bits 17, 18).
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & 1 << 27 == 0 {
        return false;
    }
    let edx = __cpuid_count(7, 0).edx;
    let amx = edx & 1 << 22 != 0 && edx & 1 << 24 != 0;
    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: the system has enabled XSAVE, which was asked for above.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: the system has enabled XSAVE.
    amx && unsafe { saved() } & 0x6_0000 == 0x6_0000 && permitted()
}

/// Asks the system for the tiles' state, once per process.
fn permitted() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const TILE_DATA: i64 = 18;
        // SAFETY: asks for a permission; nothing of the process's memory is touched.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// The right to use this thread's unit: AMX's tiles are configured for as long as the value lives.
pub struct Tiles {
    kind: Kind,
    _thread: PhantomData<*mut ()>,
}

impl Tiles {
    /// Configures eight tiles of 16 rows by 64 bytes.
    ///
    /// # Safety
    /// There must be a unit ([`kind`]), and the thread must have no other `Tiles`.
    pub unsafe fn new() -> Tiles {
        Tiles {
            kind: match kind() {
                Some(Kind::Amx) => {
                    // SAFETY: the processor has AMX.
                    unsafe { configure() };
                    Kind::Amx
                }
                _ => Kind::Dots,
            },
            _thread: PhantomData,
        }
    }
}

/// # Safety
/// The processor must have AMX.
unsafe fn configure() {
    #[repr(align(64))]
    struct Config([u8; 64]);
    let mut config = Config([0; 64]);
    config.0[0] = 1; // palette
    for tile in 0..8 {
        config.0[16 + 2 * tile] = 64; // bytes per row
        config.0[48 + tile] = 16; // rows
    }
    // SAFETY: the configuration is one that palette 1 has.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, preserves_flags, readonly));
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        if self.kind == Kind::Amx {
            // SAFETY: the processor has AMX.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
        }
    }
}

#[cfg(test)]
mod tests;
