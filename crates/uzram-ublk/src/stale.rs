//! What a dead server left: its device, known by the tag that the driver keeps.

use std::fs;
use std::path::PathBuf;

use crate::Error;
use crate::abi::{DevInfo, flags, state};
use crate::control::{Control, is_privileged};
use crate::options::Tag;

/// Numbers of all ublk devices of this machine.
fn all() -> Vec<u32> {
    let Ok(found) = fs::read_dir("/sys/class/ublk-char") else {
        return Vec::new();
    };
    let number = |entry: fs::DirEntry| {
        entry
            .file_name()
            .to_str()?
            .strip_prefix("ublkc")?
            .parse()
            .ok()
    };
    found.flatten().filter_map(number).collect()
}

/// Deletes the devices with this tag, whose server died and whose data is lost. Returns what was cleared, in words. Who
/// still uses the node (a mount, a swap area) gets I/O errors instead of waiting for ever.
pub fn clear_stale(tag: Tag) -> Result<Vec<String>, Error> {
    clear(|info| info.server_flags == tag.0)
}

/// Deletes users' devices whose server is dead, for root: a device that udev did not give to its user cannot be deleted by
/// the user. Returns what was cleared, in words.
pub fn clear_users_stale() -> Result<Vec<String>, Error> {
    if !is_privileged() {
        return Ok(Vec::new());
    }
    clear(|info| {
        let unprivileged = info.flags & flags::UNPRIVILEGED_DEV != 0;
        // The process number may be another namespace's: the driver knows whether it is served, and whoever is about
        // to serve it has opened it.
        unprivileged
            && Tag::is_uzrams(info.server_flags)
            && info.state == state::DEAD
            && !PathBuf::from(format!("/proc/{}", info.pid)).exists()
            && !is_open(info.dev_id)
    })
}

/// The user and group that made the device of this node (`ublkcN` or `ublkbN`, with or without its directory), if they
/// had no right to administer: udev asks this, to give the nodes to them.
pub fn owner(node: &str) -> Result<Option<(u32, u32)>, Error> {
    let name = node.rsplit('/').next().unwrap_or(node);
    let number = ["ublkc", "ublkb"]
        .iter()
        .find_map(|kind| name.strip_prefix(kind)?.parse::<u32>().ok());
    let id = number.ok_or_else(|| Error::Unavailable {
        reason: format!("'{node}' is no ublk node: it takes ublkcN or ublkbN"),
    })?;
    let info = Control::open()?.info(id)?;
    let unprivileged = info.flags & flags::UNPRIVILEGED_DEV != 0;
    Ok(unprivileged.then_some((info.owner_uid, info.owner_gid)))
}

/// Whether somebody has the char device open, which only one can.
fn is_open(id: u32) -> bool {
    let node = format!("/dev/ublkc{id}");
    let opened = fs::OpenOptions::new().read(true).write(true).open(node);
    opened.is_err_and(|error| error.raw_os_error() == Some(16))
}

fn clear(is_stale: impl Fn(&DevInfo) -> bool) -> Result<Vec<String>, Error> {
    let mut cleared = Vec::new();
    let ids = all();
    // Who may not make devices has left none.
    if ids.is_empty() || !Control::is_allowed() {
        return Ok(cleared);
    }
    let mut control = Control::open()?;
    for id in ids {
        // It may go while we look, or not be ours to look at.
        if !control.info(id).is_ok_and(|info| is_stale(&info)) {
            continue;
        }
        let node = PathBuf::from(format!("/dev/ublkb{id}"));
        let by = uzram_blockdev::busy(&node);
        control.stop(id)?;
        control.delete(id)?;
        cleared.push(match by {
            Some(by) => format!(
                "{}, which was {by:#}: that gets I/O errors from now on",
                node.display()
            ),
            None => node.display().to_string(),
        });
    }
    Ok(cleared)
}
