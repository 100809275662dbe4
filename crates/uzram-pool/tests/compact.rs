//! Compaction among threads that allocate and free. (What it makes of a pool that nobody else uses: `model.rs`.)

mod common;

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use common::{StopOnDrop, content, pool};
use uzram_pool::{Destination, MAX_OBJECT, Mover, Object, Pool};
use uzram_testkit::Random;

/// Owners' handles in slots with a lock each, as a device keeps them.
struct Slots<'a> {
    pool: &'a Pool,
    slots: Vec<Mutex<Option<(Object, u32)>>>,
}

impl Mover for Slots<'_> {
    fn relocate(&self, owner: u32, from: u64, to: Destination) -> Result<Object, Destination> {
        let mut slot = self.slots[owner as usize].lock().unwrap();
        let Some((object, _)) = slot.as_mut().filter(|(object, _)| object.handle() == from) else {
            return Err(to);
        };
        let mut copy = to.into_object(object.len())?;
        let old = self.pool.bytes(object);
        self.pool.bytes_mut(&mut copy).copy_from_slice(old);
        Ok(std::mem::replace(object, copy))
    }
}

/// Two threads overwrite, one frees, one compacts without end and one trims: objects keep their bytes, and the books
/// agree with the system's in the end.
#[test]
fn compaction_goes_on_under_load() {
    let (_region, pool) = pool(2);
    let rounds = if cfg!(miri) { 60 } else { 200_000 };
    let count = if cfg!(miri) { 12 } else { 3000u32 };
    let slots: Vec<_> = (0..count).map(|_| Mutex::new(None)).collect();
    let slots = Slots { pool: &pool, slots };
    let stop = AtomicBool::new(false);
    let moved = std::thread::scope(|scope| {
        let compact = scope.spawn(|| {
            let mut moved = 0;
            while !stop.load(Relaxed) {
                moved += pool.compact(64 << 10, &slots).objects;
                std::thread::yield_now();
            }
            moved
        });
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                pool.trim();
                std::thread::yield_now();
            }
        });
        let _stop_also_on_panic = StopOnDrop(&stop);
        let work = |shard: usize| {
            let (pool, slots) = (&pool, &slots);
            move || {
                let mut random = Random::new(shard as u64);
                for round in 0..rounds {
                    let owner = random.below(count.into()) as u32;
                    // Sizes drift, so that classes fill and drain.
                    let len = 1 + (round / 100 * 37 + random.index(64)) % 900;
                    let seed = round as u32 * 2 + shard as u32;
                    let new = (random.below(8) != 0)
                        .then(|| (pool.store(shard, &content(seed, len), owner).unwrap(), seed));
                    let old =
                        std::mem::replace(&mut *slots.slots[owner as usize].lock().unwrap(), new);
                    if let Some((object, seed)) = old {
                        assert_eq!(pool.bytes(&object), content(seed, object.len()));
                        assert_eq!(pool.owner(&object), owner);
                        pool.free(object);
                    }
                }
            }
        };
        let workers = [scope.spawn(work(0)), scope.spawn(work(1))];
        workers.into_iter().for_each(|t| t.join().unwrap());
        stop.store(true, Relaxed);
        compact.join().unwrap()
    });
    assert!(cfg!(miri) || moved > 1000, "{moved} moved");
    for slot in slots.slots {
        if let Some((object, seed)) = slot.into_inner().unwrap() {
            assert_eq!(pool.bytes(&object), content(seed, object.len()));
            pool.free(object);
        }
    }
    pool.trim();
    assert_eq!(pool.used_bytes(), 0);
    #[cfg(not(miri))]
    assert_eq!(_region.resident_bytes(), 0);
}

/// A span that becomes empty while its pages are on their way out is not handed out before they are.
#[cfg(not(miri))]
#[test]
fn a_span_emptied_while_its_tail_goes_is_not_reused_early() {
    let (_region, pool) = pool(1);
    let slots = Slots {
        pool: &pool,
        slots: vec![Mutex::new(None)],
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                pool.compact(0, &slots);
            }
        });
        let _stop_also_on_panic = StopOnDrop(&stop);
        for round in 0..3000u64 {
            let mut objects: Vec<Object> = (0..255u64)
                .map(|i| {
                    let mut object = pool.alloc(0, MAX_OBJECT, 0).unwrap();
                    pool.bytes_mut(&mut object)[..8]
                        .copy_from_slice(&(round << 8 | i).to_ne_bytes());
                    object
                })
                .collect();
            for (i, object) in objects.iter().enumerate() {
                let stamp = (round << 8 | i as u64).to_ne_bytes();
                assert_eq!(pool.bytes(object)[..8], stamp, "round {round}, object {i}");
            }
            // The first last, some time later.
            while let Some(object) = objects.pop() {
                if objects.is_empty() {
                    (0..round % 64 * 100).for_each(|_| std::hint::spin_loop());
                }
                pool.free(object);
            }
        }
    });
    pool.trim();
    assert_eq!(pool.used_bytes(), 0);
}
