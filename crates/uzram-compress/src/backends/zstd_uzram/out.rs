//! The output buffer and the bit writer. The buffer is as long as any block that is worth keeping. What goes beyond its
//! end is dropped and noticed once, at the end of the block ([`Out::is_full`]): no write has to check.

use super::search::MAX_BLOCK;

/// Longer than any block before it is compressed; a block that does not shrink is stored raw.
pub(super) const ROOM: usize = 0x4000;

const _: () = assert!(ROOM > MAX_BLOCK + 64);
/// Bytes that one write may take behind [`ROOM`].
const SLACK: usize = 8;

pub(super) struct Out {
    bytes: Box<[u8; ROOM + SLACK]>,
    len: usize,
}

/// Writes bits, least significant first: those that do not fill a byte yet.
#[derive(Default)]
pub(super) struct BitWriter {
    bits: u64,
    count: u32,
}

impl Out {
    pub(super) fn new() -> Out {
        Out {
            bytes: Box::new([0; _]),
            len: 0,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether bytes may have been dropped.
    pub(super) fn is_full(&self) -> bool {
        self.len >= ROOM
    }

    /// Goes back to an earlier length.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.min(ROOM)]
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.number(u64::from(byte), 1);
    }

    /// Writes the low `count` bytes, at most 8, little-endian.
    #[inline(always)]
    pub(super) fn number(&mut self, number: u64, count: usize) {
        let at = self.len.min(ROOM);
        self.bytes[at..at + SLACK].copy_from_slice(&number.to_le_bytes());
        self.len = at + count;
    }

    pub(super) fn slice(&mut self, bytes: &[u8]) {
        match self.bytes.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.len = ROOM,
        }
    }

    /// Overwrites bytes before the end.
    pub(super) fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }
}

impl BitWriter {
    /// Adds the low `count` bits of `bits`, which has no others. A flush is due after at most 56, with up to 7 left by the
    /// last one.
    #[inline(always)]
    pub(super) fn add(&mut self, bits: u64, count: u32) {
        self.bits |= bits << (self.count & 63);
        self.count += count;
    }

    /// Writes the whole bytes.
    #[inline(always)]
    pub(super) fn flush(&mut self, out: &mut Out) {
        out.number(self.bits, (self.count / 8) as usize);
        self.bits >>= (self.count & !7) & 63;
        self.count &= 7;
    }

    /// Ends a bitstream that is read backwards, with the bit that marks its end.
    pub(super) fn close(mut self, out: &mut Out) {
        self.add(1, 1);
        self.finish(out);
    }

    /// Ends a bitstream that is read forwards.
    pub(super) fn finish(mut self, out: &mut Out) {
        self.count += 7;
        self.flush(out);
    }
}
