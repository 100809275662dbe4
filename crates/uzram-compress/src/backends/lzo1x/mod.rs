//! The LZO1X stream, which `lzo` and `lzo-rle` share: our own encoder and decoder, written from the kernel's
//! description of the format (Documentation/staging/lzo.rst), in safe code.
//!
//! A stream is a sequence of instructions. Each copies a match from earlier output and then 0 to 3 literals, whose number
//! is in the instruction's lowest two bits (the *state*); longer runs of literals have an instruction of their own. An
//! instruction byte below 16 is interpreted by the state before it. Version 1 (`lzo-rle`) begins with the bytes 17, 1 and
//! adds one instruction, a run of zeros.
//!
//! Separate from the two registry rows because they differ by one constant, [`Lzo::<RLE>`](Lzo).

mod decode;
mod encode;
mod out;

use std::sync::Arc;

use encode::Encoder;

use crate::{Decompress, Error, Prepared, Tfm};

/// The greatest distance of a 2-byte match instruction.
const NEAR: usize = 2048;
/// The greatest distance of a 3-byte match instruction that begins with 32 to 63.
const MIDDLE: usize = 16384;
/// The longest match at a [`NEAR`] distance that takes 2 bytes.
const NEAR_LEN: usize = 8;
/// The longest match that takes 3 bytes, up to [`MIDDLE`].
const MIDDLE_LEN: usize = 33;
/// The longest match that takes 3 bytes, beyond [`MIDDLE`].
const FAR_LEN: usize = 9;
/// Added to the length of a first run of literals.
const FIRST: usize = 17;
/// The first byte of a stream with a version, which is the second byte.
const VERSIONED: u8 = 17;
/// The version with runs of zeros.
const VERSION_RLE: u8 = 1;
/// The shortest stream that can have a version.
const VERSIONED_LEN: usize = 5;
/// A far match at distance [`MIDDLE`] ends the stream.
const END: [u8; 3] = [17, 0, 0];
/// Runs of zeros: the instruction's bits above its 3 of length, and its distance with any state.
const RUN: u8 = 0b0001_1000;
const RUN_DISTANCE: u16 = 0xFFFC;
/// The shortest and the longest run.
const RUN_MIN: usize = 4;
const RUN_MAX: usize = RUN_MIN + 0x7FF;

/// What both algorithms prepare: there are no parameters.
pub(super) struct Lzo<const RLE: bool>;

impl<const RLE: bool> Lzo<RLE> {
    const NAME: &str = if RLE { "lzo-rle" } else { "lzo" };

    pub(super) fn prepare() -> Arc<dyn Prepared> {
        Arc::new(Self)
    }
}

impl<const RLE: bool> Prepared for Lzo<RLE> {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        Ok(Box::new(LzoTfm::<RLE> {
            encoder: Encoder::new(),
        }))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
}

/// As in the kernel, each name's decoder reads both versions.
impl<const RLE: bool> Decompress for Lzo<RLE> {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decode::decompress(src, dst).map_err(|error| match error {
            decode::LzoError::Corrupt => Error::Corrupt {
                algorithm: Self::NAME,
            },
            decode::LzoError::NoRoom => Error::OutputTooSmall { got: dst.len() },
        })
    }
}

struct LzoTfm<const RLE: bool> {
    encoder: Encoder,
}

impl<const RLE: bool> Tfm for LzoTfm<RLE> {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        self.encoder
            .compress::<RLE>(src, dst)
            .ok_or(Error::OutputTooSmall { got })
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        Lzo::<RLE>.decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        self.encoder.memory_bytes()
    }
}
