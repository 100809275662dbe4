//! Whatever a disk holds comes back: forward from a pipe, frame by frame from a file, over chains of incremental snapshots.

mod common;

use proptest::prelude::*;
use uzram_snapshot::{Digest, Error, Page, Snapshot, SnapshotReader, SnapshotWriter};
use uzram_testkit::Random;

use common::{Content, DICTIONARIES, Disk, Pages, apply, codecs, disk_source, keep, open};

fn by_frames(snapshot: &mut Snapshot) -> Pages {
    let mut pages = Pages::new();
    let restored = snapshot.restore(|page, content| keep(&mut pages, page, content));
    restored.unwrap();
    pages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn prop_a_disk_comes_back(seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let disk = Disk::random(&mut random);
        let (bytes, summary) = disk.snapshot();
        prop_assert_eq!(summary.bytes, bytes.len() as u64);
        let mut pages = Pages::new();
        let restored = apply(&bytes, &mut pages).unwrap();
        prop_assert!(pages == disk.contents, "forward");
        prop_assert_eq!((restored.name, restored.bytes), (summary.name, summary.bytes));
        let mut snapshot = Snapshot::open(bytes).unwrap();
        prop_assert_eq!(snapshot.name(), summary.name);
        prop_assert_eq!(snapshot.totals(), summary.totals);
        prop_assert!(by_frames(&mut snapshot) == disk.contents, "by frames");
        let verified = snapshot.verify().unwrap();
        prop_assert!(verified.is_complete && verified.bytes == summary.bytes);
    }

    #[test]
    fn prop_a_chain_comes_back(seed in any::<u64>(), links in 1..8usize) {
        let mut random = Random::new(seed);
        let mut disk = Disk::random(&mut random);
        let mut chain = vec![disk.snapshot().0];
        let mut applied = Pages::new();
        apply(&chain[0], &mut applied).unwrap();
        for _ in 0..links {
            let mut changed = disk.change(&mut random);
            if random.percent(25) {
                let pages = random.within(1, 2 * disk.pages);
                disk.resize(pages);
                changed.extend(disk.change(&mut random));
            }
            let (bytes, summary) = disk.since(open(&chain), &changed);
            apply(&bytes, &mut applied).unwrap();
            prop_assert!(applied == disk.contents, "applied to its parent");
            chain.push(bytes);
            let mut snapshot = open(&chain);
            prop_assert_eq!(snapshot.name(), summary.name);
            prop_assert!(by_frames(&mut snapshot) == disk.contents, "by frames");
            prop_assert!(snapshot.verify().unwrap().is_complete);
        }
    }
}

/// Pages of a frame that are changed one after another: what is in the smallest place is written again, and in the end all.
#[test]
fn a_frame_has_at_most_three_places() {
    let mut disk = Disk::new(64);
    for page in 0..64 {
        disk.set(page, Some(Content::Object(0, vec![page as u8; 50])));
    }
    let mut chain = vec![disk.snapshot().0];
    let mut carried = Vec::new();
    for link in 0..40 {
        disk.set(link, Some(Content::Object(1, vec![0xEE; 50])));
        let (bytes, _) = disk.since(open(&chain), &[link]);
        chain.push(bytes);
        let mut snapshot = open(&chain);
        assert!(by_frames(&mut snapshot) == disk.contents);
        carried.push(snapshot.verify().unwrap().carried_frames);
    }
    assert_eq!(carried[..5], [1, 2, 2, 2, 2]);
    let whole = carried.iter().position(|places| *places == 0).unwrap();
    assert!(whole > 16, "{carried:?}");
    assert_eq!(carried[whole + 1], 1);
}

