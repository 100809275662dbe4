//! Reads the parts of a sealed snapshot from where they are stored, by the names that they have inside the seal.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use uzram_snapshot::{Digest, Kind, Source};

use crate::manifest::OpenedManifest;
use crate::parts::PartCipher;

struct Stored {
    name: Digest,
    /// Bytes of the part inside.
    bytes: u64,
    cipher: PartCipher,
}

/// The parts of a snapshot whose seal is open. What comes from the store is opened on its way, or refused.
pub struct SealedSource {
    stored: Arc<dyn Source>,
    parts: HashMap<(Kind, Digest), Stored>,
    manifest: (Digest, Arc<[u8]>),
}

impl fmt::Debug for SealedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedSource")
    }
}

impl SealedSource {
    pub(crate) fn new(opened: &OpenedManifest, stored: Arc<dyn Source>) -> SealedSource {
        let manifest = opened.manifest();
        let part = |part: uzram_snapshot::NamedPart| {
            let key = (part.kind, part.name);
            let (name, bytes) = (*opened.names.get(&key)?, part.bytes);
            let cipher = PartCipher::new(&opened.family.key, part.kind, part.name, bytes);
            Some((
                key,
                Stored {
                    name,
                    bytes,
                    cipher,
                },
            ))
        };
        SealedSource {
            stored,
            parts: manifest.parts().into_iter().filter_map(part).collect(),
            manifest: (manifest.name(), manifest.record().into()),
        }
    }

    fn find(&self, kind: Kind, name: Digest) -> io::Result<&Stored> {
        let found = self.parts.get(&(kind, name));
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Source for SealedSource {
    fn size_bytes(&self, kind: Kind, name: Digest) -> io::Result<u64> {
        if (kind, name) == (Kind::Manifest, self.manifest.0) {
            return Ok(self.manifest.1.len() as u64);
        }
        Ok(self.find(kind, name)?.bytes)
    }

    fn get_range(&self, kind: Kind, name: Digest, range: Range<u64>) -> io::Result<Vec<u8>> {
        if (kind, name) == (Kind::Manifest, self.manifest.0) {
            let part = self
                .manifest
                .1
                .get(range.start as usize..range.end as usize);
            return part
                .map(<[u8]>::to_vec)
                .ok_or(io::ErrorKind::UnexpectedEof.into());
        }
        let of = self.find(kind, name)?;
        if range.start > range.end || range.end > of.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let sealed = of.cipher.sealed_range(&range);
        let sealed = self.stored.get_range(kind, of.name, sealed)?;
        Ok(of.cipher.open(&range, sealed)?)
    }
}
