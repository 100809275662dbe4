//! The FUSE file system with one file, which holds the device's bytes.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request, WriteFlags,
};
use uzram::{Device, ExtentKind, Zeroes};

const FILE: INodeNo = INodeNo(2);
/// How long the kernel may cache names and attributes: they never change.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// Largest write that is asked of the kernel; the loop driver sends up to this much.
const MAX_WRITE: u32 = 1 << 20;
/// Requests in flight at once; fuser's default of 16 is below one queue's depth.
const MAX_BACKGROUND: u16 = 256;

thread_local! {
    /// Each server thread's read buffer: grows to the largest request once, then stays.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct DiskFilesystem {
    device: Arc<Device>,
    /// The file's name.
    name: OsString,
    born: SystemTime,
    /// The second since `born` in which a failure was last logged, plus one.
    logged: AtomicU64,
}

impl DiskFilesystem {
    pub(crate) fn new(device: Arc<Device>, name: OsString) -> DiskFilesystem {
        DiskFilesystem {
            device,
            name,
            born: SystemTime::now(),
            logged: AtomicU64::new(0),
        }
    }

    /// Logs a failed request, at most one a second: a full device fails every write, and the log may lie in RAM. The
    /// statistics count all of them.
    fn log_failure(&self, what: &str, error: &uzram::Error, offset: u64, len: usize) {
        let second = self.born.elapsed().map_or(1, |age| age.as_secs() + 1);
        if self.logged.swap(second, Relaxed) != second {
            tracing::warn!(%error, offset, len, "{what} failed; more in this second are not logged");
        }
    }

    fn attr(&self, ino: INodeNo) -> FileAttr {
        let (kind, perm, size) = match ino {
            FILE => (FileType::RegularFile, 0o600, self.device.size_bytes()),
            _ => (FileType::Directory, 0o700, 0),
        };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: self.born,
            mtime: self.born,
            ctime: self.born,
            crtime: self.born,
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
}

fn errno(error: &uzram::Error) -> Errno {
    Errno::from_i32(error.errno())
}

/// Refuses requests on anything but the file.
macro_rules! only_file {
    ($ino:ident, $reply:ident) => {
        if $ino != FILE {
            return $reply.error(Errno::EISDIR);
        }
    };
}

impl Filesystem for DiskFilesystem {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The kernel may decline each of these; its own smaller limit then stays in force.
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == self.name {
            reply.entry(&FOREVER, &self.attr(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match ino {
            INodeNo::ROOT | FILE => reply.attr(&FOREVER, &self.attr(ino)),
            _ => reply.error(Errno::ENOENT),
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
        let entries = [
            (INodeNo::ROOT, FileType::Directory, OsStr::new(".")),
            (INodeNo::ROOT, FileType::Directory, OsStr::new("..")),
            (FILE, FileType::RegularFile, &self.name),
        ];
        for (index, (ino, kind, name)) in entries.into_iter().enumerate().skip(offset as usize) {
            if reply.add(ino, index as u64 + 1, kind, name) {
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
        // As for any file, a read across the end is short.
        let len = self
            .device
            .size_bytes()
            .saturating_sub(offset)
            .min(u64::from(size)) as usize;
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            match self.device.read_at(&mut buffer[..len], offset) {
                Ok(()) => reply.data(&buffer[..len]),
                Err(error) => {
                    self.log_failure("read", &error, offset, len);
                    reply.error(errno(&error));
                }
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
        match self.device.write_at(data, offset) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => {
                self.log_failure("write", &error, offset, data.len());
                // The file cannot grow: past its end there is no space.
                let past_end = matches!(error, uzram::Error::OutOfRange { .. });
                reply.error(if past_end {
                    Errno::ENOSPC
                } else {
                    errno(&error)
                });
            }
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
        match self.device.flush() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // The loop driver derives its discard granularity from the block size.
        let blocks = self.device.size_bytes() / 4096;
        reply.statfs(blocks, 0, 0, 1, 0, 4096, 255, 4096);
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
        let mode = mode & !libc::FALLOC_FL_KEEP_SIZE;
        let how = match mode {
            // The second is `blkdiscard -z`. Nothing is set aside for a page of zeros either way, and a hole costs no slot.
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => Zeroes::Deallocate,
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        match self.device.write_zeroes(offset, length, how) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
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
        let end = self.device.size_bytes();
        let from = u64::try_from(offset).unwrap_or(u64::MAX);
        let (data, otherwise) = match whence {
            libc::SEEK_DATA => (true, None),
            libc::SEEK_HOLE => (false, Some(end)),
            _ => return reply.error(Errno::EINVAL),
        };
        let Some(Ok(mut extents)) = (from < end).then(|| self.device.extents(from, end - from))
        else {
            return reply.error(Errno::ENXIO);
        };
        let found = extents.find(|extent| (extent.kind == ExtentKind::Data) == data);
        match found.map(|extent| extent.offset).or(otherwise) {
            Some(at) => reply.offset(at as i64),
            None => reply.error(Errno::ENXIO),
        }
    }
}
