//! `uzram` with a stopwatch in every algorithm: how long compressing and decompressing a page takes inside a server that is
//! at work. What the ublk benchmark adds to the floor of a device that only copies.
//!
//! * `stopwatch COMMAND...` is `uzram COMMAND...`. A server keeps `$UZRAM_STOPWATCH/PID` up to date, some ten times a
//!   second: its clock, and how many calls took how long.
//! * `stopwatch between BEFORE AFTER`: nanoseconds of a call that compressed and of one that decompressed, between two
//!   copies of that file. Calls that took many times the usual are left out: the CPU was somewhere else meanwhile.
//!
//! It is also how a program with algorithms of one's own is made.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::{Duration, Instant};

use uzram::compress::{
    Algorithm, Decompress, DictionarySpec, Error, KnownAnswer, ParamSpec, Prepared, Registry,
    Settings, Tfm,
};

/// Where servers write.
const DIRECTORY: &str = "UZRAM_STOPWATCH";
const COMPRESS: usize = 0;
const DECOMPRESS: usize = 1;
const KINDS: usize = 2;
/// Four to each doubling of time.
const BUCKETS: usize = 4 * 64;
/// A call that took two doublings more than the usual was interrupted.
const INTERRUPTED: usize = 4 * 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["between", before, after] = words.as_slice() {
        let line = between(before, after);
        let failed = line.is_err();
        println!(
            "{}",
            line.unwrap_or_else(|error| format!("stopwatch: {error}"))
        );
        return ExitCode::from(u8::from(failed));
    }
    let mut registry = Registry::empty();
    for algorithm in Registry::builtin().iter() {
        let timed = Timed(algorithm.clone());
        if let Err(error) = registry.register(Arc::new(timed)) {
            eprintln!("stopwatch: {error}");
        }
    }
    uzram_cli::main_with(registry)
}

/// Ticks of the finest clock that costs next to nothing: a system call would be a part of what is measured.
fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction reads a counter and does nothing else.
    return unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    return started().elapsed().as_nanos() as u64;
}

/// When the process began to count.
fn started() -> Instant {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    *STARTED.get_or_init(Instant::now)
}

/// Calls, and ticks, by how long a call took: those of one thread.
struct Counts([[[AtomicU64; 2]; BUCKETS]; KINDS]);

static ALL: Mutex<Vec<Arc<Counts>>> = Mutex::new(Vec::new());

thread_local! {
    static MINE: Arc<Counts> = {
        let none = [const { [const { [const { AtomicU64::new(0) }; 2] }; BUCKETS] }; KINDS];
        let counts = Arc::new(Counts(none));
        if let Ok(mut all) = ALL.lock() {
            all.push(counts.clone());
        }
        counts
    };
}

fn bucket(ticks: u64) -> usize {
    let ticks = ticks.max(4);
    let doublings = ticks.ilog2();
    4 * doublings as usize + (ticks >> (doublings - 2) & 3) as usize
}

/// Does it, and counts how long that took.
fn time<T>(kind: usize, work: impl FnOnce() -> T) -> T {
    let begin = ticks();
    let done = work();
    let took = ticks().wrapping_sub(begin);
    MINE.with(|counts| {
        // No other thread writes here.
        for (counter, more) in counts.0[kind][bucket(took)].iter().zip([1, took]) {
            counter.store(counter.load(Relaxed) + more, Relaxed);
        }
    });
    done
}

