//! The two calls that cannot be had safely: the one file of this crate with unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

/// Gives the calling thread a mount namespace of its own, and with it its own working directory.
pub(crate) fn own_mount_namespace() -> rustix::io::Result<()> {
    // SAFETY: what is not safe about it is to part with the table of descriptors (CLONE_FILES), which NEWNS leaves alone.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
}

/// The command dies with the thread that starts it, and so with this process, however that ends.
pub(crate) fn die_with_us(command: &mut Command) {
    let us = rustix::process::getpid();
    let arrange = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have died before.
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
