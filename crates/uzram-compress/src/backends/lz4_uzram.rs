//! `lz4` by our own encoder for pages, safe code, and liblz4's decoder.
//!
//! The encoder leaves dictionaries, and blocks too long for its positions of 16 bits, to liblz4. Its priority is below
//! liblz4's: at level 1 it is 1.2 times as fast on libraries and text, but no faster on the heaps of interpreters, which
//! are most of what a device gets. Its levels are worth more: each searches for matches of one byte more. Separate from
//! the driver of liblz4 so that each can be asked for by its name.

mod encode;

use std::sync::Arc;

use encode::{Encoder, MAX_BLOCK};

use super::liblz4;
use super::lz4::{self, NAME, PARAMS};
use crate::{Algorithm, Decompress, Error, Prepared, Settings, Tfm};

pub(crate) struct Backend;
struct PageLz4 {
    level: u32,
}
struct PageLz4Tfm {
    level: u32,
    encoder: Encoder,
}

impl Algorithm for Backend {
    about! {
        name: NAME,
        driver_name: "lz4-uzram",
        priority: 150,
        summary: "lz4 for pages, faster on libraries and text; our own",
        params: PARAMS,
        dictionary: liblz4::DICTIONARY,
        known_answers: super::LZ4_KNOWN,
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        if settings.dictionary().is_some() || settings.block_size() > MAX_BLOCK {
            return lz4::Backend.prepare(settings);
        }
        let level = settings.c_int("level").unsigned_abs();
        Ok(Arc::new(PageLz4 { level }))
    }
}

impl Prepared for PageLz4 {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        Ok(Box::new(PageLz4Tfm {
            level: self.level,
            encoder: Encoder::new(),
        }))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
}

impl Decompress for PageLz4 {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        liblz4::decompress(NAME, src, dst, &[])
    }
}

impl Tfm for PageLz4Tfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        self.encoder
            .compress(src, dst, self.level)
            .ok_or(Error::OutputTooSmall { got })
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        liblz4::decompress(NAME, src, dst, &[])
    }
    fn memory_bytes(&self) -> usize {
        self.encoder.memory_bytes()
    }
}
