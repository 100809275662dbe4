//! `bench training`: what tables or a dictionary of one's own pages gain, what they take, and what a device that trains itself costs
//! its writers meanwhile.
//!
//! Gain: of each kind of pages every second run of 128 is trained on, and the others judge. The same algorithm with what was
//! learnt and without takes turns on the same pages.
//!
//! Cost: devices of `lzhs` that train themselves and that do not take turns. A thread writes process memory to random places, and
//! of each pair the writes are compared that took place while the one of them was training.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::time::ClockId;
use uzram::compress::{Settings, dictionary};
use uzram::{Agent, Device};
use uzram_control::zram::algorithms;

use crate::codecs;
use crate::corpus::{self, Corpus, PAGE};
use crate::holder::{Bare, Holder, Pages};
use crate::lab::{Amount, Experiment, How, LabResult, Progress};
use crate::measure::{Random, Rounds, clock_seconds, median, order, turn};
use crate::report::Report;

/// `bench training`.
pub(crate) const EXPERIMENT: Experiment = Experiment::new(
    "training",
    "What tables and dictionaries of the pages' own gain and take, and what writers notice of a training",
    run,
);

/// An algorithm, its parameters, and the most bytes of its dictionary.
type Contestant = (&'static str, &'static [(&'static str, &'static str)], usize);

const CONTESTANTS: [Contestant; 5] = [
    (LZHS, &[], dictionary::DEFAULT_BYTES),
    ("zstd-uzram", &[("level", "1")], 16 << 10),
    ("zstd-libzstd", &[("level", "1")], 16 << 10),
    ("zstd-uzram", &[("level", "1")], 64 << 10),
    ("lz4", &[], 16 << 10),
];
const LZHS: &str = "lzhs-uzram";
/// Pages of a run that is trained on, or judged by.
const RUN: usize = 128;

fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let amount = how.amount([32, 15, 512], [8, 1, 128]);
    progress("collecting pages");
    let mut kinds = codecs::corpora(amount.megabytes)?;
    // Nothing can be learnt of the last one, noise.
    kinds.pop();
    let what = "process memory, libraries and text, half to train on, half to judge by";
    let mut report = Report::new("bench training", what.into());
    let mut gains = [(); CONTESTANTS.len()].map(|()| Vec::new());
    for kind in &kinds {
        for (contestant, gains) in CONTESTANTS.iter().zip(&mut gains) {
            let name = name_of(contestant);
            progress(&format!("{}: {name}", kind.name));
            gains.push(gain(kind, contestant, amount, &mut report).context(name)?);
        }
    }
    for (contestant, gains) in CONTESTANTS.iter().zip(gains) {
        let name = name_of(contestant);
        for (at, what) in QUOTIENTS.into_iter().enumerate() {
            let logarithms: f64 = gains.iter().map(|of| of[at].ln()).sum();
            let mean = (logarithms / gains.len() as f64).exp();
            report.add(format!("{name}: {what}, geometric mean"), mean);
        }
    }
    progress("writing beside a training");
    writers(how, &mut report, progress)?;
    Ok(Box::new(report))
}

const QUOTIENTS: [&str; 3] = [
    "density, trained over not",
    "write speed, trained over not",
    "read speed, trained over not",
];

fn name_of((algorithm, params, bytes): &Contestant) -> String {
    let params = params.iter().map(|(key, value)| format!(" {key}={value}"));
    format!(
        "{algorithm}{}, {}K",
        params.collect::<String>(),
        bytes >> 10
    )
}

