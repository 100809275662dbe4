//! A device in which nothing changes, frame by frame in any order: what another host still needs of one that was handed over
//! before all of it had been copied.
//!
//! The gate is closed, so no word is replaced while it is read. Nothing is captured or kept here: a frame may be read again.

use std::ops::Range;

use super::walk::{Captured, CutFrame, FRAME_PAGES, captured, of_backed, same};
use super::{Cut, CutCodec, Gate};
use crate::device::Device;
use crate::word::Content;
use crate::{Error, PAGE_SIZE};

/// Reads frames of a device that is frozen or was handed over: see [`Device::frozen_frames`].
pub struct FrozenFrames<'d> {
    device: &'d Device,
    codecs: Vec<CutCodec>,
    pages: [Captured; FRAME_PAGES],
    /// What they hold, 4096 bytes for each.
    bytes: Box<[u8]>,
}

impl std::fmt::Debug for FrozenFrames<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrozenFrames").finish_non_exhaustive()
    }
}

impl FrozenFrames<'_> {
    /// The codecs that pages may name, by ascending index.
    pub fn codecs(&self) -> &[CutCodec] {
        &self.codecs
    }

    /// Pages of the device.
    pub fn page_count(&self) -> u64 {
        self.device.table.pages()
    }

    /// The frame of this number, also one that is all zeros.
    ///
    /// [`Error::OutOfRange`] beyond the device's end, [`Error::NotFrozen`] where contents may change again,
    /// [`Error::BackingRead`] where a page on the backing cannot be read.
    pub fn frame(&mut self, number: u32) -> Result<CutFrame<'_>, Error> {
        let first = u64::from(number) * FRAME_PAGES as u64;
        let count = self.page_count().saturating_sub(first);
        let count = count.min(FRAME_PAGES as u64) as usize;
        let page = PAGE_SIZE as u64;
        self.device
            .check_range(first * page, (count.max(1) * PAGE_SIZE) as u64)?;
        for at in 0..count {
            self.pages[at] = self.copy(first + at as u64, at)?;
        }
        // Behind the copies: what was copied is what the device holds for good.
        self.device.frozen_gate()?;
        Ok(CutFrame::new(number, &self.pages[..count], &self.bytes))
    }

    fn copy(&mut self, page: u64, at: usize) -> Result<Captured, Error> {
        let out = &mut self.bytes[at * PAGE_SIZE..][..PAGE_SIZE];
        loop {
            let content = self.device.table.peek(page);
            match content {
                Content::Empty => return Ok(Captured::Zero),
                Content::Same(word) => return Ok(same(word)),
                Content::Remote => return Err(Error::RemotePages { pages: 1 }),
                Content::Backed(backed) => {
                    let still = || self.device.table.peek(page) == content;
                    if self.device.copy_backed(page, backed, out, still)? {
                        return Ok(of_backed(backed));
                    }
                }
                _ => {
                    let slot = self.device.table.lock(page);
                    let content = slot.content();
                    if self.device.copy_locked(&slot, out).is_some() {
                        return Ok(captured(content, out));
                    }
                }
            }
        }
    }
}

impl Device {
    /// The gate of a device in which nothing changes.
    fn frozen_gate(&self) -> Result<std::sync::Arc<Gate>, Error> {
        let gate = self.cut.get().and_then(|cut| cut.gate.clone());
        gate.filter(|gate| !gate.is_open()).ok_or(Error::NotFrozen)
    }

    /// Reads frames in any order, while nothing changes: with a [frozen](super::CutOptions::freeze) cut, or after that was
    /// [handed over](Cut::hand_over).
    ///
    /// [`Error::NotFrozen`] else.
    pub fn frozen_frames(&self) -> Result<FrozenFrames<'_>, Error> {
        self.frozen_gate()?;
        Ok(FrozenFrames {
            device: self,
            codecs: self.codecs.at_cut(&self.counters),
            pages: [Captured::Zero; FRAME_PAGES],
            bytes: vec![0; FRAME_PAGES * PAGE_SIZE].into(),
        })
    }

    /// Whether the contents are another host's.
    pub fn is_handed_over(&self) -> bool {
        self.frozen_gate().is_ok_and(|gate| gate.is_handed_over())
    }

    /// Has contents change again of a device that was handed over: nobody else uses them, as the caller knows. Otherwise nothing
    /// happens.
    pub fn take_back(&self) {
        let Ok(gate) = self.frozen_gate() else { return };
        if gate.is_handed_over()
            && let Some(state) = self.cut.get()
        {
            gate.take_back();
            // As if the cut that was forgotten then ended now.
            drop(Cut::new(self, state));
            self.note_whether_remote();
        }
    }
}

impl Cut<'_> {
    /// The pages that hold something, in order, some of them zeros: of a [frozen](super::CutOptions::freeze) cut, in which
    /// they stay so.
    pub fn held_pages(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let (table, end) = (&self.device().table, self.page_count());
        let held = move |page: &u64| table.peek(*page) != Content::Empty;
        let mut pages = table.touched(0, end).filter(held).peekable();
        std::iter::from_fn(move || {
            let first = pages.next()?;
            let mut run = first..first + 1;
            while pages.next_if_eq(&run.end).is_some() {
                run.end += 1;
            }
            Some(run)
        })
    }

    /// As [`Cut::hand_over`], and reads fail from now on as well: the other host has the contents before all of them were
    /// copied, and changes them. [`Device::frozen_frames`] still reads what was there, and
    /// [`Device::take_back`] takes it back.
    pub fn hand_over_unread(self) {
        let device = self.device();
        self.hand_over();
        device
            .is_lazy
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
