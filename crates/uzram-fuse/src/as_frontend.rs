//! [`FuseLoop`] as a frontend: `fuse-loop`.
//!
//! The kernel ends a FUSE connection with its server, and a loop device's file cannot be changed. So a new server makes a new
//! mount and loop device with the same contents. Whoever mounted the old node gets I/O errors there.

use std::fs::File;
use std::path::{Path, PathBuf};

use uzram_blockdev::{Node, Survey, Users};
use uzram_frontend::{
    BLOCK_DEVICE, CapabilitySet, Front, Frontend, FrontendOption, Handover, NUMBER, Need, PARTSCAN,
    ReservedNode, Serving, check_dead, kind_of_missing, kind_of_node, users_of_dead, words_of_dead,
};
use uzram_spec::{Failure, FailureKind, FrontendSpec, Result};

use crate::{Error, FuseLoop, LoopNumber, LoopOptions};

/// The frontend `fuse-loop`.
pub struct FuseLoopFrontend;

/// A device with its living node, and what dead servers may have left of it.
struct LoopFront {
    front: FuseLoop,
    /// The device's directory.
    dir: PathBuf,
}

fn serve(serving: &Serving<'_>, number: Option<u32>) -> Result<Box<dyn Front>> {
    let at = crate::new_mount_dir(serving.dir)?;
    let options = LoopOptions {
        number,
        partscan: serving.spec.flag(PARTSCAN.name),
    };
    let front = FuseLoop::create(serving.device.clone(), serving.name, &at, &options);
    let front = front.inspect_err(|_| {
        let _ = std::fs::remove_dir(&at);
    })?;
    Ok(Box::new(LoopFront {
        front,
        dir: serving.dir.into(),
    }))
}

impl Frontend for FuseLoopFrontend {
    fn name(&self) -> &'static str {
        "fuse-loop"
    }

    fn about(&self) -> &'static str {
        "/dev/loopN, on a file on a private FUSE mount"
    }

    fn options(&self) -> &'static [FrontendOption] {
        &[NUMBER, PARTSCAN]
    }

    fn handover(&self) -> Handover {
        Handover::Replaced
    }

    /// Where there is no devtmpfs it makes the node itself.
    fn capabilities(&self, _spec: &FrontendSpec) -> CapabilitySet {
        BLOCK_DEVICE | CapabilitySet::MKNOD
    }

    fn probe(&self) -> std::result::Result<(), Need> {
        crate::probe().map_err(Need::new)
    }

    fn start(&self, serving: &Serving<'_>) -> Result<Box<dyn Front>> {
        serve(serving, serving.spec.small(NUMBER.name))
    }

    fn resume(&self, serving: &Serving<'_>, old: &str) -> Result<Box<dyn Front>> {
        for node in crate::set_aside(serving.dir)? {
            let node = node.display();
            // Its user must unmount it. The contents are behind the new node.
            tracing::warn!("{old} is replaced: {node} is dead and stays until its user lets go");
        }
        // The old number if it is free, otherwise another.
        self.start(serving).or_else(|_| serve(serving, None))
    }

    fn clear(&self, dir: &Path) -> std::result::Result<Vec<String>, String> {
        crate::clear_stale(dir).map_err(|error| error.to_string())
    }

    fn clear_by_force(&self, dir: &Path) -> std::result::Result<Vec<String>, String> {
        let left = crate::set_aside(dir).map_err(|error| error.to_string())?;
        crate::abandon(dir).map_err(|error| error.to_string())?;
        let word = |node: &PathBuf| {
            let node = node.display();
            format!("all but {node}, which goes with its last user")
        };
        Ok(left.iter().map(word).collect())
    }

    fn nodes(&self, dir: &Path, survey: &Survey) -> Option<Vec<Node>> {
        Some(crate::nodes(dir, survey))
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

impl LoopFront {
    /// Who still uses nodes that dead servers left.
    fn dead_users(&self) -> Users {
        users_of_dead(|survey| {
            let mut nodes = crate::nodes(&self.dir, survey);
            nodes.retain(|node| node.path != self.front.node());
            nodes
        })
    }

    fn check_dead(&self) -> Result {
        check_dead(self.front.node(), self.dead_users())
    }
}

impl Front for LoopFront {
    fn path(&self) -> String {
        self.front.node().display().to_string()
    }

    fn resume_word(&self) -> String {
        self.path()
    }

    fn hold_idle(&self) -> Result<Option<File>> {
        self.check_dead()?;
        Ok(self.front.exclusive()?)
    }

    fn can_resize(&self) -> Result {
        Ok(())
    }

    fn resized(&mut self) -> Result {
        Ok(self.front.resized()?)
    }

    fn remove(&mut self) -> Result {
        self.check_dead()?;
        // Opens the node exclusively while it detaches it.
        self.front.remove()?;
        if let Err(error) = crate::clear_stale(&self.dir) {
            tracing::warn!("left behind: {error}");
            crate::abandon(&self.dir)?;
        }
        Ok(())
    }

    fn remove_by_force(&mut self) -> Result<Vec<String>> {
        let dead = self.dead_users();
        self.front.remove()?;
        crate::abandon(&self.dir)?;
        Ok(words_of_dead(&dead))
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
