//! Many threads on overlapping pages, against what an atomic page allows.
//!
//! Every write stamps each of the page's 512-byte sectors with who wrote it and when. A reader must find whole
//! writes: sectors written together agree, a sector's time never goes back, and what the last writer of a page
//! wrote is what stays.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};

use uzram::compress::Registry;
use uzram::{Choice, Device, Error, PAGE_SIZE, Training};
use uzram_testkit::Random;

const PAGES: u64 = 7;
const SECTOR: usize = 512;

/// A page of one write: compressible or not by the stamp's parity, every sector stamped.
fn page(stamp: u64) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    let mut random = Random::new(stamp);
    for (i, sector) in page.chunks_mut(SECTOR).enumerate() {
        match stamp.is_multiple_of(3) {
            true => random.fill(sector),
            false => sector.fill(i as u8),
        }
        sector[..8].copy_from_slice(&stamp.to_le_bytes());
    }
    page
}

fn stamp(sector: &[u8]) -> u64 {
    u64::from_le_bytes(sector[..8].try_into().unwrap())
}

/// Whole-page writers and readers: a page read is exactly one write, or empty.
fn whole_pages(device: &Device, rounds: u64) {
    let clock = AtomicU64::new(1);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let clock = &clock;
            scope.spawn(move || {
                let mut random = Random::new(thread);
                for _ in 0..rounds {
                    let at = random.below(PAGES) * PAGE_SIZE as u64;
                    match random.below(16) {
                        0 => device.discard(at, PAGE_SIZE as u64).unwrap(),
                        1..8 => device
                            .write_at(&page(clock.fetch_add(1, SeqCst)), at)
                            .unwrap(),
                        _ => {
                            let mut got = [0; PAGE_SIZE];
                            device.read_at(&mut got, at).unwrap();
                            let stamp = stamp(&got);
                            if stamp == 0 {
                                assert!(got == [0; PAGE_SIZE], "an empty page has bytes");
                            } else {
                                assert!(got == page(stamp), "a page mixed from two writes");
                            }
                        }
                    }
                }
            });
        }
    });
}

/// Each thread owns one sector of every page and rewrites it by partial writes: none may undo another's.
fn partial_pages(device: &Device, rounds: u64) {
    device.reset();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                for round in 1..=rounds {
                    for page in 0..PAGES {
                        let at = page * PAGE_SIZE as u64 + thread * SECTOR as u64;
                        let mut sector = [0; SECTOR];
                        device.read_at(&mut sector, at).unwrap();
                        assert_eq!(stamp(&sector), round - 1, "page {page}: a write was undone");
                        let mut sector = [(round * 7 + thread) as u8; SECTOR];
                        sector[..8].copy_from_slice(&round.to_le_bytes());
                        device.write_at(&sector, at).unwrap();
                    }
                }
            });
        }
    });
    for page in 0..PAGES {
        for thread in 0..4u64 {
            let mut sector = [0; SECTOR];
            device
                .read_at(
                    &mut sector,
                    page * PAGE_SIZE as u64 + thread * SECTOR as u64,
                )
                .unwrap();
            assert_eq!(stamp(&sector), rounds);
        }
    }
}

#[test]
fn threads_on_overlapping_pages_never_see_half_a_write() {
    for algorithm in Registry::builtin().iter() {
        for streams in [1, 2, 4] {
            let device = Device::builder(PAGES * PAGE_SIZE as u64)
                .algorithm(algorithm.driver_name())
                .streams(streams)
                .build()
                .unwrap();
            whole_pages(&device, 4000);
            partial_pages(&device, 150);
            device.reset();
            let stats = device.stats();
            assert_eq!(
                (stats.orig_data_size_bytes, stats.mem_used_total_bytes),
                (0, 0)
            );
            assert_eq!((stats.same_pages, stats.huge_pages), (0, 0));
        }
    }
}

/// Sets other algorithms and trains, over and over, while others work. Returns how often it did.
fn change_codecs(device: &Device, stop: &AtomicBool) -> u64 {
    let text: Vec<u8> = (0..8192u32).map(|i| (i / 3 % 251) as u8).collect();
    let mut rounds = 0u64;
    while !stop.load(SeqCst) {
        // Each dictionary is another codec, so that indices are given up and taken again.
        let dictionary: Vec<u8> = text.iter().map(|byte| byte ^ rounds as u8).collect();
        let choice = match rounds % 5 {
            0 => Choice::new("zstd")
                .param("level", "1")
                .dictionary(dictionary),
            1 => Choice::new("lz4").dictionary(dictionary),
            2 => Choice::new("deflate").param("level", "1"),
            3 => Choice::new("zstd").param("level", "-7"),
            _ => Choice::new("lz4"),
        };
        match device.set_algorithm(&choice) {
            Ok(()) => {}
            Err(Error::CodecsFull) => std::thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
        if rounds.is_multiple_of(7) {
            // May find too little to learn from.
            let _ = device.jobs().train(&Training {
                dictionary_bytes: 1024,
                rule: |_, _| Ok("always".into()),
                ..Training::default()
            });
        }
        device.codecs();
        rounds += 1;
    }
    rounds
}

/// Also when a check fails: then nobody may be waited for for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Codecs come and go under the feet of readers and writers: nobody ever meets a page that cannot be read.
#[test]
fn codecs_change_under_load() {
    for streams in [1, 3] {
        let device = Device::builder(PAGES * PAGE_SIZE as u64)
            .streams(streams)
            .build()
            .unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let change = scope.spawn(|| change_codecs(&device, &stop));
            let stopped = StopOnDrop(&stop);
            whole_pages(&device, 12_000);
            partial_pages(&device, 300);
            drop(stopped);
            assert!(change.join().unwrap() > 20);
        });
        device.reset();
        let left = device.codecs();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(
            (left[0].objects, left[0].priorities.as_slice()),
            (0, &[0][..])
        );
    }
}
