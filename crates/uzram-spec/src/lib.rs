//! What a uzram device is, as a type: [`DeviceSpec`], versioned, serialised as JSON, with a schema.
//!
//! The command line, `uzram.toml`, zram-generator's sections, the HTTP API and zram's interface all convert into it, once.
//! The keeper and every server of a device read it from the device's directory, so that a program with other options
//! can still serve what an older one made. [`Failure`] is what went wrong on the way, as a value that travels between
//! processes.
//!
//! This crate knows nothing about how a device is made.
#![forbid(unsafe_code)]

mod device;
mod failure;
mod frontend;
mod json;
mod limit;
mod options;
mod quantity;
pub mod rlimit;
mod schema;
pub mod size;
mod terminal;
mod text;
mod time;

pub use device::{
    BackingSpec, DEFAULT_ALGORITHM, DeviceSpec, Erase, MAX_NAME, SPEC_VERSION, SelfTraining,
    SentSpec, SnapshotSource, SwapSpec, check_name, number,
};
pub use failure::{Failure, FailureKind, Result};
pub use frontend::{AUTO, FrontendSpec, OptionValue};
pub use json::parse_json;
pub use limit::MemLimit;
pub use quantity::Bytes;
pub use schema::{answer_schema_of, options_schema, schema_of, spec_schema};
pub use terminal::{printable, printable_json, printable_line};
pub use time::short_time;

/// The README's example is one that compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
