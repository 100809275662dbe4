//! Compares all algorithms on a file: `cargo run --release -p uzram-compress --example ratios FILE`. For each driver the
//! ratio of its pages' sizes, and megabytes a second of both directions.

use std::time::{Duration, Instant};

use uzram_compress::{Error, Registry};

const PAGE: usize = 4096;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: ratios FILE")?;
    let bytes = std::fs::read(&path)?;
    let (pages, _) = bytes.as_chunks::<PAGE>();
    if pages.is_empty() {
        return Err(format!("{path}: less than a page").into());
    }
    println!(
        "{:16} {:>6} {:>10} {:>10}",
        "driver", "ratio", "write MB/s", "read MB/s"
    );
    for algorithm in Registry::builtin().iter() {
        let (stored, write, read) = measure(algorithm.driver_name(), pages)?;
        let plain = pages.len() * PAGE;
        let speed = |time: Duration| plain as f64 / 1e6 / time.as_secs_f64();
        println!(
            "{:16} {:6.3} {:10.0} {:10.0}",
            algorithm.driver_name(),
            plain as f64 / stored as f64,
            speed(write),
            speed(read)
        );
    }
    Ok(())
}

/// Bytes stored, and the time of both directions. A page that does not shrink is stored raw.
fn measure(driver: &str, pages: &[[u8; PAGE]]) -> Result<(usize, Duration, Duration), Error> {
    let defaults: [(&str, &str); 0] = [];
    let mut tfm = Registry::builtin().prepare(driver, PAGE, defaults)?.tfm()?;
    let (mut object, mut back) = ([0; 2 * PAGE], [0; PAGE]);
    let (mut stored, mut write, mut read) = (0, Duration::ZERO, Duration::ZERO);
    for page in pages {
        let begin = Instant::now();
        let len = tfm.compress(page, &mut object)?;
        let middle = Instant::now();
        tfm.decompress(&object[..len], &mut back)?;
        read += middle.elapsed();
        write += middle - begin;
        stored += len.min(PAGE);
        assert!(back == *page, "{driver} returned other bytes");
    }
    Ok((stored, write, read))
}
