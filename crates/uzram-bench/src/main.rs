//! Runs a benchmark by name and prints its report; with a path, keeps a record there, too.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use uzram_bench::{attach, churn, codecs, core, dedup, dictionary, model, policy, rivals, units};

const USAGE: &str =
    "usage: uzram-bench core|codecs|attach|churn|dictionary|policy|dedup|units|rivals|model
                    [--quick] [--rounds N] [--only NAME] [--corpus DIR] [--record FILE]

  core      the library against its codecs on process memory: cost, scaling, memory
  codecs    every algorithm and its rivals on several kinds of pages: ratio, speed
  attach    how fast a new process takes a device over (default: 9 rounds)
  churn     what random overwrites make of memory, with and without compaction
  dictionary  what a trained dictionary gains and costs, on process memory that it was not trained on
  policy    density with background recompression beside the kernel's zram, and what the foreground pays
  dedup     what sharing identical pages costs where there are none, and gains where there are (default: 41 rounds)
  units     an experiment: what it would gain and cost to compress neighbouring pages together
  rivals    the library beside the kernel's zram, trueno-zram-core and bare codecs: speed and memory
  model     what a served disk should cost, from what its parts cost: for drivers that cannot run here
  --quick   a tenth of the work: a smoke test, its figures mean little
  --rounds  how often each contestant takes its turn (the default is 21)
  --only    in codecs, only contestants whose name contains this: lzo, raw, level=1
  --corpus  in rivals, pages that cargo xtask corpus keeps in DIR, instead of others made now
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
    let mut takeover = attach::Options::default();
    let mut overwrites = churn::Options::default();
    let mut all = codecs::Options::default();
    let mut training = dictionary::Options::default();
    let mut background = policy::Options::default();
    let mut sharing = dedup::Options::default();
    let mut together = units::Options::default();
    let mut beside = rivals::Options::default();
    let mut parts = model::Options::default();
    let (mut name, mut record) = (None, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => {
                options = core::Options::quick();
                beside = rivals::Options {
                    stored: beside.stored,
                    ..rivals::Options::quick()
                };
                parts = model::Options {
                    megabytes: 16,
                    rounds: 5,
                    batch: 512,
                };
                takeover.fill_bytes = 512 << 20;
                overwrites = churn::Options {
                    megabytes: 16,
                    disk_bytes: 128 << 20,
                    steps: 4,
                };
                all.megabytes = 4;
                all.rounds = 3;
                all.batch = 256;
                training = dictionary::Options {
                    megabytes: 24,
                    rounds: 7,
                    batch: 256,
                    taught: 1024,
                };
                background = policy::Options {
                    megabytes: 16,
                    rounds: 5,
                    turn: 20_000,
                };
                together = units::Options {
                    megabytes: 4,
                    rounds: 5,
                    batch: 64,
                };
                sharing = dedup::Options {
                    megabytes: 32,
                    rounds: 7,
                    batch: 1024,
                };
            }
            "--rounds" => {
                let count = args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                options.rounds = count.context("--rounds needs a number, 1 or more")?;
                takeover.rounds = options.rounds;
                all.rounds = options.rounds;
                training.rounds = options.rounds;
                background.rounds = options.rounds;
                sharing.rounds = options.rounds;
                together.rounds = options.rounds;
                parts.rounds = options.rounds;
                beside.rounds = options.rounds;
            }
            "--only" => all.only = args.next().context("--only needs a part of a name")?,
            "--corpus" => {
                let dir = args.next().context("--corpus needs a folder")?;
                beside.stored = Some(dir.into());
            }
            "--record" => record = Some(args.next().context("--record needs a file name")?),
            "core" | "codecs" | "attach" | "churn" | "dictionary" | "policy" | "dedup"
            | "units" | "rivals" | "model" => {
                name = Some(arg);
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            _ => bail!("'{arg}' is not understood\n{USAGE}"),
        }
    }
    let progress = &mut |what: &str| eprintln!("{what} ...");
    match name.as_deref() {
        Some("core") => show(&core::run(&options, progress)?, record),
        Some("codecs") => show(&codecs::run(&all, progress)?, record),
        Some("churn") => show(&churn::run(&overwrites, progress)?, record),
        Some("policy") => show(&policy::run(&background, progress)?, record),
        Some("dictionary") => show(&dictionary::run(&training, progress)?, record),
        Some("dedup") => show(&dedup::run(&sharing, progress)?, record),
        Some("model") => show(&model::run(&parts, progress)?, record),
        Some("rivals") => show(&rivals::run(&beside, progress)?, record),
        Some("units") => show(&units::run(&together, progress)?, record),
        Some(_) => show(&attach::run(&takeover, progress)?, record),
        None => bail!("which benchmark?\n{USAGE}"),
    }
}

fn show(
    report: &(impl std::fmt::Display + serde::Serialize),
    record: Option<String>,
) -> Result<()> {
    print!("{report}");
    if let Some(path) = record {
        let json = serde_json::to_string_pretty(report)?;
        std::fs::write(&path, json + "\n").with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}
