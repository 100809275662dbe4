//! A step of `cargo xtask test`: each crate is packed, and built from its package alone, as a stranger would get it who calls
//! `cargo install uzram-cli`.

use std::fs;

use anyhow::{Context, Result};

use crate::{acid, sh};

/// Packs all crates, that of tests too, which the laboratory takes a driver from, in a copy of this tree.
pub(crate) fn packages() -> Result<()> {
    let tree = acid::copy("packages")?;
    let manifest = tree.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    // Only where packages may be published does cargo build one from another that is not yet.
    fs::write(&manifest, text.replace("publish = false", "publish = true"))?;
    let mut package = sh::cargo(&["package", "--allow-dirty"]);
    for entry in fs::read_dir(tree.join("crates"))? {
        package.arg("--package").arg(entry?.file_name());
    }
    package.current_dir(&tree);
    package.env("CARGO_TARGET_DIR", sh::target());
    sh::run(package)
}
