//! The agent's work while memory is short: its usual jobs on pages of any age, oldest first, with a larger budget,
//! until memory is no longer short or nothing is left to do.

use std::time::{Duration, Instant};

use super::jobs::{PageJob, has_secondary};
use super::pressure::Gauge;
use super::worker::Worker;

/// Pause after a relief that did all it could.
const RELIEF_REST: Duration = Duration::from_secs(1);
/// Pages between two estimates of what is gained.
const ESTIMATE_EVERY: u64 = 256;

const MEMORY_SHORT: &str =
    "memory became short, and the device's policy is to give it back; take the snapshot later";

impl<'a> Worker<'a> {
    /// Reduces memory until the gauge is low: recompression, then compaction, then writeback, as far as they are on.
    pub(super) fn relieve(&mut self) {
        self.set_relieving(true);
        self.status().count(|stats| stats.reliefs += 1);
        self.note("policy: memory is short: pages of any age, oldest first".into());
        self.device.give_up_cut(MEMORY_SHORT);
        if self.settings.recompress_seconds.is_some() && has_secondary(self.device) {
            self.by_age(Worker::recompress);
        }
        // Objects that became smaller leave gaps, whether `compact` is on or not.
        self.compact(&mut |worker, _| worker.gauge().is_low());
        let more = self.go().is_continue() && !self.gauge().is_low();
        if more && self.settings.writeback_seconds.is_some() {
            self.by_age(Worker::write_back);
            self.compact(&mut |worker, _| worker.gauge().is_low());
        }
        self.set_relieving(false);
        if self.gauge().is_high() {
            self.no_relief_before = Instant::now() + RELIEF_REST;
            self.note("policy: memory is short, and all is done that could be".into());
        }
    }

    /// Runs a job on the older half of the ages, then on the older half of the rest, and so on, until that suffices.
    fn by_age(&mut self, job: PageJob<'a>) {
        let mut age = self.device.zram().greatest_age();
        loop {
            age /= 2;
            let mut estimated = 0;
            let mut enough = |worker: &mut Worker<'a>, pages: u64| {
                let due = pages >= estimated + ESTIMATE_EVERY;
                estimated = if due { pages } else { estimated };
                due && worker.will_be_low()
            };
            job(self, 0..u64::MAX, Duration::from_secs(age), &mut enough);
            if age == 0 || self.go().is_break() || self.will_be_low() {
                return;
            }
        }
    }

    /// Whether the gauge will be low after a compaction.
    fn will_be_low(&mut self) -> bool {
        match self.gauge() {
            Gauge::Limit { used, high, low } => {
                let used = used.saturating_sub(self.device.jobs().compaction_gain_bytes());
                Gauge::Limit { used, high, low }.is_low()
            }
            other => other.is_low(),
        }
    }
}
