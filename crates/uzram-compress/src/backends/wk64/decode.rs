//! The decoder. It takes any bytes: streams that are too short or too long are an error, and every place is in the ring.

use std::hint::select_unpredictable as select;

use super::{LOW, NAME, RING, WORDS};
use crate::Error;

/// The most bytes that the far, near and places streams of a part can take: no word takes more than 8.
const STREAMS: usize = 8 * WORDS;
/// Bytes of the longest length field.
const LENGTH: usize = 4;
/// The longest input that a length field can hold.
pub(super) const LONGEST: usize = (1 << (7 * LENGTH)) - 1;

const CORRUPT: Error = Error::Corrupt { algorithm: NAME };

/// As [`crate::Decompress::decompress`].
pub(super) fn decompress(src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
    let (len, mut src) = length(src)?;
    let got = dst.len();
    let dst = dst.get_mut(..len).ok_or(Error::OutputTooSmall { got })?;
    let mut ring = [0; RING];
    // Padded: a word may be read at the last byte.
    let mut streams = [0; STREAMS + 8];
    let mut entered = 0;
    for part in dst.chunks_mut(8 * WORDS) {
        let (words, rest) = part.as_chunks_mut::<8>();
        src = decode_part(src, words, &mut ring, &mut entered, &mut streams)?;
        let (bytes, after) = src.split_at_checked(rest.len()).ok_or(CORRUPT)?;
        rest.copy_from_slice(bytes);
        src = after;
    }
    if src.is_empty() {
        Ok(len)
    } else {
        Err(CORRUPT)
    }
}

/// Reads the length of the input. Returns it and the rest of `src`.
fn length(src: &[u8]) -> Result<(usize, &[u8]), Error> {
    let mut len = 0;
    for (number, byte) in src.iter().enumerate().take(LENGTH) {
        len |= usize::from(byte & 0x7F) << (7 * number);
        if byte & 0x80 == 0 {
            return Ok((len, &src[number + 1..]));
        }
    }
    Err(CORRUPT)
}

/// Decodes one part. Returns the rest of `src`.
#[inline(always)]
fn decode_part<'a>(
    src: &'a [u8],
    words: &mut [[u8; 8]],
    ring: &mut [u64; RING],
    entered: &mut usize,
    streams: &mut [u8; STREAMS + 8],
) -> Result<&'a [u8], Error> {
    let (tags, src) = src
        .split_at_checked(words.len().div_ceil(4))
        .ok_or(CORRUPT)?;
    let [far, near, places] = count(tags);
    let len = 8 * far + 2 * near + places;
    let (bytes, after) = src.split_at_checked(len).ok_or(CORRUPT)?;
    // A copy in which every masked position is inside: no check for each word.
    streams
        .get_mut(..len)
        .ok_or(CORRUPT)?
        .copy_from_slice(bytes);
    let mut at = Cursor {
        far: 0,
        near: 8 * far,
        places: 8 * far + 2 * near,
        entered: *entered,
    };
    let (groups, last) = words.as_chunks_mut::<4>();
    for (group, tags) in groups.iter_mut().zip(tags) {
        at.group(*tags, group, ring, streams);
    }
    if let (true, Some(tags)) = (!last.is_empty(), tags.last()) {
        if tags >> (2 * last.len()) != 0 {
            return Err(CORRUPT);
        }
        let mut group = [[0; 8]; 4];
        at.group(*tags, &mut group, ring, streams);
        last.copy_from_slice(&group[..last.len()]);
    }
    *entered = at.entered;
    Ok(after)
}

/// Counts tags: those that are 3, that are 2, and that are 1 or 2.
fn count(tags: &[u8]) -> [usize; 3] {
    const LOWER: u64 = 0x5555_5555_5555_5555;
    let (eights, last) = tags.as_chunks::<8>();
    let mut rest = [0; 8];
    rest[..last.len()].copy_from_slice(last);
    let mut counts = [0; 3];
    for eight in eights.iter().chain([&rest]) {
        let tags = u64::from_le_bytes(*eight);
        let (lower, upper) = (tags & LOWER, tags >> 1 & LOWER);
        for (count, of) in counts
            .iter_mut()
            .zip([lower & upper, upper & !lower, lower ^ upper])
        {
            *count += of.count_ones() as usize;
        }
    }
    counts
}

/// Positions in the streams, in bytes, and in the ring.
struct Cursor {
    far: usize,
    near: usize,
    places: usize,
    entered: usize,
}

impl Cursor {
    #[inline(always)]
    fn group(
        &mut self,
        tags: u8,
        words: &mut [[u8; 8]; 4],
        ring: &mut [u64; RING],
        streams: &[u8; STREAMS + 8],
    ) {
        // Zeros come in runs.
        if tags == 0 {
            ring[self.entered % RING] = 0;
            *words = [[0; 8]; 4];
            return;
        }
        for (number, to) in words.iter_mut().enumerate() {
            *to = self
                .word(tags >> (2 * number) & 3, ring, streams)
                .to_le_bytes();
        }
    }

    /// Decodes a word. As in the encoder, every word takes the same path.
    #[inline(always)]
    fn word(&mut self, tag: u8, ring: &mut [u64; RING], streams: &[u8; STREAMS + 8]) -> u64 {
        let (far, near) = (self.far % STREAMS, self.near % STREAMS);
        let mut word = [0; 8];
        word.copy_from_slice(&streams[far..far + 8]);
        let low = u64::from(streams[near]) | u64::from(streams[near + 1]) << 8;
        let there = ring[usize::from(streams[self.places % STREAMS])];
        let (lower, upper) = (tag & 1, tag >> 1);
        let word = u64::from_le_bytes(word);
        let found = select(upper != 0, there >> LOW << LOW | low, there);
        let found = select(tag == 3, word, found);
        let found = select(tag == 0, 0, found);
        self.far += 8 * usize::from(lower & upper);
        self.near += 2 * usize::from(upper & !lower);
        self.places += usize::from(lower ^ upper);
        ring[self.entered % RING] = found;
        self.entered += usize::from(upper);
        found
    }
}
