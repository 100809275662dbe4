//! A pool of objects of 1 to 4096 bytes in a memory arena that may outlive the process.
//!
//! The arena is cut into *spans* of 1 MiB. A span holds objects of one *size class*; its first bytes are its
//! side table (owner of each object, bitmap of used objects), the rest are the objects. An object's handle is
//! its offset in the arena, so it stays valid wherever the arena is mapped, and there are no pointers in it.
//!
//! * A *bin* (shard x class) keeps its non-full spans in four lists by fullness and allocates from the
//!   fullest. Each bin has its own lock; a shard is meant to serve one CPU, so that the lock is uncontended.
//! * An emptied span goes to a lock-free stack, from which any bin takes it again.
//! * Memory is accounted by the page: a page counts from the first object that touches it until
//!   [`Pool::trim`] gives it back to the system. `free` itself makes no system call.
//!
//! * Compaction ([`Pool::compact`]) moves objects together and gives pages back, while others allocate and free.
//!
//! * Freed objects can be erased ([`Pool::set_erase`]), so that nothing stays readable.
//!
//! * A pool may keep a *stock* ([`Pool::keep_stock`]): then an allocation never asks the system for memory.
//!
//! **What is truth and what is derived.** The bytes of the objects and the owners are all that matters; lists,
//! bitmaps and counters can be rebuilt by whoever knows the live (handle, length) pairs ([`Pool::restore`]), since the
//! span follows from the handle and its class stands in its head.
//!
//! **Lock order**: one bin at a time; another shard's bin only by `try_lock` and after the own one is
//! released. The pool calls no code of its caller while it holds one. Before bins come, in this order, the locks of
//! compaction and of trimming or refilling; a request takes the latter only to trim at the limit.
//!
//! **Memory bound**: 0.5 % for the class's rounding, 4 bytes and 1 bit an object, one partial page for each
//! (shard, class) in use, 64 bytes a bin and a span.
//!
//! This crate knows nothing about what the bytes mean, or who owns them.
#![deny(unsafe_code)]

mod alloc;
mod bin;
mod class;
mod class_stats;
mod compact;
pub mod contention;
mod erase;
mod object;
mod pool;
mod reclaim;
mod region;
mod restore;
mod span;
mod stock;

pub use class::{CLASS_COUNT, HUGE_THRESHOLD, MAX_OBJECT, SPAN_BYTES, class_size};
pub use class_stats::{ClassStats, FULLNESS_GROUPS};
pub use compact::{Compacted, Destination, Mover};
pub use object::{Error, Object, PoolStats};
pub use pool::Pool;
pub use region::{Region, current_cpu, undumped_vec};
pub use restore::{PoolDamage, PoolRestore};
pub use stock::{Gate, Restocked};

/// Bytes in a page of the system and of the arena.
pub const PAGE: usize = 4096;

/// The README's snippet is tested with the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
