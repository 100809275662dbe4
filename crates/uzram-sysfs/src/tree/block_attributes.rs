//! The attributes that every block device has: read from the real directory of the device's node, or fixed values while there
//! is none.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};
use uzram_control::zram::{Errno, Shown};

/// Attributes are at most a page.
const PAGE_SIZE: usize = 4096;

/// An attribute that every block device has.
pub(crate) struct BlockAttribute {
    /// Its path below the device's directory.
    pub(crate) path: &'static str,
    pub(crate) mode: u16,
    value: Value,
}

/// What an unused zram in the kernel shows.
enum Value {
    Text(&'static str),
    Size,
    Number,
    Sequence,
    Uevent,
    /// Reading fails with EIO, as in the kernel.
    Fails,
}

const fn text(path: &'static str, mode: u16, value: &'static str) -> BlockAttribute {
    BlockAttribute {
        path,
        mode,
        value: Value::Text(value),
    }
}

const fn computed(path: &'static str, mode: u16, value: Value) -> BlockAttribute {
    BlockAttribute { path, mode, value }
}

/// All of them, as Linux 6.18 shows them for zram.
pub(crate) const BLOCK_ATTRIBUTES: &[BlockAttribute] = &[
    computed("dev", 0o444, Value::Number),
    computed("size", 0o444, Value::Size),
    computed("diskseq", 0o444, Value::Sequence),
    computed("uevent", 0o644, Value::Uevent),
    text("ro", 0o444, "0\n"),
    text("removable", 0o444, "0\n"),
    text("range", 0o444, "1\n"),
    text("ext_range", 0o444, "1\n"),
    text("partscan", 0o444, "0\n"),
    text("hidden", 0o444, "0\n"),
    text("alignment_offset", 0o444, "0\n"),
    text("discard_alignment", 0o444, "0\n"),
    text("capability", 0o444, "0\n"),
    text("events", 0o444, ""),
    text("events_async", 0o444, ""),
    text("events_poll_msecs", 0o644, "-1\n"),
    text("inflight", 0o444, "       0        0\n"),
    text(
        "stat",
        0o444,
        concat!(
            "       0        0        0        0        0        0        0        0        0",
            "        0        0        0        0        0        0        0        0\n"
        ),
    ),
    computed("power/autosuspend_delay_ms", 0o644, Value::Fails),
    text("power/control", 0o644, "auto\n"),
    text("power/runtime_active_time", 0o444, "0\n"),
    text("power/runtime_status", 0o444, "unsupported\n"),
    text("power/runtime_suspended_time", 0o444, "0\n"),
    text("queue/add_random", 0o644, "0\n"),
    text("queue/atomic_write_boundary_bytes", 0o444, "0\n"),
    text("queue/atomic_write_max_bytes", 0o444, "0\n"),
    text("queue/atomic_write_unit_max_bytes", 0o444, "0\n"),
    text("queue/atomic_write_unit_min_bytes", 0o444, "0\n"),
    text("queue/chunk_sectors", 0o444, "0\n"),
    text("queue/dax", 0o444, "0\n"),
    text("queue/discard_granularity", 0o444, "4096\n"),
    text("queue/discard_max_bytes", 0o644, "2199023255040\n"),
    text("queue/discard_max_hw_bytes", 0o444, "2199023255040\n"),
    text("queue/discard_zeroes_data", 0o444, "0\n"),
    text("queue/dma_alignment", 0o444, "511\n"),
    text("queue/fua", 0o444, "0\n"),
    text("queue/hw_sector_size", 0o444, "4096\n"),
    text("queue/io_poll", 0o644, "0\n"),
    text("queue/io_poll_delay", 0o644, "-1\n"),
    text("queue/iostats", 0o644, "0\n"),
    text("queue/iostats_passthrough", 0o644, "0\n"),
    text("queue/logical_block_size", 0o444, "4096\n"),
    text("queue/max_discard_segments", 0o444, "1\n"),
    text("queue/max_hw_sectors_kb", 0o444, "124\n"),
    text("queue/max_integrity_segments", 0o444, "0\n"),
    text("queue/max_sectors_kb", 0o644, "124\n"),
    text("queue/max_segment_size", 0o444, "65536\n"),
    text("queue/max_segments", 0o444, "128\n"),
    text("queue/max_write_streams", 0o444, "0\n"),
    text("queue/minimum_io_size", 0o444, "4096\n"),
    text("queue/nomerges", 0o644, "0\n"),
    text("queue/nr_zones", 0o444, "0\n"),
    text("queue/optimal_io_size", 0o444, "4096\n"),
    text("queue/physical_block_size", 0o444, "4096\n"),
    text("queue/read_ahead_kb", 0o644, "128\n"),
    text("queue/rotational", 0o644, "0\n"),
    text("queue/stable_writes", 0o644, "1\n"),
    text("queue/virt_boundary_mask", 0o444, "0\n"),
    text("queue/write_cache", 0o644, "write through\n"),
    text("queue/write_same_max_bytes", 0o444, "0\n"),
    text("queue/write_stream_granularity", 0o444, "0\n"),
    text("queue/write_zeroes_max_bytes", 0o444, "2199023255040\n"),
    text("queue/write_zeroes_unmap_max_bytes", 0o644, "0\n"),
    text("queue/write_zeroes_unmap_max_hw_bytes", 0o444, "0\n"),
    text("queue/zone_append_max_bytes", 0o444, "0\n"),
    text("queue/zone_write_granularity", 0o444, "0\n"),
    text("queue/zoned", 0o444, "none\n"),
];

/// Major number of devices without a node. The kernel gives block drivers numbers below 512 only.
pub const STAND_IN_MAJOR: u32 = 4000;

/// Major and minor number under which a device is shown.
pub(crate) fn number(shown: &Shown) -> (u32, u32) {
    shown.rdev.unwrap_or((STAND_IN_MAJOR, shown.id))
}

/// Path below `/sys` of the real directory of the device's node. `None` while it has no node or no size.
pub(crate) fn real_dir(shown: &Shown) -> Option<String> {
    let (major, minor) = shown.rdev.filter(|_| shown.disksize != 0)?;
    Some(format!("dev/block/{major}:{minor}"))
}

impl BlockAttribute {
    pub(crate) fn show(&self, sys: &OwnedFd, shown: &Shown) -> Result<Vec<u8>, Errno> {
        if matches!(self.value, Value::Number) {
            let (major, minor) = number(shown);
            return Ok(format!("{major}:{minor}\n").into());
        }
        if let Some(dir) = real_dir(shown) {
            match read_real(sys, &format!("{dir}/{}", self.path)) {
                Ok(bytes) if matches!(self.value, Value::Uevent) => {
                    return Ok(renamed(&bytes, shown.id));
                }
                // An older kernel, or a driver without this attribute.
                Err(Errno::NOENT) => {}
                answer => return answer,
            }
        }
        let (major, minor) = number(shown);
        // Like those of real disks, the numbers start at 1.
        let sequence = u64::from(shown.id) + 1;
        let id = shown.id;
        match self.value {
            Value::Text(text) => Ok(text.into()),
            Value::Size => Ok(format!("{}\n", shown.disksize / 512).into()),
            Value::Number => Ok(format!("{major}:{minor}\n").into()),
            Value::Sequence => Ok(format!("{sequence}\n").into()),
            Value::Uevent => Ok(format!(
                "MAJOR={major}\nMINOR={minor}\nDEVNAME=zram{id}\nDEVTYPE=disk\nDISKSEQ={sequence}\n"
            )
            .into()),
            Value::Fails => Err(Errno::IO),
        }
    }

