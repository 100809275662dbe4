//! The program's command line: what does not fit a benchmark is refused before anything is measured, with 2 as the exit
//! code, and the order of options does not matter.

use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_uzram-bench");
    Command::new(program)
        .arg("lab")
        .args(args)
        .output()
        .unwrap()
}

fn refused(args: &[&str], says: &str) {
    let output = bench(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    assert!(stderr.contains(says), "{args:?}: {stderr}");
    assert!(!stderr.contains("..."), "nothing was begun: {stderr}");
}

#[test]
fn what_does_not_fit_a_benchmark_is_refused() {
    refused(&[], "Usage");
    refused(&["nonsense"], "nonsense");
    refused(&["--quick"], "--quick");
    refused(&["core", "--only", "lz4"], "--only");
    refused(&["core", "--corpus", "/tmp"], "--corpus");
    refused(&["codecs", "--corpus", "/tmp"], "--corpus");
    refused(&["rivals", "--only", "lz4"], "--only");
    refused(&["churn", "--rounds", "3"], "--rounds");
    refused(&["core", "--rounds", "0"], "--rounds");
    refused(&["core", "--quick", "--rounds"], "--rounds");
    refused(&["core", "codecs"], "codecs");
}

#[test]
fn the_laboratory_lists_all_that_it_has() {
    let list = bench(&["--help"]);
    assert!(list.status.success());
    let list = String::from_utf8(list.stdout).unwrap();
    for name in [
        "core", "api", "codecs", "rivals", "churn", "nbd", "nbd-fill", "loop", "series",
    ] {
        let line = list
            .lines()
            .find(|line| line.starts_with(&format!("  {name} ")));
        assert!(line.is_some_and(|line| line.len() > 20), "{name}: {list}");
        let help = bench(&[name, "--help"]);
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(
            help.contains("--rounds") || name == "churn",
            "{name}: {help}"
        );
    }
    for args in [&[][..], &["nonsense"]] {
        refused(args, "\n  nbd-fill ");
    }
}

#[test]
fn a_record_that_was_kept_is_rendered_again() {
    let dir = tempfile::tempdir().unwrap();
    let records = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/record");
    let program = |args: &[&str]| {
        let program = env!("CARGO_BIN_EXE_uzram-bench");
        Command::new(program)
            .arg("render")
            .args(args)
            .output()
            .unwrap()
    };
    let record = format!("{records}/series.json");
    let text = String::from_utf8(program(&[&record]).stdout).unwrap();
    assert!(
        text.contains("bench fio on") && text.contains("mixed-rand read"),
        "{text}"
    );
    let [page, picture, table] = ["a.html", "a.svg", "a.csv"].map(|name| dir.path().join(name));
    let files = [&page, &picture, &table].map(|path| path.to_str().unwrap());
    let output = program(&[
        &record, "--html", files[0], "--svg", files[1], "--csv", files[2],
    ]);
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    assert!(
        std::fs::read_to_string(&page)
            .unwrap()
            .ends_with("</html>\n")
    );
    assert!(
        std::fs::read_to_string(&picture)
            .unwrap()
            .starts_with("<svg")
    );
    assert!(
        std::fs::read_to_string(&table)
            .unwrap()
            .starts_with("target,buffer,")
    );
    for args in [
        &["/nowhere.json"][..],
        &[env!("CARGO_MANIFEST_PATH")],
        &[&format!("{records}/churn.json"), "--svg", files[1]],
    ] {
        let output = program(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    }
}

#[test]
fn a_record_that_cannot_be_written_is_refused_before_the_run() {
    refused(
        &["attach", "--record", "/nowhere/a.json"],
        "/nowhere/a.json",
    );
    let dir = tempfile::tempdir().unwrap();
    refused(
        &["attach", "--record", dir.path().to_str().unwrap()],
        "folder",
    );
}

#[test]
fn an_old_record_outlives_a_run_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("old.json");
    std::fs::write(&record, "old").unwrap();
    let path = record.to_str().unwrap();
    // Options in another order than --help has them.
    let nowhere = ["--record", path, "--corpus", "/nowhere", "--quick"];
    let output = bench(&[&["rivals"], &nowhere[..]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("/nowhere"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&record).unwrap(), "old");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_panic() {
    let program = env!("CARGO_BIN_EXE_uzram-bench");
    let mut command = Command::new(program);
    command.args(["lab", "attach", "--quick", "--rounds", "1"]);
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}
