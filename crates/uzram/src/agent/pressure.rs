//! Whether memory is short: `mem_limit` with the `high` watermark, or the machine's memory pressure (PSI).
//!
//! A gap between the starting and the ending mark provides hysteresis.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::settings::PolicySettings;
use crate::device::Device;

/// The gap between both marks, in percent of the limit.
const GAP_PERCENT: u64 = 5;
/// How often PSI is read: the kernel averages over ten seconds and updates every two.
const ASK_EVERY: Duration = Duration::from_secs(1);
const PSI: &str = "/proc/pressure/memory";

/// A reading of memory pressure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Gauge {
    /// No gauge is configured.
    None,
    /// Memory used, the starting and the ending mark, in bytes.
    Limit { used: u64, high: u64, low: u64 },
    /// Percent of the time that some task stalled on memory, and the mark.
    Psi { some: f64, high: f64 },
    /// The kernel has no PSI.
    NoPsi,
}

impl Gauge {
    /// Whether work starts.
    pub(super) fn is_high(self) -> bool {
        match self {
            Gauge::Limit { used, high, .. } => used > high,
            Gauge::Psi { some, high } => some > high,
            Gauge::None | Gauge::NoPsi => false,
        }
    }

    /// Whether work may end, once it has begun.
    pub(super) fn is_low(self) -> bool {
        match self {
            Gauge::Limit { used, low, .. } => used <= low,
            Gauge::Psi { some, high } => some <= high / 2.0,
            Gauge::None | Gauge::NoPsi => true,
        }
    }
}

/// Reads the gauge that the settings name.
pub(super) struct Pressure {
    /// `None` where the kernel has none.
    file: Option<File>,
    some: Option<f64>,
    asked: Option<Instant>,
}

impl Pressure {
    pub(super) fn new() -> Pressure {
        Pressure::open(Path::new(PSI))
    }

    fn open(path: &Path) -> Pressure {
        Pressure {
            file: File::open(path).ok(),
            some: None,
            asked: None,
        }
    }

    pub(super) fn read(&mut self, device: &Device, settings: &PolicySettings) -> Gauge {
        let (limit, percent) = (device.pool.limit_bytes(), u64::from(settings.high_percent));
        if limit > 0 && percent > 0 {
            device.tell_books();
            let part = |percent: u64| (u128::from(limit) * u128::from(percent) / 100) as u64;
            let low = percent.saturating_sub(GAP_PERCENT).max(percent / 2);
            return Gauge::Limit {
                used: device.pool.limited_bytes(),
                high: part(percent),
                low: part(low),
            };
        }
        if settings.psi_percent == 0 {
            return Gauge::None;
        }
        if self.asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
            self.asked = Some(Instant::now());
            self.some = self.file.as_ref().and_then(some_avg10);
        }
        self.some.map_or(Gauge::NoPsi, |some| Gauge::Psi {
            some,
            high: settings.psi_percent.into(),
        })
    }

    /// How soon to look again.
    pub(super) fn patience(gauge: Gauge) -> Duration {
        match gauge {
            // A writer fills the rest of a small limit in no time.
            Gauge::Limit { used, high, .. } if used >= high / 4 * 3 => Duration::from_millis(10),
            Gauge::Limit { .. } => Duration::from_millis(100),
            _ => ASK_EVERY,
        }
    }
}

fn some_avg10(file: &File) -> Option<f64> {
    let mut bytes = [0; 256];
    let len = file.read_at(&mut bytes, 0).ok()?;
    parse(str::from_utf8(&bytes[..len]).ok()?)
}

/// The figure of `some avg10=0.00 avg60=...`.
fn parse(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let word = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("avg10="))?;
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_file_is_understood() {
        let text = "some avg10=12.34 avg60=1.00 avg300=0.10 total=1\nfull avg10=5.00 avg60=0 avg300=0 total=0\n";
        assert_eq!(parse(text), Some(12.34));
        for text in [
            "",
            "some",
            "some avg60=1.00",
            "full avg10=1.00",
            "some avg10=x",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_gauge_is_of_the_limit_before_it_is_of_the_machine() {
        let device = Device::builder(16 << 20).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        std::fs::write(&path, "some avg10=30.00 avg60=0 avg300=0 total=0\n").unwrap();
        let settings = PolicySettings::auto();
        let mut pressure = Pressure::open(&path);
        let gauge = pressure.read(&device, &settings);
        assert_eq!(
            gauge,
            Gauge::Psi {
                some: 30.0,
                high: 10.0
            }
        );
        assert!(gauge.is_high() && !gauge.is_low());
        device.set_mem_limit_bytes(1 << 20);
        let gauge = pressure.read(&device, &settings);
        let (high, low) = ((1 << 20) * 9 / 10, (1 << 20) * 85 / 100);
        assert_eq!(gauge, Gauge::Limit { used: 0, high, low });
        assert!(!gauge.is_high() && gauge.is_low());
        device.set_mem_limit_bytes(0);
        let missing = Pressure::open(&dir.path().join("none")).read(&device, &settings);
        assert_eq!(missing, Gauge::NoPsi);
        let off = PolicySettings {
            psi_percent: 0,
            ..settings
        };
        assert_eq!(pressure.read(&device, &off), Gauge::None);
    }
}
