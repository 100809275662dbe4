//! The encoder: greedy, one candidate for each position, found by a hash of its next 4 bytes.
//!
//! On real pages it waits for memory and mispredicted branches, a few hundred a page, more than it computes. So the
//! candidate for the position behind a match is looked up before the match is written, and the form of an instruction is
//! chosen without branches ([`LzoOut`]).
//!
//! Inputs beyond [`CHUNK`] are cut: matches do not cross a cut. That keeps every distance below 32768, and clear of the
//! far matches that version 1 could mistake for runs of zeros.

use super::super::positions::{CHUNK, Positions};
use super::RUN_MAX;
use super::out::{LzoOut, SHORT};

/// Bytes that the hash takes, and the shortest match.
const MIN_MATCH: usize = 4;
/// No match begins among the last bytes of a chunk, so that one comparison of 8 bytes tells most matches' length.
const TAIL: usize = 2 * MIN_MATCH;
/// After every `1 << SKIP_BITS` bytes without a match, one more position is skipped.
const SKIP_BITS: u32 = 5;
/// Runs of zeros that are shorter are left to matches, which take 2 or 3 bytes instead of 4.
const RUN_WORTH: usize = 16;

/// As many slots as a page has positions.
const SLOTS: usize = 4096;
/// Covers every position that a slot can hold, of which a chunk has half.
const MASK: usize = 0xFFFF;
const _: () = assert!(CHUNK <= MASK);
/// Any position that is masked can be read from here, [`SHORT`] bytes, without a check, of which the search, a loop
/// of some fifteen instructions, would otherwise have four; and what a slot says needs no mask, which is worth 3 % for
/// lzo. That is why it is larger than a chunk.
type PaddedChunk = [u8; MASK + 1 + SHORT];

/// One worker's state.
pub(super) struct Encoder {
    positions: Positions<SLOTS>,
    /// The current chunk, followed by stale bytes of earlier ones, which change nothing.
    chunk: Box<PaddedChunk>,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder {
            positions: Positions::new(),
            chunk: Box::new([0; _]),
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
        let room = dst.len();
        let mut out = LzoOut::<RLE>::begin(dst)?;
        let mut literals = 0;
        for (number, bytes) in src.chunks(CHUNK).enumerate() {
            self.chunk[..bytes.len()].copy_from_slice(bytes);
            self.positions.clear();
            let begin = number * CHUNK;
            let search = Search::new(&self.chunk, bytes.len(), &mut self.positions);
            (literals, out) = encode(search, src, begin, literals, out)?;
        }
        if literals < src.len() {
            out = out.literals(&src[literals..])?;
        }
        out.end(room)
    }
}

/// Encodes the matches of the chunk that begins at `begin` of `src`. `literals` is where in `src` the literals begin that
/// are not written yet; returns the same for the next chunk.
fn encode<'a, const RLE: bool>(
    mut search: Search,
    src: &[u8],
    begin: usize,
    literals: usize,
    mut out: LzoOut<'a, RLE>,
) -> Option<(usize, LzoOut<'a, RLE>)> {
    if !search.find::<RLE>(0) {
        return Some((literals, out));
    }
    // The first literals may be the stream's, which have an instruction of their own, or begin in the chunk before.
    let mut since = search.at;
    out = out.literals(&src[literals..begin + since])?;
    while search.find::<RLE>(since) {
        let count = search.at - since;
        out = if count <= SHORT {
            out.short_literals(search.chunk(since), count)?
        } else {
            out.literals(&src[begin + since..begin + search.at])?
        };
        let (at, candidate) = (search.at, search.candidate);
        if RLE && candidate == at {
            let run = search.zeros().min(RUN_MAX);
            search.go(at + run);
            out = out.run(run)?;
        } else {
            let len = search.match_len(candidate, at);
            search.go(at + len);
            out = out.copy(at - candidate, len)?;
        }
        since = search.at;
    }
    Some((begin + since, out))
}

