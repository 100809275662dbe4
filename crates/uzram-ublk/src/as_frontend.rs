//! [`Ublk`] as a frontend: `ublk`. The kernel holds requests of a server that died until a new one takes over.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use uzram::Device;
use uzram_blockdev::{Node, Survey, Users};
use uzram_frontend::{
    BLOCK_DEVICE, CapabilitySet, Front, Frontend, FrontendOption, Handover, NUMBER, Need,
    OptionKind, PARTSCAN, QUEUE_DEPTH, Serving, check_dead, kind_of_node, users_of_dead,
    words_of_dead,
};
use uzram_spec::{Failure, FailureKind, FrontendSpec, Result};

use crate::{Buffers, Error, OnDeath, Tag, Ublk, UblkOptions};

/// The frontend `ublk`.
pub struct UblkFrontend;

/// A device with its node, and those that it had.
struct UblkFront {
    front: Ublk,
    /// The device's directory.
    dir: PathBuf,
    /// What was left behind when the device was taken down, in words.
    left: Vec<String>,
}

/// Notes the node before anybody can use it.
fn noted(front: Ublk, dir: &Path) -> Box<dyn Front> {
    if let Err(error) = crate::replaced::note(dir, front.node()) {
        let node = front.node().display();
        tracing::warn!("who uses {node} will not be seen once it is replaced: {error}");
    }
    Box::new(UblkFront {
        front,
        dir: dir.into(),
        left: Vec::new(),
    })
}

/// File that exists during a takeover: one that was itself killed must not be begun again.
const TAKING_OVER: &str = "taking-over";

const USER_COPY: &str = "user-copy";
const MAPPED: &str = "mapped";

const QUEUES: FrontendOption = FrontendOption {
    name: "queues",
    value_name: "N",
    kind: OptionKind::Integer(0, u16::MAX as u64),
    help: "Hardware queues, each with a thread [default: one for each CPU, which is also the most]",
    chooses: false,
};

const MAX_IO: FrontendOption = FrontendOption {
    name: "max-io",
    value_name: "SIZE",
    kind: OptionKind::Size,
    help: "Largest request, a multiple of 4096 up to 32M [default: 512K, for swap 128K]",
    chooses: false,
};

const BUFFERS: FrontendOption = FrontendOption {
    name: "buffers",
    value_name: "HOW",
    kind: OptionKind::Choice(&[USER_COPY, MAPPED]),
    help: "How requests' bytes are passed: user-copy, the server copies, with one buffer a queue; mapped, the driver \
        copies, with one buffer a request [default: user-copy where the kernel has it]",
    chooses: false,
};

const WRITE_CACHE: FrontendOption = FrontendOption {
    name: "write-cache",
    value_name: "",
    kind: OptionKind::Flag,
    help: "Announce a volatile write cache, so that flushes reach the server",
    chooses: false,
};

fn options(serving: &Serving<'_>) -> UblkOptions {
    let mut options = UblkOptions::new(Tag::from_path(serving.dir));
    if serving.swap.is_some() {
        options.prefault = true;
        options.on_ready = serving.swap;
        // Requests in flight hold memory that swapping is to free, so they are few and small.
        (options.depth, options.max_io_bytes) = (32, 128 << 10);
    }
    let spec = serving.spec;
    options.id = spec.small(NUMBER.name);
    options.queues = spec.small(QUEUES.name);
    options.depth = spec.small(QUEUE_DEPTH.name).unwrap_or(options.depth);
    if let Some(bytes) = spec.integer(MAX_IO.name) {
        // A value that does not fit is refused with the range of what does.
        options.max_io_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    }
    options.buffers = spec.text(BUFFERS.name).map(|how| match how {
        MAPPED => Buffers::Mapped,
        _ => Buffers::UserCopy,
    });
    options.write_cache = spec.flag(WRITE_CACHE.name);
    options.partscan = spec.flag(PARTSCAN.name);
    options
}

/// Ends the server when a queue cannot go on, so that the keeper starts another. Otherwise its requests would wait for ever.
fn on_death() -> OnDeath {
    Arc::new(|error| {
        tracing::error!(%error, "a ublk queue cannot go on: the server ends, to be started anew");
        std::process::abort();
    })
}

/// Makes a new device, with the same number if nobody holds the old one.
fn replace(device: &Arc<Device>, id: u32, options: &UblkOptions, begun: &Path) -> Result<Ublk> {
    match crate::clear_stale(options.tag) {
        // The new one has another number.
        Err(left @ Error::Left { .. }) => tracing::error!("{left}"),
        other => drop(other?),
    }
    // The device is gone, and with it the attempt, if there was one.
    let _ = std::fs::remove_file(begun);
    let mut options = options.clone();
    options.id = Some(id);
    match Ublk::create(device.clone(), &options, &on_death()) {
        Err(Error::Taken { .. }) => {
            options.id = None;
            Ok(Ublk::create(device.clone(), &options, &on_death())?)
        }
        other => Ok(other?),
    }
}