/// Adds what an algorithm gains by training on a kind of pages. Returns density, write and read speed over those untrained.
fn gain(
    kind: &Corpus,
    contestant: &Contestant,
    amount: Amount,
    report: &mut Report,
) -> Result<[f64; 3]> {
    let (algorithm, params, bytes) = *contestant;
    let algorithm = &**algorithms().find(algorithm)?;
    let runs = |first: usize| kind.pages().chunks(RUN).skip(first).step_by(2).flatten();
    let samples: Vec<&[u8]> = runs(0).map(|page| &page[..]).collect();
    let judged: Vec<[u8; PAGE]> = runs(1).copied().collect();
    // A compiler's heap is small.
    let batch = amount.batch.min(judged.len());
    ensure!(batch > 0, "no pages");
    let judged = Pages::from_pages(&judged);
    let alone = Settings::new(algorithm, PAGE, params.iter().copied())?;
    let spec = algorithm.dictionary().context("it takes no dictionary")?;
    let level = alone.int("level").unwrap_or_default() as i32;
    let used = clock_seconds(ClockId::ThreadCPUTime);
    let learnt = dictionary::train(spec, level, &samples, bytes)?;
    let used = clock_seconds(ClockId::ThreadCPUTime) - used;
    let with = alone.clone().with_dictionary(algorithm, learnt.into())?;
    let prepared = [algorithm.prepare(&alone)?, algorithm.prepare(&with)?];
    let count = judged.pages().len();
    let mut sides = Vec::new();
    for prepared in &prepared {
        let mut side = Bare::new(prepared.tfm()?, count, true);
        side.write(0, judged.bytes())?;
        side.filled();
        sides.push(side);
    }
    let mut back = Pages::new(batch);
    let part = |round: usize| turn(round, 7, batch, count);
    let bytes_of = |part: &Range<usize>| &judged.bytes()[part.start * PAGE..part.end * PAGE];
    let mut failed = Ok(());
    let write = Rounds::of(amount.rounds, &mut sides, |side, round| {
        let part = part(round);
        note(&mut failed, side.write(part.start, bytes_of(&part)));
    });
    let read = Rounds::of(amount.rounds, &mut sides, |side, round| {
        let part = part(round);
        let back = &mut back.bytes_mut()[..part.len() * PAGE];
        note(&mut failed, side.read(part.start, back));
    });
    failed?;
    for side in &mut sides {
        side.read(0, &mut back.bytes_mut()[..batch * PAGE])?;
        let first = &judged.bytes()[..batch * PAGE];
        ensure!(back.bytes() == first, "pages do not read back");
    }
    let stored = [sides[0].memory()?.0, sides[1].memory()?.0];
    let quotients = [stored[0] / stored[1], write.ratio(0, 1), read.ratio(0, 1)];
    let row = format!("{}: {}", kind.name, name_of(contestant));
    for (what, quotient) in QUOTIENTS.into_iter().zip(quotients) {
        report.add(format!("{row}: {what}"), quotient);
    }
    let kib = |bytes: usize| bytes as f64 / 1024.0;
    let takes = [
        ("processor time of learning, s", used, 1.0),
        (
            "memory that all streams share, KiB",
            kib(prepared[1].memory_bytes()),
            512.0,
        ),
        (
            "memory of a stream, KiB",
            kib(sides[1].context_bytes().unwrap_or_default()),
            64.0,
        ),
    ];
    for (what, value, most) in takes {
        match algorithm.driver_name() {
            LZHS => report.at_most(format!("{row}: {what}"), value, most),
            _ => report.add(format!("{row}: {what}"), value),
        }
    }
    Ok(quotients)
}

/// Keeps the first failure.
fn note(failed: &mut Result<()>, done: Result<()>) {
    if failed.is_ok() {
        *failed = done;
    }
}

/// Processor time of all threads but this one, in seconds.
fn others_seconds() -> f64 {
    clock_seconds(ClockId::ProcessCPUTime) - clock_seconds(ClockId::ThreadCPUTime)
}

/// How long a device is written to without an end of its training.
const PATIENCE: Duration = Duration::from_secs(20);

