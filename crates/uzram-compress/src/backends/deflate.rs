//! `deflate` by libdeflate: raw deflate streams, no zlib or gzip wrapper. Levels 0 to 9 mean what zlib's
//! mean, -1 is the default as in zlib, 10 to 12 are libdeflate's own near-optimal ones.

use std::sync::Arc;

use libdeflater::{CompressionLvl, Compressor, DecompressionError, Decompressor};

use super::SAMPLE;
use crate::{Algorithm, Error, KnownAnswer, ParamKind, ParamSpec, Prepared, Settings, Tfm};

const NAME: &str = "deflate";
/// What -1 stands for.
const DEFAULT_LEVEL: i32 = 6;

const PARAMS: &[ParamSpec] = &[ParamSpec {
    name: "level",
    kind: ParamKind::Int { min: -1, max: 12, default: -1 },
    doc: "greater is denser and slower; 0 stores; -1 means 6",
}];

pub(crate) struct Backend;
struct Deflate {
    level: CompressionLvl,
}
struct DeflateTfm {
    compressor: Compressor,
    decompressor: Decompressor,
}

impl Algorithm for Backend {
    fn name(&self) -> &'static str {
        NAME
    }
    fn driver_name(&self) -> &'static str {
        "deflate-libdeflate"
    }
    fn priority(&self) -> i32 {
        100
    }
    fn summary(&self) -> &'static str {
        "about as dense as zstd and slower to write; libdeflate"
    }
    fn params(&self) -> &'static [ParamSpec] {
        PARAMS
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        KNOWN
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        let level = match settings.c_int("level") {
            -1 => DEFAULT_LEVEL,
            level => level,
        };
        let level = CompressionLvl::new(level)
            .map_err(|e| Error::Setup { algorithm: NAME, reason: format!("level {level}: {e:?}") })?;
        Ok(Arc::new(Deflate { level }))
    }
}

impl Prepared for Deflate {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        let (compressor, decompressor) = (Compressor::new(self.level), Decompressor::new());
        Ok(Box::new(DeflateTfm { compressor, decompressor }))
    }
}

impl Tfm for DeflateTfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        self.compressor.deflate_compress(src, dst).map_err(|_| Error::OutputTooSmall { got })
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        self.decompressor.deflate_decompress(src, dst).map_err(|error| match error {
            DecompressionError::BadData => Error::Corrupt { algorithm: NAME },
            DecompressionError::InsufficientSpace => Error::OutputTooSmall { got },
        })
    }
}

/// From zlib 1.2.13, level 6, raw.
const KNOWN: &[KnownAnswer] = &[KnownAnswer {
    plain: SAMPLE,
    compressed: &[
        0x2b, 0xad, 0x2a, 0x4a, 0xcc, 0x55, 0xc8, 0x4e, 0x4d, 0x2d, 0x28, 0x56, 0x28, 0x48, 0x4c,
        0x4f, 0x2d, 0x56, 0x48, 0xce, 0xcf, 0x2d, 0x28, 0x4a, 0x2d, 0x2e, 0x4e, 0x4d, 0x51, 0xc8,
        0xcc, 0x53, 0x08, 0x72, 0xf4, 0xb5, 0x56, 0x28, 0x1d, 0xaa, 0x8a, 0x00,
    ],
}];
