//! Finds sequences: greedy but for one byte; the last offset first, then one candidate by a hash of 5 bytes.
//!
//! A page takes some 250 sequences, and each costs about 40 cycles: one mispredicted branch (where the match begins),
//! and a dependency chain from there through its length to the hash of what follows it. So where there is a choice, it is
//! a branch, even where either way is as likely: a prediction lets the processor go on with the chain, while a choice by
//! arithmetic, which is right for lz4, makes it wait for both candidates. That alone made the whole encoder 6 to 7 %
//! faster. What is not on the chain (the repcode, the extension backwards) is arithmetic.
//!
//! Tried and not kept: without the last offset, 4 % less dense. A hash of 6 bytes, 0.3 % less dense on heaps and 1.4 % on
//! files for 1.5 and 4 % of speed; of 4, 3 to 6 % slower and within 0.2 % as dense. Inserting a second position inside of
//! every match: slower, and less dense on heaps; only within short ones, which the look ahead does, is denser by 0.3 to
//! 0.4 %. Looking two bytes ahead, or preferring any longer match there to the first: 1 % slower and within 0.15 % as
//! dense.

use std::hint::select_unpredictable;

use super::super::matches::{BACK, Match, SKIP_BITS, SLOTS, TURN, common_suffix, extend, hash};
use super::super::positions::Positions;

/// The longest block in bytes: larger ones are libzstd's, and every worker has memory for this.
pub(super) const MAX_BLOCK: usize = 0x3000;
/// Positions, a power of two that a mask keeps them below. A search never goes further behind the block.
const SPACE: usize = 0x4000;
/// No block has more sequences, as each covers 4 bytes or more.
pub(super) const MAX_SEQUENCES: usize = 1 << 12;
/// Bytes that the hash takes, and the shortest match that is found by it.
const MIN_MATCH: u32 = 5;
/// No turn begins among the last bytes, so that a match of 4 bytes at the turn's end fits in.
const TAIL: usize = 8;

/// Where the byte behind a position is.
const NEXT: usize = BACK + 1;
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
    pub(super) offset: u16,
}

/// The block, behind [`BACK`] bytes, and before as many that are read where a position may be.
type PaddedBlock = [u8; BACK + SPACE + 40];

const _: () = assert!(MAX_BLOCK / 4 <= MAX_SEQUENCES && MAX_BLOCK < SPACE);

pub(super) struct Search {
    positions: Positions<SLOTS>,
    /// The current block, followed by stale bytes of earlier ones, which change nothing.
    block: Box<PaddedBlock>,
    sequences: Box<[Sequence; MAX_SEQUENCES]>,
    sequence_count: usize,
    literals: Box<[u8; SPACE + SHORT_LITERALS]>,
    literal_count: u16,
}

