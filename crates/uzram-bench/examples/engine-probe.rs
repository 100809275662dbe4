//! For profilers, and for laying two builds side by side: reads or writes the pages of a file on one device, round after
//! round, and says what a page took, by processor time, beside its codec alone.
//!
//! `engine-probe PAGES lz4 read|write|floor PAGES_A_REQUEST ROUNDS`; the file is one of `cargo xtask corpus`.

use std::hint::black_box;

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use uzram::Device;
use uzram::compress::Registry;
use uzram_bench::corpus::PAGE;
use uzram_bench::measure::{median, shuffled};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, algorithm, what, request, rounds] = &args[..] else {
        bail!("engine-probe PAGES ALGORITHM read|write|floor PAGES_A_REQUEST ROUNDS");
    };
    let (request, rounds): (usize, usize) = (request.parse()?, rounds.parse()?);
    let bytes = std::fs::read(file).with_context(|| file.clone())?;
    let requests = bytes.len() / PAGE / request;
    let device = Device::builder((requests * request * PAGE) as u64).algorithm(algorithm.as_str());
    let device = device.build()?;
    let mut tfm = Registry::builtin()
        .prepare(algorithm, PAGE, std::iter::empty::<(&str, &str)>())?
        .tfm()?;
    let (mut objects, mut places, mut out) = (Vec::new(), Vec::new(), [0; 2 * PAGE]);
    for (number, page) in bytes.as_chunks::<PAGE>().0[..requests * request]
        .iter()
        .enumerate()
    {
        device.write_at(page, (number * PAGE) as u64)?;
        let len = tfm.compress(page, &mut out)?;
        places.push((objects.len(), len));
        objects.extend_from_slice(&out[..len]);
    }
    let order = shuffled(requests);
    let mut back = vec![0; request * PAGE];
    let mut took = Vec::new();
    // A round is a 16th of the pages.
    let batch = (requests / 16).max(1);
    for round in 0..rounds {
        let at = round * batch % (requests - batch + 1);
        let begin = cpu_ns();
        for number in &order[at..at + batch] {
            let pages = number * request;
            match what.as_str() {
                "read" => device.read_at(&mut back, (pages * PAGE) as u64)?,
                "write" => device.write_at(
                    &bytes[pages * PAGE..(pages + request) * PAGE],
                    (pages * PAGE) as u64,
                )?,
                _ => {
                    for page in 0..request {
                        let (at, len) = places[pages + page];
                        let object = &objects[at..at + len];
                        tfm.decompress(object, &mut back[page * PAGE..(page + 1) * PAGE])?;
                    }
                }
            }
            black_box(&back);
        }
        took.push((cpu_ns() - begin) / (batch * request) as f64);
    }
    println!("{:.1} ns a page", median(took));
    Ok(())
}

/// Processor time of this thread.
fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}
