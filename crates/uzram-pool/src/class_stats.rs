//! How the size classes are used, for listings: what zsmalloc shows in debugfs as `classes`.

use std::sync::atomic::Ordering::Relaxed;

use crate::class::{CLASS_COUNT, CLASSES};
use crate::pool::Pool;

/// Groups of spans by fullness: up to 10 %, 20 %, … 90 %, up to 99 %, 100 %.
pub const FULLNESS_GROUPS: usize = 11;

/// One size class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ClassStats {
    /// Its number, in the order of sizes.
    pub class: usize,
    /// Bytes of each of its objects.
    #[cfg_attr(feature = "serde", serde(rename = "size"))]
    pub size_bytes: usize,
    /// Spans that are not empty, by how many of the objects that their memory holds are in use.
    pub spans: [u64; FULLNESS_GROUPS],
    /// Objects that the memory in use could hold.
    pub objects_allocated: u64,
    /// Objects in use.
    pub objects_used: u64,
    /// Pages in use, those of the spans' side tables among them.
    pub pages_used: u64,
    /// Pages of a span whose objects are all in use.
    pub pages_per_span: u64,
    /// Pages that would be free if the objects lay one after the other.
    pub pages_freeable: u64,
}

/// The group of a span with `used` of `room` objects in use.
fn group(used: u64, room: u64) -> usize {
    match used >= room {
        true => FULLNESS_GROUPS - 1,
        false => (used * 100 / room).div_ceil(10).saturating_sub(1).min(9) as usize,
    }
}

impl Pool {
    /// The classes that have spans, in the order of sizes. Takes one bin's lock at a time.
    pub fn class_stats(&self) -> Vec<ClassStats> {
        let mut all: Vec<ClassStats> = (0..CLASS_COUNT)
            .map(|class| ClassStats {
                class,
                size_bytes: CLASSES[class].size as usize,
                pages_per_span: CLASSES[class].least_pages(u64::from(CLASSES[class].objects)),
                ..ClassStats::default()
            })
            .collect();
        for meta in &self.metas()[..self.touched_spans()] {
            let Some(index) = meta.bin.load(Relaxed).checked_sub(1) else {
                continue;
            };
            let bin = self.lock(index as usize);
            if meta.bin.load(Relaxed) != index + 1 {
                continue;
            }
            let used = u64::from(meta.used.load(Relaxed));
            let pages = meta.page_count();
            drop(bin);
            let class = index as usize % CLASS_COUNT;
            let geometry = &CLASSES[class];
            // Of a span of which not all pages are in use, in proportion.
            let full = all[class].pages_per_span.max(1);
            let room = (u64::from(geometry.objects) * pages).div_ceil(full);
            let room = room.clamp(used, u64::from(geometry.objects).max(used));
            let stats = &mut all[class];
            stats.objects_allocated += room;
            stats.objects_used += used;
            stats.pages_used += pages;
            if used > 0 {
                stats.spans[group(used, room)] += 1;
            }
        }
        all.retain(|stats| stats.pages_used > 0);
        for stats in &mut all {
            let least = CLASSES[stats.class].least_pages(stats.objects_used);
            stats.pages_freeable = stats.pages_used.saturating_sub(least);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Region;
    use crate::class::SPAN_BYTES;

    #[test]
    fn groups_are_tenths() {
        let groups: Vec<usize> = [
            (1, 100),
            (10, 100),
            (11, 100),
            (89, 100),
            (90, 100),
            (91, 100),
            (99, 100),
            (100, 100),
        ]
        .map(|(used, room)| group(used, room))
        .into();
        assert_eq!(groups, [0, 0, 1, 8, 8, 9, 9, 10]);
    }

    #[test]
    fn classes_add_up_to_the_pool() {
        let len = 1024 * SPAN_BYTES as u64;
        let region = Arc::new(Region::memfd("uzram-classes-test", len).unwrap());
        let pool = Pool::new(region, 0, len, 2).unwrap();
        assert!(pool.class_stats().is_empty());
        let mut objects = Vec::new();
        for n in 0..500usize {
            let bytes = vec![1; 1 + n * 8];
            objects.push(pool.store(n % 2, &bytes, n as u32).unwrap());
        }
        let stats = pool.class_stats();
        let sum = |pick: fn(&ClassStats) -> u64| stats.iter().map(pick).sum::<u64>();
        assert_eq!(sum(|class| class.objects_used), 500);
        assert_eq!(sum(|class| class.pages_used) * 4096, pool.used_bytes());
        assert!(sum(|class| class.objects_allocated) >= 500);
        assert!(stats.is_sorted_by_key(|class| class.size_bytes));
        // All but the first of each class go: what is left could lie closer.
        let many: Vec<_> = (0..300)
            .map(|n| pool.store(0, &[7; 1000], n).unwrap())
            .collect();
        let of_thousand = |stats: &[ClassStats]| {
            stats
                .iter()
                .find(|class| class.size_bytes == 1000)
                .cloned()
                .unwrap_or_default()
        };
        let before = of_thousand(&pool.class_stats());
        for (n, object) in many.into_iter().enumerate() {
            if n % 3 != 0 {
                pool.free(object);
            }
        }
        let after = of_thousand(&pool.class_stats());
        assert_eq!(before.objects_used - after.objects_used, 200);
        assert!(
            after.pages_freeable > before.pages_freeable + 30,
            "{before:?} {after:?}"
        );
        objects.into_iter().for_each(|object| pool.free(object));
    }
}
