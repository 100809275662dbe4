//! The pool against a naive model: a map from object to its bytes. Small enough for Miri
//! (`cargo miri test -p uzram-pool` where the toolchain has it).

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use common::{ARENA, StopOnDrop, content, pool};
use proptest::prelude::*;
use uzram_pool::{
    Compacted, Destination, Error, HUGE_THRESHOLD, MAX_OBJECT, Mover, Object, PAGE, Pool, Region,
    SPAN_BYTES, class_size,
};
use uzram_testkit::Random;

#[derive(Debug, Clone)]
enum Op {
    Store { shard: usize, len: usize, seed: u32 },
    Free { pick: usize },
    Rewrite { pick: usize, seed: u32 },
    Trim,
    ReleaseFreeSpans,
    Limit { pages: u64 },
    Restart { shards: usize },
    Restock,
    Compact { kib: u64, refuse: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![
        1..=MAX_OBJECT,
        1..=64usize,
        Just(MAX_OBJECT),
        1200..1300usize
    ];
    prop_oneof![
        8 => (0..3usize, len, any::<u32>()).prop_map(|(shard, len, seed)| Op::Store { shard, len, seed }),
        6 => any::<usize>().prop_map(|pick| Op::Free { pick }),
        2 => (any::<usize>(), any::<u32>()).prop_map(|(pick, seed)| Op::Rewrite { pick, seed }),
        1 => Just(Op::Trim),
        1 => Just(Op::ReleaseFreeSpans),
        1 => (0..200u64).prop_map(|pages| Op::Limit { pages }),
        1 => (1..4usize).prop_map(|shards| Op::Restart { shards }),
        2 => Just(Op::Restock),
        2 => (prop_oneof![0..40u64, Just(u64::MAX >> 10)], 0..6u64).prop_map(|(kib, refuse)| Op::Compact { kib, refuse }),
    ]
}

fn check(pool: &Pool, live: &BTreeMap<u64, (Object, u32)>) {
    for (owner, (object, seed)) in live {
        assert_eq!(
            pool.bytes(object),
            content(*seed, object.len()),
            "object of owner {owner}"
        );
        assert_eq!(u64::from(pool.owner(object)), *owner);
    }
    let stats = pool.stats();
    let bytes: usize = live
        .values()
        .map(|(object, _)| class_size(object.len()))
        .sum();
    assert_eq!(stats.objects, live.len() as u64);
    if pool.has_stock() {
        // Some may be in the reserve.
        assert!(stats.object_bytes >= bytes as u64);
    } else {
        assert_eq!(stats.object_bytes, bytes as u64);
    }
    assert!(stats.used_bytes >= stats.object_bytes, "{stats:?}");
    assert!(stats.peak_bytes >= stats.used_bytes, "{stats:?}");
}

/// What a new process does with the arena of one that died.
fn restart(
    region: &Arc<Region>,
    live: &mut BTreeMap<u64, (Object, u32)>,
    shards: usize,
    stock: Option<u64>,
) -> Pool {
    let mut restore = Pool::restore(region.clone(), 0, ARENA, shards).unwrap();
    for (object, _) in live.values() {
        restore.add(object.handle(), object.len()).unwrap();
    }
    if let Some(bytes) = stock {
        restore.keep_stock(bytes);
    }
    let pool = restore.finish();
    assert_eq!(pool.used_bytes(), region.resident_bytes());
    for (object, _) in live.values_mut() {
        // SAFETY: the old pool's right goes, and with it the old pool.
        *object = unsafe { pool.object(object.handle(), object.len()) };
    }
    pool
}

type Live = BTreeMap<u64, (Object, u32)>;

/// Moves what is in the map, but for every `refuse`th owner (0: all), which is in flux.
struct InMap<'a> {
    pool: &'a Pool,
    live: std::cell::RefCell<&'a mut Live>,
    refuse: u64,
}

