//! The walk after a cut: frame by frame, in order, what each page held at that moment.
//!
//! An object is copied under its slot's lock, or is the walker's own where it was kept. What needs no object is read without
//! the lock: whoever replaced it has set the page's bit before. A page on the backing is read without the lock, and the slot
//! looked at again.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::fence;
use std::time::Duration;

use super::dirty::DirtyCut;
use super::{CutCodec, CutOptions, CutState, SnapshotId};
use crate::device::Device;
use crate::table::SLOTS_PER_PAGE;
use crate::word::{Backed, Content};
use crate::{Error, PAGE_SIZE};

/// Pages of a frame.
pub const FRAME_PAGES: usize = 64;
/// Objects freed after which memory is given back.
const GIVE_BACK_BYTES: u64 = 1 << 20;

/// A device at one moment: see [`Device::cut`]. Dropped, it ends, and what was kept for it is freed.
pub struct Cut<'d> {
    device: &'d Device,
    state: Arc<CutState>,
    pub(super) codecs: Vec<CutCodec>,
    pub(super) pause: Duration,
    /// The next page.
    next: u64,
    pages: [Captured; FRAME_PAGES],
    /// What they hold, 4096 bytes for each.
    bytes: Box<[u8]>,
    /// Object bytes freed since memory was given back.
    freed_bytes: u64,
    /// Where changes are tracked.
    dirty: Option<DirtyCut>,
    /// The frames that may have changed, the next ones last.
    changed: Vec<Range<u64>>,
    let_go: bool,
    /// Of a basis: whether a cut has taken its place.
    is_replaced: bool,
}

/// Tells whether a cut can still be finished. It may be asked after that has ended.
#[derive(Clone)]
pub struct CutWatch(Arc<CutState>);

impl CutWatch {
    /// An error says why it was given up.
    pub fn check(&self) -> Result<(), Error> {
        self.0.check()
    }
}

impl std::fmt::Debug for CutWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CutWatch").field(&self.check()).finish()
    }
}

/// What a page is, with its bytes elsewhere.
#[derive(Clone, Copy, Default)]
pub(super) enum Captured {
    #[default]
    Zero,
    Unchanged,
    Same(u64),
    Raw,
    Object {
        codec: u8,
        len: u16,
    },
}

/// 64 pages, or what the device has of them.
pub struct CutFrame<'c> {
    number: u32,
    pages: &'c [Captured],
    bytes: &'c [u8],
}

/// What a page held at the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutPage<'c> {
    /// Not asked for, of [`Cut::next_changed_frame`].
    Unchanged,
    /// Zeros.
    Zero,
    /// It repeats this word, as 8 bytes of which the first is the lowest.
    Same(u64),
    /// Its 4096 bytes.
    Raw(&'c [u8]),
    /// An object of fewer bytes.
    Object {
        /// [`CutCodec::index`] of the codec that made it.
        codec: u8,
        /// The object.
        bytes: &'c [u8],
    },
}

impl<'c> CutFrame<'c> {
    pub(super) fn new(number: u32, pages: &'c [Captured], bytes: &'c [u8]) -> CutFrame<'c> {
        CutFrame {
            number,
            pages,
            bytes,
        }
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its pages, in order.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = CutPage<'c>> + '_ {
        let bytes = self.bytes.chunks(PAGE_SIZE);
        self.pages
            .iter()
            .zip(bytes)
            .map(|(page, bytes)| match *page {
                Captured::Zero => CutPage::Zero,
                Captured::Unchanged => CutPage::Unchanged,
                Captured::Same(word) => CutPage::Same(word),
                Captured::Raw => CutPage::Raw(bytes),
                Captured::Object { codec, len } => CutPage::Object {
                    codec,
                    bytes: &bytes[..usize::from(len)],
                },
            })
    }
}

