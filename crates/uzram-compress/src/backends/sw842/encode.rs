//! The encoder: for each block the template of fewest bits. Three hash tables hold the last position of the same 2, 4 or
//! 8 bytes; an index refers to it while it is in the window.

use super::super::positions::{CHUNK, Positions};
use super::bits::BitWriter;
use super::{
    BLOCK, HALVES, Half, REPEAT_BITS, SHORT_BITS, TEMPLATE_BITS, crc, index_bits, template, window,
};

/// The most repetitions of one template.
const REPEAT_MAX: usize = 1 << REPEAT_BITS;
/// Up to so many blocks of zeros take fewer bits than a repetition.
const ZEROS_MAX: usize = 2;

/// The tables: each has several times as many slots as a window has units.
pub(super) struct Encoder {
    twos: Positions<4096>,
    fours: Positions<4096>,
    eights: Positions<2048>,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder {
            twos: Positions::new(),
            fours: Positions::new(),
            eights: Positions::new(),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.twos.memory_bytes() + self.fours.memory_bytes() + self.eights.memory_bytes()
    }

    /// Compresses all of `src`; `None` where the stream does not fit.
    pub(super) fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        let mut out = BitWriter::new(dst);
        let (blocks, rest) = src.as_chunks::<BLOCK>();
        let mut before = None;
        for (number, chunk) in blocks.chunks(CHUNK / BLOCK).enumerate() {
            self.twos.clear();
            self.fours.clear();
            self.eights.clear();
            self.chunk(chunk, number * (CHUNK / BLOCK * BLOCK), before, &mut out)?;
            before = chunk.last();
        }
        if !rest.is_empty() {
            out.put(u64::from(template::SHORT), TEMPLATE_BITS)?;
            out.put(rest.len() as u64, SHORT_BITS)?;
            for byte in rest {
                out.put(u64::from(*byte), u8::BITS)?;
            }
        }
        out.put(u64::from(template::END), TEMPLATE_BITS)?;
        out.put(u64::from(crc(src)), u32::BITS)?;
        out.finish()
    }

    /// `blocks` lie at `base` in the input, behind the block `before`.
    fn chunk<'a>(
        &mut self,
        blocks: &'a [[u8; BLOCK]],
        base: usize,
        mut before: Option<&'a [u8; BLOCK]>,
        out: &mut BitWriter,
    ) -> Option<()> {
        let mut number = 0;
        while let Some(block) = blocks.get(number) {
            let zeros = *block == [0; BLOCK];
            if before == Some(block) || zeros {
                let run = blocks[number..]
                    .iter()
                    .take(REPEAT_MAX)
                    .take_while(|b| *b == block)
                    .count();
                // The first zeros behind something else are no repetition.
                let repeats = if before == Some(block) { run } else { 0 };
                if zeros && repeats <= ZEROS_MAX {
                    out.put(u64::from(template::ZEROS), TEMPLATE_BITS)?;
                    self.note(block, number * BLOCK);
                    number += 1;
                } else {
                    let value = template::REPEAT << REPEAT_BITS | (repeats - 1) as u32;
                    out.put(u64::from(value), TEMPLATE_BITS + REPEAT_BITS)?;
                    number += repeats;
                    self.note(block, (number - 1) * BLOCK);
                }
            } else {
                self.block(block, blocks, number * BLOCK, base, out)?;
                number += 1;
            }
            before = Some(block);
        }
        Some(())
    }

    /// Makes a block, which lies at `at` in the chunk, known to the tables.
    fn note(&mut self, block: &[u8; BLOCK], at: usize) {
        self.eights.replace(hash8(block), at);
        for (place, four) in block.as_chunks::<4>().0.iter().enumerate() {
            self.fours.replace(hash4(four), at + place * 4);
        }
        for (place, two) in block.as_chunks::<2>().0.iter().enumerate() {
            self.twos.replace(hash2(two), at + place * 2);
        }
    }

    /// Writes one block by the template of fewest bits.
    fn block(
        &mut self,
        block: &[u8; BLOCK],
        blocks: &[[u8; BLOCK]],
        at: usize,
        base: usize,
        out: &mut BitWriter,
    ) -> Option<()> {
        let chunk = blocks.as_flattened();
        let eight = index(chunk, block, self.eights.last(hash8(block)), at, base);
        let mut ways = [(Half::Data, 0, 0); 2];
        for (half, way) in ways.iter_mut().enumerate() {
            let place = half * 4;
            let four: &[u8; 4] = block[place..].first_chunk()?;
            let found = self.fours.last(hash4(four));
            let (a, b): (&[u8; 2], &[u8; 2]) = (four.first_chunk()?, four.last_chunk()?);
            let first = self.twos.last(hash2(a));
            let second = self.twos.last(hash2(b));
            *way = match index(chunk, four, found, at, base) {
                Some(index) => (Half::Index, index, index_bits(4)),
                None => pair(
                    (u16::from_be_bytes(*a), index(chunk, a, first, at, base)),
                    (u16::from_be_bytes(*b), index(chunk, b, second, at, base)),
                ),
            };
        }
        // Only now: a block cannot refer to itself, and its own positions would hide earlier ones.
        self.note(block, at);
        if let Some(eight) = eight {
            let value = u64::from(template::INDEX) << index_bits(BLOCK) | eight;
            return out.put(value, TEMPLATE_BITS + index_bits(BLOCK));
        }
        let [(first, value, count), (second, value2, count2)] = ways;
        let number = first as u32 * HALVES + second as u32;
        out.put(u64::from(number) << count | value, TEMPLATE_BITS + count)?;
        out.put(value2, count2)
    }
}

/// The way for 4 bytes without an index of 4: value and number of bits.
fn pair(first: (u16, Option<u64>), second: (u16, Option<u64>)) -> (Half, u64, u32) {
    let data = |(data, _): (u16, Option<u64>)| u64::from(data);
    let bits = index_bits(2);
    match (first.1, second.1) {
        (None, None) => (Half::Data, data(first) << 16 | data(second), 32),
        (None, Some(index)) => (Half::DataIndex, data(first) << bits | index, 16 + bits),
        (Some(index), None) => (Half::IndexData, index << 16 | data(second), bits + 16),
        (Some(index), Some(other)) => (Half::IndexIndex, index << bits | other, 2 * bits),
    }
}

/// The index of position `place` in the chunk at `base`, if `bytes` are there and in the window of the block at `at`,
/// which cannot refer to itself.
#[inline(always)]
fn index<const SIZE: usize>(
    chunk: &[u8],
    bytes: &[u8; SIZE],
    place: usize,
    at: usize,
    base: usize,
) -> Option<u64> {
    let near = place < at && at - place <= window(SIZE);
    let same = near && chunk[place..].first_chunk() == Some(bytes);
    same.then_some(((base + place) % window(SIZE) / SIZE) as u64)
}

fn hash8(bytes: &[u8; 8]) -> u32 {
    (u64::from_le_bytes(*bytes).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

fn hash4(bytes: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*bytes).wrapping_mul(0x9E37_79B1)
}

fn hash2(bytes: &[u8; 2]) -> u32 {
    u32::from(u16::from_le_bytes(*bytes)).wrapping_mul(0x9E37_79B1)
}
