//! Generations of a trained dictionary: which one it is, and what its training found. Kept in the codec's record, so that
//! whoever attaches to the image knows it.

use uzram_compress::Algorithm;

use super::Codec;
use crate::PAGE_SIZE;

/// A dictionary that was trained on the device's own pages. Each training that is adopted makes another generation; objects
/// keep theirs until they are rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Generation {
    /// Its number, from 1: one more than that of any generation of the algorithm that was in use when it was adopted.
    pub number: u32,
    /// When it was adopted, in seconds since 1970.
    pub at_seconds: u64,
    /// Pages that it was trained on.
    pub pages_trained: u32,
    /// Pages that it was judged by, none of which it was trained on.
    pub pages_judged: u32,
    /// Bytes of these pages' objects with the codec before.
    pub bytes_before: u32,
    /// Bytes of these pages' objects with this generation.
    pub bytes_after: u32,
}

impl Generation {
    /// Plain bytes over stored bytes of the pages judged, with the codec before.
    pub fn ratio_before(&self) -> f64 {
        self.ratio(self.bytes_before)
    }

    /// The same with this generation.
    pub fn ratio_after(&self) -> f64 {
        self.ratio(self.bytes_after)
    }

    fn ratio(&self, stored: u32) -> f64 {
        f64::from(self.pages_judged) * PAGE_SIZE as f64 / f64::from(stored.max(1))
    }
}

/// The number of the last generation of an algorithm among these codecs; 0: none.
pub(crate) fn last_generation<'a>(
    algorithm: &dyn Algorithm,
    codecs: impl Iterator<Item = &'a Codec>,
) -> u32 {
    let same = codecs.filter(|codec| codec.algorithm.name() == algorithm.name());
    let number = |codec: &Codec| codec.generation.map_or(0, |generation| generation.number);
    same.map(number).max().unwrap_or(0)
}