impl std::fmt::Debug for CutFrame<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CutFrame")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Cut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cut")
            .field("pages", &self.state.pages)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl<'d> Cut<'d> {
    pub(super) fn new(device: &'d Device, state: Arc<CutState>) -> Cut<'d> {
        Cut {
            device,
            state,
            codecs: Vec::new(),
            pause: Duration::ZERO,
            next: 0,
            pages: [Captured::Zero; FRAME_PAGES],
            bytes: vec![0; FRAME_PAGES * PAGE_SIZE].into(),
            freed_bytes: 0,
            dirty: None,
            changed: Vec::new(),
            let_go: false,
            is_replaced: false,
        }
    }

    pub(super) fn device(&self) -> &'d Device {
        self.device
    }

    /// The cut that takes the place of a basis.
    pub(super) fn cut_after_this(&mut self, options: &CutOptions) -> Result<Cut<'d>, Error> {
        let cut = self.device.cut_after(options, Some(&self.state))?;
        self.is_replaced = true;
        Ok(cut)
    }

    /// Takes out what would be recorded or merged at its end, as a death does.
    #[cfg(test)]
    pub(super) fn dirty_for_tests(&mut self) -> DirtyCut {
        self.dirty.take().expect("it tracks")
    }

    pub(super) fn began(&mut self, dirty: Option<DirtyCut>) {
        if let Some(changed) = &self.state.changed {
            self.changed = changed.frames();
            self.changed.reverse();
        }
        self.dirty = dirty;
    }

    /// Pages of the device at the cut.
    pub fn page_count(&self) -> u64 {
        self.state.pages
    }

    /// The codecs that pages may name, by ascending index.
    pub fn codecs(&self) -> &[CutCodec] {
        &self.codecs
    }

    /// Whether it can still be finished: an error says why it was given up.
    pub fn check(&self) -> Result<(), Error> {
        self.state.check()
    }

    /// Tells the same of it while a frame is being written.
    pub fn watch(&self) -> CutWatch {
        CutWatch(self.state.clone())
    }

    /// The next frame that is not all zeros; `None` behind the last.
    ///
    /// [`Error::SnapshotMemory`] and [`Error::SnapshotGivenUp`] where it was given up, [`Error::BackingRead`] where a page
    /// on the backing cannot be read. Nothing of the device is lost then.
    pub fn next_frame(&mut self) -> Result<Option<CutFrame<'_>>, Error> {
        let end = self.state.pages;
        while self.next < end {
            let first = self.next;
            if first.is_multiple_of(SLOTS_PER_PAGE) && self.is_blank(first) {
                self.pass(end.min(first + SLOTS_PER_PAGE));
                continue;
            }
            let count = (end - first).min(FRAME_PAGES as u64) as usize;
            let mut all_zero = true;
            for at in 0..count {
                let captured = self.capture(first + at as u64, at)?;
                all_zero &= matches!(captured, Captured::Zero);
                self.pages[at] = captured;
            }
            // Whoever gives up says so before it publishes what was not kept.
            self.state.check()?;
            self.pass(first + count as u64);
            if !all_zero {
                return Ok(Some(CutFrame {
                    number: (first / FRAME_PAGES as u64) as u32,
                    pages: &self.pages[..count],
                    bytes: &self.bytes,
                }));
            }
        }
        Ok(None)
    }

    /// The next frame of which something may have changed since the snapshot before; `None` behind the last. `needs` is told
    /// its number and which of its pages those are, a bit each, and says which are to be captured.
    ///
    /// As [`Cut::next_frame`]; without [`CutOptions::since`](super::CutOptions::since) there is none.
    pub fn next_changed_frame<E: From<Error>>(
        &mut self,
        mut needs: impl FnMut(u32, u64) -> Result<u64, E>,
    ) -> Result<Option<CutFrame<'_>>, E> {
        let frames = self.state.pages.div_ceil(FRAME_PAGES as u64);
        while let Some(range) = self.changed.last_mut() {
            let Some(frame) = range.next().filter(|frame| *frame < frames) else {
                self.changed.pop();
                continue;
            };
            let first = frame * FRAME_PAGES as u64;
            let count = (self.state.pages - first).min(FRAME_PAGES as u64) as usize;
            let bits = self.state.changed.as_ref();
            let bits = bits.map_or(0, |changed| changed.bits(frame)) & u64::MAX >> (64 - count);
            if bits == 0 {
                continue;
            }
            let needed = needs(frame as u32, bits)?;
            for at in 0..count {
                self.pages[at] = match needed >> at & 1 {
                    1 => self.capture(first + at as u64, at)?,
                    _ => Captured::Unchanged,
                };
            }
            self.state.check()?;
            self.pass(first + count as u64);
            return Ok(Some(CutFrame {
                number: frame as u32,
                pages: &self.pages[..count],
                bytes: &self.bytes,
            }));
        }
        self.pass(self.state.pages);
        Ok(None)
    }

    /// Has all changes fail from now on that waited for a [frozen](super::CutOptions::freeze) cut, and those that are still to
    /// come: the device's contents are another host's. See [`Device::take_back`].
    pub fn hand_over(self) {
        if let Some(gate) = &self.state.gate {
            gate.hand_over();
            // Streams go on asking the gate.
            std::mem::forget(self);
        }
    }

    /// Lets writers be, when nothing more is to be captured: what they overwrite is not kept any more.
    pub fn let_go(&mut self) {
        if !std::mem::replace(&mut self.let_go, true) {
            let device = self.device;
            // When a stream was taken once, nobody keeps anything more.
            device.streams.take_from_each(|stream| stream.end_cut());
            if let Some(gate) = &self.state.gate {
                gate.open();
            }
            device.free_kept(&self.state);
        }
    }

    /// Records that what came of it is safe, under this name: changes are since that from now on. Without
    /// [`CutOptions::track`](super::CutOptions::track) nothing is recorded. A cut that ends without this leaves what was tracked before as it was.
    pub fn record(mut self, name: &SnapshotId) {
        if let Some(dirty) = self.dirty.take() {
            self.device.record_since(&dirty, name);
        }
    }

    /// Whether a page's worth of slots held nothing at the cut.
    fn is_blank(&self, first: u64) -> bool {
        if self.device.table.is_touched(first) {
            return false;
        }
        // With the release of that page of the table: the bits of who emptied its slots are seen.
        fence(Acquire);
        let frames = SLOTS_PER_PAGE.min(self.state.pages - first);
        let frames = frames.div_ceil(FRAME_PAGES as u64);
        let first = first / FRAME_PAGES as u64;
        (first..first + frames).all(|frame| self.state.captured_bits(frame).load(Relaxed) == 0)
    }

    fn pass(&mut self, page: u64) {
        self.next = page;
        self.state.pass(page);
        if self.freed_bytes >= GIVE_BACK_BYTES {
            self.device.give_back(self.freed_bytes, 0);
            self.freed_bytes = 0;
        }
    }

    /// What a page held at the cut; its bytes go to the frame.
    fn capture(&mut self, page: u64, at: usize) -> Result<Captured, Error> {
        loop {
            if self.state.is_captured(page) {
                return match self.state.is_basis {
                    true => Ok(Captured::Zero),
                    false => self.take_kept(page, at),
                };
            }
            let content = self.device.table.peek(page);
            // Where its page of the table was given back meanwhile, as in `is_blank`.
            fence(Acquire);
            match content {
                Content::Empty | Content::Same(_) if self.state.is_captured(page) => {}
                Content::Empty => return Ok(Captured::Zero),
                Content::Same(word) => return Ok(same(word)),
                Content::Backed(backed) => {
                    let still = || self.device.table.peek(page) == content;
                    let out = &mut self.bytes[at * PAGE_SIZE..][..PAGE_SIZE];
                    let read = self.device.copy_backed(page, backed, out, still)?;
                    let slot = self.device.table.lock(page);
                    if read && !self.state.is_captured(page) && slot.content() == content {
                        self.state.set_copied(page);
                        return Ok(of_backed(backed));
                    }
                }
                _ => {
                    let slot = self.device.table.lock(page);
                    if self.state.is_captured(page) {
                        continue;
                    }
                    let out = &mut self.bytes[at * PAGE_SIZE..][..PAGE_SIZE];
                    let content = slot.content();
                    if self.device.copy_locked(&slot, out).is_some() {
                        self.state.set_copied(page);
                        return Ok(captured(content, out));
                    }
                }
            }
        }
    }

    /// What was kept of a page, which is freed.
    fn take_kept(&mut self, page: u64, at: usize) -> Result<Captured, Error> {
        let content = self.state.take_kept(page);
        let out = &mut self.bytes[at * PAGE_SIZE..][..PAGE_SIZE];
        match content {
            Content::Empty => return Ok(Captured::Zero),
            Content::Same(word) => return Ok(same(word)),
            Content::Backed(backed) => {
                let read = self.device.copy_backed(page, backed, out, || true);
                self.device.free(content);
                read?;
                return Ok(of_backed(backed));
            }
            _ => {}
        }
        if let Some(len) = self.device.copy_and_free(content, out) {
            self.freed_bytes += len as u64;
        }
        Ok(captured(content, out))
    }
}

