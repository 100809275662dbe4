//! zram's interface to the devices, for commands that read or write attributes.

use std::sync::Arc;

use uzram_control::zram::{Errno, Refusal, View};
use uzram_control::{RunDir, number};
use uzram_runtime::sweep::swept_run_dir;
use uzram_runtime::zram::Local;
use uzram_spec::AUTO;

use super::find_daemon;
use crate::exit::{Failure, Kind, Result};

/// The daemon's interface, or one of this process where no daemon runs.
pub(super) fn view() -> Result<Arc<dyn View>> {
    let run = swept_run_dir()?;
    if let Some(daemon) = find_daemon(&run)? {
        return Ok(Arc::new(daemon));
    }
    Ok(Local::new(run, AUTO, true, None))
}

/// N of a device's name, path or URI.
pub(super) fn id(view: &dyn View, name: &str) -> Result<u32> {
    let bare = name.strip_prefix("/dev/").unwrap_or(name);
    if let Some(id) = number(bare) {
        let devices = view.devices().unwrap_or_default();
        if devices.iter().any(|device| device.id == id) {
            return Ok(id);
        }
    }
    let entry = RunDir::of_user().find(name)?;
    number(&entry.record.name).ok_or_else(|| Failure::no_device(format!("no device '{name}'")))
}

pub(super) fn failed(what: &str, refusal: impl Into<Refusal>) -> Failure {
    let Refusal { errno, why } = refusal.into();
    let said = why.unwrap_or_else(|| std::io::Error::from(errno).to_string());
    let kind = match errno {
        Errno::BUSY => Kind::Busy,
        Errno::NODEV | Errno::NOENT => Kind::NoDevice,
        Errno::INVAL | Errno::RANGE | Errno::TOOBIG | Errno::NOTBLK => Kind::Usage,
        Errno::ACCESS | Errno::PERM => Kind::Impossible,
        _ => Kind::Failed,
    };
    Failure::new(kind, format!("{what}: {said}"))
}
