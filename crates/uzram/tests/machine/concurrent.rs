//! Requests from several threads, each of which knows what must be in its pages, while operators do everything to the memory.
//!
//! Pages are in runs of eight that have one owner. The first six hold versions (`random::version`), written and discarded
//! whole: others read them, too, and must find one version, not older than what was acknowledged before, nor newer than what
//! was begun. The seventh belongs to all threads, a stripe each, so that partial writes of one page compete. The eighth is
//! its owner's, for parts of any alignment.
//!
//! Errors are allowed only in the windows in which an operator causes them, and a request that fails changes nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uzram::store::inject::{Fault, FaultyStorage, Rule};
use uzram::{Device, Error, PAGE_SIZE, Writeback, Zeroes};

use crate::ledger::Ledger;
use crate::model::{Totals, Wrong, page_of, panic_text};
use crate::op::{Maker, Memory};
use crate::random::{Fill, Random, is_discard, version, version_of};
use crate::subject::{self, PAGE, Report, Setup, Subject};

/// Threads that make requests.
pub(crate) const THREADS: u64 = 3;
/// Operators.
const OPERATORS: u64 = 2;
/// Pages of a run, and those of them that hold versions.
const RUN: u64 = 8;
const VERSIONED: u64 = 6;
/// Bytes of a page that one thread has where all have a part.
const STRIPE: u64 = PAGE / THREADS;
/// How long threads may take to end before they are taken for locked up.
const PATIENCE: Duration = Duration::from_secs(90);

/// One seed: a device, and all threads for that long.
pub(crate) fn one(seed: u64, time: Duration) -> Result<Totals, Wrong> {
    let setup = setup(&mut Random::new(seed));
    let subject = Subject::new(&setup).map_err(|error| error.to_string())?;
    let ledger = Ledger::new(setup.pages);
    let store = subject.directory().join("store");
    let world = World::new(subject.device(), &ledger, &store, subject.faults(), seed);
    let totals = world
        .run(time)
        .map_err(|wrong| format!("{wrong}\n{setup:?}"))?;
    settle(&subject).map_err(|wrong| format!("{wrong}\n{setup:?}"))?;
    Ok(totals)
}

/// A device on which threads meet: few pages, each thread has some runs.
pub(crate) fn setup(random: &mut Random) -> Setup {
    let mut setup = Setup::random(random);
    setup.pages = RUN * THREADS;
    setup.pages *= if random.percent(50) {
        random.within(1, 4)
    } else {
        random.within(4, 40)
    };
    setup.size_pages = setup.size_pages.max(setup.pages);
    setup.limit_bytes = 0;
    setup
}

/// Times at which errors of one kind may be.
#[derive(Default)]
struct Window {
    open: AtomicU32,
    opened: AtomicU64,
}

impl Window {
    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.open.fetch_add(1, SeqCst);
        self.opened.fetch_add(1, SeqCst);
        let result = work();
        self.open.fetch_sub(1, SeqCst);
        result
    }

    /// To be asked later whether the window was open at any time since now.
    fn watch(&self) -> impl Fn() -> bool + '_ {
        let (open, opened) = (self.open.load(SeqCst), self.opened.load(SeqCst));
        move || open > 0 || self.opened.load(SeqCst) != opened
    }
}

/// What the threads share.
pub(crate) struct World<'a> {
    pub(crate) device: &'a Device,
    pub(crate) ledger: &'a Ledger,
    /// Where the backing is.
    pub(crate) store: &'a std::path::Path,
    pub(crate) faults: Mutex<Option<FaultyStorage>>,
    pub(crate) runs: u64,
    pub(crate) seed: u64,
    /// Where what is wrong is written to at once, for a process that may be killed before it can say more.
    pub(crate) told: Option<PathBuf>,
    stop: AtomicBool,
    /// Operators that have not ended.
    operators: AtomicU64,
    limit: Window,
    failing: Window,
    first_wrong: Mutex<Option<Wrong>>,
    totals: Mutex<Totals>,
}