impl Mover for InMap<'_> {
    fn relocate(&self, owner: u32, from: u64, to: Destination) -> Result<Object, Destination> {
        let mut live = self.live.borrow_mut();
        let owner = u64::from(owner);
        let (object, _) = live.get_mut(&owner).expect("every object's owner lives");
        assert_eq!(object.handle(), from);
        if self.refuse > 0 && owner.is_multiple_of(self.refuse) {
            return Err(to);
        }
        let mut copy = to.into_object(object.len())?;
        self.pool
            .bytes_mut(&mut copy)
            .copy_from_slice(self.pool.bytes(object));
        Ok(std::mem::replace(object, copy))
    }
}

/// Compacts, and checks that it took no memory, kept to its budget, and ends where it says so.
fn compact(pool: &Pool, live: &mut Live, max_bytes: u64, refuse: u64) -> Compacted {
    let used = pool.used_bytes();
    let mut run = || {
        let live = std::cell::RefCell::new(&mut *live);
        pool.compact(max_bytes, &InMap { pool, live, refuse })
    };
    let done = run();
    assert!(pool.used_bytes() <= used);
    assert_eq!(pool.used_bytes() + done.pages * PAGE as u64, used);
    assert!(done.bytes <= max_bytes.max(MAX_OBJECT as u64));
    if done.finished && refuse == 0 {
        let again = run();
        let nothing = Compacted {
            finished: true,
            ..Compacted::default()
        };
        assert_eq!(again, nothing, "after {done:?}");
    }
    done
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 200 }, failure_persistence: None, ..Default::default() })]

    #[test]
    fn prop_pool_agrees_with_a_map(stock in prop::option::weighted(0.4, 1..300_000u64), ops in prop::collection::vec(op(), 1..if cfg!(miri) { 40 } else { 400 })) {
        let (region, mut pool) = pool(3);
        if let Some(bytes) = stock {
            pool.keep_stock(bytes);
        }
        let mut live: BTreeMap<u64, (Object, u32)> = BTreeMap::new();
        let mut next_owner = 0;
        let nth = |live: &BTreeMap<u64, (Object, u32)>, pick: usize| {
            live.keys().nth(pick % live.len().max(1)).copied()
        };
        for op in ops {
            match op {
                Op::Store { shard, len, seed } => match (pool.used_bytes(), pool.store(shard, &content(seed, len), next_owner)) {
                    (used, Ok(object)) => {
                        prop_assert!(stock.is_none() || pool.used_bytes() == used, "memory was asked for");
                        prop_assert_eq!(object.len(), len);
                        live.insert(u64::from(next_owner), (object, seed));
                        next_owner += 1;
                    }
                    (_, Err(Error::OutOfStock { .. })) => {
                        prop_assert!(stock.is_some());
                        if pool.restock(&|| true).whole {
                            let again = pool.store(shard, &content(seed, len), next_owner);
                            live.insert(u64::from(next_owner), (again.unwrap(), seed));
                            next_owner += 1;
                        }
                    }
                    (_, Err(Error::Limit { limit_bytes, used_bytes })) => {
                        prop_assert!(stock.is_none());
                        prop_assert!(limit_bytes > 0 && used_bytes + 2 * 4096 + SPAN_BYTES as u64 > limit_bytes);
                    }
                    (_, Err(other)) => prop_assert!(false, "{other}"),
                },
                Op::Free { pick } => if let Some(owner) = nth(&live, pick) {
                    pool.free(live.remove(&owner).unwrap().0);
                },
                Op::Rewrite { pick, seed } => if let Some(owner) = nth(&live, pick) {
                    let (object, old) = live.get_mut(&owner).unwrap();
                    *old = seed;
                    let new = content(seed, object.len());
                    pool.bytes_mut(object).copy_from_slice(&new);
                },
                Op::Trim => { pool.trim(); }
                Op::ReleaseFreeSpans => { pool.release_free_spans(); }
                Op::Restock => {
                    let restocked = pool.restock(&|| true);
                    prop_assert!(restocked.whole || pool.limit_bytes() > 0, "{restocked:?}");
                }
                Op::Compact { kib, refuse } => {
                    compact(&pool, &mut live, kib << 10, refuse);
                    check(&pool, &live);
                }
                Op::Limit { pages } => pool.set_limit_bytes(pages * 4096),
                Op::Restart { shards } => {
                    pool = restart(&region, &mut live, shards, stock);
                    check(&pool, &live);
                }
            }
        }
        check(&pool, &live);
        pool.trim();
        check(&pool, &live);
        for (object, _) in live.into_values() {
            pool.free(object);
        }
        pool.trim();
        if stock.is_none() {
            prop_assert_eq!(pool.used_bytes(), 0);
        }
        prop_assert_eq!(pool.stats().objects, 0);
        #[cfg(not(miri))]
        prop_assert_eq!(pool.used_bytes(), region.resident_bytes());
    }
}

