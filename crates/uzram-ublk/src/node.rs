//! The two nodes of a ublk device, and whose they are.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::Error;
use crate::abi::flags;
use crate::control::Control;

/// The block device's node.
pub(crate) fn block_node(id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{id}"))
}

/// The node through which the server reaches the device.
pub(crate) fn char_node(id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkc{id}"))
}

/// Whether the device exists, with or without a block node.
pub(crate) fn exists(id: u32) -> bool {
    Path::new(&format!("/sys/class/ublk-char/ublkc{id}")).exists()
}

/// Numbers of all ublk devices of this machine.
pub(crate) fn all() -> Vec<u32> {
    let Ok(found) = fs::read_dir("/sys/class/ublk-char") else {
        return Vec::new();
    };
    let names = found.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.to_str()?.strip_prefix("ublkc")?.parse().ok())
        .collect()
}

/// Whether this user may read and write the node. Does not open it, which the driver and udev would notice.
pub(crate) fn is_accessible(node: &Path) -> bool {
    let access = Access::READ_OK | Access::WRITE_OK;
    accessat(CWD, node, access, AtFlags::EACCESS).is_ok()
}

/// Finds the user and group that made the device of a node (`ublkcN` or `ublkbN`, with or without its directory). `None`
/// for a privileged device. udev calls this to give the nodes to them.
pub fn owner(node: &str) -> Result<Option<(u32, u32)>, Error> {
    let name = node.rsplit('/').next().unwrap_or(node);
    let number = ["ublkc", "ublkb"]
        .iter()
        .find_map(|kind| name.strip_prefix(kind)?.parse::<u32>().ok());
    let id = number.ok_or_else(|| Error::NotANode { name: node.into() })?;
    let info = Control::open()?.info(id)?;
    let unprivileged = info.flags & flags::UNPRIVILEGED_DEV != 0;
    Ok(unprivileged.then_some((info.owner_uid, info.owner_gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ublk_nodes_have_an_owner() {
        for name in ["/dev/sda", "ublkb", "/dev/ublkcx", "ublk-control"] {
            let error = owner(name).unwrap_err();
            assert!(matches!(error, Error::NotANode { .. }), "{error}");
            assert!(error.to_string().contains("use ublkcN or ublkbN"));
        }
    }
}
