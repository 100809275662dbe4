//! A backing that is far away: what waits for it holds up nothing else, and whatever goes on at once, pages hold what was written.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::{memfd, reopen};
use uzram::{Access, Choice, Device, DiskOpener, Ended, Error, Writeback, WritebackReport};
use uzram_backing::{Disk, SegmentStore, StoreDisk};
use uzram_testkit::Random;
use uzram_testkit::data::partly_noise;

const SIZE: u64 = 32 << 20;
const PAGES: u64 = SIZE / 4096;
const STORE: u64 = 256 << 20;
const TIMEOUT: Duration = Duration::from_secs(5);

/// A store in memory, which can be made to stand still, to be slow, and to fail now and then.
#[derive(Default)]
struct Far {
    objects: Mutex<BTreeMap<u64, Vec<u8>>>,
    stands: Mutex<bool>,
    goes_on: Condvar,
    moody: AtomicBool,
    calls: AtomicU64,
}

impl Far {
    fn stand(&self, stands: bool) {
        *self.stands.lock().unwrap() = stands;
        self.goes_on.notify_all();
    }

    fn call(&self) -> io::Result<()> {
        let stands = self.stands.lock().unwrap();
        drop(self.goes_on.wait_while(stands, |stands| *stands).unwrap());
        let call = self.calls.fetch_add(1, SeqCst);
        if self.moody.load(SeqCst) {
            std::thread::sleep(Duration::from_micros(call * 7919 % 1500));
            if call.is_multiple_of(11) {
                return Err(io::Error::other("no store answers"));
            }
        }
        Ok(())
    }
}

impl SegmentStore for Far {
    fn put(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        self.call()?;
        let before = self.objects.lock().unwrap().insert(number, bytes.into());
        assert!(before.is_none());
        Ok(())
    }

    fn get(&self, number: u64, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.call()?;
        let objects = self.objects.lock().unwrap();
        let object = objects.get(&number).ok_or(io::ErrorKind::NotFound)?;
        let piece = object.get(range.start as usize..range.end as usize);
        Ok(piece.ok_or(io::ErrorKind::UnexpectedEof)?.into())
    }

    fn delete(&self, number: u64) -> io::Result<()> {
        self.call()?;
        self.objects.lock().unwrap().remove(&number);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        self.call()?;
        Ok(self.objects.lock().unwrap().keys().copied().collect())
    }

    fn retire(&self) -> Option<String> {
        self.objects.lock().unwrap().clear();
        None
    }

    fn describe(&self) -> String {
        "far".into()
    }
}

/// The store of a device, and the map of its objects.
struct Place(Arc<Far>, File);

impl Place {
    fn attach(device: &Device) -> Place {
        let place = Place(Arc::default(), tempfile::tempfile().unwrap());
        let map = place.1.try_clone().unwrap();
        let disk = StoreDisk::create(place.0.clone(), map, [3; 16], TIMEOUT).unwrap();
        let path = Path::new("far/away");
        let zram = device.zram();
        zram.attach_disk(path, Arc::new(disk), STORE).unwrap();
        place
    }
}

impl DiskOpener for Place {
    fn open(&self, path: &Path) -> Option<io::Result<Arc<dyn Disk>>> {
        assert_eq!(path, Path::new("far/away"));
        let map = self.1.try_clone().unwrap();
        Some(StoreDisk::open(self.0.clone(), map).map(|disk| Arc::new(disk) as Arc<dyn Disk>))
    }
}

fn page(number: u64) -> [u8; 4096] {
    partly_noise(number << 20 ^ 5, number % 9)
}

fn fill(device: &Device, pages: Range<u64>) {
    pages.for_each(|number| device.write_at(&page(number), number * 4096).unwrap());
}

fn check(device: &Device, pages: Range<u64>) {
    let mut back = [0; 4096];
    for number in pages {
        device.read_at(&mut back, number * 4096).unwrap();
        assert!(back == page(number), "page {number}");
    }
}

