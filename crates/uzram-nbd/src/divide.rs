//! One large write among several workers.
//!
//! A client that sends one request at a time has one worker busy and the others idle. Where the device's algorithm is slow, a
//! large write of such a client is divided: its pieces become items, which workers take like any others, and whoever
//! finishes the last one replies. What is slow is learned from the writes before, as waking a worker pays only then.

use crate::{execute::Failure, lock};
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

/// What the others have to take off one worker: several times what it costs to wake them, in a virtual machine, too.
const WORTH: Duration = Duration::from_micros(60);
/// A shorter write says little about the algorithm.
const MEASURED: usize = 32 << 10;
/// How much of what is known a new measurement replaces: one in so many.
const MEMORY: u32 = 8;

/// The writes of a connection that are divided, and how long writes take.
pub(crate) struct Divided {
    writes: Box<[Write]>,
    /// For 64 KiB; 0: not known yet.
    nanoseconds: AtomicU32,
}

/// A place for a write.
#[derive(Default)]
struct Write {
    /// Pieces that are not done, and one; 0: free.
    left: AtomicU32,
    failure: Mutex<Option<Failure>>,
}

/// Says that an item is a piece of a write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    /// Number of the write among those that are divided.
    pub(crate) write: usize,
    /// Where it begins on the device.
    pub(crate) offset: u64,
}

impl Divided {
    /// For so many workers, each of which finishes one write at a time.
    pub(crate) fn new(workers: usize) -> Self {
        Divided {
            writes: (0..workers).map(|_| Write::default()).collect(),
            nanoseconds: AtomicU32::new(0),
        }
    }

    /// Whether a write of so many bytes is one to measure.
    pub(crate) fn measures(bytes: usize) -> bool {
        bytes >= MEASURED
    }

    /// Notes how long a write took.
    pub(crate) fn note(&self, bytes: usize, time: Duration) {
        let new = time.as_nanos().saturating_mul(64 << 10) / bytes.max(1) as u128;
        // Longer ones were interrupted, and would be divided in any case.
        let new = new.min((u32::MAX / MEMORY).into()) as u32;
        let known = match self.nanoseconds.load(Relaxed) {
            0 => new,
            known => known - known / MEMORY + new / MEMORY,
        };
        self.nanoseconds.store(known, Relaxed);
    }

    /// Whether it pays to divide a write of so many bytes.
    pub(crate) fn pays(&self, bytes: usize, workers: usize) -> bool {
        let known = u64::from(self.nanoseconds.load(Relaxed));
        let alone = known * bytes as u64 / (64 << 10);
        let saved = alone - alone / workers.max(1) as u64;
        u128::from(saved) > WORTH.as_nanos()
    }

    /// Begins a write of so many pieces; its number, or none if there is no place.
    pub(crate) fn begin(&self, pieces: u32) -> Option<usize> {
        let take = |write: &Write| write.left.compare_exchange(0, pieces + 1, Acquire, Relaxed);
        self.writes.iter().position(|write| take(write).is_ok())
    }

    /// Ends a piece; of the last one, what came of the whole write.
    pub(crate) fn end(
        &self,
        write: usize,
        done: Result<(), Failure>,
    ) -> Option<Result<(), Failure>> {
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
        let divided = Divided::new(2);
        let most = 256 << 10;
        assert!(!divided.pays(most, 2), "nothing is known");
        // zstd, and a copy.
        for (microseconds, pays) in [(200, true), (3, false)] {
            for _ in 0..50 {
                divided.note(64 << 10, Duration::from_micros(microseconds));
            }
            assert_eq!(divided.pays(most, 2), pays, "{microseconds}");
            assert!(!divided.pays(16 << 10, 2));
            assert!(!divided.pays(most, 1), "for nobody");
        }
        divided.note(1 << 20, Duration::from_secs(100_000));
        divided.note(1, Duration::MAX);
    }

    #[test]
    fn the_last_piece_tells_of_any_failure() {
        let divided = Divided::new(2);
        let (one, other) = (divided.begin(3).unwrap(), divided.begin(2).unwrap());
        assert!(divided.begin(2).is_none());
        let failure = || Err(uzram::Error::NoSecondary { priority: None }.into());
        assert!(divided.end(one, Ok(())).is_none());
        assert!(divided.end(one, failure()).is_none());
        assert!(divided.end(other, Ok(())).is_none());
        assert!(divided.end(other, Ok(())).unwrap().is_ok());
        assert!(divided.end(one, Ok(())).unwrap().is_err());
        assert_eq!(divided.begin(1), Some(one), "and the failure is gone");
        assert!(divided.end(one, Ok(())).unwrap().is_ok());
    }
}
