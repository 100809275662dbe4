//! zram in user space, as a library: a block device whose contents live compressed in RAM.
//!
//! ```
//! use uzram::Device;
//! let device = Device::builder(64 << 20).algorithm("zstd").algorithm_param("level", "1").build()?;
//! device.write_at(b"hello", 12_345)?;
//! let mut back = [0u8; 5];
//! device.read_at(&mut back, 12_345)?;
//! assert_eq!(&back, b"hello");
//! assert!(device.stats().compr_data_size_bytes < 64);
//! device.discard(0, device.size_bytes())?;
//! assert_eq!(device.stats().orig_data_size_bytes, 0);
//! # Ok::<(), uzram::Error>(())
//! ```
//!
//! # How a page is kept
//!
//! Every page of 4096 bytes has a *slot*: one atomic 64-bit word that holds its state, its flags, its lock bits
//! and where its object lies. Objects lie in an arena of size classes (`uzram-pool`). Table and arena are one
//! region of memory behind a versioned header, contain offsets and no pointers, and can outlive the process.
//!
//! # The shared-memory protocol
//!
//! A write compresses into a stream's buffer with no lock on the slot, copies the object into freshly allocated
//! space, **then** publishes the new word with one atomic swap, and frees the old object last. At whatever
//! instruction the process dies, a slot's word describes a complete object: every acknowledged write is there.
//!
//! A slot's word has three control bits:
//!
//! * *locked*: somebody reads the object or changes the word. Held for one decompression at most by readers,
//!   for a few instructions by writers; never while compressing or allocating.
//! * *writing*: a partial write is between reading the old contents and publishing the new. Other writers of
//!   the page wait for it, so that nothing is lost between the two; readers do not.
//! * *waiters*: somebody is parked. Waiting spins briefly and then sleeps on a futex, so that a holder that was
//!   descheduled can run.
//!
//! Empty and same-filled slots are read without taking the lock: the word says all. A request looks at words ahead of its
//! turn, without the lock, to have objects fetched into the cache. That is a hint: nothing is believed of it.
//!
//! # Codecs
//!
//! A device has up to 16 codecs (an algorithm with parameters and dictionary), which words name by index. The
//! *primary* compresses what is written; it can be changed while the device is in use ([`Device::set_algorithm`],
//! [`JobsApi::train`]). Others are there for the objects that they made, until the last one is rewritten or discarded,
//! or for recompression. The image remembers them all.
//!
//! ```
//! use uzram::{Choice, Device};
//! let device = Device::builder(64 << 20).build()?;
//! device.write_at(b"lz4", 0)?;
//! device.set_algorithm(&"zstd(level=1)".parse()?)?;
//! device.write_at(b"zstd", 4096)?;
//! device.set_secondary(1, Some(&Choice::new("zstd").param("level", "9")))?;
//! assert_eq!(device.codecs().len(), 3);
//! # Ok::<(), uzram::Error>(())
//! ```
//!
//! A new process attaches to what is left ([`Builder::attach`]): it reads every word once and derives the rest. Only
//! one process may have the image at a time, which a lock on its file sees to.
//!
//! # Lock order
//!
//! stream, then *writing*, then a reader's contexts, then *locked*, then a shard of the dedup index, then a pool bin. Changes of codecs take one lock
//! among themselves and below it a stream, a reader's contexts or the roster, never two of these at once. Nothing else is locked between a request and its
//! reply, and nothing allocates from the heap or calls the system, unless a slot is contended or the memory limit
//! is hit.
//!
//! Streams for writing and contexts for reading (only for algorithms that need one to decompress) are kept
//! apart, one of each per CPU, so that no read ever waits for a compression.
//!
//! # Compaction
//!
//! [`JobsApi::compact`] moves objects together while requests go on. To it a slot's lock and word are what they are to a
//! writer, but for the flags and *writing*, which it leaves alone: it locks the slot that owns an object, sees whether the
//! word names that object, copies, publishes the word with the new handle, and frees the old object last.
//!
//! # Policies
//!
//! An [`Agent`] does in the background, within a budget, what [`JobsApi::set_policy`] says: recompression and writeback of
//! pages that nobody uses, training, compaction. It is a caller like any other.
//!
//! # Dedup
//!
//! With [`Builder::dedup`] or [`Device::set_dedup`] pages of the same contents share one object, copy on write: to write
//! one of them is to publish another word. It is off by default. What a write makes is looked up by a hash of the object
//! and always compared byte by byte; words stay the truth, and references are counted again by who attaches.
//!
//! Same-filled pages need none of it. Two pages share only if the same codec made their objects, and only what was
//! written while dedup was on is found. Recompression, writeback and compaction leave an object alone that several pages
//! share. Recompression and writeback make it the page's own again, which nothing joins.
//!
//! **It opens a side channel.** Whether a page is stored already shows in the time that a write takes and in the memory
//! that the device uses. Whoever may write to a device and measure either can find out whether a page that he guesses is
//! on it, and so what others keep there: do not use it where those who share a device do not trust each other.
//!
//! ```
//! use uzram::Device;
//! let device = Device::builder(64 << 20).dedup(true).build()?;
//! let page: Vec<u8> = (0..4096u32).map(|at| (at / 7 * 31) as u8).collect();
//! for number in 0..100 {
//!     device.write_at(&page, number * 4096)?;
//! }
//! assert_eq!(device.stats().dup_pages, 99);
//! # Ok::<(), uzram::Error>(())
//! ```
//!
//! This crate knows nothing about protocols, sockets or command lines.
#![deny(unsafe_code)]

mod agent;
mod apis;
mod attach;
mod backing;
mod builder;
mod codec;
mod compact;
mod counters;
mod dedup;
mod device;
mod error;
mod extents;
mod idle;
mod layout;
mod page;
mod recompress;
mod slots;
mod stream;
mod table;
mod train;
mod word;

pub use agent::{Agent, AgentStats, Plan, PolicySettings, Step};
pub use apis::{JobsApi, SwapApi, ZramApi};
pub use attach::{check_image, read_header};
pub use backing::{BackingStats, Ended, PromoteReport, StoreStats, Writeback, WritebackReport};
pub use builder::{Builder, MAX_SIZE_BYTES};
pub use codec::{Choice, CodecStats, PRIORITIES};
pub use compact::CompactReport;
pub use counters::{Counter, CounterKind, Stats, Unit};
pub use device::{Device, Zeroes};
pub use error::{BackingError, Corruption, Error};
pub use extents::{Extent, ExtentKind};
pub use layout::{Header, HeaderError};
pub use recompress::{Kind, Pace, Recompress, RecompressReport};
pub use slots::Slot;
pub use train::{Rule, TrainReport, Training, pays};
pub use uzram_backing as store;
pub use uzram_compress as compress;
pub use uzram_pool::{ClassStats, Gate};

/// Bytes in a page, the unit of compression.
pub const PAGE_SIZE: usize = 4096;
