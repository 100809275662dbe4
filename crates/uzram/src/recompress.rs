//! Recompression: compresses stored pages anew with a denser algorithm, off the request path.
//!
//! One page at a time: its object is read as any reader would, compressed with no lock on the slot, and published
//! only if the page was not written meanwhile and the new object is of a smaller size class. The table yields the
//! candidates; where their number is limited the largest come first.
//!
//! A slice holds the lock on changes of codecs: see "Why a look-up needs no lock" in `codec/table.rs`.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use uzram_compress::Tfm;
use uzram_pool::{HUGE_THRESHOLD, class_size, current_cpu};

use crate::apis::ZramApi;
use crate::codec::{CODECS, Changing, Codec, Contexts, PRIORITIES};
use crate::device::Device;
use crate::idle::MinAge;
use crate::word::{Content, IDLE, INCOMPRESSIBLE};
use crate::{Error, PAGE_SIZE};

/// Pages between two calls of the caller's pace.
const SLICE: usize = 32;
/// Bytes of object length that count as one length when the largest come first, as in zram.
const BUCKET: usize = 64;
const BUCKETS: usize = PAGE_SIZE / BUCKET + 1;

/// Which pages a job covers, by their state. Default: all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum PageKind {
    /// Every page that has an object.
    #[default]
    All,
    /// Those marked idle ([`ZramApi::mark_idle`]).
    Idle,
    /// Those stored uncompressed.
    Huge,
    /// Those stored uncompressed and marked idle.
    HugeIdle,
    /// Those that recompression could not make smaller.
    Incompressible,
}

impl PageKind {
    /// Whether a page in memory is of this kind.
    pub(crate) fn suits(self, content: Content, flags: u64) -> bool {
        let huge = content.is_huge();
        let idle = flags & IDLE != 0;
        content.is_in_pool()
            && match self {
                PageKind::All => true,
                PageKind::Idle => idle,
                PageKind::Huge => huge,
                PageKind::HugeIdle => huge && idle,
                PageKind::Incompressible => flags & INCOMPRESSIBLE != 0,
            }
    }
}

/// zram's words: `idle`, `huge`, `huge_idle`, `incompressible`; and `all`.
impl std::str::FromStr for PageKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<PageKind, Error> {
        Ok(match text {
            "all" => PageKind::All,
            "idle" => PageKind::Idle,
            "huge" => PageKind::Huge,
            "huge_idle" => PageKind::HugeIdle,
            "incompressible" => PageKind::Incompressible,
            _ => {
                return Err(Error::Invalid {
                    what: "the kind of page",
                    given: format!("'{text}'"),
                    accepted: "all, idle, huge, huge_idle, incompressible".into(),
                });
            }
        })
    }
}

/// What to recompress.
#[derive(Debug, Clone, Default)]
pub struct Recompress {
    /// Which pages.
    pub kind: PageKind,
    /// Only with the secondary of this priority, 1 to 3. Default: each page with the secondaries in the order of their
    /// priorities, beginning behind the one that it is compressed with, until one makes it smaller.
    pub priority: Option<usize>,
    /// Only objects of at least this many bytes, and only if they become smaller than it; 0: all.
    pub threshold: usize,
    /// Only objects of at least this many bytes, whatever they become; 0: all. What large objects save is most of what there
    /// is to save, and small ones stay with the algorithm that reads them faster.
    pub least: usize,
    /// Pages to try at most, the largest objects first; 0: all, in the order of the device.
    pub max_pages: u64,
    /// Only pages with these numbers.
    pub pages: Option<Range<u64>>,
    /// Only pages that were not used for that long; ages have to be kept ([`ZramApi::track_ages`]).
    pub older_than: Option<Duration>,
}

/// What a recompression did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct RecompressReport {
    /// Pages that it applied to.
    pub candidates: u64,
    /// Bytes of their objects.
    pub candidate_bytes: u64,
    /// Pages that were compressed anew.
    pub tried: u64,
    /// Pages that are smaller now.
    pub recompressed: u64,
    /// Pages that no algorithm makes smaller: they are marked and not tried again until they are written.
    pub incompressible: u64,
    /// Pages that would be smaller, but for which there was no memory (the arena, or a swap device's stock, is used up:
    /// `mem_limit` does not count here, as the larger object is freed next).
    pub no_room: u64,
    /// Bytes of the objects that are smaller now, before.
    pub bytes_before: u64,
    /// The same objects, after.
    pub bytes_after: u64,
}

