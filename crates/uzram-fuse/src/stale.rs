//! What servers that died left behind: their loop devices, mounts, directories.
//!
//! Each server mounts at a directory of its own in the device's directory, `mnt-ID`, and its file is `disk-ID`, with an ID
//! that is never used again. Thus the name of the file behind a loop device tells whose it is, also where two mount
//! namespaces have directories of the same path, and after the mount is gone from all tables. The directory stays as long
//! as a dead node of that ID may be in use.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;
use uzram_blockdev::{Error as NodeError, Node, StepError, Survey, is_mount_point};

use crate::{Error, loopdev, uring};

/// What the names of mount directories begin with. A device of uzram 0.2 has one of just this name.
const PREFIX: &str = "mnt";

/// The file on the FUSE mount at `at`: `disk-ID` for `mnt-ID`, else `disk`.
pub(crate) fn disk_file(at: &Path) -> PathBuf {
    let name = at.file_name().and_then(|name| name.to_str());
    let id = name.and_then(|name| name.strip_prefix(PREFIX)?.strip_prefix('-'));
    at.join(id.map_or_else(|| "disk".into(), |id| format!("disk-{id}")))
}

/// Makes a directory to mount at in a device's directory, whose name nobody had before.
pub fn new_mount_dir(dir: &Path) -> Result<PathBuf, Error> {
    let mut random = [0u8; 8];
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut random, flags).map_err(StepError::at("asking for randomness"))?;
    let path = dir.join(format!("{PREFIX}-{:016x}", u64::from_ne_bytes(random)));
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path);
    made.map_err(StepError::at(format!("making {}", path.display())))?;
    Ok(path)
}

/// Whether servers mount at directories of this name.
pub(crate) fn is_mount_dir(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// The directories that servers of a device mounted at. Looks at none, since its server may be dead.
fn mount_dirs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| {
            entry.file_name().to_str().is_some_and(is_mount_dir)
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// The nodes of the device at `dir`: the one that is served, and those that servers left when they died and that are still
/// there.
pub fn nodes(dir: &Path, survey: &Survey) -> Vec<Node> {
    let files: Vec<PathBuf> = mount_dirs(dir).iter().map(|at| disk_file(at)).collect();
    let is_ours = |behind: &Path| files.iter().any(|file| loopdev::is_file(behind, file));
    let loops = survey.loops().filter(|(_, behind)| is_ours(behind));
    loops.map(|(node, _)| node).collect()
}

/// Clears what servers that died left of the device at `dir`: loop devices, dead mounts, their directories. Returns in
/// words what was cleared.
///
/// [`Error::Node`] where something still uses one of the loop devices; then nothing was cleared. Its data is lost, but
/// unmounting it is up to its user.
pub fn clear_stale(dir: &Path) -> Result<Vec<String>, Error> {
    uring::restore(dir);
    let mut held = Vec::new();
    for at in mount_dirs(dir) {
        let file = disk_file(&at);
        for node in loopdev::on_file(&file) {
            if let Some(device) = loopdev::open_exclusive(&node, &file)? {
                held.push((device, node, file.clone()));
            }
        }
    }
    let mut cleared = Vec::new();
    for (device, node, file) in held {
        loopdev::release(device, &node, &file)?;
        cleared.push(format!("loop device {}", node.display()));
    }
    for at in mount_dirs(dir) {
        if detach_mount(&at)? {
            cleared.push(format!("mount {}", at.display()));
        }
        let _ = fs::remove_dir(&at);
    }
    Ok(cleared)
}

/// Clears what dead servers left, but keeps nodes that are still in use: they fail every request, and each goes with its
/// last user. Their mounts go, since a program that looks at every mount or loop device fails at a dead one; their
/// directories stay, so that [`nodes`] knows them. Returns the nodes that stay.
pub fn set_aside(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    uring::restore(dir);
    let mut kept = Vec::new();
    for at in mount_dirs(dir) {
        let file = disk_file(&at);
        let before = kept.len();
        for node in loopdev::on_file(&file) {
            match loopdev::detach(&node, &file) {
                Ok(()) => {}
                Err(error @ Error::Node(NodeError::Busy { .. })) => {
                    tracing::warn!("a dead node stays until its user lets go: {error}");
                    loopdev::detach_with_last_user(&node)?;
                    kept.push(node);
                }
                Err(error) => return Err(error),
            }
        }
        detach_mount(&at)?;
        if kept.len() == before {
            let _ = fs::remove_dir(&at);
        }
    }
    Ok(kept)
}

/// Forgets what dead servers left: nodes that are in use go with their last user, directories go now.
pub fn abandon(dir: &Path) -> Result<(), Error> {
    set_aside(dir)?;
    for at in mount_dirs(dir) {
        let removed = fs::remove_dir(&at);
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        if let Err(error) = removed.as_ref()
            && !gone(error)
        {
            removed.map_err(StepError::at(format!("removing {}", at.display())))?;
        }
    }
    Ok(())
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
