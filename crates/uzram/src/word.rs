//! The slot word: one 64-bit number that says everything about a page. Pure functions, no atomics.
//!
//! | bits | meaning |
//! | --- | --- |
//! | 63 | locked |
//! | 62 | waiters |
//! | 61 | writing |
//! | 60..58 | state: 0 empty, 1 same-filled, 2 same-filled with the word in an object, 3 compressed, 4 huge, 5 on the backing device, 6 shared (compressed or huge, and known to the dedup index), 7 remote (see `remote/mod.rs`; the bits below are 0) |
//! | 57 | idle: not read or written since it was marked |
//! | 56 | under post-processing: somebody recompresses, writes back or promotes what the slot holds |
//! | 55 | incompressible: no recompression made it smaller |
//! | 54..51 | index of the codec |
//! | 50..39 | object length less one; shared or on the backing device 4096 means that it is not compressed |
//! | 38..0 | object handle (offset in the arena in units of 8 bytes), or location on the backing device (likewise) |
//!
//! New contents are always published with the three flags clear. So *under post-processing*, where still set, proves
//! that the slot holds what it held when the bit was set, wherever its object has moved.
//!
//! A same-filled page repeats one 64-bit word. 51 bits (50..0) are left to hold it: bit 50 set, a 32-bit
//! pattern that is repeated twice; clear, a number of 50 bits, sign-extended. That covers zeros, ones, every
//! repeated byte, 16- and 32-bit pattern and user-space addresses; any other word goes to an object of 8 bytes.

/// Locked: the object is being read or the word changed.
pub(crate) const LOCKED: u64 = 1 << 63;
/// A thread is parked until the word changes.
pub(crate) const WAITERS: u64 = 1 << 62;
/// A partial write is under way.
pub(crate) const WRITING: u64 = 1 << 61;
/// All control bits: what is left describes the page.
pub(crate) const CONTROL: u64 = LOCKED | WAITERS | WRITING;

/// Neither read nor written since it was marked.
pub(crate) const IDLE: u64 = 1 << 57;
/// Under post-processing: a job works on the content, without the lock.
pub(crate) const POST: u64 = 1 << 56;
/// Recompression did not make it smaller.
pub(crate) const INCOMPRESSIBLE: u64 = 1 << 55;
/// All flags.
pub(crate) const FLAGS: u64 = IDLE | POST | INCOMPRESSIBLE;

const STATE: u32 = 58;
const ALGORITHM: u32 = 51;
const LEN: u32 = 39;
const HANDLE_MASK: u64 = (1 << LEN) - 1;
const SAME_REPEATS: u64 = 1 << 50;

const SAME: u64 = 1 << STATE;
const SAME_OBJECT: u64 = 2 << STATE;
const COMPRESSED: u64 = 3 << STATE;
const HUGE: u64 = 4 << STATE;
const BACKED: u64 = 5 << STATE;
const SHARED: u64 = 6 << STATE;
const REMOTE: u64 = 7 << STATE;

/// The content that a word describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Never written, or discarded.
    Empty,
    /// Every 64-bit word of the page is this one (native endian).
    Same(u64),
    /// Same-filled, the word being in an object of 8 bytes.
    SameObject { handle: u64 },
    /// Compressed by the algorithm with this index.
    Compressed {
        algorithm: u8,
        handle: u64,
        len: u16,
    },
    /// Stored as it is.
    Huge { handle: u64 },
    /// On the backing device.
    Backed(Backed),
    /// In an object that other words may name, too: see `dedup/mod.rs`. A whole page is as it is, and of algorithm 0.
    Shared {
        algorithm: u8,
        handle: u64,
        len: u16,
    },
    /// Not here yet: see `remote/mod.rs`.
    Remote,
}

/// An object on the backing device: the bytes that were in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backed {
    /// Index of the codec that it is compressed with; of no meaning where `len` is a whole page.
    pub(crate) algorithm: u8,
    pub(crate) location: u64,
    pub(crate) len: u16,
}

impl Backed {
    /// Whether it is an uncompressed page.
    pub(crate) fn is_huge(self) -> bool {
        usize::from(self.len) == crate::PAGE_SIZE
    }
}

impl Content {
    /// The handle and the length in bytes of its object in the pool, if there is one.
    pub(crate) fn object(self) -> Option<(u64, usize)> {
        match self {
            Content::Empty | Content::Same(_) | Content::Backed(_) | Content::Remote => None,
            Content::SameObject { handle } => Some((handle, 8)),
            Content::Compressed { handle, len, .. } => Some((handle, usize::from(len))),
            Content::Huge { handle } => Some((handle, crate::PAGE_SIZE)),
            Content::Shared { handle, len, .. } => Some((handle, usize::from(len))),
        }
    }

    /// Whether the pool holds the page as it is.
    pub(crate) fn is_huge(self) -> bool {
        let page = crate::PAGE_SIZE;
        matches!(self, Content::Huge { .. })
            || matches!(self, Content::Shared { len, .. } if usize::from(len) == page)
    }

    /// Whether it is a page's object in the pool, compressed or not, and not only its word.
    pub(crate) fn is_in_pool(self) -> bool {
        use Content::{Compressed, Huge, Shared};
        matches!(self, Compressed { .. } | Huge { .. } | Shared { .. })
    }

    /// The index of the codec that it is compressed with.
    pub(crate) fn codec(self) -> Option<u8> {
        match self {
            Content::Compressed { algorithm, .. } => Some(algorithm),
            Content::Backed(backed) if !backed.is_huge() => Some(backed.algorithm),
            Content::Shared { algorithm, .. } if !self.is_huge() => Some(algorithm),
            _ => None,
        }
    }

