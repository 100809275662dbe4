//! The backing's counters.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::format::SEGMENT_BYTES;
use crate::segment::Segments;

/// Adds to a counter and returns the new value.
pub(crate) fn count(counter: &AtomicU64, by: u64) -> u64 {
    counter.fetch_add(by, Relaxed) + by
}

/// Whether the nth occurrence of an error is worth a line in the log: the 1st, 2nd, 4th, 8th...
pub(crate) fn worth_a_line(nth: u64) -> bool {
    nth.is_power_of_two()
}

/// Declares the counters, and the statistics that show them behind what the segments say.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Default)]
        pub(crate) struct BackingCounters {
            $(pub(crate) $name: AtomicU64,)*
        }

        /// A backing's contents and counters. Each figure is exact; together they are of about the same time.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(default))]
        pub struct BackingStats {
            /// Bytes of the backing.
            pub size_bytes: u64,
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
            $($(#[$doc])* pub $name: u64,)*
        }

        impl BackingCounters {
            pub(crate) fn stats(&self, segments: &Segments) -> BackingStats {
                BackingStats {
                    size_bytes: segments.geometry.size_bytes,
                    segment_bytes: SEGMENT_BYTES,
                    used_segments: segments.used().into(),
                    free_segments: segments.free().into(),
                    free_bytes: u64::from(segments.free()) * SEGMENT_BYTES,
                    quarantined_segments: segments.quarantined().into(),
                    $($name: self.$name.load(Relaxed),)*
                }
            }
        }
    };
}

counters! {
    /// Bytes of live objects and of those in flight, headers included.
    live_bytes,
    /// Number of these objects.
    live_objects,
    /// Objects read.
    reads,
    /// Reads that the disk refused or that met its end.
    read_errors,
    /// Reads whose object was not as it was written.
    corrupt,
    /// Write requests completed, failed ones included.
    writes,
    /// Write requests that failed.
    write_errors,
    /// Write requests that were abandoned, whether they completed later or not.
    hung,
    /// Bytes read, by whole blocks.
    bytes_read,
    /// Bytes written, by whole blocks.
    bytes_written,
}
