//! The encoder. No processor predicts the tags, so every word takes the same path: it is stored to every stream, and
//! advances those that it belongs to.
//!
//! Shorter forms of far words (without a zero upper half or quarter, or with another word's) made heaps 5 % denser and
//! cost 40 % of the speed; tags of three bits for more kinds of words made them no denser.

use std::hint::select_unpredictable as select;

use super::decode::LONGEST;
use super::{LOW, RING, WORDS};

/// Logarithm of the number of slots for whole words.
const WHOLE_BITS: u32 = 10;
/// Logarithm of the number of slots for words without their low bits.
const UPPER_BITS: u32 = 8;

/// A worker's tables, and the streams of a part until they are known to fit.
pub(super) struct Encoder {
    ring: [u64; RING],
    /// Candidate places in the ring by hash: the word there must be compared.
    whole: [u8; 1 << WHOLE_BITS],
    upper: [u8; 1 << UPPER_BITS],
    tags: [u8; WORDS / 4],
    far: [u64; WORDS],
    low: [u16; WORDS],
    places: [u8; WORDS],
}

/// Lengths of a part's streams.
#[derive(Default, Clone, Copy)]
struct StreamLens {
    /// Far and near words, which enter the ring.
    entered: usize,
    near: usize,
    places: usize,
}

/// Fibonacci hashing.
#[inline(always)]
fn hash(word: u64, bits: u32) -> usize {
    (word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - bits)) as usize
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder {
            ring: [0; RING],
            whole: [0; 1 << WHOLE_BITS],
            upper: [0; 1 << UPPER_BITS],
            tags: [0; WORDS / 4],
            far: [0; WORDS],
            low: [0; WORDS],
            places: [0; WORDS],
        }
    }

    /// Returns the object's length; `None` where it does not fit, or the input is longer than a length field can hold.
    pub(super) fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        if src.len() > LONGEST {
            return None;
        }
        self.whole.fill(0);
        self.upper.fill(0);
        // The other places are not read before they are written.
        self.ring[0] = 0;
        let mut at = length(src.len(), dst)?;
        let mut entered = 0;
        for part in src.chunks(8 * WORDS) {
            let (words, rest) = part.as_chunks::<8>();
            let ends = self.streams(words, entered);
            at += self.write(words.len(), ends, dst.get_mut(at..)?)?;
            entered += ends.entered;
            dst.get_mut(at..at + rest.len())?.copy_from_slice(rest);
            at += rest.len();
        }
        Some(at)
    }

    /// Fills the streams of a part, given the number of words that entered the ring before.
    fn streams(&mut self, words: &[[u8; 8]], entered: usize) -> StreamLens {
        let mut ends = StreamLens::default();
        let (groups, last) = words.as_chunks::<4>();
        for (number, group) in groups.iter().enumerate() {
            self.group(number, group.map(u64::from_le_bytes), &mut ends, entered);
        }
        if !last.is_empty() {
            let mut group = [0; 4];
            for (word, bytes) in group.iter_mut().zip(last) {
                *word = u64::from_le_bytes(*bytes);
            }
            self.group(groups.len(), group, &mut ends, entered);
        }
        ends
    }

    #[inline(always)]
    fn group(&mut self, number: usize, words: [u64; 4], ends: &mut StreamLens, entered: usize) {
        let number = number % (WORDS / 4);
        let [a, b, c, d] = words;
        // Zeros come in runs.
        if a | b | c | d == 0 {
            self.ring[(entered + ends.entered) % RING] = 0;
            self.tags[number] = 0;
            return;
        }
        let mut tag = |word| self.word(word, ends, entered);
        self.tags[number] = tag(a) | tag(b) << 2 | tag(c) << 4 | tag(d) << 6;
    }

    /// Encodes a word. Returns its tag.
    #[inline(always)]
    fn word(&mut self, word: u64, ends: &mut StreamLens, entered: usize) -> u8 {
        let (by_whole, by_upper) = (hash(word, WHOLE_BITS), hash(word >> LOW, UPPER_BITS));
        let (whole, upper) = (self.whole[by_whole], self.upper[by_upper]);
        let zero = word == 0;
        let same = self.ring[usize::from(whole)] == word;
        let new = !(zero | same);
        let near = new & ((self.ring[usize::from(upper)] ^ word) >> LOW == 0);
        let place = select(same, whole, upper);
        let next = (entered + ends.entered) % RING;
        self.ring[next] = word;
        self.far[(ends.entered - ends.near) % WORDS] = word;
        self.low[ends.near % WORDS] = word as u16;
        self.places[ends.places % WORDS] = place;
        // A word that was there keeps its place, and is the candidate for words near it.
        let place = select(new, next as u8, place);
        self.whole[by_whole] = place;
        self.upper[by_upper] = place;
        ends.entered += usize::from(new);
        ends.near += usize::from(near);
        ends.places += usize::from(near | (same & !zero));
        u8::from(!zero) + u8::from(new) + u8::from(new & !near)
    }

    /// Writes the streams of a part of so many words. Returns their length.
    fn write(&self, words: usize, ends: StreamLens, dst: &mut [u8]) -> Option<usize> {
        let (tags, far) = (words.div_ceil(4), ends.entered - ends.near);
        let len = tags + 8 * far + 2 * ends.near + ends.places;
        let (to, rest) = dst.get_mut(..len)?.split_at_mut(tags);
        to.copy_from_slice(&self.tags[..tags]);
        let (to, rest) = rest.split_at_mut(8 * far);
        for (to, word) in to.as_chunks_mut::<8>().0.iter_mut().zip(&self.far) {
            *to = word.to_le_bytes();
        }
        let (to, rest) = rest.split_at_mut(2 * ends.near);
        for (to, low) in to.as_chunks_mut::<2>().0.iter_mut().zip(&self.low) {
            *to = low.to_le_bytes();
        }
        rest.copy_from_slice(&self.places[..ends.places]);
        Some(len)
    }
}

/// Writes the length of the input. Returns the number of bytes.
fn length(mut len: usize, dst: &mut [u8]) -> Option<usize> {
    let mut at = 0;
    while len >= 0x80 {
        *dst.get_mut(at)? = len as u8 | 0x80;
        len >>= 7;
        at += 1;
    }
    *dst.get_mut(at)? = len as u8;
    Some(at + 1)
}
