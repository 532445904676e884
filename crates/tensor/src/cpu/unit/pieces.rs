//! Pieces of the inner loops. What stands between products is for a thread that shares its core with another
//! and has too few instructions under way to wait for tiles from the second-level cache and to multiply
//! at once: with it loops take 0.65 to 0.85 of the time, and as long as before where the core is theirs.

/// Loads part `part` of a packed block into a register.
macro_rules! load {
    ($t:literal, $from:literal, $part:literal) => {
        concat!(
            "tileloadd tmm",
            $t,
            ", [{",
            $from,
            "} + 1*{s} + 1024*",
            $part,
            "]\n"
        )
    };
}
/// Brings half of a block's tile number `tile`, counted from this step's first, into the first-level cache.
macro_rules! near {
    ($from:literal, $tile:literal, $half:literal) => {
        near!($from, $tile, $half; "0" "64" "128" "192" "256" "320" "384" "448")
    };
    ($from:literal, $tile:literal, $half:literal; $($line:literal)*) => {
        concat!(
            $("prefetcht0 [{", $from, "} + 1024*", $tile, " + 512*", $half, " + ", $line, "]\n"),*
        )
    };
}
/// Keeps the loads of tiles apart: with 16 instructions that do nothing between them products are not held
/// up by loads, with 32 neither, with none they are.
macro_rules! apart {
    () => {
        ".rept 16\nnop\n.endr\n"
    };
}
