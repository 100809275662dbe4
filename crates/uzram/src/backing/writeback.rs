//! Writeback: moves objects from memory to the backing, packed and unchanged.
//!
//! A slice marks some hundred slots, copies their objects into buffers, writes the buffers, and publishes what
//! reached the disk. A page that a request writes meanwhile stays as written. What the disk refuses or does not
//! answer for stays in memory.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use uzram_backing::{PushError, Writer, Written};
use uzram_pool::current_cpu;

use super::{Attached, compact};
use crate::apis::ZramApi;
use crate::device::Device;
use crate::idle::MinAge;
use crate::layout::state;
use crate::recompress::{Pace, PageKind};
use crate::{Error, PAGE_SIZE};

/// Objects between two calls of the caller's pace: about 1 MiB.
const SLICE: u64 = 512;
/// Slots visited between two calls.
const LOOKS: usize = 1 << 14;
/// The same where each write is an object of a store, which costs the same whatever it holds: some 12 MiB.
const FAR_SLICE: u64 = 8192;
const FAR_LOOKS: usize = 1 << 18;
/// Segments of a store that a writeback may empty at its end.
const FAR_COMPACTED: usize = 16;

/// What to write back.
#[derive(Debug, Clone)]
pub struct Writeback {
    /// Which pages. Default: all that have an object in memory.
    pub kind: PageKind,
    /// Only pages with these numbers, in this order or another; empty: all.
    pub pages: Vec<Range<u64>>,
    /// Pages at most; 0: all.
    pub max_pages: u64,
    /// Only pages that were not used for that long; ages have to be kept ([`ZramApi::track_ages`]).
    pub older_than: Option<Duration>,
    /// How long to wait for the disk before it is taken for hung. Default: 30 s.
    pub patience: Duration,
}

impl Default for Writeback {
    fn default() -> Writeback {
        Writeback {
            kind: PageKind::All,
            pages: Vec::new(),
            max_pages: 0,
            older_than: None,
            patience: Duration::from_secs(30),
        }
    }
}

impl Writeback {
    /// The slots in question, each once. A slot twice in a slice would be an error: a page that is written in between
    /// would be marked anew, and the first copy taken for its content.
    fn slots<'a>(&'a self, device: &'a Device) -> impl Iterator<Item = u64> + 'a {
        let all = self.pages.is_empty().then_some(0..u64::MAX);
        let mut ranges: Vec<Range<u64>> = self.pages.iter().cloned().chain(all).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut next = 0;
        ranges.into_iter().flat_map(move |range| {
            let start = range.start.max(next);
            next = next.max(range.end);
            device.table.touched(start, range.end)
        })
    }
}

/// Why a writeback ended before its last page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Ended {
    /// The backing has no room left.
    Full,
    /// `writeback_limit` is used up.
    Limit,
    /// The disk refuses writes or does not answer.
    Failing,
}

/// What a writeback did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct WritebackReport {
    /// Pages that it applied to.
    pub candidates: u64,
    /// Bytes of their objects.
    pub candidate_bytes: u64,
    /// Pages that are on the backing now.
    pub written: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Pages that could not be written and stayed in memory.
    pub failed: u64,
    /// Pages that were written or discarded by a request meanwhile.
    pub changed: u64,
    /// Why it ended early.
    #[cfg_attr(feature = "serde", serde(with = "ended_or_empty"))]
    pub ended: Option<Ended>,
}

/// `full`, `limit`, `failing`, or an empty text where it did not end early: scripts compare that.
#[cfg(feature = "serde")]
mod ended_or_empty {
    use serde::de::IntoDeserializer;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Ended;

