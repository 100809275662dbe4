//! A device alone with the naive oracle, an array of bytes: after each operation the device says exactly what the oracle
//! expects, errors, counters and marks included.

use std::collections::BTreeSet;
use std::time::Duration;

use uzram::{CodecStats, Error, PAGE_SIZE, PageKind, Stats, Writeback, Zeroes};
use uzram_testkit::disk::{Fault, FaultRule};

use crate::op::{FaultKind, Op};
use crate::seeds::{Totals, Wrong};
use crate::subject::{PAGE, Setup, Subject};

mod check;
mod memory;
mod run;
mod snapshot;

pub(crate) use run::{panic_text, run, shrink};

fn text(error: Error) -> Wrong {
    error.to_string()
}

/// The page that an error names.
pub(crate) fn page_of(error: &Error) -> Option<u64> {
    match error {
        Error::NoSpace { page, .. }
        | Error::ArenaFull { page }
        | Error::Corrupt { page, .. }
        | Error::BackingRead { page, .. } => Some(*page),
        _ => None,
    }
}

pub(crate) struct Model {
    subject: Subject,
    bytes: Vec<u8>,
    /// Pages that were written and not discarded.
    stored: Vec<bool>,
    size_pages: u64,
    capacity: u64,
    secondaries: [bool; 3],
    limit: bool,
    self_training: bool,
    ages: bool,
    read_faults: bool,
    write_faults: bool,
    /// The backing once said that it had written what it had not: pages on it may be lost.
    lied: bool,
    /// Writes were given up, and may not have come back yet: until then there may be no buffer for others.
    hung: bool,
    failed: (u64, u64),
    pub(crate) totals: Totals,
}

impl Model {
    pub(crate) fn new(setup: &Setup) -> Result<Model, Wrong> {
        let subject = Subject::new(setup).map_err(text)?;
        Ok(Model {
            bytes: vec![0; (setup.window() * PAGE) as usize],
            stored: vec![false; setup.window() as usize],
            size_pages: setup.size_pages,
            capacity: subject.device().max_size_bytes() / PAGE,
            subject,
            secondaries: setup.secondaries.map(|choice| choice.is_some()),
            limit: setup.limit_bytes > 0,
            self_training: true,
            ages: false,
            read_faults: false,
            write_faults: false,
            lied: false,
            hung: false,
            failed: (0, 0),
            totals: Totals::new(),
        })
    }

    fn count(&mut self, what: &'static str, by: u64) {
        *self.totals.entry(what).or_default() += by;
    }

