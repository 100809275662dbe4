//! The record of requests in flight: which were taken and not answered, in memory that the client keeps when this process
//! dies.
//!
//! # Format
//!
//! It is the protocol's, for split rings. A queue has a header and an entry for each descriptor:
//!
//! | bytes | header | | bytes | entry |
//! | --- | --- | --- | --- | --- |
//! | 0 to 7 | features, 0 | | 0 | 1 while the request that begins with this descriptor is in flight |
//! | 8, 9 | version, 1; 0 before it is used | | 6, 7 | the entry of the request that was answered before this one |
//! | 10, 11 | number of entries | | 8 to 15 | which request this was, counted |
//! | 12, 13 | the entry of the last request answered | | | |
//! | 14, 15 | the used ring's index before the last answer was recorded | | | |
//!
//! A process can be killed between any two stores, and the stores before are in memory then. An entry is marked before anything
//! is done; it is unmarked after the used ring has the answer. If death comes between these two, the used ring's index is
//! ahead of the recorded one, and the difference are entries to unmark.
//!
//! The client can write there, too: numbers are checked before they are used.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use rustix::fs::{MemfdFlags, SealFlags};
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, VolatileMemory, VolatileMemoryError};

use crate::error::RingError;

const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 16;
/// Each queue's part begins on a line of the cache.
const ALIGN: usize = 64;
const VERSION: u16 = 1;
const AT_VERSION: usize = 8;
const AT_COUNT: usize = 10;
const AT_LAST: usize = 12;
const AT_USED: usize = 14;
const ENTRY_NEXT: usize = 6;
const ENTRY_COUNTER: usize = 8;

fn part_bytes(queue_size: u16) -> usize {
    (HEADER_BYTES + usize::from(queue_size) * ENTRY_BYTES).next_multiple_of(ALIGN)
}

/// Bytes of a record for so many queues.
pub(crate) fn record_bytes(queues: u16, queue_size: u16) -> usize {
    usize::from(queues) * part_bytes(queue_size)
}

/// The record of all queues.
#[derive(Clone)]
pub(crate) struct InflightRecord {
    region: Arc<MmapRegion>,
    queues: u16,
    queue_size: u16,
}

impl InflightRecord {
    /// Makes a record, all zeros, in a file that cannot become shorter.
    pub(crate) fn create(queues: u16, queue_size: u16) -> std::io::Result<(InflightRecord, File)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("uzram-inflight", flags)?);
        file.set_len(record_bytes(queues, queue_size) as u64)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(file.as_fd(), seals)?;
        let record = InflightRecord::open(file.try_clone()?, 0, queues, queue_size)?;
        Ok((record, file))
    }

    /// Maps a record that an earlier process made.
    pub(crate) fn open(
        file: File,
        offset: u64,
        queues: u16,
        queue_size: u16,
    ) -> std::io::Result<InflightRecord> {
        let place = FileOffset::new(file, offset);
        let region = MmapRegion::from_file(place, record_bytes(queues, queue_size));
        Ok(InflightRecord {
            region: Arc::new(region.map_err(std::io::Error::other)?),
            queues,
            queue_size,
        })
    }

    /// The part of a queue, if it is there and has an entry for each of its descriptors.
    pub(crate) fn queue(&self, index: u16, size: u16) -> Option<QueueInflight> {
        let fits = index < self.queues && size <= self.queue_size;
        fits.then(|| QueueInflight {
            region: self.region.clone(),
            at: usize::from(index) * part_bytes(self.queue_size),
            size,
            counter: 0,
        })
    }
}

/// The record of one queue.
pub(crate) struct QueueInflight {
    region: Arc<MmapRegion>,
    at: usize,
    size: u16,
    /// Number of the next request.
    counter: u64,
}

impl QueueInflight {
    fn load<T: vm_memory::AtomicAccess>(&self, at: usize) -> Result<T, VolatileMemoryError> {
        self.region.as_volatile_slice().load(self.at + at, Acquire)
    }

    fn store<T: vm_memory::AtomicAccess>(
        &self,
        at: usize,
        value: T,
    ) -> Result<(), VolatileMemoryError> {
        let slice = self.region.as_volatile_slice();
        slice.store(value, self.at + at, Release)
    }

    fn entry(&self, head: u16) -> usize {
        HEADER_BYTES + usize::from(head) * ENTRY_BYTES
    }

    /// Records that a request was taken.
    pub(crate) fn begin(&mut self, head: u16) -> Result<(), RingError> {
        self.store(self.entry(head) + ENTRY_COUNTER, self.counter)?;
        self.counter = self.counter.wrapping_add(1);
        self.store(self.entry(head), 1u8)?;
        Ok(())
    }

    /// Records which request the used ring gets next.
    pub(crate) fn before_used(&mut self, head: u16) -> Result<(), RingError> {
        let last: u16 = self.load(AT_LAST)?;
        self.store(self.entry(head) + ENTRY_NEXT, last)?;
        self.store(AT_LAST, head)?;
        Ok(())
    }

    /// Records that the used ring has it.
    pub(crate) fn after_used(&mut self, head: u16, used: u16) -> Result<(), RingError> {
        self.store(self.entry(head), 0u8)?;
        self.store(AT_USED, used)?;
        Ok(())
    }

