//! A clone by a source that refuses, delays, and returns bytes that are cut or flipped: a page that is read is the snapshot's, or
//! an error, and never anything else.

use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uzram::compress::{Registry, Settings};
use uzram::{Device, Fetchers, RemoteOptions};
use uzram_snapshot::device::RemotePages;
use uzram_snapshot::{
    CodecSource, Digest, DiskSource, Error, Kind, PIECE_BYTES, Page, RemoteSnapshot, Snapshot,
    SnapshotWriter, Source,
};
use uzram_testkit::{Random, data};

const PAGES: u64 = 3000;

fn contents(version: u64) -> Vec<[u8; 4096]> {
    let page = |page: u64| match page % 7 {
        0 => [0; 4096],
        1 => data::same_filled(page % 5),
        2 => data::noise(page),
        // Half of the frames change.
        _ => data::record_page(
            page + if (page / 64).is_multiple_of(2) {
                version * 10_000
            } else {
                0
            },
        ),
    };
    (0..PAGES).map(page).collect()
}

/// A complete snapshot, or one of what changed since another.
fn snapshot(pages: &[[u8; 4096]], parent: Option<(Vec<u8>, &[[u8; 4096]])>) -> Vec<u8> {
    let registry = Registry::builtin();
    let algorithm = registry.find("lz4").unwrap();
    let none: [(&str, &str); 0] = [];
    let settings = Settings::new(&**algorithm, 4096, none).unwrap();
    let prepared = algorithm.prepare(&settings).unwrap();
    let mut tfm = prepared.tfm().unwrap();
    let codecs = [CodecSource {
        number: 9,
        algorithm: "lz4",
        driver: "",
        params: "",
        dictionary: None,
    }];
    let disk = DiskSource {
        pages: PAGES,
        taken_at_seconds: 1,
        is_basis: false,
        codecs: &codecs,
        notes: b"",
    };
    let before = parent.as_ref().map(|(_, pages)| *pages);
    let mut writer = match parent {
        Some((file, _)) => {
            SnapshotWriter::since(Vec::new(), &disk, Snapshot::open(file).unwrap()).unwrap()
        }
        None => SnapshotWriter::new(Vec::new(), &disk).unwrap(),
    };
    for (frame, chunk) in pages.chunks(64).enumerate() {
        let first = frame * 64;
        let changed = |at: usize| before.is_none_or(|before| before[first + at] != chunk[at]);
        let mask = (0..chunk.len()).filter(|at| changed(*at));
        let mask = mask.fold(0u64, |mask, at| mask | 1 << at);
        if mask == 0 {
            continue;
        }
        let needed = writer.needs(frame as u32, mask).unwrap();
        let objects: Vec<Vec<u8>> = chunk
            .iter()
            .map(|page| {
                let mut out = [0; 8192];
                let len = tfm.compress(page, &mut out).unwrap_or(4096);
                out[..len].to_vec()
            })
            .collect();
        let stored = |(at, page): (usize, &[u8; 4096])| -> Page<'_> {
            let word = u64::from_le_bytes(*page.first_chunk().unwrap());
            if needed >> at & 1 == 0 {
                return Page::Unchanged;
            }
            match &objects[at] {
                _ if *page == data::same_filled(word) => Page::Same(word),
                bytes if bytes.len() < 4096 => Page::Object { codec: 9, bytes },
                _ => Page::Raw(&chunk[at]),
            }
        };
        let stored: Vec<Page<'_>> = chunk.iter().enumerate().map(stored).collect();
        writer.frame(frame as u32, &stored).unwrap();
    }
    writer.finish().unwrap().0
}

/// A source that errs as often as it is told to, of a hundred times.
struct Unreliable {
    of: Snapshot,
    errs: AtomicU32,
    random: Mutex<Random>,
    calls: Mutex<Vec<(Kind, u64)>>,
    flipped: AtomicU32,
}

impl Unreliable {
    fn new(of: Snapshot) -> Arc<Unreliable> {
        Arc::new(Unreliable {
            of,
            errs: AtomicU32::new(0),
            random: Mutex::new(Random::new(61)),
            calls: Mutex::default(),
            flipped: AtomicU32::new(0),
        })
    }

    fn below(&self, end: u64) -> u64 {
        self.random.lock().unwrap().below(end)
    }
}

impl Source for Unreliable {
    fn size_bytes(&self, kind: Kind, name: Digest) -> io::Result<u64> {
        self.of.size_bytes(kind, name)
    }

    fn get_range(&self, kind: Kind, name: Digest, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.calls
            .lock()
            .unwrap()
            .push((kind, range.end - range.start));
        let mut bytes = self.of.get_range(kind, name, range)?;
        if self.below(100) >= self.errs.load(Relaxed).into() {
            return Ok(bytes);
        }
        match self.below(4) {
            0 => return Err(io::ErrorKind::ConnectionReset.into()),
            1 => std::thread::sleep(Duration::from_millis(self.below(5))),
            2 => bytes.truncate(self.below(bytes.len() as u64) as usize),
            _ => {
                let at = self.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.below(8);
                self.flipped.fetch_add(1, Relaxed);
            }
        }
        Ok(bytes)
    }
}

