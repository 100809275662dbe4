//! The file that holds the device's bytes, and its directory, apart from how requests arrive: what each operation does, and its
//! errno.
//!
//! There are two ways for requests: `filesystem.rs` has fuser's, `uring/request.rs` that of FUSE over io_uring.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use uzram::{Access, Device, ExtentKind, Zeroes};

/// Inode number of the directory.
pub(crate) const ROOT: u64 = 1;
/// Inode number of the file.
pub(crate) const FILE: u64 = 2;
/// How long the kernel may cache names and attributes: they never change.
pub(crate) const FOREVER: Duration = Duration::from_secs(1 << 30);
/// The block size of file and file system. The loop driver derives its discard granularity from the latter.
pub(crate) const BLOCK: u32 = 4096;

/// What the kernel is told of the directory or the file. Its times are all [`DiskFile::born`], its owner is root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) is_dir: bool,
    /// Permission bits.
    pub(crate) permissions: u16,
    pub(crate) size_bytes: u64,
}

impl Attributes {
    /// In sectors of 512 bytes.
    pub(crate) fn blocks(&self) -> u64 {
        self.size_bytes / 512
    }
}

/// An errno, positive.
pub(crate) type Errno = i32;

/// A directory with one file.
pub(crate) struct DiskFile {
    device: Arc<Device>,
    /// The file's name.
    name: OsString,
    born: SystemTime,
    /// The second since `born` in which a failure was last logged, plus one.
    logged: AtomicU64,
}

fn errno(error: &uzram::Error) -> Errno {
    match error.errno() {
        0 => libc::EIO,
        errno => errno,
    }
}

impl DiskFile {
    pub(crate) fn new(device: Arc<Device>, name: OsString) -> DiskFile {
        DiskFile {
            device,
            name,
            born: SystemTime::now(),
            logged: AtomicU64::new(0),
        }
    }

    /// When directory and file were made.
    pub(crate) fn born(&self) -> SystemTime {
        self.born
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    /// Describes the directory or the file. `ENOENT`: there is nothing else.
    pub(crate) fn attributes(&self, inode: u64) -> Result<Attributes, Errno> {
        let (is_dir, permissions, size_bytes) = match inode {
            ROOT => (true, 0o700, 0),
            FILE => (false, 0o600, self.size_bytes()),
            _ => return Err(libc::ENOENT),
        };
        Ok(Attributes {
            is_dir,
            permissions,
            size_bytes,
        })
    }

    /// Finds a name in a directory. Returns the inode's number.
    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        match parent == ROOT && name == self.name {
            true => Ok(FILE),
            false => Err(libc::ENOENT),
        }
    }

    /// The directory's entries from an offset on: inode, whether it is a directory, name. The offset after each is one more.
    pub(crate) fn entries(&self, from: u64) -> impl Iterator<Item = (u64, (u64, bool, &OsStr))> {
        let all = [
            (ROOT, true, OsStr::new(".")),
            (ROOT, true, OsStr::new("..")),
            (FILE, false, &*self.name),
        ];
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        (1..).zip(all).skip(from)
    }

    /// How many blocks the file system has, all of them in use.
    pub(crate) fn blocks(&self) -> u64 {
        self.size_bytes() / u64::from(BLOCK)
    }

    /// Logs a failed request, at most one a second: a full device fails every write, and the log may lie in RAM. The
    /// statistics count all of them.
    fn log_failure(&self, what: &str, error: &uzram::Error, offset: u64, len: usize) {
        let second = self.born.elapsed().map_or(1, |age| age.as_secs() + 1);
        if self.logged.swap(second, Relaxed) != second {
            tracing::warn!(%error, offset, len, "{what} failed; more in this second are not logged");
        }
    }

    /// How many bytes a read is answered with: as for any file, one across the end is short.
    pub(crate) fn read_len(&self, offset: u64, size: u32) -> usize {
        self.size_bytes()
            .saturating_sub(offset)
            .min(u64::from(size)) as usize
    }

    /// Whether any request may wait for the source of a clone, or for a backing in a store.
    pub(crate) fn may_wait(&self) -> bool {
        self.device.may_wait()
    }

    /// Whether a request waits for the source of a clone.
    pub(crate) fn must_wait(&self, access: Access, offset: u64, len: usize) -> bool {
        self.device.must_fetch(access, offset, len as u64)
    }

    /// Reads [`DiskFile::read_len`] bytes.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), Errno> {
        let read = self.device.read_at(buffer, offset);
        read.map_err(|error| {
            self.log_failure("read", &error, offset, buffer.len());
            errno(&error)
        })
    }

    pub(crate) fn write(&self, data: &[u8], offset: u64) -> Result<(), Errno> {
        let written = self.device.write_at(data, offset);
        written.map_err(|error| {
            self.log_failure("write", &error, offset, data.len());
            // The file cannot grow: past its end there is no space.
            match error {
                uzram::Error::OutOfRange { .. } => libc::ENOSPC,
                error => errno(&error),
            }
        })
    }

    pub(crate) fn flush(&self) -> Result<(), Errno> {
        self.device.flush().map_err(|error| errno(&error))
    }

    /// Punches a hole, which is how discards arrive.
    pub(crate) fn allocate(&self, mode: i32, offset: u64, len: u64) -> Result<(), Errno> {
        let how = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            // The second is `blkdiscard -z`. Nothing is set aside for a page of zeros either way, and a hole costs no slot.
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => Zeroes::Deallocate,
            _ => return Err(libc::EOPNOTSUPP),
        };
        let zeroed = self.device.write_zeroes(offset, len, how);
        zeroed.map_err(|error| errno(&error))
    }

    /// Finds the next data or hole.
    pub(crate) fn seek(&self, offset: u64, whence: i32) -> Result<u64, Errno> {
        let end = self.size_bytes();
        let (data, otherwise) = match whence {
            libc::SEEK_DATA => (true, None),
            libc::SEEK_HOLE => (false, Some(end)),
            _ => return Err(libc::EINVAL),
        };
        let extents = (offset < end).then(|| self.device.extents(offset, end - offset));
        let Some(Ok(mut extents)) = extents else {
            return Err(libc::ENXIO);
        };
        let found = extents.find(|extent| (extent.kind == ExtentKind::Data) == data);
        let found = found.map(|extent| extent.offset).or(otherwise);
        found.ok_or(libc::ENXIO)
    }
}
