//! The decoder. It takes any bytes: every read is from `src` or from its own output, every write is inside `dst`, and the
//! output counts only if its CRC is right.

use super::bits::BitReader;
use super::{
    BLOCK, HALVES, NAME, REPEAT_BITS, SHORT_BITS, TEMPLATE_BITS, crc, index_bits, template, window,
};
use crate::Error;

const CORRUPT: Error = Error::Corrupt { algorithm: NAME };

/// Decodes one whole stream. Returns the number of bytes written.
pub(super) fn decompress(src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
    let got = dst.len();
    let mut out = Decoded { dst, len: 0 };
    let mut reader = BitReader::new(src);
    let no_room = || Error::OutputTooSmall { got };
    loop {
        let number = reader.take(TEMPLATE_BITS).ok_or(CORRUPT)?;
        let block = match number {
            template::END => break,
            template::SHORT => {
                out.short(&mut reader, no_room)?;
                continue;
            }
            template::REPEAT => {
                let count = reader.take(REPEAT_BITS).ok_or(CORRUPT)? + 1;
                let block = out.indexed::<BLOCK>(out.len.checked_sub(BLOCK).ok_or(CORRUPT)?)?;
                for _ in 1..count {
                    out.block(block).ok_or_else(no_room)?;
                }
                block
            }
            template::ZEROS => [0; BLOCK],
            template::INDEX => out.index(&mut reader)?,
            _ if number < HALVES * HALVES => {
                let mut block = [0; BLOCK];
                let (first, second) = block.split_at_mut(BLOCK / 2);
                out.half(number / HALVES, &mut reader, first)?;
                out.half(number % HALVES, &mut reader, second)?;
                block
            }
            _ => return Err(CORRUPT),
        };
        out.block(block).ok_or_else(no_room)?;
    }
    let sum = reader.take(u32::BITS).ok_or(CORRUPT)?;
    // The rest is padding.
    if reader.left() >= BLOCK * 8 || sum != crc(&out.dst[..out.len]) {
        return Err(CORRUPT);
    }
    Ok(out.len)
}

struct Decoded<'a> {
    dst: &'a mut [u8],
    /// Bytes written.
    len: usize,
}

impl Decoded<'_> {
    #[inline(always)]
    fn block(&mut self, block: [u8; BLOCK]) -> Option<()> {
        *self.dst.get_mut(self.len..)?.first_chunk_mut()? = block;
        self.len += BLOCK;
        Some(())
    }

    /// Decodes the last bytes of an output that is no multiple of 8.
    fn short(&mut self, reader: &mut BitReader, no_room: impl Fn() -> Error) -> Result<(), Error> {
        let count = reader.take(SHORT_BITS).ok_or(CORRUPT)? as usize;
        if count == 0 {
            return Err(CORRUPT);
        }
        for _ in 0..count {
            let byte = reader.take(u8::BITS).ok_or(CORRUPT)?;
            *self.dst.get_mut(self.len).ok_or_else(&no_room)? = byte as u8;
            self.len += 1;
        }
        Ok(())
    }

    /// Decodes half a block, coded in the way of that number ([`super::Half`]).
    #[inline(always)]
    fn half(&self, way: u32, reader: &mut BitReader, to: &mut [u8]) -> Result<(), Error> {
        let data = |reader: &mut BitReader| Some((reader.take(16)? as u16).to_be_bytes());
        let [a, b] = match way {
            0 => {
                to.copy_from_slice(&reader.take(32).ok_or(CORRUPT)?.to_be_bytes());
                return Ok(());
            }
            1 => [data(reader).ok_or(CORRUPT)?, self.index(reader)?],
            2 => [self.index(reader)?, data(reader).ok_or(CORRUPT)?],
            3 => [self.index(reader)?, self.index(reader)?],
            _ => {
                to.copy_from_slice(&self.index::<4>(reader)?);
                return Ok(());
            }
        };
        to.copy_from_slice(&[a[0], a[1], b[0], b[1]]);
        Ok(())
    }

    /// Reads an index. Returns the bytes that it refers to.
    #[inline(always)]
    fn index<const SIZE: usize>(&self, reader: &mut BitReader) -> Result<[u8; SIZE], Error> {
        let index = reader.take(index_bits(SIZE)).ok_or(CORRUPT)?;
        let offset = index as usize * SIZE;
        // The last position before the current one that is `offset` modulo the window.
        let lap = self.len & !(window(SIZE) - 1);
        let at = if lap + offset < self.len {
            Some(lap + offset)
        } else {
            (lap + offset).checked_sub(window(SIZE))
        };
        self.indexed(at.ok_or(CORRUPT)?)
    }

    /// The bytes at `at`, all of which must have been written.
    #[inline(always)]
    fn indexed<const SIZE: usize>(&self, at: usize) -> Result<[u8; SIZE], Error> {
        self.dst[..self.len]
            .get(at..)
            .and_then(|rest| rest.first_chunk().copied())
            .ok_or(CORRUPT)
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::Encoder;
    use super::*;

    /// The CRC sees what the format itself would let pass.
    #[test]
    fn no_flipped_bit_of_the_output_passes() {
        let plain: Vec<u8> = (0..1000u32).map(|i| ((i * i) >> 5) as u8).collect();
        let mut object = [0; 2048];
        let len = Encoder::new().compress(&plain, &mut object).unwrap();
        for bit in 0..len * 8 {
            let mut bad = object;
            bad[bit / 8] ^= 0x80 >> (bit % 8);
            let mut out = [0; 1000];
            if decompress(&bad[..len], &mut out) == Ok(plain.len()) {
                assert!(out[..] == plain, "bit {bit} changes the output unnoticed");
            }
        }
    }
}
