//! The key that a snapshot of a store and all that are made since have, and what wraps it.

use std::fmt;
use std::io::{Read, Write};

use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

use crate::keys::{Keys, Recipients};
use crate::{Error, Result};

/// What the key of a family's parts is derived for.
const PARTS: &str = "uzram 2026-11-30 sealed snapshot, parts";
/// And that of its manifests.
const MANIFESTS: &str = "uzram 2026-11-30 sealed snapshot, manifests";
/// Most bytes of the age file that wraps a key.
pub(crate) const MAX_ENVELOPE_BYTES: usize = 16 << 10;

/// 32 random bytes that nobody else has.
pub struct FamilyKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for FamilyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FamilyKey")
    }
}

impl FamilyKey {
    fn random() -> Result<FamilyKey> {
        let mut key = Zeroizing::new([0; 32]);
        random(&mut key[..])?;
        Ok(FamilyKey(key))
    }

    pub(crate) fn of_parts(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(PARTS, &self.0[..]))
    }

    pub(crate) fn of_manifests(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(MANIFESTS, &self.0[..]))
    }

    fn copy(&self) -> FamilyKey {
        FamilyKey(self.0.clone())
    }
}

/// Fills a buffer with what nobody can guess.
pub(crate) fn random(mut buffer: &mut [u8]) -> Result {
    while !buffer.is_empty() {
        let filled = getrandom(&mut *buffer, GetRandomFlags::empty());
        let filled = filled.map_err(|errno| Error::Io {
            what: "get random bytes",
            source: errno.into(),
        })?;
        buffer = &mut buffer[filled..];
    }
    Ok(())
}

/// A family's key, and the age file that wraps it.
pub struct Family {
    pub(crate) key: FamilyKey,
    pub(crate) envelope: Vec<u8>,
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Family")
    }
}

impl Family {
    /// A new one for these recipients.
    pub fn new(recipients: &Recipients) -> Result<Family> {
        Family::wrapped(FamilyKey::random()?, recipients)
    }

    /// The same family for other recipients.
    pub fn for_others(&self, recipients: &Recipients) -> Result<Family> {
        Family::wrapped(self.key.copy(), recipients)
    }

    pub(crate) fn same(&self) -> Family {
        Family {
            key: self.key.copy(),
            envelope: self.envelope.clone(),
        }
    }

    fn wrapped(key: FamilyKey, recipients: &Recipients) -> Result<Family> {
        let mut wrapping = recipients.wrap(Vec::new())?;
        let wrapped = wrapping
            .write_all(&key.0[..])
            .and_then(|()| wrapping.finish());
        let envelope = wrapped.map_err(Error::io("wrap a key"))?;
        if envelope.len() > MAX_ENVELOPE_BYTES {
            return Err(Error::Usage("there are too many recipients"));
        }
        Ok(Family { key, envelope })
    }

    /// Unwraps the key.
    pub(crate) fn open(envelope: &[u8], keys: &Keys) -> Result<Family> {
        let broken = |_| Error::Broken("what wraps its key is damaged");
        let mut reader = keys.open(envelope)?;
        let mut key = Zeroizing::new([0; 32]);
        reader.read_exact(&mut key[..]).map_err(broken)?;
        match reader.read(&mut [0]).map_err(broken)? {
            0 => Ok(Family {
                key: FamilyKey(key),
                envelope: envelope.to_vec(),
            }),
            _ => Err(Error::Broken("what wraps its key has something else in it")),
        }
    }
}
