//! `bench policy`: what background recompression gains, and what it costs requests meanwhile.
//!
//! Density: pages of process memory go to a device that compresses with lz4, and to the kernel's zram with lz4. Then the
//! device's agent trains itself, recompresses with what `--policy auto` takes and compacts until it has nothing left to do. What counts
//! is the data over all memory that the device takes, and over `mem_used_total` of the kernel's, which leaves its table
//! out.
//!
//! Foreground: two devices with the same pages, one without an agent, one whose agent recompresses pages that were not
//! used for two seconds. One thread, kept to one CPU, writes or reads pages of a hot part of one, then of the other. The
//! agent works only in the turns of its own device, and there all the time: when few old pages are left, the cold part
//! of both devices is written anew between turns. The first device has two turns a round, so that the ratio of these
//! says what the machine's noise is; the second another one in which its agent only keeps ages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::ClockId;
use uzram::{Agent, AgentStats, Device, PolicySettings, Recompress};
use uzram_control::default_recompression;

use crate::corpus::{self, Corpus, PAGE};
use crate::holder::{Holder, KernelHolder, Pages};
use crate::lab::{Amount, Experiment, How, LabResult, Progress};
use crate::measure::{Random, all_memory, clock_seconds, fill, median, order};
use crate::report::Report;

/// `bench policy`.
pub(crate) const EXPERIMENT: Experiment = Experiment::new(
    "policy",
    "Density with background recompression beside the kernel's zram, and what the foreground pays",
    run,
);

/// What requests are compressed with.
const PRIMARY: &str = "lz4";
/// Does all pending work at once.
const SETTLE: &str = "recompress=0,train=on,compact=on,cpu=100";
/// Works within the default budget.
const WORK: &str = "recompress=2,compact=on";
/// Tracks ages and finds no page old enough.
const PAUSE: &str = "recompress=1000000";
/// How long the agent may take to settle.
const PATIENCE: Duration = Duration::from_secs(600);
/// Without a change for so long the agent has settled, whatever it still plans.
const STANDSTILL: Duration = Duration::from_secs(5);
/// Pages that the foreground uses.
const HOT: usize = 4096;
/// Old pages that must be left before a turn, so that the agent has work for all of it.
const LEAST_OLD: u64 = 8192;

/// Measures everything. Calls `progress` before each step.
fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let amount = how.amount([64, 31, 100_000], [16, 5, 20_000]);
    progress("collecting process memory");
    let mut kinds = corpus::heaps(amount.megabytes)?;
    kinds.push(corpus::compiler_heap(amount.megabytes)?);
    ensure!(kinds.iter().all(|kind| !kind.is_empty()), "an empty corpus");
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name.as_str()).collect();
    let memory = format!("process memory ({})", names.join(", "));
    let mut report = Report::new("bench policy", memory);
    let pages: Vec<&[u8; PAGE]> = kinds.iter().flat_map(Corpus::pages).collect();
    report.add("data, MB", (pages.len() * PAGE) as f64 / 1e6);
    density(&pages, &mut report, progress)?;
    progress("foreground");
    let pair = Pair::new(&pages)?;
    for (name, reads) in [("write", false), ("read", true)] {
        progress(&format!("foreground: {name}"));
        foreground(name, reads, &pair, amount, &mut report)?;
    }
    pair.agent.stop();
    Ok(Box::new(report))
}

fn builder(pages: usize) -> uzram::Builder {
    let secondary = default_recompression(PRIMARY).expect("another one than lz4");
    let device = Device::builder((pages * PAGE) as u64).algorithm(PRIMARY);
    device.secondary(1, secondary)
}

fn write(device: &Device, number: usize, page: &[u8; PAGE]) -> Result<(), uzram::Error> {
    device.write_at(page, (number * PAGE) as u64)
}

fn policy(text: &str) -> Result<PolicySettings> {
    Ok(text.parse()?)
}

fn density(pages: &[&[u8; PAGE]], report: &mut Report, progress: Progress<'_>) -> Result<()> {
    progress("density: kernel zram");
    let data = (pages.len() * PAGE) as f64;
    let kernel = kernel_bytes(pages).context("there is no kernel zram to compare with")?;
    progress("density: the agent works");
    let settled = settle(pages, 0)?;
    let (before, after, done) = (settled.before, settled.after, &settled.done);
    let rows = [
        ("kernel zram lz4: data over mem_used_total", data / kernel),
        ("lz4 alone: data over all memory", data / before),
        ("settled: data over all memory", data / after),
    ];
    report.add_all("density, ", rows);
    let ratio = kernel / after;
    report.at_least("density, settled, over kernel zram lz4", ratio, 1.5);
    let dictionaries = settled.device.stats().dictionary_bytes as f64;
    let rows = [
        ("all memory, MB", after / 1e6),
        ("dictionaries, KiB", dictionaries / 1024.0),
        ("pages recompressed", done.pages_recompressed as f64),
        ("processor time, s", done.cpu_seconds),
    ];
    report.add_all("settled: ", rows);
    Ok(())
}

