//! [`FuseLoop`] as a frontend: `fuse-loop`.
//!
//! The kernel ends a FUSE connection with its server, and a loop device's file cannot be changed. So a new server makes a new
//! mount and loop device with the same contents. Whoever mounted the old node gets I/O errors there.

use std::fs::File;
use std::path::{Path, PathBuf};

use uzram_frontend::{
    Front, Frontend, FrontendOption, Handover, NUMBER, Need, ReservedNode, Serving,
    kind_of_missing, kind_of_node,
};
use uzram_spec::{Failure, FailureKind, Result};

use crate::{Error, FuseLoop, LoopNumber};

/// The frontend `fuse-loop`.
pub struct FuseLoopFrontend;

/// Directory of the FUSE mount in a device's directory.
fn mount_dir(dir: &Path) -> PathBuf {
    dir.join("mnt")
}

fn serve(serving: &Serving<'_>, number: Option<u32>) -> Result<Box<dyn Front>> {
    let dir = mount_dir(serving.dir);
    let front = FuseLoop::create(serving.device.clone(), serving.name, &dir, number)?;
    Ok(Box::new(front))
}

impl Frontend for FuseLoopFrontend {
    fn name(&self) -> &'static str {
        "fuse-loop"
    }

    fn about(&self) -> &'static str {
        "/dev/loopN, on a file on a private FUSE mount"
    }

    fn options(&self) -> &'static [FrontendOption] {
        &[NUMBER]
    }

    fn handover(&self) -> Handover {
        Handover::Replaced
    }

    fn probe(&self) -> std::result::Result<(), Need> {
        crate::probe().map_err(Need::new)
    }

    fn start(&self, serving: &Serving<'_>) -> Result<Box<dyn Front>> {
        serve(serving, serving.spec.small(NUMBER.name))
    }

    fn resume(&self, serving: &Serving<'_>, old: &str) -> Result<Box<dyn Front>> {
        let dir = mount_dir(serving.dir);
        if let Err(error) = crate::clear_stale(&dir) {
            // Its user must unmount it. The contents are behind the new node.
            tracing::warn!("{old} is dead and stays until its user lets go: {error}");
            crate::abandon(&dir)?;
        }
        // The old number if it is free, otherwise another.
        self.start(serving).or_else(|_| serve(serving, None))
    }

    fn clear(&self, dir: &Path) -> std::result::Result<Vec<String>, String> {
        crate::clear_stale(&mount_dir(dir)).map_err(|error| error.to_string())
    }

    fn reserves_nodes(&self) -> bool {
        true
    }

    fn reserve(&self, number: Option<u32>) -> Option<Box<dyn ReservedNode>> {
        // Without the loop driver the device has no node before it is initialised.
        let kept = LoopNumber::reserve(number).ok()?;
        Some(Box::new(kept))
    }
}

impl ReservedNode for LoopNumber {
    fn number(&self) -> u32 {
        LoopNumber::number(self)
    }

    fn rdev(&self) -> (u32, u32) {
        LoopNumber::rdev(self)
    }
}

impl Front for FuseLoop {
    fn path(&self) -> String {
        self.node().display().to_string()
    }

    fn resume_word(&self) -> String {
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
        // Opens the node exclusively while it detaches it.
        Ok(FuseLoop::remove(self)?)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            Error::Node(error) => kind_of_node(error),
            Error::Taken { .. } => FailureKind::Busy,
            Error::Unavailable { .. } | Error::NeedsRoot | Error::NoDirectIo { .. } => {
                FailureKind::Impossible
            }
            Error::NoneFree { .. } => FailureKind::Failed,
            Error::System(step) => kind_of_missing(&step.source),
        };
        Failure::new(kind, error)
    }
}
