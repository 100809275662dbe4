//! What fits: packed against one block for each object, and space that is used again and again.

mod common;

use common::{MIB, Random, Table, object, store};
use uzram_backing::PushError;

/// Writes ten times the backing's size with up to 80 % of it alive, compacting when it is full: it is never full for good.
fn churn(size_bytes: u64, batch: u32) {
    let (_backing, store) = store(size_bytes);
    let mut table = Table::new(store);
    let mut random = Random::new(size_bytes);
    let (mut next, mut written) = (0, 0);
    while written < 10 * size_bytes {
        while table.store.stats().live_bytes > size_bytes * 8 / 10 - u64::from(batch) * 4112 {
            // Scattered, so that no segment empties by itself.
            let victim = random.below(u64::from(next)) as u32;
            table.free(victim);
        }
        for _ in 0..batch {
            let bytes = object(&mut random);
            written += bytes.len() as u64;
            let mut tries = 0;
            while let Err(error) = table.push(next, &bytes) {
                assert_eq!(error, PushError::Full);
                table.flush();
                assert!(tries < 50, "{:?}", table.store.stats());
                tries += 1;
                table.compact(2);
            }
            next += 1;
        }
        table.flush();
        table.check_accounts();
    }
    table.check_all();
}

#[test]
fn ten_times_its_size_goes_through_a_store_that_is_80_percent_full() {
    churn(16 * MIB, 128);
}

#[test]
fn and_through_a_small_one() {
    churn(4 * MIB, 64);
}

#[test]
fn freed_segments_need_no_compaction() {
    let (_backing, store) = store(MIB);
    let mut table = Table::new(store);
    let mut random = Random::new(1);
    for round in 0..40 {
        for owner in 0..100 {
            table.push(owner, &object(&mut random)).unwrap();
        }
        table.flush();
        assert_eq!(table.compact(0), 0, "round {round}");
        (0..100).for_each(|owner| assert!(table.free(owner)));
    }
    assert_eq!(table.store.stats().write_errors, 0);
}

/// How many of about 34,000 heap pages of python3 and perl (`uzram_bench::corpus::process_memory`, same-filled ones left
/// out) each algorithm compressed to 1 to 64 bytes, 65 to 128, and so on to 4096, which stands for incompressible. Means
/// of 1516, 1372 and 1013 bytes.
const SIZES: [(&str, [u32; 64]); 3] = [
    (
        "lz4",
        [
            49, 41, 117, 278, 185, 111, 80, 261, 444, 505, 522, 481, 482, 549, 701, 901, 1209,
            1383, 1411, 1944, 2258, 2046, 2109, 2711, 2602, 1948, 1802, 821, 548, 345, 318, 307,
            323, 308, 271, 210, 216, 181, 144, 134, 369, 99, 104, 96, 76, 87, 87, 92, 82, 824,
            1100, 90, 4, 4, 2, 2, 0, 1, 0, 0, 0, 0, 0, 23,
        ],
    ),
    (
        "lzo-rle",
        [
            58, 44, 195, 302, 154, 86, 205, 506, 515, 515, 529, 660, 850, 1335, 1363, 1603, 2318,
            2996, 2751, 3052, 2120, 2102, 1462, 1102, 475, 433, 403, 410, 411, 400, 331, 242, 208,
            215, 224, 393, 134, 153, 121, 107, 85, 109, 91, 93, 101, 83, 74, 74, 82, 81, 652, 1152,
            187, 15, 3, 2, 7, 0, 1, 0, 0, 0, 0, 23,
        ],
    ),
    (
        "zstd",
        [
            64, 142, 320, 302, 437, 608, 628, 843, 1187, 1795, 2726, 4205, 5575, 4332, 1644, 542,
            610, 506, 560, 547, 549, 561, 357, 321, 281, 294, 331, 338, 231, 172, 145, 136, 131,
            97, 119, 108, 90, 87, 96, 84, 89, 72, 89, 373, 1181, 461, 22, 2, 2, 0, 0, 0, 1, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 5,
        ],
    ),
];

/// Of a page's size after compression, as often as it was seen.
fn size(random: &mut Random, sizes: &[u32; 64]) -> usize {
    let mut at = random.below(sizes.iter().map(|count| u64::from(*count)).sum());
    for (bin, count) in sizes.iter().enumerate() {
        if at < u64::from(*count) {
            return bin * 64 + 1 + random.below(64) as usize;
        }
        at -= u64::from(*count);
    }
    unreachable!("it is less than the sum")
}

/// Fills a backing until it takes no more, and compares with one block of 4 KiB for each object, which the kernel's zram
/// spends. Both on the whole backing: header, padding, what is kept for compaction.
#[test]
fn at_least_2_5_times_as_many_objects_as_blocks() {
    // Everything in one go, and in the small batches of a caller that cannot wait.
    for (name, sizes) in &SIZES {
        for batch in [u32::MAX, 64] {
            let (_backing, store) = store(64 * MIB);
            let mut table = Table::new(store);
            let mut random = Random::new(11);
            let mut objects = 0;
            let payload = random.bytes(4096);
            while table
                .push(objects, &payload[..size(&mut random, sizes)])
                .is_ok()
            {
                objects += 1;
                if objects.is_multiple_of(batch) {
                    table.writer.submit();
                }
            }
            table.flush();
            let blocks = table.store.stats().size_bytes / 4096;
            let density = f64::from(objects) / blocks as f64;
            eprintln!("{name}, batches of {batch}: {density:.3} objects a block");
            assert!(density >= 2.5, "{name}, {batch}: {density}");
        }
    }
}