/// Called between slices of a job: continue or stop. May sleep, to keep the job within a budget. The argument is the
/// number of pages processed since the last call.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// A secondary and what it is used with.
struct RecompressTarget {
    priority: usize,
    index: u8,
    codec: Arc<Codec>,
    tfm: Box<dyn Tfm>,
    object: Box<[u8; 2 * PAGE_SIZE]>,
}

/// The outcome for one page.
enum PageOutcome {
    /// It is not a candidate any more.
    Gone,
    Smaller {
        before: usize,
        after: usize,
    },
    NotSmaller {
        marked: bool,
    },
    NoRoom,
}

impl ZramApi<'_> {
    /// Compresses pages anew with a secondary algorithm ([`Device::set_secondary`]) and keeps what takes less memory. A
    /// page that is tried is not idle any more; one that the last secondary cannot make smaller either is marked
    /// incompressible. Requests go on meanwhile; a page that is written meanwhile stays as it was written. Of several
    /// such jobs and writebacks one works at a time.
    ///
    /// [`Error::NoSecondary`] where there is no such secondary, or none at all; [`Error::Invalid`] for another priority or
    /// a threshold of a page or more, [`Error::NoAges`] for an age while ages are not kept, [`Error::Snapshot`] while a
    /// snapshot is taken.
    pub fn recompress(self, what: &Recompress, pace: Pace<'_>) -> Result<RecompressReport, Error> {
        let mut job = RecompressJob::new(self.0, what)?;
        let end = self.0.table.pages();
        let range = what.pages.clone().unwrap_or(0..end);
        if what.max_pages == 0 {
            job.run(self.0.table.touched(range.start, range.end), pace)?;
        } else {
            let chosen = job.largest(range);
            job.run(chosen.into_iter(), pace)?;
        }
        Ok(job.report)
    }

    /// What [`ZramApi::recompress`] would begin with: only the candidates of the report are filled in, those that share
    /// their object (which are left alone) among them.
    pub fn recompressible(self, what: &Recompress) -> Result<RecompressReport, Error> {
        let job = RecompressJob::new(self.0, what)?;
        let range = what.pages.clone().unwrap_or(0..u64::MAX);
        let length = |page: u64| {
            let (content, flags) = self.0.table.peek_flags(page);
            let wanted = job.is_candidate(content, flags) && job.age.admits(page);
            wanted.then_some(len(content) as u64)
        };
        let mut report = RecompressReport::default();
        let mut add = |page| {
            if let Some(len) = length(page) {
                report.candidates += 1;
                report.candidate_bytes += len;
            }
        };
        match what.max_pages {
            0 => (self.0.table.touched(range.start, range.end)).for_each(&mut add),
            _ => job.largest(range).into_iter().for_each(&mut add),
        }
        Ok(report)
    }
}

impl Recompress {
    fn check(&self) -> Result<(), Error> {
        let invalid = |what, given: usize, accepted: &str| {
            let (given, accepted) = (given.to_string(), accepted.into());
            Err(Error::Invalid {
                what,
                given,
                accepted,
            })
        };
        if self.threshold >= HUGE_THRESHOLD {
            let accepted = format!("0 for none, or fewer than {HUGE_THRESHOLD} bytes");
            return invalid("the threshold", self.threshold, &accepted);
        }
        match self.priority {
            Some(priority) if !(1..PRIORITIES).contains(&priority) => invalid(
                "priority",
                priority,
                "1 to 3, that of a secondary algorithm",
            ),
            _ => Ok(()),
        }
    }
}

/// Whether a target's priority is beyond that of the page's codec.
fn is_ahead(priorities: &[usize; CODECS], target: &RecompressTarget, content: Content) -> bool {
    let now = content.codec();
    now != Some(target.index)
        && now.map_or(0, |index| priorities[usize::from(index)]) < target.priority
}

/// Bytes that a page's object takes.
fn len(content: Content) -> usize {
    content.object().map_or(0, |(_, len)| len)
}

