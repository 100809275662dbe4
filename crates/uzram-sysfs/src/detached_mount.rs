//! Detached mounts: made here and placed later, perhaps by a thread of another mount namespace.
//!
//! A FUSE server's threads belong to the mount namespace that this process started in, so they never look through their own
//! mounts.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use fuser::{BackgroundSession, Config, Filesystem, Session, SessionACL};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use uzram_blockdev::StepError;

use crate::Error;

/// Threads for requests that are answered at once. A `store` takes none of them.
const THREADS: usize = 4;

/// Starts to serve `files`. The caller places the returned mount with [`place`].
pub(crate) fn serve<F: Filesystem>(
    files: F,
    name: &str,
    attributes: MountAttrFlags,
) -> Result<(OwnedFd, BackgroundSession), Error> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let device: File = device.map_err(StepError::at("opening /dev/fuse"))?;
    let mount = || -> rustix::io::Result<OwnedFd> {
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let context = context.as_fd();
        fsconfig_set_string(context, "source", name)?;
        fsconfig_set_string(context, "subtype", "uzram")?;
        fsconfig_set_string(context, "fd", device.as_raw_fd().to_string())?;
        fsconfig_set_string(context, "rootmode", "40755")?;
        fsconfig_set_string(context, "user_id", "0")?;
        fsconfig_set_string(context, "group_id", "0")?;
        fsconfig_set_flag(context, "default_permissions")?;
        fsconfig_set_flag(context, "allow_other")?;
        fsconfig_create(context)?;
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    let mount = mount().map_err(StepError::at(format!("making the FUSE mount {name}")))?;
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let session = Session::from_fd(files, device.into(), SessionACL::All, config)
        .and_then(Session::spawn)
        .map_err(StepError::at(format!("serving the FUSE mount {name}")))?;
    Ok((mount, session))
}

/// Makes an empty tmpfs, mounted nowhere.
pub(crate) fn empty(name: &str) -> Result<OwnedFd, Error> {
    let mount = || -> rustix::io::Result<OwnedFd> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), "source", name)?;
        fsconfig_set_string(context.as_fd(), "mode", "0755")?;
        fsconfig_create(context.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    Ok(mount().map_err(StepError::at(format!("making the tmpfs {name}")))?)
}

/// Copies the mount at `path`, with everything mounted below it, so that it can be placed elsewhere.
pub(crate) fn copy(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let step = format!("copying the mount at {}", path.display());
    Ok(open_tree(CWD, path, flags).map_err(StepError::at(step))?)
}

/// Places a mount that [`serve`], [`empty`] or [`copy`] made.
pub(crate) fn place(mount: &OwnedFd, at: &Path) -> Result<(), Error> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let step = format!("mounting at {}", at.display());
    Ok(move_mount(mount, "", CWD, at, flags).map_err(StepError::at(step))?)
}
