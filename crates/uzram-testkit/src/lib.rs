//! What the workspace's tests, examples and benchmarks share: a pseudo-random generator ([`Random`]), data of every
//! compressibility ([`data`]), the rule for missing peers ([`peers`]), a public API under test ([`api`]) and, with the
//! features `algorithm`, `disk`, `program`, `virtio` and `zram`, an algorithm that trains itself, a disk that fails on demand,
//! a program that makes devices, a guest without a virtual machine, and zram's devices without processes.
//!
//! A dev-dependency of the other crates, never published and never part of the program. Without features it depends on
//! none of them, so that each may use it. Everything is reproducible: the same seed gives the same bytes on every machine.
#![forbid(unsafe_code)]

#[cfg(feature = "algorithm")]
pub mod algorithm;
pub mod api;
pub mod certificates;
pub mod data;
#[cfg(feature = "disk")]
pub mod disk;
mod expand;
pub mod peers;
#[cfg(feature = "program")]
pub mod program;
mod random;
#[cfg(feature = "schema")]
pub mod schema;
#[cfg(feature = "virtio")]
pub mod virtio;
#[cfg(feature = "zram")]
pub mod zram;

pub use random::Random;

/// The mount table of this process. Names of others' mount points need not be text.
///
/// # Panics
///
/// If it cannot be read.
pub fn mountinfo() -> String {
    let bytes = std::fs::read("/proc/self/mountinfo").unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
