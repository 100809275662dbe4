//! The index alone, against a map.

use std::collections::HashMap;

use uzram_testkit::Random;

use super::*;

fn key(hash: u64) -> ObjectKey {
    ObjectKey {
        hash,
        algorithm: 3,
        len: 1 + hash as usize % 4096,
    }
}

/// Each bucket knows how many entries of its own lie elsewhere, each page how many it has.
fn check(index: &Index) {
    for number in 0..index.shards.len() {
        let locked = index.lock_shard(number);
        let mut all = 0;
        for page in 0..locked.shard.pages {
            let (mut elsewhere, mut count) = ([0; BUCKETS], 0);
            for at in 0..BUCKETS * WAYS {
                let entry = locked.bucket(page, at / WAYS).get(at % WAYS);
                let used = u32::from(entry.refs() > 0);
                count += used;
                elsewhere[entry.home()] += used * u32::from(entry.home() != at / WAYS);
            }
            for (at, count) in elsewhere.into_iter().enumerate() {
                assert_eq!(locked.bucket(page, at).elsewhere(), count, "bucket {at}");
            }
            assert_eq!(locked.depth_and_count(page).1, count);
            all += u64::from(count);
        }
        assert_eq!(locked.shard.entries, all);
    }
}

/// Against a map, with keys from everywhere, from one shard, and all with one hash.
#[test]
fn the_index_agrees_with_a_map() {
    for (mask, objects, fits) in [
        (u64::MAX, 100_000, true),
        (u64::MAX >> SHARD_BITS, 200_000, false),
        (0xFFFF << 48, 20_000, true),
        (0, 2000, false),
    ] {
        let index = Index::new(objects).unwrap();
        let mut oracle: HashMap<u64, (ObjectKey, u32)> = HashMap::new();
        let (mut handles, mut random, mut refused) = (Vec::new(), Random::new(1), 0);
        for handle in 1..=objects {
            let key = key(random.next() & mask);
            let mut locked = index.lock(key);
            assert_eq!(locked.find(key, handle), None);
            if locked.insert(key, handle, false) {
                oracle.insert(handle, (key, 1));
                handles.push(handle);
            } else {
                refused += 1;
            }
            drop(locked);
            // Something that is there.
            let handle = *random.pick(&handles);
            let Some((key, refs)) = oracle.get_mut(&handle) else {
                continue;
            };
            let mut locked = index.lock(*key);
            let spot = locked.find(*key, handle).unwrap();
            assert_eq!((locked.handle(spot), locked.refs(spot)), (handle, *refs));
            if random.below(3) == 0 {
                assert!(locked.join(spot));
                *refs += 1;
            } else {
                *refs -= 1;
                assert_eq!(locked.part(spot), *refs);
                if *refs == 0 {
                    let key = *key;
                    assert_eq!(locked.find(key, handle), None);
                    oracle.remove(&handle);
                }
            }
        }
        check(&index);
        assert_eq!(refused == 0, fits, "{mask:#x}: {refused} refused");
        for (handle, (key, refs)) in oracle.drain() {
            let mut locked = index.lock(key);
            let spot = locked.find(key, handle).unwrap();
            (0..refs)
                .rev()
                .for_each(|left| assert_eq!(locked.part(spot), left));
            assert_eq!(locked.find(key, handle), None);
        }
        check(&index);
        assert!(index.bytes() > 0);
        index.trim();
        assert_eq!(index.bytes(), 0);
    }
}

#[test]
fn memory_stays_small_and_no_entry_is_refused() {
    let objects = 400_000;
    let index = Index::new(objects).unwrap();
    let mut random = Random::new(5);
    let mut most: f64 = 0.0;
    for handle in 1..=objects {
        let key = key(random.next());
        assert!(index.lock(key).insert(key, handle, false));
        if handle > 50_000 {
            most = most.max(index.bytes() as f64 / handle as f64);
        }
    }
    assert!(most < 30.0, "{most} bytes an object");
}

#[test]
fn references_run_out_and_a_hard_entry_uses_the_last_room() {
    let index = Index::new(1).unwrap();
    let key = key(0);
    let mut locked = index.lock(key);
    let mut handle = 0;
    while locked.insert(key, handle + 1, false) {
        handle += 1;
    }
    assert_eq!(handle, u64::from(SPLIT));
    while locked.insert(key, handle + 1, true) {
        handle += 1;
    }
    assert_eq!(handle, u64::from(FULL));
    let spot = locked.find(key, 77).unwrap();
    assert_eq!((1..).find(|_| !locked.join(spot)), Some(MAX_REFS));
    locked.relocate(spot, 7_000_000);
    assert_eq!(locked.find(key, 77), None);
    let spot = locked.find(key, 7_000_000).unwrap();
    assert_eq!(locked.refs(spot), MAX_REFS);
}
