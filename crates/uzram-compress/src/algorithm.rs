//! The traits that a backend implements, one for each lifetime. Separate from the registry so that an
//! embedding program can implement them without reading anything else.

use std::sync::Arc;

use crate::{DictionarySpec, Error, ParamSpec, Settings};

/// A vector whose compressed form is known from an independent implementation.
#[derive(Debug, Clone, Copy)]
pub struct KnownAnswer {
    /// The plain bytes.
    pub plain: &'static [u8],
    /// What the reference implementation made of them. It must decompress to `plain`; the driver's own
    /// encoder may choose other bytes.
    pub compressed: &'static [u8],
}

/// What an algorithm is, before any parameters are chosen.
pub trait Algorithm: Send + Sync {
    /// The name that devices ask for, such as `lz4`. It stands for a format: all drivers of one name decompress each
    /// other's output.
    fn name(&self) -> &'static str;
    /// The name of this implementation, unique in a registry, such as `lz4-liblz4`.
    fn driver_name(&self) -> &'static str;
    /// The registry chooses the driver of the highest priority among those of one name.
    fn priority(&self) -> i32;
    /// One line for listings.
    fn summary(&self) -> &'static str;
    /// The parameters and their ranges. Empty where there are none.
    fn params(&self) -> &'static [ParamSpec] {
        &[]
    }
    /// Which dictionaries the algorithm takes; `None` where it takes none.
    fn dictionary(&self) -> Option<DictionarySpec> {
        None
    }
    /// Whether a device trains the dictionary of this algorithm by itself, from what is written to it. Only where its
    /// compression is good without one, and with one no slower.
    fn trains_itself(&self) -> bool {
        false
    }
    /// At least one vector for the self-test.
    fn known_answers(&self) -> &'static [KnownAnswer];
    /// Builds what all workers share, dictionary included. The [`Settings`] are checked already, except for a
    /// dictionary's bytes ([`Error::DamagedDictionary`]).
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error>;
}

/// Parameters, tables and dictionaries of one algorithm: immutable, shared by every worker.
pub trait Prepared: Send + Sync {
    /// Makes one worker's context, with all memory that its calls will ever need.
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error>;
    /// Makes a worker's context that only decompresses, which may be much smaller.
    fn decoder(&self) -> Result<Box<dyn Decoder>, Error> {
        Ok(Box::new(TfmDecoder(self.tfm()?)))
    }
    /// The decompressor that needs no context, where the algorithm has one. Readers then take no stream.
    fn stateless(&self) -> Option<&dyn Decompress> {
        None
    }
    /// Memory that all workers share, in bytes: above all a dictionary in its digested form. 0 where there is next to
    /// none.
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// Decompression that keeps no state between or during calls.
pub trait Decompress: Send + Sync {
    /// As [`Tfm::decompress`].
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error>;
}

/// One worker's context for decompression alone: a [`Tfm`] without its encoder.
pub trait Decoder: Send {
    /// As [`Tfm::decompress`].
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error>;
    /// As [`Tfm::memory_bytes`].
    fn memory_bytes(&self) -> usize;
}

/// The decoder of an algorithm that has no context for decompression alone: a whole tfm.
struct TfmDecoder(Box<dyn Tfm>);

impl Decoder for TfmDecoder {
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        self.0.decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}

/// One worker's transform context (the kernel's `tfm`). Not re-entrant, hence `&mut`.
///
/// Neither call allocates, blocks or reads beyond its arguments.
pub trait Tfm: Send {
    /// Compresses all of `src`, at most the `block_size` that was prepared for, into `dst` and returns the
    /// length in bytes. [`Error::OutputTooSmall`] where it does not fit; `dst` then holds nothing of use.
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error>;
    /// Decompresses exactly one object and returns the number of bytes produced, at most `dst.len()`.
    /// Any bytes may be given: [`Error::Corrupt`] or [`Error::OutputTooSmall`], never a panic.
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error>;
    /// Memory that the context holds, in bytes; 0 where its library does not tell.
    fn memory_bytes(&self) -> usize {
        0
    }
}
