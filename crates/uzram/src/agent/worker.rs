//! The agent's loop. While memory is short it relieves that; otherwise it compacts where that pays, trains where that
//! is due (without any policy, too), and continues a pass over the table for pages that are old enough.
//!
//! A pass goes by pieces, so that a slow job (recompression within a small budget) does not delay the others until
//! the end of a large device. Every job ends early when memory becomes short, the settings change, or the agent
//! stops. The next pass finds the rest.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::jobs::NO_BACKING;
use super::pressure::{Gauge, Pressure};
use super::self_training::SelfTrainer;
use super::settings::PolicySettings;
use super::status::Status;
use super::training::TrainingSchedule;
use crate::device::Device;

/// Slots of a piece of a pass, 256 MiB of disk.
const PIECE: u64 = 1 << 16;
/// Pages after which a job's turn ends. Walking the piece again costs less than a page.
const TURN: u64 = 1024;
/// The pause between passes: this part of the least age, within these bounds.
const PASS_PART: u32 = 8;
const PASS_LEAST: Duration = Duration::from_secs(1);
const PASS_MOST: Duration = Duration::from_secs(60);
/// The bound while promotion is on: until then readers of backed pages wait for the disk.
const PASS_PROMOTING: Duration = Duration::from_secs(5);

/// Whether to continue a job.
pub(super) type Go = ControlFlow<()>;

