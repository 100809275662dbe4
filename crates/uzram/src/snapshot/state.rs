//! What the holders of streams and the walker share during a cut: which pages are captured, and which words are kept.
//!
//! A *basis* is the walk without the moment. Whoever replaces a word sets the bit and keeps nothing. The walker leaves out
//! what has a bit, and copies the rest, which is what was there when the basis began. The cut that follows takes its place in
//! the streams, and has to write only what has a bit.
//!
//! # Who may free what
//!
//! A word that is kept names an object that no slot names any more. Whoever takes it out, by an exchange with 0, owns the
//! object. A word is put in under its slot's lock, once, by who replaces it.
//!
//! The order is: keep the word, set the bit, publish the new word. So whoever sees the bit sees what was kept, and whoever
//! sees the new word sees the bit. The walker sets the bit of what it captures under the same lock.
//!
//! **Memory bound**: what is kept has its bound, in bytes of objects. Bitmap and words are reserved address space of
//! 0.2 % of the device, touched where pages are overwritten. What is touched is counted, by the page of memory.

use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;
use uzram_pool::{Region, class_size};

use super::Gate;
use super::{CutProgress, DirtyMap, FRAME_PAGES};
use crate::Error;
use crate::builder::refused;
use crate::table::{SLOTS_PER_PAGE, SlotGuard};
use crate::word::Content;

/// Most that a stream takes from what may be kept, for itself alone.
const CREDIT_BYTES: u64 = 1 << 20;
/// What a kept word counts, beside its object.
const WORD_BYTES: u64 = 8;

pub(crate) struct CutState {
    /// Pages of the device at the cut.
    pub(super) pages: u64,
    /// A bit a page: what it held at the cut is kept, or copied, or was nothing.
    captured: Region,
    /// A word a page: what it held at the cut, if that is kept.
    kept: Region,
    /// A bit for each page of memory of these words that was touched.
    touched: Box<[AtomicU64]>,
    /// All pages before this one are copied.
    done_pages: AtomicU64,
    kept_max_bytes: u64,
    /// What no stream has taken yet.
    room: AtomicU64,
    /// What each stream has taken and not used. Only the stream's holder writes.
    credits: Box<[CachePadded<AtomicU64>]>,
    credit_bytes: u64,
    /// Where only changes are wanted: frames without a bit are not.
    pub(super) changed: Option<Changed>,
    /// Whether it is of no moment: what is overwritten is not kept, but marked as captured, and left to the cut that follows.
    pub(super) is_basis: bool,
    /// Where nothing may change: what changes have to pass.
    pub(super) gate: Option<Arc<Gate>>,
    is_given_up: AtomicBool,
    why: OnceLock<Error>,
}

/// What may have changed.
#[derive(Clone)]
pub(super) enum Changed {
    /// Since a snapshot, as the image has it.
    Since(DirtyMap),
    /// Since a basis began.
    Basis(Arc<CutState>),
}

impl Changed {
    /// The bits of a frame's pages.
    pub(super) fn bits(&self, frame: u64) -> u64 {
        match self {
            Changed::Since(dirty) => dirty.bits(frame),
            Changed::Basis(basis) => basis.captured_bits(frame).load(Relaxed),
        }
    }

    /// The frames that may have bits.
    pub(super) fn frames(&self) -> Vec<Range<u64>> {
        match self {
            Changed::Since(dirty) => dirty.frames().collect(),
            Changed::Basis(basis) => {
                let frames = 0..basis.pages.div_ceil(FRAME_PAGES as u64);
                std::iter::once(frames).collect()
            }
        }
    }
}

/// A cut as a stream has it.
pub(crate) struct StreamCut {
    state: Arc<CutState>,
    number: usize,
}

/// What a kept word counts.
fn charge_of(content: Content) -> u64 {
    let object = content.object().map_or(0, |(_, len)| class_size(len));
    WORD_BYTES + object as u64
}

