//! [`DiskFile`] by fuser: all requests of a mount without FUSE over io_uring, and of one with it the few that still come by
//! `/dev/fuse`, INIT among them.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request, WriteFlags,
};

use uzram::Access;
use uzram_frontend::Waiters;

use crate::disk::{self, BLOCK, DiskFile, FOREVER};
use crate::uring;

const FILE: INodeNo = INodeNo(disk::FILE);
/// Largest write that is asked of the kernel; the loop driver sends up to this much.
const MAX_WRITE: u32 = 1 << 20;
/// Requests in flight at once; fuser's default of 16 is below one queue's depth.
const MAX_BACKGROUND: u16 = 256;

thread_local! {
    /// Each server thread's read buffer: grows to the largest request once, then stays.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct DiskFilesystem {
    disk: Arc<DiskFile>,
    /// For what waits for the source of a clone.
    waiters: Waiters,
    /// Where requests are to come by io_uring: set once kernel and server have agreed on it.
    uring: Option<Arc<AtomicBool>>,
}

impl DiskFilesystem {
    /// All requests come by `/dev/fuse`.
    pub(crate) fn new(disk: Arc<DiskFile>) -> DiskFilesystem {
        DiskFilesystem {
            disk,
            waiters: Waiters::default(),
            uring: None,
        }
    }

    /// Requests come by io_uring once `agreed` is set and the queues are there.
    pub(crate) fn with_uring(disk: Arc<DiskFile>, agreed: Arc<AtomicBool>) -> DiskFilesystem {
        DiskFilesystem {
            uring: Some(agreed),
            ..DiskFilesystem::new(disk)
        }
    }

    fn attr(&self, inode: u64) -> Result<FileAttr, Errno> {
        let attributes = self.disk.attributes(inode).map_err(Errno::from_i32)?;
        let born = self.disk.born();
        Ok(FileAttr {
            ino: INodeNo(inode),
            size: attributes.size_bytes,
            blocks: attributes.blocks(),
            atime: born,
            mtime: born,
            ctime: born,
            crtime: born,
            kind: kind(attributes.is_dir),
            perm: attributes.permissions,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        })
    }
}

fn kind(is_dir: bool) -> FileType {
    match is_dir {
        true => FileType::Directory,
        false => FileType::RegularFile,
    }
}

/// Refuses requests on anything but the file.
macro_rules! only_file {
    ($ino:ident, $reply:ident) => {
        if $ino != FILE {
            return $reply.error(Errno::EISDIR);
        }
    };
}

fn finish(reply: ReplyEmpty, result: Result<(), disk::Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

impl Filesystem for DiskFilesystem {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut max_write = MAX_WRITE;
        if let Some(agreed) = &self.uring {
            let flag = InitFlags::FUSE_OVER_IO_URING;
            agreed.store(config.add_capabilities(flag).is_ok(), Relaxed);
            max_write = uring::MAX_PAYLOAD;
        }
        // The kernel may decline each of these; its own smaller limit then stays in force.
        let _ = config.set_max_write(max_write);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.disk.lookup(parent.0, name).map_err(Errno::from_i32);
        match found.and_then(|inode| self.attr(inode)) {
            Ok(attr) => reply.entry(&FOREVER, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino.0) {
            Ok(attr) => reply.attr(&FOREVER, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        only_file!(ino, reply);
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (next, (inode, is_dir, name)) in self.disk.entries(offset) {
            if reply.add(INodeNo(inode), next, kind(is_dir), name) {
                break;
            }
        }
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        only_file!(ino, reply);
        let len = self.disk.read_len(offset, size);
        if self.disk.must_wait(Access::Read, offset, len) {
            let disk = self.disk.clone();
            return self.waiters.run(move || {
                let mut buffer = vec![0; len];
                match disk.read(&mut buffer, offset) {
                    Ok(()) => reply.data(&buffer),
                    Err(errno) => reply.error(Errno::from_i32(errno)),
                }
            });
        }
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            match self.disk.read(&mut buffer[..len], offset) {
                Ok(()) => reply.data(&buffer[..len]),
                Err(errno) => reply.error(Errno::from_i32(errno)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        only_file!(ino, reply);
        let write =
            move |disk: &DiskFile, data: &[u8], reply: ReplyWrite| match disk.write(data, offset) {
                Ok(()) => reply.written(data.len() as u32),
                Err(errno) => reply.error(Errno::from_i32(errno)),
            };
        if self.disk.must_wait(Access::Write, offset, data.len()) {
            let (disk, data) = (self.disk.clone(), data.to_vec());
            return self.waiters.run(move || write(&disk, &data, reply));
        }
        write(&self.disk, data, reply);
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
        finish(reply, self.disk.flush());
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(self.disk.blocks(), 0, 0, 1, 0, BLOCK, 255, BLOCK);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        only_file!(ino, reply);
        let len = usize::try_from(length).unwrap_or(usize::MAX);
        if self.disk.must_wait(Access::Write, offset, len) {
            let disk = self.disk.clone();
            let wait = move || finish(reply, disk.allocate(mode, offset, length));
            return self.waiters.run(wait);
        }
        finish(reply, self.disk.allocate(mode, offset, length));
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        only_file!(ino, reply);
        // A negative offset is beyond every end.
        match self.disk.seek(offset as u64, whence) {
            Ok(at) => reply.offset(at as i64),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }
}
