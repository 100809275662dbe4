//! Which compression algorithms fit given memory.
//!
//! 1. [`sample`] takes pages of running processes, of a command's, of a file or of a block device, at random;
//! 2. [`mod@measure`] compresses and decompresses them with every algorithm, at several levels, with and without a
//!    dictionary that was trained on the other half of them, all taking turns;
//! 3. [`mod@recommend`] chooses one for writes and one for idle pages, for uzram and for the kernel's zram, and says why;
//! 4. [`kernel`] says it in the kernel's words.
//!
//! Sampled pages are only in this process's memory and are overwritten when they are dropped; nothing that a report
//! holds was part of them.
//!
//! This crate knows nothing about devices, frontends, command lines or pictures.
#![forbid(unsafe_code)]

mod error;
mod failure;
pub mod kernel;
pub mod measure;
pub mod recommend;
pub mod sample;

pub use error::Error;
pub use measure::{Measured, measure};
pub use recommend::{Advice, Pick, recommend};
pub use sample::Sample;

/// Bytes in a page.
pub const PAGE: usize = 4096;
