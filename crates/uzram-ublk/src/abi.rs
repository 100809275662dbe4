//! The driver's interface, `uapi/linux/ublk_cmd.h`: command codes, structures, limits. Native endian.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `_IOR('u', number, size)`, or with `_IOWR`.
const fn ioctl(read_write: u32, number: u32, size: usize) -> u32 {
    read_write << 30 | (size as u32) << 16 | (b'u' as u32) << 8 | number
}

const READ: u32 = 2;
const READ_WRITE: u32 = 3;

/// A control command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Command {
    GetQueueAffinity = ioctl(READ, 0x01, size_of::<ControlCommand>()),
    AddDev = ioctl(READ_WRITE, 0x04, size_of::<ControlCommand>()),
    DelDev = ioctl(READ_WRITE, 0x05, size_of::<ControlCommand>()),
    StartDev = ioctl(READ_WRITE, 0x06, size_of::<ControlCommand>()),
    StopDev = ioctl(READ_WRITE, 0x07, size_of::<ControlCommand>()),
    SetParams = ioctl(READ_WRITE, 0x08, size_of::<ControlCommand>()),
    GetParams = ioctl(READ, 0x09, size_of::<ControlCommand>()),
    StartUserRecovery = ioctl(READ_WRITE, 0x10, size_of::<ControlCommand>()),
    EndUserRecovery = ioctl(READ_WRITE, 0x11, size_of::<ControlCommand>()),
    /// As `UBLK_U_CMD_GET_DEV_INFO`, with the char device's path for every kind of device.
    GetDevInfo2 = ioctl(READ, 0x12, size_of::<ControlCommand>()),
    GetFeatures = ioctl(READ, 0x13, size_of::<ControlCommand>()),
    DelDevAsync = ioctl(READ, 0x14, size_of::<ControlCommand>()),
}

/// Gives a tag to the driver for the first time.
pub(crate) const IO_FETCH: u32 = ioctl(READ_WRITE, 0x20, size_of::<IoCommand>());
/// Completes a tag's request and gives the tag to the driver again.
pub(crate) const IO_COMMIT_AND_FETCH: u32 = ioctl(READ_WRITE, 0x21, size_of::<IoCommand>());

/// Result of a fetch whose tag carries a request.
pub(crate) const IO_RES_OK: i32 = 0;

/// Bits of the driver's features and of a device's flags.
pub(crate) mod flags {
    pub(crate) const USER_RECOVERY: u64 = 1 << 3;
    pub(crate) const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    pub(crate) const UNPRIVILEGED_DEV: u64 = 1 << 5;
    pub(crate) const CMD_IOCTL_ENCODE: u64 = 1 << 6;
    pub(crate) const USER_COPY: u64 = 1 << 7;
}

/// A device's states.
pub(crate) mod state {
    pub(crate) const DEAD: u16 = 0;
    pub(crate) const LIVE: u16 = 1;
    pub(crate) const QUIESCED: u16 = 2;
    pub(crate) const FAIL_IO: u16 = 3;
}

/// Most tags of a queue.
pub(crate) const MAX_QUEUE_DEPTH: u16 = 4096;
/// Largest request that the driver can pass.
pub(crate) const MAX_IO_BYTES: u32 = 1 << 25;
/// The driver numbers devices below this.
pub(crate) const MAX_DEVICES: u32 = 1 << 20;
/// Where a queue's descriptors begin in the char device, for mmap.
pub(crate) const fn descriptors_offset(queue: u16) -> u64 {
    let area = MAX_QUEUE_DEPTH as u64 * size_of::<IoDescriptor>() as u64;
    queue as u64 * area
}
const _: () = assert!(descriptors_offset(1).is_multiple_of(4096));

/// Where the bytes of a tag's request are in the char device, for pread and pwrite.
pub(crate) const fn user_copy_offset(queue: u16, tag: u16) -> u64 {
    0x8000_0000 + ((queue as u64) << 41) + ((tag as u64) << 25)
}

