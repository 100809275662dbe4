//! A snapshot that was edited at will is read or refused, and both readers agree: the one that goes forward and the one that
//! seeks. What the writer was given comes back.
#![no_main]

use std::collections::BTreeMap;
use std::io;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use uzram_fuzz::deep;
use uzram_fuzz::edits::edits;
use uzram_fuzz::input::Input;
use uzram_snapshot::{
    CodecSource, DictionarySource, DiskSource, Page, Snapshot, SnapshotReader, SnapshotWriter,
};

/// What was read, by the page.
type Pages = BTreeMap<u64, (u8, Vec<u8>)>;

const HEADER: usize = 24;
const SUM: usize = 32;

fn codecs() -> [CodecSource<'static>; 2] {
    let codec = |number, algorithm, dictionary| CodecSource {
        number,
        algorithm,
        driver: "driver",
        params: "level=3",
        dictionary,
    };
    let dictionary = Some(DictionarySource::Bytes(b"a dictionary"));
    [codec(0, "lz4", None), codec(5, "zstd", dictionary)]
}

fn disk<'a>(pages: u64, codecs: &'a [CodecSource<'a>]) -> DiskSource<'a> {
    DiskSource {
        pages,
        taken_at_seconds: 1,
        is_basis: false,
        codecs,
        notes: b"notes",
    }
}

/// A snapshot and one made since.
static TEMPLATES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let codecs = codecs();
    let source = disk(66_000, &codecs);
    let object = |codec, bytes| Page::Object { codec, bytes };
    let mut pages = [Page::Zero; 64];
    (pages[0], pages[1]) = (object(0, &b"one"[..]), object(5, &b"another"[..]));
    (pages[2], pages[9]) = (Page::Same(7), Page::Raw(&[5; 4096]));
    (20..60).for_each(|page| pages[page] = Page::Same(page as u64));
    let mut writer = SnapshotWriter::new(Vec::new(), &source).expect("a writer");
    for frame in [0, 1, 1024] {
        writer.frame(frame, &pages).expect("a frame");
    }
    let parent = writer.finish().expect("a snapshot").0;
    let opened = Snapshot::open(parent.clone()).expect("a snapshot");
    let mut pages = [Page::Unchanged; 64];
    (pages[1], pages[2]) = (object(0, &b"new"[..]), Page::Zero);
    let mut writer = SnapshotWriter::since(Vec::new(), &source, opened).expect("a writer");
    writer.frame(1, &pages).expect("a frame");
    let child = writer.finish().expect("a snapshot").0;
    [parent, child]
});

/// Replaces what names an edited part wherever it stands after it.
fn rename(rest: &mut [u8], old: &[u8], new: &[u8]) {
    let Some(last) = rest.len().checked_sub(old.len()) else {
        return;
    };
    for at in 0..=last {
        if rest[at..].starts_with(old) {
            rest[at..at + new.len()].copy_from_slice(new);
        }
    }
}

/// Makes the checksums of an edited snapshot right, as far as it can be followed: a name stands only after what it names.
fn reseal(bytes: &mut [u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let mut fields = Input(&bytes[at..]);
        let len = if fields.0.starts_with(b"uzFR") {
            fields.bytes(8);
            let pages = fields.u32().count_ones() + fields.u32().count_ones();
            20 + 2 * pages as usize + fields.u32() as usize
        } else if fields.0.starts_with(b"uzramSG\0") {
            at += HEADER;
            continue;
        } else {
            fields.bytes(16);
            HEADER.saturating_add(fields.u32() as usize)
        };
        let end = at.saturating_add(len).saturating_add(SUM);
        if end > bytes.len() {
            return;
        }
        let sum = *blake3::hash(&bytes[at..at + len]).as_bytes();
        let (head, rest) = bytes.split_at_mut(end);
        let old = &mut head[at + len..];
        if *old != sum {
            rename(rest, old, &sum);
            rename(rest, &old[..16], &sum[..16]);
            old.copy_from_slice(&sum);
        }
        at = end;
    }
}

fn keep(pages: &mut Pages, page: u64, content: Page<'_>) -> io::Result<()> {
    let content = match content {
        Page::Zero => {
            pages.remove(&page);
            return Ok(());
        }
        Page::Same(word) => (254, word.to_le_bytes().to_vec()),
        Page::Raw(bytes) => (255, bytes.to_vec()),
        Page::Object { codec, bytes } => (codec, bytes.to_vec()),
        Page::Unchanged => panic!("a page is read as unchanged"),
    };
    pages.insert(page, content);
    Ok(())
}

