//! What the tests share.

use std::path::{Path, PathBuf};

use rustix::thread::CpuSet;

/// Has this thread run on that CPU alone.
pub(crate) fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    rustix::thread::sched_setaffinity(None, &cpus).unwrap();
}

/// The one file of a mount.
pub(crate) fn file_of(mount: &Path) -> PathBuf {
    let mut all = std::fs::read_dir(mount).unwrap();
    all.next().unwrap().unwrap().path()
}
