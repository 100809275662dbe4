//! How long the library takes for a page of a file with lz4, zstd and null: what the ublk benchmark adds to the floor of
//! a device that only copies. Prints a line `HOW ALGORITHM WRITE READ` for each, in nanoseconds a page of each thread.
//!
//! * `codec-probe warm THREADS FILE`: pages one after another, in so many threads at once.
//! * `codec-probe cold FILE`: before each page another process has its turn, and only the page is timed: as a server runs
//!   that is woken for each request. Both must be pinned to one CPU (`taskset 1 codec-probe ...`).
//!
//! The algorithms take turns on the same pages; the figures are medians over turns.

use std::hint::black_box;
use std::io::{Read, Write};
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use uzram::Device;
use uzram_bench::measure::median;

const USAGE: &str = "usage: codec-probe warm THREADS FILE | cold FILE";
const PAGE: usize = 4096;
const ALGORITHMS: [&str; 3] = ["null", "lz4", "zstd"];
const TURNS: usize = 7;
/// Pages that a thread takes in a turn.
const BATCH: usize = 128;

/// What happens before each page.
type Pause<'a> = &'a mut dyn FnMut() -> Result<()>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["warm", threads, path] => warm(threads.parse().context(USAGE)?, path),
        ["cold", path] => cold(path),
        ["echo"] => Ok(std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).map(|_| ())?),
        _ => bail!(USAGE),
    }
}

/// A device of each algorithm, full.
struct Probe {
    data: Vec<u8>,
    devices: Vec<Device>,
}

impl Probe {
    fn new(path: &str) -> Result<Probe> {
        let mut data = std::fs::read(path).with_context(|| path.to_owned())?;
        data.truncate(data.len() / PAGE * PAGE);
        ensure!(data.len() >= BATCH * PAGE, "{path} is too short");
        let mut devices = Vec::new();
        for algorithm in ALGORITHMS {
            let device = Device::builder(data.len() as u64).algorithm(algorithm);
            devices.push(device.build()?);
        }
        let probe = Probe { data, devices };
        for device in &probe.devices {
            probe.work(device, 0..probe.pages(), true, &mut || Ok(()))?;
        }
        Ok(probe)
    }

    fn pages(&self) -> usize {
        self.data.len() / PAGE
    }

    /// The batch of a turn, or of a thread in a turn.
    fn batch(&self, number: usize) -> Range<usize> {
        let at = number % (self.pages() / BATCH) * BATCH;
        at..at + BATCH
    }

    /// Writes or reads pages, and says how long that took without the pauses.
    fn work(
        &self,
        device: &Device,
        pages: Range<usize>,
        write: bool,
        pause: Pause,
    ) -> Result<Duration> {
        let mut back = [0; PAGE];
        let mut took = Duration::ZERO;
        for offset in pages.map(|page| page * PAGE) {
            pause()?;
            let begin = Instant::now();
            if write {
                device.write_at(&self.data[offset..offset + PAGE], offset as u64)?;
            } else {
                device.read_at(&mut back, offset as u64)?;
                black_box(&back);
            }
            took += begin.elapsed();
        }
        Ok(took)
    }

    /// Lets the devices take turns; `turn` says how long a page took.
    fn run(
        &self,
        how: &str,
        mut turn: impl FnMut(&Device, usize, bool) -> Result<f64>,
    ) -> Result<()> {
        let mut took = vec![[Vec::new(), Vec::new()]; self.devices.len()];
        for number in 0..TURNS {
            for (device, took) in self.devices.iter().zip(&mut took) {
                for (took, write) in took.iter_mut().zip([true, false]) {
                    took.push(turn(device, number, write)?);
                }
            }
        }
        for (algorithm, [write, read]) in ALGORITHMS.iter().zip(took) {
            let (write, read) = (median(write), median(read));
            println!("{how} {algorithm} {write:.0} {read:.0}");
        }
        Ok(())
    }
}

fn warm(threads: usize, path: &str) -> Result<()> {
    ensure!(threads > 0, USAGE);
    let probe = Probe::new(path)?;
    probe.run(&format!("warm{threads}"), |device, turn, write| {
        let times: Result<Vec<Duration>> = std::thread::scope(|scope| {
            let start = |thread| {
                let batch = probe.batch(turn * threads + thread);
                let probe = &probe;
                scope.spawn(move || probe.work(device, batch, write, &mut || Ok(())))
            };
            let running: Vec<_> = (0..threads).map(start).collect();
            let ended = running
                .into_iter()
                .map(|thread| thread.join().expect("a thread panicked"));
            ended.collect()
        });
        let nanoseconds = times?.iter().map(Duration::as_nanos).sum::<u128>();
        Ok(nanoseconds as f64 / (threads * BATCH) as f64)
    })
}

fn cold(path: &str) -> Result<()> {
    let probe = Probe::new(path)?;
    let mut other = Command::new(std::env::current_exe()?)
        .arg("echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the other process")?;
    let mut to = other.stdin.take().context("no pipe")?;
    let mut from = other.stdout.take().context("no pipe")?;
    let mut pause = || {
        to.write_all(b"\n")?;
        from.read_exact(&mut [0])?;
        Ok(())
    };
    probe.run("cold", |device, turn, write| {
        let took = probe.work(device, probe.batch(turn), write, &mut pause)?;
        Ok(took.as_nanos() as f64 / BATCH as f64)
    })?;
    drop(to);
    other.wait()?;
    Ok(())
}
