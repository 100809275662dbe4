//! Benchmarks: what is measured (definitions), what it is measured against (rivals), on what data (corpora),
//! and how the figures are kept (reports).
//!
//! A figure is a ratio from one run in which the contestants take turns on the same pages ([`measure`]), the
//! median of many rounds, with the memory used beside the speed. This crate knows nothing of frontends:
//! the program that serves a device is run as anybody would run it.
#![deny(unsafe_code)]

pub mod api;
pub mod attach;
pub mod churn;
mod clone;
pub mod codecs;
#[cfg(feature = "contention")]
mod contention;
pub mod core;
pub mod corpus;
mod devices;
mod failure;
mod field;
pub mod fio;
mod holder;
mod host;
pub mod lab;
pub mod measure;
pub mod output;
pub mod policy;
mod program;
pub mod report;
mod rival;
pub mod rivals;
mod scale;
mod snapshot;
mod training;
#[cfg(feature = "rivals")]
mod vhost_user;
mod zram;

pub use program::{main, main_with};

// The library that the tests of the compress crate load, too.
#[allow(unsafe_code)]
mod liblzo2;
