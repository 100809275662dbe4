//! [`FuseLoop`] as a frontend: `fuse-loop`.
//!
//! The kernel ends a FUSE connection with its server, and a loop device's file cannot be changed. So a new server makes a new
//! mount and loop device with the same contents. Whoever mounted the old node gets I/O errors there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uzram_blockdev::{Node, Survey, Users};
use uzram_frontend::{
    BLOCK_DEVICE, CapabilitySet, Front, Frontend, FrontendOption, Handover, NUMBER, Need,
    OptionKind, PARTSCAN, POLL, QUEUE_DEPTH, ReservedNode, Serving, check_dead, kind_of_missing,
    kind_of_node, users_of_dead, words_of_dead,
};
use uzram_spec::{Failure, FailureKind, FrontendSpec, Result};

use crate::{Error, FuseLoop, FuseUring, LoopNumber, LoopOptions, Transport};

/// Most entries of a queue.
const MAX_QUEUE_DEPTH: u64 = 4096;

const ON: &str = "on";
const OFF: &str = "off";

const FUSE_URING: FrontendOption = FrontendOption {
    name: "fuse-uring",
    value_name: "WHEN",
    kind: OptionKind::Choice(&["auto", ON, OFF]),
    help: "Whether requests come by FUSE over io_uring (Linux 6.14 or newer), with a queue and a thread for each CPU: on, off, \
        or auto, where it can be. Where the kernel's enable_uring is off, it is switched on while the device is made, and \
        off again [default: auto]",
    chooses: false,
};

/// The frontend `fuse-loop`.
pub struct FuseLoopFrontend;

/// A device with its living node, and what dead servers may have left of it.
struct LoopFront {
    front: FuseLoop,
    /// The device's directory.
    dir: PathBuf,
}

fn fuse_uring(spec: &FrontendSpec) -> FuseUring {
    match spec.text(FUSE_URING.name) {
        Some(ON) => FuseUring::On,
        Some(OFF) => FuseUring::Off,
        _ => FuseUring::Auto,
    }
}

fn options(spec: &FrontendSpec) -> LoopOptions {
    let default = LoopOptions::default();
    LoopOptions {
        number: spec.small(NUMBER.name),
        partscan: spec.flag(PARTSCAN.name),
        fuse_uring: fuse_uring(spec),
        queue_depth: spec.small(QUEUE_DEPTH.name).unwrap_or(default.queue_depth),
        poll: spec
            .integer(POLL.name)
            .map_or(default.poll, Duration::from_micros),
        // The keeper starts another server.
        on_death: Some(|| std::process::abort()),
    }
}

fn serve(serving: &Serving<'_>, options: &LoopOptions) -> Result<Box<dyn Front>> {
    let at = crate::new_mount_dir(serving.dir)?;
    let front = FuseLoop::create(serving.device.clone(), serving.name, &at, options);
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
        &[NUMBER, PARTSCAN, FUSE_URING, QUEUE_DEPTH, POLL]
    }

    fn check(&self, spec: &FrontendSpec) -> Result {
        let uring = fuse_uring(spec);
        if let Some(depth) = spec.integer(QUEUE_DEPTH.name)
            && !(1..=MAX_QUEUE_DEPTH).contains(&depth)
        {
            return Err(Failure::usage(format!(
                "--queue-depth {depth} is not possible: 1 to {MAX_QUEUE_DEPTH}"
            )));
        }
        let given = |option: &&FrontendOption| spec.options.contains_key(option.name);
        if uring == FuseUring::Off
            && let Some(option) = [&QUEUE_DEPTH, &POLL].into_iter().find(given)
        {
            return Err(Failure::usage(format!(
                "--{} is for FUSE over io_uring, which --fuse-uring off forbids",
                option.name
            )));
        }
        if uring == FuseUring::On {
            crate::probe_uring().map_err(|error| {
                Failure::from(error).with_hint("--fuse-uring auto does without")
            })?;
        }
        Ok(())
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn handover(&self) -> Handover {
        Handover::Replaced
    }

    /// Where there is no devtmpfs it makes the node itself. The buffers of FUSE over io_uring are locked.
    fn capabilities(&self, spec: &FrontendSpec) -> CapabilitySet {
        let own = BLOCK_DEVICE | CapabilitySet::MKNOD;
        match fuse_uring(spec) {
            FuseUring::Off => own,
            FuseUring::Auto | FuseUring::On => own | CapabilitySet::IPC_LOCK,
        }
    }

    fn probe(&self) -> std::result::Result<(), Need> {
        crate::probe().map_err(Need::new)
    }

    fn start(&self, serving: &Serving<'_>) -> Result<Box<dyn Front>> {
        serve(serving, &options(serving.spec))
    }

    fn resume(&self, serving: &Serving<'_>, old: &str) -> Result<Box<dyn Front>> {
        for node in crate::set_aside(serving.dir)? {
            let node = node.display();
            // Its user must unmount it. The contents are behind the new node.
            tracing::warn!("{old} is replaced: {node} is dead and stays until its user lets go");
        }
        let mut options = options(serving.spec);
        if options.fuse_uring == FuseUring::On
            && let Err(error) = crate::probe_uring()
        {
            tracing::error!(
                "the contents come first: the device is served by /dev/fuse, with {error}"
            );
            options.fuse_uring = FuseUring::Auto;
        }
        // The old number if it is free, otherwise another.
        serve(serving, &options).or_else(|_| {
            options.number = None;
            serve(serving, &options)
        })
    }

    fn makes_directory(&self, name: &str) -> bool {
        crate::stale::is_mount_dir(name)
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

    fn transport(&self) -> Option<&'static str> {
        Some(match self.front.transport() {
            Transport::IoUring => "io_uring",
            Transport::DevFuse => "/dev/fuse",
        })
    }

    fn notes(&self) -> Vec<String> {
        let switched = "frontend fuse-loop: enable_uring of module fuse was switched on for a moment, and is off again";
        match self.front.switched_uring_on() {
            true => vec![switched.into()],
            false => Vec::new(),
        }
    }

    fn expect_waits(&self) -> Result {
        Ok(self.front.expect_waits()?)
    }

    fn can_resize(&self) -> Result {
        Ok(())
    }

    fn resized(&mut self) -> Result {
        Ok(self.front.resized()?)
    }

    /// The next server has another loop device, and whoever has this one open would lose it.
    fn release(&mut self) -> Result {
        Ok(self.front.release()?)
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
            Error::Unavailable { .. }
            | Error::NeedsRoot
            | Error::NoUring { .. }
            | Error::NoDirectIo { .. } => FailureKind::Impossible,
            Error::NoneFree { .. } => FailureKind::Failed,
            Error::System(step) => kind_of_missing(&step.source),
        };
        Failure::new(kind, error)
    }
}