/// A position in a chunk, counted from its beginning, and its candidate.
struct Search<'a> {
    bytes: &'a PaddedChunk,
    len: usize,
    /// The last position where a match may begin; 0, where none does, if there is no such position.
    last: usize,
    positions: &'a mut Positions<SLOTS>,
    at: usize,
    /// The 8 bytes at `at`.
    next: u64,
    /// Where the same hash was seen last; `at` itself for a run of zeros.
    candidate: usize,
}

impl<'a> Search<'a> {
    fn new(bytes: &'a PaddedChunk, len: usize, positions: &'a mut Positions<SLOTS>) -> Self {
        let mut search = Search {
            bytes,
            len,
            last: len.saturating_sub(TAIL),
            positions,
            at: 0,
            next: 0,
            candidate: 0,
        };
        // Position 0 is in every slot already. Nothing precedes it, and a run of zeros cannot be the first instruction.
        search.go(1);
        search
    }

    /// Moves to a position and looks its candidate up. It may be the end, whose bytes then are any.
    #[inline(always)]
    fn go(&mut self, at: usize) {
        self.at = at;
        self.next = self.word(at);
        self.candidate = self.positions.replace(hash(self.next as u32), at);
    }

    /// Moves on to the first position that has a match, this one included. Returns false if there is none.
    #[inline(always)]
    fn find<const RLE: bool>(&mut self, since: usize) -> bool {
        while self.at <= self.last {
            if RLE && self.next == 0 && self.is_run() {
                self.candidate = self.at;
                return true;
            }
            if self.word(self.candidate) as u32 == self.next as u32 {
                return true;
            }
            self.go(self.at + 1 + ((self.at - since) >> SKIP_BITS));
        }
        false
    }

    /// Whether a run of zeros here is worth an instruction, where the next 8 bytes are zero.
    #[inline(always)]
    fn is_run(&self) -> bool {
        const { assert!(RUN_WORTH == 16) };
        self.word(self.at + 8) == 0 && self.at + RUN_WORTH <= self.len
    }

    /// The bytes at `at`.
    #[inline(always)]
    fn chunk<const COUNT: usize>(&self, at: usize) -> &'a [u8; COUNT] {
        const { assert!(COUNT <= SHORT) };
        let bytes: &'a PaddedChunk = self.bytes;
        bytes[at & MASK..].first_chunk().unwrap_or(&[0; COUNT])
    }

    /// The 8 bytes at `at`.
    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(*self.chunk(at))
    }

    /// Number of zeros from here on.
    #[inline(always)]
    fn zeros(&self) -> usize {
        zeros(&self.bytes[self.at & MASK..][..self.len - self.at])
    }

    /// Length of the match between `a < b`, whose first [`MIN_MATCH`] bytes are the same.
    #[inline(always)]
    fn match_len(&self, a: usize, b: usize) -> usize {
        let most = self.len - b;
        let differ = self.word(a + MIN_MATCH) ^ self.word(b + MIN_MATCH);
        if differ == 0 {
            return self.extend(a, b, most);
        }
        let len = MIN_MATCH + (differ.trailing_zeros() / 8) as usize;
        if len > most { cut(most) } else { len }
    }

    /// The same where the next 8 bytes are, too.
    #[inline(always)]
    fn extend(&self, a: usize, b: usize, most: usize) -> usize {
        let mut len = MIN_MATCH + 8;
        while len < most {
            let differ = self.word(a + len) ^ self.word(b + len);
            if differ != 0 {
                return most.min(len + (differ.trailing_zeros() / 8) as usize);
            }
            len += 8;
        }
        most
    }
}

/// Cuts a match that reaches beyond the chunk. A cold function, so that the compiler makes it a branch, which is
/// predicted, and not a conditional move to wait for.
#[cold]
#[inline(never)]
fn cut(most: usize) -> usize {
    most
}

/// Number of leading zeros.
#[inline(never)]
fn zeros(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    let whole = 8 * words.iter().take_while(|word| **word == [0; 8]).count();
    let rest = bytes[whole..].iter().take_while(|byte| **byte == 0);
    whole + rest.count()
}

#[inline(always)]
fn hash(bytes: u32) -> u32 {
    bytes.wrapping_mul(0x9E37_79B1)
}
