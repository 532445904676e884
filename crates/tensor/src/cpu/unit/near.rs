//! What the inner loops put between products. A thread that shares its core with another has too few
//! instructions under way to wait for tiles from the second-level cache and to multiply at once: with
//! these its loops take 0.65 to 0.85 of the time, and as long as before where it has a core to itself.

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
