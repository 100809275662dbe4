//! A disk that holds nothing anybody else can read: what is written is encrypted, block by block, as dm-crypt does it
//! (`aes-xts-plain64` with sectors of 4 KiB).
//!
//! A block keeps its size and its place, so all else is as without it. There is no room for a tag: whoever changes a block
//! makes noise of 16 bytes of it, which the objects' checksums find, as they find any damage.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aes::Aes256;
use aes::cipher::KeyInit;
use xts_mode::{Xts128, get_tweak_default};

use crate::BLOCK;
use crate::buffer::Buffer;
use crate::disk::{Disk, DiskDone, DiskLayout, DiskWrite, WriteQueue};
use crate::dumps::in_dumps;
use crate::store::StoreStats;

/// Bytes of a key: of the cipher's, and of the one for places.
pub const SEAL_KEY_BYTES: usize = 64;

/// A disk whose blocks are encrypted, but for the first, which says which backing it is.
pub struct SealedDisk {
    disk: Arc<dyn Disk>,
    cipher: Arc<Cipher>,
}

impl SealedDisk {
    /// The disk under a key, which must be random and of this disk alone.
    pub fn new(disk: Arc<dyn Disk>, key: &[u8; SEAL_KEY_BYTES]) -> SealedDisk {
        SealedDisk {
            disk,
            cipher: Arc::new(Cipher::new(key)),
        }
    }
}

/// The keys as the cipher uses them.
struct Cipher {
    /// On pages of their own, which no core dump has.
    keys: Box<OnPages<Xts128<Aes256>>>,
}

#[repr(C, align(4096))]
struct OnPages<T>(T);

impl Cipher {
    fn new(key: &[u8; SEAL_KEY_BYTES]) -> Cipher {
        let (of_data, of_places) = key.split_at(SEAL_KEY_BYTES / 2);
        let keys = Xts128::new(Aes256::new(of_data.into()), Aes256::new(of_places.into()));
        let keys = Box::new(OnPages(keys));
        in_dumps(&*keys, false);
        Cipher { keys }
    }

    /// Calls `each` with every whole block but the disk's first, and its number.
    fn blocks(bytes: &mut [u8], offset: u64, each: impl Fn(&mut [u8], u64)) {
        let first = offset / BLOCK as u64;
        for (block, number) in bytes.chunks_exact_mut(BLOCK).zip(first..) {
            if number > 0 {
                each(block, number);
            }
        }
    }

    fn seal(&self, bytes: &mut [u8], offset: u64) {
        Cipher::blocks(bytes, offset, |block, number| {
            self.keys
                .0
                .encrypt_sector(block, get_tweak_default(number.into()));
        });
    }

    fn open(&self, bytes: &mut [u8], offset: u64) {
        Cipher::blocks(bytes, offset, |block, number| {
            self.keys
                .0
                .decrypt_sector(block, get_tweak_default(number.into()));
        });
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        // The keys overwrite themselves.
        in_dumps(&*self.keys, true);
    }
}

impl Disk for SealedDisk {
    fn size_bytes(&self) -> io::Result<u64> {
        self.disk.size_bytes()
    }

    fn reserve(&self, size_bytes: u64) -> io::Result<()> {
        self.disk.reserve(size_bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = self.disk.read_at(buffer, offset)?;
        // Part of a block is the end of the disk: nothing was ever written there.
        self.cipher.open(&mut buffer[..count], offset);
        Ok(count)
    }

    fn queue(&self, depth: usize) -> io::Result<Box<dyn WriteQueue>> {
        Ok(Box::new(SealedQueue {
            queue: self.disk.queue(depth)?,
            cipher: self.cipher.clone(),
            flights: Vec::new(),
            spare: Vec::new(),
        }))
    }

    fn describe(&self) -> String {
        format!("{}, sealed", self.disk.describe())
    }

    fn layout(&self) -> DiskLayout {
        self.disk.layout()
    }

    fn emptied(&self, segment: u32) {
        self.disk.emptied(segment);
    }

    fn retire(&self) -> Option<String> {
        self.disk.retire()
    }

    fn store(&self) -> Option<StoreStats> {
        self.disk.store()
    }
}

/// Writes an encrypted copy: the writer's own bytes stay as they are, for it may write them again.
struct SealedQueue {
    queue: Box<dyn WriteQueue>,
    cipher: Arc<Cipher>,
    /// The writers' writes, by the token of the copy that is on its way.
    flights: Vec<Option<DiskWrite>>,
    /// Buffers for copies.
    spare: Vec<Buffer>,
}

impl WriteQueue for SealedQueue {
    fn submit(&mut self, write: DiskWrite) {
        let len = write.range.len();
        let fits = |buffer: &Buffer| buffer.bytes().len() >= len;
        let mut buffer = match self.spare.iter().position(fits) {
            Some(spare) => self.spare.swap_remove(spare),
            None => Buffer::new(len.div_ceil(BLOCK)),
        };
        let copy = &mut buffer.bytes_mut()[..len];
        copy.copy_from_slice(write.bytes());
        self.cipher.seal(copy, write.offset);
        let token = match self.flights.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.flights.push(None);
                self.flights.len() - 1
            }
        };
        let offset = write.offset;
        self.flights[token] = Some(write);
        self.queue.submit(DiskWrite {
            token,
            offset,
            buffer,
            range: 0..len,
        });
    }

    fn reap(&mut self, timeout: Duration) -> Option<DiskDone> {
        let DiskDone {
            write: copy,
            result,
        } = self.queue.reap(timeout)?;
        self.spare.push(copy.buffer);
        let write = self.flights[copy.token].take();
        let write = write.expect("one completion for each write");
        Some(DiskDone { write, result })
    }
}
