//! When a dictionary is to be trained for recompression. The device knows how ([`crate::JobsApi::train`]) and says whether one
//! pays; this says when to ask, and for which gain.
//!
//! A lesson takes about a second of processor time, so it is not repeated for nothing: the first time when there is
//! enough to learn from, and again when as many pages as were there then have been recompressed and came out worse than
//! the same number before them, or when that has happened [`PASSES`] times.

use crate::device::Device;
use crate::recompress::RecompressReport;
use crate::{PAGE_SIZE, TrainReport, Training};

/// Pages with an object that are worth a lesson, 16 MiB of data.
pub(super) const ENOUGH_PAGES: u64 = 4096;
/// The part by which objects may become larger before a new dictionary is tried.
const WORSE: f64 = 1.10;
/// Pages recompressed since the last lesson, in pages that were there then, after which content is another.
const PASSES: u64 = 4;
/// The rule for adopting one: this part smaller, at this part of the speed or more. Nobody waits for recompression, so
/// speed matters less than to a write.
const MIN_SAVING: f64 = 0.03;
const MIN_SPEED: f64 = 0.5;
/// Pages to sample in a device that serves as swap: the memory for them is locked.
const SWAP_SAMPLES: usize = 1024;

/// What was known after the last lesson.
struct Lesson {
    /// Pages that there were.
    pages: u64,
    /// Pages recompressed since.
    since: u64,
    /// Bytes of an object on average, of the first so many pages recompressed since.
    first: Option<f64>,
    /// Whether there was a dictionary then.
    learnt: bool,
}

/// Pages and bytes that were recompressed.
#[derive(Default)]
struct Window {
    pages: u64,
    bytes: u64,
}

#[derive(Default)]
pub(super) struct Teacher {
    lesson: Option<Lesson>,
    window: Window,
    /// The last window came out worse than the first.
    worse: bool,
}

impl Teacher {
    /// Notes what came of a recompression.
    pub(super) fn note(&mut self, report: &RecompressReport) {
        let Some(lesson) = &mut self.lesson else {
            return;
        };
        lesson.since += report.recompressed;
        self.window.pages += report.recompressed;
        self.window.bytes += report.bytes_after;
        if self.window.pages < lesson.pages {
            return;
        }
        let mean = self.window.bytes as f64 / self.window.pages as f64;
        let first = *lesson.first.get_or_insert(mean);
        self.worse = mean > first * WORSE;
        self.window = Window::default();
    }

    /// Why a lesson is due now, if one is.
    pub(super) fn due(&mut self, device: &Device) -> Option<&'static str> {
        let (learnt, pages) = match state_of(device) {
            Learning::Possible { learnt, pages } => (learnt, pages),
            Learning::Impossible(_) => return None,
        };
        let Some(lesson) = &self.lesson else {
            if learnt {
                // By whoever had the device before, or it was given.
                self.begin(pages, true);
                return None;
            }
            return Some("there is no dictionary yet");
        };
        if lesson.learnt && !learnt {
            return Some("the algorithm is another and has none");
        }
        if self.worse {
            return Some("pages come out larger than after the last lesson");
        }
        (lesson.since >= lesson.pages * PASSES).then_some("most of the content is new")
    }

    /// Notes that a lesson was given, of whatever outcome.
    fn begin(&mut self, pages: u64, learnt: bool) {
        *self = Teacher {
            lesson: Some(Lesson {
                pages: pages.max(ENOUGH_PAGES),
                since: 0,
                first: None,
                learnt,
            }),
            ..Teacher::default()
        };
    }

    /// Gives one.
    pub(super) fn teach(&mut self, device: &Device) -> Result<TrainReport, crate::Error> {
        let mut training = Training {
            priority: 1,
            rule,
            ..Training::default()
        };
        if device.pool.has_stock() {
            training.sample_pages = SWAP_SAMPLES;
        }
        let report = device.jobs().train(&training);
        let learnt = device.codecs.of_priority(1);
        let learnt = learnt.is_some_and(|(_, codec)| !codec.dictionary().is_empty());
        self.begin(pages_with_objects(device), learnt);
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

/// What there is to learn for the secondary algorithm of priority 1.
pub(super) enum Learning {
    /// It takes a dictionary, and has one or not.
    Possible {
        learnt: bool,
        pages: u64,
    },
    Impossible(String),
}

pub(super) fn state_of(device: &Device) -> Learning {
    let Some((_, codec)) = device.codecs.of_priority(1) else {
        return Learning::Impossible("there is no secondary algorithm of priority 1".into());
    };
    if codec.algorithm.dictionary().is_none() {
        let name = codec.algorithm.driver_name();
        return Learning::Impossible(format!("{name} takes no dictionary"));
    }
    let pages = pages_with_objects(device);
    if pages < ENOUGH_PAGES {
        return Learning::Impossible(format!(
            "{pages} pages are too few, it takes {ENOUGH_PAGES}"
        ));
    }
    Learning::Possible {
        learnt: !codec.dictionary().is_empty(),
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
    fn lessons_are_given_once_and_when_pages_get_worse() {
        let device = device("zstd");
        let mut teacher = Teacher::default();
        assert!(teacher.due(&device).is_some());
        teacher.begin(ENOUGH_PAGES, false);
        assert_eq!(teacher.due(&device), None);
        for _ in 0..2 {
            teacher.note(&report(ENOUGH_PAGES, 1000));
            assert_eq!(teacher.due(&device), None);
        }
        teacher.note(&report(ENOUGH_PAGES, 1099));
        assert_eq!(teacher.due(&device), None);
        teacher.note(&report(ENOUGH_PAGES / 2, 1200));
        assert_eq!(teacher.due(&device), None);
        teacher.note(&report(ENOUGH_PAGES / 2, 1200));
        assert!(
            teacher
                .due(&device)
                .unwrap()
                .starts_with("pages come out larger")
        );
        teacher.begin(ENOUGH_PAGES, false);
        teacher.note(&report(ENOUGH_PAGES * PASSES, 500));
        assert_eq!(teacher.due(&device), Some("most of the content is new"));
        // Somebody set the algorithm anew.
        teacher.begin(ENOUGH_PAGES, true);
        assert!(teacher.due(&device).unwrap().contains("has none"));
    }

    #[test]
    fn no_lesson_without_pupils() {
        let mut teacher = Teacher::default();
        assert_eq!(teacher.due(&device("deflate")), None);
        let small = Device::builder(1 << 20).secondary(1, crate::Choice::new("zstd"));
        assert_eq!(teacher.due(&small.build().unwrap()), None);
        assert_eq!(
            teacher.due(&Device::builder(1 << 20).build().unwrap()),
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
