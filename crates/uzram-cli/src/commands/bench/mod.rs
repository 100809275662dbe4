//! `uzram bench`: what is measured is in `uzram-bench`; here are the options, the progress bar and where results go.

mod fio;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use uzram_bench::corpus::stored;
use uzram_bench::output::{Files, Outcome};
use uzram_bench::{api, core};

use super::print;
use crate::exit::{Failure, Kind, Result};

/// Measure devices beside others, the compress API, the library
///
/// Contestants take turns on the same work, round after round; figures are medians, with the memory used beside the
/// speed. Prints a table; the options of each benchmark say where JSON, CSV and an HTML page with pictures go.
#[derive(clap::Args)]
#[command(
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  uzram bench fio --quick
  uzram bench fio --targets kernel-zram:lz4,uzram:ublk:lz4 --jobs 1,2,4 --json a.json --html a.html
  uzram bench compare before.json after.json
  uzram bench api
  uzram bench core --quick"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    Fio(Box<fio::Args>),
    Compare(Compare),
    Api(Api),
    Core(Core),
    Corpus(Corpus),
}

/// Lay runs of "bench fio" side by side
///
/// Prints the format of zram-perf-test's comparison: a row for each figure, a column for each target of each run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram bench compare before.json after.json --target uzram:ublk:lz4
  uzram bench compare run.json                 one run, a column for each target")]
struct Compare {
    /// What --json wrote; the first is the leftmost
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Only this target of each
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
}

/// Measure what the compress API costs
///
/// The same codec is called directly, through a trait object, and as an algorithm found by its name, on pages of real
/// process memory: nanoseconds a page, and percent over the direct call.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram bench api
  uzram bench api --quick --csv api.csv
  uzram bench api --corpus target/corpus --rounds 2001 --html api.html")]
struct Api {
    /// A small run: its figures mean little
    #[arg(long)]
    quick: bool,
    /// How often each way takes its turn [default: 801]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Take the pages from this folder, which "uzram bench corpus" made, instead of making them now
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    #[command(flatten)]
    files: FileArgs,
}

/// Measure the library against its codecs
///
/// What a device costs beyond its codec, how it scales to a second thread, and what memory it takes.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram bench core --quick
  uzram bench core --rounds 41 --json core.json --html core.html")]
struct Core {
    /// A small run: its figures mean little
    #[arg(long)]
    quick: bool,
    /// How often each contestant takes its turn [default: 21]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    #[command(flatten)]
    files: FileArgs,
}

/// Make corpora of pages
///
/// Starts Python, Perl, Node.js, Java, gcc and SQLite, reads the memory of these processes and of nobody else's, and adds
/// files and made-up pages. What is not installed is left out and said.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram bench corpus --dir target/corpus
  uzram bench corpus --dir /tmp/pages --megabytes 128")]
struct Corpus {
    /// The folder, which is made
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Megabytes of each
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=4096))]
    megabytes: u32,
}

/// Where results go beside stdout.
#[derive(clap::Args)]
struct FileArgs {
    /// Write the record: every figure with machine, commit and compiler
    #[arg(long, visible_alias = "record", value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the figures, a line each
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write one page with tables and pictures, which needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        match self.benchmark {
            Benchmark::Fio(args) => args.run(),
            Benchmark::Compare(args) => args.run(),
            Benchmark::Api(args) => args.run(),
            Benchmark::Core(args) => args.run(),
            Benchmark::Corpus(args) => args.run(),
        }
    }
}

impl Compare {
    fn run(self) -> Result {
        let compared = uzram_bench::fio::compare(&self.files, self.target.as_deref());
        print(&compared.map_err(|error| Failure::new(Kind::Usage, format!("{error:#}")))?)
    }
}

impl Api {
    fn run(self) -> Result {
        let mut options = match self.quick {
            true => api::Options::quick(),
            false => api::Options::default(),
        };
        options.rounds = self.rounds.map_or(options.rounds, |n| n as usize);
        options.corpus = self.corpus;
        let files = self.files.checked()?;
        let api = watched(|progress| api::run(&options, progress))?;
        hand_out(&api, &files)
    }
}

impl Core {
    fn run(self) -> Result {
        let mut options = match self.quick {
            true => core::Options::quick(),
            false => core::Options::default(),
        };
        options.rounds = self.rounds.map_or(options.rounds, |n| n as usize);
        let files = self.files.checked()?;
        let report = watched(|progress| core::run(&options, progress))?;
        hand_out(&report, &files)
    }
}

impl Corpus {
    fn run(self) -> Result {
        let make = |progress: &mut dyn FnMut(&str)| {
            stored::make(&self.dir, self.megabytes as usize, progress)
        };
        let manifest = watched(make)?;
        print(&manifest.to_string())
    }
}

impl FileArgs {
    /// Those that can be written.
    fn checked(self) -> Result<Files> {
        let FileArgs { json, csv, html } = self;
        let files = Files { json, csv, html };
        let unwritable = |error| Failure::new(Kind::Usage, format!("{error:#}"));
        files.check().map_err(unwritable)?;
        Ok(files)
    }
}

/// The files first: what was measured is not lost where nobody reads stdout.
fn hand_out(outcome: &(impl Outcome + std::fmt::Display), files: &Files) -> Result {
    files.write(outcome).map_err(failed)?;
    print(&outcome.to_string())
}

fn failed(error: anyhow::Error) -> Failure {
    Failure::new(Kind::Failed, format!("{error:#}"))
}

/// Runs it with a spinner that says what is under way, or a line for each step where stderr is no terminal.
fn watched<T>(run: impl FnOnce(&mut dyn FnMut(&str)) -> anyhow::Result<T>) -> Result<T> {
    let bar = bar("{spinner} {msg} {elapsed}");
    let result = run(&mut |what| say(&bar, what));
    bar.finish_and_clear();
    result.map_err(failed)
}

fn say(bar: &ProgressBar, what: &str) {
    match bar.is_hidden() {
        true => eprintln!("{what} ..."),
        false => {
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(std::time::Duration::from_millis(200));
        }
    }
}

/// On stderr, where that is a terminal.
fn bar(template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(0);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
