//! The hot path law: a queue's thread allocates nothing from the heap between a request and its answer.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use uzram::Device;
use uzram_testkit::data::record_page;
use uzram_testkit::virtio::{FLUSH, Guest, READ, SLOTS, WRITE};
use uzram_vhost_user::Server;

/// Allocations of all threads so far.
static CALLS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        // SAFETY: the caller's duty, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Waits for so many answers without a sleep, and without allocating.
fn answers(guest: &mut Guest, count: u16) {
    let begin = Instant::now();
    for _ in 0..count {
        while guest.answer(0).is_none() {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::hint::spin_loop();
        }
    }
}

#[test]
fn requests_allocate_nothing() {
    let none = CALLS.load(Relaxed);
    drop(std::hint::black_box(Box::new(1u8)));
    assert!(CALLS.load(Relaxed) > none, "allocations are counted");
    let device = Device::builder(16 << 20).algorithm("lz4").build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = Server::builder("zram0", Arc::new(device));
    let _server = server.bind(&path).unwrap().start().unwrap();
    let mut guest = Guest::new(1);
    guest.connect(&path).unwrap();
    let pages: Vec<_> = (0..64).map(record_page).collect();
    // The first round is what threads and the pool have once.
    for round in 0..3u64 {
        let before = CALLS.load(Relaxed);
        for number in 0..64u64 {
            for slot in 0..SLOTS {
                let sector = (number * 32 + u64::from(slot)) % 4000 * 8;
                match (number + round) % 3 {
                    0 => guest.submit(0, slot, READ, sector, &[], 4096),
                    1 => guest.submit(0, slot, WRITE, sector, &pages[number as usize], 0),
                    _ => guest.submit(0, slot, FLUSH, 0, &[], 0),
                }
            }
            answers(&mut guest, SLOTS);
        }
        if round > 0 {
            assert_eq!(CALLS.load(Relaxed) - before, 0, "round {round}");
        }
    }
}
