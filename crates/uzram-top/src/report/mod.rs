//! `uzram report`: what a device holds, how that came to be, and what a policy would gain, as text or as one page.
//!
//! | module | its subject |
//! | --- | --- |
//! | `gather` | what device and daemon are asked |
//! | `figures` | tables, charts and sentences made of it |
//! | `chart` | lines, bars and columns as SVG |
//! | `page`, `text` | the two forms |
//! | `file` | where a page goes |

mod chart;
mod figures;
mod file;
mod gather;
mod page;
mod text;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Parser;
use uzram_control::RunDir;
use uzram_spec::{Result, printable};

use file::Target;
use gather::{Facts, Measured};

/// Say what a device holds, and what a policy would gain
///
/// Pages by state, algorithm, size class and age; memory over time, where uzramd runs, which notes it; and what recompression and
/// writeback would save, measured on a sample of the device's own pages. Changes nothing. With --html it is one page with charts that
/// needs no network.
#[derive(Parser)]
#[command(
    name = "uzram-report",
    bin_name = "uzram report",
    version,
    after_help = "\
Examples:
  uzram report zram0
  uzram report zram0 --html zram0.html
  uzram report zram0 --try 'zstd(level=9)' --sample 16384

The sample is compressed by the device's server, beside its requests: 4096 pages take some tenths of a second of processor time. It \
waits for what else takes long on the device (uzram jobs)."
)]
pub(crate) struct Arguments {
    /// The device: its name, its path or its URI
    #[arg(value_name = "NAME")]
    name: String,
    /// Write a page to this file, - for stdout, instead of text. It takes the place of a former report, whole or not at all; of any
    /// other file only with --force
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Let the page take the place of any file
    #[arg(long, requires = "html")]
    force: bool,
    /// Pages to measure on, 0 to 16384; 0: measure nothing
    #[arg(long, value_name = "PAGES", default_value = "4096", value_parser = clap::value_parser!(u16).range(0..=16384))]
    sample: u16,
    /// Say what this algorithm would save, beside those that are set for recompression [default: lzhs and zstd]; up to 8 times
    #[arg(long = "try", value_name = "ALGORITHM")]
    algorithms: Vec<String>,
    /// Accepted as by every command of `uzram`; this program logs nothing
    #[arg(long, value_name = "FILTER", hide = true)]
    log: Option<String>,
}

impl Arguments {
    pub(crate) fn run(self) -> Result {
        let run = RunDir::of_user();
        let entry = run.find(&self.name)?;
        // What cannot be written is said before anything is measured.
        let target = self.html.as_deref();
        let target = target
            .map(|path| Target::check(path, self.force))
            .transpose()?;
        let measured = Measured {
            sample_pages: self.sample.into(),
            algorithms: &self.algorithms,
        };
        let facts = Facts::gather(&run, &entry, &measured)?;
        let report = figures::Report::new(&facts);
        match target {
            Some(target) => target.write(&page::page(&report)),
            None => print(&text::text(&report)),
        }
    }
}

/// Writes to stdout. Whoever reads it may stop early: no failure.
fn print(text: &str) -> Result {
    match io::stdout().lock().write_all(printable(text).as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
