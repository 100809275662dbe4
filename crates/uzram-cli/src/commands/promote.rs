//! `uzram promote`: brings pages from the backing back into memory.

use uzram_control::size::human;
use uzram_control::{Request, Response};

use super::{Pages, ask, print, print_json, unexpected};
use crate::exit::Result;
use uzram_runtime::sweep;

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
        let entry = sweep::swept_run_dir()?.find(&self.name)?;
        let pages = self.pages.map(|pages| pages.0);
        let (pages, bytes) = match ask(&entry, &Request::Promote { pages })? {
            Response::Promoted(report) => (report.pages, report.bytes),
            other => return Err(unexpected(&entry, &other)),
        };
        if self.json {
            return print_json(&serde_json::json!({ "pages": pages, "bytes": bytes }));
        }
        print(&format!(
            "{pages} pages are back in memory: {}\n",
            human(bytes)
        ))
    }
}
