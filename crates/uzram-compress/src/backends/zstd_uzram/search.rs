//! Finds sequences: greedy but for one byte; the last match's distance first, then one candidate by a hash of 5 bytes.
//!
//! A page takes some 250 sequences, and each costs about 40 cycles: one branch that the processor guesses wrong (where
//! the match begins), and a chain from there through its length to the hash of what follows it. So where there is a
//! choice, it is a branch, also where either way is as likely: a guess lets the processor go on with the chain, while
//! a choice by arithmetic, which is right for lz4, makes it wait for both candidates. That alone made all of the encoder
//! 6 to 7 % faster. What is not on the chain (how a sequence is named, how far it reaches back) is arithmetic.
//!
//! What was tried and not kept: without the last match's distance, 4 % less dense. A hash of 6 bytes, 0.3 % less dense
//! on heaps and 1.4 % on files for 1.5 and 4 % of speed; of 4, 3 to 6 % slower and within 0.2 % as dense. Noting a second
//! position inside of every match: slower, and less dense on heaps; only within short ones, which the look ahead does,
//! is denser by 0.3 to 0.4 %. Looking two bytes ahead, or preferring any longer match there to the first: 1 % slower and
//! within 0.15 % as dense.

use std::hint::select_unpredictable;

use super::super::positions::Positions;

/// The longest block: for more than pages there is libzstd, and every worker has memory for it.
pub(super) const MOST: usize = 0x3000;
/// Positions, a power of two that a mask keeps them below. A search never goes further behind the block.
const SPACE: usize = 0x4000;
/// No block has more, as each stands for 4 bytes and more.
pub(super) const MOST_SEQUENCES: usize = 1 << 12;
/// As many slots as a page has positions.
const SLOTS: usize = 4096;
/// Bytes that the hash takes, and the shortest match that is found by it.
const MIN_MATCH: u32 = 5;
/// No turn begins among the last bytes, so that a match, of 4 bytes and at the turn's end, fits in.
const TAIL: usize = 8;
/// Positions that one turn of the search looks at.
const TURN: usize = 4;
/// After every so many bytes without a match, a turn leaves one more position out.
const SKIP_BITS: u32 = 6;

/// Bytes before a position that are compared with those before its candidate.
const BACK: usize = 8;
/// Where the byte behind a position is.
const NEXT: usize = BACK + 1;
/// So many literals and fewer are kept with one copy of as many bytes.
const LITERALS: usize = 16;

/// Literals, then a match.
#[derive(Clone, Copy, Default)]
pub(super) struct Sequence {
    pub(super) literals: u16,
    pub(super) length: u16,
    /// 1 to 3 for an offset that was there lately, others and 3.
    pub(super) offset: u16,
}

/// The block, behind [`BACK`] bytes, and before as many that are read where a position may be.
type Bytes = [u8; BACK + SPACE + 40];

const _: () = assert!(MOST / 4 <= MOST_SEQUENCES && MOST < SPACE);

pub(super) struct Search {
    positions: Positions<SLOTS>,
    /// The block under way and, behind it, bytes of earlier ones, which change nothing.
    block: Box<Bytes>,
    sequences: Box<[Sequence; MOST_SEQUENCES]>,
    sequence_count: usize,
    literals: Box<[u8; SPACE + LITERALS]>,
    literal_count: u16,
}

/// A position, one whose next bytes are the same, and how the 8 bytes of both differ.
struct Match {
    begin: usize,
    from: usize,
    differ: u64,
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

    /// All literals of the block, and all sequences.
    pub(super) fn found(&self) -> (&[u8], &[Sequence]) {
        let literals = &self.literals[..usize::from(self.literal_count).min(SPACE)];
        (
            literals,
            &self.sequences[..self.sequence_count.min(MOST_SEQUENCES)],
        )
    }

