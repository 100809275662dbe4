//! The backing against a map, under random faults: what is read is what was written or an error that the faults explain,
//! and the accounts are right after every step.

mod common;

use std::collections::HashMap;

use common::{ID, LONG, MIB, Random, Table, object, scratch};
use proptest::prelude::*;
use rustix::io::Errno;
use uzram_backing::{BackingRestore, FileOptions, PushError};
use uzram_testkit::disk::{Fault, FaultRule};

#[derive(Debug, Clone)]
enum Step {
    /// Pushes objects of a seed to owners from the first on.
    Push {
        first: u32,
        count: u32,
        seed: u64,
    },
    /// Sends off what was pushed, and waits or does not.
    Submit {
        wait: bool,
    },
    Free {
        first: u32,
        count: u32,
    },
    Read {
        owner: u32,
    },
    Compact {
        segments: usize,
    },
    /// The next writes or reads after some others fail.
    Spoil {
        fault: Fault,
        reads: bool,
        skip: u64,
    },
    Mend,
    Reopen,
}

const OWNERS: u32 = 600;

fn step() -> impl Strategy<Value = Step> {
    let owner = 0..OWNERS;
    let fault = prop_oneof![
        Just(Fault::Error(Errno::IO)),
        Just(Fault::Error(Errno::NOSPC)),
        Just(Fault::Short),
        Just(Fault::Torn(Some(Errno::IO))),
    ];
    prop_oneof![
        6 => (owner.clone(), 1..200u32, any::<u64>())
            .prop_map(|(first, count, seed)| Step::Push { first, count, seed }),
        3 => any::<bool>().prop_map(|wait| Step::Submit { wait }),
        3 => (owner.clone(), 1..150u32).prop_map(|(first, count)| Step::Free { first, count }),
        4 => owner.prop_map(|owner| Step::Read { owner }),
        2 => (1..4usize).prop_map(|segments| Step::Compact { segments }),
        1 => (fault, any::<bool>(), 0..4u64)
            .prop_map(|(fault, reads, skip)| Step::Spoil { fault, reads, skip }),
        1 => Just(Step::Mend),
        1 => Just(Step::Reopen),
    ]
}

/// All of it written and published, whatever the faults.
fn settle(table: &mut Table) {
    table.flush();
    table.check_accounts();
}

fn reopen(mut table: Table, storage: &uzram_testkit::disk::FaultyDisk) -> Table {
    settle(&mut table);
    let objects: HashMap<_, _> = std::mem::take(&mut table.objects);
    drop(table);
    let restore = BackingRestore::open(std::sync::Arc::new(storage.clone()), ID).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (restore, objects) = (&restore, &objects);
            scope.spawn(move || {
                for (_, (location, bytes)) in
                    objects.iter().filter(|(owner, _)| **owner % 2 == thread)
                {
                    restore.add(*location, bytes.len()).unwrap();
                }
            });
        }
    });
    Table::with(restore.finish(), objects)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn prop_store_is_a_map_under_faults(steps in prop::collection::vec(step(), 1..60)) {
        // The last segment is short.
        let scratch = scratch(FileOptions::default());
        let mut table = Table::new(scratch.create(MIB + 5 * 4096));
        for step in steps {
            match step {
                Step::Push { first, count, seed } => {
                    let mut random = Random::new(seed);
                    for owner in first..first + count {
                        match table.push(owner, &object(&mut random)) {
                            Ok(()) => {}
                            Err(error) => { prop_assert_eq!(error, PushError::Full); break }
                        }
                    }
                }
                Step::Submit { wait } => {
                    table.writer.submit();
                    table.drain(|writer, report| if wait {
                        writer.wait(LONG, report);
                    } else {
                        writer.completed(report);
                    });
                }
                Step::Free { first, count } => {
                    (first..first + count).for_each(|owner| { table.free(owner); });
                }
                Step::Read { owner } => if let Some((location, bytes)) = table.objects.get(&owner) {
                    let read = table.store.read(*location, bytes.len(), owner, &mut table.buffer);
                    if let Ok(read) = read {
                        prop_assert_eq!(read, bytes);
                    } else {
                        prop_assert!(scratch.storage.fired() > 0, "{:?}", read);
                    }
                },
                Step::Compact { segments } => { table.compact(segments); }
                Step::Spoil { fault, reads, skip } => {
                    let rule = if reads { FaultRule::reads(fault) } else { FaultRule::writes(fault) };
                    scratch.storage.add(rule.after(skip, 3));
                }
                Step::Mend => scratch.storage.clear(),
                Step::Reopen => {
                    scratch.storage.clear();
                    table = reopen(table, &scratch.storage);
                }
            }
            table.check_accounts();
        }
        scratch.storage.clear();
        settle(&mut table);
        table.check_all();
        let mut table = reopen(table, &scratch.storage);
        table.check_all();
        table.check_accounts();
        (0..OWNERS * 2).for_each(|owner| { table.free(owner); });
        let stats = table.store.stats();
        prop_assert_eq!((stats.live_bytes, stats.used_segments), (0, 0));
    }
}

#[test]
fn a_restored_segment_does_not_take_more_than_it_has() {
    let scratch = scratch(FileOptions::default());
    drop(scratch.create(MIB));
    let restore = BackingRestore::open(std::sync::Arc::new(scratch.storage.clone()), ID).unwrap();
    let at = |offset: u64| uzram_backing::Location::from_raw(offset / 8).unwrap();
    let add = |n: u64| restore.add(at(256 * 1024 + n * 8), 4084);
    let taken = (0..100).take_while(|n| add(*n).is_ok()).count();
    assert_eq!(taken, 64);
    let damage = add(0).unwrap_err().to_string();
    assert_eq!(damage, "its object overlaps another");
    assert!(restore.add(at(0), 4).is_err());
}
