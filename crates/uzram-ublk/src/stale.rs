//! Deletes devices whose server died, recognised by the tag that the driver keeps.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use uzram_blockdev::{Error as NodeError, busy, open_rw};

use crate::Error;
use crate::abi::{DevInfo, flags, state};
use crate::control::{Control, is_privileged};
use crate::node::{all, block_node, char_node};
use crate::options::Tag;

/// How long a device that the driver did not delete is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(600);
/// File in a device's directory that names the numbers of devices which the driver did not delete, so that not every
/// command waits for it again.
const STUCK: &str = "ublk-stuck";

/// As [`clear_stale`] for the device at `dir`. A device that the driver does not delete is named, and left
/// alone for a while.
pub(crate) fn clear_of_dir(dir: &Path) -> Result<Vec<String>, String> {
    let note = dir.join(STUCK);
    let age = fs::metadata(&note).and_then(|note| note.modified());
    let is_recent = age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < LEFT_ALONE));
    let stuck = fs::read_to_string(&note).unwrap_or_default();
    if is_recent && let Some(id) = still_there(&stuck, &all()) {
        return Err(format!(
            "{} could not be deleted, since the driver did not answer: it goes when the machine starts anew",
            char_node(id).display()
        ));
    }
    let cleared = clear_stale(Tag::from_path(dir));
    if let Err(Error::Left { id, .. }) = &cleared
        && let Err(error) = fs::write(&note, format!("{id}\n"))
    {
        tracing::debug!(%error, "the driver will be asked again");
    }
    cleared.map_err(|error| error.to_string())
}

/// The first of the numbers noted that a device still has.
fn still_there(noted: &str, all: &[u32]) -> Option<u32> {
    let mut noted = noted.lines().filter_map(|line| line.parse().ok());
    noted.find(|id| all.contains(id))
}

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
    // Whoever lists devices is not to wait for a driver that does not answer.
    let mut control = Control::open_impatient()?;
    let mut left = None;
    for id in ids {
        // The device may go at this moment, or not be ours to look at.
        if !control.info(id).is_ok_and(|info| is_stale(&info)) {
            continue;
        }
        let node = block_node(id);
        let by = busy(&node);
        let gone = control.stop(id).and_then(|()| control.delete(id));
        match gone {
            Err(error) if error.is_unanswered() => {
                let source = Box::new(error);
                left.get_or_insert(Error::Left { id, source });
                continue;
            }
            other => other?,
        }
        let node = node.display();
        cleared.push(match by {
            Some(by) => format!("{node}, which was {by:#}: that gets I/O errors from now on"),
            None => node.to_string(),
        });
    }
    match left {
        None => Ok(cleared),
        Some(left) => {
            for what in cleared {
                tracing::info!("cleared {what}");
            }
            Err(left)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_counts_as_long_as_it_is_there() {
        assert_eq!(still_there("3\nx\n5\n", &[1, 5]), Some(5));
        assert_eq!(still_there("3\n", &[1, 5]), None);
        assert_eq!(still_there("", &[1]), None);
    }
}
