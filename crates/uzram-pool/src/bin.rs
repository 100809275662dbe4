//! A bin: the spans of one size class that one shard allocates from, and the stack of free spans.
//!
//! Spans with room are linked in four lists by fullness, and allocation takes from the fullest, so that sparse
//! spans drain and become free as a whole. Those that are being drained on purpose are in a fifth, for when there is no
//! other room. Full spans are in no list, nor are hidden ones.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::span::{DRAINING, HIDDEN, SpanMeta};

/// Number of groups: spans that are being drained, then four by fullness.
const GROUPS: usize = 5;

/// The lists of one (shard, class). Heads are span number + 1, 0 for none.
#[derive(Debug, Default)]
pub(crate) struct Bin {
    heads: [u32; GROUPS],
    /// With a stock: objects that were asked for since it was last looked at.
    pub(crate) taken: u32,
    /// With a stock: free objects in memory that the bin is to have.
    pub(crate) target: u32,
}

/// The group of a span with `used` of `objects` in use; `None` for one that is full or hidden.
fn group(meta: &SpanMeta, used: u32, objects: u32) -> Option<usize> {
    match meta.state.load(Relaxed) {
        HIDDEN => None,
        _ if used >= objects => None,
        DRAINING => Some(0),
        _ => Some(1 + (u64::from(used) * (GROUPS as u64 - 1) / u64::from(objects)) as usize),
    }
}

impl Bin {
    /// The fullest span that has room and is not being drained.
    pub(crate) fn fullest(&self) -> Option<u32> {
        let mut by_fullness = self.heads[1..].iter().rev();
        by_fullness.find_map(|head| head.checked_sub(1))
    }

    /// A span with room that is being drained.
    pub(crate) fn draining(&self) -> Option<u32> {
        self.heads[0].checked_sub(1)
    }

    /// All spans that have room, the fullest group first and those that are being drained last.
    pub(crate) fn spans<'a>(&self, metas: &'a [SpanMeta]) -> impl Iterator<Item = u32> + use<'a> {
        let linked = |link: u32| (link != 0).then_some(link);
        self.heads.into_iter().rev().flat_map(move |head| {
            let next = move |link: &u32| linked(metas[*link as usize - 1].next.load(Relaxed));
            std::iter::successors(linked(head), next).map(|link| link - 1)
        })
    }

    /// Links a span that was in no list.
    pub(crate) fn link(&mut self, metas: &[SpanMeta], span: u32, objects: u32) {
        let meta = &metas[span as usize];
        let Some(group) = group(meta, meta.used.load(Relaxed), objects) else {
            return;
        };
        let head = self.heads[group];
        meta.prev.store(0, Relaxed);
        meta.next.store(head, Relaxed);
        if head != 0 {
            metas[head as usize - 1].prev.store(span + 1, Relaxed);
        }
        self.heads[group] = span + 1;
    }

    /// Unlinks a span that had `used` objects when it was linked.
    pub(crate) fn unlink(&mut self, metas: &[SpanMeta], span: u32, used: u32, objects: u32) {
        let Some(group) = group(&metas[span as usize], used, objects) else {
            return;
        };
        let (prev, next) = {
            let meta = &metas[span as usize];
            (meta.prev.load(Relaxed), meta.next.load(Relaxed))
        };
        match prev {
            0 => self.heads[group] = next,
            prev => metas[prev as usize - 1].next.store(next, Relaxed),
        }
        if next != 0 {
            metas[next as usize - 1].prev.store(prev, Relaxed);
        }
    }

    /// Moves a span to the list of its present fullness, if that changed from `before` objects in use.
    pub(crate) fn relink(&mut self, metas: &[SpanMeta], span: u32, before: u32, objects: u32) {
        let meta = &metas[span as usize];
        let now = meta.used.load(Relaxed);
        if group(meta, before, objects) != group(meta, now, objects) {
            self.unlink(metas, span, before, objects);
            self.link(metas, span, objects);
        }
    }

    /// Moves a span of this bin to the list of its new state.
    pub(crate) fn set_state(&mut self, metas: &[SpanMeta], span: u32, state: u32, objects: u32) {
        let meta = &metas[span as usize];
        self.unlink(metas, span, meta.used.load(Relaxed), objects);
        meta.state.store(state, Relaxed);
        self.link(metas, span, objects);
    }
}

/// A lock-free stack of free spans, linked through `SpanMeta::next`. The upper half of the head counts pushes and
/// pops against ABA.
#[derive(Debug, Default)]
pub(crate) struct FreeStack {
    head: AtomicU64,
}

impl FreeStack {
    pub(crate) fn push(&self, metas: &[SpanMeta], span: u32) {
        let mut head = self.head.load(Relaxed);
        loop {
            metas[span as usize].next.store(head as u32, Relaxed);
            let new = ((head >> 32) + 1) << 32 | u64::from(span + 1);
            // Release: what was written to the span's meta is seen by whoever pops it.
            match self.head.compare_exchange_weak(head, new, Release, Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    pub(crate) fn pop(&self, metas: &[SpanMeta]) -> Option<u32> {
        let mut head = self.head.load(Acquire);
        loop {
            let span = (head as u32).checked_sub(1)?;
            // The span may be popped and relinked meanwhile; then the count differs and the exchange fails.
            let next = metas[span as usize].next.load(Relaxed);
            let new = ((head >> 32) + 1) << 32 | u64::from(next);
            match self.head.compare_exchange_weak(head, new, Acquire, Acquire) {
                Ok(_) => return Some(span),
                Err(seen) => head = seen,
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Relaxed) as u32 == 0
    }
}
