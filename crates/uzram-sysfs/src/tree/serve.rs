//! The tree as a FUSE file system.
//!
//! Nothing is cached by the kernel (all times to live are 0): a device that went is gone at the next look. Files have
//! direct I/O, so each `read` and `write` is one request, with the caller's length and offset.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::model::{Entry, Model, Name, parent};
use super::opened::{Opened, PAGE_SIZE};
use crate::inodes::{Inodes, lock};

const UNCACHED: Duration = Duration::ZERO;

pub(crate) struct Files {
    model: Arc<Model>,
    inodes: Inodes<String>,
    born: SystemTime,
    handles: AtomicU64,
    opened: Mutex<HashMap<u64, Arc<Opened>>>,
    /// What was in a directory when it was read from its start.
    listed: Mutex<HashMap<u64, Arc<Vec<Name>>>>,
}

impl Files {
    pub(crate) fn new(model: Arc<Model>) -> Files {
        Files {
            model,
            inodes: Inodes::new(String::new()),
            born: SystemTime::now(),
            handles: AtomicU64::new(1),
            opened: Mutex::default(),
            listed: Mutex::default(),
        }
    }

    fn path(&self, ino: INodeNo) -> Result<Arc<String>, Errno> {
        self.inodes.key(ino).ok_or(Errno::ENOENT)
    }

    fn child(&self, ino: INodeNo, name: &OsStr) -> Result<String, Errno> {
        // The kernel's names are plain.
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        let dir = self.path(ino)?;
        Ok(match dir.as_str() {
            "" => name.into(),
            dir => format!("{dir}/{name}"),
        })
    }

    fn attr(&self, ino: INodeNo, path: &str) -> Result<FileAttr, Errno> {
        let entry = self.model.entry(path).map_err(number)?;
        let (kind, perm, size, nlink) = match entry {
            Entry::Dir => (FileType::Directory, 0o755, 0, 2),
            Entry::Link(_) => (FileType::Symlink, 0o777, 0, 1),
            // As debugfs: a program that believes in a size would stop there.
            Entry::File { mode, .. } if path.starts_with("kernel/debug/") => {
                (FileType::RegularFile, mode, 0, 1)
            }
            Entry::File { mode, .. } => (FileType::RegularFile, mode, PAGE_SIZE as u64, 1),
        };
        Ok(FileAttr {
            ino,
            size,
            blocks: 0,
            atime: self.born,
            mtime: self.born,
            ctime: self.born,
            crtime: self.born,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE_SIZE as u32,
            flags: 0,
        })
    }

    fn look(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let path = self.child(parent, name)?;
        self.model.entry(&path).map_err(number)?;
        let ino = self.inodes.number(path.clone());
        self.attr(ino, &path)
    }

    fn new_handle(&self) -> u64 {
        self.handles.fetch_add(1, Relaxed)
    }

    fn begin(&self, ino: INodeNo, flags: OpenFlags) -> Result<u64, Errno> {
        let Entry::File { mode, source } = self.model.entry(&self.path(ino)?).map_err(number)?
        else {
            return Err(Errno::EISDIR);
        };
        let (reads, writes) = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => (true, false),
            OpenAccMode::O_WRONLY => (false, true),
            OpenAccMode::O_RDWR => (true, true),
        };
        // Also root cannot do what the file does not.
        if (reads && mode & 0o444 == 0) || (writes && mode & 0o222 == 0) {
            return Err(Errno::EACCES);
        }
        let handle = self.new_handle();
        let opened = Opened::new(self.model.clone(), source);
        lock(&self.opened).insert(handle, Arc::new(opened));
        Ok(handle)
    }

    fn opened(&self, handle: FileHandle) -> Result<Arc<Opened>, Errno> {
        let opened = lock(&self.opened).get(&handle.0).cloned();
        opened.ok_or(Errno::EBADF)
    }

    /// The names from `offset` on are those of when the directory was read at 0.
    fn names(
        &self,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
    ) -> Result<Arc<Vec<Name>>, Errno> {
        let known = lock(&self.listed).get(&handle.0).cloned();
        if let (Some(known), 1..) = (known, offset) {
            return Ok(known);
        }
        let path = self.path(ino)?;
        let names = Arc::new(self.model.list(&path).map_err(number)?);
        lock(&self.listed).insert(handle.0, names.clone());
        Ok(names)
    }
}

fn number(errno: rustix::io::Errno) -> Errno {
    Errno::from_i32(errno.raw_os_error())
}

/// In a thread of its own, so that nothing waits for it. Without one the reply is EIO, which is what a dropped one says.
fn apart(work: impl FnOnce() + Send + 'static) {
    let spawned = thread::Builder::new()
        .name("uzram-store".into())
        .spawn(work);
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for a request");
    }
}

impl Filesystem for Files {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look(parent, name) {
            Ok(attr) => reply.entry(&UNCACHED, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.path(ino).and_then(|path| self.attr(ino, &path)) {
            Ok(attr) => reply.attr(&UNCACHED, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if mode.is_some() || uid.is_some() || gid.is_some() {
            return reply.error(Errno::EPERM);
        }
        // Truncation and times change nothing.
        self.getattr(_req, ino, fh, reply);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let path = self.path(ino);
        match path.and_then(|path| self.model.entry(&path).map_err(number)) {
            Ok(Entry::Link(target)) => reply.data(&target),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.begin(ino, flags) {
            Ok(handle) => reply.opened(
                FileHandle(handle),
                FopenFlags::FOPEN_DIRECT_IO
                    | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
                    | FopenFlags::FOPEN_NOFLUSH,
            ),
            Err(errno) => reply.error(errno),
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
        let opened = match self.opened(fh) {
            Ok(opened) => opened,
            Err(errno) => return reply.error(errno),
        };
        let slow = opened.is_slow_to_read();
        let work = move || match opened.read(offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(number(errno)),
        };
        if slow { apart(work) } else { work() }
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let opened = match self.opened(fh) {
            Ok(opened) => opened,
            Err(errno) => return reply.error(errno),
        };
        let value = data[..data.len().min(PAGE_SIZE)].to_vec();
        apart(move || match opened.write(&value) {
            Ok(len) => reply.written(len as u32),
            Err(errno) => reply.error(number(errno)),
        });
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
        lock(&self.opened).remove(&fh.0);
        reply.ok();
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
        reply.ok();
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.new_handle()), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (path, names) = match (self.path(ino), self.names(ino, fh, offset)) {
            (Ok(path), Ok(names)) => (path, names),
            (Err(errno), _) | (_, Err(errno)) => return reply.error(errno),
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let up = self.inodes.number(parent(&path).to_owned());
        let dots = [(ino, "."), (up, "..")];
        for (index, (ino, name)) in dots.into_iter().enumerate().skip(skip) {
            if reply.add(ino, index as u64 + 1, FileType::Directory, name) {
                return reply.ok();
            }
        }
        for (index, name) in names.iter().enumerate().skip(skip.saturating_sub(2)) {
            let Ok(child) = self.child(ino, OsStr::new(&name.name)) else {
                continue;
            };
            let ino = self.inodes.number(child);
            if reply.add(ino, index as u64 + 3, name.kind, &name.name) {
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
        lock(&self.listed).remove(&fh.0);
        reply.ok();
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EACCES);
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _link_name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EPERM);
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
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
        reply.error(Errno::ENOTSUP);
    }

    fn getxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENODATA);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 {
            reply.size(0);
        } else {
            reply.data(&[]);
        }
    }
}
