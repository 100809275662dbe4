//! `uzram remote`: snapshots in a directory by tags, from the device to another device and back to the same bytes.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Bench, needs, sh, text, wait_until};

/// Runs the program with remotes of its own.
fn run(bench: &Bench, args: &[&str]) -> Output {
    let mut command = bench.command(args);
    command.env("UZRAM_REMOTES", bench.path("remotes"));
    command.output().unwrap()
}

fn works(bench: &Bench, args: &[&str]) -> String {
    let output = run(bench, args);
    assert!(output.status.success(), "uzram {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(bench: &Bench, code: i32, args: &[&str]) -> String {
    let output = run(bench, args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn fill(uri: &str, path: &Path) {
    let args = ["convert", "-n", "-f", "raw", "-O", "raw"];
    let done = Command::new("qemu-img")
        .args(args)
        .arg(path)
        .arg(uri)
        .status();
    assert!(done.unwrap().success());
}

fn is_same(one: &str, other: &str) -> bool {
    let args = ["compare", "-f", "raw", "-F", "raw", one, other];
    Command::new("qemu-img")
        .args(args)
        .status()
        .unwrap()
        .success()
}

#[test]
fn a_device_goes_by_way_of_a_remote() {
    needs!(&["qemu-img"]);
    let bench = Bench::new();
    let store = bench.path("store");
    std::fs::create_dir(&store).unwrap();
    let url = format!("file:{}", store.display());
    works(&bench, &["remote", "add", "ci", &url]);
    let twice = fails(&bench, 2, &["remote", "add", "ci", &url]);
    assert!(twice.contains("already"), "{twice}");

    let uri = bench.create(&["--size=16M", "--frontend=nbd", "--policy=none"]);
    let data = bench.path("data");
    std::fs::write(&data, text(2048)).unwrap();
    fill(&uri, &data);
    works(&bench, &["snapshot", "zram0", "ci/one", "--track"]);
    fails(&bench, 2, &["snapshot", "zram0", "ci/one"]);

    // An upload that fails in the end does not count: the next one is since the one before.
    let mut newer = text(2048);
    newer[..9000].fill(7);
    std::fs::write(&data, &newer).unwrap();
    fill(&uri, &data);
    let lost = store.join("idx");
    std::fs::rename(&lost, store.join("idx-gone")).unwrap();
    std::fs::write(&lost, "no directory").unwrap();
    fails(
        &bench,
        1,
        &["snapshot", "zram0", "ci/two", "--since=ci/one"],
    );
    std::fs::remove_file(&lost).unwrap();
    std::fs::rename(store.join("idx-gone"), &lost).unwrap();
    works(&bench, &["snapshot", "zram0", "ci/two", "--since=ci/one"]);

    let shown = works(&bench, &["snapshot", "list", "ci"]);
    assert!(
        shown.contains("ci/one") && shown.contains("ci/two"),
        "{shown}"
    );
    works(&bench, &["remote", "remove", "ci/one"]);
    works(&bench, &["remote", "collect", "ci", "--grace=0"]);
    works(&bench, &["snapshot", "verify", "ci/two"]);
    let copy = works(&bench, &["restore", "ci/two", "--frontend=nbd"]);
    assert!(is_same(&uri, copy.trim_end()));

    let gone = fails(&bench, 2, &["restore", "ci/one"]);
    assert!(gone.contains("there is no ci/one"), "{gone}");
    for part in std::fs::read_dir(store.join("seg")).unwrap().flatten() {
        std::fs::remove_file(part.path()).unwrap();
    }
    let missing = fails(&bench, 1, &["remote", "check", "ci"]);
    assert!(missing.contains("is not in the store"), "{missing}");
    fails(&bench, 1, &["restore", "ci/two", "--frontend=nbd"]);
    let devices = works(&bench, &["list", "--noheadings"]);
    assert_eq!(devices.lines().count(), 2, "{devices}");
    works(&bench, &["remote", "remove", "ci"]);
    assert_eq!(works(&bench, &["remote", "list"]), "");
}

/// The processes that read this test's remotes for devices.
fn readers(bench: &Bench) -> Vec<u32> {
    let remotes = bench.path("remotes");
    let is_reader = |pid: &u32| {
        let read = |what| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let (line, environment) = (read("cmdline"), read("environ"));
        let remotes = format!("UZRAM_REMOTES={}", remotes.display()).into_bytes();
        line.split(|byte| *byte == 0)
            .any(|word| word == b"read-remote")
            && environment
                .split(|byte| *byte == 0)
                .any(|word| word == remotes)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_reader).collect()
}

/// Reads some of a device. Whether it could.
fn reads(uri: &str, what: &str) -> bool {
    let args = ["-f", "raw", "-t", "none", "-c", what, uri];
    let output = Command::new("qemu-io").args(args).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success() && !words.contains("rror") && !words.contains("failed")
}

/// A remote `ci` in a directory, and a device whose snapshot `ci/warm` is there.
struct Shared {
    bench: Bench,
    store: PathBuf,
    /// The remote's.
    url: String,
    /// The device's.
    uri: String,
    /// What the snapshot holds.
    data: PathBuf,
}

impl Shared {
    fn new() -> Shared {
        let bench = Bench::new();
        let store = bench.path("store");
        std::fs::create_dir(&store).unwrap();
        let url = format!("file:{}", store.display());
        works(&bench, &["remote", "add", "ci", &url]);
        let uri = bench.create(&["--size=16M", "--frontend=nbd", "--policy=none"]);
        let data = bench.path("data");
        std::fs::write(&data, text(4096)).unwrap();
        fill(&uri, &data);
        works(&bench, &["snapshot", "zram0", "ci/warm"]);
        Shared {
            bench,
            store,
            url,
            uri,
            data,
        }
    }
}

#[test]
fn a_clone_of_a_tag_is_there_at_once_and_finds_it_whoever_dies() {
    needs!(&["qemu-img", "qemu-io"]);
    let shared = Shared::new();
    let (bench, store, uri, first) = (&shared.bench, &shared.store, &shared.uri, &shared.data);
    let second = bench.path("second");
    std::fs::write(&second, [&[9; 4096][..], &text(4095)].concat()).unwrap();

    let create = |args: &[&str]| {
        let own = ["create", "--private", "--frontend=nbd", "--policy=none"];
        works(bench, &[&own[..], args].concat())
            .trim_end()
            .to_owned()
    };
    let clone = create(&["--from=ci/warm", "--lazy", "--remote-timeout=2"]);
    let stat = || -> serde_json::Value {
        serde_json::from_str(&works(bench, &["stat", "--json", "zram1"])).unwrap()
    };
    assert_eq!(stat()["clone_of"], "ci/warm");
    assert!(stat()["remote_pages"].as_u64().unwrap() > 3900);
    let leases = || std::fs::read_dir(store.join("lease")).unwrap().count();
    assert_eq!((readers(bench).len(), leases()), (1, 1));

    // The tag becomes another snapshot's, and nothing but the lease needs the first one's parts.
    fill(uri, &second);
    works(bench, &["snapshot", "zram0", "ci/warm", "--force"]);
    works(bench, &["remote", "collect", "ci", "--grace=0"]);
    assert!(reads(&clone, "read 2M 64k"));

    // Its reader dies, and then its server with the reader's other end.
    sh(&format!("kill -9 {}", readers(bench)[0]));
    assert!(reads(&clone, "read 4M 64k"));
    assert_eq!(readers(bench).len(), 1);
    bench.kill("zram1", "pid");
    works(bench, &["remote", "collect", "ci", "--grace=0"]);
    assert!(reads(&clone, "read 6M 64k"));

    // The store is away: what needs it fails, and the rest goes on.
    let (parts, away) = (store.join("seg"), store.join("away"));
    std::fs::rename(&parts, &away).unwrap();
    assert!(!reads(&clone, "read 8M 64k"));
    assert!(reads(&clone, "read 6M 64k") && reads(&clone, "write -P 5 9M 64k"));
    std::fs::rename(&away, &parts).unwrap();
    assert!(reads(&clone, "read 8M 64k"));

    // When all of it is here, nobody reads the remote any more.
    works(bench, &["hydrate", "zram1"]);
    wait_until("the reader ends", || readers(bench).is_empty());
    let mut expected = std::fs::read(first).unwrap();
    expected[9 << 20..][..64 << 10].fill(5);
    std::fs::write(first, &expected).unwrap();
    assert!(is_same(&clone, first.to_str().unwrap()));

    // A device with all of the tag, and one that is removed while it is remote.
    let whole = create(&["--from=ci/warm"]);
    assert!(is_same(&whole, second.to_str().unwrap()));
    let lazy = create(&["--from=ci/warm", "--lazy"]);
    assert!(reads(&lazy, "read 1M 4k"));
    works(bench, &["remove", "--all"]);
    wait_until("the reader ends", || readers(bench).is_empty());
    bench.assert_clean();
    // The reader that was killed and that of the killed server left theirs, to expire.
    assert_eq!(leases(), 2);

    for (args, words) in [
        (["--from=ci/none", "--lazy"], "there is no ci/none"),
        (["--from=ci/warm", "--parent=x"], "needs no --parent"),
    ] {
        let own = ["create", "--private", "--frontend=nbd"];
        let failed = fails(bench, 2, &[&own[..], &args].concat());
        assert!(failed.contains(words), "{failed}");
    }
    works(bench, &["remote", "remove", "ci"]);
    bench.assert_clean();
}

#[test]
fn the_configuration_names_a_tag() {
    needs!(&["qemu-img"]);
    let shared = Shared::new();
    let (bench, data) = (&shared.bench, &shared.data);

    let config = bench.path("uzram.toml");
    let daemon = |args: &[&str]| {
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_uzramd"));
        daemon.arg("--config").arg(&config).args(args);
        daemon.env("UZRAM_RUN_DIR", bench.run_dir());
        daemon.env("UZRAM_REMOTES", bench.path("remotes"));
        daemon
    };
    let device = |name: &str, from: &str| {
        format!("[[device]]\nname = \"{name}\"\nfrontend = \"nbd\"\nfrom = {from}\n")
    };
    std::fs::write(&config, device("zram4", "\"ci/none\"")).unwrap();
    let checked = daemon(&["--check"]).output().unwrap();
    let words = String::from_utf8_lossy(&checked.stderr);
    assert!(
        !checked.status.success() && words.contains("there is no ci/none"),
        "{words}"
    );

    let lazy = "{ remote = \"ci/warm\", lazy = true }";
    let devices = device("zram4", "\"ci/warm\"") + &device("zram5", lazy);
    std::fs::write(&config, devices).unwrap();
    let mut running = daemon(&[]).spawn().unwrap();
    let there = |name: &str| bench.run_dir().join(name).join("device.json").exists();
    wait_until("both are made", || there("zram4") && there("zram5"));
    let stat = |name: &str| bench.stat(name)["remote_pages"].as_u64().unwrap();
    assert_eq!(stat("zram4"), 0);
    assert!(stat("zram5") > 3900);
    for name in ["zram4", "zram5"] {
        let path = works(bench, &["list", "--noheadings", "--output=PATH", name]);
        assert!(is_same(path.trim(), data.to_str().unwrap()), "{name}");
    }
    sh(&format!("kill -TERM {}", running.id()));
    assert!(running.wait().unwrap().success());
    works(bench, &["remove", "--all"]);
}

#[test]
fn what_a_first_clone_reads_the_next_one_fetches_ahead() {
    needs!(&["qemu-img", "qemu-io"]);
    let shared = Shared::new();
    let (bench, store, url, data) = (&shared.bench, &shared.store, &shared.url, &shared.data);
    let clone = |from: &str| {
        let args = ["create", "--private", "--frontend=nbd", "--policy=none"];
        let own = ["--name=zram1", "--lazy", "--trace=boot", "--from", from];
        works(bench, &[&args[..], &own].concat())
            .trim_end()
            .to_owned()
    };
    let fetched = || bench.stat("zram1")["fetched_pages"].as_u64().unwrap();

    let first = clone("ci/warm");
    for at in ["3M", "3100k", "9M", "12M"] {
        assert!(reads(&first, &format!("read {at} 4k")));
    }
    works(bench, &["remove", "zram1"]);
    let traces = || {
        let files = std::fs::read_dir(store.join("trace")).into_iter().flatten();
        files.flatten().collect::<Vec<_>>()
    };
    let trace = traces()[0].path();
    assert!(trace.to_str().unwrap().ends_with("~boot"));
    let noted = std::fs::read_to_string(&trace).unwrap();
    // Frames of 256 KiB; the first is what a server begins with.
    assert!(noted.contains("[[0,1],[12,1],[36,1],[48,1]]"), "{noted}");

    let second = clone("ci/warm");
    wait_until("four frames are fetched ahead", || fetched() == 4 * 64);
    assert!(reads(&second, "read 5M 4k"));
    works(bench, &["remove", "zram1"]);
    let noted = std::fs::read_to_string(&trace).unwrap();
    assert!(noted.contains("[20,1]"), "{noted}");

    // Who may not write there uses it all the same; damage costs the trace, and nothing else.
    works(bench, &["remote", "add", "ro", url, "--read-only"]);
    let third = clone("ro/warm");
    wait_until("five frames are fetched ahead", || fetched() == 5 * 64);
    assert!(reads(&third, "read 7M 4k"));
    works(bench, &["remove", "zram1"]);
    assert_eq!(std::fs::read_to_string(&trace).unwrap(), noted);
    std::fs::write(&trace, "[20,1]").unwrap();
    let fourth = clone("ci/warm");
    assert!(is_same(&fourth, data.to_str().unwrap()));
    works(bench, &["remove", "--all"]);

    let own = ["create", "--private", "--frontend=nbd", "--from=ci/warm"];
    for (args, words) in [
        (&["--trace=boot"][..], "--lazy"),
        (&["--lazy", "--trace=a/b"], "a name of letters"),
    ] {
        let failed = fails(bench, 2, &[&own[..], args].concat());
        assert!(failed.contains(words), "{failed}");
    }
    wait_until("the readers end", || readers(bench).is_empty());
    works(bench, &["remote", "remove", "ci/warm"]);
    works(bench, &["remote", "collect", "ci", "--grace=0"]);
    assert!(traces().is_empty());
    bench.assert_clean();
}
