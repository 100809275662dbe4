//! What pages are compressed with: a choice is what a caller asks for, a codec is a choice checked and prepared.
//!
//! `record` is a codec's form in the image, `table` holds the up to 16 codecs that words can name, `change` changes
//! those of a device in use, `generation` tells of a trained dictionary.

mod change;
mod generation;
mod record;
mod table;

use std::sync::Arc;

use uzram_compress::{
    Algorithm, AlgorithmSpec, Decoder, Error as CodecError, Prepared, Registry, Settings, Tfm,
};

pub(crate) use change::check_secondary;
pub use generation::Generation;
pub(crate) use record::{AREA_BYTES, CodecRecord, RECORDS_BYTES, Records};
pub use table::CodecStats;
pub(crate) use table::{Changing, Codecs, Contexts, Loaded, load_roles};

use crate::{Error, PAGE_SIZE};

/// Codecs that words can name: their index has 4 bits.
pub(crate) const CODECS: usize = 16;
/// Priorities: the primary, 0, compresses what is written; the secondaries are for recompression, as in zram.
pub const PRIORITIES: usize = 4;

/// An algorithm with its parameters and, where it takes one, a dictionary. Checked when a device takes it.
///
/// ```
/// use uzram::Choice;
/// let choice = Choice::new("zstd").param("level", "1");
/// assert_eq!(choice, "zstd(level=1)".parse::<Choice>()?);
/// # Ok::<(), uzram::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Choice {
    spec: AlgorithmSpec,
    dictionary: Option<Arc<[u8]>>,
    generation: Option<Generation>,
}

impl Choice {
    /// An algorithm or driver with its default parameters.
    pub fn new(name: impl Into<String>) -> Choice {
        AlgorithmSpec::new(name).into()
    }

    /// Adds a parameter, such as `("level", "3")`.
    pub fn param(mut self, key: impl Into<String>, value: impl Into<String>) -> Choice {
        self.spec.params.push((key.into(), value.into()));
        self
    }

    /// Adds a dictionary: the contents of a file, see [`uzram_compress::dictionary`].
    pub fn dictionary(mut self, bytes: impl Into<Arc<[u8]>>) -> Choice {
        self.dictionary = Some(bytes.into());
        self
    }

    /// Says that the dictionary was trained on the device's own pages, as [`crate::CodecStats`] had it: it may be replaced by
    /// another generation where the algorithm trains itself.
    pub fn generation(mut self, generation: Generation) -> Choice {
        self.generation = Some(generation);
        self
    }

    pub(crate) fn name_mut(&mut self) -> &mut String {
        &mut self.spec.name
    }
}

impl From<AlgorithmSpec> for Choice {
    fn from(spec: AlgorithmSpec) -> Choice {
        Choice {
            spec,
            dictionary: None,
            generation: None,
        }
    }
}

/// As [`AlgorithmSpec`] reads it: `zstd(level=1)`. Dictionaries are given as bytes.
impl std::str::FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Choice, Error> {
        Ok(text.parse::<AlgorithmSpec>()?.into())
    }
}

impl std::fmt::Debug for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dictionary_bytes = self.dictionary.as_ref().map_or(0, |bytes| bytes.len());
        write!(
            f,
            "Choice({}, dictionary of {dictionary_bytes} bytes)",
            self.spec
        )
    }
}

/// An algorithm, its parameters and its dictionary, ready for work.
pub(crate) struct Codec {
    pub(crate) algorithm: Arc<dyn Algorithm>,
    pub(crate) settings: Settings,
    pub(crate) prepared: Arc<dyn Prepared>,
    /// Where its dictionary was trained on the device's pages.
    pub(crate) generation: Option<Generation>,
}

