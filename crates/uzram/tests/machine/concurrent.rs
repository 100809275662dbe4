//! Requests from several threads, each of which knows what must be in its pages, while operators do everything to the memory.
//!
//! Pages are in runs of eight that have one owner. The first six hold versions (`random::version`), written and discarded
//! whole: others read them, too, and must find one version, not older than what was acknowledged before, nor newer than what
//! was begun. The seventh belongs to all threads, a stripe each, so that partial writes of one page compete. The eighth is
//! its owner's, for parts of any alignment.
//!
//! Errors are allowed only in the windows in which an operator causes them, and a request that fails changes nothing.

mod operator;
mod owner;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use operator::Operator;
use owner::Owner;
use uzram::{Device, Error, Writeback};
use uzram_testkit::disk::FaultyDisk;

use crate::ledger::Ledger;
use crate::model::{page_of, panic_text};
use crate::random::Random;
use crate::seeds::{Totals, Wrong};
use crate::subject::{PAGE, Setup, Subject};

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
    pub(crate) faults: Mutex<Option<FaultyDisk>>,
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
        faults: Option<FaultyDisk>,
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
            Error::BackingRead { .. } => failing(),
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
        let (stats, codecs, backing) = (device.stats(), device.codecs(), device.zram().backing());
        if holds {
            Ok(())
        } else {
            Err(format!("{what}: {stats:?} {codecs:?} {backing:?}"))
        }
    };
    let live = || {
        device
            .zram()
            .backing()
            .map_or(0, |backing| backing.stats.live_objects)
    };
    check(
        live() == device.stats().backed_pages,
        "objects on the backing",
    )?;
    if device.erase_on_free() {
        subject.check_erased()?;
    }
    device.zram().set_writeback_limit(None);
    // A process that was killed may have left one.
    device.set_mem_limit_bytes(0);
    if device.zram().backing().is_some() {
        device.zram().detach_backing().map_err(text)?;
    }
    subject.attach_backing(100).map_err(text)?;
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    device
        .zram()
        .writeback(&Writeback::default(), go_on)
        .map_err(text)?;
    check(
        device.stats().compr_data_size_bytes == 0,
        "something is never written back",
    )?;
    device.zram().promote(Some(0..50), go_on).map_err(text)?;
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
    let stats = device.stats();
    // A bit a page, twice.
    let bitmap = (device.max_size_bytes() / PAGE).div_ceil(64) * 8;
    let bitmaps = match device.tracked_since() {
        Some(_) => 2 * bitmap.next_multiple_of(PAGE),
        None => 0,
    };
    check(
        (stats.mem_used_total_bytes, stats.table_bytes) == (0, 3 * PAGE + bitmaps),
        "memory is left",
    )
}
