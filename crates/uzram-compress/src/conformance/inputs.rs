//! Inputs for round trips: spans of data as memory has it, of any length and alignment. Reproducible: each depends on its
//! seed alone.

use std::ops::Range;

/// A pseudo-random generator (xorshift64*), so that the library needs no dependency for one.
#[derive(Debug)]
pub(super) struct Noise(u64);

impl Noise {
    /// The same seed gives the same numbers.
    pub(super) fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// 48 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// One input for each seed: most are pages, some shorter, few of up to 200,000 bytes.
pub fn inputs(seeds: Range<u64>) -> impl Iterator<Item = Vec<u8>> {
    seeds.map(|seed| {
        let mut noise = Noise::new(seed);
        let len = match noise.below(50) {
            0 => 1 + noise.below(200_000),
            1..20 => 1 + noise.below(4096),
            _ => 4096,
        };
        spans(&mut noise, len)
    })
}

/// One input of `len` bytes.
pub fn input(seed: u64, len: usize) -> Vec<u8> {
    spans(&mut Noise::new(seed), len)
}

pub(super) fn spans(noise: &mut Noise, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 4096);
    while out.len() < len {
        span(noise, &mut out);
    }
    out.truncate(len);
    out
}

fn span(noise: &mut Noise, out: &mut Vec<u8>) {
    let most = [4, 30, 300, 3000][noise.below(4)];
    let len = 1 + noise.below(most);
    match noise.below(7) {
        0 => out.resize(out.len() + len, 0),
        1 => {
            let byte = noise.next() as u8;
            out.resize(out.len() + len, byte);
        }
        2 => out.extend((0..len).map(|_| noise.next() as u8)),
        3 => out.extend((0..len).map(|_| b"etaoin shrdlu"[noise.below(13)])),
        4 => {
            let base = 0x7f00_0000_0000 + noise.next() % 4096 * 4096;
            for _ in 0..len.div_ceil(8) {
                out.extend((base + noise.next() % 64 * 16).to_le_bytes());
            }
        }
        // A copy from any distance, overlapping or not.
        5 if !out.is_empty() => {
            let distance = 1 + noise.below(out.len());
            for _ in 0..len {
                out.push(out[out.len() - distance]);
            }
        }
        _ => out.extend((0..len).map(|i| if i % 61 == 7 { noise.next() as u8 } else { 0 })),
    }
}
