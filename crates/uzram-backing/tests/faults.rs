//! Each fault that a backing can have, one test each: nothing is lost that the caller still has, nothing wrong is read,
//! it is counted, and the space comes back.

mod common;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use common::{ID, LONG, MIB, Random, Scratch, Table, object, scratch, store};
use rustix::io::Errno;
use uzram_backing::{
    Backing, BackingRestore, FileDisk, FileOptions, OpenError, Purpose, PushError, ReadBuffer,
    ReadError, WriteError, Written,
};
use uzram_testkit::disk::{Fault, FaultRule};

const EIO: Errno = Errno::IO;
const ENOSPC: Errno = Errno::NOSPC;

/// Pushes objects for owners from 0 on and waits for them.
fn fill(table: &mut Table, objects: u32) {
    let mut random = Random::new(7);
    for owner in 0..objects {
        table.push(owner, &object(&mut random)).unwrap();
    }
    table.flush();
}

fn full_of_errors(fault: Fault, expected: WriteError) {
    let (scratch, store) = store(4 * MIB);
    let mut writer = store.writer(4, Purpose::Objects).unwrap();
    scratch.storage.add(FaultRule::writes(fault));
    let mut reports = Vec::new();
    for owner in 0..400 {
        while let Err(error) = writer.push(owner, &[7; 3000]) {
            assert!(matches!(error, PushError::Busy { .. }), "{error}");
            writer.wait_one(LONG, |written| reports.push(written));
        }
    }
    writer.submit();
    assert_eq!(writer.wait(LONG, |written| reports.push(written)), 0);
    assert_eq!(reports.len(), 400);
    assert!(
        reports
            .iter()
            .all(|written| written.result == Err(expected))
    );
    let stats = store.stats();
    assert_eq!(
        (stats.live_objects, stats.live_bytes, stats.used_segments),
        (0, 0, 0)
    );
    assert!(
        stats.quarantined_segments > 0 && stats.write_errors > 0,
        "{stats:?}"
    );
    drop(writer);

    // When the disk is well again, all of the space is there.
    scratch.storage.clear();
    let mut table = Table::new(store);
    let mut stored = 0;
    while table.push(stored, &[9; 4096]).is_ok() {
        stored += 1;
    }
    table.flush();
    assert!(u64::from(stored) * 4112 > 3 * MIB, "{stored} objects");
    table.check_all();
    // All but the one that is kept for compaction were written and are trusted.
    assert!(table.store.stats().quarantined_segments <= 2);
}

#[test]
fn eio_leaves_the_objects_with_the_caller_and_the_space_comes_back() {
    full_of_errors(Fault::Error(EIO), WriteError::Io(EIO));
}

#[test]
fn enospc_from_the_file_system_likewise() {
    full_of_errors(Fault::Error(ENOSPC), WriteError::Io(ENOSPC));
}

#[test]
fn a_torn_write_that_says_so_is_an_error() {
    full_of_errors(Fault::Torn(Some(EIO)), WriteError::Io(EIO));
}

#[test]
fn one_failed_write_takes_only_its_own_objects() {
    let (scratch, store) = store(4 * MIB);
    let mut table = Table::new(store);
    scratch
        .storage
        .add(FaultRule::writes(Fault::Error(EIO)).after(2, 1));
    fill(&mut table, 1000);
    let stats = table.store.stats();
    assert_eq!((scratch.storage.fired(), stats.write_errors), (1, 1));
    assert!(table.failed > 50 && table.failed < 1000, "{}", table.failed);
    assert_eq!(table.objects.len() as u64 + table.failed, 1000);
    table.check_all();
    table.check_accounts();
}

#[test]
fn nothing_more_is_written_to_a_segment_that_refused_a_write() {
    let (scratch, store) = store(4 * MIB);
    let mut table = Table::new(store);
    table.push(0, &[1; 100]).unwrap();
    table.flush();
    scratch
        .storage
        .add(FaultRule::writes(Fault::Error(EIO)).after(0, 1));
    table.push(1, &[1; 100]).unwrap();
    table.writer.submit();
    // Its place is in the segment already.
    table.push(2, &[1; 100]).unwrap();
    table.drain(|writer, report| writer.wait(LONG, report));
    assert_eq!((table.failed, table.pending.len()), (1, 1));
    table.flush();
    table.push(3, &[1; 5]).unwrap();
    table.flush();
    assert_eq!(table.failed, 1);
    let segment = |owner| table.store.segment_of(table.objects[&owner].0);
    assert_eq!(segment(0), segment(2));
    assert_ne!(segment(0), segment(3));
    table.check_all();
}