impl Codec {
    /// Finds the algorithm, checks the parameters, digests the dictionary.
    pub(crate) fn new(registry: &Registry, choice: &Choice) -> Result<Codec, CodecError> {
        let algorithm = registry.find(&choice.spec.name)?.clone();
        let params = choice.spec.params.iter().map(|(k, v)| (k, v));
        let mut settings = Settings::new(&*algorithm, PAGE_SIZE, params)?;
        if let Some(dictionary) = &choice.dictionary {
            settings = settings.with_dictionary(&*algorithm, dictionary.clone())?;
        }
        let mut codec = Codec::from_settings(algorithm, settings)?;
        let trained = choice.dictionary.is_some();
        codec.generation = choice
            .generation
            .filter(|generation| trained && generation.number > 0);
        Ok(codec)
    }

    pub(crate) fn from_settings(
        algorithm: Arc<dyn Algorithm>,
        settings: Settings,
    ) -> Result<Codec, CodecError> {
        let prepared = algorithm.prepare(&settings)?;
        Ok(Codec {
            algorithm,
            settings,
            prepared,
            generation: None,
        })
    }

    /// The same with another dictionary.
    pub(crate) fn with_dictionary(&self, dictionary: Arc<[u8]>) -> Result<Codec, CodecError> {
        let settings = self.settings.clone();
        let settings = settings.with_dictionary(&*self.algorithm, dictionary)?;
        Codec::from_settings(self.algorithm.clone(), settings)
    }

    /// Whether both make the same objects of the same pages.
    pub(crate) fn is_same_as(&self, other: &Codec) -> bool {
        self.algorithm.driver_name() == other.algorithm.driver_name()
            && self.settings == other.settings
    }

    pub(crate) fn needs_context(&self) -> bool {
        self.prepared.stateless().is_none()
    }

    pub(crate) fn dictionary(&self) -> &[u8] {
        self.settings.dictionary().map_or(&[], |bytes| bytes)
    }

    pub(crate) fn params_text(&self) -> String {
        self.settings.params_text(&*self.algorithm)
    }

    /// A context that compresses. [`Residence::Ready`] has it touch all of its memory, on a page that compresses and on one
    /// that does not.
    pub(crate) fn context(&self, residence: Residence) -> Result<Box<dyn Tfm>, CodecError> {
        let mut tfm = self.prepared.tfm()?;
        if residence == Residence::AsUsed {
            return Ok(tfm);
        }
        let mut back = [0; PAGE_SIZE];
        for object in objects(&mut *tfm) {
            let _ = tfm.decompress(&object, &mut back);
        }
        Ok(tfm)
    }

    /// Contexts for readers. None where decompression needs no context.
    pub(crate) fn decoders(
        &self,
        count: usize,
        residence: Residence,
    ) -> Result<Vec<Box<dyn Decoder>>, CodecError> {
        if !self.needs_context() {
            return Ok(Vec::new());
        }
        let objects = match residence {
            Residence::Ready => objects(&mut *self.prepared.tfm()?),
            Residence::AsUsed => Vec::new(),
        };
        let mut back = [0; PAGE_SIZE];
        let mut make = || {
            let mut decoder = self.prepared.decoder()?;
            for object in &objects {
                let _ = decoder.decompress(object, &mut back);
            }
            Ok(decoder)
        };
        (0..count).map(|_| make()).collect()
    }
}

/// When the memory of contexts and buffers is taken. All of it is allocated beforehand in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Residence {
    /// As pages are compressed and read. A device that nobody writes to takes little.
    AsUsed,
    /// At once: a device that serves as swap must not touch new memory later.
    Ready,
}

/// The objects of a page that compresses and of one that does not.
fn objects(tfm: &mut dyn Tfm) -> Vec<Vec<u8>> {
    let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
    let mut pages = [[0u8; PAGE_SIZE]; 2];
    for (at, byte) in pages[0].iter_mut().enumerate() {
        *byte = (at / 13 * 7) as u8;
    }
    for byte in &mut pages[1] {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (noise >> 56) as u8;
    }
    let mut out = [0; 2 * PAGE_SIZE];
    let mut compress = |page: &[u8; PAGE_SIZE]| {
        let len = tfm.compress(page, &mut out).ok()?;
        Some(out[..len].to_vec())
    };
    pages.iter().filter_map(&mut compress).collect()
}