    /// Makes the record agree with the used ring, whose index is `used`. Returns the requests in flight in the order in which they
    /// were taken.
    pub(crate) fn recover(&mut self, used: u16) -> Result<Vec<u16>, RingError> {
        let recorded: u16 = self.load(AT_USED)?;
        match self.load::<u16>(AT_VERSION)? {
            0 => self.begin_anew(used)?,
            VERSION if used.wrapping_sub(recorded) > self.size => {
                tracing::warn!(
                    "the record of requests in flight is of another ring, and begins anew"
                );
                self.begin_anew(used)?;
            }
            VERSION => self.unmark_answered(used.wrapping_sub(recorded), used)?,
            other => return Err(RingError::InflightVersion(other)),
        }
        let mut found = Vec::new();
        for head in 0..self.size {
            if self.load::<u8>(self.entry(head))? != 0 {
                let counter: u64 = self.load(self.entry(head) + ENTRY_COUNTER)?;
                found.push((counter, head));
            }
        }
        found.sort_unstable();
        self.counter = found
            .last()
            .map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok(found.into_iter().map(|(_, head)| head).collect())
    }

    fn begin_anew(&mut self, used: u16) -> Result<(), RingError> {
        for head in 0..self.size {
            self.store(self.entry(head), 0u8)?;
        }
        self.store(AT_LAST, 0u16)?;
        self.store(AT_USED, used)?;
        self.store(AT_COUNT, self.size)?;
        self.store(AT_VERSION, VERSION)?;
        Ok(())
    }

    /// Unmarks the last requests answered, whose answer was not recorded.
    fn unmark_answered(&mut self, count: u16, used: u16) -> Result<(), RingError> {
        let mut head: u16 = self.load(AT_LAST)?;
        for _ in 0..count {
            if head >= self.size {
                break;
            }
            self.store(self.entry(head), 0u8)?;
            head = self.load(self.entry(head) + ENTRY_NEXT)?;
        }
        self.store(AT_USED, used)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> (InflightRecord, File) {
        InflightRecord::create(2, 8).unwrap()
    }

    /// The record as the next process finds it.
    fn next_process(file: &File) -> QueueInflight {
        let file = file.try_clone().unwrap();
        let record = InflightRecord::open(file, 0, 2, 8).unwrap();
        record.queue(1, 8).unwrap()
    }

    #[test]
    fn what_was_taken_and_not_answered_is_found_in_its_order() {
        let (record, file) = record();
        let mut queue = record.queue(1, 8).unwrap();
        assert!(queue.recover(5).unwrap().is_empty());
        for head in [3, 0, 7, 2] {
            queue.begin(head).unwrap();
        }
        queue.before_used(0).unwrap();
        queue.after_used(0, 6).unwrap();
        assert_eq!(next_process(&file).recover(6).unwrap(), [3, 7, 2]);
        // What comes now is later.
        let mut queue = next_process(&file);
        queue.recover(6).unwrap();
        queue.begin(1).unwrap();
        assert_eq!(next_process(&file).recover(6).unwrap(), [3, 7, 2, 1]);
    }

    #[test]
    fn death_at_any_store_neither_loses_nor_repeats_an_answer() {
        // How many of the steps were done, and what the used ring's index is then.
        for (steps, used, found) in [(1, 0, &[4][..]), (2, 0, &[4]), (3, 1, &[]), (4, 1, &[])] {
            let (record, file) = record();
            let mut queue = record.queue(1, 8).unwrap();
            queue.recover(0).unwrap();
            queue.begin(4).unwrap();
            if steps >= 2 {
                queue.before_used(4).unwrap();
            }
            if steps >= 4 {
                queue.after_used(4, 1).unwrap();
            }
            assert_eq!(next_process(&file).recover(used).unwrap(), found, "{steps}");
            assert_eq!(next_process(&file).recover(used).unwrap(), found, "{steps}");
        }
        // Between the two stores of `after_used`.
        let (record, file) = record();
        let mut queue = record.queue(1, 8).unwrap();
        queue.recover(0).unwrap();
        queue.begin(4).unwrap();
        queue.begin(5).unwrap();
        queue.before_used(4).unwrap();
        queue.store(queue.entry(4), 0u8).unwrap();
        assert_eq!(next_process(&file).recover(1).unwrap(), [5]);
    }

    #[test]
    fn a_record_that_makes_no_sense_is_not_followed() {
        let (record, file) = record();
        let mut queue = record.queue(1, 8).unwrap();
        queue.recover(0).unwrap();
        queue.begin(1).unwrap();
        queue.store(AT_LAST, 60_000u16).unwrap();
        assert_eq!(next_process(&file).recover(3).unwrap(), [1]);
        queue.store(AT_LAST, 2u16).unwrap();
        queue.store(queue.entry(2) + ENTRY_NEXT, 65_535u16).unwrap();
        assert_eq!(next_process(&file).recover(5).unwrap(), [1]);
        // Another ring: nothing of it was in flight here.
        assert!(next_process(&file).recover(500).unwrap().is_empty());
        queue.store(AT_VERSION, 9u16).unwrap();
        assert!(next_process(&file).recover(500).is_err());
        assert!(record.queue(2, 8).is_none());
        assert!(record.queue(1, 16).is_none());
    }
}
