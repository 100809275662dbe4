//! `/dev/ublkbN`. It survives its server: the kernel holds its requests until a new one takes over.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use uzram::Device;
use uzram_control::{Claim, size};
use uzram_ublk::{Buffers, Error, OnDeath, Tag, Ublk, UblkOptions};

use super::{Context, Front, Kind};
use crate::exit::{Failure, Kind as FailureKind, Result};
use crate::swap;

pub(super) const KIND: Kind = Kind {
    name: "ublk",
    about: "/dev/ublkbN, a block device that survives its server (Linux 6.5 or newer)",
    swap: true,
    probe,
    start: |context| {
        let options = context.settings.ublk.options(context)?;
        let front = Ublk::create(context.device.clone(), &options, &on_death())?;
        Ok(Box::new(front))
    },
    resume: |context, word| {
        let id = word.parse::<u32>();
        let id =
            id.map_err(|_| Failure::new(FailureKind::Failed, format!("no ublk number: '{word}'")))?;
        let options = context.settings.ublk.options(context)?;
        let begun = context.claim.file("taking-over");
        let device = context.device;
        match Ublk::recover(device.clone(), id, &options, &begun, &on_death()) {
            Err(error @ (Error::Interrupted { .. } | Error::Gone { .. })) => {
                tracing::error!(
                    "{error}; it is replaced: who had it open gets I/O errors, the contents are in the new one"
                );
                Ok(Box::new(replace(device, id, &options, &begun)?))
            }
            other => Ok(Box::new(other?)),
        }
    },
    clear: |dir: &Path| {
        if let Some(record) = Claim::adopt(dir).ok().and_then(|claim| claim.record()) {
            swap::switch_off_unused(&record.path);
        }
        uzram_ublk::clear_stale(Tag::from_path(dir)).map_err(|error| error.to_string())
    },
};

/// For swap: what the last server's end needs in the kernel comes before what the next one needs.
pub(crate) fn wait_for_death(dir: &Path, word: &str) {
    let Ok(id) = word.parse() else { return };
    if let Err(error) = Ublk::wait_for_death(id, Tag::from_path(dir)) {
        // Whoever takes the device over will find out more.
        tracing::debug!(%error, "not waited for");
    }
}

/// Makes a new device, with the same number if nobody holds the old one.
fn replace(device: &Arc<Device>, id: u32, options: &UblkOptions, begun: &Path) -> Result<Ublk> {
    uzram_ublk::clear_stale(options.tag)?;
    // Not there any more: neither is the attempt, if there was one.
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

/// How requests' bytes come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BufferChoice {
    /// The server copies: one buffer a queue
    UserCopy,
    /// The driver copies: one buffer a request
    Mapped,
}

/// Settings of the ublk frontend.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "ublk")]
pub(crate) struct UblkArgs {
    /// Hardware queues, each with a thread [default: one for each CPU, which is also the most]
    #[arg(long, value_name = "N")]
    queues: Option<u16>,
    /// Requests that a queue can have at once, 1 to 4096 [default: 128, for swap 32]
    #[arg(long, value_name = "N")]
    queue_depth: Option<u16>,
    /// Largest request, a multiple of 4096 up to 32M [default: 512K, for swap 128K]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_io: Option<u64>,
    /// How requests' bytes come and go [default: user-copy where the kernel has it]
    #[arg(long, value_enum)]
    buffers: Option<BufferChoice>,
    /// Announce a volatile write cache, so that flushes reach the server
    #[arg(long)]
    write_cache: bool,
}

impl UblkArgs {
    /// The first of these settings that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.queues.is_some(), "--queues"),
            (self.queue_depth.is_some(), "--queue-depth"),
            (self.max_io.is_some(), "--max-io"),
            (self.buffers.is_some(), "--buffers"),
            (self.write_cache, "--write-cache"),
        ];
        given
            .into_iter()
            .find_map(|(given, name)| given.then_some(name))
    }

    fn options(&self, context: &Context<'_>) -> Result<UblkOptions> {
        let mut options = UblkOptions::new(Tag::from_path(&context.claim.dir));
        if context.swap {
            options.prefault = true;
            options.on_ready = Some(swap::become_normal);
            // What is on its way to swap is memory that is not free yet.
            (options.depth, options.max_io_bytes) = (32, 128 << 10);
        }
        options.id = context.settings.number;
        options.queues = self.queues;
        options.depth = self.queue_depth.unwrap_or(options.depth);
        if let Some(bytes) = self.max_io {
            // What does not fit is refused with the range of what does.
            options.max_io_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
        options.buffers = self.buffers.map(|choice| match choice {
            BufferChoice::UserCopy => Buffers::UserCopy,
            BufferChoice::Mapped => Buffers::Mapped,
        });
        options.write_cache = self.write_cache;
        Ok(options)
    }
}

/// Looks for the driver, and loads it if this user may.
fn probe() -> std::result::Result<(), String> {
    if !Path::new("/dev/ublk-control").exists() && rustix::process::geteuid().is_root() {
        // Where there is no such module or no modprobe, the next step says what is missing.
        let _ = Command::new("modprobe")
            .args(["-q", "ublk_drv"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
    uzram_ublk::probe().map_err(|error| error.to_string())
}

/// A queue that cannot go on would leave its requests waiting: the keeper starts the server anew instead.
fn on_death() -> OnDeath {
    Arc::new(|error| {
        tracing::error!(%error, "a ublk queue cannot go on: the server ends, to be started anew");
        std::process::abort();
    })
}

impl Front for Ublk {
    fn path(&self) -> String {
        self.node().display().to_string()
    }

    fn resume(&self) -> String {
        self.id().to_string()
    }

    fn hold_idle(&self) -> Result<Option<File>> {
        Ok(self.exclusive()?)
    }

    fn remove(&mut self) -> Result {
        Ok(Ublk::remove(self)?)
    }
}
