//! The inner loop for few rows: one by four tiles of the output stay in tile registers, so that the
//! unit always has a sum to add to while others are under way.

use super::{Kind, TILE, Tiles, dots};
use std::arch::asm;

/// One call of the inner loop: `c [16, 64] (+)= a b` over `steps` tiles of the sums.
pub struct Wide {
    /// Tiles of the first operand: step after step, part after part.
    pub a: *const u8,
    /// Tiles of four blocks of the second operand, likewise.
    pub b: [*const u8; 4],
    /// Tiles along the sums.
    pub steps: usize,
    /// The output's first element.
    pub c: *mut f32,
    /// From one row of the output to the next, in elements.
    pub c_row: usize,
    /// Add to the output instead of overwriting it.
    pub accumulate: bool,
}

macro_rules! a {
    ($part:literal) => {
        concat!("tileloadd tmm4, [{a} + 1*{s} + 1024*", $part, "]\n")
    };
}
/// The products of the loaded part of the first operand with one of the second.
macro_rules! dots {
    ($part:literal) => {
        concat!(
            "tileloadd tmm5, [{b0} + 1*{s} + 1024*",
            $part,
            "]\n",
            "tileloadd tmm6, [{b1} + 1*{s} + 1024*",
            $part,
            "]\n",
            "tdpbf16ps tmm0, tmm4, tmm5\n",
            "tileloadd tmm7, [{b2} + 1*{s} + 1024*",
            $part,
            "]\n",
            "tdpbf16ps tmm1, tmm4, tmm6\n",
            "tileloadd tmm5, [{b3} + 1*{s} + 1024*",
            $part,
            "]\n",
            "tdpbf16ps tmm2, tmm4, tmm7\n",
            "tdpbf16ps tmm3, tmm4, tmm5\n"
        )
    };
}
/// One step: the products of parts, the smallest first.
macro_rules! step {
    (1) => {
        concat!(a!("0"), dots!("0"))
    };
    (2) => {
        concat!(a!("1"), dots!("0"), a!("0"), dots!("1"), dots!("0"))
    };
    (3) => {
        concat!(
            a!("2"),
            dots!("0"),
            a!("1"),
            dots!("1"),
            dots!("0"),
            a!("0"),
            dots!("2"),
            dots!("1"),
            dots!("0")
        )
    };
}

macro_rules! kernel {
    ($p:expr, $parts:tt) => {{
        let p: &Wide = $p;
        // SAFETY: the caller vouches for operands, output and configured tiles.
        unsafe {
            asm!(
                "test {acc}, {acc}",
                "jz 2f",
                "tileloadd tmm0, [{c} + 1*{cs}]",
                "tileloadd tmm1, [{c} + 1*{cs} + 64]",
                "tileloadd tmm2, [{c} + 1*{cs} + 128]",
                "tileloadd tmm3, [{c} + 1*{cs} + 192]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                step!($parts),
                "add {a}, {next}",
                "add {b0}, {next}",
                "add {b1}, {next}",
                "add {b2}, {next}",
                "add {b3}, {next}",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{c} + 1*{cs}], tmm0",
                "tilestored [{c} + 1*{cs} + 64], tmm1",
                "tilestored [{c} + 1*{cs} + 128], tmm2",
                "tilestored [{c} + 1*{cs} + 192], tmm3",
                a = inout(reg) p.a => _,
                b0 = inout(reg) p.b[0] => _,
                b1 = inout(reg) p.b[1] => _,
                b2 = inout(reg) p.b[2] => _,
                b3 = inout(reg) p.b[3] => _,
                steps = inout(reg) p.steps => _,
                acc = in(reg) p.accumulate as usize,
                c = in(reg) p.c,
                cs = in(reg) 4 * p.c_row,
                s = in(reg) 64usize,
                next = const $parts * TILE,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        }
    }};
}

/// Runs the inner loop on operands split into `parts`.
///
/// # Safety
/// Each pointer must lead to `steps` times `parts` packed tiles, the output must be writable at 16
/// rows of 64, and `steps` must not be 0.
pub unsafe fn multiply_wide(tiles: &Tiles, parts: usize, p: &Wide) {
    debug_assert!(p.steps > 0);
    if tiles.kind == Kind::Dots {
        assert!(parts == 1, "dot products serve one part");
        // SAFETY: passed on from the caller.
        return unsafe { dots::multiply_wide(p) };
    }
    match parts {
        1 => kernel!(p, 1),
        2 => kernel!(p, 2),
        3 => kernel!(p, 3),
        _ => unreachable!("{parts} parts"),
    }
}