/// Objects of every size at once: none overlaps another, and each keeps its bytes.
#[test]
fn every_size_keeps_its_bytes() {
    let (_region, pool) = pool(2);
    let mut live = BTreeMap::new();
    for len in (1..=MAX_OBJECT).step_by(if cfg!(miri) { 97 } else { 1 }) {
        let seed = len as u32;
        let object = pool.store(len, &content(seed, len), seed).unwrap();
        live.insert(u64::from(seed), (object, seed));
    }
    check(&pool, &live);
}

/// What the limit counts is what the system counts, and trim gives back what is counted.
#[cfg(not(miri))]
#[test]
fn accounted_memory_is_the_systems_own() {
    let (region, pool) = pool(1);
    let mut objects: Vec<_> = (0..6000u32)
        .map(|i| {
            pool.store(0, &content(i, 700 + i as usize % 900), i)
                .unwrap()
        })
        .collect();
    assert_eq!(pool.used_bytes(), region.resident_bytes());
    // Freed in one run, as by a discard: the pages inside the spans go back, too.
    for object in objects.drain(2000..5000) {
        pool.free(object);
    }
    let full = pool.used_bytes();
    let released = pool.trim();
    assert_eq!(pool.used_bytes(), region.resident_bytes());
    assert_eq!(pool.used_bytes(), full - released);
    assert!(released * 100 > full * 35, "{released} of {full}");
    for object in objects {
        pool.free(object);
    }
    pool.trim();
    assert_eq!((pool.used_bytes(), region.resident_bytes()), (0, 0));
}

/// A fresh fill costs little more than its objects: DESIGN's bound is 4 % for everything together.
#[cfg(not(miri))]
#[test]
fn a_fresh_fill_is_dense() {
    let region = Arc::new(Region::memfd("uzram-pool-test", 1 << 32).unwrap());
    let pool = Pool::new(region, 0, 1 << 32, 2).unwrap();
    let mut bytes = 0;
    for i in 0..100_000u32 {
        let len = 40 + (i as usize).wrapping_mul(2_654_435_761) % (HUGE_THRESHOLD - 40);
        bytes += len as u64;
        let _leaked = pool.store(i as usize % 2, &vec![1; len], i).unwrap();
    }
    let stats = pool.stats();
    let total = stats.used_bytes + stats.metadata_bytes;
    assert!(
        total * 1000 < bytes * 1016,
        "{total} for {bytes}: {stats:?}"
    );
}

#[test]
fn a_limit_too_small_for_one_object_refuses_it() {
    let (_region, pool) = pool(1);
    pool.set_limit_bytes(1);
    let error = pool.store(0, &[1; 5000][..4096], 0).unwrap_err();
    assert_eq!(
        error,
        Error::Limit {
            limit_bytes: 4096,
            used_bytes: 4096
        }
    );
    pool.trim();
    assert_eq!(pool.used_bytes(), 0);
    pool.set_limit_bytes(0);
    pool.free(pool.store(0, &[1; 4096], 0).unwrap());
}

