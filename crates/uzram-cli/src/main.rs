//! The `uzram` program.
fn main() {}
