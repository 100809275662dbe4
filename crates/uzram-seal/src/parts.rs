//! Sealed parts: a header, and chunks of 16 KiB, each with a tag.
//!
//! A part's key is the keyed BLAKE3 hash of its kind and its name, under the family's key. The name is the hash of all that the
//! part holds: so a key seals one thing, a chunk's number is a nonce that is never used twice, and an old chunk in a new one's
//! place does not fit. Chunks, and not frames, so that nobody has to know where frames are to find their bytes: what is read at
//! random is fetched with at most 32 KiB more than was asked for.

use std::ops::Range;

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use uzram_snapshot::{Digest, Kind};
use zeroize::Zeroizing;

use crate::family::FamilyKey;
use crate::{Error, Result};

/// Bytes of a chunk before it is sealed. The last one has fewer.
pub const CHUNK_BYTES: u64 = 16 << 10;
/// Bytes of a chunk's tag.
pub(crate) const TAG_BYTES: u64 = 16;
/// Bytes of a sealed part's header.
pub const PART_HEADER_BYTES: u64 = 24;
/// Version of a sealed part.
const VERSION: u32 = 1;

/// Bytes of a part when it is sealed.
pub const fn sealed_bytes(plain: u64) -> u64 {
    PART_HEADER_BYTES + plain + plain.div_ceil(CHUNK_BYTES) * TAG_BYTES
}

/// The number of a kind, of which parts can be sealed.
pub(crate) fn code(kind: Kind) -> Option<u32> {
    match kind {
        Kind::Dictionary => Some(1),
        Kind::Segment => Some(2),
        Kind::Index => Some(3),
        _ => None,
    }
}

/// The header: what every chunk is bound to.
fn header(plain: u64) -> [u8; PART_HEADER_BYTES as usize] {
    let mut header = [0; PART_HEADER_BYTES as usize];
    header[..8].copy_from_slice(b"uzramSP\0");
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..].copy_from_slice(&plain.to_le_bytes());
    header
}

/// Seals and opens the chunks of one part.
pub(crate) struct PartCipher {
    cipher: ChaCha20Poly1305,
    header: [u8; PART_HEADER_BYTES as usize],
    plain: u64,
}

impl PartCipher {
    /// `plain`: bytes of the part.
    pub(crate) fn new(family: &FamilyKey, kind: Kind, name: Digest, plain: u64) -> PartCipher {
        let mut hasher = blake3::Hasher::new_keyed(&family.of_parts());
        hasher.update(&code(kind).unwrap_or(0).to_le_bytes());
        hasher.update(&name.0);
        let key = Zeroizing::new(*hasher.finalize().as_bytes());
        PartCipher {
            cipher: ChaCha20Poly1305::new((&*key).into()),
            header: header(plain),
            plain,
        }
    }

