//! What becomes of a frame's pages: which are stored anew, which words stand in the index, which places of the parent are kept.

use crate::format::{MAX_CODECS, MAX_PLACES};
use crate::index::{FrameEntry, Place, max_words};
use crate::page::{Descriptor, Page};

/// A page that is to be stored.
pub(crate) enum Own<'a> {
    Bytes(Descriptor, &'a [u8]),
    Word([u8; 8]),
}

impl Own<'_> {
    pub(crate) fn descriptor(&self) -> Descriptor {
        match self {
            Own::Bytes(descriptor, _) => *descriptor,
            Own::Word(_) => Descriptor::WORD,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Own::Bytes(_, bytes) => bytes,
            Own::Word(word) => word,
        }
    }
}

/// An entry without a place for what is to be stored, and that. `codecs`: the snapshot's number of each of the disk's.
pub(crate) fn plan<'a>(
    codecs: &[Option<u8>; MAX_CODECS],
    pages: &[Page<'a>],
    old: Option<&FrameEntry>,
    changed: u64,
) -> (FrameEntry, Vec<(usize, Own<'a>)>) {
    let mut entry = FrameEntry::empty();
    let mut own: Vec<(usize, Own<'a>)> = Vec::new();
    let mut same = Vec::new();
    for (at, page) in pages.iter().enumerate() {
        match *page {
            Page::Zero | Page::Same(0) => {}
            Page::Same(word) => same.push((at, word)),
            Page::Raw(bytes) => own.push((at, Own::Bytes(Descriptor::RAW, bytes))),
            Page::Object { codec, bytes } => {
                let codec = codecs[usize::from(codec)].unwrap_or_default();
                let descriptor = Descriptor::object(codec, bytes.len());
                own.push((at, Own::Bytes(descriptor, bytes)));
            }
            Page::Unchanged => {
                let unchanged = old.map_or(Descriptor::ZERO, |old| old.pages[at]);
                match old.and_then(|old| old.word(at)) {
                    Some(word) => same.push((at, word)),
                    None => entry.pages[at] = unchanged,
                }
            }
        }
    }
    if let Some(old) = old {
        entry.places = kept(old, changed);
    }
    let mut words: Vec<u64> = Vec::new();
    for (_, word) in &same {
        if !words.contains(word) {
            words.push(*word);
        }
    }
    let kept = entry.places.len();
    if !own.is_empty() || words.len() > max_words(kept) {
        // The others go to the frame.
        words.truncate(max_words(kept + 1));
    }
    for (at, word) in same {
        match words.iter().position(|of| *of == word) {
            Some(index) => entry.pages[at] = Descriptor::inline(index),
            None => own.push((at, Own::Word(word.to_le_bytes()))),
        }
    }
    entry.words = words;
    own.sort_by_key(|(at, _)| *at);
    for (at, page) in &own {
        entry.pages[*at] = page.descriptor();
    }
    (entry, own)
}

/// The places that pages which did not change are in.
fn kept(old: &FrameEntry, changed: u64) -> Vec<Place> {
    let mut places = old.places.clone();
    places.iter_mut().for_each(|place| place.mask &= !changed);
    places.retain(|place| place.mask != 0);
    places
}

/// Whether there is a place left for what changed.
pub(crate) fn fits(old: &FrameEntry, changed: u64) -> bool {
    kept(old, changed).len() < MAX_PLACES
}

/// What changed, and the pages of the smallest places, until there is a place left.
pub(crate) fn with_smallest_places(old: &FrameEntry, changed: u64) -> u64 {
    let mut needed = changed;
    loop {
        let kept = kept(old, needed);
        let smallest = kept.iter().min_by_key(|place| place.mask.count_ones());
        match smallest {
            Some(smallest) if kept.len() >= MAX_PLACES => needed |= smallest.mask,
            _ => return needed,
        }
    }
}
