//! Decides when to train a dictionary for recompression, and by which rule to adopt it. [`crate::JobsApi::train`]
//! does the rest.
//!
//! A training takes about a second of processor time, so it is not repeated without need. The first one comes when
//! there are enough pages. The next one comes when as many pages as there were then have been recompressed since and
//! came out worse, or when that many were recompressed [`PASSES`] times.

use crate::device::Device;
use crate::recompress::RecompressReport;
use crate::{PAGE_SIZE, TrainReport, Training};

/// Pages with an object that are enough to train on, 16 MiB of data.
pub(super) const ENOUGH_PAGES: u64 = 4096;
/// Factor by which objects may grow before a new dictionary is tried.
const WORSE: f64 = 1.10;
/// Content counts as replaced once so many times the pages of the last training were recompressed.
const PASSES: u64 = 4;
/// The rule for adopting a dictionary: this part smaller, at this part of the speed or more. No request waits for
/// recompression, so speed matters less than to a write.
const MIN_SAVING: f64 = 0.03;
const MIN_SPEED: f64 = 0.5;
/// Pages to sample in a device that serves as swap: the memory for them is locked.
pub(super) const SWAP_SAMPLES: usize = 1024;

/// State after the last training.
struct LastTraining {
    /// Pages with an object at that time.
    pages: u64,
    /// Pages recompressed since.
    since: u64,
    /// Mean bytes of an object over the first `pages` pages recompressed since.
    first: Option<f64>,
    /// Whether there was a dictionary then.
    has_dictionary: bool,
}

/// Pages and bytes that were recompressed.
#[derive(Default)]
struct RecompressWindow {
    pages: u64,
    bytes: u64,
}

#[derive(Default)]
pub(super) struct TrainingSchedule {
    last: Option<LastTraining>,
    window: RecompressWindow,
    /// Whether the last window came out worse than the first.
    worse: bool,
}

impl TrainingSchedule {
    /// Records the result of a recompression.
    pub(super) fn note(&mut self, report: &RecompressReport) {
        let Some(last) = &mut self.last else {
            return;
        };
        last.since += report.recompressed;
        self.window.pages += report.recompressed;
        self.window.bytes += report.bytes_after;
        if self.window.pages < last.pages {
            return;
        }
        let mean = self.window.bytes as f64 / self.window.pages as f64;
        let first = *last.first.get_or_insert(mean);
        self.worse = mean > first * WORSE;
        self.window = RecompressWindow::default();
    }

    /// Why a training is due now, if one is.
    pub(super) fn due(&mut self, device: &Device) -> Option<&'static str> {
        let (has_dictionary, pages) = match trainability(device) {
            Trainability::Possible {
                has_dictionary,
                pages,
            } => (has_dictionary, pages),
            Trainability::Impossible(_) => return None,
        };
        let Some(last) = &self.last else {
            if has_dictionary {
                // It was there before: from an earlier process, or configured.
                self.begin(pages, true);
                return None;
            }
            return Some("there is no dictionary yet");
        };
        if last.has_dictionary && !has_dictionary {
            return Some("the algorithm is another and has none");
        }
        if self.worse {
            return Some("pages come out larger than after the last training");
        }
        (last.since >= last.pages * PASSES).then_some("most of the content is new")
    }

    /// Records a training, of whatever outcome.
    fn begin(&mut self, pages: u64, has_dictionary: bool) {
        *self = TrainingSchedule {
            last: Some(LastTraining {
                pages: pages.max(ENOUGH_PAGES),
                since: 0,
                first: None,
                has_dictionary,
            }),
            ..TrainingSchedule::default()
        };
    }

    /// Trains.
    pub(super) fn train(&mut self, device: &Device) -> Result<TrainReport, crate::Error> {
        let mut training = Training {
            priority: 1,
            rule,
            ..Training::default()
        };
        if device.pool.has_stock() {
            training.sample_pages = SWAP_SAMPLES;
        }
        let report = device.jobs().train(&training);
        let has_dictionary = device.codecs.by_priority(1);
        let has_dictionary =
            has_dictionary.is_some_and(|(_, codec)| !codec.dictionary().is_empty());
        self.begin(pages_with_objects(device), has_dictionary);
        report
    }
}

