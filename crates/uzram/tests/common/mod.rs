//! Images in memory, as a process that ends leaves them to another; objects, as a snapshot has them.

#![allow(dead_code, reason = "each test program uses a part")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::MemfdFlags;
use uzram::compress::{Registry, Settings};

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

/// The object that an algorithm makes of a page.
pub(crate) fn object(name: &str, page: &[u8; 4096]) -> Vec<u8> {
    let registry = Registry::builtin();
    let algorithm = registry.find(name).unwrap();
    let none: [(&str, &str); 0] = [];
    let settings = Settings::new(&**algorithm, 4096, none).unwrap();
    let prepared = algorithm.prepare(&settings).unwrap();
    let mut out = [0; 8192];
    let len = prepared.tfm().unwrap().compress(page, &mut out).unwrap();
    out[..len].to_vec()
}
