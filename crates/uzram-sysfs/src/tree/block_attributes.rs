//! The attributes that every block device has: read from the real directory of the device's node, or fixed values while there
//! is none.

use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use rustix::fs::{Mode, OFlags, openat};
use uzram_control::zram::{Errno, ShownDevice};

/// Attributes are at most a page.
const PAGE_SIZE: usize = 4096;

/// An attribute that every block device has.
pub(crate) struct BlockAttribute {
    /// Its path below the device's directory.
    pub(crate) path: &'static str,
    pub(crate) mode: u16,
    /// What an unused zram in the kernel shows, without the newline; in braces what is computed.
    value: &'static str,
}

/// All of them.
pub(crate) static BLOCK_ATTRIBUTES: LazyLock<Vec<BlockAttribute>> = LazyLock::new(|| {
    let table = include_str!("block_attributes.tsv").lines();
    table.filter_map(BlockAttribute::parse).collect()
});

/// Major number of devices without a node. The kernel gives block drivers numbers below 512 only.
pub const STAND_IN_MAJOR: u32 = 4000;

/// Major and minor number under which a device is shown.
pub(crate) fn number(shown: &ShownDevice) -> (u32, u32) {
    shown.rdev.unwrap_or((STAND_IN_MAJOR, shown.id))
}

/// Path below `/sys` of the real directory of the device's node. `None` while it has no node or no size.
pub(crate) fn real_dir(shown: &ShownDevice) -> Option<String> {
    let (major, minor) = shown.rdev.filter(|_| shown.disksize != 0)?;
    Some(format!("dev/block/{major}:{minor}"))
}

impl BlockAttribute {
    /// Reads a line of the table.
    fn parse(line: &'static str) -> Option<BlockAttribute> {
        let mut fields = line.split('\t');
        Some(BlockAttribute {
            path: fields.next()?,
            mode: u16::from_str_radix(fields.next()?, 8).ok()?,
            value: fields.next()?,
        })
    }

    pub(crate) fn show(&self, sys: &OwnedFd, shown: &ShownDevice) -> Result<Vec<u8>, Errno> {
        let (major, minor) = number(shown);
        if self.value == "{number}" {
            return Ok(format!("{major}:{minor}\n").into());
        }
        if let Some(dir) = real_dir(shown) {
            match read_real(sys, &format!("{dir}/{}", self.path)) {
                Ok(bytes) if self.value == "{uevent}" => return Ok(renamed(&bytes, shown.id)),
                // An older kernel, or a driver without this attribute.
                Err(Errno::NOENT) => {}
                answer => return answer,
            }
        }
        // Like those of real disks, the numbers start at 1.
        let sequence = u64::from(shown.id) + 1;
        let id = shown.id;
        Ok(match self.value {
            "{nothing}" => Vec::new(),
            "{size}" => format!("{}\n", shown.disksize / 512).into(),
            "{sequence}" => format!("{sequence}\n").into(),
            "{uevent}" => format!(
                "MAJOR={major}\nMINOR={minor}\nDEVNAME=zram{id}\nDEVTYPE=disk\nDISKSEQ={sequence}\n"
            )
            .into(),
            // As in the kernel.
            "{fails}" => return Err(Errno::IO),
            text => format!("{text}\n").into(),
        })
    }

    /// Writes to the node's own attribute. While there is no node, accepts a setting and forgets it: the node will have the
    /// settings of its driver.
    pub(crate) fn store(
        &self,
        sys: &OwnedFd,
        shown: &ShownDevice,
        value: &[u8],
    ) -> Result<(), Errno> {
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
    fn every_line_of_the_table_is_read() {
        let lines = include_str!("block_attributes.tsv").lines();
        let rows = lines.filter(|line| !line.starts_with('#')).count();
        assert_eq!(BLOCK_ATTRIBUTES.len(), rows);
    }

    #[test]
    fn a_nodes_uevent_gets_the_devices_name() {
        let uevent = b"MAJOR=7\nMINOR=3\nDEVNAME=loop3\nDEVTYPE=disk\n";
        let ours = renamed(uevent, 12);
        assert_eq!(ours, b"MAJOR=7\nMINOR=3\nDEVNAME=zram12\nDEVTYPE=disk\n");
    }
}
