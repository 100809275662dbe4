//! Dedup: identical pages share memory, a written copy leaves the others alone, and all that moves objects or makes new
//! ones of them keeps to it.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use uzram::{Choice, Device, Error, PAGE_SIZE, PageKind, Recompress, Stats, Writeback, Zeroes};
use uzram_testkit::Random;

const PAGE: u64 = PAGE_SIZE as u64;

/// One of endlessly many pages: every 8th is incompressible, every 9th same-filled.
fn content(number: u64) -> [u8; PAGE_SIZE] {
    let mut random = Random::new(number);
    let mut bytes = [0; PAGE_SIZE];
    let noise = match number {
        n if n.is_multiple_of(9) => {
            bytes.fill(n as u8);
            return bytes;
        }
        n if n.is_multiple_of(8) => PAGE_SIZE / 8,
        n => 20 + n as usize % 200,
    };
    for (at, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let value = match at {
            0 => number,
            _ if at < noise => random.next(),
            _ => number % 7,
        };
        *word = value.to_le_bytes();
    }
    bytes
}

fn write(device: &Device, page: u64, number: u64) {
    device.write_at(&content(number), page * PAGE).unwrap();
}

fn read(device: &Device, page: u64) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    device.read_at(&mut bytes, page * PAGE).unwrap();
    bytes
}

fn check(device: &Device, oracle: &[Option<u64>]) {
    for (page, number) in oracle.iter().enumerate() {
        let expected = number.map_or([0; PAGE_SIZE], content);
        assert!(
            read(device, page as u64) == expected,
            "page {page}: {number:?}"
        );
    }
}

fn deduping(pages: u64) -> Device {
    Device::builder(pages * PAGE).dedup(true).build().unwrap()
}

fn is_empty(device: &Device) {
    device.reset();
    let stats = device.stats();
    let bytes = [
        stats.orig_data_size_bytes,
        stats.compr_data_size_bytes,
        stats.mem_used_total_bytes,
        stats.dup_pages,
        stats.dup_data_size_bytes,
        stats.dedup_index_bytes,
        stats.huge_pages,
    ];
    assert_eq!(bytes, [0; 7]);
}

#[test]
fn copies_take_no_memory_and_go_one_by_one() {
    let (plain, device) = (
        Device::builder(4000 * PAGE).build().unwrap(),
        deduping(4000),
    );
    assert!(device.dedup() && !plain.dedup());
    for page in 0..4000 {
        write(&plain, page, page % 400);
        write(&device, page, page % 400);
    }
    let (without, with) = (plain.stats(), device.stats());
    assert_eq!(without.dup_pages, 0);
    assert_eq!(with.orig_data_size_bytes, without.orig_data_size_bytes);
    assert_eq!(with.same_pages, without.same_pages);
    assert_eq!(with.huge_pages, without.huge_pages);
    assert_eq!(
        with.compr_data_size_bytes * 10,
        without.compr_data_size_bytes
    );
    assert_eq!(
        with.dup_data_size_bytes * 10,
        without.compr_data_size_bytes * 9
    );
    assert_eq!(with.dup_pages * 10, (4000 - with.same_pages) * 9);
    assert!(
        with.mem_used_total_bytes * 3 < without.mem_used_total_bytes,
        "{with:?} {without:?}"
    );
    // Copy on write: whole, in part, discarded, zeroed.
    for page in (0..400).filter(|page| page % 9 > 0) {
        write(&device, page, 10_000 + page);
        device
            .write_at(b"in part", (400 + page) * PAGE + 100)
            .unwrap();
        device.discard((800 + page) * PAGE, PAGE).unwrap();
        let at = (1200 + page) * PAGE;
        device.write_zeroes(at, PAGE, Zeroes::Allocate).unwrap();
    }
    for page in (0..4000).filter(|page| page % 400 % 9 > 0) {
        let mut expected = content(page % 400);
        match page / 400 {
            0 => expected = content(10_000 + page),
            1 => expected[100..107].copy_from_slice(b"in part"),
            2 | 3 => expected.fill(0),
            _ => {}
        }
        assert!(read(&device, page) == expected, "page {page}");
    }
    assert_eq!(
        (device.stats().failed_reads, device.stats().failed_writes),
        (0, 0)
    );
    is_empty(&device);
}

