//! What was cut, flipped, made by a newer program or by another one is refused in words, and nothing panics.

mod common;

use uzram_snapshot::{END_MARK_BYTES, Error, SEALED_VERSION, Snapshot, SnapshotReader, is_end};

use common::{Content, Disk, Pages, apply, fixtures};

/// A snapshot with something of everything, and a child of it.
fn small() -> [Vec<u8>; 2] {
    let mut disk = Disk::new(200);
    for (page, codec) in [(0, 0), (1, 3), (5, 11), (70, 15)] {
        disk.set(page, Some(Content::Object(codec, vec![page as u8; 20])));
    }
    for page in 128..150 {
        disk.set(page, Some(Content::Same(page)));
    }
    let parent = with_few_codecs(&disk, None, &[]);
    disk.set(1, Some(Content::Object(3, vec![9; 8])));
    disk.set(70, None);
    let child = with_few_codecs(&disk, Some(&parent), &[1, 70]);
    [parent, child]
}

/// The dictionary of 5000 bytes would make this slow.
fn with_few_codecs(disk: &Disk, parent: Option<&[u8]>, changed: &[u64]) -> Vec<u8> {
    use uzram_snapshot::{DictionarySource, SnapshotWriter};
    let mut codecs = common::codecs();
    for codec in &mut codecs {
        if let Some(DictionarySource::Bytes(bytes)) = &mut codec.dictionary {
            *bytes = &bytes[..10];
        }
    }
    let source = common::disk_source(disk.pages, &codecs);
    let frames = 0..disk.pages.div_ceil(64) as u32;
    let mut writer = match parent {
        Some(parent) => {
            let parent = Snapshot::open(parent.to_vec()).unwrap();
            SnapshotWriter::since(Vec::new(), &source, parent).unwrap()
        }
        None => SnapshotWriter::new(Vec::new(), &source).unwrap(),
    };
    for frame in frames {
        let first = u64::from(frame) * 64;
        let pages = first..(first + 64).min(disk.pages);
        if parent.is_none() || pages.clone().any(|page| changed.contains(&page)) {
            let mask = |page| 1u64 << (page - first);
            let is_changed = |page: &u64| parent.is_none() || changed.contains(page);
            let changed = pages
                .clone()
                .filter(is_changed)
                .fold(0, |all, page| all | mask(page));
            let needed = writer.needs(frame, changed).unwrap();
            let page = |page| match needed & mask(page) {
                0 => uzram_snapshot::Page::Unchanged,
                _ => disk.page(page),
            };
            let pages: Vec<_> = pages.map(page).collect();
            writer.frame(frame, &pages).unwrap();
        }
    }
    writer.finish().unwrap().0
}

/// Everything that reads, on bytes that are not good. Returns what the forward reader and the other one said.
fn read(bytes: &[u8], parent: Option<&[u8]>) -> (Result<(), Error>, Result<(), Error>) {
    let forward = apply(bytes, &mut Pages::new()).map(|_| ());
    let seeking = Snapshot::open(bytes.to_vec()).and_then(|mut snapshot| {
        if let Some(parent) = parent {
            snapshot = snapshot.with_parent(Snapshot::open(parent.to_vec())?)?;
        }
        let _ = snapshot.frames();
        let _ = snapshot.restore(|_, _| Ok(()));
        (0..16).for_each(|codec| drop(snapshot.dictionary(codec)));
        snapshot.verify().map(|_| ())
    });
    (forward, seeking)
}