pub(super) fn same(word: u64) -> Captured {
    match u64::from_le_bytes(word.to_ne_bytes()) {
        0 => Captured::Zero,
        word => Captured::Same(word),
    }
}

pub(super) fn of_backed(backed: Backed) -> Captured {
    match backed.is_huge() {
        true => Captured::Raw,
        false => Captured::Object {
            codec: backed.algorithm,
            len: backed.len,
        },
    }
}

/// What a page with an object is, whose bytes are these.
pub(super) fn captured(content: Content, bytes: &[u8]) -> Captured {
    match content {
        Content::SameObject { .. } => {
            let word = bytes.first_chunk().copied();
            same(word.map_or(0, u64::from_ne_bytes))
        }
        Content::Compressed { algorithm, len, .. } => Captured::Object {
            codec: algorithm,
            len,
        },
        Content::Shared { algorithm, len, .. } if !content.is_huge() => Captured::Object {
            codec: algorithm,
            len,
        },
        _ => Captured::Raw,
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if self.is_replaced {
            return;
        }
        let device = self.device;
        self.let_go();
        if let Some(dirty) = self.dirty.take() {
            device.merge_dirty(&dirty);
        }
        device.cut.book_bytes.store(0, Relaxed);
        *device.cut.lock() = None;
        device.tell_books();
        device.give_all_back();
    }
}
