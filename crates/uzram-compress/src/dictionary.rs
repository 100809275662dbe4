//! Dictionaries: which ones an algorithm takes, and training one from samples.
//!
//! The trainer is libzstd's (ZDICT, its fast cover): it selects the segments that occur most often in the samples and
//! puts the best ones last, where the shortest offsets reach them. For zstd a header with entropy tables goes in front;
//! algorithms without entropy coding (lz4, lz4hc) take the content alone. lzhs has a trainer of its own, which makes sets
//! of code lengths. Training takes some megabytes and about a tenth of a second for each thousand pages: never call it on a
//! hot path. Named ffi file.
#![cfg_attr(feature = "zstd", allow(unsafe_code))]

use std::fmt;

use crate::{Error, TrainingError};

/// The default length: it pays on most memory, and workers' caches hold it.
pub const DEFAULT_BYTES: usize = 16 << 10;
/// The shortest dictionary: a shorter one has no room for anything that could match.
pub const MIN_BYTES: usize = 256;
/// The shortest collection: two sets of literals and one of tokens.
pub(crate) const MIN_COLLECTION_BYTES: usize = 589;
/// The fewest samples that a trainer can use.
const MIN_SAMPLES: usize = 16;

/// The format of a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DictionaryForm {
    /// Bytes that matches may refer to, the most useful ones at the end.
    Content,
    /// zstd's own format (RFC 8878): entropy tables, then content. Any other bytes are taken as content.
    Zstd,
    /// What lzhs calls a collection: sets of code lengths, of which each page takes the best. There is no content.
    Collection,
}

/// Which dictionaries an algorithm takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DictionarySpec {
    /// The format.
    pub form: DictionaryForm,
    /// The longest in bytes.
    pub max_bytes: usize,
}

impl DictionarySpec {
    /// The shortest in bytes.
    pub fn min_bytes(&self) -> usize {
        match self.form {
            DictionaryForm::Content | DictionaryForm::Zstd => MIN_BYTES,
            DictionaryForm::Collection => MIN_COLLECTION_BYTES,
        }
    }

    /// Whether a dictionary may have that length.
    pub fn accepts_len(&self, bytes: usize) -> bool {
        (self.min_bytes()..=self.max_bytes).contains(&bytes)
    }
}

impl fmt::Display for DictionarySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} bytes", self.min_bytes(), self.max_bytes)
    }
}

/// Trains a dictionary of at most `max_bytes` from `samples`, each such an input as will be compressed with it. `level` is
/// the level that zstd's entropy tables are made for; plain content does not depend on it.
///
/// Samples beyond 64 MiB are ignored, and for a collection all but some 3000 pages. [`Error::Training`] where there are
/// fewer than 16 samples or they have nothing in common, where the length is out of the algorithm's range, and in a build
/// without the feature that has the trainer: `zstd`, for a collection `lzhs`.
pub fn train(
    spec: DictionarySpec,
    level: i32,
    samples: &[&[u8]],
    max_bytes: usize,
) -> Result<Vec<u8>, Error> {
    train_inner(spec, level, samples, max_bytes).map_err(|source| Error::Training {
        samples: samples.len(),
        source,
    })
}

fn train_inner(
    spec: DictionarySpec,
    level: i32,
    samples: &[&[u8]],
    max_bytes: usize,
) -> Result<Vec<u8>, TrainingError> {
    if !spec.accepts_len(max_bytes) {
        return Err(TrainingError::Length {
            given_bytes: max_bytes,
            accepted: spec,
        });
    }
    if samples.len() < MIN_SAMPLES {
        return Err(TrainingError::TooFewSamples {
            needed: MIN_SAMPLES,
        });
    }
    let fast_cover = || trainer::fast_cover(samples, max_bytes, level);
    let dictionary = match spec.form {
        DictionaryForm::Zstd => fast_cover()?,
        DictionaryForm::Content => trainer::content(&fast_cover()?)?.to_vec(),
        #[cfg(feature = "lzhs")]
        DictionaryForm::Collection => crate::backends::train_collection(samples, max_bytes)?,
        #[cfg(not(feature = "lzhs"))]
        DictionaryForm::Collection => return Err(TrainingError::NoTrainer),
    };
    if !spec.accepts_len(dictionary.len()) {
        return Err(TrainingError::NothingInCommon);
    }
    Ok(dictionary)
}

#[cfg(feature = "zstd")]
mod trainer {
    use zstd_safe::zstd_sys;

    use crate::{LibraryError, TrainingError};

    /// The most bytes of samples that the trainer looks at; samples beyond are ignored.
    const MAX_SAMPLE_BYTES: usize = 64 << 20;
    /// Bytes of a segment, and of the pieces whose frequencies choose it.
    const SEGMENT_BYTES: u32 = 512;
    const PIECE_BYTES: u32 = 8;
    /// The frequencies are counted in a table of 2^20 entries.
    const TABLE_LOG: u32 = 20;

    /// A dictionary in zstd's format.
    pub(super) fn fast_cover(
        samples: &[&[u8]],
        max_bytes: usize,
        level: i32,
    ) -> Result<Vec<u8>, TrainingError> {
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

    /// The part of a dictionary in zstd's format that matches refer to.
    pub(super) fn content(dictionary: &[u8]) -> Result<&[u8], TrainingError> {
        // SAFETY: reads at most the length given.
        let code = unsafe {
            zstd_sys::ZDICT_getDictHeaderSize(dictionary.as_ptr().cast(), dictionary.len())
        };
        Ok(dictionary.get(checked(code)?..).unwrap_or_default())
    }

    fn checked(code: usize) -> Result<usize, TrainingError> {
        // SAFETY: looks at the number only.
        if unsafe { zstd_sys::ZDICT_isError(code) } != 0 {
            return Err(LibraryError::new("ZDICT", zstd_safe::get_error_name(code)).into());
        }
        Ok(code)
    }
}

#[cfg(not(feature = "zstd"))]
mod trainer {
    use crate::TrainingError;

    pub(super) fn fast_cover(_: &[&[u8]], _: usize, _: i32) -> Result<Vec<u8>, TrainingError> {
        Err(TrainingError::NoTrainer)
    }

    pub(super) fn content(_: &[u8]) -> Result<&[u8], TrainingError> {
        Err(TrainingError::NoTrainer)
    }
}
