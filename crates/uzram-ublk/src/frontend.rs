//! The whole: a device added, started, taken over, removed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags};
use uzram::Device;

use crate::Error;
use crate::abi::{DevInfo, flags, state};
use crate::control::{Control, is_privileged};
use crate::options::{Buffers, Options, Tag, cpus};
use crate::queue::{self, Plan};

/// How long the driver may take to notice a server's death, or to make or delete a node.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long udev may take to give a user what is the user's.
const UDEV: Duration = Duration::from_secs(5);

/// Called when a queue cannot go on. The device waits from then on: whoever gets this call should end the
/// process, so that another can take over.
pub type OnDeath = Arc<dyn Fn(&std::io::Error) + Send + Sync>;

/// A ublk device that is served by this process.
pub struct Ublk {
    id: u32,
    node: PathBuf,
    control: Control,
    queues: Vec<JoinHandle<()>>,
    removed: bool,
}

/// Says why this machine or user cannot have a ublk device, if so.
pub fn probe() -> Result<(), Error> {
    let features = Control::open()?.features()?;
    let (needed, what) = needed();
    if features & needed != needed {
        let reason = format!("the driver has features {features:#x}, and {what} is needed");
        return Err(Error::Unavailable { reason });
    }
    Ok(())
}

/// What the driver must be able to do for this process, and what it is called. An unprivileged device has no recovery: the
/// driver does not trust its server so far.
fn needed() -> (u64, &'static str) {
    if is_privileged() {
        let recovery = flags::USER_RECOVERY | flags::USER_RECOVERY_REISSUE;
        (
            flags::CMD_IOCTL_ENCODE | recovery,
            "user recovery with reissue",
        )
    } else {
        let unprivileged = flags::CMD_IOCTL_ENCODE | flags::UNPRIVILEGED_DEV;
        (unprivileged, "an unprivileged mode")
    }
}

/// How bytes come and go, of what driver and user can have.
fn buffers(wanted: Option<Buffers>, features: u64) -> Result<Buffers, Error> {
    let lacking = if !is_privileged() {
        Some("needs root: --buffers mapped does not")
    } else if features & flags::USER_COPY == 0 {
        Some("is not in this driver")
    } else {
        None
    };
    match (wanted, lacking) {
        (Some(Buffers::UserCopy), Some(why)) => {
            let reason = format!("user copy {why}");
            Err(Error::Unavailable { reason })
        }
        (Some(buffers), _) => Ok(buffers),
        (None, Some(_)) => Ok(Buffers::Mapped),
        (None, None) => Ok(Buffers::UserCopy),
    }
}

