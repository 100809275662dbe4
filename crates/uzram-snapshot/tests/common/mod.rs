//! A disk as a map from page to contents, snapshots of it, and what is read back of them.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io;

use uzram_snapshot::{
    CodecSource, DictionarySource, DiskSource, FRAME_PAGES, Page, Snapshot, SnapshotReader,
    SnapshotSummary, SnapshotWriter,
};
use uzram_testkit::Random;

/// What a page of the disk is. Pages that are zeros are not in the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Same(u64),
    Raw(Vec<u8>),
    Object(u8, Vec<u8>),
}

pub(crate) type Pages = BTreeMap<u64, Content>;

#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) pages: u64,
    pub(crate) contents: Pages,
}

pub(crate) const DICTIONARIES: [&[u8]; 2] = [b"a dictionary of few words", &[7; 5000]];

/// All different: the same codec under two numbers would get one.
const PARAMS: [&str; 16] = [
    "", "level=1", "level=2", "a=1,b=2", "é", "level=5", "6", "", "8", "9", "10", "b", "c", "d",
    "", "f",
];

/// The codecs of each number that a test's disk has.
pub(crate) fn codecs() -> Vec<CodecSource<'static>> {
    (0..16)
        .map(|number| CodecSource {
            number,
            algorithm: ["lz4", "zstd", "lzhs"][number as usize % 3],
            driver: ["liblz4", "", "lzhs"][number as usize % 3],
            params: PARAMS[number as usize],
            dictionary: match number {
                3 | 7 => Some(DictionarySource::Bytes(DICTIONARIES[0])),
                // The same but for the dictionary.
                11 => Some(DictionarySource::Bytes(DICTIONARIES[1])),
                // The same as 0 but for this.
                12 => Some(DictionarySource::Bytes(DICTIONARIES[1])),
                _ => None,
            },
        })
        .collect()
}

pub(crate) fn disk_source<'a>(pages: u64, codecs: &'a [CodecSource<'a>]) -> DiskSource<'a> {
    DiskSource {
        pages,
        taken_at_seconds: 1_796_000_000,
        is_basis: false,
        codecs,
        notes: b"{\"name\":\"zram0\"}",
    }
}

pub(crate) fn content(random: &mut Random) -> Option<Content> {
    let object = |random: &mut Random, len| {
        let codec = random.below(16) as u8;
        Some(Content::Object(codec, random.bytes(len)))
    };
    match random.below(10) {
        0 => None,
        1 => Some(Content::Raw(random.bytes(4096))),
        2 => Some(Content::Same(u64::MAX)),
        3 => Some(Content::Same(random.next() | 1)),
        4 => object(random, 1),
        5 => object(random, 4095),
        _ => {
            let len = random.within(1, 300) as usize;
            object(random, len)
        }
    }
}

impl Disk {
    pub(crate) fn new(pages: u64) -> Disk {
        let contents = Pages::new();
        Disk { pages, contents }
    }

    pub(crate) fn set(&mut self, page: u64, content: Option<Content>) {
        match content {
            Some(content) if page < self.pages => drop(self.contents.insert(page, content)),
            _ => drop(self.contents.remove(&page)),
        }
    }

    /// Frames of every kind: full, sparse, of words, near the ends of blocks.
    pub(crate) fn random(random: &mut Random) -> Disk {
        let pages = match random.below(3) {
            0 => random.within(1, 200),
            1 => random.within(65_500, 65_600),
            _ => random.within(200_000, 300_000),
        };
        let mut disk = Disk::new(pages);
        for _ in 0..random.within(0, 6) {
            let frame = random.below(pages.div_ceil(64));
            let filled = *random.pick(&[1, 5, 50, 100]);
            let words_only = random.percent(25);
            for page in frame * 64..(frame * 64 + 64).min(pages) {
                if random.percent(filled) {
                    let content = match words_only {
                        true => Some(Content::Same(1 + random.below(40))),
                        false => content(random),
                    };
                    disk.set(page, content);
                }
            }
        }
        disk
    }

    /// Changes some pages; returns which.
    pub(crate) fn change(&mut self, random: &mut Random) -> Vec<u64> {
        let mut changed = Vec::new();
        for _ in 0..random.within(0, 5) {
            let used: Vec<u64> = self.contents.keys().copied().collect();
            let near = match used.is_empty() || random.percent(20) {
                true => random.below(self.pages),
                false => *random.pick(&used),
            };
            let many = *random.pick(&[1, 1, 2, 10, 40, 64]);
            for _ in 0..many {
                let page = (near / 64 * 64 + random.below(64)).min(self.pages - 1);
                let content = match random.percent(20) {
                    true => None,
                    false => content(random),
                };
                self.set(page, content);
                changed.push(page);
            }
        }
        changed
    }

    pub(crate) fn resize(&mut self, pages: u64) {
        self.pages = pages;
        self.contents.retain(|page, _| *page < pages);
    }

    pub(crate) fn page(&self, page: u64) -> Page<'_> {
        match self.contents.get(&page) {
            None => Page::Zero,
            Some(Content::Same(word)) => Page::Same(*word),
            Some(Content::Raw(bytes)) => Page::Raw(bytes),
            Some(Content::Object(codec, bytes)) => Page::Object {
                codec: *codec,
                bytes,
            },
        }
    }

    fn frame(&self, frame: u32, needed: u64) -> Vec<Page<'_>> {
        let first = u64::from(frame) * FRAME_PAGES as u64;
        let last = (first + FRAME_PAGES as u64).min(self.pages);
        let is_needed = |page: u64| needed >> (page - first) & 1 != 0;
        (first..last)
            .map(|page| match is_needed(page) {
                true => self.page(page),
                false => Page::Unchanged,
            })
            .collect()
    }

    /// A snapshot that is complete in itself.
    pub(crate) fn snapshot(&self) -> (Vec<u8>, SnapshotSummary) {
        self.complete(false)
    }

    /// What a snapshot of a disk that is written meanwhile begins with.
    pub(crate) fn basis(&self) -> (Vec<u8>, SnapshotSummary) {
        self.complete(true)
    }

    fn complete(&self, is_basis: bool) -> (Vec<u8>, SnapshotSummary) {
        let codecs = codecs();
        let source = DiskSource {
            is_basis,
            ..disk_source(self.pages, &codecs)
        };
        let writer = SnapshotWriter::new(Vec::new(), &source).unwrap();
        let mut writer = writer.with_segment_bytes(0);
        let mut frames: Vec<u32> = self
            .contents
            .keys()
            .map(|page| (page / 64) as u32)
            .collect();
        frames.dedup();
        for frame in frames {
            writer.frame(frame, &self.frame(frame, u64::MAX)).unwrap();
        }
        writer.finish().unwrap()
    }

    /// A snapshot of what changed since another.
    pub(crate) fn since(&self, parent: Snapshot, changed: &[u64]) -> (Vec<u8>, SnapshotSummary) {
        let codecs = codecs();
        let source = disk_source(self.pages, &codecs);
        let writer = SnapshotWriter::since(Vec::new(), &source, parent).unwrap();
        let mut writer = writer.with_segment_bytes(0);
        let mut masks: BTreeMap<u32, u64> = BTreeMap::new();
        for page in changed.iter().filter(|page| **page < self.pages) {
            *masks.entry((page / 64) as u32).or_default() |= 1 << (page % 64);
        }
        for (frame, mask) in masks {
            let needed = writer.needs(frame, mask).unwrap();
            assert_eq!(needed & mask, mask, "what changed is needed");
            writer.frame(frame, &self.frame(frame, needed)).unwrap();
        }
        writer.finish().unwrap()
    }
}