#[cfg(not(miri))]
#[test]
fn an_arena_that_is_full_says_so_and_recovers() {
    let region = Arc::new(Region::memfd("uzram-pool-test", 2 * SPAN_BYTES as u64).unwrap());
    let pool = Pool::new(region, 0, 2 * SPAN_BYTES as u64, 1).unwrap();
    let mut objects: Vec<_> = (0..510)
        .map(|i| pool.store(0, &[7; 4096], i).unwrap())
        .collect();
    assert_eq!(
        pool.store(0, &[7; 4096], 0).unwrap_err(),
        Error::ArenaFull { spans: 2 }
    );
    // Of a full arena the one hole must be found, wherever it is.
    pool.free(objects.remove(3));
    pool.free(pool.store(0, &[7; 4096], 0).unwrap());
    for object in objects {
        pool.free(object);
    }
    // All spans free again: any class may take them.
    pool.free(pool.store(0, &[7; 100], 0).unwrap());
}

#[test]
#[should_panic(expected = "another pool's")]
fn another_pools_object_is_refused() {
    let ((_r1, a), (_r2, b)) = (pool(1), pool(1));
    let object = a.store(0, &[1], 0).unwrap();
    b.free(object);
}

/// Threads that allocate, check and free across each other's shards, while another trims.
#[test]
fn threads_share_the_pool_without_mixing_objects() {
    let (_region, pool) = pool(2);
    let rounds = if cfg!(miri) { 30 } else { 30_000 };
    let stop = AtomicBool::new(false);
    let (left, right) = (
        std::sync::mpsc::sync_channel(64),
        std::sync::mpsc::sync_channel(64),
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                pool.trim();
                std::thread::yield_now();
            }
        });
        let _stop_also_on_panic = StopOnDrop(&stop);
        let work = |shard: usize, out: std::sync::mpsc::SyncSender<(Object, u32)>| {
            let pool = &pool;
            move || {
                for round in 0..rounds {
                    let seed = round as u32 * 2 + shard as u32;
                    let len = 1 + (seed as usize).wrapping_mul(2_654_435_761) % 900;
                    let object = pool.store(shard, &content(seed, len), seed).unwrap();
                    out.send((object, seed)).unwrap();
                }
            }
        };
        // What one thread stores, another checks and frees.
        let reap = |from: std::sync::mpsc::Receiver<(Object, u32)>| {
            let pool = &pool;
            move || {
                for (object, seed) in from {
                    assert_eq!(pool.bytes(&object), content(seed, object.len()));
                    assert_eq!(pool.owner(&object), seed);
                    pool.free(object);
                }
            }
        };
        let workers = [scope.spawn(work(0, left.0)), scope.spawn(work(1, right.0))];
        let reapers = [scope.spawn(reap(left.1)), scope.spawn(reap(right.1))];
        workers
            .into_iter()
            .chain(reapers)
            .for_each(|t| t.join().unwrap());
    });
    pool.trim();
    assert_eq!(pool.used_bytes(), 0);
}

