//! What is done to memory, and what it says it has done: the counters have changed by exactly that.

use uzram::{CodecStats, Ended, Error, PageKind, Stats, TrainReport, Writeback, WritebackReport};

use super::{Model, Wrong};
use crate::op::Memory;
use crate::subject::{PAGE, Report};

impl Model {
    pub(super) fn memory(&mut self, memory: &Memory) -> Result<(), Wrong> {
        let had_backing = self.subject.device().zram().backing().is_some();
        let before = self.stats();
        let result = self.subject.run(memory);
        let after = self.stats();
        let report = match result {
            Ok(report) => report,
            Err(error) => return self.memory_error(memory, &error, had_backing),
        };
        ensure!(
            self.is_possible(memory, had_backing),
            "{memory:?} must be refused"
        );
        match memory {
            Memory::Attach { .. } => {
                (self.read_faults, self.write_faults, self.hung) = (false, false, false);
            }
            Memory::Detach => {
                ensure!(
                    self.subject.device().zram().backing().is_none() && after.backed_pages == 0,
                    "{after:?}"
                );
                self.lied = false;
                self.count("detached", 1);
            }
            Memory::SetSecondary { priority, choice } => {
                self.secondaries[priority - 1] = choice.is_some()
            }
            Memory::SelfTraining(on) => self.self_training = *on,
            Memory::Limit(percent) => self.limit = *percent > 0,
            Memory::TotalLimit(_) => self.limit = true,
            Memory::TrackAges(on) => self.ages = *on,
            _ => {}
        }
        self.check_report(memory, &report, &before, &after)
    }

    /// Whether a page may fail to come back from the backing now.
    fn may_not_come_back(&self) -> bool {
        self.limit || self.read_faults || self.lied
    }

    /// Whether an operation on memory has what it needs.
    fn is_possible(&self, memory: &Memory, had_backing: bool) -> bool {
        match memory {
            Memory::Recompress { what, .. } => match what.priority {
                Some(priority) => self.secondaries[priority - 1],
                None => self.secondaries.contains(&true),
            },
            Memory::MarkIdle(age) => age.is_none() || self.ages,
            Memory::Writeback { .. }
            | Memory::Promote { .. }
            | Memory::Tidy(_)
            | Memory::Detach => had_backing,
            Memory::Attach { .. } => !had_backing,
            _ => true,
        }
    }

    fn memory_error(
        &mut self,
        memory: &Memory,
        error: &Error,
        had_backing: bool,
    ) -> Result<(), Wrong> {
        self.count("refused", 1);
        match (memory, error) {
            (
                _,
                Error::Invalid { .. }
                | Error::HasBacking { .. }
                | Error::NoAges
                | Error::NoBacking
                | Error::NoSecondary { .. },
            ) if !self.is_possible(memory, had_backing) => Ok(()),
            // Too little to learn from, nothing to learn with, or no room for another.
            (
                Memory::Train { .. },
                Error::Invalid { .. }
                | Error::NoDictionary { .. }
                | Error::Compress(_)
                | Error::CodecsFull,
            ) => Ok(()),
            (Memory::SetAlgorithm(_) | Memory::SetSecondary { .. }, Error::CodecsFull) => Ok(()),
            (Memory::Detach, Error::PagesLeft { .. }) if self.may_not_come_back() => Ok(()),
            _ => Err(format!("{memory:?}: {error}")),
        }
    }

