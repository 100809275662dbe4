//! The encoder: greedy, one candidate for each position, found by a hash of its next 5 to 8 bytes.
//!
//! A page takes some 260 sequences, and each costs a processor about as much in mispredicted branches as in all
//! instructions together. So there are as few branches as can be. Where a match begins is one for each position; a
//! match's length up to 16 bytes, its extension backwards and the layout of a sequence with up to 14 literals are
//! computed. A hash of 5 bytes instead of 4 makes a tenth fewer sequences of about the same density. Each byte more
//! takes another tenth away and is what a level costs in density. Skipping positions, as liblz4's acceleration does,
//! costs more density for less speed.
//!
//! Tried and not kept: candidates of 2 to 8 positions at once, the first or the longest match chosen by arithmetic (the
//! longest is 3 % denser), and candidates of all positions ahead of the choice. They mispredict less, but each took as
//! long or longer, for more instructions and a longer dependency chain from match to match. Bits of the hash in the
//! slots, to know misses sooner; probing every other position; only where a heap's words begin (a tenth less dense).
//! Code without any check (unsafe) is 3 to 5 % faster.
//!
//! The search reads a copy of the block by positions of 16 bits, which cannot leave it: no bounds checks.

use std::hint::select_unpredictable;

use super::super::matches::{BACK, Match, SKIP_BITS, SLOTS, TURN, common_suffix, extend, hash};
use super::super::positions::Positions;

/// The longest block in bytes.
pub(super) const MAX_BLOCK: usize = 0xF000;

/// Bytes that level 1 hashes, and its shortest match. Each level adds one, up to 8.
const MIN_MATCH: u32 = 5;
/// The last level that adds a byte. Each level above skips one more position a turn, up to [`MAX_SKIP`].
const LAST_HASH_LEVEL: u32 = 4;
const MAX_SKIP: u32 = 1024;
/// The format's shortest match (minmatch): a match length of 0 in the token.
const FORMAT_MIN_MATCH: usize = 4;
/// The format's last bytes are literals, and no match begins among the last 12.
const LAST_LITERALS: usize = 5;
const TAIL: usize = 12;

/// The longest match that is measured without a loop.
const DIRECT: usize = 16;
/// Values of the token's two halves that are continued in bytes of their own: 15 literals, and a match of 15 + 4.
const TOKEN_LITERALS: usize = 15;
const TOKEN_MATCH: usize = 15;
/// Room for a short sequence: a token, up to 14 literals copied as 16 bytes, an offset.
const SHORT_SEQUENCE: usize = 1 + 16;

/// The block, behind [`BACK`] bytes, and before as many that are read where a position of 16 bits may be.
type PaddedBlock = [u8; BACK + 0x1_0000 + 40];

/// One worker's state.
pub(super) struct Encoder {
    positions: Positions<SLOTS>,
    /// The current block, followed by stale bytes of earlier ones, which change nothing.
    block: Box<PaddedBlock>,
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

    /// Compresses `src`; `None` where it is longer than [`MAX_BLOCK`] or does not fit. Levels begin with 1.
    pub(super) fn compress(&mut self, src: &[u8], dst: &mut [u8], level: u32) -> Option<usize> {
        match level {
            0 | 1 => self.compress_by::<MIN_MATCH>(src, dst, 0),
            2 => self.compress_by::<{ MIN_MATCH + 1 }>(src, dst, 0),
            3 => self.compress_by::<{ MIN_MATCH + 2 }>(src, dst, 0),
            _ => {
                let skip = (level - LAST_HASH_LEVEL).min(MAX_SKIP);
                self.compress_by::<{ MIN_MATCH + 3 }>(src, dst, skip as u16)
            }
        }
    }

    fn compress_by<const MIN: u32>(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
        skip: u16,
    ) -> Option<usize> {
        if src.len() > MAX_BLOCK {
            return None;
        }
        self.block[BACK..BACK + src.len()].copy_from_slice(src);
        self.positions.clear();
        let search = BlockSearch::<MIN> {
            block: &self.block,
            positions: &mut self.positions,
            skip,
        };
        let (done, len) = write_sequences(search, src, dst)?;
        let rest = dst.get_mut(len..)?;
        Some(len + write_sequence(rest, src.get(done..)?, None)?)
    }
}

