//! A request's descriptors: the parts of the guest's memory that it consists of, checked and copied once.
//!
//! Descriptors are in memory that the guest may change at any moment. They are read once; afterwards only the copy counts.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::config::MAX_QUEUE_SIZE;

/// Size of a descriptor: address, length, flags, number of the next one.
const DESCRIPTOR_BYTES: u64 = 16;
const NEXT: u16 = 1;
const WRITABLE: u16 = 2;
const TABLE: u16 = 4;
/// Most descriptors that a request may have.
const MAX_DESCRIPTORS: usize = MAX_QUEUE_SIZE as usize;

/// Why descriptors make no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainError {
    #[error("a descriptor is not in the guest's memory")]
    Memory,
    #[error("a descriptor's number is beyond its table")]
    Number,
    #[error("there are more descriptors than the table has")]
    Loop,
    #[error("a table of descriptors is not as it was agreed on")]
    Table,
    #[error("what the device reads comes after what it writes")]
    Order,
}

/// Where descriptors are, and what was agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DescriptorTable {
    pub(crate) at: GuestAddress,
    pub(crate) size: u16,
    /// Whether a descriptor may stand for a table of its own.
    pub(crate) indirect: bool,
}

/// A part of the guest's memory. Whether it is there shows when it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    at: GuestAddress,
    len: u32,
}

/// The parts of one request: those that the device reads, then those that it writes. It is used again for each request.
#[derive(Debug)]
pub(crate) struct Chain {
    parts: Vec<Part>,
    /// How many the device reads.
    readable: usize,
}

/// A position in the parts that are read, or in those that are written.
pub(crate) struct Cursor<'a> {
    parts: std::slice::Iter<'a, Part>,
    now: Part,
}

impl Chain {
    pub(crate) fn new() -> Chain {
        Chain {
            parts: Vec::with_capacity(MAX_DESCRIPTORS),
            readable: 0,
        }
    }

    /// Reads the descriptors that begin with `head`. After an error the parts before it are there.
    pub(crate) fn read(
        &mut self,
        mem: &GuestMemoryMmap,
        table: DescriptorTable,
        head: u16,
    ) -> Result<(), ChainError> {
        self.parts.clear();
        self.readable = 0;
        let mut table = table;
        let mut left = table.size;
        let mut next = Some(head);
        while let Some(number) = next {
            if number >= table.size {
                return Err(ChainError::Number);
            }
            left = left.checked_sub(1).ok_or(ChainError::Loop)?;
            let (part, flags, follows) = descriptor(mem, table.at, number)?;
            if flags & TABLE != 0 {
                table = inner_table(table, part, flags)?;
                left = table.size;
                next = Some(0);
                continue;
            }
            self.push(part, flags & WRITABLE != 0)?;
            next = (flags & NEXT != 0).then_some(follows);
        }
        Ok(())
    }

    fn push(&mut self, part: Part, writable: bool) -> Result<(), ChainError> {
        if self.parts.len() == MAX_DESCRIPTORS {
            return Err(ChainError::Loop);
        }
        match writable {
            true => {}
            false if self.readable == self.parts.len() => self.readable += 1,
            false => return Err(ChainError::Order),
        }
        self.parts.push(part);
        Ok(())
    }

    /// Bytes that the device reads.
    pub(crate) fn readable_bytes(&self) -> u64 {
        sum(&self.parts[..self.readable])
    }

    /// Bytes that the device writes.
    pub(crate) fn writable_bytes(&self) -> u64 {
        sum(&self.parts[self.readable..])
    }

    /// The beginning of what the device reads.
    pub(crate) fn reader(&self) -> Cursor<'_> {
        Cursor::new(&self.parts[..self.readable])
    }

    /// The beginning of what the device writes.
    pub(crate) fn writer(&self) -> Cursor<'_> {
        Cursor::new(&self.parts[self.readable..])
    }
}

fn sum(parts: &[Part]) -> u64 {
    parts.iter().map(|part| u64::from(part.len)).sum()
}

/// Copies a descriptor out of the guest's memory.
fn descriptor(
    mem: &GuestMemoryMmap,
    table: GuestAddress,
    number: u16,
) -> Result<(Part, u16, u16), ChainError> {
    let at = table.0.checked_add(u64::from(number) * DESCRIPTOR_BYTES);
    let at = at.ok_or(ChainError::Memory)?;
    let bytes: [u8; DESCRIPTOR_BYTES as usize] = mem
        .read_obj(GuestAddress(at))
        .map_err(|_| ChainError::Memory)?;
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    let part = Part {
        at: GuestAddress(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        len: u32::from_le_bytes([i, j, k, l]),
    };
    let (flags, next) = (u16::from_le_bytes([m, n]), u16::from_le_bytes([o, p]));
    Ok((part, flags, next))
}

/// The table that a descriptor stands for: the rest of the request.
fn inner_table(
    outer: DescriptorTable,
    part: Part,
    flags: u16,
) -> Result<DescriptorTable, ChainError> {
    let count = u64::from(part.len) / DESCRIPTOR_BYTES;
    let whole = u64::from(part.len) % DESCRIPTOR_BYTES == 0;
    let size = u16::try_from(count).map_err(|_| ChainError::Table)?;
    if !outer.indirect || flags & NEXT != 0 || !whole || size == 0 {
        return Err(ChainError::Table);
    }
    Ok(DescriptorTable {
        at: part.at,
        size,
        indirect: false,
    })
}

impl<'a> Cursor<'a> {
    fn new(parts: &'a [Part]) -> Cursor<'a> {
        let at = GuestAddress(0);
        Cursor {
            parts: parts.iter(),
            now: Part { at, len: 0 },
        }
    }

    /// Gives `each` parts that make up `len` bytes, and moves on. Whether there are so many is the caller's affair.
    fn take(
        &mut self,
        mut len: usize,
        mut each: impl FnMut(GuestAddress, usize) -> Result<(), ChainError>,
    ) -> Result<(), ChainError> {
        while len > 0 {
            if self.now.len == 0 {
                self.now = *self.parts.next().ok_or(ChainError::Memory)?;
                continue;
            }
            let piece = len.min(self.now.len as usize);
            each(self.now.at, piece)?;
            let at = self.now.at.0.checked_add(piece as u64);
            self.now.at = GuestAddress(at.ok_or(ChainError::Memory)?);
            self.now.len -= piece as u32;
            len -= piece;
        }
        Ok(())
    }

    /// Copies from the guest, and moves on.
    pub(crate) fn read(
        &mut self,
        mem: &GuestMemoryMmap,
        mut buf: &mut [u8],
    ) -> Result<(), ChainError> {
        self.take(buf.len(), |at, len| {
            let (piece, rest) = std::mem::take(&mut buf).split_at_mut(len);
            buf = rest;
            mem.read_slice(piece, at).map_err(|_| ChainError::Memory)
        })
    }

    /// Copies to the guest, and moves on.
    pub(crate) fn write(
        &mut self,
        mem: &GuestMemoryMmap,
        mut buf: &[u8],
    ) -> Result<(), ChainError> {
        self.take(buf.len(), |at, len| {
            let (piece, rest) = buf.split_at(len);
            buf = rest;
            mem.write_slice(piece, at).map_err(|_| ChainError::Memory)
        })
    }

    /// Moves on.
    pub(crate) fn skip(&mut self, mut len: u64) -> Result<(), ChainError> {
        while len > 0 {
            let piece = len.min(1 << 30);
            self.take(piece as usize, |_, _| Ok(()))?;
            len -= piece;
        }
        Ok(())
    }
}