#[test]
fn many_changed_pages_of_a_frame_are_written_with_all_others() {
    let disk = Disk::new(640);
    let parent = Snapshot::open(disk.snapshot().0).unwrap();
    let mut full = disk.clone();
    full.set(0, Some(Content::Raw(vec![1; 4096])));
    let child = Snapshot::open(full.snapshot().0).unwrap();
    let codecs = codecs();
    let source = disk_source(640, &codecs);
    let mut writer = SnapshotWriter::since(Vec::new(), &source, child).unwrap();
    assert_eq!(writer.needs(0, 0xFFFF).unwrap(), 0xFFFF);
    assert_eq!(writer.needs(0, 0x1_FFFF).unwrap(), u64::MAX);
    // The parent has nothing there: what did not change is zeros.
    assert_eq!(writer.needs(1, 0x1_FFFF).unwrap(), 0x1_FFFF);
    let mut writer = SnapshotWriter::since(Vec::new(), &source, parent).unwrap();
    assert_eq!(writer.needs(9, u64::MAX).unwrap(), u64::MAX);
}

#[test]
fn an_incremental_snapshot_needs_its_parent() {
    let mut disk = Disk::new(1000);
    disk.set(0, Some(Content::Object(0, vec![1; 9])));
    disk.set(1, Some(Content::Object(0, vec![2; 9])));
    let (parent, _) = disk.snapshot();
    let other = Disk::new(1000).snapshot().0;
    disk.set(1, None);
    let (child, _) = disk.since(Snapshot::open(parent.clone()).unwrap(), &[1]);

    let mut alone = Snapshot::open(child.clone()).unwrap();
    let name = Snapshot::open(parent.clone()).unwrap().name();
    assert_eq!(alone.missing_parent(), Some(name));
    assert!(!alone.verify().unwrap().is_complete);
    let refused = alone.frame(0).unwrap_err();
    assert!(matches!(refused, Error::MissingParent { parent } if parent == name));
    assert!(refused.to_string().contains(&name.to_string()));

    let open = |bytes: &[u8]| Snapshot::open(bytes.to_vec()).unwrap();
    let refused = open(&child).with_parent(open(&other)).unwrap_err();
    assert!(matches!(refused, Error::OtherParent { expected, .. } if expected == name));
    let refused = open(&parent).with_parent(open(&other)).unwrap_err();
    assert!(matches!(refused, Error::NoParent));
    let mut whole = open(&child).with_parent(open(&parent)).unwrap();
    assert_eq!(whole.missing_parent(), None);
    assert_eq!(whole.verify().unwrap().carried_frames, 1);
    assert!(by_frames(&mut whole) == disk.contents);
}

#[test]
fn codecs_keep_their_numbers_or_get_new_ones() {
    let codec = |number, algorithm| uzram_snapshot::CodecSource {
        number,
        algorithm,
        driver: "",
        params: "",
        dictionary: None,
    };
    let object = |codec| Page::Object {
        codec,
        bytes: b"object",
    };
    let (before, after) = (
        [codec(0, "lz4"), codec(1, "zstd")],
        [codec(0, "zstd"), codec(1, "842")],
    );
    let mut writer = SnapshotWriter::new(Vec::new(), &disk_source(2, &before)).unwrap();
    writer.frame(0, &[object(0), object(1)]).unwrap();
    let parent = Snapshot::open(writer.finish().unwrap().0).unwrap();
    let mut writer = SnapshotWriter::since(Vec::new(), &disk_source(4, &after), parent).unwrap();
    let pages = [Page::Unchanged, object(0), object(1), Page::Zero];
    writer.frame(0, &pages).unwrap();
    let (child, _) = writer.finish().unwrap();
    let reader = SnapshotReader::new(&child[..]).unwrap();
    let names: Vec<&str> = (0..3)
        .map(|n| reader.head().codec(n).unwrap().algorithm.as_str())
        .collect();
    assert_eq!(names, ["lz4", "zstd", "842"]);
    let mut found = Vec::new();
    let keep = |page, content: Page<'_>| {
        if let Page::Object { codec, .. } = content {
            found.push((page, codec));
        }
        Ok(())
    };
    reader.restore(keep).unwrap();
    assert_eq!(found, [(1, 1), (2, 2)]);

    let names: Vec<String> = (0..17).map(|n| format!("algorithm{n}")).collect();
    let first: Vec<_> = (0..16).map(|n| codec(n, &names[n as usize])).collect();
    let writer = SnapshotWriter::new(Vec::new(), &disk_source(1, &first)).unwrap();
    let parent = Snapshot::open(writer.finish().unwrap().0).unwrap();
    let one_more = [codec(0, &names[16])];
    let refused = SnapshotWriter::since(Vec::new(), &disk_source(1, &one_more), parent);
    assert!(matches!(refused, Err(Error::TooManyCodecs)));
}

