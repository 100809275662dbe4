//! What the device does with stored pages later: the idle mark and ages, recompression, another size.

mod common;

use std::ops::ControlFlow;
use std::time::Duration;

use common::{memfd, reopen};
use uzram::{Choice, Device, Error, PageKind, Recompress, RecompressReport, Training};
use uzram_testkit::Random;

const SIZE: u64 = 64 << 20;

/// Text with noise in it: `n` of 8 words are noise, so that objects are of all sizes. 8 of 8 is incompressible.
fn page(number: u64, seed: u64, noisy: u64) -> [u8; 4096] {
    let mut random = Random::new(number << 20 ^ seed);
    let mut page = [0u8; 4096];
    for (at, word) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *word = match at as u64 % 8 < noisy {
            true => random.next().to_ne_bytes(),
            false => **random.pick(&[b"inventor", b"customer", b"warehous"]),
        };
    }
    page
}

fn fill(device: &Device, count: u64, noisy: impl Fn(u64) -> u64) {
    for number in 0..count {
        device
            .write_at(&page(number, 0, noisy(number)), number * 4096)
            .unwrap();
    }
}

fn check(device: &Device, count: u64, noisy: impl Fn(u64) -> u64) {
    let mut back = [0; 4096];
    for number in 0..count {
        device.read_at(&mut back, number * 4096).unwrap();
        assert!(back == page(number, 0, noisy(number)), "page {number}");
    }
}

