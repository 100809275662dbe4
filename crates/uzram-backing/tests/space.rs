//! What fits: packed against one block for each object, and space that is used again and again.

mod common;

use common::{Dice, MIB, Table, store};
use uzram_backing::StoreError;

/// Writes ten times the store's size with up to 80 % of it alive, compacting when it is full: it is never full for good.
fn churn(size_bytes: u64, batch: u32) {
    let (_backing, store) = store(size_bytes);
    let mut table = Table::new(store);
    let mut dice = Dice(size_bytes);
    let (mut next, mut written) = (0, 0);
    while written < 10 * size_bytes {
        while table.store.stats().live_bytes > size_bytes * 8 / 10 - u64::from(batch) * 4112 {
            // Scattered, so that no segment empties by itself.
            let victim = dice.below(u64::from(next)) as u32;
            table.free(victim);
        }
        for _ in 0..batch {
            let bytes = dice.object();
            written += bytes.len() as u64;
            let mut tries = 0;
            while let Err(error) = table.push(next, &bytes) {
                assert_eq!(error, StoreError::Full);
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
    let mut dice = Dice(1);
    for round in 0..40 {
        for owner in 0..100 {
            table.push(owner, &dice.object()).unwrap();
        }
        table.flush();
        assert_eq!(table.compact(0), 0, "round {round}");
        (0..100).for_each(|owner| assert!(table.free(owner)));
    }
    assert_eq!(table.store.stats().write_errors, 0);
}