    /// Finds them in `src`, which is not longer than [`MOST`].
    pub(super) fn run(&mut self, src: &[u8]) {
        self.block[BACK..BACK + src.len()].copy_from_slice(src);
        self.positions.clear();
        // What the format begins with. An offset is never more than the position that it is asked for: a match begins
        // at 1 or later and is of 4 bytes or more, and only the first two are asked for.
        let mut recent = [1u16, 4, 8];
        let (mut since, mut literals, mut count) = (0u16, 0u16, 0usize);
        if let Some(last) = src.len().checked_sub(TAIL + TURN) {
            // Position 0 is in every slot already.
            let mut at = 1u16;
            while let Some(found) = self.find(at, since, last, recent) {
                let Match {
                    begin,
                    from,
                    differ,
                } = self.ahead(found);
                let length = match differ {
                    0 => self.beyond(begin, from, src.len()),
                    _ => (differ.trailing_zeros() / 8) as usize,
                };
                let end = src.len().min(begin + length);
                at = end as u16;
                let before = begin - usize::from(since);
                let back = self.back(begin, from, before);
                let sequence = sequence(
                    &mut recent,
                    before - back,
                    (begin - from) as u16,
                    end - begin + back,
                );
                self.sequences[count % MOST_SEQUENCES] = sequence;
                count += 1;
                self.keep(src, since, sequence.literals, literals);
                literals += sequence.literals;
                since = at;
                self.replace(usize::from(at - 2), self.word::<BACK>(usize::from(at - 2)));
            }
        }
        let rest = (src.len() - usize::from(since)) as u16;
        self.keep(src, since, rest, literals);
        self.literal_count = literals + rest;
        self.sequence_count = count;
    }

    /// The first match from `at` on, where no turn begins behind `last`.
    #[inline(always)]
    fn find(&mut self, mut at: u16, since: u16, last: usize, recent: [u16; 3]) -> Option<Match> {
        if at == since && usize::from(at) <= last {
            let found = self.behind(usize::from(at), recent);
            if found.is_some() {
                return found;
            }
            at += 1;
        }
        while usize::from(at) <= last {
            let again = self.again(at, recent[0]);
            let found = self.look::<0, BACK>(at, recent[0], again);
            let found = found.or_else(|| self.look::<1, { BACK + 1 }>(at, recent[0], again));
            let found = found.or_else(|| self.look::<2, { BACK + 2 }>(at, recent[0], again));
            let found = found.or_else(|| self.look::<3, { BACK + 3 }>(at, recent[0], again));
            if found.is_some() {
                return found;
            }
            at += TURN as u16 + ((at - since) >> SKIP_BITS);
        }
        None
    }

    /// Right behind a match: at the distance before the last one, at the last one behind one byte, and by the hash.
    #[inline(always)]
    fn behind(&mut self, at: usize, recent: [u16; 3]) -> Option<Match> {
        let once_from = at - usize::from(recent[1]);
        let again_from = at - usize::from(recent[0]);
        let next = self.word::<BACK>(at);
        let from = self.replace(at, next);
        let once = self.word::<BACK>(once_from) ^ next;
        if once as u32 == 0 {
            return Some(Match {
                begin: at,
                from: once_from,
                differ: once,
            });
        }
        let again = self.word::<NEXT>(at) ^ self.word::<NEXT>(again_from);
        if again as u32 == 0 {
            return Some(Match {
                begin: at + 1,
                from: again_from + 1,
                differ: again,
            });
        }
        self.candidate(at, from, next)
    }

    /// Which of the positions `at + 1` to `at + 4` have 4 bytes as at the distance of the last match: of each one's byte
    /// the highest bit. Only the first one is sure.
    #[inline(always)]
    fn again(&self, at: u16, recent: u16) -> u32 {
        let at = usize::from(at);
        let differ = self.word::<NEXT>(at) ^ self.word::<NEXT>(at - usize::from(recent));
        let two = differ | differ >> 8;
        let four = (two | two >> 16) as u32;
        four.wrapping_sub(0x0101_0101) & !four & 0x8080_8080
    }

