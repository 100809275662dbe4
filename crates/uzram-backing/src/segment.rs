//! Which segments are in use, and by what: a word a segment, and two stacks of empty ones.
//!
//! The word counts what keeps the segment from reuse: live bytes, holds of readers, writes in flight, and the writer
//! that has it open. Every change is one atomic operation. Only the thread that removes the last of them pushes the
//! segment: onto the free stack, or onto the quarantine if a write to it failed. The quarantine is used when nothing
//! else is free. Only the writer that pops an empty segment changes its word; a hold is refused.
//!
//! Pushes are lock-free, from any thread. Pops take a mutex among writers, which also rules out ABA.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::Disk;
use crate::format::{SegmentGeometry, UNIT};

/// Live units of 8 bytes, up to 2^19.
const LIVE: u64 = 0xF_FFFF;
/// A hold of a reader.
pub(crate) const HOLD: u64 = 1 << 20;
const HOLDS: u64 = 0xFFFF << 20;
/// A write in flight.
pub(crate) const FLIGHT: u64 = 1 << 36;
const FLIGHTS: u64 = 0xFFF << 36;
/// A writer appends to it.
pub(crate) const OPEN: u64 = 1 << 48;
/// A write to it failed since it was opened.
const SUSPECT: u64 = 1 << 63;

/// The largest segment whose live bytes the word can count.
pub(crate) const MAX_SEGMENT_BYTES: u64 = 4 << 20;
const _: () = assert!(MAX_SEGMENT_BYTES / UNIT as u64 <= LIVE);

/// Live bytes as the word counts them.
pub(crate) fn live(bytes: usize) -> u64 {
    debug_assert!(bytes.is_multiple_of(UNIT));
    (bytes / UNIT) as u64
}

#[derive(Default)]
struct Meta {
    word: AtomicU64,
    /// The one below in the stack, plus 1.
    next: AtomicU32,
}

/// A stack of segments, linked through their metas. The top's number plus 1; 0: empty.
#[derive(Default)]
struct Stack(AtomicU32);