struct RecompressJob<'a> {
    device: &'a Device,
    what: &'a Recompress,
    targets: Vec<RecompressTarget>,
    /// The highest priority of each codec, 0 for none.
    priorities: [usize; CODECS],
    age: MinAge<'a>,
    page: Box<[u8; PAGE_SIZE]>,
    report: RecompressReport,
}

impl<'a> RecompressJob<'a> {
    fn new(device: &'a Device, what: &'a Recompress) -> Result<RecompressJob<'a>, Error> {
        what.check()?;
        let mut job = RecompressJob {
            device,
            what,
            targets: Vec::new(),
            priorities: [0; CODECS],
            age: device.zram().min_age(what.older_than)?,
            page: Box::new([0; PAGE_SIZE]),
            report: RecompressReport::default(),
        };
        (job.targets, job.priorities) = job.targets(&device.codecs.change())?;
        Ok(job)
    }

    /// The secondaries to work with, in the order of their priorities; and the priorities of all.
    fn targets(
        &self,
        _changing: &Changing<'_>,
    ) -> Result<(Vec<RecompressTarget>, [usize; CODECS]), Error> {
        let mut targets = Vec::new();
        let mut priorities = [0; CODECS];
        for priority in 1..PRIORITIES {
            let Some((index, codec)) = self.device.codecs.by_priority(priority) else {
                continue;
            };
            priorities[usize::from(index)] = priority;
            if self.what.priority.is_some_and(|only| only != priority) {
                continue;
            }
            targets.push(RecompressTarget {
                priority,
                index,
                tfm: codec.context(self.device.codecs.residence())?,
                codec,
                object: Box::new([0; 2 * PAGE_SIZE]),
            });
        }
        if targets.is_empty() {
            return Err(Error::NoSecondary {
                priority: self.what.priority,
            });
        }
        Ok((targets, priorities))
    }

    /// Whether the targets are still the device's.
    fn is_current(&self) -> bool {
        self.targets.iter().all(|target| {
            let now = self.device.codecs.by_priority(target.priority);
            now.is_some_and(|(_, codec)| Arc::ptr_eq(&codec, &target.codec))
        })
    }

    fn is_candidate(&self, content: Content, flags: u64) -> bool {
        self.what.kind.suits(content, flags)
            && flags & INCOMPRESSIBLE == 0
            && len(content) >= self.what.threshold.max(self.what.least)
            && (self.targets.iter()).any(|target| is_ahead(&self.priorities, target, content))
    }

    /// The candidates with the largest objects, at most `max_pages`, largest first.
    fn largest(&self, range: Range<u64>) -> Vec<u64> {
        let table = &self.device.table;
        let bucket = |page: u64| {
            let (content, flags) = table.peek_flags(page);
            let candidate = self.is_candidate(content, flags) && self.age.admits(page);
            candidate.then(|| len(content) / BUCKET)
        };
        let mut counts = [0u64; BUCKETS];
        for page in table.touched(range.start, range.end) {
            if let Some(bucket) = bucket(page) {
                counts[bucket] += 1;
            }
        }
        // The smallest bucket that is needed. It bounds what has to be remembered.
        let mut room = self.what.max_pages;
        let mut least = BUCKETS;
        while least > 0 && room > 0 {
            least -= 1;
            room = room.saturating_sub(counts[least]);
        }
        let chosen = table.touched(range.start, range.end);
        let mut chosen: Vec<(usize, u64)> = chosen
            .filter_map(|page| Some((bucket(page).filter(|bucket| *bucket >= least)?, page)))
            .collect();
        chosen.sort_unstable_by_key(|(bucket, page)| (std::cmp::Reverse(*bucket), *page));
        chosen.truncate(usize::try_from(self.what.max_pages).unwrap_or(usize::MAX));
        chosen.into_iter().map(|(_, page)| page).collect()
    }

    fn run(&mut self, pages: impl Iterator<Item = u64>, pace: Pace<'_>) -> Result<(), Error> {
        let mut pages = pages.peekable();
        while pages.peek().is_some() {
            let (tried, freed) = (self.report.tried, self.report.bytes_before);
            {
                // One slice at a time: a slot that is found marked was marked by this job.
                let _alone = self.device.post_processing();
                self.device.refuse_during_cut()?;
                let changing = self.device.codecs.change();
                if !self.is_current() {
                    (self.targets, self.priorities) = self.targets(&changing)?;
                }
                self.slice(&mut pages);
            }
            self.device.give_back(self.report.bytes_before - freed, 0);
            if pace(self.report.tried - tried).is_break() {
                break;
            }
        }
        self.device.give_all_back();
        Ok(())
    }

    /// Works until some pages were tried, or many visited.
    fn slice(&mut self, pages: &mut impl Iterator<Item = u64>) {
        let mut tried = 0;
        for page in pages.take(SLICE * 128) {
            let (content, flags) = self.device.table.peek_flags(page);
            if !self.is_candidate(content, flags) || !self.age.admits(page) {
                continue;
            }
            self.report.candidates += 1;
            self.report.candidate_bytes += len(content) as u64;
            let outcome = self.page(page);
            self.count(&outcome);
            tried += usize::from(!matches!(outcome, PageOutcome::Gone));
            if tried == SLICE {
                break;
            }
        }
    }

    fn page(&mut self, page: u64) -> PageOutcome {
        let device = self.device;
        let cpu = current_cpu();
        let mut contexts = Contexts::unnoticed(&device.codecs, cpu);
        contexts.prepare(device.table.peek(page));
        let suits = |content, flags| {
            self.is_candidate(content, flags) && contexts.suit(content) && device.is_sole(content)
        };
        let Some(mut slot) = device.table.begin_post(page, suits) else {
            return PageOutcome::Gone;
        };
        slot.accessed();
        let content = slot.content();
        let read = device.read_locked(page, &slot, &mut self.page, &mut contexts);
        drop((slot, contexts));
        if read.is_err() {
            // The next reader of the page gets the error, and it is counted then.
            device.table.end_post(page, 0);
            return PageOutcome::Gone;
        }
        let before = len(content);
        let Some((algorithm, object)) = self.smaller(content, before) else {
            let last = self.targets.last().map(|target| target.priority);
            let marked = last == self.priorities.iter().copied().max();
            let flags = if marked { INCOMPRESSIBLE } else { 0 };
            device.table.end_post(page, flags);
            return PageOutcome::NotSmaller { marked };
        };
        let after = object.len();
        let Ok(object) = device.pool.store_past_limit(cpu, object, page as u32) else {
            device.table.end_post(page, 0);
            return PageOutcome::NoRoom;
        };
        let new = Content::Compressed {
            algorithm,
            handle: object.handle(),
            len: after as u16,
        };
        if device.keep_instead(page, new, cpu) {
            device
                .counters
                .shard(cpu)
                .recompressed_pages
                .fetch_add(1, Relaxed);
            return PageOutcome::Smaller { before, after };
        }
        device.pool.free(object);
        PageOutcome::Gone
    }

    /// The page's object by the first secondary that makes a smaller one than `before`.
    fn smaller(&mut self, content: Content, before: usize) -> Option<(u8, &[u8])> {
        let most = match self.what.threshold {
            0 => HUGE_THRESHOLD,
            threshold => threshold,
        };
        let position = (0..self.targets.len()).find_map(|at| {
            if !is_ahead(&self.priorities, &self.targets[at], content) {
                return None;
            }
            let target = &mut self.targets[at];
            let len = target
                .tfm
                .compress(&self.page[..], &mut target.object[..])
                .ok()?;
            (len < most && class_size(len) < class_size(before)).then_some((at, len))
        });
        let (at, len) = position?;
        let target = &self.targets[at];
        Some((target.index, &target.object[..len]))
    }

    fn count(&mut self, outcome: &PageOutcome) {
        let report = &mut self.report;
        report.tried += u64::from(!matches!(outcome, PageOutcome::Gone));
        match outcome {
            PageOutcome::Gone => {}
            PageOutcome::Smaller { before, after } => {
                report.recompressed += 1;
                report.bytes_before += *before as u64;
                report.bytes_after += *after as u64;
            }
            PageOutcome::NotSmaller { marked } => report.incompressible += u64::from(*marked),
            PageOutcome::NoRoom => report.no_room += 1,
        }
    }
}
