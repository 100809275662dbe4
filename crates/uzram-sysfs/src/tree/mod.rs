//! The tree: what it shows and how it is mounted.

mod generic;
mod model;
mod opened;
mod serve;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::BackgroundSession;
use rustix::fs::{CWD, Mode, OFlags, openat, stat};
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use uzram_blockdev::mounts;
use uzram_control::zram::View;

pub use generic::STAND_IN_MAJOR;
pub(crate) use generic::number;
pub(crate) use model::is_zram;
pub(crate) use serve::Files;

use crate::{Error, mounts as making};
use model::Model;

/// zram's interface as files, with the paths that they have below `/sys`:
/// `block/zramN`, `class/zram-control`, `class/block`, `dev/block`, `kernel/debug/zram`, `kernel/debug/zsmalloc`.
pub struct Tree {
    model: Model,
}

/// Mounts the tree of `view` at a directory, which is made if it is not there.
pub fn mount_at(at: &Path, view: Arc<dyn View>, strict: bool) -> Result<Mounted, Error> {
    // A dead server's mount cannot be looked at; it is cleared on mounting.
    if !mounts().iter().any(|mount| mount.at == at) {
        std::fs::create_dir_all(at).map_err(Error::at(format!("making {}", at.display())))?;
    }
    Tree::new(view)?.strict(strict).mount(at)
}

impl Tree {
    /// A tree that shows the view's devices and nothing else.
    pub fn new(view: Arc<dyn View>) -> Result<Tree, Error> {
        Tree::with(view, false)
    }

    /// A tree whose directories of block devices show the real ones, too, apart from the kernel's zram.
    pub(crate) fn merged(view: Arc<dyn View>) -> Result<Tree, Error> {
        Tree::with(view, true)
    }

    fn with(view: Arc<dyn View>, merged: bool) -> Result<Tree, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let sys = openat(CWD, "/sys", flags, Mode::empty()).map_err(Error::at("opening /sys"))?;
        let strict = true;
        Ok(Tree {
            model: Model {
                view,
                sys,
                merged,
                strict,
            },
        })
    }

    /// Whether the files' modes are exactly the kernel's (the default). Otherwise what uzram can show beyond can be read, too.
    pub fn strict(mut self, strict: bool) -> Tree {
        self.model.strict = strict;
        self
    }

    /// Starts to serve it; it is mounted nowhere yet.
    pub(crate) fn serve(self) -> Result<(OwnedFd, BackgroundSession), Error> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        making::serve(Files::new(Arc::new(self.model)), "uzram-sysfs", attributes)
    }

    /// Mounts it at a directory, for all users (the files' modes say who may do what).
    ///
    /// What a dead server left mounted there is cleared; anything else that is mounted there is
    /// [`Error::Occupied`].
    ///
    /// This process is not to use the files itself: one that is killed while it waits for its own answer never ends.
    pub fn mount(self, at: &Path) -> Result<Mounted, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NeedsRoot {
                what: "to mount the tree",
            });
        }
        clear_stale(at)?;
        let at = at
            .canonicalize()
            .map_err(Error::at(format!("looking for {}", at.display())))?;
        if mounts().iter().any(|mount| mount.at == at) {
            return Err(Error::Occupied { at });
        }
        let (mount, session) = self.serve()?;
        making::place(&mount, &at)?;
        let device = device_at(&at);
        Ok(Mounted {
            at,
            device,
            session: Some(session),
        })
    }
}

/// What a server that died left at `at`: every look at it says ENOTCONN.
fn clear_stale(at: &Path) -> Result<(), Error> {
    while matches!(stat(at), Err(rustix::io::Errno::NOTCONN)) {
        unmount(at, UnmountFlags::DETACH).map_err(Error::at(format!(
            "clearing the dead mount at {}",
            at.display()
        )))?;
        tracing::info!(at = %at.display(), "cleared a dead server's mount");
    }
    Ok(())
}

/// `major:minor` of what is mounted on top there.
fn device_at(at: &Path) -> Option<String> {
    let on_top = mounts().into_iter().rev().find(|mount| mount.at == at);
    on_top.map(|mount| mount.device)
}

/// A mounted tree. It is unmounted when this is dropped.
pub struct Mounted {
    at: PathBuf,
    device: Option<String>,
    /// `None` once unmounted.
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// Where.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Unmounts it. Where files of it are open it goes with the last of them, but no path leads to it any more.
    pub fn unmount(mut self) -> Result<(), Error> {
        self.take_off()
    }

    /// Waits until somebody unmounts it.
    pub fn wait(mut self) -> Result<(), Error> {
        let joined = self.session.take().map_or(Ok(()), BackgroundSession::join);
        joined.map_err(Error::at(format!("serving {}", self.at.display())))
    }

    fn take_off(&mut self) -> Result<(), Error> {
        let Some(session) = self.session.take() else {
            return Ok(());
        };
        // Somebody may have unmounted it and mounted another there.
        if self.device.is_none() || device_at(&self.at) != self.device {
            return Ok(());
        }
        let step = || Error::at::<io::Error>(format!("unmounting {}", self.at.display()));
        match unmount(&self.at, UnmountFlags::NOFOLLOW) {
            Ok(()) => session.join().map_err(step()),
            // In use: its server goes on for those who use it.
            Err(rustix::io::Errno::BUSY) => {
                let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                unmount(&self.at, flags).map_err(|errno| step()(errno.into()))
            }
            Err(errno) => Err(step()(errno.into())),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.take_off() {
            tracing::warn!(%error, "the tree stays mounted");
        }
    }
}
