//! Sealed snapshots by way of the real program: from a device to a file, a pipe or a remote, and to another device for who has
//! the key. Nobody else gets a byte, and the key is nowhere that it was not put.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Bench, needs, text};

/// Runs the program with remotes of its own.
fn run(bench: &Bench, args: &[&str]) -> Output {
    let mut command = bench.command(args);
    command.env("UZRAM_REMOTES", bench.path("remotes"));
    command.output().unwrap()
}

fn works(bench: &Bench, args: &[&str]) -> String {
    let output = run(bench, args);
    assert!(output.status.success(), "uzram {args:?}: {output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

fn fails(bench: &Bench, code: i32, args: &[&str]) -> String {
    let output = run(bench, args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A device with data, a key, the key of somebody else, and what must never be seen of the key.
struct Sealed {
    bench: Bench,
    uri: String,
    data: PathBuf,
    key: String,
    other: String,
    recipient: String,
    secret: String,
}

fn identity(bench: &Bench, name: &str) -> (String, String, String) {
    use age::secrecy::ExposeSecret;
    let identity = age::x25519::Identity::generate();
    let secret = identity.to_string().expose_secret().to_owned();
    let path = bench.path(name);
    std::fs::write(&path, format!("{secret}\n")).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (path, identity.to_public().to_string(), secret)
}

impl Sealed {
    fn new() -> Sealed {
        let bench = Bench::new();
        let uri = bench.create(&["--size=16M", "--frontend=nbd", "--policy=none"]);
        let (key, recipient, secret) = identity(&bench, "key");
        let other = identity(&bench, "other").0;
        let sealed = Sealed {
            data: bench.path("data"),
            bench,
            uri,
            key,
            other,
            recipient,
            secret,
        };
        sealed.fill(&text(3000));
        sealed
    }

    fn fill(&self, bytes: &[u8]) {
        std::fs::write(&self.data, bytes).unwrap();
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-n", "-f", "raw", "-O", "raw"]);
        let done = command.arg(&self.data).arg(&self.uri).status();
        assert!(done.unwrap().success());
    }

    fn is_same(&self, other: &str) {
        let mut command = Command::new("qemu-img");
        command.args(["compare", "-f", "raw", "-F", "raw", &self.uri, other]);
        assert!(command.status().unwrap().success(), "{other}");
    }

    fn path(&self, name: &str) -> String {
        self.bench.path(name).to_str().unwrap().to_owned()
    }

    /// As many devices as there are.
    fn devices(&self) -> usize {
        works(&self.bench, &["list", "--noheadings"])
            .lines()
            .count()
    }
}

const NBD: &str = "--frontend=nbd";

#[test]
fn a_sealed_file_makes_devices_for_who_has_its_key() {
    needs!(&["qemu-img"]);
    let sealed = Sealed::new();
    let (bench, key, other) = (&sealed.bench, &*sealed.key, &*sealed.other);
    let file = &*sealed.path("one");
    works(
        bench,
        &[
            "snapshot",
            "zram0",
            file,
            "--seal",
            &sealed.recipient,
            "--track",
        ],
    );
    let bytes = std::fs::read(file).unwrap();
    assert!(bytes.starts_with(b"uzramSN\0\x02"));

    // Nobody else: no byte, no device.
    let before = sealed.devices();
    for args in [
        &["restore", file, NBD][..],
        &["create", "--from", file, "--lazy", NBD],
        &["snapshot", "show", file],
        &["snapshot", "verify", file],
    ] {
        let words = fails(bench, 2, args);
        assert!(
            words.contains("is sealed") && words.contains("--identity"),
            "{words}"
        );
        let words = fails(bench, 2, &[args, &["--identity", other]].concat());
        assert!(words.contains("no key that was given"), "{words}");
    }
    // A process of the device would wait for whoever writes to it.
    let pipe = sealed.path("pipe");
    common::sh(&format!("mkfifo {pipe}"));
    for args in [
        &["restore", file, NBD][..],
        &["create", "--from", file, "--lazy", NBD],
    ] {
        let words = fails(bench, 2, &[args, &["--identity", &pipe]].concat());
        assert!(words.contains("no regular file"), "{words}");
    }
    assert_eq!(sealed.devices(), before);

    works(bench, &["snapshot", "verify", file, "--identity", key]);
    let shown = works(bench, &["snapshot", "show", file, "--identity", key]);
    assert!(shown.contains("zram0"), "{shown}");
    sealed.is_same(&works(bench, &["restore", file, NBD, "--identity", key]));

    // Since a sealed one.
    let mut newer = text(3000);
    newer[40_000..90_000].fill(9);
    sealed.fill(&newer);
    let next = &*sealed.path("next");
    let take = [
        "snapshot",
        "zram0",
        next,
        "--since",
        file,
        "--identity",
        key,
    ];
    let words = fails(bench, 2, &take);
    assert!(words.contains("--seal says for whom"), "{words}");
    let to = ["--seal-file", &*sealed.path("recipients")];
    std::fs::write(to[1], format!("# us\n{}\n", sealed.recipient)).unwrap();
    works(bench, &[&take[..], &to].concat());
    let restore = ["restore", next, "--parent", file, NBD, "--identity", key];
    sealed.is_same(&works(bench, &restore));

    // One whose last bytes are gone, and one in which some are others.
    for (what, bytes) in [
        ("cut", bytes[..bytes.len() - 20].to_vec()),
        ("damaged", {
            let mut bytes = bytes.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        }),
    ] {
        let path = &*sealed.path(what);
        std::fs::write(path, bytes).unwrap();
        let before = sealed.devices();
        let words = fails(bench, 1, &["restore", path, NBD, "--identity", key]);
        assert!(words.contains("seal is broken"), "{what}: {words}");
        assert_eq!(sealed.devices(), before);
        fails(bench, 1, &["snapshot", "verify", path, "--identity", key]);
    }
    // What nobody sealed is not believed where a key was given.
    let plain = &*sealed.path("plain");
    works(bench, &["snapshot", "zram0", plain]);
    let words = fails(bench, 2, &["restore", plain, NBD, "--identity", key]);
    assert!(words.contains("is not sealed"), "{words}");
    let words = fails(bench, 2, &["snapshot", "zram0", plain, "--identity", key]);
    assert!(words.contains("--since"), "{words}");
    let basis = [
        "snapshot",
        "zram0",
        &sealed.path("b"),
        "--basis",
        "--seal",
        &sealed.recipient,
    ];
    assert!(fails(bench, 2, &basis).contains("basis"));
}

#[test]
fn a_sealed_pipe_and_a_passphrase() {
    needs!(&["qemu-img"]);
    let sealed = Sealed::new();
    let bench = &sealed.bench;
    let passphrase = &*sealed.path("passphrase");
    std::fs::write(passphrase, "words that nobody guesses\n").unwrap();
    let by = ["--seal-passphrase-file", passphrase];
    let taken = run(bench, &[&["snapshot", "zram0", "-"][..], &by].concat());
    assert!(taken.status.success(), "{taken:?}");
    let file = sealed.path("piped");
    std::fs::write(&file, &taken.stdout).unwrap();
    let restore = |by: &[&str]| {
        let mut command = bench.command(&[&["restore", "-", NBD][..], by].concat());
        command.stdin(Stdio::from(std::fs::File::open(&file).unwrap()));
        command.output().unwrap()
    };
    let restored = restore(&by);
    assert!(restored.status.success(), "{restored:?}");
    let uri = String::from_utf8(restored.stdout).unwrap();
    sealed.is_same(uri.trim_end());
    sealed.is_same(&works(bench, &[&["restore", &file, NBD][..], &by].concat()));
    let before = sealed.devices();
    let wrong = &*sealed.path("wrong");
    std::fs::write(wrong, "other words\n").unwrap();
    let refused = restore(&["--seal-passphrase-file", wrong]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("another passphrase"),
        "{words}"
    );
    let words = fails(
        bench,
        2,
        &["restore", &file, NBD, "--seal-passphrase-file", wrong],
    );
    assert!(words.contains("another passphrase"), "{words}");
    assert_eq!(sealed.devices(), before);
}

/// The processes of this test's devices and their readers.
fn processes(bench: &Bench) -> Vec<u32> {
    let place = bench.path("");
    let place = place
        .to_str()
        .unwrap()
        .trim_end_matches('/')
        .as_bytes()
        .to_vec();
    let is_ours = |pid: &u32| {
        let read = |what| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let all = [read("cmdline"), read("environ")].concat();
        all.windows(place.len()).any(|some| some == place)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(is_ours)
        .collect()
}

/// Whether a file below a folder has these bytes.
fn is_below(folder: &Path, secret: &[u8]) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            if let Some(found) = is_below(&path, secret) {
                return Some(found);
            }
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(secret.len()).any(|some| some == secret) {
                return Some(path);
            }
        }
    }
    None
}

#[test]
fn a_sealed_tag_is_cloned_over_a_kill_and_its_key_is_nowhere() {
    needs!(&["qemu-img", "qemu-io"]);
    let sealed = Sealed::new();
    let (bench, key) = (&sealed.bench, &*sealed.key);
    let store = bench.path("store");
    std::fs::create_dir(&store).unwrap();
    works(
        bench,
        &["remote", "add", "ci", &format!("file:{}", store.display())],
    );
    let seal = ["--seal", &*sealed.recipient];
    works(
        bench,
        &[&["snapshot", "zram0", "ci/one", "--track"][..], &seal].concat(),
    );
    let mut newer = text(3000);
    newer[..9000].fill(7);
    sealed.fill(&newer);
    // Of its family, for the same.
    let since = [
        "snapshot",
        "zram0",
        "ci/two",
        "--since",
        "ci/one",
        "--identity",
    ];
    works(bench, &[&since[..], &[key]].concat());
    let third = [
        "snapshot",
        "zram0",
        "ci/three",
        "--since",
        "ci/two",
        "--identity",
    ];
    let words = fails(bench, 2, &[&third[..], &[&*sealed.other]].concat());
    assert!(words.contains("no key that was given"), "{words}");
    let shown = works(bench, &["remote", "show", "ci"]);
    assert!(
        shown.contains("(sealed)") && !shown.contains("zram0"),
        "{shown}"
    );
    for args in [
        &["remote", "check", "ci"][..],
        &["remote", "check", "ci", "--read"],
        &["snapshot", "verify", "ci/two", "--identity", key],
        &["remote", "remove", "ci/one"],
        &["remote", "collect", "ci", "--grace=0"],
    ] {
        works(bench, args);
    }
    sealed.is_same(&works(
        bench,
        &["restore", "ci/two", NBD, "--identity", key],
    ));

    let clone = [
        "create",
        "--private",
        "--from=ci/two",
        "--lazy",
        NBD,
        "--identity",
        key,
    ];
    // Where cores are asked for, too.
    let asked = bench.command(&clone);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -c \"$(ulimit -Hc)\"; exec \"$0\" \"$@\""]);
    command.arg(asked.get_program()).args(asked.get_args());
    for (name, value) in asked.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let output = command.env("UZRAM_REMOTES", bench.path("remotes")).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let clone = String::from_utf8(output.stdout).unwrap();
    let clone = clone.trim_end().to_owned();
    // While the reader lives, which has the key.
    let all = processes(bench);
    assert!(all.len() >= 3, "{all:?}");
    let mut readers = 0;
    for pid in all {
        let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let secret = sealed.secret.as_bytes();
        for what in ["cmdline", "environ"] {
            let is_there = read(what).windows(secret.len()).any(|some| some == secret);
            assert!(!is_there, "{what} of {pid}");
        }
        if read("cmdline")
            .windows(11)
            .any(|some| some == b"read-remote")
        {
            readers += 1;
            let limits = String::from_utf8(read("limits")).unwrap();
            let core = limits
                .lines()
                .find(|line| line.starts_with("Max core"))
                .unwrap();
            assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        }
    }
    assert_eq!(readers, 1);
    let stat = || -> serde_json::Value {
        serde_json::from_str(&works(bench, &["stat", "--json", "zram2"])).unwrap()
    };
    assert!(stat()["remote_pages"].as_u64().unwrap() > 2000);
    // The server dies; another one starts a reader of its own, which finds the key where it was.
    bench.kill("zram2", "pid");
    sealed.is_same(&clone);
    works(bench, &["hydrate", "zram2"]);
    assert_eq!(stat()["remote_pages"], 0);
    sealed.is_same(&clone);

    let run_dir = bench.path("");
    std::fs::remove_file(key).unwrap();
    let found = is_below(&run_dir, sealed.secret.as_bytes());
    assert_eq!(found, None, "the key");
    // What the pages hold is in no object of the store.
    let page = &text(3000)[1_000_000..1_000_032];
    assert_eq!(is_below(&store, page), None);
}

