//! `lzhs`: pages by Lempel and Ziv's matches and Huffman's codes whose tables are shared by all pages. As dense as zstd and
//! 1.7 times as fast in both directions; our own, safe code.
//!
//! A zstd frame brings its tables along, and building them is most of the work of a page. Here a *collection* of sets of
//! code lengths is prepared once for all workers. Each page names the two sets that suit it best, one for its literals and
//! one for its tokens. A collection is built in. One that is trained on a device's own pages is a dictionary
//! ([`DictionaryForm::Collection`](crate::DictionaryForm)).
//!
//! The format is described in `docs/reference/lzhs.md`. A block of more than a page is coded as pages, each on its own.

mod collection;
mod decode;
mod encode;
mod header;
mod search;
mod token;
mod train;

use std::sync::Arc;

use collection::{Collection, Lengths};
use decode::Decode;
use encode::Encode;

use crate::{
    Algorithm, Decoder, DictionaryForm, DictionarySpec, Error, KnownAnswer, Prepared, Settings,
    Tfm, TrainingError, dictionary,
};

const NAME: &str = "lzhs";
pub(crate) const DICTIONARY: DictionarySpec = DictionarySpec {
    form: DictionaryForm::Collection,
    max_bytes: MAX_BYTES,
};
/// What may be given as a length for training. A collection has at most 14,380 bytes, and is no shorter for a longer one.
const MAX_BYTES: usize = 1 << 16;
const _: () = assert!(train::MAX_BYTES <= dictionary::DEFAULT_BYTES);
const _: () = assert!(train::MIN_BYTES == dictionary::MIN_COLLECTION_BYTES);

pub(crate) struct Backend;
struct Lzhs(Arc<Collection>);
struct LzhsTfm {
    collection: Arc<Collection>,
    encode: Encode,
    decode: Box<Decode>,
}
struct LzhsDecoder {
    collection: Arc<Collection>,
    decode: Box<Decode>,
}

impl Algorithm for Backend {
    about! {
        name: NAME,
        driver_name: "lzhs-uzram",
        priority: 100,
        summary: "for pages: zstd's density at 1.7 times its speed; our own",
        dictionary: DICTIONARY,
        known_answers: &[KnownAnswer {
            plain: b"abc",
            compressed: b"\x02\xF0\x3F\x00abc",
        }],
    }
    fn trains_itself(&self) -> bool {
        true
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        let collection = match settings.dictionary() {
            None => Collection::builtin(),
            Some(bytes) => Collection::new(&Lengths::from_bytes(bytes).ok_or_else(damaged)?),
        };
        Ok(Arc::new(Lzhs(Arc::new(collection))))
    }
}

fn damaged() -> Error {
    Error::DamagedDictionary {
        algorithm: NAME,
        reason: "it is not what a trainer made",
    }
}

/// Trains a collection of at most `max_bytes`.
pub(crate) fn train(samples: &[&[u8]], max_bytes: usize) -> Result<Vec<u8>, TrainingError> {
    let lengths = train::train(samples, max_bytes).ok_or(TrainingError::NothingInCommon)?;
    Ok(lengths.to_bytes())
}

impl Prepared for Lzhs {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        Ok(Box::new(LzhsTfm {
            collection: self.0.clone(),
            encode: Encode::new(),
            decode: Box::new(Decode::new()),
        }))
    }
    fn decoder(&self) -> Result<Box<dyn Decoder>, Error> {
        Ok(Box::new(LzhsDecoder {
            collection: self.0.clone(),
            decode: Box::new(Decode::new()),
        }))
    }
    fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}

impl Tfm for LzhsTfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        self.encode
            .compress(&self.collection, src, dst)
            .ok_or(Error::OutputTooSmall { got })
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        self.decode.decompress(&self.collection, src, dst)
    }
    fn memory_bytes(&self) -> usize {
        size_of_val(self) + self.encode.memory_bytes() + size_of::<Decode>()
    }
}

impl Decoder for LzhsDecoder {
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        self.decode.decompress(&self.collection, src, dst)
    }
    fn memory_bytes(&self) -> usize {
        size_of_val(self) + size_of::<Decode>()
    }
}
