//! Compresses files there and back: `cargo run --release -p uzram-compress --example ratios -- [--driver NAME]... [--pages N]
//! PATH...`. A folder stands for all files below it. For each driver: the ratio of the pages' sizes, megabytes a second of
//! both directions. Every page is compared with itself on its way back.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uzram_compress::{Registry, Tfm};

const PAGE: usize = 4096;
/// Pages that the drivers do in turn.
const TURN: usize = 256;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A driver and what it has done.
struct Contestant {
    name: &'static str,
    tfm: Box<dyn Tfm>,
    stored: usize,
    write: Duration,
    read: Duration,
}

fn main() -> Result<()> {
    let usage = "usage: ratios [--driver NAME]... [--pages N] PATH...";
    let (mut drivers, mut most, mut paths) = (Vec::new(), usize::MAX, Vec::new());
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().and_then(|value| value.into_string().ok());
        match arg.to_str() {
            Some("--driver") => drivers.push(value().ok_or(usage)?),
            Some("--pages") => most = value().ok_or(usage)?.parse()?,
            _ => paths.push(PathBuf::from(arg)),
        }
    }
    let registry = Registry::builtin();
    if drivers.is_empty() {
        drivers.extend(
            registry
                .iter()
                .map(|algorithm| algorithm.driver_name().into()),
        );
    }
    let mut contestants = Vec::new();
    for driver in &drivers {
        let algorithm = registry.find(driver)?;
        let defaults: [(&str, &str); 0] = [];
        contestants.push(Contestant {
            name: algorithm.driver_name(),
            tfm: registry.prepare(driver, PAGE, defaults)?.tfm()?,
            stored: 0,
            write: Duration::ZERO,
            read: Duration::ZERO,
        });
    }
    let mut pages = 0;
    while let Some(path) = paths.pop().filter(|_| pages < most) {
        match below(&path) {
            Ok(Some(more)) => paths.extend(more),
            Ok(None) => pages += file(&path, most - pages, &mut contestants)?,
            Err(error) => eprintln!("{}: {error}", path.display()),
        }
    }
    if pages == 0 {
        return Err(format!("no whole page; {usage}").into());
    }
    println!("{pages} pages, every one right on its way back");
    println!(
        "{:16} {:>6} {:>10} {:>10}",
        "driver", "ratio", "write MB/s", "read MB/s"
    );
    let plain = (pages * PAGE) as f64;
    for Contestant {
        name,
        stored,
        write,
        read,
        ..
    } in contestants
    {
        let speed = |time: Duration| plain / 1e6 / time.as_secs_f64();
        let (ratio, write, read) = (plain / stored as f64, speed(write), speed(read));
        println!("{name:16} {ratio:6.3} {write:10.0} {read:10.0}");
    }
    Ok(())
}

/// What a folder holds, without links; `None` for a file.
fn below(path: &Path) -> std::io::Result<Option<Vec<PathBuf>>> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return Ok(None);
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() || kind.is_file() {
            all.push(entry.path());
        }
    }
    Ok(Some(all))
}

/// The whole pages of a file, in turns; how many there were. One that cannot be read is named and left out.
fn file(path: &Path, most: usize, contestants: &mut [Contestant]) -> Result<usize> {
    let mut count = 0;
    let mut bytes = Vec::new();
    let mut open = match File::open(path) {
        Ok(open) => open,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            return Ok(0);
        }
    };
    while count < most {
        bytes.clear();
        let left = TURN.min(most - count) * PAGE;
        if let Err(error) = (&mut open).take(left as u64).read_to_end(&mut bytes) {
            eprintln!("{}: {error}", path.display());
            break;
        }
        let (pages, _) = bytes.as_chunks::<PAGE>();
        if pages.is_empty() {
            break;
        }
        for contestant in contestants.iter_mut() {
            contestant
                .turn(pages)
                .map_err(|error| format!("{}, page {count} and on: {error}", path.display()))?;
        }
        count += pages.len();
    }
    Ok(count)
}

impl Contestant {
    fn turn(&mut self, pages: &[[u8; PAGE]]) -> Result<()> {
        let (mut object, mut back) = ([0; 2 * PAGE], [0; PAGE]);
        for page in pages {
            let begin = Instant::now();
            let len = self.tfm.compress(page, &mut object)?;
            let middle = Instant::now();
            self.tfm.decompress(&object[..len], &mut back)?;
            self.read += middle.elapsed();
            self.write += middle - begin;
            self.stored += len.min(PAGE);
            if back != *page {
                return Err(format!("{} returned other bytes", self.name).into());
            }
        }
        Ok(())
    }
}
