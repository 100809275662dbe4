//! The backends that this build contains: one file and one line in the list below for each.
//!
//! The line expands to the module, its cargo feature gate, its place in [`all`] (and so in every registry,
//! listing, help text and benchmark that iterates one) and its run of the conformance suite. A backend of more
//! than a screenful keeps its codec in a folder beside it.

use std::sync::Arc;

use crate::Algorithm;

#[cfg(any(feature = "lzo", feature = "lzo-rle"))]
mod lzo1x;

#[cfg(any(
    feature = "lzo",
    feature = "lzo-rle",
    feature = "842",
    feature = "lz4-uzram"
))]
mod positions;

#[cfg(any(feature = "lz4-uzram", feature = "zstd-uzram", feature = "lzhs"))]
mod matches;

#[cfg(any(feature = "zstd-uzram", feature = "lzhs"))]
mod search;

#[cfg(feature = "lzhs")]
pub(crate) use lzhs::train as train_collection;

/// The plain text of the known answers. A build may lack every backend that uses it.
#[allow(dead_code)]
const SAMPLE: &[u8] = b"uzram keeps pages compressed in RAM; uzram keeps pages compressed in RAM; \
uzram keeps pages compressed in RAM; uzram keeps pages compressed in RAM; \
uzram keeps pages compressed in RAM; uzram keeps pages compressed in RAM; ";

/// The block of a frame by the lz4 1.9.4 command line. Every driver of the block format must read it.
#[allow(dead_code)]
const LZ4_KNOWN: &[crate::KnownAnswer] = &[crate::KnownAnswer {
    plain: SAMPLE,
    compressed: &hex::<48>(
        "ff16757a72616d206b6565707320706167657320636f6d7072657373656420696e2052414d3b202500a15052414d3b20",
    ),
}];

#[cfg(any(feature = "lz4", feature = "lz4hc"))]
mod liblz4;

/// Bytes by their hexadecimal digits, for the known answers.
#[allow(dead_code)]
const fn hex<const N: usize>(digits: &str) -> [u8; N] {
    assert!(digits.len() == 2 * N);
    let (mut bytes, mut at) = ([0; N], 0);
    while at < 2 * N {
        let digit = digits.as_bytes()[at];
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            _ => digit - b'a' + 10,
        };
        bytes[at / 2] = bytes[at / 2] << 4 | value;
        at += 1;
    }
    bytes
}

/// What an [`Algorithm`] says of itself, as a table: each line becomes the method of that name.
macro_rules! about {
    ($($name:ident: $value:expr,)*) => { $(about!(@ $name $value);)* };
    (@ priority $value:expr) => { fn priority(&self) -> i32 { $value } };
    (@ params $value:expr) => { fn params(&self) -> &'static [crate::ParamSpec] { $value } };
    (@ dictionary $value:expr) => {
        fn dictionary(&self) -> Option<crate::DictionarySpec> { Some($value) }
    };
    (@ known_answers $value:expr) => {
        fn known_answers(&self) -> &'static [crate::KnownAnswer] { $value }
    };
    (@ $text:ident $value:expr) => { fn $text(&self) -> &'static str { $value } };
}

/// Declares the backends: `mod` item, feature gate, row of [`all`] and conformance test of each.
///
/// Its name and its `if` are for rustfmt, which looks for modules in no other macro than one called `cfg_if` and would
/// leave the files of this list unformatted. `cargo xtask tidy` finds a file that it does not see.
macro_rules! cfg_if {
    (if #[cfg(all())] { $(#[$gate:meta] mod $module:ident;)* }) => {
        $(#[$gate] mod $module;)*

        /// Every backend of this build, in listing order.
        pub(crate) fn all() -> Vec<Arc<dyn Algorithm>> {
            vec![$(#[$gate] Arc::new($module::Backend),)*]
        }

        #[cfg(test)]
        mod conformance {
            $(#[$gate]
            #[test]
            fn $module() {
                crate::conformance::full(&super::$module::Backend).unwrap();
                crate::conformance::fuzz(&super::$module::Backend, 1, 640).unwrap();
            })*
        }
    };
}

// The backends, in listing order: a line for each.
cfg_if! {
    if #[cfg(all())] {
        #[cfg(feature = "lzo-rle")] mod lzo_rle;
        #[cfg(feature = "lzo")] mod lzo;
        #[cfg(feature = "lz4")] mod lz4;
        #[cfg(feature = "lz4-uzram")] mod lz4_uzram;
        #[cfg(feature = "lz4-flex")] mod lz4_flex;
        #[cfg(feature = "lz4hc")] mod lz4hc;
        #[cfg(feature = "zstd")] mod zstd;
        #[cfg(feature = "zstd-uzram")] mod zstd_uzram;
        #[cfg(feature = "deflate")] mod deflate;
        #[cfg(feature = "842")] mod sw842;
        #[cfg(feature = "wk64")] mod wk64;
        #[cfg(feature = "lzhs")] mod lzhs;
        #[cfg(feature = "null")] mod null;
    }
}
