//! `/dev` as a FUSE file system: turns each request into the same call on the real directory.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, chmodat, chownat,
    linkat, makedev, mkdirat, mknodat, openat, readlinkat, renameat_with, symlinkat, unlinkat,
    utimensat,
};
use rustix::io;

use super::{DevFilesystem, decode};
use crate::fuse::{UNCACHED, to_fuse};

const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

fn answer(done: io::Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(to_fuse(errno)),
    }
}

fn entry(found: io::Result<FileAttr>, reply: ReplyEntry) {
    match found {
        Ok(attr) => reply.entry(&UNCACHED, &attr, Generation(0)),
        Err(errno) => reply.error(to_fuse(errno)),
    }
}

fn std_errno(error: &std::io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(libc::EIO))
}

impl DevFilesystem {
    /// Makes an entry with `make`, and gives it to the caller with exactly that mode.
    fn make(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: Option<u32>,
        make: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<FileAttr> {
        let path = self.changeable(parent, name)?;
        make(&path)?;
        self.own(req, &path, mode)?;
        self.look(&path)
    }

    fn own(&self, req: &Request, path: &Path, mode: Option<u32>) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(req.uid()), Gid::from_raw(req.gid()));
        chownat(&self.real, path, Some(uid), Some(gid), NOFOLLOW)?;
        // Restores what the server's umask removed. A symlink has no mode.
        match mode {
            Some(mode) => chmodat(&self.real, path, mode_of(mode), AtFlags::empty()),
            None => Ok(()),
        }
    }

    fn set(
        &self,
        path: &Path,
        mode: Option<u32>,
        owner: (Option<u32>, Option<u32>),
        times: (Option<TimeOrNow>, Option<TimeOrNow>),
    ) -> io::Result<()> {
        if let Some(mode) = mode {
            chmodat(&self.real, path, mode_of(mode), AtFlags::empty())?;
        }
        if let (uid, gid) = owner
            && (uid.is_some() || gid.is_some())
        {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            chownat(&self.real, path, uid, gid, NOFOLLOW)?;
        }
        if let (accessed, modified) = times
            && (accessed.is_some() || modified.is_some())
        {
            let times = Timestamps {
                last_access: timespec(accessed),
                last_modification: timespec(modified),
            };
            utimensat(&self.real, path, &times, NOFOLLOW)?;
        }
        Ok(())
    }

    fn open_real(&self, path: &Path, flags: i32, mode: u32) -> io::Result<File> {
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

impl Filesystem for DevFilesystem {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(
            self.child(parent, name).and_then(|path| self.look(&path)),
            reply,
        );
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let by_path = self.path(ino).and_then(|path| self.attr(&path));
        // An open file that was removed has no path.
        let found = match (by_path, fh.map(|fh| self.file(fh))) {
            (Err(io::Errno::NOENT), Some(Ok(file))) => {
                rustix::fs::fstat(&*file).map(|stat| super::attr_of(&stat))
            }
            (found, _) => found,
        };
        match found {
            Ok(attr) => reply.attr(&UNCACHED, &FileAttr { ino, ..attr }),
            Err(errno) => reply.error(to_fuse(errno)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = || {
            let path = self.changeable_at(ino)?;
            self.set(&path, mode, (uid, gid), (atime, mtime))?;
            if let Some(size) = size {
                match fh.map(|fh| self.file(fh)) {
                    Some(Ok(file)) => rustix::fs::ftruncate(&*file, size)?,
                    _ => rustix::fs::ftruncate(self.open_real(&path, libc::O_WRONLY, 0)?, size)?,
                }
            }
            Ok(())
        };
        match set() {
            Ok(()) => self.getattr(req, ino, fh, reply),
            Err(errno) => reply.error(to_fuse(errno)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let path = self.path(ino);
        match path.and_then(|path| readlinkat(&self.real, &path, Vec::new())) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(to_fuse(errno)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (major, minor) = decode(rdev);
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let number = makedev(major, minor);
        let make = |path: &Path| mknodat(&self.real, path, kind, mode_of(mode), number);
        entry(self.make(req, parent, name, Some(mode), make), reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let make = |path: &Path| mkdirat(&self.real, path, mode_of(mode));
        entry(self.make(req, parent, name, Some(mode), make), reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let make = |path: &Path| symlinkat(target, &self.real, path);
        entry(self.make(req, parent, link_name, None, make), reply);
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let make = || {
            let old = self.changeable_at(ino)?;
            let new = self.changeable(newparent, newname)?;
            linkat(&self.real, &old, &self.real, &new, AtFlags::empty())?;
            self.look(&new)
        };
        entry(make(), reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let path = self.changeable(parent, name);
        answer(
            path.and_then(|path| unlinkat(&self.real, &path, AtFlags::empty())),
            reply,
        );
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let path = self.changeable(parent, name);
        answer(
            path.and_then(|path| unlinkat(&self.real, &path, AtFlags::REMOVEDIR)),
            reply,
        );
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let paths = || -> io::Result<(PathBuf, PathBuf)> {
            Ok((
                self.changeable(parent, name)?,
                self.changeable(newparent, newname)?,
            ))
        };
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let renamed =
            paths().and_then(|(old, new)| renameat_with(&self.real, &old, &self.real, &new, flags));
        answer(renamed, reply);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let path = self.path(ino);
        match path.and_then(|path| self.open_real(&path, flags.0, 0)) {
            Ok(file) => reply.opened(self.files.open(file), FopenFlags::empty()),
            Err(errno) => reply.error(to_fuse(errno)),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let make = || {
            let path = self.changeable(parent, name)?;
            let file = self.open_real(&path, flags | libc::O_CREAT, mode)?;
            self.own(req, &path, Some(mode))?;
            Ok((self.look(&path)?, file))
        };
        match make() {
            Ok((attr, file)) => reply.created(
                &UNCACHED,
                &attr,
                Generation(0),
                self.files.open(file),
                FopenFlags::empty(),
            ),
            Err(errno) => reply.error(to_fuse(errno)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = match self.file(fh) {
            Ok(file) => file,
            Err(errno) => return reply.error(to_fuse(errno)),
        };
        let mut buffer = vec![0; size as usize];
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

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.file(fh) {
            Ok(file) => match file.write_at(data, offset) {
                Ok(len) => reply.written(len as u32),
                Err(error) => reply.error(std_errno(&error)),
            },
            Err(errno) => reply.error(to_fuse(errno)),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // `/dev` is in memory.
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.close(fh);
        reply.ok();
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(self.dirs.reserve(), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let list = || self.list(&self.path(ino)?);
        let names = match self.dirs.listing(fh, offset, list) {
            Ok(names) => names,
            Err(errno) => return reply.error(to_fuse(errno)),
        };
        let dots = [".", ".."].map(|dot| (OsStr::new(dot), FileType::Directory));
        let names = names.iter().map(|(name, kind)| (name.as_os_str(), *kind));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (name, kind)) in dots.into_iter().chain(names).enumerate().skip(skip) {
            // The entry's own number is found when it is looked up.
            if reply.add(ino, index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.dirs.close(fh);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match rustix::fs::fstatfs(&self.real) {
            Ok(real) => reply.statfs(
                real.f_blocks,
                real.f_bfree,
                real.f_bavail,
                real.f_files,
                real.f_ffree,
                real.f_bsize as u32,
                real.f_namelen as u32,
                real.f_bsize as u32,
            ),
            Err(errno) => reply.error(to_fuse(errno)),
        }
    }
}