#[test]
fn a_file_that_breaks_under_a_sealed_clone_gives_errors_and_no_wrong_byte() {
    needs!(&["qemu-img", "qemu-io"]);
    let sealed = Sealed::new();
    let (bench, key) = (&sealed.bench, &*sealed.key);
    let file = &*sealed.path("one");
    works(
        bench,
        &["snapshot", "zram0", file, "--seal", &sealed.recipient],
    );
    let clone = [
        "create",
        "--private",
        "--from",
        file,
        "--lazy",
        NBD,
        "--identity",
        key,
    ];
    let clone = works(bench, &[&clone[..], &["--remote-timeout=3"]].concat());
    let whole = std::fs::read(file).unwrap();
    let mut broken = whole.clone();
    let end = whole.len() - 200_000;
    (100_000..end).step_by(5000).for_each(|at| broken[at] ^= 4);
    // In place, as a disk would: the reader has it open.
    write_over(file, &broken);
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw", "-t", "none", "-c", "read 4M 64k", &clone]);
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        !output.status.success() || words.contains("rror") || words.contains("failed"),
        "{words}"
    );
    write_over(file, &whole);
    sealed.is_same(&clone);
}

fn write_over(path: &str, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

/// Data that does not compress, so that it is written to a backing as it is.
fn noise(bytes: usize) -> Vec<u8> {
    uzram_testkit::Random::new(7).bytes(bytes)
}

#[test]
fn a_sealed_backing_shows_nothing_and_outlives_its_server() {
    needs!(&["qemu-img"]);
    let sealed = Sealed::new();
    let bench = &sealed.bench;
    let data = noise(4 << 20);
    std::fs::write(&sealed.data, &data).unwrap();
    let holds = |uri: &str| {
        let same = format!(
            "qemu-img compare -f raw -F raw {} '{uri}'",
            sealed.data.display()
        );
        common::sh(&same);
    };
    // Without a seal it is there to be read.
    for (name, is_sealed) in [("plain", false), ("secret", true)] {
        let file = sealed.path(name);
        let seal = if is_sealed { ",seal" } else { "" };
        let backing = format!("--backing={file},16M{seal}");
        let uri = bench.create(&["--size=4M", NBD, "--policy=none", &backing]);
        common::sh(&format!(
            "qemu-img convert -n -f raw -O raw {} '{uri}'",
            sealed.data.display()
        ));
        bench.uzram(&["writeback", "zram1"]);
        let stat = bench.stat("zram1");
        assert_eq!(stat["backed_pages"], 1024, "{stat}");
        let io = stat["backing"]["io"].as_str().unwrap().to_owned();
        assert_eq!(io.contains("sealed"), is_sealed, "{io}");
        let written = std::fs::read(&file).unwrap();
        let page = &data[1 << 20..][..64];
        let shows = written.windows(64).any(|bytes| bytes == page);
        assert_eq!(shows, !is_sealed, "{name}");
        bench.kill("zram1", "pid");
        holds(&uri);
        let io = bench.stat("zram1")["backing"]["io"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(io.contains("sealed"), is_sealed, "{io}");
        // It comes back, and the file of another time is taken again.
        bench.uzram(&["set", "zram1", "backing=none"]);
        bench.uzram(&["set", "zram1", &format!("backing={file},8M,seal")]);
        bench.uzram(&["writeback", "zram1"]);
        assert!(
            bench.stat("zram1")["backing"]["io"]
                .as_str()
                .unwrap()
                .contains("sealed")
        );
        holds(&uri);
        bench.uzram(&["remove", "zram1"]);
    }
    for (backing, why) in [
        ("/b,seal=age1x", "seal takes no value"),
        ("/b,1M,1M", "stands there twice"),
    ] {
        let said = bench.fails(2, &["create", NBD, &format!("--backing={backing}")]);
        assert!(said.contains(why), "{said}");
    }
    bench.uzram(&["remove", "zram0"]);
}
