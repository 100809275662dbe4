//! A device served as a loop device: mounts the file, attaches the loop device, and takes both down again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session};
use rustix::mount::UnmountFlags;
use uzram::Device;
use uzram_blockdev::{StepError, is_mount_point, open_rw, read_first_block};

use crate::disk::DiskFile;
use crate::filesystem::DiskFilesystem;
use crate::stale::disk_file;
use crate::uring::{self, OnDeath, Queues, SwitchedOn};
use crate::{Error, loopdev, sys};

/// How long a FUSE session may take to end once it is unmounted.
const SESSION_END: Duration = Duration::from_secs(1);

/// Whether requests come by FUSE over io_uring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FuseUring {
    /// Where kernel and user allow it, else by `/dev/fuse`.
    #[default]
    Auto,
    /// Always. Where that cannot be, there is no device.
    On,
    /// Never.
    Off,
}

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// By io_uring, with a queue for each CPU.
    IoUring,
    /// By reading and writing `/dev/fuse`.
    DevFuse,
}

/// What a loop device is to be.
#[derive(Debug, Clone, Copy)]
pub struct LoopOptions {
    /// N of `/dev/loopN`; `None` takes a free one.
    pub number: Option<u32>,
    /// Whether the kernel reads the partition table, now and whenever it is told to.
    pub partscan: bool,
    /// Whether requests come by FUSE over io_uring.
    pub fuse_uring: FuseUring,
    /// Requests in flight of one queue of FUSE over io_uring, at least 1.
    pub queue_depth: u16,
    /// Longest time that a queue of FUSE over io_uring polls for the next request before it sleeps. Zero never polls.
    pub poll: Duration,
    /// Called when a queue cannot go on, after all requests of the device have failed. The contents are there: the callee
    /// may end the process so that another one serves them.
    pub on_death: Option<fn()>,
}

impl Default for LoopOptions {
    /// Any number, no partitions, FUSE over io_uring where it can be, 32 requests in flight of a queue, which never polls.
    fn default() -> LoopOptions {
        LoopOptions {
            number: None,
            partscan: false,
            fuse_uring: FuseUring::Auto,
            queue_depth: 32,
            poll: Duration::ZERO,
            on_death: None,
        }
    }
}

/// A device that this process serves as a loop device.
pub struct FuseLoop {
    node: PathBuf,
    dir: PathBuf,
    /// `None` once removed.
    mounted: Option<Mounted>,
    transport: Transport,
    switched: bool,
}

/// A mount and those who serve it.
struct Mounted {
    session: BackgroundSession,
    queues: Option<Queues>,
}

/// Checks whether this machine and user can have a loop device on FUSE.
pub fn probe() -> Result<(), Error> {
    for path in ["/dev/fuse", "/dev/loop-control"] {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        opened.map_err(|source| Error::Unavailable {
            path: path.into(),
            source,
        })?;
    }
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(Error::NeedsRoot)
    }
}

/// Checks whether this machine and user can have FUSE over io_uring ([`FuseUring::On`]). Changes nothing.
pub fn probe_uring() -> Result<(), Error> {
    uring::check().map_err(|why| Error::NoUring { why })
}

impl FuseLoop {
    /// Mounts at `dir` (made if absent) and attaches a loop device. On return the node works: its first block was read
    /// through it.
    pub fn create(
        device: Arc<Device>,
        name: &str,
        dir: &Path,
        options: &LoopOptions,
    ) -> Result<FuseLoop, Error> {
        if options.fuse_uring == FuseUring::On {
            probe_uring()?;
        }
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
        made.map_err(StepError::at(format!("making {}", dir.display())))?;
        let block_size = device.logical_block_size();
        let file = disk_file(dir).file_name().unwrap_or_default().to_owned();
        let disk = Arc::new(DiskFile::new(device, file));
        let mount = FuseMount {
            disk: &disk,
            name,
            dir,
            options,
        };
        let front = mount.create(block_size);
        if front.is_err() {
            // Leaves nothing behind.
            let _ = fs::remove_dir(dir);
        }
        front
    }

    fn attached(
        mounted: Mounted,
        switched: bool,
        mount: &FuseMount<'_>,
        block_size: u32,
    ) -> Result<FuseLoop, Error> {
        let transport = match mounted.queues {
            Some(_) => Transport::IoUring,
            None => Transport::DevFuse,
        };
        let mut this = FuseLoop {
            node: PathBuf::new(),
            dir: mount.dir.into(),
            mounted: Some(mounted),
            transport,
            switched,
        };
        match this.attach(block_size, mount.options) {
            Ok(()) => Ok(this),
            Err(error) => {
                // Leaves nothing behind; the first error is the one that matters.
                let _ = this.remove();
                Err(error)
            }
        }
    }

