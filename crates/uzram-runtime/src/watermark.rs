//! What the kernel keeps free (`vm.min_free_kbytes`), raised while there is a swap device: half of it is what a device under
//! pressure lives on (see `swap.rs`), and what kernels choose for small machines is not enough.
//!
//! Each device that relies on the raised value has a note of it in its directory, with the value before; the last of them
//! that goes gives it back, unless somebody has changed it since.

use std::path::Path;

use crate::swap::told;

const SETTING: &str = "/proc/sys/vm/min_free_kbytes";
const NOTE: &str = "min_free_kbytes";
/// Least and most that the kernel should keep free, and the part of the machine's memory that it should be between them.
const LEAST_KIB: u64 = 32 << 10;
const MOST_KIB: u64 = 64 << 10;
const PART: u64 = 16;

/// The setting before and after it was raised, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Note {
    before: u64,
    raised: u64,
}

/// Raises the setting for the device of that directory, if it is too low, and says so.
pub(crate) fn raise(dir: &Path) {
    let info = rustix::system::sysinfo();
    let total_kib = (info.totalram as u64 * u64::from(info.mem_unit)) >> 10;
    let Some(now) = setting() else { return };
    let wanted = wanted_kib(total_kib);
    let Some(note) = note_of(now, wanted, other_note(dir)) else {
        return;
    };
    let raise = || {
        std::fs::write(dir.join(NOTE), format!("{} {}\n", note.before, note.raised))?;
        if now < note.raised {
            std::fs::write(SETTING, note.raised.to_string())?;
            let message = format!(
                "vm.min_free_kbytes raised from {now} to {}, until the last swap device goes (--keep-min-free leaves it)",
                note.raised
            );
            crate::note::tell(&message);
        }
        Ok(())
    };
    if let Err(error) = raise() {
        let _ = std::fs::remove_file(dir.join(NOTE));
        let why = format!(
            "the kernel keeps only {now} KiB free; under extreme pressure writes to swap may fail, {wanted} would do"
        );
        told("raising vm.min_free_kbytes", &why, error);
    }
}

/// Takes back what [`raise`] did for the device of that directory, if it did anything.
pub(crate) fn give_back(dir: &Path) {
    let Some(note) = read(dir) else { return };
    // First: of two devices that go at the same time one has to be the last.
    let _ = std::fs::remove_file(dir.join(NOTE));
    if other_note(dir).is_none()
        && setting() == Some(note.raised)
        && let Err(error) = std::fs::write(SETTING, note.before.to_string())
    {
        tracing::warn!(%error, "vm.min_free_kbytes stays at {}", note.raised);
    }
}

fn wanted_kib(total_kib: u64) -> u64 {
    (total_kib / PART).clamp(LEAST_KIB, MOST_KIB)
}

/// What is to be noted: nothing where the setting is high enough by itself.
fn note_of(now: u64, wanted: u64, other: Option<Note>) -> Option<Note> {
    let raised = now.max(wanted);
    match other {
        // It is as high as it is because of another device.
        Some(other) if other.raised == now => Some(Note { raised, ..other }),
        _ => (now < wanted).then_some(Note {
            before: now,
            raised,
        }),
    }
}

fn setting() -> Option<u64> {
    std::fs::read_to_string(SETTING).ok()?.trim().parse().ok()
}

fn read(dir: &Path) -> Option<Note> {
    let text = std::fs::read_to_string(dir.join(NOTE)).ok()?;
    let (before, raised) = text.trim().split_once(' ')?;
    Some(Note {
        before: before.parse().ok()?,
        raised: raised.parse().ok()?,
    })
}

/// The note of any other device.
fn other_note(dir: &Path) -> Option<Note> {
    let devices = std::fs::read_dir(dir.parent()?).ok()?;
    let others = devices.flatten().map(|entry| entry.path());
    others
        .filter(|other| other != dir)
        .find_map(|other| read(&other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sixteenth_of_the_memory_within_bounds() {
        for (total_mib, wanted_mib) in [(256, 32), (640, 40), (1024, 64), (65536, 64)] {
            assert_eq!(wanted_kib(total_mib << 10), wanted_mib << 10, "{total_mib}");
        }
    }

    #[test]
    fn what_is_high_enough_is_not_noted_unless_a_device_made_it_so() {
        let note = |before, raised| Some(Note { before, raised });
        assert_eq!(note_of(3000, 40000, None), note(3000, 40000));
        assert_eq!(note_of(50000, 40000, None), None);
        assert_eq!(note_of(40000, 40000, note(3000, 40000)), note(3000, 40000));
        // Somebody else has raised it further since.
        assert_eq!(note_of(90000, 40000, note(3000, 40000)), None);
    }
}
