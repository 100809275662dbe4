//! Dedup and kill -9: whoever takes the device over finds every acknowledged write, counts the references of shared
//! objects anew, and loses none and frees none twice, wherever in the middle of sharing, parting, moving or switching
//! the last process was.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{memfd, reopen};
use uzram::{Choice, Device, Recompress};
use uzram_testkit::Random;

const PAGES: u64 = 1000;
const IMAGE: &str = "UZRAM_TEST_DEDUP_IMAGE";
const SEED: &str = "UZRAM_TEST_SEED";

/// One of endlessly many pages, 0 being zeros: every 8th is incompressible.
fn content(number: u64) -> [u8; 4096] {
    let (mut random, mut bytes) = (Random::new(number), [0; 4096]);
    let noise = match number {
        0 => return bytes,
        n if n.is_multiple_of(8) => 512,
        n => 20 + n as usize % 100,
    };
    for (at, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let value = match at {
            0 => number,
            _ if at < noise => random.next(),
            _ => number % 7,
        };
        *word = value.to_le_bytes();
    }
    bytes
}

fn number_of(bytes: &[u8; 4096]) -> Option<u64> {
    let number = u64::from_le_bytes(*bytes.first_chunk()?);
    (content(number) == *bytes).then_some(number)
}

/// Not a test of its own: the process that `killed_while_pages_are_shared` kills. Writes, and says what was acknowledged.
#[test]
fn child_that_shares() {
    let Some(path) = std::env::var_os(IMAGE) else {
        return;
    };
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path);
    let device = Device::builder(0).attach(file.unwrap().into()).unwrap();
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let work = |thread: u64| {
        let mut random = Random::new(seed << 8 | thread);
        loop {
            // Each page has one writer.
            let page = random.below(PAGES / 2) * 2 + thread;
            let number = match random.below(8) {
                0 => 0,
                1..6 => 1 + random.below(50),
                _ => 1 << 20 | random.next() >> 33,
            };
            let at = page * 4096;
            match number {
                0 => device.discard(at, 4096).unwrap(),
                _ => device.write_at(&content(number), at).unwrap(),
            }
            writeln!(std::io::stderr(), "{page} {number}").unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(1));
        scope.spawn(|| {
            loop {
                device.jobs().compact(50_000);
            }
        });
        scope.spawn(|| {
            let mut go_on = |_| ControlFlow::Continue(());
            for round in seed.. {
                // Mostly on.
                device.set_dedup(!round.is_multiple_of(8)).unwrap();
                let name = ["lz4", "zstd"][round as usize % 2];
                let _ = device.set_algorithm(&Choice::new(name));
                device
                    .zram()
                    .recompress(&Recompress::default(), &mut go_on)
                    .unwrap();
            }
        });
        work(0);
    });
}

/// Runs the child for a moment, kills it, and returns what it said.
fn run_child(file: &OwnedFd, seed: u64) -> Vec<(u64, u64)> {
    let (pid, fd) = (std::process::id(), file.as_raw_fd());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_shares", "--nocapture", "--quiet"])
        .env(IMAGE, format!("/proc/{pid}/fd/{fd}"))
        .env(SEED, seed.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        let parse = |line: String| {
            let (page, number) = line.split_once(' ')?;
            Some((page.parse().ok()?, number.parse().ok()?))
        };
        lines.map_while(Result::ok).filter_map(parse).collect()
    });
    std::thread::sleep(Duration::from_millis(60 + seed * 17 % 50));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn killed_while_pages_are_shared() {
    let file = memfd();
    let device = Device::builder(PAGES * 4096)
        .secondary(1, Choice::new("zstd").param("level", "9"))
        .dedup(true)
        .build_in(reopen(&file));
    drop(device.unwrap());
    let mut acknowledged: HashMap<u64, u64> = HashMap::new();
    let mut most_shared = 0;
    for round in 0..16 {
        let said = run_child(&file, round);
        assert!(!said.is_empty(), "the child did nothing in round {round}");
        acknowledged.extend(said);
        let device = Device::builder(0).attach(reopen(&file)).unwrap();
        most_shared = most_shared.max(device.stats().dup_pages);
        let mut others = 0;
        for page in 0..PAGES {
            let mut bytes = [0; 4096];
            device.read_at(&mut bytes, page * 4096).unwrap();
            let found = number_of(&bytes).unwrap_or_else(|| panic!("page {page} is torn"));
            if acknowledged.insert(page, found).unwrap_or(0) != found {
                others += 1;
            }
        }
        // The last write of each thread may have been done without being acknowledged.
        assert!(others <= 2, "{others} pages are not what was acknowledged");
        if round % 4 == 3 {
            // No reference too many and none too few: then something would be left, or the rest be gone.
            for page in (0..PAGES).step_by(2) {
                device.discard(page * 4096, 4096).unwrap();
                acknowledged.insert(page, 0);
            }
            for page in (1..PAGES).step_by(2) {
                let mut bytes = [0; 4096];
                device.read_at(&mut bytes, page * 4096).unwrap();
                assert_eq!(number_of(&bytes), Some(acknowledged[&page]), "page {page}");
            }
            device.reset();
            acknowledged.clear();
            let stats = device.stats();
            let left = [
                stats.dup_pages,
                stats.compr_data_size_bytes,
                stats.mem_used_total_bytes,
            ];
            assert_eq!(left, [0; 3]);
        }
    }
    assert!(most_shared > 200, "{most_shared} pages shared");
}
