//! What is mounted where in the namespace.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use uzram_blockdev::mounts as mounted;

use super::{Options, overmount, programs};
use crate::inodes::lock;
use crate::{Error, mounts, sys};

/// The toolbox: a directory that only a look-up in our `/dev` finds, for what has no place elsewhere.
pub(super) const HIDDEN: &str = ".uzram";
pub(super) const TOOLBOX: &str = "/dev/.uzram";
/// Where the whole tree is.
const TREE: &str = "/dev/.uzram/sys";

/// Moves the calling thread into a namespace of its own and arranges it with the tree's and `/dev`'s mounts.
pub(super) fn enter(
    made: &Mutex<Option<(OwnedFd, OwnedFd)>>,
    options: &Options,
) -> Result<(), Error> {
    sys::part_from_the_servers().map_err(Error::at("making a mount namespace"))?;
    let (tree, dev) = mine(made)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(Error::at("making all mounts private"))?;
    place_dev(&dev)?;
    let toolbox = programs::toolbox()?;
    mounts::place(&toolbox, Path::new(TOOLBOX))?;
    mounts::place(&tree, Path::new(TREE))?;
    place_sys()?;
    if options.programs {
        programs::place()?;
    }
    if options.modules {
        overmount::offer_module()?;
    }
    Ok(())
}

/// The mounts as this thread's own, whose table of descriptors is another than that of their owner.
fn mine(made: &Mutex<Option<(OwnedFd, OwnedFd)>>) -> Result<(OwnedFd, OwnedFd), Error> {
    let made = lock(made);
    let Some((tree, dev)) = made.as_ref() else {
        return Err(Error::at("taking the mounts")(Errno::BADF));
    };
    let copies = || Ok((tree.try_clone()?, dev.try_clone()?));
    let copies = copies().map_err(Error::at::<std::io::Error>("taking the mounts"))?;
    sys::close_here(&[tree.as_raw_fd(), dev.as_raw_fd()]);
    Ok(copies)
}

/// Puts our `/dev` over the real one, with the real directories and mounts on top. So are sockets and pipes: those of a FUSE
/// file system would be others of the same name.
fn place_dev(dev: &OwnedFd) -> Result<(), Error> {
    use std::os::unix::fs::FileTypeExt;
    let entries = fs::read_dir("/dev").map_err(Error::at("reading /dev"))?;
    let mounts: Vec<_> = mounted().into_iter().map(|mount| mount.at).collect();
    let mut kept = Vec::new();
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let path = entry.path();
        if kind.is_dir() || kind.is_socket() || kind.is_fifo() || mounts.contains(&path) {
            kept.push((mounts::copy(&path)?, path));
        }
    }
    mounts::place(dev, Path::new("/dev"))?;
    for (mount, path) in kept {
        mounts::place(&mount, &path)?;
    }
    Ok(())
}

fn place_sys() -> Result<(), Error> {
    for dir in ["block", "class/block", "dev/block"] {
        let at = Path::new("/sys").join(dir);
        // A kernel without any block device.
        if at.is_dir() {
            place_part(dir, &at)?;
        }
    }
    overmount::ensure_dirs(Path::new("/sys/class"), &["zram-control"])?;
    place_part("class/zram-control", Path::new("/sys/class/zram-control"))?;
    let debug = Path::new("/sys/kernel/debug");
    // A kernel without debugfs.
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
    mounts::place(&mounts::copy(&Path::new(TREE).join(part))?, at)
}