#[test]
fn a_cut_at_every_length_is_refused() {
    let [parent, child] = small();
    for (bytes, of) in [(&parent, None), (&child, Some(&parent[..]))] {
        read(bytes, of).0.unwrap();
        read(bytes, of).1.unwrap();
        for len in 0..bytes.len() {
            let (forward, seeking) = read(&bytes[..len], of);
            let forward = forward.unwrap_err();
            assert!(
                matches!(forward, Error::Cut { at } if at == len as u64),
                "{len}: {forward}"
            );
            let seeking = seeking.unwrap_err();
            assert!(matches!(seeking, Error::Cut { .. }), "{len}: {seeking}");
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let [parent, child] = small();
    for (bytes, of) in [(parent.clone(), None), (child, Some(&parent[..]))] {
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let (forward, seeking) = read(&flipped, of);
            let refused = |error: &Error| error.is_refusal();
            let forward = forward.expect_err("a flipped bit is seen");
            assert!(refused(&forward), "{at}: {forward}");
            let seeking = seeking.expect_err("a flipped bit is seen");
            assert!(refused(&seeking), "{at}: {seeking}");
        }
    }
}

#[test]
fn foreign_and_newer_files_are_told_apart() {
    let (forward, seeking) = read(&[b'x'; 5000], None);
    assert!(matches!(forward, Err(Error::Foreign)));
    assert!(matches!(seeking, Err(Error::Foreign)));
    let [mut newer, _] = small();
    newer[8] = SEALED_VERSION as u8 + 1;
    let (forward, seeking) = read(&newer, None);
    for refused in [forward.unwrap_err(), seeking.unwrap_err()] {
        assert_eq!(
            refused.to_string(),
            "the head has version 3, this program reads up to 1: use a newer uzram"
        );
    }
    newer[8] = SEALED_VERSION as u8;
    let (forward, seeking) = read(&newer, None);
    assert!(matches!(forward, Err(Error::Sealed)));
    assert!(matches!(seeking, Err(Error::Sealed)));
}

/// Who passes a stream on without reading it knows by its end whether it was all of a snapshot.
#[test]
fn a_stream_that_ended_early_is_no_end() {
    let [bytes, _] = small();
    let is_whole = |bytes: &[u8], count: u64| {
        let last = bytes.last_chunk::<END_MARK_BYTES>();
        last.is_some_and(|last| is_end(count, last))
    };
    let len = bytes.len();
    assert!(is_whole(&bytes, len as u64));
    assert!((0..len).all(|len| !is_whole(&bytes[..len], len as u64)));
    assert!(
        !is_whole(&bytes, len as u64 - 1),
        "bytes before it are missing"
    );
    for at in len - END_MARK_BYTES..len {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(!is_whole(&flipped, len as u64), "{at}");
    }
}

/// A frame of one snapshot in another's place: each is whole, but they do not belong together.
#[test]
fn parts_of_another_snapshot_are_refused() {
    let mut disk = Disk::new(64);
    disk.set(0, Some(Content::Object(0, b"one thing".to_vec())));
    let ours = disk.snapshot().0;
    disk.set(0, Some(Content::Object(0, b"or other.".to_vec())));
    let theirs = disk.snapshot().0;
    assert_eq!(ours.len(), theirs.len());
    let begin = ours.windows(4).position(|at| at == b"uzFR").unwrap();
    let frame = begin..begin + 20 + 2 + 9 + 32;
    let mut mixed = ours.clone();
    mixed[frame.clone()].copy_from_slice(&theirs[frame.clone()]);
    let (forward, seeking) = read(&mixed, None);
    assert!(matches!(forward, Err(Error::Damaged { .. })));
    assert!(matches!(seeking, Err(Error::Damaged { .. })));
    let mut snapshot = Snapshot::open(mixed).unwrap();
    let refused = snapshot.frame(0).unwrap_err().to_string();
    assert!(
        refused.contains("another frame than the index says"),
        "{refused}"
    );
}

/// Lengths that nothing stands behind take no memory.
#[test]
fn a_length_is_not_believed() {
    let [bytes, _] = small();
    for len in [u64::MAX, 1 << 40, 128 << 10] {
        let mut long = bytes.clone();
        long[16..24].copy_from_slice(&len.to_le_bytes());
        let refused = SnapshotReader::new(&long[..]).unwrap_err();
        assert!(refused.is_refusal(), "{refused}");
    }
}

#[test]
fn the_fixtures_are_refused_with_any_byte_missing() {
    for (_, bytes) in fixtures() {
        for at in (0..bytes.len()).step_by(37) {
            let mut shorter = bytes.clone();
            shorter.remove(at);
            let (forward, seeking) = read(&shorter, None);
            assert!(forward.is_err() && seeking.is_err(), "{at}");
        }
    }
}

/// Fills the gap between the parts of a file that are read.
#[test]
fn what_is_between_the_parts_is_seen() {
    let [bytes, _] = small();
    let snapshot = Snapshot::open(bytes.clone()).unwrap();
    for item in snapshot.items() {
        let mut longer = bytes.clone();
        longer.insert(item.offset as usize, 0);
        let (forward, seeking) = read(&longer, None);
        assert!(forward.unwrap_err().is_refusal());
        assert!(seeking.unwrap_err().is_refusal());
    }
}