#[test]
fn dictionaries_come_back() {
    let (bytes, _) = Disk::new(1).snapshot();
    let reader = SnapshotReader::new(&bytes[..]).unwrap();
    let snapshot = Snapshot::open(bytes.clone()).unwrap();
    for (codec, dictionary) in [
        (3, Some(DICTIONARIES[0])),
        (7, Some(DICTIONARIES[0])),
        (11, Some(DICTIONARIES[1])),
        (4, None),
    ] {
        assert_eq!(reader.dictionary(codec), dictionary);
        assert_eq!(snapshot.dictionary(codec).unwrap().as_deref(), dictionary);
    }
}

#[test]
fn what_cannot_be_written_is_refused_in_words() {
    let codecs = codecs();
    let source = disk_source(65, &codecs);
    let begin = || SnapshotWriter::new(Vec::new(), &source).unwrap();
    let refused = |frame, pages: &[Page<'_>]| begin().frame(frame, pages).unwrap_err().to_string();
    assert!(refused(0, &[Page::Zero]).contains("another number of pages"));
    assert!(refused(2, &[Page::Zero]).contains("the disk has 2"));
    assert!(refused(1, &[Page::Raw(b"short")]).contains("4096"));
    let object = |codec, bytes| [Page::Object { codec, bytes }];
    assert!(refused(1, &object(0, &[0; 4096])).contains("4095"));
    assert!(refused(1, &object(0, &[])).contains("4095"));
    assert!(refused(1, &object(16, &[1])).contains("page 64: its codec"));
    assert!(refused(1, &[Page::Unchanged]).contains("unchanged"));
    let mut writer = begin();
    writer.frame(1, &[Page::Zero]).unwrap();
    assert!(matches!(
        writer.frame(0, &[Page::Zero; 64]),
        Err(Error::Order { .. })
    ));
    for pages in [0, u64::MAX] {
        let refused = SnapshotWriter::new(Vec::new(), &disk_source(pages, &codecs));
        assert!(matches!(refused, Err(Error::Size { .. })));
    }
}

#[test]
fn an_error_of_the_target_or_the_sink_is_passed_on() {
    let mut disk = Disk::new(100);
    disk.set(70, Some(Content::Same(3)));
    let (bytes, _) = disk.snapshot();
    let full = |_, _: Page<'_>| Err(std::io::Error::other("the device is full"));
    let refused = SnapshotReader::new(&bytes[..]).unwrap().restore(full);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "page 70 could not be restored: the device is full"
    );
    let mut small = [0; 100];
    let codecs = codecs();
    let refused = SnapshotWriter::new(&mut small[..], &disk_source(1, &codecs)).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("cannot write the snapshot: ")
    );
}

#[test]
fn a_reader_takes_no_byte_after_the_end() {
    let (mut bytes, _) = Disk::new(3).snapshot();
    bytes.extend_from_slice(b"what follows");
    let mut rest = &bytes[..];
    SnapshotReader::new(&mut rest)
        .unwrap()
        .restore(|_, _| Ok(()))
        .unwrap();
    assert_eq!(rest, b"what follows");
    assert!(matches!(
        Snapshot::open(bytes.clone()),
        Err(Error::Cut { .. })
    ));
}

#[test]
fn names_are_parsed_as_they_are_printed() {
    let name = Snapshot::open(Disk::new(3).snapshot().0).unwrap().name();
    assert_eq!(name.to_string().parse(), Ok(name));
    for wrong in ["", "0", &"g".repeat(64), &"+1".repeat(32)] {
        assert!(wrong.parse::<Digest>().is_err());
    }
}

