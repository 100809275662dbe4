//! The match search of zstd-uzram and lzhs: greedy; the recent offsets first, then one candidate by a hash of 5 bytes.
//!
//! A page takes some 250 sequences. Each costs a mispredicted branch where its match begins, a dependency chain from there
//! through its length to the hash of what follows, and some hundred instructions beside. So where a match begins is a
//! branch for each candidate: a prediction lets the processor go on with the chain, while a choice by arithmetic, which
//! is right for a match's length, makes it wait for all candidates. The words that a length below [`DIRECT`] bytes needs
//! are loaded all at once.
//!
//! What is made of a sequence is the [`Sink`]'s: it is inlined into the loop, where its work hides behind mispredicted
//! branches.
//!
//! A block may have a dictionary's content before it, [`Primed`] once for all: positions count from the content's
//! beginning, and the table of hashes is copied, which takes some hundredths of a page's time. So the loop is the same.
//! A second table to look positions up in would cost every position a load and a branch.

use std::hint::select_unpredictable;

use super::matches::{BACK, Match, SLOTS, TURN, common_suffix, extend, hash};

/// Bytes that the hash takes, and the shortest match that is found by it.
const MIN_MATCH: u32 = 5;
/// No turn begins among the last bytes, so that a match of 4 bytes at the turn's end fits in.
const TAIL: usize = 8;
/// A match of fewer bytes is measured without a loop.
const DIRECT: usize = 24;
/// The offsets that are tried at first: the last one, and the one before. A match begins at 1 or later and has 4 bytes or
/// more, so that no offset exceeds the position that it is tried at.
const FIRST_OFFSETS: [usize; 2] = [1, 4];
/// Bytes that are read behind a position, and behind the byte after it.
const BEHIND: usize = DIRECT + 16;

/// Copies a block to where there is room for it, in two halves: from 4096 bytes on C libraries copy by an instruction that
/// takes several times as long where the addresses do not suit it.
#[inline(always)]
pub(super) fn copy(from: &[u8], to: &mut [u8]) {
    let half = from.len() / 2;
    let (first, second) = from.split_at(half);
    to[..half].copy_from_slice(first);
    to[half..from.len()].copy_from_slice(second);
}

/// Slots that are copied at once: fewer bytes than those for which [`copy`] does without that instruction.
const PIECE: usize = 512;

/// Where the byte behind a position is.
const NEXT: usize = BACK + 1;

/// A block of at most `SPACE` bytes, a power of two, behind [`BACK`] bytes of zeros and before as many as are
/// read where a position may be. Positions are taken modulo `SPACE`, so that no read needs a check.
pub(super) struct PaddedBlock<const SPACE: usize, const ROOM: usize>([u8; ROOM]);

/// Bytes of a [`PaddedBlock`].
pub(super) const fn room(space: usize) -> usize {
    BACK + space + BEHIND
}

impl<const SPACE: usize, const ROOM: usize> PaddedBlock<SPACE, ROOM> {
    /// The bytes at position `at` plus `PLACE - BACK`.
    #[inline(always)]
    pub(super) fn bytes<const PLACE: usize, const COUNT: usize>(&self, at: usize) -> [u8; COUNT] {
        const { assert!(SPACE.is_power_of_two() && PLACE + SPACE + COUNT <= ROOM + 1) };
        let begin = PLACE + at % SPACE;
        *self.0[begin..begin + COUNT]
            .first_chunk()
            .unwrap_or(&[0; COUNT])
    }

    #[inline(always)]
    fn word<const PLACE: usize>(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes::<PLACE, 8>(at))
    }

    fn byte(&self, at: usize) -> u8 {
        self.0[BACK + at % SPACE]
    }
}

/// Literals, then a match.
pub(super) struct FoundSequence {
    /// The position of the first literal.
    pub(super) at: usize,
    pub(super) literals: usize,
    pub(super) offset: usize,
    pub(super) length: usize,
    /// The offset of the match before, and the one before that differed from it.
    #[cfg_attr(
        not(feature = "lzhs"),
        expect(dead_code, reason = "zstd-uzram keeps its own")
    )]
    pub(super) recent: [usize; 2],
}

/// What takes the sequences.
pub(super) trait Sink<const SPACE: usize, const ROOM: usize> {
    /// Whether a match of 8 bytes or more that begins a byte later is preferred to a shorter one.
    const LOOKS_AHEAD: bool;
    /// After every `1 << SKIP_BITS` bytes without a match, a turn skips one more position.
    const SKIP_BITS: u32;
    /// Takes a sequence. Whether there is room for another.
    fn take(&mut self, block: &PaddedBlock<SPACE, ROOM>, sequence: FoundSequence) -> bool;
    /// Takes the last literals, from position `at` on; `offset` is that of the last match.
    fn end(&mut self, block: &PaddedBlock<SPACE, ROOM>, at: usize, literals: usize, offset: usize);
}

