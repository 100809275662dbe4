//! Commands whose server or keeper stands still: they end, say so, and what they gave up is not done later.

mod common;

use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, Stopped};

fn start(bench: &Bench, args: &[&str]) -> Child {
    let mut command = bench.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_list_shows_who_does_not_answer() {
    let bench = Bench::new();
    for _ in 0..6 {
        bench.create(&["--size", "16M", "--frontend", "nbd"]);
    }
    let stopped: Vec<Stopped> = ["zram1", "zram2", "zram3", "zram4"]
        .map(|name| Stopped::new(bench.count(name, "pid")))
        .into();
    let begin = Instant::now();
    let output = bench.output(&["list"]);
    // One after the other they would take four times their second.
    assert!(begin.elapsed() < Duration::from_secs(4));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    let silent = text.lines().filter(|line| line.contains(" ? ")).count();
    assert_eq!((text.lines().count(), silent), (7, 4), "{text}");
    let stderr = said(&output);
    assert!(
        stderr.contains("the server of zram4 does not answer") && stderr.contains("stopped?"),
        "{stderr}"
    );
    let output = bench.output(&["list", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let devices: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(devices[1]["error"].is_string() && devices[0]["error"].is_null());
    assert_eq!(devices[0]["disksize"], 16 << 20);
    // Columns that are asked for by themselves wait for nobody either.
    let output = bench.output(&["list", "--output", "name,idle-pages", "--noheadings"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("zram1 ") && text.contains('?'), "{text}");
    drop(stopped);
    assert!(!bench.uzram(&["list"]).contains(" ? "));
    bench.uzram(&["remove", "--all"]);
    bench.assert_clean();
}

#[test]
fn what_a_command_gave_up_is_not_done_when_the_server_goes_on() {
    let bench = Bench::new();
    bench.create(&["--size", "16M", "--frontend", "nbd"]);
    let stopped = Stopped::new(bench.count("zram0", "pid"));
    let commands: [&[&str]; 6] = [
        &["set", "zram0", "mem_limit=8M"],
        &["set", "zram0", "algorithm=zstd"],
        &["reset", "zram0"],
        &["recompress", "zram0"],
        &["stat", "zram0"],
        &["remove", "zram0"],
    ];
    let waiting: Vec<Child> = commands.map(|args| start(&bench, args)).into();
    // Nor is what was interrupted.
    let mut interrupted = start(&bench, &["remove", "zram0"]);
    std::thread::sleep(Duration::from_secs(2));
    interrupted.kill().unwrap();
    interrupted.wait().unwrap();
    for (child, args) in waiting.into_iter().zip(commands) {
        let output = child.wait_with_output().unwrap();
        let stderr = said(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(
            stderr.contains("the server of zram0 does not answer") && stderr.contains("stopped?"),
            "{args:?}: {stderr}"
        );
        assert!(stderr.contains("kill -KILL"), "{args:?}: {stderr}");
    }
    drop(stopped);
    let stat = bench.stat("zram0");
    assert_eq!(stat["mem_limit"], 0);
    assert_eq!(stat["algorithm"], "lzhs");
    let log = std::fs::read_to_string(bench.run_dir().join("zram0/log")).unwrap();
    assert!(!log.contains("SetMemLimit"), "{log}");
    assert!(log.contains("given up before its turn came"), "{log}");
    bench.remove_last("zram0");
}

#[test]
fn a_keeper_that_stands_still_is_given_up() {
    let bench = Bench::new();
    bench.create(&["--size", "16M", "--frontend", "nbd"]);
    let stopped = Stopped::new(bench.count("zram0", "keeper"));
    let server = bench.count("zram0", "pid");
    let waiting = ["recover", "upgrade"].map(|command| start(&bench, &[command, "zram0"]));
    for child in waiting {
        let output = child.wait_with_output().unwrap();
        let stderr = said(&output);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains("the keeper of zram0 does not answer") && stderr.contains("kill -CONT"),
            "{stderr}"
        );
    }
    drop(stopped);
    bench.uzram(&["recover", "zram0"]);
    assert_eq!(bench.count("zram0", "pid"), server, "not upgraded later");
    bench.remove_last("zram0");
}

/// A stopped server does not end by being asked to hand over.
#[test]
fn an_upgrade_gets_rid_of_a_server_that_stands_still() {
    let bench = Bench::new();
    bench.create(&["--size", "16M", "--frontend", "nbd"]);
    let old = bench.count("zram0", "pid");
    let _stopped = Stopped::new(old);
    bench.uzram(&["upgrade", "zram0"]);
    assert_ne!(bench.count("zram0", "pid"), old);
    bench.remove_last("zram0");
}