/// The worst that a frame can ask of the index stays within a thousandth of the disk.
#[test]
fn the_index_has_at_most_a_thousandth_of_the_disk() {
    let pages = 1 << 16;
    let codecs = codecs();
    let source = disk_source(pages, &codecs);
    let mut writer = SnapshotWriter::new(std::io::sink(), &source).unwrap();
    for frame in 0..1024 {
        let word = |page| Page::Same(1 + frame as u64 * 64 + page);
        let words: Vec<Page<'_>> = (0..64).map(word).collect();
        writer.frame(frame, &words).unwrap();
    }
    let (_, summary) = writer.finish().unwrap();
    assert!(summary.index_bytes > 200_000, "{summary:?}");
    assert!(summary.index_bytes <= pages * 4096 / 1000, "{summary:?}");
    assert_eq!(summary.totals.same_pages, pages);
}

/// A disk that is written while it is read: a basis of no one moment, then what changed meanwhile, in one file or pipe.
#[test]
fn a_file_can_have_several_snapshots() {
    let mut random = Random::new(3);
    let mut disk = Disk::new(1000);
    for page in 0..300 {
        disk.set(page, common::content(&mut random));
    }
    let (mut file, basis) = disk.basis();
    let refused = Snapshot::open(file.clone()).unwrap_err();
    assert!(
        matches!(refused, Error::Cut { .. }),
        "a basis alone is no snapshot"
    );

    let mut changed = disk.change(&mut random);
    changed.push(7);
    disk.set(7, Some(Content::Same(77)));
    // As the one who writes it has it: what is in the file so far is not to be opened.
    let parent = Snapshot::open_basis(file.clone()).unwrap();
    let (since, summary) = disk.since(parent, &changed);
    file.extend_from_slice(&since);

    let (mut pages, mut rest) = (Pages::new(), &file[..]);
    let mut restored = Vec::new();
    while !rest.is_empty() {
        let reader = SnapshotReader::new(&mut rest).unwrap();
        restored.push(
            reader
                .restore(|page, content| keep(&mut pages, page, content))
                .unwrap(),
        );
    }
    assert!(pages == disk.contents);
    let names: Vec<_> = restored.iter().map(|of| (of.name, of.is_basis)).collect();
    assert_eq!(names, [(basis.name, true), (summary.name, false)]);

    let mut snapshot = Snapshot::open(file.clone()).unwrap();
    assert_eq!(
        (snapshot.name(), snapshot.missing_parent()),
        (summary.name, None)
    );
    assert!(by_frames(&mut snapshot) == disk.contents);
    let verified = snapshot.verify().unwrap();
    assert!(verified.is_complete && verified.carried_frames > 0);

    let mut foreign = Disk::new(1000).snapshot().0;
    foreign.extend_from_slice(&since);
    let refused = Snapshot::open(foreign).unwrap_err();
    assert!(refused.to_string().contains("not its parent"), "{refused}");
    for len in (0..file.len()).step_by(101) {
        assert!(
            matches!(Snapshot::open(file[..len].to_vec()), Err(Error::Cut { .. })),
            "{len}"
        );
    }
}

/// The parent of the first snapshot in a file of two is in another file.
#[test]
fn the_parent_that_is_missing_is_given() {
    let mut random = Random::new(4);
    let mut disk = Disk::random(&mut random);
    let first = disk.snapshot().0;
    let opened = || Snapshot::open(first.clone()).unwrap();
    let changed = disk.change(&mut random);
    let (mut file, _) = disk.since(opened(), &changed);
    let second = Snapshot::open(file.clone()).unwrap();
    let changed = disk.change(&mut random);
    let (third, _) = disk.since(second.with_parent(opened()).unwrap(), &changed);
    file.extend_from_slice(&third);
    let both = Snapshot::open(file).unwrap();
    assert_eq!(both.missing_parent(), Some(opened().name()));
    let mut all = both.with_parent(opened()).unwrap();
    assert_eq!(all.missing_parent(), None);
    assert!(by_frames(&mut all) == disk.contents);
    assert!(matches!(all.with_parent(opened()), Err(Error::NoParent)));
}
