//! The program `fornax`.
fn main() {}
