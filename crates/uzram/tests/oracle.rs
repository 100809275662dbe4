//! The device against the naive oracle, one array of bytes: every operation, any alignment, every algorithm.

use proptest::prelude::*;
use uzram::compress::Registry;
use uzram::{Choice, Device, Error, ExtentKind, PAGE_SIZE, Training, Zeroes};
use uzram_testkit::Random;

const PAGES: usize = 24;
const SIZE: usize = PAGES * PAGE_SIZE;

#[derive(Debug, Clone, Copy)]
enum Fill {
    Zeros,
    Byte(u8),
    Word(u64),
    Text(u8),
    Noise(u64),
}

impl Fill {
    fn bytes(self, len: usize) -> Vec<u8> {
        match self {
            Fill::Zeros => vec![0; len],
            Fill::Byte(byte) => vec![byte; len],
            Fill::Word(word) => word.to_le_bytes().into_iter().cycle().take(len).collect(),
            Fill::Text(seed) => (0..len)
                .map(|i| b"lorem ipsum dolor"[(i / 3 + seed as usize) % 17])
                .collect(),
            Fill::Noise(seed) => Random::new(seed).bytes(len),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Write {
        at: usize,
        len: usize,
        fill: Fill,
    },
    Read {
        at: usize,
        len: usize,
    },
    Discard {
        at: usize,
        len: usize,
    },
    Zero {
        at: usize,
        len: usize,
        allocate: bool,
    },
    Flush,
    Compact(u64),
    Reset,
    SetAlgorithm(usize),
    SetDedup(bool),
    SetSecondary(usize),
    Train,
}

/// What `SetAlgorithm` chooses from: with and without contexts, parameters and dictionaries.
fn choice(number: usize) -> Choice {
    let dictionary = Fill::Text(number as u8).bytes(1000 + number % 3 * 5000);
    match number % 6 {
        0 => Choice::new("lz4"),
        1 => Choice::new("zstd").param("level", "-1"),
        2 => Choice::new("deflate"),
        3 => Choice::new("zstd").dictionary(dictionary),
        4 => Choice::new("lz4")
            .param("level", "4")
            .dictionary(dictionary),
        _ => Choice::new("null"),
    }
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    let pages = (0..PAGES, 1..=PAGES).prop_map(|(at, len)| (at * PAGE_SIZE, len * PAGE_SIZE));
    let any = (0..SIZE, 0..3 * PAGE_SIZE);
    prop_oneof![pages, any].prop_map(|(at, len)| (at, len.min(SIZE - at)))
}

fn op() -> impl Strategy<Value = Op> {
    let fill = prop_oneof![
        Just(Fill::Zeros),
        any::<u8>().prop_map(Fill::Byte),
        any::<u64>().prop_map(Fill::Word),
        any::<u8>().prop_map(Fill::Text),
        any::<u64>().prop_map(Fill::Noise),
    ];
    prop_oneof![
        8 => (range(), fill).prop_map(|((at, len), fill)| Op::Write { at, len, fill }),
        4 => range().prop_map(|(at, len)| Op::Read { at, len }),
        3 => range().prop_map(|(at, len)| Op::Discard { at, len }),
        3 => (range(), any::<bool>()).prop_map(|((at, len), allocate)| Op::Zero { at, len, allocate }),
        1 => Just(Op::Flush),
        1 => any::<bool>().prop_map(Op::SetDedup),
        1 => prop_oneof![0..30_000u64, Just(u64::MAX)].prop_map(Op::Compact),
        1 => (0..30usize).prop_map(Op::SetAlgorithm),
        1 => prop::option::weighted(0.3, 0..30usize)
            .prop_map(|number| number.map_or(Op::Train, Op::SetSecondary)),
        1 => prop::bool::weighted(0.2).prop_map(|reset| if reset { Op::Reset } else { Op::Flush }),
    ]
}

fn whole_pages(at: usize, len: usize) -> std::ops::Range<usize> {
    let (first, end) = (at.div_ceil(PAGE_SIZE), (at + len) / PAGE_SIZE);
    first * PAGE_SIZE..end.max(first) * PAGE_SIZE
}

fn apply(device: &Device, oracle: &mut [u8], op: Op) {
    match op {
        Op::Write { at, len, fill } => {
            let bytes = fill.bytes(len);
            device.write_at(&bytes, at as u64).unwrap();
            oracle[at..at + len].copy_from_slice(&bytes);
        }
        Op::Read { at, len } => {
            let mut bytes = vec![0xEE; len];
            device.read_at(&mut bytes, at as u64).unwrap();
            assert!(bytes == oracle[at..at + len], "read {at}+{len}");
        }
        Op::Discard { at, len } => {
            device.discard(at as u64, len as u64).unwrap();
            oracle[whole_pages(at, len)].fill(0);
        }
        Op::Zero { at, len, allocate } => {
            let how = if allocate {
                Zeroes::Allocate
            } else {
                Zeroes::Deallocate
            };
            device.write_zeroes(at as u64, len as u64, how).unwrap();
            oracle[at..at + len].fill(0);
        }
        Op::Flush => device.flush().unwrap(),
        Op::SetDedup(on) => device.set_dedup(on).unwrap(),
        Op::Compact(max_bytes) => {
            let before = device.stats();
            let freed = device.jobs().compact(max_bytes).pages_freed;
            let after = device.stats();
            let mut expected = before;
            expected.mem_used_total_bytes -= freed * PAGE_SIZE as u64;
            expected.pages_compacted += freed;
            assert_eq!(after, expected);
        }
        Op::Reset => {
            device.reset();
            oracle.fill(0);
        }
        Op::SetAlgorithm(number) => device.set_algorithm(&choice(number)).unwrap(),
        Op::SetSecondary(number) => device
            .set_secondary(
                1 + number % 3,
                (number < 20).then(|| choice(number)).as_ref(),
            )
            .unwrap(),
        Op::Train => {
            // Refused where there is too little to learn from or nothing to learn with: as good as any answer here.
            let before = device.stats();
            let _ = device.jobs().train(&Training {
                dictionary_bytes: 4096,
                rule: |_, _| Ok("always".into()),
                ..Training::default()
            });
            let after = device.stats();
            assert_eq!(before.failed_reads, after.failed_reads);
            assert_eq!(before.compr_data_size_bytes, after.compr_data_size_bytes);
        }
    }
    check_codecs(device);
}

/// What the codecs hold is what the device holds, and none is there for nothing.
fn check_codecs(device: &Device) {
    let (codecs, stats) = (device.codecs(), device.stats());
    let bytes: u64 = codecs.iter().map(|codec| codec.object_bytes).sum();
    let huge = stats.huge_pages * PAGE_SIZE as u64;
    let all = stats.compr_data_size_bytes + stats.dup_data_size_bytes;
    assert_eq!(bytes + huge, all);
    let objects: u64 = codecs.iter().map(|codec| codec.objects).sum();
    let others = stats.same_pages + stats.huge_pages;
    assert_eq!(
        (objects + others) * PAGE_SIZE as u64,
        stats.orig_data_size_bytes
    );
    let primaries = codecs.iter().filter(|codec| codec.priorities.contains(&0));
    assert_eq!(primaries.count(), 1);
    let needless = |c: &&uzram::CodecStats| c.objects == 0 && c.priorities.is_empty();
    assert_eq!(codecs.iter().find(needless), None);
}

fn check_against(device: &Device, oracle: &[u8]) {
    let mut bytes = vec![0xEE; SIZE];
    device.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == oracle, "contents differ");
    let mut at = 0;
    for extent in device.extents(0, SIZE as u64).unwrap() {
        assert_eq!(extent.offset, at);
        at += extent.len;
        let bytes = &oracle[extent.offset as usize..(extent.offset + extent.len) as usize];
        let zero = bytes
            .chunks(PAGE_SIZE)
            .all(|page| page.iter().all(|b| *b == 0));
        assert_eq!(zero, extent.kind != ExtentKind::Data, "{extent:?}");
    }
    assert_eq!(at, SIZE as u64);
    let stats = device.stats();
    assert!(stats.compr_data_size_bytes <= stats.orig_data_size_bytes);
    assert!(stats.mem_used_total_bytes >= stats.compr_data_size_bytes);
    assert!(stats.same_pages + stats.huge_pages <= PAGES as u64);
    assert_eq!((stats.failed_reads, stats.failed_writes), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn prop_device_agrees_with_an_array(ops in prop::collection::vec(op(), 1..60)) {
        for algorithm in Registry::builtin().iter() {
            let device = Device::builder(SIZE as u64).algorithm(algorithm.driver_name()).build().unwrap();
            let mut oracle = vec![0; SIZE];
            for op in &ops {
                apply(&device, &mut oracle, *op);
            }
            check_against(&device, &oracle);
            device.reset();
            let stats = device.stats();
            assert_eq!((stats.orig_data_size_bytes, stats.compr_data_size_bytes), (0, 0));
            assert_eq!((stats.mem_used_total_bytes, stats.mem_used_max_bytes), (0, 0));
        }
    }

    /// Whatever the limit and whenever it strikes, a page holds its old contents or its new ones, and exactly
    /// the writes that said so failed.
    #[test]
    fn prop_mem_limit_keeps_what_was_acknowledged(
        pages in prop::collection::vec((0..PAGES, any::<u64>(), any::<bool>()), 1..120),
        limit_pages in 0..40u64,
    ) {
        let device = Device::builder(SIZE as u64).build().unwrap();
        device.set_mem_limit_bytes(limit_pages * 4096);
        let mut oracle = vec![0; SIZE];
        let mut failed = 0;
        for (page, seed, discard) in pages {
            let at = page * PAGE_SIZE;
            if discard {
                apply(&device, &mut oracle, Op::Discard { at, len: PAGE_SIZE });
                continue;
            }
            let bytes = if seed % 3 == 0 { Fill::Text(seed as u8) } else { Fill::Noise(seed) }.bytes(PAGE_SIZE);
            match device.write_at(&bytes, at as u64) {
                Ok(()) => oracle[at..at + PAGE_SIZE].copy_from_slice(&bytes),
                Err(Error::NoSpace { page: which, limit_bytes, .. }) => {
                    prop_assert_eq!((which, limit_bytes), (page as u64, limit_pages * 4096));
                    failed += 1;
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
            prop_assert!(limit_pages == 0 || device.stats().mem_used_total_bytes <= limit_pages * 4096);
        }
        let mut bytes = vec![0; SIZE];
        device.read_at(&mut bytes, 0).unwrap();
        prop_assert!(bytes == oracle);
        prop_assert_eq!(device.stats().failed_writes, failed);
    }
}

#[test]
fn requests_outside_the_device_are_refused_whole() {
    let device = Device::builder(SIZE as u64).build().unwrap();
    let size = SIZE as u64;
    device.write_at(&[9; 4096], size - 4096).unwrap();
    for (offset, len) in [
        (size, 1),
        (size - 1, 2),
        (u64::MAX, 1),
        (u64::MAX - 1, 2),
        (0, size + 1),
    ] {
        let buffer = vec![1u8; len as usize];
        let refused = Error::OutOfRange {
            offset,
            len,
            size_bytes: size,
        };
        assert_eq!(device.write_at(&buffer, offset), Err(refused.clone()));
        assert_eq!(
            device.read_at(&mut buffer.clone(), offset),
            Err(refused.clone())
        );
        assert_eq!(device.discard(offset, len), Err(refused.clone()));
        assert_eq!(
            device.write_zeroes(offset, len, Zeroes::Deallocate),
            Err(refused.clone())
        );
        assert_eq!(device.extents(offset, len).err(), Some(refused.clone()));
        assert_eq!(refused.errno(), 22);
    }
    assert_eq!(device.discard(u64::MAX, u64::MAX).unwrap_err().errno(), 22);
    let mut last = [0; 4096];
    device.read_at(&mut last, size - 4096).unwrap();
    assert_eq!(last, [9; 4096]);
    device.read_at(&mut [], size).unwrap();
    device.write_at(&[], size).unwrap();
}

#[test]
fn impossible_settings_are_named() {
    for (builder, says) in [
        (
            Device::builder(0),
            "size 0 bytes is not possible: 1 to 17592186044416 bytes",
        ),
        (Device::builder(u64::MAX), "16 TiB"),
        (
            Device::builder(4096).algorithm("lzma"),
            "unknown algorithm 'lzma' (known: lzo-rle, lzo, lz4",
        ),
        (
            Device::builder(4096).algorithm_param("level", "x"),
            "level=x of 'lz4'",
        ),
        (
            Device::builder(4096).algorithm_param("dict", "1"),
            "no parameter 'dict'",
        ),
        (
            Device::builder(4096).logical_block_size(1024),
            "512 or 4096",
        ),
        (
            Device::builder(4096).registry(Registry::empty()),
            "known: none",
        ),
    ] {
        let error = builder.build().unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.errno(), 22);
    }
    assert_eq!(Device::builder(1).build().unwrap().size_bytes(), 4096);
}

/// The largest device there is costs what is written to it.
#[test]
fn a_device_of_16_tib_costs_nothing_until_written() {
    let device = Device::builder(uzram::MAX_SIZE_BYTES).build().unwrap();
    let end = device.size_bytes();
    device.write_at(b"end", end - 3).unwrap();
    let mut bytes = [0; 8];
    device.read_at(&mut bytes, end - 8).unwrap();
    assert_eq!(&bytes, b"\0\0\0\0\0end");
    device.read_at(&mut bytes, end / 2).unwrap();
    let extents: Vec<_> = device.extents(0, end).unwrap().collect();
    assert_eq!(extents.len(), 2);
    let stats = device.stats();
    // Header, state, codecs, and a page of the table.
    assert!(stats.table_bytes <= 4 * 4096, "{stats:?}");
    device.discard(0, end).unwrap();
    assert_eq!(device.stats().orig_data_size_bytes, 0);
}

#[test]
fn discard_gives_memory_back_at_once() {
    let device = Device::builder(64 << 20).build().unwrap();
    for page in 0..(64 << 20) / PAGE_SIZE {
        device
            .write_at(
                &Fill::Noise(page as u64).bytes(PAGE_SIZE),
                (page * PAGE_SIZE) as u64,
            )
            .unwrap();
    }
    let full = device.stats().mem_used_total_bytes;
    device.discard(0, 32 << 20).unwrap();
    let half = device.stats().mem_used_total_bytes;
    assert!(half * 100 < full * 54, "{half} of {full}");
    device.discard(0, 64 << 20).unwrap();
    assert!(device.stats().mem_used_total_bytes <= 1 << 20);
}

/// The pages that a trim punched out of a span must not keep the limit's memory from being used: after a random
/// part of a full device was discarded, as much fits again.
#[test]
fn what_was_discarded_at_the_limit_can_be_written_again() {
    let device = Device::builder(256 << 20)
        .mem_limit_bytes(16 << 20)
        .build()
        .unwrap();
    let mut random = Random::new(7);
    let page = |seed: u64| {
        let mut page = Fill::Noise(seed).bytes(300 + (seed % 5) as usize * 4);
        page.resize(PAGE_SIZE, 0);
        page
    };
    let at = |number: u64| number * PAGE_SIZE as u64;
    let full = (0..65_536)
        .find(|n| device.write_at(&page(*n), at(*n)).is_err())
        .unwrap();
    let gone: Vec<u64> = (0..full).filter(|_| random.below(10) < 6).collect();
    for number in &gone {
        device.discard(at(*number), PAGE_SIZE as u64).unwrap();
    }
    let failed = gone
        .iter()
        .filter(|n| device.write_at(&page(**n), at(**n)).is_err())
        .count();
    assert!(
        failed * 50 < gone.len(),
        "{failed} of {} did not fit again",
        gone.len()
    );
}

/// Writers that meet at the limit wait for each other's trim instead of failing.
#[test]
fn writers_at_the_limit_do_not_fail_while_another_trims() {
    let device = Device::builder(64 << 20)
        .mem_limit_bytes(8 << 20)
        .build()
        .unwrap();
    let pages = 1600u64;
    for round in 0..12u64 {
        // Most of what is stored becomes zeros, which frees without giving back.
        for page in 0..pages {
            device
                .write_at(&[0; PAGE_SIZE], page * PAGE_SIZE as u64)
                .unwrap();
        }
        std::thread::scope(|scope| {
            for thread in 0..2u64 {
                let device = &device;
                scope.spawn(move || {
                    for page in (thread..pages).step_by(2) {
                        let fresh = Fill::Noise(page + round * pages)
                            .bytes(2000 + (round * 137) as usize % 1900);
                        let mut data = fresh;
                        data.resize(PAGE_SIZE, 0);
                        device.write_at(&data, page * PAGE_SIZE as u64).unwrap();
                    }
                });
            }
        });
    }
}
