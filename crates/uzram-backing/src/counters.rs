//! The backing's counters.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::segment::Segments;

#[derive(Default)]
pub(crate) struct BackingCounters {
    pub(crate) live_bytes: AtomicU64,
    pub(crate) live_objects: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) read_errors: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    pub(crate) hung: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
}

/// Adds to a counter and returns the new value.
pub(crate) fn count(counter: &AtomicU64, by: u64) -> u64 {
    counter.fetch_add(by, Relaxed) + by
}

/// Whether the nth occurrence of an error is worth a line in the log: the 1st, 2nd, 4th, 8th...
pub(crate) fn worth_a_line(nth: u64) -> bool {
    nth.is_power_of_two()
}

/// A backing's contents and counters. Each figure is exact; together they are of about the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct BackingStats {
    /// Bytes of the backing.
    pub size_bytes: u64,
    /// Bytes of live objects and of those in flight, headers included.
    pub live_bytes: u64,
    /// Number of these objects.
    pub live_objects: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments that hold objects, are open, or are kept by a write that has not come back.
    pub used_segments: u64,
    /// Segments that may be written.
    pub free_segments: u64,
    /// Bytes of these.
    pub free_bytes: u64,
    /// Empty segments to which the last write failed: used when no other is free.
    pub quarantined_segments: u64,
    /// Objects read.
    pub reads: u64,
    /// Reads that the disk refused or that met its end.
    pub read_errors: u64,
    /// Reads whose object was not as it was written.
    pub corrupt: u64,
    /// Write requests completed, failed ones included.
    pub writes: u64,
    /// Write requests that failed.
    pub write_errors: u64,
    /// Write requests that were abandoned, whether they completed later or not.
    pub hung: u64,
    /// Bytes read, by whole blocks.
    pub bytes_read: u64,
    /// Bytes written, by whole blocks.
    pub bytes_written: u64,
}

impl BackingCounters {
    pub(crate) fn stats(&self, segments: &Segments) -> BackingStats {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        BackingStats {
            size_bytes: segments.geometry.size_bytes,
            live_bytes: get(&self.live_bytes),
            live_objects: get(&self.live_objects),
            segment_bytes: segments.geometry.segment_bytes,
            used_segments: segments.used().into(),
            free_segments: segments.free().into(),
            free_bytes: u64::from(segments.free()) * segments.geometry.segment_bytes,
            quarantined_segments: segments.quarantined().into(),
            reads: get(&self.reads),
            read_errors: get(&self.read_errors),
            corrupt: get(&self.corrupt),
            writes: get(&self.writes),
            write_errors: get(&self.write_errors),
            hung: get(&self.hung),
            bytes_read: get(&self.bytes_read),
            bytes_written: get(&self.bytes_written),
        }
    }
}
