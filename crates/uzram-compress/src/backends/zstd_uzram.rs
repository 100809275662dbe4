//! `zstd` by our own encoder for pages, safe code, and libzstd's decoder.
//!
//! The encoder is for what libzstd does at its levels 1 to 3 with a page, and does it at one level: against level 3 it
//! is 1.27 times as fast on the heaps of programs and 1.3 times on libraries and text, for 0.6 and 1.1 % more bytes;
//! it is faster and denser than level 1. Hence the priority above libzstd's. What the encoder is not made for is
//! libzstd's: other levels, dictionaries, and blocks of more than 12 KiB. Separate from the driver of
//! libzstd so that each can be asked for by its name.
//!
//! A block goes through three parts: [`search`] divides it into literals and sequences, [`literals`] and [`sequences`]
//! code them, with [`fse`] for the tables of both, and [`out`] takes the bits. A page takes less than 10 us, of which
//! the search is half and most of the rest does not depend on how much there is to code: tables.

mod encode;
mod fse;
mod literals;
mod out;
mod search;
mod sequences;

use std::sync::Arc;

use encode::{Encoder, MOST};

use super::zstd::{self, DICTIONARY, KNOWN, NAME, PARAMS, ZstdDecoder};
use crate::{
    Algorithm, Decoder, DictionarySpec, Error, KnownAnswer, ParamSpec, Prepared, Settings, Tfm,
};

pub(crate) struct Backend;
struct Page {
    block_size: usize,
}
struct PageTfm {
    encoder: Encoder,
    decoder: ZstdDecoder,
}

/// The levels that the encoder is for.
const LEVELS: std::ops::RangeInclusive<i32> = 0..=3;

impl Algorithm for Backend {
    fn name(&self) -> &'static str {
        NAME
    }
    fn driver_name(&self) -> &'static str {
        "zstd-uzram"
    }
    fn priority(&self) -> i32 {
        150
    }
    fn summary(&self) -> &'static str {
        "zstd for pages, faster at levels 0 to 3; our own"
    }
    fn params(&self) -> &'static [ParamSpec] {
        PARAMS
    }
    fn dictionary(&self) -> Option<DictionarySpec> {
        Some(DICTIONARY)
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        KNOWN
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        let ours = LEVELS.contains(&settings.c_int("level"));
        let block_size = settings.block_size();
        if !ours || settings.dictionary().is_some() || block_size > MOST {
            return zstd::Backend.prepare(settings);
        }
        Ok(Arc::new(Page { block_size }))
    }
}

impl Prepared for Page {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        let encoder = Encoder::new(zstd::window_log(self.block_size));
        Ok(Box::new(PageTfm {
            encoder,
            decoder: ZstdDecoder::new()?,
        }))
    }
    fn decoder(&self) -> Result<Box<dyn Decoder>, Error> {
        Ok(Box::new(ZstdDecoder::new()?))
    }
}

impl Tfm for PageTfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        self.encoder
            .compress(src, dst)
            .ok_or(Error::OutputTooSmall { got })
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        self.decoder.decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        self.encoder.memory_bytes() + self.decoder.memory_bytes()
    }
}
