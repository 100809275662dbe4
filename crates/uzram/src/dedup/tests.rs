//! What needs a weak hash or a short count: hashes that collide, references that run out. The rest is in `tests/dedup.rs`.

use uzram_testkit::Random;

use super::*;
use crate::PAGE_SIZE;

const PAGES: u64 = 3000;

/// One of so many pages whose objects are of few different lengths, every 8th as it is.
fn content(number: u64) -> [u8; PAGE_SIZE] {
    let mut random = Random::new(number);
    let mut bytes = [0; PAGE_SIZE];
    let noise = if number.is_multiple_of(8) { 512 } else { 20 };
    for (at, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        if at < noise {
            *word = random.next().to_le_bytes();
        }
    }
    bytes
}

fn read(device: &Device, page: u64) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    let at = page * PAGE_SIZE as u64;
    device.read_at(&mut bytes, at).unwrap();
    bytes
}

fn device() -> Device {
    let size = PAGES * PAGE_SIZE as u64;
    Device::builder(size).dedup(true).build().unwrap()
}

/// With all hashes the same, as few different ones as there are bits, or good ones, every page reads back, and what is
/// gone is gone.
#[test]
fn hashes_that_collide_share_nothing_that_differs() {
    for mask in [0, 1 << 63, 0xFF << 37, u64::MAX] {
        let mut device = device();
        device.dedup.hasher.mask = mask;
        let mut oracle = vec![None; PAGES as usize];
        let mut random = Random::new(mask);
        for _ in 0..20_000 {
            let (page, number) = (random.below(PAGES), random.below(500));
            let at = page * PAGE_SIZE as u64;
            if random.below(8) == 0 {
                device.discard(at, PAGE_SIZE as u64).unwrap();
                oracle[page as usize] = None;
                continue;
            }
            device.write_at(&content(number), at).unwrap();
            oracle[page as usize] = Some(number);
        }
        for (page, number) in oracle.iter().enumerate() {
            let expected = number.map_or([0; PAGE_SIZE], content);
            assert!(read(&device, page as u64) == expected, "{mask:#x}: {page}");
        }
        let stats = device.stats();
        assert!(stats.dup_pages > 1000, "{mask:#x}: {stats:?}");
        device.reset();
        let stats = device.stats();
        assert_eq!((stats.compr_data_size_bytes, stats.dup_pages), (0, 0));
        assert_eq!(
            (stats.mem_used_total_bytes, stats.dedup_index_bytes),
            (0, 0)
        );
    }
}

/// A page of which there are more copies than an entry counts is stored once for each so many.
#[test]
fn references_that_run_out_begin_another_object() {
    let mut device = device();
    device.dedup.index.most_refs = 100;
    let page = content(5);
    for number in 0..1000 {
        device.write_at(&page, number * PAGE_SIZE as u64).unwrap();
    }
    assert_eq!(device.stats().dup_pages, 990);
    for number in 0..1000 {
        assert!(read(&device, number) == page);
        device
            .discard(number * PAGE_SIZE as u64, PAGE_SIZE as u64)
            .unwrap();
    }
    assert_eq!(device.pool.stats().objects, 0);
    assert_eq!(device.stats().dup_pages, 0);
}
