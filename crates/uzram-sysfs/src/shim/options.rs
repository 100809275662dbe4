//! The settings of the shim.

use std::ffi::OsString;

/// What the shim replaces besides the devices.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShimOptions {
    /// Names zram in `/lib/modules/RELEASE/modules.builtin`, where some test suites look for the driver.
    pub modules: bool,
    /// Replaces `modprobe` and its kind.
    pub programs: bool,
    /// Replaces `mkswap` and `swapon` by a script that warns of devices that are not safe as swap.
    pub swap_warning: bool,
    /// See [`Tree::strict`](crate::Tree::strict).
    pub strict: bool,
    /// Variables to add to the command's environment.
    pub env: Vec<(OsString, OsString)>,
}

impl Default for ShimOptions {
    fn default() -> ShimOptions {
        ShimOptions {
            modules: true,
            programs: true,
            swap_warning: true,
            strict: true,
            env: Vec::new(),
        }
    }
}
