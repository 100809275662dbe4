//! Decides when a primary that trains itself is due: the first time, and when what is written has drifted. Pure: it is told
//! what was seen and what time it is, and says why a training is due or what it waits for.
//!
//! *The first training* comes with the first [`FIRST_BYTES`] of objects. Below that its tables would cost more memory than
//! they save.
//!
//! *Drift* is read off the mean object of what is written, which costs requests next to nothing (`Tally`). The first window
//! after a training is the measure. A training is due when two windows in a row are [`WORSE`] larger. One is also due when
//! most of the content is new: drift need not make objects larger.
//!
//! *It never flaps.* A training of whatever outcome makes the next window the measure. The pause after it doubles each time,
//! up to an hour, until the contents have been quiet. A training that changed nothing doubles what must be new for the next.
//! At most [`LIVE_GENERATIONS`] are alive: then trainings wait until the last object of one is gone.

use std::time::{Duration, Instant};

use crate::stream::StreamTotals;

/// Bytes of objects for the first training: 30 to 50 MiB of memory, of which the sample is a fifth.
pub(super) const FIRST_BYTES: u64 = 8 << 20;
/// Pages with an object for the first training: those that are sampled.
pub(super) const FIRST_PAGES: u64 = 4096;
/// Pages of a window, 32 MiB of data, at least.
pub(super) const WINDOW: u64 = 8192;
/// Factor by which the mean object has to grow.
pub(super) const WORSE: f64 = 1.05;
/// Windows in a row that have to show it.
const WINDOWS: u32 = 2;
/// Content counts as new once so many times the pages of the last training were written.
pub(super) const PASSES: u64 = 4;
/// How often what must be new is doubled at most.
const MOST_VAIN: u32 = 6;
/// The pause after a training.
pub(super) const PAUSE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(30)..=Duration::from_secs(3600);
/// Contents are quiet when no training is due for so many times the last pause.
const QUIET: u32 = 4;
/// Generations of an algorithm that are alive at most, the one without a trained dictionary among them. Each costs memory
/// for its tables and for each reader's context.
pub(crate) const LIVE_GENERATIONS: usize = 4;

/// What a look at the device found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seen {
    /// The primary's index among the codecs.
    pub(super) codec: u8,
    /// The number of its generation; 0: none was trained.
    pub(super) generation: u32,
    /// Whether it has a dictionary that somebody gave it.
    pub(super) given: bool,
    /// Pages with an object in memory, and the bytes of these.
    pub(super) pages: u64,
    pub(super) bytes: u64,
    /// What was written with this codec.
    pub(super) written: StreamTotals,
    /// Generations that are alive.
    pub(super) live: usize,
    /// Whether there is an entry for another codec.
    pub(super) has_room: bool,
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Due {
    /// Train, for this reason.
    Now(String),
    /// Not yet: this is waited for.
    Not(String),
}

/// The last training.
#[derive(Debug, Clone, Copy)]
struct LastSelfTraining {
    /// Pages with an object then.
    pages: u64,
    /// When; `None`: by a process before this one.
    at: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Drift {
    /// Index and generation that the rest is about.
    codec: Option<(u8, u32)>,
    last: Option<LastSelfTraining>,
    /// What had been written at the last training, and at the begin of the window.
    since: StreamTotals,
    window: StreamTotals,
    /// Mean object of the first window.
    measure: Option<f64>,
    /// Mean object of the last window.
    mean: f64,
    /// Windows in a row that were worse.
    worse: u32,
    /// How often the pause was doubled.
    doubled: u32,
    /// Trainings in a row that changed nothing.
    vain: u32,
}

impl Drift {
    /// Whether a training is due.
    pub(super) fn look(&mut self, seen: &Seen, now: Instant) -> Due {
        self.follow(seen);
        if seen.given {
            return Due::Not("nothing: its dictionary was given (dict=FILE)".into());
        }
        let due = match self.last {
            None => first(seen),
            Some(last) => self.next(seen, last),
        };
        let Due::Now(why) = due else { return due };
        if let Some(left) = self.pause_left(now) {
            return Due::Not(format!(
                "{why}; a pause of {:.0} s",
                left.as_secs_f64().ceil()
            ));
        }
        if seen.live >= LIVE_GENERATIONS {
            return Due::Not(format!(
                "{why}; {} generations have objects, one has to go first",
                seen.live
            ));
        }
        if !seen.has_room {
            return Due::Not(format!(
                "{why}; as many algorithms have objects as there can be"
            ));
        }
        Due::Now(why)
    }

