//! Edits with right hashes: whoever writes a file can make every checksum right again. So each field must be checked by what
//! it means. An edit of one byte is refused, or it is an edit of the contents; and both readers say the same.

mod common;

use uzram_snapshot::{DictionarySource, Page, Snapshot, SnapshotReader, SnapshotWriter};

use common::{Content, Disk, Pages, keep};

const HEADER: usize = 24;
const SUM: usize = 32;

/// What has a hash at its end: its first byte, and the first one of the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    magic: [u8; 8],
    begin: usize,
    end: usize,
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The parts of a good file, the headers of segments as parts without a hash.
fn parts(bytes: &[u8]) -> Vec<Part> {
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let mut magic = [0; 8];
        magic.copy_from_slice(&bytes[at..at + 8]);
        let len = if magic.starts_with(b"uzFR") {
            magic[4..].fill(0);
            let pages = bytes[at + 8..at + 16].iter().map(|byte| byte.count_ones());
            20 + 2 * pages.sum::<u32>() as usize + number(bytes, at + 16)
        } else if magic == *b"uzramSG\0" {
            HEADER
        } else {
            HEADER + number(bytes, at + 16)
        };
        let (begin, end) = (at, at + len);
        at = end + if magic == *b"uzramSG\0" { 0 } else { SUM };
        parts.push(Part { magic, begin, end });
    }
    assert_eq!(at, bytes.len());
    parts
}

/// Makes all hashes right again, and what is named by them.
fn seal(bytes: &mut [u8], parts: &[Part]) {
    for part in parts.iter().filter(|part| part.magic != *b"uzramSG\0") {
        let new = *blake3::hash(&bytes[part.begin..part.end]).as_bytes();
        let (before, rest) = bytes.split_at_mut(part.end + SUM);
        let place = &mut before[part.end..];
        let old = place.to_vec();
        if old == new {
            continue;
        }
        place.copy_from_slice(&new);
        for at in 0..rest.len().saturating_sub(16) {
            // The index has the first half of a frame's.
            let same = if rest[at..].starts_with(&old) { 32 } else { 16 };
            if rest[at..].starts_with(&old[..same]) {
                rest[at..at + same].copy_from_slice(&new[..same]);
            }
        }
    }
}

/// Two segments, two index blocks, a frame with words of its own, words in the index, a page as it is, two dictionaries.
fn disk() -> Disk {
    let mut disk = Disk::new(65_600);
    for page in [0, 1, 5, 63, 70, 300, 65_537, 65_599] {
        let codec = (page % 3) as u8;
        disk.set(page, Some(Content::Object(codec, vec![page as u8; 20])));
    }
    for page in 128..143 {
        disk.set(page, Some(Content::Same(page)));
    }
    disk.set(200, Some(Content::Same(u64::MAX)));
    disk.set(65_540, Some(Content::Same(3)));
    disk
}

/// A snapshot with few codecs: a file of some thousand bytes.
fn write(disk: &Disk, parent: Option<(&[u8], &[u64])>) -> Vec<u8> {
    let mut codecs = common::codecs();
    codecs.truncate(3);
    let dictionaries: [&[u8]; 2] = [b"some words", b"other words"];
    for (codec, dictionary) in codecs.iter_mut().skip(1).zip(dictionaries) {
        codec.dictionary = Some(DictionarySource::Bytes(dictionary));
    }
    let source = common::disk_source(disk.pages, &codecs);
    let mut writer = match parent {
        Some((parent, _)) => {
            let parent = Snapshot::open(parent.to_vec()).unwrap();
            SnapshotWriter::since(Vec::new(), &source, parent).unwrap()
        }
        None => SnapshotWriter::new(Vec::new(), &source).unwrap(),
    };
    let changed = |page: u64| parent.is_none_or(|(_, changed)| changed.contains(&page));
    let last = disk.pages.div_ceil(64) as u32;
    for frame in (0..last).filter(|frame| *frame < 5 || *frame >= 1024) {
        let first = u64::from(frame) * 64;
        let pages = first..(first + 64).min(disk.pages);
        let mask = pages
            .clone()
            .filter(|page| changed(*page))
            .fold(0u64, |mask, page| mask | 1 << (page - first));
        if mask == 0 {
            continue;
        }
        let needed = writer.needs(frame, mask).unwrap();
        let page = |page: u64| match needed >> (page - first) & 1 {
            0 => Page::Unchanged,
            _ => disk.page(page),
        };
        let pages: Vec<_> = pages.map(page).collect();
        writer.frame(frame, &pages).unwrap();
    }
    writer.finish().unwrap().0
}

