//! Formats the lines of `block_state` in debugfs.

use std::fmt::Write;

use uzram::{Device, Slot};

/// The longest text in one call.
const MOST: usize = 1 << 20;

/// Formats one slot: its index, the time of its last access since boot in seconds (0 if unknown), and six flags. A flag is a
/// letter if set and a dot if not: same-filled, written back, huge, idle, recompressed, incompressible.
fn line(slot: &Slot) -> String {
    let accessed = slot.accessed.unwrap_or_default();
    let mut text = format!(
        "{:12} {:12}.{:06} ",
        slot.page,
        accessed.as_secs(),
        accessed.subsec_micros()
    );
    for (is, letter) in [
        (slot.same, 's'),
        (slot.backed, 'w'),
        (slot.huge, 'h'),
        (slot.idle, 'i'),
        (slot.recompressed, 'r'),
        (slot.incompressible, 'n'),
    ] {
        text.push(if is { letter } else { '.' });
    }
    text + "\n"
}

/// Formats lines of at most `max_bytes` together from a slot on. Also returns the slot to continue from.
pub(crate) fn lines(device: &Device, from: u64, max_bytes: usize) -> (String, u64) {
    let mut text = String::new();
    let mut next = from;
    for slot in device.zram().slots(from) {
        let line = line(&slot);
        if text.len() + line.len() > max_bytes.min(MOST) {
            return (text, slot.page);
        }
        let _ = text.write_str(&line);
        next = slot.page + 1;
    }
    (text, next)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_are_the_kernels() {
        let mut slot = Slot {
            page: 300,
            same: false,
            backed: true,
            huge: true,
            idle: false,
            recompressed: false,
            incompressible: true,
            accessed: Some(Duration::from_micros(75_033_841)),
        };
        assert_eq!(line(&slot), "         300           75.033841 .wh..n\n");
        slot = Slot {
            page: 0,
            same: true,
            backed: false,
            huge: false,
            idle: true,
            recompressed: true,
            incompressible: false,
            accessed: None,
        };
        assert_eq!(line(&slot), "           0            0.000000 s..ir.\n");
    }

    #[test]
    fn lines_go_on_where_they_ended() {
        let device = Device::builder(1 << 20).build().unwrap();
        for page in [3u64, 5, 200, 255] {
            device.write_at(&[9; 4096], page * 4096).unwrap();
        }
        let (all, end) = lines(&device, 0, 4096);
        assert_eq!((all.lines().count(), end), (4, 256));
        let (mut text, mut next) = (String::new(), 0);
        loop {
            // Room for one line, and for a part of the next.
            let (some, then) = lines(&device, next, 60);
            if some.is_empty() {
                break;
            }
            (text, next) = (text + &some, then);
        }
        assert_eq!(text, all);
        assert_eq!(lines(&device, 0, 10), (String::new(), 3));
    }
}
