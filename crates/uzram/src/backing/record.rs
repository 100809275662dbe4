//! The backing in an image: 64-bit words of the state page from [`state::BACKING`] on. Bytes of the backing (0: there
//! is none; written last), its id in two words, the length of the path, the path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use uzram_pool::Region;

use crate::layout::state;
use crate::{Error, HeaderError, PAGE_SIZE};

const HEAD: usize = 4;
const WORDS: usize = PAGE_SIZE / 8 - state::BACKING;
/// Longest path in bytes.
pub(crate) const MAX_PATH: usize = (WORDS - HEAD) * 8;

/// Path, size and id of a backing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackingRecord {
    pub(crate) size_bytes: u64,
    pub(crate) id: [u8; 16],
    pub(crate) path: PathBuf,
}

impl BackingRecord {
    /// Reads the record of an image; `None`: it has no backing.
    pub(crate) fn read(image: &Region) -> Result<Option<BackingRecord>, HeaderError> {
        let words = words(image);
        let size_bytes = words[0].load(Acquire);
        if size_bytes == 0 {
            return Ok(None);
        }
        let len = words[3].load(Relaxed) as usize;
        if !(1..=MAX_PATH).contains(&len) {
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
        Ok(Some(BackingRecord {
            size_bytes,
            id,
            path: OsStr::from_bytes(&path[..len]).into(),
        }))
    }

    /// Writes the record. A death in between leaves no backing or this one.
    ///
    /// [`Error::Invalid`] for a path that is too long.
    pub(crate) fn write(&self, image: &Region) -> Result<(), Error> {
        let path = self.path.as_os_str().as_bytes();
        if path.len() > MAX_PATH {
            return Err(Error::Invalid {
                what: "a path of",
                given: format!("{} bytes", path.len()),
                accepted: format!("at most {MAX_PATH}"),
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
        words[3].store(path.len() as u64, Relaxed);
        store(&words[HEAD..], path);
        words[0].store(self.size_bytes, Release);
        Ok(())
    }

    pub(crate) fn remove(image: &Region) {
        words(image)[0].store(0, Release);
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
        assert_eq!(BackingRecord::read(&image).unwrap(), None);
        for path in ["/a", "/12345678", &"/".repeat(MAX_PATH)] {
            let record = BackingRecord {
                size_bytes: 1 << 30,
                id: *b"0123456789abcdef",
                path: path.into(),
            };
            record.write(&image).unwrap();
            assert_eq!(BackingRecord::read(&image).unwrap(), Some(record));
        }
        let long = BackingRecord {
            size_bytes: 1,
            id: [0; 16],
            path: "/".repeat(MAX_PATH + 1).into(),
        };
        assert!(long.write(&image).is_err());
        BackingRecord::remove(&image);
        assert_eq!(BackingRecord::read(&image).unwrap(), None);
        words(&image)[0].store(1, Relaxed);
        words(&image)[3].store(MAX_PATH as u64 + 1, Relaxed);
        assert!(BackingRecord::read(&image).is_err());
    }
}
