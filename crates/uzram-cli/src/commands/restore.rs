//! `uzram restore`: makes a device of a snapshot. It is `uzram create --from` by another name.

use std::path::PathBuf;

use super::create::{CloneOptions, Options};
use crate::exit::Result;

/// Make a device of a snapshot and print its path
///
/// Reads what "uzram snapshot" wrote, and makes a new device that holds it, by any frontend. What is stored goes into memory as
/// it is: nothing is compressed anew. Size, block size, algorithms and dictionaries are those of the device that the
/// snapshot was taken of, unless others are given; all else is as of "uzram create". What was compressed with another
/// algorithm than the new one stays so until it is written again.
///
/// Everything that is read is compared with its checksum. The device is there, with all that the snapshot holds, or not
/// at all: a file that is damaged, cut off or too much for --mem-limit leaves nothing behind, and neither does an interrupt.
///
/// A snapshot that was made since another one needs that, too: its file is given with --parent, and so on to the first,
/// which is complete. From a pipe, parents are still files.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram restore zram0.uzsnap
  uzram restore ci/warm --frontend nbd --listen unix:/run/warm.sock
  uzram restore monday.uzsnap --parent sunday.uzsnap --mem-limit 4G
  uzram restore zram0.uzsnap --size 16G --algorithm 'zstd(level=1)' --frontend nbd
  ssh host uzram snapshot zram0 - | uzram restore -")]
pub(crate) struct Args {
    /// File that holds the snapshot, NAME/TAG of a remote, or - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    options: Options,
}

impl Args {
    pub(crate) fn run(self, log: &str) -> Result {
        self.options
            .make(Some(self.file), CloneOptions::default(), log)
    }
}
