//! The tree: how it is made, mounted and unmounted.

mod block_attributes;
mod filesystem;
mod layout;
mod open_file;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::BackgroundSession;
use rustix::fs::{CWD, Mode, OFlags, openat, stat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use uzram_blockdev::{StepError, is_mount_point, mounts};
use uzram_control::zram::View;

pub use block_attributes::STAND_IN_MAJOR;
pub(crate) use block_attributes::number;
pub(crate) use layout::is_zram;

use crate::{Error, detached_mount};
use filesystem::TreeFilesystem;

use crate::fuse::Fuse;
use layout::TreeLayout;

/// zram's interface as files, under the paths that they have below `/sys`:
/// `block/zramN`, `class/zram-control`, `class/block`, `dev/block`, `kernel/debug/zram`, `kernel/debug/zsmalloc`.
pub struct Tree {
    layout: TreeLayout,
}

/// Mounts the tree of `view` on a directory, which is made if it is absent.
pub fn mount_at(at: &Path, view: Arc<dyn View>, strict: bool) -> Result<Mounted, Error> {
    // A dead server's mount cannot be accessed; mounting clears it.
    if !is_mount_point(at) {
        let step = format!("making {}", at.display());
        std::fs::create_dir_all(at).map_err(StepError::at(step))?;
    }
    Tree::new(view)?.strict(strict).mount(at)
}

impl Tree {
    /// Makes a tree that shows the view's devices and nothing else.
    pub fn new(view: Arc<dyn View>) -> Result<Tree, Error> {
        Tree::with(view, false)
    }

    /// Makes a tree whose directories of block devices also show the real ones, without the kernel's zram.
    pub(crate) fn merged(view: Arc<dyn View>) -> Result<Tree, Error> {
        Tree::with(view, true)
    }

    fn with(view: Arc<dyn View>, merged: bool) -> Result<Tree, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let sys =
            openat(CWD, "/sys", flags, Mode::empty()).map_err(StepError::at("opening /sys"))?;
        let strict = true;
        Ok(Tree {
            layout: TreeLayout {
                view,
                sys,
                merged,
                strict,
            },
        })
    }

    /// Sets whether the files' modes are exactly the kernel's (the default). Otherwise more attributes can be read.
    pub fn strict(mut self, strict: bool) -> Tree {
        self.layout.strict = strict;
        self
    }

    /// Starts to serve the tree, which is mounted nowhere yet.
    pub(crate) fn serve(self) -> Result<(OwnedFd, BackgroundSession), Error> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        let files = Fuse::new(TreeFilesystem::new(Arc::new(self.layout)));
        detached_mount::serve(files, "uzram-sysfs", attributes)
    }

    /// Mounts the tree on a directory, for all users: the files' modes decide who may do what.
    ///
    /// Clears a dead server's mount there. Anything else that is mounted there is [`Error::Occupied`].
    ///
    /// This process must not use the files itself: killed while it waits for its own answer, it would never end.
    pub fn mount(self, at: &Path) -> Result<Mounted, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NeedsRoot {
                what: "to mount the tree",
            });
        }
        clear_stale(at)?;
        let at = at
            .canonicalize()
            .map_err(StepError::at(format!("looking for {}", at.display())))?;
        if is_mount_point(&at) {
            return Err(Error::Occupied { at });
        }
        let (mount, session) = self.serve()?;
        detached_mount::place(&mount, &at)?;
        let device = device_at(&at);
        Ok(Mounted {
            at,
            device,
            session: Some(session),
        })
    }
}

/// Unmounts what a dead server left at `at`, where every access fails with ENOTCONN.
fn clear_stale(at: &Path) -> Result<(), Error> {
    while matches!(stat(at), Err(Errno::NOTCONN)) {
        unmount(at, UnmountFlags::DETACH).map_err(StepError::at(format!(
            "clearing the dead mount at {}",
            at.display()
        )))?;
        tracing::info!(at = %at.display(), "cleared a dead server's mount");
    }
    Ok(())
}

/// `major:minor` of the topmost mount at `at`.
fn device_at(at: &Path) -> Option<String> {
    let on_top = mounts().into_iter().rev().find(|mount| mount.path == at);
    on_top.map(|mount| mount.device)
}

/// A mounted tree. Dropping it unmounts the tree.
pub struct Mounted {
    at: PathBuf,
    device: Option<String>,
    /// `None` once unmounted.
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// The directory on which it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Unmounts the tree. While files of it are open it lives on without a path.
    pub fn unmount(mut self) -> Result<(), Error> {
        self.unmount_now()
    }

    /// Waits until somebody unmounts the tree.
    pub fn wait(mut self) -> Result<(), Error> {
        let joined = self.session.take().map_or(Ok(()), BackgroundSession::join);
        Ok(joined.map_err(StepError::at(format!("serving {}", self.at.display())))?)
    }

    fn unmount_now(&mut self) -> Result<(), Error> {
        let Some(session) = self.session.take() else {
            return Ok(());
        };
        // Somebody may have unmounted it and mounted another there.
        if self.device.is_none() || device_at(&self.at) != self.device {
            return Ok(());
        }
        let step = format!("unmounting {}", self.at.display());
        let unmounted = match unmount(&self.at, UnmountFlags::NOFOLLOW) {
            Ok(()) => {
                // Where the connection was cut, how the session ended says nothing of the mount.
                if let Err(error) = session.join() {
                    tracing::info!(%error, "the FUSE session had ended before its mount");
                }
                Ok(())
            }
            // In use: its server goes on for its users.
            Err(Errno::BUSY) => {
                let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                unmount(&self.at, flags)
            }
            Err(errno) => Err(errno),
        };
        Ok(unmounted.map_err(StepError::at(step))?)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount_now() {
            tracing::warn!(%error, "the tree stays mounted");
        }
    }
}
