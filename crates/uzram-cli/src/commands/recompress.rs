//! `uzram recompress`: a denser algorithm for what a device holds.

use clap::builder::PossibleValuesParser;
use uzram::RecompressReport;
use uzram_control::size::{self, human};
use uzram_control::{Request, Response};

use super::{job, jobs, print_outcome};
use crate::exit::Result;

/// Compress what a device holds anew, with a denser algorithm
///
/// Uses the algorithms for recompression that "uzram create --recomp-algorithm" or "uzram set NAME recomp_algorithm=" gave
/// the device, in the order of their priorities, until one makes the page smaller. The device serves as always meanwhile.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram set zram0 recomp_algorithm='zstd(level=9)'
  uzram recompress zram0 --dry-run
  uzram recompress zram0 --detach && uzram jobs zram0
  uzram idle zram0; sleep 600; uzram recompress zram0 --kind idle
  uzram recompress zram0 --kind huge --max-pages 10000")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
    /// Which pages: those not used since they were marked idle (see "uzram idle"), those stored uncompressed, both, or all
    #[arg(long, default_value = "all", value_name = "KIND",
          value_parser = PossibleValuesParser::new(["all", "idle", "huge", "huge_idle"]))]
    kind: String,
    /// Only with the algorithm of this priority
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3))]
    priority: Option<u64>,
    /// Only pages that take at least so many bytes, and only if they become smaller than that
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    threshold: u64,
    /// Try so many pages at most, the largest first; 0 is all
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
        let request = Request::Recompress(uzram_control::RecompressRequest {
            kind: self.kind.parse()?,
            priority: self.priority.map(|priority| priority as usize),
            threshold: usize::try_from(self.threshold).unwrap_or(usize::MAX),
            max_pages: self.max_pages,
            dry_run: self.dry_run,
        });
        if self.detach {
            return jobs::detach(&self.name, &request, self.json);
        }
        let done = job!(&self.name, &request, Response::Recompressed(done) => done);
        print_outcome(self.json, &done, show(&done, self.dry_run))
    }
}

fn show(done: &RecompressReport, dry_run: bool) -> String {
    if dry_run {
        let (pages, bytes) = (done.candidates, human(done.candidate_bytes));
        return format!("{pages} pages, {bytes} compressed, would be tried\n");
    }
    let (smaller, tried) = (done.recompressed, done.tried);
    let (before, after) = (human(done.bytes_before), human(done.bytes_after));
    let mut text =
        format!("{smaller} of {tried} pages are smaller: {before} before, {after} now\n");
    let hopeless = "no algorithm makes smaller: not tried again until they are written";
    let no_room = "found no memory to be stored in";
    for (count, what) in [(done.incompressible, hopeless), (done.no_room, no_room)] {
        if count > 0 {
            text += &format!("{count} pages {what}\n");
        }
    }
    text
}