/// What is shared when dedup is switched off stays so until it is rewritten; nothing joins it.
#[test]
fn dedup_is_switched_while_the_device_is_in_use() {
    let device = deduping(400);
    let fill = |first: u64| (0..100).for_each(|page| write(&device, first + page, page));
    fill(0);
    fill(100);
    let dup = device.stats().dup_pages;
    assert!(dup > 80);
    device.set_dedup(false).unwrap();
    fill(200);
    assert_eq!(device.stats().dup_pages, dup);
    device.set_dedup(true).unwrap();
    fill(300);
    // With the first, which are known, and not with the third.
    assert_eq!(device.stats().dup_pages, 2 * dup);
    device.set_dedup(false).unwrap();
    fill(0);
    fill(300);
    assert_eq!(device.stats().dup_pages, 0);
    for page in 0..400 {
        assert!(read(&device, page) == content(page % 100));
    }
    is_empty(&device);
}

#[test]
fn a_swap_device_refuses_it() {
    let swap = || Device::builder(64 << 20).reserve_bytes(1 << 20);
    assert!(matches!(
        swap().dedup(true).build(),
        Err(Error::DedupWithReserve)
    ));
    let device = swap().build().unwrap();
    assert_eq!(device.set_dedup(true), Err(Error::DedupWithReserve));
    device.set_dedup(false).unwrap();
    assert!(!device.dedup());
}

/// Several threads write the same contents to pages of their own and to common ones, and read back; one compacts.
#[test]
fn writers_of_the_same_contents_do_not_disturb_each_other() {
    for algorithm in ["lz4", "zstd"] {
        let device = Device::builder(3000 * PAGE)
            .algorithm(algorithm)
            .dedup(true)
            .build()
            .unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let compact = scope.spawn(|| {
                let mut moved = 0;
                while !stop.load(Relaxed) {
                    moved += device.jobs().compact(200_000).objects_moved;
                }
                moved
            });
            let writer = |thread: u64| {
                let device = &device;
                move || {
                    let (mut random, mut own) = (Random::new(thread), vec![None; 700]);
                    for round in 0..20_000u64 {
                        let at = random.below(700);
                        let page = thread * 700 + at;
                        // Few contents, which drift; and such as nobody else has, which can be moved.
                        let number = match random.below(2) {
                            0 => round / 500 + random.below(60),
                            _ => 1 << 30 | random.next() >> 33,
                        };
                        match random.below(16) {
                            0..8 => {
                                write(device, page, number);
                                own[at as usize] = Some(number);
                            }
                            8 => {
                                device.discard(page * PAGE, PAGE).unwrap();
                                own[at as usize] = None;
                            }
                            9..12 => write(device, 2800 + at % 200, number),
                            12 => {
                                // Somebody's whole page.
                                let bytes = read(device, 2800 + at % 200);
                                let number = u64::from_le_bytes(*bytes.first_chunk().unwrap());
                                let same = bytes.iter().all(|byte| *byte == bytes[0]);
                                assert!(same || bytes == content(number), "torn");
                            }
                            _ => {
                                let expected = own[at as usize].map_or([0; PAGE_SIZE], content);
                                assert!(read(device, page) == expected, "{algorithm}: {page}");
                            }
                        }
                    }
                    own
                }
            };
            let writers = [0, 1, 2, 3].map(|thread| scope.spawn(writer(thread)));
            let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            stop.store(true, Relaxed);
            for (thread, own) in written.into_iter().enumerate() {
                for (at, number) in own.unwrap().into_iter().enumerate() {
                    let expected = number.map_or([0; PAGE_SIZE], content);
                    assert!(read(&device, (thread * 700 + at) as u64) == expected);
                }
            }
            assert!(compact.join().unwrap() > 0);
        });
        assert!(device.stats().dup_pages > 100);
        is_empty(&device);
    }
}

