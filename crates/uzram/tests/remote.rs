//! Pages that are somewhere else: fetched once, when they are needed, and never over what is newer; with a source that refuses,
//! delays, and lies.

mod common;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{memfd, object, reopen};
use uzram::{
    Access, Choice, CutOptions, Device, Error, Fetchers, RemoteError, RemoteOptions, RemoteSource,
    StoredPage, Zeroes,
};
use uzram_testkit::data;

const PAGES: u64 = 640;
const PATIENCE: Duration = Duration::from_secs(60);

fn contents(page: u64) -> [u8; 4096] {
    match page % 8 {
        0 => [0; 4096],
        1 => data::same_filled(0x0101_0101_0101_0101 * (page % 200)),
        2 => data::same_filled(0x1234_5678_9ABC_DEF0 ^ page),
        3 => data::noise(page),
        _ => data::record_page(page),
    }
}

/// What a source does when it is asked.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Gives,
    IsAway,
    Lies,
}

/// The pages of a disk; how often each frame was asked for; and a gate that a fetch can be stopped at.
struct Store {
    pages: Vec<Option<Vec<u8>>>,
    asked: Mutex<HashMap<u32, u32>>,
    mood: Mutex<Mood>,
    failed: AtomicU64,
    /// Told of each fetch, which then waits for an answer.
    gate: Mutex<Option<(Sender<u32>, Receiver<()>)>>,
}

