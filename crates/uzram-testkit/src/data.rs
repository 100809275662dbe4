//! Data of every compressibility, by seed.

use crate::Random;

const PAGE: usize = 4096;

/// A page of noise, which nothing compresses.
pub fn noise(seed: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    Random::new(seed).fill(&mut page);
    page
}

/// A page that repeats one machine word (*same-filled*).
pub fn same_filled(word: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page.as_chunks_mut::<8>().0.fill(word.to_le_bytes());
    page
}

/// A page of which `noisy` of 8 words are noise and the others small numbers: its compressed size grows with `noisy`; 8 of
/// 8 is incompressible.
pub fn partly_noise(seed: u64, noisy: u64) -> [u8; PAGE] {
    let mut random = Random::new(seed);
    let mut page = [0; PAGE];
    for (at, word) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let number = random.next();
        *word = match at as u64 % 8 < noisy {
            true => number.to_le_bytes(),
            false => (number % 7).to_le_bytes(),
        };
    }
    page
}

/// A page whose first `noisy` bytes are noise and the others one byte.
pub fn noise_before(seed: u64, noisy: usize, byte: u8) -> [u8; PAGE] {
    let mut page = [byte; PAGE];
    Random::new(seed).fill(&mut page[..noisy]);
    page
}

/// Records as a program has them in memory: much in common, none the same. A dictionary pays on them.
pub fn records(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut text = String::with_capacity(len + 100);
    while text.len() < len {
        let n = random.next() >> 33;
        let kind = ["session", "customer", "inventory", "transaction"][n as usize % 4];
        text += &format!("{{\"type\":\"{kind}\",\"identifier\":{n},\"flags\":\"0x{n:08x}\"}}\n");
    }
    text.truncate(len);
    text.into_bytes()
}

/// A page of [`records`].
pub fn record_page(seed: u64) -> [u8; PAGE] {
    records(seed, PAGE).try_into().unwrap_or([0; PAGE])
}

/// Phrases of a dialect, and bytes of each.
const PHRASES: u64 = 96;
const PHRASE: usize = 64;

/// A page of a dialect: phrases that recur from page to page, and hardly on one page. It compresses to about half of its
/// size, and with a dictionary that was trained on this dialect, and on no other, to a small part of that.
pub fn dialect_page(dialect: u64, seed: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let mut random = Random::new(seed ^ dialect << 40);
    for phrase in page.as_chunks_mut::<PHRASE>().0 {
        let mut words = Random::new(random.below(PHRASES) << 20 ^ dialect ^ 0x5EED);
        phrase.fill_with(|| b"0123456789abcdef"[words.below(16) as usize]);
    }
    page
}

/// Something like a heap: pointers into few places, small numbers, zeros, now and then a text.
pub fn heap(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        let n = random.next() >> 33;
        let word = match n % 8 {
            0 | 1 => 0,
            2 | 3 => 0x7FFF_1234_0000_0000 + ((n % 5) << 16) + (n >> 8) % 512 * 16,
            4 => (n >> 4) & 0xFF,
            5 => 0x7FFF_1234_0001_0040,
            6 => (n >> 8) & 0xFFFF_FFFF,
            _ => random.next(),
        };
        bytes.extend(word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_what_it_says() {
        let distinct = |bytes: &[u8]| {
            let mut seen = [false; 256];
            bytes
                .iter()
                .for_each(|byte| seen[usize::from(*byte)] = true);
            seen.iter().filter(|seen| **seen).count()
        };
        assert!(distinct(&noise(1)) > 250);
        assert_eq!(distinct(&noise_before(1, 0, 7)), 1);
        assert_eq!(noise_before(1, 100, 7)[..100], noise(1)[..100]);
        assert_eq!(same_filled(5)[8..], same_filled(5)[..PAGE - 8]);
        assert!(distinct(&partly_noise(1, 0)) <= 7);
        assert!(distinct(&partly_noise(1, 8)) > 250);
        assert_ne!(record_page(1), record_page(2));
        assert!(record_page(1).is_ascii());
        assert_eq!(heap(1, 1001).len(), 1001);
        assert_ne!(dialect_page(1, 1), dialect_page(1, 2));
        assert_ne!(dialect_page(1, 1), dialect_page(2, 1));
    }
}
