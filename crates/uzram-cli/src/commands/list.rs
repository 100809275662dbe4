//! `uzram list`: the running devices as a table like zramctl's.

use uzram_control::stat::{Codec, Stat};
use uzram_control::{Entry, size};

use super::{mount_point, print, print_json, stat_of, to_json};
use crate::exit::{Failure, Kind, Result};
use crate::sweep;

/// List the devices
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram list
  uzram list --bytes --noheadings --output name,data,total
  uzram list --json")]
pub(crate) struct Args {
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

/// One row's source.
struct Row {
    entry: Entry,
    stat: Stat,
}

/// What a column shows.
enum Cell {
    Text(String),
    Count(u64),
    Bytes(u64),
}

struct Column {
    name: &'static str,
    usual: bool,
    doc: &'static str,
    cell: fn(&Row) -> Cell,
}

/// zramctl's columns in zramctl's order, and what it lacks.
const COLUMNS: &[Column] = &[
    Column {
        name: "NAME",
        usual: true,
        doc: "the device's name",
        cell: |r| text(&r.entry.record.name),
    },
    Column {
        name: "PATH",
        usual: true,
        doc: "its node, or the URI of its socket",
        cell: |r| text(&r.entry.record.path),
    },
    Column {
        name: "ALGORITHM",
        usual: true,
        doc: "the compression algorithm",
        cell: |r| text(&r.stat.algorithm),
    },
    Column {
        name: "DISKSIZE",
        usual: true,
        doc: "the size of the disk",
        cell: |r| Cell::Bytes(r.stat.disksize),
    },
    Column {
        name: "DATA",
        usual: true,
        doc: "data that is stored",
        cell: |r| Cell::Bytes(r.stat.orig_data_size),
    },
    Column {
        name: "COMPR",
        usual: true,
        doc: "the same compressed",
        cell: |r| Cell::Bytes(r.stat.compr_data_size),
    },
    Column {
        name: "TOTAL",
        usual: true,
        doc: "pool memory in use",
        cell: |r| Cell::Bytes(r.stat.mem_used_total),
    },
    Column {
        name: "STREAMS",
        usual: true,
        doc: "compression streams",
        cell: |r| Cell::Count(r.stat.streams),
    },
    Column {
        name: "ZERO-PAGES",
        usual: false,
        doc: "same-filled pages",
        cell: |r| Cell::Count(r.stat.same_pages),
    },
    Column {
        name: "MEM-LIMIT",
        usual: false,
        doc: "limit on pool memory",
        cell: |r| Cell::Bytes(r.stat.mem_limit),
    },
    Column {
        name: "MEM-USED",
        usual: false,
        doc: "the most pool memory that was in use",
        cell: |r| Cell::Bytes(r.stat.mem_used_max),
    },
    Column {
        name: "MIGRATED",
        usual: false,
        doc: "pages freed by compaction",
        cell: |r| Cell::Count(r.stat.pages_compacted),
    },
    Column {
        name: "COMP-RATIO",
        usual: false,
        doc: "DATA over TOTAL",
        cell: |r| Cell::Text(ratio(&r.stat)),
    },
    Column {
        name: "HUGE-PAGES",
        usual: false,
        doc: "pages stored uncompressed",
        cell: |r| Cell::Count(r.stat.huge_pages),
    },
    Column {
        name: "MEMORY",
        usual: false,
        doc: "all memory: pool, table, books, streams",
        cell: |r| Cell::Bytes(r.stat.all_memory()),
    },
    Column {
        name: "DRIVER",
        usual: false,
        doc: "the algorithm's driver",
        cell: |r| text(&r.stat.driver),
    },
    Column {
        name: "CODECS",
        usual: false,
        doc: "all algorithms with parameters and dictionaries, the primary in brackets",
        cell: |r| Cell::Text(codecs(&r.stat)),
    },
    Column {
        name: "DICTIONARY",
        usual: false,
        doc: "bytes of dictionaries",
        cell: |r| Cell::Bytes(r.stat.dictionary_bytes),
    },
    Column {
        name: "FRONTEND",
        usual: false,
        doc: "how the device is served",
        cell: |r| text(&r.entry.record.frontend),
    },
    Column {
        name: "PID",
        usual: false,
        doc: "the server's process number",
        cell: |r| Cell::Count(r.entry.record.pid.into()),
    },
    Column {
        name: "KEEPER",
        usual: false,
        doc: "the process number of its keeper, 0 for none",
        cell: |r| Cell::Count(r.entry.record.keeper.into()),
    },
    Column {
        name: "MOUNTPOINT",
        usual: true,
        doc: "where it is mounted",
        cell: |r| Cell::Text(mount_point(&r.entry).unwrap_or_default()),
    },
];

fn text(text: &str) -> Cell {
    Cell::Text(text.into())
}

/// As zram's comp_algorithm marks the one that is written with.
fn codecs(stat: &Stat) -> String {
    let show = |codec: &Codec| match codec.priorities.contains(&0) {
        true => format!("[{codec}]"),
        false => codec.to_string(),
    };
    stat.codecs.iter().map(show).collect::<Vec<_>>().join(" ")
}

/// Data over pool memory, as zramctl shows it.
pub(super) fn ratio(stat: &Stat) -> String {
    stat.ratio()
        .map_or(String::new(), |ratio| format!("{ratio:.4}"))
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
        let columns = self.columns()?;
        let mut rows = Vec::new();
        for entry in sweep::swept_run_dir()?.devices()? {
            // A server that does not answer is worth a word, unless it is going just now.
            match stat_of(&entry) {
                Ok(stat) => rows.push(Row { entry, stat }),
                Err(_) if entry.is_going() => {}
                Err(failure) => eprintln!("uzram: {failure}"),
            }
        }
        if self.json {
            let objects: Result<Vec<_>> = rows.iter().map(|r| to_json(&r.entry, &r.stat)).collect();
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

impl Row {
    /// A row of nothing, to ask a column for its kind.
    fn blank() -> Row {
        let record = uzram_control::Record {
            version: 1,
            name: String::new(),
            pid: 0,
            frontend: String::new(),
            path: String::new(),
            program: String::new(),
            keeper: 0,
            resume: String::new(),
        };
        Row {
            entry: Entry {
                dir: std::path::PathBuf::new(),
                record,
            },
            stat: Stat::default(),
        }
    }
}