    fn file(&self) -> PathBuf {
        disk_file(&self.dir)
    }

    fn attach(&mut self, block_size: u32, options: &LoopOptions) -> Result<(), Error> {
        let path = self.file();
        let file = open_rw(&path)?;
        let (number, partscan) = (options.number, options.partscan);
        self.node = loopdev::attach(&file, &path, block_size, number, partscan)?;
        Ok(read_first_block(&self.node)?)
    }

    /// The loop device's node.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// How requests come.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether the kernel's switch for FUSE over io_uring was off, and so was on while the file was mounted.
    pub fn switched_uring_on(&self) -> bool {
        self.switched
    }

    /// Makes ready for requests that wait for a store, which the device is about to get as its backing: they hold up no others
    /// then.
    pub fn expect_waits(&self) -> Result<(), Error> {
        let queues = self.mounted.as_ref().and_then(|of| of.queues.as_ref());
        let ready = queues.map_or(Ok(()), Queues::expect_waits);
        Ok(ready.map_err(StepError::at(
            "making the queues ready for requests that wait",
        ))?)
    }

    /// Tells the kernel the device's size after it has changed.
    pub fn resized(&self) -> Result<(), Error> {
        let path = self.file();
        let refreshed = rustix::fs::statx(
            rustix::fs::CWD,
            &path,
            // Without it the kernel answers with the size that it cached.
            rustix::fs::AtFlags::STATX_FORCE_SYNC,
            rustix::fs::StatxFlags::SIZE,
        );
        refreshed.map_err(StepError::at(format!("looking at {}", path.display())))?;
        let node = OpenOptions::new().read(true).open(&self.node);
        let resized = node.and_then(sys::set_capacity);
        let step = format!("resizing {}", self.node.display());
        Ok(resized.map_err(StepError::at(step))?)
    }

    /// Opens the node for the caller alone: while the file lives, nobody can mount the device or swap on it. `None`:
    /// somebody detached the loop device. [`Error::Node`] names who uses it.
    pub fn exclusive(&self) -> Result<Option<File>, Error> {
        loopdev::open_exclusive(&self.node, &self.file())
    }

    /// Detaches the loop device; the file stays mounted. The driver is asked who has it open, so that also those count whom
    /// nobody sees. Changes nothing where somebody does ([`Error::Node`]).
    pub fn release(&self) -> Result<(), Error> {
        loopdev::detach(&self.node, &self.file())
    }

    /// Detaches the loop device, unmounts, and removes the directory. Changes nothing where somebody uses the device
    /// ([`Error::Node`]). A second call after success does nothing.
    pub fn remove(&mut self) -> Result<(), Error> {
        if !self.node.as_os_str().is_empty() {
            loopdev::detach(&self.node, &self.file())?;
        }
        if let Some(mounted) = self.mounted.take() {
            let step = format!("unmounting {}", self.dir.display());
            let unmounted = mounted.unmount(self.dir.clone());
            unmounted.map_err(StepError::at(step))?;
        }
        // It may be gone already.
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }
}

/// A mount that is to be made.
struct FuseMount<'a> {
    disk: &'a Arc<DiskFile>,
    /// The device's name.
    name: &'a str,
    dir: &'a Path,
    options: &'a LoopOptions,
}

