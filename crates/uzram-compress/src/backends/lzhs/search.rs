//! Finds tokens: greedy but for one byte; the last offset first, then one candidate by a hash of 5 bytes.
//!
//! This is zstd-uzram's search, whose file says why it is as it is, for a page and for this format's two recent offsets. It
//! keeps the literals twice: as they are, and less the byte at the last offset, or 8 bytes before where that is nearer
//! (*sub* literals). Which of the two is coded is decided afterwards.

use super::super::matches::{BACK, Match, SKIP_BITS, SLOTS, TURN, common_suffix, extend, hash};
use super::super::positions::Positions;
use super::token::{FIRST_OFFSETS, MAX_TOKENS, MIN_SUB_DISTANCE, PAGE, Token};

/// Bytes that the hash takes, and the shortest match that is found by it.
const MIN_MATCH: u32 = 5;
/// No turn begins among the last bytes, so that a match of 4 bytes at the turn's end fits in.
const TAIL: usize = 8;

/// Where the byte behind a position is.
const NEXT: usize = BACK + 1;
/// Up to so many literals are kept with one copy of as many bytes.
const SHORT_LITERALS: usize = 16;

/// The page, behind [`BACK`] zeros, and before as many bytes as are read where a position may be.
type PaddedPage = [u8; BACK + PAGE + 40];
/// Literals, and what one copy may write behind them.
type Literals = [u8; PAGE + SHORT_LITERALS];

const _: () = assert!(MIN_SUB_DISTANCE as usize == BACK);

pub(super) struct Search {
    positions: Positions<SLOTS>,
    /// The current page, followed by stale bytes of earlier ones, which change nothing.
    block: Box<PaddedPage>,
    tokens: Box<[Token; MAX_TOKENS]>,
    token_count: usize,
    literals: Box<Literals>,
    subs: Box<Literals>,
    literal_count: u16,
}

/// What a page was divided into.
pub(super) struct Found<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) literals: &'a [u8],
    /// The same literals as differences.
    pub(super) subs: &'a [u8],
}

impl Search {
    pub(super) fn new() -> Search {
        Search {
            positions: Positions::new(),
            block: Box::new([0; _]),
            tokens: Box::new([Token::default(); _]),
            token_count: 0,
            literals: Box::new([0; _]),
            subs: Box::new([0; _]),
            literal_count: 0,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.positions.memory_bytes()
            + size_of_val(&*self.block)
            + size_of_val(&*self.tokens)
            + size_of_val(&*self.literals)
            + size_of_val(&*self.subs)
    }

    /// All tokens and literals of the last page.
    pub(super) fn found(&self) -> Found<'_> {
        let count = usize::from(self.literal_count).min(PAGE);
        Found {
            tokens: &self.tokens[..self.token_count.min(MAX_TOKENS)],
            literals: &self.literals[..count],
            subs: &self.subs[..count],
        }
    }

    /// Divides `src`, of at most [`PAGE`] bytes, into literals and matches.
    pub(super) fn run(&mut self, src: &[u8]) {
        self.block[BACK..BACK + src.len()].copy_from_slice(src);
        self.positions.clear();
        // An offset never exceeds the position that it is tried at: a match begins at 1 or later and has 4 bytes or more.
        let mut recent = FIRST_OFFSETS;
        let (mut literals_at, mut literals, mut count) = (0u16, 0u16, 0usize);
        if let Some(last) = src.len().checked_sub(TAIL + TURN) {
            // Position 0 is in every slot already.
            let mut at = 1u16;
            while count < MAX_TOKENS
                && let Some(found) = self.find(at, literals_at, last, recent)
            {
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
                let run = (before - back) as u16;
                self.keep(literals_at, run, literals, recent[0]);
                let (offset, length) = ((begin - from) as u16, (end - begin + back) as u16);
                self.tokens[count] = Token::new(&mut recent, run, offset, length);
                count += 1;
                literals += run;
                literals_at = at;
                let inside = usize::from(at - 2);
                self.replace(inside, self.word::<BACK>(inside));
            }
        }
        let rest = (src.len() - usize::from(literals_at)) as u16;
        self.keep(literals_at, rest, literals, recent[0]);
        self.literal_count = literals + rest;
        self.token_count = count;
    }

