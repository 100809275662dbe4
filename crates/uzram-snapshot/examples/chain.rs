//! A snapshot in a file, one of what changed since, and what the disk held at either time: `cargo run -p uzram-snapshot
//! --example chain`.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;

use uzram_snapshot::{CodecSource, DiskSource, FRAME_PAGES, Page, Snapshot, SnapshotWriter};

const PAGES: u64 = 1 << 16;

/// What stands for a codec here: the page's number and a letter, as often as it takes.
fn object(page: u64, letter: char) -> Vec<u8> {
    format!("{page}{letter}").repeat(100).into_bytes()
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (full, since) = (folder.path().join("full"), folder.path().join("since"));
    let codecs = [CodecSource {
        number: 0,
        algorithm: "lz4",
        driver: "liblz4",
        params: "",
        dictionary: None,
    }];
    let disk = DiskSource {
        pages: PAGES,
        taken_at_seconds: 0,
        is_basis: false,
        codecs: &codecs,
        notes: b"",
    };

    let mut writer = SnapshotWriter::new(BufWriter::new(File::create(&full)?), &disk)?;
    for frame in 0..disk.pages as u32 / FRAME_PAGES as u32 {
        let first = u64::from(frame) * FRAME_PAGES as u64;
        let objects: Vec<Vec<u8>> = (0..64).map(|page| object(first + page, 'a')).collect();
        let page = |bytes| Page::Object { codec: 0, bytes };
        let pages: Vec<Page<'_>> = objects.iter().map(|bytes| page(bytes)).collect();
        writer.frame(frame, &pages)?;
    }
    let (file, written) = writer.finish()?;
    file.into_inner()?.sync_all()?;
    println!(
        "{}: {} bytes, {} of them index",
        written.name, written.bytes, written.index_bytes
    );

    // One page of a hundredth of the frames changes. The frame's other pages are not even asked for.
    let parent = Snapshot::open(File::open(&full)?)?;
    let sink = BufWriter::new(File::create(&since)?);
    let mut writer = SnapshotWriter::since(sink, &disk, parent)?;
    for frame in (0..1024).step_by(100) {
        assert_eq!(writer.needs(frame, 1)?, 1);
        let changed = object(u64::from(frame) * FRAME_PAGES as u64, 'b');
        let mut pages = [Page::Unchanged; FRAME_PAGES];
        pages[0] = Page::Object {
            codec: 0,
            bytes: &changed,
        };
        writer.frame(frame, &pages)?;
    }
    let (file, written) = writer.finish()?;
    file.into_inner()?.sync_all()?;
    println!("{}: {} bytes since", written.name, written.bytes);

    let parent = Snapshot::open(File::open(&full)?)?;
    let mut snapshot = Snapshot::open(File::open(&since)?)?.with_parent(parent)?;
    println!("{:?}", snapshot.verify()?);
    let mut changed = 0;
    snapshot.restore(|_, page| {
        changed += u32::from(matches!(page, Page::Object { bytes, .. } if bytes.ends_with(b"b")));
        Ok(())
    })?;
    assert_eq!(changed, 11);
    Ok(())
}
