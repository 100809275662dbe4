//! `uzram promote`: brings pages from the backing back into memory.

use uzram_control::size::human;
use uzram_control::{Request, Response};

use super::{Pages, job, jobs, print_json, print_outcome};
use crate::exit::{Failure, Result};

/// Bring a device's pages from its backing back into memory
///
/// A page that cannot come back, since it cannot be read or memory is full, stays on the backing; all others come back.
/// The exit code is 1 then, and the first such pages are named.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram promote zram0
  uzram promote zram0 --pages 0-262143")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
    /// Only the pages with these numbers, as FIRST-LAST or one number
    #[arg(long, value_name = "RANGE")]
    pages: Option<Pages>,
    /// Return at once, and let the device go on by itself: "uzram jobs" shows how far it is, and ends it
    #[arg(long)]
    detach: bool,
    /// Print JSON
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let pages = self.pages.map(|pages| pages.0);
        let request = Request::Promote { pages };
        if self.detach {
            return jobs::detach(&self.name, &request, self.json);
        }
        let report = job!(&self.name, &request, Response::Promoted(report) => report);
        let (pages, failed) = (report.pages, report.failed);
        let value = serde_json::json!({
            "pages": pages, "bytes": report.bytes, "failed": failed, "failures": report.failures,
        });
        let words = format!("{pages} pages are back in memory: {}", human(report.bytes));
        if failed == 0 {
            return print_outcome(self.json, &value, words + "\n");
        }
        if self.json {
            print_json(&value)?;
        }
        let first: Vec<&str> = report.failures.iter().map(|f| f.why.as_str()).collect();
        let more = match failed.saturating_sub(first.len() as u64) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let message = format!(
            "{words}; {failed} could not be brought back and stay on the backing: {}{more}",
            first.join("; ")
        );
        Err(Failure::failed(message))
    }
}
