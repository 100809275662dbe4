//! The real thing: a regular file or a block device, by direct I/O where it can be had.
//!
//! Without direct I/O every write goes through to the disk before it is done (`RWF_DSYNC`), so that its error is known,
//! and the page cache is asked to drop what was written or read: it would hold a copy of what was moved out of memory.
//! With direct I/O nothing is flushed: the backing means nothing without the memory that names its objects, so it need
//! not survive a loss of power.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;

use crate::BLOCK;
use crate::buffer::Buffer;
use crate::disk::{Disk, WriteQueue};
use crate::page_cache::drop_cached;
use crate::ring::RingQueue;
use crate::threads::ThreadQueue;

/// What to make use of. The default is all that the system grants.
#[derive(Debug, Clone, Copy)]
pub struct FileOptions {
    /// Direct I/O, past the page cache.
    pub direct: bool,
    /// io_uring for writes, instead of threads.
    pub ring: bool,
}

impl Default for FileOptions {
    fn default() -> FileOptions {
        FileOptions {
            direct: true,
            ring: true,
        }
    }
}

/// A regular file or a block device.
pub struct FileDisk {
    file: Arc<File>,
    device: bool,
    direct: bool,
    ring: bool,
}

impl FileDisk {
    /// Opens a block device, or a regular file, which is made (for its owner only) if there is none. See [`FileDisk::lock`].
    pub fn open(path: &Path, options: FileOptions) -> io::Result<FileDisk> {
        let mut open = File::options();
        open.read(true).write(true).mode(0o600);
        // Lest a name in /dev whose device is gone become a file in memory.
        open.create(!path.starts_with("/dev") || path.starts_with("/dev/shm"));
        FileDisk::new(open.open(path)?, options)
    }

    /// Takes a file that was opened for reading and writing, and may set `O_DIRECT` on it.
    ///
    /// Errors: it is neither a regular file nor a block device; its flags cannot be changed.
    pub fn new(file: File, options: FileOptions) -> io::Result<FileDisk> {
        let kind = file.metadata()?.file_type();
        let device = kind.is_block_device();
        if !device && !kind.is_file() {
            let what = "a backing must be a regular file or a block device";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let direct = options.direct && set_direct(&file, true)?;
        let file = Arc::new(file);
        let ring = options.ring && RingQueue::new(file.clone(), 1, direct).is_ok();
        if !direct {
            // No reading ahead: what is next to an object is no likelier to be read.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        }
        Ok(FileDisk {
            file,
            device,
            direct,
            ring,
        })
    }

    /// Locks the file (`flock`) against other openings of it, and waits up to `patience` for another's lock to go.
    ///
    /// Who takes over a backing from a process that died must do this on an opening of its own (not on a file that was
    /// inherited from it): writes that the kernel still has in flight keep the dead process's opening, and with it its
    /// lock, until they are done. Without it such a write could land in a segment that was given out again.
    ///
    /// Errors: `WouldBlock`, somebody has it still; or locks cannot be had there.
    pub fn lock(&self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return Ok(result?),
            }
        }
    }

    /// Whether the page cache is left out.
    pub fn is_direct(&self) -> bool {
        self.direct
    }
}

/// Sets or clears `O_DIRECT`. `false`: it is not to be had, and is clear.
fn set_direct(file: &File, on: bool) -> io::Result<bool> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, on);
    match rustix::fs::fcntl_setfl(file, flags) {
        Ok(()) => {}
        Err(Errno::INVAL) if on => return set_direct(file, false),
        Err(error) => return Err(error.into()),
    }
    // Some take the flag and refuse the I/O, as disks do whose sectors are larger than our blocks.
    let mut probe = Buffer::new(1);
    match file.read_at(probe.bytes_mut(), 0) {
        Err(error) if on && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            set_direct(file, false)
        }
        // Any other error is met again, and reported, where it matters.
        _ => Ok(on),
    }
}

impl Disk for FileDisk {
    fn size_bytes(&self) -> io::Result<u64> {
        if !self.device {
            return Ok(self.file.metadata()?.len());
        }
        // The position is used by nobody.
        Ok(rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0))?)
    }

    fn reserve(&self, size_bytes: u64) -> io::Result<()> {
        if self.device {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, size_bytes) {
            // Where nothing can be promised the file is sparse, and a full disk makes writes fail later.
            Err(Errno::OPNOTSUPP) => {
                tracing::warn!(
                    "the backing's file system cannot reserve space; writes may run out of it"
                );
                let grown = self.size_bytes()?.max(size_bytes);
                self.file.set_len(grown)
            }
            result => Ok(result?),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        debug_assert!(buffer.len().is_multiple_of(BLOCK) || !self.direct);
        let count = self.file.read_at(buffer, offset)?;
        if !self.direct {
            drop_cached(&self.file, offset, count);
        }
        Ok(count)
    }

    fn queue(&self, depth: usize) -> io::Result<Box<dyn WriteQueue>> {
        if self.ring {
            return Ok(Box::new(RingQueue::new(
                self.file.clone(),
                depth,
                self.direct,
            )?));
        }
        let queue = ThreadQueue::new(self.file.clone(), depth, self.direct)?;
        Ok(Box::new(queue))
    }

    fn describe(&self) -> String {
        let io = if self.direct { "direct" } else { "buffered" };
        let by = if self.ring { "io_uring" } else { "threads" };
        let kind = if self.device { "block device" } else { "file" };
        format!("{kind}, {io} I/O, {by}")
    }
}