    /// Writes to the node's own attribute. While there is no node, accepts a setting and forgets it: the node will have the
    /// settings of its driver.
    pub(crate) fn store(&self, sys: &OwnedFd, shown: &Shown, value: &[u8]) -> Result<(), Errno> {
        let Some(dir) = real_dir(shown) else {
            return Ok(());
        };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        match openat(sys, format!("{dir}/{}", self.path), flags, Mode::empty()) {
            Ok(file) => rustix::io::write(file, value).map(drop),
            Err(Errno::NOENT | Errno::ACCESS) => Err(Errno::INVAL),
            Err(errno) => Err(errno),
        }
    }
}

fn read_real(sys: &OwnedFd, path: &str) -> Result<Vec<u8>, Errno> {
    let file = openat(sys, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; PAGE_SIZE];
    let len = rustix::io::read(file, &mut bytes[..])?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Turns a node's `uevent` into that of `zramN`.
fn renamed(uevent: &[u8], id: u32) -> Vec<u8> {
    let text = String::from_utf8_lossy(uevent);
    let line = |line: &str| match line.strip_prefix("DEVNAME=") {
        Some(_) => format!("DEVNAME=zram{id}\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_uevent_gets_the_devices_name() {
        let uevent = b"MAJOR=7\nMINOR=3\nDEVNAME=loop3\nDEVTYPE=disk\n";
        let ours = renamed(uevent, 12);
        assert_eq!(ours, b"MAJOR=7\nMINOR=3\nDEVNAME=zram12\nDEVTYPE=disk\n");
    }
}
