//! The manifest of a sealed snapshot in a store: what everybody may know of it, and the snapshot's own manifest, sealed.
//!
//! A store's tools need to know which objects belong to a snapshot and how long they are; a manifest names no more in the open
//! than that, the disk's size, the moment and the parent. All of it is bound to the seal.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use uzram_snapshot::{Digest, Kind, NamedPart, SEALED_VERSION, Source, StoredManifest};

use crate::family::{Family, MAX_ENVELOPE_BYTES, random};
use crate::keys::Keys;
use crate::parts::{TAG_BYTES, code, sealed_bytes};
use crate::source::SealedSource;
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"uzramMA\0";
const HEADER: usize = 24;
const SUM: usize = 32;
const NONCE: usize = 24;
/// Bytes of a part in the list.
const ENTRY: usize = 52;
/// Most bytes of a sealed manifest.
const MAX_BYTES: usize = 128 << 20;

/// A sealed manifest, of which no more was read than everybody can.
#[derive(Clone)]
pub struct SealedManifest {
    name: Digest,
    record: Arc<[u8]>,
    pages: u64,
    taken_at_seconds: u64,
    parent: Option<Digest>,
    parts: Arc<[NamedPart]>,
    envelope: Range<usize>,
    /// Where the nonce is; the sealed manifest is behind it.
    nonce: usize,
}

impl fmt::Debug for SealedManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("SealedManifest");
        out.field("name", &self.name).finish_non_exhaustive()
    }
}

/// Takes fields from the front.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let found = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk);
        self.at += N;
        found.copied().ok_or(CUT)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn digest(&mut self) -> Result<Option<Digest>> {
        let bytes = self.array()?;
        Ok((bytes != [0; 32]).then_some(Digest(bytes)))
    }
}

const CUT: Error = Error::Broken("the manifest is cut off");
const WRONG: Error = Error::Broken("the manifest lists what cannot be");

fn kind(code: u32) -> Option<Kind> {
    match code {
        1 => Some(Kind::Dictionary),
        2 => Some(Kind::Segment),
        3 => Some(Kind::Index),
        _ => None,
    }
}

impl SealedManifest {
    /// Whether the record of a manifest is sealed.
    pub fn is_one(record: &[u8]) -> bool {
        let version = record.get(8..12) == Some(&SEALED_VERSION.to_le_bytes());
        record.starts_with(MAGIC) && version
    }

    /// Reads what is open of the record that is called `name`.
    pub fn parse(name: Digest, record: &[u8]) -> Result<SealedManifest> {
        if !SealedManifest::is_one(record) {
            return Err(Error::NotSealed);
        }
        let Some(sum) = record
            .len()
            .checked_sub(SUM)
            .filter(|_| record.len() <= MAX_BYTES)
        else {
            return Err(CUT);
        };
        if *blake3::hash(&record[..sum]).as_bytes() != name.0 || record[sum..] != name.0 {
            return Err(Error::Broken(
                "the manifest is another one than its name says",
            ));
        }
        let mut fields = Fields {
            bytes: &record[..sum],
            at: 12,
        };
        let (zero, body) = (fields.u32()?, fields.u64()?);
        if zero != 0 || body != (sum - HEADER) as u64 {
            return Err(WRONG);
        }
        let envelope = fields.u32()? as usize;
        if envelope > MAX_ENVELOPE_BYTES {
            return Err(WRONG);
        }
        let envelope = fields.at..fields.at + envelope;
        fields.at = envelope.end;
        let (pages, taken_at_seconds) = (fields.u64()?, fields.u64()?);
        let parent = fields.digest()?;
        let count = fields.u32()? as usize;
        // Before memory is taken for them.
        if sum.saturating_sub(fields.at) / ENTRY < count {
            return Err(CUT);
        }
        let mut parts = Vec::with_capacity(count);
        for _ in 0..count {
            let (code, bytes, live_bytes) = (fields.u32()?, fields.u64()?, fields.u64()?);
            let name = fields.digest()?;
            let (Some(kind), Some(name)) = (kind(code), name) else {
                return Err(WRONG);
            };
            if live_bytes > bytes {
                return Err(WRONG);
            }
            parts.push(NamedPart {
                kind,
                name,
                bytes,
                live_bytes,
            });
        }
        let nonce = fields.at;
        if sum < nonce + NONCE + TAG_BYTES as usize {
            return Err(CUT);
        }
        Ok(SealedManifest {
            name,
            record: record.into(),
            pages,
            taken_at_seconds,
            parent,
            parts: parts.into(),
            envelope,
            nonce,
        })
    }

    /// What it is called in the store: the hash of its record.
    pub fn name(&self) -> Digest {
        self.name
    }

    /// Pages of the disk.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// When it was taken, in seconds since 1970.
    pub fn taken_at_seconds(&self) -> u64 {
        self.taken_at_seconds
    }

    /// The sealed manifest that it was made since, as the store calls it.
    pub fn parent(&self) -> Option<Digest> {
        self.parent
    }

    /// What the snapshot needs, but for the manifest, as the store calls it.
    pub fn parts(&self) -> &[NamedPart] {
        &self.parts
    }

