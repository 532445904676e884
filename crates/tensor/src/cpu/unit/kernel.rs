//! The inner loop: up to two by two tiles of the output stay in tile registers while the sums run.

use super::{Kind, STEP, TILE, Tiles, dots};
use std::arch::asm;

/// One call of the inner loop: `c [16 m, 16 n] (+)= a b` over `steps` tiles of the sums.
pub struct Product {
    /// Tiles of the first operand, one or two blocks of lines: step after step, part after part.
    pub a: [*const u8; 2],
    /// Tiles of the second operand, likewise.
    pub b: [*const u8; 2],
    /// Tiles along the sums.
    pub steps: usize,
    /// The output's first element.
    pub c: *mut f32,
    /// From one row of the output to the next, in elements.
    pub c_row: usize,
    /// Add to the output instead of overwriting it.
    pub accumulate: bool,
    /// What will be read next: a quarter of a tile of it is brought near for each step and part.
    pub ahead: *const u8,
}

macro_rules! a {
    (2, $part:literal) => {
        concat!(load!("4", "a0", $part), load!("5", "a1", $part))
    };
    (1, $part:literal) => {
        load!("4", "a0", $part)
    };
}
macro_rules! b {
    (2, $part:literal) => {
        concat!(load!("6", "b0", $part), load!("7", "b1", $part))
    };
    (1, $part:literal) => {
        load!("6", "b0", $part)
    };
}
/// The products of what is loaded; between them, tiles that a later group needs are brought near: number
/// `tile` of blocks `x` and `y`.
macro_rules! dot {
    (2, 2, $x:literal, $y:literal, $tile:literal) => {
        concat!(
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            near!($x, $tile, "0"),
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            near!($x, $tile, "1"),
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            near!($y, $tile, "0"),
            "tdpbf16ps tmm3, tmm5, tmm7\n",
            near!($y, $tile, "1")
        )
    };
    (2, 2) => {
        concat!(
            dot!(1, 2),
            "tdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7\n"
        )
    };
    (1, 2) => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\n"
    };
    (2, 1) => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm2, tmm5, tmm6\n"
    };
    (1, 1) => {
        "tdpbf16ps tmm0, tmm4, tmm6\n"
    };
    ($m:tt, $n:tt, $x:literal, $y:literal, $tile:literal) => {
        dot!($m, $n)
    };
}
/// The instructions of one step: a path through the products of parts on which only one side
/// changes from one to the next, the smallest products first.
macro_rules! step {
    // One product for each tile loaded: there is no time to bring anything near.
    (1, 2, 2) => {
        concat!(
            load!("4", "a0", "0"),
            apart!(),
            load!("5", "a1", "0"),
            apart!(),
            load!("6", "b0", "0"),
            apart!(),
            load!("7", "b1", "0"),
            apart!(),
            dot!(2, 2)
        )
    };
    (1, $m:tt, $n:tt) => {
        concat!(a!($m, "0"), b!($n, "0"), dot!($m, $n))
    };
    (2, $m:tt, $n:tt) => {
        concat!(
            a!($m, "1"),
            b!($n, "0"),
            dot!($m, $n, "b0", "b1", "1"),
            a!($m, "0"),
            dot!($m, $n, "a0", "a1", "3"),
            // There is no time for the next step's part 0 of the first operand.
            b!($n, "1"),
            dot!($m, $n, "b0", "b1", "2")
        )
    };
    (3, $m:tt, $n:tt) => {
        concat!(
            a!($m, "2"),
            b!($n, "0"),
            dot!($m, $n, "b0", "b1", "1"),
            a!($m, "1"),
            dot!($m, $n, "a0", "a1", "0"),
            b!($n, "1"),
            dot!($m, $n, "b0", "b1", "2"),
            a!($m, "0"),
            dot!($m, $n, "a0", "a1", "5"),
            b!($n, "2"),
            dot!($m, $n, "b0", "b1", "3"),
            b!($n, "0"),
            dot!($m, $n, "a0", "a1", "4")
        )
    };
}
/// Zeroes the output's tiles, or moves them between memory and registers.
macro_rules! output {
    (zero, 2, 2) => {
        "tilezero tmm0\ntilezero tmm1\ntilezero tmm2\ntilezero tmm3\n"
    };
    (zero, 1, 2) => {
        "tilezero tmm0\ntilezero tmm1\n"
    };
    (zero, 2, 1) => {
        "tilezero tmm0\ntilezero tmm2\n"
    };
    (zero, 1, 1) => {
        "tilezero tmm0\n"
    };
    (load, $m:tt, 2) => {
        concat!(output!(load, $m, 1), output!(right load, $m))
    };
    (load, 1, 1) => {
        "tileloadd tmm0, [{c0} + 1*{cs}]\n"
    };
    (load, 2, 1) => {
        "tileloadd tmm0, [{c0} + 1*{cs}]\ntileloadd tmm2, [{c1} + 1*{cs}]\n"
    };
    (right load, 1) => {
        "tileloadd tmm1, [{c0} + 1*{cs} + 64]\n"
    };
    (right load, 2) => {
        "tileloadd tmm1, [{c0} + 1*{cs} + 64]\ntileloadd tmm3, [{c1} + 1*{cs} + 64]\n"
    };
    (store, $m:tt, 2) => {
        concat!(output!(store, $m, 1), output!(right store, $m))
    };
    (store, 1, 1) => {
        "tilestored [{c0} + 1*{cs}], tmm0\n"
    };
    (store, 2, 1) => {
        "tilestored [{c0} + 1*{cs}], tmm0\ntilestored [{c1} + 1*{cs}], tmm2\n"
    };
    (right store, 1) => {
        "tilestored [{c0} + 1*{cs} + 64], tmm1\n"
    };
    (right store, 2) => {
        "tilestored [{c0} + 1*{cs} + 64], tmm1\ntilestored [{c1} + 1*{cs} + 64], tmm3\n"
    };
}

