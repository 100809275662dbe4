//! What writers notice of a device that trains itself: `cargo run --release -p uzram --example training -- FILE...`
//!
//! Devices of `lzhs` that train and that do not take turns. A thread writes pages of the files, again and again. Of each pair
//! the writes are compared that took place while the one of them was training.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uzram::{Agent, Device, PAGE_SIZE};

const ROUNDS: usize = 9;
/// How long a device is written to without an end of its training.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one is that does not train.
const PLAIN: Duration = Duration::from_secs(5);

/// A write: when it began, and how long it took.
type Write = (Duration, Duration);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    for name in std::env::args().skip(1) {
        bytes.extend(std::fs::read(name)?);
    }
    let pages: Vec<&[u8]> = bytes.chunks_exact(PAGE_SIZE).collect();
    if pages.len() < 20_000 {
        return Err("give files with 80 MB or more: a device trains on what it holds".into());
    }
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let mut order = [true, false];
        order.rotate_left(round % 2);
        let mut runs = VecDeque::new();
        for trains in order {
            runs.push_back(run(&pages, trains)?);
        }
        runs.rotate_left(round % 2);
        let ((with, during), (without, _)) = (&runs[0], &runs[1]);
        let Some((begin, end)) = *during else {
            return Err("it did not train: are these pages like one another?".into());
        };
        let of = |writes: &[Write]| {
            let within = writes.iter().filter(|(at, _)| (begin..end).contains(at));
            quantiles(within.map(|(_, took)| *took).collect())
        };
        let ((p50, p99), (plain_p50, plain_p99)) = (of(with), of(without));
        println!(
            "round {round}: trained for {:.2} s; over a device that does not: p50 {:.2}, p99 {:.2}",
            (end - begin).as_secs_f64(),
            p50 / plain_p50,
            p99 / plain_p99
        );
        ratios.push((p50 / plain_p50, p99 / plain_p99));
    }
    let median = |of: fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = ratios.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "medians: p50 {:.2}, p99 {:.2}",
        median(|r| r.0),
        median(|r| r.1)
    );
    Ok(())
}

/// Writes until the training is over. Returns the writes, and when it trained.
#[expect(clippy::type_complexity, reason = "said above")]
fn run(
    pages: &[&[u8]],
    trains: bool,
) -> Result<(Vec<Write>, Option<(Duration, Duration)>), Box<dyn std::error::Error>> {
    let device = Device::builder(1 << 30)
        .algorithm("lzhs")
        .self_training(trains)
        .build()?;
    let device = Arc::new(device);
    let agent = Agent::start(device.clone())?;
    let slots = device.size_bytes() / PAGE_SIZE as u64;
    let (begin, mut writes, mut during) = (Instant::now(), Vec::new(), None);
    let mut number = 0;
    loop {
        let at = begin.elapsed();
        let page = pages[number % pages.len()];
        device.write_at(page, number as u64 * 7919 % slots * PAGE_SIZE as u64)?;
        writes.push((at, begin.elapsed() - at));
        number += 1;
        if !number.is_multiple_of(256) {
            continue;
        }
        match (trains, training()) {
            (true, true) => {
                during = Some((during.map_or(at, |(from, _)| from), at));
            }
            (true, false) if during.is_some() => break,
            (true, false) if at > PATIENCE => break,
            (false, _) if at > PLAIN => break,
            _ => {}
        }
    }
    agent.stop();
    Ok((writes, during))
}

/// Whether the thread that trains is there.
fn training() -> bool {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let mut names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.any(|name| name == "train\n")
}

/// Median and 99th percentile, in microseconds.
fn quantiles(mut all: Vec<Duration>) -> (f64, f64) {
    all.sort();
    let at = |part: usize| {
        all.get(all.len() * part / 100)
            .map_or(f64::NAN, |t| t.as_secs_f64() * 1e6)
    };
    (at(50), at(99))
}
