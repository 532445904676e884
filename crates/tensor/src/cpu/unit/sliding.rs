//! The inner loop over an operand that is read where it lies.
//!
//! The tiles of a convolution's input are not packed one by one: the input lies in memory once,
//! split into parts, and each element of the kernel sees it from another address. Tile loads take
//! any address and any distance of rows, so that a shift costs nothing.

use super::{Kind, TILE, Tiles, dots};
use std::arch::asm;

/// One call of the inner loop: up to two by two tiles of sums over `steps` steps.
pub struct Sliding {
    /// The packed operand, one or two blocks of lines: step after step, part after part.
    pub packed: [*const u8; 2],
    /// The operand that is read in place: its tile of step `s`, part `p` and block `i` begins
    /// `offsets[s] + p * part + i * block` bytes from here.
    pub sliding: *const u8,
    pub offsets: *const usize,
    pub part: usize,
    pub block: usize,
    /// Bytes from one row of such a tile to the next.
    pub row: usize,
    /// How many steps there are.
    pub steps: usize,
    /// The sums, a tile of 16 by 16 for packed block 0 with sliding blocks 0 and 1, then for
    /// packed block 1. Rows are lines of the first operand.
    pub sums: *mut f32,
    /// Add to the sums instead of overwriting them.
    pub accumulate: bool,
}

/// Which operand of the product the sliding one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    First,
    Second,
}

macro_rules! packed {
    ($part:literal, 1) => {
        concat!(load!("6", "p0", $part), apart!())
    };
    ($part:literal, 2) => {
        concat!(packed!($part, 1), load!("7", "p1", $part), apart!())
    };
}
macro_rules! sliding {
    (1) => {
        concat!("tileloadd tmm4, [{t} + 1*{row}]\n", apart!())
    };
    (2) => {
        concat!(sliding!(1), "tileloadd tmm5, [{u} + 1*{row}]\n", apart!())
    };
}
macro_rules! next_part {
    () => {
        "add {t}, {part}\nadd {u}, {part}\n"
    };
    (back) => {
        "sub {t}, {part}\nsub {u}, {part}\n"
    };
}
macro_rules! dot {
    ($c:literal, $p:literal, $s:literal, First) => {
        concat!("tdpbf16ps tmm", $c, ", tmm", $s, ", tmm", $p, "\n")
    };
    ($c:literal, $p:literal, $s:literal, Second) => {
        concat!("tdpbf16ps tmm", $c, ", tmm", $p, ", tmm", $s, "\n")
    };
}
macro_rules! dots {
    ($side:tt, 1, 1) => {
        dot!("0", "6", "4", $side)
    };
    ($side:tt, 1, 2) => {
        concat!(dot!("0", "6", "4", $side), dot!("1", "6", "5", $side))
    };
    ($side:tt, 2, 1) => {
        concat!(dot!("0", "6", "4", $side), dot!("2", "7", "4", $side))
    };
    ($side:tt, 2, 2) => {
        concat!(
            dots!($side, 1, 2),
            dot!("2", "7", "4", $side),
            dot!("3", "7", "5", $side)
        )
    };
}
/// The products of one step; as in `kernel.rs`, the smallest first.
macro_rules! step {
    (1, $side:tt, $p:tt, $s:tt) => {
        concat!(packed!("0", $p), sliding!($s), dots!($side, $p, $s))
    };
    (2, $side:tt, $p:tt, $s:tt) => {
        concat!(
            packed!("1", $p),
            sliding!($s),
            dots!($side, $p, $s),
            packed!("0", $p),
            dots!($side, $p, $s),
            next_part!(),
            sliding!($s),
            dots!($side, $p, $s)
        )
    };
    (3, $side:tt, $p:tt, $s:tt) => {
        concat!(
            packed!("2", $p),
            sliding!($s),
            dots!($side, $p, $s),
            packed!("1", $p),
            dots!($side, $p, $s),
            next_part!(),
            sliding!($s),
            dots!($side, $p, $s),
            packed!("0", $p),
            dots!($side, $p, $s),
            next_part!(),
            sliding!($s),
            dots!($side, $p, $s),
            next_part!(back),
            next_part!(back),
            sliding!($s),
            dots!($side, $p, $s)
        )
    };
}
macro_rules! sums {
    ($op:tt, 1, 1) => {
        sums!($op, "0", "0")
    };
    ($op:tt, 1, 2) => {
        concat!(sums!($op, "0", "0"), sums!($op, "1", "1024"))
    };
    ($op:tt, 2, 1) => {
        concat!(sums!($op, "0", "0"), sums!($op, "2", "2048"))
    };
    ($op:tt, 2, 2) => {
        concat!(
            sums!($op, 1, 2),
            sums!($op, "2", "2048"),
            sums!($op, "3", "3072")
        )
    };
    (zero, $t:literal, $at:literal) => {
        concat!("tilezero tmm", $t, "\n")
    };
    (load, $t:literal, $at:literal) => {
        concat!("tileloadd tmm", $t, ", [{c} + 1*{s} + ", $at, "]\n")
    };
    (store, $t:literal, $at:literal) => {
        concat!("tilestored [{c} + 1*{s} + ", $at, "], tmm", $t, "\n")
    };
}

