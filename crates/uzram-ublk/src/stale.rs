//! What a dead server left: its device, known by the tag that the driver keeps.

use std::fs;
use std::path::PathBuf;

use crate::Error;
use crate::control::Control;
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
    let mut cleared = Vec::new();
    let ids = all();
    // Who may not make devices has left none.
    if ids.is_empty() || !Control::is_allowed() {
        return Ok(cleared);
    }
    let mut control = Control::open()?;
    for id in ids {
        // It may go while we look.
        if !control
            .info(id)
            .is_ok_and(|info| info.server_flags == tag.0)
        {
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
