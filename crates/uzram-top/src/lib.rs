//! The program behind `uzram top`, what devices do as it happens, and `uzram report`, what one of them holds.
//!
//! A program of its own, so that no server, keeper or standby has a terminal's library in its memory, which a device that
//! serves as swap locks. It asks the devices' servers as `uzram list` does, and changes nothing itself: what a key begins is a
//! command of `uzram`.
//!
//! | module | its subject |
//! | --- | --- |
//! | `sample` | what is known at one moment |
//! | `board` | what two of these make: rates, percentiles, history |
//! | `screen` | how that is drawn |
//! | `live` | keys and signals |
//! | `report` | the report, as text and as a page |
#![forbid(unsafe_code)]

mod board;
mod live;
mod report;
mod sample;
mod screen;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, Parser};
use uzram_control::RunDir;
use uzram_spec::{Failure, Result, printable};

use board::{Board, COLUMNS};
use sample::Sample;

/// Watch what devices do
///
/// A line for each device: its data and memory, requests and bytes read and written a second, and the time that 99 of 100 of them
/// stayed below. Of the chosen one also the past, and what takes long. ? says what the keys do. It fits 80 columns and 24 lines.
#[derive(Parser)]
#[command(
    name = "uzram-top",
    bin_name = "uzram top",
    version,
    after_help = "\
Examples:
  uzram top
  uzram top zram0 zram3 --interval 0.5
  uzram top --sort write-bytes
  uzram top --batch --count 10 >devices.txt"
)]
struct Top {
    /// The devices: names, paths or URIs [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Seconds between two looks, 0.1 to 3600
    #[arg(long, short = 'd', value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,
    /// Sort by this column, the largest first
    #[arg(long, short = 's', value_name = "COLUMN", default_value = "name",
          value_parser = PossibleValuesParser::new(COLUMNS.iter().map(|column| column.name)))]
    sort: String,
    /// Print a table at each interval, without a terminal
    #[arg(long, short = 'b')]
    batch: bool,
    /// End after so many tables
    #[arg(long, short = 'n', value_name = "N", requires = "batch", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Accepted as by every command of `uzram`; this program logs nothing
    #[arg(long, value_name = "FILTER", hide = true)]
    log: Option<String>,
}

// Writes the manual pages of what this program serves.
#[derive(Parser)]
struct Man {
    /// The directory to write them to
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

fn interval(text: &str) -> std::result::Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    match (0.1..=3600.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("not between 0.1 and 3600".into()),
    }
}

/// Runs the program with this process's arguments: `top` or `report` with its options, or `man` and a directory.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let rest = words.get(1..).unwrap_or_default();
    let command = rest.first().and_then(|word| word.to_str());
    let result = match command {
        Some("man") => Man::try_parse_from(rest).map(Man::run),
        Some("report") => report::Arguments::try_parse_from(rest).map(report::Arguments::run),
        Some("top") => Top::try_parse_from(rest).map(Top::run),
        _ => Top::try_parse_from(&words).map(Top::run),
    };
    let result = result.unwrap_or_else(|error| match uzram_manual::complaint(&error) {
        Some(complaint) => Err(Failure::usage(complaint)),
        None => error.exit(),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let command = command
                .filter(|command| *command == "report")
                .unwrap_or("top");
            let text = printable(&failure.to_string()).into_owned();
            eprintln!("uzram {command}: {text}");
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// The program that keys start.
fn uzram() -> PathBuf {
    uzram_manual::served_program("-top")
}

impl Man {
    fn run(self) -> Result {
        for mut program in [Top::command(), report::Arguments::command()] {
            program.build();
            uzram_manual::write(&self.dir, &program, &program)?;
        }
        Ok(())
    }
}

impl Top {
    fn run(self) -> Result {
        let run = RunDir::of_user();
        let entries = sample::entries(&run, &self.names)?;
        let names = match self.names.is_empty() {
            true => Vec::new(),
            false => entries.into_iter().map(|entry| entry.record.name).collect(),
        };
        let sort = COLUMNS
            .iter()
            .position(|column| column.name == self.sort)
            .unwrap_or(0);
        if self.batch {
            return self.print(&run, &names, sort);
        }
        live::check_terminal()?;
        let view = screen::View {
            sort,
            ..screen::View::default()
        };
        live::Live {
            run,
            names,
            interval: self.interval,
            view,
        }
        .show()
    }

    /// Prints tables until there are enough, or nobody reads them.
    fn print(&self, run: &RunDir, names: &[String], sort: usize) -> Result {
        let mut board = Board::default();
        board.update(Sample::new(run, names)?);
        let mut left = self.count;
        while left != Some(0) {
            std::thread::sleep(self.interval);
            board.update(Sample::new(run, names)?);
            left = left.map(|left| left - 1);
            let text = table(&board, sort) + if left == Some(0) { "" } else { "\n" };
            match io::stdout().lock().write_all(printable(&text).as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
        Ok(())
    }
}

/// The table as text.
fn table(board: &Board, sort: usize) -> String {
    let line = |text: &dyn Fn(usize) -> String| {
        let cells = COLUMNS.iter().enumerate().map(|(n, column)| {
            let width = usize::from(column.width);
            match n {
                0 => format!("{:width$}", text(n)),
                _ => format!("{:>width$}", text(n)),
            }
        });
        cells.collect::<Vec<_>>().join(" ").trim_end().to_owned() + "\n"
    };
    let mut out = line(&|n| COLUMNS[n].head.into());
    for index in board.order(&COLUMNS[sort], false) {
        let row = &board.rows[index];
        out += &line(&|n| match (n, &row.silent) {
            (1, Some(_)) => "?".into(),
            (1.., Some(_)) => String::new(),
            _ => (COLUMNS[n].text)(row),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Top::command().debug_assert();
        report::Arguments::command().debug_assert();
    }

    #[test]
    fn intervals_are_checked() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "nan", "inf", "1e9", "x", ""] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
