//! Dictionaries: which ones an algorithm takes, and making one of samples.
//!
//! The trainer is libzstd's (ZDICT, its fast cover): it looks for the segments that occur most often in the samples
//! and puts the best ones last, where the shortest offsets reach them. For zstd a header with entropy tables goes in
//! front; for algorithms that know nothing but matches (lz4, lz4hc) the content is all. Training takes some
//! megabytes and about a tenth of a second for each thousand pages; it belongs on no hot path. Named ffi file.
#![cfg_attr(feature = "zstd", allow(unsafe_code))]

use std::fmt;

use crate::Error;

/// The length asked for where nobody chooses: it pays on most memory, and workers' caches hold it.
pub const DEFAULT_BYTES: usize = 16 << 10;
/// The shortest dictionary: less has no room for anything that could match.
pub const MIN_BYTES: usize = 256;
/// Fewest samples that a trainer makes anything of.
pub const MIN_SAMPLES: usize = 16;
/// Most bytes of samples that are looked at: what is beyond them is not copied.
pub const MAX_SAMPLE_BYTES: usize = 64 << 20;

/// What a dictionary consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DictionaryForm {
    /// Bytes that matches may refer to, the most useful ones at the end.
    Content,
    /// zstd's own format (RFC 8878): entropy tables, then content. Any other bytes are taken as content.
    Zstd,
}

/// Which dictionaries an algorithm takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DictionarySpec {
    /// What it consists of.
    pub form: DictionaryForm,
    /// The longest in bytes.
    pub max_bytes: usize,
}

impl DictionarySpec {
    /// Whether a dictionary may have that length.
    pub fn accepts_len(&self, bytes: usize) -> bool {
        (MIN_BYTES..=self.max_bytes).contains(&bytes)
    }
}

impl fmt::Display for DictionarySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MIN_BYTES} to {} bytes", self.max_bytes)
    }
}

/// Makes a dictionary of at most `max_bytes` of `samples`, each such an input as will be compressed with it.
/// `level` is the level that zstd's entropy tables are made for; content takes no notice of it.
///
/// [`Error::Training`] where there are too few samples or they have nothing in common, or the length is out of the
/// algorithm's range; and in a build without the feature `zstd`, which has no trainer.
pub fn train(
    spec: DictionarySpec,
    level: i32,
    samples: &[&[u8]],
    max_bytes: usize,
) -> Result<Vec<u8>, Error> {
    let failed = |reason: String| Error::Training {
        samples: samples.len(),
        reason,
    };
    if !spec.accepts_len(max_bytes) {
        return Err(failed(format!(
            "a dictionary of {max_bytes} bytes is not possible, but one of {spec}"
        )));
    }
    if samples.len() < MIN_SAMPLES {
        return Err(failed(format!("it takes {MIN_SAMPLES} or more")));
    }
    let made = trainer::fast_cover(samples, max_bytes, level).map_err(&failed)?;
    let dictionary = match spec.form {
        DictionaryForm::Zstd => made,
        DictionaryForm::Content => trainer::content_of(&made).map_err(&failed)?.to_vec(),
    };
    if !spec.accepts_len(dictionary.len()) {
        return Err(failed("they have next to nothing in common".into()));
    }
    Ok(dictionary)
}

#[cfg(feature = "zstd")]
mod trainer {
    use zstd_safe::zstd_sys;

    use super::MAX_SAMPLE_BYTES;

    /// Bytes of a segment that is worth choosing, and of the pieces whose frequencies are counted.
    const SEGMENT_BYTES: u32 = 512;
    const PIECE_BYTES: u32 = 8;
    /// The frequencies are counted in a table of 2^20 entries.
    const TABLE_LOG: u32 = 20;

    /// A dictionary in zstd's format.
    pub(super) fn fast_cover(
        samples: &[&[u8]],
        max_bytes: usize,
        level: i32,
    ) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let mut lengths = Vec::with_capacity(samples.len());
        for sample in samples {
            if bytes.len() + sample.len() > MAX_SAMPLE_BYTES {
                break;
            }
            bytes.extend_from_slice(sample);
            lengths.push(sample.len());
        }
        let mut dictionary = vec![0u8; max_bytes];
        let parameters = zstd_sys::ZDICT_fastCover_params_t {
            k: SEGMENT_BYTES,
            d: PIECE_BYTES,
            f: TABLE_LOG,
            steps: 0,
            nbThreads: 1,
            splitPoint: 1.0,
            accel: 1,
            shrinkDict: 0,
            shrinkDictMaxRegression: 0,
            zParams: zstd_sys::ZDICT_params_t {
                compressionLevel: level,
                notificationLevel: 0,
                dictID: 0,
            },
        };
        // SAFETY: the output is as long as said; `bytes` is exactly the samples one after another, whose lengths
        // and number are those in `lengths`, which fits 32 bits because MAX_SAMPLE_BYTES does.
        let code = unsafe {
            zstd_sys::ZDICT_trainFromBuffer_fastCover(
                dictionary.as_mut_ptr().cast(),
                dictionary.len(),
                bytes.as_ptr().cast(),
                lengths.as_ptr(),
                lengths.len() as u32,
                parameters,
            )
        };
        dictionary.truncate(checked(code)?);
        Ok(dictionary)
    }

    /// The part of a dictionary that matches refer to.
    pub(super) fn content_of(dictionary: &[u8]) -> Result<&[u8], String> {
        // SAFETY: reads at most the length given.
        let code = unsafe {
            zstd_sys::ZDICT_getDictHeaderSize(dictionary.as_ptr().cast(), dictionary.len())
        };
        Ok(dictionary.get(checked(code)?..).unwrap_or_default())
    }

    fn checked(code: usize) -> Result<usize, String> {
        // SAFETY: looks at the number only.
        if unsafe { zstd_sys::ZDICT_isError(code) } != 0 {
            return Err(zstd_safe::get_error_name(code).into());
        }
        Ok(code)
    }
}

#[cfg(not(feature = "zstd"))]
mod trainer {
    const NONE: &str = "this build has no trainer: it is in the feature zstd";

    pub(super) fn fast_cover(_: &[&[u8]], _: usize, _: i32) -> Result<Vec<u8>, String> {
        Err(NONE.into())
    }

    pub(super) fn content_of(_: &[u8]) -> Result<&[u8], String> {
        Err(NONE.into())
    }
}
