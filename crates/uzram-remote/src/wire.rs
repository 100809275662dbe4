//! What a program and its process for a store (`uzram-s3`) say to each other over a socket pair.
//!
//! The process's stdin is a socket. The program sends a [`Place`] there and gets an answer; then it sends descriptors of more
//! sockets, one for each call that goes on at a time. A message is its head's length (4 bytes), the length of what
//! follows the head (8 bytes), the head as JSON, and what follows.
//!
//! Nobody but the two has these sockets. Lengths are bounded all the same.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::{Meta, StoreError, Version, When};

/// Most bytes of a head: a page of a list has a thousand names.
pub const MAX_HEAD_BYTES: u32 = 4 << 20;
/// Most bytes of what follows: no object is longer than a segment, a manifest excepted, which may have these.
pub const MAX_BODY_BYTES: u64 = 64 << 20;

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with: nothing, or a text without a `/` at its end.
    pub prefix: String,
    /// The address of the service, if it is not Amazon's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The profile in the files of credentials and configuration.
    pub profile: Option<String>,
    /// For how long a call is tried again.
    pub patience_seconds: u64,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// What follows is the object.
    Put {
        /// The object's key.
        key: String,
        /// On which condition.
        when: When,
    },
    /// The object follows the answer.
    Get {
        /// The object's key.
        key: String,
        /// Most bytes that it may have.
        max: u64,
    },
    /// The bytes follow the answer.
    GetRange {
        /// The object's key.
        key: String,
        /// The first byte.
        start: u64,
        /// The byte after the last.
        end: u64,
    },
    /// Looks at an object.
    Head {
        /// The object's key.
        key: String,
    },
    /// Lists objects: some answers with `more`, and one without.
    List {
        /// What their keys begin with.
        prefix: String,
    },
    /// Removes an object.
    Delete {
        /// The object's key.
        key: String,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Done,
    /// It was written, or read, in this version.
    Version(Version),
    /// The object.
    Meta(Meta),
    /// Objects.
    Listed {
        /// Some of them.
        found: Vec<Meta>,
        /// Whether more come.
        more: bool,
    },
    /// It was not done.
    Failed(StoreError),
}

/// Writes a message.
pub fn write(to: &mut impl Write, head: &impl Serialize, body: &[u8]) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    let mut first = (head.len() as u32).to_le_bytes().to_vec();
    first.extend_from_slice(&(body.len() as u64).to_le_bytes());
    first.extend_from_slice(&head);
    to.write_all(&first)?;
    to.write_all(body)
}

/// Reads a message's head; returns how many bytes follow.
pub fn read_head<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<(T, u64)> {
    let mut lengths = [0; 12];
    from.read_exact(&mut lengths)?;
    let (head, body) = lengths_of(&lengths)?;
    let mut bytes = vec![0; head];
    from.read_exact(&mut bytes)?;
    Ok((serde_json::from_slice(&bytes)?, body))
}

/// The lengths of a head and of what follows it.
pub fn lengths_of(lengths: &[u8; 12]) -> io::Result<(usize, u64)> {
    let (head, body) = lengths.split_at(4);
    let head = u32::from_le_bytes(head.first_chunk().copied().unwrap_or_default());
    let body = u64::from_le_bytes(body.first_chunk().copied().unwrap_or_default());
    match head <= MAX_HEAD_BYTES && body <= MAX_BODY_BYTES {
        true => Ok((head as usize, body)),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}
