//! The whole: mount, file, loop device; and taking it apart again, also what a killed server left behind.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption};
use rustix::mount::UnmountFlags;
use uzram::Device;

use crate::disk::{Disk, FILE_NAME};
use crate::{Error, loopdev};
use uzram_blockdev::mounts;

/// How long a FUSE session may take to end once it is unmounted.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// A device that is served as a loop device by this process.
pub struct FuseLoop {
    node: PathBuf,
    dir: PathBuf,
    /// `None` once removed.
    session: Option<BackgroundSession>,
}

/// Says why this machine or user cannot have a loop device on FUSE, if so.
pub fn probe() -> Result<(), String> {
    let open = |path: &str| OpenOptions::new().read(true).write(true).open(path);
    for path in ["/dev/fuse", "/dev/loop-control"] {
        open(path).map_err(|error| format!("{path}: {error}"))?;
    }
    if !rustix::process::geteuid().is_root() {
        return Err("mounting and loop devices need root".into());
    }
    Ok(())
}

impl FuseLoop {
    /// Mounts at `dir` (made if absent) and attaches a loop device, that of `number` or a free one. When this returns,
    /// the node works: its first block was read through it.
    pub fn create(
        device: Arc<Device>,
        name: &str,
        dir: &Path,
        number: Option<u32>,
    ) -> Result<FuseLoop, Error> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
        made.map_err(Error::at(format!("making {}", dir.display())))?;
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
        let session = fuser::spawn_mount(Disk::new(device), dir, &config)
            .map_err(Error::at(format!("mounting FUSE at {}", dir.display())))?;
        let mut this = FuseLoop {
            node: PathBuf::new(),
            dir: dir.into(),
            session: Some(session),
        };
        match this.attach(block_size, number) {
            Ok(()) => Ok(this),
            Err(error) => {
                // Leave nothing behind; the first error is the one that matters.
                let _ = this.remove();
                Err(error)
            }
        }
    }

    fn attach(&mut self, block_size: u32, number: Option<u32>) -> Result<(), Error> {
        let path = self.dir.join(FILE_NAME);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(Error::at(format!("opening {}", path.display())))?;
        self.node = loopdev::attach(&file, &path, block_size, number)?;
        let probe = || {
            let mut node = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(&self.node)?;
            // Direct I/O wants an aligned buffer: 4096 bytes out of twice as many.
            let mut buffer = vec![0u8; 8192];
            let at = buffer.as_ptr().align_offset(4096);
            node.read_exact(&mut buffer[at..at + 4096])
        };
        probe().map_err(Error::at(format!("reading {}", self.node.display())))
    }

    /// The loop device's node.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// Tells the kernel the device's size, after it was changed.
    pub fn resized(&self) -> Result<(), Error> {
        let path = self.dir.join(FILE_NAME);
        let looked = rustix::fs::statx(
            rustix::fs::CWD,
            &path,
            // The kernel knows the file's size from before.
            rustix::fs::AtFlags::STATX_FORCE_SYNC,
            rustix::fs::StatxFlags::SIZE,
        );
        looked.map_err(Error::at(format!("looking at {}", path.display())))?;
        let node = OpenOptions::new().read(true).open(&self.node);
        let resized = node.and_then(crate::sys::set_capacity);
        resized.map_err(Error::at(format!("resizing {}", self.node.display())))
    }

    /// Takes the node for the caller alone: while the result lives nobody can mount it or swap on it.
    /// [`Error::Node`] names who uses it now. `None`: the loop device was detached by somebody.
    pub fn exclusive(&self) -> Result<Option<File>, Error> {
        loopdev::exclusive(&self.node, &self.dir.join(FILE_NAME))
    }

    /// Detaches the loop device, unmounts, removes the directory. After [`Error::Node`] all is as before; called
    /// again after success it does nothing.
    pub fn remove(&mut self) -> Result<(), Error> {
        if !self.node.as_os_str().is_empty() {
            loopdev::detach(&self.node, &self.dir.join(FILE_NAME))?;
        }
        if let Some(session) = self.session.take() {
            end(session).map_err(Error::at(format!("unmounting {}", self.dir.display())))?;
        }
        // Also gone is fine.
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }
}

/// Unmounts and waits for the session's end, but not for long: a mount namespace that was made meanwhile (a container's, a
/// service's) may hold a copy of the mount, and its session with it. Nobody uses that, and it goes with this process.
fn end(session: BackgroundSession) -> std::io::Result<()> {
    let (done, inbox) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("unmount".into())
        .spawn(move || done.send(session.umount_and_join()))?;
    match inbox.recv_timeout(END_PATIENCE) {
        Ok(ended) => ended,
        Err(_) => {
            tracing::info!("another mount namespace holds a copy of the FUSE mount");
            Ok(())
        }
    }
}

/// Clears what a server that died left of a [`FuseLoop`] at `dir`: loop devices on its file, the dead mount, the
/// directory. Returns what was cleared, in words. [`Error::Node`] where something is still mounted on the loop
/// device: its data is lost, but to unmount it is its user's to do.
pub fn clear_stale(dir: &Path) -> Result<Vec<String>, Error> {
    let mut cleared = Vec::new();
    let file = dir.join(FILE_NAME);
    for node in loopdev::on_file(&file) {
        loopdev::detach(&node, &file)?;
        cleared.push(format!("loop device {}", node.display()));
    }
    if detach_mount(dir)? {
        cleared.push(format!("mount {}", dir.display()));
    }
    let _ = fs::remove_dir(dir);
    Ok(cleared)
}

/// Makes room at `dir` for another mount while loop devices on a dead server's file are still in use. They fail from now
/// on, and go with their last user.
pub fn abandon(dir: &Path) -> Result<(), Error> {
    for node in loopdev::on_file(&dir.join(FILE_NAME)) {
        loopdev::let_go(&node)?;
    }
    detach_mount(dir).map(drop)
}

/// Takes a dead server's FUSE mount from `dir`. Returns whether there was one.
fn detach_mount(dir: &Path) -> Result<bool, Error> {
    let mut found = false;
    while is_mounted(dir) {
        rustix::mount::unmount(dir, UnmountFlags::DETACH)
            .map_err(Error::at(format!("unmounting {}", dir.display())))?;
        found = true;
    }
    Ok(found)
}

/// By the mount table: to stat the directory would fail, the server being dead.
fn is_mounted(dir: &Path) -> bool {
    mounts().iter().any(|mount| mount.at == dir)
}
