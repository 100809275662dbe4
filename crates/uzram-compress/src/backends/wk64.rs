//! `wk64`: for the memory of processes, after Wilson and Kaplan. A word that occurred before is coded as a reference, a
//! word near an earlier one as a reference and its low bits, any other word as it is. Safe code without a branch for each
//! word. As dense as lz4 on heaps and more than twice as fast to write; it finds little in text.
//!
//! The format: the length of the input (LEB128: 7 bits a byte, low bits first, the top bit set where more follow), then
//! parts for 4 KiB of input each, then the input's last 0 to 7 bytes as they are. Words have 8 bytes and all numbers are
//! little-endian. A part, the last of which may stand for less input, in whole words, has four streams:
//!
//! 1. *tags*: two bits a word, the first word's lowest, padded with zeros to whole bytes;
//! 2. the *far* words as they are: 8 bytes for each tag 3;
//! 3. the low 16 bits of the *near* words: 2 bytes for each tag 2;
//! 4. *places* in the ring: a byte for each tag 1 and 2.
//!
//! Encoder and decoder keep the last 256 far or near words in a ring that begins with zeros. A word of tag 0 is zero; of
//! tag 1, the word at its place in the ring; of tag 2, that word with other low bits. Words of tags 2 and 3 enter the
//! ring. The ring's next place meanwhile holds the last word of any tag: every word is stored there, and the place
//! advances only where the word enters.

mod decode;
mod encode;

use std::sync::Arc;

use encode::Encoder;

use crate::{Algorithm, Decompress, Error, KnownAnswer, Prepared, Settings, Tfm};

const NAME: &str = "wk64";
/// Words of a part.
const WORDS: usize = 512;
/// Words in the ring.
const RING: usize = 256;
/// Low bits in which a near word differs.
const LOW: u32 = 16;

pub(crate) struct Backend;
struct Wk64;
struct Wk64Tfm(Box<Encoder>);

impl Algorithm for Backend {
    about! {
        name: NAME,
        driver_name: "wk64-uzram",
        priority: 100,
        summary: "for heaps: lz4's density, twice its speed; our own",
        // By tests/wk64.py, which was written from the format's description.
        known_answers: &[KnownAnswer {
            plain: b"pointer1\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
                \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
                \x00\x00\x00\x00pointer1p\x01inter1a word  pointer1\x00\x00\x00\x00\x00\x00\
                \x00end",
            compressed:
                b"Z\x03\x907pointer1a word  \x00\x00\x00\x00\x00\x00\x00ep\x01\x00\x00\x00nd",
        }],
    }
    fn prepare(&self, _settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Arc::new(Wk64))
    }
}

impl Prepared for Wk64 {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        Ok(Box::new(Wk64Tfm(Box::new(Encoder::new()))))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
}

impl Decompress for Wk64 {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decode::decompress(src, dst)
    }
}

impl Tfm for Wk64Tfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        self.0
            .compress(src, dst)
            .ok_or(Error::OutputTooSmall { got })
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decode::decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        size_of::<Encoder>()
    }
}
