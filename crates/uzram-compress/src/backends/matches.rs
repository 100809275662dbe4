//! What the match searches of lz4-uzram, and of zstd-uzram and lzhs, share: hashing a position, and comparing the bytes of
//! two.
//!
//! Both search a copy of the block with padding on both sides, by 8 bytes at a time and without bounds checks. Where a
//! match begins and which candidates are tried differ: each file says why. Everything here is inlined into both loops.

/// Slots of the hash table: about as many as a page has positions.
pub(super) const SLOTS: usize = 4096;
/// Positions that one turn of a search looks at.
pub(super) const TURN: usize = 4;
/// After every `1 << SKIP_BITS` bytes without a match, a turn skips one more position.
#[cfg(any(feature = "lz4-uzram", feature = "zstd-uzram"))]
pub(super) const SKIP_BITS: u32 = 6;
/// Padding in front of the block: the bytes before a position are compared 8 at a time.
pub(super) const BACK: usize = 8;

/// A match: its position, an earlier position with the same next bytes, and how the 8 bytes at both differ.
pub(super) struct Match {
    pub(super) begin: usize,
    pub(super) from: usize,
    /// The exclusive or of both words: 0 where the match has 8 bytes or more.
    pub(super) differ: u64,
}

impl Match {
    /// A match where the first `MIN` of both positions' 8 bytes are the same.
    #[inline(always)]
    pub(super) fn at_least<const MIN: u32>(
        begin: usize,
        from: usize,
        differ: u64,
    ) -> Option<Match> {
        (differ << (64 - 8 * MIN) == 0).then_some(Match {
            begin,
            from,
            differ,
        })
    }
}

/// Hashes the first `MIN` of 8 bytes to 32 bits, of which the upper ones are the best.
#[inline(always)]
pub(super) fn hash<const MIN: u32>(next: u64) -> u32 {
    let factor = 0x9E37_79B1_85EB_CA87 << (64 - 8 * MIN);
    (next.wrapping_mul(factor) >> 32) as u32
}

/// Number of equal bytes at the end of two words, at most 7.
#[inline(always)]
pub(super) fn common_suffix(differ: u64) -> usize {
    // Trailing zeros are counted by an instruction that every processor knows and most do fast; leading zeros are not.
    ((differ.swap_bytes() | 1 << 56).trailing_zeros() / 8) as usize
}

/// Extends a match that has `count` bytes: its length, or `limit - begin` or some bytes more. `at` reads 16 bytes.
#[inline(always)]
pub(super) fn extend(
    mut count: usize,
    begin: usize,
    from: usize,
    limit: usize,
    at: impl Fn(usize) -> [u8; 16],
) -> usize {
    while begin + count < limit {
        let word = |position| u128::from_le_bytes(at(position + count));
        let differ = word(begin) ^ word(from);
        if differ != 0 {
            return count + (differ.trailing_zeros() / 8) as usize;
        }
        count += 16;
    }
    count
}
