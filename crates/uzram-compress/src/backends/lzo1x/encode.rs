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
/// After every so many bytes without a match, one position more is left out.
const SKIP_BITS: u32 = 5;
/// The last bytes of an input are read as words only up to here.
const MARGIN: usize = 12;
/// Runs of zeros that are shorter are left to matches, which take 2 or 3 bytes instead of 4.
const RUN_WORTH: usize = 16;

/// The longest first run of literals.
const FIRST_MAX: usize = 255 - FIRST;
/// The longest run of literals that its instruction byte can hold.
const SHORT_LITERALS: usize = 18;

/// Twice as many slots as a page has positions.
pub(super) type Table = Positions<8192>;

/// Compresses all of `src`; `None` where the stream does not fit.
pub(super) fn compress<const RLE: bool>(
    table: &mut Table,
    src: &[u8],
    dst: &mut [u8],
) -> Option<usize> {
    let mut out = Out {
        dst,
        len: 0,
        begin: 0,
        state_at: 0,
    };
    if RLE {
        out.put(&[VERSIONED, VERSION_RLE])?;
        out.begin = 2;
    }
    let mut literals = 0;
    let mut at = 0;
    while at < src.len() {
        let chunk = (src.len() - at).min(CHUNK);
        table.begin(chunk);
        literals = encode_chunk::<RLE>(table, src, at, at + chunk, literals, &mut out)?;
        at += chunk;
    }
    out.literals(src, literals, src.len() - literals)?;
    out.put(&END)?;
    Some(out.len)
}

/// Encodes the matches of `src[begin..end]`, given where the literals that are still to be output begin; returns
/// the same for what follows.
fn encode_chunk<const RLE: bool>(
    table: &mut Table,
    src: &[u8],
    begin: usize,
    end: usize,
    mut literals: usize,
    out: &mut Out,
) -> Option<usize> {
    let Some(last) = end.checked_sub(MARGIN) else {
        return Some(literals);
    };
    let src = &src[..end];
    // Nothing precedes the first byte, and a run of zeros cannot be the first instruction.
    let mut at = begin + 1;
    if begin < last {
        table.note(hash(word(src, begin) as u32), 0);
    }
    while at < last {
        let next = word(src, at);
        if RLE && next as u32 == 0 {
            let run = zeros(src, at).min(RUN_MAX);
            if run >= RUN_WORTH {
                out.literals(src, literals, at - literals)?;
                out.run(run)?;
                at += run;
                literals = at;
                continue;
            }
        }
        if let Some(candidate) = table.replace(hash(next as u32), at - begin) {
            let candidate = begin + candidate;
            if word(src, candidate) as u32 == next as u32 {
                let len = MIN_MATCH + same(src, candidate + MIN_MATCH, at + MIN_MATCH);
                let back = same_before(src, candidate - begin, candidate, at, at - literals);
                let (from, len) = (at - back, len + back);
                out.literals(src, literals, from - literals)?;
                out.copy(at - candidate, len)?;
                at = from + len;
                literals = at;
                if at < last {
                    let near = at - 2;
                    table.note(hash(word(src, near) as u32), near - begin);
                }
                continue;
            }
        }
        at += 1 + (at - literals >> SKIP_BITS);
    }
    Some(literals)
}

#[inline(always)]
fn hash(bytes: u32) -> u32 {
    bytes.wrapping_mul(0x9E37_79B1)
}

/// The 8 bytes at `at`.
#[inline(always)]
fn word(src: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(src[at..at + 8].try_into().unwrap_or_default())
}

/// How many bytes from `a` on are those from `b` on, where `a < b`.
#[inline(always)]
fn same(src: &[u8], a: usize, b: usize) -> usize {
    let mut len = 0;
    while b + len + 8 <= src.len() {
        let differ = word(src, a + len) ^ word(src, b + len);
        if differ != 0 {
            return len + (differ.trailing_zeros() / 8) as usize;
        }
        len += 8;
    }
    while b + len < src.len() && src[a + len] == src[b + len] {
        len += 1;
    }
    len
}