/// `struct ublksrv_ctrl_cmd`.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct ControlCommand {
    pub(crate) dev_id: u32,
    /// All ones where the command is not for a queue.
    pub(crate) queue_id: u16,
    /// Bytes at `addr`.
    pub(crate) len: u16,
    pub(crate) addr: u64,
    pub(crate) data: u64,
    /// Length of the char device's path, which leads the bytes at `addr`. Commands for an unprivileged device carry it, so
    /// that the driver can check the caller against the node's permissions.
    pub(crate) dev_path_len: u16,
    pub(crate) pad: u16,
    pub(crate) reserved: u32,
}

/// `struct ublksrv_ctrl_dev_info`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DevInfo {
    pub(crate) queues: u16,
    pub(crate) depth: u16,
    pub(crate) state: u16,
    pub(crate) pad0: u16,
    pub(crate) max_io_bytes: u32,
    /// All ones where the driver is to choose.
    pub(crate) dev_id: u32,
    pub(crate) pid: i32,
    pub(crate) pad1: u32,
    pub(crate) flags: u64,
    /// Free for the server: the driver keeps it and does not read it.
    pub(crate) server_flags: u64,
    pub(crate) owner_uid: u32,
    pub(crate) owner_gid: u32,
    pub(crate) reserved: [u64; 2],
}

/// `attrs` of [`UblkParams`].
pub(crate) const ATTR_VOLATILE_CACHE: u32 = 1 << 2;
pub(crate) const ATTR_FUA: u32 = 1 << 3;
/// `types` of [`UblkParams`]: basic and discard.
pub(crate) const PARAM_TYPES: u32 = 1 | 2;

/// `struct ublk_params` up to its `discard` part: `ublk_param_basic` and `ublk_param_discard`, flat.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct UblkParams {
    pub(crate) len: u32,
    pub(crate) types: u32,
    pub(crate) attrs: u32,
    pub(crate) logical_bs_shift: u8,
    pub(crate) physical_bs_shift: u8,
    pub(crate) io_opt_shift: u8,
    pub(crate) io_min_shift: u8,
    pub(crate) max_sectors: u32,
    pub(crate) chunk_sectors: u32,
    pub(crate) dev_sectors: u64,
    pub(crate) virt_boundary_mask: u64,
    pub(crate) discard_alignment: u32,
    pub(crate) discard_granularity: u32,
    pub(crate) max_discard_sectors: u32,
    pub(crate) max_write_zeroes_sectors: u32,
    pub(crate) max_discard_segments: u16,
    pub(crate) reserved0: u16,
    pub(crate) tail: u32,
}

/// `struct ublksrv_io_desc`: a request, written by the driver.
#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct IoDescriptor {
    pub(crate) op_flags: u32,
    pub(crate) sectors: u32,
    pub(crate) start_sector: u64,
    pub(crate) addr: u64,
}

/// `op_flags`, low byte.
pub(crate) mod op {
    pub(crate) const READ: u32 = 0;
    pub(crate) const WRITE: u32 = 1;
    pub(crate) const FLUSH: u32 = 2;
    pub(crate) const DISCARD: u32 = 3;
    pub(crate) const WRITE_ZEROES: u32 = 5;
}
/// `op_flags`: durable before it is answered.
pub(crate) const OP_FUA: u32 = 1 << 13;
/// `op_flags`: the zeroes must be allocated. Without effect here.
#[cfg(test)]
pub(crate) const OP_NOUNMAP: u32 = 1 << 15;

/// `struct ublksrv_io_cmd`.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct IoCommand {
    pub(crate) queue: u16,
    pub(crate) tag: u16,
    pub(crate) result: i32,
    pub(crate) addr: u64,
}

const _: () = {
    assert!(size_of::<ControlCommand>() == 32);
    assert!(size_of::<DevInfo>() == 64);
    assert!(std::mem::offset_of!(DevInfo, flags) == 24);
    assert!(size_of::<UblkParams>() == 64);
    assert!(std::mem::offset_of!(UblkParams, dev_sectors) == 24);
    assert!(std::mem::offset_of!(UblkParams, discard_alignment) == 40);
    assert!(size_of::<IoDescriptor>() == 24);
    assert!(size_of::<IoCommand>() == 16);
    // As the kernel's header computes them.
    assert!(Command::AddDev as u32 == 0xC020_7504);
    assert!(Command::GetFeatures as u32 == 0x8020_7513);
    assert!(IO_FETCH == 0xC010_7520);
};
