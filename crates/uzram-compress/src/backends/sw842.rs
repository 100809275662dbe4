//! `842`: the format of POWER's compression coprocessors, by our own codec in safe code, written from descriptions
//! of the format. Weak on most data and slow in software; it is here for those whose kernel used it.
//!
//! A stream is a sequence of templates of 5 bits, most significant bit first. Each describes 8 bytes, by data in the
//! stream and by *indices* of 2, 4 or 8 bytes of earlier output at a multiple of their size. An index counts in that
//! size, modulo a window of 256 (2 and 8 bytes) or 512 (4 bytes) units. Both halves of the 8 bytes are coded in one of
//! five ways ([`Half`]), and the template's number is that of the first half times five plus that of the second; the
//! numbers from 25 on are special ([`template`]). A stream ends with the CRC-32 (most significant bit first, from 0) of
//! the output, and is padded with zeros to a multiple of 8 bytes.

mod bits;
mod decode;
mod encode;

use std::sync::Arc;

use encode::Encoder;

use super::SAMPLE;
use crate::{Algorithm, Decompress, Error, KnownAnswer, Prepared, Settings, Tfm};

const NAME: &str = "842";
/// Bytes that a template describes.
const BLOCK: usize = 8;

/// How half a block, 4 bytes, is coded.
#[derive(Clone, Copy)]
enum Half {
    /// 4 bytes of data.
    Data,
    /// 2 bytes of data, an index of 2.
    DataIndex,
    /// An index of 2, 2 bytes of data.
    IndexData,
    /// Two indices of 2.
    IndexIndex,
    /// An index of 4.
    Index,
}
/// Number of ways.
const HALVES: u32 = 5;

/// Templates other than a pair of halves.
mod template {
    /// An index of 8.
    pub(super) const INDEX: u32 = 25;
    /// Repeats the last 8 bytes; the count less one has 6 bits.
    pub(super) const REPEAT: u32 = 27;
    /// 8 zeros.
    pub(super) const ZEROS: u32 = 28;
    /// A count of 3 bits, and so many bytes of data: the end of an output that is no multiple of 8.
    pub(super) const SHORT: u32 = 29;
    /// The end; the CRC follows.
    pub(super) const END: u32 = 30;
}
const TEMPLATE_BITS: u32 = 5;
const REPEAT_BITS: u32 = 6;
const SHORT_BITS: u32 = 3;

/// Bits of an index of `size` bytes.
const fn index_bits(size: usize) -> u32 {
    if size == 4 { 9 } else { 8 }
}

/// Bytes that an index of `size` bytes reaches back from the beginning of the current block.
const fn window(size: usize) -> usize {
    size << index_bits(size)
}

/// The format's checksum. Its bit order is the reverse of the CRC-32 that is fast to compute, so the input's bits are
/// reversed.
fn crc(bytes: &[u8]) -> u32 {
    // The hasher inverts its state first and last; the format does neither.
    let mut hasher = crc32fast::Hasher::new_with_initial(u32::MAX);
    let mut turned = [0u8; 512];
    for part in bytes.chunks(turned.len()) {
        for (to, from) in turned.iter_mut().zip(part) {
            *to = from.reverse_bits();
        }
        hasher.update(&turned[..part.len()]);
    }
    (!hasher.finalize()).reverse_bits()
}

pub(crate) struct Backend;
struct Sw842;
struct Sw842Tfm {
    encoder: Encoder,
}

impl Algorithm for Backend {
    about! {
        name: NAME,
        driver_name: "842-uzram",
        priority: 100,
        summary: "POWER's hardware format, weak in software; our own",
        known_answers: KNOWN,
    }
    fn prepare(&self, _settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Arc::new(Sw842))
    }
}

impl Prepared for Sw842 {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        Ok(Box::new(Sw842Tfm {
            encoder: Encoder::new(),
        }))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
}

impl Decompress for Sw842 {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decode::decompress(src, dst)
    }
}

impl Tfm for Sw842Tfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        self.encoder
            .compress(src, dst)
            .ok_or(Error::OutputTooSmall { got })
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decode::decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        self.encoder.memory_bytes()
    }
}

/// From Linux 6.12, sw842_compress.
const KNOWN: &[KnownAnswer] = &[KnownAnswer {
    plain: SAMPLE,
    compressed: &super::hex::<160>(
        "03abd3930b69035b28195c1cc81c1859d9540ac6dedae0e4ca07373656420696e2002920a69d903abd390185b481ad95\
            95c1cc040e0c2cecae640c626f6d70721a73650321034b7102920a6a0ec8000040a40608100d2072a090a90586068748\
            3c40444a426282a2d21718191e90d8e0e9fc87c80848a6464800c0040580181300503600e08c0241580583300d07601e\
            10ee2052414d3b20f383aeeda0000000",
    ),
}];
