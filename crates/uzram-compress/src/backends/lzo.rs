//! `lzo`: the LZO1X-1 stream of liblzo2 and the kernel, by our own codec in [`lzo1x`](super::lzo1x).
//! It has no parameters: the kernel's driver ignores a level, this one refuses it.

use std::sync::Arc;

use super::SAMPLE;
use super::lzo1x::Lzo;
use crate::{Algorithm, Error, KnownAnswer, Prepared, Settings};

pub(crate) struct Backend;

impl Algorithm for Backend {
    fn name(&self) -> &'static str {
        "lzo"
    }
    fn driver_name(&self) -> &'static str {
        "lzo-uzram"
    }
    fn priority(&self) -> i32 {
        100
    }
    fn summary(&self) -> &'static str {
        "fast, a little denser than lz4; our own"
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        KNOWN
    }
    fn prepare(&self, _settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Lzo::<false>::prepare())
    }
}

/// From liblzo2 2.10, lzo1x_1_compress.
const KNOWN: &[KnownAnswer] = &[KnownAnswer {
    plain: SAMPLE,
    compressed: &[
        0x00, 0x18, 0x75, 0x7a, 0x72, 0x61, 0x6d, 0x20, 0x6b, 0x65, 0x65, 0x70, 0x73, 0x20, 0x70,
        0x61, 0x67, 0x65, 0x73, 0x20, 0x63, 0x6f, 0x6d, 0x70, 0x72, 0x65, 0x73, 0x73, 0x65, 0x64,
        0x20, 0x69, 0x6e, 0x20, 0x52, 0x41, 0x4d, 0x3b, 0x20, 0x75, 0x7a, 0x72, 0x61, 0x6d, 0x20,
        0x83, 0x90, 0x00, 0x0d, 0x70, 0x72, 0x65, 0x73, 0x73, 0x65, 0x64, 0x20, 0x69, 0x6e, 0x20,
        0x52, 0x41, 0x4d, 0x3b, 0x20, 0x11, 0x00, 0x00,
    ],
}];
