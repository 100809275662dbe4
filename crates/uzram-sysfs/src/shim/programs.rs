//! `modprobe` and its kind for a module `zram` whose devices are the view's.
//!
//! One script stands in for all of them and goes by the name that it is called by. It is first in PATH, and mounted over
//! the real programs for those who call them by a path; the real ones are in a directory of the toolbox, for other modules.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::namespace::TOOLBOX;
use super::{DEFAULT_PATH, overmount};
use crate::{Error, mounts};

const SCRIPT: &[u8] = include_bytes!("kmod.sh");
/// What the script stands in for.
const OURS: &[&str] = &["modprobe", "rmmod", "modinfo", "lsmod"];
/// Other names of the program that is all of these in one.
const SHARED: &[&str] = &["insmod", "depmod", "kmod"];
const DIRS: &[&str] = &["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The toolbox: `bin` with the script, `real` with places for the real programs, `sys` for the tree.
pub(super) fn toolbox() -> Result<OwnedFd, Error> {
    let toolbox = mounts::empty("uzram-toolbox")?;
    let fill = || -> rustix::io::Result<()> {
        for dir in ["bin", "real", "sys"] {
            overmount::make_dir(&toolbox, Path::new(dir))?;
        }
        for name in OURS {
            overmount::write(&toolbox, &Path::new("bin").join(name), SCRIPT, 0o755)?;
        }
        for name in OURS.iter().chain(SHARED).copied() {
            if real(name).is_some() {
                overmount::write(&toolbox, &Path::new("real").join(name), b"", 0o755)?;
            }
        }
        Ok(())
    };
    fill().map_err(Error::at("filling the toolbox"))?;
    Ok(toolbox)
}

/// The real program of that name, links followed.
fn real(name: &str) -> Option<PathBuf> {
    let mut paths = DIRS.iter().map(|dir| Path::new(dir).join(name));
    paths.find_map(|path| path.canonicalize().ok().filter(|path| path.is_file()))
}

/// Puts the real programs aside and the script over them.
pub(super) fn place() -> Result<(), Error> {
    let toolbox = Path::new(TOOLBOX);
    for name in OURS.iter().chain(SHARED).copied() {
        if let Some(path) = real(name) {
            mounts::place(&mounts::copy(&path)?, &toolbox.join("real").join(name))?;
        }
    }
    let paths = DIRS
        .iter()
        .flat_map(|dir| OURS.iter().map(move |name| Path::new(dir).join(name)));
    let found: BTreeSet<PathBuf> = paths.filter_map(|path| path.canonicalize().ok()).collect();
    for path in found {
        // A program that is more than these (busybox) is left alone.
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if OURS.contains(&name) || name == "kmod" {
            mounts::place(&mounts::copy(&toolbox.join("bin/modprobe"))?, &path)?;
        }
    }
    Ok(())
}

/// PATH with the script first.
pub(super) fn path(outside: Option<&OsStr>) -> OsString {
    let mut path = OsString::from(TOOLBOX);
    path.push("/bin:");
    path.push(outside.unwrap_or(OsStr::new(DEFAULT_PATH)));
    path
}
