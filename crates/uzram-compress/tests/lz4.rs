//! The drivers of lz4 against each other: what one encodes the others decode, to the byte. liblz4 is the original, lz4_flex
//! checks the most. Blocks are pages, pieces of them, and the longest that our own encoder takes and beyond.
#![cfg(all(feature = "lz4", feature = "lz4-flex", feature = "lz4-uzram"))]

#[path = "support/runs.rs"]
mod runs;

use proptest::prelude::*;
use runs::runs;
use uzram_compress::conformance::{input, inputs};
use uzram_compress::{Registry, Tfm};
use uzram_testkit::Random;

const DRIVERS: [&str; 3] = ["lz4-uzram", "lz4-liblz4", "lz4-flex"];
/// Where our own encoder gives way to liblz4's.
const MOST: usize = 0xF000;

struct Peers(Vec<Box<dyn Tfm>>);

impl Peers {
    fn new(block_size: usize) -> Peers {
        let registry = Registry::builtin();
        let none: [(&str, &str); 0] = [];
        let tfm = |driver| {
            registry
                .prepare(driver, block_size, none)
                .unwrap()
                .tfm()
                .unwrap()
        };
        Peers(DRIVERS.map(tfm).into())
    }

    /// Each encodes, all decode; the lengths of what ours and liblz4 made.
    fn all_ways(&mut self, plain: &[u8]) -> (usize, usize) {
        let mut lens = Vec::new();
        for (from, encoder) in DRIVERS.iter().enumerate() {
            let mut object = vec![0; plain.len() * 2 + 64];
            let len = self.0[from].compress(plain, &mut object).unwrap();
            for (to, reader) in self.0.iter_mut().enumerate() {
                let mut back = vec![0; plain.len()];
                let result = reader.decompress(&object[..len], &mut back);
                let to = DRIVERS[to];
                assert_eq!(result, Ok(plain.len()), "{encoder} to {to}");
                assert!(
                    back == plain,
                    "{to} reads other bytes than {encoder} was given"
                );
            }
            lens.push(len);
        }
        (lens[0], lens[1])
    }
}

#[test]
fn interop_lz4_all_read_all() {
    let mut peers = Peers::new(4096);
    let (mut ours, mut theirs) = (0, 0);
    for plain in inputs(1..1500).filter(|plain| plain.len() <= 4096) {
        let (own, liblz4) = peers.all_ways(&plain);
        ours += own;
        theirs += liblz4;
    }
    println!("{ours} bytes, liblz4 {theirs}");
    assert!(
        ours * 100 <= theirs * 101,
        "less dense than liblz4: {ours} bytes, {theirs}"
    );
}

/// A level is faster and less dense, and no matter to who decodes.
#[test]
fn interop_lz4_all_read_every_level() {
    let mut before = 0;
    let mut peers = Peers::new(4096);
    for level in ["1", "2", "3", "4", "5", "9", "100", "65537"] {
        let prepared = Registry::builtin().prepare("lz4-uzram", 4096, [("level", level)]);
        peers.0[0] = prepared.unwrap().tfm().unwrap();
        let pages = inputs(1..300).filter(|plain| plain.len() <= 4096);
        let len = pages.map(|plain| peers.all_ways(&plain).0).sum();
        assert!(
            len > before,
            "level {level} is no less dense: {len} bytes, {before}"
        );
        before = len;
    }
}

#[test]
fn interop_lz4_blocks_of_any_length() {
    let mut random = Random::new(3);
    for most in [MOST - 1, MOST, MOST + 1, 200_000] {
        let mut peers = Peers::new(most);
        for len in [most, most - 1, 1 + random.index(most)] {
            peers.all_ways(&input(random.next(), len));
            peers.all_ways(&vec![7; len]);
        }
    }
    // The format's rules about the end, with a match up to there.
    let mut peers = Peers::new(4096);
    for len in 0..80 {
        peers.all_ways(&vec![0; len]);
        peers.all_ways(&input(random.next(), len));
        peers.all_ways(&b"abcdefg".repeat(12)[..len]);
    }
}

proptest! {
    #[test]
    fn prop_lz4_runs_come_back(few in runs(2), many in runs(255)) {
        let mut peers = Peers::new(4096);
        peers.all_ways(&few);
        peers.all_ways(&many);
    }
}