/// Whether a dictionary pays in the background.
fn rule(size_ratio: f64, speed_ratio: f64) -> Result<String, String> {
    let saving = 1.0 - size_ratio;
    let what = format!(
        "{:.1} % smaller at {speed_ratio:.2} x the speed",
        saving * 100.0
    );
    if saving >= MIN_SAVING && speed_ratio >= MIN_SPEED {
        return Ok(what);
    }
    let least = MIN_SAVING * 100.0;
    Err(format!(
        "{what}: it takes {least} % smaller at {MIN_SPEED} x the speed"
    ))
}

/// Whether the secondary algorithm of priority 1 can be trained.
pub(super) enum Trainability {
    /// It takes a dictionary, and has one or not.
    Possible {
        has_dictionary: bool,
        pages: u64,
    },
    Impossible(String),
}

pub(super) fn trainability(device: &Device) -> Trainability {
    let Some((_, codec)) = device.codecs.by_priority(1) else {
        return Trainability::Impossible("there is no secondary algorithm of priority 1".into());
    };
    if codec.algorithm.dictionary().is_none() {
        let name = codec.algorithm.driver_name();
        return Trainability::Impossible(format!("{name} takes no dictionary"));
    }
    let pages = pages_with_objects(device);
    if pages < ENOUGH_PAGES {
        return Trainability::Impossible(format!(
            "{pages} pages are too few, it takes {ENOUGH_PAGES}"
        ));
    }
    Trainability::Possible {
        has_dictionary: !codec.dictionary().is_empty(),
        pages,
    }
}

fn pages_with_objects(device: &Device) -> u64 {
    let stats = device.stats();
    let stored = stats.orig_data_size_bytes / PAGE_SIZE as u64;
    stored.saturating_sub(stats.same_pages + stats.backed_pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(pages: u64, bytes: u64) -> RecompressReport {
        RecompressReport {
            recompressed: pages,
            bytes_after: pages * bytes,
            ..RecompressReport::default()
        }
    }

    /// Full of pages, with a secondary that takes a dictionary or not.
    fn device(algorithm: &str) -> Device {
        let device = Device::builder(64 << 20).secondary(1, crate::Choice::new(algorithm));
        let device = device.build().unwrap();
        for number in 0..ENOUGH_PAGES {
            let text = format!("{number} inventory {}", number * 7919 % 10_007);
            device
                .write_at(text.repeat(99).as_bytes(), number * 4096)
                .unwrap();
        }
        device
    }

    #[test]
    fn trainings_are_due_once_and_when_pages_get_worse() {
        let device = device("zstd");
        let mut schedule = TrainingSchedule::default();
        assert!(schedule.due(&device).is_some());
        schedule.begin(ENOUGH_PAGES, false);
        assert_eq!(schedule.due(&device), None);
        for _ in 0..2 {
            schedule.note(&report(ENOUGH_PAGES, 1000));
            assert_eq!(schedule.due(&device), None);
        }
        schedule.note(&report(ENOUGH_PAGES, 1099));
        assert_eq!(schedule.due(&device), None);
        schedule.note(&report(ENOUGH_PAGES / 2, 1200));
        assert_eq!(schedule.due(&device), None);
        schedule.note(&report(ENOUGH_PAGES / 2, 1200));
        assert!(
            schedule
                .due(&device)
                .unwrap()
                .starts_with("pages come out larger")
        );
        schedule.begin(ENOUGH_PAGES, false);
        schedule.note(&report(ENOUGH_PAGES * PASSES, 500));
        assert_eq!(schedule.due(&device), Some("most of the content is new"));
        // The algorithm was set anew.
        schedule.begin(ENOUGH_PAGES, true);
        assert!(schedule.due(&device).unwrap().contains("has none"));
    }

    #[test]
    fn no_training_without_pages() {
        let mut schedule = TrainingSchedule::default();
        assert_eq!(schedule.due(&device("deflate")), None);
        let small = Device::builder(1 << 20).secondary(1, crate::Choice::new("zstd"));
        assert_eq!(schedule.due(&small.build().unwrap()), None);
        assert_eq!(
            schedule.due(&Device::builder(1 << 20).build().unwrap()),
            None
        );
    }

    #[test]
    fn the_rule_takes_slower_dictionaries_than_writes_would() {
        assert!(rule(0.9, 0.6).is_ok() && crate::pays(0.9, 0.6).is_err());
        let why = rule(0.99, 2.0).unwrap_err();
        assert!(
            why.starts_with("1.0 % smaller at 2.00 x the speed: it takes 3 %"),
            "{why}"
        );
        assert!(rule(0.5, 0.4).is_err());
    }
}
