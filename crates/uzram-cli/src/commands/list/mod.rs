//! `uzram list`: the running devices as a table like zramctl's, and with zramctl's options also what that does to devices.

mod columns;
mod zramctl;

use uzram_blockdev::Survey;
use uzram_control::size;
use uzram_runtime::{client, sweep, users};

use super::{print, print_json, to_json};
use crate::exit::{Failure, Kind, Result};
use columns::{COLUMNS, Cell, Column, Row};

pub(super) use columns::ratio;

/// List the devices
///
/// All of zramctl's options are understood, so that scripts can be run with alias zramctl='uzram list'.
#[derive(clap::Args)]
#[command(
    version,
    after_help = "\
Examples:
  uzram list
  uzram list --bytes --noheadings --output name,data,total
  uzram list --output +huge-pages,idle-pages,recompressed,written-back
  uzram list --json
  uzram list --find --size 4G --algorithm zstd --algorithm-params level=1
  uzram list --reset zram0"
)]
pub(crate) struct Args {
    /// The devices to list or to set up: names or paths [default: all]
    #[arg(value_name = "DEVICE")]
    devices: Vec<String>,
    #[command(flatten)]
    zramctl: zramctl::Setup,
    /// Print sizes in bytes
    #[arg(long, short)]
    bytes: bool,
    /// Print JSON: one object a device, sizes in bytes
    #[arg(long, short = 'J', conflicts_with_all = ["output", "output_all", "raw"])]
    json: bool,
    /// Columns to print, separated by commas; after a + they are added to the usual ones. See below for the names
    #[arg(long, short, value_name = "COLUMNS", long_help = columns_help())]
    output: Option<String>,
    /// Print all columns
    #[arg(long, conflicts_with = "output")]
    output_all: bool,
    /// Print no headings
    #[arg(long, short)]
    noheadings: bool,
    /// Print one space between columns and align nothing
    #[arg(long)]
    raw: bool,
}

fn columns_help() -> String {
    let mut help = String::from(
        "Columns to print, separated by commas; after a + they are added to the usual ones:\n",
    );
    for column in COLUMNS {
        help.push_str(&format!("  {:11} {}\n", column.name, column.doc));
    }
    help
}

impl Args {
    pub(crate) fn run(self) -> Result {
        if let Some(done) = self.zramctl.run(&self.devices) {
            return done;
        }
        let columns = self.columns()?;
        let mut rows = Vec::new();
        let run = sweep::swept_run_dir()?;
        // One look at the machine for all.
        let survey = Survey::new();
        for entry in super::all_or(&run, self.devices.is_empty(), &self.devices)? {
            let entry = entry?;
            // A server that does not answer is worth a word, unless it is going just now.
            match client::stat(&entry) {
                Ok(stat) => {
                    let mounts = users::mounts(&survey, &entry);
                    rows.push(Row {
                        entry,
                        stat,
                        mounts,
                    });
                }
                Err(_) if entry.is_going() => {}
                Err(failure) => eprintln!("uzram: {failure}"),
            }
        }
        if self.json {
            let objects: Result<Vec<_>> = {
                let object = |r: &Row| to_json(&survey, &r.entry, &r.stat);
                rows.iter().map(object).collect()
            };
            return print_json(&objects?.into());
        }
        print(&self.table(&columns, &rows))
    }

    fn columns(&self) -> Result<Vec<&'static Column>> {
        let usual = || {
            COLUMNS
                .iter()
                .filter(|column| column.usual)
                .collect::<Vec<_>>()
        };
        let Some(list) = &self.output else {
            return Ok(if self.output_all {
                COLUMNS.iter().collect()
            } else {
                usual()
            });
        };
        let (mut columns, list) = match list.strip_prefix('+') {
            Some(list) => (usual(), list),
            None => (Vec::new(), list.as_str()),
        };
        for name in list.split(',') {
            let found = COLUMNS
                .iter()
                .find(|column| column.name.eq_ignore_ascii_case(name.trim()));
            columns.push(found.ok_or_else(|| {
                let known: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
                let message = format!("no column '{name}' (there are: {})", known.join(", "));
                Failure::new(Kind::Usage, message)
            })?);
        }
        Ok(columns)
    }

    fn table(&self, columns: &[&Column], rows: &[Row]) -> String {
        let show = |cell: Cell| match cell {
            Cell::Text(text) => (text, false),
            Cell::Count(n) => (n.to_string(), true),
            Cell::Bytes(n) if self.bytes => (n.to_string(), true),
            Cell::Bytes(n) => (size::human(n), true),
        };
        // Numbers stand to the right, and so do their headings.
        let mut lines: Vec<Vec<(String, bool)>> = rows
            .iter()
            .map(|row| columns.iter().map(|c| show((c.cell)(row))).collect())
            .collect();
        if !self.noheadings {
            let blank = Row::blank();
            let heading = |c: &&Column| (c.name.to_owned(), show((c.cell)(&blank)).1);
            lines.insert(0, columns.iter().map(heading).collect());
        }
        let widths: Vec<usize> = (0..columns.len())
            .map(|i| lines.iter().map(|line| line[i].0.len()).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for line in &lines {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|((text, right), width)| match (self.raw, right) {
                    (true, _) => text.clone(),
                    (false, true) => format!("{text:>width$}"),
                    (false, false) => format!("{text:width$}"),
                })
                .collect();
            out.push_str(cells.join(" ").trim_end());
            out.push('\n');
        }
        out
    }
}
