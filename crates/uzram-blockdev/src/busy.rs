//! Names who uses a block device: mounts, swap areas, stacked devices, processes. The kernel only says EBUSY.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dev, StatxFlags, major, makedev, minor, statx};

use crate::mountinfo::{mounts, unescape};

/// What keeps a block device in use. `{}` adds what to do about it, `{:#}` leaves that out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Busy {
    /// It is mounted at this path.
    Mounted(PathBuf),
    /// It is a swap area.
    Swap,
    /// A process has it open.
    Open {
        /// The process's number.
        pid: u32,
        /// The process's name.
        name: String,
    },
    /// Another block device (device mapper, md) is stacked on it.
    Holder(String),
    /// The kernel refuses it, and nothing that this process can see explains why.
    Elsewhere,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = |f: &mut fmt::Formatter<'_>, program: &str| match f.alternate() {
            true => Ok(()),
            false => write!(f, " ({program} it first)"),
        };
        match self {
            Busy::Mounted(at) => {
                write!(f, "mounted at {}", at.display())?;
                advice(f, "umount")
            }
            Busy::Swap => {
                write!(f, "swapped on")?;
                advice(f, "swapoff")
            }
            Busy::Open { pid, name } => write!(f, "open in process {pid} ({name})"),
            Busy::Holder(name) => write!(f, "held by /dev/{name}"),
            Busy::Elsewhere => write!(
                f,
                "mounted in another mount namespace, or held by the kernel"
            ),
        }
    }
}

/// Finds who uses the block device at `node`, if anybody does. Searches this mount namespace's mounts, swap areas, devices
/// stacked on it, and the open files of other processes as far as this one may read them.
pub fn busy(node: &Path) -> Option<Busy> {
    let rdev = fs::metadata(node).ok()?.rdev();
    let (major, minor) = (major(rdev), minor(rdev));
    mounted(major, minor)
        .or_else(|| swapped(node))
        .or_else(|| holder(major, minor))
        .or_else(|| opener(rdev))
}

fn mounted(major: u32, minor: u32) -> Option<Busy> {
    let number = format!("{major}:{minor}");
    let mount = mounts().into_iter().find(|mount| mount.device == number)?;
    Some(Busy::Mounted(mount.path))
}

fn swapped(node: &Path) -> Option<Busy> {
    let swaps = fs::read_to_string("/proc/swaps").ok()?;
    let here = |line: &str| {
        line.split_whitespace()
            .next()
            .is_some_and(|path| unescape(path.as_bytes()) == node)
    };
    swaps.lines().skip(1).any(here).then_some(Busy::Swap)
}

fn holder(major: u32, minor: u32) -> Option<Busy> {
    let mut holders = fs::read_dir(format!("/sys/dev/block/{major}:{minor}/holders")).ok()?;
    let name = holders.next()?.ok()?.file_name();
    Some(Busy::Holder(name.to_string_lossy().into_owned()))
}

/// The device number behind `path`, from the kernel's cached attributes.
fn device_number(path: &Path) -> Option<Dev> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let found = statx(CWD, path, flags, StatxFlags::TYPE).ok()?;
    Some(makedev(found.stx_rdev_major, found.stx_rdev_minor))
}

fn opener(rdev: Dev) -> Option<Busy> {
    let own = std::process::id();
    let pids = fs::read_dir("/proc").ok()?.flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .find_map(|pid| {
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
            // Follows only links into /dev, and asks no file system's server. A stat on a file of a dead mount could hang,
            // and the server of a shim's /dev may be waiting for this very process.
            let into_dev = |path: &Path| fs::read_link(path).is_ok_and(|to| to.starts_with("/dev"));
            let is_it = |path: &Path| device_number(path) == Some(rdev);
            fds.map(|fd| fd.path())
                .find(|path| into_dev(path) && is_it(path))?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Some(Busy::Open {
                pid,
                name: name.trim_end().into(),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_where_it_helps() {
        let mounted = Busy::Mounted("/mnt".into());
        assert_eq!(mounted.to_string(), "mounted at /mnt (umount it first)");
        assert_eq!(format!("{mounted:#}"), "mounted at /mnt");
        assert_eq!(format!("{:#}", Busy::Swap), "swapped on");
    }

    #[test]
    fn a_node_that_is_not_there_is_not_busy() {
        assert_eq!(busy(Path::new("/dev/no-such-device")), None);
    }
}
