//! `/dev` with the view's devices: the real directory, passed through, without the kernel's own zram.
//!
//! The alternative was an overlay file system with nodes made in it. This one asks the view at each look, so it also shows
//! devices that others add and numbers that change. It needs only FUSE of the kernel, and what programs make in `/dev` is
//! where others look for it.
//!
//! A node's data never passes here: the kernel opens the device that the node names.

mod filesystem;

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Stat, major, minor, openat, statat};
use rustix::io::Errno;
use uzram_blockdev::StepError;
use uzram_control::zram::View;

use super::toolbox::HIDDEN;
use crate::Error;
use crate::fuse::attributes;
use crate::inodes::Inodes;
use crate::tree::{is_zram, number};

/// Inode number of our own entries. The real file system has none so high.
const OURS: u64 = u64::MAX;

/// Identifies an entry below `/dev`. Another node of the same name is another entry, since the kernel keeps an inode's first
/// device number.
#[derive(PartialEq, Eq, Hash)]
struct DevKey {
    /// Relative to `/dev`, which is `.`.
    path: PathBuf,
    inode: u64,
    rdev: u32,
}

pub(super) struct DevFilesystem {
    view: Arc<dyn View>,
    /// The real `/dev`.
    real: OwnedFd,
    inodes: Inodes<DevKey>,
    born: SystemTime,
}

impl DevFilesystem {
    pub(super) fn new(view: Arc<dyn View>) -> Result<DevFilesystem, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let real =
            openat(CWD, "/dev", flags, Mode::empty()).map_err(StepError::at("opening /dev"))?;
        Ok(DevFilesystem {
            view,
            real,
            inodes: Inodes::new(DevKey {
                path: ".".into(),
                inode: 0,
                rdev: 0,
            }),
            born: SystemTime::now(),
        })
    }

    fn path(&self, ino: INodeNo) -> Result<PathBuf, Errno> {
        let key = self.inodes.key(ino).ok_or(Errno::NOENT)?;
        Ok(key.path.clone())
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf, Errno> {
        Ok(if parent == INodeNo::ROOT {
            name.into()
        } else {
            self.path(parent)?.join(name)
        })
    }

    /// The path of an entry to make, remove or rename. EPERM for our own entries.
    fn changeable(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf, Errno> {
        not_ours(self.child(parent, name)?)
    }

    /// The path of an entry to change. EPERM for our own entries.
    fn changeable_at(&self, ino: INodeNo) -> Result<PathBuf, Errno> {
        not_ours(self.path(ino)?)
    }

    /// Looks an entry up, and gives it an inode number.
    fn look_at(&self, path: &Path) -> Result<FileAttr, Errno> {
        let mut attr = self.attr_at(path)?;
        // The root keeps its number, whatever the real directory's is.
        let (inode, rdev) = match path == Path::new(".") {
            true => (0, 0),
            false => (attr.ino.0, attr.rdev),
        };
        attr.ino = self.inodes.number(DevKey {
            path: path.into(),
            inode,
            rdev,
        });
        Ok(attr)
    }

    /// Reads an entry's attributes, with the real inode number.
    fn attr_at(&self, path: &Path) -> Result<FileAttr, Errno> {
        if !is_ours(path) {
            let stat = statat(&self.real, path, AtFlags::SYMLINK_NOFOLLOW)?;
            return Ok(attr_of(&stat));
        }
        let (kind, perm, rdev) = if path == Path::new(HIDDEN) {
            (FileType::Directory, 0o755, 0)
        } else {
            let name = path.to_str().unwrap_or_default();
            let devices = self.view.devices()?;
            let found = devices
                .iter()
                .find(|shown| name == format!("zram{}", shown.id));
            let (major, minor) = number(found.ok_or(Errno::NOENT)?);
            (FileType::BlockDevice, 0o600, encode(major, minor))
        };
        Ok(FileAttr {
            rdev,
            ..attributes(INodeNo(OURS), kind, perm, self.born)
        })
    }

    fn list_at(&self, path: &Path) -> Result<Vec<(OsString, FileType)>, Errno> {
        let mut names = Vec::new();
        if path == Path::new(HIDDEN) {
            return Ok(names);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let is_root = path == Path::new(".");
        for entry in Dir::new(openat(&self.real, path, flags, Mode::empty())?)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." || (is_root && is_ours(Path::new(name))) {
                continue;
            }
            names.push((name.into(), kind_of(entry.file_type())));
        }
        if is_root {
            // An error of the view hides only our own nodes.
            for shown in self.view.devices().unwrap_or_default() {
                names.push((format!("zram{}", shown.id).into(), FileType::BlockDevice));
            }
        }
        Ok(names)
    }
}

/// Whether the entry is our own: a device of the view or the toolbox, directly in `/dev`.
fn is_ours(path: &Path) -> bool {
    path == Path::new(HIDDEN) || path.to_str().is_some_and(is_zram)
}

fn not_ours(path: PathBuf) -> Result<PathBuf, Errno> {
    match is_ours(&path) {
        true => Err(Errno::PERM),
        false => Ok(path),
    }
}

fn attr_of(stat: &Stat) -> FileAttr {
    let time = |seconds: i64, nanoseconds: u64| {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
    };
    #[allow(clippy::unnecessary_cast)] // The fields' types differ between architectures.
    FileAttr {
        ino: INodeNo(stat.st_ino as u64),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime as i64, stat.st_atime_nsec as u64),
        mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
        ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind_of(rustix::fs::FileType::from_raw_mode(stat.st_mode)),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: encode(major(stat.st_rdev), minor(stat.st_rdev)),
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

fn kind_of(kind: rustix::fs::FileType) -> FileType {
    use rustix::fs::FileType as Real;
    match kind {
        Real::Symlink => FileType::Symlink,
        Real::Directory => FileType::Directory,
        Real::CharacterDevice => FileType::CharDevice,
        Real::BlockDevice => FileType::BlockDevice,
        Real::Fifo => FileType::NamedPipe,
        Real::Socket => FileType::Socket,
        Real::RegularFile | Real::Unknown => FileType::RegularFile,
    }
}

/// Encodes a device number in FUSE's 32 bits: 20 of the minor, in two parts, around 12 of the major.
fn encode(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// Decodes what [`encode`] made.
fn decode(rdev: u32) -> (u32, u32) {
    (
        (rdev >> 8) & 0xfff,
        (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_they_went() {
        for (major, minor) in [(0, 0), (7, 3), (253, 0), (259, 0x12345), (4000, 0xf_ffff)] {
            assert_eq!(decode(encode(major, minor)), (major, minor));
        }
        assert_eq!(encode(7, 3), 0x703);
    }

    #[test]
    fn ours_are_only_names_of_devices_directly_in_dev() {
        for (path, ours) in [
            ("zram0", true),
            ("zram12", true),
            (".uzram", true),
            ("zram", false),
            ("zram01", false),
            ("zram-control", false),
            ("disk/zram0", false),
        ] {
            assert_eq!(is_ours(Path::new(path)), ours, "{path}");
        }
    }
}
