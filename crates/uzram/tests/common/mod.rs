//! Images in memory, as a process that ends leaves them to another.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::MemfdFlags;

/// An empty file of memory.
pub(crate) fn memfd() -> OwnedFd {
    rustix::fs::memfd_create("uzram-test", MemfdFlags::CLOEXEC).unwrap()
}

/// Another open file description of the same memory, as another process would have.
pub(crate) fn reopen(file: &OwnedFd) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let file = File::options().read(true).write(true).open(path);
    file.unwrap().into()
}