macro_rules! kernel {
    ($x:expr, $parts:tt, $side:tt, $p:tt, $s:tt) => {{
        let x: &Sliding = $x;
        // SAFETY: the caller vouches for operands, sums and configured tiles.
        unsafe {
            asm!(
                "test {u}, {u}",
                "jz 2f",
                sums!(load, $p, $s),
                "jmp 3f",
                "2:",
                sums!(zero, $p, $s),
                "3:",
                "mov {t}, [{offsets}]",
                "add {t}, {base}",
                "lea {u}, [{t} + {block}]",
                step!($parts, $side, $p, $s),
                "add {offsets}, 8",
                "add {p0}, {next}",
                "add {p1}, {next}",
                "dec {steps}",
                "jnz 3b",
                sums!(store, $p, $s),
                "/* {part} */",
                p0 = inout(reg) x.packed[0] => _,
                p1 = inout(reg) x.packed[1] => _,
                offsets = inout(reg) x.offsets => _,
                steps = inout(reg) x.steps => _,
                t = out(reg) _,
                u = inout(reg) x.accumulate as usize => _,
                base = in(reg) x.sliding,
                block = in(reg) x.block,
                part = in(reg) x.part,
                row = in(reg) x.row,
                c = in(reg) x.sums,
                s = in(reg) 64usize,
                next = const $parts * TILE,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        }
    }};
}

macro_rules! choose {
    ($x:expr, $at:expr; $($parts:tt $side:tt $p:tt $s:tt)*) => {
        match $at {
            $(($parts, Side::$side, $p, $s) => kernel!($x, $parts, $side, $p, $s),)*
            other => unreachable!("{other:?}"),
        }
    };
}

/// Runs the inner loop on `p` blocks of the packed operand and `s` of the sliding one (one or two
/// each), split into `parts`.
///
/// # Safety
/// Each packed pointer that counts must lead to `steps * parts` tiles, all tiles of the sliding
/// operand must be readable and the sums writable, and `steps` must not be 0.
pub unsafe fn slide(tiles: &Tiles, parts: usize, side: Side, p: usize, s: usize, x: &Sliding) {
    debug_assert!(x.steps > 0);
    if tiles.kind == Kind::Dots {
        assert!(parts == 1, "dot products serve one part");
        // SAFETY: passed on from the caller.
        return unsafe { dots::slide(side, p, s, x) };
    }
    choose!(x, (parts, side, p, s);
        1 First 1 1  1 First 1 2  1 First 2 1  1 First 2 2
        2 First 1 1  2 First 1 2  2 First 2 1  2 First 2 2
        3 First 1 1  3 First 1 2  3 First 2 1  3 First 2 2
        1 Second 1 1  1 Second 1 2  1 Second 2 1  1 Second 2 2
        2 Second 1 1  2 Second 1 2  2 Second 2 1  2 Second 2 2
        3 Second 1 1  3 Second 1 2  3 Second 2 1  3 Second 2 2
    )
}
