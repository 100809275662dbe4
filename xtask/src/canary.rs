//! The state machines' canaries: do they find a broken rule? `xtask/canary/canaries.patch` makes the core and the remotes of a
//! copy of this tree break, on request, one rule of those that are easily forgotten. One build serves all: the variable
//! `UZRAM_CANARY` names the rule, and its crate's machine must fail with each of them, soon, and with none of them not.

use anyhow::{Context, Result};

use crate::{acid, sh};

pub(crate) const PATCH: &str = "xtask/canary/canaries.patch";
/// What to do where the code beside a canary has changed.
pub(crate) const MEND: &str = "in a scratch clone run `git apply --reject xtask/canary/canaries.patch`, break by hand the rules in the \
                    .rej files, `git add --intent-to-add .`, and write `git diff -U2` over the patch";

/// A step of `cargo xtask test`.
pub(crate) fn canaries() -> Result<()> {
    let tree = acid::copy("canary")?;
    acid::apply(&tree, &sh::root().join(PATCH)).context(MEND)?;
    let build = [&["test"], sh::WORKSPACE, &["--test", "machine"]].concat();
    let mut test = sh::cargo(&build);
    test.args(["--", "--exact", "canary::every_canary_is_heard"]);
    test.arg("--nocapture");
    test.current_dir(&tree)
        .env("CARGO_TARGET_DIR", sh::target())
        // cargo tells a workspace's crates from those of its copy by their profile alone. The dependencies' is another one.
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    sh::run(test)
}
