//! Pages of files that stay in memory, for what a swap device depends on. With `buffers.rs` all unsafe code of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use rustix::mm::{MapFlags, ProtFlags};

/// Brings a part of a file into memory, and keeps it there as long as this process lives: whoever reads, maps or executes it
/// waits for no disk and no swap. The offset is a multiple of 4096. Pages that are there already take no more memory.
///
/// The error is the system's: EAGAIN and ENOMEM at a limit on locked memory, EPERM without the right.
pub fn keep_resident(file: &File, offset: u64, len: usize) -> io::Result<()> {
    let flags = MapFlags::SHARED | MapFlags::LOCKED | MapFlags::POPULATE;
    // SAFETY: a new mapping at an address of the kernel's choice. Nothing here or elsewhere learns the address, so that no
    // code depends on what the file holds. It ends with the process.
    unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ,
            flags,
            file,
            offset,
        )?;
    }
    Ok(())
}
