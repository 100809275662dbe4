//! `uzram snapshot NAME FILE`: the file has what the device holds, is whole or is not there, and what cannot be is refused in
//! words.
//!
//! Two tests take long, and are run by hand:
//! `cargo test -p uzram-cli --test snapshot_take -- --ignored --nocapture`. `UZRAM_SNAPSHOTS=200` sets how many snapshots
//! are taken beside fio.

mod common;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, needs, sh, text};
use serde_json::Value;
use uzram::compress::{Decoder, Registry, Settings};
use uzram_snapshot::{Page, SnapshotReader};

const PAGE: usize = 4096;

/// A device of 16 MiB with 2048 pages of text, by way of NBD.
fn filled(bench: &Bench) -> Vec<u8> {
    let uri = bench.create(&["--size=16M", "--frontend=nbd", "--policy=none"]);
    let bytes = text(2048);
    let path = bench.path("text");
    std::fs::write(&path, &bytes).unwrap();
    let args = ["convert", "-n", "-f", "raw", "-O", "raw"];
    let done = Command::new("qemu-img")
        .args(args)
        .arg(&path)
        .arg(&uri)
        .status();
    assert!(done.unwrap().success());
    bytes
}

/// What a snapshot holds, page by page, decompressed as it says itself.
fn read(path: &Path) -> Vec<u8> {
    read_onto(path, Vec::new())
}

/// The same where the snapshot has only what changed of this.
fn read_onto(path: &Path, mut bytes: Vec<u8>) -> Vec<u8> {
    let reader = SnapshotReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let registry = Registry::builtin();
    let mut decoders: BTreeMap<u8, Box<dyn Decoder>> = BTreeMap::new();
    for codec in &reader.head().codecs {
        let algorithm = registry.find(&codec.driver).unwrap();
        let params = codec.params.split(',').filter(|param| !param.is_empty());
        let params = params.map(|param| param.split_once('=').unwrap());
        let mut settings = Settings::new(&**algorithm, PAGE, params).unwrap();
        if let Some(dictionary) = reader.dictionary(codec.number) {
            settings = settings
                .with_dictionary(&**algorithm, dictionary.into())
                .unwrap();
        }
        let prepared = algorithm.prepare(&settings).unwrap();
        decoders.insert(codec.number, prepared.decoder().unwrap());
    }
    bytes.resize(reader.head().pages as usize * PAGE, 0);
    let put = |number: u64, page: Page<'_>| {
        let out = &mut bytes[number as usize * PAGE..][..PAGE];
        match page {
            Page::Same(word) => out.as_chunks_mut::<8>().0.fill(word.to_le_bytes()),
            Page::Zero => out.fill(0),
            Page::Raw(raw) => out.copy_from_slice(raw),
            Page::Object { codec, bytes } => {
                let decoder = decoders.get_mut(&codec).unwrap();
                assert_eq!(decoder.decompress(bytes, out), Ok(PAGE));
            }
            _ => {}
        }
        Ok(())
    };
    reader.restore(put).unwrap();
    bytes
}

