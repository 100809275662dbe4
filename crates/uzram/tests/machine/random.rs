//! The pages' contents, by seed. The generator never changes: seeds in reports name its sequences.

use uzram::PAGE_SIZE;
pub(crate) use uzram_testkit::Random;
use uzram_testkit::data::dialect_page;

/// What is written: contents of every compressibility.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fill {
    Zeros,
    /// A word that a slot's word has room for.
    Inline(u64),
    /// A word that takes an object of eight bytes.
    Word(u64),
    Text(u64),
    /// That many bytes of 16 are noise.
    Noisy(u64, u8),
    /// Incompressible.
    Noise(u64),
    /// Pages of a dialect.
    Dialect(u64, u64),
}

impl Fill {
    pub(crate) fn random(random: &mut Random) -> Fill {
        let seed = random.next();
        // Some come again, for dedup to find.
        let seed = if seed.is_multiple_of(5) {
            seed / 5 % 4
        } else {
            seed
        };
        match random.below(12) {
            0 => Fill::Zeros,
            1 => Fill::Inline(seed % 256 * 0x0101_0101_0101_0101),
            2 => Fill::Word(seed | 1 << 62 | 1),
            3..6 => Fill::Text(seed),
            6..10 => Fill::Noisy(seed, 1 + (seed % 14) as u8),
            _ => Fill::Noise(seed),
        }
    }

    pub(crate) fn bytes(self, len: usize) -> Vec<u8> {
        let words = |word: u64| word.to_ne_bytes().into_iter().cycle().take(len).collect();
        let mixed = |seed: u64, noisy: u8| {
            let mut random = Random::new(seed);
            let byte = |at: usize| {
                let noise = random.next() as u8;
                if (at % 16) < usize::from(noisy) {
                    noise
                } else {
                    (seed >> 8) as u8
                }
            };
            (0..len).map(byte).collect()
        };
        match self {
            Fill::Zeros => vec![0; len],
            Fill::Inline(word) | Fill::Word(word) => words(word),
            Fill::Text(seed) => {
                let mut random = Random::new(seed);
                let mut text = Vec::with_capacity(len + 16);
                while text.len() < len {
                    let words = [
                        "page ", "slot ", "writes ", "object ", "word\n", "a ", "the ",
                    ];
                    text.extend_from_slice(random.pick(&words).as_bytes());
                }
                text.truncate(len);
                text
            }
            Fill::Noisy(seed, noisy) => mixed(seed, noisy),
            Fill::Noise(seed) => mixed(seed, 16),
            Fill::Dialect(dialect, seed) => {
                let pages = (0..len.div_ceil(PAGE_SIZE) as u64)
                    .flat_map(|number| dialect_page(dialect, seed ^ number));
                pages.take(len).collect()
            }
        }
    }
}

/// Versions of a page that are no contents, but a discard.
pub(crate) fn is_discard(version: u32) -> bool {
    version % 16 == 5 || version == 0
}

/// Contents that say which page and which version they are: each word depends on both. Of 16 versions one is zeros, two are
/// same-filled, two incompressible.
pub(crate) fn version(page: u64, version: u32) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    if is_discard(version) {
        return bytes;
    }
    let stamp = page << 32 | u64::from(version);
    let mut random = Random::new(stamp);
    let kind = version % 16;
    let first = if kind == 7 { stamp | 1 << 62 } else { stamp };
    let mask = match kind {
        6 | 7 => 0,
        8 | 9 => u64::MAX,
        n => (1 << (n * 3 + 4)) - 1,
    };
    for (at, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let noise = if at > 0 { random.next() & mask } else { 0 };
        *word = (first ^ noise).to_ne_bytes();
    }
    bytes
}

/// The version that a page's bytes are; `None` if they are not one of this page. All zeros are version 0.
pub(crate) fn version_of(page: u64, bytes: &[u8; PAGE_SIZE]) -> Option<u32> {
    if *bytes == [0; PAGE_SIZE] {
        return Some(0);
    }
    let found = u64::from_ne_bytes(*bytes.first_chunk()?) as u32;
    (version(page, found) == *bytes).then_some(found)
}