/// Writes all sequences that have a match. Returns the bytes of `src` that they cover and those of `dst` that they take.
#[inline(always)]
fn write_sequences<const MIN: u32>(
    mut search: BlockSearch<MIN>,
    src: &[u8],
    dst: &mut [u8],
) -> Option<(usize, usize)> {
    let (mut literals_at, mut len) = (0u16, 0);
    let Some(last) = src.len().checked_sub(TAIL + TURN) else {
        return Some((0, 0));
    };
    let limit = src.len() - LAST_LITERALS;
    // Position 0 is in every slot already.
    let mut at = 1u16;
    while let Some(Match {
        begin,
        from,
        differ,
    }) = search.find(at, literals_at, last)
    {
        let offset = (begin - from) as u16;
        let mut length = search.direct_length(begin, from, differ);
        let literals = begin - usize::from(literals_at);
        let end = begin + length;
        if literals < TOKEN_LITERALS
            && length < DIRECT
            && end <= limit
            && let Some(target) = dst.get_mut(len..).and_then(|dst| dst.first_chunk_mut())
        {
            at = end as u16;
            let back = search
                .back(begin, from)
                .min(literals)
                .min(TOKEN_MATCH + FORMAT_MIN_MATCH - 1 - length);
            let bytes = search.bytes::<BACK, _>(usize::from(literals_at));
            len += write_short(target, bytes, literals - back, offset, length + back);
        } else {
            if length == DIRECT {
                length = search.extend(begin, from, limit);
            }
            let end = limit.min(begin + length);
            at = end as u16;
            let back = search.back(begin, from).min(literals);
            let length = end - begin + back;
            let rest = dst.get_mut(len..)?;
            len += match rest.first_chunk_mut() {
                Some(target) if literals - back < TOKEN_LITERALS => {
                    let bytes = search.bytes::<BACK, _>(usize::from(literals_at));
                    let in_token = length.min(TOKEN_MATCH + FORMAT_MIN_MATCH);
                    let head = write_short(target, bytes, literals - back, offset, in_token);
                    let rest = rest.get_mut(head..)?;
                    head + write_length(rest, length - FORMAT_MIN_MATCH, TOKEN_MATCH)?
                }
                _ => {
                    let bytes = src.get(usize::from(literals_at)..begin - back)?;
                    write_sequence(rest, bytes, Some((offset, length)))?
                }
            };
        }
        literals_at = at;
        search.insert(at - 2);
    }
    Some((usize::from(literals_at), len))
}

/// The block and its hash table.
struct BlockSearch<'a, const MIN: u32> {
    block: &'a PaddedBlock,
    positions: &'a mut Positions<SLOTS>,
    /// Positions that every turn skips.
    skip: u16,
}

impl<'a, const MIN: u32> BlockSearch<'a, MIN> {
    /// Finds the first match from `at` on. No turn begins behind `last`.
    #[inline(always)]
    fn find(&mut self, mut at: u16, literals_at: u16, last: usize) -> Option<Match> {
        while usize::from(at) <= last {
            let found = self.look::<0, 8>(at).or_else(|| self.look::<1, 9>(at));
            let found = found
                .or_else(|| self.look::<2, 10>(at))
                .or_else(|| self.look::<3, 11>(at));
            if found.is_some() {
                return found;
            }
            at += TURN as u16 + self.skip + ((at - literals_at) >> SKIP_BITS);
        }
        None
    }

    /// Inserts the position `at + AHEAD`, whose bytes are at `PLACE`, and compares it with its candidate.
    #[inline(always)]
    fn look<const AHEAD: usize, const PLACE: usize>(&mut self, at: u16) -> Option<Match> {
        const { assert!(PLACE == BACK + AHEAD) };
        let begin = usize::from(at) + AHEAD;
        let next = self.word::<PLACE>(usize::from(at));
        let from = self.positions.replace(hash::<MIN>(next), begin);
        Match::at_least::<MIN>(begin, from, self.word::<BACK>(from) ^ next)
    }

