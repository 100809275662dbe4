//! What a server that died left behind: its loop devices, its mount, its directory.

use std::fs;
use std::path::Path;

use rustix::mount::UnmountFlags;
use uzram_blockdev::{StepError, is_mount_point};

use crate::filesystem::FILE_NAME;
use crate::{Error, loopdev};

/// Clears what a server that died left of a [`FuseLoop`](crate::FuseLoop) at `dir`: loop devices on its file, the dead
/// mount, the directory. Returns in words what was cleared.
///
/// [`Error::Node`] where something is still mounted on the loop device. Its data is lost, but unmounting it is up to its
/// user.
pub fn clear_stale(dir: &Path) -> Result<Vec<String>, Error> {
    let mut cleared = Vec::new();
    let file = dir.join(FILE_NAME);
    for node in loopdev::on_file(&file) {
        loopdev::detach(&node, &file)?;
        cleared.push(format!("loop device {}", node.display()));
    }
    if detach_mount(dir)? {
        cleared.push(format!("mount {}", dir.display()));
    }
    let _ = fs::remove_dir(dir);
    Ok(cleared)
}

/// Frees `dir` for another mount while loop devices on a dead server's file are still in use. From now on these fail every
/// request; each goes with its last user.
pub fn abandon(dir: &Path) -> Result<(), Error> {
    for node in loopdev::on_file(&dir.join(FILE_NAME)) {
        loopdev::detach_with_last_user(&node)?;
    }
    detach_mount(dir).map(drop)
}

/// Detaches a dead server's FUSE mount from `dir`. Returns whether there was one.
fn detach_mount(dir: &Path) -> Result<bool, Error> {
    let mut found = false;
    while is_mount_point(dir) {
        rustix::mount::unmount(dir, UnmountFlags::DETACH)
            .map_err(StepError::at(format!("unmounting {}", dir.display())))?;
        found = true;
    }
    Ok(found)
}
