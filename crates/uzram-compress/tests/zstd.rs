//! Frames of our own zstd encoder, read by libzstd and by its command line: with the magic number before them they are
//! what anybody's zstd reads. Blocks are pages, pieces of them, the longest that the encoder takes and beyond, and such
//! as take every form that the format has for literals and for sequences.
#![cfg(feature = "zstd-uzram")]

#[path = "support/runs.rs"]
mod runs;

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use runs::runs;
use uzram_compress::conformance::{input, inputs};
use uzram_compress::{Registry, Tfm};
use uzram_testkit::Random;
use uzram_testkit::peers::have;

const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Where our own encoder gives way to libzstd's.
const MOST: usize = 0x3000;

fn tfm(driver: &str, block_size: usize) -> Box<dyn Tfm> {
    let none: [(&str, &str); 0] = [];
    Registry::builtin()
        .prepare(driver, block_size, none)
        .unwrap()
        .tfm()
        .unwrap()
}

fn ours(block_size: usize) -> Box<dyn Tfm> {
    tfm("zstd-uzram", block_size)
}

/// A frame of ours, magic number and all.
fn frame(tfm: &mut dyn Tfm, plain: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; plain.len() * 2 + 64];
    let len = tfm.compress(plain, &mut frame[MAGIC.len()..]).unwrap();
    frame[..MAGIC.len()].copy_from_slice(&MAGIC);
    frame.truncate(MAGIC.len() + len);
    frame
}

/// libzstd and the driver itself read the frame; its length without the magic number.
fn is_read(tfm: &mut dyn Tfm, plain: &[u8]) -> usize {
    let frame = frame(tfm, plain);
    // One byte of room more: nothing may come of it.
    let mut back = vec![0; plain.len() + 1];
    let read = zstd_safe::decompress(&mut back[..], &frame).map_err(zstd_safe::get_error_name);
    assert_eq!(read, Ok(plain.len()), "libzstd");
    assert!(back[..plain.len()] == *plain, "libzstd reads other bytes");
    let object = &frame[MAGIC.len()..];
    back.fill(0);
    assert_eq!(
        tfm.decompress(object, &mut back[..plain.len()]),
        Ok(plain.len())
    );
    assert!(back[..plain.len()] == *plain, "other bytes come back");
    object.len()
}

#[test]
fn interop_zstd_libzstd_reads_and_is_hardly_denser() {
    let (mut own, mut peer) = (ours(4096), tfm("zstd-libzstd", 4096));
    let (mut len, mut theirs) = (0, 0);
    for plain in inputs(1..1500).filter(|plain| plain.len() <= 4096) {
        len += is_read(&mut *own, &plain);
        let mut object = vec![0; 2 * 4096];
        theirs += peer.compress(&plain, &mut object).unwrap();
    }
    println!("{len} bytes, libzstd {theirs}");
    assert!(
        len * 97 <= theirs * 100,
        "less dense than libzstd: {len} bytes, {theirs}"
    );
}

/// All levels are read; those up to 3 are one and the same, and the others are libzstd's.
#[test]
fn interop_zstd_every_level() {
    let mut plain = input(5, 4096);
    plain[3000..].copy_from_slice(&[0x5A; 1096]);
    let tfm = |driver, level: &str| {
        let prepared = Registry::builtin()
            .prepare(driver, 4096, [("level", level)])
            .unwrap();
        let mut tfm = prepared.tfm().unwrap();
        is_read(&mut *tfm, &plain);
        frame(&mut *tfm, &plain)
    };
    let default = tfm("zstd-uzram", "3");
    for level in ["0", "1", "2"] {
        assert!(tfm("zstd-uzram", level) == default, "level {level}");
    }
    for level in ["-5", "4", "9", "22"] {
        assert!(
            tfm("zstd-uzram", level) == tfm("zstd-libzstd", level),
            "level {level}"
        );
    }
}

#[test]
fn interop_zstd_command_line_reads() {
    if !have("interop_zstd_command_line_reads", &["zstd"]) {
        return;
    }
    let mut child = Command::new("zstd")
        .args(["-d", "-c", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut tfm = ours(4096);
    let (mut plain, mut frames) = (Vec::new(), Vec::new());
    for page in inputs(1..300).filter(|plain| plain.len() <= 4096) {
        frames.extend(frame(&mut *tfm, &page));
        plain.extend(page);
    }
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&frames).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == plain, "zstd reads other bytes");
}