fn files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Waits for what is to be so in a moment.
fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A snapshot into a pipe that nobody reads: it is being taken until somebody ends it.
fn stalled(bench: &Bench) -> Child {
    let mut command = bench.command(&["snapshot", "zram0", "-"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    soon("it begins", || bench.stat("zram0")["snapshot"].is_object());
    child
}

fn stderr_of(mut child: Child) -> (Option<i32>, String) {
    let mut said = String::new();
    let code = child.wait().unwrap().code();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    (code, said)
}

#[test]
fn a_snapshot_has_what_the_device_holds() {
    needs!(&["qemu-img"]);
    let bench = Bench::new();
    let mut bytes = filled(&bench);
    bytes.resize(16 << 20, 0);
    let dir = bench.path("out");
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("zram0.snap");
    let file = path.to_str().unwrap();
    let said = bench.uzram(&["snapshot", "zram0", file]);
    assert!(said.contains(" of zram0 in 2048 pages; "), "{said}");
    assert!(read(&path) == bytes);
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let verified = bench.uzram(&["snapshot", "verify", file]);
    assert!(verified.contains(": good, "), "{verified}");

    // One that is there stays, unless it is to be replaced.
    std::fs::write(&path, b"mine").unwrap();
    let refused = bench.fails(2, &["snapshot", "zram0", file]);
    assert!(
        refused.contains("is there already: --force replaces it"),
        "{refused}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    let said = bench.uzram(&["snapshot", "zram0", file, "--force", "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["disk_bytes"], 16 << 20);
    assert_eq!(said["bytes"], path.metadata().unwrap().len());
    assert_eq!(
        said["object_pages"].as_u64().unwrap() + said["same_pages"].as_u64().unwrap(),
        2048
    );
    assert!(said["pause_microseconds"].is_u64());
    assert_eq!(said["name"].as_str().unwrap().len(), 64);
    assert!(read(&path) == bytes);

    // A pipe has the same.
    let output = bench.output(&["snapshot", "zram0", "-"]);
    assert!(output.status.success());
    let piped = dir.join("piped");
    std::fs::write(&piped, &output.stdout).unwrap();
    assert!(read(&piped) == bytes);
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains(" of zram0 in 2048 pages; "), "{words}");
    assert_eq!(
        files(&dir),
        ["piped", "zram0.snap"],
        "nothing is left beside"
    );
    bench.remove_last("zram0");
}

#[test]
fn changes_are_since_another_snapshot() {
    needs!(&["qemu-img", "qemu-io"]);
    let bench = Bench::new();
    let mut bytes = filled(&bench);
    bytes.resize(16 << 20, 0);
    let at = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    let (first, second, third) = (at("first"), at("second"), at("third"));
    bench.uzram(&["snapshot", "zram0", &first]);
    let said = bench.fails(2, &["snapshot", "zram0", &second, "--since", &first]);
    assert!(
        said.contains("Take a complete one that tracks them from then on"),
        "{said}"
    );
    bench.uzram(&["snapshot", "zram0", &first, "--force", "--track"]);
    let uri = bench.stat("zram0")["path"].as_str().unwrap().to_owned();
    let write = |page: usize, byte: u8| {
        let line = format!("write -P {byte} {} 4096", page * PAGE);
        let io = ["-f", "raw", "-c", &line, &uri];
        let done = Command::new("qemu-io")
            .args(io)
            .stdout(Stdio::null())
            .status();
        assert!(done.unwrap().success());
    };
    for page in [3, 700, 3000] {
        write(page, 7);
        bytes[page * PAGE..][..PAGE].fill(7);
    }
    // The server that goes on knows what changed before it.
    bench.kill("zram0", "pid");
    let said = bench.uzram(&["snapshot", "zram0", &second, "--since", &first, "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["parent"].as_str().unwrap().len(), 64);
    let size = |path: &str| std::fs::metadata(path).unwrap().len();
    assert!(
        size(&second) * 5 < size(&first),
        "{} of {}",
        size(&second),
        size(&first)
    );
    let now = read_onto(second.as_ref(), read(first.as_ref()));
    assert!(now == bytes);
    let name = said["name"].as_str().unwrap();
    let words = bench.uzram(&["stat", "zram0"]);
    let since = format!("changes      tracked since snapshot {}...", &name[..32]);
    assert!(words.contains(&since), "{words}");
    // Of a chain all files are named, and what the device knows is since the last.
    write(9, 8);
    bytes[9 * PAGE..][..PAGE].fill(8);
    let said = bench.fails(2, &["snapshot", "zram0", &third, "--since", &first]);
    assert!(
        said.contains("the device knows what changed since another snapshot"),
        "{said}"
    );
    bench.uzram(&[
        "snapshot", "zram0", &third, "--since", &second, "--parent", &first,
    ]);
    assert!(read_onto(third.as_ref(), now) == bytes);
    let said = bench.fails(
        2,
        &["snapshot", "zram0", &at("x"), "--since", "/etc/passwd"],
    );
    assert!(said.contains("it holds no uzram snapshot"), "{said}");
    let said = bench.fails(1, &["snapshot", "zram0", &at("x"), "--since", &at("y")]);
    assert!(said.contains("No such file or directory"), "{said}");
    bench.remove_last("zram0");
}

/// In two passes it is the same. (That one which is given up for memory is made of two by itself is tested in the runtime.)
#[test]
fn a_snapshot_with_a_basis_is_the_same() {
    needs!(&["qemu-img"]);
    let bench = Bench::new();
    let mut bytes = filled(&bench);
    bytes.resize(16 << 20, 0);
    let at = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    let file = at("basis");
    let taken = |more: &[&str]| -> Value {
        let args = [
            &["snapshot", "zram0", file.as_str(), "--json", "--force"],
            more,
        ]
        .concat();
        serde_json::from_str(&bench.uzram(&args)).unwrap()
    };
    // All that a restore of it makes, by another device.
    let restored = || {
        let uri = bench.uzram(&["restore", &file, "--frontend=nbd", "--name=zram5"]);
        let raw = bench.path("raw");
        let (uri, shown) = (uri.trim(), raw.display());
        sh(&format!("qemu-img convert -f raw -O raw '{uri}' {shown}"));
        bench.uzram(&["remove", "zram5"]);
        std::fs::read(raw).unwrap()
    };
    let said = taken(&["--basis"]);
    assert!(said["basis_bytes"].as_u64().unwrap() > 0, "{said}");
    assert_eq!(said["parent"], "");
    assert_eq!(said["bytes"], std::fs::metadata(&file).unwrap().len());
    assert!(
        bench
            .uzram(&["snapshot", "verify", &file])
            .contains(": good, ")
    );
    assert!(restored() == bytes);
    assert_eq!(taken(&[])["basis_bytes"], 0);

    // Only a new file can be read in between.
    let said = bench.output(&["snapshot", "zram0", "-", "--basis"]);
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("goes to a new file"), "{said}");
    bench.fails(
        2,
        &["snapshot", "zram0", &at("x"), "--basis", "--since", &file],
    );

    bench.remove_last("zram0");
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    needs!(&["qemu-img"]);
    let bench = Bench::new();
    filled(&bench);
    let dir = bench.path("out");
    std::fs::create_dir(&dir).unwrap();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let said = bench.fails(4, &["snapshot", "zram7", &at("x")]);
    assert!(said.contains("no device"), "{said}");
    bench.fails(2, &["snapshot", "zram0"]);
    bench.fails(2, &["snapshot", "zram0", dir.to_str().unwrap()]);
    let said = bench.fails(1, &["snapshot", "zram0", &at("no/x")]);
    assert!(said.contains("No such file or directory"), "{said}");
    let said = bench.fails(1, &["snapshot", "zram0", "/dev/full"]);
    assert!(said.contains("No space left on device"), "{said}");
    // A limit on files is the client's, and no file of it stays.
    let program = bench.command(&[]).get_program().to_owned();
    let run = bench.run_dir();
    let line = format!(
        "UZRAM_RUN_DIR={} {} snapshot zram0 - | head -c 1000 | wc -c",
        run.display(),
        program.display()
    );
    assert_eq!(sh(&line).trim(), "1000");
    soon("it ends", || bench.stat("zram0")["snapshot"].is_null());
    assert_eq!(files(&dir), [""; 0]);
    bench.uzram(&["snapshot", "zram0", &at("good")]);
    bench.remove_last("zram0");
}

#[test]
fn one_is_taken_at_a_time_and_ends_with_who_waits_for_it() {
    needs!(&["qemu-img"]);
    let bench = Bench::new();
    filled(&bench);
    let good = bench.path("good");
    let good = good.to_str().unwrap();
    let mut first = stalled(&bench);
    let said = bench.fails(3, &["snapshot", "zram0", good]);
    assert!(
        said.contains("a snapshot of the device is being taken"),
        "{said}"
    );
    bench.uzram(&["set", "zram0", "recomp_algorithm=deflate"]);
    let said = bench.fails(3, &["recompress", "zram0"]);
    assert!(
        said.contains("a snapshot of the device is being taken"),
        "{said}"
    );
    let said = bench.uzram(&["stat", "zram0"]);
    assert!(said.contains("snapshot     is being taken: "), "{said}");
    // A shell has its background processes ignore an interrupt, and so would this one.
    sh(&format!("kill {}", first.id()));
    assert!(!first.wait().unwrap().success());
    // The pipe is still open, and nobody waits for the snapshot.
    soon("it is cancelled", || {
        bench.stat("zram0")["snapshot"].is_null()
    });
    bench.uzram(&["snapshot", "zram0", good]);
    bench.remove_last("zram0");
}

#[test]
fn a_server_that_dies_leaves_no_file_and_nothing_else() {
    needs!(&["qemu-img"]);
    let bench = Bench::new();
    let mut bytes = filled(&bench);
    bytes.resize(16 << 20, 0);
    let first = stalled(&bench);
    bench.kill("zram0", "pid");
    let (code, said) = stderr_of(first);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the same command again"), "{said}");
    let good = bench.path("good");
    bench.uzram(&["snapshot", "zram0", good.to_str().unwrap()]);
    assert!(read(&good) == bytes);
    bench.remove_last("zram0");
}

/// fio writes and verifies while snapshots are taken, each of which verifies. Then a mounted file system under load: e2fsck
/// finds each of its snapshots as after a power cut.
#[test]
#[ignore = "takes minutes"]
fn fio_finds_nothing_wrong_beside_snapshots() {
    needs!(&["fio"], fuse_loop);
    let count = std::env::var("UZRAM_SNAPSHOTS").map_or(20, |n| n.parse().unwrap());
    let bench = Bench::new();
    let node = bench.create(&["--size=256M", "--frontend=fuse-loop", "--policy=none"]);
    let mut fio = Command::new("fio");
    fio.args([
        "--name=v",
        "--rw=randrw",
        "--bs=4k",
        "--size=192M",
        "--iodepth=16",
    ])
    .args([
        "--ioengine=libaio",
        "--direct=1",
        "--verify=crc32c",
        "--verify_fatal=1",
    ])
    .args([
        "--verify_backlog=2048",
        "--buffer_compress_percentage=50",
        "--time_based",
    ])
    .args(["--runtime=3600", "--rate_iops=6000"])
    .arg(format!("--filename={node}"))
    .stdout(Stdio::null());
    let mut fio = fio.spawn().unwrap();
    let path = bench.path("snap");
    let file = path.to_str().unwrap().to_owned();
    let mut pauses = Vec::new();
    for taken in 0..count {
        let said = bench.uzram(&["snapshot", "zram0", &file, "--force", "--json"]);
        let said: Value = serde_json::from_str(&said).unwrap();
        pauses.push(said["pause_microseconds"].as_u64().unwrap());
        bench.uzram(&["snapshot", "verify", &file]);
        let ended = fio.try_wait().unwrap();
        assert!(
            ended.is_none(),
            "fio ended beside snapshot {taken}: {ended:?}"
        );
    }
    sh(&format!("kill -INT {}", fio.id()));
    assert!(
        fio.wait()
            .unwrap()
            .code()
            .is_none_or(|code| code == 0 || code == 128)
    );
    pauses.sort_unstable();
    println!(
        "{count} snapshots beside fio: pauses of {} us in the middle, {} at most; {} failed reads, {} failed writes",
        pauses[pauses.len() / 2],
        pauses[pauses.len() - 1],
        bench.count("zram0", "failed_reads"),
        bench.count("zram0", "failed_writes")
    );
    bench.remove_last("zram0");
}

#[test]
#[ignore = "takes a minute"]
fn a_file_system_under_load_is_whole_in_each_snapshot() {
    needs!(&["mkfs.ext4", "e2fsck"], fuse_loop);
    let bench = Bench::new();
    let node = bench.create(&["--size=256M", "--frontend=fuse-loop", "--policy=none"]);
    let (at, path) = (bench.path("mnt"), bench.path("snap"));
    std::fs::create_dir(&at).unwrap();
    let (mount, file) = (at.to_str().unwrap(), path.to_str().unwrap());
    sh(&format!("mkfs.ext4 -q {node} && mount {node} {mount}"));
    let load = format!(
        "cd {mount}; n=0; while :; do n=$((n+1)); mkdir -p d$((n%7)); head -c $((n%50*1000+1)) /dev/urandom > d$((n%7))/f$((n%97)); \
         [ $((n%5)) = 0 ] && rm -f d$((n%3))/f$((n%89)); [ $((n%40)) = 0 ] && sync; done"
    );
    let mut load = Command::new("sh").args(["-c", &load]).spawn().unwrap();
    for taken in 0..10 {
        std::thread::sleep(Duration::from_millis(500));
        bench.uzram(&["snapshot", "zram0", file, "--force"]);
        let image = bench.path("image");
        std::fs::write(&image, read(&path)).unwrap();
        // The journal first, as a mount does; then nothing may be wrong.
        let image = image.display();
        let said = sh(&format!(
            "e2fsck -fy -E journal_only {image} >/dev/null 2>&1 || true; e2fsck -fn {image} 2>&1"
        ));
        println!(
            "snapshot {taken}: {}",
            said.lines().last().unwrap_or_default()
        );
    }
    load.kill().unwrap();
    load.wait().unwrap();
    sh(&format!("sleep 1; umount {mount}"));
    bench.remove_last("zram0");
}