    /// Notes a training that ended, of whatever outcome; `seen` is after it.
    pub(super) fn trained(&mut self, seen: &Seen, adopted: bool, now: Instant) {
        let quiet = self.pause() * QUIET;
        let was_quiet = |at: Instant| now.saturating_duration_since(at) >= quiet;
        match self.last.and_then(|last| last.at) {
            Some(at) if !was_quiet(at) => self.doubled += 1,
            _ => self.doubled = 0,
        }
        self.vain = match adopted {
            true => 0,
            false => (self.vain + 1).min(MOST_VAIN),
        };
        self.begin(seen);
        self.last = Some(LastSelfTraining {
            pages: seen.pages,
            at: Some(now),
        });
    }

    /// The pause after the last training.
    fn pause(&self) -> Duration {
        let doubled = PAUSE.start().saturating_mul(1 << self.doubled.min(16));
        doubled.min(*PAUSE.end())
    }

    fn pause_left(&self, now: Instant) -> Option<Duration> {
        let at = self.last?.at?;
        let left = self
            .pause()
            .saturating_sub(now.saturating_duration_since(at));
        (!left.is_zero()).then_some(left)
    }

    /// Starts anew where the codec is another than at the last look.
    fn follow(&mut self, seen: &Seen) {
        let codec = (seen.codec, seen.generation);
        let shrunk = seen.written.pages < self.window.pages;
        if self.codec == Some(codec) && !shrunk {
            return;
        }
        // Somebody has set another, trained by hand, or started this process.
        self.begin(seen);
        self.window = StreamTotals::default();
        self.since = StreamTotals::default();
        self.last = (seen.generation > 0).then_some(LastSelfTraining {
            pages: seen.pages,
            at: None,
        });
        self.vain = 0;
    }

    fn begin(&mut self, seen: &Seen) {
        self.codec = Some((seen.codec, seen.generation));
        (self.since, self.window) = (seen.written, seen.written);
        (self.measure, self.mean, self.worse) = (None, 0.0, 0);
    }