/// A device whose agent has finished.
pub(crate) struct Settled {
    pub(crate) device: Arc<Device>,
    /// All its memory, in bytes, before the agent and after it.
    pub(crate) before: f64,
    pub(crate) after: f64,
    done: AgentStats,
}

/// Writes the pages with lz4, then lets an agent finish recompression (objects of at least `least` bytes) and compaction.
pub(crate) fn settle(pages: &[&[u8; PAGE]], least: u16) -> Result<Settled> {
    let device = Arc::new(builder(pages.len()).build()?);
    fill(&device, pages.iter().copied())?;
    let before = memory(&device);
    let settings = PolicySettings {
        recompress_least: least,
        ..policy(SETTLE)?
    };
    device.jobs().set_policy(settings)?;
    let begin = Instant::now();
    let agent = Agent::start(device.clone())?;
    // Of a small device the plan may promise what cannot be had, so that something is due for ever.
    let (mut used, mut since) = (before, begin);
    while device.jobs().agent_stats().runs < 2
        || device.jobs().plan().steps.iter().any(|step| step.due) && since.elapsed() < STANDSTILL
    {
        ensure!(
            begin.elapsed() < PATIENCE,
            "the agent does not come to an end"
        );
        std::thread::sleep(Duration::from_millis(100));
        if used != memory(&device) {
            (used, since) = (memory(&device), Instant::now());
        }
    }
    let done = device.jobs().agent_stats();
    agent.stop();
    verify(&device, pages)?;
    let after = memory(&device);
    Ok(Settled {
        device,
        before,
        after,
        done,
    })
}

/// Checks that every page reads back.
fn verify(device: &Device, pages: &[&[u8; PAGE]]) -> Result<()> {
    let mut back = [0; PAGE];
    for (number, page) in pages.iter().enumerate() {
        device.read_at(&mut back, (number * PAGE) as u64)?;
        ensure!(back == **page, "page {number} is not what was written");
    }
    Ok(())
}

fn kernel_bytes(pages: &[&[u8; PAGE]]) -> Result<f64> {
    let mut zram = KernelHolder::new("lz4", pages.len())?;
    let mut aligned = Pages::new(1);
    for (number, page) in pages.iter().enumerate() {
        aligned.bytes_mut().copy_from_slice(*page);
        zram.write(number, aligned.bytes())?;
    }
    zram.memory()?.1.context("it does not tell its memory")
}

/// All memory of a device.
fn memory(device: &Device) -> f64 {
    all_memory(&device.stats())
}

/// Two devices with the same pages: hot ones, then cold ones.
struct Pair<'a> {
    hot: &'a [&'a [u8; PAGE]],
    cold: &'a [&'a [u8; PAGE]],
    without: Device,
    with: Arc<Device>,
    agent: Agent,
}

impl<'a> Pair<'a> {
    fn new(pages: &'a [&'a [u8; PAGE]]) -> Result<Pair<'a>> {
        let (hot, cold) = pages.split_at(HOT.min(pages.len() / 4));
        let without = Device::builder((pages.len() * PAGE) as u64).build()?;
        let with = Arc::new(builder(pages.len()).build()?);
        with.jobs().set_policy(policy(PAUSE)?)?;
        let agent = Agent::start(with.clone())?;
        let pair = Pair {
            hot,
            cold,
            without,
            with,
            agent,
        };
        pair.warm_up()?;
        // The agent uses one, and a lesson in the middle of a turn would be measured in one round only.
        pair.with.jobs().train(&uzram::Training {
            priority: 1,
            ..uzram::Training::default()
        })?;
        Ok(pair)
    }

    fn warm_up(&self) -> Result<()> {
        for device in [&self.without, &*self.with] {
            for (number, page) in self.hot.iter().enumerate() {
                write(device, number, page)?;
            }
        }
        self.chill()
    }

    /// Rewrites the cold part of both devices and waits until it is old.
    fn chill(&self) -> Result<()> {
        for device in [&self.without, &*self.with] {
            for (number, page) in self.cold.iter().enumerate() {
                write(device, self.hot.len() + number, page)?;
            }
        }
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    }

    /// Ensures that the agent has work for a turn.
    fn ensure_work(&self) -> Result<()> {
        let old = Recompress {
            older_than: Some(Duration::from_secs(2)),
            ..Recompress::default()
        };
        let left = self.with.zram().recompressible(&old)?.candidates;
        if left < LEAST_OLD.min(self.cold.len() as u64 / 2) {
            self.chill()?;
        }
        Ok(())
    }

    /// Touches each hot page once, so that none ages during a turn.
    fn touch(&self, device: &Device, reads: bool) -> Result<()> {
        let mut back = [0; PAGE];
        for (number, page) in self.hot.iter().enumerate() {
            match reads {
                true => device.read_at(&mut back, (number * PAGE) as u64)?,
                false => write(device, number, page)?,
            }
        }
        Ok(())
    }

    /// Runs a turn on one of the devices.
    fn turn(&self, device: &Device, reads: bool, turn: usize, seed: u64) -> Result<Turn> {
        let mut random = Random::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut back = [0; PAGE];
        let mut latencies = Vec::with_capacity(turn);
        let used = clock_seconds(ClockId::ThreadCPUTime);
        let begin = Instant::now();
        let mut last = begin;
        for _ in 0..turn {
            let number = random.below(self.hot.len());
            match reads {
                true => device.read_at(&mut back, (number * PAGE) as u64)?,
                false => write(device, number, self.hot[number])?,
            }
            let now = Instant::now();
            latencies.push((now - last).as_nanos() as u32);
            last = now;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let cpu = clock_seconds(ClockId::ThreadCPUTime) - used;
        let at = turn - 1 - turn / 100;
        let (_, p99, _) = latencies.select_nth_unstable(at);
        Ok(Turn {
            seconds,
            cpu,
            p99: f64::from(*p99),
        })
    }
}

