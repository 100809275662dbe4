//! The backing in an image: 64-bit words of the state page from [`state::BACKING`] on. Bytes of the backing (0: there
//! is none; written last), its id in two words, the length of the path, the path. Of one that is sealed, the length has
//! [`SEALED`] set and the key is in the last words.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use uzram_backing::SEAL_KEY_BYTES;
use uzram_pool::Region;
use zeroize::Zeroizing;

use crate::layout::state;
use crate::{Error, HeaderError, PAGE_SIZE};

/// In the word of the path's length: the backing is sealed. Programs that know nothing of that take the length for wrong, and
/// refuse the image.
const SEALED: u64 = 1 << 63;
const KEY_WORDS: usize = SEAL_KEY_BYTES / 8;
const HEAD: usize = 4;
const WORDS: usize = PAGE_SIZE / 8 - state::BACKING;
/// Longest path in bytes, of a backing that is not sealed.
const MAX_PATH: usize = (WORDS - HEAD) * 8;

const fn max_path(is_sealed: bool) -> usize {
    if is_sealed {
        MAX_PATH - SEAL_KEY_BYTES
    } else {
        MAX_PATH
    }
}

/// Path, size and id of a backing, and the key of one that is sealed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BackingRecord {
    pub(crate) size_bytes: u64,
    pub(crate) id: [u8; 16],
    pub(crate) path: PathBuf,
    pub(crate) key: Option<SealKey>,
}

/// A key that overwrites itself when it goes.
pub(crate) type SealKey = Zeroizing<[u8; SEAL_KEY_BYTES]>;

impl BackingRecord {
    /// Reads the record of an image; `None`: it has no backing.
    pub(crate) fn read(image: &Region) -> Result<Option<BackingRecord>, HeaderError> {
        let words = words(image);
        let size_bytes = words[0].load(Acquire);
        if size_bytes == 0 {
            return Ok(None);
        }
        let word = words[3].load(Relaxed);
        let (len, is_sealed) = ((word & !SEALED) as usize, word & SEALED != 0);
        if !(1..=max_path(is_sealed)).contains(&len) {
            let what = "the path of the backing file";
            return Err(HeaderError::Inconsistent { what });
        }
        let bytes = |words: &[AtomicU64]| -> Vec<u8> {
            let bytes = words
                .iter()
                .flat_map(|word| word.load(Relaxed).to_ne_bytes());
            bytes.collect()
        };
        let mut id = [0; 16];
        id.copy_from_slice(&bytes(&words[1..3]));
        let path = bytes(&words[HEAD..HEAD + len.div_ceil(8)]);
        let key = is_sealed.then(|| {
            let mut key = SealKey::new([0; SEAL_KEY_BYTES]);
            for (bytes, word) in key.chunks_exact_mut(8).zip(&words[WORDS - KEY_WORDS..]) {
                bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
            }
            key
        });
        Ok(Some(BackingRecord {
            size_bytes,
            id,
            path: OsStr::from_bytes(&path[..len]).into(),
            key,
        }))
    }

    /// Writes the record. A death in between leaves no backing or this one.
    ///
    /// [`Error::Invalid`] for a path that is too long.
    pub(crate) fn write(&self, image: &Region) -> Result<(), Error> {
        let path = self.path.as_os_str().as_bytes();
        let max = max_path(self.key.is_some());
        if path.len() > max {
            return Err(Error::Invalid {
                what: "a path of",
                given: format!("{} bytes", path.len()),
                accepted: format!("at most {max}"),
            });
        }
        BackingRecord::remove(image);
        let words = words(image);
        let store = |words: &[AtomicU64], bytes: &[u8]| {
            for (word, bytes) in words.iter().zip(bytes.chunks(8)) {
                let mut whole = [0; 8];
                whole[..bytes.len()].copy_from_slice(bytes);
                word.store(u64::from_ne_bytes(whole), Relaxed);
            }
        };
        store(&words[1..3], &self.id);
        let sealed = if self.key.is_some() { SEALED } else { 0 };
        words[3].store(path.len() as u64 | sealed, Relaxed);
        if let Some(key) = &self.key {
            store(&words[WORDS - KEY_WORDS..], &**key);
        }
        store(&words[HEAD..], path);
        words[0].store(self.size_bytes, Release);
        Ok(())
    }

    pub(crate) fn remove(image: &Region) {
        let words = words(image);
        words[0].store(0, Release);
        // What is on the disk is noise for ever.
        if words[3].load(Relaxed) & SEALED != 0 {
            words[3].store(0, Relaxed);
            for word in &words[WORDS - KEY_WORDS..] {
                word.store(0, Relaxed);
            }
        }
    }
}

fn words(image: &Region) -> &[AtomicU64] {
    image.words(state::OFFSET + state::BACKING as u64 * 8, WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back() {
        let image = Region::memfd("uzram-record-test", 1 << 20).unwrap();
        assert!(BackingRecord::read(&image).unwrap().is_none());
        for path in ["/a", "/12345678", &"/".repeat(MAX_PATH)] {
            for key in [None, Some(SealKey::new([0xa7; SEAL_KEY_BYTES]))] {
                let record = BackingRecord {
                    size_bytes: 1 << 30,
                    id: *b"0123456789abcdef",
                    path: path[..path.len().min(max_path(key.is_some()))].into(),
                    key,
                };
                record.write(&image).unwrap();
                assert!(BackingRecord::read(&image).unwrap() == Some(record));
            }
        }
        let long = BackingRecord {
            size_bytes: 1,
            id: [0; 16],
            path: "/".repeat(MAX_PATH + 1).into(),
            key: None,
        };
        assert!(long.write(&image).is_err());
        let sealed = BackingRecord {
            path: "/".repeat(MAX_PATH).into(),
            key: Some(SealKey::new([0; SEAL_KEY_BYTES])),
            ..long
        };
        assert!(sealed.write(&image).is_err());
        BackingRecord::remove(&image);
        assert!(BackingRecord::read(&image).unwrap().is_none());
        // The key went with it.
        let left = words(&image)[WORDS - KEY_WORDS..].iter();
        assert_eq!(left.filter(|word| word.load(Relaxed) != 0).count(), 0);
        words(&image)[0].store(1, Relaxed);
        words(&image)[3].store(MAX_PATH as u64 + 1, Relaxed);
        assert!(BackingRecord::read(&image).is_err());
    }
}
