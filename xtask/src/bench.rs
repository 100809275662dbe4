//! `cargo xtask bench`: builds the benchmark for speed and runs it.

use anyhow::Result;

use crate::{setup, sh};

pub(crate) fn bench(args: &[&str]) -> Result<()> {
    setup::setup(setup::Purpose::Test)?;
    let cargo = [
        "run",
        "--release",
        "--quiet",
        "--package",
        "uzram-bench",
        "--",
    ];
    sh::run(sh::cargo(&[&cargo, args].concat()))
}
