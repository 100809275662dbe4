//! How long requests take: a log-linear histogram for each kind of them on each CPU.
//!
//! One of [`SAMPLED`] requests is timed, since two looks at the clock would cost as much as a page of zeros does. Which ones
//! is spread by a multiplication, so that no rhythm of the requests falls in with it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// One of so many requests is timed.
pub(crate) const SAMPLED: u64 = 32;

/// Buckets for each power of two: a quantile is right to an eighth.
const PARTS: usize = 1 << PART_BITS;
const PART_BITS: u32 = 3;
/// What takes longer than 2^this nanoseconds (137 s) counts as that.
const MAX_BITS: u32 = 37;
const BUCKETS: usize = ((MAX_BITS - PART_BITS) as usize + 1) * PARTS;

/// The bucket of a time.
fn bucket(nanoseconds: u64) -> usize {
    let ns = nanoseconds.min((1 << MAX_BITS) - 1);
    if ns < PARTS as u64 {
        return ns as usize;
    }
    let shift = ns.ilog2() - PART_BITS;
    (shift as usize) * PARTS + (ns >> shift) as usize
}

/// The first time after a bucket's, in nanoseconds.
fn end(bucket: usize) -> u64 {
    let shift = (bucket / PARTS).saturating_sub(1);
    let part = (bucket - shift * PARTS) as u64;
    (part + 1) << shift
}

/// One CPU's times of one kind of requests.
#[derive(Debug)]
pub(crate) struct Times {
    nanoseconds: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Times {
    fn default() -> Times {
        Times {
            nanoseconds: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl Times {
    /// Begins to time a request, if it is one of those that are.
    #[inline]
    pub(crate) fn begin(requests_before: u64) -> Option<Instant> {
        // The golden ratio's multiples are spread more evenly than those of any other number.
        let spread = requests_before.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (spread >> (u64::BITS - SAMPLED.ilog2()) == 0).then(Instant::now)
    }

    /// Notes that a request took from `begin` until now.
    pub(crate) fn end(&self, begin: Instant) {
        let took = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(took, Relaxed);
        self.buckets[bucket(took)].fetch_add(1, Relaxed);
    }

    pub(crate) fn reset(&self) {
        self.nanoseconds.store(0, Relaxed);
        self.buckets
            .iter()
            .for_each(|count| count.store(0, Relaxed));
    }

    fn add_to(&self, counts: &mut [u64; BUCKETS]) -> u64 {
        for (sum, count) in counts.iter_mut().zip(&self.buckets) {
            *sum += count.load(Relaxed);
        }
        self.nanoseconds.load(Relaxed)
    }
}

/// How many requests took less than a time, but no less than that of the bucket before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LatencyBucket {
    /// The time, in nanoseconds.
    pub below: u64,
    /// The requests.
    pub count: u64,
}

/// Times of one kind of requests since the device was made or reset. One of 32 requests is timed, from its call of the device
/// to that call's end; those that fail are not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Latency {
    /// Requests that were timed.
    pub timed: u64,
    /// The sum of their times.
    pub nanoseconds: u64,
    /// Buckets in which there are some, in order. One is at most an eighth of its time wide; the longest ends at 2^37.
    pub buckets: Vec<LatencyBucket>,
}

impl Latency {
    pub(crate) fn sum<'a>(times: impl Iterator<Item = &'a Times>) -> Latency {
        let mut counts = [0; BUCKETS];
        let nanoseconds = times.map(|one| one.add_to(&mut counts)).sum();
        let counts = counts.into_iter().enumerate();
        let filled = counts.filter(|(_, count)| *count > 0);
        let bucket = |(n, count)| LatencyBucket {
            below: end(n),
            count,
        };
        Latency::of_buckets(filled.map(bucket).collect(), nanoseconds)
    }

    fn of_buckets(buckets: Vec<LatencyBucket>, nanoseconds: u64) -> Latency {
        Latency {
            timed: buckets.iter().map(|bucket| bucket.count).sum(),
            nanoseconds,
            buckets,
        }
    }

    /// The time that this part of the requests stayed below, 0.99 for the 99th percentile; `None` where none was timed.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let wanted = (self.timed as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().find(|bucket| {
            seen += bucket.count;
            seen >= wanted
        });
        let bucket = bucket.or(self.buckets.last())?;
        Some(Duration::from_nanos(bucket.below))
    }

    /// How many took less than this; exact where it is a power of two in nanoseconds.
    pub fn below(&self, time: Duration) -> u64 {
        let limit = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let buckets = self.buckets.iter();
        let below = buckets.take_while(|bucket| bucket.below <= limit);
        below.map(|bucket| bucket.count).sum()
    }

    /// What came since `earlier`, which is of the same device; all of it after a reset.
    pub fn since(&self, earlier: &Latency) -> Latency {
        let before = |below: u64| {
            let buckets = &earlier.buckets;
            let at = buckets.binary_search_by_key(&below, |bucket| bucket.below);
            at.map_or(0, |at| buckets[at].count)
        };
        let grown = |bucket: &LatencyBucket| {
            let count = bucket.count.checked_sub(before(bucket.below))?;
            Some(LatencyBucket { count, ..*bucket })
        };
        let buckets: Option<Vec<_>> = self.buckets.iter().map(grown).collect();
        let nanoseconds = self.nanoseconds.checked_sub(earlier.nanoseconds);
        let (Some(mut buckets), Some(nanoseconds)) = (buckets, nanoseconds) else {
            return self.clone();
        };
        buckets.retain(|bucket| bucket.count > 0);
        Latency::of_buckets(buckets, nanoseconds)
    }
}

