//! A vhost-user-blk server for uzram devices.
//!
//! A virtual machine monitor (QEMU, cloud-hypervisor) connects to a unix socket and passes its guest's memory. The guest's
//! virtio-blk driver then puts requests into rings of that memory, and this process executes them there: no data goes through
//! the socket. The crate turns each request into a call of [`uzram::Device`]. It knows nothing about compressors or pools.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use uzram_vhost_user::Server;
//!
//! let device = Arc::new(uzram::Device::builder(1 << 30).build()?);
//! let server = Server::builder("zram0", device)
//!     .bind("/run/uzram.sock".as_ref())?
//!     .start()?;
//! server.shutdown();
//! # Ok(()) }
//! ```
//!
//! # Threads
//!
//! One thread accepts. The client, one at a time, has a thread for its messages ([`session`]) and one for each queue that it
//! has set up ([`queue`]). A message that concerns a queue stops that queue's thread, which hands everything back, and starts
//! another: the two share nothing but a flag. A request that waits for a clone's source waits on a thread of its own.
//!
//! # A server's death
//!
//! Which requests were taken and not answered stands in memory that the client keeps ([`inflight`]). The next server executes
//! them again, in their order. So does one that takes over in an upgrade.
//!
//! # Trust
//!
//! The guest is not trusted, nor is the client. All of their memory is read by copies, so that what was checked is what is used; no
//! reference into it exists, and there is no unsafe code here. A request that makes no sense gets an error. A ring that makes
//! no sense stops, a wrong message ends the connection, each with one logged reason. Who may connect can still take this
//! process down by making shared memory shorter under it; its own device is all that it serves.
#![forbid(unsafe_code)]
// `session` and its siblings are private; their docs are linked for readers of the source.
#![allow(rustdoc::private_intra_doc_links)]

mod as_frontend;
mod chain;
mod config;
mod error;
mod inflight;
mod memory;
mod queue;
mod request;
mod ring;
mod server;
mod session;

pub use as_frontend::VhostUserFrontend;
pub use error::Error;
pub use server::{RunningServer, Server, ServerBuilder};
