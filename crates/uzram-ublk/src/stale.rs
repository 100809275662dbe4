//! Deletes devices whose server died, recognised by the tag that the driver keeps.

use std::path::Path;

use rustix::io::Errno;
use uzram_blockdev::{Error as NodeError, busy, open_rw};

use crate::Error;
use crate::abi::{DevInfo, flags, state};
use crate::control::{Control, is_privileged};
use crate::node::{all, block_node, char_node};
use crate::options::Tag;

/// Deletes the devices with this tag, whose server died and whose data is lost. Returns in words what was cleared. Whoever
/// still uses the node (a mount, a swap area) gets I/O errors instead of waiting for ever.
pub fn clear_stale(tag: Tag) -> Result<Vec<String>, Error> {
    clear(|info| info.server_flags == tag.0)
}

/// Deletes users' devices whose server is dead, for root: users cannot delete a device that udev did not give them. Returns
/// in words what was cleared.
pub fn clear_users_stale() -> Result<Vec<String>, Error> {
    if !is_privileged() {
        return Ok(Vec::new());
    }
    clear(|info| {
        let unprivileged = info.flags & flags::UNPRIVILEGED_DEV != 0;
        // The process number may be another namespace's. The driver knows whether the device is served, and whoever is
        // about to serve it has it open.
        unprivileged
            && Tag::is_uzrams(info.server_flags)
            && info.state == state::DEAD
            && !Path::new(&format!("/proc/{}", info.pid)).exists()
            && !is_open(info.dev_id)
    })
}

/// Whether somebody has the char device open, which only one process can.
fn is_open(id: u32) -> bool {
    match open_rw(&char_node(id)) {
        Err(NodeError::Open { source, .. }) => Errno::from_io_error(&source) == Some(Errno::BUSY),
        _ => false,
    }
}

fn clear(is_stale: impl Fn(&DevInfo) -> bool) -> Result<Vec<String>, Error> {
    let mut cleared = Vec::new();
    let ids = all();
    // A user who may not make devices has left none.
    if ids.is_empty() || !Control::is_allowed() {
        return Ok(cleared);
    }
    let mut control = Control::open()?;
    for id in ids {
        // The device may go at this moment, or not be ours to look at.
        if !control.info(id).is_ok_and(|info| is_stale(&info)) {
            continue;
        }
        let node = block_node(id);
        let by = busy(&node);
        control.stop(id)?;
        control.delete(id)?;
        let node = node.display();
        cleared.push(match by {
            Some(by) => format!("{node}, which was {by:#}: that gets I/O errors from now on"),
            None => node.to_string(),
        });
    }
    Ok(cleared)
}
