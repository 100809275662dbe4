//! The toolbox: a small file system in a hidden directory of our `/dev`, for what has no place elsewhere.
//!
//! It holds `bin` with the scripts that stand in for tools, `real` with the tools themselves, `sys` with the tree, and `warned`
//! with a file for each device that its users were warned of.

use std::os::fd::OwnedFd;
use std::path::Path;

use uzram_blockdev::StepError;

use super::options::ShimOptions;
use super::overmount;
use super::programs::{kept, real, replaced};
use crate::{Error, detached_mount};

/// Name of the hidden directory: only a look-up in our `/dev` finds it.
pub(super) const HIDDEN: &str = ".uzram";
/// Where the toolbox is.
pub(super) const TOOLBOX: &str = "/dev/.uzram";
/// Where the whole tree is.
pub(super) const TREE: &str = "/dev/.uzram/sys";

/// Makes the toolbox, mounted nowhere yet.
pub(super) fn make(options: &ShimOptions) -> Result<OwnedFd, Error> {
    let toolbox = detached_mount::empty("uzram-toolbox")?;
    let fill = || -> rustix::io::Result<()> {
        for dir in ["bin", "real", "sys", "warned"] {
            overmount::make_dir(&toolbox, Path::new(dir))?;
        }
        for (name, script) in replaced(options) {
            overmount::write(&toolbox, &Path::new("bin").join(name), script, 0o755)?;
        }
        for name in kept(options) {
            if real(name).is_some() {
                overmount::write(&toolbox, &Path::new("real").join(name), b"", 0o755)?;
            }
        }
        Ok(())
    };
    fill().map_err(StepError::at("filling the toolbox"))?;
    Ok(toolbox)
}
