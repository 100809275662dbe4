//! Replaces programs by scripts: `modprobe` and its kind by one for a module `zram` whose devices are the view's, `mkswap` and
//! `swapon` by one that warns.
//!
//! A script acts by the name that it is called by. It comes first in PATH, and is mounted over the real programs for callers
//! that name a path. The real programs are kept in the toolbox.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::options::ShimOptions;
use crate::{Error, detached_mount};

const KMOD: &[u8] = include_bytes!("kmod.sh");
const SWAP: &[u8] = include_bytes!("swap.sh");
/// The programs that the script for modules replaces.
const MODULE_TOOLS: &[&str] = &["modprobe", "rmmod", "modinfo", "lsmod"];
/// Other names of kmod, the one program behind all of them.
const OTHER_TOOLS: &[&str] = &["insmod", "depmod", "kmod"];
/// The programs that the script for swap replaces.
const SWAP_TOOLS: &[&str] = &["mkswap", "swapon"];
/// The search path where none is set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DIRS: &[&str] = &["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The programs that are replaced, each with its script.
pub(super) fn replaced(
    options: &ShimOptions,
) -> impl Iterator<Item = (&'static str, &'static [u8])> {
    let of = |wanted: bool, tools: &'static [&str], script: &'static [u8]| {
        let tools = tools.iter().filter(move |_| wanted);
        tools.map(move |name| (*name, script))
    };
    of(options.programs, MODULE_TOOLS, KMOD).chain(of(options.swap_warning, SWAP_TOOLS, SWAP))
}

/// The programs that are kept in the toolbox.
pub(super) fn kept(options: &ShimOptions) -> impl Iterator<Item = &'static str> {
    let others = OTHER_TOOLS.iter().copied();
    let others = others.filter(|_| options.programs);
    replaced(options).map(|(name, _)| name).chain(others)
}

/// Finds the real program of that name, with links resolved.
pub(super) fn real(name: &str) -> Option<PathBuf> {
    let mut paths = DIRS.iter().map(|dir| Path::new(dir).join(name));
    paths.find_map(|path| path.canonicalize().ok().filter(|path| path.is_file()))
}

/// Moves the real programs into the toolbox and mounts the scripts over them.
pub(super) fn place(toolbox: &Path, options: &ShimOptions) -> Result<(), Error> {
    for name in kept(options) {
        if let Some(path) = real(name) {
            let aside = toolbox.join("real").join(name);
            detached_mount::place(&detached_mount::copy(&path)?, &aside)?;
        }
    }
    let mut found = BTreeMap::new();
    for (name, _) in replaced(options) {
        let paths = DIRS.iter().map(|dir| Path::new(dir).join(name));
        for path in paths.filter_map(|path| path.canonicalize().ok()) {
            // Leaves alone a program that does more than these, such as busybox.
            let real = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if real == name || real == "kmod" || replaced(options).any(|(other, _)| other == real) {
                found.insert(path, name);
            }
        }
    }
    for (path, name) in found {
        let script = detached_mount::copy(&toolbox.join("bin").join(name))?;
        detached_mount::place(&script, &path)?;
    }
    Ok(())
}

/// Puts the script first in a search path.
pub(super) fn search_path(toolbox: &Path, outside: Option<&OsStr>) -> OsString {
    let mut path = toolbox.join("bin").into_os_string();
    path.push(":");
    path.push(outside.unwrap_or(OsStr::new(DEFAULT_PATH)));
    path
}
