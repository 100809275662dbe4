//! A clone: its pages come from a source that refuses, delays and returns damage, while threads read and write pages of their
//! own, everything is done to the memory, it is hydrated, and the image is attached to anew. A page is what was written last, or
//! what the source has.

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uzram::compress::Settings;
use uzram::{
    Choice, CutOptions, Device, Error, Fetchers, PAGE_SIZE, RemoteError, RemoteOptions,
    RemoteSource, StoredPage,
};
use uzram_testkit::algorithm::with_self_trained;

use crate::op::{Maker, choice};
use crate::random::{Fill, Random};
use crate::seeds::{Totals, Wrong};
use crate::subject::{self, PAGE, attach, attach_backing, close, new_image, open_image};

/// Threads with pages of their own.
const OWNERS: u64 = 3;
/// What a source's codec is called there.
const CODEC: u8 = 11;

/// Pages that a seed makes, and how badly they come.
struct Origin {
    seed: u64,
    pages: u64,
    /// The codec of its objects.
    codec: Choice,
    objects: Vec<Vec<u8>>,
    random: Mutex<Random>,
    /// Of a hundred fetches so many go wrong.
    errs: AtomicU64,
    fetches: AtomicU64,
    refused: AtomicU64,
}

fn page_of(seed: u64, page: u64) -> [u8; PAGE_SIZE] {
    let mut random = Random::new(seed ^ (page + 1) << 20);
    let bytes = Fill::random(&mut random).bytes(PAGE_SIZE);
    bytes.try_into().expect("a page")
}

impl Origin {
    fn new(seed: u64, pages: u64, number: u64) -> Origin {
        let registry = with_self_trained();
        let name = ["lz4", "zstd", "deflate", "lzo-rle"][number as usize % 4];
        let algorithm = registry.find(name).expect("it is there");
        let none: [(&str, &str); 0] = [];
        let settings = Settings::new(&**algorithm, PAGE_SIZE, none).expect("settings");
        let prepared = algorithm.prepare(&settings).expect("prepared");
        let mut tfm = prepared.tfm().expect("a context");
        let mut object = |page: u64| {
            let mut out = [0; 2 * PAGE_SIZE];
            match tfm.compress(&page_of(seed, page), &mut out) {
                Ok(len) if len < PAGE_SIZE => out[..len].to_vec(),
                _ => Vec::new(),
            }
        };
        Origin {
            seed,
            pages,
            objects: (0..pages).map(&mut object).collect(),
            codec: Choice::new(name),
            random: Mutex::new(Random::new(seed)),
            errs: AtomicU64::new(0),
            fetches: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn below(&self, end: u64) -> u64 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.below(end)
    }
}

impl RemoteSource for Origin {
    fn fetch(
        &self,
        frames: &[u32],
        page: &mut dyn FnMut(u64, StoredPage<'_>),
    ) -> Result<(), RemoteError> {
        self.fetches.fetch_add(1, SeqCst);
        // A request in between is what neighbours are about.
        std::thread::sleep(Duration::from_micros(self.below(400)));
        if self.below(100) < self.errs.load(SeqCst) {
            self.refused.fetch_add(1, SeqCst);
            let passes = self.below(3) > 0;
            let message = "it went wrong".into();
            return Err(RemoteError { message, passes });
        }
        for frame in frames {
            let first = u64::from(*frame) * 64;
            for number in first..(first + 64).min(self.pages) {
                let bytes = page_of(self.seed, number);
                let word = u64::from_ne_bytes(*bytes.first_chunk().expect("8 bytes"));
                let same = bytes
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .all(|w| *w == word.to_ne_bytes());
                let object = &self.objects[number as usize];
                page(
                    number,
                    match same {
                        true if word == 0 => StoredPage::Empty,
                        true => StoredPage::Same(word),
                        false if object.is_empty() => StoredPage::Raw(&bytes),
                        false => StoredPage::Object {
                            codec: CODEC,
                            bytes: object,
                        },
                    },
                );
            }
        }
        Ok(())
    }

    fn codec(&self, number: u8) -> Result<Choice, RemoteError> {
        assert_eq!(number, CODEC);
        Ok(self.codec.clone())
    }

    fn name(&self) -> String {
        "the origin".into()
    }
}

/// A thread's pages: every third.
struct Owner<'a> {
    device: &'a Device,
    origin: &'a Origin,
    written: &'a mut HashMap<u64, Vec<u8>>,
    number: u64,
    random: Random,
}

impl Owner<'_> {
    fn expected(&self, page: u64) -> Vec<u8> {
        let written = self.written.get(&page).cloned();
        written.unwrap_or_else(|| page_of(self.origin.seed, page).to_vec())
    }

