//! Compaction while the device is in use: contents stay, memory goes back, limits and stocks are kept.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use uzram::{CompactReport, Device, Error, PAGE_SIZE};
use uzram_testkit::Random;

const PAGE: u64 = PAGE_SIZE as u64;

/// A page that says which page and which write it is of, with as much noise as the write's number says. Every 16th is
/// incompressible, every 17th same-filled.
fn content(page: u64, seq: u64) -> [u8; PAGE_SIZE] {
    let stamp = page << 32 | seq;
    let mut random = Random::new(stamp);
    let noise = match seq {
        s if s.is_multiple_of(17) => return *filled(stamp).as_array().expect("a page"),
        s if s.is_multiple_of(16) => PAGE_SIZE / 8,
        s => 20 + (s / 64 * 37 + s % 32) as usize % 400,
    };
    let mut bytes = [0; PAGE_SIZE];
    for (at, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let value = match at {
            0 => stamp,
            _ if at < noise => random.next(),
            _ => seq,
        };
        *word = value.to_ne_bytes();
    }
    bytes
}

/// A word that takes an object of eight bytes.
fn filled(stamp: u64) -> Vec<u8> {
    (stamp | 1 << 62).to_ne_bytes().repeat(PAGE_SIZE / 8)
}

/// The write that a page's bytes are of; `None` if they are of no single one.
fn seq_of(page: u64, bytes: &[u8; PAGE_SIZE]) -> Option<u64> {
    let seq = u64::from(u32::from_ne_bytes(*bytes.first_chunk()?));
    (content(page, seq) == *bytes).then_some(seq)
}

fn read(device: &Device, page: u64) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    device.read_at(&mut bytes, page * PAGE).unwrap();
    bytes
}

/// Writes pages at random until the device holds what many writes of drifting sizes leave. Returns each page's write.
fn churn(device: &Device, pages: u64, writes: u64) -> HashMap<u64, u64> {
    let (mut random, mut last) = (Random::new(1), HashMap::new());
    for seq in 1..=writes {
        let page = random.below(pages);
        device.write_at(&content(page, seq), page * PAGE).unwrap();
        last.insert(page, seq);
    }
    last
}

fn check(device: &Device, last: &HashMap<u64, u64>) {
    for (page, seq) in last {
        assert_eq!(seq_of(*page, &read(device, *page)), Some(*seq), "{page}");
    }
}

/// Compacts in slices until nothing is to be gained.
fn compact(device: &Device) -> CompactReport {
    let mut sum = CompactReport::default();
    while !sum.finished {
        let one = device.jobs().compact(100_000);
        assert!(one.bytes_moved <= 100_000);
        sum.objects_moved += one.objects_moved;
        sum.bytes_moved += one.bytes_moved;
        sum.pages_freed += one.pages_freed;
        sum.finished = one.finished;
    }
    sum
}

#[test]
fn memory_goes_back_and_contents_stay() {
    let file = rustix::fs::memfd_create("uzram-compact-test", rustix::fs::MemfdFlags::CLOEXEC);
    let (file, pages) = (file.unwrap(), 4000);
    let again = file.try_clone().unwrap();
    let device = Device::builder(pages * PAGE).build_in(file).unwrap();
    let mut last = churn(&device, pages, 20_000);
    // What scattered discards leave is the worst.
    for page in (0..pages).filter(|page| page % 3 > 0) {
        device.write_at(&content(page, 17), page * PAGE).unwrap();
        last.insert(page, 17);
    }
    let before = device.stats();
    let gain = device.jobs().compaction_gain_bytes();
    let report = compact(&device);
    let after = device.stats();
    assert_eq!(after.pages_compacted, report.pages_freed);
    assert_eq!(
        after.mem_used_total_bytes + report.pages_freed * PAGE,
        before.mem_used_total_bytes
    );
    assert_eq!(after.compr_data_size_bytes, before.compr_data_size_bytes);
    assert!(report.objects_moved > 100, "{report:?}");
    assert!(
        report.pages_freed * PAGE * 10 > gain * 8,
        "{report:?}, not {gain}"
    );
    assert!(device.jobs().compaction_gain_bytes() * 5 < gain);
    check(&device, &last);
    drop(device);
    let device = Device::builder(0).attach(again).unwrap();
    check(&device, &last);
    assert!(device.stats().mem_used_total_bytes <= after.mem_used_total_bytes);
    device.reset();
    assert_eq!(device.stats().pages_compacted, 0);
}

