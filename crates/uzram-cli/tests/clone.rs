//! `uzram create --from FILE --lazy` and `uzram hydrate`: a device that is there at once, reads as its snapshot, and keeps what
//! was written, whoever dies and whatever is away.
//!
//! One test takes long, and is run by hand: `cargo test -p uzram-cli --test clone -- --ignored --nocapture`.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, needs, sh, text};

const SIZE: usize = 16 << 20;

/// Text, noise and holes: 4096 pages in 64 frames.
fn disk() -> Vec<u8> {
    let mut bytes = text(SIZE / 4096);
    for (number, page) in bytes.chunks_mut(4096).enumerate() {
        match number % 16 {
            3 => page.copy_from_slice(&uzram_testkit::data::noise(number as u64)),
            4 | 5 => page.fill(0),
            6 => page.fill(0x5A),
            _ => {}
        }
    }
    bytes
}

/// A snapshot in a file, and what it holds.
struct Cloned {
    bench: Bench,
    disk: Vec<u8>,
}

impl Cloned {
    fn new() -> Cloned {
        let (bench, disk) = (Bench::new(), disk());
        let this = Cloned { bench, disk };
        fs::write(this.path("disk"), &this.disk).unwrap();
        this.snapshot_of("disk", "snapshot");
        this
    }

