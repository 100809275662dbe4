//! The encoder: greedy, one candidate for each position, found by a hash of its next 5 to 8 bytes.
//!
//! A page takes some 260 sequences, and each costs a processor about as much by branches that it guessed wrong as by
//! all instructions together. So there are as few of them as can be: where a match begins is one for each position, but
//! how long it is up to 16 bytes, how far it reaches back, and how a sequence looks up to 14 literals are computed. A
//! hash of 5 bytes instead of 4 makes a tenth fewer sequences of about the same density. Each byte more takes another
//! tenth away and is what a level costs in density; leaving positions out, as liblz4's accelerations do, costs more
//! density for less speed.
//!
//! What was tried and not kept: candidates of 2 to 8 positions at once, the first or the longest match chosen by
//! arithmetic (the longest is 3 % denser), and candidates of all positions ahead of the choice. They guess less, but
//! each took as long or longer for more instructions and a longer chain of them from match to match. Bits of the hash
//! in the slots, to know misses sooner; probing every other position; only where a heap's words begin (a tenth less
//! dense). Code without any check (unsafe) is 3 to 5 % faster.
//!
//! The search reads a copy of the block by positions of 16 bits, which cannot leave it: no bounds checks.

use std::hint::select_unpredictable;

use super::super::positions::Positions;

/// The longest block.
pub(super) const MOST: usize = 0xF000;

/// Bytes that the hash takes at level 1, and the shortest match that is looked for. Each level adds one, up to 8.
const MIN_MATCH: u32 = 5;
/// The last level that adds one. From there on each leaves out a position more, up to so many.
const LAST_LEVEL: u32 = 4;
const MOST_LEFT_OUT: u32 = 1024;
/// What the format's length of a match begins with.
const FORMAT_MIN: usize = 4;
/// The format's last bytes are literals, and no match begins among the last 12.
const END_LITERALS: usize = 5;
const TAIL: usize = 12;
/// Positions that one turn of the search looks at.
const TURN: usize = 4;
/// After every so many bytes without a match, a turn leaves one more position out.
const SKIP_BITS: u32 = 6;
/// As many slots as a page has positions.
const SLOTS: usize = 4096;

/// Bytes before a position that are compared with those before its candidate.
const BACK: usize = 8;
/// The longest match that is found without a loop.
const DIRECT: usize = 16;
/// Fewer literals are output with one copy of 16 bytes; so many and more need a byte of their own for their number.
const LITERALS: usize = 15;
/// The same of a match's length.
const LENGTH: usize = 15;
/// A short sequence: token, literals, distance.
const SHORT: usize = 1 + 16;

/// The block, behind [`BACK`] bytes, and before as many that are read where a position of 16 bits may be.
type Bytes = [u8; BACK + 0x1_0000 + 40];

/// One worker's state.
pub(super) struct Encoder {
    positions: Positions<SLOTS>,
    /// The block under way and, behind it, bytes of earlier ones, which change nothing.
    block: Box<Bytes>,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder {
            positions: Positions::new(),
            block: Box::new([0; _]),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.positions.memory_bytes() + size_of_val(&*self.block)
    }

    /// Compresses `src`; `None` where it is longer than [`MOST`] or does not fit. Levels begin with 1.
    pub(super) fn compress(&mut self, src: &[u8], dst: &mut [u8], level: u32) -> Option<usize> {
        match level {
            0 | 1 => self.compress_by::<MIN_MATCH>(src, dst, 0),
            2 => self.compress_by::<{ MIN_MATCH + 1 }>(src, dst, 0),
            3 => self.compress_by::<{ MIN_MATCH + 2 }>(src, dst, 0),
            _ => {
                let left_out = (level - LAST_LEVEL).min(MOST_LEFT_OUT);
                self.compress_by::<{ MIN_MATCH + 3 }>(src, dst, left_out as u16)
            }
        }
    }

    fn compress_by<const MIN: u32>(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
        left_out: u16,
    ) -> Option<usize> {
        if src.len() > MOST {
            return None;
        }
        self.block[BACK..BACK + src.len()].copy_from_slice(src);
        self.positions.clear();
        let search = Search::<MIN> {
            bytes: &self.block,
            positions: &mut self.positions,
            left_out,
        };
        let (literals, len) = sequences(search, src, dst)?;
        let rest = dst.get_mut(len..)?;
        Some(len + output(rest, src.get(literals..)?, None)?)
    }
}