/// After the first of two owners is gone compaction still moves what the other has.
#[test]
fn compaction_moves_what_one_page_has_whoever_stored_it() {
    let pages = 4000;
    let device = deduping(2 * pages);
    for page in 0..2 * pages {
        write(&device, page, page % pages);
    }
    // What the second half refers to the first half stored; of the second a third is left.
    device.discard(0, pages * PAGE).unwrap();
    let mut oracle: Vec<_> = (0..2 * pages).map(|page| Some(page % pages)).collect();
    oracle[..pages as usize].fill(None);
    for page in (0..pages).filter(|page| page % 3 > 0) {
        device.discard((pages + page) * PAGE, PAGE).unwrap();
        oracle[(pages + page) as usize] = None;
    }
    assert_eq!(device.stats().dup_pages, 0);
    let gain = device.jobs().compaction_gain_bytes();
    let report = device.jobs().compact(u64::MAX);
    assert!(report.objects_moved > 300, "{report:?}");
    assert!(
        report.pages_freed * PAGE * 10 > gain * 8,
        "{report:?}: {gain}"
    );
    check(&device, &oracle);
    // They are found where they are now, and the new owners are found by the next compaction.
    for page in (0..pages).step_by(3) {
        write(&device, page, page);
        oracle[page as usize] = Some(page);
    }
    let stats = device.stats();
    let same = (0..pages).step_by(3).filter(|page| page % 9 == 0).count() as u64;
    assert_eq!(stats.dup_pages, pages.div_ceil(3) - same);
    device.jobs().compact(u64::MAX);
    check(&device, &oracle);
    is_empty(&device);
}

/// Recompression and writeback take what one page has and leave what pages share.
#[test]
fn recompression_and_writeback_leave_what_is_shared() {
    let dir = tempfile::tempdir().unwrap();
    let zstd = Choice::new("zstd").param("level", "3");
    let device = Device::builder(600 * PAGE)
        .secondary(1, zstd)
        .dedup(true)
        .build()
        .unwrap();
    // 0..200 alone, 200..600 in pairs.
    let number = |page: u64| {
        if page < 200 {
            page
        } else {
            page / 2 * 2 + 1000
        }
    };
    let oracle: Vec<_> = (0..600).map(|page| Some(number(page))).collect();
    (0..600).for_each(|page| write(&device, page, number(page)));
    let (dup, before) = (device.stats().dup_pages, device.stats());
    assert!(dup > 150);
    let mut go_on = |_| ControlFlow::Continue(());
    let report = device
        .zram()
        .recompress(&Recompress::default(), &mut go_on)
        .unwrap();
    assert!(report.recompressed > 50 && report.tried < 201, "{report:?}");
    let after = device.stats();
    assert_eq!(after.dup_pages, dup);
    let saved = report.bytes_before - report.bytes_after;
    assert_eq!(
        before.compr_data_size_bytes - after.compr_data_size_bytes,
        saved
    );
    check(&device, &oracle);
    device
        .zram()
        .attach_backing(&dir.path().join("store"), Some(8 << 20))
        .unwrap();
    let report = device
        .zram()
        .writeback(&Writeback::default(), &mut go_on)
        .unwrap();
    let alone = (0..200).filter(|page| page % 9 > 0).count() as u64;
    assert_eq!((report.written, device.stats().dup_pages), (alone, dup));
    check(&device, &oracle);
    // Once the others are gone those that are left can go, too.
    (200..600)
        .step_by(2)
        .for_each(|page| device.discard(page * PAGE, PAGE).unwrap());
    assert_eq!(device.stats().dup_pages, 0);
    let all = Writeback {
        kind: PageKind::All,
        ..Writeback::default()
    };
    let report = device.zram().writeback(&all, &mut go_on).unwrap();
    assert_eq!(report.written, dup);
    for page in (0..600).filter(|page| *page < 200 || page % 2 == 1) {
        assert!(read(&device, page) == content(number(page)));
    }
    device.zram().detach_backing().unwrap();
    is_empty(&device);
}