/// Times of reads and of writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Latencies {
    /// Of [`Device::read_at`](crate::Device::read_at).
    pub read: Latency,
    /// Of [`Device::write_at`](crate::Device::write_at).
    pub write: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_has_a_bucket_that_is_an_eighth_wide_at_most() {
        let mut last = 0;
        for n in 0..BUCKETS {
            let end = end(n);
            assert!(end > last, "{n}");
            assert_eq!((bucket(last), bucket(end - 1)), (n, n));
            assert!((end - last) * PARTS as u64 <= last.max(PARTS as u64));
            last = end;
        }
        assert_eq!(last, 1 << MAX_BITS);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        // What `below` is exact for.
        for bits in 0..=MAX_BITS {
            assert!((0..BUCKETS).any(|n| end(n) == 1 << bits), "{bits}");
        }
    }

    #[test]
    fn one_of_so_many_is_timed_whatever_the_rhythm() {
        for rhythm in 1..100 {
            let timed = (0..100_000).filter(|n| Times::begin(n * rhythm).is_some());
            let expected = 100_000 / SAMPLED as usize;
            let timed = timed.count();
            assert!(timed.abs_diff(expected) < expected / 4, "{rhythm}: {timed}");
        }
    }

    fn latency(buckets: &[(u64, u64)]) -> Latency {
        let bucket = |(below, count): &(u64, u64)| LatencyBucket {
            below: *below,
            count: *count,
        };
        Latency::of_buckets(buckets.iter().map(bucket).collect(), 0)
    }

    #[test]
    fn quantiles_and_differences_are_of_what_was_timed() {
        let one = latency(&[(1024, 90), (2048, 9), (1 << 20, 1)]);
        let at = |part| one.quantile(part).unwrap().as_nanos();
        let quantiles = (at(0.0), at(0.5), at(0.9), at(0.91), at(0.99), at(1.0));
        assert_eq!(quantiles, (1024, 1024, 1024, 2048, 2048, 1 << 20));
        assert_eq!(Latency::default().quantile(0.5), None);
        let below = |ns| one.below(Duration::from_nanos(ns));
        assert_eq!(
            (below(512), below(1024), below(4096), below(1 << 30)),
            (0, 90, 99, 100)
        );
        let later = latency(&[(512, 1), (1024, 90), (2048, 20), (1 << 20, 1)]);
        assert_eq!(later.since(&one), latency(&[(512, 1), (2048, 11)]));
        assert_eq!(one.since(&one), Latency::default());
        // Reset between them.
        assert_eq!(one.since(&later), one);
    }

    #[test]
    fn a_device_times_some_of_its_requests() {
        let device = crate::Device::builder(1 << 20).build().unwrap();
        for round in 0..3200u64 {
            let offset = round % 256 * 4096;
            device.write_at(&[7; 4096], offset).unwrap();
            device.read_at(&mut [0; 512], offset).unwrap();
        }
        // Those that fail are not timed.
        for _ in 0..3200 {
            assert!(device.read_at(&mut [0; 512], 1 << 20).is_err());
        }
        let Latencies { read, write } = device.latencies();
        for times in [&read, &write] {
            assert!((75..=125).contains(&times.timed), "{times:?}");
            assert!(times.nanoseconds > 0);
            assert!(times.quantile(0.0) <= times.quantile(1.0));
        }
        device.reset();
        assert_eq!(device.latencies(), Latencies::default());
    }
}