impl Ublk {
    /// Makes a ublk device and starts it. When this returns the node is there and works.
    pub fn create(
        device: Arc<Device>,
        options: &Options,
        on_death: &OnDeath,
    ) -> Result<Ublk, Error> {
        options.check()?;
        let mut control = Control::open()?;
        let features = control.features()?;
        let buffers = buffers(options.buffers, features)?;
        let copy = if buffers == Buffers::UserCopy {
            flags::USER_COPY
        } else {
            0
        };
        let mut info = DevInfo {
            queues: options.queues.unwrap_or_else(cpus),
            depth: options.depth,
            max_io_bytes: options.max_io_bytes,
            dev_id: options.id.unwrap_or(u32::MAX),
            flags: needed().0 | copy,
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
                // Leave nothing behind; the first error is the one that matters.
                let _ = this.take_down();
                Err(error)
            }
        }
    }

    /// Takes over the device of that number after its server died or went to make room. Requests that were in flight
    /// are issued again. [`Error::Gone`] where the device is not there; [`Error::NotRecoverable`] where it has another
    /// tag or size, or is served by somebody who lives.
    ///
    /// `begun` is a file that is there while this is under way. If it is there before, a server was killed in the
    /// middle. To begin again would then crash kernels before 6.16 (some queues have a server and some have none, which
    /// their driver does not expect), so the queues are tried first; [`Error::Interrupted`] where that does not help.
    pub fn recover(
        device: Arc<Device>,
        id: u32,
        options: &Options,
        begun: &Path,
        on_death: &OnDeath,
    ) -> Result<Ublk, Error> {
        let control = Control::open()?;
        let mut this = Ublk::new(control, id);
        // Whatever goes wrong below, the device stays for the next try.
        this.removed = true;
        let refuse = |reason: String| Error::NotRecoverable { id, reason };
        let info = this.wait_until_quiesced(options.tag)?;
        let params = this.control.params(id)?;
        let size = params.dev_sectors << 9;
        if size != device.size_bytes()
            || 1 << params.logical_bs_shift != device.logical_block_size()
        {
            return Err(refuse(format!(
                "it has {size} bytes in blocks of {}, the image has {} in blocks of {}",
                1u64 << params.logical_bs_shift,
                device.size_bytes(),
                device.logical_block_size(),
            )));
        }
        let note = |result: std::io::Result<()>| {
            result.map_err(Error::at(format!("noting in {}", begun.display())))
        };
        let resumed = begun.exists() && this.resume_takeover(&info, &device, options, on_death)?;
        if !resumed {
            note(fs::write(begun, b""))?;
            patiently(16, || this.control.start_recovery(id))?;
            this.start_queues(&info, &device, options, on_death)?;
        }
        this.control.end_recovery(id)?;
        note(fs::remove_file(begun))?;
        this.removed = false;
        Ok(this)
    }

    /// Goes on where a killed server may have begun to take over. True: all queues have their tags now. False: that
    /// server had not begun, or had done all but the last step, and it is safe to begin.
    fn resume_takeover(
        &mut self,
        info: &DevInfo,
        device: &Arc<Device>,
        options: &Options,
        on_death: &OnDeath,
    ) -> Result<bool, Error> {
        let outcomes = self.try_queues(info, device, options, on_death)?;
        if outcomes.iter().all(Result::is_ok) {
            return Ok(true);
        }
        // The answer for a queue whose dead server has not been dismissed; nothing has changed then.
        let has_server =
            |said: &std::io::Result<()>| matches!(said, Err(e) if e.raw_os_error() == Some(22));
        if outcomes.iter().all(has_server) {
            for queue in self.queues.drain(..) {
                let _ = queue.join();
            }
            return Ok(false);
        }
        Err(Error::Interrupted { id: self.id })
    }

    /// Waits until the driver has noticed that the server of that device died, as [`Ublk::recover`] does. For those who
    /// take memory before they call that: where memory is short, the driver may need it first.
    pub fn wait_for_death(id: u32, tag: Tag) -> Result<(), Error> {
        let mut this = Ublk::new(Control::open()?, id);
        this.removed = true;
        this.wait_until_quiesced(tag).map(drop)
    }

    fn new(control: Control, id: u32) -> Ublk {
        Ublk {
            id,
            node: PathBuf::from(format!("/dev/ublkb{id}")),
            control,
            queues: Vec::new(),
            removed: false,
        }
    }

    /// Waits for the driver to notice that the last server died.
    fn wait_until_quiesced(&mut self, tag: Tag) -> Result<DevInfo, Error> {
        let id = self.id;
        let refuse = |reason: String| Error::NotRecoverable { id, reason };
        let begin = Instant::now();
        loop {
            let info = self.control.info(id).map_err(|error| match error.errno() {
                Some(19 | 22) => Error::Gone { id },
                _ => refuse(error.to_string()),
            })?;
            if info.server_flags != tag.0 {
                return Err(refuse("it is another's".into()));
            }
            match info.state {
                state::QUIESCED | state::FAIL_IO => return Ok(info),
                state::DEAD => return Err(Error::Gone { id }),
                state::LIVE if begin.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => return Err(refuse(format!("process {} serves it", info.pid))),
            }
        }
    }

    fn start_queues(
        &mut self,
        info: &DevInfo,
        device: &Arc<Device>,
        options: &Options,
        on_death: &OnDeath,
    ) -> Result<(), Error> {
        let outcomes = self.try_queues(info, device, options, on_death)?;
        let all: std::io::Result<()> = outcomes.into_iter().collect();
        all.map_err(Error::at(format!("giving tags to /dev/ublkc{}", self.id)))
    }

    /// Starts the queues; whether the driver took each one's tags.
    fn try_queues(
        &mut self,
        info: &DevInfo,
        device: &Arc<Device>,
        options: &Options,
        on_death: &OnDeath,
    ) -> Result<Vec<std::io::Result<()>>, Error> {
        let path = format!("/dev/ublkc{}", self.id);
        let open = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(rustix::fs::OFlags::CLOEXEC.bits() as i32)
                .open(&path);
            file.map_err(Error::at(format!("opening {path}")))
        };
        // The node may take a moment to appear, and the last server's death a moment to be complete.
        let char_device = Arc::new(patiently(2, || patiently(16, open))?);
        let (ready, inbox) = sync_channel(usize::from(info.queues));
        for number in 0..info.queues {
            let plan = Plan {
                number,
                depth: info.depth,
                max_io_bytes: info.max_io_bytes as usize,
                buffers: match info.flags & flags::USER_COPY {
                    0 => Buffers::Mapped,
                    _ => Buffers::UserCopy,
                },
                cpus: self.control.affinity(self.id, number).ok(),
                prefault: options.prefault,
                on_ready: options.on_ready,
                char_device: char_device.clone(),
                device: device.clone(),
            };
            let (ready, on_death) = (ready.clone(), on_death.clone());
            let work = move || {
                if let Err(error) = queue::run(plan, &ready) {
                    on_death(&error);
                }
            };
            let thread = std::thread::Builder::new()
                .name(format!("ublk{}-q{number}", self.id))
                .spawn(work)
                .map_err(Error::at("starting a queue's thread"))?;
            self.queues.push(thread);
        }
        let said = (0..info.queues).map(|_| inbox.recv().unwrap_or(Ok(())));
        Ok(said.collect())
    }

    /// Turns off what the block layer does for slow disks: no scheduler, and no throttling of writes (swap-out among
    /// them) by their latency. Best effort: the device works either way.
    ///
    /// And sees to it that the driver notices a server's death at once. It does by the commands of tags that no request
    /// has; where every tag of a queue has one (swapping fills queues), only when a request times out, after 30 s. So one
    /// tag is never given to requests, and the timeout is short, where a request that a living server still works on
    /// just gets another.
    fn tune(&self, depth: u16) {
        let spare = depth.saturating_sub(1).to_string();
        let settings = [
            ("scheduler", "none"),
            ("wbt_lat_usec", "0"),
            ("io_timeout", "500"),
            // After the scheduler, which has requests of its own.
            ("nr_requests", &spare),
        ];
        for (file, value) in settings {
            let path = format!("/sys/block/ublkb{}/queue/{file}", self.id);
            if let Err(error) = fs::write(&path, value) {
                tracing::debug!(path, %error, "left as it is");
            }
        }
    }

    /// devtmpfs makes the node at once; udev may be at it still.
    fn wait_for_node(&self) -> Result<(), Error> {
        let begin = Instant::now();
        while !self.node.exists() {
            if begin.elapsed() > PATIENCE {
                let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
                return Err(Error::at(format!("waiting for {}", self.node.display()))(
                    missing,
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The nodes are root's at first; udev gives them to who made the device.
    fn wait_for_udev(&self, node: &Path) -> Result<(), Error> {
        let begin = Instant::now();
        while !is_privileged() && !is_ours(node) {
            if begin.elapsed() > UDEV {
                let reason = format!(
                    "{} is not given to this user: the udev rules for ublk devices are not installed (see dist/90-uzram-ublk.rules); \
                     the device goes when root runs: uzram list",
                    node.display(),
                );
                return Err(Error::Unavailable { reason });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// The block device's node.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// N of `/dev/ublkbN`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Takes the node for the caller alone: while the result lives nobody can mount it or swap on it.
    /// [`Error::Node`] names who uses it now.
    pub fn exclusive(&self) -> Result<Option<File>, Error> {
        Ok(uzram_blockdev::exclusive(&self.node, || true)?)
    }

    /// Stops and deletes the device, unless somebody uses it: after [`Error::Node`] all is as before. Called again
    /// after success it does nothing.
    pub fn remove(&mut self) -> Result<(), Error> {
        if self.removed {
            return Ok(());
        }
        // Held until the queues have ended: nobody can come in between.
        let held = self.exclusive()?;
        self.control.stop(self.id)?;
        drop(held);
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), Error> {
        self.removed = true;
        // Again after `remove`, and for what never got as far as starting: no harm.
        let _ = self.control.stop(self.id);
        for queue in self.queues.drain(..) {
            let _ = queue.join();
        }
        self.control.delete(self.id)?;
        wait_until_deleted(self.id)
    }
}

impl std::fmt::Debug for Ublk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ublk")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Tries again while the system answers `errno`, for as long as patience lasts.
fn patiently<T>(errno: i32, mut step: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let begin = Instant::now();
    loop {
        match step() {
            Err(error) if error.errno() == Some(errno) && begin.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

/// Without opening it, which the driver and udev would notice.
fn is_ours(node: &Path) -> bool {
    let access = Access::READ_OK | Access::WRITE_OK;
    rustix::fs::accessat(rustix::fs::CWD, node, access, AtFlags::EACCESS).is_ok()
}

fn char_node(id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkc{id}"))
}

fn wait_until_deleted(id: u32) -> Result<(), Error> {
    let begin = Instant::now();
    let sysfs = PathBuf::from(format!("/sys/class/ublk-char/ublkc{id}"));
    while sysfs.exists() {
        if begin.elapsed() > PATIENCE {
            return Err(Error::Lingers {
                path: char_node(id),
                seconds: PATIENCE.as_secs(),
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
