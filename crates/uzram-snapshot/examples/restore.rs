//! Restores a snapshot from a file to a device in memory, and says how fast that is beside a copy of the file: medians of
//! interleaved rounds.
//!
//! ```text
//! cargo run --release -p uzram-snapshot --features device --example restore -- FILE [ROUNDS]
//! ```

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use uzram::Device;
use uzram::compress::Registry;
use uzram_snapshot::device::Filler;
use uzram_snapshot::{PAGE_BYTES, Snapshot, SnapshotReader};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("name a file that holds a snapshot")?);
    let rounds: usize = args.next().map_or(Ok(5), |rounds| rounds.parse())?;
    let copy = path.with_extension("copy");
    let (mut seeking, mut forward, mut copied) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begin = Instant::now();
        let mut snapshot = Snapshot::open(File::open(&path)?)?;
        let mut device = Device::builder(snapshot.head().pages * PAGE_BYTES as u64).build()?;
        snapshot.restore_to(&mut device, &Registry::builtin())?;
        seeking.push(begin.elapsed());
        drop(device);

        let begin = Instant::now();
        let reader = SnapshotReader::new(File::open(&path)?)?;
        let mut device = Device::builder(reader.head().pages * PAGE_BYTES as u64).build()?;
        let mut filler = Filler::new(&mut device);
        filler.add_codecs(reader.choices(&Registry::builtin())?)?;
        reader.restore(|page, content| filler.page(page, content))?;
        forward.push(begin.elapsed());
        drop(filler);
        drop(device);

        let begin = Instant::now();
        std::fs::copy(&path, &copy)?;
        copied.push(begin.elapsed());
        std::fs::remove_file(&copy)?;
    }
    let snapshot = Snapshot::open(File::open(&path)?)?;
    let totals = snapshot.totals();
    let disk = (totals.object_pages + totals.same_pages) * PAGE_BYTES as u64;
    let file = path.metadata()?.len();
    println!(
        "{} MiB of the disk in a file of {} MiB",
        disk >> 20,
        file >> 20
    );
    let base = median(&mut copied);
    for (what, times) in [("by frames", &mut seeking), ("forward", &mut forward)] {
        let time = median(times);
        let speed = disk as f64 / time.as_secs_f64() / f64::from(1 << 30);
        let ratio = base.as_secs_f64() / time.as_secs_f64();
        println!("{what:10} {ratio:.2} x the speed of the copy; {speed:.2} GiB/s of the disk");
    }
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}