    fn check(&self, page: u64) -> Result<bool, Wrong> {
        let mut found = [0; PAGE_SIZE];
        match self.device.read_at(&mut found, page * PAGE) {
            Ok(()) if found[..] == self.expected(page)[..] => Ok(true),
            Ok(()) => Err(format!(
                "page {page} is neither what was written nor the origin's"
            )),
            Err(Error::Remote { .. }) => Ok(false),
            Err(error) => Err(format!("page {page}: {error}")),
        }
    }

    fn run(&mut self, steps: u64) -> Result<(), Wrong> {
        for _ in 0..steps {
            let page = self.random.below(self.origin.pages / OWNERS) * OWNERS + self.number;
            let result = match self.random.below(10) {
                0..2 => {
                    let bytes = Fill::random(&mut self.random).bytes(PAGE_SIZE);
                    let result = self.device.write_at(&bytes, page * PAGE);
                    if result.is_ok() {
                        self.written.insert(page, bytes);
                    }
                    // Nothing of it is fetched.
                    if let Err(error @ Error::Remote { .. }) = &result {
                        return Err(format!("a whole page was written: {error}"));
                    }
                    result
                }
                2..4 => {
                    let (at, len) = (self.random.below(2000), self.random.within(1, 2000));
                    let bytes = Fill::random(&mut self.random).bytes(len as usize);
                    let result = self.device.write_at(&bytes, page * PAGE + at);
                    if result.is_ok() {
                        let mut whole = self.expected(page);
                        whole[at as usize..][..len as usize].copy_from_slice(&bytes);
                        self.written.insert(page, whole);
                    }
                    result
                }
                4 => {
                    let result = self.device.discard(page * PAGE, PAGE);
                    self.written.insert(page, vec![0; PAGE_SIZE]);
                    result
                }
                _ => self.check(page).map(|_| Ok(()))?,
            };
            match result {
                Ok(()) | Err(Error::Remote { .. }) => {}
                Err(error) => return Err(format!("page {page}: {error}")),
            }
        }
        Ok(())
    }
}

fn fetched(device: Device, origin: &Arc<Origin>) -> Result<(Arc<Device>, Fetchers), Wrong> {
    let mut options = RemoteOptions::default();
    options.timeout = Duration::from_millis(100);
    device.set_source(origin.clone(), options);
    let device = Arc::new(device);
    let fetchers = Fetchers::start(&device).map_err(|error| error.to_string())?;
    Ok((device, fetchers))
}