    fn stats(&self) -> Stats {
        self.subject.device().stats()
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Wrong> {
        match op {
            Op::Write { .. } | Op::Read { .. } | Op::Discard { .. } | Op::Zero { .. } => {
                self.request(op)?
            }
            Op::DiscardAll => self.discard_all()?,
            Op::Memory(memory) => self.memory(memory)?,
            Op::Resize { pages } => self.resize(*pages)?,
            Op::Reset => {
                self.subject.device().reset();
                self.clear(0, self.size_pages * PAGE, false);
                self.failed = (0, 0);
                let stats = self.stats();
                ensure!(
                    (stats.mem_used_total_bytes, stats.mem_used_max_bytes) == (0, 0),
                    "{stats:?}"
                );
                self.check_empty()?;
            }
            Op::Fault(kind) => self.fault(*kind),
            Op::Heal => self.heal(),
            Op::Hang {
                writeback,
                requests,
            } => self.hang(writeback, requests)?,
            Op::Snapshot {
                basis,
                steps,
                to_its_end,
            } => self.snapshot(*basis, steps, *to_its_end)?,
            Op::Reopen => self.reopen()?,
            Op::Check => self.check_all()?,
        }
        self.check_stats()
    }

    /// Discards everything, and finds that nothing is kept: no pool, no table, and in the image only its head.
    fn discard_all(&mut self) -> Result<(), Wrong> {
        let device = self.subject.device().clone();
        // In two pieces: the second makes the device empty.
        let middle = self.size_pages / 2 * PAGE;
        device
            .discard(middle, device.size_bytes() - middle)
            .map_err(text)?;
        device.discard(0, middle).map_err(text)?;
        self.clear(0, self.size_pages * PAGE, false);
        self.check_empty()?;
        self.count("all discarded", 1);
        Ok(())
    }

    /// Whether an error of a request or a job is one that may be now.
    fn check_error(&self, error: &Error) -> Result<(), Wrong> {
        let may = match error {
            Error::NoSpace { .. } | Error::ArenaFull { .. } => self.limit,
            Error::BackingRead { .. } => self.read_faults || self.lied,
            _ => false,
        };
        ensure!(may, "this must not fail now: {error}");
        Ok(())
    }

    fn is_outside(&self, at: u64, len: u64) -> bool {
        at + len > self.size_pages * PAGE
    }

    fn request(&mut self, op: &Op) -> Result<(), Wrong> {
        let device = self.subject.device().clone();
        let (at, len, result) = match op {
            Op::Write { at, len, fill } => {
                let bytes = fill.bytes(*len as usize);
                let result = device.write_at(&bytes, *at);
                if !self.is_outside(*at, *len) {
                    self.wrote(*at, &bytes, &result)?;
                }
                (*at, *len, result)
            }
            Op::Read { at, len } => (*at, *len, self.read(*at, *len)?),
            Op::Discard { at, len } => {
                let result = device.discard(*at, *len);
                if result.is_ok() {
                    self.clear(*at, *len, false);
                }
                (*at, *len, result)
            }
            Op::Zero { at, len, how } => {
                let result = device.write_zeroes(*at, *len, *how);
                if !self.is_outside(*at, *len) {
                    self.zeroed(*at, *len, *how, &result)?;
                }
                (*at, *len, result)
            }
            _ => return Ok(()),
        };
        self.count("requests", 1);
        let outside = matches!(result, Err(Error::OutOfRange { .. }));
        ensure!(
            outside == self.is_outside(at, len),
            "{at}+{len} of {} pages: {result:?}",
            self.size_pages
        );
        Ok(())
    }

    /// Takes over a write as far as it came.
    fn wrote(&mut self, at: u64, bytes: &[u8], result: &Result<(), Error>) -> Result<(), Wrong> {
        let mut end = at + bytes.len() as u64;
        if let Err(error) = result {
            self.check_error(error)?;
            self.failed.1 += 1;
            self.count("failed writes", 1);
            let page = page_of(error).ok_or_else(|| format!("it names no page: {error}"))?;
            ensure!(
                (at / PAGE..=(end - 1) / PAGE).contains(&page),
                "{error}, not in {at}..{end}"
            );
            end = (page * PAGE).max(at);
        }
        self.bytes[at as usize..end as usize].copy_from_slice(&bytes[..(end - at) as usize]);
        let pages = at / PAGE..end.div_ceil(PAGE);
        if end > at {
            self.stored[pages.start as usize..pages.end as usize].fill(true);
            // What was just written is neither idle nor incompressible.
            for kind in [PageKind::Idle, PageKind::Incompressible] {
                let what = Writeback {
                    kind,
                    pages: vec![pages.clone()],
                    ..Writeback::default()
                };
                let marked = self.subject.device().zram().writable_back(&what).candidates;
                ensure!(
                    marked == 0,
                    "{marked} pages of {pages:?} are {kind:?} when just written"
                );
            }
        }
        Ok(())
    }

    fn zeroed(
        &mut self,
        at: u64,
        len: u64,
        how: Zeroes,
        result: &Result<(), Error>,
    ) -> Result<(), Wrong> {
        let before = self.stored.clone();
        self.clear(at, len, how == Zeroes::Allocate);
        if how == Zeroes::Allocate && self.stats().total_limit_bytes > 0 {
            // Where a limit on all memory has no room for the slots of pages of zeros, they are holes.
            let device = self.subject.device();
            let has: BTreeSet<u64> = device.zram().slots(0).map(|slot| slot.page).collect();
            for page in at.div_ceil(PAGE)..(at + len) / PAGE {
                let had = before[page as usize];
                self.stored[page as usize] = had || has.contains(&page);
            }
        }
        let mut failed = None;
        if let Err(error) = result {
            self.check_error(error)?;
            failed = page_of(error);
            ensure!(failed.is_some(), "it names no page: {error}");
            self.failed.1 += 1;
        }
        if len == 0 {
            return Ok(());
        }
        let end = at + len;
        let (first, last) = (at / PAGE, (end - 1) / PAGE);
        for page in [first, last]
            .into_iter()
            .take(if first == last { 1 } else { 2 })
        {
            let part = (page * PAGE).max(at)..((page + 1) * PAGE).min(end);
            let partial = part.end - part.start < PAGE;
            if partial && (how == Zeroes::Allocate || self.stored[page as usize]) {
                if failed == Some(page) {
                    return Ok(());
                }
                self.bytes[part.start as usize..part.end as usize].fill(0);
                self.stored[page as usize] = true;
            }
        }
        ensure!(
            failed.is_none(),
            "{result:?} names a page that it writes no part of"
        );
        Ok(())
    }

    /// Clears the whole pages of a range.
    fn clear(&mut self, at: u64, len: u64, stored: bool) {
        let pages = at.div_ceil(PAGE)..((at + len) / PAGE).min(self.stored.len() as u64);
        if pages.start < pages.end {
            self.bytes[(pages.start * PAGE) as usize..(pages.end * PAGE) as usize].fill(0);
            self.stored[pages.start as usize..pages.end as usize].fill(stored);
        }
    }

    fn read(&mut self, at: u64, len: u64) -> Result<Result<(), Error>, Wrong> {
        let mut bytes = vec![0xEE; len as usize];
        let result = self.subject.device().read_at(&mut bytes, at);
        match &result {
            Ok(()) => {
                let expected = &self.bytes[at as usize..(at + len) as usize];
                if let Some(differs) = bytes.iter().zip(expected).position(|(a, b)| a != b) {
                    let at = at + differs as u64;
                    return Err(format!(
                        "read: byte {at} (page {}) is not what was written",
                        at / PAGE
                    ));
                }
            }
            Err(Error::OutOfRange { .. }) => {}
            Err(error) => {
                self.check_error(error)?;
                ensure!(page_of(error).is_some(), "it names no page: {error}");
                self.failed.0 += 1;
                self.count("failed reads", 1);
            }
        }
        Ok(result)
    }

    fn resize(&mut self, pages: u64) -> Result<(), Wrong> {
        let result = self.subject.device().resize(pages * PAGE);
        let holds = |page: &usize| {
            self.bytes[page * PAGE_SIZE..][..PAGE_SIZE]
                .iter()
                .any(|byte| *byte != 0)
        };
        let end = (self.size_pages as usize).min(self.stored.len());
        let last = (pages as usize..end).rev().find(holds);
        match (result, last) {
            (Ok(()), None) if pages <= self.capacity => {
                if pages < self.size_pages {
                    self.clear(pages * PAGE, (self.size_pages - pages) * PAGE, false);
                }
                self.size_pages = pages;
                self.count("resizes", 1);
            }
            (Err(Error::TailInUse { size_bytes }), Some(last))
                if size_bytes == (last as u64 + 1) * PAGE => {}
            (Err(Error::Invalid { .. }), _) if pages > self.capacity => {}
            (result, last) => {
                return Err(format!("{result:?}, and {last:?} is the last page in use"));
            }
        }
        Ok(())
    }

    fn fault(&mut self, kind: FaultKind) {
        let Some(faults) = self.subject.faults() else {
            return;
        };
        let rule = if kind.writes {
            FaultRule::writes(kind.fault)
        } else {
            FaultRule::reads(kind.fault)
        };
        faults.add(rule.after(kind.skip, kind.times));
        match kind.fault {
            Fault::Torn(None) | Fault::Flip if kind.writes => self.lied = true,
            _ if kind.writes => self.write_faults = true,
            _ => self.read_faults = true,
        }
    }

    fn heal(&mut self) {
        if let Some(faults) = self.subject.faults() {
            let fired = faults.fired();
            self.totals.insert(
                "faults",
                fired.max(self.totals.get("faults").copied().unwrap_or(0)),
            );
            faults.clear();
            faults.release();
        }
        (self.read_faults, self.write_faults) = (false, false);
    }

    /// What a request finds that comes between a writeback's mark and its end.
    fn hang(&mut self, writeback: &Writeback, requests: &[Op]) -> Result<(), Wrong> {
        let faults = self
            .subject
            .faults()
            .filter(|_| self.subject.device().zram().backing().is_some());
        let Some(faults) = faults else {
            return requests.iter().try_for_each(|op| self.request(op));
        };
        self.heal();
        faults.add(FaultRule::writes(Fault::Hang).after(0, 6));
        let device = self.subject.device().clone();
        let before = faults.fired();
        std::thread::scope(|scope| {
            let job = scope.spawn(|| {
                device
                    .zram()
                    .writeback(writeback, &mut |_| std::ops::ControlFlow::Continue(()))
            });
            while faults.fired() == before && !job.is_finished() {
                std::thread::sleep(Duration::from_micros(200));
            }
            let done = requests.iter().try_for_each(|op| self.request(op));
            faults.clear();
            faults.release();
            let report = job
                .join()
                .map_err(|_| "the writeback panicked")?
                .map_err(text)?;
            done?;
            self.count("changed under writeback", report.changed);
            self.count("hung writebacks", u64::from(report.failed > 0));
            self.hung |= report.failed > 0;
            ensure!(
                report.candidates == report.written + report.failed + report.changed,
                "{report:?}"
            );
            Ok(())
        })
    }

    fn reopen(&mut self) -> Result<(), Wrong> {
        self.heal();
        let limit = self.subject.device().zram().writeback_limit();
        let erases = self.subject.device().erase_on_free();
        let before = self.stats();
        let codecs = self.subject.device().codecs();
        self.subject.close();
        self.subject.open().map_err(text)?;
        let after = self.stats();
        // With its generations, and what was trained by whom.
        let found = self.subject.device().codecs();
        let alike = |a: &CodecStats, b: &CodecStats| {
            let is = |c: &CodecStats| (c.index, c.generation, c.objects, c.dictionary_bytes);
            is(a) == is(b) && a.priorities == b.priorities && a.driver == b.driver
        };
        ensure!(
            codecs.len() == found.len() && codecs.iter().zip(&found).all(|(a, b)| alike(a, b)),
            "{codecs:?} became {found:?}"
        );
        ensure!(
            self.self_training == self.subject.device().jobs().self_training(),
            "whether it trains itself"
        );
        let kept = |s: &Stats| {
            let sizes = (
                s.orig_data_size_bytes,
                s.compr_data_size_bytes,
                s.backed_data_size_bytes,
            );
            (
                sizes,
                s.same_pages,
                s.huge_pages,
                s.backed_pages,
                s.mem_limit_bytes,
            )
        };
        ensure!(kept(&before) == kept(&after), "{before:?} became {after:?}");
        ensure!(
            limit == self.subject.device().zram().writeback_limit(),
            "the writeback limit"
        );
        ensure!(
            after.mem_used_total_bytes <= before.mem_used_total_bytes,
            "{before:?} became {after:?}"
        );
        ensure!(
            erases == self.subject.device().erase_on_free()
                && before.total_limit_bytes == after.total_limit_bytes,
            "{erases}, {before:?} became {after:?}"
        );
        (self.failed, self.hung) = ((0, 0), false);
        self.count("reopened", 1);
        Ok(())
    }
}