/// Outputs all sequences that have a match; how many bytes of `src` they stand for, and of `dst` they are.
#[inline(always)]
fn sequences<const MIN: u32>(
    mut search: Search<MIN>,
    src: &[u8],
    dst: &mut [u8],
) -> Option<(usize, usize)> {
    let (mut since, mut len) = (0u16, 0);
    let Some(last) = src.len().checked_sub(TAIL + TURN) else {
        return Some((0, 0));
    };
    let limit = src.len() - END_LITERALS;
    // Position 0 is in every slot already.
    let mut at = 1u16;
    while let Some(Match {
        begin,
        from,
        differ,
    }) = search.find(at, since, last)
    {
        let distance = (begin - from) as u16;
        let mut count = search.direct(begin, from, differ);
        let before = begin - usize::from(since);
        let end = begin + count;
        if before < LITERALS
            && count < DIRECT
            && end <= limit
            && let Some(target) = dst.get_mut(len..).and_then(|dst| dst.first_chunk_mut())
        {
            at = end as u16;
            let back = search
                .back(begin, from)
                .min(before)
                .min(LENGTH + FORMAT_MIN - 1 - count);
            let literals = search.bytes::<BACK, _>(usize::from(since));
            len += short(target, literals, before - back, distance, count + back);
        } else {
            if count == DIRECT {
                count = search.beyond(begin, from, limit);
            }
            let end = limit.min(begin + count);
            at = end as u16;
            let back = search.back(begin, from).min(before);
            let count = end - begin + back;
            let rest = dst.get_mut(len..)?;
            len += match rest.first_chunk_mut() {
                Some(target) if before - back < LITERALS => {
                    let literals = search.bytes::<BACK, _>(usize::from(since));
                    let most = count.min(LENGTH + FORMAT_MIN);
                    let head = short(target, literals, before - back, distance, most);
                    head + number(rest.get_mut(head..)?, count - FORMAT_MIN, LENGTH)?
                }
                _ => {
                    let literals = src.get(usize::from(since)..begin - back)?;
                    output(rest, literals, Some((distance, count)))?
                }
            };
        }
        since = at;
        search.note(at - 2);
    }
    Some((usize::from(since), len))
}

/// A position, one whose next bytes are the same, and how the 8 bytes of both differ.
struct Match {
    begin: usize,
    from: usize,
    differ: u64,
}

/// The block, and where its bytes were seen.
struct Search<'a, const MIN: u32> {
    bytes: &'a Bytes,
    positions: &'a mut Positions<SLOTS>,
    /// Positions that a turn leaves out in any case.
    left_out: u16,
}

impl<'a, const MIN: u32> Search<'a, MIN> {
    /// The first match from `at` on, where no turn begins behind `last`.
    #[inline(always)]
    fn find(&mut self, mut at: u16, since: u16, last: usize) -> Option<Match> {
        while usize::from(at) <= last {
            let found = self.look::<0, 8>(at).or_else(|| self.look::<1, 9>(at));
            let found = found
                .or_else(|| self.look::<2, 10>(at))
                .or_else(|| self.look::<3, 11>(at));
            if found.is_some() {
                return found;
            }
            at += TURN as u16 + self.left_out + ((at - since) >> SKIP_BITS);
        }
        None
    }

    /// Notes the position `AHEAD` of `at`, whose bytes are at `PLACE`; whether there is a match.
    #[inline(always)]
    fn look<const AHEAD: usize, const PLACE: usize>(&mut self, at: u16) -> Option<Match> {
        const { assert!(PLACE == BACK + AHEAD) };
        let begin = usize::from(at) + AHEAD;
        let next = self.word::<PLACE>(usize::from(at));
        let from = self.positions.replace(hash::<MIN>(next), begin);
        let differ = self.word::<BACK>(from) ^ next;
        (differ << (64 - 8 * MIN) == 0).then_some(Match {
            begin,
            from,
            differ,
        })
    }

    /// Notes a position that nothing is looked for at.
    #[inline(always)]
    fn note(&mut self, at: u16) {
        let next = self.word::<BACK>(usize::from(at));
        self.positions.replace(hash::<MIN>(next), usize::from(at));
    }