    fn check_report(
        &mut self,
        memory: &Memory,
        report: &Report,
        before: &Stats,
        after: &Stats,
    ) -> Result<(), Wrong> {
        let wrong = || format!("{report:?}, and {before:?} became {after:?}");
        let gained = before
            .compr_data_size_bytes
            .wrapping_sub(after.compr_data_size_bytes);
        let went = after.backed_pages.wrapping_sub(before.backed_pages);
        let (gain, gone) = match report {
            Report::Recompressed(r) => {
                ensure!(
                    r.recompressed <= r.tried && r.tried <= r.candidates,
                    "{}",
                    wrong()
                );
                ensure!(
                    after.recompressed_pages == before.recompressed_pages + r.recompressed,
                    "{}",
                    wrong()
                );
                self.count("recompressed", r.recompressed);
                self.count("incompressible", r.incompressible);
                (r.bytes_before - r.bytes_after, 0)
            }
            Report::WrittenBack(r) => {
                self.check_writeback(r)?;
                (r.bytes, r.written)
            }
            Report::Promoted(r) => {
                ensure!(r.changed == 0, "{}", wrong());
                ensure!(r.failed == 0 || self.may_not_come_back(), "{}", wrong());
                ensure!((r.failed == 0) == r.failures.is_empty(), "{}", wrong());
                self.count("promoted", r.pages);
                self.count("failed promotions", r.failed);
                (r.bytes.wrapping_neg(), r.pages.wrapping_neg())
            }
            Report::Emptied(segments) => {
                self.count("segments emptied", *segments as u64);
                (0, 0)
            }
            Report::Compacted(r) => {
                ensure!(
                    after.mem_used_total_bytes + r.pages_freed * PAGE
                        == before.mem_used_total_bytes,
                    "{}",
                    wrong()
                );
                self.count("objects moved", r.objects_moved);
                (0, 0)
            }
            Report::Marked(marked) => {
                self.check_marks(*marked, matches!(memory, Memory::MarkIdle(None)))?;
                (0, 0)
            }
            Report::Trained(report) => {
                self.check_generation(memory, report)?;
                self.count("trained", u64::from(report.adopted));
                self.count("changes of generation", u64::from(report.generation > 1));
                (0, 0)
            }
            Report::Nothing => (0, 0),
        };
        ensure!((gained, went) == (gain, gone), "{}", wrong());
        Ok(())
    }

    /// A generation that was adopted has its priority, and a number above those of all others of its algorithm.
    fn check_generation(&self, memory: &Memory, report: &TrainReport) -> Result<(), Wrong> {
        let codecs = self.subject.device().codecs();
        let number = |codec: &CodecStats| codec.generation.map_or(0, |it| it.number);
        let Memory::Train { priority } = memory else {
            return Ok(());
        };
        let Some(trained) = codecs.iter().find(|c| c.priorities.contains(priority)) else {
            return Err(format!("{report:?}, and nothing has the priority"));
        };
        let same = |other: &&CodecStats| other.algorithm == trained.algorithm;
        let most = codecs.iter().filter(same).map(number).max();
        ensure!(
            !report.adopted || report.generation == number(trained),
            "{report:?}, {codecs:?}"
        );
        // The same dictionary as before is the same generation.
        ensure!(
            !report.adopted || most == Some(number(trained)) || trained.objects > 0,
            "{report:?}, {codecs:?}"
        );
        Ok(())
    }

    fn check_writeback(&mut self, r: &WritebackReport) -> Result<(), Wrong> {
        ensure!(
            r.candidates == r.written + r.failed && r.changed == 0,
            "{r:?}"
        );
        let failing = r.failed > 0 || r.ended == Some(Ended::Failing);
        let may = self.write_faults || self.hung && r.failed == 0;
        ensure!(!failing || may, "nothing makes it fail: {r:?}");
        self.count("written back", r.written);
        self.count("failed writebacks", r.failed);
        Ok(())
    }

    fn check_marks(&self, marked: u64, all_of_them: bool) -> Result<(), Wrong> {
        let of = |kind| {
            let what = Writeback {
                kind,
                ..Writeback::default()
            };
            self.subject.device().zram().writable_back(&what).candidates
        };
        let (idle, all) = (of(PageKind::Idle), of(PageKind::All));
        let right = marked <= idle && (marked == all || !all_of_them);
        ensure!(right, "{marked} marked, {idle} of {all} idle");
        Ok(())
    }
}
