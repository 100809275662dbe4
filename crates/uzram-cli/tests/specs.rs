//! Every version of a device's description that a program ever wrote, with an image beside it, is served by this one.
//!
//! `specs/vN.json` is a description and `specs/vN.image.gz` the memory of its device: extents of a sparse file, each behind
//! its offset and length. A new version gets its pair by `cargo test -p uzram-cli --test specs -- --ignored make`, and the
//! older pairs stay as they are.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Bench, needs, sh};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use uzram_control::RunDir;

const PAGE: usize = 4096;
const PAGES: u64 = 256;

/// What the devices hold: text, pages that were never written, repeated words, and a few that do not compress.
fn content() -> Vec<u8> {
    (0..PAGES).flat_map(page).collect()
}

fn page(number: u64) -> Vec<u8> {
    let mut page = Vec::with_capacity(PAGE);
    match number % 16 {
        3 => {
            let mut x = 0x9E37_79B9_7F4A_7C15 ^ (number + 1);
            while page.len() < PAGE {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                page.extend_from_slice(&u64::to_le_bytes(x));
            }
        }
        n if n % 4 == 1 => page.resize(PAGE, 0),
        n if n % 4 == 2 => page.resize(PAGE, number as u8),
        _ => {
            let lines = (0..).flat_map(|line| format!("page {number}, line {line}\n").into_bytes());
            page.extend(lines.take(PAGE));
        }
    }
    page
}

fn specs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specs")
}

/// Reads an image into memory that a keeper can inherit.
fn image(path: &Path) -> File {
    let mut packed = GzDecoder::new(File::open(path).unwrap());
    let image = rustix::fs::memfd_create("uzram", rustix::fs::MemfdFlags::empty()).unwrap();
    let image = File::from(image);
    let mut number = || {
        let mut bytes = [0; 8];
        packed
            .read_exact(&mut bytes)
            .map(|()| u64::from_le_bytes(bytes))
    };
    let len = number().unwrap();
    image.set_len(len).unwrap();
    let mut rest = Vec::new();
    let extents = number().unwrap();
    packed.read_to_end(&mut rest).unwrap();
    let mut rest = rest.as_slice();
    for _ in 0..extents {
        let (head, tail) = rest.split_at(16);
        let offset = u64::from_le_bytes(head[..8].try_into().unwrap());
        let len = u64::from_le_bytes(head[8..].try_into().unwrap()) as usize;
        image.write_all_at(&tail[..len], offset).unwrap();
        rest = &tail[len..];
    }
    assert!(rest.is_empty());
    image
}

#[test]
fn every_version_of_a_description_is_served() {
    needs!(&["nbdcopy"]);
    let mut versions: Vec<_> = std::fs::read_dir(specs())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    versions.sort();
    assert!(!versions.is_empty());
    for spec in versions {
        let bench = Bench::new();
        let run = RunDir::new(bench.run_dir());
        let claim = run.claim(Some("zram0")).unwrap();
        std::fs::copy(&spec, claim.file("spec.json")).unwrap();
        let image = image(&spec.with_extension("image.gz"));
        claim.pass_on_lock().unwrap();
        let state = format!(
            r#"{{"dir":"{}","image":{},"a_field_of_another_version":1}}"#,
            claim.dir.display(),
            image.as_raw_fd()
        );
        let mut keeper = Command::new(env!("CARGO_BIN_EXE_uzram"))
            .args(["keep", &state])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        bench.wait_for("zram0", |record| record["path"].is_string());
        // The keeper's and the server's are enough now.
        drop((image, claim));
        let stat = bench.stat("zram0");
        let copy = bench.path("copy");
        sh(&format!(
            "nbdcopy '{}' {}",
            stat["path"].as_str().unwrap(),
            copy.display()
        ));
        assert_eq!(stat["identity"].as_str().map(str::len), Some(32));
        let copied = std::fs::read(&copy).unwrap();
        assert!(copied == content(), "{}: other contents", spec.display());
        bench.remove_last("zram0");
        keeper.wait().unwrap();
    }
}

#[test]
fn a_description_of_a_newer_version_is_refused_in_words() {
    let bench = Bench::new();
    bench.create(&["--size", "1M", "--frontend", "nbd"]);
    let path = bench.run_dir().join("zram0/spec.json");
    let spec = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, spec.replace("\"version\": 1", "\"version\": 99")).unwrap();
    let pid = bench.count("zram0", "pid");
    let said = bench.fails(2, &["upgrade", "zram0"]);
    assert!(said.contains("it is of version 99"), "{said}");
    // A refusal changes nothing.
    assert_eq!(bench.count("zram0", "pid"), pid);
    bench.remove_last("zram0");
}

#[test]
fn a_keeper_of_0_1_is_told_that_its_device_cannot_be_taken_over() {
    let bench = Bench::new();
    bench.create(&["--size", "1M", "--frontend", "nbd"]);
    // So it asks.
    let said = bench.fails(5, &["check-image", "--image", "0"]);
    assert!(
        said.contains("made by uzram 0.1") && said.contains("make it anew"),
        "{said}"
    );
    bench.uzram(&["remove", "zram0"]);
}

/// Makes the pair of the version that this program writes.
#[test]
#[ignore = "makes a fixture"]
fn make() {
    let bench = Bench::new();
    let (content_file, dictionary) = (bench.path("content"), bench.path("heap.dict"));
    std::fs::write(&content_file, content()).unwrap();
    std::fs::write(&dictionary, &page(4)[..2048]).unwrap();
    let algorithm = format!("zstd(level=1,dict={})", dictionary.display());
    let uri = bench.create(&[
        "--size",
        "1M",
        "--max-size",
        "2M",
        "--frontend",
        "nbd",
        "--poll",
        "50",
        "--algorithm",
        &algorithm,
        "--recomp-algorithm",
        "zstd(level=9,priority=2)",
        "--mem-limit",
        "8M",
        "--policy",
        "recompress=5m,cpu=20",
    ]);
    sh(&format!("nbdcopy {} '{uri}'", content_file.display()));
    let keeper = bench.count("zram0", "keeper");
    let spec = std::fs::read(bench.run_dir().join("zram0/spec.json")).unwrap();
    let version: serde_json::Value = serde_json::from_slice(&spec).unwrap();
    let name = format!("v{}", version["version"]);
    std::fs::write(specs().join(format!("{name}.json")), spec).unwrap();
    let image = std::fs::read_dir(format!("/proc/{keeper}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|fd| std::fs::read_link(fd).is_ok_and(|to| to.starts_with("/memfd:uzram (deleted)")))
        .unwrap();
    let image = File::open(image).unwrap();
    let len = image.metadata().unwrap().len();
    let mut extents = Vec::new();
    let mut at = 0;
    while let Ok(begin) = rustix::fs::seek(&image, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&image, rustix::fs::SeekFrom::Hole(begin)).unwrap();
        let mut bytes = vec![0; (end - begin) as usize];
        image.read_exact_at(&mut bytes, begin).unwrap();
        extents.push((begin, bytes));
        at = end;
    }
    let packed = File::create(specs().join(format!("{name}.image.gz"))).unwrap();
    let mut packed = GzEncoder::new(packed, Compression::best());
    for number in [len, extents.len() as u64] {
        packed.write_all(&number.to_le_bytes()).unwrap();
    }
    for (offset, bytes) in extents {
        packed.write_all(&offset.to_le_bytes()).unwrap();
        packed
            .write_all(&(bytes.len() as u64).to_le_bytes())
            .unwrap();
        packed.write_all(&bytes).unwrap();
    }
    packed.finish().unwrap();
}