fn run(device: &Device, what: &Recompress) -> RecompressReport {
    device
        .zram()
        .recompress(what, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn with_zstd() -> uzram::Builder {
    Device::builder(SIZE).secondary(1, Choice::new("zstd").param("level", "6"))
}

fn of_kind(kind: PageKind) -> Recompress {
    Recompress {
        kind,
        ..Recompress::default()
    }
}

#[test]
fn recompression_makes_pages_smaller_and_keeps_their_contents() {
    let device = with_zstd().build().unwrap();
    let noisy = |n| n % 6;
    fill(&device, 1000, noisy);
    let before = device.stats();
    let report = run(&device, &Recompress::default());
    let after = device.stats();
    assert!(
        after.mem_used_total_bytes < before.mem_used_total_bytes * 9 / 10,
        "{after:?}"
    );
    assert_eq!(report.candidates, 1000);
    assert_eq!(report.tried, 1000);
    assert!(report.recompressed > 900, "{report:?}");
    assert_eq!(after.recompressed_pages, report.recompressed);
    let saved = report.bytes_before - report.bytes_after;
    assert_eq!(
        before.compr_data_size_bytes - after.compr_data_size_bytes,
        saved
    );
    assert_eq!(before.orig_data_size_bytes, after.orig_data_size_bytes);
    check(&device, 1000, noisy);
    let zstd = &device.codecs()[1];
    assert_eq!(
        (zstd.algorithm.as_str(), zstd.objects),
        ("zstd", report.recompressed)
    );
    // Nothing is left to do, and what would not become smaller is remembered.
    let again = run(&device, &Recompress::default());
    assert_eq!((again.candidates, again.recompressed), (0, 0), "{again:?}");
    assert_eq!(report.recompressed + report.incompressible, 1000);
}

#[test]
fn each_kind_applies_to_its_pages_only() {
    let device = with_zstd().build().unwrap();
    // lz4 finds nothing in 8 noisy words of 8; zstd neither.
    fill(&device, 100, |n| if n < 40 { 8 } else { 2 });
    assert_eq!(run(&device, &of_kind(PageKind::Idle)).candidates, 0);
    assert_eq!(device.zram().mark_idle(None).unwrap(), 100);
    // Read ones are not idle any more; written ones neither.
    let mut back = [0; 4096];
    device.read_at(&mut back, 0).unwrap();
    device.read_at(&mut back, 99 * 4096).unwrap();
    device.write_at(&page(50, 0, 2), 50 * 4096).unwrap();
    let candidates = |kind| {
        device
            .zram()
            .recompressible(&of_kind(kind))
            .unwrap()
            .candidates
    };
    assert_eq!(candidates(PageKind::All), 100);
    assert_eq!(candidates(PageKind::Idle), 97);
    assert_eq!(candidates(PageKind::Huge), 40);
    assert_eq!(candidates(PageKind::HugeIdle), 39);
    assert_eq!(candidates(PageKind::Incompressible), 0);
    let report = run(&device, &of_kind(PageKind::Huge));
    assert_eq!(
        (report.tried, report.recompressed, report.incompressible),
        (40, 0, 40)
    );
    assert_eq!(
        candidates(PageKind::All),
        60,
        "the incompressible are not tried again"
    );
    let report = run(&device, &of_kind(PageKind::Idle));
    assert_eq!(report.recompressed, 58);
    assert_eq!(candidates(PageKind::Idle), 0, "who was tried is not idle");
    // Written anew, a page has its chance again.
    device.write_at(&page(0, 1, 8), 0).unwrap();
    assert_eq!(candidates(PageKind::Huge), 1);
}

#[test]
fn the_largest_come_first_and_the_threshold_holds() {
    let device = with_zstd().build().unwrap();
    fill(&device, 600, |n| n % 6);
    let what = Recompress {
        max_pages: 50,
        ..Recompress::default()
    };
    let report = run(&device, &what);
    assert_eq!(report.tried, 50);
    // The largest are those with 5 noisy words of 8: more than 5/8 of a page each.
    assert!(
        report.bytes_before / report.recompressed > 2560,
        "{report:?}"
    );
    let what = Recompress {
        threshold: 2000,
        ..Recompress::default()
    };
    let found = device.zram().recompressible(&what).unwrap();
    let (candidates, bytes) = (found.candidates, found.candidate_bytes);
    assert!(candidates < 500 && bytes / candidates >= 2000);
    let report = run(&device, &what);
    assert_eq!(report.candidates, candidates);
    // What does not fall below the threshold is not kept.
    assert!(report.recompressed < candidates, "{report:?}");
    assert!(report.bytes_after / report.recompressed.max(1) < 2000);
    check(&device, 600, |n| n % 6);
}

#[test]
fn secondaries_are_tried_in_their_order_or_one_alone() {
    let device = Device::builder(SIZE)
        .secondary(1, Choice::new("lz4hc"))
        .secondary(2, Choice::new("zstd").param("level", "6"))
        .build()
        .unwrap();
    fill(&device, 200, |_| 3);
    let objects = |driver: &str| {
        let codecs = device.codecs();
        codecs
            .iter()
            .filter(|c| c.algorithm == driver)
            .map(|c| c.objects)
            .sum::<u64>()
    };
    let only = |priority| Recompress {
        priority: Some(priority),
        ..Recompress::default()
    };
    run(&device, &only(1));
    let first = objects("lz4hc");
    assert!(first > 100, "{first}");
    run(&device, &Recompress::default());
    assert_eq!((objects("lz4hc"), objects("zstd")), (0, 200));
    // None goes back.
    assert_eq!(run(&device, &only(1)).candidates, 0);
    check(&device, 200, |_| 3);
}

#[test]
fn what_cannot_be_recompressed_is_refused_in_words() {
    let device = Device::builder(SIZE).build().unwrap();
    let refused = |device: &Device, what: &Recompress| {
        let refused = device
            .zram()
            .recompress(what, &mut |_| ControlFlow::Continue(()));
        refused.unwrap_err().to_string()
    };
    assert_eq!(
        refused(&device, &Recompress::default()),
        "the device has no algorithm for recompression; set one first"
    );
    let device = with_zstd().build().unwrap();
    let priority = |priority| Recompress {
        priority: Some(priority),
        ..Recompress::default()
    };
    assert!(refused(&device, &priority(2)).contains("of priority 2"));
    assert!(refused(&device, &priority(0)).contains("1 to 3"));
    let threshold = Recompress {
        threshold: 4096,
        ..Recompress::default()
    };
    assert!(refused(&device, &threshold).contains("fewer than"));
    assert!(
        "hugeidle"
            .parse::<PageKind>()
            .unwrap_err()
            .to_string()
            .contains("huge_idle")
    );
}

/// Pages are written, read and discarded, and codecs changed, while everything is recompressed again and again.
#[test]
fn recompression_among_writers_loses_nothing() {
    const PAGES: u64 = 512;
    let device = with_zstd().build().unwrap();
    std::thread::scope(|scope| {
        let mut writers = Vec::new();
        for thread in 0..2u64 {
            let device = &device;
            let writer = scope.spawn(move || {
                // Each thread has every other page for itself, so that it knows what is there.
                let mut seeds = vec![None; PAGES as usize];
                for round in 0..30_000u64 {
                    let number = (round * 7919 + 13 * (round / 97)) % (PAGES / 2) * 2 + thread;
                    let at = number * 4096;
                    let seed = &mut seeds[number as usize];
                    if let Some(seed) = seed {
                        let mut back = [0; 4096];
                        device.read_at(&mut back, at).unwrap();
                        assert!(back == page(number, *seed, *seed % 7), "page {number}");
                    }
                    if round % 11 == 0 {
                        device.discard(at, 4096).unwrap();
                        *seed = None;
                    } else {
                        device
                            .write_at(&page(number, round, round % 7), at)
                            .unwrap();
                        *seed = Some(round);
                    }
                }
            });
            writers.push(writer);
        }
        let device = &device;
        scope.spawn(move || {
            let mut level = 3;
            while !writers.iter().all(|writer| writer.is_finished()) {
                run(device, &Recompress::default());
                device.zram().mark_idle(None).unwrap();
                run(device, &of_kind(PageKind::Idle));
                level = level % 9 + 1;
                let choice = Choice::new("zstd").param("level", level.to_string());
                device.set_secondary(1, Some(&choice)).unwrap();
            }
        });
    });
    assert!(
        device.stats().recompressed_pages > 500,
        "{:?}",
        device.stats()
    );
    device.discard(0, SIZE).unwrap();
    let stats = device.stats();
    assert_eq!(
        (stats.compr_data_size_bytes, stats.orig_data_size_bytes),
        (0, 0)
    );
    assert!(device.codecs().iter().all(|codec| codec.objects == 0));
}

#[test]
fn marks_and_recompressed_pages_outlive_the_process() {
    let file = memfd();
    let device = with_zstd().build_in(reopen(&file)).unwrap();
    fill(&device, 100, |n| n % 4);
    run(
        &device,
        &Recompress {
            max_pages: 50,
            ..Recompress::default()
        },
    );
    device.zram().mark_idle(None).unwrap();
    device.zram().track_ages(true).unwrap();
    let stats = device.stats();
    drop(device);
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    assert!(device.zram().tracks_ages());
    assert_eq!(
        device.stats().compr_data_size_bytes,
        stats.compr_data_size_bytes
    );
    assert_eq!(
        device
            .zram()
            .recompressible(&of_kind(PageKind::Idle))
            .unwrap()
            .candidates,
        50
    );
    check(&device, 100, |n| n % 4);
}

#[test]
fn ages_say_which_pages_are_idle() {
    let device = with_zstd().build().unwrap();
    fill(&device, 10, |_| 2);
    let old = |seconds| device.zram().mark_idle(Some(Duration::from_secs(seconds)));
    let refused = old(1).unwrap_err().to_string();
    assert!(refused.contains("ages are not kept"), "{refused}");
    device.zram().track_ages(true).unwrap();
    assert_eq!(old(0).unwrap(), 10);
    assert_eq!(old(3600).unwrap(), 0);
    let idle = || device.zram().slots(0).filter(|slot| slot.idle).count();
    assert_eq!(idle(), 10);
    let none = device.zram().mark_idle_exactly(Duration::from_secs(3600));
    assert_eq!((none.unwrap(), idle()), (0, 0));
    std::thread::sleep(Duration::from_millis(3100));
    let mut back = [0; 4096];
    device.read_at(&mut back, 4096).unwrap();
    device.write_at(&page(2, 0, 2), 2 * 4096).unwrap();
    assert_eq!(old(2).unwrap(), 8);
    device.zram().track_ages(false).unwrap();
    assert!(old(0).is_err());
    // A policy that comes and goes leaves the caller's wish alone.
    device.zram().track_ages(true).unwrap();
    let device = std::sync::Arc::new(device);
    let agent = uzram::Agent::start(device.clone()).unwrap();
    device
        .jobs()
        .set_policy("recompress=9999".parse().unwrap())
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    agent.stop();
    assert!(device.zram().tracks_ages());
}

/// Each kind of page, and where listing goes on.
#[test]
fn slots_say_what_pages_are() {
    let directory = tempfile::tempdir().unwrap();
    let device = with_zstd().build().unwrap();
    let path = directory.path().join("store");
    device.zram().attach_backing(&path, Some(4 << 20)).unwrap();
    let noisy = |n| if n < 2 { 8 } else { 2 };
    fill(&device, 5, noisy);
    device.write_at(&[7; 4096], 5000 * 4096).unwrap();
    device.discard(3 * 4096, 4096).unwrap();
    let flags = || -> Vec<(u64, String)> {
        let text = |slot: uzram::Slot| {
            let is = [
                (slot.same, 's'),
                (slot.backed, 'w'),
                (slot.huge, 'h'),
                (slot.idle, 'i'),
                (slot.recompressed, 'r'),
                (slot.incompressible, 'n'),
            ];
            let text = is
                .into_iter()
                .filter(|(is, _)| *is)
                .map(|(_, letter)| letter);
            (slot.page, text.collect())
        };
        device.zram().slots(0).map(text).collect()
    };
    let shown =
        |pages: [(u64, &str); 5]| pages.map(|(page, text)| (page, text.to_owned())).to_vec();
    assert_eq!(
        flags(),
        shown([(0, "h"), (1, "h"), (2, ""), (4, ""), (5000, "s")])
    );
    device.zram().mark_idle(None).unwrap();
    assert_eq!(
        flags(),
        shown([(0, "hi"), (1, "hi"), (2, "i"), (4, "i"), (5000, "s")])
    );
    run(&device, &Recompress::default());
    let what = uzram::Writeback {
        pages: Vec::from_iter([1..2, 2..3]),
        ..uzram::Writeback::default()
    };
    device
        .zram()
        .writeback(&what, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(
        flags(),
        shown([(0, "hn"), (1, "wh"), (2, "wr"), (4, "r"), (5000, "s")])
    );
    let rest: Vec<u64> = device.zram().slots(3).map(|slot| slot.page).collect();
    assert_eq!(rest, [4, 5000]);
    assert_eq!(device.zram().slots(0).next().unwrap().accessed, None);
    device.zram().track_ages(true).unwrap();
    device.write_at(&page(0, 0, 8), 0).unwrap();
    assert!(device.zram().slots(0).next().unwrap().accessed.unwrap() > Duration::ZERO);
    let classes = device.zram().pool_classes();
    assert_eq!(
        classes.iter().map(|class| class.objects_used).sum::<u64>(),
        2
    );
}

/// For the secondary that recompression uses, from the pages that the fast algorithm stored.
#[test]
fn a_secondary_can_be_trained() {
    let device = with_zstd().build().unwrap();
    fill(&device, 2000, |n| n % 3);
    let training = Training {
        priority: 1,
        rule: |_, _| Ok("for the test".into()),
        ..Training::default()
    };
    let report = device.jobs().train(&training).unwrap();
    assert!(report.adopted, "{report:?}");
    assert_eq!(device.algorithm(), "lz4");
    run(&device, &Recompress::default());
    let codecs = device.codecs();
    let trained = codecs.iter().find(|c| c.dictionary_bytes > 0).unwrap();
    assert_eq!(trained.priorities, [1]);
    assert!(trained.objects > 1500, "{codecs:?}");
    check(&device, 2000, |n| n % 3);
    let missing = Training {
        priority: 3,
        ..Training::default()
    };
    assert!(
        device
            .jobs()
            .train(&missing)
            .unwrap_err()
            .to_string()
            .contains("priority 3")
    );
}

#[test]
fn a_device_grows_and_shrinks_where_its_tail_is_empty() {
    let file = memfd();
    let device = Device::builder(SIZE).build_in(reopen(&file)).unwrap();
    assert_eq!(device.max_size_bytes(), 4 * SIZE);
    device.write_at(&[7; 4096], SIZE - 4096).unwrap();
    assert!(device.write_at(&[7], SIZE).is_err());
    device.resize(2 * SIZE).unwrap();
    device.write_at(&[8; 4096], 2 * SIZE - 4096).unwrap();
    let error = device.resize(SIZE + 4096).unwrap_err();
    assert_eq!(
        error,
        Error::TailInUse {
            size_bytes: 2 * SIZE
        }
    );
    assert_eq!((device.size_bytes(), error.errno()), (2 * SIZE, 16));
    drop(device);
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    assert_eq!(device.size_bytes(), 2 * SIZE);
    let mut back = [0; 4096];
    device.read_at(&mut back, 2 * SIZE - 4096).unwrap();
    assert_eq!(back, [8; 4096]);
    device.discard(2 * SIZE - 4096, 4096).unwrap();
    device.resize(SIZE).unwrap();
    assert!(device.read_at(&mut back, SIZE).is_err());
    device.read_at(&mut back, SIZE - 4096).unwrap();
    assert_eq!(back, [7; 4096]);
    // Not to be rounded to nothing, and not beyond what was reserved.
    for size in [0, 4 * SIZE + 1] {
        assert!(
            matches!(device.resize(size), Err(Error::Invalid { .. })),
            "{size}"
        );
    }
    device.resize(4 * SIZE).unwrap();
    let larger = Device::builder(SIZE).max_size_bytes(SIZE - 4096).build();
    assert!(
        larger
            .unwrap_err()
            .to_string()
            .contains("at least the size")
    );
}

/// Writers at the end of a device whose size changes: what was acknowledged is there.
#[test]
fn no_write_is_lost_to_a_shrinking_device() {
    let device = Device::builder(SIZE).build().unwrap();
    let (small, large) = (SIZE, SIZE + 64 * 4096);
    let writer = || {
        let mut written = 0;
        for round in 0..40_000u64 {
            let at = small + round % 64 * 4096;
            let data = page(round, round, 2);
            if device.write_at(&data, at).is_err() {
                continue;
            }
            written += 1;
            // Acknowledged: the device cannot stay smaller until it is discarded. It may be for a moment, while it is
            // found out.
            let mut back = [0; 4096];
            while device.read_at(&mut back, at).is_err() {}
            assert!(back == data, "round {round}");
            while device.discard(at, 4096).is_err() {}
        }
        written
    };
    let (written, shrunk) = std::thread::scope(|scope| {
        let writer = scope.spawn(writer);
        let mut shrunk = 0;
        while !writer.is_finished() {
            device.resize(large).unwrap();
            shrunk += u64::from(device.resize(small).is_ok());
        }
        (writer.join().unwrap(), shrunk)
    });
    assert!(written > 100 && shrunk > 10, "{written} {shrunk}");
}

/// The larger object goes right after: a device at its limit becomes smaller, as the kernel's does.
#[test]
fn a_device_at_its_limit_can_be_recompressed() {
    let device = with_zstd().mem_limit_bytes(1 << 20).build().unwrap();
    let mut count = 0;
    while device.write_at(&page(count, 0, 2), count * 4096).is_ok() {
        count += 1;
    }
    let report = run(&device, &Recompress::default());
    assert_eq!(
        (report.recompressed, report.no_room),
        (count, 0),
        "{report:?}"
    );
    check(&device, count, |_| 2);
    let more = count;
    while device.write_at(&page(count, 0, 2), count * 4096).is_ok() {
        count += 1;
    }
    assert!(count > more + more / 20, "{more} {count}");
    let stats = device.stats();
    assert!(stats.mem_used_total_bytes <= 1 << 20, "{stats:?}");
}
