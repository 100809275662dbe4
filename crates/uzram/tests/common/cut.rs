//! Reads what a cut yields, by its own description of the codecs: as a restore on another machine would.

use std::collections::BTreeMap;

use uzram::compress::{Decoder, Registry};
use uzram::{Basis, Cut, CutCodec, CutFrame, CutPage, Error, FRAME_PAGES, PAGE_SIZE};

/// Decompresses what a cut yields, by its own description of the codecs.
pub(crate) struct Decoders(BTreeMap<u8, Box<dyn Decoder>>);

impl Decoders {
    pub(crate) fn of(cut: &Cut<'_>, registry: &Registry) -> Decoders {
        Decoders::of_codecs(cut.codecs(), registry)
    }

    pub(crate) fn of_codecs(codecs: &[CutCodec], registry: &Registry) -> Decoders {
        let decoder = |codec: &CutCodec| {
            let algorithm = registry.find(&codec.driver).unwrap();
            let params = codec.params.split(',').filter(|param| !param.is_empty());
            let params = params.map(|param| param.split_once('=').unwrap());
            let mut settings =
                uzram::compress::Settings::new(&**algorithm, PAGE_SIZE, params).unwrap();
            if let Some(dictionary) = &codec.dictionary {
                settings = settings
                    .with_dictionary(&**algorithm, dictionary.clone())
                    .unwrap();
            }
            let prepared = algorithm.prepare(&settings).unwrap();
            (codec.index, prepared.decoder().unwrap())
        };
        Decoders(codecs.iter().map(decoder).collect())
    }

    /// Adds what a frame holds.
    pub(crate) fn keep(&mut self, frame: &CutFrame<'_>, found: &mut BTreeMap<u64, Vec<u8>>) {
        let first = u64::from(frame.number()) * FRAME_PAGES as u64;
        for (page, contents) in (first..).zip(frame.pages()) {
            if contents != CutPage::Unchanged {
                found.insert(page, self.read(contents));
            }
        }
    }

    /// Likewise, where there is one.
    fn keep_if_any(
        &mut self,
        frame: Option<CutFrame<'_>>,
        found: &mut BTreeMap<u64, Vec<u8>>,
    ) -> bool {
        frame.map(|frame| self.keep(&frame, found)).is_some()
    }

    pub(crate) fn read(&mut self, page: CutPage<'_>) -> Vec<u8> {
        let mut out = vec![0; PAGE_SIZE];
        match page {
            CutPage::Zero | CutPage::Unchanged => {}
            CutPage::Same(word) => out.as_chunks_mut::<8>().0.fill(word.to_le_bytes()),
            CutPage::Raw(bytes) => out.copy_from_slice(bytes),
            CutPage::Object { codec, bytes } => {
                let decoder = self.0.get_mut(&codec).expect("a codec of the cut's list");
                assert_eq!(decoder.decompress(bytes, &mut out), Ok(PAGE_SIZE));
            }
        }
        out
    }
}

/// Takes up to `frames` frames of a cut into `found`. `false` behind the last.
pub(crate) fn walk(
    cut: &mut Cut<'_>,
    decoders: &mut Decoders,
    found: &mut BTreeMap<u64, Vec<u8>>,
    frames: usize,
) -> Result<bool, Error> {
    walk_by(
        frames,
        || Ok(decoders.keep_if_any(cut.next_frame()?, found)),
    )
}

/// The same of a basis.
#[allow(dead_code, reason = "each test program uses a part")]
pub(crate) fn walk_basis(
    basis: &mut Basis<'_>,
    decoders: &mut Decoders,
    found: &mut BTreeMap<u64, Vec<u8>>,
    frames: usize,
) -> Result<bool, Error> {
    walk_by(frames, || {
        Ok(decoders.keep_if_any(basis.next_frame()?, found))
    })
}

/// The same of what changed before a cut.
#[allow(dead_code, reason = "each test program uses a part")]
pub(crate) fn walk_changed(
    cut: &mut Cut<'_>,
    decoders: &mut Decoders,
    found: &mut BTreeMap<u64, Vec<u8>>,
    frames: usize,
) -> Result<bool, Error> {
    walk_by(frames, || {
        let frame = cut.next_changed_frame(|_, bits| Ok::<u64, Error>(bits))?;
        Ok(decoders.keep_if_any(frame, found))
    })
}

fn walk_by(frames: usize, mut next: impl FnMut() -> Result<bool, Error>) -> Result<bool, Error> {
    for _ in 0..frames {
        if !next()? {
            return Ok(false);
        }
    }
    Ok(true)
}
