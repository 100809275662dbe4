//! `lzo`: the LZO1X-1 stream of liblzo2 and the kernel, by our own codec in [`lzo1x`](super::lzo1x).
//! It has no parameters: the kernel's driver ignores a level, this one refuses it.

use std::sync::Arc;

use super::SAMPLE;
use super::lzo1x::Lzo;
use crate::{Algorithm, Error, KnownAnswer, Prepared, Settings};

pub(crate) struct Backend;

impl Algorithm for Backend {
    about! {
        name: "lzo",
        driver_name: "lzo-uzram",
        priority: 100,
        summary: "fast, a little denser than lz4; our own",
        known_answers: KNOWN,
    }
    fn prepare(&self, _settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Lzo::<false>::prepare())
    }
}

/// From liblzo2 2.10, lzo1x_1_compress.
const KNOWN: &[KnownAnswer] = &[KnownAnswer {
    plain: SAMPLE,
    compressed: &super::hex::<68>(
        "0018757a72616d206b6565707320706167657320636f6d7072657373656420696e2052414d3b20757a72616d20839000\
            0d7072657373656420696e2052414d3b20110000",
    ),
}];