#[test]
fn padding_tells_nothing() {
    let (scratch, store) = store(MIB);
    let mut writer = store.writer(1, Purpose::Objects).unwrap();
    writer.push(0, &[0xFF; 4000]).unwrap();
    writer.submit();
    writer.wait(LONG, |_| {});
    let location = writer.push(0, &[0xFF; 100]).unwrap();
    writer.submit();
    writer.wait(LONG, |_| {});
    let mut block = vec![1; 4096];
    let file = scratch.file.as_file();
    file.read_exact_at(&mut block, location.raw() * 8).unwrap();
    assert!(block[112..].iter().all(|byte| *byte == 0));
}

#[test]
fn what_moved_during_a_read_is_no_damage() {
    let (scratch, store) = store(MIB);
    let mut table = Table::new(store);
    fill(&mut table, 1);
    let (location, bytes) = table.objects[&0].clone();
    let (store, buffer) = (&table.store, &mut table.buffer);
    // A bad read once, as when the space was being written anew: the second one decides.
    scratch
        .storage
        .add(FaultRule::reads(Fault::Flip).after(0, 1));
    let file = scratch.file.as_file();
    let at = location.raw() * 8 + 12;
    assert!(store.read(location, bytes.len(), 0, buffer).is_ok());
    // Overwritten, and the table says so.
    file.write_all_at(&[!bytes[0]], at).unwrap();
    let read = store.read_while(location, bytes.len(), 0, buffer, || false);
    assert_eq!(read, Err(ReadError::Moved));
    // Between the first read, which was bad, and the second.
    let mut answers = [true, false].into_iter();
    let still = || answers.next().unwrap();
    let read = store.read_while(location, bytes.len(), 0, buffer, still);
    assert_eq!(read, Err(ReadError::Moved));
    assert_eq!(store.stats().corrupt, 0);
    let read = store.read(location, bytes.len(), 0, buffer);
    assert_eq!(read, Err(ReadError::Checksum));
    assert_eq!(store.stats().corrupt, 1);
}

#[test]
fn a_short_write_goes_on() {
    let (scratch, store) = store(4 * MIB);
    let mut table = Table::new(store);
    scratch
        .storage
        .add(FaultRule::writes(Fault::Short).after(0, 5));
    fill(&mut table, 1000);
    assert_eq!((scratch.storage.fired(), table.failed), (5, 0));
    table.check_all();
    let stats = table.store.stats();
    assert!(stats.bytes_written >= stats.live_bytes);
}

#[test]
fn a_short_read_goes_on() {
    let (scratch, store) = store(4 * MIB);
    let mut table = Table::new(store);
    fill(&mut table, 100);
    scratch.storage.add(FaultRule::reads(Fault::Short));
    table.check_all();
    assert!(scratch.storage.fired() > 100);
}

#[test]
fn a_read_error_is_that_and_no_damage() {
    let (scratch, store) = store(4 * MIB);
    let mut table = Table::new(store);
    fill(&mut table, 1);
    scratch
        .storage
        .add(FaultRule::reads(Fault::Error(EIO)).after(0, 1));
    let (location, bytes) = table.objects[&0].clone();
    let read = table
        .store
        .read(location, bytes.len(), 0, &mut table.buffer);
    assert_eq!(read, Err(ReadError::Io(EIO)));
    table.check(0);
    let stats = table.store.stats();
    assert_eq!((stats.read_errors, stats.corrupt, stats.reads), (1, 0, 2));
}

/// A write that says it succeeded and did not: only the checksum can tell.
#[test]
fn a_lie_is_found_by_the_checksum() {
    for fault in [Fault::Torn(None), Fault::Flip] {
        let (scratch, store) = store(4 * MIB);
        let mut table = Table::new(store);
        scratch.storage.add(FaultRule::writes(fault).after(0, 1));
        fill(&mut table, 100);
        let mut damaged = 0;
        for (owner, (location, bytes)) in &table.objects {
            match table
                .store
                .read(*location, bytes.len(), *owner, &mut table.buffer)
            {
                Ok(read) => assert_eq!(read, bytes),
                Err(error) => {
                    assert!(error.is_corrupt(), "{error}");
                    damaged += 1;
                }
            }
        }
        assert!(damaged > 0, "{fault:?}");
        assert_eq!(table.store.stats().corrupt, damaged);
    }
}