impl Store {
    fn new() -> Arc<Store> {
        let object = |page: u64| (page % 8 >= 4).then(|| object("zstd", &contents(page)));
        Arc::new(Store {
            pages: (0..PAGES).map(object).collect(),
            asked: Mutex::default(),
            mood: Mutex::new(Mood::Gives),
            failed: AtomicU64::new(0),
            gate: Mutex::default(),
        })
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> u32 {
        self.asked.lock().unwrap().values().sum()
    }

    /// Stops the next fetch: the frame arrives at the first, and goes on when the second is told or dropped.
    fn stop_next(&self) -> (Receiver<u32>, Sender<()>) {
        let ((arrived, arrival), (go_on, gone_on)) = (channel(), channel());
        *self.gate.lock().unwrap() = Some((arrived, gone_on));
        (arrival, go_on)
    }
}

impl RemoteSource for Store {
    fn fetch(
        &self,
        frames: &[u32],
        page: &mut dyn FnMut(u64, StoredPage<'_>),
    ) -> Result<(), RemoteError> {
        for frame in frames {
            *self.asked.lock().unwrap().entry(*frame).or_default() += 1;
        }
        let gate = self.gate.lock().unwrap().take();
        if let Some((arrived, gone_on)) = gate {
            let _ = arrived.send(frames[0]);
            let _ = gone_on.recv();
        }
        let refused = |message: &str, passes| {
            self.failed.fetch_add(1, Relaxed);
            let message = message.into();
            Err(RemoteError { message, passes })
        };
        match *self.mood.lock().unwrap() {
            Mood::Gives => {}
            Mood::IsAway => return refused("the line is dead", true),
            Mood::Lies => return refused("its checksum is wrong", false),
        }
        for frame in frames {
            let first = u64::from(*frame) * 64;
            for number in first..(first + 64).min(PAGES) {
                let word = u64::from_ne_bytes(*contents(number).first_chunk().unwrap());
                let whole = contents(number);
                let stored = match number % 8 {
                    0 => StoredPage::Empty,
                    1 | 2 => StoredPage::Same(word),
                    3 => StoredPage::Raw(&whole),
                    _ => StoredPage::Object {
                        codec: 5,
                        bytes: self.pages[number as usize].as_deref().unwrap(),
                    },
                };
                page(number, stored);
            }
        }
        Ok(())
    }

    fn codec(&self, number: u8) -> Result<Choice, RemoteError> {
        assert_eq!(number, 5);
        Ok(Choice::new("zstd"))
    }

    fn name(&self) -> String {
        "a store".into()
    }
}

fn options(timeout: Duration) -> RemoteOptions {
    let mut options = RemoteOptions::default();
    options.timeout = timeout;
    options
}

fn make(device: &mut Device) {
    let mut install = device.install();
    install.codec(&Choice::new("zstd")).unwrap();
    install.remote(0..PAGES).unwrap();
}

fn clone_of(store: &Arc<Store>, timeout: Duration) -> (Arc<Device>, Fetchers) {
    let mut device = Device::builder(PAGES * 4096).lazy(true).build().unwrap();
    make(&mut device);
    device.set_source(store.clone(), options(timeout));
    let device = Arc::new(device);
    let fetchers = Fetchers::start(&device).unwrap();
    (device, fetchers)
}

fn read(device: &Device, page: u64) -> Result<[u8; 4096], Error> {
    let mut bytes = [0; 4096];
    device.read_at(&mut bytes, page * 4096).map(|()| bytes)
}

#[track_caller]
fn check(device: &Device, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        let found = read(device, page).unwrap();
        assert!(found == contents(page), "page {page}");
    }
}

#[test]
fn what_is_read_is_fetched_with_its_frame_and_nothing_else() {
    let store = Store::new();
    let (device, _fetchers) = clone_of(&store, PATIENCE);
    assert_eq!((device.remote_pages(), store.asked()), (PAGES, 0));
    assert_eq!(device.stats().remote_pages, PAGES);
    check(&device, [70]);
    assert_eq!((device.remote_pages(), store.asked()), (PAGES - 64, 1));
    check(&device, 64..128);
    assert_eq!(store.asked(), 1);
    // Over the border of two frames.
    let mut bytes = [0; 8192];
    device.read_at(&mut bytes, 191 * 4096 + 100).unwrap();
    assert_eq!(bytes[..3996], contents(191)[100..]);
    assert_eq!(store.asked(), 3);
    check(&device, 0..PAGES);
    assert_eq!((device.remote_pages(), store.asked()), (0, 10));
    let stats = device.stats();
    assert_eq!((stats.fetched_pages, stats.failed_fetches), (PAGES, 0));
    assert!(!device.must_fetch(Access::Read, 0, PAGES * 4096));
    // Now a device as any other.
    device.write_at(&data::noise(1), 4096).unwrap();
    assert!(read(&device, 1).unwrap() == data::noise(1));
    drop(device.cut(&CutOptions::new(None)).unwrap());
}

#[test]
fn a_frame_is_fetched_once_however_many_wait_for_it() {
    let store = Store::new();
    let (device, _fetchers) = clone_of(&store, PATIENCE);
    let (arrival, go_on) = store.stop_next();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let device = &device;
            scope.spawn(move || check(device, [64 + thread * 3]));
        }
        assert_eq!(arrival.recv(), Ok(1));
        // Others go on meanwhile: what is here, what is elsewhere, and what is written.
        check(&device, [0, 400]);
        device.write_at(&data::noise(7), 639 * 4096).unwrap();
        assert!(device.must_fetch(Access::Read, 70 * 4096, 4096));
        drop(go_on);
    });
    assert_eq!(store.asked.lock().unwrap()[&1], 1);
    assert_eq!(store.asked(), 3);
}