    /// Takes a snapshot of a device that holds a file's bytes.
    fn snapshot_of(&self, from: &str, to: &str) {
        let size = fs::metadata(self.path(from)).unwrap().len().to_string();
        let uri = self
            .bench
            .create(&["--size", &size, "--frontend=nbd", "--policy=none"]);
        let (from, to) = (self.text(from), self.text(to));
        sh(&format!("qemu-img convert -n -f raw -O raw {from} '{uri}'"));
        self.bench.uzram(&["snapshot", "zram0", &to]);
        self.bench.uzram(&["remove", "zram0"]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.path(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().into()
    }

    /// A clone by way of NBD, with more options.
    fn clone(&self, args: &[&str]) -> String {
        let file = self.text("snapshot");
        let own = ["--from", &file, "--lazy", "--frontend=nbd", "--policy=none"];
        self.bench.create(&[&own[..], args].concat())
    }

    fn remote(&self) -> u64 {
        self.bench.stat("zram0")["remote_pages"].as_u64().unwrap()
    }

    /// Refuses to make a device, in words, and leaves nothing.
    fn refuses(&self, code: i32, args: &[&str], said: &str) {
        let words = self
            .bench
            .fails(code, &[&["create", "--private"], args].concat());
        assert!(words.contains(said), "{args:?}: {words}");
        self.bench.assert_clean();
    }

    /// Ends it.
    fn end(self) {
        self.bench.uzram(&["remove", "--all"]);
        self.bench.assert_clean();
    }
}

/// Runs commands of `qemu-io` on a device.
fn io(uri: &str, commands: &[&str]) -> Output {
    let mut io = Command::new("qemu-io");
    io.args(["-f", "raw", "-t", "none"]);
    commands.iter().for_each(|command| {
        io.args(["-c", command]);
    });
    io.arg(uri).output().unwrap()
}

#[track_caller]
fn good(output: &Output) {
    let words = String::from_utf8_lossy(&output.stdout);
    let is_good = output.status.success() && !words.contains("failed") && !words.contains("rror");
    assert!(
        is_good,
        "{words} {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[track_caller]
fn bad(output: &Output) {
    let words = String::from_utf8_lossy(&output.stdout);
    let words = format!("{words}{}", String::from_utf8_lossy(&output.stderr));
    assert!(words.contains("Input/output error"), "{words}");
}

fn contents(uri: &str) -> Option<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut copy = Command::new("nbdcopy");
    let copied = copy
        .args(["--", uri])
        .arg(file.path())
        .stderr(Stdio::null());
    let copied = copied.status().unwrap();
    copied.success().then(|| fs::read(file.path()).unwrap())
}

const PEERS: [&str; 3] = ["qemu-img", "qemu-io", "nbdcopy"];

#[test]
fn a_clone_fetches_what_is_read_and_keeps_what_is_written() {
    needs!(&PEERS);
    let cloned = Cloned::new();
    let uri = cloned.clone(&[]);
    // Its first frame, which a server begins with.
    assert_eq!(cloned.remote(), 4096 - 64);
    good(&io(
        &uri,
        &["read 5M 4k", "write -P 7 6M 64k", "discard 7M 64k"],
    ));
    assert_eq!(cloned.remote(), 4096 - 128 - 32);
    good(&io(&uri, &["write -P 9 8M 512", "read -P 9 8M 512"]));
    let stat = cloned.bench.stat("zram0");
    assert_eq!(stat["fetched_pages"], 3 * 64);
    assert_eq!(stat["clone_of"], cloned.text("snapshot"));
    let words = cloned.bench.uzram(&["stat", "zram0"]);
    assert!(words.contains("remote"), "{words}");
    // Not of what is not all here.
    let part = cloned.text("part");
    let refused = cloned.bench.fails(3, &["snapshot", "zram0", &part]);
    assert!(refused.contains("uzram hydrate"), "{refused}");
    let mut expected = cloned.disk.clone();
    expected[6 << 20..][..64 << 10].fill(7);
    expected[7 << 20..][..64 << 10].fill(0);
    expected[8 << 20..][..512].fill(9);
    // Killed and replaced, with what was written, and the rest where it was.
    cloned.bench.kill("zram0", "pid");
    assert_eq!(cloned.remote(), 4096 - 192 - 32);
    cloned.bench.uzram(&["upgrade", "zram0"]);
    assert_eq!(cloned.remote(), 4096 - 192 - 32);
    let said = cloned.bench.uzram(&["hydrate", "zram0"]);
    assert!(said.contains("all of it is here"), "{said}");
    assert_eq!(cloned.remote(), 0);
    fs::remove_file(cloned.path("snapshot")).unwrap();
    assert!(contents(&uri).unwrap() == expected);
    cloned.bench.kill("zram0", "pid");
    assert!(contents(&uri).unwrap() == expected);
    cloned.bench.uzram(&["snapshot", "zram0", &part]);
    cloned.end();
}

#[test]
fn a_source_that_is_away_fails_what_needs_it_and_nothing_else() {
    needs!(&PEERS);
    let cloned = Cloned::new();
    let uri = cloned.clone(&["--remote-timeout", "1"]);
    good(&io(&uri, &["read 5M 4k"]));
    fs::rename(cloned.path("snapshot"), cloned.path("away")).unwrap();
    // Who serves it has the file open, and the next one cannot open it.
    cloned.bench.kill("zram0", "pid");
    let begin = Instant::now();
    bad(&io(&uri, &["read 9M 4k"]));
    assert!(begin.elapsed() >= Duration::from_secs(1));
    good(&io(
        &uri,
        &[
            "read 0 64k",
            "read 5M 4k",
            "write -P 3 9M 4k",
            "read -P 3 9M 4k",
        ],
    ));
    bad(&io(&uri, &["write -P 3 10M 512"]));
    let failed = cloned.bench.fails(1, &["hydrate", "zram0"]);
    assert!(failed.contains("does not come"), "{failed}");
    // Another snapshot is not believed.
    let mut other = cloned.disk.clone();
    other[4096] ^= 1;
    fs::write(cloned.path("other"), &other).unwrap();
    let size = SIZE.to_string();
    let args = [
        "--size",
        &size,
        "--frontend=nbd",
        "--policy=none",
        "--name=zram1",
    ];
    let another = cloned.bench.create(&args);
    let image = cloned.text("other");
    sh(&format!(
        "qemu-img convert -n -f raw -O raw {image} '{another}'"
    ));
    let place = cloned.text("snapshot");
    cloned.bench.uzram(&["snapshot", "zram1", &place]);
    bad(&io(&uri, &["read 10M 4k"]));
    // Cut off, and then back.
    let whole = fs::read(cloned.path("away")).unwrap();
    fs::write(&place, &whole[..whole.len() / 2]).unwrap();
    bad(&io(&uri, &["read 10M 4k"]));
    fs::write(&place, &whole).unwrap();
    let mut expected = cloned.disk.clone();
    expected[9 << 20..][..4096].fill(3);
    assert!(contents(&uri).unwrap() == expected);
    cloned.end();
}

/// A byte of the file flipped where it is: no wrong byte is read, and the rest is.
#[test]
fn damage_in_the_file_is_an_error_where_it_is() {
    needs!(&PEERS);
    let cloned = Cloned::new();
    let uri = cloned.clone(&["--remote-timeout", "2"]);
    let file = cloned.path("snapshot");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    // In place: the server has it open.
    use std::os::unix::fs::FileExt;
    let open = fs::File::options().write(true).open(&file).unwrap();
    open.write_all_at(&bytes[middle..=middle], middle as u64)
        .unwrap();
    let mut failed = 0;
    for frame in 0..64usize {
        let at = frame * (256 << 10);
        let page = cloned.path("page");
        let (_, socket) = uri.split_once("socket=").unwrap();
        let read = Command::new("qemu-img")
            .args(["convert", "-O", "raw", "--image-opts"])
            .arg(format!(
                "driver=raw,offset={at},size=262144,file.driver=nbd,file.path={socket},file.export=zram0"
            ))
            .arg(&page)
            .output()
            .unwrap();
        match read.status.success() {
            true => assert!(fs::read(&page).unwrap() == cloned.disk[at..][..256 << 10]),
            false => failed += 1,
        }
    }
    assert_eq!(failed, 1);
    bytes[middle] ^= 0x40;
    open.write_all_at(&bytes[middle..=middle], middle as u64)
        .unwrap();
    assert!(contents(&uri).unwrap() == cloned.disk);
    cloned.end();
}

#[test]
fn what_cannot_be_a_clone_is_refused() {
    needs!(&PEERS);
    let cloned = Cloned::new();
    let file = cloned.text("snapshot");
    let lazy = ["--from", &file, "--lazy"];
    cloned.refuses(2, &["--lazy", "--size=1M"], "--from");
    cloned.refuses(2, &["--from", &file, "--remote-timeout", "5"], "--lazy");
    cloned.refuses(
        2,
        &[&lazy[..], &["--remote-timeout=0"]].concat(),
        "1..=86400",
    );
    cloned.refuses(2, &[&lazy[..], &["--swap"]].concat(), "swap");
    cloned.refuses(
        2,
        &[&lazy[..], &["--frontend=ublk"]].concat(),
        "ublk cannot serve a clone",
    );
    cloned.refuses(
        2,
        &["--from", "-", "--lazy", "--frontend=nbd"],
        "from a pipe",
    );
    cloned.refuses(
        2,
        &[&lazy[..], &["--frontend=nbd", "--size=1M"]].concat(),
        "too little",
    );
    cloned.end();
}

/// A server that dies again and again while a client reads everything.
#[test]
fn kills_during_fetches_lose_nothing() {
    needs!(&PEERS);
    let cloned = Cloned::new();
    let mut expected = cloned.disk.clone();
    let uri = cloned.clone(&[]);
    let mut partly = 0;
    for round in 0..12u64 {
        let mut reader = Command::new("nbdcopy");
        let reader = reader.args(["--", &uri, "null:"]).stderr(Stdio::null());
        let mut reader = reader.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round * 3));
        let at = (round as usize * 300 + 7) << 12;
        good(&io(&uri, &[&format!("write -P {} {at} 4k", round + 1)]));
        expected[at..][..4096].fill(round as u8 + 1);
        cloned.bench.kill("zram0", "pid");
        let _ = reader.wait();
        let left = cloned.remote();
        partly += u64::from((1..3800).contains(&left));
    }
    println!("killed in the middle: {partly} of 12 times");
    assert!(contents(&uri).unwrap() == expected);
    cloned.end();
}

#[test]
fn a_file_system_is_mounted_lazily() {
    let needs = ["mkfs.ext4", "e2fsck", "mount", "qemu-img", "cmp"];
    needs!(&needs, fuse_loop);
    let cloned = Cloned::new();
    let (image, source) = (cloned.text("image"), env!("CARGO_MANIFEST_DIR"));
    sh(&format!(
        "truncate -s 64M {image} && mkfs.ext4 -q -b 4096 -d {source}/src {image} && dd if=/dev/urandom of={image}.r bs=1M \
         count=8 2>/dev/null && debugfs -w -R 'write {image}.r big' {image} 2>/dev/null"
    ));
    cloned.snapshot_of("image", "ext4");
    let file = cloned.text("ext4");
    let args = [
        "--from",
        &file,
        "--lazy",
        "--frontend=fuse-loop",
        "--policy=none",
    ];
    let path = cloned.bench.create(&args);
    let at = cloned.text("at");
    sh(&format!(
        "mkdir {at}; mount {path} {at}; cmp {at}/main.rs {source}/src/main.rs"
    ));
    let part = cloned.remote();
    assert!(part > 8 << 8, "{part}: the big one was not read");
    sh(&format!(
        "diff -r {source}/src {at} -x lost+found -x big; cmp {at}/big {image}.r; cp {at}/big {at}/copy; echo more > {at}/more; \
         umount {at}; e2fsck -fn {path}"
    ));
    cloned.bench.uzram(&["hydrate", "zram0"]);
    sh(&format!(
        "mount {path} {at}; cmp {at}/copy {image}.r; cat {at}/more; umount {at}"
    ));
    cloned.end();
}

/// fio verifies what it writes to a clone that is read beside it.
#[test]
#[ignore = "takes a minute"]
fn fio_finds_nothing_wrong_on_a_clone() {
    needs!(&["fio", "qemu-img", "cmp"], fuse_loop);
    let cloned = Cloned::new();
    let image = cloned.text("big");
    sh(&format!(
        "dd if=/dev/urandom of={image} bs=1M count=256 2>/dev/null"
    ));
    cloned.snapshot_of("big", "big.uzsnap");
    let file = cloned.text("big.uzsnap");
    for round in 0..5 {
        let args = [
            "--from",
            &file,
            "--lazy",
            "--frontend=fuse-loop",
            "--policy=none",
        ];
        let path = cloned.bench.create(&args);
        let reader = format!("cmp -n 134217728 {path} {image}");
        let reader = std::thread::spawn(move || sh(&reader));
        sh(&format!(
            "fio --name=v --filename={path} --offset=128M --size=128M --rw=randwrite --bsrange=512-64k --bs_unaligned=0 \
             --blockalign=4096 --iodepth=16 --ioengine=libaio --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 \
             --io_size=64M --randseed={round} --output-format=terse >/dev/null"
        ));
        reader.join().unwrap();
        cloned.bench.uzram(&["remove", "zram0"]);
    }
    cloned.end();
}
