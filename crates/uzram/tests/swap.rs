//! A device with a reserve: requests ask the system for no memory, and are served or refused at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use uzram::{Choice, Device, Error};
use uzram_testkit::data::noise_before;

fn page(number: u64) -> [u8; 4096] {
    noise_before(number, number as usize % 3500, number as u8)
}

/// Without anybody who maintains, the reserve is all there is: the rest is refused, and nothing is lost.
#[test]
fn a_burst_is_served_from_the_reserve_or_refused() {
    let device = Device::builder(64 << 20)
        .reserve_bytes(2 << 20)
        .build()
        .unwrap();
    let used = device.stats().mem_used_total_bytes;
    assert!(used >= 2 << 20);
    let served: Vec<bool> = (0..2000)
        .map(|n| device.write_at(&page(n), n * 4096).is_ok())
        .collect();
    assert_eq!(
        device.stats().mem_used_total_bytes,
        used,
        "a request took memory from the system"
    );
    let count = served.iter().filter(|served| **served).count();
    assert!(
        (512..1000).contains(&count),
        "{count} served from 512 pages"
    );
    assert!(matches!(
        device.write_at(&page(1 << 20), 4096),
        Err(Error::NoSpace { .. })
    ));
    let mut back = [0; 4096];
    for (n, served) in served.iter().enumerate() {
        device.read_at(&mut back, n as u64 * 4096).unwrap();
        assert!(
            back == if *served { page(n as u64) } else { [0; 4096] },
            "page {n}"
        );
    }
    // Overwrites of the same kind, and discards, need no new memory.
    assert!(device.swap().maintain(&|| true));
    device.discard(0, 64 << 20).unwrap();
    for n in 0..500 {
        device.write_at(&page(n), n * 4096).unwrap();
    }
    device.discard(0, 64 << 20).unwrap();
    while device.swap().maintain(&|| true) {}
    let left = device.stats().mem_used_total_bytes;
    assert!(left < used + (3 << 20), "{left} kept, {used} at first");
}

/// With a thread that maintains, a device fills and empties as any other, from several threads.
#[test]
fn the_stock_follows_the_demand() {
    for algorithm in ["lz4", "zstd"] {
        let device = Device::builder(256 << 20)
            .algorithm(algorithm)
            .reserve_bytes(8 << 20)
            .build()
            .unwrap();
        let device = Arc::new(device);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let maintain = scope.spawn(|| {
                while !stop.load(Relaxed) {
                    if !device.swap().maintain(&|| true) {
                        device.swap().wait_for_demand(Duration::from_millis(20));
                    }
                }
            });
            for thread in 0..2u64 {
                let device = &device;
                scope.spawn(move || {
                    for n in (thread..20_000).step_by(2) {
                        let data = page(n);
                        // The writer may be faster than this test's machine finds memory: swap-out tries again, too.
                        while device.write_at(&data, n * 4096).is_err() {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                    let mut back = [0; 4096];
                    for n in (thread..20_000).step_by(2) {
                        device.read_at(&mut back, n * 4096).unwrap();
                        assert!(back == page(n), "page {n}");
                    }
                });
            }
            // The writers are done when the scope's other threads are; this one ends by itself then.
            scope.spawn(|| {
                while device.stats().orig_data_size_bytes < 19_000 * 4096 {
                    std::thread::sleep(Duration::from_millis(10));
                }
                std::thread::sleep(Duration::from_millis(300));
                stop.store(true, Relaxed);
            });
            maintain.join().unwrap();
        });
        assert!(device.stats().failed_writes < 2000, "{:?}", device.stats());
    }
}

/// Another codec for a device with a reserve: its contexts and its dictionary are there before the first request that
/// uses them, and requests still take no memory from the system.
#[test]
fn codecs_change_without_memory_for_requests() {
    let device = Device::builder(64 << 20)
        .reserve_bytes(2 << 20)
        .build()
        .unwrap();
    let used = device.stats().mem_used_total_bytes;
    let dictionary: Vec<u8> = (1000..1004).flat_map(page).collect();
    for (round, choice) in [
        Choice::new("zstd")
            .param("level", "1")
            .dictionary(dictionary),
        Choice::new("deflate"),
        Choice::new("lz4"),
    ]
    .iter()
    .enumerate()
    {
        for n in 0..100 {
            let at = (round as u64 * 100 + n) * 4096;
            device.write_at(&page(n), at).unwrap();
        }
        device.set_algorithm(choice).unwrap();
    }
    assert_eq!(device.stats().mem_used_total_bytes, used);
    assert_eq!(device.codecs().len(), 3);
    let mut back = [0; 4096];
    for n in 0..300 {
        device.read_at(&mut back, n * 4096).unwrap();
        assert!(back == page(n % 100), "page {n}");
    }
    // Its last objects go; the codec goes when somebody maintains.
    device.discard(0, 64 << 20).unwrap();
    while device.swap().maintain(&|| true) {}
    assert_eq!(device.codecs().len(), 1);
}

/// A reserve that does not fit is refused when the device is made.
#[test]
fn a_reserve_over_the_limit_is_refused() {
    let error = Device::builder(64 << 20)
        .mem_limit_bytes(1 << 20)
        .reserve_bytes(2 << 20)
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("reserve"), "{error}");
}
