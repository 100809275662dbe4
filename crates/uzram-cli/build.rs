//! Links `uzram` for a fixed address. The dynamic linker writes some 190 kB of addresses into a program that may be anywhere, and
//! each process of each device has these pages for itself. Stacks, heap, libraries and mappings are anywhere all the same.
//! `UZRAM_PIE=1` in the environment of a build makes a position-independent program, where a distribution demands that.

use std::env;

const CHOICE: &str = "UZRAM_PIE";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={CHOICE}");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|now| now == value);
    let linux = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if linux && !is(CHOICE, "1") {
        println!("cargo:rustc-link-arg-bin=uzram=-no-pie");
    }
}
