//! The loop driver's ioctls: the one file of this crate with unsafe code.
//!
//! Layouts are those of the kernel's `uapi/linux/loop.h`, asserted below.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

const LOOP_CLR_FD: libc::Ioctl = 0x4C01;
const LOOP_SET_STATUS64: libc::Ioctl = 0x4C04;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4C07;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_ADD: libc::Ioctl = 0x4C80;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

/// The kernel detaches the file when the last user closes the loop device.
pub(crate) const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// The kernel reads the partition table, and again whenever it is told to.
pub(crate) const LO_FLAGS_PARTSCAN: u32 = 8;
/// The loop device reads and writes its file with O_DIRECT.
pub(crate) const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    pub(crate) flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = {
    assert!(size_of::<LoopInfo>() == 232);
    assert!(size_of::<LoopConfig>() == 304);
    assert!(std::mem::offset_of!(LoopInfo, flags) == 52);
};

const EMPTY: LoopInfo = LoopInfo {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result < 0 {
        let errno = Errno::from_io_error(&io::Error::last_os_error());
        Err(errno.unwrap_or(Errno::IO))
    } else {
        Ok(result)
    }
}

/// Asks for a loop device that is free at this moment; the driver makes one if none is.
pub(crate) fn get_free(control: impl AsFd) -> Result<u32, Errno> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    check(unsafe { libc::ioctl(control.as_fd().as_raw_fd(), LOOP_CTL_GET_FREE) }).map(|n| n as u32)
}

/// Makes the loop device of that number. EEXIST: it exists.
pub(crate) fn add(control: impl AsFd, number: u32) -> Result<(), Errno> {
    let fd = control.as_fd().as_raw_fd();
    // SAFETY: LOOP_CTL_ADD takes a number.
    check(unsafe { libc::ioctl(fd, LOOP_CTL_ADD, libc::c_ulong::from(number)) }).map(drop)
}

/// Attaches `file` to the loop device. EBUSY: the device has a file already.
pub(crate) fn configure(
    device: impl AsFd,
    file: impl AsFd,
    name: &[u8],
    block_size: u32,
    flags: u32,
) -> Result<(), Errno> {
    let mut info = LoopInfo { flags, ..EMPTY };
    // The name that `losetup` shows; one byte stays zero.
    let len = name.len().min(info.file_name.len() - 1);
    info.file_name[..len].copy_from_slice(&name[..len]);
    let fd = file.as_fd().as_raw_fd() as u32;
    let config = LoopConfig {
        fd,
        block_size,
        info,
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `config` is.
    check(unsafe {
        libc::ioctl(
            device.as_fd().as_raw_fd(),
            LOOP_CONFIGURE,
            &raw const config,
        )
    })
    .map(drop)
}

/// Reads the loop device's state. ENXIO: no file is attached.
pub(crate) fn status(device: impl AsFd) -> Result<LoopInfo, Errno> {
    let mut info = EMPTY;
    let fd = device.as_fd().as_raw_fd();
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64`, any bits of which are valid here.
    check(unsafe { libc::ioctl(fd, LOOP_GET_STATUS64, &raw mut info) })?;
    Ok(info)
}

/// Gives the loop device back a state that [`status`] read, as far as flags go.
pub(crate) fn set_status(device: impl AsFd, info: &LoopInfo) -> Result<(), Errno> {
    let info: *const LoopInfo = info;
    // SAFETY: LOOP_SET_STATUS64 reads one `struct loop_info64`, which `info` points to.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_SET_STATUS64, info) }).map(drop)
}

/// Whether no file is attached to the loop device.
pub(crate) fn is_free(device: impl AsFd) -> bool {
    matches!(status(device), Err(Errno::NXIO))
}

/// Gives the loop device its file's present size.
pub(crate) fn set_capacity(device: impl AsFd) -> io::Result<()> {
    // SAFETY: LOOP_SET_CAPACITY takes no argument.
    let set = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_SET_CAPACITY) };
    Ok(check(set).map(drop)?)
}

/// Detaches the file, now or, where others have the device open, when the last of them closes it.
pub(crate) fn clear(device: impl AsFd) -> Result<(), Errno> {
    // SAFETY: LOOP_CLR_FD takes no argument.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_CLR_FD) }).map(drop)
}
