//! Devices that live and whose record cannot be read: somebody emptied or removed it, or the disk was full. Nobody finds such
//! a device by its record, so that its directory has to speak.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::SERVER_SOCKET;
use crate::rundir::{LOCK, RECORD, record_at};
use crate::trust::PrivateDir;

/// How long a record may not be there while a device is being made or taken down.
const MOMENT: Duration = Duration::from_millis(100);

/// A device whose lock is held, and whose record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedDevice {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// What is wrong with the record.
    pub why: String,
    /// The processes that hold the lock: keeper and server. None where this user may not see them.
    pub holders: Vec<u32>,
}

impl DamagedDevice {
    /// The device at a directory, if it is one.
    pub(crate) fn at(dir: &PrivateDir, name: &str) -> Option<DamagedDevice> {
        let why = damage(dir, name)?;
        // One that is being made or taken down has no record for a moment, and no socket for longer than that.
        let has = |file: &str| dir.identity(file).is_some();
        if !has(RECORD) {
            if !has(SERVER_SOCKET) {
                return None;
            }
            std::thread::sleep(MOMENT);
            if !has(SERVER_SOCKET) {
                return None;
            }
        }
        let why = damage(dir, name).or(Some(why).filter(|_| !has(RECORD)))?;
        if is_locked(dir.path()) != Some(true) {
            return None;
        }
        Some(DamagedDevice {
            name: name.into(),
            dir: dir.path().into(),
            why,
            holders: holders(&dir.path().join(LOCK)),
        })
    }

    /// The numbers of the processes that hold it, in words.
    pub fn pids(&self) -> String {
        let pids: Vec<_> = self.holders.iter().map(u32::to_string).collect();
        match pids.is_empty() {
            true => "processes that cannot be seen from here".into(),
            false => format!("process {}", pids.join(" and ")),
        }
    }
}

impl fmt::Display for DamagedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.dir.join(RECORD);
        write!(
            f,
            "the record of {} is damaged ({}: {}); the device lives, held by {}",
            self.name,
            record.display(),
            self.why,
            self.pids()
        )
    }
}

/// What is wrong with a record; `None` if nothing is.
fn damage(dir: &PrivateDir, name: &str) -> Option<String> {
    record_at(dir, name).err()
}

/// Whether somebody holds a device's lock; `None` where there is none, or this user may not look.
pub(crate) fn is_locked(dir: &Path) -> Option<bool> {
    // Nothing is made here: a lock that is not there is that of a device that was removed.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let lock = rustix::fs::open(dir.join(LOCK), flags, Mode::empty()).ok()?;
    Some(rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
}

/// The processes that have a file open. The lock is inherited, so that the kernel's table of locks names only who took it.
fn holders(file: &Path) -> Vec<u32> {
    let number = |name: &OsStr| name.to_str()?.parse::<u32>().ok();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = processes
        .filter_map(|entry| number(&entry.file_name()))
        .filter(|pid| {
            let fds = fs::read_dir(format!("/proc/{pid}/fd"));
            let mut fds = fds.into_iter().flatten().flatten();
            *pid != std::process::id()
                && fds.any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == file))
        })
        .collect();
    pids.sort_unstable();
    pids
}
