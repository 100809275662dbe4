//! A cut against a copy of what the device held at that moment: by random sequences, beside threads that write, given up, and
//! after a death in the middle.
//!
//! `UZRAM_SNAPSHOT_SEEDS=N` runs that many seeds of the random sequences; a failure names its seed, and
//! `UZRAM_SNAPSHOT_SEED=S` runs that one.

mod common;
#[path = "common/cut.rs"]
mod cut;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{memfd, reopen};
use cut::{Decoders, walk};
use tempfile::TempDir;
use uzram::compress::Registry;
use uzram::{
    Choice, CutOptions, Device, Error, FRAME_PAGES, PAGE_SIZE, Recompress, SnapshotId, Training,
    Writeback, Zeroes,
};
use uzram_backing::{FileDisk, FileOptions};
use uzram_testkit::Random;

const PAGE: u64 = PAGE_SIZE as u64;

fn compare(expected: &[u8], found: &BTreeMap<u64, Vec<u8>>) {
    let zeros = vec![0; PAGE_SIZE];
    for (page, bytes) in expected.chunks(PAGE_SIZE).enumerate() {
        let got = found.get(&(page as u64)).unwrap_or(&zeros);
        assert!(got == bytes, "page {page} is not what it was at the cut");
    }
    assert!(found.keys().all(|page| page * PAGE < expected.len() as u64));
}

/// When nothing is stored any more there is nothing left: no object in memory, none on the backing.
fn nothing_leaks(device: &Device) {
    device.discard(0, device.size_bytes()).unwrap();
    let stats = device.stats();
    assert_eq!(stats.mem_used_total_bytes, 0, "{stats:?}");
    assert_eq!((stats.dup_pages, stats.backed_pages), (0, 0), "{stats:?}");
    if let Some(backing) = device.zram().backing() {
        assert_eq!(backing.stats.live_objects, 0);
    }
}

fn contents(random: &mut Random, kind: u64) -> [u8; PAGE_SIZE] {
    let seed = random.next();
    match kind {
        0 => [0; PAGE_SIZE],
        1 => uzram_testkit::data::same_filled(seed % 1000),
        // A word that takes an object.
        2 => uzram_testkit::data::same_filled(seed | 1 << 62 | 1),
        3 => uzram_testkit::data::noise(seed),
        4 => uzram_testkit::data::partly_noise(seed % 8, 3),
        n => uzram_testkit::data::partly_noise(seed, n),
    }
}

fn choice(number: u64) -> Choice {
    let text: Vec<u8> = (0..6000u64).map(|at| (at / 7 + number) as u8).collect();
    match number % 5 {
        0 => Choice::new("lz4"),
        1 => Choice::new("zstd").param("level", "-1"),
        2 => Choice::new("zstd").dictionary(text),
        3 => Choice::new("lz4hc"),
        _ => Choice::new("deflate"),
    }
}

/// A device and the bytes that it must hold.
struct Mirrored {
    device: Arc<Device>,
    bytes: Vec<u8>,
    pages: u64,
    /// Of its backing.
    _directory: Option<TempDir>,
}

impl Mirrored {
    fn new(device: Device) -> Mirrored {
        Mirrored {
            bytes: vec![0; device.size_bytes() as usize],
            pages: device.size_bytes() / PAGE,
            device: Arc::new(device),
            _directory: None,
        }
    }

    /// Any device, with a backing.
    fn any_device(random: &mut Random) -> Mirrored {
        let device = Device::builder(random.within(1, 700) * PAGE)
            .max_size_bytes(1 << 30)
            .streams(random.within(1, 3) as usize)
            .choose(choice(random.below(5)))
            .dedup(random.percent(40))
            .erase_on_free(random.percent(30))
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let disk = FileDisk::open(&path, FileOptions::default()).unwrap();
        let disk = Arc::new(disk);
        device.zram().attach_disk(&path, disk, 16 << 20).unwrap();
        Mirrored {
            _directory: Some(directory),
            ..Mirrored::new(device)
        }
    }

    fn is_what_it_must_hold(&self) {
        let mut now = vec![0; self.bytes.len()];
        self.device.read_at(&mut now, 0).unwrap();
        assert!(now == self.bytes, "the device itself");
    }