    /// The position `AHEAD` of `at`, whose bytes are at `PLACE`: at the last match's distance behind one byte, and by the
    /// hash.
    #[inline(always)]
    fn look<const AHEAD: usize, const PLACE: usize>(
        &mut self,
        at: u16,
        recent: u16,
        again: u32,
    ) -> Option<Match> {
        const { assert!(PLACE == BACK + AHEAD) };
        let begin = usize::from(at) + AHEAD;
        let next = self.word::<PLACE>(usize::from(at));
        let from = self.replace(begin, next);
        if again & (0x80 << (8 * AHEAD)) != 0 {
            let (begin, from) = (begin + 1, begin + 1 - usize::from(recent));
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
        let differ = self.word::<BACK>(from) ^ next;
        (differ << (64 - 8 * MIN_MATCH) == 0).then_some(Match {
            begin,
            from,
            differ,
        })
    }

    /// Instead of a short match one of 8 bytes or more that begins a byte later.
    #[inline(always)]
    fn ahead(&mut self, found: Match) -> Match {
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

    /// Notes a position and its bytes; the one that was noted before. Positions are noted in ascending order.
    #[inline(always)]
    fn replace(&mut self, at: usize, next: u64) -> usize {
        let factor = 0x9E37_79B1_85EB_CA87 << (64 - 8 * MIN_MATCH);
        self.positions
            .replace((next.wrapping_mul(factor) >> 32) as u32, at)
    }

    /// Keeps `count` literals from `at` on, as those from `to` on.
    #[inline(always)]
    fn keep(&mut self, src: &[u8], at: u16, count: u16, to: u16) {
        let (at, count, to) = (usize::from(at), usize::from(count), usize::from(to) % SPACE);
        if count <= LITERALS {
            let from: [u8; LITERALS] = self.bytes::<BACK, LITERALS>(at);
            self.literals[to..to + LITERALS].copy_from_slice(&from);
        } else if let (Some(to), Some(from)) = (
            self.literals.get_mut(to..to + count),
            src.get(at..at + count),
        ) {
            to.copy_from_slice(from);
        }
    }

    /// How many bytes are the same where 8 are: up to `limit`, or some bytes more.
    #[inline(always)]
    fn beyond(&self, begin: usize, from: usize, limit: usize) -> usize {
        let mut count = 8;
        while begin + count < limit {
            let at = |at| u128::from_le_bytes(self.bytes::<BACK, 16>(at + count));
            let differ = at(begin) ^ at(from);
            if differ != 0 {
                return count + (differ.trailing_zeros() / 8) as usize;
            }
            count += 16;
        }
        count
    }

    /// How many bytes before are the same, up to `most` and the block's beginning. Nothing waits for it. More than 7 are
    /// rare: only where positions were left out.
    #[inline(always)]
    fn back(&self, begin: usize, from: usize, most: usize) -> usize {
        let most = most.min(from);
        let differ = self.word::<0>(begin) ^ self.word::<0>(from);
        let mut count = ((differ | 1).leading_zeros() / 8) as usize;
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

    /// The bytes at `at`, which is within the space, where `PLACE` is [`BACK`], or so many less or more.
    #[inline(always)]
    fn bytes<const PLACE: usize, const COUNT: usize>(&self, at: usize) -> [u8; COUNT] {
        const { assert!(PLACE + SPACE + COUNT <= size_of::<Bytes>() + 1) };
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

/// A match as the format has it: an offset of late by its number.
#[inline(always)]
fn sequence(recent: &mut [u16; 3], literals: usize, offset: u16, length: usize) -> Sequence {
    let [a, b, c] = *recent;
    // Without literals the last offset has no number, as a longer match would have been found before, but one less has.
    let nameless = literals == 0;
    let first = select_unpredictable(nameless, b, a);
    let second = select_unpredictable(nameless, c, b);
    let third = select_unpredictable(nameless, a.wrapping_sub(1), c);
    let mut name = offset + 3;
    name = select_unpredictable(offset == third, 3, name);
    name = select_unpredictable(offset == second, 2, name);
    name = select_unpredictable(offset == first, 1, name);
    let rank = name.min(4) + u16::from(nameless);
    recent[2] = select_unpredictable(rank >= 3, b, c);
    recent[1] = select_unpredictable(rank >= 2, a, b);
    recent[0] = offset;
    Sequence {
        literals: literals as u16,
        length: length as u16,
        offset: name,
    }
}
