//! A uzram device as `/dev/nbdN`, for kernels that have nbd and no ublk: the kernel's own NBD client, told by
//! netlink to use sockets whose other ends are served by [`uzram_nbd`] in this process.
//!
//! *No handshake, no listening socket*: each connection is a socket pair, one end for the kernel, the other
//! for [`uzram_nbd::Adopter`]. Size, block size and flags are taken from the export that is served.
//!
//! *The device outlives its server*: when all connections have died, the kernel keeps requests for
//! [`Options::dead_conn_timeout`]. A process that comes meanwhile with the same data takes the device over
//! ([`KernelNbd::reattach`]) and the kernel sends again what had no reply. Requests that wait for a connection go
//! on at once; those that were sent and not answered are sent again when their time is over, which is up to 30
//! seconds after they were made (see [`Options::request_timeout`]).
//!
//! *A single connection that dies* (the kernel gives one up whose request took too long) is made anew, once
//! nothing that came through the old one is still being executed: a write must not be done a second time, late.
//!
//! *Any error is EIO*: the kernel's client knows no other, so a full memory limit is one as well.
//!
//! *Not for swap*: the kernel's client allocates memory for its sockets on the way to this process.
//!
//! This crate knows nothing about compressors, pools, or how devices are named.
#![deny(unsafe_code)]

mod as_frontend;
mod command;
mod error;
mod frontend;
mod genl;
mod mend;
mod message;
mod options;
mod sys;
mod sysfs;

pub use as_frontend::NbdKernelFrontend;
pub use error::Error;
pub use frontend::{KernelNbd, clear_stale, find, probe};
pub use options::Options;
