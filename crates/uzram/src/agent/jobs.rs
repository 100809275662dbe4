//! The agent's jobs: one call of the device each, with its counters and messages.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::worker::{Go, Worker};
use crate::codec::PRIORITIES;
use crate::device::Device;
use crate::{Ended, Error, PAGE_SIZE, Pace, Recompress, Writeback, ZramApi};

pub(super) const NO_SECONDARY: &str =
    "there is no secondary algorithm (recomp_algorithm) to recompress with";
pub(super) const NO_BACKING: &str = "there is no backing to write to";

/// Bytes that compaction moves between two calls of `pace`: well below a millisecond. Of a large pool this part, since
/// each call looks at every span first.
const COMPACT_BYTES: u64 = 256 << 10;
const COMPACT_PART: u64 = 8192;
/// Calls of a compaction's turn. The other jobs have theirs then, also while writers make new work all the time.
const COMPACT_TURN: u32 = 256;
/// Compaction pays where it gains this part of the memory in use, and at least so many bytes.
const WORTH_PART: u64 = 64;
/// The part while writes change what there is to gain. A page that is given back now is asked for again soon, by a page fault
/// of a write: see design note 44.
const WORTH_PART_BUSY: u64 = 18;
const WORTH_BYTES: u64 = 128 << 10;
/// How long compaction rests after it gained less than a quarter of what it was to gain: the estimate counts what it
/// cannot move. Doubles each time.
const VAIN_REST: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(64);
/// How often is looked whether it pays: less and less often while little changes.
const LOOK: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(2);
/// How long the backing is left alone after it was full, or failed.
const BACKING_REST: Duration = Duration::from_secs(30);

/// Compaction pays from so many bytes on.
pub(super) fn worth_compacting(device: &Device) -> u64 {
    worth_of(device, WORTH_PART)
}

fn worth_of(device: &Device, part: u64) -> u64 {
    (device.pool.used_bytes() / part).max(WORTH_BYTES)
}

pub(super) fn has_secondary(device: &Device) -> bool {
    (1..PRIORITIES).any(|priority| device.codecs.by_priority(priority).is_some())
}

/// Called between slices with the pages processed so far; `true` ends the job.
pub(super) type EndCheck<'d, 'a> = &'d mut dyn FnMut(&mut Worker<'a>, u64) -> bool;

/// A job on a range of pages of some least age.
pub(super) type PageJob<'a> = fn(&mut Worker<'a>, Range<u64>, Duration, EndCheck<'_, 'a>) -> bool;

impl<'a> Worker<'a> {
    /// Recompresses pages of at least that age. Returns whether `done` ended it after some progress.
    pub(super) fn recompress(
        &mut self,
        pages: Range<u64>,
        age: Duration,
        done: EndCheck<'_, 'a>,
    ) -> bool {
        if !has_secondary(self.device) || self.device.cut_progress().is_some() {
            return false;
        }
        let what = Recompress {
            pages: Some(pages),
            older_than: Some(age),
            least: self.settings.least(self.relieving),
            ..Recompress::default()
        };
        let run = |zram: ZramApi<'_>, pace: Pace<'_>| zram.recompress(&what, pace);
        let Some((report, ended)) = self.paced("recompression", done, run) else {
            return false;
        };
        self.schedule.note(&report);
        let pages = report.recompressed;
        self.status().count(|stats| {
            stats.pages_recompressed += pages;
            stats.bytes_saved += report.bytes_before - report.bytes_after;
        });
        self.did(pages, "recompressed pages not used for", age);
        ended && pages + report.incompressible > 0
    }

    /// Writes back pages of at least that age. Returns whether `done` ended it after some progress.
    pub(super) fn write_back(
        &mut self,
        pages: Range<u64>,
        age: Duration,
        done: EndCheck<'_, 'a>,
    ) -> bool {
        if self.backing_rests() {
            return false;
        }
        let what = Writeback {
            pages: vec![pages],
            older_than: Some(age),
            ..Writeback::default()
        };
        let run = |zram: ZramApi<'_>, pace: Pace<'_>| zram.writeback(&what, pace);
        let Some((report, ended)) = self.paced("writeback", done, run) else {
            return false;
        };
        self.status().count(|stats| {
            stats.pages_written_back += report.written;
            stats.bytes_written_back += report.bytes;
        });
        match report.ended {
            Some(ended) => self.rest_backing(format!("policy: writeback: {}", why(ended))),
            None => self.did(report.written, "wrote back pages not used for", age),
        }
        ended && report.written > 0
    }

    /// Promotes pages that were read within that time. Returns whether `done` ended it after some progress.
    pub(super) fn promote(
        &mut self,
        pages: Range<u64>,
        age: Duration,
        done: EndCheck<'_, 'a>,
    ) -> bool {
        if self.backing_rests() {
            return false;
        }
        let run = |zram: ZramApi<'_>, pace: Pace<'_>| {
            zram.promote_where(pages, zram.used_within(age), pace)
        };
        let Some((report, ended)) = self.paced("promotion", done, run) else {
            self.no_writeback_before = Instant::now() + BACKING_REST;
            return false;
        };
        let (pages, failed) = (report.pages, report.failed);
        self.status().count(|stats| stats.pages_promoted += pages);
        if failed > 0 {
            let why = report.failures.first().map_or("", |first| &first.why);
            self.rest_backing(format!(
                "policy: promotion: {failed} pages cannot come back: {why}"
            ));
        } else {
            self.did(pages, "brought back pages read within", age);
        }
        ended && pages > 0
    }

