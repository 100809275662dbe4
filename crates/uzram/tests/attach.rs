//! What another process left is there: after a clean end, after kill -9 at any moment, and not if it is damaged.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{memfd, reopen};
use uzram::{Choice, Device, Error, HeaderError, Training, Zeroes};
use uzram_testkit::Random;

const SIZE: u64 = 64 << 20;
const PAGES: u64 = SIZE / 4096;

/// One test at a time: a child that is being started has, for a moment, the locks of all files that others have open.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn builder() -> uzram::Builder {
    Device::builder(SIZE)
}

/// Contents that say which page and which write they are of; every fifth is incompressible, every seventh
/// same-filled.
fn content(page: u64, seq: u32) -> [u8; 4096] {
    let stamp = page << 32 | u64::from(seq);
    let mut bytes = [0; 4096];
    let mut random = Random::new(stamp);
    for (at, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let noise = match seq % 35 {
            n if n % 7 == 0 => 0,
            n if n % 5 == 0 => u64::MAX,
            n => u64::from(n) << (at % 16),
        };
        let noise = random.next() & noise;
        // The first word is the stamp itself.
        *word = (stamp ^ if at > 0 { noise } else { 0 }).to_ne_bytes();
    }
    bytes
}

/// The write that a page's contents are of; `None` if they are of no single one.
fn seq_of(page: u64, bytes: &[u8; 4096]) -> Option<u32> {
    if *bytes == [0; 4096] {
        return Some(0);
    }
    let seq = u64::from_ne_bytes(*bytes.first_chunk()?) as u32;
    (content(page, seq) == *bytes).then_some(seq)
}

#[test]
fn what_was_written_is_there_after_attaching() {
    let _alone = alone();
    let file = memfd();
    for algorithm in ["lz4", "zstd"] {
        let file = if algorithm == "lz4" {
            reopen(&file)
        } else {
            memfd()
        };
        let again = [reopen(&file), reopen(&file)];
        let device = builder()
            .algorithm(algorithm)
            .logical_block_size(512)
            .mem_limit_bytes(40 << 20)
            .build_in(file)
            .unwrap();
        for page in 0..2000 {
            device
                .write_at(&content(page, page as u32 + 1), page * 4096 * 3)
                .unwrap();
        }
        device.discard(0, 100 * 4096 * 3).unwrap();
        device.write_zeroes(4096, 4096, Zeroes::Allocate).unwrap();
        device.write_at(b"partial", 300 * 4096 * 3 + 77).unwrap();
        device.set_mem_limit_bytes(33 << 20);
        let before = device.stats();
        drop(device);
        for (time, file) in again.into_iter().enumerate() {
            let device = Device::builder(0).attach(file).unwrap();
            assert_eq!(device.attached_count(), time as u64 + 1);
            assert_eq!(
                (
                    device.size_bytes(),
                    device.logical_block_size(),
                    device.algorithm()
                ),
                (SIZE, 512, algorithm)
            );
            let after = device.stats();
            assert_eq!(after.orig_data_size_bytes, before.orig_data_size_bytes);
            assert_eq!(after.compr_data_size_bytes, before.compr_data_size_bytes);
            assert_eq!(after.same_pages, before.same_pages);
            assert_eq!(after.huge_pages, before.huge_pages);
            assert_eq!(after.mem_limit_bytes, 33 << 20);
            assert!(after.mem_used_total_bytes <= before.mem_used_total_bytes);
            for page in 0..2000u64 {
                let mut back = [0; 4096];
                device.read_at(&mut back, page * 4096 * 3).unwrap();
                let mut expected = match page {
                    0..100 => [0; 4096],
                    _ => content(page, page as u32 + 1),
                };
                if page == 300 {
                    expected[77..84].copy_from_slice(b"partial");
                }
                assert!(back == expected, "page {page}");
            }
            // And it goes on: the same books serve new writes.
            for page in 0..PAGES {
                device
                    .write_at(&[page as u8 | 1; 4096], page * 4096)
                    .unwrap();
            }
            for page in 0..2000 {
                device
                    .write_at(&content(page, page as u32 + 1), page * 4096 * 3)
                    .unwrap();
            }
            device.discard(0, SIZE).unwrap();
            assert_eq!(device.stats().orig_data_size_bytes, 0);
            for page in 100..2000 {
                device
                    .write_at(&content(page, page as u32 + 1), page * 4096 * 3)
                    .unwrap();
            }
            device.write_zeroes(4096, 4096, Zeroes::Allocate).unwrap();
            device.write_at(b"partial", 300 * 4096 * 3 + 77).unwrap();
        }
    }
}

