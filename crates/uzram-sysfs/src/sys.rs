//! The one file of this crate with unsafe code: calls that have no safe form.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

/// The FUSE device's number.
const FUSE: (u32, u32) = (10, 229);

/// Gives the calling thread a mount namespace, a working directory and a table of descriptors of its own, without the FUSE
/// devices.
///
/// A process that waits for a dead FUSE server wakes when the server's device is closed, and cannot even be killed before.
/// So this thread and its children, which use the mounts, must not have that device open as well.
pub(crate) fn part_from_the_servers() -> rustix::io::Result<()> {
    // SAFETY: what is not safe about a table of one's own (CLONE_FILES) is that descriptors that others open are not in
    // it, and that those in it are not closed by their owners. The thread uses only its own and what is handed to it open.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FILES) }?;
    let is_fuse = |path: PathBuf| {
        // The link leads to the open file itself, not to its path.
        let meta = fs::metadata(&path).ok()?;
        let number = (
            rustix::fs::major(meta.rdev()),
            rustix::fs::minor(meta.rdev()),
        );
        let fd: RawFd = path.file_name()?.to_str()?.parse().ok()?;
        (meta.file_type().is_char_device() && number == FUSE).then_some(fd)
    };
    let entries = fs::read_dir("/proc/thread-self/fd");
    let entries = entries.map_err(|error| {
        rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
    })?;
    let servers: Vec<RawFd> = entries
        .flatten()
        .filter_map(|entry| is_fuse(entry.path()))
        .collect();
    close_here(&servers);
    Ok(())
}

/// Closes descriptors in the calling thread's own table. Their owners, in another table, keep them.
pub(crate) fn close_here(descriptors: &[RawFd]) {
    for fd in descriptors {
        // SAFETY: only called by the thread of `part_from_the_servers`, in whose table nothing owns these: the values
        // that do are other threads', in another table.
        unsafe { rustix::io::close(*fd) };
    }
}

/// Makes the command die with the thread that starts it, and so with this process, however that ends.
pub(crate) fn die_with_us(command: &mut Command) {
    let us = rustix::process::getpid();
    let arrange = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // This process may have died before the line above.
        if getppid() == Some(us) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: these are two plain system calls, and an
    // error of a number allocates nothing.
    unsafe { command.pre_exec(arrange) };
}
