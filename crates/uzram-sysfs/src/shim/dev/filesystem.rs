//! `/dev` as a FUSE file system: turns each request into the same call on the real directory.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    FileAttr, FileType, FopenFlags, INodeNo, OpenFlags, ReplyData, ReplyWrite, Request, TimeOrNow,
};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, StatFs, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, chmodat,
    chownat, linkat, makedev, mkdirat, mknodat, openat, readlinkat, renameat_with, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::{Errno, Result};

use super::{DevFilesystem, attr_of, decode};
use crate::fuse::{AttrChange, DirEntry, FileTree, New, to_fuse};

const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

/// The errno as fuser has it.
fn std_errno(error: &std::io::Error) -> fuser::Errno {
    to_fuse(Errno::from_io_error(error).unwrap_or(Errno::IO))
}

impl DevFilesystem {
    fn own(&self, req: &Request, path: &Path, mode: Option<u32>) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(req.uid()), Gid::from_raw(req.gid()));
        chownat(&self.real, path, Some(uid), Some(gid), NOFOLLOW)?;
        // Restores what the server's umask removed. A symlink has no mode.
        match mode {
            Some(mode) => chmodat(&self.real, path, mode_of(mode), AtFlags::empty()),
            None => Ok(()),
        }
    }

    fn open_real(&self, path: &Path, flags: i32, mode: u32) -> Result<File> {
        // Each write comes with its offset, so not O_APPEND. NOFOLLOW: no link may lead out of the directory.
        let flags = OFlags::from_bits_retain((flags & !libc::O_APPEND) as u32);
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.real, path, flags, mode_of(mode)).map(File::from)
    }
}

fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, UTIME_OMIT),
        Some(TimeOrNow::Now) => (0, UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            (seconds, since.subsec_nanos().into())
        }
    };
    Timespec { tv_sec, tv_nsec }
}

impl FileTree for DevFilesystem {
    type File = File;
    const OPENED: FopenFlags = FopenFlags::empty();
    const ANSWERS_XATTR: bool = false;

    fn look(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr> {
        self.look_at(&self.child(parent, name)?)
    }

    fn attr(&self, ino: INodeNo, open: Option<&File>) -> Result<FileAttr> {
        let by_path = self.path(ino).and_then(|path| self.attr_at(&path));
        let attr = match (by_path, open) {
            (Err(Errno::NOENT), Some(file)) => attr_of(&rustix::fs::fstat(file)?),
            (found, _) => found?,
        };
        Ok(FileAttr { ino, ..attr })
    }

    fn set(&self, ino: INodeNo, change: &AttrChange, open: Option<&File>) -> Result<()> {
        let path = self.changeable_at(ino)?;
        if let Some(mode) = change.mode {
            chmodat(&self.real, &path, mode_of(mode), AtFlags::empty())?;
        }
        let (uid, gid) = change.owner;
        if uid.is_some() || gid.is_some() {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            chownat(&self.real, &path, uid, gid, NOFOLLOW)?;
        }
        let (accessed, modified) = change.times;
        if accessed.is_some() || modified.is_some() {
            let times = Timestamps {
                last_access: timespec(accessed),
                last_modification: timespec(modified),
            };
            utimensat(&self.real, &path, &times, NOFOLLOW)?;
        }
        match (change.size, open) {
            (None, _) => Ok(()),
            (Some(size), Some(file)) => rustix::fs::ftruncate(file, size),
            (Some(size), None) => {
                rustix::fs::ftruncate(self.open_real(&path, libc::O_WRONLY, 0)?, size)
            }
        }
    }

    fn target(&self, ino: INodeNo) -> Result<Vec<u8>> {
        Ok(readlinkat(&self.real, self.path(ino)?, Vec::new())?.into_bytes())
    }

    fn open(&self, ino: INodeNo, flags: OpenFlags) -> Result<File> {
        self.open_real(&self.path(ino)?, flags.0, 0)
    }

    fn read(&self, file: Arc<File>, offset: u64, size: usize, reply: ReplyData) {
        let mut buffer = vec![0; size];
        let mut done = 0;
        // Reads all that is asked for: the kernel takes a short read for the end.
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(error) => return reply.error(std_errno(&error)),
            }
        }
        reply.data(&buffer[..done]);
    }

    fn write(&self, file: Arc<File>, offset: u64, data: &[u8], reply: ReplyWrite) {
        match file.write_at(data, offset) {
            Ok(len) => reply.written(len as u32),
            Err(error) => reply.error(std_errno(&error)),
        }
    }

    fn list(&self, ino: INodeNo) -> Result<Vec<DirEntry>> {
        let dots = [".", ".."].map(|dot| (dot.into(), FileType::Directory));
        let names = self.list_at(&self.path(ino)?)?;
        // An entry's own number is found when it is looked up.
        let entry = |(name, kind)| DirEntry { ino, kind, name };
        Ok(dots.into_iter().chain(names).map(entry).collect())
    }

    /// Gives what it makes to the caller, with exactly that mode.
    fn make(&self, by: &Request, parent: INodeNo, name: &OsStr, new: New<'_>) -> Result<FileAttr> {
        let (real, path) = (&self.real, self.changeable(parent, name)?);
        match new {
            New::Node(mode, rdev) => {
                let (major, minor) = decode(rdev);
                let kind = rustix::fs::FileType::from_raw_mode(mode);
                mknodat(real, &path, kind, mode_of(mode), makedev(major, minor))?;
                self.own(by, &path, Some(mode))?;
            }
            New::Directory(mode) => {
                mkdirat(real, &path, mode_of(mode))?;
                self.own(by, &path, Some(mode))?;
            }
            New::Symlink(target) => {
                symlinkat(target, real, &path)?;
                self.own(by, &path, None)?;
            }
            New::Link(ino) => {
                linkat(
                    real,
                    self.changeable_at(ino)?,
                    real,
                    &path,
                    AtFlags::empty(),
                )?;
            }
        }
        self.look_at(&path)
    }

    fn create(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<(FileAttr, File)> {
        let path = self.changeable(parent, name)?;
        let file = self.open_real(&path, flags | libc::O_CREAT, mode)?;
        self.own(by, &path, Some(mode))?;
        Ok((self.look_at(&path)?, file))
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, directory: bool) -> Result<()> {
        let flags = match directory {
            true => AtFlags::REMOVEDIR,
            false => AtFlags::empty(),
        };
        unlinkat(&self.real, self.changeable(parent, name)?, flags)
    }

    fn rename(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr), flags: u32) -> Result<()> {
        let (old, new) = (
            self.changeable(from.0, from.1)?,
            self.changeable(to.0, to.1)?,
        );
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags);
        renameat_with(&self.real, old, &self.real, new, flags)
    }

    fn statfs(&self) -> Result<Option<StatFs>> {
        rustix::fs::fstatfs(&self.real).map(Some)
    }
}
