//! `uzram restore` and `uzram snapshot verify|list|show`: a device with all that a snapshot holds, or nothing and a sentence
//! that says why. The snapshots are written here, as another program would write them.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, have, needs, sh};
use uzram::compress::{Registry, Settings};
use uzram_snapshot::{CodecSource, DiskSource, Page, Snapshot, SnapshotSummary, SnapshotWriter};
use uzram_testkit::{data, mountinfo};

const PAGE: usize = 4096;

fn codec(algorithm: &str) -> CodecSource<'_> {
    CodecSource {
        number: 3,
        algorithm,
        driver: "",
        params: "",
        dictionary: None,
    }
}

/// A snapshot of a disk, compressed with lz4; or of what changed since another.
fn snapshot(
    disk: &[u8],
    parent: Option<(&Path, &[u64])>,
    is_basis: bool,
    notes: &str,
) -> (Vec<u8>, SnapshotSummary) {
    let algorithm = Registry::builtin().find("lz4").unwrap().clone();
    let none: [(&str, &str); 0] = [];
    let prepared = algorithm
        .prepare(&Settings::new(&*algorithm, PAGE, none).unwrap())
        .unwrap();
    let mut tfm = prepared.tfm().unwrap();
    let codecs = [codec("lz4")];
    let source = DiskSource {
        pages: (disk.len() / PAGE) as u64,
        taken_at_seconds: 1_796_000_000,
        is_basis,
        codecs: &codecs,
        notes: notes.as_bytes(),
    };
    let mut writer = match parent {
        Some((parent, _)) => {
            let parent = Snapshot::open(fs::File::open(parent).unwrap());
            SnapshotWriter::since(Vec::new(), &source, parent.unwrap()).unwrap()
        }
        None => SnapshotWriter::new(Vec::new(), &source).unwrap(),
    };
    for (frame, pages) in disk.chunks(64 * PAGE).enumerate() {
        let first = frame as u64 * 64;
        let changed = |page: u64| match parent {
            Some((_, changed)) => changed.contains(&page),
            None => true,
        };
        let count = (pages.len() / PAGE) as u64;
        let mask = (0..count)
            .filter(|page| changed(first + page))
            .fold(0u64, |mask, page| mask | 1 << page);
        if mask == 0 {
            continue;
        }
        let needed = writer.needs(frame as u32, mask).unwrap();
        let mut objects = Vec::new();
        for page in pages.chunks(PAGE) {
            let mut out = [0; 2 * PAGE];
            let len = tfm.compress(page, &mut out).unwrap_or(PAGE);
            objects.push(out[..len.min(PAGE)].to_vec());
        }
        let mut stored = Vec::new();
        for (at, page) in pages.chunks(PAGE).enumerate() {
            let word = u64::from_ne_bytes(*page.first_chunk().unwrap());
            let is_same = *page == data::same_filled(word);
            stored.push(match &objects[at] {
                _ if needed >> at & 1 == 0 => Page::Unchanged,
                _ if is_same => Page::Same(word),
                object if object.len() < PAGE => Page::Object {
                    codec: 3,
                    bytes: object,
                },
                _ => Page::Raw(page),
            });
        }
        writer.frame(frame as u32, &stored).unwrap();
    }
    writer.finish().unwrap()
}

/// 8 MiB of records, noise, words and zeros.
fn disk() -> Vec<u8> {
    let page = |page: u64| match page % 16 {
        0 => data::noise(page),
        1 | 2 => [0; PAGE],
        3 => data::same_filled(u64::MAX),
        4 => data::same_filled(0x1234_5678_9ABC_DEF0),
        _ => data::record_page(page),
    };
    (0..2048).flat_map(page).collect()
}

struct Files {
    bench: Bench,
    disk: Vec<u8>,
}

