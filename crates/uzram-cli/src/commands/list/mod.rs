//! `uzram list`: the running devices as a table like zramctl's, and with zramctl's options also what that does to devices.

mod columns;
mod zramctl;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use uzram_blockdev::Survey;
use uzram_control::size;
use uzram_control::stat::Stat;
use uzram_control::{Error, RunningDevice};
use uzram_runtime::{client, sweep, users};
use uzram_spec::printable_line;

use super::{print, print_json, to_value};
use crate::exit::{self, Failure, Result};
use columns::{ALIAS, COLUMNS, CellOf, CellValue, Column, DeviceRow, IDLE_PAGES};

pub(super) use columns::ratio;

/// List the devices
///
/// All devices are asked at once. One whose server does not answer within a second is shown with question marks, and the
/// exit code is 1, as where a device's record is damaged. All of zramctl's options are understood, so that scripts can be run with alias zramctl='uzram list'.
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
    /// Print JSON: one object a device, sizes in bytes. With --output it has these columns, in small letters, and null where a server
    /// does not answer
    #[arg(long, short = 'J', conflicts_with = "raw")]
    json: bool,
    /// Columns to print, separated by commas; after a + they are added to the usual ones. See below for the names. The usual ones are
    /// cut to the terminal's width
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

/// Has the pages counted that are marked idle: nobody keeps count of them, and the servers look at all pages.
fn count_idle(rows: &mut [DeviceRow]) {
    let (answering, entries): (Vec<_>, Vec<_>) = rows
        .iter_mut()
        .filter(|row| row.stat.is_ok())
        .map(|row| (&mut row.idle, row.entry.clone()))
        .unzip();
    for (idle, counted) in answering.into_iter().zip(client::count_idle(&entries)) {
        *idle = counted;
    }
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

/// Columns of texts that may be long, the one that gives way first at the front.
const GIVE_WAY: [&str; 3] = ["PATH", "MOUNTPOINT", "ALGORITHM"];
/// What they keep.
const LEAST_WIDTH: usize = 11;

/// The width of the terminal that is printed to, if there is one that says.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Makes columns of texts narrower until all fit the width, if they can.
fn narrow(columns: &[&Column], widths: &mut [usize], width: usize) {
    for name in GIVE_WAY {
        let all = widths.iter().sum::<usize>() + widths.len().saturating_sub(1);
        let over = all.saturating_sub(width);
        let found = columns.iter().position(|column| column.name == name);
        if let Some(own) = found.and_then(|at| widths.get_mut(at)) {
            *own = (*own).min(own.saturating_sub(over).max(LEAST_WIDTH));
        }
    }
}

/// A text of at most that many characters; what is cut ends in dots.
fn cut(text: &str, width: usize) -> std::borrow::Cow<'_, str> {
    if text.chars().count() <= width {
        return text.into();
    }
    let kept: String = text.chars().take(width.saturating_sub(3)).collect();
    (kept + "...").into()
}

/// A device's columns as JSON.
fn object(columns: &[&Column], row: &DeviceRow) -> Value {
    let value = |cell| match cell {
        CellValue::Text(text) => Value::from(text),
        CellValue::Count(n) | CellValue::Bytes(n) => Value::from(n),
    };
    let pair = |column: &&Column| {
        let value = match (&row.stat, column.cell) {
            (_, CellOf::Known(cell)) => value(cell(row)),
            (Ok(stat), CellOf::Asked(cell)) => value(cell(row, stat)),
            (Err(_), CellOf::Asked(_)) => Value::Null,
        };
        (column.name.to_lowercase(), value)
    };
    columns.iter().map(pair).collect::<Map<_, _>>().into()
}

/// Says to a user without devices where root's are, if there are any that may be.
fn tell_of_roots() {
    const ROOT: &str = "/run/uzram";
    let chosen = std::env::var_os("UZRAM_RUN_DIR").is_some_and(|dir| !dir.is_empty());
    if !chosen && !rustix::process::geteuid().is_root() && Path::new(ROOT).exists() {
        exit::tell(format!(
            "no devices of this user's; root's are in {ROOT}: sudo uzram list"
        ));
    }
}