    /// The word, flags and control bits clear; `None` for a same-filled word that needs an object.
    pub(crate) fn encode(self) -> Option<u64> {
        let object = |handle: u64, len: u64| {
            debug_assert!(handle <= HANDLE_MASK && (1..=4096).contains(&len));
            (len - 1) << LEN | handle
        };
        Some(match self {
            Content::Empty => 0,
            Content::Same(word) => SAME | encode_same(word)?,
            Content::SameObject { handle } => SAME_OBJECT | object(handle, 8),
            Content::Compressed {
                algorithm,
                handle,
                len,
            } => {
                COMPRESSED | u64::from(algorithm & 15) << ALGORITHM | object(handle, u64::from(len))
            }
            Content::Huge { handle } => HUGE | object(handle, 4096),
            Content::Backed(Backed {
                algorithm,
                location,
                len,
            }) => {
                BACKED | u64::from(algorithm & 15) << ALGORITHM | object(location, u64::from(len))
            }
            Content::Shared {
                algorithm,
                handle,
                len,
            } => SHARED | u64::from(algorithm & 15) << ALGORITHM | object(handle, u64::from(len)),
            Content::Remote => REMOTE,
        })
    }

    /// Reads a word; flags and control bits are ignored. One that another process left is checked by encoding it again.
    pub(crate) fn decode(word: u64) -> Content {
        let handle = word & HANDLE_MASK;
        let algorithm = (word >> ALGORITHM & 15) as u8;
        let len = (word >> LEN & 0xFFF) as u16 + 1;
        match word >> STATE & 7 {
            0 => Content::Empty,
            1 => Content::Same(decode_same(word)),
            2 => Content::SameObject { handle },
            3 => Content::Compressed {
                algorithm,
                handle,
                len,
            },
            4 => Content::Huge { handle },
            5 => Content::Backed(Backed {
                algorithm,
                location: handle,
                len,
            }),
            6 => Content::Shared {
                algorithm,
                handle,
                len,
            },
            _ => Content::Remote,
        }
    }
}

/// The word of an object that was moved to another handle.
pub(crate) fn relocated(word: u64, handle: u64) -> u64 {
    debug_assert!(handle <= HANDLE_MASK);
    word & !HANDLE_MASK | handle
}

fn encode_same(word: u64) -> Option<u64> {
    if word >> 32 == word & 0xFFFF_FFFF {
        return Some(SAME_REPEATS | word & 0xFFFF_FFFF);
    }
    let low = word & (SAME_REPEATS - 1);
    (decode_same(low) == word).then_some(low)
}

fn decode_same(word: u64) -> u64 {
    if word & SAME_REPEATS != 0 {
        let half = word & 0xFFFF_FFFF;
        return half << 32 | half;
    }
    // Sign-extend from bit 49.
    ((word << 14) as i64 >> 14) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn same_filled_words_that_fit_are_kept_in_the_word() {
        for word in [
            0,
            u64::MAX,
            0x5A5A_5A5A_5A5A_5A5A,
            0xDEAD_BEEF_DEAD_BEEF,
            0x0000_7FFF_1234_5678,
            1,
            u64::MAX - 1,
            (1 << 49) - 1,
        ] {
            let encoded = Content::Same(word).encode().unwrap();
            assert_eq!(Content::decode(encoded), Content::Same(word), "{word:#x}");
        }
        for word in [1 << 49, 0x1234_5678_9ABC_DEF0, 1 << 63] {
            assert_eq!(Content::Same(word).encode(), None, "{word:#x}");
        }
    }

    fn content() -> impl Strategy<Value = Content> {
        let handle = 0..=HANDLE_MASK;
        prop_oneof![
            Just(Content::Empty),
            Just(Content::Remote),
            any::<u64>().prop_map(Content::Same),
            handle
                .clone()
                .prop_map(|handle| Content::SameObject { handle }),
            (0..16u8, handle.clone(), 1..=4096u16).prop_map(|(algorithm, handle, len)| {
                Content::Compressed {
                    algorithm,
                    handle,
                    len,
                }
            }),
            handle.clone().prop_map(|handle| Content::Huge { handle }),
            (0..16u8, handle.clone(), 1..=4096u16).prop_map(|(algorithm, handle, len)| {
                Content::Shared {
                    algorithm,
                    handle,
                    len,
                }
            }),
            (0..16u8, handle, 1..=4096u16).prop_map(|(algorithm, location, len)| {
                Content::Backed(Backed {
                    algorithm,
                    location,
                    len,
                })
            }),
        ]
    }

    proptest! {
        #[test]
        fn prop_word_round_trips_and_leaves_flags_and_control_bits(content in content()) {
            if let Some(word) = content.encode() {
                prop_assert_eq!(word & (CONTROL | FLAGS), 0);
                prop_assert_eq!(Content::decode(word), content);
                prop_assert_eq!(Content::decode(word | CONTROL | FLAGS), content);
            } else {
                prop_assert!(matches!(content, Content::Same(_)));
            }
        }

        #[test]
        fn prop_a_moved_object_keeps_the_rest_of_its_word(content in content(), flags in 0..8u64, handle in 0..=HANDLE_MASK) {
            let Some((old, len)) = content.object() else { return Ok(()) };
            let word = content.encode().unwrap_or_default() | WRITING | flags << 55;
            let moved = relocated(word, handle);
            prop_assert_eq!(moved & !HANDLE_MASK, word & !HANDLE_MASK);
            prop_assert_eq!(Content::decode(moved).object(), Some((handle, len)));
            prop_assert_eq!(relocated(moved, old), word);
        }
    }
}