impl Files {
    fn new() -> Files {
        let (bench, disk) = (Bench::new(), disk());
        let files = Files { bench, disk };
        let (bytes, _) = snapshot(&files.disk, None, false, "");
        files.write("whole", &bytes);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.path(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().into()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// An ext4 of what is in the sources of a crate, and a snapshot of it.
    fn file_system(&self, source: &str) -> (String, String) {
        let image = self.text("image");
        sh(&format!(
            "truncate -s 32M {image} && mkfs.ext4 -q -b 4096 -d {source}/src {image}"
        ));
        let (bytes, _) = snapshot(&self.read("image"), None, false, "");
        let file = self.write("ext4", &bytes);
        (image, file)
    }

    /// Restores to an NBD socket; gives the path.
    fn restore(&self, args: &[&str]) -> String {
        let path = self
            .bench
            .uzram(&[&["restore", "--frontend", "nbd"], args].concat());
        path.trim_end().to_owned()
    }

    /// Pipes bytes into a command.
    fn piped(&self, args: &[&str], bytes: &[u8]) -> Output {
        let mut command = self.bench.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = bytes.to_vec();
        let feed = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap();
        output
    }

    /// Refuses a restore with this exit code, in words, and leaves nothing.
    fn refuses(&self, code: i32, args: &[&str], said: &str) {
        let args = [&["restore", "--frontend", "nbd"], args].concat();
        let words = self.bench.fails(code, &args);
        assert!(words.contains(said), "{args:?}: {words}");
        self.bench.assert_clean();
    }

    /// The same of what comes by a pipe.
    fn refuses_piped(&self, code: i32, bytes: &[u8], said: &str) {
        let output = self.piped(&["restore", "-", "--frontend", "nbd"], bytes);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words}");
        assert!(words.contains(said), "{words}");
        assert_eq!(output.stdout, b"");
        self.bench.assert_clean();
    }
}

/// What an NBD device holds, if there is a program to read it.
fn contents(uri: &str) -> Option<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let copied = Command::new("nbdcopy")
        .args(["--", uri])
        .arg(file.path())
        .status();
    copied
        .ok()?
        .success()
        .then(|| fs::read(file.path()).unwrap())
}

fn digest_of(path: &Path) -> String {
    Snapshot::open(fs::File::open(path).unwrap())
        .unwrap()
        .name()
        .to_string()
}

#[test]
fn a_snapshot_becomes_a_device_from_a_file_and_from_a_pipe() {
    let files = Files::new();
    let whole = files.text("whole");
    let from_file = files.restore(&[&whole]);
    let by_another_name = files.bench.create(&["--from", &whole, "--frontend", "nbd"]);
    let args = ["restore", "-", "--frontend", "nbd", "--mem-limit", "64M"];
    let piped = files.piped(&args, &files.read("whole"));
    assert!(piped.status.success(), "{piped:?}");
    let piped = String::from_utf8(piped.stdout).unwrap();
    for (name, path) in [
        ("zram0", &from_file),
        ("zram1", &by_another_name),
        ("zram2", &piped),
    ] {
        let stat = files.bench.stat(name);
        assert_eq!(stat["disksize"], 8 << 20, "{stat:#}");
        assert_eq!(stat["codecs"][0]["algorithm"], "lz4");
        assert_eq!(stat["codecs"][0]["objects"], 11 * 128);
        if have("restored contents", &["nbdcopy"], false) {
            assert!(contents(path.trim_end()).unwrap() == files.disk, "{name}");
        }
    }
    // Restarted, it has what it had: the file is not read again.
    fs::remove_file(&whole).unwrap();
    files.bench.kill("zram0", "pid");
    assert_eq!(files.bench.stat("zram0")["codecs"][0]["objects"], 11 * 128);
    files.bench.uzram(&["remove", "--all"]);
    files.bench.assert_clean();
}

