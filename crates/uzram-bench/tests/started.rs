//! `uzram bench` and `uzram advise` are `uzram-bench`: found beside `uzram` or on `PATH`, with the same words and exit
//! codes, and a clear error where it is missing.

mod common;

use common::{Bench, program};

#[test]
fn what_is_missing_is_said_with_how_to_get_it() {
    let bench = Bench::without_benchmarks();
    for args in [
        &["bench", "fio"][..],
        &["advise", "--help"],
        &["help", "bench"],
    ] {
        let mut command = bench.command(args);
        let output = command
            .env("PATH", "/nowhere")
            .current_dir(bench.path("bin"));
        let output = output.output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{args:?}: {output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains("cargo build --release"),
            "{args:?}: {stderr}"
        );
        assert!(stderr.contains("PATH"), "{args:?}: {stderr}");
    }
    // Nobody asked for benchmarks here: the other pages are written.
    let mut pages = bench.command(&["man", "man"]);
    pages.env("PATH", "/nowhere").current_dir(bench.path("bin"));
    let pages = pages.output().unwrap();
    assert_eq!(pages.status.code(), Some(0), "{pages:?}");
    let stderr = String::from_utf8_lossy(&pages.stderr);
    assert!(stderr.contains("no pages on advise and bench"), "{stderr}");
    assert!(bench.path("bin/man/uzram-create.1").is_file());
    let output = bench.command(&["bench", "--help"]);
    let mut output = output;
    output.env("PATH", program().parent().unwrap());
    assert!(output.output().unwrap().status.success(), "found on PATH");
}

#[test]
fn a_program_of_ones_own_is_what_devices_are_made_with() {
    let bench = Bench::new();
    let own = bench.path("bin/own");
    std::fs::rename(bench.path("bin/uzram"), &own).unwrap();
    let args = ["bench", "fio", "--targets", "uzram:nonsense"];
    let mut command = std::process::Command::new(&own);
    let output = command.args(args).env("PATH", "/nowhere").output().unwrap();
    std::fs::rename(&own, bench.path("bin/uzram")).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    // There is no `uzram` that could have been asked.
    assert!(stderr.contains("unknown frontend 'nonsense'"), "{stderr}");
    assert_eq!(output.status.code(), Some(2), "{stderr}");
}

#[test]
fn both_programs_say_the_same_of_a_command() {
    let bench = Bench::new();
    let all = bench.uzram(&["--help"]);
    for command in ["bench", "advise"] {
        let help = bench.uzram(&[command, "--help"]);
        let about = help.lines().next().unwrap();
        let line = all
            .lines()
            .find_map(|line| line.trim().strip_prefix(command));
        assert_eq!(line.map(str::trim), Some(about), "{all}");
        assert!(help.contains(&format!("Usage: uzram {command} ")), "{help}");
        assert_eq!(bench.uzram(&["help", command]), help);
        assert_eq!(bench.uzram(&["--log", "warn", command, "--help"]), help);
    }
    let short = bench.uzram(&["bench", "fio", "-h"]);
    assert!(
        short.contains("Usage: uzram bench fio [OPTIONS]"),
        "{short}"
    );
    let hidden = bench.uzram(&["bench", "--help"]);
    assert!(!hidden.contains("check-device"), "{hidden}");
    let error = bench.fails(2, &["bench"]);
    assert!(error.contains("Usage: uzram bench"), "{error}");
    let error = bench.fails(2, &["bench", "nonsense"]);
    assert!(error.contains("nonsense"), "{error}");
    let error = bench.fails(4, &["advise", "--device", "zram99"]);
    assert!(error.contains("zram99"), "{error}");
}
