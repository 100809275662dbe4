//! What it costs a write that changes are tracked: medians of turns of two devices, or, for a counter of instructions, so
//! many writes of one.
//!
//! ```text
//! cargo run --release -p uzram --example tracked
//! valgrind --tool=callgrind target/release/examples/tracked on|off same|text WRITES
//! ```

use std::time::{Duration, Instant};

use uzram::{CutOptions, Device, Error, PAGE_SIZE};

const PAGES: u64 = 4096;
const ROUNDS: usize = 301;

/// A device of 16 MiB that was written once.
fn device(tracked: bool, page: &[u8]) -> Result<Device, Error> {
    let size = PAGES * PAGE_SIZE as u64;
    let device = Device::builder(size).algorithm("lz4").streams(1).build()?;
    if tracked {
        let mut options = CutOptions::default();
        options.track = true;
        device.cut(&options)?.record(&[1; 16]);
    }
    write(&device, page, PAGES)?;
    Ok(device)
}

fn write(device: &Device, page: &[u8], writes: u64) -> Result<(), Error> {
    (0..writes).try_for_each(|at| device.write_at(page, at * 7 % PAGES * PAGE_SIZE as u64))
}

/// A page that repeats a word, or one of text.
fn page(kind: &str) -> Vec<u8> {
    match kind {
        "same" => vec![7; PAGE_SIZE],
        _ => (0..PAGE_SIZE as u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24 & 15) as u8 + b'a')
            .collect(),
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [tracked, kind, writes] = &args[..] {
        let page = page(kind);
        return Ok(write(
            &device(tracked == "on", &page)?,
            &page,
            writes.parse()?,
        )?);
    }
    for kind in ["same", "text"] {
        let page = page(kind);
        let devices = [device(false, &page)?, device(true, &page)?];
        let mut ratios = Vec::new();
        for round in 0..ROUNDS {
            let mut took = [Duration::ZERO; 2];
            for turn in 0..2 {
                let who = (round + turn) % 2;
                let begin = Instant::now();
                write(&devices[who], &page, PAGES)?;
                took[who] = begin.elapsed();
            }
            ratios.push(took[1].as_secs_f64() / took[0].as_secs_f64());
        }
        println!(
            "{kind}: tracked over not, time of a write: {:.4}",
            median(&mut ratios)
        );
    }
    Ok(())
}
