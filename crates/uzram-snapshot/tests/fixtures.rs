//! Snapshots of each version that are checked in must be read for ever; and a reader that was written from the description of
//! the format agrees with this crate, on these and on random ones. `UZRAM_BLESS=1` writes those of the current version.

mod common;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use uzram_snapshot::{Digest, Snapshot};
use uzram_testkit::Random;
use uzram_testkit::peers::have;

use common::{Content, Disk, Pages, apply, fixtures, keep, open};

const NAMES: [&str; 2] = ["v1.uzsnap", "v1-since.uzsnap"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[test]
fn fixtures_of_version_1_are_read() {
    if std::env::var_os("UZRAM_BLESS").is_some() {
        for (name, (_, bytes)) in NAMES.iter().zip(fixtures()) {
            std::fs::write(folder().join(name), bytes).unwrap();
        }
    }
    let files = NAMES.map(|name| std::fs::read(folder().join(name)).unwrap());
    let mut pages = Pages::new();
    for (at, (disk, written)) in fixtures().into_iter().enumerate() {
        apply(&files[at], &mut pages).unwrap();
        assert!(pages == disk.contents, "{}, forward", NAMES[at]);
        let mut snapshot = open(&files[..at + 1]);
        let mut found = Pages::new();
        let restored = snapshot.restore(|page, content| keep(&mut found, page, content));
        restored.unwrap();
        assert!(found == disk.contents, "{}, by frames", NAMES[at]);
        assert!(snapshot.verify().unwrap().is_complete);
        assert!(
            files[at] == written,
            "{} is written otherwise now",
            NAMES[at]
        );
    }
}

/// As the witness prints it.
fn listing(name: Digest, pages: &Pages) -> String {
    let mut out = format!("name {name}\n");
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(String::new(), |out, byte| out + &format!("{byte:02x}"))
    };
    for (page, content) in pages {
        let line = match content {
            Content::Same(word) => format!("same {word:016x}"),
            Content::Raw(bytes) => format!("raw {}", hex(bytes)),
            Content::Object(codec, bytes) => format!("codec {codec} {}", hex(bytes)),
        };
        writeln!(out, "page {page} {line}").unwrap();
    }
    out
}

/// What the witness makes of a chain, the oldest last. `None`: it refuses.
fn witness(files: &[PathBuf]) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_snapshot.py");
    let output = Command::new("python3")
        .arg(script)
        .args(files)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let is_refusal = error.starts_with("refused: ");
    assert!(output.status.success() || is_refusal, "{error}");
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_witness_agrees() {
    if !have("the_witness_agrees", &["python3"]) {
        return;
    }
    let files = NAMES.map(|name| folder().join(name));
    for (at, (disk, bytes)) in fixtures().into_iter().enumerate() {
        let chain: Vec<PathBuf> = files[..at + 1].iter().rev().cloned().collect();
        let name = Snapshot::open(bytes).unwrap().name();
        let found = witness(&chain).expect("a fixture is read");
        assert!(found == listing(name, &disk.contents), "{}", NAMES[at]);
    }
    assert_eq!(witness(&files[1..]), None, "its parent is missing");

    let place = tempfile::tempdir().unwrap();
    let [(_, parent), (disk, child)] = fixtures();
    let both = place.path().join("both");
    std::fs::write(&both, [&parent[..], &child].concat()).unwrap();
    let name = Snapshot::open(child).unwrap().name();
    assert!(witness(&[both]).expect("a chain in one file") == listing(name, &disk.contents));
    let mut random = Random::new(19);
    for case in 0..2 {
        let mut disk = Disk::random(&mut random);
        let mut chain = vec![disk.snapshot().0];
        let mut paths = vec![place.path().join(format!("{case}-0"))];
        std::fs::write(&paths[0], &chain[0]).unwrap();
        for link in 1..3 {
            let changed = disk.change(&mut random);
            let (bytes, summary) = disk.since(open(&chain), &changed);
            let path = place.path().join(format!("{case}-{link}"));
            std::fs::write(&path, &bytes).unwrap();
            chain.push(bytes);
            paths.insert(0, path);
            let found = witness(&paths).expect("a chain is read");
            assert!(
                found == listing(summary.name, &disk.contents),
                "{case}, {link}"
            );
        }
    }
}

#[test]
fn the_witness_refuses_what_is_damaged() {
    if !have("the_witness_refuses_what_is_damaged", &["python3"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("damaged");
    let mut disk = Disk::new(10);
    disk.set(0, Some(Content::Object(0, vec![1; 30])));
    disk.set(1, Some(Content::Same(7)));
    let (bytes, _) = disk.snapshot();
    let (mut random, mut cases) = (Random::new(2), Vec::new());
    for _ in 0..12 {
        let mut flipped = bytes.clone();
        flipped[random.index(bytes.len())] ^= 1 << random.below(8);
        cases.push(flipped);
        cases.push(bytes[..random.index(bytes.len())].to_vec());
    }
    for case in cases {
        std::fs::write(&path, case).unwrap();
        assert_eq!(witness(std::slice::from_ref(&path)), None);
    }
}