/// What the reader that goes forward finds, from what the parent holds on.
fn forward(bytes: &[u8], parent: &Pages) -> Option<Pages> {
    let mut pages = parent.clone();
    let reader = SnapshotReader::new(bytes).ok()?;
    let head = reader.head().clone();
    pages.retain(|page, _| *page < head.pages);
    let restored = reader.restore(|page, content| {
        assert!(page < head.pages, "a page beyond the disk's end");
        if let Page::Object { codec, .. } = content {
            assert!(head.codec(codec).is_some(), "an object of no codec");
        }
        keep(&mut pages, page, content)
    });
    (!restored.ok()?.is_basis).then_some(pages)
}

/// What the reader that seeks finds, if it finds all to be good.
fn seeking(bytes: &[u8], parent: Option<&[u8]>) -> Option<Pages> {
    let mut snapshot = Snapshot::open(bytes.to_vec()).ok()?;
    if let Some(parent) = parent {
        let parent = Snapshot::open(parent.to_vec()).unwrap();
        snapshot = snapshot.with_parent(parent).ok()?;
    }
    let mut pages = Pages::new();
    snapshot
        .restore(|page, content| keep(&mut pages, page, content))
        .ok()?;
    for codec in 0..16 {
        snapshot.dictionary(codec).ok()?;
    }
    let verified = snapshot.verify().ok()?;
    verified.is_complete.then_some(pages)
}

/// Reads an edited file both ways. Whether it was refused, or else whether other pages were read.
fn is_noticed(edited: &[u8], good: &Pages, parent: Option<&[u8]>, before: &Pages, what: &str) {
    let (forward, seeking) = (forward(edited, before), seeking(edited, parent));
    if let Some(sought) = &seeking {
        assert!(
            forward.as_ref() == Some(sought),
            "{what}: only one reads it"
        );
        assert!(sought != good, "{what}: nobody looks at it");
    } else if parent.is_none() {
        assert!(forward.is_none(), "{what}: refused by one alone");
    }
}

fn each_byte(file: &[u8], good: &Pages, parent: Option<&[u8]>, before: &Pages, bits: &[u8]) {
    assert_eq!(seeking(file, parent).as_ref(), Some(good));
    let parts = parts(file);
    let kinds: std::collections::BTreeSet<_> = parts.iter().map(|part| part.magic).collect();
    assert_eq!(kinds.len(), 10, "the file has something of everything");
    for part in &parts {
        for at in part.begin..part.end {
            for bit in bits {
                let mut edited = file.to_vec();
                edited[at] ^= bit;
                seal(&mut edited, &parts);
                let name = String::from_utf8_lossy(&part.magic).into_owned();
                let what = format!("{name} + {}, ^{bit:#x}", at - part.begin);
                is_noticed(&edited, good, parent, before, &what);
            }
        }
    }
}

#[test]
fn an_edited_byte_behind_right_hashes_is_refused_or_content() {
    let disk = disk();
    let file = write(&disk, None);
    each_byte(
        &file,
        &disk.contents,
        None,
        &Pages::new(),
        &[0x01, 0x10, 0x80],
    );
}

#[test]
fn the_same_of_a_snapshot_since() {
    let mut disk = disk();
    let (parent, before) = (write(&disk, None), disk.contents.clone());
    disk.set(1, Some(Content::Object(2, vec![9; 8])));
    disk.set(5, None);
    disk.set(128, Some(Content::Same(77)));
    let file = write(&disk, Some((&parent, &[1, 5, 128])));
    each_byte(&file, &disk.contents, Some(&parent), &before, &[0x01]);
}