    fn write(&mut self, random: &mut Random) {
        let page = random.below(self.pages);
        let count = random.within(1, 24).min(self.pages - page);
        for page in page..page + count {
            let kind = random.below(12);
            let bytes = contents(random, kind);
            let (from, len) = match random.below(4) {
                0 => (random.below(4000), random.within(1, 96)),
                _ => (0, PAGE),
            };
            let at = page * PAGE + from;
            let bytes = &bytes[..len as usize];
            self.device.write_at(bytes, at).unwrap();
            self.bytes[at as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    fn clear(&mut self, random: &mut Random) {
        let page = random.below(self.pages);
        let count = random.within(1, self.pages - page);
        let (at, len) = (page * PAGE, count * PAGE);
        match random.below(3) {
            0 => self.device.discard(at, len).unwrap(),
            1 => self
                .device
                .write_zeroes(at, len, Zeroes::Deallocate)
                .unwrap(),
            _ => self.device.write_zeroes(at, len, Zeroes::Allocate).unwrap(),
        }
        self.bytes[at as usize..][..len as usize].fill(0);
    }

    fn resize(&mut self, random: &mut Random) {
        let pages = random.within(self.pages.div_ceil(2), self.pages * 2);
        if pages < self.pages {
            let len = (self.pages - pages) * PAGE;
            self.device.discard(pages * PAGE, len).unwrap();
        }
        self.device.resize(pages * PAGE).unwrap();
        self.bytes.resize((pages * PAGE) as usize, 0);
        self.pages = pages;
    }

    /// Work on the memory; during a cut most of it is refused.
    fn job(&mut self, random: &mut Random, during_cut: bool) {
        let zram = self.device.zram();
        let go_on = &mut |_| ControlFlow::Continue(());
        let done = match random.below(9) {
            0 => zram.recompress(&Recompress::default(), go_on).map(drop),
            1 => zram.writeback(&Writeback::default(), go_on).map(drop),
            2 => zram.promote(None, go_on).map(drop),
            3 => zram.compact_backing(4).map(drop),
            4 => self.device.set_algorithm(&choice(random.below(5))),
            5 => self.device.set_secondary(1, Some(&choice(random.below(5)))),
            6 => {
                let training = Training {
                    dictionary_bytes: 2048,
                    sample_pages: 64,
                    rule: |_, _| Ok("always".into()),
                    ..Training::default()
                };
                // Not every algorithm takes a dictionary.
                let _ = self.device.jobs().train(&training);
                return;
            }
            7 => self.device.set_dedup(random.percent(50)),
            _ => {
                self.device.jobs().compact(random.within(1, 300_000));
                return;
            }
        };
        match done {
            Ok(()) | Err(Error::NoSecondary { .. }) => {}
            Err(Error::Snapshot) if during_cut => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn any(&mut self, random: &mut Random, during_cut: bool) {
        match random.below(10) {
            0..5 => self.write(random),
            5..7 => self.clear(random),
            7 => self.resize(random),
            _ => self.job(random, during_cut),
        }
    }
}

fn sequence(seed: u64) {
    let mut random = Random::new(seed);
    let random = &mut random;
    let mut mirrored = Mirrored::any_device(random);
    let device = mirrored.device.clone();
    for _ in 0..random.within(1, 3) {
        for _ in 0..random.within(0, 30) {
            mirrored.any(random, false);
        }
        let expected = mirrored.bytes.clone();
        let mut cut = device.cut(&CutOptions::default()).unwrap();
        let second = device.cut(&CutOptions::default());
        assert_eq!(second.unwrap_err(), Error::Snapshot);
        assert_eq!(cut.page_count() * PAGE, expected.len() as u64);
        let mut decoders = Decoders::of(&cut, &Registry::builtin());
        let mut found = BTreeMap::new();
        let gives_up = random.percent(20);
        loop {
            for _ in 0..random.within(0, 6) {
                mirrored.any(random, true);
            }
            if gives_up && random.percent(30) {
                break;
            }
            let frames = random.within(1, 4) as usize;
            if !walk(&mut cut, &mut decoders, &mut found, frames).unwrap() {
                compare(&expected, &found);
                break;
            }
        }
        drop(cut);
        assert_eq!(device.cut_progress(), None);
        mirrored.is_what_it_must_hold();
    }
    nothing_leaks(&device);
}

#[test]
fn a_cut_is_what_was_there() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("UZRAM_SNAPSHOT_SEED") {
        return sequence(seed);
    }
    let count = number("UZRAM_SNAPSHOT_SEEDS").unwrap_or(20);
    new_seeds(count, sequence, |seed| {
        format!("UZRAM_SNAPSHOT_SEED={seed}")
    });
}

/// Runs so many seeds that no run had before. One that fails says by what it is repeated.
fn new_seeds(count: u64, run: fn(u64), by: fn(u64) -> String) {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH);
    let first = clock.map_or(1, |now| now.as_micros() as u64);
    for seed in first..first + count {
        let done = std::panic::catch_unwind(|| run(seed));
        assert!(done.is_ok(), "{} repeats it", by(seed));
    }
}

/// The pages that changed since the snapshot before, applied to what that held, are what there is now. Some snapshots fail,
/// and some processes die: then the next is since the same one as before.
fn chain(seed: u64) {
    let mut random = Random::new(seed);
    let random = &mut random;
    let pages = random.within(1, 700);
    let image = memfd();
    let builder = || {
        Device::builder(pages * PAGE)
            .max_size_bytes(1 << 30)
            .streams(2)
            .dedup(seed.is_multiple_of(3))
    };
    let mut mirrored = Mirrored::new(builder().build_in(reopen(&image)).unwrap());
    let mut before: Option<(SnapshotId, Vec<u8>)> = None;
    for number in 1..random.within(3, 9) as u8 {
        for _ in 0..random.within(0, 12) {
            match random.below(8) {
                0..5 => mirrored.write(random),
                5..7 => mirrored.clear(random),
                _ => mirrored.resize(random),
            }
        }
        if random.percent(25) {
            // As a death leaves it, or an end: nothing of the process is needed.
            let device = mirrored.device;
            drop(Arc::into_inner(device).unwrap());
            let device = Device::builder(0).streams(2).attach(reopen(&image));
            mirrored.device = Arc::new(device.unwrap());
        }
        let device = mirrored.device.clone();
        let mut options = CutOptions::new(None);
        options.track = true;
        options.since = before.as_ref().map(|(id, _)| *id);
        let mut cut = device.cut(&options).unwrap();
        let expected = mirrored.bytes.clone();
        let mut decoders = Decoders::of(&cut, &Registry::builtin());
        let mut found = BTreeMap::new();
        if before.is_some() {
            let mut changed = 0;
            loop {
                for _ in 0..random.below(3) {
                    mirrored.write(random);
                }
                // All of the frame, or only what changed.
                let all = random.percent(30);
                let needs = |_, bits: u64| {
                    changed += bits.count_ones();
                    Ok::<u64, Error>(if all { u64::MAX } else { bits })
                };
                let Some(frame) = cut.next_changed_frame(needs).unwrap() else {
                    break;
                };
                decoders.keep(&frame, &mut found);
            }
        } else {
            while walk(&mut cut, &mut decoders, &mut found, 1).unwrap() {
                mirrored.write(random);
            }
        }
        if random.percent(30) {
            // It failed.
            drop(cut);
            continue;
        }
        let mut now = before.take().map_or(Vec::new(), |(_, bytes)| bytes);
        now.resize(expected.len(), 0);
        for (page, bytes) in found {
            now[page as usize * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(&bytes);
        }
        assert!(now == expected, "snapshot {number}");
        cut.record(&[number; 16]);
        assert_eq!(device.tracked_since(), Some([number; 16]));
        before = Some(([number; 16], expected));
    }
    nothing_leaks(&mirrored.device);
}

#[test]
fn changes_make_of_the_snapshot_before_what_there_is() {
    new_seeds(40, chain, |seed| format!("chain({seed})"));
}

/// A basis and what changed while it was copied are what there is at the cut after it, and nothing is kept before that.
fn after_basis(seed: u64) {
    let mut random = Random::new(seed);
    let random = &mut random;
    let mut mirrored = Mirrored::any_device(random);
    let device = mirrored.device.clone();
    let id = [seed as u8 | 1; 16];
    for _ in 0..random.within(1, 3) {
        for _ in 0..random.within(0, 30) {
            mirrored.any(random, false);
        }
        let change = |mirrored: &mut Mirrored, random: &mut Random| match random.below(10) {
            0..5 => mirrored.write(random),
            5..7 => mirrored.clear(random),
            _ => mirrored.job(random, true),
        };
        let mut basis = device.basis().unwrap();
        assert_eq!(device.basis().unwrap_err(), Error::Snapshot);
        let refused = device.cut(&CutOptions::default()).unwrap_err();
        assert_eq!(refused, Error::Snapshot);
        let mut decoders = Decoders::of_codecs(basis.codecs(), &Registry::builtin());
        let mut found = BTreeMap::new();
        loop {
            for _ in 0..random.within(0, 3) {
                change(&mut mirrored, random);
            }
            let progress = device.cut_progress().unwrap();
            assert!(progress.is_basis && progress.kept_bytes == 0);
            let Some(frame) = basis.next_frame().unwrap() else {
                break;
            };
            decoders.keep(&frame, &mut found);
        }
        if random.percent(20) {
            drop(basis);
            assert_eq!(device.cut_progress(), None);
            continue;
        }
        if random.percent(10) {
            mirrored.resize(random);
            if mirrored.bytes.len() as u64 != basis.page_count() * PAGE {
                let refused = basis.cut(&CutOptions::default()).unwrap_err();
                assert!(
                    matches!(refused, Error::SnapshotGivenUp { .. }),
                    "{refused}"
                );
                assert_eq!(device.cut_progress(), None);
                continue;
            }
        }
        let mut options = CutOptions::default();
        options.track = random.percent(50);
        let mut cut = basis.cut(&options).unwrap();
        let expected = mirrored.bytes.clone();
        let mut decoders = Decoders::of(&cut, &Registry::builtin());
        loop {
            for _ in 0..random.within(0, 3) {
                change(&mut mirrored, random);
            }
            let all = random.percent(30);
            let needs = |_, bits: u64| Ok::<u64, Error>(if all { u64::MAX } else { bits });
            let Some(frame) = cut.next_changed_frame(needs).unwrap() else {
                break;
            };
            decoders.keep(&frame, &mut found);
        }
        compare(&expected, &found);
        match options.track {
            true => cut.record(&id),
            false => drop(cut),
        }
        assert_eq!(device.cut_progress(), None);
        mirrored.is_what_it_must_hold();
    }
    nothing_leaks(&device);
}

#[test]
fn a_basis_and_what_changed_are_what_was_there() {
    new_seeds(40, after_basis, |seed| format!("after_basis({seed})"));
}

/// With a basis less is kept: here nothing, where nobody writes after it.
#[test]
fn what_is_written_before_the_moment_is_not_kept() {
    let device = Device::builder(4 << 20).streams(1).build().unwrap();
    let write = |page: u64, seed: u64| {
        let bytes = uzram_testkit::data::noise(seed);
        device.write_at(&bytes, page * PAGE).unwrap();
    };
    for page in 0..1024 {
        write(page, page);
    }
    let options = CutOptions::new(Some(100 * PAGE));
    let mut cut = device.cut(&options).unwrap();
    for page in 0..512 {
        write(page, page + 1);
    }
    let given_up = cut.next_frame().unwrap_err();
    assert!(
        matches!(given_up, Error::SnapshotMemory { .. }),
        "{given_up}"
    );
    drop(cut);
    let mut basis = device.basis().unwrap();
    for page in 0..512 {
        write(page, page + 2);
    }
    while basis.next_frame().unwrap().is_some() {}
    let mut cut = basis.cut(&options).unwrap();
    // In frames that did not change nothing has to be kept.
    for page in 512..1024 {
        write(page, page + 2);
    }
    let mut frames = 0;
    while cut
        .next_changed_frame(|_, bits| Ok::<u64, Error>(bits))
        .unwrap()
        .is_some()
    {
        frames += 1;
    }
    assert_eq!(frames, 512 / FRAME_PAGES);
    cut.check().unwrap();
    let mut since = CutOptions::default();
    since.since = Some([1; 16]);
    drop(cut);
    let refused = device.basis().unwrap().cut(&since).unwrap_err();
    assert!(
        matches!(refused, Error::SnapshotUntracked | Error::Invalid { .. }),
        "{refused}"
    );
    assert_eq!(device.cut_progress(), None);
}

/// Changes are asked for since what they are known since, or refused in words that say what helps.
#[test]
fn changes_since_anything_else_are_refused() {
    let device = Device::builder(4 << 20).streams(1).build().unwrap();
    let since = |id: u8| {
        let mut options = CutOptions::new(None);
        options.since = Some([id; 16]);
        options
    };
    assert_eq!(device.tracked_since(), None);
    assert_eq!(device.cut(&since(1)).unwrap_err(), Error::SnapshotUntracked);
    let mut track = CutOptions::new(None);
    track.track = true;
    let cut = device.cut(&track).unwrap();
    drop(cut);
    // It was not recorded: there is none that changes are since.
    assert_eq!(device.tracked_since(), Some([0; 16]));
    assert_eq!(device.cut(&since(0)).unwrap_err(), Error::SnapshotUntracked);
    device.cut(&track).unwrap().record(&[1; 16]);
    let tracked = [1; 16];
    let other = device.cut(&since(2)).unwrap_err();
    assert_eq!(other, Error::SnapshotSince { tracked });
    assert!(other.to_string().contains("begins with 0101"), "{other}");
    // A plain one does not touch what is tracked.
    drop(device.cut(&CutOptions::default()).unwrap());
    device.write_at(&[1; 4096], 4096).unwrap();
    let mut cut = device.cut(&since(1)).unwrap();
    let only = |frame, bits| {
        assert_eq!((frame, bits), (0, 2));
        Ok::<u64, Error>(bits)
    };
    assert!(cut.next_changed_frame(only).unwrap().is_some());
    assert!(cut.next_changed_frame(only).unwrap().is_none());
}

/// Pages that are written and discarded together, and those of one thread.
const RUN: u64 = 8;
const RUNS: u64 = 24;
const THREADS: u64 = 3;

/// Contents that say which version of a page they are; of four versions one is no contents, but a discard.
fn version(page: u64, version: u64) -> [u8; PAGE_SIZE] {
    if version.is_multiple_of(4) {
        return [0; PAGE_SIZE];
    }
    let mut bytes = uzram_testkit::data::partly_noise(version % 4, version % 3 * 5);
    bytes[..8].copy_from_slice(&page.to_le_bytes());
    bytes[8..16].copy_from_slice(&version.to_le_bytes());
    bytes
}

fn version_of(page: u64, bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*bytes[8..].first_chunk()?);
    (version(page, number) == *bytes).then_some(number)
}

/// Threads write and discard runs of pages, each run in one request. Each cut has each run of one version, which was the last
/// when the cut was made. A version is never older than one that was acknowledged before.
#[test]
fn a_cut_is_one_moment_of_requests_in_flight() {
    let device = Device::builder(THREADS * RUNS * RUN * PAGE)
        .streams(2)
        .dedup(true)
        .build()
        .unwrap();
    let stop = AtomicBool::new(false);
    let runs = || (0..THREADS * RUNS).map(|_| AtomicU64::new(0)).collect();
    let (begun, done): (Vec<AtomicU64>, Vec<AtomicU64>) = (runs(), runs());
    let writer = |thread: u64| {
        let mut random = Random::new(thread);
        while !stop.load(Acquire) {
            let run = thread * RUNS + random.below(RUNS);
            let next = begun[run as usize].fetch_add(1, AcqRel) + 1;
            let first = run * RUN;
            let bytes: Vec<u8> = (first..first + RUN)
                .flat_map(|page| version(page, next))
                .collect();
            match next % 4 {
                0 => device.discard(first * PAGE, RUN * PAGE).unwrap(),
                _ => device.write_at(&bytes, first * PAGE).unwrap(),
            }
            done[run as usize].store(next, Release);
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let writer = &writer;
            scope.spawn(move || writer(thread));
        }
        let end = Instant::now() + Duration::from_secs(3);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut cuts = 0;
            while cuts < 20 || Instant::now() < end && cuts < 400 {
                let before: Vec<u64> = done.iter().map(|run| run.load(Acquire)).collect();
                let mut cut = device.cut(&CutOptions::default()).unwrap();
                let after: Vec<u64> = begun.iter().map(|run| run.load(Acquire)).collect();
                let mut decoders = Decoders::of(&cut, &Registry::builtin());
                let mut found = BTreeMap::new();
                while walk(&mut cut, &mut decoders, &mut found, 1).unwrap() {}
                cuts += 1;
                for run in 0..THREADS * RUNS {
                    let versions: Vec<Option<u64>> = (run * RUN..(run + 1) * RUN)
                        .map(|page| {
                            found
                                .get(&page)
                                .map_or(Some(0), |bytes| version_of(page, bytes))
                        })
                        .collect();
                    let first = versions[0].expect("a version of that page");
                    assert!(
                        versions.iter().all(|version| *version == Some(first)),
                        "run {run}: {versions:?}"
                    );
                    let (before, after) = (before[run as usize], after[run as usize]);
                    let may = |version: u64| match first {
                        0 => version.is_multiple_of(4),
                        first => version == first,
                    };
                    assert!(
                        (before..=after).any(may),
                        "run {run}: version {first}, not {before} to {after}"
                    );
                }
            }
            assert!(cuts >= 20);
        }));
        stop.store(true, Release);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    nothing_leaks(&device);
}

/// What is overwritten has a bound: beyond it the snapshot is given up, in words, and the device goes on.
#[test]
fn more_than_may_be_kept_gives_it_up() {
    let device = Device::builder(16 << 20).streams(2).build().unwrap();
    let mut random = Random::new(7);
    let noise = random.bytes(16 << 20);
    device.write_at(&noise, 0).unwrap();
    let options = CutOptions::new(Some(1 << 20));
    let mut cut = device.cut(&options).unwrap();
    assert!(cut.next_frame().unwrap().is_some());
    let other = random.bytes(4 << 20);
    device.write_at(&other, 8 << 20).unwrap();
    let progress = device.cut_progress().unwrap();
    assert!(progress.kept_bytes <= 1 << 20 && progress.kept_bytes > 900 << 10);
    let limit_bytes = 1 << 20;
    let given_up = Error::SnapshotMemory { limit_bytes };
    assert_eq!(cut.next_frame().unwrap_err(), given_up);
    assert_eq!(cut.check(), Err(given_up));
    drop(cut);
    let mut now = vec![0; 4 << 20];
    device.read_at(&mut now, 8 << 20).unwrap();
    assert!(now == other);
    // The walker's own progress makes room: as much again, a part at a time.
    let mut cut = device.cut(&options).unwrap();
    let mut frames = 0;
    while cut.next_frame().unwrap().is_some() {
        frames += 1;
        if frames < 48 {
            // 256 KiB that are captured next but one.
            let at = (frames + 2) * FRAME_PAGES as u64 * PAGE;
            device
                .write_at(&other[..FRAME_PAGES * PAGE_SIZE], at)
                .unwrap();
        }
    }
    assert_eq!(frames, 64);
    drop(cut);
    nothing_leaks(&device);
}

/// A write that meets the limit is not refused for what is kept: the snapshot gives way.
#[test]
fn a_write_at_the_limit_gives_it_up() {
    for all in [false, true] {
        let device = Device::builder(16 << 20).streams(1).build().unwrap();
        let mut random = Random::new(3);
        device.write_at(&random.bytes(4 << 20), 0).unwrap();
        let cut = device.cut(&CutOptions::default()).unwrap();
        match all {
            true => device
                .set_total_limit_bytes(device.stats().all_memory_bytes() + (1 << 20))
                .unwrap(),
            false => device.set_mem_limit_bytes(device.stats().mem_used_total_bytes + (1 << 20)),
        }
        for _ in 0..3 {
            device.write_at(&random.bytes(4 << 20), 0).unwrap();
        }
        let given_up = cut.check().unwrap_err();
        assert!(
            matches!(given_up, Error::SnapshotGivenUp { .. }),
            "{given_up}"
        );
        drop(cut);
        // Where nothing is kept it is in nobody's way, and a device that is full has a snapshot all the same.
        let mut cut = device.cut(&CutOptions::default()).unwrap();
        let full = device.write_at(&random.bytes(4 << 20), 8 << 20);
        assert!(matches!(full, Err(Error::NoSpace { .. })), "{full:?}");
        while cut.next_frame().unwrap().is_some() {}
        drop(cut);
        nothing_leaks(&device);
    }
}

/// The books of a cut are counted as they are touched, as part of all memory, and are gone with it.
#[test]
fn a_cuts_books_are_in_the_statistics_and_in_the_limit_on_all_memory() {
    let device = Device::builder(64 << 20).streams(2).build().unwrap();
    let pages = device.size_bytes() / PAGE;
    let write = |page: u64, seed: u64| {
        let bytes = uzram_testkit::data::partly_noise(seed, 6);
        device.write_at(&bytes, page * PAGE)
    };
    for page in 0..pages {
        write(page, page).unwrap();
    }
    let before = device.stats();
    assert_eq!(before.snapshot_bytes, 0);
    let mut cut = device.cut(&CutOptions::default()).unwrap();
    let bitmap = device.stats().snapshot_bytes;
    assert!((1..3 * PAGE).contains(&bitmap), "{bitmap}");
    // A page of books for each 512 pages, however many of them are overwritten.
    for page in [0, 1, 511, 512, pages - 1, 0] {
        write(page, 7).unwrap();
    }
    let stats = device.stats();
    assert_eq!(stats.snapshot_bytes, bitmap + 3 * PAGE);
    let grown = stats.metadata_bytes - before.metadata_bytes;
    assert_eq!(grown, stats.snapshot_bytes);
    // What the walk has passed takes none.
    while cut.next_frame().unwrap().is_some() {}
    write(1024, 8).unwrap();
    assert_eq!(device.stats().snapshot_bytes, bitmap + 3 * PAGE);
    drop(cut);
    let after = device.stats();
    assert_eq!(after.snapshot_bytes, 0);
    assert_eq!(after.metadata_bytes, before.metadata_bytes);

    // With room for what is there and half of the books the cut is given up, and no write fails.
    let room = 20 * PAGE;
    device
        .set_total_limit_bytes(after.all_memory_bytes() + room)
        .unwrap();
    let cut = device.cut(&CutOptions::default()).unwrap();
    for page in (0..pages).step_by(512) {
        write(page, page + 1).unwrap();
        assert!(device.stats().all_memory_bytes() <= after.all_memory_bytes() + room + 2 * PAGE);
    }
    assert!(cut.check().is_err());
    drop(cut);
    for page in 0..512 {
        write(page, page + 2).unwrap();
    }
}

/// The codecs are those of the cut, whatever the device does with theirs: here the last objects of one go, it is dropped, and
/// another takes its number.
#[test]
fn codecs_are_those_of_the_cut() {
    let device = Device::builder(4 << 20).choose(choice(2)).build().unwrap();
    let expected: Vec<u8> = (0..1024u64)
        .flat_map(|page| uzram_testkit::data::partly_noise(page, 5))
        .collect();
    device.write_at(&expected, 0).unwrap();
    let mut cut = device.cut(&CutOptions::default()).unwrap();
    let index = device.codecs()[0].index;
    device.set_algorithm(&choice(3)).unwrap();
    device.write_at(&vec![7; 4 << 20], 0).unwrap();
    assert_eq!(device.codecs().len(), 1, "the first one is dropped");
    device.set_secondary(1, Some(&choice(4))).unwrap();
    let taken = device
        .codecs()
        .into_iter()
        .find(|codec| codec.index == index);
    assert_eq!(taken.map(|codec| codec.algorithm), Some("deflate".into()));
    let mut decoders = Decoders::of(&cut, &Registry::builtin());
    let mut found = BTreeMap::new();
    while walk(&mut cut, &mut decoders, &mut found, 64).unwrap() {}
    compare(&expected, &found);
}

/// A process that dies in the middle leaves what it kept to nobody: who attaches has what the words name, and no more.
#[test]
fn a_death_in_the_middle_leaks_nothing() {
    let file = memfd();
    let mut random = Random::new(11);
    let (first, second) = (random.bytes(2 << 20), random.bytes(1 << 20));
    let written = |device: &Device| {
        device.write_at(&first, 0).unwrap();
        device.discard(0, 64 << 10).unwrap();
    };
    let overwritten = |device: &Device| {
        device.write_at(&second, 512 << 10).unwrap();
        device.discard(1 << 20, 256 << 10).unwrap();
    };
    let builder = || Device::builder(4 << 20).streams(1).dedup(true);
    let device = builder().build_in(reopen(&file)).unwrap();
    written(&device);
    let mut cut = device.cut(&CutOptions::default()).unwrap();
    assert!(cut.next_frame().unwrap().is_some());
    overwritten(&device);
    assert!(device.cut_progress().unwrap().kept_bytes > 1 << 20);
    // Another process may not have the image while this one has: a copy of it at this moment is what a death leaves.
    let copy = memfd();
    copy_image(&file, &copy);
    let attached = Device::builder(0).streams(1).attach(reopen(&copy)).unwrap();
    // The same without a cut, attached to as well: then both have only what the words name.
    let file = memfd();
    let never_cut = builder().build_in(reopen(&file)).unwrap();
    written(&never_cut);
    overwritten(&never_cut);
    drop(never_cut);
    let never_cut = Device::builder(0).streams(1).attach(reopen(&file)).unwrap();
    let (dead, alive) = (attached.stats(), never_cut.stats());
    assert_eq!(dead.mem_used_total_bytes, alive.mem_used_total_bytes);
    assert_eq!(dead.compr_data_size_bytes, alive.compr_data_size_bytes);
    let read = |device: &Device| {
        let mut bytes = vec![0; 4 << 20];
        device.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert!(read(&attached) == read(&never_cut));
    assert_eq!(attached.cut_progress(), None);
    attached.cut(&CutOptions::default()).unwrap();
    nothing_leaks(&attached);
    while cut.next_frame().unwrap().is_some() {}
}

fn copy_image(from: &std::os::fd::OwnedFd, to: &std::os::fd::OwnedFd) {
    use rustix::fs::SeekFrom;
    let len = rustix::fs::fstat(from).unwrap().st_size as u64;
    rustix::fs::ftruncate(to, len).unwrap();
    let mut at = 0;
    while let Ok(first) = rustix::fs::seek(from, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(from, SeekFrom::Hole(first)).unwrap();
        let mut bytes = vec![0; (end - first) as usize];
        rustix::io::pread(from, &mut bytes, first).unwrap();
        rustix::io::pwrite(to, &bytes, first).unwrap();
        at = end;
    }
}

#[test]
fn a_swap_device_has_no_snapshots() {
    let device = Device::builder(4 << 20)
        .reserve_bytes(1 << 20)
        .build()
        .unwrap();
    let refused = device.cut(&CutOptions::default()).unwrap_err();
    assert_eq!(refused, Error::SnapshotWithReserve);
}

/// Nothing changes from a frozen cut on: what the walk found is what the device still holds, and whoever wrote waits. Handed over,
/// everything that would change it fails, for good.
#[test]
fn nothing_changes_behind_a_frozen_cut() {
    const PAGES: u64 = 512;
    let device = Device::builder(PAGES * PAGE).streams(2).build().unwrap();
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let writer = |thread: u64| {
        let mut random = Random::new(thread);
        while !stop.load(Acquire) {
            let page = random.below(PAGES - 1) * PAGE;
            let bytes = contents(&mut random, 5);
            let changed = match random.below(4) {
                0 => device.write_at(&bytes[..100], page + 7),
                1 => device.discard(page, 2 * PAGE),
                2 => device.write_zeroes(page + 9, PAGE, Zeroes::Allocate),
                _ => device.write_at(&bytes, page),
            };
            match changed {
                Ok(()) => drop(done.fetch_add(1, AcqRel)),
                Err(Error::HandedOver) => return,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let mut frozen = CutOptions::default();
    frozen.freeze = true;
    let held = || {
        let mut bytes = vec![0; (PAGES * PAGE) as usize];
        device.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let writer = &writer;
            scope.spawn(move || writer(thread));
        }
        let moves = || {
            let (before, begin) = (done.load(Acquire), Instant::now());
            while done.load(Acquire) < before + 100 {
                assert!(
                    begin.elapsed() < Duration::from_secs(30),
                    "writes do not go on"
                );
                std::thread::yield_now();
            }
        };
        let rounds = || {
            for round in 0..30 {
                moves();
                let mut cut = device.cut(&frozen).unwrap();
                assert_eq!(device.resize(PAGES * PAGE / 2), Err(Error::Snapshot));
                let mut decoders = Decoders::of(&cut, &Registry::builtin());
                let mut found = BTreeMap::new();
                let at_first = held();
                while walk(&mut cut, &mut decoders, &mut found, 1).unwrap() {}
                assert!(held() == at_first, "round {round}: something changed");
                compare(&at_first, &found);
                if round < 29 {
                    drop(cut);
                    continue;
                }
                cut.hand_over();
                stop.store(true, Release);
                assert_eq!(device.write_at(&[1], 0), Err(Error::HandedOver));
                assert_eq!(device.discard(0, PAGES * PAGE), Err(Error::HandedOver));
                let zeroed = device.write_zeroes(0, PAGE, Zeroes::Allocate);
                assert_eq!(zeroed, Err(Error::HandedOver));
                assert!(held() == at_first, "something changed that was handed over");
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(rounds));
        stop.store(true, Release);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    assert_eq!(
        device.cut(&CutOptions::default()).err(),
        Some(Error::Snapshot)
    );
}

/// What was handed over before it was copied answers nothing, and its frames are there until it is taken back.
#[test]
fn a_device_that_is_handed_over_unread_has_its_frames_until_it_is_taken_back() {
    const PAGES: u64 = 1000;
    let device = Device::builder(PAGES * PAGE).build().unwrap();
    let mut random = Random::new(5);
    for page in (0..PAGES).filter(|page| page % 3 != 1) {
        let bytes = contents(&mut random, page % 8);
        device.write_at(&bytes, page * PAGE).unwrap();
    }
    let mut expected = vec![0; (PAGES * PAGE) as usize];
    device.read_at(&mut expected, 0).unwrap();
    assert_eq!(device.frozen_frames().err(), Some(Error::NotFrozen));
    let mut frozen = CutOptions::default();
    frozen.freeze = true;
    let cut = device.cut(&frozen).unwrap();
    let held: Vec<u64> = cut.held_pages().flatten().collect();
    let is_held = |page: &u64| page % 3 != 1;
    assert!(
        held.iter().all(is_held) && held.len() >= 600,
        "{}",
        held.len()
    );
    let zeros = vec![0; PAGE_SIZE];
    let mut decoders = Decoders::of(&cut, &Registry::builtin());
    let codecs = cut.codecs().to_vec();
    cut.hand_over_unread();
    assert!(device.is_handed_over());
    assert_eq!(device.read_at(&mut [0], 0), Err(Error::HandedOver));
    assert_eq!(device.write_at(&[1], 0), Err(Error::HandedOver));
    assert_eq!(device.discard(0, PAGE), Err(Error::HandedOver));
    assert_eq!(device.cut(&frozen).err(), Some(Error::Snapshot));
    // Twice, and in any order.
    for _ in 0..2 {
        let mut frames = device.frozen_frames().unwrap();
        assert_eq!(frames.codecs(), codecs);
        for number in (0..PAGES.div_ceil(FRAME_PAGES as u64) as u32).rev() {
            let frame = frames.frame(number).unwrap();
            let mut found = BTreeMap::new();
            decoders.keep(&frame, &mut found);
            let first = u64::from(number) * FRAME_PAGES as u64;
            for page in first..PAGES.min(first + FRAME_PAGES as u64) {
                let bytes = &expected[(page * PAGE) as usize..][..PAGE_SIZE];
                assert!(found.get(&page).unwrap_or(&zeros) == bytes, "page {page}");
            }
        }
        assert!(matches!(frames.frame(16), Err(Error::OutOfRange { .. })));
    }
    device.take_back();
    device.take_back();
    assert!(!device.is_handed_over());
    let mut now = vec![0; expected.len()];
    device.read_at(&mut now, 0).unwrap();
    assert!(now == expected);
    device.write_at(&[1; 100], 7).unwrap();
    drop(device.cut(&frozen).unwrap());
    nothing_leaks(&device);
}