impl Stack {
    fn push(&self, metas: &[Meta], segment: u32) {
        let mut top = self.0.load(Relaxed);
        loop {
            metas[segment as usize].next.store(top, Relaxed);
            // Release: the popper sees its link and its word.
            match self
                .0
                .compare_exchange_weak(top, segment + 1, Release, Relaxed)
            {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// By one thread at a time.
    fn pop(&self, metas: &[Meta]) -> Option<u32> {
        let mut top = self.0.load(Acquire);
        loop {
            let segment = top.checked_sub(1)?;
            let next = metas[segment as usize].next.load(Relaxed);
            match self.0.compare_exchange_weak(top, next, Acquire, Acquire) {
                Ok(_) => return Some(segment),
                Err(now) => top = now,
            }
        }
    }
}

pub(crate) struct Segments {
    pub(crate) geometry: SegmentGeometry,
    /// Who is told of segments that became empty, where each is written once.
    told: Option<Arc<dyn Disk>>,
    metas: Box<[Meta]>,
    free: Stack,
    quarantine: Stack,
    /// Segments from here on were never used.
    fresh: AtomicU32,
    /// Held while one is popped.
    popping: Mutex<()>,
    /// Segments that hold something.
    used: AtomicU32,
    /// Segments in quarantine.
    quarantined: AtomicU32,
    /// Free ones that are kept for compaction, which cannot begin without.
    reserve: u32,
}

impl Segments {
    pub(crate) fn new(geometry: SegmentGeometry) -> Segments {
        let count = geometry.segments;
        Segments {
            geometry,
            told: None,
            metas: (0..count).map(|_| Meta::default()).collect(),
            free: Stack::default(),
            quarantine: Stack::default(),
            fresh: AtomicU32::new(0),
            popping: Mutex::new(()),
            used: AtomicU32::new(0),
            quarantined: AtomicU32::new(0),
            reserve: if count < 16 { 1 } else { 2 },
        }
    }

    /// Tells the disk of segments that become empty.
    pub(crate) fn tell(&mut self, disk: &Arc<dyn Disk>) {
        self.told = Some(disk.clone());
    }

    pub(crate) fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    pub(crate) fn quarantined(&self) -> u32 {
        self.quarantined.load(Relaxed)
    }

    /// Free ones, without the quarantined.
    pub(crate) fn free(&self) -> u32 {
        // Counters move one after another: never below 0.
        self.geometry
            .segments
            .saturating_sub(self.used())
            .saturating_sub(self.quarantined())
    }

    /// An empty segment, now open. The last few only `for_compaction`.
    pub(crate) fn open(&self, for_compaction: bool) -> Option<u32> {
        let _turn = self.popping.lock().unwrap_or_else(PoisonError::into_inner);
        let available = self.free();
        if available + self.quarantined() <= self.reserve && !for_compaction {
            return None;
        }
        let clean = if available > self.reserve || for_compaction {
            self.pop_clean()
        } else {
            None
        };
        let segment = clean.or_else(|| {
            let segment = self.quarantine.pop(&self.metas)?;
            self.quarantined.fetch_sub(1, Relaxed);
            Some(segment)
        })?;
        self.used.fetch_add(1, Relaxed);
        // Clears the old state. Nobody else changes the word of an empty segment.
        self.metas[segment as usize].word.store(OPEN, Release);
        Some(segment)
    }

    fn pop_clean(&self) -> Option<u32> {
        if let Some(segment) = self.free.pop(&self.metas) {
            return Some(segment);
        }
        let fresh = self.fresh.load(Relaxed);
        if fresh >= self.geometry.segments {
            return None;
        }
        // Release: a walk over the segments up to here sees an initialised word.
        self.fresh.store(fresh + 1, Release);
        Some(fresh)
    }

    /// Adds to the word of a segment that is in use.
    pub(crate) fn add(&self, segment: u32, what: u64) {
        self.metas[segment as usize].word.fetch_add(what, AcqRel);
    }

    /// Subtracts from the word, and frees the segment if that was the last of it. `false` with no effect: the word
    /// had less than that, as after a double free.
    pub(crate) fn remove(&self, segment: u32, what: u64) -> bool {
        let word = &self.metas[segment as usize].word;
        let part = |word: u64| (word & LIVE, word & HOLDS, word & FLIGHTS, word & OPEN);
        let (live, holds, flights, open) = part(what);
        // AcqRel: what was done under the right given up happens before the segment is reused.
        let old = word.fetch_update(AcqRel, Acquire, |word| {
            let has = part(word);
            let there = has.0 >= live && has.1 >= holds && has.2 >= flights && has.3 >= open;
            there.then(|| word - what)
        });
        let Ok(old) = old else {
            return false;
        };
        let new = old - what;
        if new & !SUSPECT == 0 {
            self.emptied(segment, new & SUSPECT != 0);
        }
        true
    }

    fn emptied(&self, segment: u32, suspect: bool) {
        // Before it can be given out again: what is told then is of the next use.
        if let Some(disk) = &self.told {
            disk.emptied(segment);
        }
        // Counted before they can be popped, lest a counter wrap.
        if suspect {
            self.quarantined.fetch_add(1, Relaxed);
            self.quarantine.push(&self.metas, segment);
        } else {
            self.free.push(&self.metas, segment);
        }
        self.used.fetch_sub(1, Relaxed);
    }

    /// Marks a segment after a failed write. The caller still has its `FLIGHT`. What is written once is written elsewhere the
    /// next time.
    pub(crate) fn suspect(&self, segment: u32) {
        if self.told.is_some() {
            return;
        }
        self.metas[segment as usize].word.fetch_or(SUSPECT, AcqRel);
    }

    /// Holds a segment that is in use, so that it is not reused. `settled`: only if no writer has it.
    pub(crate) fn hold(&self, segment: u32, settled: bool) -> bool {
        let Some(meta) = self.metas.get(segment as usize) else {
            return false;
        };
        let hold = |word: u64| {
            let refused = word & !SUSPECT == 0
                || word & HOLDS == HOLDS
                || settled && word & (OPEN | FLIGHTS) != 0;
            (!refused).then_some(word + HOLD)
        };
        meta.word.fetch_update(AcqRel, Acquire, hold).is_ok()
    }

    /// Live bytes of each segment that holds some and that nobody writes to.
    pub(crate) fn settled(&self) -> impl Iterator<Item = (u32, u32)> {
        let fresh = self.fresh.load(Acquire);
        (0..fresh).filter_map(|segment| {
            let word = self.metas[segment as usize].word.load(Relaxed);
            let live = (word & LIVE) as u32 * UNIT as u32;
            (live != 0 && word & (OPEN | FLIGHTS) == 0).then_some((segment, live))
        })
    }
}

/// Used by restoring, before there is a writer.
impl Segments {
    /// Enters a live object. `false`: more than the segment takes.
    pub(crate) fn enter(&self, segment: u32, bytes: usize) -> bool {
        let range = self.geometry.range(segment);
        let capacity = live((range.end - range.start) as usize);
        let add = |word: u64| (word + live(bytes) <= capacity).then(|| word + live(bytes));
        let word = &self.metas[segment as usize].word;
        word.fetch_update(Relaxed, Relaxed, add).is_ok()
    }

    /// Ends restoring: segments without an object become free.
    pub(crate) fn settle(&mut self) {
        let empty = |meta: &mut Meta| *meta.word.get_mut() == 0;
        let last = self.metas.iter_mut().rposition(|meta| !empty(meta));
        let fresh = last.map_or(0, |last| last as u32 + 1);
        *self.fresh.get_mut() = fresh;
        let mut used = 0;
        // Backwards, so that the first is taken first.
        for segment in (0..fresh).rev() {
            if empty(&mut self.metas[segment as usize]) {
                self.free.push(&self.metas, segment);
            } else {
                used += 1;
            }
        }
        *self.used.get_mut() = used;
        // What a process that died had written there, or was about to.
        if let Some(disk) = &self.told {
            let unused = |segment: &u32| {
                let word = self.metas[*segment as usize].word.load(Relaxed);
                word == 0
            };
            let all = 0..self.geometry.segments;
            all.filter(unused).for_each(|segment| disk.emptied(segment));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{MIN_BACKING_BYTES, SEGMENT_BYTES};

    fn segments(count: u64) -> Segments {
        Segments::new(SegmentGeometry::new(count * SEGMENT_BYTES, SEGMENT_BYTES).unwrap())
    }

    #[test]
    fn the_last_segment_is_for_compaction() {
        let segments = segments(4);
        for expected in 0..3 {
            assert_eq!(segments.open(false), Some(expected));
        }
        assert_eq!(segments.open(false), None);
        assert_eq!(segments.open(true), Some(3));
        assert_eq!(segments.open(true), None);
        assert!(segments.remove(1, OPEN));
        assert_eq!((segments.used(), segments.free()), (3, 1));
        assert_eq!(segments.open(true), Some(1));
    }

    #[test]
    fn a_segment_is_free_when_the_last_thing_in_it_is_gone() {
        let segments = segments(4);
        let segment = segments.open(false).unwrap();
        segments.add(segment, FLIGHT | live(64));
        assert!(segments.remove(segment, OPEN));
        assert!(!segments.hold(segment, true), "a write is in flight");
        assert!(segments.hold(segment, false));
        assert!(segments.remove(segment, FLIGHT));
        assert_eq!(segments.settled().collect::<Vec<_>>(), [(segment, 64)]);
        assert!(segments.remove(segment, live(64)));
        assert!(!segments.remove(segment, live(8)), "freed twice");
        assert_eq!(segments.used(), 1);
        assert!(segments.remove(segment, HOLD));
        assert_eq!(segments.used(), 0);
        assert!(!segments.hold(segment, false), "it is free");
    }

    #[test]
    fn a_suspect_is_used_last_and_then_with_a_clean_slate() {
        let segments = segments(4);
        let first = segments.open(false).unwrap();
        segments.suspect(first);
        assert!(segments.remove(first, OPEN));
        assert_eq!((segments.quarantined(), segments.free()), (1, 3));
        let others = [segments.open(false), segments.open(false)];
        assert_eq!(others, [Some(1), Some(2)]);
        assert_eq!(segments.open(false), Some(first));
        assert!(segments.remove(first, OPEN));
        assert_eq!((segments.quarantined(), segments.free()), (0, 2));
    }

    #[test]
    fn the_last_segment_is_for_compaction_even_if_it_is_suspect() {
        let segments = segments(4);
        let last = (0..4).filter_map(|_| segments.open(true)).last().unwrap();
        segments.suspect(last);
        assert!(segments.remove(last, OPEN));
        assert_eq!((segments.quarantined(), segments.free()), (1, 0));
        assert_eq!(segments.open(false), None);
        assert_eq!(segments.open(true), Some(last));
    }

    #[test]
    fn restored_segments_are_used_free_or_fresh() {
        let mut segments = segments(MIN_BACKING_BYTES / SEGMENT_BYTES);
        assert!(segments.enter(1, SEGMENT_BYTES as usize - 8));
        assert!(!segments.enter(1, 16));
        segments.settle();
        assert_eq!((segments.used(), segments.free()), (1, 3));
        let opened = [segments.open(false), segments.open(false)];
        assert_eq!(opened, [Some(0), Some(2)]);
    }
}
