//! Arranges the mounts of the shim's namespace.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use uzram_blockdev::StepError;

use super::options::ShimOptions;
use super::toolbox::{self, TOOLBOX, TREE};
use super::{overmount, programs};
use crate::inodes::lock;
use crate::{Error, detached_mount, sys};

/// Moves the calling thread into a namespace of its own and arranges the mounts of the tree and `/dev` there.
pub(super) fn enter(
    made: &Mutex<Option<(OwnedFd, OwnedFd)>>,
    options: &ShimOptions,
) -> Result<(), Error> {
    sys::part_from_the_servers().map_err(StepError::at("making a mount namespace"))?;
    let (tree, dev) = mine(made)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(StepError::at("making all mounts private"))?;
    place_dev(&dev)?;
    detached_mount::place(&toolbox::make(options)?, Path::new(TOOLBOX))?;
    detached_mount::place(&tree, Path::new(TREE))?;
    place_sys()?;
    programs::place(Path::new(TOOLBOX), options)?;
    if options.modules {
        overmount::offer_module()?;
    }
    Ok(())
}

/// Duplicates the mounts' descriptors for this thread, whose table of descriptors is not their owner's.
fn mine(made: &Mutex<Option<(OwnedFd, OwnedFd)>>) -> Result<(OwnedFd, OwnedFd), Error> {
    let made = lock(made);
    let Some((tree, dev)) = made.as_ref() else {
        return Err(StepError::at("taking the mounts")(Errno::BADF).into());
    };
    let copies = || Ok((tree.try_clone()?, dev.try_clone()?));
    let copies = copies().map_err(StepError::at::<std::io::Error>("taking the mounts"))?;
    sys::close_here(&[tree.as_raw_fd(), dev.as_raw_fd()]);
    Ok(copies)
}

/// Mounts our `/dev` over the real one, and the real directories and mounts on top of it. Sockets and pipes as well: through
/// FUSE they would be others of the same name.
fn place_dev(dev: &OwnedFd) -> Result<(), Error> {
    use std::os::unix::fs::FileTypeExt;
    let entries = fs::read_dir("/dev").map_err(StepError::at("reading /dev"))?;
    let mounts = uzram_blockdev::mounts().into_iter();
    let mounts: Vec<_> = mounts.map(|mount| mount.path).collect();
    let mut kept = Vec::new();
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let path = entry.path();
        if kind.is_dir() || kind.is_socket() || kind.is_fifo() || mounts.contains(&path) {
            kept.push((detached_mount::copy(&path)?, path));
        }
    }
    detached_mount::place(dev, Path::new("/dev"))?;
    for (mount, path) in kept {
        detached_mount::place(&mount, &path)?;
    }
    Ok(())
}

/// Mounts the parts of the tree over their directories in `/sys`.
fn place_sys() -> Result<(), Error> {
    for dir in ["block", "class/block", "dev/block"] {
        let at = Path::new("/sys").join(dir);
        // Absent in a kernel without block devices.
        if at.is_dir() {
            place_part(dir, &at)?;
        }
    }
    overmount::ensure_dirs(Path::new("/sys/class"), &["zram-control"])?;
    place_part("class/zram-control", Path::new("/sys/class/zram-control"))?;
    let debug = Path::new("/sys/kernel/debug");
    // Absent in a kernel without debugfs.
    if !debug.is_dir() {
        return Ok(());
    }
    let is_empty = fs::read_dir(debug).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty {
        return place_part("kernel/debug", debug);
    }
    overmount::ensure_dirs(debug, &["zram", "zsmalloc"])?;
    for name in ["zram", "zsmalloc"] {
        place_part(&format!("kernel/debug/{name}"), &debug.join(name))?;
    }
    Ok(())
}

fn place_part(part: &str, at: &Path) -> Result<(), Error> {
    detached_mount::place(&detached_mount::copy(&Path::new(TREE).join(part))?, at)
}