/// Other codecs make other objects, and go with their last page.
#[test]
fn codecs_go_when_the_last_page_that_shares_is_gone() {
    let device = deduping(300);
    let fill = |first: u64| (0..100).for_each(|page| write(&device, first + page, page));
    fill(0);
    fill(100);
    device.set_algorithm(&Choice::new("zstd")).unwrap();
    fill(200);
    let huge = (0..100).filter(|n| n % 8 == 0 && n % 9 > 0).count() as u64;
    let same = (0..100).filter(|n| n % 9 == 0).count() as u64;
    // What is stored as it is is the same with each codec.
    assert_eq!(device.stats().dup_pages, 100 - same + huge);
    let objects = |device: &Device| -> Vec<u64> {
        device
            .codecs()
            .into_iter()
            .map(|codec| codec.objects)
            .collect()
    };
    let each = 100 - huge - same;
    assert_eq!(objects(&device), [2 * each, each]);
    device.discard(0, 100 * PAGE).unwrap();
    assert_eq!(objects(&device), [each, each]);
    device.discard(100 * PAGE, 100 * PAGE).unwrap();
    assert_eq!(objects(&device), [each]);
    for page in 200..300 {
        assert!(read(&device, page) == content(page - 200));
    }
}

fn memfd() -> OwnedFd {
    rustix::fs::memfd_create("uzram-dedup-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}

/// What does not depend on the process.
fn lasting(stats: Stats) -> [u64; 7] {
    [
        stats.orig_data_size_bytes,
        stats.compr_data_size_bytes,
        stats.same_pages,
        stats.huge_pages,
        stats.dup_pages,
        stats.dup_data_size_bytes,
        u64::from(stats.dedup_index_bytes > 0),
    ]
}

#[test]
fn who_attaches_counts_references_again() {
    let file = memfd();
    let device = Device::builder(2000 * PAGE)
        .dedup(true)
        .build_in(file.try_clone().unwrap())
        .unwrap();
    let mut oracle: Vec<_> = (0..2000).map(|page| Some(page % 300)).collect();
    (0..2000).for_each(|page| write(&device, page, page % 300));
    let before = lasting(device.stats());
    drop(device);
    let device = Device::builder(0)
        .attach(file.try_clone().unwrap())
        .unwrap();
    assert!(device.dedup());
    assert_eq!(lasting(device.stats()), before);
    check(&device, &oracle);
    for page in (0..2000).filter(|page| page % 3 == 0) {
        write(&device, page, 5000 + page % 11);
        oracle[page as usize] = Some(5000 + page % 11);
    }
    for page in (0..2000).filter(|page| page % 5 == 0) {
        write(&device, page, page % 300);
        oracle[page as usize] = Some(page % 300);
    }
    check(&device, &oracle);
    device.set_dedup(false).unwrap();
    drop(device);
    let device = Device::builder(0).attach(file).unwrap();
    assert!(!device.dedup() && device.stats().dup_pages > 1000);
    check(&device, &oracle);
    is_empty(&device);
}

/// Changes a slot's word in an image that nobody has.
fn poke(file: &OwnedFd, page: u64, change: impl Fn(u64) -> u64) {
    let (header, mut word) = ([0; 4096], [0; 8]);
    let mut header = header;
    rustix::io::pread(file, &mut header, 0).unwrap();
    let table = u64::from_le_bytes(*header[56..].first_chunk().unwrap());
    rustix::io::pread(file, &mut word, table + page * 8).unwrap();
    let word = change(u64::from_ne_bytes(word)).to_ne_bytes();
    rustix::io::pwrite(file, &word, table + page * 8).unwrap();
}

#[test]
fn words_that_disagree_on_a_shared_object_are_refused() {
    for (what, change) in [
        ("a length more", (|word| word + (1 << 39)) as fn(u64) -> u64),
        ("another codec", |word| word ^ 1 << 51),
        ("no shared word", |word| word & !(7 << 58) | 3 << 58),
        ("another place", |word| word + 1),
        ("outside", |word| word | ((1 << 39) - 1)),
    ] {
        let file = memfd();
        let device = Device::builder(100 * PAGE)
            .dedup(true)
            .build_in(file.try_clone().unwrap())
            .unwrap();
        (0..100).for_each(|page| write(&device, page, 1 + page % 4));
        drop(device);
        poke(&file, 60, change);
        let refused = Device::builder(0).attach(file.try_clone().unwrap());
        assert!(
            matches!(refused, Err(Error::Damaged { .. })),
            "{what}: {refused:?}"
        );
        drop(refused);
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Write(u64, u64),
    Part(u64, u64),
    Discard(u64),
    Dedup(bool),
    Compact,
    Recompress,
    Algorithm(usize),
    Attach,
}

const PAGES: u64 = 24;

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..PAGES, 0..12u64).prop_map(|(page, number)| Op::Write(page, number)),
        3 => (0..PAGES, 0..12u64).prop_map(|(page, number)| Op::Part(page, number)),
        3 => (0..PAGES).prop_map(Op::Discard),
        1 => any::<bool>().prop_map(Op::Dedup),
        1 => Just(Op::Compact),
        1 => Just(Op::Recompress),
        1 => (0..3usize).prop_map(Op::Algorithm),
        1 => Just(Op::Attach),
    ]
}

