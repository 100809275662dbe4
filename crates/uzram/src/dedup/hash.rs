//! The hash by which the dedup index finds objects: two multiplications for every 32 bytes, keyed.
//!
//! It need only spread well: objects are always compared. The keys are random and never leave the process, so nobody
//! can craft pages that collide. It is not part of the image: attaching hashes anew.

/// Words that are mixed at a time.
const LANES: usize = 4;
/// Bytes that are mixed at a time.
const STEP: usize = LANES * 16;

pub(crate) struct Hasher {
    keys: [u64; 2 * LANES],
    /// The bits that a hash may have set. All, but in tests.
    pub(super) mask: u64,
}

/// Both halves of a product: each bit of the result depends on most bits of the operands.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Hasher {
    pub(super) fn new() -> std::io::Result<Hasher> {
        let mut keys = [0; 2 * LANES];
        for key in &mut keys {
            let mut bytes = [0; 8];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
            *key = u64::from_ne_bytes(bytes);
        }
        Ok(Hasher {
            keys,
            mask: u64::MAX,
        })
    }

    /// The hash of an object that was made by a codec.
    pub(super) fn hash(&self, algorithm: u8, bytes: &[u8]) -> u64 {
        let (steps, rest) = bytes.as_chunks::<STEP>();
        let mut lanes: [u64; LANES] = std::array::from_fn(|lane| self.keys[lane]);
        lanes[0] ^= (bytes.len() as u64) << 8 | u64::from(algorithm);
        for step in steps {
            self.mix(&mut lanes, step);
        }
        let mut last = [0; STEP];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(&mut lanes, &last);
        let halves = [
            fold(lanes[0] ^ self.keys[4], lanes[1] ^ self.keys[5]),
            fold(lanes[2] ^ self.keys[6], lanes[3] ^ self.keys[7]),
        ];
        fold(halves[0] ^ self.keys[1], halves[1] ^ self.keys[0]) & self.mask
    }

    fn mix(&self, lanes: &mut [u64; LANES], step: &[u8; STEP]) {
        let (words, _) = step.as_chunks::<8>();
        for (lane, mixed) in lanes.iter_mut().enumerate() {
            let [a, b] = [words[2 * lane], words[2 * lane + 1]].map(u64::from_ne_bytes);
            // The lane goes into both operands: a word that happens to make one of them 0 does not wipe it out.
            *mixed = fold(a ^ *mixed, b ^ self.keys[LANES + lane]) ^ mixed.rotate_left(29);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_bit_length_and_codec_matters() {
        let hasher = Hasher::new().unwrap();
        let mut bytes: Vec<u8> = (0..300u16).map(|at| (at / 3) as u8).collect();
        let mut seen = HashSet::new();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(hasher.hash(1, &bytes)), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..=bytes.len() {
            assert!(seen.insert(hasher.hash(1, &bytes[..len])), "length {len}");
        }
        assert!(seen.insert(hasher.hash(2, &bytes)));
        assert_eq!(hasher.hash(2, &bytes), hasher.hash(2, &bytes));
        assert!((1..300).all(|len| seen.insert(hasher.hash(3, &vec![0; len]))));
    }

    /// Counters and other pages that hardly differ fill the parts of an index evenly.
    #[test]
    fn similar_objects_spread() {
        let hasher = Hasher::new().unwrap();
        let mut counts = [0u32; 256];
        for number in 0..256_000u64 {
            let mut bytes = [0; 96];
            bytes[40..48].copy_from_slice(&number.to_le_bytes());
            counts[(hasher.hash(0, &bytes) >> 56) as usize] += 1;
        }
        // 1000 each with a standard deviation of 32.
        assert!(counts.iter().all(|n| (750..1250).contains(n)), "{counts:?}");
    }
}
