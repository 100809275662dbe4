//! `lzo-rle`: LZO1X with runs of zeros, version 1 of the kernel's stream and its zram's default, by our own codec in
//! [`lzo1x`](super::lzo1x). Its decoder reads `lzo` streams, too; decoders of `lzo` other than the kernel's and ours do
//! not read `lzo-rle` streams.

use std::sync::Arc;

use super::SAMPLE;
use super::lzo1x::Lzo;
use crate::{Algorithm, Error, KnownAnswer, Prepared, Settings};

pub(crate) struct Backend;

impl Algorithm for Backend {
    about! {
        name: "lzo-rle",
        driver_name: "lzo-rle-uzram",
        priority: 100,
        summary: "lzo with runs of zeros, the kernel's default; our own",
        known_answers: KNOWN,
    }
    fn prepare(&self, _settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Lzo::<true>::prepare())
    }
}

/// From Linux 6.12, lzorle1x_1_compress. The second has runs of zeros.
const KNOWN: &[KnownAnswer] = &[
    KnownAnswer {
        plain: SAMPLE,
        compressed: &super::hex::<70>(
            "11010018757a72616d206b6565707320706167657320636f6d7072657373656420696e2052414d3b20757a72616d2083\
            90000d7072657373656420696e2052414d3b20110000",
        ),
    },
    KnownAnswer {
        plain: b"zeros\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
            \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0zeros zeros zeros",
        compressed: &super::hex::<37>(
            "1101027a65726f731cfcff0400020000007a65726f73207a65726f73207a65726f73110000",
        ),
    },
];
