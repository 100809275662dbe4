//! What both FUSE file systems of this crate share: the protocol's calls, in terms of [`FileTree`], with the tables of open
//! handles, attributes and errnos.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use rustix::fs::StatFs;
use rustix::io::{Errno, Result};

use crate::inodes::lock;

/// A file system by what each call comes to. Where it cannot be changed the defaults say so.
pub(crate) trait FileTree: Send + Sync + 'static {
    /// An open file.
    type File: Send + Sync;
    /// How files are opened.
    const OPENED: FopenFlags;
    /// Whether the calls for extended attributes are answered at all: with none.
    const ANSWERS_XATTR: bool;

    /// Looks an entry up, and gives it an inode number.
    fn look(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr>;

    /// Reads an entry's attributes. An open file that was removed has no path.
    fn attr(&self, ino: INodeNo, open: Option<&Self::File>) -> Result<FileAttr>;

    /// Changes an entry's attributes.
    fn set(&self, ino: INodeNo, change: &AttrChange, open: Option<&Self::File>) -> Result<()>;

    /// What a symlink holds.
    fn target(&self, ino: INodeNo) -> Result<Vec<u8>>;

    fn open(&self, ino: INodeNo, flags: OpenFlags) -> Result<Self::File>;

    /// Reads a file and replies, at once or from another thread.
    fn read(&self, file: Arc<Self::File>, offset: u64, size: usize, reply: ReplyData);

    /// Writes a file and replies, at once or from another thread.
    fn write(&self, file: Arc<Self::File>, offset: u64, data: &[u8], reply: ReplyWrite);

    /// A directory's entries, `.` and `..` among them.
    fn list(&self, ino: INodeNo) -> Result<Vec<DirEntry>>;

    /// Makes an entry that is no open file, and looks it up.
    fn make(&self, _by: &Request, _parent: INodeNo, _name: &OsStr, _: New<'_>) -> Result<FileAttr> {
        Err(Errno::PERM)
    }

    /// Makes a file, if it is not there, and opens it.
    fn create(
        &self,
        _by: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _flags: i32,
    ) -> Result<(FileAttr, Self::File)> {
        Err(Errno::ACCESS)
    }

    /// Removes a directory, or another entry.
    fn remove(&self, _parent: INodeNo, _name: &OsStr, _directory: bool) -> Result<()> {
        Err(Errno::PERM)
    }

    fn rename(&self, _from: (INodeNo, &OsStr), _to: (INodeNo, &OsStr), _flags: u32) -> Result<()> {
        Err(Errno::PERM)
    }

    /// Its size, as far as it has one.
    fn statfs(&self) -> Result<Option<StatFs>> {
        Ok(None)
    }
}

/// What an entry's attributes become.
pub(crate) struct AttrChange {
    pub(crate) mode: Option<u32>,
    pub(crate) owner: (Option<u32>, Option<u32>),
    pub(crate) size: Option<u64>,
    /// Accessed, modified.
    pub(crate) times: (Option<TimeOrNow>, Option<TimeOrNow>),
}

/// An entry to be made.
pub(crate) enum New<'a> {
    /// A node of that mode, which holds its kind, and number.
    Node(u32, u32),
    Directory(u32),
    Symlink(&'a Path),
    /// A hard link to that entry.
    Link(INodeNo),
}

/// An entry of a directory's listing.
pub(crate) struct DirEntry {
    pub(crate) ino: INodeNo,
    pub(crate) kind: FileType,
    pub(crate) name: OsString,
}

/// Serves [`FileTree`].
pub(crate) struct Fuse<T: FileTree> {
    files: T,
    open: Handles<T::File>,
    listings: Handles<Vec<DirEntry>>,
}

impl<T: FileTree> Fuse<T> {
    pub(crate) fn new(files: T) -> Fuse<T> {
        Fuse {
            files,
            open: Handles::new(),
            listings: Handles::new(),
        }
    }

    fn file(&self, handle: FileHandle) -> Result<Arc<T::File>> {
        self.open.get(handle).ok_or(Errno::BADF)
    }

    fn opened(&self, handle: Option<FileHandle>) -> Option<Arc<T::File>> {
        handle.and_then(|handle| self.open.get(handle))
    }
}

/// Replies with what a call came to.
macro_rules! answer {
    ($reply:ident, $result:expr, $ok:pat => $done:expr) => {
        match $result {
            Ok($ok) => $done,
            Err(errno) => $reply.error(to_fuse(errno)),
        }
    };
}

fn entry(found: Result<FileAttr>, reply: ReplyEntry) {
    answer!(reply, found, attr => reply.entry(&UNCACHED, &attr, Generation(0)));
}

fn done(result: Result<()>, reply: ReplyEmpty) {
    answer!(reply, result, () => reply.ok());
}

/// The answer about extended attributes. Where none is given, the kernel does not ask again.
fn xattr_error<T: FileTree>(answer: Errno) -> fuser::Errno {
    to_fuse(match T::ANSWERS_XATTR {
        true => answer,
        false => Errno::NOSYS,
    })
}

