//! An NBD server for uzram devices.
//!
//! It speaks fixed newstyle NBD (specified by the protocol's own proto.md) over unix sockets and TCP, and turns each request
//! into a call of [`uzram::Device`]. It knows nothing about compressors or pools.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use uzram_nbd::{Export, Server};
//!
//! let device = Arc::new(uzram::Device::builder(1 << 30).build()?);
//! let server = Server::builder()
//!     .export(Export::new("zram0", device))
//!     .bind(&"unix:/run/uzram.sock".parse()?)?;
//! let handle = server.start()?;
//! println!("{}", handle.uri("zram0"));
//! handle.shutdown()?;
//! # Ok(()) }
//! ```
//!
//! [`Adopter`] is a server without an address, for sockets that are connected already.
//!
//! # Threads
//!
//! One thread accepts, and looks after idle connections. Each connection starts with one worker, and grows to the configured number the first time a client
//! sends several requests at once. The workers of a connection take turns as *leader*: the leader alone receives. See
//! [`connection`] for the protocol between them and the lock order. Before the leader sleeps it polls for the next request
//! for a while, where that pays: see [`poll`] and [`ServerBuilder::poll`].
//!
//! # Trust
//!
//! The client is not trusted: whatever it sends ends at most its own connection, with one logged reason. There is no
//! password; [`ServerBuilder::tls`] encrypts, and knows clients by certificates. Of a unix socket only root and the server's own user are served, and whom [`ServerBuilder::allow_uid`] names.
//! TCP does not tell users apart: whoever reaches the address is served. It is limited to loopback addresses unless
//! [`ServerBuilder::allow_remote`] says otherwise.
//!
//! # Limits
//!
//! A client has 10 seconds to negotiate, and its connection ends when it takes nothing of its replies for 60 seconds
//! ([`ServerBuilder::send_timeout`]). TCP clients that vanished are noticed within these times, too. There are 64 places
//! ([`ServerBuilder::max_connections`]); see [`limits`] for who gets them.
//!
//! A connection has at most W + 1 receive buffers of 512 KiB and W reply buffers of 260 KiB, where W is
//! [`ServerBuilder::workers`], at most 4 by default: 3.6 MB, whatever its client sends or does not read. Requests that do not
//! fit are streamed. The system's socket buffers come on top.
#![forbid(unsafe_code)]
// `connection` and its siblings are private; their docs are linked for readers of the source.
#![allow(rustdoc::private_intra_doc_links)]

mod activity;
mod adopter;
mod agreement;
mod as_frontend;
mod catalog;
mod close;
mod connection;
mod connections;
mod divide;
mod error;
mod execute;
mod export;
mod handshake;
mod limits;
mod listen;
mod lock;
mod peer;
mod poll;
mod proto;
mod receive;
mod relay;
mod reply;
mod server;
mod settings;
mod socket;
mod stop;
mod tls;

pub use adopter::Adopter;
pub use as_frontend::{
    EXPORTS_OPTIONS, FRONTEND, NbdFrontend, faults, lacking_tls, server_builder,
};
pub use catalog::{ExportDirectory, Unavailable};
pub use error::Error;
pub use export::{Export, check_names};
pub use listen::Listen;
pub use server::{RunningServer, Server, ServerBuilder};
pub use settings::DEFAULT_POLL;
pub use tls::Tls;