    fn next(&mut self, seen: &Seen, last: LastSelfTraining) -> Due {
        let pages = seen.written.pages - self.window.pages;
        if pages >= WINDOW {
            let bytes = seen.written.bytes.saturating_sub(self.window.bytes);
            self.mean = bytes as f64 / pages as f64;
            self.window = seen.written;
            let measure = *self.measure.get_or_insert(self.mean);
            let worse = self.mean > measure * WORSE;
            self.worse = if worse { self.worse + 1 } else { 0 };
        }
        let Some(measure) = self.measure else {
            let left = WINDOW - pages.min(WINDOW);
            return Due::Not(format!(
                "{left} more pages, whose mean object is the measure"
            ));
        };
        if self.worse >= WINDOWS {
            let more = (self.mean / measure - 1.0) * 100.0;
            return Due::Now(format!(
                "objects are {more:.0} % larger than after the last training"
            ));
        }
        let needed = (last.pages.max(FIRST_PAGES) * PASSES) << self.vain;
        let since = seen.written.pages.saturating_sub(self.since.pages);
        if since >= needed {
            return Due::Now(format!("{since} pages were written since the last"));
        }
        Due::Not(format!(
            "objects of more than {:.0} bytes (now {:.0}), or {} more pages",
            measure * WORSE,
            self.mean,
            needed - since
        ))
    }
}

fn first(seen: &Seen) -> Due {
    if seen.bytes >= FIRST_BYTES && seen.pages >= FIRST_PAGES {
        return Due::Now("nothing was trained yet".into());
    }
    Due::Not(format!(
        "{FIRST_BYTES} bytes of {FIRST_PAGES} objects (now {} of {})",
        seen.bytes, seen.pages
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: u64 = 1000;

    fn seen(written: u64, mean: u64) -> Seen {
        Seen {
            codec: 0,
            generation: 0,
            given: false,
            pages: 20_000,
            bytes: 20_000 * MEAN,
            written: StreamTotals {
                pages: written,
                bytes: written * mean,
            },
            live: 1,
            has_room: true,
        }
    }

    fn after(generation: u32) -> Seen {
        Seen {
            codec: generation as u8,
            generation,
            live: 2,
            ..seen(0, 0)
        }
    }

    impl Seen {
        /// That many more pages of that many bytes.
        fn write(&mut self, pages: u64, mean: u64) -> &Seen {
            self.written.pages += pages;
            self.written.bytes += pages * mean;
            self
        }
    }

    fn is_due(due: &Due, says: &str) -> bool {
        matches!(due, Due::Now(why) if why.contains(says))
    }

    fn waits(due: &Due, says: &str) -> bool {
        matches!(due, Due::Not(what) if what.contains(says))
    }

    /// A device after its first training, which was adopted: far enough in time for the next.
    fn trained(now: Instant) -> (Drift, Seen) {
        let mut drift = Drift::default();
        assert!(is_due(&drift.look(&seen(9000, MEAN), now), "nothing was"));
        let after = after(1);
        drift.trained(&after, true, now);
        (drift, after)
    }

    #[test]
    fn the_first_training_waits_for_enough() {
        let now = Instant::now();
        let mut drift = Drift::default();
        let few = Seen {
            pages: FIRST_PAGES - 1,
            ..seen(10, MEAN)
        };
        assert!(waits(&drift.look(&few, now), "4095"));
        let small = Seen {
            bytes: FIRST_BYTES - 1,
            ..seen(10, MEAN)
        };
        assert!(waits(&drift.look(&small, now), "8388607 of 20000"));
        let given = Seen {
            given: true,
            ..seen(10, MEAN)
        };
        assert!(waits(&drift.look(&given, now), "was given"));
        assert!(is_due(&drift.look(&seen(10, MEAN), now), "nothing was"));
    }

    #[test]
    fn drift_is_two_windows_that_are_worse() {
        let now = Instant::now();
        let later = now + *PAUSE.start();
        let (mut drift, mut seen) = trained(now);
        assert!(waits(&drift.look(&seen, later), "is the measure"));
        assert!(waits(
            &drift.look(seen.write(WINDOW, 900), later),
            "more than 945 bytes"
        ));
        // Worse once, then not; then twice.
        for (mean, worse) in [(1000, 1), (940, 0), (950, 1)] {
            assert!(waits(
                &drift.look(seen.write(WINDOW, mean), later),
                "more than"
            ));
            assert_eq!(drift.worse, worse);
        }
        // Less than a window says nothing.
        assert!(waits(
            &drift.look(seen.write(WINDOW - 1, 4000), later),
            "more than"
        ));
        let due = drift.look(seen.write(1, 4000), now);
        assert!(waits(&due, "a pause of 30 s"), "{due:?}");
        assert!(is_due(&drift.look(&seen, later), "% larger"));
    }

    #[test]
    fn content_that_is_new_is_a_reason_and_vain_trainings_are_rarer() {
        let now = Instant::now();
        let (mut drift, mut seen) = trained(now);
        let mut at = now;
        for needed in [80_000, 160_000, 320_000] {
            at += *PAUSE.end() * QUIET;
            assert!(waits(
                &drift.look(seen.write(WINDOW, MEAN), at),
                "more pages"
            ));
            let rest = needed - WINDOW;
            assert!(waits(
                &drift.look(seen.write(rest - 1, MEAN), at),
                ", or 1 more pages"
            ));
            assert!(is_due(&drift.look(seen.write(1, MEAN), at), "were written"));
            drift.trained(&seen, false, at);
        }
    }

    /// Contents that change for ever: the pauses grow to an hour, whatever comes of it.
    #[test]
    fn pauses_grow_until_the_contents_are_quiet() {
        let mut now = Instant::now();
        let (mut drift, mut seen) = trained(now);
        let mut pauses = Vec::new();
        for generation in 2..14 {
            drift.look(seen.write(WINDOW, 1000), now);
            drift.look(seen.write(WINDOW, 2000), now);
            let begin = now;
            while !is_due(&drift.look(seen.write(WINDOW, 2000), now), "larger") {
                now += Duration::from_secs(1);
            }
            pauses.push((now - begin).as_secs());
            seen = after(generation);
            drift.trained(&seen, true, now);
        }
        assert_eq!(
            pauses,
            [
                30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600, 3600
            ]
        );
        // Quiet for long: short again.
        now += *PAUSE.end() * QUIET;
        drift.trained(&seen, true, now);
        assert_eq!(drift.pause(), *PAUSE.start());
    }

    #[test]
    fn no_training_without_room() {
        let now = Instant::now();
        let mut drift = Drift::default();
        let many = Seen {
            live: LIVE_GENERATIONS,
            ..seen(10, MEAN)
        };
        assert!(waits(&drift.look(&many, now), "one has to go first"));
        let full = Seen {
            has_room: false,
            ..seen(10, MEAN)
        };
        assert!(waits(&drift.look(&full, now), "as there can be"));
        assert!(is_due(&drift.look(&seen(10, MEAN), now), "nothing was"));
    }

    /// A process that attaches finds a generation and measures anew; an algorithm that is set anew has none.
    #[test]
    fn another_codec_begins_anew() {
        let now = Instant::now();
        let mut drift = Drift::default();
        let mut seen = after(7);
        assert!(waits(&drift.look(&seen, now), "is the measure"));
        drift.look(seen.write(WINDOW, 500), now);
        drift.look(seen.write(WINDOW, 600), now);
        assert!(is_due(&drift.look(seen.write(WINDOW, 600), now), "20 %"));
        // By hand.
        assert!(waits(&drift.look(&after(8), now), "is the measure"));
        assert!(is_due(&drift.look(&self::seen(10, MEAN), now), "nothing"));
    }
}
