//! Seals snapshots, so that whoever keeps them cannot read them: for [age](https://age-encryption.org) recipients, or by a
//! passphrase.
//!
//! **A file or a pipe** is an age file behind a header of 24 bytes, and what it holds is the snapshot as it always is
//! ([`SealingWriter`], [`SealedFile`], [`unseal`]). A reader above does not know that it reads a sealed one.
//!
//! **In a store** snapshots share parts, so these are sealed one by one under a key that a *family* has: a complete snapshot,
//! and all that are made since. An age file in each manifest wraps it. A part's own key is made of the family's and of the part's
//! name by keyed BLAKE3. The name is a hash of what the part holds, so no key ever seals two different things, wherever and
//! however often something is sealed; and in a family what is equal is equal when sealed, and stored once. Outside the seal a part
//! is called by the BLAKE3 hash of its sealed bytes, which everybody can check ([`Sealing`], [`SealedManifest`],
//! [`SealedSource`]).
//!
//! None of the cryptography is ours: age wraps keys and seals files, ChaCha20-Poly1305 seals parts. What is detected and what is not
//! stands in `docs/design/64-sealing.md`, each byte in `docs/reference/snapshot-format.md`.
//!
//! **Keys** are zeroised when they are dropped, and have no `Display`. Whoever holds them sees to it that the process leaves no
//! core dump.
//!
//! **Memory bound**: a file has one chunk of 64 KiB in memory; a part takes what it has, once more; a manifest what it has, twice.
//!
//! This crate knows nothing about devices, stores or command lines.
#![forbid(unsafe_code)]

mod error;
mod family;
mod file;
mod keys;
mod manifest;
mod parts;
mod sealing;
mod source;

pub use error::Error;
pub use family::{Family, FamilyKey};
pub use file::{SealedFile, SealingWriter, Unsealed, is_sealed, unseal};
pub use keys::{KeyFiles, Keys, Recipients};
pub use manifest::{OpenedManifest, SealedManifest};
pub use parts::{CHUNK_BYTES, PART_HEADER_BYTES, sealed_bytes};
pub use sealing::Sealing;
pub use source::SealedSource;

/// What this crate's calls return.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;
