//! What the pool's tests share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use uzram_pool::{Pool, Region, SPAN_BYTES};

/// At least a span for each class and shard; Miri, which really allocates it, sees fewer classes.
pub(crate) const ARENA: u64 = if cfg!(miri) { 160 } else { 2048 } * SPAN_BYTES as u64;

pub(crate) fn pool(shards: usize) -> (Arc<Region>, Pool) {
    let region = Arc::new(Region::memfd("uzram-pool-test", ARENA).unwrap());
    let pool = Pool::new(region.clone(), 0, ARENA, shards).unwrap();
    (region, pool)
}

pub(crate) fn content(seed: u32, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (seed.wrapping_mul(31).wrapping_add(i as u32 * 7) >> 3) as u8)
        .collect()
}

/// Also when a check fails: then nobody may be waited for for ever.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