/// Each page has one writer, who finds what it wrote last; readers find whole writes; and one thread compacts all the
/// time, one discards and trims.
#[test]
fn requests_and_compaction_do_not_disturb_each_other() {
    for algorithm in ["lz4", "zstd"] {
        let pages = 3000u64;
        let device = Device::builder((pages + 1) * PAGE)
            .algorithm(algorithm)
            .build()
            .unwrap();
        let (stop, seq) = (AtomicBool::new(false), AtomicU64::new(1));
        let moved = std::thread::scope(|scope| {
            let compact = scope.spawn(|| {
                let mut moved = 0;
                while !stop.load(Relaxed) {
                    moved += device.jobs().compact(200_000).objects_moved;
                }
                moved
            });
            let writer = |thread: u64| {
                let (device, seq) = (&device, &seq);
                move || {
                    let (mut random, mut last) = (Random::new(thread), HashMap::new());
                    for round in 0..25_000u64 {
                        let page = random.below(pages) / 2 * 2 + thread;
                        let seq = seq.fetch_add(1, Relaxed);
                        match random.below(16) {
                            0..8 => {
                                device.write_at(&content(page, seq), page * PAGE).unwrap();
                                last.insert(page, seq);
                            }
                            8 => {
                                device.discard(page * PAGE, PAGE).unwrap();
                                last.remove(&page);
                            }
                            9 => {
                                // In parts: the second half first.
                                let new = content(page, seq);
                                device.write_at(&new[2048..], page * PAGE + 2048).unwrap();
                                device.write_at(&new[..2048], page * PAGE).unwrap();
                                last.insert(page, seq);
                            }
                            _ => {
                                let found = read(device, page);
                                match last.get(&page) {
                                    Some(seq) => assert_eq!(seq_of(page, &found), Some(*seq)),
                                    None => assert!(found == [0; PAGE_SIZE]),
                                }
                            }
                        }
                        if round % 1000 == 0 {
                            // Whole ranges, which other threads write.
                            let mut range = vec![0; 64 * PAGE_SIZE];
                            device
                                .read_at(&mut range, page.min(pages - 64) * PAGE)
                                .unwrap();
                        }
                    }
                    last
                }
            };
            let writers = [0, 1].map(|thread| scope.spawn(writer(thread)));
            let written: Vec<_> = writers.into_iter().map(|thread| thread.join()).collect();
            stop.store(true, Relaxed);
            for last in written {
                check(&device, &last.unwrap());
            }
            compact.join().unwrap()
        });
        assert!(moved > 100, "{algorithm}: {moved} moved");
        device.reset();
        let stats = device.stats();
        assert_eq!(
            (stats.compr_data_size_bytes, stats.mem_used_total_bytes),
            (0, 0)
        );
    }
}

/// At the limit a compaction takes no memory, and makes room.
#[test]
fn at_the_limit_compaction_makes_room() {
    let pages = 4000;
    let device = Device::builder(2 * pages * PAGE).build().unwrap();
    let mut last = churn(&device, pages, 20_000);
    for page in (0..pages).filter(|page| page % 3 > 0) {
        device.write_at(&content(page, 17), page * PAGE).unwrap();
        last.insert(page, 17);
    }
    let used = device.stats().mem_used_total_bytes;
    device.set_mem_limit_bytes(used);
    // Classes that hold nothing yet find no room, however much is wasted.
    let fill = |first: u64| {
        (first..2 * pages)
            .take_while(
                |page| match device.write_at(&content(*page, 16), page * PAGE) {
                    Ok(()) => true,
                    Err(Error::NoSpace { .. }) => false,
                    Err(other) => panic!("{other}"),
                },
            )
            .count()
    };
    let before = fill(pages);
    device.zram().reset_mem_used_max();
    compact(&device);
    let after = fill(pages + before as u64);
    assert!(after > 100, "{before} pages before, {after} more after");
    assert!(device.stats().mem_used_max_bytes <= used);
    check(&device, &last);
}

/// A device with a stock: no request asks the system for memory or is refused because of a compaction, and what is too
/// much for the stock goes back.
#[test]
fn a_stock_stays_a_stock() {
    let pages = 6000u64;
    let device = Device::builder(pages * PAGE)
        .reserve_bytes(4 << 20)
        .build()
        .unwrap();
    let write = |page: u64, seq: u64| {
        while device.write_at(&content(page, seq), page * PAGE).is_err() {
            device.swap().maintain(&|| true);
        }
    };
    let (mut random, mut last) = (Random::new(3), HashMap::new());
    for seq in 1..30_000 {
        let page = random.below(pages);
        write(page, seq);
        last.insert(page, seq);
        if seq.is_multiple_of(300) {
            device.swap().maintain(&|| true);
        }
    }
    for page in (0..pages).filter(|page| page % 3 > 0) {
        write(page, 17);
        last.insert(page, 17);
    }
    while device.swap().maintain(&|| true) {}
    let (before, gain) = (device.stats(), device.jobs().compaction_gain_bytes());
    let report = compact(&device);
    let after = device.stats();
    assert!(report.objects_moved > 100, "{report:?}");
    assert!(
        report.pages_freed * PAGE * 2 > gain,
        "{report:?}, not {gain} of {before:?}"
    );
    assert_eq!(
        after.mem_used_total_bytes + report.pages_freed * PAGE,
        before.mem_used_total_bytes
    );
    check(&device, &last);
    // The reserve is there.
    for page in 0..900 {
        device.write_at(&content(page, 16), page * PAGE).unwrap();
    }
    assert_eq!(
        device.stats().mem_used_total_bytes,
        after.mem_used_total_bytes,
        "a request took memory from the system"
    );
}
