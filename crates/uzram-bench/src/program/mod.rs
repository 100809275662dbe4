//! The program's command line: `uzram bench` and `uzram advise`, which `uzram` starts this program for, and the
//! laboratory. Options, the progress bar and where results go are here; what is measured is in the crate's other modules.

mod advise;
pub(crate) mod fio;
mod lab;
mod recipes;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use uzram::compress::Registry;
use uzram_spec::{printable, printable_json};

use crate::corpus::stored;
use crate::failure::{Failure, Result, failed};
use crate::lab::How;
use crate::output::{self, Chart, Files, Outcome, file, text};
use crate::{api, core};

/// Measure devices beside others, the compress API, the library
///
/// Contestants take turns on the same work, round after round; figures are medians, with the memory used beside the
/// speed. Prints a table; the options of each benchmark say where JSON, CSV and an HTML page with pictures go.
#[derive(Parser)]
#[command(
    name = "uzram-bench",
    bin_name = "uzram bench",
    version,
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
struct Args {
    #[command(flatten)]
    log: Log,
    #[command(subcommand)]
    benchmark: Benchmark,
}

// `uzram advise`; its help is that of its arguments.
#[derive(Parser)]
#[command(name = "uzram-advise", bin_name = "uzram advise", version)]
struct Advise {
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    advise: advise::Args,
}

/// Accepted as by every command of `uzram`; this program logs nothing.
#[derive(clap::Args)]
struct Log {
    #[arg(long, global = true, value_name = "FILTER", hide = true)]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Benchmark {
    Fio(Box<fio::Args>),
    Compare(Compare),
    Api(Api),
    Core(Core),
    Corpus(Corpus),
    Render(Render),
    #[command(hide = true)]
    Lab(lab::Args),
    #[command(hide = true)]
    Man(Man),
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
    #[command(flatten)]
    size: Size,
    /// Take the pages from this folder, which "uzram bench corpus" made, instead of making them now
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    #[command(flatten)]
    files: Files,
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
    #[command(flatten)]
    size: Size,
    #[command(flatten)]
    files: Files,
}

/// How much to measure.
#[derive(clap::Args)]
struct Size {
    /// A small run: its figures mean little
    #[arg(long)]
    quick: bool,
    /// How often each contestant takes its turn [default: 21; of "api" 801]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
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

/// Show a record again
///
/// Prints the table of a record that --json wrote, or makes CSV, a page or a picture of it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram bench render run.json
  uzram bench render run.json --html run.html")]
struct Render {
    /// What --json wrote
    #[arg(value_name = "RECORD")]
    record: PathBuf,
    /// Write the figures, a line each
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write one page with tables and pictures, which needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the first picture as SVG; of codecs those of writing and of reading, one below the other
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Write the manual pages of what this program serves
#[derive(clap::Args)]
struct Man {
    /// The directory to write them to
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Runs the program with this process's arguments and other algorithms than the built-in ones, which are then advised and
/// measured as those are. The counterpart of `uzram_cli::main_with`: a program `NAME` starts the `NAME-bench` beside it.
///
/// # Panics
///
/// Where an algorithm was looked up before.
pub fn main_with(algorithms: Registry) -> ExitCode {
    let first = uzram_control::zram::provide_algorithms(algorithms);
    assert!(first, "algorithms are provided before anything else");
    main()
}

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    // A file that grows beyond the limit is an error, and no signal ends the program.
    let heard = std::sync::Arc::default();
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, heard) {
        eprintln!("uzram-bench: {error}");
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    let result = match words.get(1) {
        Some(word) if word == "advise" => {
            Advise::try_parse_from(&words[1..]).map(|args| args.advise.run())
        }
        _ => Args::try_parse().map(Args::run),
    };
    let result = result.unwrap_or_else(|error| match uzram_manual::complaint(&error) {
        Some(complaint) => Err(Failure::usage(complaint)),
        None => error.exit(),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("uzram-bench: {}", printable(&failure.to_string()));
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// The program that devices are made with.
pub(crate) fn uzram() -> PathBuf {
    uzram_manual::served_program("-bench")
}

impl Args {
    fn run(self) -> Result {
        match self.benchmark {
            Benchmark::Fio(args) => args.run(),
            Benchmark::Compare(args) => args.run(),
            Benchmark::Api(args) => args.run(),
            Benchmark::Core(args) => args.run(),
            Benchmark::Corpus(args) => args.run(),
            Benchmark::Render(args) => args.run(),
            Benchmark::Lab(args) => args.run(),
            Benchmark::Man(args) => args.run(),
        }
    }
}

impl Man {
    fn run(self) -> Result {
        for mut program in [Args::command(), Advise::command()] {
            program = program.disable_help_subcommand(true);
            program.build();
            let commands = uzram_manual::commands(&program);
            for command in std::iter::once(&program).chain(commands) {
                uzram_manual::write(&self.dir, &program, command)?;
            }
        }
        Ok(())
    }
}

impl Compare {
    fn run(self) -> Result {
        let compared = crate::fio::compare(&self.files, self.target.as_deref());
        print(&compared.map_err(|error| Failure::usage(format!("{error:#}")))?)
    }
}

impl Api {
    fn run(self) -> Result {
        lab::measure(&api::EXPERIMENT, &self.size.how(self.corpus), &self.files)
    }
}

impl Core {
    fn run(self) -> Result {
        lab::measure(&core::EXPERIMENT, &self.size.how(None), &self.files)
    }
}

impl Size {
    fn how(&self, corpus: Option<PathBuf>) -> How {
        How {
            quick: self.quick,
            rounds: self.rounds.map(|n| n as usize),
            corpus,
            ..How::default()
        }
    }
}

impl Render {
    fn run(self) -> Result {
        let outcome =
            output::read(&self.record).map_err(|error| Failure::usage(format!("{error:#}")))?;
        let Render { csv, html, svg, .. } = self;
        let asked = csv.is_some() || html.is_some() || svg.is_some();
        let json = None;
        Files { json, csv, html }.write(&*outcome).map_err(failed)?;
        if let Some(path) = svg {
            let charts = outcome.charts();
            let shown = charts.iter().filter(|chart| !chart.is_empty());
            let panels: Vec<&Chart> = shown.take(outcome.panels()).collect();
            if panels.is_empty() {
                let message = format!("{} has no picture", self.record.display());
                return Err(Failure::usage(message));
            }
            let drawn = Chart::stacked(&panels).and_then(|svg| file::write(&path, &svg));
            drawn.map_err(failed)?;
        }
        match asked {
            true => Ok(()),
            false => print(&text(&*outcome)),
        }
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

/// Demands that each of the files is known to be writable.
fn check_files(files: &Files) -> Result {
    files
        .check()
        .map_err(|error| Failure::usage(format!("{error:#}")))
}

/// Writes the files, then prints: results are not lost if stdout is closed.
fn hand_out(outcome: &dyn Outcome, files: &Files) -> Result {
    files.write(outcome).map_err(failed)?;
    print(&text(outcome))
}

/// Writes to stdout, words or JSON, with nothing in it that a terminal obeys: names of processes are others'. A reader that
/// stops early is no failure.
fn print(text: &str) -> Result {
    let text = printable_json(text);
    match io::Write::write_all(&mut io::stdout().lock(), text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Runs a benchmark with a spinner that names the current step, or a line for each step where stderr is no terminal.
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

/// A progress bar on stderr, hidden where that is no terminal.
fn bar(template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(0);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