    pub(super) fn serialize<S: Serializer>(
        ended: &Option<Ended>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match ended {
            Some(ended) => ended.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Ended>, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.is_empty() {
            true => Ok(None),
            false => Ended::deserialize(text.into_deserializer()).map(Some),
        }
    }
}

impl ZramApi<'_> {
    /// Writes pages back: moves their objects from memory to the backing. Of several such jobs and recompressions one
    /// works at a time.
    ///
    /// [`Error::NoBacking`] if there is none, [`Error::BackingLost`] where its file is not there, [`Error::NoAges`] for an age while ages are not kept, [`Error::Snapshot`]
    /// while a snapshot is taken. Errors of the
    /// disk are no error of the call: the report and the counters have them, and the pages stay in memory.
    pub fn writeback(self, what: &Writeback, pace: Pace<'_>) -> Result<WritebackReport, Error> {
        let attached = self.0.attached()?;
        attached.refuse_lost()?;
        let age = self.min_age(what.older_than)?;
        let mut pages = what.slots(self.0).peekable();
        let mut report = WritebackReport::default();
        while report.ended.is_none() && pages.peek().is_some() {
            if what.max_pages > 0 && report.candidates >= what.max_pages {
                break;
            }
            let before = report;
            {
                let _alone = self.0.post_processing();
                self.0.refuse_during_cut()?;
                if !Arc::ptr_eq(&attached, &self.0.attached()?) {
                    break;
                }
                self.write_slice(&attached, what, &age, &mut pages, &mut report);
            }
            self.0.give_back(report.bytes - before.bytes, 0);
            if pace(report.candidates - before.candidates).is_break() {
                break;
            }
        }
        self.0.give_all_back();
        // What lies in a store costs, whether it is needed or not.
        if attached.is_far() && report.written > 0 {
            match self.compact_backing(FAR_COMPACTED) {
                // It was detached meanwhile, or a snapshot is taken: the next time.
                Ok(_) | Err(Error::NoBacking | Error::Snapshot) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    /// What [`ZramApi::writeback`] would begin with: only the candidates of the report are filled in, those that share
    /// their object (which are left alone) among them. None are old enough while ages are not kept.
    pub fn writable_back(self, what: &Writeback) -> WritebackReport {
        let mut report = WritebackReport::default();
        let Ok(age) = self.min_age(what.older_than) else {
            return report;
        };
        for page in what.slots(self.0) {
            let (content, flags) = self.0.table.peek_flags(page);
            if what.kind.suits(content, flags) && age.admits(page) {
                report.candidates += 1;
                report.candidate_bytes += content.object().map_or(0, |(_, len)| len as u64);
            }
        }
        report
    }

    /// Pages that may still be written back; `None`: no limit (zram's `writeback_limit`, in pages of 4 KiB).
    pub fn writeback_limit(self) -> Option<u64> {
        self.0.state()[state::WRITEBACK_LIMIT]
            .load(Relaxed)
            .checked_sub(1)
    }

    /// Sets how many pages may still be written back. Part of the image.
    pub fn set_writeback_limit(self, pages: Option<u64>) {
        let word = pages.map_or(0, |pages| pages.saturating_add(1));
        self.0.state()[state::WRITEBACK_LIMIT].store(word, Relaxed);
    }

    /// Takes one page from the limit; `false` if it is used up.
    fn take_from_limit(self) -> bool {
        let limit = &self.0.state()[state::WRITEBACK_LIMIT];
        let taken = limit.fetch_update(Relaxed, Relaxed, |word| match word {
            0 => Some(0),
            1 => None,
            more => Some(more - 1),
        });
        taken.is_ok()
    }

    fn give_to_limit(self) {
        let limit = &self.0.state()[state::WRITEBACK_LIMIT];
        let more = |word: u64| (word > 0).then(|| word.saturating_add(1));
        let _ = limit.fetch_update(Relaxed, Relaxed, more);
    }

    fn write_slice(
        self,
        attached: &Attached,
        what: &Writeback,
        age: &MinAge<'_>,
        pages: &mut impl Iterator<Item = u64>,
        report: &mut WritebackReport,
    ) {
        let mut writers = attached.writers();
        let mut slice = Slice {
            device: self.0,
            before: *report,
            report,
            patience: attached.backing.layout().patience.unwrap_or(what.patience),
        };
        let (most, looks) = match attached.is_far() {
            true => (FAR_SLICE, FAR_LOOKS),
            false => (SLICE, LOOKS),
        };
        let end = match what.max_pages {
            0 => slice.report.candidates + most,
            all => all.min(slice.report.candidates + most),
        };
        for page in pages.take(looks) {
            let (content, flags) = self.0.table.peek_flags(page);
            if !what.kind.suits(content, flags) || !age.admits(page) {
                continue;
            }
            let writers = &mut *writers;
            match slice.put(page, what.kind, &mut writers.objects) {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(Ended::Full)
                    if compact::make_room(self.0, attached, writers) =>
                {
                    // A second try; if it fails, too, the page is left for the next time.
                    let _ = slice.put(page, what.kind, &mut writers.objects);
                }
                ControlFlow::Break(ended) => slice.report.ended = Some(ended),
            }
            if slice.report.ended.is_some() || slice.report.candidates >= end {
                break;
            }
        }
        slice.finish(&mut writers.objects);
    }
}

/// A slice of a job.
struct Slice<'a> {
    device: &'a Device,
    /// The report before this slice.
    before: WritebackReport,
    report: &'a mut WritebackReport,
    patience: Duration,
}

impl Slice<'_> {
    /// Marks a page and gives its object to the writer.
    fn put(&mut self, page: u64, kind: PageKind, writer: &mut Writer) -> ControlFlow<Ended> {
        let device = self.device;
        if !device.zram().take_from_limit() {
            return ControlFlow::Break(Ended::Limit);
        }
        let mut bytes = [0; PAGE_SIZE];
        let Some(len) = device.copy_object(page, &mut bytes, |c, flags| kind.suits(c, flags))
        else {
            device.zram().give_to_limit();
            return ControlFlow::Continue(());
        };
        let mut pushed = writer.push(page as u32, &bytes[..len]);
        if let Err(PushError::Busy { .. }) = pushed {
            let before = writer.in_flight();
            let after = writer.wait_one(self.patience, |written| self.written(written));
            if before > 0 && after == before {
                writer.abandon(|written| self.written(written));
            }
            pushed = writer.push(page as u32, &bytes[..len]);
        }
        match pushed {
            Ok(_) => {
                self.report.candidates += 1;
                self.report.candidate_bytes += len as u64;
                ControlFlow::Continue(())
            }
            Err(error) => {
                device.table.end_post(page, 0);
                device.zram().give_to_limit();
                ControlFlow::Break(match error {
                    PushError::Full => Ended::Full,
                    _ => Ended::Failing,
                })
            }
        }
    }

    /// Submits the buffer, and waits for all writes.
    fn finish(&mut self, writer: &mut Writer) {
        writer.submit();
        if writer.wait(self.patience, |written| self.written(written)) > 0 {
            writer.abandon(|written| self.written(written));
        }
        // A disk that took nothing of a whole slice is not asked again.
        if self.report.failed > self.before.failed && self.report.written == self.before.written {
            self.report.ended = Some(Ended::Failing);
        }
    }

    fn written(&mut self, written: Written) {
        let (device, cpu) = (self.device, current_cpu());
        let shard = device.counters.shard(cpu);
        if written.result.is_err() {
            device.table.end_post(written.owner.into(), 0);
            device.zram().give_to_limit();
            shard.failed_writebacks.fetch_add(1, Relaxed);
            self.report.failed += 1;
        } else if device.keep_backed(written, cpu) {
            shard.backed_writes.fetch_add(1, Relaxed);
            self.report.written += 1;
            self.report.bytes += written.len as u64;
        } else {
            self.report.changed += 1;
        }
    }
}
