//! Snapshots in a shared directory or an object store: what is stored under which key, how a snapshot is committed, what keeps
//! one that is used from being collected, and which remotes a user has.
//!
//! A [`Remote`] is a [`Store`] with snapshots in it. The command reads and writes it; nothing of it is in a server's memory or on
//! the way of a request.
//!
//! **Commit**: parts under the names that their hashes give them, in any order; the manifest; and only when all that it needs
//! is there, the tag, on the condition that nobody else wrote it meanwhile. So a tag names what is whole, wherever it was
//! interrupted, and whoever repeats an upload sends what is missing.
//!
//! **Collection**: what neither a tag nor a lease needs, and is older than a grace period, is removed. `lease.rs` says why
//! nothing is removed that is used.
//!
//! Nothing that is read is believed before its hash is compared. Whoever can write to the store can remove or replace what is in
//! it, and can name another snapshot by a tag.
//!
//! This crate knows nothing about devices, frontends or HTTP.
#![forbid(unsafe_code)]

mod backing;
mod check;
mod collect;
mod config;
mod dir;
mod error;
mod id;
mod lease;
mod objects;
mod probe;
mod read;
mod remote;
mod s3;
mod store;
mod trace;
mod upload;
pub mod wire;

pub use backing::{BackingOwner, BackingUser, FoundBacking, RemoteBacking};
pub use check::{Checked, Checking};
pub use collect::{Collected, Collecting, GRACE_SECONDS};
pub use config::{RemoteAddress, RemoteConfig, Remotes};
pub use dir::DirStore;
pub use error::{Error, Result};
pub use lease::Lease;
pub use objects::{Tag, is_tag, key_of};
pub use read::Opened;
pub use remote::{FoundManifest, FoundTag, ReadableManifest, Remote};
pub use s3::{S3Address, S3Store};
pub use store::{ClientEnd, Meta, Store, StoreError, StoreErrorKind, Version, When};
pub use upload::{Progress, Uploaded, Uploading};