/// A dictionary's content as a search needs it before a block: shared, since it does not change.
pub(super) struct Primed<const TABLE: usize> {
    /// By hash the content's last position that has it, or 0.
    slots: Box<[u16; TABLE]>,
    /// Bytes of content: the block's first position.
    len: usize,
    /// The first offsets to try.
    recent: [usize; 2],
}

/// The search's own state: one allocation, so that a register refers to all of it.
pub(super) struct Search<const SPACE: usize, const ROOM: usize, const TABLE: usize = SLOTS> {
    /// By hash the last position that had it, or 0.
    slots: [u16; TABLE],
    /// A dictionary's content, if there is one, and the current block, followed by stale bytes of earlier ones, which change nothing.
    block: PaddedBlock<SPACE, ROOM>,
}

#[cfg(feature = "zstd-uzram")]
impl<const TABLE: usize> Primed<TABLE> {
    /// Prepares content of at least a byte. `recent` are the offsets of matches before the block, the last one first.
    pub(super) fn new(content: &[u8], recent: [usize; 2]) -> Primed<TABLE> {
        let mut slots = Box::new([0; TABLE]);
        for (at, bytes) in content.windows(MIN_MATCH as usize).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            slots[slot::<TABLE>(u64::from_le_bytes(word))] = at as u16;
        }
        // The search subtracts the first one from positions in the block, and checks the second itself.
        let [offset, before] = recent;
        let offset = if offset > content.len() { 1 } else { offset };
        Primed {
            slots,
            len: content.len(),
            recent: [offset, before],
        }
    }

    /// Bytes of content.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

/// The slot of a position by its next bytes.
#[inline(always)]
fn slot<const TABLE: usize>(next: u64) -> usize {
    (hash::<MIN_MATCH>(next) >> (32 - TABLE.ilog2())) as usize
}

impl<const SPACE: usize, const ROOM: usize, const TABLE: usize> Search<SPACE, ROOM, TABLE> {
    pub(super) fn new() -> Box<Self> {
        const { assert!(ROOM == room(SPACE) && SPACE <= 1 << 16 && TABLE.is_power_of_two()) };
        Box::new(Search {
            slots: [0; _],
            block: PaddedBlock([0; _]),
        })
    }

    /// Puts a dictionary's content before all blocks.
    #[cfg(feature = "zstd-uzram")]
    pub(super) fn load(&mut self, content: &[u8]) {
        self.block.0[BACK..BACK + content.len()].copy_from_slice(content);
    }

    /// Divides `src` into literals and matches. With what [`Search::load`] put before it, it has at most `SPACE` bytes.
    #[inline(always)]
    pub(super) fn run<S: Sink<SPACE, ROOM>>(
        &mut self,
        primed: Option<&Primed<TABLE>>,
        src: &[u8],
        mut sink: S,
    ) -> S {
        let (begin, mut recent) = match primed {
            None => {
                self.slots.fill(0);
                (0, FIRST_OFFSETS)
            }
            Some(primed) => {
                let slots = primed.slots.chunks_exact(PIECE);
                for (to, from) in self.slots.chunks_exact_mut(PIECE).zip(slots) {
                    to.copy_from_slice(from);
                }
                (primed.len, primed.recent)
            }
        };
        copy(src, &mut self.block.0[BACK + begin..]);
        let limit = begin + src.len();
        let mut literals_at = begin;
        if src.len() >= TAIL + TURN {
            let last = limit - TAIL - TURN;
            // Position 0 is in every slot already.
            let mut at = begin.max(1);
            while at <= last {
                let Some(mut found) = self.find::<S>(at, literals_at, last, recent) else {
                    break;
                };
                if S::LOOKS_AHEAD {
                    found = self.look_ahead(found);
                }
                let Match { begin, from, .. } = found;
                let end = limit.min(begin + self.length(&found, limit));
                let before = begin - literals_at;
                let back = self.back(begin, from, before);
                let offset = begin - from;
                let sequence = FoundSequence {
                    at: literals_at,
                    literals: before - back,
                    offset,
                    length: end - begin + back,
                    recent,
                };
                recent[1] = select_unpredictable(offset == recent[0], recent[1], recent[0]);
                recent[0] = offset;
                (at, literals_at) = (end, end);
                if !sink.take(&self.block, sequence) {
                    break;
                }
                let inside = end - 2;
                self.replace(inside, self.block.word::<BACK>(inside));
            }
        }
        sink.end(&self.block, literals_at, limit - literals_at, recent[0]);
        sink
    }

