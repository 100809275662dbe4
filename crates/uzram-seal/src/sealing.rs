//! Seals the parts of a snapshot on their way to a store.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use uzram_snapshot::{Digest, Kind, Part, StoredManifest};

use crate::family::Family;
use crate::keys::Recipients;
use crate::manifest::{self, OpenedManifest};
use crate::parts::{PartCipher, code};
use crate::{Error, Result};

/// A snapshot that is sealed part by part. Its calls may come from several threads.
pub struct Sealing {
    family: Family,
    names: Mutex<HashMap<(Kind, Digest), Digest>>,
    /// The parent's own name, and what the store calls it.
    parent: Option<(Digest, Digest)>,
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealing")
    }
}

impl Sealing {
    /// Of a complete snapshot, with which a family begins.
    pub fn new(recipients: &Recipients) -> Result<Sealing> {
        Ok(Sealing {
            family: Family::new(recipients)?,
            names: Mutex::default(),
            parent: None,
        })
    }

    /// Of a snapshot since `parent`, whose family it is of. Without recipients it is for those of the parent.
    pub fn since(parent: &OpenedManifest, recipients: Option<&Recipients>) -> Result<Sealing> {
        Ok(Sealing {
            family: match recipients {
                Some(recipients) => parent.family.for_others(recipients)?,
                None => parent.family.same(),
            },
            names: Mutex::new(parent.names.clone()),
            parent: Some((parent.manifest().name(), parent.stored)),
        })
    }

    /// Seals a dictionary, a segment or an index block. What is returned has the name and the bytes that the store sees.
    pub fn seal(&self, part: &Part) -> Result<Part> {
        let Part { kind, name, bytes } = part;
        if code(*kind).is_none() {
            return Err(Error::Usage("a manifest is sealed when all else is"));
        }
        let cipher = PartCipher::new(&self.family.key, *kind, *name, bytes.len() as u64);
        let bytes = cipher.seal(bytes)?;
        let stored = Digest(*blake3::hash(&bytes).as_bytes());
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert((*kind, *name), stored);
        Ok(Part {
            kind: *kind,
            name: stored,
            bytes,
        })
    }

    /// Seals the manifest, when all parts are.
    pub fn manifest(&self, manifest: &StoredManifest) -> Result<Part> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let parent = match (manifest.head().parent, self.parent) {
            (Some(own), Some((parent, stored))) if own == parent => Some(stored),
            // What went before in the same stream is no snapshot that the store has.
            _ => None,
        };
        let (name, bytes) = manifest::seal(&self.family, manifest, &names, parent)?;
        Ok(Part {
            kind: Kind::Manifest,
            name,
            bytes,
        })
    }
}