/// Keeps a page that was read.
pub(crate) fn keep(pages: &mut Pages, page: u64, content: Page<'_>) -> io::Result<()> {
    let content = match content {
        Page::Zero => {
            pages.remove(&page);
            return Ok(());
        }
        Page::Same(word) => Content::Same(word),
        Page::Raw(bytes) => Content::Raw(bytes.to_vec()),
        Page::Object { codec, bytes } => Content::Object(codec, bytes.to_vec()),
        Page::Unchanged => panic!("no page is read as unchanged"),
    };
    pages.insert(page, content);
    Ok(())
}

/// Reads a snapshot forward onto what is there already.
pub(crate) fn apply(
    bytes: &[u8],
    pages: &mut Pages,
) -> Result<uzram_snapshot::Restored, uzram_snapshot::Error> {
    let reader = SnapshotReader::new(bytes)?;
    let disk = reader.head().pages;
    let mut seen = std::collections::BTreeSet::new();
    pages.retain(|page, _| *page < disk);
    reader.restore(|page, content| {
        assert!(seen.insert(page), "page {page} comes twice");
        assert!(page < disk);
        keep(pages, page, content)
    })
}

/// Opens a chain, the oldest first.
pub(crate) fn open(chain: &[Vec<u8>]) -> Snapshot {
    let (last, before) = chain.split_last().unwrap();
    let snapshot = Snapshot::open(last.clone()).unwrap();
    match before.is_empty() {
        true => snapshot,
        false => snapshot.with_parent(open(before)).unwrap(),
    }
}

/// The disk and its child, of which the fixtures are snapshots.
pub(crate) fn fixtures() -> [(Disk, Vec<u8>); 2] {
    let mut random = Random::new(1);
    let mut disk = Disk::new(70_000);
    for page in [0, 1, 2, 63, 64, 100, 65_535, 65_536, 69_999] {
        let len = random.within(1, 60) as usize;
        disk.set(
            page,
            Some(Content::Object((page % 16) as u8, random.bytes(len))),
        );
    }
    disk.set(3, Some(Content::Raw(random.bytes(4096))));
    disk.set(4, Some(Content::Same(0x0123_4567_89AB_CDEF)));
    for page in 128..192 {
        disk.set(page, Some(Content::Same(page)));
    }
    let (parent, _) = disk.snapshot();
    let before = disk.clone();
    disk.set(1, Some(Content::Object(9, b"changed".to_vec())));
    disk.set(2, None);
    disk.set(100, Some(Content::Same(5)));
    disk.set(66_000, Some(Content::Object(0, b"new".to_vec())));
    let changed = [1, 2, 100, 66_000];
    let (child, _) = disk.since(Snapshot::open(parent.clone()).unwrap(), &changed);
    [(before, parent), (disk, child)]
}