impl Args {
    pub(crate) fn run(self) -> Result {
        if let Some(done) = self.zramctl.run(&self.devices) {
            return done;
        }
        let mut columns = self.columns()?;
        let run = sweep::swept_run_dir()?;
        let entries = super::all_or(&run, self.devices.is_empty(), &self.devices)?;
        let entries: Vec<RunningDevice> = entries.into_iter().collect::<Result<_>>()?;
        let begin = Instant::now();
        let stats = client::survey(&entries);
        // A server that does not answer is worth a word, unless it is going just now.
        let asked = || entries.iter().zip(&stats);
        while asked().any(|(entry, stat)| stat.is_err() && !entry.is_gone())
            && begin.elapsed() < client::SURVEY
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        // One look at the machine for all.
        let survey = Survey::new();
        let mut rows: Vec<DeviceRow> = entries
            .into_iter()
            .zip(stats)
            .filter(|(entry, stat)| stat.is_ok() || !entry.is_gone())
            .map(|(entry, stat)| DeviceRow {
                mounts: users::mounts(&survey, &entry),
                entry,
                stat,
                idle: None,
            })
            .collect();
        // Where nobody asked for it, it is there for those that have one.
        let asked = self.output_all
            || self
                .output
                .as_ref()
                .is_some_and(|list| !list.starts_with('+'));
        if !asked && rows.iter().all(|row| row.entry.record.alias.is_empty()) {
            columns.retain(|column| column.name != ALIAS);
        }
        if columns.iter().any(|column| column.name == IDLE_PAGES) {
            count_idle(&mut rows);
        }
        if self.json && (self.output.is_some() || self.output_all) {
            let objects: Vec<_> = rows.iter().map(|row| object(&columns, row)).collect();
            print_json(&objects.into())?;
        } else if self.json {
            let object = |row: &DeviceRow| client::describe(&survey, &row.entry, &row.stat);
            let objects: Vec<_> = rows.iter().map(object).collect();
            print_json(&to_value(&objects)?)?;
        } else {
            print(&self.table(&columns, &rows))?;
        }
        if rows.is_empty() && !self.json && !self.raw && !self.noheadings {
            tell_of_roots();
        }
        let silent = rows.into_iter().filter_map(|row| row.stat.err());
        let mut failures: Vec<Failure> = silent.collect();
        if self.devices.is_empty() {
            let damaged = run.damaged()?.into_iter();
            failures.extend(damaged.map(|device| Failure::from(Error::Damaged(device))));
        }
        super::all_failures(true, failures)
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
                Failure::usage(message)
            })?);
        }
        Ok(columns)
    }

    fn table(&self, columns: &[&Column], rows: &[DeviceRow]) -> String {
        let show = |cell: CellValue| match cell {
            CellValue::Text(text) => (printable_line(&text).into_owned(), false),
            CellValue::Count(n) => (n.to_string(), true),
            CellValue::Bytes(n) if self.bytes => (n.to_string(), true),
            CellValue::Bytes(n) => (size::human(n), true),
        };
        // Numbers stand to the right, and so do their headings.
        let cell = |row: &DeviceRow, column: &&Column| match (&row.stat, column.cell) {
            (_, CellOf::Known(cell)) => show(cell(row)),
            (Ok(stat), CellOf::Asked(cell)) => show(cell(row, stat)),
            (Err(_), CellOf::Asked(cell)) => ("?".to_owned(), show(cell(row, &Stat::default())).1),
        };
        let mut lines: Vec<Vec<(String, bool)>> = rows
            .iter()
            .map(|row| columns.iter().map(|c| cell(row, c)).collect())
            .collect();
        if !self.noheadings {
            let blank = DeviceRow::blank();
            let heading = |c: &&Column| (c.name.to_owned(), cell(&blank, c).1);
            lines.insert(0, columns.iter().map(heading).collect());
        }
        let widths: Vec<usize> = (0..columns.len())
            .map(|i| lines.iter().map(|line| line[i].0.len()).max().unwrap_or(0))
            .collect();
        let mut widths = widths;
        if self.output.is_none()
            && !self.output_all
            && !self.raw
            && let Some(width) = terminal_width()
        {
            narrow(columns, &mut widths, width);
        }
        let mut out = String::new();
        for line in &lines {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|((text, right), width)| match (self.raw, right) {
                    (true, _) => text.clone(),
                    (false, true) => format!("{text:>width$}"),
                    (false, false) => format!("{:width$}", cut(text, *width)),
                })
                .collect();
            out.push_str(cells.join(" ").trim_end());
            out.push('\n');
        }
        out
    }
}
