//! Writes and reads bits, most significant first, in words of 8 bytes.

/// Writes bits. The output is always whole words.
pub(super) struct BitWriter<'a> {
    dst: &'a mut [u8],
    len: usize,
    word: u64,
    used: u32,
}

impl<'a> BitWriter<'a> {
    pub(super) fn new(dst: &'a mut [u8]) -> BitWriter<'a> {
        BitWriter {
            dst,
            len: 0,
            word: 0,
            used: 0,
        }
    }

    /// Appends the low `count` bits, at most 63, of `value`, whose others are 0; `None` where there is no room.
    #[inline(always)]
    pub(super) fn put(&mut self, value: u64, count: u32) -> Option<()> {
        let used = self.used + count;
        if used < u64::BITS {
            self.word |= value << (u64::BITS - used);
            self.used = used;
            return Some(());
        }
        let over = used - u64::BITS;
        self.word |= value >> over;
        self.dst
            .get_mut(self.len..self.len + 8)?
            .copy_from_slice(&self.word.to_be_bytes());
        self.len += 8;
        self.used = over;
        // In two steps, for `over` may be 0.
        self.word = value << (u64::BITS - 1 - over) << 1;
        Some(())
    }

    /// Pads the last word with zeros. Returns the number of bytes written.
    pub(super) fn finish(mut self) -> Option<usize> {
        if self.used > 0 {
            self.put(0, u64::BITS - self.used)?;
        }
        Some(self.len)
    }
}

/// Reads bits.
pub(super) struct BitReader<'a> {
    src: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(src: &'a [u8]) -> BitReader<'a> {
        BitReader { src, at: 0 }
    }

    /// Reads `count` bits, 1 to 32; `None` where fewer are left.
    #[inline(always)]
    pub(super) fn take(&mut self, count: u32) -> Option<u32> {
        let (byte, bit) = (self.at / 8, self.at % 8);
        let word = match self.src.get(byte..byte + 8) {
            Some(bytes) => u64::from_be_bytes(bytes.try_into().ok()?),
            None => self.last_word(byte, count)?,
        };
        self.at += count as usize;
        Some((word << bit >> (u64::BITS - count)) as u32)
    }

    /// The word at `byte`, with zeros beyond the end.
    fn last_word(&self, byte: usize, count: u32) -> Option<u64> {
        if self.left() < count as usize {
            return None;
        }
        let mut bytes = [0; 8];
        let rest = self.src.get(byte..)?;
        bytes[..rest.len()].copy_from_slice(rest);
        Some(u64::from_be_bytes(bytes))
    }

    /// Bits that are left.
    pub(super) fn left(&self) -> usize {
        self.src.len() * 8 - self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let values: Vec<(u64, u32)> = (0..300u32)
            .map(|i| {
                (
                    u64::from(i.wrapping_mul(2_654_435_761)) & ((1 << (i % 32 + 1)) - 1),
                    i % 32 + 1,
                )
            })
            .collect();
        let mut out = [0; 1024];
        let mut writer = BitWriter::new(&mut out);
        for (value, count) in &values {
            writer.put(*value, *count).unwrap();
        }
        let len = writer.finish().unwrap();
        assert_eq!(len % 8, 0);
        let mut reader = BitReader::new(&out[..len]);
        for (value, count) in &values {
            assert_eq!(reader.take(*count), Some(*value as u32));
        }
        assert!(reader.left() < 64);
    }

    #[test]
    fn nothing_beyond_the_end_is_read() {
        let mut reader = BitReader::new(&[0xFF; 3]);
        assert_eq!(reader.take(20), Some(0xF_FFFF));
        assert_eq!(reader.take(5), None);
        assert_eq!(reader.take(4), Some(0xF));
        assert_eq!(reader.take(1), None);
    }
}
