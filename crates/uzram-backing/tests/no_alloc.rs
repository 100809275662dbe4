//! A read, a free and a hold allocate nothing, and a writer nothing once it has been through its buffers: it works for
//! machines that have no memory left.

#[path = "../../uzram-compress/tests/support/malloc.rs"]
mod malloc;

mod common;

use std::sync::Arc;

use common::{ID, LONG, MIB};
use malloc::CALLS;
use uzram_backing::{Backing, FileDisk, FileOptions, Location, Purpose, PushError, ReadBuffer};

#[test]
fn reading_writing_and_freeing_allocate_nothing() {
    malloc::assert_counting();
    let file = tempfile::NamedTempFile::new().unwrap();
    let storage = FileDisk::open(file.path(), FileOptions::default()).unwrap();
    let store = Backing::create(Arc::new(storage), 8 * MIB, ID).unwrap();
    let mut writer = store.writer(4, Purpose::Objects).unwrap();
    let mut buffer = ReadBuffer::new();
    let mut places: Vec<(u32, Location)> = Vec::with_capacity(5000);
    let object = [7; 1500];
    for round in 0..3 {
        let before = CALLS.get();
        for owner in 0..3000 {
            let publish = |written: uzram_backing::Written| {
                written.result.unwrap();
                places.push((written.owner, written.location));
            };
            match writer.push(owner, &object) {
                Ok(_) => {}
                Err(PushError::Busy { .. }) => {
                    writer.wait_one(LONG, publish);
                }
                Err(error) => panic!("{error}"),
            }
        }
        writer.submit();
        writer.wait(LONG, |written| {
            places.push((written.owner, written.location))
        });
        assert!(places.len() > 2900);
        for (owner, location) in places.drain(..) {
            let hold = store.hold(location).unwrap();
            assert_eq!(
                store.read(location, 1500, owner, &mut buffer),
                Ok(&object[..])
            );
            drop(hold);
            store.free(location, 1500);
        }
        store.stats();
        // The first round makes the lists of what is in the buffers.
        assert!(round == 0 || CALLS.get() == before, "round {round}");
    }
}
