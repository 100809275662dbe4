//! The machine is tested: with each rule broken (`uzram::canary`) one of its tests must fail, and soon.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use uzram::canary::CANARIES;

/// Seconds within which a test must find a broken rule.
const SECONDS: u64 = 60;

fn run(canary: &str, seconds: u64) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let command = command.args(["--exact", "sequences", "concurrent", "--nocapture"]);
    let command = command
        .env("UZRAM_CANARY", canary)
        .env("RUST_BACKTRACE", "0");
    let command = command.env("UZRAM_MACHINE_SECONDS", seconds.to_string());
    command
        .env_remove("UZRAM_MACHINE_SEED")
        .env("UZRAM_MACHINE_NO_SHRINK", "1")
        .output()
        .unwrap()
}

/// What a failing run says: the line with the seed, if it has one.
fn words(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find(|line| line.starts_with("seed "));
    line.map_or(format!("{:?}", output.status), |line| {
        line.chars().take(160).collect()
    })
}

#[test]
fn every_canary_is_heard() {
    let mut unheard = Vec::new();
    for canary in CANARIES {
        let name = format!("{canary:?}");
        let begin = Instant::now();
        let output = run(&name, SECONDS);
        let heard = (!output.status.success()).then(|| words(&output));
        let took: Duration = begin.elapsed();
        println!(
            "{name}: {:.1} s: {}",
            took.as_secs_f32(),
            heard.as_deref().unwrap_or("NOT HEARD")
        );
        if heard.is_none() {
            unheard.push(name);
        }
    }
    assert!(unheard.is_empty(), "not found: {unheard:?}");
    // And it is the rule that is found.
    let output = run("none", 2);
    assert!(output.status.success(), "{}", words(&output));
}