fn clone_of(source: Arc<Unreliable>) -> (Arc<Device>, Fetchers) {
    let name = source.of.name();
    let snapshot = RemoteSnapshot::open(source, name).unwrap();
    let builder = Device::builder(snapshot.head().pages * 4096).lazy(true);
    let mut device = builder.build().unwrap();
    let pages = RemotePages::new(snapshot, &Registry::builtin(), "a store".into()).unwrap();
    pages.clone_to(&mut device).unwrap();
    let mut options = RemoteOptions::default();
    options.timeout = Duration::from_secs(60);
    device.set_source(Arc::new(pages), options);
    let device = Arc::new(device);
    let fetchers = Fetchers::start(&device).unwrap();
    (device, fetchers)
}

fn read(device: &Device, page: u64) -> Result<[u8; 4096], uzram::Error> {
    let mut bytes = [0; 4096];
    device.read_at(&mut bytes, page * 4096).map(|()| bytes)
}

#[test]
fn a_clone_reads_as_its_snapshot_and_as_its_parent_where_nothing_changed() {
    let (old, new) = (contents(0), contents(1));
    let first = snapshot(&old, None);
    let second = snapshot(&new, Some((first.clone(), &old)));
    let chain = || {
        let parent = Snapshot::open(first.clone()).unwrap();
        Snapshot::open(second.clone()).unwrap().with_parent(parent)
    };
    for (of, pages) in [
        (Snapshot::open(first.clone()).unwrap(), &old),
        (chain().unwrap(), &new),
    ] {
        let source = Unreliable::new(of);
        let (device, _fetchers) = clone_of(source.clone());
        // Nothing but the manifest.
        assert_eq!(source.calls.lock().unwrap().len(), 1);
        assert_eq!(device.remote_pages(), PAGES);
        for page in [2999, 0, 1500] {
            assert!(read(&device, page).unwrap() == pages[page as usize]);
        }
        let segments = |source: &Unreliable| {
            let calls = source.calls.lock().unwrap();
            calls
                .iter()
                .filter(|(kind, _)| *kind == Kind::Segment)
                .count()
        };
        assert!((3..=9).contains(&segments(&source)));
        let pace = &mut |_| std::ops::ControlFlow::Continue(());
        device.jobs().hydrate(pace).unwrap();
        for (page, expected) in (0..).zip(pages.iter()) {
            assert!(read(&device, page).unwrap() == *expected, "page {page}");
        }
        // The index once, and 8 frames at once.
        let calls = source.calls.lock().unwrap();
        assert_eq!(
            calls
                .iter()
                .filter(|(kind, _)| *kind == Kind::Index)
                .count(),
            1
        );
        assert!(
            calls.iter().all(|(_, bytes)| *bytes <= PIECE_BYTES),
            "{calls:?}"
        );
        assert!(calls.len() < 36, "{calls:?}");
    }
}

#[test]
fn whatever_a_source_returns_no_wrong_page_is_read() {
    let pages = contents(0);
    let source = Unreliable::new(Snapshot::open(snapshot(&pages, None)).unwrap());
    let (device, _fetchers) = clone_of(source.clone());
    source.errs.store(60, Relaxed);
    let device = &device;
    let failed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (pages, failed) = (&pages, &failed);
            scope.spawn(move || {
                let mut random = Random::new(thread);
                for _ in 0..400 {
                    let page = random.below(PAGES);
                    match read(device, page) {
                        Ok(found) => assert!(found == pages[page as usize], "page {page}"),
                        Err(error) => {
                            assert!(matches!(error, uzram::Error::Remote { .. }), "{error}");
                            failed.fetch_add(1, Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert!(source.flipped.load(Relaxed) > 0);
    assert!(device.stats().failed_fetches > 0);
    source.errs.store(0, Relaxed);
    for (page, expected) in (0..).zip(&pages) {
        assert!(read(device, page).unwrap() == *expected, "page {page}");
    }
}

#[test]
fn what_is_no_snapshot_of_that_name_is_refused() {
    let pages = contents(0);
    let file = snapshot(&pages, None);
    let of = || Snapshot::open(file.clone()).unwrap();
    let missing = RemoteSnapshot::open(Arc::new(of()), Digest([3; 32])).unwrap_err();
    assert!(
        matches!(
            missing,
            Error::Missing {
                kind: Kind::Manifest,
                ..
            }
        ),
        "{missing}"
    );
    // Every byte of the manifest counts.
    let source = Unreliable::new(of());
    source.errs.store(100, Relaxed);
    let mut refused = 0;
    for _ in 0..200 {
        let before = source.flipped.load(Relaxed);
        let opened = RemoteSnapshot::open(source.clone(), source.of.name());
        assert!(opened.is_err() || source.flipped.load(Relaxed) == before);
        refused += u32::from(opened.is_err());
    }
    assert!(refused > 100);
    let whole = of();
    let range = |range| {
        whole
            .get_range(Kind::Manifest, whole.name(), range)
            .unwrap_err()
            .kind()
    };
    assert_eq!(range(0..1 << 40), io::ErrorKind::UnexpectedEof);
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake")]
    let reversed = range(5..3);
    assert_eq!(reversed, io::ErrorKind::UnexpectedEof);
}
