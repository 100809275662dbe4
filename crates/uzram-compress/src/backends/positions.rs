//! Where each hash was seen last: the table behind our own encoders.
//!
//! It is made for pages: 16 bits a slot, and no clearing from page to page. Positions are stored with an offset that
//! grows from input to input; what lies below the present offset is of an earlier one and counts as empty. The
//! slots are cleared when the offset has used up 16 bits, once in 15 pages. The same input therefore always finds
//! the same positions, whatever came before.

/// The most positions that one [`Positions::begin`] covers.
pub(super) const CHUNK: usize = 0x7FF8;

/// A table of `1 << BITS` slots, given as an array length, which a constant expression cannot be.
pub(super) struct Positions<const SLOTS: usize> {
    slots: Box<[u16; SLOTS]>,
    /// Added to positions; never 0, which is an empty slot.
    offset: usize,
    /// The first offset that no slot uses.
    next: usize,
}

impl<const SLOTS: usize> Positions<SLOTS> {
    pub(super) fn new() -> Self {
        Self {
            slots: Box::new([0; SLOTS]),
            offset: 1,
            next: 1,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }

    /// Begins an input of `len` positions, at most [`CHUNK`]: what the table holds now counts as empty, however
    /// the last input ended.
    pub(super) fn begin(&mut self, len: usize) {
        self.offset = self.next;
        if self.offset + len > usize::from(u16::MAX) {
            self.slots.fill(0);
            self.offset = 1;
        }
        self.next = self.offset + len;
    }

    /// Notes position `at` of this input for the upper bits of `hash`; the position that was noted before.
    #[inline(always)]
    pub(super) fn replace(&mut self, hash: u32, at: usize) -> Option<usize> {
        let slot = &mut self.slots[(hash >> (32 - SLOTS.ilog2())) as usize];
        let before = usize::from(*slot);
        *slot = (self.offset + at) as u16;
        before.checked_sub(self.offset)
    }

    /// [`replace`](Positions::replace) without the question.
    #[inline(always)]
    pub(super) fn note(&mut self, hash: u32, at: usize) {
        self.slots[(hash >> (32 - SLOTS.ilog2())) as usize] = (self.offset + at) as u16;
    }
}
