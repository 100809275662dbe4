//! `cargo xtask bench`: `core` builds the library's benchmark for speed and runs it; `guest` measures ublk beside the
//! kernel's zram in a virtual machine.

mod guest;
mod machine;
mod record;
mod runs;
mod table;
mod variants;

use anyhow::Result;

use crate::{setup, sh};

pub(crate) fn bench(args: &[&str]) -> Result<()> {
    if let ["guest", rest @ ..] = args {
        return guest::bench(rest);
    }
    setup::setup(setup::Purpose::Test)?;
    sh::run(sh::cargo(&[LIBRARY, args].concat()))
}

/// Builds the library's benchmarks for speed, with all rivals, and runs one.
pub(crate) const LIBRARY: &[&str] = &[
    "run",
    "--release",
    "--quiet",
    "--package",
    "uzram-bench",
    "--features",
    "rivals",
    "--",
];