pub(crate) fn one(seed: u64) -> Result<Totals, Wrong> {
    let said = |error: Error| error.to_string();
    let mut random = Random::new(seed);
    let pages = random.within(64, 700) / OWNERS * OWNERS;
    let (_image, path) = new_image();
    let directory = tempfile::tempdir().expect("a directory");
    let streams = random.within(1, 3) as usize;
    let mut device = Device::builder(pages * PAGE)
        .lazy(true)
        .dedup(random.percent(30))
        .erase_on_free(random.percent(30))
        .streams(streams)
        .registry(with_self_trained())
        .choose(choice(random.below(64)))
        .build_in(open_image(&path))
        .map_err(said)?;
    let origin = Arc::new(Origin::new(seed, pages, random.below(4)));
    {
        let mut install = device.install();
        install.codec(&origin.codec).map_err(said)?;
        install.remote(0..pages).map_err(said)?;
    }
    let storage = random.percent(60).then(|| {
        attach_backing(
            &device,
            &directory.path().join("store"),
            random.within(4, 40),
        )
    });
    let storage = storage.transpose().map_err(said)?;
    let (mut device, mut fetchers) = fetched(device, &origin)?;
    let mut written: Vec<HashMap<u64, Vec<u8>>> = vec![HashMap::new(); OWNERS as usize];
    let mut totals = Totals::new();
    for round in 0..random.within(1, 3) {
        let errs = *random.pick(&[0, 0, 20, 60]);
        origin.errs.store(errs, SeqCst);
        let steps = random.within(20, 200);
        let hydrates = random.percent(30);
        let stop = AtomicBool::new(false);
        let wrong = std::thread::scope(|scope| {
            let (device, origin, stop) = (&*device, &*origin, &stop);
            let owners: Vec<_> = (0..)
                .zip(&mut written)
                .map(|(number, written)| {
                    let random = Random::new(seed ^ (number + 7 + round * 10) << 32);
                    scope.spawn(move || {
                        let mut owner = Owner {
                            device,
                            origin,
                            written,
                            number,
                            random,
                        };
                        owner.run(steps)
                    })
                })
                .collect();
            scope.spawn(move || {
                let random = Random::new(seed ^ round << 50);
                let mut maker = Maker {
                    random,
                    pages,
                    lying: false,
                };
                while !stop.load(SeqCst) {
                    // What may be refused now is the sequences' business.
                    let _ = subject::run(device, &maker.memory_unlimited());
                    let cut = device.cut(&CutOptions::new(None)).map(drop);
                    assert!(cut.is_ok() || cut != Err(Error::RemotePages { pages: 0 }));
                }
            });
            if hydrates {
                scope.spawn(move || {
                    let go_on = &mut |_| match stop.load(SeqCst) {
                        true => std::ops::ControlFlow::Break(()),
                        false => std::ops::ControlFlow::Continue(()),
                    };
                    let _ = device.jobs().hydrate(go_on);
                });
            }
            let joined: Vec<_> = owners.into_iter().map(|owner| owner.join()).collect();
            stop.store(true, SeqCst);
            let results = joined.into_iter().map(|result| match result {
                Ok(result) => result,
                Err(_) => Err("an owner panicked".into()),
            });
            results.collect::<Result<Vec<()>, Wrong>>()
        });
        wrong?;
        *totals.entry("rounds").or_default() += 1;
        if random.percent(60) {
            let left = device.remote_pages();
            if let Some(storage) = &storage {
                storage.release();
            }
            close(device, Some(fetchers))?;
            let again = attach(&path, streams).map_err(said)?;
            // A fetch that nobody waited for any more may have ended since.
            if again.remote_pages() > left {
                let now = again.remote_pages();
                return Err(format!("{left} remote pages, and {now} once attached to"));
            }
            (device, fetchers) = fetched(again, &origin)?;
            *totals.entry("reopened").or_default() += 1;
        }
    }
    origin.errs.store(0, SeqCst);
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    let report = device.jobs().hydrate(go_on).map_err(said)?;
    if report.left > 0 || device.remote_pages() > 0 {
        return Err(format!(
            "{} pages are remote after all came",
            device.remote_pages()
        ));
    }
    for (number, written) in (0..).zip(&mut written) {
        let owner = Owner {
            device: &device,
            origin: &origin,
            written,
            number,
            random: Random::new(1),
        };
        for page in (0..pages / OWNERS).map(|at| at * OWNERS + number) {
            if !owner.check(page)? {
                return Err(format!("page {page} is here and does not come"));
            }
        }
    }
    let stats = device.stats();
    for (what, count) in [
        ("fetches", origin.fetches.load(SeqCst)),
        ("refused", origin.refused.load(SeqCst)),
        ("fetched pages", stats.fetched_pages),
        ("hydrated", report.pages),
    ] {
        *totals.entry(what).or_default() += count;
    }
    close(device, Some(fetchers))?;
    Ok(totals)
}
