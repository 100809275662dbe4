//! How long the library takes for a page of a file with lz4, zstd and null: what the ublk benchmark adds to the floor of
//! a device that only copies. Prints a line `HOW ALGORITHM WRITE READ` for each, in nanoseconds a page of each thread.
//!
//! * `codec-probe warm THREADS BLOCK FILE`: requests of so many bytes at random places, in so many threads at once.
//! * `codec-probe cold BLOCK FILE`: before each page another process has its turn, and only the page is timed: as a server
//!   runs that is woken for each request. Both must be pinned to one CPU (`taskset 1 codec-probe ...`).
//!
//! The devices are full, and larger than caches and translation buffers, as those are that fio writes to: where an object
//! lies is part of what an algorithm costs. The algorithms take turns on the same pages; the figures are medians over turns.

use std::hint::black_box;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use uzram::Device;
use uzram_bench::measure::median;

const USAGE: &str = "usage: codec-probe warm THREADS BLOCK FILE | cold BLOCK FILE";
const PAGE: usize = 4096;
const ALGORITHMS: [&str; 3] = ["null", "lz4", "zstd"];
const TURNS: usize = 7;
/// Pages that a thread takes in a turn.
const BATCH: usize = 128;
/// Pages of a device.
const PAGES: usize = 8192;

/// What happens before each page.
type Pause<'a> = &'a mut dyn FnMut() -> Result<()>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["warm", threads, block, path] => {
            warm(threads.parse().context(USAGE)?, &Probe::new(block, path)?)
        }
        ["cold", block, path] => cold(&Probe::new(block, path)?),
        ["echo"] => Ok(std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).map(|_| ())?),
        _ => bail!(USAGE),
    }
}

/// A device of each algorithm, full.
struct Probe {
    data: Vec<u8>,
    devices: Vec<Device>,
    /// Pages of a request.
    run: usize,
}

impl Probe {
    fn new(block: &str, path: &str) -> Result<Probe> {
        let run = block.parse::<usize>().context(USAGE)? / PAGE;
        ensure!(
            run > 0 && BATCH.is_multiple_of(run),
            "BLOCK is 4096 to {}",
            BATCH * PAGE
        );
        let mut data = std::fs::read(path).with_context(|| path.to_owned())?;
        data.truncate(data.len() / PAGE * PAGE);
        ensure!(data.len() >= BATCH * PAGE, "{path} is too short");
        let mut devices = Vec::new();
        for algorithm in ALGORITHMS {
            let device = Device::builder((PAGES * PAGE) as u64).algorithm(algorithm);
            devices.push(device.build()?);
        }
        let probe = Probe { data, devices, run };
        for device in &probe.devices {
            probe.work(device, 0..PAGES, true, &mut || Ok(()))?;
        }
        Ok(probe)
    }

    /// The pages of a turn, or of a thread in a turn: requests at places that are the same for all algorithms.
    fn batch(&self, number: usize) -> impl Iterator<Item = usize> + use<> {
        let run = self.run;
        let requests = (0..BATCH / run).map(move |request| {
            // splitmix64
            let mut z = ((number * BATCH + request) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)) as usize % (PAGES / run) * run
        });
        requests.flat_map(move |first| first..first + run)
    }

    /// Writes or reads pages, and says how long that took without the pauses.
    fn work(
        &self,
        device: &Device,
        pages: impl Iterator<Item = usize>,
        write: bool,
        pause: Pause,
    ) -> Result<Duration> {
        let mut back = [0; PAGE];
        let mut took = Duration::ZERO;
        for (count, page) in pages.enumerate() {
            pause()?;
            let offset = (page * PAGE) as u64;
            let from = count * PAGE % self.data.len();
            let begin = Instant::now();
            if write {
                device.write_at(&self.data[from..from + PAGE], offset)?;
            } else {
                device.read_at(&mut back, offset)?;
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

fn warm(threads: usize, probe: &Probe) -> Result<()> {
    ensure!(threads > 0, USAGE);
    probe.run(&format!("warm{threads}"), |device, turn, write| {
        let times: Result<Vec<Duration>> = std::thread::scope(|scope| {
            let start = |thread| {
                let batch = probe.batch(turn * threads + thread);
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

fn cold(probe: &Probe) -> Result<()> {
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
