//! `uzram writeback`: moves pages from memory to the backing.

use clap::builder::PossibleValuesParser;
use uzram::{Ended, WritebackReport};
use uzram_control::size::human;
use uzram_control::{Request, Response};

use super::{Pages, job, jobs, print_outcome};
use crate::exit::{Failure, Result};
use uzram_runtime::{client, sweep};

/// Write a device's pages back to its backing
///
/// Moves compressed pages from memory to the file, the block device or the remote that "uzram set NAME backing=" gave the
/// device, several in a block. They are read from there as if they were in memory; "uzram promote" brings them back.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram set zram0 backing=/var/tmp/zram0.store,4G
  uzram idle zram0; sleep 3600; uzram writeback zram0 --kind idle
  uzram writeback zram0 --kind huge --max-pages 10000
  uzram writeback zram0 --pages 0-262143")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
    /// Which pages: those not used since they were marked idle (see "uzram idle"), those stored uncompressed, both, those
    /// that recompression could not make smaller, or all
    #[arg(long, default_value = "all", value_name = "KIND",
          value_parser = PossibleValuesParser::new(["all", "idle", "huge", "huge_idle", "incompressible"]))]
    kind: String,
    /// Only the pages with these numbers, as FIRST-LAST or one number; may be given several times
    #[arg(long, value_name = "RANGE")]
    pages: Vec<Pages>,
    /// Write so many pages at most; 0 is all
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_pages: u64,
    /// Only say to how many pages it applies
    #[arg(long)]
    dry_run: bool,
    /// Return at once, and let the device go on by itself: "uzram jobs" shows how far it is, and ends it
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
    /// Print JSON
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let request = Request::Writeback(uzram_control::WritebackRequest {
            kind: self.kind.parse()?,
            pages: self.pages.iter().map(|pages| pages.0).collect(),
            max_pages: self.max_pages,
            dry_run: self.dry_run,
        });
        if self.detach {
            return jobs::detach(&self.name, &request, self.json);
        }
        let name = self.name.clone();
        let done = job!(&self.name, &request, Response::WrittenBack(done) => done);
        print_outcome(self.json, &done, show(&done, self.dry_run))?;
        match done.ended {
            Some(Ended::Full) => Err(Failure::failed("the backing is full")),
            Some(Ended::Failing) => Err(Failure::failed(format!(
                "the backing refuses writes or does not answer{}; the pages stayed in memory",
                store_failure(&name).map_or_else(String::new, |why| format!(" ({why})")),
            ))),
            _ => Ok(()),
        }
    }
}

/// What the store of the backing last said, where it is one.
fn store_failure(name: &str) -> Option<String> {
    let entry = sweep::swept_run_dir().ok()?.find(name).ok()?;
    let stat = client::stat(&entry).ok()?;
    let failure = stat.backing?.store?.failure;
    (!failure.is_empty()).then_some(failure)
}

fn show(done: &WritebackReport, dry_run: bool) -> String {
    if dry_run {
        return format!(
            "{} pages, {} compressed, would be written\n",
            done.candidates,
            human(done.candidate_bytes)
        );
    }
    let mut text = format!(
        "{} pages are on the backing now: {}\n",
        done.written,
        human(done.bytes)
    );
    if done.failed > 0 {
        text += &format!(
            "{} pages could not be written and stayed in memory\n",
            done.failed
        );
    }
    if done.ended == Some(Ended::Limit) {
        text += "writeback_limit is used up\n";
    }
    text
}