#[test]
fn what_is_written_or_discarded_is_not_fetched_and_part_of_a_page_is() {
    let store = Store::new();
    let (device, _fetchers) = clone_of(&store, PATIENCE);
    device.write_at(&[9; 8192], 64 * 4096).unwrap();
    device.discard(66 * 4096, 2 * 4096).unwrap();
    device
        .write_zeroes(68 * 4096, 4096, Zeroes::Allocate)
        .unwrap();
    assert_eq!(store.asked(), 0);
    assert!(read(&device, 64).unwrap() == [9; 4096] && read(&device, 66).unwrap() == [0; 4096]);
    assert_eq!((store.asked(), device.remote_pages()), (0, PAGES - 5));
    assert!(!device.must_fetch(Access::Write, 70 * 4096, 3 * 4096));
    assert!(!device.must_fetch(Access::Write, 64 * 4096 + 5, 8000));
    for (offset, len) in [
        (70 * 4096 + 1, 4095),
        (70 * 4096, 4095),
        (71 * 4096 - 1, 8000),
    ] {
        assert!(
            device.must_fetch(Access::Write, offset, len),
            "{offset} {len}"
        );
    }
    assert!(!device.must_fetch(Access::Read, 70 * 4096, 0));
    assert!(!device.must_fetch(Access::Read, 70 * 4096, u64::MAX));
    device.write_at(b"patched", 71 * 4096 + 10).unwrap();
    assert_eq!(store.asked(), 1);
    let mut expected = contents(71);
    expected[10..17].copy_from_slice(b"patched");
    assert!(read(&device, 71).unwrap() == expected);
    // The frame came with it, and what was written before stays.
    assert!(read(&device, 65).unwrap() == [9; 4096]);
    for page in 66..69 {
        assert!(read(&device, page).unwrap() == [0; 4096], "page {page}");
    }
    check(&device, (69..71).chain(72..128));
    device.reset();
    assert_eq!((device.remote_pages(), store.asked()), (0, 1));
    assert!(read(&device, 300).unwrap() == [0; 4096]);
}

#[test]
fn a_page_that_comes_never_replaces_what_is_newer() {
    let store = Store::new();
    let (device, _fetchers) = clone_of(&store, PATIENCE);
    let (arrival, go_on) = store.stop_next();
    let reader = {
        let device = device.clone();
        std::thread::spawn(move || read(&device, 100))
    };
    assert_eq!(arrival.recv(), Ok(1));
    for page in 64..96 {
        match page % 4 {
            0 => device.discard(page * 4096, 4096).unwrap(),
            1 => device.write_at(&[7; 4096], page * 4096).unwrap(),
            _ => device
                .write_at(&data::noise(page + 9), page * 4096)
                .unwrap(),
        }
    }
    drop(go_on);
    assert!(reader.join().unwrap().unwrap() == contents(100));
    for page in 64..96 {
        let expected = match page % 4 {
            0 => [0; 4096],
            1 => [7; 4096],
            _ => data::noise(page + 9),
        };
        assert!(read(&device, page).unwrap() == expected, "page {page}");
    }
    check(&device, 96..128);
}

#[test]
fn a_source_that_is_away_fails_what_waits_and_works_when_it_is_back() {
    let store = Store::new();
    let (device, _fetchers) = clone_of(&store, Duration::from_millis(300));
    check(&device, [3]);
    store.set(Mood::IsAway);
    let begin = Instant::now();
    let error = read(&device, 70).unwrap_err();
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(error.errno(), 5);
    assert!(error.to_string().contains("the line is dead"), "{error}");
    assert!(matches!(error, Error::Remote { page: 70, .. }), "{error:?}");
    assert!(device.write_at(&[1; 5], 70 * 4096).is_err());
    assert!(
        device
            .jobs()
            .hydrate(&mut |_| std::ops::ControlFlow::Continue(()))
            .is_err()
    );
    // What needs nothing of it goes on.
    check(&device, 0..64);
    device.write_at(&[1; 4096], 70 * 4096).unwrap();
    assert!(read(&device, 70).unwrap() == [1; 4096]);
    assert!(device.stats().failed_fetches > 0 && device.stats().failed_reads > 0);
    store.set(Mood::Gives);
    check(&device, (64..70).chain(71..PAGES));
}

#[test]
fn it_comes_back_while_a_request_waits() {
    let store = Store::new();
    let (device, _fetchers) = clone_of(&store, PATIENCE);
    store.set(Mood::IsAway);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| read(&device, 70));
        while store.failed.load(Relaxed) < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        store.set(Mood::Gives);
        assert!(waits.join().unwrap().unwrap() == contents(70));
    });
}

#[test]
fn damage_is_no_page_and_is_not_waited_for() {
    let store = Store::new();
    let (device, _fetchers) = clone_of(&store, PATIENCE);
    store.set(Mood::Lies);
    let error = read(&device, 70).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
    assert_eq!((store.asked(), device.remote_pages()), (3, PAGES));
    store.set(Mood::Gives);
    check(&device, [70]);
}