#[test]
fn every_flipped_bit_of_an_object_is_found() {
    let (scratch, store) = store(MIB);
    let mut table = Table::new(store);
    table.push(3, &[0x55; 100]).unwrap();
    table.flush();
    let (location, _) = table.objects[&3];
    let file = scratch.file.as_file();
    for bit in 0..(12 + 100) * 8 {
        let at = location.raw() * 8 + bit / 8;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], at).unwrap();
        let read = table.store.read(location, 100, 3, &mut table.buffer);
        assert!(read.is_err_and(ReadError::is_corrupt), "bit {bit}");
        file.write_all_at(&byte, at).unwrap();
    }
    table.check(3);
    // A block that was written to, or read from, another place.
    let mut block = vec![0; 4096];
    file.read_exact_at(&mut block, location.raw() * 8).unwrap();
    let elsewhere = uzram_backing::Location::from_raw(location.raw() + 512).unwrap();
    file.write_all_at(&block, elsewhere.raw() * 8).unwrap();
    let read = table.store.read(elsewhere, 100, 3, &mut table.buffer);
    assert_eq!(read, Err(ReadError::Checksum));
    let read = table.store.read(location, 100, 4, &mut table.buffer);
    assert_eq!(read, Err(ReadError::Header), "another's object");
    let read = table.store.read(location, 99, 3, &mut table.buffer);
    assert_eq!(read, Err(ReadError::Header), "another length");
}

