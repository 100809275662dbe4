//! The compress API: algorithms are registered and looked up by name, and a worker compresses with a context of its own
//! (a *tfm*) that hides the algorithm.
//!
//! Three lifetimes are kept apart, as in the kernel's zcomp:
//!
//! 1. an [`Algorithm`] is a description: name, driver name, priority, parameter schema;
//! 2. a [`Prepared`] holds checked parameters, shared by every worker and never changed;
//! 3. a [`Tfm`] is one worker's scratch state. Its calls allocate nothing and take only the caller's buffers.
//!
//! A [`Registry`] is a value, not a global: the built-in set plus what the caller adds. Only algorithms that passed their
//! self-test ([`conformance::self_test`]) are in it.
//!
//! ```
//! use uzram_compress::Registry;
//! let registry = Registry::builtin();
//! let prepared = registry.prepare("zstd", 4096, [("level", "1")])?;
//! let mut tfm = prepared.tfm()?;
//! let (page, mut object, mut back) = ([7u8; 4096], [0u8; 8192], [0u8; 4096]);
//! let len = tfm.compress(&page, &mut object)?;
//! assert!(len < 64);
//! assert_eq!(tfm.decompress(&object[..len], &mut back)?, 4096);
//! assert_eq!(back, page);
//! # Ok::<(), uzram_compress::Error>(())
//! ```
//!
//! Some algorithms take a *dictionary*: bytes that small inputs can refer to from the first byte on.
//! [`dictionary::train`] makes one from samples; [`Settings::with_dictionary`] hands it to `prepare`, which digests it
//! once for all workers. An object decompresses only with the dictionary that it was compressed with.
//!
//! This crate knows nothing about pages, slots, devices or pools: `block_size` is merely the largest input
//! that a tfm will be given.
#![deny(unsafe_code)]

mod algorithm;
mod backends;
pub mod conformance;
pub mod dictionary;
mod error;
mod registry;
mod settings;
mod spec;

pub use algorithm::{Algorithm, Decoder, Decompress, KnownAnswer, Prepared, Tfm};
pub use dictionary::{DictionaryForm, DictionarySpec};
pub use error::{Error, LibraryError, TrainingError};
pub use registry::Registry;
pub use settings::{ParamKind, ParamSpec, Settings, parse_params};
pub use spec::AlgorithmSpec;

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