    /// Has the device do a job at the agent's pace, until `done` ends it. Returns what it came to and whether `done` did; an
    /// error is noted.
    fn paced<R>(
        &mut self,
        what: &str,
        done: EndCheck<'_, 'a>,
        run: impl FnOnce(ZramApi<'a>, Pace<'_>) -> Result<R, Error>,
    ) -> Option<(R, bool)> {
        let zram = self.device.zram();
        let (mut sum, mut ended) = (0, false);
        let mut pace = |pages| {
            sum += pages;
            ended = done(self, sum);
            match ended {
                true => Go::Break(()),
                false => self.pace(),
            }
        };
        match run(zram, &mut pace) {
            Ok(report) => Some((report, ended)),
            Err(error) => {
                self.note(format!("policy: {what}: {error}"));
                None
            }
        }
    }

    /// Says what was done to pages of that age, unless relief did it, which has words of its own.
    fn did(&self, pages: u64, what: &str, age: Duration) {
        if pages > 0 && !self.relieving {
            self.status().say(format!("{what} {} s", age.as_secs()));
        }
    }

    /// Whether there is no backing, its file is not there, or it is left alone, as while a snapshot is taken.
    fn backing_rests(&self) -> bool {
        !self.device.backing.takes_pages()
            || self.device.cut_progress().is_some()
            || Instant::now() < self.no_writeback_before
    }

    fn rest_backing(&mut self, why: String) {
        self.no_writeback_before = Instant::now() + BACKING_REST;
        self.note(why);
    }

    /// Compacts if that pays. Returns how long it need not be asked again.
    pub(super) fn compact_if_it_pays(&mut self) -> Duration {
        let gain = self.device.jobs().compaction_gain_bytes();
        let status = self.status();
        // What the last compaction could not gain the next one cannot either.
        let left = status.compaction_left.load(Relaxed).min(gain);
        status.compaction_left.store(left, Relaxed);
        let promised = gain - left;
        let quiet = worth_compacting(self.device);
        let worth = match self.patience < *LOOK.end() {
            true => worth_of(self.device, WORTH_PART_BUSY),
            false => quiet,
        };
        let rest = self
            .compaction_due
            .saturating_duration_since(Instant::now());
        if promised < worth || !rest.is_zero() {
            let grown = promised.saturating_sub(self.promised) >= quiet / 8;
            let patience = if grown {
                *LOOK.start()
            } else {
                self.patience * 2
            };
            self.patience = patience.clamp(*LOOK.start(), *LOOK.end());
            self.promised = promised;
            return self.patience.max(rest);
        }
        (self.patience, self.promised) = (*LOOK.start(), 0);
        let (mut freed, mut calls) = (0, 0);
        let finished = self.compact(&mut |_, pages| {
            (freed, calls) = (pages * PAGE_SIZE as u64, calls + 1);
            calls >= COMPACT_TURN
        });
        if finished {
            let left = self.device.jobs().compaction_gain_bytes();
            self.status().compaction_left.store(left, Relaxed);
            let vain = freed < promised / 4;
            let twice = (self.vain_rest * 2).clamp(*VAIN_REST.start(), *VAIN_REST.end());
            self.vain_rest = if vain { twice } else { Duration::ZERO };
            self.compaction_due = Instant::now() + self.vain_rest;
            let text = format!("compacted: {freed} bytes came free, {promised} were to be gained");
            self.status().say(text);
        }
        Duration::ZERO
    }

    /// Compacts until nothing more is to be gained or `done`. Returns `false` if it was ended early.
    pub(super) fn compact(&mut self, done: EndCheck<'_, 'a>) -> bool {
        let mut pages = 0;
        loop {
            let slice = COMPACT_BYTES.max(self.device.pool.used_bytes() / COMPACT_PART);
            let report = self.device.jobs().compact(slice);
            pages += report.pages_freed;
            self.status()
                .count(|stats| stats.pages_compacted += report.pages_freed);
            let ended = done(self, pages);
            if report.finished {
                let _ = self.pace();
                return true;
            }
            if ended || self.pace().is_break() {
                return false;
            }
        }
    }

    pub(super) fn train_if_due(&mut self) {
        let Some(why) = self.schedule.due(self.device) else {
            return;
        };
        let trained = self.schedule.train(self.device);
        let status = self.status();
        status.count(|stats| stats.trainings += 1);
        match trained {
            Ok(report) => {
                let (verb, taken) = match report.adopted {
                    true => ("took", 1),
                    false => ("did not take", 0),
                };
                status.count(|stats| stats.dictionaries += taken);
                let reason = report.reason;
                self.note(format!(
                    "policy: {verb} a dictionary, since {why}: {reason}"
                ));
            }
            Err(error) => self.note(format!("policy: no dictionary: {error}")),
        }
        let _ = self.pace();
    }
}

fn why(ended: Ended) -> &'static str {
    match ended {
        Ended::Full => "the backing is full",
        Ended::Limit => "writeback_limit is used up",
        Ended::Failing => "the backing fails",
    }
}
