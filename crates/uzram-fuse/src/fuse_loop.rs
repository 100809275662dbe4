//! A device served as a loop device: mounts the file, attaches the loop device, and takes both down again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption};
use uzram::Device;
use uzram_blockdev::{StepError, open_rw, read_first_block};

use crate::filesystem::DiskFilesystem;
use crate::stale::disk_file;
use crate::{Error, loopdev, sys};

/// How long a FUSE session may take to end once it is unmounted.
const SESSION_END: Duration = Duration::from_secs(1);

/// What a loop device is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoopOptions {
    /// N of `/dev/loopN`; `None` takes a free one.
    pub number: Option<u32>,
    /// Whether the kernel reads the partition table, now and whenever it is told to.
    pub partscan: bool,
}

/// A device that this process serves as a loop device.
pub struct FuseLoop {
    node: PathBuf,
    dir: PathBuf,
    /// `None` once removed.
    session: Option<BackgroundSession>,
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

impl FuseLoop {
    /// Mounts at `dir` (made if absent) and attaches a loop device. On return the node works: its first block was read
    /// through it.
    pub fn create(
        device: Arc<Device>,
        name: &str,
        dir: &Path,
        options: &LoopOptions,
    ) -> Result<FuseLoop, Error> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
        made.map_err(StepError::at(format!("making {}", dir.display())))?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(format!("uzram:{name}")),
            MountOption::Subtype("uzram".into()),
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            MountOption::NoAtime,
        ];
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        config.n_threads = Some(cpus.clamp(2, 8));
        config.clone_fd = true;
        let block_size = device.logical_block_size();
        let name = disk_file(dir).file_name().unwrap_or_default().to_owned();
        let session = fuser::spawn_mount(DiskFilesystem::new(device, name), dir, &config)
            .map_err(StepError::at(format!("mounting FUSE at {}", dir.display())))?;
        let mut this = FuseLoop {
            node: PathBuf::new(),
            dir: dir.into(),
            session: Some(session),
        };
        match this.attach(block_size, options) {
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
        let LoopOptions { number, partscan } = *options;
        let path = self.file();
        let file = open_rw(&path)?;
        self.node = loopdev::attach(&file, &path, block_size, number, partscan)?;
        Ok(read_first_block(&self.node)?)
    }

    /// The loop device's node.
    pub fn node(&self) -> &Path {
        &self.node
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

    /// Detaches the loop device, unmounts, and removes the directory. Changes nothing where somebody uses the device
    /// ([`Error::Node`]). A second call after success does nothing.
    pub fn remove(&mut self) -> Result<(), Error> {
        if !self.node.as_os_str().is_empty() {
            loopdev::detach(&self.node, &self.file())?;
        }
        if let Some(session) = self.session.take() {
            let step = format!("unmounting {}", self.dir.display());
            unmount(session).map_err(StepError::at(step))?;
        }
        // It may be gone already.
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }
}

/// Unmounts and waits for the session's end, at most [`SESSION_END`]. A mount namespace that was made meanwhile (a
/// container's, a service's) may hold a copy of the mount and so keep the session. Nobody uses that copy, and it goes with
/// this process.
fn unmount(session: BackgroundSession) -> io::Result<()> {
    let (done, inbox) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("fuse-unmount".into())
        .spawn(move || done.send(session.umount_and_join()))?;
    inbox.recv_timeout(SESSION_END).unwrap_or_else(|_| {
        tracing::info!("another mount namespace holds a copy of the FUSE mount");
        Ok(())
    })
}
