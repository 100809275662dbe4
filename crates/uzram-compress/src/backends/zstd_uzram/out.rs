//! Where an encoder puts its bits and bytes: a buffer that is as long as any block that is worth keeping. What goes beyond
//! its end is forgotten and found out at the end of the block, so that nothing in between has to ask.

use super::search::MOST;

/// Longer than any block before it is compressed, which is what is kept instead of a longer result.
pub(super) const ROOM: usize = 0x4000;

const _: () = assert!(ROOM > MOST + 64);
/// Bytes that one write may go past the last place where one may begin.
const SLACK: usize = 8;

pub(super) struct Out {
    bytes: Box<[u8; ROOM + SLACK]>,
    len: usize,
}

/// Bits that wait to become bytes, the first ones lowest.
#[derive(Default)]
pub(super) struct Bits {
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

    /// Whether something may have been forgotten.
    pub(super) fn is_full(&self) -> bool {
        self.len >= ROOM
    }

    /// Back to a length that it had.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.min(ROOM)]
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.number(u64::from(byte), 1);
    }

    /// The low `count` bytes, at most 8.
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

    /// Other bytes at a place before the end.
    pub(super) fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }
}

impl Bits {
    /// The low `count` bits of `bits`, which has no others. At most 56 may wait before a flush, with up to 7 left by the last.
    #[inline(always)]
    pub(super) fn add(&mut self, bits: u64, count: u32) {
        self.bits |= bits << (self.count & 63);
        self.count += count;
    }

    /// Outputs whole bytes.
    #[inline(always)]
    pub(super) fn flush(&mut self, out: &mut Out) {
        out.number(self.bits, (self.count / 8) as usize);
        self.bits >>= (self.count & !7) & 63;
        self.count &= 7;
    }

    /// The end of what is read backwards: a bit that says where.
    pub(super) fn close(mut self, out: &mut Out) {
        self.add(1, 1);
        self.finish(out);
    }

    /// The end of what is read forwards.
    pub(super) fn finish(mut self, out: &mut Out) {
        self.count += 7;
        self.flush(out);
    }
}