#[test]
fn an_image_has_one_user_at_a_time() {
    let _alone = alone();
    let file = memfd();
    let device = builder().build_in(reopen(&file)).unwrap();
    let error = Device::builder(0).attach(reopen(&file)).unwrap_err();
    assert!(matches!(error, Error::InUse), "{error}");
    drop(device);
    let error = builder().build_in(reopen(&file)).unwrap_err();
    assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
    Device::builder(0).attach(reopen(&file)).unwrap();
}

#[test]
fn foreign_old_short_and_damaged_images_are_refused() {
    let _alone = alone();
    let attach = |change: &dyn Fn(&std::fs::File)| {
        let file = memfd();
        let device = builder().build_in(reopen(&file)).unwrap();
        for page in 0..500 {
            device
                .write_at(&content(page, page as u32 + 1), page * 4096)
                .unwrap();
        }
        drop(device);
        change(&std::fs::File::from(reopen(&file)));
        loop {
            match Device::builder(0).attach(reopen(&file)).unwrap_err() {
                // Another test of this program starts a process just now, which has all files until it executes.
                Error::InUse => std::thread::yield_now(),
                error => return error,
            }
        }
    };
    let put = |at: u64, bytes: &'static [u8]| {
        move |file: &std::fs::File| file.write_all_at(bytes, at).unwrap()
    };
    let header = |error: Error| match error {
        Error::Image(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(header(attach(&put(0, b"EXT4"))), HeaderError::Foreign);
    assert_eq!(
        header(attach(&put(8, &[1]))),
        HeaderError::Version { found: 1 }
    );
    assert_eq!(header(attach(&put(50, &[9]))), HeaderError::Damaged);
    assert!(matches!(
        header(attach(&|file| file.set_len(1 << 20).unwrap())),
        HeaderError::Inconsistent { .. }
    ));
    assert_eq!(
        header(Device::builder(0).attach(memfd()).map(drop).unwrap_err()),
        HeaderError::Short { got: 0 }
    );
    // The table begins at the fourth page. Unknown state; an object outside the arena; a span without a head.
    let word = |bits: u64| {
        move |file: &std::fs::File| file.write_all_at(&bits.to_ne_bytes(), 12288).unwrap()
    };
    for bits in [
        7 << 58,
        3 << 58 | 0x7F_FFFF_FFFF,
        3 << 58 | 99 << 39 | 0x10_0000,
    ] {
        let error = attach(&word(bits));
        assert!(
            matches!(error, Error::Damaged { page: 0, .. }),
            "{bits:#x}: {error}"
        );
        assert!(error.to_string().contains("page 0"), "{error}");
    }
    // Two pages with one object.
    let twice = |file: &std::fs::File| {
        let mut word = [0; 8];
        file.read_exact_at(&mut word, 12288 + 8 * 3).unwrap();
        file.write_all_at(&word, 12288 + 8 * 4).unwrap();
    };
    let error = attach(&twice);
    assert!(
        matches!(error, Error::Damaged { page: 3 | 4, .. }),
        "{error}"
    );
    // An algorithm that the build does not have.
    let file = memfd();
    drop(builder().algorithm("zstd").build_in(reopen(&file)).unwrap());
    let only_lz4 = {
        let mut registry = uzram::compress::Registry::empty();
        let builtin = uzram::compress::Registry::builtin();
        registry
            .register(builtin.find("lz4").unwrap().clone())
            .unwrap();
        registry
    };
    let error = Device::builder(0)
        .registry(only_lz4)
        .attach(file)
        .unwrap_err();
    assert!(
        matches!(error, Error::Compress(_)) && error.to_string().contains("zstd"),
        "{error}"
    );
}

/// Whoever held a slot's lock is dead.
#[test]
fn locks_of_the_dead_are_no_locks() {
    let _alone = alone();
    let file = memfd();
    let device = builder().build_in(reopen(&file)).unwrap();
    device.write_at(&content(0, 1), 0).unwrap();
    drop(device);
    let raw = std::fs::File::from(reopen(&file));
    let mut word = [0; 8];
    raw.read_exact_at(&mut word, 12288).unwrap();
    let held = u64::from_ne_bytes(word) | 7 << 61;
    raw.write_all_at(&held.to_ne_bytes(), 12288).unwrap();
    raw.write_all_at(&(5u64 << 61).to_ne_bytes(), 12296)
        .unwrap();
    let device = Device::builder(0).attach(file).unwrap();
    let (done, inbox) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut back = [0; 4096];
        device.read_at(&mut back, 0).unwrap();
        assert!(back == content(0, 1));
        device.write_at(b"part", 10).unwrap();
        device.write_at(&content(1, 2), 4096).unwrap();
        done.send(()).unwrap();
    });
    inbox
        .recv_timeout(Duration::from_secs(20))
        .expect("a dead process's lock is waited for");
}

const IMAGE: &str = "UZRAM_TEST_IMAGE";

/// What the child says instead of a page's number when objects were moved.
const MOVED: u64 = u64::MAX;

