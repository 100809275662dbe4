//! `deflate`: raw deflate streams, no zlib or gzip wrapper. Levels 0 to 9 are zlib's, -1 is the default as in zlib, 10 to
//! 12 are libdeflate's own near-optimal ones.
//!
//! libdeflate compresses wherever the window covers the block, which for pages is from `winbits` 12 on. It has no option
//! for a smaller window: zlib-rs makes those streams, for readers with a small window, such as a kernel with
//! `deflate.winbits`. libdeflate reads all of them.

use std::sync::Arc;

use flate2::{Compress, Compression, FlushCompress, Status};
use libdeflater::{CompressionLvl, Compressor, DecompressionError, Decompressor};

use super::SAMPLE;
use crate::{Algorithm, Error, KnownAnswer, LibraryError, ParamSpec, Prepared, Settings, Tfm};

const NAME: &str = "deflate";
/// The level that -1 selects.
const DEFAULT_LEVEL: i32 = 6;
/// zlib's greatest level.
const ZLIB_LEVEL_MAX: i32 = 9;
/// The logarithms of zlib's windows.
const WINBITS_MIN: u32 = 9;
const WINBITS_MAX: u32 = 15;

const PARAMS: &[ParamSpec] = &[
    ParamSpec::int(
        "level",
        (-1, 12),
        -1,
        "greater is denser and slower; 0 stores; -1 means 6",
    ),
    ParamSpec::int(
        "winbits",
        (-15, 15),
        15,
        "matches reach 2^winbits bytes back: 9 to 15; the sign, zlib's for raw streams, \
            changes nothing",
    ),
];

pub(crate) struct Backend;
struct Deflate {
    level: i32,
    winbits: u32,
    block_size: usize,
}
struct DeflateTfm {
    encoder: Encoder,
    decompressor: Decompressor,
}
enum Encoder {
    Libdeflate(Compressor),
    /// A window smaller than the block.
    Zlib(Compress),
}

impl Algorithm for Backend {
    about! {
        name: NAME,
        driver_name: "deflate-libdeflate",
        priority: 100,
        summary: "about as dense as zstd and slower to write; libdeflate",
        params: PARAMS,
        known_answers: KNOWN,
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        let given = settings.c_int("winbits");
        let winbits = given.unsigned_abs();
        if !(WINBITS_MIN..=WINBITS_MAX).contains(&winbits) {
            return Err(Error::BadParam {
                algorithm: NAME.into(),
                param: "winbits".into(),
                given: given.to_string(),
                accepted: format!(
                    "{WINBITS_MIN} to {WINBITS_MAX}, \
                     or -{WINBITS_MIN} to -{WINBITS_MAX} for the same"
                ),
            });
        }
        let level = match settings.c_int("level") {
            -1 => DEFAULT_LEVEL,
            level => level,
        };
        Ok(Arc::new(Deflate {
            level,
            winbits,
            block_size: settings.block_size(),
        }))
    }
}

impl Prepared for Deflate {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        let level = self.level;
        let encoder = if self.block_size <= 1 << self.winbits {
            let level = CompressionLvl::new(level).map_err(|e| Error::Setup {
                algorithm: NAME,
                source: LibraryError::new("libdeflate", format!("level {level}: {e:?}")),
            })?;
            Encoder::Libdeflate(Compressor::new(level))
        } else {
            let level = Compression::new(level.min(ZLIB_LEVEL_MAX).unsigned_abs());
            Encoder::Zlib(Compress::new_with_window_bits(
                level,
                false,
                self.winbits as u8,
            ))
        };
        Ok(Box::new(DeflateTfm {
            encoder,
            decompressor: Decompressor::new(),
        }))
    }
}

impl Tfm for DeflateTfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let too_small = Error::OutputTooSmall { got: dst.len() };
        match &mut self.encoder {
            Encoder::Libdeflate(compressor) => {
                compressor.deflate_compress(src, dst).map_err(|_| too_small)
            }
            Encoder::Zlib(stream) => {
                stream.reset();
                match stream.compress(src, dst, FlushCompress::Finish) {
                    Ok(Status::StreamEnd) => Ok(stream.total_out() as usize),
                    _ => Err(too_small),
                }
            }
        }
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        self.decompressor
            .deflate_decompress(src, dst)
            .map_err(|error| match error {
                DecompressionError::BadData => Error::Corrupt { algorithm: NAME },
                DecompressionError::InsufficientSpace => Error::OutputTooSmall { got },
            })
    }
}

/// From zlib 1.2.13, level 6, raw.
const KNOWN: &[KnownAnswer] = &[KnownAnswer {
    plain: SAMPLE,
    compressed: &super::hex::<42>(
        "2bad2a4acc55c84e4d2d285628484c4f2d5648cecf2d284a2d2e4e4d51c8cc530872f4b556281daa8a00",
    ),
}];

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};

    use super::*;

    /// A repetition 1000 bytes back: only a window of 1 KiB or more can use it.
    #[test]
    fn a_small_window_is_kept() {
        let half = uzram_testkit::Random::new(1).bytes(1000);
        let page = [&half[..], &half].concat();
        for (winbits, fits) in [
            ("9", false),
            ("-9", false),
            ("11", true),
            ("-12", true),
            ("15", true),
        ] {
            let settings = Settings::new(&Backend, 4096, [("winbits", winbits)]).unwrap();
            let mut tfm = Backend.prepare(&settings).unwrap().tfm().unwrap();
            let mut object = [0; 8192];
            let len = tfm.compress(&page, &mut object).unwrap();
            assert_eq!(len < 1500, fits, "winbits {winbits}: {len} bytes");
            // A reader with no more window than was asked for, as the kernel's is.
            let bits = winbits.trim_start_matches('-').parse().unwrap();
            let mut reader = Decompress::new_with_window_bits(false, bits);
            let mut back = Vec::with_capacity(4096);
            let done = reader.decompress_vec(&object[..len], &mut back, FlushDecompress::Finish);
            assert_eq!(done.unwrap(), Status::StreamEnd);
            assert!(back == page, "winbits {winbits}");
        }
    }

    #[test]
    fn windows_that_deflate_lacks_are_refused() {
        for winbits in ["8", "0", "-8"] {
            let settings = Settings::new(&Backend, 4096, [("winbits", winbits)]).unwrap();
            let error = Backend.prepare(&settings).err().unwrap().to_string();
            assert!(error.contains("9 to 15"), "{error}");
        }
    }
}
