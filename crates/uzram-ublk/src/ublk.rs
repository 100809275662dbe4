//! A ublk device: added, started, tuned, removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use uzram::Device;
use uzram_blockdev::{StepError, open_rw, wait_until, wait_until_gone, wait_until_present};

use crate::Error;
use crate::abi::{DevInfo, flags};
use crate::control::{Control, is_privileged};
use crate::node::{block_node, char_node, exists, is_accessible};
use crate::options::{Buffers, UblkOptions, cpus};
use crate::queue::{self, QueueSetup};

/// How long the driver may take to make or delete a node, or to finish what a dead server left.
const DRIVER_LIMIT: Duration = Duration::from_secs(20);
/// How long udev may take to give a user the nodes.
const UDEV_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two looks at the driver's or udev's progress.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(2);

/// Called when a queue cannot go on. The device waits from then on: the callee should end the process, so that another one
/// can take over.
pub type OnDeath = Arc<dyn Fn(&io::Error) + Send + Sync>;

/// A ublk device that this process serves. Dropping it removes nothing: see [`Ublk::remove`].
pub struct Ublk {
    id: u32,
    node: PathBuf,
    pub(crate) control: Control,
    queues: Vec<JoinHandle<()>>,
    removed: bool,
}

/// Checks whether this machine and user can have a ublk device.
pub fn probe() -> Result<(), Error> {
    let found = Control::open()?.features()?;
    let (bits, needed) = needed_features();
    if found & bits == bits {
        Ok(())
    } else {
        Err(Error::MissingFeature { found, needed })
    }
}

/// The features that the driver must have for this process, and what to call them. Unprivileged devices have no recovery,
/// since the driver does not trust their servers.
fn needed_features() -> (u64, &'static str) {
    if is_privileged() {
        let recovery = flags::USER_RECOVERY | flags::USER_RECOVERY_REISSUE;
        let name = "user recovery with reissue";
        (flags::CMD_IOCTL_ENCODE | recovery, name)
    } else {
        let unprivileged = flags::CMD_IOCTL_ENCODE | flags::UNPRIVILEGED_DEV;
        (unprivileged, "an unprivileged mode")
    }
}

/// Chooses how bytes are passed, of what driver and user allow.
fn choose_buffers(wanted: Option<Buffers>, features: u64) -> Result<Buffers, Error> {
    let refusal = if !is_privileged() {
        Some(Error::UserCopyNeedsRoot)
    } else if features & flags::USER_COPY == 0 {
        Some(Error::NoUserCopy)
    } else {
        None
    };
    match (wanted, refusal) {
        (Some(Buffers::UserCopy), Some(refusal)) => Err(refusal),
        (Some(buffers), _) => Ok(buffers),
        (None, Some(_)) => Ok(Buffers::Mapped),
        (None, None) => Ok(Buffers::UserCopy),
    }
}

impl Ublk {
    /// Makes a ublk device and starts it. On return the node exists and works.
    pub fn create(
        device: Arc<Device>,
        options: &UblkOptions,
        on_death: &OnDeath,
    ) -> Result<Ublk, Error> {
        options.check()?;
        let mut control = Control::open()?;
        let features = control.features()?;
        let user_copy = match choose_buffers(options.buffers, features)? {
            Buffers::UserCopy => flags::USER_COPY,
            Buffers::Mapped => 0,
        };
        let mut info = DevInfo {
            queues: options.queues.unwrap_or_else(cpus),
            depth: options.depth,
            max_io_bytes: options.max_io_bytes,
            dev_id: options.id.unwrap_or(u32::MAX),
            flags: needed_features().0 | user_copy,
            server_flags: options.tag.0,
            pid: std::process::id() as i32,
            ..DevInfo::default()
        };
        control.add(&mut info)?;
        let mut this = Ublk::new(control, info.dev_id);
        let started = this
            .wait_for_udev(&char_node(this.id))
            .and_then(|()| this.control.set_params(this.id, &options.params(&device)))
            .and_then(|()| this.start_queues(&info, &device, options, on_death))
            .and_then(|()| this.control.start(this.id))
            .and_then(|()| this.wait_for_node())
            .and_then(|()| this.wait_for_udev(&this.node));
        match started {
            Ok(()) => {
                this.tune(info.depth);
                Ok(this)
            }
            Err(error) => {
                // The first error is the one that matters, unless something is left behind.
                match this.take_down() {
                    Err(left @ Error::Left { .. }) => {
                        let id = this.id;
                        tracing::error!("{left}");
                        let source = Box::new(error);
                        Err(Error::Left { id, source })
                    }
                    _ => Err(error),
                }
            }
        }
    }

    pub(crate) fn new(control: Control, id: u32) -> Ublk {
        Ublk {
            id,
            node: block_node(id),
            control,
            queues: Vec::new(),
            removed: false,
        }
    }

    /// Starts the queues; an error if the driver refused the tags of one.
    pub(crate) fn start_queues(
        &mut self,
        info: &DevInfo,
        device: &Arc<Device>,
        options: &UblkOptions,
        on_death: &OnDeath,
    ) -> Result<(), Error> {
        let outcomes = self.try_queues(info, device, options, on_death)?;
        let all: io::Result<()> = outcomes.into_iter().collect();
        let step = format!("giving tags to {}", char_node(self.id).display());
        Ok(all.map_err(StepError::at(step))?)
    }