    /// Opens it.
    pub fn open(&self, keys: &Keys) -> Result<OpenedManifest> {
        let family = Family::open(&self.record[self.envelope.clone()], keys)?;
        let cipher = XChaCha20Poly1305::new((&*family.key.of_manifests()).into());
        let sum = self.record.len() - SUM;
        let (open, sealed) = self.record[..sum].split_at(self.nonce);
        let (nonce, sealed) = sealed.split_at(NONCE);
        let (sealed, tag) = sealed.split_at(sealed.len() - TAG_BYTES as usize);
        let mut plain = sealed.to_vec();
        let (nonce, tag) = (XNonce::from_slice(nonce), Tag::from_slice(tag));
        let opened = cipher.decrypt_in_place_detached(nonce, open, &mut plain, tag);
        opened.map_err(|_| Error::Broken("the manifest is damaged, or another one"))?;
        let end = plain.len().checked_sub(SUM).ok_or(CUT)?;
        let name = plain[end..].first_chunk().copied().map(Digest).ok_or(CUT)?;
        let manifest = StoredManifest::parse(name, &plain)?;
        let needed = manifest.parts();
        let fits = |(plain, sealed): (&NamedPart, &NamedPart)| {
            plain.kind == sealed.kind && sealed_bytes(plain.bytes) == sealed.bytes
        };
        let is_same = needed.len() == self.parts.len();
        if !is_same || !needed.iter().zip(&*self.parts).all(fits) {
            return Err(Error::Broken(
                "the manifest lists other parts than it needs",
            ));
        }
        let names = needed.iter().zip(&*self.parts);
        let names = names.map(|(plain, sealed)| ((plain.kind, plain.name), sealed.name));
        Ok(OpenedManifest {
            family,
            names: names.collect(),
            manifest,
            stored: self.name,
        })
    }
}

/// A sealed manifest whose seal is open.
#[derive(Debug)]
pub struct OpenedManifest {
    pub(crate) family: Family,
    /// What the store calls each part.
    pub(crate) names: HashMap<(Kind, Digest), Digest>,
    manifest: StoredManifest,
    pub(crate) stored: Digest,
}

impl OpenedManifest {
    /// The snapshot's own manifest.
    pub fn manifest(&self) -> &StoredManifest {
        &self.manifest
    }

    /// Where the snapshot's parts are: `stored` has them sealed, under the store's names.
    pub fn source(&self, stored: Arc<dyn Source>) -> SealedSource {
        SealedSource::new(self, stored)
    }
}

/// Makes the record of a sealed manifest. `names`: what the store calls each part; `parent`: and the parent.
pub(crate) fn seal(
    family: &Family,
    manifest: &StoredManifest,
    names: &HashMap<(Kind, Digest), Digest>,
    parent: Option<Digest>,
) -> Result<(Digest, Vec<u8>)> {
    let head = manifest.head();
    let parts = manifest.parts();
    let mut body = (family.envelope.len() as u32).to_le_bytes().to_vec();
    body.extend_from_slice(&family.envelope);
    body.extend_from_slice(&head.pages.to_le_bytes());
    body.extend_from_slice(&head.taken_at_seconds.to_le_bytes());
    body.extend_from_slice(&parent.map_or([0; 32], |parent| parent.0));
    body.extend_from_slice(&(parts.len() as u32).to_le_bytes());
    for part in &parts {
        let name = names.get(&(part.kind, part.name));
        let name = name.ok_or(Error::OtherFamily("a part that it shares is not there"))?;
        body.extend_from_slice(&code(part.kind).unwrap_or(0).to_le_bytes());
        body.extend_from_slice(&sealed_bytes(part.bytes).to_le_bytes());
        let live = match part.kind {
            Kind::Segment => part.live_bytes,
            _ => sealed_bytes(part.bytes),
        };
        body.extend_from_slice(&live.to_le_bytes());
        body.extend_from_slice(&name.0);
    }
    let plain = manifest.record();
    let bytes = body.len() + NONCE + plain.len() + TAG_BYTES as usize;
    let mut record = Vec::with_capacity(HEADER + bytes + SUM);
    record.extend_from_slice(MAGIC);
    record.extend_from_slice(&SEALED_VERSION.to_le_bytes());
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&(bytes as u64).to_le_bytes());
    record.extend_from_slice(&body);
    let mut nonce = [0; NONCE];
    random(&mut nonce)?;
    let cipher = XChaCha20Poly1305::new((&*family.key.of_manifests()).into());
    let mut sealed = plain.to_vec();
    let tag = cipher.encrypt_in_place_detached(&nonce.into(), &record, &mut sealed);
    let tag = tag.map_err(|_| Error::Broken("the manifest is too long to be sealed"))?;
    record.extend_from_slice(&nonce);
    record.extend_from_slice(&sealed);
    record.extend_from_slice(&tag);
    if record.len() + SUM > MAX_BYTES {
        return Err(Error::Usage(
            "the snapshot has more parts than a sealed one can have",
        ));
    }
    let name = Digest(*blake3::hash(&record).as_bytes());
    record.extend_from_slice(&name.0);
    Ok((name, record))
}