    /// Finds the first match from `at` on. No turn begins behind `last`.
    #[inline(always)]
    fn find(
        &mut self,
        mut at: u16,
        literals_at: u16,
        last: usize,
        recent: [u16; 2],
    ) -> Option<Match> {
        if at == literals_at && usize::from(at) <= last {
            let found = self.behind_match(usize::from(at), recent);
            if found.is_some() {
                return found;
            }
            at += 1;
        }
        while usize::from(at) <= last {
            let repeats = self.repeats(at, recent[0]);
            let found = self.look::<0, BACK>(at, recent[0], repeats);
            let found = found.or_else(|| self.look::<1, { BACK + 1 }>(at, recent[0], repeats));
            let found = found.or_else(|| self.look::<2, { BACK + 2 }>(at, recent[0], repeats));
            let found = found.or_else(|| self.look::<3, { BACK + 3 }>(at, recent[0], repeats));
            if found.is_some() {
                return found;
            }
            at += TURN as u16 + ((at - literals_at) >> SKIP_BITS);
        }
        None
    }

    /// Right behind a match: tries the last offset but one, the last one a byte later, and the hash.
    #[inline(always)]
    fn behind_match(&mut self, at: usize, recent: [u16; 2]) -> Option<Match> {
        let second_from = at - usize::from(recent[1]);
        let first_from = at - usize::from(recent[0]);
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

    /// Keeps `count` literals from position `at` on, behind the first `to` literals; the last offset is `offset`.
    #[inline(always)]
    fn keep(&mut self, at: u16, count: u16, to: u16, offset: u16) {
        let (at, count, to) = (usize::from(at), usize::from(count), usize::from(to));
        // Position 0 has the padding before it.
        let distance = usize::from(offset.max(MIN_SUB_DISTANCE));
        let before = BACK + at - distance;
        self.keep_some(at, before, to);
        if count > SHORT_LITERALS {
            for done in (SHORT_LITERALS..count).step_by(SHORT_LITERALS) {
                self.keep_some(at + done, before + done, to + done);
            }
        }
    }

    /// Keeps [`SHORT_LITERALS`] literals; `before` is a place in the padded page.
    #[inline(always)]
    fn keep_some(&mut self, at: usize, before: usize, to: usize) {
        let from: [u8; SHORT_LITERALS] = self.bytes::<BACK, SHORT_LITERALS>(at);
        let before: [u8; SHORT_LITERALS] = self.bytes::<0, SHORT_LITERALS>(before);
        let subs: [u8; SHORT_LITERALS] =
            std::array::from_fn(|place| from[place].wrapping_sub(before[place]));
        let to = to % PAGE;
        self.literals[to..to + SHORT_LITERALS].copy_from_slice(&from);
        self.subs[to..to + SHORT_LITERALS].copy_from_slice(&subs);
    }

    /// Length of a match that has 8 bytes: up to `limit - begin`, or some bytes more.
    #[inline(always)]
    fn extend(&self, begin: usize, from: usize, limit: usize) -> usize {
        extend(8, begin, from, limit, |at| self.bytes::<BACK, 16>(at))
    }

    /// Equal bytes before both positions, at most `most` and down to the page's beginning. Nothing waits for it. More than
    /// 7 are rare: only where positions were skipped.
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
        self.block[BACK + at % PAGE]
    }

    /// The bytes at position `at`, which is below [`PAGE`], plus `PLACE - BACK`.
    #[inline(always)]
    fn bytes<const PLACE: usize, const COUNT: usize>(&self, at: usize) -> [u8; COUNT] {
        const { assert!(PLACE + PAGE + COUNT <= size_of::<PaddedPage>() + 1) };
        let begin = PLACE + at % PAGE;
        *self.block[begin..begin + COUNT]
            .first_chunk()
            .unwrap_or(&[0; COUNT])
    }

    #[inline(always)]
    fn word<const PLACE: usize>(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes::<PLACE, 8>(at))
    }
}