/// Begins to write the file, where one is wanted.
fn report() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(directory) = std::env::var_os(DIRECTORY) else {
            return;
        };
        let path = PathBuf::from(directory).join(std::process::id().to_string());
        let part = path.with_extension("part");
        std::thread::spawn(move || {
            loop {
                let written = std::fs::write(&part, counted());
                if let Err(error) = written.and_then(|()| std::fs::rename(&part, &path)) {
                    eprintln!("stopwatch: {}: {error}", path.display());
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
    });
}

/// The file: `clock NANOSECONDS TICKS`, then `KIND BUCKET CALLS TICKS`.
fn counted() -> String {
    let begun = started();
    let mut text = format!("clock {} {}\n", begun.elapsed().as_nanos(), ticks());
    let Ok(all) = ALL.lock() else { return text };
    for kind in 0..KINDS {
        for bucket in 0..BUCKETS {
            let sum = |what: usize| {
                let of = |counts: &Arc<Counts>| counts.0[kind][bucket][what].load(Relaxed);
                all.iter().map(of).sum::<u64>()
            };
            if sum(0) > 0 {
                let _ = writeln!(text, "{kind} {bucket} {} {}", sum(0), sum(1));
            }
        }
    }
    text
}

/// What a file says.
struct Counted {
    nanoseconds: f64,
    ticks: f64,
    /// By kind and bucket: calls, ticks.
    calls: [[[u64; 2]; BUCKETS]; KINDS],
}

fn read(path: &str) -> Result<Counted, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let wrong = |line: &str| format!("{path}: '{line}' is not understood");
    let mut counted = Counted {
        nanoseconds: 0.0,
        ticks: 0.0,
        calls: [[[0; 2]; BUCKETS]; KINDS],
    };
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| {
            let number = words.get(at).and_then(|word| word.parse::<u64>().ok());
            number.ok_or_else(|| wrong(line))
        };
        if words[0] == "clock" {
            (counted.nanoseconds, counted.ticks) = (number(1)? as f64, number(2)? as f64);
            continue;
        }
        let (kind, bucket) = (number(0)? as usize, number(1)? as usize);
        let of_kind = counted.calls.get_mut(kind).ok_or_else(|| wrong(line))?;
        *of_kind.get_mut(bucket).ok_or_else(|| wrong(line))? = [number(2)?, number(3)?];
    }
    Ok(counted)
}

/// Nanoseconds of a call of each kind; 0 where there was none.
fn between(before: &str, after: &str) -> Result<String, String> {
    let (before, after) = (read(before)?, read(after)?);
    let tick = (after.nanoseconds - before.nanoseconds) / (after.ticks - before.ticks);
    if !tick.is_finite() || tick <= 0.0 {
        return Err("no time has passed between the two".into());
    }
    let mean = |kind: usize| {
        let pairs = after.calls[kind].iter().zip(&before.calls[kind]);
        let calls: Vec<[u64; 2]> = pairs
            .map(|(a, b)| [a[0].saturating_sub(b[0]), a[1].saturating_sub(b[1])])
            .collect();
        let all: u64 = calls.iter().map(|[calls, _]| calls).sum();
        let mut seen = 0;
        let usual = calls.iter().position(|[calls, _]| {
            seen += calls;
            seen * 2 > all
        });
        let Some(usual) = usual else { return 0.0 };
        let kept = &calls[..(usual + INTERRUPTED).min(BUCKETS)];
        let sum = |what: usize| kept.iter().map(|both| both[what]).sum::<u64>() as f64;
        sum(1) / sum(0) * tick
    };
    Ok(format!("{:.0} {:.0}", mean(COMPRESS), mean(DECOMPRESS)))
}

struct Timed(Arc<dyn Algorithm>);

impl Algorithm for Timed {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn driver_name(&self) -> &'static str {
        self.0.driver_name()
    }
    fn priority(&self) -> i32 {
        self.0.priority()
    }
    fn summary(&self) -> &'static str {
        self.0.summary()
    }
    fn params(&self) -> &'static [ParamSpec] {
        self.0.params()
    }
    fn dictionary(&self) -> Option<DictionarySpec> {
        self.0.dictionary()
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        self.0.known_answers()
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Arc::new(TimedPrepared(self.0.prepare(settings)?)))
    }
}

struct TimedPrepared(Arc<dyn Prepared>);

impl Prepared for TimedPrepared {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        report();
        Ok(Box::new(TimedTfm(self.0.tfm()?)))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        self.0.stateless().is_some().then_some(self)
    }
    fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}

impl Decompress for TimedPrepared {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        match self.0.stateless() {
            Some(stateless) => time(DECOMPRESS, || stateless.decompress(src, dst)),
            // Nobody asks who was told that there is none.
            None => self.0.tfm()?.decompress(src, dst),
        }
    }
}

struct TimedTfm(Box<dyn Tfm>);

impl Tfm for TimedTfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        time(COMPRESS, || self.0.compress(src, dst))
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        time(DECOMPRESS, || self.0.decompress(src, dst))
    }
    fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}
