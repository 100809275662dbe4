//! Replaces `modprobe` and its kind by a script for a module `zram` whose devices are the view's.
//!
//! One script replaces all of them and acts by the name that it is called by. It comes first in PATH, and is mounted over the
//! real programs for callers that name a path. The real programs are kept in the toolbox, for other modules.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::{Error, detached_mount};

pub(super) const SCRIPT: &[u8] = include_bytes!("kmod.sh");
/// The programs that the script replaces.
pub(super) const TOOLS: &[&str] = &["modprobe", "rmmod", "modinfo", "lsmod"];
/// Other names of kmod, the one program behind all of them.
const OTHER_TOOLS: &[&str] = &["insmod", "depmod", "kmod"];
/// The search path where none is set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DIRS: &[&str] = &["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// All names of kmod.
pub(super) fn all_tools() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().chain(OTHER_TOOLS).copied()
}

/// Finds the real program of that name, with links resolved.
pub(super) fn real(name: &str) -> Option<PathBuf> {
    let mut paths = DIRS.iter().map(|dir| Path::new(dir).join(name));
    paths.find_map(|path| path.canonicalize().ok().filter(|path| path.is_file()))
}

/// Moves the real programs into the toolbox and mounts the script over them.
pub(super) fn place(toolbox: &Path) -> Result<(), Error> {
    for name in all_tools() {
        if let Some(path) = real(name) {
            let aside = toolbox.join("real").join(name);
            detached_mount::place(&detached_mount::copy(&path)?, &aside)?;
        }
    }
    let paths = DIRS
        .iter()
        .flat_map(|dir| TOOLS.iter().map(move |name| Path::new(dir).join(name)));
    let found: BTreeSet<PathBuf> = paths.filter_map(|path| path.canonicalize().ok()).collect();
    for path in found {
        // Leaves alone a program that does more than these, such as busybox.
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if TOOLS.contains(&name) || name == "kmod" {
            let script = detached_mount::copy(&toolbox.join("bin/modprobe"))?;
            detached_mount::place(&script, &path)?;
        }
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
