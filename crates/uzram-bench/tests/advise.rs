//! `uzram advise` end to end: real files, processes and commands in, tables, JSON and pictures out.

mod common;

use std::process::Output;

use common::Bench;

fn advise(args: &[&str]) -> Output {
    Bench::new().output(&[&["advise"], args].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A file with pages to sample.
const PROGRAM: &str = env!("CARGO_BIN_EXE_uzram-bench");

#[test]
fn a_file_gives_a_row_for_each_algorithm_and_lines_for_the_kernel() {
    let output = advise(&["--quick", "--samples", "512", "--file", PROGRAM]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    for algorithm in uzram::compress::Registry::builtin().names() {
        let row = |line: &str| line.split_whitespace().next() == Some(algorithm);
        assert!(
            printed.lines().any(row),
            "{algorithm} is not in:\n{printed}"
        );
    }
    for line in [
        "writes ",
        "uzram create --algorithm",
        "> /sys/block/zram0/comp_algorithm",
        "[zram0]",
        "compression-algorithm = ",
    ] {
        assert!(printed.contains(line), "no '{line}' in:\n{printed}");
    }
}

#[test]
fn json_and_picture_hold_the_same_measurements() {
    let dir = tempfile::tempdir().unwrap();
    let svg = dir.path().join("advice.svg");
    let path = svg.to_str().unwrap();
    let args = [
        "--samples",
        "512",
        "--file",
        PROGRAM,
        "--json",
        "--plot",
        path,
    ];
    let output = advise(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let measured = report["measured"].as_array().unwrap();
    let with_dictionary = measured.iter().filter(|one| one["dictionary_bytes"] != 0);
    let names: Vec<_> = with_dictionary
        .map(|one| one["algorithm"].as_str())
        .collect();
    for name in ["lz4", "lz4hc", "zstd"] {
        assert!(names.contains(&Some(name)), "no {name} with a dictionary");
    }
    for one in measured {
        let number = |key: &str| one[key].as_f64().unwrap();
        assert!(
            number("ratio") >= 0.99 && number("write_mib_s") > 0.0,
            "{one}"
        );
        // Size classes and words cost something, same-filled pages almost nothing.
        assert!(number("capacity") > number("ratio") * 0.9, "{one}");
    }
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("recommended"));
}

#[test]
fn a_command_and_a_process_are_sampled() {
    let script = "import time; x = [str(i) for i in range(300000)]; print('said'); time.sleep(1)";
    let output = advise(&[
        "--quick",
        "--samples",
        "1000",
        "--cmd",
        "python3",
        "-c",
        script,
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    // What the command prints is not part of the report.
    assert!(text(&output.stderr).contains("said") && !text(&output.stdout).contains("said"));
    // The same behind dashes; those that follow are the command's.
    let script =
        "import sys, time; x = [str(i) for i in range(300000)]; print(sys.argv[1:]); time.sleep(1)";
    let args = [
        "--quick",
        "--samples",
        "1000",
        "--cmd",
        "--",
        "python3",
        "-c",
        script,
        "--",
        "--quick",
    ];
    let output = advise(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(said.contains("['--', '--quick']"), "{said}");
    let pid = std::process::id().to_string();
    let memory: Vec<u8> = (0..8u32 << 20).map(|i| (i / 100) as u8 ^ i as u8).collect();
    let output = advise(&["--quick", "--samples", "1000", "--pid", &pid]);
    std::hint::black_box(memory);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Where a picture cannot be, nothing is measured, and no command is run.
#[test]
fn a_picture_that_cannot_be_written_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ran = dir.path().join("ran");
    let script = format!("touch {}", ran.display());
    let output = advise(&["--plot", "/no/such/x.svg", "--cmd", "sh", "-c", &script]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/x.svg") && !ran.exists());
}

#[test]
fn what_cannot_be_sampled_is_refused_in_words() {
    for (args, code, words) in [
        (&[][..], 2, "--pid"),
        (&["--pid", "1", "--file", "x"], 2, "cannot be used with"),
        (&["--pid", "999999999"], 1, "no such process"),
        (&["--file", "/no/such"], 1, "/no/such"),
        (&["--file", "/etc/hostname"], 1, "64 are the least"),
        (&["--samples", "3", "--file", PROGRAM], 2, "128 to 262144"),
        (&["--cmd", "/no/such"], 1, "/no/such"),
        (&["--cmd", "true"], 1, "true: "),
        (&["--cmd", "--"], 2, "followed by a command"),
        (&["--seconds", "3", "--file", PROGRAM], 2, "--cmd"),
        (
            &["--quick", "--file", PROGRAM, "--plot", "/no/such/x.svg"],
            1,
            "/no/such/x.svg",
        ),
    ] {
        let output = advise(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
}
