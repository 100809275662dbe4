//! Fuzzes algorithms for a while, each in turn, by mutations that no coverage guides: `cargo run --release --package
//! uzram-compress --example fuzz -- [--minutes N] [--seed N] [ALGORITHM...]`. The names are those of drivers or algorithms;
//! none means every driver. What fails is named with its seed, and ends the run.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use uzram_compress::Registry;
use uzram_compress::conformance::{FuzzCounts, fuzz};

/// Inputs between two looks at the clock.
const STEP: u64 = 256;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let (mut minutes, mut seed, mut names) = (1.0f64, 1u64, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = |value: Option<String>| value.ok_or(format!("{arg} needs a number"));
        match arg.as_str() {
            "--minutes" => {
                minutes = value(args.next())?
                    .parse()
                    .map_err(|e| format!("{arg}: {e}"))?
            }
            "--seed" => {
                seed = value(args.next())?
                    .parse()
                    .map_err(|e| format!("{arg}: {e}"))?
            }
            _ => names.push(arg),
        }
    }
    let registry = Registry::builtin();
    if names.is_empty() {
        names = registry
            .iter()
            .map(|a| a.driver_name().to_owned())
            .collect();
    }
    for name in names {
        let algorithm = registry.find(&name).map_err(|e| e.to_string())?;
        let (begin, mut seed, mut total) = (Instant::now(), seed, FuzzCounts::default());
        while begin.elapsed() < Duration::from_secs_f64(minutes * 60.0) {
            let counts = fuzz(&**algorithm, seed, STEP).map_err(|e| format!("{name}: {e}"))?;
            total.round_trips += counts.round_trips;
            total.mutants += counts.mutants;
            total.accepted += counts.accepted;
            seed += STEP;
        }
        println!(
            "{:20} {} round trips, {} mutants, {} of them accepted, {} s",
            algorithm.driver_name(),
            total.round_trips,
            total.mutants,
            total.accepted,
            begin.elapsed().as_secs()
        );
    }
    Ok(())
}
