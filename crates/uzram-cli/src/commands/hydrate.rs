//! `uzram hydrate`: brings all of a clone.

use std::io::IsTerminal;

use uzram_control::size::human;
use uzram_control::{Request, Response};

use super::{job, jobs, print_outcome};
use crate::exit::{Failure, Result};

/// Bring all of a clone that is still in its snapshot
///
/// What requests wait for comes first. Requests go on meanwhile, and so does what is brought if this command is interrupted. When
/// all of it is here, the snapshot is not needed any more.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram hydrate zram0
  uzram hydrate zram0 --detach")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
    /// Return at once, and let the device go on by itself: "uzram jobs" shows how far it is, and ends it
    #[arg(long)]
    detach: bool,
    /// Print JSON
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        if self.detach {
            return jobs::detach(&self.name, &Request::Hydrate, self.json);
        }
        let bytes = |pages: u64| human(pages * uzram::PAGE_SIZE as u64);
        let shows = std::io::stderr().is_terminal() && !self.json;
        let (mut pages, mut idle) = (0, 0);
        loop {
            let report = job!(&self.name, &Request::Hydrate, Response::Hydrated(report) => report);
            pages += report.pages;
            if report.left == 0 {
                break;
            }
            if shows {
                eprint!("\r{} here, {} to come  ", bytes(pages), bytes(report.left));
            }
            // Others may have been at it.
            idle = if report.pages == 0 { idle + 1 } else { 0 };
            if idle > 100 {
                let message = format!("{} of {} do not come", bytes(report.left), self.name);
                return Err(Failure::failed(message));
            }
        }
        if shows {
            eprint!("\r");
        }
        let value = serde_json::json!({ "pages": pages, "left": 0 });
        let words = match pages {
            0 => "all of it is here already\n".into(),
            _ => format!(
                "{pages} pages were brought: {}; all of it is here\n",
                bytes(pages)
            ),
        };
        print_outcome(self.json, &value, words)
    }
}