impl Search {
    pub(super) fn new() -> Search {
        Search {
            positions: Positions::new(),
            block: Box::new([0; _]),
            sequences: Box::new([Sequence::default(); _]),
            sequence_count: 0,
            literals: Box::new([0; _]),
            literal_count: 0,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.positions.memory_bytes()
            + size_of_val(&*self.block)
            + size_of_val(&*self.sequences)
            + size_of_val(&*self.literals)
    }

    /// All literals and all sequences of the last block.
    pub(super) fn found(&self) -> (&[u8], &[Sequence]) {
        let literals = &self.literals[..usize::from(self.literal_count).min(SPACE)];
        (
            literals,
            &self.sequences[..self.sequence_count.min(MAX_SEQUENCES)],
        )
    }

    /// Divides `src`, of at most [`MAX_BLOCK`] bytes, into literals and sequences.
    pub(super) fn run(&mut self, src: &[u8]) {
        self.block[BACK..BACK + src.len()].copy_from_slice(src);
        self.positions.clear();
        // The format's first repeat offsets. An offset never exceeds the position that it is tried at: a match begins at
        // 1 or later and has 4 bytes or more, and only the first two are tried.
        let mut repeat = [1u16, 4, 8];
        let (mut literals_at, mut literals, mut count) = (0u16, 0u16, 0usize);
        if let Some(last) = src.len().checked_sub(TAIL + TURN) {
            // Position 0 is in every slot already.
            let mut at = 1u16;
            while let Some(found) = self.find(at, literals_at, last, repeat) {
                let Match {
                    begin,
                    from,
                    differ,
                } = self.look_ahead(found);
                let length = match differ {
                    0 => self.extend(begin, from, src.len()),
                    _ => (differ.trailing_zeros() / 8) as usize,
                };
                let end = src.len().min(begin + length);
                at = end as u16;
                let before = begin - usize::from(literals_at);
                let back = self.back(begin, from, before);
                let offset = (begin - from) as u16;
                let sequence = sequence(&mut repeat, before - back, offset, end - begin + back);
                self.sequences[count % MAX_SEQUENCES] = sequence;
                count += 1;
                self.keep(src, literals_at, sequence.literals, literals);
                literals += sequence.literals;
                literals_at = at;
                let inside = usize::from(at - 2);
                self.replace(inside, self.word::<BACK>(inside));
            }
        }
        let rest = (src.len() - usize::from(literals_at)) as u16;
        self.keep(src, literals_at, rest, literals);
        self.literal_count = literals + rest;
        self.sequence_count = count;
    }

    /// Finds the first match from `at` on. No turn begins behind `last`.
    #[inline(always)]
    fn find(
        &mut self,
        mut at: u16,
        literals_at: u16,
        last: usize,
        repeat: [u16; 3],
    ) -> Option<Match> {
        if at == literals_at && usize::from(at) <= last {
            let found = self.behind_match(usize::from(at), repeat);
            if found.is_some() {
                return found;
            }
            at += 1;
        }
        while usize::from(at) <= last {
            let repeats = self.repeats(at, repeat[0]);
            let found = self.look::<0, BACK>(at, repeat[0], repeats);
            let found = found.or_else(|| self.look::<1, { BACK + 1 }>(at, repeat[0], repeats));
            let found = found.or_else(|| self.look::<2, { BACK + 2 }>(at, repeat[0], repeats));
            let found = found.or_else(|| self.look::<3, { BACK + 3 }>(at, repeat[0], repeats));
            if found.is_some() {
                return found;
            }
            at += TURN as u16 + ((at - literals_at) >> SKIP_BITS);
        }
        None
    }

    /// Right behind a match: tries the last offset but one, the last one a byte later, and the hash.
    #[inline(always)]
    fn behind_match(&mut self, at: usize, repeat: [u16; 3]) -> Option<Match> {
        let second_from = at - usize::from(repeat[1]);
        let first_from = at - usize::from(repeat[0]);
        let next = self.word::<BACK>(at);
        let from = self.replace(at, next);
        let second = self.word::<BACK>(second_from) ^ next;
        if second as u32 == 0 {
            return Some(Match {
                begin: at,
                from: second_from,
                differ: second,
            });
        }
        let first = self.word::<NEXT>(at) ^ self.word::<NEXT>(first_from);
        if first as u32 == 0 {
            return Some(Match {
                begin: at + 1,
                from: first_from + 1,
                differ: first,
            });
        }
        self.candidate(at, from, next)
    }

    /// Tells which of the positions `at + 1` to `at + 4` repeat 4 bytes at the last offset: the highest bit of each one's
    /// byte. Only the first is exact.
    #[inline(always)]
    fn repeats(&self, at: u16, offset: u16) -> u32 {
        let at = usize::from(at);
        let differ = self.word::<NEXT>(at) ^ self.word::<NEXT>(at - usize::from(offset));
        let two = differ | differ >> 8;
        let four = (two | two >> 16) as u32;
        four.wrapping_sub(0x0101_0101) & !four & 0x8080_8080
    }

    /// Tries the position `at + AHEAD`, whose bytes are at `PLACE`: the last offset a byte later, and the hash.
    #[inline(always)]
    fn look<const AHEAD: usize, const PLACE: usize>(
        &mut self,
        at: u16,
        offset: u16,
        repeats: u32,
    ) -> Option<Match> {
        const { assert!(PLACE == BACK + AHEAD) };
        let begin = usize::from(at) + AHEAD;
        let next = self.word::<PLACE>(usize::from(at));
        let from = self.replace(begin, next);
        if repeats & (0x80 << (8 * AHEAD)) != 0 {
            let (begin, from) = (begin + 1, begin + 1 - usize::from(offset));
            return Some(Match {
                begin,
                from,
                differ: self.word::<BACK>(begin) ^ self.word::<BACK>(from),
            });
        }
        self.candidate(begin, from, next)
    }

    #[inline(always)]
    fn candidate(&self, begin: usize, from: usize, next: u64) -> Option<Match> {
        Match::at_least::<MIN_MATCH>(begin, from, self.word::<BACK>(from) ^ next)
    }

    /// Prefers to a short match one of 8 bytes or more that begins a byte later.
    #[inline(always)]
    fn look_ahead(&mut self, found: Match) -> Match {
        if found.differ != 0 {
            let begin = found.begin + 1;
            let next = self.word::<BACK>(begin);
            let from = self.replace(begin, next);
            if self.word::<BACK>(from) == next {
                return Match {
                    begin,
                    from,
                    differ: 0,
                };
            }
        }
        found
    }

    /// Inserts a position and returns its candidate. Positions are inserted in ascending order.
    #[inline(always)]
    fn replace(&mut self, at: usize, next: u64) -> usize {
        self.positions.replace(hash::<MIN_MATCH>(next), at)
    }

    /// Keeps `count` literals from position `at` on, behind the first `to` literals.
    #[inline(always)]
    fn keep(&mut self, src: &[u8], at: u16, count: u16, to: u16) {
        let (at, count, to) = (usize::from(at), usize::from(count), usize::from(to) % SPACE);
        if count <= SHORT_LITERALS {
            let from: [u8; SHORT_LITERALS] = self.bytes::<BACK, SHORT_LITERALS>(at);
            self.literals[to..to + SHORT_LITERALS].copy_from_slice(&from);
        } else if let (Some(to), Some(from)) = (
            self.literals.get_mut(to..to + count),
            src.get(at..at + count),
        ) {
            to.copy_from_slice(from);
        }
    }

    /// Length of a match that has 8 bytes: up to `limit - begin`, or some bytes more.
    #[inline(always)]
    fn extend(&self, begin: usize, from: usize, limit: usize) -> usize {
        extend(8, begin, from, limit, |at| self.bytes::<BACK, 16>(at))
    }

    /// Equal bytes before both positions, at most `most` and down to the block's beginning. Nothing waits for it. More
    /// than 7 are rare: only where positions were skipped.
    #[inline(always)]
    fn back(&self, begin: usize, from: usize, most: usize) -> usize {
        let most = most.min(from);
        let mut count = common_suffix(self.word::<0>(begin) ^ self.word::<0>(from));
        if count == BACK - 1 {
            while count < most && self.byte(begin - count - 1) == self.byte(from - count - 1) {
                count += 1;
            }
        }
        count.min(most)
    }

    fn byte(&self, at: usize) -> u8 {
        self.block[BACK + at % SPACE]
    }

    /// The bytes at position `at`, which is below [`SPACE`], plus `PLACE - BACK`.
    #[inline(always)]
    fn bytes<const PLACE: usize, const COUNT: usize>(&self, at: usize) -> [u8; COUNT] {
        const { assert!(PLACE + SPACE + COUNT <= size_of::<PaddedBlock>() + 1) };
        let begin = PLACE + at % SPACE;
        *self.block[begin..begin + COUNT]
            .first_chunk()
            .unwrap_or(&[0; COUNT])
    }

    #[inline(always)]
    fn word<const PLACE: usize>(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes::<PLACE, 8>(at))
    }
}

/// Makes a sequence, with a repcode where the offset is a repeat offset, and updates the repeat offsets.
#[inline(always)]
fn sequence(repeat: &mut [u16; 3], literals: usize, offset: u16, length: usize) -> Sequence {
    let [a, b, c] = *repeat;
    // Without literals the repcodes shift: the last offset has none, as a longer match would have been found before, and
    // 3 is the last offset less one.
    let shifted = literals == 0;
    let first = select_unpredictable(shifted, b, a);
    let second = select_unpredictable(shifted, c, b);
    let third = select_unpredictable(shifted, a.wrapping_sub(1), c);
    let mut value = offset + 3;
    value = select_unpredictable(offset == third, 3, value);
    value = select_unpredictable(offset == second, 2, value);
    value = select_unpredictable(offset == first, 1, value);
    let rank = value.min(4) + u16::from(shifted);
    repeat[2] = select_unpredictable(rank >= 3, b, c);
    repeat[1] = select_unpredictable(rank >= 2, a, b);
    repeat[0] = offset;
    Sequence {
        literals: literals as u16,
        length: length as u16,
        offset: value,
    }
}