/// Reads forward, onto what is there, all snapshots that there are.
fn forward(mut bytes: &[u8], pages: &mut Pages) -> Option<()> {
    let mut is_basis = true;
    while !bytes.is_empty() {
        let reader = SnapshotReader::new(&mut bytes).ok()?;
        let disk = reader.head().pages;
        pages.retain(|page, _| *page < disk);
        let restored = reader.restore(|page, content| {
            assert!(page < disk);
            keep(pages, page, content)
        });
        is_basis = restored.ok()?.is_basis;
    }
    (!is_basis).then_some(())
}

/// Whether one of the snapshots, which were read, was made since another.
fn names_a_parent(mut bytes: &[u8]) -> bool {
    while let Ok(reader) = SnapshotReader::new(&mut bytes) {
        if reader.head().parent.is_some() {
            return true;
        }
        if reader.restore(|_, _| Ok(())).is_err() {
            return false;
        }
    }
    false
}

/// Reads by seeking.
fn seeking(bytes: &[u8], parent: Option<&[u8]>) -> Option<Pages> {
    let mut snapshot = Snapshot::open(bytes.to_vec()).ok()?;
    if let Some(parent) = parent {
        let parent = Snapshot::open(parent.to_vec()).ok()?;
        snapshot = snapshot.with_parent(parent).ok()?;
    }
    (0..16).for_each(|codec| drop(snapshot.dictionary(codec)));
    let mut pages = Pages::new();
    let restored = snapshot.restore(|page, content| keep(&mut pages, page, content));
    let verified = snapshot.verify().is_ok_and(|found| found.is_complete);
    (restored.is_ok() && verified).then_some(pages)
}

fn both(bytes: &[u8], parent: Option<&[u8]>) {
    let mut pages = Pages::new();
    if let Some(parent) = parent {
        forward(parent, &mut pages).expect("the template is good");
    }
    let went = forward(bytes, &mut pages);
    let sought = seeking(bytes, parent);
    if let Some(sought) = sought {
        assert!(went.is_some(), "what was verified is read forward");
        assert!(pages == sought, "both readers find the same");
        deep("an edited snapshot is good");
    } else if parent.is_none() && went.is_some() {
        // What it says of its parent is compared where that is at hand.
        assert!(names_a_parent(bytes), "what was read forward is good");
    }
}

/// A disk of what the input says.
fn written(mut input: Input<'_>) {
    let codecs = codecs();
    let pages = 1 + u64::from(input.u16()) * 3;
    let mut writer = SnapshotWriter::new(Vec::new(), &disk(pages, &codecs)).expect("a writer");
    let (mut expected, mut frame) = (Pages::new(), 0);
    while !input.is_empty() && frame < pages.div_ceil(64) {
        let first = frame * 64;
        let count = (pages - first).min(64) as usize;
        let mut frame_pages = [Page::Zero; 64];
        for page in &mut frame_pages[..count] {
            let kind = input.byte();
            *page = match kind % 8 {
                0..4 => Page::Zero,
                4 | 5 => Page::Same(u64::from(input.byte())),
                _ => match input.bytes(usize::from(kind >> 3)) {
                    [] => Page::Zero,
                    bytes => Page::Object {
                        codec: 5 * (kind % 2),
                        bytes,
                    },
                },
            };
        }
        for (at, page) in frame_pages[..count].iter().enumerate() {
            if *page != Page::Same(0) {
                keep(&mut expected, first + at as u64, *page).expect("kept");
            }
        }
        writer
            .frame(frame as u32, &frame_pages[..count])
            .expect("a frame");
        frame += 1 + u64::from(input.byte());
    }
    let (bytes, _) = writer.finish().expect("a snapshot");
    let mut found = Pages::new();
    forward(&bytes, &mut found).expect("what was written is read");
    assert!(found == expected, "what was written comes back");
    assert_eq!(seeking(&bytes, None), Some(found));
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mode = input.byte();
    match mode % 5 {
        0 => both(input.0, None),
        1 => written(input),
        mode => {
            let [parent, child] = &*TEMPLATES;
            let (mut bytes, parent) = match mode {
                2 | 3 => (parent.clone(), None),
                _ => (child.clone(), Some(&parent[..])),
            };
            for edit in edits(&mut input) {
                match edit.region % 4 {
                    0 => edit.apply(&mut bytes),
                    // Of the end, where manifest and table of contents are.
                    1 => {
                        let from = bytes.len().saturating_sub(2000);
                        edit.apply(&mut bytes[from..]);
                    }
                    2 => bytes.truncate(usize::from(edit.at)),
                    _ => {
                        let at = usize::from(edit.at) % (bytes.len() + 1);
                        bytes.splice(at..at, edit.bytes.iter().copied());
                    }
                }
            }
            reseal(&mut bytes);
            both(&bytes, parent);
        }
    }
});
