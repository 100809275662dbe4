//! wk64 against the program that was written from the description of its format: each reads what the other wrote.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use uzram_compress::Registry;

/// Runs the witness.
fn witness(what: &str, input: &[u8]) -> Vec<u8> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wk64.py");
    let mut child = Command::new("python3")
        .arg(script)
        .arg(what)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Something like a heap: pointers into few places, small numbers, zeros, now and then a text.
fn heap(len: usize, mut state: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let random = state >> 33;
        let word = match random % 8 {
            0 | 1 => 0,
            2 | 3 => 0x7FFF_1234_0000_0000 + ((random % 5) << 16) + (random >> 8) % 512 * 16,
            4 => (random >> 4) & 0xFF,
            5 => 0x7FFF_1234_0001_0040,
            6 => (random >> 8) & 0xFFFF_FFFF,
            _ => state,
        };
        bytes.extend(word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[test]
fn the_witness_agrees() {
    if Command::new("python3").arg("--version").output().is_err() {
        assert!(
            std::env::var_os("UZRAM_REQUIRE_PEERS").is_none(),
            "the_witness_agrees needs python3"
        );
        eprintln!("SKIP the_witness_agrees: no python3");
        return;
    }
    let prepared = Registry::builtin()
        .prepare("wk64", 1 << 20, [("", ""); 0])
        .unwrap();
    let mut tfm = prepared.tfm().unwrap();
    for len in [1, 7, 8, 9, 31, 33, 4095, 4096, 4097, 4104, 8192, 30_001] {
        let plain = heap(len, len as u64);
        let (mut ours, mut back) = (vec![0; 2 * len + 64], vec![0; len]);
        let packed = tfm.compress(&plain, &mut ours).unwrap();
        assert!(len < 4096 || packed < len * 3 / 4, "{len} to {packed}");
        assert!(
            witness("decompress", &ours[..packed]) == plain,
            "{len} bytes, decompressed"
        );
        let theirs = witness("compress", &plain);
        assert_eq!(tfm.decompress(&theirs, &mut back).unwrap(), len);
        assert!(back == plain, "{len} bytes, compressed");
    }
}
