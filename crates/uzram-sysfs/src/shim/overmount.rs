//! Adds entries to directories that cannot get any: mounts a tmpfs over the directory, and the directory's own entries one by
//! one on top.
//!
//! Those entries stay live. An entry that appears in the directory itself later does not show, and what is made there goes
//! with the namespace.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;

use uzram_blockdev::StepError;

use crate::{Error, detached_mount};

/// The line that says that zram is built into the kernel.
const BUILTIN: &str = "kernel/drivers/block/zram/zram.ko";
/// Most entries of a directory that are mounted again.
const MOST_ENTRIES: usize = 4096;

/// Makes directories of these names in `dir`, unless all exist.
pub(super) fn ensure_dirs(dir: &Path, names: &[&str]) -> Result<(), Error> {
    if names.iter().all(|name| dir.join(name).is_dir()) {
        return Ok(());
    }
    overmount(dir, |over| {
        for name in names {
            make_dir(over, Path::new(name))?;
        }
        Ok(())
    })
}

/// Makes `/lib/modules/RELEASE/modules.builtin` name zram.
pub(super) fn offer_module() -> Result<(), Error> {
    let release = rustix::system::uname();
    let release = Path::new(std::ffi::OsStr::from_bytes(release.release().to_bytes()));
    let dir = Path::new("/lib/modules").join(release);
    let names_it =
        |name: &str| fs::read_to_string(dir.join(name)).is_ok_and(|text| text.contains("/zram.ko"));
    if names_it("modules.builtin") || names_it("modules.dep") {
        return Ok(());
    }
    let mut text = fs::read_to_string(dir.join("modules.builtin")).unwrap_or_default();
    text.push_str(BUILTIN);
    text.push('\n');
    // The nearest directory that exists.
    let Some(base) = dir.ancestors().find(|path| path.is_dir()) else {
        return Ok(());
    };
    let Ok(rest) = dir.strip_prefix(base) else {
        return Ok(());
    };
    let base = base
        .canonicalize()
        .map_err(StepError::at(format!("looking for {}", base.display())))?;
    if base == Path::new("/") {
        tracing::debug!("there is no /lib in which to name the module zram");
        return Ok(());
    }
    overmount(&base, |over| {
        let mut at = PathBuf::new();
        for part in rest {
            at.push(part);
            make_dir(over, &at)?;
        }
        write(over, &at.join("modules.builtin"), text.as_bytes(), 0o644)
    })
}

/// Mounts a tmpfs over `dir`, with what `add` makes in it and every entry of the directory that `add` did not make.
fn overmount(
    dir: &Path,
    add: impl FnOnce(&OwnedFd) -> rustix::io::Result<()>,
) -> Result<(), Error> {
    let step = || format!("mounting over {}", dir.display());
    let over = detached_mount::empty("uzram-over")?;
    add(&over).map_err(StepError::at(step()))?;
    let entries = fs::read_dir(dir).map_err(StepError::at(step()))?;
    let mut kept = Vec::new();
    for entry in entries.flatten().take(MOST_ENTRIES) {
        let (path, name) = (entry.path(), PathBuf::from(entry.file_name()));
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let made = if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(StepError::at(step()))?;
            match symlinkat(&target, &over, &name) {
                Ok(()) | Err(Errno::EXIST) => continue,
                Err(errno) => Err(errno),
            }
        } else if kind.is_dir() {
            mkdirat(&over, &name, Mode::from_raw_mode(0o755))
        } else {
            write(&over, &name, b"", 0o644)
        };
        match made {
            Ok(()) => kept.push((detached_mount::copy(&path)?, path)),
            // `add` made one of that name.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(StepError::at(step())(errno).into()),
        }
    }
    detached_mount::place(&over, dir)?;
    for (mount, path) in kept {
        detached_mount::place(&mount, &path)?;
    }
    Ok(())
}

pub(super) fn make_dir(under: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
    match mkdirat(under, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Makes a file with that content. EEXIST: it exists.
pub(super) fn write(
    under: &OwnedFd,
    path: &Path,
    content: &[u8],
    mode: u32,
) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(under, path, flags, Mode::from_raw_mode(0o600))?;
    let mut rest = content;
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&file, rest)?..];
    }
    // Set afterwards, so that the process's umask does not matter.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
}
