//! The tree as a FUSE file system.
//!
//! The kernel caches nothing, so a removed device is gone at the next look. TreeFilesystem have direct I/O, so each `read` and `write`
//! is one request with the caller's length and offset.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::layout::{Name, TreeEntry, TreeLayout, parent};
use super::open_file::{OpenFile, PAGE_SIZE};
use crate::fuse::{Handles, UNCACHED, attributes, to_fuse};
use crate::inodes::Inodes;

pub(crate) struct TreeFilesystem {
    layout: Arc<TreeLayout>,
    inodes: Inodes<String>,
    born: SystemTime,
    files: Handles<OpenFile>,
    dirs: Handles<Vec<Name>>,
}

impl TreeFilesystem {
    pub(crate) fn new(layout: Arc<TreeLayout>) -> TreeFilesystem {
        TreeFilesystem {
            layout,
            inodes: Inodes::new(String::new()),
            born: SystemTime::now(),
            files: Handles::new(),
            dirs: Handles::new(),
        }
    }

    fn path(&self, ino: INodeNo) -> Result<Arc<String>, Errno> {
        self.inodes.key(ino).ok_or(Errno::ENOENT)
    }

    fn child(&self, ino: INodeNo, name: &OsStr) -> Result<String, Errno> {
        // All names of the tree are text.
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        let dir = self.path(ino)?;
        Ok(match dir.as_str() {
            "" => name.into(),
            dir => format!("{dir}/{name}"),
        })
    }

    fn attr(&self, ino: INodeNo, path: &str) -> Result<FileAttr, Errno> {
        let entry = self.layout.entry(path).map_err(to_fuse)?;
        let (kind, perm, size, nlink) = match entry {
            TreeEntry::Dir => (FileType::Directory, 0o755, 0, 2),
            TreeEntry::Link(_) => (FileType::Symlink, 0o777, 0, 1),
            // As in debugfs: a program that trusts a size would stop there.
            TreeEntry::File { mode, .. } if path.starts_with("kernel/debug/") => {
                (FileType::RegularFile, mode, 0, 1)
            }
            TreeEntry::File { mode, .. } => (FileType::RegularFile, mode, PAGE_SIZE as u64, 1),
        };
        Ok(FileAttr {
            size,
            nlink,
            ..attributes(ino, kind, perm, self.born)
        })
    }

    fn look(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let path = self.child(parent, name)?;
        self.layout.entry(&path).map_err(to_fuse)?;
        let ino = self.inodes.number(path.clone());
        self.attr(ino, &path)
    }

    fn open_file(&self, ino: INodeNo, flags: OpenFlags) -> Result<FileHandle, Errno> {
        let TreeEntry::File { mode, source } =
            self.layout.entry(&self.path(ino)?).map_err(to_fuse)?
        else {
            return Err(Errno::EISDIR);
        };
        let (reads, writes) = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => (true, false),
            OpenAccMode::O_WRONLY => (false, true),
            OpenAccMode::O_RDWR => (true, true),
        };
        // Applies to root as well: the file cannot do it.
        if (reads && mode & 0o444 == 0) || (writes && mode & 0o222 == 0) {
            return Err(Errno::EACCES);
        }
        let file = OpenFile::new(self.layout.clone(), source);
        Ok(self.files.open(file))
    }

    fn file(&self, handle: FileHandle) -> Result<Arc<OpenFile>, Errno> {
        self.files.get(handle).ok_or(Errno::EBADF)
    }
}

/// Runs `work` in a thread of its own, so that no other request waits. Without a thread the reply is dropped, which fuser
/// answers with EIO.
fn in_own_thread(work: impl FnOnce() + Send + 'static) {
    let spawned = thread::Builder::new()
        .name("uzram-store".into())
        .spawn(work);
    if let Err(error) = spawned {
        tracing::warn!(%error, "cannot start a thread for a request");
    }
}

impl Filesystem for TreeFilesystem {
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
        match path.and_then(|path| self.layout.entry(&path).map_err(to_fuse)) {
            Ok(TreeEntry::Link(target)) => reply.data(&target),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(ino, flags) {
            Ok(handle) => reply.opened(
                handle,
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
        let file = match self.file(fh) {
            Ok(file) => file,
            Err(errno) => return reply.error(errno),
        };
        let slow = file.is_slow_to_read();
        let work = move || match file.read(offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(to_fuse(errno)),
        };
        if slow { in_own_thread(work) } else { work() }
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
        let file = match self.file(fh) {
            Ok(file) => file,
            Err(errno) => return reply.error(errno),
        };
        let value = data[..data.len().min(PAGE_SIZE)].to_vec();
        in_own_thread(move || match file.write(&value) {
            Ok(len) => reply.written(len as u32),
            Err(errno) => reply.error(to_fuse(errno)),
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
        self.files.close(fh);
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
        let path = match self.path(ino) {
            Ok(path) => path,
            Err(errno) => return reply.error(errno),
        };
        let list = || self.layout.list(&path);
        let names = match self.dirs.listing(fh, offset, list) {
            Ok(names) => names,
            Err(errno) => return reply.error(to_fuse(errno)),
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
        self.dirs.close(fh);
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