fn write_back(device: &Device, pages: Range<u64>) -> WritebackReport {
    let what = Writeback {
        pages: vec![pages],
        ..Writeback::default()
    };
    let zram = device.zram();
    zram.writeback(&what, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

/// zstd: a reader needs a context, of which each CPU has one.
fn device() -> Device {
    Device::builder(SIZE)
        .choose(Choice::new("zstd"))
        .build()
        .unwrap()
}

#[test]
fn what_waits_holds_up_nothing_else() {
    let device = device();
    let place = Place::attach(&device);
    fill(&device, 0..2000);
    let report = write_back(&device, 0..1000);
    assert_eq!((report.written, report.ended), (1000, None));
    assert!(device.may_wait() && device.must_fetch(Access::Read, 0, 4096));
    assert!(!device.must_fetch(Access::Read, 1000 * 4096, 4096));
    assert!(
        !device.must_fetch(Access::Write, 0, 4096),
        "all of it is replaced"
    );
    assert!(device.must_fetch(Access::Write, 5 * 4096, 4096 + 512));
    place.0.stand(true);
    let waiting = || device.zram().backing().unwrap().store.unwrap().waiting;
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    std::thread::scope(|scope| {
        // More than there are streams and contexts, of each kind.
        let readers: Vec<_> = (0..2 * cpus + 4)
            .map(|number| {
                scope.spawn({
                    let device = &device;
                    move || check(device, number * 7..number * 7 + 1)
                })
            })
            .collect();
        let writers: Vec<_> = (0..2 * cpus + 4)
            .map(|number| {
                scope.spawn({
                    let device = &device;
                    move || device.write_at(&[9; 512], (500 + number) * 4096).unwrap()
                })
            })
            .collect();
        let begin = Instant::now();
        while waiting() < 4 * cpus + 8 {
            assert!(begin.elapsed() < TIMEOUT / 2, "{} wait", waiting());
            std::thread::yield_now();
        }
        let begin = Instant::now();
        check(&device, 1000..2000);
        fill(&device, 1000..2000);
        (1000..1100).for_each(|number| device.write_at(&[7; 100], number * 4096 + 8).unwrap());
        device.discard(1100 * 4096, 100 * 4096).unwrap();
        fill(&device, 100..200);
        check(&device, 100..200);
        let took = begin.elapsed();
        assert!(took < TIMEOUT / 2, "{took:?}");
        assert_eq!(waiting(), 4 * cpus + 8);
        place.0.stand(false);
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
    });
    let mut back = [0; 4096];
    device.read_at(&mut back, 500 * 4096).unwrap();
    assert!(back[..512] == [9; 512] && back[512..] == page(500)[512..]);
}

#[test]
fn a_store_that_is_away_fails_what_needs_it_and_loses_nothing() {
    let device = device();
    let place = Place(Arc::default(), tempfile::tempfile().unwrap());
    let map = place.1.try_clone().unwrap();
    let timeout = Duration::from_millis(300);
    let disk = StoreDisk::create(place.0.clone(), map, [3; 16], timeout).unwrap();
    let zram = device.zram();
    zram.attach_disk(Path::new("far/away"), Arc::new(disk), STORE)
        .unwrap();
    fill(&device, 0..500);
    write_back(&device, 0..100);
    place.0.stand(true);
    let error = device.read_at(&mut [0; 4096], 0).unwrap_err();
    assert!(
        matches!(error, Error::BackingRead { page: 0, .. }),
        "{error}"
    );
    assert_eq!(error.errno(), 5);
    assert!(device.write_at(&[1; 10], 0).is_err());
    // Nothing of it was written, and what is to go there stays here.
    let report = write_back(&device, 100..500);
    assert_eq!((report.written, report.ended), (0, Some(Ended::Failing)));
    check(&device, 100..500);
    let begin = Instant::now();
    let error = zram.detach_backing().unwrap_err();
    assert!(
        matches!(error, Error::PagesLeft { pages: 100, .. }),
        "{error}"
    );
    assert!(
        begin.elapsed() < Duration::from_secs(8),
        "{:?}",
        begin.elapsed()
    );
    place.0.stand(false);
    check(&device, 0..500);
    write_back(&device, 0..500);
    check(&device, 0..500);
    let report = zram.detach_backing().unwrap();
    assert_eq!((report.pages, &*report.left), (500, ""));
    assert!(place.0.objects.lock().unwrap().is_empty() && !device.may_wait());
    check(&device, 0..500);
}

#[test]
fn another_process_needs_nothing_of_the_store() {
    let image = memfd();
    let device = Device::builder(SIZE).build_in(reopen(&image)).unwrap();
    let place = Arc::new(Place::attach(&device));
    fill(&device, 0..1500);
    write_back(&device, 0..1000);
    // Some of them twice: their first objects are of no use.
    fill(&device, 0..300);
    write_back(&device, 0..300);
    place.0.stand(true);
    drop(device);
    let builder = Device::builder(0).disk_opener(place.clone());
    let device = builder.attach(reopen(&image)).unwrap();
    assert!(device.may_wait());
    assert_eq!(device.zram().backing().unwrap().path, Path::new("far/away"));
    check(&device, 1000..1500);
    place.0.stand(false);
    check(&device, 0..1500);
    device.discard(0, SIZE).unwrap();
    let begin = Instant::now();
    while !place.0.objects.lock().unwrap().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Everything at once, with a store that is slow and fails now and then. Each writer has pages of its own, whose contents it
/// knows; readers see of each page one of its contents whole.
#[test]
fn pages_hold_what_was_written_whatever_goes_on() {
    let device = device();
    let place = Place::attach(&device);
    place.0.moody.store(true, SeqCst);
    let end = Instant::now() + Duration::from_secs(6);
    let is_over = || Instant::now() >= end;
    const WRITERS: u64 = 3;
    std::thread::scope(|scope| {
        for own in 0..WRITERS {
            let (device, is_over) = (&device, &is_over);
            scope.spawn(move || {
                let mut random = Random::new(own);
                let mut known: BTreeMap<u64, [u8; 4096]> = BTreeMap::new();
                let mine = |random: &mut Random| random.below(PAGES / WRITERS / 4) * WRITERS + own;
                while !is_over() {
                    let number = mine(&mut random);
                    let page = known.entry(number).or_insert([0; 4096]);
                    match random.below(8) {
                        0 => {
                            device.discard(number * 4096, 4096).unwrap();
                            *page = [0; 4096];
                        }
                        1..3 => {
                            let at = random.below(4000) as usize;
                            let word = random.below(250) as u8 + 1;
                            let offset = number * 4096 + at as u64;
                            device.write_at(&[word; 96], offset).unwrap();
                            page[at..at + 96].fill(word);
                        }
                        3..5 => {
                            *page = partly_noise(random.below(1 << 40), random.below(9));
                            device.write_at(page, number * 4096).unwrap();
                        }
                        _ => {
                            let mut back = [0; 4096];
                            device.read_at(&mut back, number * 4096).unwrap();
                            assert!(back == *page, "page {number}");
                        }
                    }
                }
                for (number, page) in known {
                    let mut back = [0; 4096];
                    device.read_at(&mut back, number * 4096).unwrap();
                    assert!(back == page, "page {number} at the end");
                }
            });
        }
        let (device, is_over) = (&device, &is_over);
        scope.spawn(move || {
            let mut random = Random::new(77);
            let mut buffer = vec![0; 256 << 10];
            while !is_over() {
                let offset = random.below(SIZE / 4 - buffer.len() as u64);
                device.read_at(&mut buffer, offset).unwrap();
            }
        });
        scope.spawn(move || {
            let mut random = Random::new(78);
            while !is_over() {
                let first = random.below(PAGES / 4);
                write_back(device, first..first + random.below(1500));
                let zram = device.zram();
                match random.below(4) {
                    0 => drop(
                        zram.promote(Some(first..first + 200), &mut |_| ControlFlow::Continue(())),
                    ),
                    1 => drop(zram.compact_backing(4)),
                    _ => {}
                }
            }
        });
    });
    place.0.moody.store(false, SeqCst);
    let backing = device.zram().backing().unwrap();
    let (stats, store) = (backing.stats, backing.store.unwrap());
    assert_eq!(stats.corrupt, 0, "{stats:?}");
    assert!(
        store.puts > 10 && store.gets > 100 && store.failed_puts > 0,
        "{store:?}"
    );
    assert!(store.failed_gets > 0 && store.deletes > 0, "{store:?}");
    device.zram().detach_backing().unwrap();
}
