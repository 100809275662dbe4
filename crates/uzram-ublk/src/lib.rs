//! A uzram device as `/dev/ublkbN`: a kernel block device whose requests this process serves through io_uring.
//!
//! * One queue and one pinned thread for each CPU. A thread uses the compression stream of its CPU, so no request queues for
//!   a stream.
//! * READ, WRITE, FLUSH, FUA, DISCARD, WRITE_ZEROES.
//! * The device survives this process: the kernel holds its requests when the process dies, and a new process takes it over
//!   ([`Ublk::recover`]). The driver then issues again what was in flight, which is safe: every request here is idempotent.
//!
//! **Buffers.** With *user copy* a thread has one buffer and copies from and to the request's pages by a system call. With
//! *mapped* buffers the driver copies to a buffer that each of a queue's tags has. The first takes
//! `queues x max_io_bytes` of memory, the second `queues x depth x max_io_bytes`: see [`Buffers`].
//!
//! This is our own thin layer on `io-uring` and not `libublk`, which needs libclang to build and an executor to run. Zero
//! copy and buffer registration are not used: a request's bytes have to pass the CPU to be compressed.
//!
//! This crate knows nothing about compressors, pools, or how devices are named.
#![deny(unsafe_code)]

mod abi;
mod as_frontend;
mod control;
mod error;
mod fault;
mod node;
mod options;
mod queue;
mod recover;
mod replaced;
mod request;
mod stale;
mod sys;
mod ublk;

pub use as_frontend::UblkFrontend;
pub use error::Error;
pub use node::owner;
pub use options::{Buffers, Tag, UblkOptions};
pub use stale::{clear_stale, clear_users_stale};
pub use ublk::{OnDeath, Ublk, probe};
