//! Divides a block into sequences, by the [search](super::super::search) that lzhs has as well.
//!
//! Tried and not kept: without the last offset, 4 % less dense. A hash of 6 bytes, 0.3 % less dense on heaps and 1.4 % on
//! files for 1.5 and 4 % of speed; of 4, 3 to 6 % slower and within 0.2 % as dense. Inserting a second position inside of
//! every match: slower, and less dense on heaps; only within short ones, which looking ahead does, is denser by 0.3 to
//! 0.4 %. Looking two bytes ahead, or preferring any longer match there to the first: 1 % slower and within 0.15 % as
//! dense.

use std::hint::select_unpredictable;

use super::super::matches::{BACK, SKIP_BITS};
use super::super::search::{self, PaddedBlock, Primed, Sink};

pub(super) use super::super::search::room;

/// The longest block in bytes: larger ones are libzstd's, and every worker has memory for this.
pub(super) const MAX_BLOCK: usize = 0x3000;
/// Positions of a search without a dictionary: a power of two that a mask keeps them below.
pub(super) const SPACE: usize = 0x4000;
/// Its slots.
pub(super) const SLOTS: usize = super::super::matches::SLOTS;
/// Room for all literals, as a mask keeps them below it.
const LITERALS: usize = 0x4000;
/// No block has more sequences, as each covers 4 bytes or more.
pub(super) const MAX_SEQUENCES: usize = 1 << 12;
/// Up to so many literals are kept with one copy of as many bytes.
const SHORT_LITERALS: usize = 16;

/// Literals, then a match.
#[derive(Clone, Copy, Default)]
pub(super) struct Sequence {
    /// Literals_Length.
    pub(super) literals: u16,
    /// Match_Length.
    pub(super) length: u16,
    /// Offset_Value: 1 to 3 for a repeat offset (repcode), otherwise the offset plus 3.
    pub(super) offset: u32,
}

const _: () = assert!(MAX_BLOCK / 4 <= MAX_SEQUENCES && MAX_BLOCK < SPACE && MAX_BLOCK < LITERALS);

/// The format's first repeat offsets.
pub(super) const FIRST_REPEAT: [u32; 3] = [1, 4, 8];

pub(super) struct SequenceSearch<const SPACE: usize, const ROOM: usize, const TABLE: usize> {
    search: Box<search::Search<SPACE, ROOM, TABLE>>,
    lists: Box<Lists>,
    sequences: usize,
    literals: usize,
}

/// Sequences and literals of a block: one allocation, so that a register refers to all of it.
struct Lists {
    sequences: [Sequence; MAX_SEQUENCES],
    literals: [u8; LITERALS + SHORT_LITERALS],
}

/// What a dictionary has for a search.
pub(super) struct Before<const TABLE: usize> {
    pub(super) primed: Primed<TABLE>,
    /// The repeat offsets that a block begins with.
    pub(super) repeat: [u32; 3],
}

impl<const SPACE: usize, const ROOM: usize, const TABLE: usize> SequenceSearch<SPACE, ROOM, TABLE> {
    /// With a dictionary's content, which each block has before it. Both together have at most `SPACE` bytes.
    pub(super) fn new(content: &[u8]) -> Self {
        let mut search = search::Search::new();
        search.load(content);
        SequenceSearch {
            search,
            lists: Box::new(Lists {
                sequences: [Sequence::default(); _],
                literals: [0; _],
            }),
            sequences: 0,
            literals: 0,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.search) + size_of_val(&*self.lists)
    }

    /// All literals and all sequences of the last block.
    pub(super) fn found(&self) -> (&[u8], &[Sequence]) {
        (
            &self.lists.literals[..self.literals.min(LITERALS)],
            &self.lists.sequences[..self.sequences.min(MAX_SEQUENCES)],
        )
    }

    /// Divides `src`, of at most [`MAX_BLOCK`] bytes, into literals and sequences. `before` is that of the content.
    pub(super) fn run(&mut self, before: Option<&Before<TABLE>>, src: &[u8]) {
        let keeper = Keeper {
            src,
            begin: before.map_or(0, |before| before.primed.len()),
            lists: &mut self.lists,
            sequences: 0,
            literals: 0,
            repeat: before.map_or(FIRST_REPEAT, |before| before.repeat),
        };
        let primed = before.map(|before| &before.primed);
        let Keeper {
            sequences,
            literals,
            ..
        } = self.search.run(primed, src, keeper);
        (self.sequences, self.literals) = (sequences, literals);
    }
}

/// Keeps sequences and literals.
struct Keeper<'a> {
    src: &'a [u8],
    /// Its first position.
    begin: usize,
    lists: &'a mut Lists,
    sequences: usize,
    literals: usize,
    repeat: [u32; 3],
}

impl<const SPACE: usize, const ROOM: usize> Sink<SPACE, ROOM> for Keeper<'_> {
    const LOOKS_AHEAD: bool = true;
    const SKIP_BITS: u32 = SKIP_BITS;

    #[inline(always)]
    fn take(&mut self, block: &PaddedBlock<SPACE, ROOM>, found: search::FoundSequence) -> bool {
        let offset = found.offset as u32;
        let sequence = sequence(&mut self.repeat, found.literals, offset, found.length);
        self.lists.sequences[self.sequences % MAX_SEQUENCES] = sequence;
        self.sequences += 1;
        self.keep(block, found.at, found.literals);
        true
    }

    #[inline(always)]
    fn end(&mut self, block: &PaddedBlock<SPACE, ROOM>, at: usize, literals: usize, _: usize) {
        self.keep(block, at, literals);
    }
}

impl Keeper<'_> {
    /// Keeps `count` literals from position `at` on.
    #[inline(always)]
    fn keep<const SPACE: usize, const ROOM: usize>(
        &mut self,
        block: &PaddedBlock<SPACE, ROOM>,
        at: usize,
        count: usize,
    ) {
        let to = self.literals % LITERALS;
        if count <= SHORT_LITERALS {
            let from = block.bytes::<BACK, SHORT_LITERALS>(at);
            self.lists.literals[to..to + SHORT_LITERALS].copy_from_slice(&from);
        } else if let (Some(to), Some(from)) = (
            self.lists.literals.get_mut(to..to + count),
            self.src.get(at - self.begin..at - self.begin + count),
        ) {
            to.copy_from_slice(from);
        }
        self.literals += count;
    }
}

/// Makes a sequence, with a repcode where the offset is a repeat offset, and updates the repeat offsets.
#[inline(always)]
fn sequence(repeat: &mut [u32; 3], literals: usize, offset: u32, length: usize) -> Sequence {
    let [a, b, c] = *repeat;
    // Without literals the repcodes shift: the last offset has none, as a longer match would have been found before (a
    // dictionary's is a new offset), and 3 is the last offset less one.
    let shifted = literals == 0;
    let first = select_unpredictable(shifted, b, a);
    let second = select_unpredictable(shifted, c, b);
    let third = select_unpredictable(shifted, a.wrapping_sub(1), c);
    let mut value = offset + 3;
    value = select_unpredictable(offset == third, 3, value);
    value = select_unpredictable(offset == second, 2, value);
    value = select_unpredictable(offset == first, 1, value);
    let rank = value.min(4) + u32::from(shifted);
    repeat[2] = select_unpredictable(rank >= 3, b, c);
    repeat[1] = select_unpredictable(rank >= 2, a, b);
    repeat[0] = offset;
    Sequence {
        literals: literals as u16,
        length: length as u16,
        offset: value,
    }
}