#[test]
fn a_hung_disk_keeps_its_segment_and_buffer_until_it_answers() {
    let (scratch, store) = store(MIB);
    let mut writer = store.writer(2, Purpose::Objects).unwrap();
    scratch.storage.add(FaultRule::writes(Fault::Hang));
    let mut reports = Vec::new();
    let in_flight = loop {
        match writer.push(1, &[1; 4096]) {
            Ok(_) => {}
            Err(PushError::Busy { in_flight }) => break in_flight,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(in_flight, 2);
    let still = |_: Written| panic!("nothing is done");
    assert_eq!(writer.wait(Duration::from_millis(20), still), 2);
    writer.abandon(|written| reports.push(written));
    assert!(reports.len() > 100);
    assert!(
        reports
            .iter()
            .all(|written| written.result == Err(WriteError::Hung))
    );
    let stats = store.stats();
    assert_eq!(
        (stats.live_objects, stats.used_segments, stats.hung),
        (0, 2, 2)
    );
    // The buffers are the disk's.
    assert_eq!(writer.in_flight(), 0);
    assert!(matches!(
        writer.push(1, &[1; 10]),
        Err(PushError::Busy { .. })
    ));

    scratch.storage.clear();
    scratch.storage.release();
    while store.stats().used_segments > 0 {
        writer.completed(|_| panic!("they were reported"));
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(writer);
    let mut table = Table::new(store);
    fill(&mut table, 100);
    table.check_all();
    table.check_accounts();
}

#[test]
fn giving_up_gives_everything_back_and_leaves_the_segment() {
    let (scratch, store) = store(MIB);
    let mut writer = store.writer(3, Purpose::Objects).unwrap();
    scratch
        .storage
        .add(FaultRule::writes(Fault::Hang).after(0, 1));
    let first = writer.push(1, &[1; 10]).unwrap();
    writer.submit();
    writer.push(2, &[2; 20]).unwrap();
    let mut reports = Vec::new();
    writer.abandon(|written| reports.push((written.owner, written.len, written.result)));
    reports.sort_by_key(|report| report.0);
    let hung = Err(WriteError::Hung);
    assert_eq!(reports, [(1, 10, hung), (2, 20, hung)]);
    assert_eq!(store.stats().live_objects, 0);
    let next = writer.push(3, &[3; 30]).unwrap();
    assert_ne!(store.segment_of(next), store.segment_of(first));
    writer.submit();
    assert_eq!(
        writer.wait(LONG, |written| assert_eq!(written.result, Ok(()))),
        0
    );
    // The first comes back, and its segment is empty but not trusted.
    assert_eq!(store.stats().used_segments, 2);
    scratch.storage.release();
    while store.stats().used_segments > 1 {
        writer.completed(|_| panic!("it was given up"));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(store.stats().quarantined_segments, 1);
    let mut buffer = ReadBuffer::new();
    assert_eq!(store.read(next, 30, 3, &mut buffer), Ok(&[3; 30][..]));
}

#[test]
fn what_a_dropped_writer_did_not_report_is_free() {
    let (_backing, store) = store(4 * MIB);
    let mut writer = store.writer(4, Purpose::Objects).unwrap();
    for owner in 0..300 {
        writer.push(owner, &[3; 3000]).unwrap();
    }
    drop(writer);
    let stats = store.stats();
    assert_eq!(
        (stats.live_objects, stats.live_bytes, stats.used_segments),
        (0, 0, 0)
    );
}

#[test]
fn a_file_that_was_cut_is_an_error_where_it_was_cut() {
    let (scratch, store) = store(MIB);
    let mut table = Table::new(store);
    fill(&mut table, 200);
    let last = table
        .objects
        .values()
        .map(|(location, _)| location.raw() * 8)
        .max()
        .unwrap();
    scratch.file.as_file().set_len(last / 4096 * 4096).unwrap();
    let (mut good, mut bad) = (0, 0);
    for (owner, (location, bytes)) in &table.objects {
        match table
            .store
            .read(*location, bytes.len(), *owner, &mut table.buffer)
        {
            Ok(read) => {
                assert_eq!(read, bytes);
                good += 1;
            }
            Err(error) => {
                assert!(matches!(error, ReadError::Short { .. }), "{error}");
                bad += 1;
            }
        }
    }
    assert!(good > 190 && bad > 0, "{good} {bad}");
    let Scratch { file, .. } = &scratch;
    let storage = FileDisk::open(file.path(), FileOptions::default()).unwrap();
    let error = BackingRestore::open(Arc::new(storage), ID).err();
    assert!(matches!(error, Some(OpenError::Short { .. })), "{error:?}");
}

#[test]
fn a_block_that_cannot_be_read_does_not_keep_compaction_from_the_others() {
    let (scratch, store) = store(4 * MIB);
    let mut table = Table::new(store);
    fill(&mut table, 400);
    // Closed: a segment that is appended to is no victim.
    table.writer = table.store.writer(4, Purpose::Objects).unwrap();
    let victims = table.store.victims(1);
    let segment = u64::from(victims[0].segment()) * 256 * 1024;
    drop(victims);
    let broken = segment + 8 * 4096..segment + 9 * 4096;
    scratch
        .storage
        .add(FaultRule::reads(Fault::Error(EIO)).within(broken));
    let before = table.store.stats().live_objects;
    assert!(table.compact(1) > 20);
    assert_eq!(table.store.stats().live_objects, before);
    scratch.storage.clear();
    table.check_all();
}

#[test]
fn opening_tells_what_is_wrong() {
    let new = || {
        let scratch = scratch(FileOptions::default());
        let store = scratch.create(MIB);
        drop(store);
        scratch
    };
    let open =
        |scratch: &Scratch, id| BackingRestore::open(Arc::new(scratch.storage.clone()), id).err();
    assert!(open(&new(), ID).is_none());
    assert!(matches!(
        open(&new(), [0; 16]),
        Some(OpenError::OtherDevice)
    ));
    for (at, byte, check) in [
        (
            0,
            b'X',
            (|error| matches!(error, OpenError::Foreign)) as fn(OpenError) -> bool,
        ),
        (8, 2, |error| {
            matches!(error, OpenError::Version { found: 2, .. })
        }),
        (20, 1, |error| matches!(error, OpenError::Damaged)),
        (25, 1, |error| matches!(error, OpenError::Damaged)),
    ] {
        let scratch = new();
        scratch.file.as_file().write_all_at(&[byte], at).unwrap();
        assert!(check(open(&scratch, ID).unwrap()), "byte {at}");
    }
    let scratch = new();
    scratch.storage.set_size(MIB - 4096);
    let error = open(&scratch, ID).unwrap();
    assert_eq!(
        error.to_string(),
        "the disk has 1044480 bytes, the backing needs 1048576"
    );
    scratch.storage.set_size(0);
    assert!(matches!(open(&scratch, ID), Some(OpenError::Foreign)));
}

#[test]
fn making_tells_what_is_wrong() {
    let scratch = scratch(FileOptions::default());
    let create = |size| Backing::create(Arc::new(scratch.storage.clone()), size, ID).err();
    for size in [0, MIB - 1, (4 << 40) + 1] {
        assert!(
            matches!(create(size), Some(OpenError::Size { .. })),
            "{size}"
        );
    }
    scratch
        .storage
        .add(FaultRule::writes(Fault::Error(EIO)).after(0, 1));
    let error = create(MIB).unwrap().to_string();
    assert!(
        error.starts_with("cannot write to the backing: "),
        "{error}"
    );
    scratch.storage.set_size(MIB);
    assert!(matches!(create(2 * MIB), Some(OpenError::Short { .. })));
    let dev_null = FileDisk::open("/dev/null".as_ref(), FileOptions::default());
    assert!(dev_null.is_err());
}

#[test]
fn locations_that_cannot_be_are_refused() {
    let (_backing, store) = store(MIB);
    let mut buffer = ReadBuffer::new();
    let at = |offset: u64| uzram_backing::Location::from_raw(offset / 8).unwrap();
    for (offset, len) in [
        (0, 10),
        (4088, 1),
        (MIB - 8, 1),
        (MIB, 1),
        (1 << 41, 1),
        (4096, 0),
        (4096, 4097),
        (256 * 1024 - 16, 5),
    ] {
        let read = store.read(at(offset), len, 0, &mut buffer);
        assert_eq!(read, Err(ReadError::Outside), "{offset} {len}");
    }
    assert!(uzram_backing::Location::from_raw(1 << 39).is_none());
    assert!(store.hold(at(1 << 41)).is_none());
}