pub(super) struct Worker<'a> {
    pub(super) device: &'a Device,
    stop: &'a AtomicBool,
    say: &'a dyn Fn(&str),
    pub(super) settings: PolicySettings,
    generation: u64,
    pub(super) budget: Budget,
    pressure: Pressure,
    pub(super) schedule: TrainingSchedule,
    pub(super) trainer: SelfTrainer,
    /// Whether the current work relieves pressure.
    pub(super) relieving: bool,
    /// Whether this agent turned tracking of ages on.
    ages: bool,
    /// Position of the pass.
    at: Option<u64>,
    next_pass: Instant,
    /// What a compaction was to gain when that was last looked at, and how long until the next look.
    pub(super) promised: u64,
    pub(super) patience: Duration,
    /// No compaction before, and how long the last rest after one that gained little was.
    pub(super) compaction_due: Instant,
    pub(super) vain_rest: Duration,
    pub(super) no_writeback_before: Instant,
    pub(super) no_relief_before: Instant,
    /// Bytes written to the backing at the last charge.
    written: u64,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        device: &'a Device,
        stop: &'a AtomicBool,
        say: &'a dyn Fn(&str),
    ) -> Worker<'a> {
        let now = Instant::now();
        Worker {
            device,
            stop,
            say,
            settings: PolicySettings::default(),
            // Differs from every generation, so that the settings are read.
            generation: u64::MAX,
            budget: Budget::new(),
            pressure: Pressure::new(),
            schedule: TrainingSchedule::default(),
            trainer: SelfTrainer::default(),
            relieving: false,
            ages: false,
            at: None,
            next_pass: now,
            promised: 0,
            patience: Duration::ZERO,
            compaction_due: now,
            vain_rest: Duration::ZERO,
            no_writeback_before: now,
            no_relief_before: now,
            written: bytes_written(device),
        }
    }

    pub(super) fn run(mut self) {
        while !self.stop.load(Relaxed) {
            self.listen();
            let pause = match self.settings.is_none() {
                true => self.train_primary(),
                false => self.round(),
            };
            let _ = self.rest(pause);
        }
        self.keep_ages(false);
    }

    /// Applies changed settings.
    fn listen(&mut self) {
        let told = *self.device.policy.told();
        if told.generation == self.generation {
            return;
        }
        (self.settings, self.generation) = (told.settings, told.generation);
        self.budget.set(&self.settings, self.relieving);
        self.keep_ages(self.settings.wants_ages());
        self.at = None;
        self.next_pass = Instant::now();
        self.trainer.look_now();
        // Without an algorithm for recompression there may be nothing to gain by one: a plan says so, and no log.
        if self.settings.writeback_seconds.is_some() && !self.device.backing.takes_pages() {
            self.note(format!("policy: {NO_BACKING}"));
        }
        if self.pressure.read(self.device, &self.settings) == Gauge::NoPsi {
            self.note("policy: psi has no effect, the kernel has no /proc/pressure/memory".into());
        }
    }

    /// Logs a message that differs from the last.
    pub(super) fn note(&self, text: String) {
        if self.device.policy.status.say(text.clone()) {
            (self.say)(&text);
        }
    }

    fn keep_ages(&mut self, on: bool) {
        // Tracking that someone else turned on stays.
        if on == self.device.zram().tracks_ages() || !on && !self.ages {
            return;
        }
        self.ages = on;
        if let Err(error) = self.device.zram().keep_ages(on) {
            self.note(format!("policy: no ages, so nothing is idle: {error}"));
        }
    }

    /// Does what is due, and returns how long nothing will be.
    fn round(&mut self) -> Duration {
        self.keep_ages(self.settings.wants_ages());
        if self.is_pressed() {
            self.relieve();
            return Duration::ZERO;
        }
        let mut pause = Duration::MAX;
        if self.settings.compact {
            pause = self.compact_if_it_pays();
        }
        if self.settings.train {
            self.train_if_due();
        }
        pause = pause.min(self.train_primary());
        pause.min(self.pass())
    }

    /// Switches to and from the larger budget.
    pub(super) fn set_relieving(&mut self, on: bool) {
        self.relieving = on;
        self.budget.set(&self.settings, on);
    }

    pub(super) fn status(&self) -> &'a Status {
        &self.device.policy.status
    }

    /// Whether memory is short and relief is due.
    fn is_pressed(&mut self) -> bool {
        Instant::now() >= self.no_relief_before && self.gauge().is_high()
    }

    pub(super) fn gauge(&mut self) -> Gauge {
        self.pressure.read(self.device, &self.settings)
    }

    /// Ends the current job when the settings change, the agent stops, or memory becomes short.
    pub(super) fn go(&mut self) -> Go {
        let told = self.device.policy.told().generation == self.generation;
        match told && !self.stop.load(Relaxed) && (self.relieving || !self.is_pressed()) {
            true => Go::Continue(()),
            false => Go::Break(()),
        }
    }

    /// Called between slices: charges the budget and rests.
    pub(super) fn pace(&mut self) -> Go {
        let written = bytes_written(self.device);
        self.budget.charge(written.saturating_sub(self.written));
        self.written = written;
        let used = self.budget.used().as_secs_f64();
        self.status().count(|stats| stats.cpu_seconds = used);
        self.rest(self.budget.rest())
    }

    /// Rests for `pause`, or until other work is due.
    fn rest(&mut self, pause: Duration) -> Go {
        let begin = Instant::now();
        loop {
            self.go()?;
            let left = pause.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Go::Continue(());
            }
            let gauge = self.gauge();
            let patience = match self.settings.is_none() {
                true => Duration::from_secs(3600),
                false => Pressure::patience(gauge),
            };
            let policy = &self.device.policy;
            policy.wait(self.generation, self.stop, left.min(patience));
        }
    }

    /// Continues the pass, or starts one if it is time. Returns how long there is nothing to do for it.
    fn pass(&mut self) -> Duration {
        let wait = self.next_pass.saturating_duration_since(Instant::now());
        if self.at.is_none() && !wait.is_zero() {
            return wait.min(PASS_LEAST);
        }
        let ages = [
            self.settings.recompress_age(),
            self.settings.writeback_age(),
            self.settings.promote_age(),
        ];
        let Some(least) = ages.into_iter().flatten().min() else {
            return PASS_MOST;
        };
        let table = &self.device.table;
        let first = table.touched(self.at.unwrap_or(0), u64::MAX).next();
        let first = first.unwrap_or(table.pages());
        let piece = first..first + PIECE;
        let mut left = false;
        if let Some(age) = self.settings.recompress_age() {
            left |= self.recompress(piece.clone(), age, &mut |_, pages| pages >= TURN);
        }
        if let Some(age) = self.settings.writeback_age() {
            left |= self.write_back(piece.clone(), age, &mut |_, pages| pages >= TURN);
        }
        if let Some(age) = self.settings.promote_age() {
            left |= self.promote(piece.clone(), age, &mut |_, pages| pages >= TURN);
        }
        self.at = Some(if left { first } else { piece.end });
        if !left && piece.end >= self.device.table.pages() {
            self.at = None;
            let most = match self.settings.promote_age() {
                Some(_) => PASS_PROMOTING,
                None => PASS_MOST,
            };
            self.next_pass = Instant::now() + (least / PASS_PART).clamp(PASS_LEAST, most);
            self.status().count(|stats| stats.runs += 1);
        }
        // The walk costs, too, where it found nothing.
        let _ = self.pace();
        Duration::ZERO
    }
}

fn bytes_written(device: &Device) -> u64 {
    let attached = device.backing.get();
    attached.map_or(0, |attached| attached.backing.stats().bytes_written)
}
