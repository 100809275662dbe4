//! The hash table of our own encoders: for each hash the last position that had it.
//!
//! It is made for pages and for the processor's first cache: 16 bits a slot and about as many slots as a page has
//! positions. It is cleared for every input. Telling an earlier input's positions apart instead, by an offset that
//! grows, made lzo slower when it was tried: every slot then is a comparison that no processor predicts.

/// The longest input of one table, for an encoder that keeps its distances below 32768.
#[cfg(any(feature = "lzo", feature = "lzo-rle", feature = "842"))]
pub(super) const CHUNK: usize = 0x7FF8;

/// A table of a power of two of slots.
pub(super) struct Positions<const SLOTS: usize> {
    slots: Box<[u16; SLOTS]>,
}

impl<const SLOTS: usize> Positions<SLOTS> {
    pub(super) fn new() -> Self {
        Self {
            slots: Box::new([0; SLOTS]),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }

    /// Begins an input: every slot holds position 0.
    pub(super) fn clear(&mut self) {
        self.slots.fill(0);
    }

    /// Inserts position `at`, of 16 bits, under the upper bits of `hash`. Returns the candidate: the position that
    /// was there before, or 0. The caller compares the bytes at both.
    #[inline(always)]
    pub(super) fn replace(&mut self, hash: u32, at: usize) -> usize {
        let before = self.last(hash);
        self.slots[(hash >> (32 - SLOTS.ilog2())) as usize] = at as u16;
        before
    }

    /// The position that was inserted last for `hash`, or 0.
    #[inline(always)]
    pub(super) fn last(&self, hash: u32) -> usize {
        usize::from(self.slots[(hash >> (32 - SLOTS.ilog2())) as usize])
    }
}