/// With a stock no allocation asks the system for memory; what is needed is brought in ahead, the reserve takes any
/// object, and a pool without more memory refuses at once.
#[cfg(not(miri))]
#[test]
fn a_stock_feeds_allocations_and_the_reserve_takes_any() {
    let (region, mut pool) = pool(2);
    // Too little for a span: all of it in pages.
    pool.keep_stock(1 << 20);
    let refused = pool.store(0, &[1; 100], 0).unwrap_err();
    assert!(matches!(refused, Error::OutOfStock { .. }), "{refused}");
    assert!(pool.restock(&|| true).whole);
    let empty = pool.used_bytes();
    assert!((1 << 20..1200 << 10).contains(&empty), "{empty}");
    // 256 pages of reserve take 256 objects of any class, less what the first of each class brings about.
    let mut objects: Vec<Object> = (0..256)
        .map(|i| pool.store(0, &content(i, 20 + 15 * i as usize), i).unwrap())
        .collect();
    assert_eq!((pool.used_bytes(), region.resident_bytes()), (empty, empty));
    // A page or two a shard more, since the refused one had asked.
    let more = (0..).take_while(|_| pool.store(0, &[1; 4096], 0).map(|_kept| ()).is_ok());
    assert!(more.take(10).count() <= 4);
    assert!(pool.restock(&|| true).whole);
    // Now the classes have stock of their own, which follows the demand.
    for round in 0..20 {
        let before = pool.used_bytes();
        for i in 0..50 << round.min(4) {
            let Ok(object) = pool.store(0, &content(i, 1000), i) else {
                panic!("round {round}, object {i}");
            };
            objects.push(object);
        }
        assert_eq!(pool.used_bytes(), before);
        assert!(pool.restock(&|| true).whole);
    }
    for (i, object) in objects.iter().enumerate().take(256) {
        assert_eq!(
            pool.bytes(object),
            content(i as u32, 20 + 15 * i),
            "object {i}"
        );
    }
    for object in objects {
        pool.free(object);
    }
    for _ in 0..20 {
        assert!(pool.restock(&|| true).whole);
    }
    pool.trim();
    let left = pool.used_bytes();
    assert_eq!(left, region.resident_bytes());
    // The reserve, and a page with its books for each class that was in use.
    assert!(left < empty + 256 * 3 * 4096, "{left} left of {empty}");
    pool.set_limit_bytes(left);
    let mut refusals = 0;
    for i in 0..5000 {
        if pool
            .store(0, &content(i, 1000), i)
            .map(|object| _ = object.handle())
            .is_err()
        {
            refusals += 1;
        }
        pool.restock(&|| true);
    }
    assert!(refusals > 1000 && pool.used_bytes() <= left);
}

/// What random deletions leave becomes as dense as a fresh fill, whichever shards it came from, within a limit that is
/// reached, too; and goes on serving.
#[cfg(not(miri))]
#[test]
fn compaction_makes_a_sparse_pool_dense() {
    let (region, pool) = pool(2);
    let mut live = Live::new();
    let mut bytes = 0;
    for i in 0..60_000u32 {
        // Some forty classes.
        let len = 700 + (i as usize).wrapping_mul(2_654_435_761) % 400;
        let object = pool.store(i as usize % 2, &content(i, len), i).unwrap();
        live.insert(i.into(), (object, i));
    }
    let mut random = Random::new(7);
    let doomed: Vec<u64> = live.keys().copied().collect();
    for owner in doomed {
        if random.below(8) < 5 {
            pool.free(live.remove(&owner).unwrap().0);
        } else {
            bytes += live[&owner].0.len() as u64;
        }
    }
    pool.set_limit_bytes(pool.used_bytes());
    let (used, gain) = (pool.used_bytes(), pool.compaction_gain_bytes());
    assert!(used > bytes * 2, "{used} for {bytes}");
    // In slices.
    let mut slices = Vec::new();
    while slices.last().is_none_or(|last: &Compacted| !last.finished) {
        slices.push(compact(&pool, &mut live, 256 << 10, 0));
    }
    check(&pool, &live);
    let now = pool.used_bytes();
    assert_eq!(now, region.resident_bytes());
    // 1 % for rounding and owners, and three pages for each class: its spans end in the middle of one.
    let most = bytes / 100 * 101 + 3 * 51 * PAGE as u64;
    assert!(now <= most, "{now} for {bytes}");
    let (moved, back): (u64, u64) = slices
        .iter()
        .fold((0, 0), |sum, one| (sum.0 + one.bytes, sum.1 + one.pages));
    assert_eq!(back * PAGE as u64, used - now);
    assert!(moved < used - now, "{moved} moved to win {}", used - now);
    // The estimate was right, and says that there is little more.
    let error = gain.abs_diff(used - now);
    assert!(error * 50 < gain, "{gain}, not {}", used - now);
    assert!(pool.compaction_gain_bytes() * 100 < now);
    for i in 0..1000 {
        let object = pool.store(0, &content(i, 900), 60_000 + i).unwrap();
        live.insert(u64::from(60_000 + i), (object, i));
    }
    check(&pool, &live);
}
