//! wk64 against the program that was written from the description of its format: each reads what the other wrote.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use uzram_compress::Registry;
use uzram_testkit::data::heap;
use uzram_testkit::peers::have;

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

#[test]
fn the_witness_agrees() {
    if !have("the_witness_agrees", &["python3"]) {
        return;
    }
    let prepared = Registry::builtin()
        .prepare("wk64", 1 << 20, [("", ""); 0])
        .unwrap();
    let mut tfm = prepared.tfm().unwrap();
    for len in [1, 7, 8, 9, 31, 33, 4095, 4096, 4097, 4104, 8192, 30_001] {
        let plain = heap(len as u64, len);
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