    fn nonce(chunk: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&chunk.to_le_bytes());
        nonce.into()
    }

    /// Seals all of it.
    pub(crate) fn seal(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        debug_assert_eq!(bytes.len() as u64, self.plain);
        let mut out = Vec::with_capacity(sealed_bytes(self.plain) as usize);
        out.extend_from_slice(&self.header);
        for (number, chunk) in (0..).zip(bytes.chunks(CHUNK_BYTES as usize)) {
            let begin = out.len();
            out.extend_from_slice(chunk);
            let nonce = PartCipher::nonce(number);
            let cipher = &self.cipher;
            let tag = cipher.encrypt_in_place_detached(&nonce, &self.header, &mut out[begin..]);
            let tag = tag.map_err(|_| Error::Broken("it is too long to be sealed"))?;
            out.extend_from_slice(&tag);
        }
        Ok(out)
    }

    /// What to fetch of the sealed part for a range of it. The header comes with the first chunk, and is compared then.
    pub(crate) fn sealed_range(&self, range: &Range<u64>) -> Range<u64> {
        let at = |chunk: u64| PART_HEADER_BYTES + chunk * (CHUNK_BYTES + TAG_BYTES);
        let first = range.start / CHUNK_BYTES;
        let end = at(range.end.div_ceil(CHUNK_BYTES)).min(sealed_bytes(self.plain));
        match first {
            0 => 0..end,
            _ => at(first)..end,
        }
    }

    /// Opens what was fetched for a range that is in the part, and is not empty.
    pub(crate) fn open(&self, range: &Range<u64>, mut sealed: Vec<u8>) -> Result<Vec<u8>> {
        let first = range.start / CHUNK_BYTES;
        if self.sealed_range(range).end - self.sealed_range(range).start != sealed.len() as u64 {
            return Err(Error::Broken("a part of it is cut off"));
        }
        let mut from = match first {
            0 => self.header.len(),
            _ => 0,
        };
        if first == 0 && !sealed.starts_with(&self.header) {
            return Err(Error::Broken("a part of it has another header"));
        }
        let mut to = 0;
        let mut number = first;
        while from < sealed.len() {
            let left = sealed.len() - from;
            let len = left.min((CHUNK_BYTES + TAG_BYTES) as usize);
            let Some(count) = len.checked_sub(TAG_BYTES as usize) else {
                return Err(Error::Broken("a part of it is cut off"));
            };
            let tag: Tag = *Tag::from_slice(&sealed[from + count..from + len]);
            let chunk = &mut sealed[from..from + count];
            let nonce = PartCipher::nonce(number);
            let opened = self
                .cipher
                .decrypt_in_place_detached(&nonce, &self.header, chunk, &tag);
            opened.map_err(|_| Error::Broken("a part of it is damaged, or another one"))?;
            // Where it is to be, close behind the one before.
            sealed.copy_within(from..from + count, to);
            (to, from, number) = (to + count, from + len, number + 1);
        }
        let begin = (range.start - first * CHUNK_BYTES) as usize;
        let wanted = (range.end - range.start) as usize;
        if begin + wanted > to {
            return Err(Error::Broken("a part of it is cut off"));
        }
        sealed.copy_within(begin..begin + wanted, 0);
        sealed.truncate(wanted);
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, Recipients};

    fn family() -> Family {
        let key = age::x25519::Identity::generate().to_public().to_string();
        let recipients = Recipients::read(&[key], &[], None).unwrap();
        Family::new(&recipients.unwrap()).unwrap()
    }

    fn some(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
    }

    fn open(cipher: &PartCipher, sealed: &[u8], range: Range<u64>) -> Result<Vec<u8>> {
        let of = cipher.sealed_range(&range);
        let fetched = sealed.get(of.start as usize..of.end as usize);
        cipher.open(&range, fetched.unwrap_or_default().to_vec())
    }

    #[test]
    fn ranges_of_a_part_come_back() {
        let family = family();
        for len in [1, 100, 16383, 16384, 16385, 50_000, 65536] {
            let plain = some(len);
            let cipher = PartCipher::new(&family.key, Kind::Segment, Digest([3; 32]), len as u64);
            let sealed = cipher.seal(&plain).unwrap();
            assert_eq!(sealed.len() as u64, sealed_bytes(len as u64));
            let len = len as u64;
            for start in [0, 1, 16383, 16384, 16385, len - 1] {
                for end in [1, start + 1, 16384, 16385, 32768, len] {
                    if start < end && end <= len {
                        let found = open(&cipher, &sealed, start..end).unwrap();
                        assert_eq!(found, plain[start as usize..end as usize], "{start} {end}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_equal_is_equal_when_sealed_in_its_family_alone() {
        let (one, other) = (family(), family());
        let plain = some(40_000);
        let seal = |family: &Family, kind, name| {
            PartCipher::new(&family.key, kind, name, plain.len() as u64)
                .seal(&plain)
                .unwrap()
        };
        let name = Digest([3; 32]);
        let first = seal(&one, Kind::Segment, name);
        assert_eq!(first, seal(&one, Kind::Segment, name));
        // Another family, kind or name has another key: no 64 bytes are the same.
        for others in [
            seal(&other, Kind::Segment, name),
            seal(&one, Kind::Index, name),
            seal(&one, Kind::Segment, Digest([4; 32])),
        ] {
            let same = first[24..].chunks(64).zip(others[24..].chunks(64));
            assert_eq!(same.filter(|(a, b)| a == b).count(), 0);
        }
    }

    #[test]
    fn each_byte_and_each_place_of_a_chunk_counts() {
        let family = family();
        let plain = some(40_000);
        let cipher = PartCipher::new(&family.key, Kind::Index, Digest([3; 32]), 40_000);
        let sealed = cipher.seal(&plain).unwrap();
        for at in (0..sealed.len()).step_by(97).chain(0..24) {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert!(open(&cipher, &flipped, 0..40_000).is_err(), "{at}");
        }
        // Two whole chunks, exchanged; one twice; each cut.
        let chunk = (CHUNK_BYTES + TAG_BYTES) as usize;
        let mut exchanged = sealed.clone();
        let (first, second) = exchanged[24..].split_at_mut(chunk);
        first.swap_with_slice(&mut second[..chunk]);
        assert!(open(&cipher, &exchanged, 0..40_000).is_err());
        assert!(open(&cipher, &exchanged, 16384..16385).is_err());
        let mut twice = sealed.clone();
        twice.copy_within(24..24 + chunk, 24 + chunk);
        assert!(open(&cipher, &twice, 16384..32768).is_err());
        for len in [0, 23, 24, 40, sealed.len() - 1, sealed.len() - 16] {
            assert!(open(&cipher, &sealed[..len], 0..40_000).is_err(), "{len}");
        }
    }
}
