//! `uzram idle`: marks pages that nobody uses.

use uzram_control::{Request, Response};

use super::{job, print_outcome};
use crate::exit::Result;

/// Mark a device's pages idle
///
/// Marks all pages, or those that were not used for some time. Reading or writing a page takes its mark away, so that
/// what is still marked later was not used in between. "uzram recompress" and "uzram writeback" can be told to work on idle
/// pages only. Times are known once the device keeps them: "uzram set NAME track_ages=on", which costs 4 bytes a page.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram idle zram0
  uzram set zram0 track_ages=on
  uzram idle zram0 --older-than 3600")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
    /// Only pages that were not used for so many seconds
    #[arg(long, value_name = "SECONDS")]
    older_than: Option<u64>,
    /// Print JSON
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let request = Request::MarkIdle {
            age_seconds: self.older_than,
        };
        let pages = job!(&self.name, &request, Response::Marked { pages } => pages);
        let value = serde_json::json!({ "idle_pages": pages });
        print_outcome(
            self.json,
            &value,
            format!("{pages} pages are marked idle\n"),
        )
    }
}
