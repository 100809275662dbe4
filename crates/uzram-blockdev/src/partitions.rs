//! Deletes the partitions of a disk: the one file of this crate with unsafe code, for an ioctl that `rustix` does not have.
//!
//! A driver that is told to drop a disk leaves its partitions where they are, and they reach into the next one.
//! The layouts are those of the kernel's `uapi/linux/blkpg.h`, asserted below.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::Errno;

const BLKPG: libc::Ioctl = 0x1269;
/// `op` of [`PartitionOrder`]: delete.
const BLKPG_DEL_PARTITION: libc::c_int = 2;

/// `struct blkpg_partition`.
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct PartitionOrder {
    op: libc::c_int,
    flags: libc::c_int,
    len: libc::c_int,
    partition: *mut Partition,
}

const _: () = {
    assert!(size_of::<Partition>() == 152);
    assert!(size_of::<PartitionOrder>() == 24);
};

/// Deletes those partitions of an open disk that nobody has open. Returns how many stay.
pub fn delete_partitions(disk: &File, node: &Path) -> usize {
    let name = node.file_name().unwrap_or_default();
    let entries = fs::read_dir(Path::new("/sys/block").join(name));
    let numbers = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let number = fs::read_to_string(entry.path().join("partition")).ok()?;
        number.trim().parse().ok()
    });
    numbers
        .filter(|number| delete(disk, *number).is_err())
        .count()
}

/// EBUSY: it is open. ENXIO: there is none of that number.
fn delete(disk: &File, number: libc::c_int) -> Result<(), Errno> {
    let mut partition = Partition {
        start: 0,
        length: 0,
        number,
        names: [0; 128],
    };
    let order = PartitionOrder {
        op: BLKPG_DEL_PARTITION,
        flags: 0,
        len: size_of::<Partition>() as libc::c_int,
        partition: &raw mut partition,
    };
    // SAFETY: BLKPG reads one `struct blkpg_ioctl_arg` and the `struct blkpg_partition` that it points to, which live
    // until the call returns.
    match unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const order) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_partitions() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(delete_partitions(file.as_file(), file.path()), 0);
        assert!(delete(file.as_file(), 1).is_err());
    }
}