impl<'a> World<'a> {
    pub(crate) fn new(
        device: &'a Device,
        ledger: &'a Ledger,
        store: &'a std::path::Path,
        faults: Option<FaultyStorage>,
        seed: u64,
    ) -> World<'a> {
        World {
            device,
            ledger,
            store,
            faults: Mutex::new(faults),
            runs: ledger.pages() / RUN,
            seed,
            told: None,
            stop: AtomicBool::new(false),
            operators: AtomicU64::new(OPERATORS),
            limit: Window::default(),
            failing: Window::default(),
            first_wrong: Mutex::default(),
            totals: Mutex::default(),
        }
    }

    /// Runs all threads until the time is over or something is wrong. The owners compare their pages at the end, without
    /// faults or limits.
    pub(crate) fn run(&self, time: Duration) -> Result<Totals, Wrong> {
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for number in 0..OPERATORS {
                threads.push(scope.spawn(move || {
                    self.guard(|| Operator::new(self, number).run());
                    self.operators.fetch_sub(1, SeqCst);
                }));
            }
            let owners: Vec<_> = (0..THREADS)
                .map(|number| scope.spawn(move || self.guard(|| Owner::new(self, number).run())))
                .collect();
            threads.extend(owners);
            let end = Instant::now() + time;
            while Instant::now() < end && !self.stop.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.stop.store(true, SeqCst);
            let end = Instant::now() + PATIENCE;
            while threads.iter().any(|thread| !thread.is_finished()) {
                if Instant::now() > end {
                    eprintln!("seed {}: threads do not end", self.seed);
                    std::process::abort();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let wrong = self
            .first_wrong
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        wrong.map_or(Ok(()), Err)?;
        Ok(std::mem::take(
            &mut *self.totals.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    fn guard(&self, work: impl FnOnce() -> Result<(), Wrong>) {
        let result = catch_unwind(AssertUnwindSafe(work));
        if let Err(wrong) = result.unwrap_or_else(|panic| Err(panic_text(&*panic))) {
            self.stop.store(true, SeqCst);
            if let Some(path) = &self.told {
                let _ = std::fs::write(path, &wrong);
            }
            let mut first = self
                .first_wrong
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(wrong);
        }
    }

    fn count(&self, what: &'static str, by: u64) {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        *totals.entry(what).or_default() += by;
    }

    /// Makes a request; `false`: it failed, as it may.
    fn request(
        &self,
        what: &str,
        request: impl FnOnce() -> Result<(), Error>,
        failed: impl FnOnce(u64),
    ) -> Result<bool, Wrong> {
        let (limit, failing) = (self.limit.watch(), self.failing.watch());
        let Err(error) = request() else {
            return Ok(true);
        };
        let may = match error {
            Error::NoSpace { .. } | Error::ArenaFull { .. } => limit(),
            Error::Backing { .. } => failing(),
            _ => false,
        };
        match page_of(&error) {
            Some(page) if may => failed(page),
            _ => return Err(format!("{what} must not fail now: {error}")),
        }
        Ok(false)
    }
}

/// When all threads have ended: books that agree, nothing marked for ever, and nothing left when all is discarded.
pub(crate) fn settle(subject: &Subject) -> Result<(), Wrong> {
    let device = subject.device();
    let text = |error: Error| error.to_string();
    let check = |holds: bool, what: &str| {
        let (stats, codecs, backing) = (device.stats(), device.codecs(), device.backing());
        if holds {
            Ok(())
        } else {
            Err(format!("{what}: {stats:?} {codecs:?} {backing:?}"))
        }
    };
    let live = || {
        device
            .backing()
            .map_or(0, |backing| backing.store.live_objects)
    };
    check(
        live() == device.stats().backed_pages,
        "objects on the backing",
    )?;
    device.set_writeback_limit(None);
    // A process that was killed may have left one.
    device.set_mem_limit_bytes(0);
    if device.backing().is_some() {
        device.detach_backing().map_err(text)?;
    }
    subject.attach_backing(100).map_err(text)?;
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    device
        .writeback(&Writeback::default(), go_on)
        .map_err(text)?;
    check(
        device.stats().compr_data_size_bytes == 0,
        "something is never written back",
    )?;
    device.promote(Some(0..50), go_on).map_err(text)?;
    device.discard(0, device.size_bytes()).map_err(text)?;
    let stats = device.stats();
    let sizes = (
        stats.orig_data_size_bytes,
        stats.compr_data_size_bytes,
        stats.backed_data_size_bytes,
    );
    let counts = (stats.same_pages, stats.huge_pages, stats.backed_pages);
    check(
        (sizes, counts, live()) == ((0, 0, 0), (0, 0, 0), 0),
        "something is left",
    )?;
    let needless = |codec: &uzram::CodecStats| {
        codec.objects + codec.object_bytes > 0 || codec.priorities.is_empty()
    };
    check(!device.codecs().iter().any(needless), "codecs are left")?;
    device.reset();
    check(device.stats().mem_used_total_bytes == 0, "memory is left")
}

/// A thread that makes requests.
struct Owner<'a> {
    world: &'a World<'a>,
    number: u64,
    random: Random,
    /// This thread's stripes of each run's seventh page, and each eighth page, where it is this thread's.
    stripes: Vec<Vec<u8>>,
    private: Vec<Vec<u8>>,
    requests: u64,
}

impl<'a> Owner<'a> {
    fn new(world: &'a World<'a>, number: u64) -> Owner<'a> {
        Owner {
            world,
            number,
            random: Random::new(world.seed ^ (number + 1) << 48),
            stripes: Vec::new(),
            private: Vec::new(),
            requests: 0,
        }
    }

    fn run(&mut self) -> Result<(), Wrong> {
        // Another process may have left something there: what it is is not known.
        for run in 0..self.world.runs {
            self.stripes
                .push(self.take(run * RUN + VERSIONED, self.number * STRIPE, STRIPE)?);
            self.private
                .push(self.take(run * RUN + VERSIONED + 1, 0, PAGE)?);
        }
        while !self.world.stop.load(SeqCst) {
            self.requests += 1;
            match self.random.below(100) {
                0..40 => self.write_versions()?,
                40..60 => self.read_versions()?,
                60..76 => self.read_others()?,
                76..90 => self.stripe()?,
                _ => self.private()?,
            }
        }
        self.world.count("requests", self.requests);
        while self.world.operators.load(SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.compare()
    }

    /// Everything that this thread wrote, when nothing fails any more.
    fn compare(&self) -> Result<(), Wrong> {
        let ledger = self.world.ledger;
        for run in 0..self.world.runs {
            let at = run * RUN;
            if run % THREADS == self.number {
                for page in at..at + VERSIONED {
                    if self.take(page, 0, PAGE)? != version(page, ledger.acknowledged(page)) {
                        return Err(format!(
                            "page {page} is not version {}",
                            ledger.acknowledged(page)
                        ));
                    }
                }
                if self.take(at + VERSIONED + 1, 0, PAGE)? != self.private[run as usize] {
                    return Err(format!(
                        "page {} is not what was written",
                        at + VERSIONED + 1
                    ));
                }
            }
            let stripe = self.take(at + VERSIONED, self.number * STRIPE, STRIPE)?;
            if stripe != self.stripes[run as usize] {
                return Err(format!(
                    "a stripe of page {} is not what was written",
                    at + VERSIONED
                ));
            }
        }
        Ok(())
    }

    fn take(&self, page: u64, at: u64, len: u64) -> Result<Vec<u8>, Wrong> {
        loop {
            let mut bytes = vec![0; len as usize];
            let read = || self.world.device.read_at(&mut bytes, page * PAGE + at);
            if self.world.request("the first read", read, |_| ())? {
                return Ok(bytes);
            }
        }
    }

    /// One of this thread's runs.
    fn own_run(&mut self) -> u64 {
        self.random.below(self.world.runs / THREADS) * THREADS + self.number
    }

    /// Some of the versioned pages of one of this thread's runs.
    fn own_pages(&mut self) -> std::ops::Range<u64> {
        let first = self.random.below(VERSIONED);
        let run = self.own_run() * RUN;
        run + first..run + self.random.within(first + 1, VERSIONED)
    }

    fn write_versions(&mut self) -> Result<(), Wrong> {
        let (device, ledger) = (self.world.device, self.world.ledger);
        let pages = self.own_pages();
        let (at, len) = (pages.start * PAGE, (pages.end - pages.start) * PAGE);
        let mut next: Vec<u32> = pages.clone().map(|page| ledger.begun(page) + 1).collect();
        if self.random.percent(15) {
            // The next versions that are discards.
            next.iter_mut()
                .for_each(|next| *next += (5 + 16 - *next % 16) % 16);
            pages
                .clone()
                .zip(&next)
                .for_each(|(page, next)| ledger.begin(page, *next));
            let how = self.random.below(3);
            let discard = || match how {
                0 => device.write_zeroes(at, len, Zeroes::Allocate),
                1 => device.write_zeroes(at, len, Zeroes::Deallocate),
                _ => device.discard(at, len),
            };
            self.world.request("a discard", discard, |_| ())?;
            pages
                .zip(&next)
                .for_each(|(page, next)| ledger.acknowledge(page, *next));
            return Ok(());
        }
        next.iter_mut()
            .filter(|next| is_discard(**next))
            .for_each(|next| *next += 1);
        let bytes: Vec<u8> = pages
            .clone()
            .zip(&next)
            .flat_map(|(page, next)| version(page, *next))
            .collect();
        pages
            .clone()
            .zip(&next)
            .for_each(|(page, next)| ledger.begin(page, *next));
        let mut written = pages.end;
        self.world.request(
            "a write",
            || device.write_at(&bytes, at),
            |page| written = page,
        )?;
        let whole = pages.zip(&next).filter(|(page, _)| *page < written);
        whole.for_each(|(page, next)| ledger.acknowledge(page, *next));
        Ok(())
    }

    fn read_versions(&mut self) -> Result<(), Wrong> {
        let pages = self.own_pages();
        let mut bytes = vec![0xEE; ((pages.end - pages.start) * PAGE) as usize];
        let read = || self.world.device.read_at(&mut bytes, pages.start * PAGE);
        if !self.world.request("a read", read, |_| ())? {
            return Ok(());
        }
        for (page, bytes) in pages.zip(bytes.as_chunks::<PAGE_SIZE>().0) {
            let expected = self.world.ledger.acknowledged(page);
            if *bytes != version(page, expected) {
                return Err(format!(
                    "page {page} is {:?}, its owner wrote version {expected}, and began {}",
                    version_of(page, bytes),
                    self.world.ledger.begun(page)
                ));
            }
        }
        Ok(())
    }

    fn read_others(&mut self) -> Result<(), Wrong> {
        let ledger = self.world.ledger;
        let page = self.random.below(self.world.runs) * RUN + self.random.below(VERSIONED);
        let before = ledger.acknowledged(page);
        let mut bytes = [0xEE; PAGE_SIZE];
        let read = || self.world.device.read_at(&mut bytes, page * PAGE);
        if !self
            .world
            .request("a read of another's page", read, |_| ())?
        {
            return Ok(());
        }
        let mut versions = before..=ledger.begun(page);
        let right = match version_of(page, &bytes) {
            Some(0) => versions.any(is_discard),
            Some(version) => versions.contains(&version),
            None => false,
        };
        if right {
            return Ok(());
        }
        Err(format!(
            "another reads of page {page} {:?}, not a version from {before} to {}",
            version_of(page, &bytes),
            ledger.begun(page)
        ))
    }

    /// Part of a page whose other parts others write.
    fn stripe(&mut self) -> Result<(), Wrong> {
        let run = self.random.below(self.world.runs);
        let base = (run * RUN + VERSIONED) * PAGE + self.number * STRIPE;
        let stripe = &mut self.stripes[run as usize];
        part(self.world, &mut self.random, stripe, base, "a stripe")
    }

    /// Any part of a page that nobody else touches; now and then a discard.
    fn private(&mut self) -> Result<(), Wrong> {
        let run = self.own_run();
        let base = (run * RUN + VERSIONED + 1) * PAGE;
        let page = &mut self.private[run as usize];
        if self.random.percent(10) {
            page.fill(0);
            let discard = || self.world.device.discard(base, PAGE);
            return self.world.request("a discard", discard, |_| ()).map(drop);
        }
        part(self.world, &mut self.random, page, base, "a part")
    }
}

/// Reads or writes a part of `known`, which lies at `base`.
fn part(
    world: &World<'_>,
    random: &mut Random,
    known: &mut [u8],
    base: u64,
    what: &str,
) -> Result<(), Wrong> {
    let at = random.below(known.len() as u64);
    let len = random.within(1, known.len() as u64 - at);
    let known = &mut known[at as usize..(at + len) as usize];
    if random.percent(50) {
        let bytes = Fill::random(random).bytes(known.len());
        if world.request(what, || world.device.write_at(&bytes, base + at), |_| ())? {
            known.copy_from_slice(&bytes);
        }
        return Ok(());
    }
    let mut bytes = vec![0xEE; known.len()];
    let read = || world.device.read_at(&mut bytes, base + at);
    if world.request(what, read, |_| ())? && bytes != known {
        return Err(format!(
            "{what} of page {} is not what was written",
            base / PAGE
        ));
    }
    Ok(())
}

/// A thread that does what is done to memory.
struct Operator<'a> {
    world: &'a World<'a>,
    number: u64,
    maker: Maker,
}

impl<'a> Operator<'a> {
    fn new(world: &'a World<'a>, number: u64) -> Operator<'a> {
        let random = Random::new(world.seed ^ (number + 101) << 48);
        let maker = Maker {
            random,
            pages: world.ledger.pages(),
            lying: false,
        };
        Operator {
            world,
            number,
            maker,
        }
    }

    fn run(&mut self) -> Result<(), Wrong> {
        let device = self.world.device;
        if self.number == 0 {
            // A process that was killed may have left something beyond everybody's pages.
            let end = self.world.runs * RUN * PAGE;
            let left = device.discard(end, device.size_bytes() - end);
            left.map_err(|error| error.to_string())?;
        }
        while !self.world.stop.load(SeqCst) {
            match self.maker.random.below(40) {
                0 => self.faults()?,
                1 => self.hang(),
                2 => self.limit()?,
                3 if self.number == 0 => self.resize()?,
                4 => self.look(),
                5..20 if self.number == 1 => self.race()?,
                _ => {
                    let memory = self.maker.memory();
                    self.memory(&memory)?;
                }
            }
        }
        Ok(())
    }

    /// What has most to do with pages that are written meanwhile.
    fn race(&mut self) -> Result<(), Wrong> {
        let all = u32::MAX;
        let memory = [
            Memory::Compact(100_000),
            Memory::Writeback {
                what: Writeback::default(),
                slices: all,
            },
            Memory::Promote {
                pages: None,
                slices: all,
            },
            Memory::Compact(10_000),
            Memory::Recompress {
                what: Default::default(),
                slices: all,
            },
        ];
        memory.iter().try_for_each(|memory| self.memory(memory))
    }

    fn memory(&mut self, memory: &Memory) -> Result<(), Wrong> {
        let world = self.world;
        let (limit, failing) = (world.limit.watch(), world.failing.watch());
        let result = match memory {
            Memory::Limit(_) => return Ok(()),
            Memory::Attach { segments } => {
                let mut faults = world.faults.lock().unwrap_or_else(PoisonError::into_inner);
                let attached = subject::attach_backing(world.device, world.store, *segments);
                attached
                    .map(|storage| *faults = Some(storage))
                    .map(|()| Report::Nothing)
            }
            other => subject::run(world.device, other),
        };
        match result {
            Ok(report) => self.count(&report),
            Err(Error::Invalid { .. } | Error::CodecsFull) => {}
            Err(Error::Compress(_)) if matches!(memory, Memory::Train { .. }) => {}
            Err(Error::NoSpace { .. } | Error::ArenaFull { .. }) if limit() => {}
            Err(Error::Backing { .. }) if failing() => {}
            Err(error) => return Err(format!("{memory:?}: {error}")),
        }
        Ok(())
    }

    fn count(&self, report: &Report) {
        let (what, by) = match report {
            Report::Recompressed(r) => ("recompressed", r.recompressed),
            Report::WrittenBack(r) => {
                self.world.count("changed under writeback", r.changed);
                self.world.count("failed writebacks", r.failed);
                ("written back", r.written)
            }
            Report::Promoted(r) => {
                self.world.count("changed under promotion", r.changed);
                ("promoted", r.pages)
            }
            Report::Emptied(segments) => ("segments emptied", *segments as u64),
            Report::Compacted(r) => ("objects moved", r.objects_moved),
            Report::Marked(marked) => ("marked", *marked),
            Report::Trained(adopted) => ("trained", u64::from(*adopted)),
            Report::Nothing => ("other", 1),
        };
        self.world.count(what, by);
    }

    fn storage(&self) -> Option<FaultyStorage> {
        self.world
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The backing fails for a moment, while this thread goes on.
    fn faults(&mut self) -> Result<(), Wrong> {
        let Some(storage) = self.storage() else {
            return Ok(());
        };
        let world = self.world;
        world.failing.during(|| {
            let before = storage.fired();
            for _ in 0..2 {
                let kind = self.maker.fault();
                let rule = if kind.writes {
                    Rule::writes(kind.fault)
                } else {
                    Rule::reads(kind.fault)
                };
                storage.add(rule.after(kind.skip, kind.times));
            }
            let result = (0..3).try_for_each(|_| {
                let memory = self.maker.memory();
                self.memory(&memory)
            });
            storage.clear();
            world.count("faults", storage.fired() - before);
            result
        })
    }

    /// The backing does not answer for a moment: for longer than the patience of a writeback.
    fn hang(&mut self) {
        let Some(storage) = self.storage() else {
            return;
        };
        let what = Writeback {
            patience: Duration::from_millis(3),
            ..self.maker.writeback()
        };
        storage.add(Rule::writes(Fault::Hang).after(0, 3));
        std::thread::scope(|scope| {
            let job = scope.spawn(|| {
                let result = self
                    .world
                    .device
                    .writeback(&what, &mut |_| std::ops::ControlFlow::Continue(()));
                self.world.count(
                    "hung writebacks",
                    result.map_or(0, |report| u64::from(report.failed > 0)),
                );
            });
            std::thread::sleep(Duration::from_millis(6));
            storage.clear();
            storage.release();
            let _ = job.join();
        });
    }

    fn limit(&mut self) -> Result<(), Wrong> {
        let world = self.world;
        world.limit.during(|| {
            let percent = self.maker.random.within(60, 110);
            let used = world.device.stats().mem_used_total_bytes;
            world
                .device
                .set_mem_limit_bytes((used * percent / 100).max(3 * PAGE));
            let result = (0..2).try_for_each(|_| {
                let memory = self.maker.memory();
                self.memory(&memory)
            });
            world.device.set_mem_limit_bytes(0);
            result
        })
    }

    /// The device becomes larger, and smaller again, beyond everybody's pages. Nobody else writes there.
    fn resize(&mut self) -> Result<(), Wrong> {
        let device = self.world.device;
        let pages = self.world.runs * RUN;
        let more = pages + self.maker.random.within(1, 64);
        let failed = |error: Error| format!("resize: {error}");
        let size = device.size_bytes();
        device.resize(more * PAGE).map_err(failed)?;
        let last = (more - 1) * PAGE;
        let mut bytes = [0xEE; PAGE_SIZE];
        let (limit, failing) = (self.world.limit.watch(), self.world.failing.watch());
        let written = device.read_at(&mut bytes, last).and_then(|()| {
            if bytes != [0; PAGE_SIZE] {
                return Err(Error::Corrupt {
                    page: more - 1,
                    reason: "new pages are not zeros".into(),
                });
            }
            device.write_at(&version(more - 1, 1), last)
        });
        match written {
            Ok(()) => {
                let refused = device.resize(pages * PAGE);
                if refused
                    != Err(Error::TailInUse {
                        size_bytes: more * PAGE,
                    })
                {
                    return Err(format!("a tail in use: {refused:?}"));
                }
            }
            Err(error)
                if (limit() || failing()) && page_of(&error).is_some() && error.errno() != 5 => {}
            Err(error) => return Err(format!("the new tail: {error}")),
        }
        device.discard(last, PAGE).map_err(failed)?;
        self.world.count("resizes", 1);
        device.resize(size).map_err(failed)
    }

    /// Everything that only looks.
    fn look(&self) {
        let device = self.world.device;
        let stats = device.stats();
        assert!(
            stats.backed_pages <= stats.orig_data_size_bytes / PAGE + self.world.ledger.pages()
        );
        let extents = device
            .extents(0, self.world.runs * RUN * PAGE)
            .map(Iterator::count);
        assert!(extents.is_ok());
        let _ = (
            device.codecs(),
            device.backing(),
            device.compaction_gain_bytes(),
        );
        let _ = device.writable_back(&Writeback::default());
    }
}
