//! Divides one large write among several workers.
//!
//! A client that sends one request at a time keeps one worker busy and the others idle. Where the device's algorithm is slow,
//! a large write of such a client is divided. Its pieces become items, which workers take like any others, and whoever
//! finishes the last one replies. Waking a worker pays only for slow algorithms, so their speed is learned from the writes
//! before.

use crate::{execute::ErrorReply, lock::lock};
use std::{
    sync::{
        Mutex,
        atomic::{
            AtomicU32,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

/// How much time dividing must save: several times the cost of waking the others, also in a virtual machine.
const WORTH: Duration = Duration::from_micros(60);
/// Shortest write that is measured: a shorter one says little about the algorithm.
const MEASURED: usize = 32 << 10;
/// A new measurement counts for one part in this many of the average.
const MEMORY: u32 = 8;

/// A connection's divided writes, and how long its writes take.
pub(crate) struct DividedWrites {
    writes: Box<[WriteSlot]>,
    /// The average time for 64 KiB; 0 while it is unknown.
    nanoseconds: AtomicU32,
}

/// Room for one divided write.
#[derive(Default)]
struct WriteSlot {
    /// The number of unfinished pieces plus one; 0 while the slot is free.
    left: AtomicU32,
    failure: Mutex<Option<ErrorReply>>,
}

/// Marks an item as a piece of a divided write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WritePiece {
    /// The slot of the divided write.
    pub(crate) write: usize,
    /// Where the piece begins on the device.
    pub(crate) offset: u64,
}

impl DividedWrites {
    /// Makes a slot for each worker, since a worker finishes one write at a time.
    pub(crate) fn new(workers: usize) -> Self {
        DividedWrites {
            writes: (0..workers).map(|_| WriteSlot::default()).collect(),
            nanoseconds: AtomicU32::new(0),
        }
    }

    /// Whether a write of this many bytes is to be measured.
    pub(crate) fn measures(bytes: usize) -> bool {
        bytes >= MEASURED
    }

    /// Records how long a write took.
    pub(crate) fn record(&self, bytes: usize, time: Duration) {
        let new = time.as_nanos().saturating_mul(64 << 10) / bytes.max(1) as u128;
        // A longer time means that the worker was interrupted; such writes are divided in any case.
        let new = new.min((u32::MAX / MEMORY).into()) as u32;
        let known = match self.nanoseconds.load(Relaxed) {
            0 => new,
            known => known - known / MEMORY + new / MEMORY,
        };
        self.nanoseconds.store(known, Relaxed);
    }

    /// Whether dividing a write of this many bytes pays.
    pub(crate) fn pays(&self, bytes: usize, workers: usize) -> bool {
        let known = u64::from(self.nanoseconds.load(Relaxed));
        let alone = known * bytes as u64 / (64 << 10);
        let saved = alone - alone / workers.max(1) as u64;
        u128::from(saved) > WORTH.as_nanos()
    }

    /// Begins a write of this many pieces. Returns its slot, or `None` if all are taken.
    pub(crate) fn begin(&self, pieces: u32) -> Option<usize> {
        let take = |write: &WriteSlot| write.left.compare_exchange(0, pieces + 1, Acquire, Relaxed);
        self.writes.iter().position(|write| take(write).is_ok())
    }

    /// Ends a piece. For the last piece, returns the result of the whole write.
    pub(crate) fn end_piece(
        &self,
        write: usize,
        done: Result<(), ErrorReply>,
    ) -> Option<Result<(), ErrorReply>> {
        let write = &self.writes[write];
        if let Err(failure) = done {
            *lock(&write.failure) = Some(failure);
        }
        if write.left.fetch_sub(1, AcqRel) > 2 {
            return None;
        }
        let failure = lock(&write.failure).take();
        write.left.store(0, Release);
        Some(failure.map_or(Ok(()), Err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_slow_writes_are_divided() {
        let divided = DividedWrites::new(2);
        let most = 256 << 10;
        assert!(!divided.pays(most, 2), "nothing is known");
        // zstd, and a copy.
        for (microseconds, pays) in [(200, true), (3, false)] {
            for _ in 0..50 {
                divided.record(64 << 10, Duration::from_micros(microseconds));
            }
            assert_eq!(divided.pays(most, 2), pays, "{microseconds}");
            assert!(!divided.pays(16 << 10, 2));
            assert!(!divided.pays(most, 1), "for nobody");
        }
        divided.record(1 << 20, Duration::from_secs(100_000));
        divided.record(1, Duration::MAX);
    }

    #[test]
    fn the_last_piece_tells_of_any_failure() {
        let divided = DividedWrites::new(2);
        let (one, other) = (divided.begin(3).unwrap(), divided.begin(2).unwrap());
        assert!(divided.begin(2).is_none());
        let failure = || Err(uzram::Error::NoSecondary { priority: None }.into());
        assert!(divided.end_piece(one, Ok(())).is_none());
        assert!(divided.end_piece(one, failure()).is_none());
        assert!(divided.end_piece(other, Ok(())).is_none());
        assert!(divided.end_piece(other, Ok(())).unwrap().is_ok());
        assert!(divided.end_piece(one, Ok(())).unwrap().is_err());
        assert_eq!(divided.begin(1), Some(one), "and the failure is gone");
        assert!(divided.end_piece(one, Ok(())).unwrap().is_ok());
    }
}
