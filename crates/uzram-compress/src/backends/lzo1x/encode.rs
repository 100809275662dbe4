//! The encoder: greedy, one candidate for each position, found by a hash of its next 4 bytes.
//!
//! Inputs beyond [`CHUNK`] are cut: matches do not cross a cut. That keeps every distance below 32768 and with it
//! clear of the runs of zeros and of the far matches that version 1 could mistake for them.

use super::super::positions::{CHUNK, Positions};
use super::{
    END, FAR_LEN, FIRST, MIDDLE, MIDDLE_LEN, NEAR, NEAR_LEN, RUN, RUN_DISTANCE, RUN_MAX, RUN_MIN,
    VERSION_RLE, VERSIONED,
};

/// Bytes that the hash takes, and the shortest match that is looked for.
const MIN_MATCH: usize = 4;
const _: () = assert!(CHUNK <= MASK);
/// After every so many bytes without a match, one position more is left out.
const SKIP_BITS: u32 = 5;
/// Runs of zeros that are shorter are left to matches, which take 2 or 3 bytes instead of 4.
const RUN_WORTH: usize = 16;

/// The longest first run of literals.
const FIRST_MAX: usize = 255 - FIRST;
/// The longest run of literals that its instruction byte can hold.
const SHORT_LITERALS: usize = 18;

/// As many slots as a page has positions.
const SLOTS: usize = 4096;
/// Covers every position of a chunk.
const MASK: usize = 0x7FFF;

/// One worker's state.
pub(super) struct Encoder {
    positions: Positions<SLOTS>,
    /// The chunk under way and, behind it, bytes of earlier ones, which change nothing. Any position that is masked
    /// can be read as a word here without a check, of which the search, a loop of some twenty instructions, would
    /// otherwise have four.
    chunk: Box<[u8; MASK + 9]>,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder {
            positions: Positions::new(),
            chunk: Box::new([0; MASK + 9]),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.positions.memory_bytes() + size_of_val(&*self.chunk)
    }

    /// Compresses all of `src`; `None` where the stream does not fit.
    pub(super) fn compress<const RLE: bool>(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
    ) -> Option<usize> {
        let mut out = Cursor::default();
        if RLE {
            out = out.put(dst, &[VERSIONED, VERSION_RLE])?;
        }
        let mut literals = 0;
        for (number, bytes) in src.chunks(CHUNK).enumerate() {
            self.chunk[..bytes.len()].copy_from_slice(bytes);
            let chunk = Chunk {
                bytes: &self.chunk,
                len: bytes.len(),
                begin: number * CHUNK,
            };
            self.positions.clear();
            (literals, out) = chunk.encode::<RLE>(&mut self.positions, src, literals, dst, out)?;
        }
        let out = out.literals(dst, src, literals, src.len() - literals)?;
        Some(out.put(dst, &END)?.len)
    }
}

/// A chunk. Positions count from its beginning.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    bytes: &'a [u8; MASK + 9],
    len: usize,
    /// Where it begins in the input.
    begin: usize,
}

impl Chunk<'_> {
    /// Encodes the matches, given where in `src` the literals that are still to be output begin; returns the same
    /// for what follows.
    fn encode<const RLE: bool>(
        self,
        positions: &mut Positions<SLOTS>,
        src: &[u8],
        mut literals: usize,
        dst: &mut [u8],
        mut out: Cursor,
    ) -> Option<(usize, Cursor)> {
        // Position 0 is in every slot already. Nothing precedes it, and a run of zeros cannot be the first instruction.
        let mut at = 1;
        loop {
            // Where the literals begin, unless that is in the chunk before.
            let since = literals.saturating_sub(self.begin);
            let (found, candidate) = self.find::<RLE>(positions, at, since);
            if found + MIN_MATCH > self.len {
                return Some((literals, out));
            }
            let here = self.begin + found;
            if RLE && candidate == found {
                let run = self.zeros(found).min(RUN_MAX);
                out = out
                    .literals(dst, src, literals, here - literals)?
                    .run(dst, run)?;
                at = found + run;
            } else {
                let len = self.same(candidate, found);
                let back = self.same_before(candidate, found, found - since);
                out = out.literals(dst, src, literals, here - back - literals)?;
                out = out.copy(dst, found - candidate, len + back)?;
                at = found + len;
            }
            literals = self.begin + at;
        }
    }

    /// The first position from `at` on that has a match, and where that is; for a run of zeros the position twice.
    /// Where there is none the position is too near the end for a match.
    #[inline(always)]
    fn find<const RLE: bool>(
        self,
        positions: &mut Positions<SLOTS>,
        mut at: usize,
        since: usize,
    ) -> (usize, usize) {
        while at + MIN_MATCH <= self.len {
            let next = self.word(at);
            if RLE && next == 0 && self.zeros(at) >= RUN_WORTH {
                return (at, at);
            }
            let candidate = positions.replace(hash(next as u32), at);
            if self.word(candidate) as u32 == next as u32 {
                return (at, candidate);
            }
            at += 1 + ((at - since) >> SKIP_BITS);
        }
        (at, at)
    }

    /// The 8 bytes at `at`.
    #[inline(always)]
    fn word(self, at: usize) -> u64 {
        let at = at & MASK;
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap_or_default())
    }

    /// How many bytes from `a` on are those from `b` on, where `a < b`.
    #[inline(always)]
    fn same(self, a: usize, b: usize) -> usize {
        let most = self.len - b;
        let mut len = 0;
        while len < most {
            let differ = self.word(a + len) ^ self.word(b + len);
            if differ != 0 {
                return most.min(len + (differ.trailing_zeros() / 8) as usize);
            }
            len += 8;
        }
        most
    }

    /// How many bytes, at most `most` and 8, before `a` are those before `b`, where `a < b`.
    #[inline(always)]
    fn same_before(self, a: usize, b: usize, most: usize) -> usize {
        // What is before the chunk counts as different.
        let Some(before) = a.checked_sub(8) else {
            let pairs =
                (0..a.min(most)).map(|back| (self.bytes[a - back - 1], self.bytes[b - back - 1]));
            return pairs.take_while(|(a, b)| a == b).count();
        };
        let differ = self.word(before) ^ self.word(b - 8);
        most.min((differ.leading_zeros() / 8) as usize)
    }

    /// How many bytes from `at` on are zero.
    #[inline(always)]
    fn zeros(self, at: usize) -> usize {
        let most = self.len - at;
        let mut len = 0;
        while len < most {
            let bytes = self.word(at + len);
            if bytes != 0 {
                return most.min(len + (bytes.trailing_zeros() / 8) as usize);
            }
            len += 8;
        }
        most
    }
}

