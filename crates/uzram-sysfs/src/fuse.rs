//! What both FUSE file systems of this crate share: attributes, errnos, and tables of open handles.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileHandle, FileType, INodeNo};

use crate::inodes::lock;

/// How long the kernel may cache anything: not at all, so that a removed device is gone at the next look.
pub(crate) const UNCACHED: Duration = Duration::ZERO;

/// The errno as fuser has it.
pub(crate) fn to_fuse(errno: rustix::io::Errno) -> Errno {
    Errno::from_i32(errno.raw_os_error())
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
pub(crate) struct Handles<T> {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<T>>>,
}

impl<T> Handles<T> {
    pub(crate) fn new() -> Handles<T> {
        Handles {
            next: AtomicU64::new(1),
            open: Mutex::default(),
        }
    }

    /// Makes a handle to which nothing belongs yet.
    pub(crate) fn reserve(&self) -> FileHandle {
        FileHandle(self.next.fetch_add(1, Relaxed))
    }

    /// Makes a handle for `value`.
    pub(crate) fn open(&self, value: T) -> FileHandle {
        let handle = self.reserve();
        self.set(handle, Arc::new(value));
        handle
    }

    pub(crate) fn set(&self, handle: FileHandle, value: Arc<T>) {
        lock(&self.open).insert(handle.0, value);
    }

    pub(crate) fn get(&self, handle: FileHandle) -> Option<Arc<T>> {
        lock(&self.open).get(&handle.0).cloned()
    }

    pub(crate) fn close(&self, handle: FileHandle) {
        lock(&self.open).remove(&handle.0);
    }

    /// The names of a directory: those of when it was read from its start, or from `list` at offset 0.
    pub(crate) fn listing<E>(
        &self,
        handle: FileHandle,
        offset: u64,
        list: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        if let (Some(known), 1..) = (self.get(handle), offset) {
            return Ok(known);
        }
        let names = Arc::new(list()?);
        self.set(handle, names.clone());
        Ok(names)
    }
}
