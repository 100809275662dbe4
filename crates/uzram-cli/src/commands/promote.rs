//! `uzram promote`: brings pages from the backing back into memory.

use uzram_control::size::human;
use uzram_control::{Request, Response};

use super::{Pages, job, print_outcome};
use crate::exit::Result;

/// Bring a device's pages from its backing back into memory
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
    /// Print JSON
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let pages = self.pages.map(|pages| pages.0);
        let request = Request::Promote { pages };
        let (pages, bytes) = job(&self.name, &request, |answer| match answer {
            Response::Promoted(report) => Ok((report.pages, report.bytes)),
            other => Err(other),
        })?;
        let value = serde_json::json!({ "pages": pages, "bytes": bytes });
        let words = format!("{pages} pages are back in memory: {}\n", human(bytes));
        print_outcome(self.json, &value, words)
    }
}
