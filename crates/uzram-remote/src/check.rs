//! Whether what the tags name is there and whole.
//!
//! The index is always read, and each segment's directory; frames only where that is asked for. Of a sealed snapshot lengths are
//! compared and, where that is asked for, the hashes of what is stored: for that nobody needs a key.

use std::io;

use uzram_seal::Keys;
use uzram_snapshot::{
    Digest, Kind, NamedPart, SEGMENT_FOOTER_BYTES, check_dictionary, check_directory,
    check_segment, segment_directory,
};

use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::objects::key_of_part;
use crate::remote::{FoundManifest, FoundTag, Remote};
use crate::store::StoreErrorKind;
use crate::upload::{LOOKERS, for_all};

/// What is checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checking {
    /// Whether all bytes are read.
    pub read: bool,
}

/// What was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Parts that the snapshot needs.
    pub parts: usize,
    /// Bytes of them.
    pub bytes: u64,
}

impl Checking {
    /// Checks the snapshot of a tag. With keys it must be sealed, and what is inside is checked, too.
    pub fn run(&self, remote: &Remote, tag: &FoundTag, keys: Option<&Keys>) -> Result<Checked> {
        let name = tag.body.name()?;
        // Else what is missing might have been collected since.
        let _lease: Option<Lease> = match remote.lease(name, "check") {
            Err(error) if error.is_not_found() => None,
            lease => lease?,
        };
        let of = format!("{}/{}", remote.name, tag.tag);
        let manifest = remote.manifest(name);
        let manifest = manifest.map_err(|error| match error {
            Error::Store(error) if error.kind == StoreErrorKind::NotFound => {
                missing(error.key, &of)
            }
            other => other,
        })?;
        let mut parts = manifest.parts();
        parts.sort();
        parts.dedup_by_key(|part| (part.kind, part.name));
        let checked = Checked {
            parts: parts.len() + 1,
            bytes: parts.iter().map(|part| part.bytes).sum(),
        };
        for_all(&parts, LOOKERS / 2, |part| {
            self.check_part(remote, &manifest, part, &of)
        })?;
        if let Some(keys) = keys {
            manifest.open(Some(keys), &of)?;
        }
        if self.read && (keys.is_some() || matches!(manifest, FoundManifest::Plain(_))) {
            // That the frames are those which the index says, and that the totals are right.
            let opened = remote.open_tag(&tag.tag, keys, "check")?;
            opened.write_complete(io::sink())?;
        }
        Ok(checked)
    }

    fn check_part(
        &self,
        remote: &Remote,
        manifest: &FoundManifest,
        part: &NamedPart,
        of: &str,
    ) -> Result<()> {
        let key = key_of_part(part);
        let found = match remote.store.head(&key) {
            Err(error) if error.kind == StoreErrorKind::NotFound => return Err(missing(key, of)),
            meta => meta?.bytes,
        };
        if found != part.bytes {
            let bytes = part.bytes;
            return Err(Error::Length { key, found, bytes });
        }
        let bad = |error: uzram_snapshot::Error| Error::Foreign {
            what: key.clone(),
            kind: "part",
            why: error.to_string(),
        };
        let read = |from: u64, to: u64| Ok::<_, Error>(remote.store.get_range(&key, from..to)?);
        let manifest = match manifest {
            FoundManifest::Plain(manifest) => manifest,
            FoundManifest::Sealed(_) => {
                let is_whole = !self.read || {
                    let bytes = read(0, part.bytes)?;
                    Digest(*blake3::hash(&bytes).as_bytes()) == part.name
                };
                let damaged = uzram_seal::Error::Broken("it is another one than its name says");
                return is_whole.then_some(()).ok_or(Error::Seal {
                    of: Some(key),
                    source: damaged,
                });
            }
        };
        match part.kind {
            Kind::Segment if self.read => {
                check_segment(part.name, &read(0, part.bytes)?).map_err(bad)
            }
            Kind::Segment => {
                let footer = part.bytes.saturating_sub(SEGMENT_FOOTER_BYTES);
                let footer = read(footer, part.bytes)?;
                let (at, bytes) = segment_directory(part.bytes, &footer).map_err(bad)?;
                check_directory(part.name, at, &read(at, at + bytes)?).map_err(bad)
            }
            Kind::Index => manifest
                .check_block(part, &read(0, part.bytes)?)
                .map_err(bad),
            _ => check_dictionary(part.name, &read(0, part.bytes)?)
                .map(drop)
                .map_err(bad),
        }
    }
}

fn missing(key: String, of: &str) -> Error {
    Error::Missing {
        key,
        needed_by: of.into(),
        collected: false,
    }
}