    /// Inserts a position without looking for a match.
    #[inline(always)]
    fn insert(&mut self, at: u16) {
        let next = self.word::<BACK>(usize::from(at));
        self.positions.replace(hash::<MIN>(next), usize::from(at));
    }

    /// The bytes at position `at` plus `PLACE - BACK`.
    #[inline(always)]
    fn bytes<const PLACE: usize, const COUNT: usize>(&self, at: usize) -> &'a [u8; COUNT] {
        const { assert!(PLACE + 0xFFFF + COUNT <= size_of::<PaddedBlock>()) };
        let block: &'a PaddedBlock = self.block;
        let begin = PLACE + at;
        block[begin..begin + COUNT]
            .first_chunk()
            .unwrap_or(&[0; COUNT])
    }

    #[inline(always)]
    fn word<const PLACE: usize>(&self, at: usize) -> u64 {
        u64::from_le_bytes(*self.bytes::<PLACE, 8>(at))
    }

    /// Length of a match, up to [`DIRECT`].
    #[inline(always)]
    fn direct_length(&self, begin: usize, from: usize, differ: u64) -> usize {
        const SECOND: usize = BACK + 8;
        let second = self.word::<SECOND>(begin) ^ self.word::<SECOND>(from);
        let length = select_unpredictable(
            differ == 0,
            8 + second.trailing_zeros() / 8,
            differ.trailing_zeros() / 8,
        );
        length as usize
    }

    /// Length of a match that has [`DIRECT`] bytes: up to `limit - begin`, or some bytes more.
    #[inline(always)]
    fn extend(&self, begin: usize, from: usize, limit: usize) -> usize {
        extend(DIRECT, begin, from, limit, |at| {
            *self.bytes::<BACK, 16>(at & 0xFFFF)
        })
    }

    /// Equal bytes before both positions, at most 7 and down to the block's beginning. Nothing waits for it.
    #[inline(always)]
    fn back(&self, begin: usize, from: usize) -> usize {
        from.min(common_suffix(self.word::<0>(begin) ^ self.word::<0>(from)))
    }
}

/// Writes a sequence of fewer than [`TOKEN_LITERALS`] literals whose match length the token holds. Returns its length.
#[inline(always)]
fn write_short(
    target: &mut [u8; SHORT_SEQUENCE],
    bytes: &[u8; 16],
    literals: usize,
    offset: u16,
    length: usize,
) -> usize {
    target[0] = (literals << 4 | (length - FORMAT_MIN_MATCH)) as u8;
    target[1..].copy_from_slice(bytes);
    let offset_at = 1 + literals.min(TOKEN_LITERALS - 1);
    target[offset_at..offset_at + 2].copy_from_slice(&offset.to_le_bytes());
    offset_at + 2
}

/// Writes any sequence; the last one has no match. Returns its length, `None` where it does not fit.
#[inline(never)]
fn write_sequence(dst: &mut [u8], literals: &[u8], found: Option<(u16, usize)>) -> Option<usize> {
    let length = found.map_or(0, |(_, length)| length - FORMAT_MIN_MATCH);
    let token = literals.len().min(TOKEN_LITERALS) << 4 | length.min(TOKEN_MATCH);
    *dst.first_mut()? = token as u8;
    let mut len = 1 + write_length(dst.get_mut(1..)?, literals.len(), TOKEN_LITERALS)?;
    dst.get_mut(len..len + literals.len())?
        .copy_from_slice(literals);
    len += literals.len();
    let Some((offset, _)) = found else {
        return Some(len);
    };
    dst.get_mut(len..len + 2)?
        .copy_from_slice(&offset.to_le_bytes());
    len += 2;
    Some(len + write_length(dst.get_mut(len..)?, length, TOKEN_MATCH)?)
}

/// Writes what of a length the token cannot hold. Returns the number of bytes.
#[inline(always)]
fn write_length(dst: &mut [u8], length: usize, in_token: usize) -> Option<usize> {
    let Some(mut rest) = length.checked_sub(in_token) else {
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