    /// The bytes at `at`, where `PLACE` is [`BACK`], or so many less or more.
    #[inline(always)]
    fn bytes<const PLACE: usize, const COUNT: usize>(&self, at: usize) -> &'a [u8; COUNT] {
        const { assert!(PLACE + 0xFFFF + COUNT <= size_of::<Bytes>()) };
        let bytes: &'a Bytes = self.bytes;
        let begin = PLACE + at;
        bytes[begin..begin + COUNT]
            .first_chunk()
            .unwrap_or(&[0; COUNT])
    }

    #[inline(always)]
    fn word<const PLACE: usize>(&self, at: usize) -> u64 {
        u64::from_le_bytes(*self.bytes::<PLACE, 8>(at))
    }

    /// How many bytes are the same, up to [`DIRECT`].
    #[inline(always)]
    fn direct(&self, begin: usize, from: usize, differ: u64) -> usize {
        const SECOND: usize = BACK + 8;
        let second = self.word::<SECOND>(begin) ^ self.word::<SECOND>(from);
        let count = select_unpredictable(
            differ == 0,
            8 + second.trailing_zeros() / 8,
            differ.trailing_zeros() / 8,
        );
        count as usize
    }

    /// The same where the first [`DIRECT`] are: up to `limit`, or some bytes more.
    #[inline(always)]
    fn beyond(&self, begin: usize, from: usize, limit: usize) -> usize {
        let mut count = DIRECT;
        while begin + count < limit {
            let at = |at| u128::from_le_bytes(*self.bytes::<BACK, 16>((at + count) & 0xFFFF));
            let differ = at(begin) ^ at(from);
            if differ != 0 {
                return count + (differ.trailing_zeros() / 8) as usize;
            }
            count += 16;
        }
        count
    }

    /// How many bytes before are the same, up to 7 and the block's beginning. Nothing waits for it.
    #[inline(always)]
    fn back(&self, begin: usize, from: usize) -> usize {
        let differ = self.word::<0>(begin) ^ self.word::<0>(from);
        from.min(((differ | 1).leading_zeros() / 8) as usize)
    }
}

/// A sequence of fewer than [`LITERALS`] literals whose match's length its token can hold; its length.
#[inline(always)]
fn short(
    target: &mut [u8; SHORT],
    literals: &[u8; 16],
    before: usize,
    distance: u16,
    count: usize,
) -> usize {
    target[0] = (before << 4 | (count - FORMAT_MIN)) as u8;
    target[1..].copy_from_slice(literals);
    let distance_at = 1 + before.min(LITERALS - 1);
    target[distance_at..distance_at + 2].copy_from_slice(&distance.to_le_bytes());
    distance_at + 2
}

/// Any sequence; the last one has no match. Its length, `None` where it does not fit.
#[inline(never)]
fn output(dst: &mut [u8], literals: &[u8], found: Option<(u16, usize)>) -> Option<usize> {
    let count = found.map_or(0, |(_, count)| count - FORMAT_MIN);
    let token = literals.len().min(LITERALS) << 4 | count.min(LENGTH);
    *dst.first_mut()? = token as u8;
    let mut len = 1 + number(dst.get_mut(1..)?, literals.len(), LITERALS)?;
    dst.get_mut(len..len + literals.len())?
        .copy_from_slice(literals);
    len += literals.len();
    let Some((distance, _)) = found else {
        return Some(len);
    };
    dst.get_mut(len..len + 2)?
        .copy_from_slice(&distance.to_le_bytes());
    len += 2;
    Some(len + number(dst.get_mut(len..)?, count, LENGTH)?)
}

/// What of a number the token cannot hold; how many bytes that takes.
#[inline(always)]
fn number(dst: &mut [u8], number: usize, most: usize) -> Option<usize> {
    let Some(mut rest) = number.checked_sub(most) else {
        return Some(0);
    };
    let mut whole = 0;
    while rest >= 255 {
        *dst.get_mut(whole)? = 255;
        whole += 1;
        rest -= 255;
    }
    *dst.get_mut(whole)? = rest as u8;
    Some(whole + 1)
}

#[inline(always)]
fn hash<const MIN: u32>(next: u64) -> u32 {
    let factor = 0x9E37_79B1_85EB_CA87 << (64 - 8 * MIN);
    (next.wrapping_mul(factor) >> 32) as u32
}
