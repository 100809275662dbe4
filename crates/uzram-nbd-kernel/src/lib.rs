//! A uzram device as `/dev/nbdN`, for kernels that have nbd and no ublk. Netlink tells the kernel's own NBD client to use
//! sockets whose other ends [`uzram_nbd`] serves in this process.
//!
//! *No handshake, no listening socket*: each connection is a socket pair, one end for the kernel, the other for
//! [`uzram_nbd::Adopter`]. Size, block size and flags are those of the export.
//!
//! *The device outlives its server*: when all connections have died, the kernel keeps requests for
//! [`KernelNbdOptions::dead_conn_timeout`]. A process that starts meanwhile with the same data takes the device over
//! ([`KernelNbd::reattach`]), and the kernel sends again what had no reply. Requests that wait for a connection go on at
//! once. Those that were sent and not answered are sent again when they time out, up to 30 seconds after they were made (see
//! [`KernelNbdOptions::request_timeout`]).
//!
//! *A single connection that dies* is replaced: the kernel gives one up whose request took too long. The new one is offered
//! only when nothing that came through the old one is being executed any more. Otherwise a write could be repeated late.
//!
//! *Any error is EIO*: the kernel's client knows no other, so a full memory limit is EIO as well.
//!
//! *Not for swap*: the kernel's client allocates memory for its sockets on the way to this process.
//!
//! This crate knows nothing about compressors, pools, or how devices are named.
#![deny(unsafe_code)]

mod as_frontend;
mod client;
mod error;
mod kernel_nbd;
mod netlink;
mod options;
mod reconnect;
mod stale;
mod sys;
mod sysfs;

pub use as_frontend::NbdKernelFrontend;
pub use error::Error;
pub use kernel_nbd::{KernelNbd, probe};
pub use options::KernelNbdOptions;
pub use stale::{clear_stale, find};