/// How many bytes, at most `room` and `most`, before `a` are those before `b`.
#[inline(always)]
fn same_before(src: &[u8], room: usize, a: usize, b: usize, most: usize) -> usize {
    let most = most.min(room);
    let mut len = 0;
    while len < most && src[a - len - 1] == src[b - len - 1] {
        len += 1;
    }
    len
}

/// How many bytes from `at` on are zero.
fn zeros(src: &[u8], at: usize) -> usize {
    let mut len = 0;
    while at + len + 8 <= src.len() {
        let bytes = word(src, at + len);
        if bytes != 0 {
            return len + (bytes.trailing_zeros() / 8) as usize;
        }
        len += 8;
    }
    len + src[at + len..]
        .iter()
        .take_while(|byte| **byte == 0)
        .count()
}

/// The stream under way.
struct Out<'a> {
    dst: &'a mut [u8],
    len: usize,
    /// Where the first instruction is or will be.
    begin: usize,
    /// The byte of the last instruction that holds the number of literals behind it.
    state_at: usize,
}

impl Out<'_> {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.dst
            .get_mut(self.len..self.len + bytes.len())?
            .copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }

    /// A run of `count` literals from `src[from..]`.
    #[inline(always)]
    fn literals(&mut self, src: &[u8], from: usize, count: usize) -> Option<()> {
        if count == 0 {
            return Some(());
        }
        if self.len == self.begin {
            if count <= FIRST_MAX {
                self.put(&[(FIRST + count) as u8])?;
            } else {
                self.long(0, count - SHORT_LITERALS)?;
            }
        } else if count <= 3 {
            self.dst[self.state_at] |= count as u8;
        } else if count <= SHORT_LITERALS {
            self.put(&[(count - 3) as u8])?;
        } else {
            self.long(0, count - SHORT_LITERALS)?;
        }
        let to = self.len;
        self.len = to + count;
        if let (Some(source), Some(target)) =
            (src.get(from..from + 16), self.dst.get_mut(to..to + 16))
            && count <= 16
        {
            target.copy_from_slice(source);
            return Some(());
        }
        self.dst
            .get_mut(to..to + count)?
            .copy_from_slice(&src[from..from + count]);
        Some(())
    }

    /// An instruction whose length is `more` beyond what its bits hold.
    #[inline(never)]
    fn long(&mut self, instruction: u8, more: usize) -> Option<()> {
        self.put(&[instruction])?;
        let zeros = (more - 1) / 255;
        self.dst.get_mut(self.len..self.len + zeros)?.fill(0);
        self.len += zeros;
        self.put(&[(more - zeros * 255) as u8])
    }

    /// A match of `len` bytes at `distance`, which is less than 32768.
    #[inline(always)]
    fn copy(&mut self, distance: usize, len: usize) -> Option<()> {
        if len <= NEAR_LEN && distance <= NEAR {
            let back = distance - 1;
            self.state_at = self.len;
            return self.put(&[((len - 1) << 5 | (back & 7) << 2) as u8, (back >> 3) as u8]);
        }
        let low = if distance <= MIDDLE {
            if len <= MIDDLE_LEN {
                self.put(&[(32 | (len - 2)) as u8])?;
            } else {
                self.long(32, len - MIDDLE_LEN)?;
            }
            distance - 1
        } else {
            if len <= FAR_LEN {
                self.put(&[(16 | (len - 2)) as u8])?;
            } else {
                self.long(16, len - FAR_LEN)?;
            }
            distance - MIDDLE
        };
        self.state_at = self.len;
        self.put(&((low << 2) as u16).to_le_bytes())
    }

    /// `count` zeros, version 1 only and not as the first instruction.
    fn run(&mut self, count: usize) -> Option<()> {
        let count = count - RUN_MIN;
        let [low, high] = RUN_DISTANCE.to_le_bytes();
        self.state_at = self.len + 1;
        self.put(&[RUN | (count & 7) as u8, low, high, (count >> 3) as u8])
    }
}
