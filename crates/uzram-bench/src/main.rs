//! Runs a benchmark by name and prints its report; with a path, keeps a record there, too.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use uzram_bench::output::file;
use uzram_bench::{attach, churn, codecs, core, dedup, dictionary, model, policy, rivals, units};

/// Measure the library and its parts
#[derive(Parser)]
#[command(
    name = "uzram-bench",
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
struct Args {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// The library against its codecs on process memory: cost, scaling, memory
    Core(Turns),
    /// Every algorithm and its rivals on several kinds of pages: ratio, speed
    Codecs {
        #[command(flatten)]
        turns: Turns,
        /// Only contestants whose name contains this: lzo, raw, level=1
        #[arg(
            long,
            value_name = "NAME",
            default_value = "",
            hide_default_value = true
        )]
        only: String,
    },
    /// How fast a new process takes a device over
    Attach(Turns),
    /// What random overwrites make of memory, with and without compaction
    Churn(Common),
    /// What a trained dictionary gains and costs, on process memory that it was not trained on
    Dictionary(Turns),
    /// Density with background recompression beside the kernel's zram, and what the foreground pays
    Policy(Turns),
    /// What sharing identical pages costs where there are none, and gains where there are
    Dedup(Turns),
    /// An experiment: what it would gain and cost to compress neighbouring pages together
    Units(Turns),
    /// The library beside the kernel's zram, trueno-zram-core and bare codecs: speed and memory
    Rivals {
        #[command(flatten)]
        turns: Turns,
        /// Pages that "uzram bench corpus" keeps in this folder, instead of others made now
        #[arg(long, value_name = "DIR")]
        corpus: Option<PathBuf>,
    },
    /// What a served disk should cost, from what its parts cost: for drivers that cannot run here
    Model(Turns),
}

/// What every benchmark takes.
#[derive(clap::Args)]
struct Common {
    /// A tenth of the work: a smoke test, its figures mean little
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file as JSON, too
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// What a benchmark takes whose contestants take turns.
#[derive(clap::Args)]
struct Turns {
    #[command(flatten)]
    common: Common,
    /// How often each contestant takes its turn [default: 9 to 41, as many as it takes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
}

impl Common {
    fn options<T: Default>(&self, quick: fn() -> T) -> T {
        if self.quick { quick() } else { T::default() }
    }
}

impl Turns {
    /// The benchmark's own options, with as many rounds as are wanted.
    fn options<T: Default>(&self, quick: fn() -> T, rounds: fn(&mut T) -> &mut usize) -> T {
        let mut options = self.common.options(quick);
        if let Some(count) = self.rounds {
            *rounds(&mut options) = count as usize;
        }
        options
    }
}

impl Benchmark {
    fn common(&self) -> &Common {
        match self {
            Benchmark::Churn(common) => common,
            Benchmark::Core(turns)
            | Benchmark::Codecs { turns, .. }
            | Benchmark::Attach(turns)
            | Benchmark::Dictionary(turns)
            | Benchmark::Policy(turns)
            | Benchmark::Dedup(turns)
            | Benchmark::Units(turns)
            | Benchmark::Rivals { turns, .. }
            | Benchmark::Model(turns) => &turns.common,
        }
    }
}

fn main() -> ExitCode {
    let benchmark = Args::parse().benchmark;
    let record = benchmark.common().record.clone();
    if let Some(Err(error)) = record.as_deref().map(file::check) {
        eprintln!("uzram-bench: {error:#}");
        return ExitCode::from(2);
    }
    match run(benchmark, record) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("uzram-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(benchmark: Benchmark, record: Option<PathBuf>) -> Result<()> {
    let progress = &mut |what: &str| eprintln!("{what} ...");
    match benchmark {
        Benchmark::Core(turns) => {
            let options = turns.options(core::Options::quick, |o| &mut o.rounds);
            show(&core::run(&options, progress)?, record)
        }
        Benchmark::Codecs { turns, only } => {
            let options = turns.options(codecs::Options::quick, |o| &mut o.rounds);
            let options = codecs::Options { only, ..options };
            show(&codecs::run(&options, progress)?, record)
        }
        Benchmark::Attach(turns) => {
            let options = turns.options(attach::Options::quick, |o| &mut o.rounds);
            show(&attach::run(&options, progress)?, record)
        }
        Benchmark::Churn(common) => {
            let options = common.options(churn::Options::quick);
            show(&churn::run(&options, progress)?, record)
        }
        Benchmark::Dictionary(turns) => {
            let options = turns.options(dictionary::Options::quick, |o| &mut o.rounds);
            show(&dictionary::run(&options, progress)?, record)
        }
        Benchmark::Policy(turns) => {
            let options = turns.options(policy::Options::quick, |o| &mut o.rounds);
            show(&policy::run(&options, progress)?, record)
        }
        Benchmark::Dedup(turns) => {
            let options = turns.options(dedup::Options::quick, |o| &mut o.rounds);
            show(&dedup::run(&options, progress)?, record)
        }
        Benchmark::Units(turns) => {
            let options = turns.options(units::Options::quick, |o| &mut o.rounds);
            show(&units::run(&options, progress)?, record)
        }
        Benchmark::Rivals { turns, corpus } => {
            let mut options = turns.options(rivals::Options::quick, |o| &mut o.rounds);
            options.stored = corpus;
            show(&rivals::run(&options, progress)?, record)
        }
        Benchmark::Model(turns) => {
            let options = turns.options(model::Options::quick, |o| &mut o.rounds);
            show(&model::run(&options, progress)?, record)
        }
    }
}

/// The record first: what was measured is not lost where nobody reads stdout.
fn show(
    report: &(impl std::fmt::Display + serde::Serialize),
    record: Option<PathBuf>,
) -> Result<()> {
    if let Some(path) = record {
        file::write(&path, &(serde_json::to_string_pretty(report)? + "\n"))?;
    }
    match write!(std::io::stdout().lock(), "{report}") {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