#[test]
fn options_count_beside_a_snapshot() {
    let files = Files::new();
    let notes = r#"{"name":"zram7","block_size":512,"future":[1]}"#;
    let noted = files.write("noted", &snapshot(&files.disk, None, false, notes).0);
    files.restore(&[&noted]);
    let block_size = |name: &str| {
        let spec = fs::read(files.bench.run_dir().join(name).join("spec.json")).unwrap();
        let spec: serde_json::Value = serde_json::from_slice(&spec).unwrap();
        assert!(spec.get("from").is_none(), "it is needed once");
        spec["block_size"].as_u64().unwrap()
    };
    assert_eq!(block_size("zram0"), 512);
    assert_eq!(files.bench.stat("zram0")["algorithm"], "lz4");
    let own = [
        "--size",
        "16M",
        "-a",
        "zstd",
        "--block-size",
        "4096",
        "--name",
        "zram5",
        "--dedup",
    ];
    files.restore(&[&[&*noted][..], &own].concat());
    let stat = files.bench.stat("zram5");
    assert_eq!(stat["disksize"], 16 << 20);
    assert_eq!(block_size("zram5"), 4096);
    assert_eq!(stat["algorithm"], "zstd");
    let codecs = stat["codecs"].as_array().unwrap();
    let lz4 = codecs
        .iter()
        .find(|codec| codec["algorithm"] == "lz4")
        .unwrap();
    assert_eq!(lz4["objects"], 11 * 128);
    if have("a larger device", &["nbdcopy"], false) {
        let path = stat["path"].as_str().unwrap();
        let all = contents(path).unwrap();
        assert!(all[..8 << 20] == files.disk && all[8 << 20..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn what_is_no_good_snapshot_leaves_nothing() {
    let files = Files::new();
    let good = files.read("whole");
    let whole = files.text("whole");
    files.refuses(2, &[&files.text("nosuch")], "No such file");
    files.refuses(
        2,
        &[files.bench.path("").to_str().unwrap()],
        "it is a directory",
    );
    files.refuses(2, &["/dev/zero"], "neither a regular file nor a pipe");
    files.refuses(
        2,
        &[&files.write("foreign", &[b'x'; 9999])],
        "it holds no uzram snapshot",
    );
    files.refuses(1, &[&files.write("empty", b"")], "cut off at byte 0");
    let mut newer = good.clone();
    newer[8] = 3;
    files.refuses(5, &[&files.write("newer", &newer)], "use a newer uzram");
    files.refuses_piped(5, &newer, "use a newer uzram");
    files.refuses_piped(
        2,
        &[b'x'; 9999],
        "the snapshot that was piped in: it holds no uzram snapshot",
    );
    for len in [
        0,
        1,
        23,
        100,
        good.len() / 3,
        good.len() / 2,
        good.len() - 1,
    ] {
        files.refuses(1, &[&files.write("cut", &good[..len])], "cut off at byte");
        files.refuses_piped(1, &good[..len], &format!("cut off at byte {len}"));
    }
    for at in [
        40,
        300,
        5000,
        good.len() / 2,
        good.len() - 3000,
        good.len() - 300,
        good.len() - 50,
    ] {
        let mut flipped = good.clone();
        flipped[at] ^= 4;
        files.refuses(1, &[&files.write("flipped", &flipped)], "damaged at byte");
        files.refuses_piped(1, &flipped, "damaged at byte");
    }
    files.refuses_piped(
        2,
        &[&good[..], b"and more that is no snapshot of anything"].concat(),
        "no uzram snapshot",
    );
    files.refuses(1, &[&whole, "--mem-limit", "1M"], "does not fit");
    files.refuses(2, &[&whole, "--size", "1M"], "size 1048576 is too little");
    files.refuses(2, &[&whole, "--swap"], "exclude each other");
    files.refuses(2, &[&whole, "--parent", &whole], "which is no parent of it");
    let words = files.bench.fails(2, &["create", "--parent", &whole]);
    assert!(words.contains("--from names"), "{words}");
    let nobody = files.piped(
        &["restore", "-", "--frontend", "nbd", "--mem-limit", "1M"],
        &good,
    );
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("does not fit"));
    files.bench.assert_clean();
}

#[test]
fn an_algorithm_that_this_program_lacks_is_named_before_anything_is_made() {
    let files = Files::new();
    let codecs = [codec("quantum")];
    let disk = DiskSource {
        pages: 10,
        taken_at_seconds: 0,
        is_basis: false,
        codecs: &codecs,
        notes: b"",
    };
    let (bytes, _) = SnapshotWriter::new(Vec::new(), &disk)
        .unwrap()
        .finish()
        .unwrap();
    files.refuses(
        5,
        &[&files.write("quantum", &bytes)],
        "compressed with quantum",
    );
    files.refuses_piped(5, &bytes, "compressed with quantum");
    assert!(!files.bench.run_dir().join("zram0").exists());
}

#[test]
fn snapshots_since_others_need_them() {
    let files = Files::new();
    let mut disk = files.disk.clone();
    let whole = files.text("whole");
    let mut since = |name: &str, parent: &str, pages: &[u64]| {
        for page in pages {
            let at = *page as usize * PAGE;
            disk[at..at + PAGE].copy_from_slice(&data::record_page(page + 5000));
        }
        let parent = files.path(parent);
        let (bytes, _) = snapshot(&disk, Some((&parent, pages)), false, "");
        (files.write(name, &bytes), bytes, disk.clone())
    };
    let (first, first_bytes, after_first) = since("first", "whole", &[1, 5, 700]);
    let parent = digest_of(&files.path("whole"));
    files.refuses(
        2,
        &[&first],
        &format!("it needs its parent {parent} (give the file that holds it with --parent FILE)"),
    );
    files.refuses_piped(2, &first_bytes, &parent);
    let other = files.write("other", &snapshot(&[0; 8 << 20], None, false, "").0);
    files.refuses(2, &[&first, "--parent", &other], "which is no parent of it");
    files.refuses(
        2,
        &[&first, "--parent", &whole, "--parent", &other],
        "which is no parent of it",
    );

    let check = |path: &str, expected: &[u8], what: &str| {
        if have("restored contents", &["nbdcopy"], false) {
            assert!(contents(path).unwrap() == expected, "{what}");
        }
        files.bench.uzram(&["remove", "--all"]);
        files.bench.assert_clean();
    };
    let path = files.restore(&[&first, "--parent", &whole]);
    check(&path, &after_first, "by files");
    let piped = files.piped(
        &["restore", "-", "--frontend", "nbd", "--parent", &whole],
        &first_bytes,
    );
    assert!(piped.status.success(), "{piped:?}");
    check(
        std::str::from_utf8(&piped.stdout).unwrap().trim(),
        &after_first,
        "by a pipe",
    );
    // Both in one file, and from that by a pipe.
    let both = [&files.read("whole")[..], &first_bytes].concat();
    let path = files.restore(&[&files.write("both", &both)]);
    check(&path, &after_first, "in one file");
    let piped = files.piped(&["restore", "-", "--frontend", "nbd"], &both);
    assert!(piped.status.success(), "{piped:?}");
    check(
        std::str::from_utf8(&piped.stdout).unwrap().trim(),
        &after_first,
        "in one pipe",
    );

    let words = files.bench.uzram(&["snapshot", "verify", &first]);
    assert!(words.contains("good") && words.contains(&parent), "{words}");
    let words = files
        .bench
        .uzram(&["snapshot", "verify", &first, "--parent", &whole]);
    assert!(
        words.contains("good") && !words.contains("not read"),
        "{words}"
    );
}

#[test]
fn a_basis_alone_is_no_snapshot() {
    let files = Files::new();
    let (basis, _) = snapshot(&files.disk, None, true, "");
    files.refuses(1, &[&files.write("basis", &basis)], "cut off");
    files.refuses_piped(1, &basis, "cut off");
    let failed = files.piped(&["snapshot", "verify", "-"], &basis);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
}

#[test]
fn verify_list_and_show_say_what_there_is() {
    let files = Files::new();
    let whole = files.text("whole");
    let name = digest_of(&files.path("whole"));
    let words = files.bench.uzram(&["snapshot", "verify", &whole, &whole]);
    assert_eq!(words.matches("good").count(), 2, "{words}");
    let piped = files.piped(&["snapshot", "verify", "--json", "-"], &files.read("whole"));
    let found: serde_json::Value = serde_json::from_slice(&piped.stdout).unwrap();
    assert_eq!(
        (&found["name"], &found["is_complete"]),
        (&name.clone().into(), &true.into())
    );
    let table = files.bench.uzram(&["snapshot", "list", &whole]);
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(
        table.contains(&name[..16]) && table.contains("2026-11-30"),
        "{table}"
    );
    let json = files.bench.uzram(&["snapshot", "list", &whole, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["name"], name);
    let words = files.bench.uzram(&["snapshot", "show", &whole]);
    for said in [
        &*name,
        "8M, 2,048 pages",
        "lz4",
        "none: it is complete",
        "1,536 pages",
    ] {
        assert!(words.contains(said), "{said}: {words}");
    }
    let json = files.bench.uzram(&["snapshot", "show", &whole, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["object_pages"], 12 * 128);
    assert_eq!(json["same_pages"], 2 * 128);
    assert_eq!(json["segments"].as_array().unwrap().len(), 1);

    let mut flipped = files.read("whole");
    flipped[9000] ^= 1;
    let bad = files.write("flipped", &flipped);
    let output = files.bench.output(&["snapshot", "verify", &bad, &whole]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("damaged at byte"));
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("good"),
        "the other is looked at"
    );
    for args in [
        ["list", "/nosuch"],
        ["show", "/nosuch"],
        ["verify", "/nosuch"],
    ] {
        files.bench.fails(2, &[&["snapshot"], &args[..]].concat());
    }
}

/// Server, keeper or command killed in the middle: the pipe has what it takes to be there, and no end yet.
#[test]
fn whoever_dies_in_the_middle_leaves_nothing() {
    let files = Files::new();
    let bytes = files.read("whole");
    let processes = || {
        let own = format!("UZRAM_RUN_DIR={}", files.bench.run_dir().display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let of = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let is_own = of("environ")
                .split(|byte| *byte == 0)
                .any(|one| one == own.as_bytes());
            if let (true, Ok(pid)) = (is_own, entry.file_name().to_string_lossy().parse::<u32>()) {
                let words = String::from_utf8_lossy(&of("cmdline")).replace('\0', " ");
                found.push((pid, words));
            }
        }
        found
    };
    for (whom, signal) in [
        ("serve", "KILL"),
        ("keep", "KILL"),
        ("restore", "KILL"),
        ("restore", "INT"),
        ("restore", "TERM"),
    ] {
        let mut command = files.bench.command(&["restore", "-", "--frontend", "nbd"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&bytes[..bytes.len() / 2]).unwrap();
        stdin.flush().unwrap();
        let begin = Instant::now();
        let is_him = |(_, words): &(u32, String)| words.split(' ').nth(1) == Some(whom);
        let pid = loop {
            let all = processes();
            // All three are there.
            if all.iter().any(|(_, words)| words.contains(" serve "))
                && let Some((pid, _)) = all.iter().find(|one| is_him(one))
            {
                break *pid;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "{whom}: {all:?}");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(
            files.bench.uzram(&["list", "--noheadings"]),
            "",
            "no device before it is whole"
        );
        sh(&format!("kill -{signal} {pid}"));
        // What waits for more learns that none comes.
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success(), "{whom}, {signal}: {output:?}");
        assert_eq!(output.stdout, b"");
        let begin = Instant::now();
        while let left @ [_, ..] = &processes()[..] {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "{whom}, {signal}: {left:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        files.bench.assert_clean();
    }
}

#[test]
fn a_file_system_comes_back() {
    needs!(&["mkfs.ext4", "e2fsck", "mount"], fuse_loop);
    let files = Files::new();
    let source = env!("CARGO_MANIFEST_DIR");
    let (image, file) = files.file_system(source);
    let path = files
        .bench
        .uzram(&["restore", &file, "--frontend", "fuse-loop"]);
    let (path, at) = (path.trim_end(), files.text("at"));
    sh(&format!(
        "cmp {path} {image}; e2fsck -fn {path}; mkdir {at}; mount {path} {at}"
    ));
    sh(&format!(
        "diff -r {source}/src {at} -x lost+found; echo more > {at}/more; umount {at}; e2fsck -fn {path}"
    ));
    files.bench.uzram(&["remove", "--all"]);
    files.bench.assert_clean();
}

/// By the program's own snapshot: trained dictionaries, algorithms for recompression, and what is written then.
#[test]
fn a_device_comes_back_with_its_codecs() {
    needs!(&["nbdcopy"]);
    let files = Files::new();
    let bench = &files.bench;
    let write = |uri: &str, bytes: &[u8]| {
        let file = files.write("to-write", bytes);
        let status = Command::new("nbdcopy").args(["--", &file, uri]).status();
        assert!(status.unwrap().success());
    };
    let dialect: Vec<u8> = (0..2048)
        .flat_map(|page| data::dialect_page(1, page))
        .collect();
    let uri = bench.create(&[
        "--size",
        "8M",
        "--frontend",
        "nbd",
        "-a",
        "zstd",
        "--recomp-algorithm",
        "lz4hc(priority=2)",
        "--block-size",
        "512",
        "--train",
        "off",
    ]);
    write(&uri, &dialect);
    bench.uzram(&["train", "zram0"]);
    write(
        &uri,
        &[&dialect[..4 << 20], &files.disk[4 << 20..]].concat(),
    );
    let before = bench.stat("zram0");
    assert_eq!(before["codecs"][1]["generation"]["number"], 1, "{before:#}");
    let file = files.text("own");
    bench.uzram(&["snapshot", "zram0", &file]);
    let found = contents(&uri).unwrap();
    bench.uzram(&["remove", "zram0"]);

    let uri = files.restore(&[&file]);
    assert!(contents(&uri).unwrap() == found);
    let after = bench.stat("zram0");
    let codecs = |stat: &serde_json::Value| {
        let codecs = stat["codecs"].as_array().unwrap().iter();
        let mut all: Vec<String> = codecs
            .map(|codec| {
                let mut codec = codec.clone();
                let fields = codec.as_object_mut().unwrap();
                fields.remove("index");
                codec.to_string()
            })
            .collect();
        all.sort();
        all
    };
    assert_eq!(codecs(&after), codecs(&before));
    for same in [
        "same_pages",
        "huge_pages",
        "orig_data_size",
        "compr_data_size",
    ] {
        assert_eq!(after[same], before[same], "{same}");
    }
    // What is written now is compressed with the dictionary, too, and by whichever server.
    write(&uri, &dialect);
    bench.kill("zram0", "pid");
    let stat = bench.stat("zram0");
    let mut codecs = stat["codecs"].as_array().unwrap().iter();
    let primary = codecs.find(|codec| codec["priorities"][0] == 0).unwrap();
    assert_eq!(primary["objects"], 2048, "{stat:#}");
    let uri = stat["path"].as_str().unwrap();
    assert!(contents(uri).unwrap() == dialect);
}

/// A process that a failed test leaves is killed.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// uzramd makes a device of a snapshot that its configuration names, and mounts what is in it. It must not format it.
#[test]
fn a_configured_device_is_restored_and_mounted() {
    needs!(&["mkfs.ext4", "mount"], fuse_loop);
    let files = Files::new();
    let source = env!("CARGO_MANIFEST_DIR");
    let (_, file) = files.file_system(source);
    let at = files.text("at");
    let config = files.write(
        "uzram.toml",
        format!(
            "[[device]]\nname = \"zram4\"\nfrom = \"{file}\"\nfrontend = \"fuse-loop\"\nmem-limit = \"1G\"\n\
             mount-point = \"{at}\"\n\
             [[device]]\nname = \"zram5\"\nfrom = \"{file}.missing\"\nfrontend = \"nbd\"\n"
        )
        .as_bytes(),
    );
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_uzramd"));
    daemon
        .args(["--config", &config])
        .env("UZRAM_RUN_DIR", files.bench.run_dir());
    let log = fs::File::create(files.path("daemon.log")).unwrap();
    daemon
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let mut daemon = Killed(daemon.spawn().unwrap());
    let begin = Instant::now();
    while !mountinfo().contains(&at) && begin.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = || fs::read_to_string(files.path("daemon.log")).unwrap();
    assert!(mountinfo().contains(&at), "{}", log());
    sh(&format!("diff -r {source}/src {at} -x lost+found"));
    assert!(log().contains("ext4.missing: No such file"), "{}", log());
    // By the API as well, with the path of the command's own directory.
    let words = files
        .bench
        .command(&["restore", "ext4", "--frontend", "nbd"])
        .current_dir(files.path(""))
        .output();
    let words = words.unwrap();
    assert!(words.status.success(), "{words:?}");
    let piped = files.piped(&["restore", "-", "--frontend", "nbd"], &files.read("whole"));
    assert!(piped.status.success(), "{piped:?}");
    sh(&format!("umount {at}; kill {}", daemon.0.id()));
    daemon.0.wait().unwrap();
    files.bench.uzram(&["remove", "--all"]);
}
