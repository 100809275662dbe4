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
//! * *locked*: the object is being read or the word changed. Readers hold it for one decompression at most, writers
//!   for a few instructions; nobody holds it while compressing or allocating.
//! * *writing*: a partial write is between reading the old contents and publishing the new. Other writers of the page
//!   wait for it, so that no write is lost; readers do not.
//! * *waiters*: a thread is parked. Waiting spins briefly and then sleeps on a futex, so that a descheduled holder
//!   can run.
//!
//! A page of the table of which all 512 slots are empty is given back: each slot is locked first, by exchanging an empty
//! word, and the page that is punched is unlocked and empty. Who publishes a word marks the page as touched afterwards.
//!
//! Empty and same-filled slots are read without the lock: the word is all of it. A request also peeks at the words of
//! its next pages, without the lock, to prefetch their objects. That is only a hint; nothing is decided by it.
//!
//! # Codecs
//!
//! A device has up to 16 codecs (an algorithm with parameters and dictionary), which words name by index. The
//! *primary* compresses what is written and can be changed while the device is in use ([`Device::set_algorithm`],
//! [`JobsApi::train`]). Others serve recompression, or stay for their objects until the last one is rewritten or
//! discarded. The image remembers them all.
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
//! A new process attaches to what a dead one left ([`Builder::attach`]): it reads every word once and derives the
//! rest. A lock on the image's file admits one process at a time.
//!
//! Some algorithms train themselves ([`compress::Algorithm::trains_itself`]): an [`Agent`] trains their dictionary from the
//! first pages that are written, and again when what is written has drifted. Each training that is adopted makes a
//! [`Generation`], a codec of its own: nothing that the rules above do not cover.
//!
//! # Lock order
//!
//! stream, then *writing*, then a reader's contexts, then *locked*, then a shard of the dedup index, then a pool bin.
//! A cut takes the locks on post-processing, on resizing and on changes of codecs, and then all streams by ascending number.
//! A change of codecs takes a lock of its own and, below it, a stream, a reader's contexts or the roster, never two
//! of these at once. No other lock is taken between a request and its reply. Nothing allocates from the heap or makes
//! a system call, unless a slot is contended or the memory limit is hit.
//!
//! Streams for writing and contexts for reading (only for algorithms that need one to decompress) are kept
//! apart, one of each per CPU, so that no read ever waits for a compression.
//!
//! # Compaction
//!
//! [`JobsApi::compact`] moves objects together under I/O. It follows a writer's protocol but keeps the flags and
//! *writing*: it locks the slot that owns an object, checks that the word names that object, copies, publishes the
//! word with the new handle, and frees the old object last.
//!
//! # Snapshots
//!
//! [`Device::cut`] holds every stream at once: no write, discard or zeroing is in flight then, since each holds a stream.
//! After that a writer who finds the cut in its stream keeps what it replaces, instead of freeing it, until the walk has
//! copied it. Without a cut that is one branch on a line that the writer owns. See `snapshot/state.rs`.
//!
//! # Remote pages
//!
//! A clone's pages may be *remote* ([`Install::remote`]): they stay where the clone's snapshot is until they are needed. A
//! request has what it needs brought before it takes a stream or locks a slot, so that nothing waits for a source that others
//! wait for. A page is never remote again. See `remote/mod.rs`.
//!
//! # Policies
//!
//! An [`Agent`] works in the background, within a budget, by the rules of [`JobsApi::set_policy`]: it recompresses
//! and writes back idle pages, trains, compacts. It is a caller like any other.
//!
//! # Dedup
//!
//! With [`Builder::dedup`] or [`Device::set_dedup`] pages of equal contents share one object, copy on write: writing
//! one of them publishes another word. It is off by default. A write looks its object up by a hash and always
//! compares byte by byte. Words stay the truth: attaching counts the references again.
//!
//! Same-filled pages do not need it. Two pages share only objects of the same codec, and only objects written while
//! dedup was on are found. Recompression, writeback and compaction leave shared objects alone. Recompression and
//! writeback make an unshared object private again, and no page joins that one.
//!
//! **It opens a side channel.** Write latency and memory use show whether a page is stored already. Who may write to
//! a device and measure either can test a guess about what others keep there. Do not use it where the users of a
//! device do not trust each other.
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
mod cpu_time;
mod dedup;
mod device;
mod erase;
mod error;
mod extents;
mod idle;
mod inspect;
mod install;
mod latency;
mod layout;
mod limit;
mod page;
mod recompress;
mod remote;
mod slots;
mod snapshot;
mod stream;
mod table;
mod train;
mod word;

pub use agent::{Agent, AgentStats, Plan, PlanStep, PolicySettings};
pub use apis::{JobsApi, SwapApi, ZramApi};
pub use attach::{check_image, read_header};
pub use backing::{
    BackingInfo, BackingOptions, BackingStats, DiskOpener, Ended, PageFailure, PromoteReport,
    StoreStats, Writeback, WritebackReport,
};
pub use builder::{Builder, MAX_SIZE_BYTES};
pub use codec::{Choice, CodecStats, Generation, PRIORITIES};
pub use compact::CompactReport;
pub use counters::{Counter, CounterKind, Stats, Unit};
pub use device::{Device, Zeroes};
pub use error::{BackingError, Corruption, Error};
pub use extents::{Extent, ExtentKind};
pub use inspect::{AGE_GROUPS, AgeGroup, Inspect, InspectReport, InspectedCodec, Saved};
pub use install::{Install, StoredPage};
pub use latency::{Latencies, Latency, LatencyBucket};
pub use layout::{Header, HeaderError};
pub use recompress::{Pace, PageKind, Recompress, RecompressReport};
pub use remote::{Access, Fetchers, HydrateReport, RemoteError, RemoteOptions, RemoteSource};
pub use slots::Slot;
pub use snapshot::{
    Basis, Cut, CutCodec, CutFrame, CutOptions, CutPage, CutProgress, CutWatch, FRAME_PAGES,
    FrozenFrames, SnapshotId,
};
pub use train::{Rule, TrainReport, Training, pays, pays_unasked};
pub use uzram_backing;
pub use uzram_compress as compress;
#[cfg(feature = "contention")]
pub use uzram_pool::contention;
pub use uzram_pool::{ClassStats, Gate};

/// Bytes in a page, the unit of compression.
pub const PAGE_SIZE: usize = 4096;

/// The README's snippet is tested with the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