#[test]
fn without_anybody_who_fetches_it_fails_in_time() {
    let mut device = Device::builder(PAGES * 4096).lazy(true).build().unwrap();
    make(&mut device);
    device.set_source(Store::new(), options(Duration::from_millis(100)));
    assert!(matches!(read(&device, 1), Err(Error::Remote { .. })));
    let mut other = Device::builder(PAGES * 4096).build().unwrap();
    let refused = other.install().remote(0..1);
    assert_eq!(refused, Err(Error::NotLazy));
    let swap = Device::builder(1 << 20).reserve_bytes(1 << 20).lazy(true);
    assert_eq!(swap.build().err(), Some(Error::RemoteWithReserve));
}

#[test]
fn hydration_brings_the_rest_and_stands_back_for_requests() {
    let store = Store::new();
    let (device, _fetchers) = clone_of(&store, PATIENCE);
    check(&device, [200]);
    device.write_at(&[5; 4096], 300 * 4096).unwrap();
    let refused = device.cut(&CutOptions::new(None)).map(drop);
    assert_eq!(refused, Err(Error::RemotePages { pages: PAGES - 65 }));
    let refused = device.basis().map(drop);
    assert_eq!(refused, Err(Error::RemotePages { pages: PAGES - 65 }));
    // A request waits: nothing else is fetched.
    let (arrival, go_on) = store.stop_next();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| check(&device, [0]));
        assert_eq!(arrival.recv(), Ok(0));
        let before = store.asked();
        let mut looks = 0;
        let report = device.jobs().hydrate(&mut |_| {
            looks += 1;
            match looks {
                3 => std::ops::ControlFlow::Break(()),
                _ => std::ops::ControlFlow::Continue(()),
            }
        });
        assert_eq!((report.unwrap().pages, store.asked()), (0, before));
        drop(go_on);
        waits.join().unwrap();
    });
    let mut told = 0;
    let report = device.jobs().hydrate(&mut |pages| {
        told += pages;
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!(report.unwrap().left, 0);
    assert!(told > 0);
    assert!(
        store
            .asked
            .lock()
            .unwrap()
            .values()
            .all(|times| *times == 1)
    );
    assert_eq!(store.asked(), 10);
    check(&device, (0..300).chain(301..PAGES));
    assert!(read(&device, 300).unwrap() == [5; 4096]);
    let again = device
        .jobs()
        .hydrate(&mut |_| std::ops::ControlFlow::Continue(()));
    assert_eq!((again.unwrap().pages, store.asked()), (0, 10));
}

#[test]
fn an_image_keeps_what_is_remote() {
    let image = memfd();
    let store = Store::new();
    let builder = || Device::builder(PAGES * 4096).lazy(true);
    let mut device = builder().build_in(reopen(&image)).unwrap();
    make(&mut device);
    device.set_source(store.clone(), options(PATIENCE));
    let device = Arc::new(device);
    let fetchers = Fetchers::start(&device).unwrap();
    check(&device, [70]);
    device.write_at(&[5; 4096], 300 * 4096).unwrap();
    // The threads that fetch have it, too.
    drop(fetchers);
    let mut device = Some(device);
    while let Some(held) = device.take() {
        device = Arc::try_unwrap(held).err();
        std::thread::sleep(Duration::from_millis(1));
    }
    let device = Device::builder(0).attach(reopen(&image)).unwrap();
    assert_eq!(device.remote_pages(), PAGES - 65);
    check(&device, 64..128);
    assert!(device.must_fetch(Access::Read, 0, 1));
    // Without objects yet, the codec is there for those that come.
    assert!(
        device
            .codecs()
            .iter()
            .any(|codec| codec.algorithm == "zstd")
    );
    device.set_source(store.clone(), options(PATIENCE));
    let device = Arc::new(device);
    let _fetchers = Fetchers::start(&device).unwrap();
    check(&device, (0..300).chain(301..PAGES));
    assert!(read(&device, 300).unwrap() == [5; 4096]);
    assert_eq!(store.asked.lock().unwrap()[&1], 1);
}

#[test]
fn jobs_leave_alone_what_is_remote() {
    let store = Store::new();
    let (device, _fetchers) = clone_of(&store, PATIENCE);
    device
        .set_secondary(1, Some(&Choice::new("zstd").param("level", "9")))
        .unwrap();
    check(&device, 64..128);
    device.zram().mark_idle(None).unwrap();
    let pace = &mut |_| std::ops::ControlFlow::Continue(());
    device
        .zram()
        .recompress(&uzram::Recompress::default(), pace)
        .unwrap();
    device.jobs().compact(u64::MAX);
    let _ = device.jobs().train(&device.jobs().training_for(0));
    assert_eq!((store.asked(), device.remote_pages()), (1, PAGES - 64));
    // Shrinking would lose them.
    assert!(matches!(device.resize(4096), Err(Error::TailInUse { .. })));
    device.resize(2 * PAGES * 4096).unwrap();
    assert!(read(&device, PAGES).unwrap() == [0; 4096]);
    assert_eq!(device.zram().slots(0).count(), 64 - 8);
    check(&device, 0..PAGES);
}

#[test]
fn no_room_is_an_error_and_what_is_here_stays() {
    let store = Store::new();
    let builder = Device::builder(PAGES * 4096).lazy(true);
    let mut device = builder.mem_limit_bytes(256 << 10).build().unwrap();
    make(&mut device);
    device.set_source(store.clone(), options(PATIENCE));
    let device = Arc::new(device);
    let _fetchers = Fetchers::start(&device).unwrap();
    let results: Vec<_> = (0..PAGES).map(|page| read(&device, page)).collect();
    assert!(
        results
            .iter()
            .any(|result| matches!(result, Err(Error::NoSpace { .. })))
    );
    for (page, result) in (0..).zip(&results) {
        if let Ok(found) = result {
            assert!(*found == contents(page), "page {page}");
        }
    }
    device.set_mem_limit_bytes(0);
    check(&device, 0..PAGES);
}

/// Readers, writers, discards and a hydration at once, each page with a version of its own: a read yields the source's or the
/// last one that was written.
#[test]
fn everything_at_once() {
    for round in 0..20 {
        let store = Store::new();
        let (device, _fetchers) = clone_of(&store, PATIENCE);
        let device = &device;
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                scope.spawn(move || {
                    let mut random = uzram_testkit::Random::new(round * 10 + thread);
                    let mut written: HashMap<u64, [u8; 4096]> = HashMap::new();
                    for step in 0..300 {
                        // Pages of its own, beside those of others.
                        let page = random.below(PAGES / 4) * 4 + thread;
                        match random.below(5) {
                            0 => {
                                let new = data::noise(round * 1000 + step);
                                device.write_at(&new, page * 4096).unwrap();
                                written.insert(page, new);
                            }
                            1 => {
                                device.discard(page * 4096, 4096).unwrap();
                                written.insert(page, [0; 4096]);
                            }
                            2 => {
                                let mut new = *written.get(&page).unwrap_or(&contents(page));
                                new[100..200].fill(step as u8);
                                device.write_at(&new[100..200], page * 4096 + 100).unwrap();
                                written.insert(page, new);
                            }
                            _ => {
                                let found = read(device, page).unwrap();
                                let expected = written.get(&page);
                                let expected = expected.copied().unwrap_or(contents(page));
                                assert!(found == expected, "page {page}");
                            }
                        }
                    }
                    for page in (0..PAGES / 4).map(|page| page * 4 + thread) {
                        let found = read(device, page).unwrap();
                        let expected = written.get(&page).copied().unwrap_or(contents(page));
                        assert!(found == expected, "page {page}");
                    }
                });
            }
            if round % 2 == 0 {
                scope.spawn(move || {
                    let pace = &mut |_| std::ops::ControlFlow::Continue(());
                    device.jobs().hydrate(pace).unwrap();
                });
            }
        });
        assert_eq!(device.remote_pages(), 0);
        assert!(
            store
                .asked
                .lock()
                .unwrap()
                .values()
                .all(|times| *times == 1)
        );
    }
}
