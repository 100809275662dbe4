//! `uzram remote`: snapshots in a directory by tags, from the device to another device and back to the same bytes.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{Bench, have, text};

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
    if !have("remote", &["qemu-img"], false) {
        return;
    }
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