/// Not a test of its own: the process that `killed_at_any_moment` kills. Writes, and says what was acknowledged.
#[test]
fn child_that_writes() {
    let _alone = alone();
    let Some(path) = std::env::var_os(IMAGE) else {
        return;
    };
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let device = Device::builder(0).attach(file.into()).unwrap();
    let first: u32 = std::env::var("UZRAM_TEST_SEQ").unwrap().parse().unwrap();
    let seq = AtomicU32::new(first);
    let work = |thread: u64| {
        let mut random = Random::new(u64::from(first) << 8 | thread);
        loop {
            // Each page has one writer.
            let page = random.below(500) * 2 + thread;
            let seq = seq.fetch_add(1, Relaxed);
            if random.below(16) == 0 {
                device.discard(page * 4096, 4096).unwrap();
                writeln!(std::io::stderr(), "{page} 0").unwrap();
            } else {
                device.write_at(&content(page, seq), page * 4096).unwrap();
                writeln!(std::io::stderr(), "{page} {seq}").unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(1));
        // Codecs come and go meanwhile. There may be no room for another just now.
        scope.spawn(|| {
            for round in first.. {
                let _ = device.set_algorithm(&choice(round));
                let _ = device.jobs().train(&Training {
                    sample_pages: 64,
                    dictionary_bytes: 2048,
                    rule: |_, _| Ok("always".into()),
                    ..Training::default()
                });
            }
        });
        // And objects are moved.
        scope.spawn(|| {
            loop {
                let moved = device.jobs().compact(50_000).objects_moved;
                if moved > 0 {
                    writeln!(std::io::stderr(), "{MOVED} {moved}").unwrap();
                }
            }
        });
        work(0);
    });
}

/// One of many codecs, most of them with a dictionary.
fn choice(number: u32) -> Choice {
    let dictionary: Vec<u8> = (1..3u32)
        .flat_map(|page| content(page.into(), number * 35 + 1))
        .collect();
    match number % 4 {
        0 => Choice::new("lz4"),
        1 => Choice::new("zstd")
            .param("level", "1")
            .dictionary(dictionary),
        2 => Choice::new("zstd").param("level", "-3"),
        _ => Choice::new("lz4").dictionary(dictionary),
    }
}

/// kill -9 at random moments: every acknowledged write is there, and every page is of one write.
#[test]
fn killed_at_any_moment() {
    let _alone = alone();
    let file = memfd();
    drop(builder().build_in(reopen(&file)).unwrap());
    let mut acknowledged: HashMap<u64, u32> = HashMap::new();
    let (mut seq, mut moved) = (1, 0);
    for round in 0..12u64 {
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes", "--nocapture", "--quiet"])
            .env(IMAGE, path)
            .env("UZRAM_TEST_SEQ", seq.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (begun, begins) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let parse = |line: String| -> Option<(u64, u32)> {
                let (page, seq) = line.split_once(' ')?;
                let said = (page.parse().ok()?, seq.parse().ok()?);
                let _ = begun.send(());
                Some(said)
            };
            lines
                .map_while(Result::ok)
                .filter_map(parse)
                .collect::<Vec<_>>()
        });
        // A busy machine may take longer to start a process than the process is to live.
        let begun = begins.recv_timeout(Duration::from_secs(20));
        assert!(begun.is_ok(), "the child did nothing in round {round}");
        std::thread::sleep(Duration::from_millis(60 + round * 17 % 50));
        child.kill().unwrap();
        child.wait().unwrap();
        let (moves, said): (Vec<_>, Vec<_>) = reader
            .join()
            .unwrap()
            .into_iter()
            .partition(|(page, _)| *page == MOVED);
        moved += moves.iter().map(|(_, count)| count).sum::<u32>();
        assert!(!said.is_empty(), "the child wrote nothing in round {round}");
        seq = said.iter().map(|(_, seq)| *seq).max().unwrap() + 100;
        acknowledged.extend(said);

        let device = Device::builder(0).attach(reopen(&file)).unwrap();
        let mut stored = 0;
        for page in 0..1000 {
            let mut bytes = [0; 4096];
            device.read_at(&mut bytes, page * 4096).unwrap();
            let found =
                seq_of(page, &bytes).unwrap_or_else(|| panic!("page {page} is of no write"));
            let expected = acknowledged.get(&page).copied().unwrap_or(0);
            // The last write of each thread may have been done without being acknowledged.
            assert!(
                found >= expected || found == 0,
                "page {page}: {found}, not {expected}"
            );
            if found != expected {
                acknowledged.insert(page, found);
                stored += 1;
            }
        }
        assert!(
            stored <= 2,
            "{stored} pages differ from what was acknowledged"
        );
    }
    assert!(moved > 0, "no object was moved");
}