fn apply(device: Device, file: &OwnedFd, oracle: &mut [u8], op: Op) -> Device {
    let range = |page: u64| (page * PAGE) as usize..((page + 1) * PAGE) as usize;
    match op {
        Op::Write(page, number) => {
            write(&device, page, number);
            oracle[range(page)].copy_from_slice(&content(number));
        }
        Op::Part(page, number) => {
            let part = &content(number)[1000..3000];
            device.write_at(part, page * PAGE + 1000).unwrap();
            oracle[range(page)][1000..3000].copy_from_slice(part);
        }
        Op::Discard(page) => {
            device.discard(page * PAGE, PAGE).unwrap();
            oracle[range(page)].fill(0);
        }
        Op::Dedup(on) => device.set_dedup(on).unwrap(),
        Op::Compact => drop(device.jobs().compact(u64::MAX)),
        Op::Recompress => {
            let mut go_on = |_| ControlFlow::Continue(());
            device
                .zram()
                .recompress(&Recompress::default(), &mut go_on)
                .unwrap();
        }
        Op::Algorithm(number) => {
            let choice = ["lz4", "zstd", "deflate"][number];
            device.set_algorithm(&Choice::new(choice)).unwrap();
        }
        Op::Attach => {
            drop(device);
            return Device::builder(0)
                .attach(file.try_clone().unwrap())
                .unwrap();
        }
    }
    device
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn prop_a_device_with_dedup_agrees_with_an_array(ops in prop::collection::vec(op(), 1..120)) {
        let file = memfd();
        let mut device = Device::builder(PAGES * PAGE)
            .secondary(1, Choice::new("zstd").param("level", "9"))
            .dedup(true)
            .build_in(file.try_clone().unwrap())
            .unwrap();
        let mut oracle = vec![0; (PAGES * PAGE) as usize];
        for op in ops {
            device = apply(device, &file, &mut oracle, op);
            let mut bytes = vec![0xEE; oracle.len()];
            device.read_at(&mut bytes, 0).unwrap();
            prop_assert!(bytes == oracle, "after {op:?}");
            let (stats, codecs) = (device.stats(), device.codecs());
            let all: u64 = codecs.iter().map(|codec| codec.object_bytes).sum();
            prop_assert_eq!(
                all + stats.huge_pages * PAGE,
                stats.compr_data_size_bytes + stats.dup_data_size_bytes
            );
        }
        is_empty(&device);
    }
}
