//! The inner loop for few rows: one by four tiles of the output stay in tile registers, so that the
//! unit has a sum to add to while others are under way.

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

macro_rules! dot {
    ($c:literal, $a:literal, $b:literal) => {
        concat!("tdpbf16ps tmm", $c, ", tmm", $a, ", tmm", $b, "\n")
    };
}
/// The products of part `part` of one block of the second operand, in register 7, with the parts of the first
/// in registers `a`, the smallest first; after each of them the halves named of the block's tile number
/// `tile`, which the next step needs, are brought near.
macro_rules! column {
    ($c:literal, $b:literal, $part:literal, $tile:literal; $($a:literal [$($half:literal)*])*) => {
        concat!(
            load!("7", $b, $part),
            $(dot!($c, $a, "7"), $(near!($b, $tile, $half),)*)*
        )
    };
}
macro_rules! columns {
    ($part:literal, $tile:literal; $($rest:tt)*) => {
        concat!(
            column!("0", "b0", $part, $tile; $($rest)*),
            column!("1", "b1", $part, $tile; $($rest)*),
            column!("2", "b2", $part, $tile; $($rest)*),
            column!("3", "b3", $part, $tile; $($rest)*)
        )
    };
}
/// One step, from the smallest part of the second operand to the largest. All parts of the first stay in
/// registers, so that each tile of the second is loaded once.
macro_rules! step {
    (1) => {
        concat!(
            load!("4", "a", "0"),
            load!("5", "b0", "0"),
            apart!(),
            load!("6", "b1", "0"),
            apart!(),
            dot!("0", "4", "5"),
            load!("7", "b2", "0"),
            apart!(),
            dot!("1", "4", "6"),
            load!("5", "b3", "0"),
            apart!(),
            dot!("2", "4", "7"),
            dot!("3", "4", "5")
        )
    };
    (2) => {
        concat!(
            load!("4", "a", "0"),
            load!("5", "a", "1"),
            columns!("1", "3"; "4" ["0" "1"]),
            columns!("0", "2"; "5" ["0"] "4" ["1"])
        )
    };
    (3) => {
        concat!(
            load!("4", "a", "0"),
            load!("5", "a", "1"),
            load!("6", "a", "2"),
            columns!("2", "5"; "4" ["0" "1"]),
            columns!("1", "4"; "5" ["0"] "4" ["1"]),
            columns!("0", "3"; "6" ["0"] "5" ["1"] "4" [])
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
