//! A loop device on a private FUSE mount.
//!
//! The kernel ends a FUSE connection with its server, and a loop device's file cannot be changed: a new server makes
//! a new mount and loop device with the same contents, while whoever had mounted the old node sees I/O errors there.

use std::fs::File;
use std::path::{Path, PathBuf};

use uzram_fuse::FuseLoop;

use super::{Context, Front, Kind};
use crate::exit::Result;

pub(super) const KIND: Kind = Kind {
    name: "fuse-loop",
    about: "/dev/loopN, on a file on a private FUSE mount",
    swap: false,
    probe: || uzram_fuse::probe().map_err(|error| error.to_string()),
    start: |context| serve(context, context.settings.number),
    resume: |context, old| {
        let dir = mount_dir(&context.claim.dir);
        match uzram_fuse::clear_stale(&dir) {
            Ok(_) => {}
            // Its user has to unmount it; the contents are behind the new node.
            Err(error) => {
                tracing::warn!("{old} is dead and stays until its user lets go: {error}");
                uzram_fuse::abandon(&dir)?;
            }
        }
        // The old number, if its user let go of it.
        serve(context, context.settings.number).or_else(|_| serve(context, None))
    },
    clear: |dir| uzram_fuse::clear_stale(&mount_dir(dir)).map_err(|error| error.to_string()),
};

/// Where a device's FUSE mount is, in its directory.
fn mount_dir(dir: &Path) -> PathBuf {
    dir.join("mnt")
}

fn serve(context: &Context<'_>, number: Option<u32>) -> Result<Box<dyn Front>> {
    let claim = context.claim;
    let dir = mount_dir(&claim.dir);
    let front = FuseLoop::create(context.device.clone(), &claim.name, &dir, number)?;
    Ok(Box::new(front))
}

impl Front for FuseLoop {
    fn path(&self) -> String {
        self.node().display().to_string()
    }

    fn resume(&self) -> String {
        self.path()
    }

    fn hold_idle(&self) -> Result<Option<File>> {
        Ok(self.exclusive()?)
    }

    fn can_resize(&self) -> Result {
        Ok(())
    }

    fn resized(&mut self) -> Result {
        Ok(FuseLoop::resized(self)?)
    }

    fn remove(&mut self) -> Result {
        // Holds the node itself while it detaches it.
        Ok(FuseLoop::remove(self)?)
    }
}