    /// Finds the first match from `at` on, which is not behind `last`, as no turn begins there.
    #[inline(always)]
    fn find<S: Sink<SPACE, ROOM>>(
        &mut self,
        mut at: usize,
        literals_at: usize,
        last: usize,
        [offset, before]: [usize; 2],
    ) -> Option<Match> {
        // Right behind a match the offset before the last one; at the beginning that may be farther than there are bytes.
        let next = self.block.word::<BACK>(at);
        let from = at.wrapping_sub(before);
        let differ = self.block.word::<BACK>(from) ^ next;
        if differ as u32 == 0 && at >= before {
            self.replace(at, next);
            return Some(Match {
                begin: at,
                from,
                differ,
            });
        }
        loop {
            let repeats = self.repeats(at, offset);
            let found = self.look::<0, BACK>(at, offset, repeats);
            let found = found.or_else(|| self.look::<1, { BACK + 1 }>(at, offset, repeats));
            let found = found.or_else(|| self.look::<2, { BACK + 2 }>(at, offset, repeats));
            let found = found.or_else(|| self.look::<3, { BACK + 3 }>(at, offset, repeats));
            if found.is_some() {
                return found;
            }
            at += TURN + ((at - literals_at) >> S::SKIP_BITS);
            if at > last {
                return None;
            }
        }
    }

    /// Tells which of the positions `at + 1` to `at + 4` repeat 4 bytes at the last offset: the highest bit of each one's
    /// byte. Only the first is exact.
    #[inline(always)]
    fn repeats(&self, at: usize, offset: usize) -> u32 {
        let differ = self.block.word::<NEXT>(at) ^ self.block.word::<NEXT>(at - offset);
        let two = differ | differ >> 8;
        let four = (two | two >> 16) as u32;
        four.wrapping_sub(0x0101_0101) & !four & 0x8080_8080
    }

    /// Tries the position `at + AHEAD`, whose bytes are at `PLACE`: the last offset a byte later, and the hash.
    #[inline(always)]
    fn look<const AHEAD: usize, const PLACE: usize>(
        &mut self,
        at: usize,
        offset: usize,
        repeats: u32,
    ) -> Option<Match> {
        const { assert!(PLACE == BACK + AHEAD) };
        let begin = at + AHEAD;
        let next = self.block.word::<PLACE>(at);
        let from = self.replace(begin, next);
        if repeats & (0x80 << (8 * AHEAD)) != 0 {
            let (begin, from) = (begin + 1, begin + 1 - offset);
            let differ = self.block.word::<BACK>(begin) ^ self.block.word::<BACK>(from);
            return Some(Match {
                begin,
                from,
                differ,
            });
        }
        let differ = self.block.word::<BACK>(from) ^ next;
        Match::at_least::<MIN_MATCH>(begin, from, differ)
    }

    /// Prefers to a short match one of 8 bytes or more that begins a byte later.
    #[inline(always)]
    fn look_ahead(&mut self, found: Match) -> Match {
        if found.differ != 0 {
            let begin = found.begin + 1;
            let next = self.block.word::<BACK>(begin);
            let from = self.replace(begin, next);
            if self.block.word::<BACK>(from) == next {
                return Match {
                    begin,
                    from,
                    differ: 0,
                };
            }
        }
        found
    }

    /// Inserts a position and returns the one that had its hash before, or 0. Positions are inserted in ascending order.
    #[inline(always)]
    fn replace(&mut self, at: usize, next: u64) -> usize {
        let slot = &mut self.slots[slot::<TABLE>(next)];
        usize::from(std::mem::replace(slot, at as u16))
    }

    /// A match's length: up to `limit - begin`, or some bytes more.
    #[inline(always)]
    fn length(&self, found: &Match, limit: usize) -> usize {
        const SECOND: usize = BACK + 8;
        const THIRD: usize = BACK + 16;
        let Match {
            begin,
            from,
            differ: first,
        } = *found;
        let second = self.block.word::<SECOND>(begin) ^ self.block.word::<SECOND>(from);
        let third = self.block.word::<THIRD>(begin) ^ self.block.word::<THIRD>(from);
        let equal = select_unpredictable(second == 0, 16, 8);
        let differ = select_unpredictable(second == 0, third, second);
        let equal = select_unpredictable(first == 0, equal, 0);
        let differ = select_unpredictable(first == 0, differ, first);
        if differ == 0 {
            return extend(DIRECT, begin, from, limit, |at| {
                self.block.bytes::<BACK, 16>(at)
            });
        }
        equal + (differ.trailing_zeros() / 8) as usize
    }

    /// Equal bytes before both positions, at most `most` and down to the first position. Nothing waits for it.
    #[inline(always)]
    fn back(&self, begin: usize, from: usize, most: usize) -> usize {
        let count = common_suffix(self.block.word::<0>(begin) ^ self.block.word::<0>(from));
        let most = most.min(from);
        let count = count.min(most);
        if count == BACK - 1 {
            return self.far_back(begin, from, most);
        }
        count
    }

    /// More than 7 are rare: only where positions were skipped.
    #[cold]
    fn far_back(&self, begin: usize, from: usize, most: usize) -> usize {
        let equal =
            |count: usize| self.block.byte(begin - count - 1) == self.block.byte(from - count - 1);
        (0..most).find(|count| !equal(*count)).unwrap_or(most)
    }
}