impl CutState {
    pub(super) fn new(
        pages: u64,
        streams: usize,
        bound: u64,
        changed: Option<Changed>,
    ) -> Result<CutState, Error> {
        let region = |len: u64| {
            let reserved = Region::private(len.next_multiple_of(crate::PAGE_SIZE as u64));
            reserved.map_err(refused("the snapshot's books", len))
        };
        let kept = region(pages * 8)?;
        let memory_pages = (kept.len() / crate::PAGE_SIZE as u64) as usize;
        Ok(CutState {
            pages,
            captured: region(pages.div_ceil(64) * 8)?,
            kept,
            touched: (0..memory_pages.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            done_pages: AtomicU64::new(0),
            kept_max_bytes: bound,
            room: AtomicU64::new(bound),
            credits: (0..streams).map(|_| CachePadded::default()).collect(),
            credit_bytes: (bound / 8 / streams as u64).min(CREDIT_BYTES),
            changed,
            is_basis: false,
            gate: None,
            is_given_up: AtomicBool::new(false),
            why: OnceLock::new(),
        })
    }

    /// The bits of a frame's pages.
    pub(super) fn captured_bits(&self, frame: u64) -> &AtomicU64 {
        &self.captured.words(frame * 8, 1)[0]
    }

    /// Whether a page is captured. Acquire: then what was kept of it is there, too.
    pub(super) fn is_captured(&self, page: u64) -> bool {
        let bits = self.captured_bits(page / FRAME_PAGES as u64).load(Acquire);
        bits >> (page % FRAME_PAGES as u64) & 1 == 1
    }

    /// Marks a page as captured. The caller has its slot's lock.
    pub(super) fn set_captured(&self, page: u64) {
        let bit = 1 << (page % FRAME_PAGES as u64);
        let bits = self.captured_bits(page / FRAME_PAGES as u64);
        bits.fetch_or(bit, Release);
    }

    /// Marks a page that the walker has copied. The caller has its slot's lock. In a basis the marks are those of writers.
    pub(super) fn set_copied(&self, page: u64) {
        if !self.is_basis {
            self.set_captured(page);
        }
    }

    /// Memory of the books before anything is kept: the bitmap counts as a whole, which the walk comes to touch.
    pub(super) fn bitmap_bytes(&self) -> u64 {
        self.captured.len() + (self.touched.len() * 8) as u64
    }

    /// Notes that a page's word is about to be kept. Returns how many bytes of memory that takes.
    fn touch(&self, page: u64) -> u64 {
        let at = page / SLOTS_PER_PAGE;
        let (word, bit) = (&self.touched[(at / 64) as usize], 1 << (at % 64));
        let is_new = word.load(Relaxed) & bit == 0 && word.fetch_or(bit, Relaxed) & bit == 0;
        if is_new { crate::PAGE_SIZE as u64 } else { 0 }
    }

    fn kept(&self, page: u64) -> &AtomicU64 {
        &self.kept.words(page * 8, 1)[0]
    }

    /// Takes out what was kept of a captured page: the object is the caller's to free.
    pub(super) fn take_kept(&self, page: u64) -> Content {
        let content = Content::decode(self.kept(page).swap(0, AcqRel));
        if content != Content::Empty {
            self.room.fetch_add(charge_of(content), Relaxed);
        }
        content
    }

    /// Notes that all pages before this one are copied.
    pub(super) fn pass(&self, page: u64) {
        self.done_pages.store(page, Release);
    }

    /// Gives it up, for the first reason that is given.
    pub(super) fn give_up(&self, why: &'static str) {
        self.fail(|| Error::SnapshotGivenUp { why });
    }

    fn fail(&self, error: impl FnOnce() -> Error) {
        self.why.get_or_init(error);
        self.is_given_up.store(true, Release);
    }

    /// Refuses what was copied after it was given up: it may be newer than the cut.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.is_given_up.load(Acquire) {
            return Ok(());
        }
        self.why.get().cloned().map_or(Ok(()), Err)
    }

    pub(super) fn progress(&self) -> CutProgress {
        let unused: u64 = self.credits.iter().map(|credit| credit.load(Relaxed)).sum();
        let unused = unused + self.room.load(Relaxed);
        CutProgress {
            done_pages: self.done_pages.load(Relaxed),
            pages: self.pages,
            kept_bytes: self.kept_max_bytes.saturating_sub(unused),
            kept_max_bytes: self.kept_max_bytes,
            is_basis: self.is_basis,
        }
    }

    /// Takes out all that is kept.
    pub(super) fn drain(&self, mut free: impl FnMut(Content)) {
        let frames = self.pages.div_ceil(FRAME_PAGES as u64);
        for frame in 0..frames {
            let mut bits = self.captured_bits(frame).load(Acquire);
            while bits != 0 {
                let page = frame * FRAME_PAGES as u64 + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                match self.take_kept(page) {
                    Content::Empty => {}
                    content => free(content),
                }
            }
        }
    }

    /// Takes bytes from what one stream, whose lock the caller holds, may keep.
    fn charge(&self, stream: usize, bytes: u64) -> bool {
        let credit = &self.credits[stream];
        let has = credit.load(Relaxed);
        if has >= bytes {
            credit.store(has - bytes, Relaxed);
            return true;
        }
        self.draw(credit, has, bytes)
    }

    fn draw(&self, credit: &AtomicU64, has: u64, bytes: u64) -> bool {
        let lacks = bytes - has;
        let mut room = self.room.load(Relaxed);
        while room >= lacks {
            let drawn = lacks.max(self.credit_bytes.min(room));
            match self
                .room
                .compare_exchange_weak(room, room - drawn, Relaxed, Relaxed)
            {
                Ok(_) => {
                    credit.store(has + drawn - bytes, Relaxed);
                    return true;
                }
                Err(now) => room = now,
            }
        }
        false
    }
}

impl StreamCut {
    /// What a change has to pass first.
    pub(crate) fn gate(&self) -> Option<&Arc<Gate>> {
        self.state.gate.as_ref()
    }

    pub(super) fn new(state: Arc<CutState>, number: usize) -> StreamCut {
        StreamCut { state, number }
    }

    /// Keeps what a locked slot holds, which is about to be replaced, if it is not captured yet. Returns by how many bytes the
    /// books grew for it; `None` where the old object is not kept, and the caller's to free.
    pub(crate) fn keep(&self, page: u64, slot: &SlotGuard<'_>) -> Option<u64> {
        let state = &*self.state;
        if state.is_basis {
            // Behind the walk, too.
            if page < state.pages && !state.is_captured(page) {
                state.set_captured(page);
            }
            return None;
        }
        // Acquire: who sees that a page was passed may free what was copied.
        let passed = page < state.done_pages.load(Acquire);
        if page >= state.pages || passed || state.is_captured(page) {
            return None;
        }
        if let Some(changed) = &state.changed
            && changed.bits(page / FRAME_PAGES as u64) == 0
        {
            return None;
        }
        let content = slot.content();
        let Some(word) = content.encode().filter(|word| *word != 0) else {
            state.set_captured(page);
            return None;
        };
        if state.is_given_up.load(Relaxed) {
            return None;
        }
        if !state.charge(self.number, charge_of(content)) {
            let limit_bytes = state.kept_max_bytes;
            state.fail(|| Error::SnapshotMemory { limit_bytes });
            return None;
        }
        let grown = state.touch(page);
        state.kept(page).store(word, Release);
        state.set_captured(page);
        Some(grown)
    }
}
