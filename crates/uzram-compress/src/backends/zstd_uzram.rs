//! `zstd` by our own encoder for pages, safe code, and libzstd's decoder.
//!
//! The encoder replaces libzstd's levels 1 to 3 for pages, all three by one: against level 3 it is 1.27 times as fast on
//! the heaps of programs and 1.3 times on libraries and text, for 0.6 and 1.1 % more bytes; it is faster and denser than
//! level 1. Hence the priority above libzstd's. Other levels, dictionaries, and blocks of more than 12 KiB are left to
//! libzstd. Separate from the driver of libzstd so that each can be asked for by its name.
//!
//! A block passes three stages: [`search`] divides it into literals and sequences, [`literals`] and [`sequences`] encode
//! the literals and the sequences section, with [`fse`] for the tables of both, and [`out`] takes the bits. A page takes
//! less than 10 us. The search is half of that; most of the rest builds tables, however little there is to encode.

mod encode;
mod fse;
mod literals;
mod out;
mod search;
mod sequences;

use std::sync::Arc;

use encode::{Encoder, MAX_BLOCK};

use super::zstd::{self, DICTIONARY, KNOWN, NAME, PARAMS, ZstdDecoder, ZstdTfm};
use crate::{Algorithm, Decoder, Error, Prepared, Settings, Tfm};

pub(crate) struct Backend;
struct PageZstd {
    block_size: usize,
}

/// The levels that the encoder replaces.
const LEVELS: std::ops::RangeInclusive<i32> = 0..=3;

impl Algorithm for Backend {
    about! {
        name: NAME,
        driver_name: "zstd-uzram",
        priority: 150,
        summary: "zstd for pages, faster at levels 0 to 3; our own",
        params: PARAMS,
        dictionary: DICTIONARY,
        known_answers: KNOWN,
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        let ours = LEVELS.contains(&settings.c_int("level"));
        let block_size = settings.block_size();
        if !ours || settings.dictionary().is_some() || block_size > MAX_BLOCK {
            return zstd::Backend.prepare(settings);
        }
        Ok(Arc::new(PageZstd { block_size }))
    }
}

impl Prepared for PageZstd {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        let encoder = Encoder::new(zstd::window_log(self.block_size));
        Ok(Box::new(ZstdTfm::new(encoder, ZstdDecoder::new()?)))
    }
    fn decoder(&self) -> Result<Box<dyn Decoder>, Error> {
        Ok(Box::new(ZstdDecoder::new()?))
    }
}
