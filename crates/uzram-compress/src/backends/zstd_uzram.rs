//! `zstd` by our own encoder for pages, safe code, and libzstd's decoder.
//!
//! The encoder replaces libzstd's levels 1 to 3 for pages, all three by one: against level 3 it is 1.27 times as fast on
//! the heaps of programs and 1.3 times on libraries and text, for 0.6 and 1.1 % more bytes; it is faster and denser than
//! level 1. Hence the priority above libzstd's. Other levels, blocks of more than 12 KiB, and dictionaries of more than
//! 64 KiB are left to libzstd. Separate from the driver of libzstd so that each can be asked for by its name.
//!
//! A block passes three stages: [`search`] divides it into literals and sequences, [`literals`] and [`sequences`] encode
//! the literals and the sequences section, with [`fse`] for the tables of both, and [`out`] takes the bits. A page takes
//! less than 10 us. The search is half of that; most of the rest builds tables, however little there is to encode.

mod cost;
mod dictionary;
mod encode;
mod fse;
mod literals;
mod out;
mod search;
mod sequences;

use std::sync::Arc;

use dictionary::Dictionary;
use encode::{Encoder, MAX_BLOCK};
use search::{SLOTS, SPACE, room};

use super::zstd::{self, DICTIONARY, DecoderDictionary, KNOWN, NAME, PARAMS, ZstdDecoder, ZstdTfm};
use crate::{Algorithm, Decoder, Error, Prepared, Settings, Tfm};

pub(crate) struct Backend;

/// With or without a dictionary, for blocks and content of at most `SPACE` bytes in all, with `TABLE` slots to find
/// matches by.
struct PageZstd<const SPACE: usize, const ROOM: usize, const TABLE: usize> {
    block_size: usize,
    dictionary: Option<Shared<TABLE>>,
}

/// A dictionary for both ways.
struct Shared<const TABLE: usize> {
    encoder: Arc<Dictionary<TABLE>>,
    decoder: Arc<DecoderDictionary>,
}

/// The levels that the encoder replaces.
const LEVELS: std::ops::RangeInclusive<i32> = 0..=3;
/// The longest dictionary that is not left to libzstd.
const MAX_DICTIONARY: usize = 0x10000;
/// Room for a block and up to 16 KiB of content, the usual length; and for all positions that 16 bits count.
const SMALL: usize = 0x8000;
const LARGE: usize = 0x10000;
/// Slots with a dictionary.
const MANY_SLOTS: usize = 0x2000;

fn damaged(reason: &'static str) -> Error {
    Error::DamagedDictionary {
        algorithm: NAME,
        reason,
    }
}

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
        let len = settings.dictionary().map_or(0, |bytes| bytes.len());
        if let Some(bytes) = settings.dictionary() {
            dictionary::parse(bytes).map_err(damaged)?;
        }
        if !ours || len > MAX_DICTIONARY || block_size > MAX_BLOCK {
            return zstd::Backend.prepare(settings);
        }
        if len == 0 {
            PageZstd::<SPACE, { room(SPACE) }, SLOTS>::prepare(settings)
        } else if len <= SMALL - block_size {
            PageZstd::<SMALL, { room(SMALL) }, MANY_SLOTS>::prepare(settings)
        } else {
            PageZstd::<LARGE, { room(LARGE) }, MANY_SLOTS>::prepare(settings)
        }
    }
}

impl<const SPACE: usize, const ROOM: usize, const TABLE: usize> PageZstd<SPACE, ROOM, TABLE> {
    fn prepare(settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        let block_size = settings.block_size();
        let share = |bytes| {
            let encoder = Dictionary::new(bytes, SPACE - block_size).map_err(damaged)?;
            Ok(Shared {
                encoder: Arc::new(encoder),
                decoder: Arc::new(DecoderDictionary::new(bytes)?),
            })
        };
        Ok(Arc::new(Self {
            block_size,
            dictionary: settings.dictionary().map(share).transpose()?,
        }))
    }

    fn new_decoder(&self) -> Result<ZstdDecoder, Error> {
        ZstdDecoder::new(self.dictionary.as_ref().map(|shared| &shared.decoder))
    }
}

impl<const SPACE: usize, const ROOM: usize, const TABLE: usize> Prepared
    for PageZstd<SPACE, ROOM, TABLE>
{
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        let dictionary = self
            .dictionary
            .as_ref()
            .map(|shared| shared.encoder.clone());
        let window_log = zstd::window_log(self.block_size);
        let encoder = Encoder::<SPACE, ROOM, TABLE>::new(window_log, dictionary);
        Ok(Box::new(ZstdTfm::new(encoder, self.new_decoder()?)))
    }
    fn decoder(&self) -> Result<Box<dyn Decoder>, Error> {
        Ok(Box::new(self.new_decoder()?))
    }
    fn memory_bytes(&self) -> usize {
        self.dictionary.as_ref().map_or(0, |shared| {
            shared.encoder.memory_bytes() + shared.decoder.memory_bytes()
        })
    }
}