/// Asks for a quarter of a tile per part.
macro_rules! prefetch {
    (1) => {
        prefetch!("0" "64" "128" "192")
    };
    (2) => {
        concat!(prefetch!(1), prefetch!("256" "320" "384" "448"))
    };
    (3) => {
        concat!(prefetch!(2), prefetch!("512" "576" "640" "704"))
    };
    ($($at:literal)*) => {
        concat!($("prefetcht1 [{ahead} + ", $at, "]\n"),*)
    };
}

macro_rules! kernel {
    ($p:expr, $parts:tt, $m:tt, $n:tt) => {{
        let p: &Product = $p;
        // SAFETY: the caller vouches for operands, output and configured tiles.
        unsafe {
            asm!(
                "test {acc}, {acc}",
                "jz 2f",
                output!(load, $m, $n),
                "jmp 3f",
                "2:",
                output!(zero, $m, $n),
                "3:",
                step!($parts, $m, $n),
                prefetch!($parts),
                "add {ahead}, {quarter}",
                "add {a0}, {next}",
                "add {a1}, {next}",
                "add {b0}, {next}",
                "add {b1}, {next}",
                "dec {steps}",
                "jnz 3b",
                output!(store, $m, $n),
                "/* {c1} */",
                a0 = inout(reg) p.a[0] => _,
                a1 = inout(reg) p.a[1] => _,
                b0 = inout(reg) p.b[0] => _,
                b1 = inout(reg) p.b[1] => _,
                steps = inout(reg) p.steps => _,
                ahead = inout(reg) p.ahead => _,
                quarter = const $parts * TILE / 4,
                acc = in(reg) p.accumulate as usize,
                c0 = in(reg) p.c,
                c1 = in(reg) p.c.wrapping_add(16 * p.c_row),
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

/// Runs the inner loop on `m` by `n` tiles (one or two each) of operands split into `parts`.
///
/// # Safety
/// Each pointer named must lead to `steps` times `parts` packed tiles, the output must be writable
/// at its rows, and `steps` must not be 0.
pub unsafe fn multiply(tiles: &Tiles, parts: usize, m: usize, n: usize, p: &Product) {
    debug_assert!(p.steps > 0 && STEP == 32);
    if tiles.kind == Kind::Dots {
        assert!(parts == 1, "dot products serve one part");
        // SAFETY: passed on from the caller.
        return unsafe { dots::multiply(m, n, p) };
    }
    match (parts, m, n) {
        (1, 1, 1) => kernel!(p, 1, 1, 1),
        (1, 1, 2) => kernel!(p, 1, 1, 2),
        (1, 2, 1) => kernel!(p, 1, 2, 1),
        (1, 2, 2) => kernel!(p, 1, 2, 2),
        (2, 1, 1) => kernel!(p, 2, 1, 1),
        (2, 1, 2) => kernel!(p, 2, 1, 2),
        (2, 2, 1) => kernel!(p, 2, 2, 1),
        (2, 2, 2) => kernel!(p, 2, 2, 2),
        (3, 1, 1) => kernel!(p, 3, 1, 1),
        (3, 1, 2) => kernel!(p, 3, 1, 2),
        (3, 2, 1) => kernel!(p, 3, 2, 1),
        (3, 2, 2) => kernel!(p, 3, 2, 2),
        _ => unreachable!("{parts} parts, {m} by {n} tiles"),
    }
}