/// The head stands in the manifest again: both are edited alike.
#[test]
fn an_edited_head_is_refused_or_says_something_else() {
    let disk = disk();
    let file = write(&disk, None);
    let parts = parts(&file);
    let head = parts[0];
    let manifest = parts.iter().find(|part| part.magic == *b"uzramMA\0");
    let copy = manifest.unwrap().begin + HEADER + 4;
    let original = SnapshotReader::new(&file[..]).unwrap().head().clone();
    let (mut refused, mut read) = (0, 0);
    for at in HEADER..head.end {
        for bit in [0x01, 0x04, 0x80] {
            let mut edited = file.clone();
            edited[at] ^= bit;
            edited[copy + at - HEADER] ^= bit;
            seal(&mut edited, &parts);
            let (forward, seeking) = (forward(&edited, &Pages::new()), seeking(&edited, None));
            // A parent is named: then it must be given.
            let is_child =
                SnapshotReader::new(&edited[..]).is_ok_and(|reader| reader.head().parent.is_some());
            if is_child {
                assert!(seeking.is_none(), "byte {at}");
                continue;
            }
            assert_eq!(forward, seeking, "byte {at}");
            match forward {
                None => refused += 1,
                Some(pages) => {
                    assert!(pages == disk.contents, "byte {at}");
                    let now = SnapshotReader::new(&edited[..]).unwrap().head().clone();
                    assert_ne!(now, original, "byte {at}: nobody looks at it");
                    read += 1;
                }
            }
        }
    }
    // Time, texts and notes are the writer's own.
    assert!(refused > 200 && read > 100, "{refused} {read}");
}

/// Whole fields, in each part that says where something is: with values that are near, those of a neighbour, and wild ones.
#[test]
fn edited_fields_behind_right_hashes_are_refused() {
    let disk = disk();
    let file = write(&disk, None);
    let parts = parts(&file);
    let tables = [
        "uzramDI\0",
        "uzramSE\0",
        "uzramIX\0",
        "uzramMA\0",
        "uzramTC\0",
        "uzramEN\0",
    ];
    for part in &parts {
        let name = String::from_utf8_lossy(&part.magic).into_owned();
        if !tables.contains(&&*name) {
            continue;
        }
        for at in (part.begin + HEADER..part.end - 3).step_by(2) {
            let value = number(&file, at) as u32;
            let neighbour = number(&file, (at + 4).min(part.end - 4)) as u32;
            for new in [
                value.wrapping_add(1),
                value.wrapping_sub(1),
                value.wrapping_add(64),
                neighbour,
                0,
                u32::MAX,
                67_108_864,
            ] {
                if new == value {
                    continue;
                }
                let mut edited = file.clone();
                edited[at..at + 4].copy_from_slice(&new.to_le_bytes());
                seal(&mut edited, &parts);
                let what = format!("{name} + {}: {new:#x}", at - part.begin);
                is_noticed(&edited, &disk.contents, None, &Pages::new(), &what);
            }
        }
    }
}

/// Two fields that are edited so that their sum, or their difference, stays.
#[test]
fn edited_pairs_of_fields_are_refused() {
    let disk = disk();
    let file = write(&disk, None);
    let parts = parts(&file);
    for part in &parts {
        let name = String::from_utf8_lossy(&part.magic).into_owned();
        if !["uzramDI\0", "uzramSE\0", "uzramTC\0", "uzramEN\0"].contains(&&*name) {
            continue;
        }
        let fields: Vec<usize> = (part.begin + HEADER..part.end - 3).step_by(4).collect();
        for (nth, one) in fields.iter().enumerate() {
            for other in fields[nth + 1..].iter().take(4) {
                for (first, second) in [(1, 1), (1, -1), (8, 8), (-8, 8), (-1, 1)] {
                    let mut edited = file.clone();
                    for (at, by) in [(*one, first), (*other, second)] {
                        let new = (number(&file, at) as u32).wrapping_add_signed(by);
                        edited[at..at + 4].copy_from_slice(&new.to_le_bytes());
                    }
                    seal(&mut edited, &parts);
                    let what = format!("{name} + {} {first}, {other} {second}", one - part.begin);
                    is_noticed(&edited, &disk.contents, None, &Pages::new(), &what);
                }
            }
        }
    }
}