/// Adds what writers notice of a device that trains itself.
fn writers(how: &How, report: &mut Report, progress: Progress<'_>) -> Result<()> {
    let pages = corpus::process_memory(how.size(256, 64))?.without_same_filled();
    let mut plain = how.size(Duration::from_secs(4), Duration::from_secs(2));
    let rounds = how.rounds.unwrap_or(how.size(15, 1));
    let mut found = Vec::new();
    while found.len() < rounds {
        let round = found.len();
        progress(&format!("round {} of {rounds}", round + 1));
        let mut runs = [None, None];
        for who in order(round, runs.len()) {
            runs[who] = Some(written(pages.pages(), who == 1, plain)?);
        }
        let [Some(without), Some(with)] = runs else {
            unreachable!("both took their turn");
        };
        let during = with.training.context("it did not train")?;
        // On a busy machine the one began later than the other was written to.
        if without.writes.last().is_none_or(|(at, _)| *at < during.end) {
            ensure!(plain < PATIENCE, "it trained too late");
            plain *= 2;
            continue;
        }
        let (p50, p99) = quantiles(&without.writes, &during);
        let (trained_p50, trained_p99) = quantiles(&with.writes, &during);
        let seconds = (during.end - during.start).as_secs_f64();
        found.push([seconds, with.cpu, trained_p50 / p50, trained_p99 / p99]);
    }
    let of = |at: usize| median(found.iter().map(|of| of[at]).collect());
    report.add("a device trains itself for, s", of(0));
    report.at_most("and takes, all in all, s of processor time", of(1), 1.0);
    report.add("p50 of a write meanwhile over without", of(2));
    report.at_most("p99 of a write meanwhile over without", of(3), 1.1);
    Ok(())
}

/// A device that was written to.
struct Written {
    /// When each write began, and how long it took.
    writes: Vec<(Duration, Duration)>,
    /// When it trained itself.
    training: Option<Range<Duration>>,
    /// Processor time that others than the writer took meanwhile, in seconds.
    cpu: f64,
}

/// Writes to a device until its training is over, or for `plain` where it has none.
fn written(pages: &[[u8; PAGE]], trains: bool, plain: Duration) -> Result<Written> {
    let device = Device::builder(1 << 30)
        .algorithm("lzhs")
        .self_training(trains);
    let device = Arc::new(device.build()?);
    let agent = Agent::start(device.clone())?;
    let slots = (device.size_bytes() / PAGE as u64) as usize;
    let (begin, mut writes, mut training) = (Instant::now(), Vec::new(), None);
    // When the training was first seen, and last.
    let mut cpu = 0.0..0.0;
    // The same pages at the same places, whether it trains or not.
    let mut random = Random::new(1);
    loop {
        let page = &pages[random.below(pages.len())];
        let place = random.below(slots) * PAGE;
        let at = begin.elapsed();
        device.write_at(page, place as u64)?;
        writes.push((at, begin.elapsed() - at));
        if writes.len() % 256 != 0 {
            continue;
        }
        match (trains, is_training()) {
            (true, true) => {
                let now = others_seconds();
                let first = training
                    .as_ref()
                    .map_or(at, |of: &Range<Duration>| of.start);
                cpu = if training.is_none() { now } else { cpu.start }..now;
                training = Some(first..at);
            }
            (true, false) if training.is_some() || at > PATIENCE => break,
            (false, _) if at > plain => break,
            _ => {}
        }
    }
    agent.stop();
    Ok(Written {
        writes,
        training,
        cpu: cpu.end - cpu.start,
    })
}

/// Whether the thread that trains is there.
fn is_training() -> bool {
    let tasks = std::fs::read_dir("/proc/self/task");
    let names = tasks.into_iter().flatten().flatten();
    let mut names = names.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.any(|name| name == "train\n")
}

/// Median and 99th percentile of the writes that began then, in seconds.
fn quantiles(writes: &[(Duration, Duration)], during: &Range<Duration>) -> (f64, f64) {
    let within = writes.iter().filter(|(at, _)| during.contains(at));
    let mut all: Vec<Duration> = within.map(|(_, took)| *took).collect();
    all.sort();
    let at = |part: usize| {
        all.get(all.len() * part / 100)
            .map_or(f64::NAN, Duration::as_secs_f64)
    };
    (at(50), at(99))
}