    /// Starts the queues, and returns for each whether the driver accepted its tags.
    pub(crate) fn try_queues(
        &mut self,
        info: &DevInfo,
        device: &Arc<Device>,
        options: &UblkOptions,
        on_death: &OnDeath,
    ) -> Result<Vec<io::Result<()>>, Error> {
        // ENOENT: the node has not appeared yet. EBUSY: the last server's death is not complete.
        let path = char_node(self.id);
        let open = || Ok(open_rw(&path)?);
        let char_device = Arc::new(retry_while(&[Errno::NOENT, Errno::BUSY], open)?);
        let (ready, inbox) = sync_channel(usize::from(info.queues));
        for number in 0..info.queues {
            let setup = QueueSetup {
                number,
                depth: info.depth,
                max_io_bytes: info.max_io_bytes as usize,
                buffers: match info.flags & flags::USER_COPY {
                    0 => Buffers::Mapped,
                    _ => Buffers::UserCopy,
                },
                cpus: self.control.affinity(self.id, number),
                prefault: options.prefault,
                partscan: options.partscan,
                on_ready: options.on_ready,
                char_device: char_device.clone(),
                device: device.clone(),
            };
            let (ready, on_death) = (ready.clone(), on_death.clone());
            let serve = move || {
                if let Err(error) = queue::run(setup, &ready) {
                    on_death(&error);
                }
            };
            let thread = thread::Builder::new()
                .name(format!("ublk{}-q{number}", self.id))
                .spawn(serve)
                .map_err(StepError::at("starting a queue's thread"))?;
            self.queues.push(thread);
        }
        let outcomes = (0..info.queues).map(|_| inbox.recv().unwrap_or(Ok(())));
        Ok(outcomes.collect())
    }

    /// Waits for the threads of queues that have ended or are about to.
    pub(crate) fn join_queues(&mut self) {
        for queue in self.queues.drain(..) {
            let _ = queue.join();
        }
    }

    /// Turns off what the block layer does for slow disks: the scheduler, and the throttling of writes (swap-out among them)
    /// by their latency. Best effort: the device works either way.
    ///
    /// Also makes the driver notice a server's death at once. It learns of one from the fetch commands of tags without a
    /// request. Where every tag of a queue has a request, as swapping does, it learns only when one times out, after 30 s. So
    /// one tag is kept from requests, and the timeout is short. A request that a living server still works on just gets more
    /// time.
    fn tune(&self, depth: u16) {
        let spare = depth.saturating_sub(1).to_string();
        let settings = [
            ("scheduler", "none"),
            ("wbt_lat_usec", "0"),
            ("io_timeout", "500"),
            // After the scheduler, which brings its own number of requests.
            ("nr_requests", &spare),
        ];
        for (file, value) in settings {
            let path = format!("/sys/block/ublkb{}/queue/{file}", self.id);
            if let Err(error) = fs::write(&path, value) {
                tracing::debug!(path, %error, "left as it is");
            }
        }
    }

    /// Waits until devtmpfs or udev has made the node.
    fn wait_for_node(&self) -> Result<(), Error> {
        wait_until_present(&self.node, DRIVER_LIMIT, || self.node.exists())?;
        Ok(())
    }

    /// Waits until udev has given the node, which is root's at first, to the user who made the device.
    fn wait_for_udev(&self, node: &Path) -> Result<(), Error> {
        let given = || Ok::<_, Error>(is_privileged() || is_accessible(node));
        if wait_until(UDEV_LIMIT, LONGEST_PAUSE, given)? {
            Ok(())
        } else {
            Err(Error::NotGiven { path: node.into() })
        }
    }

    /// The block device's node.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// N of `/dev/ublkbN`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Opens the node for the caller alone: while the file lives, nobody can mount the device or swap on it.
    /// [`Error::Node`] names who uses it.
    pub fn exclusive(&self) -> Result<Option<File>, Error> {
        Ok(uzram_blockdev::open_exclusive(&self.node, || true)?)
    }

    /// Stops and deletes the device. Changes nothing where somebody uses it ([`Error::Node`]). [`Error::Left`] where the device
    /// is down and only its number stays taken. A second call after success does nothing.
    pub fn remove(&mut self) -> Result<(), Error> {
        if self.removed {
            return Ok(());
        }
        // Held until the queues have ended, so that nobody opens it in between.
        let held = self.exclusive()?;
        self.control.stop(self.id)?;
        drop(held);
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), Error> {
        self.removed = true;
        // Harmless after `remove`, and for a device that was never started.
        match self.control.stop(self.id) {
            // The driver may not give the tags back, for which the queues would wait.
            Err(error) if error.is_unanswered() => self.queues.clear(),
            _ => self.join_queues(),
        }
        let id = self.id;
        let deleted = self.control.delete(id);
        deleted.map_err(|error| match error.is_unanswered() {
            true => Error::Left {
                id,
                source: Box::new(error),
            },
            false => error,
        })?;
        wait_until_gone(&char_node(id), DRIVER_LIMIT, || !exists(id))?;
        Ok(())
    }
}

impl std::fmt::Debug for Ublk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ublk")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Repeats a step while it fails with one of these errnos, at most for [`DRIVER_LIMIT`].
pub(crate) fn retry_while<T>(
    errnos: &[Errno],
    mut step: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let begin = Instant::now();
    loop {
        match step() {
            Err(error)
                if error.errno().is_some_and(|errno| errnos.contains(&errno))
                    && begin.elapsed() < DRIVER_LIMIT =>
            {
                thread::sleep(LONGEST_PAUSE);
            }
            other => return other,
        }
    }
}