impl Frontend for UblkFrontend {
    fn name(&self) -> &'static str {
        "ublk"
    }

    fn about(&self) -> &'static str {
        "/dev/ublkbN, a block device that survives its server (Linux 6.5 or newer)"
    }

    fn options(&self) -> &'static [FrontendOption] {
        &[
            NUMBER,
            QUEUES,
            QUEUE_DEPTH,
            MAX_IO,
            BUFFERS,
            WRITE_CACHE,
            PARTSCAN,
        ]
    }

    fn can_swap(&self) -> bool {
        true
    }

    fn handover(&self) -> Handover {
        Handover::Survives
    }

    /// Looks for the driver, and loads it if this user may.
    /// Buffers that are registered with the ring are locked memory.
    fn capabilities(&self, _spec: &FrontendSpec) -> CapabilitySet {
        BLOCK_DEVICE | CapabilitySet::IPC_LOCK
    }

    fn probe(&self) -> std::result::Result<(), Need> {
        if !Path::new("/dev/ublk-control").exists() && rustix::process::geteuid().is_root() {
            // Without the module or modprobe, the next step says what is missing.
            let _ = Command::new("modprobe")
                .args(["-q", "ublk_drv"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
        crate::probe().map_err(Need::new)
    }

    fn start(&self, serving: &Serving<'_>) -> Result<Box<dyn Front>> {
        if serving.spec.flag(PARTSCAN.name) && !rustix::process::geteuid().is_root() {
            // It trusts a user's server with no partition table.
            let message = "the ublk driver reads partition tables only of root's devices";
            return Err(Failure::impossible(message));
        }
        let front = Ublk::create(serving.device.clone(), &options(serving), &on_death())?;
        Ok(noted(front, serving.dir))
    }

    fn resume(&self, serving: &Serving<'_>, word: &str) -> Result<Box<dyn Front>> {
        let id = word
            .parse::<u32>()
            .map_err(|_| Failure::failed(format!("no number of a ublk node: '{word}'")))?;
        let options = options(serving);
        let begun = serving.file(TAKING_OVER);
        let device = serving.device;
        match Ublk::recover(device.clone(), id, &options, &begun, &on_death()) {
            Err(error @ (Error::Interrupted { .. } | Error::Gone { .. })) => {
                tracing::error!(
                    "{error}; it is replaced: who had it open gets I/O errors, the contents are in the new one"
                );
                let front = replace(device, id, &options, &begun)?;
                Ok(noted(front, serving.dir))
            }
            other => Ok(noted(other?, serving.dir)),
        }
    }

    fn clear(&self, dir: &Path) -> std::result::Result<Vec<String>, String> {
        crate::stale::clear_of_dir(dir)
    }

    fn dead_nodes(&self, dir: &Path, survey: &Survey) -> Vec<Node> {
        crate::replaced::dead_nodes(dir, survey)
    }

    fn clear_of_users(&self) -> Vec<String> {
        // Without the driver there is nothing to clear.
        crate::clear_users_stale().unwrap_or_default()
    }

    fn wait_for_death(&self, dir: &Path, word: &str) {
        let Ok(id) = word.parse() else { return };
        if let Err(error) = Ublk::wait_for_death(id, Tag::from_path(dir)) {
            // The takeover reports whatever is wrong.
            tracing::debug!(%error, "cannot wait for the last server's death");
        }
    }

    fn owner(&self, node: &str) -> Result<Option<(u32, u32)>> {
        Ok(crate::owner(node)?)
    }
}

impl UblkFront {
    /// Who still uses nodes that the device had.
    fn dead_users(&self) -> Users {
        users_of_dead(|survey| crate::replaced::dead_nodes(&self.dir, survey))
    }

    /// Takes the device down. A number that stays taken holds up nothing else.
    fn take_down(&mut self) -> Result {
        match self.front.remove() {
            Err(left @ Error::Left { .. }) => {
                tracing::warn!("{left}");
                self.left.push(left.to_string());
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn check_dead(&self) -> Result {
        check_dead(self.front.node(), self.dead_users())
    }
}

impl Front for UblkFront {
    fn path(&self) -> String {
        self.front.node().display().to_string()
    }

    fn resume_word(&self) -> String {
        self.front.id().to_string()
    }

    fn hold_idle(&self) -> Result<Option<File>> {
        self.check_dead()?;
        Ok(self.front.exclusive()?)
    }

    fn remove(&mut self) -> Result {
        self.check_dead()?;
        self.take_down()
    }

    fn remove_by_force(&mut self) -> Result<Vec<String>> {
        let dead = self.dead_users();
        self.take_down()?;
        Ok(words_of_dead(&dead))
    }

    fn left(&mut self) -> Vec<String> {
        std::mem::take(&mut self.left)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            error if error.is_unavailable() => FailureKind::Impossible,
            Error::Invalid { .. } | Error::NotANode { .. } => FailureKind::Usage,
            Error::Taken { .. } => FailureKind::Busy,
            Error::Node(error) => kind_of_node(error),
            Error::System(step) => FailureKind::from_io(&step.source),
            _ => FailureKind::Failed,
        };
        let failure = Failure::new(kind, &error);
        match error.is_unanswered() {
            true => failure.with_hint(
                "the kernel's ublk driver is stuck, as with some from Linux 6.17 to 7.0; dmesg may say why, and only a restart of the \
                 machine helps it; other frontends work: --frontend fuse-loop",
            ),
            false => failure,
        }
    }
}
