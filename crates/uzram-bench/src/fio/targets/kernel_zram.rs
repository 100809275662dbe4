//! The kernel's zram: `/dev/zram0`, which the series uses, where nobody else does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use super::{Means, Probe, Target, TargetMemory, TargetPath};

const NODE: &str = "/dev/zram0";
const SYSFS: &str = "/sys/block/zram0";

/// The device, set up and locked; reset when closed.
pub(super) struct KernelZram {
    /// Locked against others of this kind. While it is open the device cannot be reset.
    lock: Option<File>,
    /// Whether it was set up, and is to be reset.
    ours: bool,
}

impl KernelZram {
    pub(super) fn new(algorithm: Option<&str>, means: &Means<'_>) -> Result<KernelZram> {
        ensure!(
            Path::new(SYSFS).exists() && Path::new(NODE).exists(),
            "this machine has no {NODE} (try: modprobe zram)"
        );
        if let Some(by) = uzram_blockdev::busy(Path::new(NODE)) {
            bail!("{NODE} is in use: {by}");
        }
        free()?;
        // Without contents there is nothing to lose; this forgets algorithms that were chosen.
        set("reset", "1")?;
        let lock = File::open(NODE).with_context(|| format!("opening {NODE}"))?;
        let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        locked.with_context(|| format!("{NODE} is locked by another process"))?;
        free()?;
        let mut zram = KernelZram {
            lock: Some(lock),
            ours: true,
        };
        let set_up = || {
            if let Some(algorithm) = algorithm {
                set("comp_algorithm", algorithm).map_err(|error| {
                    let known = algorithms().join(", ");
                    error.context(format!("the kernel's zram here has {known}"))
                })?;
            }
            set("disksize", &means.size_bytes.to_string())
        };
        if let Err(error) = set_up() {
            zram.close()?;
            return Err(error);
        }
        Ok(zram)
    }
}

/// The kernel's algorithms; none without the device.
pub(in super::super) fn algorithms() -> Vec<String> {
    let known = fs::read_to_string(format!("{SYSFS}/comp_algorithm")).unwrap_or_default();
    let known = known.replace(['[', ']'], "");
    known.split_whitespace().map(str::to_owned).collect()
}

/// Refuses a device that has a size: it may hold data.
fn free() -> Result<()> {
    let path = format!("{SYSFS}/disksize");
    let size = fs::read_to_string(&path).with_context(|| path)?;
    ensure!(
        size.trim() == "0",
        "{NODE} is set up with {} bytes; if nobody needs it: echo 1 > {SYSFS}/reset",
        size.trim()
    );
    Ok(())
}

fn set(attribute: &str, value: &str) -> Result<()> {
    let path = format!("{SYSFS}/{attribute}");
    fs::write(&path, value).with_context(|| format!("{path} = {value}"))
}

/// The first and third figures of `mm_stat`: data, and memory used for it.
pub(super) fn memory(mm_stat: &str) -> Option<TargetMemory> {
    let figures = mm_stat.split_whitespace().map(|figure| figure.parse().ok());
    let figures: Option<Vec<u64>> = figures.collect();
    match figures?.as_slice() {
        [data, _, used, ..] => Some(TargetMemory {
            data_bytes: Some(*data),
            used_bytes: *used,
        }),
        _ => None,
    }
}

impl Target for KernelZram {
    fn place(&self) -> TargetPath {
        TargetPath::File {
            path: NODE.into(),
            direct: true,
        }
    }

    fn probe(&self) -> Probe {
        Probe::MmStat(PathBuf::from(SYSFS).join("mm_stat"))
    }

    fn note(&self) -> String {
        let chosen = fs::read_to_string(format!("{SYSFS}/comp_algorithm")).unwrap_or_default();
        let name = chosen
            .split('[')
            .nth(1)
            .and_then(|rest| rest.split(']').next());
        format!(
            "{}; memory is mm_stat's, without its table of 16 bytes a page",
            name.unwrap_or("unknown algorithm")
        )
    }

    fn close(&mut self) -> Result<()> {
        self.lock = None;
        if !std::mem::take(&mut self.ours) {
            return Ok(());
        }
        // A probe of the node by udev may hold it for a moment.
        for _ in 0..100 {
            if set("reset", "1").is_ok() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        set("reset", "1")
    }
}

impl Drop for KernelZram {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_the_third_figure() {
        let text = " 536870912 277200000 286400512 0 286400512 7 0 0 0\n";
        let memory = memory(text).unwrap();
        assert_eq!(memory.data_bytes, Some(536_870_912));
        assert_eq!(memory.used_bytes, 286_400_512);
        assert!(super::memory("1 2").is_none());
    }
}
