//! The decoder. It takes any bytes: every read is from `src` or from its own output, every write is inside `dst`, and
//! work is bounded by the bytes read and written.
//!
//! Copies have a fixed width where both buffers have room for it. They write up to 15 bytes too many (inside `dst`, ahead
//! of the next output).

use super::{
    END, FAR_LEN, FIRST, MIDDLE, MIDDLE_LEN, NEAR, RUN, RUN_DISTANCE, RUN_MIN, VERSION_RLE,
    VERSIONED, VERSIONED_LEN,
};

/// Why a stream was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LzoError {
    /// The stream ends early, has bytes behind its end, reaches back too far, or is of an unknown version.
    Corrupt,
    /// `dst` is full.
    NoRoom,
}

/// States other than 1 to 3 literals behind a match: none, and a run of literals.
const NONE: usize = 0;
const MANY: usize = 4;

/// Decodes one whole stream. Returns the number of bytes written.
pub(super) fn decompress(src: &[u8], dst: &mut [u8]) -> Result<usize, LzoError> {
    let mut stream = LzoDecoder {
        src,
        dst,
        at: 0,
        len: 0,
    };
    let rle = src.len() >= VERSIONED_LEN && src[0] == VERSIONED;
    if rle {
        if src[1] != VERSION_RLE {
            return Err(LzoError::Corrupt);
        }
        stream.at = 2;
    }
    let mut state = NONE;
    let first = usize::from(*src.get(stream.at).ok_or(LzoError::Corrupt)?);
    if first > FIRST {
        stream.at += 1;
        state = (first - FIRST).min(MANY);
        stream.literals(first - FIRST)?;
    }
    loop {
        let instruction = stream.byte()?;
        let (distance, len, next) = match instruction {
            64.. => {
                let high = usize::from(stream.byte()?);
                let distance = (high << 3) + usize::from(instruction >> 2 & 7) + 1;
                (distance, usize::from(instruction >> 5) + 1, instruction)
            }
            32.. => {
                let len = stream.length(instruction, MIDDLE_LEN - 2)? + 2;
                let low = stream.low16()?;
                (usize::from(low >> 2) + 1, len, low as u8)
            }
            16.. => {
                if rle
                    && instruction & 0xF8 == RUN
                    && stream.peek16() & RUN_DISTANCE == RUN_DISTANCE
                {
                    state = usize::from(stream.low16()? & 3);
                    let high = usize::from(stream.byte()?);
                    stream.zeros((high << 3 | usize::from(instruction & 7)) + RUN_MIN)?;
                    stream.literals(state)?;
                    continue;
                }
                let len = stream.length(instruction & 0x17, FAR_LEN - 2)? + 2;
                let low = stream.low16()?;
                let high = usize::from(instruction >> 3 & 1) << 14;
                let distance = MIDDLE + high + usize::from(low >> 2);
                if distance == MIDDLE {
                    let whole = len == usize::from(END[0] & 7) + 2 && low == 0;
                    return if whole && stream.at == src.len() {
                        Ok(stream.len)
                    } else {
                        Err(LzoError::Corrupt)
                    };
                }
                (distance, len, low as u8)
            }
            _ if state == NONE => {
                let len = stream.length(instruction, 15)? + 3;
                stream.literals(len)?;
                state = MANY;
                continue;
            }
            _ => {
                let high = usize::from(stream.byte()?);
                let distance = (high << 2) + usize::from(instruction >> 2) + 1;
                let (distance, len) = if state == MANY {
                    (distance + NEAR, 3)
                } else {
                    (distance, 2)
                };
                (distance, len, instruction)
            }
        };
        stream.copy(distance, len)?;
        state = usize::from(next & 3);
        stream.literals(state)?;
    }
}

struct LzoDecoder<'a> {
    src: &'a [u8],
    dst: &'a mut [u8],
    /// The next byte of `src`.
    at: usize,
    /// Bytes of `dst` written so far.
    len: usize,
}