#[inline(always)]
fn hash(bytes: u32) -> u32 {
    bytes.wrapping_mul(0x9E37_79B1)
}

/// The place in the stream under way. A value that each step makes anew, so that it stays in registers.
#[derive(Clone, Copy, Default)]
struct Cursor {
    /// Bytes output.
    len: usize,
    /// The byte of the last instruction that holds the number of literals behind it; 0 before the first.
    state_at: usize,
}

impl Cursor {
    #[inline(always)]
    fn put(mut self, dst: &mut [u8], bytes: &[u8]) -> Option<Cursor> {
        dst.get_mut(self.len..self.len + bytes.len())?
            .copy_from_slice(bytes);
        self.len += bytes.len();
        Some(self)
    }

    /// Appends the first `count` bytes, 2 or 3, of a word.
    #[inline(always)]
    fn put_word(mut self, dst: &mut [u8], word: u32, count: usize) -> Option<Cursor> {
        let bytes = word.to_le_bytes();
        if let Some(target) = dst
            .get_mut(self.len..)
            .and_then(|rest| rest.first_chunk_mut())
        {
            *target = bytes;
            self.len += count;
            return Some(self);
        }
        self.put(dst, &bytes[..count])
    }

    /// A run of `count` literals from `src[from..]`.
    #[inline(always)]
    fn literals(mut self, dst: &mut [u8], src: &[u8], from: usize, count: usize) -> Option<Cursor> {
        if count <= 16
            && self.state_at > 0
            && let Some(source) = src[from..].first_chunk::<16>()
            && let Some(target) = dst[self.len..].first_chunk_mut::<17>()
        {
            // The number of literals in the last instruction or, from 4 on, in one of their own; without a branch,
            // which would be a guess.
            let own = usize::from(count > 3);
            target[0] = count.wrapping_sub(3) as u8;
            target[own..own + 16].copy_from_slice(source);
            self.len += own + count;
            dst[self.state_at] |= [count as u8, 0][own];
            return Some(self);
        }
        let len = self.many_literals(dst, src, from, count)?;
        Some(Cursor { len, ..self })
    }

    /// In all other cases; where the stream then ends.
    #[inline(never)]
    fn many_literals(
        mut self,
        dst: &mut [u8],
        src: &[u8],
        from: usize,
        count: usize,
    ) -> Option<usize> {
        let first = self.state_at == 0;
        match count {
            0 => {}
            _ if first && count <= FIRST_MAX => self = self.put(dst, &[(FIRST + count) as u8])?,
            1..=3 if !first => dst[self.state_at] |= count as u8,
            4..=SHORT_LITERALS if !first => self = self.put(dst, &[(count - 3) as u8])?,
            _ => self = self.long(dst, 0, count - SHORT_LITERALS)?,
        }
        Some(self.put(dst, &src[from..from + count])?.len)
    }

    /// An instruction whose length is `more` beyond what its bits hold.
    fn long(mut self, dst: &mut [u8], instruction: u8, more: usize) -> Option<Cursor> {
        self = self.put(dst, &[instruction])?;
        let zeros = (more - 1) / 255;
        dst.get_mut(self.len..self.len + zeros)?.fill(0);
        self.len += zeros;
        self.put(dst, &[(more - zeros * 255) as u8])
    }

    /// A match of `len` bytes at `distance`, which is less than 32768.
    #[inline(always)]
    fn copy(mut self, dst: &mut [u8], distance: usize, len: usize) -> Option<Cursor> {
        let back = distance - 1;
        if distance <= NEAR && len <= NEAR_LEN {
            self.state_at = self.len;
            return self.put_word(
                dst,
                ((len - 1) << 5 | (back & 7) << 2 | back >> 3 << 8) as u32,
                2,
            );
        }
        if distance <= MIDDLE && len <= MIDDLE_LEN {
            self.state_at = self.len + 1;
            return self.put_word(dst, (32 | (len - 2) | back << 10) as u32, 3);
        }
        let low = if distance <= MIDDLE {
            self = self.long(dst, 32, len - MIDDLE_LEN)?;
            back
        } else {
            if len <= FAR_LEN {
                self = self.put(dst, &[(16 | (len - 2)) as u8])?;
            } else {
                self = self.long(dst, 16, len - FAR_LEN)?;
            }
            distance - MIDDLE
        };
        self.state_at = self.len;
        self.put(dst, &((low << 2) as u16).to_le_bytes())
    }

    /// `count` zeros, version 1 only and not as the first instruction.
    fn run(mut self, dst: &mut [u8], count: usize) -> Option<Cursor> {
        let count = count - RUN_MIN;
        let [low, high] = RUN_DISTANCE.to_le_bytes();
        self.state_at = self.len + 1;
        self.put(
            dst,
            &[RUN | (count & 7) as u8, low, high, (count >> 3) as u8],
        )
    }
}