impl<T: FileTree> Filesystem for Fuse<T> {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.files.look(parent, name), reply);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.files.attr(ino, self.opened(fh).as_deref());
        answer!(reply, found, attr => reply.attr(&UNCACHED, &attr));
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
        let change = AttrChange {
            mode,
            owner: (uid, gid),
            size,
            times: (atime, mtime),
        };
        let set = self.files.set(ino, &change, self.opened(fh).as_deref());
        answer!(reply, set, () => self.getattr(req, ino, fh, reply));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        answer!(reply, self.files.target(ino), target => reply.data(&target));
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
        let node = New::Node(mode, rdev);
        entry(self.files.make(req, parent, name, node), reply);
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
        let directory = New::Directory(mode);
        entry(self.files.make(req, parent, name, directory), reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let link = New::Symlink(target);
        entry(self.files.make(req, parent, name, link), reply);
    }

    fn link(&self, req: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.files.make(req, parent, name, New::Link(ino)), reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.files.remove(parent, name, false), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.files.remove(parent, name, true), reply);
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
        let (from, to) = ((parent, name), (newparent, newname));
        done(self.files.rename(from, to, flags.bits()), reply);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.files.open(ino, flags);
        answer!(reply, opened, file => reply.opened(self.open.open(file), T::OPENED));
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
        let created = self.files.create(req, parent, name, mode, flags);
        answer!(reply, created, (attr, file) => {
            let handle = self.open.open(file);
            reply.created(&UNCACHED, &attr, Generation(0), handle, T::OPENED);
        });
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
        let file = self.file(fh);
        answer!(reply, file, file => self.files.read(file, offset, size as usize, reply));
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
        answer!(reply, self.file(fh), file => self.files.write(file, offset, data, reply));
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

    /// Nothing here is on a disk.
    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
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
        self.open.close(fh);
        reply.ok();
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(self.listings.reserve(), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = self.listings.listing(fh, offset, || self.files.list(ino));
        let entries = match entries {
            Ok(entries) => entries,
            Err(errno) => return reply.error(to_fuse(errno)),
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, entry) in entries.iter().enumerate().skip(skip) {
            if reply.add(entry.ino, index as u64 + 1, entry.kind, &entry.name) {
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
        self.listings.close(fh);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        answer!(reply, self.files.statfs(), found => match found {
            None => reply.statfs(0, 0, 0, 0, 0, 512, 255, 0),
            Some(real) => reply.statfs(
                real.f_blocks,
                real.f_bfree,
                real.f_bavail,
                real.f_files,
                real.f_ffree,
                real.f_bsize as u32,
                real.f_namelen as u32,
                real.f_bsize as u32,
            ),
        });
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(xattr_error::<T>(Errno::NOTSUP));
    }

    fn getxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(xattr_error::<T>(Errno::NODATA));
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, size: u32, reply: ReplyXattr) {
        match (T::ANSWERS_XATTR, size) {
            (false, _) => reply.error(to_fuse(Errno::NOSYS)),
            (true, 0) => reply.size(0),
            (true, _) => reply.data(&[]),
        }
    }
}

/// How long the kernel may cache anything: not at all, so that a removed device is gone at the next look.
const UNCACHED: Duration = Duration::ZERO;

/// The errno as fuser has it.
pub(crate) fn to_fuse(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

/// Attributes of a file of root's without a size, whose times are all `born`.
pub(crate) fn attributes(ino: INodeNo, kind: FileType, perm: u16, born: SystemTime) -> FileAttr {
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: born,
        mtime: born,
        ctime: born,
        crtime: born,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// What belongs to each open handle: an open file, or the names of a directory that is being listed.
struct Handles<T> {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<T>>>,
}

impl<T> Handles<T> {
    fn new() -> Handles<T> {
        Handles {
            next: AtomicU64::new(1),
            open: Mutex::default(),
        }
    }

    /// Makes a handle to which nothing belongs yet.
    fn reserve(&self) -> FileHandle {
        FileHandle(self.next.fetch_add(1, Relaxed))
    }

    /// Makes a handle for `value`.
    fn open(&self, value: T) -> FileHandle {
        let handle = self.reserve();
        self.set(handle, Arc::new(value));
        handle
    }

    fn set(&self, handle: FileHandle, value: Arc<T>) {
        lock(&self.open).insert(handle.0, value);
    }

    fn get(&self, handle: FileHandle) -> Option<Arc<T>> {
        lock(&self.open).get(&handle.0).cloned()
    }

    fn close(&self, handle: FileHandle) {
        lock(&self.open).remove(&handle.0);
    }

    /// The names of a directory: those of when it was read from its start, or from `list` at offset 0.
    fn listing(
        &self,
        handle: FileHandle,
        offset: u64,
        list: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        if let (Some(known), 1..) = (self.get(handle), offset) {
            return Ok(known);
        }
        let names = Arc::new(list()?);
        self.set(handle, names.clone());
        Ok(names)
    }
}