impl LzoDecoder<'_> {
    #[inline(always)]
    fn byte(&mut self) -> Result<u8, LzoError> {
        let byte = *self.src.get(self.at).ok_or(LzoError::Corrupt)?;
        self.at += 1;
        Ok(byte)
    }

    #[inline(always)]
    fn low16(&mut self) -> Result<u16, LzoError> {
        let bytes = self
            .src
            .get(self.at..self.at + 2)
            .ok_or(LzoError::Corrupt)?;
        self.at += 2;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// The next 16 bits without taking them; 0 where there are fewer.
    fn peek16(&self) -> u16 {
        let bytes = self.src.get(self.at..self.at + 2);
        bytes.map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// Reads a length: the low bits of `instruction`, or, where they are 0, `most` (all ones) plus the bytes that follow.
    #[inline(always)]
    fn length(&mut self, instruction: u8, most: usize) -> Result<usize, LzoError> {
        match usize::from(instruction) & most {
            0 => self.long_length(most),
            len => Ok(len),
        }
    }

    fn long_length(&mut self, most: usize) -> Result<usize, LzoError> {
        let mut len = most;
        loop {
            match self.byte()? {
                0 => len += 255,
                byte => return Ok(len + usize::from(byte)),
            }
        }
    }

    /// Copies `len` literals.
    #[inline(always)]
    fn literals(&mut self, len: usize) -> Result<(), LzoError> {
        if len == 0 {
            return Ok(());
        }
        let (from, to) = (self.at, self.len);
        if let (Some(source), Some(target)) =
            (self.src.get(from..from + 16), self.dst.get_mut(to..to + 16))
            && len <= 16
        {
            target.copy_from_slice(source);
        } else {
            self.many_literals(len)?;
        }
        self.at = from + len;
        self.len = to + len;
        Ok(())
    }

    fn many_literals(&mut self, len: usize) -> Result<(), LzoError> {
        let source = self
            .src
            .get(self.at..self.at + len)
            .ok_or(LzoError::Corrupt)?;
        let target = self
            .dst
            .get_mut(self.len..self.len + len)
            .ok_or(LzoError::NoRoom)?;
        target.copy_from_slice(source);
        Ok(())
    }

    /// Copies a match of `len` bytes at `distance`.
    #[inline(always)]
    fn copy(&mut self, distance: usize, len: usize) -> Result<(), LzoError> {
        let from = self.len.checked_sub(distance).ok_or(LzoError::Corrupt)?;
        let to = self.len;
        self.len = to + len;
        if distance >= 8 && self.len + 8 <= self.dst.len() {
            let (mut from, mut to) = (from, to);
            loop {
                let Some(word) = self.dst[from..].first_chunk::<8>().copied() else {
                    return Err(LzoError::NoRoom);
                };
                self.dst[to..to + 8].copy_from_slice(&word);
                (from, to) = (from + 8, to + 8);
                if to >= self.len {
                    return Ok(());
                }
            }
        }
        self.copy_narrow(from, to, len)
    }

    /// Copies a match that overlaps its own first 8 bytes, or close to the end of `dst`.
    fn copy_narrow(&mut self, from: usize, to: usize, len: usize) -> Result<(), LzoError> {
        let room = self.dst.get_mut(..to + len).ok_or(LzoError::NoRoom)?;
        let distance = to - from;
        if distance >= len {
            room.copy_within(from..from + len, to);
        } else if distance == 1 {
            let byte = room[from];
            room[to..].fill(byte);
        } else {
            // Repeats the pattern, doubling it each time.
            let mut done = 0;
            while done < len {
                let most = (distance + done).min(len - done);
                room.copy_within(from..from + most, to + done);
                done += most;
            }
        }
        Ok(())
    }

    fn zeros(&mut self, len: usize) -> Result<(), LzoError> {
        let end = self.len + len;
        self.dst
            .get_mut(self.len..end)
            .ok_or(LzoError::NoRoom)?
            .fill(0);
        self.len = end;
        Ok(())
    }
}
