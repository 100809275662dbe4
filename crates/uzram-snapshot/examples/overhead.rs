//! What snapshots cost over the objects in them: `cargo run --release -p uzram-snapshot --example overhead`.
//!
//! The disk is 512 MiB of pages as processes have them, compressed by lz4 or zstd; a tenth are zeros and a fiftieth repeat a
//! word. A second snapshot is made after 1 % of the pages changed, together or anywhere.

use std::error::Error;

use uzram_compress::{Registry, Settings};
use uzram_snapshot::{
    CodecSource, DiskSource, FRAME_PAGES, Page, Snapshot, SnapshotSummary, SnapshotWriter,
};
use uzram_testkit::Random;
use uzram_testkit::data::heap;

const PAGES: u64 = 1 << 17;
const PAGE: usize = 4096;

/// What the disk holds of a page: an object, a word, or nothing.
type Held = (Vec<u8>, u64);

#[derive(Clone)]
struct Disk {
    algorithm: &'static str,
    held: Vec<Held>,
}

impl Disk {
    fn new(algorithm: &'static str) -> Result<Disk, Box<dyn Error>> {
        let held = Vec::new();
        let mut disk = Disk { algorithm, held };
        let mut random = Random::new(1);
        let all: Vec<u64> = (0..PAGES).collect();
        disk.held = all.iter().map(|_| (Vec::new(), 0)).collect();
        disk.write(&all, &mut random)?;
        Ok(disk)
    }

    fn write(&mut self, pages: &[u64], random: &mut Random) -> Result<(), Box<dyn Error>> {
        let registry = Registry::builtin();
        let algorithm = &**registry.find(self.algorithm)?;
        let settings = Settings::new(algorithm, PAGE, [("", ""); 0])?;
        let mut tfm = algorithm.prepare(&settings)?.tfm()?;
        let mut object = vec![0; 2 * PAGE];
        for page in pages {
            self.held[*page as usize] = match random.below(50) {
                0..5 => (Vec::new(), 0),
                5 => (Vec::new(), random.next() | 1),
                _ => {
                    let plain = heap(random.next(), PAGE);
                    let len = tfm.compress(&plain, &mut object).unwrap_or(PAGE);
                    match len < PAGE {
                        true => (object[..len].to_vec(), 0),
                        false => (plain, 0),
                    }
                }
            };
        }
        Ok(())
    }

    fn frame(&self, frame: u32, needed: u64) -> Vec<Page<'_>> {
        let page = |at: usize| match &self.held[frame as usize * FRAME_PAGES + at] {
            _ if needed >> at & 1 == 0 => Page::Unchanged,
            (bytes, word) if bytes.is_empty() => Page::Same(*word),
            (bytes, _) if bytes.len() == PAGE => Page::Raw(bytes),
            (bytes, _) => Page::Object { codec: 0, bytes },
        };
        (0..FRAME_PAGES).map(page).collect()
    }

    /// A snapshot, since a parent and of the pages that changed if there is one.
    fn snapshot(
        &self,
        since: Option<(&[u8], &[u64])>,
    ) -> Result<(Vec<u8>, SnapshotSummary), Box<dyn Error>> {
        let codecs = [CodecSource {
            number: 0,
            algorithm: self.algorithm,
            driver: self.algorithm,
            params: "",
            dictionary: None,
        }];
        let source = DiskSource {
            pages: PAGES,
            taken_at_seconds: 0,
            is_basis: false,
            codecs: &codecs,
            notes: b"",
        };
        let mut masks = vec![0; PAGES as usize / FRAME_PAGES];
        let mut writer = match since {
            Some((parent, changed)) => {
                for page in changed {
                    masks[*page as usize / FRAME_PAGES] |= 1u64 << (page % 64);
                }
                let parent = Snapshot::open(parent.to_vec())?;
                SnapshotWriter::since(Vec::new(), &source, parent)?
            }
            None => {
                masks.fill(u64::MAX);
                SnapshotWriter::new(Vec::new(), &source)?
            }
        };
        for (frame, changed) in masks.into_iter().enumerate() {
            if changed != 0 {
                let frame = frame as u32;
                let needed = writer.needs(frame, changed)?;
                writer.frame(frame, &self.frame(frame, needed))?;
            }
        }
        Ok(writer.finish()?)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let share = |part: u64, all: u64| 100.0 * part as f64 / all as f64;
    for algorithm in ["lz4", "zstd"] {
        let disk = Disk::new(algorithm)?;
        let (first, written) = disk.snapshot(None)?;
        let objects = written.totals.object_bytes;
        println!(
            "{algorithm}: objects {:.1} % of the disk; file {:.4} x the objects; index {:.4} % of the disk",
            share(objects, PAGES * PAGE as u64),
            written.bytes as f64 / objects as f64,
            share(written.index_bytes, PAGES * PAGE as u64),
        );
        let mut random = Random::new(2);
        let begin = random.below(PAGES * 9 / 10);
        let together: Vec<u64> = (begin..begin + PAGES / 100).collect();
        let anywhere: Vec<u64> = (0..PAGES / 100).map(|_| random.below(PAGES)).collect();
        for (how, changed) in [("together", together), ("anywhere", anywhere)] {
            let mut after = disk.clone();
            after.write(&changed, &mut random)?;
            let (_, second) = after.snapshot(Some((&first, &changed)))?;
            let size = share(second.bytes, written.bytes);
            println!("{algorithm}: 1 % of the pages changed {how}: {size:.2} % of the first");
        }
    }
    Ok(())
}
