//! `uzram compact`: moves a device's objects together and gives memory back, while the device serves.
//!
//! The server compacts a slice for each request, so that its other callers get their turn in between, and the whole ends
//! with this program.

use uzram::CompactReport;
use uzram_control::size::human;
use uzram_control::{Request, Response};

use super::{ask, jobs, print_outcome, unexpected};
use crate::exit::Result;
use uzram_runtime::{client, sweep};

/// Bytes that are asked for at a time.
const SLICE_BYTES: u64 = 32 << 20;
const PAGE: u64 = 4096;

/// Give back the memory between a device's objects
///
/// Overwrites and scattered deletions leave memory that is partly used. This moves objects together and gives back the
/// pages that become free, until nothing more is to be gained. The device serves as always meanwhile; to interrupt it does
/// no harm. Of a backing in a remote, sparse objects are written together, too, and deleted.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram compact zram0
  uzram compact zram0 --json")]
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
        let entry = sweep::swept_run_dir()?.find(&self.name)?;
        // Who writes meanwhile makes new work: once over all objects is enough.
        let enough = client::stat(&entry)?.counters.compr_data_size_bytes;
        if self.detach {
            let max_bytes = enough.max(1);
            return jobs::detach(&self.name, &Request::Compact { max_bytes }, self.json);
        }
        let mut sum = CompactReport::default();
        while !sum.finished && sum.bytes_moved <= enough {
            let max_bytes = SLICE_BYTES;
            let slice = match ask(&entry, &Request::Compact { max_bytes })? {
                Response::Compacted(slice) => slice,
                other => return Err(unexpected(&entry, &other)),
            };
            sum.objects_moved += slice.objects_moved;
            sum.bytes_moved += slice.bytes_moved;
            sum.pages_freed += slice.pages_freed;
            sum.finished = slice.finished;
        }
        let used = client::stat(&entry)?.counters.mem_used_total_bytes;
        let value = serde_json::json!({
            "objects_moved": sum.objects_moved,
            "bytes_moved": sum.bytes_moved,
            "pages_freed": sum.pages_freed,
            "bytes_freed": sum.pages_freed * PAGE,
            "mem_used_total": used,
        });
        let words = format!(
            "{} given back, {} in use; {} objects moved ({})\n",
            human(sum.pages_freed * PAGE),
            human(used),
            sum.objects_moved,
            human(sum.bytes_moved),
        );
        print_outcome(self.json, &value, words)
    }
}
