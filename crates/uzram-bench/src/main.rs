//! Runs a benchmark by name and prints its report; with a path, keeps a record there, too.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use uzram_bench::core;

const USAGE: &str = "usage: uzram-bench core [--quick] [--rounds N] [--record FILE]

  core      the library against its codecs on process memory: cost, scaling, memory
  --quick   a tenth of the work: a smoke test, its figures mean little
  --rounds  how often each contestant takes its turn (the default is 21)
  --record  write the figures to FILE as JSON, too";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("uzram-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut options = core::Options::default();
    let (mut name, mut record) = (None, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => {
                options = core::Options {
                    megabytes: 64,
                    rounds: 5,
                    batch: 1024,
                    fill_bytes: 64 << 20,
                };
            }
            "--rounds" => {
                let count = args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                options.rounds = count.context("--rounds needs a number, 1 or more")?;
            }
            "--record" => record = Some(args.next().context("--record needs a file name")?),
            "core" => name = Some(arg),
            _ => bail!("'{arg}' is not understood\n{USAGE}"),
        }
    }
    if name.is_none() {
        bail!("which benchmark?\n{USAGE}");
    }
    let report = core::run(&options, &mut |what| eprintln!("{what} ..."))?;
    print!("{report}");
    if let Some(path) = record {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(&path, json + "\n").with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}