#[test]
fn interop_zstd_blocks_of_any_length() {
    let mut random = Random::new(3);
    for most in [MOST - 1, MOST, MOST + 1, 200_000] {
        let mut tfm = ours(most);
        for len in [most, most - 1, 1 + random.index(most)] {
            is_read(&mut *tfm, &input(random.next(), len));
            is_read(&mut *tfm, &vec![7; len]);
            is_read(&mut *tfm, &random.bytes(len));
        }
    }
    let mut tfm = ours(4096);
    for len in 0..80 {
        is_read(&mut *tfm, &vec![0; len]);
        is_read(&mut *tfm, &input(random.next(), len));
        is_read(&mut *tfm, &b"abcdefg".repeat(12)[..len]);
    }
}

/// `len` bytes of so many symbols, the first ones more often; hardly any five follow each other twice.
fn uneven(random: &mut Random, symbols: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|_| random.index(symbols).min(random.index(symbols)) as u8)
        .collect()
}

/// Each size at which a header of literals becomes longer, and where they are divided.
#[test]
fn interop_zstd_literals_of_every_size() {
    let mut random = Random::new(11);
    let mut tfm = ours(MOST);
    for size in [1, 32, 64, 128, 256, 1024, 4096, 12280] {
        for len in size - 1..size + 5 {
            for symbols in [2, 16, 60, 128, 200, 256] {
                is_read(&mut *tfm, &uneven(&mut random, symbols, len));
            }
        }
    }
    // Coded in four streams with each form of header, or the test tests nothing.
    for len in [1000, 2000, 12_000] {
        let plain = uneven(&mut random, 120, len);
        assert!(
            is_read(&mut *tfm, &plain) < len * 98 / 100,
            "{len} literals without a code"
        );
    }
}

/// Codes as long as they can be and longer than allowed: each symbol as often as the two before together.
#[test]
fn interop_zstd_alphabets_that_exceed_the_limit() {
    let mut random = Random::new(12);
    let mut tfm = ours(MOST);
    for symbols in [2, 3, 12, 20, 128, 129, 255, 256] {
        for steep in [2, 10, 14, 19] {
            let mut plain = Vec::new();
            let (mut count, mut next) = (1, 1);
            for symbol in 0..symbols {
                plain.extend(vec![symbol as u8; count]);
                if symbol < steep {
                    (count, next) = (next, count + next);
                } else {
                    count = 1;
                }
            }
            plain.truncate(MOST);
            for at in (1..plain.len()).rev() {
                plain.swap(at, random.index(at + 1));
            }
            is_read(&mut *tfm, &plain);
            plain.truncate(4096);
            is_read(&mut *tfm, &plain);
        }
    }
}

#[test]
fn interop_zstd_sequences_of_every_number() {
    let mut random = Random::new(13);
    let mut tfm = ours(MOST);
    // Two other bytes in every eight: all sequences have the same codes.
    for count in [1, 2, 3, 4, 31, 32, 63, 64, 127, 128, 129, 500, 2000] {
        let mut alike = b"tail".to_vec();
        let mut unlike = random.next().to_le_bytes().to_vec();
        for _ in 0..count {
            alike.extend((random.next() as u16).to_le_bytes());
            alike.extend(b"always");
            unlike.extend({
                let count = random.index(5);
                random.bytes(count)
            });
            let from = random.index(unlike.len() - 6);
            let len = 4 + random.index(8);
            unlike.extend(unlike[from..].iter().copied().take(len).collect::<Vec<_>>());
        }
        for plain in [alike, unlike] {
            is_read(&mut *tfm, &plain[..plain.len().min(MOST)]);
        }
    }
    // One, of each length around where codes have bits beside them, and as many literals before it.
    for len in (4..150).chain([1000, 6000]) {
        let mut plain = random.bytes(len);
        plain.extend_from_within(..);
        is_read(&mut *tfm, &plain);
    }
    // As many as there can be: the same four bytes, at distances that change.
    let plain: Vec<u8> = (0..MOST / 5)
        .flat_map(|_| [1, 2, 3, 4, random.byte()])
        .collect();
    is_read(&mut *tfm, &plain);
}

proptest! {
    #[test]
    fn prop_zstd_runs_come_back(few in runs(2), many in runs(255)) {
        let mut tfm = ours(4096);
        is_read(&mut *tfm, &few);
        is_read(&mut *tfm, &many);
    }

    #[test]
    fn prop_zstd_any_block_comes_back(seed: u64, len in 0..=MOST) {
        is_read(&mut *ours(MOST), &input(seed, len));
    }
}