impl FuseMount<'_> {
    fn create(&self, block_size: u32) -> Result<FuseLoop, Error> {
        let over_uring = || {
            let (mounted, switched) = self.over_uring()?;
            FuseLoop::attached(mounted, switched, self, block_size)
        };
        match self.options.fuse_uring {
            FuseUring::Off => {}
            FuseUring::On => return over_uring(),
            FuseUring::Auto => match over_uring() {
                Err(Error::NoUring { why }) => tracing::debug!(why, "no FUSE over io_uring"),
                other => return other,
            },
        }
        FuseLoop::attached(self.over_dev_fuse()?, false, self, block_size)
    }

    /// Mounts, and negotiates with the kernel.
    fn begin(
        &self,
        filesystem: DiskFilesystem,
        threads: usize,
    ) -> Result<Session<DiskFilesystem>, StepError> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(format!("uzram:{}", self.name)),
            MountOption::Subtype("uzram".into()),
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            MountOption::NoAtime,
        ];
        config.n_threads = Some(threads);
        config.clone_fd = true;
        let begun = Session::new(filesystem, self.dir, &config);
        begun.map_err(StepError::at(format!(
            "mounting FUSE at {}",
            self.dir.display()
        )))
    }

    fn over_dev_fuse(&self) -> Result<Mounted, Error> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let filesystem = DiskFilesystem::new(self.disk.clone());
        let session = self.begin(filesystem, cpus.clamp(2, 8))?;
        Ok(Mounted {
            session: self.spawn(session)?,
            queues: None,
        })
    }

    /// Returns also whether it switched FUSE over io_uring on for that. [`Error::NoUring`] where it cannot be: then nothing
    /// is mounted.
    fn over_uring(&self) -> Result<(Mounted, bool), Error> {
        let refused = |why: String| Error::NoUring { why };
        let switch = SwitchedOn::new(self.dir).map_err(refused)?;
        let agreed = Arc::new(AtomicBool::new(false));
        let filesystem = DiskFilesystem::with_uring(self.disk.clone(), agreed.clone());
        // One thread for what still comes by /dev/fuse: forgotten inodes and interrupts.
        let session = self.begin(filesystem, 1)?;
        let queues = match agreed.load(Relaxed) {
            true => {
                let (depth, poll) = (self.options.queue_depth, self.options.poll);
                Queues::start(session.as_fd(), self.disk, depth, poll, &self.on_death())
                    .map_err(|error| error.to_string())
            }
            false => Err("the kernel does not offer it".into()),
        };
        let queues = queues.map_err(|why| {
            // Whoever looked at the mount meanwhile waits for the queues, and those that are there for the connection's
            // end.
            let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
            if let Err(error) = rustix::mount::unmount(self.dir, flags) {
                tracing::warn!(%error, "a mount without io_uring stays: {}", self.dir.display());
            }
            refused(why)
        })?;
        let switched = switch.was_off();
        drop(switch);
        Ok((
            Mounted {
                session: self.spawn(session)?,
                queues: Some(queues),
            },
            switched,
        ))
    }

    fn spawn(&self, session: Session<DiskFilesystem>) -> Result<BackgroundSession, StepError> {
        session
            .spawn()
            .map_err(StepError::at("starting a thread for FUSE"))
    }

    /// Ends the connection, so that requests fail which would wait for ever, and tells whoever made the device.
    fn on_death(&self) -> OnDeath {
        let (dir, then) = (self.dir.to_owned(), self.options.on_death);
        Arc::new(move |error| {
            tracing::error!(%error, "a queue of FUSE over io_uring cannot go on: all requests fail");
            // Busy it stays mounted, but without a connection.
            let _ = rustix::mount::unmount(&dir, UnmountFlags::FORCE);
            if let Some(then) = then {
                then();
            }
        })
    }
}

impl Mounted {
    /// Unmounts and waits for the session's end, at most [`SESSION_END`]. A mount namespace that was made meanwhile (a
    /// container's, a service's) may hold a copy of the mount and so keep the session. Nobody uses that copy, and it goes with
    /// this process.
    fn unmount(self, dir: PathBuf) -> io::Result<()> {
        let (done, inbox) = std::sync::mpsc::channel();
        let end = move || {
            let ended = self.session.umount_and_join().or_else(|error| {
                // Where the connection was cut, how the session's threads ended says nothing of the mount.
                if is_mount_point(&dir) {
                    // The loop device is detached: nobody uses the disk. Who stands in the directory, or has its file open, is
                    // no reason to leave a node without a disk behind.
                    tracing::info!(%error, "somebody looks at the private mount, which goes with him");
                    return Ok(rustix::mount::unmount(&dir, UnmountFlags::DETACH)?);
                }
                tracing::info!(%error, "the FUSE session had ended before its mount");
                Ok(())
            });
            if ended.is_ok()
                && let Some(queues) = self.queues
            {
                queues.join();
            }
            done.send(ended)
        };
        std::thread::Builder::new()
            .name("fuse-unmount".into())
            .spawn(end)?;
        inbox.recv_timeout(SESSION_END).unwrap_or_else(|_| {
            tracing::info!("another mount namespace holds a copy of the FUSE mount");
            Ok(())
        })
    }
}