/// The figures of a turn.
#[derive(Default, Clone, Copy)]
struct Turn {
    seconds: f64,
    /// Processor time of the foreground's thread.
    cpu: f64,
    /// 99th percentile of the requests' nanoseconds.
    p99: f64,
}

/// The agent's work in its turns.
#[derive(Default)]
struct AgentWork {
    seconds: f64,
    cpu: f64,
    pages: f64,
    turns: usize,
}

fn foreground(
    name: &str,
    reads: bool,
    pair: &Pair<'_>,
    amount: Amount,
    report: &mut Report,
) -> Result<()> {
    let mut rounds = Vec::new();
    let mut work = AgentWork::default();
    for round in 0..amount.rounds {
        pair.ensure_work()?;
        let mut figures = [Turn::default(); 4];
        for who in order(round, figures.len()) {
            let device = if who % 2 == 1 {
                &*pair.with
            } else {
                &pair.without
            };
            pair.touch(device, reads)?;
            let before = (pair.with.jobs().agent_stats(), pair.with.stats());
            if who == 1 {
                pair.with.jobs().set_policy(policy(WORK)?)?;
            }
            figures[who] = on_one_cpu(|| pair.turn(device, reads, amount.batch, round as u64))?;
            if who == 1 {
                let after = (pair.with.jobs().agent_stats(), pair.with.stats());
                pair.with.jobs().set_policy(policy(PAUSE)?)?;
                let pages = after.1.recompressed_pages - before.1.recompressed_pages;
                work.seconds += figures[1].seconds;
                work.cpu += after.0.cpu_seconds - before.0.cpu_seconds;
                work.pages += pages as f64;
                work.turns += usize::from(pages > 0);
            }
        }
        rounds.push(figures);
    }
    let ratio = |pick: fn(&Turn) -> f64, who: usize| {
        median(rounds.iter().map(|r| pick(&r[who]) / pick(&r[0])).collect())
    };
    let rate = |figures: &[Turn; 4]| (amount.batch * PAGE) as f64 / figures[0].seconds / 1e6;
    let alone = median(rounds.iter().map(rate).collect());
    report.add(format!("{name} 4 KiB without agent, MB/s"), alone);
    let p99 = median(rounds.iter().map(|r| r[0].p99).collect());
    report.add(format!("{name} 4 KiB without agent, p99, ns"), p99);
    let speed = |who| 1.0 / ratio(|turn| turn.seconds, who);
    let p99 = |who| ratio(|turn| turn.p99, who);
    let what = format!("{name} speed while the agent works over without");
    report.at_least(what, speed(1), 0.9);
    let by_cpu = "speed by processor time while the agent works over without";
    report.add(format!("{name} {by_cpu}"), 1.0 / ratio(|turn| turn.cpu, 1));
    let what = format!("{name} p99 while the agent works over without");
    report.at_most(what, p99(1), 1.1);
    let rows = [
        ("speed without over without (noise)", speed(2)),
        ("p99 without over without (noise)", p99(2)),
        ("speed while the agent rests over without", speed(3)),
        ("p99 while the agent rests over without", p99(3)),
    ];
    report.add_all(&format!("{name} "), rows);
    let share = 100.0 * work.turns as f64 / amount.rounds as f64;
    let what = format!("{name}: turns in which the agent worked, %");
    report.at_least(what, share, 100.0);
    let used = 100.0 * work.cpu / work.seconds;
    let what = format!("{name}: of one CPU for the agent meanwhile, %");
    report.at_most(what, used, 12.0);
    let rate = work.pages * PAGE as f64 / work.seconds / 1e6;
    report.add(
        format!("{name}: recompressed meanwhile, MB/s of data"),
        rate,
    );
    Ok(())
}

/// Runs `work` on a thread pinned to the last CPU.
fn on_one_cpu<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pinned = move || {
        let all = sched_getaffinity(None)?;
        let last = (0..CpuSet::MAX_CPU).rfind(|cpu| all.is_set(*cpu));
        let mut one = CpuSet::new();
        one.set(last.context("no CPU")?);
        sched_setaffinity(None, &one)?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(pinned).join()).expect("a turn does not panic")
}
